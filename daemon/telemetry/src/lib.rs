//! What a program of Rudder says of itself: its log ([`logging`]), spans of fetches for a collector ([`spans`]), and
//! errors with their causes ([`error_chain`]). It owns the settings of both ([`LogConfig`]).
//!
//! **It must never** make a fetch wait, nor know what is logged.

mod chain;
pub mod logging;
mod settings;
pub mod spans;

pub use chain::error_chain;
pub use settings::{LogConfig, LogFormat};
