//! What may become of the folder that a dataset is written to. A folder is replaced only if it is a dataset and holds
//! nothing else. It must never change anything.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rudder_dataset::DatasetError;
use rudder_dataset::manifest::{MANIFEST_FILE, Manifest};

/// Foreign files that a message names.
const NAMED_MAX: usize = 3;

/// What may become of a folder that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It must be absent or empty.
    Refuse,
    /// It may be a dataset, which is replaced when the new one is complete. Files that are not of the dataset keep it
    /// from being replaced.
    Replace,
}

/// Where a dataset goes when `dir` is asked for: `dir` itself, or what it links to.
pub(crate) fn resolve(dir: &Path) -> Result<PathBuf, DatasetError> {
    let is_link = fs::symlink_metadata(dir).is_ok_and(|metadata| metadata.is_symlink());
    let target =
        if is_link { fs::canonicalize(dir).map_err(DatasetError::io(dir, "follow the link"))? } else { dir.to_owned() };
    if target.file_name().is_none() {
        return Err(DatasetError::Input(format!("{}: name a folder to write the dataset to", dir.display())));
    }
    Ok(target)
}

/// The folder that holds `target`.
pub(crate) fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails when `dir` may not become a dataset: to be asked before long work, and again before it is replaced.
pub(crate) fn check_target(dir: &Path, existing: Existing) -> Result<(), DatasetError> {
    let target = resolve(dir)?;
    if is_absent_or_empty(&target)? {
        return check_mount(&target);
    }
    match existing {
        Existing::Refuse => Err(DatasetError::OutputExists { dir: dir.to_owned() }),
        Existing::Replace => check_mount(&target).and_then(|()| check_replaceable(&target)),
    }
}

pub(crate) fn is_absent_or_empty(target: &Path) -> Result<bool, DatasetError> {
    match fs::read_dir(target) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(DatasetError::io(target, "read the folder")(source)),
    }
}

/// A dataset is renamed into its place, which a mount point does not allow.
fn check_mount(target: &Path) -> Result<(), DatasetError> {
    match (fs::metadata(target), fs::metadata(parent(target))) {
        (Ok(own), Ok(above)) if own.dev() != above.dev() => Err(DatasetError::Input(format!(
            "{}: a file system is mounted here, and a dataset is renamed into its place: choose a folder inside it",
            target.display()
        ))),
        _ => Ok(()),
    }
}

/// Fails unless `dir` is a dataset and nothing else.
pub(crate) fn check_replaceable(dir: &Path) -> Result<(), DatasetError> {
    let foreign = |why: String| DatasetError::OutputForeign { dir: dir.to_owned(), why };
    let manifest = match Manifest::load(dir) {
        Ok(manifest) => manifest,
        Err(DatasetError::ManifestMissing { .. }) => {
            return Err(foreign(format!("it is not a dataset: there is no {MANIFEST_FILE}")));
        }
        Err(error) => {
            return Err(foreign(format!("it is not a dataset that this build can read ({error})")));
        }
    };
    let mut owned: BTreeSet<PathBuf> = manifest.files().map(|file| plain(&file.path)).collect();
    owned.insert(MANIFEST_FILE.into());
    let folders: BTreeSet<PathBuf> =
        owned.iter().flat_map(|file| file.ancestors().skip(1).map(Path::to_owned)).collect();
    let mut found = Foreign::default();
    found.look(dir, Path::new(""), &owned, &folders)?;
    if found.count == 0 {
        return Ok(());
    }
    let more = found.count - found.names.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(foreign(format!("it holds what is not of the dataset: {}{more}; move that elsewhere", found.names.join(", "))))
}

/// A path of the manifest without `.`.
fn plain(path: &str) -> PathBuf {
    Path::new(path).components().filter(|component| matches!(component, Component::Normal(_))).collect()
}

/// Entries of a folder that the manifest does not name.
#[derive(Default)]
struct Foreign {
    names: Vec<String>,
    count: u64,
}

impl Foreign {
    fn look(
        &mut self,
        dir: &Path,
        below: &Path,
        owned: &BTreeSet<PathBuf>,
        folders: &BTreeSet<PathBuf>,
    ) -> Result<(), DatasetError> {
        let here = dir.join(below);
        let unreadable = || DatasetError::io(&here, "read the folder");
        for entry in fs::read_dir(&here).map_err(unreadable())? {
            let entry = entry.map_err(unreadable())?;
            let kind = entry.file_type().map_err(unreadable())?;
            let relative = below.join(entry.file_name());
            if kind.is_dir() && folders.contains(&relative) {
                self.look(dir, &relative, owned, folders)?;
            } else if kind.is_dir() || !(owned.contains(&relative) || kind.is_symlink() && folders.contains(&relative))
            {
                // A link is removed, what it links to is not.
                self.count += 1;
                if self.names.len() < NAMED_MAX {
                    self.names.push(relative.display().to_string());
                }
            }
        }
        Ok(())
    }
}
