"""GraphSAGE under DistDGL, data parallel: two layers, fan-out 10 and 25, a METIS partition.

Every trainer runs this script, as DGL's launch tools start it; DistDGL's servers run it, too. `distdgl_here.py` starts all of
them on one machine. `--features framework` takes the features from DistDGL instead: everything else is the same, the losses
too. Lines that the features from Rudder take are marked.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("DGLBACKEND", "pytorch")

import dgl
import torch
import torch.nn.functional as F

import _common
import rudder
import rudder.dgl


class Sage(torch.nn.Module):
    """Two layers of GraphSAGE."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        sizes = [(inputs, hidden), (hidden, classes)]
        self.layers = torch.nn.ModuleList(dgl.nn.SAGEConv(size, to, "mean") for size, to in sizes)

    def forward(self, blocks: list[dgl.DGLGraph], x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.layers[0](blocks[0], x))
        return self.layers[1](blocks[1], x)


class Seeded(dgl.dataloading.NeighborSampler):
    """A sampler that has a seed for each minibatch.

    DGL draws neighbours from the numbers from which its DistTensor draws the server that it asks. Without this, whoever reads
    fewer DistTensors samples other neighbours.
    """

    def __init__(self, fanouts: list[int], seed: int) -> None:
        super().__init__(fanouts)
        self.seed = seed

    def sample_blocks(self, g: object, seed_nodes: object, exclude_eids: object = None) -> object:
        self.seed += 1
        dgl.seed(self.seed)
        return super().sample_blocks(g, seed_nodes, exclude_eids)


def serve_from_rudder(g: dgl.distributed.DistGraph, args: argparse.Namespace) -> rudder.Daemon:
    """Start this node's daemon, or join it, and put its rows in the place of DistDGL's."""
    hosts = [line.split()[0] for line in open(args.ip_config)]
    node = dgl.distributed.rpc.get_machine_id()
    daemon = rudder.launch(f"distdgl:{args.partition}", nodes=hosts, rank=node, certs=args.certs, capacity=args.capacity)
    g.ndata["feat"] = rudder.dgl.DistTensor("feat", client=daemon.connect(ids="dataset"))
    return daemon


def train(g: dgl.distributed.DistGraph, run: _common.Run, args: argparse.Namespace) -> None:
    """Train, and have each epoch measured."""
    torch.manual_seed(args.seed)
    classes = int(g.ndata["label"][torch.arange(g.num_nodes())].max()) + 1
    model = torch.nn.parallel.DistributedDataParallel(Sage(g.ndata["feat"].shape[1], args.hidden, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    nodes = dgl.distributed.node_split(g.ndata["train_mask"], g.get_partition_book(), force_even=True)
    sampler = Seeded([10, 25], 1000 * args.seed)
    loader = dgl.dataloading.DistNodeDataLoader(g, nodes, sampler, batch_size=args.batch, shuffle=True, drop_last=True)
    batches = rudder.dgl.ahead(loader) if args.features == "rudder" else loader  # Rudder
    for _ in range(args.epochs):
        with run.epoch() as losses:
            for input_nodes, seeds, blocks in batches:
                x = g.ndata["feat"][input_nodes]
                y = g.ndata["label"][seeds].long().flatten()
                loss = F.cross_entropy(model(blocks, x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())


def check(run: _common.Run, theirs: dgl.distributed.DistTensor, ours: rudder.dgl.DistTensor, rows: int = 1000) -> None:
    """Hold rows against DistDGL's, bit for bit."""
    ids = torch.randint(0, len(ours), (rows,))
    run.rows_checked += rows
    run.wrong_rows += int((theirs[ids] != ours[ids]).any(dim=1).sum())


def main() -> None:
    """Train; the first trainer prints the figures."""
    unused = ["graph", "vertices", "width", "parts", "workers"]
    parser = _common.parser(__doc__.split("\n\n")[0], without=unused)
    parser.add_argument("--ip-config", required=True, help="DGL's list of hosts")
    parser.add_argument("--partition", required=True, help="GRAPH.json with all features: what Rudder serves")
    parser.add_argument("--certs", help="folder of the certificates of the hosts' daemons")
    parser.add_argument("--capacity", type=float, default=0.25, help="cache: share of the remote rows")
    parser.add_argument("--hidden", type=int, default=64)
    args = parser.parse_args()
    # The servers sample for the trainers of other hosts, so they have a seed, too.
    dgl.seed(args.seed)
    dgl.distributed.initialize(args.ip_config)
    torch.distributed.init_process_group("gloo")
    with open(args.partition) as file:
        g = dgl.distributed.DistGraph(json.load(file)["graph_name"])
    theirs = g.ndata.get("feat")
    daemon = serve_from_rudder(g, args) if args.features == "rudder" else None  # Rudder
    run = _common.Run("distdgl_sage", args, {"feat": ()}, daemon and g.ndata["feat"].client)
    train(g, run, args)
    if daemon is not None and theirs is not None:
        check(run, theirs, g.ndata["feat"])
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        run.report()


if __name__ == "__main__":
    main()
