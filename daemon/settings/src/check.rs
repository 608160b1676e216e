//! Checks that many settings need. It owns the form in which a value is refused: the key, what is wrong with the value,
//! and what to write instead.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// No wait in the configuration may be longer than a day.
pub const WAIT_MS: RangeInclusive<u64> = 1..=86_400_000;

/// A value that is well-formed but out of range or at odds with another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {problem}")]
pub struct Invalid {
    /// The key with its section, such as `peers.mtu`.
    pub key: String,
    /// The value, as TOML.
    pub value: String,
    /// What is wrong with it, and what to write instead.
    pub problem: String,
}

/// What a check answers.
pub type Verdict = Result<(), Invalid>;

/// Refuses the value of `key`.
///
/// # Errors
/// Always: an [`Invalid`] that joins `problem` and `remedy`.
pub fn wrong(key: &str, value: impl Display, problem: impl Display, remedy: impl Display) -> Verdict {
    Err(Invalid { key: key.to_owned(), value: value.to_string(), problem: format!("{problem}; {remedy}") })
}

/// Checks that `value` is in `range`.
///
/// # Errors
/// [`Invalid`] with the limits of the range.
pub fn within<N: PartialOrd + Display>(key: &str, value: N, range: RangeInclusive<N>) -> Verdict {
    if range.contains(&value) {
        return Ok(());
    }
    let remedy = format!("write a number from {} to {}", range.start(), range.end());
    wrong(key, value, "out of range", remedy)
}

/// A text as TOML writes it.
#[must_use]
pub fn quoted(text: &impl Display) -> String {
    format!("\"{text}\"")
}

/// Checks the URL of a server that is asked without TLS. An empty URL passes: the server is not asked.
///
/// # Errors
/// [`Invalid`] for anything but `http://HOST…`.
pub fn check_plain_http(key: &str, url: &str) -> Verdict {
    if url.is_empty() || url.strip_prefix("http://").is_some_and(|host| !host.is_empty()) {
        return Ok(());
    }
    wrong(
        key,
        quoted(&url),
        "not a URL that begins with http://",
        "write http://HOST:PORT; for TLS, name a proxy on this machine",
    )
}
