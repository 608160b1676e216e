//! What pages of `docs/` say of the tree, held against the tree. A failure names the page and the truth.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The rows of the table of crates in docs/architecture.md: the crate, its folder, and what it depends on.
fn crates_of_the_page() -> Vec<(String, String, String)> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `rudder-"));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().replace('`', "")).collect::<Vec<String>>();
    rows.map(cells).map(|cells| (cells[1].clone(), cells[2].clone(), cells[3].clone())).collect()
}

#[test]
fn the_page_names_what_each_crate_depends_on() {
    for (name, folder, page) in crates_of_the_page() {
        let manifest = fs::read_to_string(root().join(&folder).join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{folder} does not hold {name}");
        let section = manifest.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap();
        let names = section.lines().filter_map(|line| line.strip_prefix("rudder-")?.split('.').next());
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        let truth = if names.is_empty() { "nothing of this project".to_owned() } else { names.join(", ") };
        let all = page.starts_with("all of the above");
        assert!(all || page == truth, "docs/architecture.md says that {name} depends on {page}; it depends on {truth}");
    }
    assert!(crates_of_the_page().len() > 10);
}
