//! How many places clients have taken, by address, without memory for each of them.
//!
//! A count-min sketch: each address has one counter in each row, and shares it with others. The least of its counters is
//! never below its number, and above it by what the others there have: on average by a [`COLUMNS`]th of all. So a few addresses
//! that have many places are found, and those that have few are not taken for them.
//!
//! Invariant: the counters of a row sum up to the number of those that are counted.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::FixedState;

/// Counters in a row.
pub const COLUMNS: usize = 4096;
/// Rows: who shares one counter with somebody large hardly shares the other.
const ROWS: usize = 2;

/// See the module. An address is what [`FourTuple::account`](super::FourTuple::account) gives.
#[derive(Debug)]
pub(super) struct Sketch {
    /// No client knows its key.
    hasher: FixedState,
    counters: Box<[AtomicU32]>,
}

impl Sketch {
    pub(super) fn new() -> Sketch {
        let hasher = FixedState::with_seed(RandomState::new().hash_one(0));
        // Zeroed: the kernel gives memory for what is used.
        Sketch { hasher, counters: (0..ROWS * COLUMNS).map(|_| AtomicU32::new(0)).collect() }
    }

    fn counters(&self, account: u64) -> [&AtomicU32; ROWS] {
        let hash = self.hasher.hash_one(account);
        std::array::from_fn(|row| {
            let column = (hash >> (32 * row)) as usize % COLUMNS;
            &self.counters[row * COLUMNS + column]
        })
    }

    pub(super) fn add(&self, account: u64) {
        for counter in self.counters(account) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, account: u64) {
        for counter in self.counters(account) {
            let before = counter.fetch_sub(1, Ordering::Relaxed);
            assert!(before > 0, "a place is given back once");
        }
    }

    /// What this address has at most.
    pub(super) fn at_most(&self, account: u64) -> u32 {
        self.counters(account).iter().map(|counter| counter.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Places that are counted. O([`COLUMNS`]).
    pub(super) fn total(&self) -> u64 {
        self.counters[..COLUMNS].iter().map(|counter| u64::from(counter.load(Ordering::Relaxed))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_are_found_and_the_small_are_not_taken_for_them() {
        let sketch = Sketch::new();
        for address in 0..20_000 {
            sketch.add(address);
        }
        (0..3).for_each(|large| (0..9_999).for_each(|_| sketch.add(large)));
        assert!((0..3).all(|large| (10_000..10_100).contains(&sketch.at_most(large))));
        let mistaken = (3..20_000).filter(|small| sketch.at_most(*small) > 100).count();
        // Both of its counters are those of one of the three, once in a million.
        assert!(mistaken <= 2, "{mistaken}");
        (0..3).for_each(|large| (0..9_999).for_each(|_| sketch.remove(large)));
        assert_eq!(sketch.total(), 20_000);
        (0..20_000).for_each(|address| sketch.remove(address));
        assert!((0..20_000).all(|address| sketch.at_most(address) == 0));
    }
}
