"""A dataset without a daemon: tables, owners, ids, graph and rows are those of the import, and of a client."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from cluster import Daemon, Source, program, run

import rudder
from rudder._books import Book

VERTICES = 400


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUDDER_BIN_DIR", str(Path(program("rudder")).parent))


@pytest.fixture(scope="module")
def edges() -> np.ndarray:
    """Edges of a graph, each once, with a smaller and a larger end."""
    ends = np.random.default_rng(5).integers(0, VERTICES, (3_000, 2))
    ends.sort(axis=1)
    return np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Rows of shape (2, 3) by original id."""
    return np.random.default_rng(6).random((VERTICES, 2, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def graph_folder(tmp_path_factory: pytest.TempPathFactory, edges: np.ndarray, features: np.ndarray) -> Path:
    """A graph that was partitioned and renumbered, with features and a mask."""
    folder = tmp_path_factory.mktemp("graph")
    np.save(folder / "edges.npy", edges)
    np.save(folder / "feat.npy", features)
    np.save(folder / "mask.npy", np.arange(VERTICES) % 3 == 0)
    tables = ["--table", f"feat={folder / 'feat.npy'}", "--table", f"train_mask={folder / 'mask.npy'}"]
    run("rudder", "import", "edges", folder / "edges.npy", "--parts", "3", "--out", folder / "data", *tables)
    return folder / "data"


def test_rows_are_the_arrays_that_were_imported(graph_folder: Path, features: np.ndarray) -> None:
    """In the numbers of the user's own files; a mask is a mask."""
    data = rudder.Dataset(graph_folder)
    assert (data.name, data.nodes, data.types) == ("data", 3, {"_N": VERTICES})
    info = data.tables["feat"]
    assert (info.dtype, info.shape, info.rows, info.local_rows, info.renumbered) == ("f32", (2, 3), VERTICES, VERTICES, True)
    assert data.rows("feat").tobytes() == features.tobytes()
    mask = data.rows("train_mask")
    assert mask.dtype == bool
    assert data.rows("feat")[mask].tobytes() == features[::3].tobytes()
    ids = np.random.default_rng(1).integers(0, VERTICES, 1_000)
    for form in (ids, ids.astype(np.uint64), ids.astype(np.int32), ids[::-2]):
        assert data.rows("feat", form).tobytes() == features[form.astype(np.int64)].tobytes()
    assert data.rows("feat", []).shape == (0, 2, 3)
    inside = rudder.Dataset(graph_folder, ids="dataset")
    old = inside.to_old("_N", np.arange(VERTICES))
    assert inside.rows("feat").tobytes() == features[old].tobytes()
    assert inside.rows("feat", ids).tobytes() == features[old[ids]].tobytes()


def test_ids_lead_there_and_back(graph_folder: Path) -> None:
    data = rudder.Dataset(graph_folder)
    ids = np.arange(VERTICES)
    new = data.to_new("feat", ids)
    assert not (new == ids).all()
    assert new.dtype == np.int64
    assert (data.to_old("_N", new) == ids).all()
    assert (data.original_ids("_N", data.dataset_ids("_N", ids)) == ids).all()
    owners, ranges = data.owner("_N", ids), data.book("_N").ranges
    assert ranges is not None
    assert [one.stop for one in ranges[:-1]] == [one.start for one in ranges[1:]]
    assert owners.dtype == np.uint16
    assert all(new[at] in ranges[owners[at]] for at in range(VERTICES))
    for node in range(3):
        assert sorted(data.book("_N").of_node(node)) == sorted(new[owners == node])


def test_the_graph_is_that_of_the_edges(graph_folder: Path, edges: np.ndarray) -> None:
    data = rudder.Dataset(graph_folder)
    graph = data.graph()
    assert (graph.vertices, graph.edges, graph.vertex_type) == (VERTICES, len(edges), "_N")
    assert (graph.indptr.dtype, graph.indices.dtype) == (np.int64, np.int32)
    sources, targets = data.to_old("_N", graph.edge_index().ravel()).reshape(2, -1)
    once = np.stack((sources, targets), axis=1)[sources < targets]
    assert (np.unique(once, axis=0) == edges).all()
    first = graph.indices[graph.indptr[7] : graph.indptr[8]]
    assert len(first) == ((edges == data.to_old("_N", [7])[0]).sum())
    assert data.graph("_N:_E:_N").edges == data.graph(("_N", "_E", "_N")).edges == len(edges)
    with pytest.raises(rudder.FormatError, match="no graph of edge type `a:b:c`: it holds that of `_N:_E:_N`"):
        data.graph(("a", "b", "c"))
    graph.indices[:] = 0
    assert rudder.Dataset(graph_folder).graph().indices.any()


def test_it_is_what_a_client_sees(daemons: list[Daemon], dataset: Path, source: Source) -> None:
    """Tables, fingerprint and rows; one type has a map without order for its book."""
    data = rudder.Dataset(dataset)
    client = daemons[0].connect()
    assert data.fingerprint == client.fingerprint
    for name, info in client.tables().items():
        assert data.tables[name].shape == info.shape
        assert data.tables[name].numpy_dtype == info.numpy_dtype
        assert data.rows(name).tobytes() == source.arrays[name].tobytes()
        ids = np.random.default_rng(2).integers(0, info.rows, 300)
        assert data.rows(name, ids).tobytes() == client.fetch(name, ids).tobytes()
    assert (data.owner("item", np.arange(source.ITEMS)) == source.item_owner).all()
    book = data.book("item")
    assert book.ranges is None
    assert (book.of_node(1) == np.flatnonzero(source.item_owner == 1)).all()
    assert data.owner("f32", [0, source.ROWS - 1]).tolist() == [0, 1]


def test_a_pickled_dataset_opens_again(graph_folder: Path, features: np.ndarray) -> None:
    again = pickle.loads(pickle.dumps(rudder.Dataset(graph_folder, ids="dataset")))
    assert (again.ids, again.path) == ("dataset", str(graph_folder))
    assert again.rows("feat").shape == features.shape


def test_sparse_original_ids(tmp_path: Path) -> None:
    """Names that are integers are original ids; rows come in their order."""
    names = np.array([1_000_000_007, 5, 70_000, 12, 9])
    (tmp_path / "edges.txt").write_text("5 12\n12 70000\n70000 1000000007\n9 5\n")
    (tmp_path / "names.txt").write_text("\n".join(map(str, names)))
    np.save(tmp_path / "x.npy", np.arange(5, dtype=np.uint16) * 3)
    command = ["import", "edges", tmp_path / "edges.txt", "--names", "--vertices", tmp_path / "names.txt", "--parts", "2"]
    run("rudder", *command, "--table", f"x={tmp_path / 'x.npy'}", "--out", tmp_path / "data")
    data = rudder.Dataset(tmp_path / "data")
    assert data.rows("x", names).tolist() == [0, 3, 6, 9, 12]
    assert data.rows("x").tolist() == (np.argsort(names) * 3).tolist()
    assert (data.to_old("_N", data.to_new("_N", names)) == names).all()
    for wrong in ([6], [5, 1_000_000_008]):
        with pytest.raises(rudder.IdOutOfRangeError, match=r"no vertex of type `_N` has this original id"):
            data.rows("x", wrong)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    del manifest["vertex_types"][0]["dataset_ids"]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    assert rudder.Dataset(tmp_path / "data").rows("x", names).tolist() == [0, 3, 6, 9, 12]


def test_datasets_from_before_shapes_were_kept(graph_folder: Path, features: np.ndarray, tmp_path: Path) -> None:
    """A row of them has one dimension."""
    manifest = json.loads((graph_folder / "manifest.json").read_text())
    for table in manifest["tables"]:
        del table["shape"]
    for entry in graph_folder.iterdir():
        if entry.name != "manifest.json":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    data = rudder.Dataset(tmp_path)
    assert data.tables["feat"].shape == (6,)
    assert data.rows("feat").tobytes() == features.tobytes()
    manifest["tables"][0]["shape"] = [3, 2]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(rudder.FormatError, match=r"part0.npy: its elements are float32 .*, 2, 3\), but the manifest says"):
        rudder.Dataset(tmp_path).rows("feat")


def dgl_file(tensors: dict[str, np.ndarray]) -> bytes:
    """A file of named tensors as DGL writes it."""
    codes = {"i": 0, "u": 1, "f": 2}
    head = struct.pack("<QQQ", 0xDD5A9FBE3FA2443F, len(tensors), len(tensors))
    for name, array in tensors.items():
        head += struct.pack("<Q", len(name)) + name.encode()
        head += struct.pack("<QQiii", 0xDD5E40F096B4A13F, 0, 1, 0, array.ndim)
        head += struct.pack("<BBH", codes[array.dtype.kind], array.dtype.itemsize * 8, 1)
        head += struct.pack(f"<{array.ndim}q", *array.shape) + struct.pack("<q", array.nbytes) + array.tobytes()
    return head


def test_a_distdgl_partition_where_it_lies(tmp_path: Path) -> None:
    """Shapes and types of its tensors, whose rows are aligned to nothing; the graph is DGL's."""
    rng = np.random.default_rng(4)
    feat, year = rng.random((5, 2, 2)), rng.integers(0, 9, 5).astype(np.uint16)
    feat[0, 0, 0] = np.nan
    spans = [(0, 3), (3, 5)]
    graph = {
        "graph_name": "g", "num_nodes": 5, "num_edges": 0, "num_parts": 2, "node_map": {"paper": spans}, "edge_map": {},
        "ntypes": {"paper": 0}, "etypes": {},
    }  # fmt: skip
    for part, (start, stop) in enumerate(spans):
        graph[f"part-{part}"] = {"node_feats": f"n{part}.dgl"}
        tensors = {"paper/odd-name": feat[start:stop], "paper/year": year[start:stop].reshape(-1, 1)}
        (tmp_path / f"n{part}.dgl").write_bytes(dgl_file(tensors))
    (tmp_path / "g.json").write_text(json.dumps(graph))
    data = rudder.Dataset(f"distdgl:{tmp_path / 'g.json'}")
    assert {name: (info.dtype, info.shape) for name, info in data.tables.items()} == {
        "paper.odd-name": ("f64", (2, 2)),
        "paper.year": ("u16", (1,)),
    }
    assert data.rows("paper.odd-name", [4, 0, 4]).tobytes() == feat[[4, 0, 4]].tobytes()
    assert data.rows("paper.year").tobytes() == year.tobytes()
    assert data.owner("paper", [2, 3]).tolist() == [0, 1]
    assert data.to_new("paper", [4]).tolist() == [4]
    with pytest.raises(rudder.FormatError, match="no graph: open graph.dgl with dgl.distributed.load_partition"):
        data.graph()
    (tmp_path / "n1.dgl").unlink()
    half = rudder.Dataset(f"distdgl:{tmp_path / 'g.json'}")
    assert half.tables["paper.year"].local_rows == 3
    assert half.rows("paper.year", [0, 1]).tobytes() == year[:2].tobytes()
    with pytest.raises(rudder.StorageError, match="n1.dgl: not on this machine: node 1 owns its rows"):
        half.rows("paper.year", [0, 4])


def test_what_is_not_there_is_named(graph_folder: Path, tmp_path: Path) -> None:
    data = rudder.Dataset(graph_folder)
    for call in (data.rows, data.classes):
        with pytest.raises(rudder.UnknownTableError, match="no table `fead` .*; did you mean `feat`"):
            call("fead")
    with pytest.raises(rudder.UnknownTableError, match="no table or type `M` .*`_N`"):
        data.book("M")
    with pytest.raises(rudder.IdOutOfRangeError, match=r"ids\[1\] is 400, but there are 400 rows"):
        data.rows("feat", [0, 400])
    with pytest.raises(ValueError, match=r"ids\[0\] is -1"):
        data.owner("_N", [-1])
    with pytest.raises(TypeError, match="integers"):
        data.rows("feat", [0.5])
    with pytest.raises(IndexError, match="node 3"):
        data.book("_N").of_node(3)
    with pytest.raises(ValueError, match="original"):
        rudder.Dataset(graph_folder, ids="new")
    with pytest.raises(rudder.FormatError, match=r"nowhere: there is no manifest.json"):
        rudder.Dataset(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"format": 9}')
    with pytest.raises(rudder.FormatError, match="manifest.json: format version 9"):
        rudder.Dataset(tmp_path)


def test_files_that_are_gone_or_cut_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.uint8))
    run("rudder", "import", "npy", "--table", f"x={tmp_path / 'x.npy'}", "--parts", "2", "--out", tmp_path / "data")
    shard = tmp_path / "data" / "tables" / "x" / "part1.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    data = rudder.Dataset(tmp_path / "data")
    assert data.rows("x", [0, 4]).tolist() == [0, 4]
    with pytest.raises(rudder.StorageError, match=r"part1.npy: 132 bytes, but the manifest says 133"):
        data.rows("x", [5])
    shard.write_bytes(b"x" * len(whole))
    with pytest.raises(rudder.FormatError, match=r"part1.npy: .*copy the file again"):
        data.rows("x")
    shard.unlink()
    assert rudder.Dataset(tmp_path / "data").tables["x"].local_rows == 5
    with pytest.raises(rudder.StorageError, match=r"part1.npy: named in the manifest but missing"):
        data.rows("x")


def test_a_book_hands_out_only_rows_that_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks rows up while another thread makes their places waits or makes its own."""
    owner = np.random.default_rng(2).integers(0, 3, VERTICES).astype(np.uint8)
    book, ids = Book(VERTICES, 3, None, owner, None), np.arange(VERTICES)
    flatnonzero, meanwhile = np.flatnonzero, []

    def looked_up_meanwhile(array: np.ndarray) -> np.ndarray:
        # What another thread does at the worst moment.
        monkeypatch.setattr(np, "flatnonzero", flatnonzero)
        meanwhile.append(book.locate(ids)[1])
        return flatnonzero(array)

    monkeypatch.setattr(np, "flatnonzero", looked_up_meanwhile)
    _, rows = book.locate(ids)
    for node in range(3):
        assert rows[owner == node].tolist() == list(range(np.count_nonzero(owner == node)))
    assert meanwhile[0].tolist() == rows.tolist()
