//! The names that vertices have in their source: found without reading all of them. Owns the text and its index, and
//! must never answer with a vertex whose name it has not compared with the one asked for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use xxhash_rust::xxh3::xxh3_64;

use super::column::{Bytes, Column, Way};
use super::error::DatasetError;
use super::ids::if_there;
use super::manifest::{VertexType, resolve};
use super::npy::NpyType;

/// Why a name or its vertex was not found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NameError {
    /// No vertex has that number.
    #[error("no vertex has the original id {id} (position {at})")]
    Unknown {
        /// Its position among the ids asked for.
        at: usize,
        /// The id.
        id: u64,
    },
    /// A file of the dataset is absent, damaged, or cannot be read.
    #[error("names of vertex type `{vertex_type}` cannot be looked up: {cause}")]
    File {
        /// The vertex type.
        vertex_type: String,
        /// What is wrong with which file.
        cause: Arc<DatasetError>,
    },
}

/// Names of a vertex type, by original id.
#[derive(Debug)]
pub struct VertexNames {
    vertex_type: String,
    rows: u64,
    path: PathBuf,
    text: Result<Bytes, Arc<DatasetError>>,
    index: OnceLock<Result<Index, Arc<DatasetError>>>,
}

#[derive(Debug)]
struct Index {
    /// Where each line begins, and the length of the text.
    offsets: Column,
    /// (hash of the name, original id), sorted.
    hashes: Column,
}

impl VertexNames {
    /// Opens the files of `vertex_type`; `None` where it has no names. Files that are absent are an error only when a
    /// name is looked up.
    pub(crate) fn open(dir: &Path, vertex_type: &VertexType, way: Way) -> Result<Option<Self>, DatasetError> {
        let Some(file) = &vertex_type.names else { return Ok(None) };
        let (rows, path) = (vertex_type.rows, resolve(dir, file));
        let text = if_there(Bytes::open(dir, file, way))?;
        let index = match (&vertex_type.name_offsets, &vertex_type.name_index) {
            (Some(offsets), Some(hashes)) => {
                let offsets = Column::open_as(dir, offsets, (rows + 1, 1), &[NpyType::U64], way);
                let hashes = Column::open_as(dir, hashes, (rows, 2), &[NpyType::U64], way);
                let index = offsets.and_then(|offsets| Ok(Index { offsets, hashes: hashes? }));
                OnceLock::from(if_there(index)?)
            }
            _ => OnceLock::new(),
        };
        Ok(Some(Self { vertex_type: vertex_type.name.clone(), rows, path, text, index }))
    }

    /// The original id of the vertex called `name`, if there is one. May wait for a disk.
    ///
    /// # Errors
    /// [`NameError::File`].
    pub fn find(&self, name: &str) -> Result<Option<u64>, NameError> {
        self.search(name.as_bytes()).map_err(|cause| self.file(cause))
    }

    /// The name of the vertex whose original id is `id`, at position `at` of what was asked. May wait for a disk.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn name(&self, at: usize, id: u64) -> Result<String, NameError> {
        if id >= self.rows {
            return Err(NameError::Unknown { at, id });
        }
        let index = self.index().map_err(|cause| self.file(cause))?;
        let line = self.line(index, id).map_err(|cause| self.file(cause))?;
        String::from_utf8(line.into_owned()).map_err(|_| self.file(self.damaged(id)))
    }

    fn search(&self, name: &[u8]) -> Result<Option<u64>, Arc<DatasetError>> {
        let (index, hash) = (self.index()?, xxh3_64(name));
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if index.hashes.get(2 * middle)? < hash { low = middle + 1 } else { high = middle }
        }
        while low < self.rows && index.hashes.get(2 * low)? == hash {
            let id = index.hashes.get(2 * low + 1)?;
            if id >= self.rows {
                return Err(self.damaged(id));
            }
            if &*self.line(index, id)? == name {
                return Ok(Some(id));
            }
            low += 1;
        }
        Ok(None)
    }

    /// The name of a vertex that there is.
    fn line(&self, index: &Index, id: u64) -> Result<Cow<'_, [u8]>, Arc<DatasetError>> {
        let (start, end) = (index.offsets.get(id)?, index.offsets.get(id + 1)?);
        let line = self.text()?.range(start, end).map_err(DatasetError::io(&self.path, "read"))?;
        // The line feed is the last byte and the only one, or the offsets are not those of this text.
        if line.iter().position(|&byte| byte == b'\n') != line.len().checked_sub(1) {
            return Err(self.damaged(id));
        }
        Ok(match line {
            Cow::Borrowed(line) => Cow::Borrowed(&line[..line.len() - 1]),
            Cow::Owned(mut line) => {
                line.pop();
                Cow::Owned(line)
            }
        })
    }

    fn text(&self) -> Result<&Bytes, Arc<DatasetError>> {
        self.text.as_ref().map_err(Arc::clone)
    }

    fn index(&self) -> Result<&Index, Arc<DatasetError>> {
        self.index.get_or_init(|| self.make_index()).as_ref().map_err(Arc::clone)
    }

    /// The index of a dataset that was imported without one.
    fn make_index(&self) -> Result<Index, Arc<DatasetError>> {
        let text = self.text()?;
        let text = text.range(0, text.len()).map_err(DatasetError::io(&self.path, "read"))?;
        let mut index = NameIndex::default();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            index.add(line.strip_suffix(b"\n").unwrap_or(line));
        }
        if index.rows() != self.rows || text.last().is_some_and(|&byte| byte != b'\n') {
            let what = format!("{} names for {} vertices: import the dataset again", index.rows(), self.rows);
            return Err(Arc::new(DatasetError::Manifest { path: self.path.clone(), what }));
        }
        let vertex_type = &self.vertex_type;
        tracing::info!(vertex_type, "the manifest names no index of names: made it in memory; import again to map it");
        let (offsets, pairs) = index.finish();
        let column = |words: Vec<u64>| {
            let numbers = words.len() as u64;
            Column::held(words, 8, numbers, self.path.clone())
        };
        Ok(Index { offsets: column(offsets), hashes: column(pairs.into_iter().flatten().collect()) })
    }

    fn damaged(&self, id: u64) -> Arc<DatasetError> {
        let what = format!("the index of names does not fit it at original id {id}: copy the files again");
        Arc::new(DatasetError::Manifest { path: self.path.clone(), what })
    }

    fn file(&self, cause: Arc<DatasetError>) -> NameError {
        NameError::File { vertex_type: self.vertex_type.clone(), cause }
    }
}

/// The index of names while they are written, in the order of original ids.
#[derive(Debug, Default)]
pub struct NameIndex {
    offsets: Vec<u64>,
    pairs: Vec<[u64; 2]>,
    end: u64,
}

impl NameIndex {
    /// Adds the next name.
    pub fn add(&mut self, name: &[u8]) {
        self.pairs.push([xxh3_64(name), self.pairs.len() as u64]);
        self.offsets.push(self.end);
        self.end += name.len() as u64 + 1;
    }

    /// Names added.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.pairs.len() as u64
    }

    /// The byte at which each line begins and the length of the text, little endian; and (hash, original id), sorted by
    /// hash, little endian.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u64>, Vec<[u64; 2]>) {
        self.offsets.push(self.end);
        self.pairs.sort_unstable();
        self.offsets.iter_mut().for_each(|offset| *offset = offset.to_le());
        self.pairs.iter_mut().flatten().for_each(|number| *number = number.to_le());
        (self.offsets, self.pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &str, rows: u64) -> VertexNames {
        let mut words = vec![0u64; names.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..names.len()].copy_from_slice(names.as_bytes());
        VertexNames {
            vertex_type: "v".into(),
            rows,
            path: "v.names.txt".into(),
            text: Ok(Bytes::Held(words, names.len())),
            index: OnceLock::new(),
        }
    }

    #[test]
    fn names_are_found_and_read() {
        let names: Vec<String> = (0..500).map(|id| format!("vertex {}", id * 7)).chain([String::new()]).collect();
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        let of = of(&text, 501);
        for (id, name) in names.iter().enumerate() {
            assert_eq!(of.find(name).unwrap(), Some(id as u64));
            assert_eq!(of.name(0, id as u64).unwrap(), *name);
        }
        assert_eq!(of.find("vertex 1").unwrap(), None);
        assert!(matches!(of.name(3, 501), Err(NameError::Unknown { at: 3, id: 501 })));
    }

    #[test]
    fn an_index_of_another_text_finds_nothing() {
        let other = of("a\nb\nc\n", 3);
        let mixed = VertexNames { index: other.index, ..of("a\nb\n", 3) };
        assert!(mixed.find("a").unwrap_err().to_string().contains("v.names.txt"), "2 names for 3 vertices");
        let (long, short) = (of("aa\nbb\n", 2), of("aaa\nb\n", 2));
        assert_eq!(long.find("bb").unwrap(), Some(1));
        let mixed = VertexNames { index: long.index, ..short };
        assert!(mixed.name(0, 0).unwrap_err().to_string().contains("does not fit"));
    }
}
