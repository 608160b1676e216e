//! Connects to the daemon of this node, lists its tables, and fetches a few rows of one in each step of a short
//! training.
//!
//! `cargo run --release -p rudder-client --example fetch -- /run/rudder/rudder.sock feat`

use rudder_client::{Client, ConnectOptions, Loader};
use std::error::Error;
use std::io::{Write, stdout};

const EPOCHS: u32 = 2;
const STEPS_PER_EPOCH: u32 = 5;
const BATCH_ROWS: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let options = arguments.next().map_or_else(ConnectOptions::default, ConnectOptions::at);
    let client = Client::connect(options)?;
    let mut out = stdout().lock();
    for table in client.tables() {
        writeln!(out, "{}: {} rows of {} {:?}", table.name, table.rows, table.dtype, table.shape)?;
    }
    let name = arguments.next().or_else(|| client.tables().first().map(|table| table.name.clone()));
    let name = name.ok_or("the dataset has no tables")?;
    let rows = client.table(&name)?.rows;

    // Fetch by hand: local and remote ids, in any order.
    let fetched = client.fetch(&name, &[0, rows - 1])?;
    writeln!(out, "2 rows of `{name}` have {} bytes; {:?}", fetched.bytes().len(), fetched.sources())?;

    // Tell the cache how far the training is, and fetch the rows of each batch. A `Loader` does both, and announces
    // batches ahead.
    let batches = (0..u64::from(EPOCHS * STEPS_PER_EPOCH)).map(|step| batch(step, rows));
    for (step, loaded) in Loader::new(&client, &name, batches, STEPS_PER_EPOCH)?.enumerate() {
        let (ids, fetched) = loaded?;
        writeln!(out, "step {step}: {} ids; {:?}", ids.len(), fetched.sources())?;
    }
    Ok(())
}

/// Ids of the batch of a step: every epoch has the same ones.
fn batch(step: u64, rows: u64) -> Vec<u64> {
    let first = step % u64::from(STEPS_PER_EPOCH) * BATCH_ROWS;
    (first..first + BATCH_ROWS).map(|i| i * 7919 % rows).collect()
}
