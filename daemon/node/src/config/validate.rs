//! What spans the sections of a configuration. Each section checks itself; here the checks are called in order, and
//! limits of different sections that could contradict each other are compared. It must never repair a value: it names
//! the key and what to write instead.

use super::{Access, Config};
use rudder_peers::discovery::Discovery;
use rudder_settings::{Invalid, Verdict, quoted, wrong};
use std::collections::BTreeMap;

impl Config {
    /// Checks every range and every pair of keys that can contradict each other.
    ///
    /// # Errors
    /// The first key that makes no sense.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.node.check()?;
        self.dataset.check()?;
        self.local.check()?;
        self.cache.check()?;
        self.lookahead.check()?;
        self.peers.check()?;
        self.agent.check()?;
        self.admin.check()?;
        self.log.check()?;
        self.validate_together()
    }

    /// Limits of different sections that belong together.
    fn validate_together(&self) -> Verdict {
        let (tool_wait_ms, request_timeout_ms) = (self.cache.steer.tool_wait_ms, self.admin.request_timeout_ms);
        if tool_wait_ms >= request_timeout_ms {
            let problem = format!(
                "not below admin.request_timeout_ms, {request_timeout_ms}: a tool call over HTTP is answered with a \
                 time-out before the tool can answer"
            );
            return wrong("cache.tool_wait_ms", tool_wait_ms, problem, "lower it, or raise admin.request_timeout_ms");
        }
        self.validate_ceilings()?;
        // Without the addresses of peers nobody waits for this node's blocks but its own trainers.
        let (read_ms, fetch_ms) = (self.dataset.blocks.read_timeout_ms, self.peers.request_timeout_ms);
        if self.dataset.access == Access::Blocks && self.has_peers() && read_ms > fetch_ms {
            let problem =
                format!("above peers.request_timeout_ms, {fetch_ms}: a peer gives up before the read of a block does");
            return wrong("dataset.read_timeout_ms", read_ms, problem, "lower it, or raise peers.request_timeout_ms");
        }
        let peers = self.peers.addresses.keys().filter(|node| **node != self.node.index()).count();
        let (each, connections_max) = (self.peers.connections_per_peer, self.peers.connections_max);
        if peers.saturating_mul(each) > connections_max {
            let problem = format!("{peers} peers open {each} connections each (peers.connections_per_peer)");
            let remedy = format!("write {} or more", peers.saturating_mul(each));
            return wrong("peers.connections_max", connections_max, problem, remedy);
        }
        Ok(())
    }

    /// Whether the configuration says where other nodes are.
    fn has_peers(&self) -> bool {
        !self.peers.addresses.is_empty() || self.peers.discovery != Discovery::Listed
    }

    /// What the agent may grow caches to is of use only if one of them can grow that far.
    fn validate_ceilings(&self) -> Verdict {
        let Some(agents) = self.agent.ceiling else { return Ok(()) };
        let mut ceilings = self.cache.tables.values().filter_map(|table| table.ceiling).chain([self.cache.ceiling]);
        if ceilings.all(|ceiling| agents > ceiling) {
            let problem = format!("above cache.ceiling, {}: no cache can grow that far", self.cache.ceiling);
            return wrong("agent.ceiling", agents, problem, "lower it, or raise cache.ceiling");
        }
        Ok(())
    }

    /// Checks what needs the dataset: that this node and all its peers exist and can be reached, for `parts`
    /// partitions.
    ///
    /// # Errors
    /// The first key that does not fit the dataset.
    pub fn validate_against(&self, parts: u16) -> Verdict {
        let index = self.node.index();
        if self.node.index.is_none() && parts > 1 {
            let problem =
                format!("the dataset has {parts} partitions, and nothing says which of them this daemon owns");
            let remedy = format!(
                "write `index = N`, from 0 to {}, set RUDDER_NODE__INDEX, or pass --node-index; `rudder up` starts a \
                 daemon for each",
                parts - 1
            );
            return wrong("node.index", "not set", problem, remedy);
        }
        if index >= parts {
            let remedy = format!("write an index from 0 to {}", parts.saturating_sub(1));
            return wrong("node.index", index, format!("the dataset has {parts} partitions"), remedy);
        }
        if let Some((node, address)) = self.peers.addresses.range(parts..).next() {
            let problem = format!("the dataset has {parts} partitions, so there is no node {node}");
            return wrong(&format!("peers.addresses.{node}"), quoted(address), problem, "remove it");
        }
        if parts == 1 {
            return Ok(());
        }
        self.validate_peers(parts, &self.peers.find_addresses(parts)?)
    }

    /// That every other node of a dataset of `parts` partitions has an address among those that were found.
    fn validate_peers(&self, parts: u16, addresses: &BTreeMap<u16, String>) -> Verdict {
        let absent: Vec<String> = (0..parts)
            .filter(|node| *node != self.node.index() && !addresses.contains_key(node))
            .map(|node| node.to_string())
            .collect();
        if !absent.is_empty() {
            let problem =
                format!("the dataset has {parts} partitions, and no address is given for node {}", absent.join(", "));
            if self.peers.discovery != Discovery::Listed {
                return wrong("peers.discovery", quoted(&self.peers.discovery), problem, "add each of them there");
            }
            let remedy = format!(
                "add `{} = \"host:7400\"` for each under [peers.addresses], or let peers.discovery find them",
                absent[0]
            );
            return wrong("peers.addresses", format!("{addresses:?}"), problem, remedy);
        }
        Ok(())
    }
}
