//! The wire to the model: chat completions through `async-openai`, over an HTTP service of our own that holds every
//! request to a deadline, repeats what is worth repeating within a budget, and reads no more of a response than it may.
//! It owns those bounds. It must never believe a body before it is whole, follow a redirect (a key would go along), or
//! log what came: a fault quotes its beginning, for `/v1/status` and the journal.

use super::settings::{LlmError, LlmSettings};
use async_openai::Client;
use async_openai::config::Config;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use rudder_http::with_causes;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};
use tower::BoxError;

/// First wait before a repetition; each further one is twice as long.
const BACKOFF: Duration = Duration::from_millis(100);

/// Longest time for which an endpoint that said `Retry-After` is left alone.
const QUIET_MAX: Duration = Duration::from_secs(300);

/// Characters of foreign text that an error may quote.
const QUOTED_MAX: usize = 120;

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The deadline passed.
    #[error("no answer within {0} ms")]
    Late(u64),
    /// No connection, or a lost one.
    #[error("{0}")]
    Lost(String),
    /// The endpoint refused; with the time after which it wants to be asked again.
    #[error("HTTP status {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Status {
        /// The status.
        status: u16,
        /// The beginning of what it said.
        said: String,
        /// From `Retry-After`.
        wait: Option<Duration>,
    },
    /// What came is no response.
    #[error("{0}")]
    Garbage(String),
}

impl Fault {
    fn worth_repeating(&self) -> bool {
        match self {
            Fault::Lost(_) => true,
            Fault::Status { status, .. } => *status == 429 || *status >= 500,
            Fault::Late(_) | Fault::Garbage(_) => false,
        }
    }

    /// How long the endpoint wants no requests, and the same in words; `None` if it did not ask for that.
    pub(super) fn quiet(&self) -> Option<(Duration, String)> {
        match self {
            Fault::Status { wait: Some(wait), .. } if !wait.is_zero() => {
                Some((*wait, format!("{self}; it asked to be left alone for {:.0} s", wait.as_secs_f64().ceil())))
            }
            _ => None,
        }
    }
}

/// The beginning of a foreign text, on one line, without control characters.
pub(super) fn quoted(text: &str) -> String {
    let mut line: String = text.chars().take(QUOTED_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

/// Where requests go, and with what key. Unlike the crate's own it takes nothing from the environment by itself: a key
/// of another service must not reach this endpoint.
#[derive(Debug, Clone)]
struct Target {
    base: String,
    headers: HeaderMap,
    key: SecretString,
}

impl Config for Target {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn query(&self) -> Vec<(&str, &str)> {
        Vec::new()
    }

    fn api_base(&self) -> &str {
        &self.base
    }

    fn api_key(&self) -> &SecretString {
        &self.key
    }
}

/// An endpoint.
#[derive(Clone)]
pub(super) struct Endpoint {
    http: reqwest::Client,
    target: Target,
    retries: u32,
    retry_budget: Duration,
    bytes_max: usize,
}

impl Endpoint {
    pub(super) fn new(settings: &LlmSettings) -> Result<Self, LlmError> {
        settings.check()?;
        let mut headers = HeaderMap::new();
        if !settings.key_env.is_empty() {
            let missing = || LlmError::Key(settings.key_env.clone());
            let key = std::env::var(&settings.key_env).ok().filter(|key| !key.is_empty()).ok_or_else(missing)?;
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| missing())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let base = settings.base_url.trim_end_matches('/').to_owned();
        let http = rudder_http::builder(&base).redirect(reqwest::redirect::Policy::none());
        let http = http.build().map_err(|error| LlmError::Client(with_causes(&error)))?;
        let target = Target { base, headers, key: SecretString::default() };
        Ok(Self {
            http,
            target,
            retries: settings.retries,
            retry_budget: Duration::from_millis(settings.retry_budget_ms),
            bytes_max: settings.answer_bytes_max,
        })
    }

    /// Posts a request for a chat completion and answers the response, as JSON of any shape.
    pub(super) async fn complete(&self, request: &impl Serialize, timeout_ms: u64) -> Result<Value, Fault> {
        let endpoint = self.clone();
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let service = tower::service_fn(move |request: HttpRequestFactory| {
            let endpoint = endpoint.clone();
            async move { endpoint.execute(request, deadline).await.map_err(BoxError::from) }
        });
        let client = Client::build(self.http.clone(), self.target.clone()).with_http_service(service);
        let chat = client.chat();
        let answer = tokio::time::timeout_at(deadline.into(), chat.create_byot(request)).await;
        match answer {
            Err(_) => Err(Fault::Late(timeout_ms)),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(OpenAIError::Boxed(error))) => {
                Err(error.downcast::<Fault>().map_or_else(|error| Fault::Garbage(quoted(&error.to_string())), |f| *f))
            }
            Ok(Err(error)) => Err(Fault::Garbage(quoted(&error.to_string()))),
        }
    }

    /// One request with its repetitions. Answers successful responses with a whole, bounded body of JSON only, so that
    /// what comes after it has nothing to doubt, and nothing to log.
    async fn execute(&self, request: HttpRequestFactory, deadline: Instant) -> Result<Response, Fault> {
        let mut budget = self.retry_budget;
        let mut backoff = BACKOFF;
        let mut left = self.retries;
        loop {
            let fault = match self.attempt(&request).await {
                Ok(response) => return Ok(response),
                Err(fault) => fault,
            };
            let asked = if let Fault::Status { wait, .. } = &fault { *wait } else { None };
            let wait = asked.map_or(backoff, |asked| asked.max(backoff));
            let in_time = Instant::now() + wait < deadline;
            if left == 0 || wait > budget || !in_time || !fault.worth_repeating() {
                return Err(fault);
            }
            left -= 1;
            budget -= wait;
            backoff *= 2;
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, request: &HttpRequestFactory) -> Result<Response, Fault> {
        let request = request.build().await.map_err(|error| Fault::Garbage(quoted(&error.to_string())))?;
        let response = self.http.execute(request).await.map_err(|error| Fault::Lost(with_causes(&error)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match self.body(response).await {
            Ok(body) => body,
            // What a refusal says is of no use where it cannot be read.
            Err(_) if !status.is_success() => Vec::new(),
            Err(fault) => return Err(fault),
        };
        if !status.is_success() {
            return Err(refusal(status, &headers, &body));
        }
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
            let begin = quoted(&String::from_utf8_lossy(&body));
            return Err(Fault::Garbage(format!("the response is no JSON ({error}): {begin}")));
        }
        Ok(Response::from(http::Response::new(body)))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Err(error) => {
                    return Err(Fault::Lost(format!("connection lost in mid-answer: {}", with_causes(&error))));
                }
                Ok(None) => return Ok(body),
                Ok(Some(chunk)) if body.len() + chunk.len() > self.bytes_max => {
                    return Err(Fault::Garbage(format!("the response is longer than {} bytes", self.bytes_max)));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            }
        }
    }
}

/// How long `Retry-After` says to wait: in seconds, or until a date (RFC 9110, section 10.2.3). A date in the past
/// means no wait.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        // More digits than fit are a long time, too.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(QUIET_MAX))
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
    let wait = retry_after(headers, SystemTime::now());
    let text = String::from_utf8_lossy(body);
    let message = serde_json::from_str::<Value>(&text).ok().and_then(|value| {
        let error = value.get("error")?;
        error.get("message").unwrap_or(error).as_str().map(str::to_owned)
    });
    Fault::Status { status: status.as_u16(), said: quoted(&message.unwrap_or_else(|| text.into_owned())), wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        // Sunday, 6 November 1994, 08:49:37 GMT, the date of RFC 9110.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]), now);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
        for (text, wait) in [
            ("0", seconds(0)),
            (" 7 ", seconds(7)),
            ("86400", Some(QUIET_MAX)),
            ("99999999999999999999999", Some(QUIET_MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", seconds(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", seconds(10)),
            ("Sun Nov  6 08:49:47 1994", seconds(10)),
            ("Sun, 06 Nov 1994 07:00:00 GMT", seconds(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(QUIET_MAX)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(read(text), wait, "{text}");
        }
    }
}
