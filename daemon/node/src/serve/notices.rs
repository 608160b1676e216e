//! What there is to say to a client of calls that are not answered. It owns the few words that wait for the next answer
//! of the connection, and must never hold more of them than its limit, however many calls go wrong.

use parking_lot::Mutex;
use rudder_client::{ErrorCode, Notice};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

/// Notices that wait for an answer to go with; the oldest go first.
const NOTICES_MAX: usize = 16;

/// The notices of one connection.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    waiting: Mutex<VecDeque<Notice>>,
    /// Whether anything waits, so that an answer with nothing to add costs one load.
    any: AtomicBool,
    other_order_said: AtomicBool,
}

impl Notices {
    /// Keeps what there is to say until the next answer.
    pub(crate) fn say(&self, code: ErrorCode, message: String) {
        let mut waiting = self.waiting.lock();
        if waiting.len() == NOTICES_MAX {
            waiting.pop_front();
        }
        waiting.push_back(Notice { code, message });
        self.any.store(true, Ordering::Release);
    }

    /// Says once that a batch of `table` was fetched with its ids in another order than announced.
    pub(crate) fn say_other_order(&self, table: &str) {
        if !self.other_order_said.swap(true, Ordering::Relaxed) {
            let message = format!(
                "a batch of table `{table}` was fetched with its ids in another order than it was announced: it is known \
                 all the same; fetch the ids as they were announced, or by the number of the batch (this is said once)"
            );
            self.say(ErrorCode::OtherOrder, message);
        }
    }

    /// What waits.
    pub(crate) fn take(&self) -> Vec<Notice> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        self.waiting.lock().drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_bounded_and_the_other_order_is_said_once() {
        let notices = Notices::default();
        assert!(notices.take().is_empty());
        (0..100).for_each(|i| notices.say(ErrorCode::Limit, i.to_string()));
        let taken = notices.take();
        assert_eq!((taken.len(), taken[0].message.as_str()), (NOTICES_MAX, "84"));
        assert!(notices.take().is_empty());
        (0..3).for_each(|_| notices.say_other_order("feat"));
        assert_eq!(notices.take().len(), 1);
    }
}
