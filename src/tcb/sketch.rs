//! How many places clients have taken, by address, without memory for each of them.
//!
//! A count-min sketch: each address has one counter in each row, and shares it with others. The least of its counters is
//! never below its number, and above it by what the others there have: on average by a [`COLUMNS`]th of all. So a few addresses
//! that have many places are found, and those that have few are not taken for them.
//!
//! An IPv6 host has a whole /64, so that is its address here. Loopback addresses are not counted: a proxy may be behind them.
//!
//! Invariant: the counters of a row sum up to the number of those that are counted.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counters in a row.
pub const COLUMNS: usize = 4096;
/// Rows: who shares one counter with somebody large hardly shares the other.
const ROWS: usize = 2;

/// What stands for an address; `None` for one that is nobody's account.
pub(super) fn account(address: IpAddr) -> Option<u64> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V4(address) => Some(u64::from(address.to_bits())),
        IpAddr::V6(address) => Some((address.to_bits() >> 64) as u64 | 1 << 63),
    }
}

/// See the module. The caller hashes what [`account`] gives, with a key that no client knows.
#[derive(Debug)]
pub(super) struct Sketch(Box<[AtomicU32]>);

impl Sketch {
    pub(super) fn new() -> Sketch {
        // Zeroed: the kernel gives memory for what is used.
        Sketch((0..ROWS * COLUMNS).map(|_| AtomicU32::new(0)).collect())
    }

    fn counters(&self, hash: u64) -> [&AtomicU32; ROWS] {
        std::array::from_fn(|row| {
            let column = (hash >> (32 * row)) as usize % COLUMNS;
            &self.0[row * COLUMNS + column]
        })
    }

    pub(super) fn add(&self, hash: u64) {
        for counter in self.counters(hash) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, hash: u64) {
        for counter in self.counters(hash) {
            let before = counter.fetch_sub(1, Ordering::Relaxed);
            assert!(before > 0, "a place is given back once");
        }
    }

    /// What this address has at most.
    pub(super) fn at_most(&self, hash: u64) -> u32 {
        self.counters(hash).iter().map(|counter| counter.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Places that are counted. O([`COLUMNS`]).
    pub(super) fn total(&self) -> u64 {
        self.0[..COLUMNS].iter().map(|counter| u64::from(counter.load(Ordering::Relaxed))).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn accounts_are_addresses_and_halves_and_no_loopback() {
        let of = |text: &str| account(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!([of("127.0.0.1"), of("::1"), of("::ffff:127.9.9.9")], [None; 3]);
    }

    #[test]
    fn the_large_are_found_and_the_small_are_not_taken_for_them() {
        let (sketch, hasher) = (Sketch::new(), RandomState::new());
        let hash = |address: u32| hasher.hash_one(u64::from(address));
        for address in 0..20_000 {
            sketch.add(hash(address));
        }
        (0..3).for_each(|large| (0..9_999).for_each(|_| sketch.add(hash(large))));
        assert!((0..3).all(|large| (10_000..10_100).contains(&sketch.at_most(hash(large)))));
        let mistaken = (3..20_000).filter(|small| sketch.at_most(hash(*small)) > 100).count();
        // Both of its counters are those of one of the three, once in a million.
        assert!(mistaken <= 2, "{mistaken}");
        (0..3).for_each(|large| (0..9_999).for_each(|_| sketch.remove(hash(large))));
        assert_eq!(sketch.total(), 20_000);
        (0..20_000).for_each(|address| sketch.remove(hash(address)));
        assert!((0..20_000).all(|address| sketch.at_most(hash(address)) == 0));
    }
}
