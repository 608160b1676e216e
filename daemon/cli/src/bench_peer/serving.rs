//! The second process of the benchmark: this program again, serving rows over QUIC and bytes over TLS. Owns its start,
//! its one line of greeting and its end (when its standard input closes); it must never outlive the first process.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::{BenchPeerArgs, SERVING_NODE, identity, runtime, yardstick};
use crate::{CliError, style};
use rudder_core::cache::prefetch;
use rudder_peers::{Peers, RowSource, SourceError};

/// Rows asked of memory ahead of the one being copied, as a node's own gather does.
const PREFETCH_ROWS: usize = 8;

/// Where the second process answers; its first line of output.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Ready {
    pub(super) quic: String,
    pub(super) tcp: String,
}

/// The running second process; ends when dropped.
pub(super) struct Serving {
    child: Child,
    pub(super) ready: Ready,
}

impl Serving {
    pub(super) fn start(args: &BenchPeerArgs, certificates: &Path) -> Result<Self, CliError> {
        let number = |flag: &str, value: u64| format!("--{flag}={value}");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "peer", "--serve"])
            .arg(certificates)
            .arg(number("mtu", args.mtu.into()))
            .arg(number("rows-per-request", args.rows_per_request.into()))
            .arg(number("dim", args.dim.into()))
            .arg(number("table-rows", args.table_rows.into()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let ready = serde_json::from_str(&line);
        let ready = ready.map_err(|error| CliError::context("the serving process did not start", error));
        match ready {
            Ok(ready) => Ok(Self { child, ready }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Its input closes; it needs no more telling, but a hanging one must not hang this one.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A table in memory, row-major, every row a function of its id.
pub(super) struct Matrix {
    bytes: Vec<u8>,
    row_bytes: usize,
}

/// The true content of a row.
pub(super) fn write_row(id: u64, row: &mut [u8]) {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in row.chunks_mut(8) {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
    }
}

impl Matrix {
    pub(super) fn new(rows: usize, row_bytes: usize) -> Self {
        let mut bytes = vec![0; rows * row_bytes];
        bytes.chunks_mut(row_bytes).enumerate().for_each(|(id, row)| write_row(id as u64, row));
        Self { bytes, row_bytes }
    }
}

impl RowSource for Matrix {
    fn row_bytes(&self, table: u16) -> Option<usize> {
        (table == 0).then_some(self.row_bytes)
    }

    fn copy_rows(&self, _table: u16, ids: &[u64], out: &mut [u8]) -> Result<(), SourceError> {
        for (at, (id, row)) in ids.iter().zip(out.chunks_exact_mut(self.row_bytes)).enumerate() {
            if let Some(ahead) = ids.get(at + PREFETCH_ROWS) {
                let begin = *ahead as usize * self.row_bytes;
                prefetch::row(self.bytes.get(begin..begin + self.row_bytes).unwrap_or(&[]));
            }
            let begin = *id as usize * self.row_bytes;
            let rows = (self.bytes.len() / self.row_bytes) as u64;
            let source = self.bytes.get(begin..begin + self.row_bytes);
            row.copy_from_slice(source.ok_or(SourceError::OutOfRange { id: *id, rows })?);
        }
        Ok(())
    }
}

/// Serves until standard input closes.
pub(super) fn run(args: &BenchPeerArgs, certificates: &Path) -> Result<(), CliError> {
    let source = Arc::new(Matrix::new(args.table_rows as usize, args.row_bytes()));
    let config = args.config(certificates, SERVING_NODE);
    let runtime = runtime()?;
    let _inside = runtime.enter();
    let peers = Peers::start(&config, identity(SERVING_NODE), source)?;
    let tcp = runtime.block_on(yardstick::listen(&config))?;
    let ready = Ready { quic: peers.local_addr().to_string(), tcp: tcp.to_string() };
    style::print_json_line(&ready)?;
    let _ = std::io::stdin().read(&mut [0])?;
    Ok(())
}
