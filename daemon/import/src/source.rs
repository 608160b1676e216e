//! Opens what `--table` names: a `.npy` file, an array of a `.npz` archive, a tensor of a `.safetensors` file. Bytes
//! are used where they lie; only what is packed or comes through a pipe is copied. It must never run what a file holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zip::{CompressionMethod, ZipArchive};

use crate::array::{ArrayFile, Wanted, open_array, read_header};
use crate::input::{Input, Kind, Scratch};
use rudder_dataset::DatasetError;
use rudder_dataset::npy::{ForeignHeader, NpyHeader, NpyType, Shape};

/// Longest header of a `.safetensors` file, as in its own library.
const SAFETENSORS_HEADER_MAX: u64 = 100_000_000;

/// The entry of the header that is no tensor.
const SAFETENSORS_METADATA: &str = "__metadata__";

/// Where an array is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArraySource {
    /// The file.
    pub path: PathBuf,
    /// Its name inside a `.npz` or `.safetensors` file; the only array of the file when not given.
    pub member: Option<String>,
}

impl ArraySource {
    /// A file that holds one array.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), member: None }
    }
}

pub(super) fn open_source(source: &ArraySource, wanted: Wanted, scratch: &Scratch) -> Result<ArrayFile, DatasetError> {
    let input = Input::open(&source.path)?;
    let path = input.path().to_owned();
    if is_safetensors(&path) {
        let mut file = Safetensors::open(input, scratch)?;
        let name = file.choose(source.member.as_deref())?;
        return file.tensor(&name, wanted);
    }
    if input.kind() == Kind::Zip {
        let mut archive = Npz::open(input, scratch)?;
        let name = archive.choose(source.member.as_deref())?;
        return archive.array(&name, wanted, scratch);
    }
    if let Some(member) = &source.member {
        return Err(DatasetError::Input(format!("{}: holds one array, and no `{member}`", path.display())));
    }
    let (file, header) = open_array(input, scratch)?;
    ArrayFile::new(path.display().to_string(), file, &header, wanted)
}

pub(super) fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// One name out of many: the one that is asked for, or the only one.
fn choose(path: &Path, names: &[String], asked: Option<&str>) -> Result<String, DatasetError> {
    let found = match (asked, names) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(asked), _) => names.iter().find(|name| *name == asked),
    };
    found.cloned().ok_or_else(|| {
        let (path, names) = (path.display(), names.join(", "));
        DatasetError::Input(match asked {
            Some(asked) => format!("{path}: no array `{asked}`: it holds {names}"),
            None => format!("{path}: say which of its arrays ({path}:NAME): {names}"),
        })
    })
}

/// A zip archive of `.npy` files.
pub(super) struct Npz {
    path: PathBuf,
    file: File,
    archive: ZipArchive<File>,
}

impl Npz {
    pub(super) fn open(input: Input, scratch: &Scratch) -> Result<Self, DatasetError> {
        let path = input.path().to_owned();
        let file = input.into_file(scratch)?;
        let own = file.try_clone().map_err(DatasetError::io(&path, "open"))?;
        let archive = ZipArchive::new(own).map_err(|error| wrong_zip(&path, &error))?;
        Ok(Self { path, file, archive })
    }

    /// Names of its arrays.
    pub(super) fn names(&self) -> Vec<String> {
        self.archive.file_names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect()
    }

    pub(super) fn choose(&self, asked: Option<&str>) -> Result<String, DatasetError> {
        let names = self.names();
        if names.is_empty() {
            return Err(DatasetError::Input(format!(
                "{}: a zip archive without .npy files (a file of torch.save is read by the Python package only)",
                self.path.display()
            )));
        }
        choose(&self.path, &names, asked)
    }

    pub(super) fn array(&mut self, name: &str, wanted: Wanted, scratch: &Scratch) -> Result<ArrayFile, DatasetError> {
        let (label, file, header) = self.open_array(name, scratch)?;
        ArrayFile::new(label, file, &header, wanted)
    }

    /// The array `name`: what messages call it, the file that holds its bytes, and its header. Its checksum is verified
    /// here. An array that is stored as it is stays where it lies, a packed one is unpacked to a temporary file.
    pub(super) fn open_array(
        &mut self,
        name: &str,
        scratch: &Scratch,
    ) -> Result<(String, File, ForeignHeader), DatasetError> {
        let label = format!("{}: `{name}`", self.path.display());
        let label_path = Path::new(&label);
        let mut entry = self.archive.by_name(&format!("{name}.npy")).map_err(|error| wrong_zip(&self.path, &error))?;
        let start = entry.data_start();
        let (CompressionMethod::Stored, Some(start)) = (entry.compression(), start) else {
            let mut file = scratch.copy(label_path, entry)?;
            let header = read_header(label_path, &mut file)?;
            return Ok((label, file, header));
        };
        let mut header = ForeignHeader::read(&mut entry).map_err(DatasetError::npy(label_path))?;
        let bytes = header.header.data_bytes().map_err(DatasetError::npy(label_path))?;
        let (found, expected) = (entry.size(), header.header.data_offset + bytes);
        if found != expected {
            return Err(DatasetError::Truncated { path: label.into(), found, expected });
        }
        // The reader compares the checksum at the end.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(DatasetError::io(label_path, "read"))?;
        drop(entry);
        header.header.data_offset += start;
        let file = self.file.try_clone().map_err(DatasetError::io(&self.path, "open"))?;
        Ok((label, file, header))
    }
}

fn wrong_zip(path: &Path, error: &zip::result::ZipError) -> DatasetError {
    DatasetError::Input(format!("{}: not a readable zip archive: {error}", path.display()))
}

/// A tensor as the header of a `.safetensors` file describes it.
#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A `.safetensors` file: u64 length of the header, the header in JSON, the tensors' bytes in little endian.
pub(super) struct Safetensors {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Tensor>,
    /// Where the tensors' bytes begin.
    start: u64,
}

impl Safetensors {
    pub(super) fn open(input: Input, scratch: &Scratch) -> Result<Self, DatasetError> {
        let path = input.path().to_owned();
        let mut file = input.into_file(scratch)?;
        let wrong = |what: String| DatasetError::Input(format!("{}: {what}", path.display()));
        let bytes = file.metadata().map_err(DatasetError::io(&path, "read the length"))?.len();
        std::io::Seek::rewind(&mut file).map_err(DatasetError::io(&path, "read"))?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|_| wrong("shorter than the header of a .safetensors file".into()))?;
        let length = u64::from_le_bytes(length);
        if length > SAFETENSORS_HEADER_MAX || length > bytes.saturating_sub(8) {
            return Err(wrong(format!("no .safetensors file, or truncated: it claims a header of {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(DatasetError::io(&path, "read"))?;
        let malformed = |error: serde_json::Error| wrong(format!("malformed header: {error}"));
        let mut entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header).map_err(malformed)?;
        entries.remove(SAFETENSORS_METADATA);
        let tensors = entries.into_iter().map(|(name, entry)| Ok((name, serde_json::from_value(entry)?)));
        let tensors: BTreeMap<String, Tensor> = tensors.collect::<Result<_, _>>().map_err(malformed)?;
        let start = 8 + length;
        let end = tensors.values().map(|tensor| tensor.data_offsets.1).max().unwrap_or(0);
        let expected = start.checked_add(end).ok_or_else(|| wrong("malformed header: offsets above 2^64".into()))?;
        if bytes < expected {
            return Err(DatasetError::Truncated { path, found: bytes, expected });
        }
        Ok(Self { path, file, tensors, start })
    }

    /// Names of its tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    pub(super) fn choose(&self, asked: Option<&str>) -> Result<String, DatasetError> {
        choose(&self.path, &self.names(), asked)
    }

    pub(super) fn tensor(&mut self, name: &str, wanted: Wanted) -> Result<ArrayFile, DatasetError> {
        let label = format!("{}: `{name}`", self.path.display());
        let wrong = |what: String| DatasetError::Input(format!("{label}: {what}"));
        let tensor = self.tensors.get(name).ok_or_else(|| wrong("no such tensor".into()))?;
        let element = match tensor.dtype.as_str() {
            "BOOL" => NpyType::Bool,
            "U8" => NpyType::U8,
            "I8" => NpyType::I8,
            "I16" => NpyType::I16,
            "U16" if wanted.dtype == Some(rudder_client::DType::Bf16) => {
                return Err(wrong("U16 is no brain float: convert it first".into()));
            }
            "U16" => NpyType::U16,
            "I32" => NpyType::I32,
            "U32" => NpyType::U32,
            "I64" => NpyType::I64,
            "U64" => NpyType::U64,
            "F16" => NpyType::F16,
            "F32" => NpyType::F32,
            "F64" => NpyType::F64,
            "BF16" => NpyType::Void2,
            other => return Err(wrong(format!("elements {other} are not stored in tables: convert the tensor first"))),
        };
        let (begin, end) = tensor.data_offsets;
        let header =
            NpyHeader { element, shape: Shape(tensor.shape.clone()), data_offset: self.start.saturating_add(begin) };
        let bytes = header.data_bytes().map_err(DatasetError::npy(Path::new(&label)))?;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(wrong(format!(
                "its shape {} is not that of its {} bytes",
                header.shape,
                end.wrapping_sub(begin)
            )));
        }
        let header =
            ForeignHeader { header, descr: tensor.dtype.clone(), is_big_endian: false, is_fortran_order: false };
        let file = self.file.try_clone().map_err(DatasetError::io(&self.path, "open"))?;
        ArrayFile::new(label, file, &header, wanted)
    }
}
