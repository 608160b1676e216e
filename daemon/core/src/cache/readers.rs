//! Grace periods: how a slot is given to another row while gathers run. It owns the knowledge of who reads. A reader
//! enters before it looks anything up and leaves when it holds no row any more; the writer first takes a row out of the
//! index, then waits until every reader that might still hold it has left, then overwrites it. Readers never wait.
//!
//! (Epoch-based reclamation, as in K. Fraser, "Practical lock-freedom", 2004, with waiting instead of deferral: a
//! gather of one chunk lasts well under a millisecond.)

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// Readers that may be inside at once; one more waits for a cell.
const CELLS: usize = 128;

/// Spins before a wait yields its core.
const SPINS_MAX: u32 = 64;

/// The era in which a reader entered, 0 while nobody is inside. On a cache line of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct ReaderCell(AtomicU64);

/// Who reads a table's rows.
#[derive(Debug)]
pub struct Readers {
    era: AtomicU64,
    cells: Box<[ReaderCell]>,
    hint: AtomicUsize,
}

/// The right to hold rows; leaving is dropping it. Hold it for one chunk of a gather, never across an await.
#[derive(Debug)]
pub struct Inside<'a> {
    cell: &'a ReaderCell,
}

impl Default for Readers {
    fn default() -> Self {
        let cells = (0..CELLS).map(|_| ReaderCell::default()).collect();
        Self { era: AtomicU64::new(1), cells, hint: AtomicUsize::new(0) }
    }
}

fn pause(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_MAX { std::hint::spin_loop() } else { std::thread::yield_now() }
}

impl Readers {
    /// Enters.
    pub fn enter(&self) -> Inside<'_> {
        let first = self.hint.fetch_add(1, Ordering::Relaxed);
        let mut spins = 0;
        loop {
            for offset in 0..CELLS {
                let cell = &self.cells[(first + offset) % CELLS];
                let era = self.era.load(Ordering::SeqCst);
                if cell.0.compare_exchange(0, era, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                    // Look-ups must not be done before the cell is taken: pairs with the fence in `wait_out`.
                    fence(Ordering::SeqCst);
                    return Inside { cell };
                }
            }
            pause(&mut spins);
        }
    }

    /// Returns once every reader that entered before this call has left.
    pub fn wait_out(&self) {
        // What the writer took out of the index must be gone for all who enter after this fence.
        fence(Ordering::SeqCst);
        let era = self.era.fetch_add(1, Ordering::SeqCst) + 1;
        for cell in &self.cells {
            let mut spins = 0;
            loop {
                let entered = cell.0.load(Ordering::SeqCst);
                if entered == 0 || entered >= era {
                    break;
                }
                pause(&mut spins);
            }
        }
        fence(Ordering::SeqCst);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.cell.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn the_writer_waits_for_those_inside_and_for_no_one_else() {
        let readers = Readers::default();
        let left = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let inside = readers.enter();
            let writer = scope.spawn(|| {
                readers.wait_out();
                assert!(left.load(Ordering::SeqCst), "the writer went on while a reader was inside");
            });
            std::thread::sleep(Duration::from_millis(20));
            left.store(true, Ordering::SeqCst);
            drop(inside);
            writer.join().unwrap();
        });
        readers.wait_out();
    }
}
