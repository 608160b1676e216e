//! What this node has to offer: its dataset, a place for the socket, ports, and the daemon that may be running. It
//! looks, judges and says what to do; it must leave everything as it is.

use super::machine::TableSize;
use crate::finding::Finding;
use crate::style::{bytes, count, plural};
use crate::{CliError, health, http};
use rudder_client::{Client, ConnectOptions};
use rudder_daemon::config::Config;
use rudder_dataset::{Dataset, Origin, Part, Verify};
use rustix::fs::Access;
use serde_json::Value;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the daemon of this node.
const PATIENCE: Duration = Duration::from_secs(3);

/// The dataset as the daemon would open it, without reading rows.
pub(super) fn dataset(config: &Config, found: &mut Vec<Finding>) -> Option<Dataset> {
    let path = config.dataset.path.display();
    let dataset = match Dataset::open(&config.dataset.path, Part(config.node.index()), Verify::Shape, &|_, _| {}) {
        Ok(dataset) => dataset,
        Err(error) => {
            let mend = "correct dataset.path or node.index, or copy the dataset here again";
            found.push(Finding::problem("dataset", rudder_telemetry::error_chain(&error), mend));
            return None;
        }
    };
    let local: u64 =
        dataset.tables().iter().map(|table| table.book.owned(dataset.node()) * table.row_bytes as u64).sum();
    let checksums = match dataset.origin() {
        Origin::Folder => "checksums are read by rudderd at its start",
        Origin::DistDgl => "a DistDGL partition, which has no checksums",
    };
    let words = format!(
        "{path}: `{}`, {}, {} of rows in partition {} of {}; {checksums}",
        dataset.name(),
        plural(dataset.tables().len() as u64, "table"),
        bytes(local as f64),
        dataset.node(),
        dataset.parts()
    );
    found.push(Finding::ok("dataset", words));
    if let Err(invalid) = config.validate_against(dataset.parts()) {
        found.push(Finding::problem("configuration", format!("{} = {}", invalid.key, invalid.value), invalid.problem));
    }
    Some(dataset)
}

/// The tables as far as memory is concerned.
pub(super) fn sizes(config: &Config, dataset: &Dataset) -> Vec<TableSize> {
    let size = |table: &rudder_dataset::Table| {
        let remote_rows = table.rows - table.book.owned(dataset.node());
        let (capacity, _) = config.cache.for_table(&table.name);
        let rows_max = config.cache.rows_max(table.rows);
        TableSize {
            // Those with bookkeeping: where it is bounded, each tracked row takes that of two.
            rows: table.rows.min(rows_max.saturating_mul(4)),
            remote_rows,
            row_bytes: table.row_bytes as u64,
            capacity_rows: capacity.rows(remote_rows, table.row_bytes).min(rows_max),
            ceiling_rows: config.cache.ceiling_of(&table.name).rows(remote_rows, table.row_bytes).min(rows_max),
        }
    };
    dataset.tables().iter().map(size).collect()
}

/// The process that serves the socket, if one does.
pub(super) fn daemon_pid(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
}

/// Whether the daemon can make its socket, and trainers of other users can reach it.
pub(super) fn socket(path: &Path, running: bool) -> Finding {
    let name = "socket";
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let shown = folder.display();
    let data = match std::fs::metadata(folder) {
        Ok(data) if data.is_dir() => data,
        Ok(_) => return Finding::problem(name, format!("{shown} is not a folder"), "correct local.socket"),
        Err(error) => {
            let mend = format!("RuntimeDirectory= in the systemd unit, or `install -d -m 0755 -o rudder {shown}`");
            return Finding::problem(name, format!("{shown}: {error}"), mend);
        }
    };
    if let Ok(there) = std::fs::symlink_metadata(path)
        && !there.file_type().is_socket()
    {
        return Finding::problem(
            name,
            format!("{} is there and no socket", path.display()),
            "remove it, or correct local.socket",
        );
    }
    let mode = data.permissions().mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        let found = format!("anybody may replace what is in {shown} (mode {:04o})", mode & 0o7777);
        return Finding::warning(name, found, format!("chmod o-w {shown}"));
    }
    if running {
        return Finding::ok(name, format!("{} is served", path.display()));
    }
    if let Err(error) = rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!("this user cannot make a socket in {shown}: {error}");
        return Finding::problem(
            name,
            found,
            format!("run this as the daemon's user; else chown {shown} to that user"),
        );
    }
    Finding::ok(name, format!("can be made: {}", path.display()))
}

/// What listening on an address that nobody of ours has came to.
pub(super) fn port(name: &str, key: &str, address: SocketAddr, bound: io::Result<()>) -> Finding {
    match bound {
        Ok(()) => Finding::ok(name, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let found = format!("{address} is taken by another program ({key})");
            Finding::problem(
                name,
                found,
                format!("`ss -lunpt sport = :{}` says which; stop it, or change {key}", address.port()),
            )
        }
        Err(error) => Finding::problem(
            name,
            format!("{address} cannot be listened on ({key}): {error}"),
            format!("correct {key}"),
        ),
    }
}

/// Whether the ports of a daemon that does not run are free; the only node of a dataset takes none for peers.
pub(super) fn ports(config: &Config, alone: bool) -> Vec<Finding> {
    let (admin, peers) = (config.admin.listen, config.peers.listen);
    let mut found = vec![port("admin port", "admin.listen", admin, TcpListener::bind(admin).map(drop))];
    if !alone {
        found.push(port("peers port", "peers.listen", peers, UdpSocket::bind(peers).map(drop)));
    }
    found
}

/// Whether the HTTP interface is open to others, and to whom.
pub(super) fn admin(config: &Config) -> Finding {
    let (name, listen) = ("admin access", config.admin.listen);
    match &config.admin.token_file {
        Some(path) => match std::fs::read_to_string(path) {
            Err(error) => Finding::problem(
                name,
                format!("{}: {error}", path.display()),
                "let the daemon's user read it, or correct admin.token_file",
            ),
            Ok(token) if token.trim().is_empty() => Finding::problem(
                name,
                format!("{} is empty", path.display()),
                format!("openssl rand -hex 32 > {}", path.display()),
            ),
            Ok(_) => Finding::ok(name, format!("{listen}, with a token")),
        },
        None if !listen.ip().is_loopback() => {
            let found = format!("anybody who reaches {listen} may steer the caches");
            Finding::warning(name, found, "set admin.token_file, or listen on 127.0.0.1")
        }
        None => Finding::ok(name, format!("{listen}, this machine only")),
    }
}

/// Where this machine reaches its daemon's HTTP interface.
pub(super) fn admin_url(config: &Config) -> String {
    let mut address = config.admin.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() });
    }
    format!("http://{address}")
}

/// What the running daemon says of itself.
pub(super) fn daemon(config: &Config) -> Vec<Finding> {
    let url = admin_url(config);
    let ask = |path: &str| http::ask_within(PATIENCE, &url, config.admin.token_file.as_deref(), path, None);
    let status = ask("/v1/status").and_then(|text| serde_json::from_str::<Value>(&text).map_err(CliError::from));
    judge_daemon(&url, ask("/readyz").map(drop), status)
}

fn judge_daemon(url: &str, ready: Result<(), CliError>, status: Result<Value, CliError>) -> Vec<Finding> {
    let name = "daemon";
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let mend = "is admin.listen of this configuration the running daemon's? Its log says more";
            return vec![Finding::problem(name, format!("it serves trainers, but not {url}: {error}"), mend)];
        }
    };
    if let Err(error) = ready {
        return vec![Finding::warning(name, format!("it is not ready: {error}"), "wait, or read its log")];
    }
    let up = status["uptime_seconds"].as_f64().unwrap_or_default();
    let mut found = vec![Finding::ok(name, format!("{url} is ready, up {}", crate::style::span(up)))];
    found.extend(
        health::findings(&status)
            .into_iter()
            .map(|finding| Finding { check: format!("daemon: {}", finding.check), ..finding }),
    );
    found
}

/// Whether this user may use the socket as a trainer would.
pub(super) fn as_trainer(socket: &Path) -> Finding {
    match Client::connect(ConnectOptions::at(socket)) {
        Ok(client) => {
            let rows: u64 = client.tables().iter().map(|table| table.rows).sum();
            Finding::ok(
                "trainers",
                format!(
                    "{} of {} rows offered to this user",
                    plural(client.tables().len() as u64, "table"),
                    count(rows as f64)
                ),
            )
        }
        Err(error) => {
            let mend = "let the trainers' user in: local.mode, local.allowed_uids, and the group of the folder";
            Finding::warning(
                "trainers",
                format!("this user is not served: {}", rudder_telemetry::error_chain(&error)),
                mend,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity::{Ok as Fine, Problem, Warning};
    use serde_json::json;

    #[test]
    fn a_place_without_room_for_a_socket_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rudder.sock");
        assert_eq!(socket(&path, false).verdict, Fine);
        let absent = socket(&dir.path().join("no/rudder.sock"), false);
        assert!(absent.verdict == Problem && absent.mend.unwrap().contains("RuntimeDirectory"));
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(socket(&path, false).verdict, Problem);
        assert_eq!(socket(&path.join("under"), false).verdict, Problem);
        std::fs::remove_file(&path).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(socket(&path, false).verdict, Warning);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(socket(&path, false).verdict, Fine);
    }

    #[test]
    fn a_port_that_is_taken_is_found() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = Config {
            admin: rudder_daemon::config::AdminConfig { listen: taken.local_addr().unwrap(), ..Default::default() },
            peers: rudder_peers::PeersConfig { listen: "192.0.2.1:7400".parse().unwrap(), ..Default::default() },
            ..Config::default()
        };
        let found = ports(&config, false);
        assert!(found[0].verdict == Problem && found[0].mend.as_ref().unwrap().contains("ss -lunpt"), "{found:?}");
        assert!(
            found[1].verdict == Problem && found[1].found.contains("peers.listen"),
            "no address of ours: {found:?}"
        );
        drop(taken);
        assert_eq!(ports(&config, true).iter().map(|finding| finding.verdict).collect::<Vec<_>>(), [Fine]);
    }

    #[test]
    fn an_open_interface_without_token_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        let with = |listen: &str, token_file| {
            let admin = rudder_daemon::config::AdminConfig {
                listen: listen.parse().unwrap(),
                token_file,
                ..Default::default()
            };
            admin_of(&Config { admin, ..Config::default() })
        };
        fn admin_of(config: &Config) -> crate::finding::Severity {
            admin(config).verdict
        }
        assert_eq!([with("127.0.0.1:1", None), with("0.0.0.0:1", None)], [Fine, Warning]);
        assert_eq!(with("0.0.0.0:1", Some(token.clone())), Problem);
        std::fs::write(&token, "\n").unwrap();
        assert_eq!(with("0.0.0.0:1", Some(token.clone())), Problem);
        std::fs::write(&token, "secret\n").unwrap();
        assert_eq!(with("0.0.0.0:1", Some(token)), Fine);
    }

    #[test]
    fn an_absent_dataset_is_found() {
        let mut config = Config::default();
        config.dataset.path = "/nonexistent".into();
        let mut found = Vec::new();
        assert!(dataset(&config, &mut found).is_none());
        assert!(found[0].verdict == Problem && found[0].found.contains("/nonexistent"), "{found:?}");
    }

    #[test]
    fn a_daemon_that_is_not_well_is_told() {
        let error = || CliError::message("no answer");
        assert_eq!(judge_daemon("u", Ok(()), Err(error()))[0].verdict, Problem);
        assert_eq!(judge_daemon("u", Err(error()), Ok(json!({})))[0].verdict, Warning);
        let sick = json!({"uptime_seconds": 5.0, "peers": [{"node": 1, "connections": 0, "last_error": "gone"}]});
        let found = judge_daemon("u", Ok(()), Ok(sick));
        assert!(
            found[0].verdict == Fine && found[1].verdict == Problem && found[1].check == "daemon: peer 1",
            "{found:?}"
        );
    }
}
