//! Long arrays of zeros that take memory by the page, where they are first written, and address space otherwise: more
//! of it than the machine has memory, too, which an allocator would refuse. It owns the mapping. With [`super::slab`]
//! and [`super::prefetch`] it is the only place in the cache that holds `unsafe` code.
#![allow(unsafe_code)]

use bytemuck::Zeroable;
use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;

/// `len` values that are zero until they are written; for atomics, which are written through a shared reference.
#[derive(Debug)]
pub struct Zeros<T> {
    map: Option<MmapRaw>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Zeroable> Zeros<T> {
    /// An array of `len` zeros.
    ///
    /// # Errors
    /// What the kernel says when there is no address space.
    pub fn new(len: usize) -> io::Result<Self> {
        let too_many = || io::Error::other(format!("{len} entries are beyond an address space"));
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(too_many)?;
        let map = || MmapOptions::new().len(bytes).no_reserve_swap().map_anon().map(MmapRaw::from);
        Ok(Self { map: (bytes > 0).then(map).transpose()?, len, of: PhantomData })
    }
}

impl<T: Zeroable> Deref for Zeros<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        let Some(map) = &self.map else { return &[] };
        // SAFETY: the mapping holds `len` values of T, begins at a page and so is aligned for it, is zero where it was
        // never written, which is a T, and lives as long as the slice. Nobody writes it but through such slices.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<T>(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn zeros_beyond_all_memory_are_zero_and_can_be_written() {
        let zeros: Zeros<AtomicU64> = Zeros::new(1 << 38).unwrap();
        assert_eq!(zeros.len(), 1 << 38);
        let last = zeros.last().unwrap();
        assert_eq!(last.swap(7, Ordering::Relaxed), 0);
        assert_eq!((zeros[(1 << 38) - 1].load(Ordering::Relaxed), zeros[5].load(Ordering::Relaxed)), (7, 0));
        assert!(Zeros::<AtomicU64>::new(0).unwrap().is_empty());
        assert!(Zeros::<AtomicU64>::new(usize::MAX).is_err());
    }
}
