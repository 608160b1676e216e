"""Rows are the shared memory itself: no copy, the caller's alone, free again when the last array is gone."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
from cluster import Daemon, Source

import rudder
from rudder._arrays import as_ids


def arenas() -> list[range]:
    """Addresses at which this process has mapped arenas."""
    maps = Path("/proc/self/maps").read_text()
    return [
        range(int(start, 16), int(end, 16))
        for start, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*memfd:rudder-arena", maps, re.MULTILINE)
    ]


def in_arena(rows: np.ndarray) -> bool:
    """Whether all of an array lies in one mapped arena."""
    first, last = rows.ctypes.data, rows.ctypes.data + rows.nbytes - 1
    return any(first in arena and last in arena for arena in arenas())


def test_an_array_is_shared_memory(daemons: list[Daemon], client: rudder.Client) -> None:
    rows = client.fetch("f32", np.arange(1000))
    assert in_arena(rows)
    assert not rows.flags.owndata
    assert rows.flags.aligned
    assert rows.flags.c_contiguous
    assert not in_arena(daemons[0].connect(inline=True).fetch("f32", np.arange(1000)))


def test_a_lease_ends_with_the_last_view(client: rudder.Client, source: Source) -> None:
    ids = np.arange(1000)
    rows = client.fetch("f32", ids)
    address = rows.ctypes.data
    references = sys.getrefcount(rows.base)
    assert references == 2  # the array's, and the argument's

    view = rows[10:]
    del rows
    other = client.fetch("f32", ids + 1000)
    assert other.ctypes.data != address
    source.check("f32", ids[10:], view)

    del view
    assert client.fetch("f32", ids).ctypes.data == address
    source.check("f32", ids + 1000, other)


def test_rows_are_the_callers_to_write(client: rudder.Client, source: Source) -> None:
    rows = client.fetch("u8", [1, 2, 3])
    rows += 1
    assert (rows == source.arrays["u8"][[1, 2, 3]] + np.uint8(1)).all()
    source.check("u8", [1, 2, 3], client.fetch("u8", [1, 2, 3]))


def test_rows_outlive_their_client(daemons: list[Daemon], source: Source) -> None:
    client = daemons[0].connect()
    rows = client.fetch("f32", np.arange(500))
    del client
    source.check("f32", np.arange(500), rows)


def test_memory_goes_back_with_the_client(daemons: list[Daemon]) -> None:
    before = len(arenas())
    client = daemons[0].connect()
    client.fetch("f32", np.arange(10))
    assert len(arenas()) == before + 1
    del client
    assert len(arenas()) == before


def test_ids_are_read_in_place() -> None:
    for dtype in (np.uint64, np.int64):
        ids = np.arange(10, dtype=dtype)
        assert np.shares_memory(as_ids(ids)[0], ids)
        ids.flags.writeable = False
        assert np.shares_memory(as_ids(ids)[0], ids)


def test_a_dropped_fetch_gives_its_memory_back(daemons: list[Daemon], source: Source) -> None:
    rows_bytes = 17 * 4 * source.ROWS
    client = daemons[0].connect(arena_bytes_max=64 * rows_bytes)
    deadline = time.monotonic() + 60
    for _ in range(500):
        while True:
            try:
                client.fetch_async("f32", np.arange(source.ROWS))
                break
            except rudder.SharedMemoryError:
                # The memory comes back when the daemon has answered, which a busy machine may put off.
                assert time.monotonic() < deadline
            source.check("f32", [0], client.fetch("f32", [0]))
        source.check("f32", [0], client.fetch("f32", [0]))
