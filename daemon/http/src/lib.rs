//! The HTTP client of all programs. It owns what every request must have: a time-out, a bound on the answer, no proxy
//! between processes of one machine, and the one TLS provider. It must never wait without a limit, nor hold more of an
//! answer than it was allowed.
//!
//! [`Client`] is for threads that may block. Async code takes [`builder`] and keeps its own bounds.

use std::time::Duration;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The client cannot be made.
    #[error("there is no HTTP client: {}", with_causes(.0))]
    Client(reqwest::Error),
    /// The client has no runtime to work on.
    #[error("there is no HTTP client: {0}")]
    Runtime(std::io::Error),
    /// No connection, a lost one, or no answer in time.
    #[error("{}", with_causes(.0))]
    Lost(reqwest::Error),
    /// The answer is longer than the client accepts.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The answer is not text.
    #[error("the answer is not UTF-8 text")]
    NotText,
}

/// What a client accepts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest time from the start of a request to the end of its answer.
    pub timeout: Duration,
    /// Longest body that is read, in bytes.
    pub answer_bytes_max: usize,
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub text: String,
}

/// The builder of a client for servers at `base`, a URL. Installs the process' TLS provider where it has none yet.
///
/// A server on this machine is reached without a proxy. For plain HTTP no authorities are loaded: a machine without any
/// must do.
pub fn builder(base: &str) -> reqwest::ClientBuilder {
    // An error says that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = reqwest::Client::builder();
    let local = reqwest::Url::parse(base).is_ok_and(|url| {
        url.host_str().is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]")
    });
    if local {
        builder = builder.no_proxy();
    }
    if base.starts_with("http:") {
        builder = builder.tls_certs_only([]);
    }
    builder
}

/// A client for threads that may block.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Always there until the client is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    answer_bytes_max: usize,
}

impl Client {
    /// A client for servers at `base`, a URL such as `http://127.0.0.1:9471`.
    ///
    /// # Errors
    /// [`HttpError::Client`] or [`HttpError::Runtime`] when the system refuses what a client needs.
    pub fn new(base: &str, limits: Limits) -> Result<Self, HttpError> {
        // Between requests nobody would notice that a server closed a kept connection, and the next request would be
        // lost on it.
        let http =
            builder(base).timeout(limits.timeout).pool_max_idle_per_host(0).build().map_err(HttpError::Client)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::Runtime)?;
        Ok(Self { http, runtime: Some(runtime), answer_bytes_max: limits.answer_bytes_max })
    }

    /// `GET url`.
    ///
    /// # Errors
    /// [`HttpError`] when there is no whole answer. A refusal by the server is an answer.
    pub fn get(&self, url: &str) -> Result<Answer, HttpError> {
        self.send(url, None, None)
    }

    /// `GET url`, or `POST url` with a JSON body; with `bearer` as the value of `Authorization: Bearer`.
    ///
    /// # Errors
    /// [`HttpError`] when there is no whole answer. A refusal by the server is an answer.
    pub fn send(&self, url: &str, bearer: Option<&str>, json: Option<String>) -> Result<Answer, HttpError> {
        let mut request = match json {
            None => self.http.get(url),
            Some(body) => self.http.post(url).header("Content-Type", "application/json").body(body),
        };
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        match &self.runtime {
            Some(runtime) => runtime.block_on(self.whole(request)),
            None => Err(HttpError::Runtime(std::io::Error::other("the client was dropped"))),
        }
    }

    async fn whole(&self, request: reqwest::RequestBuilder) -> Result<Answer, HttpError> {
        // Who calls names the address; it may hold a secret.
        let lost = |error: reqwest::Error| HttpError::Lost(error.without_url());
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(lost)? {
            if body.len() + piece.len() > self.answer_bytes_max {
                return Err(HttpError::TooLong(self.answer_bytes_max));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status, text: String::from_utf8(body).map_err(|_| HttpError::NotText)? })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A look-up of a host name that hangs must not hold up whoever drops the client, async code included.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One request by a client of its own: see [`Client::send`].
///
/// # Errors
/// [`HttpError`] when there is no whole answer. A refusal by the server is an answer.
pub fn ask(url: &str, bearer: Option<&str>, json: Option<String>, limits: Limits) -> Result<Answer, HttpError> {
    Client::new(url, limits)?.send(url, bearer, json)
}

/// `url` with a query of these names and values.
#[must_use]
pub fn with_query(url: &str, query: &[(&str, &str)]) -> String {
    // A URL that cannot be read is refused, with a reason, when it is asked.
    reqwest::Url::parse_with_params(url, query).map_or_else(|_| url.to_owned(), String::from)
}

/// An error with its causes; the outermost of an HTTP client says next to nothing.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// A server that gives `answer` to each connection.
    fn serve(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        url
    }

    fn with_body(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    }

    fn client(url: &str, timeout_ms: u64) -> Client {
        Client::new(url, Limits { timeout: Duration::from_millis(timeout_ms), answer_bytes_max: 10 }).unwrap()
    }

    #[test]
    fn an_answer_is_read_up_to_its_bound() {
        let url = serve(with_body("0123456789"));
        assert_eq!(client(&url, 60_000).get(&url).unwrap(), Answer { status: 200, text: "0123456789".to_owned() });
        let url = serve(with_body("0123456789a"));
        assert!(matches!(client(&url, 60_000).get(&url), Err(HttpError::TooLong(10))));
        // An answer without a length and without an end.
        let url = serve(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1000)));
        assert!(matches!(client(&url, 60_000).get(&url), Err(HttpError::TooLong(10))));
    }

    #[test]
    fn a_server_that_hangs_is_given_up_with_the_reason() {
        let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", hanging.local_addr().unwrap());
        let error = client(&url, 300).get(&url).unwrap_err().to_string();
        assert!(error.contains("timed out"), "{error}");
        drop(hanging);
        let error = client(&url, 60_000).get(&url).unwrap_err().to_string();
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[test]
    fn a_client_may_be_dropped_by_async_code() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { drop(client("http://127.0.0.1:9", 1000)) });
    }

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(with_query("http://a/q", &[("query", "up{a=\"b c\"}")]), "http://a/q?query=up%7Ba%3D%22b+c%22%7D");
    }
}
