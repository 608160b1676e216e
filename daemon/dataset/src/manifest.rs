//! `manifest.json`: the one file that says what a dataset is. Owns its fields, reading it, and every check that needs
//! the manifest alone. It must never open the files it names (that is `open`'s), so a manifest can be looked
//! at on a machine that holds no shard.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rudder_client::DType;
use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use super::error::DatasetError;
use super::form::{RowForm, RowFormError};
use super::npy::Shape;
use super::source::Source;

/// Name of the manifest inside the dataset's folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Format version that this build writes and reads.
pub const FORMAT_VERSION: u64 = 1;

/// Longest manifest that is read. 65,535 parts of 100 tables stay below it.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// A dataset: named feature tables over vertex types, split over parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: [`FORMAT_VERSION`].
    pub format: u64,
    /// Name of the dataset.
    pub name: String,
    /// Number of parts; part `i` is served by the node with index `i`.
    pub parts: u16,
    /// Vertex types, each with its own ids from 0.
    pub vertex_types: Vec<VertexType>,
    /// Feature tables. The index in this list is the table's id on the wire.
    pub tables: Vec<TableManifest>,
    /// Facts of the partitioned graph, and the graph itself, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<GraphManifest>,
}

/// Ids of one type of vertex and who owns them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VertexType {
    /// Name; `_N` ([`super::UNNAMED_TYPE`]) where a graph names no type, as in DistDGL. Edges have types, too: their
    /// names are `source:relation:target`.
    pub name: String,
    /// Number of ids: 0 to `rows - 1`.
    pub rows: u64,
    /// Who owns which id.
    pub book: BookManifest,
    /// Whether ids are others than in the source. Absent in datasets from before this field: there, `original_ids`
    /// says so by being named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renumbered: Option<bool>,
    /// `.npy` (u64, `rows`): the id each id had in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_ids: Option<FileManifest>,
    /// `.npy`, the inverse of `original_ids`. Where original ids are 0 to `rows - 1`: u32 or u64, `rows`, the dataset
    /// id of each original id. Else u64, `rows` x 2: (original id, dataset id), in the order of original ids. Datasets
    /// from before this field have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ids: Option<FileManifest>,
    /// Text, one line per *original* id: the name the vertex has in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<FileManifest>,
    /// `.npy` (u64, `rows + 1`): the byte of `names` at which each line begins, and its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_offsets: Option<FileManifest>,
    /// `.npy` (u64, `rows` x 2): (XXH3 of a name with 64 bits and seed 0, original id), in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_index: Option<FileManifest>,
}

impl VertexType {
    /// A type whose ids are those of its source and that has no names.
    #[must_use]
    pub fn plain(name: String, rows: u64, book: BookManifest) -> Self {
        let (renumbered, original_ids, dataset_ids, names, name_offsets, name_index) = Default::default();
        Self { name, rows, book, renumbered, original_ids, dataset_ids, names, name_offsets, name_index }
    }

    /// Whether ids are others than in the source.
    #[must_use]
    pub fn is_renumbered(&self) -> bool {
        self.renumbered.unwrap_or(self.original_ids.is_some())
    }

    /// What is wrong where a file is named without the one that it belongs to.
    fn file_alone(&self) -> Option<&'static str> {
        match (&self.names, &self.name_offsets, &self.name_index) {
            (_, None, None) | (Some(_), Some(_), Some(_)) => {}
            _ => return Some("`name_offsets` and `name_index` belong together, and to `names`"),
        }
        if self.original_ids.is_some() {
            return None;
        }
        let is_named = self.dataset_ids.is_some();
        if is_named {
            Some("`dataset_ids` without `original_ids`")
        } else if self.is_renumbered() {
            Some("`renumbered` without `original_ids`")
        } else {
            None
        }
    }

    /// The files that translate ids and names.
    pub fn id_files(&self) -> impl Iterator<Item = &FileManifest> {
        let files = [&self.original_ids, &self.dataset_ids, &self.names, &self.name_offsets, &self.name_index];
        files.into_iter().flatten()
    }
}

/// Partition book of a vertex type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum BookManifest {
    /// Part `i` owns the ids `starts[i]..starts[i + 1]`, rows in the order of ids.
    Ranges {
        /// Parts + 1 ascending numbers from 0 to the rows of the type.
        starts: Vec<u64>,
    },
    /// Any id may live anywhere.
    Map {
        /// `.npy` (u8 or u16, `rows`): the part that owns each id.
        owner: FileManifest,
        /// `.npy` (u32 or u64, `rows`): the row of each id in its owner's shard. Without it, the rows of a shard are in
        /// the order of ids.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        row: Option<FileManifest>,
    },
}

/// A feature table: `rows` rows of `width` elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableManifest {
    /// Name by which trainers ask for it.
    pub name: String,
    /// The vertex type whose ids index it.
    pub vertex_type: String,
    /// Element type.
    pub dtype: DType,
    /// Elements of a row.
    pub width: u32,
    /// Shape of a row, whose product is `width`: none where a row is one number. Datasets from before this field have
    /// rows of one dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<u32>>,
    /// Rows over all shards.
    pub rows: u64,
    /// One shard per part.
    pub shards: Vec<ShardManifest>,
    /// For a table of class labels: the name of each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
}

impl TableManifest {
    /// Element type and shape of a row.
    ///
    /// # Errors
    /// [`RowFormError`] when no row has them. [`Manifest::load`] has checked that.
    pub fn form(&self) -> Result<RowForm, RowFormError> {
        let sizes: Vec<u64> = match &self.shape {
            Some(shape) => shape.iter().copied().map(u64::from).collect(),
            None => vec![u64::from(self.width)],
        };
        RowForm::new(self.dtype, &sizes)
    }
}

/// The rows of one table that one part owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardManifest {
    /// Rows in the file.
    pub rows: u64,
    /// `.npy` file, or a piece of a file of another format that is nothing but the rows.
    pub file: FileManifest,
}

/// A file of the dataset, or the piece of a file that holds rows, and how to know it is the right one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileManifest {
    /// Path relative to the manifest, with `/`.
    pub path: String,
    /// Where the piece begins in the file, in bytes; not aligned to anything. Without it, this is the whole file. Only
    /// shards may be pieces: a tensor inside a file of another format, row-major, little endian, without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Length of the file, or of the piece, in bytes.
    pub bytes: u64,
    /// XXH3 with 64 bits, seed 0, over the whole file or the piece. Only pieces may go without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xxh3: Option<Checksum>,
}

/// What a [`FileManifest`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, from its first byte to its last.
    Whole,
    /// The bytes of a file that begin at this offset.
    Piece(u64),
    /// A file of another machine, of which nothing is known here but its path. A `manifest.json` has no such files:
    /// only the manifest of a dataset that is served in place may.
    Elsewhere,
}

impl FileManifest {
    /// A whole file.
    #[must_use]
    pub fn whole(path: String, bytes: u64, xxh3: Checksum) -> Self {
        Self { path, offset: None, bytes, xxh3: Some(xxh3) }
    }

    /// The `bytes` of a file that begin at `offset`.
    #[must_use]
    pub fn piece(path: String, offset: u64, bytes: u64, xxh3: Option<Checksum>) -> Self {
        Self { path, offset: Some(offset), bytes, xxh3 }
    }

    /// A file that is not on this machine.
    #[must_use]
    pub fn elsewhere(path: String) -> Self {
        Self { path, offset: None, bytes: 0, xxh3: None }
    }

    /// Where the bytes are.
    #[must_use]
    pub fn place(&self) -> Place {
        match (self.offset, self.xxh3) {
            (Some(offset), _) => Place::Piece(offset),
            (None, Some(_)) => Place::Whole,
            (None, None) => Place::Elsewhere,
        }
    }
}

/// Facts of the graph, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphManifest {
    /// The type of its vertices.
    pub vertex_type: String,
    /// Undirected edges, each counted once.
    pub edges: u64,
    /// Edges whose ends live in different parts.
    pub edge_cut: u64,
    /// What assigned the parts, with what it was told.
    pub partitioner: String,
    /// `.npy` (u64, vertices + 1): where the neighbours of each vertex begin in `indices`; relabelled ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indptr: Option<FileManifest>,
    /// `.npy` (u32, both directions of each edge): neighbours; relabelled ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indices: Option<FileManifest>,
}

/// Only the version, whatever else there is: a manifest of another version is told apart from a malformed one.
#[derive(Deserialize)]
struct Probe {
    format: Option<serde_json::Value>,
}

impl Manifest {
    /// The manifest of the dataset that `path` names: a folder, or files of others that are served where they lie
    /// (`distdgl:GRAPH.json`).
    ///
    /// # Errors
    /// [`DatasetError`] naming the file that says what the dataset is: missing, unknown version, unknown or absent
    /// fields, contradictions.
    pub fn load(path: &Path) -> Result<Self, DatasetError> {
        Source::read(path, None).map(|source| source.manifest)
    }

    /// Reads and checks `manifest.json` of the folder `dir`.
    pub(crate) fn load_folder(dir: &Path) -> Result<Self, DatasetError> {
        let path = dir.join(MANIFEST_FILE);
        let text = read_bounded(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                DatasetError::ManifestMissing { dir: dir.to_owned() }
            }
            _ => DatasetError::Io { path: path.clone(), action: "read", source },
        })?;
        let syntax = |source| DatasetError::ManifestSyntax { path: path.clone(), source };
        let probe: Probe = serde_json::from_str(&text).map_err(syntax)?;
        match probe.format {
            Some(version) if version == FORMAT_VERSION => {}
            Some(version) => return Err(DatasetError::ManifestVersion { path, found: version.to_string() }),
            None => return Err(DatasetError::Manifest { path, what: "no `format`: not a manifest of Rudder".into() }),
        }
        let manifest: Self = serde_json::from_str(&text).map_err(syntax)?;
        manifest.check(&path)?;
        Ok(manifest)
    }

    /// The manifest as the text of `manifest.json`.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// XXH3 of the manifest's canonical text (its fields in their declared order, no spaces): two nodes with the same
    /// fingerprint serve the same rows under the same ids, however their files are laid out in white space.
    ///
    /// Shards without a checksum count by their rows alone: each node knows where its own lie, and no other. The
    /// fingerprint is then that of the layout: names, types, widths and ranges.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut layout = std::borrow::Cow::Borrowed(self);
        if self.files().any(|file| file.xxh3.is_none()) {
            let shards = layout.to_mut().tables.iter_mut().flat_map(|table| &mut table.shards);
            for shard in shards.filter(|shard| shard.file.xxh3.is_none()) {
                shard.file = FileManifest::elsewhere(String::new());
            }
        }
        // Serialising structs of strings and numbers to memory has no way to fail.
        let canonical = serde_json::to_vec(layout.as_ref()).unwrap_or_default();
        xxhash_rust::xxh3::xxh3_64(&canonical)
    }

    /// The vertex type called `name`.
    #[must_use]
    pub fn vertex_type(&self, name: &str) -> Option<&VertexType> {
        self.vertex_types.iter().find(|vertex_type| vertex_type.name == name)
    }

    /// Every file that the manifest names.
    pub fn files(&self) -> impl Iterator<Item = &FileManifest> {
        let shards = self.tables.iter().flat_map(|table| table.shards.iter().map(|shard| &shard.file));
        self.side_files().chain(shards)
    }

    /// Every file that is no shard.
    fn side_files(&self) -> impl Iterator<Item = &FileManifest> {
        let types = self.vertex_types.iter().flat_map(|vertex_type| {
            let (owner, row) = match &vertex_type.book {
                BookManifest::Ranges { .. } => (None, None),
                BookManifest::Map { owner, row } => (Some(owner), row.as_ref()),
            };
            [owner, row].into_iter().flatten().chain(vertex_type.id_files())
        });
        let graph = self.graph.iter().flat_map(|graph| [&graph.indptr, &graph.indices].into_iter().flatten());
        types.chain(graph)
    }

    /// Checks everything that can be checked without opening another file. `path` is for the messages.
    pub fn check(&self, path: &Path) -> Result<(), DatasetError> {
        let wrong = |file: &FileManifest, what: &str| {
            Err(DatasetError::Manifest { path: path.to_owned(), what: format!("file `{}`: {what}", file.path) })
        };
        for file in self.files() {
            if !is_inside(&file.path) {
                return Err(DatasetError::PathEscapes { manifest: path.to_owned(), found: file.path.clone() });
            }
            match file.place() {
                Place::Elsewhere => return wrong(file, "no `xxh3`: only a piece (with `offset`) may go without"),
                Place::Piece(offset) if offset.checked_add(file.bytes).is_none() => {
                    return wrong(file, "`offset` + `bytes` is no length of a file");
                }
                Place::Piece(_) | Place::Whole => {}
            }
        }
        if let Some(file) = self.side_files().find(|file| file.offset.is_some()) {
            return wrong(file, "`offset`: only the file of a shard may be a piece of a file");
        }
        self.check_layout(path)
    }

    /// As [`Manifest::check`], for a manifest whose files were found and checked by who made it.
    pub(crate) fn check_layout(&self, path: &Path) -> Result<(), DatasetError> {
        let wrong = |what: String| Err(DatasetError::Manifest { path: path.to_owned(), what });
        if self.parts == 0 {
            return wrong("`parts` is 0: a dataset has at least one part".into());
        }
        if self.tables.len() > usize::from(u16::MAX) {
            return wrong(format!("{} tables: at most {} are possible", self.tables.len(), u16::MAX));
        }
        let mut names = BTreeSet::new();
        for vertex_type in &self.vertex_types {
            if !names.insert(&vertex_type.name) {
                return wrong(format!("vertex type `{}` is there twice", vertex_type.name));
            }
            if let Some(alone) = vertex_type.file_alone() {
                return wrong(format!("vertex type `{}`: {alone}", vertex_type.name));
            }
            self.check_ranges(vertex_type, path)?;
        }
        names.clear();
        for table in &self.tables {
            if table.name.is_empty() || !names.insert(&table.name) {
                return wrong(format!("table name `{}` is empty or there twice", table.name));
            }
            self.check_table(table, path)?;
        }
        match &self.graph {
            Some(graph) if self.vertex_type(&graph.vertex_type).is_none() => {
                wrong(format!("`graph`: vertex type `{}` is not in `vertex_types`", graph.vertex_type))
            }
            _ => Ok(()),
        }
    }

    fn check_ranges(&self, vertex_type: &VertexType, path: &Path) -> Result<(), DatasetError> {
        let BookManifest::Ranges { starts } = &vertex_type.book else { return Ok(()) };
        let expected = usize::from(self.parts) + 1;
        let is_ascending = starts.len() == expected
            && starts.first() == Some(&0)
            && starts.last() == Some(&vertex_type.rows)
            && starts.is_sorted();
        if is_ascending {
            return Ok(());
        }
        let (path, rows) = (path.to_owned(), vertex_type.rows);
        Err(DatasetError::RangesNotAscending { path, vertex_type: vertex_type.name.clone(), expected, rows })
    }

    fn check_table(&self, table: &TableManifest, path: &Path) -> Result<(), DatasetError> {
        let wrong = |what: String| {
            Err(DatasetError::Manifest { path: path.to_owned(), what: format!("table `{}`: {what}", table.name) })
        };
        let Some(vertex_type) = self.vertex_type(&table.vertex_type) else {
            return wrong(format!("vertex type `{}` is not in `vertex_types`", table.vertex_type));
        };
        let form = match table.form() {
            Ok(form) => form,
            Err(error) => return wrong(error.to_string()),
        };
        if form.width() != table.width {
            let (shape, product, width) = (Shape(form.sizes()), form.width(), table.width);
            return wrong(format!("`shape` {shape} is {product} elements, but `width` is {width}"));
        }
        let row_bytes = form.row_bytes() as u64;
        if table.rows.checked_mul(row_bytes).is_none() {
            return wrong(format!("{} rows of {row_bytes} bytes are more than a file can hold", table.rows));
        }
        if table.rows != vertex_type.rows {
            return wrong(format!(
                "{} rows, but vertex type `{}` has {}",
                table.rows, vertex_type.name, vertex_type.rows
            ));
        }
        if table.shards.len() != usize::from(self.parts) {
            return wrong(format!("{} shards, but the dataset has {} parts", table.shards.len(), self.parts));
        }
        let sum = table.shards.iter().try_fold(0u64, |sum, shard| sum.checked_add(shard.rows));
        if sum != Some(table.rows) {
            return wrong(format!("its shards do not sum up to its {} rows", table.rows));
        }
        // The product cannot overflow: all rows together were checked above.
        let is_whole_rows =
            |shard: &&ShardManifest| shard.file.offset.is_none() || shard.file.bytes == shard.rows * row_bytes;
        match table.shards.iter().find(|shard| !is_whole_rows(shard)) {
            Some(ShardManifest { rows, file }) => wrong(format!(
                "`{}`: a piece of {} bytes does not hold {rows} rows of {row_bytes} bytes",
                file.path, file.bytes
            )),
            None => Ok(()),
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MANIFEST_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Whether a relative path stays below its folder, by its words alone. Links are the operator's: shards may live on
/// another disk.
pub fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

/// Full path of a file of the dataset in `dir`.
pub fn resolve(dir: &Path, file: &FileManifest) -> PathBuf {
    dir.join(&file.path)
}
