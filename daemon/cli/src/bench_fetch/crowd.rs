//! Several clients of one daemon at once: their throughput together, for several numbers of clients in turns. Owns the
//! clients' threads and the clock of a round. It must never count a fetch that was not all hits, nor time rows that
//! were not checked.

use super::{BenchFetchArgs, TABLE, UNCOUNTED, check, quantile};
use crate::CliError;
use rudder_client::{Client, ConnectOptions};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Barrier;
use std::time::Instant;

/// Median of the rows per second that this number of clients got together.
#[derive(Debug)]
pub(super) struct Crowd {
    clients: usize,
    rows_per_s: f64,
}

/// Begin and end of a fetch.
type Span = (Instant, Instant);

/// Measures each number of clients in `args.clients`, one round of each in turns: in a round every client fetches once.
///
/// # Errors
/// When a client cannot connect, a fetch fails, or a row is not what it must be.
pub(super) fn measure(args: &BenchFetchArgs, socket: &Path) -> Result<Vec<Crowd>, CliError> {
    let most = args.clients.iter().copied().max().unwrap_or(0);
    let clients: Vec<Client> =
        (0..most).map(|_| Client::connect(ConnectOptions::at(socket))).collect::<Result<_, _>>()?;
    let mut rates: Vec<Vec<f64>> = args.clients.iter().map(|_| Vec::new()).collect();
    for repetition in 0..UNCOUNTED + args.repeat as usize {
        for (&count, rates) in args.clients.iter().zip(&mut rates) {
            let seconds = round(args, &clients[..count])?;
            if repetition >= UNCOUNTED {
                rates.push(count as f64 * f64::from(args.rows) / seconds);
            }
        }
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_unstable_by(f64::total_cmp);
        quantile(&rates, 0.5)
    };
    Ok(args.clients.iter().zip(rates).map(|(&clients, rates)| Crowd { clients, rows_per_s: median(rates) }).collect())
}

/// Seconds from the start of the first fetch to the end of the last.
fn round(args: &BenchFetchArgs, clients: &[Client]) -> Result<f64, CliError> {
    let barrier = Barrier::new(clients.len());
    let one = |client: &Client| -> Result<Span, CliError> {
        let ids = args.random_ids();
        barrier.wait();
        let begin = Instant::now();
        let rows = client.fetch(TABLE, &ids)?;
        let end = Instant::now();
        if rows.sources().peer > 0 {
            return Err(CliError::message("a row was missing from the full cache: this is a defect of rudderd"));
        }
        check(args, &ids, rows.bytes())?;
        Ok((begin, end))
    };
    let spans: Result<Vec<Span>, CliError> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients.iter().map(|client| scope.spawn(|| one(client))).collect();
        let panicked = |_| Err(CliError::message("a client panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    let spans = spans?;
    let begin = spans.iter().map(|&(begin, _)| begin).min();
    let end = spans.iter().map(|&(_, end)| end).max();
    Ok(begin.zip(end).map_or(0.0, |(begin, end)| end.duration_since(begin).as_secs_f64()))
}

/// For `--json`; `ratio` is to the first number of clients.
pub(super) fn to_json(crowds: &[Crowd]) -> Value {
    let first = crowds.first().map_or(1.0, |crowd| crowd.rows_per_s);
    let of = |crowd: &Crowd| json!({"clients": crowd.clients, "rows_per_s": crowd.rows_per_s, "ratio": crowd.rows_per_s / first});
    crowds.iter().map(of).collect()
}

/// For people, a line each.
pub(super) fn lines(crowds: &[Crowd]) -> Vec<String> {
    let first = crowds.first().map_or(1.0, |crowd| crowd.rows_per_s);
    let line = |crowd: &Crowd| {
        let Crowd { clients, rows_per_s } = crowd;
        format!("{clients:>3} clients at once: {:>6.2} million rows/s ({:.2})", rows_per_s / 1e6, rows_per_s / first)
    };
    crowds.iter().map(line).collect()
}
