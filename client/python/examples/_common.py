"""What the examples share: arguments, a graph to train on, its data set, and the figures at the end.

Nothing here belongs to one framework. A graph is either generated, the same for the same numbers, or the Debian package graph,
whose folder ``--graph`` names. :class:`Run` measures epochs and holds rows against the arrays that the data set was made of.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rudder
from rudder._programs import find_program

#: Share of a class's own features in the rows of its vertices; the rest is noise.
_SIGNAL = 0.15

#: Longest wait until the daemon has counted every fetch that it has answered, in seconds.
_COUNTED_TIMEOUT_S = 10.0


def parser(text: str, without: Collection[str] = ()) -> argparse.ArgumentParser:
    """The arguments of the examples, but for those that one of them has no use for; an example may add its own."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--features", choices=["rudder", "framework"], default="rudder", help="where feature rows come from")
    made.add_argument("--epochs", type=int, default=3)
    made.add_argument("--json", action="store_true", help="print one object at the end, and nothing else")
    made.add_argument("--seed", type=int, default=0, help="equal seeds give equal losses with both kinds of features")
    made.add_argument("--batch", type=int, default=128, help="seeds of a minibatch")
    for name, default, meaning in (
        ("vertices", 20_000, "of the generated graph"),
        ("width", 64, "features of a vertex"),
        ("parts", 2, "parts of the data set, each served by a daemon of its own"),
        ("workers", 0, "processes that sample"),
    ):
        if name not in without:
            made.add_argument(f"--{name}", type=int, default=default, help=meaning)
    if "graph" not in without:
        made.add_argument("--graph", type=Path, help="folder of the Debian package graph; by default a graph is generated")
    return made


@dataclass
class Graph:
    """One vertex type, one edge type.

    Attributes
    ----------
    edges : numpy.ndarray
        int64 ``[2, edges]``, both directions of each.
    features : numpy.ndarray
        float32 ``[vertices, width]``.
    labels : numpy.ndarray
        int64 ``[vertices]``.
    train, test : numpy.ndarray
        int64, the vertices to train and to evaluate with.
    """

    edges: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(self.labels.max()) + 1


@dataclass
class TypedGraph:
    """Papers that cite papers, and authors who write them.

    Attributes
    ----------
    edges : dict
        ``(source type, relation, target type)`` to int64 ``[2, edges]``.
    features : dict of str to numpy.ndarray
        ``"paper.x"``, ``"author.x"``; float32 of different widths.
    labels : numpy.ndarray
        int64, of the papers.
    train, test : numpy.ndarray
        int64, the papers to train and to evaluate with.
    """

    edges: dict[tuple[str, str, str], np.ndarray]
    features: dict[str, np.ndarray]
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(self.labels.max()) + 1


def graph_of(arguments: argparse.Namespace) -> Graph:
    """The graph that the arguments ask for."""
    if arguments.graph is not None:
        return debian(arguments.graph, arguments.width)
    return generated(arguments.vertices, arguments.width)


def generated(vertices: int, width: int, classes: int = 8, degree: int = 10) -> Graph:
    """A graph with hubs, whose edges join vertices of one class more often than not."""
    rng = np.random.default_rng(vertices)
    labels = rng.integers(0, classes, vertices)
    edges = _edges(rng, labels, labels, vertices * degree // 2)
    both = np.concatenate([edges, edges[::-1]], axis=1)
    train, test = _split(rng, vertices)
    return Graph(both, _features(rng, labels, width), labels, train, test)


def generated_typed(papers: int, width: int, classes: int = 8, degree: int = 5) -> TypedGraph:
    """As :func:`generated`, with half as many authors as papers, whose features are half as wide."""
    rng = np.random.default_rng(papers)
    labels, of_authors = rng.integers(0, classes, papers), rng.integers(0, classes, papers // 2)
    writes = _edges(rng, of_authors, labels, papers * 3)
    edges = {
        ("paper", "cites", "paper"): _edges(rng, labels, labels, papers * degree),
        ("author", "writes", "paper"): writes,
        ("paper", "written_by", "author"): np.ascontiguousarray(writes[::-1]),
    }
    features = {"paper.x": _features(rng, labels, width), "author.x": _features(rng, of_authors, width // 2)}
    return TypedGraph(edges, features, labels, *_split(rng, papers))


def debian(folder: Path, width: int) -> Graph:
    """The Debian package graph; features are counts of the three-letter pieces of a package's name, hashed."""
    names, sections = zip(*(line.rstrip("\n").split("\t") for line in (folder / "packages.tsv").open()))
    labels = np.unique(np.array(sections), return_inverse=True)[1].astype(np.int64).reshape(-1)
    edges = np.load(folder / "edges.npy").astype(np.int64).T
    features = np.zeros((len(names), width), dtype=np.float32)
    for vertex, name in enumerate(names):
        text = f"^{name}$".encode()
        pieces = [(text[at] * 31 + text[at + 1]) * 31 + text[at + 2] for at in range(len(text) - 2)]
        np.add.at(features[vertex], np.array(pieces) % width, 1.0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    train, test = _split(np.random.default_rng(0), len(names))
    return Graph(np.concatenate([edges, edges[::-1]], axis=1), features, labels, train, test)


def _edges(rng: np.random.Generator, sources: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Edges from vertices with the labels ``sources`` to those with ``targets``; four of five join equal labels."""
    # The cube of a number below 1 is small more often than large: low numbers become hubs.
    start = (len(sources) * rng.random(count) ** 3).astype(np.int64)
    order = np.argsort(targets, kind="stable")
    first = np.searchsorted(targets[order], sources[start])
    size = np.searchsorted(targets[order], sources[start], side="right") - first
    alike = order[np.minimum(first + (size * rng.random(count)).astype(np.int64), len(targets) - 1)]
    end = np.where(rng.random(count) < 0.8, alike, rng.integers(0, len(targets), count))
    return np.stack([start, end])


def _features(rng: np.random.Generator, labels: np.ndarray, width: int) -> np.ndarray:
    of_class = rng.standard_normal((int(labels.max()) + 1, width), dtype=np.float32)
    return _SIGNAL * of_class[labels] + rng.standard_normal((len(labels), width), dtype=np.float32)


def _split(rng: np.random.Generator, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """A third to train with, a tenth to evaluate with."""
    shuffled = rng.permutation(vertices)
    return np.sort(shuffled[: vertices // 3]), np.sort(shuffled[vertices - vertices // 10 :])


def dataset(tables: Mapping[str, np.ndarray], parts: int) -> Path:
    """Write a data set of these tables, to be removed when the process ends; return its folder.

    A table ``TYPE.ATTR`` has rows of vertices of that type.
    """
    folder = Path(tempfile.mkdtemp(prefix="rudder-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [find_program("rudder"), "import", "npy", "--out", str(folder / "dataset"), "--parts", str(parts), "--json"]
    for name, rows in tables.items():
        np.save(folder / f"{name}.npy", rows)
        of_type = f"@{name.rsplit('.', 1)[0]}" if "." in name else ""
        command += ["--table", f"{name}{of_type}={folder / name}.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return folder / "dataset"


class Run:
    """The figures of one run: seconds and loss of each epoch, rows that were waited for, rows that were wrong.

    Parameters
    ----------
    example : str
        Its name.
    arguments : argparse.Namespace
        From :func:`parser`.
    tables : mapping of str to numpy.ndarray
        What rows must equal.
    client : rudder.Client, optional
        Where rows come from Rudder.
    """

    def __init__(
        self,
        example: str,
        arguments: argparse.Namespace,
        tables: Mapping[str, np.ndarray],
        client: rudder.Client | None = None,
    ) -> None:
        self._example = example
        self._arguments = arguments
        self._tables = tables
        self._client = client
        self._waited_before = self._rows_waited()
        self._unmeasured_s = 0.0
        self.epoch_seconds: list[float] = []
        self.losses: list[float] = []
        self.rows_checked = 0
        self.wrong_rows = 0

    @contextlib.contextmanager
    def epoch(self) -> Iterator[list[float]]:
        """Measure an epoch: the block appends the loss of each minibatch to the list that it gets."""
        losses: list[float] = []
        start, self._unmeasured_s = time.perf_counter(), 0.0
        yield losses
        self.epoch_seconds.append(time.perf_counter() - start - self._unmeasured_s)
        self.losses.append(float(np.mean(losses)))
        if not self._arguments.json:
            print(f"epoch {len(self.losses) - 1}: {self.epoch_seconds[-1]:.2f} s, loss {self.losses[-1]:.4f}")

    def check(self, table: str, ids: Any, rows: Any) -> None:
        """Hold rows against the source, bit for bit. The time that this takes is not the epoch's."""
        start = time.perf_counter()
        expected, rows = self._tables[table][np.asarray(ids)], np.asarray(rows)
        wrong = rows.reshape(len(rows), -1).view(np.uint8) != expected.reshape(len(expected), -1).view(np.uint8)
        self.rows_checked += len(rows)
        self.wrong_rows += int(wrong.any(axis=1).sum())
        self._unmeasured_s += time.perf_counter() - start

    def report(self) -> None:
        """Print the figures; an exit status of 1 if a row was wrong."""
        figures = {
            "example": self._example,
            "features": self._arguments.features,
            "epoch_seconds": self.epoch_seconds,
            "losses": self.losses,
            "rows_waited": self._rows_waited() - self._waited_before,
            "rows_checked": self.rows_checked,
            "wrong_rows": self.wrong_rows,
        }
        if self._arguments.json:
            print(json.dumps(figures))
        else:
            print(f"{figures['rows_waited']} rows waited for, {self.rows_checked} rows checked, {self.wrong_rows} wrong")
        if self.wrong_rows:
            raise SystemExit(1)

    def _rows_waited(self) -> int:
        """Rows of peers that fetches had to wait for: neither local, nor cached, nor brought in ahead."""
        if self._client is None:
            return 0
        deadline = time.monotonic() + _COUNTED_TIMEOUT_S
        # The daemon counts a fetch a moment after it has answered.
        before = None
        while True:
            fetched = [state["fetched"] for state in self._client.status()["tables"] if state["name"] in self._tables]
            if fetched == before or time.monotonic() > deadline:
                return sum(state["peer"] for state in fetched)
            before = fetched
            time.sleep(0.1)
