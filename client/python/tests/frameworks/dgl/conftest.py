"""Paths and fixtures: two hosts, partitions that DGL made of graphs of one and of several types, and the daemons' certificates."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Other environments have no DGL.
collect_ignore_glob = [] if importlib.util.find_spec("dgl") else ["test_*.py"]

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[2]
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(PYTHON / "examples"), str(PYTHON.parents[1] / "tests" / "measure")]


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder with a short path: the path of a socket may have 107 bytes."""
    if os.geteuid() != 0:
        pytest.skip("two hosts as namespaces of one machine need root")
    path = Path(tempfile.mkdtemp(prefix="rd-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def certs(place: Path) -> Path:
    """Certificates of both hosts."""
    import distdgl_here

    return distdgl_here.certificates(place / "certs")


@pytest.fixture(scope="session")
def one_type(place: Path) -> Path:
    """A graph of one type, with features of its vertices and edges of every element type that DistDGL serves."""
    import distdgl_cluster

    distdgl_cluster.make("edges", place / "edges", 2, 2000, 0)
    return place / "edges" / "edges.json"


@pytest.fixture(scope="session")
def several_types(place: Path) -> Path:
    """A graph of two vertex types and three edge types."""
    import distdgl_cluster

    distdgl_cluster.make("types", place / "types", 2, 2000, 0)
    return place / "types" / "types.json"


def rows_of(graph: Path) -> dict[str, np.ndarray]:
    """The rows of every feature of a partition, as bytes, by name of table: part after part, as ids count."""
    from dgl.data.utils import load_tensors

    description = json.loads(graph.read_text())
    parts: dict[str, list[np.ndarray]] = {}
    for part in range(description["num_parts"]):
        for kind in ("node_feats", "edge_feats"):
            for name, tensor in load_tensors(str(graph.parent / description[f"part-{part}"][kind])).items():
                rows = tensor.numpy().reshape(len(tensor), -1).view(np.uint8)
                parts.setdefault(name.replace("/", "."), []).append(rows)
    return {name: np.concatenate(rows) for name, rows in parts.items()}
