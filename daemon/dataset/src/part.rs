//! The numbers of a dataset that must not be mixed with others: parts, and rows of a shard. They own no meaning beyond
//! that and must never cost anything: each is the plain number in memory and in files.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a part, from 0, and so of the node that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Part(pub u16);

impl Part {
    /// Parts `0..parts`, in order.
    pub fn all(parts: u16) -> impl Iterator<Item = Self> + Clone + use<> {
        (0..parts).map(Self)
    }

    /// The number as a position in a list of all parts.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Row of a part's shards, from 0: the same in the shard of each table of the vertex type. Not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalRow(pub u64);

impl fmt::Display for LocalRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
