"""The dashboards as files: they are what their program gives, complete, and ask for nothing that ``docs/metrics.md`` does not promise;
and each metric of that page is of use somewhere.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boards
import pytest
from metrics_page import base, complaints, page, rules, selectors

#: Metrics that neither a dashboard nor a rule names, and why not.
UNUSED: dict[str, str] = {}

NAMES = [file.stem for file in boards.files()]


def board(name: str) -> dict[str, Any]:
    """A dashboard."""
    return json.loads((boards.FOLDER / f"{name}.json").read_text())


def test_the_files_are_what_the_program_gives() -> None:
    command = [sys.executable, str(boards.FOLDER / "build.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert NAMES == ["rudder-agent", "rudder-cluster", "rudder-node", "rudder-peers"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_can_be_imported_anywhere(name: str) -> None:
    found = board(name)
    assert (found["uid"], found["id"]) == (name, None)
    assert {"datasource", "job", "instance"} == {variable["name"] for variable in found["templating"]["list"]}
    for panel in boards.panels(found):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_says_what_it_shows(name: str) -> None:
    panels = boards.panels(board(name))
    titles = [panel["title"] for panel in panels]
    assert len(panels) >= 10
    assert len(set(titles)) == len(titles), "two panels of one title"
    for panel in panels:
        what = panel["title"]
        assert len(panel["description"]) > 20 and panel["description"].endswith("."), what
        assert panel["fieldConfig"]["defaults"]["unit"], what
        assert panel["targets"], what
        for target in panel["targets"]:
            if panel["type"] in ("timeseries", "state-timeline", "heatmap"):
                assert target["legendFormat"] != "__auto", what


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    found = board(name)
    for panel in [*found["panels"], *(inner for row in found["panels"] for inner in row.get("panels", []))]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        # A closed row has its panels below it, where the next row stands as long as it is closed.
        if panel["type"] == "row" or not any(panel in row.get("panels", []) for row in found["panels"]):
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert (x, y) not in taken, (panel["title"], taken[x, y])
                    taken[x, y] = panel["title"]


def test_counters_are_only_asked_for_their_growth() -> None:
    counters = {name for name, (kind, _) in page().items() if kind == "counter"} - {"rudder_agent_journal_lost_total"}
    wrapped = re.compile(r"(?:rate|increase|changes)\((\w+)")
    for query in boards.asked():
        bare = {name for name, _ in selectors(query.expr)} & counters - set(wrapped.findall(query.expr))
        assert not bare, f"{query}: {bare}"


def test_queries_ask_for_what_the_documentation_promises() -> None:
    wrong = {str(query): found for query in boards.asked() if (found := complaints(query.expr))}
    assert wrong == {}


def test_legends_name_labels_that_the_query_keeps() -> None:
    for query in boards.asked():
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query.expr))))
        named = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        assert named <= kept, f"{query}: {named - kept}"


def test_every_metric_is_of_use() -> None:
    expressions = [*(query.expr for query in boards.asked()), *(rule.expr for rule in rules())]
    used = {base(name) for expr in expressions for name, _ in selectors(expr)}
    assert sorted(set(page()) - used - set(UNUSED)) == []
    assert sorted(set(UNUSED) & used) == [], "these are used"
    assert sorted(set(UNUSED) - set(page())) == [], "these are not on the page"


def test_the_data_source_gets_along_with_those_that_are_there() -> None:
    """Grafana ends at the start where two have one name, or where two are the default."""
    text = (boards.FOLDER / "provisioning" / "datasources" / "rudder.yml").read_text()
    said = dict(re.findall(r"^    (\w+): (\S.*)$", text.replace("  - name:", "    name:"), flags=re.M))
    assert said["name"] not in ("Prometheus", "prometheus", "default")
    assert (said["type"], said["isDefault"], said["uid"]) == ("prometheus", "false", "rudder-prometheus")


def test_provisioning_names_the_folders_that_the_documentation_names() -> None:
    folder = boards.FOLDER / "provisioning"
    path = re.search(r"path: (\S+)", (folder / "dashboards" / "rudder.yml").read_text())
    assert path
    text = Path(boards.REPOSITORY / "docs" / "dashboards.md").read_text()
    assert path[1] in text
    assert "/etc/grafana/provisioning/" in text
