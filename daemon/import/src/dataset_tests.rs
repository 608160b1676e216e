//! The dataset as a whole: what is written is what is read, and each kind of damage is named.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use rudder_client::DType;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use rudder_dataset::*;

fn quiet() -> &'static dyn Fn(u64, u64) {
    &|_, _| ()
}

/// 10 ids over two parts: a range type `a` with an f32 table of width 3 and labels, and a map type `b` with bytes.
fn write_sample(dir: &Path) -> Manifest {
    let mut writer = DatasetWriter::create(dir, "sample", 2, Existing::Refuse).unwrap();
    writer.add_book("a", BookSpec::Ranges(&[0, 4, 10])).unwrap();
    writer.add_book("b", BookSpec::Map { owner: &[1, 0, 1, 1, 0] }).unwrap();
    writer.set_original_ids("a", &(0..10).rev().collect::<Vec<u64>>()).unwrap();
    let mut feat = writer.add_table("feat", "a", DType::F32, &[3]).unwrap();
    let mut label = writer.add_table("label", "a", DType::I64, &[1]).unwrap();
    let mut bytes = writer.add_table("bytes", "b", DType::U8, &[2]).unwrap();
    for id in 0..10u8 {
        let row: Vec<u8> = (0..3).flat_map(|column| (f32::from(id) + column as f32 / 10.0).to_le_bytes()).collect();
        feat.append(&row).unwrap();
    }
    label.append(&(0..10i64).flat_map(i64::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    bytes.append(&(0..10).collect::<Vec<u8>>()).unwrap();
    for table in [feat, label, bytes] {
        writer.close_table(table).unwrap();
    }
    writer.set_classes("label", vec!["x".into(), "y".into()]).unwrap();
    writer.finish().unwrap()
}

fn sample() -> (TempDir, std::path::PathBuf) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("ds");
    write_sample(&dir);
    (folder, dir)
}

fn edit_manifest(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(MANIFEST_FILE);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn open_error(dir: &Path) -> String {
    Dataset::open(dir, Part(0), Verify::Full, quiet()).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read() {
    let (_folder, dir) = sample();
    for node in Part::all(2) {
        let dataset = Dataset::open(&dir, node, Verify::Full, quiet()).unwrap();
        assert_eq!((dataset.name(), dataset.parts(), dataset.node()), ("sample", 2, node));
        let feat = dataset.table("feat").unwrap();
        assert_eq!((feat.id, feat.rows, feat.form.width(), feat.row_bytes), (0, 10, 3, 12));
        assert_eq!(dataset.table("label").unwrap().classes.as_deref(), Some(&["x".into(), "y".into()][..]));
        for id in 0..10 {
            let at = feat.book.locate(id).unwrap();
            let shard = dataset.open_shard(feat, at.part).unwrap();
            assert_eq!(shard.row(at.row).unwrap()[..4], (id as f32).to_le_bytes());
            if at.part == node {
                assert_eq!(feat.shard.row(at.row), shard.row(at.row));
            }
        }
        assert_eq!(feat.shard.row(LocalRow(feat.shard.rows())), None);
        assert_eq!(feat.shard.row(LocalRow(u64::MAX)), None);
        assert_eq!(feat.shard.bytes().unwrap().len() as u64, feat.shard.rows() * 12);
        let bytes = dataset.table("bytes").unwrap();
        for id in 0..5 {
            let at = bytes.book.locate(id).unwrap();
            let shard = dataset.open_shard(bytes, at.part).unwrap();
            assert_eq!(shard.row(at.row).unwrap(), [2 * id as u8, 2 * id as u8 + 1]);
        }
        assert_eq!(dataset.original_ids("a").unwrap().unwrap(), (0..10).rev().collect::<Vec<u64>>());
        let ids = dataset.original_ids("b").unwrap().unwrap();
        assert!(ids.iter().copied().eq(0..ids.len() as u64), "vertices of `b` were not renumbered");
        assert_eq!(dataset.original_ids("nothing").unwrap(), None);
        assert_eq!(dataset.load_graph().unwrap(), None);
    }
}

#[test]
fn a_node_needs_its_own_shards_only_and_nodes_agree_on_the_fingerprint() {
    let (_folder, dir) = sample();
    let first = Dataset::open(&dir, Part(0), Verify::Full, quiet()).unwrap();
    for table in ["feat", "label", "bytes"] {
        fs::remove_file(dir.join(format!("tables/{table}/part0.npy"))).unwrap();
    }
    let second = Dataset::open(&dir, Part(1), Verify::Full, quiet()).unwrap();
    assert_eq!(first.fingerprint(), second.fingerprint());
    let message = open_error(&dir);
    assert!(message.contains("part0.npy") && message.contains("missing"), "{message}");
    assert!(Dataset::open_for_tools(&dir, Verify::Shape, quiet()).is_err());
    edit_manifest(&dir, |manifest| manifest["name"] = json!("other"));
    let third = Dataset::open(&dir, Part(1), Verify::Full, quiet()).unwrap();
    assert_ne!(first.fingerprint(), third.fingerprint());
}

#[test]
fn progress_ends_at_the_total() {
    let (_folder, dir) = sample();
    let seen = Mutex::new(Vec::new());
    Dataset::open_for_tools(&dir, Verify::Full, &|done, total| seen.lock().unwrap().push((done, total))).unwrap();
    let seen = seen.into_inner().unwrap();
    let total = Manifest::load(&dir).unwrap().files().map(|file| file.bytes).sum::<u64>();
    assert_eq!((seen.first(), seen.last()), (Some(&(0, total)), Some(&(total, total))));
    assert!(seen.is_sorted());
}

/// Each damage to the manifest, and what the message must say.
#[test]
fn bad_manifests_are_named() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &[&str]); 19] = [
        (|m| m["format"] = json!(2), &["format version 2", "reads only version 1"]),
        (|m| drop(m.as_object_mut().unwrap().remove("format")), &["no `format`"]),
        (|m| m["colour"] = json!(1), &["unknown field `colour`"]),
        (|m| m["vertex_types"][0]["book"]["stride"] = json!(1), &["unknown field `stride`"]),
        (|m| m["tables"][0]["dtype"] = json!("f8"), &["unknown variant `f8`"]),
        (|m| m["vertex_types"][0]["book"]["starts"] = json!([0, 7, 4]), &["`a` are not ascending", "rows = 10"]),
        (|m| m["vertex_types"][0]["book"]["starts"] = json!([0, 10]), &["needs parts + 1 = 3"]),
        (
            |m| m["vertex_types"][0]["book"]["starts"] = json!([0, 5, 10]),
            &["`feat`", "part 0 has 4", "gives that part 5"],
        ),
        (|m| m["tables"][0]["shards"][0]["file"]["path"] = json!("../x.npy"), &["`../x.npy` leaves"]),
        (|m| m["tables"][0]["shards"][0]["file"]["path"] = json!("/etc/passwd"), &["`/etc/passwd` leaves"]),
        (|m| m["tables"][1]["name"] = json!("feat"), &["`feat` is empty or there twice"]),
        (|m| m["tables"][0]["vertex_type"] = json!("c"), &["vertex type `c`"]),
        (|m| m["tables"][0]["width"] = json!(0), &["`feat`", "`shape` (3,) is 3 elements, but `width` is 0"]),
        (|m| m["tables"][0]["shape"] = json!([3, 2]), &["`feat`", "`shape` (3, 2) is 6 elements, but `width` is 3"]),
        (|m| m["tables"][0]["shape"] = json!([3, 0]), &["`feat`", "rows of shape (3, 0) of f32"]),
        (|m| m["tables"][0]["shape"] = json!([u32::MAX, u32::MAX, u32::MAX]), &["a row has 1 to 67108864 bytes"]),
        (|m| m["tables"][0]["shape"] = json!([-1]), &["invalid value: integer `-1`, expected u32"]),
        (|m| m["tables"][0]["shape"] = json!(vec![1; 32]), &["at most 31 dimensions"]),
        (|m| m["tables"][0]["shards"][0]["file"]["xxh3"] = json!("+000000000000001"), &["not a checksum"]),
    ];
    for (edit, expected) in cases {
        let (_folder, dir) = sample();
        edit_manifest(&dir, edit);
        let message = open_error(&dir);
        assert!(message.contains("manifest.json"), "{message}");
        for words in expected {
            assert!(message.contains(words), "{message}\nshould say: {words}");
        }
    }
}

#[test]
fn shapes_of_manifest_and_files_agree_and_old_manifests_have_none() {
    let (_folder, dir) = sample();
    let form = |dir: &Path| Dataset::open(dir, Part(0), Verify::Full, quiet()).unwrap().tables()[0].form.clone();
    assert_eq!(form(&dir), RowForm::new(DType::F32, &[3]).unwrap());
    edit_manifest(&dir, |m| m["tables"][0]["shape"] = json!([3, 1]));
    let message = open_error(&dir);
    assert!(
        message.contains("tables/feat/part0.npy: its shape is (4, 3), but the manifest says (4, 3, 1)"),
        "{message}"
    );
    edit_manifest(&dir, |m| drop(m["tables"][0].as_object_mut().unwrap().remove("shape")));
    assert_eq!(form(&dir), RowForm::new(DType::F32, &[3]).unwrap());
}

#[test]
fn a_missing_manifest_says_how_to_make_one() {
    let folder = TempDir::new().unwrap();
    let message = open_error(&folder.path().join("nothing"));
    assert!(message.contains("nothing") && message.contains("rudder import npy"), "{message}");
    let (_folder, dir) = sample();
    fs::write(dir.join(MANIFEST_FILE), b"{ not json").unwrap();
    assert!(open_error(&dir).contains("manifest.json: key must be a string"), "{}", open_error(&dir));
    let (_folder, dir) = sample();
    let message = Dataset::open(&dir, Part(2), Verify::Full, quiet()).unwrap_err().to_string();
    assert!(message.contains("node 2") && message.contains("2 parts"), "{message}");
}

/// Each damage to a shard, under both kinds of verification.
#[test]
fn damaged_shards_are_named() {
    let (_folder, dir) = sample();
    let shard = dir.join("tables/feat/part0.npy");
    let good = fs::read(&shard).unwrap();
    let check = |bytes: &[u8], verify, expected: &str| {
        fs::write(&shard, bytes).unwrap();
        let message = Dataset::open(&dir, Part(0), verify, quiet()).unwrap_err().to_string();
        assert!(message.contains("part0.npy") && message.contains(expected), "{message}\nshould say: {expected}");
    };
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    check(&flipped, Verify::Full, "checksum mismatch");
    check(&good[..good.len() - 1], Verify::Full, "but the manifest says");
    check(&good[..good.len() - 1], Verify::Shape, "truncated");
    check(&good[..20], Verify::Shape, "ends inside its header");
    check(&[good.as_slice(), b"x"].concat(), Verify::Shape, "but the manifest says");
    let replaced = |descr: &str, shape: &[u64], bytes: usize| {
        [rudder_dataset::npy::encode_header(descr, shape), vec![0; bytes]].concat()
    };
    check(&replaced("<f8", &[4, 3], 96), Verify::Shape, "elements are F64, but the manifest says f32");
    check(&replaced("<f4", &[3, 4], 48), Verify::Shape, "shape is (3, 4), but the manifest says (4, 3)");
    fs::write(&shard, &flipped).unwrap();
    Dataset::open(&dir, Part(0), Verify::Shape, quiet()).unwrap();
}

#[test]
fn damaged_books_are_named() {
    let (_folder, dir) = sample();
    let owner = dir.join("book/b.owner.npy");
    fs::write(&owner, [rudder_dataset::npy::encode_header("|u1", &[5]), vec![1, 0, 9, 1, 0]].concat()).unwrap();
    let message = Dataset::open(&dir, Part(0), Verify::Shape, quiet()).unwrap_err().to_string();
    assert!(message.contains("b.owner.npy: id 2 is owned by part 9"), "{message}");
    assert!(open_error(&dir).contains("checksum mismatch"));
    fs::write(&owner, [rudder_dataset::npy::encode_header("|u1", &[4]), vec![1, 0, 1, 1]].concat()).unwrap();
    let message = Dataset::open(&dir, Part(0), Verify::Shape, quiet()).unwrap_err().to_string();
    assert!(message.contains("shape is (4,)"), "{message}");
}

#[test]
fn stored_rows_of_a_map_are_used() {
    let (_folder, dir) = sample();
    let row = [
        rudder_dataset::npy::encode_header("<u4", &[5]),
        [0u32, 1, 2, 1, 0].iter().flat_map(|row| row.to_le_bytes()).collect(),
    ];
    let row = row.concat();
    fs::write(dir.join("row.npy"), &row).unwrap();
    let checksum = Checksum(xxhash_rust::xxh3::xxh3_64(&row));
    let file = FileManifest::whole("row.npy".into(), row.len() as u64, checksum);
    edit_manifest(&dir, |manifest| {
        manifest["vertex_types"][1]["book"]["row"] = serde_json::to_value(&file).unwrap();
    });
    let dataset = Dataset::open(&dir, Part(0), Verify::Full, quiet()).unwrap();
    let book = &dataset.table("bytes").unwrap().book;
    assert_eq!(book.locate(2), Some(Location { part: Part(1), row: LocalRow(2) }));
    assert_eq!(book.locate(4), Some(Location { part: Part(0), row: LocalRow(0) }));
}

#[test]
fn the_writer_replaces_only_datasets_and_cleans_up() {
    let (folder, dir) = sample();
    let create = |existing| DatasetWriter::create(&dir, "sample", 2, existing);
    assert!(create(Existing::Refuse).unwrap_err().to_string().contains("--force"));
    drop(create(Existing::Replace).unwrap());
    assert!(Dataset::open(&dir, Part(0), Verify::Full, quiet()).is_ok(), "an abandoned writer leaves the old dataset");
    let mut writer = create(Existing::Replace).unwrap();
    writer.add_book("n", BookSpec::Ranges(&[0, 1, 1])).unwrap();
    writer.finish().unwrap();
    assert!(Dataset::open(&dir, Part(1), Verify::Full, quiet()).unwrap().tables().is_empty());
    fs::remove_file(dir.join(MANIFEST_FILE)).unwrap();
    fs::write(dir.join("thesis.tex"), b"years of work").unwrap();
    assert!(create(Existing::Replace).unwrap_err().to_string().contains("not a dataset"));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["ds"], "no hidden folder stays behind");
}

#[test]
fn the_writer_refuses_rows_that_do_not_fit() {
    let folder = TempDir::new().unwrap();
    let mut writer = DatasetWriter::create(&folder.path().join("ds"), "x", 2, Existing::Refuse).unwrap();
    writer.add_book("n", BookSpec::Ranges(&[0, 2, 2])).unwrap();
    let mut table = writer.add_table("t", "n", DType::F32, &[2]).unwrap();
    assert!(table.append(&[0; 7]).unwrap_err().to_string().contains("`t`: 7 bytes are not whole rows of 8"));
    assert!(table.write_rows(Part(1), &[0; 8]).unwrap_err().to_string().contains("part 1, which owns 0"));
    assert!(table.write_rows(Part(2), &[0; 8]).unwrap_err().to_string().contains("no part 2"));
    table.append(&[0; 8]).unwrap();
    assert!(writer.close_table(table).unwrap_err().to_string().contains("part 0 has 1 of its 2 rows"));
    assert!(writer.add_table("t", "n", DType::F32, &[2]).unwrap_err().to_string().contains("added before"));
    assert!(writer.add_table("../t", "n", DType::F32, &[2]).is_err());
    assert!(writer.add_table("u", "m", DType::F32, &[2]).unwrap_err().to_string().contains("`m`"));
    assert!(writer.add_book("m", BookSpec::Ranges(&[0, 2])).is_err());
    assert!(writer.finish().unwrap_err().to_string().contains("0 shards"));
}

/// The graph, its tables and the map back are the same graph under other names.
#[test]
fn a_graph_dataset_keeps_every_edge_and_row() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("ds");
    let edges: Vec<(u32, u32)> = (0..500).map(|i| (i * 7 % 100, i * i % 100)).collect();
    let graph = CsrGraph::from_edges(100, &edges).unwrap();
    let names: Vec<String> = (0..100).map(|vertex| format!("v{vertex}")).collect();
    let table = TableSource {
        name: "feat".into(),
        form: RowForm::new(DType::F32, &[2]).unwrap(),
        classes: None,
        fill: Box::new(|id, row| {
            row[..4].copy_from_slice(&(id as f32).to_le_bytes());
            Ok(())
        }),
    };
    let source = GraphDataset {
        name: "g".into(),
        vertex_type: "_N".into(),
        graph: &graph,
        names: Some(&names),
        tables: vec![table],
        parts: 3,
        seed: 1,
        keep_ids: false,
    };
    let summary = write_graph_dataset(&dir, &source, Existing::Refuse, quiet()).unwrap();
    let dataset = Dataset::open_for_tools(&dir, Verify::Full, quiet()).unwrap();
    let original = dataset.original_ids("_N").unwrap().unwrap();
    let renamed = dataset.load_graph().unwrap().unwrap();
    assert_eq!((summary.vertices, summary.edges), (100, graph.edges()));
    let mut back: Vec<(u64, u64)> = renamed
        .iter_edges()
        .map(|(a, b)| (original[a as usize], original[b as usize]))
        .map(|(a, b)| (a.min(b), a.max(b)))
        .collect();
    back.sort_unstable();
    assert_eq!(back, graph.iter_edges().map(|(a, b)| (u64::from(a), u64::from(b))).collect::<Vec<_>>());
    let feat = dataset.table("feat").unwrap();
    let crossing = renamed
        .iter_edges()
        .filter(|&(a, b)| feat.book.locate(u64::from(a)).unwrap().part != feat.book.locate(u64::from(b)).unwrap().part);
    assert_eq!(crossing.count() as u64, summary.edge_cut);
    let part_of = |vertex: u32| feat.book.locate(u64::from(vertex)).unwrap().part;
    let degrees = dataset.remote_degrees(feat).unwrap().unwrap();
    let expected = (0..100).filter(|&vertex| part_of(vertex) != Part(0)).filter_map(|vertex| {
        let edges = renamed.neighbours(vertex).iter().filter(|&&other| part_of(other) == Part(0)).count();
        (edges > 0).then_some((vertex, edges as f32))
    });
    assert_eq!(degrees, expected.collect::<Vec<_>>(), "edges from part 0, by the remote end");
    for id in 0..100 {
        let at = feat.book.locate(id).unwrap();
        let shard = dataset.open_shard(feat, at.part).unwrap();
        let row: Vec<f32> =
            shard.row(at.row).unwrap().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(row, [original[id as usize] as f32, 0.0]);
    }
}
