"""Each example of client/python/examples: it trains, its rows are those of the source, and Rudder's give equal losses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import REPOSITORY

EXAMPLES = REPOSITORY / "client" / "python" / "examples"

#: The package that an example needs, by the beginning of its name. An environment runs those whose package it has.
NEEDS = {"torch_": "torch", "pyg_": "torch_geometric", "graphbolt_": "dgl", "distdgl_": "dgl"}

#: What each prints, with --json.
KEYS = {"example", "features", "epoch_seconds", "losses", "rows_waited", "rows_checked", "wrong_rows"}

EPOCHS = 2

#: Smaller than the examples' own, for the time that it takes.
SMALL = ["--vertices", "3000", "--width", "16", "--batch", "100"]


def package_of(name: str) -> str:
    return next(package for beginning, package in NEEDS.items() if name.startswith(beginning))


# Other files there are what examples share.
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if "common.parser(" in path.read_text())

# DistDGL needs several hosts: the tests in ../dgl run its example.
HERE = [name for name in NAMES if importlib.util.find_spec(package_of(name)) and not name.startswith("distdgl_")]


def figures_of(name: str, features: str, folder: Path) -> dict[str, Any]:
    """Run an example and read the object that it prints."""
    # The package is this tree's, also for an interpreter that starts in another folder.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "client" / "python")}
    command = [sys.executable, EXAMPLES / f"{name}.py", "--features", features, "--epochs", str(EPOCHS), "--json", *SMALL]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{name} --features {features} ended with {done.returncode}:\n{done.stderr[-4_000:]}"
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, f"{name} --json prints more than one object:\n{done.stdout}"
    figures: dict[str, Any] = json.loads(lines[0])
    return figures


@pytest.mark.parametrize("name", HERE)
def test_an_example_trains_and_gives_equal_losses_with_both_kinds_of_features(name: str, tmp_path: Path) -> None:
    ours, theirs = (figures_of(name, features, tmp_path) for features in ("rudder", "framework"))
    for features, figures in (("rudder", ours), ("framework", theirs)):
        assert figures.keys() == KEYS
        assert figures["example"] == name
        assert figures["features"] == features
        assert len(figures["epoch_seconds"]) == EPOCHS
        assert len(figures["losses"]) == EPOCHS
        assert figures["wrong_rows"] == 0
    assert ours["rows_checked"] > 0
    assert ours["losses"] == theirs["losses"]
    assert ours["losses"][-1] < ours["losses"][0], "it does not train"


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_page(name: str) -> None:
    """Short enough to read beside the framework's own script."""
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 200
