//! config
pub mod peers;
