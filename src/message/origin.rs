//! Who sent a message, who consumes a queue, where an answer goes, on whose account something is held: names that travel
//! between shards.
//!
//! A name is plain data. It may outlive what it names: whoever looks it up finds nothing then.
//!
//! Invariant: a [`ConnKey`] names one connection of one shard for as long as the process lives, but for a generation that
//! wraps after 2^32 connections.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::message::destination::REPLY_PREFIX;
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

/// Who of the server itself asks an owner, in place of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// A queue, for a message that was refused too often.
    DeadLetters,
    /// A service, by an inquiry.
    Inquiries,
    /// A shard, which tells an event: nobody waits for the answer.
    Events,
}

impl ConnKey {
    /// Names no connection: dead letters, which the owner of their queue sends. See [`ConnKey::own`].
    pub const DEAD_LETTERS: ConnKey = ConnKey { index: u32::MAX, generation: 0 };
    /// Names no connection: publications that a service asks for. See [`ConnKey::own`].
    pub const INQUIRIES: ConnKey = ConnKey { index: u32::MAX, generation: 1 };

    /// Names no connection: what shards tell of sessions. See [`ConnKey::own`].
    pub const EVENTS: ConnKey = ConnKey { index: u32::MAX, generation: 2 };

    /// Who of the server itself the key stands for; `None` if it names a connection.
    pub fn own(self) -> Option<Own> {
        match self {
            ConnKey::DEAD_LETTERS => Some(Own::DeadLetters),
            ConnKey::INQUIRIES => Some(Own::Inquiries),
            ConnKey::EVENTS => Some(Own::Events),
            _ => None,
        }
    }

    /// Packs the key into a token for the poll.
    pub fn as_token(self) -> usize {
        (u64::from(self.generation) << 32 | u64::from(self.index)) as usize
    }

    /// Unpacks a token.
    pub fn from_token(token: usize) -> ConnKey {
        ConnKey { index: token as u32, generation: (token as u64 >> 32) as u32 }
    }
}

/// The name of a session, as CONNECTED says it: which shard, which place, which use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionName {
    /// Its shard.
    pub shard: u16,
    /// Its connection.
    pub connection: ConnKey,
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnKey { index, generation } = self.connection;
        write!(f, "{}-{index}-{generation}", self.shard)
    }
}

impl Serialize for SessionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no [`SessionName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASession;

impl FromStr for SessionName {
    type Err = NotASession;

    fn from_str(text: &str) -> Result<SessionName, NotASession> {
        let mut numbers = text.splitn(3, '-').map(number);
        let mut next = || numbers.next().unwrap_or(Err(NotASession));
        let (shard, index, generation) = (next()?, next()?, next()?);
        let shard = shard.try_into().map_err(|_| NotASession)?;
        Ok(SessionName { shard, connection: ConnKey { index, generation } })
    }
}

/// Where an answer of the application goes: a destination that names who has asked, and which of its SUBSCRIBEs.
///
/// The number is that SUBSCRIBE's alone. So an answer finds no later subscription with the same id, and the broker need not know
/// of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// Who has asked.
    pub session: SessionName,
    /// The number of the request.
    pub serial: u32,
}

impl fmt::Display for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplyTo { session, serial } = self;
        write!(f, "{REPLY_PREFIX}{session}/{serial}")
    }
}

impl FromStr for ReplyTo {
    type Err = NotASession;

    fn from_str(text: &str) -> Result<ReplyTo, NotASession> {
        let named = text.strip_prefix(REPLY_PREFIX).and_then(|rest| rest.split_once('/'));
        let (session, serial) = named.ok_or(NotASession)?;
        Ok(ReplyTo { session: session.parse()?, serial: number(serial)? })
    }
}

/// A number as names have it: a sign is no digit, though a parser of numbers takes it.
fn number(text: &str) -> Result<u32, NotASession> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().ok_or(NotASession)
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
    /// A room, by its epoch: what it keeps is nobody's alone.
    Room(u64),
    /// The HTTP API: all programs that have its token together.
    Api,
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
    fn names_of_sessions_survive_text() {
        let connection = ConnKey { index: 7, generation: u32::MAX };
        let name = SessionName { shard: 3, connection };
        assert_eq!(name.to_string(), "3-7-4294967295");
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in
            ["", "3", "3-7", "3-7-", "3-7-1-2", "65536-7-1", "3-+7-1", "3-7-4294967296", "a-b-c", " 3-7-1"]
        {
            assert_eq!(bad.parse::<SessionName>(), Err(NotASession), "{bad}");
        }
    }

    #[test]
    fn where_answers_go_survives_text() {
        let session = SessionName { shard: 3, connection: ConnKey { index: 7, generation: 2 } };
        let to = ReplyTo { session, serial: u32::MAX };
        assert_eq!(to.to_string(), "/reply/3-7-2/4294967295");
        assert_eq!(to.to_string().parse(), Ok(to));
        for bad in [
            "",
            "/reply/",
            "/reply/3-7-2",
            "/reply/3-7-2/",
            "/reply/3-7-2/+1",
            "/reply/3-7/1",
            "/reply/3-7-2/1/",
        ] {
            assert_eq!(bad.parse::<ReplyTo>(), Err(NotASession), "{bad}");
        }
    }

    #[test]
    fn what_the_server_asks_by_itself_names_no_connection() {
        assert_eq!(ConnKey::DEAD_LETTERS.own(), Some(Own::DeadLetters));
        assert_eq!(ConnKey::INQUIRIES.own(), Some(Own::Inquiries));
        assert_eq!(ConnKey { index: 0, generation: 1 }.own(), None);
    }

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
