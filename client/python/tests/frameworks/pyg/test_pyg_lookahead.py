"""What the loaders of rudder.pyg tell the daemon ahead, and how they end: early, twice at once, in errors, on a restart."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch_geometric.loader as pyg
from cluster import Daemon, accounted
from conftest import ready
from pyg_world import CITES, check, without_features
from torch_geometric.data import Data, HeteroData
from torch_geometric.sampler import NeighborSampler

import rudder
from rudder._prefetcher import Prefetcher
from rudder.pyg import FeatureStore, GraphStore, LinkNeighborLoader, NeighborLoader
from rudder.pyg._loader import _is_ready

SEEDS = torch.arange(1_200)


def options(**more: Any) -> dict[str, Any]:
    return {"num_neighbors": [5, 3], "input_nodes": SEEDS, "batch_size": 100, **more}


class Told:
    """The progress that this process reports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epochs: list[tuple[int, int, int]] = []
        progress = rudder.Client.progress

        def note(client: rudder.Client, epoch: int, step: int, steps_per_epoch: int) -> None:
            self.epochs.append((epoch, step, steps_per_epoch))
            progress(client, epoch, step, steps_per_epoch)

        monkeypatch.setattr(rudder.Client, "progress", note)


@pytest.fixture()
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def lookahead(client: rudder.Client, table: str, batches: int) -> dict[str, Any]:
    """What the daemon counted of a table's announcements, once that many have come."""
    state = accounted(client, table, lambda state: state["lookahead"]["announced_batches"] >= batches)
    return {**state["lookahead"], "fetched": state["fetched"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_is_announced_and_used(own_served: list[Daemon], data: Data, workers: int) -> None:
    client = own_served[0].connect()
    store = FeatureStore(client)
    loader = NeighborLoader((store, without_features(data)), **options(num_workers=workers), horizon=4)
    for _ in range(3):
        assert sum(1 for _ in loader) == 12
    for table in ("x", store.edge_attrs(None)["w"]):
        counts = lookahead(client, table, 36 if workers == 0 else 1)
        # A minibatch that comes from a worker when the trainer waits for it is fetched at once.
        assert counts["announced_batches"] == 36 if workers == 0 else 0 < counts["announced_batches"] <= 36
        assert counts["used_batches"] == counts["announced_batches"]
        assert counts["expired_batches"] == 0
        assert counts["fetched"]["staged"] > 0


class Slow(NeighborSampler):
    """Samples more slowly than its minibatches are used."""

    def sample_from_nodes(self, inputs: Any) -> Any:
        time.sleep(0.02)
        return super().sample_from_nodes(inputs)


@pytest.mark.parametrize(("batch_size", "lead"), [(25, 2), (100, 0)])
def test_slow_workers_keep_a_lead_in_long_epochs(
    store: FeatureStore, data: Data, monkeypatch: pytest.MonkeyPatch, batch_size: int, lead: int
) -> None:
    """Rows that are announced and fetched in the same moment are waited for."""
    waiting: list[int] = []
    pop = Prefetcher.pop
    monkeypatch.setattr(Prefetcher, "pop", lambda ahead: waiting.append(len(ahead)) or pop(ahead))
    bare = without_features(data)
    more = {"num_workers": 1, "neighbor_sampler": Slow(bare, [5, 3]), "horizon": 4, "batch_size": batch_size}
    for _ in NeighborLoader((store, bare), **{**options(), **more}):
        pass
    assert len(waiting) == 1_200 // batch_size
    # At the end of the epoch nothing follows.
    assert min(waiting[:-2]) == 1 + lead


def test_fast_workers_are_taken_from_as_far_as_the_horizon(
    store: FeatureStore, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    pop = Prefetcher.pop
    monkeypatch.setattr(Prefetcher, "pop", lambda ahead: waiting.append(len(ahead)) or pop(ahead))
    batches = iter(NeighborLoader((store, without_features(data)), **options(num_workers=2), horizon=3))
    deadline = time.monotonic() + 120
    for _ in range(8):
        next(batches)
        while not _is_ready(batches.iterator) and time.monotonic() < deadline:
            time.sleep(0.001)
    assert max(waiting) > 2
    # The one that is given out, the one that is fetched meanwhile, and those that are announced.
    assert max(waiting) <= 1 + 1 + 3


def test_edges_and_every_type_are_announced(served_hetero: list[Daemon], hetero: HeteroData) -> None:
    client = served_hetero[0].connect()
    tables = ("paper.x", "author.x", "paper:cites:paper.w")
    before = {table: lookahead(client, table, 0)["announced_batches"] for table in tables}
    loader = LinkNeighborLoader(
        (FeatureStore(client), GraphStore(without_features(hetero))),
        [4, 2],
        (CITES, hetero[CITES].edge_index[:, :600]),
        batch_size=100,
        horizon=2,
    )
    assert sum(1 for _ in loader) == 6
    for table in tables:
        assert lookahead(client, table, before[table] + 6)["announced_batches"] == before[table] + 6


@pytest.mark.parametrize("how", [{}, {"num_workers": 1, "persistent_workers": True}, {"num_workers": 1, "filter_per_worker": True}])
def test_epochs_are_counted_and_evaluations_are_not(store: FeatureStore, data: Data, told: Told, how: dict[str, Any]) -> None:
    bare = without_features(data)
    train = NeighborLoader((store, bare), **options(**how))
    quiet = FeatureStore(store.client, progress=False)
    evaluations = [NeighborLoader((quiet, bare), **options()), NeighborLoader((store, bare), **options(**how), progress=False)]
    for epoch in range(2):
        told.epochs.clear()
        for _ in train:
            pass
        assert told.epochs == [(epoch, step, 12) for step in range(12)]
        for loader in evaluations:
            assert sum(1 for _ in loader) == 12
        assert len(told.epochs) == 12


def test_an_evaluation_announces_nothing(own_served: list[Daemon], data: Data) -> None:
    client = own_served[0].connect()
    for _ in NeighborLoader((FeatureStore(client), without_features(data)), **options(), progress=False):
        pass
    assert lookahead(client, "x", 0)["announced_batches"] == 0


def test_an_evaluation_teaches_the_cache_nothing(store: FeatureStore, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[bool] = []
    learns = rudder.Client._learns
    monkeypatch.setattr(rudder.Client, "_learns", lambda client: learned.append(learns(client)) or learned[-1])
    bare, quiet = without_features(data), FeatureStore(store.client, progress=False)
    for teaches, loader in (
        (True, NeighborLoader((store, bare), **options())),
        (False, NeighborLoader((store, bare), **options(), progress=False)),
        (False, NeighborLoader((quiet, bare), **options())),
        (False, NeighborLoader((quiet, bare), **options(filter_per_worker=True))),
        (False, pyg.NeighborLoader((quiet, GraphStore(bare)), **options())),
    ):
        learned.clear()
        for _ in loader:
            pass
        assert len(learned) >= 12
        assert set(learned) == {teaches}


@pytest.mark.parametrize("how", [{}, {"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}])
def test_an_epoch_may_be_broken_off(store: FeatureStore, data: Data, told: Told, how: dict[str, Any]) -> None:
    loader = NeighborLoader((store, without_features(data)), **options(shuffle=True, **how))
    for steps in (1, 5, 12):
        told.epochs.clear()
        seeds: list[int] = []
        for step, batch in enumerate(loader):
            assert torch.equal(batch.x, data.x[batch.n_id])
            assert torch.equal(batch.w, data.w[batch.e_id])
            seeds += batch.input_id.tolist()
            if step + 1 == steps < 12:
                break
        assert [step for _, step, _ in told.epochs] == list(range(steps))
    # Nothing is left of the epochs that were broken off.
    assert sorted(seeds) == SEEDS.tolist()
    assert told.epochs[0][0] == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_may_be_iterated_twice_at_once(store: FeatureStore, data: Data, workers: int) -> None:
    expected = pyg.NeighborLoader(data, **options(num_workers=workers))
    loader = NeighborLoader((store, without_features(data)), **options(num_workers=workers))
    seen = 0
    for one, two in zip(loader, loader):
        for batch in (one, two):
            assert torch.equal(batch.x, data.x[batch.n_id])
            assert torch.equal(batch.w, data.w[batch.e_id])
        assert torch.equal(one.input_id, two.input_id)
        seen += 1
    assert seen == len(expected)


def test_workers_that_are_forked_in_mid_fetch_fetch_their_own(store: FeatureStore, data: Data) -> None:
    bare = without_features(data)
    batches = iter(NeighborLoader((store, bare), **options()))
    # From here on the rows of the next minibatch are on their way to this process.
    next(batches)
    workers = NeighborLoader((store, bare), **options(num_workers=2, filter_per_worker=True))
    seen = 0
    for one, two in zip(batches, workers):
        for batch in (one, two):
            assert torch.equal(batch.x, data.x[batch.n_id])
            assert torch.equal(batch.w, data.w[batch.e_id])
        seen += 1
    assert seen == 11


class Failing(NeighborSampler):
    """Fails for one of the minibatches."""

    def sample_from_nodes(self, inputs: Any) -> Any:
        if int(inputs.input_id[0]) == 500:
            raise ArithmeticError("this minibatch cannot be sampled")
        return super().sample_from_nodes(inputs)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_sampler_comes_in_its_place(store: FeatureStore, data: Data, workers: int) -> None:
    bare = without_features(data)
    sampler = Failing(bare, [5, 3])
    loader = NeighborLoader((store, bare), **options(num_workers=workers), neighbor_sampler=sampler)
    batches, firsts = iter(loader), []
    for _ in range(5):
        firsts.append(int(next(batches).input_id[0]))
    with pytest.raises(ArithmeticError, match="cannot be sampled"):
        next(batches)
    # As PyG's, it can go on behind it.
    firsts += [int(batch.input_id[0]) for batch in batches]
    assert firsts == [start for start in range(0, 1_200, 100) if start != 500]


def test_an_error_of_a_transform_comes_in_its_place(store: FeatureStore, data: Data) -> None:
    def fail(batch: Data) -> Data:
        if int(batch.input_id[0]) == 300:
            raise ArithmeticError("this batch cannot be used")
        return batch

    batches = iter(NeighborLoader((store, without_features(data)), **options(), transform=fail))
    assert [int(next(batches).input_id[0]) for _ in range(3)] == [0, 100, 200]
    with pytest.raises(ArithmeticError):
        next(batches)
    assert int(next(batches).input_id[0]) == 400


@pytest.mark.parametrize("workers", [0, 1])
def test_a_daemon_that_was_restarted(own_served: list[Daemon], data: Data, workers: int) -> None:
    """Rows are right or there is an error that names the daemon; the next epoch is whole."""
    client = own_served[0].connect()
    loader = NeighborLoader((FeatureStore(client), without_features(data)), **options(num_workers=workers))
    batches: Iterator[Any] = iter(loader)
    next(batches)
    own_served[0].kill()
    with pytest.raises(rudder.RudderError, match="daemon|socket"):
        for _ in batches:
            pass
    own_served[0].start()
    own_served[0].wait_until_ready()
    ready(own_served[0].connect())
    torch.manual_seed(3)
    theirs = list(pyg.NeighborLoader(data, **options(num_workers=workers)))
    torch.manual_seed(3)
    for batch, expected in zip(loader, theirs):
        check(batch, expected)


def test_a_loader_that_is_dropped_ends_its_workers(store: FeatureStore, data: Data) -> None:
    import multiprocessing

    before = set(multiprocessing.active_children())
    batches = iter(NeighborLoader((store, without_features(data)), **options(num_workers=2)))
    next(batches)
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 2
    del batches
    gc.collect()
    for worker in started:
        worker.join(60)
    assert not any(worker.is_alive() for worker in started)
