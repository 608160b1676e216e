//! Two nodes over a DistDGL partition that DGL 2.1 wrote, each with the files of its own part: every row, own and
//! remote, is the one that DistDGL has.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rudder_client::Rows;
use rudder_daemon::config::Access;
use rudder_dataset::{DatasetError, DistDgl, TableManifest};
use rudder_import::{DistDglImport, DistDglStrip, Existing, Part, StripSummary, import_distdgl, strip_distdgl};
use rudder_tests::Cluster;
use serde_json::Value;

/// The partition; `rows.json` has its rows, by table and id.
fn partition() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/dataset/testdata/distdgl")
}

/// Copies the JSON file and the feature files of one part.
fn own_files(part: Part, to: &Path) -> PathBuf {
    for name in ["citations.json", &format!("part{part}/node_feat.dgl"), &format!("part{part}/edge_feat.dgl")] {
        let file = to.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(partition().join(name), file).unwrap();
    }
    to.join("citations.json")
}

fn assert_same(cluster: &Cluster) {
    let expected: Value = serde_json::from_slice(&fs::read(partition().join("rows.json")).unwrap()).unwrap();
    for node in [0, 1] {
        let client = cluster.client(node).unwrap();
        assert_eq!(client.tables().len(), expected.as_object().unwrap().len());
        for (table, known) in expected.as_object().unwrap() {
            let known: Vec<&str> = known["rows"].as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
            // From the last id to the first, so that order matters.
            let ids: Vec<u64> = (0..known.len() as u64).rev().collect();
            let rows: Rows = client.fetch(table, &ids).unwrap();
            let row_bytes = rows.bytes().len() / ids.len();
            for (&id, row) in ids.iter().zip(rows.bytes().chunks_exact(row_bytes)) {
                let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hex, known[id as usize], "node {node}, table {table}, id {id}");
            }
        }
    }
}

#[test]
fn served_where_it_lies_mapped_and_by_blocks() {
    for access in [Access::Map, Access::Blocks] {
        let mut cluster = Cluster::prepare(2, 10, |config| config.dataset.access = access).unwrap();
        for node in [0, 1] {
            let graph = own_files(Part(node), &cluster.dir().join(format!("partition-{node}")));
            cluster.config(usize::from(node)).dataset.path = format!("distdgl:{}", graph.display()).into();
        }
        for node in [0, 1] {
            cluster.start_node(node).unwrap();
        }
        assert_same(&cluster);
    }
}

#[test]
fn imported_by_links_and_by_copies() {
    for copy in [false, true] {
        let mut cluster = Cluster::prepare(2, 10, |_| ()).unwrap();
        let out = cluster.dir().join("imported");
        let graph = partition().join("citations.json");
        let import = DistDglImport { graph, out: out.clone(), name: None, copy, existing: Existing::Refuse };
        let summary = import_distdgl(&import, &|_, _, _| ()).unwrap();
        let (none, all) = if copy {
            (summary.linked_bytes, summary.copied_bytes)
        } else {
            (summary.copied_bytes, summary.linked_bytes)
        };
        // Nine authors of 24 bytes, 14 papers of 4, 1 and 4, 20 edges of 2.
        assert_eq!((none, all), (0, 9 * 24 + 14 * 9 + 20 * 2));
        assert_eq!(out.join("links").exists(), !copy);
        for node in [0, 1] {
            cluster.config(node).dataset.path.clone_from(&out);
            cluster.start_node(node).unwrap();
        }
        assert_same(&cluster);
    }
}

/// The features in a feature file, by name of table.
fn features(graph: &Path, part: u16) -> Vec<String> {
    let files = DistDgl::read(graph, None).unwrap().files;
    let of_part = files.iter().filter(|file| file.part == Part(part)).flat_map(|file| &file.features);
    let mut names: Vec<String> = of_part.map(|piece| piece.table.clone()).collect();
    names.sort();
    names
}

/// A partition to strip: the graph's structure, which is not read, is a few words.
fn whole(dir: &Path) -> PathBuf {
    own_files(Part(0), dir);
    let graph = own_files(Part(1), dir);
    for part in [0, 1] {
        fs::write(dir.join(format!("part{part}/graph.dgl")), format!("structure {part}")).unwrap();
    }
    graph
}

fn strip(graph: &Path, out: &Path, keep: Option<&[&str]>, copy: bool) -> Result<StripSummary, DatasetError> {
    let keep = keep.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    strip_distdgl(&DistDglStrip { graph: graph.to_owned(), out: out.to_owned(), keep, copy }, &|_, _, _| ())
}

#[test]
fn stripped_of_what_rudder_serves_and_of_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (graph, out) = (whole(&dir.path().join("partition")), dir.path().join("stripped"));
    let before = fs::read(dir.path().join("partition/part0/node_feat.dgl")).unwrap();
    let summary = strip(&graph, &out, None, false).unwrap();
    let (wide, narrow): (Vec<_>, Vec<_>) = {
        let manifest = DistDgl::read(&graph, None).unwrap().manifest;
        manifest.tables.into_iter().partition(|table| table.width > 1)
    };
    let names = |tables: Vec<TableManifest>| tables.into_iter().map(|table| table.name).collect::<BTreeSet<_>>();
    assert_eq!(summary.removed.iter().cloned().collect::<BTreeSet<_>>(), names(wide));
    assert!(!summary.removed.is_empty() && !summary.kept.is_empty());
    assert_eq!(summary.kept.iter().cloned().collect::<BTreeSet<_>>(), names(narrow));
    assert_eq!((summary.parts.as_slice(), summary.other_files), ([0, 1].as_slice(), 2));
    assert_eq!(features(&out.join("citations.json"), 0), summary.kept, "what stays can be read");
    assert!(summary.bytes_after < summary.bytes_before);
    assert_eq!(fs::read(out.join("part1/graph.dgl")).unwrap(), b"structure 1");
    assert!(fs::symlink_metadata(out.join("part1/graph.dgl")).unwrap().is_symlink());
    assert_eq!(fs::read(dir.path().join("partition/part0/node_feat.dgl")).unwrap(), before, "the source stays");
    // The same once more: a folder that holds anything is never touched.
    assert!(matches!(strip(&graph, &out, None, false), Err(DatasetError::OutputExists { .. })));
}

#[test]
fn what_to_keep_is_named_and_copies_are_files() {
    let dir = tempfile::tempdir().unwrap();
    let (graph, out) = (whole(&dir.path().join("partition")), dir.path().join("stripped"));
    let all = features(&graph, 1);
    let error = strip(&graph, &out, Some(&["paper.fear"]), false).unwrap_err().to_string();
    assert!(error.contains("--keep paper.fear") && error.contains(&all[0]), "{error}");
    assert!(!out.exists(), "a mistake leaves nothing");
    let summary = strip(&graph, &out, Some(&[&all[0]]), true).unwrap();
    assert_eq!(summary.kept, all[..1]);
    assert_eq!(features(&out.join("citations.json"), 1), all[..1]);
    assert!(!fs::symlink_metadata(out.join("part1/graph.dgl")).unwrap().is_symlink());
    fs::remove_dir_all(dir.path().join("partition")).unwrap();
    assert_eq!(fs::read(out.join("part0/graph.dgl")).unwrap(), b"structure 0");
}

#[test]
fn a_part_is_stripped_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let graph = own_files(Part(1), &dir.path().join("partition"));
    let summary = strip(&graph, &dir.path().join("stripped"), None, false).unwrap();
    assert_eq!((summary.parts.as_slice(), summary.other_files), ([1].as_slice(), 0));
    assert!(!dir.path().join("stripped/part0").exists());
    // Cut in its rows: named, and nothing is left.
    let file = dir.path().join("partition/part1/node_feat.dgl");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = strip(&graph, &dir.path().join("again"), None, false).unwrap_err().to_string();
    assert!(error.contains("part1/node_feat.dgl") && error.contains("truncated"), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
