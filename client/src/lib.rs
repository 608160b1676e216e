//! Client of `rudderd`.

mod dtype;

pub use dtype::{DType, UnknownDType};
