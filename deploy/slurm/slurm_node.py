"""The part of rudder-slurm that runs on each node: one task of the daemons' step, which starts, watches and restarts one rudderd.

It owns the node's ports and the folder of its socket. It must never make or remove certificates: the launcher does. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

#: Exit status for arguments or an environment that cannot be used, as rudderd's.
EXIT_USAGE = 64
#: Pause before a daemon that died is started again.
RESTART_PAUSE_S = 1.0
#: How long a daemon may take to notice the signal that Slurm has sent to the whole step, before it gets one of its own.
SIGNAL_GRACE_S = 1.0


class Failure(Exception):
    """Ends the program with a message and a status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def variable(name: str) -> str:
    """A variable that Slurm sets."""
    value = os.environ.get(name)
    if not value:
        raise Failure(f"{name} is not set: this runs inside a job only (sbatch, salloc)", EXIT_USAGE)
    return value


def private_folder(path: Path) -> None:
    """Make a folder that only its owner enters; one that is there must be ours and as private."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise Failure(f"{path} is there and not a folder of this user: remove it, or choose another place") from None
        path.chmod(0o700)
    except OSError as error:
        raise Failure(f"cannot make {path}: {error.strerror}") from error


def port_range(text: str) -> Tuple[int, int]:
    """``A-B`` of the command line."""
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not found or not 1024 <= int(found[1]) < int(found[2]) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no range of ports: write two from 1024 to 65535, such as 20000-29999")
    return int(found[1]), int(found[2])


def address(host: str, port: int) -> str:
    """``host:port``, as rudderd and Prometheus read it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_wildcard(host: str) -> bool:
    """Whether a daemon that listens there is reached by every address of its node."""
    return host in ("0.0.0.0", "::")


def admin_host(text: str, node: str) -> str:
    """The address behind ``--admin``, on this node."""
    name = text.replace("{node}", node)
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise Failure(f"{node}: --admin {name}: {error.strerror}", EXIT_USAGE) from error


class Ports:
    """The two ports of a daemon, held until it takes them: UDP for the peers, the next one (TCP) for HTTP.

    The search begins where the job's id and the node's name say, so that jobs of one node do not meet; what is taken is passed over.

    Parameters
    ----------
    job, node : str
        Id of the job, name of the node.
    limits : tuple of int
        First and last port that may be used.
    host : str
        Address that HTTP is for.
    """

    def __init__(self, job: str, node: str, limits: Tuple[int, int], host: str) -> None:
        low, high = limits
        pairs = (high - low + 1) // 2
        begin = zlib.crc32(f"{job}.{node}".encode()) % pairs
        for step in range(pairs):
            self.peers = low + 2 * ((begin + step) % pairs)
            self.admin = self.peers + 1
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tcp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            try:
                udp.bind(("0.0.0.0", self.peers))
                tcp.bind((host, self.admin))
            except OSError as error:
                udp.close()
                tcp.close()
                if error.errno == errno.EADDRNOTAVAIL:
                    raise Failure(f"{node}: --admin: {host} is no address of this node", EXIT_USAGE) from error
                continue
            self._held = (udp, tcp)
            return
        raise Failure(f"no two free ports from {low} to {high} on {node}: give others by --ports")

    def release(self) -> None:
        """Let the daemon have them."""
        for held in self._held:
            held.close()


def is_ready(host: str, port: int) -> Optional[bool]:
    """Whether the daemon serves, which it tells without a token; None when nobody answers."""
    connection = http.client.HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Serve:
    """The task of one node: starts its daemon, says when it is ready, starts it again when it dies.

    Parameters
    ----------
    options : argparse.Namespace
        Of the subcommand ``serve``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.index = int(variable("SLURM_NODEID"))
        self.node = variable("SLURMD_NODENAME")
        self.stopping = False
        self.host = admin_host(options.admin, self.node)
        self.daemon: Optional[subprocess.Popen[bytes]] = None

    def tell(self, event: str, **facts: Any) -> None:
        """One line for the launcher, through the step's standard output."""
        os.write(1, (json.dumps({"rudder": event, "index": self.index, "node": self.node, **facts}) + "\n").encode())

    def run(self) -> int:
        """Serve until told to stop; answers the exit status."""
        # Inherited by the daemon: `sbatch --signal=USR1@120` reaches every step and is meant for the trainers.
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        sock = Path(self.options.socket.replace("{node}", self.node))
        private_folder(sock.parent)
        ports = Ports(variable("SLURM_JOB_ID"), self.node, self.options.ports, self.host)
        self.tell("here", step=variable("SLURM_STEP_ID"), peers=ports.peers, admin=ports.admin, admin_host=self.host)
        addresses = self._addresses()
        ports.release()
        try:
            return self._keep_up(self._command(sock, ports), self._environment(addresses), ports.admin)
        finally:
            shutil.rmtree(sock.parent, ignore_errors=True)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _addresses(self) -> List[str]:
        """The addresses of all nodes, which the launcher writes to the standard input of every task."""
        deadline, line = time.monotonic() + self.options.ready_s, b""
        while not line.endswith(b"\n"):
            if self.stopping:
                raise Failure("stopped before the start")
            if time.monotonic() > deadline:
                raise Failure(f"{self.node}: no word from the launcher in {self.options.ready_s} s")
            if select.select([0], [], [], 0.2)[0]:
                part = os.read(0, 65536)
                if not part:
                    raise Failure(f"{self.node}: the launcher is gone")
                line += part
        return json.loads(line)

    def _command(self, sock: Path, ports: Ports) -> List[str]:
        command = [self.options.program, "--node-index", str(self.index), "--socket", str(sock)]
        command += ["--admin-listen", address(self.host, ports.admin), "--peers-listen", f"0.0.0.0:{ports.peers}"]
        for flag, value in (("--config", self.options.config), ("--dataset", self.options.dataset)):
            command += [flag, value] if value else []
        return command

    def _environment(self, addresses: Sequence[str]) -> Dict[str, str]:
        certificates = Path(self.options.folder) / "certificates"
        settings = {f"ADDRESSES__{index}": address for index, address in enumerate(addresses)}
        settings["AUTHORITY"] = str(certificates / "ca.pem")
        settings["CERTIFICATE"] = str(certificates / f"node-{self.index}.pem")
        settings["KEY"] = str(certificates / f"node-{self.index}.key")
        environment = {f"RUDDER_PEERS__{key}": value for key, value in settings.items()}
        if self.options.journal:
            environment["RUDDER_AGENT__JOURNAL"] = str(Path(self.options.folder) / f"node-{self.index}.jsonl")
        return {**os.environ, **environment}

    def _keep_up(self, command: List[str], environment: Dict[str, str], admin: int) -> int:
        log_path = Path(self.options.folder) / f"node-{self.index}.log"
        for attempt in range(self.options.restarts + 1):
            with log_path.open("ab") as log:
                begun_bytes = log.tell()
                self.daemon = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            begun, status = time.monotonic(), self._watch(admin, attempt)
            if self.stopping:
                self.tell("stopped", status=status)
                return 0 if status == 0 else 1
            with log_path.open("rb") as log:
                log.seek(begun_bytes)
                last = log.read().decode(errors="replace").strip().rsplit("\n", 1)[-1]
            again = attempt < self.options.restarts and status not in (2, EXIT_USAGE)
            self.tell("died", status=status, lived_s=round(time.monotonic() - begun, 1), last=last, again=again)
            if not again:
                return 1
            time.sleep(RESTART_PAUSE_S)
            if self.stopping:
                return 1
        return 1

    def _watch(self, admin: int, attempt: int) -> int:
        """Wait for the daemon's end; says when it becomes ready, and hands a stop on that it has not got by itself."""
        assert self.daemon is not None
        begun, ready, stop_seen = time.monotonic(), False, 0.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.daemon.wait(0.1 if not ready or self.stopping else 0.5)
            if self.stopping:
                # Slurm signals all processes of a step, and a second signal would cut the daemon's drain.
                stop_seen = stop_seen or time.monotonic()
                if stop_seen > 0 and time.monotonic() - stop_seen > SIGNAL_GRACE_S:
                    if is_ready(self.host, admin):
                        self.daemon.terminate()
                    stop_seen = float("inf")
            elif not ready and is_ready(self.host, admin):
                ready = True
                self.tell("ready", after_s=round(time.monotonic() - begun, 1), attempt=attempt)
