//! How rows of other nodes are kept new: owners are asked what they have changed, and updates of this node's trainers
//! go out to them.

pub(crate) mod changes;
pub(crate) mod refresh;
pub(crate) mod restarts;
pub(crate) mod update;
