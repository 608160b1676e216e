//! `rudder up`, `down` and `get` as a person calls them: real daemons from one command, what they say, and that nothing
//! of them stays.
#![allow(clippy::unwrap_used)]

use rudder_tests::process::LIFE_LIMIT;
use rudder_tests::up_site::{Site, assert_gone, client, pids, send, socket, text};
use rudder_tests::{assert_rows, get, wait_until, write_dataset};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn one_part_is_served_and_sigint_leaves_nothing() {
    let site = Site::new(1);
    let mut up = site.start(&["up", "data", "--json"], &[]);
    let ready = up.ready();
    let socket = socket(&ready);
    assert!(socket.starts_with(site.path("run/rudder")), "{}", socket.display());
    assert_rows(&client(&socket).fetch("feat", &[99, 0, 7]).unwrap(), &[99, 0, 7]);
    let daemons = pids(&ready);
    up.signal(Signal::INT);
    assert_eq!(up.status(), Some(0), "{}", up.words());
    assert_gone(&daemons);
    assert_eq!(site.left(), [""; 0]);
}

#[test]
fn two_parts_find_each_other_and_are_steered_by_settings() {
    let site = Site::new(2);
    let words = ["up", "data", "--json", "--capacity", "7", "--policy", "lru", "--set", "cache.seed=9"];
    let mut up = site.start(&words, &[]);
    let ready = up.ready();
    assert_eq!(ready["nodes"].as_array().unwrap().len(), 2);
    for node in ready["nodes"].as_array().unwrap() {
        let ids = [99, 0, 50, 3];
        assert_rows(&client(Path::new(node["socket"].as_str().unwrap())).fetch("feat", &ids).unwrap(), &ids);
        let status = get(&format!("http://{}/v1/status", node["admin"].as_str().unwrap())).unwrap().text;
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!((&status["tables"][0]["capacity_rows"], &status["tables"][0]["policy"]), (&7.into(), &"lru".into()));
    }
    let daemons = pids(&ready);
    up.signal(Signal::TERM);
    assert_eq!(up.status(), Some(0), "{}", up.words());
    assert_gone(&daemons);
    assert_eq!(site.left(), [""; 0]);
}

#[test]
fn detached_daemons_stay_until_they_are_taken_down() {
    let site = Site::new(2);
    let output = site.run(&["up", "data", "--detach"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("export RUDDER_SOCKET=")).unwrap();
    assert_rows(&client(Path::new(line)).fetch("feat", &[99]).unwrap(), &[99]);
    // Again: it runs already.
    let output = site.run(&["up", "data", "--detach", "--json"]);
    let again: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&again["already_running"], &again["socket"]), (&true.into(), &line.into()));
    let output = site.run(&["up", "data"]);
    assert!(output.status.success() && text(&output.stdout) == said, "{output:?}");
    // Rows by the only daemon there is.
    let output = site.run(&["get", "label", "3", "99"]);
    let rows = text(&output.stdout);
    assert!(rows.contains("3  18  own shard of this node") && rows.contains("99  690  "), "{rows}{output:?}");
    let output = site.run(&["get", "feat", "2", "--limit", "2", "--socket", line]);
    assert!(text(&output.stdout).contains("2  [2000.0, 2001.0, ... 35 more]"), "{output:?}");
    let output = site.run(&["get", "feat", "100"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("100"), "{output:?}");
    let output = site.run(&["down", "data"]);
    assert!(output.status.success() && text(&output.stdout).contains("data: stopped"), "{output:?}");
    assert_gone(&pids(&again));
    assert_eq!(site.left(), [""; 0]);
    let output = site.run(&["down", "data"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("nothing runs"), "{output:?}");
    assert!(site.run(&["down", "--all"]).status.success());
}

/// An edge list of named vertices is renumbered by its import; `get` takes what stands in the user's own files.
#[test]
fn rows_are_printed_by_original_ids_and_by_names() {
    let site = Site::new(1);
    fs::write(site.path("edges.txt"), "libc6 bash\nbash coreutils\ncoreutils libc6\nperl libc6\n").unwrap();
    fs::write(site.path("labels.txt"), "libc6\t7\nbash\t8\ncoreutils\t9\nperl\t6\n").unwrap();
    let import = ["import", "edges", "edges.txt", "--out", "named", "--parts", "2", "--labels", "labels.txt", "--json"];
    let output = site.run(&import);
    assert!(output.status.success(), "{output:?}");
    let output = site.run(&["up", "named", "--detach", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let row = |words: &[&str]| {
        let output = site.run(&[&["get", "label", "--json"], words].concat());
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (said["rows"][0]["id"].as_u64().unwrap(), said["rows"][0]["row"].clone())
    };
    let (id, label) = row(&["bash"]);
    assert_eq!(label, 8);
    assert_eq!(row(&[&id.to_string()]), (id, label));
    assert_eq!(row(&["perl"]).1, 6);
    let output = site.run(&["get", "label", "zsh"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("zsh"), "{output:?}");
    let output = site.run(&["get", "label", "bash"]);
    assert!(text(&output.stdout).contains("the import renumbered the vertices\nbash = "), "{output:?}");
    assert!(site.run(&["down", "--all"]).status.success());
}

#[test]
fn a_daemon_that_dies_ends_all_with_its_last_words() {
    let site = Site::new(2);
    let mut up = site.start(&["up", "data", "--json"], &[]);
    let ready = up.ready();
    let daemons = pids(&ready);
    send(daemons[1], Signal::KILL);
    assert_eq!(up.status(), Some(1));
    let words = up.words();
    assert!(words.contains("rudderd of node 1 ended with signal: 9") && words.contains("serving"), "{words}");
    assert_gone(&daemons);
    assert_eq!(site.left(), [""; 0]);
    // Detached, the reason and the logs are there for who asks next.
    let output = site.run(&["up", "data", "--detach", "--json"]);
    let daemons = pids(&serde_json::from_slice(&output.stdout).unwrap());
    send(daemons[0], Signal::KILL);
    assert_gone(&daemons);
    assert!(wait_until(LIFE_LIMIT, || !site.left().iter().any(|name| name.ends_with(".lock"))));
    let output = site.run(&["down", "data"]);
    assert!(text(&output.stdout).contains("had ended already"), "{output:?}");
    assert_eq!(site.left(), [""; 0]);
}

#[test]
fn what_a_killed_starter_left_is_no_obstacle() {
    let site = Site::new(2);
    let output = site.run(&["up", "data", "--detach", "--json"]);
    let first: Value = serde_json::from_slice(&output.stdout).unwrap();
    send(first["pid"].as_u64().unwrap(), Signal::KILL);
    assert_gone(&pids(&first));
    assert!(!site.left().is_empty());
    let output = site.run(&["up", "data", "--detach", "--json"]);
    let second: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(second["already_running"], false, "{output:?}");
    assert_rows(&client(&socket(&second)).fetch("feat", &[99]).unwrap(), &[99]);
    // A dataset that was replaced under its daemons is not what they serve.
    fs::remove_dir_all(site.path("data")).unwrap();
    write_dataset(&site.path("data"), 120, 2).unwrap();
    let output = site.run(&["up", "data", "--detach"]);
    assert!(text(&output.stderr).contains("was changed since its daemons were started"), "{output:?}");
    assert!(site.run(&["down", "--all"]).status.success());
    assert_eq!(site.left(), [""; 0]);
}

#[test]
fn shared_daemons_live_as_long_as_their_last_user() {
    let site = Site::new(2);
    let start = || site.start(&["up", "data", "--shared", "--json"], &[]);
    let (mut first, mut second) = (start(), start());
    let (one, two) = (first.ready(), second.ready());
    assert_eq!((&one["nodes"], one["pid"].is_u64()), (&two["nodes"], true));
    // The input closes, as when the process ends that holds it.
    drop(first.child.stdin.take());
    assert_eq!(first.status(), Some(0), "{}", first.words());
    assert_rows(&client(&socket(&two)).fetch("feat", &[99]).unwrap(), &[99]);
    // Killed: the kernel gives up its use.
    second.child.kill().unwrap();
    assert_gone(&pids(&two));
    assert!(wait_until(LIFE_LIMIT, || site.left().is_empty()), "{:?}", site.left());
    let mut third = start();
    let daemons = pids(&third.ready());
    send(daemons[0], Signal::KILL);
    assert_eq!(third.status(), Some(1));
    assert!(third.words().contains("rudderd of node 0 ended with signal: 9"));
    assert_gone(&daemons);
    assert!(wait_until(LIFE_LIMIT, || site.left().is_empty()), "{:?}", site.left());
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    let site = Site::new(2);
    let fails = |words: &[&str], variables: &[(&str, &str)], expected: &[&str]| {
        let output = site.command(words, variables).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        for expected in expected {
            assert!(said.contains(expected), "{words:?}: {said}\nshould say: {expected}");
        }
        assert_eq!(site.left(), [""; 0], "{words:?}");
    };
    fails(&["up", "nowhere"], &[], &["no dataset at nowhere"]);
    fails(&["up", "."], &[], &["manifest.json"]);
    fails(&["up", "data", "--set", "cache.polcy=lru"], &[], &["unknown key `cache.polcy`", "did you mean"]);
    fails(&["up", "data", "--set", "local.socket=/tmp/s"], &[], &["local.socket is of one daemon, and 2 are started"]);
    fails(&["up", "data", "--node", "0", "--nodes", "a,b,c"], &[], &["has 2 parts, and the job 3 nodes"]);
    let certificates = ["several hosts need certificates", "rudder certs issue --authority certs --nodes 0-1"];
    fails(&["up", "data", "--node", "0", "--nodes", "a,b"], &[], &certificates);
    let torchrun =
        [("RANK", "0"), ("WORLD_SIZE", "2"), ("GROUP_RANK", "0"), ("GROUP_WORLD_SIZE", "2"), ("MASTER_ADDR", "h")];
    fails(&["up", "data", "--detach"], &torchrun, &certificates);
    let shard = site.path("data/tables/feat/part1.npy");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    for words in [&["up", "data"][..], &["up", "data", "--detach"], &["up", "data", "--shared"]] {
        fails(words, &[], &["rudderd of node 1 ended with exit status: 1", "checksum mismatch"]);
    }
}
