//! How the whole cluster is doing, from a Prometheus server that scrapes all daemons: so that a node can tell whether
//! it alone has a bad time. It owns the query, its time limit and the reading of the answer. Without a server, or when
//! it does not answer, there is no such view and nothing else changes.

use rudder_http::{HttpError, Limits, ask, with_query};
use rudder_settings::{Verdict, check_plain_http, quoted, within, wrong};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// The daemons of the cluster, as their Prometheus server saw them last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// Daemons that serve.
    pub nodes_ready: u64,
    /// Daemons that the server knows.
    pub nodes: u64,
    /// Share of remote rows that were cached, over all nodes and the last minutes; `None` if none were asked for.
    pub hit_rate: Option<f64>,
    /// The lowest hit rate of a node.
    pub hit_rate_min: Option<f64>,
    /// Share of remote rows that a trainer waited for, over all nodes.
    pub stall_share: Option<f64>,
    /// Connections to peers that are down, over all nodes.
    pub peers_down: u64,
}

impl Cluster {
    /// In words, for people and models.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut text = format!("In the cluster, {} of {} daemons serve", self.nodes_ready, self.nodes);
        // Writing to a String cannot fail.
        if let (Some(mean), Some(least)) = (self.hit_rate, self.hit_rate_min) {
            let _ = write!(text, "; their hit rate is {:.0}%, the lowest {:.0}%", 100.0 * mean, 100.0 * least);
        }
        if let Some(share) = self.stall_share {
            let _ = write!(text, "; trainers wait for {:.0}% of remote rows", 100.0 * share);
        }
        if self.peers_down > 0 {
            let _ = write!(text, "; {} connections between them are down", self.peers_down);
        }
        text.push('.');
        text
    }
}

/// Time over which the rates of the cluster are taken: several scrapes at the usual intervals.
const RANGE_SECONDS: u64 = 120;

/// Where the server is and which series are the cluster's; its keys belong to section `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterSettings {
    /// Base URL, such as `http://prometheus:9090`; empty = the cluster is not looked at.
    #[serde(rename = "prometheus_url")]
    pub url: String,
    /// Label matchers of the cluster's series, such as `job="rudder"`.
    #[serde(rename = "prometheus_selector")]
    pub selector: String,
    /// Longest wait for an answer, once per window, in milliseconds.
    #[serde(rename = "prometheus_timeout_ms")]
    pub timeout_ms: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { url: String::new(), selector: "job=\"rudder\"".to_owned(), timeout_ms: 1_000 }
    }
}

impl ClusterSettings {
    /// Checks the form of the keys; asks nobody.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        check_plain_http("agent.prometheus_url", &self.url)?;
        within("agent.prometheus_timeout_ms", self.timeout_ms, 1..=60_000)?;
        if self.selector.contains(['{', '}']) || self.selector.is_empty() {
            let remedy = "write matchers without braces, such as job=\"rudder\"";
            return wrong("agent.prometheus_selector", quoted(&self.selector), "not a list of label matchers", remedy);
        }
        Ok(())
    }
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The server did not answer as it should.
    #[error("no answer from {url} (agent.prometheus_url): {problem}")]
    Unanswered {
        /// Its address.
        url: String,
        /// What happened.
        problem: String,
    },
    /// It refused the query, or its answer cannot be read.
    #[error("{url} (agent.prometheus_url) cannot answer the query: {problem}")]
    Unusable {
        /// Its address.
        url: String,
        /// What it said.
        problem: String,
    },
}

/// Asks the server.
#[derive(Debug)]
pub struct ClusterView {
    settings: ClusterSettings,
    limits: Limits,
    /// The address with the query.
    question: String,
    /// So that a server that is away is complained of once.
    failing: bool,
}

/// One query for all numbers; each comes back under its name in the label `rudder`.
fn query(selector: &str) -> String {
    let rate = |sources: &str, by: &str| {
        format!("sum{by}(rate(rudder_fetch_rows_total{{{selector},source=~\"{sources}\"}}[{RANGE_SECONDS}s]))")
    };
    let remote = "cache|staged|peer";
    let numbers = [
        ("nodes_ready", format!("sum(rudder_ready{{{selector}}})")),
        ("nodes", format!("count(rudder_ready{{{selector}}})")),
        ("hit_rate", format!("{}/({}>0)", rate("cache", ""), rate(remote, ""))),
        ("hit_rate_min", format!("min({}/({}>0))", rate("cache", " by (instance)"), rate(remote, " by (instance)"))),
        ("stall_share", format!("{}/({}>0)", rate("peer", ""), rate(remote, ""))),
        ("peers_down", format!("count(rudder_peer_up{{{selector}}}==0)")),
    ];
    let named =
        |(name, expression): &(&str, String)| format!("label_replace({expression},\"rudder\",\"{name}\",\"\",\"\")");
    numbers.iter().map(named).collect::<Vec<_>>().join(" or ")
}

/// Reads the server's answer to [`query`].
fn read(answer: &Value) -> Result<Cluster, String> {
    if answer["status"] != "success" {
        return Err(answer["error"]
            .as_str()
            .unwrap_or("no `status`: is this a Prometheus server?")
            .chars()
            .take(200)
            .collect());
    }
    let results = answer["data"]["result"].as_array().ok_or("no vector in the answer")?;
    let number = |name: &str| {
        let found = results.iter().find(|result| result["metric"]["rudder"] == name)?;
        found["value"][1].as_str()?.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
    };
    let count = |name: &str| number(name).unwrap_or(0.0) as u64;
    Ok(Cluster {
        nodes_ready: count("nodes_ready"),
        nodes: count("nodes"),
        hit_rate: number("hit_rate"),
        hit_rate_min: number("hit_rate_min"),
        stall_share: number("stall_share"),
        peers_down: count("peers_down"),
    })
}

impl ClusterView {
    /// A view by these settings; asks nothing yet.
    #[must_use]
    pub fn new(settings: ClusterSettings) -> Self {
        let limits = Limits { timeout: Duration::from_millis(settings.timeout_ms), answer_bytes_max: ANSWER_BYTES_MAX };
        let path = format!("{}/api/v1/query", settings.url.trim_end_matches('/'));
        let query = query(&settings.selector);
        Self { settings, limits, question: with_query(&path, &[("query", &query)]), failing: false }
    }

    /// The cluster now, or nothing; waits no longer than the settings say.
    pub fn look(&mut self) -> Option<Cluster> {
        let asked = self.ask();
        match &asked {
            Err(error) if !self.failing => tracing::warn!(%error, "no view of the cluster"),
            Ok(_) if self.failing => tracing::info!(url = self.settings.url, "the view of the cluster is back"),
            _ => {}
        }
        self.failing = asked.is_err();
        asked.ok()
    }

    fn ask(&self) -> Result<Cluster, ClusterError> {
        let url = || self.settings.url.clone();
        let unanswered = |error: HttpError| ClusterError::Unanswered { url: url(), problem: error.to_string() };
        let answered = ask(&self.question, None, None, self.limits).map_err(unanswered)?;
        let unusable = |problem: String| ClusterError::Unusable { url: url(), problem };
        let answer: Value = serde_json::from_str(&answered.text)
            .map_err(|error| unusable(format!("status {}, no JSON ({error})", answered.status)))?;
        read(&answer).map_err(unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A server that gives `answer` to each request.
    fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 8192];
                let _ = stream.read(&mut head);
                let length = answer.len();
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}");
            }
        });
        url
    }

    fn view(url: String, timeout: Duration) -> ClusterView {
        let timeout_ms = timeout.as_millis() as u64;
        ClusterView::new(ClusterSettings { url, timeout_ms, ..ClusterSettings::default() })
    }

    #[test]
    fn an_answer_is_read_and_said() {
        let sample = |name: &str, value: &str| json!({"metric": {"rudder": name}, "value": [1.0, value]});
        let result = [
            sample("nodes", "4"),
            sample("nodes_ready", "3"),
            sample("hit_rate", "0.714"),
            sample("hit_rate_min", "0.2"),
        ];
        let answer = json!({"status": "success", "data": {"resultType": "vector", "result": result}});
        let cluster = read(&answer).unwrap();
        assert_eq!((cluster.nodes, cluster.nodes_ready, cluster.stall_share), (4, 3, None));
        assert_eq!(cluster.in_words(), "In the cluster, 3 of 4 daemons serve; their hit rate is 71%, the lowest 20%.");
        let nan = json!({"status": "success", "data": {"result": [sample("hit_rate", "NaN"), sample("nodes", "-1")]}});
        assert_eq!(read(&nan).unwrap(), Cluster::default());
        assert!(read(&json!({"status": "error", "error": "parse error"})).unwrap_err().contains("parse error"));
        assert!(read(&json!([])).unwrap_err().contains("Prometheus"));
    }

    #[test]
    fn a_server_that_answers_is_asked_and_one_that_does_not_is_given_up() {
        let answer = r#"{"status":"success","data":{"result":[{"metric":{"rudder":"nodes"},"value":[1,"2"]}]}}"#;
        let patient = Duration::from_secs(60);
        assert_eq!(view(serve(answer), patient).look().unwrap().nodes, 2);
        assert!(view(serve("<html>"), patient).ask().unwrap_err().to_string().contains("no JSON"));
        let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = std::time::Instant::now();
        let url = format!("http://{}", hanging.local_addr().unwrap());
        let error = view(url, Duration::from_millis(300)).ask().unwrap_err();
        assert!(error.to_string().contains("agent.prometheus_url"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
