//! The fetch path: what a trainer waits for, and nothing else. It gathers what is here, asks peers for the rest, and
//! answers what is owed to the cache, which others see to.

pub(crate) mod fetcher;
pub(crate) mod gather;
pub(crate) mod job;
pub(crate) mod timeline;
pub(crate) mod timing;
pub(crate) mod turns;
