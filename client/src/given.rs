//! Ids as callers have them, and as the wire takes them: 32 bits wide wherever they fit. It owns that translation, one
//! pass over the ids, and must never let a negative number pass for an id.

use crate::ClientError;
use crate::wire::IdWidth;
use std::borrow::Cow;

/// Ids written at once where each must be made narrower.
const PIECE_IDS: usize = 1024;

/// Ids of a caller: unsigned or signed, 64 or 32 bits wide.
#[derive(Debug, Clone, Copy)]
pub enum Ids<'a> {
    /// `u64`
    U64(&'a [u64]),
    /// `i64`
    I64(&'a [i64]),
    /// `u32`
    U32(&'a [u32]),
    /// `i32`
    I32(&'a [i32]),
}

/// One table of a call, and its ids.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Name of the table.
    pub table: &'a str,
    /// The ids. Parts of one vertex type whose ids are the same slice send them once.
    pub ids: Ids<'a>,
}

impl<'a> Part<'a> {
    /// The rows `ids` of `table`.
    pub fn new(table: &'a str, ids: impl Into<Ids<'a>>) -> Self {
        Self { table, ids: ids.into() }
    }
}

/// Why ids cannot be written as narrow as was tried.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// One does not fit into 32 bits.
    TooWide,
    /// They are no ids.
    Wrong(ClientError),
}

impl From<ClientError> for Unwritten {
    fn from(error: ClientError) -> Self {
        Self::Wrong(error)
    }
}

macro_rules! from_slices {
    ($($variant:ident $element:ty),*) => {$(
        impl<'a> From<&'a [$element]> for Ids<'a> {
            fn from(ids: &'a [$element]) -> Self {
                Self::$variant(ids)
            }
        }

        impl<'a> From<&'a Vec<$element>> for Ids<'a> {
            fn from(ids: &'a Vec<$element>) -> Self {
                Self::$variant(ids)
            }
        }

        impl<'a, const N: usize> From<&'a [$element; N]> for Ids<'a> {
            fn from(ids: &'a [$element; N]) -> Self {
                Self::$variant(ids)
            }
        }
    )*};
}

from_slices!(U64 u64, I64 i64, U32 u32, I32 i32);

impl<'a> Ids<'a> {
    /// Number of ids.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::U64(ids) => ids.len(),
            Self::I64(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
            Self::I32(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The ids 64 bits wide and unsigned: a copy where they are narrower.
    ///
    /// # Errors
    /// [`ClientError::NegativeId`].
    pub fn to_wide(self) -> Result<Cow<'a, [u64]>, ClientError> {
        if let Some(negative) = self.negative() {
            return Err(negative);
        }
        Ok(match self {
            Self::U64(ids) => Cow::Borrowed(ids),
            Self::I64(ids) => Cow::Borrowed(bytemuck::cast_slice(ids)),
            Self::U32(ids) => ids.iter().map(|&id| u64::from(id)).collect(),
            Self::I32(ids) => ids.iter().map(|&id| u64::from(id as u32)).collect(),
        })
    }

    /// Whether these are the very same numbers in memory.
    pub(crate) fn is_same(self, other: Ids<'_>) -> bool {
        match (self, other) {
            (Self::U64(a), Ids::U64(b)) => std::ptr::eq(a, b),
            (Self::I64(a), Ids::I64(b)) => std::ptr::eq(a, b),
            (Self::U32(a), Ids::U32(b)) => std::ptr::eq(a, b),
            (Self::I32(a), Ids::I32(b)) => std::ptr::eq(a, b),
            _ => false,
        }
    }

    /// The width to try first, for a table of `rows` rows.
    pub(crate) fn width(self, rows: u64) -> IdWidth {
        match self {
            Self::U32(_) | Self::I32(_) => IdWidth::Four,
            Self::U64(_) | Self::I64(_) if rows <= 1 << 32 => IdWidth::Four,
            Self::U64(_) | Self::I64(_) => IdWidth::Eight,
        }
    }

    /// Writes the ids little endian and `width` wide; `put` gets each run of bytes, and where it goes.
    pub(crate) fn write(self, width: IdWidth, mut put: impl FnMut(usize, &[u8])) -> Result<(), Unwritten> {
        match (self, width) {
            (Self::U32(ids), _) => put(0, bytemuck::cast_slice(ids)),
            (Self::I32(ids), _) => {
                put(0, bytemuck::cast_slice(ids));
                if ids.iter().fold(0, |all, id| all | id) < 0 {
                    return Err(negative(ids).into());
                }
            }
            (Self::U64(ids), IdWidth::Eight) => put(0, bytemuck::cast_slice(ids)),
            (Self::I64(ids), IdWidth::Eight) => {
                put(0, bytemuck::cast_slice(ids));
                if ids.iter().fold(0, |all, id| all | id) < 0 {
                    return Err(negative(ids).into());
                }
            }
            (Self::U64(ids), IdWidth::Four) => {
                if narrow(ids, put) > u64::from(u32::MAX) {
                    return Err(Unwritten::TooWide);
                }
            }
            (Self::I64(ids), IdWidth::Four) => {
                let all = narrow(bytemuck::cast_slice(ids), put);
                if all > i64::MAX as u64 {
                    return Err(negative(ids).into());
                }
                if all > u64::from(u32::MAX) {
                    return Err(Unwritten::TooWide);
                }
            }
        }
        Ok(())
    }

    /// The error for the first negative number, if there is one.
    pub(crate) fn negative(self) -> Option<ClientError> {
        match self {
            Self::I64(ids) if ids.iter().any(|&id| id < 0) => Some(negative(ids)),
            Self::I32(ids) if ids.iter().any(|&id| id < 0) => Some(negative(ids)),
            _ => None,
        }
    }

    /// The first id that is not below `rows`, with its place; negative numbers count as above all.
    pub(crate) fn beyond(self, rows: u64) -> Option<(usize, u64)> {
        match self {
            Self::U64(ids) => first(ids, |id| id, rows),
            Self::I64(ids) => first(ids, |id| id as u64, rows),
            Self::U32(ids) => first(ids, u64::from, rows),
            Self::I32(ids) => first(ids, |id| i64::from(id) as u64, rows),
        }
    }
}

/// Writes the lower halves of `ids`; answers all bits that any of them has.
fn narrow(ids: &[u64], mut put: impl FnMut(usize, &[u8])) -> u64 {
    let (mut piece, mut all) = ([0u32; PIECE_IDS], 0);
    for (number, ids) in ids.chunks(PIECE_IDS).enumerate() {
        for (to, &id) in piece.iter_mut().zip(ids) {
            *to = id as u32;
            all |= id;
        }
        put(number * PIECE_IDS * size_of::<u32>(), bytemuck::cast_slice(&piece[..ids.len()]));
    }
    all
}

/// The first of `ids` that is not below `rows`.
fn first<T: Copy>(ids: &[T], as_id: impl Fn(T) -> u64, rows: u64) -> Option<(usize, u64)> {
    // One pass without branches; the culprit is looked for only when there is one.
    if !ids.iter().fold(false, |any, &id| any | (as_id(id) >= rows)) {
        return None;
    }
    ids.iter().map(|&id| as_id(id)).enumerate().find(|&(_, id)| id >= rows)
}

/// The error for the first negative number among `ids`.
fn negative<T: Copy + Into<i64>>(ids: &[T]) -> ClientError {
    let mut found = ids.iter().map(|&id| id.into()).enumerate().filter(|&(_, id)| id < 0);
    let (at, id) = found.next().unwrap_or_default();
    ClientError::NegativeId { at, id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ids: Ids<'_>, width: IdWidth) -> Result<Vec<u8>, Unwritten> {
        let mut out = vec![0; ids.len() * width.bytes()];
        ids.write(width, |at, bytes| out[at..at + bytes.len()].copy_from_slice(bytes))?;
        Ok(out)
    }

    #[test]
    fn ids_are_written_as_narrow_as_asked_and_never_cut() {
        let wide: Vec<u64> = (0..3000).map(|i| i * 1_400_000).collect();
        let narrow: Vec<u32> = wide.iter().map(|&id| id as u32).collect();
        let signed: Vec<i64> = wide.iter().map(|&id| id as i64).collect();
        let expected: &[u8] = bytemuck::cast_slice(&narrow);
        assert_eq!(wide[2999] >> 32, 0);
        for ids in [Ids::from(&wide), Ids::from(&signed), Ids::from(&narrow)] {
            assert_eq!(ids.width(1 << 32), IdWidth::Four);
            assert_eq!(written(ids, IdWidth::Four).unwrap(), expected);
        }
        assert_eq!(Ids::from(&wide).width((1 << 32) + 1), IdWidth::Eight);
        assert_eq!(written(Ids::from(&signed), IdWidth::Eight).unwrap(), bytemuck::cast_slice::<u64, u8>(&wide));
        let beyond = [1u64, 1 << 32];
        assert!(matches!(written(Ids::from(&beyond), IdWidth::Four), Err(Unwritten::TooWide)));
        assert_eq!(Ids::from(&beyond).beyond(1 << 32), Some((1, 1 << 32)));
        assert_eq!(Ids::from(&beyond).beyond(1 << 33), None);
    }

    #[test]
    fn a_negative_number_is_no_id_and_is_named_with_its_place() {
        let said = |outcome: Result<Vec<u8>, Unwritten>| match outcome {
            Err(Unwritten::Wrong(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let expected = "ids[1] is -7: ids are numbers of rows and never negative";
        assert_eq!(said(written(Ids::from(&[3i64, -7, -8]), IdWidth::Four)), expected);
        assert_eq!(said(written(Ids::from(&[3i64, -7, -8]), IdWidth::Eight)), expected);
        assert_eq!(said(written(Ids::from(&[3i32, -7, -8]), IdWidth::Four)), expected);
    }
}
