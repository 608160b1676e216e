//! One question to the model: prompt, request, response, decision. It owns how these are put together.

use super::super::controller::{Proposal, View};
use super::endpoint::{Endpoint, Fault};
use super::schema::{ChatRequest, Form, Message, Mode, form, offers};
use super::settings::{LlmError, LlmSettings};
use super::{answer, prompt};

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// No response.
    Fault(Fault),
    /// A response that is no decision.
    Invalid(String),
}

/// Asks one model.
pub(super) struct Asker {
    settings: LlmSettings,
    endpoint: Endpoint,
    prefix: String,
    forms: [Form; 3],
}

impl Asker {
    pub(super) fn new(settings: &LlmSettings) -> Result<Self, LlmError> {
        let offers = offers();
        Ok(Self {
            endpoint: Endpoint::new(settings)?,
            settings: settings.clone(),
            prefix: prompt::prefix(&offers),
            forms: [Mode::Schema, Mode::Tools, Mode::Text].map(|mode| form(mode, &offers)),
        })
    }

    pub(super) fn probe_timeout_ms(&self) -> u64 {
        self.settings.probe_timeout_ms
    }

    /// Asks what to do after the window of `view`.
    pub(super) async fn ask(&self, view: View<'_>, mode: Mode, timeout_ms: u64) -> Result<Proposal, Unanswered> {
        let state = prompt::state(view, self.settings.history);
        let [schema, tools, text] = &self.forms;
        let request = ChatRequest {
            model: &self.settings.model,
            messages: [Message { role: "system", content: &self.prefix }, Message { role: "user", content: &state }],
            temperature: self.settings.temperature,
            seed: self.settings.seed,
            max_tokens: self.settings.max_tokens,
            stream: false,
            form: match mode {
                Mode::Schema => schema,
                Mode::Tools => tools,
                Mode::Text => text,
            },
        };
        let response = self.endpoint.complete(&request, timeout_ms).await.map_err(Unanswered::Fault)?;
        answer::read(&response, mode).map_err(Unanswered::Invalid)
    }
}
