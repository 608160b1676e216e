//! Loaders: which epochs and steps the daemon hears of, and what a refused announcement changes.

use super::{Daemon, check, daemon};
use crate::wire::{IdRun, IdWidth, PartIds, Place, Request};
use crate::{Client, Horizon, Loader};
use std::sync::{Arc, Mutex};

/// What a daemon was told, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Announce(Option<u64>),
    Progress(u32, u32),
    Fetch,
}

/// A daemon that notes announcements, progress and fetches, and asks for `horizon` batches. It knows each batch that
/// was announced and not fetched, by its number.
fn noting(horizon: u32) -> (Daemon, Arc<Mutex<Vec<Told>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let daemon = daemon(move |line, _| {
        line.horizon = horizon;
        let mut announced = Vec::new();
        while let Some((mut call, mut payload)) = line.call() {
            match &mut call.request {
                Request::Announce { step, batch, parts } => {
                    notes.lock().unwrap().push(Told::Announce(*step));
                    let PartIds::Given(run) = parts[0].ids else { panic!("no ids") };
                    announced.push((*batch, line.ids(&run, &mut &payload[..])));
                }
                Request::Progress { epoch, step, .. } => notes.lock().unwrap().push(Told::Progress(*epoch, *step)),
                Request::Fetch { parts, batch, .. } => {
                    notes.lock().unwrap().push(Told::Fetch);
                    if let Some(at) = batch.and_then(|batch| announced.iter().position(|(known, _)| *known == batch)) {
                        let (_, ids) = announced.remove(at);
                        assert_eq!(parts[0].ids, PartIds::Announced(ids.len() as u64));
                        let run = IdRun { count: ids.len() as u64, width: IdWidth::Eight, at: Place::Inline };
                        parts[0].ids = PartIds::Given(run);
                        payload = bytemuck::cast_slice(&ids).to_vec();
                        *batch = None;
                    }
                }
                _ => {}
            }
            line.serve(&call, &payload);
        }
    });
    (daemon, told)
}

fn epoch(batches: u64) -> std::vec::IntoIter<Vec<u64>> {
    (0..batches).map(|batch| vec![batch, batch + 100]).collect::<Vec<_>>().into_iter()
}

/// Loads all of `loader` and checks the rows; answers the number of batches.
fn run<I: Iterator<Item = Vec<u64>>>(loader: Loader<'_, I>) -> usize {
    loader.map(|loaded| loaded.unwrap()).inspect(|(ids, rows)| check(rows, ids)).count()
}

fn progress(told: &Mutex<Vec<Told>>) -> Vec<(u32, u32)> {
    let of = |told: &Told| if let Told::Progress(epoch, step) = *told { Some((epoch, step)) } else { None };
    told.lock().unwrap().iter().filter_map(of).collect()
}

fn steps(told: &Mutex<Vec<Told>>) -> Vec<u64> {
    let of = |told: &Told| if let Told::Announce(step) = *told { step } else { None };
    told.lock().unwrap().iter().filter_map(of).collect()
}

fn loader(client: &Client, batches: u64) -> Loader<'_, std::vec::IntoIter<Vec<u64>>> {
    Loader::new(client, "feat", epoch(batches), batches as u32).unwrap()
}

#[test]
fn a_loader_for_each_epoch_reports_growing_epochs_and_steps() {
    let (daemon, told) = noting(2);
    let client = daemon.connect();
    for _ in 0..3 {
        assert_eq!(run(loader(&client, 2)), 2);
        assert_eq!(run(loader(&client, 1).progress(false)), 1, "validation");
    }
    assert_eq!(progress(&told), [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    assert_eq!(steps(&told), (0..9).collect::<Vec<u64>>());
}

#[test]
fn a_loader_that_was_broken_off_is_followed_by_the_next_epoch() {
    let (daemon, told) = noting(1);
    let client = daemon.connect();
    let mut broken = loader(&client, 4);
    broken.next().unwrap().unwrap();
    drop(broken);
    run(loader(&client, 1));
    assert_eq!(progress(&told), [(0, 0), (1, 0)]);
    assert_eq!(steps(&told), [0, 1, 2]);
    told.lock().unwrap().clear();
    run(loader(&client, 2).from_step(15));
    run(loader(&client, 1));
    assert_eq!(progress(&told), [(7, 1), (8, 0), (9, 0)], "what follows counts on from a given step");
}

#[test]
fn a_batch_is_announced_once_and_fetched_by_its_number() {
    for horizon in [Horizon::Daemon, Horizon::Batches(3)] {
        let (daemon, told) = noting(3);
        let client = daemon.connect();
        assert_eq!(run(loader(&client, 5).horizon(horizon)), 5);
        assert_eq!(steps(&told), (0..5).collect::<Vec<u64>>());
        let fetches = told.lock().unwrap().iter().filter(|told| **told == Told::Fetch).count();
        assert_eq!(fetches, 5, "no fetch had to be asked again");
    }
}

#[test]
fn a_daemon_that_knows_no_batch_ends_no_training() {
    let daemon = daemon(|line, _| line.serve_all());
    assert_eq!(run(loader(&daemon.connect(), 5)), 5);
}

#[test]
fn a_daemon_that_asks_for_nothing_gets_one_batch_at_each_step() {
    let (daemon, told) = noting(0);
    assert_eq!(run(loader(&daemon.connect(), 4)), 4);
    assert_eq!(steps(&told).len(), 4);
}

#[test]
fn an_announcement_may_leave_its_step_out() {
    let (daemon, told) = noting(1);
    let client = daemon.connect();
    assert_ne!(client.announce("feat", &[1], None).unwrap(), client.announce("feat", &[2], 17).unwrap());
    run(loader(&client, 1));
    let announced: Vec<Told> =
        told.lock().unwrap().iter().filter(|t| matches!(t, Told::Announce(_))).copied().collect();
    assert_eq!(announced, [None, Some(17), Some(18)].map(Told::Announce), "a loader counts on from a given step");
}
