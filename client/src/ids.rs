//! The two numbers of a vertex, its name and its owner: arrays of one translated into the other by the daemon. It owns
//! how they are cut into calls. It must never guess which vertex type is meant.

use crate::ClientError;
use crate::client::{Client, unexpected};
use crate::error::ProtocolError;
use crate::nearest::listed;
use crate::session::{Delivery, Session};
use crate::wire::{ErrorCode, IdRun, IdSpace, IdWidth, Place, Reply, Request, TableInfo};
use std::ops::Range;
use std::sync::Arc;

/// Ids in one call: large enough that the call costs little, small enough for any daemon.
const PIECE_IDS: usize = 1 << 16;

/// Bytes of names in one call; a name that is longer goes alone.
const PIECE_BYTES: usize = 1 << 20;

impl Client {
    /// The ids that vertices have in their source, in the order of `dataset_ids`. `of` is a vertex type or a table of
    /// it.
    ///
    /// # Errors
    /// [`ClientError::UnknownTable`], [`ClientError::Ambiguous`], and what the daemon refuses (an id out of range, a
    /// file that is not there) or the connection suffers.
    pub fn original_ids(&self, of: &str, dataset_ids: &[u64]) -> Result<Vec<u64>, ClientError> {
        self.translate(of, IdSpace::Dataset, dataset_ids)
    }

    /// The ids that the import gave to vertices, in the order of `original_ids`. `of` is a vertex type or a table of
    /// it.
    ///
    /// # Errors
    /// As [`Client::original_ids`].
    pub fn dataset_ids(&self, of: &str, original_ids: &[u64]) -> Result<Vec<u64>, ClientError> {
        self.translate(of, IdSpace::Original, original_ids)
    }

    /// The ids of the vertices called `names`, in the numbers of this client. `of` is a vertex type or a table of it.
    ///
    /// # Errors
    /// As [`Client::original_ids`]; [`ErrorCode::UnknownName`] where no vertex has a name.
    pub fn ids_of_names<S: AsRef<str>>(&self, of: &str, names: &[S]) -> Result<Vec<u64>, ClientError> {
        let info = self.table_of(of)?;
        let mut ids = Vec::with_capacity(names.len());
        for piece in pieces(names) {
            let names = &names[piece.clone()];
            let mut lines = String::with_capacity(names.len() * 16);
            for (name, at) in names.iter().map(AsRef::as_ref).zip(piece.start..) {
                if name.contains('\n') {
                    let vertex_type = &info.vertex_type;
                    let message = format!("no vertex of type `{vertex_type}` is called {name:?} (position {at})");
                    return Err(ClientError::Daemon { code: ErrorCode::UnknownName, message });
                }
                lines.extend([name, "\n"]);
            }
            let (table, count) = (info.id, names.len() as u64);
            let bytes = self.behind(&Request::FindNames { table, count }, lines.as_bytes())?;
            append(&mut ids, &bytes, names.len())?;
        }
        Ok(ids)
    }

    /// The names of the vertices `ids`, which are in the numbers of this client. `of` is a vertex type or a table of
    /// it.
    ///
    /// # Errors
    /// As [`Client::original_ids`]; [`ErrorCode::UnknownName`] where vertices of the type have no names.
    pub fn names(&self, of: &str, ids: &[u64]) -> Result<Vec<String>, ClientError> {
        let info = self.table_of(of)?;
        let mut names = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PIECE_IDS / 16) {
            let (table, count) = (info.id, ids.len() as u64);
            let bytes = self.behind(&Request::NamesOf { table, count }, bytemuck::cast_slice(ids))?;
            let text = String::from_utf8(bytes).map_err(|error| other(&error.to_string()))?;
            let before = names.len();
            names.extend(text.split_terminator('\n').map(str::to_owned));
            if names.len() - before != ids.len() {
                return Err(other("another number of names than ids"));
            }
        }
        Ok(names)
    }

    /// A table of the vertex type `of`, or the table `of`.
    fn table_of(&self, of: &str) -> Result<&TableInfo, ClientError> {
        let of_type = self.tables().iter().find(|table| table.vertex_type == of);
        match (self.table(of), of_type) {
            (Ok(table), Some(other)) if table.vertex_type != other.vertex_type => {
                Err(ClientError::Ambiguous { name: of.to_owned(), vertex_type: table.vertex_type.clone() })
            }
            (Ok(table), _) | (Err(_), Some(table)) => Ok(table),
            (Err(_), None) => {
                let mut known: Vec<&str> = self.tables().iter().map(|table| table.name.as_str()).collect();
                for table in self.tables().iter() {
                    if !known.contains(&table.vertex_type.as_str()) {
                        known.push(&table.vertex_type);
                    }
                }
                Err(ClientError::UnknownTable { name: of.to_owned(), known: listed(of, known) })
            }
        }
    }

    fn translate(&self, of: &str, from: IdSpace, ids: &[u64]) -> Result<Vec<u64>, ClientError> {
        let table = self.table_of(of)?.id;
        let mut translated = Vec::with_capacity(ids.len());
        for piece in ids.chunks(PIECE_IDS) {
            let request = |ids| Request::Translate { table, from, ids };
            let bytes = self.on_session(|session| self.in_place(session, piece, size_of::<u64>(), request))?;
            append(&mut translated, &bytes, piece.len())?;
        }
        Ok(translated)
    }

    /// Sends a request whose answers, `answer_bytes` for each id, take the place of the ids.
    fn in_place(
        &self,
        session: &Arc<Session>,
        ids: &[u64],
        answer_bytes: usize,
        request: impl Fn(IdRun) -> Request,
    ) -> Result<Vec<u8>, ClientError> {
        let raw: &[u8] = bytemuck::cast_slice(ids);
        let run = |at| request(IdRun { count: ids.len() as u64, width: IdWidth::Eight, at });
        let mut sender = session.sender();
        let id = if self.options().inline {
            sender.send(run(Place::Inline), raw, None, Vec::new())?
        } else {
            let lease = sender.lease(raw.len())?;
            lease.write(0, raw);
            sender.send(run(lease.place(0)), &[], None, vec![lease])?
        };
        drop(sender);
        let Delivery { reply, payload, leases } = session.wait(id)?;
        match (reply, leases.first()) {
            (Reply::Translated, Some(lease)) => Ok(lease.bytes(ids.len() * answer_bytes).to_vec()),
            (Reply::Translated, None) => Ok(payload),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// The nodes that own the vertices `ids`, which are in the numbers of this client. `of` is a vertex type or a table
    /// of it.
    ///
    /// # Errors
    /// As [`Client::original_ids`].
    pub fn owners(&self, of: &str, ids: &[u64]) -> Result<Vec<u16>, ClientError> {
        let table = self.table_of(of)?.id;
        let mut owners = Vec::with_capacity(ids.len());
        for piece in ids.chunks(PIECE_IDS) {
            let request = |ids| Request::Owners { table, ids };
            let bytes = self.on_session(|session| self.in_place(session, piece, size_of::<u16>(), request))?;
            if bytes.len() != piece.len() * size_of::<u16>() {
                return Err(other("another number of owners than ids"));
            }
            owners.extend(bytes.chunks_exact(2).map(|owner| u16::from_le_bytes(owner.try_into().unwrap_or_default())));
        }
        Ok(owners)
    }

    /// The dataset ids that this node owns. `of` is a vertex type or a table of it.
    ///
    /// # Errors
    /// As [`Client::original_ids`]; [`ErrorCode::Argument`] where they are not one range.
    pub fn local_range(&self, of: &str) -> Result<Range<u64>, ClientError> {
        let request = Request::LocalRange { table: self.table_of(of)?.id };
        match self.on_session(|session| session.ask(request.clone()))? {
            Reply::LocalRange { start, end } => Ok(start..end),
            reply => Err(unexpected(&reply)),
        }
    }

    /// What comes behind the reply to a request with `payload` behind it.
    fn behind(&self, request: &Request, payload: &[u8]) -> Result<Vec<u8>, ClientError> {
        let delivery = self.on_session(|session| {
            let id = session.sender().send(request.clone(), payload, None, Vec::new())?;
            session.wait(id)
        })?;
        match delivery.reply {
            Reply::Translated => Ok(delivery.payload),
            reply => Err(unexpected(&reply)),
        }
    }
}

/// Runs of names that one call holds.
fn pieces<S: AsRef<str>>(names: &[S]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let (mut end, mut bytes) = (start, 0);
        while let Some(name) = names.get(end).filter(|_| end - start < PIECE_IDS) {
            bytes += name.as_ref().len() + 1;
            if bytes > PIECE_BYTES && end > start {
                break;
            }
            end += 1;
        }
        let piece = start..end;
        start = end;
        (!piece.is_empty()).then_some(piece)
    })
}

fn append(ids: &mut Vec<u64>, bytes: &[u8], count: usize) -> Result<(), ClientError> {
    if bytes.len() != count * size_of::<u64>() {
        return Err(other("another number of ids than was asked for"));
    }
    ids.extend(bytes.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().unwrap_or_default())));
    Ok(())
}

fn other(what: &str) -> ClientError {
    ClientError::Protocol(ProtocolError::Reply { reply: what.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_by_number_and_by_bytes() {
        let cut = |names: &[String]| pieces(names).collect::<Vec<_>>();
        assert_eq!(cut(&[]), []);
        assert_eq!(cut(&vec![String::new(); PIECE_IDS + 1]), [0..PIECE_IDS, PIECE_IDS..PIECE_IDS + 1]);
        let long = "x".repeat(PIECE_BYTES);
        assert_eq!(cut(&["a".into(), long.clone(), long, "b".into(), "c".into()]), [0..1, 1..2, 2..3, 3..5]);
    }
}
