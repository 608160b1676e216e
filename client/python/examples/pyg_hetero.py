"""PyG, several types of nodes and edges: papers and authors, a layer per edge type, and the features in Rudder.

    python pyg_hetero.py --workers 2              # starts its own daemons
    python pyg_hetero.py --features framework     # the same training with all features in this process
"""

from __future__ import annotations

from typing import Any

import _common as common
import torch
import torch_geometric
import torch_geometric.loader
from torch_geometric.data import HeteroData
from torch_geometric.nn import HeteroConv, Linear, SAGEConv

import rudder
import rudder.pyg

FANOUTS = [8, 4]


class Model(torch.nn.Module):
    """Two layers, each with a convolution of its own for each edge type."""

    def __init__(self, edge_types: list[tuple[str, str, str]], widths: dict[str, int], hidden: int, classes: int) -> None:
        super().__init__()
        own = [{name: widths[name] for name in widths}, dict.fromkeys(widths, hidden)]
        self.layers = torch.nn.ModuleList(
            HeteroConv({edge: SAGEConv((width[edge[0]], width[edge[2]]), hidden) for edge in edge_types}) for width in own
        )
        self.last = Linear(hidden, classes)

    def forward(self, batch: HeteroData) -> torch.Tensor:
        x = batch.x_dict
        for layer in self.layers:
            x = {name: rows.relu() for name, rows in layer(x, batch.edge_index_dict).items()}
        return self.last(x["paper"][: batch["paper"].batch_size])


def main() -> None:
    arguments = common.parser(__doc__.split("\n")[0], without=["graph"]).parse_args()
    torch_geometric.seed_everything(arguments.seed)
    graph = common.generated_typed(arguments.vertices, arguments.width)
    data: Any = HeteroData()
    data["paper"].y = torch.from_numpy(graph.labels)
    for name, rows in graph.features.items():
        data[name.split(".")[0]].num_nodes = len(rows)
    for edge_type, edges in graph.edges.items():
        data[edge_type].edge_index = torch.from_numpy(edges)
    client = None
    if arguments.features == "rudder":
        client = rudder.launch(common.dataset(graph.features, arguments.parts)).connect()
        data = (rudder.pyg.FeatureStore(client), data)
        pyg: Any = rudder.pyg
    else:
        for name, rows in graph.features.items():
            data[name.split(".")[0]].x = torch.from_numpy(rows)
        pyg = torch_geometric.loader
    seeds = ("paper", torch.from_numpy(graph.train))
    options = {"batch_size": arguments.batch, "shuffle": True, "num_workers": arguments.workers}
    train = pyg.NeighborLoader(data, FANOUTS, seeds, **options)

    widths = {"paper": arguments.width, "author": arguments.width // 2}
    model = Model(list(graph.edges), widths, 64, graph.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = common.Run("pyg_hetero", arguments, graph.features, client)
    for _ in range(arguments.epochs):
        with run.epoch() as losses:
            for batch in train:
                for name in widths:
                    run.check(f"{name}.x", batch[name].n_id, batch[name].x)
                loss = torch.nn.functional.cross_entropy(model(batch), batch["paper"].y[: batch["paper"].batch_size])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    run.report()


if __name__ == "__main__":
    main()
