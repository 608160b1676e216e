//! What can be wrong with a dataset. Every message names the file and says what to do next; this file must never decide
//! anything.

use std::io;
use std::path::{Path, PathBuf};

use super::blocks::BlockCacheError;
use super::distdgl::DglError;
use super::manifest::FORMAT_VERSION;
use super::npy::{NpyError, NpyType, Shape};
use super::part::Part;

/// Why a dataset cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are named after what the messages say of them
pub enum DatasetError {
    /// No manifest in the folder.
    #[error("no dataset at {}: there is no manifest.json; make one with `rudder import npy` or `rudder import edges`, or name the JSON file of a DistDGL partition as `distdgl:GRAPH.json`", .dir.display())]
    ManifestMissing { dir: PathBuf },
    /// The manifest is of a format this build does not read.
    #[error("{}: format version {found}, but this build reads only version {FORMAT_VERSION}: import the dataset again or use the Rudder that wrote it", .path.display())]
    ManifestVersion { path: PathBuf, found: String },
    /// The manifest is not JSON or not of the documented fields.
    #[error("{}: {source}: it is not a manifest of this format; copy it again or import the dataset again", .path.display())]
    ManifestSyntax { path: PathBuf, source: serde_json::Error },
    /// The manifest contradicts itself.
    #[error("{}: {what}", .path.display())]
    Manifest { path: PathBuf, what: String },
    /// A path in the manifest points out of the folder.
    #[error("{}: the path `{found}` leaves the dataset's folder: paths are relative to the manifest and without `..`", .manifest.display())]
    PathEscapes { manifest: PathBuf, found: String },
    /// Starts of ranges go down, or do not begin at 0 and end at the rows.
    #[error("{}: ranges of vertex type `{vertex_type}` are not ascending: `starts` needs parts + 1 = {expected} numbers, from 0 up to rows = {rows}, none below the one before", .path.display())]
    RangesNotAscending { path: PathBuf, vertex_type: String, expected: usize, rows: u64 },
    /// An owner in a map is not a part.
    #[error("{}: id {id} is owned by part {owner}, but there are {parts} parts (0 to {})", .path.display(), .parts - 1)]
    OwnerOutOfRange { path: PathBuf, id: u64, owner: u64, parts: u16 },
    /// Two ids share a row of a shard, or a row lies outside it.
    #[error("{}: id {id} claims row {row} of part {part}, which {why}: rows must be a one-to-one map to 0..{owned}", .path.display())]
    RowsNotBijective { path: PathBuf, id: u64, row: u64, part: Part, owned: u64, why: &'static str },
    /// The asked node is not one of the parts.
    #[error("{}: node {node} owns no part: the dataset has {parts} parts (node index 0 to {})", .path.display(), .parts - 1)]
    NodeOutOfRange { path: PathBuf, node: Part, parts: u16 },
    /// A file that the manifest names is absent.
    #[error("{}: named in the manifest but missing: copy it to this machine or import the dataset again", .path.display())]
    FileMissing { path: PathBuf },
    /// A `.npy` header cannot be read.
    #[error("{}: {source}", .path.display())]
    Npy { path: PathBuf, source: NpyError },
    /// A `.dgl` file cannot be read.
    #[error("{}: {source}", .path.display())]
    Dgl { path: PathBuf, source: DglError },
    /// A file of a DistDGL partition contradicts itself or another.
    #[error("{}: {what}", .path.display())]
    DistDgl { path: PathBuf, what: String },
    /// The header of a shard is not the manifest's shape.
    #[error("{}: its shape is {found}, but the manifest says {expected}: the two are not of one import; copy both again", .path.display())]
    ShapeMismatch { path: PathBuf, found: Shape, expected: Shape },
    /// The header of a shard is not the manifest's element type.
    #[error("{}: its elements are {found:?}, but the manifest says {expected}: the two are not of one import; copy both again", .path.display())]
    WrongDType { path: PathBuf, found: NpyType, expected: String },
    /// The file is shorter than its header promises.
    #[error("{}: truncated: {found} bytes, but its header promises {expected}: copy the file again", .path.display())]
    Truncated { path: PathBuf, found: u64, expected: u64 },
    /// The file ends before the rows that lie in it.
    #[error("{}: truncated: {found} bytes, but its rows are the {bytes} bytes from offset {offset}: copy the file again", .path.display())]
    PieceTruncated { path: PathBuf, found: u64, offset: u64, bytes: u64 },
    /// The file has another length than the manifest says.
    #[error("{}: {found} bytes, but the manifest says {expected}: copy the file again", .path.display())]
    SizeMismatch { path: PathBuf, found: u64, expected: u64 },
    /// The contents are not those the manifest was written for.
    #[error("{}: checksum mismatch: xxh3 {found:016x}, but the manifest says {expected:016x}: the file is damaged or of another dataset; copy it again", .path.display())]
    ChecksumMismatch { path: PathBuf, found: u64, expected: u64 },
    /// The manifest's shard is not what the partition book says.
    #[error("{}: table `{table}`: its shard of part {part} has {found} rows, but the partition book of `{vertex_type}` gives that part {expected}", .path.display())]
    ShardRows { path: PathBuf, table: String, vertex_type: String, part: Part, found: u64, expected: u64 },
    /// A block of the shard has no place in the block cache.
    #[error("{}: dataset.block_cache_bytes = {cache_bytes} does not hold one of its blocks of {block_bytes} bytes: raise it, or lower dataset.block_bytes ({row_bytes} bytes of a row are the least)", .path.display())]
    BlockTooLarge { path: PathBuf, cache_bytes: u64, block_bytes: u64, row_bytes: usize },
    /// There is no block cache.
    #[error("the block cache cannot be made: {0}")]
    BlockCache(#[from] BlockCacheError),
    /// The output folder holds something.
    #[error("{}: not empty: choose another folder, or pass --force to replace a dataset", .dir.display())]
    OutputExists { dir: PathBuf },
    /// The output folder holds something that is no dataset: never replaced.
    #[error("{}: not empty, and not replaced even with --force: {why}", .dir.display())]
    OutputForeign { dir: PathBuf, why: String },
    /// A caller wrote something that does not fit the table.
    #[error("table `{table}`: {what}")]
    Rows { table: String, what: String },
    /// The files of one import do not fit each other.
    #[error("{0}")]
    Input(String),
    /// A line of a text file makes no sense.
    #[error("{}:{line}: {what}", .path.display())]
    Text { path: PathBuf, line: u64, what: String },
    /// The operating system said no.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io { path: PathBuf, action: &'static str, source: io::Error },
}

impl DatasetError {
    /// Attaches path and action to an I/O error; for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    /// Attaches the path to an error of a `.npy` header; for `map_err`.
    pub fn npy(path: &Path) -> impl FnOnce(NpyError) -> Self {
        move |source| Self::Npy { path: path.to_owned(), source }
    }
}
