"""Reads in stages, as GraphBolt has them from DGL 2.4 on, against a small copy of how its loader drives them (staged.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cluster import Daemon, accounted
from dgl import graphbolt as gb
from gbworld import PAPERS, World
from staged import staged
from test_graphbolt import later_waits
from torch.utils.data import IterDataPipe
from torch.utils.data.datapipes.iter import IterableWrapper

import rudder
import rudder.graphbolt

CPU = torch.device("cpu")


def batches(count: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randperm(PAPERS, generator=generator)[:200].int() for _ in range(count)]


def test_stages_give_each_minibatch_its_rows(world: World, gb_client: rudder.Client) -> None:
    x = rudder.graphbolt.Feature("x", gb_client, stages=5)
    year = rudder.graphbolt.Feature("year", gb_client, stages=2)
    seen = 0
    for ids, rows in staged(batches(), lambda ids: {"x": (x, ids), "year": (year, ids.flip(0))}, CPU):
        assert torch.equal(rows["x"], torch.from_numpy(world.features["node", None, "x"])[ids.long()])
        assert torch.equal(rows["year"], torch.from_numpy(world.features["node", None, "year"])[ids.flip(0).long()])
        seen += 1
    assert seen == 12


def test_stages_announce_that_many_minibatches_ahead(own_gb_daemons: list[Daemon]) -> None:
    client = own_gb_daemons[0].connect()
    feature = rudder.graphbolt.Feature("x", client, stages=4)

    def epoch() -> Any:
        return staged(batches(), lambda ids: {"x": (feature, ids)}, CPU)

    early = epoch()
    next(early)
    state = accounted(client, "x", lambda table: table["lookahead"]["announced_batches"] >= 5)
    assert state["lookahead"]["announced_batches"] == 5, "four ahead of the one that is used"
    assert sum(1 for _ in early) == 11
    assert later_waits(client, epoch) < 0.005
    table = accounted(client, "x", lambda table: table["lookahead"]["used_batches"] == 48)
    assert table["lookahead"]["used_batches"] == 48


def test_the_number_of_stages_follows_the_daemon_and_stays(gb_client: rudder.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [1, 9, 99]
    monkeypatch.setattr(rudder.Client, "horizon", lambda client, table: asked.pop(0))
    features = [rudder.graphbolt.Feature("x", gb_client) for _ in range(3)]
    assert [feature.read_async_num_stages(CPU) for feature in features] == [2, 9, 16]
    # Asked for every device and for every minibatch, and always the same.
    assert [feature.read_async_num_stages(torch.device("cuda")) for feature in features] == [2, 9, 16]
    stages = list(features[0].read_async(torch.arange(3)))
    assert len(stages) == 2
    assert stages[0] is None
    assert stages[1].wait().shape == (3, 17)


def test_a_cache_in_front_reads_its_misses_in_stages(world: World, gb_client: rudder.Client) -> None:
    """As GraphBolt's caches do: stages of their own, then those of the feature behind, for the rows that they lack."""
    behind = rudder.graphbolt.Feature("x", gb_client, stages=3)
    array = torch.from_numpy(world.features["node", None, "x"])

    class Cached:
        def read_async_num_stages(self, device: torch.device) -> int:
            return 1 + behind.read_async_num_stages(device)

        def read_async(self, ids: torch.Tensor) -> Any:
            yield
            is_missing = ids % 2 == 0
            reader, value = behind.read_async(ids[is_missing]), None
            for stage in range(3):
                value = next(reader)
                if stage < 2:
                    yield

            class Waiter:
                def wait(self) -> torch.Tensor:
                    rows = array[ids.long()].clone()
                    rows[is_missing] = value.wait()
                    return rows

            yield Waiter()

    cached = Cached()
    for ids, rows in staged(batches(), lambda ids: {"x": (cached, ids)}, CPU):
        assert torch.equal(rows["x"], array[ids.long()])
    # What caches ask when they are made.
    assert behind.read(torch.tensor([0])).shape == (1, 17)
    assert behind.count() == PAPERS


class LaterLoader(IterDataPipe):  # type: ignore[misc]
    """A loader of later versions as far as its pipe goes: it is a pipe itself, and its fetcher reads in stages."""

    def __init__(self, datapipe: Any) -> None:
        self.datapipe = datapipe

    def __iter__(self) -> Any:
        return iter(self.datapipe)


def test_for_a_loader_that_reads_in_stages_only_progress_is_reported(
    world: World, gb_client: rudder.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, int]] = []
    monkeypatch.setattr(rudder.Client, "progress", lambda client, *numbers: told.append(numbers))
    store = rudder.graphbolt.FeatureStore(gb_client)
    fetcher = gb.FeatureFetcher(IterableWrapper([]), store, ["x"])
    fetcher.max_num_stages = 3
    loader = rudder.graphbolt.ahead(LaterLoader(Fetched(fetcher)))
    assert fetcher.feature_store is store
    for _ in range(3):
        assert list(loader) == [7, 8]
    # How many steps an epoch has is known from the second on.
    assert told == [(1, 0, 2), (1, 1, 2), (2, 0, 2), (2, 1, 2)]
    with pytest.raises(ValueError, match="announces already"):
        rudder.graphbolt.ahead(loader)


class Fetched(IterDataPipe):  # type: ignore[misc]
    """What stands behind the fetcher and gives minibatches."""

    def __init__(self, datapipe: Any) -> None:
        self.datapipe = datapipe

    def __iter__(self) -> Any:
        yield from [7, 8]
