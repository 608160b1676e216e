//! What bounds lookahead: section `[lookahead]` of the configuration. It owns the defaults and the limits of these
//! settings, alone and together. It never repairs a value.

use rudder_settings::{Verdict, WAIT_MS, within, wrong};
use serde::{Deserialize, Serialize};

/// Section `[lookahead]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Batches assembled ahead of their use, outside the cache.
    pub depth: u32,
    /// Batches that trainers shall announce ahead; 0 = `horizon_factor` times the batches that fit into the cache.
    pub horizon: u32,
    /// Batches announced ahead per batch that fits into the cache, where `horizon` is 0. With 4·C/R announced
    /// batches, of C slots and R remote rows per batch, Belady's choice inside the horizon gives 94% to 99.9% of the
    /// optimum's hits, with 8·C/R nearly all of them (measured; see `docs/replay.md`).
    pub horizon_factor: f64,
    /// Most batches that trainers are asked to announce, where `horizon` is 0.
    pub horizon_max: u32,
    /// Rows that may be brought in ahead per batch, as a share of the remote rows of a mean batch.
    pub budget: f64,
    /// Announced rows that may wait per table, over all trainers.
    pub rows_max: usize,
    /// Time after which an announcement that did not come true is dropped, in milliseconds.
    pub expire_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            depth: 2,
            horizon: 0,
            horizon_factor: 4.0,
            horizon_max: 256,
            budget: 0.75,
            rows_max: 64_000_000,
            expire_ms: 60_000,
        }
    }
}

impl Settings {
    /// Checks each limit, and those that belong together.
    ///
    /// # Errors
    /// The first key that makes no sense, as `lookahead.KEY`.
    pub fn check(&self) -> Verdict {
        within("lookahead.depth", self.depth, 1..=64)?;
        within("lookahead.horizon", self.horizon, 0..=65_536)?;
        if !(self.horizon_factor >= 0.1 && self.horizon_factor <= 64.0) {
            return wrong("lookahead.horizon_factor", self.horizon_factor, "not from 0.1 to 64", "write 4, or 8");
        }
        within("lookahead.horizon_max", self.horizon_max, 1..=65_536)?;
        within("lookahead.rows_max", self.rows_max, 1..=1 << 34)?;
        within("lookahead.expire_ms", self.expire_ms, WAIT_MS)?;
        if !(self.budget > 0.0 && self.budget <= 16.0) {
            let remedy = "write a share of a batch, such as 0.75";
            return wrong("lookahead.budget", self.budget, "not above 0 and at most 16", remedy);
        }
        self.check_together()
    }

    fn check_together(&self) -> Verdict {
        let Self { depth, horizon, horizon_max, rows_max, .. } = *self;
        let (key, batches) = match horizon {
            0 => ("lookahead.horizon_max", horizon_max),
            fixed => ("lookahead.horizon", fixed),
        };
        if batches < depth {
            let problem = format!("below lookahead.depth = {depth}: batches that are not announced cannot be prepared");
            return wrong(key, batches, problem, "write more, or a smaller lookahead.depth");
        }
        if rows_max < depth as usize {
            let problem = format!("lookahead.depth = {depth} batches of one row do not fit");
            return wrong("lookahead.rows_max", rows_max, problem, "write some hundred batches' rows");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_belong_together_are_checked_together() {
        let key = |settings: Settings| settings.check().unwrap_err().key;
        assert!(Settings::default().check().is_ok());
        assert_eq!(key(Settings { depth: 8, horizon_max: 7, ..Settings::default() }), "lookahead.horizon_max");
        assert_eq!(key(Settings { depth: 8, horizon: 7, ..Settings::default() }), "lookahead.horizon");
        assert_eq!(key(Settings { rows_max: 1, ..Settings::default() }), "lookahead.rows_max");
        assert_eq!(key(Settings { budget: 0.0, ..Settings::default() }), "lookahead.budget");
        assert_eq!(key(Settings { horizon_factor: f64::NAN, ..Settings::default() }), "lookahead.horizon_factor");
        let fixed = Settings { depth: 8, horizon: 8, horizon_max: 1, ..Settings::default() };
        assert!(fixed.check().is_ok(), "a fixed horizon asks nothing of horizon_max");
    }
}
