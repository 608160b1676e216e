"""The client: options, tables and fetches, as Python objects over the native client."""

from __future__ import annotations

import json
import math
import operator
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union, overload

import numpy as np

from . import _native
from ._arrays import as_ids, as_ids_of, as_row_bytes, as_rows

if TYPE_CHECKING:
    import torch  # type: ignore[import-not-found, unused-ignore]

__all__ = ["ARENA_BYTES_MAX", "Client", "Pending", "TableInfo", "connect"]

#: Shared memory that a client may take by default, in bytes.
ARENA_BYTES_MAX = 64 << 30

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

_U32_MAX = (1 << 32) - 1
_STEP_MAX = 2**63 - 1
_TRAINER_MAX = 2**128 - 1

#: Longest timeout, in seconds: a year.
_TIMEOUT_S_MAX = 365 * 24 * 3600

Path = Union[str, "os.PathLike[str]"]


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


class Pending:
    """A fetch in flight, made by :meth:`Client.fetch_async`. Dropping it gives the rows up."""

    __slots__ = ("_is_tensor", "_native")

    def __init__(self, native: _native.Pending, is_tensor: bool) -> None:
        self._native = native
        self._is_tensor = is_tensor

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once, with rows or an error. This never blocks.

        Returns
        -------
        bool
        """
        return self._native.done()

    def wait(self) -> Any:
        """Wait for the rows.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            As :meth:`Client.fetch`.

        Raises
        ------
        RudderError
            As :meth:`Client.fetch`.
        RuntimeError
            If the rows were taken before.
        """
        return as_rows(self._native.wait(), self._is_tensor)


class Course:
    """How far the loaders of one client have come: where the next one counts on.

    Attributes
    ----------
    epoch : int
        The epoch with which the next loader begins.
    steps : dict of str to int
        By table, the step of the next announcement.
    """

    __slots__ = ("_pid", "epoch", "steps")

    def __init__(self, is_joined: bool = False) -> None:
        self.epoch = 0
        self.steps: dict[str, int] = {}
        self._pid = None if is_joined else os.getpid()

    def next_step(self, tables: Iterable[str]) -> int | None:
        """Take the number of an announcement that names these tables.

        The daemon takes a step that does not grow for a new training, and drops what was announced before. So processes that
        have joined a trainer (forked, or with an unpickled client) give no numbers: they do not know each other's.
        """
        if self._pid != os.getpid():
            return None
        step = max((self.steps.get(table, 0) for table in tables), default=0)
        self.steps.update((table, step + 1) for table in tables)
        return step

    def begin_again(self, tables: Iterable[str]) -> None:
        """What was announced for these tables is not fetched: the next announcement is the first of a new training."""
        self.steps.update((table, 0) for table in tables)

    def announced(self, table: str, step: int) -> None:
        """Note that an announcement had the number ``step`` of its caller."""
        self.steps[table] = max(self.steps.get(table, 0), step + 1)


class Client:
    """A connection to the daemon of this node; :func:`connect` makes one.

    Threads may share a client, and their fetches run side by side. A forked process may go on using it: its first call
    connects again. A pickled client connects again where it is unpickled, with the same options. Both belong to the
    trainer of the client they came from. If the daemon was restarted, the next call connects again; fetches that were in
    flight fail with :class:`ConnectionLostError`. A daemon that serves another dataset than the client knew is never
    asked for rows: :class:`TablesChangedError`.

    Parameters
    ----------
    socket, timeout_s, inline, arena_bytes_max, name, trainer, ids, fingerprint
        As :func:`connect`.
    """

    __slots__ = ("__weakref__", "_course", "_native", "_options", "_tables")

    def __init__(
        self,
        socket: Path | None = None,
        *,
        timeout_s: float = 30.0,
        inline: bool = False,
        arena_bytes_max: int = ARENA_BYTES_MAX,
        name: str | None = None,
        trainer: int | None = None,
        ids: str = "original",
        fingerprint: str | None = None,
    ) -> None:
        if not 0 < timeout_s <= _TIMEOUT_S_MAX:
            raise ValueError(f"timeout_s is {timeout_s}: it must be above 0 and at most {_TIMEOUT_S_MAX}, a year")
        arena_bytes_max = _integer("arena_bytes_max", arena_bytes_max, 1, 2**63 - 1)
        if trainer is not None:
            trainer = _integer("trainer", trainer, 0, _TRAINER_MAX)
        timeout_ms = max(1, round(timeout_s * 1000))
        path = None if socket is None else os.fspath(socket)
        self._options = {
            "socket": path,
            "timeout_s": timeout_s,
            "inline": inline,
            "arena_bytes_max": arena_bytes_max,
            "name": name,
            "ids": ids,
        }
        known = None if fingerprint is None else _fingerprint(fingerprint)
        self._native = _native.Client(path, timeout_ms, inline, arena_bytes_max, name, trainer, ids, known)
        # Also in the options, so that a pickled client stays with its trainer and its dataset.
        self._options["trainer"] = self._native.trainer
        self._options["fingerprint"] = self.fingerprint
        self._course = Course()
        tables = (TableInfo(*fields, ids) for fields in self._native.tables())
        self._tables = {table.name: table for table in tables}

    def __repr__(self) -> str:
        socket = self._options["socket"] or os.environ.get("RUDDER_SOCKET") or "the standard socket"
        return f"<rudder.Client of node {self.node} at {socket}>"

    def __reduce__(self) -> tuple[Callable[..., Client], tuple[dict[str, Any]]]:
        return _reconnect, (self._options,)

    @property
    def node(self) -> int:
        """Number of the partition that this daemon owns."""
        return self._native.node

    @property
    def trainer(self) -> int:
        """Number of the trainer that this client belongs to.

        Announcements and progress belong to a trainer and not to a connection: what one process of the trainer announces,
        another may fetch. Forked and unpickled clients keep the number; ``connect(trainer=client.trainer)`` joins it.
        """
        return self._native.trainer

    @property
    def ids(self) -> str:
        """Which numbers the ids of this client are.

        ``"original"``: those of the user's own files, from before the import. ``"dataset"``: those that the import gave.
        """
        return self._native.ids

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset, 16 hexadecimal digits; any change of a file or an id gives another."""
        return f"{self._native.fingerprint:016x}"

    def tables(self) -> dict[str, TableInfo]:
        """The tables of the dataset.

        Returns
        -------
        dict of str to TableInfo
            By name, in the order of the dataset.
        """
        return dict(self._tables)

    @overload
    def fetch(self, table: str, ids: torch.Tensor) -> torch.Tensor: ...

    @overload
    def fetch(self, table: str, ids: np.ndarray | Sequence[int]) -> np.ndarray: ...

    def fetch(self, table: str, ids: Any) -> Any:
        """Fetch rows, local and remote mixed, in the order of the ids.

        The result is the shared memory that the daemon gathered the rows into. It belongs to the caller alone, to read and to
        write, until the last array, view or tensor over it is gone. Then it serves other fetches.

        Parameters
        ----------
        table : str
            Name of the table.
        ids : array_like of int or torch.Tensor
            One-dimensional, any order, duplicates allowed. Contiguous ``uint64`` and ``int64`` are read in place.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            ``[len(ids), *shape]`` of :attr:`TableInfo.numpy_dtype`; a tensor on the CPU if ``ids`` is a tensor, and then
            ``torch.bfloat16`` for a table of ``bf16``.

        Raises
        ------
        UnknownTableError
            If there is no such table.
        IdOutOfRangeError
            If an id is not below the table's number of rows.
        PeerUnavailableError
            If a peer that owns some of the rows is gone.
        RudderError
            For whatever else the daemon refuses or the connection suffers.
        TypeError, ValueError
            If the ids are not integers, negative, or not one-dimensional.
        """
        array, is_tensor = as_ids(ids)
        return as_rows(self._native.fetch(table, array), is_tensor)

    def fetch_async(self, table: str, ids: Any) -> Pending:
        """Send a fetch and return at once; several may be in flight.

        Parameters
        ----------
        table, ids
            As :meth:`fetch`. The ids are read before this returns.

        Returns
        -------
        Pending
            Its ``wait()`` gives the rows.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`fetch`, for what fails before anything is sent.
        """
        array, is_tensor = as_ids(ids)
        return Pending(self._native.fetch_async(table, array), is_tensor)

    def announce(self, table: str, ids: Any, step: int | None = None) -> int:
        """Say which ids a coming minibatch will fetch, so that their rows are there in time.

        A fetch is known by its ids: fetch exactly these, in this order, from any process of this trainer. A fetch that was
        not announced is served like any other. :class:`Loader` announces by itself.

        Parameters
        ----------
        table, ids
            As :meth:`fetch`.
        step : int, optional
            The trainer's number for the minibatch, growing by one per step. By default minibatches follow each other in
            the order in which their announcements arrive.

        Returns
        -------
        int
            Minibatches that the daemon would like announced ahead; it follows the size of its cache.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`fetch`; :class:`LimitError` if too many announced rows wait: go on, and announce later.
        """
        if step is not None:
            step = _integer("step", step, 0, _STEP_MAX)
        array, _ = as_ids(ids)
        horizon = self._native.announce(table, array, step)
        if step is not None:
            self._course.announced(table, step)
        return horizon

    def progress(self, epoch: int, step: int, steps_per_epoch: int) -> None:
        """Tell the daemon's cache how far this trainer has come.

        Its scores are computed from that, so call this at each step. A :class:`Loader` calls it by itself.

        Parameters
        ----------
        epoch : int
            Epochs ended so far.
        step : int
            Steps of this epoch ended so far.
        steps_per_epoch : int
            Steps of an epoch, above 0.

        Raises
        ------
        TypeError, ValueError
            If a number is no integer, negative, or above 2**32 - 1.
        RudderError
            What the connection suffers.
        """
        self._native.progress(
            _integer("epoch", epoch, 0, _U32_MAX),
            _integer("step", step, 0, _U32_MAX),
            _integer("steps_per_epoch", steps_per_epoch, 1, _U32_MAX),
        )

    def update(self, table: str, ids: Any, rows: Any) -> int:
        """Write rows, local and remote mixed, through to the nodes that own them.

        When this returns, the owners have the rows, and every later fetch on this node gets them. Other nodes that have
        cached them follow when they refresh, or within the daemon's ``cache.staleness_max_ms``. An update lives as long
        as the owner's daemon.

        Parameters
        ----------
        table, ids
            As :meth:`fetch`. Of an id that appears twice, the last row stays.
        rows : array_like or torch.Tensor
            ``[len(ids), *shape]`` of :attr:`TableInfo.numpy_dtype`; for ``bf16`` also a tensor of ``torch.bfloat16``.

        Returns
        -------
        int
            Distinct rows written.

        Raises
        ------
        PeerUnavailableError
            If a peer that owns some of the rows is gone; the message says how many rows certainly were written.
        LimitError
            If an owner has no room for more updated rows.
        RudderError
            As :meth:`fetch`.
        TypeError, ValueError
            If ids or rows are of another type or shape.
        """
        array, _ = as_ids(ids)
        info = self._tables.get(table)
        if info is None:
            # The native client names the tables that there are.
            return self._native.update(table, array, np.empty(0, dtype=np.uint8))
        return self._native.update(table, array, as_row_bytes(rows, (len(array), *info.shape), info.numpy_dtype, table))

    def warm(self, table: str, ids: Any) -> dict[str, Any]:
        """Bring rows into the cache of this node, as far as it has room for them.

        Parameters
        ----------
        table, ids
            As :meth:`fetch`; rows of this node itself need no cache and are left out.

        Returns
        -------
        dict
            What was done, in numbers.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`fetch`.
        """
        array, _ = as_ids(ids)
        return _answer(self._native.warm(table, array))

    def original_ids(self, of: str, dataset_ids: Any) -> Any:
        """The ids that vertices have in their source, from those that the import gave.

        This does not depend on :attr:`ids`. Where vertices were not renumbered, both are the same.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        dataset_ids : array_like of int or torch.Tensor
            One-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of ``dataset_ids``: ``int64``; ``uint64`` for an array of ``uint64``; a tensor for a tensor.

        Raises
        ------
        UnknownTableError
            If there is no such table or vertex type, or the name means two vertex types.
        IdOutOfRangeError
            If an id is not below the number of vertices.
        StorageError
            If the daemon cannot read the file of ids.
        RudderError
            For whatever else the daemon refuses or the connection suffers.
        TypeError, ValueError
            If the ids are not integers, negative, or not one-dimensional.
        """
        array, is_tensor = as_ids(dataset_ids)
        return as_ids_of(self._native.original_ids(of, array), array, is_tensor)

    def dataset_ids(self, of: str, original_ids: Any) -> Any:
        """The ids that the import gave to vertices, from those that they have in their source.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        original_ids : array_like of int or torch.Tensor
            One-dimensional, any order, duplicates allowed.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            In the order of ``original_ids``, as :meth:`original_ids`.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`original_ids`.
        """
        array, is_tensor = as_ids(original_ids)
        return as_ids_of(self._native.dataset_ids(of, array), array, is_tensor)

    def ids_of_names(self, of: str, names: Iterable[str | int]) -> np.ndarray:
        """Find vertices by the names that they have in their source.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it; :attr:`TableInfo.named` says which have names.
        names : iterable of str or int
            An integer is taken as its text: a source whose ids are no numbers from 0 was imported with names.

        Returns
        -------
        numpy.ndarray
            ``int64``, one id for each name, as :attr:`ids` says: what :meth:`fetch` takes.

        Raises
        ------
        UnknownNameError
            If no vertex has a name, which the message holds, or vertices of this type have no names.
        TypeError
            If a name is neither text nor an integer.
        RudderError
            As :meth:`original_ids`.
        """
        if isinstance(names, str):
            raise TypeError("names is one name: give a list of names")
        texts = [name if isinstance(name, str) else str(operator.index(name)) for name in names]
        return as_ids_of(self._native.ids_of_names(of, texts), None, False)

    def names(self, of: str, ids: Any) -> list[str]:
        """The names that vertices have in their source.

        Parameters
        ----------
        of : str
            A vertex type, or a table of it.
        ids : array_like of int or torch.Tensor
            Their ids, as :attr:`ids` says.

        Returns
        -------
        list of str
            In the order of ``ids``.

        Raises
        ------
        UnknownNameError
            If vertices of this type have no names.
        RudderError, TypeError, ValueError
            As :meth:`original_ids`.
        """
        array, _ = as_ids(ids)
        return self._native.names(of, array)

    def grow(
        self, *, rows: int | None = None, factor: float | None = None, table: str | None = None
    ) -> dict[str, Any]:
        """Change the capacity of the cache.

        Parameters
        ----------
        rows : int, optional
            Rows to hold from now on. Give either this or ``factor``.
        factor : float, optional
            Times the present capacity; below 1 it shrinks.
        table : str, optional
            The table; by default all that are cached.

        Returns
        -------
        dict
            What was done, in numbers.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, or makes no sense (:class:`ArgumentError` where the daemon says so).
        RudderError
            What else the daemon refuses or the connection suffers.
        """
        rows = None if rows is None else _integer("rows", rows, 0, _STEP_MAX)
        return self._tool("grow", rows=rows, factor=_number("factor", factor), table=table)

    def evict(self, fraction: float, *, forget: bool = False, table: str | None = None) -> dict[str, Any]:
        """Turn cold cached rows over in favour of hotter ones.

        Parameters
        ----------
        fraction : float
            Largest share of the cached rows that may go, above 0 and at most 1.
        forget : bool
            Drop what was learned of the accesses first: they have changed.
        table : str, optional
            The table; by default all that are cached.

        Returns
        -------
        dict
            What was done, in numbers.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, or makes no sense (:class:`ArgumentError` where the daemon says so).
        RudderError
            What else the daemon refuses or the connection suffers.
        """
        return self._tool("evict", fraction=_number("fraction", fraction), forget=bool(forget), table=table)

    def refresh(self, *, max_age_s: float | None = None, table: str | None = None) -> dict[str, Any]:
        """Bring cached and staged rows up to date with their owners.

        A fetch that begins after this has returned gets rows as new as their owners had when this was called.

        Parameters
        ----------
        max_age_s : float, optional
            Leave out the rows of owners that were asked less than this many seconds ago; by default no rows are left out.
        table : str, optional
            The table; by default all.

        Returns
        -------
        dict
            What was done, in numbers, and the owners that could not be asked.

        Raises
        ------
        TypeError, ValueError
            If an argument has another type, or makes no sense (:class:`ArgumentError` where the daemon says so).
        RudderError
            What else the daemon refuses or the connection suffers.
        """
        return self._tool("refresh", max_age_s=_number("max_age_s", max_age_s), table=table)

    def hold(self) -> dict[str, Any]:
        """Change nothing; the daemon counts the call.

        Returns
        -------
        dict

        Raises
        ------
        RudderError
            What the connection suffers.
        """
        return self._tool("hold")

    def _tool(self, tool: str, **arguments: Any) -> dict[str, Any]:
        given = {name: value for name, value in arguments.items() if value is not None}
        return _answer(self._native.tool(json.dumps({"tool": tool, **given})))

    def status(self) -> dict[str, Any]:
        """What the daemon is doing, the same as its ``GET /v1/status``.

        Returns
        -------
        dict
        """
        status: dict[str, Any] = json.loads(self._native.status())
        return status


def connect(
    socket: Path | None = None,
    *,
    timeout_s: float = 30.0,
    inline: bool = False,
    arena_bytes_max: int = ARENA_BYTES_MAX,
    name: str | None = None,
    trainer: int | None = None,
    ids: str = "original",
    fingerprint: str | None = None,
) -> Client:
    """Connect to the daemon of this node.

    Parameters
    ----------
    socket : path-like, optional
        Path of the daemon's socket; by default ``$RUDDER_SOCKET``, or ``/run/rudder/rudder.sock`` if that is unset or empty.
    timeout_s : float
        Longest wait for an answer, in seconds; at most a year.
    inline : bool
        Send ids and rows through the socket instead of shared memory: slower, for places where a memfd cannot be shared.
    arena_bytes_max : int
        Shared memory that this client may take, in bytes.
    name : str, optional
        A name for the daemon's log; by default the process number.
    trainer : int, optional
        The trainer that this client belongs to, from 0 to 2**128 - 1; by default a new one. Processes that announce, fetch
        and report progress for one trainer must share its number. Forks and pickled clients do so by themselves.
    ids : str
        Which numbers ids are, where the import renumbered vertices. ``"original"``: those of your own files; the daemon
        translates them, in every call and in both directions. ``"dataset"``: those that the import gave, for trainers that
        work on the renumbered graph; no look-up.
    fingerprint : str, optional
        :attr:`Client.fingerprint` of the dataset that the daemon must serve; by default any.

    Returns
    -------
    Client

    Raises
    ------
    ConnectError
        If no daemon answers on the socket.
    ProtocolError
        If the daemon speaks another version.
    TablesChangedError
        If the dataset has another fingerprint.
    TypeError, ValueError
        If an option makes no sense.

    Examples
    --------
    >>> client = rudder.connect()                        # doctest: +SKIP
    >>> rows = client.fetch("feat", [3, 1, 4, 1, 5])     # doctest: +SKIP
    >>> rows.shape                                       # doctest: +SKIP
    (5, 128)
    """
    return Client(
        socket,
        timeout_s=timeout_s,
        inline=inline,
        arena_bytes_max=arena_bytes_max,
        name=name,
        trainer=trainer,
        ids=ids,
        fingerprint=fingerprint,
    )


class _Default:
    """The client that loaders share when the caller gives no other. They are one trainer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made_for: str | None = None
        self.client: Client | None = None


_default = _Default()


def default_client() -> Client:
    """The client that this process made with no options, made at the first call.

    Returns
    -------
    Client
        A new one if ``$RUDDER_SOCKET`` has changed.
    """
    socket = os.environ.get("RUDDER_SOCKET")
    with _default.lock:
        if _default.client is None or _default.made_for != socket:
            _default.client, _default.made_for = connect(), socket
        return _default.client


# A fork copies a lock as it is, perhaps held by a thread that the child does not have.
os.register_at_fork(after_in_child=lambda: setattr(_default, "lock", threading.Lock()))


def _integer(what: str, value: Any, least: int, most: int) -> int:
    """An argument as an integer within bounds; NumPy's integers too."""
    number = operator.index(value)
    if not least <= number <= most:
        raise ValueError(f"{what} is {number}: it must be from {least} to {most}")
    return number


def _fingerprint(text: str) -> int:
    """A fingerprint as a number."""
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"fingerprint is {text!r}: it must be 16 hexadecimal digits, as Client.fingerprint gives them")
    return int(text, 16)


def _number(what: str, value: Any) -> float | None:
    """An argument as a finite number, which JSON can hold; NumPy's numbers too."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}: it must be a finite number")
    return number


def _answer(text: str) -> dict[str, Any]:
    """Read what a tool answered."""
    answer: dict[str, Any] = json.loads(text)
    return answer


def _reconnect(options: Mapping[str, Any]) -> Client:
    """Make the client that a pickled one stands for."""
    client = Client(**options)
    client._course = Course(is_joined=True)
    return client
