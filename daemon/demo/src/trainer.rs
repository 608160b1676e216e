//! Owns a trainer process: samples minibatches of its share of a partition, fetches their rows from the daemon of its
//! node, checks every row, trains, and averages gradients with all trainers at each step. Must never time anything but
//! the fetch as stall, nor draw anything that depends on the policy.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use rudder_client::{Client, ClientError, ConnectOptions, IdSpace, Rows};
use serde::{Deserialize, Serialize};

use crate::control::{Channel, EpochRows, Evaluation, Message, TrainerReport};
use crate::error::DemoError;
use crate::features::row_hash;
use crate::mapped::Mapped;
use crate::prepare::{GraphFiles, Split, TABLE};
use crate::rng::Rng;
use crate::sage::{Adam, HIDDEN, Outcome, Sage, Shape};
use crate::sampler::{GraphView, Minibatch, Sampler};

/// Floats before the gradient in each exchange: seeds, summed loss, correct answers.
pub(crate) const PREFIX: usize = 3;

/// First words of the names of random streams.
mod stream {
    pub(crate) const SHARE: u64 = 20;
    pub(crate) const ORDER: u64 = 21;
    pub(crate) const SAMPLE: u64 = 22;
    pub(crate) const MODEL: u64 = 23;
    pub(crate) const TEST: u64 = 24;
}

/// What a trainer needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TrainerRole {
    /// Number among all trainers of the run.
    pub(crate) rank: u32,
    /// Number among the trainers of its node, and how many these are.
    pub(crate) place: u32,
    pub(crate) places: u32,
    /// The vertices of its node's partition: first, and one past the last.
    pub(crate) vertices: [u32; 2],
    /// The arrays that all trainers share.
    pub(crate) files: GraphFiles,
    /// Socket of the node's daemon.
    pub(crate) daemon: PathBuf,
    /// Socket of the demo.
    pub(crate) control: PathBuf,
    pub(crate) dim: usize,
    pub(crate) classes: usize,
    pub(crate) epochs: u32,
    /// Minibatches announced ahead.
    pub(crate) lookahead: u32,
    /// Epoch from which on other vertices are the seeds.
    pub(crate) shift: Option<u32>,
    pub(crate) steps_per_epoch: u32,
    pub(crate) batch: usize,
    pub(crate) learning_rate: f32,
    pub(crate) seed: u64,
}

impl TrainerRole {
    /// Shape of the model, the same for all trainers.
    pub(crate) fn shape(&self) -> Shape {
        Shape { dim: self.dim, hidden: HIDDEN, classes: self.classes }
    }
}

/// Trains as `role` says. Reports a failure to the demo before it returns it.
///
/// # Errors
/// The demo or the daemon is gone or refuses, or the graph files are not there.
pub(crate) fn play(role: &TrainerRole) -> Result<(), DemoError> {
    let stream = UnixStream::connect(&role.control).map_err(DemoError::file("connect to", &role.control))?;
    let no_children = || Ok(());
    let mut channel = Channel::new(stream, "the demo".to_owned(), &no_children)?;
    let outcome = train(role, &mut channel);
    if let Err(error) = &outcome {
        // If the demo is gone too, the log is all there is.
        let _ = channel.send(&Message::Failed { error: rudder_telemetry::error_chain(error) });
    }
    outcome
}

fn train(role: &TrainerRole, channel: &mut Channel<'_>) -> Result<(), DemoError> {
    let graph = MappedGraph::open(&role.files)?;
    let mut trainer = Trainer::new(role, &graph)?;
    channel.send(&Message::Ready { rank: role.rank })?;
    expect(channel, &Message::Start)?;
    trainer.train(channel)?;
    trainer.tell_progress(role.epochs, 0)?;
    channel.send(&Message::Trained(trainer.report.clone()))?;
    expect(channel, &Message::Evaluate)?;
    let evaluation = trainer.evaluate()?;
    channel.send(&Message::Evaluated(evaluation))
}

fn expect(channel: &mut Channel<'_>, due: &Message) -> Result<(), DemoError> {
    let message = channel.receive()?;
    if message == *due { Ok(()) } else { Err(channel.unexpected(&message)) }
}

/// The mapped files that all trainers share.
struct MappedGraph {
    xadj: Mapped<u64>,
    adjncy: Mapped<u32>,
    labels: Mapped<u16>,
    splits: Mapped<u8>,
    truth: Mapped<u64>,
}

impl MappedGraph {
    fn open(files: &GraphFiles) -> Result<Self, DemoError> {
        Ok(Self {
            xadj: Mapped::open(&files.xadj)?,
            adjncy: Mapped::open(&files.adjncy)?,
            labels: Mapped::open(&files.labels)?,
            splits: Mapped::open(&files.splits)?,
            truth: Mapped::open(&files.truth)?,
        })
    }

    /// This trainer's seeds of an epoch, before they are shuffled: the vertices of the training split, or after a shift
    /// the same number of those that were in no split.
    fn seeds(&self, role: &TrainerRole, epoch: u32) -> Vec<u32> {
        let mut seeds = self.share(role, Split::Train);
        if role.shift.is_some_and(|shift| epoch >= shift) {
            let count = seeds.len();
            seeds = self.share(role, Split::None);
            seeds.truncate(count);
        }
        seeds
    }

    /// This trainer's share of its partition's vertices of one split: dealt out once, the same under every policy.
    fn share(&self, role: &TrainerRole, split: Split) -> Vec<u32> {
        let [first, end] = role.vertices;
        let mut vertices: Vec<u32> = (first..end).filter(|&v| self.splits[v as usize] == split as u8).collect();
        Rng::new(&[role.seed, stream::SHARE, split as u64, u64::from(first)]).shuffle(&mut vertices);
        vertices.into_iter().skip(role.place as usize).step_by(role.places as usize).collect()
    }
}

/// A minibatch to come.
struct Planned {
    /// Its step, over all epochs.
    step: u32,
    seeds: Vec<u32>,
    batch: Minibatch,
    /// Its number, once it is announced.
    number: Option<u64>,
}

struct Trainer<'a> {
    role: &'a TrainerRole,
    graph: &'a MappedGraph,
    client: Client,
    sampler: Sampler<'a>,
    /// The minibatch in hand.
    batch: Minibatch,
    /// Minibatches sampled and not fetched yet, nearest first.
    ahead: VecDeque<Planned>,
    /// Steps sampled so far, over all epochs, and the seeds of the epoch that is being sampled.
    planned: u32,
    seeds: Vec<u32>,
    model: Sage,
    parameters: Vec<f32>,
    adam: Adam,
    /// What is sent and received at each step: [`PREFIX`] floats, then the gradient.
    exchange: Vec<f32>,
    report: TrainerReport,
    rows_checked: u64,
    wrong_rows: u64,
}

impl<'a> Trainer<'a> {
    fn new(role: &'a TrainerRole, graph: &'a MappedGraph) -> Result<Self, DemoError> {
        let client = Client::connect(ConnectOptions { ids: IdSpace::Dataset, ..ConnectOptions::at(&role.daemon) })
            .map_err(DemoError::prepare("connect"))?;
        let shape = role.shape();
        Ok(Self {
            role,
            graph,
            client,
            sampler: Sampler::new(GraphView { xadj: &graph.xadj, adjncy: &graph.adjncy }),
            batch: Minibatch::default(),
            ahead: VecDeque::new(),
            planned: 0,
            seeds: Vec::new(),
            model: Sage::new(shape),
            parameters: shape.initial(Rng::new(&[role.seed, stream::MODEL])),
            adam: Adam::new(shape.len(), role.learning_rate),
            exchange: vec![0.0; PREFIX + shape.len()],
            report: TrainerReport {
                epochs: vec![EpochRows::default(); role.epochs as usize],
                ..TrainerReport::default()
            },
            rows_checked: 0,
            wrong_rows: 0,
        })
    }

    /// Trains all epochs, in step with all other trainers.
    fn train(&mut self, channel: &mut Channel<'_>) -> Result<(), DemoError> {
        let steps = self.role.steps_per_epoch;
        for step in 0..self.role.epochs * steps {
            let (epoch, step) = (step / steps, step % steps);
            self.plan_ahead();
            self.announce_ahead()?;
            self.tell_progress(epoch, step)?;
            self.step(epoch, step)?;
            channel.send_floats(&self.exchange)?;
            channel.receive_floats(&mut self.exchange)?;
            self.adam.step(&mut self.parameters, &self.exchange[PREFIX..]);
        }
        Ok(())
    }

    /// Samples minibatches until the next one and the `lookahead` that follow it are at hand. The seeds of an epoch
    /// come in a new order, cut into nearly equal minibatches. All trainers have the same number of minibatches, so
    /// that all take part in every average.
    fn plan_ahead(&mut self) {
        let role = self.role;
        while self.ahead.len() <= role.lookahead as usize && self.planned < role.epochs * role.steps_per_epoch {
            let (epoch, step) = (self.planned / role.steps_per_epoch, self.planned % role.steps_per_epoch);
            if step == 0 {
                self.seeds = self.graph.seeds(role, epoch);
                Rng::new(&[role.seed, stream::ORDER, u64::from(role.rank), u64::from(epoch)]).shuffle(&mut self.seeds);
            }
            let at = |step: u32| (self.seeds.len() as u64 * u64::from(step) / u64::from(role.steps_per_epoch)) as usize;
            let seeds = self.seeds[at(step)..at(step + 1)].to_vec();
            let words = [role.seed, stream::SAMPLE, u64::from(role.rank), u64::from(epoch), u64::from(step)];
            let mut batch = Minibatch::default();
            if !seeds.is_empty() {
                self.sampler.sample(&seeds, Rng::new(&words), &mut batch);
            }
            self.ahead.push_back(Planned { step: self.planned, seeds, batch, number: None });
            self.planned += 1;
        }
    }

    /// Announces the sampled minibatches that are not announced yet. A daemon without room for them serves their
    /// fetches all the same.
    fn announce_ahead(&mut self) -> Result<(), DemoError> {
        if self.role.lookahead == 0 {
            return Ok(());
        }
        for planned in self.ahead.iter_mut().filter(|planned| planned.number.is_none() && !planned.seeds.is_empty()) {
            let announced = self.client.announce(TABLE, &planned.batch.inputs, u64::from(planned.step));
            let (epoch, step) = (planned.step / self.role.steps_per_epoch, planned.step % self.role.steps_per_epoch);
            planned.number = Some(announced.map_err(|source| DemoError::Fetch { epoch, step, source })?);
        }
        Ok(())
    }

    /// Fetches the next minibatch, and leaves the summed gradient of its seeds in `exchange`.
    fn step(&mut self, epoch: u32, step: u32) -> Result<(), DemoError> {
        self.exchange.fill(0.0);
        let Some(Planned { seeds, batch, number, .. }) = self.ahead.pop_front() else { return Ok(()) };
        if seeds.is_empty() {
            return Ok(());
        }
        self.batch = batch;
        let rows = self.fetch(epoch, number).map_err(|source| DemoError::Fetch { epoch, step, source })?;
        let outcome = self.forward(&seeds, &rows)?;
        let rows = floats(&rows)?;
        self.model.backward(&self.parameters, &self.batch, rows, &mut self.exchange[PREFIX..]);
        self.exchange[..PREFIX].copy_from_slice(&[seeds.len() as f32, outcome.loss as f32, outcome.correct as f32]);
        Ok(())
    }

    /// Fetches the rows of the minibatch in hand, which was announced under `number`, and compares each with its true
    /// content.
    fn fetch(&mut self, epoch: u32, number: Option<u64>) -> Result<Rows, ClientError> {
        let begun = Instant::now();
        let rows = self.client.fetch_batch(TABLE, &self.batch.inputs, number)?;
        self.report.stall_seconds += begun.elapsed().as_secs_f64();
        self.report.fetches += 1;
        let own = u64::from(self.role.vertices[0])..u64::from(self.role.vertices[1]);
        let remote = self.batch.inputs.iter().filter(|input| !own.contains(input)).count() as u64;
        self.report.remote_rows += remote;
        if let Some(rows_of) = self.report.epochs.get_mut(epoch as usize) {
            rows_of.remote_rows += remote;
            rows_of.hit_rows += rows.sources().cache;
            rows_of.stall_rows += rows.sources().peer;
        }
        let truth = self.batch.inputs.iter().map(|&input| self.graph.truth[input as usize]);
        let received = rows.bytes().chunks_exact(rows.row_bytes());
        self.wrong_rows += received.zip(truth).filter(|(row, truth)| row_hash(row) != *truth).count() as u64;
        self.rows_checked += rows.len() as u64;
        Ok(rows)
    }

    fn forward(&mut self, seeds: &[u32], rows: &Rows) -> Result<Outcome, DemoError> {
        let labels: Vec<u16> = seeds.iter().map(|&seed| self.graph.labels[seed as usize]).collect();
        Ok(self.model.forward(&self.parameters, &self.batch, floats(rows)?, &labels))
    }

    /// Classifies the test vertices of this trainer's share.
    fn evaluate(&mut self) -> Result<Evaluation, DemoError> {
        let vertices = self.graph.share(self.role, Split::Test);
        let mut correct = 0;
        for (step, seeds) in (0..).zip(vertices.chunks(self.role.batch)) {
            let words = [self.role.seed, stream::TEST, u64::from(self.role.rank), u64::from(step)];
            self.sampler.sample(seeds, Rng::new(&words), &mut self.batch);
            let rows = self.fetch(self.role.epochs, None).map_err(|source| DemoError::Fetch {
                epoch: self.role.epochs,
                step,
                source,
            })?;
            correct += self.forward(seeds, &rows)?.correct;
        }
        Ok(Evaluation {
            vertices: vertices.len() as u64,
            correct,
            model: row_hash(bytemuck::cast_slice(&self.parameters)),
            rows_checked: self.rows_checked,
            wrong_rows: self.wrong_rows,
        })
    }

    fn tell_progress(&self, epoch: u32, step: u32) -> Result<(), DemoError> {
        let told = self.client.progress(epoch, step, self.role.steps_per_epoch);
        told.map_err(|source| DemoError::Fetch { epoch, step, source })
    }
}

fn floats(rows: &Rows) -> Result<&[f32], DemoError> {
    rows.as_slice().map_err(DemoError::prepare("read the rows as floats"))
}
