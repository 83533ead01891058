//! Who sent a message, who consumes a queue, on whose account something is held: names that travel between shards.
//!
//! A name is plain data. It may outlive what it names: whoever looks it up finds nothing then.
//!
//! Invariant: a [`ConnKey`] names one connection of one shard for as long as the process lives, but for a generation that
//! wraps after 2^32 connections.

use std::net::IpAddr;

use crate::message::interner::Symbol;
use crate::tcb::FourTuple;

/// Name of a connection in its shard: an index that is used again, and a generation that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// On whose account something is held that clients share. Who comes with many sessions has one account.
///
/// It is the client's address, of IPv6 the /64 that one host has. A loopback address is no account: behind it may be a proxy,
/// and then everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An address, by what [`FourTuple::account`] says of it.
    Address(u64),
    /// One session of one shard.
    Session(u16, ConnKey),
}

impl Holder {
    /// The account of a session, whose client has this address if that is known.
    pub fn of(address: Option<IpAddr>, shard: u16, connection: ConnKey) -> Holder {
        let account = address.and_then(FourTuple::account);
        account.map_or(Holder::Session(shard, connection), Holder::Address)
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
    /// On whose account the owner keeps what is asked for.
    pub holder: Holder,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_one_host_have_one_account_and_those_behind_loopback_their_own() {
        let key = |index| ConnKey { index, generation: 0 };
        let of = |text: &str, index| Holder::of(Some(text.parse().unwrap()), 0, key(index));
        assert_eq!(of("192.0.2.1", 1), of("::ffff:192.0.2.1", 2));
        assert_ne!(of("192.0.2.1", 1), of("192.0.2.2", 1));
        assert_eq!(of("2001:db8:1:2::1", 1), of("2001:db8:1:2:ffff::9", 2));
        assert_ne!(of("2001:db8:1:2::1", 1), of("2001:db8:1:3::1", 1));
        for loopback in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert_ne!(of(loopback, 1), of(loopback, 2));
        }
        assert_eq!(Holder::of(None, 3, key(1)), Holder::Session(3, key(1)));
    }
}
