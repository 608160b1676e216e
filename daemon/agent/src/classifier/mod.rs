//! Classifiers that decide: the paper's comparison of an agent with models trained offline. [`features`] is what a
//! model sees, [`samples`] what it learns from, [`models`] what is learned, [`mod@file`] how that is kept, [`steer`]
//! how it decides. Models are fitted by `rudder-lab`; what was fitted is kept in parameters of our own, checked when
//! they are read, so that no file can make a daemon panic.
//!
//! **It must never** act on a file it does not understand in full, nor depend on a clock: the same model and views give
//! the same decisions.

pub mod features;
pub mod file;
pub mod mlp;
pub mod models;
pub mod numbers;
pub mod samples;
pub mod steer;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Logistic regression.
    Lr,
    /// Multi-layer perceptron of one hidden layer.
    Mlp,
    /// Random forest.
    Rf,
    /// Gradient-boosted trees.
    Gbt,
    /// Support vector machine with a Gaussian kernel.
    Svm,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [Kind::Lr, Kind::Mlp, Kind::Rf, Kind::Gbt, Kind::Svm];

    /// As it is written on a command line and in a model file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lr => "lr",
            Kind::Mlp => "mlp",
            Kind::Rf => "rf",
            Kind::Gbt => "gbt",
            Kind::Svm => "svm",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("`{text}` is not a model: write lr, mlp, rf, gbt or svm"))
    }
}

/// What a model is asked: whether an action is better than holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Turning cold residents over (`evict`).
    Replace,
    /// Raising the capacity of a cache that is short of slots (`grow`).
    Grow,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Task::Replace => "replace",
            Task::Grow => "grow",
        })
    }
}

/// Why there is no classifier.
#[derive(Debug, thiserror::Error)]
pub enum ClassifierError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than any that would be believed; it was not read.
    #[error("{} has {bytes} bytes, more than the {most} that are read: {advice}", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The bound.
        most: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A model file is not JSON, or not that of a model.
    #[error("{} is not a model file; write one with `rudder train --out`", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A model file of another version.
    #[error("{} has format {found}, this build reads format {}: train the model again with `rudder train`", path.display(), file::FORMAT)]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A model of other features than this build sees.
    #[error("{} was trained on other features ({what}): train it again with `rudder train`", path.display())]
    Features {
        /// Which.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// Parameters that no training gives.
    #[error("{} has impossible parameters: {what}; train the model again with `rudder train`", path.display())]
    Parameters {
        /// Which.
        path: PathBuf,
        /// Which and why.
        what: String,
    },
    /// A line of a journal, or a replay's result, holds no decision.
    #[error("{}, line {line}: {problem}", path.display())]
    Journal {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Not enough to learn from.
    #[error(
        "{task}: {worth} samples where it was worth it and {not} where it was not; at least {least} of each are needed: give more \
         traces, more --replays or more journals"
    )]
    TooFew {
        /// What was to be learned.
        task: Task,
        /// Samples whose label is yes.
        worth: usize,
        /// Samples whose label is no.
        not: usize,
        /// The least of each.
        least: usize,
    },
    /// Nothing to test on.
    #[error("{task}: no samples are held out to test it on: give more traces or journals, or a larger --held-out")]
    NothingHeldOut {
        /// What was to be tested.
        task: Task,
    },
    /// A model that cannot be fine-tuned was to be.
    #[error(
        "{} is a model of kind {kind}, and only lr and mlp can be fine-tuned: set agent.classifier_learning_rate to 0",
        path.display()
    )]
    CannotLearn {
        /// Which file.
        path: PathBuf,
        /// Its kind.
        kind: Kind,
    },
    /// A rate that no step can have.
    #[error(
        "a classifier cannot learn by steps of {0}: set agent.classifier_learning_rate to a number from 0 to 1, such as 0.02"
    )]
    Rate(f64),
    /// The library found no model.
    #[error("{kind} cannot be fitted: {what}")]
    Fit {
        /// Which model.
        kind: Kind,
        /// What it said.
        what: String,
    },
}
