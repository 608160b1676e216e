//! The hint that makes random gathers fast: ask for a cache line before it is needed. It reads nothing.
#![allow(unsafe_code)]

/// Asks the processor to load the line at `address`; any address is allowed, nothing is read or faulted.
#[inline]
pub fn line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it cannot fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the lines of `row`, at most the first `LINES_MAX`: the hardware sees the run and loads the rest by itself.
#[inline]
pub fn row(row: &[u8]) {
    const LINE_BYTES: usize = 64;
    const LINES_MAX: usize = 2;
    for at in (0..row.len().min(LINES_MAX * LINE_BYTES)).step_by(LINE_BYTES) {
        line(row[at..].as_ptr());
    }
}
