//! Files of unsigned numbers beside the rows: owners, ids, offsets. Owns how they are had (mapped, held in memory, or
//! read number by number) and that a number is never read beyond the file. It must never know what a number means.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::DatasetError;
use super::manifest::{FileManifest, resolve};
use super::map::{ReadOrder, map};
use super::npy::{NpyType, Shape};
use super::shard::{open_listed, open_listed_npy};
use super::verify::verify_files;

/// How the bytes of a file are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Mapped.
    Map(ReadOrder),
    /// Read when asked for: nothing is mapped, nothing is held.
    Read,
}

/// The bytes of a file, or as many in memory.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(Mmap),
    /// Words, so that numbers of any size can be written in place, and how many bytes of them count.
    Held(Vec<u64>, usize),
    File(File, u64),
}

impl Bytes {
    /// Opens a file that the manifest names, and holds its length against the manifest.
    pub(crate) fn open(dir: &Path, file: &FileManifest, way: Way) -> Result<Self, DatasetError> {
        let path = resolve(dir, file);
        let opened = open_listed(&path)?;
        let found = opened.metadata().map_err(DatasetError::io(&path, "read the length"))?.len();
        if found != file.bytes {
            return Err(DatasetError::SizeMismatch { path, found, expected: file.bytes });
        }
        match way {
            Way::Map(order) => Ok(Self::Mapped(map(&opened, order).map_err(DatasetError::io(&path, "map"))?)),
            Way::Read => Ok(Self::File(opened, found)),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Mapped(map) => map.len() as u64,
            Self::Held(_, bytes) => *bytes as u64,
            Self::File(_, bytes) => *bytes,
        }
    }

    /// All of them, unless they have to be read.
    fn in_memory(&self) -> Option<&[u8]> {
        match self {
            Self::Mapped(map) => Some(map),
            Self::Held(words, bytes) => bytemuck::cast_slice(words).get(..*bytes),
            Self::File(..) => None,
        }
    }

    /// The bytes `from..to`; an error where the file has none.
    pub(crate) fn range(&self, from: u64, to: u64) -> io::Result<Cow<'_, [u8]>> {
        let absent = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("bytes {from} to {to} are not there"));
        if from > to || to > self.len() {
            return Err(absent());
        }
        match self {
            Self::File(file, _) => {
                let mut bytes = vec![0; (to - from) as usize];
                file.read_exact_at(&mut bytes, from)?;
                Ok(Cow::Owned(bytes))
            }
            _ => {
                self.in_memory().and_then(|it| it.get(from as usize..to as usize)).map(Cow::Borrowed).ok_or_else(absent)
            }
        }
    }
}

/// Unsigned numbers of one size, a fixed number of them in each row.
#[derive(Debug)]
pub(crate) struct Column {
    bytes: Bytes,
    data_offset: usize,
    size: usize,
    numbers: u64,
    path: PathBuf,
}

impl Column {
    /// Maps a `.npy` file with one number per row, to be read once.
    pub(crate) fn open(dir: &Path, file: &FileManifest, rows: u64, allowed: &[NpyType]) -> Result<Self, DatasetError> {
        Self::open_as(dir, file, (rows, 1), allowed, Way::Map(ReadOrder::Sequential))
    }

    /// As [`Column::open`]; the checksum is checked first.
    pub(crate) fn open_checked(
        dir: &Path,
        file: &FileManifest,
        rows: u64,
        allowed: &[NpyType],
    ) -> Result<Self, DatasetError> {
        verify_files(dir, &[file], &|_, _| ())?;
        Self::open(dir, file, rows, allowed)
    }

    /// Opens a `.npy` file of `shape` (rows, numbers in a row).
    pub(crate) fn open_as(
        dir: &Path,
        file: &FileManifest,
        (rows, width): (u64, u64),
        allowed: &[NpyType],
        way: Way,
    ) -> Result<Self, DatasetError> {
        let path = resolve(dir, file);
        let (opened, header) = open_listed_npy(&path)?;
        if !allowed.contains(&header.element) {
            let expected: Vec<String> = allowed.iter().map(|element| format!("{element:?}").to_lowercase()).collect();
            return Err(DatasetError::WrongDType { path, found: header.element, expected: expected.join(" or ") });
        }
        if header.rows() != rows || header.width() != width {
            let expected = Shape(if width == 1 { vec![rows] } else { vec![rows, width] });
            return Err(DatasetError::ShapeMismatch { path, found: header.shape, expected });
        }
        let (size, data_offset) = (header.element.size(), header.data_offset as usize);
        let numbers = rows.saturating_mul(width);
        // The length is what the header promises: `open_listed_npy` has checked it.
        let bytes = match way {
            Way::Map(order) => Bytes::Mapped(map(&opened, order).map_err(DatasetError::io(&path, "map"))?),
            Way::Read => Bytes::File(opened, header.data_offset + numbers * size as u64),
        };
        Ok(Self { bytes, data_offset, size, numbers, path })
    }

    /// Numbers of `size` bytes that are in memory already; `path` is the file that they were made from.
    pub(crate) fn held(words: Vec<u64>, size: usize, numbers: u64, path: PathBuf) -> Self {
        Self { bytes: Bytes::Held(words, numbers as usize * size), data_offset: 0, size, numbers, path }
    }

    /// The same numbers, in memory: what is read from a file is then held.
    pub(crate) fn into_memory(self) -> Result<Self, DatasetError> {
        let Bytes::File(file, _) = &self.bytes else { return Ok(self) };
        let bytes = self.numbers as usize * self.size;
        let mut words = vec![0u64; bytes.div_ceil(8)];
        let into = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes];
        file.read_exact_at(into, self.data_offset as u64).map_err(DatasetError::io(&self.path, "read"))?;
        Ok(Self::held(words, self.size, self.numbers, self.path))
    }

    /// The file that the numbers are from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of a number.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How many there are.
    pub(crate) fn numbers(&self) -> u64 {
        self.numbers
    }

    /// The bytes of all numbers; `None` where they have to be read.
    pub(crate) fn data(&self) -> Option<&[u8]> {
        self.bytes.in_memory().and_then(|bytes| bytes.get(self.data_offset..))
    }

    /// Number `at`, counted over rows.
    pub(crate) fn get(&self, at: u64) -> Result<u64, DatasetError> {
        let from = self.data_offset as u64 + at * self.size as u64;
        let bytes = self.bytes.range(from, from + self.size as u64);
        bytes.map(|bytes| number(&bytes)).map_err(DatasetError::io(&self.path, "read"))
    }

    /// All numbers in order; none where they have to be read.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.data().unwrap_or_default().chunks_exact(self.size).map(number)
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}
