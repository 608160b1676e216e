"""What `python_fetch.py` holds fetches against, where it is installed: DistDGL, Redis, PyG.

Each rival is a context that answers its ways by name: what gets rows (timed), what makes drawn ids ready for it, what
makes an array of its answer, and the rows that are right. A rival that is not installed has no ways. Run as a
program, this file is a server of DistDGL:

    python python_fetch_rivals.py ADDRESSES

"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: Rows that a rival holds at most: those of Redis take three times their size.
ROWS_MAX = 400_000
#: First port of the servers of DistDGL.
DGL_PORT = 31_150
#: How long a server may take to start.
START_TIMEOUT_S = 120.0
#: Rows that Redis is given at once.
LOAD_ROWS = 5_000

Ways = dict[
    str,
    tuple[
        Callable[[Any], Any], Callable[[np.ndarray], Any], Callable[[Any], np.ndarray], Callable[[np.ndarray], np.ndarray]
    ],
]


def held(feat: np.ndarray, first: int) -> np.ndarray:
    """The rows that a rival holds: of those that are drawn from, as many as it may."""
    return feat[first : first + ROWS_MAX]


class Redis:
    """A connection that speaks no more of Redis' protocol than rows of equal size need, without a loop over them."""

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(str(path))
        self.row_bytes = rows.shape[1] * 4
        self.key = np.dtype([("head", "S4"), ("id", "<u8"), ("tail", "S2")])
        head = b"$%d\r\n" % self.row_bytes
        self.value = np.dtype([("head", f"S{len(head)}"), ("row", f"({rows.shape[1]},)<f4"), ("tail", "S2")])
        self.pair = np.dtype([("key", self.key), ("value", self.value)])
        self.head = head
        for start in range(0, len(rows), LOAD_ROWS):
            self._load(start, rows[start : start + LOAD_ROWS])

    def _keys(self, ids: np.ndarray) -> np.ndarray:
        keys = np.empty(len(ids), self.key)
        keys["head"], keys["id"], keys["tail"] = b"$8\r\n", ids, b"\r\n"
        return keys

    def _load(self, start: int, rows: np.ndarray) -> None:
        pairs = np.empty(len(rows), self.pair)
        pairs["key"] = self._keys(np.arange(start, start + len(rows)))
        pairs["value"]["head"], pairs["value"]["row"], pairs["value"]["tail"] = self.head, rows, b"\r\n"
        self.stream.sendall(b"*%d\r\n$4\r\nMSET\r\n" % (1 + 2 * len(rows)) + pairs.tobytes())
        if self._line() != b"+OK\r\n":
            raise RuntimeError("Redis did not take the rows")

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.stream.recv(1)
        return line

    def get(self, ids: np.ndarray) -> np.ndarray:
        """The rows of ``ids``."""
        self.stream.sendall(b"*%d\r\n$4\r\nMGET\r\n" % (1 + len(ids)) + self._keys(ids).tobytes())
        if self._line() != b"*%d\r\n" % len(ids):
            raise RuntimeError("Redis did not answer so many rows")
        values = np.empty(len(ids), self.value)
        view, done = memoryview(values.view(np.uint8)), 0
        while done < len(view):
            done += self.stream.recv_into(view[done:])
        return np.ascontiguousarray(values["row"])


@contextlib.contextmanager
def redis(feat: np.ndarray, first: int) -> Iterator[Ways]:
    """A Redis of this machine, asked over a Unix socket."""
    if shutil.which("redis-server") is None:
        yield {}
        return
    rows = held(feat, first)
    with tempfile.TemporaryDirectory(prefix="rudder-", dir="/tmp") as folder:
        path = Path(folder) / "s"
        settings = {"port": "0", "unixsocket": str(path), "save": "", "appendonly": "no", "dir": folder}
        command = ["redis-server", *(word for key, value in settings.items() for word in (f"--{key}", value))]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            connection = Redis(path, rows)

            def there(ids: np.ndarray) -> np.ndarray:
                return (ids - first) % len(rows)

            yield {"Redis MGET": (connection.get, there, np.asarray, lambda ids: rows[there(ids)])}
        finally:
            server.kill()
            server.wait()


@contextlib.contextmanager
def pyg(feat: np.ndarray, first: int) -> Iterator[Ways]:
    """PyG's `Data` as a feature store in memory."""
    if importlib.util.find_spec("torch_geometric") is None:
        yield {}
        return
    import torch
    from torch_geometric.data import Data

    data = Data(x=torch.from_numpy(feat))

    def get(ids: torch.Tensor) -> torch.Tensor:
        return data.get_tensor(attr_name="x", index=ids)

    yield {"PyG, in memory": (get, torch.from_numpy, np.asarray, feat.__getitem__)}


@contextlib.contextmanager
def distdgl(feat: np.ndarray, first: int) -> Iterator[Ways]:
    """`DistTensor`: two servers on this machine, of which one is another machine to DistDGL."""
    if importlib.util.find_spec("dgl") is None:
        yield {}
        return
    os.environ["DGLBACKEND"] = "pytorch"
    import dgl
    import torch

    rows = held(feat, first)
    with tempfile.TemporaryDirectory(prefix="rudder-") as name:
        folder = Path(name)
        graph = dgl.graph((torch.arange(len(rows)), (torch.arange(len(rows)) + 1) % len(rows)), num_nodes=len(rows))
        graph.ndata["feat"] = torch.from_numpy(rows)
        _, _ = dgl.distributed.partition_graph(graph, "g", 2, str(folder), part_method="random", return_mapping=True)
        parts = [dgl.data.utils.load_tensors(str(folder / f"part{part}" / "node_feat.dgl"))["_N/feat"] for part in range(2)]
        truth = torch.cat(parts).numpy()
        addresses = folder / "addresses"
        addresses.write_text("".join(f"127.0.0.{part + 1} {DGL_PORT + part}\n" for part in range(2)))
        environment = {
            "DGL_IP_CONFIG": str(addresses),
            "DGL_CONF_PATH": str(folder / "g.json"),
            "DGL_NUM_SERVER": "1",
            "DGL_NUM_CLIENT": "1",
            "DGL_NUM_SAMPLER": "0",
            "DGL_DIST_MODE": "distributed",
            "DGL_GRAPH_FORMAT": "csc",
            "DGL_KEEP_ALIVE": "0",
        }
        apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]
        servers = []
        try:
            for part in range(2):
                role = {"DGL_ROLE": "server", "DGL_SERVER_ID": str(part)}
                command = [*(apart if part else []), sys.executable, __file__, str(addresses)]
                servers.append(subprocess.Popen(command, env={**os.environ, **environment, **role}, stdout=subprocess.DEVNULL))
            os.environ.update({**environment, "DGL_ROLE": "client"})
            with contextlib.redirect_stdout(sys.stderr):
                dgl.distributed.initialize(str(addresses))
                tensor = dgl.distributed.DistGraph(json.loads((folder / "g.json").read_text())["graph_name"]).ndata["feat"]
            own = len(parts[0])

            def ids_of(start: int, count: int) -> Callable[[np.ndarray], np.ndarray]:
                return lambda ids: start + (ids - first) % count

            ways: Ways = {}
            for kind, start, count in (("local", 0, own), ("remote", own, len(truth) - own)):
                there = ids_of(start, count)
                ways[f"DistTensor, {kind}"] = (
                    tensor.__getitem__,
                    lambda ids, there=there: torch.from_numpy(there(ids)),
                    np.asarray,
                    lambda ids, there=there: truth[there(ids)],
                )
            yield ways
            # Else it would complain, at the end of this process, that its servers are gone.
            with contextlib.redirect_stdout(sys.stderr):
                dgl.distributed.exit_client()
        finally:
            for server in servers:
                server.kill()
                server.wait()


#: The rivals by name.
ALL = {"distdgl": distdgl, "pyg": pyg, "redis": redis}

if __name__ == "__main__":
    import dgl

    dgl.distributed.initialize(sys.argv[1])
