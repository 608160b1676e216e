//! Numbers for announced batches, of which no other process of the trainer draws the same. It owns a count and no lock,
//! so that a forked child can use it.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

/// Draws numbers: the upper half is this client's in this process, the lower half counts.
#[derive(Debug, Default)]
pub(crate) struct BatchNumbers {
    /// Drawn at random for this client.
    key: RandomState,
    next: AtomicU32,
}

impl BatchNumbers {
    pub(crate) fn draw(&self) -> u64 {
        // A fork has the same key and count, but another process number.
        self.of_process(std::process::id())
    }

    fn of_process(&self, pid: u32) -> u64 {
        self.key.hash_one(pid) << 32 | u64::from(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn processes_and_clients_draw_different_numbers() {
        let (one, other) = (BatchNumbers::default(), BatchNumbers::default());
        let mut drawn: Vec<u64> = (0..100).map(|_| one.draw()).collect();
        drawn.extend((0..100).map(|_| other.draw()));
        one.next.store(0, Ordering::Relaxed);
        drawn.extend((0..100).map(|_| one.of_process(std::process::id() + 1)));
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), 300);
    }
}
