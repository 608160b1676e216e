//! What the llm controller is configured by, with its defaults and what is wrong with a setting. It reads no file and opens
//! nothing.

use serde::{Deserialize, Serialize};

/// How a model is asked; from the keys of section `[agent]` that begin with `llm_`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmSettings {
    /// Base URL of an OpenAI-compatible endpoint, up to and with its version: `http://127.0.0.1:11434/v1`.
    pub base_url: String,
    /// The model, by the name that the endpoint knows it by.
    pub model: String,
    /// Name of the environment variable that holds the key; empty if none is needed.
    pub key_env: String,
    /// Milliseconds within which a decision must be answered, retries included.
    pub timeout_ms: u64,
    /// Milliseconds within which a request of the probe must be answered: the first pays for the whole prompt.
    pub probe_timeout_ms: u64,
    /// Times that a request is repeated after a lost connection, status 429 or 5xx.
    pub retries: u32,
    /// Milliseconds that may be waited before repetitions, together.
    pub retry_budget_ms: u64,
    /// Past decisions that the model is shown with what they did.
    pub history: usize,
    /// Sampling temperature. 0 makes most endpoints repeat themselves.
    pub temperature: f64,
    /// Seed of the sampling, where the endpoint has one.
    pub seed: i64,
    /// Tokens that an answer may have.
    pub max_tokens: u32,
    /// Bytes of a response beyond which it is given up.
    pub answer_bytes_max: usize,
    /// Milliseconds until a model that was found degraded is probed again.
    pub reprobe_ms: u64,
    /// Asks a model that was found degraded all the same; for measuring such a model.
    pub ask_degraded: bool,
    /// Waits for a probe that is under way instead of answering that it is; for replays, in which no time passes while the
    /// rules stand in.
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
    /// The base URL cannot be used.
    #[error("agent.llm_base_url `{url}` {problem}; it reads like http://127.0.0.1:11434/v1")]
    BaseUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No model is named.
    #[error("agent.llm_model is empty: name a model that the endpoint serves")]
    NoModel,
    /// A number is out of its bounds.
    #[error("agent.llm_{key} is {value}; it must be {bounds}")]
    Bounds {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        bounds: &'static str,
    },
    /// The key is not there.
    #[error("environment variable {0}, which agent.llm_key_env names, holds no key that can be sent: set it")]
    Key(String),
    /// The HTTP client or its thread cannot be made.
    #[error("the client for the model's endpoint cannot be made: {0}")]
    Client(String),
}

impl LlmSettings {
    /// Checks what can be checked without asking anybody.
    ///
    /// # Errors
    /// [`LlmError`] of the first setting that cannot be used.
    pub fn check(&self) -> Result<(), LlmError> {
        let bad_url = |problem: String| LlmError::BaseUrl { url: self.base_url.clone(), problem };
        let url = reqwest::Url::parse(&self.base_url).map_err(|error| bad_url(format!("is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(bad_url("is no http or https URL with a host".to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(bad_url("holds a key or a query; name the key's variable in agent.llm_key_env".to_owned()));
        }
        if self.model.is_empty() {
            return Err(LlmError::NoModel);
        }
        let within = |key, value: u64, most: u64, bounds| {
            let wrong = value == 0 || value > most;
            if wrong { Err(LlmError::Bounds { key, value: value.to_string(), bounds }) } else { Ok(()) }
        };
        within("timeout_ms", self.timeout_ms, 600_000, "1 to 600000")?;
        within("probe_timeout_ms", self.probe_timeout_ms, 600_000, "1 to 600000")?;
        within("max_tokens", u64::from(self.max_tokens), 1 << 16, "1 to 65536")?;
        within("answer_bytes_max", self.answer_bytes_max as u64, 16 << 20, "1 to 16777216")?;
        within("reprobe_ms", self.reprobe_ms, u64::MAX, "above 0")?;
        if !(0.0..=2.0).contains(&self.temperature) {
            let value = self.temperature.to_string();
            return Err(LlmError::Bounds { key: "temperature", value, bounds: "0 to 2" });
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
        for (settings, culprit) in [
            (LlmSettings::default(), "model is empty"),
            (url("localhost:11434"), "base_url"),
            (url("ftp://x/v1"), "no http or https"),
            (url("http://key@x/v1"), "key_env"),
            (LlmSettings { timeout_ms: 0, ..good.clone() }, "timeout_ms is 0"),
            (LlmSettings { temperature: f64::NAN, ..good.clone() }, "temperature is NaN"),
            (LlmSettings { answer_bytes_max: 1 << 30, ..good.clone() }, "answer_bytes_max"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(culprit), "{error}");
        }
    }
}
