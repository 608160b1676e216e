"""Rows that are written are read, here at once, elsewhere after a refresh."""

from __future__ import annotations

import numpy as np
import pytest
from cluster import Daemon, Source

import rudder

TABLES = ["f32", "f16", "bf16", "f64", "i64", "u8", "item.x"]


def new_rows(source: Source, table: str, ids: np.ndarray, seed: int) -> np.ndarray:
    """Random rows of the table's type."""
    array = source.arrays[table]
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, (len(ids), array.shape[1])).astype(array.dtype)


@pytest.mark.parametrize("inline", [False, True])
def test_updates_are_read_at_once_here_and_after_a_refresh_there(
    own_daemons: list[Daemon], source: Source, inline: bool
) -> None:
    here, there = (daemon.connect(inline=inline) for daemon in own_daemons)
    for seed, table in enumerate(TABLES):
        ids = np.random.default_rng(seed).permutation(len(source.arrays[table]))[:300]
        for _ in range(3):
            there.fetch(table, ids)
        rows = new_rows(source, table, ids, seed)
        assert here.update(table, ids, rows) == len(ids)
        assert here.fetch(table, ids).tobytes() == rows.tobytes()
        answer = there.refresh(table=table)
        assert answer["tables"][0]["unreachable"] == []
        assert there.fetch(table, ids).tobytes() == rows.tobytes()
    status = here.status()["tables"][0]["versions"]
    assert status["updates"] == 1
    assert status["update_rows"] == 300


def test_the_last_row_of_an_id_stays(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect()
    ids = np.array([5, 6, 5])
    rows = new_rows(source, "f32", ids, 1)
    assert client.update("f32", ids, rows) == 2
    assert (client.fetch("f32", [6, 5]) == rows[[1, 2]]).all()


def test_rows_of_another_type_or_shape_are_refused(client: rudder.Client, source: Source) -> None:
    ids = np.arange(3)
    rows = source.arrays["f32"][:3]
    with pytest.raises(TypeError, match="float32, not of float64"):
        client.update("f32", ids, rows.astype(np.float64))
    with pytest.raises(ValueError, match=r"shape \(3, 16\)"):
        client.update("f32", ids, rows[:, :16])
    with pytest.raises(ValueError, match="shape"):
        client.update("f32", ids, rows[:2])
    with pytest.raises(rudder.UnknownTableError, match="no table `nothing`"):
        client.update("nothing", ids, rows)
    with pytest.raises(rudder.IdOutOfRangeError):
        client.update("f32", [0, 1, 1 << 40], rows)


def test_rows_need_not_be_contiguous(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[1].connect()
    ids = np.arange(50)
    wide = new_rows(source, "f32", np.arange(100), 3)
    client.update("f32", ids, wide[::2])
    assert (client.fetch("f32", ids) == wide[::2]).all()


def test_tools_answer_in_numbers(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect()
    warmed = client.warm("f32", range(len(source.arrays["f32"])))["tables"][0]
    assert warmed["remote_rows"] > 0
    assert client.grow(rows=np.int64(10), table="f32")["tables"][0]["after_rows"] == 10
    assert client.grow(factor=np.float32(2.0), table="f32")["tables"][0]["after_rows"] == 20
    assert client.evict(0.5, forget=True)["tool"] == "evict"
    assert client.refresh(max_age_s=0)["tables"][0]["changed_rows"] == 0
    assert client.hold() == {"tool": "hold", "tables": []}
    with pytest.raises(rudder.RudderError, match="fraction"):
        client.evict(2.0)


def test_tensors_are_written_as_they_are(own_daemons: list[Daemon]) -> None:
    torch = pytest.importorskip("torch")
    client = own_daemons[0].connect()
    ids = torch.arange(0, 40)
    for table, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        rows = torch.randn(40, client.tables()[table].width).to(dtype)
        assert client.update(table, ids, rows) == 40
        assert torch.equal(client.fetch(table, ids), rows)
