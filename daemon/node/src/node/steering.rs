//! Puts the agent on a running node: which controller, what it looks at and what it can do. It owns nothing: the agent's
//! threads are the agent's.

use super::StartError;
use crate::config::{AgentConfig, Config, Policy};
use crate::serve::Engine;
use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use rudder_agent::classifier::steer::ClassifierController;
use rudder_agent::cluster::{ClusterSettings, ClusterView};
use rudder_agent::controller::Controller;
use rudder_agent::guard::GuardSettings;
use rudder_agent::journal::JournalSettings;
use rudder_agent::llm::{Llm, LlmSettings, LlmWatch};
use rudder_agent::run::{Agent, Hands, Look, RunSettings, Sight};
use rudder_agent::scrape::counters;
use rudder_agent::snapshot::Counters;
use rudder_agent::spec::ControllerSpec;
use rudder_dataset::Dataset;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Fewest rows that a decision may leave a cache with.
const ROWS_MIN: u64 = 1024;

/// Time over which the rates of the cluster are taken: several scrapes at the usual intervals.
const CLUSTER_RANGE: Duration = Duration::from_secs(120);

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StartError {
    StartError::Agent(error.into())
}

/// A running agent, and a look at the model that it asks.
pub(super) struct Steering {
    pub(super) agent: Agent,
    llm: Option<LlmWatch>,
}

impl Steering {
    /// Who decides, and what was decided last.
    pub(super) fn status(&self) -> Value {
        let last = self.agent.decisions(1).pop();
        json!({
            "controller": self.agent.controller(),
            "decisions": last.as_ref().map_or(0, |last| last.number),
            "last_tool": last.as_ref().map(|last| last.call.tool()),
            "last_outcome": last.as_ref().map(|last| last.outcome.clone()),
            "last_reason": last.as_ref().map(|last| last.reason.clone()),
            "llm": self.llm.as_ref().map(LlmWatch::status),
        })
    }
}

/// Starts the agent of a node, unless it is off.
pub(super) fn start_agent(
    config: &Config,
    dataset: &Dataset,
    engine: &Arc<Engine>,
    network: &Handle,
    collectors: Vec<Box<dyn Collector>>,
) -> Result<Option<Steering>, StartError> {
    let spec: ControllerSpec = config.agent.controller.parse().map_err(|error: String| failed(error))?;
    if spec == ControllerSpec::Off {
        return Ok(None);
    }
    let (controller, llm) = controller(&spec, &config.agent)?;
    let cluster = cluster_view(&config.agent);
    let mut settings = settings(config);
    let ceilings = ceilings(config, dataset);
    if matches!(spec, ControllerSpec::Explore(_)) {
        // A veto would leave states in which exploring only ever holds: nothing could be learned of them.
        settings.guard.veto_windows = 0;
    }
    let agent = Agent::start(settings, controller, hands(engine, network, collectors, (cluster, ceilings))?);
    agent.map(|agent| Some(Steering { agent, llm })).map_err(StartError::Agent)
}

/// The controller, and a look at the model that it asks, if it is one that does.
fn controller(
    spec: &ControllerSpec,
    config: &AgentConfig,
) -> Result<(Box<dyn Controller>, Option<LlmWatch>), StartError> {
    match spec {
        ControllerSpec::Llm => {
            let llm = Llm::new(llm_settings(config)).map_err(failed)?;
            let watch = llm.watch();
            Ok((Box::new(llm), Some(watch)))
        }
        ControllerSpec::Classifier(file) => {
            let controller = ClassifierController::open(file, config.classifier_learning_rate)?;
            Ok((Box::new(controller), None))
        }
        _ => {
            let simple = spec.simple().ok_or_else(|| failed(format!("agent.controller: {spec} cannot be started")))?;
            Ok((simple, None))
        }
    }
}

fn llm_settings(config: &AgentConfig) -> LlmSettings {
    LlmSettings {
        base_url: config.llm_base_url.clone(),
        model: config.llm_model.clone(),
        key_env: config.llm_key_env.clone(),
        timeout_ms: config.llm_timeout_ms,
        retries: config.llm_retries,
        retry_budget_ms: config.llm_retry_budget_ms,
        history: config.llm_history,
        temperature: config.llm_temperature,
        max_tokens: config.llm_max_tokens,
        reprobe_ms: config.llm_reprobe_ms,
        ask_degraded: config.llm_ask_degraded,
        ..LlmSettings::default()
    }
}

/// The cached tables, each with the rows that the agent may let its cache grow to.
fn ceilings(config: &Config, dataset: &Dataset) -> Vec<(String, u64)> {
    let cached = dataset.tables().iter().filter(|table| config.cache.for_table(&table.name).1 != Policy::None);
    let ceilings = cached.map(|table| {
        let (capacity, _) = config.cache.for_table(&table.name);
        let remote_rows = table.rows - table.book.owned(dataset.node());
        (table.name.clone(), config.agent.ceiling.unwrap_or(capacity).rows(remote_rows, table.row_bytes))
    });
    ceilings.collect()
}

fn settings(config: &Config) -> RunSettings {
    let AgentConfig { window_ms, window_minibatches, jitter, deadline_ms, epochs, .. } = config.agent;
    RunSettings {
        window: Duration::from_millis(window_ms),
        window_minibatches,
        jitter,
        deadline: Duration::from_millis(deadline_ms),
        epochs: (epochs > 0).then_some(epochs),
        node: config.node.index,
        guard: GuardSettings {
            cooldown_windows: config.agent.cooldown_windows,
            veto_windows: config.agent.veto_windows,
            rows_min: ROWS_MIN,
            keeps_useful: true,
        },
        journal: JournalSettings {
            path: Some(config.agent.journal.clone()).filter(|path| !path.as_os_str().is_empty()),
            bytes_max: config.agent.journal_bytes_max,
            files_max: config.agent.journal_files_max,
            decisions_max: config.agent.decisions_max,
        },
        seed: config.cache.seed.wrapping_add(u64::from(config.node.index)),
    }
}

/// The whole cluster, if a Prometheus server is named that scrapes it.
fn cluster_view(config: &AgentConfig) -> Option<ClusterView> {
    let settings = ClusterSettings {
        url: config.prometheus_url.clone(),
        selector: config.prometheus_selector.clone(),
        timeout: Duration::from_millis(config.prometheus_timeout_ms),
        range: CLUSTER_RANGE,
    };
    (!settings.url.is_empty()).then(|| ClusterView::new(settings))
}

/// Looks at the metrics as a scrape would see them, and calls tools as HTTP would.
fn hands(
    engine: &Arc<Engine>,
    network: &Handle,
    collectors: Vec<Box<dyn Collector>>,
    (mut cluster, ceilings): (Option<ClusterView>, Vec<(String, u64)>),
) -> Result<Hands, StartError> {
    let registry = Registry::new();
    for collector in collectors {
        registry.register(collector).map_err(failed)?;
    }
    let started = Instant::now();
    let looking = (Arc::clone(engine), network.clone());
    let acting = (Arc::clone(engine), network.clone());
    let counting = Arc::clone(engine);
    Ok(Hands {
        look: Box::new(move |look| {
            let mut cluster_now = None;
            if look == Look::Closely {
                let (engine, network) = &looking;
                network.block_on(engine.survey());
                cluster_now = cluster.as_mut().and_then(ClusterView::look);
            }
            let sights = sights(&registry.gather(), started.elapsed().as_secs_f64(), &ceilings).into_iter();
            let with_cluster =
                |sight: Sight| Sight { counters: Counters { cluster: cluster_now, ..sight.counters }, ..sight };
            sights.map(with_cluster).collect()
        }),
        minibatches: Box::new(move || counting.fetches()),
        act: Box::new(move |call| {
            let (engine, network) = &acting;
            network.block_on(engine.tool(call)).map_err(|error| error.to_string())
        }),
    })
}

/// What there is to see of each cached table. Where only one is cached it is not named: calls are about it anyway.
fn sights(families: &[MetricFamily], seconds: f64, tables: &[(String, u64)]) -> Vec<Sight> {
    let of = |(table, ceiling): &(String, u64)| {
        let counters = counters(families, seconds, Some(table));
        let ceiling_rows = counters.ceiling_rows.min(*ceiling.max(&counters.capacity_rows));
        let name = (tables.len() > 1).then(|| table.clone());
        Sight { table: name, counters: Counters { ceiling_rows, ..counters } }
    };
    match tables {
        [] => vec![Sight { table: None, counters: counters(families, seconds, None) }],
        tables => tables.iter().map(of).collect(),
    }
}
