//! Controllers over traces, against the real guard: none may do harm, and the rules are to be better than a schedule.

use super::generate::{Recipe, Shape, generate};
use super::{AHEAD, EPOCH, recipe};
use crate::replay::{ControlSpec, Controlled, ReplaySpec, Replayed, Trace, replay_under};
use rudder_agent::contrary::Contrary;
use rudder_agent::controller::{Controller, ControllerError, Impact, Proposal, View};
use rudder_agent::guard::GuardSettings;
use rudder_agent::rules::{Off, Rules, Schedule};
use rudder_agent::tools::{Evict, Grow, Refresh, ToolCall};
use rudder_core::cache::PolicySpec;

const GUARD: GuardSettings = GuardSettings { cooldown_windows: 1, veto_windows: 20, rows_min: 16, keeps_useful: true };

/// Does the same in every window, or one thing and another by turns.
struct Always(Vec<ToolCall>);

impl Controller for Always {
    fn name(&self) -> &'static str {
        "always"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        let call = self.0[view.now.window as usize % self.0.len()].clone();
        Ok(Proposal { call, reason: "always".to_owned(), expects: Impact::Up })
    }
}

fn grow(factor: f64) -> ToolCall {
    ToolCall::Grow(Grow { factor: Some(factor), ..Grow::default() })
}

fn evict(forget: bool) -> ToolCall {
    ToolCall::Evict(Evict { fraction: 1.0, forget, table: None })
}

fn always(calls: &[ToolCall]) -> Box<dyn Controller> {
    Box::new(Always(calls.to_vec()))
}

/// Those that harm a cache by every means there is.
fn bad() -> Vec<(&'static str, Box<dyn Controller>)> {
    vec![
        ("shrinks", always(&[grow(0.5)])),
        ("shrinks to nothing", always(&[grow(1e-9)])),
        ("shrinks and grows", always(&[grow(0.5), grow(4.0)])),
        ("turns over", always(&[evict(false)])),
        ("forgets", always(&[evict(true)])),
        ("turns over and shrinks", always(&[evict(false), grow(0.5)])),
        ("refreshes", always(&[ToolCall::Refresh(Refresh::default())])),
        ("does all by turns", always(&[grow(0.5), evict(true), ToolCall::Refresh(Refresh::default()), evict(false)])),
        ("contrary", Box::new(Contrary)),
    ]
}

#[derive(Clone, Copy)]
struct Setting {
    capacity: f64,
    ceiling: f64,
    window: usize,
}

fn run(trace: &Trace, policy: PolicySpec, setting: Setting, controller: Box<dyn Controller>) -> (Replayed, Controlled) {
    let rows = |share: f64| (trace.distinct() as f64 * share) as usize;
    let spec = ReplaySpec { policy, capacity_rows: rows(setting.capacity), seed: 1, lookahead: 0, ahead: AHEAD };
    let control = ControlSpec {
        controller,
        window: setting.window,
        ceiling_rows: rows(setting.ceiling),
        updates: 0.0,
        guard: GUARD,
        epochs: Some(8),
        seed: 1,
    };
    let (replayed, controlled) = replay_under(trace, spec, &trace.degree, Some(control), &mut |_| ()).unwrap();
    (replayed, controlled.unwrap())
}

fn traces() -> [Trace; 3] {
    [
        recipe(Shape::Communities { exponent: 2.3 }),
        recipe(Shape::SmallWorld),
        Recipe { shift_at: Some(4), ..recipe(Shape::Communities { exponent: 2.3 }) },
    ]
    .map(generate)
}

#[test]
fn no_controller_moves_many_more_rows_than_none() {
    for (at, trace) in traces().iter().enumerate() {
        for (capacity, ceiling) in [(0.05, 0.25), (0.15, 0.15), (0.25, 0.25), (0.5, 0.5)] {
            for window in [1, 4] {
                let setting = Setting { capacity, ceiling, window };
                let off = run(trace, EPOCH, setting, Box::new(Off)).0.network_rows;
                for (name, controller) in bad() {
                    let rows = run(trace, EPOCH, setting, controller).0.network_rows;
                    let ratio = rows as f64 / off as f64;
                    assert!(
                        ratio <= 1.05,
                        "trace {at}, {capacity} to {ceiling}, window {window}: {name} {ratio:.3} of off"
                    );
                }
            }
        }
    }
}

#[test]
fn the_rules_beat_a_schedule_and_leave_no_trace_worse_than_a_fixed_cache() {
    for (at, trace) in traces().iter().enumerate() {
        let setting = Setting { capacity: 0.05, ceiling: 0.25, window: 4 };
        let (ruled, steered) = run(trace, EPOCH, setting, Box::new(Rules));
        for every in [1, 5, 20] {
            let scheduled = run(trace, EPOCH, setting, Box::new(Schedule { every })).0.network_rows;
            assert!(ruled.network_rows < scheduled, "trace {at}: {} against {scheduled}", ruled.network_rows);
        }
        let mean = steered.row_minibatches as f64 / trace.minibatches() as f64 / trace.distinct() as f64;
        let fixed =
            run(trace, EPOCH, Setting { capacity: mean, ceiling: mean, window: 4 }, Box::new(Off)).0.network_rows;
        let ratio = ruled.network_rows as f64 / fixed as f64;
        assert!(ratio < 1.03, "trace {at}: {ratio:.3} of a fixed cache of the same memory over time");
    }
}
