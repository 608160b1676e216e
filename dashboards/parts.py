"""What Grafana dashboards are made of, in its classic JSON: panels, rows, variables, annotations, and their places in the grid.

Owns the JSON and nothing of what is shown: ``build.py`` says that. Panels are laid out in their order, so that inserting one moves the
others; ids follow from the order, so that the same program always gives the same file.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

#: Width of Grafana's grid.
COLUMNS = 24

#: The oldest schema that has everything used here; newer Grafanas (from 9 on) migrate it when they load it.
SCHEMA_VERSION = 37

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

GREEN, YELLOW, RED, BLUE = "green", "#EAB839", "red", "blue"

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Query:
    """One expression of a panel.

    Attributes
    ----------
    expr : str
        PromQL, with Grafana's variables in it.
    legend : str
        Grafana's template of a series' name.
    instant : bool
        Whether the last value is enough: stats, tables and bar gauges.
    """

    expr: str
    legend: str = ""
    instant: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes
    ----------
    title, description : str
        What is shown, and how to read it.
    queries : tuple of Query
    kind : str
        Grafana's type: ``stat``, ``timeseries``, ``state-timeline``, ``heatmap`` or ``table``.
    unit : str
        Grafana's id of a unit, such as ``percentunit``.
    width, height : int
        In cells of the grid.
    steps : tuple of (float, str)
        Value from which a colour holds; below the first, it is green. Only where an operator acts on it.
    base : str
        The colour below all steps.
    stack : bool
        Whether series add up to something.
    low, high : float or None
        Ends of the axis, where they are known.
    mappings : tuple of (str, str, str)
        Values that have a name and a colour.
    decimals : int or None
    columns : tuple of (str, str, str)
        Of a table: name of the field, its heading, and its unit.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 7
    steps: tuple[tuple[float, str], ...] = ()
    base: str = GREEN
    stack: bool = False
    low: float | None = None
    high: float | None = None
    mappings: tuple[tuple[str, str, str], ...] = ()
    decimals: int | None = None
    columns: tuple[tuple[str, str, str], ...] = ()

    def targets(self) -> list[Json]:
        """The queries as Grafana wants them."""
        shape = {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series")
        found = []
        for at, query in enumerate(self.queries):
            found.append(
                {
                    "datasource": DATASOURCE,
                    "editorMode": "code",
                    "expr": query.expr,
                    "format": shape,
                    "instant": query.instant,
                    "legendFormat": query.legend or "__auto",
                    "range": not query.instant,
                    "refId": chr(ord("A") + at),
                }
            )
        return found

    def field_config(self) -> Json:
        """Units, thresholds, names of values, and how lines are drawn."""
        steps = [{"color": self.base, "value": None}, *({"color": color, "value": at} for at, color in self.steps)]
        defaults: Json = {
            "color": {"mode": "thresholds" if self.kind in ("stat", "state-timeline", "table") else "palette-classic"},
            "mappings": [
                {"type": "value", "options": {value: {"text": text, "color": color}}} for value, text, color in self.mappings
            ],
            "thresholds": {"mode": "absolute", "steps": steps},
            "unit": self.unit,
        }
        if self.low is not None:
            defaults["min"] = self.low
        if self.high is not None:
            defaults["max"] = self.high
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "line",
                "fillOpacity": 25 if self.stack else 8,
                "lineWidth": 1,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.stack else "none", "group": "A"},
                "thresholdsStyle": {"mode": "line" if self.steps else "off"},
            }
        overrides = []
        for name, heading, unit in self.columns:
            properties = [{"id": "displayName", "value": heading}]
            if unit:
                properties.append({"id": "unit", "value": unit})
            overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
        return {"defaults": defaults, "overrides": overrides}

    def options(self) -> Json:
        """What only this kind of panel has."""
        if self.kind == "stat":
            return {
                "colorMode": "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "orientation": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "textMode": "auto",
            }
        if self.kind == "state-timeline":
            return {
                "alignValue": "left",
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
                "mergeValues": True,
                "rowHeight": 0.8,
                "showValue": "never",
            }
        if self.kind == "heatmap":
            return {
                "calculate": False,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
                "cellGap": 1,
                "tooltip": {"show": True, "yHistogram": False},
                "yAxis": {"axisPlacement": "left", "unit": self.unit},
            }
        if self.kind == "table":
            return {"showHeader": True, "footer": {"show": False}}
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def transformations(self) -> list[Json]:
        """A table joins its queries by instance, drops what has no heading, and orders columns as they are named."""
        if self.kind != "table":
            return []
        order = {name: at for at, (name, _, _) in enumerate(self.columns)}
        return [
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": list(order)}}},
            {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": {}}},
        ]

    def json(self, number: int, x: int, y: int) -> Json:
        """The panel as JSON at a place in the grid."""
        return {
            "datasource": DATASOURCE,
            "description": self.description,
            "fieldConfig": self.field_config(),
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "id": number,
            "options": self.options(),
            "targets": self.targets(),
            "title": self.title,
            "transformations": self.transformations(),
            "type": self.kind,
        }


def stat(title: str, description: str, expr: str, unit: str = "short", legend: str = "", width: int = 3, **more: Any) -> Panel:
    """A panel with a number of the present; eight of usual width to a line."""
    return Panel(title, description, (Query(expr, legend, instant=True),), "stat", unit, width=width, height=4, **more)


@dataclasses.dataclass(frozen=True)
class Row:
    """Panels under one question.

    Attributes
    ----------
    title : str
    panels : tuple of Panel
        From left to right, on the lines that they need.
    collapsed : bool
        Whether the row is closed at first: what is rarely needed.
    """

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable that is filled by a query.

    Attributes
    ----------
    name, label : str
    query : str
        Grafana's ``label_values(...)``.
    multi : bool
        Whether several may be chosen, or all.
    """

    name: str
    label: str
    query: str
    multi: bool = True

    def json(self) -> Json:
        """The variable as JSON."""
        return {
            "allValue": ".*" if self.multi else None,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if self.multi else {},
            "datasource": DATASOURCE,
            "definition": self.query,
            "hide": 0,
            "includeAll": self.multi,
            "label": self.label,
            "multi": self.multi,
            "name": self.name,
            "options": [],
            "query": {"query": self.query, "refId": self.name},
            "refresh": 2,
            "regex": "",
            "skipUrlSync": False,
            "sort": 1,
            "type": "query",
        }


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Events that are drawn over all panels, from a query that has samples when they happen."""

    name: str
    expr: str
    title: str
    text: str
    color: str

    def json(self) -> Json:
        """The annotation as JSON."""
        return {
            "datasource": DATASOURCE,
            "enable": True,
            "expr": self.expr,
            "hide": False,
            "iconColor": self.color,
            "name": self.name,
            "step": "15s",
            "tagKeys": "instance",
            "textFormat": self.text,
            "titleFormat": self.title,
            "useValueForTime": False,
        }


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """One dashboard; ``uid`` is for good, as links name it."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...] = ()
    period: str = "now-1h"

    def panels(self) -> list[Json]:
        """Rows and panels with ids and places."""
        found: list[Json] = []
        number, y = 0, 0
        for row in self.rows:
            number += 1
            head: Json = {
                "collapsed": row.collapsed,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "id": number,
                "panels": [],
                "title": row.title,
                "type": "row",
            }
            found.append(head)
            y += 1
            place = head["panels"] if row.collapsed else found
            x = line = 0
            top = y
            for panel in row.panels:
                if x + panel.width > COLUMNS:
                    x, y, line = 0, y + line, 0
                number += 1
                place.append(panel.json(number, x, y))
                x, line = x + panel.width, max(line, panel.height)
            # What a closed row holds takes no place until it is opened; Grafana then moves the rest.
            y = top if row.collapsed else y + line
        return found

    def json(self) -> Json:
        """The dashboard as Grafana imports and provisions it."""
        chosen: Json = {
            "current": {},
            "hide": 0,
            "includeAll": False,
            "label": "Data source",
            "multi": False,
            "name": "datasource",
            "options": [],
            "query": "prometheus",
            "refresh": 1,
            "regex": "",
            "type": "datasource",
        }
        link: Json = {
            "asDropdown": False,
            "icon": "external link",
            "includeVars": True,
            "keepTime": True,
            "tags": ["rudder"],
            "targetBlank": False,
            "title": "",
            "type": "dashboards",
        }
        return {
            "annotations": {"list": [annotation.json() for annotation in self.annotations]},
            "description": self.description,
            "editable": True,
            "graphTooltip": 1,
            "id": None,
            "links": [link],
            "panels": self.panels(),
            "refresh": "30s",
            "schemaVersion": SCHEMA_VERSION,
            "tags": ["rudder"],
            "templating": {"list": [chosen, *(variable.json() for variable in self.variables)]},
            "time": {"from": self.period, "to": "now"},
            "timezone": "",
            "title": self.title,
            "uid": self.uid,
            "version": 1,
        }

    def text(self) -> str:
        """The file."""
        return json.dumps(self.json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
