"""How a process comes to its client: connecting, and the client that loaders share."""

from __future__ import annotations

import os
import threading

from ._client import ARENA_BYTES_MAX, WHOLE_BYTES_MAX, Client, Path

__all__ = ["connect", "default_client"]

def connect(
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
    whole_bytes_max : int
        Bytes of the largest table that a fetch with ``ids=None`` may read.
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
    pin : bool
        Register the shared memory with CUDA, so that copies to a GPU read it directly and overlap with the training. Needs a
        torch that sees a GPU. It holds for this process: forked and unpickled clients do not pin.
    wait_s : float
        How long to wait for the daemon to listen, in seconds, also when connecting again; by default not at all.

    Returns
    -------
    Client

    Raises
    ------
    ConnectError
        If no daemon answers on the socket, within ``wait_s``.
    ProtocolError
        If the daemon speaks another version.
    TablesChangedError
        If the dataset has another fingerprint.
    RuntimeError
        If ``pin`` is given and there is no GPU.
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
        whole_bytes_max=whole_bytes_max,
        name=name,
        trainer=trainer,
        ids=ids,
        fingerprint=fingerprint,
        pin=pin,
        wait_s=wait_s,
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
        A new one if ``$RUDDER_SOCKET`` has changed, or the last one was closed.
    """
    socket = os.environ.get("RUDDER_SOCKET")
    with _default.lock:
        if _default.client is None or _default.client.closed or _default.made_for != socket:
            _default.client, _default.made_for = connect(), socket
        return _default.client


# A fork copies a lock as it is, perhaps held by a thread that the child does not have.
os.register_at_fork(after_in_child=lambda: setattr(_default, "lock", threading.Lock()))
