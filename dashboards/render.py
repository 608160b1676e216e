#!/usr/bin/env python3
"""Draws a dashboard as a picture, from what a Prometheus has: ``dashboards/render.py rudder-node --prometheus URL --out FILE``.

Owns the drawing, for the pictures of ``docs/dashboards.md`` and for looking at a change without a Grafana. It reads the same JSON and runs
the same queries with the same variables, but it is not Grafana: colours, fonts and tables look otherwise. Needs matplotlib (which brings Pillow).
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import math
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.dates import DateFormatter
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

FOLDER = Path(__file__).resolve().parent

#: Inches of a cell of Grafana's grid, and dots of an inch.
CELL = (0.58, 0.40)
DPI = 80

PAPER, CARD, INK, FAINT = "#f4f5f5", "#ffffff", "#24292e", "#8e8e8e"
GREEN, YELLOW, RED, PURPLE, BLUE = "#37872d", "#c98a04", "#c4162a", "#8f3bb8", "#1f60c4"
COLORS = {"green": GREEN, "#EAB839": YELLOW, "red": RED, "purple": PURPLE, "blue": BLUE}
LINES = [
    "#56a64b",
    "#e0a502",
    "#3274d9",
    "#ff780a",
    "#a352cc",
    "#e02f44",
    "#1aa4b8",
    "#8f6b3a",
    "#705da0",
    "#6f7a82",
    "#b877d9",
    "#37872d",
]

#: Seconds between times on an axis.
TICKS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)

#: Lines of a legend that there is room for.
LEGEND_LINES = 4


def number(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as people read it, in Grafana's unit."""
    if not math.isfinite(value):
        return "–"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f}%"
    if unit == "s":
        for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
            if abs(value) >= 2 * size:
                return f"{value / size:.3g} {name}"
        for name, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s" if value == 0 else f"{value * 1e6:.2g} µs"
    if unit in ("bytes", "Bps"):
        for name, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}" + ("/s" if unit == "Bps" else "")
        return f"{value:.0f} B" + ("/s" if unit == "Bps" else "")
    tail = {"rowsps": " rows/s", "reqps": "/s", "cps": "/s", "pps": "/s"}.get(unit, "")
    for name, size in (("M", 1e6), ("K", 1e3)):
        if abs(value) >= 10 * size or (name == "M" and abs(value) >= size):
            return f"{value / size:.3g}{name}{tail}"
    if decimals is not None:
        return f"{value:.{decimals}f}{tail}"
    return (f"{value:.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.3g}") + tail


class Source:
    """A Prometheus, and what the dashboard's variables stand for."""

    def __init__(self, url: str, job: str, instance: str, start: float, end: float, scrape_s: int) -> None:
        self.url, self.start, self.end = url.rstrip("/"), start, end
        # A picture has some 120 points; Grafana takes one per pixel of a panel's width.
        self.step = max(scrape_s, math.ceil((end - start) / 120))
        rate_s = max(self.step + scrape_s, 4 * scrape_s)
        self.values = {"job": job, "instance": instance, "__rate_interval": f"{rate_s}s", "__interval_ms": f"{self.step * 1000}"}

    def filled(self, text: str) -> str:
        """A query with the variables filled in."""
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: self.values[found[1] or found[2]], text)

    def _ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.loads(answer.read())["data"]["result"]

    def range(self, expr: str) -> list[dict[str, Any]]:
        """Series over the picture's span."""
        return self._ask("query_range", query=self.filled(expr), start=self.start, end=self.end, step=self.step)

    def last(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """The values at the end."""
        found = self._ask("query", query=self.filled(expr), time=self.end)
        return [(series["metric"], float(series["value"][1])) for series in found]


def named(template: str, labels: dict[str, str]) -> str:
    """A series' name."""
    if template == "__auto":
        return ", ".join(f"{name}={value}" for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)


def color_of(panel: dict[str, Any], value: float) -> str:
    """The colour of a value by the panel's thresholds and names."""
    defaults = panel["fieldConfig"]["defaults"]
    color = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return COLORS[color]


def when(seconds: float) -> datetime.datetime:
    """A time for an axis."""
    return datetime.datetime.fromtimestamp(float(seconds), datetime.timezone.utc)


def draw_stat(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    """One number, or one for each series."""
    axes.axis("off")
    defaults = panel["fieldConfig"]["defaults"]
    target = panel["targets"][0]
    found = source.last(target["expr"])
    texts = {
        mapping_value: option["text"] for mapping in defaults["mappings"] for mapping_value, option in mapping["options"].items()
    }
    if not found:
        axes.text(0.5, 0.45, "no data", ha="center", va="center", color=FAINT, fontsize=10)
    for at, (labels, value) in enumerate(found):
        text = texts.get(f"{value:g}", number(value, defaults["unit"], defaults.get("decimals")))
        name = "" if target["legendFormat"] == "__auto" else named(target["legendFormat"], labels)
        y = 1 - (at + 0.5) / len(found)
        axes.text(
            0.5,
            y,
            f"{name} {text}".strip(),
            ha="center",
            va="center",
            color=color_of(panel, value),
            fontsize=19 if len(found) == 1 else 12,
        )


def draw_lines(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    """Lines over time, or areas that add up."""
    defaults = panel["fieldConfig"]["defaults"]
    stack = defaults["custom"]["stacking"]["mode"] == "normal"
    series = []
    for target in panel["targets"]:
        for found in source.range(target["expr"]):
            points = {float(at): float(value) for at, value in found["values"]}
            series.append((named(target["legendFormat"], found["metric"]), points))
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color=FAINT, transform=axes.transAxes)
    if stack:
        times = sorted({at for _, points in series for at in points})
        values = [[points.get(at, 0.0) if math.isfinite(points.get(at, 0.0)) else 0.0 for at in times] for _, points in series]
        if times:
            axes.stackplot(
                [when(at) for at in times], values, labels=[name for name, _ in series], colors=LINES, alpha=0.75, linewidth=0
            )
    else:
        for at, (name, points) in enumerate(series):
            times = sorted(points)
            axes.plot(
                [when(t) for t in times], [points[t] for t in times], color=LINES[at % len(LINES)], linewidth=1.2, label=name
            )
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and axes.get_ylim()[1] >= step["value"]:
            axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=0.8, linestyle="--")
    low, high = axes.get_ylim()
    values = [value for _, points in series for value in points.values() if math.isfinite(value)]
    high = defaults.get("max", high if any(values) else 1.0)
    axes.set_ylim(defaults.get("min", low), high)
    binary = defaults["unit"] in ("bytes", "Bps")
    axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.ceil(math.log2(high / 4))) if binary else MaxNLocator(4))
    decimals = (0 if high > 0.2 else 1 if high > 0.02 else 2) if defaults["unit"] == "percentunit" else None
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, defaults["unit"], decimals)))
    names = [name for name, _ in series]
    if names:
        handles, labels = axes.get_legend_handles_labels()
        columns = max(1, int(panel["gridPos"]["w"] * CELL[0] / (0.35 + 0.055 * max(map(len, labels)))))
        most = LEGEND_LINES * columns
        if len(labels) > most:
            labels[most - 1] = f"… {len(labels) - most + 1} more"
        place = axes.get_position()
        corner = (place.x0 - 0.045, place.y0 - 0.2 / axes.figure.get_figheight())
        axes.legend(
            handles[:most], labels[:most], loc="upper left", bbox_to_anchor=corner, bbox_transform=axes.figure.transFigure,
            ncols=columns, fontsize=6.5, frameon=False, handlelength=1, columnspacing=1, labelspacing=0.25, labelcolor=INK,
        )  # fmt: skip


def draw_states(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    """One band for each series, coloured by state."""
    target = panel["targets"][0]
    found = sorted(source.range(target["expr"]), key=lambda series: named(target["legendFormat"], series["metric"]))
    for row, series in enumerate(found):
        for at, value in series["values"]:
            begin = when(float(at))
            end = when(float(at) + source.step)
            axes.fill_between([begin, end], row - 0.38, row + 0.38, color=color_of(panel, float(value)), linewidth=0, alpha=0.8)
    axes.set_yticks(range(len(found)), [named(target["legendFormat"], series["metric"]) for series in found], fontsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False)


def draw_heat(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    """Counts by bucket and time."""
    found = source.range(panel["targets"][0]["expr"])
    buckets = sorted(found, key=lambda series: float(series["metric"]["le"].replace("+Inf", "inf")))
    times = sorted({float(at) for series in buckets for at, _ in series["values"]})
    table, below = [], dict.fromkeys(times, 0.0)
    for series in buckets:
        now = {float(at): float(value) for at, value in series["values"]}
        table.append([max(now.get(at, 0.0) - below[at], 0.0) ** 0.5 for at in times])
        below = {at: now.get(at, below[at]) for at in times}
    if times:
        axes.pcolormesh([when(at) for at in times], range(len(table)), table, cmap="Oranges", shading="nearest")
    names = [number(float(series["metric"]["le"].replace("+Inf", "inf")), "s").replace("–", "longer") for series in buckets]
    axes.set_yticks(range(0, len(names), 2), names[::2])
    axes.grid(visible=False)


def draw_table(axes: Axes, panel: dict[str, Any], source: Source) -> None:
    """The queries side by side, joined by their labels."""
    axes.axis("off")
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    fields = {
        override["matcher"]["options"]: {item["id"]: item["value"] for item in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    for target in panel["targets"]:
        name = f"Value #{target['refId']}"
        for labels, value in source.last(target["expr"]):
            row = rows.setdefault((labels.get("job", ""), labels.get("instance", "")), {})
            row.update(labels)
            row[name] = number(value, fields.get(name, {}).get("unit", "short"))
    head = [field["displayName"] for field in fields.values()]
    body = [[row.get(name, "") for name in fields] for _, row in sorted(rows.items())]
    if not body:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color=FAINT)
        return
    widths = [max(len(row[at]) for row in [head, *body]) + 2 for at in range(len(head))]
    drawn = axes.table(
        cellText=body, colLabels=head, loc="upper center", cellLoc="left", colWidths=[width / sum(widths) for width in widths]
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.scale(1, 1.3)
    for (row, _), cell in drawn.get_celld().items():
        cell.set_edgecolor("#dcdcdc")
        cell.set_text_props(color=INK, weight="bold" if row == 0 else "normal")


DRAWN = {"stat": draw_stat, "timeseries": draw_lines, "state-timeline": draw_states, "heatmap": draw_heat, "table": draw_table}


def mark_time(axes: Axes, source: Source, most: int) -> None:
    """Round times on the axis, at most `most`."""
    span = source.end - source.start
    step = next((step for step in TICKS if span / step <= most), TICKS[-1])
    first = math.ceil(source.start / step) * step
    axes.set_xticks([when(first + at * step) for at in range(int((source.end - first) / step) + 1)])
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M" if step >= 60 else "%H:%M:%S"))


def marks(board: dict[str, Any], source: Source) -> list[tuple[datetime.datetime, str]]:
    """When something happened, and its colour: the first moment of each stretch of samples."""
    found = []
    for mark in board["annotations"]["list"]:
        for series in source.range(mark["expr"]):
            last = -math.inf
            for at, _ in series["values"]:
                if float(at) - last > 1.5 * source.step:
                    found.append((when(float(at)), COLORS[mark["iconColor"]]))
                last = float(at)
    return found


def flat(board: dict[str, Any], closed: bool) -> list[dict[str, Any]]:
    """Rows and panels with their places; closed rows opened, or left out."""
    found, shift = [], 0
    for panel in board["panels"]:
        inner = panel.get("panels", [])
        if inner and not closed:
            continue
        found.append({**panel, "gridPos": {**panel["gridPos"], "y": panel["gridPos"]["y"] + shift}})
        found += [{**item, "gridPos": {**item["gridPos"], "y": item["gridPos"]["y"] + shift}} for item in inner]
        # Grafana keeps no place for what is closed; opened here, it moves what follows.
        if inner:
            shift += max(item["gridPos"]["y"] + item["gridPos"]["h"] for item in inner) - inner[0]["gridPos"]["y"]
    return found


def palette() -> Image.Image:
    """All colours that are drawn with, each also mixed with the card they lie on, for edges and areas; a picture as Pillow wants it."""
    pure = [to_rgb(color) for color in (*LINES, *COLORS.values(), INK, FAINT)]
    mixed = [tuple(share * part + 1 - share for part in color) for color in pure for share in (1.0, 0.75, 0.5, 0.25)]
    heat = [colormaps["Oranges"](at / 15)[:3] for at in range(16)]
    colors = [to_rgb(PAPER), *heat, *mixed, *((grey / 15,) * 3 for grey in range(16))]
    found = Image.new("P", (1, 1))
    found.putpalette([round(255 * part) for color in colors[:256] for part in color])
    return found


def render(board: dict[str, Any], source: Source, out: Path, closed: bool) -> None:
    """Draw a dashboard into a file."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 7, "axes.edgecolor": "#cccccc", "axes.linewidth": 0.5})
    items = flat(board, closed)
    rows = max(item["gridPos"]["y"] + item["gridPos"]["h"] for item in items) + 1.4
    width, height = 24 * CELL[0], rows * CELL[1]
    figure = plt.figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    span = f"{when(source.start):%H:%M:%S} to {when(source.end):%H:%M:%S} UTC"
    figure.text(0.006, 1 - 0.55 / rows, board["title"], fontsize=13, weight="bold", color=INK, va="center")
    figure.text(0.994, 1 - 0.55 / rows, span, fontsize=8, color=FAINT, va="center", ha="right")
    events = marks(board, source)
    for item in items:
        place = item["gridPos"]
        x, y = place["x"] / 24, 1 - (place["y"] + 1.2) / rows
        if item["type"] == "row":
            figure.text(0.006, y - 0.55 / rows, "▾ " + item["title"], fontsize=9.5, weight="bold", color=INK, va="center")
            continue
        w, h = place["w"] / 24, place["h"] / rows
        figure.add_artist(plt.Rectangle((x + 0.002, y - h + 0.08 / rows), w - 0.004, h - 0.16 / rows, color=CARD, zorder=-1))
        figure.text(x + 0.006, y - 0.5 / rows, item["title"], fontsize=7.5, color=INK, va="center", weight="bold")
        bare = item["type"] in ("stat", "table")
        left = 0.006 if bare else (0.3 * w if item["type"] == "state-timeline" else 0.047)
        foot = 0.2 if bare else 2.0 if item["type"] == "timeseries" else 0.9
        axes = figure.add_axes((x + left, y - h + foot / rows, w - left - 0.010, h - (foot + 1.0) / rows), facecolor=CARD)
        axes.grid(visible=True, color="#e9e9e9", linewidth=0.6)
        axes.tick_params(colors=INK, labelsize=6.5, length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        DRAWN[item["type"]](axes, item, source)
        if not bare:
            axes.set_xlim(when(source.start), when(source.end))
            mark_time(axes, source, max(4, place["w"] // 2))
        if item["type"] == "timeseries":
            for at, color in events:
                axes.axvline(at, color=color, linewidth=0.7, linestyle=":")
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, facecolor=PAPER)
    plt.close(figure)
    # A third of the size, and nobody sees it.
    Image.open(drawn).convert("RGB").quantize(palette=palette(), dither=Image.Dither.NONE).save(out, optimize=True)


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description="Draws a dashboard of Rudder from what a Prometheus has.")
    parser.add_argument("board", help="uid of the dashboard: rudder-cluster, rudder-node, rudder-agent or rudder-peers")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture, PNG")
    parser.add_argument("--job", default="rudder.*", metavar="REGEX")
    parser.add_argument("--instance", default=".*", metavar="REGEX")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back the picture goes")
    parser.add_argument("--until", type=float, metavar="SECONDS", help="its end, since 1970; now when left out")
    parser.add_argument("--scrape-s", type=int, default=15, help="the scrape interval, for the span of rates")
    parser.add_argument("--closed", action="store_true", help="draw rows that are closed at first, too")
    arguments = parser.parse_args()
    end = arguments.until or time.time()
    board = json.loads((FOLDER / f"{arguments.board}.json").read_text(encoding="utf-8"))
    source = Source(
        arguments.prometheus, arguments.job, arguments.instance, end - 60 * arguments.minutes, end, arguments.scrape_s
    )
    render(board, source, arguments.out, arguments.closed)


if __name__ == "__main__":
    main()
