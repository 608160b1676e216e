//! Truth under everything at once: 32 threads read self-checking rows on two nodes while their caches are grown,
//! shrunk, turned over, warmed and refreshed, and rows are updated from both sides. Every row read must be whole, the
//! row that was asked for, no newer than what was written, and no older than what its node had written or refreshed
//! before it was asked for.
//!
//! `RUDDER_CONSISTENCY_ROWS` says how many rows are read (30,000,000 takes some minutes), `RUDDER_CONSISTENCY_SEED`
//! which accesses are drawn; a failure names the seed.
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use rudder_client::Client;
use rudder_settings::Capacity;
use rudder_tests::{Cluster, WIDTH, row_of};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROWS: u64 = 20_000;
const NODES: usize = 2;
const READERS: usize = 32;
const BATCH_ROWS: usize = 512;
const ROWS_READ: u64 = 1_500_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn word(id: u64, version: u32, at: u32) -> u32 {
    (id as u32 ^ version.rotate_left(16)).wrapping_mul(2_654_435_761).wrapping_add(at.wrapping_mul(40_503))
}

/// Row `id` as its writer wrote it for the `version`-th time; version 0 is the dataset's.
fn row_at(id: u64, version: u32) -> Vec<u8> {
    if version == 0 {
        return row_of(id);
    }
    let words = [id as u32, version].into_iter().chain((2..WIDTH).map(|at| word(id, version, at)));
    words.flat_map(u32::to_le_bytes).collect()
}

/// The version of a row of `id`, if it is whole.
fn version_of(id: u64, row: &[u8]) -> Option<u32> {
    let at = |i: usize| u32::from_le_bytes(row[4 * i..4 * i + 4].try_into().unwrap());
    let written = at(0) == id as u32 && at(1) < 1 << 24 && at(1) > 0;
    if !written {
        return (row == row_of(id)).then_some(0);
    }
    let version = at(1);
    (2..WIDTH).all(|i| at(i as usize) == word(id, version, i)).then_some(version)
}

/// What is known of all rows.
struct Known {
    /// By id: versions that were begun to be written.
    begun: Vec<AtomicU32>,
    /// By id: versions whose writing has ended.
    written: Vec<AtomicU32>,
    /// By node and id: the oldest version that the node may still serve.
    floor: [Vec<AtomicU32>; NODES],
    read: AtomicU64,
    done: AtomicBool,
    wanted: u64,
    seed: u64,
}

fn zeros() -> Vec<AtomicU32> {
    (0..ROWS).map(|_| AtomicU32::new(0)).collect()
}

impl Known {
    fn goes_on(&self) -> bool {
        !self.done.load(Ordering::Relaxed) && self.read.load(Ordering::Relaxed) < self.wanted
    }

    fn read(&self, node: usize, client: &Client, random: &mut fastrand::Rng) {
        // Low ids are asked for more often.
        let ids: Vec<u64> = (0..BATCH_ROWS)
            .map(|_| {
                let (half, a, b) = (random.u64(0..2), random.u64(0..ROWS / 2), random.u64(0..ROWS / 2));
                half * ROWS / 2 + a.min(b)
            })
            .collect();
        let floors: Vec<u32> = ids.iter().map(|&id| self.floor[node][id as usize].load(Ordering::SeqCst)).collect();
        let rows = client.fetch("feat", &ids).unwrap();
        for (i, &id) in ids.iter().enumerate() {
            let newest = self.begun[id as usize].load(Ordering::SeqCst);
            let version = version_of(id, rows.row(i));
            let fits = version.is_some_and(|version| version >= floors[i] && version <= newest);
            if !fits {
                self.done.store(true, Ordering::Relaxed);
                panic!(
                    "node {node}: id {id} is {version:?}, not of versions {} to {newest} (seed {})",
                    floors[i], self.seed
                );
            }
        }
        self.read.fetch_add(BATCH_ROWS as u64, Ordering::Relaxed);
    }

    /// Each id has one node that writes it, so that its versions have an order.
    fn write(&self, node: usize, client: &Client, random: &mut fastrand::Rng) {
        let first = random.u64(0..ROWS - 64);
        let ids: Vec<u64> = (first..first + 64).filter(|id| *id as usize % NODES == node).collect();
        let versions: Vec<u32> =
            ids.iter().map(|&id| self.begun[id as usize].fetch_add(1, Ordering::SeqCst) + 1).collect();
        let rows: Vec<u8> = ids.iter().zip(&versions).flat_map(|(&id, &version)| row_at(id, version)).collect();
        client.update("feat", &ids, &rows).unwrap();
        for (&id, &version) in ids.iter().zip(&versions) {
            self.written[id as usize].store(version, Ordering::SeqCst);
            self.floor[node][id as usize].fetch_max(version, Ordering::SeqCst);
        }
    }

    fn refresh(&self, node: usize, client: &Client) {
        let before: Vec<u32> = self.written.iter().map(|version| version.load(Ordering::SeqCst)).collect();
        let answer = client.refresh(None, Some("feat")).unwrap();
        assert_eq!(answer["tables"][0]["unreachable"], serde_json::json!([]), "{answer}");
        for (floor, version) in self.floor[node].iter().zip(before) {
            floor.fetch_max(version, Ordering::SeqCst);
        }
    }

    fn steer(client: &Client, random: &mut fastrand::Rng) {
        let share = random.f64();
        match random.u32(0..5) {
            0 | 1 => drop(client.grow(Some(64 + (share * 6000.0) as u64), None, Some("feat")).unwrap()),
            2 => drop(client.evict(share.max(0.01), false, Some("feat")).unwrap()),
            3 => drop(client.evict(share.max(0.01), true, Some("feat")).unwrap()),
            _ => {
                let first = random.u64(0..ROWS - 500);
                drop(client.warm("feat", &(first..first + 500).collect::<Vec<u64>>()).unwrap());
            }
        }
    }
}

#[test]
fn every_row_is_whole_and_of_its_time_whatever_is_done_to_the_caches() {
    let cluster = Cluster::start(NODES as u16, ROWS, |config| {
        config.cache.capacity = Capacity::Rows(2_000);
        config.cache.steer.tool_wait_ms = 200;
    })
    .unwrap();
    let known = Known {
        begun: zeros(),
        written: zeros(),
        floor: [zeros(), zeros()],
        read: AtomicU64::new(0),
        done: AtomicBool::new(false),
        wanted: setting("RUDDER_CONSISTENCY_ROWS", ROWS_READ),
        seed: setting("RUDDER_CONSISTENCY_SEED", 1),
    };
    let begin = Instant::now();
    let run = |thread: u64, node: usize, pause: Duration, step: &dyn Fn(usize, &Client, &mut fastrand::Rng)| {
        let client = cluster.client(node).unwrap();
        let mut random = fastrand::Rng::with_seed(known.seed.wrapping_mul(1_000).wrapping_add(thread));
        while known.goes_on() {
            step(node, &client, &mut random);
            std::thread::sleep(pause);
        }
    };
    std::thread::scope(|scope| {
        let (run, known) = (&run, &known);
        for reader in 0..READERS {
            scope.spawn(move || {
                run(reader as u64, reader % NODES, Duration::ZERO, &|node, client, random| {
                    known.read(node, client, random);
                });
            });
        }
        for node in 0..NODES {
            let thread = 100 + 10 * node as u64;
            scope.spawn(move || {
                run(thread, node, Duration::from_millis(1), &|node, client, random| known.write(node, client, random));
            });
            scope.spawn(move || {
                run(thread + 1, node, Duration::from_millis(10), &|node, client, _| known.refresh(node, client));
            });
            scope.spawn(move || {
                run(thread + 2, node, Duration::from_millis(5), &|_, client, random| Known::steer(client, random));
            });
        }
    });
    let status: serde_json::Value = serde_json::from_str(&cluster.client(0).unwrap().status().unwrap()).unwrap();
    let (table, count) = (&status["tables"][0], |versions: &[AtomicU32]| -> u64 {
        versions.iter().map(|version| u64::from(version.load(Ordering::SeqCst))).sum()
    });
    eprintln!(
        "{} rows read in {:.1} s, {} rows written; node 0: {} cached, {} evicted, {} shrunk, {} repulled, wrong rows 0",
        known.read.load(Ordering::SeqCst),
        begin.elapsed().as_secs_f64(),
        count(&known.written),
        table["fetched"]["cache"],
        table["evicted_rows"],
        table["shrunk_rows"],
        table["versions"]["repulled_rows"],
    );
    for counted in ["/evicted_rows", "/shrunk_rows", "/versions/repulled_rows", "/fetched/cache"] {
        let number = table.pointer(counted).and_then(serde_json::Value::as_u64).unwrap_or_default();
        assert!(number > 100, "{counted} is {number}: too little to mean anything");
    }
}
