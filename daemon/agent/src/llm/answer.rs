//! Reads what a model answered: one typed decision, or why it is not one. It owns how strict that is. It must never
//! guess: an answer that is cut off, doubled, of another shape or out of bounds is no decision, and the rules stand in.

use super::super::controller::{Impact, Proposal};
use super::endpoint::quoted;
use super::schema::{Mode, REASON_MAX};
use crate::tools::ToolCall;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One answer in the modes that answer in content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spoken {
    reason: String,
    call: Call,
    expects: Impact,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    tool: String,
    arguments: Value,
}

/// The decision in a response.
pub(super) fn read(response: &Value, mode: Mode) -> Result<Proposal, String> {
    let choices = response.get("choices").and_then(Value::as_array);
    let choices = choices.ok_or_else(|| format!("the response has no choices: {}", quoted(&response.to_string())))?;
    let choice = choices.first().ok_or("the response has an empty list of choices")?;
    finished(choice.get("finish_reason").unwrap_or(&Value::Null))?;
    let message = choice.get("message").filter(|message| message.is_object()).ok_or("the choice has no message")?;
    let calls = message.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match (mode, calls) {
        (_, [_, _, ..]) => Err(format!("{} tool calls where one is wanted", calls.len())),
        (Mode::Tools, [call]) => called(call),
        (Mode::Tools, []) => Err(format!("no tool call{}", quoted_content(message))),
        (_, [_]) => Err("a tool call where JSON is wanted".to_owned()),
        (_, []) => {
            let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
            spoken(if mode == Mode::Text { bare(content) } else { content })
        }
    }
}

/// Nothing but a regular end will do: what was cut off may mean something else.
fn finished(reason: &Value) -> Result<(), String> {
    match reason {
        Value::String(reason) if matches!(reason.as_str(), "stop" | "tool_calls") => Ok(()),
        Value::String(reason) if reason == "length" => {
            Err("the answer was cut off (finish_reason is length): agent.llm_max_tokens is too small for it".to_owned())
        }
        other => Err(format!("finish_reason is {}, not stop", quoted(&other.to_string()))),
    }
}

fn quoted_content(message: &Value) -> String {
    match message.get("content").and_then(Value::as_str) {
        Some(content) if !content.is_empty() => format!(" but text: {}", quoted(content)),
        _ => String::new(),
    }
}

/// What is left of a text without the wrapping that models are fond of: their thoughts, and a code fence.
fn bare(content: &str) -> &str {
    let content = content.trim();
    let content = match content.strip_prefix("<think>").and_then(|thought| thought.split_once("</think>")) {
        Some((_, rest)) => rest.trim(),
        None => content,
    };
    let fenced = content.strip_prefix("```json").or_else(|| content.strip_prefix("```"));
    fenced.and_then(|rest| rest.strip_suffix("```")).unwrap_or(content).trim()
}

fn spoken(content: &str) -> Result<Proposal, String> {
    let spoken: Spoken = serde_json::from_str(content)
        .map_err(|error| format!("the content is no decision ({error}): {}", quoted(content)))?;
    decided(&spoken.call.tool, spoken.call.arguments, &spoken.reason, spoken.expects)
}

/// A native tool call: reason and expectation are among its arguments.
fn called(call: &Value) -> Result<Proposal, String> {
    let function = call.get("function").ok_or("the tool call names no function")?;
    let tool = function.get("name").and_then(Value::as_str).ok_or("the tool call names no function")?;
    let arguments = match function.get("arguments") {
        // Some endpoints send the object itself.
        Some(Value::Object(arguments)) => arguments.clone(),
        Some(Value::String(text)) => serde_json::from_str::<Map<String, Value>>(text).map_err(|error| {
            format!("the arguments of {} are no JSON object ({error}): {}", quoted(tool), quoted(text))
        })?,
        _ => return Err(format!("the call of {} has no arguments", quoted(tool))),
    };
    let mut arguments = arguments;
    let reason = arguments.remove("reason").and_then(|reason| reason.as_str().map(str::to_owned));
    let expects = arguments.remove("expects").ok_or("the tool call has no `expects`")?;
    let expects = Impact::deserialize(&expects).map_err(|error| format!("`expects`: {error}"))?;
    decided(tool, Value::Object(arguments), &reason.ok_or("the tool call has no `reason`")?, expects)
}

fn decided(tool: &str, arguments: Value, reason: &str, expects: Impact) -> Result<Proposal, String> {
    let call = ToolCall::from_arguments(tool, arguments).map_err(|error| quoted(&error.to_string()))?;
    if call.table().is_some() {
        return Err(format!("{tool} names a table; a decision is for all of them"));
    }
    let reason: String = reason.chars().take(REASON_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Ok(Proposal { call, reason: reason.trim().to_owned(), expects })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn content(text: &str) -> Value {
        json!({"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": text}}]})
    }

    fn good() -> String {
        json!({"reason": "short of slots", "call": {"tool": "grow", "arguments": {"factor": 1.5}}, "expects": "up"})
            .to_string()
    }

    #[test]
    fn text_may_be_wrapped_in_a_fence_or_thoughts_but_not_in_words() {
        let good = good();
        for text in [good.clone(), format!(" ```json\n{good}\n``` "), format!("<think>hm {{}}</think>\n{good}")] {
            let proposal = read(&content(&text), Mode::Text).unwrap();
            assert_eq!((proposal.call.tool(), proposal.expects), ("grow", Impact::Up));
        }
        for text in [format!("Sure! {good}"), format!("{good}{good}"), String::new(), "yes".to_owned()] {
            assert!(read(&content(&text), Mode::Text).is_err(), "{text}");
        }
        assert!(read(&content(&format!("```\n{good}\n```")), Mode::Schema).is_err(), "a schema leaves no fence");
    }

    #[test]
    fn what_is_no_decision_says_why() {
        let with = |tool: &str, arguments: &str| {
            content(&format!(
                r#"{{"reason": "", "call": {{"tool": "{tool}", "arguments": {arguments}}}, "expects": "up"}}"#
            ))
        };
        let ended = |reason: Value| json!({"choices": [{"finish_reason": reason, "message": {"content": good()}}]});
        for (response, why) in [
            (json!({}), "no choices"),
            (json!({"choices": []}), "empty list of choices"),
            (json!({"choices": [{"finish_reason": "stop"}]}), "no message"),
            (json!({"choices": [7]}), "finish_reason is null"),
            (ended(json!("")), "finish_reason is \"\""),
            (ended(json!(null)), "finish_reason is null"),
            (ended(json!("length")), "agent.llm_max_tokens is too small"),
            (with("grow", r#"{"factor": NaN}"#), "no decision"),
            (with("grow", r#"{"factor": -2}"#), "`factor` is -2"),
            (with("grow", r#"{"factor": 1e300}"#), "at most 1000000"),
            (with("grow", r#"{"factor": 1e999}"#), "no decision"),
            (with("grow", r#"{"rows": 99999999999999999999}"#), "not a tool call"),
            (with("grow", "{}"), "either `rows` or `factor`"),
            (with("evict", r#"{"fraction": -0.1}"#), "`fraction` is -0.1"),
            (with("grow", r#"{"factor": 2, "table": "feat"}"#), "names a table"),
            (with("format_disk", "{}"), "unknown variant `format_disk`"),
            (with("hold", "[]"), "not a JSON object"),
        ] {
            let error = read(&response, Mode::Schema).unwrap_err();
            assert!(error.contains(why), "{response}: {error}");
        }
    }

    #[test]
    fn a_native_call_is_one_call_with_reason_and_expectation() {
        let call = |arguments: Value| json!({"id": "1", "type": "function", "function": {"name": "evict", "arguments": arguments}});
        let with = |calls: Value| json!({"choices": [{"finish_reason": "tool_calls", "message": {"content": null, "tool_calls": calls}}]});
        let arguments = json!({"reason": "a\nb", "expects": "same", "fraction": 0.25});
        for arguments in [arguments.clone(), arguments.to_string().into()] {
            let proposal = read(&with(json!([call(arguments)])), Mode::Tools).unwrap();
            assert_eq!((proposal.call.tool(), proposal.reason.as_str()), ("evict", "a b"));
        }
        let error = |calls| read(&with(calls), Mode::Tools).unwrap_err();
        assert!(error(json!([call(arguments.clone()), call(arguments)])).contains("2 tool calls"));
        assert!(error(json!([])).contains("no tool call"));
        assert!(error(json!([call(json!("{\"fraction\": "))])).contains("no JSON object"));
        assert!(error(json!([call(json!({"fraction": 0.1, "reason": "x"}))])).contains("expects"));
    }

    proptest! {
        /// Any text is a decision or an error, and an error is short.
        #[test]
        fn no_content_panics(text in ".{0,300}", cut in 0usize..100) {
            for text in [text, good().chars().take(cut).collect()] {
                for mode in [Mode::Schema, Mode::Text, Mode::Tools] {
                    if let Err(error) = read(&content(&text), mode) {
                        prop_assert!(error.chars().count() < 400);
                    }
                }
            }
        }
    }
}
