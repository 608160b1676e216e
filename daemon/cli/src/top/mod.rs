//! `rudder top`: a live view of running daemons over their HTTP interfaces. Owns the terminal while it runs, the
//! threads that ask the daemons, and the keys. It must always give the terminal back as it was: after a panic and after
//! a signal, too.

mod model;
#[cfg(test)]
mod tests;
mod view;

use super::{CliError, http, scrape::Scrape, style};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use model::{Reading, Watched};
use ratatui::{Terminal, backend::CrosstermBackend};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use view::Screen;

/// Longest wait for a daemon: a slower one counts as gone until it answers.
const PATIENCE: Duration = Duration::from_secs(3);
/// Decisions that are shown.
const DECISIONS: usize = 8;
/// How often keys and signals are looked at.
const KEYS: Duration = Duration::from_millis(50);
/// Width of a frame that goes to a pipe.
const PIPE_WIDTH: u16 = 110;
/// Steps of the keys + and -, in milliseconds.
const STEPS_MS: [u64; 8] = [200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];
const SIGNALS: [i32; 3] = [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP, signal_hook::consts::SIGINT];

/// Arguments of `rudder top`.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Address of a daemon's HTTP interface (its `admin.listen`); once for each daemon
    #[arg(long = "url", alias = "admin", value_name = "URL", default_value = "http://127.0.0.1:7401")]
    urls: Vec<String>,
    /// File with the bearer token, where the daemons have an `admin.token_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Seconds between two readings
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Table to show first; all together by default
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Print one frame as plain text, over one interval, and exit; so does a standard output that is not a terminal
    #[arg(long)]
    once: bool,
    /// Print one frame as JSON, and exit
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 0.1 to 3600".to_owned()),
    }
}

/// Shows the daemons until the user quits.
///
/// # Errors
/// With `--once`: no daemon answers. Else only what the terminal refuses: daemons may come and go.
pub fn run(args: &TopArgs) -> Result<(), CliError> {
    if args.once || args.json || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return once(args);
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let terminal = RawTerminal::begin()?;
    let outcome = live(args, &stop);
    drop(terminal);
    outcome
}

/// One frame, of two readings an interval apart.
fn once(args: &TopArgs) -> Result<(), CliError> {
    let begin = Instant::now();
    let mut watched: Vec<Watched> = args.urls.iter().cloned().map(Watched::new).collect();
    let look = |watched: &mut Vec<Watched>| {
        // All at once: readings of several daemons shall be of one moment.
        let heard: Vec<_> = std::thread::scope(|scope| {
            let ask = |url: &str| {
                let (url, token) = (url.to_owned(), args.token_file.as_deref());
                scope.spawn(move || read(begin, &url, token))
            };
            let asked: Vec<_> = args.urls.iter().map(|url| ask(url)).collect();
            asked
                .into_iter()
                .map(|asked| asked.join().unwrap_or_else(|_| Err("the question panicked".into())))
                .collect()
        });
        watched.iter_mut().zip(heard).for_each(|(watched, heard)| watched.record(begin.elapsed().as_secs_f64(), heard));
    };
    look(&mut watched);
    std::thread::sleep(Duration::from_secs_f64(args.interval));
    look(&mut watched);
    let at = begin.elapsed().as_secs_f64();
    let daemons: Vec<_> = watched.iter().map(|watched| watched.view(at, args.table.as_deref())).collect();
    let gone = daemons.iter().find_map(|view| match &view.state {
        model::State::Gone { why, .. } => Some(why.clone()),
        _ => None,
    });
    let any_up = daemons.iter().any(|view| !matches!(view.state, model::State::Gone { .. }));
    if let Some(why) = gone.filter(|_| !any_up) {
        return Err(CliError::message(why));
    }
    if let Some(table) = args.table.as_ref().filter(|table| !daemons.iter().any(|view| view.tables.contains(table))) {
        let known: Vec<&str> = daemons.iter().flat_map(|view| &view.tables).map(String::as_str).collect();
        return Err(CliError::message(format!(
            "--table {table}: there is no such table; there are {}",
            known.join(", ")
        )));
    }
    if args.json {
        return style::print_json(&daemons);
    }
    let selected = daemons.iter().position(|view| view.node.is_some()).unwrap_or(0);
    let interval_seconds = args.interval;
    let screen = Screen { daemons, selected, interval_seconds, paused: false, keys: false, colour: false };
    style::print(&view::plain(&screen, PIPE_WIDTH))
}

/// Asks a daemon for everything.
fn read(begin: Instant, url: &str, token: Option<&Path>) -> Result<Reading, String> {
    let ask = |path: &str| http::ask_within(PATIENCE, url, token, path, None).map_err(|error| error.to_string());
    let scrape = Scrape::parse(&ask("/metrics")?).map_err(|error| format!("{url}/metrics: {error}"))?;
    let at = begin.elapsed().as_secs_f64();
    let json = |path: &str, text: String| serde_json::from_str(&text).map_err(|error| format!("{url}{path}: {error}"));
    let status = json("/v1/status", ask("/v1/status")?)?;
    let decisions = ask(&format!("/v1/decisions?limit={DECISIONS}"))?;
    let decisions = serde_json::from_str(&decisions).map_err(|error| format!("{url}/v1/decisions: {error}"))?;
    Ok(Reading { at, scrape, status, decisions })
}

/// The terminal in raw mode on its other screen, for as long as this lives.
struct RawTerminal;

impl RawTerminal {
    fn begin() -> Result<Self, CliError> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode().map_err(|error| CliError::context("the terminal has no raw mode", error))?;
        let terminal = Self;
        crossterm::execute!(io::stdout(), EnterAlternateScreen, crossterm::cursor::Hide)?;
        Ok(terminal)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Errors have nowhere to go: the terminal may be gone itself.
fn give_back() {
    let _ = crossterm::execute!(io::stdout(), LeaveAlternateScreen, crossterm::cursor::Show);
    let _ = disable_raw_mode();
}

/// What the keys have changed.
#[derive(Debug, Clone, PartialEq)]
struct Controls {
    interval_ms: u64,
    paused: bool,
    selected: usize,
    /// 0 is all tables together.
    table: usize,
    quit: bool,
}

impl Controls {
    fn key(&mut self, key: KeyEvent, daemons: usize, tables: usize) {
        let choices = tables + 1;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => self.quit = true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.quit = true,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('+') => {
                self.interval_ms =
                    STEPS_MS.into_iter().find(|step| *step > self.interval_ms).unwrap_or(self.interval_ms);
            }
            KeyCode::Char('-') => {
                self.interval_ms =
                    STEPS_MS.into_iter().rev().find(|step| *step < self.interval_ms).unwrap_or(self.interval_ms);
            }
            KeyCode::Right if tables > 1 => self.table = (self.table + 1) % choices,
            KeyCode::Left if tables > 1 => self.table = (self.table + choices - 1) % choices,
            KeyCode::Down => self.selected = (self.selected + 1).min(daemons.saturating_sub(1)),
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            _ => {}
        }
    }
}

fn live(args: &TopArgs, stop: &AtomicBool) -> Result<(), CliError> {
    let begin = Instant::now();
    let mut watched: Vec<Watched> = args.urls.iter().cloned().map(Watched::new).collect();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most an hour
    let interval_ms = (args.interval * 1e3) as u64;
    let mut controls = Controls { interval_ms, paused: false, selected: 0, table: 0, quit: false };
    let mut named = args.table.clone();
    let pause_ms = Arc::new(AtomicU64::new(interval_ms));
    let heard = listen(args, begin, &pause_ms);
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    while !controls.quit && !stop.load(Ordering::Relaxed) {
        for (daemon, at, reading) in heard.try_iter() {
            if !controls.paused {
                watched[daemon].record(at, reading);
            }
        }
        let tables = watched[controls.selected].tables();
        if let Some(at) = named.as_ref().and_then(|name| tables.iter().position(|table| table == name)) {
            controls.table = at + 1;
            named = None;
        }
        let table = controls.table.checked_sub(1).and_then(|at| tables.get(at));
        let at = begin.elapsed().as_secs_f64();
        let daemons = watched.iter().map(|watched| watched.view(at, table.map(String::as_str))).collect();
        let screen = Screen {
            daemons,
            selected: controls.selected,
            interval_seconds: controls.interval_ms as f64 / 1e3,
            paused: controls.paused,
            keys: true,
            colour,
        };
        terminal.draw(|frame| frame.render_widget(&screen, frame.area()))?;
        // Several keys at once are all taken before the next frame.
        let mut wait = KEYS;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                controls.key(key, watched.len(), tables.len());
            }
        }
        pause_ms.store(controls.interval_ms, Ordering::Relaxed);
    }
    Ok(())
}

type Heard = (usize, f64, Result<Reading, String>);

/// A thread for each daemon, so that one that hangs delays none of the others. They end with the program.
fn listen(args: &TopArgs, begin: Instant, pause_ms: &Arc<AtomicU64>) -> mpsc::Receiver<Heard> {
    let (tell, heard) = mpsc::channel();
    for (daemon, url) in args.urls.iter().cloned().enumerate() {
        let (tell, pause_ms, token) = (tell.clone(), Arc::clone(pause_ms), args.token_file.clone());
        std::thread::spawn(move || {
            loop {
                let begun = Instant::now();
                let reading = read(begin, &url, token.as_deref());
                if tell.send((daemon, begin.elapsed().as_secs_f64(), reading)).is_err() {
                    return;
                }
                // In small steps, so that a shorter interval is felt at once.
                while begun.elapsed() < Duration::from_millis(pause_ms.load(Ordering::Relaxed)) {
                    std::thread::sleep(KEYS);
                }
            }
        });
    }
    heard
}
