//! Owns the choice among the demo's graphs. Must never depend on anything but the choice and the seed: two runs get the
//! same graph.

use std::fmt;
use std::str::FromStr;

use crate::error::DemoError;
use crate::graph::Graph;
use crate::{debian, powerlaw};

/// Which graph to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphChoice {
    /// The Debian 12 package graph that is compiled into the program.
    Debian,
    /// A generated graph, with its number of vertices.
    PowerLaw(u32),
}

/// Fewest and most vertices of a generated graph. Below, its communities have no structure; above, vertex ids and edge
/// counts leave the 32 bits of METIS.
pub(crate) const POWERLAW_VERTICES: std::ops::RangeInclusive<u32> = 1_000..=100_000_000;

impl FromStr for GraphChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "debian" {
            return Ok(Self::Debian);
        }
        let Some(count) = text.strip_prefix("powerlaw:") else {
            return Err(format!("unknown graph `{text}`: use `debian` or `powerlaw:VERTICES`"));
        };
        let (low, high) = (POWERLAW_VERTICES.start(), POWERLAW_VERTICES.end());
        match count.replace('_', "").parse() {
            Ok(vertices) if POWERLAW_VERTICES.contains(&vertices) => Ok(Self::PowerLaw(vertices)),
            _ => Err(format!("`{count}` is not a number of vertices: use a whole number from {low} to {high}")),
        }
    }
}

impl fmt::Display for GraphChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian => f.write_str("debian"),
            Self::PowerLaw(vertices) => write!(f, "powerlaw:{vertices}"),
        }
    }
}

impl GraphChoice {
    /// Loads or generates the chosen graph.
    ///
    /// # Errors
    /// The compiled-in Debian graph does not decode: the program was built from damaged assets.
    pub(crate) fn load(self, seed: u64) -> Result<Graph, DemoError> {
        match self {
            Self::Debian => debian::load(),
            Self::PowerLaw(vertices) => powerlaw::generate(vertices, seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graph_choice_is_parsed_and_refused() {
        assert_eq!("debian".parse(), Ok(GraphChoice::Debian));
        assert_eq!("powerlaw:2_000_000".parse(), Ok(GraphChoice::PowerLaw(2_000_000)));
        for (bad, says) in [("powerlaw:12", "12"), ("powerlaw:", "``"), ("ubuntu", "ubuntu"), ("powerlaw:-5", "-5")] {
            assert!(bad.parse::<GraphChoice>().unwrap_err().contains(says), "{bad}");
        }
    }
}
