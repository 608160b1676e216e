"""Fetches from Python beside the same rows from elsewhere: one table, one run.

Starts a cluster of two daemons whose cache holds every remote row, and lets the ways of getting random rows take turns: Rudder (ids
of torch, of NumPy, as a list; one row; several tables; announcements), ``torch.index_select``, ``numpy.take``, and where they are
installed DistDGL's ``DistTensor``, Redis and PyG's in-memory store. The order of each round is drawn anew, every way gets ids of its
own, and rows are held against the source outside the time that counts. Needs the Python package ``rudder``, NumPy and torch:

    python tests/measure/python_fetch.py [--rows N] [--dim N] [--rounds N] [--json]

Each figure is the median of the rounds. A machine that does other work at the same time makes all of them slower: read the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rudder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "live"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from observed import short_folder  # noqa: E402
from python_fetch_rivals import RIVALS, Rival  # noqa: E402
from python_fetch_site import Site  # noqa: E402

#: Rounds before those that count.
UNCOUNTED = 3
#: Threads of torch, as many as the daemon's gather.
THREADS = 2
#: Pause before each call, so that what the daemon still does for the call before it is not counted.
PAUSE_S = 0.01
#: Rows of a fetch that are held against the source.
CHECKED = 200
#: The yardstick, by which the others are divided.
YARDSTICK = "torch.index_select(out=kept)"


class Way:
    """A way to get rows.

    Attributes
    ----------
    name : str
        As the table calls it.
    prepare : callable
        Makes of drawn ids (NumPy, ``int64``) what ``get`` takes; not timed.
    get : callable
        Gets the rows of them; timed.
    rows : callable
        Makes of what ``get`` answered an array ``[n, dim]``; not timed. None if there is nothing to check.
    """

    def __init__(
        self,
        name: str,
        get: Callable[[Any], Any],
        prepare: Callable[[np.ndarray], Any] = lambda ids: ids,
        rows: Callable[[Any], Any] | None = np.asarray,
        count: int | None = None,
    ) -> None:
        self.name = name
        self.get = get
        self.prepare = prepare
        self.rows = rows
        self.count = count
        self.times_ms: list[float] = []
