"""The forms of a call: several tables, masks, slices, whole tables, out=, batches, owners."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source
from test_memory import in_arena
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
    wants = {"item.x": [3, 1], "u8": IDS, "i64": range(4), "f16": slice(10, 2, -3)}
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
    both = client.fetch(["f32", "item.x", "u8"], slice(-2, None))
    source.check("f32", everything[-2:], both["f32"])
    source.check("item.x", np.arange(source.ITEMS)[-2:], both["item.x"])
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


def test_parts_beside_a_large_selection_are_fetched_as_ever(
    client: rudder.Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_selection, "PIECE_ROWS_MAX", 1_000)
    ids = np.arange(source.ROWS)[::-1].copy()
    meant = ids.copy()
    pending = client.fetch_async({"f32": None, "u8": ids, "bf16": slice(3), "item.x": [3, 1]})
    # Ids are read before the call returns.
    ids[:] = 0
    deadline = time.monotonic() + 60
    while not pending.done():
        assert time.monotonic() < deadline
    rows = pending.wait()
    source.check("f32", np.arange(source.ROWS), rows["f32"])
    source.check("u8", meant, rows["u8"])
    source.check("bf16", np.arange(3), rows["bf16"])
    source.check("item.x", np.array([3, 1]), rows["item.x"])
    # Only the whole table comes in pieces, into memory of this process.
    assert [in_arena(rows[name]) for name in ("f32", "u8", "bf16", "item.x")] == [False, True, True, True]
    out = np.zeros((2, 13), np.uint8)
    rows = client.fetch({"f32": None, "u8": [5, 6]}, out={"u8": out})
    assert rows["u8"] is out
    source.check("u8", np.array([5, 6]), out)
    with pytest.raises(rudder.IdOutOfRangeError):
        client.fetch({"f32": None, "u8": [source.ROWS]})
    pending = client.fetch_async({"f32": None, "u8": [source.ROWS]})
    for error in (rudder.IdOutOfRangeError, RuntimeError):
        with pytest.raises(error):
            pending.wait()
    assert pending.done()


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
        with pytest.raises(rudder.UnknownTableError, match="^no table `itme.x`; .*`f32`, .*did you mean `item.x`"):
            call("itme.x", [1])
        # An attribute of another type, and one without its type.
        with pytest.raises(rudder.UnknownTableError, match="no table `paper.f32`.*did you mean `f32`"):
            call({"f32": [1], "paper.f32": [1]})
        with pytest.raises(rudder.UnknownTableError, match="no table `x`.*did you mean `item.x`"):
            call(["x"], [1])
    with pytest.raises(rudder.UnknownTableError, match="did you mean `f32`"):
        client.update("F32", [1], np.zeros((1, 17), np.float32))
    with pytest.raises(rudder.UnknownTableError, match="no table `itm`.*did you mean `item`"):
        client.original_ids("itm", [1])
    with pytest.raises(rudder.UnknownTableError, match="did you mean `u8`"):
        client.horizon("u")
    with pytest.raises(rudder.UnknownTableError, match="did you mean `item.x`"):
        client.grow(factor=1.0, table="items.x")


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
    other = daemons[0].connect(trainer=client.trainer, ids="dataset").announce("f32", IDS)
    with pytest.raises(ValueError, match="with dataset ids, and this client takes original ids"):
        client.fetch(other)


def test_owners_and_ranges(daemons: list[Daemon], client: rudder.Client, source: Source) -> None:
    ids = np.array([0, source.ROWS - 1, 1, source.ROWS // 2 + 1], dtype=np.int32)
    owners = client.owner("f32", ids)
    assert owners.dtype == np.uint16
    assert owners.tolist() == [0, 1, 0, 1]
    assert (client.owner("item", np.arange(source.ITEMS)) == source.item_owner).all()
    ranges = [daemon.connect().local_range("f32") for daemon in daemons]
    assert [*ranges[0], *ranges[1]] == list(range(source.ROWS))
    with pytest.raises(rudder.ArgumentError, match="owner"):
        client.local_range("item")
    with pytest.raises(rudder.IdOutOfRangeError, match=str(source.ROWS)):
        client.owner("f32", [source.ROWS])


def test_the_horizon_is_what_the_daemon_asks_for(client: rudder.Client) -> None:
    asked = next(table for table in client.status()["tables"] if table["name"] == "f32")["lookahead"]["horizon"]
    assert client.horizon("f32") == asked


def test_names_of_tables_hold_types_and_attributes() -> None:
    def info(name: str, of: str) -> rudder.TableInfo:
        return rudder.TableInfo(name, of, "f32", 6, (2, 3), 10, 5, False, False, "original")

    assert (info("feat", "_N").attr, info("feat", "_N").edge_type) == ("feat", None)
    assert info("paper.x.y", "paper").attr == "x.y"
    edges = info("author:writes:paper.w", "author:writes:paper")
    assert (edges.attr, edges.edge_type, edges.row_bytes) == ("w", ("author", "writes", "paper"), 24)


def test_paths_may_be_objects(daemons: list[Daemon]) -> None:
    assert rudder.connect(Path(daemons[0].socket)).node == 0
