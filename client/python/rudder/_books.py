"""Who owns which id of a dataset, and the two numbers of a vertex: the one that it has in your own files, and the one that the
import gave it. All arithmetic is on dataset ids. Nothing here knows of tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ._mapped import map_array
from .errors import IdOutOfRangeError

__all__ = ["Book", "IdMap"]


class Book:
    """Who owns which dataset id of a vertex or edge type.

    Attributes
    ----------
    rows : int
        Number of ids, from 0.
    ranges : list of range, optional
        For each node the ids that it owns, where these are ranges; nothing where a map says who owns which.
    """

    def __init__(self, rows: int, nodes: int, starts: list[int] | None, owner: np.ndarray | None, row: np.ndarray | None) -> None:
        self.rows = rows
        self.ranges = None if starts is None else [range(*ends) for ends in zip(starts[:-1], starts[1:])]
        self._nodes = nodes
        self._starts = None if starts is None else np.array(starts, np.int64)
        self._owner, self._row = owner, row

    @classmethod
    def open(cls, folder: Path, of_type: dict[str, Any], nodes: int) -> Book:
        """Read the book of a type of the manifest."""
        book, rows = of_type["book"], of_type["rows"]
        if book["kind"] == "ranges":
            return cls(rows, nodes, book["starts"], None, None)
        owner = map_array(folder, book["owner"], ((rows,),), ("|u1", "<u2"), "r")
        row = map_array(folder, book["row"], ((rows,),), ("<u4", "<u8"), "r") if "row" in book else None
        return cls(rows, nodes, None, owner, row)

    def owner(self, ids: np.ndarray) -> np.ndarray:
        """The node that owns each dataset id.

        Parameters
        ----------
        ids : numpy.ndarray of int
            Dataset ids.

        Returns
        -------
        numpy.ndarray
            ``uint16``.

        Raises
        ------
        IdOutOfRangeError
            If an id is not below :attr:`rows`.
        """
        ids = checked(ids, self.rows)
        if self._owner is not None:
            return self._owner[ids].astype(np.uint16)
        # The last range that begins at or before the id: empty ranges before it own nothing.
        return (np.searchsorted(self._starts, ids, side="right") - 1).astype(np.uint16)

    def of_node(self, node: int) -> np.ndarray:
        """The dataset ids that a node owns, in the order of its shards.

        Parameters
        ----------
        node : int
            Number of the node.

        Returns
        -------
        numpy.ndarray
            ``int64``.

        Raises
        ------
        IndexError
            If there is no such node.
        """
        if not 0 <= node < self._nodes:
            raise IndexError(f"node {node}: the dataset has {self._nodes} parts (node 0 to {self._nodes - 1})")
        if self.ranges is not None:
            owned = self.ranges[node]
            return np.arange(owned.start, owned.stop, dtype=np.int64)
        ids = np.flatnonzero(self._owner == node)
        return ids if self._row is None else ids[np.argsort(self._row[ids], kind="stable")]

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The owner of each dataset id, and its row in the owner's shards.

        Parameters
        ----------
        ids : numpy.ndarray of int
            Dataset ids.

        Returns
        -------
        owners, rows : numpy.ndarray
            ``uint16`` and ``int64``.

        Raises
        ------
        IdOutOfRangeError
            As :meth:`owner`.
        """
        owners = self.owner(ids)
        if self._starts is not None:
            return owners, ids.astype(np.int64) - self._starts[owners]
        if self._row is None:
            # Another thread may call meanwhile: it must not find rows that are not filled in yet.
            rows = np.empty(self.rows, np.int64)
            for node in range(self._nodes):
                of_node = np.flatnonzero(self._owner == node)
                rows[of_node] = np.arange(len(of_node))
            self._row = rows
        return owners, self._row[ids].astype(np.int64)


class IdMap:
    """The two numbers of the vertices of a type."""

    def __init__(self, folder: Path, of_type: dict[str, Any], *, is_renumbered: bool) -> None:
        self._folder, self._of_type, self._rows = folder, of_type, of_type["rows"]
        self._is_renumbered = is_renumbered
        self._original: np.ndarray | None = None
        self._inverse: np.ndarray | None = None

    def _original_ids(self) -> np.ndarray:
        """The original id of each dataset id."""
        if self._original is None:
            self._original = map_array(self._folder, self._of_type["original_ids"], ((self._rows,),), ("<u8",), "r")
        return self._original

    def _dataset_ids(self) -> np.ndarray:
        """The dataset id of each original id where these are 0 to rows - 1; else pairs of both, in their order."""
        if self._inverse is None and "dataset_ids" in self._of_type:
            shapes = ((self._rows,), (self._rows, 2))
            self._inverse = map_array(self._folder, self._of_type["dataset_ids"], shapes, ("<u8", "<u4"), "r")
        elif self._inverse is None:
            # Datasets from before this file was kept.
            original = self._original_ids()
            order = np.argsort(original, kind="stable").astype(np.uint64)
            is_dense = self._rows == 0 or int(original[order[-1]]) == self._rows - 1
            self._inverse = order if is_dense else np.stack((original[order], order), axis=1)
        return self._inverse

    def checked(self, ids: np.ndarray) -> np.ndarray:
        """Dataset ids that are there, as ``int64``."""
        return checked(ids, self._rows)

    def to_original(self, ids: np.ndarray) -> np.ndarray:
        """Original ids, ``uint64``, of dataset ids."""
        ids = self.checked(ids)
        return self._original_ids()[ids] if self._is_renumbered else ids.astype(np.uint64)

    def to_dataset(self, ids: np.ndarray) -> np.ndarray:
        """Dataset ids, ``uint64``, of original ids."""
        if not self._is_renumbered:
            return self.checked(ids).astype(np.uint64)
        inverse = self._dataset_ids()
        if inverse.ndim == 1:
            return inverse[self.checked(ids)].astype(np.uint64)
        refuse_negative(ids)
        wanted = ids.astype(np.uint64)
        places = np.minimum(np.searchsorted(inverse[:, 0], wanted), self._rows - 1)
        absent = np.flatnonzero(inverse[places, 0] != wanted)
        if absent.size:
            at = int(absent[0])
            words = f"no vertex of type `{self._of_type['name']}` has this original id"
            raise IdOutOfRangeError(f"ids[{at}] is {ids[at]}: {words}")
        return inverse[places, 1]

    def ranks(self) -> np.ndarray | None:
        """The place of each dataset id among all original ids in ascending order; nothing where ids were kept."""
        if not self._is_renumbered:
            return None
        inverse = self._dataset_ids()
        if inverse.ndim == 1:
            return self._original_ids().view(np.int64)
        ranks = np.empty(self._rows, np.int64)
        ranks[inverse[:, 1]] = np.arange(self._rows)
        return ranks


def refuse_negative(ids: np.ndarray) -> None:
    """Fail where an id is below 0."""
    if ids.dtype.kind == "i" and ids.size and int(ids.min()) < 0:
        at = int(np.argmax(ids < 0))
        raise ValueError(f"ids[{at}] is {ids[at]}: ids are numbers of rows and never negative")


def checked(ids: np.ndarray, rows: int) -> np.ndarray:
    """Ids as ``int64``, all from 0 and below `rows`."""
    refuse_negative(ids)
    if ids.size and int(ids.max()) >= rows:
        at = int(np.argmax(ids >= rows))
        raise IdOutOfRangeError(f"ids[{at}] is {ids[at]}, but there are {rows} rows: ids are 0 to {rows - 1}")
    return ids.astype(np.int64, copy=False)
