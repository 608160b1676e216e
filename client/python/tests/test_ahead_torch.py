"""``rudder.Ahead`` over a torch ``DataLoader``: workers 0 and more, forked and spawned, and a worker that fails."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cluster import Daemon, Source, accounted

import rudder

torch = pytest.importorskip("torch")

STEPS = 12
WORKERS = [(0, None), (2, "fork"), (2, "spawn")]


class Samples(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
    """Minibatches of ids, sampled by whichever worker is asked."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.fails_at:
            raise OSError("no such minibatch")
        rng = np.random.default_rng(index)
        return {"ids": torch.from_numpy(rng.choice(Source.ITEMS, 200, replace=False)), "number": index}


def wants(batch: dict[str, Any]) -> dict[str, Any]:
    return {"f32": batch["ids"], "item.x": batch["ids"][:50]}


def loader_of(samples: Any, workers: int, method: str | None, **options: Any) -> Any:
    return torch.utils.data.DataLoader(
        samples, batch_size=None, num_workers=workers, multiprocessing_context=method, **options
    )


def check(source: Source, batch: dict[str, Any], rows: dict[str, Any]) -> None:
    for table, ids in wants(batch).items():
        assert isinstance(rows[table], torch.Tensor)
        source.check(table, ids.numpy(), rows[table].numpy())


@contextlib.contextmanager
def no_process_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    end = time.monotonic() + 60
    while not set(multiprocessing.active_children()) <= before and time.monotonic() < end:
        # An exception holds the frames that it came through, and they hold the iterator.
        gc.collect()
        time.sleep(0.05)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize(("workers", "method"), WORKERS)
@pytest.mark.parametrize("early", [False, True])
def test_a_data_loader(
    own_daemons: list[Daemon], source: Source, workers: int, method: str | None, early: bool
) -> None:
    client = own_daemons[0].connect()
    with no_process_left():
        ahead = rudder.Ahead(loader_of(Samples(), workers, method), wants, client=client, horizon=3, early=early)
        for _ in range(2):
            numbers = []
            for batch, rows in ahead:
                check(source, batch, rows)
                numbers.append(batch["number"])
            assert numbers == list(range(STEPS))
        # Broken off, its workers end.
        for _ in ahead:
            break
        ahead.close()
    state = accounted(client, "f32", lambda state: state["lookahead"]["used_batches"] == 2 * STEPS + 2)
    assert state["lookahead"]["used_batches"] == 2 * STEPS + 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_persist(client: rudder.Client, source: Source, method: str) -> None:
    loader = loader_of(Samples(), 1, method, persistent_workers=True)
    ahead = rudder.Ahead(loader, wants, client=client, early=True)
    for _ in range(2):
        numbers = []
        for batch, rows in ahead:
            check(source, batch, rows)
            numbers.append(batch["number"])
        assert numbers == list(range(STEPS))
    first = iter(ahead)
    next(first)
    with pytest.raises(RuntimeError, match="has one iterator for both"):
        next(iter(ahead))


@pytest.mark.parametrize(("workers", "method"), WORKERS)
def test_a_worker_that_fails(client: rudder.Client, source: Source, workers: int, method: str | None) -> None:
    seen = []

    def train() -> str:
        try:
            for batch, rows in rudder.Ahead(loader_of(Samples(fails_at=7), workers, method), wants, client=client, horizon=6):
                check(source, batch, rows)
                seen.append(batch["number"])
        except OSError as error:
            return str(error)
        return "nothing"

    with no_process_left():
        assert "no such minibatch" in train()
    assert seen == list(range(7))


class Fetched(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
    """Iterates an ``Ahead`` in a worker: its minibatches are those of the worker alone."""

    def __init__(self, client: rudder.Client) -> None:
        self.client = client

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        samples = Samples()
        own = [samples[at] for at in range(worker.id, STEPS, worker.num_workers)]
        # What a worker returns is copied, so the rows may go with it.
        return iter(rudder.Ahead(own, wants, client=self.client, progress=False, horizon=2))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_ahead_in_each_worker(client: rudder.Client, source: Source, method: str) -> None:
    numbers = []
    for batch, rows in loader_of(Fetched(client), 2, method):
        check(source, batch, rows)
        numbers.append(batch["number"])
    assert sorted(numbers) == list(range(STEPS))


def test_a_data_loader_without_a_length(client: rudder.Client, source: Source) -> None:
    class Endless(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[Any]:
            return (Samples()[at] for at in range(5))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ahead = rudder.Ahead(loader_of(Endless(), 0, None), wants, client=client)
        for _ in range(2):
            assert sum(1 for _ in ahead) == 5
    assert len(ahead) == 5
