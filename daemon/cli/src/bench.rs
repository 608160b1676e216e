//! `rudder bench`: the benchmarks, each beside its yardstick in the same run. Owns only the list of them.

use super::{CliError, bench_fetch, bench_peer};

/// Arguments of `rudder bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Cached rows through a daemon, beside the same gather inside one process
    Fetch(bench_fetch::BenchFetchArgs),
    /// Rows from a peer over QUIC, beside the same bytes through TLS over TCP
    Peer(bench_peer::BenchPeerArgs),
}

/// Runs one benchmark.
///
/// # Errors
/// What the benchmark's own `run` says.
pub fn run(args: &BenchArgs) -> Result<(), CliError> {
    match &args.command {
        Command::Fetch(args) => bench_fetch::run(args),
        Command::Peer(args) => bench_peer::run(args),
    }
}
