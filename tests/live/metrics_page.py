"""What ``docs/metrics.md`` promises, and which metrics and labels a PromQL expression takes for granted. Owns both readings; knows no
server.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "metrics.md"
RULES = REPOSITORY / "deploy" / "prometheus" / "rules"

#: Labels that Prometheus adds to whatever it scrapes.
SCRAPE_LABELS = frozenset({"job", "instance"})

#: What Prometheus makes by itself.
PROMETHEUS_METRICS = {"up": SCRAPE_LABELS, "ALERTS": frozenset({"alertname", "alertstate", "severity"})}

_ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\|", re.M)
_SELECTOR = re.compile(
    r"\b((?:rudder|process|job|instance|instance_peer):?[\w:]*_[\w:]+|up|ALERTS)\b(?!\s*\()(\{[^}]*\})?(\[[^\]]*\])?"
)
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_CLAUSE = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def page() -> dict[str, tuple[str, frozenset[str]]]:
    """Name to type and labels, as the page lists them."""
    found = {}
    for name, kind, labels in _ROW.findall(PAGE.read_text()):
        found[name] = (kind, frozenset(re.findall(r"`(\w+)`", labels)))
    return found


def series() -> dict[str, frozenset[str]]:
    """Every name that a scrape of a daemon may have, with its labels; histograms in their three forms."""
    found = dict(PROMETHEUS_METRICS)
    for name, (kind, labels) in page().items():
        own = labels | SCRAPE_LABELS
        if kind == "histogram":
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


def base(name: str) -> str:
    """The name on the page of one of a histogram's forms."""
    short = re.sub(r"_(bucket|sum|count)$", "", name)
    return short if page().get(short, ("", None))[0] == "histogram" else name


@dataclasses.dataclass(frozen=True)
class Rule:
    """An alert or a recording rule, as its file says it."""

    kind: str
    name: str
    expr: str


def rules() -> list[Rule]:
    """All rules, in the order of the files. They are read line by line: the standard library knows no YAML."""
    found = []
    for file in sorted(RULES.glob("*.yml")):
        lines = file.read_text().splitlines()
        for at, line in enumerate(lines):
            head = re.match(r"      - (alert|record): (\S+)$", line)
            if not head:
                continue
            first = re.match(r"        expr: (.*)$", lines[at + 1])
            assert first, f"{file.name}: {head[2]} has no expr after its name"
            text = [] if first[1] in (">-", "|-") else [first[1]]
            for more in lines[at + 2 :] if not text else []:
                if not more.startswith(" " * 10):
                    break
                text.append(more.strip())
            found.append(Rule(head[1], head[2], "\n".join(text)))
    return found


def selectors(expr: str) -> list[tuple[str, str]]:
    """Names in an expression with their matchers, such as ``("up", '{job="x"}')``."""
    return [(name, matchers) for name, matchers, _ in _SELECTOR.findall(expr)]


def labels_of(name: str, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """The labels that a metric or a recorded series may have; a ``KeyError`` if there is no such thing."""
    if name in known:
        return known[name]
    recorded = {rule.name: rule.expr for rule in rules() if rule.kind == "record"}
    clauses = _CLAUSE.findall(recorded[name])
    inner = frozenset().union(*(labels_of(inner, known) for inner, _ in selectors(recorded[name])))
    return frozenset(label.strip() for clause in clauses for label in clause.split(",")) & inner or inner


def complaints(expr: str) -> list[str]:
    """What an expression takes for granted and the page does not promise."""
    known = series()
    found = []
    offered: set[str] = set()
    for name, matchers in selectors(expr):
        try:
            labels = labels_of(name, known)
        except KeyError:
            found.append(f"no metric {name}")
            continue
        offered |= labels
        found += [f"{name} has no label {label}" for label in _MATCHER.findall(matchers) if label not in labels]
    grouped = {label.strip() for clause in _CLAUSE.findall(expr) for label in clause.split(",") if label.strip()}
    return found + [f"nothing in it has a label {label}" for label in sorted(grouped - offered)]
