"""The launcher for Slurm where Slurm does not answer, and what it tells its step: against programs that stand in for Slurm's."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from live_programs import REPOSITORY, program

LAUNCHER = REPOSITORY / "deploy" / "slurm" / "rudder-slurm"

SCONTROL = """#!/bin/sh
case $* in
  *hostnames*) echo n1 ;;
  *config*) echo 'KillWait = 30 sec' ;;
  *node*) echo 'NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.7 Port=6818' ;;
esac
"""

#: The step of one node, which tells how it was started and by which signal it ended.
SRUN = """#!{python}
import json, os, signal, sys
folder = {folder!r}
certificates = os.listdir(folder + "/job/certificates")
json.dump({{"words": sys.argv, "environment": dict(os.environ), "certificates": certificates}}, open(folder + "/step.json", "w"))
# Left alone, as by a launcher that fails, it ends by itself.
signal.alarm(40)
signal.signal(signal.SIGTERM, lambda *_: (open(folder + "/terminated", "w"), sys.exit(0)))
who = {{"index": 0, "node": "n1"}}
print(json.dumps({{"rudder": "here", "step": "0", "peers": 20000, "admin": 20001, "admin_host": "0.0.0.0", **who}}), flush=True)
sys.stdin.readline()
print(json.dumps({{"rudder": "ready", "after_s": 0.1, "attempt": 0, **who}}), flush=True)
while True:
    signal.pause()
"""

#: Ways in which a controller is not there.
SILENT = {
    "it hangs": "exec sleep 300",
    "it is gone": "echo 'scancel: error: Kill job error on job id 7: Unable to contact slurm controller (connect failure)' >&2; exit 1",
}


def launch(folder: Path, scancel: str, command: list[str], **environment: str) -> tuple[int, str, dict[str, Any]]:
    """Run a job of one node; answers exit status, log, and how the daemons' step was started."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {
        "scontrol": SCONTROL,
        "srun": SRUN.format(python=sys.executable, folder=str(folder)),
        "scancel": f"#!/bin/sh\n{scancel}\n",
        "squeue": "#!/bin/sh\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "RUDDER_"))}
    kept |= {"PATH": f"{programs}:{kept['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", **environment}
    words = ["run", "--rudder", program("rudder"), "--daemon", program("rudderd"), "--folder", str(folder / "job"), "--dataset", "/nowhere"]
    done = subprocess.run([str(LAUNCHER), *words, "--admin", "0.0.0.0", "--", *command], env=kept, capture_output=True, text=True, timeout=40,
                          check=False)  # fmt: skip
    print(done.stderr)
    return done.returncode, done.stderr, json.loads((folder / "step.json").read_text())


@pytest.mark.parametrize("how", SILENT)
def test_the_trainers_status_outlives_the_controller(tmp_path: Path, how: str) -> None:
    status, log, _ = launch(tmp_path, SILENT[how], ["sh", "-c", "exit 3"])
    assert status == 3
    assert "trainers ended with 3" in log
    assert "Traceback" not in log
    assert (tmp_path / "terminated").exists(), "srun was not told either"
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == []


def test_the_step_is_told_what_the_job_leaves_open(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; print(open(sys.argv[1]).read(), os.environ['SLURM_EXPORT_ENV'], file=sys.stderr)"]
    # As sbatch --export=NONE leaves it to the batch script.
    status, log, step = launch(tmp_path, "pkill -TERM -P $PPID srun", [*command, str(tmp_path / "job" / "targets.json")], SLURM_EXPORT_ENV="NONE")
    assert status == 0
    assert step["environment"]["RUDDER_ADMIN__TOKEN_FILE"] == str(tmp_path / "job" / "token")
    assert "--journal" in step["words"]
    assert "--export=ALL" in step["words"]
    assert (step["environment"]["SLURM_EXPORT_ENV"], step["certificates"].count("ca.key")) == ("ALL", 0)
    # 0.0.0.0 is no address to ask: Slurm knows the node's. Each job is a cluster of its own.
    assert '[{"targets": ["10.0.0.7:20001"], "labels": {"job": "rudder-slurm-7"}}]\n ALL' in log


def test_token_and_journal_of_the_user_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("my own token\n")
    said = {"RUDDER_ADMIN__TOKEN_FILE": str(tmp_path / "mine"), "RUDDER_AGENT__JOURNAL": "/var/log/mine.jsonl"}
    status, _, step = launch(tmp_path, "pkill -TERM -P $PPID srun", ["test", "!", "-e", str(tmp_path / "job" / "token")], **said)
    assert status == 0
    assert {key: step["environment"][key] for key in said} == said
    assert "--journal" not in step["words"]
    assert (tmp_path / "mine").read_text() == "my own token\n"


@pytest.fixture(scope="module")
def node() -> ModuleType:
    """The launcher's part for one node."""
    spec = importlib.util.spec_from_file_location("slurm_node", LAUNCHER.with_name("slurm_node.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_where_a_daemon_answers_http(node: ModuleType) -> None:
    assert node.admin_host("0.0.0.0", "n1") == "0.0.0.0"
    assert node.admin_host("{node}", "localhost") in ("127.0.0.1", "::1")
    with pytest.raises(node.Failure, match="n1: --admin n1.invalid: "):
        node.admin_host("{node}.invalid", "n1")
    assert [node.address(host, 5) for host in ("10.0.0.7", "::1")] == ["10.0.0.7:5", "[::1]:5"]
    # An address for documentation, which no machine has.
    with pytest.raises(node.Failure, match="192.0.2.1 is no address of this node"):
        node.Ports("7", "n1", (10_000, 19_999), "192.0.2.1")


def test_ports_are_held_until_they_are_let_go(node: ModuleType) -> None:
    first, second = (node.Ports("7", "n1", (10_000, 19_999), host) for host in ("127.0.0.1", "0.0.0.0"))
    assert first.admin == first.peers + 1
    assert first.admin != second.admin
    first.release()
    again = node.Ports("7", "n1", (10_000, 19_999), "127.0.0.1")
    assert again.admin == first.admin
    for one in (second, again):
        one.release()


def test_a_daemon_on_all_addresses_is_probed_on_loopback(node: ModuleType) -> None:
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """As rudderd does."""
            self.send_response(200 if self.path == "/readyz" and not self.headers["Authorization"] else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert node.is_ready("0.0.0.0", server.server_address[1]) is True
        server.shutdown()
    assert node.is_ready("0.0.0.0", server.server_address[1]) is None
