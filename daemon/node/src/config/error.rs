//! What can be wrong with a configuration. Every error names the key, where its value comes from, and what to write
//! instead.

use super::Origin;
use rudder_settings::Invalid;
use std::path::PathBuf;

/// A value of the wrong type or form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} ({origin}): {problem}{example}")]
pub struct WrongType {
    /// The key with its section.
    pub key: String,
    /// The value, as TOML.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What is wrong with it.
    pub problem: String,
    /// An example of the right form, as the last clause of the message; empty where there is no example.
    pub example: String,
}

/// What can be wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: check the path given to --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{}:{line}: not TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The message of the parser.
        message: String,
    },
    /// There is no such key.
    #[error("unknown key `{key}` ({origin}): {hint}")]
    UnknownKey {
        /// The key with its section.
        key: String,
        /// Where it comes from.
        origin: Origin,
        /// The nearest known key, or the keys there are.
        hint: String,
    },
    /// The value has the wrong type or form.
    #[error("{0}")]
    WrongType(Box<WrongType>),
    /// The value is out of range or contradicts another.
    #[error("{invalid} ({origin})")]
    Invalid {
        /// The key, its value, the problem and the remedy.
        invalid: Invalid,
        /// Where it comes from.
        origin: Origin,
    },
    /// A key without a default is absent.
    #[error(
        "{key} is not set and has no default ({meaning}): write `{key} = {example}`, set {variable}, or pass {flag}"
    )]
    Missing {
        /// The key with its section.
        key: &'static str,
        /// What it means.
        meaning: &'static str,
        /// An example value.
        example: &'static str,
        /// The environment variable that sets it.
        variable: &'static str,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The configuration cannot be written as TOML.
    #[error("the configuration cannot be written as TOML: a path in it is not valid UTF-8")]
    NotText {
        /// The error of the serializer.
        source: toml::ser::Error,
    },
}
