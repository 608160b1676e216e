//! The main job on one machine: real daemons in processes of their own, a real graph, a real GNN; the same seeds under
//! each cache policy, and every received row checked. It owns the order of things ([`run`]) and the result
//! ([`DemoReport`]).
//!
//! **It must never** measure a policy on anything that another policy did not get alike, and it never prints: who calls
//! it shows the result, and hears how far it is by [`Watch`].

mod choice;
mod control;
mod debian;
mod drive;
mod error;
mod features;
mod gemm;
mod graph;
mod mapped;
mod powerlaw;
mod prepare;
mod recording;
mod report;
mod rng;
mod sage;
mod sampler;
mod trainer;
mod watch;

use std::path::{Path, PathBuf};

use rudder_daemon::config::{AgentConfig, Policy};
use rudder_settings::Capacity;
use rudder_stage::{LinkSpeed, Say, Site, Stage, assume_role, certify, find_daemon, link};
use serde_json::{Map, Value, json};

use crate::drive::{Outcome, Plan, Variant};
use crate::prepare::{Prepared, Recipe};
use crate::watch::Labelled;

pub use crate::choice::GraphChoice;
pub use crate::error::DemoError;
pub use crate::report::{DaemonReport, DemoReport, GraphReport, RunReport, Sharing, sharing};
pub use crate::watch::Watch;

/// Longest window of a controller.
const WINDOW_MS_MAX: u64 = 60_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct DemoSpec {
    /// The graph.
    pub graph: GraphChoice,
    /// Nodes: one daemon and one partition each.
    pub nodes: u16,
    /// Trainer processes per node.
    pub trainers: u32,
    /// Epochs per run.
    pub epochs: u32,
    /// Floats per feature row.
    pub dim: u32,
    /// Cache of each node.
    pub capacity: Capacity,
    /// Policies to compare, in this order.
    pub policies: Vec<Policy>,
    /// Minibatches announced ahead; each policy runs with each.
    pub lookaheads: Vec<u32>,
    /// Epoch from which on other vertices are the seeds.
    pub shift: Option<u32>,
    /// Seeds per minibatch of a trainer.
    pub batch: u32,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Whether everything runs a second time with a daemon for each trainer.
    pub private: bool,
    /// Folder for traces of the first run.
    pub trace: Option<PathBuf>,
    /// Who steers the caches, with the settings of the agent that are not the demo's own.
    pub agent: AgentConfig,
    /// Fetches of a node per decision.
    pub window: u64,
    /// Speed of the links between the daemons; `None` for loopback.
    pub link: Option<LinkSpeed>,
    /// Whether the run folder is kept.
    pub keep: bool,
}

/// What came of a demo.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The result.
    pub report: DemoReport,
    /// Share of the largest class among the test vertices: what a constant guess would get.
    pub largest_class_share: f64,
    /// Whether every run ended with the same parameters, bit for bit.
    pub same_model: bool,
}

impl DemoSpec {
    /// The runs, in their order: all with shared daemons first.
    fn variants(&self) -> Vec<Variant> {
        let sharing = if self.private { &[false, true][..] } else { &[false] };
        let each = |private| {
            let of_policy =
                move |policy| self.lookaheads.iter().map(move |&lookahead| Variant { policy, lookahead, private });
            self.policies.iter().copied().flat_map(of_policy)
        };
        sharing.iter().copied().flat_map(each).collect()
    }

    /// Decisions come with the work: a window ends after a number of fetches, however long they take.
    fn agent(&self) -> AgentConfig {
        AgentConfig {
            window_ms: WINDOW_MS_MAX,
            window_minibatches: self.window,
            epochs: self.epochs,
            ..self.agent.clone()
        }
    }

    fn plan(&self, record: bool) -> Plan {
        Plan {
            trainers: self.trainers,
            epochs: self.epochs,
            shift: self.shift,
            batch: self.batch as usize,
            dim: self.dim,
            capacity: self.capacity,
            seed: self.seed,
            record,
        }
    }

    /// What made a trace, for its `meta.json`.
    fn about(&self) -> Map<String, Value> {
        let Value::Object(about) = json!({
            "graph": self.graph.to_string(), "nodes": self.nodes, "trainers": self.trainers, "epochs": self.epochs,
            "batch": self.batch, "seed": self.seed, "shift": self.shift,
        }) else {
            return Map::new();
        };
        about
    }
}

/// Plays the part of one of the demo's children, as `file` says.
///
/// # Errors
/// The role cannot be read, or fails.
pub fn play(file: &Path) -> Result<(), DemoError> {
    let role: trainer::TrainerRole = assume_role(file)?;
    trainer::play(&role)
}

/// Runs the demo.
///
/// # Errors
/// Whatever went wrong, with the culprit. Wrong rows are no error of the run: they are in the report.
pub fn run(spec: &DemoSpec, watch: &dyn Watch, say: Say) -> Result<Finished, DemoError> {
    let program = find_daemon()?;
    make_folders(spec)?;
    let (stage, folder) = Stage::set(spec.keep, say)?;
    let recipe = Recipe { graph: spec.graph, nodes: spec.nodes, dim: spec.dim, seed: spec.seed };
    let prepared = prepare::prepare(&folder, recipe, watch)?;
    let site = site(&stage, &folder, program, &prepared, spec)?;
    let variants = spec.variants();
    let steps = u64::from(spec.epochs) * u64::from(spec.plan(false).steps_per_epoch(&prepared));
    watch.steps(variants.len() as u64 * steps);
    let mut outcomes = Vec::new();
    for (run, &variant) in variants.iter().enumerate() {
        let label = format!("run {} of {}, {variant}", run + 1, variants.len());
        let watch = Labelled { label, watch };
        // The accesses depend on the seeds alone: those of the first run are those of all.
        let plan = spec.plan(outcomes.is_empty() && spec.trace.is_some());
        let suffix = if variant.private { "-private" } else { "" };
        let place = folder.join(format!("{}-{}{suffix}", variant.policy, variant.lookahead));
        std::fs::create_dir_all(&place).map_err(DemoError::file("create", &place))?;
        let outcome = drive::run(&stage, &site, &prepared, plan, variant, &place, &watch).map_err(|error| {
            if error.may_hide_a_death() { stage.death().map_or(error, DemoError::Stage) } else { error }
        })?;
        if let Some(dir) = spec.trace.as_ref().filter(|_| plan.record) {
            recording::write(dir, &prepared.dataset, &outcome.accesses, spec.epochs, &spec.about())?;
        }
        outcomes.push(outcome);
    }
    drop(stage);
    Ok(finish(spec, prepared, outcomes))
}

/// The folders that results go to. They are made first: a training that cannot be written is not begun.
fn make_folders(spec: &DemoSpec) -> Result<(), DemoError> {
    let journal = Some(&spec.agent.journal.path).filter(|path| !path.as_os_str().is_empty());
    let make = |path: &PathBuf| std::fs::create_dir_all(path).map_err(DemoError::file("create", path));
    spec.trace.iter().chain(journal).try_for_each(make)
}

/// Certificates and, with a link speed, the links.
fn site(
    stage: &Stage,
    folder: &Path,
    program: PathBuf,
    prepared: &Prepared,
    spec: &DemoSpec,
) -> Result<Site, DemoError> {
    let certificates = folder.join("certs");
    certify(&certificates, spec.nodes)?;
    let ports = match spec.link {
        Some(speed) => link::connect(stage, spec.nodes, speed)?,
        None => Vec::new(),
    };
    Ok(Site {
        program,
        dataset: prepared.dataset.clone(),
        dataset_bytes: prepared.report.vertices * u64::from(spec.dim) * 4,
        certificates,
        nodes: spec.nodes,
        agent: spec.agent(),
        ports,
    })
}

fn finish(spec: &DemoSpec, prepared: Prepared, outcomes: Vec<Outcome>) -> Finished {
    let same_model = outcomes.windows(2).all(|pair| pair[0].model == pair[1].model);
    let runs: Vec<RunReport> = outcomes.into_iter().map(|outcome| outcome.report).collect();
    let report = DemoReport {
        graph: prepared.report,
        dim: spec.dim,
        epochs: spec.epochs,
        trainers: spec.trainers,
        sharing: sharing(&runs),
        runs,
    };
    Finished { report, largest_class_share: prepared.largest_class_share, same_model }
}
