//! Draws what the model says: a line per daemon where there are several, and the one that is chosen in full. Pure: a
//! screen goes in, cells come out. It must never know where the numbers come from.

use super::model::{Decided, Peer, State, View};
use crate::style::{bytes, count, percent, span, time};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{RenderDirection, Sparkline, Widget};

const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Width of the names on the left.
const NAMES: u16 = 11;
/// Width of a bar.
const BAR: usize = 24;
/// A trainer that waits for more of its time than this is worth a colour, and twice that a stronger one.
const STALL_WARN: f64 = 0.1;
const MEMORY_WARN: f64 = 0.9;
/// Decisions that stay in sight however long the list of peers is.
const DECISIONS_KEPT: usize = 4;
/// Daemons that are listed on however low a screen, with the line on the rest.
const LISTED_MIN: usize = 4;

/// All that is on the screen.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    pub(super) daemons: Vec<View>,
    pub(super) selected: usize,
    pub(super) interval_seconds: f64,
    pub(super) paused: bool,
    /// Whether the list of keys is shown.
    pub(super) keys: bool,
    pub(super) colour: bool,
}

impl Widget for &Screen {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let bottom = area.bottom().saturating_sub(u16::from(self.keys));
        let mut pen = Pen { area, y: area.y, bottom, buffer, colour: self.colour };
        self.title(&mut pen);
        if self.daemons.len() > 1 {
            self.list(&mut pen);
        }
        if let Some(view) = self.daemons.get(self.selected) {
            detail(&mut pen, view);
        }
        if self.keys {
            let tables = self.daemons.get(self.selected).map_or(0, |view| view.tables.len());
            let choose = if self.daemons.len() > 1 { "  up/down daemon" } else { "" };
            let table = if tables > 1 { "  left/right table" } else { "" };
            (pen.y, pen.bottom) = (bottom, area.bottom());
            pen.line([Span::styled(format!("q quit  p pause  + - interval{choose}{table}"), FAINT)]);
        }
    }
}

impl Screen {
    fn title(&self, pen: &mut Pen<'_>) {
        let paused = if self.paused { Span::styled("  PAUSED", WARN) } else { Span::raw("") };
        let every = format!("  every {} s", self.interval_seconds);
        pen.line([Span::styled("rudder top", STRONG), Span::styled(every, FAINT), paused]);
    }

    fn list(&self, pen: &mut Pen<'_>) {
        let head = format!(
            "  {:<28} {:<9} {:>7} {:>7} {:>8} {:>6} {:>6}",
            "daemon", "state", "hits", "stalls", "p99", "cache", "peers"
        );
        pen.line([Span::styled(head, FAINT)]);
        // The chosen one stays in sight, and most of the screen describes it.
        let room = usize::from(pen.room() / 3).max(LISTED_MIN);
        let (from, listed) = window(self.daemons.len(), self.selected, room);
        for (at, view) in self.daemons.iter().enumerate().skip(from).take(listed) {
            let (word, style) = state_word(&view.state);
            let chosen = at == self.selected;
            let name = format!("{} {:<28} ", if chosen { ">" } else { " " }, short(&view.url, 28));
            let up = view.peers.iter().filter(|peer| peer.up).count();
            let numbers = format!(
                " {:>7} {:>7} {:>8} {:>6} {:>6}",
                or_dash(view.hit_rate.map(percent)),
                percent(view.stall_share),
                or_dash(view.p99_seconds.map(time)),
                percent(share(view.cache.rows, view.cache.capacity_rows)),
                format!("{up}/{}", view.peers.len()),
            );
            let numbers = if matches!(view.state, State::Up | State::Draining) { numbers } else { String::new() };
            let name_style = if chosen { STRONG } else { Style::new() };
            pen.line([Span::styled(name, name_style), Span::styled(format!("{word:<9}"), style), Span::raw(numbers)]);
        }
        let unseen = self.daemons.iter().enumerate().filter(|(at, _)| !(from..from + listed).contains(at));
        let gone = unseen.clone().filter(|(_, view)| matches!(view.state, State::Gone { .. })).count();
        rest(pen, unseen.count(), gone, "GONE");
        pen.skip();
    }
}

/// Where a list of `all` begins and how much of it is shown, so that the chosen one is in sight; the line on the rest
/// counts, too.
fn window(all: usize, chosen: usize, room: usize) -> (usize, usize) {
    if all <= room {
        return (0, all);
    }
    let shown = room.saturating_sub(1).max(1);
    (chosen.saturating_sub(shown / 2).min(all - shown), shown)
}

/// A line on what a list leaves out.
fn rest(pen: &mut Pen<'_>, unseen: usize, bad: usize, word: &str) {
    match (unseen, bad) {
        (0, _) => {}
        (_, 0) => pen.line([Span::styled(format!("  +{unseen} more, none of them {word}"), FAINT)]),
        _ => pen.line([Span::styled(format!("  +{unseen} more, {bad} of them {word}"), BAD)]),
    }
}

fn state_word(state: &State) -> (&'static str, Style) {
    match state {
        State::Waiting => ("waiting", FAINT),
        State::Up => ("up", GOOD),
        State::Draining => ("draining", WARN),
        State::Gone { .. } => ("GONE", BAD),
    }
}

fn detail(pen: &mut Pen<'_>, view: &View) {
    let (word, style) = state_word(&view.state);
    let node = view.node.map_or_else(String::new, |(node, parts)| format!("  node {node} of {parts}"));
    let dataset = if view.dataset.is_empty() { String::new() } else { format!("  dataset {}", view.dataset) };
    let uptime = if view.node.is_some() { format!("  up {}", span(view.uptime_seconds)) } else { String::new() };
    pen.line([
        Span::styled(view.url.clone(), STRONG),
        Span::raw("  "),
        Span::styled(word, style),
        Span::raw(node),
        Span::raw(dataset),
        Span::styled(uptime, FAINT),
    ]);
    if let State::Gone { seconds, why } = &view.state {
        pen.line([Span::styled(format!("no answer for {}: {why}", span(*seconds)), BAD)]);
        if view.node.is_none() {
            return;
        }
        pen.line([Span::styled("what follows is what it said last", FAINT)]);
    }
    if view.state == State::Waiting {
        return;
    }
    numbers(pen, view);
    // However many peers there are, the last decisions are to be seen.
    let kept = 2 + u16::try_from(view.decisions.len().min(DECISIONS_KEPT)).unwrap_or(u16::MAX);
    let below = pen.bottom;
    pen.bottom = below.saturating_sub(kept).max(pen.y.min(below));
    peers(pen, &view.peers);
    pen.bottom = below;
    decisions(pen, view);
}

fn numbers(pen: &mut Pen<'_>, view: &View) {
    let table = match (&view.table, view.tables.len()) {
        (Some(table), _) => format!("table {table}"),
        (None, 1) => format!("table {}", view.tables[0]),
        (None, many) => format!("all {many} tables"),
    };
    pen.skip();
    pen.line([Span::styled(format!("{table}, {} fetches/s, ", count(view.fetches_per_second)), FAINT), trainers(view)]);
    pen.named("hit rate", [Span::styled(format!("{:>6}  ", or_dash(view.hit_rate.map(percent))), STRONG)]);
    pen.sparkline(8, &view.hit_rates);
    let stalls = match view.stall_share {
        s if s > 2.0 * STALL_WARN => BAD,
        s if s > STALL_WARN => WARN,
        _ => GOOD,
    };
    pen.named(
        "stalls",
        [
            Span::styled(format!("{:>6}", percent(view.stall_share)), stalls),
            Span::raw(" of a trainer's time waits for peers"),
        ],
    );
    let latency = format!("p50 {}  p99 {}", or_dash(view.p50_seconds.map(time)), or_dash(view.p99_seconds.map(time)));
    let failed = match view.failed_fetches {
        failed if failed > 0.0 => Span::styled(format!("  {} FAILED since the start", count(failed)), BAD),
        _ => Span::raw(""),
    };
    pen.named("fetch", [Span::raw(latency), failed]);
    let rows = view.rows;
    let of = |name: &str, rows: f64| format!("{name} {}  ", count(rows));
    let sources = [of("local", rows.local), of("cache", rows.cache), of("staged", rows.staged), of("peer", rows.peer)];
    let network = Span::styled(format!("(network {})", count(view.network_rows_per_second)), FAINT);
    pen.named("rows/s", [Span::raw(sources.concat()), network]);
    let cache = view.cache;
    let fill = share(cache.rows, cache.capacity_rows);
    pen.named(
        "cache",
        [
            Span::raw(bar(fill)),
            Span::raw(format!(
                " {} of {} rows, ceiling {}, {}",
                count(cache.rows),
                count(cache.capacity_rows),
                count(cache.ceiling_rows),
                bytes(cache.bytes)
            )),
        ],
    );
    memory(pen, view);
}

fn trainers(view: &View) -> Span<'static> {
    match view.trainers {
        0 if view.rows.remote() + view.rows.local == 0.0 => Span::styled("no trainer at work", FAINT),
        0 => Span::styled("no trainer reports its progress", WARN),
        1 => Span::styled(format!("1 trainer, {:.1} epochs", view.epochs), FAINT),
        many => Span::styled(format!("{many} trainers, {:.1} epochs", view.epochs), FAINT),
    }
}

fn memory(pen: &mut Pen<'_>, view: &View) {
    let memory = view.memory;
    let daemon = format!("{} by the daemon", bytes(memory.resident));
    if memory.limit <= 0.0 {
        return pen.named("memory", [Span::raw(daemon)]);
    }
    let used = share(memory.used, memory.limit);
    let style = if used > MEMORY_WARN { BAD } else { Style::new() };
    let words = format!(" {} of {} in use, {daemon}", bytes(memory.used), bytes(memory.limit));
    pen.named("memory", [Span::styled(bar(used), style), Span::raw(words)]);
}

fn peers(pen: &mut Pen<'_>, peers: &[Peer]) {
    if peers.is_empty() {
        return;
    }
    pen.skip();
    let head = format!(
        "{:<5} {:<28} {:<5} {:>9} {:>9} {:>14} {:>14}",
        "peer", "address", "state", "p50", "p99", "received/s", "sent/s"
    );
    pen.line([Span::styled(head, FAINT)]);
    let mut worst_first: Vec<&Peer> = peers.iter().collect();
    worst_first.sort_by_key(|peer| peer.up);
    let lines = |peer: &&Peer| 1 + u16::from(peer.error.is_some() && !peer.up);
    let needed: u16 = worst_first.iter().map(lines).fold(0, u16::saturating_add);
    // One line is for what is left out, where something is.
    let mut room = if needed <= pen.room() { needed } else { pen.room().saturating_sub(1) };
    let fits = |peer: &&&Peer| {
        let left = room.checked_sub(lines(peer));
        room = left.unwrap_or(0);
        left.is_some()
    };
    let shown = worst_first.iter().take_while(fits).count();
    for peer in &worst_first[..shown] {
        let (word, style) = if peer.up { ("up", GOOD) } else { ("DOWN", BAD) };
        let numbers = format!(
            " {:>9} {:>9} {:>14} {:>14}",
            or_dash(peer.p50_seconds.map(time)),
            or_dash(peer.p99_seconds.map(time)),
            bytes(peer.received_bytes_per_second),
            bytes(peer.sent_bytes_per_second),
        );
        pen.line([
            Span::raw(format!("{:<5} {:<28} ", peer.node, short(&peer.address, 28))),
            Span::styled(format!("{word:<5}"), style),
            Span::raw(numbers),
        ]);
        if let Some(error) = peer.error.as_ref().filter(|_| !peer.up) {
            pen.line([Span::styled(format!("      {error}"), BAD)]);
        }
    }
    let down = worst_first[shown..].iter().filter(|peer| !peer.up).count();
    rest(pen, worst_first.len() - shown, down, "DOWN");
}

fn decisions(pen: &mut Pen<'_>, view: &View) {
    pen.skip();
    if view.controller.is_empty() {
        return pen.line([Span::styled("no agent (agent.controller is off)", FAINT)]);
    }
    pen.line([Span::styled(format!("last decisions of {}", view.controller), FAINT)]);
    for Decided { number, tool, outcome, reason, hit_rate } in &view.decisions {
        let style = match outcome.as_str() {
            "failed" => BAD,
            "refused" | "clamped" => WARN,
            _ if tool == "hold" => FAINT,
            _ => STRONG,
        };
        let effect = hit_rate
            .map_or_else(String::new, |(before, after)| format!("  [hits {} to {}]", percent(before), percent(after)));
        pen.line([
            Span::styled(format!("#{number:<5} "), FAINT),
            Span::styled(tool.clone(), style),
            Span::raw(format!(" {outcome}{effect}: {reason}")),
        ]);
    }
}

/// Writes line after line, as far as there is room.
struct Pen<'a> {
    area: Rect,
    y: u16,
    /// The line below the last that may be written.
    bottom: u16,
    buffer: &'a mut Buffer,
    colour: bool,
}

impl Pen<'_> {
    fn line<'s>(&mut self, spans: impl IntoIterator<Item = Span<'s>>) {
        let plain = |span: Span<'s>| if self.colour { span } else { Span::raw(span.content) };
        let line = Line::from(spans.into_iter().map(plain).collect::<Vec<_>>());
        if self.y < self.bottom {
            self.buffer.set_line(self.area.x, self.y, &line, self.area.width);
        }
        self.y = self.y.saturating_add(1).min(self.bottom);
    }

    /// Lines that are left.
    fn room(&self) -> u16 {
        self.bottom.saturating_sub(self.y)
    }

    fn named<'s>(&mut self, name: &str, spans: impl IntoIterator<Item = Span<'s>>) {
        let name = format!("{name:<width$}", width = usize::from(NAMES));
        self.line(std::iter::once(Span::styled(name, FAINT)).chain(spans).collect::<Vec<_>>());
    }

    fn skip(&mut self) {
        self.y = self.y.saturating_add(1).min(self.bottom);
    }

    /// Draws the history right of what the line before says, newest last.
    fn sparkline(&mut self, after: u16, rates: &[f64]) {
        let x = self.area.x + NAMES + after;
        let y = self.y.saturating_sub(1);
        if y >= self.bottom || x >= self.area.right() {
            return;
        }
        let width = (self.area.right() - x).min(60);
        let last = &rates[rates.len().saturating_sub(usize::from(width))..];
        let style = if self.colour { GOOD } else { Style::new() };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // shares of 1000
        let data = last.iter().map(|rate| (rate * 1000.0) as u64);
        Sparkline::default()
            .data(data)
            .max(1000)
            .direction(RenderDirection::LeftToRight)
            .style(style)
            .render(Rect::new(x, y, width, 1), self.buffer);
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("[{}{}] {:>4}", "#".repeat(full), ".".repeat(BAR - full), percent(share))
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// `text` in at most `width` characters, its end kept: addresses differ there.
fn short(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(length + 1 - width)).collect()
}

/// The screen as plain lines.
pub(super) fn plain(screen: &Screen, width: u16) -> String {
    // More lines than are ever drawn, so that nothing is left out: those of a daemon and of each peer, and three per
    // daemon, since a third of the screen is for their list.
    let lines = |view: &View| 32 + 2 * view.peers.len() + view.decisions.len();
    let height = screen.daemons.iter().map(lines).max().unwrap_or(4) + 3 * screen.daemons.len();
    let area = Rect::new(0, 0, width, u16::try_from(height).unwrap_or(u16::MAX));
    let mut buffer = Buffer::empty(area);
    screen.render(area, &mut buffer);
    let line = |y| (0..area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    let text = (0..area.height).map(line).collect::<Vec<_>>().join("\n");
    format!("{}\n", text.trim_end())
}
