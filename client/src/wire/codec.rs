//! The one place where control messages become bytes and come back. It wraps bincode 2.0 (see `deny.toml` for why that
//! line and no other) so that every decode is bounded before it allocates, and so that trailing bytes are an error.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// Bytes that one decode may claim, for its input and for what it allocates. Larger frames are refused before.
const CLAIM_BYTES_MAX: usize = 8 << 20;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<CLAIM_BYTES_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<CLAIM_BYTES_MAX>();

/// Why bytes are no message, or a message cannot be bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes do not decode.
    #[error("not a message of this protocol: {0}")]
    Malformed(String),
    /// The bytes decode, but some are left.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// The message cannot be encoded within the limit.
    #[error("message cannot be encoded: {0}")]
    Unencodable(String),
}

/// Appends `message` to `out`.
///
/// # Errors
/// [`CodecError::Unencodable`] if it is over the limit.
pub fn encode_into<T: Encode>(message: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::encode_into_std_write(message, out, CONFIG)
        .map(|_| ())
        .map_err(|error| CodecError::Unencodable(error.to_string()))
}

/// `message` as bytes.
///
/// # Errors
/// As [`encode_into`].
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::with_capacity(64);
    encode_into(message, &mut out)?;
    Ok(out)
}

/// Reads exactly one message from `bytes`.
///
/// # Errors
/// [`CodecError::Malformed`] or [`CodecError::Trailing`]; never panics and never allocates beyond the limit.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (message, used) =
        bincode::decode_from_slice(bytes, CONFIG).map_err(|error| CodecError::Malformed(error.to_string()))?;
    if used == bytes.len() { Ok(message) } else { Err(CodecError::Trailing(bytes.len() - used)) }
}

/// The version in a first message of another version, which may not decode: number of the call, [`Request::Hello`] and
/// the version come first in all of them.
///
/// [`Request::Hello`]: crate::wire::Request::Hello
#[must_use]
pub fn version_of_hello(bytes: &[u8]) -> Option<u16> {
    let (_, rest) = bytes.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (version, _) = rest.split_first_chunk::<2>()?;
    (u32::from_le_bytes(*kind) == 0).then_some(u16::from_le_bytes(*version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IdSpace;
    use crate::wire::{Answer, Call, IdRun, IdWidth, IdsPart, PROTOCOL_VERSION, PartIds, Place, Request, RowsCall};
    use proptest::prelude::*;

    #[test]
    fn a_claim_of_gigabytes_is_an_error_not_an_allocation() {
        let mut bytes = vec![0; 8];
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&1u16.to_le_bytes());
        bytes.extend_from_slice(&(1u64 << 36).to_le_bytes());
        assert!(matches!(decode::<Call>(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut bytes = encode(&Call { id: 7, request: Request::Status }).unwrap();
        assert_eq!(decode::<Call>(&bytes).unwrap().id, 7);
        bytes.push(0);
        assert_eq!(decode::<Call>(&bytes), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn the_version_of_a_hello_is_known_whatever_follows_it() {
        let (version, name, ids) = (PROTOCOL_VERSION, "old".to_owned(), IdSpace::Dataset);
        let request = Request::Hello { version, name, trainer: 1, ids, fingerprint: None };
        let bytes = encode(&Call { id: 7, request }).unwrap();
        assert_eq!(version_of_hello(&bytes[..14]), Some(PROTOCOL_VERSION));
        assert_eq!(version_of_hello(&bytes[..13]), None);
        assert_eq!(version_of_hello(&encode(&Call { id: 7, request: Request::Status }).unwrap()), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode::<Call>(&bytes);
            let _ = decode::<Answer>(&bytes);
            let _ = version_of_hello(&bytes);
        }

        #[test]
        fn calls_survive_the_trip(table: u16, width: u32, count: u64, arena: u32, offset: u64, text in ".{0,80}") {
            let (dtype, rows) = (crate::DType::F16, Place::Arena { arena, offset });
            let ids = IdRun { count, width: IdWidth::Four, at: Place::Inline };
            let call = |ids| RowsCall { table, dtype, width, ids, rows };
            let given = PartIds::Given(ids);
            let parts = vec![call(given), call(PartIds::Of(0)), call(PartIds::Announced(count))];
            for request in [
                Request::Fetch { parts, batch: Some(offset), learn: false },
                Request::Announce { batch: offset, step: None, parts: vec![IdsPart { table, ids: given }] },
                Request::Update(call(given)),
                Request::Warm { table, ids },
                Request::Tool { call: text },
                Request::Translate { table, from: IdSpace::Dataset, ids },
                Request::FindNames { table, count },
                Request::Owners { table, ids },
            ] {
                let call = Call { id: count, request };
                prop_assert_eq!(decode::<Call>(&encode(&call).unwrap()).unwrap(), call);
            }
        }
    }
}
