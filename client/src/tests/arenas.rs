//! Which arenas the daemon holds, and how large they are.

use super::{Line, WIDTH, check, daemon};
use crate::wire::{ErrorCode, Request};
use crate::{Client, ClientError, ConnectOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const ROW_BYTES: usize = WIDTH as usize * 8;

/// Ids whose rows have about `mib` MiB.
fn ids(mib: usize) -> Vec<u64> {
    (0..(mib << 20) as u64 / ROW_BYTES as u64).collect()
}

/// Serves, and keeps the numbers of the arenas that the daemon holds.
fn serve_and_note(line: &mut Line, held: &Mutex<Vec<u32>>) {
    while let Some((call, payload)) = line.call() {
        line.serve(&call, &payload);
        let mut numbers: Vec<u32> = line.arenas.keys().copied().collect();
        numbers.sort_unstable();
        *held.lock().unwrap() = numbers;
    }
}

#[test]
fn the_daemon_holds_no_arena_that_the_client_dropped() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&held);
    let daemon = daemon(move |line, _| serve_and_note(line, &noted));
    let client = Client::connect(ConnectOptions { arena_bytes_max: 20 << 20, ..daemon.options() }).unwrap();
    for round in 0..5 {
        check(&client.fetch("feat", &[round]).unwrap(), &[round]);
        assert!(matches!(client.fetch("feat", &ids(30)), Err(ClientError::Memory(_))));
    }
    client.status().unwrap();
    assert_eq!(*held.lock().unwrap(), [0], "one arena served all fetches");
    let large = ids(15);
    check(&client.fetch("feat", &large).unwrap(), &large);
    client.status().unwrap();
    assert_eq!(*held.lock().unwrap(), [1]);
}

#[test]
fn a_lease_fits_below_the_daemons_own_limit() {
    let daemon = daemon(|line, _| {
        line.arena_bytes_max = 64 << 20;
        line.serve_all();
    });
    let client = daemon.connect();
    let kept = client.fetch("feat", &ids(10)).unwrap();
    drop(client.fetch("feat", &ids(20)).unwrap());
    let large = ids(30);
    check(&client.fetch("feat", &large).unwrap(), &large);
    drop(kept);
    let error = client.fetch("feat", &ids(70)).unwrap_err();
    assert!(matches!(error, ClientError::Memory(_)), "{error}");
    assert!(error.to_string().contains("local.arena_bytes_max of rudderd is 67108864"), "{error}");
}

#[test]
fn an_arena_whose_answer_was_not_awaited_is_dropped() {
    static STOP: AtomicBool = AtomicBool::new(true);
    let held = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&held);
    let daemon = daemon(move |line, _| {
        while let Some((call, payload)) = line.call() {
            if matches!(call.request, Request::AddArena { arena: 0, .. }) {
                // The client gives up before this answer.
                std::thread::sleep(std::time::Duration::from_millis(400));
            }
            line.serve(&call, &payload);
            *noted.lock().unwrap() = line.arenas.keys().copied().collect();
        }
    });
    let interrupted: fn() -> bool = || STOP.swap(false, Ordering::Relaxed);
    let client = Client::connect(ConnectOptions { interrupted: Some(interrupted), ..daemon.options() }).unwrap();
    assert!(matches!(client.fetch("feat", &[1]), Err(ClientError::Interrupted)));
    check(&client.fetch("feat", &[2]).unwrap(), &[2]);
    client.status().unwrap();
    assert_eq!(*held.lock().unwrap(), [1]);
}

#[test]
fn an_arena_that_the_daemon_refused_serves_no_later_fetch() {
    let daemon = daemon(|line, _| {
        let mut refusals = 1;
        while let Some((call, payload)) = line.call() {
            if matches!(call.request, Request::AddArena { .. }) && refusals > 0 {
                refusals -= 1;
                line.fds.clear();
                line.fail(call.id, ErrorCode::Limit, "arenas_max");
            } else {
                line.serve(&call, &payload);
            }
        }
    });
    let client = daemon.connect();
    assert_eq!(client.fetch("feat", &[1]).unwrap_err().code(), Some(ErrorCode::Limit));
    check(&client.fetch("feat", &[1]).unwrap(), &[1]);
}
