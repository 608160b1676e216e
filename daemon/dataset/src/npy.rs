//! The header of a `.npy` file (format versions 1.0, 2.0 and 3.0 of NumPy's specification, `numpy.lib.format`): read
//! from untrusted bytes, and written. Owns nothing but the header: it must never read or interpret rows, and never
//! allocate more than [`HEADER_BYTES_MAX`] whatever a file claims.

use std::fmt;
use std::io::Read;

use rudder_client::DType;

/// Longest header dictionary that is believed. NumPy writes 118 bytes for a plain array.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Most dimensions that are believed: NumPy's own limit (`NPY_MAXDIMS`).
const DIMENSIONS_MAX: usize = 64;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Data begins at a multiple of this many bytes in files we write, as NumPy does (`ARRAY_ALIGN`).
const ALIGNMENT: usize = 64;

/// What is wrong with a `.npy` header.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The first bytes are not the magic string.
    #[error("not a .npy file (its first bytes are not \\x93NUMPY)")]
    Magic,
    /// A format version this build does not read.
    #[error("unknown .npy format version {0}.{1}: this build reads 1.0, 2.0 and 3.0")]
    Version(u8, u8),
    /// The header claims more bytes than a header may have.
    #[error("the header claims {0} bytes, more than the {HEADER_BYTES_MAX} allowed")]
    TooLong(u64),
    /// The file ends inside the header.
    #[error("the file ends inside its header")]
    Truncated,
    /// The dictionary is malformed.
    #[error("malformed header at byte {at} of its dictionary: {what}")]
    Syntax {
        /// Byte of the dictionary where reading stopped.
        at: usize,
        /// What was expected there.
        what: &'static str,
    },
    /// An element type that Rudder does not know.
    #[error("unsupported element type `{0}`: use floats, integers or booleans of at most 8 bytes")]
    Descr(String),
    /// Most significant byte first, where rows are served as they lie in the file.
    #[error("big-endian elements `{0}`: import the array with `rudder import npy`, which turns them")]
    BigEndian(String),
    /// Column-major order.
    #[error("the array is stored in Fortran order: save it in C order (`numpy.ascontiguousarray`)")]
    FortranOrder,
    /// Number of elements times their size does not fit 64 bits.
    #[error("the shape {0} is too large")]
    Overflow(Shape),
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Element type of a `.npy` file: what importing can convert from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are NumPy's own names
pub enum NpyType {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    F32,
    F64,
    /// Two opaque bytes, as `ml_dtypes` stores a brain float.
    Void2,
}

impl NpyType {
    /// Reads a `descr` such as `<f4`.
    ///
    /// # Errors
    /// [`NpyError::Descr`] for big-endian, complex, string and structured types.
    pub fn from_descr(descr: &str) -> Result<Self, NpyError> {
        Ok(match descr {
            "|b1" | "?" => Self::Bool,
            "|i1" | "<i1" => Self::I8,
            "|u1" | "<u1" => Self::U8,
            "<i2" => Self::I16,
            "<i4" => Self::I32,
            "<i8" => Self::I64,
            "<u2" => Self::U16,
            "<u4" => Self::U32,
            "<u8" => Self::U64,
            "<f2" => Self::F16,
            "<f4" => Self::F32,
            "<f8" => Self::F64,
            "|V2" | "<V2" => Self::Void2,
            other => return Err(NpyError::Descr(other.to_owned())),
        })
    }

    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Void2 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Whether the bytes of this type are those of `dtype`, so that rows need no conversion.
    #[must_use]
    pub const fn is_same_bytes(self, dtype: DType) -> bool {
        matches!(
            (self, dtype),
            (Self::F32, DType::F32)
                | (Self::F16, DType::F16)
                | (Self::F64, DType::F64)
                | (Self::I64, DType::I64)
                | (Self::I32, DType::I32)
                | (Self::I16, DType::I16)
                | (Self::I8, DType::I8)
                | (Self::U8 | Self::Bool, DType::U8)
                | (Self::Bool, DType::Bool)
                | (Self::U16, DType::U16)
                | (Self::U32, DType::U32)
                | (Self::U64, DType::U64)
                | (Self::U16 | Self::Void2, DType::Bf16)
        )
    }
}

/// Shape of an array, shown as NumPy does: `(3, 4)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(pub Vec<u64>);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.0.iter().map(u64::to_string).collect();
        match sizes.as_slice() {
            [one] => write!(f, "({one},)"),
            many => write!(f, "({})", many.join(", ")),
        }
    }
}

/// A parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// Element type.
    pub element: NpyType,
    /// Sizes of the dimensions; the first counts the rows. Always C order.
    pub shape: Shape,
    /// Bytes before the first row. Not aligned in files written by others.
    pub data_offset: u64,
}

impl NpyHeader {
    /// Reads the header at the start of `reader` and leaves it at the first row.
    ///
    /// # Errors
    /// [`NpyError`] for anything but a C-order, little-endian array of a known element type; never panics whatever the
    /// bytes.
    pub fn read(reader: &mut impl Read) -> Result<Self, NpyError> {
        let foreign = ForeignHeader::read(reader)?;
        if foreign.is_big_endian {
            return Err(NpyError::BigEndian(foreign.descr));
        }
        if foreign.is_fortran_order {
            return Err(NpyError::FortranOrder);
        }
        Ok(foreign.header)
    }

    /// Number of rows: the first dimension; a scalar is one row.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.shape.0.first().copied().unwrap_or(1)
    }

    /// Shape of one row: all dimensions but the first.
    #[must_use]
    pub fn row_shape(&self) -> &[u64] {
        self.shape.0.get(1..).unwrap_or_default()
    }

    /// Elements of one row: the product of all dimensions but the first.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.row_shape().iter().product()
    }

    /// Bytes of all rows.
    ///
    /// # Errors
    /// [`NpyError::Overflow`] when they do not fit 64 bits. [`NpyHeader::read`] has checked this already.
    pub fn data_bytes(&self) -> Result<u64, NpyError> {
        let overflow = || NpyError::Overflow(self.shape.clone());
        // The width on its own must fit too: an empty array may have absurd other dimensions.
        let row = self.row_shape().iter().try_fold(self.element.size() as u64, |all, &size| all.checked_mul(size));
        let total = row.ok_or_else(overflow)?.checked_mul(self.rows()).ok_or_else(overflow)?;
        total.checked_add(self.data_offset).ok_or_else(overflow)?;
        Ok(total)
    }
}

/// The header of a file that somebody else wrote, and how its elements lie where [`NpyHeader`] knows one way only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignHeader {
    /// Element type, shape as NumPy shows it, and where elements begin.
    pub header: NpyHeader,
    /// NumPy's word for the element type.
    pub descr: String,
    /// Elements are stored with the most significant byte first.
    pub is_big_endian: bool,
    /// Elements are stored column by column.
    pub is_fortran_order: bool,
}

impl ForeignHeader {
    /// Reads the header at the start of `reader` and leaves it at the first element.
    ///
    /// # Errors
    /// [`NpyError`] for anything but an array of a known element type; never panics whatever the bytes.
    pub fn read(reader: &mut impl Read) -> Result<Self, NpyError> {
        let mut preamble = [0u8; 8];
        read_exact(reader, &mut preamble)?;
        if &preamble[..6] != MAGIC {
            return Err(NpyError::Magic);
        }
        let length_bytes = match (preamble[6], preamble[7]) {
            (1, 0) => 2,
            (2 | 3, 0) => 4,
            (major, minor) => return Err(NpyError::Version(major, minor)),
        };
        let mut length = [0u8; 4];
        read_exact(reader, &mut length[..length_bytes])?;
        let length = u32::from_le_bytes(length) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(NpyError::TooLong(length as u64));
        }
        let mut dictionary = vec![0u8; length];
        read_exact(reader, &mut dictionary)?;
        let fields = Dictionary::parse(&dictionary)?;
        let little = fields.descr.strip_prefix('>').map(|kind| format!("<{kind}"));
        let header = NpyHeader {
            element: NpyType::from_descr(little.as_ref().unwrap_or(&fields.descr))
                .map_err(|_| NpyError::Descr(fields.descr.clone()))?,
            shape: Shape(fields.shape),
            data_offset: (preamble.len() + length_bytes + length) as u64,
        };
        header.data_bytes()?;
        // One dimension is the same in both orders, and NumPy marks such arrays either way.
        let is_fortran_order = fields.fortran_order && header.shape.0.iter().filter(|&&size| size != 1).count() > 1;
        let is_big_endian = little.is_some() && header.element.size() > 1;
        Ok(Self { header, descr: fields.descr, is_big_endian, is_fortran_order })
    }
}

/// Bytes of a version 1.0 header of a C-order array of type `descr` and `shape`, padded to 64 bytes as NumPy does.
#[must_use]
pub fn encode_header(descr: &str, shape: &[u64]) -> Vec<u8> {
    let mut dictionary =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {}, }}", Shape(shape.to_vec())).into_bytes();
    let preamble = MAGIC.len() + 4;
    let total = (preamble + dictionary.len() + 1).next_multiple_of(ALIGNMENT);
    dictionary.resize(total - preamble - 1, b' ');
    dictionary.push(b'\n');
    let mut header = Vec::with_capacity(total);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[1, 0]);
    // At most 64 dimensions of 20 digits: far below 64 KiB.
    header.extend_from_slice(&(dictionary.len() as u16).to_le_bytes());
    header.extend_from_slice(&dictionary);
    header
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), NpyError> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => NpyError::Truncated,
        _ => NpyError::Io(error),
    })
}

/// The three keys of the Python dictionary literal.
struct Dictionary {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

impl Dictionary {
    fn parse(bytes: &[u8]) -> Result<Self, NpyError> {
        let mut cursor = Cursor { bytes, at: 0 };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.expect(b'{', "`{`")?;
        while !cursor.accept(b'}') {
            let key = cursor.string()?;
            cursor.expect(b':', "`:`")?;
            match key {
                "descr" => descr = Some(cursor.string()?.to_owned()),
                "fortran_order" => fortran_order = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.shape()?),
                _ => return Err(cursor.error("an unknown key")),
            }
            if !cursor.accept(b',') {
                cursor.expect(b'}', "`,` or `}`")?;
                break;
            }
        }
        cursor.skip_spaces();
        if cursor.at != bytes.len() {
            return Err(cursor.error("the end of the dictionary"));
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Self { descr, fortran_order, shape }),
            _ => Err(cursor.error("the keys descr, fortran_order and shape")),
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, what: &'static str) -> NpyError {
        NpyError::Syntax { at: self.at, what }
    }

    fn skip_spaces(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.skip_spaces();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), NpyError> {
        if self.accept(byte) { Ok(()) } else { Err(self.error(what)) }
    }

    fn string(&mut self) -> Result<&'a str, NpyError> {
        self.skip_spaces();
        let quote = match self.bytes.get(self.at) {
            Some(&quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.error("a string (structured types are not supported)")),
        };
        let rest = &self.bytes[self.at + 1..];
        let length = rest.iter().position(|&byte| byte == quote).ok_or_else(|| self.error("a closing quote"))?;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| self.error("text in UTF-8"))?;
        self.at += length + 2;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        self.skip_spaces();
        let rest = &self.bytes[self.at..];
        for (word, value) in [("True", true), ("False", false)] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("True or False"))
    }

    fn shape(&mut self) -> Result<Vec<u64>, NpyError> {
        self.expect(b'(', "`(`")?;
        let mut shape = Vec::new();
        while !self.accept(b')') {
            if shape.len() == DIMENSIONS_MAX {
                return Err(self.error("at most 64 dimensions"));
            }
            shape.push(self.number()?);
            // Python 2 wrote long integers as `3L`.
            let _ = self.bytes.get(self.at) == Some(&b'L') && self.accept(b'L');
            if !self.accept(b',') {
                self.expect(b')', "`,` or `)`")?;
                break;
            }
        }
        Ok(shape)
    }

    fn number(&mut self) -> Result<u64, NpyError> {
        self.skip_spaces();
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.bytes[self.at..self.at + digits]).unwrap_or_default();
        let value = text.parse().map_err(|_| self.error("a size below 2^64"))?;
        self.at += digits;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_dictionary(version: u8, dictionary: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[version, 0]);
        match version {
            1 => bytes.extend_from_slice(&(dictionary.len() as u16).to_le_bytes()),
            _ => bytes.extend_from_slice(&(dictionary.len() as u32).to_le_bytes()),
        }
        bytes.extend_from_slice(dictionary.as_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<NpyHeader, NpyError> {
        NpyHeader::read(&mut &bytes[..])
    }

    #[test]
    fn reads_all_versions_and_leaves_the_reader_at_the_data() {
        for version in 1..=3 {
            let mut bytes = with_dictionary(version, "{\"shape\": (3L, 4), 'fortran_order': False, 'descr': '<f4'} \n");
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(b"data");
            let mut reader = &bytes[..];
            let header = NpyHeader::read(&mut reader).unwrap();
            assert_eq!((header.rows(), header.width(), header.row_shape()), (3, 4, &[4][..]));
            assert_eq!((header.element, header.data_offset), (NpyType::F32, offset));
            assert_eq!(reader, b"data");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        let cases: [(Vec<u8>, &str); 10] = [
            (b"PK\x03\x04 not an array".to_vec(), "not a .npy file"),
            (b"\x93NUMPY\x01".to_vec(), "ends inside"),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "version 9.0"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "claims 4294967295 bytes"),
            (with_dictionary(1, "{'descr': '>f4', 'fortran_order': False, 'shape': (3,)}"), "`>f4`"),
            (with_dictionary(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (3,2)}"), "Fortran"),
            (with_dictionary(1, "{'descr': [('a','<f4')], 'fortran_order': True, 'shape': (3,)}"), "structured"),
            (with_dictionary(1, "{'descr': '<f4', 'shape': (3,)}"), "the keys"),
            (
                with_dictionary(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 8)}"),
                "large",
            ),
            (with_dictionary(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"), "2^64"),
        ];
        for (bytes, expected) in cases {
            let message = read(&bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message} should say {expected}");
        }
    }

    #[test]
    fn one_dimension_in_fortran_order_is_fine() {
        assert!(read(&with_dictionary(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (3,1)}")).is_ok());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }

        #[test]
        fn never_panics_inside_the_dictionary(version in 1u8..=3, text in "[{}():,'a-z0-9L <>|]{0,80}|\\PC{0,40}") {
            let _ = read(&with_dictionary(version, &text));
        }

        #[test]
        fn round_trips(shape in proptest::collection::vec(0u64..1_000_000_000, 0..4).prop_filter(
            "fits", |shape| shape.iter().try_fold(8u64, |p, &s| p.checked_mul(s)).is_some_and(|p| p < 1 << 62))) {
            let bytes = encode_header("<f8", &shape);
            prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
            let header = read(&bytes);
            let width_fits = shape.iter().skip(1).try_fold(8u64, |p, &s| p.checked_mul(s)).is_some();
            prop_assert_eq!(header.is_ok(), width_fits);
            if let Ok(header) = header {
                prop_assert_eq!(header.data_offset, bytes.len() as u64);
                prop_assert_eq!(header.shape, Shape(shape));
            }
        }
    }
}
