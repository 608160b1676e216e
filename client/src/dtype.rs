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
}

impl DType {
    /// Every type, in the order in which messages list them.
    pub const ALL: [DType; 9] =
        [DType::F32, DType::F16, DType::Bf16, DType::F64, DType::I64, DType::U8, DType::I32, DType::I16, DType::I8];

    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            DType::U8 | DType::I8 => 1,
            DType::F16 | DType::Bf16 | DType::I16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
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
#[error("unknown element type `{0}`: use one of f32, f16, bf16, f64, i64, u8, i32, i16, i8")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| UnknownDType(name.to_owned()))
    }
}
