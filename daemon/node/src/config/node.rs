//! Section `[node]`: which node this is and how it ends. It must never say anything about other nodes (that is
//! `[peers]`).

use rudder_settings::{Verdict, WAIT_MS, within};
use serde::{Deserialize, Serialize};

/// Section `[node]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The partition this daemon owns, from 0. [`super::Config::validate_against`] refuses a configuration that does
    /// not say it for a dataset of several partitions.
    pub index: Option<u16>,
    /// How long a stopping daemon lets requests in progress end, in milliseconds.
    pub drain_ms: u64,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { index: None, drain_ms: 10_000 }
    }
}

impl NodeConfig {
    /// The partition this daemon owns: 0 where the configuration leaves it to the dataset.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index.unwrap_or_default()
    }

    /// Checks the wait; what the dataset decides is [`super::Config::validate_against`]'s.
    ///
    /// # Errors
    /// [`Invalid`](rudder_settings::Invalid) if it is out of range.
    pub fn check(&self) -> Verdict {
        within("node.drain_ms", self.drain_ms, 0..=*WAIT_MS.end())
    }
}
