//! Requests of the subcommands to HTTP interfaces, a daemon's or Prometheus': one place for addresses, tokens, limits
//! and what to say when there is no answer. It must never show a token. A daemon speaks plain HTTP; `https` is for what
//! stands before it.

use super::CliError;
use rudder_http::Limits;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is believed.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What is asked of whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    /// Scheme, host and port; without a scheme it is `http`.
    pub(super) server: &'a str,
    /// File with the bearer token.
    pub(super) token: Option<&'a Path>,
    /// Path and query.
    pub(super) path: &'a str,
    /// What to look at where nobody answers, as a question.
    pub(super) hint: &'a str,
    /// The option that names the token's file.
    pub(super) token_option: &'a str,
}

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
    let hint = "is rudderd running, and is this its admin.listen?";
    send(timeout, Question { server: admin, token, path, hint, token_option: "--token-file" }, body)
}

/// Asks anybody.
///
/// # Errors
/// If nobody answers within the time that a daemon has, or the answer is a refusal.
pub(super) fn get(question: Question<'_>) -> Result<String, CliError> {
    send(TIMEOUT, question, None)
}

fn send(timeout: Duration, question: Question<'_>, body: Option<&Value>) -> Result<String, CliError> {
    let Question { server, token, path, hint, token_option } = question;
    let base = server.trim_end_matches('/');
    let url = format!("{}{base}{path}", if base.contains("://") { "" } else { "http://" });
    let bearer = token.map(bearer).transpose()?;
    let secret = url.starts_with("https://");
    let limits = Limits { timeout, answer_bytes_max: ANSWER_BYTES_MAX };
    let answer = rudder_http::ask(&url, bearer.as_deref(), body.map(Value::to_string), limits).map_err(|error| {
        let trusted =
            if secret { "; the certificate's authority must be among the system's, or in SSL_CERT_FILE" } else { "" };
        CliError::context(format!("no answer from {url}: {hint}{trusted}"), error)
    })?;
    let text = answer.text;
    match answer.status {
        200..300 => Ok(text),
        401 => Err(CliError::message(format!("{url} demands a bearer token, or knows another: pass {token_option}"))),
        status => Err(CliError::message(format!("{url} answered {status}: {}", text.trim()))),
    }
}

fn bearer(path: &Path) -> Result<String, CliError> {
    let token = std::fs::read_to_string(path)
        .map_err(|error| CliError::context(format!("cannot read the token file {}", path.display()), error))?;
    Ok(token.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A server that gives `answer` once and tells what it was asked.
    fn once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut piece) = (String::new(), [0; 4096]);
            while !asked.contains("\r\n\r\n") || asked.starts_with("POST") && !asked.ends_with('}') {
                let read = stream.read(&mut piece).unwrap();
                // A TLS handshake is not text.
                let Ok(text) = std::str::from_utf8(&piece[..read]) else { break };
                asked.push_str(text);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            asked
        });
        (server, asked)
    }

    #[test]
    fn token_and_body_arrive_and_refusals_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let (server, asked) = once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        let body = serde_json::json!({"rows": 1});
        assert_eq!(ask(&server, Some(&token), "/v1/x?y=1", Some(&body)).unwrap(), "ok");
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /v1/x?y=1 HTTP/1.1\r\n") && asked.ends_with("{\"rows\":1}"), "{asked}");
        let head = asked.to_lowercase();
        assert!(head.contains("authorization: bearer secret\r\n") && head.contains("application/json"), "{asked}");
        let (server, _) = once("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let question =
            Question { server: &server, token: None, path: "/", hint: "", token_option: "--prometheus-token-file" };
        assert!(get(question).unwrap_err().to_string().ends_with("pass --prometheus-token-file"));
        let (server, _) = once("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate");
        assert!(ask(&server, None, "/", None).unwrap_err().to_string().ends_with("answered 503: late"));
    }

    #[test]
    fn https_begins_a_handshake_and_says_whose_certificates_count() {
        let (server, _asked) = once("HTTP/1.1 400 Bad Request\r\n\r\n");
        let error = ask(&format!("https://{server}"), None, "/v1/status", None).unwrap_err().to_string();
        assert!(error.contains(&format!("no answer from https://{server}/v1/status")), "{error}");
        assert!(error.contains("SSL_CERT_FILE") && !error.contains("TLS required"), "{error}");
    }
}
