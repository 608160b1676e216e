//! Writes a dataset: tables row by row into one `.npy` shard per part, side files, and at last the manifest. All of it
//! goes to a hidden folder, which takes the target's name in [`DatasetWriter::finish`]. It must never hold more than a
//! buffer of any table in memory.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use rudder_client::DType;

use crate::sink::Sink;
use crate::staging::{Staging, gate};
use crate::table_writer::TableWriter;
use crate::target::{Existing, check_target};
use rudder_dataset::DatasetError;
use rudder_dataset::manifest::{
    BookManifest, FORMAT_VERSION, FileManifest, GraphManifest, MANIFEST_FILE, Manifest, TableManifest, VertexType,
};
use rudder_dataset::{BookError, Inverse, NameIndex, PartitionBook, RowForm};

/// How the ids of a vertex type are spread over the parts.
#[derive(Clone, Copy, Debug)]
pub enum BookSpec<'a> {
    /// Contiguous ranges: parts + 1 ascending numbers from 0.
    Ranges(&'a [u64]),
    /// The owner of each id; rows of a shard are in the order of ids.
    Map {
        /// One part per id.
        owner: &'a [u16],
    },
}

/// A dataset being written. Dropped before [`DatasetWriter::finish`], it removes what it wrote.
#[derive(Debug)]
pub struct DatasetWriter {
    pub(crate) staging: Staging,
    existing: Existing,
    pub(crate) manifest: Manifest,
    books: Vec<Arc<PartitionBook>>,
}

impl DatasetWriter {
    /// Begins a dataset that will be the folder `dir`.
    ///
    /// # Errors
    /// [`DatasetError::OutputExists`] or [`DatasetError::OutputForeign`] when `dir` may not be written; I/O errors.
    pub fn create(dir: &Path, name: &str, parts: u16, existing: Existing) -> Result<Self, DatasetError> {
        check_target(dir, existing)?;
        if parts == 0 {
            return Err(DatasetError::Input("a dataset has at least one part".into()));
        }
        let staging = Staging::create(dir)?;
        let manifest = Manifest {
            format: FORMAT_VERSION,
            name: name.to_owned(),
            parts,
            vertex_types: Vec::new(),
            tables: Vec::new(),
            graph: None,
        };
        Ok(Self { staging, existing, manifest, books: Vec::new() })
    }

    /// Adds a vertex type and says who owns its ids.
    ///
    /// # Errors
    /// [`DatasetError::Input`] when the numbers are no partition book of this dataset's parts; I/O errors.
    pub fn add_book(&mut self, vertex_type: &str, spec: BookSpec<'_>) -> Result<Arc<PartitionBook>, DatasetError> {
        check_name("vertex type", vertex_type)?;
        if self.manifest.vertex_type(vertex_type).is_some() {
            return Err(DatasetError::Input(format!("vertex type `{vertex_type}` was added before")));
        }
        let parts = self.manifest.parts;
        let wrong = |error: BookError| DatasetError::Input(format!("vertex type `{vertex_type}`: {error}"));
        let (book, manifest) = match spec {
            BookSpec::Ranges(starts) => {
                let book = PartitionBook::ranges(starts.to_vec()).map_err(wrong)?;
                if book.parts() != parts {
                    return Err(wrong(BookError::NotAscending));
                }
                (book, BookManifest::Ranges { starts: starts.to_vec() })
            }
            BookSpec::Map { owner } => {
                let book = PartitionBook::map(parts, owner.iter().copied(), None).map_err(wrong)?;
                let path = format!("book/{vertex_type}.owner.npy");
                let owner = if parts <= 256 {
                    let bytes: Vec<u8> = owner.iter().map(|&part| part as u8).collect();
                    self.write_array(&path, "|u1", &[bytes.len() as u64], [bytes.as_slice()])?
                } else {
                    self.write_array(&path, "<u2", &[owner.len() as u64], owner.iter().map(|part| part.to_le_bytes()))?
                };
                (book, BookManifest::Map { owner, row: None })
            }
        };
        let book = Arc::new(book);
        self.books.push(Arc::clone(&book));
        self.manifest.vertex_types.push(VertexType::plain(vertex_type.to_owned(), book.rows(), manifest));
        Ok(book)
    }

    /// Keeps the id that each id of `vertex_type` had before relabelling, and the way back. Where all are the same, the
    /// type counts as not renumbered, and needs no way back.
    ///
    /// # Errors
    /// [`DatasetError::Input`] when the type is unknown, or `original` has not one id per row of it, all different; I/O
    /// errors.
    pub fn set_original_ids(&mut self, vertex_type: &str, original: &[u64]) -> Result<(), DatasetError> {
        let at = self.index_of(vertex_type)?;
        let rows = self.books[at].rows();
        if original.len() as u64 != rows {
            let what = format!("{} original ids for the {rows} ids of vertex type `{vertex_type}`", original.len());
            return Err(DatasetError::Input(what));
        }
        let bytes = original.iter().map(|id| id.to_le_bytes());
        let file = self.write_array(&format!("ids/{vertex_type}.npy"), "<u8", &[rows], bytes)?;
        let is_renumbered = !original.iter().copied().eq(0..rows);
        let of_type = &mut self.manifest.vertex_types[at];
        (of_type.original_ids, of_type.renumbered) = (Some(file), Some(is_renumbered));
        if !is_renumbered {
            return Ok(());
        }
        let inverse = Inverse::of(original.iter().copied(), rows).map_err(|twice| {
            DatasetError::Input(format!("the original id {twice} is there twice in vertex type `{vertex_type}`"))
        })?;
        let path = format!("ids/{vertex_type}.dataset.npy");
        let file = self.write_array(&path, inverse.descr(), &inverse.shape(), [inverse.bytes()])?;
        self.manifest.vertex_types[at].dataset_ids = Some(file);
        Ok(())
    }

    /// Keeps the names that vertices have in the source: line `i` names the vertex whose *original* id is `i`.
    ///
    /// # Errors
    /// [`DatasetError::Input`] when the type is unknown, a name holds a line break, or there is not one name per row of
    /// the type; I/O errors.
    pub fn set_names<'a>(
        &mut self,
        vertex_type: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), DatasetError> {
        let at = self.index_of(vertex_type)?;
        let mut sink = Sink::create(&self.staging.data(), &format!("ids/{vertex_type}.names.txt"))?;
        let mut index = NameIndex::default();
        for name in names {
            if name.contains('\n') {
                return Err(DatasetError::Input(format!("the vertex name {name:?} holds a line break")));
            }
            sink.write(name.as_bytes())?;
            sink.write(b"\n")?;
            index.add(name.as_bytes());
        }
        let (names, rows) = (index.rows(), self.books[at].rows());
        if names != rows {
            return Err(DatasetError::Input(format!(
                "{names} names for the {rows} ids of vertex type `{vertex_type}`"
            )));
        }
        self.manifest.vertex_types[at].names = Some(sink.finish()?);
        let (offsets, pairs) = index.finish();
        let array = |part: &str, shape: &[u64], bytes| {
            self.write_array(&format!("ids/{vertex_type}.{part}.npy"), "<u8", shape, [bytes])
        };
        let offsets = array("name_offsets", &[rows + 1], bytemuck::cast_slice::<u64, u8>(&offsets))?;
        let pairs = array("name_index", &[rows, 2], bytemuck::cast_slice::<[u64; 2], u8>(&pairs))?;
        let vertex_type = &mut self.manifest.vertex_types[at];
        (vertex_type.name_offsets, vertex_type.name_index) = (Some(offsets), Some(pairs));
        Ok(())
    }

    /// Keeps the relabelled graph and its facts.
    ///
    /// # Errors
    /// [`DatasetError::Input`] when the type is unknown or has another number of rows than the graph; I/O errors.
    pub fn set_graph(
        &mut self,
        vertex_type: &str,
        graph: &rudder_dataset::CsrGraph,
        edge_cut: u64,
        partitioner: &str,
    ) -> Result<(), DatasetError> {
        let rows = self.books[self.index_of(vertex_type)?].rows();
        if graph.vertices() != rows {
            let what = format!("a graph of {} vertices for the {rows} ids of `{vertex_type}`", graph.vertices());
            return Err(DatasetError::Input(what));
        }
        let offsets = graph.xadj().iter().map(|offset| offset.to_le_bytes());
        let indptr = self.write_array("graph/indptr.npy", "<u8", &[rows + 1], offsets)?;
        let neighbours = graph.adjncy().iter().map(|id| id.to_le_bytes());
        let indices = self.write_array("graph/indices.npy", "<u4", &[graph.adjncy().len() as u64], neighbours)?;
        self.manifest.graph = Some(GraphManifest {
            vertex_type: vertex_type.to_owned(),
            edges: graph.edges(),
            edge_cut,
            partitioner: partitioner.to_owned(),
            indptr: Some(indptr),
            indices: Some(indices),
        });
        Ok(())
    }

    /// Begins a table whose rows are elements of `dtype` in `shape`, which is empty where a row is one number. Several
    /// tables may be written at once. Rows go to the returned writer, which [`DatasetWriter::close_table`] takes back.
    /// Tables get their ids in the order of these calls.
    ///
    /// # Errors
    /// [`DatasetError::Input`] when the name is taken or no file name, the vertex type is unknown, or no row has that
    /// shape; I/O errors.
    pub fn add_table(
        &mut self,
        name: &str,
        vertex_type: &str,
        dtype: DType,
        shape: &[u32],
    ) -> Result<TableWriter, DatasetError> {
        let sizes: Vec<u64> = shape.iter().copied().map(u64::from).collect();
        let senseless = |error| DatasetError::Input(format!("table `{name}`: {error}"));
        let form = RowForm::new(dtype, &sizes).map_err(senseless)?;
        self.add_table_of(name, vertex_type, form)
    }

    /// As [`DatasetWriter::add_table`].
    pub(crate) fn add_table_of(
        &mut self,
        name: &str,
        vertex_type: &str,
        form: RowForm,
    ) -> Result<TableWriter, DatasetError> {
        let (index, book) = self.push_table(name, vertex_type, &form)?;
        Ok(TableWriter::new(self.staging.data(), name, index, form, book))
    }

    /// Adds a table without shards to the manifest, and gives its place there and its book.
    pub(crate) fn push_table(
        &mut self,
        name: &str,
        vertex_type: &str,
        form: &RowForm,
    ) -> Result<(usize, Arc<PartitionBook>), DatasetError> {
        check_name("table", name)?;
        if self.manifest.tables.iter().any(|table| table.name == name) {
            return Err(DatasetError::Input(format!("table `{name}` was added before")));
        }
        let book = Arc::clone(&self.books[self.index_of(vertex_type)?]);
        self.manifest.tables.push(TableManifest {
            name: name.to_owned(),
            vertex_type: vertex_type.to_owned(),
            dtype: form.dtype(),
            width: form.width(),
            shape: Some(form.shape().to_vec()),
            rows: book.rows(),
            shards: Vec::new(),
            classes: None,
        });
        Ok((self.manifest.tables.len() - 1, book))
    }

    /// Ends a table whose rows are all written.
    ///
    /// # Errors
    /// [`DatasetError::Rows`] when rows are missing; I/O errors.
    pub fn close_table(&mut self, table: TableWriter) -> Result<(), DatasetError> {
        let index = table.index();
        let shards = table.finish()?;
        match self.manifest.tables.get_mut(index) {
            Some(manifest) => manifest.shards = shards,
            None => return Err(DatasetError::Input("a table writer of another dataset".into())),
        }
        Ok(())
    }

    /// Names the classes of a table of labels.
    ///
    /// # Errors
    /// [`DatasetError::Input`] when there is no such table.
    pub fn set_classes(&mut self, table: &str, classes: Vec<String>) -> Result<(), DatasetError> {
        let found = self.manifest.tables.iter_mut().find(|candidate| candidate.name == table);
        let unknown = || DatasetError::Input(format!("no table `{table}` was added"));
        found.ok_or_else(unknown)?.classes = Some(classes);
        Ok(())
    }

    /// Writes the manifest and gives the dataset its name.
    ///
    /// # Errors
    /// [`DatasetError::Manifest`] when a table was not closed; [`DatasetError::OutputExists`] or
    /// [`DatasetError::OutputForeign`] when the target has become what may not be replaced; I/O errors. The target is
    /// then as it was.
    pub fn finish(self) -> Result<Manifest, DatasetError> {
        let path = self.staging.data().join(MANIFEST_FILE);
        self.manifest.check(&path)?;
        let syntax = |source| DatasetError::ManifestSyntax { path: path.clone(), source };
        let text = self.manifest.to_json().map_err(syntax)?;
        let gate = gate();
        fs::write(&path, text).map_err(DatasetError::io(&path, "write"))?;
        // Checksums tell a reader of shards that a power cut tore; the names must not outlive the manifest.
        File::open(&path).and_then(|file| file.sync_all()).map_err(DatasetError::io(&path, "write to disk"))?;
        drop(gate);
        self.staging.commit(self.existing)?;
        Ok(self.manifest)
    }

    fn index_of(&self, vertex_type: &str) -> Result<usize, DatasetError> {
        let found = self.manifest.vertex_types.iter().position(|candidate| candidate.name == vertex_type);
        found.ok_or_else(|| DatasetError::Input(format!("vertex type `{vertex_type}` has no partition book yet")))
    }

    fn write_array<B: AsRef<[u8]>>(
        &self,
        path: &str,
        descr: &str,
        shape: &[u64],
        pieces: impl IntoIterator<Item = B>,
    ) -> Result<FileManifest, DatasetError> {
        let mut sink = Sink::create(&self.staging.data(), path)?;
        sink.write(&rudder_dataset::npy::encode_header(descr, shape))?;
        for piece in pieces {
            sink.write(piece.as_ref())?;
        }
        sink.finish()
    }
}

/// Names become file names: letters, digits and a few signs, not beginning with a dot.
fn check_name(what: &str, name: &str) -> Result<(), DatasetError> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    if !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(DatasetError::Input(format!("{what} `{name}`: use up to 128 letters, digits, `_`, `-`, `.` or `:`")))
}
