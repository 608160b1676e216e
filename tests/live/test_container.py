"""The container's root file system, run the way a kubelet runs it (without its engine), and the manifests for Kubernetes, checked by schema."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_programs import REPOSITORY, absent, answer, free_ports, need, program, wait_for
from test_systemd import build, certificates

CONTAINER = REPOSITORY / "deploy" / "container"
MANIFESTS = sorted((REPOSITORY / "deploy" / "kubernetes").glob("*.yaml"))
USER = 64200
#: Versions of Kubernetes that the manifests must be valid for.
VERSIONS = ("1.28", "1.31")

#: What a kubelet and its engine do: a root of its own that cannot be written, the volumes, a user without capabilities;
#: the network stays.
RUN = """
set -eu
root=$1 volumes=$2
shift 2
mount --bind "$root" "$root"
mount --bind "$volumes/socket" "$root/run/rudder"
for name in dataset etc/rudder; do
  mount --bind "$volumes/$name" "$root/$name"
  mount -o remount,bind,ro "$root/$name"
done
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec=64200:64200 --groups= "$root" "$@"
"""

#: A trainer: told the socket, it fetches every row.
TRAINER = """
import sys, numpy as np, rudder
client = rudder.connect(sys.argv[1])
rows = client.fetch("feat", np.arange(100))
assert rows.shape == (100, 4) and not np.asarray(rows).any()
print("mapped", open("/proc/self/maps").read().count("/memfd:"))
"""


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system, built."""
    need("strip", "binutils")
    need("busybox", "busybox-static")
    out = tmp_path_factory.mktemp("container")
    command = [str(CONTAINER / "rootfs.sh"), "--out", str(out), "--programs", str(Path(program("rudderd")).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "rootfs.tar").stat().st_size > 1 << 20
    return out / "rootfs"


def test_the_image_holds_nothing_but_what_it_needs(rootfs: Path) -> None:
    files = {str(path.relative_to(rootfs)) for path in rootfs.rglob("*") if path.is_file() and not path.is_symlink()}
    programs = {name for name in files if name.startswith("usr/bin/")}
    assert programs == {"usr/bin/rudderd", "usr/bin/rudder", "usr/bin/busybox"}
    assert {name for name in files if "lib" not in name} - programs == {"etc/passwd", "etc/group", "etc/nsswitch.conf"}
    assert not [path for path in rootfs.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o6000]


@pytest.fixture()
def volumes(tmp_path: Path) -> Path:
    """What the pod mounts: configuration and certificates, the dataset, the folder of the socket as its init container leaves it."""
    if os.geteuid() != 0:
        absent("only root can make the namespaces of a container")
    if subprocess.run([need("unshare", "util-linux"), "--mount", "true"], capture_output=True, check=False).returncode != 0:
        absent("this machine lets nobody make the namespaces of a container")
    build(tmp_path / "dataset")
    secrets = tmp_path / "etc" / "rudder"
    secrets.mkdir(parents=True)
    certificates(secrets)
    (tmp_path / "socket").mkdir(mode=0o750)
    for path in (tmp_path / "socket", *secrets.iterdir()):
        os.chown(path, USER, USER)
    return tmp_path


@pytest.fixture()
def daemon(rootfs: Path, volumes: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The daemon in its container, and the port of its HTTP interface."""
    admin = free_ports(1)[0]
    (volumes / "etc/rudder/rudderd.toml").write_text(f"""
node.index = 0
dataset.path = "/dataset"
local = {{ socket = "/run/rudder/rudder.sock", allowed_by = "mode" }}
admin.listen = "127.0.0.1:{admin}"
peers = {{ listen = "127.0.0.1:0", authority = "/etc/rudder/ca.pem", certificate = "/etc/rudder/node-0.pem", key = "/etc/rudder/node-0.key" }}
""")
    entry = re.search(r"ENTRYPOINT \[(.*)\]\nCMD \[(.*)\]", (CONTAINER / "Containerfile").read_text())
    assert entry is not None
    words = [word.strip().strip('"') for group in entry.groups() for word in group.split(",")]
    with (volumes / "log").open("wb") as log:
        process = subprocess.Popen([need("unshare", "util-linux"), "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", RUN, "run",
                                    str(rootfs), str(volumes), *words], stdout=log, stderr=log)  # fmt: skip
    try:
        wait_for("the daemon to be ready", lambda: process.poll() is not None or answer(f"http://127.0.0.1:{admin}/readyz")[0] == 200)
        assert process.poll() is None, (volumes / "log").read_text(errors="replace")
        yield process, admin
    finally:
        process.kill()
        process.wait(10)
        print((volumes / "log").read_text(errors="replace"))


def test_a_container_without_rights_serves_another_in_shared_memory(daemon: tuple[subprocess.Popen[bytes], int], volumes: Path) -> None:
    process, admin = daemon
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    status = Path(f"/proc/{children[0]}/status").read_text()
    assert re.search(rf"^Uid:\t{USER}\t{USER}", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE), "the daemon is process 1 of its container"
    assert answer(f"http://127.0.0.1:{admin}/healthz")[0] == 200
    if subprocess.run([sys.executable, "-c", "import rudder, numpy"], capture_output=True, check=False).returncode != 0:
        absent("the Python client is not installed for these tests: cd client/python && maturin develop --release")
    # A trainer's pod: processes, IPC and mounts of its own; only the folder is shared.
    trainer = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc", sys.executable, "-c", TRAINER, str(volumes / "socket/rudder.sock")]
    done = subprocess.run(trainer, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"mapped [1-9]\d*\n", done.stdout), "rows came through the socket, not in shared memory"
    os.kill(int(children[0]), signal.SIGTERM)
    assert process.wait(20) == 0
    assert (volumes / "log").read_text().rstrip().endswith("drained")


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def documents() -> list[tuple[str, dict[str, Any]]]:
    """All objects of all manifests, with the names of their files."""
    try:
        import yaml
    except ImportError:
        absent("PyYAML is missing: pip install pyyaml")
    found = []
    for path in MANIFESTS:
        found += [(path.name, document) for document in yaml.safe_load_all(path.read_text())]
    return found


def pods() -> list[tuple[str, dict[str, Any]]]:
    """The pods of the manifests that run a daemon."""
    return [(name, one["spec"]["template"]["spec"]) for name, one in documents() if one["kind"] in ("DaemonSet", "StatefulSet")]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    found = documents()
    try:
        import kubernetes_validate
    except ImportError:
        absent("kubernetes-validate is missing: pip install kubernetes-validate")
    for _, document in found:
        kubernetes_validate.validate(document, version, strict=True)
    kinds = {(name, one["kind"]) for name, one in found}
    assert {("daemonset.yaml", "DaemonSet"), ("statefulset.yaml", "StatefulSet"), ("trainer.yaml", "Pod")} <= kinds
    broken = {**dict(pods())["daemonset.yaml"]["containers"][0], "imagePullPolicies": "Never"}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [broken]}}, version, strict=True)


def test_every_name_a_manifest_uses_is_there() -> None:
    found = documents()
    made = {(one["kind"], one["metadata"]["name"]) for _, one in found}
    by_hand = {("Secret", "rudderd-tls"), ("Secret", "rudderd-admin"), ("PersistentVolumeClaim", "rudder-dataset")}
    for name, pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes), name
        used = {("ConfigMap", volume["configMap"]["name"]) for volume in volumes.values() if "configMap" in volume}
        used |= {("Secret", volume["secret"]["secretName"]) for volume in volumes.values() if "secret" in volume}
        assert used <= made | by_hand, name
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pod["containers"][0][probe]["httpGet"]["port"] in ports
    for name, service in ((name, one) for name, one in found if one["kind"] == "Service"):
        assert service["spec"]["clusterIP"] == "None"
        sets = [one for file, one in found if file == name and one["kind"] in ("DaemonSet", "StatefulSet")]
        assert [one["spec"]["template"]["metadata"]["labels"] for one in sets] == [service["spec"]["selector"]]


def expanded(text: str, environment: dict[str, str]) -> str:
    """``$(NAME)`` replaced, as the kubelet does it."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], text)


def test_rudderd_takes_every_configuration(tmp_path: Path) -> None:
    maps = {one["metadata"]["name"]: one["data"] for _, one in documents() if one["kind"] == "ConfigMap"}
    checked = 0
    for name, pod in pods():
        container = pod["containers"][0]
        config = next(volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "config")
        for node, (file, text) in enumerate(maps[config].items()):
            environment = {"NODE_NAME": file.removesuffix(".toml"), "RUDDER_NODE__INDEX": str(node)}
            for variable in container["env"]:
                if "value" in variable:
                    environment[variable["name"]] = expanded(variable["value"], environment)
            if not any(variable["name"] == "RUDDER_NODE__INDEX" for variable in container["env"]):
                del environment["RUDDER_NODE__INDEX"]
            where = expanded(container["args"][1], environment)
            assert Path(where).name == file
            path = tmp_path / f"{name}.{file}"
            path.write_text(text)
            done = subprocess.run([program("rudderd"), "--config", str(path), "--print-config"], env=environment, capture_output=True, text=True,
                                  timeout=30, check=False)  # fmt: skip
            assert done.returncode == 0, done.stderr
            drain_ms = int(re.search(r"^drain_ms = (\d+)", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
            assert pod["terminationGracePeriodSeconds"] * 1000 > drain_ms + 3_000
            paths = set(re.findall(r'^(?:authority|certificate|key|token_file|path|socket) = "(.*)"', done.stdout, re.MULTILINE))
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert {path for path in paths if not any(path.startswith(mount) for mount in mounts)} == set(), "a path that nothing is mounted at"
            checked += 1
    assert checked == 3
