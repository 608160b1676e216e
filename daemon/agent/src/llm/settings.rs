//! The settings of the controller that asks a language model, their defaults and their checks. It reads no file and
//! opens nothing.

use rudder_settings::{Invalid, Verdict, WAIT_MS, quoted, within, wrong};
use serde::{Deserialize, Serialize};

/// How a model is asked; the keys of section `[agent]` that begin with `llm_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LlmSettings {
    /// Base URL of an OpenAI-compatible endpoint, up to and with its version: `http://127.0.0.1:11434/v1`.
    #[serde(rename = "llm_base_url")]
    pub base_url: String,
    /// The model, by the name that the endpoint knows it by.
    #[serde(rename = "llm_model")]
    pub model: String,
    /// Name of the environment variable that holds the endpoint's key; empty if none is needed.
    #[serde(rename = "llm_key_env")]
    pub key_env: String,
    /// Time within which the model must answer, repetitions included, in milliseconds.
    #[serde(rename = "llm_timeout_ms")]
    pub timeout_ms: u64,
    /// Time within which a request of the probe must be answered, in milliseconds: the first pays for the whole prompt.
    /// Not a key of the configuration.
    #[serde(skip)]
    pub probe_timeout_ms: u64,
    /// Times that a request is repeated after a lost connection, status 429 or 5xx.
    #[serde(rename = "llm_retries")]
    pub retries: u32,
    /// Longest wait before repetitions, all together, in milliseconds.
    #[serde(rename = "llm_retry_budget_ms")]
    pub retry_budget_ms: u64,
    /// Past decisions that the model is shown with what they did.
    #[serde(rename = "llm_history")]
    pub history: usize,
    /// Sampling temperature. 0 makes most endpoints repeat themselves.
    #[serde(rename = "llm_temperature")]
    pub temperature: f64,
    /// Seed of the sampling, where the endpoint has one. Not a key of the configuration.
    #[serde(skip)]
    pub seed: i64,
    /// Tokens that an answer may have.
    #[serde(rename = "llm_max_tokens")]
    pub max_tokens: u32,
    /// Bytes of a response beyond which it is given up. Not a key of the configuration.
    #[serde(skip)]
    pub answer_bytes_max: usize,
    /// Time until a model that was found degraded is probed again, in milliseconds.
    #[serde(rename = "llm_reprobe_ms")]
    pub reprobe_ms: u64,
    /// Whether a model that was found degraded is asked all the same, to study it: the guard judges its answers like
    /// any other.
    #[serde(rename = "llm_ask_degraded")]
    pub ask_degraded: bool,
    /// Waits for a probe that is under way instead of answering that it is; for replays, in which no time passes while
    /// the rules stand in. Not a key of the configuration.
    #[serde(skip)]
    pub waits_for_probe: bool,
}

impl Default for LlmSettings {
    fn default() -> Self {
        Self {
            base_url: "http://127.0.0.1:11434/v1".to_owned(),
            model: String::new(),
            key_env: String::new(),
            timeout_ms: 5_000,
            probe_timeout_ms: 60_000,
            retries: 2,
            retry_budget_ms: 2_000,
            history: 5,
            temperature: 0.0,
            seed: 1,
            max_tokens: 256,
            answer_bytes_max: 64 << 10,
            reprobe_ms: 300_000,
            ask_degraded: false,
            waits_for_probe: false,
        }
    }
}

/// What keeps the controller from being made.
#[derive(Debug, thiserror::Error)]
pub enum LlmError {
    /// A setting cannot work.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The key is not there.
    #[error("environment variable {0}, which agent.llm_key_env names, holds no key that can be sent: set it")]
    Key(String),
    /// The HTTP client or its thread cannot be made.
    #[error("the client for the model's endpoint cannot be made: {0}")]
    Client(String),
}

impl LlmSettings {
    /// Checks what a model needs before it can be asked, without asking anybody: the URL, the model's name and the
    /// limits.
    ///
    /// # Errors
    /// [`Invalid`] for the first key that cannot work.
    pub fn check(&self) -> Verdict {
        let bad_url = |problem: String| {
            wrong("agent.llm_base_url", quoted(&self.base_url), problem, "write for example http://127.0.0.1:11434/v1")
        };
        let url = match reqwest::Url::parse(&self.base_url) {
            Ok(url) => url,
            Err(error) => return bad_url(format!("not a URL: {error}")),
        };
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return bad_url("not an http or https URL with a host".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return bad_url(
                "it holds a key or a query, and a key belongs in the variable of agent.llm_key_env".to_owned(),
            );
        }
        if self.model.is_empty() {
            let remedy = "name a model that the endpoint of agent.llm_base_url serves";
            return wrong("agent.llm_model", "\"\"", "empty, but agent.controller is llm", remedy);
        }
        self.check_limits()
    }

    /// Checks the limits alone, for a configuration in which no model is asked.
    ///
    /// # Errors
    /// [`Invalid`] for the first key that is out of range.
    pub fn check_limits(&self) -> Verdict {
        within("agent.llm_timeout_ms", self.timeout_ms, 1..=600_000)?;
        within("agent.llm_retries", self.retries, 0..=100)?;
        within("agent.llm_retry_budget_ms", self.retry_budget_ms, 0..=600_000)?;
        within("agent.llm_history", self.history, 0..=16)?;
        within("agent.llm_max_tokens", self.max_tokens, 1..=65_536)?;
        within("agent.llm_reprobe_ms", self.reprobe_ms, WAIT_MS)?;
        if !(0.0..=2.0).contains(&self.temperature) {
            return wrong("agent.llm_temperature", self.temperature, "not from 0 to 2", "write for example 0.0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named() {
        let good = LlmSettings { model: "m".to_owned(), ..LlmSettings::default() };
        good.check().unwrap();
        let url = |url: &str| LlmSettings { base_url: url.to_owned(), ..good.clone() };
        for (settings, words) in [
            (LlmSettings::default(), "agent.llm_model = \"\": empty"),
            (url("localhost:11434"), "agent.llm_base_url = \"localhost:11434\": not an http or https URL"),
            (url("ftp://x/v1"), "agent.llm_base_url = \"ftp://x/v1\": not an http or https URL"),
            (url("x"), "agent.llm_base_url = \"x\": not a URL"),
            (url("http://key@x/v1"), "agent.llm_key_env"),
            (LlmSettings { timeout_ms: 0, ..good.clone() }, "agent.llm_timeout_ms = 0: out of range"),
            (LlmSettings { temperature: f64::NAN, ..good.clone() }, "agent.llm_temperature = NaN: not from 0 to 2"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
