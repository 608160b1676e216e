//! Which id lies in which slot, and which slots are free. It owns nothing but those numbers.

const FREE: u32 = u32::MAX;

/// The residents of a cache.
#[derive(Debug)]
pub struct Slots {
    ids: Vec<u32>,
    /// Slots from here on were never used.
    fresh: u32,
}

impl Slots {
    /// Bytes of bookkeeping per slot, beside the word in the index that the id has anyway.
    pub const BYTES_PER_SLOT: usize = size_of::<u32>();

    /// `capacity` free slots.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let last = u32::try_from(capacity).unwrap_or(FREE);
        Self { ids: vec![FREE; last as usize], fresh: 0 }
    }

    /// Number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ids.len()
    }

    /// Number of slots that hold a row.
    #[must_use]
    pub fn used(&self) -> usize {
        self.fresh as usize
    }

    /// The id in `slot`.
    #[inline]
    #[must_use]
    pub fn id(&self, slot: u32) -> Option<u32> {
        self.ids.get(slot as usize).copied().filter(|&id| id != FREE)
    }

    /// Whether a slot is free.
    #[must_use]
    pub fn any_free(&self) -> bool {
        (self.fresh as usize) < self.ids.len()
    }

    /// Gives a free slot to `id`.
    pub fn occupy_free(&mut self, id: u32) -> Option<u32> {
        let slot = self.fresh;
        *self.ids.get_mut(slot as usize)? = id;
        self.fresh += 1;
        Some(slot)
    }

    /// Gives `slot` to `id`; answers who had it.
    pub fn replace(&mut self, slot: u32, id: u32) -> Option<u32> {
        let old = self.id(slot);
        if let Some(place) = self.ids.get_mut(slot as usize) {
            *place = id;
        }
        old
    }

    /// Every slot with its id.
    pub fn residents(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0u32..).zip(&self.ids).filter(|&(_, &id)| id != FREE).map(|(slot, &id)| (slot, id))
    }
}
