//! What is wrong with a running daemon, judged by its `/v1/status` alone: for `rudder status`, which says it first, and
//! for `rudder doctor`. Pure: it owns the thresholds, and must never ask anybody.

use super::finding::Finding;
use super::style::{bytes, count, percent, plural, span};
use serde_json::Value;

/// Trainers that waited for more of their time than this are worth a warning.
const STALL_SHARE: f64 = 0.2;
/// Below this age most misses are first misses.
const SETTLED_SECONDS: f64 = 60.0;
/// Shares of the memory limit.
const MEMORY_WARNING: f64 = 0.9;
const MEMORY_PROBLEM: f64 = 0.97;

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_default()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// All that is wrong, the worst first.
pub(super) fn findings(status: &Value) -> Vec<Finding> {
    let mut all = Vec::new();
    if status.pointer("/draining").and_then(Value::as_bool) == Some(true) {
        all.push(Finding::warning("draining", "the daemon was told to stop and takes no new work", "start it again"));
    }
    all.extend(list(status, "/peers").iter().filter_map(peer));
    all.extend(list(status, "/tables").iter().flat_map(table));
    all.extend(memory(status));
    all.extend(trainers(status));
    all.extend(agent(status));
    all.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    all
}

fn peer(peer: &Value) -> Option<Finding> {
    let (node, address) = (number(peer, "/node"), text(peer, "/address").unwrap_or_default());
    let error = text(peer, "/last_error")?;
    (number(peer, "/connections") == 0.0).then(|| {
        let mend =
            format!("see that rudderd runs on node {node} and that UDP to {address} passes; `rudder doctor` tries it");
        Finding::problem(format!("peer {node}"), format!("{address} cannot be reached: {error}"), mend)
    })
}

fn table(table: &Value) -> Vec<Finding> {
    let name = text(table, "/name").unwrap_or_default();
    let mut found = Vec::new();
    let mut when = |pointer: &str, what: &str, mend: &str| {
        let times = number(table, pointer);
        if times > 0.0 {
            found.push(Finding::warning(format!("table {name}"), format!("{} {what}", count(times)), mend));
        }
    };
    when("/failed_fetches", "fetches failed since the start", "read the daemon's log: each failure names its cause");
    when(
        "/versions/failed_updates",
        "updates failed since the start",
        "read the daemon's log: each failure names its cause",
    );
    when(
        "/versions/expired_rows",
        "rows were thrown out because their owner could not be asked in time",
        "see to the peers, or raise cache.staleness_max_ms",
    );
    found
}

fn memory(status: &Value) -> Vec<Finding> {
    let (used, limit) = (number(status, "/memory/used_bytes"), number(status, "/memory/limit_bytes"));
    let mut found = Vec::new();
    if limit > 0.0 && used / limit > MEMORY_WARNING {
        let words = format!("{} of {} are in use ({})", bytes(used), bytes(limit), percent(used / limit));
        let mend = "give the node or cgroup more memory, or shrink a cache: `rudder tool grow --factor 0.5`";
        let say = if used / limit > MEMORY_PROBLEM { Finding::problem } else { Finding::warning };
        found.push(say("memory".to_owned(), words, mend.to_owned()));
    }
    let shrinks = number(status, "/memory/pressure_shrinks");
    if shrinks > 0.0 {
        let words = format!("memory ran short {}, and caches were shrunk", plural(shrinks as u64, "time"));
        let mend = "lower cache.capacity, or give the node more memory; `rudder tool grow` raises the caches again";
        found.push(Finding::warning("memory", words, mend));
    }
    found
}

/// Whether remote rows of this table were asked for in the last minute.
fn is_in_use(table: &Value) -> bool {
    table["hit_ratio"].is_number()
}

/// Whether trainers are at work: one reports its progress, or asked for remote rows in the last minute. A daemon whose
/// job has ended is idle, and nothing is wrong with that.
pub(super) fn at_work(status: &Value) -> bool {
    number(status, "/trainers_reporting") > 0.0 || list(status, "/tables").iter().any(is_in_use)
}

fn trainers(status: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    let reporting = number(status, "/trainers_reporting");
    let misled = |table: &Value| text(table, "/policy") == Some("epoch") && is_in_use(table);
    if reporting == 0.0 && list(status, "/tables").iter().any(misled) {
        let words = "no trainer reports its progress, so the cache goes by frequency alone";
        let mend = "call client.progress(epoch, step, steps_per_epoch), or use rudder.Loader, which does";
        found.push(Finding::warning("trainers", words, mend));
    }
    let uptime = number(status, "/uptime_seconds");
    let stalled = number(status, "/stall_seconds") / uptime.max(1.0) / reporting.max(1.0);
    // After a job nobody waits, and how many trainers shared the time they once waited is not known any more.
    if uptime > SETTLED_SECONDS && stalled > STALL_SHARE && at_work(status) {
        let words = format!(
            "{} of a trainer's time since the start ({}) was spent waiting for peers",
            percent(stalled),
            span(uptime)
        );
        let mend =
            "let trainers announce their batches (rudder.Loader), raise cache.capacity, or look at the peers' latency";
        found.push(Finding::warning("stalls", words, mend));
    }
    found
}

fn agent(status: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    if text(status, "/agent/last_outcome") == Some("failed") {
        let tool = text(status, "/agent/last_tool").unwrap_or_default();
        let mend = "`rudder decisions --limit 1` says why";
        found.push(Finding::warning("agent", format!("its last call of {tool} failed"), mend));
    }
    match text(status, "/agent/llm/state") {
        Some("degraded") => {
            let mend = "the rules decide instead; see docs/agent-llm.md (The probe), or choose another agent.llm_model";
            found.push(Finding::warning("agent", "its model was found unfit by the probe", mend));
        }
        Some("unreachable") => {
            let url = text(status, "/agent/llm/base_url").unwrap_or_default();
            let mend = "the rules decide instead; see that the endpoint runs, and agent.llm_base_url";
            found.push(Finding::warning("agent", format!("its model at {url} cannot be reached"), mend));
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;
    use serde_json::json;

    fn well() -> Value {
        json!({
            "draining": false, "uptime_seconds": 1000.0, "stall_seconds": 10.0, "trainers_reporting": 1,
            "memory": {"used_bytes": 50, "limit_bytes": 100, "pressure_shrinks": 0},
            "peers": [{"node": 1, "address": "b:7400", "connections": 1, "last_error": null}],
            "tables": [{"name": "feat", "policy": "epoch", "failed_fetches": 0, "hit_ratio": 0.5,
                        "fetched": {"local": 5, "peer": 1},
                        "versions": {"failed_updates": 0, "expired_rows": 0}}],
            "agent": {"controller": "rules", "last_outcome": "done", "llm": null},
        })
    }

    /// What is found when one thing is otherwise.
    fn with(pointer: &str, value: Value) -> (Severity, String) {
        let mut status = well();
        *status.pointer_mut(pointer).unwrap() = value;
        let found = findings(&status);
        assert_eq!(found.len(), 1, "{pointer}: {found:?}");
        (found[0].verdict, format!("{}: {} -> {}", found[0].check, found[0].found, found[0].mend.clone().unwrap()))
    }

    #[test]
    fn a_daemon_that_is_well_is_left_alone() {
        assert_eq!(findings(&well()), []);
        assert_eq!(findings(&json!({})), []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_found_and_mended() {
        use Severity::{Problem, Warning};
        for (pointer, value, verdict, words) in [
            ("/draining", json!(true), Warning, "told to stop"),
            (
                "/peers/0",
                json!({"node": 1, "address": "b:7400", "connections": 0, "last_error": "no answer"}),
                Problem,
                "peer 1: b:7400 cannot be reached: no answer",
            ),
            ("/tables/0/failed_fetches", json!(1200), Warning, "table feat: 1,200 fetches failed"),
            ("/tables/0/versions/expired_rows", json!(3), Warning, "staleness_max_ms"),
            ("/memory/used_bytes", json!(92), Warning, "92 B of 100 B are in use (92 %)"),
            ("/memory/used_bytes", json!(98), Problem, "rudder tool grow --factor 0.5"),
            ("/memory/pressure_shrinks", json!(2), Warning, "2 times"),
            ("/trainers_reporting", json!(0), Warning, "client.progress"),
            ("/stall_seconds", json!(400.0), Warning, "40 % of a trainer's time since the start (16 min 40 s)"),
            ("/agent/last_outcome", json!("failed"), Warning, "rudder decisions"),
            ("/agent/llm", json!({"state": "degraded"}), Warning, "found unfit"),
            ("/agent/llm", json!({"state": "unreachable", "base_url": "http://m/v1"}), Warning, "http://m/v1"),
        ] {
            let (found, said) = with(pointer, value);
            assert_eq!(found, verdict, "{said}");
            assert!(said.contains(words), "{said}\nshould say {words}");
        }
    }

    #[test]
    fn a_node_whose_job_has_ended_is_not_complained_of() {
        let mut idle = well();
        (idle["trainers_reporting"], idle["stall_seconds"]) = (json!(0), json!(400.0));
        idle["tables"][0]["hit_ratio"] = json!(null);
        assert_eq!(findings(&idle), []);
        // The last minute of a job whose trainers have gone already.
        idle["tables"][0]["hit_ratio"] = json!(0.0);
        assert_eq!(findings(&idle).len(), 2);
        idle["tables"][0]["policy"] = json!("lru");
        assert_eq!(findings(&idle).len(), 1, "only the policy `epoch` lives on progress");
    }

    #[test]
    fn the_worst_comes_first() {
        let mut status = well();
        status["draining"] = json!(true);
        status["peers"][0] = json!({"node": 1, "connections": 0, "last_error": "gone"});
        assert_eq!(findings(&status)[0].verdict, Severity::Problem);
    }
}
