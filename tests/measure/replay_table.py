"""Turns what ``rudder replay --json`` printed into the Markdown tables of ``docs/performance.md``, and holds the targets against it."""

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

#: Names of traces, and their comparisons by capacity.
Traces = list[tuple[str, list[dict[str, Any]]]]


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


def blind(traces: Traces) -> None:
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


def known(traces: Traces) -> None:
    """`epoch` with lookahead, beside the optimum."""
    print("\n`epoch`: hits and network rows in percent of the optimum's, stalled rows in percent of the requests:\n")
    row("trace", "capacity", "0", "8", "16", "4·C/R", "OPT's misses, % of requests", "of them first accesses, %")
    row(*["---"] * 8)
    for name, found in traces:
        for cell in found:
            opt, requests, (none, eight, sixteen, _, four, *_) = cell["opt"], cell["requests"], runs(cell, "epoch")
            shown = [f"{compare(run, opt)}; {100 * run['stall_rows'] / requests:.1f}" for run in (none, eight, sixteen)]
            shown.append(f"({four['lookahead']}) {compare(four, opt)}; {100 * four['stall_rows'] / requests:.1f}")
            first = 100 * cell["distinct"] / opt["network_rows"]
            row(name, share(cell), *shown, f"{100 * opt['network_rows'] / requests:.1f}", f"{first:.0f}")


def far(traces: Traces) -> None:
    """`epoch` over the length of the lookahead."""
    print("\n`epoch` over the length of the lookahead: hits and network rows in percent of the optimum's:\n")
    row("trace", "capacity", "2·C/R", "4·C/R", "8·C/R", "16·C/R")
    row(*["---"] * 6)
    for name, found in traces:
        for cell in found:
            row(name, share(cell), *(f"({r['lookahead']}) {compare(r, cell['opt'])}" for r in runs(cell, "epoch")[3:]))


def staged(traces: Traces) -> None:
    """All policies with lookahead."""
    print("\nAll policies with lookahead: hits, network rows, stalled rows in percent of the requests:\n")
    row("trace", "capacity", "policy", "0", "8", "16", "4·C/R")
    row(*["---"] * 7)
    for name, found in traces:
        for cell in found:
            for policy in dict.fromkeys(run["policy"] for run in cell["results"]):
                fields = ("hits", "network_rows", "stall_rows")
                shown = (", ".join(f"{100 * r[f] / cell['requests']:.1f}" for f in fields) for r in runs(cell, policy))
                row(name, share(cell), policy, *shown)


def compare(run: dict[str, Any], opt: dict[str, Any]) -> str:
    """Hits and network rows in percent of the optimum's."""
    return f"{100 * run['hits'] / opt['hits']:.1f}, {100 * run['network_rows'] / opt['network_rows']:.1f}"


def judge(traces: Traces, ahead: Traces) -> None:
    """Say each cell that misses a target, and how many there are."""
    missed, seen = [], 0
    for (name, found), (_, far_found) in zip(traces, ahead):
        for cell, far_cell in zip(found, far_found):
            seen += 1
            where = f"{name} at {share(cell)}"
            epoch, opt = runs(cell, "epoch")[0], cell["opt"]
            for others, what in ((GENERAL, "general policy"), (PAPERS, "form of the paper's policy")):
                best = max((run for other in others for run in runs(cell, other)), key=lambda run: run["hits"])
                lack = 100 * (best["hits"] - epoch["hits"]) / cell["requests"]
                if lack > 0:
                    missed.append(f"{where}: epoch is {lack:.2f} points of hits behind the best {what}, {best['policy']}")
            four = runs(far_cell, "epoch")[4]
            hits = 100 * four["hits"] / opt["hits"]
            rows = 100 * four["network_rows"] / opt["network_rows"]
            if hits < HITS_MIN or rows > ROWS_MAX:
                missed.append(f"{where}: with 4·C/R {hits:.1f} % of OPT's hits, {rows:.1f} % of its network rows")
    print(f"\n{seen} cells; targets missed: {len(missed)}\n")
    for line in missed:
        print(f"- {line}")


def main(paths: list[Path]) -> None:
    """Print the tables of the results at ``paths``; ``X.epoch.json`` and ``X.staged.json`` lie beside ``X.json``."""

    def read(ending: str) -> Traces:
        return [(path.stem, cells(path.with_name(path.stem + ending))) for path in paths]

    blind(read(".json"))
    known(read(".epoch.json"))
    far(read(".epoch.json"))
    staged(read(".staged.json"))
    judge(read(".json"), read(".epoch.json"))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
