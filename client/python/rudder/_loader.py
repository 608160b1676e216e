"""A loader that announces: minibatches come out with their rows, and those that follow are known to the daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from ._client import Client, connect

__all__ = ["Loader"]

Batch = TypeVar("Batch")


def _itself(batch: Any) -> Any:
    return batch


class Loader(Generic[Batch]):
    """Wraps an iterable of minibatches: announces ahead, reports progress, and yields each with its rows.

    Iterating takes the iterable again for every epoch, and the announcements run on from one epoch into the next.

    Parameters
    ----------
    iterable : iterable
        Minibatches of one epoch, for instance a sampler or a ``DataLoader``. Taken anew each epoch.
    table : str
        Table whose rows are fetched.
    client : Client, optional
        By default :func:`connect` makes one.
    ids : callable, optional
        The ids of a minibatch; by default the minibatch is its ids.
    epochs : int
        Epochs to yield.
    steps_per_epoch : int, optional
        By default ``len(iterable)``. Without either, progress is not reported.
    horizon : int, optional
        Minibatches to announce ahead; by default as many as the daemon asks for, and 0 announces nothing. Minibatches
        that are announced are held by the loader.

    Yields
    ------
    batch, rows
        The minibatch as the iterable gave it, and its rows as :meth:`Client.fetch` gives them.

    Examples
    --------
    >>> for batch, x in rudder.Loader(sampler, "feat", ids=lambda b: b.n_id, epochs=10):  # doctest: +SKIP
    ...     train(batch, x)
    """

    def __init__(
        self,
        iterable: Iterable[Batch],
        table: str,
        *,
        client: Client | None = None,
        ids: Callable[[Batch], Any] = _itself,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        horizon: int | None = None,
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs is {epochs}: it must be at least 1")
        if horizon is not None and horizon < 0:
            raise ValueError(f"horizon is {horizon}: it must not be negative")
        if steps_per_epoch is None and hasattr(iterable, "__len__"):
            steps_per_epoch = len(iterable)
        self._iterable = iterable
        self._table = table
        self._client = connect() if client is None else client
        self._ids = ids
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._horizon = horizon

    def __len__(self) -> int:
        if self._steps_per_epoch is None:
            raise TypeError("the length is not known: give steps_per_epoch")
        return self._epochs * self._steps_per_epoch

    def _batches(self) -> Iterator[tuple[int, int, Batch]]:
        """Every minibatch of every epoch, with its epoch and step."""
        for epoch in range(self._epochs):
            for step, batch in enumerate(self._iterable):
                yield epoch, step, batch

    def __iter__(self) -> Iterator[tuple[Batch, Any]]:
        batches = self._batches()
        waiting: deque[tuple[int, int, Batch, Any]] = deque()
        asked = 1 if self._horizon is None else self._horizon
        announced = 0
        ended = False
        while True:
            # The minibatch that is fetched next is not ahead of itself.
            while not ended and len(waiting) <= asked:
                try:
                    epoch, step, batch = next(batches)
                except StopIteration:
                    ended = True
                    break
                ids = self._ids(batch)
                if asked > 0:
                    wished = self._client.announce(self._table, ids, announced)
                    asked = wished if self._horizon is None else asked
                announced += 1
                waiting.append((epoch, step, batch, ids))
            if not waiting:
                return
            epoch, step, batch, ids = waiting.popleft()
            if self._steps_per_epoch:
                self._client.progress(epoch, min(step, self._steps_per_epoch), self._steps_per_epoch)
            yield batch, self._client.fetch(self._table, ids)
