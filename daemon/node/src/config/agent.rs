//! Section `[agent]`: who steers the cache, how often, and within what bounds. It must never know how a controller decides.

use rudder_settings::{Capacity, byte_size};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Section `[agent]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Who decides: `rules`, `llm`, `classifier:FILE`, `schedule:N` (every N windows), `explore:SEED` (draws decisions, to train
    /// classifiers on) or `off`.
    pub controller: String,
    /// Length of a window, after which a decision is made, in milliseconds.
    pub window_ms: u64,
    /// Fetches after which a window ends sooner; 0 = never.
    pub window_minibatches: u64,
    /// Share of its length by which each window is made longer or shorter at random.
    pub jitter: f64,
    /// Longest wait for the controller, in milliseconds; then the rules decide.
    pub deadline_ms: u64,
    /// Rows that the agent may grow each cache to; not set = what the caches hold at the start.
    pub ceiling: Option<Capacity>,
    /// Epochs of the run, so that nothing costly is done near its end; 0 = not known.
    pub epochs: u32,
    /// Windows after a call of a tool in which the agent may not call it again; growth excepted.
    pub cooldown_windows: u64,
    /// Windows for which a tool is vetoed that made things worse twice in like states.
    pub veto_windows: u64,
    /// The journal of decisions, as JSON lines; empty = in memory only.
    pub journal: PathBuf,
    /// Size from which the journal is put aside and begun anew.
    #[serde(with = "byte_size")]
    pub journal_bytes_max: u64,
    /// Journals kept beside the one that is written.
    pub journal_files_max: u32,
    /// Decisions kept in memory for `/v1/decisions`.
    pub decisions_max: usize,
    /// Step by which a classifier learns from each of its decisions (`lr` and `mlp` only); 0 = it stays as it was trained.
    pub classifier_learning_rate: f64,
    /// Base URL of a Prometheus server that scrapes the whole cluster, for the agent to see how the others are doing; empty = not asked.
    pub prometheus_url: String,
    /// Label matchers by which that server knows the cluster's daemons.
    pub prometheus_selector: String,
    /// Longest wait for that server, once per window, in milliseconds.
    pub prometheus_timeout_ms: u64,
    /// Base URL of an OpenAI-compatible endpoint, up to and with its version, for controller `llm`.
    pub llm_base_url: String,
    /// The model, by the name that the endpoint knows it by.
    pub llm_model: String,
    /// Name of the environment variable that holds the endpoint's key; empty if none is needed.
    pub llm_key_env: String,
    /// Time within which the model must answer, repetitions included, in milliseconds.
    pub llm_timeout_ms: u64,
    /// Times that a request is repeated after a lost connection, status 429 or 5xx.
    pub llm_retries: u32,
    /// Longest wait before repetitions, all together, in milliseconds.
    pub llm_retry_budget_ms: u64,
    /// Past decisions that the model is shown with what they did.
    pub llm_history: usize,
    /// Sampling temperature.
    pub llm_temperature: f64,
    /// Tokens that an answer may have.
    pub llm_max_tokens: u32,
    /// Time until a model that was found degraded is probed again, in milliseconds.
    pub llm_reprobe_ms: u64,
    /// Whether a model that was found degraded is asked all the same, to study it: the guard judges what it says, as ever.
    pub llm_ask_degraded: bool,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            controller: "rules".to_owned(),
            window_ms: 10_000,
            window_minibatches: 0,
            jitter: 0.1,
            deadline_ms: 5_000,
            ceiling: None,
            epochs: 0,
            cooldown_windows: 1,
            veto_windows: 20,
            journal: PathBuf::new(),
            journal_bytes_max: 16 << 20,
            journal_files_max: 4,
            decisions_max: 1_000,
            classifier_learning_rate: 0.0,
            prometheus_url: String::new(),
            prometheus_selector: "job=\"rudder\"".to_owned(),
            prometheus_timeout_ms: 1_000,
            llm_base_url: "http://127.0.0.1:11434/v1".to_owned(),
            llm_model: String::new(),
            llm_key_env: String::new(),
            llm_timeout_ms: 5_000,
            llm_retries: 2,
            llm_retry_budget_ms: 2_000,
            llm_history: 5,
            llm_temperature: 0.0,
            llm_max_tokens: 256,
            llm_reprobe_ms: 300_000,
            llm_ask_degraded: false,
        }
    }
}

/// Whether `text` reads like a controller.
pub(super) fn is_controller(text: &str) -> bool {
    match text.split_once(':') {
        None => matches!(text, "rules" | "llm" | "off"),
        Some(("schedule", windows)) => windows.parse::<u64>().is_ok_and(|windows| windows > 0),
        Some(("classifier", file)) => !file.is_empty(),
        Some(("explore", seed)) => seed.parse::<u64>().is_ok(),
        Some(_) => false,
    }
}
