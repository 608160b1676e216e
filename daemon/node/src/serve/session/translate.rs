//! The ids of a client at the border: what comes in as original ids goes on as dataset ids, and calls that ask for the
//! other number or the name of a vertex are answered. It must never let an id of one kind pass for the other.

use crate::serve::base::{Base, blocking};
use crate::serve::error::RequestError;
use crate::serve::session::checks::Session;
use rudder_client::IdSpace;
use rudder_client::arena::Mapping;
use rudder_client::wire::{IdRun, Place};
use rudder_dataset::{IdError, Table, VertexIds, VertexNames};
use std::ops::Range;
use std::sync::Arc;

/// Where translated ids go.
pub(crate) enum Back {
    /// Over the ids that came.
    Arena(Arc<Mapping>, usize),
    /// Behind the reply.
    Inline,
}

impl Back {
    /// Hands `bytes` over, which are no more than the ids were; what goes behind the reply is answered.
    pub(crate) fn put(self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Arena(mapping, offset) => {
                mapping.write(offset, &bytes);
                Vec::new()
            }
            Self::Inline => bytes,
        }
    }
}

/// Ids as they go to a client.
pub(crate) fn bytes_of(ids: &[u64]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

impl Session {
    /// Puts dataset ids in the place of the ids of this connection.
    pub(crate) async fn to_dataset(&self, table: usize, ids: &mut [u64]) -> Result<(), RequestError> {
        if self.ids == IdSpace::Dataset {
            return Ok(());
        }
        let base = &self.local.engine.base;
        base.to_dataset(table, ids).await.map_err(|error| RequestError::of_ids(base.table(table), error))
    }

    /// Reads ids whose answers, `answer_bytes` each, take their place, and holds them against the limits.
    pub(crate) fn check_in_place(
        &self,
        run: &IdRun,
        answer_bytes: usize,
        payload: &[u8],
    ) -> Result<(Vec<u64>, Back), RequestError> {
        let ids = self.read_ids(run, payload)?;
        let back = match run.at {
            Place::Inline => Back::Inline,
            Place::Arena { .. } if answer_bytes > run.width.bytes() => {
                let problem = "answers in the place of ids that are not as wide";
                return Err(RequestError::Senseless(problem.to_owned()));
            }
            Place::Arena { arena, offset } => {
                let bytes = ids.len() * answer_bytes;
                Back::Arena(Arc::clone(self.arena(arena, offset, bytes, "answers")?), offset as usize)
            }
        };
        Ok((ids, back))
    }

    /// What vertices of a table are looked up with.
    pub(crate) fn vertices(&self, table: u16) -> Result<Vertices, RequestError> {
        let base = Arc::clone(&self.local.engine.base);
        let table = usize::from(self.table(table)?.id);
        Ok(Vertices { base, table, ids: self.ids, bytes_max: self.local.config.inline_bytes_max })
    }
}

/// The vertices of a table's type. Their files are asked away from the threads that serve: some wait for a disk.
pub(crate) struct Vertices {
    base: Arc<Base>,
    table: usize,
    /// The numbers of the connection.
    ids: IdSpace,
    /// Most bytes behind a reply.
    bytes_max: usize,
}

impl Vertices {
    /// The other number of each vertex.
    pub(crate) async fn translate(self, from: IdSpace, ids: Vec<u64>) -> Result<Vec<u64>, RequestError> {
        blocking(move || match from {
            IdSpace::Original => self.turn(ids, VertexIds::to_dataset),
            IdSpace::Dataset => self.turn(ids, VertexIds::to_original),
        })
        .await
    }

    /// The numbers of the nodes that own `ids`, which are in the numbers of the connection, as bytes.
    pub(crate) async fn owners(self, ids: Vec<u64>) -> Result<Vec<u8>, RequestError> {
        blocking(move || {
            let ids = if self.ids == IdSpace::Original { self.turn(ids, VertexIds::to_dataset)? } else { ids };
            let of = self.base.table(self.table);
            let mut owners = Vec::with_capacity(ids.len() * size_of::<u16>());
            for (at, &id) in ids.iter().enumerate() {
                let location = of.book.locate(id).ok_or_else(|| RequestError::out_of_range(of, at, id))?;
                owners.extend_from_slice(&location.part.0.to_le_bytes());
            }
            Ok(owners)
        })
        .await
    }

    /// The dataset ids that this node owns, where they are one range.
    pub(crate) fn local_range(&self) -> Result<Range<u64>, RequestError> {
        let (of, node) = (self.base.table(self.table), usize::from(self.base.dataset.node().0));
        let scattered = || {
            let vertex_type = &of.vertex_type;
            RequestError::Senseless(format!(
                "the vertices of type `{vertex_type}` that this node owns are not one range of ids: ask for their owners"
            ))
        };
        let starts = of.book.as_ranges().ok_or_else(scattered)?;
        match starts.get(node..=node + 1) {
            Some(&[start, end]) => Ok(start..end),
            _ => Err(RequestError::Internal("the book has no range for this node")),
        }
    }

    /// The ids of the vertices called `names`, which are `count` lines.
    pub(crate) async fn find(self, count: usize, names: Vec<u8>) -> Result<Vec<u64>, RequestError> {
        blocking(move || {
            let (of, found) = self.names()?;
            let text =
                std::str::from_utf8(&names).map_err(|error| RequestError::Senseless(format!("names: {error}")))?;
            if text.split_inclusive('\n').count() != count || !(text.is_empty() || text.ends_with('\n')) {
                return Err(RequestError::Senseless(format!("{count} names are announced, other lines came")));
            }
            let ids = text.lines().enumerate().map(|(at, name)| {
                let id = found.find(name).map_err(|error| RequestError::of_names(of, error))?;
                let unknown =
                    || RequestError::UnknownName { vertex_type: of.vertex_type.clone(), name: name.to_owned(), at };
                id.ok_or_else(unknown)
            });
            let ids = ids.collect::<Result<Vec<u64>, _>>()?;
            self.within(ids.len() * size_of::<u64>())?;
            if self.ids == IdSpace::Dataset { self.turn(ids, VertexIds::to_dataset) } else { Ok(ids) }
        })
        .await
    }

    /// The names of the vertices `ids`, a line each.
    pub(crate) async fn names_of(self, ids: Vec<u64>) -> Result<Vec<u8>, RequestError> {
        blocking(move || {
            let (of, names) = self.names()?;
            let ids = if self.ids == IdSpace::Dataset { self.turn(ids, VertexIds::to_original)? } else { ids };
            let mut lines = Vec::new();
            for (at, &id) in ids.iter().enumerate() {
                let name = names.name(at, id).map_err(|error| RequestError::of_names(of, error))?;
                lines.extend_from_slice(name.as_bytes());
                lines.push(b'\n');
                self.within(lines.len())?;
            }
            Ok(lines)
        })
        .await
    }

    fn names(&self) -> Result<(&Table, &VertexNames), RequestError> {
        let of = self.base.table(self.table);
        let names = of.names.as_deref();
        Ok((of, names.ok_or_else(|| RequestError::Unnamed { vertex_type: of.vertex_type.clone() })?))
    }

    /// Ids translated by `way`, or the same ids where vertices were not renumbered.
    fn turn(
        &self,
        mut ids: Vec<u64>,
        way: fn(&VertexIds, &mut [u64]) -> Result<(), IdError>,
    ) -> Result<Vec<u64>, RequestError> {
        let of = self.base.table(self.table);
        match &of.ids {
            Some(known) => {
                way(known, &mut ids).map_err(|error| RequestError::of_ids(of, error))?;
            }
            None => {
                if let Some(at) = ids.iter().position(|&id| id >= of.rows) {
                    return Err(RequestError::out_of_range(of, at, ids[at]));
                }
            }
        }
        Ok(ids)
    }

    fn within(&self, bytes: usize) -> Result<(), RequestError> {
        if bytes <= self.bytes_max {
            return Ok(());
        }
        let what = "ids or names of vertices in one reply".to_owned();
        Err(RequestError::Limit { what, key: "local.inline_bytes_max", limit: self.bytes_max as u64 })
    }
}
