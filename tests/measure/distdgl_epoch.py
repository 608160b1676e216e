"""Seconds per epoch of a DistDGL trainer on two hosts, by where features come from and by the link between the hosts.

Two layers of GraphSAGE, fan-out 10 and 25, on the Debian package graph with 602 floats per vertex and METIS parts, 21 steps an
epoch. The hosts are namespaces of this machine. All ways run in one job, one after the other in each round, over the same
minibatches; each has a model and daemons of its own. Needs root, a release build, and the Python of an environment that has
DGL (torch 2.2.1, dgl 2.1.0):

    python tests/measure/distdgl_epoch.py --graph DEBIAN_FOLDER [--links unshaped,1gbit] [--ways disttensor,epoch] [--rounds 5]

Prints one line of JSON for each epoch, then a table of medians. The first round, in which caches fill, is in no median.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PYTHON = ROOT / "client" / "python"
_TESTS = _PYTHON / "tests"
sys.path[:0] = [str(path) for path in (_PYTHON, _PYTHON / "examples", _TESTS, _TESTS / "frameworks" / "dgl")]
os.environ.setdefault("DGLBACKEND", "pytorch")
os.environ.setdefault("RUDDER_BIN_DIR", str(ROOT / "target" / "release"))

import distdgl_here  # noqa: E402
from daemons import PORT, HostDaemon  # noqa: E402

#: Ways to get features: the cache's policy (none where no daemon runs), minibatches announced ahead, fetches in flight.
WAYS: dict[str, tuple[str | None, int, int]] = {
    "disttensor": (None, 0, 0),
    "none": ("none", 0, 0),
    "epoch": ("epoch", 0, 0),
    "lookahead": ("epoch", 12, 0),
    "overlap": ("epoch", 12, 1),
    "zeros": (None, 0, 0),
}

#: Links and the rate of each, as `tc` has it.
LINKS = {"unshaped": None, "1gbit": "1gbit", "100mbit": "100mbit"}

#: Floats per vertex, seeds of a minibatch, hidden size, share of the remote rows that the cache holds.
WIDTH, BATCH, HIDDEN, CAPACITY = 602, 500, 64, 0.25


def partition(graph: Path, folder: Path) -> Path:
    """Partition the Debian graph as DistDGL does; answer its JSON file."""
    import _common
    import dgl
    import torch

    source = _common.debian(graph, WIDTH)
    made = dgl.graph((torch.from_numpy(source.edges[0]), torch.from_numpy(source.edges[1])), num_nodes=len(source.labels))
    made.ndata["feat"] = torch.from_numpy(source.features)
    made.ndata["label"] = torch.from_numpy(source.labels)
    made.ndata["train_mask"] = torch.zeros(len(source.labels), dtype=torch.bool)
    made.ndata["train_mask"][torch.from_numpy(source.train)] = True
    dgl.seed(1)
    with contextlib.redirect_stdout(sys.stderr):
        dgl.distributed.partition_graph(made, "debian", 2, str(folder), part_method="metis")
    return folder / "debian.json"


def start_daemons(hosts: distdgl_here.Hosts, folder: Path, graph: Path, certs: Path, ways: list[str]) -> dict[str, list[str]]:
    """Start the daemons of each way; answer their sockets by way and host."""
    sockets: dict[str, list[str]] = {}
    for at, way in enumerate(way for way in ways if WAYS[way][0] is not None):
        settings = {"cache.policy": f'"{WAYS[way][0]}"', "cache.capacity": str(CAPACITY)}
        made = [
            HostDaemon(hosts, host, folder / f"{way}{host}", graph, certs, settings, PORT + at)
            for host in range(len(distdgl_here.ADDRESSES))
        ]
        for daemon in made:
            daemon.start()
        for daemon in made:
            daemon.wait_until_ready()
        sockets[way] = [str(daemon.socket) for daemon in made]
    return sockets


def run_link(link: str, given: argparse.Namespace, graph: Path, certs: Path) -> Iterator[dict[str, object]]:
    """Run all ways over one link; gives what the first trainer measured of each epoch."""
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as name, distdgl_here.Hosts(LINKS[link]) as hosts:
        folder = Path(name)
        sockets = start_daemons(hosts, folder, graph, certs, given.ways)
        job = {"ways": given.ways, "rounds": given.rounds, "sockets": sockets}
        command = [sys.executable, str(Path(__file__).resolve()), "--member", json.dumps(job)]
        with distdgl_here.cluster(hosts, folder, graph, command) as trainers:
            failure = distdgl_here.ended(folder, trainers, given.timeout_s)
        if failure is not None:
            raise RuntimeError(f"{link}: {failure}")
        for line in (folder / "host0" / "out").read_text().splitlines():
            if line.startswith("{"):
                yield {"link": link, **json.loads(line)}


def table(epochs: list[dict[str, object]], ways: list[str]) -> None:
    """Print medians by link and way, in seconds and as DistTensor's multiple, and megabytes over the link."""
    print("\n| link | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    for link in dict.fromkeys(epoch["link"] for epoch in epochs):
        mine = [epoch for epoch in epochs if epoch["link"] == link and epoch["round"] != 0]
        seconds = {way: statistics.median(e["seconds"] for e in mine if e["way"] == way) for way in ways}
        mega = {way: statistics.median(e["mb"] for e in mine if e["way"] == way) for way in ways}
        base = seconds.get("disttensor")
        cells = [f"{seconds[way]:.2f} s{f' ({base / seconds[way]:.2f})' if base else ''}, {mega[way]:.0f} MB" for way in ways]
        print(f"| {link} | " + " | ".join(cells) + " |")
    losses: dict[tuple[object, object], set[float]] = {}
    samples: dict[tuple[object, object], set[int]] = {}
    for epoch in epochs:
        of_round = (epoch["link"], epoch["round"])
        samples.setdefault(of_round, set()).add(epoch["ids"])
        if epoch["way"] != "zeros":
            losses.setdefault(of_round, set()).add(epoch["loss"])
    for what, found in (("minibatches of all ways", samples), ("losses of all ways but zeros", losses)):
        equal = all(len(values) == 1 for values in found.values())
        print(f"\n{what} are {'equal' if equal else 'NOT equal'} in each of {len(found)} rounds")


def main() -> None:
    """Partition, run each link, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--graph", type=Path, required=True, help="folder of the Debian package graph")
    parser.add_argument("--partition", type=Path, help="folder for the partition, which is used again if it is there")
    parser.add_argument("--links", type=lambda text: text.split(","), default=list(LINKS))
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each way over each link, the first included")
    parser.add_argument("--timeout-s", type=float, default=900.0, help="longest run over one link")
    given = parser.parse_args()
    for name, known in [*((link, LINKS) for link in given.links), *((way, WAYS) for way in given.ways)]:
        if name not in known:
            parser.error(f"{name!r} is none of {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as name:
        folder = given.partition or Path(name) / "partition"
        graph = folder / "debian.json"
        if not graph.exists():
            # In a process of its own: this one has no use for DGL.
            subprocess.run([sys.executable, __file__, "--make", str(given.graph), str(folder)], check=True)
        certs = distdgl_here.certificates(Path(name) / "certs")
        epochs = []
        for link in given.links:
            for epoch in run_link(link, given, graph, certs):
                print(json.dumps(epoch), flush=True)
                epochs.append(epoch)
        table(epochs, given.ways)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        import distdgl_trainer

        distdgl_trainer.main(json.loads(sys.argv[2]))
    elif sys.argv[1:2] == ["--make"]:
        partition(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
