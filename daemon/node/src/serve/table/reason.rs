//! Why rows are asked of a peer. It owns the names that metrics give to that.

/// Why rows are asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A trainer waits.
    Demand,
    /// The policy wants them.
    Policy,
    /// A trainer has announced them.
    Lookahead,
    /// A tool call brings them in.
    Tool,
    /// A trainer wants them here.
    Warm,
    /// Their owner has changed them.
    Refresh,
}

impl Reason {
    /// All of them.
    pub(crate) const ALL: [Reason; 6] =
        [Reason::Demand, Reason::Policy, Reason::Lookahead, Reason::Tool, Reason::Warm, Reason::Refresh];

    /// The name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Demand => "demand",
            Reason::Policy => "prefetch",
            Reason::Lookahead => "lookahead",
            Reason::Tool => "tool",
            Reason::Warm => "warm",
            Reason::Refresh => "refresh",
        }
    }
}
