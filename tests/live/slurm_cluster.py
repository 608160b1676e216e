"""A Slurm cluster on this machine: one slurmctld and a slurmd per made-up node, with ports and folders of their own.

No munge: ``auth/none`` believes whoever speaks, which is right for one machine and a test, and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from live_programs import absent, free_ports, need, wait_for

PACKAGE = "slurm-wlm"
#: Short, for tests: long enough for a drain, which takes milliseconds here.
KILL_WAIT_S = 8
#: After so long without an answer a node counts as failed.
NODE_TIMEOUT_S = 6
#: A requeued job waits until the credentials of its first run have expired.
REQUEUE_DELAY_S = 5


class SlurmCluster:
    """One controller and its nodes.

    Parameters
    ----------
    folder : pathlib.Path
        For configuration, state and logs.
    nodes : sequence of str
        Names of the nodes.
    settings : sequence of str
        More lines of the configuration, such as a prolog; ``{folder}`` is replaced.
    """

    def __init__(self, folder: Path, nodes: Sequence[str], settings: Sequence[str] = ()) -> None:
        self.folder, self.nodes = folder, list(nodes)
        self.conf = folder / "slurm.conf"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        host = socket.gethostname()
        control, *ports = free_ports(1 + len(self.nodes))
        lines = [
            "ClusterName=live", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={control}",
            "AuthType=auth/none", f"AuthInfo=cred_expire={REQUEUE_DELAY_S}", "CredType=cred/none", "SlurmUser=root", "SlurmdUser=root",
            f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool.%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/slurmd.%n.pid",
            f"SlurmdLogFile={folder}/slurmd.%n.log", f"SlurmctldLogFile={folder}/slurmctld.log",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "MpiDefault=none", "SwitchType=switch/none",
            "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "JobAcctGatherType=jobacct_gather/none",
            "SlurmdParameters=config_overrides", "SchedulerType=sched/backfill", "SchedulerParameters=sched_interval=2,batch_sched_delay=1",
            f"KillWait={KILL_WAIT_S}", f"SlurmdTimeout={NODE_TIMEOUT_S}", "SlurmctldTimeout=10", "MessageTimeout=4", "TCPTimeout=1",
            "InactiveLimit=0", "Waittime=0", "MinJobAge=300",
            "ReturnToService=2", "JobRequeue=1", "CompleteWait=0", *(line.format(folder=folder) for line in settings),
        ]  # fmt: skip
        for node, port in zip(self.nodes, ports):
            lines.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000 Feature=rudder State=UNKNOWN")
        lines.append(f"PartitionName=all Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP")
        (folder / "state").mkdir()
        for node in self.nodes:
            (folder / f"spool.{node}").mkdir()
        self.conf.write_text("\n".join(lines) + "\n")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "RUDDER_"))}
        self.environment["SLURM_CONF"] = str(self.conf)

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of Slurm's programs; answers what it prints."""
        done = subprocess.run(words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Start all of it, and wait until every node is idle."""
        self._spawn("slurmctld", "-D", "-c", "-f", str(self.conf))
        for node in self.nodes:
            self.start_node(node)
        for node in self.nodes:
            self.wait_for_node(node, "idle")

    def _spawn(self, program: str, *arguments: str, name: str = "") -> None:
        with (self.folder / f"{name or program}.out").open("ab") as out:
            process = subprocess.Popen([need(program, PACKAGE), *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=out, start_new_session=True)  # fmt: skip
        self.processes[name or program] = process

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._spawn("slurmd", "-D", "-N", node, "-f", str(self.conf), name=node)

    def wait_for_node(self, node: str, state: str, timeout_s: float = 40.0) -> None:
        """Wait until a node is in a state, as ``scontrol`` words it."""

        def is_there() -> bool:
            return f" State={state.upper()}" in self.command("scontrol", "-o", "show", "node", node)

        wait_for(f"{node} {state}", is_there, timeout_s, 0.3)

    def fail_node(self, node: str, more: Sequence[int] = ()) -> None:
        """End everything that runs for a node, as a power cut would: slurmd, its step daemons, and the tasks given."""
        victims = [*more, self.processes[node].pid, *self.tasks_of(node)]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.processes.pop(node).wait(10)

    def tasks_of(self, node: str) -> list[int]:
        """Processes of steps on a node, and their step daemons: those that carry its name in their environment, or in their title."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes()
                ours = f"SLURM_CONF={self.conf}".encode() in environment
                named = f"SLURMD_NODENAME={node}".encode() in environment.split(b"\0")
                if ours and named and int(folder.name) != os.getpid():
                    found.append(int(folder.name))
        return found

    def submit(self, script: Path, *flags: str) -> str:
        """Submit a batch script; answers the job's id."""
        return self.command("sbatch", "--parsable", *flags, str(script)).strip().split(";")[0]

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.command("scontrol", "-o", "show", "job", number)))

    def wait_for_job(self, number: str, states: Sequence[str] = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"),
                     timeout_s: float = 60.0) -> dict[str, str]:  # fmt: skip
        """Wait until a job is in one of the states; answers what is known of it."""
        wait_for(f"job {number} {' or '.join(states)}", lambda: self.job(number)["JobState"] in states, timeout_s, 0.2)
        return self.job(number)

    def cancel_all(self) -> None:
        """End all jobs, and wait until they are gone."""
        if self.command("squeue", "-h", check=False).strip():
            self.command("scancel", "--user=root", check=False)
            wait_for("all jobs to be gone", lambda: not self.command("squeue", "-h", check=False).strip(), 40, 0.2)

    def stop(self) -> None:
        """End all daemons, and everything that they left."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        deadline = time.monotonic() + 10
        while (left := [pid for node in self.nodes for pid in self.tasks_of(node)]) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


@contextlib.contextmanager
def slurm_cluster(nodes: Sequence[str], settings: Sequence[str], prepare: Callable[[Path], None]) -> Iterator[SlurmCluster]:
    """A cluster with idle nodes; nothing of it is left afterwards. ``prepare`` puts into its folder what the settings name."""
    for name in ("slurmctld", "slurmd", "sbatch", "srun"):
        need(name, PACKAGE)
    if os.geteuid() != 0:
        absent("only root can be a cluster of Slurm: its daemons start steps as other users")
    with tempfile.TemporaryDirectory(prefix="rudder-slurm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = SlurmCluster(Path(folder), nodes, settings)
        prepare(cluster.folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
