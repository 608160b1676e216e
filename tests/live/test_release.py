"""The script that builds a release: what it refuses, and that the same contents make the same bytes. Nothing is compiled here."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from live_programs import REPOSITORY, need, program

sys.path.insert(0, str(REPOSITORY / "deploy"))
import release  # noqa: E402
import release_image  # noqa: E402

TIME = 1_700_000_000


def module(folder: Path, names: list[str]) -> Path:
    """A wheel of a module, as maturin might write it, in some order."""
    path = folder / "rudder_gnn-1.0-cp39-abi3-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_wheel_repeats(tmp_path: Path) -> None:
    """Neither the order of files, nor their times, nor the folder change the bytes; programs may be executed."""
    info = "rudder_gnn-1.0.dist-info"
    names = ["rudder/__init__.py", f"{info}/WHEEL", f"{info}/RECORD", f"{info}/sboms/a.json", "rudder/a.py"]
    made = []
    for folder, order in ((tmp_path / "a", names), (tmp_path / "b", names[::-1])):
        (folder / "out").mkdir(parents=True)
        for name in release.PROGRAMS:
            (folder / name).write_bytes(b"ELF " + name.encode())
        made.append(release.add_programs(module(folder, order), folder, folder / "out", TIME))
    assert made[0].read_bytes() == made[1].read_bytes()
    with zipfile.ZipFile(made[0]) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        record = archive.read("rudder_gnn-1.0.dist-info/RECORD").decode().splitlines()
    assert f"{info}/sboms/a.json" not in infos
    assert list(infos)[-1] == "rudder_gnn-1.0.dist-info/RECORD"
    assert sorted(line.rsplit(",", 2)[0] for line in record) == sorted(infos)
    scripts = [infos[f"rudder_gnn-1.0.data/scripts/{name}"] for name in release.PROGRAMS]
    assert [info.external_attr >> 16 & 0o777 for info in scripts] == [0o755, 0o755]
    assert {info.date_time for info in infos.values()} == {(2023, 11, 14, 22, 13, 20)}


def test_programs_that_other_machines_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too new a glibc, a library that is not everywhere, debug tables, and paths of this machine: each by name."""
    need("readelf", "binutils")
    ours = Path(program("rudder"))
    monkeypatch.setattr(release, "GLIBC", (2, 2))
    with pytest.raises(SystemExit, match=r"needs glibc 2\.\d+; manylinux_2_17 has 2\.2"):
        release.check(ours, [])
    monkeypatch.setattr(release, "GLIBC", (3, 0))
    with pytest.raises(SystemExit, match=r"is not stripped"):
        release.check(ours, [])
    monkeypatch.setattr(release, "LIBRARIES", {"libm.so.6"})
    with pytest.raises(SystemExit, match=r"needs .*libc\.so\.6.*, which manylinux"):
        release.check(ours, [])
    telling = tmp_path / "program"
    telling.write_bytes(ours.read_bytes()[:1000] + b"/home/somebody/rudder/a.rs")
    with pytest.raises(SystemExit, match=r"holds the path /home/somebody"):
        release.check(telling, ["/home/somebody"])


def blob(archive: tarfile.TarFile, digest: str) -> bytes:
    """A blob of an image, held against its name."""
    file = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
    assert file is not None
    data = file.read()
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    return data


def test_image(tmp_path: Path) -> None:
    """An image whose parts carry their own names, that runs as the Containerfile says, and that docker finds as well."""
    root = tmp_path / "rootfs.tar"
    with tarfile.open(root, "w") as archive:
        info = tarfile.TarInfo("usr/bin/rudderd")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"ELF "))
    first, second = (release_image.write(root, tmp_path / name, "1.0", TIME) for name in ("a.tar", "b.tar"))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:

        def document(name: str) -> Any:
            file = archive.extractfile(name)
            assert file is not None
            return json.load(file)

        (entry,) = document("index.json")["manifests"]
        manifest = json.loads(blob(archive, entry["digest"]))
        config = json.loads(blob(archive, manifest["config"]["digest"]))
        (layer,) = manifest["layers"]
        assert len(blob(archive, layer["digest"])) == layer["size"]
        (for_docker,) = document("manifest.json")
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(root.read_bytes()).hexdigest()}"]
    assert config["config"]["User"] == "64200:64200"
    assert config["config"]["Entrypoint"] == ["/usr/bin/rudderd"]
    assert config["config"]["ExposedPorts"].keys() == {"7400/udp", "7401/tcp"}
    assert for_docker["RepoTags"] == ["rudder:1.0"]
    assert for_docker["Config"].endswith(manifest["config"]["digest"][7:])
