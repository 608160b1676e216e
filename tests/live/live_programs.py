"""What the tests of this folder share that start real programs: where Rudder's lie, what to do where a server is absent, free ports.

The programs come from ``$RUDDER_BIN``, by default the release build. A test whose server program is absent is skipped, or fails where
``RUDDER_LIVE=required`` says that it must run.
"""

from __future__ import annotations

import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("RUDDER_BIN", REPOSITORY / "target" / "release")).resolve()


def program(name: str) -> str:
    """Path of a program of this workspace."""
    path = BIN / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `cargo build --release`, or set RUDDER_BIN")
    return str(path)


def need(name: str, package: str) -> str:
    """Path of a program of the system, from the Debian package named; skips the test where it is absent and may be."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        absent(f"{name} is missing; on Debian: apt-get install {package}")
    assert path is not None
    return path


def absent(reason: str) -> None:
    """Skip, or fail where the tests must run."""
    if os.environ.get("RUDDER_LIVE") == "required":
        pytest.fail(f"{reason} (RUDDER_LIVE=required)")
    pytest.skip(reason)


def wait_for(what: str, condition: Callable[[], object], timeout_s: float = 30.0, every_s: float = 0.05) -> None:
    """Wait until ``condition`` answers something true; fail by naming ``what`` it should have been."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for: {what}")
        time.sleep(every_s)


def answer(url: str) -> tuple[int, str]:
    """Status and body of an HTTP request; status 0 while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
