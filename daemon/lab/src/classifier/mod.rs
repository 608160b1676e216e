//! The training of classifiers: where samples come from ([`sources`]), how models are fitted ([`mod@fit`]) and how good
//! they are ([`evaluate`]). What a model is and how it decides is [`rudder_agent::classifier`]'s. Only `fit.rs` knows
//! the library.
//!
//! **It must never** let what a model was fitted to tell about what it is tested on.

pub mod evaluate;
pub mod fit;
mod mlp;
pub mod sources;

#[cfg(test)]
mod tests;
