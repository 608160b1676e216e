//! The messages between a trainer and its `rudderd` over the Unix socket. How they are carried is in [`frame`], how
//! they are written as bytes in [`codec`].
//!
//! Messages hold ids of tables, counts and offsets only. Vertex ids and rows lie in a sealed memfd that the client
//! shares ([`Place::Arena`]), or, for a client without shared memory, behind the message as raw bytes
//! ([`Place::Inline`]). They never pass through the codec.

pub mod codec;
pub mod frame;

use crate::DType;
use bincode::{Decode, Encode};

/// Version of the local protocol; client and daemon must speak the same.
pub const PROTOCOL_VERSION: u16 = 5;

/// Bytes a control message may take on the wire unless a side is configured otherwise.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Alignment, in bytes, of every offset into an arena.
pub const ARENA_ALIGN_BYTES: u64 = 64;

/// Which numbers the ids of a connection are, where the import renumbered a vertex type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub enum IdSpace {
    /// The ids that vertices had before the import: those of the user's own files. The daemon translates them.
    #[default]
    Original,
    /// The ids that the import gave, by which books, tables and the graph of the dataset are ordered. No look-up.
    Dataset,
}

impl IdSpace {
    /// The name that people write: `original` or `dataset`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Dataset => "dataset",
        }
    }
}

/// A request, with the number under which its reply will come. Numbers are the client's; each may be in flight once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Call {
    /// The client's number for this request.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// A reply to the call of the same number. Replies may come in another order than the calls.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// The number of the call that this answers; 0 where a frame was too broken to hold one.
    pub id: u64,
    /// What came of it.
    pub reply: Reply,
    /// What there is to say of earlier calls that are not answered ([`Request::Announce`], [`Request::Progress`]).
    pub notices: Vec<Notice>,
}

/// What a daemon has to say of a call that it does not answer, in the next answer of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Notice {
    /// What kind of trouble, for programs.
    pub code: ErrorCode,
    /// What happened and what to do next, for people.
    pub message: String,
}

/// Where a run of bytes lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Place {
    /// Behind the message, in the same frame.
    Inline,
    /// In an arena that the client registered.
    Arena {
        /// The client's number for the arena.
        arena: u32,
        /// Bytes from the arena's start, a multiple of [`ARENA_ALIGN_BYTES`].
        offset: u64,
    },
}

/// How wide the ids of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum IdWidth {
    /// Little-endian `u32`.
    Four,
    /// Little-endian `u64`.
    Eight,
}

impl IdWidth {
    /// Bytes of one id.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct IdRun {
    /// Number of ids.
    pub count: u64,
    /// Bytes of each.
    pub width: IdWidth,
    /// Where they lie. Runs that come inline lie behind the message one after the other, in the order of the parts.
    pub at: Place,
}

/// Which ids one part of a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum PartIds {
    /// These.
    Given(IdRun),
    /// Those of an earlier part of the same vertex type: the place of that part among the parts of the call.
    Of(u16),
    /// Those of the same part of the batch that the call names: so many.
    Announced(u64),
}

/// Ids of a table and the place of their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct RowsCall {
    /// [`TableInfo::id`].
    pub table: u16,
    /// Element type that the client believes the table to have.
    pub dtype: DType,
    /// Elements per row that the client believes the table to have.
    pub width: u32,
    /// The ids.
    pub ids: PartIds,
    /// Where the rows go or lie, in the order of the ids. Rows that go inline come behind the reply one part after the
    /// other.
    pub rows: Place,
}

/// Ids of a table that a coming batch will fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct IdsPart {
    /// [`TableInfo::id`].
    pub table: u16,
    /// The ids.
    pub ids: PartIds,
}

/// What a client asks of its daemon.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// The first message of a connection; answered by [`Reply::Welcome`].
    Hello {
        /// [`PROTOCOL_VERSION`] of the client.
        version: u16,
        /// A name for logs, for instance `trainer 3 (pid 4711)`.
        name: String,
        /// The trainer that this connection belongs to: a number drawn at random, which all processes of one trainer
        /// share. Announcements and progress are the trainer's, and live while any connection of it does. Trainers of
        /// different users are different, whatever their numbers.
        trainer: u128,
        /// Which numbers all ids of this connection are, in both directions.
        ids: IdSpace,
        /// [`Reply::Welcome`]'s fingerprint at an earlier connection of this client. A daemon that serves another
        /// dataset refuses with [`ErrorCode::DatasetChanged`].
        fingerprint: Option<u64>,
    },
    /// Registers the memfd sent along with this frame. It must be sealed against shrinking.
    AddArena {
        /// The client's number for it, not in use.
        arena: u32,
        /// Its size.
        bytes: u64,
    },
    /// Forgets an arena; calls in flight keep their mapping until they end.
    DropArena {
        /// The client's number for it.
        arena: u32,
    },
    /// Asks for rows of one or several tables, local and remote mixed, in any order, duplicates allowed. The rows go to
    /// [`RowsCall::rows`].
    Fetch {
        /// The tables, with the ids of each.
        parts: Vec<RowsCall>,
        /// The announced batch that this is, if the client has announced it. Ids that are not given are those of it. A
        /// daemon that does not know it and was not given the ids answers [`ErrorCode::UnknownBatch`].
        batch: Option<u64>,
        /// Whether the caches learn from this fetch. One that teaches nothing does not use
        /// up an announced batch.
        learn: bool,
    },
    /// Says which ids a coming batch of this trainer will fetch, all of them, in the order in which it will. It is not
    /// answered; what is wrong with it comes as a [`Notice`]. The ids have been read when any later call of the
    /// connection is answered: only then may the client use their place again.
    Announce {
        /// A number that no other batch of the trainer has, whichever process announces.
        batch: u64,
        /// The trainer's own number for the step, growing by one per step. Several processes of a trainer may announce,
        /// and steps may come out of order. Without a number, batches follow each other in the order in which they
        /// arrive.
        step: Option<u64>,
        /// The tables, with the ids of each.
        parts: Vec<IdsPart>,
    },
    /// Tells the cache how far this trainer has come; its scores are computed from it. It is not answered; what is
    /// wrong with it comes as a [`Notice`].
    Progress {
        /// Epochs ended so far.
        epoch: u32,
        /// Steps of this epoch ended so far.
        step: u32,
        /// Steps of an epoch, above 0.
        steps_per_epoch: u32,
    },
    /// Asks for the state of the daemon, the same as `GET /v1/status`.
    Status,
    /// Replaces rows, local and remote mixed, at their owners; of an id that appears twice, the last row stays.
    /// The ids are given. The new rows lie at [`RowsCall::rows`]; if inline, behind inline ids.
    Update(RowsCall),
    /// Brings rows into the cache.
    Warm {
        /// [`TableInfo::id`].
        table: u16,
        /// The ids.
        ids: IdRun,
    },
    /// Calls a tool, as `POST /v1/tools/NAME` does.
    Tool {
        /// JSON: an object whose `tool` names the tool, with the tool's arguments beside it.
        call: String,
    },
    /// Asks for the other number of each vertex, whatever the ids of the connection are. The answers, `u64` each, take
    /// the place of the ids, which are as wide, or come behind the reply if the ids came inline. Answered by
    /// [`Reply::Translated`].
    Translate {
        /// [`TableInfo::id`] of a table of the vertex type.
        table: u16,
        /// Which numbers the ids are.
        from: IdSpace,
        /// The ids.
        ids: IdRun,
    },
    /// Asks for the ids of vertices by their names, which come behind this message: UTF-8, each ended by a line feed.
    /// The ids come behind [`Reply::Translated`], in the numbers of the connection.
    FindNames {
        /// [`TableInfo::id`] of a table of the vertex type.
        table: u16,
        /// Number of names.
        count: u64,
    },
    /// Asks for the names of vertices, whose ids come behind this message, in the numbers of the connection. The names
    /// come behind [`Reply::Translated`], each ended by a line feed.
    NamesOf {
        /// [`TableInfo::id`] of a table of the vertex type.
        table: u16,
        /// Number of ids.
        count: u64,
    },
    /// Asks how many batches the trainer should announce ahead.
    Horizon {
        /// [`TableInfo::id`].
        table: u16,
    },
    /// Asks which node owns each of these ids. The nodes' numbers, `u16` each, take the place of the ids, or come
    /// behind the reply if the ids came inline. Answered by [`Reply::Translated`].
    Owners {
        /// [`TableInfo::id`] of a table of the vertex type.
        table: u16,
        /// The ids.
        ids: IdRun,
    },
    /// Asks for the dataset ids that this node owns, where they are one range.
    LocalRange {
        /// [`TableInfo::id`] of a table of the vertex type.
        table: u16,
    },
}

impl Request {
    /// Whether it gets no answer.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        matches!(self, Self::Announce { .. } | Self::Progress { .. })
    }
}

/// What a daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To [`Request::Hello`].
    Welcome {
        /// [`PROTOCOL_VERSION`] of the daemon.
        version: u16,
        /// The partition this node owns.
        node: u16,
        /// Every table of the dataset, in the order of their ids.
        tables: Vec<TableInfo>,
        /// Fingerprint of the dataset, with every checksum in it: two datasets with the same serve the same rows under
        /// the same ids.
        fingerprint: u64,
        /// Most bytes of all arenas of this connection that the daemon accepts.
        arena_bytes_max: u64,
    },
    /// Done; there is nothing to report.
    Done,
    /// The rows are where they were asked to be; for [`Place::Inline`] behind this message. One entry per part.
    Rows(Vec<RowsAnswer>),
    /// To [`Request::Horizon`]: batches that the trainer should announce ahead.
    Horizon(u32),
    /// To [`Request::Status`]: JSON.
    Status(String),
    /// The request failed. Nothing else is lost: the connection goes on unless `closing`.
    Failed {
        /// What kind of failure, for programs.
        code: ErrorCode,
        /// What happened, which side is at fault and what to do next, for people.
        message: String,
        /// The daemon closes the connection after this message.
        closing: bool,
    },
    /// To [`Request::Update`]: the owners have the rows, and every later fetch of this node gets them.
    Updated {
        /// Distinct rows.
        rows: u64,
    },
    /// To [`Request::Tool`] and [`Request::Warm`]: what the tool did, as JSON.
    Tool(String),
    /// To [`Request::Translate`], [`Request::FindNames`], [`Request::NamesOf`] and [`Request::Owners`]: in the order of
    /// what was asked.
    Translated,
    /// To [`Request::LocalRange`]: dataset ids.
    LocalRange {
        /// The first.
        start: u64,
        /// The one after the last.
        end: u64,
    },
}

/// What there is to say of one part of a fetch beside its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct RowsAnswer {
    /// Where the rows came from.
    pub sources: RowSources,
    /// Batches that the trainer should announce ahead for this table.
    pub horizon: u32,
}

/// Where the rows of one fetch came from; the sum is the number of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct RowSources {
    /// Rows of the node's own shard.
    pub local: u64,
    /// Rows found in the cache.
    pub cache: u64,
    /// Rows that were here before they were asked for, outside the cache: announced and brought in, or just fetched by
    /// another trainer.
    pub staged: u64,
    /// Rows a peer had to be waited for; duplicates of one id count each time.
    pub peer: u64,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum ErrorCode {
    /// The two sides speak different protocol versions.
    Version,
    /// A frame or message that cannot be understood or is over a limit.
    Protocol,
    /// The user of the client's process may not connect.
    Forbidden,
    /// No table of that number or name.
    UnknownTable,
    /// An id that no vertex of the table's type has: in most datasets one at or above the number of rows.
    IdOutOfRange,
    /// The table's rows have another element type or width.
    Shape,
    /// The arena is unknown, unsealed, too small, or the place in it is out of bounds.
    Arena,
    /// A limit of the configuration was reached.
    Limit,
    /// A peer that owns some of the rows cannot be reached or did not answer in time.
    PeerUnavailable,
    /// A peer answered with an error or with bytes that fail their checksum.
    PeerFailed,
    /// The daemon is draining and takes no new work.
    Draining,
    /// A defect of the daemon; its log says more.
    Internal,
    /// The daemon cannot read its own shard: the file shrank, or the disk fails or hangs.
    Storage,
    /// A well-formed request with an argument that makes no sense. The message names it.
    Argument,
    /// The daemon serves another dataset than the client knew.
    DatasetChanged,
    /// No vertex has that name, or vertices of this type have no names.
    UnknownName,
    /// The trainer has announced no batch of that number, or it is forgotten: ask with the ids.
    UnknownBatch,
    /// A batch was fetched with its ids in another order than announced. Only in a [`Notice`].
    OtherOrder,
}

impl ErrorCode {
    /// The name that programs see, such as `limit`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Forbidden => "forbidden",
            Self::UnknownTable => "unknown_table",
            Self::IdOutOfRange => "id_out_of_range",
            Self::Shape => "shape",
            Self::Arena => "arena",
            Self::Limit => "limit",
            Self::PeerUnavailable => "peer_unavailable",
            Self::PeerFailed => "peer_failed",
            Self::Draining => "draining",
            Self::Internal => "internal",
            Self::Storage => "storage",
            Self::Argument => "argument",
            Self::DatasetChanged => "dataset_changed",
            Self::UnknownName => "unknown_name",
            Self::UnknownBatch => "unknown_batch",
            Self::OtherOrder => "other_order",
        }
    }
}

/// One feature table as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TableInfo {
    /// Number by which requests name the table.
    pub id: u16,
    /// Name, unique in the dataset.
    pub name: String,
    /// Vertex type, or edge type (`source:relation:target`), whose ids index the table.
    pub vertex_type: String,
    /// Type of one element.
    pub dtype: DType,
    /// Elements per row: the product of `shape`.
    pub width: u32,
    /// Shape of one row; empty where a row is one number.
    pub shape: Vec<u32>,
    /// Rows of the whole table, over all nodes: dataset ids are below this.
    pub rows: u64,
    /// Rows that this node owns.
    pub local_rows: u64,
    /// Whether the import gave the vertices other ids than they have in their source.
    pub renumbered: bool,
    /// Whether vertices can be found by names.
    pub named: bool,
}

impl TableInfo {
    /// Whether `width` is the product of `shape`.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.shape.iter().try_fold(1u32, |all, &size| all.checked_mul(size)) == Some(self.width)
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.dtype.size() * self.width as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_a_row_makes_its_width() {
        let table = |width, shape: &[u32]| TableInfo {
            id: 0,
            name: "x".into(),
            vertex_type: "_N".into(),
            dtype: DType::U16,
            width,
            shape: shape.to_vec(),
            rows: 1,
            local_rows: 1,
            renumbered: false,
            named: false,
        };
        assert!(table(1, &[]).is_consistent() && table(1, &[1]).is_consistent() && table(6, &[2, 3]).is_consistent());
        assert!(!table(2, &[]).is_consistent() && !table(6, &[2, 2]).is_consistent());
        assert!(!table(0, &[1 << 16, 1 << 16]).is_consistent());
    }
}
