//! Puts the agent on a running node: which controller, what it looks at and what it can do. It owns nothing: the
//! agent's threads are the agent's.

use super::StartError;
use crate::config::{AgentConfig, Config, Policy};
use crate::serve::Engine;
use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use rudder_agent::classifier::steer::ClassifierController;
use rudder_agent::cluster::ClusterView;
use rudder_agent::controller::Controller;
use rudder_agent::llm::{Llm, LlmWatch};
use rudder_agent::run::{Agent, Hands, Look, Sight};
use rudder_agent::scrape::counters;
use rudder_agent::snapshot::Counters;
use rudder_agent::spec::ControllerSpec;
use rudder_dataset::Dataset;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

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
    if config.agent.controller == ControllerSpec::Off {
        return Ok(None);
    }
    let (controller, llm) = controller(&config.agent)?;
    let cluster = &config.agent.cluster;
    let cluster = (!cluster.url.is_empty()).then(|| ClusterView::new(cluster.clone()));
    let ceilings = ceilings(config, dataset);
    let mut settings = config.agent.clone();
    if matches!(settings.controller, ControllerSpec::Explore(_)) {
        // A veto would leave states in which exploring only ever holds: nothing could be learned of them.
        settings.guard.veto_windows = 0;
    }
    // Every node draws its own jitter, so that the nodes of a cluster do not act at once.
    let seed = config.cache.seed.wrapping_add(u64::from(config.node.index()));
    let hands = hands(engine, network, collectors, (cluster, ceilings))?;
    let agent = Agent::start(settings, (config.node.index(), seed), controller, hands);
    agent.map(|agent| Some(Steering { agent, llm })).map_err(StartError::Agent)
}

/// The controller, and a look at the model that it asks, if it is one that does.
fn controller(config: &AgentConfig) -> Result<(Box<dyn Controller>, Option<LlmWatch>), StartError> {
    match &config.controller {
        ControllerSpec::Llm => {
            let llm = Llm::new(config.llm.clone()).map_err(failed)?;
            let watch = llm.watch();
            Ok((Box::new(llm), Some(watch)))
        }
        ControllerSpec::Classifier(file) => {
            let controller = ClassifierController::open(file, config.classifier_learning_rate)?;
            Ok((Box::new(controller), None))
        }
        spec => {
            let simple = spec.simple().ok_or_else(|| failed(format!("agent.controller: {spec} cannot be started")))?;
            Ok((simple, None))
        }
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
