//! `rudder init`: a configuration of `rudderd` with every key, its default and what it means. Owns the form of that
//! file. The words are those of docs/configuration.md, which is compiled in; the values are the daemon's own defaults.
//! It must never write a value over which the daemon and the page disagree.

use std::fmt::Write as _;
use std::path::PathBuf;

use rudder_daemon::config::Config;
use serde_json::Value;

use super::{CliError, style};

/// The page that explains every key; a test of the daemon holds it against the configuration.
const PAGE: &str = include_str!("../../../docs/configuration.md");
/// Widest line of a comment.
const COLUMNS_MAX: usize = 100;

/// Arguments of `rudder init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// File to write; by default the configuration is printed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder of the dataset, to fill in (dataset.path)
    #[arg(long, value_name = "DATASET")]
    dataset: Option<String>,
    /// Overwrite the file
    #[arg(long, requires = "out")]
    force: bool,
    /// Print where the file is, or the keys with their defaults and meanings, as JSON
    #[arg(long)]
    json: bool,
}

/// One key of the configuration.
#[derive(Debug, serde::Serialize)]
struct Key {
    section: String,
    key: String,
    /// As TOML; none where the key is not set by default.
    default: Option<String>,
    meaning: String,
}

/// Writes or prints the configuration.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn run(args: &InitArgs) -> Result<(), CliError> {
    let keys = keys()?;
    let text = configuration(&keys, args.dataset.as_deref());
    let Some(path) = &args.out else {
        return if args.json { style::print_json(&keys) } else { style::print(&text) };
    };
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).create_new(!args.force);
    let written = options.open(path).and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            CliError::message(format!("{} exists; choose another file, or overwrite it with --force", path.display()))
        }
        _ => CliError::context(format!("cannot write {}", path.display()), error),
    })?;
    if args.json {
        return style::print_json_line(&serde_json::json!({ "configuration": path }));
    }
    let place = path.display();
    let next = match args.dataset {
        Some(_) => String::new(),
        None => "fill in dataset.path, then ".to_owned(),
    };
    style::print(&format!("{place}\nnext: {next}rudderd --check --config {place}\n"))
}

/// All keys, in the order of the page.
fn keys() -> Result<Vec<Key>, CliError> {
    let defaults = serde_json::to_value(Config::default())?;
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in PAGE.lines() {
        if let Some(name) = line.strip_prefix("## `[").and_then(|rest| rest.strip_suffix("]`")) {
            section = name.to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", key, _, meaning, ""] = cells[..] else { continue };
        let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`')) else { continue };
        let default = defaults.get(&section).and_then(|of| of.get(key));
        // A row of another table of the page, or a key of a map, which the row of its map explains.
        if default.is_none() && !key.contains('.') {
            continue;
        }
        let (section, key) = (section.clone(), key.to_owned());
        keys.push(Key { section, key, default: default.and_then(as_toml), meaning: words(meaning) });
    }
    Ok(keys)
}

/// A default as TOML; the strings, numbers and lists of the configuration are written there as in JSON.
fn as_toml(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        other => Some(other.to_string()),
    }
}

/// The meaning as plain text: links become what they say.
fn words(meaning: &str) -> String {
    let mut text = String::new();
    let mut rest = meaning;
    while let Some((before, after)) = rest.split_once('[') {
        text.push_str(before);
        match after.split_once("](").and_then(|(label, after)| Some((label, after.split_once(')')?.1))) {
            Some((label, after)) if !label.contains(']') => {
                text.push_str(label);
                rest = after;
            }
            _ => {
                text.push('[');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text.replace('`', "")
}

/// The file: defaults as comments, so that a later version's defaults hold where nobody chose another value.
fn configuration(keys: &[Key], dataset: Option<&str>) -> String {
    let mut out = String::from(
        "# Configuration of rudderd. Lines that begin with a single `#` before a key are its default: remove the `#` to \
         change\n# it. `rudderd --check --config FILE` says whether the file can be used.\n",
    );
    let mut section = "";
    for key in keys {
        if key.section != section {
            section = &key.section;
            // Writing to a String cannot fail, here and below.
            let _ = write!(out, "\n[{section}]\n");
        }
        out.push('\n');
        wrap(&mut out, &key.meaning);
        let _ = match (&key.default, key.section.as_str(), key.key.as_str(), dataset) {
            (_, "dataset", "path", Some(path)) => writeln!(out, "path = {}", Value::from(path)),
            (_, "dataset", "path", None) => writeln!(out, "path = \"\"  # required"),
            (Some(default), ..) => writeln!(out, "#{} = {default}", key.key),
            (None, ..) => writeln!(out, "# {} is not set.", key.key),
        };
    }
    out
}

/// A comment of several lines.
fn wrap(out: &mut String, text: &str) {
    let mut width = usize::MAX;
    for word in text.split_whitespace() {
        if width.saturating_add(1 + word.chars().count()) > COLUMNS_MAX {
            let begin = if width == usize::MAX { "# " } else { "\n# " };
            out.push_str(begin);
            width = 2;
        } else {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += word.chars().count();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_daemon::config::Layers;
    use std::path::Path;

    fn read(text: &str) -> Config {
        Layers::new().text(Path::new("rudderd.toml"), text).unwrap().finish().unwrap()
    }

    fn expected() -> Config {
        let mut config = Config::default();
        config.dataset.path = "/data/graph".into();
        config
    }

    #[test]
    fn the_file_holds_every_key_and_is_the_defaults() {
        let keys = keys().unwrap();
        let text = configuration(&keys, Some("/data/graph"));
        assert_eq!(read(&text), expected());
        let defaults = serde_json::to_value(Config::default()).unwrap();
        for (section, of) in defaults.as_object().unwrap() {
            for key in of.as_object().unwrap().keys() {
                assert!(keys.iter().any(|it| (&it.section, &it.key) == (section, key)), "{section}.{key}");
            }
        }
    }

    /// What stands there as a default is the daemon's default, key by key.
    #[test]
    fn the_defaults_that_are_shown_are_those_of_the_daemon() {
        let text = configuration(&keys().unwrap(), Some("/data/graph"));
        let is_default = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        assert!(text.lines().filter(is_default).count() > 80, "{text}");
        let uncommented: String =
            text.lines().map(|line| format!("{}\n", if is_default(&line) { &line[1..] } else { line })).collect();
        assert_eq!(read(&uncommented), expected());
    }

    #[test]
    fn what_is_required_is_asked_for() {
        let text = configuration(&keys().unwrap(), None);
        let error = Layers::new().text(Path::new("f"), &text).unwrap().finish().unwrap_err().to_string();
        assert!(error.contains("dataset.path = \"\": empty"), "{error}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS_MAX + 20), "{text}");
        assert!(!text.contains("](") && !text.contains('`') || text.contains("single `#`"), "{text}");
    }
}
