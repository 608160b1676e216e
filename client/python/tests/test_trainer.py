"""A trainer is several processes: they share its number, and what one announces another fetches."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Iterable

import numpy as np
import pytest
from cluster import Daemon, Source, accounted
from test_processes import in_child

import rudder

METHODS = ["fork", "spawn", "forkserver"]


def test_a_trainer_has_a_number_of_its_own_unless_it_is_given_one(daemons: list[Daemon]) -> None:
    drawn = {daemons[0].connect().trainer for _ in range(8)}
    assert len(drawn) == 8
    assert all(0 <= trainer < 2**128 for trainer in drawn)
    for given in (0, np.int64(7), 2**128 - 1):
        assert daemons[0].connect(trainer=given).trainer == given
    for bad, error in ((-1, ValueError), (2**128, ValueError), (1.5, TypeError), ("7", TypeError)):
        with pytest.raises(error):
            daemons[0].connect(trainer=bad)


def _trainer(client: rudder.Client) -> int:
    client.fetch("f32", [1])
    return client.trainer


@pytest.mark.parametrize("method", METHODS)
def test_every_process_of_a_trainer_has_its_number(client: rudder.Client, method: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert set(pool.map(_trainer, [client] * 4)) == {client.trainer}
    assert pickle.loads(pickle.dumps(client)).trainer == client.trainer

    def work() -> None:
        assert _trainer(client) == trainer

    trainer = client.trainer
    in_child(work)


def _announce(client: rudder.Client, table: str, batches: Iterable[np.ndarray]) -> None:
    for ids in batches:
        client.announce(table, ids)


@pytest.mark.parametrize("method", METHODS)
def test_what_one_process_announces_another_fetches(own_daemons: list[Daemon], source: Source, method: str) -> None:
    client = own_daemons[0].connect()
    remote = source.remote_ids("f32")
    batches = [remote[first : first + 50] for first in range(0, 500, 50)]
    with multiprocessing.get_context(method).Pool(1) as pool:
        # One after the other: the daemon has depth and budget for a few.
        for ids in batches:
            pool.apply(_announce, (client, "f32", [ids]))
            time.sleep(0.02)
            source.check("f32", ids, client.fetch("f32", ids))
        table = accounted(client, "f32", lambda table: table["lookahead"]["used_batches"] == len(batches))
    assert table["lookahead"]["used_batches"] == len(batches)
    assert table["lookahead"]["expired_batches"] == 0
    assert table["fetched"]["staged"] > 0


def test_what_a_process_announced_outlives_it(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect()
    client.fetch("f32", [1])
    ids = source.remote_ids("f32")[:50]
    in_child(lambda: _announce(client, "f32", [ids]))
    source.check("f32", ids, client.fetch("f32", ids))
    table = accounted(client, "f32", lambda table: table["lookahead"]["used_batches"] == 1)
    assert (table["lookahead"]["used_batches"], table["lookahead"]["expired_batches"]) == (1, 0)
