//! Whether the other nodes can be reached: a real handshake with this node's certificate, and packets as large as
//! configured. Owns the bounds of the waiting and the judgement of what came of it.

use crate::finding::Finding;
use crate::style::time;
use rudder_daemon::config::Config;
use rudder_dataset::Dataset;
use rudder_peers::settings::MTU_DISCOVERED_MAX;
use rudder_peers::{DialError, Identity, Meeting, Probe};
use rudder_telemetry::error_chain;
use std::time::Duration;

/// Longest wait for packets to grow to `peers.mtu`.
const GROWTH: Duration = Duration::from_secs(3);

/// Meets all peers at once.
pub(super) fn check_peers(config: &Config, dataset: &Dataset) -> Vec<Finding> {
    let identity = Identity { node: dataset.node().0, parts: dataset.parts(), fingerprint: dataset.fingerprint() };
    let addresses = match config.peers.find_addresses(identity.parts) {
        Ok(addresses) => addresses,
        Err(invalid) => return vec![Finding::problem("peers", invalid.to_string(), "correct peers.discovery")],
    };
    let others: Vec<(u16, String)> = addresses.into_iter().filter(|(node, _)| *node != identity.node).collect();
    if others.is_empty() {
        return vec![Finding::ok("peers", "no other nodes")];
    }
    let failed = |error: String| {
        vec![Finding::problem("peers", error, "first mend the problems of certificates and [peers] above")]
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(error.to_string()),
    };
    runtime.block_on(async {
        let probe = match Probe::start(&config.peers, identity) {
            Ok(probe) => std::sync::Arc::new(probe),
            Err(error) => return failed(error.to_string()),
        };
        let mut asked = Vec::new();
        for (node, address) in others {
            let probe = std::sync::Arc::clone(&probe);
            asked.push((node, address, tokio::spawn(async move { probe.measure(node, GROWTH).await })));
        }
        let mut found = Vec::new();
        for (node, address, met) in asked {
            let met = met.await.unwrap_or_else(|error| Err(DialError::Lost(error.to_string())));
            found.extend(judge(node, &address, met, config.peers.mtu));
        }
        found
    })
}

/// What came of meeting a peer.
fn judge(node: u16, address: &str, met: Result<Meeting, DialError>, mtu: u16) -> Vec<Finding> {
    let name = format!("peer {node}");
    match met {
        Err(error) => {
            let text = error_chain(&error);
            // The errors of a dial say after a semicolon what to do.
            let (what, mend) = text.split_once("; ").unwrap_or((&text, "start rudderd there, and try again"));
            vec![Finding::problem(name, format!("{address}: {what}"), mend)]
        }
        Ok(meeting) => {
            let words = format!("{address}: knows this node, round trip {}", time(meeting.rtt.as_secs_f64()));
            let mut found = vec![Finding::ok(name, words)];
            found.push(path_mtu(node, meeting.mtu, mtu));
            found
        }
    }
}

fn path_mtu(node: u16, arrived: u16, mtu: u16) -> Finding {
    let name = format!("path to {node}");
    if arrived >= mtu {
        return Finding::ok(name, format!("packets of {arrived} bytes arrive, as peers.mtu says"));
    }
    let words = format!("packets of {arrived} bytes arrive, those of peers.mtu = {mtu} do not");
    if mtu > MTU_DISCOVERED_MAX {
        let mend = format!(
            "set peers.mtu = {} on all nodes, or raise the MTU of every interface and switch between them",
            arrived.max(MTU_DISCOVERED_MAX)
        );
        return Finding::problem(
            name,
            format!("{words}, and such a value is never lowered: rows would not come"),
            mend,
        );
    }
    Finding::warning(
        name,
        format!("{words}: more packets for the same rows"),
        "raise the MTU of the interfaces between the nodes, or leave it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity::{Ok as Fine, Problem, Warning};

    fn meeting(mtu: u16) -> Meeting {
        let address = "127.0.0.1:1".parse().unwrap();
        Meeting { address, took: Duration::from_millis(3), rtt: Duration::from_micros(140), mtu }
    }

    #[test]
    fn a_peer_that_is_met_is_fine_as_far_as_packets_arrive() {
        let found = judge(1, "b:7400", Ok(meeting(1452)), 1452);
        assert_eq!([found[0].verdict, found[1].verdict], [Fine, Fine]);
        assert!(found[0].found.contains("round trip 140 µs"), "{found:?}");
        assert_eq!(judge(1, "b:7400", Ok(meeting(1300)), 1452)[1].verdict, Warning);
        let jumbo = &judge(1, "b:7400", Ok(meeting(1472)), 6500)[1];
        assert!(jumbo.verdict == Problem && jumbo.mend.as_ref().unwrap().contains("peers.mtu = 1472"), "{jumbo:?}");
    }

    #[test]
    fn a_peer_that_is_not_met_says_what_to_do() {
        let found = judge(1, "b:7400", Err(DialError::NoAnswer { timeout_ms: 3000 }), 1452);
        assert_eq!((found.len(), found[0].verdict), (1, Problem));
        assert_eq!(found[0].found, "b:7400: no answer within 3000 ms");
        assert!(found[0].mend.as_ref().unwrap().contains("does UDP pass"), "{found:?}");
    }
}
