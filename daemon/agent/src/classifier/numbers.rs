//! The arithmetic that samples, models and their files share: means, the logistic curve, and which numbers a file may
//! hold. It must know none of them.

/// Largest number that parameters may have: far above those that are fitted, and no sum of products of three of them
/// overflows.
pub const NUMBER_MAX: f64 = 1e90;

/// Smallest standard deviation that counts as one.
pub const DEVIATION_MIN: f64 = 1e-12;

/// The logistic curve.
#[must_use]
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Mean and standard deviation; the latter is 1 where all values are equal.
#[must_use]
pub fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let deviation = (values.map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    (mean, if deviation > DEVIATION_MIN { deviation } else { 1.0 })
}

/// Whether a fitted parameter can have this value.
pub(super) fn is_possible(value: f64) -> bool {
    value.is_finite() && value.abs() <= NUMBER_MAX
}

/// Checks that there are `count` values, each finite and within [`NUMBER_MAX`].
pub(super) fn all_finite(name: &str, values: &[f64], count: usize) -> Result<(), String> {
    if values.len() != count {
        return Err(format!("{name}: {} values where there should be {count}", values.len()));
    }
    match values.iter().find(|value| !is_possible(**value)) {
        Some(value) => Err(format!("{name}: {value}")),
        None => Ok(()),
    }
}
