//! Owns the conversation between the demo and its trainers: framed messages over a Unix socket, gradients as raw
//! floats. Must never wait without looking whether a child has died, nor believe a length above its limit.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, cast_slice_mut};
use serde::{Deserialize, Serialize};

use crate::error::DemoError;
use rudder_stage::StageError;

/// Longest payload: a gradient of a model for rows of 32,768 floats has 17 MB.
const PAYLOAD_BYTES_MAX: u32 = 64 << 20;
/// How long one read blocks before the caller's check runs.
const TICK: Duration = Duration::from_millis(200);
/// Time between the end of a process's connections and its exit status.
const SETTLE: Duration = Duration::from_millis(50);
/// Silence after which the other side counts as stuck.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Small messages, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// Trainer: the graph is mapped and the daemon answers.
    Ready { rank: u32 },
    /// Demo: begin.
    Start,
    /// Trainer: every epoch has ended.
    Trained(TrainerReport),
    /// Demo: measure the accuracy.
    Evaluate,
    /// Trainer: what was measured; the last message.
    Evaluated(Evaluation),
    /// Trainer: it cannot go on.
    Failed { error: String },
}

/// What a trainer counted while it trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainerReport {
    /// Minibatches it fetched.
    pub(crate) fetches: u64,
    /// Seconds inside `fetch`.
    pub(crate) stall_seconds: f64,
    /// Rows it asked for that other nodes own.
    pub(crate) remote_rows: u64,
    /// What came of them, epoch by epoch.
    pub(crate) epochs: Vec<EpochRows>,
}

/// Where the remote rows of an epoch came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochRows {
    pub(crate) remote_rows: u64,
    /// Of these, rows that were in the cache.
    pub(crate) hit_rows: u64,
    /// Of these, rows that the trainer had to wait for.
    pub(crate) stall_rows: u64,
}

/// What a trainer measured on the test vertices of its share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluation {
    /// Test vertices classified.
    pub(crate) vertices: u64,
    /// Of these, correctly.
    pub(crate) correct: u64,
    /// Hash of the trained parameters: equal for all trainers, and under all policies.
    pub(crate) model: u64,
    /// Rows that were compared with their true content, in training and in the test.
    pub(crate) rows_checked: u64,
    /// Rows that differed.
    pub(crate) wrong_rows: u64,
}

const JSON: u8 = 0;
const FLOATS: u8 = 1;

/// One end of the conversation.
pub(crate) struct Channel<'a> {
    stream: UnixStream,
    /// The other side, for error messages.
    peer: String,
    /// Run while waiting; an error ends the wait.
    check: &'a (dyn Fn() -> Result<(), DemoError> + 'a),
}

impl<'a> Channel<'a> {
    /// Wraps a connected stream.
    ///
    /// # Errors
    /// The kernel refuses a read time-out.
    pub(crate) fn new(
        stream: UnixStream,
        peer: String,
        check: &'a (dyn Fn() -> Result<(), DemoError> + 'a),
    ) -> Result<Self, DemoError> {
        let refused = |error: io::Error| DemoError::Control { who: peer.clone(), reason: error.to_string() };
        stream.set_nonblocking(false).map_err(refused)?;
        stream.set_read_timeout(Some(TICK)).map_err(refused)?;
        stream.set_write_timeout(Some(SILENCE_MAX)).map_err(refused)?;
        Ok(Self { stream, peer, check })
    }

    /// Names the other side, once it is known.
    pub(crate) fn rename(&mut self, peer: String) {
        self.peer = peer;
    }

    /// Sends a small message.
    ///
    /// # Errors
    /// The other side is gone or stuck.
    pub(crate) fn send(&mut self, message: &Message) -> Result<(), DemoError> {
        let text = serde_json::to_vec(message).map_err(|error| self.fault(error.to_string()))?;
        self.write(JSON, &text)
    }

    /// Sends floats.
    ///
    /// # Errors
    /// The other side is gone or stuck.
    pub(crate) fn send_floats(&mut self, floats: &[f32]) -> Result<(), DemoError> {
        self.write(FLOATS, cast_slice(floats))
    }

    /// Receives a small message; one that says the other side failed is an error.
    ///
    /// # Errors
    /// The other side is gone, stuck, failed, or says something else.
    pub(crate) fn receive(&mut self) -> Result<Message, DemoError> {
        let (kind, len) = self.header()?;
        if kind != JSON {
            return Err(self.fault("sent floats where a message was due".to_owned()));
        }
        let mut text = vec![0; len];
        self.read(&mut text)?;
        match serde_json::from_slice(&text) {
            Ok(Message::Failed { error }) => Err(self.failure(error)),
            Ok(message) => Ok(message),
            Err(error) => Err(self.fault(format!("sent something that is not a message: {error}"))),
        }
    }

    /// Receives exactly `floats.len()` floats.
    ///
    /// # Errors
    /// The other side is gone, stuck, failed, or sends something else.
    pub(crate) fn receive_floats(&mut self, floats: &mut [f32]) -> Result<(), DemoError> {
        let (kind, len) = self.header()?;
        if kind == JSON {
            let mut text = vec![0; len];
            self.read(&mut text)?;
            return Err(match serde_json::from_slice(&text) {
                Ok(Message::Failed { error }) => self.failure(error),
                _ => self.fault("sent a message where floats were due".to_owned()),
            });
        }
        if len != size_of_val(floats) {
            return Err(self.fault(format!("sent {len} bytes of floats where {} were due", size_of_val(floats))));
        }
        self.read(cast_slice_mut(floats))
    }

    /// An error about the other side's next message being of the wrong kind.
    pub(crate) fn unexpected(&self, message: &Message) -> DemoError {
        self.fault(format!("sent {message:?} out of turn"))
    }

    fn fault(&self, reason: String) -> DemoError {
        DemoError::Control { who: self.peer.clone(), reason }
    }

    /// The other side failed. If that is because another process died, its end says more.
    fn failure(&self, error: String) -> DemoError {
        std::thread::sleep(SETTLE);
        match (self.check)() {
            Err(DemoError::Stage(StageError::Child { name, status, log })) if name != self.peer => {
                StageError::Child { name, status, log }.into()
            }
            _ => self.fault(error),
        }
    }

    fn write(&mut self, kind: u8, payload: &[u8]) -> Result<(), DemoError> {
        let mut header = [kind, 0, 0, 0, 0];
        header[1..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let sent = self.stream.write_all(&header).and_then(|()| self.stream.write_all(payload));
        // A child that has died says more than a broken pipe.
        sent.map_err(|error| (self.check)().err().unwrap_or_else(|| self.fault(format!("takes no message: {error}"))))
    }

    fn header(&mut self) -> Result<(u8, usize), DemoError> {
        let mut header = [0; 5];
        self.read(&mut header)?;
        let [kind, len @ ..] = header;
        let len = u32::from_le_bytes(len);
        if kind > FLOATS || len > PAYLOAD_BYTES_MAX {
            return Err(self.fault(format!("sent a frame of kind {kind} and {len} bytes")));
        }
        Ok((kind, len as usize))
    }

    fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), DemoError> {
        let mut deadline = Instant::now() + SILENCE_MAX;
        while !buffer.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) => {
                    // It closes its end a moment before its exit status can be had.
                    std::thread::sleep(SETTLE);
                    return Err((self.check)().err().unwrap_or_else(|| self.fault("closed the connection".to_owned())));
                }
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    deadline = Instant::now() + SILENCE_MAX;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    (self.check)()?;
                    if Instant::now() > deadline {
                        return Err(self.fault(format!("said nothing for {} s", SILENCE_MAX.as_secs())));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault(error.to_string())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn fine() -> Result<(), DemoError> {
        Ok(())
    }

    #[test]
    fn messages_and_floats_arrive_as_sent() {
        let (a, b) = pair();
        let (mut a, mut b) = (Channel::new(a, "a".into(), &fine).unwrap(), Channel::new(b, "b".into(), &fine).unwrap());
        a.send(&Message::Ready { rank: 3 }).unwrap();
        a.send_floats(&[1.5, f32::MIN_POSITIVE]).unwrap();
        assert_eq!(b.receive().unwrap(), Message::Ready { rank: 3 });
        let mut floats = [0.0; 2];
        b.receive_floats(&mut floats).unwrap();
        assert_eq!(floats, [1.5, f32::MIN_POSITIVE]);
    }

    #[test]
    fn a_failure_of_the_other_side_is_told_in_its_words_even_where_floats_were_due() {
        let (a, b) = pair();
        let (mut a, mut b) =
            (Channel::new(a, "a".into(), &fine).unwrap(), Channel::new(b, "trainer 4".into(), &fine).unwrap());
        a.send(&Message::Failed { error: "no such table".into() }).unwrap();
        let error = b.receive_floats(&mut [0.0; 2]).unwrap_err().to_string();
        assert_eq!(error, "trainer 4: no such table");
    }

    #[test]
    fn wrong_lengths_absurd_lengths_and_closed_ends_are_errors() {
        let (a, b) = pair();
        let mut channel = Channel::new(b, "trainer 1".into(), &fine).unwrap();
        Channel::new(a.try_clone().unwrap(), "demo".into(), &fine).unwrap().send_floats(&[1.0]).unwrap();
        assert!(channel.receive_floats(&mut [0.0; 2]).unwrap_err().to_string().contains("4 bytes of floats where 8"));
        (&a).write_all(&[1, 0xFF, 0xFF, 0xFF, 0xFF]).unwrap();
        let mut channel = Channel::new(channel.stream.try_clone().unwrap(), "trainer 1".into(), &fine).unwrap();
        let mut rest = [0; 4];
        channel.read(&mut rest).unwrap();
        assert!(channel.receive().unwrap_err().to_string().contains("4294967295 bytes"));
        drop(a);
        assert!(channel.receive().unwrap_err().to_string().contains("closed"));
    }

    #[test]
    fn a_dead_child_ends_the_wait() {
        let (_a, b) = pair();
        let dead = || Err(StageError::Interrupted.into());
        let mut channel = Channel::new(b, "trainer 1".into(), &dead).unwrap();
        let begun = Instant::now();
        assert!(matches!(channel.receive(), Err(DemoError::Stage(StageError::Interrupted))));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
