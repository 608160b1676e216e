"""What a call asks for: one table, several with the same ids, several with their own, or a batch that was announced.

It owns the forms of the arguments and the form of the answer. It must never send anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np

from ._arrays import Ids, as_ids, check_out, written
from ._tables import TableInfo, table_of
from .errors import LimitError

__all__ = ["Asker", "Batch", "Of", "Wanted", "is_mask", "piece_rows"]

#: Rows of a slice, a mask or a whole table that are fetched at a time, and their bytes.
PIECE_ROWS_MAX = 65_536
PIECE_BYTES_MAX = 16 << 20


class Batch:
    """A minibatch that was announced; :meth:`Client.announce` makes it and :meth:`Client.fetch` takes it.

    Its ids cross to the daemon once, when it is announced. It can be pickled, so that one process of a trainer announces what
    another one fetches. It keeps the ids: a daemon that has forgotten the batch is asked with them. Do not change them
    before the batch is fetched.

    Attributes
    ----------
    number : int or None
        Its number, unique within the trainer; ``None`` if it was made while the client was paused and nothing was announced.
    trainer : int
        The trainer that announced it.
    ids_are : str
        Which numbers its ids are, as :attr:`Client.ids` says.
    tables : tuple of str
        The tables, in the order in which they were given.
    ids : dict of str to numpy.ndarray
        By table.
    """

    __slots__ = ("_is_one", "_parts", "_tensors", "ids_are", "number", "trainer")

    def __init__(
        self,
        number: int | None,
        trainer: int,
        ids_are: str,
        parts: list[tuple[str, np.ndarray]],
        tensors: list[bool],
        is_one: bool,
    ) -> None:
        self.number = number
        self.trainer = trainer
        self.ids_are = ids_are
        self._parts = parts
        self._tensors = tensors
        self._is_one = is_one

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._parts)

    @property
    def ids(self) -> dict[str, np.ndarray]:
        return dict(self._parts)

    def __repr__(self) -> str:
        parts = ", ".join(f"{len(ids)} of {name!r}" for name, ids in self._parts)
        return f"<rudder.Batch {self.number}: {parts or 'no ids'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self.number, self.trainer, self.ids_are, self._parts, self._tensors, self._is_one)


#: What names the tables of a call.
Of = Union[str, Sequence[str], Mapping[str, Any], Batch]


class Wanted:
    """What one call asks for.

    Attributes
    ----------
    infos : list of TableInfo
        The table of each part.
    ids : list of numpy.ndarray or range
        The ids of each part; a range for a slice, a range and ``None``.
    tensors : list of bool
        Whether the rows of each part become a tensor.
    is_one : bool
        Whether the answer is the rows of the one part, and not a mapping.
    batch : int or None
        The number of an announced batch.
    selected : list of bool
        Which parts select rows of their table by a mask, a slice or ``None``: those may be fetched in pieces.
    """

    __slots__ = ("batch", "ids", "infos", "is_one", "selected", "tensors")

    def __init__(self, is_one: bool) -> None:
        self.infos: list[TableInfo] = []
        self.ids: list[Ids] = []
        self.tensors: list[bool] = []
        self.is_one = is_one
        self.batch: int | None = None
        self.selected: list[bool] = []

    def add(self, info: TableInfo, ids: Any, whole_bytes_max: int) -> None:
        """Add the rows of one table."""
        if ids is None and info.rows * info.row_bytes > whole_bytes_max:
            raise LimitError(
                f"table `{info.name}` has {info.rows * info.row_bytes} bytes, and ids=None fetches tables of up to "
                f"whole_bytes_max = {whole_bytes_max} of this client: give ids or a slice, or raise it in connect()"
            )
        array, is_tensor = as_ids(ids, info)
        self._put(info, array, is_tensor, isinstance(array, range) or is_mask(ids))

    def add_same(self, info: TableInfo, first: int) -> None:
        """Add the rows of another table by the ids of the part numbered ``first``."""
        self._put(info, self.ids[first], self.tensors[first], self.selected[first])

    def _put(self, info: TableInfo, ids: Ids, is_tensor: bool, selected: bool) -> None:
        self.infos.append(info)
        self.ids.append(ids)
        self.tensors.append(is_tensor)
        self.selected.append(selected)

    def parts(self) -> list[tuple[str, np.ndarray]]:
        """The parts that are not fetched in pieces as the native client takes them, with every range written out."""
        whole = [(info, ids) for info, ids, large in zip(self.infos, self.ids, self.large()) if not large]
        # Parts with the same ids hand over one array: it crosses once.
        arrays = {id(ids): written(ids) for _, ids in whole}
        return [(info.name, arrays[id(ids)]) for info, ids in whole]

    def large(self) -> list[bool]:
        """Which parts select more rows than are fetched at a time, and come in pieces."""
        return [
            selected and len(ids) > piece_rows(info)
            for selected, info, ids in zip(self.selected, self.infos, self.ids)
        ]

    def in_pieces(self) -> bool:
        """Whether a part comes in pieces."""
        return any(self.large())

    def make_tensors(self) -> None:
        """Have all rows become tensors."""
        # Asked for by name: this process may not have imported torch yet.
        importlib.import_module("torch")
        self.tensors = [True] * len(self.infos)

    def formed(self, rows: list[Any]) -> Any:
        """The rows of the parts in the form in which they were asked for."""
        if self.is_one:
            return rows[0]
        return {info.name: part for info, part in zip(self.infos, rows)}

    def outs(self, out: Any) -> list[Any]:
        """For each part what its rows are to be put into, checked, or ``None``."""
        if out is None:
            return [None] * len(self.infos)
        if self.is_one:
            outs = [out]
        elif not isinstance(out, Mapping):
            raise TypeError(f"out must be a mapping of table names for several tables, not {type(out).__name__}")
        else:
            outs = [out.get(info.name) for info in self.infos]
            strangers = set(out) - {info.name for info in self.infos}
            if strangers:
                raise ValueError(f"out has {sorted(map(str, strangers))}, which this call does not fetch")
        for given, info, ids in zip(outs, self.infos, self.ids):
            if given is not None:
                check_out(given, len(ids), info)
        return outs


def is_mask(ids: Any) -> bool:
    """Whether ids are a mask, in an array or a tensor."""
    dtype = getattr(ids, "dtype", None)
    return bool(dtype == np.bool_) if isinstance(dtype, np.dtype) else str(dtype) == "torch.bool"


def piece_rows(info: TableInfo) -> int:
    """Rows of a table that are fetched at a time."""
    return max(1, min(PIECE_ROWS_MAX, PIECE_BYTES_MAX // max(1, info.row_bytes)))


class Asker:
    """What a client knows when it reads the arguments of a call.

    Attributes
    ----------
    tables : dict of str to TableInfo
        Those of the dataset.
    whole_bytes_max : int
        Bytes of the largest table that ``ids=None`` fetches.
    trainer : int
        Whose batches it takes.
    ids_are : str
        Which numbers its ids are.
    """

    __slots__ = ("ids_are", "tables", "trainer", "whole_bytes_max")

    def __init__(self, tables: dict[str, TableInfo], whole_bytes_max: int, trainer: int, ids_are: str) -> None:
        self.tables = tables
        self.whole_bytes_max = whole_bytes_max
        self.trainer = trainer
        self.ids_are = ids_are

    def wanted(self, of: Of, ids: Any) -> Wanted:
        """Read the arguments of a call.

        Parameters
        ----------
        of, ids
            As :meth:`Client.fetch`.

        Returns
        -------
        Wanted

        Raises
        ------
        UnknownTableError, LimitError, TypeError, ValueError
            As :meth:`Client.fetch`.
        """
        if isinstance(of, str):
            want = Wanted(is_one=True)
            want.add(table_of(self.tables, of), ids, self.whole_bytes_max)
        elif isinstance(of, Batch):
            _refuse_ids(ids, "a batch")
            want = self._of_batch(of)
        elif isinstance(of, Mapping):
            _refuse_ids(ids, "a mapping")
            want = Wanted(is_one=False)
            for name, own in of.items():
                want.add(table_of(self.tables, name), own, self.whole_bytes_max)
        elif isinstance(of, (list, tuple)):
            want = self._of_list(of, ids)
        else:
            kind = type(of).__name__
            raise TypeError(f"give a table's name, a list of names, a mapping of names to ids, or a Batch, not {kind}")
        return want

    def _of_list(self, of: Sequence[str], ids: Any) -> Wanted:
        want = Wanted(is_one=False)
        for name in of:
            info = table_of(self.tables, name)
            if info in want.infos:
                raise ValueError(f"table {name!r} is named twice")
            # Masks, slices and None mean other ids where a table has other rows.
            same = [at for at, other in enumerate(want.infos) if other.rows == info.rows]
            if same and ids is not None:
                want.add_same(info, same[0])
            else:
                want.add(info, ids, self.whole_bytes_max)
        return want

    def _of_batch(self, batch: Batch) -> Wanted:
        if batch.trainer != self.trainer:
            raise ValueError(
                f"batch {batch.number} was announced by trainer {batch.trainer}, and this client belongs to trainer "
                f"{self.trainer}: connect with trainer= of the client that announced it"
            )
        if batch.ids_are != self.ids_are:
            raise ValueError(
                f"batch {batch.number} was announced with {batch.ids_are} ids, and this client takes {self.ids_are} ids: "
                f"connect with ids={batch.ids_are!r}"
            )
        want = Wanted(is_one=batch._is_one)
        want.batch = batch.number
        if any(batch._tensors):
            # Another process may have announced it with tensors, and this one not have imported torch yet.
            importlib.import_module("torch")
        for (name, ids), is_tensor in zip(batch._parts, batch._tensors):
            want._put(table_of(self.tables, name), ids, is_tensor, False)
        return want


def _refuse_ids(ids: Any, what: str) -> None:
    if ids is not None:
        raise TypeError(f"{what} has its ids: give no others")
