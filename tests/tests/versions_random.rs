//! Threads of three nodes update, refresh and fetch rows that tell whose and of which version they are, over their
//! whole width. No row is ever torn or older than it may be. A failure names its seed; `RUDDER_SEED` and
//! `RUDDER_SECONDS` set one run, `RUDDER_SEED=random` draws it.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::Client;
use rudder_daemon::config::Policy;
use rudder_settings::Capacity;
use rudder_tests::{Cluster, Fault, WIDTH};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const NODES: usize = 3;
const ROWS: u64 = 1_200;
/// Rows that are updated together, by one thread at a time, so that versions at the owner only grow.
const STRIPE_ROWS: u64 = 40;

/// A small generator, so that failures repeat.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What is known of versions, as far as it is certain.
struct Known {
    /// The next version of all.
    next: AtomicU64,
    /// Per row: the last version whose update has returned.
    done: Vec<AtomicU64>,
    /// Per node and row: a version that a fetch that begins now must not be older than.
    floors: Vec<Vec<AtomicU64>>,
    /// Per row: the last version that was sent.
    sent: Vec<AtomicU64>,
    stripes: Vec<Mutex<()>>,
    reads: AtomicU64,
    renewed: AtomicU64,
    writes: AtomicU64,
}

impl Known {
    fn new() -> Self {
        let zeros = || (0..ROWS).map(|_| AtomicU64::new(0)).collect();
        Self {
            next: AtomicU64::new(1),
            done: zeros(),
            floors: (0..NODES).map(|_| zeros()).collect(),
            sent: zeros(),
            stripes: (0..ROWS / STRIPE_ROWS).map(|_| Mutex::new(())).collect(),
            reads: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }
}

/// Row `id` of a version: each element holds a piece of both, exactly, as 24 bits of a float.
fn row_of(id: u64, version: u64) -> Vec<u8> {
    let pieces = [id, version & 0xff_ffff, version >> 24];
    (0..WIDTH as usize).flat_map(|at| (pieces[at % 3] as f32).to_le_bytes()).collect()
}

/// The version of a row, which must be whole.
fn version_of(id: u64, bytes: &[u8]) -> Result<u64, Fault> {
    let piece = |at: usize| f32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap()) as u64;
    let version = piece(1) | piece(2) << 24;
    // As it is in the dataset, before the first update.
    if bytes == rudder_tests::row_of(id) {
        return Ok(0);
    }
    if bytes == row_of(id, version) { Ok(version) } else { Err(format!("row {id} is torn: {bytes:?}").into()) }
}

fn owner(id: u64) -> usize {
    (id * NODES as u64 / ROWS) as usize
}

fn fetch(known: &Known, node: usize, client: &Client, numbers: &mut Numbers) -> Result<(), Fault> {
    // Some of all, or many of a few, which are cached.
    let (count, span) = if numbers.below(2) == 0 { (100, ROWS) } else { (200, 60) };
    let first = numbers.below(ROWS - span + 1);
    let ids: Vec<u64> = (0..count).map(|_| first + numbers.below(span)).collect();
    let floor = |id: u64| {
        let known_here = known.floors[node][id as usize].load(Ordering::SeqCst);
        let at_owner = if owner(id) == node { known.done[id as usize].load(Ordering::SeqCst) } else { 0 };
        known_here.max(at_owner)
    };
    let floors: Vec<u64> = ids.iter().map(|&id| floor(id)).collect();
    let rows = client.fetch("feat", &ids)?;
    for (i, (&id, floor)) in ids.iter().zip(floors).enumerate() {
        let version = version_of(id, rows.row(i))?;
        let sent = known.sent[id as usize].load(Ordering::SeqCst);
        if version < floor || version > sent {
            let sources = rows.sources();
            return Err(
                format!("row {id} on node {node} has version {version}, not {floor} to {sent} ({sources:?})").into()
            );
        }
    }
    known.reads.fetch_add(ids.len() as u64, Ordering::Relaxed);
    Ok(())
}

fn update(known: &Known, node: usize, client: &Client, numbers: &mut Numbers) -> Result<(), Fault> {
    let stripe = numbers.below(known.stripes.len() as u64);
    let _turn = known.stripes[stripe as usize].lock().unwrap_or_else(PoisonError::into_inner);
    let version = known.next.fetch_add(1, Ordering::SeqCst);
    let mut ids: Vec<u64> = (0..=numbers.below(STRIPE_ROWS)).map(|i| stripe * STRIPE_ROWS + i).collect();
    // Both the order and repetitions must not matter.
    let turn = numbers.below(ids.len() as u64) as usize;
    ids.rotate_left(turn);
    ids.push(ids[0]);
    ids.iter().for_each(|&id| known.sent[id as usize].store(version, Ordering::SeqCst));
    let rows: Vec<u8> = ids.iter().flat_map(|&id| row_of(id, version)).collect();
    client.update("feat", &ids, &rows)?;
    for id in ids {
        known.done[id as usize].fetch_max(version, Ordering::SeqCst);
        known.floors[node][id as usize].fetch_max(version, Ordering::SeqCst);
    }
    known.writes.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn refresh(known: &Known, node: usize, client: &Client) -> Result<(), Fault> {
    let before: Vec<u64> = known.done.iter().map(|done| done.load(Ordering::SeqCst)).collect();
    let answer = client.refresh(None, Some("feat"))?;
    for (floor, done) in known.floors[node].iter().zip(before) {
        floor.fetch_max(done, Ordering::SeqCst);
    }
    known.renewed.fetch_add(answer["tables"][0]["repulled_rows"].as_u64().unwrap_or(0), Ordering::Relaxed);
    Ok(())
}

fn run(seed: u64, policy: Policy, duration: Duration) {
    let cluster = Cluster::start(NODES as u16, ROWS, |config| {
        config.cache.policy = policy;
        config.cache.capacity = Capacity::Share(0.3);
        // Beside those that are asked for.
        config.cache.staleness_max_ms = if seed.is_multiple_of(2) { 0 } else { 60 };
        config.peers.request_rows_max = 16;
    })
    .unwrap();
    let known = Known::new();
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..9u64 {
            let (cluster, known, stop) = (&cluster, &known, &stop);
            scope.spawn(move || {
                let mut numbers = Numbers(seed * 1_000 + thread);
                let node = thread as usize % NODES;
                let client = cluster.client(node).unwrap();
                while !stop.load(Ordering::Relaxed) && begin.elapsed() < duration {
                    let done = match numbers.below(8) {
                        0 | 1 => update(known, node, &client, &mut numbers),
                        2 => refresh(known, node, &client),
                        _ => fetch(known, node, &client, &mut numbers),
                    };
                    if let Err(fault) = done {
                        stop.store(true, Ordering::Relaxed);
                        panic!("seed {seed}, policy {policy}, node {node}: {fault}");
                    }
                }
            });
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (reads, writes, renewed) = (count(&known.reads), count(&known.writes), count(&known.renewed));
    eprintln!("seed {seed}, policy {policy}: {reads} rows read, {writes} updates, {renewed} rows renewed");
    assert!(reads > 1_000 && writes > 10 && renewed > 10, "seed {seed}: nothing was tested");
}

#[test]
fn rows_are_never_torn_nor_older_than_they_may_be() {
    let seconds = std::env::var("RUDDER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let seeds = match std::env::var("RUDDER_SEED").ok().as_deref() {
        None => vec![1, 2, 3, 4],
        Some("random") => vec![u64::from(std::process::id()) * 7_919 % 1_000_003],
        Some(seed) => vec![seed.parse().unwrap()],
    };
    for seed in seeds {
        let policy = [Policy::Epoch, Policy::Lru][(seed / 2 % 2) as usize];
        run(seed, policy, Duration::from_secs(seconds));
    }
}
