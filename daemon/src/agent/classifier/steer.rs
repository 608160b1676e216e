//! The controller that asks a trained model. Owns how probabilities become a proposal: grow where the cache is short of slots and the
//! model finds growing worth it, else replace where there are candidates and it finds replacing worth it, else hold.

use super::features::{features, may_grow, may_replace};
use super::file::Model;
use super::samples::of_decision;
use super::{ClassifierError, Task};
use crate::agent::controller::{Controller, ControllerError, Impact, Proposal, View};
use crate::tools::{Evict, Grow, ToolCall};
use std::path::Path;

/// Share of the memory limit from which no growth is asked for; that of the rules.
const MEMORY_TIGHT: f64 = 0.85;

/// A trained classifier at work.
#[derive(Debug)]
pub struct ClassifierController {
    model: Model,
    /// Whether it learns from what its decisions did.
    learning: bool,
    /// Samples learned from.
    learned: u64,
    /// The tool last proposed, and the window: what the guard refused tells nothing.
    proposed: Option<(u64, &'static str)>,
}

impl ClassifierController {
    /// With the model of this file; `learning` has it learn from the effects of its decisions, where its kind can.
    ///
    /// # Errors
    /// Those of [`Model::read`].
    pub fn open(path: &Path, learning: bool) -> Result<Self, ClassifierError> {
        Ok(Self::new(Model::read(path)?, learning))
    }

    /// With this model.
    #[must_use]
    pub fn new(model: Model, learning: bool) -> Self {
        Self { model, learning, learned: 0, proposed: None }
    }

    /// Samples learned from since it began.
    #[must_use]
    pub fn learned(&self) -> u64 {
        self.learned
    }

    /// Learns what the last decision did.
    fn learn(&mut self, view: View<'_>) {
        let Some((last, before)) = view.past.split_last() else { return };
        let (Some(effect), Some((window, tool))) = (&last.effect, self.proposed) else { return };
        if last.seen.window != window || last.call.tool() != tool {
            return;
        }
        let then = View { now: &last.seen, past: before };
        for sample in of_decision(then, &last.call, effect) {
            self.learned += u64::from(self.model.learn(&sample));
        }
    }

    fn decide(&self, view: View<'_>) -> Proposal {
        let now = view.now;
        if now.hit_rate.is_none() {
            return Proposal::hold("idle: no remote rows were asked for");
        }
        let seen = features(view);
        let ask = |task| self.model.head(task).map(|head| (head.probability(&seen), head.amount()));
        let kind = self.model.kind;
        let mut held = Vec::new();
        if may_grow(now)
            && now.memory_share < MEMORY_TIGHT
            && let Some((probability, factor)) = ask(Task::Grow)
        {
            if probability > 0.5 {
                let call = ToolCall::Grow(Grow { factor: Some(factor), ..Grow::default() });
                let reason = format!("{kind}: growing is worth it with probability {probability:.3}");
                return Proposal { call, reason, expects: Impact::Up };
            }
            held.push(format!("growing is worth it with probability {probability:.3}"));
        }
        if may_replace(view)
            && let Some((probability, fraction)) = ask(Task::Replace)
        {
            if probability > 0.5 {
                let call = ToolCall::Evict(Evict { fraction, forget: false, table: None });
                let reason = format!("{kind}: replacing is worth it with probability {probability:.3}");
                return Proposal { call, reason, expects: Impact::Up };
            }
            held.push(format!("replacing is worth it with probability {probability:.3}"));
        }
        let why = if held.is_empty() { "nothing to choose".to_owned() } else { held.join(", ") };
        Proposal::hold(format!("{kind}: {why}"))
    }
}

impl Controller for ClassifierController {
    fn name(&self) -> &'static str {
        "classifier"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        if self.learning {
            self.learn(view);
        }
        let proposal = self.decide(view);
        self.proposed = Some((view.now.window, proposal.call.tool()));
        Ok(proposal)
    }
}
