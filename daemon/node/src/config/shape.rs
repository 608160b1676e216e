//! Which keys exist: taken from the defaults, so that a new field needs no second list. It must never judge a value.

use super::{Config, TableCacheConfig};
use serde::Serialize;
use serde_json::Value;

/// What stands at a path of the configuration.
pub(super) enum Shape {
    /// A group with exactly these keys.
    Group(Vec<String>),
    /// A map whose keys the operator chooses (`peers.addresses`, `cache.tables`).
    Map,
    /// A value.
    Leaf,
    /// Nothing: the last part of the path is unknown.
    Unknown,
}

/// What stands at `path` (without section: the root).
pub(super) fn shape_of(path: &[&str]) -> Shape {
    match path {
        ["cache", "tables", _] => group(&json(&TableCacheConfig::default())),
        ["cache", "tables", _, key] => known(&json(&TableCacheConfig::default()), key),
        [section, map, ..] if path.len() > 2 && matches!(shape_of(&[section, map]), Shape::Map) => Shape::Leaf,
        _ => {
            let mut at = json(&Config::default());
            for part in path {
                match at.get_mut(*part) {
                    Some(inner) => at = inner.take(),
                    None => return Shape::Unknown,
                }
            }
            match (&at, path.len()) {
                (Value::Object(_), 0 | 1) => group(&at),
                (Value::Object(_), _) => Shape::Map,
                _ => Shape::Leaf,
            }
        }
    }
}

/// Says which key was probably meant by the last part of `path`: the nearest name in the same group, else the same name
/// in another section, else the names of the group.
pub(super) fn hint(path: &[&str]) -> String {
    let Some((name, group)) = path.split_last() else { return String::from("an empty key") };
    let Shape::Group(known) = shape_of(group) else { return String::from("there are no keys below this one") };
    let full = |name: &str| group.iter().copied().chain([name]).collect::<Vec<_>>().join(".");
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= (name.len() / 3).max(1));
    if let Some((_, nearest)) = nearest {
        return format!("did you mean `{}`?", full(nearest));
    }
    let elsewhere: Vec<String> = sections()
        .into_iter()
        .filter(|section| matches!(shape_of(&[section, name]), Shape::Leaf | Shape::Map))
        .map(|section| format!("`{section}.{name}`"))
        .collect();
    if !elsewhere.is_empty() {
        return format!("did you mean {}?", elsewhere.join(" or "));
    }
    format!("known here are {}", known.join(", "))
}

/// The default of the key at `path` as TOML; `None` for a key that is not set by default.
pub(super) fn default_of(path: &[&str]) -> Option<String> {
    let mut at = toml::Value::try_from(Config::default()).ok()?;
    for part in path {
        at = at.get(part)?.clone();
    }
    Some(at.to_string())
}

fn sections() -> Vec<String> {
    match shape_of(&[]) {
        Shape::Group(sections) => sections,
        _ => Vec::new(),
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn group(value: &Value) -> Shape {
    Shape::Group(value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default())
}

fn known(value: &Value, key: &str) -> Shape {
    if value.get(key).is_some() { Shape::Leaf } else { Shape::Unknown }
}
