#!/usr/bin/env python3
"""Epochs of GraphBolt's loader: features in memory (the bound), rows from Rudder, and the same with lookahead.

Two daemons on this machine serve one half of the graph each; the trainer is beside the first, so half of its rows are remote
unless they are cached. The three kinds of epochs take turns in one process, each with a model of its own and the same seeds, so
that their losses must be equal. An epoch with a model is the example's (GraphSAGE); one without only pulls minibatches.

Run it in environment b of tests/frameworks, from any folder:

    PYTHONPATH=client/python target/frameworks/b/bin/python tests/measure/graphbolt_epoch.py [--workers 4] [--epochs 9]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "client" / "python" / "examples"))
os.environ.setdefault("DGLBACKEND", "pytorch")
os.environ.setdefault("RUDDER_BIN_DIR", str(REPOSITORY / "target" / "release"))

import _common as common  # noqa: E402
import graphbolt_sage  # noqa: E402
import torch  # noqa: E402
from dgl import graphbolt as gb  # noqa: E402

import rudder  # noqa: E402
import rudder.graphbolt  # noqa: E402

KINDS = ("memory", "rudder", "lookahead")


class Course:
    """One kind of epochs: its loader, its model, and what was measured.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    graph, arguments
        As the example's.
    client : rudder.Client
        A trainer of its own.
    trains : bool
        Whether a model trains on the minibatches.
    """

    def __init__(self, kind: str, graph: Any, arguments: Any, client: rudder.Client, trains: bool) -> None:
        self.client = client
        if kind == "memory":
            store = gb.BasicFeatureStore({("node", None, "feat"): gb.TorchBasedFeature(torch.from_numpy(graph.features))})
        else:
            store = rudder.graphbolt.FeatureStore(client)
        self.loader = graphbolt_sage.loader_of(graph, store, arguments)
        if kind == "lookahead":
            rudder.graphbolt.ahead(self.loader)
        torch.manual_seed(arguments.seed)
        self.model = graphbolt_sage.Model(graph.features.shape[1], 256, graph.classes) if trains else None
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01) if self.model is not None else None
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.waited: list[float] = []

    def epoch(self, seed: int) -> None:
        """Measure one."""
        torch.manual_seed(seed)
        gb.seed(seed)
        before = self.rows()
        losses, start = [], time.perf_counter()
        for batch in self.loader:
            if self.model is not None:
                loss = torch.nn.functional.cross_entropy(self.model(batch.blocks, batch.node_features["feat"]), batch.labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                losses.append(loss.item())
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(sum(losses))
        # The daemon counts a fetch a moment after it has answered.
        time.sleep(0.2)
        peer, remote = (after - before for after, before in zip(self.rows(), before))
        self.waited.append(peer / max(1, remote))

    def rows(self) -> tuple[int, int]:
        """Rows waited for, and rows of the other node, that fetches have had so far."""
        fetched = next(table["fetched"] for table in self.client.status()["tables"] if table["name"] == "feat")
        return fetched["peer"], sum(count for source, count in fetched.items() if source != "local")


def main() -> None:
    parser = common.parser(__doc__.split("\n")[0])
    parser.set_defaults(epochs=7, vertices=60_000, width=128, batch=512)
    parser.add_argument("--capacity", type=float, default=0.25, help="of the remote rows, in the cache")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    graph = common.graph_of(arguments)
    daemon = rudder.launch(common.dataset({"feat": graph.features}, arguments.parts), capacity=arguments.capacity)
    print(f"{len(graph.labels)} vertices of {graph.features.shape[1]} floats, {arguments.workers} workers, medians of "
          f"{arguments.epochs} epochs after a first; capacity {arguments.capacity:.0%}")
    for trains in (True, False):
        courses = {kind: Course(kind, graph, arguments, daemon.connect(), trains) for kind in KINDS}
        for epoch in range(arguments.epochs + 1):
            for course in courses.values():
                course.epoch(arguments.seed + epoch)
        print(f"\n{'with a model that trains' if trains else 'minibatches only'}\n| | s/epoch | of memory | remote rows waited for |\n|---|---|---|---|")
        bound = statistics.median(courses["memory"].seconds[1:])
        for kind, course in courses.items():
            seconds = statistics.median(course.seconds[1:])
            waited = "" if kind == "memory" else f"{statistics.median(course.waited[1:]):.2%}"
            print(f"| {kind} | {seconds:.3f} | {seconds / bound:.2f} | {waited} |")
        if arguments.workers == 0 and any(course.losses != courses["memory"].losses for course in courses.values()):
            raise SystemExit("the losses differ")


if __name__ == "__main__":
    main()
