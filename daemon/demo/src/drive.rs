//! Owns one run: trainers are started, kept in step, their gradients averaged, their reports gathered. Must never add
//! gradients in any order but that of the ranks: the sum of floats depends on it, and every policy has to train the
//! same model.

use std::fmt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::control::{Channel, EpochRows, Evaluation, Message, TrainerReport};
use crate::error::DemoError;
use crate::prepare::{Prepared, TABLE};
use crate::recording::{Accesses, Recording};
use crate::report::{DaemonReport, RunReport};
use crate::trainer::{PREFIX, TrainerRole};
use crate::watch::Watch;
use rudder_daemon::config::Policy;
use rudder_settings::Capacity;
use rudder_stage::{Cluster, Role, ScrapedCounters, Site, Stage, StageError, check_socket_path};

/// How often the listener is looked at while trainers start.
const ACCEPT_POLL: Duration = Duration::from_millis(2);
/// Longest wait for the trainers to connect.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a trainer to end after its last message.
const END_MAX: Duration = Duration::from_secs(10);
/// Learning rate of Adam.
const LEARNING_RATE: f32 = 0.01;
/// Prefix of the trainers' names on the stage.
const NAME: &str = "trainer ";

/// What every run does alike.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Trainers of each node.
    pub(crate) trainers: u32,
    pub(crate) epochs: u32,
    /// Epoch from which on other vertices are the seeds.
    pub(crate) shift: Option<u32>,
    pub(crate) batch: usize,
    pub(crate) dim: u32,
    pub(crate) capacity: Capacity,
    pub(crate) seed: u64,
    /// Whether accesses are recorded.
    pub(crate) record: bool,
}

/// What one run does otherwise than another.
#[derive(Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) policy: Policy,
    /// Minibatches announced ahead.
    pub(crate) lookahead: u32,
    /// A daemon for each trainer, with its part of the capacity, instead of one per node.
    pub(crate) private: bool,
}

/// The policy, and what is not as usual.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}", self.policy)?;
        if self.lookahead > 0 {
            write!(f, ", lookahead {}", self.lookahead)?;
        }
        if self.private { f.write_str(", private") } else { Ok(()) }
    }
}

impl Plan {
    /// Steps of an epoch: the number that the trainer with most seeds needs.
    pub(crate) fn steps_per_epoch(&self, prepared: &Prepared) -> u32 {
        let most = prepared.train_counts.iter().copied().max().unwrap_or(0).div_ceil(self.trainers as usize);
        most.div_ceil(self.batch).max(1) as u32
    }
}

/// What a run did, the hash of the model it ended with, and by daemon what its trainers asked for, if that was
/// recorded.
pub(crate) struct Outcome {
    pub(crate) report: RunReport,
    pub(crate) model: u64,
    pub(crate) accesses: Vec<Accesses>,
}

/// Trains once as `variant` says, with daemons of its own.
///
/// # Errors
/// A process fails or says something unexpected.
pub(crate) fn run(
    stage: &Stage,
    site: &Site,
    prepared: &Prepared,
    plan: Plan,
    variant: Variant,
    folder: &Path,
    watch: &dyn Watch,
) -> Result<Outcome, DemoError> {
    let policy = variant.policy;
    let copies = if variant.private { plan.trainers as u16 } else { 1 };
    watch.message(format!("starting {} daemons", u32::from(site.nodes) * u32::from(copies)));
    let cluster = Cluster::start(stage, site, folder, copies, &|config| {
        config.cache.policy = policy;
        config.cache.capacity = part_of(plan.capacity, copies);
        if !site.agent.journal.path.as_os_str().is_empty() {
            let name = format!("{policy}-{}-node{}.jsonl", variant.lookahead, config.node.index());
            config.agent.journal.path = site.agent.journal.path.join(name);
        }
    })?;
    watch.message(format!("starting {} trainers", u32::from(site.nodes) * plan.trainers));
    let roles = roles(&cluster, prepared, (plan, variant), folder);
    let check = || Ok(stage.check()?);
    let mut channels = launch(stage, &roles, folder, &check)?;

    let doors = || cluster.daemons.iter().map(|daemon| daemon.door.clone()).collect();
    let recording = plan.record.then(|| Recording::start(doors())).transpose()?;
    let before = cluster.counters(TABLE)?;
    let epoch_seconds = train(&mut channels, &roles[0], watch)?;
    let trained = gather(&mut channels, |message| match message {
        Message::Trained(report) => Some(report),
        _ => None,
    })?;
    let trainers_of = |daemon: usize| {
        let each = roles.len() / cluster.daemons.len();
        &trained[daemon * each..(daemon + 1) * each]
    };
    let fetches = |daemon| trainers_of(daemon).iter().map(|trainer| trainer.fetches).sum();
    let due = (0..cluster.daemons.len()).map(fetches).collect();
    let accesses = recording.map(|recording| recording.finish(due)).transpose()?.unwrap_or_default();
    let counted: Vec<ScrapedCounters> =
        cluster.counters(TABLE)?.into_iter().zip(before).map(|(now, then)| now.since(then)).collect();
    watch.message("measuring the accuracy".to_owned());
    channels.iter_mut().try_for_each(|channel| channel.send(&Message::Evaluate))?;
    let evaluated = gather(&mut channels, |message| match message {
        Message::Evaluated(evaluation) => Some(evaluation),
        _ => None,
    })?;
    drop(channels);
    stage.end(NAME, false, END_MAX)?;
    let daemons = cluster.daemons.iter().zip(&counted).map(|(daemon, counted)| DaemonReport::new(daemon.node, counted));
    let daemons = daemons.collect();
    cluster.stop()?;
    let (mut report, model) = summarise(variant, &counted.into_iter().sum(), &trained, &evaluated, epoch_seconds)?;
    report.daemons = daemons;
    Ok(Outcome { report, model, accesses })
}

/// The capacity of each of `daemons` that share what one would have.
fn part_of(capacity: Capacity, daemons: u16) -> Capacity {
    let parts = u64::from(daemons);
    match capacity {
        Capacity::Rows(rows) => Capacity::Rows((rows / parts).max(1)),
        Capacity::Share(share) => Capacity::Share(share / f64::from(daemons)),
        Capacity::Bytes(bytes) => Capacity::Bytes((bytes / parts).max(1)),
    }
}

/// One role per trainer, by rank.
fn roles(
    cluster: &Cluster<'_>,
    prepared: &Prepared,
    (plan, variant): (Plan, Variant),
    folder: &Path,
) -> Vec<TrainerRole> {
    let steps_per_epoch = plan.steps_per_epoch(prepared);
    let mut roles = Vec::new();
    let per_node = if variant.private { plan.trainers as usize } else { 1 };
    for (daemons, range) in cluster.daemons.chunks(per_node).zip(prepared.starts.windows(2)) {
        for (place, daemon) in (0..plan.trainers).zip(daemons.iter().cycle()) {
            roles.push(TrainerRole {
                rank: roles.len() as u32,
                place,
                places: plan.trainers,
                vertices: [range[0], range[1]],
                files: prepared.files.clone(),
                daemon: daemon.socket.clone(),
                control: folder.join("control.sock"),
                dim: plan.dim as usize,
                classes: prepared.classes,
                epochs: plan.epochs,
                lookahead: variant.lookahead,
                shift: plan.shift,
                steps_per_epoch,
                batch: plan.batch,
                learning_rate: LEARNING_RATE,
                seed: plan.seed,
            });
        }
    }
    roles
}

/// Starts the trainers and waits until each has said that it is ready. Channels come back by rank.
fn launch<'a>(
    stage: &Stage,
    roles: &[TrainerRole],
    folder: &Path,
    check: &'a dyn Fn() -> Result<(), DemoError>,
) -> Result<Vec<Channel<'a>>, DemoError> {
    let path = &roles[0].control;
    check_socket_path(path)?;
    let listener = UnixListener::bind(path).map_err(DemoError::file("listen on", path))?;
    listener.set_nonblocking(true).map_err(DemoError::file("listen on", path))?;
    for role in roles {
        let file = |ending: &str| folder.join(format!("trainer{}.{ending}", role.rank));
        let mut command = Role::Worker(role.clone()).command(&file("json"))?;
        stage.spawn(&format!("{NAME}{}", role.rank), &mut command, &file("log"))?;
    }
    let deadline = Instant::now() + CONNECT_MAX;
    let mut channels: Vec<Option<Channel<'_>>> = roles.iter().map(|_| None).collect();
    let mut connected = 0;
    while connected < roles.len() {
        check()?;
        match listener.accept() {
            Ok((stream, _)) => {
                let mut channel = Channel::new(stream, "a trainer".to_owned(), check)?;
                let message = channel.receive()?;
                let Message::Ready { rank } = message else { return Err(channel.unexpected(&message)) };
                channel.rename(format!("{NAME}{rank}"));
                match channels.get_mut(rank as usize) {
                    Some(place @ None) => *place = Some(channel),
                    _ => return Err(channel.unexpected(&message)),
                }
                connected += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    let reason = format!("{connected} of {} connected within {CONNECT_MAX:?}", roles.len());
                    return Err(DemoError::Control { who: "the trainers".to_owned(), reason });
                }
                std::thread::sleep(ACCEPT_POLL);
            }
            Err(error) => return Err(DemoError::file("accept on", path)(error)),
        }
    }
    Ok(channels.into_iter().flatten().collect())
}

/// Keeps the trainers in step until all epochs have ended; answers the wall time of each.
fn train(channels: &mut [Channel<'_>], role: &TrainerRole, watch: &dyn Watch) -> Result<Vec<f64>, DemoError> {
    let mut sum = vec![0.0_f32; PREFIX + role.shape().len()];
    let mut one = sum.clone();
    channels.iter_mut().try_for_each(|channel| channel.send(&Message::Start))?;
    let mut epoch_seconds = Vec::new();
    for epoch in 0..role.epochs {
        let begun = Instant::now();
        for _ in 0..role.steps_per_epoch {
            sum.fill(0.0);
            for channel in &mut *channels {
                channel.receive_floats(&mut one)?;
                sum.iter_mut().zip(&one).for_each(|(sum, x)| *sum += x);
            }
            let seeds = sum[0].max(1.0);
            sum[PREFIX..].iter_mut().for_each(|slope| *slope /= seeds);
            channels.iter_mut().try_for_each(|channel| channel.send_floats(&sum))?;
            watch.step();
            watch.message(format!("epoch {} of {}, loss {:.3}", epoch + 1, role.epochs, sum[1] / seeds));
        }
        epoch_seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(epoch_seconds)
}

/// One message of the wanted kind from each.
fn gather<T>(channels: &mut [Channel<'_>], wanted: impl Fn(Message) -> Option<T>) -> Result<Vec<T>, DemoError> {
    let mut all = Vec::with_capacity(channels.len());
    for channel in channels {
        let message = channel.receive()?;
        all.push(wanted(message.clone()).ok_or_else(|| channel.unexpected(&message))?);
    }
    Ok(all)
}

/// The report of a run, but for its daemons, and the hash of the model.
fn summarise(
    Variant { policy, lookahead, private }: Variant,
    counted: &ScrapedCounters,
    trained: &[TrainerReport],
    evaluated: &[Evaluation],
    epoch_seconds: Vec<f64>,
) -> Result<(RunReport, u64), DemoError> {
    let remote_rows = counted.hit_rows + counted.staged_rows + counted.missed_rows;
    let asked: u64 = trained.iter().map(|report| report.remote_rows).sum();
    if asked != remote_rows {
        let reason = format!("they counted {remote_rows} remote rows, their trainers asked for {asked}");
        return Err(StageError::Status { name: format!("the daemons (policy {policy})"), reason }.into());
    }
    let Some(model) = evaluated.first().map(|evaluation| evaluation.model) else {
        return Err(DemoError::Control { who: "the trainers".to_owned(), reason: "no trainer was started".to_owned() });
    };
    if evaluated.iter().any(|evaluation| evaluation.model != model) {
        let reason = "they ended with different models".to_owned();
        return Err(DemoError::Control { who: format!("the trainers (policy {policy})"), reason });
    }
    let vertices: u64 = evaluated.iter().map(|evaluation| evaluation.vertices).sum();
    let correct: u64 = evaluated.iter().map(|evaluation| evaluation.correct).sum();
    let epochs = by_epoch(trained);
    let later = epochs.get(1..).unwrap_or_default();
    let report = RunReport {
        policy: policy.name().to_owned(),
        lookahead,
        private,
        capacity_rows: counted.capacity_rows,
        hit_rate: if remote_rows == 0 { 1.0 } else { counted.hit_rows as f64 / remote_rows as f64 },
        remote_rows,
        staged_rows: counted.staged_rows,
        stall_rows: counted.missed_rows,
        later_stall_share: share(later.iter().map(|rows| (rows.stall_rows, rows.remote_rows))),
        epoch_hit_rates: epochs.iter().map(|rows| share([(rows.hit_rows, rows.remote_rows)])).collect(),
        network_rows: counted.network_rows,
        network_bytes: counted.network_bytes,
        stall_seconds: trained.iter().map(|report| report.stall_seconds).sum::<f64>() / trained.len().max(1) as f64,
        epoch_seconds,
        accuracy: correct as f64 / vertices.max(1) as f64,
        rows_checked: evaluated.iter().map(|evaluation| evaluation.rows_checked).sum(),
        wrong_rows: evaluated.iter().map(|evaluation| evaluation.wrong_rows).sum(),
        daemons: Vec::new(),
    };
    Ok((report, model))
}

/// Rows of all trainers, epoch by epoch.
fn by_epoch(trained: &[TrainerReport]) -> Vec<EpochRows> {
    let mut sum = vec![EpochRows::default(); trained.first().map_or(0, |report| report.epochs.len())];
    for report in trained {
        for (sum, one) in sum.iter_mut().zip(&report.epochs) {
            sum.remote_rows += one.remote_rows;
            sum.hit_rows += one.hit_rows;
            sum.stall_rows += one.stall_rows;
        }
    }
    sum
}

/// Parts of wholes, in all; 0 of nothing.
fn share(parts: impl IntoIterator<Item = (u64, u64)>) -> f64 {
    let (part, whole) = parts.into_iter().fold((0, 0), |(part, whole), (p, w)| (part + p, whole + w));
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(hit_rows: u64, missed_rows: u64) -> ScrapedCounters {
        ScrapedCounters {
            capacity_rows: 5,
            hit_rows,
            staged_rows: 0,
            missed_rows,
            network_rows: missed_rows,
            network_bytes: 1_000,
        }
    }

    fn trained(remote_rows: u64) -> Vec<TrainerReport> {
        let epochs = vec![EpochRows { remote_rows: 10, hit_rows: 4, stall_rows: 6 }; 2];
        let report = |stall_seconds, remote_rows| TrainerReport {
            stall_seconds,
            remote_rows,
            epochs: epochs.clone(),
            ..TrainerReport::default()
        };
        vec![report(1.0, remote_rows), report(3.0, 0)]
    }

    fn evaluated(model: u64) -> Evaluation {
        Evaluation { vertices: 10, correct: 4, model, rows_checked: 100, wrong_rows: 1 }
    }

    const VARIANT: Variant = Variant { policy: Policy::Epoch, lookahead: 0, private: false };

    #[test]
    fn a_summary_adds_and_divides() {
        let tests = [evaluated(7), evaluated(7)];
        let daemons = [counters(10, 2).since(counters(0, 0)), counters(25, 13).since(counters(5, 5))];
        let counted: ScrapedCounters = daemons.into_iter().sum();
        let (report, model) = summarise(VARIANT, &counted, &trained(40), &tests, vec![1.0]).unwrap();
        assert_eq!((report.remote_rows, report.hit_rate, report.network_rows), (40, 0.75, 10));
        assert_eq!((report.stall_seconds, report.accuracy, report.capacity_rows), (2.0, 0.4, 10));
        assert_eq!((report.later_stall_share, report.epoch_hit_rates), (0.6, vec![0.4, 0.4]));
        assert_eq!((report.rows_checked, report.wrong_rows, model), (200, 2, 7));
    }

    #[test]
    fn counts_or_models_that_do_not_agree_are_errors() {
        let counted = counters(30, 10);
        let wrong = summarise(VARIANT, &counted, &trained(41), &[evaluated(7)], vec![]);
        assert!(wrong.err().unwrap().to_string().contains("trainers asked for 41"));
        let wrong = summarise(VARIANT, &counted, &trained(40), &[evaluated(7), evaluated(8)], vec![]);
        assert!(wrong.err().unwrap().to_string().contains("different models"));
    }

    #[test]
    fn private_daemons_share_the_capacity() {
        assert_eq!(part_of(Capacity::Rows(10), 4), Capacity::Rows(2));
        assert_eq!(part_of(Capacity::Rows(2), 4), Capacity::Rows(1));
        assert_eq!(part_of(Capacity::Share(0.2), 4), Capacity::Share(0.05));
        assert_eq!(part_of(Capacity::Bytes(4096), 4), Capacity::Bytes(1024));
    }
}
