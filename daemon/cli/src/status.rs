//! `rudder status`: what a running daemon is doing, over its HTTP interface or its socket: what is wrong first, then
//! the numbers an operator asks for. With `--all` it shows what the daemon says as it says it: a new field of
//! `/v1/status` appears without a change here.

use super::finding::{counted, listed};
use super::style::{self, Tone, bytes, count, paint, percent, plural, span, time};
use super::{CliError, grouped, health, http, row_words};
use rudder_client::{Client, ConnectOptions};
use serde_json::Value;
use std::{fmt::Write as _, path::PathBuf};

/// Arguments of `rudder status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Address of the daemon's HTTP interface (its `admin.listen`)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    admin: String,
    /// Ask over the daemon's local socket (its `local.socket`) instead of HTTP
    #[arg(long, value_name = "PATH", conflicts_with_all = ["admin", "token_file"])]
    socket: Option<PathBuf>,
    /// File with the bearer token, where the daemon has an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print every field of the daemon's answer
    #[arg(long)]
    all: bool,
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Asks the daemon and prints its answer.
///
/// # Errors
/// If the daemon cannot be reached, refuses, or does not answer JSON.
pub fn run(args: &StatusArgs) -> Result<(), CliError> {
    let text = match &args.socket {
        Some(socket) => Client::connect(ConnectOptions::at(socket))?.status()?,
        None => http::ask(&args.admin, args.token_file.as_deref(), "/v1/status", None)?,
    };
    let status: Value =
        serde_json::from_str(&text).map_err(|error| CliError::context("the daemon's status is not JSON", error))?;
    match (args.json, args.all) {
        (true, _) => style::print_json(&status),
        (false, true) => style::print(&summary(&status)),
        (false, false) => style::print(&overview(&status)),
    }
}

/// The status for an operator on call: what is wrong and what to do about it, then the rest.
fn overview(status: &Value) -> String {
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    let Some(node) = status.pointer("/node").and_then(Value::as_u64) else {
        // Still starting: the daemon says in its own words what is missing.
        return summary(status);
    };
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        out,
        "{}  node {node} of {}, dataset {}, up {}",
        paint(Tone::Strong, &format!("rudderd {}", text("/version"))),
        number("/parts"),
        text("/dataset"),
        span(number("/uptime_seconds"))
    );
    let findings = health::findings(status);
    let _ = writeln!(out, "{}\n{}", counted(&findings), listed(&findings));
    for table in status["tables"].as_array().into_iter().flatten() {
        about_table(&mut out, table);
    }
    let stalled = number("/stall_seconds");
    let reporting = number("/trainers_reporting");
    let waited = stalled / reporting.max(1.0) / number("/uptime_seconds").max(1e-9);
    let reports = match reporting {
        0.0 if !health::at_work(status) => "none at work in the last minute".to_owned(),
        0.0 => "none reports its progress".to_owned(),
        1.0 => "1 reports its progress".to_owned(),
        some => format!("{} report their progress", count(some)),
    };
    // Of those that have gone it is not known how many there were.
    let share = if reporting > 0.0 { format!(", {} of a trainer's time", percent(waited)) } else { String::new() };
    line(&mut out, "trainers", &format!("{reports}; {} spent waiting for peers in all{share}", time(stalled)));
    let limit = number("/memory/limit_bytes");
    let of = if limit > 0.0 {
        let used = number("/memory/used_bytes");
        format!("; {} of {} in use by all ({})", bytes(used), bytes(limit), percent(used / limit))
    } else {
        String::new()
    };
    line(&mut out, "memory", &format!("{} by the daemon{of}", bytes(number("/memory/resident_bytes"))));
    for peer in status["peers"].as_array().into_iter().flatten() {
        about_peer(&mut out, peer);
    }
    about_agent(&mut out, status);
    out
}

fn line(out: &mut String, name: &str, words: &str) {
    let _ = writeln!(out, "{} {words}", paint(Tone::Faint, &format!("{name:<13}")));
}

fn about_table(out: &mut String, table: &Value) {
    let number = |pointer: &str| table.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    let text = |pointer: &str| table.pointer(pointer).and_then(Value::as_str).unwrap_or("?");
    let sizes = table["shape"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shape: Vec<u32> = sizes.iter().filter_map(Value::as_u64).map(|size| size as u32).collect();
    let (name, row) = (text("/name"), row_words(&shape, text("/dtype")));
    let heading = format!(
        "table {name}: {} rows of {row}, {} of them here",
        count(number("/rows")),
        count(number("/local_rows"))
    );
    let _ = writeln!(out, "{}", paint(Tone::Strong, &heading));
    let named = if table["named"] == true { "; names too" } else { "" };
    let ids = match table["renumbered"].as_bool() {
        Some(true) => "renumbered by the import; trainers use original ids unless they ask for dataset ids",
        Some(false) => "those of the source",
        None => "?",
    };
    line(out, "  ids", &format!("of vertex type {}: {ids}{named}", text("/vertex_type")));
    let hits = match table["hit_ratio"].as_f64() {
        Some(share) => {
            format!("{} of the remote rows of the last minute were cached", paint(Tone::Strong, &percent(share)))
        }
        None => "no remote rows were asked for in the last minute".to_owned(),
    };
    line(out, "  hit rate", &hits);
    let (rows, capacity) = (number("/cached_rows"), number("/capacity_rows"));
    let full = if capacity > 0.0 { rows / capacity } else { 0.0 };
    let cache = format!(
        "{} of {} rows ({} full), {}; may grow to {}; policy {}",
        count(rows),
        count(capacity),
        percent(full),
        bytes(number("/cache_bytes")),
        count(number("/ceiling_rows")),
        text("/policy")
    );
    line(out, "  cache", &cache);
    let fetched = |source: &str| number(&format!("/fetched/{source}"));
    let all = fetched("local") + fetched("cache") + fetched("staged") + fetched("peer");
    let of = |name: &str, source: &str| {
        let share = if all > 0.0 { fetched(source) / all } else { 0.0 };
        format!("{} {name} ({})", count(fetched(source)), percent(share))
    };
    let rows = [of("local", "local"), of("from the cache", "cache"), of("staged", "staged"), of("waited for", "peer")];
    line(out, "  served", &rows.join(", "));
    let network: f64 = table["network"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.ends_with("_rows"))
        .filter_map(|(_, rows)| rows.as_f64())
        .sum();
    line(out, "  network", &format!("{} rows, {}", count(network), bytes(number("/network/bytes"))));
}

fn about_peer(out: &mut String, peer: &Value) {
    let number = |name: &str| peer[name].as_f64().unwrap_or_default();
    let state = match (number("connections") > 0.0, peer["last_error"].is_string()) {
        (true, _) => paint(Tone::Good, "up"),
        (false, true) => paint(Tone::Bad, "DOWN"),
        (false, false) => paint(Tone::Faint, "not asked for anything yet"),
    };
    let rtt = peer["rtt_us"].as_f64().map_or_else(String::new, |us| format!(", round trip {}", time(us / 1e6)));
    let retry = peer["retry_ms"].as_f64().map_or_else(String::new, |ms| format!(", next try in {}", time(ms / 1e3)));
    let words = format!(
        "{} {state}{rtt}{retry}; {} received, {} sent",
        peer["address"].as_str().unwrap_or_default(),
        bytes(number("bytes_received")),
        bytes(number("bytes_sent"))
    );
    line(out, &format!("peer {}", number("node")), &words);
}

fn about_agent(out: &mut String, status: &Value) {
    let Some(agent) = status["agent"].as_object() else { return line(out, "agent", "off (agent.controller)") };
    let text = |name: &str| agent.get(name).and_then(Value::as_str).unwrap_or("?");
    let decisions = agent.get("decisions").and_then(Value::as_u64).unwrap_or_default();
    let last = match decisions {
        0 => String::new(),
        _ => format!("; the last: {} ({}), {}", text("last_tool"), text("last_outcome"), text("last_reason")),
    };
    line(out, "agent", &format!("{}, {}{last}", text("controller"), plural(decisions, "decision")));
}

/// The status for people: scalars as `name  value` lines, lists of objects as tables, groups indented.
pub(super) fn summary(status: &Value) -> String {
    let mut out = String::new();
    match status {
        Value::Object(fields) => group(&mut out, fields, 0),
        other => out = format!("{}\n", scalar(other)),
    }
    out
}

fn group(out: &mut String, fields: &serde_json::Map<String, Value>, depth: usize) {
    let indent = "  ".repeat(depth);
    let is_nested = |value: &Value| matches!(value, Value::Object(_)) || is_table(value);
    let width = fields.iter().filter(|(_, value)| !is_nested(value)).map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields.iter().filter(|(_, value)| !is_nested(value)) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(out, "{indent}{name:width$}  {}", scalar(value));
    }
    for (name, value) in fields.iter().filter(|(_, value)| is_nested(value)) {
        let _ = writeln!(out, "{indent}{name}");
        match value {
            Value::Object(inner) => group(out, inner, depth + 1),
            Value::Array(rows) => table(out, rows, depth + 1),
            _ => {}
        }
    }
}

fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(Value::is_object))
}

/// Lists with more fields than this are shown with one line per field.
const COLUMNS_MAX: usize = 8;

fn table(out: &mut String, rows: &[Value], depth: usize) {
    let rows: Vec<Vec<(String, String)>> = rows.iter().map(|row| cells("", row)).collect();
    let mut columns: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let cell = |row: &[(String, String)], column: &str| {
        row.iter().find(|(name, _)| name == column).map_or_else(String::new, |(_, text)| text.clone())
    };
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    if columns.len() <= COLUMNS_MAX {
        table.set_header(&columns);
        for row in &rows {
            table.add_row(columns.iter().map(|column| cell(row, column)));
        }
    } else {
        for column in columns {
            table.add_row(std::iter::once(column.to_owned()).chain(rows.iter().map(|row| cell(row, column))));
        }
    }
    for line in table.to_string().lines() {
        let _ = writeln!(out, "{}{}", "  ".repeat(depth), line.trim_end());
    }
}

/// The fields of an object with their values as text; those of objects within as `outer.inner`.
fn cells(prefix: &str, value: &Value) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = format!("{prefix}{name}");
        if value.is_object() {
            cells.extend(self::cells(&format!("{name}."), value));
        } else {
            cells.push((name, scalar(value)));
        }
    }
    cells
}

/// A value in one cell; integers with their thousands grouped.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_u64() => grouped(number.as_u64().unwrap_or_default()),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Value::Null => String::from("-"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn summary_shows_scalars_groups_and_tables() {
        let text = summary(&json!({
            "ready": true, "rows": 1_234_567,
            "cache": {"policy": "epoch"},
            "peers": [{"node": 1, "up": true}, {"node": 2, "up": false, "error": "refused"}],
        }));
        assert!(text.starts_with("ready  true\nrows   1,234,567\n"), "{text}");
        assert!(text.contains("cache\n  policy  epoch\n"), "{text}");
        let last = text.lines().last().unwrap();
        assert_eq!(last.split_whitespace().collect::<Vec<_>>(), ["2", "false", "refused"], "{text}");
    }

    #[test]
    fn wide_lists_have_a_line_per_field() {
        let item = |rows: u64| json!({"a": "x", "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "in": {"rows": rows, "h": 0.5}});
        let text = summary(&json!({"tables": [item(10), item(2000)]}));
        let line = text.lines().find(|line| line.contains("in.rows")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["in.rows", "10", "2,000"], "{text}");
    }

    #[test]
    fn what_is_wrong_comes_before_the_numbers() {
        let mut status = json!({
            "version": "0.1.0", "node": 0, "parts": 2, "dataset": "debian", "uptime_seconds": 7300.0, "stall_seconds": 73.0,
            "trainers_reporting": 1, "memory": {"resident_bytes": 1 << 20, "used_bytes": 1 << 30, "limit_bytes": 4u64 << 30},
            "tables": [{"name": "feat", "rows": 63436, "local_rows": 30000, "dtype": "f32", "width": 128, "shape": [128], "policy": "epoch",
                "hit_ratio": 0.896, "cached_rows": 7698, "capacity_rows": 7698, "ceiling_rows": 30792, "cache_bytes": 3941376,
                "fetched": {"local": 900, "cache": 90, "staged": 0, "peer": 10}, "network": {"demand_rows": 1200, "bytes": 2048}}],
            "peers": [{"node": 1, "address": "b:7400", "connections": 1, "rtt_us": 140, "bytes_received": 2048, "bytes_sent": 0}],
            "agent": {"controller": "rules", "decisions": 9, "last_tool": "hold", "last_outcome": "done", "last_reason": "steady"},
        });
        let text = style::plain(&overview(&status));
        for words in [
            "rudderd 0.1.0  node 0 of 2, dataset debian, up 2 h 1 min\nnothing is wrong",
            "90 % of the remote rows of the last minute were cached",
            "7,698 of 7,698 rows (100 % full), 3.8 MiB; may grow to 30,792; policy epoch",
            "900 local (90 %), 90 from the cache (9.0 %), 0 staged (0 %), 10 waited for (1.0 %)",
            "1,200 rows, 2.0 KiB",
            "1 reports its progress; 73.0 s spent waiting for peers in all, 1.0 % of a trainer's time",
            "1.0 GiB of 4.0 GiB in use by all (25 %)",
            "b:7400 up, round trip 140 µs; 2.0 KiB received, 0 B sent",
            "rules, 9 decisions; the last: hold (done), steady",
        ] {
            assert!(text.contains(words), "should say `{words}`:\n{text}");
        }
        (status["trainers_reporting"], status["tables"][0]["hit_ratio"]) = (json!(0), json!(null));
        let text = style::plain(&overview(&status));
        assert!(text.contains("none at work in the last minute; 73.0 s spent waiting for peers in all\n"), "{text}");
        status["peers"][0] =
            json!({"node": 1, "address": "b:7400", "connections": 0, "last_error": "no answer", "retry_ms": 500});
        let text = style::plain(&overview(&status));
        assert!(
            text.lines().nth(1) == Some("1 problem") && text.contains("b:7400 DOWN, next try in 500.0 ms"),
            "{text}"
        );
        assert!(text.find("PROBLEM").unwrap() < text.find("hit rate").unwrap(), "{text}");
    }

    #[test]
    fn a_daemon_that_is_starting_says_so_itself() {
        assert_eq!(overview(&json!({"state": "starting"})), "state  starting\n");
    }

    #[test]
    fn an_absent_daemon_is_an_error_that_names_the_address() {
        // Port 9 (discard) on loopback: nobody answers in a test environment, and nothing listens there by default.
        let args =
            StatusArgs { admin: String::from("127.0.0.1:9"), socket: None, token_file: None, all: false, json: false };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:9/v1/status") && error.contains("admin.listen"), "{error}");
        let args = StatusArgs { socket: Some(PathBuf::from("/nonexistent/rudder.sock")), ..args };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/rudder.sock"), "{error}");
    }
}
