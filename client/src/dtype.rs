//! The element types of a feature table and their names in configuration, manifests and NumPy.

use std::fmt;
use std::str::FromStr;

/// Type of one element of a row. A row is `width` elements, little endian, without padding.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// Brain float: the upper half of an `F32`.
    Bf16,
    /// IEEE double precision.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned byte.
    U8,
    // New types go to the end: their places are their numbers on the wire.
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed byte.
    I8,
    /// A byte that is 0 or 1.
    Bool,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
}

impl DType {
    /// Every type, in the order in which messages list them.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::F64,
        DType::I64,
        DType::U8,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::Bool,
        DType::U16,
        DType::U32,
        DType::U64,
    ];

    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            DType::U8 | DType::I8 | DType::Bool => 1,
            DType::F16 | DType::Bf16 | DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
        }
    }

    /// The lower-case name used in manifests, configuration and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::Bool => "bool",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
        }
    }

    /// The `descr` of a `.npy` file that holds this type. NumPy has no brain float: it is stored as `<u2`, and the
    /// manifest holds the true type.
    #[must_use]
    pub const fn npy_descr(self) -> &'static str {
        match self {
            DType::F32 => "<f4",
            DType::F16 => "<f2",
            DType::Bf16 => "<u2",
            DType::F64 => "<f8",
            DType::I64 => "<i8",
            DType::U8 => "|u1",
            DType::I32 => "<i4",
            DType::I16 => "<i2",
            DType::I8 => "|i1",
            DType::Bool => "|b1",
            DType::U16 => "<u2",
            DType::U32 => "<u4",
            DType::U64 => "<u8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no element type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown element type `{}`: use one of {}", .0, DType::ALL.map(DType::name).join(", "))]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| UnknownDType(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbers_on_the_wire_and_names_lead_back() {
        for (place, dtype) in DType::ALL.into_iter().enumerate() {
            let bytes = crate::wire::codec::encode(&dtype).unwrap();
            assert_eq!(bytes, (place as u32).to_le_bytes(), "{dtype}");
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        let known = "f32, f16, bf16, f64, i64, u8, i32, i16, i8, bool, u16, u32, u64";
        let expected = format!("unknown element type `f8`: use one of {known}");
        assert_eq!("f8".parse::<DType>().unwrap_err().to_string(), expected);
    }
}
