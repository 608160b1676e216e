"""The dashboard of the agent: is it well, what did it decide, what did it see, and what did that do? Its actions are marked on all panels."""

from __future__ import annotations

from parts import RED, YELLOW, Dashboard, Panel, Query, Row, stat
from promql import (
    ACTIONS,
    AGENT_ACTED,
    INSTANCES,
    JOB,
    MEMORY_SHORT,
    STARTED,
    hit_ratio,
    increase,
    of,
    quantile,
    rate,
    share,
    stall_share,
    total,
)

NOW = Row(
    "Is it well?",
    (
        stat(
            "Agents",
            "Daemons with a running agent, by controller (agent.controller).",
            f"count by (controller) ({of('rudder_agent_info')})",
            legend="{{controller}}",
        ),
        stat(
            "Decisions per minute",
            "Each window ends in one, if only to hold. 0 with a running agent: it hangs, or windows are long.",
            "60 * " + rate("rudder_agent_decisions_total"),
            decimals=1,
        ),
        stat(
            "Actions, last hour",
            "Decisions that changed something.",
            f"sum(increase({ACTIONS}[1h]))",
            decimals=0,
        ),
        stat(
            "Refused, last hour",
            "Share of the decisions that the guard refused. High: the controller does not understand its limits.",
            share(increase("rudder_agent_decisions_total", labels='outcome="refused"'), increase("rudder_agent_decisions_total")),
            "percentunit",
            steps=((0.5, YELLOW),),
        ),
        stat(
            "Rules standing in, last hour",
            "Share of the decisions for which the controller had no answer. Training goes on, the model does not help: look at its endpoint.",
            share(increase("rudder_agent_fallbacks_total"), increase("rudder_agent_decisions_total")),
            "percentunit",
            steps=((0.1, YELLOW), (0.5, RED)),
        ),
        stat(
            "Came true, last hour",
            "Share of the decisions whose expected impact on the hit rate came true.",
            share(
                increase("rudder_agent_predictions_total", labels='outcome="right"'), increase("rudder_agent_predictions_total")
            ),
            "percentunit",
            base=YELLOW,
            steps=((0.5, "green"),),
        ),
        stat(
            "Failed, last hour",
            "Decisions whose tool could not do what was decided. rudder decisions tells what it answered.",
            increase("rudder_agent_decisions_total", labels='outcome="failed"'),
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "Not in the journal",
            "Decisions that could not be written since the daemons started: the disk is full or read-only.",
            total("rudder_agent_journal_lost_total"),
            steps=((1, RED),),
            decimals=0,
        ),
    ),
)

DECIDED = Row(
    "What did it decide, and what did that do?",
    (
        Panel(
            "Actions per minute",
            "Decisions that changed something, by tool and node; the marks on all panels are the same ones. To hold is left out.",
            (Query(f"60 * sum by (instance, tool) (rate({ACTIONS}[$__rate_interval]))", "{{tool}} on {{instance}}"),),
            low=0,
        ),
        Panel(
            "Hit rate",
            "Share of the remote rows that were in the cache, by node. An action that did good bends it upwards within a window.",
            (Query(hit_ratio("instance"), "{{instance}}"),),
            unit="percentunit",
            low=0,
            high=1,
        ),
        Panel(
            "Cache: rows, capacity, ceiling",
            "grow moves the capacity; the rows follow. The agent goes no further than agent.ceiling, the cache no further than its ceiling.",
            (
                Query(total("rudder_cache_rows", "instance"), "{{instance}}: cached"),
                Query(total("rudder_cache_capacity_rows", "instance"), "{{instance}}: capacity"),
                Query(total("rudder_cache_ceiling_rows", "instance"), "{{instance}}: ceiling"),
            ),
            low=0,
        ),
        Panel(
            "Rows that tools brought in",
            "The price of grow, evict and refresh: rows that crossed the network for them. It should buy hits.",
            (
                Query(
                    rate("rudder_network_rows_total", "instance", "reason", labels='reason=~"tool|refresh"'),
                    "{{reason}} on {{instance}}",
                ),
            ),
            unit="rowsps",
            low=0,
        ),
        Panel(
            "Rows that were waited for",
            "Share of the remote rows for which a trainer waited on a peer: what all of this is to lower.",
            (
                Query(
                    share(
                        rate("rudder_fetch_rows_total", "instance", labels='source="peer"'),
                        rate("rudder_fetch_rows_total", "instance", labels='source=~"cache|staged|peer"'),
                    ),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            low=0,
        ),
        Panel(
            "Waiting for peers",
            "Share of the time that a trainer waits for rows of peers.",
            (Query(stall_share("instance"), "{{instance}}"),),
            unit="percentunit",
            low=0,
            steps=((0.3, RED),),
        ),
        Panel(
            "Effect of the last call of each tool",
            "Change of the hit rate over the window after it, as the journal has it: 10 % are ten points.",
            (Query(f"max by (instance, tool) ({of('rudder_agent_last_effect_hit_ratio')})", "{{tool}} on {{instance}}"),),
            unit="percentunit",
        ),
        Panel(
            "Slots given up",
            "Rows that lost their slot because the cache shrank, another row took it, or they were outdated.",
            (Query(rate("rudder_evicted_rows_total", "instance", "reason"), "{{reason}} on {{instance}}"),),
            unit="rowsps",
            low=0,
        ),
        Panel(
            "What was expected of decisions",
            "Decisions per minute whose expected impact came true (right) or did not (wrong).",
            (Query("60 * " + rate("rudder_agent_predictions_total", "outcome"), "{{outcome}}"),),
            low=0,
        ),
    ),
)

SAW = Row(
    "What did it see?",
    (
        Panel(
            "Cold residents",
            "Share of the cached rows that are not expected again within an epoch (much of it: evict has something to do, grow has not), and "
            "before the running epoch ends (what the rules give back in the last one).",
            (
                Query(f"max by (instance, table) ({of('rudder_cold_resident_ratio')})", "{{table}} on {{instance}}"),
                Query(
                    f"max by (instance, table) ({of('rudder_spent_resident_ratio')})", "{{table}} on {{instance}}: this epoch"
                ),
            ),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
        ),
        Panel(
            "Hotter absent rows",
            "Absent rows that are each hotter than a cached one and worth a request.",
            (Query(total("rudder_hotter_absent_rows", "instance", "table"), "{{table}} on {{instance}}"),),
            width=6,
            low=0,
        ),
        Panel(
            "Outdated rows",
            "Cached rows that their owners have changed, as far as versions of blocks can tell: refresh.",
            (Query(total("rudder_outdated_cache_rows", "instance", "table"), "{{table}} on {{instance}}"),),
            width=6,
            low=0,
        ),
        Panel(
            "Shifts",
            "Times within ten minutes that the accesses were found to have changed.",
            (Query(increase("rudder_shifts_total", "instance", span="10m"), "{{instance}}"),),
            width=6,
            low=0,
        ),
    ),
)

HOW = Row(
    "How does it decide?",
    (
        Panel(
            "Decisions, by outcome",
            "Per minute: carried out (done), with arguments brought within bounds (clamped), refused by the guard, or failed.",
            (Query("60 * " + rate("rudder_agent_decisions_total", "outcome"), "{{outcome}}"),),
            width=6,
            stack=True,
            low=0,
        ),
        Panel(
            "Refusals, by rule of the guard",
            'Per minute. docs/agent.md, "The guard", says what each rule is for.',
            (Query("60 * " + rate("rudder_agent_refusals_total", "rule"), "{{rule}}"),),
            width=6,
            low=0,
        ),
        Panel(
            "Rules standing in, by reason",
            "Per minute: the controller was late, its answer invalid, its endpoint unreachable, or the model found degraded by the probe.",
            (Query("60 * " + rate("rudder_agent_fallbacks_total", "reason"), "{{reason}}"),),
            width=6,
            low=0,
        ),
        Panel(
            "Time of a decision",
            "Time that the controller took; agent.deadline_ms is the longest that is waited for.",
            (
                Query(quantile(0.5, "rudder_agent_decision_seconds"), "median"),
                Query(quantile(0.99, "rudder_agent_decision_seconds"), "slowest 1 %"),
            ),
            unit="s",
            width=6,
            low=0,
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="rudder-agent",
    title="Rudder / Agent",
    description="What the agents decided and what that did. Marks are actions: decisions other than to hold that were carried out.",
    rows=(NOW, DECIDED, SAW, HOW),
    variables=(JOB, INSTANCES),
    annotations=(AGENT_ACTED, MEMORY_SHORT, STARTED),
)
