"""Datasets out of partitions of PyG and GraphLearn: every row at its id, its owner as the partition says, and no code out of a pickle."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_writer as torch_files
from cluster import program

import rudder
from rudder import convert
from rudder._torch_files import Tensor, load, load_all

PARTS = 3
RANGE_BOOK = torch_files.Global("graphlearn_torch.partition.partition_book", "RangePartitionBook")


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUDDER_BIN_DIR", str(Path(program("rudder")).parent))


class Truth:
    """The features of a graph, and who owns what.

    Attributes
    ----------
    rows, owners : dict of str to numpy.ndarray
        For each type, in the order of ids.
    """

    def __init__(self, types: dict[str, int], width: int = 5, seed: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows = {name: self.rng.random((count, width), dtype=np.float32) for name, count in types.items()}
        self.owners = {name: self.rng.integers(0, PARTS, count) for name, count in types.items()}

    def of(self, name: str, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a part, in no order, and their rows."""
        ids = self.rng.permutation(np.flatnonzero(self.owners[name] == part))
        return ids, self.rows[name][ids]

    def check(self, dataset: Path, tables: dict[str, str]) -> None:
        """Hold the shards of a dataset against the features: `tables` says which table has the rows of which type."""
        manifest = json.loads((dataset / "manifest.json").read_text())
        types = {one["name"]: one for one in manifest["vertex_types"]}
        assert {one["name"]: one["vertex_type"] for one in manifest["tables"]} == tables
        for table in manifest["tables"]:
            name = table["vertex_type"]
            owners = np.load(dataset / types[name]["book"]["owner"]["path"])
            np.testing.assert_array_equal(owners, self.owners[name])
            for part, shard in enumerate(table["shards"]):
                rows = np.load(dataset / shard["file"]["path"])
                assert rows.tobytes() == self.rows[name][owners == part].tobytes()


def write_pyg(folder: Path, truth: Truth) -> Path:
    """A partition of a graph with one type of vertex and of edge."""
    folder.mkdir()
    meta = {"num_parts": PARTS, "node_types": None, "edge_types": None, "node_offset": None, "is_hetero": False, "is_sorted": True}
    (folder / "META.json").write_text(json.dumps(meta))
    for kind, name, feature in (("node", "_N", "x"), ("edge", "_N:_E:_N", "edge_attr")):
        torch_files.save(folder / f"{kind}_map.pt", truth.owners[name].astype(np.int64))
        for part in range(PARTS):
            ids, rows = truth.of(name, part)
            torch_files.save(folder / f"part_{part}" / f"{kind}_feats.pt", {"global_id": ids, "feats": {feature: rows}})
    return folder


def write_hetero_pyg(folder: Path, truth: Truth, *, counts_from_0: bool) -> Path:
    """A partition of a graph with types. Versions of PyG differ in how they count ids."""
    folder.mkdir()
    nodes = [name for name in truth.rows if ":" not in name]
    edges = [name.split(":") for name in truth.rows if ":" in name]
    meta = {"num_parts": PARTS, "node_types": nodes, "edge_types": edges, "is_hetero": True}
    (folder / "META.json").write_text(json.dumps(meta))
    for kind, types, feature in (("node", nodes, "x"), ("edge", edges, "edge_attr")):
        parts: list[dict[Any, Any]] = [{} for _ in range(PARTS)]
        offset = 0
        for one in types:
            name, key = (one, one) if kind == "node" else (":".join(one), tuple(one))
            torch_files.save(folder / f"{kind}_map" / f"{'__'.join(name.split(':'))}.pt", truth.owners[name].astype(np.int64))
            for part, entry in enumerate(parts):
                ids, rows = truth.of(name, part)
                entry[key] = {"global_id": ids + offset, "feats": {feature: rows}}
                if counts_from_0:
                    entry[key]["id"] = ids
            offset += len(truth.rows[name])
        for part, entry in enumerate(parts):
            torch_files.save(folder / f"part_{part}" / f"{kind}_feats.pt", entry)
    return folder


def write_glt(folder: Path, truth: Truth, types: tuple[str, ...] = ()) -> Path:
    """A partition of GraphLearn, in chunks of 10 rows."""
    folder.mkdir()
    nodes = [name for name in types if ":" not in name]
    edges = [tuple(name.split(":")) for name in types if ":" in name]
    meta = {"num_parts": PARTS, "data_cls": "hetero" if types else "homo", "node_types": nodes or None, "edge_types": edges or None}
    (folder / "META").write_bytes(pickle.dumps(meta, pickle.HIGHEST_PROTOCOL))
    for name in truth.rows:
        kind = "edge" if ":" in name else "node"
        stem = name.replace(":", "__") if types else ""
        book = folder / f"{kind}_pb" / f"{stem}.pt" if types else folder / f"{kind}_pb.pt"
        torch_files.save(book, truth.owners[name].astype(np.int64))
        for part in range(PARTS):
            ids, rows = truth.of(name, part)
            below = folder / f"part{part}" / f"{kind}_feat" / stem
            torch_files.append(below / "feats.pkl", (rows[at : at + 10] for at in range(0, len(ids), 10)))
            torch_files.append(below / "ids.pkl", (ids[at : at + 10] for at in range(0, len(ids), 10)))
    return folder


@pytest.fixture()
def plain() -> Truth:
    """A graph that names no types."""
    return Truth({"_N": 311, "_N:_E:_N": 703})


@pytest.fixture()
def typed() -> Truth:
    """A graph with types."""
    return Truth({"paper": 211, "author": 97, "author:writes:paper": 405, "paper:cites:paper": 333})


TYPED = {
    "paper.x": "paper",
    "author.x": "author",
    "author:writes:paper.edge_attr": "author:writes:paper",
    "paper:cites:paper.edge_attr": "paper:cites:paper",
}


def test_pyg(tmp_path: Path, plain: Truth) -> None:
    """Rows of vertices and edges, and labels from a tensor beside the partition."""
    labels = np.arange(311, dtype=np.int64) * 3
    torch_files.save(tmp_path / "label.pt", labels)
    summary = convert.from_pyg(write_pyg(tmp_path / "in", plain), tmp_path / "out", tables=[f"label={tmp_path / 'label.pt'}"])
    assert summary["parts"] == PARTS
    plain.rows["label"] = labels
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    shards = next(table["shards"] for table in manifest["tables"] if table["name"] == "label")
    for part, shard in enumerate(shards):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / shard["file"]["path"]).ravel(), labels[plain.owners["_N"] == part])
    convert.from_pyg(tmp_path / "in", tmp_path / "out", force=True)
    plain.check(tmp_path / "out", {"x": "_N", "_N:_E:_N.edge_attr": "_N:_E:_N"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "label.pt", "out"]


@pytest.mark.parametrize("counts_from_0", [True, False])
def test_pyg_with_types(tmp_path: Path, typed: Truth, counts_from_0: bool) -> None:
    """Each type has ids from 0, whether the partition counts so or over all types."""
    convert.from_pyg(write_hetero_pyg(tmp_path / "in", typed, counts_from_0=counts_from_0), tmp_path / "out")
    typed.check(tmp_path / "out", TYPED)


def test_pyg_without_edge_features(tmp_path: Path, plain: Truth) -> None:
    """What a graph lacks makes no table; a default dictionary is what PyG 2.8 writes then."""
    folder = write_pyg(tmp_path / "in", plain)
    empty = torch_files.Call(torch_files.Global("collections", "defaultdict"), (torch_files.Global("builtins", "dict"),))
    for part in range(PARTS):
        torch_files.save(folder / f"part_{part}" / "edge_feats.pt", empty)
    convert.from_pyg(folder, tmp_path / "out")
    plain.check(tmp_path / "out", {"x": "_N"})


def test_glt(tmp_path: Path, plain: Truth) -> None:
    """Chunks that were appended one after the other."""
    convert.from_glt(write_glt(tmp_path / "in", plain), tmp_path / "out")
    plain.check(tmp_path / "out", {"feat": "_N", "_N:_E:_N.feat": "_N:_E:_N"})


def test_glt_with_types(tmp_path: Path, typed: Truth) -> None:
    """Vertices and edges of several types."""
    convert.from_glt(write_glt(tmp_path / "in", typed, tuple(typed.rows)), tmp_path / "out")
    typed.check(tmp_path / "out", {f"{name}.feat": name for name in typed.rows})


def test_glt_ranges_without_ids(tmp_path: Path) -> None:
    """A book of ranges, as GiGL has it: the rows of a part are in the order of its ids, and nothing says them again."""
    truth = Truth({"_N": 100})
    bounds = np.array([40, 40, 100])
    truth.owners["_N"] = np.repeat(np.arange(PARTS), np.diff(bounds, prepend=0))
    folder = write_glt(tmp_path / "in", truth)
    offset = torch_files.Instance(torch_files.Global(RANGE_BOOK.module, "OffsetId2Index"), {"offset": 0})
    book = torch_files.Instance(RANGE_BOOK, {"partition_bounds": bounds, "partition_idx": 0, "_id2index": offset})
    torch_files.save(folder / "node_pb.pt", book)
    for part in range(PARTS):
        below = folder / f"part{part}" / "node_feat"
        for stem in ("feats.pkl", "ids.pkl"):
            (below / stem).unlink()
        if part != 1:
            torch_files.append(below / "feats.pkl", [truth.rows["_N"][truth.owners["_N"] == part]])
            torch_files.append(below / "ids.pkl", [None])
    convert.from_glt(folder, tmp_path / "out")
    truth.check(tmp_path / "out", {"feat": "_N"})


def test_no_code_runs(tmp_path: Path, plain: Truth) -> None:
    """A pickle that wants to run something is refused by the name it asks for, wherever it hides."""
    evil = torch_files.Call(torch_files.Global("os", "system"), (f"touch {tmp_path / 'ran'}",))
    inside = torch_files.legacy(evil, {})
    wrapped = torch_files.Call(torch_files.Global("torch.storage", "_load_from_bytes"), (inside,))
    pyg, glt = write_pyg(tmp_path / "pyg", plain), write_glt(tmp_path / "glt", plain)
    torch_files.save(pyg / "part_1" / "node_feats.pt", {"global_id": evil})
    with pytest.raises(rudder.FormatError, match=r"part_1/node_feats.pt: its pickle wants `os.system`"):
        convert.from_pyg(pyg, tmp_path / "out")
    (pyg / "part_1" / "node_feats.pt").write_bytes(inside)
    with pytest.raises(rudder.FormatError, match=r"os.system"):
        convert.from_pyg(pyg, tmp_path / "out")
    for value in (evil, wrapped):
        (glt / "part0" / "node_feat" / "feats.pkl").write_bytes(torch_files.pickled(value))
        with pytest.raises(rudder.FormatError, match=r"feats.pkl: .*`os.system`"):
            convert.from_glt(glt, tmp_path / "out")
    (glt / "META").write_bytes(torch_files.pickled(evil))
    with pytest.raises(rudder.FormatError, match=r"META: its pickle wants `os.system`"):
        convert.from_glt(glt, tmp_path / "out")
    for module, name in (("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("numpy", "load"), ("torch.storage", "pickle")):
        (glt / "META").write_bytes(torch_files.pickled(torch_files.Global(module, name)))
        with pytest.raises(rudder.FormatError, match=f"`{module}.{name}`"):
            convert.from_glt(glt, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glt", "pyg"]


def test_what_does_not_fit_is_named(tmp_path: Path, plain: Truth) -> None:
    """Rows that are missing, there twice, in another part, or not at all: file and id are in the message, and nothing stays behind."""
    ids, rows = plain.of("_N", 1)
    foreign = plain.of("_N", 2)[0][:1]
    file = write_pyg(tmp_path / "in", plain) / "part_1" / "node_feats.pt"
    cases: list[tuple[Any, str]] = [
        ({"global_id": ids[1:], "feats": {"x": rows[1:]}}, f"1 ids have no row; the first is {ids[0]}, owned by part 1"),
        ({"global_id": ids, "feats": {"x": rows[1:]}}, f"part_1/node_feats.pt: {len(ids)} ids for {len(ids) - 1} rows"),
        (
            {"global_id": np.concatenate((foreign, ids[1:])), "feats": {"x": rows}},
            f"id {foreign[0]} lies in part 1, but the partition book gives it to part 2",
        ),
        ({"global_id": np.concatenate((ids[1:2], ids[1:])), "feats": {"x": rows}}, f"the first is {ids[0]}"),
        ({"global_id": ids + 1000, "feats": {"x": rows}}, "the partition book has the ids 0 to 310"),
        ({"global_id": ids, "feats": {"x": rows.astype(np.float64)}}, "rows of float64"),
        ({"global_id": ids, "feats": {"x": 3}}, "the feature `x` is no tensor"),
        ({"feats": {"x": rows}}, "`global_id` is no one-dimensional tensor of integers"),
        ([3], "no dictionary"),
    ]
    for value, message in cases:
        torch_files.save(file, value)
        with pytest.raises(rudder.FormatError) as caught:
            convert.from_pyg(tmp_path / "in", tmp_path / "out")
        assert message in str(caught.value)
    for data in (b"", b"PK", file.read_bytes()[:-30], b"\x80\x04]." * 3):
        file.write_bytes(data)
        with pytest.raises(rudder.FormatError, match=r"part_1/node_feats\.pt"):
            convert.from_pyg(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    with pytest.raises(rudder.FormatError, match="META.json is missing"):
        convert.from_pyg(tmp_path, tmp_path / "out")


def test_a_dataset_that_is_there_stays(tmp_path: Path, plain: Truth) -> None:
    """Without `force` nothing is read; with it `rudder import` decides what may be replaced."""
    folder = write_pyg(tmp_path / "in", plain)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(FileExistsError, match="--force"):
        convert.from_pyg(folder, tmp_path / "out")
    with pytest.raises(rudder.FormatError, match=r"rudder: .*/out"):
        convert.from_pyg(folder, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_command(tmp_path: Path, plain: Truth) -> None:
    """The command prints what the import prints, and one line when something is wrong."""
    folder = write_glt(tmp_path / "in", plain)
    command = [sys.executable, "-m", "rudder.convert", "glt", str(folder), "--out", str(tmp_path / "out"), "--name", "mine"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["dataset"] == "mine"
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "--force" in again.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_end_in_the_middle_leaves_nothing(tmp_path: Path, plain: Truth, ending: signal.Signals) -> None:
    """A conversion that is stopped removes its hidden folder."""
    folder = write_glt(tmp_path / "in", plain)
    feats = folder / "part2" / "node_feat" / "feats.pkl"
    feats.unlink()
    os.mkfifo(feats)  # it waits here: nobody writes
    # A shell starts what it puts in the background with SIGINT ignored, and Python then leaves it so.
    command = ["env", "--default-signal=INT,TERM", sys.executable, "-m", "rudder.convert", "glt", str(folder)]
    command += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.convert-*/0.npy")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(ending)
    assert process.wait(60) == 128 + ending
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_import_may_clean_up(tmp_path: Path, plain: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends the conversion while ``rudder import`` runs ends that as well, and waits for what it has to remove."""
    stand_in = tmp_path / "bin" / "rudder"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\ntrap 'sleep 0.3; touch {tmp_path}/removed; exit 1' TERM\ntouch {tmp_path}/begun\nwhile :; do sleep 0.05; done\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("RUDDER_BIN_DIR", str(stand_in.parent))
    folder = write_glt(tmp_path / "in", plain)
    process = subprocess.Popen([sys.executable, "-m", "rudder.convert", "glt", str(folder), "--out", str(tmp_path / "out"), "--json"])
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "bin", "in", "removed"]


def test_a_signal_while_the_import_starts(tmp_path: Path, plain: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes before anybody holds the new process does not leave it behind."""
    started: list[subprocess.Popen[str]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(["sleep", "600"], text=True)
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(convert.subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit):
            convert.from_glt(write_glt(tmp_path / "in", plain), tmp_path / "out")
        assert signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)
        left = [process.poll() is None for process in started]
        for process in started:
            process.kill()
            process.wait()
    assert left == [False]


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1", "V2"])
def test_element_types(tmp_path: Path, dtype: str) -> None:
    """Each type of element, from an archive, a file without one, and a pickle."""
    array = np.random.default_rng(1).integers(0, 2, (7, 3 * np.dtype(dtype).itemsize), dtype=np.uint8).view(dtype)
    torch_files.save(tmp_path / "a.pt", array)
    outside = torch_files.Outside(("storage", torch_files.storage_of(array), "7", "cpu", array.size, None))
    (tmp_path / "b.pt").write_bytes(torch_files.legacy(torch_files.tensor(array, outside), {"7": array}))
    torch_files.append(tmp_path / "c.pkl", [array, array[2:]])
    found = [load(tmp_path / "a.pt"), load(tmp_path / "b.pt"), *load_all(tmp_path / "c.pkl")]
    for one, expected in zip(found, (array, array, array, array[2:])):
        assert isinstance(one, Tensor)
        assert one.array.dtype == expected.dtype
        assert one.array.tolist() == expected.tolist()


def test_a_tensor_outside_of_its_storage(tmp_path: Path) -> None:
    """Shapes and strides that reach outside of the data are refused, not read."""
    array = np.arange(12, dtype=np.int64).reshape(4, 3)
    outside = torch_files.Outside(("storage", torch_files.storage_of(array), "0", "cpu", 12, None))
    for offset, shape, strides in ((0, (5, 3), (3, 1)), (1, (4, 3), (3, 1)), (0, (4, 3), (3, 2)), (4, (2,), (-3,)), (-1, (1,), (1,))):
        call = torch_files.Call(torch_files.Global("torch._utils", "_rebuild_tensor_v2"), (outside, offset, shape, strides, False, None))
        (tmp_path / "a.pt").write_bytes(torch_files.legacy(call, {"0": array}))
        found = load(tmp_path / "a.pt")
        with pytest.raises((rudder.FormatError, ValueError, TypeError)):
            assert found.array is None


def test_files_of_torch(tmp_path: Path) -> None:
    """What torch itself writes: slices, transposed, brain floats, both formats."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(60, dtype=torch.float32).reshape(12, 5)
    tensors = {"whole": whole, "slice": whole[3:9:2], "turned": whole.T, "half": whole.half(), "mask": whole > 7}
    tensors |= {"ids": torch.arange(9), "none": None}
    # torch 2.2 does not have these.
    unsigned = [getattr(torch, name) for name in ("uint16", "uint32", "uint64") if hasattr(torch, name)]
    tensors |= {str(dtype): torch.arange(8).to(dtype)[2:6] for dtype in unsigned}
    tensors |= {"brain": whole.bfloat16(), "empty": torch.empty(0, 4), "number": 3, ("a", "b", "c"): {"x": whole[1:]}}
    for name, archive in (("new.pt", True), ("old.pt", False)):
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=archive)
        found = load(tmp_path / name)
        assert found.keys() == tensors.keys()
        for key, value in tensors.items():
            if key == "brain":
                assert found[key].array.tobytes() == value.view(torch.int16).numpy().tobytes()
            elif isinstance(value, torch.Tensor):
                np.testing.assert_array_equal(found[key].array, value.numpy())
                assert found[key].array.dtype == value.numpy().dtype
    with (tmp_path / "a.pkl").open("wb") as file:
        for value in (whole, whole[2:5], None, torch.arange(3), *(torch.arange(4).to(dtype) for dtype in unsigned)):
            pickle.dump(value, file)
    first, second, third, fourth, *others = load_all(tmp_path / "a.pkl")
    assert [other.array.tolist() for other in others] == [[0, 1, 2, 3]] * len(unsigned)
    np.testing.assert_array_equal(first.array, whole.numpy())
    np.testing.assert_array_equal(second.array, whole[2:5].numpy())
    assert third is None
    np.testing.assert_array_equal(fourth.array, np.arange(3))


@pytest.mark.parametrize("dtype", ["i4", "i2", "i1", "u1", "b1", "V2"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_rows_keep_type_and_shape(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Nothing is widened on the way from a partition to a dataset, and no dimension comes or goes."""
    truth = Truth({"_N": 50})
    width = int(np.prod(shape, dtype=int))
    bits = truth.rng.integers(0, 2, (50, width * np.dtype(dtype).itemsize), dtype=np.uint8)
    truth.rows["_N"] = bits.view(dtype).reshape(50, *shape)
    convert.from_glt(write_glt(tmp_path / "in", truth), tmp_path / "out")
    truth.check(tmp_path / "out", {"feat": "_N"})
    info = rudder.Dataset(tmp_path / "out").tables["feat"]
    assert info.shape == shape
    assert info.numpy_dtype == np.dtype("u2" if dtype == "V2" else dtype)
    assert info.dtype == {"V2": "bf16", "b1": "bool"}.get(dtype, f"{dtype[0]}{int(dtype[1]) * 8}")
