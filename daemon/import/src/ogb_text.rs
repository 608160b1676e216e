//! Matrices of numbers in text, as the Open Graph Benchmark's CSV files hold them: no heading, a row per line, columns
//! separated by commas. They are copied to temporary files in binary. It must never fill in a value.

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write as _};
use std::path::Path;

use crate::array::{ArrayFile, Wanted};
use crate::input::Scratch;
use crate::text::Lines;
use rudder_dataset::DatasetError;
use rudder_dataset::npy::{NpyType, Shape};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Reads a matrix: of `i64` if all numbers are integers, else of `f32`, as OGB does.
pub(super) fn read_matrix(
    path: &Path,
    wanted: Wanted,
    scratch: &Scratch,
    progress: &dyn Fn(u64, u64),
) -> Result<ArrayFile, DatasetError> {
    let name = path.display().to_string();
    if let Some((file, shape)) = copy(path, scratch, progress, |text| text.parse().ok().map(i64::to_le_bytes), false)? {
        return ArrayFile::raw(name, file, shape, NpyType::I64, wanted);
    }
    // As pandas and OGB read them: double precision first.
    let float = |text: &str| {
        let number: f64 = text.parse().ok()?;
        let single = number as f32;
        (single.is_finite() || !number.is_finite()).then_some(single.to_le_bytes())
    };
    match copy(path, scratch, progress, float, true)? {
        Some((file, shape)) => ArrayFile::raw(name, file, shape, NpyType::F32, wanted),
        None => Err(DatasetError::Input(format!("{name}: not a matrix of numbers"))),
    }
}

/// Elements, and the numbers of rows and columns: one column is a dimension, too, as in OGB's own arrays.
type Matrix = (File, Shape);

/// Copies all numbers; `None` when one is not of the kind and `must_parse` is false.
fn copy<const N: usize>(
    path: &Path,
    scratch: &Scratch,
    progress: &dyn Fn(u64, u64),
    parse: impl Fn(&str) -> Option<[u8; N]>,
    must_parse: bool,
) -> Result<Option<Matrix>, DatasetError> {
    let failed = || DatasetError::io(path, "copy to a temporary file");
    let mut lines = Lines::open(path, progress)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, scratch.file()?);
    let (mut rows, mut width, mut blank) = (0, None, None);
    while lines.advance()? {
        let line = lines.line();
        if line.trim().is_empty() {
            blank.get_or_insert(lines.number());
            continue;
        }
        if let Some(blank) = blank {
            return Err(lines.error_at(blank, "an empty line: each vertex needs a row"));
        }
        let mut columns = 0;
        for text in line.split(',') {
            match parse(text.trim()) {
                Some(bytes) => out.write_all(&bytes).map_err(failed())?,
                None if must_parse => {
                    return Err(lines.error(format!("`{}` is not a number of single precision", text.trim())));
                }
                None => return Ok(None),
            }
            columns += 1;
        }
        let width = *width.get_or_insert(columns);
        if columns != width {
            return Err(lines.error(format!("{columns} columns, but the lines before have {width}")));
        }
        rows += 1;
    }
    let file = out.into_inner().map_err(IntoInnerError::into_error).map_err(failed())?;
    Ok(Some((file, Shape(vec![rows, width.unwrap_or(1)]))))
}

/// Reads one integer of 0 or more per line.
pub(super) fn read_list(path: &Path, progress: &dyn Fn(u64, u64)) -> Result<Vec<u64>, DatasetError> {
    let mut lines = Lines::open(path, progress)?;
    let mut numbers = Vec::new();
    while lines.advance()? {
        let text = lines.line().trim();
        if !text.is_empty() {
            let number = text.parse();
            numbers.push(number.map_err(|_| lines.error(format!("`{text}` is not an integer of 0 or more")))?);
        }
    }
    Ok(numbers)
}
