//! Graphs as strangers write them: each kind of text and array with what must come out of it, or what the error names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::tests::{Bench, labels_in_order, quiet, rows_in_order, table};
use super::*;
use rudder_dataset::npy::encode_header;

pub(super) fn words(ids: &[i64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn read(path: &Path) -> Result<EdgeList, DatasetError> {
    read_edges(path, EdgeOptions::default(), &|_, _| ())
}

pub(super) fn expect_error<T>(result: Result<T, DatasetError>, expected: &[&str]) {
    let message = result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(expected.iter().all(|words| message.contains(words)), "{message:?}\nshould say {expected:?}");
    assert!(!message.contains("manifest"), "{message}: there is no manifest in an import");
}

/// Labels by original id.
fn labels_of(bench: &Bench) -> Vec<i64> {
    let dataset = bench.open();
    let labels = labels_in_order(&dataset);
    let Some(original) = dataset.original_ids("_N").unwrap() else { return labels };
    let by_original: BTreeMap<u64, i64> = original.into_iter().zip(labels).collect();
    by_original.into_values().collect()
}

#[test]
fn edges_of_ids_however_they_are_written() {
    let cases = [
        ("0 1\n1 2\n4 0\n", "plain"),
        ("\u{feff}0 1\r\n1 2\r\n4 0\r\n\r\n", "a byte order mark, CRLF, a blank line at the end"),
        ("# 5 3\n% 9 9\n\n0 1\n1 2\n4 0", "comments, a blank line, no end of line"),
        ("src,dst\n0,1\n1,2\n4,0\n", "a heading"),
        ("FromNodeId\tToNodeId\n0\t1\n1\t2\n4\t0\n", "a heading"),
        ("\"from\";\"to\"\n\"0\";\"1\"\n\"1\";\"2\"\n\"4\";\"0\"\n", "quotes"),
        ("'0' '1'\n'1' '2'\n'4' '0'\n", "single quotes"),
        ("0.0,1.0\n1.0,2.0\n4.0,0.0\n", "floats"),
        ("0.000000000000000000e+00 1.000000000000000000e+00\n1e0 2e0\n4 0\n", "numpy.savetxt"),
        ("  0   1\n\t1 2 \n4\t0\n", "blanks"),
        ("0,1,\n1,2,\n4,0,\n", "a separator at the end"),
        ("00 01\n01 02\n04 00\n", "zeros in front"),
    ];
    for (text, kind) in cases {
        let bench = Bench::new();
        let list = read(&bench.write("edges.txt", text)).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(
            (list.edges, list.vertices, list.names.is_none()),
            (vec![(0, 1), (1, 2), (4, 0)], 5, true),
            "{kind}"
        );
        assert_eq!(
            list.notes.iter().any(|note| note.contains(":1: taken as a heading")),
            kind == "a heading" || kind == "quotes"
        );
    }
}

#[test]
fn edges_that_may_be_read_in_two_ways_name_line_and_token() {
    let cases: [(&str, &[&str]); 20] = [
        ("paper,cited\na,b\nb,c\n", &["e.txt:1: `paper` and `cited` are in no other line and may be a heading"]),
        ("0 1\n1 -1\n", &["e.txt:2: `-1` is below 0", "--names"]),
        ("0 1\n\n0 two\n", &["e.txt:3: `two` is not an integer", "--names"]),
        ("0 1\n1 0.5\n", &["e.txt:2: `0.5` is not an integer"]),
        ("0 1\n1 nan\n", &["e.txt:2: `nan`"]),
        ("0 1\n1 99999999999999999999\n", &["e.txt:2: `99999999999999999999`"]),
        ("0 1\n1 9007199254740993.0\n", &["e.txt:2: `9007199254740993.0`"]),
        ("a 1\nb 2\n", &["e.txt:1: `a`", "--names"]),
        ("a b\n0 1\nc d\n", &["e.txt:3: `c`"]),
        ("a b\nc d\n0 1\n", &["e.txt:3: `0` and `1` are integers", "--names"]),
        ("a b\n", &["e.txt:1: `a` and `b` in the only line", "--names"]),
        ("0 1 0.5\n", &["e.txt:1: 3 columns", "--columns 1,2", "weights"]),
        (",src,dst\n0,0,1\n", &["e.txt:1: 3 columns"]),
        ("0 1\n2\n", &["e.txt:2: one column"]),
        ("0,1\n2 3\n", &["e.txt:2: one column, separated by a comma as in the first line"]),
        ("0,1\n,3\n", &["e.txt:2: an empty column"]),
        ("\"0 1\n", &["e.txt:1: a quote that does not end"]),
        ("%%MatrixMarket matrix coordinate\n3 3 1\n1 2\n", &["e.txt:1: a Matrix Market file"]),
        ("0 1\r1 2\r", &["e.txt:1: a carriage return"]),
        ("0 1\n1 3000000000\n2 3\n", &["e.txt:2: the vertex id 3000000000, where 3 edges", "--names", "--vertices"]),
    ];
    for (text, expected) in cases {
        expect_error(read(&Bench::new().write("e.txt", text)), expected);
    }
    let bench = Bench::new();
    expect_error(read(&bench.write("latin.txt", b"0 1\n\xff\xfe 2\n")), &["latin.txt:2: not text"]);
    expect_error(read(&bench.write("wide.txt", b"0\0 \x001\0\n")), &["wide.txt:1: ", "a zero byte"]);
    expect_error(read(&bench.write("long.txt", vec![b'1'; 2 << 20])), &["long.txt:1: longer"]);
    expect_error(read(&bench.write("e.zip", b"PK\x03\x04....")), &["e.zip: a zip archive"]);
    expect_error(read(&bench.write("e.xz", b"\xfd7zXZ\0....")), &["e.xz: packed", "unxz"]);
    expect_error(read(bench.0.path()), &["a folder"]);
    expect_error(read(&bench.0.path().join("none")), &["none: cannot open"]);
}

#[test]
fn options_say_what_a_text_does_not() {
    let bench = Bench::new();
    let read = |text: &str, options| read_edges(&bench.write("e.txt", text), options, &|_, _| ()).unwrap();
    let weights = EdgeOptions { columns: Some((3, 1)), ..EdgeOptions::default() };
    let list = read("src,weight,dst\n0,0.5,1\n2,7,0\n", weights);
    assert_eq!((list.edges, list.vertices), (vec![(1, 0), (0, 2)], 3));
    assert!(list.notes.iter().any(|note| note.contains("columns 3 and 1")), "{:?}", list.notes);
    let names = EdgeOptions { force_names: true, ..EdgeOptions::default() };
    let list = read("99999999999 -7\n-7 x\n", names);
    assert_eq!(
        (list.edges, list.names.unwrap().list().to_vec()),
        (vec![(0, 1), (1, 2)], vec!["99999999999".into(), "-7".into(), "x".to_owned()])
    );
    // A count of vertices justifies any id below it, and none above.
    let rows = |rows| EdgeOptions { rows: Some(RowCount { rows, by: "feat.npy".into() }), ..EdgeOptions::default() };
    assert_eq!(read("0 3000000\n", rows(3_000_001)).vertices, 3_000_001);
    let path = bench.write("e.txt", "0 1\n1 5\n");
    expect_error(read_edges(&path, rows(5), &|_, _| ()), &["e.txt:2: the vertex id 5, but feat.npy has 5 rows"]);
    for options in [EdgeOptions::default(), EdgeOptions { force_names: true, ..EdgeOptions::default() }] {
        let list = read("# x\nsrc_id,Dst\na,b\nb,c\n", options);
        assert_eq!((list.edges, list.names.unwrap().list().join(" ")), (vec![(0, 1), (1, 2)], "a b c".to_owned()));
        assert!(list.notes[0].contains("e.txt:2: taken as a heading"), "{:?}", list.notes);
    }
    let list = read("\"Smith, John\",\"Doe \"\"J\"\"\"\nx,\"Smith, John\"\n", EdgeOptions::default());
    assert_eq!(list.names.unwrap().list(), ["Smith, John", "Doe \"J\"", "x"]);
}

#[test]
fn sparse_ids_are_bounded_by_edges() {
    let bench = Bench::new();
    let many: String = (0..40_000u32).map(|id| format!("{id} {}\n", id + 1)).collect();
    assert_eq!(read(&bench.write("e.txt", "0 999999\n")).unwrap().vertices, 1_000_000);
    expect_error(read(&bench.write("e.txt", "0 1000000\n")), &["e.txt:1: the vertex id 1000000, where 1 edges"]);
    assert!(read(&bench.write("e.txt", format!("0 1280031\n{many}"))).is_ok());
    expect_error(
        read(&bench.write("e.txt", format!("0 1280032\n{many}"))),
        &["e.txt:1: the vertex id 1280032", "below 1280032"],
    );
}

#[test]
fn edge_arrays_and_packed_text_are_the_same_edges() {
    let bench = Bench::new();
    let pairs = bench.array("pairs.npy", "<i8", &[3, 2], &words(&[0, 1, 1, 2, 4, 0]));
    let index = bench.array("index.npy", "<i8", &[2, 3], &words(&[0, 1, 4, 1, 2, 0]));
    let swapped: Vec<u8> = [0i64, 1, 1, 2, 4, 0].iter().flat_map(|id| id.to_be_bytes()).collect();
    let swapped = bench.array("swapped.npy", ">i8", &[3, 2], &swapped);
    let small = bench.array("small.npy", "|u1", &[3, 2], &[0, 1, 1, 2, 4, 0]);
    // `numpy.save(edge_index.T)` keeps the bytes and says Fortran order.
    let header = encode_header("<i8", &[3, 2]);
    let header = String::from_utf8_lossy(&header[10..]).replace("False, ", "True,  ");
    let fortran = [&encode_header("<i8", &[3, 2])[..10], header.as_bytes(), &words(&[0, 1, 4, 1, 2, 0])].concat();
    let fortran = bench.write("fortran.npy", fortran);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(b"0 1\n1 2\n4 0\n").unwrap();
    let text = bench.write("edges.txt", packer.finish().unwrap());
    for path in [pairs, index, swapped, small, fortran, text] {
        let list = read(&path).unwrap();
        assert_eq!((list.edges, list.vertices), (vec![(0, 1), (1, 2), (4, 0)], 5), "{}", path.display());
    }
}

#[test]
fn edge_arrays_that_are_none_are_errors_about_themselves() {
    let bench = Bench::new();
    let array = |descr: &str, shape: &[u64], bytes: &[u8]| bench.array("e.npy", descr, shape, bytes);
    expect_error(read(&array("<i8", &[2, 2], &words(&[0, 2, 1, 3]))), &["(2, 2)", "two ways", "--edge-layout"]);
    expect_error(read(&array("<i8", &[4], &words(&[0, 2, 1, 3]))), &["the shape (4,) is no edge list"]);
    expect_error(read(&array("<i8", &[2, 2, 1], &words(&[0, 2, 1, 3]))), &["(2, 2, 1) is no edge list"]);
    expect_error(read(&array("<i8", &[3, 3], &[0; 72])), &["(3, 3) is no edge list"]);
    expect_error(read(&array("<f8", &[1, 2], &[0; 16])), &["elements `<f8`", "integers"]);
    expect_error(read(&array("|b1", &[1, 2], &[0; 2])), &["elements `|b1`", "integers"]);
    expect_error(read(&array("<c8", &[1, 2], &[0; 16])), &["unsupported element type `<c8`"]);
    expect_error(read(&array("<i8", &[1, 2], &words(&[0, -1]))), &["element 1: -1 is below 0"]);
    expect_error(
        read(&array("<i8", &[1, 2], &words(&[0, 3_000_000_000]))),
        &["edge 0: the vertex id 3000000000", "--names"],
    );
    expect_error(read(&array("<u8", &[1, 2], &[0xff; 16])), &["18446744073709551615"]);
    expect_error(read(&array("<i8", &[2, 2], &[0; 8])), &["truncated"]);
    expect_error(read(&array("<i8", &[1, 2], &[0; 24])), &["its header promises"]);
    let square = array("<i8", &[2, 2], &words(&[0, 2, 1, 3]));
    for (layout, expected) in [(EdgeLayout::Pairs, vec![(0, 2), (1, 3)]), (EdgeLayout::Rows, vec![(0, 1), (2, 3)])] {
        let options = EdgeOptions { layout: Some(layout), ..EdgeOptions::default() };
        assert_eq!(read_edges(&square, options, &|_, _| ()).unwrap().edges, expected);
    }
    let names = EdgeOptions { force_names: true, ..EdgeOptions::default() };
    let sparse = array("<i8", &[1, 2], &words(&[7, 3_000_000_000]));
    assert_eq!(read_edges(&sparse, names, &|_, _| ()).unwrap().names.unwrap().list(), ["7", "3000000000"]);
}

/// Labels of the path 0 - 1 - 2 - 3 - 4, whatever the text: the right values, or an error that says the words.
#[test]
fn labels_reach_their_vertices_or_are_errors() {
    type Right = Result<&'static [i64], &'static [&'static str]>;
    let cases: [(&str, Right); 40] = [
        ("7\n8\n9\n7\n8\n", Ok(&[7, 8, 9, 7, 8])),
        ("\u{feff}0\n1\n2\n10\n4\n", Ok(&[0, 1, 2, 10, 4])),
        ("0\r\n1\r\n2\r\n10\r\n4\r\n", Ok(&[0, 1, 2, 10, 4])),
        ("0\n1\n2\n10\n4\n\n\n", Ok(&[0, 1, 2, 10, 4])),
        ("0\n1\n\n10\n4\n", Ok(&[0, 1, -1, 10, 4])),
        ("\n1\n2\n10\n4\n", Ok(&[-1, 1, 2, 10, 4])),
        ("0\n1\n2\n10\n\n", Ok(&[0, 1, 2, 10, -1])),
        ("0\n1\nNaN\n10\n2\n", Ok(&[0, 1, -1, 10, 2])),
        ("0\nNA\nnull\nNone\n2\n", Ok(&[0, -1, -1, -1, 2])),
        ("label\n7\n8\n9\n7\n8\n", Ok(&[7, 8, 9, 7, 8])),
        ("\"7\"\n\"8\"\n\"9\"\n\"7\"\n\"8\"\n", Ok(&[7, 8, 9, 7, 8])),
        ("7.000000000000000000e+00\n8\n9.0\n-1\n8\n", Ok(&[7, 8, 9, -1, 8])),
        ("node,label\n0,7\n1,8\n2,9\n3,7\n4,8\n", Ok(&[7, 8, 9, 7, 8])),
        ("node label\n0 7\n1 8\n2 9\n3 7\n4 8\n", Ok(&[7, 8, 9, 7, 8])),
        (",label\n0,7\n1,8\n2,9\n3,7\n4,8\n", Ok(&[7, 8, 9, 7, 8])),
        (",0\n0,7\n1,8\n2,9\n3,7\n4,8\n", Ok(&[7, 8, 9, 7, 8])),
        ("\u{feff}3,70\n1,80\n0,90\n4,100\n2,110\n", Ok(&[90, 80, 110, 70, 100])),
        ("3.0,70\n1.0,80\n0.0,90\n4.0,100\n2.0,110\n", Ok(&[90, 80, 110, 70, 100])),
        ("\"3\",70\n\"1\",80\n\"0\",90\n\"4\",100\n\"2\",110\n", Ok(&[90, 80, 110, 70, 100])),
        ("3;70\n1;80\n0;90\n4;100\n2;110\n", Ok(&[90, 80, 110, 70, 100])),
        ("3 70\n1 80\n0 90\n4 100\n2 110\n", Ok(&[90, 80, 110, 70, 100])),
        ("3\t70\r\n1\t80\r\n0\t90\r\n4\t100\r\n2\t110\r\n\r\n", Ok(&[90, 80, 110, 70, 100])),
        ("3.0e+00 7.0e+01\n1 80\n0 90\n4 100\n2 110\n", Ok(&[90, 80, 110, 70, 100])),
        ("3\t70\n1\t\n\n4\t100\n", Ok(&[-1, -1, -1, 70, 100])),
        ("Computer Science\nArt\nArt\nLaw\nArt\n", Ok(&[1, 0, 0, 2, 0])),
        ("3 idiots\n2D\n2D\n3 idiots\n2D\n", Err(&["labels.txt:2: ", "this one has 1"])),
        ("0ad\tgames\n2048\tgames\nbash\tshells\nvim\teditors\nzsh\tshells\n", Ok(&[1, 1, 2, 0, 2])),
        ("0\n1\nspam\n10\n2\n", Err(&["labels.txt:3: the label `spam` is not an integer, unlike `0` in line 1"])),
        ("a\nb\n7\na\nb\n", Err(&["labels.txt:3: the label `7` is an integer, unlike `a`"])),
        ("a\nNA\nb\na\nb\n", Err(&["labels.txt:2: the label `NA` may be a class"])),
        ("0\n0.5\n1\n1\n0\n", Err(&["labels.txt:2: the label `0.5` is not an integer"])),
        ("0;7,0\n1;8,0\n2;9,0\n", Err(&["labels.txt:1: the label `7,0`"])),
        ("0 7 9\n1 8 9\n2 9 9\n3 9 9\n4 9 9\n", Err(&["labels.txt:1: the label `0 7 9`"])),
        ("7\n8\n9\n7\n", Err(&["labels.txt: 4 labels for the 5 vertices of the edges"])),
        ("class\ncs\nart\ncs\nart\nlaw\n", Err(&["labels.txt: 6 labels", "heading", "--vertices 6"])),
        ("0,7\n1,8\n0,9\n", Err(&["labels.txt:3: the vertex `0` is there twice"])),
        ("0,7\n-1,8\n", Err(&["labels.txt:2: the vertex `-1` is not an id"])),
        ("0,7\n1,8\nx,9\n", Err(&["labels.txt:3: the vertex `x` is not an id"])),
        ("0,7\n1\n", Err(&["labels.txt:2: the first line has two columns", "this one has 1"])),
        ("0,7\n3000000000,8\n", Err(&["labels.txt:2: the vertex id 3000000000"])),
    ];
    for (text, right) in cases {
        let bench = Bench::new();
        let mut import = bench.edges(&bench.write("edges.txt", "0 1\n1 2\n2 3\n3 4\n"), 2);
        import.labels = Some(bench.write("labels.txt", text));
        let result = import_edges(&import, quiet());
        match right {
            Ok(expected) => {
                result.unwrap_or_else(|error| panic!("{text:?}: {error}"));
                assert_eq!(labels_of(&bench), expected, "{text:?}");
            }
            Err(expected) => {
                expect_error(result, expected);
                assert!(!bench.out().exists());
            }
        }
    }
}

#[test]
fn labels_of_names_find_their_vertices() {
    // The right labels of a, b, c in this order.
    let cases: [(&str, Result<&[i64], &str>); 8] = [
        ("b\t2\nc\t3\na\t1\n", Ok(&[1, 2, 3])),
        ("b 2\nc 3\na 1\n", Ok(&[1, 2, 3])),
        ("name,label\nb,2\nc,3\na,1\n", Ok(&[1, 2, 3])),
        ("b,x\na,y\n", Ok(&[1, 0, -1])),
        ("name,class\nb,x\nc,x\n", Err("labels.txt:1: `name` is in no edge")),
        ("1\n2\n3\n", Err("labels.txt:2: the first line has two columns")),
        ("1\n", Err("labels.txt: the vertices have names")),
        ("b,2\nb,3\n", Err("labels.txt:2: the vertex `b` is there twice")),
    ];
    for (text, right) in cases {
        let bench = Bench::new();
        let mut import = bench.edges(&bench.write("edges.txt", "a b\nb c\n"), 2);
        import.labels = Some(bench.write("labels.txt", text));
        let result = import_edges(&import, quiet());
        let expected = match right {
            Ok(expected) => expected,
            Err(words) => {
                let message = result.unwrap_err().to_string();
                assert!(message.contains(words) || message.contains("have names"), "{text:?}: {message}");
                continue;
            }
        };
        result.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let names = fs::read_to_string(bench.out().join("ids/_N.names.txt")).unwrap();
        let by_name: BTreeMap<&str, i64> = names.lines().zip(labels_of(&bench)).collect();
        assert_eq!(by_name.into_values().collect::<Vec<_>>(), expected, "{text:?}");
    }
}

#[test]
fn names_that_only_labels_know_are_vertices() {
    let bench = Bench::new();
    let mut import = bench.edges(&bench.write("edges.csv", "# a comment\ncarol, alice\n\nalice,bob\r\nbob,carol\n"), 2);
    import.labels = Some(bench.write("labels.tsv", "dave\tz\ncarol\ty\nbob\tz\n"));
    let summary = import_edges(&import, quiet()).unwrap();
    // Names of the labels come first.
    let names = fs::read_to_string(bench.out().join("ids/_N.names.txt")).unwrap();
    assert_eq!(names, "dave\ncarol\nbob\nalice\n");
    assert_eq!(bench.open().table("label").unwrap().classes.as_deref(), Some(&["y".into(), "z".into()][..]));
    assert_eq!(labels_of(&bench), [1, 0, 1, -1]);
    let notes = summary.notes.join("\n");
    for words in [
        "joined to vertices by name",
        "1 of 4 vertices have no label",
        "2 names of classes",
        "1 of 4 vertices have no edge",
        "skipped 1 comments and 1 blank",
    ] {
        assert!(notes.contains(words), "{notes}\nshould say {words}");
    }
}

#[test]
fn rows_of_tables_find_vertices_with_names_only_if_told_how() {
    let bench = Bench::new();
    let edges = bench.write("edges.txt", "v7 v3\nv3 v5\n");
    let feat = bench.array("feat.npy", "|u1", &[3], &[50, 70, 30]);
    let import = |vertices: Option<&Path>, labels: Option<&Path>| {
        let mut import = bench.edges(&edges, 2);
        import.tables.push(table("feat", &feat, None));
        import.vertices = vertices.map(|path| VertexSource::Names(path.to_owned()));
        import.labels = labels.map(Path::to_owned);
        import.existing = Existing::Replace;
        import_edges(&import, quiet())
    };
    expect_error(import(None, None), &["feat.npy", "edges.txt have names", "--vertices FILE"]);
    let some = bench.write("some.tsv", "v5\t1\nv7\t2\n");
    expect_error(import(None, Some(&some)), &["feat.npy", "--vertices FILE"]);
    let names = bench.write("names.txt", "\u{feff}v5\r\nv7\r\nv3\r\n\r\n");
    let all = bench.write("all.tsv", "v5\t1\nv7\t2\nv3\t1\n");
    for (vertices, labels) in [(Some(names.as_path()), None), (None, Some(all.as_path()))] {
        import(vertices, labels).unwrap();
        let dataset = bench.open();
        let listed = fs::read_to_string(bench.out().join("ids/_N.names.txt")).unwrap();
        let listed: Vec<&str> = listed.lines().collect();
        let original = dataset.original_ids("_N").unwrap().unwrap();
        for (id, row) in original.into_iter().zip(rows_in_order(&dataset, "feat")) {
            assert_eq!(listed[id as usize], format!("v{}", row / 10));
        }
    }
    for (text, expected) in [
        ("v5\nv7\n", "2"),
        ("v5\nv7\nv5\n", "wrong.txt:3: the vertex `v5` is there twice"),
        ("v5\n\nv3\n", "wrong.txt:2: an empty line"),
        ("v5\nv7\nv4\n", "edges.txt:1: the vertex `v3` is not in"),
    ] {
        expect_error(import(Some(&bench.write("wrong.txt", text)), None), &[expected]);
    }
}

#[test]
fn sparse_ids_with_rows_by_a_list_of_ids() {
    let bench = Bench::new();
    let mut import = bench.edges(&bench.write("edges.txt", "3000000000 7\n7 12\n"), 2);
    import.tables.push(table("feat", &bench.array("feat.npy", "|u1", &[3], &[7, 30, 12]), None));
    import.vertices = Some(VertexSource::Names(bench.array("ids.npy", "<i8", &[3], &words(&[7, 3_000_000_000, 12]))));
    import_edges(&import, quiet()).unwrap();
    assert!(!bench.out().join("ids/_N.names.txt").exists(), "numbers are original ids, not names");
    let dataset = bench.open();
    let original = dataset.original_ids("_N").unwrap().unwrap();
    let rows: BTreeMap<u64, u8> = original.into_iter().zip(rows_in_order(&dataset, "feat")).collect();
    assert_eq!(rows, BTreeMap::from([(7, 7), (12, 12), (3_000_000_000, 30)]));
}

#[test]
fn the_manifest_says_whether_vertices_were_renumbered() {
    for (parts, renumbered) in [(1, false), (2, true)] {
        let bench = Bench::new();
        // Odd ids and even ids are far apart: two parts cannot be ranges of these ids.
        let text: String = (0..40).map(|id| format!("{id} {}\n", (id + 2) % 40)).collect();
        let summary = import_edges(&bench.edges(&bench.write("edges.txt", text), parts), quiet()).unwrap();
        assert_eq!(summary.graph.unwrap().renumbered, renumbered, "{parts} parts");
        let manifest = rudder_dataset::Manifest::load(&bench.out()).unwrap();
        let of_type = &manifest.vertex_types[0];
        assert_eq!((of_type.renumbered, of_type.is_renumbered()), (Some(renumbered), renumbered));
        assert_eq!((of_type.original_ids.is_some(), of_type.dataset_ids.is_some()), (true, renumbered));
        bench.open();
    }
}

#[test]
fn kept_ids_are_the_users_ids() {
    let bench = Bench::new();
    let feat: Vec<u8> = (0..60).collect();
    let text: String = (0..60).map(|id| format!("{id} {}\n", (id * 7 + 1) % 60)).collect();
    let mut import = bench.edges(&bench.write("edges.txt", text), 3);
    import.tables.push(table("feat", &bench.array("feat.npy", "|u1", &[60], &feat), None));
    import.keep_ids = true;
    let summary = import_edges(&import, quiet()).unwrap();
    let graph = summary.graph.unwrap();
    assert!(!graph.renumbered && summary.notes.iter().any(|note| note.contains("ids of `_N` were kept")));
    let dataset = bench.open();
    assert_eq!((rows_in_order(&dataset, "feat"), dataset.original_ids("_N").unwrap()), (feat, Some((0..60).collect())));
    assert!(!bench.out().join("ids/_N.npy").exists());
    let kept = dataset.load_graph().unwrap().unwrap();
    let expected: Vec<(u32, u32)> = (0..60).map(|id| (id, (id * 7 + 1) % 60)).collect();
    assert_eq!(kept, rudder_dataset::CsrGraph::from_edges(60, &expected).unwrap());
    let book = &dataset.table("feat").unwrap().book;
    assert!(book.as_ranges().is_none());
    let cut =
        kept.iter_edges().filter(|&(a, b)| book.locate(a.into()).unwrap().part != book.locate(b.into()).unwrap().part);
    assert_eq!(cut.count() as u64, graph.edge_cut);
    import.parts = 1;
    import.existing = Existing::Replace;
    import_edges(&import, quiet()).unwrap();
    assert!(bench.open().table("feat").unwrap().book.as_ranges().is_some(), "one part owns a range");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_is_edges_and_labels_or_an_error(
        edges in "([0-9a-c]{1,2}[ ,;\t]{1,2}[0-9a-c.\"-]{1,3}(\n|\r\n)){0,6}|[0-9a-c ,;\t#\"'.\r\n-]{0,60}",
        labels in "[0-9a-c ,;\t#\"'.NA\r\n-]{0,60}",
        names in any::<bool>(),
    ) {
        let bench = Bench::new();
        let mut import = bench.edges(&bench.write("edges.txt", edges), 1);
        import.labels = Some(bench.write("labels.txt", labels));
        import.force_names = names;
        if import_edges(&import, quiet()).is_ok() {
            bench.open();
        }
    }

    #[test]
    fn shuffled_labels_find_their_vertices(seed in any::<u64>(), form in 0u8..5, heading in any::<bool>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut keys: Vec<u32> = (0..20).collect();
        random.shuffle(&mut keys);
        let mut text = String::new();
        if heading { text.push_str(["n,l\n", "n;l\n", "n\tl\n", "\"n\",\"l\"\n", "n l\n"][usize::from(form)]); }
        for key in &keys {
            let label = 100 + key;
            text.push_str(&match form {
                0 => format!("{key}.0,{label}\n"),
                1 => format!("{key};{label}.0\r\n"),
                2 => format!("{key}\t{label}\n"),
                3 => format!("\"{key}\",\"{label}\"\n"),
                _ => format!("{:e} {label}\n", f64::from(*key)),
            });
        }
        let bench = Bench::new();
        let edges: String = (0..19).map(|id| format!("{id} {}\n", id + 1)).collect();
        let mut import = bench.edges(&bench.write("edges.txt", edges), 3);
        import.labels = Some(bench.write("labels.txt", text));
        import_edges(&import, quiet()).unwrap();
        prop_assert_eq!(labels_of(&bench), (100..120).collect::<Vec<i64>>());
    }
}
