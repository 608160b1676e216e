"""Starting the daemons of a machine from Python: :func:`launch` runs ``rudder up`` and keeps what it started.

It owns the process ``rudder up --shared``, which uses the daemons of this node for this process. The daemons themselves are
kept by a process of their own: they end with the last process of this node that uses them, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from ._client import Client
from ._connect import connect
from ._programs import find_program
from .errors import LaunchError

__all__ = ["Daemon", "launch"]

#: Seconds that the daemons get to end beyond what ``rudder up`` itself allows them.
_STOP_TIMEOUT_S = 60.0

#: Daemons that this process uses, so that they live until it ends even where nobody holds the object.
_running: set[Daemon] = set()


def _program() -> str:
    """Path of the program ``rudder``."""
    try:
        return find_program("rudder")
    except FileNotFoundError as error:
        raise LaunchError(str(error)) from None


class Daemon:
    """The daemons of this node that serve a dataset, as :func:`launch` returns them.

    A context manager: leaving it calls :meth:`stop`. It cannot be pickled; give other processes :attr:`socket`.

    Attributes
    ----------
    dataset : str
        What they serve.
    sockets : dict of int to str
        Node index to the path of its socket; more than one where all parts are served on this machine.
    socket : str
        The socket of the first: what ``RUDDER_SOCKET`` would say.
    """

    def __init__(self, process: subprocess.Popen[str], words: Any, said: Mapping[str, Any]) -> None:
        self._process = process
        self._words = words
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self.dataset: str = said["dataset"]
        self.sockets: dict[int, str] = {node["node"]: node["socket"] for node in said["nodes"]}
        self.socket: str = said["socket"]

    def connect(self, **options: Any) -> Client:
        """Connect to the first of the daemons.

        Parameters
        ----------
        **options
            Those of :func:`rudder.connect`, but for ``socket``.

        Returns
        -------
        Client
        """
        return connect(self.socket, **options)

    def stop(self) -> None:
        """Give the daemons up; if no other process of this node uses them, they drain and end before this returns.

        Does nothing the second time, and in a forked child, which does not own them.

        Raises
        ------
        LaunchError
            If a daemon had failed, or they did not end.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self not in _running:
                return
            _running.discard(self)
            status = _end(self._process)
            said = _said(self._words)
            self._words.close()
        if status != 0:
            raise LaunchError(said or f"`rudder up` ended with {status}")

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error on the way is worth more than one at the end.
        with contextlib.suppress(LaunchError) if kind else contextlib.nullcontext():
            self.stop()

    def __reduce__(self) -> Any:
        raise TypeError("a Daemon belongs to its process; give other processes its socket")

    def __repr__(self) -> str:
        state = "running" if self in _running else "stopped"
        return f"<rudder.Daemon of {self.dataset!r}, {state}, {self.socket}>"


def _end(process: subprocess.Popen[str]) -> int:
    """Close the input of ``rudder up --shared``, which is the sign to end, and wait."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        status = process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return status


def _said(words: Any) -> str:
    """What ``rudder up`` said on standard error."""
    words.seek(0)
    text: str = words.read().strip()
    return text[len("rudder: ") :] if text.startswith("rudder: ") else text


@atexit.register
def _stop_all() -> None:
    """Ends what this process uses. A process that is killed does the same by its end: its pipes close."""
    for daemon in list(_running):
        with contextlib.suppress(LaunchError):
            daemon.stop()


def _command(dataset: str | os.PathLike[str], flags: Mapping[str, Any], settings: Mapping[str, Any] | None) -> list[str]:
    command = [_program(), "up", os.fspath(dataset), "--shared", "--json"]
    command += [f"--{flag}={value}" for flag, value in flags.items() if value is not None]
    for key, value in (settings or {}).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command.append(f"--set={key}={text}")
    return command


def launch(
    dataset: str | os.PathLike[str],
    *,
    rank: int | None = None,
    world: int | None = None,
    rendezvous: str | None = None,
    nodes: Sequence[str] | None = None,
    capacity: float | int | str = 0.15,
    policy: str | None = None,
    certs: str | os.PathLike[str] | None = None,
    service: str | None = None,
    port: int | None = None,
    config: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    timeout_s: float = 600.0,
) -> Daemon:
    """Start the daemons that this node needs, or join those that another process of it has started.

    On one machine that is one daemon for each part of the dataset. In a job of torchrun, Slurm, MPI or Kubernetes it is the
    one of this node; every process of the node calls this and gets the same daemon. It ends with the last of them.

    Parameters
    ----------
    dataset : path-like
        Folder of the dataset, or another kind that ``dataset.path`` of ``rudderd`` takes.
    rank : int, optional
        Index of this *node*, from 0; by default what the launcher says.
    world : int, optional
        Number of nodes, each of which serves one part; by default what the launcher says.
    rendezvous : str, optional
        Host of node 0, where the nodes learn each other's addresses; by default ``MASTER_ADDR`` under torchrun and MPI.
    nodes : sequence of str, optional
        Hosts of all nodes, instead.
    capacity : float, int or str
        Cache of each table: a share of its remote rows, a number of rows, or a size such as ``"4GiB"``.
    policy : str, optional
        Cache policy.
    certs : path-like, optional
        Folder with ``ca.pem``, ``node-N.pem`` and ``node-N.key``; required where the job has several nodes.
    service : str, optional
        Headless service of the StatefulSet that this pod is of.
    port : int, optional
        Port of every host of the job; by default 7400.
    config : path-like, optional
        Configuration of ``rudderd`` that all of this changes.
    settings : mapping, optional
        Any keys of the configuration, such as ``{"lookahead.depth": 4}``.
    timeout_s : float
        Longest wait until all are ready, in seconds, for the other nodes included.

    Returns
    -------
    Daemon

    Raises
    ------
    LaunchError
        With what kept them from their start.

    Examples
    --------
    >>> daemon = rudder.launch("data")                   # doctest: +SKIP
    >>> rows = daemon.connect().fetch("feat", [3, 1, 4]) # doctest: +SKIP
    """
    flags = {
        "node": rank,
        "world": world,
        "rendezvous": rendezvous,
        "nodes": None if nodes is None else ",".join(nodes),
        "capacity": capacity,
        "policy": policy,
        "certs": None if certs is None else os.fspath(certs),
        "service": service,
        "port": port,
        "config": None if config is None else os.fspath(config),
        "wait-s": max(1, round(timeout_s)),
    }
    command = _command(dataset, flags, settings)
    words = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (the Daemon closes it)
    try:
        # A session of its own: an interrupt that a notebook sends to its kernel must not end the daemons.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True, start_new_session=True
        )
    except OSError as error:
        words.close()
        raise LaunchError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
    except BaseException as error:
        # Interrupted, or it had nothing to say.
        process.terminate()
        status = _end(process)
        text = _said(words)
        words.close()
        if isinstance(error, ValueError):
            raise LaunchError(text or f"`rudder up` ended with {status}") from None
        raise
    daemon = Daemon(process, words, said)
    _running.add(daemon)
    return daemon
