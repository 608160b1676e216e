//! Spans of fetches for a collector that speaks OpenTelemetry's protocol (OTLP over HTTP, in JSON). It owns which
//! fetches are traced, the queue of spans, their form and the thread that sends them. It must never make a fetch wait:
//! a full queue or a collector that is away loses spans, and says so in the log.
//!
//! Both sides of a fetch know its number, and from it alone follow the identifiers of its trace and its first span, and
//! whether it is traced: nothing else has to cross the network for the spans of two nodes to meet.

use crate::LogConfig;
use rudder_http::{Client, Limits};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest time that a span waits for others to be sent with.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// Longest wait at the end for the last spans: a collector that hangs does not hold a drain up.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Longest answer of the collector that is read: it says which spans it refused.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Spans sent at once.
const BATCH_SPANS_MAX: usize = 512;

/// Which end of a request a span is, as OTLP numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Inside a node.
    Internal = 1,
    /// A request is answered.
    Server = 2,
    /// A request is made.
    Client = 3,
}

/// A piece of work of a fetch.
#[derive(Debug, Clone)]
pub struct Span {
    /// The fetch's number.
    pub request: u64,
    /// What was done.
    pub name: &'static str,
    /// Which end it is.
    pub kind: Kind,
    /// Since when, before now.
    pub began: Duration,
    /// For how long.
    pub took: Duration,
    /// Numbers that say more.
    pub numbers: Vec<(&'static str, u64)>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Takes spans of the fetches that are traced.
#[derive(Debug)]
pub struct Tracer {
    /// A fetch is traced if the hash of its number is below.
    below: u64,
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    next: AtomicU64,
}

enum Message {
    /// A span, the time since 1970 at which it was recorded, and its number among those of this node.
    Span(Span, Duration, u64),
    Flush(SyncSender<()>),
}

/// From this seed on, one per node: the identifiers of spans that are not a fetch's first.
const SPAN_SEED: u64 = 1 << 16;

/// Name of a fetch's first span, the parent of all others.
pub const FETCH: &str = "fetch";

fn hash(request: u64, of: u64) -> u64 {
    xxh3_64_with_seed(&request.to_le_bytes(), of)
}

fn trace_id(request: u64) -> String {
    format!("{:016x}{request:016x}", hash(request, 1).max(1))
}

fn root_id(request: u64) -> String {
    format!("{:016x}", hash(request, 2).max(1))
}

impl Tracer {
    /// A tracer that sends to `log.otlp_endpoint`; nothing if none is named, or there is no thread for it.
    #[must_use]
    pub fn start(config: &LogConfig, node: u16) -> Option<Arc<Self>> {
        if config.otlp_endpoint.is_empty() {
            return None;
        }
        let lost = Arc::new(AtomicU64::new(0));
        let (queue, spans) = sync_channel(config.otlp_queue_max);
        let url = format!("{}/v1/traces", config.otlp_endpoint.trim_end_matches('/'));
        let timeout = Duration::from_millis(config.otlp_timeout_ms);
        let client = match Client::new(&url, Limits { timeout, answer_bytes_max: ANSWER_BYTES_MAX }) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "spans are not sent");
                return None;
            }
        };
        let sender = Sender { url, client, node, lost: Arc::clone(&lost), failing: false };
        let thread = std::thread::Builder::new().name("rudder-otlp".to_owned()).spawn(move || sender.run(&spans));
        if let Err(error) = thread {
            tracing::error!(%error, "there is no thread to send spans");
            return None;
        }
        let below = (config.otlp_sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        Some(Arc::new(Self { below, queue, lost, next: AtomicU64::new(0) }))
    }

    /// Whether the fetch of this number is traced: all nodes say the same.
    #[must_use]
    pub fn traces(&self, request: u64) -> bool {
        request != 0 && hash(request, 3) <= self.below && self.below > 0
    }

    /// Queues a span, to be put into its form by the thread that sends it; it is lost if the queue is full.
    pub fn record(&self, span: Span) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Span(span, now, serial))
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was queued is sent or lost, at most until `deadline` and for a second.
    pub fn flush(&self, deadline: Instant) {
        let (done, waited) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = waited.recv_timeout(deadline.saturating_duration_since(Instant::now()).min(FLUSH_WAIT));
        }
    }
}

/// A span as OTLP's JSON has it: identifiers in hexadecimal, 64-bit numbers as text.
/// Nodes count their spans apart, so the node is part of a span's identifier.
fn encode(span: &Span, now: Duration, serial: u64, node: u16) -> Value {
    let begin = now.saturating_sub(span.began);
    let is_root = span.name == FETCH;
    let id = if is_root {
        root_id(span.request)
    } else {
        format!("{:016x}", hash(span.request ^ serial, SPAN_SEED + u64::from(node)).max(1))
    };
    let attribute = |&(key, number): &(&str, u64)| json!({"key": format!("rudder.{key}"), "value": {"intValue": number.to_string()}});
    let mut encoded = json!({
        "traceId": trace_id(span.request),
        "spanId": id,
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": begin.as_nanos().to_string(),
        "endTimeUnixNano": (begin + span.took).as_nanos().to_string(),
        "attributes": span.numbers.iter().map(attribute).collect::<Vec<_>>(),
        "status": span.error.as_ref().map_or_else(|| json!({}), |error| json!({"code": 2, "message": error})),
    });
    if !is_root {
        encoded["parentSpanId"] = root_id(span.request).into();
    }
    encoded
}

/// The thread's side.
struct Sender {
    url: String,
    client: Client,
    node: u16,
    lost: Arc<AtomicU64>,
    failing: bool,
}

impl Sender {
    fn run(mut self, spans: &Receiver<Message>) {
        loop {
            let mut batch = Vec::new();
            let mut flushed = None;
            let mut end = None;
            loop {
                let left =
                    end.map_or(Duration::from_secs(3600), |end: Instant| end.saturating_duration_since(Instant::now()));
                match spans.recv_timeout(left) {
                    Ok(Message::Span(span, now, serial)) => {
                        end.get_or_insert_with(|| Instant::now() + BATCH_WAIT);
                        batch.push(encode(&span, now, serial, self.node));
                        if batch.len() >= BATCH_SPANS_MAX {
                            break;
                        }
                    }
                    Ok(Message::Flush(done)) => {
                        flushed = Some(done);
                        break;
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.send(&batch);
                        return;
                    }
                }
            }
            self.send(&batch);
            if let Some(done) = flushed {
                let _ = done.try_send(());
            }
        }
    }

    fn send(&mut self, batch: &[Value]) {
        let spans = batch.len();
        if spans == 0 {
            return;
        }
        let sent = self.client.send(&self.url, None, Some(self.request(batch).to_string()));
        let taken = sent.map_err(|error| error.to_string()).and_then(|answer| match answer.status {
            200..300 => Ok(()),
            status => Err(format!("HTTP status {status}")),
        });
        match taken {
            Ok(()) if self.failing => {
                let lost = self.lost.load(Ordering::Relaxed);
                tracing::info!(url = self.url, lost, "spans are sent again");
                self.failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                self.lost.fetch_add(spans as u64, Ordering::Relaxed);
                if !self.failing {
                    tracing::warn!(
                        url = self.url,
                        error,
                        "spans cannot be sent (log.otlp_endpoint); they are lost until they can"
                    );
                }
                self.failing = true;
            }
        }
    }

    fn request(&self, spans: &[Value]) -> Value {
        let text = |key: &str, value: String| json!({"key": key, "value": {"stringValue": value}});
        let resource = [
            text("service.name", "rudderd".to_owned()),
            text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            text("service.instance.id", format!("node-{}", self.node)),
        ];
        json!({"resourceSpans": [{
            "resource": {"attributes": resource},
            "scopeSpans": [{"scope": {"name": "rudder", "version": env!("CARGO_PKG_VERSION")}, "spans": spans}],
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    fn span(request: u64, name: &'static str) -> Span {
        Span {
            request,
            name,
            kind: Kind::Server,
            began: Duration::from_millis(5),
            took: Duration::from_millis(3),
            numbers: vec![("rows", 7)],
            error: None,
        }
    }

    fn config(endpoint: String) -> LogConfig {
        LogConfig { otlp_endpoint: endpoint, otlp_sample: 1.0, otlp_timeout_ms: 300, ..LogConfig::default() }
    }

    #[test]
    fn spans_of_two_nodes_meet_by_the_number_of_the_fetch_alone() {
        let now = Duration::from_secs(1_000);
        let (fetch, answer) = (encode(&span(77, FETCH), now, 0, 0), encode(&span(77, "answer"), now, 9, 1));
        assert_eq!(fetch["traceId"], answer["traceId"]);
        assert_eq!(fetch["spanId"], answer["parentSpanId"]);
        assert_ne!(fetch["spanId"], answer["spanId"]);
        assert!(fetch.get("parentSpanId").is_none());
        assert_eq!(fetch["startTimeUnixNano"], "999995000000");
        assert_eq!(fetch["endTimeUnixNano"], "999998000000");
        assert_eq!((fetch["traceId"].as_str().unwrap().len(), fetch["spanId"].as_str().unwrap().len()), (32, 16));
        assert_eq!(fetch["attributes"][0], json!({"key": "rudder.rows", "value": {"intValue": "7"}}));
        let wait = encode(&span(77, "wait"), now, 9, 0);
        assert_ne!(wait["spanId"], answer["spanId"], "the ninth span of either node");
        let failed = encode(&Span { error: Some("peer 1 is gone".to_owned()), ..span(77, FETCH) }, now, 0, 0);
        assert_eq!(failed["status"]["code"], 2);
    }

    #[test]
    fn the_share_that_is_traced_is_the_same_for_all() {
        let tracer = |sample| {
            let config = LogConfig { otlp_sample: sample, ..config("http://127.0.0.1:9".to_owned()) };
            Tracer::start(&config, 0).unwrap()
        };
        let (tenth, all, none) = (tracer(0.1), tracer(1.0), tracer(0.0));
        let traced = (1..10_000).filter(|&request| tenth.traces(request)).count();
        assert!((800..1_200).contains(&traced), "{traced}");
        assert!((1..100).all(|request| all.traces(request) && !none.traces(request)));
        assert!(!all.traces(0), "no trainer waits");
        assert!(Tracer::start(&LogConfig::default(), 0).is_none());
    }

    #[test]
    fn a_collector_gets_batches() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tracer = Tracer::start(&config(format!("http://{}/", listener.local_addr().unwrap())), 3).unwrap();
        let collected = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            while !text.ends_with("]}]}]}") {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
            }
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}").unwrap();
            text
        });
        tracer.record(span(5, FETCH));
        tracer.record(span(5, "wait"));
        tracer.flush(Instant::now() + Duration::from_secs(10));
        let text = collected.join().unwrap();
        assert!(text.starts_with("POST /v1/traces HTTP/1.1"), "{text}");
        let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        let sent = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!((sent[0]["name"].as_str(), sent[1]["name"].as_str()), (Some("fetch"), Some("wait")));
        assert_eq!(body["resourceSpans"][0]["resource"]["attributes"][2]["value"]["stringValue"], "node-3");
        assert_eq!(tracer.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_collector_that_hangs_costs_spans_and_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tracer = Tracer::start(&LogConfig { otlp_queue_max: 10, ..config(url) }, 0).unwrap();
        let begun = Instant::now();
        (1..=5_000).for_each(|request| tracer.record(span(request, FETCH)));
        assert!(begun.elapsed() < Duration::from_secs(5));
        tracer.flush(Instant::now() + Duration::from_secs(10));
        assert!(tracer.lost.load(Ordering::Relaxed) > 4_000);
    }
}
