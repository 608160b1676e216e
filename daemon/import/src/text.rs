//! Lines of a text file, plain or gzip, with bounds. Reads its input once, front to back, so a pipe will do. It must
//! never hold more than one line.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use crate::input::{Input, Kind};
use rudder_dataset::DatasetError;

/// Longest line that is read.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Lines between two reports of progress.
const LINES_PER_REPORT: u64 = 1 << 16;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 18;

/// Reads a file line by line; gzip is unpacked.
pub(super) struct Lines<'a> {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: String,
    number: u64,
    comments: u64,
    read: Arc<AtomicU64>,
    total: u64,
    progress: &'a dyn Fn(u64, u64),
}

/// Counts the bytes taken from the file, before unpacking.
struct Counting<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<'a> Lines<'a> {
    pub(super) fn open(path: &Path, progress: &'a dyn Fn(u64, u64)) -> Result<Self, DatasetError> {
        Self::of(Input::open(path)?, progress)
    }

    pub(super) fn of(input: Input, progress: &'a dyn Fn(u64, u64)) -> Result<Self, DatasetError> {
        let (path, total, kind) = (input.path().to_owned(), input.bytes(), input.kind());
        let read = Arc::new(AtomicU64::new(0));
        let counting = BufReader::with_capacity(BUFFER_BYTES, Counting(input.into_reader(), Arc::clone(&read)));
        let wrong = |what: &str| Err(DatasetError::Input(format!("{}: {what}", path.display())));
        let reader: Box<dyn BufRead> = match kind {
            Kind::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(counting))),
            Kind::Other => Box::new(counting),
            Kind::Npy => return wrong("an array, where text is expected: give it as a table (--table NAME=FILE)"),
            Kind::Zip => return wrong("a zip archive, where text is expected: unpack it first"),
            Kind::Packed(program) => return wrong(&format!("packed: unpack it first, with `{program}`")),
        };
        Ok(Self { path, reader, line: String::new(), number: 0, comments: 0, read, total, progress })
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
            if self.number == 1 && self.line.starts_with('\u{feff}') {
                // The byte order mark of text from Windows.
                self.line.drain(..'\u{feff}'.len_utf8());
            }
            if self.line().contains(['\r', '\0']) {
                return Err(self.error(
                    "a carriage return or a zero byte inside a line: save the file as UTF-8 text whose lines end in \\n",
                ));
            }
            if self.line.trim_start().starts_with('#') {
                self.comments += 1;
            } else {
                return Ok(true);
            }
        }
    }

    /// The line without its end.
    pub(super) fn line(&self) -> &str {
        let line = self.line.strip_suffix('\n').unwrap_or(&self.line);
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// The number of the line that was read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Comments so far.
    pub(super) fn comments(&self) -> u64 {
        self.comments
    }

    /// The name of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about the line that was read last.
    pub(super) fn error(&self, what: impl Into<String>) -> DatasetError {
        self.error_at(self.number, what)
    }

    /// An error about a line.
    pub(super) fn error_at(&self, line: u64, what: impl Into<String>) -> DatasetError {
        DatasetError::Text { path: self.path.clone(), line, what: what.into() }
    }
}
