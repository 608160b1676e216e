//! What operators and the agent can change while the daemon serves: capacities, within what memory allows, and what is
//! held.

pub(crate) mod memory;
pub(crate) mod steward;
