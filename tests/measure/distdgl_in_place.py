"""Holds rows of DistDGL partitions that Rudder serves in place against DistTensor's, and measures what it costs.

Run with the Python of a checkout's tests (numpy, the package `rudder`) after `cargo build --release`; `--dgl` is the
Python of an environment that has DGL (torch 2.2.1, dgl 2.1.0, torchdata 0.7.1, numpy below 2, pandas, pydantic,
pyyaml). Needs root for DistDGL's servers, which must not share /dev/shm. On standard output: one line for each
partition, access and node, then the measured table.

    python tests/measure/distdgl_in_place.py --dgl DGL_PYTHON [--large-rows 1000000]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python" / "tests"))

from cluster import Daemon, certificates, own_addresses, program  # noqa: E402

#: Kind of graph and number of parts of each partition whose rows are compared.
PARTITIONS = [("one", 2), ("edges", 2), ("edges", 4), ("types", 2), ("types", 4), ("types", 1)]

#: Longest wait for a peer, in seconds.
PEER_TIMEOUT_S = 30.0


def dgl(python: str, *arguments: object) -> None:
    """Run `distdgl_cluster.py`."""
    script = ROOT / "tests" / "measure" / "distdgl_cluster.py"
    done = subprocess.run([python, str(script), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"distdgl_cluster.py {arguments} failed:\n{done.stderr[-4000:]}")


def own_files(graph: Path, part: int, folder: Path) -> Path:
    """Copy the JSON file and the feature files of one part: all that a node needs."""
    for name in [graph.name, *(f"part{part}/{kind}_feat.dgl" for kind in ("node", "edge"))]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(graph.parent / name, folder / name)
    return folder / graph.name


@contextlib.contextmanager
def daemons(folder: Path, graph: Path, authority: Path, parts: int, access: str) -> Iterator[list[Daemon]]:
    """A daemon for each part, over the files of its own part alone."""
    hosts = own_addresses(parts)
    started = []
    for part, host in enumerate(hosts):
        place = folder / str(part)
        here = own_files(graph, part, place / "partition")
        started.append(
            Daemon(
                place,
                f"""
                node.index = {part}
                dataset.path = "distdgl:{here}"
                dataset.access = "{access}"
                local.socket = "{place / 'rudder.sock'}"
                admin.listen = "127.0.0.1:0"
                [peers]
                listen = "{host}"
                authority = "{authority / 'ca.pem'}"
                certificate = "{authority / f'node-{part}.pem'}"
                key = "{authority / f'node-{part}.key'}"
                [peers.addresses]
                """
                + "\n".join(f'{node} = "{address}"' for node, address in enumerate(hosts)),
            )
        )
    try:
        for daemon in started:
            daemon.start()
        for daemon in started:
            daemon.wait_until_ready()
        yield started
    finally:
        for daemon in started:
            daemon.stop()


def fetch_all(client: object, table: str, rows: int) -> np.ndarray:
    """All rows of a table as bytes, in the order of ids; waits for peers that are not there yet."""
    import rudder

    deadline = time.monotonic() + PEER_TIMEOUT_S
    while True:
        try:
            return client.fetch(table, np.arange(rows)).view(np.uint8).reshape(rows, -1)
        except rudder.PeerUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def table_of(feature: str, graph: dict[str, object]) -> str:
    """The table of a feature `TYPE/ATTR`."""
    kind, name = feature.split("/", 1)
    return name if kind in graph["ntypes"] and len(graph["ntypes"]) == 1 else f"{kind}.{name}"


def compare(python: str, kind: str, parts: int, folder: Path) -> None:
    """Compare every row of one partition as each node serves it with what DistTensor has."""
    dgl(python, "make", kind, folder, "--parts", parts)
    graph = folder / f"{kind}.json"
    dgl(python, "read", graph, folder / "rows.npz")
    expected = np.load(folder / "rows.npz")
    description = json.loads(graph.read_text())
    authority = certificates(folder / "certs", parts)
    for access in ("map", "blocks"):
        place = Path(tempfile.mkdtemp(dir="/tmp", prefix="rd-"))
        try:
            with daemons(place, graph, authority, parts, access) as nodes:
                for part, node in enumerate(nodes):
                    client = node.connect()
                    names = {table_of(feature, description) for feature in expected.files}
                    if names != set(client.tables()):
                        raise AssertionError(f"tables {set(client.tables())} served, {names} expected")
                    rows = size = 0
                    for feature in expected.files:
                        table = table_of(feature, description)
                        wanted = expected[feature]
                        found = fetch_all(client, table, len(wanted))
                        if not np.array_equal(found, wanted):
                            raise AssertionError(f"{kind} in {parts} parts: rows of {table} differ on node {part}")
                        rows, size = rows + len(wanted), size + wanted.nbytes
                    line = f"{kind:6} {parts} parts  {access:6} node {part}: {len(names)} tables, {rows} rows,"
                    print(f"{line} {size} bytes equal DistTensor's")
        finally:
            shutil.rmtree(place)


def counters(text: str) -> dict[str, int]:
    """What a file /proc/PID/io says."""
    return {key: int(value) for key, value in (line.split(": ") for line in text.splitlines())}


def accounted(command: list[str]) -> tuple[float, dict[str, int]]:
    """Seconds and the kernel's account of the bytes that a command read and wrote."""
    begin = time.monotonic()
    script = '"$@" > /dev/null && cat /proc/$$/io'
    done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begin
    return seconds, counters(done.stdout)


def start(folder: Path, dataset: str) -> tuple[float, dict[str, int], int]:
    """Seconds until a daemon of one part answers, its account of bytes, and its resident bytes."""
    daemon = Daemon(
        folder,
        f"""
        node.index = 0
        dataset.path = "{dataset}"
        local.socket = "{folder / 'rudder.sock'}"
        admin.listen = "127.0.0.1:0"
        """,
    )
    begin = time.monotonic()
    daemon.start()
    try:
        daemon.wait_until_ready()
        seconds = time.monotonic() - begin
        process = Path(f"/proc/{daemon.process.pid}")
        io = counters((process / "io").read_text())
        resident = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return seconds, io, int(resident.split()[1]) << 10
    finally:
        daemon.stop()


def mega(count: int) -> str:
    """Bytes in MB."""
    return f"{count / 1e6:.1f}"


def measure(python: str, rows: int, width: int, folder: Path) -> None:
    """Measure serving in place against importing, for a partition of one part."""
    dgl(python, "make", "large", folder / "partition", "--parts", 1, "--rows", rows, "--width", width)
    graph = folder / "partition" / "large.json"
    size = (folder / "partition" / "part0" / "node_feat.dgl").stat().st_size
    print(f"\npartition of {mega(size)} MB of features, {rows} rows")
    print("| way | import, s | read, MB | written, MB | start to ready, s | read, MB | resident, MB |")
    print("|---|---|---|---|---|---|---|")
    ways: list[tuple[str, list[str] | None, str]] = [
        ("`distdgl:`, in place", None, f"distdgl:{graph}"),
        ("`import distdgl` (links)", [], str(folder / "linked")),
        ("`import distdgl --copy`", ["--copy"], str(folder / "copied")),
    ]
    for number, (way, flags, dataset) in enumerate(ways):
        imported = "| - | - | - "
        if flags is not None:
            command = [program("rudder"), "import", "distdgl", str(graph), "--out", dataset, "--json", *flags]
            seconds, io = accounted(command)
            imported = f"| {seconds:.2f} | {mega(io['rchar'])} | {mega(io['wchar'])} "
        seconds, io, resident = start(folder / f"d{number}", dataset)
        print(f"| {way} {imported}| {seconds:.2f} | {mega(io['rchar'])} | {mega(resident)} |")


def sparse(rows: int, folder: Path) -> None:
    """Measure the start over a sparse partition of very many rows of 512 bytes, by the layout of `.dgl` files."""
    width = 128
    name = b"_N/feat"
    head = np.array([0xDD5A9FBE3FA2443F, 1, 1, len(name)], dtype="<u8").tobytes() + name
    head += np.array([0xDD5E40F096B4A13F, 0], dtype="<u8").tobytes() + np.array([1, 0, 2], dtype="<i4").tobytes()
    head += bytes([2, 32, 1, 0]) + np.array([rows, width, rows * width * 4], dtype="<i8").tobytes()
    folder.mkdir()
    with (folder / "node_feat.dgl").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + rows * width * 4)
    graph = {
        "graph_name": "sparse", "num_nodes": rows, "num_edges": 0, "num_parts": 1, "node_map": {"_N": [[0, rows]]},
        "edge_map": {"_N:_E:_N": [[0, 0]]}, "ntypes": {"_N": 0}, "etypes": {"_N:_E:_N": 0},
        "part-0": {"node_feats": "node_feat.dgl"},
    }  # fmt: skip
    (folder / "sparse.json").write_text(json.dumps(graph))
    seconds, io, resident = start(folder / "daemon", f"distdgl:{folder / 'sparse.json'}")
    print(
        f"\n{rows} rows of {4 * width} bytes in place: ready after {seconds:.2f} s, {mega(io['rchar'])} MB read, "
        f"{mega(resident)} MB resident"
    )


def main() -> None:
    """Compare, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dgl", required=True, metavar="PYTHON", help="Python of an environment that has DGL")
    parser.add_argument("--large-rows", type=int, default=1_000_000, help="rows of the partition that is measured")
    parser.add_argument("--width", type=int, default=256, help="floats of each of them")
    parser.add_argument("--sparse-rows", type=int, default=100_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind, parts in PARTITIONS:
            compare(given.dgl, kind, parts, Path(folder) / f"{kind}{parts}")
        measure(given.dgl, given.large_rows, given.width, Path(folder) / "large")
        sparse(given.sparse_rows, Path(folder) / "sparse")


if __name__ == "__main__":
    main()
