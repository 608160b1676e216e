//! `rudder demo`.
mod debian;
mod error;
mod features;
mod gemm;
mod graph;
mod powerlaw;
mod rng;
mod sage;
mod sampler;
