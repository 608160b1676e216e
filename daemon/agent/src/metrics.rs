//! The agent's metrics: what it decided, how long that took, what the guard refused and what came true. Owns the
//! handles.

use super::controller::ControllerError;
use super::guard::RULES;
use super::journal::Decision;
use crate::tools::ToolCall;
use prometheus::core::Collector;
use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts};

/// Seconds; from a rule to a model on a busy CPU.
const DECISION_SECONDS: [f64; 10] = [1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Handles of the agent's metrics; clones share them.
#[derive(Debug, Clone)]
pub struct AgentMetrics {
    decisions: IntCounterVec,
    seconds: Histogram,
    refusals: IntCounterVec,
    fallbacks: IntCounterVec,
    predictions: IntCounterVec,
    lost: IntCounter,
    info: IntGaugeVec,
    effect: GaugeVec,
}

fn first_word(text: &str) -> &str {
    text.split(':').next().unwrap_or_default()
}

impl AgentMetrics {
    /// New handles of an agent with this controller. Counters stand at zero from the start, so that the first event is
    /// an increase.
    ///
    /// # Errors
    /// When a metric cannot be made.
    pub fn new(controller: &str) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let seconds = HistogramOpts::new("rudder_agent_decision_seconds", "Time that the controller took.");
        let metrics = Self {
            decisions: counter(
                "rudder_agent_decisions_total",
                "Decisions of the agent.",
                &["controller", "tool", "outcome"],
            )?,
            seconds: Histogram::with_opts(seconds.buckets(DECISION_SECONDS.to_vec()))?,
            refusals: counter("rudder_agent_refusals_total", "Proposals that the guard refused.", &["rule"])?,
            fallbacks: counter(
                "rudder_agent_fallbacks_total",
                "Decisions that the rules made because the controller gave no answer.",
                &["reason"],
            )?,
            predictions: counter(
                "rudder_agent_predictions_total",
                "Decisions whose expected impact came true, or did not.",
                &["outcome"],
            )?,
            lost: IntCounter::new(
                "rudder_agent_journal_lost_total",
                "Decisions that could not be written to the journal's file.",
            )?,
            info: IntGaugeVec::new(
                Opts::new("rudder_agent_info", "Constant 1 while an agent runs, with its controller as label."),
                &["controller"],
            )?,
            effect: GaugeVec::new(
                Opts::new(
                    "rudder_agent_last_effect_hit_ratio",
                    "Change of the hit rate over the window after the last call of the tool.",
                ),
                &["tool"],
            )?,
        };
        metrics.begin(controller);
        Ok(metrics)
    }

    fn begin(&self, controller: &str) {
        self.info.with_label_values(&[controller]).set(1);
        for tool in ToolCall::schemas().iter().map(|schema| schema.name).filter(|&name| name != "warm") {
            // What is refused is held.
            let outcomes: &[&str] = if tool == "hold" { &["done", "refused"] } else { &["done", "clamped", "failed"] };
            outcomes.iter().for_each(|outcome| _ = self.decisions.with_label_values(&[controller, tool, *outcome]));
        }
        RULES.iter().for_each(|rule| _ = self.refusals.with_label_values(&[*rule]));
        ControllerError::OUTCOMES.iter().for_each(|reason| _ = self.fallbacks.with_label_values(&[*reason]));
        ["right", "wrong"].iter().for_each(|outcome| _ = self.predictions.with_label_values(&[*outcome]));
    }

    /// A decision was made and carried out.
    pub fn decision(&self, decision: &Decision) {
        let Decision { controller, call, outcome, latency_ms, .. } = decision;
        self.decisions.with_label_values(&[controller, call.tool(), outcome]).inc();
        self.seconds.observe(latency_ms / 1e3);
        if let Some(reason) = &decision.fallback {
            self.fallbacks.with_label_values(&[first_word(reason)]).inc();
        }
        if let ("refused", Some(note)) = (outcome.as_str(), &decision.note) {
            self.refusals.with_label_values(&[first_word(note)]).inc();
        }
    }

    /// What a decision did is known.
    pub fn effect(&self, decision: &Decision) {
        if let Some(effect) = decision.effect.filter(|_| decision.was_done()) {
            let outcome = if effect.as_expected { "right" } else { "wrong" };
            self.predictions.with_label_values(&[outcome]).inc();
            self.effect.with_label_values(&[decision.call.tool()]).set(effect.hit_rate.1 - effect.hit_rate.0);
        }
    }

    /// So many decisions were not written.
    pub fn lost(&self, lost: u64) {
        self.lost.inc_by(lost.saturating_sub(self.lost.get()));
    }

    /// What is registered.
    #[must_use]
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.decisions.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.refusals.clone()),
            Box::new(self.fallbacks.clone()),
            Box::new(self.predictions.clone()),
            Box::new(self.lost.clone()),
            Box::new(self.info.clone()),
            Box::new(self.effect.clone()),
        ]
    }
}
