//! The decoders: fed bytes as they arrive, they say what they need next and check it. Owns the order of a message's parts;
//! it must never do I/O, nor make room for what a checked header has not announced.

use std::ops::Range;

use bincode::Decode;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    BlockHeader, FRAME_BYTES_MAX, FRAME_HEAD_BYTES, HELLO_HEAD_BYTES, MAGIC, RemoteError, ResponseHeader, RowsRequest,
    WireError, parse,
};

/// Collects one control frame from bytes that arrive in any pieces.
#[derive(Debug)]
struct Collector {
    head_bytes: usize,
    bytes: Vec<u8>,
}

impl Collector {
    fn new(head_bytes: usize) -> Self {
        Self { head_bytes, bytes: Vec::new() }
    }

    fn body_bytes(&self) -> Option<usize> {
        let length = self.bytes.get(self.head_bytes - 2..self.head_bytes)?;
        Some(usize::from(u16::from_le_bytes([length[0], length[1]])))
    }

    /// Bytes still missing; 0 once the frame is whole.
    fn missing(&self) -> usize {
        self.head_bytes + self.body_bytes().unwrap_or(0) - self.bytes.len()
    }

    /// Takes at most [`Self::missing`] bytes.
    fn push(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        if bytes.len() > self.missing() {
            return Err(WireError::Excess);
        }
        self.bytes.extend_from_slice(bytes);
        match self.body_bytes() {
            Some(bytes) if bytes > FRAME_BYTES_MAX => Err(WireError::Oversized { bytes }),
            _ => Ok(()),
        }
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.head_bytes..]
    }
}

/// Decodes a Hello or a Hello's reply.
#[derive(Debug)]
pub struct HelloDecoder(Collector);

impl Default for HelloDecoder {
    fn default() -> Self {
        Self(Collector::new(HELLO_HEAD_BYTES))
    }
}

impl HelloDecoder {
    /// Bytes still missing; 0 once the message is whole.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.0.missing()
    }

    /// Takes at most [`Self::missing`] bytes.
    ///
    /// # Errors
    /// On bytes that cannot begin a Hello.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.0.push(bytes)?;
        let seen = self.0.bytes.len().min(MAGIC.len());
        if self.0.bytes[..seen] == MAGIC[..seen] { Ok(()) } else { Err(WireError::Magic) }
    }

    /// The version of the whole message.
    #[must_use]
    pub fn version(&self) -> u16 {
        u16::from_le_bytes([self.0.bytes[4], self.0.bytes[5]])
    }

    /// The body; its layout belongs to [`Self::version`].
    ///
    /// # Errors
    /// When it does not decode.
    pub fn message<M: Decode<()>>(&self) -> Result<M, WireError> {
        parse(self.0.body())
    }
}

/// What a decoder wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// At most this many bytes for its control frame.
    Control(usize),
    /// Bytes straight into this range of the payload (the ids of a request, the rows of an answer).
    Payload(Range<usize>),
    /// The end of the stream.
    End,
}

/// Decodes a row request on the answering side.
#[derive(Debug)]
pub struct RequestDecoder {
    rows_max: usize,
    frame: Collector,
    request: Option<RowsRequest>,
    ids: Vec<u64>,
    filled: usize,
}

impl RequestDecoder {
    /// Accepts requests of at most `rows_max` rows.
    #[must_use]
    pub fn new(rows_max: usize) -> Self {
        let frame = Collector::new(FRAME_HEAD_BYTES);
        Self { rows_max, frame, request: None, ids: Vec::new(), filled: 0 }
    }

    /// What comes next.
    #[must_use]
    pub fn need(&self) -> Need {
        match self.request {
            None => Need::Control(self.frame.missing()),
            Some(_) if self.filled < self.ids.len() * 8 => Need::Payload(self.filled..self.ids.len() * 8),
            Some(_) => Need::End,
        }
    }

    /// Takes bytes of the control frame.
    ///
    /// # Errors
    /// When they are no request, or one for too many rows.
    pub fn control(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.frame.push(bytes)?;
        if self.frame.missing() == 0 {
            let request: RowsRequest = parse(self.frame.body())?;
            if request.count as usize > self.rows_max {
                return Err(WireError::TooManyRows { rows: request.count.into(), rows_max: self.rows_max as u64 });
            }
            self.ids = vec![0; request.count as usize];
            self.request = Some(request);
        }
        Ok(())
    }

    /// The whole payload; write into the range that [`Self::need`] named, then call [`Self::advance`].
    pub fn payload_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.ids)
    }

    /// `bytes` more of the payload were written.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.ids.len() * 8);
    }

    /// The request with its ids, once [`Self::need`] says [`Need::End`].
    ///
    /// # Errors
    /// When it is not whole.
    pub fn finish(mut self) -> Result<(RowsRequest, Vec<u64>), WireError> {
        match (self.need(), self.request) {
            (Need::End, Some(request)) => {
                self.ids.iter_mut().for_each(|id| *id = u64::from_le(*id));
                Ok((request, self.ids))
            }
            _ => Err(WireError::Truncated),
        }
    }
}

/// What an answer was instead of rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Bytes that break the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The peer's own error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

#[derive(Debug)]
enum Part {
    Header,
    BlockHeader,
    Rows { begin: usize, end: usize, checksum: u64 },
    End,
}

/// Decodes an answer on the asking side. The rows go straight into the caller's buffer.
#[derive(Debug)]
pub struct ResponseDecoder {
    row_bytes: usize,
    count: u32,
    received: u32,
    filled: usize,
    frame: Collector,
    part: Part,
}

impl ResponseDecoder {
    /// Expects `count` rows of `row_bytes`.
    #[must_use]
    pub fn new(count: u32, row_bytes: usize) -> Self {
        let frame = Collector::new(FRAME_HEAD_BYTES);
        Self { row_bytes, count, received: 0, filled: 0, frame, part: Part::Header }
    }

    /// What comes next; a payload range lies within `count * row_bytes`.
    #[must_use]
    pub fn need(&self) -> Need {
        match self.part {
            Part::Header | Part::BlockHeader => Need::Control(self.frame.missing()),
            Part::Rows { end, .. } => Need::Payload(self.filled..end),
            Part::End => Need::End,
        }
    }

    /// Takes bytes of a control frame.
    ///
    /// # Errors
    /// When they break the protocol, or carry the peer's error.
    pub fn control(&mut self, bytes: &[u8]) -> Result<(), ResponseError> {
        self.frame.push(bytes)?;
        if self.frame.missing() > 0 {
            return Ok(());
        }
        let frame = std::mem::replace(&mut self.frame, Collector::new(FRAME_HEAD_BYTES));
        match self.part {
            Part::Header => self.header(parse(frame.body())?),
            _ => self.block(parse(frame.body())?),
        }
    }

    fn header(&mut self, header: ResponseHeader) -> Result<(), ResponseError> {
        match header {
            ResponseHeader::Failed(error) => Err(error.into()),
            ResponseHeader::Rows { count } if count != self.count => {
                Err(WireError::BlockRows { announced: count, due: self.count }.into())
            }
            ResponseHeader::Rows { .. } => {
                self.part = if self.count == 0 { Part::End } else { Part::BlockHeader };
                Ok(())
            }
        }
    }

    fn block(&mut self, header: BlockHeader) -> Result<(), ResponseError> {
        let due = self.count - self.received;
        match header {
            BlockHeader::Failed(error) => Err(error.into()),
            BlockHeader::Rows { rows, .. } if rows == 0 || rows > due => {
                Err(WireError::BlockRows { announced: rows, due }.into())
            }
            BlockHeader::Rows { rows, checksum } => {
                let (begin, end) = (self.filled, self.filled + rows as usize * self.row_bytes);
                self.received += rows;
                self.part = Part::Rows { begin, end, checksum };
                // Rows of no bytes have nothing to wait for.
                if begin == end { self.advance(0, &[]) } else { Ok(()) }
            }
        }
    }

    /// `bytes` more of the rows were written to `rows`, the whole buffer of the answer. Checks a block once it is full.
    ///
    /// # Errors
    /// When a block does not match its checksum.
    pub fn advance(&mut self, bytes: usize, rows: &[u8]) -> Result<(), ResponseError> {
        self.filled += bytes;
        let Part::Rows { begin, end, checksum } = self.part else { return Ok(()) };
        if self.filled < end {
            return Ok(());
        }
        if rows.get(begin..end).is_none_or(|block| xxh3_64(block) != checksum) {
            let row = |byte: usize| byte.checked_div(self.row_bytes).unwrap_or(0) as u32;
            return Err(WireError::Checksum { first: row(begin), last: row(end.saturating_sub(1)) }.into());
        }
        self.part = if self.received == self.count { Part::End } else { Part::BlockHeader };
        Ok(())
    }
}
