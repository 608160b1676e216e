//! `rudder demo`: the main job on one machine. Owns the arguments and what is printed; the demo itself is
//! [`rudder_demo`]'s. It must never exit with success where a received row was wrong.

mod bar;
mod words;

use std::path::PathBuf;

use clap::error::ErrorKind;
use rudder_agent::journal::JournalSettings;
use rudder_agent::llm::LlmSettings;
use rudder_agent::spec::ControllerSpec;
use rudder_daemon::config::{AgentConfig, Policy};
use rudder_demo::{DemoError, DemoSpec, Finished, GraphChoice, RunReport};
use rudder_settings::Capacity;
use rudder_stage::LinkSpeed;

use super::{CliError, style};
use bar::Bar;
use words::Footnotes;

/// Most trainer processes of one demo.
const PROCESSES_MAX: u32 = 256;
/// Most minibatches that are announced ahead, as for `lookahead.horizon`.
const LOOKAHEAD_MAX: i64 = 65_536;

/// Arguments of `rudder demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// The graph: `debian` (package dependencies, 63,436 vertices) or `powerlaw:VERTICES` (generated)
    #[arg(long, value_name = "GRAPH", default_value = "debian")]
    graph: GraphChoice,
    /// Nodes: one rudderd and one partition each
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: u16,
    /// Trainer processes per node
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    trainers: u32,
    /// Epochs per policy
    #[arg(long, value_name = "E", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: u32,
    /// Floats per feature row
    #[arg(long, value_name = "D", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    dim: u32,
    /// Cache of each node: a number of rows, a share of the rows of other nodes, or a size such as 64MiB
    #[arg(long, value_name = "CAPACITY", default_value_t = Capacity::Share(0.15))]
    capacity: Capacity,
    /// Policies to compare, in this order
    #[arg(
        long,
        value_name = "POLICY",
        value_delimiter = ',',
        default_values_t = [Policy::None, Policy::Periodic, Policy::Epoch]
    )]
    policy: Vec<Policy>,
    /// Minibatches that trainers announce ahead; several values give a run of each policy with each
    #[arg(long, value_name = "BATCHES", value_delimiter = ',', default_values_t = [0],
        value_parser = clap::value_parser!(u32).range(0..=LOOKAHEAD_MAX))]
    lookahead: Vec<u32>,
    /// From this epoch on, other vertices are the seeds, so that the accesses shift
    #[arg(long, value_name = "EPOCH", value_parser = clap::value_parser!(u32).range(1..))]
    shift: Option<u32>,
    /// Seeds per minibatch of a trainer
    #[arg(long, value_name = "SEEDS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Seed of all random choices
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Run everything a second time with one daemon per trainer, each with an equal part of the capacity, and compare
    #[arg(long)]
    private: bool,
    /// Record what the trainers of each node ask for, as traces in DIR/node0, DIR/node1, ... for `rudder replay`
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    /// Who steers the caches while the trainers run: `off`, `rules`, `llm`, `classifier:FILE`, `schedule:N` or
    /// `explore:SEED` (random decisions, to train classifiers on)
    #[arg(long, value_name = "CONTROLLER", default_value_t = ControllerSpec::Off)]
    controller: ControllerSpec,
    /// Fetches of a node per decision, with a controller
    #[arg(long, value_name = "MINIBATCHES", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// Size to which a controller may grow each cache, in the forms of --capacity
    #[arg(long, value_name = "CAPACITY", default_value_t = Capacity::Share(0.5))]
    ceiling: Capacity,
    /// Step by which a classifier learns from each of its decisions (lr and mlp only); 0 to stay as it was trained
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = super::not_negative)]
    classifier_learning_rate: f64,
    /// Base URL of the model's OpenAI-compatible endpoint, for --controller llm
    #[arg(long, value_name = "URL", default_value_t = LlmSettings::default().base_url)]
    llm_url: String,
    /// The model that it serves
    #[arg(long, value_name = "MODEL", default_value_t = LlmSettings::default().model)]
    llm_model: String,
    /// Milliseconds within which the model must decide
    #[arg(long, value_name = "MS", default_value_t = LlmSettings::default().timeout_ms)]
    llm_timeout_ms: u64,
    /// Ask the model even if its probe found it degraded, to see what it would do
    #[arg(long)]
    llm_ask_degraded: bool,
    /// Keep the journals of decisions in DIR: POLICY-LOOKAHEAD-node0.jsonl and so on; `rudder decisions` reads them
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,
    /// Join the daemons by links of this speed (100mbit, 2.5Gbit/s, or bits per second), in network namespaces; needs
    /// root
    #[arg(long, value_name = "SPEED")]
    link: Option<LinkSpeed>,
    /// Keep the run folder (dataset, configurations, logs) and say where it is
    #[arg(long)]
    keep: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// What a child process of the demo is to do
    #[arg(long, value_name = "FILE", hide = true, exclusive = true)]
    role: Option<PathBuf>,
}

impl DemoArgs {
    /// What no single argument can know; `Err` is for people.
    fn check(&self) -> Result<(), String> {
        let processes = u32::from(self.nodes) * self.trainers;
        if processes > PROCESSES_MAX {
            return Err(format!(
                "{} nodes with {} trainers each are {processes} processes, and at most {PROCESSES_MAX} are started: \
                 lower --nodes or --trainers",
                self.nodes, self.trainers
            ));
        }
        if let Some(policy) = repeated(&self.policy) {
            return Err(format!("--policy names {policy} twice: name each policy once"));
        }
        if let Some(lookahead) = repeated(&self.lookahead) {
            return Err(format!("--lookahead names {lookahead} twice: name each lookahead once"));
        }
        if self.private && self.trainers == 1 {
            return Err(
                "--private compares trainers that share a daemon with trainers that do not: with one trainer per \
                        node there is nothing to share; raise --trainers"
                    .to_owned(),
            );
        }
        if self.controller == ControllerSpec::Llm && self.llm_model.is_empty() {
            return Err("--controller llm needs --llm-model: the name of a model that the endpoint serves".to_owned());
        }
        if self.controller == ControllerSpec::Contrary {
            return Err("--controller contrary is for `rudder replay` only: no daemon starts it".to_owned());
        }
        match self.shift {
            Some(shift) if shift >= self.epochs => {
                Err(format!("--shift {shift} never comes: the epochs are 0 to {}", self.epochs - 1))
            }
            _ => Ok(()),
        }
    }
}

/// The first value that stands there a second time.
fn repeated<T: PartialEq>(values: &[T]) -> Option<&T> {
    values.iter().enumerate().find(|(place, value)| values[..*place].contains(value)).map(|(_, value)| value)
}

impl DemoArgs {
    fn spec(&self) -> DemoSpec {
        let agent = AgentConfig {
            controller: self.controller.clone(),
            ceiling: Some(self.ceiling),
            classifier_learning_rate: self.classifier_learning_rate,
            deadline_ms: self.llm_timeout_ms,
            llm: LlmSettings {
                base_url: self.llm_url.clone(),
                model: self.llm_model.clone(),
                timeout_ms: self.llm_timeout_ms,
                ask_degraded: self.llm_ask_degraded,
                ..LlmSettings::default()
            },
            journal: JournalSettings { path: self.journal.clone().unwrap_or_default(), ..JournalSettings::default() },
            ..AgentConfig::default()
        };
        DemoSpec {
            graph: self.graph,
            nodes: self.nodes,
            trainers: self.trainers,
            epochs: self.epochs,
            dim: self.dim,
            capacity: self.capacity,
            policies: self.policy.clone(),
            lookaheads: self.lookahead.clone(),
            shift: self.shift,
            batch: self.batch,
            seed: self.seed,
            private: self.private,
            trace: self.trace.clone(),
            agent,
            window: self.window,
            link: self.link,
            keep: self.keep,
        }
    }
}

/// Runs the demo, or plays the part of one of its children.
///
/// # Errors
/// Whatever went wrong, with the culprit; also if a received row was wrong.
pub fn run(args: &DemoArgs) -> Result<(), CliError> {
    if let Some(file) = &args.role {
        return Ok(rudder_demo::play(file)?);
    }
    if let Err(problem) = args.check() {
        clap::Error::raw(ErrorKind::ValueValidation, format!("{problem}\n")).exit();
    }
    let watch = Bar::new(style::columns(std::io::stderr()));
    let finished = rudder_demo::run(&args.spec(), &watch, style::say)?;
    watch.clear();
    publish(args, &finished)
}

fn publish(args: &DemoArgs, finished: &Finished) -> Result<(), CliError> {
    let Finished { report, largest_class_share, same_model } = finished;
    if args.json {
        style::print_json_line(report)?;
    } else {
        let notes = Footnotes {
            graph: args.graph.to_string(),
            link: args.link.map_or_else(|| "over loopback".to_owned(), |speed| format!("over links of {speed}")),
            shift: args.shift,
            largest_class_share: *largest_class_share,
            same_model: *same_model,
            columns: usize::from(style::columns(std::io::stdout())),
        };
        style::print(&words::in_words(report, &notes))?;
        if let Some(dir) = &args.trace {
            let last = args.nodes - 1;
            style::print(&format!(
                "\nThe accesses of each node, for `rudder replay`:\n{0}/node0 to {0}/node{last}\n",
                dir.display()
            ))?;
        }
    }
    let sum = |count: fn(&RunReport) -> u64| report.runs.iter().map(count).sum();
    let (wrong, checked) = (sum(|run| run.wrong_rows), sum(|run| run.rows_checked));
    if wrong > 0 {
        return Err(DemoError::WrongRows { wrong, checked }.into());
    }
    if *same_model { Ok(()) } else { Err(DemoError::Models.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(words: &[&str]) -> Result<DemoArgs, String> {
        let wrapper = Wrapper::try_parse_from(std::iter::once(&"demo").chain(words)).map_err(|e| e.to_string())?;
        wrapper.demo.check().map(|()| wrapper.demo)
    }

    #[test]
    fn policies_may_be_repeated_or_in_a_list() {
        assert_eq!(parse(&[]).unwrap().policy, [Policy::None, Policy::Periodic, Policy::Epoch]);
        assert_eq!(parse(&["--policy", "epoch,none"]).unwrap().policy, [Policy::Epoch, Policy::None]);
        assert_eq!(parse(&["--policy", "epoch", "--policy", "none"]).unwrap().policy, [Policy::Epoch, Policy::None]);
    }

    #[test]
    fn wrong_arguments_are_refused_by_name() {
        for (words, says) in [
            (&["--nodes", "1"][..], "2..=64"),
            (&["--nodes", "64", "--trainers", "64"], "4096 processes"),
            (&["--policy", "epoch,epoch"], "epoch twice"),
            (&["--policy", "none,"], "unknown policy ``"),
            (&["--lookahead", "0,0"], "0 twice"),
            (&["--lookahead", "8,0,4,08"], "8 twice"),
            (&["--lookahead", "0", "--lookahead", "0"], "0 twice"),
            (&["--lookahead", "0,,8"], "--lookahead"),
            (&["--lookahead", "4294967295"], "0..=65536"),
            (&["--lookahead=-1"], "0..=65536"),
            (&["--policy", "fifo"], "fifo"),
            (&["--capacity", "1.5"], "1.5"),
            (&["--graph", "powerlaw:7"], "`7` is not a number of vertices"),
            (&["--link", "10apples"], "`10apples` is not the speed of a link: write a number and a unit (100mbit"),
            (&["--link", "10"], "`10` is not from 1 Mbit/s"),
            (&["--epochs", "0"], "1..=10000"),
            (&["--dim", "0"], "1..=32768"),
            (&["--shift", "8"], "never comes"),
            (&["--private"], "raise --trainers"),
            (&["--controller", "llm"], "needs --llm-model"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }
}
