//! Fitted models: their parameters, what they predict, and whether parameters that were read make sense. Owns the model
//! part of the file format. Inputs are standardised features; predictions are probabilities.

use super::features::{COUNT, Features};
use super::mlp::Mlp;
use super::numbers::{all_finite, is_possible, logistic, moments};
use serde::{Deserialize, Serialize};

/// Most nodes that all trees of a file may have together: far above those that are fitted.
const NODES_MAX: usize = 1 << 16;

/// Standardises features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standard {
    /// Of each feature.
    pub mean: Vec<f64>,
    /// Standard deviation of each feature; 0 for one that never changed, of which nothing was learned.
    pub deviation: Vec<f64>,
}

/// Standard deviations beyond which no standardised feature goes: what was never seen in training is not extrapolated
/// far.
const FAR: f64 = 5.0;

impl Standard {
    /// That of these features.
    #[must_use]
    pub fn of(rows: &[Features]) -> Self {
        let of_one = |at: usize| {
            let (mean, deviation) = moments(rows.iter().map(|row| row[at]));
            let changes = rows.iter().any(|row| (row[at] - mean).abs() > 1e-9);
            (mean, if changes { deviation } else { 0.0 })
        };
        let (mean, deviation) = (0..COUNT).map(of_one).unzip();
        Self { mean, deviation }
    }

    /// Standardised; 0 for what never changed in training.
    #[must_use]
    pub fn apply(&self, row: &Features) -> Features {
        let mut out = [0.0; COUNT];
        for ((out, value), (mean, deviation)) in out.iter_mut().zip(row).zip(self.mean.iter().zip(&self.deviation)) {
            *out = if *deviation > 0.0 { ((value - mean) / deviation).clamp(-FAR, FAR) } else { 0.0 };
        }
        out
    }

    pub(super) fn check(&self) -> Result<(), String> {
        all_finite("mean", &self.mean, COUNT)?;
        all_finite("deviation", &self.deviation, COUNT)?;
        if self.deviation.iter().any(|&deviation| deviation < 0.0) {
            return Err("a deviation is below 0".to_owned());
        }
        Ok(())
    }
}

/// A weighted sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// One per feature.
    pub weights: Vec<f64>,
    /// Added to it.
    pub bias: f64,
}

/// A node of a tree: rows whose feature is at most `threshold` go to node `low`, others to `high`; both come after
/// their parent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum TreeNode {
    /// A question.
    Split {
        /// Which feature.
        feature: usize,
        /// What it is compared with.
        threshold: f64,
        /// The node for rows that are not above.
        low: usize,
        /// The node for rows above.
        high: usize,
    },
    /// An answer.
    Leaf {
        /// Its value.
        value: f64,
    },
}

/// Trees whose answers are added: `base + rate * sum`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forest {
    /// What is added to.
    pub base: f64,
    /// Weight of each tree.
    pub rate: f64,
    /// The nodes of each tree, its root first.
    pub trees: Vec<Vec<TreeNode>>,
}

/// A sum of Gaussian kernels, and the logistic curve that makes a probability of it (Platt scaling).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// `exp(-gamma * squared distance)`.
    pub gamma: f64,
    /// Support vectors.
    pub support: Vec<Vec<f64>>,
    /// Their weights.
    pub weights: Vec<f64>,
    /// Added to the sum.
    pub bias: f64,
    /// Slope and intercept of the curve.
    pub curve: (f64, f64),
}

/// The parameters of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Parameters {
    /// Logistic regression.
    Lr(Linear),
    /// Multi-layer perceptron.
    Mlp(Mlp),
    /// Random forest.
    Rf(Forest),
    /// Boosted trees.
    Gbt(Forest),
    /// Support vector machine.
    Svm(Kernel),
}

impl Linear {
    fn sum(&self, row: &Features) -> f64 {
        self.bias + self.weights.iter().zip(row).map(|(weight, value)| weight * value).sum::<f64>()
    }
}

impl Forest {
    /// The weighted sum of a standardised row; it may lie beyond 0 and 1.
    #[must_use]
    pub fn sum(&self, row: &Features) -> f64 {
        self.base + self.rate * self.trees.iter().map(|tree| answer(tree, row)).sum::<f64>()
    }

    fn check(&self) -> Result<(), String> {
        all_finite("base and rate", &[self.base, self.rate], 2)?;
        if self.trees.is_empty() || self.trees.iter().map(Vec::len).sum::<usize>() > NODES_MAX {
            return Err(format!("no trees, or more than {NODES_MAX} nodes"));
        }
        self.trees.iter().enumerate().try_for_each(|(number, tree)| {
            let wrong = tree.iter().enumerate().find(|(at, node)| match **node {
                TreeNode::Leaf { value } => !is_possible(value),
                // Children after their parents: no walk is endless.
                TreeNode::Split { feature, threshold, low, high } => {
                    let child = |child: usize| child > *at && child < tree.len();
                    feature >= COUNT || !is_possible(threshold) || !child(low) || !child(high)
                }
            });
            match wrong {
                Some((at, _)) => Err(format!("node {at} of tree {number}")),
                None if tree.is_empty() => Err(format!("tree {number} has no nodes")),
                None => Ok(()),
            }
        })
    }
}

fn answer(tree: &[TreeNode], row: &Features) -> f64 {
    let mut at = 0;
    loop {
        match tree[at] {
            TreeNode::Leaf { value } => return value,
            TreeNode::Split { feature, threshold, low, high } => {
                at = if row[feature] <= threshold { low } else { high }
            }
        }
    }
}

impl Kernel {
    /// The decision function, before the curve.
    #[must_use]
    pub fn sum(&self, row: &Features) -> f64 {
        let kernel = |vector: &[f64]| {
            let distance: f64 = vector.iter().zip(row).map(|(a, b)| (a - b).powi(2)).sum();
            (-self.gamma * distance).exp()
        };
        self.bias + self.support.iter().zip(&self.weights).map(|(vector, weight)| weight * kernel(vector)).sum::<f64>()
    }

    fn check(&self) -> Result<(), String> {
        all_finite("gamma, bias and curve", &[self.gamma, self.bias, self.curve.0, self.curve.1], 4)?;
        if self.gamma <= 0.0 {
            return Err("gamma is not above 0".to_owned());
        }
        all_finite("weights", &self.weights, self.support.len())?;
        self.support.iter().try_for_each(|vector| all_finite("a support vector", vector, COUNT))
    }
}

impl Parameters {
    /// The probability that acting is worth it.
    #[must_use]
    pub fn probability(&self, row: &Features) -> f64 {
        match self {
            Parameters::Lr(linear) => logistic(linear.sum(row)),
            Parameters::Mlp(mlp) => mlp.probability(row),
            // A forest's votes, and a regression on 0 and 1, which may overshoot.
            Parameters::Rf(forest) | Parameters::Gbt(forest) => forest.sum(row).clamp(0.0, 1.0),
            Parameters::Svm(kernel) => logistic(kernel.curve.0 * kernel.sum(row) + kernel.curve.1),
        }
    }

    /// Which kind of model these belong to.
    #[must_use]
    pub fn kind(&self) -> super::Kind {
        match self {
            Parameters::Lr(_) => super::Kind::Lr,
            Parameters::Mlp(_) => super::Kind::Mlp,
            Parameters::Rf(_) => super::Kind::Rf,
            Parameters::Gbt(_) => super::Kind::Gbt,
            Parameters::Svm(_) => super::Kind::Svm,
        }
    }

    /// Checks that no prediction of these can be anything but a probability.
    ///
    /// # Errors
    /// What is impossible.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Parameters::Lr(linear) => {
                all_finite("bias", &[linear.bias], 1)?;
                all_finite("weights", &linear.weights, COUNT)
            }
            Parameters::Mlp(mlp) => mlp.check(),
            Parameters::Rf(forest) | Parameters::Gbt(forest) => forest.check(),
            Parameters::Svm(kernel) => kernel.check(),
        }
    }

    /// Those that can be moved a little: the weights, in a fixed order. Nothing for trees and support vectors.
    pub(super) fn weights_mut(&mut self) -> Option<Vec<&mut f64>> {
        match self {
            Parameters::Lr(linear) => {
                Some(linear.weights.iter_mut().chain(std::iter::once(&mut linear.bias)).collect())
            }
            Parameters::Mlp(mlp) => Some(mlp.weights_mut()),
            _ => None,
        }
    }

    /// Slope of the log loss of one row along each of the weights.
    pub(super) fn slope(&self, row: &Features, label: bool) -> Option<Vec<f64>> {
        match self {
            Parameters::Lr(_) => {
                let off = self.probability(row) - f64::from(u8::from(label));
                Some(row.iter().chain(std::iter::once(&1.0)).map(|value| off * value).collect())
            }
            Parameters::Mlp(mlp) => Some(mlp.slope(row, label)),
            _ => None,
        }
    }
}
