//! The deciding half of Rudder: what a node's cache keeps, and what is fetched ahead of need.
//!
//! [`cache`] holds rows and decides who is replaced, [`lookahead`] what announced batches need and when, [`optimum`] is the
//! bound that no policy beats.
//!
//! **It must never** do I/O, read a clock or draw randomness of its own: time, seeds and events come in as arguments, so that a
//! daemon, a replay of a trace and a simulation take the same decisions.

pub mod cache;
pub mod lookahead;
pub mod optimum;
pub mod progress;
