//! `rudder train`: trains a classifier controller from journals and replays, and says how good it is on samples that it did not
//! see. Owns the arguments and what is printed; models and labels are [`crate::agent::classifier`]'s.

#![allow(clippy::print_stdout)]

use super::CliError;
use crate::agent::classifier::evaluate::{Evaluation, fit_and_evaluate, of_task, split};
use crate::agent::classifier::file::{Head, Model};
use crate::agent::classifier::samples::{self, Sample};
use crate::agent::classifier::{ClassifierError, Kind, Task};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `rudder train`.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Journals of the agent, and results of `rudder replay --controller ... --json`
    #[arg(value_name = "JOURNAL", required = true)]
    journals: Vec<PathBuf>,
    /// Model: `lr` (logistic regression), `mlp` (multi-layer perceptron), `rf` (random forest), `gbt` (boosted trees) or `svm`
    /// (support vector machine)
    #[arg(long, value_name = "MODEL")]
    model: Kind,
    /// Where the trained model goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Share of the samples that the model is tested on and not fitted to
    #[arg(long, value_name = "SHARE", default_value_t = 0.25, value_parser = share)]
    held_out: f64,
    /// Test on these journals instead of on a share: on another graph, say
    #[arg(long, value_name = "JOURNAL", num_args = 1.., conflicts_with = "held_out")]
    test: Vec<PathBuf>,
    /// Seed of the split and of the model
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share) && *share > 0.0);
    share.ok_or_else(|| format!("`{text}` is no share above 0 and below 1"))
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Trained {
    model: &'static str,
    file: PathBuf,
    tasks: Vec<Evaluation>,
    /// Tasks that there was too little to learn of, and why.
    left_out: Vec<String>,
}

fn read(journals: &[PathBuf]) -> Result<Vec<Sample>, ClassifierError> {
    let each: Result<Vec<_>, _> = journals.iter().map(|path| samples::read(path)).collect();
    Ok(each?.concat())
}

/// Trains, tests and writes a model.
///
/// # Errors
/// If a journal cannot be read, holds too little to learn from, or the model cannot be written.
pub fn run(args: &TrainArgs) -> Result<(), CliError> {
    let all = read(&args.journals)?;
    let test = read(&args.test)?;
    let mut trained =
        Trained { model: args.model.name(), file: args.out.clone(), tasks: Vec::new(), left_out: Vec::new() };
    let mut learn = |task| -> Result<Option<Head>, ClassifierError> {
        let of_this = of_task(&all, task, args.seed);
        let (fitted, held_out) = if args.test.is_empty() {
            split(&of_this, args.held_out, args.seed)
        } else {
            (of_this, of_task(&test, task, args.seed))
        };
        match fit_and_evaluate(args.model, task, &fitted, &held_out, args.seed) {
            Ok((head, evaluation)) => {
                trained.tasks.push(evaluation);
                Ok(Some(head))
            }
            Err(error @ ClassifierError::TooFew { .. }) => {
                trained.left_out.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    };
    let (replace, grow) = (learn(Task::Replace)?, learn(Task::Grow)?);
    if replace.is_none() && grow.is_none() {
        return Err(CliError::message(trained.left_out.join("; ")));
    }
    Model::new(args.model, replace, grow).write(&args.out)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&trained)?);
    } else {
        println!("{}", in_words(&trained));
    }
    Ok(())
}

fn in_words(trained: &Trained) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header([
        "task",
        "samples",
        "worth %",
        "held out",
        "accuracy %",
        "majority %",
        "online %",
        "act: right/wrong",
        "hold: right/wrong",
    ]);
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    for task in &trained.tasks {
        let confusion = task.confusion;
        table.add_row([
            task.task.to_string(),
            task.samples.to_string(),
            percent(task.worth as f64 / task.samples.max(1) as f64),
            task.held_out.to_string(),
            percent(task.accuracy),
            percent(task.majority),
            task.online_accuracy.map_or_else(|| "-".to_owned(), percent),
            format!("{}/{}", confusion.true_act, confusion.false_act),
            format!("{}/{}", confusion.true_hold, confusion.false_hold),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(comfy_table::CellAlignment::Right);
    }
    let lines = table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let left_out: String = trained.left_out.iter().map(|why| format!("\nnot learned: {why}")).collect();
    format!("{} model in {}\n{lines}{left_out}", trained.model, trained.file.display())
}
