//! Owns the arrays that all trainers share: `.npy` files of the run folder, written once, then mapped. The only place
//! of the demo that maps memory; it must never map a file that the demo has not written itself.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::Path;

use bytemuck::{Pod, cast_slice};
use memmap2::Mmap;

use crate::error::DemoError;
use rudder_dataset::npy::{NpyHeader, NpyType, encode_header};

/// A type that arrays are made of.
pub(crate) trait Element: Pod {
    /// Its name in `.npy` files.
    const DESCR: &'static str;
}

impl Element for u8 {
    const DESCR: &'static str = "|u1";
}
impl Element for u16 {
    const DESCR: &'static str = "<u2";
}
impl Element for u32 {
    const DESCR: &'static str = "<u4";
}
impl Element for u64 {
    const DESCR: &'static str = "<u8";
}

/// An array of `T` in a mapped file.
pub(crate) struct Mapped<T> {
    map: Mmap,
    data_offset: usize,
    element: PhantomData<T>,
}

impl<T: Element> Mapped<T> {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// It cannot be opened or mapped, or is no `.npy` file of `T` with aligned elements.
    pub(crate) fn open(path: &Path) -> Result<Self, DemoError> {
        let mut file = File::open(path).map_err(DemoError::file("open", path))?;
        let bad = |reason: &str| DemoError::file("map", path)(io::Error::other(reason));
        let header = NpyHeader::read(&mut file).map_err(|error| bad(&error.to_string()))?;
        // SAFETY: the map is private and read-only. The file lies in the run folder, which only this demo writes to,
        // and is complete before the first trainer starts; nothing changes it afterwards.
        let map = unsafe { Mmap::map(&file) }.map_err(DemoError::file("map", path))?;
        let data_offset = header.data_offset as usize;
        let whole = map.get(data_offset..).is_some_and(|data| bytemuck::try_cast_slice::<u8, T>(data).is_ok());
        if !whole || NpyType::from_descr(T::DESCR).ok() != Some(header.element) {
            return Err(bad(&format!("it holds no whole number of aligned {} elements", T::DESCR)));
        }
        Ok(Self { map, data_offset, element: PhantomData })
    }
}

impl<T: Element> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        cast_slice(&self.map[self.data_offset..])
    }
}

/// Writes `items` as such a file.
///
/// # Errors
/// The file cannot be created, or the disk is full.
pub(crate) fn write<T: Element>(path: &Path, items: impl ExactSizeIterator<Item = T>) -> Result<(), DemoError> {
    let file = File::create(path).map_err(DemoError::file("create", path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let header = encode_header(T::DESCR, &[items.len() as u64]);
    let mut items = items;
    let written = out.write_all(&header);
    let written = written.and_then(|()| items.try_for_each(|item| out.write_all(bytemuck::bytes_of(&item))));
    written.and_then(|()| out.flush()).map_err(DemoError::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_as_written_and_other_types_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("array.npy");
        write(&path, [1_u32, 2, 3].into_iter()).unwrap();
        assert_eq!(&*Mapped::<u32>::open(&path).unwrap(), &[1, 2, 3]);
        let error = Mapped::<u16>::open(&path).err().unwrap().to_string();
        assert!(error.contains("array.npy") && error.contains("<u2"), "{error}");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Mapped::<u32>::open(&path).is_err());
        assert!(Mapped::<u32>::open(&folder.path().join("none")).is_err());
    }
}
