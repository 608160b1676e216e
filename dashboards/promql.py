"""The PromQL that several dashboards share. Owns the selector of the chosen daemons, and the ratios: divided from counters, never
averaged from ratios, and without a sample where nothing was asked for.
"""

from __future__ import annotations

from parts import Annotation, Variable

#: The chosen daemons.
CHOSEN = 'job=~"$job",instance=~"$instance"'

#: The span of rates: Grafana takes at least four scrapes.
SPAN = "$__rate_interval"

REMOTE = 'source=~"cache|staged|peer"'

JOB = Variable("job", "Job", "label_values(rudder_build_info, job)")
INSTANCES = Variable("instance", "Instance", 'label_values(rudder_build_info{job=~"$job"}, instance)')
INSTANCE = Variable("instance", "Instance", 'label_values(rudder_build_info{job=~"$job"}, instance)', multi=False)


def of(metric: str, labels: str = "") -> str:
    """The metric of the chosen daemons."""
    return f"{metric}{{{CHOSEN}{',' + labels if labels else ''}}}"


def by(*names: str) -> str:
    """An aggregation's clause; none without names."""
    return f" by ({', '.join(names)})" if names else ""


def rate(metric: str, *names: str, labels: str = "", span: str = SPAN) -> str:
    """What a counter gains per second, summed over all labels but ``names``."""
    return f"sum{by(*names)} (rate({of(metric, labels)}[{span}]))"


def increase(metric: str, *names: str, labels: str = "", span: str = "1h") -> str:
    """What a counter gained, summed over all labels but ``names``."""
    return f"sum{by(*names)} (increase({of(metric, labels)}[{span}]))"


def total(metric: str, *names: str, labels: str = "") -> str:
    """A gauge, summed over all labels but ``names``."""
    return f"sum{by(*names)} ({of(metric, labels)})"


def share(part: str, whole: str) -> str:
    """One as a share of the other, where there is any."""
    return f"{part} / ({whole} > 0)"


def hit_ratio(*names: str) -> str:
    """Share of the remote rows that were in the cache."""
    fetched = "rudder_fetch_rows_total"
    return share(rate(fetched, *names, labels='source="cache"'), rate(fetched, *names, labels=REMOTE))


def stall_share(*names: str) -> str:
    """Share of the time that a trainer waits for peers; without progress reports, of one trainer."""
    return f"{rate('rudder_stall_seconds_total', *names)} / clamp_min({total('rudder_trainers_reporting', *names)}, 1)"


def quantile(at: float, metric: str, *names: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({at}, {rate(f'{metric}_bucket', *names, 'le')})"


def number(sum_of_all: str) -> str:
    """A number even where there is no series yet, such as one of peers before the first of them is needed."""
    return f"{sum_of_all} or vector(0)"


def count(condition: str) -> str:
    """How many series a condition holds for, 0 included."""
    return number(f"count({condition})")


#: Decisions that changed something.
ACTIONS = of("rudder_agent_decisions_total", 'tool!="hold",outcome=~"done|clamped"')

#: What the agent did, on every dashboard where it explains a bend.
AGENT_ACTED = Annotation(
    name="Agent",
    expr=f"sum by (instance, tool, outcome) (changes({ACTIONS}[{SPAN}])) > 0",
    title="{{tool}}",
    text="The agent of {{instance}} called {{tool}} ({{outcome}}).",
    color="purple",
)

#: The cache shrank by itself.
MEMORY_SHORT = Annotation(
    name="Memory short",
    expr=f"sum by (instance) (changes({of('rudder_pressure_shrinks_total')}[{SPAN}])) > 0",
    title="memory short",
    text="{{instance}} shrank its caches.",
    color="red",
)

#: A daemon was started: its first minute, or the first point of the picture after it. Not by changes(): it may have
#: been away for longer than that looks back.
STARTED = Annotation(
    name="Start",
    expr=f"time() - max by (instance) ({of('process_start_time_seconds')}) < 60 + $__interval_ms / 1000",
    title="started",
    text="rudderd on {{instance}} was started.",
    color="blue",
)
