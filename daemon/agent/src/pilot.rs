//! Decides after each window: asks the controller, lets the fallback stand in where it has no answer, has the guard
//! judge, and measures what the decision before did. It owns the history of a run. It is deterministic and does no I/O,
//! so that the daemon and a replay decide alike; who carries calls out and how long a controller may take is the
//! caller's matter.

use super::controller::{Controller, ControllerError, Effect, Past, Proposal, Refused, View};
use super::guard::{Guard, GuardSettings, Verdict};
use super::journal::{Decision, FORMAT};
use super::snapshot::Snapshot;
use crate::tools::{Hold, ToolAnswer, ToolCall};

/// Decisions that controllers are shown.
pub const HISTORY: usize = 16;

/// What a controller answered, and how long it took.
#[derive(Debug)]
pub struct Asked {
    /// The controller's name.
    pub controller: &'static str,
    /// Its proposal, or why it has none.
    pub answer: Result<Proposal, ControllerError>,
    /// Milliseconds that it took.
    pub latency_ms: f64,
}

/// Which decision it is.
#[derive(Debug, Clone, Copy)]
pub struct Occasion {
    /// Counted from 1, over all tables.
    pub number: u64,
    /// Milliseconds since 1970, or since the start of a replay.
    pub time_ms: u64,
}

/// The state of a table under control.
pub struct Pilot {
    fallback: Box<dyn Controller>,
    guard: Guard,
    past: Vec<Past>,
    /// The last decision, until its effect is known.
    open: Option<Decision>,
    node: Option<u16>,
    table: Option<String>,
}

impl Pilot {
    /// A pilot with no history; `fallback` stands in for a controller without an answer.
    #[must_use]
    pub fn new(fallback: Box<dyn Controller>, guard: GuardSettings) -> Self {
        Self { fallback, guard: Guard::new(guard), past: Vec::new(), open: None, node: None, table: None }
    }

    /// The same on a node, for one of its tables where there are several.
    #[must_use]
    pub fn on(self, node: u16, table: Option<String>) -> Self {
        Self { node: Some(node), table, ..self }
    }

    /// The last decisions, oldest first.
    #[must_use]
    pub fn past(&self) -> &[Past] {
        &self.past
    }

    /// The window after the last decision is over: measures what it did. Answers that decision, complete.
    pub fn close(&mut self, now: &Snapshot) -> Option<Decision> {
        let mut decision = self.open.take()?;
        let past = self.past.last_mut()?;
        decision.effect = Effect::between(&past.seen, now, past.expected);
        past.effect = decision.effect;
        if let Some(effect) = decision.effect.filter(|_| decision.was_done()) {
            self.guard.learn(past, &effect);
        }
        Some(decision)
    }

    /// What to do after the window `now`, given the controller's answer. The caller carries out the decision's `call`,
    /// then calls [`Pilot::carried_out`].
    pub fn decide(&mut self, now: &Snapshot, asked: Asked, occasion: Occasion) -> ToolCall {
        let Asked { controller, answer, latency_ms } = asked;
        let Occasion { number, time_ms } = occasion;
        let (proposal, decided_by, fallback) = match answer {
            Ok(proposal) => (proposal, controller, None),
            Err(error) => {
                let view = View { now, past: &self.past };
                let stand_in = self.fallback.propose(view);
                let proposal = stand_in.unwrap_or_else(|_| Proposal::hold("no controller has an answer"));
                (proposal, self.fallback.name(), Some(error.in_words()))
            }
        };
        let mut refused = None;
        let (call, outcome, note) = match self.guard.judge(proposal.call.clone(), now) {
            Verdict::Allowed { call, clamped: None } => (call, "done", None),
            Verdict::Allowed { call, clamped } => (call, "clamped", clamped),
            Verdict::Refused(rule, why) => {
                refused = Some(Refused { tool: proposal.call.tool(), rule });
                (ToolCall::Hold(Hold {}), "refused", Some(format!("{rule}: {why}")))
            }
        };
        let call = self.table.as_ref().map_or(call.clone(), |table| call.for_table(table));
        let by_fallback = fallback.is_some();
        self.open = Some(Decision {
            format: FORMAT,
            number,
            time_ms,
            node: self.node,
            table: self.table.clone(),
            controller: controller.to_owned(),
            decided_by: decided_by.to_owned(),
            snapshot: *now,
            proposed: proposal.call,
            reason: proposal.reason,
            expected: proposal.expects,
            outcome: outcome.to_owned(),
            note,
            fallback,
            call: call.clone(),
            answer: None,
            latency_ms,
            effect: None,
        });
        if self.past.len() >= HISTORY {
            self.past.remove(0);
        }
        self.past.push(Past { refused, by_fallback, ..Past::new(*now, call.clone(), proposal.expects) });
        call
    }

    /// What came of carrying the last decision out.
    pub fn carried_out(&mut self, result: Result<ToolAnswer, String>) {
        let Some(decision) = &mut self.open else { return };
        match result {
            Ok(answer) => decision.answer = Some(answer),
            Err(error) => {
                decision.outcome = "failed".to_owned();
                decision.note = Some(error);
            }
        }
    }

    /// The last decision, its effect still unknown.
    #[must_use]
    pub fn open(&self) -> Option<&Decision> {
        self.open.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::super::controller::Impact;
    use super::super::rules::Rules;
    use super::*;
    use crate::tools::Grow;

    fn seen(window: u64, hit_rate: f64) -> Snapshot {
        Snapshot {
            window,
            hit_rate: Some(hit_rate),
            remote_rows: 100,
            network_rows: (100.0 * (1.0 - hit_rate)) as u64,
            capacity_rows: 100,
            cached_rows: 100,
            ceiling_rows: 400,
            ..Snapshot::default()
        }
    }

    fn pilot() -> Pilot {
        Pilot::new(
            Box::new(Rules),
            GuardSettings { cooldown_windows: 0, veto_windows: 5, rows_min: 1, keeps_useful: true },
        )
    }

    const SEVENTH: Occasion = Occasion { number: 7, time_ms: 7 };

    fn asked(answer: Result<Proposal, ControllerError>) -> Asked {
        Asked { controller: "llm", answer, latency_ms: 1.0 }
    }

    #[test]
    fn a_decision_is_complete_once_the_window_after_it_is_over() {
        let mut pilot = pilot();
        let grow = ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() });
        let proposal = Proposal { call: grow.clone(), reason: "more".to_owned(), expects: Impact::Up };
        assert_eq!(pilot.decide(&seen(1, 0.4), asked(Ok(proposal)), SEVENTH), grow);
        pilot.carried_out(Ok(ToolAnswer { tool: "grow".to_owned(), tables: Vec::new() }));
        let decision = pilot.close(&seen(2, 0.6)).unwrap();
        assert_eq!((decision.number, decision.outcome.as_str(), decision.decided_by.as_str()), (7, "done", "llm"));
        assert!(decision.effect.unwrap().as_expected && decision.answer.is_some());
        assert!(pilot.past()[0].effect.is_some() && pilot.close(&seen(3, 0.6)).is_none());
    }

    #[test]
    fn where_the_controller_has_no_answer_the_rules_stand_in_and_say_so() {
        let mut pilot = pilot();
        let call = pilot.decide(&seen(1, 0.4), asked(Err(ControllerError::Late(500))), SEVENTH);
        assert!(matches!(call, ToolCall::Grow(_)), "short of slots: {call:?}");
        let open = pilot.open().unwrap();
        assert_eq!((open.decided_by.as_str(), open.controller.as_str()), ("rules", "llm"));
        assert_eq!(open.fallback.as_deref(), Some("late: no answer within 500 ms"));
    }

    #[test]
    fn why_there_was_no_answer_begins_with_the_outcome() {
        let why = "its probe".to_owned();
        let errors = [
            ControllerError::Invalid(why.clone()),
            ControllerError::Unreachable(why.clone()),
            ControllerError::Degraded(why),
        ];
        for error in errors {
            let words = error.in_words();
            assert_eq!(
                (words.split(':').next(), words.matches(error.outcome()).count()),
                (Some(error.outcome()), 1),
                "{words}"
            );
        }
    }

    #[test]
    fn what_the_guard_refuses_is_held_and_recorded() {
        let mut pilot = pilot();
        let shrink = ToolCall::Warm(crate::tools::Warm::default());
        let proposal = Proposal { call: shrink, reason: "?".to_owned(), expects: Impact::Up };
        assert!(matches!(pilot.decide(&seen(1, 0.4), asked(Ok(proposal)), SEVENTH), ToolCall::Hold(_)));
        let open = pilot.open().unwrap();
        assert_eq!(open.outcome, "refused");
        assert!(open.note.as_deref().unwrap().starts_with("not-a-decision"));
        let refused = Refused { tool: "warm", rule: "not-a-decision" };
        assert!(!open.was_done() && pilot.past()[0].refused == Some(refused), "{open:?}");
    }

    #[test]
    fn of_several_tables_the_one_that_was_looked_at_is_steered() {
        let mut pilot = pilot().on(3, Some("feat".to_owned()));
        let grow = ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() });
        let proposal = Proposal { call: grow.clone(), reason: "more".to_owned(), expects: Impact::Up };
        let call = pilot.decide(&seen(1, 0.4), asked(Ok(proposal)), SEVENTH);
        assert_eq!(call.table(), Some("feat"));
        let open = pilot.open().unwrap();
        assert_eq!((open.node, open.table.as_deref(), &open.proposed), (Some(3), Some("feat"), &grow));
    }
}
