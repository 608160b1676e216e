"""Clients and processes: fork, pickle, spawn, and a client that is killed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import Any, Callable

import numpy as np
import pytest
from cluster import Daemon, Source

import rudder

CHILD_TIMEOUT_S = 30.0


def in_child(work: Callable[[], Any]) -> None:
    """Run ``work`` in a fork of this process; fail if it fails or hangs."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as failure:  # the child must not return into pytest
            os.write(2, f"in the child: {failure!r}\n".encode())
        finally:
            os._exit(status)
    deadline = time.monotonic() + CHILD_TIMEOUT_S
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)


def test_a_fork_fetches_and_so_does_its_parent(client: rudder.Client, source: Source) -> None:
    rows = client.fetch("f32", np.arange(100))

    def work() -> None:
        for first in range(0, 2_000, 100):
            ids = np.arange(first, first + 100)
            source.check("f32", ids, client.fetch("f32", ids))
            in_child_of_child = client.fetch("f32", [first])
            source.check("f32", [first], in_child_of_child)
        in_child(lambda: source.check("f32", [7], client.fetch("f32", [7])))

    in_child(work)
    source.check("f32", np.arange(100), rows)
    source.check("f32", [9], client.fetch("f32", [9]))


def test_a_fork_leaves_its_parents_fetches_alone(client: rudder.Client, source: Source) -> None:
    ids = np.arange(source.ROWS)
    pending = client.fetch_async("f32", ids)
    held = client.fetch("f32", [3])

    def work() -> None:
        nonlocal held, pending
        assert pending.done()
        with pytest.raises(rudder.ConnectionLostError, match="before a fork"):
            pending.wait()
        another = client.fetch("f32", ids[::-1])
        del pending, held
        gc.collect()
        source.check("f32", ids[::-1], another)

    in_child(work)
    source.check("f32", ids, pending.wait())
    source.check("f32", [3], held)


def test_forks_while_threads_fetch(client: rudder.Client, source: Source) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def fetch(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                ids = rng.integers(0, source.ROWS, 500)
                source.check("u8", ids, client.fetch("u8", ids))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=fetch, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            held = client.fetch("f32", [1, 2])

            def work(held: np.ndarray = held) -> None:
                source.check("f32", [5, source.ROWS - 1], client.fetch("f32", [5, source.ROWS - 1]))
                del held

            in_child(work)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_pickled_client_connects_again(daemons: list[Daemon], source: Source) -> None:
    client = daemons[1].connect(timeout_s=7.5, inline=True, name="pickled")
    copy = pickle.loads(pickle.dumps(client))
    assert copy._options == client._options
    assert copy.node == 1
    source.check("f16", [1, 2], copy.fetch("f16", [1, 2]))
    source.check("f16", [1, 2], client.fetch("f16", [1, 2]))


def _fetch_elsewhere(client: rudder.Client, ids: np.ndarray) -> np.ndarray:
    return client.fetch("f32", ids)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_a_pool(client: rudder.Client, source: Source, method: str) -> None:
    batches = [np.arange(first, first + 50) for first in range(0, 1_000, 50)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        fetched = pool.starmap(_fetch_elsewhere, [(client, ids) for ids in batches])
    for ids, rows in zip(batches, fetched):
        source.check("f32", ids, rows)


FETCH_FOR_EVER = """
import sys, numpy as np, rudder
client = rudder.connect(sys.argv[1])
rows = client.tables()["f32"].rows
rng = np.random.default_rng(int(sys.argv[2]))
client.fetch("f32", [0])
print("fetching", flush=True)
while True:
    held = [client.fetch_async("f32", rng.integers(0, rows, 50_000)) for _ in range(8)]
"""


def test_clients_killed_in_mid_fetch(daemons: list[Daemon], client: rudder.Client, source: Source) -> None:
    rng = np.random.default_rng(3)
    for round_number in range(10):
        arguments = [sys.executable, "-c", FETCH_FOR_EVER, str(daemons[0].socket), str(round_number)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "fetching\n"
            time.sleep(rng.uniform(0, 0.1))
            victim.kill()
        ids = rng.integers(0, source.ROWS, 1_000)
        source.check("f32", ids, client.fetch("f32", ids))
    for daemon in daemons:
        assert daemon.process is not None
        assert daemon.process.poll() is None
