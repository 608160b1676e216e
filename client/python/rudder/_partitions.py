"""Partitions as PyG and GraphLearn-for-PyTorch (GLT) write them: who owns which id, and the features of each part.

Owns the layouts of both; :mod:`rudder._torch_files` reads the files. It writes nothing, and keeps no more than one chunk of rows that it did
not map. Ids stay what they are in the partition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from ._torch_files import RangeBook, Tensor, load, load_all
from .errors import FormatError

__all__ = ["Partition", "Piece", "Table", "read_glt", "read_pyg"]

#: Name of the only vertex type and of the only edge type of a graph that names none, as in DGL.
NODE_TYPE, EDGE_TYPE = "_N", "_N:_E:_N"

#: Parts that a dataset may have.
PARTS_MAX = 65_535

#: A type of a partition: a vertex's is a string, an edge's has three.
GraphType = Optional[Union[str, tuple[str, str, str]]]


class Piece(NamedTuple):
    """Rows of one part: `rows[i]` belongs to `ids[i]`."""

    part: int
    file: Path
    ids: np.ndarray
    rows: np.ndarray


@dataclass
class Table:
    """A feature, in pieces that come part by part. ``rudder import`` puts its type before its name."""

    name: str
    vertex_type: str
    pieces: Callable[[], Iterator[Piece]]


@dataclass
class Partition:
    """A partition on disk.

    Attributes
    ----------
    parts : int
        Number of parts.
    owners : dict of str to numpy.ndarray
        For each type the part of each id, ``uint16``.
    tables : list of Table
        Its features.
    left_out : list of str
        What it holds that no table can be made of, and why.
    """

    parts: int
    owners: dict[str, np.ndarray] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def _type_name(graph_type: GraphType, default: str) -> str:
    """The name of a type in a dataset: an edge's is ``source:relation:target``, as in GraphBolt."""
    if graph_type is None:
        return default
    return graph_type if isinstance(graph_type, str) else ":".join(graph_type)


def _types(meta: dict[str, Any], key: str, file: Path) -> list[GraphType]:
    """The vertex or edge types of a graph that names them."""
    found = meta.get(key)
    if not isinstance(found, list):
        raise FormatError(f"{file}: `{key}` is not a list")
    types: list[GraphType] = []
    for one in found:
        if isinstance(one, str):
            types.append(one)
        elif isinstance(one, (list, tuple)) and len(one) == 3 and all(isinstance(word, str) for word in one):
            types.append((one[0], one[1], one[2]))
        else:
            raise FormatError(f"{file}: `{key}` holds {one!r}: no name, and not three of them")
    return types


def _parts(meta: Any, file: Path) -> int:
    parts = meta.get("num_parts") if isinstance(meta, dict) else None
    if not isinstance(parts, int) or not 1 <= parts <= PARTS_MAX:
        raise FormatError(f"{file}: `num_parts` is {parts!r}: 1 to {PARTS_MAX} are possible")
    return parts


def _ids(value: Any, file: Path, what: str) -> np.ndarray:
    """A tensor of ids, or of parts."""
    array = value.array if isinstance(value, Tensor) else None
    if array is None or array.ndim != 1 or array.dtype.kind not in "iu":
        raise FormatError(f"{file}: {what} is no one-dimensional tensor of integers")
    return array


def _owners(value: Any, parts: int, file: Path) -> np.ndarray:
    """The part of each id, of a book that is a tensor or ranges."""
    if isinstance(value, RangeBook):
        bounds = np.asarray(value.bounds)
        lengths = np.diff(bounds, prepend=0)
        if len(bounds) != parts or (lengths < 0).any():
            raise FormatError(f"{file}: ranges that are not one ascending bound for each of {parts} parts")
        return np.repeat(np.arange(parts, dtype=np.uint16), lengths)
    owners = _ids(value, file, "the partition book")
    wrong = np.flatnonzero((owners < 0) | (owners >= parts))
    if wrong.size:
        raise FormatError(f"{file}: id {wrong[0]} is owned by part {owners[wrong[0]]}, but there are {parts} parts")
    return owners.astype(np.uint16)


def _features(value: Any, file: Path) -> dict[str, Tensor]:
    """The tensors of a dictionary of features; what is not there in a graph is `None` in it."""
    if not isinstance(value, dict):
        raise FormatError(f"{file}: `feats` is no dictionary")
    found = {}
    for name, tensor in value.items():
        if isinstance(tensor, Tensor):
            found[str(name)] = tensor
        elif tensor is not None:
            raise FormatError(f"{file}: the feature `{name}` is no tensor")
    return found


def read_pyg(folder: Path) -> Partition:
    """Look at a partition of ``torch_geometric.distributed.Partitioner``.

    Parameters
    ----------
    folder : pathlib.Path
        The partition: ``META.json``, ``node_map.pt`` or ``node_map/TYPE.pt``, ``part_I/node_feats.pt``, and the same for edges.

    Returns
    -------
    Partition
        Ids are those of the graph before it was partitioned; each type has its own, from 0.

    Raises
    ------
    FormatError
        If a file is missing or is something else.
    """
    file = folder / "META.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"{file} is missing: name the folder that torch_geometric's Partitioner wrote") from None
    except ValueError as error:
        raise FormatError(f"{file}: {error}") from None
    partition = Partition(_parts(meta, file))
    for kind, default in (("node", NODE_TYPE), ("edge", EDGE_TYPE)):
        types = _types(meta, f"{kind}_types", file) if meta.get("is_hetero") else [None]
        for graph_type in types:
            _add_pyg(partition, folder, kind, default, graph_type)
    return partition


def _add_pyg(partition: Partition, folder: Path, kind: str, default: str, graph_type: GraphType) -> None:
    """Add a type of a PyG partition and its tables."""
    name = _type_name(graph_type, default)
    stem = graph_type if isinstance(graph_type, (str, type(None))) else "__".join(graph_type)
    book = folder / f"{kind}_map.pt" if stem is None else folder / f"{kind}_map" / f"{stem}.pt"
    files = [folder / f"part_{part}" / f"{kind}_feats.pt" for part in range(partition.parts)]
    features: dict[str, None] = {}
    for file in files:
        entry = _pyg_entry(file, graph_type)
        features.update(dict.fromkeys(_features(entry.get("feats", {}), file)))
        for extra in sorted(map(str, entry.keys() - {"feats", "global_id", "id"})):
            note = f"{name}: `{extra}`, which the partition does not keep by ids"
            if note not in partition.left_out:
                partition.left_out.append(note)
    if not features:
        return
    if not book.exists():
        raise FormatError(f"{book} is missing")
    partition.owners[name] = _owners(load(book), partition.parts, book)
    for feature in features:
        pieces = _PygPieces(files, graph_type, feature)
        partition.tables.append(Table(feature, name, pieces))


def _pyg_entry(file: Path, graph_type: GraphType) -> dict[Any, Any]:
    """What a file of features holds for a type; nothing where the graph has no features of this kind."""
    if not file.exists():
        return {}
    found = load(file)
    if isinstance(found, dict) and graph_type is not None:
        found = found.get(graph_type, {})
    if not isinstance(found, dict):
        raise FormatError(f"{file}: no dictionary")
    return found


@dataclass
class _PygPieces:
    """The rows of one feature, part by part."""

    files: list[Path]
    graph_type: GraphType
    feature: str

    def __call__(self) -> Iterator[Piece]:
        entries = [_pyg_entry(file, self.graph_type) for file in self.files]
        # `id` counts from 0 in each type. Where it is missing, some versions of PyG count so in `global_id`, and others
        # over all types.
        all_ids: list[Optional[np.ndarray]] = [
            None if not entry else _ids(entry.get("id", entry.get("global_id")), file, "`global_id`") for entry, file in zip(entries, self.files)
        ]
        lowest = min((int(ids.min()) for ids in all_ids if ids is not None and ids.size), default=0) if self.graph_type else 0
        for part, (file, entry, ids) in enumerate(zip(self.files, entries, all_ids)):
            tensor = _features(entry.get("feats", {}), file).get(self.feature)
            if ids is not None and tensor is not None:
                yield Piece(part, file, ids - lowest if lowest else ids, tensor.array)


def read_glt(folder: Path) -> Partition:
    """Look at a partition of GraphLearn-for-PyTorch.

    Parameters
    ----------
    folder : pathlib.Path
        The partition: ``META``, ``node_pb.pt`` or ``node_pb/TYPE.pt``, ``partI/node_feat/[TYPE/]{feats,ids}.pkl``, and the same for edges.
        A book may be ranges (``RangePartitionBook``), and ids may then be missing: the rows of a part are in the order of its ids.

    Returns
    -------
    Partition
        Ids are those of the graph before it was partitioned.

    Raises
    ------
    FormatError
        If a file is missing or is something else.
    """
    file = folder / "META"
    if not file.exists():
        raise FormatError(f"{file} is missing: name the folder that GraphLearn's partitioner wrote")
    meta: Any = next(load_all(file), None)
    partition = Partition(_parts(meta, file))
    for kind, default in (("node", NODE_TYPE), ("edge", EDGE_TYPE)):
        types = _types(meta, f"{kind}_types", file) if meta.get("data_cls") == "hetero" else [None]
        for graph_type in types:
            _add_glt(partition, folder, kind, default, graph_type)
    return partition


def _add_glt(partition: Partition, folder: Path, kind: str, default: str, graph_type: GraphType) -> None:
    """Add a type of a GLT partition and its table."""
    name = _type_name(graph_type, default)
    stem = graph_type if isinstance(graph_type, (str, type(None))) else "__".join(graph_type)
    below = Path(f"{kind}_feat") if stem is None else Path(f"{kind}_feat") / stem
    folders = [folder / f"part{part}" / below for part in range(partition.parts)]
    if not any(_chunk_file(one, "feats") for one in folders):
        return
    book = folder / f"{kind}_pb.pt" if stem is None else folder / f"{kind}_pb" / f"{stem}.pt"
    if not book.exists():
        raise FormatError(f"{book} is missing")
    owners = _owners(load(book), partition.parts, book)
    partition.owners[name] = owners
    partition.tables.append(Table("feat", name, _GltPieces(folders, owners)))


def _chunk_file(folder: Path, stem: str) -> Path | None:
    """A file of chunks, or of one tensor as older versions of GLT write it."""
    return next((file for file in (folder / f"{stem}.pkl", folder / f"{stem}.pt") if file.exists()), None)


def _chunks(file: Path) -> Iterator[Any]:
    return load_all(file) if file.suffix == ".pkl" else iter((load(file),))


@dataclass
class _GltPieces:
    """The rows of one type, chunk by chunk as the partitioner wrote them."""

    folders: list[Path]
    owners: np.ndarray

    def __call__(self) -> Iterator[Piece]:
        for part, folder in enumerate(self.folders):
            feats = _chunk_file(folder, "feats")
            if feats is not None:
                yield from self._of_part(part, feats, self._id_chunks(part, folder))

    def _id_chunks(self, part: int, folder: Path) -> Iterator[np.ndarray]:
        """The ids of a part as they come."""
        file = _chunk_file(folder, "ids")
        for value in _chunks(file) if file is not None else (None,):
            yield np.flatnonzero(self.owners == part) if value is None else _ids(value, file or folder, "the ids")

    @staticmethod
    def _of_part(part: int, file: Path, id_chunks: Iterator[np.ndarray]) -> Iterator[Piece]:
        """Pair rows with ids: chunks of both need not have the same lengths."""
        ids = np.empty(0, np.int64)
        for value in _chunks(file):
            if not isinstance(value, Tensor) or value.array.ndim < 1:
                raise FormatError(f"{file}: holds something else than tensors with rows")
            rows = value.array
            while len(ids) < len(rows):
                more = next(id_chunks, None)
                if more is None:
                    raise FormatError(f"{file}: more rows than ids")
                ids = np.concatenate((ids, more))
            yield Piece(part, file, ids[: len(rows)], rows)
            ids = ids[len(rows) :]
        if len(ids) or next(id_chunks, None) is not None:
            raise FormatError(f"{file}: fewer rows than ids")
