//! Blocks from a source that counts, delays, fails or hangs: every row is the right one, every bound holds.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Condvar, Mutex};
use std::thread;

use super::*;

/// Bytes before the first row, as a header would be.
const HEADER: usize = 77;

/// A file in memory that notes each read.
#[derive(Default)]
struct Tape {
    bytes: Mutex<Vec<u8>>,
    reads: Mutex<Vec<(u64, usize)>>,
    reading: AtomicUsize,
    reading_max: AtomicUsize,
    /// Reads wait while this is true.
    is_stuck: Mutex<bool>,
    moved: Condvar,
    pause: Duration,
    fails: Mutex<Option<io::ErrorKind>>,
}

impl Tape {
    fn of(rows: u64, row_bytes: usize) -> Self {
        let rows = (0..rows).flat_map(|row| (0..row_bytes).map(move |at| byte(row, at)));
        Self { bytes: Mutex::new(vec![0xEE; HEADER].into_iter().chain(rows).collect()), ..Self::default() }
    }

    fn stick(&self, is_stuck: bool) {
        *self.is_stuck.lock().unwrap() = is_stuck;
        self.moved.notify_all();
    }

    fn reads(&self) -> usize {
        self.reads.lock().unwrap().len()
    }
}

impl ReadAt for Arc<Tape> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let reading = self.reading.fetch_add(1, Ordering::SeqCst) + 1;
        self.reading_max.fetch_max(reading, Ordering::SeqCst);
        self.reads.lock().unwrap().push((offset, into.len()));
        drop(self.moved.wait_while(self.is_stuck.lock().unwrap(), |is_stuck| *is_stuck).unwrap());
        thread::sleep(self.pause);
        self.reading.fetch_sub(1, Ordering::SeqCst);
        if let Some(kind) = *self.fails.lock().unwrap() {
            return Err(kind.into());
        }
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        // No more than a piece at once, as the kernel may.
        let read = into.len().min(rest.len()).min(3000);
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

/// What byte `at` of row `row` is.
fn byte(row: u64, at: usize) -> u8 {
    (row.wrapping_mul(31) ^ (row >> 8) ^ at as u64) as u8
}

fn settings() -> BlockSettings {
    BlockSettings { block_bytes: 4096, cache_bytes: 2 << 20, reads_max: 4, read_timeout_ms: 20_000 }
}

fn shard(settings: BlockSettings, tape: Tape, rows: u64, row_bytes: usize) -> (BlockShard, Arc<Tape>) {
    let cache = BlockCache::new(settings).unwrap();
    let tape = Arc::new(tape);
    (over(&cache, 0, &tape, rows, row_bytes).unwrap(), tape)
}

fn over(
    cache: &Arc<BlockCache>,
    table: u16,
    tape: &Arc<Tape>,
    rows: u64,
    row_bytes: usize,
) -> Result<BlockShard, DatasetError> {
    let layout = Layout { table, path: Path::new("part0.npy"), data_offset: HEADER as u64, rows, row_bytes };
    BlockShard::over(cache, &layout, Box::new(Arc::clone(tape)))
}

/// Fetches rows as the daemon does, and checks each; how many were resident.
fn fetch(shard: &BlockShard, rows: &[u64]) -> Result<usize, Arc<ReadError>> {
    let row_bytes = shard.file.row_bytes;
    let mut wanted: Vec<WantedRow> =
        (0u32..).zip(rows).map(|(at, &row)| WantedRow { row: LocalRow(row), at }).collect();
    wanted.sort_unstable();
    let mut got = vec![Vec::new(); rows.len()];
    let mut absent = Vec::new();
    shard.take_resident(
        &wanted,
        &mut absent,
        |row| assert_eq!(row.len(), row_bytes),
        |at, row| got[at as usize] = row.to_vec(),
    );
    shard.read(&absent, |at, row| got[at as usize] = row.to_vec())?;
    for (got, &row) in got.iter().zip(rows) {
        assert_eq!(*got, (0..row_bytes).map(|at| byte(row, at)).collect::<Vec<u8>>(), "row {row}");
    }
    Ok(rows.len() - absent.len())
}

fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn every_row_of_every_shape_is_right() {
    for row_bytes in [1, 12, 1000, 4096, 4097, 20_000] {
        for rows in [0, 1, 3, 4, 5, 64] {
            let (shard, tape) = shard(settings(), Tape::of(rows, row_bytes), rows, row_bytes);
            let all: Vec<u64> = (0..rows).rev().chain(0..rows.min(2)).collect();
            assert_eq!(fetch(&shard, &all).unwrap(), 0);
            let reads = tape.reads();
            assert_eq!(fetch(&shard, &all).unwrap(), all.len(), "{rows} rows of {row_bytes} bytes are not kept");
            assert_eq!(tape.reads(), reads);
            let blocks = rows.div_ceil((4096 / row_bytes as u64).max(1));
            let status = shard.status();
            assert_eq!((status.reads, status.read_bytes), (blocks, rows * row_bytes as u64));
            assert_eq!((status.awaited_rows, status.resident_rows), (all.len() as u64, all.len() as u64));
            let kept = shard.cache.status();
            assert_eq!((kept.cached_blocks, kept.cached_bytes), (blocks, rows * row_bytes as u64));
        }
    }
}

#[test]
fn a_block_that_many_ask_for_is_read_once() {
    const CALLERS: usize = 32;
    let (shard, tape) = shard(settings(), Tape::of(100, 40), 100, 40);
    tape.stick(true);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| fetch(&shard, &[7, 8]).unwrap())).collect();
        // Until all of them wait for it.
        let waiting = || shard.cache.readers.waiting((0, 0));
        while waiting() < CALLERS {
            assert!(!callers.iter().any(thread::ScopedJoinHandle::is_finished));
            thread::yield_now();
        }
        tape.stick(false);
    });
    // One that had looked in vain before the read ended, and asks after it.
    shard.read(&[WantedRow { row: LocalRow(9), at: 0 }], |_, row| assert_eq!(row[3], byte(9, 3))).unwrap();
    assert_eq!((tape.reads().div_ceil(2), shard.status().reads), (1, 1), "{:?}", tape.reads);
}

#[test]
fn no_more_than_the_bound_is_in_memory() {
    let settings = BlockSettings { cache_bytes: 40 << 10, ..settings() };
    let (rows, threads) = (4000, 8);
    let cache = BlockCache::new(settings).unwrap();
    let tapes = [Arc::new(Tape::of(rows, 100)), Arc::new(Tape::of(rows, 36))];
    let shards = [over(&cache, 0, &tapes[0], rows, 100).unwrap(), over(&cache, 1, &tapes[1], rows, 36).unwrap()];
    thread::scope(|scope| {
        for thread in 0..threads {
            let shards = &shards;
            scope.spawn(move || {
                let mut number = numbers(thread);
                for round in 0..200 {
                    // Some rows are asked for more often than others.
                    let ids: Vec<u64> = (0..number(60)).map(|_| number(rows).min(number(rows))).collect();
                    fetch(&shards[round % 2], &ids).unwrap();
                }
            });
        }
    });
    // A reader lets go of its last block a moment after it was handed over.
    let end = Instant::now() + Duration::from_secs(5);
    while cache.status().held_bytes != cache.status().cached_bytes && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    let status = cache.status();
    // Beside the kept ones: two per reader, and those that each thread copies from.
    let in_flight = (2 * settings.reads_max as u64 + (BLOCKS_AHEAD as u64 + 1) * threads) * settings.block_bytes as u64;
    assert!(status.cached_bytes <= settings.cache_bytes, "{status:?}");
    assert!(status.held_bytes_max <= settings.cache_bytes + in_flight, "{status:?}");
    assert!(status.evicted_blocks > 100, "{status:?}");
    assert_eq!(status.held_bytes, status.cached_bytes, "blocks that were let go are still in memory: {status:?}");
    assert!(shards.iter().all(|shard| shard.status().resident_rows > 0), "nothing is ever found in memory");
}

#[test]
fn reads_at_a_time_are_bounded() {
    let tape = Tape { pause: Duration::from_millis(2), ..Tape::of(1000, 2000) };
    let (shard, tape) = shard(settings(), tape, 1000, 2000);
    thread::scope(|scope| {
        for thread in 0..8 {
            let shard = &shard;
            let ids: Vec<u64> = (0..100).map(|at| (at * 8 + thread) % 1000).collect();
            scope.spawn(move || fetch(shard, &ids).unwrap());
        }
    });
    assert_eq!(tape.reading_max.load(Ordering::SeqCst), 4);
}

#[test]
fn a_file_that_shrank_or_fails_is_an_error_that_names_the_place() {
    let (shard, tape) = shard(settings(), Tape::of(200, 100), 200, 100);
    fetch(&shard, &[0]).unwrap();
    let whole = tape.bytes.lock().unwrap().clone();
    tape.bytes.lock().unwrap().truncate(HEADER + 100 * 100);
    let error = fetch(&shard, &[0, 99, 3]).unwrap_err();
    assert!(matches!(*error, ReadError::Shrunk { offset: 8077, bytes: 4000, found: 2000, .. }), "{error:?}");
    assert!(error.to_string().starts_with("part0.npy: cannot read 4000 bytes at offset 8077"), "{error}");
    // What is in memory and what lies before the end is served on.
    assert_eq!(fetch(&shard, &[0, 39]).unwrap(), 2);
    fetch(&shard, &[40, 79]).unwrap();
    tape.bytes.lock().unwrap().clone_from(&whole);
    *tape.fails.lock().unwrap() = Some(io::ErrorKind::PermissionDenied);
    let error = fetch(&shard, &[199]).unwrap_err();
    assert!(matches!(*error, ReadError::Io { .. }) && error.to_string().contains("permission denied"), "{error}");
    *tape.fails.lock().unwrap() = None;
    fetch(&shard, &(0..200).collect::<Vec<u64>>()).unwrap();
    assert_eq!(shard.status().read_errors, 2);
}

#[test]
fn a_disk_that_hangs_costs_the_time_out_and_no_read_is_made_for_nobody() {
    let settings = BlockSettings { reads_max: 1, read_timeout_ms: 60, ..settings() };
    let (shard, tape) = shard(settings, Tape::of(1000, 100), 1000, 100);
    tape.stick(true);
    for _ in 0..3 {
        let error = fetch(&shard, &[0, 500, 999]).unwrap_err();
        assert!(matches!(*error, ReadError::Timeout { timeout_ms: 60, .. }), "{error}");
        let error = fetch(&shard, &[300]).unwrap_err();
        assert!(error.to_string().contains("28077 were not read within 60 ms (dataset.read_timeout_ms)"), "{error}");
    }
    tape.stick(false);
    fetch(&shard, &[700]).unwrap();
    let offsets: Vec<u64> = tape.reads.lock().unwrap().iter().map(|read| read.0).collect();
    assert!(offsets.iter().all(|&offset| offset < 4000 || (68_000..72_100).contains(&offset)), "{offsets:?}");
}

#[test]
fn threads_end_with_their_cache() {
    let (shard, _tape) = shard(settings(), Tape::of(100, 100), 100, 100);
    fetch(&shard, &[1]).unwrap();
    let store = Arc::downgrade(&shard.cache.store);
    drop(shard);
    let begin = Instant::now();
    while store.strong_count() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(10), "the readers go on without a cache");
        thread::yield_now();
    }
}

#[test]
fn a_block_that_does_not_fit_is_refused() {
    let settings = BlockSettings { cache_bytes: 8192, ..settings() };
    let cache = BlockCache::new(settings).unwrap();
    let error = over(&cache, 0, &Arc::new(Tape::of(2, 9000)), 2, 9000).unwrap_err().to_string();
    assert!(error.contains("dataset.block_cache_bytes = 8192") && error.contains("9000 bytes"), "{error}");
    assert!(over(&cache, 0, &Arc::new(Tape::of(2, 8192)), 2, 8192).is_ok());
}
