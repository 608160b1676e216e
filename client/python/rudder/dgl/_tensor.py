"""`DistTensor`: rows of a table of Rudder where DGL expects one of its own distributed tensors.

It owns what DGL asks of such a tensor (shape, type, partition policy, keys) and the rows that :func:`rudder.dgl.ahead` has
in flight for it. It must never fetch a row unless one is asked for by its id, and never need the other trainers: making one
is not collective.
"""

from __future__ import annotations

import contextlib
import copyreg
import os
import threading
from collections.abc import Callable
from typing import Any

import dgl  # type: ignore[import-not-found, unused-ignore]
import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]
from dgl.distributed.kvstore import get_kvstore  # type: ignore[import-not-found, unused-ignore]

from .._arrays import tensor_of
from .._client import Client
from .._connect import connect
from .._tables import TableInfo, table_of

__all__ = ["DistTensor", "default_client", "proxies_of"]

_clients: dict[str, Client] = {}
_clients_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().__setitem__("_clients_lock", threading.Lock()))


def default_client() -> Client:
    """The client that the tensors of this process share: of ``$RUDDER_SOCKET``, with the ids that DistDGL has.

    A new one if the last was closed.
    """
    socket = os.environ.get("RUDDER_SOCKET", "")
    with _clients_lock:
        client = _clients.get(socket)
        if client is None or client.closed:
            client = _clients[socket] = connect(ids="dataset")
        return client


def _policy_name(info: TableInfo) -> str:
    """The name that DGL's key-value store has for the partition of a table's type."""
    return ("node~" if info.edge_type is None else "edge~") + info.vertex_type


class DistTensor(dgl.distributed.DistTensor):  # type: ignore[misc, unused-ignore]
    """A table of Rudder in the place of one of DGL's distributed tensors.

    Put it where the graph has its features; everything that reads ``g.ndata["feat"]`` then reads it from the daemon of this
    node::

        g.ndata["feat"] = rudder.dgl.DistTensor("feat")
        g.nodes["paper"].data["feat"] = rudder.dgl.DistTensor("paper.feat")
        g.edges["author", "writes", "paper"].data["w"] = rudder.dgl.DistTensor("author:writes:paper.w")

    Ids are DistDGL's own, those of the vertex or edge type. Making one needs no other trainer, and DistDGL's servers need not
    have the feature (``rudder import distdgl --strip``). A graph that is sent to sampler processes takes it along.

    Parameters
    ----------
    table : str
        Name of the table: ``ATTR`` where vertices have no types, else ``TYPE.ATTR``; ``SOURCE:RELATION:TARGET.ATTR`` of edges.
    client : Client, optional
        By default the tensors of a process share one of ``$RUDDER_SOCKET``, made with ``ids="dataset"``. One of your own needs
        that, too, where the import renumbered vertices.

    Raises
    ------
    UnknownTableError
        If there is no such table; the message names the nearest.
    ValueError
        If the table is not of a type of the graph, or has other rows than the graph has vertices or edges of the type. If the
        client takes other ids than DistDGL's.
    RuntimeError
        If ``dgl.distributed.initialize`` or ``DistGraph`` was not called before.
    """

    def __init__(self, table: str, *, client: Client | None = None) -> None:
        self._rudder = default_client() if client is None else client
        info = table_of(self._rudder.tables(), table)
        if info.renumbered and self._rudder.ids != "dataset":
            raise ValueError(
                f"the client takes {self._rudder.ids} ids, which are others than DistDGL's in table {table!r}: give one of "
                'rudder.connect(ids="dataset")'
            )
        self.kvstore = get_kvstore()
        policies = {} if self.kvstore is None else self.kvstore.all_possible_part_policy
        if not policies:
            raise RuntimeError(
                "DGL knows no graph yet: call dgl.distributed.initialize and make the DistGraph before rudder.dgl.DistTensor"
            )
        policy = policies.get(_policy_name(info))
        if policy is None:
            raise ValueError(
                f"table {table!r} is of {info.vertex_type!r}, and the graph has {', '.join(sorted(policies))}: the daemon "
                "serves another graph"
            )
        if policy.get_size() != info.rows:
            raise ValueError(
                f"table {table!r} has {info.rows} rows, and the graph {policy.get_size()} of {info.vertex_type!r}: the "
                "daemon serves another partition than DistDGL"
            )
        self.table = table
        self.type_name = info.vertex_type
        self._shape = (info.rows, *info.shape)
        self._dtype = tensor_of(np.empty(0, info.numpy_dtype), info.dtype).dtype
        self._part_policy = policy
        self._tensor_name = info.attr
        self._name = str(policy.get_data_name(info.attr))
        self._attach = self._persistent = self._owner = False
        self._is_gdata = True
        self._offers: list[_Offer] = []
        #: Writes of this process so far: rows that were fetched before the last one may be old.
        self.writes = 0
        # DGL's sparse optimizers ask the store who owns a row of a tensor.
        self.kvstore._part_policy.setdefault(self._name, policy)

    def __del__(self) -> None:
        """Nothing: DGL's own tensor is removed from its servers here, and this one was never there."""

    def __reduce__(self) -> tuple[Callable[..., DistTensor], tuple[str, Client]]:
        return _again, (self.table, self._rudder)

    def __repr__(self) -> str:
        return f"rudder.dgl.DistTensor({self.table!r}, shape={self._shape}, dtype={self._dtype})"

    @property
    def client(self) -> Client:
        """The client that fetches."""
        return self._rudder

    @property
    def is_of_edges(self) -> bool:
        """Whether ids are those of edges."""
        return not self._part_policy.is_node

    @property
    def local_partition(self) -> Any:
        """Not there: the rows of this node are the daemon's."""
        raise NotImplementedError(f"{self!r} has no local partition: read rows by their ids")

    def count_nonzero(self) -> int:
        """Not there: DGL asks this of masks."""
        raise NotImplementedError(f"{self!r} cannot be counted: leave masks to DistDGL's own tensors (--keep)")

    def __or__(self, other: Any) -> Any:
        raise NotImplementedError(f"{self!r} cannot be joined: leave masks to DistDGL's own tensors (--keep)")

    def __getitem__(self, idx: Any) -> torch.Tensor:
        """Rows by their ids.

        Parameters
        ----------
        idx : torch.Tensor, array_like of int, int or slice
            Ids of the vertex or edge type, in any order, duplicates allowed; a mask of ``bool`` stands for the ids where it is
            true.

        Returns
        -------
        torch.Tensor
            On the CPU, in the order of the ids; the caller's own.
        """
        ids = self._ids(idx)
        for at, offer in enumerate(self._offers):
            if offer.is_of(ids):
                del self._offers[at]
                return offer.rows
        return self._rudder.fetch(self.table, ids)

    def __setitem__(self, idx: Any, val: torch.Tensor) -> None:
        """Write rows through to the nodes that own them, as :meth:`Client.update`."""
        self.forget()
        self.writes += 1
        self._rudder.update(self.table, self._ids(idx), val)

    def offer(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """Have the next reading of exactly these ids answered by these rows.

        :func:`rudder.dgl.ahead` calls this for the minibatch that it hands out. Rows are given once: they are the reader's.
        """
        self._offers.append(_Offer(ids, rows))

    def forget(self) -> None:
        """Drop what was offered and not read."""
        self._offers.clear()

    def _ids(self, idx: Any) -> torch.Tensor:
        if isinstance(idx, slice):
            return torch.arange(*idx.indices(self._shape[0]))
        if isinstance(idx, int):
            idx = [idx]
        ids = torch.as_tensor(idx)
        if ids.dtype == torch.bool:
            if ids.shape != (self._shape[0],):
                raise ValueError(f"a mask of {tuple(ids.shape)} for {self._shape[0]} rows")
            ids = ids.nonzero().flatten()
        # An empty list has no type of its own.
        return ids.long() if ids.numel() == 0 else ids.cpu()


class _Offer:
    """The rows of some ids, fetched before they were asked for."""

    __slots__ = ("_ids", "rows")

    def __init__(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        self._ids = ids
        self.rows = rows

    def is_of(self, ids: torch.Tensor) -> bool:
        own = self._ids
        return own is ids or (own.shape == ids.shape and own.dtype == ids.dtype and torch.equal(own, ids))


def _again(table: str, client: Client) -> DistTensor:
    """The tensor that a pickled one stands for."""
    return DistTensor(table, client=client)


def _stores(graph: Any) -> list[dict[str, Any]]:
    """The stores of a DistGraph, one for each vertex type and each edge type; looking at them fetches nothing."""
    nodes = [graph._ndata_store] if len(graph.ntypes) == 1 else [graph._ndata_store[kind] for kind in graph.ntypes]
    kinds = graph.canonical_etypes
    edges = [graph._edata_store] if len(kinds) == 1 else [graph._edata_store[kind] for kind in kinds]
    return nodes + edges


def proxies_of(graph: Any) -> list[DistTensor]:
    """The tensors of Rudder that a DistGraph has."""
    return [value for store in _stores(graph) for value in store.values() if isinstance(value, DistTensor)]


def _reduce_graph(graph: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Pickle a DistGraph with its tensors of Rudder, which its own ``__setstate__`` does not know."""
    found = [
        (at, name, value.table, value.client)
        for at, store in enumerate(_stores(graph))
        for name, value in store.items()
        if isinstance(value, DistTensor)
    ]
    return _make_graph, (type(graph), graph.__getstate__(), found)


def _make_graph(kind: type, state: Any, found: list[tuple[int, str, str, Client]]) -> Any:
    """Make a DistGraph in a sampler process; its own state first, by which DGL learns of the partition."""
    graph = kind.__new__(kind)
    graph.__setstate__(state)
    stores = _stores(graph)
    for at, name, table, client in found:
        stores[at][name] = DistTensor(table, client=client)
    return graph


with contextlib.suppress(AttributeError):
    copyreg.pickle(dgl.distributed.DistGraph, _reduce_graph)
