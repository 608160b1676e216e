//! Where the rows of a fetch go. It owns the way into a trainer's memory and must never write beyond what was checked
//! when the place was given.

use parking_lot::Mutex;
use rudder_client::arena::Mapping;
use std::sync::Arc;

/// Where the rows of one fetch go.
#[derive(Debug)]
pub(crate) enum Out {
    /// Into the trainer's shared memory, from this offset.
    Arena(Arc<Mapping>, usize),
    /// Into a buffer that follows the reply through the socket.
    Inline(Mutex<Vec<u8>>),
}

impl Out {
    /// Copies `bytes` to `offset` from the start of the rows.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        match self {
            Out::Arena(mapping, start) => mapping.write(start + offset, bytes),
            Out::Inline(buffer) => buffer.lock()[offset..offset + bytes.len()].copy_from_slice(bytes),
        }
    }
}
