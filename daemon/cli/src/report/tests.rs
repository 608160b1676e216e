//! A report of journals that are made up, with text in them that a page must not believe.

use super::journals::of_journals;
use super::page::Report;
use super::series::Measure;
use super::{Moment, ReportArgs, moment, run};
use rudder_agent::controller::{Effect, Impact};
use rudder_agent::journal::{Decision, FORMAT};
use rudder_agent::snapshot::Snapshot;
use rudder_agent::tools::{Grow, Hold, ToolCall};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

fn decision(number: u64, reason: &str) -> Decision {
    let call = match number {
        2 => ToolCall::Grow(Grow { factor: Some(2.0), ..Grow::default() }),
        _ => ToolCall::Hold(Hold {}),
    };
    let rate = number as f64 / 10.0;
    Decision {
        format: FORMAT,
        number,
        time_ms: 1_000_000 + number * 1000,
        node: None,
        table: None,
        controller: "llm".into(),
        decided_by: "llm".into(),
        snapshot: Snapshot {
            window: number,
            seconds: 1.0,
            hit_rate: Some(rate),
            remote_rows: 100,
            network_rows: 40,
            stall_share: 1.0 - rate,
            capacity_rows: 50,
            cached_rows: 40,
            ceiling_rows: 200,
            memory_share: 0.5,
            ..Snapshot::default()
        },
        proposed: call.clone(),
        reason: reason.into(),
        expected: Impact::Up,
        outcome: "done".into(),
        note: None,
        fallback: None,
        call,
        answer: None,
        latency_ms: 1.0,
        effect: Some(Effect { hit_rate: (rate, rate + 0.1), network_share: (0.4, 0.3), as_expected: number == 2 }),
    }
}

fn write(path: &Path, numbers: &[u64], reason: &str) {
    let lines: Vec<String> =
        numbers.iter().map(|n| serde_json::to_string(&decision(*n, reason)).unwrap() + "\n").collect();
    std::fs::write(path, lines.concat()).unwrap();
}

fn args(journals: Vec<PathBuf>, out: PathBuf) -> ReportArgs {
    ReportArgs {
        journals,
        prometheus: None,
        prometheus_token_file: None,
        start: None,
        end: None,
        selector: String::new(),
        title: "a & b".into(),
        out,
        json: false,
    }
}

#[test]
fn journals_become_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new, other) =
        (dir.path().join("node0.jsonl.1"), dir.path().join("node0.jsonl"), dir.path().join("node1.jsonl"));
    write(&old, &[1, 2], "<script>alert(1)</script> & \"more\"");
    write(&new, &[3, 4, 5, 1], "steady");
    write(&other, &[1, 2, 3], "steady");
    let nodes = of_journals(&[new.clone(), other.clone(), old.clone()], None).unwrap();
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["node0", "node1"]);
    let (measure, rates) = &nodes[0].series[0];
    assert_eq!(*measure, Measure::HitRate);
    let values: Vec<Option<f64>> = rates.points.iter().map(|(_, value)| *value).collect();
    assert_eq!(values, [Some(0.1), Some(0.2), Some(0.3), Some(0.4), Some(0.5), None, Some(0.1)], "a restart is a gap");
    let report = Report { title: "t".into(), source: "s".into(), nodes };
    let summary = report.summary();
    assert_eq!((summary.nodes, summary.decisions, summary.actions, summary.as_expected), (2, 9, 2, 2));
    assert_eq!((summary.remote_rows, summary.network_rows), (900.0, 360.0));

    let out = dir.path().join("report.html");
    run(&args(vec![old, new, other], out.clone())).unwrap();
    let page = std::fs::read_to_string(&out).unwrap();
    for words in [
        "<h1>a &amp; b</h1>",
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;",
        "<figcaption>hit rate: remote rows that were cached",
        "node0: rows of the cache",
        "What the agents did (2)",
        "Decisions to hold (7)",
        "href=\"#node0-2-1002\"",
        "id=\"node0-2-1002\"",
        "<b>grow factor=2.000</b>",
        "up, came true",
        "20.0 to 30.0 %",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(words), "should say {words}");
    }
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"), "self-contained");
    assert_eq!(page.matches("<figure>").count(), 6, "three of all nodes, one cache each, memory");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn nothing_to_report_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, out) = (dir.path().join("j"), dir.path().join("r.html"));
    std::fs::write(&empty, "").unwrap();
    assert!(run(&args(vec![empty], out.clone())).unwrap_err().to_string().contains("hold no decision"));
    let error = run(&args(vec![dir.path().join("absent")], out)).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn moments_are_read() {
    assert_eq!(moment("1700000000"), Ok(Moment::At(1.7e9)));
    assert_eq!(moment("90m"), Ok(Moment::Ago(5400.0)));
    assert_eq!(Moment::Ago(60.0).seconds(100.0), 40.0);
    for wrong in ["", "m", "-5", "yesterday", "inf", "NaNh"] {
        assert!(moment(wrong).is_err(), "{wrong}");
    }
}

/// A server that answers every `query_range` with the same series, and tells what it was asked.
fn prometheus(answers: usize) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let mut question = line.trim().to_owned();
            while line.trim() != "" {
                line.clear();
                reader.read_line(&mut line).unwrap();
                if line.to_lowercase().starts_with("authorization") {
                    question.push_str(&format!(" {}", line.trim()));
                }
            }
            asked.push(question);
            let body = "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{\"metric\":{\"instance\":\"h:7401\"},\
                        \"values\":[[1000,\"0.5\"],[1010,\"0.7\"]]}]}}";
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                .unwrap();
        }
        asked
    });
    (url, served)
}

#[test]
fn plots_come_from_prometheus_where_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("r.html");
    let (url, served) = prometheus(1 + Measure::ALL.len());
    let (journal, token) = (dir.path().join("h.jsonl"), dir.path().join("token"));
    // At 1001, 1002, ... of which --end leaves two out.
    write(&journal, &[1, 2, 3, 4], "steady");
    std::fs::write(&token, "secret\n").unwrap();
    let asked = ReportArgs {
        prometheus: Some(url),
        start: Some(Moment::At(1000.0)),
        end: Some(Moment::At(1002.0)),
        prometheus_token_file: Some(token),
        selector: "job=\"gnn\"".into(),
        ..args(vec![journal], out.clone())
    };
    run(&asked).unwrap();
    let asked = served.join().unwrap();
    assert!(
        asked.iter().all(|line| line.contains("job%3D%22gnn%22") && line.to_lowercase().contains("bearer secret")),
        "{asked:?}"
    );
    assert!(asked[0].contains("/api/v1/query?") && asked[0].contains("&time=1002"), "{asked:?}");
    assert!(asked[1..].iter().all(|line| line.contains("start=1000&end=1002&step=1")), "{asked:?}");
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.contains("h:7401: rows of the cache") && page.contains("1 daemon of Prometheus"), "{page}");
    assert!(page.contains("rates over 1 min 0 s; decisions of 1 journal in that time"), "{page}");
    assert!(page.contains("<small>1 node</small>"), "a journal is no second node: {page}");
    assert!(page.contains("<b>2</b><small>1 that acted"), "those outside are not counted: {page}");
}
