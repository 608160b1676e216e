"""The tables of a dataset: what each is, and the errors for those that it does not have.

It owns the element types as NumPy and torch know them, and the convention of names: ``TYPE.ATTR``, for edges
``SOURCE:RELATION:TARGET.ATTR``. It must never ask the daemon: everything here was told at the connection.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _native
from .errors import UnknownTableError

__all__ = ["NUMPY_DTYPES", "TableInfo", "edge_type_of", "same_dtype", "table_of"]

#: Element types of arrays, by their names in the dataset. NumPy has no brain float: its bits are ``uint16``.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
    "f64": np.dtype("<f8"),
    "i64": np.dtype("<i8"),
    "u8": np.dtype("u1"),
    "i32": np.dtype("<i4"),
    "i16": np.dtype("<i2"),
    "i8": np.dtype("i1"),
    "bool": np.dtype("?"),
    "u16": np.dtype("<u2"),
    "u32": np.dtype("<u4"),
    "u64": np.dtype("<u8"),
}


@dataclass(frozen=True)
class TableInfo:
    """One feature table of the dataset.

    Attributes
    ----------
    name : str
        Name, unique in the dataset: ``"paper.x"``, ``"author:writes:paper.weight"``, or ``"x"`` alone where the graph has one
        unnamed vertex type.
    vertex_type : str
        Vertex type, or edge type (``"author:writes:paper"``), whose ids index the table.
    dtype : str
        Element type: ``"f32"``, ``"f16"``, ``"bf16"``, ``"f64"``, ``"i64"``, ``"i32"``, ``"i16"``, ``"i8"``, ``"u64"``,
        ``"u32"``, ``"u16"``, ``"u8"`` or ``"bool"``.
    width : int
        Elements per row: the product of `shape`.
    shape : tuple of int
        Shape of one row, as it went into the dataset: ``()`` for a table ``[n]``, ``(1,)`` for ``[n, 1]``, ``(2, 3)`` for
        ``[n, 2, 3]``.
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
    """

    name: str
    vertex_type: str
    dtype: str
    width: int
    shape: tuple[int, ...]
    rows: int
    local_rows: int
    renumbered: bool
    named: bool
    ids: str

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Type of the arrays that NumPy callers get; ``uint16`` for ``"bf16"``, a type that NumPy does not have."""
        return NUMPY_DTYPES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.numpy_dtype.itemsize

    @property
    def attr(self) -> str:
        """Name of the attribute: ``"x"`` of ``"paper.x"``."""
        before = f"{self.vertex_type}."
        return self.name[len(before) :] if self.name.startswith(before) else self.name

    @property
    def edge_type(self) -> tuple[str, str, str] | None:
        """``(source, relation, target)`` where the ids are those of edges; nothing for a table of vertices."""
        return edge_type_of(self.vertex_type)


def edge_type_of(name: str) -> tuple[str, str, str] | None:
    """The three parts of the name of an edge type.

    Parameters
    ----------
    name : str
        Name of a type in the dataset.

    Returns
    -------
    tuple of str, optional
        Nothing for a vertex type: only the names of edge types have two colons.
    """
    source, relation, target = name.split(":") if name.count(":") == 2 else ("", "", "")
    return (source, relation, target) if source and target else None


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
    name = "bfloat16" if info.dtype == "bf16" else info.numpy_dtype.name
    return dtype is getattr(sys.modules["torch"], name, None)


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
        raise _unknown(name, tables)
    return info


def _unknown(name: Any, tables: Mapping[str, TableInfo]) -> Exception:
    """The error for a name that no table has."""
    if not isinstance(name, str):
        return TypeError(f"a table is named by text, not by {type(name).__name__}")
    return UnknownTableError(f"no table `{name}`; the daemon serves {_native.listed(name, list(tables))}")
