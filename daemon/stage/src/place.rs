//! The places of daemons that others may find: a folder per dataset below a folder of the user's own, with sockets,
//! logs and a note of what runs there, and beside it a lock that says whether anything runs. Owns where they are, who
//! may enter, and what is cleared when their starter is gone. It must never take away what a live process holds, nor
//! use a folder that another user could have prepared.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::StageError;

/// Longest part of a dataset's name in the name of its place: paths of sockets are short.
const NAME_CHARS_MAX: usize = 24;
/// How long a lock is asked for again: those who only look hold it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// Between two askings.
const LOCK_POLL: Duration = Duration::from_millis(10);
/// Name of the note in a place.
const STATE: &str = "state.json";
/// Name of the log of a starter that runs without a terminal.
const LOG: &str = "up.log";

/// How far the daemons of a place are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// All serve.
    Ready,
    /// Told to end.
    Ending,
    /// One ended that should not have; all are stopped.
    Failed,
}

/// One daemon of a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The node whose rows it owns.
    pub node: u16,
    /// Its socket for trainers.
    pub socket: PathBuf,
    /// Its HTTP interface, `host:port`.
    pub admin: String,
    /// Its process.
    pub pid: u32,
    /// Its log.
    pub log: PathBuf,
}

/// What runs in a place, as its starter notes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The dataset.
    pub dataset: String,
    /// Fingerprint of the dataset when its daemons were started.
    pub fingerprint: String,
    /// The starter, which ends its daemons when it gets SIGTERM.
    pub pid: u32,
    /// Whether they end with the last process that uses them.
    pub shared: bool,
    /// How far the daemons are.
    pub phase: Phase,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The daemons, once they are started.
    pub nodes: Vec<NodeState>,
}

/// A place, whether anything runs there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    base: PathBuf,
    name: String,
}

/// A lock that ends with its process, whatever becomes of it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// What is removed with it, by those who hold it alone.
    remove: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.remove {
            // Fails only if it is gone.
            let _ = fs::remove_file(path);
        }
    }
}

impl Place {
    /// The place for the daemons of `dataset`; `which` tells apart those that have nothing to do with each other. Makes
    /// the folder that holds all places of this user.
    ///
    /// # Errors
    /// No folder can be made, or the one that is there is not this user's.
    pub fn of(dataset: &str, which: &str) -> Result<Self, StageError> {
        let last = dataset.rsplit('/').find(|part| !part.is_empty()).unwrap_or("dataset");
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        let short: String = last.chars().rev().take(NAME_CHARS_MAX).map(plain).collect();
        let short: String = short.chars().rev().collect();
        let hash = xxh3_64(format!("{dataset}\0{which}").as_bytes()) as u32;
        Ok(Self { base: base()?, name: format!("{}-{hash:08x}", short.trim_start_matches('.')) })
    }

    /// All places of this user in which something runs or has run.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut places = Vec::new();
        for base in bases() {
            let entries = fs::read_dir(&base).into_iter().flatten().flatten();
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            places.extend(names.map(|name| Self { base: base.clone(), name }).filter(|place| place.state().is_some()));
        }
        places.sort_by(|a, b| (&a.base, &a.name).cmp(&(&b.base, &b.name)));
        places
    }

    /// The folder with sockets, configurations and logs.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    /// The log of a starter that runs without a terminal.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder().join(LOG)
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.base.join(format!("{}.{extension}", self.name))
    }

    /// Takes the place for the starter of its daemons; `None` if another holds it.
    ///
    /// # Errors
    /// The file of the lock cannot be made.
    pub fn take(&self) -> Result<Option<Lock>, StageError> {
        self.hold("lock", FlockOperation::NonBlockingLockExclusive)
    }

    /// Notes that this process uses the daemons of the place; `None` if they are about to end for want of users.
    ///
    /// # Errors
    /// The file of the lock cannot be made.
    pub fn use_it(&self) -> Result<Option<Lock>, StageError> {
        self.hold("users", FlockOperation::NonBlockingLockShared)
    }

    /// Makes sure that nobody uses the place from now on; `None` if somebody does.
    ///
    /// # Errors
    /// The file of the lock cannot be made.
    pub fn close_to_users(&self) -> Result<Option<Lock>, StageError> {
        self.hold("users", FlockOperation::NonBlockingLockExclusive)
    }

    fn hold(&self, extension: &str, how: FlockOperation) -> Result<Option<Lock>, StageError> {
        let path = self.beside(extension);
        let alone = matches!(how, FlockOperation::NonBlockingLockExclusive);
        let failed = || StageError::file("lock", &path);
        let begun = Instant::now();
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.map_err(failed())?;
            match flock(&file, how) {
                // Who held it before may have removed it meanwhile: then the lock is of a file that nobody finds.
                Ok(()) if is_at(&file, &path) => {
                    return Ok(Some(Lock { _file: file, remove: alone.then(|| path.clone()) }));
                }
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() > LOCK_PATIENCE => return Ok(None),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_POLL),
                Err(error) => return Err(failed()(error.into())),
            }
        }
    }

    /// Whether a starter holds the place.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        let Ok(file) = File::open(self.beside("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// What the starter noted last.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        serde_json::from_slice(&fs::read(self.folder().join(STATE)).ok()?).ok()
    }

    /// What the starter noted that holds the place, if its daemons are ready. A starter that was killed leaves its
    /// note, which the next one has not cleared at the moment at which it takes the place.
    #[must_use]
    pub fn ready(&self) -> Option<State> {
        let taken = self.is_taken();
        self.state().filter(|state| taken && state.phase == Phase::Ready && is_alive(state.pid))
    }

    /// Notes what runs here, for others to read; never half a note.
    ///
    /// # Errors
    /// The disk's.
    pub fn note(&self, state: &State) -> Result<(), StageError> {
        let (path, next) = (self.folder().join(STATE), self.folder().join(format!("{STATE}.new")));
        let text = serde_json::to_vec(state).map_err(StageError::prepare("write the state of the daemons"))?;
        fs::write(&next, text).and_then(|()| fs::rename(&next, &path)).map_err(StageError::file("write", &path))
    }

    /// Makes the folder, private to this user, if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or another user's is there.
    pub fn prepare(&self) -> Result<(), StageError> {
        private_folder(&self.folder())
    }

    /// Removes what a starter left here that is gone; its log stays. For the holder of the lock only.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn clear(&self) -> Result<(), StageError> {
        for entry in fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let path = entry.path();
            let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => fs::remove_dir_all(&path),
                false if entry.file_name() == LOG => Ok(()),
                false => fs::remove_file(&path),
            };
            removed.map_err(StageError::file("remove", &path))?;
        }
        Ok(())
    }

    /// Removes the folder with all that is in it. For the holder of the lock only.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self) -> Result<(), StageError> {
        match fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StageError::file("remove", &self.folder())(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether this process runs. One that has ended and that nobody has waited for yet does not: its state follows its
/// name, in parentheses (proc(5)).
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Whether `path` names the open file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Where this user's places may be, the best first: `$XDG_RUNTIME_DIR/rudder`; as root `/run/rudder`; a folder of its
/// own below the one for temporary files.
fn candidates() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid();
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let session = session.map(|path| path.join("rudder"));
    let system = uid.is_root().then(|| PathBuf::from("/run/rudder"));
    let temporary = std::env::temp_dir().join(format!("rudder-{}", uid.as_raw()));
    session.into_iter().chain(system).chain([temporary]).collect()
}

/// Those of them that are there and this user's.
fn bases() -> Vec<PathBuf> {
    candidates().into_iter().filter(|path| path.is_dir() && private_folder(path).is_ok()).collect()
}

/// The first of them that can be had.
fn base() -> Result<PathBuf, StageError> {
    let mut last = Ok(PathBuf::new());
    for path in candidates() {
        match private_folder(&path) {
            Ok(()) => return Ok(path),
            Err(error) => last = Err(error),
        }
    }
    last
}

/// Makes a folder that only its owner enters. One that is there must be a folder of this user, which others cannot
/// write; no link is followed.
fn private_folder(path: &Path) -> Result<(), StageError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StageError::file("make", path)(error));
        }
        Err(_) => {}
    }
    let found = fs::symlink_metadata(path).map_err(StageError::file("look at", path))?;
    let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if own { Ok(()) } else { Err(StageError::Foreign { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place(base: &Path) -> Place {
        Place { base: base.to_owned(), name: "graph-0".to_owned() }
    }

    #[test]
    fn a_place_is_held_by_one_starter_and_free_when_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert!(!place.is_taken());
        let held = place.take().unwrap().unwrap();
        assert!(place.is_taken() && place.take().unwrap().is_none());
        drop(held);
        assert!(!place.is_taken());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the lock is gone with its holder");
        // As after SIGKILL: the file is there, and nobody holds it.
        fs::write(place.beside("lock"), "").unwrap();
        assert!(!place.is_taken() && place.take().unwrap().is_some());
    }

    #[test]
    fn users_keep_a_place_open_and_a_closed_one_has_no_new_users() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let (first, second) = (place.use_it().unwrap().unwrap(), place.use_it().unwrap().unwrap());
        drop(first);
        assert!(place.close_to_users().unwrap().is_none());
        drop(second);
        let closed = place.close_to_users().unwrap().unwrap();
        assert!(place.use_it().unwrap().is_none());
        drop(closed);
        assert!(place.use_it().unwrap().is_some());
    }

    #[test]
    fn what_a_killed_starter_noted_is_not_ready_for_the_next_that_takes_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        place.prepare().unwrap();
        let mut killed = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        place.note(&ready_state(killed.id())).unwrap();
        assert_eq!(place.ready(), None);
        let _taken = place.take().unwrap().unwrap();
        assert!(place.ready().is_some());
        killed.kill().unwrap();
        // It is not waited for yet: that it has ended shows in its state.
        assert!((0..6000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            place.ready().is_none()
        }));
        killed.wait().unwrap();
        assert_eq!(place.ready(), None);
    }

    fn ready_state(pid: u32) -> State {
        State {
            dataset: "/data".to_owned(),
            fingerprint: "0".to_owned(),
            pid,
            shared: false,
            phase: Phase::Ready,
            reason: String::new(),
            nodes: Vec::new(),
        }
    }

    #[test]
    fn what_a_dead_starter_left_is_cleared_but_for_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        place.prepare().unwrap();
        assert_eq!(fs::metadata(place.folder()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(place.folder().join("certs")).unwrap();
        fs::write(place.folder().join("certs/ca.key"), "x").unwrap();
        fs::write(place.log(), "words").unwrap();
        let state = ready_state(1);
        place.note(&state).unwrap();
        assert_eq!(place.state(), Some(state));
        place.clear().unwrap();
        assert_eq!((place.state(), fs::read_dir(place.folder()).unwrap().count()), (None, 1));
        place.remove().unwrap();
        place.remove().unwrap();
    }

    #[test]
    fn a_folder_that_others_may_write_or_a_link_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (open, link) = (folder.path().join("open"), folder.path().join("link"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        for path in [open, link] {
            let error = private_folder(&path).unwrap_err().to_string();
            assert!(error.contains("is not a folder of this user alone"), "{error}");
        }
    }
}
