"""What runs on both hosts in the tests: a server of DistDGL, or a trainer that makes one check after the other.

    python job.py GRAPH.json SOCKET0,SOCKET1 FOLDER CHECKS

The trainer of host N writes what became of each check to FOLDER/checkN.json. A check that fails does not keep the next from
running, so what all trainers do together (barriers, gradients) stands outside of what may fail.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import dgl
import numpy as np
import torch

import rudder
import rudder.dgl

#: Longest wait for what the test itself does, in seconds.
HANDSHAKE_TIMEOUT_S = 120.0


class World:
    """What a check works with.

    Attributes
    ----------
    g : dgl.distributed.DistGraph
        The graph.
    theirs : dict of str to DistTensor
        DGL's own tensors, by name of table.
    client : rudder.Client
        Of the host's daemon.
    """

    def __init__(self, graph: Path, socket: str, folder: Path) -> None:
        self.g = dgl.distributed.DistGraph(json.loads(graph.read_text())["graph_name"])
        self.rank = torch.distributed.get_rank()
        self.folder = folder
        self.client = rudder.connect(socket, ids="dataset")
        self.theirs: dict[str, Any] = {}
        self.stores: dict[str, tuple[Any, str]] = {}
        one = len(self.g.ntypes) == 1
        for kind in self.g.ntypes:
            self._note(self.g.nodes[kind].data, "" if one else f"{kind}.")
        for kind in self.g.canonical_etypes:
            self._note(self.g.edges[kind].data, f"{':'.join(kind)}.")

    def _note(self, data: Any, prefix: str) -> None:
        for name, tensor in data.items():
            self.theirs[prefix + name] = tensor
            self.stores[prefix + name] = (data, name)

    def ours(self, table: str) -> rudder.dgl.DistTensor:
        """A tensor of Rudder."""
        return rudder.dgl.DistTensor(table, client=self.client)

    def put(self, table: str) -> rudder.dgl.DistTensor:
        """A tensor of Rudder in the place of DGL's."""
        data, name = self.stores[table]
        data[name] = self.ours(table)
        return data[name]

    def nodes(self, kind: str | None = None) -> torch.Tensor:
        """The vertices of this trainer: an odd number, so that the last minibatch is short."""
        kind = kind or self.g.ntypes[0]
        return dgl.distributed.node_split(
            torch.ones(self.g.num_nodes(kind), dtype=torch.bool), self.g.get_partition_book(), ntype=kind, force_even=True
        )[:499]


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Hold rows against DGL's, bit for bit."""
    assert found.dtype == expected.dtype, (found.dtype, expected.dtype)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert found.contiguous().view(-1).numpy().tobytes() == expected.contiguous().view(-1).numpy().tobytes()


def raises(kind: type[BaseException], call: Any) -> str:
    """The message of an error that must come."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def loader_of(world: World, **options: Any) -> Any:
    """A loader over the vertices of this trainer."""
    sampler = dgl.dataloading.NeighborSampler([3, 4])
    return dgl.dataloading.DistNodeDataLoader(world.g, world.nodes(), sampler, batch_size=50, shuffle=True, **options)


#: As it is.
FETCH = rudder.Client.fetch


def counted() -> list[str]:
    """The tables of the fetches that are made from now on, other than ahead; until the check ends."""
    made: list[str] = []

    def fetch(self: rudder.Client, table: Any, *asked: Any, **options: Any) -> Any:
        made.append(table)
        return FETCH(self, table, *asked, **options)

    rudder.Client.fetch = fetch  # type: ignore[method-assign, assignment]
    return made


def rows_of_every_field(world: World) -> None:
    """Every field, of vertices and of edges."""
    assert set(world.theirs) == set(world.client.tables())
    for table, theirs in world.theirs.items():
        ids = torch.randint(0, len(theirs), (777,))
        same(world.ours(table)[ids], theirs[ids])


def what_a_tensor_says_of_itself(world: World) -> None:
    """Shape, type, policy and keys are those of DGL's own tensor."""
    for table, theirs in world.theirs.items():
        ours = world.ours(table)
        assert isinstance(ours, dgl.distributed.DistTensor)
        assert tuple(ours.shape) == tuple(theirs.shape), (table, ours.shape, theirs.shape)
        assert (ours.dtype, len(ours), ours.name) == (theirs.dtype, len(theirs), theirs.name), table
        assert (ours.kvstore_key, ours.tensor_name) == (theirs.kvstore_key, theirs.tensor_name), table
        assert ours.part_policy.policy_str == theirs.part_policy.policy_str, table


def looking_at_a_store_fetches_nothing(world: World) -> None:
    """GraphStorm looks at all items of a store for every minibatch."""
    made = counted()
    for table in world.theirs:
        world.put(table)
    for kind in world.g.ntypes:
        assert "DistTensor" in repr(world.g.nodes[kind].data)
        assert len(dict(world.g.nodes[kind].data.items())) == len(world.g.nodes[kind].data)
    assert not made, made


def names_that_are_not_there(world: World) -> None:
    """The nearest is named."""
    table = next(table for table in world.theirs if "feat" in table)
    message = raises(rudder.UnknownTableError, lambda: world.ours(table + "s"))
    assert f"did you mean `{table}`" in message, message


def another_graph(world: World) -> None:
    """A daemon that serves another partition is found out before a row is read."""
    table = next(iter(world.theirs))

    class Other:
        """A client of a daemon with one row more."""

        def tables(self) -> Any:
            """One row more."""
            info = world.client.tables()[table]
            return {table: replace(info, rows=info.rows + 1)}

    message = raises(ValueError, lambda: rudder.dgl.DistTensor(table, client=Other()))
    assert "another partition" in message, message


def ids_that_make_no_sense(world: World) -> None:
    """Each is an error of its kind, and the tensor can be used again."""
    table = next(table for table in world.theirs if table.endswith("feat"))
    ours, theirs = world.ours(table), world.theirs[table]
    raises(IndexError, lambda: ours[torch.tensor([0, len(theirs)])])
    raises(ValueError, lambda: ours[torch.tensor([-1])])
    raises((TypeError, ValueError), lambda: ours[torch.tensor([0.5])])
    raises(ValueError, lambda: ours[torch.zeros(2, 2, dtype=torch.int64)])
    raises(ValueError, lambda: ours[torch.ones(3, dtype=torch.bool)])
    same(ours[torch.tensor([1])], theirs[torch.tensor([1])])


def ways_to_ask(world: World) -> None:
    """Whatever DGL takes as ids, and masks."""
    table = next(table for table in world.theirs if table.endswith("feat"))
    ours, theirs = world.ours(table), world.theirs[table]
    mask = torch.zeros(len(theirs), dtype=torch.bool)
    mask[::7] = True
    every = torch.arange(len(theirs))
    asked: list[tuple[Any, torch.Tensor]] = [
        ([3, 1, 3], torch.tensor([3, 1, 3])),
        (7, torch.tensor([7])),
        (slice(5, 50), every[5:50]),
        (slice(None), every),
        (np.array([2, 9]), torch.tensor([2, 9])),
        (torch.tensor([2, 9], dtype=torch.int32), torch.tensor([2, 9])),
        (every[::3], every[::3]),
        (mask, mask.nonzero().flatten()),
    ]
    for idx, ids in asked:
        same(ours[idx], theirs[ids])
    assert ours[[]].shape[0] == 0


def a_loop_that_reads_ahead(world: World) -> None:
    """The rows of a minibatch are there when the loop reads them, and they are right."""
    table = next(table for table in world.theirs if table.endswith("feat") and table.count(":") == 0)
    ours = world.put(table)
    made = counted()
    batches = rudder.dgl.ahead(loader_of(world), ours, horizon=4)
    for _ in range(2):
        steps = 0
        for input_nodes, seeds, blocks in batches:
            assert blocks[-1].num_dst_nodes() == len(seeds)
            same(ours[input_nodes], world.theirs[table][input_nodes])
            steps += 1
        assert steps == len(batches) == 10
    assert not made, made
    # Read once more, and other ids: fetched by an ordinary call.
    same(ours[input_nodes], world.theirs[table][input_nodes])
    assert made == [table]


def an_epoch_that_is_broken_off(world: World) -> None:
    """The next epoch has every seed once, and rows of the first are not handed out in it."""
    table = next(table for table in world.theirs if table.endswith("feat") and table.count(":") == 0)
    ours = world.put(table)
    batches = rudder.dgl.ahead(loader_of(world), ours, horizon=3)
    for number, (input_nodes, _, _) in enumerate(batches):
        if number == 2:
            break
    seen = []
    for input_nodes, seeds, _ in batches:
        same(ours[input_nodes], world.theirs[table][input_nodes])
        seen.append(seeds)
    assert torch.equal(torch.cat(seen).sort().values, world.nodes().sort().values)
    assert not ours._offers


def an_evaluation_between_epochs(world: World) -> None:
    """It counts no epoch."""
    table = next(table for table in world.theirs if table.endswith("feat") and table.count(":") == 0)
    ours = world.put(table)
    before = world.client._course.epoch
    for progress in (True, False, True):
        for input_nodes, _, _ in rudder.dgl.ahead(loader_of(world), ours, progress=progress):
            same(ours[input_nodes], world.theirs[table][input_nodes])
    assert world.client._course.epoch == before + 2


def edges_by_blocks(world: World) -> None:
    """Features of vertices and of the edges of each block, in one fetch ahead."""
    tables = ["feat", "_N:_E:_N.weight", "_N:_E:_N.time"]
    ours = {table: world.put(table) for table in tables}
    made = counted()
    edges = torch.arange(world.rank * 1000, world.rank * 1000 + 300)
    sampler = dgl.dataloading.NeighborSampler([3, 4])
    loader = dgl.dataloading.DistEdgeDataLoader(world.g, edges, sampler, batch_size=100)
    for input_nodes, _, blocks in rudder.dgl.ahead(loader, *ours.values()):
        same(world.g.ndata["feat"][input_nodes], world.theirs["feat"][input_nodes])
        for block in blocks:
            ids = block.edata[dgl.EID]
            for table in tables[1:]:
                same(ours[table][ids], world.theirs[table][ids])
    assert not made, made


def minibatches_of_another_form(world: World) -> None:
    """`wants` says what they read; without it, the error says so."""
    ours = world.put("feat")
    loader = dgl.distributed.DistDataLoader(world.nodes(), batch_size=100, collate_fn=torch.tensor)
    assert "wants=" in raises(TypeError, lambda: list(rudder.dgl.ahead(loader, ours)))
    made = counted()
    for ids in rudder.dgl.ahead(loader, ours, wants=lambda ids: {"feat": ids}):
        same(ours[ids], world.theirs["feat"][ids])
    assert not made


def rows_that_are_written(world: World) -> None:
    """Each trainer reads what it wrote, also in an epoch in which the rows were on their way before."""
    ours = world.put("double")
    ids = torch.arange(world.rank, 200, 2)
    rows = torch.randn(len(ids), 2, dtype=torch.float64)
    ours[ids] = rows
    same(ours[ids], rows)
    wrong = raises((TypeError, ValueError), lambda: ours.__setitem__(ids, rows.float()))
    assert "float" in wrong, wrong
    loader = dgl.distributed.DistDataLoader(ids, batch_size=10, collate_fn=torch.tensor)
    for number, some in enumerate(rudder.dgl.ahead(loader, ours, wants=lambda ids: {"double": ids})):
        if number == 3:
            rows = torch.randn(len(ids), 2, dtype=torch.float64)
            ours[ids] = rows
        same(ours[some], rows[(some - world.rank) // 2])


def a_daemon_that_restarts(world: World) -> None:
    """In the middle of an epoch; the loop does not notice."""
    ours = world.put("feat")
    for number, (input_nodes, _, _) in enumerate(rudder.dgl.ahead(loader_of(world), ours, horizon=3)):
        if number == 4 and world.rank == 0:
            (world.folder / "restart").touch()
            deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
            while not (world.folder / "restarted").exists():
                assert time.monotonic() < deadline, "the test did not restart the daemon"
                time.sleep(0.05)
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        while True:
            try:
                same(ours[input_nodes], world.theirs["feat"][input_nodes])
                break
            except rudder.PeerUnavailableError:
                # The other host's daemon is not met again yet.
                assert time.monotonic() < deadline
    assert number == 9


def typed_minibatches(world: World) -> None:
    """A graph of several types: the input nodes come by type."""
    tables = ["author.feat", "paper.feat"]
    ours = {table: world.put(table) for table in tables}
    made = counted()
    nodes = {"paper": world.nodes("paper")}
    sampler = dgl.dataloading.NeighborSampler([3, 4])
    loader = dgl.dataloading.DistNodeDataLoader(world.g, nodes, sampler, batch_size=50, shuffle=True)
    steps = 0
    for input_nodes, _, _ in rudder.dgl.ahead(loader, *ours.values()):
        for table in tables:
            ids = input_nodes[table.split(".")[0]]
            same(ours[table][ids], world.theirs[table][ids])
        steps += 1
    assert steps == 10 and not made, (steps, made)


class InSampler:
    """Reads a tensor where minibatches are sampled."""

    def __init__(self, g: Any) -> None:
        self.g = g

    def __call__(self, seeds: list[int]) -> tuple[int, str, torch.Tensor, torch.Tensor]:
        """The process, the kind of tensor, ids and rows."""
        tensor, ids = self.g.nodes["paper"].data["feat"], torch.tensor(seeds)
        return os.getpid(), type(tensor).__module__, ids, tensor[ids]


def tensors_in_sampler_processes(world: World) -> None:
    """A graph that is sent to them takes its tensors of Rudder along."""
    world.put("paper.feat")
    loader = dgl.distributed.DistDataLoader(world.nodes("paper"), batch_size=100, collate_fn=InSampler(world.g))
    for process, module, ids, rows in loader:
        assert process != os.getpid()
        assert module.startswith("rudder.dgl"), module
        same(rows, world.theirs["paper.feat"][ids])


def trained_rows(world: World) -> Any:
    """Rows trained by DGL's own optimizer in Rudder and in DGL's servers; what is done together comes first."""
    theirs = world.theirs["feat"]
    policy = theirs.part_policy
    own = rudder.dgl.DistEmbedding("feat", client=world.client)
    other = dgl.distributed.DistEmbedding(len(theirs), theirs.shape[1], name="other", part_policy=policy)
    if world.rank == 0:
        every = torch.arange(len(theirs))
        other.weight[every] = theirs[every]
    torch.distributed.barrier()
    optimizers = [dgl.distributed.optim.SparseAdagrad([embedding], lr=0.1) for embedding in (own, other)]
    ids = torch.arange(0, len(theirs), 5)
    for step in range(4):
        for embedding, optimizer in zip((own, other), optimizers):
            optimizer.zero_grad()
            rows = embedding(ids + world.rank)
            (rows * torch.arange(1 + step, len(ids) + 1 + step).unsqueeze(1)).pow(2).sum().backward()
            optimizer.step()
    torch.distributed.barrier()
    trained = [embedding(ids).detach() for embedding in (own, other)]

    def compare() -> None:
        assert not torch.equal(trained[0], theirs[ids])
        same(*trained)

    return compare


#: Checks whose collective part comes before what may fail.
TOGETHER = {trained_rows}


def main() -> None:
    """Be a server, or make the checks that were asked for."""
    graph, sockets, folder, names = Path(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3]), sys.argv[4].split(",")
    dgl.distributed.initialize(os.environ["DGL_IP_CONFIG"])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    world = World(graph, sockets[rank], folder)
    became: dict[str, str] = {}
    for name in names:
        check = globals()[name]
        torch.distributed.barrier()
        checked = check(world) if check in TOGETHER else None
        try:
            checked() if checked is not None else check(world)
            became[name] = "ok"
        except Exception:
            became[name] = traceback.format_exc()
        rudder.Client.fetch = FETCH  # type: ignore[method-assign]
        for table, (data, field) in world.stores.items():
            data[field] = world.theirs[table]
    (folder / f"check{rank}.json").write_text(json.dumps(became))
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
