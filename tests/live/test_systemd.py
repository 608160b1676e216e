"""The daemon under systemd: the unit's score, the protocol of notifications, and package and unit on a booted systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_programs import REPOSITORY, answer, free_ports, need, program, wait_for
from systemd_box import Box, systemd_box

DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "systemd" / "rudderd.service"
#: Exposure times ten that the unit may have at most.
EXPOSURE_MAX = 14


# --- The unit, as it lies there ---------------------------------------------------------------------------------------


def installed(root: Path, prefix: str = "/usr", deploy: Path = DEPLOY, programs: Path | None = None) -> Path:
    """An installation below a folder."""
    programs = programs or Path(program("rudderd")).parent
    command = [str(deploy / "install.sh"), "--prefix", prefix, "--destdir", str(root), "--programs", str(programs)]
    subprocess.run(command, check=True, timeout=60)
    return root


def files(root: Path) -> list[str]:
    """What is installed."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("name", ["rudderd.service", "rudderd@.service"])
def test_a_unit_is_sound_and_scores(tmp_path: Path, name: str) -> None:
    analyze = need("systemd-analyze", "systemd")
    root = installed(tmp_path / "root")
    # Everything the unit names must be there: its own files in a root of their own, the system's by name only.
    text = (root / "usr/lib/systemd/system" / name).read_text().replace("/usr/bin/rudderd", str(root / "usr/bin/rudderd"))
    unit = tmp_path / name.replace("@", "@two")
    unit.write_text(text)
    score = subprocess.run([analyze, "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}", str(unit)],
                           capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    print(score.stdout.splitlines()[-1])
    assert score.returncode == 0, score.stdout
    done = subprocess.run([analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_template_is_the_unit_with_files_and_folders_of_its_own(tmp_path: Path) -> None:
    root = installed(tmp_path / "root")
    units = root / "usr/lib/systemd/system"
    one, other = ((units / name).read_text().splitlines() for name in ("rudderd.service", "rudderd@.service"))
    changed = {b for a, b in zip(one, other) if a != b and not a.startswith(("#", "Description="))}
    assert changed == {
        "EnvironmentFile=-/etc/default/rudder-%i",
        "ExecStart=/usr/bin/rudderd --config /etc/rudder/%i.toml",
        "ExecReload=/usr/bin/rudderd --check --config /etc/rudder/%i.toml",
        "RuntimeDirectory=rudder-%i",
        "StateDirectory=rudder-%i",
    }
    assert len(one) == len(other)


def test_a_daemon_that_cannot_start_is_tried_for_two_minutes() -> None:
    text = UNIT.read_text()
    burst, within_s, pause_s = (
        int(re.search(rf"^{name}=(\d+)s?$", text, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("StartLimitBurst", "StartLimitIntervalSec", "RestartSec")
    )
    # A start that fails takes up to a second.
    assert 90 <= burst * pause_s <= burst * (pause_s + 1) <= within_s
    assert "fifty starts" in text
    assert (burst, "given up after fifty starts, which takes about two minutes" in (REPOSITORY / "docs/deploy.md").read_text()) == (50, True)


def test_the_unit_leaves_time_for_the_drain() -> None:
    done = subprocess.run([program("rudderd"), "--config", str(DEPLOY / "systemd" / "rudderd.toml"), "--print-config"], capture_output=True,
                          text=True, timeout=60, check=True)  # fmt: skip
    drain_ms = int(re.search(r"^drain_ms = (\d+)", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
    timeout_s = int(re.search(r"^TimeoutStopSec=(\d+)s", UNIT.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    assert timeout_s * 1000 > drain_ms + 3_000


def test_installing_twice_keeps_the_configuration_and_uninstalling_leaves_nothing_else(tmp_path: Path) -> None:
    root = installed(tmp_path / "root")
    configuration = root / "etc/rudder/rudderd.toml"
    assert configuration.stat().st_mode & 0o777 == 0o640
    check = [program("rudderd"), "--check", "--config", str(configuration)]
    assert subprocess.run(check, capture_output=True, timeout=60, check=False).returncode == 0
    configuration.write_text("# mine\n")
    installed(root)
    assert configuration.read_text() == "# mine\n"
    assert (root / "usr/bin/rudder-slurm").resolve() == root / "usr/lib/rudder/rudder-slurm"
    remove = [str(DEPLOY / "install.sh"), "--prefix", "/usr", "--destdir", str(root), "--uninstall"]
    subprocess.run(remove, check=True, timeout=60)
    assert files(root) == ["etc/default/rudder", "etc/rudder/rudderd.toml"]
    subprocess.run([*remove, "--purge"], check=True, timeout=60)
    assert files(root) == []


def test_folders_with_spaces_are_folders(tmp_path: Path) -> None:
    plain = installed(tmp_path / "plain")
    checkout = tmp_path / "my check out"
    for name in ("deploy", "docs", "dashboards"):
        shutil.copytree(REPOSITORY / name, checkout / name)
    shutil.copy(REPOSITORY / "LICENSE", checkout)
    programs = checkout / "built here"
    programs.mkdir()
    for name in ("rudder", "rudderd"):
        (programs / name).symlink_to(program(name))
    root = installed(tmp_path / "a root", deploy=checkout / "deploy", programs=programs)
    assert files(root) == files(plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a root", "my check out", "plain"]
    subprocess.run([str(checkout / "deploy/install.sh"), "--prefix", "/usr", "--destdir", str(root), "--uninstall", "--purge"], check=True, timeout=60)
    assert files(root) == []


def test_units_are_where_systemd_looks_whatever_the_prefix(tmp_path: Path) -> None:
    systemctl = need("systemctl", "systemd")
    for prefix in ("/usr", "/usr/local", "/opt/site"):
        root = installed(tmp_path / prefix.replace("/", "-"), prefix)
        command = [systemctl, f"--root={root}", "list-unit-files", "--no-legend", "--no-pager", "rudderd.service", "rudderd@.service"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        assert [line.split()[0] for line in listed.splitlines()] == ["rudderd.service", "rudderd@.service"], prefix
        (unit,) = root.rglob("rudderd.service")
        assert f"ExecStart={prefix}/bin/rudderd " in unit.read_text()
        remove = [str(DEPLOY / "install.sh"), "--prefix", prefix, "--destdir", str(root), "--uninstall", "--purge"]
        subprocess.run(remove, check=True, timeout=60)
        assert files(root) == [], prefix


# --- The protocol, where the test is the service manager --------------------------------------------------------------


@pytest.fixture()
def dataset(tmp_path: Path) -> Path:
    """A dataset of one part."""
    return build(tmp_path / "dataset")


def certificates(folder: Path) -> Path:
    """An authority and the certificate of node 0."""
    certs = [program("rudder"), "certs"]
    subprocess.run([*certs, "init", "--out", str(folder)], check=True, capture_output=True, timeout=60)
    subprocess.run([*certs, "issue", "--authority", str(folder), "--node", "0"], check=True, capture_output=True, timeout=60)
    return folder


def build(folder: Path) -> Path:
    """Make a dataset of one part: 100 rows of zeros."""
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (100, 4), }"
    shape += b" " * (-(len(shape) + 11) % 64) + b"\n"
    source = folder.with_suffix(".npy")
    source.write_bytes(b"\x93NUMPY\x01\x00" + len(shape).to_bytes(2, "little") + shape + bytes(1600))
    command = [program("rudder"), "import", "npy", "--out", str(folder), "--parts", "1", "--table", f"feat={source}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def test_the_protocol_of_notifications(tmp_path: Path, dataset: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    told: list[tuple[float, dict[str, str]]] = []

    def listen(until: str, timeout_s: float) -> dict[str, str]:
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            manager.settimeout(left_s)
            try:
                text = manager.recv(4096).decode()
            except TimeoutError:
                break
            told.append((time.monotonic(), dict(line.split("=", 1) for line in text.splitlines())))
            if until in told[-1][1]:
                return told[-1][1]
        raise AssertionError(f"no {until} within {timeout_s} s, only {[words for _, words in told]}")

    configuration = tmp_path / "rudderd.toml"
    common = f"""
peers.listen = "127.0.0.1:0"
peers.authority = "{tmp_path}/ca.pem"
peers.certificate = "{tmp_path}/node-0.pem"
peers.key = "{tmp_path}/node-0.key"
"""
    certificates(tmp_path)
    configuration.write_text(common + 'log.level = "info"\n')
    admin = free_ports(1)[0]
    command = [program("rudderd"), "--config", str(configuration), "--node-index", "0", "--dataset", str(dataset)]
    command += ["--socket", str(tmp_path / "s"), "--admin-listen", f"127.0.0.1:{admin}"]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "6000000"}
    # As systemd does: the process learns that it is the one who is watched.
    command = ["sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh", *command]
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        assert listen("READY", 30)["READY"] == "1"
        assert answer(f"http://127.0.0.1:{admin}/readyz")[0] == 200
        # Each well within the time after which systemd would end the process, and long enough for a machine that is
        # busy.
        pings = [(listen("WATCHDOG", 10), told[-1][0])[1] for _ in range(4)]
        assert max(later - earlier for earlier, later in zip(pings, pings[1:])) < 5.5

        configuration.write_text(common + 'log.level = "debug"\n')
        asked_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.send_signal(signal.SIGHUP)
        reloading = listen("RELOADING", 20)
        assert reloading["RELOADING"] == "1"
        assert asked_us <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert listen("READY", 20)["READY"] == "1"
        assert "debug" in answer(f"http://127.0.0.1:{admin}/v1/log")[1]
        configuration.write_text(common + 'log.level = "loud and clear"\n')
        daemon.send_signal(signal.SIGHUP)
        listen("RELOADING", 20)
        assert listen("READY", 20)["READY"] == "1"
        assert "debug" in answer(f"http://127.0.0.1:{admin}/v1/log")[1]

        # A process that hangs must fall silent: that is what the watchdog is for.
        daemon.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        manager.setblocking(False)
        try:
            while True:
                manager.recv(4096)
        except BlockingIOError:
            pass
        manager.setblocking(True)
        with pytest.raises(AssertionError, match="no WATCHDOG"):
            listen("WATCHDOG", 4.0)
        daemon.send_signal(signal.SIGCONT)
        listen("WATCHDOG", 20)

        daemon.send_signal(signal.SIGTERM)
        assert listen("STOPPING", 20)["STOPPING"] == "1"
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait(10)
        manager.close()
        print((tmp_path / "log").read_text(errors="replace"))


# --- A booted systemd, the package, a trainer -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A container with the package installed, a dataset in /srv/rudder and users for the trainers. Nothing runs yet."""
    for tool, package in (("dpkg-deb", "dpkg"), ("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils")):
        need(tool, package)
    folder = tmp_path_factory.mktemp("package")
    build(folder / "dataset")
    certificates(folder)
    command = [str(DEPLOY / "package.sh"), "--out", str(folder), "--programs", str(Path(program("rudderd")).parent)]
    package = Path(subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout.strip())
    with systemd_box() as running:
        shutil.copy(package, running.exchange / "rudder.deb")
        shutil.copytree(folder / "dataset", running.exchange / "dataset")
        print(running.do("dpkg --install /exchange/rudder.deb", 120))
        for name, place in (("ca.pem", "ca.pem"), ("node-0.pem", "node.pem"), ("node-0.key", "node.key")):
            shutil.copy(folder / name, running.exchange / name)
            running.do(f"install -m 600 /exchange/{name} /etc/rudder/{place}")
        # As docs/deploy.md says: root writes the key, the daemon's group may read it.
        running.do("chown root:rudder /etc/rudder/node.* /etc/rudder/ca.pem && chmod 640 /etc/rudder/node.* /etc/rudder/ca.pem")
        running.do("mkdir /srv/rudder && cp -r /exchange/dataset /srv/rudder/ && useradd alice && useradd -G rudder bob")
        # There is no network to wait for.
        running.do("systemctl mask systemd-networkd-wait-online NetworkManager-wait-online")
        yield running
        print(running.do("journalctl --no-pager --unit=rudderd --output=cat")[-6000:])


def start(box: Box) -> None:
    """The daemon as its package configures it, started now."""
    box.do("systemctl stop rudderd; systemctl reset-failed rudderd; systemctl start rudderd")


def test_the_package_made_user_folders_and_unit(box: Box) -> None:
    assert box.do("dpkg --status rudder | grep Status") == "Status: install ok installed"
    assert box.do("getent passwd rudder").endswith(":/var/lib/rudder:/usr/sbin/nologin")
    rights = box.do("stat -c '%a %U:%G %n' /run/rudder /etc/rudder /etc/rudder/rudderd.toml /etc/default/rudder /usr/bin/rudderd").splitlines()
    assert rights == ["750 rudder:rudder /run/rudder", "750 root:rudder /etc/rudder", "640 root:rudder /etc/rudder/rudderd.toml",
                      "640 root:rudder /etc/default/rudder", "755 root:root /usr/bin/rudderd"]  # fmt: skip
    assert box.do("systemctl is-enabled rudderd || true") == "disabled"
    assert box.do("rudderd --check --config /etc/rudder/rudderd.toml") == "rudderd: the configuration can be used"
    assert box.do("dpkg --verify rudder") == ""
    assert "usage: rudder-slurm" in box.do("rudder-slurm --help")
    assert "OK" in box.do("systemd-analyze security --no-pager rudderd.service | tail -1")


def test_it_serves_whom_the_group_lets_in(box: Box) -> None:
    start(box)
    assert (box.show("rudderd", "ActiveState"), box.show("rudderd", "SubState")) == ("active", "running")
    assert box.show("rudderd", "WatchdogUSec") == "30s"
    pid = box.show("rudderd", "MainPID")
    assert box.do(f"ps -o user= -p {pid}") == "rudder"
    assert box.do(f"grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/{pid}/status").split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert box.json("/v1/status")["parts"] == 1
    assert knock(box, "bob") == "let in"
    assert "Permission denied" in knock(box, "alice")


def knock(box: Box, user: str) -> str:
    """What a user meets at the socket: a refusal, or the silence of a daemon that waits for a request."""
    code = ("import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(1); s.connect('/run/rudder/rudder.sock')\n"
            "try: print(s.recv(400))\nexcept TimeoutError: print('let in')\n")  # fmt: skip
    (box.exchange / "knock.py").write_text(code)
    return box.run(f"runuser -u {user} -- python3 /exchange/knock.py")[1].strip()


def test_the_kernel_tells_the_daemon_who_connects(box: Box) -> None:
    # With PrivateUsers=yes every trainer would be user 65534, and this daemon could not tell bob from anybody.
    box.do("mkdir -p /etc/systemd/system/rudderd.service.d")
    box.do("printf '[Service]\\nEnvironment=RUDDER_LOCAL__ALLOWED_BY=uids\\n' > /etc/systemd/system/rudderd.service.d/test.conf")
    box.do("systemctl daemon-reload && systemctl restart rudderd")
    uid = box.do("id -u bob")
    assert f"user {uid} may not connect" in knock(box, "bob")
    box.do("rm /etc/systemd/system/rudderd.service.d/test.conf && systemctl daemon-reload && systemctl restart rudderd")


def test_reload_takes_a_level_and_refuses_a_broken_file(box: Box) -> None:
    start(box)
    pid = box.show("rudderd", "MainPID")
    box.do("sed -i 's/^level = .*/level = \"debug\"/' /etc/rudder/rudderd.toml && systemctl reload rudderd")
    assert "debug" in str(box.json("/v1/log"))
    box.do("cp /etc/rudder/rudderd.toml /root/good && echo 'colour = 1' >> /etc/rudder/rudderd.toml")
    assert box.run("systemctl reload rudderd")[0] != 0
    assert "unknown key" in box.do("journalctl --no-pager -u rudderd -n 20 --output=cat")
    assert (box.show("rudderd", "ActiveState"), box.show("rudderd", "MainPID")) == ("active", pid)
    box.do("cat /root/good > /etc/rudder/rudderd.toml && systemctl reload rudderd")


def test_a_daemon_that_hangs_or_dies_is_started_again(box: Box) -> None:
    box.do("mkdir -p /run/systemd/system/rudderd.service.d")
    box.do("printf '[Service]\\nWatchdogSec=10s\\n' > /run/systemd/system/rudderd.service.d/test.conf && systemctl daemon-reload")
    box.do("systemctl reset-failed rudderd; systemctl restart rudderd")
    for number, word in (("STOP", "watchdog"), ("KILL", "signal")):
        pid = box.show("rudderd", "MainPID")
        box.do(f"kill -{number} {pid}")
        wait_for(f"another daemon after SIG{number}",
                 lambda pid=pid: box.show("rudderd", "MainPID") not in (pid, "0") and box.show("rudderd", "ActiveState") == "active", 60, 0.2)  # fmt: skip
        assert f"result '{word}'" in box.do("journalctl --no-pager -u rudderd -n 30 --output=cat")
    # Healthy, it is left alone for longer than the watchdog waits.
    pid = box.show("rudderd", "MainPID")
    time.sleep(13)
    assert box.show("rudderd", "MainPID") == pid
    box.do("rm /run/systemd/system/rudderd.service.d/test.conf && systemctl daemon-reload")


def test_a_second_daemon_has_files_and_folders_of_its_own(box: Box) -> None:
    box.do("echo RUDDER_LOG__LEVEL=warn >> /etc/default/rudder && echo RUDDER_NODE__INDEX=0 > /etc/default/rudder-two")
    box.do("sed -e 's|/run/rudder/|/run/rudder-two/|; s|/var/lib/rudder/|/var/lib/rudder-two/|; s|:7400|:7410|; s|:7401|:7411|; /^index/d'"
           " /etc/rudder/rudderd.toml > /etc/rudder/two.toml && systemd-tmpfiles --create rudder.conf")  # fmt: skip
    start(box)
    box.do("systemctl start rudderd@two")
    pids = [box.show(unit, "MainPID") for unit in ("rudderd", "rudderd@two")]
    environments = [box.do(f"tr '\\0' '\\n' < /proc/{pid}/environ | grep ^RUDDER | sort") for pid in pids]
    assert environments == ["RUDDER_LOG__LEVEL=warn", "RUDDER_NODE__INDEX=0"]
    assert [box.json("/v1/status", port)["parts"] for port in (7401, 7411)] == [1, 1]
    rights = box.do("stat -c '%a %U:%G %n' /etc/rudder/two.toml /etc/default/rudder-two /run/rudder-two /var/lib/rudder-two").splitlines()
    assert rights == ["640 root:rudder /etc/rudder/two.toml", "640 root:rudder /etc/default/rudder-two", "750 rudder:rudder /run/rudder-two",
                      "750 rudder:rudder /var/lib/rudder-two"]  # fmt: skip
    assert box.do("systemctl reload rudderd@two && systemctl is-active rudderd@two") == "active"
    box.do("systemctl stop rudderd@two")
    assert box.show("rudderd@two", "Result") == "success"
    assert box.show("rudderd", "MainPID") == pids[0]
    box.do("rm /etc/rudder/two.toml /etc/default/rudder-two && sed -i /RUDDER_LOG/d /etc/default/rudder")


def test_stop_drains_and_keeps_the_folder(box: Box) -> None:
    start(box)
    box.do("systemctl stop rudderd")
    assert (box.show("rudderd", "Result"), box.show("rudderd", "ExecMainStatus")) == ("success", "0")
    assert "drained" in box.do("journalctl --no-pager -u rudderd -n 5 --output=cat")
    assert box.do("stat -c '%a %U:%G' /run/rudder; ls /run/rudder") == "750 rudder:rudder"


def test_a_configuration_that_cannot_be_used_is_not_tried_again(box: Box) -> None:
    box.do("cp /etc/rudder/rudderd.toml /root/good && echo 'colour = 1' >> /etc/rudder/rudderd.toml; systemctl reset-failed rudderd || true")
    assert box.run("systemctl start rudderd")[0] != 0
    time.sleep(4)
    assert (box.show("rudderd", "ActiveState"), box.show("rudderd", "ExecMainStatus"), box.show("rudderd", "NRestarts")) == ("failed", "64", "0")
    box.do("cat /root/good > /etc/rudder/rudderd.toml")


def test_removal_stops_it_and_purge_takes_what_the_package_made(box: Box) -> None:
    box.do("sed -e 's|/run/rudder/|/run/rudder-two/|; s|:7400|:7410|; s|:7401|:7411|' /etc/rudder/rudderd.toml > /etc/rudder/two.toml")
    box.do("systemd-tmpfiles --create rudder.conf")
    start(box)
    box.do("systemctl enable --now rudderd@two && pgrep -c -x rudderd | grep -x 2")
    box.do("dpkg --remove rudder", 60)
    assert box.do("find /etc/systemd/system -type l -name 'rudderd*'") == ""
    # 1: there is none. Without pgrep it would be 127.
    assert box.run("pgrep -x rudderd")[0] == 1
    assert box.do("ls /etc/rudder") == "ca.pem\nnode.key\nnode.pem\nrudderd.toml\ntwo.toml"
    box.do("dpkg --purge rudder", 60)
    # Keys are the operator's.
    left = box.do("ls -d /etc/rudder/* /usr/bin/rudder* /var/lib/rudder /usr/lib/rudder 2> /dev/null || true").split()
    assert left == ["/etc/rudder/ca.pem", "/etc/rudder/node.key", "/etc/rudder/node.pem", "/etc/rudder/two.toml"]
