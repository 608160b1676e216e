//! Frames: how messages share a stream of bytes. A frame is an 8-byte header (message length, payload length, both
//! little-endian `u32`), the message, and the payload. This module owns cutting a stream into frames; it does no I/O
//! and must never believe a length before it was held against a limit.

use super::codec::{self, CodecError};
use bincode::Encode;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;

/// The two lengths at the head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message.
    pub message_bytes: usize,
    /// Bytes of the payload behind it.
    pub payload_bytes: usize,
}

/// What a side accepts.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// Bytes of a message.
    pub message_bytes_max: usize,
    /// Bytes of a payload.
    pub payload_bytes_max: usize,
}

/// A frame that goes beyond a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is too long.
    #[error("a frame announces a message of {bytes} bytes; the limit is {limit}")]
    MessageTooLong {
        /// Bytes announced.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload is too long.
    #[error("a frame announces a payload of {bytes} bytes; the limit is {limit}")]
    PayloadTooLong {
        /// Bytes announced.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The message is empty.
    #[error("a frame announces a message of 0 bytes")]
    Empty,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError`] where a length is over its limit.
    pub fn parse(bytes: [u8; HEADER_BYTES], limits: FrameLimits) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let message_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
        let payload_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
        if message_bytes == 0 {
            return Err(FrameError::Empty);
        }
        if message_bytes > limits.message_bytes_max {
            return Err(FrameError::MessageTooLong { bytes: message_bytes, limit: limits.message_bytes_max });
        }
        if payload_bytes > limits.payload_bytes_max {
            return Err(FrameError::PayloadTooLong { bytes: payload_bytes, limit: limits.payload_bytes_max });
        }
        Ok(Self { message_bytes, payload_bytes })
    }
}

/// A header and a message, ready to be written before a payload of `payload_bytes`.
///
/// # Errors
/// [`CodecError::Unencodable`] if the message or the payload is beyond what a header can say.
pub fn encode_head<T: Encode>(message: &T, payload_bytes: usize) -> Result<Vec<u8>, CodecError> {
    let too_long = |what: &str| CodecError::Unencodable(format!("{what} is over 4 GiB"));
    let mut out = vec![0; HEADER_BYTES];
    codec::encode_into(message, &mut out)?;
    let message_bytes = u32::try_from(out.len() - HEADER_BYTES).map_err(|_| too_long("the message"))?;
    let payload_bytes = u32::try_from(payload_bytes).map_err(|_| too_long("the payload"))?;
    out[..4].copy_from_slice(&message_bytes.to_le_bytes());
    out[4..HEADER_BYTES].copy_from_slice(&payload_bytes.to_le_bytes());
    Ok(out)
}

/// One whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The encoded message.
    pub message: Vec<u8>,
    /// The raw bytes behind it.
    pub payload: Vec<u8>,
}

/// Cuts a stream into frames: bytes go in as they come, frames come out when they are whole.
#[derive(Debug)]
pub struct FrameBuffer {
    limits: FrameLimits,
    bytes: Vec<u8>,
    start: usize,
}

impl FrameBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, bytes: Vec::new(), start: 0 }
    }

    /// Takes bytes that arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes held that are not yet part of a frame handed out.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The next whole frame, or `None` until more bytes came.
    ///
    /// # Errors
    /// [`FrameError`]: the stream cannot be understood from here on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let held = &self.bytes[self.start..];
        let Some(head) = held.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(*head, self.limits)?;
        let message_end = HEADER_BYTES + header.message_bytes;
        let frame_end = message_end + header.payload_bytes;
        if held.len() < frame_end {
            return Ok(None);
        }
        let frame =
            Frame { message: held[HEADER_BYTES..message_end].to_vec(), payload: held[message_end..frame_end].to_vec() };
        self.start += frame_end;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Call, Request};
    use proptest::prelude::*;

    const LIMITS: FrameLimits = FrameLimits { message_bytes_max: 1 << 10, payload_bytes_max: 1 << 12 };

    proptest! {
        #[test]
        fn frames_survive_any_cut(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 1..8), cut in 1usize..40) {
            let mut stream = Vec::new();
            for (i, payload) in payloads.iter().enumerate() {
                let call = Call { id: i as u64, request: Request::Status };
                stream.extend(encode_head(&call, payload.len()).unwrap());
                stream.extend(payload);
            }
            let mut buffer = FrameBuffer::new(LIMITS);
            let mut seen = Vec::new();
            for piece in stream.chunks(cut) {
                buffer.extend(piece);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen.len(), payloads.len());
            for (i, frame) in seen.iter().enumerate() {
                prop_assert_eq!(codec::decode::<Call>(&frame.message).unwrap().id, i as u64);
                prop_assert_eq!(&frame.payload, &payloads[i]);
            }
            prop_assert_eq!(buffer.pending_bytes(), 0);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = FrameBuffer::new(LIMITS);
            buffer.extend(&bytes);
            while let Ok(Some(_)) = buffer.next_frame() {}
        }
    }

    #[test]
    fn lengths_over_a_limit_are_refused_from_the_header_alone() {
        let mut buffer = FrameBuffer::new(LIMITS);
        buffer.extend(&[0xff; 8]);
        assert!(matches!(buffer.next_frame(), Err(FrameError::MessageTooLong { .. })));
        let mut buffer = FrameBuffer::new(LIMITS);
        buffer.extend(&[1, 0, 0, 0, 0xff, 0xff, 0, 0]);
        assert!(matches!(buffer.next_frame(), Err(FrameError::PayloadTooLong { bytes: 65535, limit: 4096 })));
    }
}
