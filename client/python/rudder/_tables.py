"""The tables of a dataset: what each is, and the errors for those that it does not have.

It owns the element types as NumPy and torch know them, and the convention of names: ``TYPE.ATTR``, for edges
``SOURCE:RELATION:TARGET.ATTR``. It must never ask the daemon: everything here was told at the connection.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import UnknownTableError

__all__ = ["TableInfo", "same_dtype", "table_of", "unknown_table", "unknown_vertex_type"]

#: Element types as NumPy and as torch name them.
_DTYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "f32": (np.dtype("<f4"), "float32"),
    "f16": (np.dtype("<f2"), "float16"),
    "bf16": (np.dtype("<u2"), "bfloat16"),
    "f64": (np.dtype("<f8"), "float64"),
    "i64": (np.dtype("<i8"), "int64"),
    "i32": (np.dtype("<i4"), "int32"),
    "i16": (np.dtype("<i2"), "int16"),
    "i8": (np.dtype("i1"), "int8"),
    "u16": (np.dtype("<u2"), "uint16"),
    "u8": (np.dtype("u1"), "uint8"),
    "bool": (np.dtype("?"), "bool"),
}

#: Names that an error lists at most.
_NAMES_LISTED = 20


@dataclass(frozen=True)
class TableInfo:
    """One feature table of the dataset.

    Attributes
    ----------
    name : str
        Name, unique in the dataset: ``TYPE.ATTR``, or ``ATTR`` alone where the graph has one vertex type without a name.
    vertex_type : str
        Vertex type whose ids index the table; of edges ``SOURCE:RELATION:TARGET``.
    dtype : str
        Element type: ``"f32"``, ``"f16"``, ``"bf16"``, ``"f64"``, ``"i64"``, ``"i32"``, ``"i16"``, ``"i8"``, ``"u16"``,
        ``"u8"`` or ``"bool"``.
    width : int
        Elements per row.
    rows : int
        Rows of the whole table, over all nodes; dataset ids are below this.
    local_rows : int
        Rows that this node owns.
    renumbered : bool
        Whether the import gave the vertices other ids than they have in their source.
    named : bool
        Whether vertices can be found by names (:meth:`Client.ids_of_names`).
    ids : str
        Which numbers the ids of this client are, as :attr:`Client.ids` says: ``"original"`` or ``"dataset"``. Where vertices
        were not renumbered, the two are the same.
    shape : tuple of int
        Shape of one row: ``()`` where the source has one number per vertex, ``(2, 3)`` where it has ``[n, 2, 3]``.
    """

    name: str
    vertex_type: str
    dtype: str
    width: int
    rows: int
    local_rows: int
    renumbered: bool
    named: bool
    ids: str
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Type of the arrays that NumPy callers get; ``uint16`` for ``"bf16"``, a type that NumPy does not have."""
        return _DTYPES[self.dtype][0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.numpy_dtype.itemsize

    @property
    def attr(self) -> str:
        """The attribute: ``"x"`` of ``"paper.x"``; the whole name where it does not begin with the type."""
        prefix = f"{self.vertex_type}."
        return self.name[len(prefix) :] if self.name.startswith(prefix) else self.name

    @property
    def edge_type(self) -> tuple[str, str, str] | None:
        """``(source, relation, target)`` of a table of edges, ``None`` of a table of vertices."""
        parts = self.vertex_type.split(":")
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def same_dtype(info: TableInfo, dtype: Any) -> bool:
    """Whether the elements of a table are those of an array or a tensor.

    Parameters
    ----------
    info : TableInfo
        The table.
    dtype : numpy.dtype or torch.dtype
        Type of the array or the tensor.
    """
    if isinstance(dtype, np.dtype):
        return bool(dtype == info.numpy_dtype)
    return dtype is getattr(sys.modules["torch"], _DTYPES[info.dtype][1], None)


def table_of(tables: Mapping[str, TableInfo], name: Any) -> TableInfo:
    """The table of a name.

    Raises
    ------
    UnknownTableError
        If there is no such table; the message names those that are spelt nearly so.
    TypeError
        If the name is not text.
    """
    info = tables.get(name) if isinstance(name, str) else None
    if info is None:
        raise unknown_table(name, tables)
    return info


def unknown_table(name: Any, tables: Mapping[str, TableInfo]) -> Exception:
    """The error for a name that no table has."""
    if not isinstance(name, str):
        return TypeError(f"a table is named by text, not by {type(name).__name__}")
    return UnknownTableError(f"no table `{name}`{_nearest(name, tables)}")


def unknown_vertex_type(name: str, tables: Mapping[str, TableInfo]) -> UnknownTableError:
    """The error for a name that neither a table nor a vertex type has."""
    known = list(dict.fromkeys([*tables, *(info.vertex_type for info in tables.values())]))
    return UnknownTableError(f"no table or vertex type `{name}`{_nearest(name, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """What an error says after the name: those that are spelt nearly so, and those that there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    # A name without its type, or with another: "x" for "paper.x", "papers.x" for "paper.x".
    attr = name.rpartition(".")[2]
    near += [other for other in names if other not in near and attr == other.rpartition(".")[2]][: 3 - len(near)]
    meant = f"; did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else ""
    listed = ", ".join(f"`{other}`" for other in names[:_NAMES_LISTED])
    more = f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else ""
    return f"{meant or ';'} the dataset has {listed}{more}"
