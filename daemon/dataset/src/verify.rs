//! Checksums of dataset files: computed in parallel over files, with progress. Reads files front to back in bounded
//! pieces; it must never map them (a file that shrinks while it is read is an error here, not a signal).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use xxhash_rust::xxh3::Xxh3;

use super::error::DatasetError;
use super::manifest::{FileManifest, resolve};

/// Bytes read at once: large enough for disks, small enough for the cache next to the core.
const PIECE_BYTES: usize = 1 << 20;

/// Checks the checksum of every file of the dataset in `dir`, on at most one thread per core. `progress`
/// is called on the calling thread with (bytes done, bytes in all).
///
/// # Errors
/// The first [`DatasetError`] found: a missing file, another length, or another checksum.
pub(crate) fn verify_files(
    dir: &Path,
    files: &[&FileManifest],
    progress: &dyn Fn(u64, u64),
) -> Result<(), DatasetError> {
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(files.len());
    // A bound on what may wait keeps a slow progress bar from growing memory.
    let (report, reports) = mpsc::sync_channel::<Result<u64, DatasetError>>(1024);
    progress(0, total);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (report, next) = (report.clone(), &next);
            scope.spawn(move || {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A closed channel means that another file has failed: stop at the next piece.
                    let is_wanted = |bytes| report.send(Ok(bytes)).is_ok();
                    if let Err(error) = verify_file(resolve(dir, file), file, &is_wanted) {
                        let _ = report.send(Err(error));
                        return;
                    }
                }
            });
        }
        drop(report);
        // Moved in, so that an early return closes the channel and ends the threads before the scope joins them.
        let reports = reports;
        let mut done = 0;
        for bytes in &reports {
            done += bytes?;
            progress(done, total);
        }
        Ok(())
    })
}

fn verify_file(path: PathBuf, file: &FileManifest, is_wanted: &dyn Fn(u64) -> bool) -> Result<(), DatasetError> {
    let Some((found_bytes, found)) = hash_file(&path, is_wanted)? else { return Ok(()) };
    if found_bytes != file.bytes {
        return Err(DatasetError::SizeMismatch { path, found: found_bytes, expected: file.bytes });
    }
    if found != file.xxh3.0 {
        return Err(DatasetError::ChecksumMismatch { path, found, expected: file.xxh3.0 });
    }
    Ok(())
}

/// Length and checksum; `None` when `is_wanted` said stop.
fn hash_file(path: &Path, is_wanted: &dyn Fn(u64) -> bool) -> Result<Option<(u64, u64)>, DatasetError> {
    let mut reader = File::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => DatasetError::FileMissing { path: path.to_owned() },
        _ => DatasetError::Io { path: path.to_owned(), action: "open", source },
    })?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut hash = Xxh3::new();
    let mut total = 0;
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) => return Ok(Some((total, hash.digest()))),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(source) => return Err(DatasetError::io(path, "read")(source)),
        };
        hash.update(&piece[..read]);
        total += read as u64;
        if !is_wanted(read as u64) {
            return Ok(None);
        }
    }
}
