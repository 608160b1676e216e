"""The dashboard of the network between daemons: who cannot reach whom, which peer is slow, who moves how much."""

from __future__ import annotations

from parts import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row, stat
from promql import CHOSEN, INSTANCES, JOB, STARTED, count, increase, number, of, quantile, rate, total

DAEMON = ("job", "instance")
FLOW = ("instance", "peer")
NAME = "{{instance}} from node {{peer}}"

NOW = Row(
    "Is everybody within reach?",
    (
        stat(
            "Daemons down",
            "Targets that do not answer Prometheus.",
            count(f"up{{{CHOSEN}}} == 0"),
            width=4,
            steps=((1, RED),),
        ),
        stat(
            "Connections up",
            "Directions in which a daemon has a connection to a peer. It dials when it first needs a row.",
            number(total("rudder_peer_up")),
            width=4,
        ),
        stat(
            "Peers out of reach",
            "Directions in which it has none. A peer that it never needed does not count.",
            count(f"{of('rudder_peer_up')} == 0"),
            width=4,
            steps=((1, RED),),
        ),
        stat(
            "Connections lost or made, last hour",
            "More than two for each restart of a daemon: packets are lost, or a machine stops for seconds.",
            number(f"sum(changes({of('rudder_peer_up')}[1h]))"),
            width=4,
            steps=((6, YELLOW),),
        ),
        stat(
            "Failed fetches from peers, last hour",
            "Whatever the reason; the log of the daemon that asked names it.",
            increase("rudder_peer_failed_fetches_total"),
            width=4,
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "Slowest peer",
            "The slowest one percent of fetches from the slowest peer.",
            f"max({quantile(0.99, 'rudder_peer_request_seconds', *FLOW)})",
            "s",
            width=4,
            steps=((0.1, YELLOW), (1, RED)),
        ),
        Panel(
            "Who reaches whom",
            "One line for each direction in which a row was ever needed. Red: no connection. All lines of one peer red: that node is "
            "down. All lines of one instance red: its own network, or its certificate.",
            (Query(f"max by (instance, peer) ({of('rudder_peer_up')})", "{{instance}} to node {{peer}}"),),
            "state-timeline",
            width=16,
            height=8,
            base=RED,
            steps=((1, GREEN),),
            mappings=(("0", "away", RED), ("1", "up", GREEN)),
        ),
        Panel(
            "Which node is which",
            "The index by which other daemons call it.",
            (
                Query(f"max by (job, instance) ({of('rudder_node_index')})", instant=True),
                # 0 where none was needed yet.
                Query(f"{total('rudder_peer_up', *DAEMON)} or 0 * max by (job, instance) ({of('rudder_node_index')})", instant=True),
            ),
            "table",
            width=8,
            height=8,
            columns=(
                ("job", "Job", ""),
                ("instance", "Instance", ""),
                ("Value #A", "Node", "none"),
                ("Value #B", "Peers up", "none"),
            ),
        ),
    ),
)

SLOW = Row(
    "Who is slow?",
    (
        Panel(
            "Slowest one percent of fetches",
            "From each peer, all requests of a fetch together. One peer slow for all: that node is busy, or its disk. All slow for one: its network.",
            (Query(quantile(0.99, "rudder_peer_request_seconds", *FLOW), NAME),),
            unit="s",
            width=6,
            low=0,
            steps=((1, RED),),
        ),
        Panel(
            "Median of fetches",
            "From each peer, all requests of a fetch together.",
            (Query(quantile(0.5, "rudder_peer_request_seconds", *FLOW), NAME),),
            unit="s",
            width=6,
            low=0,
        ),
        Panel(
            "Failed and repeated",
            "Fetches that failed and requests that were repeated on a fresh connection, per minute.",
            (
                Query("60 * " + rate("rudder_peer_failed_fetches_total", *FLOW), "failed: " + NAME),
                Query("60 * " + rate("rudder_peer_repeated_requests_total", *FLOW), "repeated: " + NAME),
            ),
            width=6,
            low=0,
        ),
        Panel(
            "Fetches from peers",
            "Per second; each is one trainer's need, or one bundle of rows that is brought in ahead.",
            (Query(rate("rudder_peer_request_seconds_count", *FLOW), NAME),),
            unit="reqps",
            width=6,
            low=0,
        ),
    ),
)

MUCH = Row(
    "Who moves how much?",
    (
        Panel(
            "Received",
            "Bytes of rows from each peer, without headers.",
            (Query(rate("rudder_peer_bytes_total", *FLOW, labels='direction="received"'), NAME),),
            unit="Bps",
            stack=True,
            width=6,
            low=0,
        ),
        Panel(
            "Sent",
            "Bytes of rows to each peer. One node sends far more than the others: the partition puts what everybody needs there.",
            (Query(rate("rudder_peer_bytes_total", *FLOW, labels='direction="sent"'), "{{instance}} to node {{peer}}"),),
            unit="Bps",
            stack=True,
            width=6,
            low=0,
        ),
        Panel(
            "Queue on the way to peers",
            "How long packets waited on their way when rows that nobody waits for were last sent. Stays near peers.bulk_queue_ms; far above it "
            "something else fills the link, such as the trainers' own traffic.",
            (Query(f"max by (instance, peer) ({of('rudder_peer_queue_seconds')})", "{{instance}} to node {{peer}}"),),
            unit="s",
            width=6,
            low=0,
        ),
        Panel(
            "Rows over the network, by reason",
            "demand: a trainer waited; lookahead: it had announced them; prefetch: the policy; tool, warm: grow, evict, warm; refresh: their "
            "owner had changed them.",
            (Query(rate("rudder_network_rows_total", "reason"), "{{reason}}"),),
            unit="rowsps",
            stack=True,
            width=6,
            low=0,
        ),
    ),
)

AGE = Row(
    "How old is what is held?",
    (
        Panel(
            "Time since the owners were asked",
            "Of the owner longest not asked. Grows without end where cache.staleness_max_ms is 0 and nobody calls refresh; that is fine "
            "as long as rows do not change.",
            (Query(f"max by (instance, table) ({of('rudder_revalidation_age_seconds')})", "{{table}} on {{instance}}"),),
            unit="s",
            width=12,
            low=0,
        ),
        Panel(
            "Owners that could not be asked",
            "Per minute, by table. Rows of that owner are thrown out after cache.staleness_max_ms.",
            (Query("60 * " + rate("rudder_failed_refreshes_total", "instance", "table"), "{{table}} on {{instance}}"),),
            width=12,
            low=0,
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="rudder-peers",
    title="Rudder / Peers",
    description="The network between daemons: who cannot reach whom, who is slow, who moves how much.",
    rows=(NOW, SLOW, MUCH, AGE),
    variables=(JOB, INSTANCES),
    annotations=(STARTED,),
)
