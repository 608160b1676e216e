//! The calls of a session that wait for their answers, with the leases that go with them. It owns when a lease goes
//! back: with the answer of its call or, for calls that are not answered, with the answer of any later call, since a
//! daemon takes the calls of a connection in order. It must never give one back before.

use crate::ClientError;
use crate::arena::Lease;
use crate::error::LostCause;
use crate::wire::frame::Frame;
use crate::wire::{Answer, ErrorCode, Notice, Reply, codec};
use std::collections::{HashMap, VecDeque};

/// Notices that are kept until somebody asks for them; the oldest go first.
const NOTICES_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    calls: HashMap<u64, Waiting>,
    /// What calls that are not answered have leased, by their numbers, oldest first.
    one_way: VecDeque<(u64, Vec<Lease>)>,
    /// The call whose answer will give all of that back, if one was made for it.
    receipt: Option<u64>,
    notices: VecDeque<Notice>,
    pub(super) reading: bool,
    pub(super) lost: Option<Cause>,
}

/// Why a session ended.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    Broken(LostCause),
    /// The daemon closed it, and said why.
    Refused(ErrorCode, String),
    /// The user closed the client.
    Closed,
}

impl From<Cause> for ClientError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Broken(cause) => ClientError::Lost(cause),
            Cause::Refused(code, message) => ClientError::refused(code, message),
            Cause::Closed => ClientError::Closed,
        }
    }
}

/// A call in flight, with the leases that its reply fills.
#[derive(Debug)]
enum Waiting {
    Open(Vec<Lease>),
    /// Nobody waits any more; the leases go back when the daemon has answered.
    Abandoned {
        _leases: Vec<Lease>,
    },
    Answered(Delivery),
}

/// A reply with all that came with it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) reply: Reply,
    pub(crate) payload: Vec<u8>,
    pub(crate) leases: Vec<Lease>,
}

impl Inbox {
    /// Call `id` is about to be sent.
    pub(super) fn open(&mut self, id: u64, leases: Vec<Lease>) {
        self.calls.insert(id, Waiting::Open(leases));
    }

    /// Call `id`, which is not answered, is about to be sent.
    pub(super) fn open_one_way(&mut self, id: u64, leases: Vec<Lease>) {
        if !leases.is_empty() {
            self.one_way.push_back((id, leases));
        }
    }

    /// Calls that are not answered and whose leases have not come back.
    pub(super) fn one_way_calls(&self) -> usize {
        self.one_way.len()
    }

    /// Whether a call was made whose answer will give the leases of calls without answers back.
    pub(super) fn expects_receipt(&self) -> bool {
        self.receipt.is_some()
    }

    /// Call `id` was made for its receipt.
    pub(super) fn expect_receipt(&mut self, id: u64) {
        self.receipt = Some(id);
    }

    pub(super) fn is_answered(&self, id: u64) -> bool {
        matches!(self.calls.get(&id), Some(Waiting::Answered(_)))
    }

    /// The answer to call `id`, if it is there.
    pub(super) fn take(&mut self, id: u64) -> Option<Delivery> {
        if !self.is_answered(id) {
            return None;
        }
        match self.calls.remove(&id) {
            Some(Waiting::Answered(delivery)) => Some(delivery),
            _ => None,
        }
    }

    /// Nobody waits for call `id` any more.
    pub(super) fn abandon(&mut self, id: u64) {
        match self.calls.remove(&id) {
            Some(Waiting::Open(leases)) => {
                self.calls.insert(id, Waiting::Abandoned { _leases: leases });
            }
            Some(other @ Waiting::Abandoned { .. }) => {
                self.calls.insert(id, other);
            }
            Some(Waiting::Answered(_)) | None => {}
        }
    }

    /// The session has ended: no more answers come.
    pub(super) fn end(&mut self, cause: Cause) {
        self.calls.retain(|_, call| matches!(call, Waiting::Answered(_)));
        self.one_way.clear();
        self.lost.get_or_insert(cause);
    }

    /// Files a reply under its call.
    pub(super) fn deliver(&mut self, frame: Frame) -> Result<(), Cause> {
        let Answer { id, reply, notices } =
            codec::decode(&frame.message).map_err(|error| Cause::Broken(error.into()))?;
        notices.into_iter().for_each(|notice| self.note(notice));
        self.acknowledge(id);
        match self.calls.remove(&id) {
            Some(Waiting::Open(leases)) => {
                self.calls.insert(id, Waiting::Answered(Delivery { reply, payload: frame.payload, leases }));
                Ok(())
            }
            Some(Waiting::Abandoned { .. }) => Ok(()),
            Some(Waiting::Answered(_)) => Err(Cause::Broken(LostCause::NotOpen { id })),
            None => match reply {
                Reply::Failed { code, message, .. } => Err(Cause::Refused(code, message)),
                _ => Err(Cause::Broken(LostCause::NotOpen { id })),
            },
        }
    }

    /// The daemon has begun call `id`, and so has read what the calls before it leased.
    fn acknowledge(&mut self, id: u64) {
        while self.one_way.front().is_some_and(|&(call, _)| call < id) {
            self.one_way.pop_front();
        }
        if self.receipt.is_some_and(|receipt| receipt <= id) {
            self.receipt = None;
        }
    }

    fn note(&mut self, notice: Notice) {
        if self.notices.len() == NOTICES_MAX {
            self.notices.pop_front();
        }
        self.notices.push_back(notice);
    }

    /// What the daemon said of calls that it does not answer.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        self.notices.drain(..).collect()
    }

    /// Keeps what the daemon said on an earlier connection.
    pub(super) fn keep_notices(&mut self, notices: Vec<Notice>) {
        notices.into_iter().for_each(|notice| self.note(notice));
    }
}
