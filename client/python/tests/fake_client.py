"""A client without a daemon: it notes every call, and rows are what the test can tell apart."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

import rudder
from rudder._course import Course


class Rows:
    """Rows of a fetch; a fake client knows how many of them are alive."""

    def __init__(self, table: str, ids: np.ndarray) -> None:
        self.table, self.ids = table, ids.copy()


class Batch:
    """A minibatch that was announced, in the form in which it was."""

    def __init__(self, of: Any, ids: Any) -> None:
        self.of, self.ids = of, ids


class Pending:
    """A fetch in flight, whose rows are there at once."""

    def __init__(self, client: FakeClient, first: int, rows: Any) -> None:
        self.client, self.first, self.rows = client, first, rows

    def wait(self) -> Any:
        self.client.calls.append(("wait", self.first))
        error = self.client.failing.pop(self.first, None)
        if error is not None:
            raise error
        return self.rows


class FakeClient:
    """What :class:`rudder._prefetcher.Prefetcher` and :class:`rudder.Ahead` need of a client.

    Attributes
    ----------
    calls : list of tuple
        ``(call, first id)`` of each call, ``("progress", epoch, step, steps)`` of those.
    asked : int
        Minibatches that it would like announced ahead.
    unheard, failing : dict of int to Exception
        By the first id: what announcing, or waiting for rows, raises. Each is raised once.
    no_room : set of int
        First ids of announcements that the daemon refuses, which it says at the next fetch.
    named : int
        Fetches that named an announced minibatch.
    """

    def __init__(self, asked: int = 3) -> None:
        self._course = Course()
        # Of a training that is under way.
        self._course.has_fetched = True
        self.calls: list[tuple[Any, ...]] = []
        self.asked = asked
        self.unheard: dict[int, Exception] = {}
        self.failing: dict[int, Exception] = {}
        self.no_room: set[int] = set()
        self.refused = 0
        self.named = 0
        self.steps: list[int | None] = []
        self.alive: weakref.WeakSet[Rows] = weakref.WeakSet()
        self.alive_max = 0
        self.is_paused = False
        self.paused_calls = 0

    def counts(self) -> Counter[str]:
        """How often each call was made."""
        return Counter(call[0] for call in self.calls)

    def announce(self, of: Any, ids: Any = None, step: int | None = None) -> Batch:
        first = _first(of, ids)
        error = self.unheard.pop(first, None)
        self.calls.append(("announce" if error is None else "fail", first))
        if error is not None:
            raise error
        self.refused += first in self.no_room
        self.steps.append(step)
        return Batch(of, ids)

    def horizon(self, table: str) -> int:
        return self.asked

    def fetch(self, of: Any, ids: Any = None) -> Any:
        self.calls.append(("fetch", self._first(of, ids)))
        return self._rows(of, ids)

    def fetch_async(self, of: Any, ids: Any = None) -> Pending:
        first = self._first(of, ids)
        self.calls.append(("send", first))
        return Pending(self, first, self._rows(of, ids))

    def progress(self, epoch: int, step: int, steps_per_epoch: int) -> None:
        self.calls.append(("progress", epoch, step, steps_per_epoch))

    def paused(self) -> FakeClient:
        return self

    def __enter__(self) -> None:
        self.is_paused = True

    def __exit__(self, *error: object) -> None:
        self.is_paused = False

    def _first(self, of: Any, ids: Any) -> int:
        return _first(of.of, of.ids) if isinstance(of, Batch) else _first(of, ids)

    def _rows(self, of: Any, ids: Any) -> Any:
        self._course.refusals, self.refused = self._course.refusals + self.refused, 0
        self.paused_calls += self.is_paused
        if isinstance(of, Batch):
            self.named += 1
            of, ids = of.of, of.ids
        if _first(of, ids) == -1:
            raise rudder.IdOutOfRangeError("id -1")
        rows = {table: Rows(table, np.asarray(own)) for table, own in (of if isinstance(of, Mapping) else {of: ids}).items()}
        self.alive.update(rows.values())
        self.alive_max = max(self.alive_max, len(self.alive))
        return rows if isinstance(of, Mapping) else rows[of]


def _first(of: Any, ids: Any) -> int:
    """The first id of a call; -2 where nothing is asked for."""
    parts = list(of.values()) if isinstance(of, Mapping) else [ids]
    return int(parts[0][0]) if parts else -2
