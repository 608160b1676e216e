//! The controllers that need no model: `rules`, whose every decision names the rule that made it, `schedule`, which
//! replaces every N windows whatever it sees (static prefetching, to compare with), and `off`. Pure functions of the
//! view.

use super::controller::{Controller, ControllerError, Impact, Proposal, View};
use super::guard::{GROW_FACTOR_MAX, MEMORY_TIGHT};
use super::pilot::HISTORY;
use super::snapshot::Snapshot;
use crate::tools::{Evict, Grow, Refresh, ToolCall};

/// Fullness from which a cache is short of slots rather than still filling.
pub(super) const FULL: f64 = 0.98;

/// Factor by which `rules` grows a cache that is short of slots. Hits are concave in the capacity, so that slots are
/// worth most early: it is as large as the guard allows.
const GROW_FACTOR: f64 = GROW_FACTOR_MAX;

/// Share of cold residents from which more slots would only hold more cold rows.
const MOSTLY_COLD: f64 = 0.9;

/// Absent rows that are hotter than a resident, per resident, from which a turn-over is worth its requests.
const WORTH_TURNING: f64 = 0.05;

/// Share of its hit rate one epoch ago below which it has fallen: hit rates rise and fall within an epoch. The shift
/// detector of the policy `epoch` takes the same.
const FALLEN: f64 = 0.8;

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
        let factor = 1.0 - now.fullness() * now.spent_share;
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

    /// Pulls rows again that are known to be old, under every controller, once the cache has served its own number of
    /// rows since the last refresh. Sooner, most of what is pulled again would change once more before it is used.
    pub(super) fn refresh(view: View<'_>) -> Option<Proposal> {
        let now = view.now;
        let worth = now.stale_rows as f64 > WORTH_REFRESHING * now.cached_rows as f64;
        if !worth || view.windows_since_tried("refresh") < PATIENCE || !Self::served_since_refresh(view) {
            return None;
        }
        let reason = format!("stale: {} cached rows are older than their owner's", now.stale_rows);
        Some(Proposal { call: ToolCall::Refresh(Refresh::default()), reason, expects: Impact::Same })
    }

    /// Whether the cache has served at least the number of rows that it holds since the last refresh, as far as is
    /// remembered.
    fn served_since_refresh(view: View<'_>) -> bool {
        let hits = |seen: &Snapshot| seen.hit_rate.unwrap_or(0.0) * seen.remote_rows as f64;
        let since: Vec<_> = view.past.iter().rev().take_while(|past| past.call.tool() != "refresh").collect();
        let served = hits(view.now) + since.iter().map(|past| hits(&past.seen)).sum::<f64>();
        served >= view.now.cached_rows as f64 || since.len() >= HISTORY
    }

    /// Whether the hit rate is far below what it was in the same phase of the epoch before; without epochs, below what
    /// it was.
    fn has_fallen(view: View<'_>) -> bool {
        let now = view.now;
        let lately = || {
            let rates = || view.past.iter().filter_map(|past| past.seen.hit_rate);
            (now.epochs == 0.0).then(|| rates().sum::<f64>() / rates().count().max(1) as f64)
        };
        let before = now.hit_rate_epoch_ago.or_else(lately);
        now.hit_rate.zip(before).is_some_and(|(rate, before)| rate < FALLEN * before)
    }

    /// Admission keeps the hottest by itself; what it cannot do is bring in rows before they are asked for again.
    fn turn_over(view: View<'_>) -> Option<Proposal> {
        let now = view.now;
        let hotter = now.hotter_absent_rows as f64 / now.cached_rows.max(1) as f64;
        if !(now.shifted || Self::has_fallen(view))
            || hotter < WORTH_TURNING
            || view.windows_since_tried("evict") < PATIENCE
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

/// Replaces every N windows.
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
    use super::super::controller::{Past, Refused};
    use super::*;

    fn hold() -> ToolCall {
        ToolCall::Hold(crate::tools::Hold {})
    }

    fn seen(epochs: f64, rate: f64, epoch_ago: Option<f64>) -> Snapshot {
        Snapshot { epochs, hit_rate: Some(rate), hit_rate_epoch_ago: epoch_ago, ..steady() }
    }

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
        let past = [0.7, 0.5].map(|rate| Past::new(seen(0.0, rate, None), hold(), Impact::Same));
        let ruled = |now: Snapshot| {
            let now = Snapshot { hotter_absent_rows: 10, ..now };
            Rules.propose(View { now: &now, past: &past }).unwrap().reason.split(':').next().unwrap().to_owned()
        };
        assert_eq!(ruled(seen(2.5, 0.5, Some(0.7))), "turn-over");
        assert_eq!(ruled(seen(2.5, 0.6, Some(0.7))), "steady");
        assert_eq!(ruled(seen(3.0, 0.28, Some(0.3))), "steady", "a phase in which it is always low");
        assert_eq!(ruled(seen(0.5, 0.1, None)), "steady", "nothing to compare with");
        assert_eq!(ruled(seen(0.0, 0.1, None)), "turn-over", "without epochs, the last windows");
    }

    #[test]
    fn rows_are_pulled_again_once_the_cache_was_served_from_as_often_as_it_is_large() {
        let now = Snapshot { window: 10, stale_rows: 50, cached_rows: 2_000, remote_rows: 1_000, ..steady() };
        let past = |window, call| Past::new(Snapshot { window, ..now }, call, Impact::Same);
        let refreshed = past(5, ToolCall::Refresh(Refresh::default()));
        let held = |windows: u64| (6..6 + windows).map(|window| past(window, hold()));
        let refreshes = |windows| {
            let past: Vec<_> = std::iter::once(refreshed.clone()).chain(held(windows)).collect();
            Rules::refresh(View { now: &now, past: &past }).is_some()
        };
        assert!(!refreshes(2) && refreshes(3), "500 hits per window");
    }

    #[test]
    fn a_refresh_that_was_refused_lets_the_next_rule_have_its_turn() {
        let now = Snapshot { window: 10, stale_rows: 50, shifted: true, hotter_absent_rows: 10, ..steady() };
        let refused = |window| Past {
            refused: Some(Refused { tool: "refresh", rule: "cooldown" }),
            ..Past::new(Snapshot { window, ..steady() }, hold(), Impact::Same)
        };
        let rule = |past: &[Past]| {
            Rules.propose(View { now: &now, past }).unwrap().reason.split(':').next().unwrap().to_owned()
        };
        assert_eq!((rule(&[]).as_str(), rule(&[refused(9)]).as_str()), ("stale", "turn-over"));
        assert_eq!(rule(&[refused(8)]), "stale");
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
