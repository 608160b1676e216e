//! The rules of the configuration, each with the message it gives.

use super::{Access, Config, ConfigError, Layers, Policy};
use rudder_settings::Capacity;
use std::path::Path;

const MINIMAL: &str = "[node]\nindex = 1\n[dataset]\npath = \"/data/graph\"\n";

fn file(text: &str) -> Result<Layers, ConfigError> {
    Layers::new().text(Path::new("rudderd.toml"), text)
}

fn pairs(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
}

/// The message of the error that `more`, after the minimal file, gives.
fn complaint(more: &str) -> String {
    file(&format!("{MINIMAL}{more}")).and_then(Layers::finish).unwrap_err().to_string()
}

#[test]
fn defaults_fill_what_a_minimal_file_leaves_out() {
    let config = file(MINIMAL).unwrap().finish().unwrap();
    assert_eq!(config.node.index, Some(1));
    assert_eq!(config.local, super::LocalConfig::default());
    assert_eq!(config.cache.capacity, Capacity::Share(0.15));
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let text = format!("{MINIMAL}[local]\nthreads = 1\ninflight_max = 1\nids_max = 1\n");
    let config = file(&text)
        .unwrap()
        .environment(pairs(&[("RUDDER_LOCAL__THREADS", "2"), ("RUDDER_LOCAL__INFLIGHT_MAX", "2")]))
        .unwrap()
        .flag("--threads", "local.threads", "3")
        .unwrap()
        .finish()
        .unwrap();
    let local = &config.local;
    assert_eq!((local.threads, local.inflight_max, local.ids_max, local.arenas_max), (3, 2, 1, 64));
}

#[test]
fn every_policy_is_known_by_one_name() {
    for policy in Policy::ALL {
        assert_eq!(policy.name().parse(), Ok(policy));
        assert_eq!(serde_json::to_value(policy).unwrap(), policy.name());
    }
    let error = "fifo".parse::<Policy>().unwrap_err();
    assert!(error.contains("`fifo`") && error.contains("s3fifo, sieve, epoch"), "{error}");
}

#[test]
fn environment_reads_every_kind_of_value() {
    let config = Layers::new()
        .environment(pairs(&[
            ("RUDDER_NODE__INDEX", "1"),
            ("RUDDER_DATASET__PATH", "/data/2026"),
            ("RUDDER_LOCAL__MODE", "0600"),
            ("RUDDER_LOCAL__ALLOWED_UIDS", "[1000, 1001]"),
            ("RUDDER_LOCAL__FRAME_BYTES_MAX", "8MiB"),
            ("RUDDER_CACHE__CAPACITY", "0.25"),
            ("RUDDER_CACHE__TABLES__PAPER__CAPACITY", "4GiB"),
            ("RUDDER_CACHE__TABLES__PAPER__POLICY", "periodic"),
            ("RUDDER_PEERS__ADDRESSES__0", "host-a:7400"),
            ("RUDDER_SOCKET", "/the/clients/own"),
            ("PATH", "/bin"),
        ]))
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(config.local.mode, 0o600);
    assert_eq!(config.local.allowed_uids, [1000, 1001]);
    assert_eq!(config.local.frame_bytes_max, 8 << 20);
    assert_eq!(config.cache.for_table("paper"), (Capacity::Bytes(4 << 30), Policy::Periodic));
    assert_eq!(config.cache.for_table("author"), (Capacity::Share(0.25), Policy::Epoch));
    assert_eq!(config.peers.addresses[&0], "host-a:7400");
}

#[test]
fn one_address_by_environment_joins_those_of_the_file() {
    let text = format!("{MINIMAL}[peers.addresses]\n0 = \"a:1\"\n2 = \"c:1\"\n");
    let config =
        file(&text).unwrap().environment(pairs(&[("RUDDER_PEERS__ADDRESSES__2", "d:1")])).unwrap().finish().unwrap();
    assert_eq!(config.peers.addresses.values().collect::<Vec<_>>(), ["a:1", "d:1"]);
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest_known() {
    let error = complaint("[local]\n\nsokcet = \"/x\"\n");
    assert_eq!(error, "unknown key `local.sokcet` (rudderd.toml:7): did you mean `local.socket`?");
    let error = complaint("[cahce]\npolicy = \"none\"\n");
    assert_eq!(error, "unknown key `cahce` (rudderd.toml:5): did you mean `cache`?");
    let error = complaint("[cache.tables.paper]\ncapacty = 3\n");
    assert!(error.ends_with("did you mean `cache.tables.paper.capacity`?"), "{error}");
    let error = complaint("[node]\n").to_string();
    assert!(error.starts_with("rudderd.toml:5: not TOML: duplicate key"), "{error}");
    let error = Layers::new().environment(pairs(&[("RUDDER_PEERS__MUT", "1452")])).unwrap_err().to_string();
    assert_eq!(error, "unknown key `peers.mut` (environment variable RUDDER_PEERS__MUT): did you mean `peers.mtu`?");
}

#[test]
fn a_key_of_another_section_is_pointed_at() {
    let error = complaint("[cache]\nsocket_buffer_bytes = 1\n");
    assert!(error.ends_with("did you mean `peers.socket_buffer_bytes`?"), "{error}");
    let error = complaint("[log]\nzzzzzz = 1\n");
    assert!(
        error.ends_with(
            "known here are format, level, otlp_endpoint, otlp_queue_max, otlp_sample, otlp_timeout_ms, slow_fetch_ms"
        ),
        "{error}"
    );
}

#[test]
fn a_wrong_type_names_key_value_place_and_an_example() {
    let error = complaint("[local]\nthreads = \"many\"\n");
    assert!(error.starts_with("local.threads = \"many\" (rudderd.toml:6): invalid type"), "{error}");
    assert!(error.ends_with("write for example `0`"), "{error}");
    let error = complaint("[local.socket]\npath = \"/x\"\n");
    assert!(error.starts_with("local.socket = "), "{error}");
    let error = complaint("[cache]\npolicy = \"fifo\"\n");
    assert!(error.contains("expected one of `none`, `static`, `periodic`, `rudder`, `lru`,"), "{error}");
    let error = complaint("[peers]\nmtu = 70000\n");
    assert!(error.starts_with("peers.mtu = 70000"), "{error}");
    let error = Layers::new().flag("--node-index", "node.index", "first").unwrap_err().to_string();
    assert!(error.contains("(flag --node-index)"), "{error}");
}

#[test]
fn values_out_of_range_are_refused_with_a_remedy() {
    for (more, expected) in [
        ("[cache]\ncapacity = 1.5\n", "a share of 1.5 is not above 0 and at most 1"),
        ("[cache]\ncapacity = 0\n", "write policy = \"none\""),
        ("[cache]\nperiod = 0\n", "cache.period = 0: out of range; write a number from 1 to"),
        ("[cache]\nsample = 0\n", "cache.sample = 0: out of range; write a number from 1 to 1024 (rudderd.toml:6)"),
        ("[cache]\nalpha = 0.0\n", "cache.alpha = 0: not above 0"),
        ("[peers]\nmtu = 1100\n", "peers.mtu = 1100: out of range; write a number from 1200 to"),
        ("[peers]\nkeep_alive_ms = 30000\n", "peers.keep_alive_ms = 30000: it must be below idle_timeout_ms"),
        ("[peers]\nreconnect_backoff_ms_min = 3000\n", "above reconnect_backoff_ms_max (2000)"),
        ("[peers.addresses]\n0 = \"nohost\"\n", "peers.addresses.0 = \"nohost\": not host:port"),
        ("[local]\nmode = 660\n", "local.mode = \"1224\": not permission bits"),
        ("[local]\ninflight_max = 0\n", "local.inflight_max = 0: out of range"),
        (
            "[log]\notlp_endpoint = \"https://collector:4318\"\n",
            "log.otlp_endpoint = \"https://collector:4318\": not a URL that begins with http://",
        ),
        ("[agent]\nprometheus_url = \"prometheus:9090\"\n", "agent.prometheus_url = \"prometheus:9090\": not a URL"),
        ("[agent]\nclassifier_learning_rate = 2.0\n", "agent.classifier_learning_rate = 2: not from 0 to 1"),
        ("[agent]\nclassifier_learning_rate = nan\n", "agent.classifier_learning_rate = NaN: not from 0 to 1"),
        ("[agent]\nclassifier_learning_rate = inf\n", "agent.classifier_learning_rate = inf: not from 0 to 1"),
        (
            "[agent]\ncontroller = \"llm\"\nllm_model = \"m\"\nllm_timeout_ms = 5001\n",
            "agent.deadline_ms = 5000: below agent.llm_timeout_ms, 5001",
        ),
        (
            "[agent]\ncontroller = \"explore:x\"\n",
            "agent.controller = \"explore:x\" (rudderd.toml:6): `explore:x` is not a controller: write `rules`",
        ),
        ("[agent]\ncontroller = \"contrary\"\n", "agent.controller = \"contrary\": for `rudder replay` only"),
        ("[agent]\ncontroller = \"llm\"\n", "agent.llm_model = \"\": empty, but agent.controller is llm"),
        ("[log]\nlevel = \"inof\"\n", "log.level = \"inof\": `inof` is neither a level nor target=level; write error"),
        ("[cache]\ncapacity = \"4GB\"\n", "`4GB` is not a capacity: expected a number of rows"),
        ("[dataset]\n", "not TOML"),
    ] {
        let error = complaint(more);
        assert!(error.contains(expected), "{more}{error}");
    }
}

#[test]
fn limits_that_contradict_each_other_are_refused_and_name_both() {
    for (more, expected) in [
        ("[cache]\npressure_share = 0.5\n", "cache.pressure_share = 0.5: below cache.memory_share, 0.9"),
        (
            "[cache]\ncapacity = 0.5\nceiling = 0.25\n",
            "cache.ceiling = 0.25: below the capacity that the cache starts with, 0.5; write 0.5 or more (rudderd.toml:7)",
        ),
        (
            "[cache]\nceiling = 5000\n[cache.tables.paper]\ncapacity = 5001\n",
            "cache.tables.paper.ceiling = 5000: below the capacity that the cache starts with, 5001",
        ),
        (
            "[cache]\npolicy = \"static\"\ndegrees = false\n",
            "cache.degrees = false: cache.policy is static, which chooses its rows by the edges of the graph",
        ),
        (
            "[cache]\ndegrees = false\n[cache.tables.paper]\npolicy = \"static\"\n",
            "cache.degrees = false: cache.tables.paper.policy is static",
        ),
        (
            "[cache]\nceiling = 0.5\n[agent]\nceiling = 0.75\n",
            "agent.ceiling = 0.75: above cache.ceiling, 0.5: no cache can grow that far",
        ),
        (
            "[admin]\nrequest_timeout_ms = 5000\n",
            "cache.tool_wait_ms = 5000: not below admin.request_timeout_ms, 5000: a tool call over HTTP",
        ),
        (
            "access = \"blocks\"\nread_timeout_ms = 10001\n[peers.addresses]\n0 = \"a:1\"\n",
            "dataset.read_timeout_ms = 10001: above peers.request_timeout_ms, 10000: a peer gives up",
        ),
        (
            "[peers]\nconnections_per_peer = 4\nconnections_max = 7\n[peers.addresses]\n0 = \"a:1\"\n2 = \"c:1\"\n",
            "peers.connections_max = 7: 2 peers open 4 connections each (peers.connections_per_peer); write 8 or more",
        ),
        (
            "[agent]\nwindow_ms = 500\nprometheus_url = \"http://p:9090\"\n",
            "agent.prometheus_timeout_ms = 1000: above agent.window_ms, 500",
        ),
    ] {
        let error = complaint(more);
        assert!(error.contains(expected), "{more}{error}");
    }
    for fine in [
        "[cache]\ncapacity = 0.5\nceiling = 5000\n",
        "[cache]\nceiling = 0.5\n[cache.tables.paper]\nceiling = 1.0\n[agent]\nceiling = 0.75\n",
        "read_timeout_ms = 10001\n[peers.addresses]\n0 = \"a:1\"\n",
        "access = \"blocks\"\nread_timeout_ms = 10001\n",
        "[peers]\nconnections_per_peer = 4\nconnections_max = 4\n[peers.addresses]\n0 = \"a:1\"\n1 = \"own:1\"\n",
    ] {
        file(&format!("{MINIMAL}{fine}")).and_then(Layers::finish).unwrap();
    }
}

#[test]
fn keys_of_the_block_cache_come_by_environment_and_are_held_to_their_limits() {
    let with = |more: &[(&str, &str)]| file(MINIMAL).unwrap().environment(pairs(more)).unwrap().finish();
    let config = with(&[("RUDDER_DATASET__ACCESS", "blocks"), ("RUDDER_DATASET__BLOCK_CACHE_BYTES", "4GiB")]).unwrap();
    assert_eq!((config.dataset.access, config.dataset.blocks.cache_bytes), (Access::Blocks, 4 << 30));
    for (key, value, expected) in [
        ("BLOCK_BYTES", "1KiB", "dataset.block_bytes = 1024: out of range; write a number from 4096 to 67108864"),
        (
            "BLOCK_CACHE_BYTES",
            "32KiB",
            "dataset.block_cache_bytes = 32768: no block of dataset.block_bytes = 65536 fits",
        ),
        ("READS_MAX", "0", "dataset.reads_max = 0: out of range"),
        ("READ_TIMEOUT_MS", "0", "dataset.read_timeout_ms = 0: out of range"),
    ] {
        let error = with(&[(&format!("RUDDER_DATASET__{key}"), value)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_missing_required_key_says_how_to_set_it() {
    let error = file("[node]\nindex = 0\n").unwrap().finish().unwrap_err().to_string();
    assert!(error.contains("dataset.path is not set") && error.contains("--dataset"), "{error}");
}

#[test]
fn the_dataset_decides_which_addresses_are_needed() {
    let config = |more: &str| file(&format!("{MINIMAL}{more}")).unwrap().finish().unwrap();
    let complete = config("[peers.addresses]\n0 = \"a:1\"\n1 = \"own:1\"\n");
    assert_eq!(complete.validate_against(2), Ok(()));
    let error = complete.validate_against(4).unwrap_err().to_string();
    assert!(error.contains("no address is given for node 2, 3; add `2 = \"host:7400\"`"), "{error}");
    let error = complete.validate_against(1).unwrap_err().to_string();
    assert!(error.starts_with("node.index = 1: the dataset has 1 partitions"), "{error}");
    let found = config("[peers]\ndiscovery = \"dns:n{node}\"\n");
    assert_eq!(found.validate_against(4), Ok(()));
    let without = Layers::new().flag("--dataset", "dataset.path", "/data").unwrap().finish().unwrap();
    assert_eq!(without.validate_against(1), Ok(()), "the only partition needs no index");
    let error = without.validate_against(2).unwrap_err().to_string();
    assert!(error.starts_with("node.index = not set: the dataset has 2 partitions"), "{error}");
    assert!(error.contains("RUDDER_NODE__INDEX") && error.contains("--node-index"), "{error}");
    let error = config("[peers.addresses]\n0 = \"a:1\"\n7 = \"b:1\"\n").validate_against(2).unwrap_err().to_string();
    assert!(error.starts_with("peers.addresses.7"), "{error}");
}

#[test]
fn the_effective_configuration_reads_back_equal() {
    let text = format!("{MINIMAL}[cache.tables.paper]\ncapacity = \"4GiB\"\n[peers.addresses]\n0 = \"a:1\"\n");
    let config = file(&text).unwrap().finish().unwrap();
    let again = file(&config.effective_toml().unwrap()).unwrap().finish().unwrap();
    assert_eq!(config, again);
}

/// Rows of the tables of the page: `| \`key\` | \`default\` | meaning |` below a heading `## \`[section]\``.
fn documented(page: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("## `[").and_then(|rest| rest.strip_suffix("]`")) {
            section = String::from(name);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", key, default, meaning, ""] = cells[..]
            && key.starts_with('`')
        {
            assert!(meaning.len() > 10, "{section}.{key} has no meaning");
            rows.push((format!("{section}.{}", key.trim_matches('`')), String::from(default.trim_matches('`'))));
        }
    }
    rows.sort();
    rows
}

#[test]
fn the_page_lists_every_key_with_its_default() {
    let page = include_str!("../../../../docs/configuration.md");
    let mut expected = Vec::new();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for (section, keys) in defaults.as_object().unwrap() {
        for (key, value) in keys.as_object().unwrap() {
            let full = format!("{section}.{key}");
            let default = match value {
                _ if full == "dataset.path" => String::from("required"),
                serde_json::Value::Null => String::from("not set"),
                serde_json::Value::String(text) if text.is_empty() => String::from("not set"),
                other => other.to_string(),
            };
            expected.push((full, default));
        }
    }
    for key in ["capacity", "ceiling", "policy"] {
        expected.push((format!("cache.tables.NAME.{key}"), String::from("not set")));
    }
    expected.sort();
    assert_eq!(documented(page), expected);
}

#[test]
fn differences_name_the_keys() {
    let ours = Config::default();
    let mut theirs = Config::default();
    assert!(ours.differences(&theirs).is_empty());
    theirs.log.level = "debug".to_owned();
    theirs.agent.ceiling = Some("0.5".parse().unwrap());
    theirs.peers.addresses.insert(3, "node3:7400".to_owned());
    assert_eq!(ours.differences(&theirs), ["agent.ceiling", "log.level", "peers.addresses.3"]);
}
