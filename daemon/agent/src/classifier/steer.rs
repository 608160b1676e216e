//! The controller that asks a trained model. Owns how probabilities become a proposal: grow where the cache is short of
//! slots and the model finds growing worth it, else refresh where the rules would (no model learns it), else replace
//! where there are candidates and it finds replacing worth it, else hold.

use super::features::{features, may_grow, may_replace};
use super::file::Model;
use super::samples::of_decision;
use super::{ClassifierError, Kind, Task};
use crate::controller::{Controller, ControllerError, Impact, Proposal, View};
use crate::guard::MEMORY_TIGHT;
use crate::rules::Rules;
use crate::tools::{Evict, Grow, ToolCall};
use std::path::Path;

/// A trained classifier at work.
#[derive(Debug)]
pub struct ClassifierController {
    model: Model,
    /// Step by which it learns from what its decisions did; 0 to stay as it was trained.
    rate: f64,
    /// Samples learned from.
    learned: u64,
    /// The tool last proposed, and the window: what the guard refused tells nothing.
    proposed: Option<(u64, &'static str)>,
}

impl ClassifierController {
    /// With the model of this file. A `rate` above 0 has it learn from the effects of its decisions by steps of that
    /// length.
    ///
    /// # Errors
    /// Those of [`Model::read`], [`ClassifierError::Rate`] for a rate that is not from 0 to 1, and
    /// [`ClassifierError::CannotLearn`] for one above 0 and a model of trees or support vectors.
    pub fn open(path: &Path, rate: f64) -> Result<Self, ClassifierError> {
        // Also false of what is no number.
        if !(0.0..=1.0).contains(&rate) {
            return Err(ClassifierError::Rate(rate));
        }
        let model = Model::read(path)?;
        if rate > 0.0 && !matches!(model.kind, Kind::Lr | Kind::Mlp) {
            return Err(ClassifierError::CannotLearn { path: path.to_owned(), kind: model.kind });
        }
        Ok(Self::new(model, rate))
    }

    /// With this model, learning by steps of `rate`.
    #[must_use]
    pub fn new(model: Model, rate: f64) -> Self {
        Self { model, rate, learned: 0, proposed: None }
    }

    /// Samples learned from since it began.
    #[must_use]
    pub fn learned(&self) -> u64 {
        self.learned
    }

    /// Learns what the last decision did.
    fn learn(&mut self, view: View<'_>) {
        let Some((last, before)) = view.past.split_last() else { return };
        let Some((window, tool)) = self.proposed else { return };
        if last.effect.is_none() || last.seen.window != window || last.call.tool() != tool {
            return;
        }
        let then = View { now: &last.seen, past: before };
        let times = (window as f64, view.now.window as f64);
        for sample in of_decision(then, &last.call, view.now, times) {
            self.learned += u64::from(self.model.learn(&sample, self.rate));
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
        if let Some(refresh) = Rules::refresh(view) {
            return Proposal { reason: format!("rules stand in: {}", refresh.reason), ..refresh };
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
        if self.rate > 0.0 {
            self.learn(view);
        }
        let proposal = self.decide(view);
        self.proposed = Some((view.now.window, proposal.call.tool()));
        Ok(proposal)
    }
}
