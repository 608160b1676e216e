//! The local side of a node: the socket that its trainers talk to and the connections on it. It owns the limits on what
//! a client may ask for.

pub(crate) mod calls;
pub(crate) mod checks;
pub(crate) mod connection;
pub(crate) mod parts;
pub(crate) mod receive;
pub(crate) mod replies;
pub(crate) mod socket;
pub(crate) mod translate;
