//! The daemon as a server of the Model Context Protocol, so that any agent that speaks it can read its state and steer
//! its caches. It owns how state and tools are offered; what a tool is comes from [`ToolCall::schemas`], what it does
//! is the daemon's. No session is kept between requests: there is nothing to bound and nothing to lose.

use super::calls::{Calls, blocking};
use crate::daemon::Life;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, JsonObject, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rudder_agent::tools::ToolCall;
use serde_json::{Value, json};
use std::sync::Arc;

/// Largest request that is read.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Decisions in an answer unless the call says otherwise.
const DECISIONS_DEFAULT: u64 = 5;

/// Most decisions in one answer.
const DECISIONS_MAX: u64 = 100;

const INSTRUCTIONS: &str = "This is a rudderd daemon. It keeps a cache of feature rows that other nodes own, for the GNN trainers of its node. \
    Read `status` first: hit rates, capacity, ceiling, stalls. `decisions` lists what the daemon's own agent did and with what effect. Then \
    steer by `grow`, `evict`, `refresh`, `warm` and `hold`; each answers in numbers what it did. Rows are never wrong, whatever you call: \
    what you can change is how many have to be waited for.";

/// What answers at `/mcp`. Who may ask is checked before it, by the token or by [`super::local`].
pub(super) fn service(life: Arc<Life>, calls: Calls) -> StreamableHttpService<Steerable, NeverSessionManager> {
    let mut config = StreamableHttpServerConfig::default().disable_allowed_hosts();
    config.legacy_session_mode = false;
    config.json_response = true;
    config.max_request_body_bytes = REQUEST_BYTES_MAX;
    let handler = move || Ok(Steerable { life: Arc::clone(&life), calls: calls.clone() });
    StreamableHttpService::new(handler, Arc::new(NeverSessionManager::default()), config)
}

/// The daemon, as an agent sees it.
#[derive(Clone)]
pub(super) struct Steerable {
    life: Arc<Life>,
    calls: Calls,
}

/// What an agent may call.
enum Call {
    Status,
    Decisions(usize),
    Tool(ToolCall),
}

impl Call {
    fn read(name: &str, arguments: Option<JsonObject>) -> Result<Self, String> {
        let arguments = arguments.unwrap_or_default();
        match name {
            "status" if arguments.is_empty() => Ok(Self::Status),
            "status" => Err("status takes no arguments".to_owned()),
            "decisions" => match (arguments.len(), arguments.get("limit").map(Value::as_u64)) {
                (0, _) => Ok(Self::Decisions(DECISIONS_DEFAULT as usize)),
                (1, Some(Some(limit))) if (1..=DECISIONS_MAX).contains(&limit) => Ok(Self::Decisions(limit as usize)),
                _ => Err(format!("decisions takes `limit`, a number from 1 to {DECISIONS_MAX}, and nothing else")),
            },
            _ => ToolCall::from_arguments(name, Value::Object(arguments))
                .map(Self::Tool)
                .map_err(|error| error.to_string()),
        }
    }
}

impl Steerable {
    async fn carry_out(&self, call: Call) -> Result<Value, String> {
        let life = Arc::clone(&self.life);
        let panicked = || "the call panicked; the log of the daemon has the place".to_owned();
        match call {
            Call::Status => blocking(move || life.status()).await.ok_or_else(panicked),
            Call::Decisions(limit) => {
                let decisions = blocking(move || life.decisions(limit)).await.ok_or_else(panicked)?;
                let value = serde_json::to_value(decisions).map_err(|error| error.to_string())?;
                Ok(json!({"decisions": value}))
            }
            Call::Tool(call) => {
                let done = self.calls.tool(call).await.ok_or_else(panicked)?.map_err(|error| error.to_string())?;
                serde_json::to_value(done).map_err(|error| error.to_string())
            }
        }
    }
}

/// All that can be called: what looks, and what steers.
fn offered() -> Vec<Tool> {
    let looks = |name, words, properties: Value| {
        let schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        let mut tool = Tool::new(name, words, schema.as_object().cloned().unwrap_or_default());
        tool.annotations = Some(ToolAnnotations::from_raw(None, Some(true), None, None, Some(false)));
        tool
    };
    let limit =
        json!({"limit": {"type": "integer", "minimum": 1, "maximum": DECISIONS_MAX, "default": DECISIONS_DEFAULT}});
    let steers = ToolCall::schemas().into_iter().map(|schema| {
        let arguments = schema.arguments.as_object().cloned().unwrap_or_default();
        let mut tool = Tool::new(schema.name, schema.description, arguments);
        tool.annotations =
            Some(ToolAnnotations::from_raw(None, Some(schema.name == "hold"), Some(false), None, Some(false)));
        tool
    });
    let mut tools = vec![
        looks(
            "status",
            "What the daemon is doing: tables, hit rates, capacity and ceiling, stalls, peers, memory.",
            json!({}),
        ),
        looks("decisions", "What the daemon's own agent decided last, why, and what it did.", limit),
    ];
    tools.extend(steers);
    tools
}

impl ServerHandler for Steerable {
    fn get_info(&self) -> ServerConfig {
        let mut config = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        config.server_info = Implementation::new("rudderd", env!("CARGO_PKG_VERSION"));
        config.instructions = Some(INSTRUCTIONS.to_owned());
        config
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, rmcp::ErrorData> {
        Ok(ListToolsResult::with_all_items(offered()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, rmcp::ErrorData> {
        let answer = match Call::read(&request.name, request.arguments) {
            Ok(call) => self.carry_out(call).await,
            Err(problem) => Err(problem),
        };
        Ok(match answer {
            Ok(value) => CallToolResult::structured(value),
            // The agent reads it and can do better: an error of the call, not of the protocol.
            Err(problem) => CallToolResult::error(vec![ContentBlock::text(problem)]),
        }
        .into())
    }
}
