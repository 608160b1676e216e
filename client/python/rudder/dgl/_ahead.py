"""`ahead`: the minibatches of DGL's distributed loaders, sampled a little before they are used.

It owns what stands between a loader and the training's loop: the minibatches that wait, their announcements and the fetch in
flight. It must never change a minibatch, nor the order in which the loader gives them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Union

import dgl  # type: ignore[import-not-found, unused-ignore]
import torch  # type: ignore[import-not-found, unused-ignore]

from .._ahead import Clock, Prefetcher
from ._tensor import DistTensor, proxies_of

__all__ = ["Ahead", "ahead"]

#: What a minibatch will read of one tensor: the ids of one reading, or of several.
Wanted = Union[torch.Tensor, Sequence[torch.Tensor]]

_END = object()


def _steps_of(loader: Any) -> int | None:
    """Minibatches of an epoch, where the loader knows."""
    steps = getattr(loader, "expected_idxs", None)
    if steps is None and hasattr(loader, "__len__"):
        steps = len(loader)
    return None if steps is None else int(steps)


def _of_type(ids: Any, kind: str) -> torch.Tensor | None:
    """The ids of one vertex type among the input nodes of a minibatch."""
    return ids.get(kind) if isinstance(ids, Mapping) else ids


def _edges_of(blocks: Any, kind: str) -> list[torch.Tensor]:
    """The ids of the edges of one type, block by block."""
    found = []
    for block in blocks:
        kinds = block.canonical_etypes
        if len(kinds) == 1:
            found.append(block.edata[dgl.EID])
        else:
            found.append(block.edges[tuple(kind.split(":"))].data[dgl.EID])
    return found


def wants_of(batch: Any, tensors: Sequence[DistTensor]) -> dict[str, Wanted]:
    """What a minibatch ``(input_nodes, ..., blocks)`` reads of each tensor: vertices once, edges once for each block."""
    is_known = isinstance(batch, (tuple, list)) and len(batch) > 1 and isinstance(batch[-1], (list, tuple))
    if not is_known or not isinstance(batch[0], (torch.Tensor, Mapping)):
        raise TypeError(
            f"a minibatch of type {type(batch).__name__} is not (input_nodes, ..., blocks): say what it reads with "
            "ahead(..., wants=lambda batch: {'feat': ids})"
        )
    wanted: dict[str, Wanted] = {}
    for tensor in tensors:
        if tensor.is_of_edges:
            wanted[tensor.table] = _edges_of(batch[-1], tensor.type_name)
        else:
            ids = _of_type(batch[0], tensor.type_name)
            if ids is not None:
                wanted[tensor.table] = ids
    return wanted


class Ahead:
    """The minibatches of a loader, as the loader gives them; :func:`ahead` makes one."""

    def __init__(
        self,
        loader: Any,
        tensors: Sequence[DistTensor],
        wants: Callable[[Any], Mapping[str, Wanted]] | None,
        horizon: int | None,
        overlap: int,
        progress: bool,
    ) -> None:
        self._loader = loader
        self._given = list(tensors)
        self._wants = wants
        self._horizon = horizon
        self._overlap = overlap
        self._progress = progress
        self._running: Iterator[Any] | None = None
        # Minibatches of the last whole epoch, for loaders that have no length.
        self._seen: int | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __len__(self) -> int:
        steps = _steps_of(self._loader)
        if steps is None:
            raise TypeError(f"the length of a {type(self._loader).__name__} is not known")
        return steps

    def __iter__(self) -> Ahead:
        if self._running is not None:
            # An epoch that was broken off gives up what it has in flight before the loader begins again.
            self._running.close()  # type: ignore[attr-defined]
        self._running = self._epoch()
        return self

    def __next__(self) -> Any:
        if self._running is None:
            self.__iter__()
        assert self._running is not None
        return next(self._running)

    def _tensors(self) -> dict[str, DistTensor]:
        tensors = self._given
        if not tensors:
            graph = getattr(getattr(self._loader, "collator", None), "g", None)
            tensors = [] if graph is None else proxies_of(graph)
        if not tensors:
            raise ValueError(
                "no tensor of Rudder to fetch for: put a rudder.dgl.DistTensor into the graph before, or give it to ahead()"
            )
        clients = {id(tensor.client) for tensor in tensors}
        if len(clients) > 1:
            raise ValueError("the tensors have several clients: give all of them the same client=")
        return {tensor.table: tensor for tensor in tensors}

    def _epoch(self) -> Iterator[Any]:
        """One epoch; what waits is given up when it is closed.

        An exception of the loader or of ``wants`` comes out at its place, after the minibatches before it.
        """
        tensors = self._tensors()
        client = next(iter(tensors.values())).client
        steps = _steps_of(self._loader)
        steps = self._seen if steps is None else steps
        wants = self._wants or partial(wants_of, tensors=list(tensors.values()))
        _drain(self._loader)
        batches = iter(self._loader)
        clock = Clock(client, steps) if self._progress else None
        most = _most_waiting(self._loader, steps)
        failure: Exception | None = None
        used = 0
        written: deque[dict[str, int]] = deque(maxlen=self._overlap + 1)
        try:
            with Prefetcher(client, horizon=self._horizon, overlap=self._overlap, learns=self._progress) as waiting:
                while True:
                    while batches is not None and waiting.hungry() and len(waiting) <= most + self._overlap:
                        try:
                            batch = next(batches, _END)
                            split = None if batch is _END else _split(batch, _known(wants(batch), tensors))
                        except Exception as error:
                            split, failure = None, error
                        if split is None:
                            batches = None
                        else:
                            waiting.push(*split)
                    if not len(waiting):
                        if failure is not None:
                            raise failure
                        self._seen = used
                        return
                    used += 1
                    if clock is not None:
                        clock.tick()
                    written.append({table: tensor.writes for table, tensor in tensors.items()})
                    (batch, parts), rows = waiting.pop()
                    for table, ids in parts.items():
                        # Rows that were sent for before a write are fetched again when they are read.
                        if written[0][table] == tensors[table].writes:
                            _offer(tensors[table], ids, rows[table])
                    yield batch
        finally:
            for tensor in tensors.values():
                tensor.forget()


def _known(wanted: Mapping[str, Wanted], tensors: Mapping[str, DistTensor]) -> Mapping[str, Wanted]:
    """What a minibatch will read, unless that names a table without a tensor to hand its rows to."""
    for table in wanted:
        if table not in tensors:
            raise ValueError(f"wants names table {table!r}, and ahead() has no tensor of it: give it one, ahead(loader, tensor)")
    return wanted


def _most_waiting(loader: Any, steps: int | None) -> int:
    """Minibatches that may wait.

    Sampler processes have some ready anyway. Without them, the training's own process samples all that waits before the first
    step of an epoch, so that is half of an epoch at most.
    """
    if steps is None or getattr(loader, "pool", None) is not None:
        return 1 << 30
    return max(1, steps // 2)


def _drain(loader: Any) -> None:
    """Take what sampler processes still owe of an epoch that was broken off: DGL would hand it out in the next one."""
    while getattr(loader, "pool", None) is not None and loader.num_pending > 0:
        loader._get_data_from_result_queue()
        loader.num_pending -= 1


def _split(batch: Any, wanted: Mapping[str, Wanted]) -> tuple[dict[str, torch.Tensor], Any]:
    """The ids of each table for one fetch, and the minibatch with the ids of each reading."""
    parts = {}
    for table, ids in wanted.items():
        readings = [torch.as_tensor(ids)] if isinstance(ids, torch.Tensor) else [torch.as_tensor(one) for one in ids]
        if sum(map(len, readings)) > 0:
            parts[table] = readings
    fetched = {table: readings[0] if len(readings) == 1 else torch.cat(readings) for table, readings in parts.items()}
    return fetched, (batch, parts)


def _offer(tensor: DistTensor, parts: list[torch.Tensor], rows: torch.Tensor) -> None:
    """Give a tensor the rows of each reading."""
    tensor.forget()
    begin = 0
    for ids in parts:
        end = begin + len(ids)
        tensor.offer(ids, rows if len(parts) == 1 else rows[begin:end])
        begin = end


def ahead(
    loader: Any,
    *tensors: DistTensor,
    wants: Callable[[Any], Mapping[str, Wanted]] | None = None,
    horizon: int | None = None,
    overlap: int = 1,
    progress: bool = True,
) -> Ahead:
    """Have the daemon know the coming minibatches of a loader, and fetch the next one while this one trains.

    The training's loop stays as it is: what it reads of ``g.ndata["feat"]`` by the ids of the minibatch is there already. All
    other ids are fetched when they are read, as without this. The epochs and steps are reported, too (:meth:`Client.progress`).

    Without sampler processes, up to half of an epoch's minibatches are sampled before its first step. With them, DGL samples
    four minibatches per process ahead by itself.

    Parameters
    ----------
    loader : DistNodeDataLoader, DistEdgeDataLoader or DistDataLoader
        Or another iterable of minibatches ``(input_nodes, ..., blocks)``.
    *tensors : DistTensor
        What to fetch; by default all tensors of Rudder that the loader's graph has.
    wants : callable, optional
        What a minibatch will read: ``wants(batch)`` gives ids, or a list of ids for each reading, by name of table. By default
        the input nodes of a tensor of vertices, and the edges of each block of a tensor of edges.
    horizon : int, optional
        Minibatches to announce ahead; by default what the daemon asks for. 0 announces nothing.
    overlap : int
        Minibatches whose fetch is in flight while one trains.
    progress : bool
        ``False`` for an evaluation: no epoch is counted, and the cache learns nothing.

    Returns
    -------
    Ahead
        An iterable with the loader's attributes and length.

    Raises
    ------
    ValueError
        While iterating: if there is no tensor, or the tensors have several clients.
    TypeError
        While iterating: if ``wants`` is needed and missing.

    Examples
    --------
    >>> for input_nodes, seeds, blocks in rudder.dgl.ahead(loader):     # doctest: +SKIP
    ...     x = g.ndata["feat"][input_nodes]
    """
    for tensor in tensors:
        if not isinstance(tensor, DistTensor):
            raise TypeError(f"{tensor!r} is not a rudder.dgl.DistTensor")
    return Ahead(loader, tensors, wants, horizon, overlap, progress)
