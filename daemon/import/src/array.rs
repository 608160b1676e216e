//! A foreign array whose rows become the rows of a table: read front to back in pieces, or mapped, so that rows may be
//! taken in any order. It must never change the file, nor have all of it in its own memory, nor lose a number without
//! leave.

use std::fs::File;
use std::io::Seek as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use rudder_client::DType;

use crate::convert::{Converter, Losses, natural_dtype, show};
use crate::input::{Input, Kind, Scratch};
use crate::{ArrayTable, LossSummary};
use rudder_dataset::map::{ReadOrder, map};
use rudder_dataset::npy::{ForeignHeader, NpyError, NpyHeader, NpyType, Shape};
use rudder_dataset::{DatasetError, RowForm};

/// Rows of a file that holds an array, and what becomes of them.
pub(super) struct ArrayFile {
    /// The file, and the array in it where it holds several; for messages.
    name: String,
    file: File,
    map: Mmap,
    data_offset: u64,
    rows: u64,
    form: RowForm,
    element: NpyType,
    is_big_endian: bool,
    converter: Converter,
    lossy: bool,
    lost: Lost,
}

/// Numbers that did not survive, counted over all threads.
#[derive(Default)]
struct Lost {
    infinite: AtomicU64,
    zero: AtomicU64,
    rounded: AtomicU64,
}

/// Memory for one piece of an array, used again for the next.
#[derive(Default)]
pub(super) struct PieceBuffers {
    source: Vec<u8>,
    converted: Vec<u8>,
}

/// What a table asks of an array.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// Element type to store; the array's own when not given.
    pub(super) dtype: Option<DType>,
    /// Whether numbers may become infinite, 0 or others.
    pub(super) lossy: bool,
}

impl Wanted {
    pub(super) fn of(table: &ArrayTable) -> Self {
        Self { dtype: table.dtype, lossy: table.lossy }
    }
}

impl ArrayFile {
    /// Takes an open file whose header was read.
    pub(super) fn new(name: String, file: File, header: &ForeignHeader, wanted: Wanted) -> Result<Self, DatasetError> {
        let wrong = |what: String| DatasetError::Input(format!("{name}: {what}"));
        if header.is_fortran_order {
            return Err(wrong(
                "its rows are stored column by column (Fortran order): save it row by row (`numpy.ascontiguousarray`)"
                    .into(),
            ));
        }
        let NpyHeader { element, data_offset, .. } = &header.header;
        let (element, is_big_endian) = (*element, header.is_big_endian);
        let dtype = wanted.dtype.unwrap_or_else(|| natural_dtype(element));
        let form = RowForm::new(dtype, header.header.row_shape()).map_err(|error| wrong(error.to_string()))?;
        let map = map(&file, ReadOrder::Random).map_err(DatasetError::io(Path::new(&name), "map"))?;
        Ok(Self {
            file,
            map,
            data_offset: *data_offset,
            rows: header.header.rows(),
            form,
            element,
            is_big_endian,
            converter: Converter::new(element, is_big_endian, dtype),
            lossy: wanted.lossy,
            lost: Lost::default(),
            name,
        })
    }

    /// An array of any shape as `count` ids.
    pub(super) fn ids(name: &str, file: File, header: &ForeignHeader, count: u64) -> Result<Self, DatasetError> {
        let flat = ForeignHeader {
            header: NpyHeader { shape: Shape(vec![count]), ..header.header.clone() },
            is_fortran_order: false,
            ..header.clone()
        };
        Self::new(name.to_owned(), file, &flat, Wanted { dtype: Some(DType::I64), lossy: false })
    }

    /// Rows of a file that begins with the first of them, as this process wrote it.
    pub(super) fn raw(
        name: String,
        file: File,
        shape: Shape,
        element: NpyType,
        wanted: Wanted,
    ) -> Result<Self, DatasetError> {
        let header = NpyHeader { element, shape, data_offset: 0 };
        let (descr, is_big_endian, is_fortran_order) = (format!("{element:?}"), false, false);
        Self::new(name, file, &ForeignHeader { header, descr, is_big_endian, is_fortran_order }, wanted)
    }

    /// The same rows as another type.
    pub(super) fn stored_as(&self, dtype: DType) -> Result<Self, DatasetError> {
        let path = Path::new(&self.name);
        let file = self.file.try_clone().map_err(DatasetError::io(path, "open"))?;
        let map = map(&file, ReadOrder::Random).map_err(DatasetError::io(path, "map"))?;
        Ok(Self {
            name: self.name.clone(),
            file,
            map,
            form: self.form.of_type(dtype).map_err(|error| DatasetError::Input(format!("{}: {error}", self.name)))?,
            converter: Converter::new(self.element, self.is_big_endian, dtype),
            lost: Lost::default(),
            ..*self
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// What a row is, as the table stores it.
    pub(super) fn form(&self) -> &RowForm {
        &self.form
    }

    /// Reads the rows `first..first + count` into `buffers` and gives them as the table stores them. The caller asks
    /// for rows that are there. Does not go by the map: pages that were read once would stay in this process.
    pub(super) fn read_rows<'a>(
        &self,
        first: u64,
        count: usize,
        buffers: &'a mut PieceBuffers,
    ) -> Result<&'a [u8], DatasetError> {
        let source_row_bytes = self.source_row_bytes();
        buffers.source.resize(count * source_row_bytes, 0);
        let offset = self.data_offset + first * source_row_bytes as u64;
        let read = self.file.read_exact_at(&mut buffers.source, offset);
        read.map_err(DatasetError::io(Path::new(&self.name), "read"))?;
        if self.converter.is_copy() {
            return Ok(&buffers.source);
        }
        buffers.converted.resize(count * self.form.row_bytes(), 0);
        let losses = self.converter.convert(&buffers.source, &mut buffers.converted);
        self.judge(losses, first, &buffers.source)?;
        Ok(&buffers.converted)
    }

    /// Writes row `row` as the table stores it, from the map.
    pub(super) fn fill(&self, row: u64, out: &mut [u8]) -> Result<(), DatasetError> {
        let row_bytes = self.source_row_bytes();
        let start = self.data_offset as usize + row as usize * row_bytes;
        let source = &self.map[start..start + row_bytes];
        self.judge(self.converter.convert(source, out), row, source)
    }

    /// Bytes of a row in the file.
    fn source_row_bytes(&self) -> usize {
        self.form.width() as usize * self.element.size()
    }

    /// Ids of an array of one column.
    pub(super) fn read_ids(&self, first: u64, count: u64) -> Result<Vec<u64>, DatasetError> {
        let mut buffers = PieceBuffers::default();
        let words = self.read_rows(first, count as usize, &mut buffers)?.as_chunks().0;
        let ids = (first..).zip(words).map(|(row, &word)| {
            u64::try_from(i64::from_le_bytes(word)).map_err(|_| {
                let id = i64::from_le_bytes(word);
                DatasetError::Input(format!("{}: element {row}: {id} is below 0, and ids are 0 or more", self.name))
            })
        });
        ids.collect()
    }

    /// What was lost, where that was allowed.
    pub(super) fn losses(&self) -> Option<LossSummary> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let summary = LossSummary {
            infinite: count(&self.lost.infinite),
            zero: count(&self.lost.zero),
            rounded: count(&self.lost.rounded),
        };
        self.lossy.then_some(summary)
    }

    fn judge(&self, losses: Losses, first_row: u64, source: &[u8]) -> Result<(), DatasetError> {
        if losses.is_none() {
            return Ok(());
        }
        if self.lossy && losses.unfit == 0 {
            self.lost.infinite.fetch_add(losses.infinite, Ordering::Relaxed);
            self.lost.zero.fetch_add(losses.zero, Ordering::Relaxed);
            self.lost.rounded.fetch_add(losses.rounded, Ordering::Relaxed);
            return Ok(());
        }
        let at = if self.lossy { losses.first_unfit } else { losses.first }.unwrap_or_default();
        let width = self.form.width() as usize;
        let (row, column) = (first_row + (at / width) as u64, at % width);
        let size = self.element.size();
        let value = show(self.element, self.is_big_endian, &source[at * size..]);
        let way_out = if losses.first_unfit == Some(at) {
            "store the array with another type (:DTYPE), or convert it first"
        } else {
            "store it with a wider type (:DTYPE), or allow such losses (--lossy)"
        };
        Err(DatasetError::Input(format!(
            "{}: row {row}, column {column}: {value} does not fit {}: {way_out}",
            self.name,
            self.form.dtype()
        )))
    }
}

/// Reads the header of a `.npy` file and checks that the file is as long as it promises.
pub(super) fn open_array(input: Input, scratch: &Scratch) -> Result<(File, ForeignHeader), DatasetError> {
    let path = input.path().to_owned();
    if input.kind() != Kind::Npy {
        return Err(DatasetError::npy(&path)(NpyError::Magic));
    }
    let mut file = input.into_file(scratch)?;
    let header = read_header(&path, &mut file)?;
    Ok((file, header))
}

/// [`open_array`] of a file that is open.
pub(super) fn read_header(path: &Path, file: &mut File) -> Result<ForeignHeader, DatasetError> {
    file.rewind().map_err(DatasetError::io(path, "read"))?;
    let header = ForeignHeader::read(file).map_err(DatasetError::npy(path))?;
    let bytes = header.header.data_bytes().map_err(DatasetError::npy(path))?;
    let expected = header.header.data_offset + bytes;
    let found = file.metadata().map_err(DatasetError::io(path, "read the length"))?.len();
    if found < expected {
        return Err(DatasetError::Truncated { path: path.to_owned(), found, expected });
    }
    if found > expected {
        return Err(DatasetError::Input(format!(
            "{}: {found} bytes, but its header promises {expected}: another file was appended, or the header is of \
             another array",
            path.display()
        )));
    }
    Ok(header)
}

/// Reads a `.npy` file with one integer of 0 or more per row.
pub(super) fn read_integers(input: Input, scratch: &Scratch) -> Result<Vec<u64>, DatasetError> {
    let path: PathBuf = input.path().to_owned();
    let (file, header) = open_array(input, scratch)?;
    let wrong = |what: String| DatasetError::Input(format!("{}: {what}", path.display()));
    if header.header.width() != 1 {
        return Err(wrong(format!("the shape {}: one number per row is expected", header.header.shape)));
    }
    if matches!(header.header.element, NpyType::F16 | NpyType::F32 | NpyType::F64 | NpyType::Void2) {
        return Err(wrong(format!("elements `{}`: integers are expected", header.descr)));
    }
    let rows = header.header.rows();
    let ids = ArrayFile::ids(&path.display().to_string(), file, &header, rows)?;
    let mut numbers = Vec::with_capacity(rows as usize);
    const PIECE_IDS: u64 = 1 << 16;
    while (numbers.len() as u64) < rows {
        let first = numbers.len() as u64;
        numbers.extend(ids.read_ids(first, (rows - first).min(PIECE_IDS))?);
    }
    Ok(numbers)
}
