//! Rooms: who is in, which shards have members, and the next sequence number.
//!
//! A room is a topic or a user destination. Every shard with members has the room in its table; the shard
//! that `hash(key) % shards` names is its *owner* and alone gives out sequence numbers, so a room has one
//! total order without a lock. A shard tells the owner when its first member comes and its last one goes.
//!
//! This module moves no bytes: what is sequenced waits in the room's backlog until the shard fans it out, which it may
//! do in a [`Walk`] of several parts.
//!
//! Invariant: a room is in the table exactly while it has members, shards, or a backlog; the position that a
//! subscription remembers is where [`Room::members`] has it; while a walk is under way, members neither come nor go.

mod record;

use std::hash::BuildHasher;

use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use crate::chat::destination::Pattern;
use crate::chat::message::{Message, MessageId};
use crate::footprint::Part;

use record::{Backlog, Beside, Ownership};
pub use record::{Member, Room};

/// The shard that owns `key`, the same on every shard: they share `seed`.
pub fn owner_of(seed: u64, key: &str, shards: u16) -> u16 {
    let hash = FixedState::with_seed(seed).hash_one(key);
    // The high bits of the product spread as well as a remainder, without the division.
    ((u128::from(hash) * u128::from(shards)) >> 64) as u16
}

/// A message with its place in a room's order.
#[derive(Debug, Clone)]
pub struct Sequenced {
    /// Its `message-id`.
    pub id: MessageId,
    /// What was sent.
    pub message: Message,
}

/// One stay of a shard in a room, from its first member's coming to its last one's going.
///
/// What was sequenced for one stay may arrive in the next one, when the owner does not know yet that the shard
/// has left and come again. Members of the next stay must not see it: between the two the owner hands the shard
/// nothing, so they would see a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// The shard.
    pub shard: u16,
    /// Which of its stays, in any room.
    pub number: u32,
}

/// A fan-out that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Walk<'a> {
    /// What is fanned out, in the room's order.
    pub messages: &'a [Sequenced],
    /// To whom.
    pub members: &'a [Member],
    /// Position of the first member who does not have it.
    pub next: u32,
}

/// What happened to the table when a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The member that took over the position, whose subscription must be told.
    pub moved: Option<Member>,
    /// The room has no local member any more.
    pub was_last: bool,
}

/// What the rooms of one shard take; messages that are pending are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Lists of members.
    pub members: Part,
    /// The rooms themselves, their keys, what their owner keeps, and the index.
    pub rooms: Part,
}

/// The rooms of one shard.
#[derive(Debug)]
pub struct Rooms {
    rooms: Slab<Room>,
    /// What few rooms have at any time, beside them.
    owned: Slab<Ownership>,
    backlogs: Slab<Backlog>,
    index: HashTable<u32>,
    hasher: FixedState,
    lives: Lives,
    /// Which rooms are delayed.
    delayed: Vec<Pattern>,
    dirty: Vec<u32>,
    members: usize,
    stays: u32,
}

/// Gives each life of a room or queue a number of its own.
#[derive(Debug)]
pub struct Lives {
    next: u64,
    step: u64,
}

impl Lives {
    /// Numbers that no other shard and no other start of the server gives: `start` is the time of the
    /// start in seconds.
    pub fn new(start: u32, shard: u16, shards: u16) -> Self {
        Lives { next: (u64::from(start) << 32) + u64::from(shard), step: u64::from(shards) }
    }

    /// The next number.
    pub fn begin(&mut self) -> u64 {
        let life = self.next;
        self.next += self.step;
        life
    }
}

impl Rooms {
    /// An empty table. `seed` must be the same on all shards and not guessable by peers; what `delayed` names may
    /// wait for more messages.
    pub fn new(seed: u64, lives: Lives, delayed: Vec<Pattern>) -> Self {
        Rooms {
            rooms: Slab::new(),
            owned: Slab::new(),
            backlogs: Slab::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            lives,
            delayed,
            dirty: Vec::new(),
            members: 0,
            stays: 0,
        }
    }

    /// Rooms in the table.
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether there is no room.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Local members of all rooms.
    pub fn members(&self) -> usize {
        self.members
    }

    /// The room with this index.
    ///
    /// # Panics
    /// If there is none.
    pub fn room(&self, room: u32) -> &Room {
        &self.rooms[room as usize]
    }

    /// The index of the room with this key.
    pub fn find(&self, key: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |&at| self.rooms[at as usize].key == key).copied()
    }

    fn find_or_insert(&mut self, key: &str) -> u32 {
        if let Some(room) = self.find(key) {
            return room;
        }
        let room = Room {
            key: CompactString::new(key),
            members: SmallVec::new(),
            stay: 0,
            ownership: None,
            backlog: None,
            is_listed: false,
            is_delayed: self.delayed.iter().any(|pattern| pattern.matches(key)),
        };
        let at = self.rooms.insert(room) as u32;
        let (rooms, hasher) = (&self.rooms, &self.hasher);
        self.index
            .insert_unique(hasher.hash_one(key), at, |&at| hasher.hash_one(rooms[at as usize].key.as_str()));
        at
    }

    /// Forgets the room if nothing needs it.
    fn tidy(&mut self, room: u32) {
        if !self.rooms[room as usize].is_unused() {
            return;
        }
        let hash = self.hasher.hash_one(self.rooms[room as usize].key.as_str());
        if let Ok(found) = self.index.find_entry(hash, |&at| at == room) {
            found.remove();
        }
        self.rooms.remove(room as usize);
        if self.rooms.is_empty() {
            self.rooms.shrink_to_fit();
            self.owned.shrink_to_fit();
            self.index.shrink_to(0, |_| 0);
        }
    }

    /// Adds a local member. Returns the room, the member's position, and, if it is the first here, the
    /// number of the stay that begins with it, which the owner must be told.
    pub fn join(&mut self, key: &str, member: Member) -> (u32, u32, Option<u32>) {
        let at = self.find_or_insert(key);
        let room = &mut self.rooms[at as usize];
        let is_first = room.members.is_empty();
        if is_first {
            self.stays = self.stays.wrapping_add(1);
            room.stay = self.stays;
        }
        record::push(&mut room.members, member);
        self.members += 1;
        (at, room.members.len() as u32 - 1, is_first.then_some(room.stay))
    }

    /// Takes out the local member at `position`. The key stays readable through [`Rooms::key`] until
    /// [`Rooms::left`] is called with the room, which must follow.
    ///
    /// # Panics
    /// If there is no such room or position.
    pub fn leave(&mut self, room: u32, position: u32) -> Left {
        let members = &mut self.rooms[room as usize].members;
        members.swap_remove(position as usize);
        self.members -= 1;
        record::shrink(members);
        Left { moved: members.get(position as usize).copied(), was_last: members.is_empty() }
    }

    /// Ends what [`Rooms::leave`] began: forgets the room if that was its last use.
    pub fn left(&mut self, room: u32) {
        self.tidy(room);
    }

    /// The key of a room.
    pub fn key(&self, room: u32) -> &str {
        &self.rooms[room as usize].key
    }

    /// Owner: a shard has members from here on.
    pub fn add_stay(&mut self, key: &str, stay: Stay) {
        let at = self.find_or_insert(key);
        let Rooms { rooms, owned, lives, .. } = self;
        let room = &mut rooms[at as usize];
        let place = room.ownership.get_or_insert_with(|| {
            Beside::new(owned.insert(Ownership { life: lives.begin(), sequence: 0, stays: SmallVec::new() }))
        });
        let stays = &mut owned[place.place()].stays;
        debug_assert!(stays.iter().all(|other| other.shard != stay.shard), "one stay at a time");
        record::push(stays, stay);
    }

    /// Owner: `shard` has no members any more.
    pub fn end_stay(&mut self, key: &str, shard: u16) {
        let Some(at) = self.find(key) else { return };
        let room = &mut self.rooms[at as usize];
        if let Some(place) = room.ownership {
            let stays = &mut self.owned[place.place()].stays;
            stays.retain(|stay| stay.shard != shard);
            record::shrink(stays);
            if stays.is_empty() {
                room.ownership = None;
                self.owned.remove(place.place());
            }
        }
        self.tidy(at);
    }

    /// Owner: the shards that have members of this room.
    pub fn stays(&self, room: u32) -> &[Stay] {
        let ownership = self.rooms[room as usize].ownership;
        ownership.map_or(&[], |place| &self.owned[place.place()].stays)
    }

    /// Owner: gives a message of this room its number. `None` if nobody is in the room.
    pub fn sequence(&mut self, room: u32) -> Option<MessageId> {
        let ownership = &mut self.owned[self.rooms[room as usize].ownership?.place()];
        ownership.sequence += 1;
        Some(MessageId { life: ownership.life, sequence: ownership.sequence })
    }

    /// Leaves a message that was sequenced for the stay with this number for the local members. Returns the bytes that
    /// are pending.
    pub fn deliver(&mut self, at: u32, sequenced: Sequenced, stay: u32) -> u64 {
        let room = &mut self.rooms[at as usize];
        if room.members.is_empty() || room.stay != stay {
            return 0;
        }
        if !room.is_listed {
            room.is_listed = true;
            self.dirty.push(at);
        }
        let backlogs = &mut self.backlogs;
        let place = *room.backlog.get_or_insert_with(|| Beside::new(backlogs.insert(Backlog::default())));
        let backlog = &mut backlogs[place.place()];
        backlog.pending_bytes += sequenced.message.weight();
        backlog.pending.push(sequenced);
        backlog.pending_bytes
    }

    /// The walk that is under way, or one that begins with all that is pending; `None` if there is nothing to fan out.
    /// [`Rooms::walked`] must be told how far it went before anything else happens to the room.
    pub fn walk(&mut self, room: u32) -> Option<Walk<'_>> {
        let Room { members, backlog, .. } = &self.rooms[room as usize];
        let backlog = &mut self.backlogs[(*backlog)?.place()];
        if backlog.walk.is_empty() {
            std::mem::swap(&mut backlog.walk, &mut backlog.pending);
            (backlog.pending_bytes, backlog.next) = (0, 0);
        }
        Some(Walk { messages: &backlog.walk, members, next: backlog.next })
    }

    /// The members before `next` have all that the walk is for.
    pub fn walked(&mut self, room: u32, next: u32) {
        let room = &mut self.rooms[room as usize];
        let Some(place) = room.backlog else { return };
        let backlog = &mut self.backlogs[place.place()];
        backlog.next = next;
        if (next as usize) < room.members.len() {
            return;
        }
        backlog.walk.clear();
        if backlog.pending.is_empty() {
            self.backlogs.remove(place.place());
            room.backlog = None;
        }
    }

    fn backlog(&self, room: u32) -> Option<&Backlog> {
        self.rooms.get(room as usize)?.backlog.map(|place| &self.backlogs[place.place()])
    }

    /// Whether anything waits for members of this room. `false` if there is no such room: one on a list may have
    /// been forgotten meanwhile.
    pub fn has_backlog(&self, room: u32) -> bool {
        self.rooms.get(room as usize).is_some_and(|room| room.backlog.is_some())
    }

    /// Whether what is pending may wait for more: not while a walk goes on, which is waiting enough. `false` if there
    /// is no such room.
    pub fn may_wait(&self, room: u32) -> bool {
        self.backlog(room).is_some_and(|backlog| backlog.walk.is_empty())
            && self.rooms[room as usize].is_delayed
    }

    /// Runs of members with the same form. O(members).
    pub fn runs(&self, room: u32) -> usize {
        self.rooms[room as usize].members.chunk_by(|one, next| one.form == next.form).count()
    }

    /// Bytes that wait for the walk under way to end.
    pub fn pending_bytes(&self, room: u32) -> u64 {
        self.backlog(room).map_or(0, |backlog| backlog.pending_bytes)
    }

    /// Takes the list of rooms that have something pending since it was last taken. A room in it may have been
    /// emptied or forgotten in between; it is not listed anew until [`Rooms::unlist`] is called for it.
    pub fn take_dirty(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.dirty);
    }

    /// Whether [`Rooms::take_dirty`] would give any.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The room is on no list any more: what comes to it next lists it.
    pub fn unlist(&mut self, room: u32) {
        if let Some(room) = self.rooms.get_mut(room as usize) {
            room.is_listed = false;
        }
    }

    /// Gives back what so many rooms with a backlog in one turn do not need.
    pub fn shrink_to(&mut self, backlogs: usize) {
        self.dirty.shrink_to(backlogs);
        if self.backlogs.is_empty() && self.backlogs.capacity() > backlogs {
            self.backlogs.shrink_to_fit();
        }
    }

    /// What the table takes. O(rooms).
    pub fn memory(&self) -> Memory {
        let index = Part {
            used: (self.index.len() * size_of::<u32>()) as u64,
            reserved: self.index.allocation_size() as u64,
        };
        let rooms = Part::array(self.rooms.len(), self.rooms.capacity(), size_of::<Room>());
        let owned = Part::array(self.owned.len(), self.owned.capacity(), size_of::<Ownership>());
        let mut memory = Memory { members: Part::default(), rooms: [rooms, owned, index].into_iter().sum() };
        for (_, room) in &self.rooms {
            // Two members and a short key are in the record, whether there are so many or not.
            if room.members.spilled() {
                let capacity = room.members.capacity();
                memory.members += Part::array(room.members.len(), capacity, size_of::<Member>());
            }
            if room.key.is_heap_allocated() {
                memory.rooms += Part { used: room.key.len() as u64, reserved: room.key.capacity() as u64 };
            }
        }
        for (_, ownership) in self.owned.iter().filter(|(_, ownership)| ownership.stays.spilled()) {
            let stays = &ownership.stays;
            memory.rooms += Part::array(stays.len(), stays.capacity(), size_of::<Stay>());
        }
        memory
    }

    /// Panics unless the table agrees with itself.
    pub fn check(&self) {
        assert_eq!(self.index.len(), self.rooms.len());
        let (mut members, mut owned, mut backlogs) = (0, 0, 0);
        for (at, room) in &self.rooms {
            assert!(!room.is_unused(), "{} is kept for nothing", room.key);
            assert_eq!(self.find(&room.key), Some(at as u32));
            if let Some(place) = room.ownership {
                assert!(!self.owned[place.place()].stays.is_empty());
                owned += 1;
            }
            if let Some(place) = room.backlog {
                let backlog = &self.backlogs[place.place()];
                assert!(room.is_listed, "{}: nobody will fan it out", room.key);
                assert!(
                    !(backlog.pending.is_empty() && backlog.walk.is_empty()),
                    "{}: owes nothing",
                    room.key
                );
                assert!(backlog.walk.is_empty() || (backlog.next as usize) < room.members.len());
                backlogs += 1;
            }
            members += room.members.len();
        }
        assert_eq!((members, owned, backlogs), (self.members, self.owned.len(), self.backlogs.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::destination::Destination;
    use crate::chat::intern::Symbol;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn rooms() -> Rooms {
        Rooms::new(3, Lives::new(1, 0, 2), Vec::new())
    }

    #[test]
    fn a_room_is_forgotten_with_its_last_use_and_lives_again_under_another_number() {
        let mut rooms = rooms();
        rooms.add_stay("/topic/a", Stay { shard: 1, number: 1 });
        let room = rooms.find("/topic/a").unwrap();
        let first = rooms.sequence(room).unwrap();
        assert_eq!(rooms.sequence(room).unwrap().sequence, first.sequence + 1);
        rooms.end_stay("/topic/a", 1);
        assert!(rooms.is_empty());
        assert_eq!(rooms.find("/topic/a"), None);
        rooms.add_stay("/topic/a", Stay { shard: 0, number: 1 });
        let room = rooms.find("/topic/a").unwrap();
        assert_ne!(rooms.sequence(room).unwrap().life, first.life);
        rooms.check();
    }

    #[test]
    fn messages_wait_for_members_only() {
        let mut rooms = rooms();
        let destination = Destination::parse_send("/topic/a").unwrap();
        let sequenced = || Sequenced {
            id: MessageId { life: 1, sequence: 1 },
            message: Message::new(&destination, b"", b"0123456789"),
        };
        rooms.add_stay("/topic/a", Stay { shard: 0, number: 1 });
        let weight = sequenced().message.weight();
        assert_eq!(rooms.deliver(rooms.find("/topic/a").unwrap(), sequenced(), 1), 0);
        let (room, position, stay) = rooms.join("/topic/a", Member { connection: 1, form: Symbol(0) });
        let first = stay.unwrap();
        assert_eq!(rooms.deliver(room, sequenced(), first), weight);
        assert_eq!(rooms.deliver(room, sequenced(), first), 2 * weight);
        let walk = rooms.walk(room).unwrap();
        assert_eq!((walk.messages.len(), walk.members.len(), walk.next), (2, 1, 0));
        // What comes while a walk is under way waits for the next one.
        assert_eq!(rooms.deliver(room, sequenced(), first), weight);
        assert_eq!(rooms.pending_bytes(room), weight);
        rooms.walked(room, 0);
        assert_eq!(rooms.walk(room).unwrap().messages.len(), 2);
        rooms.walked(room, 1);
        assert_eq!(rooms.walk(room).unwrap().messages.len(), 1);
        assert_eq!(rooms.pending_bytes(room), 0);
        rooms.walked(room, 1);
        assert!(!rooms.has_backlog(room));
        assert!(rooms.walk(room).is_none());
        rooms.check();
        // What was under way to those who have left is not for those who come after them.
        rooms.leave(room, position);
        let (room, _, stay) = rooms.join("/topic/a", Member { connection: 2, form: Symbol(0) });
        assert_eq!(rooms.deliver(room, sequenced(), first), 0);
        assert!(!rooms.has_backlog(room));
        assert_eq!(rooms.deliver(room, sequenced(), stay.unwrap()), weight);
    }

    #[test]
    fn a_small_room_takes_its_record_and_nothing_else_and_a_list_that_has_shrunk_goes_back_into_it() {
        let mut rooms = rooms();
        let join = |rooms: &mut Rooms, connection| {
            rooms.join("/topic/room-of-24-bytes-", Member { connection, form: Symbol(0) })
        };
        let (room, ..) = join(&mut rooms, 0);
        join(&mut rooms, 1);
        let small = rooms.memory();
        assert_eq!(small.members, Part::default());
        assert_eq!(small.rooms.used, (size_of::<Room>() + size_of::<u32>()) as u64);
        for connection in 2..100 {
            join(&mut rooms, connection);
            let Part { used, reserved } = rooms.memory().members;
            assert!(reserved <= used + used / 4 + 8, "{used} of {reserved}");
        }
        for _ in 1..100 {
            rooms.leave(room, 0);
        }
        assert_eq!(rooms.memory(), small);
    }

    #[test]
    fn owners_are_spread() {
        let mut counts = [0u32; 8];
        for room in 0..8000 {
            counts[owner_of(42, &format!("/topic/{room}"), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn members_and_positions_agree_with_a_plain_model(
            steps in prop::collection::vec((0u8..5, 0u32..40, any::<bool>()), 0..400)
        ) {
            let mut rooms = rooms();
            // The model: where each (room, connection) is.
            let mut model: HashMap<(u8, u32), (u32, u32)> = HashMap::new();
            for (name, connection, join) in steps {
                let key = format!("/topic/{name}");
                if join && !model.contains_key(&(name, connection)) {
                    let (room, position, first) = rooms.join(&key, Member { connection, form: Symbol(0) });
                    prop_assert_eq!(first.is_some(), !model.keys().any(|(other, _)| *other == name));
                    model.insert((name, connection), (room, position));
                } else if let Some((room, position)) = model.remove(&(name, connection)) {
                    let left = rooms.leave(room, position);
                    if let Some(moved) = left.moved {
                        model.insert((name, moved.connection), (room, position));
                    }
                    prop_assert_eq!(left.was_last, !model.keys().any(|(other, _)| *other == name));
                    rooms.left(room);
                }
                rooms.check();
                for ((name, connection), (room, position)) in &model {
                    prop_assert_eq!(rooms.key(*room), format!("/topic/{name}"));
                    prop_assert_eq!(rooms.room(*room).members()[*position as usize].connection, *connection);
                }
            }
        }
    }
}
