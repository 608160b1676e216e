//! What classifiers learn from: decisions with their measured effects. Owns the label.
//!
//! **The label.** A decision's *gain* is the paper's `z(change of the hit rate) - z(change of rows fetched again) -
//! z(change of the fetch time)`, from the window before it to the window after it, z-scored over the samples of the
//! task. Rows fetched again are counted as all rows over the network per remote row, those that the tool itself brought
//! included; the fetch time is the share of remote rows that a trainer waited for, which a replay knows as well as a
//! daemon does. A gain above 0 *helped*. The label of a sample is yes, *acting was worth it*, if an action helped or if
//! holding did not: where actions were drawn evenly (`explore:SEED`), its probability exceeds one half exactly where
//! acting helps more often than holding does (class variable transformation of uplift modelling, Jaskowski and
//! Jaroszewicz 2012).

use super::Task;
use super::features::{Features, features, may_grow, may_replace};
use super::numbers::{DEVIATION_MIN, all_finite, moments};
use crate::controller::View;
use crate::snapshot::Snapshot;
use crate::tools::{Evict, Grow, ToolCall};
use serde::{Deserialize, Serialize};

/// One decision where there was a choice, and what it did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The choice.
    pub task: Task,
    /// What was seen.
    pub features: Features,
    /// Whether the action was taken.
    pub acted: bool,
    /// How far: the fraction that was replaced, the factor of growth; 0 where it was not taken.
    pub amount: f64,
    /// Change of the hit rate.
    pub hit_rate_change: f64,
    /// Change of the rows over the network per remote row.
    pub network_change: f64,
    /// Change of the share of remote rows that a trainer waited for.
    pub wait_change: f64,
    /// When the decision was made, on the clock of its source.
    pub begin: f64,
    /// When the window after it was over.
    pub end: f64,
}

/// Makes gains of changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gain {
    /// Mean and standard deviation of the change of the hit rate.
    pub hit_rate: (f64, f64),
    /// Mean and standard deviation of the change of the network share.
    pub network: (f64, f64),
    /// Mean and standard deviation of the change of the share waited for.
    pub wait: (f64, f64),
}

impl Gain {
    /// That of these samples.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        Self {
            hit_rate: moments(samples.iter().map(|sample| sample.hit_rate_change)),
            network: moments(samples.iter().map(|sample| sample.network_change)),
            wait: moments(samples.iter().map(|sample| sample.wait_change)),
        }
    }

    /// That these are moments of changes, which were measured.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { hit_rate, network, wait } = self;
        for (name, (mean, deviation)) in [("hit_rate", hit_rate), ("network", network), ("wait", wait)] {
            all_finite(name, &[*mean, *deviation], 2)?;
            if *deviation <= DEVIATION_MIN {
                return Err(format!("{name}: a deviation of {deviation}"));
            }
        }
        Ok(())
    }

    /// Whether what was done helped.
    #[must_use]
    pub fn helped(&self, sample: &Sample) -> bool {
        let z = |value: f64, (mean, deviation): (f64, f64)| (value - mean) / deviation;
        let costs = z(sample.network_change, self.network) + z(sample.wait_change, self.wait);
        z(sample.hit_rate_change, self.hit_rate) - costs > 0.0
    }

    /// The label: whether acting was worth it.
    #[must_use]
    pub fn label(&self, sample: &Sample) -> bool {
        self.helped(sample) == sample.acted
    }
}

/// The samples that one decision gives, made after the window of `view` and before that of `after`, at `times`: none
/// where there was no choice or a window without remote rows, two where there were two choices and it held.
#[must_use]
pub fn of_decision(view: View<'_>, call: &ToolCall, after: &Snapshot, times: (f64, f64)) -> Vec<Sample> {
    let now = view.now;
    let (Some(hit_rate), Some(hit_rate_after)) = (now.hit_rate, after.hit_rate) else { return Vec::new() };
    let sample = |task, acted, amount| Sample {
        task,
        features: features(view),
        acted,
        amount,
        hit_rate_change: hit_rate_after - hit_rate,
        network_change: after.network_share() - now.network_share(),
        wait_change: after.stall_share - now.stall_share,
        begin: times.0,
        end: times.1,
    };
    let (may_grow, may_replace) = (may_grow(view.now), may_replace(view));
    let mut samples = Vec::new();
    match call {
        ToolCall::Evict(Evict { fraction, forget: false, .. }) if may_replace => {
            samples.push(sample(Task::Replace, true, *fraction));
        }
        ToolCall::Grow(Grow { factor: Some(factor), .. }) if may_grow && *factor > 1.0 => {
            samples.push(sample(Task::Grow, true, *factor));
        }
        ToolCall::Hold(_) => {
            samples.extend(may_replace.then(|| sample(Task::Replace, false, 0.0)));
            samples.extend(may_grow.then(|| sample(Task::Grow, false, 0.0)));
        }
        _ => {}
    }
    let finite = |sample: &Sample| sample.hit_rate_change + sample.network_change + sample.wait_change;
    samples.retain(|sample| finite(sample).is_finite());
    samples
}
