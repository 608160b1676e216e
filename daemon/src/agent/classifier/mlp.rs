//! A multi-layer perceptron of one hidden layer: tanh units, a logistic output, log loss with weight decay, fitted by Adam
//! (Kingma and Ba, 2015). Plain loops: it has a few hundred weights, and every library that offers one brings a tensor
//! framework with it (candle-nn 158 crates, burn 170) or has had no release in years (neuroflow).

use super::features::{COUNT, Features};
use super::models::{all_finite, logistic};
use serde::{Deserialize, Serialize};

/// Hidden units.
const HIDDEN: usize = 12;

/// Units that a file may have.
const HIDDEN_MAX: usize = 4096;

const EPOCHS: usize = 60;
const BATCH: usize = 32;
const RATE: f64 = 0.003;
const DECAY: f64 = 1e-3;

/// Adam's own constants, as published.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// The weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mlp {
    /// Per hidden unit, one weight per feature and a bias.
    hidden: Vec<Vec<f64>>,
    /// One weight per hidden unit and a bias.
    output: Vec<f64>,
}

impl Mlp {
    /// Small random weights, so that units begin unlike (Glorot and Bengio, 2010).
    fn random(random: &mut fastrand::Rng) -> Self {
        let mut draw =
            |fan_in: usize, fan_out: usize| (6.0 / (fan_in + fan_out) as f64).sqrt() * (2.0 * random.f64() - 1.0);
        let hidden = (0..HIDDEN)
            .map(|_| (0..=COUNT).map(|at| if at < COUNT { draw(COUNT, HIDDEN) } else { 0.0 }).collect())
            .collect();
        let output = (0..=HIDDEN).map(|at| if at < HIDDEN { draw(HIDDEN, 1) } else { 0.0 }).collect();
        Self { hidden, output }
    }

    fn activations(&self, row: &Features) -> Vec<f64> {
        let sum = |unit: &Vec<f64>| unit.iter().zip(row.iter().chain(&[1.0])).map(|(w, x)| w * x).sum::<f64>();
        self.hidden.iter().map(|unit| sum(unit).tanh()).collect()
    }

    fn output_of(&self, activations: &[f64]) -> f64 {
        logistic(self.output.iter().zip(activations.iter().chain(&[1.0])).map(|(w, a)| w * a).sum())
    }

    pub(super) fn probability(&self, row: &Features) -> f64 {
        self.output_of(&self.activations(row))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.hidden.is_empty() || self.hidden.len() > HIDDEN_MAX {
            return Err(format!("{} hidden units", self.hidden.len()));
        }
        all_finite("output", &self.output, self.hidden.len() + 1)?;
        self.hidden.iter().try_for_each(|unit| all_finite("a hidden unit", unit, COUNT + 1))
    }

    /// All weights: unit by unit, then those of the output.
    pub(super) fn weights_mut(&mut self) -> Vec<&mut f64> {
        self.hidden.iter_mut().flatten().chain(&mut self.output).collect()
    }

    /// Slope of the log loss of one row along each weight, by back-propagation.
    pub(super) fn slope(&self, row: &Features, label: bool) -> Vec<f64> {
        let activations = self.activations(row);
        let off = self.output_of(&activations) - f64::from(u8::from(label));
        let units = activations.iter().zip(&self.output).flat_map(|(activation, weight)| {
            let back = off * weight * (1.0 - activation * activation);
            row.iter().chain(&[1.0]).map(move |value| back * value)
        });
        let output = activations.iter().chain(&[1.0]).map(|activation| off * activation);
        units.chain(output).collect()
    }

    /// Fits the weights to standardised rows and their labels.
    pub(super) fn fit(rows: &[Features], labels: &[bool], seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut mlp = Self::random(&mut random);
        let mut adam = Adam::new(mlp.weights_mut().len());
        let mut order: Vec<usize> = (0..rows.len()).collect();
        for _ in 0..EPOCHS {
            random.shuffle(&mut order);
            for batch in order.chunks(BATCH) {
                let mut slope = vec![0.0; adam.first.len()];
                for &at in batch {
                    let one = mlp.slope(&rows[at], labels[at]);
                    slope.iter_mut().zip(one).for_each(|(sum, one)| *sum += one / batch.len() as f64);
                }
                adam.step(mlp.weights_mut(), &slope);
            }
        }
        mlp
    }
}

/// The state of the optimiser.
struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Adam {
    fn new(count: usize) -> Self {
        Self { first: vec![0.0; count], second: vec![0.0; count], steps: 0 }
    }

    fn step(&mut self, weights: Vec<&mut f64>, slope: &[f64]) {
        self.steps += 1;
        let (b1, b2) = BETAS;
        let (fix1, fix2) = (1.0 - b1.powi(self.steps), 1.0 - b2.powi(self.steps));
        for (at, weight) in weights.into_iter().enumerate() {
            let slope = slope[at] + DECAY * *weight;
            self.first[at] = b1 * self.first[at] + (1.0 - b1) * slope;
            self.second[at] = b2 * self.second[at] + (1.0 - b2) * slope * slope;
            *weight -= RATE * (self.first[at] / fix1) / ((self.second[at] / fix2).sqrt() + EPSILON);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_loss() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut mlp = Mlp::random(&mut random);
        let row: Features = std::array::from_fn(|_| 2.0 * random.f64() - 1.0);
        let loss = |mlp: &Mlp| -(1.0 - mlp.probability(&row)).ln();
        let slope = mlp.slope(&row, false);
        for at in 0..slope.len() {
            let step = 1e-6;
            *mlp.weights_mut()[at] += step;
            let up = loss(&mlp);
            *mlp.weights_mut()[at] -= 2.0 * step;
            let down = loss(&mlp);
            *mlp.weights_mut()[at] += step;
            let measured = (up - down) / (2.0 * step);
            assert!((measured - slope[at]).abs() < 1e-6, "weight {at}: {measured} measured, {} said", slope[at]);
        }
    }
}
