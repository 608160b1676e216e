//! Sending on a session: one call at a time, whole, with the memory that it needs. It owns the numbers of the calls. It
//! must never use an arena that the daemon was not told of.

use super::inbox::Inbox;
use super::{RECEIPT, Session};
use crate::ClientError;
use crate::arena::{Growth, Lease, MemoryError};
use crate::error::ProtocolError;
use crate::lock::lock;
use crate::wire::{Call, Request, frame};
use std::os::fd::BorrowedFd;
use std::sync::MutexGuard;

/// The right to send on a session.
pub(crate) struct Sender<'a> {
    pub(super) session: &'a Session,
    pub(super) next: MutexGuard<'a, u64>,
}

impl Sender<'_> {
    /// Sends one call; its reply is collected by [`Session::wait`] under the number answered.
    pub(crate) fn send(
        &mut self,
        request: Request,
        payload: &[u8],
        fd: Option<BorrowedFd<'_>>,
        leases: Vec<Lease>,
    ) -> Result<u64, ClientError> {
        self.send_as(request, payload, fd, |inbox, id| inbox.open(id, leases))
    }

    /// Sends a call that is not answered. What it leased goes back when a later call is answered.
    pub(crate) fn send_one_way(
        &mut self,
        request: Request,
        payload: &[u8],
        leases: Vec<Lease>,
    ) -> Result<(), ClientError> {
        self.send_as(request, payload, None, |inbox, id| inbox.open_one_way(id, leases)).map(drop)
    }

    fn send_as(
        &mut self,
        request: Request,
        payload: &[u8],
        fd: Option<BorrowedFd<'_>>,
        open: impl FnOnce(&mut Inbox, u64),
    ) -> Result<u64, ClientError> {
        let id = *self.next;
        *self.next += 1;
        let head = frame::encode_head(&Call { id, request }, payload.len())
            .map_err(|error| ClientError::Protocol(ProtocolError::Call(error)))?;
        let session = self.session;
        {
            let mut inbox = lock(&session.inbox);
            if let Some(cause) = &inbox.lost {
                return Err(cause.clone().into());
            }
            open(&mut inbox, id);
        }
        match session.write_all(&head, fd).and_then(|()| session.write_all(payload, None)) {
            Ok(()) => Ok(id),
            Err(error) => session.broke_off(id, error),
        }
    }

    /// Leases `bytes`, and tells the daemon of a new arena if one had to be made. Where memory is short, waits for what
    /// calls without answers hold.
    pub(crate) fn lease(&mut self, bytes: usize) -> Result<Lease, ClientError> {
        let session = self.session;
        let (lease, growth) = match session.pool.lease(bytes) {
            // What the daemon has read of calls without answers may be enough.
            Err(MemoryError::Limit { .. }) if lock(&session.inbox).one_way_calls() > 0 => {
                let id = self.send(RECEIPT, &[], None, Vec::new())?;
                session.wait(id)?;
                session.pool.lease(bytes)?
            }
            outcome => outcome?,
        };
        let Some(growth) = growth else { return Ok(lease) };
        match self.announce(&growth) {
            Ok(()) => Ok(lease),
            // An arena that the daemon does not know must not serve later fetches.
            Err(error @ ClientError::Daemon { .. }) => {
                session.pool.discard(growth.arena);
                Err(error)
            }
            // No answer came, and the daemon may have taken it.
            Err(error) => {
                session.pool.abandon(growth.arena);
                Err(error)
            }
        }
    }

    /// Registers a new arena at the daemon. Before that it asks the daemon to drop old arenas, so that they do not
    /// count against its limits. It does not wait for these answers: the daemon takes the calls of a connection in
    /// order.
    fn announce(&mut self, growth: &Growth) -> Result<(), ClientError> {
        let session = self.session;
        while let Some(arena) = session.pool.drop_due() {
            let id = self.send(Request::DropArena { arena }, &[], None, Vec::new())?;
            session.abandon(id);
            session.pool.drop_sent(arena);
        }
        let request = Request::AddArena { arena: growth.arena, bytes: growth.mapping.bytes() as u64 };
        let id = self.send(request, &[], Some(growth.mapping.fd()), Vec::new())?;
        session.wait(id)?;
        Ok(())
    }

    /// Leases room for `rows` rows and what else a call needs; `bytes` are `None` where the sum is beyond memory.
    pub(crate) fn lease_rows(&mut self, rows: usize, bytes: Option<usize>) -> Result<Lease, ClientError> {
        self.lease(bytes.ok_or(MemoryError::TooLarge { rows: rows as u64 })?)
    }
}
