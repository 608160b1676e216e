"""What the tests of this folder share that start real programs: where Rudder's lie, what to do where a server is absent, free ports.

The programs come from ``$RUDDER_BIN``, by default the release build. A test whose server program is absent is skipped, or fails where
``RUDDER_LIVE=required`` says that it must run.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
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


def free_ports(count: int, host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> list[int]:
    """Ports that nobody uses now, and that the kernel gives to no outgoing connection until a server of the test has taken them.

    From below those, too, that `rudder-slurm` chooses from.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    held: dict[int, socket.socket] = {}
    for port in random.SystemRandom().sample(range(10_000, min(20_000, ephemeral)), 1_000):
        one = socket.socket(socket.AF_INET, kind)
        try:
            one.bind((host, port))
        except OSError:
            one.close()
            continue
        held[port] = one
        if len(held) == count:
            break
    for one in held.values():
        one.close()
    assert len(held) == count, f"of 1,000 ports, {len(held)} are free"
    return list(held)


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
