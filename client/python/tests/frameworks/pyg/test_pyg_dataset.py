"""The graph that an import kept, as a graph store: neighbours and rows belong together, in both kinds of ids."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster import Daemon, cluster, run
from conftest import ready

import rudder
from rudder.pyg import FeatureStore, GraphStore, NeighborLoader

NODES = 1_500
ROWS = np.random.default_rng(9).standard_normal((NODES, 6), dtype=np.float32)
EDGES = np.random.default_rng(8).integers(0, NODES, (6_000, 2))


@pytest.fixture(scope="module")
def partitioned(folder: Path, authority: Path) -> Iterator[tuple[Path, Daemon]]:
    """A dataset whose nodes were renumbered, and a daemon of it."""
    path = Path(tempfile.mkdtemp(dir=folder))
    np.save(path / "edges.npy", EDGES)
    np.save(path / "x.npy", ROWS)
    options = ["--table", f"x={path / 'x.npy'}", "--parts", "2", "--out", path / "dataset", "--json"]
    run("rudder", "import", "edges", path / "edges.npy", *options)
    (path / "run").mkdir()
    with cluster(path / "run", path / "dataset", authority) as daemons:
        ready(daemons[0].connect())
        yield path / "dataset", daemons[0]


@pytest.mark.parametrize("ids", ["original", "dataset"])
def test_neighbours_and_rows_belong_together(partitioned: tuple[Path, Daemon], ids: str) -> None:
    path, daemon = partitioned
    client, dataset = daemon.connect(ids=ids), rudder.Dataset(path, ids=ids)
    graph = GraphStore(dataset)
    assert (graph.num_nodes(), graph.ids) == (NODES, ids)
    known = {(int(one), int(other)) for one, other in EDGES} | {(int(other), int(one)) for one, other in EDGES}
    seen = 0
    for batch in NeighborLoader((FeatureStore(client), graph), [-1], batch_size=500):
        original = batch.n_id if ids == "original" else dataset.to_old("_N", batch.n_id)
        assert torch.equal(batch.x, torch.from_numpy(ROWS[original.numpy()]))
        ends = original[batch.edge_index]
        assert {(int(one), int(other)) for one, other in ends.T} <= known
        seen += batch.edge_index.shape[1]
    # Every neighbour of every node: each edge in both directions, loops left out and doubles counted once.
    assert seen == len({pair for pair in known if pair[0] != pair[1]})


def test_a_graph_of_other_ids_is_refused(partitioned: tuple[Path, Daemon]) -> None:
    path, daemon = partitioned
    graph = GraphStore(rudder.Dataset(path, ids="dataset"))
    with pytest.raises(ValueError, match='dataset ids, and the client takes original ids.*open both with ids="dataset"'):
        NeighborLoader((FeatureStore(daemon.connect()), graph), [2])
