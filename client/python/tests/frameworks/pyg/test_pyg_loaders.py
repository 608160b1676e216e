"""The loaders of rudder.pyg give what PyG's give over features in memory: field by field, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_geometric.loader as pyg
from pyg_world import AUTHORS, CITES, PAPERS, VENUES, WRITES, check_epochs, without_features
from torch_geometric.data import Data, HeteroData
from torch_geometric.sampler import NegativeSampling

from rudder.pyg import FeatureStore, GraphStore, LinkNeighborLoader, NeighborLoader

#: Workers and how they start. A spawned one takes seconds to start.
WORKERS = [{}, {"num_workers": 2}, {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True}]
WORKER_NAMES = ["in the main process", "forked", "spawned"]


def graph_store(data: Any) -> GraphStore:
    return GraphStore(without_features(data))


@pytest.mark.parametrize("form", ["data", "graph store", "csc"])
@pytest.mark.parametrize("workers", WORKERS, ids=WORKER_NAMES)
def test_nodes_of_one_type(data: Data, store: FeatureStore, form: str, workers: dict[str, Any]) -> None:
    if form == "csc" and workers:
        pytest.skip("the form of the graph does not depend on where it is sampled")
    options = {"num_neighbors": [5, 3], "input_nodes": torch.arange(700), "batch_size": 128, "shuffle": True, **workers}
    graph = without_features(data) if form == "data" else graph_store(data)
    if form == "csc":
        row, colptr, perm = graph.csc()
        graph = GraphStore((row, colptr), layout="csc")
        # Edges are numbered as they lie in the graph: now in the order of their targets.
        data = Data(x=data.x, y=data.y, w=data.w[perm], edge_index=data.edge_index[:, perm])
        store = FeatureStore(store.client, attrs=["x", "y"])
        expected = pyg.NeighborLoader(Data(x=data.x, y=data.y, edge_index=data.edge_index), is_sorted=True, **options)
    else:
        expected = pyg.NeighborLoader(data, **options)
    assert check_epochs(NeighborLoader((store, graph), **options), expected) == 6


@pytest.mark.parametrize("filter_per_worker", [False, True])
def test_rows_may_be_fetched_in_workers(data: Data, store: FeatureStore, filter_per_worker: bool) -> None:
    options = {"num_neighbors": [4, 2], "input_nodes": torch.arange(600), "batch_size": 100, "num_workers": 2}
    options |= {"persistent_workers": True}
    loader = NeighborLoader((store, without_features(data)), filter_per_worker=filter_per_worker, **options)
    check_epochs(loader, pyg.NeighborLoader(data, **options), epochs=3)


@pytest.mark.parametrize("form", ["data", "graph store"])
@pytest.mark.parametrize("workers", WORKERS, ids=WORKER_NAMES)
def test_nodes_of_several_types(hetero: HeteroData, hetero_store: FeatureStore, form: str, workers: dict[str, Any]) -> None:
    options = {"num_neighbors": [4, 3], "batch_size": 100, **workers}
    graph = without_features(hetero) if form == "data" else graph_store(hetero)
    expected = pyg.NeighborLoader(hetero, input_nodes=("paper", torch.arange(450)), **options)
    loader = NeighborLoader((hetero_store, graph), input_nodes=("paper", torch.arange(450)), **options)
    assert check_epochs(loader, expected) == 5


@pytest.mark.parametrize("seeds", ["paper", ("author", None), ("venue", torch.arange(VENUES) % 2 == 0)])
def test_seeds_may_be_a_type_or_a_mask(hetero: HeteroData, hetero_store: FeatureStore, seeds: Any) -> None:
    options = {"num_neighbors": [3, 2], "input_nodes": seeds, "batch_size": 200}
    for graph in (without_features(hetero), graph_store(hetero)):
        check_epochs(NeighborLoader((hetero_store, graph), **options), pyg.NeighborLoader(hetero, **options), epochs=1)


def test_all_nodes_are_the_default(data: Data, store: FeatureStore) -> None:
    options = {"num_neighbors": [2], "batch_size": 1_000}
    for graph in (without_features(data), graph_store(data)):
        assert check_epochs(NeighborLoader((store, graph), **options), pyg.NeighborLoader(data, **options)) == 3


@pytest.mark.parametrize("neg_sampling", [None, "binary", NegativeSampling("triplet", amount=2)], ids=["no", "binary", "triplet"])
@pytest.mark.parametrize("workers", WORKERS[:2], ids=WORKER_NAMES[:2])
def test_links_of_one_type(data: Data, store: FeatureStore, neg_sampling: Any, workers: dict[str, Any]) -> None:
    options = {"num_neighbors": [3, 2], "neg_sampling": neg_sampling, "batch_size": 200, **workers}
    edges = data.edge_index[:, :900]
    for graph in (without_features(data), graph_store(data)):
        loader = LinkNeighborLoader((store, graph), edge_label_index=edges, **options)
        assert check_epochs(loader, pyg.LinkNeighborLoader(data, edge_label_index=edges, **options)) == 5


@pytest.mark.parametrize("edge_type", [CITES, WRITES], ids=":".join)
def test_links_of_several_types(hetero: HeteroData, hetero_store: FeatureStore, edge_type: tuple[str, str, str]) -> None:
    edges = hetero[edge_type].edge_index[:, :500]
    labels = torch.arange(500) % 3
    options = {"num_neighbors": [3, 2], "edge_label_index": (edge_type, edges), "edge_label": labels, "neg_sampling": "binary"}
    for graph in (without_features(hetero), graph_store(hetero)):
        loader = LinkNeighborLoader((hetero_store, graph), batch_size=100, **options)
        check_epochs(loader, pyg.LinkNeighborLoader(hetero, batch_size=100, **options))


def test_all_links_are_the_default(data: Data, store: FeatureStore) -> None:
    options = {"num_neighbors": [2], "batch_size": 5_000}
    for graph in (without_features(data), graph_store(data)):
        assert check_epochs(LinkNeighborLoader((store, graph), **options), pyg.LinkNeighborLoader(data, **options), 1) == 4


@pytest.mark.parametrize("subgraph_type", ["directional", "induced", "bidirectional"])
def test_every_kind_of_subgraph(data: Data, store: FeatureStore, subgraph_type: str) -> None:
    options = {"num_neighbors": [4, 2], "input_nodes": torch.arange(300), "batch_size": 100, "subgraph_type": subgraph_type}
    loader = NeighborLoader((store, without_features(data)), **options)
    check_epochs(loader, pyg.NeighborLoader(data, **options), epochs=1)


def test_rows_of_edges_are_found_by_edges(data: Data, hetero: HeteroData, store: FeatureStore, hetero_store: FeatureStore) -> None:
    """PyG's own loaders over a store look edges up by the ids of nodes, and give wrong rows without a word."""
    (batch,) = NeighborLoader((store, graph_store(data)), [-1], torch.arange(40), batch_size=40)
    assert len(batch.e_id) > 0
    assert torch.equal(batch.w, data.w[batch.e_id])
    # The ends of each edge, by its place in the caller's edge_index.
    assert torch.equal(batch.n_id[batch.edge_index], data.edge_index[:, batch.e_id])
    seeds = ("paper", torch.arange(40))
    (batch,) = NeighborLoader((hetero_store, graph_store(hetero)), [-1], seeds, batch_size=40)
    assert torch.equal(batch[CITES].w, hetero[CITES].w[batch[CITES].e_id])
    ids = torch.stack([batch["paper"].n_id[end] for end in batch[CITES].edge_index])
    assert torch.equal(ids, hetero[CITES].edge_index[:, batch[CITES].e_id])
    # PyG's own loaders see the attributes of nodes alone.
    assert {attr.group_name for attr in hetero_store.get_all_tensor_attrs()} == {"paper", "author"}


def test_pygs_own_loaders_take_the_stores(hetero: HeteroData, hetero_store: FeatureStore) -> None:
    bare = without_features(hetero)
    del bare["paper", "in", "venue"], bare["venue"]
    seeds = ("paper", torch.arange(300))
    for batch in pyg.NeighborLoader((hetero_store, GraphStore(bare)), [3, 2], seeds, batch_size=100, num_workers=1):
        assert torch.equal(batch["paper"].x, hetero["paper"].x[batch["paper"].n_id])
        assert torch.equal(batch["author"].x, hetero["author"].x[batch["author"].n_id])


def test_transforms_come_where_pyg_has_them(data: Data, store: FeatureStore) -> None:
    def first(out: Any) -> Any:
        out.node = out.node.clone()
        return out

    def last(batch: Data) -> Data:
        batch.total = batch.x.sum() + batch.w.sum()
        return batch

    options = {"num_neighbors": [3], "input_nodes": torch.arange(200), "batch_size": 100}
    options |= {"transform": last, "transform_sampler_output": first}
    check_epochs(NeighborLoader((store, without_features(data)), **options), pyg.NeighborLoader(data, **options))


def test_what_the_graph_holds_stays(data: Data, store: FeatureStore) -> None:
    graph = without_features(data)
    graph.y = torch.arange(data.num_nodes)
    (batch,) = NeighborLoader((store, graph), [2], torch.arange(50), batch_size=50)
    assert torch.equal(batch.y, batch.n_id)
    assert torch.equal(batch.x, data.x[batch.n_id])


def test_sampling_needs_pygs_library(data: Data, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_geometric.typing

    monkeypatch.setattr(torch_geometric.typing, "WITH_PYG_LIB", False)
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SPARSE", False)
    with pytest.raises(ImportError, match="requires either 'pyg-lib' or 'torch-sparse'"):
        next(iter(NeighborLoader((store, without_features(data)), [2], torch.arange(50))))


def test_disjoint_sampling_is_pygs(data: Data, store: FeatureStore) -> None:
    import torch_geometric.typing

    options = {"num_neighbors": [3, 2], "input_nodes": torch.arange(90), "batch_size": 30, "disjoint": True}
    loader = NeighborLoader((store, without_features(data)), **options)
    if torch_geometric.typing.WITH_PYG_LIB:
        check_epochs(loader, pyg.NeighborLoader(data, **options))
    else:
        with pytest.raises(ValueError, match="'disjoint' sampling not supported"):
            next(iter(loader))


def test_samplers_know_every_type_in_its_order(hetero: HeteroData, hetero_store: FeatureStore) -> None:
    """PyG's takes node types from features, and puts edge types into a set, whose order differs between processes."""
    graph = graph_store(hetero)
    assert [graph.num_nodes(one) for one in graph.node_types] == [PAPERS, AUTHORS, VENUES]
    sampler = NeighborLoader((hetero_store, graph), [2], "paper").node_sampler
    assert sampler.node_types == ["paper", "author", "venue"]
    assert sampler.edge_types == hetero.edge_types
