//! Why a block could not be read. It must never decide what happens next: whoever asked does.

use std::io;
use std::path::PathBuf;

/// Why there is no block cache.
#[derive(Debug, thiserror::Error)]
pub enum BlockCacheError {
    /// No threads.
    #[error("the kernel gives no threads for dataset.reads_max = {reads_max}: {cause}; write a lower number")]
    Threads {
        /// How many were asked for.
        reads_max: usize,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A metric cannot be made.
    #[error("a metric cannot be made: {0}")]
    Metric(#[from] prometheus::Error),
}

/// Why rows of a shard could not be read. Each names the file and the place in it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named after what the messages say of them
pub enum ReadError {
    /// The file ends before the block does: it was longer when it was opened.
    #[error("{}: cannot read {bytes} bytes at offset {offset}: only {found} of them are there: the file shrank since it was opened; put the whole file back and restart the daemon", .path.display())]
    Shrunk { path: PathBuf, offset: u64, bytes: usize, found: usize },
    /// The operating system said no.
    #[error("{}: cannot read {bytes} bytes at offset {offset}: {source}", .path.display())]
    Io { path: PathBuf, offset: u64, bytes: usize, source: io::Error },
    /// The disk does not answer, or answers too slowly for what is asked of it.
    #[error("{}: {bytes} bytes at offset {offset} were not read within {timeout_ms} ms (dataset.read_timeout_ms): the disk hangs or has too much to do", .path.display())]
    Timeout { path: PathBuf, offset: u64, bytes: usize, timeout_ms: u64 },
}
