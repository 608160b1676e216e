"""The example in plain torch: equal losses with both kinds of features, right rows, and figures that add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

PYTHON = Path(__file__).resolve().parents[3]
PROGRAMS = PYTHON.parents[1] / "target" / "release"
SMALL = ["--epochs", "2", "--vertices", "3000", "--width", "16", "--batch", "50"]


def run(*arguments: str) -> str:
    """What the example prints."""
    command = [sys.executable, str(PYTHON / "examples" / "torch_plain.py"), *SMALL, *arguments]
    environment = {"RUDDER_BIN_DIR": str(PROGRAMS), **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_losses_are_those_of_features_in_memory() -> None:
    figures: list[dict[str, Any]] = [json.loads(run("--json", "--features", of)) for of in ("rudder", "framework")]
    ours, theirs = figures
    assert ours["losses"] == theirs["losses"]
    assert ours["losses"][1] < ours["losses"][0]
    assert ours["rows_checked"] == theirs["rows_checked"] > 2 * 1_000
    assert (ours["wrong_rows"], theirs["wrong_rows"]) == (0, 0)
    assert ours["rows_waited"] < ours["rows_checked"] / 4
    assert theirs["rows_waited"] == 0
    keys = ["example", "features", "epoch_seconds", "losses", "rows_waited", "rows_checked", "wrong_rows"]
    assert list(ours) == keys
    assert [len(ours["epoch_seconds"]), ours["example"], ours["features"]] == [2, "torch_plain", "rudder"]


def test_a_person_reads_lines() -> None:
    lines = run("--seed", "3", "--epochs", "1").splitlines()
    assert lines[0].startswith("epoch 0: ")
    assert lines[-1].endswith(" 0 wrong")


def test_wrong_rows_are_counted() -> None:
    """The check itself, without a training."""
    program = f"""
import sys; sys.path.insert(0, {str(PYTHON / "examples")!r})
import numpy as np, _common as common
arguments = common.parser("test").parse_args(["--json"])
source = np.arange(12, dtype=np.float32).reshape(4, 3)
run = common.Run("test", arguments, {{"feat": source}})
with run.epoch() as losses:
    run.check("feat", [1, 2, 3], source[[1, 0, 3]])
    losses.append(0.5)
run.report()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    figures = json.loads(done.stdout)
    assert (done.returncode, figures["rows_checked"], figures["wrong_rows"]) == (1, 3, 1)
    assert figures["losses"] == [0.5]


def test_the_debian_graph_is_read(tmp_path: Path) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(PYTHON / "examples")!r})
import pathlib, numpy as np, _common as common
graph = common.debian(pathlib.Path({str(tmp_path)!r}), 8)
print(graph.edges.tolist(), graph.labels.tolist(), graph.features.shape, bool((graph.features[0] == graph.features[2]).all()))
"""
    (tmp_path / "packages.tsv").write_text("0ad\tgames\nlibc6\tlibs\n0ad\tgames\n")
    np.save(tmp_path / "edges.npy", np.array([[0, 1], [1, 2]], dtype=np.uint32))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "[[0, 1, 1, 2], [1, 2, 0, 1]] [0, 1, 0] (3, 8) True\n", done.stderr
