"""``rudder.launch``: daemons from Python, shared by the processes of a node, and gone with the last of them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cluster import READY_TIMEOUT_S, Source, program

import rudder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Path]:
    """A folder for what is launched, short enough for sockets; it is empty at the end."""
    path = folder / f"run-{tmp_path.name[-12:]}"
    path.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    monkeypatch.setenv("RUDDER_BIN_DIR", str(Path(program("rudder")).parent))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    yield path
    assert until(lambda: not left(path)), left(path)


def left(place: Path) -> list[str]:
    """What is left of all that was launched."""
    folder = place / "rudder"
    return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; whether it came true."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def check(daemon: rudder.Daemon, source: Source) -> None:
    """Fetch rows of both parts, and hold them against the source."""
    client = daemon.connect()
    ids = np.array([3, Source.ROWS - 1, 0, Source.ROWS // 2])

    def fetched() -> bool:
        try:
            client.fetch("f32", ids)
        except rudder.PeerUnavailableError:
            return False
        return True

    assert until(fetched)
    source.check("f32", ids, client.fetch("f32", ids))


def test_all_parts_are_served_until_the_block_ends(dataset: Path, source: Source, place: Path) -> None:
    with rudder.launch(dataset, capacity=0.5, policy="lru", settings={"cache.degrees": False}) as daemon:
        assert list(daemon.sockets) == [0, 1]
        assert daemon.socket == daemon.sockets[0]
        assert daemon.socket.startswith(str(place))
        check(daemon, source)
        table = daemon.connect().status()["tables"][0]
        assert (table["policy"], table["capacity_rows"]) == ("lru", 1500)
        assert "running" in repr(daemon)
        with pytest.raises(TypeError, match="socket"):
            pickle.dumps(daemon)
    assert left(place) == []
    daemon.stop()
    assert "stopped" in repr(daemon)


def test_two_launches_share_their_daemons_and_the_last_ends_them(dataset: Path, source: Source, place: Path) -> None:
    first, second = rudder.launch(dataset), rudder.launch(dataset)
    assert first.sockets == second.sockets
    first.stop()
    check(second, source)
    second.stop()
    assert left(place) == []


def test_what_cannot_start_says_why(dataset: Path, place: Path) -> None:
    with pytest.raises(rudder.LaunchError, match="no dataset at /nowhere"):
        rudder.launch("/nowhere")
    with pytest.raises(rudder.LaunchError, match="unknown key `cache.polcy`"):
        rudder.launch(dataset, settings={"cache.polcy": "lru"})
    with pytest.raises(rudder.LaunchError, match="rudder certs issue --authority certs --nodes 0-1"):
        rudder.launch(dataset, rank=0, world=2, rendezvous="localhost")
    assert left(place) == []


def test_a_program_that_is_not_there_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUDDER_BIN_DIR")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sysconfig.get_path", lambda *_: "/nowhere")
    with pytest.raises(rudder.LaunchError, match="the program rudder is not in /nowhere"):
        rudder.launch(dataset)


LAUNCHER = "import sys, time, rudder; d = rudder.launch(sys.argv[1]); print(d.socket, flush=True); "


def started(dataset: Path, then: str) -> subprocess.Popen[str]:
    """Another process that launches, says its socket, and goes on as told."""
    return subprocess.Popen([sys.executable, "-c", LAUNCHER + then, str(dataset)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("then", ["pass", "time.sleep(600)", "import os; os.fork() or time.sleep(20) or os._exit(0); time.sleep(600)"])
def test_the_daemons_end_with_their_process_however_it_ends(dataset: Path, place: Path, then: str) -> None:
    process = started(dataset, then)
    assert process.stdout is not None
    socket = process.stdout.readline().strip()
    assert socket
    if then == "pass":
        assert process.wait(READY_TIMEOUT_S) == 0
    else:
        rudder.connect(socket)
        process.send_signal(signal.SIGKILL)
        process.wait(READY_TIMEOUT_S)
    process.stdout.close()
    assert until(lambda: left(place) == []), left(place)
    assert not os.path.exists(socket)


def test_the_local_ranks_of_torchrun_share_one_set(
    dataset: Path, source: Source, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    # The second local rank comes first.
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with rudder.launch(dataset) as first:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("LOCAL_RANK", "0")
        with rudder.launch(dataset) as second:
            assert first.sockets == second.sockets
        check(first, source)
    assert left(place) == []
