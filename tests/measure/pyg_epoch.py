"""Epochs of PyG's NeighborLoader with features in memory, from Rudder, and from Rudder with lookahead: seconds, and rows waited for.

Each kind of Rudder has two daemons and a data set of its own, so that none finds what another has cached; half of the rows are the
other node's. Workers are kept between epochs in all kinds, the first epoch of each is not counted, and epochs are taken by turns, so
that a busy machine troubles all alike. `memory` is PyG's default, which reads rows in the workers; `memory, main` reads them in the
main process, as Rudder's loaders do. Needs torch, PyG and what it samples with (``tests/frameworks`` makes such an environment):

    PYTHON tests/measure/pyg_epoch.py [--rounds N] [--workers 0,2,4] [--models train,none] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import rudder
import rudder.pyg
import torch
import torch_geometric.loader
from torch_geometric.data import Data
from torch_geometric.nn import GraphSAGE

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "client" / "python" / "examples"))
import _common as common  # noqa: E402

#: Kinds of loaders, with the options that make Rudder's so.
MEMORY: dict[str, dict[str, Any]] = {"memory": {}, "memory, main": {"filter_per_worker": False}}
RUDDER: dict[str, dict[str, Any]] = {"rudder": {"horizon": 0, "overlap": 0}, "rudder, ahead": {}}
#: Longest wait until the daemons have counted every fetch, in seconds.
COUNTED_TIMEOUT_S = 10.0


class Kind:
    """One kind of loader: its epochs, and what the daemon counts in them.

    Parameters
    ----------
    loader : iterable
        One epoch per iteration.
    client : rudder.Client, optional
        Of the kinds of Rudder.
    """

    def __init__(self, loader: Any, client: rudder.Client | None) -> None:
        self.loader = loader
        self.client = client
        self.seconds: list[float] = []
        self.waited: list[int] = []
        self.rows: list[int] = []

    def epoch(self, model: torch.nn.Module | None, optimizer: Any, is_counted: bool) -> None:
        """Run an epoch."""
        before = self.counts()
        start = time.perf_counter()
        for batch in self.loader:
            if model is not None:
                out = model(batch.x, batch.edge_index)[: batch.batch_size]
                loss = torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        seconds = time.perf_counter() - start
        if is_counted:
            after = self.counts()
            self.seconds.append(seconds)
            self.waited.append(after[0] - before[0])
            self.rows.append(after[1] - before[1])

    def counts(self) -> tuple[int, int]:
        """Rows that fetches have waited for, and all that they have had, once the daemon has counted them."""
        if self.client is None:
            return 0, 0
        deadline, before = time.monotonic() + COUNTED_TIMEOUT_S, None
        while True:
            fetched = [state["fetched"] for state in self.client.status()["tables"]]
            if fetched == before or time.monotonic() > deadline:
                return sum(one["peer"] for one in fetched), sum(sum(one.values()) for one in fetched)
            before = fetched
            time.sleep(0.1)

    def figures(self, bound: float) -> dict[str, Any]:
        """Medians, and the ratio to the bound."""
        seconds = statistics.median(self.seconds)
        rows = sum(self.rows)
        return {
            "seconds": round(seconds, 4),
            "ratio": round(seconds / bound, 3),
            "rows": rows // len(self.rows),
            "waited": sum(self.waited) // len(self.waited),
            "waited_share": round(sum(self.waited) / rows, 5) if rows else 0.0,
        }


def main() -> None:
    arguments = parse()
    warnings.filterwarnings("ignore", message=".*without a 'pyg-lib' installation.*")
    torch.set_num_threads(arguments.threads)
    graph = common.generated(arguments.vertices, arguments.width)
    bare = Data(edge_index=torch.from_numpy(graph.edges), y=torch.from_numpy(graph.labels))
    whole = bare.clone()
    whole.x = torch.from_numpy(graph.features)
    dataset = common.dataset({"x": graph.features}, parts=2)
    clients = {}
    for number, name in enumerate(RUDDER):
        copy = dataset if number == 0 else Path(shutil.copytree(dataset, dataset.with_name(f"dataset{number}")))
        clients[name] = rudder.launch(copy, capacity=arguments.capacity).connect()
    results = []
    for workers in arguments.workers:
        for model in arguments.models:
            figures = measure(arguments, workers, model == "train", graph, (whole, bare), clients)
            results.append({"workers": workers, "model": model, "kinds": figures})
            if not arguments.json:
                show(results[-1])
    if arguments.json:
        print(json.dumps(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each kind that are counted")
    parser.add_argument("--workers", type=lambda text: [int(one) for one in text.split(",")], default=[0, 2, 4])
    parser.add_argument("--models", type=lambda text: text.split(","), default=["train", "none"])
    parser.add_argument("--vertices", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--fanouts", type=lambda text: [int(one) for one in text.split(",")], default=[10, 10])
    parser.add_argument("--capacity", type=float, default=0.25, help="of the cache, as a share of the rows of other nodes")
    parser.add_argument("--threads", type=int, default=1, help="of torch in the main process")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(
    arguments: argparse.Namespace,
    workers: int,
    has_model: bool,
    graph: common.Graph,
    data: tuple[Data, Data],
    clients: dict[str, rudder.Client],
) -> dict[str, Any]:
    """Run the epochs of all kinds by turns."""
    seeds = torch.from_numpy(graph.train)
    options = {"num_neighbors": arguments.fanouts, "batch_size": arguments.batch, "shuffle": True, "num_workers": workers}
    options |= {"input_nodes": seeds, "persistent_workers": workers > 0}
    whole, bare = data
    kinds: dict[str, Kind] = {}
    for name, more in MEMORY.items():
        if workers > 0 or name == "memory":
            kinds[name] = Kind(torch_geometric.loader.NeighborLoader(whole, **options, **more), None)
    for name, more in RUDDER.items():
        store = rudder.pyg.FeatureStore(clients[name])
        kinds[name] = Kind(rudder.pyg.NeighborLoader((store, bare), **options, **more), clients[name])
    models = {name: GraphSAGE(arguments.width, 128, 2, graph.classes) if has_model else None for name in kinds}
    optimizers = {name: model and torch.optim.Adam(model.parameters(), lr=0.01) for name, model in models.items()}
    for turn in range(1 + arguments.rounds):
        for name, kind in kinds.items():
            torch.manual_seed(turn)
            kind.epoch(models[name], optimizers[name], is_counted=turn > 0)
    bound = statistics.median(kinds["memory"].seconds)
    figures = {name: kind.figures(bound) for name, kind in kinds.items()}
    # Loaders that keep their workers are cycles: workers that are forked later must not find their remains.
    kinds.clear()
    gc.collect()
    return figures


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    print(f"\n{result['workers']} workers, {'a model that trains' if result['model'] == 'train' else 'no model'}")
    print(f"{'kind':<16}{'s/epoch':>9}{'ratio':>8}{'rows':>10}{'waited':>9}{'share':>9}")
    for name, kind in result["kinds"].items():
        share = f"{kind['waited_share']:.2%}"
        print(f"{name:<16}{kind['seconds']:>9.3f}{kind['ratio']:>8.3f}{kind['rows']:>10}{kind['waited']:>9}{share:>9}", flush=True)


if __name__ == "__main__":
    main()
