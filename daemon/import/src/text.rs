//! Lines of a text file, plain or gzip, with bounds. It must never hold more than one line.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use rudder_dataset::DatasetError;

/// Longest line that is read.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Lines between two reports of progress.
const LINES_PER_REPORT: u64 = 1 << 16;

/// Reads a file line by line; names ending in `.gz` are unpacked.
pub(super) struct Lines<'a> {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: String,
    number: u64,
    read: Arc<AtomicU64>,
    total: u64,
    progress: &'a dyn Fn(u64, u64),
}

/// Counts the bytes taken from the file, before unpacking.
struct Counting(File, Arc<AtomicU64>);

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<'a> Lines<'a> {
    pub(super) fn open(path: &Path, progress: &'a dyn Fn(u64, u64)) -> Result<Self, DatasetError> {
        let file = File::open(path).map_err(DatasetError::io(path, "open"))?;
        let total = file.metadata().map_err(DatasetError::io(path, "read the length"))?.len();
        let read = Arc::new(AtomicU64::new(0));
        let counting = BufReader::with_capacity(1 << 18, Counting(file, Arc::clone(&read)));
        let is_packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let reader: Box<dyn BufRead> = if is_packed {
            Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(counting)))
        } else {
            Box::new(counting)
        };
        Ok(Self { path: path.to_owned(), reader, line: String::new(), number: 0, read, total, progress })
    }

    /// Goes to the next line that is no comment (`#` first); false at the end of the file.
    pub(super) fn advance(&mut self) -> Result<bool, DatasetError> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut bounded = self.reader.by_ref().take(LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_line(&mut self.line).map_err(|source| match source.kind() {
                ErrorKind::InvalidData => self.error("not text in UTF-8"),
                _ => DatasetError::Io { path: self.path.clone(), action: "read", source },
            })?;
            if read == 0 {
                (self.progress)(self.total, self.total);
                return Ok(false);
            }
            if self.number.is_multiple_of(LINES_PER_REPORT) {
                (self.progress)(self.read.load(Ordering::Relaxed), self.total);
            }
            if self.line.len() > LINE_BYTES_MAX {
                return Err(self.error(format!("longer than {LINE_BYTES_MAX} bytes")));
            }
            if !self.line.starts_with('#') {
                return Ok(true);
            }
        }
    }

    /// The line without its end.
    pub(super) fn line(&self) -> &str {
        self.line.trim_end_matches(['\n', '\r'])
    }

    /// An error about the line that was read last.
    pub(super) fn error(&self, what: impl Into<String>) -> DatasetError {
        DatasetError::Text { path: self.path.clone(), line: self.number, what: what.into() }
    }
}
