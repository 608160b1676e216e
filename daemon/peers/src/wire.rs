//! What peers say to each other, byte for byte: control frames through one bounded bincode codec, and decoders that are
//! fed bytes and answer what they need next. Owns the protocol's limits and its version; it must never do I/O, read a
//! clock or allocate more than a checked header allows.
//!
//! ```text
//! first stream:  hello ▸                          ◂ hello reply          (each: magic, version, length, body)
//! rows:          frame(Request) ids ▸             ◂ frame(ResponseHeader) { frame(BlockHeader) rows }*
//! changes:       frame(Request) ▸                 ◂ frame(ResponseHeader) { frame(BlockHeader) words }*
//! update:        frame(Request) ids rows ▸        ◂ frame(ResponseHeader)
//! frame          u16 length, bincode body         ids, rows and words: raw, little endian
//! ```

mod decode;

use bincode::{Decode, Encode};

pub use decode::{
    Expected, HelloDecoder, Need, Payload, RequestDecoder, RequestLimits, ResponseDecoder, ResponseError,
};

/// Version of everything below. Peers of different versions part after the Hello.
pub const PROTOCOL_VERSION: u16 = 4;
/// Largest body of a control frame.
pub const FRAME_BYTES_MAX: usize = 1024;
/// Longest free text inside a control frame, in bytes.
pub const TEXT_BYTES_MAX: usize = 400;
/// Rows of an owner's part of a table, in the order of its shard, whose changes are told by one word.
pub const BLOCK_ROWS: u64 = 64;
/// Bytes of one word in an answer to a [`ChangesRequest`].
pub const WORD_BYTES: usize = 8;
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
    /// An update with longer rows than any table has.
    #[error("an update with rows of {row_bytes} bytes; the longest row here has {row_bytes_max}")]
    RowTooLong {
        /// Bytes of a row in the request.
        row_bytes: u32,
        /// Bytes of the longest row of the answering node.
        row_bytes_max: usize,
    },
    /// An answer to another question.
    #[error("an answer that was not asked for")]
    Unexpected,
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
    /// Come in; this is who answers, and where its versions stand.
    Welcome(Hello, Stamp),
    /// Stay out.
    Refused(Refusal),
}

/// A point in the life of an owner's rows: every update applied to them moves the clock by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Stamp {
    /// Drawn at random when the process started: updates do not outlive it.
    pub incarnation: u64,
    /// Updates applied since then.
    pub clock: u64,
}

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Class {
    /// A trainer waits for it.
    Demand,
    /// Filling ahead of need; gives way to demand.
    Bulk,
}

/// Head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Rows; ids follow.
    Rows(RowsRequest),
    /// What was updated; nothing follows.
    Changes(ChangesRequest),
    /// New rows; ids and rows follow.
    Update(UpdateRequest),
}

impl Request {
    /// Index of the table.
    #[must_use]
    pub fn table(&self) -> u16 {
        match *self {
            Self::Rows(RowsRequest { table, .. })
            | Self::Changes(ChangesRequest { table, .. })
            | Self::Update(UpdateRequest { table, .. }) => table,
        }
    }
}

/// Asks which blocks of the answering node's rows were updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ChangesRequest {
    /// Index of the table.
    pub table: u16,
    /// Updates up to this point are known.
    pub since: Stamp,
}

/// Head of an update; `count` little-endian u64 ids follow, then `count` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct UpdateRequest {
    /// Index of the table.
    pub table: u16,
    /// Bytes of one row as the asking side knows it.
    pub row_bytes: u32,
    /// Number of ids and rows.
    pub count: u32,
    /// The asking process and its number for this request, higher for each: an owner applies a number once, and none
    /// that is lower than one it has applied.
    pub writer: Stamp,
    /// xxh3-64 of all that follows.
    pub checksum: u64,
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
    /// The trainer's number for the fetch that wants them, for logs on both sides; 0 if no trainer waits.
    pub request: u64,
}

/// The number of a trainer's fetch, which goes with every request made for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub u64);

impl RequestId {
    /// No trainer waits.
    pub const NONE: Self = Self(0);
}

/// What goes with the ids of a fetch: how urgent it is, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Urgency.
    pub class: Class,
    /// For whom.
    pub request: RequestId,
}

impl From<Class> for Purpose {
    fn from(class: Class) -> Self {
        Self { class, request: RequestId::NONE }
    }
}

impl From<(Class, RequestId)> for Purpose {
    fn from((class, request): (Class, RequestId)) -> Self {
        Self { class, request }
    }
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
    /// No room for more updated rows.
    #[error("it holds no more updated rows: {rows} would be over {rows_max} (its dataset.updates_bytes_max)")]
    UpdatesFull {
        /// Rows that it would hold.
        rows: u64,
        /// Its limit.
        rows_max: u64,
    },
    /// A repetition that was overtaken.
    #[error("it has applied a later update of this node already")]
    Overtaken,
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
    /// It cannot read its own shard.
    #[error("it cannot read its shard: {0}")]
    Storage(String),
}

/// Head of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ResponseHeader {
    /// Blocks with this many rows follow.
    Rows {
        /// Rows in all blocks together.
        count: u32,
    },
    /// Blocks with this many words follow: a bitmap of the blocks of rows in which some were updated, lowest bit first,
    /// then a bitmap of the rows of each of these. No words if none was, or `all`.
    Changes {
        /// Where the versions stand.
        now: Stamp,
        /// Everything may have changed: the asking side's stamp is of another process.
        all: bool,
        /// Words in all blocks together.
        words: u32,
    },
    /// The update is applied; nothing follows.
    Updated {
        /// Where the versions stand, this update included.
        now: Stamp,
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

#[cfg(test)]
mod tests;
