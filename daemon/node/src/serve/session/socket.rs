//! The local socket: made, guarded and accepted from. It owns the path and its permissions. It must never take the
//! place of a daemon that is alive, nor let in a user who is not allowed.

use crate::serve::error::ServeError;
use crate::serve::settings::{AllowedBy, LocalConfig, SOCKET_PATH_BYTES_MAX};
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::UnixListener;

/// A bound socket; its file goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds `local.socket` with `local.mode`; to be called inside a runtime. A stale file of a daemon that died is
    /// replaced.
    pub(crate) fn bind(config: &LocalConfig) -> Result<Self, ServeError> {
        let path = config.socket.clone();
        let fail = |doing| {
            let path = path.clone();
            move |cause| ServeError::Io { path, doing, cause }
        };
        clear_stale(&path)?;
        // Bound under a name of its own and renamed when the mode is set: nobody connects in between.
        let fresh = folder_of(&path).join(fresh_name());
        let _ = std::fs::remove_file(&fresh);
        let listener = bind_at(&fresh).map_err(fail("bind (does its folder exist, and may this user write there?)"))?;
        let mode = std::fs::Permissions::from_mode(config.mode);
        std::fs::set_permissions(&fresh, mode).map_err(fail("set its mode"))?;
        std::fs::rename(&fresh, &path).map_err(fail("put it in its place"))?;
        listener.set_nonblocking(true).map_err(fail("make it non-blocking"))?;
        let listener = UnixListener::from_std(listener).map_err(fail("listen"))?;
        Ok(Self { listener, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A name that no other socket has.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(".rudder-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Binds at `path`. Where it is too long for a socket's path, which the path in the configuration need not be, the
/// folder is named by a descriptor.
fn bind_at(path: &Path) -> io::Result<StdListener> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return StdListener::bind(path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder_of(path), flags, Mode::empty())?;
    let by_number = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string());
    StdListener::bind(by_number.join(path.file_name().unwrap_or_default()))
}

/// Removes a socket that nobody listens on.
fn clear_stale(path: &Path) -> Result<(), ServeError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ServeError::NotASocket { path: path.to_owned() }),
        _ => {}
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|cause| ServeError::Io { path: path.to_owned(), doing: "remove the stale socket", cause }),
        _ => Err(ServeError::InUse { path: path.to_owned() }),
    }
}

/// Whether the user with `uid` may connect.
pub(crate) fn is_allowed(uid: u32, config: &LocalConfig) -> bool {
    config.allowed_by == AllowedBy::Mode
        || uid == 0
        || uid == rustix::process::geteuid().as_raw()
        || config.allowed_uids.contains(&uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> LocalConfig {
        LocalConfig { socket: path.to_owned(), ..LocalConfig::default() }
    }

    #[tokio::test]
    async fn a_live_socket_is_not_taken_over_and_a_dead_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Socket::bind(&config(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Socket::bind(&config(&path)), Err(ServeError::InUse { .. })));
        drop(first);
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener that dies leaves its file");
        let again = Socket::bind(&config(&path)).unwrap();
        drop(again);
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Socket::bind(&config(&path)), Err(ServeError::NotASocket { .. })));
    }

    /// What the configuration allows can be bound, reached and is gone afterwards.
    #[tokio::test]
    async fn every_length_that_the_configuration_allows_works() {
        let dir = tempfile::tempdir().unwrap();
        let room = SOCKET_PATH_BYTES_MAX - dir.path().as_os_str().len() - 1;
        let deep = dir.path().join("d".repeat(room - 2));
        std::fs::create_dir(&deep).unwrap();
        let of_names = (90 - dir.path().as_os_str().len()..=room).map(|bytes| dir.path().join("x".repeat(bytes)));
        for path in of_names.chain([deep.join("s")]) {
            config(&path).check().unwrap();
            let socket = Socket::bind(&config(&path)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
            StdStream::connect(&path).unwrap();
            drop(socket);
            assert!(!path.exists());
        }
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0, "a name that is left behind");
        let error = config(&dir.path().join("x".repeat(room + 1))).check().unwrap_err().to_string();
        assert!(error.contains("local.socket") && error.contains("107 bytes"), "{error}");
    }

    #[test]
    fn strangers_are_not_allowed() {
        let mut config = config(Path::new("s"));
        let stranger = rustix::process::geteuid().as_raw() + 7;
        assert!(is_allowed(0, &config) && !is_allowed(stranger, &config));
        config.allowed_uids.push(stranger);
        assert!(is_allowed(stranger, &config));
        let open = LocalConfig { allowed_by: AllowedBy::Mode, allowed_uids: Vec::new(), ..config };
        assert!(is_allowed(stranger, &open));
    }
}
