//! Data sets of OGB in each of their layouts: the same graph must come out of all.

use std::fs;
use std::io::Write;
use std::path::Path;

use rudder_client::DType;

use super::graph_tests::{expect_error, words};
use super::tests::{Bench, labels_in_order, npz, quiet, rows_in_order};
use super::*;
use rudder_dataset::RowForm;
use rudder_dataset::npy::encode_header;

/// A graph of six vertices as OGB has it; feature row i is [i, i / 2], vertex 4 has no label.
fn ogb(bench: &Bench, dtype: Option<DType>) -> OgbImport {
    OgbImport {
        name: "o".into(),
        out: bench.out(),
        parts: 2,
        seed: 1,
        dir: bench.0.path().join("ogb"),
        dtype,
        lossy: false,
        vertex_type: "_N".into(),
        keep_ids: false,
        book: None,
        existing: Existing::Refuse,
    }
}

fn gzip(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut packer = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap();
}

fn write_ogb_csv(dir: &Path) {
    let raw = dir.join("raw");
    gzip(&raw.join("edge.csv.gz"), "0,1\n1,2\n2,0\n3,4\n4,5\n5,3\n0,3\n");
    gzip(&raw.join("num-node-list.csv.gz"), "6\n");
    gzip(&raw.join("num-edge-list.csv.gz"), "7\n");
    gzip(&raw.join("node-feat.csv.gz"), "0,0\n1,0.5\n2,1.0\n3,1.5\n4,2.0\n5,2.5\n");
    gzip(&raw.join("node-label.csv.gz"), "10\n11\n12\n13\nnan\n15\n");
    gzip(&raw.join("node_year.csv.gz"), "2000\n2001\n2002\n2003\n2004\n2005\n");
    gzip(&dir.join("split/time/train.csv.gz"), "0\n1\n3\n");
    gzip(&dir.join("split/time/valid.csv.gz"), "2\n");
    gzip(&dir.join("split/time/test.csv.gz"), "5\n");
}

/// What every layout of the graph must give, by original id.
fn check_ogb(bench: &Bench, extra: &[&str]) {
    let dataset = bench.open();
    let original = dataset.original_ids("_N").unwrap().unwrap_or_else(|| (0..6).collect());
    let tables: Vec<&str> = dataset.tables().iter().map(|table| table.name.as_str()).collect();
    assert!(extra.iter().all(|name| tables.contains(name)), "{tables:?}");
    let feat = rows_in_order(&dataset, "feat");
    let expected: Vec<u8> =
        original.iter().flat_map(|&id| [id as f32, id as f32 / 2.0]).flat_map(f32::to_le_bytes).collect();
    assert_eq!(feat, expected);
    let labels: Vec<i64> = original.iter().map(|&id| if id == 4 { -1 } else { 10 + id as i64 }).collect();
    assert_eq!(labels_in_order(&dataset), labels);
    if extra.contains(&"train_mask") {
        let mask: Vec<u8> = original.iter().map(|id| u8::from([0, 1, 3].contains(id))).collect();
        assert_eq!(rows_in_order(&dataset, "train_mask"), mask);
        assert_eq!(dataset.table("train_mask").unwrap().form, RowForm::new(DType::Bool, &[]).unwrap());
    }
}

#[test]
fn ogb_as_csv() {
    let bench = Bench::new();
    let mut import = ogb(&bench, None);
    write_ogb_csv(&import.dir);
    let summary = import_ogb(&import, quiet()).unwrap();
    assert_eq!(summary.graph.unwrap().edges, 7);
    check_ogb(&bench, &["year", "train_mask", "val_mask", "test_mask"]);
    // The book says who owns which id: edges are not looked at.
    gzip(&import.dir.join("raw/edge.csv.gz"), "x,y\n");
    import.existing = Existing::Replace;
    expect_error(import_ogb(&import, quiet()), &["edge.csv.gz:1: "]);
    import.book = Some(BookChoice::Ranges);
    import_ogb(&import, quiet()).unwrap();
    check_ogb(&bench, &["year", "train_mask"]);
    (import.dtype, import.vertex_type) = (Some(DType::F16), "paper".into());
    import_ogb(&import, quiet()).unwrap();
    let forms = |name: &str| bench.open().table(name).unwrap().form.clone();
    assert_eq!(forms("paper.feat"), RowForm::new(DType::F16, &[2]).unwrap());
    // OGB's own arrays of labels and years are [n, 1], too.
    assert_eq!(
        ["paper.label", "paper.year"].map(forms),
        [RowForm::new(DType::I64, &[1]).unwrap(), RowForm::new(DType::I64, &[1]).unwrap()]
    );
    import.book = None;
    write_ogb_csv(&import.dir);
    import_ogb(&import, quiet()).unwrap();
    assert_eq!(forms("paper.label"), RowForm::new(DType::I64, &[1]).unwrap());
    import.book = Some(BookChoice::Ranges);
    for (name, text, expected) in [
        ("raw/node-feat.csv.gz", "0,0\n1\n", "node-feat.csv.gz:2: 1 columns"),
        ("raw/node-feat.csv.gz", "0,0\n1,x\n", "node-feat.csv.gz:2: `x`"),
        ("raw/node-feat.csv.gz", "0,0\n1,1e39\n", "node-feat.csv.gz:2: `1e39`"),
        ("raw/node-feat.csv.gz", "0,0\n1,1\n", "node-feat.csv.gz: 2 rows, but"),
        ("split/time/train.csv.gz", "6\n", "train.csv.gz: entry 0: vertex 6"),
        ("raw/num-node-list.csv.gz", "3\n3\n", "num-node-list.csv.gz: 2 graphs"),
    ] {
        write_ogb_csv(&import.dir);
        gzip(&import.dir.join(name), text);
        expect_error(import_ogb(&import, quiet()), &[expected]);
    }
    fs::remove_dir_all(&import.dir).unwrap();
    fs::create_dir_all(&import.dir).unwrap();
    expect_error(import_ogb(&import, quiet()), &["no data set of OGB"]);
}

#[test]
fn ogb_in_binary() {
    let floats: Vec<u8> =
        (0..6u8).flat_map(|id| [f32::from(id), f32::from(id) / 2.0]).flat_map(f32::to_le_bytes).collect();
    let labels: Vec<u8> =
        [10.0, 11.0, 12.0, 13.0, f32::NAN, 15.0].iter().flat_map(|label: &f32| label.to_le_bytes()).collect();
    let array = |descr: &str, shape: &[u64], bytes: &[u8]| [encode_header(descr, shape), bytes.to_vec()].concat();
    let index = array("<i8", &[2, 2], &words(&[0, 2, 1, 3]));
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let bench = Bench::new();
        let import = ogb(&bench, None);
        let raw = import.dir.join("raw");
        fs::create_dir_all(&raw).unwrap();
        let data = npz(
            method,
            &[
                ("edge_index", &index),
                ("num_nodes_list", &array("<i8", &[1], &words(&[6]))),
                ("node_feat", &array("<f4", &[6, 2], &floats)),
                ("node_year", &array("<i8", &[6, 1], &words(&[0; 6]))),
                ("edge_feat", &array("<i8", &[2, 1], &words(&[0; 2]))),
            ],
        );
        fs::write(raw.join("data.npz"), data).unwrap();
        fs::write(raw.join("node-label.npz"), npz(method, &[("node_label", &array("<f4", &[6, 1], &labels))])).unwrap();
        let summary = import_ogb(&import, quiet()).unwrap();
        check_ogb(&bench, &["year"]);
        assert!(summary.notes.iter().any(|note| note.contains("`edge_feat` was not read")), "{:?}", summary.notes);
        // Two edges of [2, 2]: rows are known to be sources and destinations.
        let dataset = bench.open();
        let original = dataset.original_ids("_N").unwrap().unwrap();
        let edges: std::collections::BTreeSet<(u64, u64)> = dataset
            .load_graph()
            .unwrap()
            .unwrap()
            .iter_edges()
            .map(|(a, b)| (original[a as usize], original[b as usize]))
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        assert_eq!(edges, [(0, 1), (2, 3)].into());
    }
}

#[test]
fn mag240m_as_it_lies() {
    let bench = Bench::new();
    let mut import = ogb(&bench, Some(DType::F32));
    let paper = import.dir.join("processed/paper");
    let cites = import.dir.join("processed/paper___cites___paper");
    fs::create_dir_all(&paper).unwrap();
    let halves: Vec<u8> = (0..6u8)
        .flat_map(|id| [f32::from(id), f32::from(id) / 2.0])
        .flat_map(|number| half::f16::from_f32(number).to_le_bytes())
        .collect();
    fs::write(paper.join("node_feat.npy"), [encode_header("<f2", &[6, 2]), halves].concat()).unwrap();
    let labels: Vec<u8> =
        [10.0, 11.0, 12.0, 13.0, f32::NAN, 15.0].iter().flat_map(|label: &f32| label.to_le_bytes()).collect();
    fs::write(paper.join("node_label.npy"), [encode_header("<f4", &[6]), labels].concat()).unwrap();
    expect_error(import_ogb(&import, quiet()), &["no citations", "--book ranges"]);
    import.book = Some(BookChoice::Ranges);
    import_ogb(&import, quiet()).unwrap();
    check_ogb(&bench, &[]);
    fs::create_dir_all(&cites).unwrap();
    fs::write(cites.join("edge_index.npy"), [encode_header("<i8", &[2, 3]), words(&[0, 1, 2, 1, 2, 3])].concat())
        .unwrap();
    (import.book, import.existing) = (None, Existing::Replace);
    let summary = import_ogb(&import, quiet()).unwrap();
    assert_eq!(summary.graph.unwrap().edges, 3);
    check_ogb(&bench, &[]);
}
