"""``rudder.Ahead`` with real daemons: every minibatch with its rows, announced as it is used, in every bad case there is."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source, accounted, cluster, meet
from fake_client import FakeClient
from test_processes import in_child

import rudder

STEPS = 12


def batches(source: Source, steps: int = STEPS) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.choice(Source.ITEMS, 200, replace=False) for _ in range(steps)]


def both(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Two tables of different vertex types."""
    return {"f32": ids, "item.x": ids[:50]}


def check(source: Source, rows: dict[str, np.ndarray], wants: dict[str, np.ndarray]) -> None:
    assert set(rows) == set(wants)
    for table, ids in wants.items():
        source.check(table, ids, rows[table])


def lookahead(client: rudder.Client, table: str = "f32", **counts: int) -> dict[str, int]:
    """The daemon's counts of announcements, once they are as expected."""
    state = accounted(client, table, lambda state: all(state["lookahead"][key] == n for key, n in counts.items()))
    return {key: state["lookahead"][key] for key in counts}


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("horizon", [0, 3, None])
def test_an_iteration_is_an_epoch_with_all_rows(
    own_daemons: list[Daemon], source: Source, horizon: int | None, overlap: int
) -> None:
    client, loader = own_daemons[0].connect(), batches(source)
    ahead = rudder.Ahead(loader, both, client=client, horizon=horizon, overlap=overlap)
    assert len(ahead) == STEPS
    for _ in range(3):
        seen = []
        for ids, rows in ahead:
            check(source, rows, both(ids))
            seen.append(ids)
        assert all(ids is batch for ids, batch in zip(seen, loader))
        assert len(seen) == STEPS
    expected = {
        "announced_batches": 0 if horizon == 0 else 3 * STEPS,
        "used_batches": 0 if horizon == 0 else 3 * STEPS,
        "expired_batches": 0,
        "waiting_rows": 0,
    }
    for table in ("f32", "item.x"):
        assert lookahead(client, table, **expected) == expected


def staged(client: rudder.Client) -> int:
    """Minibatches that the daemon has rows for, once there are three, or after ten seconds."""
    state = accounted(client, "f32", lambda state: state["lookahead"]["staged_batches"] >= 3)
    return int(state["lookahead"]["staged_batches"])


def test_rows_that_were_announced_are_not_waited_for(folder: Path, dataset: Path, authority: Path, source: Source) -> None:
    """The trainer waits until the daemon has nothing left to do, so that this does not depend on the machine's speed."""
    path = Path(tempfile.mkdtemp(dir=folder))
    remote = source.remote_ids("f32")
    loader = [remote[first : first + 100] for first in range(0, 2_000, 100)]
    waited = {}
    with cluster(path, dataset, authority, more="[lookahead]\nbudget = 2.0\ndepth = 4") as daemons:
        meet(daemons[0], source)
        for horizon in (None, 0):
            client = daemons[0].connect()
            before = accounted(client, "f32", lambda state: True)["fetched"]["peer"]
            ahead = rudder.Ahead(loader, lambda ids: ("f32", ids), client=client, horizon=horizon)
            for step, (ids, rows) in enumerate(ahead):
                source.check("f32", ids, rows)
                if horizon is None and step < len(loader) - 5:
                    # Those of the announced minibatches that follow the one in flight.
                    assert any(staged(client) >= 3 for _ in range(6)), "within a minute"
            total = 2_000 + before
            state = accounted(client, "f32", lambda state: horizon is None or state["fetched"]["peer"] >= total - 500)
            waited[horizon] = state["fetched"]["peer"] - before
            client.evict(1.0, forget=True, table="f32")
    # The first is fetched as it is announced, and the second is in flight then; a busy machine may add a few.
    assert waited[None] <= 500
    assert waited[0] > 1_500


def test_what_put_returns_is_what_comes_out(client: rudder.Client, source: Source) -> None:
    def in_place(batch: dict[str, Any], rows: Any) -> None:
        batch["x"] = rows

    def pairs() -> Iterator[Any]:
        return ({"ids": ids} for ids in batches(source, 4))

    for batch in rudder.Ahead(pairs(), lambda batch: ("f32", batch["ids"]), in_place, client=client):
        source.check("f32", batch["ids"], batch["x"])
    new = rudder.Ahead(pairs(), lambda batch: both(batch["ids"]), lambda batch, rows: (batch["ids"], rows), client=client)
    for ids, rows in new:
        check(source, rows, both(ids))


def test_epochs_and_steps_are_reported() -> None:
    client = FakeClient()
    loader = [np.array([number]) for number in range(3)]
    training = rudder.Ahead(loader, lambda ids: ("x", ids), client=client)
    evaluation = rudder.Ahead(loader, lambda ids: ("x", ids), client=client, progress=False)
    for _ in range(2):
        assert len(list(training)) == 3
        assert len(list(evaluation)) == 3
    assert [call for call in client.calls if call[0] == "progress"] == [
        ("progress", epoch, step, 3) for epoch in range(2) for step in range(3)
    ]
    # The evaluation's fetches, and only they, taught nothing; it announced nothing.
    assert client.paused_calls == 6
    assert client.counts()["announce"] == 6
    # A Loader counts on.
    list(rudder.Loader(loader, "x", client=client))
    assert [call[1] for call in client.calls if call[0] == "progress"][-3:] == [2, 2, 2]
    with pytest.raises(ValueError, match="steps_per_epoch is 0"):
        rudder.Ahead(loader, lambda ids: ("x", ids), client=client, steps_per_epoch=0)


class Unsized:
    """A loader that does not know its length, and counts its live iterators."""

    def __init__(self, steps: int) -> None:
        self.steps, self.begun, self.live = steps, 0, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.begun += 1
        self.live += 1
        try:
            for number in range(self.steps):
                yield np.array([100 * self.begun + number])
        finally:
            self.live -= 1


def test_a_length_that_is_not_known_is_learned() -> None:
    client = FakeClient()
    ahead = rudder.Ahead(Unsized(9), lambda ids: ("x", ids), client=client)
    with pytest.raises(TypeError, match="steps_per_epoch"):
        len(ahead)
    list(ahead)
    assert client.counts()["progress"] == 0
    assert len(ahead) == 9
    list(ahead)
    # The first epoch is counted, although nothing could be said of it.
    assert [call for call in client.calls if call[0] == "progress"] == [("progress", 1, step, 9) for step in range(9)]


@pytest.mark.parametrize("early", [False, True])
def test_an_epoch_that_is_broken_off_leaves_nothing_behind(own_daemons: list[Daemon], source: Source, early: bool) -> None:
    client = own_daemons[0].connect()
    loader = Unsized(10)

    ahead = rudder.Ahead(loader, lambda ids: ("f32", ids), client=client, horizon=4, early=early)
    for seen, (_, _) in enumerate(ahead):
        if seen == 2:
            break
    assert loader.live == 0, "the loader's iterator ends with the iteration"
    # 0 to 7 were announced, 0 to 3 were asked for: one is in flight.
    assert lookahead(client, announced_batches=8, used_batches=4) == {"announced_batches": 8, "used_batches": 4}
    for ids, rows in ahead:
        source.check("f32", ids, rows)
    assert lookahead(client, expired_batches=4) == {"expired_batches": 4}
    ahead.close()
    assert loader.live == 0


def test_an_epoch_that_is_begun_early_has_no_gap() -> None:
    client, loader = FakeClient(asked=3), Unsized(6)
    ahead = rudder.Ahead(loader, lambda ids: ("x", ids), client=client, early=True)
    for epoch in range(1, 4):
        seen = []
        for step, (ids, rows) in enumerate(ahead):
            seen.append(int(ids[0]))
            del rows
            # The loader gives its last minibatch when four steps are left: one is in flight, three are ahead.
            assert loader.begun == epoch + (step >= 2)
        assert seen == [100 * epoch + step for step in range(6)]
    # Three epochs, and what waits of the fourth.
    assert client.steps == list(range(3 * 6 + 5))
    assert [call[1:3] for call in client.calls if call[0] == "progress"] == [(1, s) for s in range(6)] + [
        (2, s) for s in range(6)
    ]
    assert loader.live == 1
    ahead.close()
    assert (loader.live, len(client.alive)) == (0, 0)
    # Closed, it begins again with the epoch that follows.
    assert [int(ids[0]) for ids, _ in ahead] == [500 + step for step in range(6)]
    del ahead
    gc.collect()
    assert loader.live == 0
    with pytest.raises(ValueError, match="can be used once, and early is set"):
        rudder.Ahead(iter([np.array([1])]), lambda ids: ("x", ids), client=client, early=True)


class Failing:
    """A loader that fails at a step of its second epoch."""

    def __init__(self, at: int) -> None:
        self.at, self.begun = at, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.begun += 1
        for number in range(6):
            if self.begun == 2 and number == self.at:
                raise OSError("a worker died")
            yield np.array([number])


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("at", [0, 4])
def test_an_exception_of_the_loader_comes_out_at_its_place(early: bool, at: int) -> None:
    client = FakeClient(asked=8)
    ahead = rudder.Ahead(Failing(at), lambda ids: ("x", ids), client=client, early=early)
    assert len(list(ahead)) == 6
    seen = []
    with pytest.raises(OSError, match="a worker died"):
        for ids, _ in ahead:
            seen.append(int(ids[0]))
    assert seen == list(range(at))
    assert len(list(ahead)) == 6, "the next iteration begins again"


@pytest.mark.parametrize("bad", [np.array([1, 999_999_999]), np.array([-1]), np.array([0.5]), "ids"])
def test_wrong_ids_come_out_at_their_place(client: rudder.Client, source: Source, bad: Any) -> None:
    loader = [*batches(source, 3), bad, *batches(source, 2)]
    seen = 0
    with pytest.raises((rudder.IdOutOfRangeError, ValueError, TypeError)):
        for ids, rows in rudder.Ahead(loader, lambda ids: ("f32", ids), client=client, horizon=5):
            source.check("f32", ids, rows)
            seen += 1
    assert seen == 3


def test_an_unknown_table_and_a_wrong_form_come_out_at_their_place(client: rudder.Client, source: Source) -> None:
    with pytest.raises(rudder.UnknownTableError, match="feet"):
        list(rudder.Ahead(batches(source), lambda ids: {"f32": ids, "feet": ids}, client=client))
    with pytest.raises(TypeError, match="must be a mapping of tables to ids"):
        list(rudder.Ahead(batches(source), lambda ids: ids, client=client))


def test_two_iterations_at_once_are_kept_apart(client: rudder.Client, source: Source) -> None:
    loader = batches(source)
    ahead = rudder.Ahead(loader, both, client=client)
    first = iter(ahead)
    for step in range(3):
        ids, rows = next(first)
        assert ids is loader[step]
    for step, (ids, rows) in enumerate(ahead):
        assert ids is loader[step]
        check(source, rows, both(ids))
    for step, (ids, rows) in enumerate(first, 3):
        assert ids is loader[step]
        check(source, rows, both(ids))
    assert step == STEPS - 1


class OneIterator:
    """A loader that is its own iterator, and begins again when it is asked to: as a ``DataLoader`` with persistent workers."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self.batches, self.at = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> OneIterator:
        self.at = 0
        return self

    def __next__(self) -> np.ndarray:
        if self.at == len(self.batches):
            raise StopIteration
        self.at += 1
        return self.batches[self.at - 1]


@pytest.mark.parametrize("early", [False, True])
def test_two_iterations_of_one_iterator_are_refused(client: rudder.Client, source: Source, early: bool) -> None:
    ahead = rudder.Ahead(OneIterator(batches(source)), both, client=client, early=early, horizon=2)
    for _ in range(2):
        assert len(list(ahead)) == STEPS, "one after the other is no trouble"
    first = iter(ahead)
    next(first)
    with pytest.raises(RuntimeError, match="has one iterator for both"):
        next(iter(ahead))
    with pytest.raises(RuntimeError, match="has one iterator for both"):
        list(first)
    assert len(list(ahead)) == STEPS


def test_what_can_be_used_once_is_refused_the_second_time(client: rudder.Client, source: Source) -> None:
    ahead = rudder.Ahead((ids for ids in batches(source)), both, client=client)
    assert len(list(ahead)) == STEPS
    with pytest.raises(RuntimeError, match="an iteration before this one used it"):
        iter(ahead)

    class UsedUp(OneIterator):
        def __iter__(self) -> OneIterator:
            return self

    ahead = rudder.Ahead(UsedUp(batches(source)), both, client=client)
    assert len(list(ahead)) == STEPS
    with pytest.raises(RuntimeError, match="gave no minibatch, and 12 in the epoch before"):
        list(ahead)


def test_a_refused_hint_holds_nothing_up(folder: Path, dataset: Path, authority: Path, source: Source) -> None:
    path = Path(tempfile.mkdtemp(dir=folder))
    with cluster(path, dataset, authority, more="[lookahead]\nrows_max = 60") as daemons:
        client = daemons[0].connect()
        remote = source.remote_ids("f32")
        loader = [remote[first : first + 50] for first in range(0, 500, 50)]
        ahead = rudder.Ahead(loader, lambda ids: ("f32", ids), client=client, horizon=4)
        with pytest.warns(RuntimeWarning, match=r"lookahead\.rows_max"):
            for _ in range(2):
                seen = 0
                for ids, rows in ahead:
                    source.check("f32", ids, rows)
                    seen += 1
                assert seen == 10
        assert client._course.refusals > 0
        # One fits at a time, and some are fetched before there is room for them: never are all refused.
        state = accounted(client, "f32", lambda state: state["lookahead"]["used_batches"] > 2)
        assert state["lookahead"]["used_batches"] > 2


@pytest.mark.parametrize("early", [False, True])
def test_a_daemon_that_restarts_in_mid_epoch_is_not_noticed(own_daemons: list[Daemon], source: Source, early: bool) -> None:
    daemon = own_daemons[0]
    meet(daemon, source)
    ahead = rudder.Ahead(batches(source), both, client=daemon.connect(), horizon=3, early=early)
    for epoch in range(2):
        for step, (ids, rows) in enumerate(ahead):
            check(source, rows, both(ids))
            # Rows belong to the connection that they came by.
            del rows
            if (epoch, step) in ((0, 4), (1, STEPS - 1)):
                daemon.kill()
                daemon.start()
                daemon.wait_until_ready()
                meet(daemon, source)
        assert step == STEPS - 1


def _train(ahead: rudder.Ahead[np.ndarray], source: Source) -> int:
    """Iterate in this process; return the minibatches whose rows were right."""
    right = 0
    for ids, rows in ahead:
        check(source, rows, both(ids))
        right += 1
    return right


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_may_iterate(own_daemons: list[Daemon], source: Source, method: str) -> None:
    client = own_daemons[0].connect()
    ahead = rudder.Ahead(batches(source), both, client=client, horizon=3)
    assert _train(ahead, source) == STEPS
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(partial(_train, source=source), [ahead] * 4, chunksize=1) == [STEPS] * 4
    # Processes of one trainer do not take each other's announcements for a new training.
    assert lookahead(client, announced_batches=5 * STEPS, expired_batches=0)["announced_batches"] == 5 * STEPS


def test_a_fork_in_mid_epoch(client: rudder.Client, source: Source) -> None:
    ahead = rudder.Ahead(batches(source), both, client=client, horizon=3, early=True)
    iteration = iter(ahead)
    next(iteration)

    def work() -> None:
        rest = list(iteration)
        assert len(rest) == STEPS - 1
        for ids, rows in rest:
            check(source, rows, both(ids))

    in_child(work)
    rest = list(iteration)
    assert len(rest) == STEPS - 1
    for ids, rows in rest:
        check(source, rows, both(ids))


class OfOneProcess:
    """A loader whose iterators work only where they were made, as those with worker processes."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[np.ndarray]:
        made_in = os.getpid()
        for ids in self.batches:
            assert os.getpid() == made_in
            yield ids


def test_an_epoch_that_was_begun_early_is_the_parents(client: rudder.Client, source: Source) -> None:
    ahead = rudder.Ahead(OfOneProcess(batches(source)), both, client=client, horizon=3, early=True)
    for _ in range(2):
        _check_all(ahead, source)
        in_child(lambda: _check_all(ahead, source))


def _check_all(ahead: rudder.Ahead[np.ndarray], source: Source) -> None:
    assert _train(ahead, source) == STEPS


def test_what_is_pickled_begins_again(client: rudder.Client, source: Source) -> None:
    ahead = rudder.Ahead(batches(source), both, client=client, early=True)
    assert _train(ahead, source) == STEPS
    assert _train(pickle.loads(pickle.dumps(ahead)), source) == STEPS
    loader = pickle.loads(pickle.dumps(rudder.Loader(batches(source), "f32", client=client)))
    for ids, rows in loader:
        source.check("f32", ids, rows)


def test_rows_are_not_kept(client: rudder.Client, source: Source) -> None:
    for _, rows in rudder.Ahead(batches(source), lambda ids: ("f32", ids), client=client):
        kept = weakref.ref(rows)
        del rows
        assert kept() is None, "nobody but the trainer has them"
