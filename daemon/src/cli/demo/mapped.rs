//! Owns the arrays that all trainers share: little-endian numbers in files of the run folder, written once, then mapped.
//! The only place of the demo that maps memory; it must never map a file that the demo has not written itself.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, cast_slice};
use memmap2::Mmap;

use super::error::DemoError;

/// An array of `T` in a mapped file.
pub(super) struct Mapped<T> {
    map: Mmap,
    element: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// It cannot be opened or mapped, or holds no whole number of elements.
    pub(super) fn open(path: &Path) -> Result<Self, DemoError> {
        let file = File::open(path).map_err(DemoError::file("open", path))?;
        // SAFETY: the map is private and read-only. The file lies in the run folder, which only this demo writes to, and
        // is complete before the first trainer starts; nothing changes it afterwards.
        let map = unsafe { Mmap::map(&file) }.map_err(DemoError::file("map", path))?;
        // A map begins at a page: the elements are aligned. Only the length can be wrong.
        if map.len() % size_of::<T>() != 0 {
            let odd = std::io::Error::other(format!("{} bytes are no whole number of elements", map.len()));
            return Err(DemoError::file("map", path)(odd));
        }
        Ok(Self { map, element: PhantomData })
    }
}

impl<T: Pod> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        cast_slice(&self.map)
    }
}

/// Writes such a file piece by piece.
pub(super) struct ArrayWriter {
    out: BufWriter<File>,
    path: PathBuf,
}

impl ArrayWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// It cannot be created.
    pub(super) fn create(path: &Path) -> Result<Self, DemoError> {
        let file = File::create(path).map_err(DemoError::file("create", path))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), path: path.to_owned() })
    }

    /// Appends `items`.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub(super) fn push<T: Pod>(&mut self, items: &[T]) -> Result<(), DemoError> {
        self.out.write_all(cast_slice(items)).map_err(DemoError::file("write", &self.path))
    }

    /// Writes what is still in hand.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub(super) fn finish(mut self) -> Result<(), DemoError> {
        self.out.flush().map_err(DemoError::file("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_as_written_and_odd_lengths_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("array");
        let mut writer = ArrayWriter::create(&path).unwrap();
        writer.push(&[1_u32, 2]).unwrap();
        writer.push(&[3_u32]).unwrap();
        writer.finish().unwrap();
        assert_eq!(&*Mapped::<u32>::open(&path).unwrap(), &[1, 2, 3]);
        let error = Mapped::<u64>::open(&path).err().unwrap().to_string();
        assert!(error.contains("array") && error.contains("12 bytes"), "{error}");
        assert!(Mapped::<u32>::open(&folder.path().join("none")).is_err());
    }
}
