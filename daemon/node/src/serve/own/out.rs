//! Where the rows of a fetch go. It owns the way into a trainer's memory and must never write beyond what was checked
//! when the place was given.

use parking_lot::Mutex;
use rudder_client::arena::{Mapping, Stream};
use std::sync::Arc;

/// Where the rows of one fetch go.
#[derive(Debug)]
pub(crate) enum Out {
    /// Into the trainer's shared memory, from this offset.
    Arena(Arc<Mapping>, usize),
    /// Into a buffer that follows the reply through the socket.
    Inline(Mutex<Vec<u8>>),
}

/// Writes many rows in one go.
pub(crate) enum Writer<'a> {
    /// Past the processor's caches.
    Stream(Stream<'a>, usize),
    Plain(&'a Out),
}

impl Out {
    /// A writer; `past_caches` if all rows together are more than a trainer would find in its caches anyway.
    pub(crate) fn writer(&self, past_caches: bool) -> Writer<'_> {
        match self {
            Out::Arena(mapping, start) if past_caches => Writer::Stream(mapping.stream(), *start),
            Out::Arena(..) | Out::Inline(_) => Writer::Plain(self),
        }
    }

    /// Copies `bytes` to `offset` from the start of the rows.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        match self {
            Out::Arena(mapping, start) => mapping.write(start + offset, bytes),
            Out::Inline(buffer) => buffer.lock()[offset..offset + bytes.len()].copy_from_slice(bytes),
        }
    }
}

impl Writer<'_> {
    /// Copies `bytes` to `offset` from the start of the rows. Nobody may be told before this writer is dropped.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        match self {
            Writer::Stream(stream, start) => stream.write(start + offset, bytes),
            Writer::Plain(out) => out.write(offset, bytes),
        }
    }
}
