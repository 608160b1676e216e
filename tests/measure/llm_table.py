"""Prints what controllers did in `rudder replay --json`, one file for each, as Markdown; and what was found of a model."""

import json
import sys


def percent(part: float, whole: float) -> str:
    """A share in percent, or a dash of nothing."""
    return f"{100 * part / whole:.1f}" if whole else "–"


def quantile(values: list[float], share: float) -> str:
    """A quantile of sorted values."""
    return f"{values[round((len(values) - 1) * share)]:.0f}" if values else "–"


def validity(run: dict) -> str:
    """The share of the decisions in which a model was asked that are its own: an answer that is late or lost is not valid either."""
    if run["controller"] != "llm":
        return "–"
    # A model that was found degraded is not asked.
    asked = [decision for decision in run["decisions"] if not decision.get("fallback", "").startswith("degraded")]
    own = sum("fallback" not in decision for decision in asked)
    return f"{percent(own, len(asked))} ({own} of {len(asked)})"


def results(path: str) -> list[dict]:
    """The runs of one file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)["results"]


def main() -> None:
    """Print."""
    runs = [run for path in sys.argv[1:] for run in results(path)]
    print("| controller | hits % | network rows | of fixed | mean capacity | decisions | valid % | refused or clamped % "
          "| fallback % | expected right % | ms p50 / p90 / p99 |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for run in runs:
        decisions = run["decisions"]
        count = len(decisions)
        guarded = sum(decision["outcome"] in ("refused", "clamped") for decision in decisions)
        own = sorted(decision["latency_ms"] for decision in decisions if "fallback" not in decision)
        times = " / ".join(quantile(own, share) for share in (0.5, 0.9, 0.99))
        print(f"| {run['controller']} | {100 * run['hit_rate']:.1f} | {run['network_rows']} | {run['ratio_to_fixed']:.3f} "
              f"| {run['mean_capacity_rows']:.0f} | {count} | {validity(run)} | {percent(guarded, count)} "
              f"| {percent(run['fallbacks'], count)} | {percent(run['expected_right'], run['expected_known'])} | {times} |")
    for run in runs:
        probe = (run.get("llm") or {}).get("probe")
        if probe:
            chosen = ", ".join(f"{canary['canary']}: {canary['tool']}" for canary in probe["canaries"])
            print(f"\nProbe of {run['llm']['model']}: {probe['verdict']} ({probe.get('why', 'no complaint')}), "
                  f"mode {probe['mode']}, {probe['took_ms'] / 1000:.0f} s; {chosen}.")
            proposed: dict[str, int] = {}
            for decision in run["decisions"]:
                if "fallback" not in decision:
                    tool = decision["proposed"]["tool"]
                    proposed[tool] = proposed.get(tool, 0) + 1
            print(f"It proposed {proposed}.")


main()
