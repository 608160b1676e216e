"""What `distdgl_in_place.py` has done by DGL itself, in an environment that has it.

It makes partitions, and reads every row of every DistTensor of a partition through a real DistDGL cluster.

    python distdgl_cluster.py make KIND FOLDER [--parts N] [--rows N] [--width N]
    python distdgl_cluster.py read GRAPH.json ROWS.npz
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["DGLBACKEND"] = "pytorch"

import dgl
import numpy as np
import torch

#: Ports of the servers of a DistDGL cluster.
FIRST_PORT = 31_050

#: Longest time that a DistDGL cluster may take, in seconds.
CLUSTER_TIMEOUT_S = 60


def one_type(rows: int, edge_features: bool) -> dgl.DGLGraph:
    """A graph of one vertex type with every element type that DistDGL serves (it fails at `bfloat16`)."""
    edges = 4 * rows
    graph = dgl.graph((torch.randint(0, rows, (edges,)), torch.randint(0, rows, (edges,))), num_nodes=rows)
    graph.ndata["feat"] = torch.randn(rows, 5)
    graph.ndata["labels"] = torch.randint(0, 4, (rows,))
    graph.ndata["train_mask"] = torch.rand(rows) < 0.5
    graph.ndata["half"] = torch.randn(rows, 3).half()
    graph.ndata["double"] = torch.randn(rows, 2).double()
    graph.ndata["int"] = torch.randint(-(2**31), 2**31, (rows,)).int()
    graph.ndata["short"] = torch.randint(-(2**15), 2**15, (rows, 2)).short()
    graph.ndata["char"] = torch.randint(-128, 128, (rows,)).char()
    graph.ndata["cube"] = torch.randn(rows, 2, 3)
    if edge_features:
        graph.edata["weight"] = torch.randn(edges, 2)
        graph.edata["time"] = torch.randint(0, 2**40, (edges,))
    return graph


def several_types(rows: int) -> dgl.DGLGraph:
    """A graph of two vertex types and three edge types."""
    authors, edges = rows // 2 + 1, 3 * rows
    a, p = (lambda: torch.randint(0, authors, (edges,))), (lambda: torch.randint(0, rows, (edges,)))
    graph = dgl.heterograph(
        {
            ("author", "writes", "paper"): (a(), p()),
            ("paper", "cites", "paper"): (p(), p()),
            ("paper", "rev_writes", "author"): (p(), a()),
        },
        num_nodes_dict={"author": authors, "paper": rows},
    )
    graph.nodes["paper"].data["feat"] = torch.randn(rows, 7).half()
    graph.nodes["paper"].data["year"] = torch.randint(1990, 2020, (rows,))
    graph.nodes["author"].data["feat"] = torch.randn(authors, 3)
    graph.edges["writes"].data["weight"] = torch.randn(edges)
    graph.edges["cites"].data["weight"] = torch.randn(edges, 2)
    return graph


def large(rows: int, width: int) -> dgl.DGLGraph:
    """A graph of one vertex type with nothing but wide features."""
    graph = dgl.graph((torch.arange(rows), (torch.arange(rows) + 1) % rows), num_nodes=rows)
    graph.ndata["feat"] = torch.randn(rows, width)
    graph.ndata["labels"] = torch.randint(0, 40, (rows,))
    return graph


def make(kind: str, folder: Path, parts: int, rows: int, width: int) -> None:
    """Partition a graph of one kind; the name of the graph is the kind's."""
    torch.manual_seed(7)
    dgl.seed(7)
    graph = {
        "one": lambda: one_type(rows, edge_features=False),
        "edges": lambda: one_type(rows, edge_features=True),
        "types": lambda: several_types(rows),
        "large": lambda: large(rows, width),
    }[kind]()
    method = "random" if kind == "large" else "metis"
    dgl.distributed.partition_graph(graph, kind, parts, str(folder), part_method=method)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of each row."""
    rows = len(tensor)
    return tensor.contiguous().reshape(rows, -1).view(torch.uint8).numpy() if rows else np.zeros((0, 0), np.uint8)


def member(graph_json: Path, addresses: Path, rows_file: Path) -> None:
    """Be a server, or the client that reads; the environment says which."""
    dgl.distributed.initialize(str(addresses))
    graph = dgl.distributed.DistGraph(json.loads(graph_json.read_text())["graph_name"])
    arrays = {}
    for kind in graph.ntypes:
        for name, tensor in dict(graph.nodes[kind].data).items():
            arrays[f"{kind}/{name}"] = as_array(tensor[torch.arange(graph.num_nodes(kind))])
    for kind in graph.canonical_etypes:
        for name, tensor in dict(graph.edges[kind].data).items():
            arrays[f"{':'.join(kind)}/{name}"] = as_array(tensor[torch.arange(graph.num_edges(kind))])
    np.savez(rows_file, **arrays)


def read(graph_json: Path, rows_file: Path) -> None:
    """Start a server for each part, each with a /dev/shm of its own but the first, and a client that reads all rows."""
    parts = json.loads(graph_json.read_text())["num_parts"]
    with tempfile.TemporaryDirectory() as folder:
        addresses = Path(folder) / "addresses"
        addresses.write_text("".join(f"127.0.0.{part + 1} {FIRST_PORT + part}\n" for part in range(parts)))
        environment = {
            **os.environ,
            "DGL_IP_CONFIG": str(addresses),
            "DGL_CONF_PATH": str(graph_json),
            "DGL_NUM_SERVER": "1",
            "DGL_NUM_CLIENT": "1",
            "DGL_NUM_SAMPLER": "0",
            "DGL_DIST_MODE": "distributed",
            "DGL_GRAPH_FORMAT": "csc",
            "DGL_KEEP_ALIVE": "0",
            "OMP_NUM_THREADS": "1",
        }
        me = [sys.executable, __file__, "member", str(graph_json), str(addresses), str(rows_file)]
        apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
        processes = []
        try:
            for part in range(parts):
                role = {"DGL_ROLE": "server", "DGL_SERVER_ID": str(part)}
                command = me if part == 0 else [*apart, *me]
                processes.append(subprocess.Popen(command, env={**environment, **role}, stdout=subprocess.DEVNULL))
            client = {**environment, "DGL_ROLE": "client"}
            subprocess.run(me, env=client, stdout=subprocess.DEVNULL, timeout=CLUSTER_TIMEOUT_S, check=True)
            for process in processes:
                process.wait(CLUSTER_TIMEOUT_S)
        finally:
            for process in processes:
                process.kill()


def main() -> None:
    """Read the arguments and do as they say."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("kind", choices=["one", "edges", "types", "large"])
    maker.add_argument("folder", type=Path)
    maker.add_argument("--parts", type=int, default=2)
    maker.add_argument("--rows", type=int, default=2_000)
    maker.add_argument("--width", type=int, default=256)
    reader = commands.add_parser("read")
    reader.add_argument("graph", type=Path)
    reader.add_argument("rows", type=Path)
    one = commands.add_parser("member")
    for name in ("graph", "addresses", "rows"):
        one.add_argument(name, type=Path)
    given = parser.parse_args()
    if given.command == "make":
        make(given.kind, given.folder, given.parts, given.rows, given.width)
    elif given.command == "read":
        read(given.graph, given.rows)
    else:
        member(given.graph, given.addresses, given.rows)


if __name__ == "__main__":
    main()
