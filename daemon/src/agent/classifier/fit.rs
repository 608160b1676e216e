//! Fits models to samples. Four kinds are fitted by `smartcore`, whose models keep their parameters to themselves: they are taken
//! out of its serde form, once, when a model is trained; nothing of that form reaches a file. The same samples and seed give the
//! same model.

use super::features::{COUNT, Features};
use super::mlp::Mlp;
use super::models::{Forest, Kernel, Linear, Node, Parameters, Standard};
use super::samples::{Gain, Sample};
use super::{ClassifierError, Kind, Task};
use crate::agent::classifier::file::Head;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use smartcore::ensemble::random_forest_regressor::{RandomForestRegressor, RandomForestRegressorParameters};
use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linear::logistic_regression::{LogisticRegression, LogisticRegressionParameters};
use smartcore::svm::Kernels;
use smartcore::svm::svc::{SVC, SVCParameters};
use smartcore::xgboost::{XGRegressor, XGRegressorParameters};
use std::fmt::Display;

/// Least samples of each class: below it a held-out share holds too few of a class to say anything.
pub const SAMPLES_MIN: usize = 24;

/// Most samples that support vectors are sought among: the library's time grows with their square and more (2,400 took minutes).
const SVM_SAMPLES_MAX: usize = 1000;

const PENALTY: f64 = 1.0;
const RF_TREES: u16 = 100;
const RF_DEPTH: u16 = 6;
const RF_LEAF: usize = 8;
const GBT_TREES: usize = 60;
const GBT_DEPTH: u16 = 3;
const GBT_RATE: f64 = 0.1;
const GBT_SUBSAMPLE: f64 = 0.7;
const GBT_CHILD: usize = 10;
const SVM_C: f64 = 0.5;

/// Passes over the samples in which support vectors are sought.
const SVM_EPOCHS: usize = 2;

/// Samples of each class among `samples`: labels yes and no.
#[must_use]
pub fn balance(samples: &[Sample], gain: &Gain) -> (usize, usize) {
    let yes = samples.iter().filter(|sample| gain.label(sample)).count();
    (yes, samples.len() - yes)
}

/// Learns one task from the samples of that task.
///
/// # Errors
/// [`ClassifierError::TooFew`] or [`ClassifierError::Fit`].
pub fn fit(kind: Kind, task: Task, samples: &[Sample], seed: u64) -> Result<Head, ClassifierError> {
    let gain = Gain::of(samples);
    let (worth, not) = balance(samples, &gain);
    if worth.min(not) < SAMPLES_MIN {
        return Err(ClassifierError::TooFew { task, worth, not, least: SAMPLES_MIN });
    }
    let raw: Vec<Features> = samples.iter().map(|sample| sample.features).collect();
    let standard = Standard::of(&raw);
    let rows: Vec<Features> = raw.iter().map(|row| standard.apply(row)).collect();
    let labels: Vec<bool> = samples.iter().map(|sample| gain.label(sample)).collect();
    let parameters = fit_rows(kind, &rows, &labels, seed)?;
    Ok(Head::new(gain, standard, amount(samples, &gain), parameters))
}

/// How far to go: the mean of the actions that helped, or of all actions if none did.
fn amount(samples: &[Sample], gain: &Gain) -> f64 {
    let mean = |of: &dyn Fn(&&Sample) -> bool| {
        let amounts = samples.iter().filter(|sample| sample.acted).filter(of).map(|sample| sample.amount);
        let (count, sum) = amounts.fold((0.0, 0.0), |(count, sum), amount| (count + 1.0, sum + amount));
        (count > 0.0).then(|| sum / count)
    };
    mean(&|sample| gain.helped(sample)).or_else(|| mean(&|_| true)).unwrap_or(0.0)
}

/// Fits `kind` to standardised rows.
pub(super) fn fit_rows(
    kind: Kind,
    rows: &[Features],
    labels: &[bool],
    seed: u64,
) -> Result<Parameters, ClassifierError> {
    let failed = |what: String| ClassifierError::Fit { kind, what };
    let parameters = match kind {
        Kind::Mlp => Parameters::Mlp(Mlp::fit(rows, labels, seed)),
        Kind::Lr => {
            let columns = rows.iter().map(|row| row.to_vec()).collect();
            Parameters::Lr(logistic_regression(columns, labels, PENALTY).map_err(failed)?)
        }
        Kind::Rf => Parameters::Rf(random_forest(rows, labels, seed).map_err(failed)?),
        Kind::Gbt => Parameters::Gbt(boosted_trees(rows, labels, seed).map_err(failed)?),
        Kind::Svm => Parameters::Svm(support_vectors(rows, labels, seed).map_err(failed)?),
    };
    parameters.check().map_err(failed)?;
    Ok(parameters)
}

fn said(error: impl Display) -> String {
    error.to_string()
}

fn matrix(rows: Vec<Vec<f64>>) -> Result<DenseMatrix<f64>, String> {
    DenseMatrix::from_2d_vec(&rows).map_err(said)
}

fn classes(labels: &[bool]) -> Vec<i32> {
    labels.iter().map(|&label| i32::from(label)).collect()
}

/// What the library keeps to itself.
fn taken_out<T: DeserializeOwned>(model: &impl serde::Serialize) -> Result<T, String> {
    let value = serde_json::to_value(model).map_err(said)?;
    serde_json::from_value(value).map_err(|error| format!("its parameters are not where they were: {error}"))
}

fn logistic_regression(rows: Vec<Vec<f64>>, labels: &[bool], penalty: f64) -> Result<Linear, String> {
    let count = rows.first().map_or(0, Vec::len);
    let settings = LogisticRegressionParameters::default().with_alpha(penalty);
    let model = LogisticRegression::fit(&matrix(rows)?, &classes(labels), settings).map_err(said)?;
    let weights = (0..count).map(|at| *model.coefficients().get((0, at))).collect();
    Ok(Linear { weights, bias: *model.intercept().get((0, 0)) })
}

#[derive(Deserialize)]
struct TheirRegressor {
    forest_regressor: TheirForest,
}

#[derive(Deserialize)]
struct TheirForest {
    trees: Vec<TheirTree>,
}

#[derive(Deserialize)]
struct TheirTree {
    nodes: Vec<TheirNode>,
}

#[derive(Deserialize)]
struct TheirNode {
    output: f64,
    split_feature: usize,
    split_value: Option<f64>,
    true_child: Option<usize>,
    false_child: Option<usize>,
}

impl TheirNode {
    fn ours(&self) -> Node {
        match (self.true_child, self.false_child, self.split_value) {
            (Some(low), Some(high), Some(threshold)) => {
                Node::Split { feature: self.split_feature, threshold, low, high }
            }
            _ => Node::Leaf { value: self.output },
        }
    }
}

fn targets(labels: &[bool]) -> Vec<f64> {
    labels.iter().map(|&label| f64::from(u8::from(label))).collect()
}

/// Regression on 0 and 1: splits are those of a classification (the variance is half the Gini impurity), and leaves say shares
/// instead of the more frequent label, so that the mean over the trees is a probability.
fn random_forest(rows: &[Features], labels: &[bool], seed: u64) -> Result<Forest, String> {
    let settings = RandomForestRegressorParameters::default()
        .with_n_trees(RF_TREES.into())
        .with_max_depth(RF_DEPTH)
        .with_min_samples_leaf(RF_LEAF)
        .with_m((COUNT as f64).sqrt().round() as usize)
        .with_seed(seed);
    let rows = matrix(rows.iter().map(|row| row.to_vec()).collect())?;
    let model = RandomForestRegressor::fit(&rows, &targets(labels), settings).map_err(said)?;
    let TheirRegressor { forest_regressor: forest } = taken_out(&model)?;
    let trees: Vec<Vec<Node>> =
        forest.trees.iter().map(|tree| tree.nodes.iter().map(TheirNode::ours).collect()).collect();
    Ok(Forest { base: 0.0, rate: 1.0 / trees.len().max(1) as f64, trees })
}

#[derive(Deserialize)]
struct TheirBoost {
    regressors: Vec<TheirBranch>,
}

#[derive(Deserialize)]
struct TheirBranch {
    left: Option<Box<TheirBranch>>,
    right: Option<Box<TheirBranch>>,
    value: f64,
    threshold: f64,
    split_feature_idx: usize,
}

impl TheirBranch {
    /// Appends this branch to `tree`, parents before their children.
    fn lay_out(&self, tree: &mut Vec<Node>) {
        let at = tree.len();
        tree.push(Node::Leaf { value: self.value });
        if let (Some(left), Some(right)) = (&self.left, &self.right) {
            let low = tree.len();
            left.lay_out(tree);
            let high = tree.len();
            right.lay_out(tree);
            tree[at] = Node::Split { feature: self.split_feature_idx, threshold: self.threshold, low, high };
        }
    }
}

/// Trees boosted on the squared error of 0 and 1, which the mean of the label minimises: what they add up to is a probability.
fn boosted_trees(rows: &[Features], labels: &[bool], seed: u64) -> Result<Forest, String> {
    let base = labels.iter().filter(|&&label| label).count() as f64 / labels.len().max(1) as f64;
    let settings = XGRegressorParameters::default()
        .with_n_estimators(GBT_TREES)
        .with_max_depth(GBT_DEPTH)
        .with_learning_rate(GBT_RATE)
        .with_subsample(GBT_SUBSAMPLE)
        .with_min_child_weight(GBT_CHILD)
        .with_base_score(base)
        .with_seed(seed);
    let rows = matrix(rows.iter().map(|row| row.to_vec()).collect())?;
    let model = XGRegressor::fit(&rows, &targets(labels), settings).map_err(said)?;
    let boost: TheirBoost = taken_out(&model)?;
    let trees = boost.regressors.iter().map(|branch| {
        let mut tree = Vec::new();
        branch.lay_out(&mut tree);
        tree
    });
    Ok(Forest { base, rate: GBT_RATE, trees: trees.collect() })
}

#[derive(Deserialize)]
struct TheirVectors {
    instances: Vec<Vec<f64>>,
    w: Vec<f64>,
    b: f64,
}

fn support_vectors(rows: &[Features], labels: &[bool], seed: u64) -> Result<Kernel, String> {
    let mut chosen: Vec<usize> = (0..rows.len()).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut chosen);
    chosen.truncate(SVM_SAMPLES_MAX);
    let labels: Vec<bool> = chosen.iter().map(|&at| labels[at]).collect();
    let gamma = 1.0 / COUNT as f64;
    let settings = SVCParameters::default()
        .with_c(SVM_C)
        .with_epoch(SVM_EPOCHS)
        .with_kernel(Kernels::rbf().with_gamma(gamma))
        .with_seed(Some(seed));
    let their_rows = matrix(chosen.iter().map(|&at| rows[at].to_vec()).collect())?;
    let their_labels = classes(&labels);
    let vectors: TheirVectors = taken_out(&SVC::fit(&their_rows, &their_labels, &settings).map_err(said)?)?;
    let mut kernel =
        Kernel { gamma, support: vectors.instances, weights: vectors.w, bias: vectors.b, curve: (1.0, 0.0) };
    // The curve's slope may not turn the machine's answers around, which the penalty lets it do only if they are worse than none.
    let sums = chosen.iter().map(|&at| vec![kernel.sum(&rows[at])]).collect();
    let curve = logistic_regression(sums, &labels, 1e-6)?;
    kernel.curve = (curve.weights[0].max(0.0), curve.bias);
    Ok(kernel)
}
