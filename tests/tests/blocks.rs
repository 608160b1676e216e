//! Shards read by blocks, through whole nodes: right rows under a cache far smaller than the shard, bounds that hold,
//! and errors in place of signals when a file shrinks.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ClientError, DType, ErrorCode, Rows};
use rudder_daemon::config::{Access, Config, Verify};
use rudder_daemon::daemon::Daemon;
use rudder_import::{BookSpec, DatasetWriter, Existing, Part};
use rudder_tests::{Cluster, WIDTH, assert_rows, label_of, row_of};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const ROWS: u64 = 120_000;
const BLOCK_BYTES: u64 = 8 << 10;
const CACHE_BYTES: u64 = 512 << 10;
const READS_MAX: u64 = 4;

fn by_blocks(config: &mut Config) {
    config.dataset.access = Access::Blocks;
    config.dataset.blocks.block_bytes = BLOCK_BYTES as usize;
    config.dataset.blocks.cache_bytes = CACHE_BYTES;
    config.dataset.blocks.reads_max = READS_MAX as usize;
}

fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

fn shard_file(cluster: &Cluster, part: u16) -> PathBuf {
    cluster.dir().join(format!("data/tables/feat/part{part}.npy"))
}

/// The state of a node's block cache, after a look at its bounds.
fn blocks_of(cluster: &Cluster, node: usize) -> serde_json::Value {
    let status = cluster.nodes[node].as_ref().unwrap().status();
    let blocks = status["blocks"].clone();
    let number = |key: &str| blocks[key].as_u64().unwrap();
    assert_eq!(number("capacity_bytes"), CACHE_BYTES);
    assert!(number("cached_bytes") <= CACHE_BYTES, "{blocks}");
    // Beside the kept ones: two per read at a time, and five that each of a few threads copies from.
    let in_flight = (2 * READS_MAX + 5 * 6) * BLOCK_BYTES;
    assert!(number("held_bytes_max") <= CACHE_BYTES + in_flight, "{blocks}");
    assert!(status["memory"]["block_cache_bytes"].as_u64().unwrap() <= number("held_bytes_max"), "{status}");
    blocks
}

#[test]
fn a_shard_far_larger_than_its_cache_serves_trainers_and_peers() {
    let cluster = Cluster::start(2, ROWS, by_blocks).unwrap();
    let shard_bytes = fs::metadata(shard_file(&cluster, 0)).unwrap().len();
    assert!(shard_bytes > 15 * CACHE_BYTES, "the shard has {shard_bytes} bytes only");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let trainers: Vec<_> = (0..8)
            .map(|thread| {
                let client = cluster.client(thread % 2).unwrap();
                scope.spawn(move || {
                    let mut number = numbers(thread as u64);
                    for step in 0..40 {
                        let ids: Vec<u64> = (0..number(600)).map(|_| number(ROWS)).collect();
                        if step % 3 == 0 {
                            client.announce("feat", &ids, step).unwrap();
                        }
                        let rows = client.fetch("feat", &ids).unwrap();
                        assert_rows(&rows, &ids);
                        let sources = rows.sources();
                        assert_eq!(sources.local + sources.cache + sources.staged + sources.peer, ids.len() as u64);
                        let labels = client.fetch("label", &ids[..ids.len().min(9)]).unwrap();
                        let expected: Vec<i64> = ids.iter().take(9).map(|&id| label_of(id)).collect();
                        assert_eq!(labels.as_slice::<i64>().unwrap(), expected);
                    }
                })
            })
            .collect();
        let watch = scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                (0..2).for_each(|node| drop(blocks_of(&cluster, node)));
            }
        });
        let outcomes: Vec<_> = trainers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_done.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    for node in 0..2 {
        assert!(blocks_of(&cluster, node)["evicted_blocks"].as_u64().unwrap() > 1000);
    }
    // One large fetch, over several gather threads, of more blocks than the cache holds.
    let ids: Vec<u64> = (0..ROWS).step_by(2).collect();
    assert_rows(&cluster.client(0).unwrap().fetch("feat", &ids).unwrap(), &ids);
    blocks_of(&cluster, 0);
    let status = cluster.nodes[0].as_ref().unwrap().status();
    let feat = &status["tables"][0]["blocks"];
    assert!(feat["resident_rows"].as_u64().unwrap() > 1000 && feat["awaited_rows"].as_u64().unwrap() > 1000, "{feat}");
}

#[test]
fn nothing_that_is_served_is_mapped() {
    let cluster = Cluster::start(2, 2000, by_blocks).unwrap();
    let ids: Vec<u64> = (0..2000).collect();
    assert_rows(&cluster.client(0).unwrap().fetch("feat", &ids).unwrap(), &ids);
    let data = cluster.dir().join("data");
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mapped: Vec<&str> = maps.lines().filter(|line| line.contains(data.to_str().unwrap())).collect();
    assert!(mapped.is_empty(), "{mapped:?}");
}

#[test]
fn the_metrics_count_blocks() {
    let cluster = Cluster::start(1, 2000, by_blocks).unwrap();
    let client = cluster.client(0).unwrap();
    for _ in 0..2 {
        client.fetch("feat", &(0..2000).collect::<Vec<_>>()).unwrap();
    }
    let collectors = cluster.nodes[0].as_ref().unwrap().collectors();
    let families: Vec<_> = collectors.iter().flat_map(|collector| collector.collect()).collect();
    let family = |name: &str| families.iter().find(|family| family.name() == name).unwrap();
    let rows_by_source = family("rudder_block_rows_total").get_metric();
    let rows_of = |wanted: [&str; 2]| {
        let metric = rows_by_source.iter().find(|metric| {
            let [source, table] = metric.get_label() else { return false };
            [source.value(), table.value()] == wanted
        });
        metric.unwrap().get_counter().get_value()
    };
    assert_eq!((rows_of(["awaited", "feat"]), rows_of(["resident", "feat"])), (2000.0, 2000.0));
    let bytes = 2000 * u64::from(WIDTH) * 4;
    assert_eq!(family("rudder_block_cache_bytes").get_metric()[0].get_gauge().get_value(), bytes as f64);
    let reads = family("rudder_block_read_seconds").get_metric()[0].get_histogram().get_sample_count();
    assert_eq!(reads, bytes.div_ceil(BLOCK_BYTES / 148 * 148));
}

#[test]
fn updated_rows_lie_over_blocks() {
    let cluster = Cluster::start(2, ROWS, by_blocks).unwrap();
    let clients: Vec<Client> = (0..2).map(|node| cluster.client(node).unwrap()).collect();
    let half = ROWS / 2;
    // Rows of both nodes: of a block in memory, and of one that is not.
    let (updated, others) = ([7, half - 1, half + 7, ROWS - 1], [6, half - 2, half + 6, ROWS - 2]);
    assert_rows(&clients[0].fetch("feat", &[7, half + 7]).unwrap(), &[7, half + 7]);
    let rows: Vec<u8> = updated.iter().flat_map(|id| row_of(id + ROWS)).collect();
    assert_eq!(clients[0].update("feat", &updated, &rows).unwrap(), 4);
    let now = [updated.map(|id| id + ROWS), others].concat();
    for client in &clients {
        let rows = client.fetch("feat", &[updated, others].concat()).unwrap();
        assert_rows(&rows, &now);
    }
}

fn refused(result: Result<Rows, ClientError>, code: ErrorCode, words: &[&str]) {
    let error = result.map(|_| ()).unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    words.iter().for_each(|words| assert!(error.to_string().contains(words), "{words} is not said: {error}"));
    eprintln!("{error}");
}

#[test]
fn a_shard_that_shrinks_is_an_error_here_and_at_the_peer() {
    let cluster = Cluster::start(2, ROWS, by_blocks).unwrap();
    let clients: Vec<Client> = (0..2).map(|node| cluster.client(node).unwrap()).collect();
    let file = shard_file(&cluster, 1);
    let whole = fs::read(&file).unwrap();
    OpenOptions::new().write(true).open(&file).unwrap().set_len(whole.len() as u64 / 2).unwrap();
    let (here, gone) = (ROWS / 2 + 5, ROWS - 5);
    let path = file.to_str().unwrap();
    let place = ["cannot read", "at offset 8", "the file shrank"];
    for client in &clients {
        assert_rows(&client.fetch("feat", &[here, 3]).unwrap(), &[here, 3]);
    }
    let own = [&["1 rows of table `feat`", "this node's shard", path], &place[..]].concat();
    refused(clients[1].fetch("feat", &[here, gone, 3]), ErrorCode::Storage, &own);
    let peers = [&["peer 1", "it cannot read its shard", path], &place[..]].concat();
    refused(clients[0].fetch("feat", &[here + 9, gone, 3]), ErrorCode::PeerFailed, &peers);
    // Both go on, also over the same connections.
    for client in &clients {
        assert_rows(&client.fetch("feat", &[here + 77, 3]).unwrap(), &[here + 77, 3]);
    }
    let errors = |node: usize| {
        let status = cluster.nodes[node].as_ref().unwrap().status();
        status["tables"][0]["blocks"]["read_errors"].as_u64().unwrap()
    };
    assert_eq!((errors(0), errors(1)), (0, 2));
    fs::write(&file, &whole).unwrap();
    for client in &clients {
        assert_rows(&client.fetch("feat", &[gone, here, 3]).unwrap(), &[gone, here, 3]);
    }
}

#[test]
fn a_cache_that_holds_no_block_is_refused_at_the_start() {
    let mut cluster = Cluster::prepare(1, 5000, by_blocks).unwrap();
    cluster.config(0).dataset.blocks.block_bytes = 1 << 20;
    let error = cluster.start_node(0).unwrap_err().to_string();
    assert!(error.contains("dataset.block_cache_bytes = 524288") && error.contains("feat/part0.npy"), "{error}");
}

/// Rows of 512 bytes of the table that is measured.
const MEASURED_ROWS: u64 = 1 << 20;

fn write_measured(dir: &Path) {
    let mut writer = DatasetWriter::create(dir, "measured", 1, Existing::Refuse).unwrap();
    writer.add_book("_N", BookSpec::Ranges(&[0, MEASURED_ROWS])).unwrap();
    let mut feat = writer.add_table("feat", "_N", DType::F32, &[128]).unwrap();
    for id in 0..MEASURED_ROWS {
        feat.write_rows(Part(0), &[id as f32; 128].map(f32::to_le_bytes).concat()).unwrap();
    }
    writer.close_table(feat).unwrap();
    writer.finish().unwrap();
}

/// Takes the file out of the kernel's memory, as far as nobody maps it.
fn forget(file: &Path) {
    let file = fs::File::open(file).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Nanoseconds per row of `repeat` fetches of `count` random rows: the fastest, and the median.
fn ns_per_row(client: &Client, seed: u64, repeat: usize, count: u64) -> [f64; 2] {
    let mut number = numbers(seed);
    let mut times: Vec<f64> = (0..repeat)
        .map(|_| {
            let ids: Vec<u64> = (0..count).map(|_| number(MEASURED_ROWS)).collect();
            let begin = Instant::now();
            let rows = client.fetch("feat", &ids).unwrap();
            let spent = begin.elapsed().as_nanos() as f64 / count as f64;
            rows.as_slice::<f32>().unwrap().chunks(128).zip(&ids).for_each(|(row, &id)| assert_eq!(row[77], id as f32));
            spent
        })
        .collect();
    times.sort_by(f64::total_cmp);
    [times[0], times[times.len() / 2]]
}

/// Figures of `docs/performance.md`: `cargo test --release -p rudder-tests --test blocks -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, on an idle machine"]
fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_measured(&data);
    let file = data.join("tables/feat/part0.npy");
    let ways = [
        None,
        Some((16 << 10, 1u64 << 30)),
        Some((64 << 10, 1 << 30)),
        Some((1 << 20, 1 << 30)),
        Some((64 << 10, 128 << 20)),
    ];
    for way in ways {
        forget(&file);
        let cluster = Cluster::prepare(1, 10, |config| {
            config.dataset.path.clone_from(&data);
            config.dataset.verify = Verify::Shape;
            if let Some((block_bytes, cache_bytes)) = way {
                config.dataset.access = Access::Blocks;
                config.dataset.blocks.block_bytes = block_bytes;
                config.dataset.blocks.cache_bytes = cache_bytes;
            }
        });
        let mut cluster = cluster.unwrap();
        // The folder of the cluster was written for its own, small dataset.
        cluster.config(0).dataset.path.clone_from(&data);
        cluster.start_node(0).unwrap();
        let client = cluster.client(0).unwrap();
        let cold = ns_per_row(&client, 1, 1, 2000);
        let all: Vec<u64> = (0..MEASURED_ROWS).collect();
        all.chunks(100_000).for_each(|ids| drop(client.fetch("feat", ids).unwrap()));
        let warm =
            [1_000, 10_000, 100_000].map(|count| ns_per_row(&client, count, 1_000_000 / count as usize + 20, count));
        eprintln!("{way:?}: cold {:.0}, warm (1k, 10k, 100k rows a fetch) {warm:.0?} ns/row", cold[0]);
        if way.is_some() {
            eprintln!("  {}", cluster.nodes[0].as_ref().unwrap().status()["blocks"]);
            eprintln!("  {}", cluster.nodes[0].as_ref().unwrap().status()["tables"][0]["blocks"]);
        }
    }
}
