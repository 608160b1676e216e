"""Datasets out of partitions that PyG or GraphLearn wrote: ``python -m rudder.convert pyg PARTITION --out DATASET``.

The partition's pickles are read here and nowhere else, and only as data (:mod:`rudder._torch_files`). Features are written as ``.npy`` files
in the order of ids, and ``rudder import npy`` makes the dataset of them: one program writes manifests. Ids and owners stay those of the
partition.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from numpy.lib.format import open_memmap

from ._partitions import NODE_TYPE, Partition, Piece, Table, read_glt, read_pyg
from ._programs import find_program
from ._torch_files import Tensor, load
from .errors import FormatError

__all__ = ["from_glt", "from_pyg"]

#: Rows are copied in pieces of about this many bytes.
_PIECE_BYTES = 16 << 20

_StrPath = Union[str, "os.PathLike[str]"]


def from_pyg(partition: _StrPath, out: _StrPath, *, name: Optional[str] = None, tables: Iterable[str] = (), force: bool = False) -> dict[str, Any]:
    """Make a dataset of a partition of ``torch_geometric.distributed.Partitioner``.

    Parameters
    ----------
    partition : path
        The folder that holds ``META.json``.
    out : path
        Folder of the dataset; it appears when it is complete. The folder around it needs space for the features twice.
    name : str, optional
        Name of the dataset; the name of `out` by default.
    tables : iterable of str
        More tables, as ``NAME[@TYPE]=FILE``: a ``.npy``, or a ``.pt`` with one tensor, with one row per id of the partition (labels, say).
    force : bool
        Replace the dataset in `out`.

    Returns
    -------
    dict
        What ``rudder import --json`` says of it.

    Raises
    ------
    FormatError
        If the partition is something else, its parts do not fit together, or ``rudder import`` refuses (with its words).
    FileExistsError
        If `out` is there and `force` is not given.
    """
    done = _convert(read_pyg(Path(partition)), Path(out), name, tables, force, quiet=True)
    return json.loads(done)


def from_glt(partition: _StrPath, out: _StrPath, *, name: Optional[str] = None, tables: Iterable[str] = (), force: bool = False) -> dict[str, Any]:
    """Make a dataset of a partition of GraphLearn-for-PyTorch, its ranges (GiGL's) included.

    Parameters
    ----------
    partition : path
        The folder that holds ``META``.
    out, name, tables, force
        As in :func:`from_pyg`.

    Returns
    -------
    dict
        What ``rudder import --json`` says of it.

    Raises
    ------
    FormatError, FileExistsError
        As :func:`from_pyg`.
    """
    done = _convert(read_glt(Path(partition)), Path(out), name, tables, force, quiet=True)
    return json.loads(done)


def _convert(partition: Partition, out: Path, name: Optional[str], tables: Iterable[str], force: bool, *, quiet: bool) -> str:
    """Write the arrays and import them; gives what ``rudder import`` printed, where that was asked for."""
    if not force and (out.is_symlink() or out.exists()):
        raise FileExistsError(f"{out} is there already: choose another --out, or replace that dataset with --force")
    if not partition.tables:
        raise FormatError("the partition holds no features")
    program = find_program("rudder")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.convert-", dir=out.absolute().parent) as folder:
        work = Path(folder)
        command = [program, "import", "npy", "--out", str(out), "--parts", str(partition.parts)]
        for number, (vertex_type, owners) in enumerate(partition.owners.items()):
            np.save(work / f"owner{number}.npy", owners)
            command += ["--book", f"{vertex_type}=map:{work / f'owner{number}.npy'}"]
        for number, table in enumerate(partition.tables):
            _write_table(table, partition.owners[table.vertex_type], work / f"{number}.npy", quiet)
            command += ["--table", f"{table.name}@{table.vertex_type}={work / f'{number}.npy'}"]
        for number, argument in enumerate(tables):
            command += ["--table", _own_table(argument, work / f"own{number}.npy")]
        command += (["--name", name] if name else []) + (["--force"] if force else [])
        return _import(command, quiet)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let signals that end this process wait, so that no process is started that nobody ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers of signals run in the main thread only
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for late in came:
        signal.raise_signal(late)


def _import(command: list[str], quiet: bool) -> str:
    """Run ``rudder import``; who ends this process lets it end by itself, so that it can remove what it has begun."""
    pipe = subprocess.PIPE if quiet else None
    process: Optional[subprocess.Popen[str]] = None
    try:
        with _signals_wait():
            process = subprocess.Popen([*command, "--json"] if quiet else command, stdout=pipe, stderr=pipe, text=True)
        said, complaint = process.communicate()
    except BaseException:
        if process is not None:
            process.terminate()
            process.wait()
        raise
    if process.returncode != 0:
        raise FormatError((complaint or "").strip() or f"rudder import ended with {process.returncode}")
    return said or ""


def _own_table(argument: str, target: Path) -> str:
    """An argument ``NAME[@TYPE]=FILE`` for ``rudder import``: a tensor becomes a ``.npy``."""
    table, sign, file = argument.partition("=")
    if not (table and sign and file):
        raise FormatError(f"`{argument}`: expected NAME[@TYPE]=FILE")
    table = table if "@" in table else f"{table}@{NODE_TYPE}"
    if not file.endswith((".pt", ".pth")):
        return f"{table}={file}"
    tensor = load(Path(file))
    if not isinstance(tensor, Tensor):
        raise FormatError(f"{file}: holds something else than one tensor")
    np.save(target, tensor.array)
    return f"{table}={target}"


def _write_table(table: Table, owners: np.ndarray, target: Path, quiet: bool) -> None:
    """Write the rows of a table in the order of ids. Every id must have one row, in the part that owns it."""
    rows = len(owners)
    seen = np.zeros(rows, bool)
    out: Optional[np.ndarray] = None
    given = 0
    for piece in table.pieces():
        if out is None:
            out = open_memmap(target, "w+", piece.rows.dtype, (rows, *piece.rows.shape[1:]))
        if piece.rows.dtype != out.dtype or piece.rows.shape[1:] != out.shape[1:]:
            shape, expected = list(piece.rows.shape[1:]), list(out.shape[1:])
            raise FormatError(f"{piece.file}: rows of {piece.rows.dtype} {shape}; those before have {out.dtype} {expected}")
        _copy(piece, owners, seen, out)
        given += len(piece.ids)
        if not quiet and sys.stderr.isatty():
            print(f"\rreading {table.name}: {given} of {rows} rows", end="", file=sys.stderr)
    if not quiet and sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if not seen.all():
        lost = int(np.argmin(seen))
        raise FormatError(f"table {table.name}: {rows - int(seen.sum())} ids have no row; the first is {lost}, owned by part {owners[lost]}")
    if given != rows:
        raise FormatError(f"table {table.name}: {given} rows for {rows} ids")


def _copy(piece: Piece, owners: np.ndarray, seen: np.ndarray, out: np.ndarray) -> None:
    """Put the rows of a piece to their ids, some at a time."""
    if len(piece.ids) != len(piece.rows):
        raise FormatError(f"{piece.file}: {len(piece.ids)} ids for {len(piece.rows)} rows")
    row_bytes = max(1, piece.rows.dtype.itemsize * int(np.prod(piece.rows.shape[1:], dtype=np.int64)))
    step = max(1, _PIECE_BYTES // row_bytes)
    for start in range(0, len(piece.ids), step):
        ids = piece.ids[start : start + step]
        outside = np.flatnonzero((ids < 0) | (ids >= len(owners)))
        if outside.size:
            raise FormatError(f"{piece.file}: id {ids[outside[0]]}, but the partition book has the ids 0 to {len(owners) - 1}")
        foreign = np.flatnonzero(owners[ids] != piece.part)
        if foreign.size:
            stranger = int(ids[foreign[0]])
            raise FormatError(f"{piece.file}: id {stranger} lies in part {piece.part}, but the partition book gives it to part {owners[stranger]}")
        again = np.flatnonzero(seen[ids])
        if again.size:
            raise FormatError(f"{piece.file}: id {ids[again[0]]} has a row already")
        seen[ids] = True
        out[ids] = piece.rows[start : start + step]


def main(arguments: Optional[list[str]] = None) -> int:
    """Run ``python -m rudder.convert``; gives the exit status."""
    description = "Make a Rudder dataset of a partition that another framework wrote."
    parser = argparse.ArgumentParser(prog="python -m rudder.convert", description=description)
    parser.add_argument("format", choices=("pyg", "glt"), help="who wrote it: torch_geometric's Partitioner, or GraphLearn-for-PyTorch")
    parser.add_argument("partition", type=Path, metavar="PARTITION", help="folder that holds META.json (pyg) or META (glt)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the dataset to; it appears when it is complete")
    parser.add_argument("--name", help="name of the dataset [default: the name of the output folder]")
    table_help = "one more table, of a .npy or of a .pt with one tensor, with one row per id; repeatable"
    parser.add_argument("--table", action="append", default=[], metavar="NAME[@TYPE]=FILE", help=table_help)
    parser.add_argument("--force", action="store_true", help="replace the dataset in the output folder")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON, and no progress")
    args = parser.parse_args(arguments)
    # The folder for temporary files is removed on the way out, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        partition = {"pyg": read_pyg, "glt": read_glt}[args.format](args.partition)
        for note in partition.left_out:
            print(f"left out: {note}", file=sys.stderr)
        print(_convert(partition, args.out, args.name, args.table, args.force, quiet=args.json), end="")
    except KeyboardInterrupt:
        return 130
    except (FormatError, OSError) as error:
        print(f"rudder.convert: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
