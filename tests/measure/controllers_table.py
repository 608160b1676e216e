"""Prints the results of ``rudder replay --controller ... --json`` as Markdown tables: one file, one table."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def table(path: Path) -> str:
    """A table of one replay.

    Parameters
    ----------
    path
        What ``rudder replay --json`` printed.
    """
    replay = json.loads(path.read_text())
    off = next((run for run in replay["results"] if run["controller"] == "off"), replay["results"][0])
    lines = [
        f"**{path.stem}** ({replay['requests']:,} requests)",
        "",
        "| controller | network rows, % of requests | of off | of fixed | charged, of off | charged, of fixed | mean capacity | calls (grow/evict/refresh/hold) | refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in replay["results"]:
        calls = "/".join(str(run["calls"].get(tool, 0)) for tool in ("grow", "evict", "refresh", "hold"))
        numbers = [
            run["controller"],
            f"{100 * run['network_rows'] / replay['requests']:.2f}",
            f"{run['network_rows'] / off['network_rows']:.3f}",
            f"{run['ratio_to_fixed']:.3f}",
            f"{run['charged_rows'] / off['charged_rows']:.3f}",
            f"{run['charged_ratio_to_fixed']:.3f}",
            f"{run['mean_capacity_rows']:,.0f}",
            calls,
            str(run["refused"]),
        ]
        lines.append("| " + " | ".join(numbers) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join(table(Path(name)) for name in sys.argv[1:]))
