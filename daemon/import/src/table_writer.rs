//! Streams the rows of one table into its shards. It must never keep rows, nor have more files open than it is writing
//! to: a shard is opened with its first row and closed with its last.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::sink::Sink;
use rudder_dataset::manifest::{FileManifest, ShardManifest};
use rudder_dataset::npy::encode_header;
use rudder_dataset::{DatasetError, Part, PartitionBook, RowForm};

/// Writer of one table, from [`super::DatasetWriter::add_table`].
pub struct TableWriter {
    dir: PathBuf,
    name: String,
    index: usize,
    form: RowForm,
    book: Arc<PartitionBook>,
    shards: Vec<OpenShard>,
    /// The id of the next row given to [`TableWriter::append`].
    next_id: u64,
}

/// One shard: how many rows it has so far, and its file.
struct OpenShard {
    rows: u64,
    state: State,
}

enum State {
    Waiting,
    Open(Sink),
    Done(FileManifest),
}

impl fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableWriter").field("name", &self.name).field("next_id", &self.next_id).finish_non_exhaustive()
    }
}

impl TableWriter {
    pub(crate) fn new(dir: PathBuf, name: &str, index: usize, form: RowForm, book: Arc<PartitionBook>) -> Self {
        let shards = (0..book.parts()).map(|_| OpenShard { rows: 0, state: State::Waiting }).collect();
        Self { dir, name: name.to_owned(), index, form, book, shards, next_id: 0 }
    }

    /// Bytes of a row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.form.row_bytes()
    }

    /// Appends rows to the shard of `part`, in the order of the shard.
    ///
    /// # Errors
    /// [`DatasetError::Rows`] when there is no such part, the bytes are no whole rows, or the part has all its rows;
    /// I/O errors.
    pub fn write_rows(&mut self, part: Part, rows: &[u8]) -> Result<(), DatasetError> {
        let count = self.count_rows(rows)?;
        let owned = self.book.owned(part);
        let wrong = |what| DatasetError::Rows { table: self.name.clone(), what };
        let Some(shard) = self.shards.get_mut(part.index()) else {
            return Err(wrong(format!("there is no part {part}")));
        };
        if shard.rows + count > owned {
            return Err(wrong(format!("{} rows for part {part}, which owns {owned}", shard.rows + count)));
        }
        if matches!(shard.state, State::Waiting) {
            let mut sink = Sink::create(&self.dir, &format!("tables/{}/part{part}.npy", self.name))?;
            let shape = [vec![owned], self.form.sizes()].concat();
            sink.write(&encode_header(self.form.dtype().npy_descr(), &shape))?;
            shard.state = State::Open(sink);
        }
        if let State::Open(sink) = &mut shard.state {
            sink.write(rows)?;
        }
        shard.rows += count;
        if shard.rows == owned {
            shard.state = match std::mem::replace(&mut shard.state, State::Waiting) {
                State::Open(sink) => State::Done(sink.finish()?),
                other => other,
            };
        }
        Ok(())
    }

    /// Appends the rows of the next ids, in the order of ids: each goes to its owner's shard.
    ///
    /// # Errors
    /// As [`TableWriter::write_rows`]; [`DatasetError::Rows`] also when there are more rows than ids.
    pub fn append(&mut self, rows: &[u8]) -> Result<(), DatasetError> {
        self.count_rows(rows)?;
        let mut rest = rows;
        while !rest.is_empty() {
            let Some(first) = self.book.locate(self.next_id) else {
                let what = format!("more rows than its {} ids", self.book.rows());
                return Err(DatasetError::Rows { table: self.name.clone(), what });
            };
            // Rows of one owner in a row go out in one piece: whole ranges, or runs of a map.
            let given = (rest.len() / self.row_bytes()) as u64;
            let run = match self.book.as_ranges() {
                Some(_) => given.min(self.book.owned(first.part) - first.row.0),
                None => (1..given)
                    .find(|&ahead| self.book.locate(self.next_id + ahead).is_none_or(|at| at.part != first.part))
                    .unwrap_or(given),
            };
            let (now, later) = rest.split_at(run as usize * self.row_bytes());
            self.write_rows(first.part, now)?;
            self.next_id += run;
            rest = later;
        }
        Ok(())
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn finish(mut self) -> Result<Vec<ShardManifest>, DatasetError> {
        for part in Part::all(self.book.parts()) {
            // A part that owns nothing still has its file.
            self.write_rows(part, &[])?;
        }
        let mut shards = Vec::with_capacity(self.shards.len());
        for (part, shard) in (0..).map(Part).zip(self.shards) {
            match shard.state {
                State::Done(file) => shards.push(ShardManifest { rows: shard.rows, file }),
                _ => {
                    let what = format!("part {part} has {} of its {} rows", shard.rows, self.book.owned(part));
                    return Err(DatasetError::Rows { table: self.name, what });
                }
            }
        }
        Ok(shards)
    }

    fn count_rows(&self, rows: &[u8]) -> Result<u64, DatasetError> {
        let row_bytes = self.row_bytes();
        if !rows.len().is_multiple_of(row_bytes) {
            let what = format!("{} bytes are not whole rows of {row_bytes} bytes", rows.len());
            return Err(DatasetError::Rows { table: self.name.clone(), what });
        }
        Ok((rows.len() / row_bytes) as u64)
    }
}
