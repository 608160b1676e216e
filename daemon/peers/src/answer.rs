//! The answering side: takes connections of peers that prove who they are and agree in the Hello, and answers each
//! stream: rows of this node's own, what was updated of them, updates. Owns the order of an answer (gather a block,
//! hash it, hand it to QUIC); one bad stream or connection must never disturb another.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use super::context::{PeersContext, code, read_hello};
use super::pacing::Pace;
use super::priority::{Turn, stream_priority};
use super::tls::NodeName;
use super::wire::{
    BlockHeader, ChangesRequest, Class, Hello, HelloReply, Need, Payload, Refusal, RemoteError, Request,
    RequestDecoder, RequestLimits, ResponseHeader, RowsRequest, UpdateRequest, WORD_BYTES, WireError, frame,
    hello_frame, short_text,
};
use rudder_telemetry::spans::{Kind, Span};

/// Longest wait for a peer to have read why it was refused.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);
/// Bulk answers go out in blocks this many times smaller, so that demand waits less for one of them.
const BULK_BLOCK_DIVISOR: usize = 4;

/// Takes connections until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<PeersContext>) {
    let places = Arc::new(Semaphore::new(shared.config.connections_max));
    while let Some(incoming) = shared.transport.endpoint.accept().await {
        if shared.is_draining() {
            incoming.refuse();
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            let limit = shared.config.connections_max;
            tracing::warn!(address = %incoming.remote_address(), limit, "peer refused: connections_max reached");
            incoming.refuse();
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            serve(shared, incoming).await;
            drop(place);
        });
    }
}

async fn serve(shared: Arc<PeersContext>, incoming: Incoming) {
    let address = incoming.remote_address();
    let welcome = async {
        let connection = incoming.await.map_err(|error| error.to_string())?;
        let peer = greet(&shared, &connection).await?;
        Ok::<_, String>((connection, peer))
    };
    let (connection, peer) = match timeout(shared.connect_timeout(), welcome).await {
        Ok(Ok(welcome)) => welcome,
        Ok(Err(problem)) => return tracing::warn!(%address, problem, "peer turned away"),
        Err(_) => {
            let timeout_ms = shared.config.connect_timeout_ms;
            return tracing::warn!(%address, timeout_ms, "peer turned away: no Hello in time");
        }
    };
    tracing::info!(peer, %address, "peer connected");
    let reason = streams(&shared, &connection, peer).await;
    tracing::info!(peer, %address, %reason, "peer disconnected");
}

/// Answers streams until the connection ends; says why it did.
async fn streams(shared: &Arc<PeersContext>, connection: &Connection, peer: u16) -> ConnectionError {
    let pace = Pace::of(connection);
    loop {
        match connection.accept_bi().await {
            Ok((send, recv)) => {
                let (shared, pace) = (Arc::clone(shared), pace.clone());
                let answers = shared.answers.clone();
                answers.spawn(async move { answer(&shared, peer, pace.as_ref(), send, recv).await });
            }
            Err(reason) => return reason,
        }
    }
}

/// Reads the Hello and answers it; the peer's index, or what keeps it out.
async fn greet(shared: &PeersContext, connection: &Connection) -> Result<u16, String> {
    let name = NodeName::of_connection(connection).filter(|name| name.cluster == shared.name.cluster);
    let Some(name) = name else {
        let problem = format!("its certificate names no node of cluster {}", shared.name.cluster);
        connection.close(code::REFUSED, problem.as_bytes());
        return Err(problem);
    };
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| error.to_string())?;
    let hello = match read_hello(&mut recv).await {
        Ok(hello) => hello,
        Err(error) => {
            connection.close(code::PROTOCOL, error.to_string().as_bytes());
            return Err(format!("{name}: {error}"));
        }
    };
    let refusal = if hello.version() != shared.version {
        Some(Refusal::Version { ours: shared.version, yours: hello.version() })
    } else if shared.is_draining() {
        Some(Refusal::Draining)
    } else {
        match hello.message::<Hello>() {
            Ok(hello) => shared.judge(&hello, name.node),
            Err(error) => {
                connection.close(code::PROTOCOL, error.to_string().as_bytes());
                return Err(format!("{name}: {error}"));
            }
        }
    };
    let reply =
        refusal.clone().map_or_else(|| HelloReply::Welcome(shared.hello(), shared.source.stamp()), HelloReply::Refused);
    let bytes = hello_frame(shared.version, &reply).map_err(|error| error.to_string())?;
    send.write_all(&bytes).await.map_err(|error| error.to_string())?;
    let _ = send.finish();
    let Some(refusal) = refusal else { return Ok(name.node) };
    // The peer closes once it has read the refusal; if it does not, this side does.
    let _ = timeout(REFUSAL_LINGER, connection.closed()).await;
    connection.close(code::REFUSED, refusal.to_string().as_bytes());
    Err(format!("{name} refused, and notified: {}", describe_refusal(&refusal)))
}

/// A refusal from this side's point of view, for this side's log.
fn describe_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Version { ours, yours } => format!("it speaks protocol version {yours}, this node {ours}"),
        Refusal::Fingerprint { ours, yours } => {
            format!("its dataset has fingerprint {yours:016x}, this node's {ours:016x}")
        }
        Refusal::Parts { ours, yours } => format!("its dataset has {yours} partitions, this node's {ours}"),
        Refusal::Node { hello, certificate } => {
            format!("its Hello says node {hello}, its certificate node {certificate}")
        }
        Refusal::Draining => "this node is shutting down".to_owned(),
    }
}

/// Answers one stream. Whatever goes wrong ends with this stream.
async fn answer(
    shared: &Arc<PeersContext>,
    peer: u16,
    pace: Option<&Arc<Pace>>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let read = match timeout(shared.request_timeout(), read_request(shared, &mut recv)).await {
        Ok(read) => read,
        Err(_) => Err(ReadError::Request(RemoteError::BadRequest("it did not arrive in time".to_owned()))),
    };
    let (request, payload, place) = match read {
        Ok(request) => request,
        Err(ReadError::Gone) => return,
        Err(ReadError::Request(error)) => {
            tracing::warn!(peer, %error, "bad request of a peer");
            let _ = recv.stop(code::PROTOCOL);
            return fail(&mut send, &ResponseHeader::Failed(error)).await;
        }
    };
    let table = request.table();
    let begun = Instant::now();
    let wanted = if let Request::Rows(request) = &request { Some(*request) } else { None };
    let outcome = match request {
        Request::Rows(request) => {
            let answer = rows(shared, peer, &request, payload.ids(), &mut send);
            paced(shared, peer, request.class, pace, answer).await
        }
        Request::Changes(request) => changes(shared, &request, &mut send).await,
        Request::Update(request) => {
            let outcome = update(shared, peer, request, payload, &mut send).await;
            drop(place);
            outcome
        }
    };
    if let Some(RowsRequest { request, count: rows, .. }) = wanted.filter(|_| shared.is_slow(begun.elapsed())) {
        let total_ms = begun.elapsed().as_millis() as u64;
        tracing::warn!(request = %format_args!("{request:016x}"), peer, table, rows, total_ms, "slow answer to a peer");
    }
    if let (Some(tracer), Some(RowsRequest { request, count, .. })) = (shared.tracer.get(), wanted)
        && tracer.traces(request)
    {
        let took = begun.elapsed();
        let numbers = vec![("peer", u64::from(peer)), ("rows", u64::from(count)), ("table", u64::from(table))];
        tracer.record(Span { request, name: "answer", kind: Kind::Server, began: took, took, numbers, error: None });
    }
    match outcome {
        Ok(()) => {}
        Err(SendError::Refused(error)) => {
            tracing::debug!(peer, table, %error, "request of a peer refused");
            fail(&mut send, &ResponseHeader::Failed(error)).await;
        }
        Err(SendError::Gone) => tracing::debug!(peer, table, "a peer gave its request up"),
        Err(SendError::TooSlow) => {
            tracing::warn!(peer, table, "answer abandoned: the peer does not take it");
            let _ = send.reset(code::TOO_SLOW);
        }
        Err(SendError::Source { error, header_sent }) => {
            tracing::warn!(peer, table, %error, "request of a peer failed");
            match header_sent {
                true => fail(&mut send, &BlockHeader::Failed(error)).await,
                false => fail(&mut send, &ResponseHeader::Failed(error)).await,
            }
        }
    }
}

enum ReadError {
    Gone,
    Request(RemoteError),
}

impl From<WireError> for ReadError {
    fn from(error: WireError) -> Self {
        Self::Request(match error {
            WireError::TooManyRows { rows, rows_max } => RemoteError::TooManyRows { rows, rows_max },
            other => RemoteError::BadRequest(short_text(&other.to_string())),
        })
    }
}

impl From<quinn::ReadError> for ReadError {
    fn from(_: quinn::ReadError) -> Self {
        Self::Gone
    }
}

/// A request with what followed its head, and for an update the place that it takes.
type Received<'a> = (Request, Payload, Option<SemaphorePermit<'a>>);

async fn read_request<'a>(shared: &'a PeersContext, recv: &mut RecvStream) -> Result<Received<'a>, ReadError> {
    let limits = RequestLimits { rows_max: shared.config.request_rows_max, row_bytes_max: shared.row_bytes_max };
    let mut decoder = RequestDecoder::new(limits);
    let mut place = None;
    let mut control = [0; 64];
    loop {
        match decoder.need() {
            Need::Control(missing) => {
                let most = missing.min(control.len());
                let n = recv.read(&mut control[..most]).await?.ok_or(WireError::Truncated)?;
                decoder.control(&control[..n])?;
                if let Some(Request::Update(request)) = decoder.request() {
                    place = Some(admit_update(shared, request).await.map_err(ReadError::Request)?);
                }
            }
            Need::Payload(range) => {
                let n = recv.read(&mut decoder.payload_mut()[range]).await?.ok_or(WireError::Truncated)?;
                decoder.advance(n);
            }
            Need::End => {
                return match recv.read(&mut control[..1]).await? {
                    None => {
                        let (request, payload) = decoder.finish()?;
                        Ok((request, payload, place))
                    }
                    Some(_) => Err(WireError::Excess.into()),
                };
            }
        }
    }
}

/// Checks table and size of rows.
fn check(shared: &PeersContext, table: u16, row_bytes: u32) -> Result<(), RemoteError> {
    if shared.is_draining() {
        return Err(RemoteError::Draining);
    }
    let theirs = shared.source.row_bytes(table).ok_or(RemoteError::UnknownTable { table })?;
    if theirs == row_bytes as usize {
        Ok(())
    } else {
        Err(RemoteError::RowBytes { theirs: theirs as u32, asked: row_bytes })
    }
}

/// Checks an update before there is room for its rows, and waits for a place.
async fn admit_update<'a>(
    shared: &'a PeersContext,
    request: &UpdateRequest,
) -> Result<SemaphorePermit<'a>, RemoteError> {
    check(shared, request.table, request.row_bytes)?;
    let wait = shared.request_timeout() / 2;
    match timeout(wait, shared.updates.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(RemoteError::Busy {
            limit: shared.config.update_requests_max as u32,
            waited_ms: wait.as_millis() as u32,
        }),
    }
}

enum SendError {
    Gone,
    TooSlow,
    /// Nothing was sent yet.
    Refused(RemoteError),
    /// This node's own trouble.
    Source {
        error: RemoteError,
        /// Whether the error comes in place of a block, or of the header.
        header_sent: bool,
    },
}

/// Answers with rows once there is a turn.
async fn rows(
    shared: &PeersContext,
    peer: u16,
    request: &RowsRequest,
    ids: &[u64],
    send: &mut SendStream,
) -> Result<(), SendError> {
    let _ = send.set_priority(stream_priority(request.class));
    check(shared, request.table, request.row_bytes).map_err(SendError::Refused)?;
    let turn = shared.turns.take(request.class, shared.request_timeout() / 2).await.map_err(SendError::Refused)?;
    blocks(shared, peer, request, ids, turn, send).await
}

/// Makes an answer of `class`. A trainer that waits is never held back, and bulk no more once half of the time is over
/// in which it must arrive.
async fn paced<T>(
    shared: &PeersContext,
    peer: u16,
    class: Class,
    pace: Option<&Arc<Pace>>,
    answer: impl Future<Output = T>,
) -> T {
    let Some(pace) = pace else { return answer.await };
    let mut answer = std::pin::pin!(answer);
    if class == Class::Bulk
        && let Ok(outcome) = timeout(shared.request_timeout() / 2, &mut answer).await
    {
        shared.stats.set_queue(peer, pace.queue());
        return outcome;
    }
    let _urgent = pace.urgent();
    answer.await
}

/// Answers which rows were updated.
async fn changes(shared: &PeersContext, request: &ChangesRequest, send: &mut SendStream) -> Result<(), SendError> {
    let changes = shared.source.changes(request.table, request.since);
    let changes = changes.map_err(|error| SendError::Refused(error.into()))?;
    let words = changes.words();
    let mut message =
        encode(&ResponseHeader::Changes { now: changes.now, all: changes.all, words: words.len() as u32 })?;
    for words in words.chunks((shared.config.response_block_bytes / WORD_BYTES).max(1)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        message.extend(encode(&BlockHeader::Rows { rows: words.len() as u32, checksum: xxh3_64(&bytes) })?);
        message.extend(bytes);
    }
    write(shared, send, &mut [Bytes::from(message)]).await?;
    let _ = send.finish();
    Ok(())
}

/// Applies an update, beside the threads that serve the network: it may copy a lot.
async fn update(
    shared: &Arc<PeersContext>,
    peer: u16,
    request: UpdateRequest,
    payload: Payload,
    send: &mut SendStream,
) -> Result<(), SendError> {
    let source = Arc::clone(&shared.source);
    let apply = move || source.update(peer, request.writer, request.table, payload.ids(), payload.rows());
    let applied = tokio::task::spawn_blocking(apply).await;
    let failed = |error| SendError::Source { error, header_sent: false };
    let applied = applied.map_err(|error| failed(RemoteError::Internal(short_text(&error.to_string()))))?;
    let now = applied.map_err(|error| failed(error.into()))?;
    write(shared, send, &mut [Bytes::from(encode(&ResponseHeader::Updated { now })?)]).await?;
    let _ = send.finish();
    Ok(())
}

/// Sends the rows of `ids`, block by block while they are gathered.
async fn blocks(
    shared: &PeersContext,
    peer: u16,
    request: &RowsRequest,
    ids: &[u64],
    mut turn: Turn<'_>,
    send: &mut SendStream,
) -> Result<(), SendError> {
    let row_bytes = request.row_bytes as usize;
    let block_bytes = match request.class {
        Class::Demand => shared.config.response_block_bytes,
        Class::Bulk => shared.config.response_block_bytes / BULK_BLOCK_DIVISOR,
    };
    let rows_per_block = (block_bytes / row_bytes.max(1)).max(1);
    let mut head = encode(&ResponseHeader::Rows { count: request.count })?;
    for ids in ids.chunks(rows_per_block) {
        turn.give_way().await;
        let mut rows = shared.send_pool.take(ids.len() * row_bytes);
        let copied = shared.source.copy_rows(request.table, ids, &mut rows);
        let header_sent = head.is_empty();
        copied.map_err(|error| SendError::Source { error: error.into(), header_sent })?;
        let header = BlockHeader::Rows { rows: ids.len() as u32, checksum: xxh3_64(&rows) };
        head.extend(encode(&header)?);
        let block = &mut [Bytes::from(std::mem::take(&mut head)), Bytes::from_owner(rows)];
        write(shared, send, block).await?;
        shared.stats.sent(peer, ids.len(), ids.len() * row_bytes);
    }
    if !head.is_empty() {
        write(shared, send, &mut [Bytes::from(head)]).await?;
    }
    turn.sent();
    let _ = send.finish();
    // The turn is kept until the peer has everything: it bounds what waits in QUIC's buffers.
    match timeout(shared.request_timeout(), send.stopped()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(SendError::TooSlow),
    }
}

fn encode<M: bincode::Encode>(message: &M) -> Result<Vec<u8>, SendError> {
    frame(message).map_err(|error| SendError::Refused(RemoteError::Internal(error.to_string())))
}

async fn write(shared: &PeersContext, send: &mut SendStream, bytes: &mut [Bytes]) -> Result<(), SendError> {
    match timeout(shared.request_timeout(), send.write_all_chunks(bytes)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SendError::Gone),
        Err(_) => Err(SendError::TooSlow),
    }
}

/// Sends an error in place of what was due; a peer that is gone needs none.
async fn fail<M: bincode::Encode>(send: &mut SendStream, message: &M) {
    if let Ok(bytes) = frame(message) {
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
    }
}
