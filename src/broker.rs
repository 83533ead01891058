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

use crate::message::destination::Kind;
use crate::message::origin::ReplyTo;

/// The shard that owns `key`, the same on every shard: they share `seed`.
pub fn owner_of(seed: u64, key: &[u8], shards: u16) -> u16 {
    let hash = FixedState::with_seed(seed).hash_one(key);
    // The high bits of the product spread as well as a remainder, without the division.
    ((u128::from(hash) * u128::from(shards)) >> 64) as u16
}

/// The shard that gives a message its place, by the message's destination: the owner, and of an answer the shard of the session
/// that has asked.
pub fn owner_of_message(seed: u64, kind: Kind, key: &[u8], shards: u16) -> u16 {
    if kind != Kind::Reply {
        return owner_of(seed, key, shards);
    }
    let to = std::str::from_utf8(key).ok().and_then(|key| key.parse::<ReplyTo>().ok());
    // A shard that there is not has no session: any other finds that none has asked.
    to.map(|to| to.session.shard).filter(|shard| *shard < shards).unwrap_or_default()
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

    #[test]
    fn an_answer_goes_to_the_shard_of_who_has_asked() {
        let owner = |kind, key: &str| owner_of_message(42, kind, key.as_bytes(), 8);
        assert_eq!(owner(Kind::Reply, "/reply/5-1-2/3"), 5);
        assert_eq!(owner(Kind::Reply, "/reply/8-1-2/3"), 0, "there is none");
        assert_eq!(owner(Kind::Queue, "/queue/a"), owner_of(42, b"/queue/a", 8));
    }
}
