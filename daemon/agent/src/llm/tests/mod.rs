//! The controller against a real HTTP server on loopback: one that answers like a model of sense in each mode, and
//! everything that can come instead. After each bad answer the same controller still takes a good one.

// JSON is written where it is passed.
#![allow(clippy::needless_pass_by_value)]

mod bad;
mod server;

use super::super::controller::{Controller, ControllerError, Impact, Proposal, View};
use super::super::snapshot::Snapshot;
use super::{Fitness, Llm, LlmSettings, LlmStatus, Mode};
use serde_json::{Value, json};
use server::{End, Reply, Server, answer_in, decision, sane};
use std::time::{Duration, Instant};

/// Longest wait for what must come; what comes late on a machine that is busy has come.
const PATIENCE: Duration = Duration::from_secs(200);

fn settings(server: &Server) -> LlmSettings {
    LlmSettings {
        base_url: server.url.clone(),
        model: "test".to_owned(),
        timeout_ms: 20_000,
        probe_timeout_ms: 50_000,
        retry_budget_ms: 1_500,
        ..LlmSettings::default()
    }
}

/// A controller and the end of its probe.
fn probed(settings: LlmSettings) -> (Llm, LlmStatus) {
    let llm = Llm::new(settings).unwrap();
    let status = llm.watch().probed(PATIENCE);
    (llm, status)
}

/// Asks until there is a decision.
fn ask_until_decided(llm: &mut Llm) -> Proposal {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask(llm) {
            Ok(proposal) => return proposal,
            Err(error) => assert!(Instant::now() < end, "{error}, {:?}", llm.watch().status()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A window in which growing is right.
fn short_of_slots() -> Snapshot {
    Snapshot {
        window: 7,
        hit_rate: Some(0.4),
        remote_rows: 1000,
        network_rows: 600,
        capacity_rows: 100,
        cached_rows: 100,
        ceiling_rows: 900,
        ..Snapshot::default()
    }
}

fn ask(llm: &mut Llm) -> Result<Proposal, ControllerError> {
    llm.propose(View { now: &short_of_slots(), past: &[] })
}

#[test]
fn each_mode_that_an_endpoint_honours_is_found_and_used() {
    for (honoured, tried) in [(Mode::Schema, 1), (Mode::Tools, 2), (Mode::Text, 3)] {
        let server = Server::start(move |request, _| match Server::mode(request) {
            mode if mode == honoured => sane(request),
            Mode::Schema => Reply::status(400, r#"{"error": {"message": "response_format is not supported"}}"#),
            _ => Reply::ok(answer_in(Mode::Text, "I would rather chat.".into())),
        });
        let (mut llm, status) = probed(settings(&server));
        let probe = status.probe.unwrap();
        assert_eq!((status.state, probe.mode, probe.modes.len()), ("healthy", Some(honoured), tried), "{probe:?}");
        assert_eq!((probe.apt, probe.canaries.len()), (5, 5), "{probe:?}");
        let proposal = ask(&mut llm).unwrap();
        assert_eq!((proposal.call.tool(), proposal.expects), ("grow", Impact::Up));
        assert_eq!(Server::mode(&server.last()), honoured);
    }
}

#[test]
fn a_model_whose_choice_does_not_depend_on_its_input_is_degraded_until_it_is_probed_again() {
    let server =
        Server::start(|request, _| Reply::ok(answer_in(Server::mode(request), decision("grow", json!({"factor": 2})))));
    let (mut llm, status) = probed(settings(&server));
    assert_eq!(status.state, "degraded");
    let asked = server.count();
    assert_eq!(ask(&mut llm), Err(ControllerError::Degraded("it answers grow whatever it is shown".to_owned())));
    assert_eq!(server.count(), asked, "a degraded model is not asked");
    // Where that is what is measured, it is.
    let (mut measured, _) = probed(LlmSettings { ask_degraded: true, ..settings(&server) });
    assert_eq!(ask(&mut measured).unwrap().call.tool(), "grow");
    let (mut llm, status) = probed(LlmSettings { reprobe_ms: 50, ..settings(&server) });
    assert_eq!(status.state, "degraded");
    server.behave(|request, _| sane(request));
    assert_eq!(ask_until_decided(&mut llm).call.tool(), "grow");
    assert!(server.count() >= 8, "it was probed before it was asked");
}

#[test]
fn a_model_that_throws_dice_is_degraded() {
    let server = Server::start(|request, number| {
        let tool = if number % 2 == 0 { "hold" } else { "refresh" };
        Reply::ok(answer_in(Server::mode(request), decision(tool, json!({}))))
    });
    let (_, status) = probed(settings(&server));
    let Fitness::Degraded(why) = status.probe.unwrap().verdict else { panic!("{}", status.state) };
    assert!(why.contains("twice it answers"), "{why}");
}

#[test]
fn a_model_without_a_valid_answer_in_any_mode_is_degraded() {
    let server = Server::start(|_, _| Reply::ok(answer_in(Mode::Text, "yes".into())));
    let (mut llm, status) = probed(settings(&server));
    let probe = status.probe.unwrap();
    assert_eq!((status.state, probe.mode, probe.modes.len()), ("degraded", None, 3));
    assert!(
        probe.modes.iter().all(|mode| mode.asked == 2 && mode.valid == 0),
        "no more than two canaries each: {probe:?}"
    );
    assert!(matches!(ask(&mut llm), Err(ControllerError::Degraded(why)) if why.contains("in no mode")));
}

#[test]
fn a_probe_never_keeps_a_decision_waiting() {
    let server = Server::start(|request, number| Reply { delay: first(number, 3_000), ..sane(request) });
    let mut llm = Llm::new(settings(&server)).unwrap();
    assert_eq!(ask(&mut llm), Err(ControllerError::Degraded("its probe is not over yet".to_owned())));
    assert_eq!(llm.watch().probed(PATIENCE).state, "healthy");
}

/// The delay of an answer of which only the first is slow.
fn first(number: usize, ms: u64) -> Duration {
    Duration::from_millis(if number == 0 { ms } else { 0 })
}

#[test]
fn in_a_replay_a_probe_is_waited_for() {
    let server = Server::start(|request, number| Reply { delay: first(number, 300), ..sane(request) });
    let mut llm = Llm::new(LlmSettings { waits_for_probe: true, ..settings(&server) }).unwrap();
    assert_eq!(ask(&mut llm).unwrap().call.tool(), "grow", "it was not probed when it was asked");
    server.behave(|request, number| match number {
        0..5 => Reply::ok(answer_in(Mode::Text, "yes".into())),
        later => Reply { delay: first(later - 5, 300), ..sane(request) },
    });
    for _ in 0..5 {
        assert!(matches!(ask(&mut llm), Err(ControllerError::Invalid(_))));
    }
    assert_eq!(ask(&mut llm).unwrap().call.tool(), "grow", "five invalid answers have it probed again");
}

#[test]
fn the_prompt_is_a_prefix_that_stays_then_history_then_the_window() {
    let server = Server::start(|request, _| sane(request));
    let (mut llm, _) = probed(settings(&server));
    ask(&mut llm).unwrap();
    let first = server.last();
    let hold = crate::tools::ToolCall::Hold(crate::tools::Hold {});
    let past = [super::super::controller::Past::new(short_of_slots(), hold, Impact::Same)];
    let now = Snapshot { window: 8, ..short_of_slots() };
    llm.propose(View { now: &now, past: &past }).unwrap();
    let second = server.last();
    let content = |request: &Value, at: usize| request["messages"][at]["content"].as_str().unwrap().to_owned();
    assert_eq!(content(&first, 0), content(&second, 0));
    assert!(content(&second, 1).starts_with("Your last decisions:\n- window 7"), "{second}");
    assert!(content(&second, 1).contains("Now, window 8: The hit rate is 40%"), "{second}");
    assert_eq!((&second["model"], &second["stream"], &second["seed"]), (&json!("test"), &json!(false), &json!(1)));
    assert!(content(&second, 0).len() < 4_500, "{} bytes", content(&second, 0).len());
}

#[test]
fn a_key_is_sent_from_its_variable_and_no_other_is() {
    let server = Server::start(|request, _| sane(request));
    let missing = LlmSettings { key_env: "RUDDER_TEST_NO_SUCH_KEY".to_owned(), ..settings(&server) };
    assert!(Llm::new(missing).err().unwrap().to_string().contains("RUDDER_TEST_NO_SUCH_KEY"));
    // A variable that every environment has stands in for a key.
    let (_llm, _) = probed(LlmSettings { key_env: "PATH".to_owned(), ..settings(&server) });
    assert_eq!(server.authorization(), Some(format!("Bearer {}", std::env::var("PATH").unwrap())));
    let (_llm, _) = probed(settings(&server));
    assert_eq!(server.authorization(), None);
}
