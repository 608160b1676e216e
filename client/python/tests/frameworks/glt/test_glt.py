"""GLT's own loader and sampler with rows out of Rudder. GLT is a wheel for torch 2.4 and has no GPU here."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import graphlearn_torch as glt
import numpy as np
import pytest
import torch
from cluster import Daemon, accounted, cluster, run
from torch_geometric.data import HeteroData

import rudder
import rudder.glt

VERTICES, DEGREE, BATCH, STEPS = 2_000, 4, 50, 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "feat": rng.standard_normal((VERTICES, 9), dtype=np.float32),
        "weight": rng.standard_normal((VERTICES * DEGREE, 2), dtype=np.float32),
    }


@pytest.fixture(scope="module")
def glt_daemons(features: dict[str, np.ndarray], folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    path = Path(tempfile.mkdtemp(dir=folder))
    for name, array in features.items():
        np.save(path / f"{name}.npy", array)
    tables = ["--table", f"feat={path}/feat.npy", "--table", f"edge.weight@edge={path}/weight.npy"]
    run("rudder", "import", "npy", "--out", path / "dataset", "--parts", "2", *tables, "--json")
    with cluster(path, path / "dataset", authority) as running:
        for daemon in running:
            daemon.connect().wait_ready()
        yield running


@pytest.fixture(scope="module")
def edges() -> torch.Tensor:
    rng = np.random.default_rng(8)
    return torch.from_numpy(np.stack([np.arange(VERTICES).repeat(DEGREE), rng.integers(0, VERTICES, VERTICES * DEGREE)]))


@pytest.fixture(scope="module")
def data(features: dict[str, np.ndarray], edges: torch.Tensor) -> Iterator[Any]:
    """GLT's data set of one partition, and its workers' group."""
    glt.distributed.init_worker_group(world_size=1, rank=0, group_name="rudder")
    glt.distributed.init_rpc(master_addr="127.0.0.1", master_port=free_port(), num_rpc_threads=2)
    book = torch.zeros(VERTICES, dtype=torch.int64)
    made = glt.distributed.DistDataset(1, 0, node_pb=book, edge_pb=torch.zeros(VERTICES * DEGREE, dtype=torch.int64))
    made.init_graph(edges, graph_mode="CPU")
    made.init_node_features(torch.from_numpy(features["feat"]), with_gpu=False)
    made.init_edge_features(torch.from_numpy(features["weight"]), with_gpu=False)
    made.node_labels = torch.arange(VERTICES) % 5
    yield made
    glt.distributed.shutdown_rpc()


def loader_of(data: Any, collects: bool, with_edge: bool = True) -> Any:
    return glt.distributed.DistNeighborLoader(
        data,
        [-1, -1],
        torch.arange(0, BATCH * STEPS),
        batch_size=BATCH,
        with_edge=with_edge,
        collect_features=collects,
        to_device=torch.device("cpu"),
        worker_options=glt.distributed.CollocatedDistSamplingWorkerOptions(master_addr="127.0.0.1", master_port=free_port()),
    )


def check(batch: Any, features: dict[str, np.ndarray]) -> None:
    assert torch.equal(batch.x, torch.from_numpy(features["feat"])[batch.node])
    assert torch.equal(batch.edge_attr, torch.from_numpy(features["weight"])[batch.edge])
    assert torch.equal(batch.y, batch.node % 5)


def test_batches_of_the_loader_get_their_rows_in_the_trainer(
    data: Any, glt_daemons: list[Daemon], features: dict[str, np.ndarray]
) -> None:
    client = glt_daemons[0].connect()
    expected = [batch for batch in loader_of(data, collects=True)]
    ahead = rudder.glt.ahead(loader_of(data, collects=False), "feat", "edge.weight", client)
    for _ in range(2):
        steps = 0
        for batch, theirs in zip(ahead, expected):
            check(batch, features)
            assert torch.equal(batch.node, theirs.node)
            assert torch.equal(batch.x, theirs.x)
            assert torch.equal(batch.edge_attr, theirs.edge_attr)
            steps += 1
        assert steps == STEPS
    table = accounted(client, "feat", lambda table: table["lookahead"]["used_batches"] == 2 * STEPS)
    assert table["lookahead"]["used_batches"] == 2 * STEPS


def test_a_sampler_collects_features_through_dist_feature(
    data: Any, glt_daemons: list[Daemon], features: dict[str, np.ndarray]
) -> None:
    client = glt_daemons[0].connect()
    loader = loader_of(data, collects=True)
    sampler = loader._collocated_producer._collocated_sampler
    sampler.dist_node_feature = rudder.glt.DistFeature("feat", client)
    sampler.dist_edge_feature = rudder.glt.DistFeature("edge.weight", client)
    steps = 0
    for batch in loader:
        check(batch, features)
        steps += 1
    assert steps == STEPS
    rows = accounted(client, "feat", lambda table: table["fetched"]["local"] > 0)
    assert rows["fetched"]["local"] > 0, "GLT's own features answered"


def test_dist_feature_looks_up_by_type(glt_daemons: list[Daemon], features: dict[str, np.ndarray]) -> None:
    feature = rudder.glt.DistFeature({"paper": "feat", "author": "edge.weight"}, glt_daemons[0].connect())
    ids = torch.tensor([5, 1_999, 5])
    assert torch.equal(feature.async_get(ids, "paper").wait(), torch.from_numpy(features["feat"])[ids])
    assert torch.equal(feature["author", ids], torch.from_numpy(features["weight"])[ids])
    with pytest.raises(KeyError, match="no table for type 'venue'; there are tables for 'paper', 'author'"):
        feature.async_get(ids, "venue")
    with pytest.raises(Exception, match="99999"):
        feature.async_get(torch.tensor([99_999]), "paper").wait()


def test_dist_feature_goes_to_other_processes(
    glt_daemons: list[Daemon], features: dict[str, np.ndarray]
) -> None:
    feature = rudder.glt.DistFeature("feat", glt_daemons[0].connect())
    ids = torch.tensor([5, 1_999, 5])
    expected = torch.from_numpy(features["feat"])[ids]
    assert torch.equal(feature[ids], expected)
    assert torch.equal(pickle.loads(pickle.dumps(feature))[ids], expected)
    child = os.fork()
    if child == 0:
        # A future without threads behind it would never come: the alarm ends the child then.
        signal.alarm(60)
        os._exit(not np.array_equal(feature[ids].numpy(), features["feat"][ids.numpy()]))
    assert os.waitpid(child, 0)[1] == 0


def test_futures_of_rows_on_a_gpu_belong_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Any] = []
    future = torch.futures.Future

    def noted(devices_of_future: Any) -> Any:
        devices.append(devices_of_future)
        return future()

    monkeypatch.setattr(torch.futures, "Future", lambda devices: noted(devices))
    rows = torch.ones(2, 3)
    client: Any = SimpleNamespace(
        tables=lambda: {"feat": "info"}, fetch_async=lambda *_, device: SimpleNamespace(wait=lambda: rows)
    )
    feature = rudder.glt.DistFeature("feat", client)
    on_gpu: Any = SimpleNamespace(is_cuda=True, device="cuda:1")
    assert feature.async_get(on_gpu).wait() is rows
    assert feature.async_get(torch.tensor([1, 2])).wait() is rows
    assert devices == [["cuda:1"], None]


def test_batches_without_ids_of_edges_are_named(data: Any, glt_daemons: list[Daemon]) -> None:
    ahead = rudder.glt.ahead(loader_of(data, False, with_edge=False), edges="edge.weight", client=glt_daemons[0].connect())
    with pytest.raises(ValueError, match="no edge ids: build the loader with with_edge=True"):
        next(iter(ahead))


def test_types_that_were_not_sampled_stay_absent(glt_daemons: list[Daemon], features: dict[str, np.ndarray]) -> None:
    written, empty, absent = ("a", "writes", "p"), ("p", "by", "a"), ("v", "prints", "p")
    batch = HeteroData()
    batch["p"].node = torch.tensor([3, 1])
    batch[written].edge_index, batch[written].edge = torch.tensor([[0, 1], [1, 0]]), torch.tensor([7, 9])
    # As GLT gives a type without sampled edges.
    batch[empty].edge_index = torch.empty(2, 0, dtype=torch.int64)
    edges = dict.fromkeys((written, empty, absent), "edge.weight")
    client = glt_daemons[0].connect()
    (filled,) = rudder.glt.ahead([batch], {"p": "feat", "v": "feat"}, edges, client)
    assert torch.equal(filled["p"].x, torch.from_numpy(features["feat"])[[3, 1]])
    assert torch.equal(filled[written].edge_attr, torch.from_numpy(features["weight"])[[7, 9]])
    assert (filled.node_types, filled.edge_types) == (["p"], [written, empty])
    del batch[written].edge
    with pytest.raises(ValueError, match="with_edge=True"):
        list(rudder.glt.ahead([batch], edges=edges, client=client))


def test_what_there_is_not_is_named_before_anything_is_sampled(data: Any, glt_daemons: list[Daemon]) -> None:
    client = glt_daemons[0].connect()
    with pytest.raises(rudder.UnknownTableError, match="did you mean `feat`"):
        rudder.glt.ahead([], "feats", client=client)
    with pytest.raises(rudder.UnknownTableError, match="weight"):
        rudder.glt.DistFeature("weights", client)
    with pytest.raises(ValueError, match="give nodes or edges"):
        rudder.glt.ahead([], client=client)
