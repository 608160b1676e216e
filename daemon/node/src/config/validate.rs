//! Which values make sense, alone and together. It must never repair a value: it names the key and what to write instead.

use super::agent::is_controller;
use super::{Config, DatasetConfig};
use rudder_peers::InvalidPeersKey;
use rudder_settings::{Invalid, Verdict, WAIT_MS, check_plain_http, quoted, within, wrong};

/// Below, owners would be asked more often than they can answer.
const STALENESS_MS_MIN: u64 = 50;

impl Config {
    /// Checks every range and every pair of keys that can contradict each other.
    ///
    /// # Errors
    /// The first key that makes no sense.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_node()?;
        self.validate_dataset()?;
        self.validate_local()?;
        self.validate_cache()?;
        self.lookahead.check()?;
        self.validate_peers()?;
        self.validate_agent()?;
        self.validate_admin()
    }

    /// Checks what needs the dataset: that this node and all its peers exist and can be reached, for `parts` partitions.
    ///
    /// # Errors
    /// The first key that does not fit the dataset.
    pub fn validate_against(&self, parts: u16) -> Verdict {
        if self.node.index >= parts {
            let remedy = format!("write an index from 0 to {}", parts.saturating_sub(1));
            return wrong("node.index", self.node.index, format!("the dataset has {parts} partitions"), remedy);
        }
        if let Some((node, address)) = self.peers.addresses.range(parts..).next() {
            let problem = format!("the dataset has {parts} partitions, so there is no node {node}");
            return wrong(&format!("peers.addresses.{node}"), quoted(address), problem, "remove it");
        }
        if parts == 1 {
            return Ok(());
        }
        let absent: Vec<String> = (0..parts)
            .filter(|node| *node != self.node.index && !self.peers.addresses.contains_key(node))
            .map(|node| node.to_string())
            .collect();
        if !absent.is_empty() {
            let problem =
                format!("the dataset has {parts} partitions, and no address is given for node {}", absent.join(", "));
            let remedy = format!("add `{} = \"host:7400\"` for each under [peers.addresses]", absent[0]);
            return wrong("peers.addresses", format!("{:?}", self.peers.addresses), problem, remedy);
        }
        Ok(())
    }

    fn validate_agent(&self) -> Verdict {
        let agent = &self.agent;
        if !is_controller(&agent.controller) {
            let remedy = "write rules, llm, classifier:FILE, schedule:N, explore:SEED or off";
            return wrong("agent.controller", quoted(&agent.controller), "no controller", remedy);
        }
        if agent.controller == "llm" && agent.llm_model.is_empty() {
            let remedy = "name a model that the endpoint of agent.llm_base_url serves";
            return wrong("agent.llm_model", "\"\"", "empty, but agent.controller is llm", remedy);
        }
        let (deadline_ms, llm_timeout_ms) = (agent.deadline_ms, agent.llm_timeout_ms);
        if agent.controller == "llm" && deadline_ms < llm_timeout_ms {
            let problem =
                format!("below agent.llm_timeout_ms, {llm_timeout_ms}: an answer that takes longer is always late");
            let remedy = "write at least as many, or a smaller agent.llm_timeout_ms";
            return wrong("agent.deadline_ms", deadline_ms, problem, remedy);
        }
        if !(0.0..=1.0).contains(&agent.classifier_learning_rate) {
            let remedy = "write for example 0.02";
            return wrong("agent.classifier_learning_rate", agent.classifier_learning_rate, "not from 0 to 1", remedy);
        }
        check_plain_http("agent.prometheus_url", &agent.prometheus_url)?;
        within("agent.prometheus_timeout_ms", agent.prometheus_timeout_ms, 1..=60_000)?;
        if agent.prometheus_selector.contains(['{', '}']) || agent.prometheus_selector.is_empty() {
            let (value, remedy) =
                (quoted(&agent.prometheus_selector), "write matchers without braces, such as job=\"rudder\"");
            return wrong("agent.prometheus_selector", value, "no list of label matchers", remedy);
        }
        within("agent.llm_timeout_ms", agent.llm_timeout_ms, 1..=600_000)?;
        within("agent.llm_retries", agent.llm_retries, 0..=100)?;
        within("agent.llm_retry_budget_ms", agent.llm_retry_budget_ms, 0..=600_000)?;
        within("agent.llm_history", agent.llm_history, 0..=16)?;
        within("agent.llm_max_tokens", agent.llm_max_tokens, 1..=65_536)?;
        within("agent.llm_reprobe_ms", agent.llm_reprobe_ms, WAIT_MS)?;
        if !(0.0..=2.0).contains(&agent.llm_temperature) {
            return wrong("agent.llm_temperature", agent.llm_temperature, "not from 0 to 2", "write for example 0.0");
        }
        within("agent.window_ms", agent.window_ms, 10..=*WAIT_MS.end())?;
        within("agent.deadline_ms", agent.deadline_ms, WAIT_MS)?;
        within("agent.journal_bytes_max", agent.journal_bytes_max, 64 << 10..=1 << 40)?;
        within("agent.journal_files_max", agent.journal_files_max, 0..=1000)?;
        within("agent.decisions_max", agent.decisions_max, 1..=1_000_000)?;
        if !(agent.jitter >= 0.0 && agent.jitter < 1.0) {
            return wrong("agent.jitter", agent.jitter, "not from 0 to below 1", "write a share, such as 0.1");
        }
        Ok(())
    }

    fn validate_node(&self) -> Verdict {
        within("node.drain_ms", self.node.drain_ms, 0..=*WAIT_MS.end())
    }

    fn validate_dataset(&self) -> Verdict {
        if self.dataset.path.as_os_str().is_empty() {
            return wrong("dataset.path", "\"\"", "empty", "write the folder that holds manifest.json");
        }
        let DatasetConfig { block_bytes, block_cache_bytes, reads_max, read_timeout_ms, .. } = self.dataset;
        within("dataset.block_bytes", block_bytes, 4 << 10..=64 << 20)?;
        within("dataset.block_cache_bytes", block_cache_bytes, 4 << 10..=1 << 50)?;
        if block_cache_bytes < block_bytes as u64 {
            let problem = format!("no block of dataset.block_bytes = {block_bytes} fits");
            return wrong(
                "dataset.block_cache_bytes",
                block_cache_bytes,
                problem,
                "write at least some hundred blocks",
            );
        }
        within("dataset.reads_max", reads_max, 1..=1024)?;
        within("dataset.read_timeout_ms", read_timeout_ms, WAIT_MS)?;
        within("dataset.updates_bytes_max", self.dataset.updates_bytes_max, 0..=1 << 46)
    }

    fn validate_local(&self) -> Verdict {
        let local = &self.local;
        if local.mode > 0o777 {
            let value = format!("\"{:04o}\"", local.mode);
            return wrong("local.mode", value, "not permission bits", "write octal digits in quotes, such as \"0660\"");
        }
        if local.socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let problem = format!("longer than the {SOCKET_PATH_BYTES_MAX} bytes a Unix socket's path may have");
            return wrong("local.socket", quoted(&local.socket.display()), problem, "choose a shorter path");
        }
        within("local.threads", local.threads, 0..=1024)?;
        within("local.gather_threads", local.gather_threads, 0..=1024)?;
        within("local.connections_max", local.connections_max, 1..=65_536)?;
        within("local.inflight_max", local.inflight_max, 1..=65_536)?;
        within("local.frame_bytes_max", local.frame_bytes_max, 4 << 10..=1 << 30)?;
        within("local.inline_bytes_max", local.inline_bytes_max, 4 << 10..=1 << 32)?;
        within("local.ids_max", local.ids_max, 1..=1 << 32)?;
        within("local.arenas_max", local.arenas_max, 1..=65_536)?;
        within("local.arena_bytes_max", local.arena_bytes_max, 4 << 10..=1 << 50)?;
        within("local.write_timeout_ms", local.write_timeout_ms, WAIT_MS)
    }

    fn validate_cache(&self) -> Verdict {
        let cache = &self.cache;
        within("cache.period", cache.period, 1..=u32::MAX)?;
        if !(cache.alpha > 0.0 && cache.alpha <= 1.0) {
            return wrong("cache.alpha", cache.alpha, "not above 0 and at most 1", "write for example 0.05");
        }
        if cache.staleness_max_ms != 0 {
            within("cache.staleness_max_ms", cache.staleness_max_ms, STALENESS_MS_MIN..=*WAIT_MS.end())?;
        }
        for (key, share) in [("cache.memory_share", cache.memory_share), ("cache.pressure_share", cache.pressure_share)]
        {
            if !(share > 0.0 && share <= 1.0) {
                return wrong(key, share, "not above 0 and at most 1", "write a share of the limit, such as 0.9");
            }
        }
        if cache.pressure_share < cache.memory_share {
            let problem = format!("below cache.memory_share, {}", cache.memory_share);
            return wrong("cache.pressure_share", cache.pressure_share, problem, "write a share at least as large");
        }
        within("cache.memory_poll_ms", cache.memory_poll_ms, 0..=*WAIT_MS.end())?;
        within("cache.tool_wait_ms", cache.tool_wait_ms, WAIT_MS)?;
        within("cache.sample", cache.sample, 1..=1024)
    }

    /// The section checks itself; here its verdict gets the value that was said, and the addresses their form.
    fn validate_peers(&self) -> Verdict {
        if let Err(InvalidPeersKey { key, problem }) = self.peers.check() {
            let said =
                toml::Table::try_from(&self.peers).ok().and_then(|table| table.get(key).map(ToString::to_string));
            let key = format!("peers.{key}");
            return Err(Invalid { key, value: said.unwrap_or_default(), problem });
        }
        for (node, address) in &self.peers.addresses {
            if !is_host_and_port(address) {
                let key = format!("peers.addresses.{node}");
                return wrong(&key, quoted(address), "not host:port", "write for example \"10.0.0.2:7400\"");
            }
        }
        Ok(())
    }

    fn validate_admin(&self) -> Verdict {
        within("admin.header_timeout_ms", self.admin.header_timeout_ms, WAIT_MS)?;
        within("admin.request_timeout_ms", self.admin.request_timeout_ms, WAIT_MS)?;
        within("admin.connections_max", self.admin.connections_max, 1..=65_536)?;
        self.log.validate()
    }
}

/// `sun_path` of `sockaddr_un` holds 108 bytes on Linux, one of them the final zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Names are resolved when a peer is dialled, so only the form is checked.
fn is_host_and_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
