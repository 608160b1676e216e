//! Partitions that DGL 2.1 wrote (`testdata/distdgl`, with the rows that DistDGL has of it), and partitions made here
//! by the documented layout, whole and damaged.

use std::fs;

use super::tensors::tests::{file, tensor};
use super::*;
use crate::blocks::WantedRow;
use crate::manifest::Place;
use crate::open::{Dataset, Table};
use crate::part::LocalRow;
use crate::settings::{BlockSettings, Verify};
use rudder_client::DType;
use serde_json::{Value, json};

const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/distdgl");

fn open(graph: &Path, part: u16, blocks: bool) -> Result<Dataset, String> {
    let path = PathBuf::from(format!("{DISTDGL_PREFIX}{}", graph.display()));
    let blocks = blocks.then(BlockSettings::default);
    Dataset::open_with(&path, Part(part), Verify::Full, blocks, &|_, _| ()).map_err(|error| error.to_string())
}

fn row_of(table: &Table, row: u64) -> Vec<u8> {
    let Some(blocks) = table.shard.blocks() else { return table.shard.row(LocalRow(row)).unwrap().to_vec() };
    let mut read = Vec::new();
    blocks.read(&[WantedRow { row: LocalRow(row), at: 0 }], |_, bytes| read.extend_from_slice(bytes)).unwrap();
    read
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Copies the real partition, without the files that `is_wanted` refuses.
fn real(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> PathBuf {
    let names =
        ["citations.json", "part0/node_feat.dgl", "part0/edge_feat.dgl", "part1/node_feat.dgl", "part1/edge_feat.dgl"];
    for name in names.into_iter().filter(|name| is_wanted(name)) {
        let to = folder.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(Path::new(REAL).join(name), to).unwrap();
    }
    folder.join("citations.json")
}

#[test]
fn every_row_of_a_real_partition_is_that_of_distdgl() {
    let expected: Value = serde_json::from_slice(&fs::read(format!("{REAL}/rows.json")).unwrap()).unwrap();
    let mut names: Vec<&String> = expected.as_object().unwrap().keys().collect();
    names.sort();
    for blocks in [false, true] {
        let nodes = [0, 1].map(|part| open(&Path::new(REAL).join("citations.json"), part, blocks).unwrap());
        let mut served: Vec<&String> = nodes[0].tables().iter().map(|table| &table.name).collect();
        served.sort();
        assert_eq!(served, names);
        assert_eq!(nodes[0].fingerprint(), nodes[1].fingerprint());
        for name in &names {
            let rows = expected[name.as_str()]["rows"].as_array().unwrap();
            let table = nodes[0].table(name).unwrap();
            assert_eq!(table.rows, rows.len() as u64);
            assert_eq!(name.rsplit_once('.').unwrap().0, table.vertex_type);
            for (id, row) in (0..).zip(rows) {
                let at = table.book.locate(id).unwrap();
                let owner = nodes[at.part.index()].table(name).unwrap();
                assert_eq!(hex(&row_of(owner, at.row.0)), row.as_str().unwrap(), "{name} {id}");
            }
        }
    }
}

#[test]
fn types_and_shapes_are_those_of_the_tensors() {
    let dataset = open(&Path::new(REAL).join("citations.json"), 0, false).unwrap();
    let form = |name: &str| dataset.table(name).map(|table| (table.form.dtype(), table.form.shape()));
    assert_eq!(form("paper.feat"), Some((DType::Bf16, &[2][..])));
    assert_eq!(form("paper.mask"), Some((DType::U8, &[][..])));
    assert_eq!(form("paper.year"), Some((DType::I32, &[][..])));
    assert_eq!(form("author.feat"), Some((DType::F32, &[2, 3][..])));
    assert_eq!(form("author:writes:paper.weight"), Some((DType::F16, &[][..])));
    assert_eq!(dataset.name(), "citations");
}

#[test]
fn a_node_needs_the_files_of_its_own_part_only() {
    let folder = tempfile::tempdir().unwrap();
    let graph = real(folder.path(), |name| !name.starts_with("part0"));
    let alone = open(&graph, 1, false).unwrap();
    let whole = open(&Path::new(REAL).join("citations.json"), 1, false).unwrap();
    assert_eq!(alone.fingerprint(), whole.fingerprint());
    assert_eq!(alone.tables().len(), 5);
    let error = open(&graph, 0, false).unwrap_err();
    assert!(error.contains("part0/node_feat.dgl") && error.contains("missing"), "{error}");
    let table = alone.table("paper.feat").unwrap();
    assert!(alone.open_shard(table, Part(0)).unwrap_err().to_string().contains("missing"));
    assert!(open(&graph, 2, false).unwrap_err().contains("node 2 owns no part"));
    // Tools name no part: those that are here will do.
    assert_eq!(Manifest::load(&PathBuf::from(format!("distdgl:{}", graph.display()))).unwrap().tables.len(), 5);
}

/// A partition of one vertex type, three and two rows in two parts, as `files` makes its feature files.
fn plain(folder: &Path, nodes: [Vec<Vec<u8>>; 2], edges: [Vec<Vec<u8>>; 2]) -> PathBuf {
    let graph = json!({
        "graph_name": "g", "num_nodes": 5, "num_edges": 3, "num_parts": 2, "node_map": {"_N": [[0, 3], [3, 5]]},
        "edge_map": {"_N:_E:_N": [[0, 0], [0, 3]]}, "ntypes": {"_N": 0}, "etypes": {"_N:_E:_N": 0},
        "part-0": {"node_feats": "n0.dgl", "edge_feats": "e0.dgl"},
        "part-1": {"node_feats": "n1.dgl", "edge_feats": "e1.dgl"}
    });
    for (name, parts) in [("n", nodes), ("e", edges)] {
        for (part, tensors) in parts.into_iter().enumerate() {
            fs::write(folder.join(format!("{name}{part}.dgl")), file(&tensors)).unwrap();
        }
    }
    fs::write(folder.join("g.json"), graph.to_string()).unwrap();
    folder.join("g.json")
}

const I16: (u8, u8) = (0, 16);

#[test]
fn names_without_type_and_parts_without_edges_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = [vec![tensor("feat", I16, &[3], &[1, 2, 3, 4, 5, 6])], vec![tensor("feat", I16, &[2], &[7, 8, 9, 10])]];
    // A part that owns no edges may have the feature or not: it has no rows of it either way.
    let edges = [vec![], vec![tensor("feat", (1, 8), &[3, 1], &[1, 2, 3])]];
    let graph = plain(folder.path(), nodes, edges);
    let nodes = [0, 1].map(|part| open(&graph, part, false).unwrap());
    assert_eq!(nodes[0].fingerprint(), nodes[1].fingerprint());
    assert_eq!(
        nodes[0].tables().iter().map(|table| table.name.as_str()).collect::<Vec<_>>(),
        ["feat", "_N:_E:_N.feat"]
    );
    assert_eq!(row_of(nodes[1].table("feat").unwrap(), 1), [9, 10]);
    assert_eq!(row_of(nodes[1].table("_N:_E:_N.feat").unwrap(), 2), [3]);
    assert_eq!(nodes[0].table("_N:_E:_N.feat").unwrap().shard.rows(), 0);
    assert!(nodes[0].table("_N:_E:_N.feat").unwrap().shard.row(LocalRow(0)).is_none());
    let text = fs::read_to_string(&graph).unwrap();
    fs::write(&graph, text.replace("\"edge_feats\":\"e0.dgl\",", "")).unwrap();
    assert_eq!(open(&graph, 0, true).unwrap().fingerprint(), nodes[0].fingerprint());
    fs::write(&graph, text.replace("\"node_feats\":\"n0.dgl\"", "\"other\":0")).unwrap();
    assert!(open(&graph, 0, false).unwrap_err().contains("`part-0` names no file for its rows of `_N/feat`"));
}

#[test]
fn what_no_table_can_hold_is_named_and_the_rest_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let part = |rows: i64| {
        let bytes = vec![0; rows as usize];
        vec![
            tensor("_N/odd", (5, 16), &[rows], &[&bytes[..], &bytes].concat()),
            tensor("_N/none", (1, 8), &[rows, 0], &[]),
            tensor("_N/good", (1, 16), &[rows, 1], &[&bytes[..], &bytes].concat()),
        ]
    };
    let graph = plain(folder.path(), [part(3), part(2)], [vec![], vec![]]);
    let DistDgl { manifest, skipped, .. } = DistDgl::read(&graph, None).unwrap();
    assert_eq!(manifest.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["good"]);
    let [none, odd] = skipped.as_slice() else { panic!("{skipped:?}") };
    assert!(none.starts_with("none: rows of shape (0,) of u8: a row has 1 to"), "{none}");
    assert_eq!(odd, "odd: no table has elements of type 5 of 16 bits");
    assert_eq!(manifest.tables[0].form().unwrap(), RowForm::new(DType::U16, &[1]).unwrap());
    assert_eq!(manifest.tables[0].shards[0].file.place(), Place::Piece(234));
}

#[test]
fn files_that_do_not_fit_are_refused_with_name_and_reason() {
    let good = |rows: i64| tensor("_N/feat", (1, 8), &[rows], &vec![0; rows as usize]);
    type Files = [Vec<Vec<u8>>; 2];
    let cases: [(Files, &str, &str); 7] = [
        ([vec![good(3)], vec![good(3)]], "n1.dgl", "does not have the 2 rows that the JSON file gives part 1"),
        ([vec![tensor("_N/feat", (1, 8), &[], &[0])], vec![good(2)]], "n0.dgl", "of shape [] does not have the 3 rows"),
        ([vec![good(3)], vec![tensor("_N/feat", (0, 8), &[2], &[0; 2])]], "n1.dgl", "other elements than that of"),
        ([vec![good(3)], vec![tensor("_N/feat", (1, 8), &[2, 2], &[0; 4])]], "n1.dgl", "other elements than that of"),
        ([vec![good(3)], vec![]], "n1.dgl", "no tensor `_N/feat`, which"),
        ([vec![tensor("paper/feat", (1, 8), &[3], &[0; 3])], vec![]], "n0.dgl", "`paper/feat` is of no type"),
        ([vec![good(3), tensor("feat", (1, 8), &[3], &[0; 3])], vec![good(2)]], "n0.dgl", "two tensors are `feat`"),
    ];
    for (nodes, name, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let graph = plain(folder.path(), nodes, [vec![], vec![]]);
        let error = open(&graph, 0, false).unwrap_err();
        assert!(error.contains(name) && error.contains(expected), "{error} should say {name} and {expected}");
    }
    let folder = tempfile::tempdir().unwrap();
    let graph = real(folder.path(), |_| true);
    let path = folder.path().join("part0/node_feat.dgl");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = open(&graph, 0, false).unwrap_err();
    assert!(error.contains("part0/node_feat.dgl: truncated: its") && error.contains("rows of tensor"), "{error}");
    for (path, expected) in [(folder.path().to_owned(), "a folder: name the JSON"), ("/nowhere".into(), "no such file")]
    {
        assert!(open(&path, 0, false).unwrap_err().contains(expected));
    }
}

#[test]
fn two_tables_of_one_name_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let types = json!({"a": [[0, 1]], "a.b": [[1, 2]]});
    let graph = json!({
        "graph_name": "g", "num_nodes": 2, "num_edges": 0, "num_parts": 1, "node_map": types, "edge_map": {},
        "ntypes": {"a": 0, "a.b": 1}, "etypes": {}, "part-0": {"node_feats": "n.dgl"}
    });
    let tensors = [tensor("a/b.c", (1, 8), &[1], &[0]), tensor("a.b/c", (1, 8), &[1], &[0])];
    fs::write(folder.path().join("n.dgl"), file(&tensors)).unwrap();
    fs::write(folder.path().join("g.json"), graph.to_string()).unwrap();
    let error = open(&folder.path().join("g.json"), 0, false).unwrap_err();
    assert!(error.contains("table `a.b.c`") && error.contains("rename one"), "{error}");
}
