"""Turns what ``rudder replay --json`` printed into the Markdown tables of ``docs/replay.md``, and holds the targets against it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: General cache policies that `epoch` without lookahead must not fall behind.
GENERAL = ("lru", "lfu", "tinylfu", "s3fifo", "sieve")
#: The paper's policy, in both forms.
PAPERS = ("periodic", "rudder")
#: Targets with a lookahead of 4·C/R, in percent of the optimum's: hits at least, network rows at most.
HITS_MIN, ROWS_MAX = 97.0, 103.0


def cells(path: Path) -> list[dict[str, Any]]:
    """The comparisons of one trace, by capacity."""
    found = json.loads(path.read_text())
    return found if isinstance(found, list) else [found]


def share(cell: dict[str, Any]) -> str:
    """The capacity as a share of the distinct ids."""
    return f"{100 * cell['capacity_rows'] / cell['distinct']:.0f} %"


def runs(cell: dict[str, Any], policy: str) -> list[dict[str, Any]]:
    """The runs of a policy, in the order of the lookaheads asked for."""
    return [run for run in cell["results"] if run["policy"] == policy]


def row(*fields: object) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(map(str, fields)) + " |")


def blind(traces: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Hit rates without lookahead."""
    policies = ["static", *PAPERS, *GENERAL, "epoch"]
    print("\nHit rate in percent, no lookahead:\n")
    row("trace", "capacity", *policies, "OPT")
    row(*["---"] * (len(policies) + 3))
    for name, found in traces:
        for cell in found:
            rates = {policy: runs(cell, policy)[0]["hit_rate"] for policy in policies if runs(cell, policy)}
            best = max(rates.values())
            shown = [f"{100 * rates[p]:.1f}" if p in rates else "-" for p in policies]
            shown = [f"**{text}**" if rates.get(p) == best else text for p, text in zip(policies, shown)]
            row(name, share(cell), *shown, f"{100 * cell['opt']['hit_rate']:.1f}")


def known(traces: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """`epoch` with lookahead, beside the optimum."""
    print("\n`epoch` with lookahead: hits, network rows in percent of the optimum's, stalled rows in percent of the requests:\n")
    row("trace", "capacity", "0", "8", "16", "4·C/R", "OPT's misses, % of requests", "of them first accesses, %")
    row(*["---"] * 8)
    for name, found in traces:
        for cell in found:
            opt, requests = cell["opt"], cell["requests"]
            shown = [f"{compare(run, opt)}, {100 * run['stall_rows'] / requests:.1f}" for run in runs(cell, "epoch")]
            shown[-1] = f"({runs(cell, 'epoch')[-1]['lookahead']}) {shown[-1]}"
            first = 100 * cell["distinct"] / opt["network_rows"]
            row(name, share(cell), *shown, f"{100 * opt['network_rows'] / requests:.1f}", f"{first:.0f}")


def far(traces: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """`epoch` over the length of the lookahead."""
    print("\n`epoch` over the length of the lookahead: hits, network rows in percent of the optimum's:\n")
    row("trace", "capacity", "2·C/R", "4·C/R", "8·C/R", "16·C/R")
    row(*["---"] * 6)
    for name, found in traces:
        for cell in found:
            row(name, share(cell), *(f"({r['lookahead']}) {compare(r, cell['opt'])}" for r in runs(cell, "epoch")))


def compare(run: dict[str, Any], opt: dict[str, Any]) -> str:
    """Hits and network rows in percent of the optimum's."""
    return f"{100 * run['hits'] / opt['hits']:.1f}, {100 * run['network_rows'] / opt['network_rows']:.1f}"


def judge(traces: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Say each cell that misses a target, and how many there are."""
    missed, cells_seen = [], 0
    for name, found in traces:
        for cell in found:
            cells_seen += 1
            where = f"{name} at {share(cell)}"
            epoch = runs(cell, "epoch")
            for others, what in ((GENERAL, "general policy"), (PAPERS, "form of the paper's policy")):
                best = max((run for other in others for run in runs(cell, other)[:1]), key=lambda run: run["hits"])
                behind = best["hits"] - epoch[0]["hits"]
                if behind > 0:
                    lack = 100 * behind / cell["requests"]
                    missed.append(f"{where}: epoch is {lack:.2f} points of hits behind the best {what}, {best['policy']}")
            hits = 100 * epoch[-1]["hits"] / cell["opt"]["hits"]
            rows = 100 * epoch[-1]["network_rows"] / cell["opt"]["network_rows"]
            if hits < HITS_MIN or rows > ROWS_MAX:
                missed.append(f"{where}: with 4·C/R {hits:.1f} % of OPT's hits, {rows:.1f} % of its network rows")
    print(f"\n{cells_seen} cells; targets missed: {len(missed)}")
    for line in missed:
        print(f"- {line}")


def main(paths: list[Path]) -> None:
    """Print the tables of the results at ``paths``."""
    traces = [(path.stem, cells(path)) for path in paths]
    blind(traces)
    known(traces)
    far([(path.stem, cells(path.with_suffix(".far.json"))) for path in paths])
    judge(traces)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
