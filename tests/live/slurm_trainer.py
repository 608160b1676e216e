"""A trainer for the Slurm tests: fetches rows of all partitions through its node's daemon, and holds each against what it must be.

Row ``i`` of table ``feat`` is ``[i, i, ...]``. A fetch that fails is reported and tried again until ``--patience-s`` is over, so that the log says
what a trainer sees while a daemon is away. Ends with 0 when every step was served, with 7 when patience ended, with ``--status`` if given.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import rudder


def main() -> int:
    """Train, as far as this is training."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--patience-s", type=float, default=30.0)
    parser.add_argument("--status", type=int, default=0)
    parser.add_argument("--step-file", type=Path, help="says where in the run node NODE is, as FILE.NODE")
    parser.add_argument("--last-step-after", type=Path, metavar="FILE", help="fetch for the last time only when FILE is there")
    options = parser.parse_args()
    node = os.environ["SLURMD_NODENAME"]
    signal.signal(signal.SIGTERM, lambda *_: (print(f"trainer {node}: SIGTERM", flush=True), sys.exit(15)))

    signal.signal(signal.SIGUSR1, lambda *_: print(f"trainer {node}: SIGUSR1", flush=True))

    rng = np.random.default_rng(int(os.environ["SLURM_PROCID"]))
    client, errors = None, set()
    for step in range(options.steps):
        ids = rng.integers(0, options.rows, 256)
        while options.last_step_after and step == options.steps - 1 and not options.last_step_after.exists():
            time.sleep(0.1)
        begun = time.monotonic()
        while True:
            try:
                client = client or rudder.connect(timeout_s=10)
                rows = client.fetch("feat", ids)
                break
            except rudder.RudderError as error:
                if type(error).__name__ not in errors:
                    print(f"trainer {node}: step {step}: {type(error).__name__}: {error}", flush=True)
                    errors.add(type(error).__name__)
                if time.monotonic() - begun > options.patience_s:
                    print(f"trainer {node}: out of patience at step {step}", flush=True)
                    return 7
                time.sleep(0.2)
        assert (np.asarray(rows) == ids[:, None]).all(), "a wrong row"
        if options.step_file:
            Path(f"{options.step_file}.{node}").write_text(str(step))
        time.sleep(options.pause_s)
    print(f"trainer {node}: {options.steps} steps, every row right", flush=True)
    return options.status


if __name__ == "__main__":
    sys.exit(main())
