//! Vertices that the import renumbered: every call takes and gives the ids of the user's own files, or those of the
//! dataset for who asks for them, and a daemon that comes back with another dataset is noticed.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ClientError, ConnectOptions, DType, ErrorCode, Horizon, IdSpace, Loader};
use rudder_daemon::config::{Access, Config, Verify};
use rudder_daemon::daemon::Daemon;
use rudder_import::{BookSpec, DatasetWriter, Existing};
use rudder_settings::Capacity;
use rudder_telemetry::error_chain;
use rudder_tests::{Cluster, FAR, ROW_KINDS, assert_rows, name_of, renumbered, row_of, wait_until, write_renumbered};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROWS: u64 = 2000;
const SEED: u64 = 7;

fn prepared(adapt: impl Fn(&mut Config)) -> Cluster {
    let cluster = Cluster::prepare(2, 10, |config| {
        config.cache.capacity = Capacity::Rows(500);
        adapt(config);
    });
    let cluster = cluster.unwrap();
    write_renumbered(&data(&cluster), ROWS, 2, SEED).unwrap();
    cluster
}

fn started(adapt: impl Fn(&mut Config)) -> Cluster {
    let mut cluster = prepared(adapt);
    start(&mut cluster);
    cluster
}

fn start(cluster: &mut Cluster) {
    (0..2).for_each(|node| cluster.start_node(node).unwrap());
}

fn data(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("data")
}

fn client(cluster: &Cluster, ids: IdSpace, inline: bool) -> Client {
    Client::connect(ConnectOptions { ids, inline, ..ConnectOptions::at(cluster.socket(0)) }).unwrap()
}

/// Every original id, in an order of its own, and some twice.
fn shuffled() -> Vec<u64> {
    let mut ids: Vec<u64> = (0..ROWS).chain(0..50).collect();
    fastrand::Rng::with_seed(3).shuffle(&mut ids);
    ids
}

/// Changes what the manifest says of every vertex type.
fn change_types(cluster: &Cluster, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    let path = data(cluster).join("manifest.json");
    let mut manifest: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest["vertex_types"].as_array_mut().unwrap().iter_mut().for_each(|it| change(it.as_object_mut().unwrap()));
    fs::write(&path, manifest.to_string()).unwrap();
}

#[track_caller]
fn refused(outcome: Result<impl std::fmt::Debug, ClientError>, code: ErrorCode, words: &[&str]) {
    let error = outcome.unwrap_err();
    eprintln!("{:?}: {error}", error.code());
    assert_eq!(error.code(), Some(code), "{error}");
    words.iter().for_each(|words| assert!(error.to_string().contains(words), "{error}\nshould say: {words}"));
}

/// Rows of every table by original ids, held against the source.
fn check_original(client: &Client) {
    let ids = shuffled();
    assert_rows(&client.fetch("feat", &ids).unwrap(), &ids);
    assert_rows(&client.fetch("same", &ids).unwrap(), &ids);
    let far: Vec<u64> = ids.iter().map(|id| id * FAR).collect();
    let rows: Vec<u64> = far.iter().map(|id| id % ROW_KINDS).collect();
    assert_rows(&client.fetch("far", &far).unwrap(), &rows);
}

/// Rows of every table by dataset ids, held against the source.
fn check_dataset(client: &Client) {
    let ids = shuffled();
    for (table, spread) in [("feat", 1), ("far", FAR)] {
        let original = renumbered(ROWS, spread, SEED);
        let rows: Vec<u64> = ids.iter().map(|&id| original[id as usize] % ROW_KINDS).collect();
        assert_rows(&client.fetch(table, &ids).unwrap(), &rows);
    }
    assert_rows(&client.fetch("same", &ids).unwrap(), &ids);
}

#[test]
fn fetches_and_loaders_take_original_ids_unless_asked_not_to() {
    let cluster = started(|_| ());
    for inline in [false, true] {
        let (original, dataset) =
            (client(&cluster, IdSpace::Original, inline), client(&cluster, IdSpace::Dataset, inline));
        assert_eq!((original.ids(), dataset.ids()), (IdSpace::Original, IdSpace::Dataset));
        check_original(&original);
        check_dataset(&dataset);
        let flags: Vec<_> = original.tables().iter().map(|table| (table.renumbered, table.named)).collect();
        assert_eq!(flags, [(true, true), (true, false), (false, false)]);

        let pending = original.fetch_async("feat", &[5, 1999, 5]).unwrap();
        assert_rows(&pending.wait().unwrap(), &[5, 1999, 5]);
        let batches: Vec<Vec<u64>> = shuffled().chunks(300).map(<[u64]>::to_vec).collect();
        let loader = Loader::new(&original, "feat", batches.clone().into_iter(), batches.len() as u32).unwrap();
        for (batch, expected) in loader.horizon(Horizon::Batches(2)).zip(&batches) {
            let (ids, rows) = batch.unwrap();
            assert_eq!(&ids, expected);
            assert_rows(&rows, expected);
        }
    }
    let status = cluster.nodes[0].as_ref().unwrap().status();
    let says = |at: usize| ["vertex_type", "renumbered", "named"].map(|field| status["tables"][at][field].clone());
    assert_eq!(says(0), [json!("_N"), json!(true), json!(true)]);
    assert_eq!(says(2), [json!("same"), json!(false), json!(false)]);
}

#[test]
fn announced_warmed_and_updated_rows_are_those_of_the_same_vertices() {
    let cluster = started(|config| config.lookahead.budget = 4.0);
    let original = client(&cluster, IdSpace::Original, false);
    let remote: Vec<u64> = renumbered(ROWS, 1, SEED)[1000..].to_vec();

    let status = |client: &Client| -> Value { serde_json::from_str(&client.status().unwrap()).unwrap() };
    let number = |client: &Client, pointer: &str| status(client).pointer(pointer).and_then(Value::as_u64).unwrap();
    let batch = &remote[..200];
    original.announce("feat", batch, 0).unwrap();
    let staged = || number(&original, "/tables/0/network/lookahead_rows") == 200;
    assert!(wait_until(Duration::from_secs(10), staged), "{}", status(&original));
    assert_rows(&original.fetch("feat", batch).unwrap(), batch);
    let used = || number(&original, "/tables/0/lookahead/used_batches") == 1;
    assert!(wait_until(Duration::from_secs(10), used), "the fetch is not known as announced: {}", status(&original));

    // Warmed by original ids, by the client's call and by a tool call, these rows need no peer.
    let (warm, by_tool) = (&remote[300..400], &remote[400..450]);
    assert_eq!(original.warm("feat", warm).unwrap()["tables"][0]["remote_rows"], 100);
    let tool = json!({"tool": "warm", "table": "feat", "ids": by_tool}).to_string();
    let answer: Value = serde_json::from_str(&original.tool(&tool).unwrap()).unwrap();
    assert_eq!(answer["tables"][0]["remote_rows"], 50);
    let rows = original.fetch("feat", &remote[300..450]).unwrap();
    assert_rows(&rows, &remote[300..450]);
    assert_eq!((rows.sources().cache, rows.sources().peer), (150, 0), "{:?}", rows.sources());

    // One local and one remote vertex, updated by their original ids, seen under both.
    let local = renumbered(ROWS, 1, SEED)[3];
    let ids = [remote[500], local];
    let new: Vec<u8> = [row_of(3001), row_of(3002)].concat();
    assert_eq!(original.update("feat", &ids, &new).unwrap(), 2);
    assert_rows(&original.fetch("feat", &ids).unwrap(), &[3001, 3002]);
    let dataset = client(&cluster, IdSpace::Dataset, true);
    assert_rows(&dataset.fetch("feat", &[1500, 3, 4]).unwrap(), &[3001, 3002, renumbered(ROWS, 1, SEED)[4]]);
}

#[test]
fn arrays_of_ids_and_names_are_translated_both_ways() {
    let cluster = started(|config| config.local.ids_max = 100_000);
    for (inline, space) in [(false, IdSpace::Original), (true, IdSpace::Dataset)] {
        let client = client(&cluster, space, inline);
        // More than one call takes.
        let ids: Vec<u64> = (0..140_000).map(|at| at * 31 % ROWS).collect();
        for (of, spread) in [("feat", 1), ("_N", 1), ("far", FAR)] {
            let known = renumbered(ROWS, spread, SEED);
            let original = client.original_ids(of, &ids).unwrap();
            assert!(original.iter().zip(&ids).all(|(&original, &id)| original == known[id as usize]));
            assert_eq!(client.dataset_ids(of, &original).unwrap(), ids);
        }
        assert_eq!(client.original_ids("same", &ids).unwrap(), ids);
        assert_eq!(client.dataset_ids("same", &ids).unwrap(), ids);
        assert!(client.dataset_ids("feat", &[]).unwrap().is_empty());

        let original = [17, 0, 1999, 17];
        let ids = match space {
            IdSpace::Original => original.to_vec(),
            IdSpace::Dataset => client.dataset_ids("feat", &original).unwrap(),
        };
        let names = original.map(name_of);
        assert_eq!(client.ids_of_names("feat", &names).unwrap(), ids);
        assert_eq!(client.names("_N", &ids).unwrap(), names);
        assert_rows(&client.fetch("feat", &ids).unwrap(), &original);
        let all: Vec<String> = (0..ROWS).map(name_of).cycle().take(70_000).collect();
        assert_eq!(client.names("_N", &client.ids_of_names("_N", &all).unwrap()).unwrap(), all);
    }
}

#[test]
fn what_no_vertex_has_is_named_as_the_user_wrote_it() {
    let cluster = started(|_| ());
    let (original, dataset) = (client(&cluster, IdSpace::Original, false), client(&cluster, IdSpace::Dataset, true));
    let range = ["id 2000 (position 2 of the fetch) is out of range: table `feat` has ids 0 to 1999", "by name"];
    for client in [&original, &dataset] {
        refused(client.fetch("feat", &[1, 1, 2000]), ErrorCode::IdOutOfRange, &range);
        refused(client.update("feat", &[1, 1, 2000], &vec![0; 3 * 148]), ErrorCode::IdOutOfRange, &range);
        refused(client.original_ids("feat", &[1, 1, 2000]), ErrorCode::IdOutOfRange, &range);
        refused(client.dataset_ids("feat", &[1, 1, 2000]), ErrorCode::IdOutOfRange, &range);
        refused(client.dataset_ids("same", &[u64::MAX]), ErrorCode::IdOutOfRange, &["0 to 1999"]);
        refused(client.names("feat", &[1, 1, 2000]), ErrorCode::IdOutOfRange, &range);
        refused(client.warm("feat", &[1, 1, 2000]), ErrorCode::Argument, &["2000"]);
        let unknown = ["no vertex of type `_N` is called \"nobody\" (position 1)"];
        refused(client.ids_of_names("feat", &[name_of(3).as_str(), "nobody"]), ErrorCode::UnknownName, &unknown);
        refused(client.ids_of_names("feat", &["a\nb"]), ErrorCode::UnknownName, &["\"a\\nb\""]);
        let unnamed = ["vertices of type `far` have no names"];
        refused(client.ids_of_names("far", &["x"]), ErrorCode::UnknownName, &unnamed);
        refused(client.names("far", &[1]), ErrorCode::UnknownName, &unnamed);
        assert!(matches!(client.original_ids("nothing", &[1]), Err(ClientError::UnknownTable { .. })));
        assert_rows(&client.fetch("same", &[3]).unwrap(), &[3]);
    }
    // The client knows by itself which dataset ids there are; which original ids there are, only the daemon knows.
    let beyond = ["id 2000 (position 2 of the batch) is out of range: table `feat` has ids 0 to 1999", "by name"];
    refused(dataset.announce("feat", &[1, 1, 2000], None), ErrorCode::IdOutOfRange, &beyond);
    original.announce("feat", &[1, 1, 2000], None).unwrap();
    original.status().unwrap();
    let warnings = original.warnings();
    assert_eq!((warnings.len(), warnings[0].code), (1, ErrorCode::IdOutOfRange), "{warnings:?}");
    assert!(range.iter().all(|words| warnings[0].message.contains(words)), "{warnings:?}");
    let far = ["id 5 (position 1 of the fetch): no vertex of table `far` has that original id"];
    refused(original.fetch("far", &[FAR, 5]), ErrorCode::IdOutOfRange, &far);
    refused(original.fetch("far", &[FAR, FAR + 1]), ErrorCode::IdOutOfRange, &["no vertex of table `far`", "1000004"]);
}

#[test]
fn a_daemon_with_another_dataset_is_noticed() {
    let mut cluster = started(|_| ());
    let options = |ids| ConnectOptions { ids, ..ConnectOptions::at(cluster.socket(0)) };
    let clients = [IdSpace::Original, IdSpace::Dataset].map(|ids| Client::connect(options(ids)).unwrap());
    check_original(&clients[0]);
    let known = clients.each_ref().map(|client| client.options().clone());
    assert_eq!(known[0].fingerprint, Some(clients[0].fingerprint()));

    (0..2).for_each(|node| cluster.stop_node(node));
    start(&mut cluster);
    check_original(&clients[0]);
    check_dataset(&clients[1]);

    // The same tables, other ids.
    (0..2).for_each(|node| cluster.stop_node(node));
    write_renumbered(&data(&cluster), ROWS, 2, SEED + 1).unwrap();
    start(&mut cluster);
    for client in &clients {
        for _ in 0..2 {
            let fetched = client.fetch("feat", &[1, 2, 3]);
            assert!(matches!(fetched, Err(ClientError::TablesChanged)), "{fetched:?}");
        }
    }
    for known in known {
        assert!(matches!(Client::connect(known), Err(ClientError::TablesChanged)));
    }
    let new = client(&cluster, IdSpace::Original, false);
    assert_rows(&new.fetch("feat", &[1, 2, 3]).unwrap(), &[1, 2, 3]);
    assert_ne!(new.fingerprint(), clients[0].fingerprint());
}

#[test]
fn datasets_from_before_the_inverse_and_shards_read_by_blocks_serve_the_same() {
    for (is_old, access) in [(true, Access::Map), (true, Access::Blocks), (false, Access::Blocks)] {
        let mut cluster = prepared(|config| config.dataset.access = access);
        if is_old {
            change_types(&cluster, |it| {
                ["dataset_ids", "name_offsets", "name_index"].iter().for_each(|field| drop(it.remove(*field)));
            });
        }
        start(&mut cluster);
        check_dataset(&client(&cluster, IdSpace::Dataset, false));
        let original = client(&cluster, IdSpace::Original, false);
        check_original(&original);
        let names = [9, 1999, 0].map(name_of);
        assert_eq!(original.ids_of_names("_N", &names).unwrap(), [9, 1999, 0]);
        assert_eq!(original.names("_N", &[9, 1999, 0]).unwrap(), names);
        assert_eq!(original.original_ids("far", &[4]).unwrap(), [renumbered(ROWS, FAR, SEED)[4]]);
    }
}

#[test]
fn a_node_without_the_files_of_ids_serves_dataset_ids_and_names_the_file_otherwise() {
    let mut cluster = prepared(|_| ());
    for file in ["_N.npy", "_N.dataset.npy", "_N.name_index.npy"] {
        fs::remove_file(data(&cluster).join("ids").join(file)).unwrap();
    }
    start(&mut cluster);
    check_dataset(&client(&cluster, IdSpace::Dataset, false));
    let original = client(&cluster, IdSpace::Original, false);
    assert_rows(&original.fetch("same", &[7]).unwrap(), &[7]);
    let words = ["_N.dataset.npy", "copy it to this machine", "dataset ids"];
    refused(original.fetch("feat", &[7]), ErrorCode::Storage, &words);
    refused(original.original_ids("feat", &[7]), ErrorCode::Storage, &["_N.npy"]);
    refused(original.ids_of_names("feat", &["x"]), ErrorCode::Storage, &["_N.name_index.npy"]);
    refused(original.warm("feat", &[7]), ErrorCode::Storage, &words[..1]);
}

#[test]
fn a_damaged_inverse_never_gives_a_wrong_row() {
    let path = |cluster: &Cluster| data(cluster).join("ids/_N.dataset.npy");
    let damage = |cluster: &Cluster, entry: u32| {
        let mut bytes = fs::read(path(cluster)).unwrap();
        let at = bytes.len() - 4 * (ROWS as usize - 5);
        bytes[at..at + 4].copy_from_slice(&entry.to_le_bytes());
        fs::write(path(cluster), bytes).unwrap();
    };
    let mut cluster = prepared(|_| ());
    damage(&cluster, 0);
    let error = error_chain(&*cluster.start_node(0).unwrap_err());
    assert!(error.contains("_N.dataset.npy") && error.contains("checksum"), "{error}");

    // The file of another import, with its own checksum in the manifest.
    let other = cluster.dir().join("other");
    write_renumbered(&other, ROWS, 2, SEED + 1).unwrap();
    let checksum = |dir: &Path| {
        let manifest: Value = serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
        manifest["vertex_types"][0]["dataset_ids"]["xxh3"].as_str().unwrap().to_owned()
    };
    let (ours, theirs) = (checksum(&data(&cluster)), checksum(&other));
    fs::copy(other.join("ids/_N.dataset.npy"), path(&cluster)).unwrap();
    let text = fs::read_to_string(data(&cluster).join("manifest.json")).unwrap();
    let text = text.replace(&ours, &theirs);
    fs::write(data(&cluster).join("manifest.json"), text).unwrap();
    let error = error_chain(&*cluster.start_node(0).unwrap_err());
    assert!(error.contains("_N.dataset.npy") && error.contains("of another import"), "{error}");

    // An entry that is no vertex, where checksums are not looked at.
    let mut cluster = prepared(|config| config.dataset.verify = Verify::Shape);
    damage(&cluster, 5000);
    start(&mut cluster);
    let original = client(&cluster, IdSpace::Original, false);
    let words = ["_N.dataset.npy", "original id 5 is 5000", "2000 vertices"];
    refused(original.fetch("feat", &[4, 5]), ErrorCode::Storage, &words);
    assert_rows(&original.fetch("feat", &[4, 6]).unwrap(), &[4, 6]);
}

/// What a look-up costs: fetches by original and by dataset ids, in turns, of rows that are here. `--ignored`.
#[test]
#[ignore = "takes a minute and 5 GB of disk; run it alone"]
fn translation_costs() {
    const WIDE: u64 = 4_000_000;
    let mut cluster = Cluster::prepare(1, 10, |config| config.dataset.verify = Verify::Shape).unwrap();
    write_wide(&data(&cluster), WIDE, 512);
    cluster.start_node(0).unwrap();
    let clients = [IdSpace::Dataset, IdSpace::Original].map(|ids| client(&cluster, ids, false));
    let mut random = fastrand::Rng::with_seed(1);
    let mut took = [100_000usize, 1].map(|count| {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..if count == 1 { 20_000 } else { 300 } {
            let ids: Vec<u64> = (0..count).map(|_| random.u64(..WIDE)).collect();
            for (client, took) in clients.iter().zip(&mut took) {
                let start = std::time::Instant::now();
                drop(client.fetch("wide", &ids).unwrap());
                took.push(start.elapsed().as_nanos() as f64 / count as f64);
            }
        }
        took
    });
    for (count, took) in [100_000, 1].into_iter().zip(&mut took) {
        for (space, took) in ["dataset", "original"].into_iter().zip(took) {
            took.sort_by(f64::total_cmp);
            let at = |share: f64| took[(took.len() as f64 * share) as usize];
            println!("{count} rows by {space} ids: p50 {:.0}, p99 {:.0} ns a row", at(0.5), at(0.99));
        }
    }
}

/// Start and memory of a node over 100 million renumbered vertices, and what a look-up costs there. `--ignored`.
#[test]
#[ignore = "takes a minute and 5 GB of memory and disk; run it alone"]
fn a_hundred_million_vertices() {
    const MANY: u64 = 100_000_000;
    let mut cluster = Cluster::prepare(1, 10, |config| config.dataset.verify = Verify::Shape).unwrap();
    write_wide(&data(&cluster), MANY, 1);
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4 / 1024
    };
    let (before, start) = (resident(), std::time::Instant::now());
    cluster.start_node(0).unwrap();
    println!("started in {:?}, {} MB more resident than before", start.elapsed(), resident() - before);
    let clients = [IdSpace::Dataset, IdSpace::Original].map(|ids| client(&cluster, ids, false));
    let mut random = fastrand::Rng::with_seed(1);
    for round in ["first", "second", "third"] {
        for (space, client) in ["dataset", "original"].into_iter().zip(&clients) {
            let start = std::time::Instant::now();
            for _ in 0..50 {
                let ids: Vec<u64> = (0..100_000).map(|_| random.u64(..MANY)).collect();
                drop(client.fetch("wide", &ids).unwrap());
            }
            println!("{round} 50 fetches of 100,000 rows of 1 byte by {space} ids: {:?} each", start.elapsed() / 50);
        }
    }
}

/// A dataset of one part whose rows are `width` bytes, renumbered at random.
fn write_wide(dir: &Path, rows: u64, width: u32) {
    let mut writer = DatasetWriter::create(dir, "wide", 1, Existing::Replace).unwrap();
    writer.add_book("_N", BookSpec::Ranges(&[0, rows])).unwrap();
    writer.set_original_ids("_N", &renumbered(rows, 1, SEED)).unwrap();
    let mut wide = writer.add_table("wide", "_N", DType::U8, &[width]).unwrap();
    let piece = vec![1; (1 << 20) * width as usize];
    for first in (0..rows).step_by(1 << 20) {
        wide.append(&piece[..((rows - first).min(1 << 20) * u64::from(width)) as usize]).unwrap();
    }
    writer.close_table(wide).unwrap();
    writer.finish().unwrap();
}
