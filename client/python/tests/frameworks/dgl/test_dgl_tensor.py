"""Tensors of Rudder under a real DistDGL: two hosts, a server and a trainer on each, with and without sampler processes."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import distdgl_here
import pytest
from daemons import HostDaemon

JOB = Path(__file__).resolve().with_name("job.py")

#: Longest run of all checks of one cluster, in seconds.
TIMEOUT_S = 600.0

ONE_TYPE = [
    "rows_of_every_field",
    "what_a_tensor_says_of_itself",
    "looking_at_a_store_fetches_nothing",
    "names_that_are_not_there",
    "another_graph",
    "ids_that_make_no_sense",
    "ways_to_ask",
    "a_loop_that_reads_ahead",
    "an_epoch_that_is_broken_off",
    "an_evaluation_between_epochs",
    "edges_by_blocks",
    "minibatches_of_another_form",
    "rows_that_are_written",
    "a_daemon_that_restarts",
    "trained_rows",
]

SEVERAL_TYPES = [
    "rows_of_every_field",
    "what_a_tensor_says_of_itself",
    "looking_at_a_store_fetches_nothing",
    "typed_minibatches",
    "tensors_in_sampler_processes",
]

WITH_SAMPLERS = ["a_loop_that_reads_ahead", "an_epoch_that_is_broken_off"]

#: What became of each check on each host.
Became = dict[str, list[str]]


@contextlib.contextmanager
def daemons(hosts: distdgl_here.Hosts, folder: Path, graph: Path, certs: Path) -> Iterator[list[HostDaemon]]:
    """A daemon on each host."""
    settings = {"cache.capacity": "0.25"}
    made = [HostDaemon(hosts, host, folder / f"d{host}", graph, certs, settings) for host in (0, 1)]
    try:
        for daemon in made:
            daemon.start()
        for daemon in made:
            daemon.wait_until_ready()
        yield made
    finally:
        for daemon in made:
            daemon.stop()


def restart_when_asked(folder: Path, daemon: HostDaemon, end: threading.Event) -> None:
    """Kill and start a daemon once the file `restart` is there."""
    while not end.wait(0.05):
        if (folder / "restart").exists():
            daemon.kill()
            daemon.start()
            daemon.wait_until_ready()
            (folder / "restarted").touch()
            return


def run(folder: Path, graph: Path, certs: Path, checks: list[str], samplers: int) -> Became:
    """Make the checks in one cluster."""
    folder.mkdir()
    with distdgl_here.Hosts() as hosts, daemons(hosts, folder, graph, certs) as running:
        end = threading.Event()
        restarts = threading.Thread(target=restart_when_asked, args=(folder, running[0], end))
        restarts.start()
        try:
            sockets = ",".join(str(daemon.socket) for daemon in running)
            command = [sys.executable, str(JOB), str(graph), sockets, str(folder), ",".join(checks)]
            with distdgl_here.cluster(hosts, folder, graph, command, samplers) as trainers:
                failure = distdgl_here.ended(folder, trainers, TIMEOUT_S)
        finally:
            end.set()
            restarts.join()
    assert failure is None, failure
    said = [json.loads((folder / f"check{host}.json").read_text()) for host in (0, 1)]
    return {check: [of_host[check] for of_host in said] for check in checks}


@pytest.fixture(scope="module")
def of_one_type(place: Path, one_type: Path, certs: Path) -> Became:
    """A graph of one type, no sampler processes."""
    return run(place / "a", one_type, certs, ONE_TYPE, samplers=0)


@pytest.fixture(scope="module")
def of_several_types(place: Path, several_types: Path, certs: Path) -> Became:
    """A graph of several types, one sampler process for each trainer."""
    return run(place / "b", several_types, certs, SEVERAL_TYPES, samplers=1)


@pytest.fixture(scope="module")
def with_samplers(place: Path, one_type: Path, certs: Path) -> Became:
    """A graph of one type, two sampler processes for each trainer."""
    return run(place / "c", one_type, certs, WITH_SAMPLERS, samplers=2)


@pytest.mark.parametrize("check", ONE_TYPE)
def test_one_type(of_one_type: Became, check: str) -> None:
    assert of_one_type[check] == ["ok", "ok"], "\n".join(of_one_type[check])


@pytest.mark.parametrize("check", SEVERAL_TYPES)
def test_several_types_and_a_sampler(of_several_types: Became, check: str) -> None:
    assert of_several_types[check] == ["ok", "ok"], "\n".join(of_several_types[check])


@pytest.mark.parametrize("check", WITH_SAMPLERS)
def test_two_samplers(with_samplers: Became, check: str) -> None:
    assert with_samplers[check] == ["ok", "ok"], "\n".join(with_samplers[check])
