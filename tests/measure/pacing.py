"""What a trainer's own requests between two hosts wait for while rows are brought in ahead, and how fast those come.

Two sites of two daemons each, in network namespaces with a token bucket at both ends of the link, which differ in
``peers.bulk_queue_ms`` alone: 0 (bulk as fast as demand) and the value under test. In each round, by turns, each site
is measured idle and while a tool call brings rows in: the round trips of small requests over TCP from host to host,
the bytes that arrive, and the times of fetches of rows that are not cached. Needs to be root, ``ip`` and ``tc``, the
Python package ``rudder`` and NumPy:

    target/python-tests/bin/python tests/measure/pacing.py [--speed 100mbit] [--rounds N] [--queue-ms N] [--json]

"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import rudder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "live"))
from observed import Process, program, run, short_folder, wait_for  # noqa: E402

#: Floats of a row, and rows of a piece that is brought in at once; a second of a link of 100 Mbit/s.
WIDTH, PIECE_ROWS = 128, 22_000
#: Bytes of a small request and of its answer, and the pause between two.
ASKED_BYTES, ANSWER_BYTES, PAUSE_S = 200, 1_000, 0.002
#: Rows of a fetch that a trainer waits for.
FETCH_ROWS = 500
#: How long an idle link is looked at.
IDLE_S = 0.5
#: Port of the program that answers small requests.
PORT = 7_999
#: The longest wait in the queue of the link.
LINK_QUEUE_MS = 50

ECHO = f"""
import socket, sys
with socket.create_server((sys.argv[1], {PORT})) as server:
    while True:
        stream, _ = server.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while stream.recv({ASKED_BYTES}, socket.MSG_WAITALL):
            stream.sendall(bytes({ANSWER_BYTES}))
"""

ASK = f"""
import socket, sys, time
stream = socket.create_connection((sys.argv[1], {PORT}), timeout=30)
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    begin = time.monotonic()
    stream.sendall(bytes({ASKED_BYTES}))
    if len(stream.recv({ANSWER_BYTES}, socket.MSG_WAITALL)) < {ANSWER_BYTES}:
        break
    now = time.monotonic()
    print(now, now - begin, flush=True)
    time.sleep({PAUSE_S})
"""


def command(*arguments: str) -> None:
    """Run a program that says why it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")


@contextlib.contextmanager
def link(name: str, speed: str) -> Iterator[list[str]]:
    """Two namespaces that a shaped link joins; answers their names."""
    spaces = [f"{name}-{node}" for node in range(2)]
    rate = ["rate", speed, "burst", "5000", "latency", f"{LINK_QUEUE_MS}ms"]
    try:
        for space in spaces:
            command("ip", "netns", "add", space)
        command("ip", "-n", spaces[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", spaces[1])
        for node, space in enumerate(spaces):
            command("ip", "-n", space, "address", "add", f"10.78.0.{node + 1}/24", "dev", "eth0")
            command("ip", "-n", space, "link", "set", "eth0", "up")
            command("ip", "-n", space, "link", "set", "lo", "up")
            command("tc", "-n", space, "qdisc", "add", "dev", "eth0", "root", "tbf", *rate)
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


class Site:
    """Two hosts with a daemon each, and what is measured between them."""

    def __init__(self, folder: Path, shared: Path, spaces: list[str], queue_ms: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.spaces = spaces
        self.next_row = 0
        self.samples: list[tuple[float, float]] = []
        self.processes = [self._daemon(node, shared, queue_ms) for node in range(2)]
        self.processes.append(self._inside(1, "echo", [sys.executable, "-c", ECHO, "10.78.0.2"]))

    def _inside(self, node: int, name: str, arguments: list[str]) -> Process:
        return Process(["ip", "netns", "exec", self.spaces[node], *arguments], self.folder / f"{name}.log")

    def _daemon(self, node: int, shared: Path, queue_ms: int) -> Process:
        configuration = self.folder / f"{node}.toml"
        configuration.write_text(
            f"""
            [node]
            index = {node}
            [dataset]
            path = "{shared / "data"}"
            [local]
            socket = "{self.folder / f"{node}.sock"}"
            [cache]
            capacity = 1.0
            [peers]
            listen = "10.78.0.{node + 1}:7400"
            authority = "{shared / "certs" / "ca.pem"}"
            certificate = "{shared / "certs" / f"node-{node}.pem"}"
            key = "{shared / "certs" / f"node-{node}.key"}"
            bulk_queue_ms = {queue_ms}
            [peers.addresses]
            0 = "10.78.0.1:7400"
            1 = "10.78.0.2:7400"
            [admin]
            listen = "127.0.0.1:{7000 + node}"
            """
        )
        return self._inside(node, f"rudderd-{node}", [program("rudderd"), "--config", str(configuration)])

    def begin(self) -> None:
        """Connect, and begin to ask small requests."""

        def connect() -> rudder.Client:
            for process in self.processes:
                process.check()
            client = rudder.connect(self.folder / "0.sock")
            client.fetch("feat", [client.tables()["feat"].rows - 1])
            return client

        self.client = wait_for("the daemons", lambda: _quiet(connect))
        self.remote_first = self.client.tables()["feat"].local_rows
        self.rows = self.client.tables()["feat"].rows
        self.next_row = self.remote_first
        ask = ["ip", "netns", "exec", self.spaces[0], sys.executable, "-c", ASK, "10.78.0.2"]
        self.asking = subprocess.Popen(ask, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()
        wait_for("the first small request", lambda: self.samples)

    def _listen(self) -> None:
        assert self.asking.stdout is not None
        for line in self.asking.stdout:
            at, took = line.split()
            self.samples.append((float(at), float(took)))

    def _take(self, count: int) -> np.ndarray:
        first, self.next_row = self.next_row, self.next_row + count
        if self.next_row > self.rows:
            raise RuntimeError("the table has too few rows for so many rounds")
        return np.arange(first, self.next_row)

    def idle(self) -> list[float]:
        """Round trips, in ms, while nothing else crosses."""
        begin = time.monotonic()
        time.sleep(IDLE_S)
        return self._between(begin, time.monotonic())

    def bulk(self) -> tuple[list[float], float]:
        """Round trips while rows are brought in, and bits per second of their bytes."""
        ids = self._take(PIECE_ROWS)
        begin = time.monotonic()
        brought = self.client.warm("feat", ids)["tables"][0]["brought"]
        end = time.monotonic()
        if brought["asked_rows"] < PIECE_ROWS or brought["pending_rows"] > 0:
            raise RuntimeError(f"not all rows came: {brought}")
        return self._between(begin, end), PIECE_ROWS * WIDTH * 4 * 8 / (end - begin)

    def fetches(self) -> list[float]:
        """Times, in ms, of fetches that cross the link while rows are brought in."""
        done = threading.Event()
        ids = self._take(PIECE_ROWS)
        other = rudder.connect(self.folder / "0.sock")

        def warm() -> None:
            other.warm("feat", ids)
            done.set()

        threading.Thread(target=warm, daemon=True).start()
        times = []
        while not done.is_set():
            wanted = self._take(FETCH_ROWS)
            begin = time.monotonic()
            self.client.fetch("feat", wanted)
            times.append((time.monotonic() - begin) * 1e3)
            time.sleep(0.1)
        return times

    def _between(self, begin: float, end: float) -> list[float]:
        return [took * 1e3 for at, took in list(self.samples) if begin <= at - took and at <= end]

    def stop(self) -> None:
        """End everything."""
        if hasattr(self, "asking"):
            self.asking.kill()
            self.asking.wait()
        for process in self.processes:
            process.stop()


def _quiet(connect):  # type: ignore[no-untyped-def]
    """What ``connect`` answers; nothing while the daemons are not ready."""
    try:
        return connect()
    except rudder.RudderError:
        return None


def percentile(values: list[float], share: float) -> float:
    """The value at ``share`` of ``values``."""
    return sorted(values)[int((len(values) - 1) * share)]


def at_any_time(round_trips: list[float], share: float) -> float:
    """The same of what a request takes that is made at any time: in the time of a long round trip there were few others."""
    weights = [took + PAUSE_S * 1e3 for took in sorted(round_trips)]
    left = share * sum(weights)
    for took, weight in zip(sorted(round_trips), weights):
        left -= weight
        if left <= 0:
            return took
    return max(round_trips)


def measure(folder: Path, given: argparse.Namespace) -> list[dict[str, object]]:
    """Make the sites and let them take turns."""
    rows = 2 * given.rounds * (2 * PIECE_ROWS + 40 * FETCH_ROWS)
    np.save(folder / "feat.npy", np.random.default_rng(1).random((rows, WIDTH), dtype=np.float32))
    run("rudder", "import", "npy", "--out", folder / "data", "--parts", "2", "--table", f"feat={folder / 'feat.npy'}", "--json")
    run("rudder", "certs", "init", "--out", folder / "certs", "--json")
    for node in range(2):
        run("rudder", "certs", "issue", "--authority", folder / "certs", "--node", str(node), "--json")
    sites: dict[int, Site] = {}
    idle: list[float] = []
    bulk: dict[int, tuple[list[float], list[float], list[float]]] = {}
    with contextlib.ExitStack() as stack:
        for queue_ms in (0, given.queue_ms):
            spaces = stack.enter_context(link(f"rudder-pace-{os.getpid()}-{queue_ms}", given.speed))
            sites[queue_ms] = Site(folder / str(queue_ms), folder, spaces, queue_ms)
            stack.callback(sites[queue_ms].stop)
            bulk[queue_ms] = ([], [], [])
        for site in sites.values():
            site.begin()
        for _ in range(given.rounds):
            for queue_ms, site in sites.items():
                idle += site.idle()
                round_trips, speed = site.bulk()
                bulk[queue_ms][0].extend(round_trips)
                bulk[queue_ms][1].append(speed / 1e6)
                bulk[queue_ms][2].extend(site.fetches())
    lines: list[dict[str, object]] = [{"bulk": "none", **trips(idle)}]
    for queue_ms, (round_trips, speeds, fetches) in bulk.items():
        lines.append(
            {
                "bulk": f"bulk_queue_ms = {queue_ms}",
                **trips(round_trips),
                "bulk_mbit_s": round(statistics.median(speeds), 1),
                "fetch_ms_p50": round(percentile(fetches, 0.5), 1),
                "fetch_ms_p90": round(percentile(fetches, 0.9), 1),
            }
        )
    return lines


def trips(round_trips: list[float]) -> dict[str, object]:
    """What is said of round trips."""
    shares = {"rtt_ms_p50": 0.5, "rtt_ms_p90": 0.9, "rtt_ms_p99": 0.99}
    return {name: round(at_any_time(round_trips, share), 2) for name, share in shares.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--speed", default="100mbit")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--queue-ms", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with short_folder() as folder:
        lines = measure(folder, given)
    for line in lines:
        if given.json:
            print(json.dumps(line))
        else:
            print("  ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
