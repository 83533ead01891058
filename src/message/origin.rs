//! Who sent a message, who consumes a queue, and how they are told: names that travel between shards.
//!
//! A name is plain data. It may outlive what it names: whoever looks it up finds nothing then.
//!
//! Invariant: a [`ConnKey`] names one connection of one shard for as long as the process lives, but for a generation that
//! wraps after 2^32 connections.

use crate::message::interner::Symbol;

/// Name of a connection in its shard: an index that is used again, and a generation that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Index into the shard's table.
    pub index: u32,
    /// Distinguishes those that had the index before.
    pub generation: u32,
}

impl ConnKey {
    /// A key that names no connection: for what the server itself sends.
    pub const NOBODY: ConnKey = ConnKey { index: u32::MAX, generation: u32::MAX };

    /// Packs the key into a token for the poll.
    pub fn as_token(self) -> usize {
        (u64::from(self.generation) << 32 | u64::from(self.index)) as usize
    }

    /// Unpacks a token.
    pub fn from_token(token: usize) -> ConnKey {
        ConnKey { index: token as u32, generation: (token as u64 >> 32) as u32 }
    }
}

/// Who asks something of an owner or a service, and which of its requests it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The shard of the session.
    pub shard: u16,
    /// The session's connection.
    pub connection: ConnKey,
    /// The request's number in the session, if its completion is waited for.
    pub serial: Option<u32>,
}

/// A queue's subscriber, for the queue's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Consumer {
    /// Its shard.
    pub shard: u16,
    /// Its connection.
    pub connection: ConnKey,
    /// Its subscription.
    pub class: Symbol,
    /// Which subscription with that class: the same id may be subscribed again.
    pub serial: u32,
}
