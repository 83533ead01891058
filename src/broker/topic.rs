//! Rooms as their owner has them: which shards have members, and the next sequence number.
//!
//! A room is a topic or a user destination. Its *epoch* is a number that no other room, queue or start of the server has; a
//! message's id is the epoch and its sequence number in it.
//!
//! A room is *full* while a shard has more waiting for its members than it may have. What is published to it meanwhile is
//! *parked*: it has its place behind what was published before, and is sequenced when the room has room. Its publishers are
//! held, so each of them parks no more than what was read of it at once.
//!
//! A room may keep its last messages (`keeping`): then it outlives its members.
//!
//! Invariant: a room is in the table exactly while a shard has members, something is parked, or a message is kept; a room with
//! something parked is full, or on the list of those that have room again ([`Topics::check`]).

mod keeping;
mod parking;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;

use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use crate::broker::history::History;
use crate::footprint::Part;
use crate::message::destination::Kind;
use crate::message::origin::{Holder, Origin};
use crate::message::past::Past;
use crate::message::{Epochs, Message, MessageId};
use crate::share::Holdings;
use crate::time::Tick;

use keeping::Keeping;
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

/// What few rooms have.
#[derive(Debug, Default)]
struct Beside {
    parking: Parking,
    /// There if the room keeps messages, and has had one.
    history: Option<History>,
}

/// A room.
#[derive(Debug)]
struct Topic {
    key: CompactString,
    epoch: u64,
    sequence: u64,
    shards: SmallVec<[Residency; 2]>,
    beside: Option<Box<Beside>>,
    /// It keeps messages.
    keeps: bool,
    /// Others than its maker have come, or published: what it keeps is on its own account.
    is_shared: bool,
    /// On whose account the room is: who made it.
    maker: Holder,
}

const _: () = assert!(size_of::<Topic>() <= 96);

impl Topic {
    fn is_full(&self) -> bool {
        self.shards.iter().any(|residency| residency.is_full)
    }

    fn id(&self) -> MessageId {
        MessageId { epoch: self.epoch, sequence: self.sequence }
    }

    fn parking(&self) -> Option<&Parking> {
        self.beside.as_ref().map(|beside| &beside.parking).filter(|parking| !parking.is_empty())
    }

    fn parking_mut(&mut self) -> Option<&mut Parking> {
        self.beside.as_mut().map(|beside| &mut beside.parking).filter(|parking| !parking.is_empty())
    }

    fn history(&self) -> Option<&History> {
        self.beside.as_ref()?.history.as_ref()
    }

    fn history_mut(&mut self) -> Option<&mut History> {
        self.beside.as_mut()?.history.as_mut()
    }

    fn tidy(&mut self) {
        if self.beside.as_ref().is_some_and(|beside| beside.parking.is_empty() && beside.history.is_none()) {
            self.beside = None;
        }
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
    /// Messages that it keeps.
    pub kept: u64,
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
    /// Nobody is in the room, which would keep the message, and no room can be made for its publisher.
    NoRoom,
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
    keeping: Keeping,
}

impl Topics {
    /// No rooms, and at most `max`, with at most `parked_max` bytes parked, of which none keeps messages. `seed` must not be
    /// guessable by peers.
    pub fn new(seed: u64, epochs: Epochs, max: u32, parked_max: u64) -> Topics {
        Topics {
            topics: Slab::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            epochs,
            makers: Holdings::new(u64::from(max)),
            parked: Holdings::new(parked_max),
            ready: Vec::new(),
            keeping: Keeping::default(),
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
            beside: None,
            keeps: self.keeping.keeps(key),
            is_shared: false,
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
        let keeps = topic.history().is_some_and(|history| !history.is_empty());
        if !topic.shards.is_empty() || keeps || topic.parking().is_some() {
            return;
        }
        let hash = self.hasher.hash_one(topic.key.as_bytes());
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.keeping.forget(at);
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
        if self.topics[at as usize].keeps {
            self.note_holder(at, origin.holder);
        }
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
        Some(topic.id())
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
        if topic.parking().is_some() && !topic.is_full() {
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
        let kept = topic.history().map_or(0, |history| history.len() as u64);
        Some(RoomLook { key, members, shards, sequence, kept, is_full: topic.is_full() })
    }

    /// The shards that have members of a room.
    pub fn shards(&self, key: &str) -> &[Residency] {
        self.find(key).map_or(&[], |at| &self.topics[at as usize].shards)
    }

    /// Gives a message its place, or parks it. `hash` is that of its key by the shards' seed.
    pub fn publish(&mut self, origin: Origin, message: Message, hash: u64, now: Tick) -> Published<'_> {
        let at = match self.find_hashed(message.key_bytes(), hash) {
            Some(at) => at,
            None if !self.keeps(&message) => return Published::Nobody(message),
            None => match self.find_or_insert(message.key(), origin.holder) {
                Some(at) => at,
                None => return Published::NoRoom,
            },
        };
        let topic = &mut self.topics[at as usize];
        if topic.is_full() || topic.parking().is_some() {
            let weight = message.weight();
            if !self.parked.admits(origin.holder, weight) {
                return Published::Refused { max: self.parked.max() };
            }
            self.parked.charge(origin.holder, weight);
            topic.beside.get_or_insert_default().parking.push(origin, Parked::Publication(message));
            return Published::Parked;
        }
        self.sequence(at, origin.holder, message, now)
    }

    /// The message of this publisher is the next one in its room.
    #[inline]
    fn sequence(&mut self, at: u32, publisher: Holder, mut message: Message, now: Tick) -> Published<'_> {
        let topic = &mut self.topics[at as usize];
        topic.sequence += 1;
        let id = topic.id();
        if !topic.keeps {
            return Published::Sequenced(id, message, &self.topics[at as usize].shards);
        }
        self.note_holder(at, publisher);
        self.keep(at, &mut message, now);
        // It may be no more, if all rooms keep too much and nobody is in it.
        let shards = self.topics.get(at as usize).map_or(&[][..], |topic| &topic.shards);
        Published::Sequenced(id, message, shards)
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
    pub fn park_begin(&mut self, key: &str, kind: Kind, origin: Origin, past: Option<Past>) -> bool {
        let topic = self.find(key).map(|at| &mut self.topics[at as usize]);
        let Some(parking) = topic.and_then(Topic::parking_mut) else { return false };
        let is_behind = parking.has_publication_of(&origin);
        if is_behind {
            let begin = Parked::Begin(kind, past);
            self.parked.charge(origin.holder, begin.weight());
            parking.push(origin, begin);
        }
        is_behind
    }

    /// Parks the end of a subscription behind the publications that are parked in its room. `false` if none is: it may end.
    pub fn park_end(&mut self, key: &str, origin: Origin) -> bool {
        let topic = self.find(key).map(|at| &mut self.topics[at as usize]);
        let Some(parking) = topic.and_then(Topic::parking_mut) else { return false };
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
        let first = topic.parking_mut()?.pop();
        topic.tidy();
        if let Some((origin, parked)) = &first {
            self.parked.release(origin.holder, parked.weight());
        }
        first
    }

    /// Gives a message that was parked its place.
    pub fn publish_parked(&mut self, publisher: Holder, message: Message, now: Tick) -> Published<'_> {
        let Some(at) = self.find(message.key()) else { return Published::Nobody(message) };
        let topic = &self.topics[at as usize];
        if topic.shards.is_empty() && !topic.keeps {
            // Everybody has left meanwhile.
            self.tidy(at);
            return Published::Nobody(message);
        }
        self.sequence(at, publisher, message, now)
    }

    /// What the table takes, in bytes. O(rooms).
    pub fn memory(&self) -> Part {
        let index = Part {
            used: (self.index.len() * size_of::<u32>()) as u64,
            reserved: self.index.allocation_size() as u64,
        };
        let topics = Part::array(self.topics.len(), self.topics.capacity(), size_of::<Topic>());
        let mut memory: Part = [topics, index, self.history_memory()].into_iter().sum();
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
            let keeps = topic.history().is_some_and(|history| !history.is_empty());
            let is_needed = !topic.shards.is_empty() || keeps || topic.parking().is_some();
            assert!(is_needed, "{} is kept for nothing", topic.key);
            assert!(topic.shards.iter().all(|residency| residency.members > 0));
            if let Some(parking) = topic.parking() {
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
        self.check_keeping();
    }
}
