//! The threads that read blocks, and the desk at which blocks are asked for. It owns the order of reads: one read per
//! block however many ask for it, at most `reads_max` reads at a time, and beside the kept blocks at most twice
//! `reads_max` blocks in memory. Whoever asks waits with a limit: a disk that hangs takes these threads and nobody
//! else's.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::error::ReadError;
use super::file::ShardFile;
use super::store::{Block, Key, Store};

/// What became of a block that was asked for.
pub(super) type Outcome = Result<Arc<Loan>, Arc<ReadError>>;

/// Blocks that may exist for each that may be read at a time: one is read while another is handed over.
const LOANS_PER_READER: usize = 2;

fn relock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One caller's pigeonhole: what came of the blocks it asked for.
#[derive(Default)]
pub(super) struct Ask {
    arrived: Mutex<Vec<(u64, Outcome)>>,
    bell: Condvar,
}

impl Ask {
    /// What has arrived, after waiting for something at most `timeout`; empty when nothing came.
    pub(super) fn wait(&self, timeout: Duration) -> Vec<(u64, Outcome)> {
        let arrived = self.bell.wait_timeout_while(relock(&self.arrived), timeout, |arrived| arrived.is_empty());
        let (mut arrived, _) = arrived.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *arrived)
    }

    fn put(&self, block: u64, outcome: Outcome) {
        relock(&self.arrived).push((block, outcome));
        self.bell.notify_one();
    }
}

/// A block on its way to those who asked for it; holds a permit until all of them have let it go.
pub(super) struct Loan {
    block: Arc<Block>,
    _permit: LoanPermit,
}

impl Loan {
    pub(super) fn bytes(&self) -> &[u8] {
        self.block.bytes()
    }
}

/// The right to hold one block beside the kept ones; dropping it gives it back.
struct LoanPermit(Arc<Desk>);

impl Drop for LoanPermit {
    fn drop(&mut self) {
        relock(&self.0.state).permits_taken -= 1;
        self.0.wake.notify_one();
    }
}

/// A block that somebody waits for.
struct Wait {
    file: Arc<ShardFile>,
    asks: Vec<Weak<Ask>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Key>,
    waits: HashMap<Key, Wait>,
    permits_taken: usize,
    is_closed: bool,
}

/// Where blocks are asked for.
struct Desk {
    state: Mutex<State>,
    wake: Condvar,
    permits: usize,
}

impl Desk {
    /// The next block to read, with a permit for it; `None` when the desk is closed. Blocks nobody waits for any more
    /// are passed over.
    fn next(self: &Arc<Self>) -> Option<(Key, Arc<ShardFile>, LoanPermit)> {
        let mut state = relock(&self.state);
        loop {
            if state.is_closed {
                return None;
            }
            let key = if state.permits_taken < self.permits { state.queue.pop_front() } else { None };
            let Some(key) = key else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let is_wanted = |wait: &Wait| wait.asks.iter().any(|ask| ask.strong_count() > 0);
            match state.waits.get(&key) {
                Some(wait) if is_wanted(wait) => {
                    let file = Arc::clone(&wait.file);
                    state.permits_taken += 1;
                    return Some((key, file, LoanPermit(Arc::clone(self))));
                }
                _ => state.waits.remove(&key),
            };
        }
    }

    /// Hands the outcome to all who asked for the block until now.
    fn deliver(&self, key: Key, outcome: &Outcome) {
        let wait = relock(&self.state).waits.remove(&key);
        for ask in wait.iter().flat_map(|wait| &wait.asks).filter_map(Weak::upgrade) {
            ask.put(key.1, outcome.clone());
        }
    }
}

/// The threads; they end when this is dropped, each after the read it is at.
pub(super) struct ReadThreads {
    desk: Arc<Desk>,
}

impl ReadThreads {
    /// Starts `reads_max` threads that read into `store`.
    pub(super) fn start(reads_max: usize, store: &Arc<Store>) -> io::Result<Self> {
        let permits = reads_max.saturating_mul(LOANS_PER_READER);
        let desk = Arc::new(Desk { state: Mutex::default(), wake: Condvar::new(), permits });
        let readers = Self { desk: Arc::clone(&desk) };
        for _ in 0..reads_max {
            let (desk, store) = (Arc::clone(&desk), Arc::clone(store));
            // Not joined: a thread may hang in a read of a disk that is gone.
            thread::Builder::new().name("rudder-read".to_owned()).spawn(move || read_blocks(&desk, &store))?;
        }
        Ok(readers)
    }

    /// Asks for a block of `file`; what comes of it goes to `ask`.
    pub(super) fn submit(&self, key: Key, file: &Arc<ShardFile>, ask: &Arc<Ask>) {
        let mut state = relock(&self.desk.state);
        if let Some(wait) = state.waits.get_mut(&key) {
            wait.asks.retain(|other| other.strong_count() > 0);
            wait.asks.push(Arc::downgrade(ask));
            return;
        }
        state.waits.insert(key, Wait { file: Arc::clone(file), asks: vec![Arc::downgrade(ask)] });
        state.queue.push_back(key);
        self.desk.wake.notify_one();
    }
}

#[cfg(test)]
impl ReadThreads {
    /// How many wait for a block.
    pub(super) fn waiting(&self, key: Key) -> usize {
        relock(&self.desk.state).waits.get(&key).map_or(0, |wait| wait.asks.len())
    }
}

impl Drop for ReadThreads {
    fn drop(&mut self) {
        relock(&self.desk.state).is_closed = true;
        self.desk.wake.notify_all();
    }
}

fn read_blocks(desk: &Arc<Desk>, store: &Store) {
    while let Some((key, file, permit)) = desk.next() {
        // It may have been read between the look for it and the asking.
        let block = match store.get_again(key) {
            Some(block) => Ok(block),
            None => read_block(key, &file, store),
        };
        let outcome = block.map(|block| Arc::new(Loan { block, _permit: permit })).map_err(Arc::new);
        desk.deliver(key, &outcome);
    }
}

fn read_block(key: Key, file: &ShardFile, store: &Store) -> Result<Arc<Block>, ReadError> {
    let begin = Instant::now();
    let mut block = Block::new(file.span(key.1).bytes, &store.ledger);
    file.read(key.1, block.bytes_mut())?;
    store.read_seconds.observe(begin.elapsed().as_secs_f64());
    let block = Arc::new(block);
    // Offered before those who wait get it: who asks after this finds it, and no second read begins.
    store.offer(key, &block);
    Ok(block)
}
