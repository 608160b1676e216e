//! `rudder demo` over real processes, as people run it: the fields of its JSON, what must hold of them, and that
//! nothing stays behind.

// A helper that cannot go on fails its test, as the tests themselves do.
#![allow(clippy::unwrap_used)]

use rudder_tests::process::operator_program;
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A demo whose run folder lies in `temp`.
fn demo(temp: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(operator_program().unwrap());
    command.arg("demo").args(arguments).env("TMPDIR", temp);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().unwrap().next().is_none()
}

/// Process numbers of the children of `parent`.
fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Starts a demo that would take long and waits until its two daemons and two trainers run.
fn long_demo(temp: &Path) -> std::process::Child {
    let arguments = ["--graph", "powerlaw:2000", "--epochs", "10000", "--dim", "8"];
    let demo = demo(temp, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while children(demo.id()).len() < 4 {
        assert!(Instant::now() < deadline, "the demo has not started its processes");
        std::thread::sleep(Duration::from_millis(20));
    }
    demo
}

fn is_gone(pid: u32) -> bool {
    !Path::new("/proc").join(pid.to_string()).exists()
}

#[test]
fn the_comparison_is_complete_true_and_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let arguments =
        ["--graph", "powerlaw:4000", "--nodes", "3", "--trainers", "2", "--epochs", "4", "--dim", "16", "--json"];
    let report = json(&demo(temp.path(), &arguments).output().unwrap());
    assert_eq!(report["graph"]["vertices"], 4_000);
    assert_eq!(report["graph"]["partitions"], 3);
    let (edges, cut) = (report["graph"]["edges"].as_u64().unwrap(), report["graph"]["edge_cut"].as_u64().unwrap());
    assert!(cut > 0 && cut < edges / 2, "{cut} of {edges} edges are cut");
    assert_eq!((&report["dim"], &report["epochs"], &report["trainers"]), (&16.into(), &4.into(), &2.into()));

    let runs = report["runs"].as_array().unwrap();
    let policies: Vec<&str> = runs.iter().map(|run| run["policy"].as_str().unwrap()).collect();
    assert_eq!(policies, ["none", "periodic", "epoch"]);
    for run in runs {
        assert_eq!(run["wrong_rows"], 0, "{run}");
        assert_eq!(run["lookahead"], 0);
        assert_eq!(run["epoch_seconds"].as_array().unwrap().len(), 4);
        assert!(run["stall_seconds"].as_f64().unwrap() > 0.0);
        let count = |name: &str| run[name].as_u64().unwrap();
        assert!(count("rows_checked") > count("remote_rows") && count("network_bytes") >= 64 * count("network_rows"));
        // The same seeds and true rows: the same minibatches, the same model.
        assert_eq!(run["remote_rows"], runs[0]["remote_rows"]);
        assert_eq!(run["accuracy"], runs[0]["accuracy"]);
    }
    let [none, _, epoch] = &runs[..] else { panic!("three runs") };
    assert_eq!((&none["capacity_rows"], &none["hit_rate"]), (&0.into(), &0.0.into()));
    assert!(epoch["capacity_rows"].as_u64().unwrap() > 0);
    let moved = |run: &Value| run["network_rows"].as_u64().unwrap();
    assert!(moved(epoch) < moved(none), "{} rows with a cache, {} without", moved(epoch), moved(none));
    assert!(is_empty(temp.path()), "the run folder is still there");
}

/// `rudder replay` of a trace with a cache of `rows` rows: the only result.
fn replay(trace: &Path, rows: u64, policy: &str, lookahead: &str) -> Value {
    let rows = rows.to_string();
    let arguments = ["--capacity", &rows, "--policy", policy, "--lookahead", lookahead, "--json"];
    let output = Command::new(operator_program().unwrap()).arg("replay").arg(trace).args(arguments).output().unwrap();
    json(&output)["results"][0].clone()
}

#[test]
fn a_run_moves_the_rows_that_a_replay_of_its_trace_moves() {
    let temp = tempfile::tempdir().unwrap();
    for lookahead in ["0", "8"] {
        let trace = temp.path().join(lookahead);
        let arguments = ["--graph", "powerlaw:8000", "--epochs", "5", "--dim", "4", "--policy", "epoch", "--json"];
        let mut demo = demo(temp.path(), &arguments);
        demo.args(["--lookahead", lookahead, "--trace"]).arg(&trace);
        let report = json(&demo.output().unwrap());
        let run = &report["runs"][0];
        let mut remote_rows = 0;
        for (node, daemon) in run["daemons"].as_array().unwrap().iter().enumerate() {
            assert_eq!(daemon["node"], node);
            let count = |name: &str| daemon[name].as_u64().unwrap();
            let replayed = replay(&trace.join(format!("node{node}")), count("capacity_rows"), "epoch", lookahead);
            let asked = count("hit_rows") + count("staged_rows") + count("stall_rows");
            remote_rows += asked;
            // Replay's hit rate tells its requests: the same number as the daemon's, since every fetch was recorded.
            let requests = replayed["hits"].as_f64().unwrap() / replayed["hit_rate"].as_f64().unwrap();
            assert_eq!(requests.round() as u64, asked);
            // On a busy machine a minibatch may find rows of the one before that have come and are not in the cache
            // yet. In replay, where nothing takes time, some of them cross once more and others are hits.
            let found_landed = if lookahead == "0" { count("staged_rows") } else { 0 };
            let least = count("network_rows") as f64 / replayed["network_rows"].as_f64().unwrap();
            let most = (count("network_rows") + found_landed) as f64 / replayed["network_rows"].as_f64().unwrap();
            let words = format!("node {node}, lookahead {lookahead}: {least} to {most}: {daemon} {replayed}");
            assert!(least < 1.03 && most > 0.97, "{words}");
        }
        assert_eq!(run["remote_rows"], remote_rows);
    }
}

#[test]
fn trainers_that_share_a_daemon_move_fewer_rows() {
    let temp = tempfile::tempdir().unwrap();
    let arguments = ["--graph", "powerlaw:4000", "--trainers", "4", "--epochs", "6", "--batch", "16", "--dim", "4"];
    let report =
        json(&demo(temp.path(), &arguments).args(["--policy", "epoch", "--private", "--json"]).output().unwrap());
    let runs = report["runs"].as_array().unwrap();
    let daemons = |run: &Value| run["daemons"].as_array().unwrap().len();
    assert_eq!(
        runs.iter().map(|run| (run["private"] == true, daemons(run))).collect::<Vec<_>>(),
        [(false, 2), (true, 8)]
    );
    let [shared, private] = [&runs[0], &runs[1]].map(|run| run["capacity_rows"].as_f64().unwrap());
    assert!((shared - private).abs() <= 8.0, "as much memory in all: {shared} and {private} rows");
    assert_eq!(runs[0]["remote_rows"], runs[1]["remote_rows"]);
    assert_eq!(runs[0]["accuracy"], runs[1]["accuracy"]);
    assert!(runs.iter().all(|run| run["wrong_rows"] == 0));
    let ratio = report["sharing"][0]["ratio"].as_f64().unwrap();
    assert!(ratio < 0.8, "shared daemons moved {ratio} of the rows of private ones");
    let again = runs[0]["network_rows"].as_f64().unwrap() / runs[1]["network_rows"].as_f64().unwrap();
    assert!((ratio - again).abs() < 1e-9);
}

#[test]
fn people_get_a_table_and_keep_gets_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let arguments = ["--graph", "powerlaw:2000", "--epochs", "1", "--dim", "4", "--policy", "epoch", "--keep"];
    let output = demo(temp.path(), &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("powerlaw:2000: 2,000 vertices") && table.contains("network rows"), "{table}");
    assert!(table.contains(" received rows were wrong."), "{table}");
    let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 80 && !table.contains('\u{1b}'), "{widest} columns: {table}");
    let said = text(&output.stderr);
    let folder = said.lines().find_map(|line| line.strip_prefix("kept the run folder: ")).unwrap();
    assert!(Path::new(folder).join("epoch-0/node0/rudderd.log").is_file());
    assert!(Path::new(folder).join("dataset/manifest.json").is_file());
}

#[test]
fn a_signal_ends_every_process_and_removes_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let demo = long_demo(temp.path());
    let processes = children(demo.id());
    let pid = rustix::process::Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(text(&output.stderr).contains("SIGINT"));
    assert!(processes.into_iter().all(is_gone));
    assert!(is_empty(temp.path()));
}

#[test]
fn a_demo_that_is_killed_takes_its_processes_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let mut demo = long_demo(temp.path());
    let processes = children(demo.id());
    demo.kill().unwrap();
    demo.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes.iter().copied().all(is_gone) {
        assert!(Instant::now() < deadline, "processes outlive the demo");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_daemon_that_dies_is_named_and_the_rest_is_taken_down() {
    let temp = tempfile::tempdir().unwrap();
    let demo = long_demo(temp.path());
    let processes = children(demo.id());
    let is_daemon = |pid: &&u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| text(&line).contains("rudderd.toml"))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let daemon = loop {
        if let Some(daemon) = processes.iter().find(is_daemon) {
            break *daemon;
        }
        assert!(Instant::now() < deadline, "no daemon among {processes:?}");
    };
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("rudderd of node") && said.contains("signal: 9"), "{said}");
    assert!(processes.into_iter().all(is_gone));
    assert!(is_empty(temp.path()));
}

#[test]
fn a_folder_that_cannot_be_made_fails_before_anything_is_trained() {
    let temp = tempfile::tempdir().unwrap();
    for option in ["--trace", "--journal"] {
        let output = demo(temp.path(), &["--epochs", "1", option, "/proc/no-such-folder"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{option}");
        assert!(text(&output.stderr).contains("cannot create /proc/no-such-folder"), "{}", text(&output.stderr));
    }
    assert!(is_empty(temp.path()));
}

#[test]
fn wrong_usage_is_status_2_and_starts_nothing() {
    let temp = tempfile::tempdir().unwrap();
    for arguments in [
        &["--policy", "epoch,epoch"][..],
        &["--nodes", "1"],
        &["--graph", "web"],
        &["--private"],
        &["--lookahead", "0,0"],
    ] {
        let output = demo(temp.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    assert!(is_empty(temp.path()));
}
