//! How a checksum is written in a manifest. It must never compute one.

use serde::{Deserialize, Serialize};

/// A 64-bit checksum, written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum(pub u64);

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        format!("{:016x}", checksum.0)
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // `from_str_radix` takes a sign: only sixteen digits are a checksum.
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = if is_hex { u64::from_str_radix(&text, 16).ok() } else { None };
        value.map(Self).ok_or_else(|| format!("`{text}` is not a checksum: expected 16 hexadecimal digits"))
    }
}
