//! Who may change something if no token is set: callers that name this machine. A page in a browser can send requests
//! to any address; its site is in `Origin`, and if it points a name of its own at this machine, that name is in `Host`.
//! It owns that check, and must never trust the address that a request comes from: a browser's is this machine's own.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, header};
use std::net::IpAddr;

/// The names by which this machine is called.
#[derive(Debug)]
pub(super) struct Local {
    listen: IpAddr,
    /// What the kernel calls this node.
    node: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    /// It asks for another machine, or names none.
    #[error(
        "`Host: {0}` does not name this machine: use an address, or `localhost`, or set admin.token_file, as a page in a browser could \
         have sent this"
    )]
    Host(String),
    /// It was sent by a page of elsewhere.
    #[error("`Origin: {0}` is another site: without admin.token_file, pages of other sites are not answered")]
    Origin(String),
}

/// The text of a header; one that is not text reads as empty.
fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

impl Local {
    pub(super) fn new(listen: IpAddr) -> Self {
        // If the host name cannot be read, no name matches.
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { listen, node: node.trim().to_owned() }
    }

    /// Whether `host` can only be this machine. An address that is written out cannot be pointed elsewhere, as a name
    /// can; which of them are this machine's is not known where it listens on all.
    fn is_here(&self, host: &str) -> bool {
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address == self.listen.to_canonical() || self.listen.is_unspecified()
            }
            Err(_) => {
                host.eq_ignore_ascii_case("localhost") || (!host.is_empty() && host.eq_ignore_ascii_case(&self.node))
            }
        }
    }

    /// Lets callers pass that name this machine and are not sent by a page of elsewhere.
    ///
    /// # Errors
    /// [`Stranger`], in words for the caller.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Stranger> {
        let host = text(headers, header::HOST).unwrap_or_default();
        let is_here = host.parse::<Authority>().is_ok_and(|authority| self.is_here(authority.host()));
        if !is_here {
            return Err(Stranger::Host(host.to_owned()));
        }
        match text(headers, header::ORIGIN) {
            // Only this server's own origin, which is scheme, name and port, may pass.
            Some(origin) if !origin.eq_ignore_ascii_case(&format!("http://{host}")) => {
                Err(Stranger::Origin(origin.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(listen: &str, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        Local { listen: listen.parse().unwrap(), node: "node-7".to_owned() }.admit(&headers).is_ok()
    }

    #[test]
    fn a_host_must_name_this_machine() {
        for host in
            ["localhost", "LOCALHOST:7401", "127.0.0.1:7401", "127.3.2.1", "[::1]:7401", "node-7:7401", "10.0.0.5:80"]
        {
            assert!(admits("10.0.0.5", host, None), "{host}");
        }
        for host in
            ["evil.example", "evil.example:7401", "localhost.evil.example", "node-7.evil.example", "10.0.0.6", ""]
        {
            assert!(!admits("10.0.0.5", host, None), "{host}");
        }
        // Where it listens on all addresses, one that is written out may be any of them; a name is still a name.
        assert!(admits("0.0.0.0", "10.0.0.6:7401", None) && admits("::", "[fd00::1]:7401", None));
        assert!(!admits("0.0.0.0", "evil.example", None));
        assert!(Local::new([127, 0, 0, 1].into()).admit(&HeaderMap::new()).is_err(), "no host at all");
    }

    #[test]
    fn an_origin_must_be_this_server() {
        let host = "127.0.0.1:7401";
        assert!(admits("127.0.0.1", host, Some("http://127.0.0.1:7401")));
        for origin in [
            "null",
            "http://evil.example",
            "https://127.0.0.1:7401",
            "http://127.0.0.1:3000",
            "http://localhost:7401",
            "",
        ] {
            assert!(!admits("127.0.0.1", host, Some(origin)), "{origin}");
        }
    }
}
