"""Medians over the rounds of ``flat.sh``, and ratios: to the smallest cache, and to one client."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any


def main(paths: list[Path]) -> None:
    """Print two Markdown tables of the results at ``paths``."""
    by_size: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for path in paths:
        found = json.loads(path.read_text())
        by_size[found["cached_rows"]].append(found)
    print("| cached rows | through rudderd, ns/row | to the smallest | inside one process, ns/row | to the smallest | one row, µs | rounds |")
    print("|---|---|---|---|---|---|---|")
    sizes = sorted(by_size)
    first: dict[str, float] = {}
    for size in sizes:
        runs = by_size[size]
        hit, gather, single = (
            median(run[key] for run in runs) for key in ("hit_ns_per_row", "gather_ns_per_row", "single_row_us_p50")
        )
        first.setdefault("hit", hit)
        first.setdefault("gather", gather)
        print(
            f"| {size:,} | {hit:.0f} | {hit / first['hit']:.2f} | {gather:.0f} | {gather / first['gather']:.2f} "
            f"| {single:.1f} | {len(runs)} |"
        )
    print("\n| cached rows | clients | million rows/s together | to one |")
    print("|---|---|---|---|")
    for size in sizes:
        crowds: dict[int, list[float]] = defaultdict(list)
        for run in by_size[size]:
            for crowd in run["clients"]:
                crowds[crowd["clients"]].append(crowd["rows_per_s"])
        one = median(crowds[min(crowds)]) if crowds else 0.0
        for clients, rates in sorted(crowds.items()):
            print(f"| {size:,} | {clients} | {median(rates) / 1e6:.2f} | {median(rates) / one:.2f} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
