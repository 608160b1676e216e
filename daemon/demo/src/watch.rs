//! Who watches a run. Owns the interface by which the demo tells how far it is; it must never print.

/// Told how far the demo is.
pub trait Watch {
    /// What is being done now.
    fn message(&self, text: String);

    /// All runs together train for `total` steps; none of these is done.
    fn steps(&self, total: u64);

    /// One more step is done.
    fn step(&self);
}

/// Says before each message which run it is about.
pub(crate) struct Labelled<'a> {
    pub(crate) label: String,
    pub(crate) watch: &'a dyn Watch,
}

impl Watch for Labelled<'_> {
    fn message(&self, text: String) {
        self.watch.message(format!("{}: {text}", self.label));
    }

    fn steps(&self, total: u64) {
        self.watch.steps(total);
    }

    fn step(&self) {
        self.watch.step();
    }
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
