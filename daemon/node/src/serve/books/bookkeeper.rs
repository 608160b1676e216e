//! The thread that keeps the books of one table. It owns the table's announcements, and is the only one to tell the
//! cache of accesses, ticks, announcements and rows that nobody waits for: in the order of the queue, one at a time. It
//! must never be waited for by a fetch.

use crate::serve::base::Base;
use crate::serve::books::announcements::{Announcements, LookaheadState};
use crate::serve::books::batches::Batches;
use crate::serve::books::desk::{Account, Arrival, Desk, Entry, Intent, Next, Offer, mark_of};
use crate::serve::books::distinct::Distinct;
use crate::serve::books::supply::bring_in;
use crate::serve::error::RequestError;
use crate::serve::requests::request_rows;
use crate::serve::table::TableState;
use crate::serve::table::reason::Reason;
use parking_lot::Mutex;
use rudder_core::cache::Fill;
use rudder_core::lookahead::{Announcement, Settings};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bounds on the time between two looks for announcements that are too old.
const EXPIRE_EVERY_MIN: Duration = Duration::from_millis(10);
const EXPIRE_EVERY_MAX: Duration = Duration::from_secs(1);

/// The books of all tables. Their threads end when it is dropped, or by [`Books::end`].
#[derive(Debug)]
pub(crate) struct Books {
    desks: Vec<Arc<Desk>>,
    states: Vec<Arc<Mutex<LookaheadState>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Books {
    /// Starts one bookkeeper per table.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub(crate) fn start(base: &Arc<Base>, settings: Settings, batches: &Arc<Batches>) -> io::Result<Self> {
        let mut books = Self { desks: Vec::new(), states: Vec::new(), threads: Mutex::default() };
        for table in 0..base.tables.len() {
            let bookkeeper = Bookkeeper::new(Arc::clone(base), table, settings, Arc::clone(batches));
            books.desks.push(Arc::clone(&bookkeeper.desk));
            books.states.push(Arc::clone(&bookkeeper.state));
            let name = format!("rudder-books-{table}");
            let thread = std::thread::Builder::new().name(name).spawn(move || bookkeeper.run())?;
            books.threads.lock().push(thread);
        }
        Ok(books)
    }

    /// The queue of table number `table`.
    pub(crate) fn desk(&self, table: usize) -> &Arc<Desk> {
        &self.desks[table]
    }

    /// All queues, in the order of the tables.
    pub(crate) fn desks(&self) -> &[Arc<Desk>] {
        &self.desks
    }

    /// What lookahead did for table number `table`.
    pub(crate) fn lookahead(&self, table: usize) -> LookaheadState {
        *self.states[table].lock()
    }

    /// Ends the bookkeepers and waits for them: each ends the entry that it is at.
    pub(crate) fn end(&self) {
        self.desks.iter().for_each(|desk| desk.close());
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // Its panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.desks.iter().for_each(|desk| desk.close());
    }
}

struct Bookkeeper {
    base: Arc<Base>,
    table: usize,
    desk: Arc<Desk>,
    announcements: Announcements,
    /// Of all tables; each bookkeeper sees to it that they end in time.
    batches: Arc<Batches>,
    state: Arc<Mutex<LookaheadState>>,
    expire_every: Duration,
    distinct: Distinct,
}

/// Closes the queue when its bookkeeper ends, for whatever reason: nobody waits for a place that will never be free.
struct Closing {
    desk: Arc<Desk>,
    table: String,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                table = self.table,
                "the bookkeeping of a table ended by a defect: its cache learns no more"
            );
        }
        self.desk.close();
    }
}

impl Bookkeeper {
    fn new(base: Arc<Base>, table: usize, settings: Settings, batches: Arc<Batches>) -> Self {
        let announcements = Announcements::new(settings);
        let state = Arc::new(Mutex::new(announcements.state(base.tables[table].cache.capacity_rows())));
        let expire_every = Duration::from_millis(settings.expire_ms / 4).clamp(EXPIRE_EVERY_MIN, EXPIRE_EVERY_MAX);
        let distinct = Distinct::new(base.table(table).rows);
        Self { base, table, desk: Arc::default(), announcements, batches, state, expire_every, distinct }
    }

    fn run(mut self) {
        let _closing = Closing { desk: Arc::clone(&self.desk), table: self.base.name(self.table).to_owned() };
        let mut expire_at = Instant::now() + self.expire_every;
        loop {
            match self.desk.next(expire_at) {
                Next::Entry(entry, _place) => {
                    let concerns_lookahead = entry.concerns_lookahead();
                    self.work_off(entry);
                    if concerns_lookahead {
                        self.publish();
                    }
                }
                Next::TimeIsUp => {}
                Next::Closed => return,
            }
            if Instant::now() >= expire_at {
                self.announcements.expire(&self.base.tables[self.table].cache, self.base.now_ms());
                self.batches.expire(self.base.now_ms());
                self.publish();
                expire_at = Instant::now() + self.expire_every;
            }
        }
    }

    fn work_off(&mut self, entry: Entry) {
        let now_ms = self.base.now_ms();
        let cache = &self.base.tables[self.table].cache;
        match entry {
            Entry::Account(account) => self.account(account),
            Entry::Offer(Offer { ids, claim, fill, filled }) => {
                let rows = cache.fill(&ids, |i| claim.fresh_row(i), fill);
                drop(claim);
                // Who asked may be gone.
                let _ = filled.send(rows);
            }
            Entry::Announce(intent) => self.announce(intent, now_ms),
            Entry::Tick(clock) => cache.tick(clock),
            Entry::Leave(trainer) => self.announcements.leave(cache, trainer),
            Entry::Arrive(Arrival { ticket, trainer, named, notices }) => {
                if self.announcements.arrive(cache, ticket, trainer, named, now_ms) {
                    notices.say_other_order(self.base.name(self.table));
                }
            }
            Entry::Abandon { ticket } => self.announcements.abandon(cache, ticket),
        }
    }

    /// Takes an announcement, and asks for what is wanted next.
    fn announce(&mut self, Intent { trainer, batch, step, ids, taken }: Intent, now_ms: u64) {
        let cache = &self.base.tables[self.table].cache;
        let outcome = self.base.remote_ids(self.table, &ids).and_then(|remote| {
            let announcement = Announcement { batch, step, mark: mark_of(&ids), ids: remote };
            self.announcements.announce(cache, trainer, announcement, now_ms).map_err(RequestError::Announce)
        });
        drop(ids);
        let is_taken = outcome.is_ok();
        self.publish();
        // Who announced may be gone.
        let _ = taken.send(outcome);
        if is_taken {
            self.prefetch();
        }
    }

    /// Tells the cache of a fetch, offers it the rows, and asks for what is wanted next.
    fn account(&mut self, account: Account) {
        let Account { hits, missed, claim, ticket, waited_rows } = account;
        let TableState { cache, stats, .. } = &self.base.tables[self.table];
        let batch = ticket.and_then(|ticket| self.announcements.take(ticket.redeem()));
        let wanted = cache.record(&self.distinct.of(hits), &missed, |i| claim.fresh_row(i), batch);
        drop(claim);
        if let Some(batch) = batch {
            stats.late_rows.fetch_add(waited_rows, Ordering::Relaxed);
            self.announcements.unstage(batch);
            self.prefetch();
        }
        if !wanted.is_empty() {
            let (base, desk, table) = (Arc::clone(&self.base), Arc::clone(&self.desk), self.table);
            let bring_in = async move { bring_in(&base, &desk, table, wanted, Reason::Policy, Fill::Policy).await };
            self.base.network.spawn(bring_in);
        }
    }

    /// Asks for what the next batches lack, as the budget allows.
    fn prefetch(&mut self) {
        let TableState { cache, flights, .. } = &self.base.tables[self.table];
        for prefetch in self.announcements.plan(cache, |ids| flights.absent(&ids)) {
            let rows = self.base.with_owners(self.table, &prefetch.ids);
            let claim = request_rows(&self.base, self.table, &rows, Reason::Lookahead.into());
            self.announcements.stage(prefetch.batch, claim);
        }
    }

    /// Lets others see how things stand.
    fn publish(&self) {
        let capacity = self.base.tables[self.table].cache.capacity_rows();
        *self.state.lock() = self.announcements.state(capacity);
        self.desk.note_expecting(|trainer| self.announcements.expects(trainer));
    }
}
