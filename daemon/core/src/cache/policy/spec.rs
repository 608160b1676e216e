//! Which policies there are, by value: what a configuration or a replay chooses from. It owns their names and how each is
//! made.

use super::{
    EpochPolicy, LfuPolicy, LruPolicy, Policy, S3FifoPolicy, ScorePolicy, ScoreSettings, SievePolicy, StaticPolicy,
    TinyLfuPolicy, Trigger,
};

/// Which policy, with its settings.
#[derive(Debug, Clone, Copy)]
pub enum PolicySpec {
    /// Caches nothing: every remote row is fetched on demand.
    None,
    /// The rows of highest prior weight, for good.
    Static,
    /// The paper's scores, on a fixed period (`periodic`) or by decision (`rudder`).
    Score(ScoreSettings),
    /// Least recently used.
    Lru,
    /// Least frequently used.
    Lfu,
    /// TinyLFU admission over LRU, by moka.
    TinyLfu,
    /// Small, main and ghost queue.
    S3Fifo,
    /// One queue, one bit, one hand.
    Sieve,
    /// EPOCH scores, victims looked for among `sample` slots.
    Epoch {
        /// Slots looked at for one victim.
        sample: usize,
    },
}

impl PolicySpec {
    /// The name in configuration and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            PolicySpec::None => "none",
            PolicySpec::Static => "static",
            PolicySpec::Score(ScoreSettings { trigger: Trigger::Period(_), .. }) => "periodic",
            PolicySpec::Score(ScoreSettings { trigger: Trigger::Window(_), .. }) => "rudder",
            PolicySpec::Lru => "lru",
            PolicySpec::Lfu => "lfu",
            PolicySpec::TinyLfu => "tinylfu",
            PolicySpec::S3Fifo => "s3fifo",
            PolicySpec::Sieve => "sieve",
            PolicySpec::Epoch { .. } => "epoch",
        }
    }

    /// Whether the policy is of no use without a prior.
    #[must_use]
    pub fn needs_prior(&self) -> bool {
        matches!(self, PolicySpec::Static)
    }

    /// Whether a prior is of any use to the policy.
    #[must_use]
    pub fn uses_prior(&self) -> bool {
        matches!(self, PolicySpec::Static | PolicySpec::Epoch { .. })
    }

    /// The policy for `capacity` slots; nothing for a cache that holds nothing.
    pub(in crate::cache) fn build(self, capacity: usize) -> Option<Box<dyn Policy>> {
        Some(match self {
            PolicySpec::None => return None,
            PolicySpec::Static => Box::new(StaticPolicy::default()),
            PolicySpec::Score(settings) => Box::new(ScorePolicy::new(settings, capacity)),
            PolicySpec::Lru => Box::new(LruPolicy::default()),
            PolicySpec::Lfu => Box::new(LfuPolicy::default()),
            PolicySpec::TinyLfu => Box::new(TinyLfuPolicy::new(capacity)),
            PolicySpec::S3Fifo => Box::new(S3FifoPolicy::default()),
            PolicySpec::Sieve => Box::new(SievePolicy::default()),
            PolicySpec::Epoch { sample } => Box::new(EpochPolicy::new(sample)),
        })
    }
}
