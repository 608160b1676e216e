//! A controller that is always wrong: what the guard is held against. It shrinks a cache that is short of slots, and
//! turns over, forgets, refreshes or shrinks where there is nothing to gain. A pure function of the view; no daemon
//! starts it.

use super::controller::{Controller, ControllerError, Impact, Proposal, View};
use super::rules::Rules;
use crate::tools::{Evict, Grow, Hold, Refresh, ToolCall};

/// The controller.
#[derive(Debug, Default, Clone, Copy)]
pub struct Contrary;

impl Controller for Contrary {
    fn name(&self) -> &'static str {
        "contrary"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        let right = Rules.propose(view)?;
        let shrink = || ToolCall::Grow(Grow { factor: Some(0.5), ..Grow::default() });
        let evict = |forget| ToolCall::Evict(Evict { fraction: 1.0, forget, table: None });
        let call = match right.call {
            ToolCall::Grow(_) => shrink(),
            ToolCall::Evict(_) | ToolCall::Refresh(_) | ToolCall::Warm(_) => ToolCall::Hold(Hold {}),
            ToolCall::Hold(_) => match view.now.window % 4 {
                0 => shrink(),
                1 => evict(true),
                2 => ToolCall::Refresh(Refresh::default()),
                _ => evict(false),
            },
        };
        Ok(Proposal { call, reason: format!("contrary to `{}`", right.reason), expects: Impact::Up })
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Snapshot;
    use super::*;

    #[test]
    fn a_cache_that_is_short_of_slots_is_shrunk() {
        let now = Snapshot {
            window: 1,
            hit_rate: Some(0.5),
            network_rows: 50,
            capacity_rows: 100,
            cached_rows: 100,
            ceiling_rows: 400,
            ..Snapshot::default()
        };
        let proposal = Contrary.propose(View { now: &now, past: &[] }).unwrap();
        assert_eq!(proposal.call, ToolCall::Grow(Grow { factor: Some(0.5), ..Grow::default() }));
        assert!(proposal.reason.contains("short of slots"), "{}", proposal.reason);
    }
}
