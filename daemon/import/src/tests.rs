//! Imports as a whole, bit for bit, and each bad input with what its message must say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use rudder_dataset::npy::encode_header;
use rudder_dataset::{Dataset, Part, RowForm, Verify};

pub(super) fn quiet() -> &'static Progress<'static> {
    &|_, _, _| ()
}

pub(super) struct Bench(pub(super) TempDir);

impl Bench {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(super) fn array(&self, name: &str, descr: &str, shape: &[u64], data: &[u8]) -> PathBuf {
        self.write(name, [&encode_header(descr, shape), data].concat())
    }

    pub(super) fn open(&self) -> Dataset {
        Dataset::open_for_tools(&self.out(), Verify::Full, &|_, _| ()).unwrap()
    }

    pub(super) fn npy(&self, parts: u16, tables: Vec<ArrayTable>) -> NpyImport {
        let (out, books) = (self.out(), BTreeMap::new());
        NpyImport { name: "n".into(), out, parts, tables, books, existing: Existing::Refuse }
    }

    pub(super) fn edges(&self, edges: &Path, parts: u16) -> EdgesImport {
        EdgesImport {
            name: "g".into(),
            out: self.out(),
            parts,
            seed: 1,
            edges: edges.to_owned(),
            columns: None,
            layout: None,
            labels: None,
            classes: false,
            vertices: None,
            tables: Vec::new(),
            vertex_type: "_N".into(),
            force_names: false,
            keep_ids: false,
            existing: Existing::Refuse,
        }
    }
}

pub(super) fn table(name: &str, path: &Path, dtype: Option<DType>) -> ArrayTable {
    let source = ArraySource::file(path);
    ArrayTable { name: name.into(), vertex_type: "_N".into(), source, dtype, lossy: false }
}

/// All rows of a table in the order of ids, through book and shards.
pub(super) fn rows_in_order(dataset: &Dataset, name: &str) -> Vec<u8> {
    let table = dataset.table(name).unwrap();
    let shards: Vec<_> = Part::all(dataset.parts()).map(|part| dataset.open_shard(table, part).unwrap()).collect();
    let ids = 0..table.rows;
    ids.flat_map(|id| {
        let at = table.book.locate(id).unwrap();
        shards[at.part.index()].row(at.row).unwrap().to_vec()
    })
    .collect()
}

pub(super) fn labels_in_order(dataset: &Dataset) -> Vec<i64> {
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
        let feat = bytes(rows * width * 4);
        let mask: Vec<u8> = bytes(rows).iter().map(|byte| byte % 2).collect();
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
}

#[test]
fn npy_converts_what_it_is_told() {
    let bench = Bench::new();
    let ones: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    let feat = bench.array("feat.npy", "<f4", &[3], &ones);
    let labels: Vec<u8> = [7i32, -1, 3].iter().flat_map(|x| x.to_le_bytes()).collect();
    let label = bench.array("y.npy", "<i4", &[3], &labels);
    import_npy(
        &bench.npy(2, vec![table("feat", &feat, Some(DType::Bf16)), table("label", &label, Some(DType::I64))]),
        quiet(),
    )
    .unwrap();
    let dataset = bench.open();
    assert_eq!(dataset.table("feat").unwrap().form.dtype(), DType::Bf16);
    assert_eq!(dataset.table("label").unwrap().form.dtype(), DType::I64);
    assert_eq!(rows_in_order(&dataset, "feat"), [0xc0, 0x3f, 0x00, 0xc0, 0x80, 0x3e]);
    assert_eq!(labels_in_order(&dataset), [7, -1, 3]);
}

fn form_and_rows(dataset: &Dataset, table: &str) -> (RowForm, Vec<u8>) {
    (dataset.table(table).unwrap().form.clone(), rows_in_order(dataset, table))
}

/// Every element type in rows of several shapes, in both orders of bytes: what comes out is what went in.
#[test]
fn rows_have_the_shape_and_type_that_went_in() {
    let bench = Bench::new();
    let types = [
        ("|b1", DType::Bool),
        ("|i1", DType::I8),
        ("i2", DType::I16),
        ("i4", DType::I32),
        ("i8", DType::I64),
        ("|u1", DType::U8),
        ("u2", DType::U16),
        ("u4", DType::U32),
        ("u8", DType::U64),
        ("f2", DType::F16),
        ("f4", DType::F32),
        ("f8", DType::F64),
        ("|V2", DType::Bf16),
    ];
    assert_eq!(types.len(), DType::ALL.len());
    let shapes: [&[u64]; 4] = [&[], &[1], &[3], &[2, 1, 2]];
    let (mut tables, mut expected) = (Vec::new(), Vec::new());
    for (at, (descr, dtype)) in types.into_iter().enumerate() {
        let size = dtype.size();
        for (big_endian, shape) in [false, true].into_iter().flat_map(|big| shapes.map(|shape| (big, shape))) {
            if descr.starts_with('|') && big_endian {
                continue;
            }
            let form = RowForm::new(dtype, shape).unwrap();
            let count = 5 * form.width() as usize * size;
            let kinds = if dtype == DType::Bool { 2 } else { 251 };
            let bytes: Vec<u8> = (0..count).map(|byte| ((byte * 7 + at) % kinds) as u8).collect();
            let mut stored = bytes.clone();
            if big_endian {
                stored.chunks_exact_mut(size).for_each(<[u8]>::reverse);
            }
            let sign = if descr.starts_with('|') {
                ""
            } else if big_endian {
                ">"
            } else {
                "<"
            };
            let name = format!("t{}", expected.len());
            let whole = [&[5], shape].concat();
            let path = bench.array(&format!("{name}.npy"), &format!("{sign}{descr}"), &whole, &stored);
            tables.push(table(&name, &path, None));
            expected.push((form, bytes));
        }
    }
    import_npy(&bench.npy(2, tables), quiet()).unwrap();
    let dataset = bench.open();
    for (at, expected) in expected.into_iter().enumerate() {
        assert_eq!(form_and_rows(&dataset, &format!("t{at}")), expected, "t{at}");
    }
}

#[test]
fn arrays_that_are_no_rows_are_refused_by_name() {
    let bench = Bench::new();
    let refuse = |name: &str, descr: &str, shape: &[u64], rows: &[u8], expected: &str| {
        let path = bench.array(name, descr, shape, rows);
        let import = NpyImport { existing: Existing::Replace, ..bench.npy(1, vec![table("t", &path, None)]) };
        let message = import_npy(&import, quiet()).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(expected), "{message}\nshould say {expected}");
    };
    refuse("object.npy", "|O", &[2], &[0; 16], "unsupported element type `|O`");
    refuse("text.npy", "<U4", &[2], &[0; 32], "unsupported element type `<U4`");
    refuse("complex.npy", "<c8", &[2], &[0; 16], "unsupported element type `<c8`");
    refuse("truth.npy", "|b1", &[3, 2], &[0, 1, 1, 0, 2, 1], "row 2, column 0: 2 does not fit bool");
    refuse("empty.npy", "<f4", &[2, 0], &[], "rows of shape (0,) of f32: a row has 1 to 67108864 bytes");
    refuse("deep.npy", "|u1", &[1; 40], &[0], "at most 31 dimensions");
    refuse("long.npy", "<f8", &[0, 1 << 24], &[], "rows of shape (16777216,) of f64");
    let path = bench.write("columns.npy", &{
        let header = encode_header("<f4", &[2, 2]);
        let text = String::from_utf8_lossy(&header[10..]).replace("False", "True ");
        [&header[..10], text.as_bytes(), &[0; 16]].concat()
    });
    let message = import_npy(&bench.npy(1, vec![table("t", &path, None)]), quiet()).unwrap_err().to_string();
    assert!(message.contains("columns.npy") && message.contains("Fortran order"), "{message}");
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
    let halves = bench.array("halves.npy", "<f4", &[2], &[[0; 4], 0.5f32.to_le_bytes()].concat());
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
    refuse(one(&halves, Some(DType::I64)), None, ["halves.npy: row 1, column 0: 0.5 does not fit i64", ":DTYPE"]);
    refuse(one(&wide, Some(DType::I64)), None, ["wide.npy: row 0", "18446744073709551615"]);
    refuse(one(&feat, None), Some(&owner), ["owner.npy: id 2 is owned by part 2", "2 parts"]);
    refuse(one(&feat, None), Some(&few), ["few.npy: 2 rows", "feat.npy has 3"]);
    refuse(one(&bench.0.path().join("none.npy"), None), None, ["none.npy: cannot open", "No such file"]);
    refuse(vec![table("t", &feat, None), table("t", &feat, None)], None, ["`t`", "before"]);
    bench.write("out", b"a file");
    let message = import_npy(&bench.npy(2, one(&feat, None)), quiet()).unwrap_err().to_string();
    assert!(message.contains("out: cannot read the folder"), "{message}");
}

#[test]
fn what_a_type_does_not_hold_is_an_error_or_counted() {
    let numbers: Vec<u8> = [1.5f64, 70_000.0, 1e39, 1e-8].iter().flat_map(|x| x.to_le_bytes()).collect();
    let large: Vec<u8> = [1i64, (1 << 24) + 1].iter().flat_map(|x| x.to_le_bytes()).collect();
    type Case<'a> = (&'a str, &'a [u8], DType, &'a str, [u64; 3]);
    let cases: [Case<'_>; 5] = [
        ("<f8", &numbers, DType::F16, "row 0, column 1: 70000.0 does not fit f16: store it with a wider", [2, 1, 0]),
        ("<f8", &numbers, DType::Bf16, "row 1, column 0: 1e39 does not fit bf16", [1, 0, 0]),
        ("<f8", &numbers, DType::F32, "row 1, column 0: 1e39 does not fit f32", [1, 0, 0]),
        ("<i8", &large, DType::F32, "row 0, column 1: 16777217 does not fit f32", [0, 0, 1]),
        (">i8", &large, DType::F16, "row 0, column 0: 72057594037927936 does not fit f16", [2, 0, 0]),
    ];
    for (descr, bytes, dtype, expected, counts) in cases {
        let bench = Bench::new();
        let path = bench.array("x.npy", descr, &[bytes.len() as u64 / 16, 2], bytes);
        let mut import = bench.npy(1, vec![table("x", &path, Some(dtype))]);
        let message = import_npy(&import, quiet()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("--lossy"), "{message}\nshould say {expected}");
        import.tables[0].lossy = true;
        let lost = import_npy(&import, quiet()).unwrap().tables[0].lost.unwrap();
        assert_eq!([lost.infinite, lost.zero, lost.rounded], counts, "{descr} to {dtype}");
    }
}

#[test]
fn numbers_of_every_kind_reach_the_table_with_their_value() {
    let swapped: Vec<u8> = [(1i64 << 40) + 1, -3].iter().flat_map(|x| x.to_be_bytes()).collect();
    let cases: [(&str, &[u8], DType, &[f64]); 7] = [
        (">i8", &swapped, DType::I64, &[1_099_511_627_777.0, -3.0]),
        (">i8", &swapped, DType::F64, &[1_099_511_627_777.0, -3.0]),
        (">f4", &[0x3f, 0xc0, 0, 0], DType::F32, &[1.5]),
        ("|b1", &[0, 1], DType::F32, &[0.0, 1.0]),
        ("<i2", &[0xfe, 0xff], DType::F32, &[-2.0]),
        ("<u2", &[0xff, 0xff], DType::F32, &[65535.0]),
        ("|i1", &[0xff], DType::F16, &[-1.0]),
    ];
    for (descr, bytes, dtype, expected) in cases {
        let bench = Bench::new();
        let path = bench.array("x.npy", descr, &[expected.len() as u64], bytes);
        import_npy(&bench.npy(1, vec![table("x", &path, Some(dtype))]), quiet()).unwrap();
        let rows = rows_in_order(&bench.open(), "x");
        let found: Vec<f64> = rows
            .chunks(dtype.size())
            .map(|bytes| match dtype {
                DType::I64 => i64::from_le_bytes(bytes.try_into().unwrap()) as f64,
                DType::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
                DType::F32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
                _ => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
            })
            .collect();
        assert_eq!(found, expected, "{descr} to {dtype}");
    }
}

/// Writes a `.safetensors` file.
pub(super) fn safetensors(tensors: &[(&str, &str, &[u64], &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        entries
            .push(format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"));
        data.extend_from_slice(bytes);
    }
    let header = format!("{{\"__metadata__\":{{\"format\":\"pt\"}},{}}}", entries.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn tensors_become_tables() {
    let bench = Bench::new();
    let halves: Vec<u8> = [0x3fc0u16, 0x7f80, 0x0001].iter().flat_map(|x| x.to_le_bytes()).collect();
    let floats: Vec<u8> = (0..12u8).map(f32::from).flat_map(f32::to_le_bytes).collect();
    let file = safetensors(&[
        ("b", "BF16", &[3], &halves),
        ("x.w", "F32", &[3, 2, 2], &floats),
        ("y", "BOOL", &[3], &[1, 0, 1]),
    ]);
    let path = bench.write("m.safetensors", &file);
    let import = bench.npy(2, safetensors_tables(&path, "_N").unwrap());
    import_npy(&import, quiet()).unwrap();
    let dataset = bench.open();
    // A brain float is stored as it is, infinities and the smallest number, too.
    assert_eq!(form_and_rows(&dataset, "b"), (RowForm::new(DType::Bf16, &[]).unwrap(), halves));
    assert_eq!(form_and_rows(&dataset, "x.w"), (RowForm::new(DType::F32, &[2, 2]).unwrap(), floats));
    assert_eq!(form_and_rows(&dataset, "y"), (RowForm::new(DType::Bool, &[]).unwrap(), vec![1, 0, 1]));

    let refuse = |bytes: &[u8], expected: &str| {
        let path = bench.write("bad.safetensors", bytes);
        let replacing = |tables| NpyImport { existing: Existing::Replace, ..bench.npy(1, tables) };
        let imported = safetensors_tables(&path, "_N").and_then(|tables| import_npy(&replacing(tables), quiet()));
        let message = imported.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}\nshould say {expected}");
    };
    refuse(&file[..file.len() - 1], "truncated");
    refuse(&file[..20], "claims a header");
    refuse(&[0xff; 16], "claims a header");
    refuse(&safetensors(&[("x", "F8_E4M3", &[1], &[0])]), "F8_E4M3");
    refuse(&safetensors(&[("x", "F32", &[2], &[0; 4])]), "its shape (2,)");
    refuse(&safetensors(&[("x", "F32", &[u64::MAX, 8], &[0; 4])]), "too large");
    refuse(&safetensors(&[("x", "U8", &[2], &[0; 2]), ("y", "U8", &[3], &[0; 3])]), "3 rows, but");
    refuse(&safetensors(&[("a/b", "U8", &[1], &[0])]), "`a/b`");
    let source = ArraySource { path, member: Some("z".into()) };
    let mut import = bench.npy(1, vec![ArrayTable { source, ..table("t", Path::new(""), None) }]);
    import.existing = Existing::Replace;
    assert!(import_npy(&import, quiet()).unwrap_err().to_string().contains("no array `z`: it holds b, x.w, y"));
}

/// Packs files as NumPy does.
pub(super) fn npz(method: zip::CompressionMethod, arrays: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(method).large_file(true);
        writer.start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(&mut writer, bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn arrays_of_an_archive_become_tables() {
    let feat = [encode_header("<f4", &[2, 1]), vec![0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]].concat();
    let other = [encode_header("|u1", &[2]), vec![5, 6]].concat();
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let bench = Bench::new();
        let bytes = npz(method, &[("feat", &feat), ("other", &other)]);
        let path = bench.write("data.npz", &bytes);
        let of = |member: Option<&str>| ArrayTable {
            source: ArraySource { path: path.clone(), member: member.map(str::to_owned) },
            ..table("t", Path::new(""), None)
        };
        let message = import_npy(&bench.npy(1, vec![of(None)]), quiet()).unwrap_err().to_string();
        assert!(message.contains("feat, other"), "{message}");
        let mut import = bench.npy(1, vec![of(Some("feat"))]);
        import_npy(&import, quiet()).unwrap();
        assert_eq!(rows_in_order(&bench.open(), "t"), feat[feat.len() - 8..]);
        // A byte that was changed on the way is seen.
        import.existing = Existing::Replace;
        let at = bytes.windows(8).position(|bytes| bytes == &feat[feat.len() - 8..]);
        if let Some(at) = at {
            let mut bytes = bytes.clone();
            bytes[at + 2] ^= 1;
            fs::write(&path, bytes).unwrap();
            let message = import_npy(&import, quiet()).unwrap_err().to_string();
            assert!(message.to_lowercase().contains("checksum"), "{message}");
        }
    }
}

#[test]
fn a_folder_of_arrays_becomes_tables() {
    let bench = Bench::new();
    let dir = bench.0.path().join("arrays");
    fs::create_dir(&dir).unwrap();
    assert!(npy_folder(&dir, "_N").unwrap_err().to_string().contains("no .npy file"));
    fs::write(dir.join("feat.npy"), [encode_header("|u1", &[2]), vec![1, 2]].concat()).unwrap();
    fs::write(dir.join("label.npy"), [encode_header("|u1", &[2]), vec![3, 4]].concat()).unwrap();
    fs::write(dir.join("notes.txt"), "x").unwrap();
    import_npy(&bench.npy(2, npy_folder(&dir, "_N").unwrap()), quiet()).unwrap();
    assert_eq!(rows_in_order(&bench.open(), "label"), [3, 4]);
    let names: Vec<String> = npy_folder(&dir, "paper").unwrap().into_iter().map(|table| table.name).collect();
    assert_eq!(names, ["paper.feat", "paper.label"]);
}
