//! Owns the shaped links of `--link`: a network namespace per daemon, joined by a bridge, each end limited by a token
//! bucket. Must never touch an interface or namespace that it did not make, nor give the bridge an address: the host's
//! routes stay.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::StageError;
use crate::say::Say;
use crate::speed::LinkSpeed;
use crate::stage::Stage;
use crate::undo::{Undo, command, ip, namespace_path};

/// Prefix of the namespaces' names; the process number and the node follow.
const NAMESPACE: &str = "rudder-demo-";

/// Time that a full bucket lets through at once. A larger one would let every minibatch begin with a burst above the
/// link's speed: with 70 kB at 100 Mbit/s, the 116 kB of a step crossed in less than half of their time.
const BURST_US: u64 = 400;
/// Smallest bucket: one packet of an Ethernet has to fit.
const BURST_BYTES_MIN: u64 = 2_000;
/// Longest wait in the queue of a link, and the packets that it holds at least: slow links drop too much with fewer.
const QUEUE_MS: u64 = 20;
const QUEUE_PACKETS_MIN: u64 = 16;
/// Bytes of a full packet.
const PACKET_BYTES: u64 = 1_514;

/// One daemon's end.
#[derive(Clone, Debug)]
pub struct Port {
    /// File that names the namespace.
    pub namespace: PathBuf,
    /// Address of the daemon in it.
    pub address: Ipv4Addr,
}

/// Makes a bridge and `nodes` (at most 200) namespaces on it, remembered on `stage`.
///
/// # Errors
/// [`StageError::Link`] where the machine does not allow it.
pub fn connect(stage: &Stage, nodes: u16, speed: LinkSpeed) -> Result<Vec<Port>, StageError> {
    let pid = std::process::id();
    sweep(stage.say());
    let bridge = bridge_name(pid);
    stage.link(Undo::Interface(bridge.clone()), || {
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "up"])
    })?;
    (0..nodes).map(|node| attach(stage, node, &bridge, speed)).collect()
}

/// Takes down what a demo left that was killed before it could.
fn sweep(say: Say) {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some((pid, _)) = name.strip_prefix(NAMESPACE).and_then(|rest| rest.split_once('-')) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            Undo::Interface(bridge_name(pid)).run(say);
            Undo::Namespace(name.clone()).run(say);
        }
    }
}

/// Interface names hold 15 characters: `rd`, up to 7 of the process number, a letter, up to 3 of the node.
fn bridge_name(pid: impl std::fmt::Display) -> String {
    format!("rd{pid}b")
}

fn attach(stage: &Stage, node: u16, bridge: &str, speed: LinkSpeed) -> Result<Port, StageError> {
    let pid = std::process::id();
    let (namespace, outside) = (format!("{NAMESPACE}{pid}-{node}"), format!("rd{pid}n{node}"));
    let address = Ipv4Addr::new(10, 77, 0, node as u8 + 1);
    stage.link(Undo::Namespace(namespace.clone()), || ip(&["netns", "add", &namespace]))?;
    stage.link(Undo::Interface(outside.clone()), || {
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["link", "set", &outside, "master", bridge, "up"])?;
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        // What leaves the daemon, and what reaches it: a full-duplex link of that speed.
        shape(&["-n", &namespace], "eth0", speed)?;
        shape(&[], &outside, speed)
    })?;
    Ok(Port { namespace: namespace_path(&namespace), address })
}

fn shape(prefix: &[&str], device: &str, speed: LinkSpeed) -> Result<(), StageError> {
    let bucket = bucket(speed);
    let discipline = ["qdisc", "add", "dev", device, "root", "tbf"];
    command("tc", prefix.iter().copied().chain(discipline).chain(bucket.iter().map(String::as_str)))
}

/// The token bucket of a link, as `tc` reads it.
fn bucket(speed: LinkSpeed) -> [String; 6] {
    let bits_per_s = speed.bits_per_s();
    let burst_bytes = (bits_per_s / 8 * BURST_US / 1_000_000).max(BURST_BYTES_MIN);
    let queue_ms = (QUEUE_PACKETS_MIN * PACKET_BYTES * 8 * 1_000 / bits_per_s).max(QUEUE_MS);
    ["rate", &format!("{bits_per_s}bit"), "burst", &burst_bytes.to_string(), "latency", &format!("{queue_ms}ms")]
        .map(str::to_owned)
}

/// Moves the calling thread into a namespace.
///
/// # Errors
/// [`StageError::File`] where it is gone or may not be entered.
pub fn enter(namespace: &Path) -> Result<(), StageError> {
    use std::os::fd::AsFd;
    let file = std::fs::File::open(namespace).map_err(StageError::file("open the network namespace", namespace))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| StageError::file("enter the network namespace", namespace)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_packet_and_no_more_than_a_moment() {
        for (speed, bucket_of_it) in [
            ("1gbit", "rate 1000000000bit burst 50000 latency 20ms"),
            ("100mbit", "rate 100000000bit burst 5000 latency 20ms"),
            ("2.5gbit", "rate 2500000000bit burst 125000 latency 20ms"),
            ("10mbit", "rate 10000000bit burst 2000 latency 20ms"),
            ("1mbit", "rate 1000000bit burst 2000 latency 193ms"),
            ("100gbit", "rate 100000000000bit burst 5000000 latency 20ms"),
        ] {
            assert_eq!(bucket(speed.parse().unwrap()).join(" "), bucket_of_it);
        }
    }
}
