//! Lays a file, the environment and flags over the defaults, and remembers where the value of each key comes from, so
//! that an error can name the line, the variable or the flag. It never reads the process environment: pairs come in
//! from the caller.

use super::{
    Config, ConfigError, WrongType,
    shape::{Shape, default_of, hint, shape_of},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

/// Where the value of a key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is the default.
    Default,
    /// A line (from 1) of a file.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A configuration that is being put together. The keys of each call win over those of the calls before it.
#[derive(Debug, Default)]
pub struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// The defaults alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or holds an unknown key or a value of the wrong type.
    pub fn file(self, path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        self.text(path, &text)
    }

    /// Takes `text` as the content of the TOML file `path`, which is used in errors only.
    ///
    /// # Errors
    /// As [`Layers::file`].
    pub fn text(mut self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let line_of = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
        let syntax = |error: &toml::de::Error| ConfigError::Syntax {
            path: path.to_path_buf(),
            line: line_of(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        };
        let values: Table = toml::from_str(text).map_err(|error| syntax(&error))?;
        let spans = DeTable::parse(text).map_err(|error| syntax(&error))?;
        let mut found = Vec::new();
        leaves(&values, spans.get_ref(), &mut Vec::new(), &mut found);
        for (key, value, offset) in found {
            let parts: Vec<&str> = key.iter().map(String::as_str).collect();
            self.set(&parts, &[value], Origin::File(path.to_path_buf(), line_of(offset)))?;
        }
        Ok(self)
    }

    /// Takes the variables named `RUDDER_SECTION__KEY` out of `variables`. Names are folded to lower case; values are
    /// TOML, or else plain text. Variables without the double underscore (such as `RUDDER_SOCKET`, the client's) are
    /// not the daemon's.
    ///
    /// # Errors
    /// If a variable names an unknown key or a value of the wrong type.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        for (variable, text) in variables {
            let Some(key) = variable.strip_prefix("RUDDER_").filter(|key| key.contains("__")) else { continue };
            let key = key.to_lowercase();
            let parts: Vec<&str> = key.split("__").collect();
            self.set(&parts, &readings(&text), Origin::Environment(variable))?;
        }
        Ok(self)
    }

    /// Takes a flag's value for `key`, such as `flag("--node-index", "node.index", "3")`.
    ///
    /// # Errors
    /// If the value is of the wrong type.
    pub fn flag(mut self, flag: &'static str, key: &str, text: &str) -> Result<Self, ConfigError> {
        let parts: Vec<&str> = key.split('.').collect();
        self.set(&parts, &readings(text), Origin::Flag(flag))?;
        Ok(self)
    }

    /// The configuration, complete and valid by itself (what needs the dataset is [`Config::validate_against`]).
    ///
    /// # Errors
    /// If a key without default is absent, or a value is out of range or contradicts another.
    pub fn finish(self) -> Result<Config, ConfigError> {
        for missing in REQUIRED {
            if let ConfigError::Missing { key, .. } = &missing
                && !self.origins.contains_key(*key)
            {
                return Err(missing);
            }
        }
        let origin = |key: &str| self.origin(key);
        let config = Config::deserialize(Value::Table(self.table.clone())).map_err(|error| {
            wrong_type(&["configuration"], &Value::Table(self.table.clone()), Origin::Default, &error)
        })?;
        config.validate().map_err(|invalid| ConfigError::Invalid { origin: origin(&invalid.key), invalid })?;
        Ok(config)
    }

    /// Whether anything but the defaults says what `key` is, or a key of the map that it is.
    #[must_use]
    pub fn says(&self, key: &str) -> bool {
        self.origins.contains_key(key)
            || self.origins.keys().any(|said| said.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Where the value of `key` comes from, or that of the map it belongs to.
    fn origin(&self, key: &str) -> Origin {
        let known = |key: &str| self.origins.get(key).cloned();
        known(key).or_else(|| key.rsplit_once('.').and_then(|(map, _)| known(map))).unwrap_or(Origin::Default)
    }

    /// Sets one key to the first of `readings` that has the right type.
    fn set(&mut self, path: &[&str], readings: &[Value], origin: Origin) -> Result<(), ConfigError> {
        for depth in 1..=path.len() {
            if matches!(shape_of(&path[..depth]), Shape::Unknown) {
                let key = path[..depth].join(".");
                return Err(ConfigError::UnknownKey { key, origin, hint: hint(&path[..depth]) });
            }
        }
        let mut first_error = None;
        for value in readings {
            match Config::deserialize(Value::Table(nested(path, value.clone()))) {
                Ok(_) => {
                    insert(&mut self.table, path, value.clone());
                    self.origins.insert(path.join("."), origin);
                    return Ok(());
                }
                Err(error) => first_error = first_error.or(Some((value, error))),
            }
        }
        match first_error {
            Some((value, error)) => Err(wrong_type(path, value, origin, &error)),
            None => Ok(()),
        }
    }
}

/// Keys without a default, each as the error for its absence.
const REQUIRED: [ConfigError; 1] = [ConfigError::Missing {
    key: "dataset.path",
    meaning: "the folder that holds manifest.json",
    example: "\"/data/graph\"",
    variable: "RUDDER_DATASET__PATH",
    flag: "--dataset",
}];

fn wrong_type(path: &[&str], value: &Value, origin: Origin, error: &toml::de::Error) -> ConfigError {
    ConfigError::WrongType(Box::new(WrongType {
        key: path.join("."),
        value: value.to_string(),
        origin,
        problem: error.message().trim().to_owned(),
        example: example_of(path),
    }))
}

/// A value of the right form: the default, or for a required key the example of [`REQUIRED`].
fn example_of(path: &[&str]) -> String {
    let key = path.join(".");
    let required = REQUIRED.iter().find_map(|missing| match missing {
        ConfigError::Missing { key: required, example, .. } if *required == key => Some(String::from(*example)),
        _ => None,
    });
    required.or_else(|| default_of(path)).map_or_else(String::new, |example| format!("; write for example `{example}`"))
}

/// How a variable or flag may be read: as TOML where it is TOML, else as plain text.
fn readings(text: &str) -> Vec<Value> {
    let as_toml = toml::from_str::<Table>(&format!("value = {text}")).ok().filter(|table| table.len() == 1);
    as_toml.and_then(|mut table| table.remove("value")).into_iter().chain([Value::String(text.to_owned())]).collect()
}

/// Collects the values of a document with their paths and the offsets of their keys; stops where the configuration has
/// a value.
fn leaves(values: &Table, spans: &DeTable<'_>, path: &mut Vec<String>, out: &mut Vec<(Vec<String>, Value, usize)>) {
    for (name, span) in spans {
        let Some(value) = values.get(name.get_ref().as_ref()) else { continue };
        path.push(name.get_ref().to_string());
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match (value, span.get_ref(), shape_of(&parts)) {
            (Value::Table(inner), DeValue::Table(inner_spans), Shape::Group(_) | Shape::Map) => {
                leaves(inner, inner_spans, path, out);
            }
            _ => out.push((path.clone(), value.clone(), name.span().start)),
        }
        path.pop();
    }
}

/// A table that holds `path` = `value` and nothing else.
fn nested(path: &[&str], value: Value) -> Table {
    let mut table = Table::new();
    insert(&mut table, path, value);
    table
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [group, rest @ ..] => {
            let inner = table.entry((*group).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
