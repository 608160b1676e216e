"""Fetches from Python beside the same rows from elsewhere: one table, one run.

Starts a cluster of two daemons, the first of which has every remote row in its cache, and lets the ways to get random
rows take turns: Rudder by ids of torch and of NumPy, in halves, of three tables at once, one row, announced;
``torch.index_select`` and ``numpy.take``; and where they are installed, DistDGL's ``DistTensor``, Redis and PyG's
in-memory store. The order of each round is drawn, each way gets ids of its own, and what it answers is held against
the source outside the time that counts. Needs the Python package ``rudder``, NumPy, torch:

    python tests/measure/python_fetch.py [--rows N] [--dim N] [--rounds N] [--only NAME...] [--json]

Figures are medians; on a machine that does other work, read the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import rudder

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "client" / "python" / "tests"))
import cluster  # noqa: E402
import python_fetch_rivals as rivals  # noqa: E402

#: Rounds before those that count.
UNCOUNTED = 3
#: Threads of torch, as many as the daemon may use for a gather on two cores.
THREADS = 2
#: Pause before each call: what the daemon does for its books after a call is not part of the next one.
PAUSE_S = 0.015
#: Calls of one row for each call of many.
SINGLES = 40
#: Rows of an answer that are held against the source.
CHECKED = 100
#: Width of each of the tables that together are as wide as the first.
THIRDS = 3
#: By which the others of its size are divided.
YARDSTICK = "torch.index_select(out=kept)"
#: How long the daemons may take to meet, and passes over all rows until they are cached.
MEET_TIMEOUT_S, WARM_PASSES = 60.0, 4


class Way(NamedTuple):
    """A way to get rows.

    Attributes
    ----------
    get : callable
        What is timed: gets the rows of what ``prepare`` made.
    prepare : callable
        Makes of drawn ids (NumPy, ``int64``, remote ids of the cluster) what ``get`` takes.
    rows : callable
        Makes of what ``get`` answered an array of 32-bit floats ``[n, dim]``; ``None`` if there are none.
    source : callable
        Makes of the drawn ids the rows that are right.
    count : int
        Ids that are drawn.
    after : callable
        Called with what ``prepare`` made, outside the time that counts.
    """

    get: Callable[[Any], Any]
    prepare: Callable[[np.ndarray], Any]
    rows: Callable[[Any], np.ndarray] | None
    source: Callable[[np.ndarray], np.ndarray]
    count: int
    after: Callable[[Any], Any] = lambda prepared: None


class Site:
    """The daemons, and the arrays that they serve.

    Attributes
    ----------
    feat : numpy.ndarray
        Rows of the table ``feat``; the upper half is the other node's. The tables ``third0`` and so on hold its columns.
    client : rudder.Client
        Of the daemon that has all rows of the other in its cache.
    """

    def __init__(self, feat: np.ndarray, client: rudder.Client) -> None:
        self.feat = feat
        self.client = client
        self.remote_first = len(feat) // 2
        self.thirds = [name for name in client.tables() if name.startswith("third")]

    def warm(self) -> None:
        """Fetch all remote rows until they are cached."""
        tables = ["feat", *self.thirds]
        for table in tables:
            for _ in range(WARM_PASSES):
                for first in range(self.remote_first, len(self.feat), 50_000):
                    self.client.fetch(table, np.arange(first, min(first + 50_000, len(self.feat))))
        for table in tables:
            remote = len(self.feat) - self.remote_first
            state = cluster.accounted(self.client, table, lambda state, remote=remote: state["cached_rows"] >= remote)
            if state["cached_rows"] < remote:
                raise RuntimeError(f"the cache of {table} did not take all rows: {state}")

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random remote ids."""
        return rng.integers(self.remote_first, len(self.feat), count)


@contextlib.contextmanager
def served(given: argparse.Namespace) -> Iterator[Site]:
    """A running site."""
    with tempfile.TemporaryDirectory(prefix="rudder-", dir="/tmp") as name:
        folder = Path(name)
        feat = np.random.default_rng(1).random((2 * given.cached, given.dim), dtype=np.float32)
        tables = {"feat": feat}
        tables |= {f"third{at}": columns for at, columns in enumerate(np.array_split(feat, THIRDS, axis=1))}
        arguments = []
        for table, array in tables.items():
            np.save(folder / f"{table}.npy", array)
            arguments += ["--table", f"{table}={folder / table}.npy"]
        cluster.run("rudder", "import", "npy", "--out", folder / "data", "--parts", "2", *arguments, "--json")
        for table in tables:
            (folder / f"{table}.npy").unlink()
        authority = cluster.certificates(folder / "certificates", 2)
        capacity = f"[cache]\ncapacity = {given.cached}"
        with cluster.cluster(folder, folder / "data", authority, more=capacity) as daemons:
            site = Site(feat, daemons[0].connect())
            deadline = time.monotonic() + MEET_TIMEOUT_S
            while True:
                try:
                    site.client.fetch("feat", [len(feat) - 1])
                    break
                except rudder.PeerUnavailableError:
                    if time.monotonic() > deadline:
                        raise
            site.warm()
            yield site


def yardsticks(site: Site, count: int) -> dict[str, Way]:
    """The same rows inside this process."""
    feat, kept = torch.from_numpy(site.feat), torch.empty((count, site.feat.shape[1]))
    taken = kept.numpy().copy()
    way = {"rows": np.asarray, "source": site.feat.__getitem__, "count": count}
    return {
        YARDSTICK: Way(lambda ids: torch.index_select(feat, 0, ids, out=kept), torch.from_numpy, **way),
        "torch.index_select, new": Way(lambda ids: torch.index_select(feat, 0, ids), torch.from_numpy, **way),
        "numpy.take(out=kept)": Way(lambda ids: np.take(site.feat, ids, 0, out=taken, mode="clip"), lambda ids: ids, **way),
    }


def of_rudder(site: Site, count: int) -> dict[str, Way]:
    """Fetches of many rows."""
    client, half = site.client, count // 2

    def halves(ids: torch.Tensor) -> list[torch.Tensor]:
        pending = [client.fetch_async("feat", ids[:half]), client.fetch_async("feat", ids[half:])]
        return [fetch.wait() for fetch in pending]

    way = {"rows": np.asarray, "source": site.feat.__getitem__, "count": count}
    local = {**way, "source": lambda ids: site.feat[ids - site.remote_first]}
    ways = {
        "rudder, torch ids": Way(lambda ids: client.fetch("feat", ids), torch.from_numpy, **way),
        "rudder, NumPy ids": Way(lambda ids: client.fetch("feat", ids), lambda ids: ids, **way),
        "rudder, list of ids": Way(lambda ids: client.fetch("feat", ids), np.ndarray.tolist, **way),
        "rudder, two halves": Way(halves, torch.from_numpy, **{**way, "rows": lambda halves: torch.cat(halves).numpy()}),
        "rudder, own rows": Way(lambda ids: client.fetch("feat", ids), lambda ids: ids - site.remote_first, **local),
        "rudder, announce": Way(
            lambda ids: client.announce("feat", ids),
            torch.from_numpy,
            None,
            site.feat.__getitem__,
            count,
            lambda ids: client.fetch("feat", ids),
        ),
    }
    with contextlib.suppress(TypeError, rudder.RudderError):
        client.fetch(site.thirds, [0])
        joined = {**way, "rows": lambda rows: np.concatenate([np.asarray(rows[name]) for name in site.thirds], axis=1)}
        ways["rudder, three tables"] = Way(lambda ids: client.fetch(site.thirds, ids), torch.from_numpy, **joined)
    apart = {**way, "rows": lambda rows: np.concatenate(rows, axis=1)}
    ways["rudder, three calls"] = Way(lambda ids: [client.fetch(name, ids) for name in site.thirds], torch.from_numpy, **apart)
    return ways


def of_one_row(site: Site) -> dict[str, Way]:
    """Fetches of one row."""
    client = site.client
    way = {"rows": np.asarray, "source": site.feat.__getitem__, "count": 1}
    return {
        "one row, torch ids": Way(lambda ids: client.fetch("feat", ids), torch.from_numpy, **way),
        "one row, NumPy ids": Way(lambda ids: client.fetch("feat", ids), lambda ids: ids, **way),
        "one row, list of ids": Way(lambda ids: client.fetch("feat", ids), np.ndarray.tolist, **way),
    }


def measure(ways: dict[str, Way], site: Site, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each way, in drawn order."""
    rng, order = np.random.default_rng(2), random.Random(3)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(UNCOUNTED + rounds):
        for name in order.sample(list(ways), len(ways)):
            way = ways[name]
            time.sleep(PAUSE_S)
            for _ in range(SINGLES if way.count == 1 else 1):
                drawn = site.draw(rng, way.count)
                prepared = way.prepare(drawn)
                begin = time.perf_counter()
                answer = way.get(prepared)
                took = time.perf_counter() - begin
                if way.rows is not None:
                    looked_at = rng.integers(0, way.count, min(CHECKED, way.count))
                    if not np.array_equal(way.rows(answer)[looked_at], way.source(drawn)[looked_at]):
                        raise RuntimeError(f"{name}: wrong rows")
                del answer
                way.after(prepared)
                if turn >= UNCOUNTED:
                    times[name].append(took * 1e3)
    return times


def lines_of(ways: dict[str, Way], times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """What is said of each way."""
    base = statistics.median(times[YARDSTICK]) if YARDSTICK in times else None
    lines = []
    for name, of_way in times.items():
        quartile = sorted(of_way)[len(of_way) // 4]
        line = {"way": name, "rows": ways[name].count, "ms": statistics.median(of_way), "ms_p25": quartile, "ms_min": min(of_way)}
        if base is not None and ways[name].count == ways[YARDSTICK].count:
            line["ratio"] = statistics.median(of_way) / base
        lines.append({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()})
    return lines


def table_of(lines: list[dict[str, Any]]) -> str:
    """The same as a table."""
    text = [f"{'way':32} {'rows':>7} {'median ms':>10} {'p25':>9} {'min':>9} {'of yardstick':>12}"]
    for line in lines:
        ratio = f"{line['ratio']:.2f}" if "ratio" in line else ""
        text.append(f"{line['way']:32} {line['rows']:7} {line['ms']:10.3f} {line['ms_p25']:9.3f} {line['ms_min']:9.3f} {ratio:>12}")
    return "\n".join(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a call")
    parser.add_argument("--dim", type=int, default=128, help="32-bit floats of a row")
    parser.add_argument("--cached", type=int, default=1_000_000, help="rows in the cache, of which each call gets random ones")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", nargs="*", help="measure the ways whose names contain one of these, and the yardstick")
    parser.add_argument("--without", nargs="*", default=[], choices=sorted(rivals.ALL), help="rivals to leave out")
    parser.add_argument("--json", action="store_true", help="a JSON object per way and line, before the table")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    # The limit of the tests' clusters is small; three tables at once count three times.
    cluster.IDS_MAX = 4 * given.rows
    with served(given) as site, contextlib.ExitStack() as stack:
        ways = {**yardsticks(site, given.rows), **of_rudder(site, given.rows), **of_one_row(site)}
        for name, rival in rivals.ALL.items():
            if name not in given.without:
                for way, (get, prepare, rows, source) in stack.enter_context(rival(site.feat, site.remote_first)).items():
                    ways[way] = Way(get, prepare, rows, source, given.rows)
        if given.only:
            wanted = [YARDSTICK, *given.only]
            ways = {name: way for name, way in ways.items() if any(part in name for part in wanted)}
        lines = lines_of(ways, measure(ways, site, given.rounds))
    if given.json:
        for line in lines:
            print(json.dumps(line))
    print(table_of(lines))


if __name__ == "__main__":
    main()
