//! `rudder import distdgl --strip`: a copy of a DistDGL partition for DistDGL's servers, without the features that
//! Rudder serves, which would otherwise be in memory twice. What lies beside the features is linked or copied. It must
//! never change the partition, which stays what Rudder serves.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::sink::Sink;
use crate::staging::{Staging, gate};
use crate::target::{Existing, check_target};
use crate::{Progress, Stage};
use rudder_dataset::manifest::is_inside;
use rudder_dataset::{DatasetError, DistDgl, FILE_MAGIC, FeatureFile, FilePiece};

/// Bytes are copied in pieces of this many.
const PIECE_BYTES: u64 = 4 << 20;

/// What to strip.
#[derive(Clone, Debug)]
pub struct DistDglStrip {
    /// The JSON file of the partition.
    pub graph: PathBuf,
    /// Folder to write, which must be absent or empty.
    pub out: PathBuf,
    /// Tables whose features stay; when not given, those of one number per row.
    pub keep: Option<Vec<String>>,
    /// Whether the files that hold no features are copied; else they are linked.
    pub copy: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StripSummary {
    /// The JSON file for DistDGL's servers.
    pub graph: PathBuf,
    /// Parts whose feature files are on this machine.
    pub parts: Vec<u16>,
    /// Features that DistDGL's servers still hold, by name of table.
    pub kept: Vec<String>,
    /// Features that only Rudder serves.
    pub removed: Vec<String>,
    /// Bytes of the feature files of the partition.
    pub bytes_before: u64,
    /// Bytes of the feature files that were written.
    pub bytes_after: u64,
    /// Other files, which are links unless copies were asked for.
    pub other_files: u64,
}

/// Writes the partition without the features that Rudder serves. Parts whose files are on other machines are left out.
///
/// # Errors
/// [`DatasetError`] naming the file at fault, or the name to keep that no feature has. The output folder is then as it
/// was.
pub fn strip_distdgl(strip: &DistDglStrip, progress: &Progress<'_>) -> Result<StripSummary, DatasetError> {
    let DistDgl { files, .. } = DistDgl::read(&strip.graph, None)?;
    check_target(&strip.out, Existing::Refuse)?;
    let kept = kept(&files, strip.keep.as_deref())?;
    let is_kept = |piece: &&FilePiece| kept.contains(&piece.table);
    let names = || files.iter().flat_map(|file| &file.features);
    let removed: BTreeSet<&str> = names().filter(|piece| !is_kept(piece)).map(|piece| piece.table.as_str()).collect();
    let dir = strip.graph.parent().unwrap_or_else(|| Path::new(""));
    let total: u64 = names().filter(is_kept).map(|piece| piece.bytes.end - piece.bytes.start).sum();
    let staging = Staging::create(&strip.out)?;
    let (mut before, mut after, mut done) = (0, 0, 0);
    for file in &files {
        let source = dir.join(&file.path);
        before += fs::metadata(&source).map_err(DatasetError::io(&source, "read the length"))?.len();
        after += write_features(&staging.data(), &source, file, is_kept, &mut |bytes| {
            done += bytes;
            progress(Stage::Write, done, total);
        })?;
    }
    let graph_name = strip.graph.file_name().map(PathBuf::from).unwrap_or_default();
    let other_files = write_rest(&staging.data(), dir, &graph_name, strip, &files)?;
    staging.commit(Existing::Refuse)?;
    let parts: BTreeSet<u16> = files.iter().map(|file| file.part.0).collect();
    Ok(StripSummary {
        graph: strip.out.join(graph_name),
        parts: parts.into_iter().collect(),
        removed: removed.into_iter().map(str::to_owned).collect(),
        kept: kept.into_iter().collect(),
        bytes_before: before,
        bytes_after: after,
        other_files,
    })
}

/// The tables whose features stay: those that were named, or of one number per row; and those that Rudder cannot serve.
fn kept(files: &[FeatureFile], keep: Option<&[String]>) -> Result<BTreeSet<String>, DatasetError> {
    let pieces = || files.iter().flat_map(|file| &file.features);
    if let Some(unknown) = keep.and_then(|names| names.iter().find(|name| pieces().all(|piece| piece.table != **name)))
    {
        let known: BTreeSet<&str> = pieces().map(|piece| piece.table.as_str()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        return Err(DatasetError::Input(format!(
            "--keep {unknown}: the partition has no such feature; its features are {}",
            known.join(", ")
        )));
    }
    let stays =
        |piece: &&FilePiece| !piece.is_served || keep.map_or(piece.width == 1, |names| names.contains(&piece.table));
    Ok(pieces().filter(stays).map(|piece| piece.table.clone()).collect())
}

/// Writes the features of a file that stay, as DGL writes them, and answers the file's length.
fn write_features(
    data: &Path,
    source: &Path,
    file: &FeatureFile,
    is_kept: impl Fn(&&FilePiece) -> bool,
    advance: &mut dyn FnMut(u64),
) -> Result<u64, DatasetError> {
    let input = File::open(source).map_err(DatasetError::io(source, "open"))?;
    let mut sink = Sink::create(data, &file.path)?;
    let pieces: Vec<&FilePiece> = file.features.iter().filter(is_kept).collect();
    let count = pieces.len() as u64;
    sink.write(&[FILE_MAGIC, count, count].map(u64::to_le_bytes).concat())?;
    for piece in pieces {
        copy_bytes(&input, source, piece.bytes.clone(), &mut sink, advance)?;
    }
    let written = sink.finish()?;
    sync(&data.join(&file.path))?;
    Ok(written.bytes)
}

/// Copies bytes of a file to the end of another.
fn copy_bytes(
    input: &File,
    source: &Path,
    bytes: Range<u64>,
    sink: &mut Sink,
    advance: &mut dyn FnMut(u64),
) -> Result<(), DatasetError> {
    let mut buffer = Vec::new();
    let mut at = bytes.start;
    while at < bytes.end {
        let count = PIECE_BYTES.min(bytes.end - at);
        buffer.resize(count as usize, 0);
        input.read_exact_at(&mut buffer, at).map_err(DatasetError::io(source, "read"))?;
        sink.write(&buffer)?;
        advance(count);
        at += count;
    }
    Ok(())
}

/// Links or copies the files that hold no features, and writes the JSON file last. Answers the number of the former.
fn write_rest(
    data: &Path,
    dir: &Path,
    graph_name: &Path,
    strip: &DistDglStrip,
    files: &[FeatureFile],
) -> Result<u64, DatasetError> {
    let text = fs::read(&strip.graph).map_err(DatasetError::io(&strip.graph, "read"))?;
    let mut others = 0;
    for other in other_files(&strip.graph, &text, files)? {
        let (source, target) = (dir.join(&other), data.join(&other));
        // Of a part that another machine has.
        let Ok(source) = fs::canonicalize(&source) else { continue };
        if strip.copy {
            let input = File::open(&source).map_err(DatasetError::io(&source, "open"))?;
            let length = input.metadata().map_err(DatasetError::io(&source, "read the length"))?.len();
            let mut sink = Sink::create(data, &other)?;
            copy_bytes(&input, &source, 0..length, &mut sink, &mut |_| ())?;
            sink.finish()?;
            sync(&target)?;
        } else {
            let _gate = gate();
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(DatasetError::io(parent, "create the folder"))?;
            }
            symlink(&source, &target).map_err(DatasetError::io(&target, "create the link"))?;
        }
        others += 1;
    }
    let target = data.join(graph_name);
    let _gate = gate();
    fs::write(&target, text).map_err(DatasetError::io(&target, "write"))?;
    sync(&target)?;
    Ok(others)
}

/// The files that the parts name beside their features, such as `part0/graph.dgl`.
fn other_files(graph: &Path, text: &[u8], files: &[FeatureFile]) -> Result<BTreeSet<String>, DatasetError> {
    let wrong = |what: String| DatasetError::DistDgl { path: graph.to_owned(), what };
    let whole: Value = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    let is_features = |key: &str| matches!(key, "node_feats" | "edge_feats");
    let mut others = BTreeSet::new();
    let parts = whole.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("part-"));
    for (key, value) in parts.flat_map(|(_, part)| part.as_object().into_iter().flatten()) {
        let Some(path) = value.as_str().filter(|_| !is_features(key)) else { continue };
        if !is_inside(path) {
            return Err(DatasetError::PathEscapes { manifest: graph.to_owned(), found: path.to_owned() });
        }
        if files.iter().any(|file| file.path == path) {
            return Err(wrong(format!("`{key}` is `{path}`, which holds features")));
        }
        others.insert(path.to_owned());
    }
    Ok(others)
}

/// Writes a file to the disk: the names of a partition must not outlive what they stand for.
fn sync(path: &Path) -> Result<(), DatasetError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(DatasetError::io(path, "write to disk"))
}
