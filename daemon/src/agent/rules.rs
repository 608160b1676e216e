//! The controllers that need no model: `rules`, whose every decision names the rule that made it, `schedule`, which replaces
//! every so many windows whatever it sees (static prefetching, to compare with), and `off`. Pure functions of the view.

use super::controller::{Controller, ControllerError, Impact, Proposal, View};
use super::guard::{GROW_FACTOR_MAX, MEMORY_TIGHT};
use super::snapshot::Snapshot;
use crate::tools::{Evict, Grow, Refresh, ToolCall};

/// Fullness from which a cache is short of slots rather than still filling.
pub(super) const FULL: f64 = 0.98;

/// Factor by which `rules` grows a cache that is short of slots. Hits are concave in the capacity, so that slots are worth most
/// early: it is as large as the guard allows.
const GROW_FACTOR: f64 = GROW_FACTOR_MAX;

/// Share of cold residents from which more slots would only hold more cold rows.
const MOSTLY_COLD: f64 = 0.9;

/// Absent rows that are hotter than a resident, per resident, from which a turn-over is worth its requests.
const WORTH_TURNING: f64 = 0.05;

/// Share of its hit rate one epoch ago below which it has fallen: hit rates rise and fall within an epoch. The shift detector of the
/// policy `epoch` takes the same.
const FALLEN: f64 = 0.8;

/// How far from an epoch ago a window may be to be compared with.
const SAME_PHASE: f64 = 0.1;

/// Largest share of the residents that `rules` turns over at once.
pub(super) const TURN_MAX: f64 = 0.25;

/// Share of the cached rows that must be known to be old before they are all revalidated.
const WORTH_REFRESHING: f64 = 0.01;

/// Windows between two turn-overs or refreshes.
const PATIENCE: u64 = 2;

/// Share of residents that the run will not ask for again from which giving their slots back is worth a call.
const WORTH_SHRINKING: f64 = 0.1;

/// The explainable controller.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rules;

impl Rules {
    fn decide(view: View<'_>) -> Proposal {
        let now = view.now;
        if now.hit_rate.is_none() {
            return Proposal::hold("idle: no remote rows were asked for");
        }
        Self::wind_down(now)
            .or_else(|| Self::grow(now))
            .or_else(|| Self::refresh(view))
            .or_else(|| Self::turn_over(view))
            .unwrap_or_else(|| Proposal::hold("steady: nothing to gain"))
    }

    /// What is not due before the last epoch ends will not be asked for again: its memory is of more use to others.
    fn wind_down(now: &Snapshot) -> Option<Proposal> {
        if !now.in_last_epoch() || now.spent_share < WORTH_SHRINKING {
            return None;
        }
        let reason = format!(
            "winding down: this is the last epoch and {:.0}% of residents are not expected again in it",
            100.0 * now.spent_share
        );
        let factor = now.fullness() * (1.0 - now.spent_share);
        let call = ToolCall::Grow(Grow { factor: Some(factor.max(0.01)), ..Grow::default() });
        Some(Proposal { call, reason, expects: Impact::Same })
    }

    fn grow(now: &Snapshot) -> Option<Proposal> {
        let short = now.fullness() >= FULL && now.capacity_rows < now.ceiling_rows;
        let of_use = now.cold_share < MOSTLY_COLD && now.network_rows > 0;
        if !short || !of_use || now.in_last_epoch() || now.memory_share >= MEMORY_TIGHT {
            return None;
        }
        let reason = format!(
            "short of slots: full at {} rows, {:.0}% of remote rows cross the network, the ceiling is {}",
            now.capacity_rows,
            100.0 * now.network_share(),
            now.ceiling_rows
        );
        let factor = GROW_FACTOR.min(now.ceiling_rows as f64 / now.capacity_rows.max(1) as f64);
        let call = ToolCall::Grow(Grow { factor: Some(factor), ..Grow::default() });
        Some(Proposal { call, reason, expects: Impact::Up })
    }

    /// Whoever else decides: rows that are known to be old are pulled again.
    pub(super) fn refresh(view: View<'_>) -> Option<Proposal> {
        let now = view.now;
        let worth = now.stale_rows as f64 > WORTH_REFRESHING * now.cached_rows as f64;
        if !worth || view.windows_since("refresh") < PATIENCE {
            return None;
        }
        let reason = format!("stale: {} cached rows are older than their owner's", now.stale_rows);
        Some(Proposal { call: ToolCall::Refresh(Refresh::default()), reason, expects: Impact::Same })
    }

    /// Whether the hit rate is far below what it was in the same phase of the epoch before; without epochs, below what it was.
    fn has_fallen(view: View<'_>) -> bool {
        let now = view.now;
        let comparable = |seen: &Snapshot| now.epochs == 0.0 || (now.epochs - 1.0 - seen.epochs).abs() <= SAME_PHASE;
        let rates =
            || view.past.iter().map(|past| &past.seen).filter(|seen| comparable(seen)).filter_map(|seen| seen.hit_rate);
        let before = rates().sum::<f64>() / rates().count().max(1) as f64;
        now.hit_rate.is_some_and(|rate| rate < FALLEN * before)
    }

    /// Admission keeps the hottest by itself; what it cannot do is bring in rows before they are asked for again.
    fn turn_over(view: View<'_>) -> Option<Proposal> {
        let now = view.now;
        let hotter = now.hotter_absent_rows as f64 / now.cached_rows.max(1) as f64;
        if !(now.shifted || Self::has_fallen(view)) || hotter < WORTH_TURNING || view.windows_since("evict") < PATIENCE
        {
            return None;
        }
        let reason = format!(
            "turn-over: {} absent rows are hotter than a resident and {}",
            now.hotter_absent_rows,
            if now.shifted { "the accesses have shifted" } else { "the hit rate has fallen" }
        );
        let evict = Evict { fraction: hotter.min(TURN_MAX), forget: false, table: None };
        Some(Proposal { call: ToolCall::Evict(evict), reason, expects: Impact::Up })
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
    use super::super::controller::Past;
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
        assert_eq!(rule(&Snapshot { shifted: true, ..steady() }), "steady");
        assert_eq!(rule(&Snapshot { shifted: true, hotter_absent_rows: 10, ..steady() }), "turn-over");
        assert_eq!(
            rule(&Snapshot { epochs: 9.2, run_progress: Some(0.92), spent_share: 0.4, ..steady() }),
            "winding down"
        );
        assert_eq!(rule(&Snapshot { epochs: 8.2, run_progress: Some(0.82), spent_share: 0.4, ..steady() }), "steady");
        assert_eq!(
            rule(&Snapshot { epochs: 0.5, run_progress: Some(0.5), ceiling_rows: 400, ..steady() }),
            "short of slots"
        );
        assert_eq!(rule(&Snapshot { epochs: 9.2, run_progress: Some(0.92), ceiling_rows: 400, ..steady() }), "steady");
        assert_eq!(rule(&Snapshot { ceiling_rows: 400, ..steady() }), "short of slots");
        assert_eq!(rule(&Snapshot { ceiling_rows: 400, cached_rows: 90, ..steady() }), "steady");
        assert_eq!(rule(&Snapshot { ceiling_rows: 400, memory_share: 0.9, ..steady() }), "steady");
        assert_eq!(rule(&Snapshot { hotter_absent_rows: 10, ..steady() }), "steady");
    }

    #[test]
    fn the_hit_rate_is_held_against_the_same_phase_of_the_epoch_before() {
        let seen = |window, epochs, rate| Snapshot { window, epochs, hit_rate: Some(rate), ..steady() };
        let hold = || ToolCall::Hold(crate::tools::Hold {});
        let past = |seen| Past { seen, call: hold(), expected: Impact::Same, effect: None };
        let before = [past(seen(1, 1.0, 0.3)), past(seen(2, 1.5, 0.7)), past(seen(3, 2.0, 0.3))];
        let ruled = |now: Snapshot| {
            let now = Snapshot { hotter_absent_rows: 10, ..now };
            Rules.propose(View { now: &now, past: &before }).unwrap().reason.split(':').next().unwrap().to_owned()
        };
        assert_eq!(ruled(seen(9, 2.5, 0.5)), "turn-over");
        assert_eq!(ruled(seen(9, 2.5, 0.6)), "steady");
        assert_eq!(ruled(seen(9, 3.0, 0.28)), "steady", "a phase in which it is always low");
        assert_eq!(ruled(seen(9, 9.0, 0.1)), "steady", "nothing to compare with");
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
