//! The controller that draws its decisions, evenly and whatever it sees: what classifiers learn from must not be the
//! habits of another controller. It owns the odds. It is a function of its seed and the window, and stays within the
//! guard as all do.

use super::classifier::features::{may_grow, may_replace};
use super::controller::{Controller, ControllerError, Impact, Proposal, View};
use super::guard::GROW_FACTOR_MAX;
use super::rules::TURN_MAX;
use crate::tools::{Evict, Grow, ToolCall};

/// Odds per window that a cache near its ceiling is shrunk, so that growing can be tried again.
const SHRINK: f64 = 0.08;

/// Draws decisions.
#[derive(Debug, Clone, Copy)]
pub struct Explore {
    /// What the draws follow from.
    pub seed: u64,
}

impl Controller for Explore {
    fn name(&self) -> &'static str {
        "explore"
    }

    fn propose(&mut self, view: View<'_>) -> Result<Proposal, ControllerError> {
        let now = view.now;
        // The golden ratio's fraction spreads neighbouring windows over all seeds (Knuth, multiplicative hashing).
        let mut random = fastrand::Rng::with_seed(self.seed ^ now.window.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let drawn = |call, expects| Ok(Proposal { call, reason: "drawn".to_owned(), expects });
        let room = now.ceiling_rows as f64 / now.capacity_rows.max(1) as f64;
        if room < 1.05 && random.f64() < SHRINK {
            let factor = 0.4 + 0.4 * random.f64();
            return drawn(ToolCall::Grow(Grow { factor: Some(factor), ..Grow::default() }), Impact::Down);
        }
        // Each choice that there is, holding among them, is as likely as the others.
        let (grow, replace) = (may_grow(now), may_replace(view));
        let draw = random.u8(0..1 + u8::from(grow) + u8::from(replace));
        match draw {
            1 if grow => {
                let factor = GROW_FACTOR_MAX.powf(0.1 + 0.9 * random.f64());
                drawn(ToolCall::Grow(Grow { factor: Some(factor), ..Grow::default() }), Impact::Up)
            }
            1 | 2 => {
                let fraction = TURN_MAX * (0.1 + 0.9 * random.f64());
                drawn(ToolCall::Evict(Evict { fraction, forget: false, table: None }), Impact::Up)
            }
            _ => Ok(Proposal::hold("drawn")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::Snapshot;
    use super::*;

    #[test]
    fn every_choice_is_as_likely_and_the_same_seed_draws_the_same() {
        let tools = |seed, grow: bool| {
            (1..=3000)
                .map(|window| {
                    let now = Snapshot {
                        window,
                        capacity_rows: 100,
                        cached_rows: 100,
                        ceiling_rows: if grow { 200 } else { 100 },
                        hotter_absent_rows: 5,
                        ..Snapshot::default()
                    };
                    Explore { seed }.propose(View { now: &now, past: &[] }).unwrap().call.tool()
                })
                .collect::<Vec<_>>()
        };
        let share = |tools: &[&str], tool| tools.iter().filter(|&&name| name == tool).count() as f64 / 3000.0;
        let drawn = tools(1, true);
        for tool in ["grow", "evict", "hold"] {
            assert!((share(&drawn, tool) - 1.0 / 3.0).abs() < 0.03, "{tool}: {}", share(&drawn, tool));
        }
        assert_eq!(drawn, tools(1, true));
        assert_ne!(drawn, tools(2, true));
        let full = tools(1, false);
        assert!((share(&full, "grow") - SHRINK).abs() < 0.02, "{}", share(&full, "grow"));
        assert!((share(&full, "evict") - share(&full, "hold")).abs() < 0.05);
    }
}
