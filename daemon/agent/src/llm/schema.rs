//! What the model may answer, as JSON schemas made from the tools' own: one object of reason, call and expectation. It
//! owns which tools and arguments a model chooses, and in what order an answer is written: reason first, then the tool,
//! then its arguments. It must name no argument that the tools do not have.

use super::super::guard::{GROW_FACTOR_MAX, GROW_FACTOR_MIN};
use crate::tools::ToolCall;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

/// Characters that a reason may have.
pub(super) const REASON_MAX: usize = 160;

/// Words for what a decision is expected to do to the hit rate.
const IMPACTS: [&str; 3] = ["up", "same", "down"];

/// How an endpoint is made to answer in the form that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `response_format` with a JSON schema, which endpoints enforce while they sample.
    Schema,
    /// Native tool calls.
    Tools,
    /// JSON asked for in words and read strictly.
    Text,
}

/// A JSON schema whose properties keep their order: those that constrain sampling write an object in the order of its
/// schema.
#[derive(Debug, Clone)]
pub(super) enum SchemaNode {
    /// An object of exactly these properties.
    Object(Vec<(&'static str, SchemaNode)>),
    /// One of these.
    AnyOf(Vec<SchemaNode>),
    /// Anything else.
    Plain(Value),
}

struct Properties<'a>(&'a [(&'static str, SchemaNode)]);

impl Serialize for Properties<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, node)| (name, node)))
    }
}

impl Serialize for SchemaNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SchemaNode::Plain(value) => value.serialize(serializer),
            SchemaNode::AnyOf(nodes) => serializer.collect_map([("anyOf", nodes)]),
            SchemaNode::Object(properties) => {
                let mut map = serializer.serialize_map(Some(4))?;
                map.serialize_entry("type", "object")?;
                map.serialize_entry("properties", &Properties(properties))?;
                map.serialize_entry("required", &properties.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
                map.serialize_entry("additionalProperties", &false)?;
                map.end()
            }
        }
    }
}

/// A tool as models see it.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    /// Its name.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) description: String,
    /// The arguments that a model chooses.
    pub(super) arguments: Vec<(&'static str, SchemaNode)>,
}

/// The arguments that a model chooses, each with the values it chooses from: small models write any number where any is
/// allowed. A table is not among them: a decision is for all tables, and no name of one is ever shown to a model.
fn choices(tool: &str) -> Option<Vec<(&'static str, Value)>> {
    match tool {
        "grow" => Some(vec![("factor", json!([GROW_FACTOR_MIN, 0.75, 1.25, 1.5, GROW_FACTOR_MAX]))]),
        "evict" => Some(vec![("fraction", json!([0.05, 0.1, 0.25, 0.5])), ("forget", json!([false, true]))]),
        "refresh" => Some(vec![("max_age_s", json!([0, 10, 60, 300]))]),
        "hold" => Some(Vec::new()),
        // What to warm is for trainers to name.
        _ => None,
    }
}

/// The tools that a model may choose from.
pub(super) fn offers() -> Vec<Offer> {
    let offer = |schema: crate::tools::ToolSchema| {
        let arguments = choices(schema.name)?.into_iter().map(|(name, values)| {
            let property = &schema.arguments["properties"][name];
            let kind = if values[0].is_boolean() { "boolean" } else { "number" };
            let mut node = json!({"type": kind, "description": property["description"]});
            if kind == "number" {
                node["enum"] = values;
            }
            (name, SchemaNode::Plain(node))
        });
        Some(Offer { name: schema.name, description: schema.description, arguments: arguments.collect() })
    };
    ToolCall::schemas().into_iter().filter_map(offer).collect()
}

fn reason() -> (&'static str, SchemaNode) {
    (
        "reason",
        SchemaNode::Plain(
            json!({"type": "string", "maxLength": REASON_MAX, "description": "Why, in one short sentence."}),
        ),
    )
}

fn expects() -> (&'static str, SchemaNode) {
    let description = "What the hit rate will do in the next window.";
    ("expects", SchemaNode::Plain(json!({"type": "string", "enum": IMPACTS, "description": description})))
}

/// The schema of an answer.
pub(super) fn answer(offers: &[Offer]) -> SchemaNode {
    let calls = offers.iter().map(|offer| {
        let tool = SchemaNode::Plain(json!({"type": "string", "enum": [offer.name]}));
        SchemaNode::Object(vec![("tool", tool), ("arguments", SchemaNode::Object(offer.arguments.clone()))])
    });
    SchemaNode::Object(vec![reason(), ("call", SchemaNode::AnyOf(calls.collect())), expects()])
}

/// A request for a chat completion.
#[derive(serde::Serialize)]
pub(super) struct ChatRequest<'a> {
    pub(super) model: &'a str,
    pub(super) messages: [Message<'a>; 2],
    pub(super) temperature: f64,
    pub(super) seed: i64,
    pub(super) max_tokens: u32,
    pub(super) stream: bool,
    #[serde(flatten)]
    pub(super) form: &'a Form,
}

/// A message of it.
#[derive(serde::Serialize)]
pub(super) struct Message<'a> {
    pub(super) role: &'static str,
    pub(super) content: &'a str,
}

/// What of a request makes the endpoint answer in a mode.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(super) struct Form {
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Vec<Tool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
}

#[derive(Debug, Clone, serde::Serialize)]
struct Format {
    r#type: &'static str,
    json_schema: Named,
}

#[derive(Debug, Clone, serde::Serialize)]
struct Named {
    name: &'static str,
    strict: bool,
    schema: SchemaNode,
}

#[derive(Debug, Clone, serde::Serialize)]
struct Tool {
    r#type: &'static str,
    function: Function,
}

#[derive(Debug, Clone, serde::Serialize)]
struct Function {
    name: &'static str,
    description: String,
    parameters: SchemaNode,
}

/// The form of a mode.
pub(super) fn form(mode: Mode, offers: &[Offer]) -> Form {
    match mode {
        Mode::Schema => {
            let json_schema = Named { name: "decision", strict: true, schema: answer(offers) };
            Form { response_format: Some(Format { r#type: "json_schema", json_schema }), ..Form::default() }
        }
        Mode::Tools => {
            let tools = offers.iter().map(|offer| {
                let arguments = std::iter::once(reason()).chain(offer.arguments.iter().cloned()).chain([expects()]);
                let parameters = SchemaNode::Object(arguments.collect());
                let function = Function { name: offer.name, description: offer.description.clone(), parameters };
                Tool { r#type: "function", function }
            });
            Form {
                tools: Some(tools.collect()),
                tool_choice: Some("required"),
                parallel_tool_calls: Some(false),
                ..Form::default()
            }
        }
        Mode::Text => Form::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_an_argument_that_the_tool_takes() {
        for schema in ToolCall::schemas() {
            let Some(choices) = choices(schema.name) else { continue };
            for required in schema.arguments["required"].as_array().into_iter().flatten() {
                assert!(choices.iter().any(|(name, _)| name == required), "{required} of {}", schema.name);
            }
            for (name, values) in &choices {
                let property = &schema.arguments["properties"][name];
                assert!(property["description"].is_string(), "{} has no argument {name}", schema.name);
                for value in values.as_array().unwrap() {
                    let mut arguments = json!({"fraction": 0.1});
                    if schema.name != "evict" {
                        arguments = json!({});
                    }
                    arguments[*name] = value.clone();
                    ToolCall::from_arguments(schema.name, arguments).unwrap();
                }
            }
        }
    }

    #[test]
    fn an_answer_is_written_reason_first_and_tool_before_arguments() {
        let text = serde_json::to_string(&answer(&offers())).unwrap();
        let at = |needle: &str| text.find(needle).unwrap();
        assert!(at("\"reason\"") < at("\"call\"") && at("\"call\"") < at("\"expects\""), "{text}");
        assert!(at("\"tool\"") < at("\"arguments\""), "{text}");
        assert!(!text.contains("table") && !text.contains("warm"), "{text}");
    }
}
