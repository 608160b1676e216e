"""Dashboards and rules against a real Prometheus that scraped real daemons under load: every query of every panel, every recording rule and
every alert is run, and what they name must be there.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import boards
import pytest
from metrics_page import rules, selectors
from observed import TOKEN, Observed, Prometheus, get, short_folder, wait_for

#: How long load is watched at least before anything is asked.
WATCH_S = 15.0

#: What takes as long as it takes: an action of an agent, and what it did over the window after it.
AWAITED = (
    'sum(rate(rudder_agent_decisions_total{tool="grow",outcome="done"}[5m])) > 0',
    'rudder_agent_last_effect_hit_ratio{tool="grow"}',
)

#: Where each query's first sample is written, for people.
SHOWN = boards.REPOSITORY / "target" / "live" / "panels.md"

#: Marks that only an unusual state makes.
RARE = {"Memory short"}


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    """All daemons, watched for a while."""
    for name in ("prometheus", "promtool"):
        if shutil.which(name) is None:
            if os.environ.get("RUDDER_LIVE") == "required":
                pytest.fail(f"{name} is missing: apt-get install prometheus")
            pytest.skip(f"{name} is missing: apt-get install prometheus")
    with short_folder() as folder, Observed(folder) as running:
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end:
            for process in (running.demo.process, running.prometheus.process, *running.blocks.processes):
                process.check()
            time.sleep(0.5)
        for query in AWAITED:
            wait_for(query, lambda query=query: samples(running, query))
        yield running


def samples(observed: Observed, query: str) -> list[tuple[dict[str, str], float]]:
    """The series of a query since the beginning, each with its last number that is one."""
    found = []
    for series in observed.prometheus.range(query, observed.begin, time.time()):
        numbers = [float(value) for _, value in series["values"] if math.isfinite(float(value))]
        if numbers:
            found.append((series["metric"], numbers[-1]))
    return found


def fill(query: boards.Asked, instance: str = ".*") -> str:
    """A query as Grafana would send it."""
    return query.filled(job="rudder", instance=instance, interval_s=1, scrape_s=Prometheus.SCRAPE_S)


def test_prometheus_scrapes_all_of_them(observed: Observed) -> None:
    def state() -> dict[str, tuple[str, str]]:
        targets = observed.prometheus.ask("targets")["activeTargets"]
        return {target["scrapeUrl"]: (target["health"], target["lastError"]) for target in targets}

    expected = {f"http://{target}/metrics": ("up", "") for target in observed.targets}
    # On a busy machine a scrape may take longer than the two seconds that it has here.
    wait_for(f"every target up, but {state()}", lambda: state() == expected)


def test_every_query_of_every_panel_has_data(observed: Observed) -> None:
    empty, report = [], ["| dashboard | panel | series | the first of them | its last sample |", "|---|---|---|---|---|"]
    for query in boards.asked():
        found = samples(observed, fill(query))
        if not found and query.panel not in RARE:
            empty.append(f"{query}: {fill(query)}")
            continue
        for labels, _ in found:
            missing = set(re.findall(r"\{\{(\w+)\}\}", query.legend)) - set(labels)
            assert not missing, f"{query}: no label {missing}"
        if found:
            named = re.sub(r"\{\{(\w+)\}\}", lambda name, labels=found[0][0]: labels[name[1]], query.legend)
            first = named or ", ".join(f"{label}={value}" for label, value in found[0][0].items() if label != "__name__") or "value"
            report.append(f"| {query.board} | {query.panel} | {len(found)} | {first} | {found[0][1]:.6g} |")
    SHOWN.parent.mkdir(parents=True, exist_ok=True)
    SHOWN.write_text("\n".join(report) + "\n")
    print(f"what each query returned: {SHOWN}")
    assert empty == [], "\n" + "\n".join(empty)


def test_every_series_that_anything_names_is_there(observed: Observed) -> None:
    """The names alone, with their matchers: an empty result of a comparison with 0 would hide a misspelt one."""
    asked = {(name, matchers) for query in boards.asked() for name, matchers in selectors(fill(query))}
    asked |= {(name, matchers) for rule in rules() for name, matchers in selectors(rule.expr)}
    asked = {(name, matchers) for name, matchers in asked if name != "ALERTS"}
    missing = [name + matchers for name, matchers in sorted(asked) if not samples(observed, name + matchers)]
    assert missing == []


def test_every_rule_is_healthy_and_every_recording_rule_has_data(observed: Observed) -> None:

    def found() -> list[dict[str, str]]:
        return [rule for group in observed.prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert sorted(rule["name"] for rule in found()) == sorted(rule.name for rule in rules())
    wait_for("all rules to be evaluated", lambda: all(rule["health"] != "unknown" for rule in found()))
    for rule in found():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        if rule["type"] == "recording":
            assert samples(observed, rule["name"]), rule["name"]


def test_the_node_dashboard_works_for_a_single_daemon(observed: Observed) -> None:
    """What the demo's first daemon shows: all of it but blocks, which it has none of."""
    instance = observed.demo.admin[0]
    asked = [query for query in boards.asked() if query.board == "Rudder / Node" and query.panel not in RARE]
    empty = [str(query) for query in asked if "_block" not in query.expr and not samples(observed, fill(query, instance))]
    assert empty == []


def test_promtool_has_nothing_against_the_metrics(observed: Observed) -> None:
    for target in observed.targets:
        text = get(f"http://{target}/metrics", TOKEN)
        command = ["promtool", "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), target


def test_a_killed_daemon_raises_its_alerts_and_its_start_is_marked(observed: Observed) -> None:
    """Last, as it leaves marks: node 1 of the second cluster is killed and started again."""
    down, other = observed.blocks.admin[1], observed.blocks.admin[0]

    def pending(name: str) -> set[str]:
        alerts = observed.prometheus.ask("alerts")["alerts"]
        return {alert["labels"]["instance"] for alert in alerts if alert["labels"]["alertname"] == name}

    observed.blocks.kill(1)
    wait_for("RudderDaemonDown", lambda: down in pending("RudderDaemonDown"))
    wait_for("the other daemon to notice", lambda: samples(observed, f'rudder_peer_up{{instance="{other}"}} == 0'))
    wait_for("RudderPeerFetchesFail", lambda: other in pending("RudderPeerFetchesFail"))
    observed.blocks.start(1)
    observed.blocks.wait_until_ready()
    (mark,) = {fill(query, down) for query in boards.asked() if query.panel == "Start"}
    wait_for("the mark of the start", lambda: observed.prometheus.ask("query", query=mark)["result"])
    wait_for("RudderDaemonDown to end", lambda: down not in pending("RudderDaemonDown"))


def test_an_agent_sees_the_cluster_through_prometheus(observed: Observed) -> None:
    """What the daemons' agents asked of this Prometheus is in their decisions."""

    def seen() -> dict[str, float] | None:
        decisions = json.loads(get(f"http://{observed.blocks.admin[0]}/v1/decisions?limit=1", TOKEN))
        return decisions[-1]["snapshot"].get("cluster") if decisions else None

    cluster = wait_for("a view of the cluster", lambda: (found := seen()) and found["nodes_ready"] == len(observed.targets) and found)
    assert cluster["nodes"] == len(observed.targets)
    assert 0 <= cluster["hit_rate_min"] <= cluster["hit_rate"] <= 1, cluster
    assert 0 <= cluster["stall_share"] <= 1, cluster
