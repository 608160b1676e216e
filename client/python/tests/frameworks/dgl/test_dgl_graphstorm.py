"""GraphStorm's own loaders and functions over features that only Rudder has."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import distdgl_here
import pytest
from cluster import run
from test_dgl_tensor import TIMEOUT_S, daemons

JOB = Path(__file__).resolve().with_name("graphstorm_job.py")


@pytest.mark.skipif(importlib.util.find_spec("graphstorm") is None, reason="graphstorm is not installed")
def test_a_stripped_partition_under_graphstorm(place: Path, several_types: Path, certs: Path) -> None:
    folder = place / "g"
    folder.mkdir()
    run("rudder", "import", "distdgl", several_types, "--strip", "--keep", "paper.year", "--out", folder / "stripped")
    stripped = folder / "stripped" / several_types.name
    with distdgl_here.Hosts() as hosts, daemons(hosts, folder, several_types, certs) as running:
        sockets = ",".join(str(daemon.socket) for daemon in running)
        command = [sys.executable, str(JOB), str(several_types), sockets, str(folder)]
        with distdgl_here.cluster(hosts, folder, stripped, command) as trainers:
            failure = distdgl_here.ended(folder, trainers, TIMEOUT_S)
    assert failure is None, failure
    became = [json.loads((folder / f"check{host}.json").read_text()) for host in (0, 1)]
    assert became == ["ok", "ok"], "\n".join(became)
