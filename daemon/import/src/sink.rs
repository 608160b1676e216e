//! A file of a dataset being written: counts and hashes its bytes as they pass, so that the manifest needs no second
//! reading. It must never seek.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::staging::gate;
use rudder_dataset::{Checksum, DatasetError, manifest::FileManifest};

/// Bytes gathered before they are hashed and go to the file.
const BUFFER_BYTES: usize = 256 * 1024;

pub(crate) struct Sink {
    file: File,
    buffer: Vec<u8>,
    hash: Box<Xxh3>,
    bytes: u64,
    path: PathBuf,
    relative: String,
}

impl Sink {
    /// Creates `relative` in `dir`, with the folders above it.
    pub(crate) fn create(dir: &Path, relative: &str) -> Result<Self, DatasetError> {
        let path = dir.join(relative);
        let _gate = gate();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(DatasetError::io(parent, "create the folder"))?;
        }
        let file = File::create_new(&path).map_err(DatasetError::io(&path, "create"))?;
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Ok(Self { file, buffer, hash: Box::new(Xxh3::new()), bytes: 0, path, relative: relative.to_owned() })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DatasetError> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            return self.pass(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<FileManifest, DatasetError> {
        self.flush()?;
        Ok(FileManifest::whole(self.relative, self.bytes, Checksum(self.hash.digest())))
    }

    fn flush(&mut self) -> Result<(), DatasetError> {
        let buffer = std::mem::take(&mut self.buffer);
        self.pass(&buffer)?;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), DatasetError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(DatasetError::io(&self.path, "write"))
    }
}
