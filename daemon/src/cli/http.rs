//! Requests of the subcommands to a running daemon's HTTP interface: one place for addresses, tokens, limits and what to say
//! when it does not answer.

use super::CliError;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the daemon's answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is believed.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Asks the daemon at `admin` for `path`: GET, or POST with a JSON `body`. Answers the text of its answer.
///
/// # Errors
/// If the daemon cannot be reached or refuses.
pub(super) fn ask(admin: &str, token: Option<&Path>, path: &str, body: Option<&Value>) -> Result<String, CliError> {
    ask_within(TIMEOUT, admin, token, path, body)
}

/// [`ask`] with another bound on the wait.
///
/// # Errors
/// If the daemon cannot be reached within `timeout`, or refuses.
pub(super) fn ask_within(
    timeout: Duration,
    admin: &str,
    token: Option<&Path>,
    path: &str,
    body: Option<&Value>,
) -> Result<String, CliError> {
    let base = admin.trim_end_matches('/');
    let url = format!("{}{base}{path}", if base.contains("://") { "" } else { "http://" });
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).build().into();
    let bearer = match token {
        None => None,
        Some(path) => {
            let token = std::fs::read_to_string(path)
                .map_err(|error| CliError::context(format!("cannot read the token file {}", path.display()), error))?;
            Some(format!("Bearer {}", token.trim()))
        }
    };
    let sent = match body {
        None => {
            let request = agent.get(&url);
            bearer.iter().fold(request, |request, bearer| request.header("Authorization", bearer)).call()
        }
        Some(body) => {
            let request = agent.post(&url).header("Content-Type", "application/json");
            bearer
                .iter()
                .fold(request, |request, bearer| request.header("Authorization", bearer))
                .send(body.to_string())
        }
    };
    let mut response = sent.map_err(|error| {
        CliError::context(format!("no answer from {url}: is rudderd running, and is this its admin.listen?"), error)
    })?;
    let status = response.status();
    let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string()?;
    if status.as_u16() == 401 {
        return Err(CliError::message(format!("{url} demands a bearer token: pass --token-file")));
    }
    if !status.is_success() {
        return Err(CliError::message(format!("{url} answered {status}: {}", body.trim())));
    }
    Ok(body)
}
