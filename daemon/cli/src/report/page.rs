//! The page of a report: what came out, the charts, and every decision. Owns the words and the looks. All text of a
//! journal goes through [`escaped`]; nothing is fetched from anywhere when the page is opened, and it holds no script.

use super::chart::{Chart, Line, Mark, Unit};
use super::series::{Measure, NodeRun, Series, Told};
use crate::style::{count, percent, plural, span, time};
use crate::svg::escaped;
use std::fmt::Write as _;

/// Most marks in a chart: beyond, they hide what they mark.
const MARKS_MAX: usize = 60;
/// Most decisions of the table.
const ROWS_MAX: usize = 2000;

const STYLE: &str = include_str!("page.css");

/// What a report is about.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) title: String,
    /// Where the numbers come from, in a sentence.
    pub(super) source: String,
    pub(super) nodes: Vec<NodeRun>,
}

/// The numbers at the top of the page; the same go out as JSON.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub(super) struct Summary {
    /// Those that there are numbers of.
    pub(super) nodes: usize,
    pub(super) seconds: f64,
    /// Mean hit rate over nodes, of the first tenth and of the last tenth of the time.
    pub(super) hit_rate_first: Option<f64>,
    pub(super) hit_rate_last: Option<f64>,
    pub(super) remote_rows: f64,
    pub(super) network_rows: f64,
    pub(super) decisions: usize,
    /// Decisions that did something.
    pub(super) actions: usize,
    pub(super) refused: usize,
    pub(super) judged: usize,
    pub(super) as_expected: usize,
}

impl Report {
    /// First and last moment, in seconds since 1970.
    fn bounds(&self) -> (f64, f64) {
        let points = self.nodes.iter().flat_map(|node| &node.series).flat_map(|(_, series)| &series.points);
        let (start, end) =
            points.fold((f64::INFINITY, f64::NEG_INFINITY), |(start, end), (at, _)| (start.min(*at), end.max(*at)));
        if start.is_finite() { (start, end) } else { (0.0, 0.0) }
    }

    fn decisions(&self) -> impl Iterator<Item = &Told> {
        self.nodes.iter().flat_map(|node| &node.decisions)
    }

    pub(super) fn summary(&self) -> Summary {
        let (start, end) = self.bounds();
        let tenth = (end - start) / 10.0;
        let rate = |from: f64, to: f64| {
            let of = |node: &NodeRun| node.mean(Measure::HitRate, from, to);
            let known: Vec<f64> = self.nodes.iter().filter_map(of).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        Summary {
            nodes: self.nodes.iter().filter(|node| node.is_plotted()).count(),
            seconds: end - start,
            hit_rate_first: rate(start, start + tenth),
            hit_rate_last: rate(end - tenth, end),
            remote_rows: self.nodes.iter().map(|node| node.remote_rows).sum(),
            network_rows: self.nodes.iter().map(|node| node.network_rows).sum(),
            decisions: self.decisions().count(),
            actions: self.decisions().filter(|told| told.tool != "hold").count(),
            refused: self.decisions().filter(|told| told.outcome == "refused").count(),
            judged: self.decisions().filter(|told| told.as_expected.is_some()).count(),
            as_expected: self.decisions().filter(|told| told.as_expected == Some(true)).count(),
        }
    }

    /// The page.
    pub(super) fn html(&self) -> String {
        let title = escaped(&self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\n\
             <style>\n{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n<p class=\"source\">{}</p>\n",
            escaped(&self.source)
        );
        self.tiles(&mut out);
        self.charts(&mut out);
        self.table(&mut out);
        out.push_str("</main></body></html>\n");
        out
    }

    fn tiles(&self, out: &mut String) {
        let summary = self.summary();
        out.push_str("<section class=\"tiles\">\n");
        let mut tile = |name: &str, value: &str, more: &str| {
            // Writing to a String cannot fail, here and below.
            let (name, value, more) = (escaped(name), escaped(value), escaped(more));
            let _ = writeln!(out, "<div class=\"tile\"><span>{name}</span><b>{value}</b><small>{more}</small></div>");
        };
        if let (Some(first), Some(last)) = (summary.hit_rate_first, summary.hit_rate_last) {
            let change = 100.0 * (last - first);
            tile(
                "hit rate at the end",
                &percent(last),
                &format!("{change:+.1} points since the start ({})", percent(first)),
            );
        }
        if summary.remote_rows > 0.0 {
            let share = summary.network_rows / summary.remote_rows;
            let more =
                format!("{} rows for {} asked of other nodes", count(summary.network_rows), count(summary.remote_rows));
            tile("over the network", &percent(share), &more);
        }
        tile("time", &span(summary.seconds), &plural(summary.nodes as u64, "node"));
        if summary.decisions > 0 {
            let more = format!("{} that acted, {} refused by the guard", summary.actions, summary.refused);
            tile("decisions", &count(summary.decisions as f64), &more);
        }
        if summary.judged > 0 {
            let share = summary.as_expected as f64 / summary.judged as f64;
            let more = format!("{} of {} effects on the hit rate", summary.as_expected, summary.judged);
            tile("as expected", &percent(share), &more);
        }
        let best = self.decisions().filter(|told| told.tool != "hold").filter_map(|told| Some((told, told.gain()?)));
        if let Some((told, gain)) = best.max_by(|a, b| a.1.total_cmp(&b.1)) {
            tile(
                "best decision",
                &format!("{:+.1}", 100.0 * gain),
                &format!("points of hit rate: {} on {}, #{}", told.call, told.node, told.number),
            );
        }
        out.push_str("</section>\n");
    }

    fn charts(&self, out: &mut String) {
        out.push_str("<section class=\"charts\">\n");
        let one = [
            (Measure::HitRate, "hit rate: remote rows that were cached", Unit::Share),
            (Measure::NetworkRows, "rows over the network per second", Unit::Count),
            (Measure::StallShare, "stalls: remote rows that a trainer waited for", Unit::Share),
        ];
        for (measure, title, unit) in one {
            let marks = if measure == Measure::HitRate { self.marks() } else { Vec::new() };
            self.chart(out, title.to_owned(), unit, self.of_nodes(measure), marks);
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let line = |measure, name: &str, look| {
                node.series(measure).map(|series| Line { name: name.to_owned(), colour: at, look, series })
            };
            let lines = [
                line(Measure::CachedRows, "cached", "filled"),
                line(Measure::CapacityRows, "capacity", "solid"),
                line(Measure::CeilingRows, "ceiling", "dashed"),
            ];
            self.chart(
                out,
                format!("{}: rows of the cache", node.name),
                Unit::Count,
                lines.into_iter().flatten().collect(),
                Vec::new(),
            );
        }
        let title = "memory in use, of the limit of node or cgroup";
        self.chart(out, title.to_owned(), Unit::Share, self.of_nodes(Measure::MemoryShare), Vec::new());
        out.push_str("</section>\n");
    }

    fn of_nodes(&self, measure: Measure) -> Vec<Line<'_>> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter_map(|(at, node)| {
                node.series(measure).map(|series| Line { name: node.name.clone(), colour: at, look: "solid", series })
            })
            .filter(|line| line.series.points.iter().any(|(_, value)| value.is_some()))
            .collect()
    }

    fn chart(&self, out: &mut String, title: String, unit: Unit, lines: Vec<Line<'_>>, marks: Vec<Mark>) {
        if lines.is_empty() {
            return;
        }
        let (start, end) = self.bounds();
        out.push_str(&Chart { title, unit, start, end, lines, marks }.draw());
    }

    /// What the agents did, as far as there is room.
    fn marks(&self) -> Vec<Mark> {
        let mut acted: Vec<&Told> = self.decisions().filter(|told| told.tool != "hold").collect();
        acted.sort_by(|a, b| a.at.total_cmp(&b.at));
        let mark = |told: &Told| Mark {
            at: told.at,
            letter: told.tool.chars().next().unwrap_or('?').to_ascii_uppercase(),
            title: format!("{} #{}: {} ({})", told.node, told.number, told.call, told.reason),
            anchor: told.anchor(),
            bad: told.gain().is_some_and(|gain| gain < 0.0),
        };
        acted.into_iter().take(MARKS_MAX).map(mark).collect()
    }

    fn table(&self, out: &mut String) {
        let total = self.decisions().count();
        if total == 0 {
            let why = match self.nodes.iter().any(|node| !node.is_plotted()) {
                true => "the journals hold none of that time.",
                false => "the numbers are of Prometheus, which keeps none. Pass --journal for them.",
            };
            let _ = writeln!(out, "<p>There are no decisions: {why}</p>");
            return;
        }
        let (start, _) = self.bounds();
        let acted = self.decisions().filter(|told| told.tool != "hold").count();
        if acted > MARKS_MAX {
            let _ = writeln!(
                out,
                "<p>The first {MARKS_MAX} of {acted} tool calls are marked in the chart of the hit rate.</p>"
            );
        }
        let mut all: Vec<&Told> = self.decisions().collect();
        all.sort_by(|a, b| a.at.total_cmp(&b.at));
        for (heading, holds, open) in [("What the agents did", false, true), ("Decisions to hold", true, false)] {
            let chosen: Vec<&Told> =
                all.iter().copied().filter(|told| (told.tool == "hold" && told.outcome == "done") == holds).collect();
            if chosen.is_empty() {
                continue;
            }
            let open = if open { " open" } else { "" };
            let _ = writeln!(
                out,
                "<details{open}><summary>{heading} ({})</summary><div class=\"scroll\"><table><thead><tr><th>time</th><th>node</th>\
                 <th>#</th><th>decision</th><th>why</th><th>did</th><th>expected</th><th>hit rate</th><th>network</th></tr></thead><tbody>",
                chosen.len()
            );
            chosen.iter().take(ROWS_MAX).for_each(|told| row(out, told, start));
            out.push_str("</tbody></table></div>");
            if chosen.len() > ROWS_MAX {
                let _ = write!(out, "<p>The first {ROWS_MAX} of {}.</p>", chosen.len());
            }
            out.push_str("</details>\n");
        }
    }
}

fn row(out: &mut String, told: &Told, start: f64) {
    let change = |pair: Option<(f64, f64)>| {
        pair.map_or_else(
            || "not measured".to_owned(),
            |(before, after)| format!("{:.1} to {:.1} %", 100.0 * before, 100.0 * after),
        )
    };
    let outcome = match told.outcome.as_str() {
        "done" => String::new(),
        other => format!(" <em class=\"{0}\">{0}</em>", escaped(other)),
    };
    let expected = match told.as_expected {
        None => String::new(),
        Some(true) => format!("<span class=\"good\">{}, came true</span>", told.expected),
        Some(false) => format!("<span class=\"bad\">{}, did not</span>", told.expected),
    };
    let _ = writeln!(
        out,
        "<tr id=\"{}\"><td>{}</td><td>{}</td><td>{}</td><td><b>{}</b>{outcome}<br><small>{}</small></td><td>{}</td><td>{}</td>\
         <td>{expected}</td><td>{}</td><td>{}</td></tr>",
        escaped(&told.anchor()),
        time(told.at - start),
        escaped(&told.node),
        told.number,
        escaped(&told.call),
        escaped(&told.by),
        escaped(&told.reason),
        escaped(&told.did),
        change(told.hit_rate),
        change(told.network_share)
    );
}

impl Told {
    /// Change of the hit rate, in shares.
    fn gain(&self) -> Option<f64> {
        self.hit_rate.map(|(before, after)| after - before)
    }

    fn anchor(&self) -> String {
        format!("{}-{}-{}", self.node, self.number, self.at as u64)
    }
}

impl NodeRun {
    /// Beside Prometheus' instances a journal is one of them once more: it has decisions alone.
    pub(super) fn is_plotted(&self) -> bool {
        self.series.iter().any(|(_, series)| !series.points.is_empty())
    }

    fn series(&self, measure: Measure) -> Option<&Series> {
        self.series.iter().find(|(of, _)| *of == measure).map(|(_, series)| series)
    }

    fn mean(&self, measure: Measure, from: f64, to: f64) -> Option<f64> {
        let points = &self.series(measure)?.points;
        let known: Vec<f64> =
            points.iter().filter(|(at, _)| (from..=to).contains(at)).filter_map(|(_, value)| *value).collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}
