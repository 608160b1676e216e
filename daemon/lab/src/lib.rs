//! Research with Rudder: recorded traces and their replay against policies, controllers and the optimum ([`replay`]),
//! and the training of classifiers ([`classifier`]). No daemon links it.
//!
//! **It must never** decide what the core decides in a running daemon, and it never prints: who calls it shows the
//! result.

pub mod classifier;
pub mod replay;
