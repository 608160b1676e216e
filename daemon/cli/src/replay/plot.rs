//! Draws hit rates as an SVG picture: over capacity, and over time for each capacity. Owns the geometry; it must never
//! compute a number that is not printed too.

use super::report::Comparison;
use crate::svg::{escaped, step};
use std::fmt::Write as _;

const PANEL_WIDTH: f64 = 470.0;
const PANEL_HEIGHT: f64 = 320.0;
/// Room left of, above, right of and below the plotted area of a panel, for axes and title.
const MARGINS: [f64; 4] = [52.0, 34.0, 14.0, 44.0];
const LEGEND_WIDTH: f64 = 150.0;
const LEGEND_LINE: f64 = 19.0;
/// Most curves over time that are drawn; further capacities are in the JSON.
const TIME_PANELS_MAX: usize = 5;

/// Colours of the policies, told apart in print and by most kinds of colour vision (after Paul Tol's "bright" and
/// "muted").
const COLOURS: [(&str, &str); 10] = [
    ("none", "#bbbbbb"),
    ("static", "#999933"),
    ("periodic", "#882255"),
    ("rudder", "#cc6677"),
    ("lru", "#88ccee"),
    ("lfu", "#44aa99"),
    ("tinylfu", "#117733"),
    ("s3fifo", "#ddaa33"),
    ("sieve", "#aa4499"),
    ("epoch", "#1f4fd8"),
];

/// A line of a panel.
struct Line {
    label: String,
    colour: &'static str,
    dash: &'static str,
    /// Width in pixels.
    width: f64,
    points: Vec<(f64, f64)>,
}

/// One pair of axes; hit rates upwards, from 0 to 1.
struct Panel {
    title: String,
    x_label: String,
    x_max: f64,
    lines: Vec<Line>,
}

fn colour(policy: &str) -> &'static str {
    COLOURS.iter().find(|(name, _)| *name == policy).map_or("#555555", |(_, colour)| colour)
}

fn dash(rank: usize) -> &'static str {
    ["", "7 3", "2 3", "9 3 2 3"][rank.min(3)]
}

/// The picture.
pub(super) fn draw(comparisons: &[Comparison]) -> String {
    let mut panels = Vec::new();
    if comparisons.len() > 1 {
        panels.push(over_capacity(comparisons));
    }
    panels.extend(comparisons.iter().take(TIME_PANELS_MAX).map(over_time));
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns);
    let lines = panels.first().map_or(0, |panel| panel.lines.len());
    let width = columns as f64 * PANEL_WIDTH + LEGEND_WIDTH;
    let height = (rows as f64 * PANEL_HEIGHT).max(MARGINS[1] + lines as f64 * LEGEND_LINE + 10.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, panel) in panels.iter().enumerate() {
        let origin = ((at % columns) as f64 * PANEL_WIDTH, (at / columns) as f64 * PANEL_HEIGHT);
        draw_panel(&mut svg, panel, origin);
    }
    if let Some(panel) = panels.first() {
        draw_legend(&mut svg, panel, columns as f64 * PANEL_WIDTH);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The lines of a picture: each policy with each lookahead, and the optimum.
fn lines(comparison: &Comparison, points: impl Fn(Option<usize>) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut lookaheads: Vec<usize> = comparison.results.iter().map(|result| result.lookahead).collect();
    lookaheads.sort_unstable();
    lookaheads.dedup();
    let rank = |lookahead| lookaheads.iter().position(|&other| other == lookahead).unwrap_or(0);
    let policies = comparison.results.iter().enumerate().map(|(at, result)| Line {
        label: result.label(),
        colour: colour(result.policy),
        dash: dash(rank(result.lookahead)),
        width: if result.policy == "epoch" { 2.4 } else { 1.5 },
        points: points(Some(at)),
    });
    let optimum = Line { label: "opt".into(), colour: "#000000", dash: "1 2", width: 2.0, points: points(None) };
    policies.chain(comparison.opt.is_some().then_some(optimum)).collect()
}

fn over_capacity(comparisons: &[Comparison]) -> Panel {
    let rate = |comparison: &Comparison, at: Option<usize>| match at {
        Some(at) => comparison.results.get(at).map(|result| result.hit_rate),
        None => comparison.opt.as_ref().map(|opt| opt.hit_rate),
    };
    let points = |at| {
        let of = |comparison: &Comparison| Some((comparison.capacity_rows as f64, rate(comparison, at)?));
        comparisons.iter().filter_map(of).collect()
    };
    Panel {
        title: format!("{}: hit rate over capacity", comparisons[0].trace),
        x_label: "rows of the cache".into(),
        x_max: comparisons.iter().map(|comparison| comparison.capacity_rows).max().unwrap_or(1) as f64,
        lines: lines(&comparisons[0], points),
    }
}

fn over_time(comparison: &Comparison) -> Panel {
    let span = comparison.span_minibatches as f64;
    let points = |at: Option<usize>| {
        let rates = match at {
            Some(at) => comparison.results.get(at).map(|result| &result.hit_rates),
            None => comparison.opt.as_ref().map(|opt| &opt.hit_rates),
        };
        rates.into_iter().flatten().zip(1..).map(|(&rate, at)| (f64::from(at) * span, rate)).collect()
    };
    let lines = lines(comparison, points);
    let x_max = lines.iter().flat_map(|line| &line.points).map(|point| point.0).fold(1.0, f64::max);
    Panel {
        title: format!("{}: hit rate over time, {} rows", comparison.trace, comparison.capacity_rows),
        x_label: "minibatches".into(),
        x_max,
        lines,
    }
}

fn draw_panel(svg: &mut String, panel: &Panel, (left, top): (f64, f64)) {
    let (x0, y0) = (left + MARGINS[0], top + MARGINS[1]);
    let (w, h) = (PANEL_WIDTH - MARGINS[0] - MARGINS[2], PANEL_HEIGHT - MARGINS[1] - MARGINS[3]);
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(svg, "<text x=\"{x0}\" y=\"{}\" font-weight=\"bold\">{}</text>", y0 - 12.0, escaped(&panel.title));
    for tick in 0..=5 {
        let rate = f64::from(tick) / 5.0;
        let y = y0 + h * (1.0 - rate);
        let _ =
            writeln!(svg, "<line x1=\"{x0}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#e3e3e3\"/>", x0 + w);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.1}</text>", x0 - 6.0, y + 4.0);
    }
    let by = step(panel.x_max, 6.0).max(1.0);
    let mut tick = 0.0;
    while tick <= panel.x_max * 1.001 {
        let x = x0 + w * tick / panel.x_max;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#555\"/>",
            y0 + h,
            y0 + h + 4.0
        );
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>", y0 + h + 17.0);
        tick += by;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        x0 + w / 2.0,
        y0 + h + 34.0,
        escaped(&panel.x_label)
    );
    let _ = writeln!(svg, "<rect x=\"{x0}\" y=\"{y0}\" width=\"{w}\" height=\"{h}\" fill=\"none\" stroke=\"#555\"/>");
    for line in &panel.lines {
        let at = |&(x, rate): &(f64, f64)| format!("{:.1},{:.1}", x0 + w * x / panel.x_max, y0 + h * (1.0 - rate));
        let points: Vec<String> = line.points.iter().map(at).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-dasharray=\"{}\"/>",
            points.join(" "),
            line.colour,
            line.width,
            line.dash
        );
    }
}

fn draw_legend(svg: &mut String, panel: &Panel, left: f64) {
    for (at, line) in panel.lines.iter().enumerate() {
        let y = MARGINS[1] + at as f64 * LEGEND_LINE + 6.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"{}\" stroke-dasharray=\"{}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            left + 30.0,
            line.colour,
            line.width,
            line.dash,
            left + 38.0,
            y + 4.0,
            escaped(&line.label)
        );
    }
}
