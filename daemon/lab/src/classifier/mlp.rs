//! Fits a multi-layer perceptron by Adam with weight decay apart from the slope (AdamW; Loshchilov and Hutter, 2019).
//! Owns the optimiser; `smartcore` has no such model. It must never depend on a clock: the same rows and seed give the
//! same weights.

use rudder_agent::classifier::features::{COUNT, Features};
use rudder_agent::classifier::mlp::Mlp;

/// Hidden units.
const HIDDEN: usize = 16;

/// Steps of the optimiser, however many rows there are. A cross among noise is learned only after a plateau: at 1,260
/// steps of this length 81% of 676 fitted rows were right, and 57 to 63% of others.
const STEPS: usize = 4000;

/// Rows of a step.
const BATCH: usize = 32;

/// Length of a step.
const RATE: f64 = 0.003;

/// Share of a weight, in lengths of a step, that each step takes off it.
const DECAY: f64 = 0.3;

/// One row in this many is held out of the fit: these rows decide which weights on the way were best.
const WATCHED: usize = 5;

/// Steps between two looks at the watched rows.
const LOOK: usize = 50;

/// Adam's own constants, as published.
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;

/// Small random weights, so that units begin unlike (Glorot and Bengio, 2010).
fn random_weights(random: &mut fastrand::Rng) -> Mlp {
    let mut draw =
        |fan_in: usize, fan_out: usize| (6.0 / (fan_in + fan_out) as f64).sqrt() * (2.0 * random.f64() - 1.0);
    let hidden = (0..HIDDEN)
        .map(|_| (0..=COUNT).map(|at| if at < COUNT { draw(COUNT, HIDDEN) } else { 0.0 }).collect())
        .collect();
    let output = (0..=HIDDEN).map(|at| if at < HIDDEN { draw(HIDDEN, 1) } else { 0.0 }).collect();
    Mlp { hidden, output }
}

/// Mean log loss over `rows`.
fn loss(mlp: &Mlp, rows: &[(&Features, bool)]) -> f64 {
    let of_one = |&(row, label): &(&Features, bool)| {
        let right = if label { mlp.probability(row) } else { 1.0 - mlp.probability(row) };
        -right.max(f64::MIN_POSITIVE).ln()
    };
    rows.iter().map(of_one).sum::<f64>() / rows.len().max(1) as f64
}

/// Fits the weights to standardised rows and their labels. Of the weights on the way it answers those that do best on
/// rows which were set aside: labels are noisy, and the last weights know that noise by heart.
pub(super) fn fit(rows: &[Features], labels: &[bool], seed: u64) -> Mlp {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut mlp = random_weights(&mut random);
    let mut adam = Adam::new(mlp.weights_mut().len());
    let mut rows: Vec<(&Features, bool)> = rows.iter().zip(labels.iter().copied()).collect();
    random.shuffle(&mut rows);
    let watched = rows.len() / WATCHED;
    let (watched, fitted) = rows.split_at_mut(watched);
    let mut best = (loss(&mlp, watched), mlp.clone());
    let mut at = 0;
    for step in 1..=STEPS {
        if at + BATCH > fitted.len() {
            random.shuffle(fitted);
            at = 0;
        }
        let batch = &fitted[at..fitted.len().min(at + BATCH)];
        at += BATCH;
        let mut slope = vec![0.0; adam.first.len()];
        for &(row, label) in batch {
            let one = mlp.slope(row, label);
            slope.iter_mut().zip(one).for_each(|(sum, one)| *sum += one / batch.len() as f64);
        }
        adam.step(mlp.weights_mut(), &slope);
        if step.is_multiple_of(LOOK) {
            let loss = loss(&mlp, watched);
            if loss < best.0 {
                best = (loss, mlp.clone());
            }
        }
    }
    best.1
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
        let state = self.first.iter_mut().zip(&mut self.second);
        for ((weight, slope), (first, second)) in weights.into_iter().zip(slope).zip(state) {
            *first = b1 * *first + (1.0 - b1) * slope;
            *second = b2 * *second + (1.0 - b2) * slope * slope;
            *weight -= RATE * ((*first / fix1) / ((*second / fix2).sqrt() + EPSILON) + DECAY * *weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_loss() {
        let mut random = fastrand::Rng::with_seed(3);
        for label in [false, true] {
            let mut mlp = random_weights(&mut random);
            let row: Features = std::array::from_fn(|_| 2.0 * random.f64() - 1.0);
            let slope = mlp.slope(&row, label);
            assert_eq!(slope.len(), mlp.weights_mut().len());
            for (at, said) in slope.iter().enumerate() {
                let step = 1e-6;
                let mut moved = |by: f64| {
                    *mlp.weights_mut()[at] += by;
                    loss(&mlp, &[(&row, label)])
                };
                let (up, down) = (moved(step), moved(-2.0 * step));
                moved(step);
                let measured = (up - down) / (2.0 * step);
                assert!((measured - said).abs() < 1e-6, "weight {at}: {measured} measured, {said} said");
            }
        }
    }

    /// Rows with labels, of which so large a share is right and the others are drawn.
    fn crosses(count: usize, seed: u64, right: f64) -> (Vec<Features>, Vec<bool>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut draw = |_| {
            let row: Features = std::array::from_fn(|_| 3.4 * (random.f64() - 0.5));
            let label = (row[0] > 0.0) == (row[7] > 0.0);
            (row, if random.f64() < right { label } else { random.bool() })
        };
        (0..count).map(&mut draw).unzip()
    }

    fn accuracy((rows, labels): &(Vec<Features>, Vec<bool>)) -> f64 {
        let mlp = fit(rows, labels, 1);
        let (rows, labels) = crosses(2000, 99, 1.0);
        let right = rows.iter().zip(labels).filter(|(row, label)| (mlp.probability(row) > 0.5) == *label);
        right.count() as f64 / 2000.0
    }

    #[test]
    fn a_cross_is_learned_among_sixteen_features_that_say_nothing() {
        for seed in 1..=3 {
            let found = accuracy(&crosses(4000, seed, 1.0));
            assert!(found >= 0.93, "seed {seed}: {found}");
            let of_few = accuracy(&crosses(700, seed, 1.0));
            assert!(of_few >= 0.8, "seed {seed}, 700 rows: {of_few}");
            let of_noisy = accuracy(&crosses(4000, seed, 0.6));
            assert!(of_noisy >= 0.8, "seed {seed}, four labels of ten drawn: {of_noisy}");
        }
    }
}
