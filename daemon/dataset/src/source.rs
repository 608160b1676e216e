//! What a path of a dataset names: a folder with `manifest.json`, or files of others that are served where they lie.
//! Owns the choice between them; it must never open a shard.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::distdgl::{DISTDGL_PREFIX, DistDgl};
use super::error::DatasetError;
use super::manifest::{MANIFEST_FILE, Manifest};
use super::part::Part;

/// Where a dataset comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A folder with a `manifest.json`, which has a checksum for each file.
    Folder,
    /// A DistDGL partition, served where it lies; it has no checksums.
    DistDgl,
}

/// A dataset before any of its files is opened.
#[derive(Debug)]
pub struct Source {
    /// Where it comes from.
    pub origin: Origin,
    /// What it is.
    pub manifest: Manifest,
    /// The folder that paths in the manifest are relative to.
    pub dir: PathBuf,
    /// The file that says what the dataset is, for messages.
    pub described_by: PathBuf,
}

impl Source {
    /// Reads what `path` names, for the node that owns part `node`; for a tool without one.
    ///
    /// # Errors
    /// As [`Manifest::load`].
    pub fn read(path: &Path, node: Option<Part>) -> Result<Self, DatasetError> {
        let Some(graph) = path.as_os_str().as_bytes().strip_prefix(DISTDGL_PREFIX.as_bytes()) else {
            let manifest = Manifest::load_folder(path)?;
            let described_by = path.join(MANIFEST_FILE);
            return Ok(Self { origin: Origin::Folder, manifest, dir: path.to_owned(), described_by });
        };
        let graph = Path::new(std::ffi::OsStr::from_bytes(graph));
        let DistDgl { manifest, skipped, .. } = DistDgl::read(graph, node)?;
        for feature in &skipped {
            tracing::warn!(path = %graph.display(), "a feature of the partition is not served: {feature}");
        }
        if manifest.tables.is_empty() {
            tracing::warn!(path = %graph.display(), "the partition has no features: there is nothing to serve");
        }
        let dir = graph.parent().unwrap_or_else(|| Path::new("")).to_owned();
        Ok(Self { origin: Origin::DistDgl, manifest, dir, described_by: graph.to_owned() })
    }
}
