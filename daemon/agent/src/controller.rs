//! The interface of a controller: it sees a window and what its last decisions did, and proposes one tool call. It owns
//! the words that controllers, guard and journal share. A controller is deterministic in its inputs, but for what a
//! model says.

use super::snapshot::Snapshot;
use crate::tools::{Hold, ToolCall};
use serde::{Deserialize, Serialize};

/// What a proposal is expected to do to the hit rate of the next window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Impact {
    /// It rises.
    Up,
    /// It stays.
    #[default]
    Same,
    /// It falls.
    Down,
}

/// Change of the hit rate, in shares, below which it counts as the same.
pub const SAME_RATE: f64 = 0.01;

impl Impact {
    /// What became of the hit rate from one window to the next.
    #[must_use]
    pub fn between(before: f64, after: f64) -> Self {
        match after - before {
            change if change > SAME_RATE => Impact::Up,
            change if change < -SAME_RATE => Impact::Down,
            _ => Impact::Same,
        }
    }

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Impact::Up => "up",
            Impact::Same => "same",
            Impact::Down => "down",
        }
    }
}

/// What a controller wants done.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The tool call.
    pub call: ToolCall,
    /// Why, in a sentence: a rule's name, a model's words.
    pub reason: String,
    /// What it is expected to do.
    pub expects: Impact,
}

impl Proposal {
    /// Nothing to do.
    #[must_use]
    pub fn hold(reason: impl Into<String>) -> Self {
        Self { call: ToolCall::Hold(Hold {}), reason: reason.into(), expects: Impact::Same }
    }
}

/// What a decision did, measured over the window after it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Hit rate before and after.
    pub hit_rate: (f64, f64),
    /// Rows that crossed the network per remote row, before and after.
    pub network_share: (f64, f64),
    /// Whether the impact was as expected.
    pub as_expected: bool,
}

impl Effect {
    /// From the windows before and after a decision; nothing if one of them asked for no remote rows.
    #[must_use]
    pub fn between(before: &Snapshot, after: &Snapshot, expected: Impact) -> Option<Self> {
        let hit_rate = (before.hit_rate?, after.hit_rate?);
        Some(Self {
            hit_rate,
            network_share: (before.network_share(), after.network_share()),
            as_expected: Impact::between(hit_rate.0, hit_rate.1) == expected,
        })
    }

    /// Whether network traffic rose without more hits. It rose if the network share went up by at least one percentage
    /// point and by more than `noise`, its normal variation.
    #[must_use]
    pub fn made_worse(&self, noise: f64) -> bool {
        self.network_change() > noise.max(SAME_RATE) && Impact::between(self.hit_rate.0, self.hit_rate.1) != Impact::Up
    }

    /// Change of the rows that crossed the network per remote row.
    #[must_use]
    pub fn network_change(&self) -> f64 {
        self.network_share.1 - self.network_share.0
    }
}

/// A decision of the past as controllers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// What was seen.
    pub seen: Snapshot,
    /// What was done, after the guard.
    pub call: ToolCall,
    /// What was expected of what was proposed.
    pub expected: Impact,
    /// What it did, once the window after it was over.
    pub effect: Option<Effect>,
    /// Where the guard refused what was proposed: then nothing was done, and the expectation says nothing.
    pub refused: Option<Refused>,
    /// Whether the fallback decided, for want of an answer.
    pub by_fallback: bool,
}

/// A proposal that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The tool.
    pub tool: &'static str,
    /// The rule of the guard.
    pub rule: &'static str,
}

impl Past {
    /// What was done after `seen`, as proposed.
    #[must_use]
    pub fn new(seen: Snapshot, call: ToolCall, expected: Impact) -> Self {
        Self { seen, call, expected, effect: None, refused: None, by_fallback: false }
    }
}

/// What a controller decides by.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The window that ended.
    pub now: &'a Snapshot,
    /// The last decisions, oldest first.
    pub past: &'a [Past],
}

impl View<'_> {
    /// Windows since the tool of this name was last called; a large number if it was not, as far as is remembered.
    #[must_use]
    pub fn windows_since(&self, tool: &str) -> u64 {
        let last = self.past.iter().rev().find(|past| past.call.tool() == tool);
        last.map_or(u64::MAX, |past| self.now.window.saturating_sub(past.seen.window))
    }

    /// The same, for calls that the guard refused, too.
    #[must_use]
    pub fn windows_since_tried(&self, tool: &str) -> u64 {
        let tried = |past: &&Past| past.refused.is_some_and(|refused| refused.tool == tool);
        let refused = self.past.iter().rev().find(tried);
        let since = refused.map_or(u64::MAX, |past| self.now.window.saturating_sub(past.seen.window));
        since.min(self.windows_since(tool))
    }
}

/// Who decides.
pub trait Controller: Send {
    /// The name in configuration, metrics and journal.
    fn name(&self) -> &'static str;

    /// Proposes what to do after the window of `view`.
    ///
    /// # Errors
    /// [`ControllerError`] when there is no answer of its own; the fallback then stands in.
    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError>;
}

/// Why a controller has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// Its answer did not come in time.
    #[error("no answer within {0} ms")]
    Late(u64),
    /// What it answered is no decision.
    #[error("no valid decision: {0}")]
    Invalid(String),
    /// It cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It was found unfit when it was probed, and is not asked.
    #[error("degraded: {0}")]
    Degraded(String),
}

impl ControllerError {
    /// All that [`Self::outcome`] may answer.
    pub const OUTCOMES: [&str; 4] = ["late", "invalid", "unreachable", "degraded"];

    /// The outcome and why, as the journal has it.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            ControllerError::Unreachable(_) | ControllerError::Degraded(_) => self.to_string(),
            _ => format!("{}: {self}", self.outcome()),
        }
    }

    /// The outcome in metrics and journal.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            ControllerError::Late(_) => "late",
            ControllerError::Invalid(_) => "invalid",
            ControllerError::Unreachable(_) => "unreachable",
            ControllerError::Degraded(_) => "degraded",
        }
    }
}
