"""The life of a client: coroutines, closing, waiting for daemons, pauses, and warnings about one-way calls."""

from __future__ import annotations

import asyncio
import gc
import pickle
import signal
import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source
from test_memory import arenas

import rudder

IDS = np.array([5, Source.ROWS - 1, 0, 5])


async def awaited(pending: rudder.Pending) -> Any:
    return await pending


def test_waiting_in_a_coroutine_leaves_the_loop_alone(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect(timeout_s=60)
    source.check("f32", [1], client.fetch("f32", [1]))

    async def main() -> int:
        own_daemons[0].freeze()
        pending = asyncio.ensure_future(awaited(client.fetch_async("f32", IDS)))
        turns = 0
        while turns < 20:
            await asyncio.sleep(0.001)
            turns += 1
        assert not pending.done()
        own_daemons[0].signal(signal.SIGCONT)
        source.check("f32", IDS, await asyncio.wait_for(pending, 60))
        many = await asyncio.gather(*(awaited(client.fetch_async("u8", [n])) for n in range(200)))
        for number, rows in enumerate(many):
            source.check("u8", [number], rows)
        return turns

    assert asyncio.run(main()) == 20


def test_an_await_that_is_cancelled_gives_its_rows_up(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect(timeout_s=60, arena_bytes_max=32 << 20)
    ids = np.arange(source.ROWS)
    address = client.fetch("f32", ids).ctypes.data

    async def main() -> None:
        own_daemons[0].freeze()
        task = asyncio.ensure_future(awaited(client.fetch_async("f32", ids)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        own_daemons[0].signal(signal.SIGCONT)

    asyncio.run(main())
    deadline = time.monotonic() + 60
    while True:
        # At the same place: the rows that nobody waits for are free again.
        rows = client.fetch("f32", ids)
        if rows.ctypes.data == address:
            break
        del rows
        assert time.monotonic() < deadline
    source.check("f32", ids, rows)


def test_a_closed_client_says_so_and_its_rows_stay(daemons: list[Daemon], source: Source) -> None:
    gc.collect()
    before = len(arenas())
    with daemons[0].connect() as client:
        rows = client.fetch("f32", IDS)
        trainer = client.trainer
        assert not client.closed
    assert client.closed
    source.check("f32", IDS, rows)
    rows += 1
    for call in (
        lambda: client.fetch("f32", IDS),
        lambda: client.fetch_async(["f32"], IDS),
        lambda: client.announce("f32", IDS),
        lambda: client.progress(0, 0, 1),
        lambda: client.horizon("f32"),
        lambda: client.status(),
        lambda: client.wait_ready(),
        lambda: client.update("f32", [1], np.zeros((1, 17), np.float32)),
        lambda: client.original_ids("f32", [1]),
        lambda: client.hold(),
    ):
        with pytest.raises(rudder.ClosedError, match="make a new one"):
            call()
    client.close()
    assert "closed" in repr(client)
    assert (client.trainer, client.node) == (trainer, 0)
    assert len(arenas()) == before + 1
    del rows
    assert len(arenas()) == before
    # What is pickled is how to connect.
    source.check("f32", IDS, pickle.loads(pickle.dumps(client)).fetch("f32", IDS))


def test_a_client_is_closed_when_its_block_fails(daemons: list[Daemon]) -> None:
    with pytest.raises(ZeroDivisionError), daemons[0].connect() as client:
        raise ZeroDivisionError
    assert client.closed


def test_a_fetch_in_flight_ends_when_its_client_is_closed(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect(timeout_s=60)
    client.fetch("f32", IDS)
    own_daemons[0].freeze()
    pending = client.fetch_async("f32", IDS)
    threading.Timer(0.1, client.close).start()
    start = time.monotonic()
    with pytest.raises(rudder.RudderError):
        pending.wait()
    assert time.monotonic() - start < 30


def test_connect_waits_for_a_daemon(own_daemons: list[Daemon], source: Source) -> None:
    own_daemons[0].kill()
    threading.Timer(0.2, own_daemons[0].start).start()
    with own_daemons[0].connect(wait_s=60) as client:
        source.check("f32", [1], client.fetch("f32", [1]))
    start = time.monotonic()
    with pytest.raises(rudder.ConnectError):
        rudder.connect("/nowhere", wait_s=0.2)
    assert 0.2 <= time.monotonic() - start < 10
    for wait_s in (-1, 1e9, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="wait_s"):
            rudder.connect("/nowhere", wait_s=wait_s)


def test_wait_ready_waits_for_every_owner(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect(timeout_s=5)
    client.wait_ready()
    own_daemons[1].kill()
    with pytest.raises(rudder.TimeoutError, match="node 1 is not ready after 0.5 s: "):
        client.wait_ready(timeout_s=0.5)
    client.wait_ready(peers=False, timeout_s=60)
    own_daemons[1].start()
    client.wait_ready(timeout_s=60)
    source.check("f32", source.remote_ids("f32"), client.fetch("f32", source.remote_ids("f32")))
    own_daemons[0].kill()
    with pytest.raises(rudder.TimeoutError, match=r"the daemon of this node \(0\) is not ready after 0.3 s"):
        client.wait_ready(peers=False, timeout_s=0.3)
    own_daemons[0].start()
    client.wait_ready(timeout_s=60)


class Sent:
    """Notes what a client hands to its native half."""

    def __init__(self, client: rudder.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learns: list[bool] = []
        self.hints: list[str] = []
        native = client._native
        outer = self

        class Native:
            def __getattr__(self, name: str) -> Any:
                return getattr(native, name)

            def fetch(self, parts: Any, batch: Any, learn: bool) -> Any:
                outer.learns.append(learn)
                return native.fetch(parts, batch, learn)

            def fetch_async(self, parts: Any, batch: Any, learn: bool) -> Any:
                outer.learns.append(learn)
                return native.fetch_async(parts, batch, learn)

            def announce(self, *arguments: Any) -> None:
                outer.hints.append("announce")

            def progress(self, *arguments: Any) -> None:
                outer.hints.append("progress")

        monkeypatch.setattr(client, "_native", Native())

    def all(self, client: rudder.Client) -> tuple[list[bool], list[str]]:
        """Make one call of each kind; return which fetches may teach, and which hints were sent."""
        self.learns.clear()
        self.hints.clear()
        client.fetch("f32", [1])
        client.fetch(["f32"], [1])
        client.fetch_async("f32", [1]).wait()
        client.progress(0, 0, 1)
        client.fetch(client.announce("f32", [1]))
        return list(self.learns), list(self.hints)


TAUGHT = ([True] * 4, ["progress", "announce"])
PAUSED: tuple[list[bool], list[str]] = ([False] * 4, [])


def test_a_paused_client_teaches_nothing(
    daemons: list[Daemon], client: rudder.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Sent(client, monkeypatch)
    assert sent.all(client) == TAUGHT
    with client.paused() as same:
        assert same is client
        assert sent.all(client) == PAUSED
        with client.paused():
            assert sent.all(client) == PAUSED
        assert sent.all(client) == PAUSED
        other = daemons[0].connect()
        assert Sent(other, monkeypatch).all(other) == TAUGHT
    assert sent.all(client) == TAUGHT
    with pytest.raises(ZeroDivisionError), client.paused():
        raise ZeroDivisionError
    assert sent.all(client) == TAUGHT


def test_a_pause_is_of_one_thread_and_of_one_task(client: rudder.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent(client, monkeypatch)
    seen: list[Any] = []
    with client.paused():
        thread = threading.Thread(target=lambda: seen.append(sent.all(client)))
        thread.start()
        thread.join()
        assert seen == [TAUGHT]
        assert sent.all(client) == PAUSED

    async def evaluate() -> None:
        with client.paused():
            await asyncio.sleep(0.001)
            assert sent.all(client) == PAUSED

    async def train() -> None:
        for _ in range(10):
            assert sent.all(client) == TAUGHT
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(evaluate(), train(), evaluate())

    asyncio.run(both())


def test_a_paused_generator_may_end_elsewhere(client: rudder.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Any:
        with client.paused():
            yield

    generator, ended = rows(), []
    next(generator)
    thread = threading.Thread(target=lambda: ended.append(next(generator, "ended")))
    thread.start()
    thread.join()
    assert ended == ["ended"]
    assert Sent(client, monkeypatch).all(client) == PAUSED
    with client.paused():
        pass


def test_what_the_daemon_refused_is_said_once(client: rudder.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [[("limit", "too many announced rows wait")], [], [("limit", "again")], [("order", "another order")]]

    class Native:
        def __init__(self, native: Any) -> None:
            self.native = native

        def __getattr__(self, name: str) -> Any:
            return getattr(self.native, name)

        def warnings(self) -> list[tuple[str, str]]:
            return said.pop(0) if said else []

    monkeypatch.setattr(client, "_native", Native(client._native))
    with pytest.warns(RuntimeWarning, match="too many announced rows") as caught:
        client.fetch("f32", [1])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.fetch_async("f32", [1]).wait()
        client.announce("f32", [1])
    with pytest.warns(RuntimeWarning, match="another order"):
        client.progress(0, 0, 1)
