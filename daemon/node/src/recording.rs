//! The words in which a recording of accesses is asked for and handed out, over `POST /v1/trace`: known to those who
//! record, who pass it on and who ask. It owns no behaviour.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A recording that nobody has taken from for this long ends.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// What `POST /v1/trace` takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum TraceCall {
    /// Begin to record.
    Start {
        /// Name of the table.
        table: String,
    },
    /// Hand out what was recorded since the last call.
    Take {
        /// Name of the table.
        table: String,
    },
    /// End the recording; what was not taken is dropped.
    Stop {
        /// Name of the table.
        table: String,
    },
}

impl TraceCall {
    /// The table it is about.
    #[must_use]
    pub fn table(&self) -> &str {
        let (Self::Start { table } | Self::Take { table } | Self::Stop { table }) = self;
        table
    }
}

/// What `POST /v1/trace` answers.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct TraceAnswer {
    /// Ids of the table are below this.
    pub universe: u64,
    /// The node whose fetches these are.
    pub node: u16,
    /// Trainers that report their progress.
    pub trainers: usize,
    /// Steps of an epoch as a trainer reported them last; 0 if none has.
    pub steps_per_epoch: u32,
    /// Fetches, oldest first.
    pub minibatches: Vec<Recorded>,
    /// Fetches that were not recorded since the start because too much waited.
    pub dropped: u64,
}

/// One recorded fetch.
#[derive(Debug, Deserialize, Serialize)]
pub struct Recorded {
    /// Epochs ended when it was answered.
    pub epoch: u32,
    /// Share of the epoch that was over.
    pub progress: f32,
    /// Unique remote ids.
    pub ids: Vec<u64>,
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// No table of this name.
    #[error("no table `{table}`; there are {known}")]
    UnknownTable {
        /// The name asked for.
        table: String,
        /// The names there are.
        known: String,
    },
    /// Somebody else records.
    #[error("table `{table}` is being recorded already; end that recording, or wait until it has been idle for {} s", IDLE_MAX.as_secs())]
    Busy {
        /// The table.
        table: String,
    },
    /// Nobody records.
    #[error("table `{table}` is not being recorded: it was not started, or ended after {} s in which nobody took from it", IDLE_MAX.as_secs())]
    NotRecording {
        /// The table.
        table: String,
    },
    /// The node does not serve yet, or any more.
    #[error("the node does not serve: {0}")]
    NotServing(String),
}
