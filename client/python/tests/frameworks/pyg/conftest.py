"""Fixtures of the tests with PyG. Without PyG these tests are skipped."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

if importlib.util.find_spec("torch_geometric") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import pyg_world
    from cluster import Daemon, cluster

    import rudder

if TYPE_CHECKING:
    from torch_geometric.data import Data, HeteroData


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Without pyg-lib each sampler of PyG warns that its days are numbered."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*without a 'pyg-lib' installation.*")
        yield


@pytest.fixture(scope="session")
def data() -> Data:
    """The graph of one type, its features in memory."""
    return pyg_world.homogeneous()


@pytest.fixture(scope="session")
def hetero() -> HeteroData:
    """The graph of several types, its features in memory."""
    return pyg_world.heterogeneous()


def _serve(folder: Path, authority: Path, tables: dict[str, Any]) -> Iterator[list[Daemon]]:
    path = Path(tempfile.mkdtemp(dir=folder))
    dataset = pyg_world.build(path / "data", tables)
    with cluster(path, dataset, authority) as running:
        ready(running[0].connect())
        yield running


def ready(client: rudder.Client) -> None:
    """Wait until rows of the other node come."""
    deadline = time.monotonic() + 60
    for table, info in client.tables().items():
        while True:
            try:
                client.fetch(table, [0, info.rows - 1])
                break
            except rudder.PeerUnavailableError:
                if time.monotonic() > deadline:
                    raise


@pytest.fixture(scope="session")
def served(folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Daemons with the features of ``data``, which every test shares: leave them as they are."""
    yield from _serve(folder, authority, pyg_world.tables_of(pyg_world.homogeneous()))


@pytest.fixture(scope="session")
def served_hetero(folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Daemons with the features of ``hetero``, which every test shares: leave them as they are."""
    yield from _serve(folder, authority, pyg_world.tables_of(pyg_world.heterogeneous()))


@pytest.fixture()
def own_served(folder: Path, authority: Path) -> Iterator[list[Daemon]]:
    """Daemons of one test, with the features of ``data``."""
    yield from _serve(folder, authority, pyg_world.tables_of(pyg_world.homogeneous()))


@pytest.fixture()
def store(served: list[Daemon]) -> Any:
    """A store over the features of ``data``."""
    from rudder.pyg import FeatureStore

    return FeatureStore(served[0].connect())


@pytest.fixture()
def hetero_store(served_hetero: list[Daemon]) -> Any:
    """A store over the features of ``hetero``."""
    from rudder.pyg import FeatureStore

    return FeatureStore(served_hetero[0].connect())
