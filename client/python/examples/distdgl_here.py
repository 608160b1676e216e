"""Two hosts of a DistDGL cluster on one machine: each in a network namespace with a /dev/shm of its own.

It owns the namespaces, the link between them, and the processes that run there; all of it ends with this process. It needs root
and the programs `unshare`, `nsenter`, `ip` and, to make the link slow, `tc`.

    python distdgl_here.py [--partition GRAPH.json] [--rate 1gbit] distdgl_sage.py [arguments of the script]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

#: The hosts' addresses.
ADDRESSES = ("10.77.0.1", "10.77.0.2")

#: Port of DistDGL's servers, and of the trainers' process group.
SERVER_PORT, GROUP_PORT = 30_050, 29_500

#: Longest wait for a server to listen, and for processes to end, in seconds.
TIMEOUT_S = 120.0


class Hosts:
    """The two hosts. A context manager: at its end, what runs there is killed.

    Parameters
    ----------
    rate : str, optional
        Of the link, as `tc` has it: ``"100mbit"``. By default it is not limited.
    """

    def __init__(self, rate: str | None = None) -> None:
        self._anchors: list[subprocess.Popen[bytes]] = []
        self._running: list[subprocess.Popen[bytes]] = []
        self._rate = rate

    def __enter__(self) -> Hosts:
        try:
            for _ in ADDRESSES:
                self._anchors.append(_anchor())
            first, second = (anchor.pid for anchor in self._anchors)
            self._ip(0, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(second))
            for host, address in enumerate(ADDRESSES):
                self._ip(host, "addr", "add", f"{address}/24", "dev", "eth0")
                self._ip(host, "link", "set", "eth0", "up")
            if self._rate is not None:
                self.limit(self._rate)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs there; the namespaces go with the last process."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for anchor in self._anchors:
            anchor.kill()
            anchor.wait()
            for pipe in (anchor.stdin, anchor.stdout):
                if pipe is not None:
                    pipe.close()
        self._running, self._anchors = [], []

    def limit(self, rate: str | None) -> None:
        """Give the link another rate, in both directions; ``None`` for no limit."""
        for host in range(len(ADDRESSES)):
            self._quiet(host, "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
            if rate is not None:
                self._quiet(
                    host, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
                    "rate", rate, "burst", "256kb", "latency", "50ms",
                )  # fmt: skip

    def start(
        self, host: int, command: Sequence[str], env: Mapping[str, str] | None = None, **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a process on a host; `options` are those of `subprocess.Popen`."""
        process: subprocess.Popen[bytes] = subprocess.Popen(
            self.command(host, command), env={**os.environ, **(env or {})}, start_new_session=True, **options
        )
        self._running.append(process)
        return process

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on a host."""
        return ["nsenter", f"--target={self._anchors[host].pid}", "--net", "--mount", "--", *command]

    def sent_bytes(self, host: int) -> int:
        """Bytes that a host has sent to the other."""
        lines = Path(f"/proc/{self._anchors[host].pid}/net/dev").read_text().splitlines()
        return int(next(line for line in lines if line.strip().startswith("eth0:")).split(":")[1].split()[8])

    def wait_for_port(self, host: int, port: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until a process listens on a port of a host."""
        deadline = time.monotonic() + TIMEOUT_S
        table = Path(f"/proc/{self._anchors[host].pid}/net/tcp")
        while not any(
            line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
            for line in table.read_text().splitlines()[1:]
        ):
            if process.poll() is not None:
                raise RuntimeError(f"the server of host {host} ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server of host {host} does not listen on port {port} after {TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def _ip(self, host: int, *arguments: str) -> None:
        self._quiet(host, "ip", *arguments)

    def _quiet(self, host: int, *command: str, check: bool = True) -> None:
        done = subprocess.run(self.command(host, command), capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _anchor() -> subprocess.Popen[bytes]:
    """A process that holds the namespaces of one host until its input ends."""
    script = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo ready && exec cat"
    anchor = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert anchor.stdout is not None
    if anchor.stdout.readline() != b"ready\n":
        raise RuntimeError("no namespaces: this needs root, and the programs unshare, mount and ip")
    return anchor


def write_ip_config(folder: Path) -> Path:
    """DGL's list of hosts."""
    path = folder / "ip_config.txt"
    path.write_text("".join(f"{address} {SERVER_PORT}\n" for address in ADDRESSES))
    return path


@contextlib.contextmanager
def cluster(
    hosts: Hosts, folder: Path, graph: Path, command: Sequence[str], samplers: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A server and a trainer on each host, all running `command`; gives the trainers' processes.

    `graph` is the partition that the servers load. The trainers write to `hostN/out` and `hostN/err` in `folder`, the servers
    to `servers.log`.
    """
    shared = {
        "DGLBACKEND": "pytorch",
        "DGL_DIST_MODE": "distributed",
        "DGL_IP_CONFIG": str(write_ip_config(folder)),
        "DGL_CONF_PATH": str(graph),
        "DGL_NUM_SERVER": "1",
        "DGL_NUM_CLIENT": str(len(ADDRESSES) * (1 + samplers)),
        "DGL_NUM_SAMPLER": str(samplers),
        "DGL_GRAPH_FORMAT": "csc",
        "DGL_KEEP_ALIVE": "0",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": ADDRESSES[0],
        "MASTER_PORT": str(GROUP_PORT),
        "GLOO_SOCKET_IFNAME": "eth0",
        "WORLD_SIZE": str(len(ADDRESSES)),
        **(env or {}),
    }
    servers, trainers = [], []
    with (folder / "servers.log").open("ab") as log:
        for host in range(len(ADDRESSES)):
            role = {"DGL_ROLE": "server", "DGL_SERVER_ID": str(host)}
            servers.append(hosts.start(host, command, {**shared, **role}, stdout=log, stderr=log))
        for host, server in enumerate(servers):
            try:
                hosts.wait_for_port(host, SERVER_PORT, server)
            except RuntimeError as error:
                raise RuntimeError(f"{error}:\n{(folder / 'servers.log').read_text()[-4000:]}") from None
        for host in range(len(ADDRESSES)):
            # Each host keeps what its daemons need at run time in a folder of its own.
            home = folder / f"host{host}"
            home.mkdir(exist_ok=True)
            role = {"DGL_ROLE": "client", "RANK": str(host), "XDG_RUNTIME_DIR": str(home)}
            with (home / "out").open("wb") as out, (home / "err").open("wb") as err:
                trainers.append(hosts.start(host, command, {**shared, **role}, stdout=out, stderr=err))
        yield trainers
        if all(process.poll() == 0 for process in trainers):
            for server in servers:
                server.wait(TIMEOUT_S)


def generated(folder: Path, rows: int = 4000, width: int = 32, parts: int = 2) -> Path:
    """A partition of a small graph, the same each time."""
    import dgl
    import torch

    torch.manual_seed(7)
    dgl.seed(7)
    kinds = torch.arange(rows) % 8
    heads, others = torch.randint(0, rows, (2, 8 * rows))
    tails = torch.where(torch.rand(8 * rows) < 0.8, heads + 8 * torch.randint(0, 4, (8 * rows,)), others) % rows
    graph = dgl.to_bidirected(dgl.graph((heads, tails), num_nodes=rows))
    graph.ndata["feat"] = torch.randn(rows, width) + torch.nn.functional.one_hot(kinds, width)
    graph.ndata["label"] = kinds
    graph.ndata["train_mask"] = torch.rand(rows) < 0.6
    with contextlib.redirect_stdout(sys.stderr):
        dgl.distributed.partition_graph(graph, "generated", parts, str(folder), part_method="metis")
    return folder / "generated.json"


def certificates(folder: Path) -> Path:
    """Certificates of the hosts' daemons."""
    from rudder._programs import find_program

    rudder = find_program("rudder")
    with open(os.devnull, "wb") as nowhere:
        subprocess.run([rudder, "certs", "init", "--out", str(folder)], check=True, stdout=nowhere)
        subprocess.run([rudder, "certs", "issue", "--authority", str(folder), "--nodes", "0-1"], check=True, stdout=nowhere)
    return folder


def main() -> None:
    """Run a script on both hosts and print what its first trainer prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--partition", type=Path, help="GRAPH.json of two parts; by default a small graph is made")
    parser.add_argument("--servers", type=Path, help="GRAPH.json for DistDGL's servers, where it is another (stripped)")
    parser.add_argument("--rate", help="of the link between the hosts, such as 100mbit")
    parser.add_argument("--samplers", type=int, default=0, help="sampler processes of each trainer")
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as name, Hosts(given.rate) as hosts:
        folder = Path(name)
        partition = given.partition or generated(folder / "partition")
        command = [
            sys.executable, str(given.script.resolve()), "--ip-config", str(folder / "ip_config.txt"), "--partition", str(partition),
            "--certs", str(certificates(folder / "certs")), *given.arguments,
        ]  # fmt: skip
        with cluster(hosts, folder, given.servers or partition, command, given.samplers) as trainers:
            failed = ended(folder, trainers)
        lines = (folder / "host0" / "out").read_text().splitlines()
        # DGL prints on standard output, too.
        sys.stdout.writelines(f"{line}\n" for line in lines if line.startswith(("{", "epoch ")))
    sys.exit(failed)


def ended(folder: Path, trainers: list[subprocess.Popen[bytes]], timeout_s: float | None = None) -> str | None:
    """Wait for the trainers; where one has failed, the end of what it wrote. The others would wait for it for ever."""
    deadline = time.monotonic() + (timeout_s or 1e9)
    while True:
        for host, process in enumerate(trainers):
            if process.poll() not in (None, 0):
                return f"host {host} ended with {process.returncode}:\n" + (folder / f"host{host}" / "err").read_text()[-4000:]
        if all(process.poll() == 0 for process in trainers):
            return None
        if time.monotonic() > deadline:
            said = "\n".join((folder / f"host{host}" / "err").read_text()[-2000:] for host in range(len(trainers)))
            return f"the trainers have not ended after {timeout_s:.0f} s:\n{said}"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
