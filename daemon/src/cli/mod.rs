//! cli
mod demo;
