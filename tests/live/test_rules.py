"""The files of ``deploy/prometheus``, by ``promtool``: they are valid, every alert has a test that can fail, and says what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from metrics_page import REPOSITORY, complaints, rules
from observed import DEPLOY

ALERTS = [rule.name for rule in rules() if rule.kind == "alert"]
PAGE = REPOSITORY / "docs" / "alerts.md"


@pytest.fixture(autouse=True)
def _promtool() -> None:
    if shutil.which("promtool") is None:
        if os.environ.get("RUDDER_LIVE") == "required":
            pytest.fail("promtool is missing: apt-get install prometheus")
        pytest.skip("promtool is missing: apt-get install prometheus")


@pytest.fixture()
def copy(tmp_path: Path) -> Path:
    """The folder, to change things in."""
    folder = tmp_path / "prometheus"
    shutil.copytree(DEPLOY, folder)
    (folder / "token").write_text("x")
    return folder


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and output."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def run_tests(folder: Path) -> tuple[int, str]:
    """Run all unit tests of a copy."""
    return promtool("test", "rules", *sorted((folder / "tests").glob("*.yml")))


def failed_tests(output: str) -> set[str]:
    """The alerts whose tests failed."""
    return set(re.findall(r'expr: "ALERTS\{alertname=\\"(\w+)', output))


def with_alerts(folder: Path, change: str, to: str) -> None:
    """Change every alert by a regular expression."""
    file = folder / "rules" / "alerts.yml"
    text, count = re.subn(change, to, file.read_text(), flags=re.M)
    assert count
    file.write_text(text)


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-static.yml"])
def test_the_configurations_are_valid(copy: Path, name: str) -> None:
    status, output = promtool("check", "config", copy / name)
    assert status == 0, output
    assert "2 rule files found" in output


def test_the_unit_tests_pass() -> None:
    status, output = run_tests(DEPLOY)
    assert status == 0, output


def test_every_alert_has_a_test_that_sees_it_not_fire(copy: Path) -> None:
    with_alerts(copy, r"^        expr:.*\n(          .*\n)*", "        expr: vector(0) > 1\n")
    status, output = run_tests(copy)
    assert status != 0
    assert set(ALERTS) - failed_tests(output) == set()


def test_every_alert_that_waits_has_a_test_that_sees_it_fire_too_early(copy: Path) -> None:
    text = (copy / "rules" / "alerts.yml").read_text()
    waiting = re.findall(r"- alert: (\w+)\n(?:        expr:.*\n)(?:          .*\n)*        for:", text)
    assert len(waiting) > 15
    with_alerts(copy, r"^        for: .*\n", "")
    _, output = run_tests(copy)
    assert set(waiting) - failed_tests(output) == set()


def test_every_alert_has_a_test_that_sees_it_fire_for_everybody(copy: Path) -> None:
    """Each alert without its last comparison: the instances that must be silent are not."""
    with_alerts(copy, r" (>|<|==) [\d. *]+$", " > -Inf")
    _, output = run_tests(copy)
    # These compare two expressions, or ask for the absence of one.
    others = {"RudderHitRateFallen", "RudderAgentSilent"}
    assert set(ALERTS) - failed_tests(output) - others == set()


def test_what_alerts_say_has_no_holes(copy: Path) -> None:
    """All alerts are made to fire, and their texts with labels and values filled in are looked at."""
    for file in (copy / "tests").glob("*.yml"):
        text = re.sub(
            r'      - expr: ALERTS\{alertname="(\w+)".*\n        eval_time: (\w+)\n(        exp_samples:\n(          .*\n?)*)?',
            r"      - alertname: \1\n        eval_time: \2\n",
            file.read_text(),
        )
        file.write_text(text.replace("promql_expr_test:", "alert_rule_test:"))
    _, output = run_tests(copy)
    for name in ALERTS:
        assert f'alertname="{name}"' in output, f"{name} did not fire"
    assert not re.search(r"error expanding|no value|%!|NaN|\{\{", output), output


def test_rules_ask_for_what_the_documentation_promises() -> None:
    wrong = {rule.name: found for rule in rules() if (found := complaints(rule.expr))}
    assert wrong == {}


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    text = (DEPLOY / "rules" / "alerts.yml").read_text()
    for name in ALERTS:
        assert f"runbook_url: docs/alerts.md#{name.lower()}\n" in text
    assert re.findall(r"^### (Rudder\w+)$", PAGE.read_text(), flags=re.M) == ALERTS
