//! The view of `rudder top` from made-up readings, drawn on a simulated screen.

use super::model::{Reading, State, Watched};
use super::view::{Screen, plain};
use super::{Controls, Scrape};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend, style::Color};
use rudder_agent::journal::{Decision, FORMAT};
use rudder_agent::tools::{Grow, ToolCall};
use rudder_agent::{controller::Effect, controller::Impact, snapshot::Snapshot};
use serde_json::json;

/// A daemon that has answered this many fetches, three in four of the remote rows from its cache of table `a`, and half
/// of them from that of table `b`.
fn reading(at: f64, fetches: u64, started: u64, up: bool) -> Reading {
    let up = u8::from(up);
    let text = format!(
        "process_start_time_seconds {started}\nprocess_resident_memory_bytes 104857600\nrudder_trainers_reporting 2\n\
         rudder_memory_used_bytes 950\nrudder_memory_limit_bytes 1000\nrudder_epochs 3.5\n\
         rudder_fetch_rows_total{{table=\"a\",source=\"local\"}} {}\nrudder_fetch_rows_total{{table=\"a\",source=\"cache\"}} {}\n\
         rudder_fetch_rows_total{{table=\"a\",source=\"peer\"}} {}\nrudder_fetch_rows_total{{table=\"b\",source=\"cache\"}} {}\n\
         rudder_fetch_rows_total{{table=\"b\",source=\"peer\"}} {}\nrudder_stall_seconds_total {}\n\
         rudder_fetch_seconds_bucket{{le=\"0.001\"}} {}\nrudder_fetch_seconds_bucket{{le=\"0.01\"}} {fetches}\n\
         rudder_fetch_seconds_bucket{{le=\"+Inf\"}} {fetches}\n\
         rudder_cache_rows{{table=\"a\"}} 500\nrudder_cache_capacity_rows{{table=\"a\"}} 1000\n\
         rudder_cache_ceiling_rows{{table=\"a\"}} 4000\nrudder_cache_bytes{{table=\"a\"}} 256000\n\
         rudder_cache_rows{{table=\"b\"}} 5\nrudder_cache_capacity_rows{{table=\"b\"}} 10\n\
         rudder_peer_up{{peer=\"1\"}} {up}\nrudder_peer_bytes_total{{peer=\"1\",direction=\"received\"}} {}\n",
        fetches * 10,
        fetches * 3,
        fetches,
        fetches,
        fetches,
        fetches as f64 / 200.0,
        fetches / 2,
        fetches * 1024,
    );
    let status = json!({
        "node": 0, "parts": 2, "dataset": "debian", "uptime_seconds": 3700.0, "draining": false, "trainers_reporting": 2,
        "peers": [{"node": 1, "address": "10.0.0.2:7400", "last_error": "no answer within 3000 ms"}],
        "agent": {"controller": "rules"},
    });
    Reading { at, scrape: Scrape::parse(&text).unwrap(), status, decisions: vec![decision(7), decision(8)] }
}

fn decision(number: u64) -> Decision {
    let call = ToolCall::Grow(Grow { factor: Some(1.5), ..Grow::default() });
    Decision {
        format: FORMAT,
        number,
        time_ms: 0,
        node: None,
        table: None,
        controller: "rules".into(),
        decided_by: "rules".into(),
        snapshot: Snapshot::default(),
        proposed: call.clone(),
        reason: "short of slots".into(),
        expected: Impact::Up,
        outcome: "done".into(),
        note: None,
        fallback: None,
        call,
        answer: None,
        latency_ms: 0.1,
        effect: Some(Effect { hit_rate: (0.5, 0.6), network_share: (0.5, 0.4), as_expected: true }),
    }
}

fn watched(up: bool) -> Watched {
    let mut watched = Watched::new("http://a:7401".into());
    watched.record(0.0, Ok(reading(0.0, 1000, 1, up)));
    watched.record(2.0, Ok(reading(2.0, 1080, 1, up)));
    watched
}

fn screen(watched: &[&Watched], at: f64) -> Screen {
    let daemons = watched.iter().map(|watched| watched.view(at, None)).collect();
    Screen { daemons, selected: 0, interval_seconds: 1.0, paused: false, keys: true, colour: true }
}

#[test]
fn rates_are_differences_of_two_readings() {
    let view = watched(true).view(2.0, Some("a"));
    assert_eq!((view.hit_rate, view.fetches_per_second, view.rows.local), (Some(0.75), 40.0, 400.0));
    assert!((view.stall_share - 0.1).abs() < 1e-9, "0.4 s of two trainers in 2 s: {}", view.stall_share);
    assert!((view.p50_seconds.unwrap() - 0.001).abs() < 1e-9, "{:?}", view.p50_seconds);
    assert!((0.009..0.01).contains(&view.p99_seconds.unwrap()), "{:?}", view.p99_seconds);
    assert_eq!((view.cache.rows, view.cache.ceiling_rows), (500.0, 4000.0));
    assert_eq!(view.peers[0].received_bytes_per_second, 40.0 * 1024.0);
    let all = watched(true).view(2.0, None);
    assert_eq!((all.hit_rate, all.cache.rows), (Some(4.0 / 6.0), 505.0), "all tables together");
    assert_eq!(all.decisions[0].number, 8, "the newest first");
}

#[test]
fn a_restarted_daemon_is_not_compared_with_the_one_before() {
    let mut watched = watched(true);
    watched.record(3.0, Ok(reading(3.0, 5, 2, true)));
    assert_eq!(watched.view(3.0, None).fetches_per_second, 0.0);
    watched.record(4.0, Ok(reading(4.0, 15, 2, true)));
    assert_eq!(watched.view(4.0, None).fetches_per_second, 10.0);
}

#[test]
fn a_daemon_that_went_away_is_gone_since_the_first_question_without_answer() {
    let mut watched = watched(true);
    watched.record(5.0, Err("refused".into()));
    watched.record(9.0, Err("still refused".into()));
    let view = watched.view(12.0, None);
    assert_eq!(view.state, State::Gone { seconds: 7.0, why: "still refused".into() });
    let text = plain(&screen(&[&watched], 12.0), 100);
    assert!(text.contains("no answer for 7 s: still refused") && text.contains("said last"), "{text}");
    watched.record(13.0, Ok(reading(13.0, 1100, 1, true)));
    assert_eq!(watched.view(13.0, None).state, State::Up);
}

#[test]
fn one_daemon_fills_the_screen() {
    let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
    let screen = screen(&[&watched(false)], 2.0);
    terminal.draw(|frame| frame.render_widget(&screen, frame.area())).unwrap();
    let text = terminal.backend().to_string();
    for words in [
        "http://a:7401  up  node 0 of 2  dataset debian  up 1 h 1 min",
        "all 2 tables, 40 fetches/s, 2 trainers, 3.5 epochs",
        "hit rate     67 %",
        "10 % of a trainer's time",
        "p50 1.0 ms  p99 9.8 ms",
        "local 400  cache 160  staged 0  peer 80",
        "[############............] 50 % 505 of 1,010 rows, ceiling 4,000",
        "950 B of 1000 B in use, 100.0 MiB by the daemon",
        "1     10.0.0.2:7400                DOWN",
        "no answer within 3000 ms",
        "#8     grow factor=1.500 done  [hits 50 % to 60 %]: short of slots",
        "q quit  p pause  + - interval  left/right table",
    ] {
        assert!(text.contains(words), "should say `{words}`:\n{text}");
    }
    let buffer = terminal.backend().buffer();
    let down = (0..30).find(|&y| (0..60).any(|x| buffer[(x, y)].symbol() == "D" && buffer[(x + 1, y)].symbol() == "O"));
    assert_eq!(buffer[(35, down.unwrap())].fg, Color::Red);
    let spark: String = (19..24).map(|x| buffer[(x, 4)].symbol().to_owned()).collect();
    assert!(spark.starts_with('▅'), "one point of history at two thirds: `{spark}`\n{text}");
}

#[test]
fn several_daemons_have_a_line_each_and_one_is_chosen() {
    let (here, mut gone) = (watched(true), Watched::new("http://b:7401".into()));
    gone.record(1.0, Err("no answer from http://b:7401/metrics".into()));
    let mut screen = screen(&[&here, &gone], 2.0);
    let text = plain(&screen, 100);
    assert!(text.contains("> http://a:7401") && text.contains("  http://b:7401") && text.contains("GONE"), "{text}");
    assert!(text.contains("  67 %    10 %   9.8 ms   50 %    1/1"), "{text}");
    screen.selected = 1;
    let text = plain(&screen, 100);
    assert!(text.contains("> http://b:7401") && text.contains("no answer for 1 s"), "{text}");
    assert!(!text.contains("hit rate"), "nothing is known of it: {text}");
}

/// A reading of a node with 64 peers, of which some are down.
fn crowded(down: &[u64]) -> Watched {
    let of = |at: f64| {
        let mut reading = reading(at, 1000 + 40 * at as u64, 1, true);
        let up: String = (0..64)
            .map(|node| format!("rudder_peer_up{{peer=\"{node}\"}} {}\n", u8::from(!down.contains(&node))))
            .collect();
        let text = format!("process_start_time_seconds 1\n{up}");
        reading.scrape = Scrape::parse(&text).unwrap();
        let peer =
            |node: u64| json!({"node": node, "address": format!("10.0.0.{node}:7400"), "last_error": "no answer"});
        reading.status["peers"] = (0..64).map(peer).collect();
        reading.decisions = (1..=8).map(decision).collect();
        reading
    };
    let mut watched = Watched::new("http://a:7401".into());
    watched.record(0.0, Ok(of(0.0)));
    watched.record(2.0, Ok(of(2.0)));
    watched
}

fn drawn(screen: &Screen, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(110, height)).unwrap();
    terminal.draw(|frame| frame.render_widget(screen, frame.area())).unwrap();
    terminal.backend().to_string()
}

#[test]
fn of_many_peers_those_that_are_down_and_the_decisions_are_seen() {
    let (one_down, all_down) = (crowded(&[50]), crowded(&(0..64).collect::<Vec<_>>()));
    let text = drawn(&screen(&[&one_down], 2.0), 30);
    let first = text.lines().position(|line| line.contains("10.0.0.")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[first].contains("10.0.0.50:7400") && lines[first].contains("DOWN"), "{text}");
    assert!(lines[first + 1].contains("no answer") && lines[first + 2].contains("10.0.0.0:7400"), "{text}");
    assert!(text.contains("more, none of them DOWN") && text.contains("last decisions of rules"), "{text}");
    assert!(["#8", "#7", "#6", "#5"].iter().all(|number| text.contains(number)) && text.contains("q quit"), "{text}");
    let shown = lines.iter().filter(|line| line.contains("10.0.0.")).count();
    assert!(text.contains(&format!("+{} more", 64 - shown)) && shown > 3, "{shown} shown: {text}");
    let text = drawn(&screen(&[&all_down], 2.0), 30);
    assert!(text.contains("of them DOWN") && text.contains("#8"), "{text}");
    let text = plain(&screen(&[&one_down], 2.0), 110);
    assert!(
        text.contains("10.0.0.63:7400") && text.contains("#1 ") && !text.contains("more,"),
        "a pipe gets all: {text}"
    );
}

#[test]
fn of_many_daemons_the_chosen_one_is_in_sight() {
    let (here, mut gone) = (watched(true), Watched::new("http://gone:7401".into()));
    gone.record(1.0, Err("refused".into()));
    let mut all: Vec<&Watched> = vec![&here; 40];
    all[39] = &gone;
    let mut screen = screen(&all, 2.0);
    let text = drawn(&screen, 30);
    assert!(text.contains("> http://a:7401") && text.contains("1 of them GONE") && text.contains("hit rate"), "{text}");
    assert!(text.contains("#8") && !text.contains("gone:7401"), "{text}");
    screen.selected = 39;
    let text = drawn(&screen, 30);
    assert!(text.contains("> http://gone:7401") && text.contains("none of them GONE"), "{text}");
    assert!(!plain(&screen, 110).contains("more,"), "a pipe gets all");
}

#[test]
fn an_idle_node_is_not_complained_of() {
    let mut idle = Watched::new("http://a:7401".into());
    for at in [0.0, 2.0] {
        let mut reading = reading(at, 1000, 1, true);
        reading.status["trainers_reporting"] = json!(0);
        idle.record(at, Ok(reading));
    }
    let text = plain(&screen(&[&idle], 2.0), 110);
    assert!(text.contains("0 fetches/s, no trainer at work"), "{text}");
}

#[test]
fn a_small_terminal_is_no_trouble() {
    for (width, height) in [(1, 1), (20, 5), (79, 8), (300, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let screen = screen(&[&watched(true), &watched(false), &crowded(&[3, 5])], 2.0);
        for selected in 0..3 {
            let screen = Screen { selected, ..screen.clone() };
            terminal.draw(|frame| frame.render_widget(&screen, frame.area())).unwrap();
        }
    }
}

#[test]
fn no_colour_is_no_colour() {
    let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
    let screen = Screen { colour: false, ..screen(&[&watched(false)], 2.0) };
    terminal.draw(|frame| frame.render_widget(&screen, frame.area())).unwrap();
    assert!(terminal.backend().buffer().content().iter().all(|cell| cell.fg == Color::Reset));
}

#[test]
fn keys_change_what_they_say() {
    let mut controls = Controls { interval_ms: 1000, paused: false, selected: 0, table: 0, quit: false };
    let mut press = |code| {
        controls.key(KeyEvent::new(code, KeyModifiers::NONE), 2, 2);
        controls.clone()
    };
    assert_eq!(press(KeyCode::Char('+')).interval_ms, 2000);
    press(KeyCode::Char('-'));
    assert_eq!(press(KeyCode::Char('-')).interval_ms, 500);
    assert!(press(KeyCode::Char('p')).paused && !press(KeyCode::Char('p')).paused);
    assert_eq!([press(KeyCode::Right), press(KeyCode::Right), press(KeyCode::Right)].map(|c| c.table), [1, 2, 0]);
    assert_eq!(press(KeyCode::Left).table, 2);
    press(KeyCode::Down);
    assert_eq!(press(KeyCode::Down).selected, 1, "there are two");
    assert!(!controls.quit);
    controls.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), 2, 2);
    assert!(controls.quit);
}
