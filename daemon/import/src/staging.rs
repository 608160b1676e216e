//! The hidden folder beside the target in which a dataset grows until it takes the target's name: a reader sees the
//! whole dataset or none. Owns its lock, by which the next import knows that the process is gone, and its removal, also
//! when a signal ends the process. It must never remove a folder that it did not make, nor one that is no dataset.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::target::{Existing, check_replaceable, is_absent_or_empty, parent, resolve};
use rudder_dataset::DatasetError;

/// First words of the lock file: what else lies in a folder of such a name is somebody else's.
const LOCK_TEXT: &str = "An import of Rudder writes here; if none is running, the next one removes this folder.\n";

/// Names that are tried until one is free.
const ATTEMPTS_MAX: u32 = 16;

/// Inside the hidden folder: the dataset, the dataset that it replaces, the lock.
const DATA: &str = "data";
const OLD: &str = "old";
const LOCK: &str = "lock";

/// The hidden folders of this process. Whoever makes a file in one, renames or removes one holds this lock.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Held while something is made below a hidden folder.
pub(crate) fn gate() -> MutexGuard<'static, Vec<PathBuf>> {
    // A panic of another thread leaves the list as it was.
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what unfinished imports of this process have written; true if there was any. For a process that a signal is
/// about to end: from now on, writers block.
pub fn abandon() -> bool {
    let folders = gate();
    for folder in folders.iter() {
        let _ = remove(folder);
    }
    let was_any = !folders.is_empty();
    // No file may be made after this, and no dataset may take its name.
    std::mem::forget(folders);
    was_any
}

/// A hidden folder, removed on drop.
#[derive(Debug)]
pub(crate) struct Staging {
    folder: PathBuf,
    target: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

impl Staging {
    /// Makes the folder beside the target of `dir`, and removes those of imports that were killed.
    pub(crate) fn create(dir: &Path) -> Result<Self, DatasetError> {
        let target = resolve(dir)?;
        let above = parent(&target);
        fs::create_dir_all(above).map_err(DatasetError::io(above, "create the folder"))?;
        remove_leftovers(&target);
        let mut folders = gate();
        for _ in 0..ATTEMPTS_MAX {
            let folder = above.join(format!("{}{:08x}", prefix(&target), fastrand::u32(..)));
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(DatasetError::io(&folder, "create the folder")(source)),
            }
            // Another import may take the folder for a leftover until it is locked.
            match locked(&folder) {
                Ok(Some(lock)) => {
                    folders.push(folder.clone());
                    return Ok(Self { folder, target, _lock: lock });
                }
                Ok(None) => {}
                Err(source) => {
                    let _ = remove(&folder);
                    return Err(DatasetError::io(&folder, "write into the folder")(source));
                }
            }
        }
        Err(DatasetError::Input(format!("{}: found no free name beside it for a hidden folder", target.display())))
    }

    /// The folder that becomes the dataset.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    /// Gives the dataset its name. What is there is looked at again.
    pub(crate) fn commit(self, existing: Existing) -> Result<(), DatasetError> {
        let mut folders = gate();
        let (data, target) = (self.data(), &self.target);
        if existing == Existing::Refuse || is_absent_or_empty(target)? {
            // This rename replaces an empty folder and nothing else.
            fs::rename(&data, target).map_err(|source| match source.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    DatasetError::OutputExists { dir: target.clone() }
                }
                _ => DatasetError::io(target, "give the dataset its name")(source),
            })?;
        } else {
            self.replace(&data)?;
        }
        // What is left is the dataset that was replaced, and the lock. Where that cannot be removed now (NFS keeps an
        // open file), the next import does it.
        let _ = remove(&self.folder);
        folders.retain(|folder| *folder != self.folder);
        Ok(())
    }

    fn replace(&self, data: &Path) -> Result<(), DatasetError> {
        let target = &self.target;
        check_replaceable(target)?;
        match renameat_with(CWD, data, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => {
                // `data` is the old dataset now, where nobody adds a file: a last look at what would be lost.
                if let Err(error) = check_replaceable(data) {
                    let back = renameat_with(CWD, data, CWD, target, RenameFlags::EXCHANGE);
                    back.map_err(|errno| DatasetError::io(target, "put the folder back")(errno.into()))?;
                    return Err(renamed(error, target));
                }
                Ok(())
            }
            // File systems that cannot exchange.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                self.replace_in_two_steps(data)
            }
            Err(errno) => Err(DatasetError::io(target, "give the dataset its name")(errno.into())),
        }
    }

    /// A process that is killed between the steps leaves the old dataset as `old`: the next import puts it back.
    fn replace_in_two_steps(&self, data: &Path) -> Result<(), DatasetError> {
        let (target, old) = (&self.target, self.folder.join(OLD));
        fs::rename(target, &old).map_err(DatasetError::io(target, "move the old dataset away"))?;
        let renamed = check_replaceable(&old)
            .map_err(|error| renamed(error, target))
            .and_then(|()| fs::rename(data, target).map_err(DatasetError::io(target, "give the dataset its name")));
        if renamed.is_err() {
            fs::rename(&old, target).map_err(DatasetError::io(target, "put the old dataset back"))?;
        }
        renamed
    }
}

/// The folder was looked at under another name.
fn renamed(error: DatasetError, target: &Path) -> DatasetError {
    match error {
        DatasetError::OutputForeign { why, .. } => DatasetError::OutputForeign { dir: target.to_owned(), why },
        other => other,
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let mut folders = gate();
        if folders.contains(&self.folder) {
            let _ = remove(&self.folder);
            folders.retain(|folder| *folder != self.folder);
        }
    }
}

/// Names of the hidden folders of a target begin with this.
fn prefix(target: &Path) -> String {
    format!(".{}.partial-", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Makes the lock file and what it guards; `None` when another import has removed the folder.
fn locked(folder: &Path) -> io::Result<Option<File>> {
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    let path = folder.join(LOCK);
    let mut lock = match File::create_new(&path) {
        Ok(lock) => lock,
        Err(error) => return gone(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        // Without locks nobody takes the folder for a leftover.
        Ok(()) | Err(rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    lock.write_all(LOCK_TEXT.as_bytes())?;
    match fs::create_dir(folder.join(DATA)) {
        Ok(()) => {}
        Err(error) => return gone(error),
    }
    match fs::metadata(&path) {
        Ok(found) if found.ino() == lock.metadata()?.ino() => Ok(Some(lock)),
        Ok(_) => Ok(None),
        Err(error) => gone(error),
    }
}

/// Removes the hidden folders of imports of `target` whose process is gone. What cannot be removed stays for the next.
fn remove_leftovers(target: &Path) {
    let prefix = prefix(target);
    let Ok(entries) = fs::read_dir(parent(target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let tag = name.strip_prefix(&prefix).unwrap_or_default();
        if tag.len() == 8 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let _ = remove_leftover(&entry.path(), target);
        }
    }
}

fn remove_leftover(folder: &Path, target: &Path) -> io::Result<()> {
    let lock = match File::options().read(true).write(true).open(folder.join(LOCK)) {
        Ok(lock) => lock,
        // Killed before the lock was made or after it was removed: then the folder is empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::remove_dir(folder),
        Err(error) => return Err(error),
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let mut text = String::new();
    (&lock).take(LOCK_TEXT.len() as u64).read_to_string(&mut text)?;
    if !LOCK_TEXT.starts_with(&text) {
        return Ok(());
    }
    let old = folder.join(OLD);
    if old.exists() && !target.exists() {
        fs::rename(old, target)?;
    }
    remove(folder)
}

/// Removes a hidden folder, the lock last: what is left of it when this is cut short is known by its lock.
fn remove(folder: &Path) -> io::Result<()> {
    for name in [DATA, OLD] {
        match fs::remove_dir_all(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_file(folder.join(LOCK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A folder as an import leaves it that was killed: nobody holds its lock.
    fn leftover(above: &Path, name: &str) -> PathBuf {
        let folder = above.join(name);
        fs::create_dir_all(folder.join("data/tables")).unwrap();
        fs::write(folder.join("data/tables/part0.npy"), b"rows").unwrap();
        fs::write(folder.join("lock"), LOCK_TEXT).unwrap();
        folder
    }

    #[test]
    fn leftovers_of_killed_imports_go_and_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        let target = above.path().join("ds");
        leftover(above.path(), ".ds.partial-0123abcd");
        // Killed at once, killed while it was removed.
        fs::create_dir(above.path().join(".ds.partial-00000000")).unwrap();
        // Of another dataset, of somebody else, not locked by us, no tag.
        leftover(above.path(), ".other.partial-0123abcd");
        let foreign = above.path().join(".ds.partial-11111111");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.tex"), b"years of work").unwrap();
        let named = leftover(above.path(), ".ds.partial-22222222");
        fs::write(named.join("lock"), b"my own lock").unwrap();
        leftover(above.path(), ".ds.partial-notatag!");
        let running = Staging::create(&target).unwrap();
        let second = Staging::create(&target).unwrap();
        let own = [&running, &second].map(|s| s.folder.file_name().unwrap().to_string_lossy().into_owned());
        let mut expected = vec![
            ".ds.partial-11111111".to_owned(),
            ".ds.partial-22222222".to_owned(),
            ".ds.partial-notatag!".to_owned(),
            ".other.partial-0123abcd".to_owned(),
        ];
        expected.extend(own);
        expected.sort();
        assert_eq!(names(above.path()), expected);
        drop((running, second));
        assert_eq!(names(above.path()).len(), 4);
    }

    #[test]
    fn a_dataset_that_was_moved_away_comes_back() {
        let above = tempfile::tempdir().unwrap();
        let folder = leftover(above.path(), ".ds.partial-0123abcd");
        fs::create_dir(folder.join("old")).unwrap();
        fs::write(folder.join("old/manifest.json"), b"{}").unwrap();
        drop(Staging::create(&above.path().join("ds")).unwrap());
        assert_eq!(names(above.path()), ["ds"]);
        assert_eq!(fs::read(above.path().join("ds/manifest.json")).unwrap(), b"{}");
    }
}
