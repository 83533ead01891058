//! What a shard does for its members of rooms: who they are, what they are owed, and how it reaches their sockets.
//!
//! A room's owner says who joins and leaves, and in which order messages come; this component hands them out. What members
//! are owed is kept once, in the room's [`log`](mod@log). A *walk* hands it to the members one after the other (`walk`); who cannot take
//! it at once has a *debt* in its output, which is served when its socket takes bytes (`laggards`).
//!
//! The list of a room's members is in three parts while a walk is under way:
//!
//! ```text
//! [ unwalked: owed from start on | walked: owed from end on | parked: owed from a position of their own on ]
//!   0 .. left                      left .. in_step            in_step ..
//! ```
//!
//! Who joins while nothing is owed beyond the walk is walked already. Else it is parked until a walk covers its position: then
//! what it is owed of that walk is a debt. Who leaves is owed all up to the log's head: a debt that does not grow. Both cost
//! O(1), and at most three members move.
//!
//! A debt is made, and grows, by a walk alone. So a member that is in step needs nothing else, and one that is not costs no
//! more than a look at each walk.
//!
//! It knows connections, and nothing of sessions: a move tells the position that a subscription must remember.
//!
//! Invariant: a room is in the table exactly while it has members or a log; a room with something to walk is on one of the
//! lists (dirty, waiting, delayed) once; each debt is counted in the log at its position ([`Members::check`]).

pub mod encode;
mod laggards;
pub mod log;
mod record;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::num::NonZeroU32;

use compact_str::CompactString;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use crate::conn::output::{Debt, Output};
use crate::conn::table::Connections;
use crate::footprint::Part;
use crate::message::Sequenced;
use crate::message::class::Class;
use crate::message::destination::Pattern;
use crate::message::interner::{Interner, Symbol};
use crate::time::Micros;

use encode::Encoder;
pub use laggards::Written;
use log::{Entries, Log};
use record::Beside;
pub use record::{Member, Room};
pub use walk::{Context, Outcome, Terms};

/// The log of a room, and how far its walk is.
#[derive(Debug, Default)]
struct Pending {
    log: Log,
    /// Members before it have not been walked; all members in step, if no walk is under way.
    left: u32,
    /// Members from here on are parked.
    in_step: u32,
    /// For each parked member the position from which on it is owed.
    parked: VecDeque<u64>,
    /// On a list of rooms to walk.
    is_listed: bool,
    /// It has more to walk than it may have, and its owner was told.
    is_full: bool,
}

/// A member has another position in its room, which its subscription must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Whose subscription.
    pub connection: u32,
    /// In which room.
    pub room: u32,
    /// Where it was.
    pub from: u32,
    /// Where it is.
    pub to: u32,
}

/// What came of a subscription's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// It is owed something, or one before it with its id is: the debt will say that the request is done.
    pub is_owed: bool,
}

/// What the rooms of one shard take, in bytes; logs are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Lists of members.
    pub members: Part,
    /// The rooms themselves, their keys, and the index.
    pub rooms: Part,
}

/// See the module.
#[derive(Debug)]
pub struct Members {
    rooms: Slab<Room>,
    pending: Slab<Pending>,
    index: HashTable<u32>,
    hasher: FixedState,
    classes: Interner<Class>,
    encoder: Encoder,
    /// Which rooms are delayed.
    delayed_rooms: Vec<Pattern>,
    /// Rooms with something to walk that have not had a share of a turn.
    dirty: Vec<u32>,
    /// Rooms whose walk goes on in the next turn.
    waiting: VecDeque<u32>,
    /// Rooms whose messages wait for more, and until when; the first is due first.
    delayed: VecDeque<(u32, Micros)>,
    /// Moves that subscriptions have not been told.
    moved: Vec<Moved>,
    /// Keys of rooms that were full and have room again.
    ready: Vec<Box<str>>,
    members: u64,
    /// Messages that were handed to members, or are owed to them, since [`Members::take_delivered`].
    delivered: u64,
    /// What all logs hold, in bytes.
    held: u64,
    list: Vec<u32>,
    /// Memory of logs that are no more, for the next ones.
    spare: Vec<Entries>,
}

impl Members {
    /// No rooms. `hasher` must not be guessable by peers; what `delayed` names may wait for more messages.
    pub fn new(seed: u64, delayed: Vec<Pattern>) -> Self {
        Members {
            rooms: Slab::new(),
            pending: Slab::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            classes: Interner::new(seed),
            encoder: Encoder::default(),
            delayed_rooms: delayed,
            dirty: Vec::new(),
            waiting: VecDeque::new(),
            delayed: VecDeque::new(),
            moved: Vec::new(),
            ready: Vec::new(),
            members: 0,
            delivered: 0,
            held: 0,
            list: Vec::new(),
            spare: Vec::new(),
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
    pub fn members(&self) -> u64 {
        self.members
    }

    /// What all logs hold, in bytes.
    pub fn held_bytes(&self) -> u64 {
        self.held
    }

    /// Rooms with something that some of their members have not been handed.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The encoding classes of all subscriptions.
    pub fn classes(&self) -> &Interner<Class> {
        &self.classes
    }

    /// The encoding classes of all subscriptions, to acquire and release.
    pub fn classes_mut(&mut self) -> &mut Interner<Class> {
        &mut self.classes
    }

    /// The room with this index.
    ///
    /// # Panics
    /// If there is none.
    pub fn room(&self, room: u32) -> &Room {
        &self.rooms[room as usize]
    }

    /// The key of a room.
    ///
    /// # Panics
    /// If there is none.
    pub fn key(&self, room: u32) -> &str {
        &self.rooms[room as usize].key
    }

    /// The index of the room with this key.
    pub fn find(&self, key: &str) -> Option<u32> {
        self.find_hashed(key.as_bytes(), self.hasher.hash_one(key.as_bytes()))
    }

    /// The index of the room with this key, whose hash by the shard's seed is known.
    pub fn find_hashed(&self, key: &[u8], hash: u64) -> Option<u32> {
        self.index.find(hash, |&at| self.rooms[at as usize].key.as_bytes() == key).copied()
    }

    fn find_or_insert(&mut self, key: &str) -> u32 {
        if let Some(room) = self.find(key) {
            return room;
        }
        let room = Room {
            key: CompactString::new(key),
            members: SmallVec::new(),
            pending: None,
            is_delayed: self.delayed_rooms.iter().any(|pattern| pattern.matches(key)),
        };
        let at = self.rooms.insert(room) as u32;
        let (rooms, hasher) = (&self.rooms, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key.as_bytes()), at, |&at| {
            hasher.hash_one(rooms[at as usize].key.as_bytes())
        });
        at
    }

    // ---- joining and leaving ----

    /// Adds a member, which is owed what is appended from here on. Returns the room and the member's position.
    pub fn join(&mut self, key: &str, member: Member) -> (u32, u32) {
        let at = self.find_or_insert(key);
        let room = &mut self.rooms[at as usize];
        record::push(&mut room.members, member);
        self.members += 1;
        if let Some(place) = room.pending {
            let pending = &mut self.pending[place.place()];
            let boundary = pending.log.end();
            if pending.log.head() == boundary {
                debug_assert!(pending.parked.is_empty(), "who is parked is owed something beyond the walk");
                pending.left += u32::from(!pending.log.is_walking());
                pending.in_step += 1;
            } else {
                pending.parked.push_back(pending.log.head());
            }
        }
        (at, room.members.len() as u32 - 1)
    }

    /// Takes out the member at `position`, whose output this is. What it is owed stays as a debt, with the `request` that is
    /// done when it is paid. [`Members::take_moved`] must be asked before anything else is done with positions.
    ///
    /// # Panics
    /// If there is no such room or position.
    pub fn leave(
        &mut self,
        at: u32,
        position: u32,
        output: &mut Output,
        request: Option<NonZeroU32>,
    ) -> Left {
        let class = self.rooms[at as usize].members[position as usize].class;
        let from = self.take_out(at, position);
        let Members { rooms, pending, .. } = self;
        let mut is_owed = false;
        if let Some(place) = rooms[at as usize].pending
            && let Some(from) = from
        {
            let log = &mut pending[place.place()].log;
            let to = log.head();
            if from < to {
                self.delivered += to - from;
                laggards::owe(output, log, (at, class), from..to, 0);
            }
            let debts = output.queue().map(|queue| &mut queue.debts);
            let debt = debts.and_then(|debts| debts.iter_mut().find(|debt| laggards::is_of(debt, at, class)));
            if let Some(debt) = debt {
                (debt.is_left, debt.request) = (true, request);
                is_owed = true;
            }
        }
        if !is_owed {
            self.classes.release(class);
            // What one before it with its id is owed comes first: the client cannot tell the two apart. If somebody waits for
            // that already, the receipts leave in their order.
            let is_older = |debt: &&mut Debt| debt.is_left && debt.class == class && debt.request.is_none();
            let debts = output.queue().map(|queue| &mut queue.debts);
            if let Some(older) = debts.and_then(|debts| debts.iter_mut().rfind(is_older)) {
                older.request = request;
                is_owed = true;
            }
        }
        self.settle(at);
        Left { is_owed }
    }

    /// Takes out a member to which nothing more will be sent, and whose debts are dropped.
    ///
    /// # Panics
    /// If there is no such room or position.
    pub fn forget(&mut self, at: u32, position: u32) {
        let class = self.rooms[at as usize].members[position as usize].class;
        self.take_out(at, position);
        self.classes.release(class);
        self.settle(at);
    }

    /// Takes a member out of the list, and says from which position of the log on it is owed; `None` if there is no log.
    fn take_out(&mut self, at: u32, position: u32) -> Option<u64> {
        let Members { rooms, pending, moved, .. } = self;
        let room = &mut rooms[at as usize];
        let members = &mut room.members;
        let mut hole = position as usize;
        let mut fill = |members: &mut SmallVec<[Member; 2]>, hole: &mut usize, from: usize| {
            if *hole != from {
                members[*hole] = members[from];
                let connection = members[from].connection;
                moved.push(Moved { connection, room: at, from: from as u32, to: *hole as u32 });
                *hole = from;
            }
        };
        let mut owed_from = None;
        if let Some(place) = room.pending {
            let Pending { log, left, in_step, parked, .. } = &mut pending[place.place()];
            let is_unwalked = position < *left;
            if is_unwalked {
                owed_from = Some(log.start());
                *left -= 1;
                fill(members, &mut hole, *left as usize);
            }
            if position < *in_step {
                owed_from = owed_from.or(Some(log.end()));
                *in_step -= 1;
                fill(members, &mut hole, *in_step as usize);
            }
            if owed_from.is_none() {
                owed_from = parked.swap_remove_back((position - *in_step) as usize);
            } else if let Some(last) = parked.pop_back() {
                // The last of those parked fills the hole before the first of them.
                parked.push_front(last);
            }
        }
        fill(members, &mut hole, members.len() - 1);
        members.truncate(hole);
        record::shrink(members);
        self.members -= 1;
        owed_from
    }

    /// Takes the list of moves, in the order in which they happened.
    pub fn take_moved(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved)
    }

    /// Gives a list back that [`Members::take_moved`] gave out, for its memory.
    pub fn reuse_moved(&mut self, mut moved: Vec<Moved>) {
        moved.clear();
        if self.moved.is_empty() {
            self.moved = moved;
        }
    }

    // ---- messages ----

    /// Appends a message that the owner has sequenced to what members are owed. Returns whether the room is full with it, and
    /// was not before: the owner must be told, and [`Members::take_ready`] will name the room when it has room again.
    pub fn deliver(&mut self, at: u32, sequenced: Sequenced, bytes_max: u64) -> bool {
        let Members { rooms, pending, held, dirty, spare, ready, .. } = self;
        let room = &mut rooms[at as usize];
        if room.members.is_empty() {
            return false;
        }
        let in_step = room.members.len() as u32;
        let place = *room.pending.get_or_insert_with(|| {
            let log = spare.pop().map_or_else(Log::default, Log::in_memory_of);
            Beside::new(pending.insert(Pending { log, left: in_step, in_step, ..Pending::default() }))
        });
        let pending = &mut pending[place.place()];
        *held += pending.log.append(sequenced);
        if !std::mem::replace(&mut pending.is_listed, true) {
            dirty.push(at);
        }
        let is_full = pending.log.unwalked_bytes() > bytes_max;
        let is_new = is_full && !std::mem::replace(&mut pending.is_full, true);
        if is_new {
            // It had room for a moment, which nobody has been told, and must not be told behind this.
            ready.retain(|key| **key != *room.key);
        }
        is_new
    }

    /// Forgets what was encoded. A class that ends gives its symbol to another: who is owed messages has come before them, so to a
    /// debt that makes no difference, but to those who get messages from before they came it does.
    pub fn forget_runs(&mut self) {
        self.encoder.begin();
    }

    /// Queues messages as answers that look as a subscription of this class wants them. Returns the bytes. Since
    /// [`Members::forget_runs`] no class may have begun.
    pub fn answer_with(&mut self, class: Symbol, messages: &[Sequenced], output: &mut Output) -> usize {
        if messages.is_empty() {
            return 0;
        }
        self.encoder.make_room();
        let run = self.encoder.run(class, messages.iter(), &self.classes);
        self.encoder.each_frame(run, |frame| output.append(frame));
        self.encoder.bytes(run)
    }

    /// Messages that were handed to members, or are owed to them and to those who have left, since this was last asked.
    pub fn take_delivered(&mut self) -> u64 {
        std::mem::take(&mut self.delivered)
    }

    /// Keys of rooms that were full and have room again.
    pub fn take_ready(&mut self) -> Vec<Box<str>> {
        let mut ready = std::mem::take(&mut self.ready);
        // One may be full again, which its owner has been told already.
        ready.retain(|key| {
            let room = self.find(key).and_then(|at| self.rooms[at as usize].pending);
            room.is_none_or(|place| !self.pending[place.place()].is_full)
        });
        ready
    }

    /// Drops what nobody needs of a room's log; forgets the log if it is empty, and the room if nothing is left of it.
    fn settle(&mut self, at: u32) {
        let Members { rooms, pending, held, ready, spare, .. } = self;
        let Some(room) = rooms.get_mut(at as usize) else { return };
        if let Some(place) = room.pending {
            let state = &mut pending[place.place()];
            if room.members.is_empty() {
                state.log.skip_walks();
            } else if state.log.is_walking() && state.left == 0 {
                state.log.end_walk();
                state.left = state.in_step;
            }
            *held -= state.log.trim();
            let is_walked = state.log.is_walked();
            if state.is_full && is_walked {
                state.is_full = false;
                ready.push(room.key.as_str().into());
            }
            if is_walked && state.log.is_empty() && !state.is_listed {
                debug_assert!(state.parked.is_empty());
                spare.extend(pending.remove(place.place()).log.into_memory());
                room.pending = None;
            }
        }
        if room.members.is_empty() && room.pending.is_none() {
            self.forget_room(at);
        }
    }

    fn forget_room(&mut self, at: u32) {
        let hash = self.hasher.hash_one(self.rooms[at as usize].key.as_bytes());
        if let Ok(found) = self.index.find_entry(hash, |&other| other == at) {
            found.remove();
        }
        self.rooms.remove(at as usize);
        if self.rooms.is_empty() {
            self.rooms.shrink_to_fit();
            self.index.shrink_to(0, |_| 0);
        }
    }

    // ---- memory ----

    /// Gives back what so many rooms with a log in one turn do not need.
    pub fn shrink_to(&mut self, kept: usize, scratch_bytes: usize) {
        self.encoder.shrink_to(scratch_bytes);
        self.spare = Vec::new();
        self.dirty.shrink_to(kept);
        self.list.shrink_to(kept);
        self.waiting.shrink_to(kept);
        self.delayed.shrink_to(kept);
        self.moved.shrink_to(kept);
        self.ready.shrink_to(kept);
        if self.pending.is_empty() && self.pending.capacity() > kept {
            self.pending.shrink_to_fit();
        }
    }

    /// What the table takes. O(rooms).
    pub fn memory(&self) -> Memory {
        let index = Part {
            used: (self.index.len() * size_of::<u32>()) as u64,
            reserved: self.index.allocation_size() as u64,
        };
        let rooms = Part::array(self.rooms.len(), self.rooms.capacity(), size_of::<Room>());
        let mut memory = Memory { members: Part::default(), rooms: [rooms, index].into_iter().sum() };
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
        memory
    }

    /// What the lists of a turn take.
    pub fn list_memory(&self) -> Part {
        let dirty = Part::array(self.dirty.len(), self.dirty.capacity(), size_of::<u32>());
        let list = Part::array(self.list.len(), self.list.capacity(), size_of::<u32>());
        [dirty, list].into_iter().sum()
    }

    /// Panics unless the table agrees with itself, and with the debts of `connections`.
    pub fn check(&self, connections: &Connections) {
        self.classes.check();
        assert_eq!(self.index.len(), self.rooms.len());
        assert!(self.moved.is_empty(), "a subscription does not know where its member is");
        let mut readers: std::collections::HashMap<u32, u64> = std::collections::HashMap::new();
        for (_, connection) in connections.iter() {
            let mut lag = 0;
            for debt in connection.output.debts() {
                let room = &self.rooms[debt.room as usize];
                let place = room.pending.expect("a debt has a log");
                let log = &self.pending[place.place()].log;
                assert!(debt.end() <= log.head());
                lag += log.weight(debt.next, debt.end());
                *readers.entry(debt.room).or_default() += 1;
            }
            assert_eq!(lag, connection.output.bytes() - connection.output.answer_bytes());
        }
        let (mut members, mut logs, mut held) = (0, 0, 0);
        for (at, room) in &self.rooms {
            assert!(!room.members.is_empty() || room.pending.is_some(), "{} is kept for nothing", room.key);
            assert_eq!(self.find(&room.key), Some(at as u32));
            members += room.members.len() as u64;
            let Some(place) = room.pending else { continue };
            let Pending { log, left, in_step, parked, is_listed, .. } = &self.pending[place.place()];
            log.check();
            assert_eq!(log.readers(), readers.remove(&(at as u32)).unwrap_or(0));
            assert!(*is_listed || log.is_walked(), "{}: nobody will walk it", room.key);
            assert!(*is_listed || !log.is_empty(), "{}: an empty log", room.key);
            assert!(left <= in_step && *in_step as usize + parked.len() == room.members.len());
            assert!(log.is_walking() || left == in_step);
            assert!(!log.is_walking() || *left > 0, "{}: a walk that has ended", room.key);
            assert!(parked.iter().all(|from| *from > log.end() && *from <= log.head()));
            logs += 1;
            held += log.held_bytes();
        }
        assert!(readers.is_empty(), "debts without a log");
        assert_eq!((members, logs, held), (self.members, self.pending.len(), self.held));
    }
}
