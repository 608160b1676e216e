"""Fixtures: one cluster of two daemons for the tests that only fetch, one of its own for each that breaks something."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Daemon, Source, certificates, cluster, meet

import rudder


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder with a short path: the path of a socket may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="rudder-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def source() -> Source:
    """The arrays that fetches must equal."""
    return Source()


@pytest.fixture(scope="session")
def dataset(folder: Path, source: Source) -> Path:
    """The dataset made of them, in two parts."""
    return source.build(folder / "data")


@pytest.fixture(scope="session")
def authority(folder: Path) -> Path:
    """Certificates of both nodes."""
    return certificates(folder / "certs", nodes=2)


@pytest.fixture(scope="session")
def daemons(folder: Path, dataset: Path, authority: Path, source: Source) -> Iterator[list[Daemon]]:
    """Two daemons that every test shares: leave them as they are."""
    path = folder / "shared"
    path.mkdir()
    with cluster(path, dataset, authority) as running:
        meet(running[0], source)
        yield running


@pytest.fixture()
def own_daemons(folder: Path, dataset: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Two daemons of one test, to stop and kill."""
    path = Path(tempfile.mkdtemp(dir=folder))
    with cluster(path, dataset, authority) as running:
        yield running


@pytest.fixture()
def client(daemons: list[Daemon]) -> rudder.Client:
    """A client of node 0."""
    return daemons[0].connect()
