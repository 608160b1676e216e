//! `rudder status`: what a running daemon is doing, over its HTTP interface or its socket. It shows what the daemon says as it says it: a
//! new field of `/v1/status` appears without a change here.

#![allow(clippy::print_stdout)]

use super::{CliError, grouped, http};
use rudder_client::{Client, ConnectOptions};
use serde_json::Value;
use std::{fmt::Write as _, path::PathBuf};

/// Arguments of `rudder status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Address of the daemon's HTTP interface (its `admin.listen`)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7401")]
    admin: String,
    /// Ask over the daemon's local socket in place of HTTP (its `local.socket`)
    #[arg(long, value_name = "PATH", conflicts_with_all = ["admin", "token_file"])]
    socket: Option<PathBuf>,
    /// File with the bearer token, where the daemon has an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Asks the daemon and prints what it says.
///
/// # Errors
/// If the daemon cannot be reached, refuses, or answers no JSON.
pub fn run(args: &StatusArgs) -> Result<(), CliError> {
    let text = match &args.socket {
        Some(socket) => Client::connect(ConnectOptions::at(socket))?.status()?,
        None => http::ask(&args.admin, args.token_file.as_deref(), "/v1/status", None)?,
    };
    let status: Value =
        serde_json::from_str(&text).map_err(|error| CliError::context("the daemon's status is not JSON", error))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", summary(&status));
    }
    Ok(())
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
    fn an_absent_daemon_is_an_error_that_names_the_address() {
        // Port 9 (discard) on loopback: nobody answers in a test environment, and nothing listens there by default.
        let args = StatusArgs { admin: String::from("127.0.0.1:9"), socket: None, token_file: None, json: false };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("http://127.0.0.1:9/v1/status") && error.contains("admin.listen"), "{error}");
        let args = StatusArgs { socket: Some(PathBuf::from("/nonexistent/rudder.sock")), ..args };
        let error = run(&args).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/rudder.sock"), "{error}");
    }
}
