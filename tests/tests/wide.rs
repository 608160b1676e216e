//! Tables of more rows than 32 bits count, as sparse files of one byte per row: right rows, local and remote, whatever
//! the policy, with lookahead, updates and refreshes, after a start that is as fast as ever.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, DType, ErrorCode, Horizon, Loader};
use rudder_daemon::config::{Config, Policy, Verify};
use rudder_import::{BookSpec, DatasetWriter, Existing, Part};
use rudder_settings::Capacity;
use rudder_tests::{Cluster, wait_until};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows of the table, and the first of part 1.
const ROWS: u64 = 10_000_000_000;
const SECOND: u64 = 2_500_000_000;

/// Ids whose rows are not 0: at the ends, around 2^32, and pairs that are the same in 32 bits.
fn marked() -> Vec<u64> {
    let mut ids = vec![0, 1, SECOND - 1, SECOND, (1 << 32) - 2, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, ROWS - 1];
    for at in 0..200 {
        let id = 3_000_000_000 + at * 999_983;
        ids.extend([id, id + (1 << 32)]);
        ids.extend([at * 7_000_003 + 5, at * 7_000_003 + 5 + (1 << 32)]);
    }
    ids
}

/// The row of a marked id, never 0.
fn mark(id: u64) -> u8 {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
}

fn header(rows: u64) -> Vec<u8> {
    let mut text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, 1), }}").into_bytes();
    text.resize((text.len() + 11).next_multiple_of(64) - 11, b' ');
    text.push(b'\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text);
    header
}

/// A dataset of [`ROWS`] rows in files that hold only the marked ones.
fn write_dataset(dir: &Path) {
    let mut writer = DatasetWriter::create(dir, "wide", 2, Existing::Refuse).unwrap();
    writer.add_book("_N", BookSpec::Ranges(&[0, 1, 2])).unwrap();
    let mut feat = writer.add_table("feat", "_N", DType::U8, &[1]).unwrap();
    (0..2).for_each(|part| feat.write_rows(Part(part), &[0]).unwrap());
    writer.close_table(feat).unwrap();
    writer.finish().unwrap();
    let path = dir.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["vertex_types"][0]["rows"] = json!(ROWS);
    manifest["vertex_types"][0]["book"]["starts"] = json!([0, SECOND, ROWS]);
    let table = &mut manifest["tables"][0];
    table["rows"] = json!(ROWS);
    for (part, (start, end)) in [(0, SECOND), (SECOND, ROWS)].into_iter().enumerate() {
        let shard = &mut table["shards"][part];
        let head = header(end - start);
        let mut file = File::create(dir.join(shard["file"]["path"].as_str().unwrap())).unwrap();
        file.write_all(&head).unwrap();
        let bytes = head.len() as u64 + end - start;
        file.set_len(bytes).unwrap();
        for id in marked().into_iter().filter(|id| (start..end).contains(id)) {
            file.seek(SeekFrom::Start(head.len() as u64 + id - start)).unwrap();
            file.write_all(&[mark(id)]).unwrap();
        }
        shard["rows"] = json!(end - start);
        shard["file"]["bytes"] = json!(bytes);
    }
    std::fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

fn cluster(adapt: impl Fn(&mut Config)) -> Cluster {
    let mut cluster = Cluster::prepare(2, 2, |config| {
        config.dataset.verify = Verify::Shape;
        config.cache.capacity = Capacity::Rows(1_000);
        adapt(config);
    })
    .unwrap();
    let data = cluster.dir().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    write_dataset(&data);
    let begun = Instant::now();
    (0..2).for_each(|node| cluster.start_node(node).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(20), "two nodes took {:?} to start", begun.elapsed());
    eprintln!("two nodes over {ROWS} rows started in {:?}", begun.elapsed());
    cluster
}

#[track_caller]
fn assert_marks(client: &Client, ids: &[u64]) {
    let rows = client.fetch("feat", ids).unwrap();
    for (at, &id) in ids.iter().enumerate() {
        assert_eq!(rows.row(at), [mark(id)], "row {at}, id {id}");
    }
}

#[test]
fn rows_beyond_32_bits_are_right_under_every_policy() {
    for policy in Policy::ALL.into_iter().filter(|&policy| policy != Policy::Static) {
        let cluster = cluster(|config| config.cache.policy = policy);
        let mut ids = marked();
        for node in 0..2 {
            let client = cluster.client(node).unwrap();
            assert_eq!(client.table("feat").unwrap().rows, ROWS);
            for round in 0..12 {
                fastrand::Rng::with_seed(round).shuffle(&mut ids);
                assert_marks(&client, &ids);
                let gap = [ids[0] ^ 8, ids[1] ^ 8].map(|id| id.min(ROWS - 2));
                assert_eq!(client.fetch("feat", &gap).unwrap().row(0), [0], "between the marks are zeros");
            }
            let cached = || client.fetch("feat", &ids).unwrap().sources().cache > 150;
            let expected = policy != Policy::None;
            assert_eq!(
                expected && wait_until(Duration::from_secs(20), cached),
                expected,
                "{policy} of node {node} has no hits"
            );
            let error = client.fetch("feat", &[ROWS]).unwrap_err();
            assert!(error.to_string().contains("ids 0 to 9999999999"), "{error}");
        }
    }
}

#[test]
fn announced_rows_beyond_32_bits_are_staged_and_right() {
    for policy in [Policy::Epoch, Policy::Lru, Policy::None] {
        let cluster = cluster(|config| config.cache.policy = policy);
        let client = cluster.client(0).unwrap();
        let all = marked();
        let batches: Vec<Vec<u64>> = all.chunks(60).map(<[u64]>::to_vec).collect();
        let steps = batches.len();
        let loader = Loader::new(&client, "feat", batches.into_iter().cycle().take(4 * steps), steps as u32).unwrap();
        let mut ahead = 0;
        for loaded in loader.horizon(Horizon::Batches(4)) {
            let (ids, rows) = loaded.unwrap();
            for (at, &id) in ids.iter().enumerate() {
                assert_eq!(rows.row(at), [mark(id)], "row {at}, id {id}");
            }
            ahead += rows.sources().staged + rows.sources().cache;
        }
        assert!(ahead > 0, "{policy}: nothing was there before it was asked for");
    }
}

#[test]
fn updates_beyond_32_bits_reach_their_rows_and_no_others() {
    let cluster = cluster(|config| config.cache.policy = Policy::Epoch);
    let (a, b) = (cluster.client(0).unwrap(), cluster.client(1).unwrap());
    let (low, high) = (3_000_000_000, 3_000_000_000 + (1 << 32));
    let remote = [low, high];
    let cached = || a.fetch("feat", &remote).unwrap().sources().cache == 2;
    assert!(wait_until(Duration::from_secs(20), cached), "rows are not cached");
    b.update("feat", &[high], &[200]).unwrap();
    assert_eq!(a.fetch("feat", &remote).unwrap().row(1), [mark(high)], "old until it is refreshed");
    a.refresh(None, None).unwrap();
    let rows = a.fetch("feat", &remote).unwrap();
    assert_eq!((rows.row(0), rows.row(1)), (&[mark(low)][..], &[200][..]));
    a.update("feat", &[high, 5 + (1 << 32), 5], &[201, 202, 203]).unwrap();
    for client in [&a, &b] {
        if std::ptr::eq(client, &b) {
            b.refresh(None, None).unwrap();
        }
        let rows = client.fetch("feat", &[low, high, 5 + (1 << 32), 5]).unwrap();
        let rows: Vec<u8> = (0..4).map(|at| rows.row(at)[0]).collect();
        assert_eq!(rows, [mark(low), 201, 202, 203]);
    }
    let answer = a.warm("feat", &[low + 1, high + 1]).unwrap();
    assert_eq!(answer["tables"][0]["remote_rows"], 2, "{answer}");
    assert_eq!(a.fetch("feat", &[low + 1, high + 1]).unwrap().sources().cache, 2);
}

#[test]
fn what_cannot_work_beyond_32_bits_is_refused_at_the_start() {
    let mut cluster = Cluster::prepare(2, 2, |config| {
        config.dataset.verify = Verify::Shape;
        config.cache.policy = Policy::Static;
    })
    .unwrap();
    let data = cluster.dir().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    write_dataset(&data);
    let error = cluster.start_node(0).unwrap_err().to_string();
    assert!(error.contains("`static` cannot serve a table of 10000000000 rows"), "{error}");
    // A share of so many rows is more than is tracked: less is cached, and the log says so.
    cluster.config(0).cache.policy = Policy::Epoch;
    cluster.config(0).cache.capacity = Capacity::Share(0.5);
    cluster.config(0).cache.tracked_rows_max = 1 << 20;
    cluster.start_node(0).unwrap();
    let status: Value = serde_json::from_str(&cluster.client(0).unwrap().status().unwrap()).unwrap();
    assert_eq!(status["tables"][0]["capacity_rows"], 1 << 19, "{status}");
    let error = cluster.client(0).unwrap().fetch("feat", &[ROWS, 1]).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::IdOutOfRange));
}
