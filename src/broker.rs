//! What a shard does as the owner of rooms and queues: who is in, in which order messages come, who gets a queue's message.
//!
//! Every room and queue has one owner, the shard that [`owner_of`] names, so each has one total order without a lock. The owner
//! knows how many members each shard has, and nothing of the members themselves.
//!
//! It knows no connections and no mail: what must be told to whom is returned.
//!
//! Invariant: those of [`topic`], [`history`] and [`queue`].

pub mod history;
pub mod queue;
pub mod topic;

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

/// The shard that owns `key`, the same on every shard: they share `seed`.
pub fn owner_of(seed: u64, key: &[u8], shards: u16) -> u16 {
    let hash = FixedState::with_seed(seed).hash_one(key);
    // The high bits of the product spread as well as a remainder, without the division.
    ((u128::from(hash) * u128::from(shards)) >> 64) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_spread() {
        let mut counts = [0u32; 8];
        for room in 0..8000 {
            counts[owner_of(42, format!("/topic/{room}").as_bytes(), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
