//! Which policies there are, by value: what a configuration or a replay chooses from. It owns how each
//! is made.

use super::{
    EpochPolicy, LfuPolicy, LruPolicy, Policy, PolicyName, S3FifoPolicy, ScorePolicy, ScoreSettings, SievePolicy,
    StaticPolicy, TinyLfuPolicy, Trigger,
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
        self.kind().name()
    }

    /// Which of the policies this is.
    #[must_use]
    pub fn kind(&self) -> PolicyName {
        match self {
            PolicySpec::None => PolicyName::None,
            PolicySpec::Static => PolicyName::Static,
            PolicySpec::Score(ScoreSettings { trigger: Trigger::Period(_), .. }) => PolicyName::Periodic,
            PolicySpec::Score(ScoreSettings { trigger: Trigger::Window(_), .. }) => PolicyName::Rudder,
            PolicySpec::Lru => PolicyName::Lru,
            PolicySpec::Lfu => PolicyName::Lfu,
            PolicySpec::TinyLfu => PolicyName::TinyLfu,
            PolicySpec::S3Fifo => PolicyName::S3Fifo,
            PolicySpec::Sieve => PolicyName::Sieve,
            PolicySpec::Epoch { .. } => PolicyName::Epoch,
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
