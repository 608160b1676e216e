"""The native half as the package uses it: what its own tests in Rust cannot see."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source

from rudder import _native

#: Numbers for batches, as the package draws them.
NUMBERS = itertools.count(os.getpid() << 32)


def connect(daemon: Daemon, trainer: int | None = None) -> Any:
    """A native client of a daemon."""
    return _native.Client(str(daemon.socket), 60_000, False, 1 << 32, None, trainer, "original", None, 60_000)


def soon(condition: Callable[[], bool]) -> bool:
    """Whether a condition holds within a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.uint32, np.int32])
def test_ids_of_any_width_name_the_same_rows(daemons: list[Daemon], source: Source, dtype: type) -> None:
    ids = np.array([5_999, 0, 17, 17], dtype)
    rows, items = connect(daemons[0]).fetch([("f32", ids), ("i64", ids)], None, True)
    source.check("f32", ids, np.asarray(rows))
    source.check("i64", ids, np.asarray(items))


def test_a_negative_id_is_named_with_its_place(daemons: list[Daemon]) -> None:
    client = connect(daemons[0])
    for dtype in (np.int32, np.int64):
        for call in (
            lambda ids: client.fetch([("f32", ids)], None, True),
            lambda ids: client.announce([("f32", ids)], None, next(NUMBERS)),
            lambda ids: client.warm("f32", ids),
            lambda ids: client.owner("f32", ids),
        ):
            with pytest.raises(ValueError, match=r"ids\[2\] is -4"):
                call(np.array([1, 2, -4, -5], dtype))


def test_a_batch_is_fetched_by_its_number_from_another_client_of_the_trainer(
    daemons: list[Daemon], source: Source
) -> None:
    sampler = connect(daemons[0])
    trainer = connect(daemons[0], sampler.trainer)
    ids, number = source.remote_ids("f32")[:100], next(NUMBERS)
    sampler.announce([("f32", ids), ("i64", ids)], 0, number)
    assert sampler.horizon("f32") >= 1, "an answer: the daemon has the announcement"
    pending = trainer.fetch_async([("f32", ids), ("i64", ids)], number, True)
    assert soon(pending.done)
    rows, items = pending.wait()
    source.check("f32", ids, np.asarray(rows))
    source.check("i64", ids, np.asarray(items))
    # It is used now: the same again is asked for with the ids.
    source.check("f32", ids, np.asarray(trainer.fetch_async([("f32", ids)], number, True).wait()[0]))
    source.check("f32", ids, np.asarray(trainer.fetch([("f32", ids)], number, True)[0]))


def test_owners_and_the_local_range(daemons: list[Daemon], source: Source) -> None:
    client = connect(daemons[0])
    ids = np.array([0, 5_999, 1, 3_000], np.int32)
    assert client.owner("f32", ids).tolist() == [0, 1, 0, 1]
    assert client.owner("f32", ids).dtype == np.uint16
    assert client.local_range("f32") == (0, 3_000)
    items = np.arange(source.ITEMS)
    assert client.owner("item", items).tolist() == source.item_owner.tolist()
    with pytest.raises(Exception, match="not one range of ids"):
        client.local_range("item")


def test_arenas_are_told_of_and_outlive_the_client_while_rows_are_held(daemons: list[Daemon], source: Source) -> None:
    client, told = connect(daemons[0]), []
    client.on_arena(lambda *arena: told.append(arena), lambda address: told.append((address,)))
    ids = np.arange(100)
    rows = np.asarray(client.fetch([("f32", ids)], None, True)[0])
    ((address, size),) = told
    assert address <= rows.__array_interface__["data"][0] < address + size
    with pytest.raises(RuntimeError, match="called before"):
        client.on_arena(print, print)
    client.close()
    del client
    gc.collect()
    source.check("f32", ids, rows)
    assert len(told) == 1
    del rows
    gc.collect()
    assert told[1:] == [(address,)]


def test_a_hook_that_raises_ends_no_fetch(
    daemons: list[Daemon], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda shown: raised.append(shown.exc_type))
    client, ids = connect(daemons[0]), np.arange(10)
    client.on_arena(lambda _: None, print)
    source.check("f32", ids, np.asarray(client.fetch([("f32", ids)], None, True)[0]))
    assert raised == [TypeError]


def test_a_fork_tells_of_its_own_arenas_only(daemons: list[Daemon]) -> None:
    client, told = connect(daemons[0]), []
    client.on_arena(lambda *arena: told.append(arena), lambda address: told.append((address,)))
    rows = client.fetch([("f32", np.arange(10))], None, True)
    pending = client.fetch_async([("f32", np.arange(10))], None, True)
    before = len(told)
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(Exception, match="before a fork"):
                pending.wait()
            client.fetch([("f32", np.arange(10))], None, True)
            del rows, pending
            gc.collect()
            # One arena more, of a connection of its own; its parent's is not unpinned here.
            os._exit(0 if len(told) == before + 1 and len(told[-1]) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(pending.wait()[0].__array_interface__["shape"]) == 2
    assert len(rows) == 1


def test_a_closed_client_says_so(daemons: list[Daemon]) -> None:
    client = connect(daemons[0])
    client.close()
    for call in (
        lambda: client.fetch([("f32", np.arange(3))], None, True),
        lambda: client.announce([("f32", np.arange(3))], None, next(NUMBERS)),
        lambda: client.progress(0, 0, 1),
        lambda: client.status(),
    ):
        with pytest.raises(Exception, match="the client is closed"):
            call()
    assert client.warnings() == []
    assert "f32" in [table[0] for table in client.tables()]
