//! Read-only memory maps of dataset files: the only place of this module with `unsafe`. It must never hand out anything
//! but bytes: files of others are not aligned, so no row is ever seen as a slice of numbers here.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Advice, Mmap, MmapOptions};

/// How a map is going to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOrder {
    /// Rows here and there: no read-ahead.
    Random,
    /// Once, from front to back.
    Sequential,
    /// Here and there, but soon all of it: the kernel reads around what is asked for.
    Around,
}

/// Maps a whole file.
pub fn map(file: &File, order: ReadOrder) -> io::Result<Mmap> {
    map_with(file, order, &MmapOptions::new())
}

/// Maps the `bytes` of a file that begin at `offset`, which need not be aligned. The caller has seen that the file is
/// as long as that.
pub fn map_piece(file: &File, order: ReadOrder, offset: u64, bytes: u64) -> io::Result<Mmap> {
    let bytes = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    map_with(file, order, MmapOptions::new().offset(offset).len(bytes))
}

fn map_with(file: &File, order: ReadOrder, options: &MmapOptions) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this process. Undefined behaviour needs someone to change the file
    // while it is mapped: dataset files are written once under a temporary name and renamed (see `writer`), and the
    // documentation tells operators never to change a dataset in place, nor files of others that are served in place.
    let map = unsafe { options.map(file)? };
    let advice = match order {
        ReadOrder::Random => Advice::Random,
        ReadOrder::Sequential => Advice::Sequential,
        ReadOrder::Around => Advice::Normal,
    };
    // Advice is a hint: a file system that does not take it still serves the rows.
    if let Err(error) = map.advise(advice) {
        tracing::debug!(%error, ?advice, "the kernel did not take the advice for a mapped file");
    }
    Ok(map)
}
