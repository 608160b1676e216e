#!/usr/bin/env python3
"""Rudder under observation: real daemons under load, and a real Prometheus that scrapes them as ``deploy/prometheus`` says.

Owns the processes. Two clusters of two daemons, as no single one shows every metric: ``rudder demo`` trains through the first (agent with
rules, lookahead), the second serves blocks with a token, and its agent's model does not answer. Run as a program it holds all of this
until it is interrupted, for looking around and for ``dashboards/render.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from live_programs import free_ports

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy" / "prometheus"
#: Long, as a machine with a core or two may be busy with much else.
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
TOKEN = "a-token-of-the-tests"

#: Rows of the second cluster's table; the upper half is node 1's.
ROWS = 8_000
WIDTH = 64

_HOSTS = iter(range(1, 250))


def program(name: str) -> str:
    """Path of a program of this workspace, in ``$RUDDER_BIN`` or the release build."""
    path = Path(os.environ.get("RUDDER_BIN", REPOSITORY / "target" / "release")) / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `cargo build --release`, or set RUDDER_BIN")
    return str(path)


def run(*command: str | Path) -> str:
    """Run a program of this workspace and answer what it prints."""
    name, *arguments = map(str, command)
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stderr}")
    return done.stdout


def own_address(kind: int = socket.SOCK_STREAM) -> str:
    """An address for a server of this process: loopback is a whole /8, so that nobody else takes it in the meantime."""
    pid = os.getpid()
    host = f"127.{1 + (pid >> 8) % 250}.{pid % 256}.{next(_HOSTS)}"
    return f"{host}:{free_ports(1, host, kind)[0]}"


def get(url: str, token: str | None = None, body: Any = None, timeout_s: float = 10.0) -> str:
    """What a server answers; by POST with a JSON body."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout_s) as answer:
        return answer.read().decode()


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = READY_TIMEOUT_S) -> Any:
    """Wait until a condition holds, and answer what it gave. An ``OSError`` or ``ValueError`` means not yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            found = condition()
            if found:
                return found
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")


class Process:
    """A program that runs beside the tests, in a process group of its own, with its log in a file."""

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("ab") as file:
            self.child = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def check(self) -> None:
        """Fail with the end of the log if the program has ended."""
        if self.child.poll() is not None:
            raise RuntimeError(f"{self.child.args} ended with {self.child.returncode}:\n{self.log.read_text()[-3000:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the program, and all that it started."""
        if self.child.poll() is None:
            self.child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(STOP_TIMEOUT_S)


def write_npy(path: Path, rows: int, width: int) -> None:
    """Write random 32-bit floats as a ``.npy`` file (format 1.0), without NumPy."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    draw = random.Random(1)
    body = b"".join(struct.pack(f"<{width}f", *(draw.random() for _ in range(width))) for _ in range(rows))
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body)


class Demo:
    """Two daemons through which ``rudder demo`` trains, for as long as is wanted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        command = [
            program("rudder"),
            "demo",
            "--graph",
            "powerlaw:20000",
            "--dim",
            "16",
            "--epochs",
            "10000",
            "--policy",
            "epoch",
        ]
        command += ["--capacity", "0.05", "--ceiling", "0.25", "--lookahead", "2", "--controller", "rules", "--window", "1000"]
        self.process = Process(command, folder / "log", TMPDIR=str(folder))
        self.admin: list[str] = []

    def wait_until_ready(self) -> None:
        """Wait until both daemons serve: their addresses are in the configurations that the demo wrote."""

        def found() -> list[str]:
            self.process.check()
            files = sorted(self.folder.glob("*/*/node*/rudderd.toml"))
            listens = [re.search(r'\[admin\][^\[]*?listen = "([^"]+)"', file.read_text()) for file in files]
            return [listen[1] for listen in listens if listen] if len(files) == 2 and all(listens) else []

        self.admin = wait_for("the demo's configurations", found)
        for admin in self.admin:
            wait_for(f"{admin} ready", lambda admin=admin: get(f"http://{admin}/readyz"))


class Blocks:
    """Two daemons that serve blocks to each other; their agent's model does not answer. A Prometheus may show them the cluster."""

    def __init__(self, folder: Path, nodes: int = 2, prometheus: str = "") -> None:
        folder.mkdir()
        write_npy(folder / "feat.npy", ROWS, WIDTH)
        run(
            "rudder",
            "import",
            "npy",
            "--out",
            folder / "data",
            "--parts",
            str(nodes),
            "--table",
            f"feat={folder / 'feat.npy'}",
            "--json",
        )
        run("rudder", "certs", "init", "--out", folder / "certs", "--json")
        for node in range(nodes):
            run("rudder", "certs", "issue", "--authority", folder / "certs", "--node", str(node), "--json")
        (folder / "token").write_text(TOKEN)
        self.folder = folder
        self.admin = [own_address() for _ in range(nodes)]
        peers = [own_address(socket.SOCK_DGRAM) for _ in range(nodes)]
        addresses = "\n".join(f'{node} = "{peer}"' for node, peer in enumerate(peers))
        for node in range(nodes):
            (folder / f"{node}.toml").write_text(
                f"""
                [node]
                index = {node}
                drain_ms = 1000
                [dataset]
                path = "{folder / "data"}"
                access = "blocks"
                block_bytes = 4096
                block_cache_bytes = 262144
                [local]
                socket = "{folder / f"{node}.sock"}"
                [cache]
                capacity = 2000
                staleness_max_ms = 2000
                [peers]
                listen = "{peers[node]}"
                authority = "{folder / "certs" / "ca.pem"}"
                certificate = "{folder / "certs" / f"node-{node}.pem"}"
                key = "{folder / "certs" / f"node-{node}.key"}"
                idle_timeout_ms = 2000
                keep_alive_ms = 500
                [peers.addresses]
                {addresses}
                [agent]
                controller = "llm"
                llm_base_url = "http://127.0.0.1:9/v1"
                llm_model = "nobody"
                window_ms = 1000
                deadline_ms = 500
                llm_timeout_ms = 500
                prometheus_url = "{prometheus}"
                [admin]
                listen = "{self.admin[node]}"
                token_file = "{folder / "token"}"
                """
            )
        self.processes = [self._spawn(node) for node in range(nodes)]

    def _spawn(self, node: int) -> Process:
        return Process([program("rudderd"), "--config", str(self.folder / f"{node}.toml")], self.folder / f"{node}.log")

    def wait_until_ready(self) -> None:
        """Wait until both daemons serve."""
        for process, admin in zip(self.processes, self.admin):

            def ready(process: Process = process, admin: str = admin) -> str:
                process.check()
                return get(f"http://{admin}/readyz")

            wait_for(f"{admin} ready", ready)

    def kill(self, node: int) -> None:
        """End a daemon at once."""
        self.processes[node].stop(signal.SIGKILL)

    def start(self, node: int) -> None:
        """Start a daemon that was ended."""
        self.processes[node] = self._spawn(node)

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.stop()


class Prometheus:
    """A Prometheus with the files of ``deploy/prometheus``, in a copy: only its intervals are shorter, and its targets real."""

    #: Seconds between scrapes, and the longest that one may take.
    SCRAPE_S = 2

    def __init__(self, folder: Path, address: str, targets: list[str]) -> None:
        shutil.copytree(DEPLOY, folder)
        (folder / "token").write_text(TOKEN)
        (folder / "targets" / "rudder.json").write_text(json.dumps([{"targets": targets}]))
        shorter = {"scrape_interval: 15s": f"scrape_interval: {self.SCRAPE_S}s", "evaluation_interval: 30s": "evaluation_interval: 1s"}
        shorter |= {"scrape_timeout: 5s": f"scrape_timeout: {self.SCRAPE_S}s", "interval: 30s": "interval: 1s"}
        for file in [folder / "prometheus.yml", *(folder / "rules").glob("*.yml")]:
            text = file.read_text()
            for long, short in shorter.items():
                text = text.replace(long, short)
            file.write_text(text)
        self.url = f"http://{address}"
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        self.process = Process([*command, f"--web.listen-address={address}", "--log.level=warn"], folder / "log")

    def wait_until_ready(self) -> None:
        """Wait until it answers."""

        def ready() -> str:
            self.process.check()
            return get(f"{self.url}/-/ready")

        wait_for("Prometheus", ready)

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of Prometheus' HTTP interface; a ``ValueError`` names what it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            return json.loads(get(url))["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None

    def range(self, query: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """The series of a query over a span of time."""
        return self.ask("query_range", query=query, start=start, end=end, step=step)["result"]


class Observed:
    """Everything together, and the load on the second cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begin = time.time()
        self._done = threading.Event()
        self._until = contextlib.ExitStack()

    def __enter__(self) -> Observed:
        with contextlib.ExitStack() as stack:
            address = own_address()
            self.blocks = Blocks(self.folder / "blocks", prometheus=f"http://{address}")
            stack.callback(self.blocks.stop)
            self.demo = Demo(self.folder / "demo")
            stack.callback(self.demo.process.stop)
            self.blocks.wait_until_ready()
            self.demo.wait_until_ready()
            self.prometheus = Prometheus(self.folder / "prometheus", address, self.targets)
            stack.callback(self.prometheus.process.stop)
            self.prometheus.wait_until_ready()
            worker = threading.Thread(target=self._load, daemon=True)
            stack.callback(worker.join, STOP_TIMEOUT_S)
            stack.callback(self._done.set)
            worker.start()
            self._until = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._until.close()

    @property
    def targets(self) -> list[str]:
        """The addresses of all daemons' HTTP interfaces."""
        return [*self.demo.admin, *self.blocks.admin]

    def _tool(self, admin: str, name: str, **arguments: Any) -> None:
        # A daemon may be down, as a test has killed it.
        with contextlib.suppress(OSError):
            get(f"http://{admin}/v1/tools/{name}", TOKEN, arguments)

    def _load(self) -> None:
        """What an operator could do: empty and warm the caches of the second cluster, and take slots from the demo, whose agent wants
        them back.
        """
        draw = random.Random(2)
        for turn in range(1_000_000):
            for node, admin in enumerate(self.blocks.admin):
                others = range(ROWS // 2, ROWS) if node == 0 else range(ROWS // 2)
                self._tool(admin, "grow", rows=100)
                self._tool(admin, "grow", rows=2000)
                self._tool(admin, "warm", table="feat", ids=draw.sample(others, 1500))
            if turn % 12 == 5:
                self._tool(self.demo.admin[turn // 12 % 2], "grow", factor=0.1)
            if self._done.wait(1.0):
                return


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path: the path of a socket may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="rudder-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Hold everything until interrupted."""
    parser = argparse.ArgumentParser(description="Real daemons under load, scraped by a real Prometheus, until interrupted.")
    parser.add_argument(
        "--kill-after", type=float, default=0.0, metavar="S", help="kill a daemon after S seconds, for half a minute"
    )
    parser.add_argument("--seconds", type=float, default=1e9, metavar="S", help="how long; until interrupted when left out")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep what Prometheus gathered in DIR, for its --storage.tsdb.path"
    )
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with short_folder() as folder, Observed(folder) as observed:
        print(f"Prometheus: {observed.prometheus.url}\nDaemons:    {' '.join(observed.targets)}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            if arguments.kill_after > 0:
                time.sleep(arguments.kill_after)
                observed.blocks.kill(1)
                time.sleep(30)
                observed.blocks.start(1)
            while time.monotonic() < end:
                time.sleep(0.5)
        if arguments.keep:
            observed.prometheus.process.stop()
            shutil.copytree(folder / "prometheus" / "data", arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
