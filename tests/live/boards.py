"""The dashboards as a Grafana would run them: which queries each has, and their text when the variables are filled in."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "dashboards"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One query of a panel or an annotation."""

    board: str
    panel: str
    kind: str
    expr: str
    legend: str

    def filled(self, job: str, instance: str, interval_s: int, scrape_s: int) -> str:
        """The query with its variables as Grafana fills them in, for a picture with a point each ``interval_s`` seconds."""
        rate_s = max(interval_s + scrape_s, 4 * scrape_s)
        values = {"job": job, "instance": instance, "__rate_interval": f"{rate_s}s", "__interval_ms": f"{interval_s * 1000}"}
        text = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], self.expr)
        assert "$" not in text
        return text

    def __str__(self) -> str:
        return f"{self.board} / {self.panel}"


def files() -> list[Path]:
    """All dashboards."""
    return sorted(FOLDER.glob("*.json"))


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard but its rows, those in closed rows included."""
    found = []
    for panel in board["panels"]:
        found += panel["panels"] if panel["type"] == "row" else [panel]
    return found


def asked() -> list[Asked]:
    """Every query of every dashboard."""
    found = []
    for file in files():
        board = json.loads(file.read_text())
        for panel in panels(board):
            for target in panel["targets"]:
                legend = "" if target["legendFormat"] == "__auto" else target["legendFormat"]
                found.append(Asked(board["title"], panel["title"], panel["type"], target["expr"], legend))
        for mark in board["annotations"]["list"]:
            legend = mark["titleFormat"] + mark["textFormat"]
            found.append(Asked(board["title"], mark["name"], "annotation", mark["expr"], legend))
    return found
