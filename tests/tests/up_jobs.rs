//! `rudder up` as launchers start it: two nodes of a job on this machine, each with an address of its own, and what
//! finds the other nodes.
#![allow(clippy::unwrap_used)]

use rudder_client::{Client, ConnectOptions};
use rudder_tests::process::LIFE_LIMIT;
use rudder_tests::up_site::{Running, Site, client, free_port, socket, text};
use rudder_tests::{assert_rows, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::process::Stdio;

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
    site.certify("0-1");
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
    site.certify("0-1");
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
    site.certify("0-1");
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
    site.certify("0-1");
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
    site.certify("0-1");
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

/// `rudderd` alone, over a dataset of one part, needs nothing but its path.
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
