//! The controller on a thread of its own: one question at a time, and no wait longer than its deadline. A controller
//! that hangs keeps that thread busy and nothing else: the fallback decides until it answers again.

use super::controller::{Controller, ControllerError, Past, Proposal, View};
use super::pilot::Asked;
use super::snapshot::Snapshot;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// How often the end of a window of minibatches is looked for, and whether the agent is to stop while a controller
/// thinks.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A question to the controller, with its number.
type Question = (u64, Snapshot, Vec<Past>);

/// An answer to the question of that number.
type Answer = (u64, Result<Proposal, ControllerError>);

/// The controller's own thread: one question at a time.
pub(super) struct Asking {
    name: &'static str,
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
    number: u64,
    /// The question that has no answer yet.
    open: Option<u64>,
}

impl Asking {
    /// Starts the thread.
    pub(super) fn start(mut controller: Box<dyn Controller>) -> std::io::Result<Self> {
        let name = controller.name();
        let (questions, asked) = sync_channel::<Question>(1);
        let (answer, answers) = sync_channel::<Answer>(2);
        std::thread::Builder::new().name("rudder-decide".to_owned()).spawn(move || {
            while let Ok((number, now, past)) = asked.recv() {
                let proposal = controller.propose(View { now: &now, past: &past });
                if answer.send((number, proposal)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { name, questions, answers, number: 0, open: None })
    }

    /// The controller's answer within `deadline`; `None` if the agent is to stop first.
    pub(super) fn ask(
        &mut self,
        now: &Snapshot,
        past: &[Past],
        deadline: Duration,
        stopped: &Receiver<()>,
    ) -> Option<Asked> {
        let begin = Instant::now();
        let answer = self.answer(now, past, deadline, stopped)?;
        let latency_ms = begin.elapsed().as_secs_f64() * 1e3;
        Some(Asked { controller: self.name, answer, latency_ms })
    }

    fn answer(
        &mut self,
        now: &Snapshot,
        past: &[Past],
        deadline: Duration,
        stopped: &Receiver<()>,
    ) -> Option<Result<Proposal, ControllerError>> {
        let late = || ControllerError::Late(deadline.as_millis() as u64);
        // What came too late was decided for another state.
        while let Ok((number, _)) = self.answers.try_recv() {
            self.open = self.open.filter(|&open| open != number);
        }
        if self.open.is_some() {
            return Some(Err(late()));
        }
        self.number += 1;
        match self.questions.try_send((self.number, *now, past.to_vec())) {
            Ok(()) => self.open = Some(self.number),
            Err(TrySendError::Full(_)) => return Some(Err(late())),
            Err(TrySendError::Disconnected(_)) => return Some(Err(panicked())),
        }
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let answer = match self.answers.recv_timeout(left.min(LOOK)) {
                Err(RecvTimeoutError::Timeout) if is_stopped(stopped) => return None,
                Err(RecvTimeoutError::Timeout) if left <= LOOK => return Some(Err(late())),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => Err(panicked()),
                Ok((_, answer)) => answer,
            };
            self.open = None;
            return Some(answer);
        }
    }
}

fn panicked() -> ControllerError {
    ControllerError::Degraded("the controller panicked; see the log".to_owned())
}

fn is_stopped(stopped: &Receiver<()>) -> bool {
    !matches!(stopped.try_recv(), Err(TryRecvError::Empty))
}
