//! Runs as Prometheus remembers them. Owns the queries, and over how long a time their rates are: long enough that
//! every one of them sees several scrapes, and that the points of a plot leave nothing out between them.

use super::series::{Measure, NodeRun, Series};
use crate::CliError;
use crate::http::{self, Question};
use serde_json::Value;
use std::path::Path;

/// Shortest time of a rate, in seconds: below, plots show the noise of single minibatches.
const RATE_SECONDS_MIN: f64 = 60.0;
/// Scrapes that a rate should see: it needs two, and some are late or lost.
const RATE_SCRAPES: f64 = 4.0;
/// Seconds before the end in which the scrape interval of Prometheus is looked for.
const SEARCHED_SECONDS: f64 = 3600.0;

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prometheus<'a> {
    pub(super) url: &'a str,
    /// File with a bearer token.
    pub(super) token: Option<&'a Path>,
    /// Labels that samples must have, as in `job="rudderd"`; may be empty.
    pub(super) selector: &'a str,
}

/// For what time, in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) step: f64,
}

/// Asks for every measure. Says, too, over how many seconds rates are.
///
/// # Errors
/// It cannot be reached, refuses, or has no samples of any daemon in that time.
pub(super) fn ask(prometheus: &Prometheus<'_>, range: &Range) -> Result<(Vec<NodeRun>, f64), CliError> {
    let Range { start, end, step } = range;
    let window = rate_seconds(*step, prometheus.scrape_seconds(range)?);
    let mut nodes: Vec<NodeRun> = Vec::new();
    for measure in Measure::ALL {
        let query = encoded(&measure.query(prometheus.selector, window));
        let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}");
        for (instance, series) in prometheus.series(&path)? {
            let at = nodes.iter().position(|node| node.name == instance).unwrap_or_else(|| {
                nodes.push(NodeRun { name: instance.clone(), ..NodeRun::default() });
                nodes.len() - 1
            });
            nodes[at].series.push((measure, series.with_gaps(2.5 * step)));
        }
    }
    if nodes.is_empty() {
        let url = prometheus.url;
        let text = format!("{url} has no sample of a rudderd in that time: see --start, --end and --selector");
        return Err(CliError::message(text));
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((nodes, window))
}

impl Prometheus<'_> {
    fn series(&self, path: &str) -> Result<Vec<(String, Series)>, CliError> {
        let Self { url, token, .. } = *self;
        let hint = "is Prometheus running there?";
        let text = http::get(Question { server: url, token, path, hint, token_option: "--prometheus-token-file" })?;
        let answer: Value = serde_json::from_str(&text)
            .map_err(|error| CliError::context(format!("{url} answers no JSON: is it Prometheus?"), error))?;
        matrix(&answer).map_err(|problem| CliError::message(format!("{url}: {problem}")))
    }

    /// The time between two scrapes of a daemon, by the raw samples of its one gauge; nothing if there are too few.
    fn scrape_seconds(&self, range: &Range) -> Result<Option<f64>, CliError> {
        let searched = (range.end - range.start).clamp(RATE_SECONDS_MIN, SEARCHED_SECONDS).ceil();
        let query = encoded(&format!("rudder_ready{{{}}}[{searched}s]", self.selector));
        let path = format!("/api/v1/query?query={query}&time={}", range.end);
        Ok(interval(&self.series(&path)?))
    }
}

/// The middle one of the gaps between samples; of daemons that are scraped differently, the longest.
fn interval(series: &[(String, Series)]) -> Option<f64> {
    let of = |series: &Series| {
        let mut gaps: Vec<f64> = series.points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        gaps.sort_by(f64::total_cmp);
        gaps.get(gaps.len() / 2).copied()
    };
    series.iter().filter_map(|(_, series)| of(series)).max_by(f64::total_cmp)
}

/// Over how many seconds rates are, for points so far apart.
fn rate_seconds(step: f64, scrape: Option<f64>) -> f64 {
    RATE_SECONDS_MIN.max(step).max(RATE_SCRAPES * scrape.unwrap_or_default()).ceil()
}

impl Measure {
    /// What Prometheus is asked for, by instance, with rates over this many seconds.
    fn query(self, selector: &str, window: f64) -> String {
        let rate = |metric: &str, labels: &str| {
            let joined =
                [labels, selector].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(",");
            format!("sum by (instance) (rate({metric}{{{joined}}}[{window}s]))")
        };
        let gauge = |metric: &str| format!("sum by (instance) ({metric}{{{selector}}})");
        let remote = rate("rudder_fetch_rows_total", "source=~\"cache|staged|peer\"");
        match self {
            Measure::HitRate => format!("{} / {remote}", rate("rudder_fetch_rows_total", "source=\"cache\"")),
            Measure::NetworkRows => rate("rudder_network_rows_total", ""),
            Measure::StallShare => format!("{} / {remote}", rate("rudder_fetch_rows_total", "source=\"peer\"")),
            Measure::CachedRows => gauge("rudder_cache_rows"),
            Measure::CapacityRows => gauge("rudder_cache_capacity_rows"),
            Measure::CeilingRows => gauge("rudder_cache_ceiling_rows"),
            Measure::MemoryShare => {
                format!("{} / ({} > 0)", gauge("rudder_memory_used_bytes"), gauge("rudder_memory_limit_bytes"))
            }
        }
    }
}

/// The series of an answer, by instance.
fn matrix(answer: &Value) -> Result<Vec<(String, Series)>, String> {
    if answer["status"] != "success" {
        return Err(answer["error"].as_str().unwrap_or("an answer without status `success`").to_owned());
    }
    let result = answer.pointer("/data/result").and_then(Value::as_array).ok_or("an answer without data.result")?;
    let point = |sample: &Value| {
        let value = sample.get(1)?.as_str()?.parse::<f64>().ok()?;
        Some((sample.get(0)?.as_f64()?, Some(value).filter(|value| value.is_finite())))
    };
    let series = |one: &Value| {
        let instance = one.pointer("/metric/instance").and_then(Value::as_str).unwrap_or("rudderd").to_owned();
        let points = one["values"].as_array().into_iter().flatten().filter_map(point).collect();
        (instance, Series { points })
    };
    Ok(result.iter().map(series).collect())
}

impl Series {
    /// With a gap wherever two points are further apart than `most` seconds: Prometheus leaves out what it does not
    /// know.
    fn with_gaps(self, most: f64) -> Self {
        let mut points: Vec<(f64, Option<f64>)> = Vec::with_capacity(self.points.len());
        for point in self.points {
            if let Some((before, Some(_))) = points.last().copied()
                && point.0 - before > most
            {
                points.push((before, None));
            }
            points.push(point);
        }
        Self { points }
    }
}

/// `text` as part of a URL's query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_of_prometheus_are_read_by_instance() {
        let answer = json!({"status": "success", "data": {"resultType": "matrix", "result": [
            {"metric": {"instance": "a:7401"}, "values": [[1.0, "0.5"], [2.0, "NaN"], [9.0, "0.7"], [10.0, "0.8"]]},
            {"metric": {}, "values": []},
        ]}});
        let found = matrix(&answer).unwrap();
        assert_eq!(found[0].0, "a:7401");
        assert_eq!(found[0].1.points, [(1.0, Some(0.5)), (2.0, None), (9.0, Some(0.7)), (10.0, Some(0.8))]);
        assert_eq!(found[1].0, "rudderd");
        let gaps = Series { points: vec![(1.0, Some(1.0)), (9.0, Some(2.0))] }.with_gaps(2.5);
        assert_eq!(gaps.points, [(1.0, Some(1.0)), (1.0, None), (9.0, Some(2.0))]);
        let refused = json!({"status": "error", "error": "parse error at char 3"});
        assert_eq!(matrix(&refused).unwrap_err(), "parse error at char 3");
        assert!(matrix(&json!({"status": "success"})).is_err());
    }

    #[test]
    fn queries_carry_the_selector() {
        let query = Measure::HitRate.query("job=\"gnn\"", 240.0);
        assert!(query.contains("rudder_fetch_rows_total{source=\"cache\",job=\"gnn\"}[240s]"), "{query}");
        assert_eq!(Measure::CachedRows.query("", 60.0), "sum by (instance) (rudder_cache_rows{})");
        assert_eq!(encoded("a=\"b|c\" "), "a%3D%22b%7Cc%22%20");
    }

    #[test]
    fn rates_see_several_scrapes_and_leave_nothing_out_between_points() {
        assert_eq!(rate_seconds(2.0, Some(5.0)), 60.0);
        assert_eq!(rate_seconds(172.8, Some(15.0)), 173.0, "a day: from point to point");
        assert_eq!(rate_seconds(14.0, Some(60.0)), 240.0, "one scrape a minute");
        assert_eq!(rate_seconds(1.0, None), 60.0);
        let every = |seconds: f64, late: f64| Series {
            points: vec![(0.0, None), (seconds, None), (2.0 * seconds, None), (late, None)],
        };
        let series = [
            ("a".to_owned(), every(15.0, 300.0)),
            ("b".to_owned(), every(60.0, 180.0)),
            ("c".to_owned(), Series::default()),
        ];
        assert_eq!(interval(&series), Some(60.0));
        assert_eq!(interval(&[]), None);
    }
}
