//! Owns what can go wrong in `rudder demo`, each with the culprit and what to do about it. Must never lose a child's last
//! words: a failed process is reported with the end of its log.

use std::io;
use std::path::{Path, PathBuf};

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// A compiled-in file does not decode.
    #[error("the compiled-in {asset} is damaged: {reason}; build the program again from a clean checkout")]
    Asset { asset: &'static str, reason: String },
}
