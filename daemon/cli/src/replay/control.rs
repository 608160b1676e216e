//! `rudder replay --controller`: the agent's decision loop over a trace, one run per controller, beside the same
//! capacity left alone and beside what a fixed capacity of the same memory over time would have done.

use super::ReplayArgs;
use super::report::Optimum;
use crate::CliError;
use rudder_agent::classifier::steer::ClassifierController;
use rudder_agent::controller::Controller;
use rudder_agent::guard::GuardSettings;
use rudder_agent::journal::Decision;
use rudder_agent::llm::{Llm, LlmSettings, LlmStatus};
use rudder_agent::rules::Off;
use rudder_agent::spec::ControllerSpec;
use rudder_core::cache::PolicySpec;
use rudder_lab::replay::{ControlSpec, Controlled, ReplaySpec, Replayed, Trace, replay_under};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The model of `--controller llm`.
#[derive(Debug, clap::Args)]
pub(super) struct LlmArgs {
    /// Base URL of an OpenAI-compatible endpoint, for --controller llm
    #[arg(long, value_name = "URL", default_value_t = LlmSettings::default().base_url)]
    llm_url: String,
    /// The model that it serves
    #[arg(long, value_name = "MODEL", default_value_t = LlmSettings::default().model)]
    llm_model: String,
    /// Milliseconds within which the model must decide
    #[arg(long, value_name = "MS", default_value_t = LlmSettings::default().timeout_ms)]
    llm_timeout_ms: u64,
    /// Environment variable that holds the endpoint's key
    #[arg(long, value_name = "NAME", default_value_t = LlmSettings::default().key_env)]
    llm_key_env: String,
    /// Ask a model that its probe found degraded all the same, to measure it
    #[arg(long)]
    llm_ask_degraded: bool,
}

/// Longest time that the probe of a model may take.
const PROBE_MAX: Duration = Duration::from_secs(1_800);

impl LlmArgs {
    /// The controller, probed: in a trace no time passes in which the rules could stand in for it.
    fn probed(&self) -> Result<(Llm, LlmStatus), CliError> {
        let llm = Llm::new(LlmSettings {
            base_url: self.llm_url.clone(),
            model: self.llm_model.clone(),
            timeout_ms: self.llm_timeout_ms,
            key_env: self.llm_key_env.clone(),
            ask_degraded: self.llm_ask_degraded,
            waits_for_probe: true,
            ..LlmSettings::default()
        })?;
        let status = llm.watch().probed(PROBE_MAX);
        Ok((llm, status))
    }
}

/// What bounds controllers in a replay.
const GUARD: GuardSettings = GuardSettings { cooldown_windows: 1, veto_windows: 20, rows_min: 64, keeps_useful: true };

/// What bounds one that draws its decisions. A veto would leave states in which it only ever holds, and slots that are
/// never given back a run in which growing is tried at its begin alone: nothing could be learned of them.
pub(crate) fn exploring() -> GuardSettings {
    GuardSettings { veto_windows: 0, keeps_useful: false, ..GUARD }
}

/// One controller over the trace.
#[derive(Debug, Serialize)]
pub(super) struct Steered {
    controller: String,
    policy: &'static str,
    lookahead: usize,
    hit_rate: f64,
    stall_rows: u64,
    /// All rows that crossed the network, those of tools included.
    network_rows: u64,
    tool_rows: u64,
    refreshed_rows: u64,
    stale_rows_served: u64,
    /// Network rows, and each stale row that was served as one more: what it would have cost to serve none.
    charged_rows: u64,
    fill_rows: u64,
    evictions: u64,
    /// Memory over time: the mean of the rows that might be held.
    mean_capacity_rows: f64,
    /// Network rows of policy and seed at a fixed capacity of `mean_capacity_rows`, without a controller.
    fixed_network_rows: u64,
    /// `network_rows` over that.
    ratio_to_fixed: f64,
    /// As `fixed_network_rows`, with each stale row that was served as one more.
    fixed_charged_rows: u64,
    /// `charged_rows` over that.
    charged_ratio_to_fixed: f64,
    /// Tool calls carried out, by tool.
    calls: BTreeMap<String, u64>,
    /// Decisions that the guard refused.
    refused: u64,
    /// Decisions in which the fallback stood in.
    fallbacks: u64,
    /// Decisions that were carried out with the effect that was expected, of those whose effect is known.
    expected_right: u64,
    expected_known: u64,
    seconds: f64,
    /// What was found of the model before it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    llm: Option<LlmStatus>,
    decisions: Vec<Decision>,
}

/// What is steered, and by whom.
pub(super) struct Course<'a> {
    pub(super) args: &'a ReplayArgs,
    pub(super) trace: &'a Trace,
    pub(super) prior: &'a [(u32, f32)],
    pub(super) distinct: u64,
}

impl Course<'_> {
    /// The controller of this description, and what a model's probe found.
    fn controller(&self, spec: &ControllerSpec) -> Result<(Box<dyn Controller>, Option<LlmStatus>), CliError> {
        match spec {
            ControllerSpec::Llm => {
                let (llm, status) = self.args.llm.probed()?;
                Ok((Box::new(llm), Some(status)))
            }
            ControllerSpec::Classifier(file) => {
                Ok((Box::new(ClassifierController::open(file, self.args.classifier_learning_rate)?), None))
            }
            _ => {
                let simple = spec.simple();
                let simple =
                    simple.ok_or_else(|| CliError::message(format!("controller {spec} cannot be replayed")))?;
                Ok((simple, None))
            }
        }
    }

    fn epochs(&self) -> u32 {
        let per_epoch = self.trace.meta.minibatches_per_epoch.max(1);
        u32::try_from((self.trace.minibatches() as u64).div_ceil(per_epoch)).unwrap_or(u32::MAX)
    }

    fn replay(
        &self,
        spec: ReplaySpec,
        controller: Option<Box<dyn Controller>>,
        guard: GuardSettings,
    ) -> Result<(Replayed, Option<Controlled>), CliError> {
        let args = self.args;
        let control = controller.map(|controller| ControlSpec {
            controller,
            window: args.window,
            ceiling_rows: args.ceiling.rows(self.distinct).max(spec.capacity_rows),
            updates: args.updates,
            guard,
            epochs: Some(self.epochs()),
            seed: args.seed,
        });
        Ok(replay_under(self.trace, spec, self.prior, control, &mut |_| ())?)
    }

    /// One controller at one capacity, with `policy` and a lookahead.
    pub(super) fn steer(&self, controller: &ControllerSpec, spec: ReplaySpec) -> Result<Steered, CliError> {
        let (decider, llm) = self.controller(controller)?;
        let begin = Instant::now();
        let guard = if matches!(controller, ControllerSpec::Explore(_)) { exploring() } else { GUARD };
        let (replayed, controlled) = self.replay(spec, Some(decider), guard)?;
        let seconds = begin.elapsed().as_secs_f64();
        let done = controlled.unwrap_or_default();
        let mean_capacity_rows = done.row_minibatches as f64 / self.trace.minibatches().max(1) as f64;
        let fixed = ReplaySpec { capacity_rows: mean_capacity_rows.round() as usize, ..spec };
        let (fixed, idle) = self.replay(fixed, Some(Box::new(Off)), GUARD)?;
        let fixed_charged_rows = fixed.network_rows + idle.unwrap_or_default().stale_rows_served;
        let steered = summarize(
            controller,
            spec.policy,
            spec.lookahead,
            (&replayed, done),
            (mean_capacity_rows, fixed.network_rows, fixed_charged_rows),
            seconds,
        );
        Ok(Steered { llm, ..steered })
    }
}

fn summarize(
    controller: &ControllerSpec,
    policy: PolicySpec,
    lookahead: usize,
    (replayed, done): (&Replayed, Controlled),
    (mean_capacity_rows, fixed_network_rows, fixed_charged_rows): (f64, u64, u64),
    seconds: f64,
) -> Steered {
    let count = |test: &dyn Fn(&&Decision) -> bool| done.decisions.iter().filter(test).count() as u64;
    let charged_rows = replayed.network_rows + done.stale_rows_served;
    let mut calls = BTreeMap::new();
    for decision in &done.decisions {
        *calls.entry(decision.call.tool().to_owned()).or_default() += 1;
    }
    Steered {
        controller: controller.to_string(),
        policy: policy.name(),
        lookahead,
        hit_rate: replayed.totals.hit_rate(),
        stall_rows: replayed.stall_rows,
        network_rows: replayed.network_rows,
        tool_rows: done.tool_rows,
        refreshed_rows: done.refreshed_rows,
        stale_rows_served: done.stale_rows_served,
        charged_rows,
        fixed_charged_rows,
        charged_ratio_to_fixed: charged_rows as f64 / fixed_charged_rows.max(1) as f64,
        fill_rows: replayed.fill_rows,
        evictions: replayed.evictions,
        mean_capacity_rows,
        fixed_network_rows,
        ratio_to_fixed: replayed.network_rows as f64 / fixed_network_rows.max(1) as f64,
        refused: count(&|decision| decision.outcome == "refused"),
        fallbacks: count(&|decision| decision.fallback.is_some()),
        expected_right: count(&|decision| decision.came_true() == Some(true)),
        expected_known: count(&|decision| decision.came_true().is_some()),
        calls,
        seconds,
        llm: None,
        decisions: done.decisions,
    }
}

/// All controllers at one capacity, beside the optimum.
#[derive(Debug, Serialize)]
pub(super) struct Contest {
    pub(super) trace: String,
    pub(super) universe: u64,
    pub(super) capacity_rows: usize,
    pub(super) requests: u64,
    pub(super) results: Vec<Steered>,
    /// At that capacity from begin to end.
    pub(super) opt: Optimum,
}

/// For people.
pub(super) fn table(results: &[Steered], requests: u64) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "controller",
        "policy",
        "hits %",
        "network %",
        "waited for %",
        "by tools %",
        "fills %",
        "stale served",
        "mean capacity",
        "of fixed",
        "grow/evict/refresh/hold",
        "refused",
        "fallback",
    ]);
    let percent = |rows: u64| format!("{:.2}", 100.0 * rows as f64 / requests.max(1) as f64);
    for result in results {
        let calls = ["grow", "evict", "refresh", "hold"].map(|tool| result.calls.get(tool).copied().unwrap_or(0));
        table.add_row([
            result.controller.clone(),
            result.policy.to_owned(),
            format!("{:.2}", 100.0 * result.hit_rate),
            percent(result.network_rows),
            percent(result.stall_rows),
            percent(result.tool_rows + result.refreshed_rows),
            percent(result.fill_rows),
            result.stale_rows_served.to_string(),
            format!("{:.0}", result.mean_capacity_rows),
            format!("{:.3}", result.ratio_to_fixed),
            calls.map(|calls| calls.to_string()).join("/"),
            result.refused.to_string(),
            result.fallbacks.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}
