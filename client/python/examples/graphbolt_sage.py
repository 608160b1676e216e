"""GraphSAGE with GraphBolt's loader and rows from Rudder.

    python graphbolt_sage.py                          # starts its own daemons
    python graphbolt_sage.py --features framework     # the same training with GraphBolt's features in memory
"""

from __future__ import annotations

from typing import Any

import _common as common
import numpy as np
import torch
from dgl import graphbolt as gb
from dgl.nn import SAGEConv

import rudder
import rudder.graphbolt

FANOUTS = [10, 5]


class Model(torch.nn.Module):
    """Two layers of GraphSAGE over the blocks of a minibatch."""

    def __init__(self, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([SAGEConv(width, hidden, "mean"), SAGEConv(hidden, classes, "mean")])

    def forward(self, blocks: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.layers[0](blocks[0], x).relu()
        return self.layers[1](blocks[1], x)


def sampling_graph(graph: common.Graph) -> Any:
    """The graph in GraphBolt's form: for each vertex the vertices that its edges come from."""
    order = np.argsort(graph.edges[1], kind="stable")
    indptr = np.searchsorted(graph.edges[1][order], np.arange(len(graph.labels) + 1))
    return gb.fused_csc_sampling_graph(torch.from_numpy(indptr), torch.from_numpy(graph.edges[0][order]))


def loader_of(graph: common.Graph, store: Any, arguments: Any) -> Any:
    """GraphBolt's loader. Its own shuffling takes no seed in DGL 2.1, so the training vertices are shuffled here, once."""
    seeds = torch.from_numpy(np.random.default_rng(arguments.seed).permutation(graph.train))
    items = gb.ItemSet((seeds, torch.from_numpy(graph.labels)[seeds]), names=("seed_nodes", "labels"))
    pipe = gb.ItemSampler(items, batch_size=arguments.batch)
    pipe = pipe.sample_neighbor(sampling_graph(graph), FANOUTS)
    pipe = pipe.fetch_feature(store, node_feature_keys=["feat"])
    return gb.DataLoader(pipe, num_workers=arguments.workers)


def main() -> None:
    arguments = common.parser(__doc__.split("\n")[0]).parse_args()
    torch.manual_seed(arguments.seed)
    gb.seed(arguments.seed)
    # Several threads number the vertices of a minibatch in another order each time.
    torch.set_num_threads(1)
    graph = common.graph_of(arguments)
    client = None
    if arguments.features == "rudder":
        client = rudder.launch(common.dataset({"feat": graph.features}, arguments.parts)).connect()
        store = rudder.graphbolt.FeatureStore(client)
        loader = rudder.graphbolt.ahead(loader_of(graph, store, arguments))
    else:
        store = gb.BasicFeatureStore({("node", None, "feat"): gb.TorchBasedFeature(torch.from_numpy(graph.features))})
        loader = loader_of(graph, store, arguments)
    model = Model(arguments.width, 64, graph.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = common.Run("graphbolt_sage", arguments, {"feat": graph.features}, client)
    for _ in range(arguments.epochs):
        with run.epoch() as losses:
            for batch in loader:
                x = batch.node_features["feat"]
                run.check("feat", batch.input_nodes, x)
                loss = torch.nn.functional.cross_entropy(model(batch.blocks, x), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    run.report()


if __name__ == "__main__":
    main()
