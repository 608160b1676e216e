//! A foreign `.npy` file whose rows become the rows of a table: read front to back in pieces, or mapped, so that rows
//! may be taken in any order. It must never change the file, nor have all of it in its own memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rudder_client::DType;

use crate::convert::{Converter, natural_dtype};
use rudder_dataset::DatasetError;
use rudder_dataset::manifest::ROW_BYTES_MAX;
use rudder_dataset::map::{ReadOrder, map};
use rudder_dataset::npy::NpyType;
use rudder_dataset::shard::open_npy;

pub(super) struct ArrayFile {
    path: PathBuf,
    file: File,
    map: Mmap,
    data_offset: usize,
    rows: u64,
    width: u32,
    element: NpyType,
    dtype: DType,
    converter: Converter,
}

/// Memory for one piece of an array, used again for the next.
#[derive(Default)]
pub(super) struct PieceBuffers {
    source: Vec<u8>,
    converted: Vec<u8>,
}

impl ArrayFile {
    /// Opens a file to be stored as `dtype`, or as the type nearest to its own.
    pub(super) fn open(path: &Path, dtype: Option<DType>) -> Result<Self, DatasetError> {
        let (file, header) = open_npy(path)?;
        let element = header.element;
        let dtype = dtype.unwrap_or_else(|| natural_dtype(element));
        let converter = Converter::new(element, dtype).ok_or_else(|| DatasetError::Conversion {
            path: path.to_owned(),
            found: element,
            wanted: dtype,
        })?;
        let row_bytes = header.width().saturating_mul(dtype.size() as u64);
        let width = u32::try_from(header.width()).ok().filter(|_| (1..=ROW_BYTES_MAX).contains(&row_bytes));
        let width = width.ok_or_else(|| {
            DatasetError::Input(format!(
                "{}: the shape {} gives no rows of 1 to {ROW_BYTES_MAX} bytes",
                path.display(),
                header.shape
            ))
        })?;
        let map = map(&file, ReadOrder::Random).map_err(DatasetError::io(path, "map"))?;
        let array = Self {
            path: path.to_owned(),
            file,
            map,
            data_offset: header.data_offset as usize,
            rows: header.rows(),
            width,
            element,
            dtype,
            converter,
        };
        array.check_fits_i64()?;
        Ok(array)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn width(&self) -> u32 {
        self.width
    }

    /// The type that the table stores.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of a row as the table stores it.
    pub(super) fn row_bytes(&self) -> usize {
        self.width as usize * self.dtype.size()
    }

    /// Reads the rows `first..first + count` into `buffers` and gives them as the table stores them. The caller asks
    /// for rows that are there. Does not go by the map: pages that were read once would stay in this process.
    pub(super) fn read_rows<'a>(
        &self,
        first: u64,
        count: usize,
        buffers: &'a mut PieceBuffers,
    ) -> Result<&'a [u8], DatasetError> {
        let source_row_bytes = self.width as usize * self.element.size();
        buffers.source.resize(count * source_row_bytes, 0);
        let offset = self.data_offset as u64 + first * source_row_bytes as u64;
        let read = self.file.read_exact_at(&mut buffers.source, offset);
        read.map_err(DatasetError::io(&self.path, "read"))?;
        if self.converter.is_copy() {
            return Ok(&buffers.source);
        }
        buffers.converted.resize(count * self.row_bytes(), 0);
        self.converter.convert(&buffers.source, &mut buffers.converted);
        Ok(&buffers.converted)
    }

    /// Writes row `row` as the table stores it, from the map.
    pub(super) fn fill(&self, row: u64, out: &mut [u8]) {
        let row_bytes = self.width as usize * self.element.size();
        let start = self.data_offset + row as usize * row_bytes;
        self.converter.convert(&self.map[start..start + row_bytes], out);
    }

    /// Unsigned 64-bit integers are stored as signed ones: looks for one that does not fit.
    fn check_fits_i64(&self) -> Result<(), DatasetError> {
        if self.element != NpyType::U64 {
            return Ok(());
        }
        let words = self.map[self.data_offset..].as_chunks().0;
        match words.iter().position(|&word| i64::try_from(u64::from_le_bytes(word)).is_err()) {
            None => Ok(()),
            Some(at) => Err(DatasetError::Input(format!(
                "{}: row {}: {} does not fit a signed 64-bit integer, the only kind that a table holds",
                self.path.display(),
                at as u64 / u64::from(self.width),
                u64::from_le_bytes(words[at])
            ))),
        }
    }
}

/// Reads a `.npy` file of non-negative integers of any width, row by row; gives the numbers of a row's columns.
pub(super) fn read_integers(path: &Path, columns: u64) -> Result<Vec<u64>, DatasetError> {
    let (file, header) = open_npy(path)?;
    if header.width() != columns {
        return Err(DatasetError::ShapeMismatch {
            path: path.to_owned(),
            found: header.shape.clone(),
            expected_rows: header.rows(),
            expected_width: columns,
        });
    }
    let widen = Converter::new(header.element, DType::I64).ok_or_else(|| DatasetError::WrongDType {
        path: path.to_owned(),
        found: header.element,
        expected: "integers".into(),
    })?;
    let map = map(&file, ReadOrder::Sequential).map_err(DatasetError::io(path, "map"))?;
    let source = &map[header.data_offset as usize..];
    let mut numbers = Vec::with_capacity(source.len() / header.element.size());
    let mut piece = vec![0u8; 8 * 1024];
    for bytes in source.chunks(1024 * header.element.size()) {
        let wide = &mut piece[..bytes.len() / header.element.size() * 8];
        widen.convert(bytes, wide);
        for word in wide.as_chunks().0 {
            let number = u64::try_from(i64::from_le_bytes(*word)).map_err(|_| {
                let row = numbers.len() as u64 / columns;
                DatasetError::Input(format!("{}: row {row}: ids are 0 to 2^63 - 1", path.display()))
            })?;
            numbers.push(number);
        }
    }
    Ok(numbers)
}
