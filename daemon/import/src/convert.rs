//! Conversion of elements on their way into a table. Only conversions that keep the meaning of a number: integers
//! widen, floats change precision when asked. It must never guess.

use half::{bf16, f16};
use rudder_client::DType;

use rudder_dataset::npy::NpyType;

/// Turns elements of one type into another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Converter {
    from: NpyType,
    to: DType,
    convert: fn(&[u8], &mut [u8]),
}

/// The type in which a table stores elements of `from` when nobody says otherwise: itself, or `i64` for integers that a
/// table cannot hold.
pub(super) fn natural_dtype(from: NpyType) -> DType {
    match from {
        NpyType::F16 => DType::F16,
        NpyType::F32 => DType::F32,
        NpyType::F64 => DType::F64,
        NpyType::Void2 => DType::Bf16,
        NpyType::U8 | NpyType::Bool => DType::U8,
        NpyType::I8 | NpyType::I16 | NpyType::I32 | NpyType::I64 | NpyType::U16 | NpyType::U32 | NpyType::U64 => {
            DType::I64
        }
    }
}

impl Converter {
    /// `None` when the conversion is not offered.
    pub(super) fn new(from: NpyType, to: DType) -> Option<Self> {
        let convert: fn(&[u8], &mut [u8]) = match (from, to) {
            _ if from.is_same_bytes(to) => |from, to| to.copy_from_slice(from),
            (NpyType::Bool | NpyType::U8, DType::I64) => {
                |from, to| each(from, to, |b: [u8; 1]| i64::from(b[0]).to_le_bytes())
            }
            (NpyType::I8, DType::I64) => |from, to| each(from, to, |b| i64::from(i8::from_le_bytes(b)).to_le_bytes()),
            (NpyType::I16, DType::I64) => |from, to| each(from, to, |b| i64::from(i16::from_le_bytes(b)).to_le_bytes()),
            (NpyType::I32, DType::I64) => |from, to| each(from, to, |b| i64::from(i32::from_le_bytes(b)).to_le_bytes()),
            (NpyType::U16, DType::I64) => |from, to| each(from, to, |b| i64::from(u16::from_le_bytes(b)).to_le_bytes()),
            (NpyType::U32, DType::I64) => |from, to| each(from, to, |b| i64::from(u32::from_le_bytes(b)).to_le_bytes()),
            // The caller has looked for numbers that do not fit: see `ArrayFile::open`.
            (NpyType::U64, DType::I64) => |from, to| to.copy_from_slice(from),
            (NpyType::F16, DType::F32) => |from, to| each(from, to, |b| f16::from_le_bytes(b).to_f32().to_le_bytes()),
            (NpyType::F16, DType::F64) => |from, to| each(from, to, |b| f16::from_le_bytes(b).to_f64().to_le_bytes()),
            (NpyType::F32, DType::F16) => {
                |from, to| each(from, to, |b| f16::from_f32(f32::from_le_bytes(b)).to_le_bytes())
            }
            (NpyType::F32, DType::Bf16) => {
                |from, to| each(from, to, |b| bf16::from_f32(f32::from_le_bytes(b)).to_le_bytes())
            }
            (NpyType::F32, DType::F64) => |from, to| each(from, to, |b| f64::from(f32::from_le_bytes(b)).to_le_bytes()),
            (NpyType::F64, DType::F16) => {
                |from, to| each(from, to, |b| f16::from_f64(f64::from_le_bytes(b)).to_le_bytes())
            }
            (NpyType::F64, DType::Bf16) => {
                |from, to| each(from, to, |b| bf16::from_f64(f64::from_le_bytes(b)).to_le_bytes())
            }
            (NpyType::F64, DType::F32) => |from, to| each(from, to, |b| (f64::from_le_bytes(b) as f32).to_le_bytes()),
            _ => return None,
        };
        Some(Self { from, to, convert })
    }

    /// Whether the bytes stay as they are.
    pub(super) fn is_copy(&self) -> bool {
        self.from.is_same_bytes(self.to)
    }

    /// Converts all elements of `from` into `to`, which has room for the same number of elements.
    pub(super) fn convert(&self, from: &[u8], to: &mut [u8]) {
        (self.convert)(from, to);
    }
}

fn each<const FROM: usize, const TO: usize>(from: &[u8], to: &mut [u8], convert: impl Fn([u8; FROM]) -> [u8; TO]) {
    for (from, to) in from.as_chunks().0.iter().zip(to.as_chunks_mut().0) {
        *to = convert(*from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(from: NpyType, to: DType, bytes: &[u8]) -> Option<Vec<u8>> {
        let converter = Converter::new(from, to)?;
        let mut out = vec![0; bytes.len() / from.size() * to.size()];
        converter.convert(bytes, &mut out);
        Some(out)
    }

    #[test]
    fn integers_widen_with_their_sign() {
        let expected = Some((-2i64).to_le_bytes().to_vec());
        assert_eq!(convert(NpyType::I8, DType::I64, &(-2i8).to_le_bytes()), expected);
        assert_eq!(convert(NpyType::I16, DType::I64, &(-2i16).to_le_bytes()), expected);
        assert_eq!(convert(NpyType::I32, DType::I64, &(-2i32).to_le_bytes()), expected);
        let large = Some(i64::from(u32::MAX).to_le_bytes().to_vec());
        assert_eq!(convert(NpyType::U32, DType::I64, &u32::MAX.to_le_bytes()), large);
    }

    #[test]
    fn floats_change_precision() {
        let ones = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        let narrow = convert(NpyType::F32, DType::Bf16, &ones).unwrap();
        assert_eq!(narrow, [0xc0, 0x3f, 0x00, 0xc0]);
        let half = convert(NpyType::F32, DType::F16, &ones).unwrap();
        assert_eq!(convert(NpyType::F16, DType::F32, &half).unwrap(), ones);
        let double = convert(NpyType::F32, DType::F64, &ones).unwrap();
        assert_eq!(convert(NpyType::F64, DType::F32, &double).unwrap(), ones);
    }

    #[test]
    fn a_brain_float_is_two_bytes_as_they_are() {
        assert_eq!(convert(NpyType::U16, DType::Bf16, &[1, 2]), Some(vec![1, 2]));
        assert_eq!(convert(NpyType::Void2, DType::Bf16, &[1, 2]), Some(vec![1, 2]));
    }

    #[test]
    fn meaning_is_not_lost() {
        for (from, to) in [
            (NpyType::F32, DType::I64),
            (NpyType::I64, DType::F32),
            (NpyType::I32, DType::U8),
            (NpyType::U8, DType::F32),
        ] {
            assert!(Converter::new(from, to).is_none(), "{from:?} -> {to}");
        }
        for from in [NpyType::Bool, NpyType::I8, NpyType::U16, NpyType::U64, NpyType::F16, NpyType::F64, NpyType::Void2]
        {
            assert!(Converter::new(from, natural_dtype(from)).is_some(), "{from:?}");
        }
    }
}
