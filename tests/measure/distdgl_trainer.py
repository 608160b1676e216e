"""What `distdgl_epoch.py` runs on its hosts: DistDGL's servers, and trainers that take features in several ways in turn.

The servers get a request by which their random numbers begin again, so that all ways sample the same minibatches.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dgl
import torch
import torch.nn.functional as F
from dgl.distributed import rpc
from distdgl_epoch import BATCH, HIDDEN, WAYS
from distdgl_sage import Sage, Seeded

import rudder
import rudder.dgl

#: Number of the request among DGL's.
SEED_SERVICE = 990_001


class SeedResponse(rpc.Response):
    """The server has begun again."""

    def __getstate__(self) -> int:
        return 0

    def __setstate__(self, state: int) -> None:
        pass


class SeedRequest(rpc.Request):
    """Have a server's random numbers begin again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getstate__(self) -> int:
        return self.seed

    def __setstate__(self, state: int) -> None:
        self.seed = state

    def process_request(self, server_state: Any) -> SeedResponse:
        dgl.seed(self.seed)
        return SeedResponse()


def seed_all(seed: int) -> None:
    """Have the random numbers of all trainers and servers begin again; all trainers call it."""
    rank = torch.distributed.get_rank()
    torch.manual_seed(seed * 100 + rank)
    dgl.seed(seed * 100 + rank)
    torch.distributed.barrier()
    if rank == 0:
        servers = rpc.get_num_server()
        for server in range(servers):
            rpc.send_request(server, SeedRequest(seed))
        for _ in range(servers):
            rpc.recv_response()
    torch.distributed.barrier()


def link_bytes() -> int:
    """Bytes that crossed the link, in both directions."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("eth0:"))
    fields = line.split(":")[1].split()
    return int(fields[0]) + int(fields[8])


class Way:
    """One way to get features, with a model of its own."""

    def __init__(self, name: str, socket: str | None, g: Any, loader: Any, classes: int) -> None:
        theirs = g.ndata["feat"]
        width = theirs.shape[1]
        torch.manual_seed(1)
        self.model = torch.nn.parallel.DistributedDataParallel(Sage(width, HIDDEN, classes))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.003)
        self.name = name
        self.batches: Iterable[Any] = loader
        self.features: Any = theirs
        if name == "zeros":
            zeros = torch.zeros(1, width)
            self.features = type("Zeros", (), {"__getitem__": lambda self, ids: zeros.expand(len(ids), -1).contiguous()})()
        elif socket is not None:
            _, horizon, overlap = WAYS[name]
            self.features = rudder.dgl.DistTensor("feat", client=rudder.connect(socket, ids="dataset"))
            self.batches = rudder.dgl.ahead(loader, self.features, horizon=horizon, overlap=overlap)

    def epoch(self, labels: Any) -> tuple[float, float, int]:
        """Train for an epoch; its seconds until all trainers have ended it, its loss, and the sum of the ids that it read."""
        total, steps, ids, begin = 0.0, 0, 0, time.perf_counter()
        for input_nodes, seeds, blocks in self.batches:
            x = self.features[input_nodes]
            y = labels[seeds].long().flatten()
            loss = F.cross_entropy(self.model(blocks, x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total, steps, ids = total + loss.item(), steps + 1, ids + int(input_nodes.sum())
        torch.distributed.barrier()
        return time.perf_counter() - begin, total / steps, ids


def main(job: dict[str, Any]) -> None:
    """Be a server, or train in each way, round by round."""
    rpc.register_service(SEED_SERVICE, SeedRequest, SeedResponse)
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    with open(os.environ["DGL_CONF_PATH"]) as file:
        g = dgl.distributed.DistGraph(json.load(file)["graph_name"])
    labels = g.ndata["label"]
    classes = int(labels[torch.arange(g.num_nodes())].max()) + 1
    nodes = dgl.distributed.node_split(g.ndata["train_mask"], g.get_partition_book(), force_even=True)
    sampler = Seeded([10, 25], 0)
    loader = dgl.dataloading.DistNodeDataLoader(g, nodes, sampler, batch_size=BATCH, shuffle=True, drop_last=True)
    sockets = job["sockets"]
    ways = [Way(name, sockets.get(name, [None, None])[rank], g, loader, classes) for name in job["ways"]]
    for number in range(job["rounds"]):
        # Each round begins with another way, so that no way always follows the same one.
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            # The order of the seeds of an epoch is shuffled from the one before.
            loader.data_idx = torch.arange(len(nodes))
            sampler.seed = 1000 * number
            seed_all(number + 1)
            before = link_bytes()
            seconds, loss, ids = way.epoch(labels)
            if rank == 0:
                mega = (link_bytes() - before) / 1e6
                said = {"way": way.name, "round": number, "seconds": seconds, "loss": loss, "ids": ids, "mb": mega}
                print(json.dumps(said), flush=True)
    torch.distributed.barrier()
