//! The head of a `.dgl` file of named tensors, as `dgl.data.utils.save_tensors` writes it: which tensors there are, and
//! at which byte the rows of each begin. Reads untrusted bytes; it must never read a row, allocate more than a name
//! whatever a file claims, or take a tensor that does not lie in the file whole.
//!
//! Little endian, without padding: u64 magic, u64 count, u64 count again; then for each tensor u64 length of the name,
//! the name, u64 magic of a tensor, u64 0, i32 device type, i32 device id, i32 dimensions, u8 type code, u8 bits, u16
//! lanes, i64 for each dimension, i64 bytes, and the rows, which are not aligned to anything.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Seek};

use rudder_client::DType;

/// First eight bytes of a file of named tensors.
pub const FILE_MAGIC: u64 = 0xDD5A_9FBE_3FA2_443F;

/// First eight bytes of a tensor, after its name.
pub(super) const TENSOR_MAGIC: u64 = 0xDD5E_40F0_96B4_A13F;

/// Most tensors that are believed: a dataset has no more tables than that.
const TENSORS_MAX: u64 = u16::MAX as u64;

/// Longest name that is believed.
const NAME_BYTES_MAX: u64 = 4096;

/// Most dimensions that are believed; PyTorch has no more than 64.
const DIMENSIONS_MAX: i32 = 64;

/// Device type of tensors in main memory: the only one that is written to files.
const CPU: i32 = 1;

/// What is wrong with a `.dgl` file.
#[derive(Debug, thiserror::Error)]
pub enum DglError {
    /// The first bytes are not those of a file of tensors.
    #[error(
        "not a file of DGL tensors: it begins with {0:016x}, not {FILE_MAGIC:016x}; correct the path, or make the partition again with dgl.distributed.partition_graph"
    )]
    Magic(u64),
    /// The file ends too early.
    #[error("truncated: its {length} bytes end before {what} (from byte {at} on, {bytes} bytes); copy the file again")]
    Truncated {
        /// Where what is cut begins.
        at: u64,
        /// Its length.
        bytes: u64,
        /// What is cut.
        what: String,
        /// Length of the file.
        length: u64,
    },
    /// Bytes that DGL does not write.
    #[error("byte {at}: {what}: the file is damaged; copy it again")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong there.
        what: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Type of the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    code: u8,
    bits: u8,
    lanes: u16,
}

impl Element {
    /// The type that a table has for it; `None` when it has no such type. A mask (`torch.bool`) is written as bytes of
    /// 0 and 1, and cannot be told from `torch.uint8`.
    pub(super) fn dtype(self) -> Option<DType> {
        Some(match (self.code, self.bits, self.lanes) {
            (0, 8, 1) => DType::I8,
            (0, 16, 1) => DType::I16,
            (0, 32, 1) => DType::I32,
            (0, 64, 1) => DType::I64,
            (1, 8, 1) => DType::U8,
            (1, 16, 1) => DType::U16,
            (1, 32, 1) => DType::U32,
            (1, 64, 1) => DType::U64,
            (2, 16, 1) => DType::F16,
            (2, 32, 1) => DType::F32,
            (2, 64, 1) => DType::F64,
            (4, 16, 1) => DType::Bf16,
            _ => return None,
        })
    }

    /// The type in words, such as `float8`.
    pub(super) fn words(self) -> String {
        let Self { code, bits, lanes } = self;
        let kind = match code {
            0 => "int",
            1 => "uint",
            2 => "float",
            4 => "bfloat",
            _ => return format!("type {code} of {bits} bits"),
        };
        if lanes == 1 { format!("{kind}{bits}") } else { format!("{kind}{bits} x {lanes}") }
    }

    fn size(self) -> u64 {
        (u64::from(self.bits) * u64::from(self.lanes)).div_ceil(8)
    }
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) element: Element,
    /// Sizes of the dimensions; the first counts the rows.
    pub(super) shape: Vec<u64>,
    /// Byte of the file at which the tensor's entry begins, with the length of its name.
    pub(super) start: u64,
    /// Byte of the file at which the first row begins.
    pub(super) offset: u64,
    /// Bytes of all rows.
    pub(super) bytes: u64,
}

/// The tensors of a file of `length` bytes, in the file's order, which is that of a hash map.
///
/// # Errors
/// [`DglError`] for anything that DGL does not write; never panics whatever the bytes.
pub(super) fn read_tensors(file: impl Read + Seek, length: u64) -> Result<Vec<Tensor>, DglError> {
    let mut cursor = Cursor { reader: BufReader::new(file), at: 0, length };
    let magic = cursor.number("the magic number")?;
    if magic != FILE_MAGIC {
        return Err(DglError::Magic(magic));
    }
    let (at, count) = (cursor.at, cursor.number("the number of tensors")?);
    let again = cursor.number("the number of tensors")?;
    if count != again || count > TENSORS_MAX {
        return Err(damaged(
            at,
            format!("{count} names and {again} tensors: one number up to {TENSORS_MAX} is possible"),
        ));
    }
    let mut seen = BTreeSet::new();
    let mut tensors = Vec::new();
    for _ in 0..count {
        let at = cursor.at;
        let name = cursor.name()?;
        if !seen.insert(name.clone()) {
            return Err(damaged(at, format!("a second tensor `{name}`")));
        }
        tensors.push(cursor.tensor(at, name)?);
    }
    if cursor.at != length {
        return Err(damaged(cursor.at, format!("{} bytes after the last of {count} tensors", length - cursor.at)));
    }
    Ok(tensors)
}

fn damaged(at: u64, what: String) -> DglError {
    DglError::Damaged { at, what }
}

/// A file that is read from front to back, over its rows.
struct Cursor<R> {
    reader: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read + Seek> Cursor<R> {
    /// The next bytes; `what` they are is for the message.
    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], DglError> {
        self.has(N as u64, || what.to_owned())?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn has(&self, bytes: u64, what: impl Fn() -> String) -> Result<(), DglError> {
        match self.at.checked_add(bytes) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(DglError::Truncated { at: self.at, bytes, what: what(), length: self.length }),
        }
    }

    fn number(&mut self, what: &str) -> Result<u64, DglError> {
        self.take(what).map(u64::from_le_bytes)
    }

    fn name(&mut self) -> Result<String, DglError> {
        let (at, length) = (self.at, self.number("the length of a name")?);
        if length == 0 || length > NAME_BYTES_MAX {
            return Err(damaged(at, format!("a name of {length} bytes: 1 to {NAME_BYTES_MAX} are possible")));
        }
        self.has(length, || "a name".to_owned())?;
        let mut name = vec![0; length as usize];
        self.reader.read_exact(&mut name)?;
        self.at += length;
        String::from_utf8(name).map_err(|_| damaged(at, "a name that is not UTF-8".to_owned()))
    }

    /// Reads the head of the tensor `name`, whose entry began at byte `start`.
    fn tensor(&mut self, start: u64, name: String) -> Result<Tensor, DglError> {
        let what = format!("the head of tensor `{name}`");
        let (at, magic) = (self.at, self.number(&what)?);
        if magic != TENSOR_MAGIC {
            return Err(damaged(at, format!("tensor `{name}` begins with {magic:016x}, not {TENSOR_MAGIC:016x}")));
        }
        let (at, reserved) = (self.at, self.number(&what)?);
        let device = i32::from_le_bytes(self.take(&what)?);
        let _device_id: [u8; 4] = self.take(&what)?;
        if reserved != 0 || device != CPU {
            return Err(damaged(at, format!("tensor `{name}` is of kind {reserved} on device type {device}")));
        }
        let (at, dimensions) = (self.at, i32::from_le_bytes(self.take(&what)?));
        let [code, bits, lanes @ ..]: [u8; 4] = self.take(&what)?;
        let element = Element { code, bits, lanes: u16::from_le_bytes(lanes) };
        if !(0..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(damaged(at, format!("tensor `{name}` has {dimensions} dimensions")));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let (at, size) = (self.at, i64::from_le_bytes(self.take(&what)?));
            let size = u64::try_from(size).map_err(|_| damaged(at, format!("tensor `{name}` has a size of {size}")))?;
            shape.push(size);
        }
        let (at, bytes) = (self.at, self.number(&what)?);
        // Sizes beside a zero must fit, too: a table's width is their product.
        let elements = |sizes: &[u64]| sizes.iter().try_fold(element.size(), |all, &size| all.checked_mul(size));
        let fits = elements(&shape) == Some(bytes) && elements(shape.get(1..).unwrap_or_default()).is_some();
        if !fits || i64::try_from(bytes).is_err() {
            let what = format!("tensor `{name}` of shape {shape:?} and {} claims {bytes} bytes", element.words());
            return Err(damaged(at, what));
        }
        let offset = self.at;
        self.has(bytes, || format!("the rows of tensor `{name}`"))?;
        // Cannot be negative: it was checked above.
        self.reader.seek_relative(bytes as i64)?;
        self.at += bytes;
        Ok(Tensor { name, element, shape, start, offset, bytes })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A tensor as DGL writes it.
    pub(crate) fn tensor(name: &str, (code, bits): (u8, u8), shape: &[i64], rows: &[u8]) -> Vec<u8> {
        let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&TENSOR_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&0u64.to_le_bytes());
        for number in [1, 0, shape.len() as i32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&[code, bits, 1, 0]);
        shape.iter().for_each(|size| bytes.extend_from_slice(&size.to_le_bytes()));
        bytes.extend_from_slice(&(rows.len() as u64).to_le_bytes());
        bytes.extend_from_slice(rows);
        bytes
    }

    /// A file of tensors.
    pub(crate) fn file(tensors: &[Vec<u8>]) -> Vec<u8> {
        let count = tensors.len() as u64;
        let head = [FILE_MAGIC, count, count].map(u64::to_le_bytes).concat();
        [head, tensors.concat()].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Tensor>, DglError> {
        read_tensors(io::Cursor::new(bytes), bytes.len() as u64)
    }

    fn sample() -> Vec<u8> {
        file(&[tensor("_N/mask", (1, 8), &[3], &[1, 0, 1]), tensor("_N/feat", (2, 32), &[3, 2, 1], &[7; 24])])
    }

    #[test]
    fn finds_the_rows_of_each_tensor_wherever_they_begin() {
        let tensors = read(&sample()).unwrap();
        let [mask, feat] = tensors.as_slice() else { panic!("{tensors:?}") };
        assert_eq!(
            (mask.name.as_str(), mask.element.dtype(), mask.shape.as_slice()),
            ("_N/mask", Some(DType::U8), &[3][..])
        );
        assert_eq!((mask.start, mask.offset, mask.bytes), (24, 24 + 8 + 7 + 40 + 8, 3));
        assert_eq!((feat.element.dtype(), feat.shape.as_slice()), (Some(DType::F32), &[3, 2, 1][..]));
        assert_eq!((feat.start, feat.offset, feat.bytes), (90, 90 + 8 + 7 + 40 + 24, 24));
        assert_eq!(sample()[feat.offset as usize..], [7; 24]);
        assert!(read(&file(&[])).unwrap().is_empty());
    }

    #[test]
    fn every_cut_is_an_error_that_says_where() {
        let whole = sample();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            assert!(matches!(error, DglError::Truncated { .. }), "{length}: {error}");
            assert!(error.to_string().contains("copy the file again"), "{error}");
        }
    }

    #[test]
    fn refuses_with_place_and_reason() {
        let with = |at: usize, bytes: &[u8]| {
            let mut file = sample();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        let twice = file(&[tensor("a", (1, 8), &[1], &[1]), tensor("a", (1, 8), &[1], &[1])]);
        let huge = file(&[tensor("a", (2, 64), &[1 << 40, 1 << 40], &[])]);
        let wide = file(&[tensor("a", (2, 64), &[0, 1 << 40, 1 << 40], &[])]);
        let cases: [(Vec<u8>, &str); 13] = [
            (b"\x93NUMPY\x01\x00 and more".to_vec(), "not a file of DGL tensors: it begins with"),
            (with(8, &[3]), "byte 8: 3 names and 2 tensors"),
            (with(8, &[0xFF; 16]), "up to 65535"),
            ([sample(), vec![0; 5]].concat(), "5 bytes after the last of 2 tensors"),
            (with(24, &[0xFF; 8]), "byte 24: a name of 18446744073709551615 bytes"),
            (with(32, &[0xFF]), "not UTF-8"),
            (with(39, &[0]), "byte 39: tensor `_N/mask` begins with"),
            (with(55, &[2]), "on device type 2"),
            (with(63, &[200]), "byte 63: tensor `_N/mask` has 200 dimensions"),
            (with(71 + 7, &[0x80]), "byte 71: tensor `_N/mask` has a size of -"),
            (with(71, &[4]), "shape [4] and uint8 claims 3 bytes"),
            (twice, "a second tensor `a`"),
            (huge, "claims 0 bytes"),
        ];
        for (bytes, expected) in cases {
            let message = read(&bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message} should say {expected}");
        }
        assert!(read(&wide).unwrap_err().to_string().contains("claims 0 bytes"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let _ = read(&[FILE_MAGIC.to_le_bytes().as_slice(), &bytes].concat());
        }

        #[test]
        fn never_panics_on_a_changed_file(at in 0..sample().len(), bytes in proptest::collection::vec(any::<u8>(), 1..12)) {
            let mut file = sample();
            let end = (at + bytes.len()).min(file.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
            for found in read(&file).unwrap_or_default() {
                prop_assert!(found.offset + found.bytes <= file.len() as u64);
            }
        }
    }
}
