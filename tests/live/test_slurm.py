"""Jobs of a real Slurm of two made-up nodes: daemons, trainers and the drain; a daemon killed; a node failed; jobs side by side; the prolog."""

from __future__ import annotations

import array
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_programs import REPOSITORY, absent, answer, free_ports, program, wait_for
from slurm_cluster import SlurmCluster, slurm_cluster

ROWS = 6_000
LAUNCHER = REPOSITORY / "deploy" / "slurm" / "rudder-slurm"
TRAINER = Path(__file__).with_name("slurm_trainer.py")

#: Stands in for systemctl on nodes that have no systemd: `start` returns when the daemon serves, `stop` when it has
#: drained.
SYSTEMCTL = """#!/bin/sh
folder={folder}
echo "$1" >> $folder/calls
case $1 in
  start)
    [ ! -e $folder/pid ] || exit 0
    export RUDDER_PEERS__AUTHORITY=$folder/ca.pem RUDDER_PEERS__CERTIFICATE=$folder/node-0.pem RUDDER_PEERS__KEY=$folder/node-0.key
    export RUDDER_PEERS__LISTEN=127.0.0.1:0
    {rudderd} --dataset {dataset} --node-index 0 --socket $folder/s --admin-listen 127.0.0.1:{port} > $folder/log 2>&1 9>&- &
    echo $! > $folder/pid
    for _ in $(seq 100); do [ -S $folder/s ] && exit 0; sleep 0.1; done
    exit 1 ;;
  stop)
    kill -TERM $(cat $folder/pid)
    while [ -S $folder/s ]; do sleep 0.1; done
    rm $folder/pid ;;
esac
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """The cluster, with a dataset of two parts in its folder, and the site's prolog and epilog."""
    done = subprocess.run([sys.executable, "-c", "import rudder, numpy"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        absent("the Python client is not installed for these tests: cd client/python && maturin develop --release")
    settings = ["Prolog={folder}/prolog.sh", "Epilog={folder}/epilog.sh", "PrologFlags=Alloc"]
    with slurm_cluster(["n1", "n2"], settings, site_scripts) as cluster:
        yield cluster


def site_scripts(folder: Path) -> None:
    """The prolog and the epilog of deploy/, with a folder and a systemctl of these tests."""
    node = folder / "node-wide"
    node.mkdir()
    certs = [program("rudder"), "certs"]
    subprocess.run([*certs, "init", "--out", str(node)], check=True, capture_output=True, timeout=60)
    subprocess.run([*certs, "issue", "--authority", str(node), "--node", "0"], check=True, capture_output=True, timeout=60)
    stand_in = node / "systemctl"
    stand_in.write_text(SYSTEMCTL.format(folder=node, rudderd=program("rudderd"), dataset=folder / "one", port=free_ports(1)[0]))
    stand_in.chmod(0o755)
    for name in ("prolog.sh", "epilog.sh"):
        text = (LAUNCHER.parent / name).read_text()
        assert "jobs=/run/rudder-jobs" in text
        assert "PATH=/usr/bin:/bin" in text
        text = text.replace("/run/rudder-jobs", str(folder / "jobs")).replace("PATH=/usr/bin:/bin", f"PATH={node}:/usr/bin:/bin")
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def dataset(slurm: SlurmCluster) -> Path:
    """Table ``feat`` in two parts; row ``i`` is ``[i] * 8``."""
    return build(slurm.folder / "dataset", 2)


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: SlurmCluster) -> Iterator[None]:
    """Whatever a test does, the next one finds the nodes free."""
    yield
    slurm.cancel_all()


def build(folder: Path, parts: int) -> Path:
    """Make a dataset out of an array that this writes by hand."""
    shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, 8), }}".encode()
    shape += b" " * (-(len(shape) + 11) % 64) + b"\n"
    values = array.array("f", (float(row) for row in range(ROWS) for _ in range(8)))
    source = folder.with_suffix(".npy")
    source.write_bytes(b"\x93NUMPY\x01\x00" + len(shape).to_bytes(2, "little") + shape + values.tobytes())
    command = [program("rudder"), "import", "npy", "--out", str(folder), "--parts", str(parts), "--table", f"feat={source}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


class Job:
    """A submitted job.

    Parameters
    ----------
    slurm : SlurmCluster
        Where it runs.
    name : str
        Of its folder.
    run, train : str
        More words for ``rudder-slurm run`` and for the trainer.
    flags : str
        Of sbatch.
    """

    def __init__(self, slurm: SlurmCluster, dataset: Path, name: str, run: str = "", train: str = "", flags: str = "") -> None:
        self.slurm, self.folder = slurm, slurm.folder / name
        self.folder.mkdir()
        launch = f"{LAUNCHER} run --rudder {program('rudder')} --daemon {program('rudderd')} --dataset {dataset} {run}"
        trainer = f"{sys.executable} {TRAINER} --rows {ROWS} --step-file {self.folder}/step {train}"
        script = self.folder / "job.sh"
        script.write_text(f"#!/bin/bash\nexec {launch} -- srun --label {LAUNCHER} exec -- {trainer}\n")
        log = ["--nodes=2", f"--chdir={self.folder}", f"--output={self.folder}/out", "--open-mode=append"]
        self.id = slurm.submit(script, *log, *shlex.split(flags))
        self.rudder = self.folder / f"rudder-{self.id}"

    def log(self) -> str:
        """What the job wrote."""
        path = self.folder / "out"
        return path.read_text(errors="replace") if path.exists() else ""

    def end(self, *states: str, timeout_s: float = 60.0) -> dict[str, str]:
        """Wait for the end; shows the log where a test fails."""
        known = self.slurm.wait_for_job(self.id, *([states] if states else []), timeout_s=timeout_s)
        print(f"--- job {self.id}: {known['JobState']} {known['ExitCode']}\n{self.log()}")
        return known

    def train_to(self, step: int) -> None:
        """Wait until the trainers of both nodes are at a step."""
        files = [self.folder / f"step.{node}" for node in self.slurm.nodes]

        def there() -> bool:
            texts = [file.read_text() if file.exists() else "" for file in files]
            return all(text and int(text) >= step for text in texts)

        wait_for(f"step {step} on both nodes:\n{self.log()}", there, 40)

    def daemon(self, node: str) -> int:
        """Process id of the rudderd of a node."""
        socket = f"rudder-{self.id}.{node}/rudder.sock".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"rudderd") and any(word.endswith(socket) for word in words):
                return int(folder.name)
        raise AssertionError(f"no rudderd of {node}:\n{self.log()}")

    def left(self) -> list[Path]:
        """What is left of secrets and sockets."""
        return [*self.folder.rglob("*.key"), *self.folder.rglob("*.pem"), *self.rudder.glob("t*"), *Path("/tmp").glob(f"rudder-{self.id}.n*")]


def drained(job: Job, index: int) -> bool:
    """Whether a daemon says at its end that it drained."""
    return (job.rudder / f"node-{index}.log").read_text().rstrip().endswith("lifecycle: drained")


def test_a_job_from_start_to_drain(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, dataset, "whole", train="--steps 40 --pause-s 0.05 --status 3")
    job.train_to(5)
    secrets = job.rudder / "certificates"
    assert (job.rudder.stat().st_mode & 0o777, secrets.stat().st_mode & 0o777) == (0o700, 0o700)
    assert sorted(path.name for path in secrets.iterdir()) == ["ca.pem", "node-0.key", "node-0.pem", "node-1.key", "node-1.pem"]
    token, targets = job.rudder / "token", job.rudder / "targets.json"
    assert (token.stat().st_mode & 0o777, targets.stat().st_mode & 0o777) == (0o600, 0o644)
    (group,) = json.loads(targets.read_text())
    assert (len(group["targets"]), group["labels"]) == (2, {"job": f"rudder-slurm-{job.id}"})
    for target in group["targets"]:
        # Probes are open; what a node's other users must neither read nor steer is not.
        assert [answer(f"http://{target}{path}")[0] for path in ("/readyz", "/metrics", "/v1/status")] == [200, 401, 401]
        asked = [program("rudder"), "status", "--admin", f"http://{target}", "--token-file", str(token), "--json"]
        assert json.loads(subprocess.run(asked, check=True, capture_output=True, timeout=60).stdout)["parts"] == 2
    known = job.end()
    # The trainers' own exit status is the job's.
    assert known["ExitCode"] == "3:0"
    log = job.log()
    assert [f"{n}: trainer n{n + 1}: 40 steps, every row right" in log for n in (0, 1)] == [True, True]
    words = ["(n1): ready", "(n2): ready", "all 2 daemons are ready", "trainers: ", "trainers ended with 3", "daemons stopped in"]
    assert re.search(".*".join(map(re.escape, words[2:])), log, re.DOTALL)
    assert all(word in log for word in words)
    assert drained(job, 0)
    assert drained(job, 1)
    assert job.left() == []
    assert sorted(path.name for path in job.rudder.iterdir()) == [f"node-{n}.{end}" for n in (0, 1) for end in ("jsonl", "log")]


def test_a_job_that_exports_nothing_runs_all_the_same(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, dataset, "closed", run="--admin 0.0.0.0", train="--steps 10", flags="--export=NONE")
    assert job.end()["ExitCode"] == "0:0"
    assert [f"{n}: trainer n{n + 1}: 10 steps, every row right" in job.log() for n in (0, 1)] == [True, True]
    assert job.left() == []


def test_a_killed_daemon_comes_back(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, dataset, "killed", train="--steps 60 --pause-s 0.05")
    job.train_to(5)
    # As `sbatch --signal=USR1@300` does: all steps get it, and it is meant for the trainers.
    slurm.command("scancel", "--signal=USR1", job.id)
    os.kill(job.daemon("n2"), signal.SIGKILL)
    known = job.end()
    assert (known["JobState"], known["ExitCode"]) == ("COMPLETED", "0:0")
    log = job.log()
    assert log.count("rudderd ended with") == log.count("rudderd ended with -9") == 1
    assert log.count(": SIGUSR1") == 2
    assert re.search(r"node 1 \(n2\): ready after [\d.]+ s, restart 1", log)
    assert [f"{n}: trainer n{n + 1}: 60 steps, every row right" in log for n in (0, 1)] == [True, True]
    # Its own trainers lost it; those of the other node at most lost a fetch of its rows.
    assert re.search(r"1: trainer n2: step \d+: Connect", log)
    assert drained(job, 0)
    assert drained(job, 1)
    assert job.left() == []


def test_without_restarts_trainers_are_told_and_the_others_drain(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, dataset, "lost", run="--restarts 0", train="--steps 4000 --pause-s 0.05 --patience-s 1")
    job.train_to(5)
    os.kill(job.daemon("n2"), signal.SIGKILL)
    known = job.end()
    assert known["ExitCode"] == "7:0"
    log = job.log()
    assert "its rows cannot be fetched any more" in log
    assert re.search(r"0: trainer n1: step \d+: Peer(Unavailable|Failed)Error: .*peer 1 ", log)
    assert "0: trainer n1: out of patience" in log
    assert drained(job, 0)
    assert not drained(job, 1)
    assert job.left() == []


def test_a_failed_node_requeues_the_job(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, dataset, "failed", train="--steps 80 --pause-s 0.05", flags="--requeue")
    job.train_to(5)
    begun = time.monotonic()
    slurm.fail_node("n2")
    slurm.wait_for_node("n2", "down", 90)
    noticed_s = time.monotonic() - begun
    wait_for("the job to be queued again", lambda: slurm.job(job.id)["JobState"] == "PENDING", 30, 0.2)
    assert slurm.job(job.id)["Restarts"] == "1"
    assert "every row right" not in job.log()
    wait_for("the surviving daemon to drain", lambda: drained(job, 0), 20)
    wait_for("keys to be gone", lambda: not list(job.folder.rglob("*.key")), 20)
    slurm.start_node("n2")
    known = job.end(timeout_s=90)
    print(f"node failure noticed after {noticed_s:.1f} s")
    assert (known["JobState"], known["ExitCode"]) == ("COMPLETED", "0:0")
    log = job.log()
    assert "requeued 1 times" in log
    assert log.count("all 2 daemons are ready") == 2
    assert log.count("80 steps, every row right") == 2
    assert job.left() == []


def test_a_cancelled_job_drains_within_kill_wait(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, dataset, "cancelled", train="--steps 4000 --pause-s 0.05")
    job.train_to(5)
    slurm.command("scancel", job.id)
    assert job.end()["JobState"] == "CANCELLED"
    wait_for("both daemons to drain", lambda: drained(job, 0) and drained(job, 1), 20)
    wait_for(f"nothing to be left, but there is {job.left()}", lambda: not job.left(), 20)
    assert job.log().count("SIGTERM") >= 2


def test_a_daemon_that_cannot_serve_ends_the_job_at_once(slurm: SlurmCluster, dataset: Path) -> None:
    job = Job(slurm, slurm.folder / "nowhere", "bad")
    known = job.end()
    assert known["ExitCode"] == "1:0"
    assert "cannot serve: " in job.log()
    assert "trainers: " not in job.log()
    assert job.left() == []


def test_two_jobs_on_the_same_nodes_do_not_meet(slurm: SlurmCluster, dataset: Path) -> None:
    jobs = [Job(slurm, dataset, f"beside-{n}", train="--steps 60 --pause-s 0.05", flags="--oversubscribe") for n in (1, 2)]
    for job in jobs:
        job.train_to(5)
    ports = [set(re.findall(r"(?:port |127.0.0.1:)(\d+)", job.log())) for job in jobs]
    assert [len(one) for one in ports] == [4, 4]
    assert not ports[0] & ports[1]
    for job in jobs:
        assert job.end()["ExitCode"] == "0:0"
        assert job.left() == []


def test_prolog_and_epilog_hold_one_daemon_for_all_jobs_of_a_node(slurm: SlurmCluster) -> None:
    build(slurm.folder / "one", 1)
    node = slurm.folder / "node-wide"
    script = slurm.folder / "node-wide.sh"
    trainer = f"{sys.executable} {TRAINER} --rows {ROWS} --pause-s 0.05 --steps 20"
    script.write_text(f"#!/bin/bash\nexport RUDDER_SOCKET={node}/s\nexec srun {trainer} $*\n")
    flags = [f"--output={slurm.folder}/node-wide.%j.out", "--nodelist=n1", "--oversubscribe"]
    plain = slurm.command("sbatch", "--parsable", *flags, "--wrap=true").strip()
    assert slurm.wait_for_job(plain)["ExitCode"] == "0:0"
    assert not (node / "calls").exists(), "a job that asks for nothing starts nothing"
    let_go = [slurm.folder / f"let-go-{one}" for one in ("short", "long")]
    short, long = (
        slurm.command("sbatch", "--parsable", *flags, "--constraint=rudder", str(script), "--last-step-after", str(file)).strip()
        for file in let_go
    )
    calls = node / "calls"
    wait_for("both jobs' prologs", lambda: calls.exists() and calls.read_text().split() == ["start", "start"], 40, 0.2)
    let_go[0].touch()
    assert slurm.wait_for_job(short)["ExitCode"] == "0:0"
    assert slurm.job(long)["JobState"] == "RUNNING"
    let_go[1].touch()
    assert slurm.wait_for_job(long)["ExitCode"] == "0:0"
    wait_for("the epilog of the last job", lambda: not (node / "pid").exists(), 20)
    assert calls.read_text().split() == ["start", "start", "stop"]
    assert (node / "log").read_text().rstrip().endswith("drained")
    assert (slurm.folder / f"node-wide.{long}.out").read_text().count("20 steps, every row right") == 1
