//! Checksums of dataset files: computed in parallel over files, with progress. Reads files front to back in bounded
//! pieces; it must never map them (a file that shrinks while it is read is an error here, not a signal).

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use xxhash_rust::xxh3::Xxh3;

use super::checksum::Checksum;
use super::error::DatasetError;
use super::manifest::{FileManifest, Place, resolve};

/// Bytes read at once: large enough for disks, small enough for the cache next to the core.
const PIECE_BYTES: usize = 1 << 20;

/// Checks the checksum of every file of the dataset in `dir` that has one, on at most one thread per core. `progress`
/// is called on the calling thread with (bytes done, bytes in all).
///
/// # Errors
/// The first [`DatasetError`] found: a missing file, another length, or another checksum.
pub(crate) fn verify_files(
    dir: &Path,
    files: &[&FileManifest],
    progress: &dyn Fn(u64, u64),
) -> Result<(), DatasetError> {
    let files: Vec<&FileManifest> = files.iter().filter(|file| file.xxh3.is_some()).copied().collect();
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(files.len());
    // A bound on what may wait keeps a slow progress bar from growing memory.
    let (report, reports) = mpsc::sync_channel::<Result<u64, DatasetError>>(1024);
    progress(0, total);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (report, next, files) = (report.clone(), &next, &files);
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
    let Some(Checksum(expected)) = file.xxh3 else { return Ok(()) };
    let piece = match file.place() {
        Place::Piece(offset) => Some((offset, file.bytes)),
        Place::Whole | Place::Elsewhere => None,
    };
    let Some((found_bytes, found)) = hash_file(&path, piece, is_wanted)? else { return Ok(()) };
    if found_bytes != file.bytes {
        return Err(match piece {
            None => DatasetError::SizeMismatch { path, found: found_bytes, expected: file.bytes },
            Some((offset, bytes)) => {
                DatasetError::PieceTruncated { path, found: offset.saturating_add(found_bytes), offset, bytes }
            }
        });
    }
    if found != expected {
        return Err(DatasetError::ChecksumMismatch { path, found, expected });
    }
    Ok(())
}

/// XXH3 of the `bytes` of a file that begin at `offset`, as a manifest has it. `progress` gets the bytes of each read.
///
/// # Errors
/// [`DatasetError`] naming the file, when it cannot be read or ends before the piece does.
pub fn checksum_of_piece(
    path: &Path,
    offset: u64,
    bytes: u64,
    progress: &dyn Fn(u64),
) -> Result<Checksum, DatasetError> {
    let is_wanted = |read| {
        progress(read);
        true
    };
    match hash_file(path, Some((offset, bytes)), &is_wanted)? {
        Some((found, hash)) if found == bytes => Ok(Checksum(hash)),
        cut => {
            let found = offset.saturating_add(cut.map_or(0, |(found, _)| found));
            Err(DatasetError::PieceTruncated { path: path.to_owned(), found, offset, bytes })
        }
    }
}

/// Length and checksum of a whole file, or of a `piece` (offset and bytes) as far as it reaches; `None` when
/// `is_wanted` said stop.
fn hash_file(
    path: &Path,
    piece: Option<(u64, u64)>,
    is_wanted: &dyn Fn(u64) -> bool,
) -> Result<Option<(u64, u64)>, DatasetError> {
    let mut file = File::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => DatasetError::FileMissing { path: path.to_owned() },
        _ => DatasetError::Io { path: path.to_owned(), action: "open", source },
    })?;
    let (offset, bytes) = piece.unwrap_or((0, u64::MAX));
    file.seek(SeekFrom::Start(offset)).map_err(DatasetError::io(path, "read"))?;
    let mut reader = file.take(bytes);
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
