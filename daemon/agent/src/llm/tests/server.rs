//! A server that speaks the part of the chat completions that the tests need, and answers what they set.

use super::super::Mode;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::body::Frame;
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// When all of it is sent.
    Whole,
    /// Never: half of it is sent.
    Hangs,
    /// With the connection, when half of it is sent.
    Breaks,
}

/// Half a body, and how it goes on.
struct Half {
    begin: Option<Bytes>,
    pause: Pin<Box<Sleep>>,
    end: End,
}

impl HttpBody for Half {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(begin) = self.begin.take() {
            return Poll::Ready(Some(Ok(Frame::data(begin))));
        }
        // So that the half is on its way before the connection ends.
        match self.pause.as_mut().poll(context) {
            Poll::Ready(()) if self.end == End::Breaks => Poll::Ready(Some(Err(std::io::Error::other("torn")))),
            _ => Poll::Pending,
        }
    }
}

/// What the server answers.
#[derive(Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: String,
    pub(super) delay: Duration,
    pub(super) retry_after: Option<String>,
    pub(super) end: End,
}

impl Reply {
    pub(super) fn ok(body: impl ToString) -> Self {
        let (kind, body) = ("application/json", body.to_string());
        Self { status: 200, kind, body, delay: Duration::ZERO, retry_after: None, end: End::Whole }
    }

    pub(super) fn status(status: u16, body: &str) -> Self {
        Self { status, ..Self::ok(body) }
    }
}

type Behaviour = Arc<dyn Fn(&Value, usize) -> Reply + Send + Sync>;

/// What has been asked, and what to answer.
struct Inner {
    behaviour: Behaviour,
    requests: Vec<Value>,
    authorization: Option<String>,
}

/// The server; it ends with its thread's runtime.
pub(super) struct Server {
    pub(super) url: String,
    inner: Arc<Mutex<Inner>>,
    _runtime: tokio::runtime::Runtime,
}

async fn complete(State(inner): State<Arc<Mutex<Inner>>>, headers: HeaderMap, body: String) -> Response {
    let request: Value = serde_json::from_str(&body).unwrap();
    let reply = {
        let mut inner = inner.lock().unwrap();
        inner.authorization = headers.get(header::AUTHORIZATION).map(|key| key.to_str().unwrap().to_owned());
        inner.requests.push(request.clone());
        (inner.behaviour)(&request, inner.requests.len() - 1)
    };
    tokio::time::sleep(reply.delay).await;
    let body = if reply.end == End::Whole {
        Body::from(reply.body)
    } else {
        let begin = Bytes::from(reply.body.as_bytes()[..reply.body.len() / 2].to_vec());
        let pause = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
        Body::new(Half { begin: Some(begin), pause, end: reply.end })
    };
    let mut response = (StatusCode::from_u16(reply.status).unwrap(), body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, reply.kind.parse().unwrap());
    if let Some(after) = reply.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
    }
    response
}

impl Server {
    pub(super) fn start(behaviour: impl Fn(&Value, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(std::net::SocketAddr::from(([127, 0, 0, 1], 0)), behaviour)
    }

    pub(super) fn start_at(
        address: std::net::SocketAddr,
        behaviour: impl Fn(&Value, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let inner = Inner { behaviour: Arc::new(behaviour), requests: Vec::new(), authorization: None };
        let inner = Arc::new(Mutex::new(inner));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let app = Router::new().route("/v1/chat/completions", post(complete)).with_state(Arc::clone(&inner));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { url, inner, _runtime: runtime }
    }

    /// From now on it behaves like this; requests are counted from 0 again.
    pub(super) fn behave(&self, behaviour: impl Fn(&Value, usize) -> Reply + Send + Sync + 'static) {
        let mut inner = self.inner.lock().unwrap();
        inner.behaviour = Arc::new(behaviour);
        inner.requests.clear();
    }

    pub(super) fn count(&self) -> usize {
        self.inner.lock().unwrap().requests.len()
    }

    pub(super) fn last(&self) -> Value {
        self.inner.lock().unwrap().requests.last().unwrap().clone()
    }

    pub(super) fn authorization(&self) -> Option<String> {
        self.inner.lock().unwrap().authorization.clone()
    }

    /// The mode that a request asks for.
    pub(super) fn mode(request: &Value) -> Mode {
        match (request.get("response_format"), request.get("tools")) {
            (Some(_), None) => Mode::Schema,
            (None, Some(_)) => Mode::Tools,
            _ => Mode::Text,
        }
    }
}

/// A decision as it is written in content.
pub(super) fn decision(tool: &str, arguments: Value) -> Value {
    json!({"reason": "so it is", "call": {"tool": tool, "arguments": arguments}, "expects": "up"})
}

/// A response that holds `decision` as is usual in a mode; a string is sent as it is.
pub(super) fn answer_in(mode: Mode, decision: Value) -> Value {
    let content = decision.as_str().map_or_else(|| decision.to_string(), str::to_owned);
    let message = match mode {
        Mode::Schema | Mode::Text => json!({"role": "assistant", "content": content}),
        Mode::Tools => {
            let mut arguments = decision["call"]["arguments"].clone();
            arguments["reason"] = decision["reason"].clone();
            arguments["expects"] = decision["expects"].clone();
            let function = json!({"name": decision["call"]["tool"], "arguments": arguments.to_string()});
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": function}]})
        }
    };
    let reason = if mode == Mode::Tools { "tool_calls" } else { "stop" };
    json!({"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": reason}]})
}

/// What a model of sense says to what it is shown.
pub(super) fn sane(request: &Value) -> Reply {
    let shown = request["messages"][1]["content"].as_str().unwrap();
    let now = shown.split("Now, window").last().unwrap();
    let said = |words: &str| now.contains(words);
    let full = !said(" it may grow to 50000.") && said("100% full");
    let (tool, arguments) = if said("have shifted") {
        ("evict", json!({"fraction": 0.25, "forget": false}))
    } else if said("older than their owner's") {
        ("refresh", json!({"max_age_s": 0}))
    } else if full {
        ("grow", json!({"factor": 1.5}))
    } else {
        ("hold", json!({}))
    };
    Reply::ok(answer_in(Server::mode(request), decision(tool, arguments)))
}
