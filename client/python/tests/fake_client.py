"""A client without a daemon: it notes every call, and rows are what the test can tell apart."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import numpy as np

import rudder
from rudder._client import Course


class Rows:
    """Rows of a fetch; a fake client knows how many of them are alive."""

    def __init__(self, table: str, ids: np.ndarray) -> None:
        self.table, self.ids = table, ids.copy()


class FakePending:
    """A fetch in flight, whose rows are there at once."""

    def __init__(self, client: FakeClient, rows: Rows, error: Exception | None) -> None:
        self.client, self.rows, self.error = client, rows, error

    def wait(self) -> Rows:
        self.client.note("wait", self.rows.table, self.rows.ids)
        if self.error is not None:
            raise self.error
        return self.rows


class FakeClient:
    """What :class:`rudder._prefetcher.Prefetcher` and :class:`rudder.Ahead` need of a client.

    Attributes
    ----------
    calls : list of tuple
        ``(call, table, first id)`` of each call, ``("progress", epoch, step, steps)`` of those.
    asked : int
        Minibatches that it would like announced ahead.
    refused, failing : dict of int to Exception
        By the first id: what announcing, or a fetch that is sent, raises. Each is raised once.
    """

    def __init__(self, asked: int = 3) -> None:
        self._course = Course()
        self.calls: list[tuple[Any, ...]] = []
        self.asked = asked
        self.refused: dict[int, Exception] = {}
        self.failing: dict[int, Exception] = {}
        self.steps: list[int | None] = []
        self.alive: weakref.WeakSet[Rows] = weakref.WeakSet()
        self.alive_max = 0
        self.is_paused = False
        self.paused_calls = 0

    def note(self, call: str, table: str, ids: np.ndarray) -> None:
        self.calls.append((call, table, int(ids[0])))

    def counts(self) -> Counter[str]:
        """How often each call was made."""
        return Counter(call[0] for call in self.calls)

    def announce(self, table: str, ids: Any, step: int | None = None) -> int:
        refusal = self.refused.pop(int(ids[0]), None)
        self.note("announce" if refusal is None else "refuse", table, ids)
        if refusal is not None:
            raise refusal
        self.steps.append(step)
        return self.asked

    def fetch(self, table: str, ids: Any) -> Rows:
        self.note("fetch", table, ids)
        return self._rows(table, ids)

    def fetch_async(self, table: str, ids: Any) -> FakePending:
        self.note("send", table, ids)
        return FakePending(self, self._rows(table, ids), self.failing.pop(int(ids[0]), None))

    def progress(self, epoch: int, step: int, steps_per_epoch: int) -> None:
        self.calls.append(("progress", epoch, step, steps_per_epoch))

    def paused(self) -> FakeClient:
        return self

    def __enter__(self) -> None:
        self.is_paused = True

    def __exit__(self, *error: object) -> None:
        self.is_paused = False

    def _rows(self, table: str, ids: Any) -> Rows:
        self.paused_calls += self.is_paused
        if int(ids[0]) < 0:
            raise rudder.IdOutOfRangeError("id -1")
        rows = Rows(table, np.asarray(ids))
        self.alive.add(rows)
        self.alive_max = max(self.alive_max, len(self.alive))
        return rows
