"""Ids of a renumbered graph: the user's own by default, in every call, and the dataset's for who asks for them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cluster import Daemon, accounted, cluster, run
from test_processes import in_child

import rudder

ROWS = 2_000
CLASSES = 5


class Graph:
    """An edge list of numbers with rows of features, imported in two parts: row ``i`` is of the vertex that the user calls ``i``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        rng = np.random.default_rng(11)
        near = np.stack([np.arange(ROWS), rng.permutation(ROWS)], axis=1)
        np.savetxt(folder / "edges.txt", np.concatenate([near, rng.integers(0, ROWS, (6_000, 2))]), fmt="%d")
        self.rows = rng.normal(size=(ROWS, 9)).astype("<f4")
        np.save(folder / "feat.npy", self.rows)
        self.dataset = folder / "dataset"
        self.build(seed=1)

    def build(self, seed: int) -> None:
        """Import it, in the place of what is there."""
        table = f"feat={self.folder / 'feat.npy'}"
        edges = str(self.folder / "edges.txt")
        options = ["--parts", "2", "--seed", str(seed), "--force", "--json"]
        run("rudder", "import", "edges", edges, "--table", table, "--out", self.dataset, *options)

    @property
    def original(self) -> np.ndarray:
        """The original id of each dataset id."""
        return np.load(self.dataset / "ids" / "_N.npy").astype(np.int64)


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    """A renumbered graph."""
    return Graph(folder / "graph")


@pytest.fixture(scope="module")
def graph_daemons(folder: Path, graph: Graph, authority: Path) -> Iterator[list[Daemon]]:
    """Two daemons that serve it."""
    path = folder / "graph-daemons"
    path.mkdir()
    with cluster(path, graph.dataset, authority) as running:
        yield running


def shuffled() -> np.ndarray:
    """Every id, and some twice."""
    return np.random.default_rng(5).permutation(np.concatenate([np.arange(ROWS), np.arange(100)]))


@pytest.mark.parametrize("inline", [False, True])
def test_rows_are_those_of_the_users_ids(graph_daemons: list[Daemon], graph: Graph, inline: bool) -> None:
    assert (graph.original != np.arange(ROWS)).any(), "the import has renumbered nothing"
    ids = shuffled()
    client = graph_daemons[0].connect(inline=inline)
    assert client.ids == "original"
    assert np.array_equal(client.fetch("feat", [3, 1, 4, 1, 5]), graph.rows[[3, 1, 4, 1, 5]])
    assert np.array_equal(client.fetch("feat", ids), graph.rows[ids])
    assert np.array_equal(client.fetch_async("feat", ids).wait(), graph.rows[ids])

    dataset = graph_daemons[1].connect(inline=inline, ids="dataset")
    assert dataset.ids == "dataset"
    assert np.array_equal(dataset.fetch("feat", ids), graph.rows[graph.original[ids]])
    for info, space in ((client.tables()["feat"], "original"), (dataset.tables()["feat"], "dataset")):
        assert (info.vertex_type, info.renumbered, info.named, info.ids) == ("_N", True, False, space)
    status = client.status()["tables"][0]
    assert (status["vertex_type"], status["renumbered"], status["named"]) == ("_N", True, False)
    assert client.fingerprint == dataset.fingerprint == client.status()["fingerprint"]


def test_loaders_announcements_and_warming_take_the_users_ids(graph_daemons: list[Daemon], graph: Graph) -> None:
    client = graph_daemons[0].connect()
    batches = np.array_split(shuffled(), 12)
    seen = 0
    for batch, rows in rudder.Loader(batches, "feat", client=client, horizon=3):
        assert np.array_equal(rows, graph.rows[batch])
        seen += 1
    assert seen == 12
    remote = graph.original[graph.original.size // 2 + 50 :]
    used = accounted(client, "feat", lambda _: True)["lookahead"]["used_batches"]
    client.announce("feat", remote[:64], step=100)
    assert np.array_equal(client.fetch("feat", remote[:64]), graph.rows[remote[:64]])
    state = accounted(client, "feat", lambda state: state["lookahead"]["used_batches"] > used)
    assert state["lookahead"]["used_batches"] > used, "the fetch is not known as announced"
    warmed = client.warm("feat", remote[:40])["tables"][0]
    assert warmed["remote_rows"] == 40, "these vertices are the other node's"


def test_updates_reach_the_users_vertices(folder: Path, graph: Graph, authority: Path) -> None:
    path = folder / "graph-updates"
    path.mkdir()
    with cluster(path, graph.dataset, authority) as daemons:
        client = daemons[0].connect()
        ids = [int(graph.original[1]), int(graph.original[ROWS - 1]), int(graph.original[1])]
        new = np.arange(27, dtype="<f4").reshape(3, 9)
        assert client.update("feat", ids, new) == 2
        assert np.array_equal(client.fetch("feat", ids), new[[2, 1, 2]])
        assert np.array_equal(daemons[0].connect(ids="dataset").fetch("feat", [1, ROWS - 1]), new[[2, 1]])


def test_forks_and_pickled_clients_keep_their_ids(graph_daemons: list[Daemon], graph: Graph) -> None:
    ids = shuffled()
    for space, expected in (("original", graph.rows[ids]), ("dataset", graph.rows[graph.original[ids]])):
        client = graph_daemons[0].connect(ids=space)

        def work(client: rudder.Client = client, expected: np.ndarray = expected) -> None:
            assert np.array_equal(client.fetch("feat", ids), expected)

        in_child(work)
        copy = pickle.loads(pickle.dumps(client))
        assert (copy.ids, copy.fingerprint) == (space, client.fingerprint)
        assert np.array_equal(copy.fetch("feat", ids), expected)


def test_arrays_of_ids_are_translated(graph_daemons: list[Daemon], graph: Graph) -> None:
    client = graph_daemons[0].connect()
    ids = shuffled()
    for of in ("feat", "_N"):
        original = client.original_ids(of, ids)
        assert original.dtype == np.int64
        assert np.array_equal(original, graph.original[ids])
        assert np.array_equal(client.dataset_ids(of, original), ids)
    assert client.dataset_ids("feat", original.astype(np.uint64)).dtype == np.uint64
    assert client.dataset_ids("feat", []).shape == (0,)
    many = np.resize(ids, 300_000)
    assert np.array_equal(client.original_ids("feat", many), graph.original[many]), "more than a call may have"
    with pytest.raises(rudder.UnknownTableError, match="nothing"):
        client.original_ids("nothing", [1])
    with pytest.raises(rudder.IdOutOfRangeError, match="id 2000 "):
        client.original_ids("feat", [1, ROWS])


def test_tensors_of_ids_are_translated(graph_daemons: list[Daemon], graph: Graph) -> None:
    torch = pytest.importorskip("torch")
    client = graph_daemons[0].connect()
    original = client.original_ids("feat", torch.arange(ROWS))
    assert original.dtype == torch.int64
    assert np.array_equal(original.numpy(), graph.original)
    assert torch.equal(client.fetch("feat", original), torch.from_numpy(graph.rows[graph.original]))


def test_an_id_that_nobody_has_is_named_as_the_user_wrote_it(graph_daemons: list[Daemon]) -> None:
    client = graph_daemons[0].connect()
    with pytest.raises(rudder.IdOutOfRangeError, match=r"id 2000 \(position 2 of the fetch\).*0 to 1999"):
        client.fetch("feat", [5, 5, 2_000])
    # An announcement is not answered: the daemon says later that it has refused it.
    client.announce("feat", [5, 5, 2_000])
    deadline = time.monotonic() + 60
    with pytest.warns(RuntimeWarning, match=r"id 2000 \(position 2.*0 to 1999"):
        while not client._said:
            client.fetch("feat", [5])
            assert time.monotonic() < deadline
    with pytest.raises(rudder.UnknownNameError, match="have no names"):
        client.ids_of_names("feat", ["x"])
    with pytest.raises(ValueError, match="\"original\" or \"dataset\""):
        graph_daemons[0].connect(ids="other")
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        graph_daemons[0].connect(fingerprint="abc")


def test_vertices_are_found_by_their_names(folder: Path, authority: Path) -> None:
    path = folder / "named"
    path.mkdir()
    rng = np.random.default_rng(2)
    numbers = rng.permutation(4_000)[:500] + 3_000_000_000
    labels = {f"user_{number}" if number % 2 else str(number): number % CLASSES for number in numbers}
    names = list(labels)
    ends = rng.integers(0, len(names), (3_000, 2))
    (path / "edges.tsv").write_text("".join(f"{names[a]}\t{names[b]}\n" for a, b in ends))
    (path / "labels.tsv").write_text("".join(f"{name}\t{label}\n" for name, label in labels.items()))
    edges, out = str(path / "edges.tsv"), path / "dataset"
    options = ["--labels", path / "labels.tsv", "--out", out, "--parts", "2", "--names", "--json"]
    run("rudder", "import", "edges", edges, *options)
    with cluster(path, out, authority) as daemons:
        for space in ("original", "dataset"):
            client = daemons[0].connect(ids=space)
            assert client.tables()["label"].named
            ids = client.ids_of_names("label", names)
            assert client.fetch("label", ids).tolist() == list(labels.values())
            assert client.names("label", ids) == names
            numbers = [int(name) for name in names if name.isdigit()]
            found = client.ids_of_names("_N", numbers)
            assert client.names("_N", found) == [str(number) for number in numbers]
            with pytest.raises(rudder.UnknownNameError, match="\"nobody\" \\(position 1\\)"):
                client.ids_of_names("label", [names[0], "nobody"])
            with pytest.raises(rudder.IdOutOfRangeError, match="by name"):
                client.fetch("label", numbers)
            with pytest.raises(TypeError):
                client.ids_of_names("label", "one name")


@pytest.mark.parametrize("space", ["original", "dataset"])
def test_another_import_of_the_same_graph_is_noticed(folder: Path, authority: Path, space: str) -> None:
    graph = Graph(folder / f"imported-{space}")
    path = folder / f"noticed-{space}"
    path.mkdir()
    ids = np.arange(ROWS)
    with cluster(path, graph.dataset, authority) as daemons:
        client = daemons[0].connect(ids=space)
        expected = graph.rows if space == "original" else graph.rows[graph.original]
        assert np.array_equal(client.fetch("feat", ids), expected)
        pickled, fingerprint = pickle.dumps(client), client.fingerprint
        for daemon in daemons:
            daemon.stop()
        graph.build(seed=2)
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            daemon.wait_until_ready()
        with pytest.raises(rudder.TablesChangedError, match="another dataset"):
            client.fetch("feat", ids)
        in_child(lambda: pytest.raises(rudder.TablesChangedError, client.fetch, "feat", ids))
        with pytest.raises(rudder.TablesChangedError):
            pickle.loads(pickled)
        with pytest.raises(rudder.TablesChangedError):
            daemons[0].connect(fingerprint=fingerprint)
        new = daemons[0].connect(ids="original")
        assert np.array_equal(new.fetch("feat", ids), graph.rows)
