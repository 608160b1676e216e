//! How long small calls wait beside the bookkeeping of large minibatches. Run by hand, on a quiet machine: `cargo test
//! --release -p rudder-tests --test waits -- --ignored --nocapture`. `RUDDERD` names another daemon to measure.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // the helpers of tests are tests, and this one reports

use rudder_client::Client;
use rudder_settings::Capacity;
use rudder_tests::process::{LIFE_LIMIT, program, write_config};
use rudder_tests::{Cluster, wait_until};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROWS: u64 = 800_000;
const BATCH: usize = 100_000;
const SPAN: Duration = Duration::from_secs(8);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(cluster: &mut Cluster, node: usize) -> Killed {
    let file = write_config(cluster, node).unwrap();
    let program = std::env::var_os("RUDDERD").map_or_else(|| program().unwrap(), Into::into);
    let child = Command::new(program).arg("--config").arg(file).stderr(Stdio::null()).spawn().unwrap();
    let daemon = Killed(child);
    assert!(wait_until(LIFE_LIMIT, || cluster.client(node).is_ok()), "rudderd does not serve");
    daemon
}

/// Distinct remote ids.
fn batch(seed: u64, rows: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut ids: Vec<u64> = (ROWS / 2..ROWS).collect();
    random.shuffle(&mut ids);
    ids.truncate(rows);
    ids
}

fn train(client: &Client, stop: &AtomicBool, seed: u64) -> u32 {
    let ids = |step: u64| batch(seed + step % 12, BATCH);
    client.announce("feat", &ids(0), 0).unwrap();
    let mut step = 0;
    while !stop.load(Ordering::Relaxed) {
        let next = u64::from(step) + 1;
        client.announce("feat", &ids(next), next).unwrap();
        client.fetch("feat", &ids(u64::from(step))).unwrap();
        client.progress(step / 12, step % 12, 12).unwrap();
        step += 1;
    }
    step
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{what:>10}: {:>6} calls, median {:>7} µs, p99 {:>7} µs, most {:>7} µs",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn measure(client: &Client, own: &[u64]) {
    let (mut fetches, mut ticks, mut looks, begin) = (Vec::new(), Vec::new(), Vec::new(), Instant::now());
    let mut step = 0;
    // This trainer has announced something, too: its fetches are looked for among that.
    client.announce("feat", &batch(99, 64), 0).unwrap();
    while begin.elapsed() < SPAN {
        let timed = |call: &dyn Fn(), times: &mut Vec<Duration>| {
            let begin = Instant::now();
            call();
            times.push(begin.elapsed());
        };
        timed(&|| _ = client.fetch("feat", own).unwrap(), &mut fetches);
        timed(&|| client.progress(0, step % 12, 12).unwrap(), &mut ticks);
        timed(&|| _ = client.status().unwrap(), &mut looks);
        step += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    report("fetch", &mut fetches);
    report("progress", &mut ticks);
    report("status", &mut looks);
}

#[test]
#[ignore = "takes half a minute and measures"]
fn small_calls_beside_large_minibatches() {
    let mut cluster = Cluster::prepare(2, ROWS, |config| config.cache.capacity = Capacity::Share(0.5)).unwrap();
    let _daemons = [start(&mut cluster, 0), start(&mut cluster, 1)];
    let client = cluster.client(0).unwrap();
    // Rows of the node itself: nothing but the daemon's own work is waited for.
    let own: Vec<u64> = (0..64).map(|i| i * 997).collect();
    println!("alone");
    measure(&client, &own);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let heavy: Vec<_> = (0..2)
            .map(|seed| {
                let (client, stop) = (cluster.client(0).unwrap(), &stop);
                scope.spawn(move || train(&client, stop, seed * 100))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(2));
        println!("beside two trainers with minibatches of {BATCH} remote rows");
        measure(&client, &own);
        stop.store(true, Ordering::Relaxed);
        let steps: u32 = heavy.into_iter().map(|heavy| heavy.join().unwrap()).sum();
        println!("the two trainers made {steps} steps");
    });
}
