//! The agent: watches the daemon in windows, has a controller decide, guards what it decided, has it carried out and
//! measures what it did. [`snapshot`] is what is seen, [`controller`] the interface of those who decide, [`guard`] what
//! keeps them from doing harm, [`classifier`] and [`explore`] those who learn from what was done and those who collect
//! it, [`llm`] the controller that asks a language model, [`pilot`] the loop without its clock and [`run`] with it,
//! [`journal`] the record.
//!
//! **It must never** be on the fetch path or hold anything that it waits for: an agent that is slow, absent or wrong is
//! not noticed by a trainer. It reads numbers and calls tools; how a cache works is not its business.

mod asking;
pub mod classifier;
pub mod cluster;
pub mod contrary;
pub mod controller;
pub mod explore;
pub mod guard;
pub mod journal;
pub mod llm;
pub mod metrics;
pub mod pilot;
pub mod rules;
pub mod run;
pub mod scrape;
mod settings;
pub mod snapshot;
pub mod spec;
pub mod tools;

pub use settings::AgentConfig;
