"""Writes a root file system as the archive of a container image, by the specification of OCI, with the list that docker reads as well."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import re
import tarfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

CONTAINERFILE = Path(__file__).resolve().parent / "container" / "Containerfile"
#: Names of architectures in images.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def instructions() -> dict[str, list[str]]:
    """The instructions of the Containerfile, which is the only place that says how the image is run."""
    found: dict[str, list[str]] = {}
    for word, rest in re.findall(r"^([A-Z]+) (.*)$", CONTAINERFILE.read_text(), re.MULTILINE):
        found[word] = json.loads(rest) if rest.startswith("[") else rest.split()
    return found


def write(rootfs: Path, target: Path, version: str, time: int) -> Path:
    """Write the image `rudder:VERSION` of a root file system.

    Parameters
    ----------
    rootfs : pathlib.Path
        The tar archive that ``rootfs.sh`` made.
    target : pathlib.Path
        The archive to write.
    version : str
        Tag of the image.
    time : int
        Seconds since 1970 that the image says it was made at.

    Returns
    -------
    pathlib.Path
        `target`.
    """
    plain = rootfs.read_bytes()
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as stream:
        stream.write(plain)
    said = instructions()
    created = datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "created": created,
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {
            "User": said["USER"][0],
            "Entrypoint": said["ENTRYPOINT"],
            "Cmd": said["CMD"],
            "Volumes": {volume: {} for volume in said["VOLUME"]},
            "ExposedPorts": {port: {} for port in said["EXPOSE"]},
            "StopSignal": said["STOPSIGNAL"][0],
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
        "history": [{"created": created, "created_by": "deploy/container/rootfs.sh"}],
    }
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media: str) -> dict[str, Any]:
        blobs[digest(data)] = data
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    layer, settings = blob(packed.getvalue(), LAYER), blob(dump(config), CONFIG)
    manifest = blob(dump({"schemaVersion": 2, "mediaType": MANIFEST, "config": settings, "layers": [layer]}), MANIFEST)
    name = f"docker.io/library/rudder:{version}"
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": version}
    for_docker = [{"Config": path(settings["digest"]), "RepoTags": [f"rudder:{version}"], "Layers": [path(layer["digest"])]}]
    files = {path(key): data for key, data in blobs.items()}
    files["oci-layout"] = dump({"imageLayoutVersion": "1.0.0"})
    files["index.json"] = dump({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]})
    files["manifest.json"] = dump(for_docker)
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(files):
            info = tarfile.TarInfo(file)
            info.size, info.mtime, info.mode = len(files[file]), time, 0o644
            archive.addfile(info, io.BytesIO(files[file]))
    return target


def digest(data: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def path(name: str) -> str:
    """Where a blob lies in the archive."""
    return f"blobs/{name.replace(':', '/')}"


def dump(value: Any) -> bytes:
    """JSON with one way to write it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
