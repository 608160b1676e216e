//! `rudder bench fetch`: rows of the cache through a real daemon, beside the same gather inside one process, in turns.
//! Owns the measurement and its report; the daemons are real `rudderd` processes. It must never count a fetch that was
//! not all hits, nor time rows that were not checked.

mod crowd;

use super::{CliError, style};
use memmap2::{Advice, MmapMut};
use rudder_client::{Client, ConnectOptions, DType};
use rudder_daemon::config::{AgentConfig, ControllerSpec, Policy};
use rudder_daemon::serve::gather_in_process;
use rudder_import::{BookSpec, DatasetWriter, Existing, Part};
use rudder_peers::install_tls_provider;
use rudder_settings::Capacity;
use rudder_stage::{Cluster, Site, Stage, certify, find_daemon};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const TABLE: &str = "feat";

/// Rows of the measured node's own shard; the measured rows are all the other node's.
const LOCAL_ROWS: u64 = 1024;

/// Rows of one fetch while the cache fills.
const WARM_ROWS: u64 = 32_768;

/// Passes over all rows after which a cache that is still not full is an error.
const WARM_PASSES_MAX: usize = 4;

/// Repetitions of each side before those that count.
const UNCOUNTED: usize = 2;

/// Arguments of `rudder bench fetch`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchFetchArgs {
    /// Rows of one fetch
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rows: u32,
    /// 32-bit floats of one row
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    dim: u32,
    /// Rows in the cache, of which each fetch takes random ones
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    cached_rows: u32,
    /// Threads one fetch may use, as local.gather_threads; 0 = the daemon's own choice
    #[arg(long, default_value_t = 0)]
    gather_threads: usize,
    /// Repetitions of each side, in turns; the medians count
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Fetches of a single row
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    single: u32,
    /// Also measure total throughput with N concurrent clients, `--rows` rows each; give several N separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clients)]
    clients: Vec<usize>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Most clients of `--clients`; each has its own memory for rows.
const CLIENTS_MAX: usize = 64;

fn clients(text: &str) -> Result<usize, String> {
    let found = text.parse().ok().filter(|clients| (1..=CLIENTS_MAX).contains(clients));
    found.ok_or_else(|| format!("`{text}` is not a number of clients from 1 to {CLIENTS_MAX}"))
}

impl BenchFetchArgs {
    fn row_bytes(&self) -> usize {
        self.dim as usize * size_of::<f32>()
    }

    fn table_rows(&self) -> u64 {
        LOCAL_ROWS + u64::from(self.cached_rows)
    }

    fn random_ids(&self) -> Vec<u64> {
        (0..self.rows).map(|_| fastrand::u64(LOCAL_ROWS..self.table_rows())).collect()
    }
}

/// What was measured.
struct Measured {
    /// Nanoseconds per row of each repetition, sorted.
    hit_ns: Vec<f64>,
    gather_ns: Vec<f64>,
    /// Microseconds of each fetch of one row, sorted.
    single_us: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// If a daemon does not start, the cache does not fill, or a row is wrong.
pub fn run(args: &BenchFetchArgs) -> Result<(), CliError> {
    install_tls_provider();
    let (stage, folder) = Stage::set(false, style::say)?;
    let dataset = folder.join("data");
    write_dataset(args, &dataset)?;
    let certificates = folder.join("certificates");
    certify(&certificates, 2)?;
    let site = Site {
        program: find_daemon()?,
        dataset,
        dataset_bytes: args.table_rows() * args.row_bytes() as u64,
        certificates,
        nodes: 2,
        agent: AgentConfig { controller: ControllerSpec::Off, ..AgentConfig::default() },
        ports: Vec::new(),
    };
    let capacity = Capacity::Rows(u64::from(args.cached_rows));
    let threads = args.gather_threads;
    let cluster = Cluster::start(&stage, &site, &folder, 1, &|config| {
        config.cache.policy = Policy::Epoch;
        config.cache.capacity = capacity;
        config.local.gather_threads = threads;
    })?;
    let client = Client::connect(ConnectOptions::at(&cluster.daemons[0].socket))?;
    warm(args, &client)?;
    let measured = measure(args, &client)?;
    drop(client);
    let crowds = crowd::measure(args, &cluster.daemons[0].socket)?;
    cluster.stop()?;
    report(args, &measured, &crowds)
}

/// Row `id`: each word encodes the row and its place in it.
fn write_row(id: u64, row: &mut [u8]) {
    for (at, word) in row.chunks_exact_mut(4).enumerate() {
        let value = (id as u32).wrapping_mul(2_654_435_761).wrapping_add(at as u32);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

fn write_dataset(args: &BenchFetchArgs, dir: &Path) -> Result<(), CliError> {
    let mut writer = DatasetWriter::create(dir, "bench", 2, Existing::Refuse)?;
    writer.add_book("_N", BookSpec::Ranges(&[0, LOCAL_ROWS, args.table_rows()]))?;
    let mut table = writer.add_table(TABLE, "_N", DType::F32, &[args.dim])?;
    let mut row = vec![0; args.row_bytes()];
    for id in 0..args.table_rows() {
        write_row(id, &mut row);
        table.write_rows(Part(u16::from(id >= LOCAL_ROWS)), &row)?;
    }
    writer.close_table(table)?;
    writer.finish()?;
    Ok(())
}

/// Fetches every remote row until all are cached.
fn warm(args: &BenchFetchArgs, client: &Client) -> Result<(), CliError> {
    for _ in 0..WARM_PASSES_MAX {
        let mut missed = 0;
        for first in (LOCAL_ROWS..args.table_rows()).step_by(WARM_ROWS as usize) {
            let ids: Vec<u64> = (first..(first + WARM_ROWS).min(args.table_rows())).collect();
            let rows = client.fetch(TABLE, &ids)?;
            missed += rows.sources().peer;
            check(args, &ids, rows.bytes())?;
        }
        if missed == 0 {
            return Ok(());
        }
    }
    Err(CliError::message("the cache did not take all rows: this is a defect of rudderd"))
}

fn check(args: &BenchFetchArgs, ids: &[u64], rows: &[u8]) -> Result<(), CliError> {
    let mut truth = vec![0; args.row_bytes()];
    for (&id, row) in ids.iter().zip(rows.chunks_exact(args.row_bytes())) {
        write_row(id, &mut truth);
        if row != truth {
            return Err(CliError::message(format!("row {id} arrived wrong")));
        }
    }
    Ok(())
}

fn measure(args: &BenchFetchArgs, client: &Client) -> Result<Measured, CliError> {
    // The yardstick gets what the daemon's cache has: huge pages where the kernel gives them, and a buffer used again.
    let mut array = MmapMut::map_anon(args.table_rows() as usize * args.row_bytes())?;
    let _ = array.advise(Advice::HugePage);
    for (id, row) in (0..).zip(array.chunks_exact_mut(args.row_bytes())) {
        write_row(id, row);
    }
    let mut buffer = vec![0; args.rows as usize * args.row_bytes()];
    let (mut hit_ns, mut gather_ns) = (Vec::new(), Vec::new());
    for repetition in 0..UNCOUNTED + args.repeat as usize {
        let ids = args.random_ids();
        let begin = Instant::now();
        let rows = client.fetch(TABLE, &ids)?;
        let hit = begin.elapsed();
        if rows.sources().peer > 0 {
            return Err(CliError::message("a row was missing from the full cache: this is a defect of rudderd"));
        }
        check(args, &ids, rows.bytes())?;
        drop(rows);
        let ids = args.random_ids();
        let begin = Instant::now();
        gather_in_process(&array, args.row_bytes(), &ids, &mut buffer);
        let gather = begin.elapsed();
        check(args, &ids, &buffer)?;
        if repetition >= UNCOUNTED {
            hit_ns.push(hit.as_nanos() as f64 / f64::from(args.rows));
            gather_ns.push(gather.as_nanos() as f64 / f64::from(args.rows));
        }
    }
    let mut single_us = Vec::with_capacity(args.single as usize);
    for _ in 0..args.single {
        let id = [fastrand::u64(LOCAL_ROWS..args.table_rows())];
        let begin = Instant::now();
        let rows = client.fetch(TABLE, &id)?;
        single_us.push(begin.elapsed().as_nanos() as f64 / 1e3);
        check(args, &id, rows.bytes())?;
    }
    for values in [&mut hit_ns, &mut gather_ns, &mut single_us] {
        values.sort_unstable_by(f64::total_cmp);
    }
    Ok(Measured { hit_ns, gather_ns, single_us })
}

/// The value at `share` of sorted `values`, which are not empty.
fn quantile(values: &[f64], share: f64) -> f64 {
    values[((values.len() - 1) as f64 * share).round() as usize]
}

fn report(args: &BenchFetchArgs, measured: &Measured, crowds: &[crowd::Crowd]) -> Result<(), CliError> {
    let Measured { hit_ns, gather_ns, single_us } = measured;
    let (hit, gather) = (quantile(hit_ns, 0.5), quantile(gather_ns, 0.5));
    if args.json {
        let result = json!({
            "rows": args.rows, "dim": args.dim, "cached_rows": args.cached_rows, "repeat": args.repeat,
            "gather_threads": args.gather_threads,
            "hit_ns_per_row": hit, "hit_ns_per_row_min": hit_ns[0], "hit_ns_per_row_max": quantile(hit_ns, 1.0),
            "gather_ns_per_row": gather, "gather_ns_per_row_min": gather_ns[0],
            "gather_ns_per_row_max": quantile(gather_ns, 1.0),
            "ratio": gather / hit,
            "hit_gb_s": args.row_bytes() as f64 / hit,
            "single_row_us_p50": quantile(single_us, 0.5), "single_row_us_p99": quantile(single_us, 0.99),
            "clients": crowd::to_json(crowds),
        });
        return style::print_json_line(&result);
    }
    let mut text = format!(
        "{} random rows of {} floats out of {} cached, medians of {}:\n\
         \x20 through rudderd     {hit:>8.1} ns/row ({:.2} GB/s)\n\
         \x20 inside one process  {gather:>8.1} ns/row, one thread, into a buffer used again\n\
         \x20 ratio               {:>8.2} (1.0: the daemon costs nothing)\n\
         one row: p50 {:.1} µs, p99 {:.1} µs over {} fetches\n",
        args.rows,
        args.dim,
        args.cached_rows,
        args.repeat,
        args.row_bytes() as f64 / hit,
        gather / hit,
        quantile(single_us, 0.5),
        quantile(single_us, 0.99),
        args.single
    );
    crowd::lines(crowds).iter().for_each(|line| text.push_str(&format!("{line}\n")));
    style::print(&text)
}
