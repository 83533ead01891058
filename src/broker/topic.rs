//! Rooms as their owner has them: which shards have members, and the next sequence number.
//!
//! A room is a topic or a user destination. Its *epoch* is a number that no other room, queue or start of the server has; a
//! message's id is the epoch and its sequence number in it.
//!
//! A room is *full* while a shard has more waiting for its members than it may have. What is published to it meanwhile is
//! *parked*: it has its place behind what was published before, and is sequenced when the room has room. Its publishers are
//! held, so each of them parks no more than what was read of it at once.
//!
//! Invariant: a room is in the table exactly while a shard has members, or something is parked; a room with something parked is
//! full, or on the list of those that have room again ([`Topics::check`]).

mod parking;

use std::hash::BuildHasher;

use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use crate::footprint::Part;
use crate::message::destination::Kind;
use crate::message::origin::{Holder, Origin};
use crate::message::{Epochs, Message, MessageId};
use crate::share::Holdings;

pub use parking::Parked;
use parking::Parking;

/// The members that one shard has of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    /// How many.
    pub members: u32,
    /// The shard.
    pub shard: u16,
    /// More waits for them than may.
    pub is_full: bool,
}

/// A room.
#[derive(Debug)]
struct Topic {
    key: CompactString,
    epoch: u64,
    sequence: u64,
    shards: SmallVec<[Residency; 2]>,
    parked: Option<Box<Parking>>,
    /// On whose account the room is: who made it.
    maker: Holder,
}

const _: () = assert!(size_of::<Topic>() <= 96);

impl Topic {
    fn is_full(&self) -> bool {
        self.shards.iter().any(|residency| residency.is_full)
    }

    fn residency(&mut self, shard: u16) -> Option<&mut Residency> {
        self.shards.iter_mut().find(|residency| residency.shard == shard)
    }
}

/// What an operator sees of a room.
#[derive(Debug, Clone, Copy)]
pub struct RoomLook<'a> {
    /// Its key.
    pub key: &'a str,
    /// Subscriptions, on all shards.
    pub members: u64,
    /// Shards that have members.
    pub shards: u32,
    /// Messages since it was made.
    pub sequence: u64,
    /// More waits for its members than may.
    pub is_full: bool,
}

/// What became of a publication.
#[derive(Debug)]
pub enum Published<'a> {
    /// Nobody is in the room: there is no order to have a place in.
    Nobody(Message),
    /// It has its place, and goes to the members of these shards.
    Sequenced(MessageId, Message, &'a [Residency]),
    /// The room is full: it waits, and so must its publisher.
    Parked,
    /// The room is full, and all that waits for full rooms is too much, of which its publisher has its share.
    Refused {
        /// The bound, in bytes.
        max: u64,
    },
}

/// The rooms that one shard owns.
#[derive(Debug)]
pub struct Topics {
    topics: Slab<Topic>,
    index: HashTable<u32>,
    hasher: FixedState,
    epochs: Epochs,
    /// Rooms by who made them.
    makers: Holdings<Holder>,
    /// Bytes of what is parked, by publisher.
    parked: Holdings<Holder>,
    /// Keys of rooms that have something parked and are not full any more.
    ready: Vec<Box<str>>,
}

impl Topics {
    /// No rooms, and at most `max`, with at most `parked_max` bytes parked. `seed` must not be guessable by peers.
    pub fn new(seed: u64, epochs: Epochs, max: u32, parked_max: u64) -> Topics {
        Topics {
            topics: Slab::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            epochs,
            makers: Holdings::new(u64::from(max)),
            parked: Holdings::new(parked_max),
            ready: Vec::new(),
        }
    }

    /// Rooms in the table.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Bytes of what is parked in all rooms.
    pub fn parked_bytes(&self) -> u64 {
        self.parked.total()
    }

    fn find(&self, key: &str) -> Option<u32> {
        self.find_hashed(key.as_bytes(), self.hasher.hash_one(key.as_bytes()))
    }

    fn find_hashed(&self, key: &[u8], hash: u64) -> Option<u32> {
        self.index.find(hash, |&at| self.topics[at as usize].key.as_bytes() == key).copied()
    }

    fn find_or_insert(&mut self, key: &str, maker: Holder) -> Option<u32> {
        if let Some(topic) = self.find(key) {
            return Some(topic);
        }
        if !self.makers.admits(maker, 1) {
            return None;
        }
        self.makers.charge(maker, 1);
        let topic = Topic {
            key: CompactString::new(key),
            epoch: self.epochs.begin(),
            sequence: 0,
            shards: SmallVec::new(),
            parked: None,
            maker,
        };
        let at = self.topics.insert(topic) as u32;
        let (topics, hasher) = (&self.topics, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key.as_bytes()), at, |&at| {
            hasher.hash_one(topics[at as usize].key.as_bytes())
        });
        Some(at)
    }

    fn tidy(&mut self, at: u32) {
        let topic = &self.topics[at as usize];
        if !topic.shards.is_empty() || topic.parked.is_some() {
            return;
        }
        let hash = self.hasher.hash_one(topic.key.as_bytes());
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.makers.release(self.topics.remove(at as usize).maker, 1);
        if self.topics.is_empty() {
            self.topics.shrink_to_fit();
            self.index.shrink_to(0, |_| 0);
        }
    }

    /// The shard of `origin` has a member more from here on. Returns the id of the last message before it; `None` if there is
    /// no such room and none can be made: past three quarters of them, for whoever has more than are free.
    pub fn subscribe(&mut self, key: &str, origin: &Origin) -> Option<MessageId> {
        let shard = origin.shard;
        let at = self.find_or_insert(key, origin.holder)?;
        let topic = &mut self.topics[at as usize];
        match topic.residency(shard) {
            Some(residency) => residency.members += 1,
            None => {
                if topic.shards.len() == topic.shards.capacity() {
                    // Doubling would leave a third of all such lists empty.
                    topic.shards.reserve_exact(topic.shards.len() / 4 + 1);
                }
                topic.shards.push(Residency { members: 1, shard, is_full: false });
            }
        }
        Some(MessageId { epoch: topic.epoch, sequence: topic.sequence })
    }

    /// A shard has a member less. What is parked may have room now: see [`Topics::take_ready`].
    ///
    /// # Panics
    /// If the shard has none.
    pub fn unsubscribe(&mut self, key: &str, shard: u16) {
        let at = self.find(key).expect("a room with members is in the table");
        let topic = &mut self.topics[at as usize];
        let residency = topic.residency(shard).expect("a shard whose member leaves has members");
        residency.members -= 1;
        if residency.members == 0 {
            topic.shards.retain(|residency| residency.shard != shard);
            if topic.shards.spilled() && topic.shards.len() * 4 <= topic.shards.capacity() {
                topic.shards.shrink_to_fit();
            }
            self.note_ready(at);
        }
        self.tidy(at);
    }

    fn note_ready(&mut self, at: u32) {
        let topic = &self.topics[at as usize];
        if topic.parked.is_some() && !topic.is_full() {
            self.ready.push(topic.key.as_str().into());
        }
    }

    /// Whether [`Topics::take_ready`] would give any.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Keys of rooms that have something parked and are not full any more: [`Topics::unpark`] is to be called for each.
    pub fn take_ready(&mut self) -> Vec<Box<str>> {
        std::mem::take(&mut self.ready)
    }

    /// Places of rooms end here.
    pub fn places(&self) -> u32 {
        self.topics.capacity() as u32
    }

    /// The room at a place, if there is one. It stays there for as long as it lives.
    pub fn at(&self, place: u32) -> Option<RoomLook<'_>> {
        let topic = self.topics.get(place as usize)?;
        let members = topic.shards.iter().map(|residency| u64::from(residency.members)).sum();
        let (key, sequence, shards) = (&*topic.key, topic.sequence, topic.shards.len() as u32);
        Some(RoomLook { key, members, shards, sequence, is_full: topic.is_full() })
    }

    /// The shards that have members of a room.
    pub fn shards(&self, key: &str) -> &[Residency] {
        self.find(key).map_or(&[], |at| &self.topics[at as usize].shards)
    }

    /// Gives a message its place, or parks it. `hash` is that of its key by the shards' seed.
    pub fn publish(&mut self, origin: Origin, message: Message, hash: u64) -> Published<'_> {
        let Some(at) = self.find_hashed(message.key_bytes(), hash) else { return Published::Nobody(message) };
        let topic = &mut self.topics[at as usize];
        if topic.parked.is_some() || topic.is_full() {
            let weight = message.weight();
            if !self.parked.admits(origin.holder, weight) {
                return Published::Refused { max: self.parked.max() };
            }
            self.parked.charge(origin.holder, weight);
            topic.parked.get_or_insert_default().push(origin, Parked::Publication(message));
            return Published::Parked;
        }
        topic.sequence += 1;
        let id = MessageId { epoch: topic.epoch, sequence: topic.sequence };
        Published::Sequenced(id, message, &topic.shards)
    }

    /// A shard has more waiting for its members of a room than it may have, or has room again. Nothing happens if it has left.
    pub fn set_full(&mut self, key: &str, shard: u16, is_full: bool) {
        if let Some(at) = self.find(key)
            && let Some(residency) = self.topics[at as usize].residency(shard)
        {
            residency.is_full = is_full;
            if !is_full {
                self.note_ready(at);
            }
        }
    }

    /// Parks the begin of a subscription behind the publications that its session has parked in the room. `false` if it has
    /// none there: it may begin.
    pub fn park_begin(&mut self, key: &str, kind: Kind, origin: Origin) -> bool {
        let topic = self.find(key).map(|at| &mut self.topics[at as usize]);
        let Some(parking) = topic.and_then(|topic| topic.parked.as_mut()) else { return false };
        let is_behind = parking.has_publication_of(&origin);
        if is_behind {
            let begin = Parked::Begin(kind);
            self.parked.charge(origin.holder, begin.weight());
            parking.push(origin, begin);
        }
        is_behind
    }

    /// Parks the end of a subscription behind the publications that are parked in its room. `false` if none is: it may end.
    pub fn park_end(&mut self, key: &str, origin: Origin) -> bool {
        let topic = self.find(key).map(|at| &mut self.topics[at as usize]);
        let Some(parking) = topic.and_then(|topic| topic.parked.as_mut()) else { return false };
        self.parked.charge(origin.holder, Parked::End.weight());
        parking.push(origin, Parked::End);
        true
    }

    /// Takes out what was parked first, if the room is not full. A publication must be published again by
    /// [`Topics::publish_parked`] at once, and a subscription begun by [`Topics::subscribe`] or ended by
    /// [`Topics::unsubscribe`].
    pub fn unpark(&mut self, key: &str) -> Option<(Origin, Parked)> {
        let at = self.find(key)?;
        let topic = &mut self.topics[at as usize];
        if topic.is_full() {
            return None;
        }
        let parking = topic.parked.as_mut()?;
        let first = parking.pop();
        if parking.is_empty() {
            topic.parked = None;
        }
        if let Some((origin, parked)) = &first {
            self.parked.release(origin.holder, parked.weight());
        }
        first
    }

    /// Gives a message that was parked its place.
    pub fn publish_parked(&mut self, message: Message) -> Published<'_> {
        let Some(at) = self.find(message.key()) else { return Published::Nobody(message) };
        if self.topics[at as usize].shards.is_empty() {
            // Everybody has left meanwhile.
            self.tidy(at);
            return Published::Nobody(message);
        }
        let topic = &mut self.topics[at as usize];
        topic.sequence += 1;
        let id = MessageId { epoch: topic.epoch, sequence: topic.sequence };
        Published::Sequenced(id, message, &topic.shards)
    }

    /// What the table takes, in bytes. O(rooms).
    pub fn memory(&self) -> Part {
        let index = Part {
            used: (self.index.len() * size_of::<u32>()) as u64,
            reserved: self.index.allocation_size() as u64,
        };
        let topics = Part::array(self.topics.len(), self.topics.capacity(), size_of::<Topic>());
        let mut memory: Part = [topics, index].into_iter().sum();
        for (_, topic) in &self.topics {
            if topic.shards.spilled() {
                let capacity = topic.shards.capacity();
                memory += Part::array(topic.shards.len(), capacity, size_of::<Residency>());
            }
            if topic.key.is_heap_allocated() {
                memory += Part { used: topic.key.len() as u64, reserved: topic.key.capacity() as u64 };
            }
        }
        memory
    }

    /// Panics unless the table agrees with itself.
    pub fn check(&self) {
        assert_eq!(self.index.len(), self.topics.len());
        let mut parked = 0;
        for (at, topic) in &self.topics {
            assert_eq!(self.find(&topic.key), Some(at as u32));
            assert!(!topic.shards.is_empty() || topic.parked.is_some(), "{} is kept for nothing", topic.key);
            assert!(topic.shards.iter().all(|residency| residency.members > 0));
            if let Some(parking) = &topic.parked {
                parked += parking.check();
                assert!(
                    topic.is_full() || self.ready.iter().any(|key| **key == *topic.key),
                    "nobody will unpark it"
                );
            }
        }
        self.parked.check();
        assert_eq!(parked, self.parked.total());
        self.makers.check();
        assert_eq!(self.makers.total(), self.topics.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::destination::Destination;
    use crate::message::origin::ConnKey;

    const ORIGIN: Origin =
        Origin { shard: 0, connection: ConnKey::DEAD_LETTERS, serial: None, holder: Holder::Address(1) };

    fn topics() -> Topics {
        Topics::new(3, Epochs::new(1, 0, 2), 100, 10_000)
    }

    fn subscribe(topics: &mut Topics, key: &str, shard: u16) -> MessageId {
        topics.subscribe(key, &Origin { shard, ..ORIGIN }).unwrap()
    }

    fn publish_at(topics: &mut Topics, message: Message) -> Published<'_> {
        let hash = FixedState::with_seed(3).hash_one(message.key_bytes());
        topics.publish(ORIGIN, message, hash)
    }

    fn message(key: &str, body: &[u8]) -> Message {
        Message::new(&Destination::parse_send(key).unwrap(), b"", body)
    }

    fn publish(topics: &mut Topics, key: &str, body: &[u8]) -> Option<MessageId> {
        match publish_at(topics, message(key, body)) {
            Published::Sequenced(id, ..) => Some(id),
            _ => None,
        }
    }

    #[test]
    fn a_room_is_forgotten_with_its_last_member_and_begins_another_epoch() {
        let mut topics = topics();
        assert!(matches!(publish_at(&mut topics, message("/topic/a", b"")), Published::Nobody(_)));
        let first = subscribe(&mut topics, "/topic/a", 1);
        assert_eq!(first.sequence, 0);
        assert_eq!(publish(&mut topics, "/topic/a", b""), Some(MessageId { sequence: 1, ..first }));
        assert_eq!(subscribe(&mut topics, "/topic/a", 0), MessageId { sequence: 1, ..first });
        topics.unsubscribe("/topic/a", 1);
        topics.unsubscribe("/topic/a", 0);
        assert!(topics.is_empty());
        assert_ne!(subscribe(&mut topics, "/topic/a", 0).epoch, first.epoch);
        topics.check();
    }

    #[test]
    fn who_has_most_parked_is_refused_and_others_are_not() {
        let mut topics = topics();
        subscribe(&mut topics, "/topic/a", 0);
        topics.set_full("/topic/a", 0, true);
        let mut park = |publisher: u32| {
            let origin = Origin { holder: Holder::Address(u64::from(publisher)), ..ORIGIN };
            let hash = FixedState::with_seed(3).hash_one(b"/topic/a".as_slice());
            let parked = |topics: &mut Topics| {
                matches!(topics.publish(origin, message("/topic/a", &[0; 100]), hash), Published::Parked)
            };
            (0..1000).take_while(|_| parked(&mut topics)).count()
        };
        let first = park(1);
        assert!(first > 30, "{first}");
        assert!(park(2) > 0, "somebody else finds room");
        topics.check();
    }

    #[test]
    fn who_made_most_rooms_is_refused_and_others_are_not() {
        let mut topics = topics();
        let made = |topics: &mut Topics, maker: u32| {
            let origin = Origin { holder: Holder::Address(u64::from(maker)), ..ORIGIN };
            (0..1000)
                .take_while(|room| topics.subscribe(&format!("/topic/{maker}-{room}"), &origin).is_some())
                .count()
        };
        let first = made(&mut topics, 1);
        assert!((75..100).contains(&first), "{first}");
        assert!(made(&mut topics, 2) > 0, "somebody else finds room");
        // A room that is there may be joined by whoever made most.
        assert!(topics.subscribe("/topic/2-0", &ORIGIN).is_some());
        topics.check();
    }

    #[test]
    fn what_is_published_to_a_full_room_is_sequenced_in_its_order_when_there_is_room() {
        let mut topics = topics();
        subscribe(&mut topics, "/topic/a", 0);
        topics.set_full("/topic/a", 0, true);
        // Another shard has no members: that it is full says nothing.
        topics.set_full("/topic/a", 7, true);
        for body in [b"1", b"2"] {
            assert!(matches!(publish_at(&mut topics, message("/topic/a", body)), Published::Parked));
        }
        assert!(topics.unpark("/topic/a").is_none());
        topics.set_full("/topic/a", 0, false);
        assert_eq!(topics.take_ready(), ["/topic/a".into()]);
        // Behind what is parked, although there is room.
        assert!(matches!(publish_at(&mut topics, message("/topic/a", b"3")), Published::Parked));
        let mut bodies = Vec::new();
        while let Some((_, Parked::Publication(message))) = topics.unpark("/topic/a") {
            let Published::Sequenced(id, message, shards) = topics.publish_parked(message) else { panic!() };
            assert_eq!(shards.len(), 1);
            bodies.push((id.sequence, message.body().to_vec()));
        }
        assert_eq!(bodies, [(1, b"1".to_vec()), (2, b"2".to_vec()), (3, b"3".to_vec())]);
        assert_eq!(topics.parked_bytes(), 0);
        // What is parked in a room that everybody has left is for nobody, and the room goes.
        topics.set_full("/topic/a", 0, true);
        publish_at(&mut topics, message("/topic/a", b"4"));
        topics.unsubscribe("/topic/a", 0);
        topics.check();
        assert_eq!(topics.take_ready().len(), 1);
        let Some((_, Parked::Publication(message))) = topics.unpark("/topic/a") else { panic!() };
        assert!(matches!(topics.publish_parked(message), Published::Nobody(_)));
        assert!(topics.is_empty());
    }

    #[test]
    fn an_unsubscribe_waits_behind_what_is_parked() {
        let mut topics = topics();
        let origin = Origin {
            shard: 0,
            connection: ConnKey::DEAD_LETTERS,
            serial: Some(1),
            holder: Holder::Address(1),
        };
        topics.subscribe("/topic/a", &origin).unwrap();
        assert!(!topics.park_end("/topic/a", origin) && !topics.park_end("/topic/b", origin));
        topics.set_full("/topic/a", 0, true);
        publish_at(&mut topics, message("/topic/a", b"1"));
        assert!(topics.park_end("/topic/a", origin));
        topics.check();
        topics.set_full("/topic/a", 0, false);
        assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::Publication(_)))));
        assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::End))));
        topics.unsubscribe("/topic/a", 0);
        assert!(topics.is_empty() && topics.parked_bytes() == 0);
    }

    #[test]
    fn a_subscribe_waits_behind_what_its_session_has_parked_and_nobody_else_has() {
        let mut topics = topics();
        let of = |index| Origin { connection: ConnKey { index, generation: 0 }, ..ORIGIN };
        topics.subscribe("/topic/a", &of(1)).unwrap();
        topics.set_full("/topic/a", 0, true);
        let hash = topics.hasher.hash_one("/topic/a".as_bytes());
        assert!(matches!(topics.publish(of(2), message("/topic/a", b"1"), hash), Published::Parked));
        let park = |topics: &mut Topics, key, by| topics.park_begin(key, Kind::Topic, of(by));
        assert!(park(&mut topics, "/topic/a", 2));
        assert!(!park(&mut topics, "/topic/a", 1) && !park(&mut topics, "/topic/b", 2));
        topics.check();
        topics.set_full("/topic/a", 0, false);
        assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::Publication(_)))));
        assert!(!park(&mut topics, "/topic/a", 2), "its publication has its place");
        assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::Begin(Kind::Topic)))));
        assert!(topics.unpark("/topic/a").is_none());
    }

    proptest! {
        /// The model counts members by room and shard.
        #[test]
        fn residencies_are_counts_of_members(steps in prop::collection::vec((0u8..4, 0u16..4, any::<bool>()), 0..300)) {
            let mut topics = topics();
            let mut model: std::collections::BTreeMap<(u8, u16), u32> = std::collections::BTreeMap::new();
            for (room, shard, comes) in steps {
                let key = format!("/topic/{room}");
                let members = model.entry((room, shard)).or_default();
                if comes {
                    *members += 1;
                    subscribe(&mut topics, &key, shard);
                } else if *members > 0 {
                    *members -= 1;
                    topics.unsubscribe(&key, shard);
                }
                topics.check();
                for room in 0..4 {
                    let mut seen: Vec<(u16, u32)> = match publish_at(&mut topics, message(&format!("/topic/{room}"), b"")) {
                        Published::Sequenced(_, _, shards) => shards.iter().map(|there| (there.shard, there.members)).collect(),
                        _ => Vec::new(),
                    };
                    seen.sort_unstable();
                    let there: Vec<(u16, u32)> = model
                        .range((room, 0)..(room, 4))
                        .filter(|(_, members)| **members > 0)
                        .map(|((_, shard), members)| (*shard, *members))
                        .collect();
                    prop_assert_eq!(seen, there);
                }
            }
        }
    }
}
