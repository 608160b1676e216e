//! Who wants to know of the arenas of a client, for instance to pin them for a device. It owns when they are told: once
//! when an arena was mapped, and once before it is unmapped. It must never tell a fork of arenas that its parent made.

use super::Mapping;
use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

/// Called when the client maps an arena and before it unmaps one. The client may call in any thread, in the middle of a
/// fetch or while the last row of an arena is dropped. It holds no lock then that dropping rows takes. Do what is
/// needed and return; never call the client from here.
pub trait ArenaHooks: Send + Sync + Debug {
    /// An arena was mapped; nothing has been leased from it.
    fn created(&self, address: usize, bytes: usize);

    /// The arena at `address` is about to be unmapped: nobody leases from it, and no row in it is held any more.
    fn dropped(&self, address: usize);
}

/// An arena's mapping, and whoever wants to know of it.
#[derive(Debug)]
pub(crate) struct Watched {
    mapping: Mapping,
    hooks: Option<Arc<dyn ArenaHooks>>,
    /// The process that mapped it.
    pid: u32,
}

impl Watched {
    pub(super) fn new(mapping: Mapping, hooks: Option<Arc<dyn ArenaHooks>>) -> Self {
        Self { mapping, hooks, pid: std::process::id() }
    }

    /// Tells of the new arena. To be called once.
    pub(super) fn announce(&self) {
        if let Some(hooks) = &self.hooks {
            hooks.created(self.mapping.address(), self.mapping.bytes());
        }
    }
}

impl Deref for Watched {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        &self.mapping
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // The mapping itself goes after this.
        if let Some(hooks) = self.hooks.as_ref().filter(|_| self.pid == std::process::id()) {
            hooks.dropped(self.mapping.address());
        }
    }
}
