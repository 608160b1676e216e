//! The model file: JSON, with a version, the names of the features, and for each task what a decision needs. It owns
//! the format and its checks: a file is bounded before it is read, and no number of it is used before it was found
//! possible.

use super::features::{Features, NAMES};
use super::models::{Parameters, Standard};
use super::numbers::NUMBER_MAX;
use super::samples::{Gain, Sample};
use super::{ClassifierError, Kind, Task};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the model file. Raised whenever the features, the label or the parameters change their meaning.
pub const FORMAT: u64 = 1;

/// Largest model file that is read.
pub const BYTES_MAX: u64 = 16 << 20;

/// How far fine-tuning may take the weights from those that were trained, as a share of their length.
const DRIFT_MAX: f64 = 0.5;

/// What was learned of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    gain: Gain,
    standard: Standard,
    /// How far to go when acting: a fraction to replace, or a factor to grow by.
    amount: f64,
    parameters: Parameters,
    /// The weights that were trained, once fine-tuning has moved them.
    #[serde(skip)]
    trained: Option<Vec<f64>>,
}

impl Head {
    /// What was learned: `amount` is how far to go when acting.
    #[must_use]
    pub fn new(gain: Gain, standard: Standard, amount: f64, parameters: Parameters) -> Self {
        Self { gain, standard, amount, parameters, trained: None }
    }

    /// The probability that acting is worth it.
    #[must_use]
    pub fn probability(&self, features: &Features) -> f64 {
        self.parameters.probability(&self.standard.apply(features))
    }

    /// How far to go when acting.
    #[must_use]
    pub fn amount(&self) -> f64 {
        self.amount
    }

    /// What makes labels of this task's samples.
    #[must_use]
    pub fn gain(&self) -> &Gain {
        &self.gain
    }

    /// Fine-tunes the weights by one step of `rate`, along a slope of length 1 at most, towards the label of `sample`.
    /// The distance from the weights that were trained is bounded, too. Trees and support vectors stay as they are:
    /// answers whether anything was learned.
    pub fn learn(&mut self, sample: &Sample, rate: f64) -> bool {
        let row = self.standard.apply(&sample.features);
        let Some(slope) = self.parameters.slope(&row, self.gain.label(sample)) else { return false };
        let Some(weights) = self.parameters.weights_mut() else { return false };
        let trained = self.trained.get_or_insert_with(|| weights.iter().map(|weight| **weight).collect());
        let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let scale = rate / length(&slope).max(1.0);
        let moved: Vec<f64> = weights
            .iter()
            .zip(&slope)
            .zip(trained.iter())
            .map(|((weight, slope), trained)| **weight - scale * slope - trained)
            .collect();
        let shorten = (DRIFT_MAX * length(trained) / length(&moved).max(1e-12)).min(1.0);
        for ((weight, moved), trained) in weights.into_iter().zip(moved).zip(trained.iter()) {
            *weight = trained + shorten * moved;
        }
        true
    }

    /// How far fine-tuning has taken the weights, as a share of the length of those trained.
    #[must_use]
    pub fn distance_from_trained(&mut self) -> f64 {
        let (Some(trained), Some(weights)) = (&self.trained, self.parameters.weights_mut()) else { return 0.0 };
        let length = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let moved = length(&mut weights.iter().zip(trained).map(|(weight, trained)| **weight - trained));
        moved / length(&mut trained.iter().copied())
    }

    fn check(&self, task: Task, kind: Kind) -> Result<(), String> {
        let of_task = |what: String| format!("{task}: {what}");
        self.gain.check().map_err(|what| of_task(format!("gain: {what}")))?;
        let possible = match task {
            Task::Replace => self.amount > 0.0 && self.amount <= 1.0,
            Task::Grow => self.amount > 1.0 && self.amount <= NUMBER_MAX,
        };
        if !possible {
            return Err(of_task(format!("an amount of {}", self.amount)));
        }
        if self.parameters.kind() != kind {
            return Err(of_task(format!("parameters of {} in a model of kind {kind}", self.parameters.kind())));
        }
        self.standard.check().and_then(|()| self.parameters.check()).map_err(of_task)
    }
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    format: u64,
    /// Which model.
    pub kind: Kind,
    features: Vec<String>,
    /// When to replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<Head>,
    /// When to grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow: Option<Head>,
}

/// The one thing that is read of a file before its version is known.
#[derive(Deserialize)]
struct Version {
    format: u64,
}

impl Model {
    /// Of what was learned.
    #[must_use]
    pub fn new(kind: Kind, replace: Option<Head>, grow: Option<Head>) -> Self {
        let features = NAMES.iter().map(|&name| name.to_owned()).collect();
        Self { format: FORMAT, kind, features, replace, grow }
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// [`ClassifierError`], which names the file and says what to do.
    pub fn read(path: &Path) -> Result<Self, ClassifierError> {
        let text = read_bounded(path, BYTES_MAX, "no model is that large; was it written by `rudder train --out`?")?;
        let malformed = |source| ClassifierError::Malformed { path: path.to_owned(), source };
        let Version { format } = serde_json::from_str(&text).map_err(malformed)?;
        if format != FORMAT {
            return Err(ClassifierError::Version { path: path.to_owned(), found: format });
        }
        let model: Self = serde_json::from_str(&text).map_err(malformed)?;
        model.check_features().map_err(|what| ClassifierError::Features { path: path.to_owned(), what })?;
        model.check().map_err(|what| ClassifierError::Parameters { path: path.to_owned(), what })?;
        Ok(model)
    }

    /// Writes it, whole or not at all: beside the file first, then in its place.
    ///
    /// # Errors
    /// [`ClassifierError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), ClassifierError> {
        let failed = |source| ClassifierError::Write { path: path.to_owned(), source };
        let mut text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path)).map_err(failed)
    }

    fn check_features(&self) -> Result<(), String> {
        if self.features.len() != NAMES.len() {
            return Err(format!("{} of them, this build sees {}", self.features.len(), NAMES.len()));
        }
        match self.features.iter().zip(NAMES).find(|(theirs, ours)| theirs != ours) {
            Some((theirs, ours)) => Err(format!("`{theirs}` where this build sees `{ours}`")),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.replace.is_none() && self.grow.is_none() {
            return Err("neither replace nor grow was learned".to_owned());
        }
        [(Task::Replace, &self.replace), (Task::Grow, &self.grow)]
            .into_iter()
            .filter_map(|(task, head)| head.as_ref().map(|head| (task, head)))
            .try_for_each(|(task, head)| head.check(task, self.kind))
    }

    /// What was learned of `task`.
    #[must_use]
    pub fn head(&self, task: Task) -> Option<&Head> {
        match task {
            Task::Replace => self.replace.as_ref(),
            Task::Grow => self.grow.as_ref(),
        }
    }

    /// Fine-tunes what was learned of the sample's task by one step of `rate`: answers whether anything was learned.
    pub fn learn(&mut self, sample: &Sample, rate: f64) -> bool {
        let head = match sample.task {
            Task::Replace => &mut self.replace,
            Task::Grow => &mut self.grow,
        };
        head.as_mut().is_some_and(|head| head.learn(sample, rate))
    }
}

/// The text of a file that is not larger than `most` bytes.
///
/// # Errors
/// [`ClassifierError::TooLarge`] before anything is read, or [`ClassifierError::Read`].
pub fn read_bounded(path: &Path, most: u64, advice: &'static str) -> Result<String, ClassifierError> {
    use std::io::Read as _;
    let failed = |source| ClassifierError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let too_large = |bytes| ClassifierError::TooLarge { path: path.to_owned(), bytes, most, advice };
    if bytes > most {
        return Err(too_large(bytes));
    }
    // What has no size beforehand, or grows meanwhile, is bounded too.
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > most { Err(too_large(text.len() as u64)) } else { Ok(text) }
}
