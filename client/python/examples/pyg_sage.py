"""PyG, one type of nodes: GraphSAGE or GAT over sampled neighbours, and the features in Rudder.

    python pyg_sage.py --model gat --workers 2    # starts its own daemons
    python pyg_sage.py --features framework       # the same training with all features in this process
"""

from __future__ import annotations

from typing import Any

import _common as common
import torch
import torch_geometric
import torch_geometric.loader
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GraphSAGE

import rudder
import rudder.pyg

FANOUTS = [10, 5]


def main() -> None:
    parser = common.parser(__doc__.split("\n")[0])
    parser.add_argument("--model", choices=["sage", "gat"], default="sage")
    arguments = parser.parse_args()
    torch_geometric.seed_everything(arguments.seed)
    graph = common.graph_of(arguments)
    data: Any = Data(edge_index=torch.from_numpy(graph.edges), y=torch.from_numpy(graph.labels))
    client = None
    if arguments.features == "rudder":
        client = rudder.launch(common.dataset({"x": graph.features}, arguments.parts)).connect()
        data = (rudder.pyg.FeatureStore(client), data)
        pyg, evaluation = rudder.pyg, {"progress": False}
    else:
        data.x = torch.from_numpy(graph.features)
        pyg, evaluation = torch_geometric.loader, {}
    options = {"num_neighbors": FANOUTS, "batch_size": arguments.batch, "num_workers": arguments.workers}
    train = pyg.NeighborLoader(data, input_nodes=torch.from_numpy(graph.train), shuffle=True, **options)
    test = pyg.NeighborLoader(data, input_nodes=torch.from_numpy(graph.test), **options, **evaluation)

    kind = GAT if arguments.model == "gat" else GraphSAGE
    model = kind(arguments.width, 64, num_layers=len(FANOUTS), out_channels=graph.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = common.Run("pyg_sage", arguments, {"x": graph.features}, client)
    for _ in range(arguments.epochs):
        with run.epoch() as losses:
            for batch in train:
                run.check("x", batch.n_id, batch.x)
                out = model(batch.x, batch.edge_index)[: batch.batch_size]
                loss = torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    right = evaluate(model, test)
    if not arguments.json:
        print(f"{right / len(graph.test):.1%} of the test nodes are right")
    run.report()


@torch.no_grad()
def evaluate(model: torch.nn.Module, loader: Any) -> int:
    """How many nodes the model gives the right class."""
    right = 0
    for batch in loader:
        out = model(batch.x, batch.edge_index)[: batch.batch_size]
        right += int((out.argmax(dim=1) == batch.y[: batch.batch_size]).sum())
    return right


if __name__ == "__main__":
    main()
