//! What peers say to each other, byte for byte: control frames through one bounded bincode codec, and decoders that are
//! fed bytes and answer what they need next. Owns the protocol's limits and its version; it must never do I/O, read a
//! clock or allocate more than a checked header allows.
//!
//! ```text
//! first stream:  hello ▸                          ◂ hello reply          (each: magic, version, length, body)
//! row request:   frame(RowsRequest) ids ▸         ◂ frame(ResponseHeader) { frame(BlockHeader) rows }*
//! frame          u16 length, bincode body         ids and rows: raw, little endian
//! ```

use std::ops::Range;

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_64;

/// Version of everything below. Peers of different versions part after the Hello.
pub const PROTOCOL_VERSION: u16 = 1;
/// Largest body of a control frame.
pub const FRAME_BYTES_MAX: usize = 1024;
/// Longest free text inside a control frame, in bytes.
pub const TEXT_BYTES_MAX: usize = 400;
const MAGIC: [u8; 4] = *b"RDPR";
const HELLO_HEAD_BYTES: usize = 8;
const FRAME_HEAD_BYTES: usize = 2;

/// What is wrong with bytes that a peer sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes are not a Hello.
    #[error("the first bytes are not a Rudder Hello")]
    Magic,
    /// A control frame claims more than the limit.
    #[error("a control frame of {bytes} bytes is over the limit of {FRAME_BYTES_MAX}")]
    Oversized {
        /// Claimed length.
        bytes: usize,
    },
    /// A control frame does not decode.
    #[error("a control frame does not decode: {0}")]
    Garbage(String),
    /// A control frame has bytes left over.
    #[error("a control frame has {0} bytes too many")]
    Trailing(usize),
    /// The stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
    /// Bytes follow the last message.
    #[error("bytes follow the last message of the stream")]
    Excess,
    /// A request for more rows than one request may have.
    #[error("a request for {rows} rows is over the limit of {rows_max}")]
    TooManyRows {
        /// Rows asked for.
        rows: u64,
        /// The limit of the answering node.
        rows_max: u64,
    },
    /// A block announces no rows, or more than are still due.
    #[error("a block announces {announced} rows while {due} are due")]
    BlockRows {
        /// Rows of the block.
        announced: u32,
        /// Rows still due.
        due: u32,
    },
    /// The rows of a block are not the ones its sender hashed.
    #[error("rows {first} to {last} of the answer do not match their checksum")]
    Checksum {
        /// First row of the block within the request.
        first: u32,
        /// Last row of the block within the request.
        last: u32,
    },
    /// A message does not fit a frame.
    #[error("a message does not fit a control frame: {0}")]
    Encode(String),
}

/// Who a node is: sent first by the dialling side, and back by the answering side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Index of the node.
    pub node: u16,
    /// Partitions of its dataset.
    pub parts: u16,
    /// Fingerprint of its dataset's manifest.
    pub fingerprint: u64,
}

/// Why a Hello was turned away; `ours` is the answering side's value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// Another protocol version.
    #[error("it speaks protocol version {ours}, this side {yours}")]
    Version {
        /// Of the answering side.
        ours: u16,
        /// Of the dialling side.
        yours: u16,
    },
    /// Another dataset.
    #[error("its dataset has fingerprint {ours:016x}, ours {yours:016x}")]
    Fingerprint {
        /// Of the answering side.
        ours: u64,
        /// Of the dialling side.
        yours: u64,
    },
    /// Another number of partitions.
    #[error("its dataset has {ours} partitions, ours {yours}")]
    Parts {
        /// Of the answering side.
        ours: u16,
        /// Of the dialling side.
        yours: u16,
    },
    /// The Hello's node is not the certificate's, or makes no sense.
    #[error("our Hello says node {hello}, our certificate node {certificate}")]
    Node {
        /// Index in the Hello.
        hello: u16,
        /// Index in the certificate.
        certificate: u16,
    },
    /// It is shutting down.
    #[error("it is shutting down")]
    Draining,
}

/// Answer to a Hello.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum HelloReply {
    /// Come in; this is who answers.
    Welcome(Hello),
    /// Stay out.
    Refused(Refusal),
}

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Class {
    /// A trainer waits for it.
    Demand,
    /// Filling ahead of need; gives way to demand.
    Bulk,
}

/// Head of a row request; `count` little-endian u64 ids follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RowsRequest {
    /// Index of the table.
    pub table: u16,
    /// Bytes of one row as the asking side knows it.
    pub row_bytes: u32,
    /// Number of ids that follow.
    pub count: u32,
    /// Urgency.
    pub class: Class,
}

/// Why a peer did not answer a request; travels to the asking trainer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum RemoteError {
    /// No such table there.
    #[error("it has no table {table}")]
    UnknownTable {
        /// Index asked for.
        table: u16,
    },
    /// An id that another partition owns.
    #[error("it does not own id {id}")]
    NotOwned {
        /// The id.
        id: u64,
    },
    /// An id beyond the table.
    #[error("id {id} is out of range: the table has {rows} rows")]
    OutOfRange {
        /// The id.
        id: u64,
        /// Rows of the table.
        rows: u64,
    },
    /// Too long a request.
    #[error("{rows} rows in one request are over its request_rows_max of {rows_max}")]
    TooManyRows {
        /// Rows asked for.
        rows: u64,
        /// Its limit.
        rows_max: u64,
    },
    /// The two sides disagree on the table's row size.
    #[error("its rows have {theirs} bytes, {asked} were asked for")]
    RowBytes {
        /// Row size at the owner.
        theirs: u32,
        /// Row size in the request.
        asked: u32,
    },
    /// No place among the requests it answers at once.
    #[error("it is busy: {limit} requests of this class were being answered for {waited_ms} ms")]
    Busy {
        /// Its limit for the class.
        limit: u32,
        /// How long the request waited.
        waited_ms: u32,
    },
    /// It is shutting down.
    #[error("it is shutting down")]
    Draining,
    /// The request was no request.
    #[error("it could not read the request: {0}")]
    BadRequest(String),
    /// Its own trouble.
    #[error("it failed: {0}")]
    Internal(String),
}

/// Head of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ResponseHeader {
    /// Blocks with this many rows follow.
    Rows {
        /// Rows in all blocks together.
        count: u32,
    },
    /// Nothing follows.
    Failed(RemoteError),
}

/// Head of a block of rows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum BlockHeader {
    /// `rows` rows follow.
    Rows {
        /// Rows of the block.
        rows: u32,
        /// xxh3-64 of their bytes.
        checksum: u64,
    },
    /// The answer ends here, unfinished.
    Failed(RemoteError),
}

fn codec() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<FRAME_BYTES_MAX>()
}

fn body<M: Encode>(message: &M) -> Result<Vec<u8>, WireError> {
    let body = bincode::encode_to_vec(message, codec()).map_err(|error| WireError::Encode(error.to_string()))?;
    if body.len() > FRAME_BYTES_MAX { Err(WireError::Oversized { bytes: body.len() }) } else { Ok(body) }
}

fn parse<M: Decode<()>>(body: &[u8]) -> Result<M, WireError> {
    let (message, used) =
        bincode::decode_from_slice(body, codec()).map_err(|error| WireError::Garbage(error.to_string()))?;
    if used == body.len() { Ok(message) } else { Err(WireError::Trailing(body.len() - used)) }
}

/// Encodes a control frame: length, then body.
///
/// # Errors
/// When the body is over [`FRAME_BYTES_MAX`].
pub fn frame<M: Encode>(message: &M) -> Result<Vec<u8>, WireError> {
    let body = body(message)?;
    let mut out = Vec::with_capacity(FRAME_HEAD_BYTES + body.len());
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Encodes a Hello or its reply, which carry the protocol version outside of the body so that any version can read it.
///
/// # Errors
/// When the body is over [`FRAME_BYTES_MAX`].
pub fn hello_frame<M: Encode>(version: u16, message: &M) -> Result<Vec<u8>, WireError> {
    let body = body(message)?;
    let mut out = Vec::with_capacity(HELLO_HEAD_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Cuts `text` so that it fits a control frame.
#[must_use]
pub fn short_text(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

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

#[cfg(test)]
mod tests;
