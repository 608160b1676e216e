"""The examples with PyG train, every row is right, and losses are those of features in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster import program

EXAMPLES = Path(__file__).parents[3] / "examples"
SMALL = ["--json", "--epochs", "2", "--vertices", "3000", "--width", "16", "--batch", "100"]


def run(example: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / example), *SMALL, *arguments]
    environment = {**os.environ, "RUDDER_BIN_DIR": str(Path(program("rudder")).parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.parametrize(
    ("example", "arguments"),
    [
        ("pyg_sage.py", ()),
        ("pyg_sage.py", ("--model", "gat", "--workers", "1")),
        ("pyg_hetero.py", ()),
    ],
    ids=["sage", "gat with a worker", "several types"],
)
def test_losses_are_those_of_features_in_memory(example: str, arguments: tuple[str, ...]) -> None:
    ours, theirs = (run(example, *arguments, "--features", features) for features in ("rudder", "framework"))
    assert ours["losses"] == theirs["losses"]
    assert ours["losses"][-1] < ours["losses"][0]
    assert ours["rows_checked"] == theirs["rows_checked"] > 0
    assert ours["wrong_rows"] == 0
