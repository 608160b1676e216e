"""Waiting until rows can be fetched: from the daemon of this node, and from every node that owns rows.

It must never wait without a limit, and never leave a trace in the cache's memory of accesses.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from ._tables import TableInfo
from .errors import (
    ConnectError,
    ConnectionLostError,
    DrainingError,
    PeerFailedError,
    PeerUnavailableError,
    RudderError,
    TimeoutError,
)

if TYPE_CHECKING:
    from ._client import Client

__all__ = ["wait_ready"]

#: Errors that pass while daemons start.
_PASSING = (ConnectError, ConnectionLostError, DrainingError, PeerFailedError, PeerUnavailableError, TimeoutError)

#: Rows of a table whose owners are looked up, and rows of an owner that are fetched.
_ROWS_LOOKED_AT = 65_536
_ROWS_FETCHED = 16

_PAUSE_S = 0.05


def wait_ready(client: Client, peers: bool, timeout_s: float) -> None:
    """As :meth:`Client.wait_ready`."""
    if not 0 < timeout_s < float("inf"):
        raise ValueError(f"timeout_s is {timeout_s}: it must be a finite number of seconds above 0")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            due = _owners(client) if peers else {}
            break
        except _PASSING as failure:
            _pause(deadline, timeout_s, f"the daemon of this node ({client.node})", failure)
    if not peers:
        _own(client, deadline, timeout_s)
    for node, (table, ids) in sorted(due.items()):
        while True:
            try:
                with client.paused():
                    client.fetch(table, ids)
                break
            except _PASSING as failure:
                _pause(deadline, timeout_s, f"node {node}", failure)


def _own(client: Client, deadline: float, timeout_s: float) -> None:
    while True:
        try:
            client.status()
            return
        except _PASSING as failure:
            _pause(deadline, timeout_s, f"the daemon of this node ({client.node})", failure)


def _owners(client: Client) -> dict[int, tuple[str, np.ndarray]]:
    """By node, a table and some ids of rows that it owns, drawn at random: a cache is unlikely to hold all of them.

    Of a table with more rows than are looked at, a small part may be missed.
    """
    rows: dict[int, tuple[str, np.ndarray]] = {}
    seen: set[str] = set()
    for info in client.tables().values():
        if info.vertex_type in seen or info.rows == 0:
            continue
        seen.add(info.vertex_type)
        ids = _drawn(client, info)
        owners = client.owner(info.name, ids)
        for node in np.unique(owners).tolist():
            rows.setdefault(node, (info.name, ids[owners == node][:_ROWS_FETCHED]))
    return rows


def _drawn(client: Client, info: TableInfo) -> np.ndarray:
    rng = np.random.default_rng()
    ids = rng.permutation(info.rows) if info.rows <= _ROWS_LOOKED_AT else rng.integers(0, info.rows, _ROWS_LOOKED_AT)
    if info.renumbered and client.ids == "original":
        # Original ids need not be dense.
        translated: np.ndarray = client.original_ids(info.name, ids)
        return translated
    return ids


def _pause(deadline: float, timeout_s: float, who: str, failure: RudderError) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{who} is not ready after {timeout_s:g} s: {failure}") from failure
    time.sleep(_PAUSE_S)
