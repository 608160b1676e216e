//! Opens a dataset: manifest, partition books, the shards of one node, and, for tools, the rest. It must never accept a
//! file that does not fit the manifest, and never need a file that the node does not serve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocks::BlockCache;
use super::book::{BookError, PartitionBook};
use super::column::{Column, Way};
use super::error::DatasetError;
use super::form::{RowForm, RowFormError};
use super::graph::CsrGraph;
use super::ids::{self, VertexIds};
use super::manifest::{BookManifest, FileManifest, MANIFEST_FILE, Manifest, TableManifest, VertexType, resolve};
use super::map::ReadOrder;
use super::names::VertexNames;
use super::npy::NpyType;
use super::part::Part;
use super::settings::{BlockSettings, Verify};
use super::shard::Shard;
use super::source::{Origin, Source};
use super::verify::verify_files;

/// A feature table and this node's shard of it.
#[derive(Debug)]
pub struct Table {
    /// Index in [`Dataset::tables`]; the table's id on the wire.
    pub id: u16,
    /// Name by which trainers ask for it.
    pub name: String,
    /// The vertex type whose ids index it.
    pub vertex_type: String,
    /// What a row is.
    pub form: RowForm,
    /// Rows over all parts; ids are below it.
    pub rows: u64,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Who owns which id; shared by the tables of a vertex type.
    pub book: Arc<PartitionBook>,
    /// The rows of this node's part.
    pub shard: Shard,
    /// Names of the classes, for a table of labels.
    pub classes: Option<Vec<String>>,
    /// The ids that vertices have in their source, where the import gave them others.
    pub ids: Option<Arc<VertexIds>>,
    /// The names that vertices have in their source, where they have some.
    pub names: Option<Arc<VertexNames>>,
}

/// An opened dataset as one node sees it.
#[derive(Debug)]
pub struct Dataset {
    origin: Origin,
    /// The folder that paths in the manifest are relative to.
    dir: PathBuf,
    /// The file that says what the dataset is, for messages.
    described_by: PathBuf,
    manifest: Manifest,
    node: Part,
    fingerprint: u64,
    tables: Vec<Table>,
    blocks: Option<Arc<BlockCache>>,
}

impl Dataset {
    /// Opens the dataset that `path` names as the node that owns part `node`: a folder with a manifest, or
    /// `distdgl:GRAPH.json` for a DistDGL partition where it lies. Only the file that says what the dataset is, the
    /// partition books and that part's shards need be on this machine. `progress` gets (bytes checked, bytes to check);
    /// a DistDGL partition has no checksums, so that nothing is checked but headers, lengths and ranges.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file at fault.
    pub fn open(path: &Path, node: Part, verify: Verify, progress: &dyn Fn(u64, u64)) -> Result<Self, DatasetError> {
        Self::open_with(path, node, verify, None, progress)
    }

    /// As [`Dataset::open`], but with `blocks` the shards are read through a cache of blocks and not mapped.
    ///
    /// # Errors
    /// As [`Dataset::open`]; also when a row is larger than the cache.
    pub fn open_with(
        path: &Path,
        node: Part,
        verify: Verify,
        blocks: Option<BlockSettings>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Self, DatasetError> {
        let Source { origin, manifest, dir, described_by } = Source::read(path, Some(node))?;
        if node.0 >= manifest.parts {
            return Err(DatasetError::NodeOutOfRange { path: described_by, node, parts: manifest.parts });
        }
        if verify == Verify::Full {
            verify_files(&dir, &served_files(&dir, &manifest, node), progress)?;
            manifest.vertex_types.iter().try_for_each(|vertex_type| ids::check(&dir, vertex_type))?;
        }
        let way = if blocks.is_some() { Way::Read } else { Way::Map(ReadOrder::Around) };
        let mut types = BTreeMap::new();
        for vertex_type in &manifest.vertex_types {
            let book = Arc::new(open_book(&dir, manifest.parts, vertex_type)?);
            let ids = VertexIds::open(&dir, vertex_type, way)?.map(Arc::new);
            let names = VertexNames::open(&dir, vertex_type, way)?.map(Arc::new);
            types.insert(vertex_type.name.as_str(), (book, ids, names));
        }
        let blocks = blocks.map(BlockCache::new).transpose()?;
        let mut tables = Vec::with_capacity(manifest.tables.len());
        for (id, table) in (0u16..).zip(&manifest.tables) {
            // `Manifest::load` has checked that the type is there.
            let Some((book, ids, names)) = types.get(table.vertex_type.as_str()) else { continue };
            check_shard_rows(&described_by, table, book)?;
            let senseless =
                |error: RowFormError| DatasetError::Rows { table: table.name.clone(), what: error.to_string() };
            let form = table.form().map_err(senseless)?;
            tables.push(Table {
                id,
                name: table.name.clone(),
                vertex_type: table.vertex_type.clone(),
                row_bytes: form.row_bytes(),
                form,
                rows: table.rows,
                book: Arc::clone(book),
                shard: Shard::open(&dir, table, &table.shards[node.index()], blocks.as_ref().map(|it| (it, id)))?,
                classes: table.classes.clone(),
                ids: ids.clone(),
                names: names.clone(),
            });
        }
        let fingerprint = manifest.fingerprint();
        Ok(Self { origin, dir, described_by, manifest, node, fingerprint, tables, blocks })
    }

    /// Opens a dataset of which every file is on this machine, and checks them all: for tools. The node is 0; other
    /// parts' shards are had by [`Dataset::open_shard`].
    ///
    /// # Errors
    /// As [`Dataset::open`], for any file of the dataset.
    pub fn open_for_tools(path: &Path, verify: Verify, progress: &dyn Fn(u64, u64)) -> Result<Self, DatasetError> {
        let dataset = Self::open(path, Part(0), Verify::Shape, &|_, _| ())?;
        if verify == Verify::Full {
            let Self { dir, manifest, .. } = &dataset;
            verify_files(dir, &manifest.files().collect::<Vec<_>>(), progress)?;
            manifest.vertex_types.iter().try_for_each(|vertex_type| ids::check(dir, vertex_type))?;
        }
        for table in &dataset.tables {
            for part in Part::all(dataset.parts()) {
                dataset.open_shard(table, part)?;
            }
        }
        Ok(dataset)
    }

    /// The folder it lies in.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Name of the dataset.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Number of parts.
    #[must_use]
    pub fn parts(&self) -> u16 {
        self.manifest.parts
    }

    /// The part that this node owns.
    #[must_use]
    pub fn node(&self) -> Part {
        self.node
    }

    /// Fingerprint of the manifest, with every checksum in it: peers compare it before they believe each other. A
    /// dataset without checksums has that of its layout.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The cache of blocks that the shards are read through; `None` when they are mapped.
    #[must_use]
    pub fn blocks(&self) -> Option<&Arc<BlockCache>> {
        self.blocks.as_ref()
    }

    /// The tables; a table's place is its id.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The table called `name`.
    #[must_use]
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The manifest as it was read.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Maps the shard of another part, where its file is on this machine. Checks its shape, not its checksum.
    ///
    /// # Errors
    /// [`DatasetError`] naming the shard's file.
    pub fn open_shard(&self, table: &Table, part: Part) -> Result<Shard, DatasetError> {
        let manifest = &self.manifest.tables[usize::from(table.id)];
        let shard = manifest.shards.get(part.index()).ok_or_else(|| DatasetError::NodeOutOfRange {
            path: self.described_by.clone(),
            node: part,
            parts: self.parts(),
        })?;
        Shard::open(&self.dir, manifest, shard, None)
    }

    /// The original id of each id of `vertex_type`: the ids themselves where the import kept them. `None` when there is
    /// no such type. The file's checksum is checked.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file.
    pub fn original_ids(&self, vertex_type: &str) -> Result<Option<Vec<u64>>, DatasetError> {
        let Some(vertex_type) = self.manifest.vertex_type(vertex_type) else { return Ok(None) };
        let Some(file) = &vertex_type.original_ids else { return Ok(Some((0..vertex_type.rows).collect())) };
        let column = Column::open_checked(&self.dir, file, vertex_type.rows, &[NpyType::U64])?;
        Ok(Some(column.iter().collect()))
    }

    /// The relabelled graph, for samplers; `None` when the dataset keeps none. Its checksums are checked.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file, or the manifest when the two files are no graph.
    pub fn load_graph(&self) -> Result<Option<CsrGraph>, DatasetError> {
        let Some(graph) = &self.manifest.graph else { return Ok(None) };
        let (Some(indptr), Some(indices)) = (&graph.indptr, &graph.indices) else { return Ok(None) };
        let vertices = self.manifest.vertex_type(&graph.vertex_type).map_or(0, |vertex_type| vertex_type.rows);
        let xadj = Column::open_checked(&self.dir, indptr, vertices + 1, &[NpyType::U64])?.iter().collect();
        let entries = graph.edges.saturating_mul(2);
        let adjncy = Column::open_checked(&self.dir, indices, entries, &[NpyType::U32])?;
        let adjncy = adjncy.iter().map(|id| id as u32).collect();
        CsrGraph::new(xadj, adjncy).map(Some).map_err(|error| DatasetError::Manifest {
            path: self.described_by.clone(),
            what: format!("`graph`: {error}"),
        })
    }
}

/// The files that node `node` serves from. Those of ids and names may be absent: then original ids and names cannot be
/// asked for.
fn served_files<'a>(dir: &Path, manifest: &'a Manifest, node: Part) -> Vec<&'a FileManifest> {
    let mut files = Vec::new();
    for vertex_type in &manifest.vertex_types {
        if let BookManifest::Map { owner, row } = &vertex_type.book {
            files.push(owner);
            files.extend(row);
        }
        files.extend(vertex_type.id_files().filter(|file| resolve(dir, file).exists()));
    }
    files.extend(manifest.tables.iter().map(|table| &table.shards[node.index()].file));
    files
}

fn check_shard_rows(described_by: &Path, table: &TableManifest, book: &PartitionBook) -> Result<(), DatasetError> {
    for (part, shard) in (0..).map(Part).zip(&table.shards) {
        let expected = book.owned(part);
        if shard.rows != expected {
            return Err(DatasetError::ShardRows {
                path: described_by.to_owned(),
                table: table.name.clone(),
                vertex_type: table.vertex_type.clone(),
                part,
                found: shard.rows,
                expected,
            });
        }
    }
    Ok(())
}

fn open_book(dir: &Path, parts: u16, vertex_type: &VertexType) -> Result<PartitionBook, DatasetError> {
    let (path, book) = match &vertex_type.book {
        BookManifest::Ranges { starts } => (dir.join(MANIFEST_FILE), PartitionBook::ranges(starts.clone())),
        BookManifest::Map { owner, row } => {
            let path = resolve(dir, row.as_ref().unwrap_or(owner));
            let owners = Column::open(dir, owner, vertex_type.rows, &[NpyType::U8, NpyType::U16])?;
            let owners = owners.iter().map(|owner| owner as u16);
            let book = match row {
                None => PartitionBook::map(parts, owners, None),
                Some(row) => {
                    let rows = Column::open(dir, row, vertex_type.rows, &[NpyType::U32, NpyType::U64])?;
                    PartitionBook::map(parts, owners, Some(&mut rows.iter()))
                }
            };
            (path, book)
        }
    };
    book.map_err(|error| book_error(path, dir, parts, vertex_type, error))
}

fn book_error(path: PathBuf, dir: &Path, parts: u16, vertex_type: &VertexType, error: BookError) -> DatasetError {
    match error {
        BookError::NotAscending => DatasetError::RangesNotAscending {
            path,
            vertex_type: vertex_type.name.clone(),
            expected: usize::from(parts) + 1,
            rows: vertex_type.rows,
        },
        BookError::OwnerOutOfRange { id, owner, parts } => {
            let path = match &vertex_type.book {
                BookManifest::Map { owner, .. } => resolve(dir, owner),
                BookManifest::Ranges { .. } => path,
            };
            DatasetError::OwnerOutOfRange { path, id, owner, parts }
        }
        BookError::RowsNotBijective { id, row, part, owned, why } => {
            DatasetError::RowsNotBijective { path, id, row, part, owned, why }
        }
    }
}
