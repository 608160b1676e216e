"""Announced minibatches: the loader yields every minibatch with its rows, and the daemon used what was announced."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from cluster import Daemon, Source, accounted, cluster

import rudder


def batches(source: Source, steps: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.choice(len(source.arrays["f32"]), 200, replace=False) for _ in range(steps)]


@pytest.mark.parametrize("horizon", [0, 3, None])
def test_a_loader_yields_every_batch_with_its_rows(
    own_daemons: list[Daemon], source: Source, horizon: int | None
) -> None:
    client, epoch = own_daemons[0].connect(), batches(source)
    loader = rudder.Loader(epoch, "f32", client=client, epochs=3, horizon=horizon)
    assert len(loader) == 36
    seen = 0
    for number, (ids, rows) in enumerate(loader):
        assert ids is epoch[number % 12]
        source.check("f32", ids, rows)
        seen += 1
    assert seen == 36
    expected = 0 if horizon == 0 else 36
    table = accounted(client, "f32", lambda table: table["lookahead"]["announced_batches"] == expected)
    assert table["lookahead"]["announced_batches"] == expected
    assert table["lookahead"]["expired_batches"] == 0
    # Rows that a fill of the cache brought in mid-fetch count as staged, too: without announcements there may be a few.
    assert expected == 0 or table["fetched"]["staged"] > 0


def test_batches_may_be_anything_that_has_ids(client: rudder.Client, source: Source) -> None:
    iterable = ({"ids": ids, "label": number} for number, ids in enumerate(batches(source, 4)))
    loader = rudder.Loader(iterable, "f32", client=client, ids=lambda batch: batch["ids"], horizon=2)
    with pytest.raises(TypeError, match="steps_per_epoch"):
        len(loader)
    for number, (batch, rows) in enumerate(loader):
        assert batch["label"] == number
        source.check("f32", batch["ids"], rows)


def test_wrong_announcements_name_the_culprit(client: rudder.Client) -> None:
    with pytest.raises(rudder.IdOutOfRangeError, match="id 999999999"):
        client.announce("f32", [1, 999999999], 0)
    with pytest.raises(ValueError, match="step is -1"):
        client.announce("f32", [1], -1)
    with pytest.raises(rudder.UnknownTableError, match="nothing"):
        client.announce("nothing", [1], 0)
    with pytest.raises(ValueError, match="horizon is -1"):
        rudder.Loader([], "f32", client=client, horizon=-1)


class Told:
    """What a daemon was told by the clients of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epochs: list[int] = []
        self.steps: list[int] = []
        progress, announce = rudder.Client.progress, rudder.Client.announce

        def note_progress(client: rudder.Client, epoch: int, step: int, steps_per_epoch: int) -> None:
            self.epochs.append(epoch)
            progress(client, epoch, step, steps_per_epoch)

        def note_announcement(client: rudder.Client, table: str, ids: Any, step: int | None = None) -> rudder.Batch:
            assert step is not None
            self.steps.append(step)
            return announce(client, table, ids, step)

        monkeypatch.setattr(rudder.Client, "progress", note_progress)
        monkeypatch.setattr(rudder.Client, "announce", note_announcement)

    def check_steps(self, trainings: int = 1) -> None:
        """A step that does not grow is the beginning of a new training to the daemon: it drops what waits."""
        begun = [number for number, step in enumerate(self.steps) if number == 0 or step <= self.steps[number - 1]]
        assert [self.steps[number] for number in begun] == [0] * trainings


def in_one_iteration(client: rudder.Client, epoch: list[np.ndarray]) -> None:
    for _ in rudder.Loader(epoch, "f32", client=client, epochs=3):
        pass


def iterated_again(client: rudder.Client, epoch: list[np.ndarray]) -> None:
    loader = rudder.Loader(epoch, "f32", client=client)
    for _ in range(3):
        for _ in loader:
            pass


def a_loader_for_each_epoch(client: rudder.Client, epoch: list[np.ndarray]) -> None:
    for _ in range(3):
        for _ in rudder.Loader(epoch, "f32", client=client):
            pass
        # Validation between the epochs.
        for _ in rudder.Loader(epoch[:2], "f32", client=client, progress=False):
            pass


@pytest.mark.parametrize("loop", [in_one_iteration, iterated_again, a_loader_for_each_epoch])
def test_every_loop_reports_growing_epochs(
    client: rudder.Client, source: Source, monkeypatch: pytest.MonkeyPatch, loop: Callable[..., None]
) -> None:
    told = Told(monkeypatch)
    loop(client, batches(source, 4))
    assert told.epochs == [0] * 4 + [1] * 4 + [2] * 4
    told.check_steps()


def test_loaders_without_a_client_are_one_trainer(
    daemons: list[Daemon], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch)
    monkeypatch.setenv("RUDDER_SOCKET", str(daemons[0].socket))
    for _ in range(3):
        for ids, rows in rudder.Loader(batches(source, 2), "f32"):
            source.check("f32", ids, rows)
    assert told.epochs == [0, 0, 1, 1, 2, 2]
    told.check_steps()


def test_an_iteration_that_is_broken_off_is_followed_by_the_next_epoch(
    client: rudder.Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch)
    loader = rudder.Loader(batches(source, 4), "f32", client=client, epochs=2, horizon=3)
    for _ in range(2):
        next(iter(loader))
    assert told.epochs == [0, 1]
    for _ in loader:
        pass
    assert told.epochs == [0, 1] + [2] * 4 + [3] * 4
    told.check_steps(trainings=3)


def test_an_epoch_that_is_given_is_counted_on_from(
    client: rudder.Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch)
    epoch = batches(source, 1)
    loader = rudder.Loader(epoch, "f32", client=client, epoch=7)
    for _ in range(2):
        list(loader)
    list(rudder.Loader(epoch, "f32", client=client))
    assert told.epochs == [7, 8, 9]
    with pytest.raises(ValueError, match="epoch is -1"):
        rudder.Loader(epoch, "f32", client=client, epoch=-1)


@pytest.mark.parametrize("make", [iter, lambda batches: (ids for ids in batches), lambda batches: map(np.sort, batches)])
def test_what_can_be_used_once_is_no_training_of_several_epochs(
    client: rudder.Client, source: Source, make: Callable[[list[np.ndarray]], Iterator[np.ndarray]]
) -> None:
    with pytest.raises(ValueError, match="can be used once, and epochs is 3"):
        rudder.Loader(make(batches(source, 4)), "f32", client=client, epochs=3, steps_per_epoch=4)
    loader = rudder.Loader(make(batches(source, 4)), "f32", client=client)
    assert sum(1 for _ in loader) == 4
    with pytest.raises(RuntimeError, match="an iteration before this one used it"):
        iter(loader)


class Sampler:
    """Its own iterator, with a length; begins again only if asked to."""

    def __init__(self, batches: list[np.ndarray], again: bool) -> None:
        self.batches, self.again, self.at = batches, again, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Sampler:
        self.at = 0 if self.again else self.at
        return self

    def __next__(self) -> np.ndarray:
        if self.at == len(self.batches):
            raise StopIteration
        self.at += 1
        return self.batches[self.at - 1]


def test_an_epoch_without_minibatches_ends_the_training_with_an_error(client: rudder.Client, source: Source) -> None:
    again = rudder.Loader(Sampler(batches(source, 4), again=True), "f32", client=client, epochs=3)
    assert sum(1 for _ in again) == 12
    seen = []
    with pytest.raises(RuntimeError, match="no minibatch in epoch 1 of 3"):
        for batch, _ in rudder.Loader(Sampler(batches(source, 4), again=False), "f32", client=client, epochs=3):
            seen.append(batch)
    assert len(seen) == 4


class Shrinking:
    """An iterable that gives fewer minibatches from its second epoch on."""

    def __init__(self, epoch: list[np.ndarray], later: int) -> None:
        self.epoch, self.later, self.begun = epoch, later, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.begun += 1
        return iter(self.epoch if self.begun == 1 else self.epoch[: self.later])


def test_an_epoch_that_ends_early_is_no_secret(client: rudder.Client, source: Source) -> None:
    def load(iterable: Any, **options: Any) -> Iterator[Any]:
        return iter(rudder.Loader(iterable, "f32", client=client, epochs=3, **options))

    seen = []
    with pytest.raises(RuntimeError, match="gave 2 minibatches in epoch 1 of 3, of 4 that an epoch has"):
        seen.extend(load(Shrinking(batches(source, 4), 2), steps_per_epoch=4))
    assert len(seen) == 6, "what came is yielded"
    with pytest.warns(RuntimeWarning, match="gave 2 minibatches in epoch 1 and 4 in epoch 0"):
        assert sum(1 for _ in load(Shrinking(batches(source, 4), 2))) == 8
    for one_shot in (iter(batches(source, 4)), (ids for ids in batches(source, 4)), map(np.asarray, batches(source, 4))):
        with pytest.raises(ValueError, match="can be used once"):
            load(one_shot, steps_per_epoch=4)


@pytest.mark.parametrize("horizon", [1, 5, None])
@pytest.mark.parametrize("kind", ["array", "int32", "list", "object", "ring"])
def test_a_buffer_that_is_used_again_is_an_error(
    client: rudder.Client, source: Source, horizon: int | None, kind: str
) -> None:
    epoch = batches(source, 8)

    def reusing() -> Iterator[Any]:
        dtype = np.int32 if kind == "int32" else np.int64
        ring = [np.empty(len(epoch[0]), dtype) for _ in range(2 if kind == "ring" and horizon == 5 else 1)]
        numbers: list[int] = []
        holder: dict[str, Any] = {}
        for at, ids in enumerate(epoch):
            if kind == "list":
                numbers[:] = ids.tolist()
                yield numbers
            elif kind == "object":
                holder["ids"] = ids
                yield holder
            else:
                ring[at % len(ring)][:] = ids
                yield ring[at % len(ring)]

    def ids_of(batch: Any) -> Any:
        return batch["ids"].copy() if kind == "object" else batch

    loader = rudder.Loader(reusing(), "f32", client=client, ids=ids_of, horizon=horizon)
    with pytest.raises(RuntimeError, match=r"have changed while it waited.*\.copy\(\)"):
        for _ in loader:
            pass
    # Nothing waits where nothing is announced ahead.
    loader = rudder.Loader(reusing(), "f32", client=client, ids=ids_of, horizon=0)
    for at, (batch, rows) in enumerate(loader):
        source.check("f32", np.asarray(ids_of(batch)), rows)
        assert np.array_equal(ids_of(batch), epoch[at])
    # The same ids again and again are no reused buffer.
    same = [epoch[0]] * 6
    assert sum(1 for _ in rudder.Loader(same, "f32", client=client, horizon=horizon)) == 6


def test_a_refused_announcement_ends_no_training(folder: Path, dataset: Path, authority: Path, source: Source) -> None:
    # A minibatch has about 100 remote rows: the third that waits is refused.
    path = Path(tempfile.mkdtemp(dir=folder))
    with cluster(path, dataset, authority, more="[lookahead]\nrows_max = 250") as daemons:
        client, epoch = daemons[0].connect(), batches(source)
        with pytest.warns(RuntimeWarning, match=r"lookahead\.rows_max"):
            for seen, (ids, rows) in enumerate(rudder.Loader(epoch, "f32", client=client, epochs=3, horizon=4)):
                assert ids is epoch[seen % 12]
                source.check("f32", ids, rows)
        assert seen == 35
        table = accounted(client, "f32", lambda table: table["lookahead"]["announced_batches"] >= 20)
        assert table["lookahead"]["announced_batches"] >= 20
