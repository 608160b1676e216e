//! `rudder up`, `down`, `get` and `init` as a person or a launcher calls them: real daemons from one command, what they
//! say, and that nothing of them stays.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ConnectOptions};
use rudder_tests::process::{LIFE_LIMIT, operator_program};
use rudder_tests::{assert_rows, get, wait_until, write_dataset};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// A data set, and a folder for what `rudder up` keeps, both of one test.
struct Site {
    folder: tempfile::TempDir,
}

/// `rudder up` as it runs.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// The line of JSON that it prints when the daemons are ready.
    fn ready(&mut self) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}{}", self.words()))
    }

    fn signal(&self, signal: Signal) {
        send(u64::from(self.child.id()), signal);
    }

    /// What it says on standard error, to its end.
    fn words(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn status(&mut self) -> Option<i32> {
        assert!(wait_until(LIFE_LIMIT, || self.child.try_wait().unwrap().is_some()), "it does not end");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended. Its daemons end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(pid: u64, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn is_alive(pid: u64) -> bool {
    // A child of a process that has not yet waited for it counts as alive: wait_until is for that.
    test_kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).is_ok()
}

fn pids(ready: &Value) -> Vec<u64> {
    ready["nodes"].as_array().unwrap().iter().map(|node| node["pid"].as_u64().unwrap()).collect()
}

fn assert_gone(pids: &[u64]) {
    assert!(wait_until(LIFE_LIMIT, || !pids.iter().any(|&pid| is_alive(pid))), "daemons were left behind");
}

fn socket(ready: &Value) -> PathBuf {
    PathBuf::from(ready["socket"].as_str().unwrap())
}

fn client(socket: &Path) -> Client {
    Client::connect(ConnectOptions::at(socket)).unwrap()
}

impl Site {
    fn new(parts: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_dataset(&folder.path().join("data"), 100, parts).unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `rudder` with these words, and no variable of a launcher but these.
    fn command(&self, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(operator_program().unwrap());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["RUDDER_", "SLURM", "OMPI_", "PMI", "KUBERNETES"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(words).current_dir(self.folder.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.envs(variables.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words, &[]).output().unwrap()
    }

    fn start(&self, words: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut child = self.command(words, variables).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    }

    /// What is left of all that ran.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("run/rudder")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Certificates of the nodes of a job.
    fn certificates(&self, nodes: &str) {
        let output = self.run(&["certs", "init", "--out", "certs", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let output = self.run(&["certs", "issue", "--authority", "certs", "--nodes", nodes, "--json"]);
        assert!(output.status.success(), "{output:?}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A port that is free for UDP and is not given to anybody who asks for any.
fn free_port() -> u16 {
    let low = 20_000 + (std::process::id() % 8_000) as u16;
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    loop {
        let port = low + 2 * NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

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
    assert!(rows.contains("3  [18]  own shard of this node") && rows.contains("99  [690]  "), "{rows}{output:?}");
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
    // A data set that was replaced under its daemons is not what they serve.
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
    let start = || {
        let mut child = site.command(&["up", "data", "--shared", "--json"], &[]).stdin(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    };
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
    fails(&["up", "nowhere"], &[], &["no data set at nowhere"]);
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

#[test]
fn the_local_ranks_of_one_machine_share_its_daemons() {
    let site = Site::new(2);
    let rank = |rank: &'static str| {
        [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "localhost"),
        ]
    };
    let mut waiting = site.start(&["up", "data", "--json"], &rank("1"));
    let mut starting = site.start(&["up", "data", "--json"], &rank("0"));
    let (one, two) = (waiting.ready(), starting.ready());
    assert_eq!(one["nodes"], two["nodes"]);
    assert_eq!((&one["already_running"], &two["already_running"]), (&true.into(), &false.into()));
    assert_eq!(waiting.status(), Some(0));
    starting.signal(Signal::TERM);
    assert_eq!(starting.status(), Some(0));
    assert_eq!(site.left(), [""; 0]);
}

/// Two nodes of a job on this machine, each on a loopback address of its own: what both say, once each has rows of the
/// other.
fn two_nodes(site: &Site, node: impl Fn(u16) -> (Vec<String>, Vec<(&'static str, String)>)) {
    let begun: Vec<Running> = (0..2)
        .map(|at| {
            let (words, variables) = node(at);
            let words: Vec<&str> = ["up", "data", "--json", "--certs", "certs"]
                .into_iter()
                .chain(words.iter().map(String::as_str))
                .collect();
            let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
            site.start(&words, &variables)
        })
        .collect();
    let mut nodes = begun;
    let ready: Vec<Value> = nodes.iter_mut().map(Running::ready).collect();
    for (at, ready) in (0..).zip(&ready) {
        assert_eq!((ready["nodes"].as_array().unwrap().len(), &ready["nodes"][0]["node"]), (1, &Value::from(at)));
        let (client, ids) = (client(&socket(ready)), [99, 0, 50]);
        // On a busy machine the first connection may take longer than a fetch waits.
        assert!(wait_until(LIFE_LIMIT, || client.fetch("feat", &ids).is_ok()));
        assert_rows(&client.fetch("feat", &ids).unwrap(), &ids);
    }
    for node in &mut nodes {
        node.signal(Signal::TERM);
        assert_eq!(node.status(), Some(0), "{}", node.words());
    }
    assert_eq!(site.left(), [""; 0]);
}

/// Flags for a node that stands for a host: an address of its own, and a free port for HTTP.
fn host(address: &str) -> Vec<String> {
    ["--set", &format!("peers.listen={address}"), "--set", "admin.listen=127.0.0.1:0"].map(str::to_owned).into()
}

#[test]
fn nodes_of_torchrun_meet_at_the_master() {
    let site = Site::new(2);
    site.certificates("0-1");
    let port = free_port();
    two_nodes(&site, |node| {
        let mut words = host(&format!("127.0.0.{}:{port}", 1 + node));
        words.extend(["--port".to_owned(), port.to_string()]);
        let variables = [
            ("RANK", (4 * node).to_string()),
            ("LOCAL_RANK", "0".to_owned()),
            ("WORLD_SIZE", "8".to_owned()),
            ("LOCAL_WORLD_SIZE", "4".to_owned()),
            ("GROUP_RANK", node.to_string()),
            ("GROUP_WORLD_SIZE", "2".to_owned()),
            ("MASTER_ADDR", "127.0.0.1".to_owned()),
            ("MASTER_PORT", "29500".to_owned()),
        ];
        (words, variables.into())
    });
}

#[test]
fn nodes_of_mpi_meet_where_they_are_told() {
    let site = Site::new(2);
    site.certificates("0-1");
    let port = free_port();
    two_nodes(&site, |node| {
        let mut words = host(&format!("127.0.0.{}:{port}", 1 + node));
        words.extend(["--port", &port.to_string(), "--rendezvous", "127.0.0.1"].map(str::to_owned));
        let variables = [
            ("OMPI_COMM_WORLD_RANK", (2 * node).to_string()),
            ("OMPI_COMM_WORLD_SIZE", "4".to_owned()),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0".to_owned()),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2".to_owned()),
        ];
        (words, variables.into())
    });
}

#[test]
fn nodes_of_slurm_are_found_by_the_list_of_hosts() {
    let site = Site::new(2);
    site.certificates("0-1");
    let port = free_port();
    two_nodes(&site, |node| {
        let variables = [
            ("SLURM_NODEID", node.to_string()),
            ("SLURM_NNODES", "2".to_owned()),
            ("SLURM_JOB_ID", "7".to_owned()),
            ("SLURM_JOB_NODELIST", "127.0.0.[1-2]".to_owned()),
        ];
        (host(&format!("127.0.0.{}:{port}", 1 + node)), variables.into())
    });
}

#[test]
fn pods_of_a_stateful_set_are_found_by_their_names() {
    let site = Site::new(2);
    site.certificates("0-1");
    let port = free_port();
    two_nodes(&site, |node| {
        let mut words = host(&format!("127.0.1.{node}:{port}"));
        words.extend(["--service", &format!("127.0.1.{{node}}:{port}")].map(str::to_owned));
        (words, vec![("HOSTNAME", format!("trainer-{node}"))])
    });
}

#[test]
fn nodes_are_listed_by_hand_or_found_in_a_file() {
    let site = Site::new(2);
    site.certificates("0-1");
    let port = free_port();
    let address = |node: u16| format!("127.0.0.{}:{port}", 1 + node);
    two_nodes(&site, |node| {
        let mut words = host(&address(node));
        let nodes = format!("{},{}", address(0), address(1));
        words.extend(["--node", &node.to_string(), "--nodes", &nodes].map(str::to_owned));
        (words, Vec::new())
    });
    fs::write(site.path("nodes"), format!("0 {}\n1 {}\n", address(0), address(1))).unwrap();
    two_nodes(&site, |node| {
        let mut words = host(&address(node));
        let file = format!("peers.discovery=file:{}", site.path("nodes").display());
        words.extend(["--node", &node.to_string(), "--set", &file].map(str::to_owned));
        (words, Vec::new())
    });
}

/// `rudderd` alone, over a data set of one part, needs nothing but its path.
#[test]
fn a_daemon_of_one_part_needs_no_configuration() {
    let site = Site::new(1);
    let socket = site.path("s");
    let mut command = rudder_tests::process::command().unwrap();
    command
        .arg("--dataset")
        .arg(site.path("data"))
        .arg("--socket")
        .arg(&socket)
        .args(["--admin-listen", "127.0.0.1:0"]);
    let mut daemon = command.stderr(Stdio::null()).spawn().unwrap();
    let serves = wait_until(LIFE_LIMIT, || Client::connect(ConnectOptions::at(&socket)).is_ok());
    let rows = serves.then(|| client(&socket).fetch("feat", &[7]).unwrap());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_rows(&rows.unwrap(), &[7]);
    let two = Site::new(2);
    let data = two.path("data").display().to_string();
    let output = rudder_tests::process::run_to_end(&["--dataset", &data]).unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("node.index = not set: the dataset has 2 partitions") && said.contains("rudder up"),
        "{said}"
    );
}

#[test]
fn discovery_is_checked_before_the_start() {
    let site = Site::new(2);
    let check = |discovery: &str, more: &str| {
        let text = format!("[dataset]\npath = \"data\"\n[peers]\ndiscovery = \"{discovery}\"\n{more}");
        fs::write(site.path("c.toml"), text).unwrap();
        let mut command = rudder_tests::process::command().unwrap();
        command.args(["--check", "--config"]).arg(site.path("c.toml")).env_remove("SLURM_JOB_NODELIST");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("dns:rudder-{node}.rudder:7400", "").0, Some(0));
    for (discovery, more, words) in [
        ("dns:rudder", "", "write {node} where the node's index stands"),
        ("slurm", "", "SLURM_JOB_NODELIST is not set"),
        ("file:/nowhere", "", "/nowhere: No such file"),
        ("zeroconf", "", "`zeroconf` is no discovery"),
        ("slurm", "[peers.addresses]\n0 = \"a:1\"\n", "peers.addresses lists the nodes, too"),
    ] {
        let (status, said) = check(discovery, more);
        assert!(status == Some(64) && said.contains(words), "{discovery}: {said}");
    }
}

#[test]
fn the_file_of_init_passes_the_check_once_it_is_filled_in() {
    let site = Site::new(1);
    let output = site.run(&["init", "--out", "rudderd.toml"]);
    assert!(text(&output.stdout).contains("next: fill in dataset.path, then rudderd --check"), "{output:?}");
    let file = site.path("rudderd.toml");
    let check = || {
        let mut command = rudder_tests::process::command().unwrap();
        let output = command.args(["--check", "--config"]).arg(&file).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (status, said) = check();
    assert!(status == Some(64) && said.contains("dataset.path = \"\": empty"), "{said}");
    let filled = fs::read_to_string(&file).unwrap().replace("path = \"\"", "path = \"/data/graph\"");
    fs::write(&file, filled).unwrap();
    assert_eq!(check().0, Some(0));
    let output = site.run(&["init", "--out", "rudderd.toml"]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("--force"), "{output:?}");
    let output = site.run(&["init", "--json"]);
    let keys: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(keys.as_array().unwrap().iter().any(|key| key["key"] == "discovery" && key["default"] == "\"\""), "{keys}");
}

/// A peer that comes back elsewhere is found again by the file.
#[test]
fn a_file_of_addresses_is_read_again_while_the_daemon_runs() {
    let port = free_port();
    let mut cluster = rudder_tests::Cluster::prepare(2, 100, |_| ()).unwrap();
    let file = cluster.dir().join("nodes");
    let elsewhere = format!("127.0.0.3:{port}");
    let write = |one: &str| fs::write(&file, format!("0 127.0.0.1:1\n1 {one}\n")).unwrap();
    write("127.0.0.2:9");
    for node in 0..2 {
        let peers = &mut cluster.config(node).peers;
        peers.addresses.clear();
        peers.discovery = format!("file:{}", file.display()).parse().unwrap();
        peers.connect_timeout_ms = 300;
    }
    cluster.config(1).peers.listen = elsewhere.parse().unwrap();
    cluster.start_node(0).unwrap();
    cluster.start_node(1).unwrap();
    let client = cluster.client(0).unwrap();
    assert!(client.fetch("feat", &[99]).is_err(), "nobody is at the first address");
    write(&elsewhere);
    assert!(wait_until(LIFE_LIMIT, || client.fetch("feat", &[99]).is_ok()));
    assert_rows(&client.fetch("feat", &[99]).unwrap(), &[99]);
}
