//! How good a model is on samples that it was not fitted to, beside a guess of the more frequent label. Owns the split and the
//! figures.

use super::file::Head;
use super::samples::{Gain, Sample};
use super::{ClassifierError, Kind, Task, fit};
use serde::Serialize;

/// Neighbouring samples that are held out together: successive windows share their rows, so that one tells about the next.
const BLOCK: usize = 16;

/// What was predicted, by what was so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Worth acting, and said so.
    pub true_act: u64,
    /// Not worth acting, and said to be.
    pub false_act: u64,
    /// Not worth acting, and said so.
    pub true_hold: u64,
    /// Worth acting, and said not to be.
    pub false_hold: u64,
}

impl Confusion {
    fn count(&mut self, said: bool, is: bool) {
        *match (said, is) {
            (true, true) => &mut self.true_act,
            (true, false) => &mut self.false_act,
            (false, false) => &mut self.true_hold,
            (false, true) => &mut self.false_hold,
        } += 1;
    }

    fn accuracy(self) -> f64 {
        let right = self.true_act + self.true_hold;
        right as f64 / (right + self.false_act + self.false_hold).max(1) as f64
    }
}

/// How good one task's model is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evaluation {
    /// The task.
    pub task: Task,
    /// Samples that it was fitted to, and of them those where acting was worth it.
    pub samples: usize,
    /// See above.
    pub worth: usize,
    /// Samples held out, and of them those where acting was worth it.
    pub held_out: usize,
    /// See above.
    pub held_out_worth: usize,
    /// Share of the samples held out that were predicted right.
    pub accuracy: f64,
    /// The same for always saying what is more frequent among the samples fitted to.
    pub majority: f64,
    /// Share of the samples fitted to that are predicted right.
    pub fitted_accuracy: f64,
    /// Mean squared error of the probability on the samples held out; 0.25 for always saying one half.
    pub brier: f64,
    /// Share of the samples held out that were predicted right by a model that learned from each after it; nothing for models
    /// that cannot.
    pub online_accuracy: Option<f64>,
    /// Predicted and so, on the samples held out.
    pub confusion: Confusion,
}

/// Splits samples into those to fit to and those held out, a `share` of them in blocks.
#[must_use]
pub fn split(samples: &[Sample], share: f64, seed: u64) -> (Vec<Sample>, Vec<Sample>) {
    let mut blocks: Vec<&[Sample]> = samples.chunks(BLOCK).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut blocks);
    let held_out = (share * blocks.len() as f64).round() as usize;
    let (out, fitted) = blocks.split_at(held_out.min(blocks.len()));
    (fitted.concat(), out.concat())
}

/// The samples of one task, with as many that acted as held: of the more frequent, so many are drawn. The label means what it says
/// only where both are as likely (see [`super::samples`]).
#[must_use]
pub fn of_task(samples: &[Sample], task: Task, seed: u64) -> Vec<Sample> {
    let mut random = fastrand::Rng::with_seed(seed);
    let of_task = |acted| {
        let of = samples.iter().enumerate().filter(move |(_, sample)| sample.task == task && sample.acted == acted);
        of.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let mut both = [of_task(true), of_task(false)];
    let fewer = both[0].len().min(both[1].len());
    both.iter_mut().for_each(|of| {
        random.shuffle(of);
        of.truncate(fewer);
    });
    let mut kept = both.concat();
    kept.sort_unstable();
    kept.into_iter().map(|at| samples[at]).collect()
}

/// Fits `kind` to `fitted`, and says how it does on `held_out`; both of one task. The labels of both are by the gain of those
/// fitted to.
///
/// # Errors
/// As [`fit::fit`]; too few of a class among those held out are no error.
pub fn fit_and_evaluate(
    kind: Kind,
    task: Task,
    fitted: &[Sample],
    held_out: &[Sample],
    seed: u64,
) -> Result<(Head, Evaluation), ClassifierError> {
    let head = fit::fit(kind, task, fitted, seed)?;
    let gain = *head.gain();
    let (worth, not) = fit::balance(fitted, &gain);
    let confusion = confusion(&head, held_out, &gain);
    let right = held_out.iter().filter(|sample| gain.label(sample) == (worth > not)).count();
    let error =
        |sample: &Sample| (head.probability(&sample.features) - f64::from(u8::from(gain.label(sample)))).powi(2);
    let evaluation = Evaluation {
        task,
        samples: fitted.len(),
        worth,
        held_out: held_out.len(),
        held_out_worth: fit::balance(held_out, &gain).0,
        accuracy: confusion.accuracy(),
        majority: right as f64 / held_out.len().max(1) as f64,
        fitted_accuracy: self::confusion(&head, fitted, &gain).accuracy(),
        brier: held_out.iter().map(error).sum::<f64>() / held_out.len().max(1) as f64,
        online_accuracy: online(head.clone(), held_out),
        confusion,
    };
    Ok((head, evaluation))
}

fn confusion(head: &Head, samples: &[Sample], gain: &Gain) -> Confusion {
    let mut confusion = Confusion::default();
    samples.iter().for_each(|sample| confusion.count(head.probability(&sample.features) > 0.5, gain.label(sample)));
    confusion
}

/// Each sample is predicted, then learned from.
fn online(mut head: Head, samples: &[Sample]) -> Option<f64> {
    let gain = *head.gain();
    let mut confusion = Confusion::default();
    for sample in samples {
        confusion.count(head.probability(&sample.features) > 0.5, gain.label(sample));
        if !head.learn(sample) {
            return None;
        }
    }
    (!samples.is_empty()).then(|| confusion.accuracy())
}
