"""PyG's ``FeatureStore`` over the tables of a client.

Several attributes are one call of the client. A store that is pickled takes along how to connect and not a connection: a
worker that never fetches never connects.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch_geometric.data as pyg  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from .._arrays import tensor_of
from .._client import Client
from .._connect import default_client
from .._tables import TableInfo
from ..errors import UnknownTableError
from ._attrs import Attrs, EdgeType, Group, Key, attrs_of, unknown

__all__ = ["FeatureStore", "TensorAttr"]


@dataclass
class TensorAttr(pyg.TensorAttr):  # type: ignore[misc]
    """What an attribute of a :class:`FeatureStore` is found by: ``group_name``, ``attr_name`` and ``index``.

    ``group_name`` is a node type, an edge type ``(source, relation, target)``, or ``None`` in a graph that names no types.
    """

    def is_set(self, key: str) -> bool:
        """Whether a field is set. PyG's own compares, which an array of ids answers element by element."""
        return getattr(self, key) is not type(self).__dataclass_fields__[key].default


class FeatureStore(pyg.FeatureStore):  # type: ignore[misc]
    """Node and edge features of a graph, which lie in Rudder.

    It can be given to PyG's loaders, and with lookahead to those of this package. Forked and unpickled copies connect by
    themselves, and stay with the trainer of the client.

    Parameters
    ----------
    client : Client, optional
        By default all stores and loaders of the process share one that :func:`rudder.connect` makes.
    attrs : iterable or mapping, optional
        Which attributes; by default every table is one. An iterable holds attributes (``"x"``: of every type that has
        it), tables (``"paper.x"``) or pairs (``("paper", "x")``). A mapping gives other names: ``{"x": "feat"}`` makes
        the table ``feat`` the attribute ``x``.
    progress : bool
        ``False`` for evaluation: loaders over this store count no epochs, and its fetches teach the cache nothing.

    Raises
    ------
    UnknownTableError
        If there is no such attribute or table; the message names the nearest.
    RudderError
        As :func:`rudder.connect`.

    Examples
    --------
    >>> store = FeatureStore()                                                    # doctest: +SKIP
    >>> store["paper", "x", torch.tensor([3, 1, 4])]                              # doctest: +SKIP
    """

    def __init__(self, client: Client | None = None, attrs: Attrs = None, progress: bool = True) -> None:
        super().__init__(tensor_attr_cls=TensorAttr)
        self._client: Client | None = default_client() if client is None else client
        self._connect: tuple[Any, tuple[Any, ...]] | None = None
        self._infos: dict[str, TableInfo] = self._client.tables()
        self._tables: dict[Key, str] = attrs_of(self._infos, attrs)
        self.progress = progress

    def __repr__(self) -> str:
        return f"rudder.pyg.FeatureStore({', '.join(self._tables.values())})"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._client is not None:
            state["_connect"] = self._client.__reduce__()
        state["_client"] = None
        return state

    @property
    def client(self) -> Client:
        """The client of this store."""
        if self._client is None:
            assert self._connect is not None, "an unpickled store knows how to connect"
            make, arguments = self._connect
            self._client = make(*arguments)
        return self._client

    # What PyG asks for.

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        """The attributes of nodes.

        Those of edges are left out: PyG's own loaders would fetch them with the ids of nodes. The loaders of this package
        fetch them with the ids of edges; see :meth:`get_all_edge_tensor_attrs`.
        """
        return [TensorAttr(group, attr) for group, attr in self._tables if not isinstance(group, tuple)]

    def get_all_edge_tensor_attrs(self) -> list[TensorAttr]:
        """The attributes of edges. Their index is the place of an edge in the ``edge_index`` that the table was made for."""
        return [TensorAttr(group, attr) for group, attr in self._tables if isinstance(group, tuple)]

    def _get_tensor(self, attr: TensorAttr) -> Tensor:
        return self._multi_get_tensor([attr])[0]

    def _multi_get_tensor(self, attrs: list[TensorAttr]) -> list[Tensor]:
        wants: dict[str, Any] = {}
        places: list[tuple[str, Any]] = []
        for attr in attrs:
            table = self._table(attr)
            ids = _as_ids(attr.index)
            if table in wants and wants[table] is not ids:
                raise ValueError(f"attribute {attr.attr_name!r} is asked for twice in one call, with different ids")
            wants[table] = ids
            places.append((table, attr.index))
        rows = self.fetch(wants)
        return [rows[table][0] if _is_number(index) else rows[table] for table, index in places]

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> bool:
        """Write rows through to the nodes that own them, as :meth:`rudder.Client.update`."""
        table = self._table(attr)
        rows = torch.as_tensor(tensor)
        self.client.update(table, _as_ids(attr.index), rows[None] if _is_number(attr.index) else rows)
        return True

    def update_tensor(self, tensor: Any, *args: Any, **kwargs: Any) -> bool:
        """As ``put_tensor``: rows are replaced where they are."""
        return bool(self.put_tensor(tensor, *args, **kwargs))

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        """Take an attribute out of this store. Its table stays where it is."""
        return self._tables.pop((self._group(attr), attr.attr_name), None) is not None

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        try:
            table = self._table(attr)
        except UnknownTableError:
            return None
        info = self._infos[table]
        if _is_number(attr.index):
            return info.shape
        return (_count(attr.index, info.rows), *info.shape)

    # What the loaders of this package ask for.

    def node_attrs(self, node_type: str | None) -> dict[str, str]:
        """The attributes of a node type, or of the only one for ``None``: by name, each with its table."""
        return {attr: table for (group, attr), table in self._tables.items() if group == self._node_group(node_type)}

    def edge_attrs(self, edge_type: EdgeType | None) -> dict[str, str]:
        """The attributes of an edge type, or of the only one for ``None``: by name, each with its table."""
        if edge_type is None:
            groups = {group for group, _ in self._tables if isinstance(group, tuple)}
            if len(groups) > 1:
                raise ValueError(f"the graph has one edge type, and the store has {_listed(groups)}: choose with attrs=")
            edge_type = next(iter(groups), None)
        return {attr: table for (group, attr), table in self._tables.items() if group == edge_type is not None}

    def rows_of(self, table: str) -> int:
        """Rows of a table."""
        return self._infos[table].rows

    def is_renumbered(self, table: str) -> bool:
        """Whether original ids and dataset ids of a table differ."""
        return self._infos[table].renumbered

    def fetch(self, wants: Mapping[str, Any], *, learns: bool | None = None) -> dict[str, Tensor]:
        """Fetch rows of several tables, in one call.

        Parameters
        ----------
        wants : mapping of str to ids
            Ids, masks, slices or ``None`` by table, as :meth:`rudder.Client.fetch` takes them.
        learns : bool, optional
            Whether the cache learns from it; by default as :attr:`progress` says.

        Returns
        -------
        dict of str to torch.Tensor
        """
        client = self.client
        learns = self.progress if learns is None else learns
        with contextlib.nullcontext() if learns else client.paused():
            # Named, for a list or a slice does not say that tensors are wanted.
            rows: dict[str, Tensor] = client.fetch(dict(wants), device="cpu")
        return rows

    def empty(self, table: str) -> Tensor:
        """No rows of a table."""
        info = self._infos[table]
        rows: Tensor = tensor_of(np.empty((0, *info.shape), info.numpy_dtype), info.dtype)
        return rows

    # Inside.

    def _node_group(self, node_type: str | None) -> Group:
        """The group of a node type. ``None`` and a name are the same in a store of one node type."""
        groups = {group for group, _ in self._tables if not isinstance(group, tuple)}
        if node_type in groups:
            return node_type
        if None in groups or node_type is None:
            if len(groups) > 1:
                raise ValueError(f"the graph has one node type, and the store has {_listed(groups)}: choose with attrs=")
            return next(iter(groups), None)
        return node_type

    def _group(self, attr: TensorAttr) -> Group:
        group = attr.group_name
        return tuple(group) if isinstance(group, (tuple, list)) else self._node_group(group)

    def _table(self, attr: TensorAttr) -> str:
        key = (self._group(attr), attr.attr_name)
        table = self._tables.get(key)
        if table is None:
            raise unknown("attribute", key, self._tables)
        return table


def _is_number(index: Any) -> bool:
    """Whether an index is one id: its answer is one row and not rows."""
    return isinstance(index, (int, np.integer)) or (getattr(index, "ndim", None) == 0)


def _as_ids(index: Any) -> Any:
    """An index of PyG as :meth:`rudder.Client.fetch` takes it: one id is a list of one."""
    return [operator.index(index)] if _is_number(index) else index


def _count(index: Any, rows: int) -> int:
    """How many rows an index means."""
    if index is None:
        return rows
    if isinstance(index, slice):
        return len(range(*index.indices(rows)))
    ids = np.asarray(index)
    return int(np.count_nonzero(ids)) if ids.dtype == np.bool_ else len(ids)


def _listed(groups: Any) -> str:
    return ", ".join(sorted(":".join(group) if isinstance(group, tuple) else str(group) for group in groups))
