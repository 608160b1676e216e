//! Tools on running daemons: caches grow, shrink, turn over and warm while trainers fetch, and give memory back when it
//! runs short. Each test states what the answer must say and what status shows afterwards.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_agent::tools::{Done, Grown, ToolAnswer, ToolCall, ToolError};
use rudder_daemon::config::Config;
use rudder_daemon::daemon::Daemon;
use rudder_settings::Capacity;
use rudder_tests::{Cluster, answer_of, assert_rows, wait_until};
use serde_json::{Value, json};
use std::time::Duration;

const ROWS: u64 = 20_000;

fn tool(cluster: &Cluster, name: &str, arguments: Value) -> Result<ToolAnswer, ToolError> {
    let call = ToolCall::from_arguments(name, arguments)?;
    answer_of(cluster.nodes[0].as_ref().unwrap().tool(call))
}

fn grown(cluster: &Cluster, arguments: Value) -> Grown {
    match tool(cluster, "grow", arguments).unwrap().tables.remove(0) {
        Done::Grow(grown) => grown,
        other => panic!("{other:?}"),
    }
}

fn table(cluster: &Cluster) -> Value {
    cluster.nodes[0].as_ref().unwrap().status()["tables"][0].clone()
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

fn cluster(capacity: u64, adapt: impl Fn(&mut Config)) -> Cluster {
    Cluster::start(2, ROWS, |config| {
        config.cache.capacity = Capacity::Rows(capacity);
        config.cache.memory_poll_ms = 20;
        adapt(config);
    })
    .unwrap()
}

/// Fetches rows of the other node, twice, so that they are worth keeping.
fn heat(cluster: &Cluster, ids: &[u64]) {
    let client = cluster.client(0).unwrap();
    for _ in 0..2 {
        assert_rows(&client.fetch("feat", ids).unwrap(), ids);
    }
}

#[test]
fn a_grown_cache_fills_with_the_hottest_absent_rows() {
    let cluster = cluster(500, |_| {});
    let hot: Vec<u64> = (ROWS / 2..ROWS / 2 + 1500).collect();
    heat(&cluster, &hot);
    // Accounts are settled after the reply, the second fetch may even have missed rows that the first has not offered
    // yet: both have offered the thousand rows that found no slot.
    assert!(wait_until(Duration::from_secs(10), || number(&table(&cluster), "/refused_rows") == 2000));
    let answer = grown(&cluster, json!({"factor": 4, "table": "feat"}));
    assert_eq!((answer.before_rows, answer.after_rows, answer.limited_by), (500, 2000, None));
    assert_eq!(answer.brought.asked_rows, 1000, "all that were asked for twice and were not there");
    assert_eq!((answer.brought.filled_rows, answer.brought.pending_rows), (1000, 0));
    let after = table(&cluster);
    assert_eq!((number(&after, "/cached_rows"), number(&after, "/network/tool_rows")), (1500, 1000));
    let before = number(&after, "/fetched/cache");
    heat(&cluster, &hot);
    assert_eq!(number(&table(&cluster), "/fetched/cache") - before, 3000, "every row was there");
    let answer = grown(&cluster, json!({"rows": 1_000_000, "table": "feat"}));
    assert_eq!((answer.after_rows, answer.limited_by.as_deref()), (ROWS / 2, Some("ceiling")));
}

#[test]
fn a_shrunk_cache_serves_on_and_holds_no_more_than_it_may() {
    let cluster = cluster(4000, |_| {});
    let ids: Vec<u64> = (ROWS / 2..ROWS / 2 + 4000).collect();
    heat(&cluster, &ids);
    assert!(wait_until(Duration::from_secs(5), || number(&table(&cluster), "/cached_rows") == 4000));
    let answer = grown(&cluster, json!({"factor": 0.1, "table": "feat"}));
    assert_eq!((answer.after_rows, answer.dropped_rows), (400, 3600));
    assert_eq!(number(&table(&cluster), "/cached_rows"), 400);
    heat(&cluster, &ids);
    assert!(number(&table(&cluster), "/cached_rows") <= 400);
}

#[test]
fn warmed_rows_are_there_when_they_are_asked_for() {
    let cluster = cluster(1000, |_| {});
    let ids: Vec<u64> = (ROWS / 2 - 10..ROWS / 2 + 700).collect();
    let answer = tool(&cluster, "warm", json!({"table": "feat", "ids": ids})).unwrap();
    let Done::Warm(warmed) = &answer.tables[0] else { panic!("{answer:?}") };
    assert_eq!((warmed.remote_rows, warmed.cached_rows, warmed.brought.filled_rows), (700, 0, 700));
    let client = cluster.client(0).unwrap();
    let rows = client.fetch("feat", &ids).unwrap();
    assert_rows(&rows, &ids);
    assert_eq!((rows.sources().cache, rows.sources().peer), (700, 0));
    let error = tool(&cluster, "warm", json!({"table": "feat", "ids": [ROWS]})).unwrap_err();
    assert!(error.to_string().contains("id 20000 is out of range"), "{error}");
}

#[test]
fn an_eviction_turns_over_only_what_is_colder() {
    let cluster = cluster(500, |_| {});
    let warm: Vec<u64> = (ROWS / 2..ROWS / 2 + 500).collect();
    tool(&cluster, "warm", json!({"table": "feat", "ids": warm})).unwrap();
    // Larger than the cache, asked for at once: what wins a slot is at odds with what is left over.
    let hot: Vec<u64> = (ROWS - 800..ROWS).collect();
    heat(&cluster, &hot);
    let answer = tool(&cluster, "evict", json!({"fraction": 0.5, "table": "feat"})).unwrap();
    let Done::Evict(evicted) = &answer.tables[0] else { panic!("{answer:?}") };
    assert_eq!((evicted.resident_rows, evicted.turnover_rows_max), (500, 250));
    assert!(evicted.brought.asked_rows <= 250 && evicted.evicted_rows <= evicted.brought.filled_rows, "{evicted:?}");
    let again = tool(&cluster, "evict", json!({"fraction": 1.0, "forget": true, "table": "feat"})).unwrap();
    let Done::Evict(again) = &again.tables[0] else { panic!("{again:?}") };
    assert!(again.forgot && again.brought.asked_rows == 0, "nothing known, nothing to bring in: {again:?}");
}

#[test]
fn calls_that_make_no_sense_name_their_culprit() {
    let cluster = cluster(500, |_| {});
    for (name, arguments, culprit) in [
        ("grow", json!({"rows": 10}), "`rows` without `table`"),
        (
            "grow",
            json!({"factor": 2, "table": "feet"}),
            "table `feet` is not cached; cached tables: `feat`, `label`; did you mean `feat`?",
        ),
        ("format", json!({}), "format"),
    ] {
        let error = tool(&cluster, name, arguments).unwrap_err().to_string();
        assert!(error.contains(culprit), "{error}");
    }
    assert!(tool(&cluster, "hold", json!({})).unwrap().tables.is_empty());
}

#[test]
fn memory_bounds_growth_and_pressure_gives_some_back() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: u64| std::fs::write(dir.path().join(name), format!("{bytes}\n")).unwrap();
    // Far below what the machine has left, so that this cgroup is the one that counts.
    write("memory.max", 10_000_000);
    write("memory.current", 5_000_000);
    let cluster = cluster(4000, |config| {
        config.cache.cgroup = dir.path().to_owned();
        config.cache.tables.entry("label".to_owned()).or_default().policy = Some(rudder_daemon::config::Policy::None);
    });
    heat(&cluster, &(ROWS / 2..ROWS / 2 + 4000).collect::<Vec<u64>>());
    assert!(wait_until(Duration::from_secs(5), || number(&table(&cluster), "/cached_rows") == 4000));
    let held = number(&table(&cluster), "/cache_bytes");
    write("memory.current", 8_500_000);
    let noticed = || number(&cluster.nodes[0].as_ref().unwrap().status(), "/memory/used_bytes") == 8_500_000;
    assert!(wait_until(Duration::from_secs(5), noticed));
    let answer = grown(&cluster, json!({"factor": 2}));
    assert_eq!(answer.limited_by.as_deref(), Some("memory"));
    let rows_max = (9_000_000 - (8_500_000 - held)) / (held / 4000);
    assert_eq!(answer.after_rows, rows_max, "90% of the limit, less what others use");
    write("memory.current", 9_700_000);
    assert!(wait_until(Duration::from_secs(5), || number(&table(&cluster), "/capacity_rows") < 4000));
    // The capacity is seen a moment before the shrink is counted.
    let shrinks = || number(&cluster.nodes[0].as_ref().unwrap().status(), "/memory/pressure_shrinks");
    assert!(wait_until(Duration::from_secs(5), || shrinks() >= 1));
    write("memory.current", 5_000_000);
    assert!(number(&table(&cluster), "/cache_bytes") < held);
    heat(&cluster, &(ROWS / 2..ROWS / 2 + 4000).collect::<Vec<u64>>());
}
