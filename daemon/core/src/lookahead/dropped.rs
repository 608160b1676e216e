//! Batches that will not come true. It owns only their keys, and never what was prepared for them: who holds that
//! lets it go.

use crate::cache::BatchKey;

/// Batches that will not come true: what was prepared for them must be let go.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dropped(pub(super) Vec<BatchKey>);

impl Dropped {
    /// Whether nothing was dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many batches were dropped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds the batches of `other`.
    pub fn merge(&mut self, other: Dropped) {
        self.0.extend(other.0);
    }
}

impl IntoIterator for Dropped {
    type Item = BatchKey;
    type IntoIter = std::vec::IntoIter<BatchKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
