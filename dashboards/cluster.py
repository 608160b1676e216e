"""The dashboard of a whole cluster: is it serving, do trainers wait, does the cache work, which daemon is the odd one out?"""

from __future__ import annotations

from parts import RED, YELLOW, Dashboard, Panel, Query, Row, stat
from promql import (
    ACTIONS,
    AGENT_ACTED,
    CHOSEN,
    INSTANCES,
    JOB,
    MEMORY_SHORT,
    SPAN,
    STARTED,
    count,
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
    "Is it serving?",
    (
        stat(
            "Daemons down",
            "Targets that do not answer Prometheus. Look there first: systemctl status rudderd, or the job step's log.",
            count(f"up{{{CHOSEN}}} == 0"),
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "Not ready",
            "Daemons that answer but do not serve: starting or draining. GET /readyz says what is missing.",
            count(f"{of('rudder_ready')} == 0"),
            steps=((1, YELLOW),),
            decimals=0,
        ),
        stat(
            "Peers out of reach",
            "Directions in which a daemon has no connection to a peer. One that it never needed does not count.",
            count(f"{of('rudder_peer_up')} == 0"),
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "Failed fetches, last hour",
            "Fetches that ended in an error in a trainer.",
            increase("rudder_failed_fetches_total"),
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "Waiting for peers",
            "Share of the time that the mean trainer waits for rows of peers.",
            stall_share(),
            "percentunit",
            steps=((0.1, YELLOW), (0.3, RED)),
            decimals=1,
        ),
        stat(
            "Hit rate",
            "Share of the remote rows that were in the cache.",
            hit_ratio(),
            "percentunit",
            decimals=1,
        ),
        stat(
            "Alerts firing",
            "Alerts of Rudder that fire now; docs/alerts.md says what to do for each.",
            'count(ALERTS{alertname=~"Rudder.*",alertstate="firing"}) or vector(0)',
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "First certificate to end",
            "Time until the first certificate of a node or of the authority ends. After that no peer speaks to the node.",
            f"min({of('rudder_certificate_not_after_timestamp_seconds')}) - time()",
            "s",
            base=RED,
            steps=((2 * 86400, YELLOW), (14 * 86400, "green")),
        ),
    ),
)

WAITING = Row(
    "Do trainers wait?",
    (
        Panel(
            "Waiting for peers, by node",
            "Share of the time that a trainer of the node waits for rows of peers. One node above the others: look at its network "
            "and its peers. All together: one peer is slow, or what is trained has changed.",
            (Query(stall_share("instance"), "{{instance}}"),),
            unit="percentunit",
            low=0,
            steps=((0.3, RED),),
        ),
        Panel(
            "Where remote rows came from",
            "Rows of other nodes that trainers asked for, by where they were: in the cache, staged (brought in ahead, outside the "
            "cache), or at a peer, which had to be waited for.",
            (Query(rate("rudder_fetch_rows_total", "source", labels='source=~"cache|staged|peer"'), "{{source}}"),),
            unit="rowsps",
            stack=True,
            low=0,
        ),
        Panel(
            "Time of a fetch",
            "From a fetch's arrival until its rows are in place, over all nodes: the median, and the slowest one percent.",
            (
                Query(quantile(0.5, "rudder_fetch_seconds"), "median"),
                Query(quantile(0.99, "rudder_fetch_seconds"), "slowest 1 %"),
            ),
            unit="s",
            low=0,
        ),
    ),
)

CACHE = Row(
    "Does the cache work?",
    (
        Panel(
            "Hit rate, by node",
            "Share of the remote rows that were in the node's cache. A fall on all nodes: other vertices are trained on. On one: "
            "its cache became smaller, or its daemon was restarted.",
            (Query(hit_ratio("instance"), "{{instance}}"),),
            unit="percentunit",
            low=0,
            high=1,
        ),
        Panel(
            "Rows over the network, by reason",
            "What peers sent: because a trainer waited (demand), had announced it (lookahead), the policy or a tool wanted it, or "
            "its owner had changed it (refresh).",
            (Query(rate("rudder_network_rows_total", "reason"), "{{reason}}"),),
            unit="rowsps",
            stack=True,
            low=0,
        ),
        Panel(
            "Memory in use, by node",
            "Share of the memory limit around each daemon, all processes under that limit together. Caches grow up to "
            "cache.memory_share (0.9), and are shrunk from cache.pressure_share (0.95) on.",
            (
                Query(
                    share(total("rudder_memory_used_bytes", "instance"), total("rudder_memory_limit_bytes", "instance")),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            low=0,
            high=1,
            steps=((0.9, YELLOW), (0.95, RED)),
        ),
    ),
)

STEERING = Row(
    "Who changed something?",
    (
        Panel(
            "Actions of agents",
            "Decisions that changed something, per minute, by tool; decisions to hold are left out.",
            (Query(f"60 * sum by (tool) (rate({ACTIONS}[{SPAN}]))", "{{tool}}"),),
            low=0,
        ),
        Panel(
            "Rules standing in",
            "Share of the decisions for which the controller had no answer, by node. Training goes on; the model does not help.",
            (
                Query(
                    share(
                        rate("rudder_agent_fallbacks_total", "instance", span="10m"),
                        rate("rudder_agent_decisions_total", "instance", span="10m"),
                    ),
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            low=0,
            high=1,
            steps=((0.5, YELLOW),),
        ),
        Panel(
            "Rows cached, of those allowed",
            "Rows in the caches over all nodes, what they may hold now, and up to where configuration and memory let them grow.",
            (
                Query(total("rudder_cache_rows"), "cached"),
                Query(total("rudder_cache_capacity_rows"), "capacity"),
                Query(total("rudder_cache_ceiling_rows"), "ceiling"),
            ),
            low=0,
        ),
    ),
)

BY_INSTANCE = ("job", "instance")
DAEMONS = Row(
    "Which daemon is the odd one out?",
    (
        Panel(
            "Daemons",
            "One line for each daemon that answers. The node is its index, which others call peer.",
            (
                Query(f"max by (job, instance, version) ({of('rudder_build_info')})", instant=True),
                Query(f"max by (job, instance) ({of('rudder_node_index')})", instant=True),
                Query(f"time() - max by (job, instance) ({of('process_start_time_seconds')})", instant=True),
                Query(total("rudder_trainers_reporting", *BY_INSTANCE), instant=True),
                Query(rate("rudder_fetch_rows_total", *BY_INSTANCE), instant=True),
                Query(hit_ratio(*BY_INSTANCE), instant=True),
                Query(stall_share(*BY_INSTANCE), instant=True),
                Query(quantile(0.99, "rudder_fetch_seconds", *BY_INSTANCE), instant=True),
                Query(f"max by (job, instance) ({of('process_resident_memory_bytes')})", instant=True),
            ),
            "table",
            width=24,
            height=7,
            columns=(
                ("job", "Job", ""),
                ("instance", "Instance", ""),
                ("Value #B", "Node", "none"),
                ("version", "Version", ""),
                ("Value #C", "Up for", "s"),
                ("Value #D", "Trainers", "none"),
                ("Value #E", "Rows/s", "rowsps"),
                ("Value #F", "Hit rate", "percentunit"),
                ("Value #G", "Waiting", "percentunit"),
                ("Value #H", "Slowest 1 %", "s"),
                ("Value #I", "Resident", "bytes"),
            ),
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="rudder-cluster",
    title="Rudder / Cluster",
    description="All daemons of a cluster. Top to bottom: is it serving, do trainers wait, does the cache work, who changed something.",
    rows=(NOW, WAITING, CACHE, STEERING, DAEMONS),
    variables=(JOB, INSTANCES),
    annotations=(AGENT_ACTED, MEMORY_SHORT, STARTED),
)
