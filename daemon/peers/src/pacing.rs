//! Bulk that yields on the network: while an owner sends nothing that a trainer waits for, it keeps no more bytes on
//! their way than fill the path and a queue of `peers.bulk_queue_ms`, so that the trainers' own traffic finds short
//! queues. Owns how many bytes that is; time is an argument. It must never slow down an answer that a trainer waits
//! for: those have quinn's Cubic alone, as all answers have where the key is 0.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// Fewest packets on their way: below it, acknowledgements would no longer keep packets coming.
const PACKETS_MIN: u64 = 4;

/// How much of the way up to the right number of bytes is gone in one round trip; the way down is gone at once.
const STEP_UP: f64 = 0.5;

/// Bounds on the ratio of the wished round trip to the measured one that are believed at once.
const RATIO: std::ops::RangeInclusive<f64> = 0.25..=3.0;

/// How far above Cubic's window its own may lie. Without a bound it would grow while Cubic alone keeps the queue short,
/// and take many round trips to come down.
const ABOVE_CUBIC: f64 = 2.0;

/// What is left of the window after a loss.
const LOSS_SCALE: f64 = 0.7;

/// A round trip without a queue is believed for one to two times this long.
const BASE_KEPT: Duration = Duration::from_secs(10);

/// How often the queue is let run empty, to measure the round trip without it.
const DRAIN_EVERY: Duration = Duration::from_secs(5);

/// What a connection's answers and its controller tell each other.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Answers that a trainer waits for.
    urgent: AtomicUsize,
    queue_us: AtomicU64,
}

/// While it lives, the connection is not held back.
#[derive(Debug)]
pub(crate) struct Urgent(Arc<Pace>);

impl Pace {
    /// That of a connection whose controller is a [`Yielding`].
    pub(crate) fn of(connection: &quinn::Connection) -> Option<Arc<Self>> {
        let controller = connection.congestion_state().into_any().downcast::<Yielding>();
        controller.ok().map(|yielding| Arc::clone(&yielding.pace))
    }

    /// An answer that must not be held back begins.
    pub(crate) fn urgent(self: &Arc<Self>) -> Urgent {
        self.urgent.fetch_add(1, Ordering::AcqRel);
        Urgent(Arc::clone(self))
    }

    /// How long packets waited on their way, when that was last measured.
    pub(crate) fn queue(&self) -> Duration {
        Duration::from_micros(self.queue_us.load(Ordering::Relaxed))
    }

    fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire) > 0
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The least round trip of a while: what the path takes without a queue.
#[derive(Debug, Clone, Copy)]
struct Base {
    /// When the running span began, the least of it, and that of the span before.
    since: Instant,
    least: Duration,
    before: Duration,
}

impl Base {
    fn note(&mut self, now: Instant, sample: Duration) {
        if now.saturating_duration_since(self.since) >= BASE_KEPT {
            *self = Self { since: now, least: sample, before: self.least };
        }
        self.least = self.least.min(sample);
    }

    fn rtt(&self) -> Duration {
        self.least.min(self.before)
    }
}

/// The round trip that is being measured: of the packets that are sent from its beginning until the first of them is
/// acknowledged.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    /// When the first of its packets was acknowledged.
    heard: Option<Instant>,
    /// Least time of its packets. A peer may keep one acknowledgement back, and a busy processor, but not all.
    least: Duration,
    /// Whether more would have been sent, had the window allowed it.
    was_limited: bool,
    /// Whether the queue is let run empty.
    drains: bool,
    lost: bool,
}

impl Round {
    fn new(began: Instant) -> Self {
        Self { began, heard: None, least: Duration::MAX, was_limited: false, drains: false, lost: false }
    }
}

/// How many bytes may be on their way so that they wait about `target` in queues.
#[derive(Debug, Clone)]
pub(crate) struct Scavenger {
    target: Duration,
    packet_bytes: u64,
    window: f64,
    base: Option<Base>,
    round: Round,
    drained: Instant,
    queue: Duration,
}

impl Scavenger {
    pub(crate) fn new(now: Instant, target: Duration, packet_bytes: u64, window: u64) -> Self {
        let (base, round, queue) = (None, Round::new(now), Duration::ZERO);
        Self { target, packet_bytes, window: window as f64, base, round, drained: now, queue }
    }

    /// Bytes that may be on their way.
    pub(crate) fn window(&self) -> u64 {
        let base = self.base.map_or(Duration::ZERO, |base| base.rtt());
        // Half of what the path holds is on its way while the queue is let run empty.
        let share = match self.round.drains {
            true => base.as_secs_f64() / (base + self.target).as_secs_f64() / 2.0,
            false => 1.0,
        };
        ((self.window * share) as u64).max(PACKETS_MIN * self.packet_bytes)
    }

    /// The acknowledgement of a packet came that was sent at `sent`. `is_limited` if the window keeps packets back.
    pub(crate) fn acknowledged(&mut self, now: Instant, sent: Instant, is_limited: bool) {
        let sample = now.saturating_duration_since(sent);
        // What arrives together has one time: another thread may have sent after it. That says nothing of the path.
        if sample.is_zero() {
            return;
        }
        let base = self.base.get_or_insert(Base { since: now, least: sample, before: sample });
        base.note(now, sample);
        self.round.was_limited |= is_limited;
        let base = base.rtt();
        // Of a packet that was sent before, the queue of then would be known.
        if sent < self.round.began {
            return;
        }
        if sent < *self.round.heard.get_or_insert(now) {
            self.round.least = self.round.least.min(sample);
        } else {
            self.end_round(now, base);
        }
    }

    /// Another window lets at most `bytes` be on their way.
    pub(crate) fn bound(&mut self, bytes: u64) {
        self.window = self.window.min(bytes as f64 * ABOVE_CUBIC);
    }

    /// A packet was lost.
    pub(crate) fn lost(&mut self) {
        if !std::mem::replace(&mut self.round.lost, true) {
            self.window *= LOSS_SCALE;
        }
    }

    fn end_round(&mut self, now: Instant, base: Duration) {
        let Round { least, was_limited, drains, .. } = self.round;
        self.round = Round::new(now);
        self.queue = least.saturating_sub(base);
        if drains {
            self.drained = now;
            return;
        }
        if !was_limited {
            return;
        }
        let wished = (base + self.target).as_secs_f64() / least.as_secs_f64().max(1e-6);
        let wished = wished.clamp(*RATIO.start(), *RATIO.end());
        let factor = if wished > 1.0 { 1.0 + STEP_UP * (wished - 1.0) } else { wished };
        // The packet more lets the smaller of two that share a path catch up.
        let window = self.window * factor + self.packet_bytes as f64;
        self.window = window.clamp((PACKETS_MIN * self.packet_bytes) as f64, f64::from(u32::MAX));
        self.round.drains = now.saturating_duration_since(self.drained) >= DRAIN_EVERY;
    }
}

/// Cubic, held down to what a [`Scavenger`] allows while no answer of the connection is urgent.
#[derive(Clone)]
pub(crate) struct Yielding {
    cubic: Cubic,
    scavenger: Scavenger,
    pace: Arc<Pace>,
}

/// Makes a [`Yielding`] for each connection.
#[derive(Debug)]
pub(crate) struct YieldingFactory {
    /// How long packets may wait in queues.
    pub(crate) target: Duration,
}

impl ControllerFactory for YieldingFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::new(CubicConfig::default()), now, current_mtu);
        let scavenger = Scavenger::new(now, self.target, u64::from(current_mtu), cubic.initial_window());
        Box::new(Yielding { cubic, scavenger, pace: Arc::default() })
    }
}

impl Yielding {
    fn is_held_back(&self) -> bool {
        !self.pace.is_urgent() && self.scavenger.window() < self.cubic.window()
    }
}

impl Controller for Yielding {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        // Cubic grows by what its own window has let through.
        self.cubic.on_ack(now, sent, bytes, app_limited || self.is_held_back(), rtt);
        if !self.pace.is_urgent() {
            self.scavenger.acknowledged(now, sent, !app_limited);
            self.scavenger.bound(self.cubic.window());
            self.pace.queue_us.store(self.scavenger.queue.as_micros() as u64, Ordering::Relaxed);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        self.scavenger.lost();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
        self.scavenger.packet_bytes = u64::from(new_mtu);
    }

    fn window(&self) -> u64 {
        let cubic = self.cubic.window();
        if self.pace.is_urgent() { cubic } else { cubic.min(self.scavenger.window()) }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BinaryHeap;

    const PACKET: u64 = 1452;
    const TARGET: Duration = Duration::from_millis(5);

    /// One bottleneck: packets of all flows wait in line, then travel.
    struct Link {
        bytes_per_s: f64,
        base: Duration,
        begin: Instant,
        /// When the last packet in the queue will have left it.
        free: Instant,
    }

    impl Link {
        fn new(bytes_per_s: f64, base: Duration) -> Self {
            let begin = Instant::now();
            Self { bytes_per_s, base, begin, free: begin }
        }

        fn queue(&self, now: Instant) -> Duration {
            self.free.saturating_duration_since(now)
        }

        /// Takes `bytes` at `now`; when they have left the queue.
        fn take(&mut self, now: Instant, bytes: u64) -> Instant {
            self.free = self.free.max(now) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
            self.free
        }
    }

    struct Flow {
        scavenger: Scavenger,
        /// From when on it has something to send, and until when.
        active: std::ops::Range<Duration>,
        /// What else bounds the bytes on their way.
        other_window: u64,
        is_limited: bool,
        in_flight: u64,
        /// Since half of the time.
        delivered: u64,
    }

    fn flow(link: &Link, active: std::ops::Range<u64>) -> Flow {
        let scavenger = Scavenger::new(link.begin, TARGET, PACKET, 10 * PACKET);
        let active = Duration::from_secs(active.start)..Duration::from_secs(active.end);
        Flow { scavenger, active, other_window: u64::MAX, is_limited: false, in_flight: 0, delivered: 0 }
    }

    /// Lets all flows send for `seconds`, beside other traffic that takes a share of the link after half of the time.
    /// Answers the mean queue of the second half.
    fn run(link: &mut Link, flows: &mut [Flow], seconds: u64, other_share: f64) -> Duration {
        let (length, tick) = (Duration::from_secs(seconds), Duration::from_micros(100));
        // By time of arrival, earliest first: then flow, and when the packet was sent.
        let mut arrivals = BinaryHeap::new();
        let (mut queues, mut looks, mut other) = (Duration::ZERO, 0, 0.0);
        let mut at = Duration::ZERO;
        while at < length {
            let now = link.begin + at;
            while let Some(std::cmp::Reverse((arrival, nth, sent))) = arrivals.peek().copied()
                && arrival <= now
            {
                arrivals.pop();
                let flow: &mut Flow = &mut flows[nth];
                flow.in_flight -= PACKET;
                flow.scavenger.acknowledged(arrival, sent, flow.is_limited);
                flow.scavenger.bound(flow.other_window);
                flow.delivered += if at >= length / 2 { PACKET } else { 0 };
            }
            if at >= length / 2 {
                other += other_share * link.bytes_per_s * tick.as_secs_f64();
                while other >= PACKET as f64 {
                    other -= PACKET as f64;
                    link.take(now, PACKET);
                }
                queues += link.queue(now);
                looks += 1;
            }
            for (nth, flow) in flows.iter_mut().enumerate() {
                // No more than a poll sends, so that flows take turns.
                flow.is_limited = false;
                for _ in 0..40 {
                    if !flow.active.contains(&at) {
                        break;
                    }
                    if flow.in_flight + PACKET > flow.scavenger.window().min(flow.other_window) {
                        flow.is_limited = true;
                        break;
                    }
                    flow.in_flight += PACKET;
                    arrivals.push(std::cmp::Reverse((link.take(now, PACKET) + link.base, nth, now)));
                }
            }
            at += tick;
        }
        queues / looks
    }

    fn rate(flow: &Flow, seconds: u64) -> f64 {
        flow.delivered as f64 / (seconds as f64 / 2.0)
    }

    const MBIT_100: f64 = 100e6 / 8.0;
    const FAR: Duration = Duration::from_millis(20);
    const NEAR: Duration = Duration::from_micros(300);

    #[test]
    fn alone_it_fills_the_link_with_a_short_queue() {
        for (base, bytes_per_s) in [(NEAR, MBIT_100), (FAR, MBIT_100), (NEAR, 10.0 * MBIT_100), (NEAR, MBIT_100 / 10.0)]
        {
            let mut link = Link::new(bytes_per_s, base);
            let mut flows = [flow(&link, 0..60)];
            let queue = run(&mut link, &mut flows, 60, 0.0);
            let share = rate(&flows[0], 60) / bytes_per_s;
            assert!(share > 0.95, "{share} of {bytes_per_s} at {base:?}");
            let packets = Duration::from_secs_f64(2.0 * PACKET as f64 / bytes_per_s);
            assert!(queue < 2 * TARGET + packets, "{queue:?} at {bytes_per_s} and {base:?}");
        }
    }

    #[test]
    fn it_takes_what_other_traffic_leaves() {
        let mut link = Link::new(MBIT_100, NEAR);
        let mut flows = [flow(&link, 0..40)];
        let queue = run(&mut link, &mut flows, 40, 0.7);
        let share = rate(&flows[0], 40) / MBIT_100;
        assert!((0.2..0.31).contains(&share), "{share} of the link");
        assert!(queue < 2 * TARGET, "{queue:?}");
    }

    #[test]
    fn it_all_but_ends_where_others_fill_the_queue() {
        let mut link = Link::new(MBIT_100, NEAR);
        let mut flows = [flow(&link, 0..20)];
        run(&mut link, &mut flows, 20, 1.02);
        assert!(flows[0].scavenger.window() <= 2 * PACKETS_MIN * PACKET, "{}", flows[0].scavenger.window());
        assert!(flows[0].delivered > 0, "it must not end altogether");
    }

    #[test]
    fn who_comes_later_finds_its_share_and_the_queue_stays_short() {
        let mut link = Link::new(MBIT_100, NEAR);
        let mut flows = [flow(&link, 0..80), flow(&link, 10..80)];
        let queue = run(&mut link, &mut flows, 80, 0.0);
        let shares = flows.each_ref().map(|flow| rate(flow, 80) / MBIT_100);
        assert!(shares.iter().all(|share| *share > 0.2) && shares.iter().sum::<f64>() > 0.95, "{shares:?}");
        assert!(queue < 3 * TARGET, "{queue:?}");
    }

    #[test]
    fn a_window_that_is_far_too_large_comes_down_within_a_few_round_trips() {
        let mut link = Link::new(MBIT_100, NEAR);
        let mut flows = [flow(&link, 0..1)];
        flows[0].scavenger.window = 600e3;
        let queue = run(&mut link, &mut flows, 1, 0.0);
        assert!(queue < 2 * TARGET, "{queue:?} in the second half of a second");
    }

    #[test]
    fn a_longer_path_is_learned() {
        let mut link = Link::new(MBIT_100, NEAR);
        let mut flows = [flow(&link, 0..30)];
        run(&mut link, &mut flows, 30, 0.0);
        let mut scavenger = flows[0].scavenger.clone();
        (link.begin, link.base) = (link.begin + Duration::from_secs(31), FAR);
        let mut longer = flow(&link, 0..80);
        std::mem::swap(&mut longer.scavenger, &mut scavenger);
        let mut flows = [longer];
        run(&mut link, &mut flows, 80, 0.0);
        assert!(rate(&flows[0], 80) > 0.9 * MBIT_100, "{}", rate(&flows[0], 80) / MBIT_100);
    }

    #[test]
    fn a_sender_with_little_to_send_keeps_its_window_and_a_loss_shrinks_it_once_a_round() {
        let begin = Instant::now();
        let mut scavenger = Scavenger::new(begin, TARGET, PACKET, 100 * PACKET);
        for ms in 1..200 {
            let now = begin + Duration::from_millis(30 * ms);
            // Acknowledgements that the peer has kept back.
            scavenger.acknowledged(now, now - Duration::from_millis(25), false);
        }
        assert_eq!(scavenger.window(), 100 * PACKET);
        scavenger.lost();
        scavenger.lost();
        assert_eq!(scavenger.window(), 70 * PACKET);
    }

    #[test]
    fn the_window_does_not_grow_while_another_keeps_the_queue_short() {
        let mut link = Link::new(MBIT_100, NEAR);
        let mut flows = [flow(&link, 0..10)];
        // What Cubic does after losses: half of what the path holds.
        flows[0].other_window = 2 * PACKET;
        run(&mut link, &mut flows, 10, 0.0);
        assert!(flows[0].scavenger.window() <= PACKETS_MIN * PACKET, "{}", flows[0].scavenger.window());
    }

    #[test]
    fn an_urgent_answer_is_not_held_back() {
        let factory = Arc::new(YieldingFactory { target: TARGET });
        let mut controller = factory.build(Instant::now(), PACKET as u16).into_any().downcast::<Yielding>().unwrap();
        controller.scavenger.window = 0.0;
        let cubic = controller.cubic.window();
        assert_eq!(controller.window(), PACKETS_MIN * PACKET);
        let urgent = [controller.pace.urgent(), controller.pace.urgent()];
        assert_eq!(controller.window(), cubic);
        drop(urgent);
        assert_eq!(controller.window(), PACKETS_MIN * PACKET);
    }
}
