"""Loaders that know what comes: a minibatch comes out with its rows, and the daemon knows those that follow.

:class:`Clock` numbers epochs and reports progress.
"""

from __future__ import annotations

import contextlib

from ._client import Client
from ._prefetcher import Prefetcher
from .errors import RudderError

__all__ = ["Clock", "Prefetcher"]


class Clock:
    """Numbers one epoch and reports its steps.

    Parameters
    ----------
    client : Client
        Whose epochs it counts: all loaders of a client count together.
    steps_per_epoch : int, optional
        Without it the epoch is counted, and its steps are not reported.
    """

    def __init__(self, client: Client, steps_per_epoch: int | None) -> None:
        self._client = client
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self.epoch: int | None = None

    def tick(self) -> None:
        """Say that the next minibatch of the epoch is about to be used. The first call takes the epoch's number."""
        course = self._client._course
        if self.epoch is None:
            self.epoch = course.epoch
            course.epoch += 1
        if self._steps_per_epoch:
            # The fetch tells what is wrong with the connection.
            with contextlib.suppress(RudderError):
                self._client.progress(self.epoch, min(self._step, self._steps_per_epoch), self._steps_per_epoch)
        self._step += 1
