//! `rudder train`: trains a classifier controller from traces and journals, and says how good it is on samples that it
//! did not see. Owns the arguments and what is printed; models and labels are [`rudder_agent::classifier`]'s.

mod collect;

use super::{CliError, style};
use collect::Collecting;
use rudder_agent::classifier::file::{Head, Model};
use rudder_agent::classifier::{ClassifierError, Kind, Task};
use rudder_lab::classifier::evaluate::{Evaluation, Split, fit_and_evaluate, of_task, split};
use rudder_lab::classifier::sources::Source;
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `rudder train`.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// What to learn from: folders of traces, which are replayed under random decisions, journals of the agent,
    /// and results of `rudder replay --controller explore:SEED --json`
    #[arg(value_name = "TRACE|JOURNAL", required = true)]
    sources: Vec<PathBuf>,
    /// Model: `lr` (logistic regression), `mlp` (multi-layer perceptron), `rf` (random forest), `gbt` (boosted trees)
    /// or `svm` (support vector machine)
    #[arg(long, value_name = "MODEL")]
    model: Kind,
    /// Where the trained model goes; a daemon loads it with `agent.controller = "classifier:FILE"`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Share of the sources that the model is tested on and not fitted to: whole traces, and all journals of a folder.
    /// With a single source, the share of it that came last
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    held_out: f64,
    /// Test on these traces and journals instead, and fit to all others
    #[arg(long, value_name = "TRACE|JOURNAL", num_args = 1.., conflicts_with = "held_out")]
    test: Vec<PathBuf>,
    #[command(flatten)]
    collecting: Collecting,
    /// Seed of the random decisions, of the split and of the model
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share) && *share > 0.0);
    share.ok_or_else(|| format!("`{text}` is not a share above 0 and below 1"))
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Trained {
    model: &'static str,
    file: PathBuf,
    /// What it was tested on.
    held_out: Vec<String>,
    tasks: Vec<Evaluation>,
    /// Tasks with too few samples to learn from, and why.
    left_out: Vec<String>,
}

impl TrainArgs {
    fn read(&self, paths: &[PathBuf]) -> Result<Vec<Source>, CliError> {
        paths.iter().map(|path| self.collecting.samples(path, self.seed)).collect()
    }

    fn split(&self) -> Result<Split, CliError> {
        let sources = self.read(&self.sources)?;
        if self.test.is_empty() {
            return Ok(split(sources, self.held_out, self.seed));
        }
        let test = self.read(&self.test)?;
        if let Some(both) = test.iter().find(|source| sources.iter().any(|other| other.name == source.name)) {
            let why = "is among the sources and under --test: what a model was fitted to tells nothing about it";
            return Err(CliError::message(format!("{} {why}", both.name)));
        }
        let mut from: Vec<String> = test.iter().map(|source| source.name.clone()).collect();
        from.dedup();
        let all = |sources: Vec<Source>| sources.into_iter().flat_map(|source| source.samples).collect();
        Ok(Split { fitted: all(sources), held_out: all(test), from })
    }
}

/// Trains, tests and writes a model.
///
/// # Errors
/// If a source cannot be read, there is too little to learn from, or the model cannot be written.
pub fn run(args: &TrainArgs) -> Result<(), CliError> {
    let Split { fitted, held_out, from } = args.split()?;
    let (mut tasks, mut left_out) = (Vec::new(), Vec::new());
    let mut learn = |task| -> Result<Option<Head>, ClassifierError> {
        let (fitted, held_out) = (of_task(&fitted, task, args.seed), of_task(&held_out, task, args.seed));
        match fit_and_evaluate(args.model, task, &fitted, &held_out, args.seed) {
            Ok((head, evaluation)) => {
                tasks.push(evaluation);
                Ok(Some(head))
            }
            Err(error @ (ClassifierError::TooFew { .. } | ClassifierError::NothingHeldOut { .. })) => {
                left_out.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    let (replace, grow) = (learn(Task::Replace)?, learn(Task::Grow)?);
    if replace.is_none() && grow.is_none() {
        return Err(CliError::message(left_out.join("; ")));
    }
    Model::new(args.model, replace, grow).write(&args.out)?;
    let trained = Trained { model: args.model.name(), file: args.out.clone(), held_out: from, tasks, left_out };
    if args.json { style::print_json(&trained) } else { style::print(&format!("{}\n", in_words(&trained))) }
}

fn in_words(trained: &Trained) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "task",
        "fitted: worth/not",
        "held out: worth/not",
        "accuracy %",
        "majority %",
        "precision %",
        "recall %",
        "fitted %",
    ]);
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let maybe = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
    for task in &trained.tasks {
        table.add_row([
            task.task.to_string(),
            format!("{}/{}", task.worth, task.samples - task.worth),
            format!("{}/{}", task.held_out_worth, task.held_out - task.held_out_worth),
            percent(task.accuracy),
            percent(task.majority),
            maybe(task.precision),
            maybe(task.recall),
            percent(task.fitted_accuracy),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    let lines = table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let left_out: String = trained.left_out.iter().map(|why| format!("\nnot learned: {why}")).collect();
    let (model, file, from) = (trained.model, trained.file.display(), trained.held_out.join(", "));
    format!("{model} model in {file}, tested on {from}\n{lines}{left_out}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_lab::replay::Trace;
    use std::path::Path;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: TrainArgs,
    }

    /// A trace of 120 minibatches over 4,000 ids of which a tenth is asked for half the time.
    fn trace(dir: &Path, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut minibatch = |_| {
            let mut ids: Vec<u32> =
                (0..200).map(|_| if random.bool() { random.u32(0..400) } else { random.u32(0..4000) }).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let minibatches: Vec<Vec<u32>> = (0..120).map(&mut minibatch).collect();
        Trace::new(4000, 12, &minibatches, Vec::new(), serde_json::Map::new()).unwrap().write(dir).unwrap();
    }

    fn train(dir: &Path, out: &str, more: &str) -> Result<Model, CliError> {
        let text = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let line = format!("train {} --model lr --window 3 --out {} {more}", text("a"), text(out));
        let args =
            <Line as clap::Parser>::try_parse_from(line.split(' ').filter(|word| !word.is_empty())).unwrap().args;
        run(&args)?;
        Ok(Model::read(&args.out)?)
    }

    #[test]
    fn a_trace_becomes_a_model_and_the_same_one_each_time() {
        let dir = tempfile::tempdir().unwrap();
        trace(&dir.path().join("a"), 1);
        trace(&dir.path().join("b"), 2);
        let first = train(dir.path(), "one.json", "--replays 12").unwrap();
        assert_eq!(first, train(dir.path(), "two.json", "--replays 12").unwrap());
        assert!(first.head(Task::Replace).is_some() && first.head(Task::Grow).is_some());
        let other = format!("--replays 12 --test {}", dir.path().join("b").display());
        assert_ne!(first, train(dir.path(), "three.json", &other).unwrap(), "fitted to all of it");
        let same = format!("--replays 1 --test {}", dir.path().join("a").display());
        let error = train(dir.path(), "four.json", &same).unwrap_err().to_string();
        assert!(error.contains("trace a is among the sources and under --test"), "{error}");
        assert!(!dir.path().join("four.json").exists());
        let error = train(dir.path(), "five.json", "--replays 1 --seed 3").unwrap_err().to_string();
        assert!(error.contains("replace: ") && error.contains("grow: ") && error.contains("more --replays"), "{error}");
    }
}
