//! The parts of `rudderd` and of `rudder`, bottom first: [`config`], [`dataset`] and [`cache`] know nobody; [`peers`]
//! stands on the dataset, [`lookahead`] on the cache, [`agent`] on the words of [`tools`] alone, and [`replay`] drives cache,
//! lookahead and agent along a recorded trace; [`serve`] puts them together for the trainers of a node; [`admin`] shows all of it to operators; [`cli`] holds the
//! subcommands. Dependencies point up this list only (see `docs/architecture.md`).

pub mod admin;
pub mod agent;
pub mod cache;
pub mod cli;
pub mod config;
pub mod dataset;
pub mod lifecycle;
pub mod logging;
pub mod lookahead;
pub mod memory;
pub mod node;
pub mod peers;
pub mod recording;
pub mod replay;
pub mod serve;
pub mod telemetry;
pub mod tools;
