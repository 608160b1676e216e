//! What is done to a table's cache from outside, while it serves: another capacity, rows thrown out or overwritten,
//! and the survey of what would be worth bringing in. It owns the order of those changes and must never hold the
//! writer lock longer than a piece of work takes: trainers do not wait for it, but what they are owed does.

use super::heat::Heat;
use super::policy::{Move, Replacement, Scorer};
use super::slab;
use super::slots::Slot;
use super::table_cache::{TableCache, Writer};
use std::sync::atomic::Ordering;

/// Slots that change hands under one hold of the writer lock.
const PIECE_SLOTS: usize = 2048;

/// Slots looked at under one hold of the writer lock.
const WALK_SLOTS: u32 = 65_536;

/// Memory given back to the kernel at once.
const GIVE_BACK_BYTES: usize = 64 << 20;

/// What a change of the capacity did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resized {
    /// Rows that might be held before.
    pub before_rows: usize,
    /// Rows that may be held now.
    pub after_rows: usize,
    /// Rows that lost their slot.
    pub dropped_rows: usize,
    /// Rows that were moved to a lower slot so that memory could be given back.
    pub moved_rows: usize,
}

/// Rows worth bringing in, and what for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// Absent ids, the hottest first: first those for free slots, then those that each beat a resident.
    pub bring_in: Vec<u64>,
    /// Share of the residents that are not expected again soon.
    pub cold_share: f64,
    /// Share of the residents that are not expected again in the running epoch.
    pub spent_share: f64,
}

/// How much the residents are worth, and what might take their place.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weighed {
    /// Share of the residents that are not expected again within an epoch from now.
    pub cold_share: f64,
    /// Share of the residents that are not expected again before the running epoch ends.
    pub spent_share: f64,
    /// Absent rows that are each hotter than a resident and worth a request.
    pub hotter_absent_rows: usize,
}

/// The `keep` best of many, by an order, in memory for twice `keep`.
struct Best<F: Fn(&(f32, u32), &(f32, u32)) -> std::cmp::Ordering> {
    keep: usize,
    best: Vec<(f32, u32)>,
    order: F,
}

impl<F: Fn(&(f32, u32), &(f32, u32)) -> std::cmp::Ordering> Best<F> {
    fn new(keep: usize, order: F) -> Self {
        Self { keep, best: Vec::new(), order }
    }

    fn push(&mut self, scored: (f32, u32)) {
        if self.keep == 0 {
            return;
        }
        self.best.push(scored);
        if self.best.len() >= 2 * self.keep + 1024 {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        if self.best.len() > self.keep && self.keep > 0 {
            self.best.select_nth_unstable_by(self.keep - 1, &self.order);
            self.best.truncate(self.keep);
        }
    }

    fn sorted(mut self) -> Vec<(f32, u32)> {
        self.shorten();
        self.best.sort_unstable_by(&self.order);
        self.best
    }
}

fn hottest_first(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn coldest_first(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

impl TableCache {
    /// Lets the cache hold `rows` rows from now on, at most its ceiling. Growing copies nothing; shrinking drops the
    /// rows the policy values least, moves the others down and gives the memory above them back.
    pub fn resize(&self, rows: usize) -> Resized {
        let _alone = self.resizing.lock();
        let rows = rows.min(self.spec().ceiling_rows);
        let (before_rows, span) = {
            let mut writer = self.lock();
            let before = writer.slots.capacity();
            writer.slots.set_capacity(rows);
            if let Some((policy, mut ledger)) = writer.parts(&self.index) {
                policy.resized(&mut ledger);
            }
            self.publish_sizes(&writer);
            (before, writer.slots.span())
        };
        let dropped_rows = self.drop_coldest(rows);
        let moved_rows = self.compact();
        if (span as usize) > rows {
            self.give_back(rows as u32, span);
        }
        Resized { before_rows, after_rows: rows, dropped_rows, moved_rows }
    }

    /// Drops rows until at most `rows` are held.
    fn drop_coldest(&self, rows: usize) -> usize {
        let mut dropped = 0;
        // Rows that a trainer has announced go only when no others are left.
        for spare_announced in [true, false] {
            let excess = (self.used_rows() as usize).saturating_sub(rows);
            for ids in self.coldest(excess).chunks(PIECE_SLOTS) {
                let mut writer = self.lock();
                for &id in ids {
                    let Some(slot) = self.index.slot(id) else { continue };
                    let announced = writer.future.next_use(slot).is_some();
                    if writer.slots.used() > rows && !(spare_announced && announced) {
                        dropped += usize::from(writer.release(&self.index, slot).is_some());
                    }
                }
                self.publish_sizes(&writer);
            }
        }
        while self.used_rows() as usize > rows {
            let mut writer = self.lock();
            dropped += self.give_up_piece(&mut writer, rows);
            self.publish_sizes(&writer);
        }
        self.stats.shrunk_rows.fetch_add(dropped as u64, Ordering::Relaxed);
        dropped
    }

    fn give_up_piece(&self, writer: &mut Writer, rows: usize) -> usize {
        let mut dropped = 0;
        while writer.slots.used() > rows && dropped < PIECE_SLOTS {
            let chosen = writer.parts(&self.index).and_then(|(policy, mut ledger)| policy.give_up(&mut ledger));
            // A policy that names a slot without a row, or none, leaves it to the highest.
            let slot = chosen.filter(|&slot| writer.slots.id(slot).is_some());
            let Some(slot) = slot.or_else(|| writer.slots.residents().last().map(|(slot, _)| slot)) else { break };
            dropped += usize::from(writer.release(&self.index, slot).is_some());
        }
        dropped
    }

    /// The `count` coldest residents, the coldest first; none if the policy has no scores.
    fn coldest(&self, count: usize) -> Vec<u32> {
        let mut coldest = Best::new(count, coldest_first);
        if count > 0
            && let Some(scorer) = self.scorer()
        {
            self.walk(|heat, id, cached| {
                if cached {
                    coldest.push((scorer.score(heat), id));
                }
            });
        }
        coldest.sorted().into_iter().map(|(_, id)| id).collect()
    }

    /// Moves residents into lower free slots until no free slot lies below them.
    fn compact(&self) -> usize {
        let mut moved = 0;
        loop {
            let mut guard = self.lock();
            let writer = &mut *guard;
            let mut moves = Vec::new();
            // Only a cache over its capacity needs its high slots emptied; holes below it are filled by newcomers.
            while moves.len() < PIECE_SLOTS && writer.slots.span() as usize > writer.slots.capacity() {
                let Some(step) = writer.slots.compact() else { break };
                moves.push(step);
            }
            if moves.is_empty() {
                return moved;
            }
            let places: Vec<(Slot, Slot)> = moves.iter().map(|&(_, from, to)| (from, to)).collect();
            slab::relocate(&self.slab, &self.readers, &places);
            for (id, from, to) in moves {
                self.index.set_slot(id, to, &mut writer.touched);
                let step = writer.future.next_use(from);
                if writer.future.is_covering() {
                    writer.future.set_next_use(from, None);
                    writer.future.occupied(to, step);
                }
                if let Some((policy, mut ledger)) = writer.parts(&self.index) {
                    policy.moved(&mut ledger, id, Move { from, to });
                }
                moved += 1;
            }
        }
    }

    /// Gives the memory of slots `from..end` back; the capacity is at most `from`, and stays there meanwhile.
    fn give_back(&self, from: u32, end: u32) {
        let piece = (GIVE_BACK_BYTES / self.slot_bytes().max(1)).max(1) as u32;
        for first in (from..end).step_by(piece as usize) {
            // The kernel refuses nothing here but what it cannot do; rows are gone either way.
            let _ = slab::give_back(&self.slab, &self.readers, Slot(first), Slot(end.min(first.saturating_add(piece))));
        }
    }

    fn scorer(&self) -> Option<Scorer> {
        self.lock().policy.as_ref()?.scorer()
    }

    /// Visits every id that has heat or a slot, with its heat and whether it is cached. Takes no lock while it walks.
    fn walk(&self, mut see: impl FnMut(Heat, u32, bool)) {
        let blocks = self.lock().touched.blocks();
        self.index.each(&blocks, |id, heat, slot| see(heat, id, slot.is_some()));
    }

    /// What would be worth bringing in: the hottest absent rows for at most `free` free slots, and such as beat one
    /// of the
    /// `turnover` coldest residents each. Nothing if the policy keeps no record of absent rows.
    #[must_use]
    pub fn survey(&self, free: usize, turnover: usize) -> Survey {
        let Some(scorer) = self.scorer() else { return Survey::default() };
        let (mut cold, mut hot) = (Best::new(turnover, coldest_first), Best::new(free + turnover, hottest_first));
        let worth = scorer.worth_fetching();
        let (mut cold_residents, mut spent_residents, mut residents) = (0usize, 0usize, 0usize);
        self.walk(|heat, id, cached| {
            let score = scorer.score(heat);
            if cached {
                residents += 1;
                cold_residents += usize::from(score < scorer.cold_below());
                spent_residents += usize::from(scorer.is_spent(heat));
                cold.push((score, id));
            } else if score >= worth {
                hot.push((score, id));
            }
        });
        let (cold, hot) = (cold.sorted(), hot.sorted());
        let for_free_slots = free.min(hot.len());
        let rivals = hot[for_free_slots..].iter().zip(&cold);
        let swaps = rivals.take_while(|(newcomer, resident)| newcomer.0 > resident.0).count();
        Survey {
            bring_in: self.ids_of(hot[..for_free_slots + swaps].iter().map(|&(_, id)| id).collect()),
            cold_share: cold_residents as f64 / residents.max(1) as f64,
            spent_share: spent_residents as f64 / residents.max(1) as f64,
        }
    }

    /// What is worth bringing in for at most `free` free slots and in place of at most `turnover` residents: by
    /// scores, or by the plan of a policy that plans. Nothing if the policy keeps no record of absent rows.
    #[must_use]
    pub fn worth_bringing(&self, free: usize, turnover: usize) -> Vec<u64> {
        if self.scorer().is_some() {
            return self.survey(free, turnover).bring_in;
        }
        let mut planned = self.replace_now();
        planned.truncate(free + turnover);
        planned
    }

    /// Weighs residents and absent rows; zeros if the policy keeps no such record. Looks at every id that is hot at
    /// all.
    #[must_use]
    pub fn weigh(&self) -> Weighed {
        let Survey { bring_in, cold_share, spent_share } = self.survey(0, self.used_rows() as usize);
        Weighed { cold_share, spent_share, hotter_absent_rows: bring_in.len() }
    }

    /// Has the policy replace what it finds stale now, if it is one that replaces by plan. Answers what to bring in.
    #[must_use]
    pub fn replace_now(&self) -> Vec<u64> {
        let mut writer = self.lock();
        let Some((policy, mut ledger)) = writer.parts(&self.index) else { return Vec::new() };
        policy.decide(Replacement::Replace);
        let wanted = policy.replace_now(&mut ledger);
        self.ids_of(wanted)
    }

    /// Lets the policy keep its residents until the next decision, if it is one that acts on decisions.
    pub fn hold(&self) {
        self.decide(Replacement::Hold);
    }

    /// Drops what the policy has learned, because accesses have changed.
    pub fn forget(&self) {
        let mut writer = self.lock();
        if let Some((policy, mut ledger)) = writer.parts(&self.index) {
            policy.forget(&mut ledger);
        }
    }

    /// Overwrites the rows of those of `ids` that are cached: `row(i)` is the row of `ids[i]`, or nothing where it
    /// may not be kept; it is asked under the writer lock. Readers see the old row, no row, or the new row. Answers
    /// how many.
    pub fn renew<'r>(&self, ids: &[u64], row: impl Fn(usize) -> Option<&'r [u8]>) -> usize {
        let mut writer = self.lock();
        let found = |(at, &id): (usize, &u64)| {
            let number = self.index.number(id)?;
            Some((number, self.index.slot(number)?, row(at)?))
        };
        let rows: Vec<(u32, Slot, &[u8])> = ids.iter().enumerate().filter_map(found).collect();
        if rows.is_empty() {
            return 0;
        }
        rows.iter().for_each(|&(id, ..)| self.index.clear_slot(id));
        slab::overwrite(&self.slab, &self.readers, rows.iter().map(|&(_, slot, row)| (slot, row)));
        rows.iter().for_each(|&(id, slot, _)| self.index.set_slot(id, slot, &mut writer.touched));
        self.stats.renewed_rows.fetch_add(rows.len() as u64, Ordering::Relaxed);
        rows.len()
    }

    /// Takes `ids` out of the cache. Answers how many were in it.
    pub fn discard(&self, ids: &[u64]) -> usize {
        let mut discarded = 0;
        for ids in ids.chunks(PIECE_SLOTS) {
            let mut writer = self.lock();
            for &id in ids {
                if let Some(slot) = self.index.slot_of(id) {
                    discarded += usize::from(writer.release(&self.index, slot).is_some());
                }
            }
            self.publish_sizes(&writer);
        }
        self.stats.discarded_rows.fetch_add(discarded as u64, Ordering::Relaxed);
        discarded
    }

    /// The cached ids that `pick` accepts. Rows that come or go meanwhile may be missed, rows that stay never are.
    pub fn residents(&self, mut pick: impl FnMut(u64) -> bool) -> Vec<u64> {
        let _unmoved = self.resizing.lock();
        let mut picked = Vec::new();
        let mut first = 0;
        loop {
            let writer = self.lock();
            let span = writer.slots.span();
            if first >= span {
                return picked;
            }
            let end = span.min(first.saturating_add(WALK_SLOTS));
            let ids = (first..end).filter_map(|slot| self.index.id(writer.slots.id(Slot(slot))?));
            picked.extend(ids.filter(|&id| pick(id)));
            first = end;
        }
    }
}
