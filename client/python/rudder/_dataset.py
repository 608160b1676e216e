"""A dataset on disk, read without a daemon: what it holds, who owns which id, its graph, and rows for checks and baselines.

Files are mapped and never written. What the manifest says comes from ``rudder show``: one program reads manifests, and its
errors name the file. Rows are copied out of their shards; this is no way to train, for no row comes from another machine.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from . import _native
from ._arrays import as_ids, as_ids_of, tensor_of
from ._books import Book, IdMap
from ._client import TableInfo
from ._mapped import map_array, map_piece
from ._programs import find_program
from .errors import FormatError, StorageError, UnknownTableError

__all__ = ["Dataset", "Graph"]

#: Other element types that files may have, by the type of the table: the same bytes.
_ALSO = {"u8": ("|b1",), "bf16": ("|V2",)}

_StrPath = Union[str, "os.PathLike[str]"]

#: Longest wait for ``rudder show``, which reads one file.
_SHOW_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Graph:
    """The graph of a dataset, mapped: the neighbours of vertex ``i`` are ``indices[indptr[i]:indptr[i + 1]]``.

    Edges are undirected and stand in both directions, so that this is CSC and CSR alike. Vertices are dataset ids, whatever
    :attr:`Dataset.ids` says: :meth:`Dataset.to_old` translates. Writing to the arrays changes no file.

    Attributes
    ----------
    vertex_type : str
        Type of the vertices.
    indptr : numpy.ndarray
        ``int64 [vertices + 1]``.
    indices : numpy.ndarray
        ``int32 [2 * edges]``.
    """

    vertex_type: str
    indptr: np.ndarray
    indices: np.ndarray

    @property
    def vertices(self) -> int:
        """Number of vertices."""
        return len(self.indptr) - 1

    @property
    def edges(self) -> int:
        """Number of edges, each counted once."""
        return len(self.indices) // 2

    def edge_index(self) -> np.ndarray:
        """The edges one by one, as PyG wants them.

        Returns
        -------
        numpy.ndarray
            A new ``int64 [2, 2 * edges]``: neighbours, then the vertices whose neighbours they are; COO.
        """
        targets = np.repeat(np.arange(self.vertices, dtype=np.int64), np.diff(self.indptr))
        return np.stack((self.indices.astype(np.int64), targets))


class Dataset:
    """A dataset on disk.

    It can be pickled, and used after a fork and by several threads.

    Parameters
    ----------
    path : path-like
        The dataset's folder, or ``distdgl:GRAPH.json`` for a DistDGL partition where it lies.
    ids : str
        Which numbers ids are, where the import renumbered vertices, as in :func:`rudder.connect`: ``"original"`` (those of
        your own files) or ``"dataset"``. Then ``dataset.rows(table, ids)`` and ``client.fetch(table, ids)`` are the same.

    Attributes
    ----------
    path : str
        What was opened.
    ids : str
        ``"original"`` or ``"dataset"``.
    name : str
        Name of the dataset.
    nodes : int
        Number of its parts; node ``i`` serves part ``i``.
    fingerprint : str
        The same as :attr:`rudder.Client.fingerprint` of a client whose daemon serves it.
    tables : dict of str to TableInfo
        By name. ``local_rows`` counts the rows whose files are on this machine.
    types : dict of str to int
        Vertex and edge types, with the number of their ids.

    Raises
    ------
    FormatError
        If there is no dataset, or its manifest makes no sense; the message names the file.
    FileNotFoundError
        If the program ``rudder`` is nowhere.

    Examples
    --------
    >>> data = rudder.Dataset("data")                # doctest: +SKIP
    >>> train = data.rows("train_mask")              # doctest: +SKIP
    >>> data.owner("_N", [3, 1, 4])                  # doctest: +SKIP
    array([0, 0, 1], dtype=uint16)
    """

    def __init__(self, path: _StrPath, *, ids: str = "original") -> None:
        if ids not in ("original", "dataset"):
            raise ValueError(f'ids is {ids!r}: it must be "original" or "dataset"')
        self.path, self.ids = os.fspath(path), ids
        shown = _show(self.path)
        self._dir, self._origin, self.fingerprint = Path(shown["dir"]), shown["origin"], shown["fingerprint"]
        self._manifest: dict[str, Any] = shown["manifest"]
        self.name: str = self._manifest["name"]
        self.nodes: int = self._manifest["parts"]
        self._types = {one["name"]: one for one in self._manifest["vertex_types"]}
        self.types: dict[str, int] = {name: one["rows"] for name, one in self._types.items()}
        self._shards = {one["name"]: one for one in self._manifest["tables"]}
        self._books: dict[str, Book] = {}
        self._maps: dict[str, IdMap] = {}
        here: dict[str, bool] = {}
        self.tables: dict[str, TableInfo] = {name: self._info(one, here) for name, one in self._shards.items()}

    def __repr__(self) -> str:
        return f"<rudder.Dataset {self.name} of {self.nodes} parts at {self.path}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.path, self.ids)

    def _info(self, table: dict[str, Any], here: dict[str, bool]) -> TableInfo:
        """A table as a client would see it."""
        local_rows = 0
        for shard in table["shards"]:
            name = shard["file"]["path"]
            if name not in here:
                here[name] = (self._dir / name).exists()
            local_rows += shard["rows"] if here[name] else 0
        of_type = self._types[table["vertex_type"]]
        return TableInfo(
            name=table["name"],
            vertex_type=table["vertex_type"],
            dtype=table["dtype"],
            width=table["width"],
            shape=tuple(table.get("shape", (table["width"],))),
            rows=table["rows"],
            local_rows=local_rows,
            renumbered=_is_renumbered(of_type),
            named="names" in of_type,
            ids=self.ids,
        )

    def classes(self, table: str) -> list[str] | None:
        """Names of the classes 0, 1, … of a table of labels; nothing where labels were numbers.

        Parameters
        ----------
        table : str
            Name of the table.

        Returns
        -------
        list of str, optional

        Raises
        ------
        UnknownTableError
            If there is no such table.
        """
        classes: list[str] | None = self._table(table).get("classes")
        return classes

    def book(self, of: str) -> Book:
        """Who owns which dataset id.

        Parameters
        ----------
        of : str
            A vertex or edge type, or a table of it.

        Returns
        -------
        Book

        Raises
        ------
        UnknownTableError
            If there is no such type or table.
        StorageError, FormatError
            If the book is a map, and its file is missing or damaged.
        """
        name = self._type_of(of)
        if name not in self._books:
            self._books[name] = Book.open(self._dir, self._types[name], self.nodes)
        return self._books[name]

    def owner(self, of: str, ids: Any) -> np.ndarray:
        """The node that owns each id.

        Parameters
        ----------
        of : str
            A vertex or edge type, or a table of it.
        ids : array_like of int or torch.Tensor
            As :attr:`ids` says; one-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray
            ``uint16``, in the order of the ids.

        Raises
        ------
        IdOutOfRangeError
            If no vertex has an id.
        UnknownTableError, StorageError, FormatError, TypeError, ValueError
            As :meth:`book`; if the ids are not integers, or not one-dimensional.
        """
        array, _ = as_ids(ids)
        return self.book(of).owner(self._dataset_ids(self._type_of(of), array))

    def to_new(self, of: str, ids: Any) -> Any:
        """The ids that the import gave to vertices, from those of your own files: :meth:`rudder.Client.dataset_ids`.

        Parameters
        ----------
        of : str
            A vertex or edge type, or a table of it.
        ids : array_like of int or torch.Tensor
            Original ids; one-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of `ids`: ``int64``; ``uint64`` for an array of ``uint64``; a tensor for a tensor.

        Raises
        ------
        IdOutOfRangeError
            If no vertex has an id.
        UnknownTableError, StorageError, FormatError, TypeError, ValueError
            As :meth:`owner`.
        """
        array, is_tensor = as_ids(ids)
        return as_ids_of(self._map(self._type_of(of)).to_dataset(array), array, is_tensor)

    def to_old(self, of: str, ids: Any) -> Any:
        """The ids of your own files, from those that the import gave: :meth:`rudder.Client.original_ids`.

        Parameters
        ----------
        of : str
            A vertex or edge type, or a table of it.
        ids : array_like of int or torch.Tensor
            Dataset ids; one-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of `ids`, as :meth:`to_new`.

        Raises
        ------
        IdOutOfRangeError, UnknownTableError, StorageError, FormatError, TypeError, ValueError
            As :meth:`to_new`.
        """
        array, is_tensor = as_ids(ids)
        return as_ids_of(self._map(self._type_of(of)).to_original(array), array, is_tensor)

    #: The names that the client has for them.
    dataset_ids, original_ids = to_new, to_old

    def graph(self, edge_type: str | tuple[str, str, str] | None = None) -> Graph:
        """The graph that ``rudder import edges`` or ``ogb`` partitioned.

        Parameters
        ----------
        edge_type : str or tuple of str, optional
            The edge type, where you want to name it: ``("_N", "_E", "_N")``. Datasets hold the graph of one type.

        Returns
        -------
        Graph

        Raises
        ------
        FormatError
            If the dataset holds no graph, or none of this type.
        StorageError
            If its files are not on this machine.
        """
        graph = self._manifest.get("graph") or {}
        if "indptr" not in graph or "indices" not in graph:
            distdgl = "open graph.dgl with dgl.distributed.load_partition"
            others = "`rudder import edges` and `rudder import ogb` keep the graph that they partition"
            raise FormatError(f"{self.path}: no graph: {distdgl if self._origin == 'distdgl' else others}")
        vertex_type = graph["vertex_type"]
        only = f"{vertex_type}:_E:{vertex_type}"
        asked = edge_type if isinstance(edge_type, (str, type(None))) else ":".join(edge_type)
        if asked not in (None, only):
            raise FormatError(f"{self.path}: no graph of edge type `{asked}`: it holds that of `{only}`")
        rows, entries = self.types[vertex_type], 2 * graph["edges"]
        indptr = map_array(self._dir, graph["indptr"], ((rows + 1,),), ("<u8",), "c").view(np.int64)
        indices = map_array(self._dir, graph["indices"], ((entries,),), ("<u4",), "c").view(np.int32)
        return Graph(vertex_type, indptr, indices)

    def rows(self, table: str, ids: Any = None) -> Any:
        """Rows of a table, read from the shards on this machine into new memory.

        Parameters
        ----------
        table : str
            Name of the table.
        ids : array_like of int or torch.Tensor, optional
            As :attr:`ids` says; one-dimensional, any order, duplicates allowed. By default all, in ascending order of these
            ids: with original ids from 0, the array that was imported.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            ``[n, *shape]`` of :attr:`TableInfo.numpy_dtype`; a tensor if `ids` is one.

        Raises
        ------
        UnknownTableError
            If there is no such table.
        IdOutOfRangeError
            If no vertex has an id.
        StorageError
            If a shard with such rows is not on this machine, or ends too early; the message names the file.
        FormatError
            If a file is not what the manifest says.
        TypeError, ValueError
            If the ids are not integers, or not one-dimensional.
        """
        of_table = self._table(table)
        vertex_type, info = of_table["vertex_type"], self.tables[table]
        book = self.book(vertex_type)
        if ids is None:
            out = np.empty((info.rows, *info.shape), info.numpy_dtype)
            places = self._map(vertex_type).ranks() if self.ids == "original" else None
            for node, shard in enumerate(of_table["shards"]):
                if shard["rows"]:
                    of_node = book.of_node(node)
                    out[of_node if places is None else places[of_node]] = self._shard(of_table, node)
            return out
        array, is_tensor = as_ids(ids)
        owners, local = book.locate(self._dataset_ids(vertex_type, array))
        out = np.empty((len(array), *info.shape), info.numpy_dtype)
        for node in np.unique(owners).tolist():
            of_node = np.flatnonzero(owners == node)
            out[of_node] = self._shard(of_table, node)[local[of_node]]
        return tensor_of(out, info.dtype) if is_tensor else out

    def _shard(self, table: dict[str, Any], node: int) -> np.ndarray:
        """The rows of a table that a node owns, mapped."""
        shard, info = table["shards"][node], self.tables[table["name"]]
        file, shape = shard["file"], (shard["rows"], *info.shape)
        if "offset" not in file and "xxh3" not in file:
            raise StorageError(f"{self._dir / file['path']}: not on this machine: node {node} owns its rows")
        if "offset" in file:
            return map_piece(self._dir, file, shape, info.numpy_dtype)
        allowed = (info.numpy_dtype.str, *_ALSO.get(info.dtype, ()))
        # Datasets from before shapes were kept only say how many elements a row has.
        array = map_array(self._dir, file, (shape,), allowed, "r", exact="shape" in table)
        return array.view(info.numpy_dtype)

    def _table(self, name: str) -> dict[str, Any]:
        """A table of the manifest."""
        found = self._shards.get(name)
        if found is None:
            raise UnknownTableError(_unknown(f"no table `{name}` in {self.path}", name, list(self._shards)))
        return found

    def _type_of(self, of: str) -> str:
        """The type that is called so, or whose table is."""
        table = self._shards.get(of)
        if table is None and of not in self._types:
            known = list(dict.fromkeys([*self._shards, *self._types]))
            raise UnknownTableError(_unknown(f"no table or type `{of}` in {self.path}", of, known))
        vertex_type: str = of if table is None else table["vertex_type"]
        if of in self._types and of != vertex_type:
            words = f"`{of}` is a table of vertex type `{vertex_type}` and also a vertex type"
            raise UnknownTableError(f"{words}: name another table of the type you mean")
        return vertex_type

    def _map(self, vertex_type: str) -> IdMap:
        """The two numbers of the vertices of a type."""
        if vertex_type not in self._maps:
            of_type = self._types[vertex_type]
            self._maps[vertex_type] = IdMap(self._dir, of_type, is_renumbered=_is_renumbered(of_type))
        return self._maps[vertex_type]

    def _dataset_ids(self, vertex_type: str, ids: np.ndarray) -> np.ndarray:
        """Ids of a caller as dataset ids that are there."""
        known = self._map(vertex_type)
        return known.to_dataset(ids) if self.ids == "original" else known.checked(ids)


def _is_renumbered(of_type: dict[str, Any]) -> bool:
    """Whether the import gave the vertices of a type other ids than they have in their source."""
    return bool(of_type.get("renumbered", "original_ids" in of_type))


def _show(path: str) -> dict[str, Any]:
    """What ``rudder show --json`` says of a dataset."""
    command = [find_program("rudder"), "show", "--json", "--", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SHOW_TIMEOUT_S)
    if done.returncode != 0:
        raise FormatError(done.stderr.strip().removeprefix("rudder: ") if done.stderr else f"{path}: rudder show failed")
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def _unknown(what: str, asked: str, known: list[str]) -> str:
    """A message about a name that is not there."""
    near = _native.nearest(asked, known)
    listed = ", ".join(f"`{name}`" for name in known[:16]) + (f" and {len(known) - 16} more" if len(known) > 16 else "")
    return f"{what}; there are {listed or 'none'}" + (f"; did you mean `{near}`?" if near else "")


def _open(path: str, ids: str) -> Dataset:
    """Open the dataset that a pickled one stands for."""
    return Dataset(path, ids=ids)
