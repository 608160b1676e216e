//! Owns what the demo says to people at its end. It must never show a number that was not measured in this run.

use crate::grouped;
use crate::style::plural;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use rudder_demo::{DemoReport, RunReport, Sharing};

/// What people want to know beside the report.
pub(super) struct Footnotes {
    pub(super) graph: String,
    pub(super) link: &'static str,
    pub(super) largest_class_share: f64,
    /// Epoch from which on other vertices are the seeds.
    pub(super) shift: Option<u32>,
    /// Whether every policy ended with the same parameters, bit for bit.
    pub(super) same_model: bool,
}

/// The report for people.
pub(super) fn in_words(report: &DemoReport, notes: &Footnotes) -> String {
    let graph = &report.graph;
    let mut lines = vec![format!(
        "{}: {} vertices, {} edges over {} nodes ({} edges cut), {} floats per row; {} per node, {}",
        notes.graph,
        grouped(graph.vertices),
        grouped(graph.edges),
        graph.partitions,
        grouped(graph.edge_cut),
        report.dim,
        plural(u64::from(report.trainers), "trainer"),
        notes.link,
    )];
    lines.push(table(&report.runs).to_string());
    lines.push("Later: share of the remote rows waited for, without the first epoch.".to_owned());
    let epochs = report.epochs;
    lines
        .push(format!("Stall: seconds a trainer waited inside fetch (mean over trainers). Epoch: median of {epochs}."));
    if let Some(shift) = notes.shift {
        let from = shift + 1;
        lines.push(format!("From epoch {from} on, other vertices are the seeds. Hit rate of each epoch, in percent:"));
        lines.extend(report.runs.iter().map(|run| format!("  {}", hit_rates(run))));
    }
    let share = 100.0 * notes.largest_class_share;
    lines.push(format!("A constant guess would be right in {share:.1} % of the cases."));
    if notes.same_model && report.runs.len() > 1 {
        lines.push("All policies trained the same model, bit for bit.".to_owned());
    }
    lines.extend(comparisons(&report.runs));
    lines.extend(report.sharing.iter().map(sentence));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn hit_rates(run: &RunReport) -> String {
    let rates: Vec<String> = run.epoch_hit_rates.iter().map(|rate| format!("{:.0}", 100.0 * rate)).collect();
    let private = if run.private { ", private" } else { "" };
    format!("{}{private}: {}", name(&run.policy, run.lookahead), rates.join(" "))
}

fn table(runs: &[RunReport]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "policy",
        "ahead",
        "cache rows",
        "hit rate",
        "remote rows",
        "waited for",
        "later %",
        "network rows",
        "network MB",
        "stall s",
        "epoch s",
        "accuracy",
        "rows checked",
        "wrong",
    ]);
    for run in runs {
        table.add_row([
            if run.private { format!("{}, private", run.policy) } else { run.policy.clone() },
            run.lookahead.to_string(),
            grouped(run.capacity_rows),
            format!("{:.1} %", 100.0 * run.hit_rate),
            grouped(run.remote_rows),
            grouped(run.stall_rows),
            format!("{:.1}", 100.0 * run.later_stall_share),
            grouped(run.network_rows),
            format!("{:.1}", run.network_bytes as f64 / 1e6),
            format!("{:.2}", run.stall_seconds),
            format!("{:.3}", median(&run.epoch_seconds)),
            format!("{:.1} %", 100.0 * run.accuracy),
            grouped(run.rows_checked),
            grouped(run.wrong_rows),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The last policy against each of the others, in a sentence each; of the runs with the nodes' own daemons.
fn comparisons(runs: &[RunReport]) -> Vec<String> {
    let shared: Vec<&RunReport> = runs.iter().filter(|run| !run.private).collect();
    let Some((last, others)) = shared.split_last() else { return Vec::new() };
    others.iter().map(|other| comparison(last, other)).collect()
}

fn sentence(sharing: &Sharing) -> String {
    format!(
        "{}: one daemon per node moved {} rows over the network where a daemon per trainer, with as much memory in all, moved {} \
         (ratio {:.2}).",
        name(&sharing.policy, sharing.lookahead),
        grouped(sharing.shared_network_rows),
        grouped(sharing.private_network_rows),
        sharing.ratio,
    )
}

fn comparison(run: &RunReport, other: &RunReport) -> String {
    format!(
        "{} moved {} rows over the network than {}; its trainers waited {} time for rows.",
        name(&run.policy, run.lookahead),
        relative(run.network_rows as f64, other.network_rows as f64, "fewer", "more"),
        name(&other.policy, other.lookahead),
        relative(run.stall_seconds, other.stall_seconds, "less", "more"),
    )
}

/// The policy, and the lookahead if there is any.
fn name(policy: &str, lookahead: u32) -> String {
    if lookahead == 0 { policy.to_owned() } else { format!("{policy} with lookahead {lookahead}") }
}

/// `37 % fewer`, and the like.
fn relative(value: f64, base: f64, less: &str, more: &str) -> String {
    if base <= 0.0 {
        return if value > 0.0 { format!("(from none) {more}") } else { format!("0 % {less}") };
    }
    let change = 100.0 * (value / base - 1.0);
    format!("{:.0} % {}", change.abs(), if change > 0.0 { more } else { less })
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_demo::{DaemonReport, GraphReport, sharing};
    use rudder_stage::ScrapedCounters;

    fn run(policy: &str, network_rows: u64, stall_seconds: f64) -> RunReport {
        RunReport {
            policy: policy.into(),
            lookahead: 0,
            private: false,
            capacity_rows: 9_515,
            hit_rate: 0.437,
            remote_rows: 1_000_000,
            staged_rows: 0,
            stall_rows: 563_000,
            later_stall_share: 0.5,
            epoch_hit_rates: vec![0.2, 0.5],
            network_rows,
            network_bytes: 512_000_000,
            stall_seconds,
            epoch_seconds: vec![3.0, 1.0, 2.0],
            accuracy: 0.5,
            rows_checked: 2_000_000,
            wrong_rows: 0,
            daemons: vec![DaemonReport::new(0, &ScrapedCounters::default())],
        }
    }

    #[test]
    fn json_has_the_stable_names() {
        let report = DemoReport {
            graph: GraphReport { vertices: 1, edges: 2, partitions: 2, edge_cut: 1 },
            dim: 4,
            epochs: 3,
            trainers: 1,
            runs: vec![run("none", 1, 1.0)],
            sharing: Vec::new(),
        };
        let value = serde_json::to_value(&report).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&value), "dim epochs graph runs trainers");
        assert_eq!(keys(&value["graph"]), "edge_cut edges partitions vertices");
        assert_eq!(
            keys(&value["runs"][0]),
            "accuracy capacity_rows daemons epoch_hit_rates epoch_seconds hit_rate later_stall_share lookahead network_bytes network_rows \
             policy private remote_rows rows_checked staged_rows stall_rows stall_seconds wrong_rows"
        );
        assert_eq!(
            keys(&value["runs"][0]["daemons"][0]),
            "capacity_rows hit_rows network_rows node staged_rows stall_rows"
        );
    }

    #[test]
    fn private_runs_are_held_against_their_shared_ones_only() {
        let private = |policy, rows| RunReport { private: true, ..run(policy, rows, 1.0) };
        let runs = [run("none", 900, 1.0), run("epoch", 300, 1.0), private("none", 900), private("epoch", 1_200)];
        let found = sharing(&runs);
        assert_eq!(found.iter().map(|one| one.ratio).collect::<Vec<_>>(), [1.0, 0.25]);
        assert!(
            sentence(&found[1]).contains("moved 300 rows") && sentence(&found[1]).contains("moved 1,200 (ratio 0.25)")
        );
        assert_eq!(comparisons(&runs).len(), 1);
        assert!(sharing(&runs[..2]).is_empty());
    }

    #[test]
    fn the_last_policy_is_compared_with_the_others() {
        let lines = comparisons(&[run("none", 1_000, 2.0), run("periodic", 400, 0.5), run("epoch", 500, 1.0)]);
        assert_eq!(
            lines,
            [
                "epoch moved 50 % fewer rows over the network than none; its trainers waited 50 % less time for rows.",
                "epoch moved 25 % more rows over the network than periodic; its trainers waited 100 % more time for rows.",
            ]
        );
        assert!(comparisons(&[run("epoch", 1, 1.0)]).is_empty());
    }

    #[test]
    fn hit_rates_go_by_epoch() {
        assert_eq!(hit_rates(&RunReport { lookahead: 8, ..run("lru", 1, 1.0) }), "lru with lookahead 8: 20 50");
    }

    #[test]
    fn the_table_shows_the_median_epoch_and_groups_digits() {
        let text = table(&[run("epoch", 12_345_678, 1.0)]).to_string();
        assert!(text.contains("12,345,678") && text.contains("2.000") && text.contains("43.7 %"), "{text}");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
