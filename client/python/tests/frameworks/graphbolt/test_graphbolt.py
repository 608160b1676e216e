"""GraphBolt's own loaders with features out of Rudder: the same minibatches as with features in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cluster import Daemon, accounted
from dgl import graphbolt as gb
from gbworld import AUTHOR, PAPER, PAPERS, STEPS, WRITES, World, check_equal

import rudder
import rudder.graphbolt


def check_epochs(world: World, loader: Any, workers: int, epochs: int = 2) -> None:
    reference = world.loader(world.in_memory(), workers)
    for _ in range(epochs):
        steps = 0
        for minibatch, expected in zip(loader, reference):
            check_equal(minibatch, expected)
            steps += 1
        assert steps == STEPS


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("is_typed", [False, True])
def test_minibatches_equal_those_with_features_in_memory(
    request: pytest.FixtureRequest, is_typed: bool, is_ahead: bool, workers: int
) -> None:
    world = request.getfixturevalue("typed_world" if is_typed else "world")
    client = request.getfixturevalue("typed_client" if is_typed else "gb_client")
    loader = world.loader(rudder.graphbolt.FeatureStore(client), workers)
    if is_ahead:
        assert rudder.graphbolt.ahead(loader) is loader
    check_epochs(world, loader, workers)


@pytest.mark.parametrize("is_ahead", [False, True])
def test_each_layer_gets_the_rows_of_its_edges(world: World, gb_client: rudder.Client, is_ahead: bool) -> None:
    """Fewer edges in the outer layer: those of the inner one are not the first of it."""
    loader = world.loader(rudder.graphbolt.FeatureStore(gb_client), fanouts=(1, 3))
    if is_ahead:
        rudder.graphbolt.ahead(loader)
    weights, x = (torch.from_numpy(world.features[key]) for key in (("edge", None, "w"), ("node", None, "x")))
    for minibatch in loader:
        assert torch.equal(minibatch.node_features["x"], x[minibatch.node_ids().long()])
        for layer in range(2):
            assert torch.equal(minibatch.edge_features[layer]["w"], weights[minibatch.edge_ids(layer).long()])


def test_a_store_of_graphbolt_may_hold_some_of_rudders_features(world: World, gb_client: rudder.Client) -> None:
    store = world.in_memory()
    store._features["node", None, "x"] = rudder.graphbolt.Feature("x", gb_client)
    loader = rudder.graphbolt.ahead(world.loader(store))
    check_epochs(world, loader, 0, epochs=1)
    with pytest.raises(ValueError, match="none of the features that the loader fetches is Rudder's"):
        rudder.graphbolt.ahead(world.loader(world.in_memory()))


def waited_for(client: rudder.Client) -> int:
    return sum(table["fetched"]["peer"] for table in client.status()["tables"])


def wait_until_settled(client: rudder.Client, table: str) -> None:
    """Until the daemon has brought in what it wants to before the next fetch: what a model that trains gives it time for."""
    deadline, before = time.monotonic() + 60, None
    while time.monotonic() < deadline:
        state = next(state for state in client.status()["tables"] if state["name"] == table)
        now = (state["network"]["lookahead_rows"], state["fetched"], state["lookahead"]["announced_batches"])
        if now == before:
            return
        before = now
        time.sleep(0.05)


def later_waits(client: rudder.Client, make: Callable[[], Any]) -> float:
    """Share of the other node's rows that three epochs wait for, but for the first minibatches: the daemon hears of those late."""
    waits = known = 0
    for _ in range(3):
        for step, _ in enumerate(make()):
            wait_until_settled(client, "x")
            now = waited_for(client)
            waits, known = waits + (now - known if step > 0 else 0), now
    fetched = next(table["fetched"] for table in client.status()["tables"] if table["name"] == "x")
    return waits / sum(rows for source, rows in fetched.items() if source != "local")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_announced_minibatch_is_used_and_rows_are_not_waited_for(
    own_gb_daemons: list[Daemon], world: World, workers: int
) -> None:
    client = own_gb_daemons[0].connect()
    store = rudder.graphbolt.FeatureStore(client)
    loader = rudder.graphbolt.ahead(world.loader(store, workers, nodes=["x"], edges=[]))
    # A row that was cached when a minibatch was announced may have lost its place since.
    assert later_waits(client, lambda: loader) < 0.005
    table = accounted(client, "x", lambda table: table["lookahead"]["used_batches"] == 36)
    assert table["lookahead"]["announced_batches"] == 36
    assert table["lookahead"]["used_batches"] == 36
    # Without lookahead, the same epochs do wait.
    for _ in world.loader(store, nodes=["year"], edges=[]):
        pass
    assert accounted(client, "year", lambda table: table["fetched"]["peer"] > 0)["fetched"]["peer"] > 0


def test_progress_counts_epochs_and_steps(
    world: World, gb_client: rudder.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(rudder.Client, "progress", lambda client, *numbers: told.append(numbers))
    store = rudder.graphbolt.FeatureStore(gb_client)
    loader = rudder.graphbolt.ahead(world.loader(store, nodes=["x"], edges=[]), steps_per_epoch=STEPS)
    evaluation = rudder.graphbolt.ahead(world.loader(store, nodes=["x"], edges=[]), progress=False)
    for _ in range(2):
        assert sum(1 for _ in loader) == STEPS
        assert sum(1 for _ in evaluation) == STEPS
    assert told == [(epoch, step, STEPS) for epoch in range(2) for step in range(STEPS)]


def test_an_epoch_that_is_broken_off_is_followed_by_a_whole_one(world: World, gb_client: rudder.Client) -> None:
    loader = rudder.graphbolt.ahead(world.loader(rudder.graphbolt.FeatureStore(gb_client)))
    for step, _ in enumerate(loader):
        if step == 3:
            break
    check_epochs(world, loader, 0)


def test_two_iterations_at_once_are_no_mixture(world: World, gb_client: rudder.Client) -> None:
    loader = rudder.graphbolt.ahead(world.loader(rudder.graphbolt.FeatureStore(gb_client)))
    first = iter(loader)
    next(first)
    second = iter(loader)
    reference = iter(world.loader(world.in_memory()))
    check_equal(next(second), next(reference))
    # torch allows one iterator of a pipe: the first one says so.
    with pytest.raises(RuntimeError, match="invalidated"):
        for _ in range(STEPS):
            next(first)


class Fails:
    """A transformer that fails at its third minibatch."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, minibatch: Any) -> Any:
        self.seen += 1
        if self.seen == 3:
            raise ArithmeticError("the sampler of this test fails")
        return minibatch


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_of_the_sampler_comes_out_at_its_place(world: World, gb_client: rudder.Client, workers: int) -> None:
    loader = rudder.graphbolt.ahead(world.loader(rudder.graphbolt.FeatureStore(gb_client), workers, cut=Fails()))
    steps = 0
    with pytest.raises(ArithmeticError, match="the sampler of this test fails"):
        for _ in loader:
            steps += 1
    assert steps == 2


def test_a_daemon_that_is_gone_under_the_loader_is_named(own_gb_daemons: list[Daemon], world: World) -> None:
    client = own_gb_daemons[0].connect(timeout_s=20)
    loader = rudder.graphbolt.ahead(world.loader(rudder.graphbolt.FeatureStore(client)))
    steps = 0
    with pytest.raises((rudder.ConnectError, rudder.ConnectionLostError)):
        for steps, _ in enumerate(loader, 1):
            if steps == 2:
                own_gb_daemons[0].kill()
    # What was in flight when it died may have come.
    assert 2 <= steps <= 4
    own_gb_daemons[0].start()
    own_gb_daemons[0].wait_until_ready()
    client.wait_ready()
    check_epochs(world, loader, 0, epochs=1)


def test_a_feature_is_like_one_in_memory(typed_world: World, typed_client: rudder.Client) -> None:
    ours, theirs = rudder.graphbolt.FeatureStore(typed_client), typed_world.in_memory()
    assert set(ours.keys()) == set(theirs.keys())
    assert len(ours) == 4
    for key, array in typed_world.features.items():
        assert key in ours
        assert ours.size(*key) == theirs.size(*key)
        assert ours.count(*key) == len(array)
        assert torch.equal(ours.read(*key), theirs.read(*key))
        ids = torch.tensor([0, len(array) - 1, 3, 3], dtype=torch.int32)
        for wanted in (ids, ids.long(), ids[:0]):
            rows = ours.read(*key, wanted)
            assert torch.equal(rows, theirs.read(*key, wanted.long()))
            assert rows.dtype == theirs.read(*key, wanted.long()).dtype
    assert ours["node", PAPER, "x"].metadata() == {"table": "paper.x", "type": "paper", "dtype": "f32"}
    assert ("node", None, "year") in ours, "the only feature of that name"
    assert ("node", None, "x") not in ours, "papers and authors have it"


def test_a_feature_is_written_through(own_gb_daemons: list[Daemon], world: World) -> None:
    feature = rudder.graphbolt.Feature("x", own_gb_daemons[0].connect())
    ids = torch.tensor([1, PAPERS - 1], dtype=torch.int32)
    feature.update(torch.full((2, 17), 5.0), ids)
    assert torch.equal(feature.read(ids), torch.full((2, 17), 5.0))
    everything = torch.from_numpy(world.features["node", None, "x"]) + 1
    feature.update(everything)
    assert torch.equal(feature.read(), everything)
    with pytest.raises(ValueError, match=r"\[2, 17\]|shape"):
        feature.update(torch.zeros(2, 3), ids)


def test_what_there_is_not_is_named(typed_world: World, typed_client: rudder.Client) -> None:
    store = rudder.graphbolt.FeatureStore(typed_client)
    with pytest.raises(rudder.UnknownTableError, match=r"paper\.x"):
        rudder.graphbolt.Feature("papers.x", typed_client)
    with pytest.raises(KeyError, match=r"no feature \('node', 'paper', 'xs'\); did you mean .*'paper', 'x'\)"):
        store["node", PAPER, "xs"]
    with pytest.raises(KeyError, match="domain, type, name"):
        store["x"]
    with pytest.raises(rudder.UnknownTableError):
        rudder.graphbolt.FeatureStore(typed_client, {("node", PAPER, "label"): "paper.label"})
    with pytest.raises(IndexError, match=str(PAPERS)):
        store.read("node", PAPER, "x", torch.tensor([PAPERS]))
    with pytest.raises(ValueError, match="stages is 1"):
        rudder.graphbolt.Feature("paper.x", typed_client, stages=1)
    with pytest.raises(ValueError, match="no feature fetcher"):
        rudder.graphbolt.ahead(torch.utils.data.DataLoader([1, 2]))
    loader = rudder.graphbolt.ahead(typed_world.loader(store))
    with pytest.raises(ValueError, match="announces already"):
        rudder.graphbolt.ahead(loader)


def test_keys_may_be_given(typed_world: World, typed_client: rudder.Client) -> None:
    store = rudder.graphbolt.FeatureStore(typed_client, {("node", PAPER, "feat"): "paper.x"})
    ids = torch.arange(9)
    assert torch.equal(store.read("node", PAPER, "feat", ids), store.read("node", PAPER, "x", ids))
    store["edge", WRITES, "w"] = gb.TorchBasedFeature(torch.zeros(9, 2))
    assert store.size("edge", WRITES, "w") == torch.Size([2])
    assert np.array_equal(store.read("node", AUTHOR, "x", ids).numpy(), typed_world.features["node", AUTHOR, "x"][:9])
