//! Dialling a peer: its name may have several addresses, which are tried in turn until one answers as the peer. Owns
//! the order and the shared time limit of these attempts; it must never leave one running when it returns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use rudder_telemetry::error_chain;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::context::{PeersContext, ReadHelloError, code, read_hello};
use super::error::DialError;
use super::tls::NodeName;
use super::wire::{HelloReply, Refusal, Stamp, hello_frame};

/// TLS alerts are QUIC transport errors from this number on (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Longest head start of an address over the next one (RFC 8305 recommends 250 ms).
const HEAD_START_MAX: Duration = Duration::from_millis(250);

/// A new connection to a peer that has proved who it is.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    /// Where the peer's versions stand.
    pub(crate) stamp: Stamp,
    /// Taken before the peer was asked for that.
    pub(crate) since: std::time::Instant,
}

/// Connects to node `peer` at `host:port` within `peers.connect_timeout_ms`, name lookup included.
///
/// # Errors
/// Why not; where the name has several addresses, why not at each of them.
pub(crate) async fn dial(shared: &Arc<PeersContext>, peer: u16, address: &str) -> Result<Dialled, DialError> {
    let end = Instant::now() + shared.connect_timeout();
    match timeout_at(end, resolve(address, shared.transport.address)).await {
        Ok(addresses) => dial_each(shared, peer, addresses?, end).await,
        Err(_) => Err(no_answer(shared)),
    }
}

/// Tries `addresses` until one answers as `peer`. Each begins when the one before it fails, or after its head start: a
/// packet to a dead address is lost without a word.
pub(crate) async fn dial_each(
    shared: &Arc<PeersContext>,
    peer: u16,
    addresses: Vec<SocketAddr>,
    end: Instant,
) -> Result<Dialled, DialError> {
    // By half of the time, all have begun.
    let share = shared.connect_timeout() / (2 * addresses.len().max(1) as u32);
    let head_start = share.min(HEAD_START_MAX);
    let mut failures = vec![no_answer(shared); addresses.len()];
    let mut attempts = JoinSet::new();
    let mut begun = 0;
    loop {
        if let Some(&address) = addresses.get(begun) {
            let (nth, shared) = (begun, Arc::clone(shared));
            // quinn spawns the connection's driver on the runtime it finds itself in.
            let handle = shared.handle.clone();
            attempts.spawn_on(async move { (nth, dial_one(&shared, peer, address).await) }, &handle);
            begun += 1;
        }
        let wake = if begun < addresses.len() { end.min(Instant::now() + head_start) } else { end };
        match timeout_at(wake, attempts.join_next()).await {
            Ok(Some(Ok((_, Ok(dialled))))) => return Ok(dialled),
            Ok(Some(Ok((nth, Err(error))))) => failures[nth] = error,
            // It panicked, or this node ends.
            Ok(Some(Err(error))) => tracing::debug!(peer, %error, "an attempt to connect did not end"),
            Ok(None) => break,
            Err(_) if Instant::now() >= end => break,
            Err(_) => {}
        }
    }
    let mut tried: Vec<(SocketAddr, DialError)> = addresses.into_iter().zip(failures).collect();
    match tried.pop() {
        Some((_, only)) if tried.is_empty() => Err(only),
        Some(last) => {
            tried.push(last);
            Err(DialError::Each(tried))
        }
        None => Err(no_answer(shared)),
    }
}

async fn dial_one(shared: &PeersContext, peer: u16, address: SocketAddr) -> Result<Dialled, DialError> {
    let since = std::time::Instant::now();
    let name = NodeName { node: peer, cluster: shared.name.cluster.clone() }.to_string();
    let connecting = shared.transport.endpoint.connect_with(shared.transport.client.clone(), address, &name);
    let connecting = connecting.map_err(|error| DialError::Lost(error.to_string()))?;
    let connection = connecting.await.map_err(|error| explain(&error, shared))?;
    match greet(shared, peer, &connection).await {
        Ok(stamp) => Ok(Dialled { connection, stamp, since }),
        Err(error) => {
            connection.close(code::REFUSED, error_chain(&error).as_bytes());
            Err(error)
        }
    }
}

fn no_answer(shared: &PeersContext) -> DialError {
    DialError::NoAnswer { timeout_ms: shared.config.connect_timeout_ms }
}

/// The addresses of `host:port` that this node's socket can send to, each once, in the order of the resolver.
async fn resolve(address: &str, local: SocketAddr) -> Result<Vec<SocketAddr>, DialError> {
    let found = tokio::net::lookup_host(address).await.map_err(|error| DialError::Resolve(error.to_string()))?;
    let mut usable = Vec::new();
    for found in found.filter(|found| local.is_ipv6() || found.is_ipv4()) {
        if usable.len() < ADDRESSES_MAX && !usable.contains(&found) {
            usable.push(found);
        }
    }
    if usable.is_empty() {
        return Err(DialError::Resolve("no address of the family of peers.listen".to_owned()));
    }
    Ok(usable)
}

/// Exchanges Hellos on the connection's first stream. Answers where the peer's versions stand.
async fn greet(shared: &PeersContext, peer: u16, connection: &Connection) -> Result<Stamp, DialError> {
    let lost = |error: &ConnectionError| explain(error, shared);
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    // A failure to send shows, with its reason, when the answer is read.
    let _ = send.write_all(&hello_frame(shared.version, &shared.hello())?).await;
    let _ = send.finish();
    let reply = read_hello(&mut recv).await.map_err(|error| match error {
        ReadHelloError::Wire(error) => error.into(),
        ReadHelloError::Lost(quinn::ReadError::ConnectionLost(error)) => lost(&error),
        ReadHelloError::Lost(error) => DialError::Lost(error.to_string()),
    })?;
    if reply.version() != shared.version {
        return Err(DialError::Version { ours: shared.version, theirs: reply.version() });
    }
    match reply.message()? {
        HelloReply::Refused(refusal) => Err(refused(refusal)),
        HelloReply::Welcome(hello, _) if hello.node != peer => Err(DialError::WrongNode { found: hello.node }),
        // The same judgement from this side, should the peer be less strict.
        HelloReply::Welcome(hello, stamp) => match shared.judge(&hello, peer) {
            Some(refusal) => Err(refused(turn(refusal))),
            None => Ok(stamp),
        },
    }
}

/// A refusal as the other side would have said it.
fn turn(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Fingerprint { ours, yours } => Refusal::Fingerprint { ours: yours, yours: ours },
        Refusal::Parts { ours, yours } => Refusal::Parts { ours: yours, yours: ours },
        other => other,
    }
}

fn refused(refusal: Refusal) -> DialError {
    match refusal {
        Refusal::Version { ours, yours } => DialError::Version { ours: yours, theirs: ours },
        Refusal::Fingerprint { ours, yours } => DialError::Fingerprint { ours: yours, theirs: ours },
        Refusal::Parts { ours, yours } => DialError::Parts { ours: yours, theirs: ours },
        other => DialError::Refused(other),
    }
}

/// What a connection's end means to the one who dialled it.
fn explain(error: &ConnectionError, shared: &PeersContext) -> DialError {
    match error {
        ConnectionError::TimedOut => DialError::NoAnswer { timeout_ms: shared.config.connect_timeout_ms },
        ConnectionError::TransportError(error) if CRYPTO_ERRORS.contains(&u64::from(error.code)) => {
            DialError::Certificate(error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) => {
            DialError::Certificate(format!("it rejected this node's: {close}"))
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::DRAINING => {
            DialError::Refused(Refusal::Draining)
        }
        other => DialError::Lost(other.to_string()),
    }
}
