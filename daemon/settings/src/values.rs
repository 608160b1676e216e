//! Values that a person writes in more than one way: capacities, sizes and permission bits. Each reads what it prints.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Unexpected, Visitor},
};
use std::{cmp::Ordering, fmt, str::FromStr};

/// How much of a table's remote rows the cache may hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Capacity {
    /// A number of rows.
    Rows(u64),
    /// A share of the remote rows, above 0 and at most 1.
    Share(f64),
    /// A size of the rows in bytes (bookkeeping comes on top).
    Bytes(u64),
}

impl Capacity {
    /// The capacity in rows for a table with `remote_rows` remote rows of `row_bytes` bytes each; never more than there
    /// are.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub fn rows(self, remote_rows: u64, row_bytes: usize) -> u64 {
        let rows = match self {
            Capacity::Rows(rows) => rows,
            Capacity::Share(share) => (remote_rows as f64 * share).round() as u64,
            Capacity::Bytes(bytes) => bytes / (row_bytes as u64).max(1),
        };
        rows.min(remote_rows)
    }
}

/// Capacities of the same form compare by their numbers. Those of different forms do not compare: only the dataset
/// tells which is more.
impl PartialOrd for Capacity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Capacity::Rows(mine), Capacity::Rows(other)) | (Capacity::Bytes(mine), Capacity::Bytes(other)) => {
                mine.partial_cmp(other)
            }
            (Capacity::Share(mine), Capacity::Share(other)) => mine.partial_cmp(other),
            _ => None,
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capacity::Rows(rows) => write!(f, "{rows}"),
            Capacity::Share(share) => write!(f, "{share:?}"),
            Capacity::Bytes(bytes) => f.write_str(&format_bytes(*bytes)),
        }
    }
}

const CAPACITY_FORMS: &str = "a number of rows (150000), a share above 0 and at most 1 (0.15), or a size (\"4GiB\")";

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let capacity = if let Ok(rows) = text.parse::<u64>() {
            Capacity::Rows(rows)
        } else if let Ok(share) = text.parse::<f64>() {
            Capacity::Share(share)
        } else {
            Capacity::Bytes(
                parse_bytes(text).map_err(|_| format!("`{text}` is not a capacity: expected {CAPACITY_FORMS}"))?,
            )
        };
        capacity.check()
    }
}

impl Capacity {
    fn check(self) -> Result<Self, String> {
        match self {
            Capacity::Share(share) if !(share > 0.0 && share <= 1.0) => {
                Err(format!("a share of {share} is not above 0 and at most 1: expected {CAPACITY_FORMS}"))
            }
            Capacity::Rows(0) | Capacity::Bytes(0) => {
                Err(String::from("a capacity of 0 holds nothing: write policy = \"none\" for no cache"))
            }
            fine => Ok(fine),
        }
    }
}

impl Serialize for Capacity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Capacity::Rows(rows) => serializer.serialize_u64(*rows),
            Capacity::Share(share) => serializer.serialize_f64(*share),
            Capacity::Bytes(bytes) => serializer.serialize_str(&format_bytes(*bytes)),
        }
    }
}

impl<'de> Deserialize<'de> for Capacity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl Visitor<'_> for Forms {
            type Value = Capacity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(CAPACITY_FORMS)
            }
            fn visit_u64<E: serde::de::Error>(self, rows: u64) -> Result<Capacity, E> {
                Capacity::Rows(rows).check().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, rows: i64) -> Result<Capacity, E> {
                let rows = u64::try_from(rows).map_err(|_| E::invalid_value(Unexpected::Signed(rows), &self))?;
                self.visit_u64(rows)
            }
            fn visit_f64<E: serde::de::Error>(self, share: f64) -> Result<Capacity, E> {
                Capacity::Share(share).check().map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Capacity, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// Binary units of a size, largest first. A size is written as digits and one of them, or as bytes alone.
const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write bytes, or digits and a unit, such as 4194304 or \"4MiB\"");
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|digits| (digits, *shift)))
        .unwrap_or_else(|| (text.strip_suffix('B').unwrap_or(text), 0));
    let count: u64 = digits.trim().parse().map_err(|_| wrong())?;
    count.checked_mul(1 << shift).ok_or_else(wrong)
}

/// The shortest exact form: `4MiB` for 4194304, `5000` for 5000.
fn format_bytes(bytes: u64) -> String {
    for (unit, shift) in UNITS {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// For `#[serde(with = "byte_size")]`: a `u64` or `usize` that is written as an integer of bytes or as `"4MiB"`.
pub mod byte_size {
    use super::{Unexpected, Visitor, fmt, format_bytes, parse_bytes};
    use serde::{Deserializer, Serializer, de::Error};

    /// Writes the shortest exact form, such as `"4MiB"`.
    pub fn serialize<S: Serializer, N: Copy + TryInto<u64>>(bytes: &N, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = (*bytes).try_into().map_err(|_| serde::ser::Error::custom("size above 2^64"))?;
        serializer.serialize_str(&format_bytes(bytes))
    }

    /// Reads an integer of bytes, or digits with one of the units B, KiB, MiB, GiB, TiB.
    pub fn deserialize<'de, D: Deserializer<'de>, N: TryFrom<u64>>(deserializer: D) -> Result<N, D::Error> {
        struct Forms;
        impl Visitor<'_> for Forms {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 4194304 or \"4MiB\"")
            }
            fn visit_u64<E: Error>(self, bytes: u64) -> Result<u64, E> {
                Ok(bytes)
            }
            fn visit_i64<E: Error>(self, bytes: i64) -> Result<u64, E> {
                u64::try_from(bytes).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
                parse_bytes(text).map_err(E::custom)
            }
        }
        let bytes = deserializer.deserialize_any(Forms)?;
        N::try_from(bytes).map_err(|_| D::Error::custom("this size does not fit this machine"))
    }
}

/// For `#[serde(with = "octal_mode")]`: permission bits, written as `"0660"` (or as TOML's octal integer `0o660`).
pub mod octal_mode {
    use super::{Visitor, fmt};
    use serde::{Deserializer, Serializer, de::Error};

    /// Writes four octal digits, such as `"0660"`.
    pub fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{mode:04o}"))
    }

    /// Reads octal digits in a string, or an integer (TOML has `0o660`).
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        struct Forms;
        impl Visitor<'_> for Forms {
            type Value = u32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("permission bits such as \"0660\"")
            }
            fn visit_i64<E: Error>(self, bits: i64) -> Result<u32, E> {
                u32::try_from(bits).map_err(|_| E::invalid_value(super::Unexpected::Signed(bits), &self))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
                let digits = text.strip_prefix("0o").unwrap_or(text);
                u32::from_str_radix(digits, 8).map_err(|_| E::invalid_value(super::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_reads_rows_shares_and_sizes() {
        assert_eq!("150000".parse(), Ok(Capacity::Rows(150_000)));
        assert_eq!("0.15".parse(), Ok(Capacity::Share(0.15)));
        assert_eq!("1.0".parse(), Ok(Capacity::Share(1.0)));
        assert_eq!("4GiB".parse(), Ok(Capacity::Bytes(4 << 30)));
        for wrong in ["1.5", "0.0", "-0.1", "NaN", "0", "0B", "lots", "4GB", "-3", "99999999999TiB"] {
            assert!(wrong.parse::<Capacity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn capacity_in_rows_never_exceeds_the_remote_rows() {
        assert_eq!(Capacity::Share(0.15).rows(1000, 512), 150);
        assert_eq!(Capacity::Bytes(4096).rows(1000, 512), 8);
        assert_eq!(Capacity::Rows(5000).rows(1000, 512), 1000);
    }

    #[test]
    fn only_capacities_of_the_same_form_compare() {
        assert!(Capacity::Rows(2) > Capacity::Rows(1) && Capacity::Share(0.5) > Capacity::Share(0.25));
        assert!(Capacity::Bytes(1 << 30) < "4GiB".parse().unwrap());
        let (rows, share) = (Capacity::Rows(1_000_000), Capacity::Share(0.1));
        assert_eq!((rows > share, rows < share, rows == share), (false, false, false));
    }

    #[test]
    fn every_value_reads_what_it_prints() {
        for bytes in [0, 1, 1000, 1024, 4 << 20, 64 << 30, (1 << 30) + 1024] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes), "{bytes}");
        }
        for capacity in [Capacity::Rows(7), Capacity::Share(1.0), Capacity::Bytes(5000)] {
            assert_eq!(capacity.to_string().parse(), Ok(capacity));
        }
        assert_eq!(format_bytes(4 << 20), "4MiB");
    }
}
