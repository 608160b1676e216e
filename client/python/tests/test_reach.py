"""The forms of a call: several tables, masks, slices, whole tables, out=, batches, and the life of a client."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source
from test_memory import arenas, in_arena
from test_processes import in_child

import rudder
from rudder import _selection
from rudder._arrays import as_ids

IDS = np.array([5, Source.ROWS - 1, 0, 5])


def test_several_tables_with_the_same_ids(client: rudder.Client, source: Source) -> None:
    for rows in (client.fetch(["f32", "bf16"], IDS), client.fetch_async(("f32", "bf16"), IDS).wait()):
        assert list(rows) == ["f32", "bf16"]
        for name, part in rows.items():
            source.check(name, IDS, part)
            assert in_arena(part)


def test_several_tables_with_ids_of_their_own(client: rudder.Client, source: Source) -> None:
    wants = {"item": [3, 1], "u8": IDS, "i64": range(4), "f16": slice(10, 2, -3)}
    rows = client.fetch(wants)
    assert list(rows) == list(wants)
    for name, ids in {**wants, "f16": [10, 7, 4]}.items():
        source.check(name, ids, rows[name])
    assert client.fetch({}) == {}
    assert client.fetch([], [1]) == {}
    assert client.fetch_async({}).wait() == {}


def test_masks_slices_and_whole_tables(client: rudder.Client, source: Source) -> None:
    mask = np.zeros(source.ROWS, dtype=bool)
    mask[[7, 4_000]] = True
    everything = np.arange(source.ROWS)
    for ids, meant in (
        (mask, [7, 4_000]),
        (mask.tolist(), [7, 4_000]),
        (~mask, np.flatnonzero(~mask)),
        (slice(None), everything),
        (slice(-3, None), everything[-3:]),
        (slice(4, 4), []),
        (slice(None, None, -7), everything[::-7]),
        (range(5, 2, -1), [5, 4, 3]),
        (range(0), []),
        (None, everything),
    ):
        for rows in (client.fetch("f32", ids), client.fetch_async("f32", ids).wait()):
            source.check("f32", np.asarray(meant, dtype=np.int64), rows)
    source.check("f32", everything, client.fetch("f32"))
    # Tables of another type have other rows, so the same slice means other ids.
    both = client.fetch(["f32", "item", "u8"], slice(-2, None))
    source.check("f32", everything[-2:], both["f32"])
    source.check("item", np.arange(source.ITEMS)[-2:], both["item"])
    source.check("u8", everything[-2:], both["u8"])


def test_large_selections_come_in_pieces(
    client: rudder.Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selection, "PIECE_ROWS_MAX", 1_000)
    monkeypatch.setattr(_selection, "PIECE_BYTES_MAX", 1_000 * 17 * 4)
    mask = np.arange(source.ROWS) % 3 != 1
    cases: list[tuple[Any, np.ndarray]] = [
        (None, np.arange(source.ROWS)),
        (slice(None, None, -1), np.arange(source.ROWS)[::-1]),
        (mask, np.flatnonzero(mask)),
    ]
    for ids, meant in cases:
        rows = client.fetch(["f32", "u8"], ids)
        assert not in_arena(rows["f32"])
        source.check("f32", meant, rows["f32"])
        source.check("u8", meant, rows["u8"])
        source.check("bf16", meant, client.fetch("bf16", ids))

        out = np.empty((len(meant), 17), np.float32)
        pending = client.fetch_async("f32", ids, out=out)
        deadline = time.monotonic() + 60
        while not pending.done():
            assert time.monotonic() < deadline
        assert pending.wait() is out
        source.check("f32", meant, out)
        with pytest.raises(RuntimeError, match="taken"):
            pending.wait()
        source.check("f32", meant, asyncio.run(awaited(client.fetch_async("f32", ids))))


async def awaited(pending: rudder.Pending) -> Any:
    return await pending


def test_an_error_in_a_piece_ends_the_fetch(
    own_daemons: list[Daemon], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selection, "PIECE_ROWS_MAX", 500)
    client = own_daemons[0].connect()
    own_daemons[1].kill()
    pending = client.fetch_async("f32", None)
    with pytest.raises(rudder.PeerUnavailableError):
        client.fetch("f32", None)
    deadline = time.monotonic() + 60
    while not pending.done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(rudder.PeerUnavailableError):
        pending.wait()
    source.check("f32", range(500), client.fetch("f32", slice(500)))


def test_narrow_ids_are_read_in_place() -> None:
    for dtype in (np.uint32, np.int32, np.uint64, np.int64):
        ids = np.arange(10, dtype=dtype)
        assert np.shares_memory(as_ids(ids)[0], ids)
    assert as_ids(np.arange(10, dtype=np.uint8))[0].dtype == np.uint32
    assert as_ids(np.arange(10, dtype=np.int16))[0].dtype == np.int32


def test_rows_into_arrays_of_the_caller(client: rudder.Client, source: Source) -> None:
    out = np.zeros((4, 17), np.float32)
    assert client.fetch("f32", IDS, out=out) is out
    source.check("f32", IDS, out)
    wide = np.zeros((4, 40), np.float32)
    assert client.fetch("f32", IDS, out=wide[:, 5:22]) is not wide
    source.check("f32", IDS, np.ascontiguousarray(wide[:, 5:22]))
    assert not wide[:, :5].any()
    some = {"u8": np.zeros((4, 13), np.uint8)}
    rows = client.fetch(["f32", "u8"], IDS, out=some)
    assert rows["u8"] is some["u8"]
    source.check("u8", IDS, rows["u8"])
    source.check("f32", IDS, rows["f32"])
    # Rows that were handed out may be filled again.
    kept = client.fetch("f32", [1, 2, 3, 4])
    assert client.fetch_async("f32", IDS, out=kept).wait() is kept
    source.check("f32", IDS, kept)


READ_ONLY = np.zeros((4, 17), np.float32)
READ_ONLY.flags.writeable = False

BAD_OUTS: list[tuple[Any, type[Exception], str]] = [
    (np.zeros((4, 17)), TypeError, "rows of f32, and out is of float64"),
    (np.zeros((3, 17), np.float32), ValueError, r"shape \(3, 17\).*must be \(4, 17\)"),
    (np.zeros((4, 17, 1), np.float32), ValueError, r"shape \(4, 17, 1\).*must be \(4, 17\)"),
    (READ_ONLY, ValueError, "'f32' is read-only"),
    (np.broadcast_to(np.zeros(17, np.float32), (4, 17)), ValueError, "read-only"),
    ([[0.0] * 17] * 4, TypeError, "must be an array or a tensor, not list"),
    ({"f32": np.zeros((4, 17), np.float32)}, TypeError, "not dict"),
]


@pytest.mark.parametrize(("out", "error", "message"), BAD_OUTS)
def test_what_rows_cannot_be_put_into(
    client: rudder.Client, source: Source, out: Any, error: type, message: str
) -> None:
    for fetch in (client.fetch, client.fetch_async):
        with pytest.raises(error, match=message):
            fetch("f32", IDS, out=out)
    with pytest.raises(TypeError, match="mapping of table names"):
        client.fetch(["f32", "u8"], IDS, out=np.zeros((4, 17), np.float32))
    with pytest.raises(ValueError, match="out has .'f16'., which this call does not fetch"):
        client.fetch(["f32", "u8"], IDS, out={"f16": np.zeros((4, 5), np.float16)})
    source.check("f32", [1], client.fetch("f32", [1]))


def test_arguments_that_make_no_sense(client: rudder.Client) -> None:
    with pytest.raises(TypeError, match="mapping has its ids"):
        client.fetch({"f32": [1]}, [1])
    with pytest.raises(ValueError, match="'f32' is named twice"):
        client.fetch(["f32", "f32"], [1])
    with pytest.raises(TypeError, match="a list of names.*not int"):
        client.fetch(3, [1])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="named by text, not by int"):
        client.fetch({3: [1]})
    with pytest.raises(ValueError, match="device is tpu:0"):
        client.fetch("f32", [1], device="tpu:0")
    with pytest.raises(ValueError, match="step is -1"):
        client.announce("f32", [1], step=-1)
    with pytest.raises(TypeError, match="only tables can be sliced"):
        client.original_ids("f32", slice(3))


def test_unknown_names_are_answered_with_the_nearest(client: rudder.Client) -> None:
    for call in (client.fetch, client.fetch_async, client.announce):
        with pytest.raises(rudder.UnknownTableError, match="^no table `itme`; the daemon serves `f32`, .*did you mean `item`"):
            call("itme", [1])
        with pytest.raises(rudder.UnknownTableError, match="no table `paper.item`.*did you mean `item`"):
            call({"f32": [1], "paper.item": [1]})
    with pytest.raises(rudder.UnknownTableError, match="did you mean `f32`"):
        client.update("F32", [1], np.zeros((1, 17), np.float32))
    with pytest.raises(rudder.UnknownTableError, match="no table `itm`.*did you mean `item`"):
        client.original_ids("itm", [1])
    with pytest.raises(rudder.UnknownTableError, match="did you mean `u8`"):
        client.horizon("u")
    with pytest.raises(rudder.UnknownTableError, match="did you mean `item`"):
        client.grow(factor=1.0, table="tem")


def test_a_whole_table_above_the_limit(daemons: list[Daemon], source: Source) -> None:
    table_bytes = source.ROWS * 17 * 4
    client = daemons[0].connect(whole_bytes_max=table_bytes - 1)
    for fetch in (client.fetch, client.fetch_async, client.announce):
        with pytest.raises(rudder.LimitError, match=f"{table_bytes} bytes.*whole_bytes_max = {table_bytes - 1}"):
            fetch("f32", None)
    source.check("f32", np.arange(source.ROWS), client.fetch("f32", slice(None)))
    source.check("u8", np.arange(source.ROWS), client.fetch("u8"))
    source.check("f32", np.arange(source.ROWS), daemons[0].connect(whole_bytes_max=table_bytes).fetch("f32"))


def test_a_batch_is_fetched_in_the_form_in_which_it_was_announced(client: rudder.Client, source: Source) -> None:
    one = client.announce("f32", IDS)
    source.check("f32", IDS, client.fetch(one))
    several = client.announce(["f32", "u8"], IDS, step=7)
    assert several.tables == ("f32", "u8")
    assert several.trainer == client.trainer
    for batch in (several, pickle.loads(pickle.dumps(several))):
        assert batch.number == several.number
        rows = client.fetch_async(batch).wait()
        source.check("f32", IDS, rows["f32"])
        source.check("u8", IDS, rows["u8"])
    assert one.number != several.number
    assert client.fetch(client.announce({})) == {}
    with pytest.raises(TypeError, match="batch has its ids"):
        client.fetch(one, IDS)


def test_numbers_of_batches_are_unique_within_a_trainer(client: rudder.Client) -> None:
    numbers = {client.announce("f32", [1]).number for _ in range(100)}
    assert len(numbers) == 100
    reader, writer = os.pipe()
    in_child(lambda: os.write(writer, str(client.announce("f32", [1]).number).encode()))
    child = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    assert child not in numbers | {client.announce("f32", [1]).number for _ in range(100)}


def test_a_batch_of_another_trainer_is_refused(daemons: list[Daemon], client: rudder.Client) -> None:
    batch = daemons[0].connect(trainer=client.trainer + 1).announce("f32", IDS)
    with pytest.raises(ValueError, match=f"by trainer {client.trainer + 1}, and this client belongs to trainer {client.trainer}"):
        client.fetch(batch)


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

    generator = rows()
    next(generator)
    thread = threading.Thread(target=lambda: next(generator, None))
    thread.start()
    thread.join()
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


def test_names_of_tables_hold_types_and_attributes() -> None:
    def info(name: str, of: str) -> rudder.TableInfo:
        return rudder.TableInfo(name, of, "f32", 6, (2, 3), 10, 5, False, False, "original")

    assert (info("feat", "_N").attr, info("feat", "_N").edge_type) == ("feat", None)
    assert info("paper.x.y", "paper").attr == "x.y"
    edges = info("author:writes:paper.w", "author:writes:paper")
    assert (edges.attr, edges.edge_type, edges.row_bytes) == ("w", ("author", "writes", "paper"), 24)


def test_paths_may_be_objects(daemons: list[Daemon]) -> None:
    assert rudder.connect(Path(daemons[0].socket)).node == 0
