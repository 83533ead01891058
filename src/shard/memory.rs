//! What a shard's memory is for: one line for each of its parts.
//!
//! Invariant: no byte is in two parts.

use super::{ConnKey, Shard};
use crate::conn::Connection;
use crate::footprint::Part;
use crate::members;
use crate::session::{Session, Subscription};

/// What a slab makes of a place: a connection, or the number of the next free place.
#[allow(dead_code, reason = "only its size is used")]
enum Place {
    Vacant(usize),
    Occupied(Connection),
}

/// Bytes of one connection in the shard's tables, its session with one subscription included.
pub const SLOT_BYTES: usize = size_of::<Place>() + size_of::<Session>();
/// Of these, the connection's.
pub const CONNECTION_BYTES: usize = size_of::<Connection>();
/// Of these, the session's, without its subscription.
pub const SESSION_BYTES: usize = size_of::<Session>() - SUBSCRIPTION_BYTES;
/// Of these, those of the one subscription that is kept in place.
pub const SUBSCRIPTION_BYTES: usize = size_of::<Subscription>();
// The slab adds nothing: whether a place is taken is in a niche.
const _: () = assert!(SLOT_BYTES == CONNECTION_BYTES + SESSION_BYTES + SUBSCRIPTION_BYTES);
// What every connection costs in the shard's own tables. The other parts: control block and index entry (`tcb`), timer (12
// bytes), room membership (8 bytes).
const _: () = assert!(SLOT_BYTES <= 96);
// So the part of a connection that a delivery touches is in one cache line in every place.
const _: () = assert!(CONNECTION_BYTES.is_multiple_of(16));

/// The parts of a shard's memory that grow with its connections. Messages that wait in queues, in logs and
/// in mailboxes are not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Connections and sessions, with one subscription each.
    pub slots: Part,
    /// Subscriptions of the sessions that have several.
    pub more_subscriptions: Part,
    /// Deadlines.
    pub timers: Part,
    /// Lists of members.
    pub members: Part,
    /// Rooms, their keys, what an owner keeps of them, and the indices over them.
    pub rooms: Part,
    /// Classes of subscriptions, logins and names of queues, each held once.
    pub interned: Part,
    /// Incomplete input, and what is unsent of each connection, and what a busy session has.
    pub buffers: Part,
    /// Lists that a turn uses and keeps for the next one.
    pub lists: Part,
}

impl Shard {
    /// What the shard's memory is for. O(connections + rooms).
    #[must_use]
    pub fn memory(&self) -> Memory {
        let members::Memory { members, rooms } = self.members.memory();
        let pool = self.inputs.pool.stats();
        let (connections, deadlines) = self.connections.memory();
        let (sessions, names, expiries) = self.sessions.memory();
        let classes = self.members.classes().memory(|class| class.id.len());
        let mut memory = Memory {
            slots: [connections, sessions].into_iter().sum(),
            more_subscriptions: Part::default(),
            timers: [deadlines, expiries].into_iter().sum(),
            members,
            rooms: [rooms, self.topics.memory()].into_iter().sum(),
            interned: [classes, names].into_iter().sum(),
            buffers: Part { used: pool.leased_bytes, reserved: pool.leased_bytes + pool.kept_bytes },
            lists: self.lists_memory(),
        };
        for (_, connection) in self.connections.iter() {
            memory.buffers += Part::exact(connection.boxed_bytes());
        }
        for session in self.sessions.iter() {
            memory.more_subscriptions += session.subscriptions().memory();
            memory.buffers += Part::exact(session.boxed_bytes());
        }
        memory
    }

    /// Between two turns these lists are empty, but for what is still to be done.
    fn lists_memory(&self) -> Part {
        let keys = [self.holds.list(), self.inputs.list()]
            .map(|list| Part::array(list.len(), list.capacity(), size_of::<ConnKey>()));
        let (waiting, room) = self.port.waiting();
        let others = [
            self.flush.list_memory(),
            self.members.list_memory(),
            self.connections.list_memory(),
            Part::array(waiting, room, size_of::<ConnKey>()),
            self.timers.list_memory(),
            self.rates.memory(),
            self.authorizer.memory(),
            self.logins.memory(),
            self.addresses.memory(),
        ];
        keys.into_iter().chain(others).sum()
    }
}
