//! Who watches a run. Owns the interface by which the demo tells how far it is; it must never print.

/// Told how far the demo is.
pub trait Watch {
    /// What is being done now.
    fn message(&self, text: String);

    /// Training begins and takes `total` steps.
    fn steps(&self, total: u64);

    /// One step is done.
    fn step(&self);
}

/// Watches nothing.
#[cfg(test)]
pub(crate) struct Quiet;

#[cfg(test)]
impl Watch for Quiet {
    fn message(&self, _text: String) {}

    fn steps(&self, _total: u64) {}

    fn step(&self) {}
}
