//! Reads what a daemon's `/metrics` answers: Prometheus' text format 0.0.4 as samples that can be summed by label, and
//! quantiles of histograms. It must never guess: a line that it cannot read is an error, and a metric that is absent is
//! absent.

/// One scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scrape {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Label values that a sample must have.
pub(super) type With<'a> = &'a [(&'a str, &'a str)];

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn fits(&self, name: &str, with: With<'_>) -> bool {
        self.name == name && with.iter().all(|(label, value)| self.label(label) == Some(value))
    }
}

impl Scrape {
    /// Reads a scrape.
    ///
    /// # Errors
    /// The first line that is not a sample.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line| sample(line).ok_or_else(|| format!("not a sample of a metric: `{line}`"));
        Ok(Self { samples: lines.map(sample).collect::<Result<_, _>>()? })
    }

    /// The sum of the samples of this name with these labels; `None` if there is no such sample.
    pub(super) fn sum(&self, name: &str, with: With<'_>) -> Option<f64> {
        self.samples.iter().filter(|sample| sample.fits(name, with)).map(|sample| sample.value).reduce(|a, b| a + b)
    }

    /// The values that a label has among the samples of this name, in their order, each once.
    pub(super) fn values(&self, name: &str, label: &str) -> Vec<&str> {
        let mut values: Vec<&str> = Vec::new();
        for value in self.samples.iter().filter(|sample| sample.name == name).filter_map(|sample| sample.label(label)) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// What the histogram of this name counted: upper bounds, and the samples at or below each.
    pub(super) fn histogram(&self, name: &str, with: With<'_>) -> Vec<(f64, f64)> {
        let bucket = format!("{name}_bucket");
        let of = |sample: &Sample| Some((number(sample.label("le")?)?, sample.value));
        let mut buckets: Vec<(f64, f64)> =
            self.samples.iter().filter(|sample| sample.fits(&bucket, with)).filter_map(of).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Of several label sets (the requests to all peers) the counts of a bound add up.
        buckets.dedup_by(|next, kept| {
            let same = next.0.total_cmp(&kept.0).is_eq();
            if same {
                kept.1 += next.1;
            }
            same
        });
        buckets
    }
}

/// What a histogram counted between two scrapes.
pub(super) fn between(before: &[(f64, f64)], after: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let was = |bound: f64| before.iter().find(|(known, _)| known.total_cmp(&bound).is_eq()).map_or(0.0, |(_, n)| *n);
    after.iter().map(|&(bound, count)| (bound, (count - was(bound)).max(0.0))).collect()
}

/// The value below which a share `q` of the samples lies, taken as evenly spread within their bucket, as Prometheus
/// does. Of the last, open bucket only its lower bound is known. Nothing if there are no samples.
pub(super) fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = q * total;
    let at = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (below, counted) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (bound, count) = buckets[at];
    if bound.is_infinite() {
        return Some(below);
    }
    let inside = count - counted;
    Some(if inside > 0.0 { below + (bound - below) * (rank - counted) / inside } else { bound })
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}

/// `name{label="value",...} value`, an ending timestamp left out.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.trim().to_owned(), value));
            rest = after;
        }
    }
    let value = number(rest.split_whitespace().next()?)?;
    (!name.is_empty()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote with its escapes undone, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_text_encoder_writes_is_read_back() {
        use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry, TextEncoder};
        let registry = Registry::new();
        let rows = IntCounterVec::new(Opts::new("rows_total", "help"), &["table", "source"]).unwrap();
        rows.with_label_values(&["a \"b\\\n}", "cache"]).inc_by(7);
        rows.with_label_values(&["x", "cache"]).inc_by(5);
        rows.with_label_values(&["x", "peer"]).inc_by(3);
        let seconds = Histogram::with_opts(HistogramOpts::new("seconds", "help").buckets(vec![0.1, 1.0])).unwrap();
        [0.05, 0.5, 0.5, 7.0].into_iter().for_each(|value| seconds.observe(value));
        registry.register(Box::new(rows)).unwrap();
        registry.register(Box::new(seconds)).unwrap();
        let scrape = Scrape::parse(&TextEncoder::new().encode_to_string(&registry.gather()).unwrap()).unwrap();
        assert_eq!(scrape.sum("rows_total", &[]), Some(15.0));
        assert_eq!(scrape.sum("rows_total", &[("source", "cache")]), Some(12.0));
        assert_eq!(scrape.sum("rows_total", &[("source", "cache"), ("table", "a \"b\\\n}")]), Some(7.0));
        assert_eq!(scrape.sum("rows_total", &[("source", "disk")]), None);
        assert_eq!(scrape.values("rows_total", "table"), ["a \"b\\\n}", "x"]);
        let buckets = scrape.histogram("seconds", &[]);
        assert_eq!(buckets, [(0.1, 1.0), (1.0, 3.0), (f64::INFINITY, 4.0)]);
        assert!(Scrape::parse("rows_total{a=\"b} 1").unwrap_err().contains("rows_total"));
        assert!(Scrape::parse("rows_total many").is_err());
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let buckets = [(0.1, 10.0), (1.0, 20.0), (f64::INFINITY, 20.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(0.1));
        assert!((quantile(&buckets, 0.75).unwrap() - 0.55).abs() < 1e-9);
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 4.0)], 0.99), Some(0.1), "beyond the last bound");
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(between(&[(0.1, 4.0)], &[(0.1, 9.0), (1.0, 9.0)]), [(0.1, 5.0), (1.0, 9.0)]);
    }

    #[test]
    fn histograms_of_several_peers_add_up() {
        let text =
            "s_bucket{peer=\"0\",le=\"1\"} 1\ns_bucket{peer=\"1\",le=\"1\"} 2\ns_bucket{peer=\"1\",le=\"+Inf\"} 5\n";
        let scrape = Scrape::parse(text).unwrap();
        assert_eq!(scrape.histogram("s", &[])[0], (1.0, 3.0));
        assert_eq!(scrape.histogram("s", &[("peer", "0")]), [(1.0, 1.0)]);
    }
}
