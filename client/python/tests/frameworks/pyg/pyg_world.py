"""Two graphs for the tests with PyG: their features in memory and in datasets that daemons serve.

What a loader over features in memory gives is what the loaders of ``rudder.pyg`` must give, field by field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from cluster import run
from torch_geometric.data import Data, HeteroData

#: Nodes and edges of the graph of one type.
NODES, EDGES = 3_000, 20_000

#: Nodes of the graph of several types. Venues have no features at all.
PAPERS, AUTHORS, VENUES = 1_000, 600, 20
CITES, WRITES, IN = ("paper", "cites", "paper"), ("author", "writes", "paper"), ("paper", "in", "venue")


def homogeneous() -> Data:
    """A graph of one type, its features in memory."""
    rng = np.random.default_rng(5)
    return Data(
        x=torch.from_numpy(rng.standard_normal((NODES, 16), dtype=np.float32)),
        y=torch.from_numpy(rng.integers(0, 7, NODES)),
        w=torch.from_numpy(rng.standard_normal((EDGES, 3), dtype=np.float32)),
        edge_index=torch.from_numpy(rng.integers(0, NODES, (2, EDGES))),
    )


def heterogeneous() -> HeteroData:
    """A graph of several types, its features in memory."""
    rng = np.random.default_rng(6)
    data = HeteroData()
    data["paper"].x = torch.from_numpy(rng.standard_normal((PAPERS, 12), dtype=np.float32))
    data["paper"].y = torch.from_numpy(rng.integers(0, 4, PAPERS))
    data["author"].x = torch.from_numpy(rng.standard_normal((AUTHORS, 5), dtype=np.float32)).to(torch.float16)
    data["venue"].num_nodes = VENUES
    for edge_type, edges, ends in ((CITES, 6_000, (PAPERS, PAPERS)), (WRITES, 3_000, (AUTHORS, PAPERS)), (IN, PAPERS, (PAPERS, VENUES))):
        data[edge_type].edge_index = torch.from_numpy(np.stack([rng.integers(0, end, edges) for end in ends]))
    data[CITES].w = torch.from_numpy(rng.standard_normal((6_000, 3), dtype=np.float32))
    return data


def build(folder: Path, tables: dict[str, torch.Tensor]) -> Path:
    """Import arrays, by ``NAME@TYPE``, as a dataset of two parts; answer its folder."""
    folder.mkdir()
    arguments: list[str] = []
    for number, (table, rows) in enumerate(tables.items()):
        np.save(folder / f"{number}.npy", rows.numpy())
        arguments += ["--table", f"{table}={folder / f'{number}.npy'}"]
    run("rudder", "import", "npy", "--out", folder / "dataset", "--parts", "2", *arguments, "--json")
    return folder / "dataset"


def tables_of(data: Data | HeteroData) -> dict[str, torch.Tensor]:
    """The tables of a graph, named as `rudder import` wants them."""
    if isinstance(data, Data):
        return {"x": data.x, "y": data.y, "w@_N:_E:_N": data.w}
    return {
        "paper.x@paper": data["paper"].x,
        "paper.y@paper": data["paper"].y,
        "author.x@author": data["author"].x,
        "paper:cites:paper.w@paper:cites:paper": data[CITES].w,
    }


def without_features(data: Data | HeteroData) -> Any:
    """The graph alone."""
    bare = data.clone()
    for store in bare.stores:
        for key in ("x", "y", "w"):
            if key in store:
                del store[key]
    return bare


def check(batch: Any, expected: Any) -> None:
    """Hold a batch against that of a loader over features in memory: every field, every bit."""
    assert type(batch) is type(expected)
    stores, wanted = ({store._key: store for store in one.stores} for one in (batch, expected))
    assert set(stores) == set(wanted)
    for key, store in wanted.items():
        # Where PyG cannot count nodes by their features, their number is written down.
        assert set(stores[key].keys()) - {"num_nodes"} == set(store.keys()) - {"num_nodes"}, key
        for name, value in store.items():
            ours = stores[key].num_nodes if name == "num_nodes" else stores[key][name]
            if not isinstance(value, torch.Tensor):
                assert ours == value, (key, name)
                continue
            assert (ours.dtype, ours.shape) == (value.dtype, value.shape), (key, name)
            assert ours.numpy().tobytes() == value.numpy().tobytes(), (key, name)
    assert batch.num_nodes == expected.num_nodes


def check_epochs(loader: Any, expected: Any, epochs: int = 2) -> int:
    """Hold epochs of a loader against those of a loader over features in memory; return how many batches an epoch has."""
    count = 0
    for epoch in range(epochs):
        count = 0
        torch.manual_seed(epoch)
        theirs = list(expected)
        torch.manual_seed(epoch)
        for batch, other in zip(loader, theirs, strict=True) if hasattr(zip, "strict") else zip(loader, theirs):
            check(batch, other)
            count += 1
        assert count == len(theirs)
    return count
