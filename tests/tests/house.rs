//! The rules of the house that no lint knows, checked over the sources. A failure names the file.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A file that passes this is asking to be two.
const LINES_MAX: usize = 500;

/// Widest comment line, in columns: rustfmt wraps code there, but no comments.
const COMMENT_COLUMNS_MAX: usize = 120;

/// The only files that may switch the lint `unsafe_code` off.
const UNSAFE_FILES: [&str; 7] = [
    "client/src/arena/mapping.rs",
    "daemon/core/src/cache/prefetch.rs",
    "daemon/core/src/cache/slab.rs",
    "daemon/core/src/cache/zeros.rs",
    "daemon/dataset/src/map.rs",
    "daemon/demo/src/gemm.rs",
    "daemon/demo/src/mapped.rs",
];

/// The modules of `rudderd` and those each may name, outside tests. Cargo orders the crates; this orders the modules.
const LAYERS: [(&str, &[&str]); 9] = [
    ("arguments", &[]),
    ("recording", &[]),
    ("memory", &[]),
    ("serve", &["recording", "memory"]),
    ("daemon", &["recording"]),
    ("admin", &["recording", "daemon"]),
    ("config", &["serve", "admin"]),
    ("lifecycle", &["config", "daemon", "admin"]),
    ("node", &["config", "recording", "memory", "serve", "daemon"]),
];

/// The folder of the crate whose modules [`LAYERS`] orders.
const LAYERED: &str = "daemon/node/src/";

/// Sources in which no two modules of one folder import each other. For `daemon/node/src/serve`, [`STOREYS`] says more.
const WITHOUT_CIRCLES: [&str; 7] = [
    "daemon/agent/src/",
    "daemon/demo/src/",
    "daemon/lab/src/",
    "daemon/node/src/admin/",
    "daemon/node/src/lifecycle/",
    "daemon/node/src/node/",
    "daemon/stage/src/",
];

/// The folder whose files [`STOREYS`] orders.
const STOREYED: &str = "daemon/node/src/serve/";

/// The files of `serve`, lowest storey first. Each may import files of lower storeys only, by their whole path. What a
/// folder's `mod.rs` holds stands for the folder; a file that is not named here has no place yet.
const STOREYS: [&[&str]; 15] = [
    &[
        "settings",
        "notices",
        "own/out",
        "own/owned",
        "table/reason",
        "table/flight",
        "table/gauges",
        "table/recorder",
        "table/freshness",
        "fetch/timeline",
        "books/distinct",
        "versions/restarts",
        "metrics/blocks",
    ],
    &["error", "own/blocks", "table/flights", "table/stats", "fetch/gather"],
    &[
        "own/source",
        "table/held",
        "books/desk",
        "books/announcements",
        "books/batches",
        "session/receive",
        "session/replies",
        "session/socket",
    ],
    &["own", "table", "trainers", "fetch/job"],
    &["base"],
    &["requests", "versions/changes", "tools/memory", "fetch/timing", "fetch/turns", "versions/update"],
    &["books/supply", "versions/refresh", "survey"],
    &["books/bookkeeper", "fetch/fetcher", "tools/steward", "versions"],
    &["books", "fetch", "tools"],
    &["engine"],
    &["status", "metrics/engine", "session/checks"],
    &["metrics/versions", "session/translate"],
    &["session/parts"],
    &["metrics", "session/calls", "session/connection", "session"],
    &["server"],
];

/// Crates that never print: who calls them shows what they answer.
const SILENT: [&str; 12] = [
    "daemon/agent/",
    "daemon/core/",
    "daemon/dataset/",
    "daemon/demo/",
    "daemon/http/",
    "daemon/import/",
    "daemon/lab/",
    "daemon/peers/",
    "daemon/settings/",
    "daemon/stage/",
    "daemon/telemetry/",
    "daemon/cli/",
];

/// Names of crates, which look like names of metrics.
const CRATES: [&str; 15] = [
    "rudder_agent",
    "rudder_cli",
    "rudder_client",
    "rudder_core",
    "rudder_daemon",
    "rudder_dataset",
    "rudder_demo",
    "rudder_http",
    "rudder_import",
    "rudder_lab",
    "rudder_peers",
    "rudder_settings",
    "rudder_stage",
    "rudder_telemetry",
    "rudder_tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All Rust files with their paths from the root of the repository, and their text.
fn sources() -> Vec<(String, String)> {
    files_of("rs", &["client", "daemon", "tests"])
}

/// All files in `folders` whose names end in `.extension`, with their paths from the root of the repository, and their
/// text.
fn files_of(extension: &str, folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), extension, &mut found);
    }
    assert!(found.len() > 20, "only {} files found", found.len());
    found
}

fn collect(folder: &Path, wanted: &str, found: &mut Vec<(String, String)>) {
    let entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, wanted, found);
            }
        } else if path.extension().is_some_and(|extension| extension == wanted) {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Fails with every name that `wrong` says something about.
fn none_is_wrong(wrong: impl Fn(&str, &str) -> Option<String>) {
    let complaints: Vec<String> =
        sources().iter().filter_map(|(name, text)| wrong(name, text).map(|what| format!("{name}: {what}"))).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_file_says_what_it_owns() {
    none_is_wrong(|_, text| (!text.starts_with("//! ")).then(|| String::from("does not open with a `//!` paragraph")));
}

#[test]
fn no_file_is_two() {
    none_is_wrong(|_, text| {
        let lines = text.lines().count();
        (lines >= LINES_MAX).then(|| format!("{lines} lines; split it below {LINES_MAX}"))
    });
}

#[test]
fn comments_are_no_wider_than_code() {
    let files = [("//", sources()), ("#", files_of("py", &["client", "dashboards", "deploy", "tests"]))];
    let mut complaints = Vec::new();
    for (mark, files) in files {
        for (name, text) in &files {
            let long = |line: &str| line.trim_start().starts_with(mark) && line.chars().count() > COMMENT_COLUMNS_MAX;
            let wide = text.lines().zip(1..).filter(|(line, _)| long(line));
            complaints.extend(wide.map(|(_, number)| format!("{name}:{number}: a comment wider than 120 columns")));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_modules() {
    // Put together here, so that this file does not name itself.
    let allowance = concat!("allow(", "unsafe_code)");
    none_is_wrong(|name, text| {
        (text.contains(allowance) && !UNSAFE_FILES.contains(&name))
            .then(|| String::from("unsafe code outside the named modules (UNSAFE_FILES in tests/tests/house.rs)"))
    });
}

#[test]
fn dependencies_point_one_way() {
    none_is_wrong(|name, text| {
        let module = name.strip_prefix(LAYERED)?.split(['/', '.']).next()?;
        let (_, allowed) = LAYERS.iter().find(|(layer, _)| *layer == module)?;
        let named = modules_named(without_tests(name, text));
        LAYERS
            .iter()
            .map(|(layer, _)| *layer)
            .filter(|layer| *layer != module && !allowed.contains(layer))
            .find(|layer| named.iter().any(|name| name == layer))
            .map(|layer| format!("names crate::{layer}, which `{module}` must not know"))
    });
}

#[test]
fn serve_stands_in_storeys() {
    none_is_wrong(|name, text| {
        let file = name.strip_prefix(STOREYED)?.strip_suffix(".rs")?;
        let file = file.strip_suffix("/mod").unwrap_or(file);
        (file != "mod").then(|| climbs(file, without_tests(name, text)))?
    });
}

/// What is wrong with the imports of a file of `serve`, if anything is.
fn climbs(file: &str, code: &str) -> Option<String> {
    let storey_of = |file: &str| STOREYS.iter().position(|storey| storey.contains(&file));
    let Some(own) = storey_of(file) else { return Some("stands in no storey: put it into STOREYS".to_owned()) };
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = lines.join("\n");
    if code.contains("super::") || code.contains("crate::serve::{") {
        return Some("imports by `super::` or a group: write `use crate::serve::…` for each file".to_owned());
    }
    let path =
        |text: &str| text.chars().take_while(|&c| c.is_alphanumeric() || c == '_' || c == ':').collect::<String>();
    code.split("crate::serve::").skip(1).find_map(|after| {
        let words = path(after).replace("::", "/");
        let mut target = words.trim_end_matches('/');
        while storey_of(target).is_none() {
            target = target.rsplit_once('/')?.0;
        }
        let climbs = target != file && storey_of(target)? >= own;
        climbs.then(|| format!("imports crate::serve::{}, which is not below it", target.replace('/', "::")))
    })
}

#[test]
fn an_import_of_a_higher_storey_is_seen() {
    assert_eq!(climbs("books/desk", "use crate::serve::table::flights::{Claim, Landing};"), None);
    let wrong = climbs("table/flights", "// crate::serve::engine\nuse crate::serve::engine::Engine;");
    assert_eq!(wrong.as_deref(), Some("imports crate::serve::engine, which is not below it"));
    assert!(climbs("books/desk", "use crate::serve::books::announcements::X;").is_some(), "of the same storey");
    assert!(climbs("books/desk", "use super::engine::Engine;").is_some());
    assert!(climbs("nowhere", "").is_some_and(|wrong| wrong.contains("STOREYS")));
}

/// The code of a file without its tests.
fn without_tests<'a>(name: &str, text: &'a str) -> &'a str {
    let is_test_file = name.ends_with("tests.rs") || name.contains("/tests/");
    if is_test_file { "" } else { text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default() }
}

/// `println!` and its kin panic where the reader has gone, as in `rudder replay TRACE | head -1`.
#[test]
fn the_command_line_prints_in_one_place() {
    let macros = [concat!("print", "!("), concat!("println", "!(")];
    none_is_wrong(|name, text| {
        let mut code = without_tests(name, text).lines().filter(|line| !line.trim_start().starts_with("//"));
        let prints = |line: &&str| macros.iter().any(|print| line.contains(print));
        let line = SILENT.iter().any(|silent| name.starts_with(silent)).then(|| code.find(prints)).flatten()?;
        Some(format!("`{}`: return it, and print it by daemon/cli/src/style.rs", line.trim()))
    });
}

#[test]
fn every_metric_is_documented() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    none_is_wrong(|name, text| {
        let literals = without_tests(name, text).split('"').skip(1).step_by(2);
        let is_metric = |text: &&str| {
            let known = ["rudder_", "process_"].iter().any(|prefix| text.starts_with(prefix));
            let crates = CRATES.contains(text);
            name.starts_with("daemon/") && known && !crates && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        let absent: Vec<&str> =
            literals.filter(is_metric).filter(|metric| !page.contains(&format!("`{metric}`"))).collect();
        (!absent.is_empty()).then(|| format!("not in docs/metrics.md: {}", absent.join(", ")))
    });
}

/// The modules of its own crate that `code` names: `crate::name`, and each name in `crate::{name::Item, name}`.
/// Comments do not count.
fn modules_named(code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let text = lines.join(" ");
    let word =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut named = Vec::new();
    for after in text.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            named.push(word(after));
            continue;
        };
        let mut depth = 1;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                named.push(word(&group[start..at]));
                start = at + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    named
}

#[test]
fn names_in_groups_are_seen() {
    let code = "use crate::{admin::{A, B}, config};\n// crate::cli\nlet x = crate::node::start();";
    assert_eq!(modules_named(code), ["admin", "config", "node"]);
}

/// Every path of modules and items that `code` imports or names by `crate::`, `super::` or `self::`, as its words.
/// Comments do not count.
fn paths_named(code: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let text = lines.join(" ");
    let mut named = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(root) {
            let inside = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !inside {
                expand(&mut Vec::new(), &text[at..], &mut named);
            }
        }
    }
    named
}

/// Reads one path at the start of `text`, with its groups in braces; answers what is left.
fn expand<'a>(before: &mut Vec<String>, mut text: &'a str, named: &mut Vec<Vec<String>>) -> &'a str {
    let depth = before.len();
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            while !group.is_empty() && !group.starts_with('}') {
                let left = expand(before, group, named).trim_start();
                // What is renamed, or no path at all: on to the next of the group.
                let next = left.find([',', '}']).unwrap_or(left.len());
                group = left[next..].strip_prefix(',').unwrap_or(&left[next..]).trim_start();
            }
            text = group.strip_prefix('}').unwrap_or(group);
            break;
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        before.push(text[..end].to_owned());
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                named.push(before.clone());
                break;
            }
        }
    }
    before.truncate(depth);
    text
}

/// The module of a file, as words from the root of its crate: `a/b.rs` and `a/b/mod.rs` are `[a, b]`.
fn module_of(path: &str) -> Vec<String> {
    let mut words: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(words.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        words.pop();
    }
    words
}

/// Which module of its own folder each module of `files` (paths in a crate and their code) imports.
fn imports(files: &[(&str, &str)]) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let modules: BTreeSet<Vec<String>> = files
        .iter()
        .flat_map(|(path, _)| {
            let module = module_of(path);
            (1..=module.len()).map(move |length| module[..length].to_vec()).collect::<Vec<_>>()
        })
        .collect();
    let mut graph: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (path, code) in files {
        let own = module_of(path);
        for named in paths_named(code) {
            let ups = named.iter().take_while(|word| *word == "super").count();
            let mut full = match named[0].as_str() {
                "crate" => Vec::new(),
                _ => own[..own.len().saturating_sub(ups)].to_vec(),
            };
            full.extend(named.into_iter().skip(ups.max(1)));
            // The folder in which the two ways part.
            let common = own.iter().zip(&full).take_while(|(a, b)| a == b).count();
            if common < own.len() && common < full.len() {
                let (from, to) = (own[..=common].to_vec(), full[..=common].to_vec());
                if modules.contains(&to) {
                    graph.entry(from).or_default().insert(to);
                }
            }
        }
    }
    graph
}

/// A circle of imports among modules of one folder, if there is one.
fn circle(graph: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Option<String> {
    let reaches = |from: &Vec<String>, to: &Vec<String>| {
        let (mut open, mut seen) = (vec![from], BTreeSet::new());
        while let Some(at) = open.pop() {
            for next in graph.get(at).into_iter().flatten().filter(|next| next.len() == from.len()) {
                if next == to {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    };
    let back = graph.iter().flat_map(|(from, tos)| tos.iter().map(move |to| (from, to)));
    let (from, to) = back.into_iter().find(|(from, to)| reaches(to, from))?;
    Some(format!("{} imports {}, which imports it, directly or through others", from.join("::"), to.join("::")))
}

#[test]
fn no_modules_of_a_folder_import_each_other() {
    let sources = sources();
    let complaints: Vec<String> = WITHOUT_CIRCLES
        .iter()
        .filter_map(|folder| {
            let (_, inside) = folder.split_once("/src/")?;
            let root = folder.strip_suffix(inside)?;
            let files: Vec<(&str, &str)> = sources
                .iter()
                .filter(|(name, _)| name.starts_with(folder))
                .map(|(name, text)| (name.strip_prefix(root).unwrap_or(name), without_tests(name, text)))
                .collect();
            assert!(!files.is_empty(), "no files in {folder}");
            circle(&imports(&files)).map(|circle| format!("{folder}: {circle}"))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn circles_of_imports_are_seen() {
    let circle = |files: &[(&str, &str)]| circle(&imports(files));
    let (a, b) = (("a.rs", "use crate::{b::X, c};"), ("b.rs", "// use super::a;\nuse super::c::{self, D};"));
    assert_eq!(circle(&[a, b, ("c.rs", "use std::fmt;")]), None);
    let found = circle(&[a, b, ("c/mod.rs", ""), ("c/d.rs", "fn f() { crate::a::g() }")]);
    assert!(found.is_some_and(|found| found.contains("imports")), "by a file of a folder");
    assert!(circle(&[("x/y.rs", "use super::z::{Z, W as V};"), ("x/z.rs", "use crate::x::{w, y::Y};")]).is_some());
}
