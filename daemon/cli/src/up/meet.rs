//! How the nodes of a job learn each other's addresses where no launcher tells them: all meet at node 0 over TLS with
//! the cluster's certificates, each says on which port it answers, and gets the list of all. Owns that exchange and its
//! limits. It must never believe a node that has not proved by its certificate which node it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rudder_peers::discovery::parse_addresses;
use rudder_peers::settings::PeersConfig;
use rudder_peers::{NodeName, tls_configs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use crate::CliError;

/// First words of what a node says, and their version.
const GREETING: &str = "rudder-up 1";
/// Longest line that a node says.
const LINE_BYTES_MAX: u64 = 512;
/// Longest list of addresses: 65,535 lines.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// Longest wait for one node to say its line.
const SPEAK: Duration = Duration::from_secs(10);
/// Pause between two attempts to reach node 0, which may not be there yet.
const RETRY: Duration = Duration::from_millis(200);
/// How often the caller is asked whether it still wants this.
const CARE: Duration = Duration::from_millis(100);

/// Who meets.
pub(super) struct Meeting<'a> {
    /// This node.
    pub(super) node: u16,
    /// Nodes that must come.
    pub(super) nodes: u16,
    /// Where node 0 waits, `host:port`.
    pub(super) at: String,
    /// Where this node answers its peers, and its certificates.
    pub(super) peers: &'a PeersConfig,
    /// Fingerprint of the dataset, which all must have.
    pub(super) fingerprint: &'a str,
}

/// The addresses of all nodes, once all have come.
///
/// # Errors
/// A certificate cannot be used, not all came within `limit`, or `told` says that nobody wants it any more.
pub(super) fn meet(
    meeting: &Meeting<'_>,
    limit: Duration,
    told: &dyn Fn() -> bool,
) -> Result<BTreeMap<u16, String>, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let given_up = async {
        while !told() {
            tokio::time::sleep(CARE).await;
        }
    };
    runtime.block_on(async {
        let end = Instant::now() + limit;
        tokio::select! {
            met = async { if meeting.node == 0 { host(meeting, end).await } else { visit(meeting, end).await } } => met,
            () = given_up => Err(CliError::message("interrupted while waiting for the other nodes")),
        }
    })
}

/// What a node says: where it answers; without a host, where it is seen.
fn line(meeting: &Meeting<'_>) -> String {
    let listen = meeting.peers.listen;
    let host = if listen.ip().is_unspecified() { "-".to_owned() } else { listen.ip().to_string() };
    format!("{GREETING} {} {} {host} {}\n", meeting.nodes, meeting.fingerprint, listen.port())
}

/// The address in a node's line.
fn address(meeting: &Meeting<'_>, line: &str, seen: SocketAddr) -> Result<String, String> {
    let words: Vec<&str> =
        line.strip_prefix(GREETING).map(|rest| rest.split_whitespace().collect()).unwrap_or_default();
    let [nodes, fingerprint, host, port] = words[..] else {
        return Err("it does not speak as `rudder up` of this version does".to_owned());
    };
    if nodes != meeting.nodes.to_string() {
        return Err(format!("it counts {nodes} nodes, and this one {}", meeting.nodes));
    }
    if fingerprint != meeting.fingerprint {
        return Err(format!("it has another dataset ({fingerprint}) than this one ({})", meeting.fingerprint));
    }
    let port: u16 = port.parse().map_err(|_| "it says no port".to_owned())?;
    let ip = if host == "-" { seen.ip() } else { host.parse().map_err(|_| "it says no address".to_owned())? };
    Ok(SocketAddr::new(ip, port).to_string())
}

type Guest = server::TlsStream<TcpStream>;

/// Node 0: waits for all others, then tells them.
async fn host(meeting: &Meeting<'_>, end: Instant) -> Result<BTreeMap<u16, String>, CliError> {
    let (_, server) = tls_configs(meeting.peers, meeting.node)?;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (own_host, port) = split(&meeting.at);
    let bind = SocketAddr::new(meeting.peers.listen.ip(), port);
    let listener = TcpListener::bind(bind).await.map_err(|error| {
        CliError::context(
            format!("cannot wait for the other nodes on {bind} (TCP); choose another port by --port"),
            error,
        )
    })?;
    let mut guests: BTreeMap<u16, (String, Guest)> = BTreeMap::new();
    let mut last = String::new();
    while guests.len() + 1 < usize::from(meeting.nodes) {
        let Ok(accepted) = timeout_at(end, listener.accept()).await else {
            let absent: Vec<String> =
                (1..meeting.nodes).filter(|node| !guests.contains_key(node)).map(|node| node.to_string()).collect();
            let last = if last.is_empty() { last } else { format!("; the last that was turned away: {last}") };
            let absent = absent.join(", ");
            return Err(CliError::message(format!("nodes that did not come to {}: {absent}{last}", meeting.at)));
        };
        let Ok((tcp, seen)) = accepted else { continue };
        match timeout(SPEAK, welcome(meeting, &acceptor, tcp, seen)).await {
            Ok(Ok((node, address, guest))) => _ = guests.insert(node, (address, guest)),
            Ok(Err(reason)) => last = format!("{seen}: {reason}"),
            Err(_) => last = format!("{seen}: it says nothing"),
        }
    }
    let own = format!("{own_host}:{}", meeting.peers.listen.port());
    let mut all = BTreeMap::from([(0, own)]);
    all.extend(guests.iter().map(|(node, (address, _))| (*node, address.clone())));
    let list: String = all.iter().map(|(node, address)| format!("{node} {address}\n")).collect();
    for (node, (_, guest)) in &mut guests {
        let told = async {
            guest.write_all(list.as_bytes()).await?;
            guest.shutdown().await
        };
        let told = timeout(SPEAK, told).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        told.map_err(|error| CliError::context(format!("node {node} left before it got the addresses"), error))?;
    }
    Ok(all)
}

/// Learns who came, by its certificate, and its address.
async fn welcome(
    meeting: &Meeting<'_>,
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    seen: SocketAddr,
) -> Result<(u16, String, Guest), String> {
    let mut guest = acceptor.accept(tcp).await.map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    while !said.ends_with(b"\n") && (said.len() as u64) < LINE_BYTES_MAX {
        said.push(guest.read_u8().await.map_err(|error| error.to_string())?);
    }
    let certificate = guest.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let name = certificate.and_then(NodeName::of_certificate).ok_or("its certificate names no node")?;
    if name.node == 0 || name.node >= meeting.nodes {
        return Err(format!("its certificate is for node {}", name.node));
    }
    let address = address(meeting, &String::from_utf8_lossy(&said), seen);
    match address {
        Ok(address) => Ok((name.node, address, guest)),
        Err(reason) => {
            // It reads why; that it may have gone is no matter.
            let _ = guest.write_all(format!("refused: {reason}\n").as_bytes()).await;
            let _ = guest.shutdown().await;
            Err(format!("node {}: {reason}", name.node))
        }
    }
}

/// Any other node: goes to node 0 until that has the list.
async fn visit(meeting: &Meeting<'_>, end: Instant) -> Result<BTreeMap<u16, String>, CliError> {
    let (client, _) = tls_configs(meeting.peers, meeting.node)?;
    let connector = TlsConnector::from(Arc::new(client));
    let host = NodeName { node: 0, cluster: cluster_of(meeting.peers)? };
    let name = ServerName::try_from(host.to_string())?;
    let mut last = "nobody answered".to_owned();
    loop {
        match timeout_at(end, ask(meeting, &connector, name.clone())).await {
            Ok(Ok(list)) => match list.strip_prefix("refused: ") {
                Some(reason) => {
                    let words = format!("node 0 at {} turns this node away: {}", meeting.at, reason.trim());
                    return Err(CliError::message(words));
                }
                None => match parse_addresses(&list) {
                    Ok(all) if all.len() == usize::from(meeting.nodes) => return Ok(all),
                    _ => last = "it ended before all nodes had come".to_owned(),
                },
            },
            Ok(Err(reason)) => last = reason,
            Err(_) => {
                return Err(CliError::message(format!("node 0 at {} gave no addresses: {last}", meeting.at)));
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn ask(meeting: &Meeting<'_>, connector: &TlsConnector, name: ServerName<'static>) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let tcp = TcpStream::connect(&meeting.at).await.map_err(words)?;
    let mut stream = connector.connect(name, tcp).await.map_err(words)?;
    stream.write_all(line(meeting).as_bytes()).await.map_err(words)?;
    stream.flush().await.map_err(words)?;
    let mut list = String::new();
    (&mut stream).take(LIST_BYTES_MAX).read_to_string(&mut list).await.map_err(words)?;
    Ok(list)
}

/// The cluster that this node's certificate names.
fn cluster_of(peers: &PeersConfig) -> Result<String, CliError> {
    let path = peers.certificate.display();
    let certificate = CertificateDer::from_pem_file(&peers.certificate)
        .map_err(|error| CliError::context(format!("cannot read {path}"), error))?;
    let name = NodeName::of_certificate(&certificate);
    name.map(|name| name.cluster).ok_or_else(|| CliError::message(format!("{path} names no node")))
}

/// Host and port of an address that has both.
fn split(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    (host, port.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rudder_peers::authority;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::path::Path;

    fn peers(folder: &Path, node: u16, host: Ipv4Addr, port: u16) -> PeersConfig {
        PeersConfig {
            listen: SocketAddr::from((host, port)),
            authority: folder.join("ca.pem"),
            certificate: folder.join(format!("node-{node}.pem")),
            key: folder.join(format!("node-{node}.key")),
            ..PeersConfig::default()
        }
    }

    fn certificates() -> tempfile::TempDir {
        rudder_peers::install_tls_provider();
        let folder = tempfile::tempdir().unwrap();
        authority::init(folder.path(), "meet", 1, false).unwrap();
        (0..3).for_each(|node| drop(authority::issue(folder.path(), node, folder.path(), 1, false).unwrap()));
        folder
    }

    fn free_port() -> u16 {
        UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn all_nodes_learn_the_same_addresses() {
        let folder = certificates();
        let port = free_port();
        let go = |node: u16, host: Ipv4Addr| {
            let (folder, at) = (folder.path().to_owned(), format!("127.0.0.1:{port}"));
            std::thread::spawn(move || {
                let peers = peers(&folder, node, host, port + node);
                let meeting = Meeting { node, nodes: 3, at, peers: &peers, fingerprint: "f" };
                meet(&meeting, Duration::from_secs(30), &|| false).map_err(|error| error.to_string())
            })
        };
        // Node 2 comes before node 0 is there, and answers on every address of its machine.
        let others = [go(2, Ipv4Addr::UNSPECIFIED), go(0, Ipv4Addr::LOCALHOST), go(1, Ipv4Addr::new(127, 0, 0, 9))];
        let expected =
            [format!("127.0.0.1:{port}"), format!("127.0.0.9:{}", port + 1), format!("127.0.0.1:{}", port + 2)];
        for other in others {
            assert_eq!(other.join().unwrap().unwrap().into_values().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn who_has_another_data_set_or_another_authority_is_turned_away_and_the_absent_are_named() {
        let (folder, strangers) = (certificates(), certificates());
        let port = free_port();
        let go = |node: u16, folder: &Path, fingerprint: &'static str, seconds: u64| {
            let (folder, at) = (folder.to_owned(), format!("127.0.0.1:{port}"));
            std::thread::spawn(move || {
                let peers = peers(&folder, node, Ipv4Addr::LOCALHOST, port);
                let meeting = Meeting { node, nodes: 3, at, peers: &peers, fingerprint };
                meet(&meeting, Duration::from_secs(seconds), &|| false).unwrap_err().to_string()
            })
        };
        let host = go(0, folder.path(), "f", 4);
        let other_data = go(1, folder.path(), "g", 4);
        let stranger = go(2, strangers.path(), "f", 2);
        let error = other_data.join().unwrap();
        assert!(error.contains("turns this node away: it has another dataset (g) than this one (f)"), "{error}");
        let error = stranger.join().unwrap();
        assert!(error.contains("gave no addresses") && error.to_lowercase().contains("certificate"), "{error}");
        let error = host.join().unwrap();
        assert!(error.contains("nodes that did not come to") && error.contains("1, 2"), "{error}");
    }
}
