//! What keeps a daemon from starting, as its operator sees it: the exit status and the words of the real `rudderd`, and
//! that a daemon already running does not notice.
#![allow(clippy::unwrap_used)]

use rudder_tests::process::{Rudderd, run_to_end, write_config};
use rudder_tests::{Cluster, assert_rows};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

/// Ids of both nodes of a cluster of 100 rows.
const IDS: [u64; 4] = [99, 0, 50, 3];

/// Runs `rudderd` to its end and checks its exit status and its words.
fn assert_fails(arguments: &[&str], status: i32, words: &[&str]) {
    let output = run_to_end(arguments).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{said}");
    let last = said.lines().last().unwrap_or_default();
    eprintln!("{last}");
    assert!(last.starts_with("rudderd: "), "{said}");
    for words in words {
        assert!(last.contains(words), "{said}\nshould say: {words}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn configurations_that_cannot_be_used_are_named_by_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rudderd.toml");
    let good = "[node]\nindex = 0\n[dataset]\npath = \"/data/graph\"\n";
    fs::write(&file, good).unwrap();
    assert!(run_to_end(&["--check", "--config", text(&file)]).unwrap().status.success());
    let cases: [(&str, &[&str]); 9] = [
        (
            "[local]\nsokcet = \"/x\"\n",
            &["unknown key `local.sokcet`", "rudderd.toml:6", "did you mean `local.socket`?"],
        ),
        ("[cahce]\npolicy = \"none\"\n", &["unknown key `cahce`", "did you mean `cache`?"]),
        ("[peers]\nkeep_alive_ms = 7000\n", &["peers.keep_alive_ms = 7000", "must be below idle_timeout_ms (6000)"]),
        (
            "[peers]\nreconnect_backoff_ms_min = 3000\n",
            &["peers.reconnect_backoff_ms_min = 3000", "above reconnect_backoff_ms_max (2000)"],
        ),
        ("[local]\nthreads = \"many\"\n", &["local.threads = \"many\"", "rudderd.toml:6", "write for example `0`"]),
        ("[cache]\ncapacity = 1.5\n", &["a share of 1.5 is not above 0 and at most 1"]),
        (
            "[agent]\ncontroller = \"rulse\"\n",
            &["agent.controller = \"rulse\"", "rudderd.toml:6", "`rulse` is not a controller: write `rules`"],
        ),
        (
            "[admin]\nrequest_timeout_ms = 4000\n",
            &["cache.tool_wait_ms = 5000", "not below admin.request_timeout_ms, 4000", "(default)"],
        ),
        ("index = 1\n", &["unknown key `dataset.index`", "`node.index`"]),
    ];
    for (more, words) in cases {
        fs::write(&file, format!("{good}{more}")).unwrap();
        assert_fails(&["--check", "--config", text(&file)], 64, words);
    }
    // Without --check the same words and the same status: nothing is started.
    assert_fails(&["--config", text(&file)], 64, &["unknown key `dataset.index`"]);
    fs::write(&file, "[node]\nindex = 0\n").unwrap();
    assert_fails(&["--check", "--config", text(&file)], 64, &["dataset.path is not set", "--dataset"]);
    assert_fails(&["--check", "--config", "/nowhere.toml"], 64, &["/nowhere.toml", "--config"]);
    assert_fails(&["--check", "--node-index", "first"], 64, &["node.index", "flag --node-index"]);
}

#[test]
fn datasets_that_are_damaged_are_named_and_serve_again_when_repaired() {
    let mut cluster = Cluster::prepare(1, 100, |_| ()).unwrap();
    let data = cluster.dir().join("data");
    let manifest_file = data.join("manifest.json");
    let manifest = fs::read(&manifest_file).unwrap();
    let shard_name = "tables/feat/part0.npy";
    let shard = fs::read(data.join(shard_name)).unwrap();
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&manifest).unwrap();
        edit(&mut value);
        serde_json::to_vec(&value).unwrap()
    };
    let mut flipped = shard.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cases: [(&str, Vec<u8>, &[&str]); 7] = [
        ("manifest.json", edited(&|m| m["format"] = json!(2)), &["format version 2", "reads only version 1", "import"]),
        (
            "manifest.json",
            edited(&|m| m["tables"][0]["shards"][0]["file"]["xxh3"] = json!("0123456789abcdef")),
            &["part0.npy", "checksum mismatch", "0123456789abcdef", "copy it again"],
        ),
        (
            "manifest.json",
            edited(&|m| m["tables"][0]["width"] = json!(36)),
            &["manifest.json", "table `feat`", "`shape` (37,) is 37 elements, but `width` is 36"],
        ),
        (
            "manifest.json",
            edited(&|m| (m["tables"][0]["width"], m["tables"][0]["shape"]) = (json!(36), json!([36]))),
            &["part0.npy", "shape is (100, 37)", "says (100, 36)", "copy both again"],
        ),
        ("manifest.json", b"{ torn".to_vec(), &["manifest.json", "line 1", "import the dataset again"]),
        (shard_name, flipped, &["part0.npy", "checksum mismatch", "copy it again"]),
        (shard_name, shard[..shard.len() - 4].to_vec(), &["part0.npy", "but the manifest says", "copy the file again"]),
    ];
    let config = write_config(&mut cluster, 0).unwrap();
    for (name, bytes, words) in cases {
        fs::write(data.join(name), bytes).unwrap();
        assert_fails(&["--config", text(&config)], 1, &[&["cannot start the node: "], words].concat());
        fs::write(&manifest_file, &manifest).unwrap();
        fs::write(data.join(shard_name), &shard).unwrap();
    }
    fs::remove_file(data.join(shard_name)).unwrap();
    assert_fails(&["--config", text(&config)], 1, &["part0.npy", "missing", "copy it to this machine"]);
    fs::write(data.join(shard_name), &shard).unwrap();
    let _daemon = Rudderd::start(&mut cluster, 0).unwrap();
    assert_rows(&cluster.client(0).unwrap().fetch("feat", &IDS).unwrap(), &IDS);
}

#[test]
fn what_another_process_holds_is_not_taken() {
    let mut cluster = Cluster::prepare(2, 100, |_| ()).unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin_address = admin.local_addr().unwrap();
    let first = Rudderd::start(&mut cluster, 0).unwrap();
    let second = Rudderd::start(&mut cluster, 1).unwrap();
    let client = cluster.client(0).unwrap();
    let own = cluster.config(0).clone();
    let socket = own.local.socket.display().to_string();
    let fails = |cluster: &mut Cluster, words: &[&str]| {
        let config = write_config(cluster, 0).unwrap();
        assert_fails(&["--config", text(&config)], 1, words);
        assert_rows(&client.fetch("feat", &IDS).unwrap(), &IDS);
        assert_rows(&cluster.client(0).unwrap().fetch("feat", &IDS).unwrap(), &IDS);
    };
    let listen = own.peers.listen.to_string();
    let words = ["cannot start the node: ", &listen, "peers.listen", "in use", "Stop it, or choose another address"];
    fails(&mut cluster, &words);
    cluster.config(0).peers.listen.set_port(0);
    fails(&mut cluster, &["local.socket", &socket, "another process is listening there; stop it, or give"]);
    cluster.config(0).admin.listen = admin_address;
    let words =
        ["cannot start the admin interface: ", &admin_address.to_string(), "admin.listen", "choose another port"];
    fails(&mut cluster, &words);
    // A file that is no socket is nobody's to remove.
    *cluster.config(0) = own.clone();
    cluster.config(0).peers.listen.set_port(0);
    cluster.config(0).local.socket = cluster.dir().join("data/manifest.json");
    let config = write_config(&mut cluster, 0).unwrap();
    assert_fails(&["--config", text(&config)], 1, &["manifest.json", "a file that is no socket"]);
    // What a killed daemon left behind is no obstacle.
    *cluster.config(0) = own;
    first.kill().unwrap();
    let _first = Rudderd::start(&mut cluster, 0).unwrap();
    assert_rows(&client.fetch("feat", &IDS).unwrap(), &IDS);
    drop(second);
}
