"""Rudder under GraphStorm: features of a ``GSgnnData`` that the daemon of this node serves, and lookahead over its loaders.

Tensors are put into the graph as GraphStorm puts those of WholeGraph in. Nothing of GraphStorm is replaced: embedding,
evaluation and inference read features by the same way as training does. It must never touch labels and masks.

>>> data = GSgnnData("part.json")                                       # doctest: +SKIP
>>> rudder.graphstorm.attach(data, {"paper": ["feat"]})                 # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from . import dgl as adapter
from ._client import Client
from .dgl import DistTensor

__all__ = ["ahead", "attach"]

#: A vertex type, or an edge type.
Kind = Union[str, tuple[str, str, str]]

#: Names of features by type, as GraphStorm has them: for all vertex types one name, or a name or a list for each type.
Fields = Union[str, Mapping[Kind, Union[str, Sequence[Any]]]]


def attach(data: Any, fields: Fields | None = None, *, client: Client | None = None) -> dict[str, DistTensor]:
    """Have features of a ``GSgnnData`` come from Rudder.

    Where DistDGL's servers do not have the features (``rudder import distdgl --strip``), make the ``GSgnnData`` without fields,
    which it would look for; they are set here.

    Parameters
    ----------
    data : graphstorm.dataloading.GSgnnData
        The data.
    fields : str or mapping, optional
        A name that all vertex types have, or a name or several by vertex type and by edge type (a triple). ``FeatureGroup`` s
        will do. By default those that ``data`` was made with.
    client : Client, optional
        As :class:`rudder.dgl.DistTensor`.

    Returns
    -------
    dict of str to DistTensor
        What was put in, by name of table.

    Raises
    ------
    ValueError
        If there are no fields, or the graph has no such type.
    UnknownTableError
        If there is no such table; the message names the nearest. Nothing was put in then.
    """
    graph = data.g
    wanted = _wanted(data, fields)
    if not wanted:
        raise ValueError("no fields: give them to attach(), such as {'paper': ['feat']}")
    client = adapter.default_client() if client is None else client
    found = [(kind, name, DistTensor(_table(graph, kind, name), client=client)) for kind, name in _names(wanted)]
    for kind, name, tensor in found:
        _store(graph, kind).update({name: tensor})
    nodes = {kind: list(names) for kind, names in wanted.items() if isinstance(kind, str)}
    edges = {kind: list(names) for kind, names in wanted.items() if not isinstance(kind, str)}
    if data.node_feat_field is None and nodes:
        data._node_feat_field = nodes
    if data.edge_feat_field is None and edges:
        data._edge_feat_field = edges
    return {tensor.table: tensor for _, _, tensor in found}


def ahead(loader: Any, **options: Any) -> Any:
    """Give a loader of GraphStorm lookahead; ``rudder.dgl.ahead`` over the loader of DGL inside it.

    Parameters
    ----------
    loader : GSgnnNodeDataLoader, GSgnnEdgeDataLoader, GSgnnLinkPredictionDataLoader, GSgnnMultiTaskDataLoader
        Changed in place.
    **options
        Those of :func:`rudder.dgl.ahead`: ``progress=False`` for a loader for validation or tests.

    Returns
    -------
    object
        ``loader``.
    """
    for one in getattr(loader, "dataloaders", [loader]):
        if one is not None:
            one.dataloader = adapter.ahead(one.dataloader, **options)
    return loader


def _wanted(data: Any, fields: Fields | None) -> dict[Kind, Sequence[Any]]:
    """Names by type."""
    if fields is None:
        of_nodes, of_edges = data.node_feat_field or {}, data.edge_feat_field or {}
        of_nodes = _by_type(of_nodes, data.g.ntypes)
        return {**of_nodes, **_by_type(of_edges, data.g.canonical_etypes)}
    return _by_type(fields, data.g.ntypes)


def _by_type(fields: Fields, kinds: Sequence[Kind]) -> dict[Kind, Sequence[Any]]:
    by_type = dict.fromkeys(kinds, fields) if isinstance(fields, str) else fields
    return {kind: [names] if isinstance(names, str) else names for kind, names in by_type.items()}


def _names(wanted: Mapping[Kind, Sequence[Any]]) -> Iterator[tuple[Kind, str]]:
    """Each type and name once; a ``FeatureGroup`` is several names."""
    seen = set()
    for kind, names in wanted.items():
        for entry in names:
            for name in getattr(entry, "feature_group", [entry]):
                if (kind, name) not in seen:
                    seen.add((kind, name))
                    yield kind, name


def _table(graph: Any, kind: Kind, name: str) -> str:
    """The table of a feature; DGL calls the vertices of a graph without types `_N`."""
    known = graph.ntypes if isinstance(kind, str) else graph.canonical_etypes
    if kind not in known:
        raise ValueError(f"the graph has no type {kind!r}: it has {', '.join(map(str, known))}")
    if not isinstance(kind, str):
        return f"{':'.join(kind)}.{name}"
    return name if kind == "_N" else f"{kind}.{name}"


def _store(graph: Any, kind: Kind) -> dict[str, Any]:
    """Where the graph keeps the features of a type; of a graph of one type, that is the only store."""
    store, kinds = (
        (graph._ndata_store, graph.ntypes) if isinstance(kind, str) else (graph._edata_store, graph.canonical_etypes)
    )
    found: dict[str, Any] = store if len(kinds) == 1 else store[kind]
    return found
