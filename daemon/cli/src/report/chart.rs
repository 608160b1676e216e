//! Draws lines over time as SVG that takes its colours from the page, so that one picture serves light and dark. Owns
//! the geometry and the escaping of what goes into a page; it must never compute a number that is reported.

use super::series::Series;
use crate::svg::{escaped, step};
use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 30.0;
/// Room that the letter of a mark takes.
const MARK_WIDTH: f64 = 18.0;
/// Points of a line beyond which neighbours are averaged: a screen has no more.
const POINTS_MAX: usize = 600;
/// Colours that the page knows; further lines begin again.
pub(super) const COLOURS: usize = 8;

/// How numbers of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unit {
    /// A share of 1, drawn from 0 to 1 at least as far as it goes.
    Share,
    /// A number of things.
    Count,
}

/// A line of a chart.
#[derive(Debug, Clone)]
pub(super) struct Line<'a> {
    pub(super) name: String,
    /// Which of the page's colours.
    pub(super) colour: usize,
    /// `solid`, `dashed` or `filled`: classes of the page.
    pub(super) look: &'static str,
    pub(super) series: &'a Series,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) at: f64,
    /// One letter.
    pub(super) letter: char,
    /// The text of its tooltip.
    pub(super) title: String,
    /// The anchor of its full description in the page.
    pub(super) anchor: String,
    pub(super) bad: bool,
}

/// A chart.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: String,
    pub(super) unit: Unit,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) lines: Vec<Line<'a>>,
    pub(super) marks: Vec<Mark>,
}

impl Chart<'_> {
    /// The picture with its legend, as a `figure`.
    pub(super) fn draw(&self) -> String {
        let title = escaped(&self.title);
        let mut out = format!(
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n"
        );
        let most = self.y_max();
        self.axes(&mut out, most);
        for line in &self.lines {
            self.line(&mut out, line, most);
        }
        let mut free = LEFT - MARK_WIDTH;
        for mark in &self.marks {
            // Where marks crowd, the first has the letter and the others their line.
            let lettered = self.x(mark.at) >= free;
            if lettered {
                free = self.x(mark.at) + MARK_WIDTH;
            }
            self.mark(&mut out, mark, lettered);
        }
        out.push_str("</svg>\n");
        self.legend(&mut out);
        if !self.marks.is_empty() {
            out.push_str("<p class=\"legend\">G grow, E evict, R refresh, W warm; red where the hit rate fell. Each leads to its line below.</p>\n");
        }
        out.push_str("</figure>\n");
        out
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * ((at - self.start) / (self.end - self.start).max(1e-9)).clamp(0.0, 1.0)
    }

    fn y(value: f64, most: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / most).clamp(0.0, 1.0)
    }

    /// The end of the upright axis: a round number not below any value.
    fn y_max(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| &line.series.points).filter_map(|(_, value)| *value);
        let most = values.fold(0.0, f64::max);
        match self.unit {
            Unit::Share if most > 0.5 => 1.0,
            Unit::Share if most <= 0.0 => 0.1,
            _ => {
                let step = step(most.max(1e-3), 4.0);
                (most / step).ceil().max(1.0) * step
            }
        }
    }

    fn axes(&self, out: &mut String, most: f64) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let by = step(most, 4.0);
        for at in 0..=(most / by).round() as u32 {
            let value = f64::from(at) * by;
            let y = Self::y(value, most);
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>");
            let text = self.number(value);
            let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" class=\"y\">{text}</text>", LEFT - 6.0, y + 4.0);
        }
        let span = self.end - self.start;
        let by = time_step(span);
        let mut at = 0.0;
        while at <= span * 1.0001 {
            let x = self.x(self.start + at);
            let _ = writeln!(
                out,
                "<line class=\"tick\" x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{}\"/>",
                bottom + 4.0
            );
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" class=\"x\">{}</text>", bottom + 17.0, clock(at, by));
            at += by;
        }
        let _ = writeln!(out, "<line class=\"tick\" x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>");
    }

    fn number(&self, value: f64) -> String {
        match (self.unit, value) {
            (Unit::Share, value) => format!("{:.0} %", (100.0 * value).round()),
            (Unit::Count, value) if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
            (Unit::Count, value) if value >= 1e4 => format!("{}k", trimmed(value / 1e3)),
            (Unit::Count, value) => trimmed(value),
        }
    }

    fn line(&self, out: &mut String, line: &Line<'_>, most: f64) {
        let colour = line.colour % COLOURS;
        let points = thinned(&line.series.points);
        for piece in points.split(|(_, value)| value.is_none()).filter(|piece| !piece.is_empty()) {
            let at = |&(at, value): &(f64, Option<f64>)| {
                format!("{:.1},{:.1}", self.x(at), Self::y(value.unwrap_or_default(), most))
            };
            let path = piece.iter().map(at).collect::<Vec<_>>().join(" ");
            let name = escaped(&line.name);
            if line.look == "filled" {
                let (first, last) = (self.x(piece[0].0), self.x(piece[piece.len() - 1].0));
                let bottom = HEIGHT - BOTTOM;
                let _ = writeln!(
                    out,
                    "<polygon class=\"area f{colour}\" points=\"{first:.1},{bottom} {path} {last:.1},{bottom}\"/>"
                );
            }
            let _ = writeln!(
                out,
                "<polyline class=\"line {} c{colour}\" points=\"{path}\"><title>{name}</title></polyline>",
                line.look
            );
        }
    }

    fn mark(&self, out: &mut String, mark: &Mark, lettered: bool) {
        let (x, bottom) = (self.x(mark.at), HEIGHT - BOTTOM);
        let bad = if mark.bad { " bad" } else { "" };
        let (title, anchor) = (escaped(&mark.title), escaped(&mark.anchor));
        let _ = write!(
            out,
            "<a href=\"#{anchor}\" class=\"mark{bad}\"><title>{title}</title><line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" \
             y2=\"{bottom}\"/>"
        );
        if lettered {
            let letter = escaped(&mark.letter.to_string());
            let _ = write!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{}\" r=\"8\"/><text x=\"{x:.1}\" y=\"{}\">{letter}</text>",
                TOP - 9.0,
                TOP - 5.5
            );
        }
        out.push_str("</a>\n");
    }

    fn legend(&self, out: &mut String) {
        if self.lines.len() < 2 {
            return;
        }
        out.push_str("<ul class=\"legend\">");
        for line in &self.lines {
            let (colour, name) = (line.colour % COLOURS, escaped(&line.name));
            let _ = write!(
                out,
                "<li><svg viewBox=\"0 0 26 10\" width=\"26\" height=\"10\"><line class=\"line {} c{colour}\" x1=\"1\" y1=\"5\" \
                 x2=\"25\" y2=\"5\"/></svg>{name}</li>",
                line.look
            );
        }
        out.push_str("</ul>\n");
    }
}

/// At most [`POINTS_MAX`] points, each the mean of its neighbours; gaps stay.
fn thinned(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let mean = |group: &[(f64, Option<f64>)]| {
        let known: Vec<f64> = group.iter().filter_map(|(_, value)| *value).collect();
        let whole = known.len() == group.len();
        let at = group.iter().map(|(at, _)| at).sum::<f64>() / group.len() as f64;
        (at, whole.then(|| known.iter().sum::<f64>() / known.len() as f64))
    };
    points.chunks(points.len().div_ceil(POINTS_MAX)).map(mean).collect()
}

/// Seconds between ticks of the clock.
fn time_step(span: f64) -> f64 {
    let steps =
        [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0];
    let long = [10_800.0, 21_600.0, 43_200.0, 86_400.0];
    steps.into_iter().chain(long).find(|step| span / step <= 8.0).unwrap_or_else(|| step(span, 7.0)).max(1e-3)
}

/// Time since the start, as fine as the ticks are.
fn clock(seconds: f64, step: f64) -> String {
    let whole = seconds.round() as u64;
    match step {
        step if step < 1.0 => format!("{seconds:.1} s"),
        step if step < 60.0 && whole < 60 => format!("{whole} s"),
        step if step < 3600.0 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{} h", trimmed(seconds / 3600.0)),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_time_are_round_and_few() {
        for (span, by) in [(6.0, 1.0), (90.0, 15.0), (5400.0, 900.0), (90_000.0, 21_600.0), (0.0, 0.1)] {
            assert_eq!(time_step(span), by, "{span}");
        }
        assert_eq!(
            [clock(5.0, 1.0), clock(90.0, 15.0), clock(5400.0, 1800.0), clock(5400.0, 7200.0)],
            ["5 s", "1:30", "90:00", "1.5 h"]
        );
    }

    #[test]
    fn a_line_breaks_at_a_gap_and_is_thinned() {
        let series = Series { points: vec![(0.0, Some(0.5)), (1.0, Some(0.7)), (1.0, None), (2.0, Some(0.9))] };
        let line = Line { name: "a".into(), colour: 9, look: "solid", series: &series };
        let chart =
            Chart { title: "t".into(), unit: Unit::Share, start: 0.0, end: 2.0, lines: vec![line], marks: Vec::new() };
        let svg = chart.draw();
        assert_eq!(svg.matches("<polyline").count(), 2, "{svg}");
        assert!(svg.contains("c1\""), "colours begin again: {svg}");
        let many: Vec<_> = (0..5000).map(|at| (f64::from(at), Some(1.0))).collect();
        let thin = thinned(&many);
        assert!(thin.len() <= 600 && thin.iter().all(|(_, value)| *value == Some(1.0)), "{}", thin.len());
    }

    #[test]
    fn marks_that_crowd_share_a_letter() {
        let mark = |at: f64| Mark { at, letter: 'G', title: "t".into(), anchor: "a".into(), bad: at > 5.0 };
        let marks = [0.0, 0.01, 0.02, 9.0].map(mark).to_vec();
        let svg =
            Chart { title: "t".into(), unit: Unit::Count, start: 0.0, end: 10.0, lines: Vec::new(), marks }.draw();
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=\"mark").count()), (2, 4), "{svg}");
        assert_eq!(svg.matches("mark bad").count(), 1);
    }

    #[test]
    fn nothing_breaks_out_of_the_page() {
        let evil = "\"><script>alert('&')</script>";
        let series = Series { points: vec![(0.0, Some(1.0))] };
        let line = |name: &str| Line { name: name.into(), colour: 0, look: "filled", series: &series };
        let mark = Mark { at: 0.0, letter: '<', title: evil.into(), anchor: evil.into(), bad: true };
        let lines = vec![line(evil), line("b")];
        let svg =
            Chart { title: evil.into(), unit: Unit::Count, start: 0.0, end: 0.0, lines, marks: vec![mark] }.draw();
        assert!(!svg.contains("<script") && !svg.contains("\"\">") && !svg.contains("NaN"), "{svg}");
    }
}
