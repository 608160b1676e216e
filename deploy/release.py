#!/usr/bin/env python3
"""Builds what a release consists of: wheels, tarballs, the Debian package, the image, and their checksums.

Programs and module are built against an old glibc by zig, so that one wheel runs on all machines of an architecture, and stripped. What depends
on when and where a build ran is fixed: times are those of the commit (or $SOURCE_DATE_EPOCH), folders of this machine get other names,
archives are sorted. Needs Python 3.9, Rust by rustup, and binutils; for the package and the image see package.sh and rootfs.sh. zig and maturin
come by pip into a virtual environment below the target folder. It publishes nothing.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from time import gmtime

import release_image

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAMS = ("rudder", "rudderd")
#: What builds: other versions may give other bytes.
TOOLS = ("maturin==1.16.0", "cargo-zigbuild==0.24.1", "ziglang==0.17.1")
#: The oldest glibc that wheels run on, as (major, minor), and the name that Python's world has for it.
GLIBC, PLATFORM = (2, 17), "manylinux_2_17"
#: Libraries that every machine of that platform has. Others must be linked into the programs.
LIBRARIES = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"}
LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
ARCHITECTURES = ("x86_64", "aarch64")
#: What a tarball holds beside the programs: what install.sh installs from, and the pages.
TARBALL = ("deploy", "docs", "dashboards", "README.md", "CHANGELOG.md", "LICENSE", "Cargo.toml")


def fail(message: str) -> None:
    """End with a message."""
    sys.exit(f"release.py: {message}")


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command in the repository; what it prints comes back, its errors go to the terminal."""
    print("+", *command, file=sys.stderr)
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        fail(f"{command[0]} ended with {done.returncode}")
    return done.stdout


def version() -> str:
    """The version of the workspace."""
    found = re.search(r'^\[workspace\.package\]\nversion = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    if found is None:
        fail("Cargo.toml has no version below [workspace.package]")
    return found[1]


def epoch() -> int:
    """The time that files of archives get: $SOURCE_DATE_EPOCH, else that of the last commit."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct"))


def tools(target: Path) -> Path:
    """The folder of the programs of :data:`TOOLS`, installed where they are not."""
    venv = target / "release-tools"
    stamp = venv / "installed"
    if not stamp.exists() or stamp.read_text() != " ".join(TOOLS):
        run(sys.executable, "-m", "venv", "--clear", venv)
        run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *TOOLS)
        stamp.write_text(" ".join(TOOLS))
    return venv / "bin"


def own_folders(target: Path) -> dict[str, str]:
    """Folders of this machine that the compilers are told to write as something else."""
    cargo = os.environ.get("CARGO_HOME") or str(Path.home() / ".cargo")
    return {cargo: "/cargo", str(REPOSITORY): "/rudder", run("rustc", "--print", "sysroot").strip(): "/rust", str(target): "/target"}


def environment(target: Path, binaries: Path) -> dict[str, str]:
    """The environment of a build of the release."""
    folders = own_folders(target)
    return {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "CARGO_TARGET_DIR": str(target),
        "CARGO_INCREMENTAL": "0",
        "CARGO_PROFILE_RELEASE_DEBUG": "false",
        "CARGO_PROFILE_RELEASE_STRIP": "symbols",
        "SOURCE_DATE_EPOCH": str(epoch()),
        "RUSTFLAGS": " ".join(f"--remap-path-prefix={there}={here}" for there, here in folders.items() if here != "/target"),
        "CFLAGS": " ".join(f"-ffile-prefix-map={there}={here}" for there, here in folders.items() if here in ("/cargo", "/target")),
    }


def check_paths(data: bytes, name: str, folders: list[str]) -> None:
    """What is shipped must not say where it was built."""
    for folder in folders:
        if folder.encode() + b"/" in data:
            fail(f"{name} holds the path {folder}")


def check(file: Path, folders: list[str]) -> None:
    """A built file must run on the platform of its name, and must not say where it was built."""
    data = file.read_bytes()
    check_paths(data, str(file), folders)
    versions = re.findall(r"\bGLIBC_(\d+)\.(\d+)", run("readelf", "--version-info", "--wide", file))
    newest = max(((int(major), int(minor)) for major, minor in versions), default=(0, 0))
    if newest > GLIBC:
        fail(f"{file} needs glibc {newest[0]}.{newest[1]}; {PLATFORM} has {GLIBC[0]}.{GLIBC[1]}")
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "--dynamic", "--wide", file)))
    if strangers := needed - LIBRARIES - set(LOADERS):
        fail(f"{file} needs {', '.join(sorted(strangers))}, which {PLATFORM} does not have")
    if re.search(r"\.(debug_\w+|symtab)\b", run("readelf", "--section-headers", "--wide", file)):
        fail(f"{file} is not stripped")
    print(f"{file.name}: {len(data) / 1e6:.1f} MB, glibc {newest[0]}.{newest[1]} or newer", file=sys.stderr)


def build_programs(architecture: str, target: Path) -> Path:
    """Build the programs for an architecture; gives their folder."""
    binaries = tools(target)
    triple = f"{architecture}-unknown-linux-gnu"
    glibc = f"{triple}.{GLIBC[0]}.{GLIBC[1]}"
    env = environment(target, binaries)
    if shutil.which("rustup"):
        run("rustup", "target", "add", triple)
    packages = [word for package in ("rudder-cli", "rudder-daemon", "rudder-python") for word in ("-p", package)]
    run(binaries / "cargo-zigbuild", "zigbuild", "--release", "--locked", "--target", glibc, *packages, env=env)
    folder = target / triple / "release"
    for name in PROGRAMS:
        check(folder / name, list(own_folders(target)))
    return folder


def build_wheel(architecture: str, target: Path, programs: Path, out: Path) -> Path:
    """Build the module's wheel and put the programs into it."""
    binaries = tools(target)
    with tempfile.TemporaryDirectory() as folder:
        place = ["--zig", "--target", f"{architecture}-unknown-linux-gnu", "--compatibility", PLATFORM]
        command = [binaries / "maturin", "build", "--release", "--locked", "--manifest-path", "client/python/Cargo.toml"]
        run(*command, "--out", folder, *place, env=environment(target, binaries))
        (module,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(module) as archive:
            archive.extract("rudder/_native.abi3.so", folder)
        check(Path(folder) / "rudder/_native.abi3.so", list(own_folders(target)))
        wheel = add_programs(module, programs, out, epoch())
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            check_paths(archive.read(name), f"{wheel}: {name}", list(own_folders(target)))
    return wheel


def add_programs(module: Path, programs: Path, out: Path, time: int) -> Path:
    """Write a wheel again with the programs in it: pip puts what lies in ``NAME.data/scripts`` beside the environment's Python.

    maturin makes wheels of a module or of programs, not of both. Entries are sorted and have one time, so that the same contents are the
    same bytes. maturin's list of crates stays out: it has a random number, the time and folders of this machine in it, and knows the
    module's crates only. ``Cargo.lock`` has all of them.
    """
    with zipfile.ZipFile(module) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and ".dist-info/sboms/" not in info.filename]
        files = {info.filename: (archive.read(info), 0o644) for info in infos}
    (record,) = (name for name in files if name.endswith(".dist-info/RECORD"))
    data = record.replace(".dist-info/RECORD", ".data/scripts")
    for name in PROGRAMS:
        files[f"{data}/{name}"] = ((programs / name).read_bytes(), 0o755)
    files[record] = (record_of(record, files), 0o644)
    target = out / module.name
    # The archive's times have no zone, and no years before 1980.
    stamp = (2000, 1, 1, 0, 0, 0) if time < 315532800 else gmtime(time)[:6]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files, key=lambda name: (".dist-info/" in name, name == record, name)):
            info = zipfile.ZipInfo(name, stamp)
            info.external_attr, info.compress_type = (0o100000 | files[name][1]) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name][0])
    return target


def record_of(record: str, files: dict[str, tuple[bytes, int]]) -> bytes:
    """The list of a wheel's files with their checksums."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name in sorted(files.keys() - {record}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name][0]).digest()).rstrip(b"=").decode()
        writer.writerow((name, f"sha256={digest}", len(files[name][0])))
    writer.writerow((record, "", ""))
    return text.getvalue().encode()


def tracked() -> Iterator[Path]:
    """The files of :data:`TARBALL` that git knows, sorted."""
    for name in sorted(run("git", "ls-files", "--", *TARBALL).splitlines()):
        yield Path(name)


def build_tarball(architecture: str, programs: Path, out: Path, time: int) -> Path:
    """Write the programs, what ``deploy/install.sh --programs bin`` installs from, and the pages."""
    name = f"rudder-{version()}-{architecture}-linux"
    target = out / f"{name}.tar.gz"
    files = [(REPOSITORY / path, str(path)) for path in tracked()] + [(programs / program, f"bin/{program}") for program in PROGRAMS]
    # The time of the compressed stream is 0, and its name is left out.
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for source, path in files:
                info = tarfile.TarInfo(f"{name}/{path}")
                info.size, info.mtime, info.mode = source.stat().st_size, time, 0o755 if os.access(source, os.X_OK) else 0o644
                with source.open("rb") as file:
                    archive.addfile(info, file)
    return target


def build_image(programs: Path, target: Path, out: Path, time: int) -> Path:
    """Write the image as an archive that ``podman load`` and ``docker load`` take; neither is needed here."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(time)}
    rootfs = run("deploy/container/rootfs.sh", "--out", target / "container", "--programs", programs, env=env).strip()
    return release_image.write(Path(rootfs), out / f"rudder-{version()}-{platform.machine()}.image.tar", version(), time)


def build(architectures: list[str], target: Path, out: Path) -> dict[str, str]:
    """Build everything into `out`; gives the checksum of each file."""
    out.mkdir(parents=True, exist_ok=True)
    time, made = epoch(), []
    for architecture in architectures:
        programs = build_programs(architecture, target)
        made += [build_wheel(architecture, target, programs, out), build_tarball(architecture, programs, out, time)]
        # Both run the programs, or copy libraries of this machine.
        if architecture == platform.machine():
            env = {**os.environ, "SOURCE_DATE_EPOCH": str(time)}
            made.append(Path(run("deploy/package.sh", "--out", out, "--programs", programs, env=env).strip()))
            made.append(build_image(programs, target, out, time))
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made)}
    (out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    for path in sorted(made):
        print(f"{sums[path.name]}  {path}  {path.stat().st_size / 1e6:.1f} MB")
    return sums


def wheel_of_target(programs: Path, out: Path) -> Path:
    """Make a wheel for this machine out of what ``cargo build --release`` has built, stripped. For tests: it may need a newer glibc."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        maturin = shutil.which("maturin", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if maturin is None:
            fail("maturin is missing: pip install maturin")
        command = [maturin, "build", "--release", "--locked", "--compatibility", "linux", "--manifest-path", "client/python/Cargo.toml"]
        run(*command, "--out", folder)
        (module,) = Path(folder).glob("*.whl")
        for name in PROGRAMS:
            if not (programs / name).exists():
                fail(f"{programs / name} is missing: run `cargo build --release`, or say --programs DIR")
            run("strip", "-o", Path(folder) / name, programs / name)
        return add_programs(module, Path(folder), out, epoch())


def main() -> None:
    """Build the release, or the wheel of a test."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="docs/install.md says what each file is for.")
    built = REPOSITORY / "target"
    parser.add_argument("--out", type=Path, default=built / "release-files", help="folder for the files [default: target/release-files]")
    parser.add_argument("--target-dir", type=Path, default=built / "dist", help="folder of the build [default: target/dist]")
    help_of_architecture = "repeatable [default: all]; package and image are made for this machine's only"
    parser.add_argument("--architecture", action="append", choices=ARCHITECTURES, help=help_of_architecture)
    parser.add_argument("--check", action="store_true", help="build a second time in an empty folder, and fail where the files differ")
    help_of_target = "only a wheel of programs that are built, for this machine: a minute instead of an hour"
    parser.add_argument("--from-target", action="store_true", help=help_of_target)
    help_of_programs = "with --from-target: where the programs lie [default: target/release]"
    parser.add_argument("--programs", type=Path, default=built / "release", help=help_of_programs)
    args = parser.parse_args()
    out, target = args.out.resolve(), args.target_dir.resolve()
    if args.from_target:
        print(wheel_of_target(args.programs.resolve(), out))
        return
    architectures = args.architecture or list(ARCHITECTURES)
    sums = build(architectures, target, out)
    if args.check:
        again = target.with_name(f"{target.name}-again")
        shutil.rmtree(again, ignore_errors=True)
        seconds = build(architectures, again, out.with_name(f"{out.name}-again"))
        if differing := [name for name, digest in sums.items() if seconds.get(name) != digest]:
            fail(f"a second build gave other bytes: {', '.join(differing)}")
        print("a second build in an empty folder gave the same bytes")


if __name__ == "__main__":
    main()
