//! Shows on a terminal how far the demo is: first what is being prepared, then one bar over the steps of all runs. Owns
//! the looks of it. It must never show a bar before the number of steps is known, nor a line that is wider than the
//! terminal.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use rudder_demo::Watch;

/// While the graph is prepared: nobody knows how long that takes. `wide_msg` is cut to the room that is left.
const PREPARING: &str = "{spinner} {elapsed:>4}  {wide_msg}";
/// While trainers train.
const TRAINING: &str = "{percent:>3} % {bar:12} {left}{wide_msg}";
/// Likewise, where the bar would leave no room for words.
const NARROW: &str = "{percent:>3} % {wide_msg}";
/// Columns from which on a terminal has room for the bar.
const BAR_COLUMNS_MIN: u16 = 60;

/// The bar; on a terminal only.
pub(super) struct Bar {
    bar: ProgressBar,
    columns: u16,
}

impl Bar {
    /// A bar on standard error; `columns` are those of the terminal.
    pub(super) fn new(columns: u16) -> Self {
        Self::on(ProgressBar::new_spinner(), columns)
    }

    fn on(bar: ProgressBar, columns: u16) -> Self {
        bar.set_style(style(PREPARING));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, columns }
    }

    /// Takes the bar off the terminal.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// The templates are constants: a mistake in one falls back to the plain style.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()).with_key("left", left)
}

/// The time that is left, as soon as a step has told how long one takes.
fn left(state: &ProgressState, out: &mut dyn Write) {
    if state.pos() > 0 {
        // A write to the line cannot fail.
        let _ = write!(out, "{:#} left  ", HumanDuration(state.eta()));
    }
}

impl Watch for Bar {
    fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    fn steps(&self, total: u64) {
        self.bar.set_length(total.max(1));
        self.bar.set_position(0);
        self.bar.set_style(style(if self.columns < BAR_COLUMNS_MIN { NARROW } else { TRAINING }));
    }

    fn step(&self) {
        if self.bar.position() == 0 {
            // The start of the processes tells nothing about the time that a step takes.
            self.bar.reset_eta();
        }
        self.bar.inc(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal that remembers each line that was drawn.
    #[derive(Debug, Clone)]
    struct Paper {
        columns: u16,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            self.columns
        }
        fn move_cursor_up(&self, _n: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _n: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _n: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _n: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.lines.lock().unwrap().push(crate::style::plain(text).trim_end().to_owned());
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a terminal of this width shows of a demo with two runs of two steps each, line by line.
    fn drawn(columns: u16) -> Vec<String> {
        let paper = Paper { columns, lines: Arc::default() };
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(paper.clone()), 255);
        let bar = Bar::on(ProgressBar::with_draw_target(None, target), columns);
        let now = |text: &str| {
            bar.message(text.to_owned());
            bar.bar.force_draw();
        };
        now("partitioning 63,436 vertices by METIS");
        bar.steps(4);
        for run in ["run 1 of 2, policy none", "run 2 of 2, policy periodic, lookahead 65536, private"] {
            now(&format!("{run}: starting 2 daemons"));
            for step in 0..2 {
                bar.step();
                now(&format!("{run}: epoch {} of 2, loss 1.234", step + 1));
            }
        }
        bar.clear();
        let lines = paper.lines.lock().unwrap();
        lines.iter().filter(|line| !line.is_empty()).cloned().collect()
    }

    #[test]
    fn the_bar_begins_empty_and_fills_once() {
        let lines = drawn(80);
        let first = lines.iter().position(|line| line.contains(" % ")).unwrap();
        let said = "partitioning 63,436 vertices by METIS";
        assert!(lines[..first].iter().any(|line| line.contains(said)), "{lines:#?}");
        assert!(lines[..first].iter().all(|line| !line.contains(['█', '░', '/'])), "{lines:#?}");
        let percents = lines.iter().filter_map(|line| line.split_once(" % ")?.0.trim().parse::<u32>().ok());
        let mut percents: Vec<u32> = percents.collect();
        assert!(percents.is_sorted(), "{lines:#?}");
        percents.dedup();
        assert_eq!(percents, [0, 25, 50, 75, 100]);
        let empty = lines.iter().find(|line| line.contains("run 1 of 2, policy none: starting")).unwrap();
        assert!(empty.starts_with("  0 % ░") && !empty.contains('█') && !empty.contains("left"), "{empty}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in [40, 59, 60, 80, 200] {
            let lines = drawn(columns);
            let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= usize::from(columns), "{columns}: {lines:#?}");
            assert_eq!(lines.iter().any(|line| line.contains('░')), columns >= 60, "{columns}: {lines:#?}");
        }
    }
}
