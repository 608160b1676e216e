//! The one module of this crate that holds `unsafe`: a memfd mapped by both sides. It owns the mapping and the bounds
//! of every access to it, and must never hand out a reference to bytes that the other process may be writing.
//!
//! The daemon only copies single runs in ([`Mapping::write`]) and out ([`Mapping::read`]) and holds no reference. So a
//! client that writes to its arena during a fetch can spoil its own rows and nothing else. It cannot shrink the file
//! under the daemon either: [`Mapping::adopt`] demands the seal.
#![allow(unsafe_code)]

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Narrow ids read at once.
const NARROW_IDS: usize = 1024;

/// Bytes of a page of this machine.
pub(super) fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// A shared mapping of a sealed memfd.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping is plain memory that lives until drop; all access goes through methods that check bounds.
unsafe impl Send for Mapping {}
// SAFETY: as above; leases (client) and calls (daemon) decide who may read or write a run at a time.
unsafe impl Sync for Mapping {}

/// Why a memfd offered by a client is not mapped.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The client could truncate it while the daemon writes, which would kill the daemon.
    #[error("the arena's memfd is not sealed against shrinking: add F_SEAL_SHRINK before sending it")]
    Unsealed,
    /// The file is smaller than the client says.
    #[error("the arena's memfd holds {actual} bytes, {claimed} were announced: set its size before sending it")]
    TooSmall {
        /// Bytes announced.
        claimed: u64,
        /// Bytes there.
        actual: u64,
    },
    /// It has no bytes, or more than an address space.
    #[error("an arena of {0} bytes cannot be mapped")]
    Size(u64),
    /// The descriptor is not a memfd, or mapping failed.
    #[error("the arena's descriptor cannot be mapped (is it a memfd?): {0}")]
    Io(#[from] io::Error),
}

impl Mapping {
    /// Makes a memfd of `bytes`, seals its size and maps it.
    ///
    /// # Errors
    /// What the kernel says, for instance when memory is short.
    pub fn create(bytes: usize) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("rudder-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd, bytes)
    }

    /// Maps a memfd that a client sent, after checking its seals and its size.
    ///
    /// # Errors
    /// [`AdoptError`]; each is the client's fault, and the daemon answers it to the client.
    pub fn adopt(fd: OwnedFd, bytes: u64) -> Result<Self, AdoptError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(io::Error::from)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(AdoptError::Unsealed);
        }
        let actual = u64::try_from(rustix::fs::fstat(&fd).map_err(io::Error::from)?.st_size).unwrap_or(0);
        if actual < bytes {
            return Err(AdoptError::TooSmall { claimed: bytes, actual });
        }
        let length = usize::try_from(bytes).ok().filter(|&b| b > 0 && b < isize::MAX as usize);
        Ok(Self::map(fd, length.ok_or(AdoptError::Size(bytes))?)?)
    }

    fn map(fd: OwnedFd, bytes: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of this process.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &fd, 0)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mmap answered address 0"))?;
        Ok(Self { start, bytes, fd })
    }

    /// Where it begins in this process.
    pub(super) fn address(&self) -> usize {
        self.start.as_ptr().expose_provenance()
    }

    /// Size of the mapping.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memfd, to send along.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether `len` bytes from `offset` lie inside.
    #[must_use]
    pub fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.bytes as u64)
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.bytes), "run outside the arena");
        // SAFETY: offset is inside the mapping, as just checked.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Takes memory for the pages of `range`, which nobody has written yet, so that the kernel charges them to this
    /// process and not to who writes them first. Both ends are multiples of the page, or the second is the end of the
    /// mapping.
    ///
    /// # Panics
    /// If the range lies outside.
    pub(super) fn take_pages(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let start = self.at(range.start, range.len());
        // SAFETY: the range lies inside the mapping (checked by `at`), and populating changes no byte of it.
        let populated = unsafe { rustix::mm::madvise(start.cast::<c_void>(), range.len(), Advice::LinuxPopulateWrite) };
        // Kernels before 5.14 do not know this advice. Of other troubles the write that needs the page will tell.
        if populated == Err(Errno::INVAL) {
            range.step_by(page_bytes()).for_each(|offset| self.write(offset, &[0]));
        }
    }

    /// Copies `source` in at `offset`.
    ///
    /// # Panics
    /// If it would not fit; callers check with [`Mapping::holds`] where a request enters.
    #[inline]
    pub fn write(&self, offset: usize, source: &[u8]) {
        let target = self.at(offset, source.len());
        // SAFETY: target is valid for source.len() bytes (checked by `at`) and no reference to them exists on this
        // side; the other process may race, which spoils bytes that only it reads.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) }
    }

    /// Copies the bytes from `offset` to `out`. Each is read once.
    ///
    /// # Panics
    /// If they lie outside; callers check with [`Mapping::holds`].
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let source = self.at(offset, out.len());
        // SAFETY: source is valid for out.len() bytes (checked by `at`), `out` is memory of this process, so that the
        // two do not overlap, and any bytes make a u8; the other process may race, which spoils its own rows.
        unsafe { std::ptr::copy_nonoverlapping(source, out.as_mut_ptr(), out.len()) }
    }

    /// Appends `count` little-endian `u64` from `offset` to `out`. Each is read once, so that what is checked later is
    /// what is used, whatever the other process does meanwhile.
    ///
    /// # Panics
    /// If they lie outside; callers check with [`Mapping::holds`].
    pub fn read_ids(&self, offset: usize, count: usize, out: &mut Vec<u64>) {
        let Some(bytes) = count.checked_mul(8) else { panic!("run outside the arena") };
        let source = self.at(offset, bytes);
        out.reserve(count);
        // SAFETY: source is valid for count·8 bytes (checked by `at`), `out` has room for count more values after
        // `reserve`, the two do not overlap, and any bytes make a u64.
        unsafe {
            let end = out.as_mut_ptr().add(out.len());
            std::ptr::copy_nonoverlapping(source, end.cast::<u8>(), bytes);
            out.set_len(out.len() + count);
        }
        if cfg!(target_endian = "big") {
            let first = out.len() - count;
            out[first..].iter_mut().for_each(|id| *id = u64::from_le(*id));
        }
    }

    /// As [`Mapping::read_ids`], of little-endian `u32`.
    ///
    /// # Panics
    /// If they lie outside; callers check with [`Mapping::holds`].
    pub fn read_narrow_ids(&self, offset: usize, count: usize, out: &mut Vec<u64>) {
        let mut narrow = [0u32; NARROW_IDS];
        out.reserve(count);
        let mut done = 0;
        while done < count {
            let piece = &mut narrow[..NARROW_IDS.min(count - done)];
            self.read(offset + done * 4, bytemuck::cast_slice_mut(piece));
            out.extend(piece.iter().map(|&id| u64::from(u32::from_le(id))));
            done += piece.len();
        }
    }

    /// The `len` bytes from `offset`, for the client that leases them.
    ///
    /// # Safety
    /// Nobody, here or in the daemon, writes these bytes while the slice lives. [`super::Lease`] sees to it.
    ///
    /// # Panics
    /// If they lie outside.
    #[must_use]
    pub(super) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        // SAFETY: in bounds (checked by `at`), initialised (memfd pages are zero), unwritten (the caller's promise).
        unsafe { std::slice::from_raw_parts(self.at(offset, len), len) }
    }

    /// The `len` bytes from `offset`, writable, for the client that leases them.
    ///
    /// # Safety
    /// As [`Mapping::slice`], and nobody reads them through another reference.
    ///
    /// # Panics
    /// If they lie outside.
    #[must_use]
    #[allow(clippy::mut_from_ref, reason = "exclusive by lease, as the contract says")]
    pub(super) unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: as in `slice`, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and every borrow of it has ended.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
        debug_assert!(result.is_ok(), "munmap of our own mapping");
    }
}

/// The bytes of a lease as exclusive memory; here because it is unsafe code.
pub(super) fn lease_bytes(mapping: &Mapping, offset: usize, len: usize) -> &[u8] {
    // SAFETY: the pool leases a run to one holder at a time, and gives it out for reading only after the daemon's
    // reply, or after it was taken back from a connection that is closed.
    unsafe { mapping.slice(offset, len) }
}

/// As [`lease_bytes`], writable.
#[allow(clippy::mut_from_ref, reason = "the caller holds the lease exclusively")]
pub(super) fn lease_bytes_mut(mapping: &Mapping, offset: usize, len: usize) -> &mut [u8] {
    // SAFETY: as in `lease_bytes`; the caller has `&mut` on the lease, so no other reference exists.
    unsafe { mapping.slice_mut(offset, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_bytes() {
        let client = Mapping::create(4096).unwrap();
        let daemon = Mapping::adopt(client.fd().try_clone_to_owned().unwrap(), 4096).unwrap();
        daemon.write(64, &[1, 2, 3]);
        assert_eq!(lease_bytes(&client, 64, 3), &[1, 2, 3]);
        client.write(128, &7u64.to_le_bytes());
        client.write(136, &9u64.to_le_bytes());
        let mut ids = vec![1];
        daemon.read_ids(128, 2, &mut ids);
        assert_eq!(ids, [1, 7, 9]);
    }

    /// Pages of the mapping that are in memory, whoever asked for them.
    fn resident(mapping: &Mapping) -> u64 {
        rustix::fs::fstat(mapping.fd()).unwrap().st_blocks as u64 * 512 / page_bytes() as u64
    }

    #[test]
    fn pages_are_taken_before_anybody_writes_and_keep_their_bytes() {
        let client = Mapping::create(64 * page_bytes()).unwrap();
        client.write(100, &[7]);
        assert_eq!(resident(&client), 1);
        client.take_pages(page_bytes()..8 * page_bytes());
        assert_eq!(resident(&client), 8);
        client.take_pages(8 * page_bytes()..8 * page_bytes());
        client.take_pages(63 * page_bytes()..64 * page_bytes());
        assert_eq!(resident(&client), 9);
        assert_eq!(lease_bytes(&client, 100, 1), [7]);
    }

    #[test]
    fn an_unsealed_or_small_memfd_is_refused() {
        let open = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&open, 4096).unwrap();
        assert!(matches!(Mapping::adopt(open, 4096), Err(AdoptError::Unsealed)));
        let sealed = Mapping::create(4096).unwrap();
        let again = || sealed.fd().try_clone_to_owned().unwrap();
        assert!(matches!(Mapping::adopt(again(), 8192), Err(AdoptError::TooSmall { claimed: 8192, actual: 4096 })));
        assert!(matches!(Mapping::adopt(again(), 0), Err(AdoptError::Size(0))));
        let pipe = rustix::pipe::pipe().unwrap();
        assert!(matches!(Mapping::adopt(pipe.0, 4096), Err(AdoptError::Io(_))));
    }

    #[test]
    #[should_panic(expected = "run outside the arena")]
    fn a_write_beyond_the_end_panics_before_it_writes() {
        Mapping::create(64).unwrap().write(60, &[0; 8]);
    }
}
