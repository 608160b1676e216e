//! The two numbers of a vertex: the id that it has in its source, and the id that the import gave it. Owns the way
//! between them, in both directions, for vertex types that the import renumbered. It must never answer with a number
//! that is no vertex, whatever the files hold.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::column::{Column, Way};
use super::error::DatasetError;
use super::manifest::{FileManifest, VertexType, resolve};
use super::map::ReadOrder;
use super::npy::NpyType;
use super::shard::open_listed_npy;

/// Why an id was not translated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IdError {
    /// No vertex has it.
    #[error("no vertex has id {id} (position {at})")]
    Unknown {
        /// Its position among the ids asked for.
        at: usize,
        /// The id.
        id: u64,
        /// Whether ids are the numbers from 0 to `rows - 1`.
        is_dense: bool,
    },
    /// A file of the dataset is absent, damaged, or cannot be read.
    #[error("ids of vertex type `{vertex_type}` cannot be translated: {cause}")]
    File {
        /// The vertex type.
        vertex_type: String,
        /// What is wrong with which file.
        cause: Arc<DatasetError>,
    },
}

/// Original and dataset ids of a vertex type that was renumbered.
#[derive(Debug)]
pub struct VertexIds {
    vertex_type: String,
    rows: u64,
    /// The original id of each dataset id.
    original: Result<Column, Arc<DatasetError>>,
    /// The file of the inverse, until it is held in memory.
    unread: parking_lot::Mutex<Option<Column>>,
    /// The dataset id of each original id. Empty until it is needed, where it has to be read or made.
    inverse: OnceLock<Result<Column, Arc<DatasetError>>>,
}

impl VertexIds {
    /// Opens the files of `vertex_type`; `None` where the import kept the source's ids. Files that are absent are an
    /// error only when an id has to be translated: trainers that use dataset ids do not need them.
    pub(crate) fn open(dir: &Path, vertex_type: &VertexType, way: Way) -> Result<Option<Self>, DatasetError> {
        let file = vertex_type.original_ids.as_ref().filter(|_| vertex_type.is_renumbered());
        let Some(file) = file else { return Ok(None) };
        let rows = vertex_type.rows;
        let original = if_there(Column::open_as(dir, file, (rows, 1), &[NpyType::U64], way))?;
        let inverse = vertex_type.dataset_ids.as_ref().map(|file| if_there(open_inverse(dir, file, rows, way)));
        let (unread, inverse) = match (inverse.transpose()?, way) {
            (None, _) => (None, OnceLock::new()),
            (Some(Ok(column)), Way::Read) => (Some(column), OnceLock::new()),
            (Some(ready), _) => (None, OnceLock::from(ready)),
        };
        let (vertex_type, unread) = (vertex_type.name.clone(), parking_lot::Mutex::new(unread));
        Ok(Some(Self { vertex_type, rows, original, unread, inverse }))
    }

    /// Puts the dataset id in the place of each original id.
    ///
    /// # Errors
    /// [`IdError`]; some ids are then replaced.
    pub fn to_dataset(&self, ids: &mut [u64]) -> Result<(), IdError> {
        let inverse = self.inverse()?;
        // A file whose bytes are not in memory was read by `inverse`.
        let data = inverse.data().unwrap_or_default();
        let is_dense = inverse.numbers() == self.rows;
        let bad = match (is_dense, inverse.size()) {
            (true, 4) => look_up(bytemuck::cast_slice(data), self.rows, ids, |cell| u32::from_le_bytes(cell).into()),
            (true, _) => look_up(bytemuck::cast_slice(data), self.rows, ids, u64::from_le_bytes),
            (false, _) => search(bytemuck::cast_slice(data), self.rows, ids),
        };
        bad.map_err(|bad| match bad {
            Bad::Unknown { at } => IdError::Unknown { at, id: ids[at], is_dense },
            Bad::Entry { at, found } => self.damaged(inverse, ids[at], found),
        })
    }

    /// Puts the original id in the place of each dataset id. May wait for a disk.
    ///
    /// # Errors
    /// [`IdError`]; some ids are then replaced.
    pub fn to_original(&self, ids: &mut [u64]) -> Result<(), IdError> {
        let original = self.original.as_ref().map_err(|cause| self.file(Arc::clone(cause)))?;
        for (at, id) in ids.iter_mut().enumerate() {
            if *id >= self.rows {
                return Err(IdError::Unknown { at, id: *id, is_dense: true });
            }
            *id = original.get(*id).map_err(|cause| self.file(Arc::new(cause)))?;
        }
        Ok(())
    }

    /// Reads or makes what [`VertexIds::to_dataset`] needs. May wait for a disk.
    ///
    /// # Errors
    /// [`IdError::File`].
    pub fn prepare(&self) -> Result<(), IdError> {
        self.inverse().map(|_| ())
    }

    /// Whether [`VertexIds::to_dataset`] answers without reading or making the inverse first.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inverse.get().is_some()
    }

    /// The inverse, read or made if nobody has asked for it yet.
    fn inverse(&self) -> Result<&Column, IdError> {
        let inverse = self.inverse.get_or_init(|| match self.unread.lock().take() {
            Some(column) => column.into_memory().map_err(Arc::new),
            None => self.make_inverse(),
        });
        inverse.as_ref().map_err(|cause| self.file(Arc::clone(cause)))
    }

    /// The inverse of a dataset that was imported without one.
    fn make_inverse(&self) -> Result<Column, Arc<DatasetError>> {
        let (start, original) = (Instant::now(), self.original.as_ref().map_err(Arc::clone)?);
        let inverse = match original.data() {
            Some(_) => Inverse::of(original.iter(), self.rows),
            None => {
                let ids = (0..self.rows).map(|at| original.get(at)).collect::<Result<Vec<u64>, _>>()?;
                Inverse::of(ids.iter().copied(), self.rows)
            }
        };
        let inverse = inverse.map_err(|twice| {
            let what = format!("the original id {twice} is there twice: import the dataset again");
            DatasetError::Manifest { path: original.path().to_owned(), what }
        })?;
        let (seconds, bytes) = (start.elapsed().as_secs_f64(), inverse.bytes().len());
        tracing::info!(
            vertex_type = self.vertex_type,
            seconds,
            bytes,
            "the manifest names no `dataset_ids`: made them in memory; import again to have them mapped"
        );
        let Inverse { words, size, shape } = inverse;
        Ok(Column::held(words, size, shape.0 * shape.1, original.path().to_owned()))
    }

    fn file(&self, cause: Arc<DatasetError>) -> IdError {
        IdError::File { vertex_type: self.vertex_type.clone(), cause }
    }

    fn damaged(&self, inverse: &Column, id: u64, found: u64) -> IdError {
        let what = format!(
            "the entry of original id {id} is {found}, but there are {} vertices: the file is damaged; copy it again",
            self.rows
        );
        self.file(Arc::new(DatasetError::Manifest { path: inverse.path().to_owned(), what }))
    }
}

/// What a look-up ends with when it ends early.
enum Bad {
    Unknown { at: usize },
    Entry { at: usize, found: u64 },
}

/// Replaces ids by the entries of a table. Look-ups do not wait for each other: the processor has several under way.
fn look_up<const SIZE: usize>(
    cells: &[[u8; SIZE]],
    rows: u64,
    ids: &mut [u64],
    number: impl Fn([u8; SIZE]) -> u64,
) -> Result<(), Bad> {
    for (at, id) in ids.iter_mut().enumerate() {
        let cell = usize::try_from(*id).ok().and_then(|id| cells.get(id));
        let found = number(*cell.ok_or(Bad::Unknown { at })?);
        if found >= rows {
            return Err(Bad::Entry { at, found });
        }
        *id = found;
    }
    Ok(())
}

/// Replaces ids by the second numbers of sorted pairs.
fn search(pairs: &[[[u8; 8]; 2]], rows: u64, ids: &mut [u64]) -> Result<(), Bad> {
    for (at, id) in ids.iter_mut().enumerate() {
        let place = pairs.binary_search_by_key(id, |pair| u64::from_le_bytes(pair[0]));
        let found = u64::from_le_bytes(pairs[place.map_err(|_| Bad::Unknown { at })?][1]);
        if found >= rows {
            return Err(Bad::Entry { at, found });
        }
        *id = found;
    }
    Ok(())
}

/// The inverse of original ids, as the bytes of a `.npy` file.
#[derive(Debug)]
pub struct Inverse {
    /// Little-endian numbers of `size` bytes, without gaps.
    words: Vec<u64>,
    size: usize,
    shape: (u64, u64),
}

impl Inverse {
    /// The inverse of the original ids of dataset ids 0 to `rows - 1`.
    ///
    /// # Errors
    /// An original id that is there twice.
    pub fn of(original: impl Iterator<Item = u64> + Clone, rows: u64) -> Result<Self, u64> {
        if original.clone().any(|id| id >= rows) {
            return Self::sorted(original, rows);
        }
        match u32::try_from(rows) {
            Ok(_) => {
                let mut words = vec![u64::MAX; (rows as usize).div_ceil(2)];
                let cells: &mut [u32] = bytemuck::cast_slice_mut(&mut words);
                for (original, id) in original.zip(0u32..) {
                    let before = std::mem::replace(&mut cells[original as usize], id.to_le());
                    // No id is as large as the largest number: `rows` is at most that.
                    if before != u32::MAX {
                        return Err(original);
                    }
                }
                Ok(Self { words, size: 4, shape: (rows, 1) })
            }
            Err(_) => {
                let mut words = vec![u64::MAX; rows as usize];
                for (original, id) in original.zip(0u64..) {
                    if std::mem::replace(&mut words[original as usize], id.to_le()) != u64::MAX {
                        return Err(original);
                    }
                }
                Ok(Self { words, size: 8, shape: (rows, 1) })
            }
        }
    }

    fn sorted(original: impl Iterator<Item = u64>, rows: u64) -> Result<Self, u64> {
        let mut pairs: Vec<[u64; 2]> = original.zip(0..).map(|(original, id)| [original, id]).collect();
        pairs.sort_unstable();
        if let Some(twice) = pairs.windows(2).find(|pair| pair[0][0] == pair[1][0]) {
            return Err(twice[0][0]);
        }
        let words = pairs.into_iter().flatten().map(u64::to_le).collect();
        Ok(Self { words, size: 8, shape: (rows, 2) })
    }

    /// Element type of the array, as `.npy` files name it.
    #[must_use]
    pub fn descr(&self) -> &'static str {
        if self.size == 4 { "<u4" } else { "<u8" }
    }

    /// Shape of the array: one number for each original id, or pairs of original and dataset id.
    #[must_use]
    pub fn shape(&self) -> Vec<u64> {
        match self.shape {
            (rows, 1) => vec![rows],
            (rows, width) => vec![rows, width],
        }
    }

    /// The array.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let bytes = (self.shape.0 * self.shape.1) as usize * self.size;
        &bytemuck::cast_slice(&self.words)[..bytes]
    }
}

/// Holds the files of `vertex_type` against each other: each way must lead back. To be asked after their checksums.
pub(crate) fn check(dir: &Path, vertex_type: &VertexType) -> Result<(), DatasetError> {
    let way = Way::Map(ReadOrder::Sequential);
    let Some(ids) = VertexIds::open(dir, vertex_type, way)? else { return Ok(()) };
    let (Ok(original), Some(Ok(inverse))) = (&ids.original, ids.inverse.get()) else { return Ok(()) };
    let mut expected = 0u64;
    let mut piece = Vec::with_capacity(PIECE_IDS);
    let wrong = |what: String| DatasetError::Manifest { path: inverse.path().to_owned(), what };
    let mut numbers = original.iter();
    loop {
        piece.clear();
        piece.extend(numbers.by_ref().take(PIECE_IDS));
        if piece.is_empty() {
            return Ok(());
        }
        ids.to_dataset(&mut piece).map_err(|error| wrong(error.to_string()))?;
        for &found in &piece {
            if found != expected {
                let what = format!("it leads from the original id of dataset id {expected} to {found}");
                return Err(wrong(format!("{what}: the file is of another import; copy it again")));
            }
            expected += 1;
        }
    }
}

/// Ids that [`check`] translates at once.
const PIECE_IDS: usize = 4096;

fn open_inverse(dir: &Path, file: &FileManifest, rows: u64, way: Way) -> Result<Column, DatasetError> {
    let (_, header) = open_listed_npy(&resolve(dir, file))?;
    match header.width() {
        2 => Column::open_as(dir, file, (rows, 2), &[NpyType::U64], way),
        _ => Column::open_as(dir, file, (rows, 1), &[NpyType::U32, NpyType::U64], way),
    }
}

/// Takes the absence of a file for an answer, and says so in the log.
pub(crate) fn if_there<T>(opened: Result<T, DatasetError>) -> Result<Result<T, Arc<DatasetError>>, DatasetError> {
    match opened {
        Ok(opened) => Ok(Ok(opened)),
        Err(error @ DatasetError::FileMissing { .. }) => {
            tracing::warn!(%error, "original ids or names of a vertex type cannot be translated on this node");
            Ok(Err(Arc::new(error)))
        }
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids in memory, as if from files.
    fn of(original: &[u64]) -> VertexIds {
        let rows = original.len() as u64;
        let words = original.iter().map(|id| id.to_le()).collect();
        VertexIds {
            vertex_type: "v".into(),
            rows,
            original: Ok(Column::held(words, 8, rows, "v.npy".into())),
            unread: parking_lot::Mutex::new(None),
            inverse: OnceLock::new(),
        }
    }

    proptest! {
        #[test]
        fn each_way_leads_back(seed: u64, rows in 1u64..200, spread in 1u64..5) {
            let mut original: Vec<u64> = (0..rows).map(|id| id * spread).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut original);
            let ids = of(&original);
            let mut there = original.clone();
            ids.to_dataset(&mut there).unwrap();
            prop_assert_eq!(&there, &(0..rows).collect::<Vec<_>>());
            ids.to_original(&mut there).unwrap();
            prop_assert_eq!(&there, &original);
            let unknown = (rows - 1) * spread + 1;
            let mut wrong = vec![original[0], unknown];
            let refused = |refused: Result<(), IdError>| match refused {
                Err(IdError::Unknown { at, id, .. }) => Some((at, id)),
                _ => None,
            };
            prop_assert_eq!(refused(ids.to_dataset(&mut wrong)), Some((1, unknown)));
            prop_assert_eq!(refused(ids.to_original(&mut [rows])), Some((0, rows)));
        }
    }

    #[test]
    fn an_entry_that_is_no_vertex_is_an_error() {
        for (words, size, numbers) in [(vec![7 << 32], 4, 2), (vec![0, 7], 8, 2), (vec![0, 0, 1, 7], 8, 4)] {
            let ids = VertexIds { inverse: OnceLock::new(), ..of(&[0, 1]) };
            ids.inverse.set(Ok(Column::held(words, size, numbers, "v.dataset.npy".into()))).unwrap();
            let error = ids.to_dataset(&mut [0, 1]).unwrap_err().to_string();
            assert!(error.contains("v.dataset.npy") && error.contains("original id 1 is 7"), "{error}");
        }
    }

    #[test]
    fn an_original_id_that_is_there_twice_is_an_error() {
        assert_eq!(Inverse::of([1, 0, 1].into_iter(), 3).unwrap_err(), 1);
        assert_eq!(Inverse::of([9, 0, 9].into_iter(), 3).unwrap_err(), 9);
        assert!(of(&[1, 0, 1]).to_dataset(&mut [0]).unwrap_err().to_string().contains("v.npy"));
    }
}
