"""The example: equal losses by both kinds of features, and with servers that have no copy of what Rudder serves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import distdgl_here
import pytest
from cluster import run

EXAMPLES = Path(distdgl_here.__file__).resolve().parent


def figures(partition: Path, *arguments: object) -> dict[str, Any]:
    """Run the example on both hosts."""
    script = [sys.executable, str(EXAMPLES / "distdgl_here.py"), "--partition", str(partition)]
    done = subprocess.run([*script, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def partition(place: Path) -> Path:
    """A partition of the example's graph."""
    return distdgl_here.generated(place / "example")


@pytest.fixture(scope="module")
def losses(partition: Path) -> list[float]:
    """Of DistDGL's own features."""
    said = figures(partition, EXAMPLES / "distdgl_sage.py", "--features", "framework", "--epochs", 2, "--batch", 100, "--json")
    losses: list[float] = said["losses"]
    assert losses[1] < losses[0]
    return losses


def test_equal_losses(partition: Path, losses: list[float]) -> None:
    said = figures(partition, EXAMPLES / "distdgl_sage.py", "--epochs", 2, "--batch", 100, "--json")
    assert said["losses"] == losses
    assert (said["rows_checked"], said["wrong_rows"]) == (1000, 0)


def test_equal_losses_with_stripped_servers(partition: Path, losses: list[float], place: Path) -> None:
    run("rudder", "import", "distdgl", partition, "--strip", "--out", place / "stripped")
    assert not (place / "stripped" / "part0" / "node_feat.dgl").is_symlink()
    stripped = place / "stripped" / partition.name
    script = [EXAMPLES / "distdgl_sage.py", "--epochs", 2, "--batch", 100, "--json"]
    said = figures(partition, "--servers", stripped, *script)
    assert said["losses"] == losses
    assert said["rows_checked"] == 0, "the servers have the feature"


def test_sampler_processes(partition: Path) -> None:
    script = [EXAMPLES / "distdgl_sage.py", "--epochs", 2, "--batch", 100, "--json"]
    said = figures(partition, "--samplers", 1, *script)
    assert said["losses"][1] < said["losses"][0]
    assert (said["rows_checked"], said["wrong_rows"]) == (1000, 0)
