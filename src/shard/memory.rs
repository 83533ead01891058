//! What a shard's memory is for: one line for each of its parts.
//!
//! Invariant: no byte is in two parts.

use std::collections::HashMap;

use super::{Closed, ConnKey, Shard, Slot};
use crate::chat::room;
use crate::chat::session::{Session, Subscription};
use crate::conn::Connection;
use crate::footprint::Part;
use crate::time;

/// What a slab makes of a slot: a connection, or the number of the next free place.
#[allow(dead_code, reason = "only its size is used")]
enum Place {
    Vacant(usize),
    Occupied(Slot),
}

/// Bytes of one connection in the shard's table, its session with one subscription included.
pub const SLOT_BYTES: usize = size_of::<Place>();
/// Of these, the connection's.
pub const CONNECTION_BYTES: usize = size_of::<Connection>();
/// Of these, the session's, without its subscription.
pub const SESSION_BYTES: usize = size_of::<Session>() - SUBSCRIPTION_BYTES;
/// Of these, those of the one subscription that is kept in place.
pub const SUBSCRIPTION_BYTES: usize = size_of::<Subscription>();
// The slab adds nothing: whether a place is taken is in a niche.
const _: () = assert!(SLOT_BYTES == CONNECTION_BYTES + SESSION_BYTES + SUBSCRIPTION_BYTES);

/// The parts of a shard's memory that grow with its connections. Messages that wait in queues, in rooms and
/// in mailboxes are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Slots: connections and sessions, with one subscription each.
    pub slots: Part,
    /// Subscriptions of the sessions that have several.
    pub more_subscriptions: Part,
    /// Deadlines.
    pub timers: Part,
    /// Lists of members.
    pub members: Part,
    /// Rooms, their keys, what an owner keeps of them, and the index over them.
    pub rooms: Part,
    /// Forms of subscriptions, logins and names of queues, each held once.
    pub interned: Part,
    /// Incomplete input, unsent segments, and what a busy session has. A segment that several queues share is
    /// in none of them.
    pub buffers: Part,
    /// Lists that a turn uses and keeps for the next one.
    pub lists: Part,
}

impl Shard {
    /// What the shard's memory is for. O(connections + rooms).
    #[must_use]
    pub fn memory(&self) -> Memory {
        let room::Memory { members, rooms } = self.rooms.memory();
        let pool = self.pool.stats();
        let mut memory = Memory {
            slots: Part::array(self.slots.len(), self.slots.capacity(), SLOT_BYTES),
            more_subscriptions: Part::default(),
            timers: Part::array(self.wheel.len(), self.wheel.capacity(), time::BYTES_PER_KEY),
            members,
            rooms,
            interned: [self.forms.memory(|form| form.id.len()), self.names.memory(|name| name.len())]
                .into_iter()
                .sum(),
            buffers: Part { used: pool.leased_bytes, reserved: pool.leased_bytes + pool.kept_bytes },
            lists: self.lists_memory(),
        };
        for (_, slot) in &self.slots {
            memory.more_subscriptions += slot.session.more_subscriptions();
            memory.buffers += Part::exact(slot.connection.boxed_bytes() + slot.session.boxed_bytes());
        }
        memory
    }

    /// What unsent segments take, those that many queues share once, and the queues beside. O(segments).
    pub(super) fn held_bytes(&self) -> u64 {
        let mut held = HashMap::default();
        let mut boxed = 0;
        for (_, slot) in &self.slots {
            slot.connection.outbound.note_held(&mut held);
            boxed += slot.connection.outbound.boxed_bytes();
        }
        (held.values().sum::<usize>() + boxed) as u64
    }

    /// Between two turns these lists are empty, but for what is still to be done.
    fn lists_memory(&self) -> Part {
        let indices = [&self.dirty, &self.lists, &self.fired]
            .map(|list| Part::array(list.len(), list.capacity(), size_of::<u32>()));
        let keys = [&self.resumable, &self.resumed, &self.stalled, &self.stalled_served]
            .map(|list| Part::array(list.len(), list.capacity(), size_of::<ConnKey>()));
        let closed = Part::array(self.closed.len(), self.closed.capacity(), size_of::<Closed>());
        indices.into_iter().chain(keys).chain([closed, self.suspects.memory()]).sum()
    }
}
