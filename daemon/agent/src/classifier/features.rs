//! What a classifier sees of a [`View`]: the paper's features (batch, partition and buffer sizes, interval, evicted
//! rows, hit rate, fetch time, candidates) as shares, so that a model of one graph makes sense on another. Owns their
//! names and meaning; a change here is a change of the model file's format.

use crate::controller::View;
use crate::rules::FULL;
use crate::snapshot::Snapshot;

/// Number of features.
pub const COUNT: usize = 18;

/// The features of one window.
pub type Features = [f64; COUNT];

/// Their names, in order.
pub const NAMES: [&str; COUNT] = [
    "hit_rate",
    "hit_rate_trend",
    "network_share",
    "stall_share",
    "fullness",
    "headroom",
    "cold_share",
    "hotter_absent_per_resident",
    "evicted_per_remote_row",
    "fills_per_remote_row",
    "log_minibatch_per_slot",
    "log_windows",
    "log_epochs",
    "epoch_phase",
    "stale_share",
    "shifted",
    "windows_since_replacement",
    "last_hit_rate_change",
];

/// Windows beyond which a replacement counts as long ago; within the history that controllers are shown.
const LONG_AGO: u64 = 12;

/// Largest magnitude of a feature: a broken counter must not drown the others.
const LARGEST: f64 = 100.0;

/// The features of the window that ended, given the decisions before it.
#[must_use]
pub fn features(view: View<'_>) -> Features {
    let now = view.now;
    let per = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let minibatch = per(now.remote_rows, now.minibatches);
    let last = view.past.last().and_then(|past| past.effect);
    let values = [
        now.hit_rate.unwrap_or(0.0),
        now.hit_rate_trend,
        now.network_share(),
        now.stall_share,
        now.fullness(),
        headroom(now),
        now.cold_share,
        per(now.hotter_absent_rows, now.cached_rows),
        per(now.evicted_rows, now.remote_rows),
        per(now.fill_rows, now.remote_rows),
        (minibatch / now.capacity_rows.max(1) as f64).ln_1p(),
        (now.window as f64).ln_1p(),
        now.epochs.max(0.0).ln_1p(),
        now.epochs.fract(),
        per(now.stale_rows, now.cached_rows),
        f64::from(u8::from(now.shifted)),
        view.windows_since("evict").min(LONG_AGO) as f64 / LONG_AGO as f64,
        last.map_or(0.0, |effect| effect.hit_rate.1 - effect.hit_rate.0),
    ];
    values.map(|value| if value.is_finite() { value.clamp(-LARGEST, LARGEST) } else { 0.0 })
}

/// Share of the ceiling that is not used yet.
fn headroom(now: &Snapshot) -> f64 {
    if now.ceiling_rows == 0 { 0.0 } else { (1.0 - now.capacity_rows as f64 / now.ceiling_rows as f64).max(0.0) }
}

/// Whether growing is a choice: the cache is full and may be larger.
#[must_use]
pub fn may_grow(now: &Snapshot) -> bool {
    now.fullness() >= FULL && now.capacity_rows < now.ceiling_rows
}

/// Whether replacing is a choice: there are candidates, and the window does not show what the replacement before it
/// did.
#[must_use]
pub fn may_replace(view: View<'_>) -> bool {
    view.now.hotter_absent_rows > 0 && view.windows_since("evict") > 1
}
