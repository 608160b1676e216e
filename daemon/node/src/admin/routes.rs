//! The paths and their answers. It must never change what trainers are served: all it can start is a recording or a
//! tool call, which the engine bounds, and all it can change is the log.

use super::{Metrics, calls::Calls, calls::blocking, local::Local, mcp, token::Token};
use crate::daemon::Life;
use crate::recording::{TraceCall, TraceError};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, Request, State},
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rudder_agent::tools::{ToolCall, ToolError};
use rudder_telemetry::{error_chain, logging::Logging};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

/// What the handlers share.
#[derive(Clone)]
pub(super) struct AdminContext {
    pub(super) life: Arc<Life>,
    pub(super) calls: Calls,
    pub(super) logging: Logging,
    pub(super) metrics: Metrics,
    /// Who passes: who holds the token, or, for what changes something, who names this machine.
    pub(super) access: Access,
    pub(super) request_timeout: Duration,
}

/// Who may ask for more than health.
#[derive(Clone)]
pub(super) enum Access {
    Token(Arc<Token>),
    Local(Arc<Local>),
}

/// All paths. Health and readiness are open to every prober; the rest asks for the token where one is set, and where
/// none is, what changes something is for callers that name this machine.
pub(super) fn router(context: AdminContext) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/trace", post(trace))
        .route("/v1/decisions", get(decisions))
        .route("/v1/tools", get(tools))
        .route("/v1/tools/{tool}", post(tool))
        .route("/v1/log", get(log_level).post(set_log_level))
        .route_service("/mcp", mcp::service(context.life.clone(), context.calls.clone()))
        .route_layer(middleware::from_fn_with_state(context.clone(), demand_access));
    Router::new()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .merge(guarded)
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(context.clone(), limit_time))
        .with_state(context)
}

async fn metrics(State(context): State<AdminContext>) -> Response {
    match blocking(move || context.metrics.render()).await {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Some(Err(error)) => broken(&error_chain(&error)),
        None => broken("a collector panicked"),
    }
}

async fn status(State(context): State<AdminContext>) -> Response {
    match blocking(move || context.life.status()).await {
        Some(status) => Json(status).into_response(),
        None => broken("the status panicked"),
    }
}

/// How many decisions are asked for.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionsQuery {
    #[serde(default = "decisions_default")]
    limit: usize,
}

fn decisions_default() -> usize {
    20
}

async fn decisions(State(context): State<AdminContext>, Query(query): Query<DecisionsQuery>) -> Response {
    match blocking(move || context.life.decisions(query.limit)).await {
        Some(decisions) => Json(decisions).into_response(),
        None => broken("the journal panicked"),
    }
}

async fn trace(State(context): State<AdminContext>, Json(call): Json<TraceCall>) -> Response {
    let refused = |status, error: &TraceError| (status, format!("{error}\n")).into_response();
    match context.calls.trace(call).await {
        Some(Ok(answer)) => Json(answer).into_response(),
        Some(Err(error @ TraceError::UnknownTable { .. })) => refused(StatusCode::NOT_FOUND, &error),
        Some(Err(error @ TraceError::NotServing(_))) => refused(StatusCode::SERVICE_UNAVAILABLE, &error),
        Some(Err(error)) => refused(StatusCode::CONFLICT, &error),
        None => broken("the recording panicked"),
    }
}

async fn tools() -> Response {
    Json(ToolCall::schemas()).into_response()
}

/// What is logged, as asked for and answered.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    level: String,
}

async fn log_level(State(context): State<AdminContext>) -> Response {
    Json(LogLevel { level: context.logging.level() }).into_response()
}

async fn set_log_level(State(context): State<AdminContext>, Json(wish): Json<LogLevel>) -> Response {
    match context.logging.set_level(&wish.level) {
        Ok(()) => Json(LogLevel { level: context.logging.level() }).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// The body is the tool's arguments as a JSON object; an empty body stands for an empty one.
async fn tool(State(context): State<AdminContext>, Path(tool): Path<String>, body: Bytes) -> Response {
    let refused = |status, error: &ToolError| (status, format!("{error}\n")).into_response();
    let arguments = if body.is_empty() { Ok(Value::Object(Map::new())) } else { serde_json::from_slice(&body) };
    let call = arguments
        .map_err(|error| ToolError::Unreadable(error.to_string()))
        .and_then(|arguments| ToolCall::from_arguments(&tool, arguments));
    let call = match call {
        Ok(call) => call,
        Err(error) => return refused(StatusCode::BAD_REQUEST, &error),
    };
    match context.calls.tool(call).await {
        Some(Ok(answer)) => Json(answer).into_response(),
        Some(Err(error @ ToolError::UnknownTable { .. })) => refused(StatusCode::NOT_FOUND, &error),
        Some(Err(error @ ToolError::NotServing { .. })) => refused(StatusCode::SERVICE_UNAVAILABLE, &error),
        Some(Err(error @ ToolError::Files { .. })) => refused(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Some(Err(error @ ToolError::Busy { .. })) => refused(StatusCode::TOO_MANY_REQUESTS, &error),
        Some(Err(error)) => refused(StatusCode::BAD_REQUEST, &error),
        None => broken("the tool panicked"),
    }
}

async fn healthy(State(context): State<AdminContext>) -> Response {
    if context.life.alive() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the threads that serve fetches do not answer\n").into_response()
    }
}

async fn ready(State(context): State<AdminContext>) -> Response {
    match context.life.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn unknown(uri: Uri) -> Response {
    let text = format!(
        "no such path: {}; there are /metrics, /healthz, /readyz, /v1/status, /v1/decisions, /v1/trace, /v1/tools, /v1/log and /mcp\n",
        uri.path()
    );
    (StatusCode::NOT_FOUND, text).into_response()
}

fn broken(reason: &str) -> Response {
    tracing::error!(reason, "an admin request failed");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")).into_response()
}

async fn demand_access(State(context): State<AdminContext>, request: Request, next: Next) -> Response {
    // What `/mcp` answers to a GET is its own matter, and none of it is for pages.
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD) || request.uri().path() == "/mcp";
    match &context.access {
        Access::Token(token) if !token.admits(request.headers()) => {
            let text = "this path demands `Authorization: Bearer TOKEN` with the token of admin.token_file\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
        Access::Local(local) if changes => match local.admit(request.headers()) {
            Ok(()) => next.run(request).await,
            Err(stranger) => {
                tracing::debug!(%stranger, path = request.uri().path(), "an admin request was refused");
                (StatusCode::FORBIDDEN, format!("{stranger}\n")).into_response()
            }
        },
        _ => next.run(request).await,
    }
}

async fn limit_time(State(context): State<AdminContext>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(context.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let text =
                format!("no answer within {} ms (admin.request_timeout_ms)\n", context.request_timeout.as_millis());
            (StatusCode::GATEWAY_TIMEOUT, text).into_response()
        }
    }
}
