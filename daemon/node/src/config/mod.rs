//! The one typed configuration of `rudderd`: it composes the sections, and owns what spans them and how a file, the
//! environment and flags are laid over each other. A section is declared, decoded and checked by the module or crate
//! that acts on it; here are those that the node itself acts on.
//!
//! It opens nothing but the configuration file, and never reads the environment by itself: pairs come in from the
//! caller, so that every rule is testable. It must never hold a secret, only paths of files that do.
//!
//! `docs/configuration.md` lists every key; a test here keeps the page and these structs the same.

mod cache;
mod dataset;
mod error;
mod layers;
mod node;
mod shape;
#[cfg(test)]
mod tests;
mod validate;

pub use cache::{CacheConfig, Policy, TableCacheConfig};
pub use dataset::DatasetConfig;
pub use error::{ConfigError, WrongType};
pub use layers::{Layers, Origin};
pub use node::NodeConfig;

pub use crate::admin::AdminConfig;
pub use crate::serve::{AllowedBy, LocalConfig};
pub use rudder_agent::{AgentConfig, spec::ControllerSpec};
pub use rudder_dataset::{Access, Verify};

use rudder_peers::PeersConfig;
use rudder_telemetry::LogConfig;
use serde::{Deserialize, Serialize};

/// All settings of `rudderd`, with the documented default for those that are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which partition this daemon owns, and how it ends.
    pub node: NodeConfig,
    /// Where the feature tables are.
    pub dataset: DatasetConfig,
    /// The socket for the trainers of this node, and its limits.
    pub local: LocalConfig,
    /// The cache of remote rows.
    pub cache: CacheConfig,
    /// How announced batches are prepared.
    pub lookahead: rudder_core::lookahead::Settings,
    /// The other daemons: their addresses, certificates, time-outs and limits.
    pub peers: PeersConfig,
    /// What steers the cache.
    pub agent: AgentConfig,
    /// The HTTP server for operators and Prometheus.
    pub admin: AdminConfig,
    /// What is logged, and how.
    pub log: LogConfig,
}

impl Config {
    /// The effective configuration as TOML that [`Layers::file`] reads back to an equal value. Secrets cannot appear:
    /// the configuration holds only the paths of the files that hold them.
    ///
    /// # Errors
    /// [`ConfigError::NotText`] if a path is not valid UTF-8 (only possible for a `Config` that was built in code).
    pub fn effective_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|source| ConfigError::NotText { source })
    }

    /// The keys, with their sections, whose values differ in `other`.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (Ok(ours), Ok(theirs)) = (toml::Value::try_from(self), toml::Value::try_from(other)) else {
            return Vec::new();
        };
        let mut keys = Vec::new();
        differing("", Some(&ours), Some(&theirs), &mut keys);
        keys
    }
}

/// Collects the paths of leaves that are not the same on both sides.
fn differing(path: &str, ours: Option<&toml::Value>, theirs: Option<&toml::Value>, keys: &mut Vec<String>) {
    let table = |value: Option<&toml::Value>| value.and_then(|value| value.as_table().cloned());
    match (table(ours), table(theirs)) {
        (Some(ours), Some(theirs)) => {
            let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                differing(&path, ours.get(name), theirs.get(name), keys);
            }
        }
        _ if ours != theirs => keys.push(path.to_owned()),
        _ => {}
    }
}
