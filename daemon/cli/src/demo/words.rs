//! Owns what the demo says to people at its end: a table of what matters, then what it means. It must never show a
//! number that was not measured in this run, nor a line that is wider than the terminal.

use crate::grouped;
use crate::style::{Tone, paint, plural, wrapped};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use rudder_demo::{DemoReport, RunReport, Sharing};

/// Headings of the table, in its order.
const HEADINGS: [&str; 8] = ["policy", "ahead", "network rows", "hits", "waited for", "waited s", "epoch s", "wrong"];

/// What people want to know beside the report.
pub(super) struct Footnotes {
    pub(super) graph: String,
    /// How the daemons are joined.
    pub(super) link: String,
    pub(super) largest_class_share: f64,
    /// Epoch from which on other vertices are the seeds.
    pub(super) shift: Option<u32>,
    /// Whether every policy ended with the same parameters, bit for bit.
    pub(super) same_model: bool,
    /// Columns of the terminal.
    pub(super) columns: usize,
}

/// The report for people.
pub(super) fn in_words(report: &DemoReport, notes: &Footnotes) -> String {
    let runs = &report.runs;
    let mut parts = vec![wrapped(&headline(report, notes), notes.columns)];
    let (shared, private): (Vec<&RunReport>, Vec<&RunReport>) = runs.iter().partition(|run| !run.private);
    if !private.is_empty() {
        parts.push(wrapped("One daemon per node:", notes.columns));
    }
    parts.push(table(&shared, notes.columns));
    if !private.is_empty() {
        parts.push(wrapped("One daemon per trainer, with as much memory in all:", notes.columns));
        parts.push(table(&private, notes.columns));
    }
    parts.push(verdict(runs, notes.columns));
    parts.push(comparisons(runs, notes.columns));
    parts.push(listed(
        "Network rows of one daemon per node against one per trainer:",
        report.sharing.iter().map(sharing_line),
        notes.columns,
    ));
    parts.push(meaning(report, notes).iter().map(|text| wrapped(text, notes.columns)).collect::<Vec<_>>().join("\n"));
    if let Some(shift) = notes.shift {
        let head =
            format!("From epoch {} on, other vertices are the seeds. Hits of each epoch, in percent:", shift + 1);
        parts.push(listed(&head, runs.iter().map(hit_rates), notes.columns));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n") + "\n"
}

/// What was trained on.
fn headline(report: &DemoReport, notes: &Footnotes) -> String {
    let graph = &report.graph;
    format!(
        "{}: {} vertices, {} edges ({} cut) over {} nodes, {} per node, {} floats per row, {}",
        notes.graph,
        grouped(graph.vertices),
        grouped(graph.edges),
        grouped(graph.edge_cut),
        graph.partitions,
        plural(u64::from(report.trainers), "trainer"),
        report.dim,
        notes.link,
    )
}

/// The runs, a line each; where the terminal is too narrow for that, a line for each of their numbers.
fn table(runs: &[&RunReport], columns: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADINGS);
    for run in runs {
        table.add_row(cells(run));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    if lines.iter().any(|line| line.chars().count() > columns) {
        return runs.iter().map(|run| list(run)).collect::<Vec<_>>().join("\n\n");
    }
    let tones = std::iter::once(Some(Tone::Strong)).chain(runs.iter().map(|run| tone(run)));
    let painted =
        lines.iter().zip(tones).map(|(line, tone)| tone.map_or_else(|| line.clone(), |tone| paint(tone, line)));
    painted.collect::<Vec<_>>().join("\n")
}

fn list(run: &RunReport) -> String {
    let line = |(heading, cell): (&&str, String)| format!("  {heading:<14}{cell:>12}");
    let mut lines = vec![paint(tone(run).unwrap_or(Tone::Strong), &run.policy)];
    lines.extend(HEADINGS.iter().zip(cells(run)).skip(1).map(line));
    lines.join("\n")
}

/// A run with wrong rows needs somebody to act.
fn tone(run: &RunReport) -> Option<Tone> {
    (run.wrong_rows > 0).then_some(Tone::Bad)
}

fn cells(run: &RunReport) -> [String; HEADINGS.len()] {
    let waited_for = run.stall_rows as f64 / run.remote_rows.max(1) as f64;
    [
        run.policy.clone(),
        run.lookahead.to_string(),
        short(run.network_rows, 999_999_999),
        percent(run.hit_rate),
        percent(waited_for),
        seconds(run.stall_seconds, 2),
        seconds(median(&run.epoch_seconds), 3),
        short(run.wrong_rows, 99_999),
    ]
}

/// A count with its thousands grouped; above `most` with an exponent, so that a table keeps its width.
fn short(count: u64, most: u64) -> String {
    if count <= most { grouped(count) } else { format!("{:.1e}", count as f64) }
}

/// Seconds, with the given number of decimals; with fewer from 1,000 s on.
fn seconds(seconds: f64, digits: usize) -> String {
    match seconds {
        few if few < 1_000.0 => format!("{few:.digits$}"),
        some if some < 10_000_000.0 => format!("{some:.0}"),
        many => format!("{many:.1e}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Whether every received row was right, which is what the demo is for.
fn verdict(runs: &[RunReport], columns: usize) -> String {
    let sum = |count: fn(&RunReport) -> u64| runs.iter().map(count).sum::<u64>();
    let (wrong, checked) = (sum(|run| run.wrong_rows), sum(|run| run.rows_checked));
    let text = format!("{} of {} received rows were wrong.", grouped(wrong), grouped(checked));
    paint(if wrong == 0 { Tone::Good } else { Tone::Bad }, &wrapped(&text, columns))
}

/// What the columns of the table mean, and what the model learnt.
fn meaning(report: &DemoReport, notes: &Footnotes) -> Vec<String> {
    let runs = &report.runs;
    let mut texts = vec![format!(
        "Network rows crossed the network, for any reason. Hits, waited for: shares of the {} remote rows that the \
         trainers of a run asked for. Waited s: seconds that a trainer waited inside fetch (mean over trainers). \
         Epoch s: median of {}.",
        range(runs, |run| grouped(run.remote_rows)),
        report.epochs,
    )];
    if report.epochs > 1 {
        let later = |run: &RunReport| format!("{}: {}", label(run), percent(run.later_stall_share));
        let later: Vec<String> = runs.iter().map(later).collect();
        texts.push(format!("Waited for after the first epoch: {}.", later.join("; ")));
    }
    let mut model = format!(
        "The model is right for {} of the test vertices; a constant guess would be for {}.",
        range(runs, |run| percent(run.accuracy)),
        percent(notes.largest_class_share)
    );
    if notes.same_model && runs.len() > 1 {
        model += " All runs trained the same model, bit for bit.";
    }
    texts.push(model);
    texts
}

/// What all runs have alike, or the different values.
fn range(runs: &[RunReport], value: impl Fn(&RunReport) -> String) -> String {
    let mut values: Vec<String> = runs.iter().map(value).collect();
    values.dedup();
    values.join(" or ")
}

fn hit_rates(run: &RunReport) -> String {
    let rates: Vec<String> = run.epoch_hit_rates.iter().map(|rate| format!("{:.0}", 100.0 * rate)).collect();
    format!("{}: {}", label(run), rates.join(" "))
}

/// The last policy against each of the others, a line each; of the runs with the nodes' own daemons.
fn comparisons(runs: &[RunReport], columns: usize) -> String {
    let shared: Vec<&RunReport> = runs.iter().filter(|run| !run.private).collect();
    let Some((last, others)) = shared.split_last() else { return String::new() };
    let head = format!("Policy {} against:", label(last));
    listed(&head, others.iter().map(|other| comparison(last, other)), columns)
}

/// A heading with lines below it; nothing where there are no lines.
fn listed(head: &str, lines: impl Iterator<Item = String>, columns: usize) -> String {
    let indented = |line: String| wrapped(&line, columns.saturating_sub(2)).replace('\n', "\n  ");
    let lines: Vec<String> = lines.map(indented).collect();
    if lines.is_empty() { String::new() } else { format!("{}\n  {}", wrapped(head, columns), lines.join("\n  ")) }
}

fn sharing_line(sharing: &Sharing) -> String {
    format!(
        "{}: {} against {} (ratio {:.2})",
        name(&sharing.policy, sharing.lookahead),
        grouped(sharing.shared_network_rows),
        grouped(sharing.private_network_rows),
        sharing.ratio,
    )
}

fn comparison(run: &RunReport, other: &RunReport) -> String {
    format!(
        "{}: {} network rows, {} time waited",
        label(other),
        relative(run.network_rows as f64, other.network_rows as f64, "fewer", "more"),
        relative(run.stall_seconds, other.stall_seconds, "less", "more"),
    )
}

/// The policy, and the lookahead if there is any.
fn name(policy: &str, lookahead: u32) -> String {
    if lookahead == 0 { policy.to_owned() } else { format!("{policy} with lookahead {lookahead}") }
}

/// Which run it was.
fn label(run: &RunReport) -> String {
    name(&run.policy, run.lookahead) + if run.private { ", private" } else { "" }
}

/// `37 % fewer`, and the like.
fn relative(value: f64, base: f64, less: &str, more: &str) -> String {
    if base <= 0.0 {
        return if value > 0.0 { format!("(from none) {more}") } else { format!("0 % {less}") };
    }
    let change = 100.0 * (value / base - 1.0);
    format!("{:.0} % {}", change.abs(), if change > 0.0 { more } else { less })
}

fn median(values: &[f64]) -> f64 {
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
    use crate::style::plain;
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
        assert_eq!(sharing_line(&found[1]), "epoch: 300 against 1,200 (ratio 0.25)");
        assert_eq!(comparisons(&runs, 80).lines().count(), 2);
        assert!(sharing(&runs[..2]).is_empty());
    }

    #[test]
    fn the_last_policy_is_compared_with_the_others() {
        let lines = comparisons(&[run("none", 1_000, 2.0), run("periodic", 400, 0.5), run("epoch", 500, 1.0)], 80);
        assert_eq!(
            lines,
            "Policy epoch against:\n  none: 50 % fewer network rows, 50 % less time waited\n  \
             periodic: 25 % more network rows, 100 % more time waited"
        );
        assert!(comparisons(&[run("epoch", 1, 1.0)], 80).is_empty());
    }

    #[test]
    fn hit_rates_go_by_epoch() {
        assert_eq!(hit_rates(&RunReport { lookahead: 8, ..run("lru", 1, 1.0) }), "lru with lookahead 8: 20 50");
    }

    #[test]
    fn the_table_shows_the_median_epoch_and_groups_digits() {
        let text = table(&[&run("epoch", 12_345_678, 1.0)], 80);
        assert!(text.contains("12,345,678") && text.contains("2.000") && text.contains("43.7 %"), "{text}");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    /// A report with a run of each policy, with and without lookahead, shared and private, with these numbers.
    fn report(rows: u64, wrong_rows: u64, stall_seconds: f64) -> DemoReport {
        let each = |private| {
            let of_policy = move |policy: rudder_daemon::config::Policy| {
                [0, 65_536].map(|lookahead| RunReport {
                    private,
                    lookahead,
                    wrong_rows,
                    remote_rows: rows,
                    stall_rows: rows,
                    rows_checked: rows,
                    accuracy: 1.0,
                    epoch_seconds: vec![stall_seconds],
                    epoch_hit_rates: vec![1.0; 200],
                    ..run(policy.name(), rows, stall_seconds)
                })
            };
            rudder_daemon::config::Policy::ALL.into_iter().flat_map(of_policy)
        };
        let runs: Vec<RunReport> = each(false).chain(each(true)).collect();
        DemoReport {
            graph: GraphReport { vertices: rows, edges: rows, partitions: 64, edge_cut: rows },
            dim: 32_768,
            epochs: 10_000,
            trainers: 64,
            sharing: sharing(&runs),
            runs,
        }
    }

    fn notes(columns: usize) -> Footnotes {
        Footnotes {
            graph: "powerlaw:100000000".into(),
            link: "over links of 33.333333 Mbit/s".into(),
            largest_class_share: 0.106,
            shift: Some(5_000),
            same_model: true,
            columns,
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_whatever_the_numbers_are() {
        for columns in [80, 40] {
            for (rows, wrong_rows, stall_seconds) in [
                (0, 0, 0.0),
                (181_833, 0, 0.85),
                (999_999_999, 99_999, 999.994),
                (1_000_000_000, 100_000, 1_000.0),
                (u64::MAX / 1_000, u64::MAX / 1_000, 9_999_999.4),
                (u64::MAX / 1_000, u64::MAX / 1_000, 1e12),
            ] {
                let text = plain(&in_words(&report(rows, wrong_rows, stall_seconds), &notes(columns)));
                for line in text.lines() {
                    assert!(line.chars().count() <= columns, "{} columns: {line}", line.chars().count());
                    assert_eq!(line, line.trim_end());
                }
                assert_eq!(text.contains("policy"), columns == 80, "{text}");
            }
        }
    }

    #[test]
    fn one_look_shows_rows_moved_time_waited_epoch_time_and_wrong_rows() {
        let mut report = report(181_833, 0, 0.85);
        report.runs.retain(|run| !run.private && run.lookahead == 0 && run.policy == "none");
        let text = plain(&in_words(&report, &notes(80)));
        let (head, row) = (text.lines().position(|line| line.contains("policy")).unwrap(), "none");
        assert_eq!(text.lines().nth(head).unwrap().split_whitespace().next_back(), Some("wrong"));
        let cells: Vec<&str> = text.lines().nth(head + 1).unwrap().split_whitespace().collect();
        assert_eq!(cells, [row, "0", "181,833", "43.7", "%", "100.0", "%", "0.85", "0.850", "0"]);
        assert!(text.contains("\n0 of 181,833 received rows were wrong.\n"), "{text}");
    }

    #[test]
    fn wrong_rows_are_red_and_named() {
        let painted = in_words(&report(1_000, 3, 1.0), &notes(80));
        assert!(painted.contains(&paint(Tone::Bad, "120 of 40,000 received rows were wrong.")), "{painted}");
        let row = painted.lines().find(|line| plain(line).starts_with(" none")).unwrap();
        assert!(row.starts_with(&paint(Tone::Bad, "")[..4]), "{row:?}");
    }
}
