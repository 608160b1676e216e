"""The client: fetches, announcements and writes, as Python objects over the native client.

It owns who may call, and what is sent together. It must never wait without the client's ``timeout_s``, nor hand out rows
whose lease has ended.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union, overload

import numpy as np

from . import _gpu, _native
from ._arrays import as_ids, as_row_bytes, as_rows, fill, written
from ._course import Course
from ._hints import Hints
from ._naming import Naming
from ._numbers import STEP_MAX, TRAINER_MAX, integer
from ._pending import Pending
from ._pieces import Pieces
from ._ready import wait_ready
from ._selection import Asker, Of, Wanted, is_mask
from ._steering import Steering
from ._tables import TableInfo, table_of
from .errors import ClosedError

if TYPE_CHECKING:
    import torch  # type: ignore[import-not-found, unused-ignore]

__all__ = ["ARENA_BYTES_MAX", "WHOLE_BYTES_MAX", "Client", "Path"]

#: Shared memory that a client may take by default, in bytes.
ARENA_BYTES_MAX = 64 << 30

#: Bytes of the largest table that ``ids=None`` fetches by default.
WHOLE_BYTES_MAX = 4 << 30

#: Rows that any mask may select without being fetched in pieces.
_MASK_ROWS = 1024

#: Longest timeout, in seconds: a year.
_TIMEOUT_S_MAX = 365 * 24 * 3600

Path = Union[str, "os.PathLike[str]"]

_next_key = itertools.count().__next__


class _Closed:
    """Stands where the native client was."""

    def __getattr__(self, name: str) -> Any:
        raise ClosedError("the client was closed: make a new one")


class Client(Hints, Naming, Steering):
    """A connection to the daemon of this node; :func:`connect` makes one.

    Threads may share a client, and their fetches run side by side. A forked process may go on using it: its first call
    connects again. A pickled client connects again where it is unpickled, with the same options but ``pin``. Both belong to
    the trainer of the client they came from. If the daemon was restarted, the next call connects again; fetches that were in
    flight fail with :class:`ConnectionLostError`. A daemon that serves another dataset than the client knew is never
    asked for rows: :class:`TablesChangedError`.

    In a ``with`` statement the client is closed at the end.

    Parameters
    ----------
    socket, timeout_s, inline, arena_bytes_max, whole_bytes_max, name, trainer, ids, fingerprint, pin, wait_s
        As :func:`connect`.

    Attributes
    ----------
    node : int
        Number of the partition that this daemon owns.
    trainer : int
        Number of the trainer that this client belongs to. Announcements and progress belong to a trainer and not to a
        connection: what one process of the trainer announces, another may fetch. Forked and unpickled clients keep the
        number; ``connect(trainer=client.trainer)`` joins it.
    ids : str
        Which numbers the ids of this client are. ``"original"``: those of the user's own files, from before the import.
        ``"dataset"``: those that the import gave.
    fingerprint : str
        Fingerprint of the dataset, 16 hexadecimal digits; any change of a file or an id gives another.
    """

    __slots__ = (
        "__weakref__",
        "_asker",
        "_copies",
        "_course",
        "_key",
        "_native",
        "_options",
        "_pins",
        "_said",
        "_tables",
        "fingerprint",
        "ids",
        "node",
        "trainer",
    )

    def __init__(
        self,
        socket: Path | None = None,
        *,
        timeout_s: float = 30.0,
        inline: bool = False,
        arena_bytes_max: int = ARENA_BYTES_MAX,
        whole_bytes_max: int = WHOLE_BYTES_MAX,
        name: str | None = None,
        trainer: int | None = None,
        ids: str = "original",
        fingerprint: str | None = None,
        pin: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        if not 0 <= wait_s <= _TIMEOUT_S_MAX:
            raise ValueError(f"wait_s is {wait_s}: it must be from 0 to {_TIMEOUT_S_MAX}, a year")
        if not 0 < timeout_s <= _TIMEOUT_S_MAX:
            raise ValueError(f"timeout_s is {timeout_s}: it must be above 0 and at most {_TIMEOUT_S_MAX}, a year")
        arena_bytes_max = integer("arena_bytes_max", arena_bytes_max, 1, STEP_MAX)
        whole_bytes_max = integer("whole_bytes_max", whole_bytes_max, 0, STEP_MAX)
        if trainer is not None:
            trainer = integer("trainer", trainer, 0, TRAINER_MAX)
        known = None if fingerprint is None else _fingerprint(fingerprint)
        self._pins = _gpu.Pins(_gpu.cuda_driver()) if pin else None
        timeout_ms, wait_ms = max(1, round(timeout_s * 1000)), round(wait_s * 1000)
        path = None if socket is None else os.fspath(socket)
        native = _native.Client(path, timeout_ms, inline, arena_bytes_max, name, trainer, ids, known, wait_ms)
        if self._pins is not None:
            native.on_arena(self._pins.created, self._pins.dropped)
        self._native = native
        self.node, self.trainer, self.ids = native.node, native.trainer, native.ids
        self.fingerprint = f"{native.fingerprint:016x}"
        # With the trainer and the dataset, so that a pickled client stays with them.
        self._options = {
            "socket": path,
            "timeout_s": timeout_s,
            "inline": inline,
            "arena_bytes_max": arena_bytes_max,
            "whole_bytes_max": whole_bytes_max,
            "name": name,
            "trainer": self.trainer,
            "ids": ids,
            "wait_s": wait_s,
            "fingerprint": self.fingerprint,
        }
        self._course = Course()
        tables = (TableInfo(*fields, ids) for fields in native.tables())
        self._tables = {table.name: table for table in tables}
        self._asker = Asker(self._tables, whole_bytes_max, self.trainer, self.ids)
        self._copies: _gpu.Copies | None = None
        self._said: set[str] = set()
        self._key = _next_key()

    def __repr__(self) -> str:
        socket = self._options["socket"] or os.environ.get("RUDDER_SOCKET") or "the standard socket"
        closed = ", closed" if self.closed else ""
        return f"<rudder.Client of node {self.node} at {socket}{closed}>"

    def __reduce__(self) -> tuple[Callable[..., Client], tuple[dict[str, Any]]]:
        return _reconnect, (self._options,)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return isinstance(self._native, _Closed)

    def close(self) -> None:
        """End the connection. Fetches in flight end with an error; rows that were handed out stay valid.

        Closing twice does no harm. Any other call afterwards is a :class:`ClosedError`.
        """
        native, self._native = self._native, _Closed()
        if not isinstance(native, _Closed):
            native.close()
        if self._copies is not None:
            self._copies.close()

    def wait_ready(self, peers: bool = True, timeout_s: float = 60.0) -> None:
        """Wait until rows can be fetched.

        Parameters
        ----------
        peers : bool
            Wait until every node that owns rows of the dataset has answered for some of them, too; otherwise only until the
            daemon of this node does.
        timeout_s : float
            Longest wait, in seconds. A call that is in flight at its end may add the ``timeout_s`` of the client.

        Raises
        ------
        TimeoutError
            If that takes longer; the message says who does not answer, and why.
        RudderError
            What no waiting can mend.
        """
        wait_ready(self, peers, timeout_s)

    def tables(self) -> dict[str, TableInfo]:
        """The tables of the dataset.

        Returns
        -------
        dict of str to TableInfo
            By name, in the order of the dataset.
        """
        return dict(self._tables)

    @overload
    def fetch(self, of: str, ids: torch.Tensor, *, out: Any = None, device: Any = None) -> torch.Tensor: ...

    @overload
    def fetch(
        self, of: str, ids: np.ndarray | Sequence[int] | slice | None = None, *, out: Any = None, device: None = None
    ) -> np.ndarray: ...

    @overload
    def fetch(self, of: Of, ids: Any = None, *, out: Any = None, device: Any = None) -> Any: ...

    def fetch(self, of: Of, ids: Any = None, *, out: Any = None, device: Any = None) -> Any:
        """Fetch rows, local and remote mixed, in the order of the ids.

        The result is the shared memory that the daemon gathered the rows into. It belongs to the caller alone, to read and to
        write, until the last array, view or tensor over it is gone. Then it serves other fetches.

        Parameters
        ----------
        of : str, list of str, mapping of str to ids, or Batch
            One table; several tables with the same ids; several with their own ids; or what :meth:`announce` returned.
            Several tables take one message and come together.
        ids : array_like of int or bool, torch.Tensor, slice, range or None
            One-dimensional, any order, duplicates allowed. Contiguous integers of 32 and 64 bits are read in place. A mask has
            one element for each row of the table. ``None`` means all rows. Masks, slices and whole tables that are large come
            in pieces into memory of this process, and teach the cache nothing.
        out : numpy.ndarray, torch.Tensor, or mapping of str to these
            Where to copy the rows to, and what is returned: of the table's type and the result's shape, any strides.
        device : str or torch.device, optional
            Where to. ``"cpu"`` makes tensors whatever the ids are. ``"cuda"`` copies on a stream of its own; the calling
            thread's stream waits for the copy, and the thread does not.

        Returns
        -------
        numpy.ndarray or torch.Tensor, or dict of str to these
            ``[len(ids), *info.shape]`` of :attr:`TableInfo.numpy_dtype`; a tensor on the CPU if ``ids`` is a tensor, and then
            ``torch.bfloat16`` for a table of ``bf16``. By name for several tables.

        Raises
        ------
        UnknownTableError
            If there is no such table; the message names the nearest.
        IdOutOfRangeError
            If an id is not below the table's number of rows.
        LimitError
            If ``ids`` is ``None`` and the table has more than ``whole_bytes_max`` bytes, or a limit of the daemon is reached.
        PeerUnavailableError
            If a peer that owns some of the rows is gone.
        RudderError
            For whatever else the daemon refuses or the connection suffers.
        TypeError, ValueError
            If the ids are not integers, negative, or not one-dimensional, a mask has another length than the table, or ``out``
            another type or shape than the rows.
        """
        if type(of) is str and ids is not None and out is None and device is None:
            # The shortest way for the commonest call: a fetch of a few rows is mostly overhead.
            info = self._tables.get(of)
            if info is not None:
                array, is_tensor = as_ids(ids, info)
                if type(array) is np.ndarray and (len(array) < _MASK_ROWS or not is_mask(ids)):
                    rows = self._native.fetch([(of, array)], None, self._learns())
                    self._say()
                    return as_rows(rows[0], is_tensor, info)
        want = self._asker.wanted(of, ids)
        outs = want.outs(out)
        device = self._device(device, want, outs)
        if not want.infos:
            return {}
        if want.in_pieces():
            rows = Pieces(want, outs, self._send_piece, self._send_parts).wait()
        else:
            rows = self._native.fetch(want.parts(), want.batch, self._learns())
        self._say()
        if device is None:
            return _delivered(rows, want, outs)
        copies = self._gpu()
        copy = copies.begin(rows, want.infos, device, outs, copies.mark(device) if out is not None else None)
        return want.formed(copies.deliver(copy))

    def fetch_async(self, of: Of, ids: Any = None, *, out: Any = None, device: Any = None) -> Pending:
        """Send a fetch and return at once; several may be in flight.

        Parameters
        ----------
        of, ids, out, device
            As :meth:`fetch`. The ids are read before this returns. With a GPU as ``device``, a thread of the client begins the
            copy as soon as the rows have come, so that it overlaps with the training.

        Returns
        -------
        Pending
            Its ``wait()`` gives the rows, and so does ``await``.

        Raises
        ------
        RudderError, TypeError, ValueError
            As :meth:`fetch`, for what fails before anything is sent.
        """
        want = self._asker.wanted(of, ids)
        outs = want.outs(out)
        device = self._device(device, want, outs)
        source: Any
        if not want.infos:
            source = _Nothing()
        elif want.in_pieces():
            source = Pieces(want, outs, self._send_piece, self._send_parts)
        else:
            source = self._native.fetch_async(want.parts(), want.batch, self._learns())
        self._say()
        if device is None:
            return Pending(source, lambda rows: _delivered(rows, want, outs))
        copies = self._gpu()
        after = copies.mark(device) if out is not None else None
        following = copies.follow(source, want.infos, device, outs, after)
        return Pending(following, lambda copy: want.formed(copies.deliver(copy)))

    def update(self, table: str, ids: Any, rows: Any) -> int:
        """Write rows, local and remote mixed, through to the nodes that own them.

        When this returns, the owners have the rows, and every later fetch on this node gets them. Other nodes that have
        cached them follow when they refresh, or within the daemon's ``cache.staleness_max_ms``. An update lives as long
        as the owner's daemon.

        Parameters
        ----------
        table : str
            The table.
        ids : array_like of int or bool, torch.Tensor, slice, range or None
            As :meth:`fetch`. Of an id that appears twice, the last row stays.
        rows : array_like or torch.Tensor
            ``[len(ids), *info.shape]`` of :attr:`TableInfo.numpy_dtype`; for ``bf16`` also a tensor of ``torch.bfloat16``.

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
        info = table_of(self._tables, table)
        array = written(as_ids(ids, info)[0])
        changed: int = self._native.update(table, array, as_row_bytes(rows, len(array), info))
        return changed

    def status(self) -> dict[str, Any]:
        """What the daemon is doing, the same as its ``GET /v1/status``.

        Returns
        -------
        dict
        """
        status: dict[str, Any] = json.loads(self._native.status())
        return status

    def _send_piece(self, table: str, ids: np.ndarray) -> Any:
        # A walk through a table reads each row once, which says nothing about the rows that a training reads.
        return self._native.fetch_async([(table, ids)], None, False)

    def _send_parts(self, parts: list[tuple[str, np.ndarray]]) -> Any:
        return self._native.fetch_async(parts, None, self._learns())

    def _gpu(self) -> _gpu.Copies:
        if self._copies is None:
            self._copies = _gpu.Copies(_gpu.cuda_driver() if self._pins is None else self._pins.driver)
        return self._copies

    def _device(self, device: Any, want: Wanted, outs: list[Any]) -> Any:
        """The GPU that rows are wanted on, or ``None``."""
        if device is None:
            device = next((out.device for out in outs if getattr(out, "is_cuda", False)), None)
            if device is None:
                return None
        kind = str(device).partition(":")[0]
        if kind == "cpu":
            want.make_tensors()
            return None
        if kind != "cuda":
            raise ValueError(f"device is {device}: rows come to the CPU (cpu) or to a GPU (cuda, cuda:1)")
        device = self._gpu().device(device)
        for out, info in zip(outs, want.infos):
            lies_on = str(getattr(out, "device", "cpu"))
            if out is not None and lies_on != str(device):
                raise ValueError(f"out for table {info.name!r} lies on {lies_on}, not on {device}")
        return device


class _Nothing:
    """The fetch of no tables."""

    def done(self) -> bool:
        return True

    def wait(self) -> list[Any]:
        return []


def _delivered(rows: list[Any], want: Wanted, outs: list[Any]) -> Any:
    """What the caller gets of the rows that came."""
    return want.formed(
        [
            as_rows(part, is_tensor, info) if out is None else fill(out, part, info)
            for part, is_tensor, info, out in zip(rows, want.tensors, want.infos, outs)
        ]
    )


def _fingerprint(text: str) -> int:
    """A fingerprint as a number."""
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"fingerprint is {text!r}: it must be 16 hexadecimal digits, as Client.fingerprint gives them")
    return int(text, 16)


def _reconnect(options: Mapping[str, Any]) -> Client:
    """Make the client that a pickled one stands for."""
    client = Client(**options)
    client._course = Course(is_joined=True)
    return client
