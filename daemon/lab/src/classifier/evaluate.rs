//! How good a model is on samples that it was not fitted to, beside a guess of the more frequent label. Owns the split
//! and the figures. **It must never** let what a model was fitted to tell about what it is tested on: sources are held
//! out whole, and of a single source what came last.

use super::fit;
use crate::classifier::sources::Source;
use rudder_agent::classifier::file::Head;
use rudder_agent::classifier::samples::{Gain, Sample};
use rudder_agent::classifier::{ClassifierError, Kind, Task};
use serde::Serialize;
use std::collections::BTreeMap;

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

    /// Share of the samples said to be worth acting that were; nothing if none was.
    fn precision(self) -> Option<f64> {
        let said = self.true_act + self.false_act;
        (said > 0).then(|| self.true_act as f64 / said as f64)
    }

    /// Share of the samples worth acting that were said to be; nothing if there were none.
    fn recall(self) -> Option<f64> {
        let so = self.true_act + self.false_hold;
        (so > 0).then(|| self.true_act as f64 / so as f64)
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
    /// Share of the samples held out for which acting was said to be worth it, and was, of all for which it was said.
    pub precision: Option<f64>,
    /// The same, of all for which it was.
    pub recall: Option<f64>,
    /// Predicted and so, on the samples held out.
    pub confusion: Confusion,
}

/// What to fit to and what to test on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Split {
    /// Samples to fit to.
    pub fitted: Vec<Sample>,
    /// Samples to test on.
    pub held_out: Vec<Sample>,
    /// Where those are from, in words.
    pub from: Vec<String>,
}

/// Holds a `share` of the sources out, at least one and not all; of a single source, the last `share` of its samples.
/// Sources of one name are one, however often and under whichever controllers it was recorded.
#[must_use]
pub fn split(sources: Vec<Source>, share: f64, seed: u64) -> Split {
    let mut groups: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for source in sources {
        groups.entry(source.name).or_default().extend(source.samples);
    }
    if groups.len() == 1 {
        return groups.pop_first().map(|(name, samples)| by_time(&name, &samples, share)).unwrap_or_default();
    }
    let mut names: Vec<String> = groups.keys().cloned().collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut names);
    let most = names.len().saturating_sub(1);
    names.truncate(((share * names.len() as f64).round() as usize).clamp(most.min(1), most));
    names.sort_unstable();
    let mut split = Split::default();
    for (name, samples) in groups {
        let side = if names.contains(&name) { &mut split.held_out } else { &mut split.fitted };
        side.extend(samples);
    }
    split.from = names;
    split
}

/// Holds out what was decided in the last `share` of the samples; what was decided before, but whose window after it
/// reaches into that, is on neither side.
fn by_time(name: &str, samples: &[Sample], share: f64) -> Split {
    let mut times: Vec<f64> = samples.iter().map(|sample| sample.begin).collect();
    times.sort_unstable_by(f64::total_cmp);
    let at = ((1.0 - share) * times.len() as f64) as usize;
    let Some(&cut) = times.get(at.min(times.len().saturating_sub(1))) else { return Split::default() };
    Split {
        fitted: samples.iter().filter(|sample| sample.end <= cut).copied().collect(),
        held_out: samples.iter().filter(|sample| sample.begin > cut).copied().collect(),
        from: vec![format!("the last {:.0}% of {name}", 100.0 * share)],
    }
}

/// The samples of one task, balanced: the larger class (acted or held) is subsampled to the size of the smaller. The
/// label means what it says only where both are as likely (see [`rudder_agent::classifier::samples`]).
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

/// Fits `kind` to `fitted`, and says how it does on `held_out`; both of one task. The labels of both are by the gain of
/// those fitted to.
///
/// # Errors
/// As [`fit::fit`], and [`ClassifierError::NothingHeldOut`].
pub fn fit_and_evaluate(
    kind: Kind,
    task: Task,
    fitted: &[Sample],
    held_out: &[Sample],
    seed: u64,
) -> Result<(Head, Evaluation), ClassifierError> {
    if held_out.is_empty() {
        return Err(ClassifierError::NothingHeldOut { task });
    }
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
        precision: confusion.precision(),
        recall: confusion.recall(),
        confusion,
    };
    Ok((head, evaluation))
}

fn confusion(head: &Head, samples: &[Sample], gain: &Gain) -> Confusion {
    let mut confusion = Confusion::default();
    samples.iter().for_each(|sample| confusion.count(head.probability(&sample.features) > 0.5, gain.label(sample)));
    confusion
}
