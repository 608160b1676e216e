//! Access traces on disk: a folder with `meta.json`, `offsets.npy`, `ids.npy` and optionally `degree.npy` (the format
//! is in `docs/replay.md`). It owns reading, checking and writing them. It must never believe a number in a file before
//! it was held against the others.

use rudder_core::optimum::Accesses;
use rudder_dataset::npy::{NpyError, NpyHeader, NpyType, encode_header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the format that this build reads and writes.
pub const FORMAT_VERSION: u64 = 1;

/// Most ids of a trace, so that positions fit 32 bits.
const REQUESTS_MAX: u64 = u32::MAX as u64 - 1;

/// Longest `meta.json` that is read.
const META_BYTES_MAX: u64 = 1 << 20;

/// What a trace says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceMeta {
    /// [`FORMAT_VERSION`].
    pub format: u64,
    /// Minibatches recorded.
    pub minibatches: u64,
    /// Minibatches of one epoch.
    pub minibatches_per_epoch: u64,
    /// Ids are below this.
    pub universe: u64,
    /// Whatever else the file says.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The unique remote ids that one node's trainers asked for, minibatch by minibatch.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What it says of itself.
    pub meta: TraceMeta,
    /// Minibatch `m` is `ids[offsets[m]..offsets[m + 1]]`.
    offsets: Vec<u64>,
    ids: Vec<u32>,
    /// Pairs of id and number of edges from this partition to it; empty where the trace has none.
    pub degree: Vec<(u32, f32)>,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `meta.json` is malformed.
    #[error("{} is not a description of a trace: it needs format, minibatches, minibatches_per_epoch and universe", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A file is no `.npy` array that can be read.
    #[error("{}", path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        source: NpyError,
    },
    /// A file contradicts itself or another one.
    #[error("{}: {what}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        what: String,
    },
}

impl Trace {
    /// A trace from its minibatches. Ids must be below `universe` and unique within a minibatch.
    ///
    /// # Errors
    /// [`TraceError::Contradiction`] naming the minibatch at fault.
    pub fn new(
        universe: u64,
        minibatches_per_epoch: u64,
        minibatches: &[Vec<u32>],
        degree: Vec<(u32, f32)>,
        extra: Map<String, Value>,
    ) -> Result<Self, TraceError> {
        let mut offsets = vec![0];
        let mut ids = Vec::new();
        for minibatch in minibatches {
            ids.extend_from_slice(minibatch);
            offsets.push(ids.len() as u64);
        }
        let meta = TraceMeta {
            format: FORMAT_VERSION,
            minibatches: minibatches.len() as u64,
            minibatches_per_epoch,
            universe,
            extra,
        };
        let trace = Self { meta, offsets, ids, degree };
        trace.check(Path::new("the trace in memory"))?;
        Ok(trace)
    }

    /// Reads the trace in the folder `dir`.
    ///
    /// # Errors
    /// [`TraceError`] naming the file at fault.
    pub fn read(dir: &Path) -> Result<Self, TraceError> {
        let meta = read_meta(&dir.join("meta.json"))?;
        let offsets_file = dir.join("offsets.npy");
        let offsets = read_integers(&offsets_file, 1, u64::MAX)?;
        let ids_file = dir.join("ids.npy");
        let ids = read_integers(&ids_file, 1, meta.universe.saturating_sub(1))?;
        if ids.len() as u64 > REQUESTS_MAX {
            return contradiction(&ids_file, format!("{} ids, and at most {REQUESTS_MAX} are replayed", ids.len()));
        }
        let degree_file = dir.join("degree.npy");
        let degree = match degree_file.try_exists() {
            Ok(true) => read_integers(&degree_file, 2, u64::MAX)?,
            Ok(false) => Vec::new(),
            Err(source) => return Err(TraceError::Io { path: degree_file, action: "look for", source }),
        };
        if let Some(pair) = degree.chunks_exact(2).find(|pair| pair[0] >= meta.universe) {
            return contradiction(&degree_file, format!("id {} is not below the universe {}", pair[0], meta.universe));
        }
        let trace = Self {
            meta,
            offsets,
            ids: ids.into_iter().map(|id| id as u32).collect(),
            degree: degree.chunks_exact(2).map(|pair| (pair[0] as u32, pair[1] as f32)).collect(),
        };
        trace.check(dir)?;
        Ok(trace)
    }

    /// Writes the trace into the folder `dir`, which is made if need be.
    ///
    /// # Errors
    /// [`TraceError::Io`].
    pub fn write(&self, dir: &Path) -> Result<(), TraceError> {
        fs::create_dir_all(dir).map_err(|source| io_error(dir, "make the folder", source))?;
        let pairs: Vec<u32> = self.degree.iter().flat_map(|&(id, edges)| [id, edges as u32]).collect();
        write_npy(&dir.join("offsets.npy"), "<u8", &[self.offsets.len() as u64], bytemuck::cast_slice(&self.offsets))?;
        write_npy(&dir.join("ids.npy"), "<u4", &[self.ids.len() as u64], bytemuck::cast_slice(&self.ids))?;
        if !pairs.is_empty() {
            let shape = [self.degree.len() as u64, 2];
            write_npy(&dir.join("degree.npy"), "<u4", &shape, bytemuck::cast_slice(&pairs))?;
        }
        // Last: a folder without it is not a trace, so a writer that died leaves none behind.
        let path = dir.join("meta.json");
        let text = serde_json::to_string_pretty(&self.meta)
            .map_err(|source| TraceError::Meta { path: path.clone(), source })?;
        fs::write(&path, text + "\n").map_err(|source| io_error(&path, "write", source))
    }

    /// Minibatches.
    #[must_use]
    pub fn minibatches(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The ids of minibatch `m`.
    #[must_use]
    pub fn minibatch(&self, m: usize) -> &[u32] {
        &self.ids[self.offsets[m] as usize..self.offsets[m + 1] as usize]
    }

    /// Ids of all minibatches together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ids.len() as u64
    }

    /// How many ids occur at all.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.distinct_ids().len() as u64
    }

    /// The distinct ids, ascending.
    #[must_use]
    pub fn distinct_ids(&self) -> Vec<u32> {
        let mut seen = vec![false; self.meta.universe as usize];
        self.ids.iter().for_each(|&id| seen[id as usize] = true);
        (0u32..).zip(seen).filter(|&(_, seen)| seen).map(|(id, _)| id).collect()
    }

    /// Its accesses, for [`rudder_core::optimum`].
    #[must_use]
    pub fn accesses(&self) -> Accesses<'_> {
        Accesses { universe: self.meta.universe, offsets: &self.offsets, ids: &self.ids }
    }

    /// How often each id occurs in the first `minibatches` minibatches: what presampling would see.
    #[must_use]
    pub fn frequencies(&self, minibatches: usize) -> Vec<(u32, f32)> {
        let end = self.offsets[minibatches.min(self.minibatches())] as usize;
        let mut counts = vec![0u32; self.meta.universe as usize];
        self.ids[..end].iter().for_each(|&id| counts[id as usize] += 1);
        (0u32..).zip(counts).filter(|&(_, count)| count > 0).map(|(id, count)| (id, count as f32)).collect()
    }

    /// What must hold whoever made it.
    fn check(&self, place: &Path) -> Result<(), TraceError> {
        let TraceMeta { minibatches, minibatches_per_epoch, universe, .. } = self.meta;
        if minibatches_per_epoch == 0 {
            return contradiction(place, "minibatches_per_epoch is 0");
        }
        if universe > rudder_core::cache::TABLE_ROWS_MAX {
            let most = rudder_core::cache::TABLE_ROWS_MAX;
            return contradiction(place, format!("a universe of {universe} ids, and at most {most} can be cached"));
        }
        if self.offsets.len() as u64 != minibatches.saturating_add(1) {
            let what = format!("{minibatches} minibatches need one more offset, not {}", self.offsets.len());
            return contradiction(place, what);
        }
        let ascending = self.offsets.is_sorted() && self.offsets.first() == Some(&0);
        if !ascending || self.offsets.last() != Some(&(self.ids.len() as u64)) {
            return contradiction(place, format!("the offsets do not ascend from 0 to the {} ids", self.ids.len()));
        }
        let mut seen_in = vec![0u32; universe as usize];
        for m in 0..self.minibatches() {
            for &id in self.minibatch(m) {
                let Some(last) = seen_in.get_mut(id as usize) else {
                    return contradiction(
                        place,
                        format!("id {id} of minibatch {m} is not below the universe {universe}"),
                    );
                };
                if std::mem::replace(last, m as u32 + 1) == m as u32 + 1 {
                    return contradiction(place, format!("id {id} is twice in minibatch {m}"));
                }
            }
        }
        Ok(())
    }
}

fn contradiction<T>(path: &Path, what: impl Into<String>) -> Result<T, TraceError> {
    Err(TraceError::Contradiction { path: path.to_owned(), what: what.into() })
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> TraceError {
    TraceError::Io { path: path.to_owned(), action, source }
}

fn read_meta(path: &Path) -> Result<TraceMeta, TraceError> {
    let file = File::open(path).map_err(|source| io_error(path, "open", source))?;
    let mut text = String::new();
    file.take(META_BYTES_MAX).read_to_string(&mut text).map_err(|source| io_error(path, "read", source))?;
    let meta: TraceMeta =
        serde_json::from_str(&text).map_err(|source| TraceError::Meta { path: path.to_owned(), source })?;
    if meta.format != FORMAT_VERSION {
        return contradiction(path, format!("format {}: this build reads {FORMAT_VERSION}", meta.format));
    }
    Ok(meta)
}

/// The integers of a `.npy` file with rows of `width`, each from 0 to `most`.
fn read_integers(path: &Path, width: u64, most: u64) -> Result<Vec<u64>, TraceError> {
    let file = File::open(path).map_err(|source| io_error(path, "open", source))?;
    let length = file.metadata().map_err(|source| io_error(path, "look at", source))?.len();
    let mut reader = BufReader::new(file);
    let header = NpyHeader::read(&mut reader).map_err(|source| TraceError::Npy { path: path.to_owned(), source })?;
    let size = match header.element {
        NpyType::U32 | NpyType::I32 => 4,
        NpyType::U64 | NpyType::I64 => 8,
        other => return contradiction(path, format!("elements are {other:?}: use u32 or u64")),
    };
    if header.shape.0.len() != if width == 1 { 1 } else { 2 } || header.width() != width {
        return contradiction(path, format!("shape {}: expected rows of {width}", header.shape));
    }
    let data = header.data_bytes().map_err(|source| TraceError::Npy { path: path.to_owned(), source })?;
    if length != header.data_offset + data {
        return contradiction(
            path,
            format!("{length} bytes, where its shape {} needs {}", header.shape, header.data_offset + data),
        );
    }
    let mut bytes = Vec::with_capacity(data as usize);
    reader.read_to_end(&mut bytes).map_err(|source| io_error(path, "read", source))?;
    let signed = matches!(header.element, NpyType::I32 | NpyType::I64);
    let integer = |word: &[u8]| match word.try_into() {
        Ok(word) => u64::from_le_bytes(word),
        // A negative 32-bit number is as far above `most` as it should be.
        Err(_) => word.try_into().map_or(0, |word| {
            if signed { i64::from(i32::from_le_bytes(word)) as u64 } else { u64::from(u32::from_le_bytes(word)) }
        }),
    };
    let integers: Vec<u64> = bytes.chunks_exact(size).map(integer).collect();
    let limit = if signed { most.min(i64::MAX as u64) } else { most };
    match integers.iter().position(|&integer| integer > limit) {
        Some(at) if signed && integers[at] > i64::MAX as u64 => {
            contradiction(path, format!("element {at} is negative"))
        }
        Some(at) => contradiction(path, format!("element {at} is {}, above {most}", integers[at])),
        None => Ok(integers),
    }
}

fn write_npy(path: &Path, descr: &str, shape: &[u64], data: &[u8]) -> Result<(), TraceError> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&encode_header(descr, shape))?;
        file.write_all(data)?;
        file.flush()
    };
    write().map_err(|source| io_error(path, "write", source))
}
