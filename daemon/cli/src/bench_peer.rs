//! `rudder bench peer`: rows from a peer over QUIC, beside the same bytes through TLS over TCP, between the same two
//! processes, in turns. Owns the measurement and its report; the rows take the very path of two daemons ([`Peers`] on
//! both ends). It must never measure the two sides in different runs, nor leave its second process behind.

mod serving;
mod yardstick;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{CliError, style};
use rudder_peers::settings::PeersConfig;
use rudder_peers::{Class, Identity, Peers, authority, install_tls_provider};
use serving::{Matrix, Serving};
use yardstick::Yardstick;

const ASKING_NODE: u16 = 0;
const SERVING_NODE: u16 = 1;
const GB: f64 = 1e9;
const GIB: f64 = (1u64 << 30) as f64;
/// Kernel clock ticks per second in /proc: fixed by the kernel's interface to user space.
const TICKS_PER_SECOND: f64 = 100.0;
/// Longest wait for the second process to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `rudder bench peer`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchPeerArgs {
    /// Largest UDP payload, as peers.mtu
    #[arg(long, default_value_t = 1452)]
    mtu: u16,
    /// Rows of one fetch
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    rows_per_request: u32,
    /// 32-bit floats of one row
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    dim: u32,
    /// Rows of the table, held in memory by the serving process
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..))]
    table_rows: u32,
    /// Fetches on their way at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// Bytes of each repetition, each way
    #[arg(long, default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    bytes: u64,
    /// Repetitions of each side, in turns; the medians count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Connections to the peer, as peers.connections_per_peer
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Serve as the second process, with the certificates of this folder
    #[arg(long, hide = true)]
    serve: Option<std::path::PathBuf>,
}

impl BenchPeerArgs {
    fn row_bytes(&self) -> usize {
        self.dim as usize * size_of::<f32>()
    }

    fn config(&self, certificates: &std::path::Path, node: u16) -> PeersConfig {
        PeersConfig {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            authority: certificates.join("ca.pem"),
            certificate: certificates.join(format!("node-{node}.pem")),
            key: certificates.join(format!("node-{node}.key")),
            connections_per_peer: self.connections as usize,
            mtu: self.mtu,
            request_timeout_ms: 60_000,
            ..PeersConfig::default()
        }
    }
}

fn identity(node: u16) -> Identity {
    Identity { node, parts: 2, fingerprint: 0 }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Measures, or serves as the second process of a measurement.
///
/// # Errors
/// If the second process, a socket or a transfer fails, or if a row is wrong.
pub fn run(args: &BenchPeerArgs) -> Result<(), CliError> {
    install_tls_provider();
    if let Some(certificates) = &args.serve {
        return serving::run(args, certificates);
    }
    let certificates = tempfile::tempdir()?;
    authority::init(certificates.path(), "bench", 1, false)?;
    for node in [ASKING_NODE, SERVING_NODE] {
        authority::issue(certificates.path(), node, certificates.path(), 1, false)?;
    }
    let serving = Serving::start(args, certificates.path())?;
    let (quic, tcp) = runtime()?.block_on(measure(args, certificates.path(), &serving))?;
    report(args, &quic, &tcp)
}

/// One repetition of one side.
#[derive(Debug, Clone, Copy)]
struct Sample {
    gb_s: f64,
    /// CPU seconds of each process per GiB.
    asking_s: f64,
    serving_s: f64,
}

async fn measure(
    args: &BenchPeerArgs,
    certificates: &std::path::Path,
    serving: &Serving,
) -> Result<(Vec<Sample>, Vec<Sample>), CliError> {
    let mut config = args.config(certificates, ASKING_NODE);
    config.addresses = BTreeMap::from([(SERVING_NODE, serving.ready.quic.clone())]);
    let nothing = Arc::new(Matrix::new(0, args.row_bytes()));
    let peers = Peers::start(&config, identity(ASKING_NODE), nothing)?;
    let buffer_bytes = args.rows_per_request as usize * args.row_bytes();
    let connect = Yardstick::connect(&config, &serving.ready.tcp, buffer_bytes);
    let mut yardstick = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
    check_rows(args, &peers).await?;
    // Both sides once, unmeasured: congestion windows open, buffers are mapped.
    fetch_all(args, &peers, args.bytes / 4).await?;
    yardstick.receive(args.bytes / 4).await?;
    let (mut quic, mut tcp) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let (begin, cpu) = (Instant::now(), Cpu::now(serving)?);
        let bytes = fetch_all(args, &peers, args.bytes).await?;
        quic.push(sample(bytes, begin.elapsed(), &cpu, &Cpu::now(serving)?));
        let (begin, cpu) = (Instant::now(), Cpu::now(serving)?);
        yardstick.receive(bytes).await?;
        tcp.push(sample(bytes, begin.elapsed(), &cpu, &Cpu::now(serving)?));
    }
    peers.shutdown(Duration::from_millis(200)).await;
    Ok((quic, tcp))
}

/// Every row of one fetch against its true content, so that speed is never measured on wrong rows.
async fn check_rows(args: &BenchPeerArgs, peers: &Peers) -> Result<(), CliError> {
    let ids = random_ids(args);
    let batch = peers.fetch(SERVING_NODE, 0, args.row_bytes(), &ids, Class::Demand).await?;
    let mut truth = vec![0; args.row_bytes()];
    for (i, id) in ids.iter().enumerate() {
        serving::write_row(*id, &mut truth);
        if batch.row(i) != truth {
            return Err(CliError::message(format!("row {i} (id {id}) arrived wrong")));
        }
    }
    Ok(())
}

fn random_ids(args: &BenchPeerArgs) -> Vec<u64> {
    (0..args.rows_per_request).map(|_| fastrand::u64(0..u64::from(args.table_rows))).collect()
}

/// Fetches random rows until `bytes` have arrived; returns how many bytes did.
async fn fetch_all(args: &BenchPeerArgs, peers: &Arc<Peers>, bytes: u64) -> Result<u64, CliError> {
    let fetch_bytes = u64::from(args.rows_per_request) * args.row_bytes() as u64;
    let fetches = bytes.div_ceil(fetch_bytes).max(1);
    let left = Arc::new(std::sync::atomic::AtomicU64::new(fetches));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..args.in_flight {
        let (peers, left, ids, row_bytes) = (Arc::clone(peers), Arc::clone(&left), random_ids(args), args.row_bytes());
        tasks.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            use std::sync::atomic::Ordering::Relaxed;
            while left.fetch_update(Relaxed, Relaxed, take).is_ok() {
                peers.fetch(SERVING_NODE, 0, row_bytes, &ids, Class::Demand).await?;
            }
            Ok::<_, rudder_peers::PeerError>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(fetches * fetch_bytes)
}

/// CPU seconds that both processes have used.
struct Cpu {
    asking_s: f64,
    serving_s: f64,
}

impl Cpu {
    fn now(serving: &Serving) -> Result<Self, CliError> {
        Ok(Self { asking_s: cpu_s("self")?, serving_s: cpu_s(&serving.pid().to_string())? })
    }
}

/// User and system time of a process: fields 14 and 15 of its stat file, counted behind the name in brackets.
fn cpu_s(process: &str) -> Result<f64, CliError> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let tick = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let ticks = tick(11).zip(tick(12)).map(|(user, system)| user + system);
    ticks.map(|ticks| ticks / TICKS_PER_SECOND).ok_or_else(|| CliError::message("/proc/PID/stat has no CPU times"))
}

fn sample(bytes: u64, took: Duration, before: &Cpu, after: &Cpu) -> Sample {
    let bytes = bytes as f64;
    Sample {
        gb_s: bytes / GB / took.as_secs_f64(),
        asking_s: (after.asking_s - before.asking_s) / (bytes / GIB),
        serving_s: (after.serving_s - before.serving_s) / (bytes / GIB),
    }
}

fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn extremes(samples: &[Sample]) -> (f64, f64) {
    let speeds = samples.iter().map(|sample| sample.gb_s);
    (speeds.clone().fold(f64::INFINITY, f64::min), speeds.fold(0.0, f64::max))
}

/// Rounds to four digits behind the point: more would be noise.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn report(args: &BenchPeerArgs, quic: &[Sample], tcp: &[Sample]) -> Result<(), CliError> {
    let speed = |samples: &[Sample]| median(samples, |sample| sample.gb_s);
    let ((quic_min, quic_max), (tcp_min, tcp_max)) = (extremes(quic), extremes(tcp));
    let ratio = speed(quic) / speed(tcp);
    let cpu = |samples: &[Sample]| {
        let (asking, serving) = (median(samples, |s| s.asking_s), median(samples, |s| s.serving_s));
        json!({"asking": round(asking), "serving": round(serving)})
    };
    if args.json {
        let value = json!({
            "quic_gb_s": round(speed(quic)), "quic_min_gb_s": round(quic_min), "quic_max_gb_s": round(quic_max),
            "tls_tcp_gb_s": round(speed(tcp)), "tls_tcp_min_gb_s": round(tcp_min), "tls_tcp_max_gb_s": round(tcp_max),
            "ratio": round(ratio), "mtu": args.mtu, "repeat": args.repeat, "bytes": args.bytes,
            "rows_per_request": args.rows_per_request, "dim": args.dim, "in_flight": args.in_flight,
            "connections": args.connections,
            "quic_cpu_s_per_gib": cpu(quic), "tls_tcp_cpu_s_per_gib": cpu(tcp),
        });
        return style::print_json_line(&value);
    }
    style::print(&format!(
        "rows of {} floats from a peer, MTU {}, medians of {}:\n\
         \x20 QUIC          {:.3} GB/s ({quic_min:.3} to {quic_max:.3})\n\
         \x20 TLS over TCP  {:.3} GB/s ({tcp_min:.3} to {tcp_max:.3})\n\
         \x20 ratio         {ratio:.3}\n\
         \x20 CPU s per GiB QUIC {}, TLS over TCP {}\n",
        args.dim,
        args.mtu,
        args.repeat,
        speed(quic),
        speed(tcp),
        cpu(quic),
        cpu(tcp)
    ))
}
