"""How far the loaders of a client have come. Loaders share it, so that each counts on where the one before it ended."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["Course"]


class Course:
    """How far the loaders of one client have come: where the next one counts on.

    Attributes
    ----------
    epoch : int
        The epoch with which the next loader begins.
    steps : dict of str to int
        By table, the step of the next announcement.
    refusals : int
        Announcements that the daemon has said it had no room for.
    has_fetched : bool
        Whether rows have come, and with them the number of minibatches that the daemon would like announced ahead.
    """

    __slots__ = ("_pid", "epoch", "has_fetched", "refusals", "steps")

    def __init__(self, is_joined: bool = False) -> None:
        self.epoch = 0
        self.steps: dict[str, int] = {}
        self.refusals = 0
        self.has_fetched = False
        self._pid = None if is_joined else os.getpid()

    def next_step(self, tables: Iterable[str]) -> int | None:
        """Take the number of an announcement that names these tables.

        The daemon takes a step that does not grow for a new training, and drops what was announced before. So processes that
        have joined a trainer (forked, or with an unpickled client) give no numbers: they do not know each other's.
        """
        if self._pid != os.getpid():
            return None
        step = max((self.steps.get(table, 0) for table in tables), default=0)
        self.steps.update((table, step + 1) for table in tables)
        return step

    def begin_again(self, tables: Iterable[str]) -> None:
        """What was announced for these tables is not fetched: the next announcement is the first of a new training."""
        self.steps.update((table, 0) for table in tables)

    def announced(self, table: str, step: int) -> None:
        """Note that an announcement had the number ``step`` of its caller."""
        self.steps[table] = max(self.steps.get(table, 0), step + 1)
