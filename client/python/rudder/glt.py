"""GLT (graphlearn-torch): rows of sampled subgraphs out of Rudder, in the trainer or in the sampler.

>>> import rudder.glt                                                                    # doctest: +SKIP
>>> loader = glt.distributed.DistNeighborLoader(data, [10, 5], seeds, collect_features=False)   # doctest: +SKIP
>>> for batch in rudder.glt.ahead(loader, nodes="feat"):                                 # doctest: +SKIP
...     train(batch.x, batch.edge_index)

It owns the way from GLT's batches to tables, and a face like GLT's ``DistFeature``. It must never touch the sampling. It
imports nothing of GLT, so GiGL's loaders, which give batches of the same form, work as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ._ahead import Ahead
from ._client import Client
from ._connect import default_client
from ._tables import table_of

__all__ = ["DistFeature", "ahead"]

#: Threads of a ``DistFeature`` that wait for rows: one sampler has as many lookups in flight at most.
_WAITERS = 4


def ahead(
    loader: Any,
    nodes: str | Mapping[str, str] | None = None,
    edges: str | Mapping[tuple[str, str, str], str] | None = None,
    client: Client | None = None,
    **options: Any,
) -> Ahead[Any]:
    """Batches of a loader with their rows: announced when they are sampled, fetched in this process.

    Build the loader with ``collect_features=False``. Its sampling workers run ahead as far as their channel holds.

    Parameters
    ----------
    loader : graphlearn_torch.distributed.DistNeighborLoader
        Or another that gives PyG's ``Data`` or ``HeteroData`` with the ids of vertices as ``node`` and those of edges as ``edge``.
    nodes : str or mapping of node type to str
        The table whose rows become ``x``.
    edges : str or mapping of edge type to str
        The table whose rows become ``edge_attr``; types as the batch names them. The loader needs ``with_edge=True``.
    client : Client, optional
        By default the one that all loaders of the process share.
    **options
        As :class:`rudder.Ahead`: ``horizon``, ``overlap``, ``progress``, ``steps_per_epoch``.

    Returns
    -------
    Ahead
        Iterate it as the loader.

    Raises
    ------
    ValueError
        If neither ``nodes`` nor ``edges`` is given; while batches come, if ``edges`` is given and they have no ids of edges.
    UnknownTableError
        If there is no such table; the message names the nearest.
    """
    if nodes is None and edges is None:
        raise ValueError("give nodes or edges: the tables whose rows the batches need")
    client = default_client() if client is None else client
    places = _Places(nodes, edges)
    for table in places.tables():
        table_of(client.tables(), table)
    return Ahead(_Epochs(loader), places.wants, places.put, client=client, **options)


class DistFeature:
    """GLT's ``DistFeature`` with rows out of Rudder, for samplers that collect features.

    A sampler that was made takes it as its ``dist_node_feature`` or ``dist_edge_feature``.

    Parameters
    ----------
    tables : str or mapping of type to str
        The table, or that of each vertex or edge type.
    client : Client, optional
        By default the one that all loaders of the process share.

    Raises
    ------
    UnknownTableError
        If there is no such table; the message names the nearest.
    """

    def __init__(self, tables: str | Mapping[Any, str], client: Client | None = None) -> None:
        self._client = default_client() if client is None else client
        self._tables = tables
        for table in [tables] if isinstance(tables, str) else tables.values():
            table_of(self._client.tables(), table)
        self._waiters: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_waiters": None}

    def async_get(self, ids: torch.Tensor, input_type: Any = None) -> torch.futures.Future:
        """Look rows up, and return at once.

        Parameters
        ----------
        ids : torch.Tensor
            Of vertices or edges, any order.
        input_type : str or (str, str, str), optional
            Their type, where the graph has several.

        Returns
        -------
        torch.futures.Future
            Of the rows, on the device of ``ids``.
        """
        pending = self._client.fetch_async(self._table(input_type), ids, device=ids.device if ids.is_cuda else None)
        # With the device, whoever waits for the future has its own stream wait for the copy, and not only a waiter's.
        future: torch.futures.Future = torch.futures.Future(devices=[ids.device] if ids.is_cuda else None)

        def finish() -> None:
            try:
                rows = pending.wait()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(rows)

        self._executor().submit(finish)
        return future

    def _executor(self) -> ThreadPoolExecutor:
        """The waiters of this process: threads do not live on in a forked sampler."""
        if self._waiters is None or self._waiters[0] != os.getpid():
            self._waiters = os.getpid(), ThreadPoolExecutor(_WAITERS, thread_name_prefix="rudder-glt")
        return self._waiters[1]

    def __getitem__(self, key: Any) -> torch.Tensor:
        input_type, ids = key if isinstance(key, tuple) else (None, key)
        rows: torch.Tensor = self.async_get(ids, input_type).wait()
        return rows

    def _table(self, input_type: Any) -> str:
        if isinstance(self._tables, str):
            return self._tables
        table = self._tables.get(input_type)
        if table is None:
            raise KeyError(f"no table for type {input_type!r}; there are tables for {', '.join(map(repr, self._tables))}")
        return table


class _Epochs:
    """A loader that is its own iterator and begins again with ``iter()``: as one that can be iterated again."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)


class _Places:
    """Which part of a batch needs which table, and where its rows go."""

    def __init__(self, nodes: Any, edges: Any) -> None:
        self._sides = [(ids, rows, tables) for ids, rows, tables in (("node", "x", nodes), ("edge", "edge_attr", edges)) if tables]

    def tables(self) -> list[str]:
        """All tables that are named."""
        return [table for _, _, of in self._sides for table in ([of] if isinstance(of, str) else of.values())]

    def wants(self, batch: Any) -> dict[str, torch.Tensor]:
        """Ids by table; those of several types that share a table one behind the other."""
        lists: dict[str, list[torch.Tensor]] = {}
        for _, known, _, table in self._parts(batch):
            lists.setdefault(table, []).append(known.cpu())
        return {table: ids[0] if len(ids) == 1 else torch.cat(ids) for table, ids in lists.items()}

    def put(self, batch: Any, rows: Mapping[str, torch.Tensor]) -> None:
        """Fill the batch."""
        at = dict.fromkeys(rows, 0)
        for store, known, name, table in self._parts(batch):
            begin, at[table] = at[table], at[table] + len(known)
            setattr(store, name, rows[table][begin : at[table]].to(known.device))

    def _parts(self, batch: Any) -> Iterator[tuple[Any, torch.Tensor, str, str]]:
        """Each part of a batch that rows are put into: the part, its ids, the name of its rows, and the table."""
        for ids, rows, tables in self._sides:
            if isinstance(tables, str):
                stores = [(batch, tables)]
            else:
                # A type that nothing was sampled of may be absent, and to ask for its store would make one.
                present = batch.node_types if ids == "node" else batch.edge_types
                stores = [(batch[of_type], table) for of_type, table in tables.items() if of_type in present]
            for store, table in stores:
                known = getattr(store, ids, None)
                if known is not None:
                    yield store, known, rows, table
                elif ids == "edge" and getattr(store, "edge_index", torch.empty(0)).numel() > 0:
                    raise ValueError("the batches have no edge ids: build the loader with with_edge=True")
