//! Owns how the demo asks a daemon over HTTP: where its interface is, with `--link` in which network namespace, and how
//! long an answer is waited for. Must never ask for anything but what any operator could.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rudder_http::{HttpError, Limits};
use serde_json::Value;

use crate::error::StageError;
use crate::link;

/// Longest wait for one answer, and the longest answer that is read.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), answer_bytes_max: 64 << 20 };

/// The HTTP interface of one daemon.
#[derive(Clone, Debug)]
pub struct Door {
    /// Name of the daemon, for messages.
    pub name: String,
    /// Where it listens.
    pub admin: SocketAddr,
    /// Network namespace that it listens in, if not this one.
    pub namespace: Option<PathBuf>,
}

impl Door {
    /// `GET path`, or `POST path` with a JSON `body`: status code and text of the answer.
    ///
    /// # Errors
    /// What went wrong, with the address.
    pub fn ask(&self, path: &str, body: Option<&Value>) -> Result<(u16, String), String> {
        let url = format!("http://{}{path}", self.admin);
        let ask = || ask(&url, body).map_err(|error| format!("{url}: {error}"));
        let Some(namespace) = &self.namespace else { return ask() };
        // A thread of its own moves into the namespace, whose loopback the daemon listens on, and ends there.
        let inside = || link::enter(namespace).map_err(|error| error.to_string()).and_then(|()| ask());
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|_| Err("the question panicked".to_owned()))
    }

    /// As [`Door::ask`], where only a good answer will do.
    ///
    /// # Errors
    /// [`StageError::Status`] naming the daemon.
    pub fn demand(&self, path: &str, body: Option<&Value>) -> Result<String, StageError> {
        match self.ask(path, body) {
            Ok((200, text)) => Ok(text),
            Ok((code, text)) => Err(self.fault(format!("{path} answered {code}: {}", text.trim()))),
            Err(reason) => Err(self.fault(reason)),
        }
    }

    /// What this daemon said is not what it should have said.
    pub fn fault(&self, reason: String) -> StageError {
        StageError::Status { name: self.name.clone(), reason }
    }
}

fn ask(url: &str, body: Option<&Value>) -> Result<(u16, String), HttpError> {
    let answer = rudder_http::ask(url, None, body.map(Value::to_string), LIMITS)?;
    Ok((answer.status, answer.text))
}
