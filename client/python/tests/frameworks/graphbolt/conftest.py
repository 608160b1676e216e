"""Fixtures: the graph with one type and the graph with two, each with its data set and daemons."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cluster import Daemon, cluster
from gbworld import World

import rudder

# With several threads, GraphBolt numbers the vertices of a minibatch in another order each time.
torch.set_num_threads(1)


def _running(world: World, folder: Path, authority: Path, more: str = "") -> Iterator[list[Daemon]]:
    path = Path(tempfile.mkdtemp(dir=folder))
    with cluster(path, world.build(path / "data"), authority, more=more) as running:
        for daemon in running:
            daemon.connect().wait_ready()
        yield running


@pytest.fixture(scope="session")
def world() -> World:
    """One vertex type, one edge type."""
    return World(is_typed=False)


@pytest.fixture(scope="session")
def typed_world() -> World:
    """Papers and authors."""
    return World(is_typed=True)


@pytest.fixture(scope="session")
def gb_daemons(world: World, folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Two daemons that serve ``world``."""
    yield from _running(world, folder, authority)


@pytest.fixture(scope="session")
def typed_daemons(typed_world: World, folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Two daemons that serve ``typed_world``."""
    yield from _running(typed_world, folder, authority)


@pytest.fixture()
def own_gb_daemons(world: World, folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Two daemons of one test, to stop and to count in. What they may bring in ahead has no budget that a test would notice."""
    yield from _running(world, folder, authority, more="[lookahead]\nbudget = 8.0")


@pytest.fixture()
def gb_client(gb_daemons: list[Daemon]) -> rudder.Client:
    """A client of node 0, a trainer of its own."""
    return gb_daemons[0].connect()


@pytest.fixture()
def typed_client(typed_daemons: list[Daemon]) -> rudder.Client:
    """A client of node 0, a trainer of its own."""
    return typed_daemons[0].connect()
