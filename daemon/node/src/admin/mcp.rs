//! The daemon as a server of the Model Context Protocol, so that any agent that speaks it can read its state and steer its caches. It owns
//! how state and tools are offered; what a tool is comes from [`ToolCall::schemas`], what it does is the daemon's. No session is
//! kept between requests: there is nothing to bound and nothing to lose.

use super::AdminState;
use super::routes::blocking;
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

/// Decisions that are told unless asked otherwise.
const DECISIONS_DEFAULT: u64 = 5;

/// Most decisions that are told at once.
const DECISIONS_MAX: u64 = 100;

const INSTRUCTIONS: &str = "This is a rudderd daemon. It keeps a cache of feature rows that other nodes own, for the GNN trainers of its node. \
    Read `status` first: hit rates, capacity, ceiling, stalls. `decisions` tells what the daemon's own agent did and what came of it. Then \
    steer by `grow`, `evict`, `refresh`, `warm` and `hold`; each answers in numbers what it did. Rows are never wrong, whatever you call: \
    what you can change is how many have to be waited for.";

/// What answers at `/mcp`. Who may ask is checked before it, by the token or by [`super::local`].
pub(super) fn service(state: Arc<dyn AdminState>) -> StreamableHttpService<Steerable, NeverSessionManager> {
    let mut config = StreamableHttpServerConfig::default().disable_allowed_hosts();
    config.legacy_session_mode = false;
    config.json_response = true;
    config.max_request_body_bytes = REQUEST_BYTES_MAX;
    let handler = move || Ok(Steerable { state: Arc::clone(&state) });
    StreamableHttpService::new(handler, Arc::new(NeverSessionManager::default()), config)
}

/// The daemon, as an agent sees it.
#[derive(Clone)]
pub(super) struct Steerable {
    state: Arc<dyn AdminState>,
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

    fn carry_out(self, state: &dyn AdminState) -> Result<Value, String> {
        match self {
            Call::Status => Ok(state.status()),
            Call::Decisions(limit) => serde_json::to_value(state.decisions(limit))
                .map(|told| json!({"decisions": told}))
                .map_err(|error| error.to_string()),
            Call::Tool(call) => {
                let done = state.tool(call).map_err(|error| error.to_string())?;
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
        let state = Arc::clone(&self.state);
        let asked = move || Call::read(&request.name, request.arguments)?.carry_out(&*state);
        let answer = blocking(asked).await.unwrap_or_else(|| Err("the call panicked".to_owned()));
        Ok(match answer {
            Ok(value) => CallToolResult::structured(value),
            // The agent reads it and can do better: an error of the call, not of the protocol.
            Err(problem) => CallToolResult::error(vec![ContentBlock::text(problem)]),
        }
        .into())
    }
}
