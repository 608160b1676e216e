"""The wheel: installed by pip into an empty environment, it is all that a machine needs to serve and to fetch.

It is made of the programs that are built already (``deploy/release.py --from-target``), which takes seconds where the module is compiled. The
release's own wheel is tested by naming it: ``RUDDER_WHEEL=rudder_gnn-….whl pytest tests/live/test_wheel.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from live_programs import REPOSITORY, absent, need, program

#: What a stranger does: arrays, a dataset, a daemon, rows. No certificate, no index, no other file than the daemon's.
FETCH = """
import pathlib, subprocess, sys, time
import numpy, rudder

folder = pathlib.Path(sys.argv[1])
rows = numpy.random.default_rng(1).random((1000, 8), dtype=numpy.float32)
numpy.save(folder / "feat.npy", rows)
subprocess.run(["rudder", "import", "npy", "--table", f"feat={folder}/feat.npy", "--parts", "1", "--out", folder / "data"], check=True)
(folder / "rudderd.toml").write_text(f'''
node.index = 0
dataset.path = "{folder}/data"
local.socket = "{folder}/s"
peers.listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
''')
daemon = subprocess.Popen(["rudderd", "--config", folder / "rudderd.toml"])
try:
    deadline = time.monotonic() + 60
    while True:
        assert daemon.poll() is None, "rudderd ended"
        try:
            client = rudder.connect(f"{folder}/s")
            break
        except rudder.ConnectError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    ids = numpy.array([3, 1, 4, 999, 1])
    assert (client.fetch("feat", ids) == rows[ids]).all()
finally:
    daemon.terminate()
assert daemon.wait(60) == 0
print("rows are right, of", rudder.__file__)
"""


def run(*command: str | Path, path: Path | None = None) -> str:
    """Run a command; `path` is then the only folder of programs besides the system's."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RUDDER_", "PYTHON", "VIRTUAL_ENV"))}
    if path is not None:
        env["PATH"] = f"{path}:/usr/bin:/bin"
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env, timeout=600, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, or that of ``$RUDDER_WHEEL``."""
    if "RUDDER_WHEEL" in os.environ:
        return Path(os.environ["RUDDER_WHEEL"]).resolve()
    need("strip", "binutils")
    if subprocess.run([sys.executable, "-m", "maturin", "--version"], capture_output=True, check=False).returncode != 0:
        absent("maturin is missing: pip install 'maturin>=1.7,<2'")
    programs = Path(program("rudderd")).parent
    command = [sys.executable, REPOSITORY / "deploy" / "release.py", "--from-target", "--programs", programs]
    return Path(run(*command, "--out", tmp_path_factory.mktemp("wheel")).strip())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    return folder / "bin"


def test_what_is_inside(wheel: Path) -> None:
    """The module for every Python from 3.9, the programs, the types, and each file with its checksum."""
    assert re.fullmatch(r"rudder_gnn-[\d.]+-cp39-abi3-.*\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith("RECORD"))
        listed = [line.rsplit(",", 2)[0] for line in archive.read(record).decode().splitlines()]
        metadata = archive.read(record.replace("RECORD", "METADATA")).decode()
    assert sorted(listed) == sorted(names)
    scripts = record.replace(".dist-info/RECORD", ".data/scripts")
    assert {"rudder/_native.abi3.so", "rudder/py.typed", "rudder/convert.py", f"{scripts}/rudder", f"{scripts}/rudderd"} <= set(names)
    assert re.search("^Name: rudder-gnn$", metadata, re.MULTILINE)
    assert wheel.stat().st_size < 30e6


def test_programs_and_rows(installed: Path, tmp_path: Path) -> None:
    """Both programs and the module have one version; rows come out of an installed daemon."""
    version = run(installed / "python", "-c", "import rudder; print(rudder.__version__)").strip()
    for name in ("rudder", "rudderd"):
        assert run(name, "--version", path=installed).strip() == f"{name} {version}"
    done = run(installed / "python", "-c", FETCH, tmp_path, path=installed)
    assert f"rows are right, of {installed.parent}" in done
    assert run(installed / "python", "-m", "rudder.convert", "--help", path=installed).startswith("usage: python -m rudder.convert")


def test_removal(installed: Path) -> None:
    """pip knows every file: nothing stays behind."""
    run(installed / "pip", "uninstall", "--yes", "rudder-gnn")
    assert not [name for name in ("rudder", "rudderd") if (installed / name).exists()]
