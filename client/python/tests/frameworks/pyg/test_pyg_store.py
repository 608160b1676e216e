"""The feature store and the graph store by themselves: what PyG's interfaces promise, and what is refused."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cluster import IDS_MAX, Daemon
from conftest import _serve
from pyg_world import AUTHORS, CITES, NODES, WRITES, without_features
from torch_geometric.data import Data, HeteroData

import rudder
from rudder.pyg import FeatureStore, GraphStore, LinkNeighborLoader, NeighborLoader


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([3, 1, 4, 1, 5]),
        torch.tensor([3, 1, 4], dtype=torch.int32),
        np.array([2, 7, 1]),
        [2, 7, 1],
        torch.arange(40)[::3],
        torch.arange(NODES) % 5 == 0,
        np.arange(NODES) % 7 == 0,
        slice(10, 50, 3),
        slice(-20, None),
        slice(None),
        None,
        torch.empty(0, dtype=torch.int64),
        17,
        torch.tensor(17),
    ],
    ids=str,
)
def test_rows_by_every_index(data: Data, store: FeatureStore, index: Any) -> None:
    for attr in ("x", "y"):
        rows = store.get_tensor(group_name=None, attr_name=attr, index=index)
        expected = data[attr][slice(None) if index is None else index]
        assert rows.dtype == expected.dtype
        assert torch.equal(rows, expected)
        assert store.get_tensor_size(None, attr, index) == tuple(expected.shape)


def test_views_are_pygs(hetero: HeteroData, hetero_store: FeatureStore) -> None:
    ids = torch.tensor([9, 2])
    assert torch.equal(hetero_store["paper", "x", ids], hetero["paper"].x[ids])
    assert torch.equal(hetero_store["paper"].y[ids], hetero["paper"].y[ids])
    assert torch.equal(hetero_store["author", "x"](), hetero["author"].x)
    # Those of edges, by their places in edge_index.
    assert torch.equal(hetero_store[CITES, "w", ids], hetero[CITES].w[ids])
    view = hetero_store.view(group_name="author")
    view.attr_name = "x"
    assert torch.equal(view[ids], hetero["author"].x[ids])
    assert isinstance(hetero_store.get_tensor("paper", "x", ids.numpy(), convert_type=True), np.ndarray)


def test_several_attributes_are_one_call(hetero: HeteroData, hetero_store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fetch = rudder.Client.fetch
    monkeypatch.setattr(rudder.Client, "fetch", lambda client, of, **more: calls.append(list(of)) or fetch(client, of, **more))
    ids, authors = torch.arange(50), torch.arange(20)
    attrs = [("paper", "x", ids), ("paper", "y", ids), ("author", "x", authors)]
    x, y, author = hetero_store.multi_get_tensor(attrs)
    assert calls == [["paper.x", "paper.y", "author.x"]]
    assert torch.equal(x, hetero["paper"].x[ids])
    assert torch.equal(y, hetero["paper"].y[ids])
    assert torch.equal(author, hetero["author"].x[authors])


def test_attributes_have_the_shape_and_the_type_of_the_source(data: Data, hetero: HeteroData, hetero_store: FeatureStore) -> None:
    for group, attr, rows in (("paper", "x", 12), ("author", "x", 5)):
        assert hetero_store.get_tensor_size(group, attr) == (len(hetero[group].x), rows)
    assert hetero_store.get_tensor_size("paper", "y") == tuple(hetero["paper"].y.shape)
    assert hetero_store.get_tensor("paper", "y", None).dtype == torch.int64
    assert hetero_store.get_tensor_size("paper", "z") is None
    empty = hetero_store.get_tensor("author", "x", torch.empty(0, dtype=torch.int64))
    assert (empty.dtype, tuple(empty.shape)) == (torch.float16, (0, 5))


def test_attributes_may_be_chosen_and_named(served: list[Daemon], served_hetero: list[Daemon], data: Data) -> None:
    client = served[0].connect()
    store = FeatureStore(client, attrs={"feat": "x", "label": "y"})
    assert [(attr.group_name, attr.attr_name) for attr in store.get_all_tensor_attrs()] == [(None, "feat"), (None, "label")]
    assert torch.equal(store[None, "feat", torch.arange(5)], data.x[:5])
    client = served_hetero[0].connect()
    chosen = {
        ("x",): {("paper", "x"), ("author", "x")},
        ("paper.y",): {("paper", "y")},
        (("author", "x"), "y"): {("author", "x"), ("paper", "y")},
    }
    for attrs, expected in chosen.items():
        listed = FeatureStore(client, attrs=attrs).get_all_tensor_attrs()
        assert {(attr.group_name, attr.attr_name) for attr in listed} == expected
    store = FeatureStore(client, attrs={("paper", "feat"): "paper.x", "author.emb": "author.x"})
    assert {(attr.group_name, attr.attr_name) for attr in store.get_all_tensor_attrs()} == {("paper", "feat"), ("author", "emb")}


def test_putting_is_an_update(own_served: list[Daemon], data: Data) -> None:
    store, ids = FeatureStore(own_served[0].connect()), torch.tensor([5, NODES - 1])
    rows = torch.full((2, 16), 3.5)
    assert store.put_tensor(rows, group_name=None, attr_name="x", index=ids)
    assert torch.equal(store[None, "x", ids], rows)
    # Through the other node, too: the owners have them.
    assert torch.equal(FeatureStore(own_served[1].connect())[None, "x", ids], rows)
    store[None, "x", 7] = torch.full((16,), 1.5)
    assert torch.equal(store[None, "x", 7], torch.full((16,), 1.5))
    assert store.update_tensor(data.x[ids].numpy(), None, "x", ids)
    assert torch.equal(store[None, "x", ids], data.x[ids])
    with pytest.raises(TypeError, match="float64"):
        store.put_tensor(rows.double(), None, "x", ids)
    with pytest.raises(rudder.UnknownTableError, match="z"):
        store.put_tensor(rows, None, "z", ids)


def test_removing_takes_an_attribute_out_of_this_store(store: FeatureStore, data: Data) -> None:
    assert store.remove_tensor(None, "y", None)
    assert not store.remove_tensor(None, "y", None)
    assert store.get_tensor_size(None, "y") is None
    (batch,) = NeighborLoader((store, without_features(data)), [2], torch.arange(10), batch_size=10)
    assert "y" not in batch
    assert FeatureStore(store.client).get_tensor_size(None, "y") is not None


def test_unknown_names_name_the_nearest(served_hetero: list[Daemon], hetero_store: FeatureStore) -> None:
    ids = torch.arange(3)
    with pytest.raises(KeyError, match="paper.x"):
        hetero_store["papers", "x", ids]
    with pytest.raises(rudder.UnknownTableError, match="author.x"):
        hetero_store["author", "xs", ids]
    for attrs in (["papr.x"], {"x": "papr.x"}, [("paper", "xx")]):
        with pytest.raises(rudder.UnknownTableError, match="paper.x"):
            FeatureStore(served_hetero[0].connect(), attrs=attrs)
    with pytest.raises(TypeError, match="give a list"):
        FeatureStore(served_hetero[0].connect(), attrs="x")


def test_wrong_ids_are_refused(store: FeatureStore) -> None:
    with pytest.raises(rudder.IdOutOfRangeError, match=str(NODES)):
        store[None, "x", torch.tensor([1, NODES])]
    with pytest.raises(ValueError):
        store[None, "x", torch.tensor([1, -1])]
    with pytest.raises(ValueError, match="dimension"):
        store[None, "x", torch.zeros((2, 2), dtype=torch.int64)]
    with pytest.raises(TypeError):
        store[None, "x", torch.tensor([0.5])]
    with pytest.raises(ValueError, match="mask"):
        store[None, "x", torch.ones(NODES - 1, dtype=torch.bool)]


def test_all_rows_of_a_table(folder: Path, authority: Path) -> None:
    """In pieces, where they are more than the daemon takes in one fetch; above the limit of the client, its name."""
    rows = torch.arange(IDS_MAX + 1_000)
    with contextlib.contextmanager(_serve)(folder, authority, {"n": rows}) as running:
        store = FeatureStore(running[0].connect())
        assert torch.equal(store[None, "n", None], rows)
        assert torch.equal(store[None, "n", slice(5, None)], rows[5:])
        small = FeatureStore(running[0].connect(whole_bytes_max=1_000))
        with pytest.raises(rudder.LimitError, match="whole_bytes_max"):
            small[None, "n", None]
        assert torch.equal(small[None, "n", slice(10)], rows[:10])


def test_a_pickled_store_connects_when_it_fetches(store: FeatureStore, data: Data) -> None:
    copy = pickle.loads(pickle.dumps(store))
    assert copy._client is None
    assert copy.get_tensor_size(None, "x") == tuple(data.x.shape)
    assert copy._client is None
    assert torch.equal(copy[None, "x", torch.arange(5)], data.x[:5])
    assert copy.client.trainer == store.client.trainer
    assert pickle.loads(pickle.dumps(copy)).client.trainer == store.client.trainer


def test_graph_and_tables_must_fit(data: Data, hetero: HeteroData, store: FeatureStore, hetero_store: FeatureStore) -> None:
    seeds = torch.arange(10)
    with pytest.raises(ValueError, match="w has 20000 rows, and the graph has 5 such edges"):
        NeighborLoader((store, Data(edge_index=data.edge_index[:, :5])), [2], seeds)
    nodes = FeatureStore(store.client, attrs=["x"])
    with pytest.raises(ValueError, match=f"x has {NODES} rows, and the graph has {NODES + 1}"):
        NeighborLoader((nodes, GraphStore(torch.tensor([[0], [NODES]]))), [2], seeds)
    with pytest.raises(ValueError, match="one node type, and the store has author, paper"):
        NeighborLoader((hetero_store, without_features(data)), [2], seeds)
    with pytest.raises(ValueError, match="del data.x"):
        NeighborLoader((store, data), [2], seeds)
    with pytest.raises(TypeError, match="torch_geometric.loader"):
        NeighborLoader((hetero, hetero), [2], seeds)
    with pytest.raises(TypeError, match="a list: give"):
        LinkNeighborLoader((store, []), [2], seeds)
    with pytest.raises(ValueError, match="horizon is -1"):
        NeighborLoader((store, without_features(data)), [2], seeds, horizon=-1)


def test_the_graph_store_is_pygs(data: Data) -> None:
    graph = GraphStore(tuple(data.edge_index.numpy()), num_nodes=NODES + 7)
    assert graph.num_nodes() == NODES + 7
    assert graph.num_edges() == data.num_edges
    row, colptr, perm = graph.csc()
    assert len(colptr) == NODES + 8
    assert torch.equal(row, data.edge_index[0][perm])
    rowptr, col, perm = graph.csr()
    assert torch.equal(col, data.edge_index[1][perm])
    (attr,) = graph.get_all_edge_attrs()
    assert (attr.edge_type, attr.size) == (None, (NODES + 7, NODES + 7))
    assert torch.equal(torch.stack(graph[attr]), data.edge_index)
    csc = GraphStore((row, colptr[: NODES + 1]), num_nodes=NODES + 7, layout="csc")
    # PyG's samplers read the pointers of every node.
    assert len(csc.csc()[1]) == NODES + 8
    assert graph.remove_edge_index(attr)
    assert not graph.remove_edge_index(attr)
    with pytest.raises(KeyError):
        graph[attr]


def test_wrong_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="names node 9, and there are 9 nodes"):
        GraphStore([[0, 9], [1, 2]], num_nodes=9)
    with pytest.raises(ValueError, match="names node -1"):
        GraphStore([[0, -1], [1, 2]])
    with pytest.raises(ValueError, match="2 sources and 3 targets"):
        GraphStore([np.arange(2), np.arange(3)])
    with pytest.raises(ValueError, match="float64"):
        GraphStore([[0.5], [1.5]])
    with pytest.raises(ValueError, match="must grow from 0"):
        GraphStore([[0, 1], [0, 2, 1, 2]], layout="csc")
    graph = GraphStore({CITES: [[0], [1]]}, num_nodes={"paper": 5})
    with pytest.raises(ValueError, match="with a type or without"):
        graph.put_edge_index([[0], [1]], edge_type=None, layout="coo")
    with pytest.raises(KeyError, match="did you mean paper"):
        graph.num_nodes("papers")
    graph[("author", "writes", "paper"), "csc"] = ([3], [0, 0, 1])
    assert [graph.num_nodes(one) for one in graph.node_types] == [5, 4]
    # Papers that no author wrote have pointers, too.
    assert graph[("author", "writes", "paper"), "csc"][1].tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 1, "filter_per_worker": True}], ids=["ahead", "workers"])
def test_a_table_may_serve_several_types(hetero: HeteroData, hetero_store: FeatureStore, options: dict[str, Any]) -> None:
    """Of papers and of authors, with ids of their own; `y` and `x` of papers share theirs."""
    keys = [("paper", "x"), ("paper", "y"), ("author", "x")]
    store = FeatureStore(hetero_store.client, attrs=dict.fromkeys(keys, "paper.x"))
    seeds = ("paper", torch.arange(300))
    for batch in NeighborLoader((store, without_features(hetero)), [4, 3], seeds, batch_size=100, **options):
        assert len(batch["author"].n_id) > 0
        for node_type, attr in keys:
            assert torch.equal(batch[node_type][attr], hetero["paper"].x[batch[node_type].n_id]), (node_type, attr)


def test_types_that_only_edges_name_have_their_features(hetero_store: FeatureStore) -> None:
    """Without features of its own, nothing else in a ``HeteroData`` names a type of nodes."""
    bare = HeteroData()
    bare[WRITES].edge_index = torch.tensor([[3], [1]])
    (batch,) = NeighborLoader((hetero_store, bare), [2], ("paper", torch.arange(10)), batch_size=10, progress=False)
    assert torch.equal(batch["author"].x, hetero_store["author", "x", batch["author"].n_id])
    assert batch["paper"].n_id.tolist() == list(range(10)) and bare.node_types == []


def test_edges_beyond_the_rows_are_refused(data: Data, hetero: HeteroData, store: FeatureStore, hetero_store: FeatureStore) -> None:
    """PyG's samplers would write past the end of an array."""
    nodes = FeatureStore(store.client, attrs=["x"])
    for edges in ([[0], [NODES]], [[NODES], [0]]):
        with pytest.raises(ValueError, match=f"table x has {NODES} rows, and the graph has {NODES + 1} such nodes"):
            NeighborLoader((nodes, Data(edge_index=torch.tensor(edges), y=data.y)), [2], torch.arange(10))
    with pytest.raises(ValueError, match="names node -1"):
        NeighborLoader((nodes, Data(edge_index=torch.tensor([[0], [-1]]))), [2], torch.arange(10))
    beyond = HeteroData()
    beyond["author"].known = beyond["paper"].known = torch.ones(3)
    beyond[WRITES].edge_index = torch.tensor([[AUTHORS], [1]])
    with pytest.raises(ValueError, match=f"table author.x has {AUTHORS} rows, and the graph has {AUTHORS + 1} such nodes"):
        NeighborLoader((hetero_store, beyond), [2], ("paper", torch.arange(10)))
