//! Imports as a whole, bit for bit, and each bad input with what its message must say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use rudder_dataset::npy::encode_header;
use rudder_dataset::{Dataset, Part, Verify};

fn quiet() -> &'static Progress<'static> {
    &|_, _, _| ()
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn array(&self, name: &str, descr: &str, shape: &[u64], data: &[u8]) -> PathBuf {
        self.write(name, [&encode_header(descr, shape), data].concat())
    }

    fn open(&self) -> Dataset {
        Dataset::open_for_tools(&self.out(), Verify::Full, &|_, _| ()).unwrap()
    }

    fn npy(&self, parts: u16, tables: Vec<ArrayTable>) -> NpyImport {
        let (out, books) = (self.out(), BTreeMap::new());
        NpyImport { name: "n".into(), out, parts, tables, books, existing: Existing::Refuse }
    }

    fn edges(&self, edges: &Path, parts: u16) -> EdgesImport {
        EdgesImport {
            name: "g".into(),
            out: self.out(),
            parts,
            seed: 1,
            edges: edges.to_owned(),
            labels: None,
            tables: Vec::new(),
            vertex_type: "_N".into(),
            force_names: false,
            existing: Existing::Refuse,
        }
    }
}

fn table(name: &str, path: &Path, dtype: Option<DType>) -> ArrayTable {
    ArrayTable { name: name.into(), vertex_type: "_N".into(), path: path.to_owned(), dtype }
}

/// All rows of a table in the order of ids, through book and shards.
fn rows_in_order(dataset: &Dataset, name: &str) -> Vec<u8> {
    let table = dataset.table(name).unwrap();
    let shards: Vec<_> = Part::all(dataset.parts()).map(|part| dataset.open_shard(table, part).unwrap()).collect();
    let ids = 0..table.rows;
    ids.flat_map(|id| {
        let at = table.book.locate(id).unwrap();
        shards[at.part.index()].row(at.row).unwrap().to_vec()
    })
    .collect()
}

fn labels_in_order(dataset: &Dataset) -> Vec<i64> {
    rows_in_order(dataset, "label").as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn npy_round_trips_bit_for_bit(
        rows in 0u64..60,
        width in 1u64..5,
        parts in 1u16..6,
        owners in proptest::option::of(proptest::collection::vec(any::<u16>(), 60)),
        seed in any::<u64>(),
    ) {
        let bench = Bench::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = |count: u64| (0..count).map(|_| random.u8(..)).collect::<Vec<u8>>();
        let (feat, mask) = (bytes(rows * width * 4), bytes(rows));
        let feat_file = bench.array("feat.npy", "<f4", &[rows, width], &feat);
        let mask_file = bench.array("mask.npy", "|b1", &[rows], &mask);
        let mut import = bench.npy(parts, vec![table("feat", &feat_file, None), table("mask", &mask_file, None)]);
        if let Some(owners) = &owners {
            let owners: Vec<u8> = owners[..rows as usize].iter().flat_map(|owner| i32::from(owner % parts).to_le_bytes()).collect();
            let path = bench.array("owner.npy", "<i4", &[rows], &owners);
            import.books.insert("_N".into(), BookChoice::Map(path));
        }
        let summary = import_npy(&import, quiet()).unwrap();
        let dataset = bench.open();
        prop_assert_eq!(&summary.fingerprint, &format!("{:016x}", dataset.fingerprint()));
        prop_assert_eq!(rows_in_order(&dataset, "feat"), feat);
        prop_assert_eq!(rows_in_order(&dataset, "mask"), mask);
        if let Some(owners) = &owners {
            let book = &dataset.table("feat").unwrap().book;
            for id in 0..rows { prop_assert_eq!(book.locate(id).unwrap().part, Part(owners[id as usize] % parts)); }
        }
    }

    #[test]
    fn edges_round_trip_bit_for_bit(edges in proptest::collection::vec((0u32..40, 0u32..40), 1..120), parts in 1u16..5) {
        let bench = Bench::new();
        let text: String = edges.iter().map(|(a, b)| format!("{a}\t{b}\n")).collect();
        let feat: Vec<u8> = (0..40u32).flat_map(|id| (id as f32).to_le_bytes()).collect();
        let mut import = bench.edges(&bench.write("edges.txt", text), parts);
        import.tables.push(table("feat", &bench.array("feat.npy", "<f4", &[40], &feat), None));
        let summary = import_edges(&import, quiet()).unwrap().graph.unwrap();
        let dataset = bench.open();
        let original = dataset.original_ids("_N").unwrap().unwrap();
        let expected: Vec<u8> = original.iter().flat_map(|&id| (id as f32).to_le_bytes()).collect();
        prop_assert_eq!(rows_in_order(&dataset, "feat"), expected);
        let graph = dataset.load_graph().unwrap().unwrap();
        let back: BTreeSet<(u64, u64)> = graph.iter_edges().map(|(a, b)| {
            let (a, b) = (original[a as usize], original[b as usize]);
            (a.min(b), a.max(b))
        }).collect();
        let expected: BTreeSet<(u64, u64)> = edges.iter().filter(|(a, b)| a != b)
            .map(|&(a, b)| (u64::from(a.min(b)), u64::from(a.max(b)))).collect();
        prop_assert_eq!(summary.edges, expected.len() as u64);
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn text_never_panics(text in "[0-9a-c ,;\t#\r\n-]{0,60}") {
        let bench = Bench::new();
        let path = bench.write("any.txt", text);
        let _ = read_edges(&path, &[], false, &|_, _| ());
        let _ = read_labels(&path, &|_, _| ());
    }
}

#[test]
fn npy_converts_what_it_is_told() {
    let bench = Bench::new();
    let ones: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    let feat = bench.array("feat.npy", "<f4", &[3], &ones);
    let labels: Vec<u8> = [7i32, -1, 3].iter().flat_map(|x| x.to_le_bytes()).collect();
    let label = bench.array("y.npy", "<i4", &[3], &labels);
    import_npy(&bench.npy(2, vec![table("feat", &feat, Some(DType::Bf16)), table("label", &label, None)]), quiet())
        .unwrap();
    let dataset = bench.open();
    assert_eq!(dataset.table("feat").unwrap().dtype, DType::Bf16);
    assert_eq!(rows_in_order(&dataset, "feat"), [0xc0, 0x3f, 0x00, 0xc0, 0x80, 0x3e]);
    assert_eq!(labels_in_order(&dataset), [7, -1, 3]);
}

#[test]
fn npy_takes_several_vertex_types() {
    let bench = Bench::new();
    let a = bench.array("a.npy", "|u1", &[4], &[1, 2, 3, 4]);
    let b = bench.array("b.npy", "|u1", &[2, 2], &[5, 6, 7, 8]);
    let mut other = table("b", &b, None);
    other.vertex_type = "paper".into();
    import_npy(&bench.npy(2, vec![table("a", &a, None), other]), quiet()).unwrap();
    let dataset = bench.open();
    assert_eq!((rows_in_order(&dataset, "a"), rows_in_order(&dataset, "b")), (vec![1, 2, 3, 4], vec![5, 6, 7, 8]));
    assert_eq!(dataset.table("b").unwrap().vertex_type, "paper");
}

#[test]
fn npy_refuses_with_the_file_that_is_wrong() {
    let bench = Bench::new();
    let feat = bench.array("feat.npy", "<f4", &[3, 1], &[0; 12]);
    let short = bench.array("short.npy", "<f4", &[2], &[0; 8]);
    let torn = bench.array("torn.npy", "<f4", &[3], &[0; 11]);
    let wide = bench.array("wide.npy", "<u8", &[1], &u64::MAX.to_le_bytes());
    let owner = bench.array("owner.npy", "|u1", &[3], &[0, 1, 2]);
    let few = bench.array("few.npy", "|u1", &[2], &[0, 1]);
    let refuse = |tables: Vec<ArrayTable>, book: Option<&Path>, expected: [&str; 2]| {
        let mut import = bench.npy(2, tables);
        import.books.extend(book.map(|path| ("_N".to_owned(), BookChoice::Map(path.to_owned()))));
        let message = import_npy(&import, quiet()).unwrap_err().to_string();
        assert!(expected.iter().all(|words| message.contains(words)), "{message}\nshould say {expected:?}");
        assert!(!bench.out().exists());
    };
    let one = |path: &Path, dtype| vec![table("t", path, dtype)];
    refuse(vec![table("a", &feat, None), table("b", &short, None)], None, ["short.npy: 2 rows", "feat.npy has 3"]);
    refuse(one(&torn, None), None, ["torn.npy: truncated", "promises"]);
    refuse(one(&feat, Some(DType::I64)), None, ["feat.npy", "F32 cannot be stored as i64"]);
    refuse(one(&wide, None), None, ["wide.npy: row 0", "18446744073709551615"]);
    refuse(one(&feat, None), Some(&owner), ["owner.npy: id 2 is owned by part 2", "2 parts"]);
    refuse(one(&feat, None), Some(&few), ["few.npy: 2 rows", "feat.npy has 3"]);
    refuse(one(&bench.0.path().join("none.npy"), None), None, ["none.npy: cannot open", "No such file"]);
    refuse(vec![table("t", &feat, None), table("t", &feat, None)], None, ["`t`", "before"]);
    bench.write("out", b"a file");
    let message = import_npy(&bench.npy(2, one(&feat, None)), quiet()).unwrap_err().to_string();
    assert!(message.contains("out: cannot read the folder"), "{message}");
}

#[test]
fn names_get_ids_in_order_of_appearance_and_are_kept() {
    let bench = Bench::new();
    let edges = bench.write("edges.csv", "# a comment\ncarol, alice\n\nalice;bob\r\nbob carol\n");
    let labels = bench.write("labels.tsv", "dave\tz\ncarol\ty\nbob\tz\n");
    let list = read_edges(&edges, &[], false, &|_, _| ()).unwrap();
    assert_eq!(list.names.as_deref(), Some(&["carol".into(), "alice".into(), "bob".into()][..]));
    assert_eq!(list.edges, [(0, 1), (1, 2), (2, 0)]);
    let mut import = bench.edges(&edges, 2);
    import.labels = Some(labels);
    import_edges(&import, quiet()).unwrap();
    let dataset = bench.open();
    // Names of the labels come first: a table's row is then the line of the labels.
    let names = fs::read_to_string(bench.out().join("ids/_N.names.txt")).unwrap();
    assert_eq!(names, "dave\ncarol\nbob\nalice\n");
    assert_eq!(dataset.table("label").unwrap().classes.as_deref(), Some(&["y".into(), "z".into()][..]));
    let original = dataset.original_ids("_N").unwrap().unwrap();
    let by_original: BTreeMap<u64, i64> = original.into_iter().zip(labels_in_order(&dataset)).collect();
    assert_eq!(by_original.into_values().collect::<Vec<_>>(), [1, 0, 1, -1]);
}

#[test]
fn labels_of_all_shapes_reach_their_vertices() {
    let cases: [(&str, &[i64]); 4] = [
        ("5\n6\n\n8\n", &[5, 6, -1, 8]),
        ("3,30\n1,10\n0,0\n", &[0, 10, -1, 30]),
        ("Computer Science\nArt\nArt\nLaw\n", &[1, 0, 0, 2]),
        ("0ad\tgames\n2048\tgames\nbash\tshells\nvim\teditors\n", &[1, 1, 2, 0]),
    ];
    for (labels, expected) in cases {
        let bench = Bench::new();
        let pairs: Vec<u8> = [0u32, 1, 1, 2, 2, 3].iter().flat_map(|id| id.to_le_bytes()).collect();
        let mut import = bench.edges(&bench.array("edges.npy", "<u4", &[3, 2], &pairs), 2);
        import.labels = Some(bench.write("labels", labels));
        import_edges(&import, quiet()).unwrap();
        let dataset = bench.open();
        let original = dataset.original_ids("_N").unwrap().unwrap();
        for (id, label) in original.into_iter().zip(labels_in_order(&dataset)) {
            assert_eq!(label, expected[id as usize], "vertex {id} of {labels:?}");
        }
        assert_eq!(bench.out().join("ids/_N.names.txt").exists(), labels.starts_with("0ad"));
    }
}

#[test]
fn edge_arrays_and_packed_text_are_the_same_edges() {
    let bench = Bench::new();
    let words = |ids: &[i64]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let pairs = bench.array("pairs.npy", "<i8", &[3, 2], &words(&[0, 1, 1, 2, 4, 0]));
    let index = bench.array("index.npy", "<i8", &[2, 3], &words(&[0, 1, 4, 1, 2, 0]));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(b"0 1\n1 2\n4 0\n").unwrap();
    let text = bench.write("edges.txt.gz", packer.finish().unwrap());
    for path in [pairs, index, text] {
        let list = read_edges(&path, &[], false, &|_, _| ()).unwrap();
        assert_eq!(list, EdgeList { edges: vec![(0, 1), (1, 2), (4, 0)], vertices: 5, names: None });
    }
    let sparse = bench.write("sparse.txt", "99999999999 7\n");
    let list = read_edges(&sparse, &[], true, &|_, _| ()).unwrap();
    assert_eq!((list.vertices, list.edges), (2, vec![(0, 1)]));
}

#[test]
fn bad_edges_and_labels_name_file_and_line() {
    let bench = Bench::new();
    let good = bench.write("good.txt", "0 1\n1 2\n");
    let feat = bench.array("feat.npy", "|u1", &[2], &[1, 2]);
    let refuse = |edges: &str, labels: Option<&str>, with_table: bool, expected: &str| {
        let path = if edges.is_empty() { good.clone() } else { bench.write("edges.txt", edges) };
        let mut import = bench.edges(&path, 2);
        import.labels = labels.map(|labels| bench.write("labels.txt", labels));
        import.tables.extend(with_table.then(|| table("feat", &feat, None)));
        let message = import_edges(&import, quiet()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nshould say: {expected}");
        assert!(!bench.out().exists());
    };
    refuse("0 1\n\n2\n", None, false, "edges.txt:3: one column");
    refuse("0 1\n1 2 0.5\n", None, false, "edges.txt:2: 3 columns");
    refuse("src,dst\n0,1\n", None, false, "edges.txt:2: a pair of integers after a first line");
    refuse("0 1\n1 4294967295\n", None, false, "edges.txt:2: the vertex id 4294967295");
    refuse("", None, true, "an edge names vertex 2, but");
    refuse("", Some("1\n2\n"), false, "labels.txt has only 2 rows");
    refuse("", Some("0,1\n1\n"), false, "labels.txt:2: the first line has two columns");
    refuse("", Some("0,1\n0,2\n"), false, "labels.txt: the vertex `0` is there twice");
    refuse("a b\n", Some("1\n2\n"), false, "labels.txt: the vertices have names");
    refuse("", Some("7,1\n"), true, "an edge names vertex 2");
    let negative: Vec<u8> = [0i64, -1].iter().flat_map(|id| id.to_le_bytes()).collect();
    let path = bench.array("negative.npy", "<i8", &[1, 2], &negative);
    assert!(read_edges(&path, &[], false, &|_, _| ()).unwrap_err().to_string().contains("negative.npy: row 0"));
    let path = bench.array("floats.npy", "<f4", &[1, 2], &[0; 8]);
    assert!(read_edges(&path, &[], false, &|_, _| ()).unwrap_err().to_string().contains("integers"));
    let path = bench.write("latin.txt", b"0 1\n\xff\xfe 2\n");
    assert!(read_edges(&path, &[], false, &|_, _| ()).unwrap_err().to_string().contains("latin.txt:2: not text"));
    let path = bench.write("long.txt", vec![b'1'; 2 << 20]);
    assert!(read_edges(&path, &[], false, &|_, _| ()).unwrap_err().to_string().contains("long.txt:1: longer"));
}
