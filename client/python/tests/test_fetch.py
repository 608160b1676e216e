"""Rows are the owner's rows, whatever is asked and however."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from cluster import Daemon, Source

import rudder

TABLES = ["f32", "f16", "bf16", "f64", "i64", "u8", "item.x"]
FETCHES = 1_000
IDS_OF_A_FETCH_MAX = 4_000


def random_ids(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Ids of a random fetch: few or many, all over the table or from a few rows, so with many duplicates."""
    count = int(np.exp(rng.uniform(0, np.log(IDS_OF_A_FETCH_MAX)))) - (rng.random() < 0.01)
    high = rows if rng.random() < 0.7 else int(rng.integers(1, 50))
    return rng.integers(0, high, count)


@pytest.mark.parametrize("table", TABLES)
def test_random_fetches_equal_the_source(daemons: list[Daemon], source: Source, table: str) -> None:
    rng = np.random.default_rng(TABLES.index(table))
    clients = [daemon.connect() for daemon in daemons]
    rows = len(source.arrays[table])
    for number in range(FETCHES):
        ids = random_ids(rng, rows)
        source.check(table, ids, clients[number % 2].fetch(table, ids))


def test_tables_say_what_they_are(client: rudder.Client, source: Source) -> None:
    tables = client.tables()
    assert sorted(tables) == sorted(source.arrays)
    for name, table in tables.items():
        array = source.arrays[name]
        assert (table.name, table.rows, table.width) == (name, *array.shape)
        assert table.numpy_dtype == array.dtype
        assert 0 < table.local_rows < table.rows
    assert tables["item.x"].vertex_type == "item"
    assert tables["bf16"].dtype == "bf16"


@pytest.mark.parametrize("dtype", ["u1", "i2", "<u4", "<i4", ">i4", "<i8", ">i8", "<u8", ">u8", "intp"])
def test_any_integer_is_an_id(client: rudder.Client, source: Source, dtype: str) -> None:
    ids = np.arange(100, dtype=dtype)
    source.check("f32", ids, client.fetch("f32", ids))
    source.check("f32", ids[::-3], client.fetch("f32", ids[::-3]))


def test_lists_ranges_and_no_ids_at_all(client: rudder.Client, source: Source) -> None:
    source.check("f32", [5, 5, 1], client.fetch("f32", [5, 5, 1]))
    source.check("f32", range(10), client.fetch("f32", range(10)))
    unaligned = np.zeros(81, dtype=np.uint8)[1:].view(np.int64)
    source.check("f32", unaligned, client.fetch("f32", unaligned))
    for nothing in ([], np.empty(0, dtype=np.uint64)):
        rows = client.fetch("f32", nothing)
        assert rows.shape == (0, 17)
        assert rows.dtype == np.float32


def test_inline_equals_shared(daemons: list[Daemon], source: Source) -> None:
    shared, inline = daemons[0].connect(), daemons[0].connect(inline=True)
    rng = np.random.default_rng(7)
    for table in TABLES:
        ids = rng.integers(0, len(source.arrays[table]), 3_000)
        rows = inline.fetch(table, ids)
        source.check(table, ids, rows)
        assert rows.tobytes() == shared.fetch(table, ids).tobytes()


@pytest.mark.parametrize("inline", [False, True])
def test_many_fetches_in_flight(daemons: list[Daemon], source: Source, inline: bool) -> None:
    client = daemons[0].connect(inline=inline)
    rng = np.random.default_rng(8)
    wanted = [rng.integers(0, source.ROWS, int(rng.integers(0, 3_000))) for _ in range(300)]
    pending = [client.fetch_async("f32", ids) for ids in wanted]
    for at in rng.permutation(len(wanted)):
        rows = pending[at].wait()
        source.check("f32", wanted[at], rows)


def test_done_says_that_wait_will_not_block(client: rudder.Client, source: Source) -> None:
    pending = client.fetch_async("f32", [1, source.ROWS - 1])
    while not pending.done():
        pass
    source.check("f32", [1, source.ROWS - 1], pending.wait())
    with pytest.raises(RuntimeError, match="taken"):
        pending.wait()


def test_threads_share_a_client(client: rudder.Client, source: Source) -> None:
    failures: list[BaseException] = []

    def fetch(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(100):
                ids = random_ids(rng, source.ROWS)
                source.check("u8", ids, client.fetch("u8", ids))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=fetch, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_progress_and_status(client: rudder.Client) -> None:
    client.progress(0, 1, 10)
    client.progress(1, 0, 10)
    assert isinstance(client.status(), dict)
    assert client.node == 0
