"""Real daemons for the tests: builds a dataset and certificates with ``rudder``, starts one ``rudderd`` per part."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rudder

REPOSITORY = Path(__file__).resolve().parents[3]
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0

#: Ids one fetch may have, small enough for a test to go over it.
IDS_MAX = 200_000

#: Ports of coming clusters.
_PORTS = itertools.count(20_000)


def program(name: str) -> str:
    """Path of a program of this workspace, in ``$RUDDER_BIN_DIR`` or the release build."""
    path = Path(os.environ.get("RUDDER_BIN_DIR", REPOSITORY / "target" / "release")) / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `cargo build --release`, or set RUDDER_BIN_DIR")
    return str(path)


def run(*command: str | Path) -> str:
    """Run a program of this workspace and answer what it prints."""
    name, *arguments = map(str, command)
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stderr}")
    return done.stdout


def own_addresses(nodes: int) -> list[str]:
    """UDP addresses for the daemons of one cluster, which stay free while a daemon is down.

    Loopback is a whole /8: each process takes hosts of its own in it, and ports that the kernel gives to nobody.
    """
    pid, port = os.getpid(), next(_PORTS)
    hosts = [f"127.{1 + (pid >> 8) % 250}.{pid % 256}.{1 + node % 250}" for node in range(nodes)]
    return [f"{host}:{port}" for host in hosts]


def random_bits(rng: np.random.Generator, dtype: str, rows: int, width: int) -> np.ndarray:
    """Rows of random bits, so that every value there is (not-a-numbers too) must come back as it was."""
    itemsize = np.dtype(dtype).itemsize
    return rng.integers(0, 256, (rows, width * itemsize), dtype=np.uint8).view(dtype)


class Source:
    """The arrays that the dataset was built from: what every fetch must equal.

    Attributes
    ----------
    arrays : dict of str to numpy.ndarray
        Table name to rows; ``bf16`` as ``uint16``.
    """

    ROWS = 6_000
    ITEMS = 1_500

    def __init__(self, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.arrays = {
            "f32": random_bits(rng, "<f4", self.ROWS, 17),
            "f16": random_bits(rng, "<f2", self.ROWS, 5),
            "bf16": random_bits(rng, "<u2", self.ROWS, 3),
            "f64": random_bits(rng, "<f8", self.ROWS, 2),
            "i64": random_bits(rng, "<i8", self.ROWS, 1),
            "u8": random_bits(rng, "u1", self.ROWS, 13),
            # Another vertex type, whose owners are a map without order.
            "item.x": random_bits(rng, "<f4", self.ITEMS, 32),
        }
        self.item_owner = rng.integers(0, 2, self.ITEMS, dtype=np.uint16)

    def build(self, folder: Path) -> Path:
        """Write the arrays and import them as a dataset of two parts; answer its folder."""
        folder.mkdir()
        arguments: list[str] = []
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array)
            table = "x@item" if name == "item.x" else name
            dtype = ":bf16" if name == "bf16" else ""
            arguments += ["--table", f"{table}={folder / name}.npy{dtype}"]
        np.save(folder / "owner.npy", self.item_owner)
        dataset = folder / "dataset"
        book = f"item=map:{folder / 'owner.npy'}"
        run("rudder", "import", "npy", "--out", dataset, "--parts", "2", *arguments, "--book", book, "--json")
        return dataset

    def check(self, table: str, ids: Any, rows: np.ndarray) -> None:
        """Hold fetched rows against the source, bit for bit."""
        expected = self.arrays[table][np.asarray(ids, dtype=np.int64)]
        assert rows.shape == expected.shape
        assert rows.dtype == expected.dtype
        assert rows.tobytes() == expected.tobytes()

    def remote_ids(self, table: str) -> np.ndarray:
        """Ids of a table with the default book that node 1 owns."""
        rows = len(self.arrays[table])
        return np.arange(rows // 2 + 1, rows)


class Daemon:
    """One ``rudderd``.

    Parameters
    ----------
    folder : pathlib.Path
        Where its socket and its log go.
    configuration : str
        TOML.
    """

    def __init__(self, folder: Path, configuration: str) -> None:
        folder.mkdir(exist_ok=True)
        self.socket = folder / "rudder.sock"
        self.log = folder / "log"
        self.configuration = folder / "rudderd.toml"
        self.configuration.write_text(configuration)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; :meth:`wait_until_ready` waits for it."""
        with self.log.open("ab") as log:
            command = [program("rudderd"), "--config", str(self.configuration)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Wait until the daemon answers on its socket."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"rudderd ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                rudder.connect(self.socket, timeout_s=5)
                return
            except rudder.ConnectError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"rudderd is not ready:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop every thread of the process, until ``signal(SIGCONT)``."""
        self.signal(signal.SIGSTOP)
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task")
        while any((task / "stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for task in tasks.iterdir()):
            time.sleep(0.001)

    def kill(self) -> None:
        """End the process at once."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """End the process as an operator would; kill it if it does not go."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def connect(self, **options: Any) -> rudder.Client:
        """A client of this daemon."""
        return rudder.connect(self.socket, **options)


def meet(daemon: Daemon, source: Source) -> None:
    """Wait until node 0 has a connection to node 1.

    It dials when it first needs a row from there. On a very busy machine that takes longer than a fetch may wait.

    Parameters
    ----------
    daemon : Daemon
        Node 0.
    source : Source
        Whose remote rows to ask for.
    """
    client = daemon.connect()
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            client.fetch("f32", source.remote_ids("f32")[:1])
            return
        except rudder.PeerUnavailableError:
            if time.monotonic() > deadline:
                raise


def accounted(client: rudder.Client, table: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return a table's part of the status once a condition holds of it, or what it is after ten seconds.

    The daemon answers a fetch first and keeps its accounts of it a moment later, so a status that is asked for at once
    may not know of the fetch yet.

    Parameters
    ----------
    client : rudder.Client
        Of the daemon to ask.
    table : str
        The table's name.
    condition : callable
        What must hold of the table's part of the status.

    Returns
    -------
    dict
        The last one that was read.
    """
    deadline = time.monotonic() + 10
    while True:
        state = next(state for state in client.status()["tables"] if state["name"] == table)
        if condition(state) or time.monotonic() > deadline:
            return state
        time.sleep(0.01)


def certificates(folder: Path, nodes: int) -> Path:
    """Make an authority and a certificate for each node."""
    run("rudder", "certs", "init", "--out", folder, "--json")
    for node in range(nodes):
        run("rudder", "certs", "issue", "--authority", folder, "--node", str(node), "--json")
    return folder


@contextlib.contextmanager
def cluster(
    folder: Path, dataset: Path, authority: Path, nodes: int = 2, more: str = ""
) -> Iterator[list[Daemon]]:
    """Daemons of every part, ready; they are stopped at the end.

    Parameters
    ----------
    folder : pathlib.Path
        Where sockets and logs go; short, for the length of a socket's path is limited.
    dataset, authority : pathlib.Path
        From :meth:`Source.build` and :func:`certificates`.
    nodes : int
        Parts of the dataset.
    more : str
        TOML that is added to the configuration of each.
    """
    hosts = own_addresses(nodes)
    addresses = "\n".join(f'{node} = "{host}"' for node, host in enumerate(hosts))
    daemons = []
    for node, host in enumerate(hosts):
        configuration = f"""
            [node]
            index = {node}
            drain_ms = 2000
            [dataset]
            path = "{dataset}"
            [local]
            socket = "{folder / str(node) / 'rudder.sock'}"
            ids_max = {IDS_MAX}
            [peers]
            listen = "{host}"
            authority = "{authority / 'ca.pem'}"
            certificate = "{authority / f'node-{node}.pem'}"
            key = "{authority / f'node-{node}.key'}"
            connect_timeout_ms = 5000
            request_timeout_ms = 5000
            [admin]
            listen = "127.0.0.1:0"
            [peers.addresses]
            {addresses}
            {more}
        """
        daemons.append(Daemon(folder / str(node), configuration))
    try:
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            daemon.wait_until_ready()
        yield daemons
    finally:
        for daemon in daemons:
            daemon.stop()
