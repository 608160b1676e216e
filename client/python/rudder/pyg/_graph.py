"""PyG's ``GraphStore`` in memory: a graph that PyG's samplers take beside a feature store.

It knows how many nodes there are, which a ``Data`` as a graph store does not say. It checks every node of an edge once, for
PyG's samplers read past the end of an array otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Union

import numpy as np
import torch
import torch_geometric.data as pyg  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from torch_geometric.data.graph_store import EdgeLayout  # type: ignore[import-not-found, import-untyped, unused-ignore]

from .._dataset import Dataset
from ._attrs import UNNAMED, EdgeType, unknown

__all__ = ["COUNTED", "GraphStore", "named_nodes"]

#: What of a ``Data`` or of a node type tells how many nodes there are, without a guess.
COUNTED = ("num_nodes", "x", "pos", "batch")

#: Nodes of a graph: of the only type, or by type.
NumNodes = Union[int, Mapping[str, int], None]


class GraphStore(pyg.GraphStore):  # type: ignore[misc]
    """The edges of a graph, in memory.

    Parameters
    ----------
    edges : optional
        ``[2, edges]``, or a pair of arrays, or a mapping of edge types ``(source, relation, target)`` to such; a ``Data`` or
        ``HeteroData``; a :class:`rudder.Dataset` that holds its graph. Further edges are put in as PyG says:
        ``store[("paper", "cites", "paper"), "csc"] = (row, colptr)``.
    num_nodes : int or mapping of str to int, optional
        Nodes, by type where types have names. By default as many as the edges name; beside a store, as many as its tables
        have rows.
    layout : str
        Of the arrays: ``"coo"``, ``"csc"`` (row, colptr) or ``"csr"`` (rowptr, col).
    is_sorted : bool
        Whether ``coo`` is sorted by target.

    Attributes
    ----------
    ids : str or None
        Of a dataset's graph, which numbers its nodes have: ``"original"`` or ``"dataset"``, as :attr:`rudder.Dataset.ids`.

    Raises
    ------
    ValueError
        If an edge names a node that there is not, or the arrays do not fit together.

    Examples
    --------
    >>> graph = GraphStore(edge_index, num_nodes=len(train_mask))                           # doctest: +SKIP
    >>> loader = NeighborLoader((FeatureStore(), graph), [10, 25], batch_size=1024)         # doctest: +SKIP
    """

    def __init__(
        self, edges: Any = None, num_nodes: NumNodes = None, *, layout: str = "coo", is_sorted: bool = False
    ) -> None:
        super().__init__()
        self._edges: dict[tuple[EdgeType | None, EdgeLayout], tuple[tuple[Tensor, Tensor], bool]] = {}
        self._num_nodes: dict[str | None, int] = {}
        self._fixed: set[str | None] = set()
        self.ids: str | None = None
        for node_type, count in (num_nodes if isinstance(num_nodes, Mapping) else {None: num_nodes}).items():
            if count is not None:
                self._num_nodes[node_type] = int(count)
                self._fixed.add(node_type)
        if isinstance(edges, (pyg.Data, pyg.HeteroData)):
            self._take(edges)
        elif isinstance(edges, Dataset):
            self._read(edges)
        elif isinstance(edges, Mapping):
            for edge_type, pair in edges.items():
                self.put_edge_index(pair, edge_type=edge_type, layout=layout, is_sorted=is_sorted)
        elif edges is not None:
            self.put_edge_index(edges, edge_type=None, layout=layout, is_sorted=is_sorted)

    def __repr__(self) -> str:
        types = {":".join(edge_type) if edge_type else "edges" for edge_type, _ in self._edges}
        return f"rudder.pyg.GraphStore({', '.join(sorted(types))})"

    # What PyG asks for.

    def _put_edge_index(self, edge_index: Any, edge_attr: pyg.EdgeAttr) -> bool:
        edge_type = None if edge_attr.edge_type is None else tuple(edge_attr.edge_type)
        if any((known is None) != (edge_type is None) for known, _ in self._edges):
            raise ValueError("a graph has edges with a type or without one, and not both")
        row, col = (_as_tensor(part) for part in edge_index)
        source, target = (None, None) if edge_type is None else (edge_type[0], edge_type[-1])
        size = tuple(edge_attr.size or (None, None))
        if edge_type is None:
            size = (max(size, key=lambda count: count or 0),) * 2
        sources, targets = _sizes(row, col, edge_attr.layout)
        self._count(source, sources, size[0], edge_type)
        self._count(target, targets, size[1], edge_type)
        self._edges[edge_type, edge_attr.layout] = ((row, col), edge_attr.is_sorted)
        return True

    def _get_edge_index(self, edge_attr: pyg.EdgeAttr) -> tuple[Tensor, Tensor] | None:
        edge_type = None if edge_attr.edge_type is None else tuple(edge_attr.edge_type)
        found = self._edges.get((edge_type, edge_attr.layout))
        if found is None:
            return None
        row, col = found[0]
        sources, targets = self._size(edge_type)
        # Nodes at the end that these edges do not name: other edges, or num_nodes, may have them.
        if edge_attr.layout == EdgeLayout.CSR:
            row = _lengthened(row, sources + 1)
        elif edge_attr.layout == EdgeLayout.CSC:
            col = _lengthened(col, targets + 1)
        return row, col

    def _remove_edge_index(self, edge_attr: pyg.EdgeAttr) -> bool:
        edge_type = None if edge_attr.edge_type is None else tuple(edge_attr.edge_type)
        return self._edges.pop((edge_type, edge_attr.layout), None) is not None

    def get_all_edge_attrs(self) -> list[pyg.EdgeAttr]:
        """The edges that were put in, with the number of nodes at both ends."""
        return [
            pyg.EdgeAttr(edge_type, layout, is_sorted, self._size(edge_type))
            for (edge_type, layout), (_, is_sorted) in self._edges.items()
        ]

    # What the loaders of this package ask for.

    @property
    def node_types(self) -> list[str]:
        """The node types, in the order in which they were named; none in a graph that names no types."""
        return [node_type for node_type in self._num_nodes if node_type is not None]

    @property
    def edge_types(self) -> list[EdgeType]:
        """The edge types, in the order in which they were put in; none in a graph that names no types."""
        return list(dict.fromkeys(edge_type for edge_type, _ in self._edges if edge_type is not None))

    def num_nodes(self, node_type: str | None = None) -> int:
        """How many nodes there are, of a type where types have names."""
        if node_type not in self._num_nodes:
            raise unknown("node type", node_type, self._num_nodes)
        return self._num_nodes[node_type]

    def num_edges(self, edge_type: EdgeType | None = None) -> int:
        """How many edges there are, of a type where types have names."""
        for (known, layout), ((row, col), _) in self._edges.items():
            if known == edge_type:
                return len(col if layout == EdgeLayout.CSR else row)
        raise unknown("edge type", edge_type, (known for known, _ in self._edges))

    def extend(self, node_type: str | None, count: int) -> None:
        """Note that there are at least this many nodes of a type, unless the caller said how many there are."""
        if node_type not in self._fixed:
            self._num_nodes[node_type] = max(count, self._num_nodes.get(node_type, 0))

    # Inside.

    def _take(self, data: Any) -> None:
        """Take the edges of a ``Data`` or ``HeteroData``."""
        stores = data.node_stores if isinstance(data, pyg.HeteroData) else [data._store]
        for store in stores:
            node_type = store._key if isinstance(data, pyg.HeteroData) else None
            # PyG would guess, and warn, where nothing says how many there are.
            count = int(store.num_nodes) if any(key in store for key in COUNTED) else 0
            self.extend(node_type, count)
        for attr, size, edges in _edges_of(data):
            self.put_edge_index(
                edges, edge_type=attr.edge_type, layout=attr.layout, is_sorted=attr.is_sorted, size=size
            )

    def _read(self, dataset: Dataset) -> None:
        """Take the graph of a dataset, which holds both directions of each edge."""
        graph = dataset.graph()
        edge_type = None if graph.vertex_type == UNNAMED else (graph.vertex_type, "_E", graph.vertex_type)
        self.extend(None if edge_type is None else graph.vertex_type, graph.vertices)
        self.ids = dataset.ids
        if dataset.ids == "dataset":
            # Neighbours by vertex: for edges in both directions, this is sorted by target.
            self.put_edge_index((graph.indices, graph.indptr), edge_type=edge_type, layout="csc")
            return
        edges = [dataset.to_old(graph.vertex_type, ends) for ends in graph.edge_index()]
        self.put_edge_index(edges, edge_type=edge_type, layout="coo")

    def _size(self, edge_type: EdgeType | None) -> tuple[int, int]:
        source, target = (None, None) if edge_type is None else (edge_type[0], edge_type[-1])
        return self._num_nodes[source], self._num_nodes[target]

    def _count(self, node_type: str | None, named: int, given: int | None, edge_type: EdgeType | None) -> None:
        """Note how many nodes of a type edges name, and how many the caller says that there are."""
        if given is not None and node_type not in self._fixed:
            self.extend(node_type, int(given))
            self._fixed.add(node_type)
        known = self._num_nodes.get(node_type, 0)
        if named > known and node_type in self._fixed:
            edges = "an edge" if edge_type is None else f"an edge of {':'.join(edge_type)}"
            nodes = "nodes" if node_type is None else f"{node_type} nodes"
            raise ValueError(f"{edges} names node {named - 1}, and there are {known} {nodes}: see num_nodes")
        self._num_nodes[node_type] = max(known, named)


def _edges_of(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Of each edge type of a ``Data`` or ``HeteroData``: what PyG calls it, its size where that is known, its edges."""
    for attr in data.get_all_edge_attrs():
        attr = copy.copy(attr)
        size, attr.size = attr.size, attr.size or (0, 0)
        yield attr, size, data.get_edge_index(attr)


def named_nodes(data: Any) -> dict[str | None, int]:
    """How many nodes of each type there must be for the edges of a ``Data`` or ``HeteroData``.

    Parameters
    ----------
    data : Data or HeteroData

    Returns
    -------
    dict
        By type; of a ``Data``, ``None`` is the only one.

    Raises
    ------
    ValueError
        If an edge names a node below 0, or arrays do not fit together.
    """
    named: dict[str | None, int] = {}
    for attr, _, edges in _edges_of(data):
        row, col = (_as_tensor(one) for one in edges)
        ends = (None, None) if attr.edge_type is None else (attr.edge_type[0], attr.edge_type[-1])
        for end, count in zip(ends, _sizes(row, col, attr.layout)):
            named[end] = max(named.get(end, 0), count)
    return named


def _as_tensor(ids: Any) -> Tensor:
    """One array of an edge index, as PyG's samplers read it."""
    tensor = ids if isinstance(ids, Tensor) else torch.from_numpy(np.ascontiguousarray(ids))
    if tensor.ndim != 1 or tensor.is_floating_point():
        raise ValueError(f"edges are two lists of integers; one of them is {tensor.dtype} of shape {tuple(tensor.shape)}")
    return tensor.to(torch.int64).contiguous()


def _sizes(row: Tensor, col: Tensor, layout: EdgeLayout) -> tuple[int, int]:
    """How many source and target nodes edges name; what cannot be right is refused."""
    if layout == EdgeLayout.COO:
        if len(row) != len(col):
            raise ValueError(f"edges have {len(row)} sources and {len(col)} targets")
        return _largest(row) + 1, _largest(col) + 1
    pointers, ids = (row, col) if layout == EdgeLayout.CSR else (col, row)
    steps = pointers[1:] - pointers[:-1]
    if len(pointers) == 0 or int(pointers[0]) != 0 or int(pointers[-1]) != len(ids) or bool((steps < 0).any()):
        raise ValueError(f"the pointers of {layout.value} must grow from 0 to the number of edges, {len(ids)}")
    ends = (len(pointers) - 1, _largest(ids) + 1)
    return ends if layout == EdgeLayout.CSR else ends[::-1]


def _largest(ids: Tensor) -> int:
    if len(ids) == 0:
        return -1
    least, most = torch.aminmax(ids)
    if int(least) < 0:
        raise ValueError(f"an edge names node {int(least)}")
    return int(most)


def _lengthened(pointers: Tensor, length: int) -> Tensor:
    """Pointers for nodes at the end that have no edges."""
    missing = length - len(pointers)
    return torch.cat([pointers, pointers[-1:].expand(missing)]) if missing > 0 else pointers
