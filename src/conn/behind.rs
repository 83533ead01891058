//! Who has more unsent than it may, and since when.
//!
//! A reader that is honest and slow falls behind when somebody floods its room. So it is cut off by its lag in bytes only when
//! that has lasted.
//!
//! It sets no timer and cuts nobody off: whoever asks gives the time.
//!
//! Invariant: the table has memory only while somebody is in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::FixedState;

use crate::time::Tick;

/// See the module.
#[derive(Debug, Default)]
pub struct Behind {
    since: HashMap<u32, Tick, FixedState>,
}

impl Behind {
    /// A connection has more unsent than it may. Returns whether that has lasted for so many ticks.
    pub fn has_lasted(&mut self, index: u32, ticks: u32, now: Tick) -> bool {
        if ticks == 0 {
            return true;
        }
        match self.since.entry(index) {
            Entry::Occupied(since) => now.since(*since.get()) >= ticks,
            Entry::Vacant(vacant) => {
                vacant.insert(now);
                false
            }
        }
    }

    /// A connection has no more unsent than it may, or is closed.
    pub fn forget(&mut self, index: u32) {
        if !self.since.is_empty() && self.since.remove(&index).is_some() && self.since.is_empty() {
            *self = Behind::default();
        }
    }

    /// Whether nobody has.
    pub fn is_empty(&self) -> bool {
        self.since.is_empty()
    }

    /// Those who have, in no order.
    pub fn indices(&self) -> Vec<u32> {
        self.since.keys().copied().collect()
    }

    /// Panics if somebody is in it who is not there.
    pub fn check(&self, is_there: impl Fn(u32) -> bool) {
        assert!(self.since.keys().copied().all(is_there), "somebody who is gone is behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_counts_from_when_it_began_and_anew_when_it_had_ended() {
        let mut behind = Behind::default();
        assert!(!behind.has_lasted(1, 10, Tick(5)));
        assert!(!behind.has_lasted(1, 10, Tick(14)));
        assert!(behind.has_lasted(1, 10, Tick(15)));
        assert_eq!(behind.indices(), [1]);
        behind.forget(1);
        assert!(behind.is_empty());
        assert!(!behind.has_lasted(1, 10, Tick(16)));
        // Without a time it is the bytes alone.
        assert!(behind.has_lasted(2, 0, Tick(16)));
        behind.check(|index| index == 1);
    }
}
