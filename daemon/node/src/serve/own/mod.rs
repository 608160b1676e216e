//! The rows that this node owns: what was updated of them, what is read from blocks, and how peers get them. It must
//! never know of caches, trainers or the network.

pub(crate) mod blocks;
pub(crate) mod out;
pub(crate) mod owned;
pub(crate) mod source;
