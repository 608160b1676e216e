//! Fits models to samples. Four kinds are fitted by `smartcore`, whose models keep their parameters to themselves: they
//! are taken out of its serde form, once, when a model is trained; nothing of that form reaches a file. The same
//! samples and seed give the same model.

use rudder_agent::classifier::features::{COUNT, Features};
use rudder_agent::classifier::file::Head;
use rudder_agent::classifier::models::{Forest, Kernel, Linear, Parameters, Standard, TreeNode};
use rudder_agent::classifier::samples::{Gain, Sample};
use rudder_agent::classifier::{ClassifierError, Kind, Task};
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

/// Most samples that support vectors are sought among: the library's time grows with more than their square (500 took
/// about a second, 1,000 six to eleven, 2,000 one to two minutes, on two busy cores).
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

/// Passes over the samples in which support vectors are sought; six gave the same accuracies as two.
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
        Kind::Mlp => Parameters::Mlp(super::mlp::fit(rows, labels, seed)),
        Kind::Lr => {
            let columns: Vec<Vec<f64>> = rows.iter().map(|row| row.to_vec()).collect();
            Parameters::Lr(logistic_regression(&columns, labels, PENALTY).map_err(failed)?)
        }
        Kind::Rf => {
            Parameters::Rf(their_trees(rows, labels, seed).and_then(|model| random_forest(&model)).map_err(failed)?)
        }
        Kind::Gbt => Parameters::Gbt(
            their_boosted(rows, labels, seed).and_then(|model| boosted_trees(&model, base(labels))).map_err(failed)?,
        ),
        Kind::Svm => Parameters::Svm(support_vectors(rows, labels, seed).map_err(failed)?),
    };
    parameters.check().map_err(failed)?;
    Ok(parameters)
}

fn said(error: impl Display) -> String {
    error.to_string()
}

fn matrix(rows: &[Features]) -> Result<DenseMatrix<f64>, String> {
    let rows: Vec<Vec<f64>> = rows.iter().map(|row| row.to_vec()).collect();
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

type TheirLine = LogisticRegression<f64, i32, DenseMatrix<f64>, Vec<i32>>;

fn their_line(rows: &[Vec<f64>], labels: &[bool], penalty: f64) -> Result<TheirLine, String> {
    let settings = LogisticRegressionParameters::default().with_alpha(penalty);
    let rows = DenseMatrix::from_2d_vec(&rows.to_vec()).map_err(said)?;
    LogisticRegression::fit(&rows, &classes(labels), settings).map_err(said)
}

fn logistic_regression(rows: &[Vec<f64>], labels: &[bool], penalty: f64) -> Result<Linear, String> {
    let model = their_line(rows, labels, penalty)?;
    let (coefficients, intercept) = (model.coefficients(), model.intercept());
    let (_, count) = coefficients.shape();
    let weights = (0..count).map(|at| *coefficients.get((0, at))).collect();
    Ok(Linear { weights, bias: *intercept.get((0, 0)) })
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
    fn ours(&self) -> TreeNode {
        match (self.true_child, self.false_child, self.split_value) {
            (Some(low), Some(high), Some(threshold)) => {
                TreeNode::Split { feature: self.split_feature, threshold, low, high }
            }
            _ => TreeNode::Leaf { value: self.output },
        }
    }
}

fn targets(labels: &[bool]) -> Vec<f64> {
    labels.iter().map(|&label| f64::from(u8::from(label))).collect()
}

type TheirTrees = RandomForestRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

/// Regression on 0 and 1: splits are those of a classification (the variance is half the Gini impurity), and leaves say
/// shares instead of the more frequent label, so that the mean over the trees is a probability.
fn their_trees(rows: &[Features], labels: &[bool], seed: u64) -> Result<TheirTrees, String> {
    let settings = RandomForestRegressorParameters::default()
        .with_n_trees(RF_TREES.into())
        .with_max_depth(RF_DEPTH)
        .with_min_samples_leaf(RF_LEAF)
        .with_m((COUNT as f64).sqrt().round() as usize)
        .with_seed(seed);
    RandomForestRegressor::fit(&matrix(rows)?, &targets(labels), settings).map_err(said)
}

fn random_forest(model: &TheirTrees) -> Result<Forest, String> {
    let TheirRegressor { forest_regressor: forest } = taken_out(model)?;
    let trees: Vec<Vec<TreeNode>> =
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
    fn lay_out(&self, tree: &mut Vec<TreeNode>) {
        let at = tree.len();
        tree.push(TreeNode::Leaf { value: self.value });
        if let (Some(left), Some(right)) = (&self.left, &self.right) {
            let low = tree.len();
            left.lay_out(tree);
            let high = tree.len();
            right.lay_out(tree);
            tree[at] = TreeNode::Split { feature: self.split_feature_idx, threshold: self.threshold, low, high };
        }
    }
}

type TheirBoosted = XGRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

fn base(labels: &[bool]) -> f64 {
    labels.iter().filter(|&&label| label).count() as f64 / labels.len().max(1) as f64
}

/// Trees boosted on the squared error of 0 and 1, which the mean of the label minimises: what they add up to is a
/// probability.
fn their_boosted(rows: &[Features], labels: &[bool], seed: u64) -> Result<TheirBoosted, String> {
    let settings = XGRegressorParameters::default()
        .with_n_estimators(GBT_TREES)
        .with_max_depth(GBT_DEPTH)
        .with_learning_rate(GBT_RATE)
        .with_subsample(GBT_SUBSAMPLE)
        .with_min_child_weight(GBT_CHILD)
        .with_base_score(base(labels))
        .with_seed(seed);
    XGRegressor::fit(&matrix(rows)?, &targets(labels), settings).map_err(said)
}

fn boosted_trees(model: &TheirBoosted, base: f64) -> Result<Forest, String> {
    let boost: TheirBoost = taken_out(model)?;
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

/// How near two rows must be to be alike, for the Gaussian kernel.
const GAMMA: f64 = 1.0 / COUNT as f64;

fn svm_settings(seed: u64) -> SVCParameters<f64, i32, DenseMatrix<f64>, Vec<i32>> {
    SVCParameters::default()
        .with_c(SVM_C)
        .with_epoch(SVM_EPOCHS)
        .with_kernel(Kernels::rbf().with_gamma(GAMMA))
        .with_seed(Some(seed))
}

fn support_vectors(rows: &[Features], labels: &[bool], seed: u64) -> Result<Kernel, String> {
    let mut chosen: Vec<usize> = (0..rows.len()).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut chosen);
    chosen.truncate(SVM_SAMPLES_MAX);
    let labels: Vec<bool> = chosen.iter().map(|&at| labels[at]).collect();
    let rows: Vec<Features> = chosen.iter().map(|&at| rows[at]).collect();
    let (their_rows, their_labels, settings) = (matrix(&rows)?, classes(&labels), svm_settings(seed));
    let mut kernel = machine(&SVC::fit(&their_rows, &their_labels, &settings).map_err(said)?)?;
    // The curve's slope may not turn the machine's answers around, which the penalty lets it do only if they are worse
    // than none.
    let sums: Vec<Vec<f64>> = rows.iter().map(|row| vec![kernel.sum(row)]).collect();
    let curve = logistic_regression(&sums, &labels, 1e-6)?;
    kernel.curve = (curve.weights[0].max(0.0), curve.bias);
    Ok(kernel)
}

/// The machine, without its curve.
fn machine(model: &impl serde::Serialize) -> Result<Kernel, String> {
    let vectors: TheirVectors = taken_out(model)?;
    Ok(Kernel { gamma: GAMMA, support: vectors.instances, weights: vectors.w, bias: vectors.b, curve: (1.0, 0.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_agent::classifier::numbers::logistic;

    /// Rows to fit to, their labels, and an equal number of other rows.
    fn problem(seed: u64) -> (Vec<Features>, Vec<bool>, Vec<Features>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rows =
            || -> Vec<Features> { (0..400).map(|_| std::array::from_fn(|_| 4.0 * (random.f64() - 0.5))).collect() };
        let (fitted, others) = (rows(), rows());
        let labels = fitted.iter().map(|row| row[0] * row[3] + row[5] + 0.5 * row[9] > 0.2).collect();
        (fitted, labels, others)
    }

    fn alike(kind: Kind, rows: &[Features], theirs: &[f64], ours: impl Fn(&Features) -> f64) {
        let unlike = rows.iter().zip(theirs).find(|(row, theirs)| (ours(row) - **theirs).abs() > 1e-9);
        assert!(unlike.is_none(), "{kind}: {unlike:?}, ours {:?}", unlike.map(|(row, _)| ours(row)));
        let spread = theirs.iter().fold(f64::MIN, |most, &one| most.max(one))
            - theirs.iter().fold(f64::MAX, |least, &one| least.min(one));
        assert!(spread > 0.2, "{kind} says the same of everything: nothing was compared");
    }

    #[test]
    fn what_was_taken_out_predicts_what_the_librarys_own_model_does() {
        for seed in 1..=3 {
            let (rows, labels, others) = problem(seed);
            let their_others = matrix(&others).unwrap();

            let columns: Vec<Vec<f64>> = rows.iter().map(|row| row.to_vec()).collect();
            let theirs = their_line(&columns, &labels, PENALTY).unwrap().predict(&their_others).unwrap();
            let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
            let line = Parameters::Lr(logistic_regression(&columns, &labels, PENALTY).unwrap());
            alike(Kind::Lr, &others, &theirs, |row| f64::from(u8::from(line.probability(row) > 0.5)));

            let model = their_trees(&rows, &labels, seed).unwrap();
            let forest = random_forest(&model).unwrap();
            alike(Kind::Rf, &others, &model.predict(&their_others).unwrap(), |row| forest.sum(row));

            let model = their_boosted(&rows, &labels, seed).unwrap();
            let forest = boosted_trees(&model, base(&labels)).unwrap();
            alike(Kind::Gbt, &others, &model.predict(&their_others).unwrap(), |row| forest.sum(row));

            let (their_rows, their_labels, settings) = (matrix(&rows).unwrap(), classes(&labels), svm_settings(seed));
            let model = SVC::fit(&their_rows, &their_labels, &settings).unwrap();
            let kernel = machine(&model).unwrap();
            alike(Kind::Svm, &others, &model.decision_function(&their_others).unwrap(), |row| kernel.sum(row));
            // Through all of it, a curve that rises keeps the order of what the machine says.
            let whole = support_vectors(&rows, &labels, seed).unwrap();
            assert!(whole.curve.0 > 0.0);
            let row = &others[0];
            let curved = logistic(whole.curve.0 * whole.sum(row) + whole.curve.1);
            assert_eq!(Parameters::Svm(whole.clone()).probability(row).to_bits(), curved.to_bits());
        }
    }
}
