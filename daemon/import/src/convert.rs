//! Conversion of elements on their way into a table. A number keeps its value: integers must be exact, floats may be
//! rounded to the precision that was asked for, and what would become infinite or 0 is reported. It must never decide
//! whether a loss is allowed.

use half::{bf16, f16};
use rudder_client::DType;

use rudder_dataset::npy::NpyType;

/// Turns elements of one type into another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Converter {
    from: NpyType,
    to: DType,
    swaps: bool,
    convert: fn(&[u8], &mut [u8], bool) -> Losses,
}

/// What happened to numbers that the new type cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Finite numbers that became infinite.
    pub(super) infinite: u64,
    /// Numbers that became 0.
    pub(super) zero: u64,
    /// Integers that became another number.
    pub(super) rounded: u64,
    /// Numbers for which the new type has nothing near.
    pub(super) unfit: u64,
    /// Place of the first of these.
    pub(super) first: Option<usize>,
    /// Place of the first that is unfit.
    pub(super) first_unfit: Option<usize>,
}

impl Losses {
    /// Whether every number arrived.
    pub(super) fn is_none(&self) -> bool {
        self.first.is_none()
    }
}

/// The type in which a table stores elements of `from` when nobody says otherwise: itself. Two opaque bytes are a brain
/// float.
pub(super) fn natural_dtype(from: NpyType) -> DType {
    match from {
        NpyType::F16 => DType::F16,
        NpyType::F32 => DType::F32,
        NpyType::F64 => DType::F64,
        NpyType::Void2 => DType::Bf16,
        NpyType::Bool => DType::Bool,
        NpyType::U8 => DType::U8,
        NpyType::U16 => DType::U16,
        NpyType::U32 => DType::U32,
        NpyType::U64 => DType::U64,
        NpyType::I8 => DType::I8,
        NpyType::I16 => DType::I16,
        NpyType::I32 => DType::I32,
        NpyType::I64 => DType::I64,
    }
}

impl Converter {
    /// From elements of `from`, of big-endian bytes if `swaps`, to `to`.
    pub(super) fn new(from: NpyType, swaps: bool, to: DType) -> Self {
        let convert: fn(&[u8], &mut [u8], bool) -> Losses = match from {
            // Two bytes that are to be brain floats are brain floats: NumPy has no name for them.
            _ if is_plain_copy(from, to) => match from.size() {
                1 => copy::<1>,
                2 => copy::<2>,
                4 => copy::<4>,
                _ => copy::<8>,
            },
            NpyType::Bool | NpyType::U8 => to_type::<1, U8>(to),
            NpyType::I8 => to_type::<1, I8>(to),
            NpyType::I16 => to_type::<2, I16>(to),
            NpyType::U16 => to_type::<2, U16>(to),
            NpyType::I32 => to_type::<4, I32>(to),
            NpyType::U32 => to_type::<4, U32>(to),
            NpyType::I64 => to_type::<8, I64>(to),
            NpyType::U64 => to_type::<8, U64>(to),
            NpyType::F16 => to_type::<2, F16>(to),
            NpyType::F32 => to_type::<4, F32>(to),
            NpyType::F64 => to_type::<8, F64>(to),
            NpyType::Void2 => to_type::<2, Bf16>(to),
        };
        Self { from, to, swaps, convert }
    }

    /// Whether the bytes stay as they are.
    pub(super) fn is_copy(&self) -> bool {
        !self.swaps && is_plain_copy(self.from, self.to)
    }

    /// Converts all elements of `from` into `to`, which has room for the same number of elements.
    pub(super) fn convert(&self, from: &[u8], to: &mut [u8]) -> Losses {
        if self.is_copy() {
            to.copy_from_slice(from);
            return Losses::default();
        }
        (self.convert)(from, to, self.swaps)
    }
}

/// Whether any bytes of `from` are elements of `to`. Those of a boolean are looked at: 0 and 1 are the only ones that
/// torch and NumPy agree on.
fn is_plain_copy(from: NpyType, to: DType) -> bool {
    from.is_same_bytes(to) && to != DType::Bool
}

/// The element `bytes` for a message.
pub(super) fn show(from: NpyType, swaps: bool, bytes: &[u8]) -> String {
    fn one<const N: usize, R: Read<N>>(bytes: &[u8], swaps: bool) -> String {
        let Some(word) = bytes.first_chunk::<N>() else { return String::new() };
        match R::read(ordered(*word, swaps)) {
            Number::Integer(number) => number.to_string(),
            Number::Float(number) => format!("{number:?}"),
        }
    }
    match from {
        NpyType::Bool | NpyType::U8 => one::<1, U8>(bytes, swaps),
        NpyType::I8 => one::<1, I8>(bytes, swaps),
        NpyType::I16 => one::<2, I16>(bytes, swaps),
        NpyType::U16 => one::<2, U16>(bytes, swaps),
        NpyType::I32 => one::<4, I32>(bytes, swaps),
        NpyType::U32 => one::<4, U32>(bytes, swaps),
        NpyType::I64 => one::<8, I64>(bytes, swaps),
        NpyType::U64 => one::<8, U64>(bytes, swaps),
        NpyType::F16 => one::<2, F16>(bytes, swaps),
        NpyType::F32 => one::<4, F32>(bytes, swaps),
        NpyType::F64 => one::<8, F64>(bytes, swaps),
        NpyType::Void2 => one::<2, Bf16>(bytes, swaps),
    }
}

/// A number as it stands in the file, exactly.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

/// What the new type made of a number.
enum Kept {
    Value,
    Infinite,
    Zero,
    Rounded,
    Unfit,
}

trait Read<const N: usize> {
    fn read(bytes: [u8; N]) -> Number;
}

trait Write<const N: usize> {
    fn write(number: Number) -> ([u8; N], Kept);
}

/// Types of elements; they hold nothing.
macro_rules! elements {
    ($($name:ident $size:literal $of:expr;)*) => {$(
        struct $name;
        impl Read<$size> for $name {
            #[inline]
            fn read(bytes: [u8; $size]) -> Number {
                $of(bytes)
            }
        }
    )*};
}

elements! {
    U8 1 |bytes| Number::Integer(u8::from_le_bytes(bytes).into());
    I8 1 |bytes| Number::Integer(i8::from_le_bytes(bytes).into());
    I16 2 |bytes| Number::Integer(i16::from_le_bytes(bytes).into());
    U16 2 |bytes| Number::Integer(u16::from_le_bytes(bytes).into());
    I32 4 |bytes| Number::Integer(i32::from_le_bytes(bytes).into());
    U32 4 |bytes| Number::Integer(u32::from_le_bytes(bytes).into());
    I64 8 |bytes| Number::Integer(i64::from_le_bytes(bytes).into());
    U64 8 |bytes| Number::Integer(u64::from_le_bytes(bytes).into());
    F16 2 |bytes| Number::Float(f16::from_le_bytes(bytes).to_f64());
    Bf16 2 |bytes| Number::Float(bf16::from_le_bytes(bytes).to_f64());
    F32 4 |bytes| Number::Float(f32::from_le_bytes(bytes).into());
    F64 8 |bytes| Number::Float(f64::from_le_bytes(bytes));
}

/// What became of `number` in a float type that reads it back as `stored`.
#[inline]
fn judge(number: Number, stored: f64) -> Kept {
    match number {
        Number::Float(float) if float.is_finite() && stored.is_infinite() => Kept::Infinite,
        Number::Float(float) if float != 0.0 && stored == 0.0 => Kept::Zero,
        Number::Float(_) => Kept::Value,
        Number::Integer(_) if stored.is_infinite() => Kept::Infinite,
        Number::Integer(integer) if stored as i128 != integer => Kept::Rounded,
        Number::Integer(_) => Kept::Value,
    }
}

/// An integer goes by its nearest `f64`: where that is another number, the integer is lost to smaller floats, too, and
/// reported.
macro_rules! floats {
    ($($name:ident $size:literal $from:expr, $to:expr;)*) => {$(
        impl Write<$size> for $name {
            #[inline]
            fn write(number: Number) -> ([u8; $size], Kept) {
                let float = match number {
                    Number::Integer(integer) => integer as f64,
                    Number::Float(float) => float,
                };
                let stored = $from(float);
                (stored.to_le_bytes(), judge(number, $to(stored)))
            }
        }
    )*};
}

floats! {
    F16 2 f16::from_f64, f16::to_f64;
    Bf16 2 bf16::from_f64, bf16::to_f64;
    F32 4 |float| float as f32, |stored: f32| f64::from(stored);
    F64 8 |float: f64| float, |stored: f64| stored;
}

macro_rules! integers {
    ($($name:ident $size:literal $type:ty;)*) => {$(
        impl Write<$size> for $name {
            #[inline]
            fn write(number: Number) -> ([u8; $size], Kept) {
                let integer = match number {
                    Number::Integer(integer) => <$type>::try_from(integer).ok(),
                    // The comparison is false for what is not a number, and the cast is exact for the others.
                    Number::Float(float) if float.fract() == 0.0 => <$type>::try_from(float as i128).ok(),
                    Number::Float(_) => None,
                };
                let kept = if integer.is_some() { Kept::Value } else { Kept::Unfit };
                (integer.unwrap_or_default().to_le_bytes(), kept)
            }
        }
    )*};
}

integers! {
    U8 1 u8;
    U16 2 u16;
    U32 4 u32;
    U64 8 u64;
    I8 1 i8;
    I16 2 i16;
    I32 4 i32;
    I64 8 i64;
}

/// A byte that is 0 or 1; nothing else becomes one.
struct Bool;

impl Write<1> for Bool {
    #[inline]
    fn write(number: Number) -> ([u8; 1], Kept) {
        match U8::write(number) {
            (byte @ ([0] | [1]), Kept::Value) => (byte, Kept::Value),
            _ => ([0], Kept::Unfit),
        }
    }
}

fn to_type<const N: usize, R: Read<N>>(to: DType) -> fn(&[u8], &mut [u8], bool) -> Losses {
    match to {
        DType::F32 => each::<N, 4, R, F32>,
        DType::F16 => each::<N, 2, R, F16>,
        DType::Bf16 => each::<N, 2, R, Bf16>,
        DType::F64 => each::<N, 8, R, F64>,
        DType::I64 => each::<N, 8, R, I64>,
        DType::I32 => each::<N, 4, R, I32>,
        DType::I16 => each::<N, 2, R, I16>,
        DType::I8 => each::<N, 1, R, I8>,
        DType::U8 => each::<N, 1, R, U8>,
        DType::Bool => each::<N, 1, R, Bool>,
        DType::U16 => each::<N, 2, R, U16>,
        DType::U32 => each::<N, 4, R, U32>,
        DType::U64 => each::<N, 8, R, U64>,
    }
}

#[inline]
fn ordered<const N: usize>(mut word: [u8; N], swaps: bool) -> [u8; N] {
    if swaps {
        word.reverse();
    }
    word
}

fn copy<const N: usize>(from: &[u8], to: &mut [u8], swaps: bool) -> Losses {
    for (from, to) in from.as_chunks::<N>().0.iter().zip(to.as_chunks_mut::<N>().0) {
        *to = ordered(*from, swaps);
    }
    Losses::default()
}

fn each<const FROM: usize, const TO: usize, R: Read<FROM>, W: Write<TO>>(
    from: &[u8],
    to: &mut [u8],
    swaps: bool,
) -> Losses {
    let mut losses = Losses::default();
    for (at, (from, to)) in from.as_chunks().0.iter().zip(to.as_chunks_mut().0).enumerate() {
        let (bytes, kept) = W::write(R::read(ordered(*from, swaps)));
        *to = bytes;
        match kept {
            Kept::Value => continue,
            Kept::Infinite => losses.infinite += 1,
            Kept::Zero => losses.zero += 1,
            Kept::Rounded => losses.rounded += 1,
            Kept::Unfit => {
                losses.unfit += 1;
                losses.first_unfit.get_or_insert(at);
            }
        }
        losses.first.get_or_insert(at);
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(from: NpyType, to: DType, bytes: &[u8]) -> (Vec<u8>, Losses) {
        let converter = Converter::new(from, false, to);
        let mut out = vec![0; bytes.len() / from.size() * to.size()];
        let losses = converter.convert(bytes, &mut out);
        (out, losses)
    }

    fn exact(from: NpyType, to: DType, bytes: &[u8]) -> Vec<u8> {
        let (out, losses) = convert(from, to, bytes);
        assert!(losses.is_none(), "{from:?} to {to}: {losses:?}");
        out
    }

    #[test]
    fn integers_keep_their_value_in_every_type() {
        let sources: [(NpyType, &[u8]); 7] = [
            (NpyType::I8, &(-2i8).to_le_bytes()),
            (NpyType::I16, &(-2i16).to_le_bytes()),
            (NpyType::I32, &(-2i32).to_le_bytes()),
            (NpyType::I64, &(-2i64).to_le_bytes()),
            (NpyType::F16, &f16::from_f32(-2.0).to_le_bytes()),
            (NpyType::F32, &(-2f32).to_le_bytes()),
            (NpyType::F64, &(-2f64).to_le_bytes()),
        ];
        for (from, bytes) in sources {
            assert_eq!(exact(from, DType::I64, bytes), (-2i64).to_le_bytes());
            assert_eq!(exact(from, DType::F32, bytes), (-2f32).to_le_bytes());
            assert_eq!(exact(from, DType::F64, bytes), (-2f64).to_le_bytes());
            assert_eq!(exact(from, DType::F16, bytes), f16::from_f32(-2.0).to_le_bytes());
            assert_eq!(exact(from, DType::Bf16, bytes), bf16::from_f32(-2.0).to_le_bytes());
            assert_eq!(convert(from, DType::U8, bytes).1.first_unfit, Some(0), "{from:?}");
        }
        assert_eq!(exact(NpyType::Bool, DType::F32, &[1]), 1f32.to_le_bytes());
        assert_eq!(exact(NpyType::U16, DType::F32, &[255, 255]), 65535f32.to_le_bytes());
        assert_eq!(exact(NpyType::U32, DType::I64, &u32::MAX.to_le_bytes()), i64::from(u32::MAX).to_le_bytes());
        assert_eq!(exact(NpyType::I32, DType::U8, &200i32.to_le_bytes()), [200]);
    }

    #[test]
    fn floats_change_precision() {
        let ones = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        assert_eq!(exact(NpyType::F32, DType::Bf16, &ones), [0xc0, 0x3f, 0x00, 0xc0]);
        let half = exact(NpyType::F32, DType::F16, &ones);
        assert_eq!(exact(NpyType::F16, DType::F32, &half), ones);
        let double = exact(NpyType::F32, DType::F64, &ones);
        assert_eq!(exact(NpyType::F64, DType::F32, &double), ones);
        // Rounding is what a smaller float is asked for; infinities and NaN are values.
        let odd: Vec<u8> = [0.1f64, f64::INFINITY, 0.0, f64::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        let narrow = exact(NpyType::F64, DType::F16, &odd);
        assert_eq!(narrow[..6], [0x66, 0x2e, 0x00, 0x7c, 0, 0]);
    }

    #[test]
    fn losses_are_counted_with_the_first_place() {
        let bytes: Vec<u8> = [1.0f64, 70_000.0, 1e39, 1e-8].iter().flat_map(|x| x.to_le_bytes()).collect();
        let half = convert(NpyType::F64, DType::F16, &bytes).1;
        assert_eq!((half.infinite, half.zero, half.first), (2, 1, Some(1)));
        let single = convert(NpyType::F64, DType::F32, &bytes).1;
        assert_eq!((single.infinite, single.zero, single.first), (1, 0, Some(2)));
        let brain = convert(NpyType::F64, DType::Bf16, &bytes).1;
        assert_eq!((brain.infinite, brain.zero), (1, 0));
        let large = convert(NpyType::I64, DType::F32, &(1i64 << 24 | 1).to_le_bytes()).1;
        assert_eq!((large.rounded, large.first), (1, Some(0)));
        assert_eq!(convert(NpyType::I64, DType::F64, &i64::MAX.to_le_bytes()).1.rounded, 1);
        assert_eq!(convert(NpyType::U32, DType::F16, &70_000u32.to_le_bytes()).1.infinite, 1);
        for bytes in [0.5f32, f32::NAN, f32::INFINITY, 1e30] {
            assert_eq!(convert(NpyType::F32, DType::I64, &bytes.to_le_bytes()).1.first_unfit, Some(0), "{bytes}");
        }
        assert_eq!(convert(NpyType::U64, DType::I64, &u64::MAX.to_le_bytes()).1.unfit, 1);
    }

    #[test]
    fn a_brain_float_is_two_bytes_as_they_are() {
        assert_eq!(exact(NpyType::U16, DType::Bf16, &[1, 2]), [1, 2]);
        assert_eq!(exact(NpyType::Void2, DType::Bf16, &[1, 2]), [1, 2]);
        assert_eq!(exact(NpyType::Void2, DType::F32, &[0xc0, 0x3f]), 1.5f32.to_le_bytes());
    }

    #[test]
    fn big_endian_is_the_same_number() {
        let converter = Converter::new(NpyType::I64, true, DType::I64);
        let mut out = [0; 8];
        assert!(!converter.is_copy() && converter.convert(&((1i64 << 40) + 1).to_be_bytes(), &mut out).is_none());
        assert_eq!(i64::from_le_bytes(out), (1 << 40) + 1);
        let mut out = [0; 4];
        Converter::new(NpyType::I16, true, DType::F32).convert(&(-3i16).to_be_bytes(), &mut out);
        assert_eq!(f32::from_le_bytes(out), -3.0);
        assert_eq!(show(NpyType::F64, true, &1e39f64.to_be_bytes()), "1e39");
    }
}
