"""A small graph for the tests with GraphBolt: features as arrays, as a data set of two daemons, and pipes that sample it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from cluster import run
from dgl import graphbolt as gb

PAPERS, AUTHORS, DEGREE, BATCH, STEPS = 3_000, 1_000, 4, 64, 12

PAPER, AUTHOR, WRITES, CITES = "paper", "author", "author:writes:paper", "paper:cites:paper"


class World:
    """Papers that cite papers, and authors who write them. Each vertex has the same number of edges that come in.

    Attributes
    ----------
    features : dict of (domain, type, name) to numpy.ndarray
        What every read must equal.
    """

    def __init__(self, is_typed: bool) -> None:
        rng = np.random.default_rng(5)
        self.is_typed = is_typed
        self.edges = {CITES: rng.integers(0, PAPERS, PAPERS * DEGREE)}
        paper = PAPER if is_typed else None
        self.features: dict[Any, np.ndarray] = {
            ("node", paper, "x"): rng.standard_normal((PAPERS, 17), dtype=np.float32),
            ("node", paper, "year"): rng.integers(0, 99, (PAPERS, 1)),
        }
        if is_typed:
            self.edges[WRITES] = rng.integers(0, AUTHORS, PAPERS * DEGREE)
            self.features["node", AUTHOR, "x"] = rng.standard_normal((AUTHORS, 5), dtype=np.float32)
            self.features["edge", WRITES, "w"] = rng.standard_normal((PAPERS * DEGREE, 3), dtype=np.float32)
        else:
            self.features["edge", None, "w"] = rng.standard_normal((PAPERS * DEGREE, 3), dtype=np.float32)
        self.labels = torch.from_numpy(rng.integers(0, 7, PAPERS))
        self.train = torch.from_numpy(rng.permutation(PAPERS)[: BATCH * STEPS]).int()

    def table(self, key: Any) -> tuple[str, str | None]:
        """Name of a feature's table, and its type in the data set."""
        domain, type_name, name = key
        if domain == "edge" and type_name is None:
            type_name = "_N:_E:_N"
        return (name, None) if type_name is None else (f"{type_name}.{name}", type_name)

    def build(self, folder: Path) -> Path:
        """Import the features as a data set of two parts."""
        folder.mkdir()
        arguments: list[str] = []
        for at, (key, array) in enumerate(self.features.items()):
            table, type_name = self.table(key)
            np.save(folder / f"{at}.npy", array)
            arguments += ["--table", f"{table}{f'@{type_name}' if type_name else ''}={folder / str(at)}.npy"]
        run("rudder", "import", "npy", "--out", folder / "dataset", "--parts", "2", *arguments, "--json")
        return folder / "dataset"

    def graph(self) -> Any:
        """The graph as GraphBolt samples it. Ids are of 32 bits."""
        indptr = torch.arange(0, PAPERS * DEGREE + 1, DEGREE, dtype=torch.int32)
        ids = torch.arange(PAPERS * DEGREE, dtype=torch.int32)
        cites = torch.from_numpy(self.edges[CITES]).int()
        if not self.is_typed:
            return gb.fused_csc_sampling_graph(indptr, cites, edge_attributes={gb.ORIGINAL_EDGE_ID: ids})
        # Papers first, then authors, to whom nothing leads. Each paper has its citations, then its authors.
        writes = torch.from_numpy(self.edges[WRITES]).int() + PAPERS
        both = torch.cat([cites.reshape(-1, DEGREE), writes.reshape(-1, DEGREE)], dim=1).reshape(-1)
        of_edges = torch.cat([ids.reshape(-1, DEGREE)] * 2, dim=1).reshape(-1)
        kinds = torch.tensor([0] * DEGREE + [1] * DEGREE, dtype=torch.uint8).repeat(PAPERS)
        return gb.fused_csc_sampling_graph(
            torch.cat([indptr * 2, torch.full((AUTHORS,), PAPERS * DEGREE * 2, dtype=torch.int32)]),
            both,
            node_type_offset=torch.tensor([0, PAPERS, PAPERS + AUTHORS], dtype=torch.int32),
            type_per_edge=kinds,
            node_type_to_id={PAPER: 0, AUTHOR: 1},
            edge_type_to_id={CITES: 0, WRITES: 1},
            edge_attributes={gb.ORIGINAL_EDGE_ID: of_edges},
        )

    def in_memory(self) -> Any:
        """The features as GraphBolt's own store."""
        return gb.BasicFeatureStore({key: gb.TorchBasedFeature(torch.from_numpy(a)) for key, a in self.features.items()})

    def loader(
        self, store: Any, workers: int = 0, *, fanouts: Any = (-1, -1), nodes: Any = None, edges: Any = None, cut: Any = None
    ) -> Any:
        """A loader that takes all edges of two layers, so that equal seeds give equal minibatches."""
        seeds = self.train
        items: Any = gb.ItemSet((seeds, self.labels[seeds.long()]), names=("seed_nodes", "labels"))
        if self.is_typed:
            items = gb.ItemSetDict({PAPER: items})
        pipe = gb.ItemSampler(items, batch_size=BATCH).sample_neighbor(self.graph(), list(fanouts))
        if cut is not None:
            pipe = pipe.transform(cut)
        pipe = pipe.fetch_feature(
            store,
            node_feature_keys=nodes or ({PAPER: ["x", "year"], AUTHOR: ["x"]} if self.is_typed else ["x", "year"]),
            edge_feature_keys=edges or ({WRITES: ["w"]} if self.is_typed else ["w"]),
        )
        return gb.DataLoader(pipe, num_workers=workers, persistent_workers=False)


def fields(minibatch: Any) -> dict[str, torch.Tensor]:
    """Every tensor of a minibatch, by its place in it."""
    found: dict[str, torch.Tensor] = {}

    def walk(place: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[place] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{place}[{key}]", inner)
        elif isinstance(value, (list, tuple)):
            for at, inner in enumerate(value):
                walk(f"{place}[{at}]", inner)
        elif hasattr(value, "__dict__"):
            for key, inner in vars(value).items():
                walk(f"{place}.{key}", inner)

    walk("minibatch", minibatch)
    return found


def check_equal(minibatch: Any, expected: Any) -> None:
    """Hold a minibatch against another, field by field and bit by bit."""
    ours, theirs = fields(minibatch), fields(expected)
    assert ours.keys() == theirs.keys()
    for place, value in theirs.items():
        assert ours[place].dtype == value.dtype, place
        assert torch.equal(ours[place], value), place
