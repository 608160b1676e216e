"""Plain torch: a sampler of our own, two layers of mean aggregation, and rows from Rudder. No graph library.

    python torch_plain.py                          # starts its own daemons
    python torch_plain.py --features framework     # the same training with all features in this process
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import _common as common
import numpy as np
import torch

import rudder

FANOUTS = (10, 5)


@dataclass
class Batch:
    """The vertices of a minibatch; the seeds come first, and ``neighbours`` are rows of ``vertices``."""

    vertices: torch.Tensor
    neighbours: list[torch.Tensor]
    labels: torch.Tensor
    x: torch.Tensor | None = None


class Sampler:
    """Minibatches of one epoch, in a new order each time: ``fanout`` neighbours of each vertex, drawn with replacement."""

    def __init__(self, graph: common.Graph, batch: int, seed: int) -> None:
        order = np.argsort(graph.edges[0], kind="stable")
        self.neighbours = graph.edges[1][order]
        self.first = np.searchsorted(graph.edges[0][order], np.arange(len(graph.labels) + 1))
        self.graph, self.batch, self.rng = graph, batch, np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.graph.train) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        seeds = self.rng.permutation(self.graph.train)
        for at in range(0, len(seeds), self.batch):
            yield self.sample(seeds[at : at + self.batch])

    def sample(self, seeds: np.ndarray) -> Batch:
        layers = [seeds]
        for fanout in FANOUTS:
            start, degree = self.first[layers[-1]], np.diff(self.first)[layers[-1]]
            drawn = start[:, None] + (self.rng.random((len(start), fanout)) * degree[:, None]).astype(np.int64)
            # A vertex without neighbours is its own.
            of_self = np.broadcast_to(layers[-1][:, None], drawn.shape)
            drawn = np.where(degree[:, None] > 0, self.neighbours[np.minimum(drawn, len(self.neighbours) - 1)], of_self)
            layers.append(drawn.reshape(-1))
        vertices, place = np.unique(np.concatenate(layers), return_inverse=True)
        ends = np.cumsum([len(layer) for layer in layers])[:-1]
        rows = [torch.from_numpy(part) for part in np.split(place.reshape(-1), ends)]
        return Batch(torch.from_numpy(vertices), rows, torch.from_numpy(self.graph.labels[seeds]))


class Model(torch.nn.Module):
    """GraphSAGE with mean aggregation over the layers of :class:`Sampler`."""

    def __init__(self, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(2 * width, hidden), torch.nn.Linear(2 * hidden, classes)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = [batch.x[rows] for rows in batch.neighbours]
        x = [self.join(self.one, x[at], x[at + 1]).relu() for at in range(2)]
        return self.join(self.two, *x)

    def join(self, layer: torch.nn.Linear, own: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
        return layer(torch.cat([own, around.view(len(own), -1, own.shape[1]).mean(1)], dim=1))


def main() -> None:
    arguments = common.parser(__doc__.split("\n")[0], without=["workers"]).parse_args()
    torch.manual_seed(arguments.seed)
    graph = common.graph_of(arguments)
    loader = Sampler(graph, arguments.batch, arguments.seed)
    client = None
    if arguments.features == "rudder":
        client = rudder.launch(common.dataset({"feat": graph.features}, arguments.parts)).connect()
        loader = rudder.Ahead(loader, lambda batch: ("feat", batch.vertices), put_rows, client=client)
    features = torch.from_numpy(graph.features)
    model = Model(arguments.width, 64, graph.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    run = common.Run("torch_plain", arguments, {"feat": graph.features}, client)
    for _ in range(arguments.epochs):
        with run.epoch() as losses:
            for batch in loader:
                if client is None:
                    batch.x = features[batch.vertices]
                run.check("feat", batch.vertices, batch.x)
                loss = torch.nn.functional.cross_entropy(model(batch), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    run.report()


def put_rows(batch: Batch, rows: torch.Tensor) -> None:
    batch.x = rows


if __name__ == "__main__":
    main()
