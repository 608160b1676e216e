//! The names of the policies, and the policy that each stands for. It owns no setting of its own: what a policy is
//! made with comes from the caller.

use super::{PolicySpec, ScoreSettings, Trigger};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What policies are made with; each takes what concerns it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicySettings {
    /// Minibatches between two replacements (`periodic`) or two decisions (`rudder`).
    pub period: u32,
    /// Share of its score that a resident loses in a minibatch that does not ask for it (`periodic` and `rudder`).
    pub alpha: f64,
    /// Slots looked at to choose a victim (`epoch`).
    pub sample: usize,
}

/// Which rows the cache keeps: the name of a policy, as configuration, flags and reports write it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// No cache: every remote row is fetched from its owner, as DistDGL does.
    None,
    /// The rows with most edges from this partition, for good.
    Static,
    /// The score policy of the Rudder paper, replacing on a fixed period of minibatches: static prefetching.
    Periodic,
    /// The score policy of the Rudder paper, replacing by decision at the end of each window of minibatches.
    Rudder,
    /// Least recently used.
    Lru,
    /// Least frequently used.
    Lfu,
    /// TinyLFU admission over LRU.
    TinyLfu,
    /// Small, main and ghost queue.
    S3Fifo,
    /// One queue, one bit, one hand.
    Sieve,
    /// EPOCH scores with guarded admission.
    #[default]
    Epoch,
}

impl PolicyName {
    /// All policies, in the order the documentation names them.
    pub const ALL: [PolicyName; 10] = [
        PolicyName::None,
        PolicyName::Static,
        PolicyName::Periodic,
        PolicyName::Rudder,
        PolicyName::Lru,
        PolicyName::Lfu,
        PolicyName::TinyLfu,
        PolicyName::S3Fifo,
        PolicyName::Sieve,
        PolicyName::Epoch,
    ];

    /// The name used in configuration, flags and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PolicyName::None => "none",
            PolicyName::Static => "static",
            PolicyName::Periodic => "periodic",
            PolicyName::Rudder => "rudder",
            PolicyName::Lru => "lru",
            PolicyName::Lfu => "lfu",
            PolicyName::TinyLfu => "tinylfu",
            PolicyName::S3Fifo => "s3fifo",
            PolicyName::Sieve => "sieve",
            PolicyName::Epoch => "epoch",
        }
    }

    /// The policy of this name, with those of `settings` that it has.
    #[must_use]
    pub fn with(self, settings: PolicySettings) -> PolicySpec {
        let PolicySettings { period, alpha, sample } = settings;
        match self {
            PolicyName::None => PolicySpec::None,
            PolicyName::Static => PolicySpec::Static,
            PolicyName::Periodic => PolicySpec::Score(ScoreSettings { trigger: Trigger::Period(period), alpha }),
            PolicyName::Rudder => PolicySpec::Score(ScoreSettings { trigger: Trigger::Window(period), alpha }),
            PolicyName::Lru => PolicySpec::Lru,
            PolicyName::Lfu => PolicySpec::Lfu,
            PolicyName::TinyLfu => PolicySpec::TinyLfu,
            PolicyName::S3Fifo => PolicySpec::S3Fifo,
            PolicyName::Sieve => PolicySpec::Sieve,
            PolicyName::Epoch => PolicySpec::Epoch { sample },
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| format!("unknown policy `{text}`: expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_reads_what_it_prints_and_names_its_policy() {
        let settings = PolicySettings { period: 10, alpha: 0.05, sample: 16 };
        for name in PolicyName::ALL {
            assert_eq!(name.to_string().parse(), Ok(name));
            assert_eq!(name.with(settings).kind(), name);
        }
        assert!("fifo".parse::<PolicyName>().unwrap_err().contains("none, static, periodic"));
    }
}
