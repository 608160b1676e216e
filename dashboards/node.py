"""The dashboard of one daemon, from what its trainers feel down to its process. Rows that only some configurations need are closed."""

from __future__ import annotations

from parts import GREEN, RED, YELLOW, Dashboard, Panel, Query, Row, stat
from promql import (
    AGENT_ACTED,
    INSTANCE,
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
    "How is it?",
    (
        stat(
            "Ready",
            "Whether fetches are served. If not, GET /readyz says what is missing.",
            f"min({of('rudder_ready')})",
            base=RED,
            steps=((1, GREEN),),
            mappings=(("0", "no", RED), ("1", "yes", GREEN)),
        ),
        stat(
            "Up for",
            "Time since the daemon started; each start empties the cache.",
            f"time() - max({of('process_start_time_seconds')})",
            "s",
        ),
        stat(
            "Trainers",
            "Trainers that report their progress. With 0, EPOCH scores fall back to decayed frequency: call progress() in the training loop.",
            total("rudder_trainers_reporting"),
            base=YELLOW,
            steps=((1, GREEN),),
        ),
        stat(
            "Epochs",
            "Epochs that the mean trainer has ended, with the share of the running one.",
            f"max({of('rudder_epochs')})",
            decimals=1,
        ),
        stat(
            "Waiting for peers",
            "Share of the time that a trainer of this node waits for rows of peers.",
            stall_share(),
            "percentunit",
            steps=((0.1, YELLOW), (0.3, RED)),
            decimals=1,
        ),
        stat("Hit rate", "Share of the remote rows that were in the cache.", hit_ratio(), "percentunit", decimals=1),
        stat(
            "Failed fetches, last hour",
            "Fetches that ended in an error in a trainer. The daemon's log names the reason.",
            increase("rudder_failed_fetches_total"),
            steps=((1, RED),),
            decimals=0,
        ),
        stat(
            "Memory in use",
            "Share of the memory limit around the daemon, by all processes under it.",
            share(total("rudder_memory_used_bytes"), total("rudder_memory_limit_bytes")),
            "percentunit",
            steps=((0.9, YELLOW), (0.95, RED)),
        ),
    ),
)

FETCHES = Row(
    "What do its trainers feel?",
    (
        Panel(
            "Rows given to trainers, by source",
            "Own rows (local), rows of other nodes from the cache or staged ahead of their use, and those that a peer had to be asked for.",
            (Query(rate("rudder_fetch_rows_total", "source"), "{{source}}"),),
            unit="rowsps",
            stack=True,
            low=0,
        ),
        Panel(
            "Time of a fetch",
            "From a fetch's arrival until its rows are in place.",
            tuple(
                Query(quantile(at, "rudder_fetch_seconds"), name)
                for at, name in ((0.5, "median"), (0.9, "slowest 10 %"), (0.99, "slowest 1 %"))
            ),
            unit="s",
            low=0,
        ),
        Panel(
            "Time of a fetch, all of them",
            "How many fetches took how long. Two bands: those that found everything here, and those that waited for a peer.",
            (Query(rate("rudder_fetch_seconds_bucket", "le"), "{{le}}"),),
            "heatmap",
            "s",
        ),
        Panel(
            "Waiting for peers, over time",
            "Share of the time that a trainer waits for rows of peers: each second of it is lost to training.",
            (Query(stall_share(), "share of the time"),),
            unit="percentunit",
            low=0,
            steps=((0.3, RED),),
        ),
        Panel(
            "Failed and slow fetches, failed updates",
            "Per minute. Every failed one is an error in a trainer; the log tells where the time of slow ones went.",
            (
                Query("60 * " + rate("rudder_slow_fetches_total"), "slow fetches"),
                Query("60 * " + rate("rudder_failed_fetches_total", "table"), "fetches of {{table}}"),
                Query("60 * " + rate("rudder_failed_updates_total", "table"), "updates of {{table}}"),
            ),
            low=0,
        ),
        Panel(
            "Fetches and connections",
            "Fetches per second of all trainers of this node, and their open connections (at most local.connections_max).",
            (
                Query(rate("rudder_fetch_seconds_count"), "fetches per second"),
                Query(total("rudder_local_connections"), "connections"),
            ),
            low=0,
        ),
    ),
)

CACHE = Row(
    "What does its cache do?",
    (
        Panel(
            "Hit rate, by table",
            "Share of the remote rows that were in the cache: over the span of the picture's steps, and the daemon's own for the last minute.",
            (
                Query(hit_ratio("table"), "{{table}}"),
                Query(f"max by (table) ({of('rudder_hit_ratio')})", "{{table}}, last minute"),
            ),
            unit="percentunit",
            low=0,
            high=1,
        ),
        Panel(
            "Rows in the cache",
            "Rows held, rows that may be held, and up to where configuration and memory let the cache grow. Full and below the ceiling: "
            "rudder tool grow.",
            (
                Query(total("rudder_cache_rows", "table"), "{{table}}: cached"),
                Query(total("rudder_cache_capacity_rows", "table"), "{{table}}: capacity"),
                Query(total("rudder_cache_ceiling_rows", "table"), "{{table}}: ceiling"),
            ),
            low=0,
        ),
        Panel(
            "Rows that took a slot, by reason",
            "Because a trainer had fetched them (demand), the policy wanted them (prefetch), a tool brought them in, or a trainer warmed them.",
            (Query(rate("rudder_fill_rows_total", "reason"), "{{reason}}"),),
            unit="rowsps",
            stack=True,
            low=0,
        ),
        Panel(
            "Rows that lost their slot, by reason",
            "Another row took it (replaced), the cache shrank, or the owner had changed the row (outdated); and rows in hand that were "
            "not worth a slot (refused).",
            (
                Query(rate("rudder_evicted_rows_total", "reason"), "{{reason}}"),
                Query(rate("rudder_refused_rows_total"), "refused"),
            ),
            unit="rowsps",
            low=0,
        ),
        Panel(
            "Bytes in the cache",
            "Bytes of the rows in the cache, by table.",
            (Query(total("rudder_cache_bytes", "table"), "{{table}}"),),
            unit="bytes",
            stack=True,
            low=0,
        ),
        Panel(
            "Shifts",
            "Times within ten minutes that the accesses were found to have changed; what was learned is then forgotten.",
            (Query(increase("rudder_shifts_total", "table", span="10m"), "{{table}}"),),
            low=0,
        ),
    ),
)

LOOKAHEAD = Row(
    "Do announced rows arrive in time?",
    (
        Panel(
            "Announced rows that came late",
            "Share of the remote rows that were announced and still had to be waited for. High: raise lookahead.depth, or announce sooner.",
            (
                Query(
                    share(rate("rudder_late_rows_total"), rate("rudder_fetch_rows_total", labels='source=~"cache|staged|peer"')),
                    "late",
                ),
            ),
            unit="percentunit",
            low=0,
            steps=((0.1, YELLOW),),
        ),
        Panel(
            "Announced rows that wait for their use",
            "Rows that trainers have announced and not fetched yet. 0: no trainer announces.",
            (Query(total("rudder_announced_rows", "table"), "{{table}}"),),
            low=0,
        ),
        Panel(
            "Announced batches that rows are staged for",
            "Stays within lookahead.depth per trainer and the batches being fetched. One that only grows is a defect.",
            (Query(total("rudder_staged_batches", "table"), "{{table}}"),),
            low=0,
        ),
        Panel(
            "Announced batches, by what became of them",
            "Fetched (used), or never (expired): then rows were brought in for nothing. In another order: the trainer sorts its ids after it "
            "announced them.",
            (
                Query(rate("rudder_announced_batches_total", "outcome"), "{{outcome}}"),
                Query(rate("rudder_reordered_batches_total"), "in another order"),
            ),
            unit="cps",
            low=0,
        ),
    ),
)

PROCESS = Row(
    "What does the process need?",
    (
        Panel(
            "Memory",
            "Resident memory of the daemon (mapped shards count as far as they are in memory), memory in use under its limit by all "
            "processes without pages of files, and the limit.",
            (
                Query(f"max({of('process_resident_memory_bytes')})", "rudderd, resident"),
                Query(total("rudder_memory_used_bytes"), "in use under the limit"),
                Query(total("rudder_memory_limit_bytes"), "limit"),
            ),
            unit="bytes",
            width=6,
            low=0,
        ),
        Panel(
            "Processor",
            "Cores that the daemon keeps busy.",
            (Query(rate("process_cpu_seconds_total"), "cores"),),
            width=6,
            low=0,
        ),
        Panel(
            "File descriptors",
            "Open ones, and the limit.",
            (Query(f"max({of('process_open_fds')})", "open"), Query(f"max({of('process_max_fds')})", "limit")),
            width=6,
            low=0,
        ),
        Panel(
            "Caches shrunk for memory",
            "Times within ten minutes. Caches do not grow again by themselves: the agent, or rudder tool grow.",
            (Query(increase("rudder_pressure_shrinks_total", span="10m"), "shrunk"),),
            width=6,
            low=0,
            steps=((1, RED),),
        ),
    ),
)

VERSIONS = Row(
    "Updates and stale rows",
    (
        Panel(
            "Updated rows",
            "Rows in updates: sent by trainers of this node, applied to rows that this node owns.",
            (Query(rate("rudder_update_rows_total", "side"), "{{side}}"),),
            unit="rowsps",
            width=6,
            low=0,
        ),
        Panel(
            "Updates",
            "Updates per second, sent and applied; one that is cut into several requests is applied several times.",
            (Query(rate("rudder_updates_total", "side"), "{{side}}"),),
            unit="cps",
            width=6,
            low=0,
        ),
        Panel(
            "Cached rows found stale, by what became of them",
            "Fetched again (repulled), thrown out (discarded), or thrown out because the owner could not be asked in time (expired).",
            (Query(rate("rudder_stale_rows_total", "outcome"), "{{outcome}}"),),
            unit="rowsps",
            width=6,
            low=0,
        ),
        Panel(
            "Memory for updated rows",
            "Bytes of this node's rows that were updated; at dataset.updates_bytes_max further updates are refused.",
            (Query(total("rudder_updated_bytes", "table"), "{{table}}"),),
            unit="bytes",
            width=6,
            low=0,
        ),
    ),
    collapsed=True,
)

BLOCKS = Row(
    'Blocks of the own shard (dataset.access = "blocks")',
    (
        Panel(
            "Own rows whose block was in memory",
            "Share of the rows of this node's shard that did not wait for the disk.",
            (
                Query(
                    share(rate("rudder_block_rows_total", labels='source="resident"'), rate("rudder_block_rows_total")),
                    "resident",
                ),
            ),
            unit="percentunit",
            width=6,
            low=0,
            high=1,
        ),
        Panel(
            "Read from disk",
            "Bytes of blocks read per second, by table.",
            (Query(rate("rudder_block_read_bytes_total", "table"), "{{table}}"),),
            unit="Bps",
            width=6,
            low=0,
        ),
        Panel(
            "Blocks read and let go",
            "Per second. As many let go as read: the block cache is too small for what is asked of it.",
            (
                Query(rate("rudder_block_reads_total"), "read"),
                Query(rate("rudder_evicted_blocks_total"), "let go"),
                Query(rate("rudder_block_read_errors_total"), "failed"),
            ),
            unit="cps",
            width=6,
            low=0,
        ),
        Panel(
            "Time of a read",
            "Of one block from disk.",
            (
                Query(quantile(0.5, "rudder_block_read_seconds"), "median"),
                Query(quantile(0.99, "rudder_block_read_seconds"), "slowest 1 %"),
            ),
            unit="s",
            width=6,
            low=0,
        ),
        Panel(
            "Waiting for blocks",
            "Seconds per second that fetches and peers wait for blocks, by table. Above 1 for long: a faster disk, a larger block cache, "
            "or more reads at once (dataset.reads_max).",
            (Query(rate("rudder_block_wait_seconds_total", "table"), "{{table}}"),),
            width=12,
            low=0,
            steps=((1, RED),),
        ),
        Panel(
            "Memory of blocks",
            "Blocks kept, all blocks in memory (those being read or on their way to who asked, too), and what may be kept.",
            (
                Query(total("rudder_block_cache_bytes"), "kept"),
                Query(total("rudder_block_held_bytes"), "in memory"),
                Query(total("rudder_block_cache_capacity_bytes"), "may be kept"),
            ),
            unit="bytes",
            width=12,
            low=0,
        ),
    ),
    collapsed=True,
)

DASHBOARD = Dashboard(
    uid="rudder-node",
    title="Rudder / Node",
    description="One daemon: what its trainers feel, what its cache does, what its process needs.",
    rows=(NOW, FETCHES, CACHE, LOOKAHEAD, PROCESS, VERSIONS, BLOCKS),
    variables=(JOB, INSTANCE),
    annotations=(AGENT_ACTED, MEMORY_SHORT, STARTED),
)
