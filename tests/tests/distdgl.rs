//! Two nodes over a DistDGL partition that DGL 2.1 wrote, each with the files of its own part: every row, own and
//! remote, is the one that DistDGL has.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::fs;
use std::path::{Path, PathBuf};

use rudder_client::Rows;
use rudder_daemon::config::Access;
use rudder_import::{DistDglImport, Existing, Part, import_distdgl};
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
