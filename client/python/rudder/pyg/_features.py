"""What a sampled minibatch needs of a feature store, and how the rows get into the batch that PyG makes of it.

Nodes are looked up by their ids and edges by theirs: the place of an edge in the ``edge_index`` that the caller gave, not in
the order that the sampler sorted them into. Nothing is fetched here.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch_geometric.data as pyg  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor
from torch_geometric.sampler import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    HeteroSamplerOutput,
    SamplerOutput,
)

from ._attrs import EdgeType
from ._graph import COUNTED, GraphStore, named_nodes
from ._store import FeatureStore

__all__ = ["Features"]

class _NoFeatures(pyg.FeatureStore):  # type: ignore[misc]
    """Stands where PyG would fetch: a loader of this package has fetched already."""

    def get_all_tensor_attrs(self) -> list[Any]:
        return []

    def _put_tensor(self, tensor: Any, attr: Any) -> bool:
        return False

    def _get_tensor(self, attr: Any) -> None:
        return None

    def _remove_tensor(self, attr: Any) -> bool:
        return False

    def _get_tensor_size(self, attr: Any) -> None:
        return None


class _Place(NamedTuple):
    """An attribute of the batch, and the table that its rows come from.

    Attributes
    ----------
    group : str, EdgeType or None
        The type in a batch of several types.
    attr, table : str
    is_edge : bool
    """

    group: Any
    attr: str
    table: str
    is_edge: bool


class Features:
    """The features of one loader: which attributes come from Rudder, and by which ids.

    Parameters
    ----------
    data : Data, HeteroData, (FeatureStore, Data or HeteroData), or (FeatureStore, GraphStore)
        What the caller gave to the loader. What a ``Data`` holds itself stays; the other attributes come from the store.

    Attributes
    ----------
    store : FeatureStore
    data : Data, HeteroData or (FeatureStore, GraphStore)
        For PyG's sampler: the graph.
    places : list of _Place
        Attributes that come from the store.

    Raises
    ------
    TypeError
        If ``data`` is something else.
    ValueError
        If nothing is left to fetch, or graph and tables do not fit together.
    """

    def __init__(self, data: Any) -> None:
        if isinstance(data, (pyg.Data, pyg.HeteroData)):
            data = (FeatureStore(), data)
        if not (isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], FeatureStore)):
            raise TypeError(
                "data must be a Data, a HeteroData, or a pair of a rudder.pyg.FeatureStore and a graph: loaders for other "
                "stores are in torch_geometric.loader"
            )
        self.store, graph = data
        if not isinstance(graph, pyg.GraphStore):
            raise TypeError(f"the graph is a {type(graph).__name__}: give a Data, a HeteroData or a GraphStore")
        graph = _with_ends(graph)
        self.places = _places(self.store, graph)
        if not self.places:
            raise ValueError(f"nothing is left to fetch: the graph holds all that {self.store!r} has (del data.x, say)")
        self._check_rows(graph)
        self._check_ids(getattr(graph, "ids", None))
        self.data: Any = (self.store, graph)
        if isinstance(graph, (pyg.Data, pyg.HeteroData)):
            self.data = self._counted(graph)

    @property
    def graph(self) -> Any:
        """The graph."""
        return self.data[1] if isinstance(self.data, tuple) else self.data

    def for_filter(self) -> Any:
        """What PyG's ``filter_fn`` makes a batch of: the graph, without what this package fetches."""
        return (_NoFeatures(), self.graph) if isinstance(self.data, tuple) else self.data

    def wants(self, out: SamplerOutput | HeteroSamplerOutput, permutation: Any) -> dict[str, Tensor]:
        """The ids of each table that a sampled minibatch needs. Tables of one type share one tensor.

        The ids for a table that serves several types follow each other in the order of :attr:`places`.

        Parameters
        ----------
        out : SamplerOutput or HeteroSamplerOutput
            From the sampler.
        permutation : torch.Tensor, dict or None
            The sampler's: the places that its edges have in the caller's ``edge_index``.

        Returns
        -------
        dict of str to torch.Tensor
            By table; without those that need no rows.
        """
        found: dict[Any, Tensor | None] = {}
        wanted: dict[str, dict[Any, Tensor]] = {}
        for place in self.places:
            of = (place.group, place.is_edge)
            if of not in found:
                found[of] = _edge_ids(out, place, permutation) if place.is_edge else _node_ids(out, place)
            ids = found[of]
            if ids is not None and len(ids) > 0:
                wanted.setdefault(place.table, {})[of] = ids
        return {table: _joined(list(lists.values())) for table, lists in wanted.items()}

    def fill(self, batch: Any, out: SamplerOutput | HeteroSamplerOutput, rows: dict[str, Tensor]) -> None:
        """Put fetched rows into a batch, as PyG's loaders over features in memory do."""
        if isinstance(out, SamplerOutput):
            if "num_nodes" not in batch and isinstance(self.data, tuple):
                batch.num_nodes = out.node.size(0)
        elif isinstance(self.data, tuple):
            for node_type, ids in out.node.items():
                batch[node_type].num_nodes = ids.size(0)
        parts = self._parts(out)
        for place in self.places:
            store = batch if isinstance(out, SamplerOutput) else batch[place.group]
            edges = out.edge if isinstance(out, SamplerOutput) else (out.edge or {}).get(place.group, ())
            if place.is_edge and edges is None:
                # A sampler that does not say which edges it took.
                store[place.attr] = None
            elif (part := parts.get((place.table, place.group, place.is_edge))) is not None:
                of_table = rows[place.table]
                store[place.attr] = of_table if part == slice(0, len(of_table)) else of_table[part]
            else:
                store[place.attr] = self.store.empty(place.table)

    def _parts(self, out: SamplerOutput | HeteroSamplerOutput) -> dict[Any, slice]:
        """Which rows of a table belong to which type, in the order that :meth:`wants` asks for them."""
        parts: dict[Any, slice] = {}
        ends: dict[str, int] = {}
        for place in self.places:
            ids = _edge_ids(out, place, None) if place.is_edge else _node_ids(out, place)
            key = (place.table, place.group, place.is_edge)
            if key not in parts and ids is not None and len(ids) > 0:
                begin = ends.get(place.table, 0)
                ends[place.table] = begin + len(ids)
                parts[key] = slice(begin, begin + len(ids))
        return parts

    def _counted(self, graph: Any) -> Any:
        """The graph with its numbers of nodes, which PyG can only guess once the features are elsewhere.

        PyG's samplers write past the end of an array where an edge names a node beyond that number: such tables are refused.
        """
        named = named_nodes(graph)
        graph = copy.copy(graph)
        stores = [graph._store] if isinstance(graph, pyg.Data) else graph.node_stores
        for store in stores:
            group = None if isinstance(graph, pyg.Data) else store._key
            tables = [place.table for place in self.places if not place.is_edge and place.group == group]
            if tables and not any(key in store for key in COUNTED):
                for table in tables:
                    self._check_enough(table, named.get(group, 0))
                store.num_nodes = self.store.rows_of(tables[0])
        return graph

    def _check_rows(self, graph: Any) -> None:
        """Refuse tables with fewer rows than nodes, or another number of rows than edges: which row is whose?"""
        for place in self.places:
            rows = self.store.rows_of(place.table)
            if place.is_edge and (edges := _num_edges(graph, place.group)) != rows:
                raise ValueError(
                    f"table {place.table} has {rows} rows, and the graph has {edges} such edges: a row belongs to the edge at "
                    "its place in edge_index"
                )
            if not place.is_edge and isinstance(graph, GraphStore):
                graph.extend(place.group, rows)
                self._check_enough(place.table, graph.num_nodes(place.group))

    def _check_enough(self, table: str, nodes: int) -> None:
        """Refuse a table that has no rows for some of the nodes."""
        rows = self.store.rows_of(table)
        if nodes > rows:
            raise ValueError(f"table {table} has {rows} rows, and the graph has {nodes} such nodes")

    def _check_ids(self, ids: str | None) -> None:
        """Refuse a dataset's graph whose nodes have other numbers than the ids of the client."""
        of_client = self.store.client.ids
        renumbered = [place.table for place in self.places if self.store.is_renumbered(place.table)]
        if ids is not None and ids != of_client and renumbered:
            raise ValueError(
                f"the graph has {ids} ids, and the client takes {of_client} ids, which are others in table {renumbered[0]}: "
                f'open both with ids="{ids}"'
            )


def _with_ends(graph: Any) -> Any:
    """The graph with a store for each type of nodes that its edges name: without features of its own, nothing else does."""
    if isinstance(graph, pyg.HeteroData):
        graph = copy.copy(graph)
        for source, _, target in graph.edge_types:
            # Asking for a store makes it.
            _ = (graph[source], graph[target])
    return graph


def _places(store: FeatureStore, graph: Any) -> list[_Place]:
    """The attributes of a graph's types that the store has and the graph does not."""
    found = []
    node_types, edge_types = _types(graph)
    if not node_types and not edge_types:
        own = set(graph.keys()) if isinstance(graph, pyg.Data) else set()
        groups = [(None, False, store.node_attrs(None), own), (None, True, store.edge_attrs(None), own)]
    else:
        groups = [(one, False, store.node_attrs(one), _own(graph, one)) for one in node_types]
        groups += [(one, True, store.edge_attrs(one), _own(graph, one)) for one in edge_types]
    for group, is_edge, attrs, own in groups:
        found += [_Place(group, attr, table, is_edge) for attr, table in attrs.items() if attr not in own]
    return found


def _types(graph: Any) -> tuple[list[str], list[EdgeType]]:
    """The node and edge types of a graph; none of either where it names none."""
    if isinstance(graph, pyg.HeteroData):
        return graph.node_types, graph.edge_types
    if isinstance(graph, pyg.Data):
        return [], []
    edge_types = list(dict.fromkeys(attr.edge_type for attr in graph.get_all_edge_attrs() if attr.edge_type is not None))
    ends = [end for edge_type in edge_types for end in (edge_type[0], edge_type[-1])]
    return list(dict.fromkeys([*getattr(graph, "node_types", ()), *ends])), edge_types


def _own(graph: Any, group: Any) -> set[str]:
    """The attributes that a type has in the graph itself."""
    return set(graph[group].keys()) if isinstance(graph, pyg.HeteroData) else set()


def _num_edges(graph: Any, edge_type: EdgeType | None) -> int:
    if isinstance(graph, GraphStore):
        return graph.num_edges(edge_type)
    if isinstance(graph, pyg.Data):
        return int(graph.num_edges)
    if isinstance(graph, pyg.HeteroData):
        return int(graph[edge_type].num_edges)
    (attr, *_) = (attr for attr in graph.get_all_edge_attrs() if attr.edge_type == edge_type)
    row, col = graph.get_edge_index(attr)
    return len(col) if attr.layout.value == "csr" else len(row)


def _joined(lists: list[Tensor]) -> Tensor:
    return lists[0] if len(lists) == 1 else torch.cat(lists)


def _node_ids(out: Any, place: _Place) -> Tensor | None:
    return out.node if isinstance(out, SamplerOutput) else out.node.get(place.group)


def _edge_ids(out: Any, place: _Place, permutation: Any) -> Tensor | None:
    """The places of sampled edges in the caller's ``edge_index``: what PyG calls ``e_id``."""
    if isinstance(out, SamplerOutput):
        edge = out.edge
    else:
        edge = (out.edge or {}).get(place.group)
        permutation = (permutation or {}).get(place.group)
    if edge is None:
        return None
    edge = edge.to(torch.int64)
    return edge if permutation is None else permutation[edge]
