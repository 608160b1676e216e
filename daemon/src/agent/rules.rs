//! The controllers that need no model: `rules`, whose every decision names the rule that made it, `schedule`, which replaces
//! every so many windows whatever it sees (static prefetching, to compare with), and `off`. Pure functions of the view.

use super::controller::{Controller, ControllerError, Impact, Proposal, View};
use crate::tools::{Evict, Grow, Refresh, ToolCall};

/// Fullness from which a cache is short of slots rather than still filling.
const FULL: f64 = 0.98;

/// Factor by which `rules` grows a cache that is short of slots.
const GROW_FACTOR: f64 = 1.5;

/// Share of the memory limit from which `rules` asks for no more.
const MEMORY_TIGHT: f64 = 0.85;

/// Share of cold residents from which slots are there to be given back.
const MOSTLY_COLD: f64 = 0.9;

/// Absent rows that are hotter than residents, per resident, from which a turn-over is worth its requests.
const WORTH_TURNING: f64 = 0.02;

/// Largest share of the residents that `rules` turns over at once.
const TURN_MAX: f64 = 0.25;

/// Share of the cached rows that must be known to be old before they are all revalidated.
const WORTH_REFRESHING: f64 = 0.001;

/// Windows that an action is given to show what it does.
const PATIENCE: u64 = 1;

/// The explainable controller.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rules;

impl Rules {
    fn decide(view: View<'_>) -> Proposal {
        let now = view.now;
        let propose = |call, reason: String, expects| Proposal { call, reason, expects };
        if now.hit_rate.is_none() {
            return Proposal::hold("idle: no remote rows were asked for");
        }
        if now.stale_rows as f64 > WORTH_REFRESHING * now.cached_rows as f64 {
            let reason = format!("stale: {} cached rows are older than their owner's", now.stale_rows);
            return propose(ToolCall::Refresh(Refresh::default()), reason, Impact::Same);
        }
        if now.shifted {
            let reason = "shift: the accesses have moved, what was learned is forgotten".to_owned();
            let evict = Evict { fraction: TURN_MAX, forget: true, table: None };
            return propose(ToolCall::Evict(evict), reason, Impact::Up);
        }
        if view.windows_since_action() <= PATIENCE {
            return Proposal::hold("patience: the last action has not shown its effect yet");
        }
        let short = now.fullness() >= FULL && now.capacity_rows < now.ceiling_rows;
        if short && now.memory_share < MEMORY_TIGHT && now.cold_share < MOSTLY_COLD && now.network_share() > 0.0 {
            let reason = format!(
                "short of slots: full at {} rows, {:.0}% of remote rows cross the network, the ceiling is {}",
                now.capacity_rows,
                100.0 * now.network_share(),
                now.ceiling_rows
            );
            return propose(ToolCall::Grow(Grow { factor: Some(GROW_FACTOR), ..Grow::default() }), reason, Impact::Up);
        }
        let hotter = now.hotter_absent_rows as f64 / now.cached_rows.max(1) as f64;
        if hotter > WORTH_TURNING && now.hit_rate_trend < 0.0 {
            let fraction = hotter.min(TURN_MAX);
            let reason = format!("turn-over: {} absent rows are hotter and the hit rate falls", now.hotter_absent_rows);
            return propose(ToolCall::Evict(Evict { fraction, forget: false, table: None }), reason, Impact::Up);
        }
        Proposal::hold("steady: nothing to gain")
    }
}

impl Controller for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        Ok(Self::decide(view))
    }
}

/// Replaces every so many windows.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Windows between two replacements.
    pub every: u64,
}

impl Controller for Schedule {
    fn name(&self) -> &'static str {
        "schedule"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        if !view.now.window.is_multiple_of(self.every.max(1)) {
            return Ok(Proposal::hold("not yet"));
        }
        let evict = Evict { fraction: TURN_MAX, forget: false, table: None };
        let reason = format!("every {} windows", self.every);
        Ok(Proposal { call: ToolCall::Evict(evict), reason, expects: Impact::Up })
    }
}

/// Never does anything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Off;

impl Controller for Off {
    fn name(&self) -> &'static str {
        "off"
    }

    fn propose(&mut self, _view: View<'_>) -> Result<Proposal, ControllerError> {
        Ok(Proposal::hold("off"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Snapshot;
    use super::*;

    fn steady() -> Snapshot {
        Snapshot {
            window: 9,
            hit_rate: Some(0.5),
            remote_rows: 1000,
            network_rows: 500,
            capacity_rows: 100,
            cached_rows: 100,
            ceiling_rows: 100,
            ..Snapshot::default()
        }
    }

    fn rule(now: &Snapshot) -> String {
        let proposal = Rules.propose(View { now, past: &[] }).unwrap();
        proposal.reason.split(':').next().unwrap().to_owned()
    }

    #[test]
    fn each_state_has_its_rule() {
        assert_eq!(rule(&steady()), "steady");
        assert_eq!(rule(&Snapshot { hit_rate: None, ..steady() }), "idle");
        assert_eq!(rule(&Snapshot { stale_rows: 5, ..steady() }), "stale");
        assert_eq!(rule(&Snapshot { shifted: true, ..steady() }), "shift");
        assert_eq!(rule(&Snapshot { ceiling_rows: 400, ..steady() }), "short of slots");
        assert_eq!(rule(&Snapshot { ceiling_rows: 400, cached_rows: 90, ..steady() }), "steady");
        assert_eq!(rule(&Snapshot { ceiling_rows: 400, memory_share: 0.9, ..steady() }), "steady");
        assert_eq!(rule(&Snapshot { hotter_absent_rows: 10, hit_rate_trend: -0.02, ..steady() }), "turn-over");
        assert_eq!(rule(&Snapshot { hotter_absent_rows: 10, ..steady() }), "steady");
    }

    #[test]
    fn a_schedule_acts_on_its_windows_only() {
        let acts = |window| {
            let now = Snapshot { window, ..steady() };
            !matches!(Schedule { every: 5 }.propose(View { now: &now, past: &[] }).unwrap().call, ToolCall::Hold(_))
        };
        assert_eq!((1..=10).filter(|&window| acts(window)).collect::<Vec<_>>(), [5, 10]);
    }
}
