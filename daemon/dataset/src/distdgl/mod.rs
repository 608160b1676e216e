//! A DistDGL partition as a dataset: the manifest that Rudder would have written of it, with the tensors of its `.dgl`
//! files as shards where they lie. Owns the names of its tables and what files must agree on; it must never copy a row,
//! nor need a file of another part.

mod graph_file;
mod tensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::DatasetError;
use crate::form::RowForm;
use crate::manifest::{BookManifest, FORMAT_VERSION, FileManifest, Manifest, ShardManifest, TableManifest, VertexType};
use crate::naming::table_name;
use crate::part::Part;
use graph_file::{GraphFile, Kind, PartFiles, TypeRanges};
pub use tensors::{DglError, FILE_MAGIC};
use tensors::{Tensor, read_tensors};

/// What a path of a dataset begins with when it names the JSON file of a DistDGL partition.
pub const DISTDGL_PREFIX: &str = "distdgl:";

/// A DistDGL partition as it lies.
#[derive(Debug)]
pub struct DistDgl {
    /// What Rudder would have written of it. Shards are pieces without checksums; those of parts whose files are not on
    /// this machine are elsewhere. Paths are relative to the folder of the JSON file.
    pub manifest: Manifest,
    /// Features that no table can hold, with the reason.
    pub skipped: Vec<String>,
    /// The feature files that are on this machine.
    pub files: Vec<FeatureFile>,
}

/// A feature file of one part, and what lies in it.
#[derive(Debug)]
pub struct FeatureFile {
    /// The part.
    pub part: Part,
    /// Its path, relative to the folder of the JSON file.
    pub path: String,
    /// Its features, in the file's order.
    pub features: Vec<FilePiece>,
}

/// One feature in a file.
#[derive(Debug)]
pub struct FilePiece {
    /// Name of its table, which it has also where no table can hold it.
    pub table: String,
    /// Whether a table can hold it.
    pub is_served: bool,
    /// Numbers of a row.
    pub width: u64,
    /// Bytes of the file that are the feature's: name, head and rows.
    pub bytes: Range<u64>,
}

/// The features that the files on this machine hold, by number of the type and attribute.
type Features<'a> = BTreeMap<(usize, &'a str), Feature>;

/// One feature.
struct Feature {
    /// What its rows are, or why no table has them, in words.
    form: Result<RowForm, String>,
    /// The file that it was found in first, for messages.
    found_in: PathBuf,
    /// For each part whose file was read: where the rows begin, and their bytes.
    pieces: BTreeMap<u16, (u64, u64)>,
}

/// The tensors of one file of one part.
struct PartTensors {
    part: Part,
    kind: Kind,
    path: PathBuf,
    tensors: Vec<Tensor>,
}

impl DistDgl {
    /// Reads the JSON file at `path` and the heads of the feature files. Those of `node`'s part must be on this
    /// machine; those of the others are looked at where they are. Without a node, the files of any part will do.
    ///
    /// # Errors
    /// [`DatasetError`] naming the file, and the byte or field in it.
    pub fn read(path: &Path, node: Option<Part>) -> Result<Self, DatasetError> {
        let graph = GraphFile::read(path)?;
        let parts = graph.files.len() as u16;
        if let Some(node) = node.filter(|node| node.0 >= parts) {
            return Err(DatasetError::NodeOutOfRange { path: path.to_owned(), node, parts });
        }
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let mut files = Vec::new();
        for (part, of_part) in Part::all(parts).zip(&graph.files) {
            for kind in [Kind::Node, Kind::Edge] {
                let Some(file) = of_part.of(kind) else { continue };
                let file = dir.join(file);
                match open(&file) {
                    Ok(opened) => files.push(PartTensors::read(part, kind, file, opened)?),
                    Err(error) if node == Some(part) => return Err(error),
                    // Not this node's to serve.
                    Err(_) => {}
                }
            }
        }
        let expects_files = graph.files.iter().any(|of_part| of_part.of(Kind::Node).is_some());
        if let (true, true, Some(file)) = (files.is_empty(), expects_files, graph.files[0].of(Kind::Node)) {
            return Err(DatasetError::FileMissing { path: dir.join(file) });
        }
        let features = features(&graph, &files)?;
        check_names(path, &graph, &features)?;
        check_files(path, &graph, &features)?;
        let (mut tables, mut skipped) = (Vec::new(), Vec::new());
        for (&(at, attribute), feature) in &features {
            let of_type = &graph.types[at];
            let name = table_name(&of_type.name, attribute);
            match &feature.form {
                Ok(form) => tables.push(TableManifest {
                    name,
                    vertex_type: of_type.name.clone(),
                    dtype: form.dtype(),
                    width: form.width(),
                    shape: Some(form.shape().to_vec()),
                    rows: of_type.starts.last().copied().unwrap_or_default(),
                    shards: shards(path, &graph.files, of_type, feature),
                    classes: None,
                }),
                Err(why) => skipped.push(format!("{name}: {why}")),
            }
        }
        let files = files.iter().map(|file| feature_file(path, &graph, file)).collect::<Result<_, _>>()?;
        let manifest = Manifest {
            format: FORMAT_VERSION,
            name: graph.name,
            parts,
            vertex_types: graph.types.into_iter().map(vertex_type).collect(),
            tables,
            graph: None,
        };
        manifest.check_layout(path)?;
        Ok(Self { manifest, skipped, files })
    }
}

impl PartTensors {
    fn read(part: Part, kind: Kind, path: PathBuf, file: File) -> Result<Self, DatasetError> {
        let length = file.metadata().map_err(DatasetError::io(&path, "read the length"))?.len();
        match read_tensors(file, length) {
            Ok(tensors) => Ok(Self { part, kind, path, tensors }),
            Err(source) => Err(DatasetError::Dgl { path, source }),
        }
    }
}

/// What lies in a file that was read, by the names of tables.
fn feature_file(graph_path: &Path, graph: &GraphFile, file: &PartTensors) -> Result<FeatureFile, DatasetError> {
    let wrong = |what: String| DatasetError::DistDgl { path: graph_path.to_owned(), what };
    let pieces = file.tensors.iter().map(|tensor| {
        let (at, attribute) = graph.split(file.kind, &tensor.name)?;
        Ok(FilePiece {
            table: table_name(&graph.types[at].name, attribute),
            is_served: form(tensor).is_ok(),
            width: tensor.shape.iter().skip(1).product(),
            bytes: tensor.start..tensor.offset + tensor.bytes,
        })
    });
    let features = pieces.collect::<Result<_, _>>().map_err(wrong)?;
    let path = graph.files[file.part.index()].of(file.kind).map(str::to_owned).unwrap_or_default();
    Ok(FeatureFile { part: file.part, path, features })
}

fn open(path: &Path) -> Result<File, DatasetError> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DatasetError::FileMissing { path: path.to_owned() },
        _ => DatasetError::io(path, "open")(error),
    })
}

/// The features of all files, which must agree.
fn features<'a>(graph: &GraphFile, files: &'a [PartTensors]) -> Result<Features<'a>, DatasetError> {
    let mut features = Features::new();
    for PartTensors { part, kind, path, tensors } in files {
        let wrong = |what: String| DatasetError::DistDgl { path: path.clone(), what };
        for tensor in tensors {
            let (at, attribute) = graph.split(*kind, &tensor.name).map_err(wrong)?;
            let owned = owned(&graph.types[at], part.index());
            let rows = tensor.shape.first().copied();
            if rows != Some(owned) {
                return Err(wrong(format!(
                    "tensor `{}` of shape {:?} does not have the {owned} rows that the JSON file gives part {part}: the \
                     two are not of one partition; copy both again",
                    tensor.name, tensor.shape
                )));
            }
            let form = form(tensor);
            let feature = features.entry((at, attribute)).or_insert_with(|| Feature {
                form: form.clone(),
                found_in: path.clone(),
                pieces: BTreeMap::new(),
            });
            if feature.form != form {
                return Err(wrong(format!(
                    "tensor `{}` has other elements than that of {}: the two are not of one partition; copy both again",
                    tensor.name,
                    feature.found_in.display()
                )));
            }
            if feature.pieces.insert(part.0, (tensor.offset, tensor.bytes)).is_some() {
                return Err(wrong(format!("two tensors are `{attribute}` of type `{}`", graph.types[at].name)));
            }
        }
    }
    // A part that has rows of a type has each of its features. One that has none may lack them.
    for (&(at, attribute), feature) in &features {
        let lacks = |file: &&PartTensors| {
            file.kind == graph.types[at].kind
                && owned(&graph.types[at], file.part.index()) > 0
                && !feature.pieces.contains_key(&file.part.0)
        };
        if let Some(file) = files.iter().find(lacks) {
            let what = format!(
                "no tensor `{}/{attribute}`, which {} has: the two are not of one partition; copy both again",
                graph.types[at].name,
                feature.found_in.display()
            );
            return Err(DatasetError::DistDgl { path: file.path.clone(), what });
        }
    }
    Ok(features)
}

/// A point in the name of a type or an attribute may make one name of two features.
fn check_names(path: &Path, graph: &GraphFile, features: &Features<'_>) -> Result<(), DatasetError> {
    let mut known: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for &(at, attribute) in features.keys() {
        if let Some((other, before)) = known.insert(table_name(&graph.types[at].name, attribute), (at, attribute)) {
            let [name, other] = [at, other].map(|at| &graph.types[at].name);
            let what = format!(
                "feature `{attribute}` of type `{name}` and feature `{before}` of type `{other}` would both be table \
                 `{}`: rename one in the graph and make the partition again",
                table_name(&graph.types[at].name, attribute)
            );
            return Err(DatasetError::DistDgl { path: path.to_owned(), what });
        }
    }
    Ok(())
}

/// A part that has rows of a type names a file for its features.
fn check_files(path: &Path, graph: &GraphFile, features: &Features<'_>) -> Result<(), DatasetError> {
    for (part, files) in graph.files.iter().enumerate() {
        let lacks =
            |&&(at, _): &&(usize, &str)| files.of(graph.types[at].kind).is_none() && owned(&graph.types[at], part) > 0;
        if let Some(&(at, attribute)) = features.keys().find(lacks) {
            let name = &graph.types[at].name;
            let what = format!("`part-{part}` names no file for its rows of `{name}/{attribute}`, as other parts do");
            return Err(DatasetError::DistDgl { path: path.to_owned(), what });
        }
    }
    Ok(())
}

/// What a table of the tensor's rows has for elements; all dimensions but the first make a row.
fn form(tensor: &Tensor) -> Result<RowForm, String> {
    let dtype = tensor.element.dtype().ok_or_else(|| format!("no table has elements of {}", tensor.element.words()))?;
    RowForm::new(dtype, tensor.shape.get(1..).unwrap_or_default()).map_err(|error| error.to_string())
}

/// Rows of a type that a part owns.
fn owned(of_type: &TypeRanges, part: usize) -> u64 {
    of_type.starts[part + 1] - of_type.starts[part]
}

fn shards(graph: &Path, files: &[PartFiles], of_type: &TypeRanges, feature: &Feature) -> Vec<ShardManifest> {
    let of_parts = Part::all(files.len() as u16).zip(files);
    let shards = of_parts.map(|(part, of_part)| {
        let rows = owned(of_type, part.index());
        // No rows need no tensor, and no file but one that is there.
        let of_none = || graph.file_name().map(|name| name.to_string_lossy().into_owned());
        let path = of_part.of(of_type.kind).map(str::to_owned).or_else(of_none).unwrap_or_default();
        let file = match feature.pieces.get(&part.0) {
            Some(&(offset, bytes)) => FileManifest::piece(path, offset, bytes, None),
            None if rows == 0 => FileManifest::piece(path, 0, 0, None),
            None => FileManifest::elsewhere(path),
        };
        ShardManifest { rows, file }
    });
    shards.collect()
}

fn vertex_type(of_type: TypeRanges) -> VertexType {
    let rows = of_type.starts.last().copied().unwrap_or_default();
    VertexType::plain(of_type.name, rows, BookManifest::Ranges { starts: of_type.starts })
}
