"""A mistake is a clear error to the one who made it; the client and the daemon go on."""

from __future__ import annotations

import builtins
import os
import pickle
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import IDS_MAX, Daemon, Source

import rudder

BAD_IDS = [
    ([-1], ValueError, r"ids\[0\] is -1"),
    (np.array([3, 4, -7]), ValueError, r"ids\[2\] is -7"),
    (np.array([-7], dtype=np.int8), ValueError, r"ids\[0\] is -7"),
    ([1.0], TypeError, "float64"),
    (np.empty(0), TypeError, "float64"),
    (np.array([True]), ValueError, "mask has 1 elements, and table 'f32' has 6000 rows"),
    (np.ones(6001, dtype=bool), ValueError, "mask has 6001 elements, and table 'f32' has 6000 rows"),
    (np.ones((6000, 1), dtype=bool), ValueError, r"one dimension, not 2"),
    ([2**64], TypeError, "object"),
    (["1"], TypeError, "<U1"),
    (np.array(["2020"], dtype="M8[Y]"), TypeError, "datetime64"),
    (range(-3, 3), ValueError, "never negative"),
    (range(3, -3, -1), ValueError, "never negative"),
    (7, ValueError, "one dimension, not 0"),
    (np.zeros((2, 3), dtype=int), ValueError, r"one dimension, not 2 .*\(2, 3\)"),
]


@pytest.mark.parametrize(("ids", "error", "message"), BAD_IDS)
def test_ids_that_are_no_ids(client: rudder.Client, source: Source, ids: Any, error: type, message: str) -> None:
    for fetch in (client.fetch, client.fetch_async):
        with pytest.raises(error, match=message):
            fetch("f32", ids)
    source.check("f32", [1], client.fetch("f32", [1]))


@pytest.mark.parametrize("bad", [Source.ROWS, 2**63, 2**64 - 1])
@pytest.mark.parametrize("inline", [False, True])
def test_an_id_out_of_range(daemons: list[Daemon], source: Source, bad: int, inline: bool) -> None:
    client = daemons[0].connect(inline=inline)
    with pytest.raises(rudder.IdOutOfRangeError, match=str(bad)) as caught:
        client.fetch("f32", np.array([0, bad], dtype=np.uint64))
    assert isinstance(caught.value, IndexError)
    assert caught.value.code == "id_out_of_range"
    source.check("f32", [1], client.fetch("f32", [1]))


def test_an_unknown_table(client: rudder.Client) -> None:
    with pytest.raises(rudder.UnknownTableError, match="^no table `nope`.*`f32`") as caught:
        client.fetch("nope", [1])
    assert isinstance(caught.value, KeyError)
    with pytest.raises(TypeError):
        client.fetch(3, [1])  # type: ignore[call-overload]


def test_a_fetch_over_a_limit_of_the_daemon(client: rudder.Client, source: Source) -> None:
    with pytest.raises(rudder.LimitError, match=rf"ids_max.*{IDS_MAX}"):
        client.fetch("u8", np.zeros(IDS_MAX + 1, dtype=np.int64))
    source.check("u8", [1], client.fetch("u8", [1]))


def test_a_fetch_over_the_clients_own_memory(daemons: list[Daemon], source: Source) -> None:
    client = daemons[0].connect(arena_bytes_max=1 << 20)
    kept = client.fetch("f32", np.arange(5_000))
    with pytest.raises(rudder.SharedMemoryError, match="arena_bytes_max") as caught:
        client.fetch("f32", np.zeros(20_000, dtype=np.int64))
    assert isinstance(caught.value, MemoryError)
    source.check("f32", np.arange(5_000), kept)
    source.check("f32", [1], client.fetch("f32", [1]))


@pytest.mark.parametrize("numbers", [(-1, 0, 1), (0, -1, 1), (0, 0, 0), (2**32, 0, 1)])
def test_progress_that_makes_no_sense(client: rudder.Client, numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be from"):
        client.progress(*numbers)


BAD_CALLS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("grow", {"rows": -1}, ValueError, "rows is -1"),
    ("grow", {"rows": np.int64(-5)}, ValueError, "rows is -5"),
    ("grow", {"rows": 2**64}, ValueError, "rows is 18446744073709551616"),
    ("grow", {"rows": 1.5}, TypeError, "float"),
    ("grow", {"factor": float("inf")}, ValueError, "factor is inf"),
    ("grow", {"factor": -1.0}, rudder.ArgumentError, "factor"),
    ("grow", {}, rudder.ArgumentError, "rows"),
    ("evict", {"fraction": float("nan")}, ValueError, "fraction is nan"),
    ("evict", {"fraction": 2.0}, rudder.ArgumentError, "fraction"),
    ("refresh", {"max_age_s": float("nan")}, ValueError, "max_age_s is nan"),
    ("refresh", {"max_age_s": -1}, rudder.ArgumentError, "max_age_s"),
]


@pytest.mark.parametrize(("tool", "arguments", "error", "message"), BAD_CALLS)
def test_a_tool_with_an_argument_that_makes_no_sense(
    client: rudder.Client, source: Source, tool: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(client, tool)(**arguments)
    source.check("f32", [1], client.fetch("f32", [1]))


def test_options_that_make_no_sense() -> None:
    for timeout_s in (0, -1, float("inf"), float("nan"), 1e300, 1e9):
        with pytest.raises(ValueError, match="timeout_s"):
            rudder.connect("/nowhere", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="arena_bytes_max"):
        rudder.connect("/nowhere", arena_bytes_max=0)


def test_no_daemon(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(rudder.ConnectError, match="/nowhere.*is it running") as caught:
        rudder.connect("/nowhere")
    assert isinstance(caught.value, ConnectionError)
    monkeypatch.setenv("RUDDER_SOCKET", "/from/the/environment")
    with pytest.raises(rudder.ConnectError, match="/from/the/environment"):
        rudder.connect()
    # Empty is the same as unset, and the message still names a path.
    monkeypatch.setenv("RUDDER_SOCKET", "")
    with pytest.raises(rudder.ConnectError, match="/run/rudder/rudder.sock"):
        rudder.connect()


@pytest.mark.parametrize("words", [b"\xff" * 64, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\1\0\0\0\0\0\0\0\xff"])
def test_somebody_else_listens(folder: Path, words: bytes) -> None:
    path = folder / "stranger.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            stream, _ = listener.accept()
            stream.sendall(words)
            stream.recv(1 << 16)
            stream.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(rudder.RudderError):
            rudder.connect(path, timeout_s=2)
        thread.join()
    path.unlink()


def test_a_daemon_that_hangs_is_a_timeout(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect(timeout_s=0.5)
    own_daemons[0].freeze()
    start = time.monotonic()
    with pytest.raises(rudder.TimeoutError, match="500 ms") as caught:
        client.fetch("f32", [1])
    assert isinstance(caught.value, builtins.TimeoutError)
    assert time.monotonic() - start < 5
    own_daemons[0].signal(signal.SIGCONT)
    source.check("f32", [2], client.fetch("f32", [2]))


def test_ctrl_c_ends_a_wait(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect(timeout_s=30)
    own_daemons[0].freeze()
    # A shell starts what it puts in the background with SIGINT ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # The timer's thread runs at all only because the wait gave up the interpreter's lock.
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.fetch("f32", [1])
        assert time.monotonic() - start < 5
    finally:
        signal.signal(signal.SIGINT, before)
    own_daemons[0].signal(signal.SIGCONT)
    source.check("f32", [2], client.fetch("f32", [2]))


def test_a_peer_that_is_gone_and_comes_back(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect()
    remote = source.remote_ids("f32")[:100]
    own_daemons[1].kill()
    start = time.monotonic()
    with pytest.raises(rudder.PeerUnavailableError, match="100 rows.*f32"):
        client.fetch("f32", remote)
    assert time.monotonic() - start < 20
    source.check("f32", [0, 1], client.fetch("f32", [0, 1]))

    own_daemons[1].start()
    own_daemons[1].wait_until_ready()
    deadline = time.monotonic() + 20
    while True:
        try:
            source.check("f32", remote, client.fetch("f32", remote))
            break
        except rudder.PeerUnavailableError:
            assert time.monotonic() < deadline


def test_a_daemon_that_is_killed_and_comes_back(own_daemons: list[Daemon], source: Source) -> None:
    client = own_daemons[0].connect()
    kept = client.fetch("f32", np.arange(100))
    own_daemons[0].freeze()
    pending = client.fetch_async("f32", [1])
    own_daemons[0].kill()
    with pytest.raises(rudder.ConnectionLostError, match="lost"):
        pending.wait()
    with pytest.raises(rudder.ConnectError):
        client.fetch("f32", [1])
    source.check("f32", np.arange(100), kept)

    own_daemons[0].start()
    own_daemons[0].wait_until_ready()
    source.check("f32", [1], client.fetch("f32", [1]))
    source.check("f32", np.arange(100), kept)


def test_a_daemon_that_comes_back_with_other_tables(
    own_daemons: list[Daemon], dataset: Path, folder: Path
) -> None:
    client = own_daemons[0].connect()
    other = Source(seed=2)
    other.arrays["f32"] = other.arrays["f32"][:, :3].copy()
    configuration = own_daemons[0].configuration
    moved = str(other.build(folder / "other"))
    own_daemons[0].stop()
    configuration.write_text(configuration.read_text().replace(str(dataset), moved))
    own_daemons[0].start()
    own_daemons[0].wait_until_ready()
    with pytest.raises(rudder.TablesChangedError, match="make a new client"):
        client.fetch("f32", [1])
    rows = own_daemons[0].connect().fetch("f32", [1])
    other.check("f32", [1], rows)


def test_every_error_has_a_code_of_its_own_and_travels() -> None:
    classes = [getattr(rudder, name) for name in rudder.errors.__all__]
    assert len({error.code for error in classes}) == len(classes)
    for error in classes:
        assert issubclass(error, rudder.RudderError)
        copy = pickle.loads(pickle.dumps(error("what happened")))
        assert (type(copy), str(copy)) == (error, "what happened")
