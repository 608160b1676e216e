//! The decoders: fed bytes as they arrive, they say what they need next and check it. Owns the order of a message's
//! parts; it must never do I/O, nor make room for what a checked header has not announced.

use std::ops::Range;

use bincode::Decode;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    BlockHeader, FRAME_BYTES_MAX, FRAME_HEAD_BYTES, HELLO_HEAD_BYTES, MAGIC, RemoteError, Request, ResponseHeader,
    RowsRequest, Stamp, UpdateRequest, WORD_BYTES, WireError, parse,
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

/// What a node takes from its peers.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Rows of one request.
    pub rows_max: usize,
    /// Bytes of the longest row of any table.
    pub row_bytes_max: usize,
}

/// What follows the head of a request: ids, and for an update their rows.
#[derive(Debug, Default)]
pub struct Payload {
    words: Vec<u64>,
    ids: usize,
    bytes: usize,
}

impl Payload {
    /// The ids.
    #[must_use]
    pub fn ids(&self) -> &[u64] {
        &self.words[..self.ids]
    }

    /// The rows, one after the other.
    #[must_use]
    pub fn rows(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.ids * 8..self.bytes]
    }
}

/// Decodes a request on the answering side.
#[derive(Debug)]
pub struct RequestDecoder {
    limits: RequestLimits,
    frame: Collector,
    request: Option<Request>,
    payload: Payload,
    filled: usize,
}

impl RequestDecoder {
    /// Accepts requests within `limits`.
    #[must_use]
    pub fn new(limits: RequestLimits) -> Self {
        let frame = Collector::new(FRAME_HEAD_BYTES);
        Self { limits, frame, request: None, payload: Payload::default(), filled: 0 }
    }

    /// What comes next.
    #[must_use]
    pub fn need(&self) -> Need {
        match self.request {
            None => Need::Control(self.frame.missing()),
            Some(_) if self.filled < self.payload.bytes => Need::Payload(self.filled..self.payload.bytes),
            Some(_) => Need::End,
        }
    }

    /// The head, once it is there. Nothing has room for what follows before [`Self::payload_mut`].
    #[must_use]
    pub fn request(&self) -> Option<&Request> {
        self.request.as_ref()
    }

    /// Takes bytes of the control frame.
    ///
    /// # Errors
    /// When they are no request, or one beyond the limits.
    pub fn control(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        self.frame.push(bytes)?;
        if self.frame.missing() == 0 {
            let request: Request = parse(self.frame.body())?;
            let (ids, row_bytes) = match request {
                Request::Rows(RowsRequest { count, .. }) => (count as usize, 0),
                Request::Changes(_) => (0, 0),
                Request::Update(UpdateRequest { count, row_bytes, .. }) => {
                    let RequestLimits { row_bytes_max, .. } = self.limits;
                    if row_bytes as usize > row_bytes_max {
                        return Err(WireError::RowTooLong { row_bytes, row_bytes_max });
                    }
                    (count as usize, row_bytes as usize)
                }
            };
            if ids > self.limits.rows_max {
                return Err(WireError::TooManyRows { rows: ids as u64, rows_max: self.limits.rows_max as u64 });
            }
            self.payload = Payload { words: Vec::new(), ids, bytes: ids * (8 + row_bytes) };
            self.request = Some(request);
        }
        Ok(())
    }

    /// The whole payload; write into the range that [`Self::need`] named, then call [`Self::advance`].
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let Payload { words, bytes, .. } = &mut self.payload;
        words.resize(bytes.div_ceil(8), 0);
        &mut bytemuck::cast_slice_mut(words)[..*bytes]
    }

    /// `bytes` more of the payload were written.
    pub fn advance(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.payload.bytes);
    }

    /// The request with what followed, once [`Self::need`] says [`Need::End`].
    ///
    /// # Errors
    /// When it is not whole, or an update does not match its checksum.
    pub fn finish(mut self) -> Result<(Request, Payload), WireError> {
        let (Need::End, Some(request)) = (self.need(), self.request) else { return Err(WireError::Truncated) };
        if let Request::Update(UpdateRequest { checksum, count, .. }) = request
            && xxh3_64(self.payload_mut()) != checksum
        {
            return Err(WireError::Checksum { first: 0, last: count.saturating_sub(1) });
        }
        let ids = self.payload.ids;
        if let Some(ids) = self.payload.words.get_mut(..ids) {
            ids.iter_mut().for_each(|id| *id = u64::from_le(*id));
        }
        Ok((request, self.payload))
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

/// What an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// This many rows of this many bytes.
    Rows {
        /// Rows.
        count: u32,
        /// Bytes of one.
        row_bytes: usize,
    },
    /// A bitmap of this many words and those of the blocks that it names, or nothing.
    Changes {
        /// Words of the bitmap of blocks.
        words: u32,
    },
    /// Word that an update was applied.
    Updated,
}

#[derive(Debug)]
enum Part {
    Header,
    BlockHeader,
    Rows { begin: usize, end: usize, checksum: u64 },
    End,
}

/// Decodes an answer on the asking side. The rows, or the words, go straight into the caller's buffer.
#[derive(Debug)]
pub struct ResponseDecoder {
    expected: Expected,
    /// Bytes of what the blocks count: rows or words.
    row_bytes: usize,
    count: u32,
    received: u32,
    filled: usize,
    frame: Collector,
    part: Part,
    stamp: Option<Stamp>,
    all: bool,
}

impl ResponseDecoder {
    /// Takes `expected`, or the peer's error.
    #[must_use]
    pub fn new(expected: Expected) -> Self {
        let frame = Collector::new(FRAME_HEAD_BYTES);
        let row_bytes = match expected {
            Expected::Rows { row_bytes, .. } => row_bytes,
            Expected::Changes { .. } | Expected::Updated => WORD_BYTES,
        };
        Self {
            expected,
            row_bytes,
            count: 0,
            received: 0,
            filled: 0,
            frame,
            part: Part::Header,
            stamp: None,
            all: false,
        }
    }

    /// Where the answering node's versions stand, if the answer says it.
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Whether everything may have changed.
    #[must_use]
    pub fn all(&self) -> bool {
        self.all
    }

    /// Rows or words that the answer has announced.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// What comes next; a payload range lies within what is expected.
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
        let misfit = |announced, due| Err(WireError::BlockRows { announced, due }.into());
        self.count = match (header, self.expected) {
            (ResponseHeader::Failed(error), _) => return Err(error.into()),
            (ResponseHeader::Rows { count }, Expected::Rows { count: due, .. }) if count == due => count,
            (ResponseHeader::Rows { count }, Expected::Rows { count: due, .. }) => return misfit(count, due),
            (ResponseHeader::Changes { now, all, words }, Expected::Changes { words: due }) => {
                // At most one more for each bit.
                let fits = words >= due && u64::from(words) <= u64::from(due) * (1 + u64::from(u64::BITS));
                if words != 0 && (all || !fits) {
                    return misfit(words, due);
                }
                (self.stamp, self.all) = (Some(now), all);
                words
            }
            (ResponseHeader::Updated { now }, Expected::Updated) => {
                self.stamp = Some(now);
                0
            }
            _ => return Err(WireError::Unexpected.into()),
        };
        self.part = if self.count == 0 { Part::End } else { Part::BlockHeader };
        Ok(())
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
