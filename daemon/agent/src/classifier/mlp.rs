//! A multi-layer perceptron of one hidden layer: tanh units, a logistic output, log loss. Owns its weights, what they
//! predict and the slope along them. Plain loops: it has a few hundred weights, and a tensor framework would bring more
//! than a hundred crates for it.

use super::features::{COUNT, Features};
use super::numbers::{all_finite, logistic};
use serde::{Deserialize, Serialize};

/// Units that a file may have.
const HIDDEN_MAX: usize = 4096;

/// The weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mlp {
    /// Per hidden unit, one weight per feature and a bias.
    pub hidden: Vec<Vec<f64>>,
    /// One weight per hidden unit and a bias.
    pub output: Vec<f64>,
}

impl Mlp {
    fn activations(&self, row: &Features) -> Vec<f64> {
        let sum = |unit: &Vec<f64>| unit.iter().zip(row.iter().chain(&[1.0])).map(|(w, x)| w * x).sum::<f64>();
        self.hidden.iter().map(|unit| sum(unit).tanh()).collect()
    }

    fn output_of(&self, activations: &[f64]) -> f64 {
        logistic(self.output.iter().zip(activations.iter().chain(&[1.0])).map(|(w, a)| w * a).sum())
    }

    /// The probability that acting is worth it, for a standardised row.
    #[must_use]
    pub fn probability(&self, row: &Features) -> f64 {
        self.output_of(&self.activations(row))
    }

    /// Checks the shape and that all weights are finite.
    ///
    /// # Errors
    /// What is impossible.
    pub fn check(&self) -> Result<(), String> {
        if self.hidden.is_empty() || self.hidden.len() > HIDDEN_MAX {
            return Err(format!("{} hidden units", self.hidden.len()));
        }
        all_finite("output", &self.output, self.hidden.len() + 1)?;
        self.hidden.iter().try_for_each(|unit| all_finite("a hidden unit", unit, COUNT + 1))
    }

    /// All weights: unit by unit, then those of the output.
    #[must_use]
    pub fn weights_mut(&mut self) -> Vec<&mut f64> {
        self.hidden.iter_mut().flatten().chain(&mut self.output).collect()
    }

    /// Slope of the log loss of one row along each weight, by back-propagation.
    #[must_use]
    pub fn slope(&self, row: &Features, label: bool) -> Vec<f64> {
        let activations = self.activations(row);
        let off = self.output_of(&activations) - f64::from(u8::from(label));
        let units = activations.iter().zip(&self.output).flat_map(|(activation, weight)| {
            let back = off * weight * (1.0 - activation * activation);
            row.iter().chain(&[1.0]).map(move |value| back * value)
        });
        let output = activations.iter().chain(&[1.0]).map(|activation| off * activation);
        units.chain(output).collect()
    }
}
