//! What a subscription asks of a room's past, and what it is told of it.
//!
//! A room that keeps history is recovered from: a SUBSCRIBE asks for the last messages or for those behind a position, gets
//! them a page at a time, and then all that comes. These are the values that travel for that; the messages are kept by the
//! room's owner (`broker::history`).
//!
//! Invariant: between two pages nothing is left out that a [`Missing`] does not name.

use std::str::FromStr;

use super::{MessageId, Sequenced};

/// What a SUBSCRIBE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// `history`: so many of the last messages.
    Last(u32),
    /// `since`: all behind this position.
    Since(MessageId),
}

/// Why some messages cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The room's order has begun anew since: nothing is known of what was behind the position.
    Epoch,
    /// They were dropped, for their number, bytes or age.
    Trimmed,
    /// They are more than one SUBSCRIBE may ask for.
    Bound,
    /// The room keeps nothing.
    Off,
}

impl Lack {
    /// As the header `reason` has it.
    pub fn name(self) -> &'static str {
        match self {
            Lack::Epoch => "epoch",
            Lack::Trimmed => "trimmed",
            Lack::Bound => "bound",
            Lack::Off => "off",
        }
    }

    /// All of them, for the documentation.
    pub const ALL: [Lack; 4] = [Lack::Epoch, Lack::Trimmed, Lack::Bound, Lack::Off];
}

/// Messages that were asked for and cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Why.
    pub lack: Lack,
    /// Sequence numbers in the room's epoch, from one up to another; empty if nothing is known of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
}

impl Missing {
    /// All that this and a later one name, and what lies between. Numbers of an epoch that has ended mean nothing any more.
    #[must_use]
    pub fn and(self, other: Missing) -> Missing {
        if other.lack == Lack::Epoch {
            return other;
        }
        if other.from > other.to {
            return self;
        }
        if self.from > self.to {
            return Missing { lack: self.lack, ..other };
        }
        Missing { lack: self.lack, from: self.from.min(other.from), to: self.to.max(other.to) }
    }

    /// This, and what was missing before it, if anything was.
    #[must_use]
    pub fn after(self, before: Option<Missing>) -> Missing {
        before.map_or(self, |before| before.and(self))
    }
}

/// How a recovery begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The room's last message at this moment.
    pub position: MessageId,
    /// The sequence number of the first message to get.
    pub next: u64,
    /// What cannot be had of what was asked for.
    pub missing: Option<Missing>,
}

impl Start {
    /// Whether there is nothing to recover, so that the subscription has begun.
    pub fn is_done(&self) -> bool {
        self.next > self.position.sequence
    }
}

/// Some of what is recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In their order.
    pub messages: Vec<Sequenced>,
    /// What was dropped before it could be had.
    pub missing: Option<Missing>,
    /// Where the next page begins.
    pub next: MessageId,
    /// There is no next page: the subscription has begun.
    pub is_last: bool,
}

/// A MESSAGE that the server says to a subscription that has asked for the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// The first: the room's last message at this moment.
    Position(MessageId),
    /// Here some messages of this epoch were left out.
    Gap(u64, Missing),
    /// The last: what comes next is new. With the room's last message before that, and all that was left out.
    Recovered(MessageId, Option<Missing>),
}

impl Marker {
    /// As the header `marker` has it.
    pub fn name(self) -> &'static str {
        match self {
            Marker::Position(_) => "position",
            Marker::Gap(..) => "gap",
            Marker::Recovered(..) => "recovered",
        }
    }
}

/// The value of the headers `epoch` and `since`: a number as [`MessageId`] writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub u64);

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A position as the header `since` has it: `EPOCH:SEQUENCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(pub MessageId);

/// A text that is no [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (epoch, sequence) = text.split_once(':').ok_or(NotAPosition)?;
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digits(epoch) || !is_digits(sequence) {
            return Err(NotAPosition);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| NotAPosition)?;
        Ok(Position(MessageId { epoch, sequence: sequence.parse().map_err(|_| NotAPosition)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        let position = Position(MessageId { epoch: 0x1a, sequence: 7 });
        assert_eq!(format!("{}:7", Epoch(0x1a)).parse(), Ok(position));
        for bad in [
            "",
            "7",
            ":",
            "1a:",
            ":7",
            "1a-7",
            "1a:7:8",
            "1a: 7",
            "+1:7",
            "1:+7",
            "1a:b",
            "g:1",
            "1a:18446744073709551616",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(NotAPosition), "{bad:?}");
        }
    }

    #[test]
    fn what_is_missing_grows() {
        let missing = |lack, from, to| Missing { lack, from, to };
        let first = missing(Lack::Trimmed, 3, 5);
        assert_eq!(first.and(missing(Lack::Bound, 9, 10)), missing(Lack::Trimmed, 3, 10));
        assert_eq!(first.and(missing(Lack::Bound, 1, 0)), first);
        assert_eq!(missing(Lack::Epoch, 1, 0).and(first), missing(Lack::Epoch, 3, 5));
        assert_eq!(first.and(missing(Lack::Epoch, 1, 2)), missing(Lack::Epoch, 1, 2));
    }
}
