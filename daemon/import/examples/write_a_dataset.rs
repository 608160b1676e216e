//! Writes a dataset from rows in memory: one table of features and one of labels over two parts. It owns the folder
//! that it is given, and must never replace one that exists.
//!
//!     cargo run --release -p rudder-import --example write_a_dataset [FOLDER]
//!
//! Without a folder it writes to a temporary one, which is removed at the end.

use rudder_client::DType;
use rudder_import::{BookSpec, DatasetWriter, Existing, Part};
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Floats of a feature row.
const WIDTH: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = tempfile::tempdir()?;
    write(&std::env::args_os().nth(1).map_or_else(|| scratch.path().join("dataset"), PathBuf::from))
}

fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut writer = DatasetWriter::create(folder, "example", 2, Existing::Refuse)?;
    // Part 0 owns the ids 0 to 599, part 1 those from 600 to 999. `_N` is the vertex type of a graph that has only one.
    let starts = [0, 600, 1000];
    writer.add_book("_N", BookSpec::Ranges(&starts))?;
    let mut features = writer.add_table("feat", "_N", DType::F32, &[WIDTH])?;
    let mut labels = writer.add_table("label", "_N", DType::I64, &[])?;
    for (part, owned) in (0..).map(Part).zip(starts.windows(2)) {
        for id in owned[0]..owned[1] {
            // Rows are bytes in the order of the ids of a part, any number at once.
            let row: Vec<u8> = (0..WIDTH).flat_map(|at| (id as f32 + at as f32 / 100.0).to_le_bytes()).collect();
            features.write_rows(part, &row)?;
            labels.write_rows(part, &(id as i64 % 7).to_le_bytes())?;
        }
    }
    writer.close_table(features)?;
    writer.close_table(labels)?;
    // The folder appears here, complete; a writer that is dropped before leaves nothing behind.
    let manifest = writer.finish()?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: dataset {}, {} parts", folder.display(), manifest.name, manifest.parts)?;
    for table in &manifest.tables {
        writeln!(
            out,
            "  {}: {} rows of {:?} {}",
            table.name,
            table.rows,
            table.shape.as_deref().unwrap_or_default(),
            table.dtype
        )?;
    }
    Ok(())
}

#[test]
fn the_example_runs() {
    write(&tempfile::tempdir().unwrap().path().join("dataset")).unwrap();
}
