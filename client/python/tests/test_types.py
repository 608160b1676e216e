"""Rows have the shape and type that went in: every element type in several shapes, through imports, daemons and updates."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cluster import Daemon, cluster, random_bits, run

import rudder

ROWS = 500

#: Element types of tables, and what NumPy calls them.
DTYPES = {
    "f32": "<f4",
    "f16": "<f2",
    "bf16": "<u2",
    "f64": "<f8",
    "i64": "<i8",
    "u8": "u1",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "i1",
    "bool": "?",
    "u16": "<u2",
    "u32": "<u4",
    "u64": "<u8",
}

#: Shapes of one row.
SHAPES: list[tuple[int, ...]] = [(), (1,), (2, 3)]


def table_of(dtype: str, shape: tuple[int, ...]) -> str:
    """Name of the table of a type and shape."""
    return "-".join([dtype, *map(str, shape)])


CASES = {table_of(dtype, shape): (dtype, shape) for dtype in DTYPES for shape in SHAPES}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """What is imported, by the names of the tables."""
    rng = np.random.default_rng(7)
    made = {}
    for name, (dtype, shape) in CASES.items():
        width = int(np.prod(shape, dtype=int))
        bits = random_bits(rng, "u1" if dtype == "bool" else DTYPES[dtype], ROWS, width)
        made[name] = (bits % 2 == 1 if dtype == "bool" else bits).reshape(ROWS, *shape)
    return made


@pytest.fixture(scope="module")
def shaped(folder: Path, authority: Path, arrays: dict[str, np.ndarray]) -> Iterator[list[Daemon]]:
    """Two daemons over tables of every type and shape, and one of a type with a name."""
    path = Path(tempfile.mkdtemp(dir=folder))
    arguments: list[str] = []
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
        arguments += ["--table", f"{name}={path / name}.npy" + (":bf16" if name.startswith("bf16") else "")]
    np.save(path / "year.npy", np.arange(60, dtype=np.int16))
    np.save(path / "w.npy", np.arange(90, dtype=np.float32))
    arguments += ["--table", f"year@paper={path / 'year.npy'}", "--table", f"w@author:writes:paper={path / 'w.npy'}"]
    dataset = path / "dataset"
    run("rudder", "import", "npy", "--out", dataset, "--parts", "2", *arguments)
    with cluster(path, dataset, authority) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_what_went_in_comes_out(shaped: list[Daemon], arrays: dict[str, np.ndarray], name: str) -> None:
    """By fetches of both nodes, cached or not, over shared memory or not."""
    dtype, shape = CASES[name]
    ids = np.random.default_rng(3).integers(0, ROWS, 200)
    for daemon, inline in ((shaped[0], False), (shaped[1], True)):
        client = daemon.connect(inline=inline)
        info = client.tables()[name]
        assert (info.dtype, info.shape, info.width) == (dtype, shape, int(np.prod(shape, dtype=int)))
        for _ in range(2):
            rows = client.fetch(name, ids)
            assert rows.dtype == arrays[name].dtype == info.numpy_dtype
            assert rows.shape == (200, *shape)
            assert rows.tobytes() == arrays[name][ids].tobytes()
        assert client.fetch(name, []).shape == (0, *shape)


@pytest.mark.parametrize("name", CASES)
def test_updates_take_rows_of_the_shape(shaped: list[Daemon], name: str) -> None:
    """And no other: `[n]` and `[n, 1]` are two shapes."""
    dtype, shape = CASES[name]
    client, ids = shaped[0].connect(), np.array([3, ROWS - 1])
    rows = np.ones((2, *shape), DTYPES[dtype])
    assert client.update(name, ids, rows) == 2
    assert (client.fetch(name, ids) == rows).all()
    for wrong in ((2, *shape, 1), (1, *shape), (2, *shape, 0), (3, *shape)):
        with pytest.raises(ValueError, match=r"rows have shape .* it must be"):
            client.update(name, ids, np.ones(wrong, DTYPES[dtype]))
    other = "<f8" if dtype != "f64" else "<f4"
    with pytest.raises(TypeError, match=f"has rows of {np.dtype(DTYPES[dtype])}"):
        client.update(name, ids, rows.astype(other))
    with pytest.raises(TypeError, match="object"):
        client.update(name, ids, rows.astype(object))
    turned = np.asfortranarray(np.stack((rows, rows), axis=-1))[..., 0]
    assert client.update(name, ids, turned) == 2


def test_names_say_type_and_attribute(shaped: list[Daemon]) -> None:
    """`TYPE.ATTR`, of edges too; the unnamed type's attributes have no type before them."""
    tables = shaped[0].connect().tables()
    year, weight, plain = tables["paper.year"], tables["author:writes:paper.w"], tables["f32"]
    assert (year.vertex_type, year.attr, year.edge_type, year.dtype) == ("paper", "year", None, "i16")
    assert (weight.attr, weight.edge_type) == ("w", ("author", "writes", "paper"))
    assert (plain.vertex_type, plain.attr, plain.edge_type) == ("_N", "f32", None)


@pytest.mark.parametrize(
    ("asked", "meant"), [("year", "paper.year"), ("Paper.Year", "paper.year"), ("paper.yaer", "paper.year"), ("f23", "f32")]
)
def test_an_unknown_table_names_the_nearest(shaped: list[Daemon], asked: str, meant: str) -> None:
    client = shaped[0].connect()
    calls = (
        lambda: client.fetch(asked, [1]),
        lambda: client.announce(asked, [1]),
        lambda: client.update(asked, [1], np.zeros((1, 1), np.float32)),
        lambda: client.original_ids(asked, [1]),
        lambda: client.grow(factor=1.0, table=asked),
    )
    for call in calls:
        with pytest.raises(rudder.UnknownTableError, match=f"did you mean `{meant}`"):
            call()
    with pytest.raises(rudder.UnknownTableError, match="did you mean `paper`"):
        client.original_ids("papers", [1])
    with pytest.raises(rudder.UnknownTableError) as caught:
        client.fetch("nothing like it", [1])
    assert "did you mean" not in str(caught.value)
    assert "and 25 more" in str(caught.value)


def test_tensors_have_the_type_or_say_why_not(shaped: list[Daemon], arrays: dict[str, np.ndarray]) -> None:
    """torch 2.2 has no unsigned types but uint8: then nothing else comes in their place."""
    torch = pytest.importorskip("torch")
    client, ids = shaped[0].connect(), torch.tensor([5, 1, ROWS - 2])
    for name, (dtype, shape) in CASES.items():
        wanted = "bfloat16" if dtype == "bf16" else np.dtype(DTYPES[dtype]).name
        if not hasattr(torch, wanted):
            with pytest.raises(TypeError, match=f"torch.{wanted}, which torch 2.3 brought"):
                client.fetch(name, ids)
            continue
        rows = client.fetch(name, ids)
        assert rows.dtype == getattr(torch, wanted)
        assert rows.shape == (3, *shape)
        flat = rows.reshape(-1).view(torch.uint8).numpy()
        assert client.update(name, ids, rows) == 3
        assert flat.tobytes() == client.fetch(name, ids.numpy()).tobytes()


def test_get_prints_rows_in_their_shape(shaped: list[Daemon], arrays: dict[str, np.ndarray]) -> None:
    array, socket = arrays["i16-2-3"][10], shaped[0].socket
    printed = run("rudder", "get", "i16-2-3", "10", "--socket", socket)
    assert "500 rows of 2 x 3 i16;" in printed
    assert f"10  {array.tolist()}  " in printed
    truth = bool(arrays["bool"][11])
    assert f"11  {str(truth).lower()}  " in run("rudder", "get", "bool", "11", "--socket", socket)
