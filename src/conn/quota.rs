//! How many of something one client may have at once, over all shards: sessions of a login, connections of an address.
//!
//! They are counted when they begin and end, and never while they last. A bound of 0 is none, and then nothing is counted.
//! Who has as many as may be is refused; nobody else is.
//!
//! Invariant: the count of a key is the number of connections of all shards that have it ([`Tally`]); one that has none has no
//! entry.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::{FixedState, RandomState};
use parking_lot::Mutex;

use crate::footprint::Part;

/// The counts of all shards, by the hash of what is counted.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<HashMap<u64, u32, RandomState>>,
}

impl Tally {
    /// One more, if there are fewer than `max`.
    fn enter(&self, key: u64, max: u32) -> bool {
        let mut counts = self.counts.lock();
        let count = counts.entry(key).or_insert(0);
        let is_in = *count < max;
        *count += u32::from(is_in);
        is_in
    }

    fn leave(&self, key: u64) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }

    /// How many keys are counted.
    pub fn keys(&self) -> usize {
        self.counts.lock().len()
    }
}

/// One shard's part of a tally.
#[derive(Debug)]
pub struct Quota {
    tally: Arc<Tally>,
    /// What the connections here are counted by.
    mine: HashMap<u32, u64, RandomState>,
    hasher: FixedState,
}

impl Quota {
    /// Nobody is counted here. `seed` is the same for all shards, and not guessable by peers.
    pub fn new(tally: Arc<Tally>, seed: u64) -> Quota {
        Quota { tally, mine: HashMap::default(), hasher: FixedState::with_seed(seed) }
    }

    /// Counts a connection by `key`. `false`, and it is not counted, if `max` have that key.
    pub fn enter(&mut self, index: u32, key: impl Hash, max: u32) -> bool {
        if max == 0 {
            return true;
        }
        let key = self.hasher.hash_one(key);
        let is_in = self.tally.enter(key, max);
        if is_in && let Some(before) = self.mine.insert(index, key) {
            self.tally.leave(before);
        }
        is_in
    }

    /// A connection counts no more, if it did.
    pub fn leave(&mut self, index: u32) {
        if !self.mine.is_empty()
            && let Some(key) = self.mine.remove(&index)
        {
            self.tally.leave(key);
            if self.mine.is_empty() {
                self.mine.shrink_to_fit();
            }
        }
    }

    /// Whether nobody is counted here.
    pub fn is_empty(&self) -> bool {
        self.mine.is_empty()
    }

    /// What is kept for those who are counted here.
    pub fn memory(&self) -> Part {
        Part::array(self.mine.len(), self.mine.capacity(), size_of::<(u32, u64)>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_count_together_and_what_ends_gives_its_place_back() {
        let tally = Arc::new(Tally::default());
        let [mut one, mut other] = [(); 2].map(|()| Quota::new(Arc::clone(&tally), 7));
        assert!(one.enter(1, "ann", 2) && other.enter(1, "ann", 2));
        assert!(!one.enter(2, "ann", 2) && one.enter(2, "bob", 2));
        one.leave(1);
        one.leave(1);
        assert!(other.enter(2, "ann", 2) && !one.enter(3, "ann", 2));
        assert_eq!(tally.keys(), 2);
        for (quota, indices) in [(&mut one, [1, 2]), (&mut other, [1, 2])] {
            indices.into_iter().for_each(|index| quota.leave(index));
            assert!(quota.is_empty());
        }
        assert_eq!(tally.keys(), 0);
    }

    #[test]
    fn a_bound_that_is_taken_away_or_lowered_ends_nobody() {
        let tally = Arc::new(Tally::default());
        let mut quota = Quota::new(Arc::clone(&tally), 7);
        assert!((0..5).all(|index| quota.enter(index, "ann", 5)));
        assert!(!quota.enter(5, "ann", 2) && quota.enter(6, "ann", 0));
        (0..7).for_each(|index| quota.leave(index));
        assert!(quota.is_empty() && tally.keys() == 0);
    }
}
