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

/// The pages that people read, with their paths from the root of the repository.
fn pages() -> Vec<String> {
    let of = |folder: &str| {
        let names = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| Path::new(folder).join(name).to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".md")).collect::<Vec<_>>()
    };
    [of(""), of("docs"), of("client/python")].concat()
}

/// Where the links of a page lead; those to other sites are left out.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets.filter(|target| !target.contains("://") && !target.is_empty()).collect()
}

/// The anchors of a page, as GitHub makes them of its headings.
fn anchors(text: &str) -> Vec<String> {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    };
    let anchor = |heading: &str| heading.trim().to_lowercase().chars().filter_map(kept).collect::<String>();
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&page).parent().unwrap();
            let target = if file.is_empty() { Path::new(&page).to_owned() } else { folder.join(file) };
            assert!(root().join(&target).exists(), "{page} links to {link}, and there is no {}", target.display());
            if !anchor.is_empty() {
                let there = anchors(&fs::read_to_string(root().join(&target)).unwrap());
                assert!(
                    there.iter().any(|one| one == anchor),
                    "{page} links to {link}, and no heading has that anchor"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} links found");
}

#[test]
fn every_page_is_in_the_index() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    for page in pages() {
        let Some(name) = page.strip_prefix("docs/").filter(|name| *name != "README.md") else { continue };
        assert!(links(&index).contains(&name), "docs/README.md does not list {name}");
    }
}

#[test]
fn the_front_page_fits_a_terminal() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    for line in page.lines() {
        let columns = line.chars().count();
        // A row of a table and a picture are one line, however long.
        assert!(columns <= 80 || line.starts_with(['|', '!']), "README.md, {columns} columns: {line}");
    }
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
