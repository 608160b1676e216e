//! How the subcommands speak to people: colours by what they mean, numbers with their units, and the one way to
//! standard output and standard error. Owns the rules: colours only where they are wanted (`NO_COLOR`,
//! `CLICOLOR_FORCE`, a pipe), and a reader that closes the pipe early (`| head`) is no error. It must never carry
//! meaning by colour alone.

use super::{CliError, grouped};
use anstyle::{AnsiColor, Style};
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Widest text for people: the terminal that every machine has.
pub(super) const COLUMNS: u16 = 80;

/// What a text means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Needs somebody to act.
    Bad,
    /// A heading, or what to look at first.
    Strong,
    /// Context.
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warn => AnsiColor::Yellow.on_default().bold(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Strong => Style::new().bold(),
            Tone::Faint => Style::new().dimmed(),
        }
    }
}

/// The colours of clap's help and errors.
pub(super) const CLAP: clap::builder::Styles = clap::builder::Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Green.on_default())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Green.on_default())
    .invalid(AnsiColor::Yellow.on_default());

/// `text` in the colour of its meaning; [`print`] takes the colour off again where none is wanted.
pub(super) fn paint(tone: Tone, text: &str) -> String {
    let style = tone.style();
    format!("{style}{text}{style:#}")
}

/// Writes `text` to standard output.
///
/// # Errors
/// It cannot be written; a reader that has gone is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::context("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Writes `value` to standard output as indented JSON.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Writes `value` to standard output as JSON on one line, for programs that read line by line.
///
/// # Errors
/// As [`print`].
pub(super) fn print_json_line(value: &impl serde::Serialize) -> Result<(), CliError> {
    print(&format!("{}\n", serde_json::to_string(value)?))
}

/// Writes `text` to standard error, after the program's name. A closed standard error is ignored.
pub(super) fn complain(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{} {text}", paint(Tone::Bad, "rudder:"));
}

/// Likewise, of what is worth a look but keeps nothing from being done.
pub(super) fn warn(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{} {text}", paint(Tone::Warn, "rudder:"));
}

/// Likewise, of what is good to know and no result.
pub(super) fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Says what the stage has to say.
pub(super) fn say(saying: rudder_stage::Saying, text: &str) {
    match saying {
        rudder_stage::Saying::Note => note(text),
        rudder_stage::Saying::Warning => warn(text),
        rudder_stage::Saying::Error => complain(text),
    }
}

/// Bytes with a binary unit: `3.8 MiB`.
pub(super) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count.max(0.0);
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A count of things with commas by thousands; fractions are rounded.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
pub(super) fn count(number: f64) -> String {
    grouped(number.max(0.0).round() as u64)
}

/// A short time with the unit that suits it: `640 µs`, `1.3 ms`, `2.1 s`.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        s if s < 999.5e-6 => format!("{:.0} µs", s * 1e6),
        s if s < 0.999_5 => format!("{:.1} ms", s * 1e3),
        s if s < 99.95 => format!("{s:.1} s"),
        s => span(s),
    }
}

/// A long time in its two largest units: `45 s`, `12 min 5 s`, `3 h 2 min`, `4 d 3 h`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {} s", whole % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent > 0.0 && percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// A count with its noun: `1 peer`, `2 peers`.
pub(super) fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Width of text for people: that of the terminal, if there is one and it is narrower than [`COLUMNS`].
pub(super) fn columns(out: impl AsFd) -> u16 {
    match rustix::termios::tcgetwinsize(out) {
        Ok(size) if size.ws_col > 0 => size.ws_col.min(COLUMNS),
        _ => COLUMNS,
    }
}

/// `text` in lines of at most `columns`, broken between words; a `%` stays with its number.
pub(super) fn wrapped(text: &str, columns: usize) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / columns.max(1));
    let mut used = 0;
    let text = text.replace(" %", "\u{a0}%");
    for word in text.split([' ', '\n']).filter(|word| !word.is_empty()) {
        let wide = word.chars().count();
        if used > 0 && used + 1 + wide > columns {
            out.push('\n');
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += wide;
    }
    out.replace('\u{a0}', " ")
}

/// What a terminal would show of `text` without colours.
#[cfg(test)]
pub(super) fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_unit_that_suits_them() {
        assert_eq!([bytes(0.0), bytes(1023.0), bytes(1023.99 * 1024.0)], ["0 B", "1023 B", "1.0 MiB"]);
        assert_eq!(
            [time(640e-6), time(0.001_34), time(2.08), time(400.0)],
            ["640 µs", "1.3 ms", "2.1 s", "6 min 40 s"]
        );
        assert_eq!([time(999.7e-6), time(0.999_7)], ["1.0 ms", "1.0 s"]);
        assert_eq!([span(59.9), span(10_920.0), span(356_400.0)], ["59 s", "3 h 2 min", "4 d 3 h"]);
        assert_eq!([percent(0.0), percent(0.004), percent(0.896), percent(1.0)], ["0 %", "0.4 %", "90 %", "100 %"]);
        assert_eq!(count(1_234_567.4), "1,234,567");
        assert_eq!([plural(1, "peer"), plural(2000, "peer")], ["1 peer", "2,000 peers"]);
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrapped("one two  three\nfour", 9), "one two\nthree\nfour");
        assert_eq!(wrapped("unbreakable it is", 4), "unbreakable\nit\nis");
        assert_eq!(wrapped("äöü äöü", 7), "äöü äöü");
        assert_eq!(wrapped("10.6 % of 99.9 %.", 8), "10.6 %\nof\n99.9 %.");
        assert_eq!([wrapped("", 80), wrapped("  ", 80), wrapped("a b", 0)], ["", "", "a\nb"]);
    }

    #[test]
    fn where_there_is_no_terminal_text_has_80_columns() {
        assert_eq!(columns(tempfile::tempfile().unwrap()), 80);
    }

    #[test]
    fn paint_is_only_paint() {
        let painted = paint(Tone::Bad, "down");
        assert!(painted.starts_with('\u{1b}') && painted.ends_with("\u{1b}[0m"), "{painted:?}");
        assert_eq!(plain(&painted), "down");
    }
}
