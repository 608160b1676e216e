//! Tests of replay.
mod generate;
