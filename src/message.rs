//! One published message, and the name that the server gives it.
//!
//! A [`Message`] is a single shared allocation: destination, the sender's own headers (as STOMP 1.2 lines)
//! and body. It is made once, where the SEND was read, and then travels by reference: through mailboxes,
//! queues and rooms. It does not know who gets it.
//!
//! Below it is what all who handle messages share: destinations, encoding classes, interned values, faults, the frames that
//! the server says, and who sent a message.
//!
//! Invariant: the parts lie in `bytes` in the order key, shown, lines, body, without gaps, and a NUL ends them.

pub mod class;
pub mod destination;
pub mod fault;
pub mod interner;
pub mod origin;
pub mod past;
pub mod reply;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::message::destination::{Destination, Kind};

/// A message as the sender gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    bytes: Bytes,
    key_len: u32,
    shown_len: u32,
    lines_len: u32,
    kind: Kind,
    is_utf8: bool,
    is_kept: bool,
}

// It is moved through outboxes, mailboxes and logs.
const _: () = assert!(size_of::<Message>() <= 48);

impl Message {
    /// Copies the parts into one allocation.
    ///
    /// `lines` are the headers to pass on, as STOMP 1.2 header lines, each with its LF.
    pub fn new(destination: &Destination<'_>, lines: &[u8], body: &[u8]) -> Message {
        let key = destination.key();
        let shown = destination.shown().filter(|shown| *shown != key).unwrap_or_default();
        let mut bytes = Vec::with_capacity(key.len() + shown.len() + lines.len() + body.len() + 1);
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(shown.as_bytes());
        bytes.extend_from_slice(lines);
        bytes.extend_from_slice(body);
        bytes.push(0);
        Message {
            bytes: Bytes::from(bytes),
            key_len: key.len() as u32,
            shown_len: shown.len() as u32,
            lines_len: lines.len() as u32,
            kind: destination.kind(),
            is_utf8: std::str::from_utf8(body).is_ok(),
            is_kept: false,
        }
    }

    fn text(&self, from: usize, len: usize) -> &str {
        // The constructor copied these bytes out of `str`s, at their boundaries.
        std::str::from_utf8(&self.bytes[from..from + len]).unwrap_or_default()
    }

    /// What kind of place the message was sent to.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The place that the message was sent to, as rooms and queues are keyed.
    pub fn key(&self) -> &str {
        self.text(0, self.key_len as usize)
    }

    /// [`key`](Message::key) as bytes, which need not be looked through.
    pub fn key_bytes(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    /// The value of the `destination` header that subscribers see.
    pub fn shown(&self) -> &str {
        match self.shown_len as usize {
            0 => self.key(),
            len => self.text(self.key_len as usize, len),
        }
    }

    /// The sender's headers, as STOMP 1.2 lines.
    pub fn lines(&self) -> &[u8] {
        let from = (self.key_len + self.shown_len) as usize;
        &self.bytes[from..from + self.lines_len as usize]
    }

    fn body_at(&self) -> usize {
        (self.key_len + self.shown_len + self.lines_len) as usize
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.body_at()..self.bytes.len() - 1]
    }

    /// The body and the NUL behind it, with which every frame of this message ends (STOMP 1.2, "STOMP Frames"). It
    /// shares the message's memory.
    pub fn frame_end(&self) -> Bytes {
        self.bytes.slice(self.body_at()..)
    }

    /// Whether the body is valid UTF-8, so that the answer can be a text WebSocket message.
    pub fn is_utf8(&self) -> bool {
        self.is_utf8
    }

    /// Whether its room keeps it: then MESSAGE names its position.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Its room keeps it.
    pub fn set_kept(&mut self) {
        self.is_kept = true;
    }

    /// Bytes that the message holds in memory, for the bounds of mailboxes and queues.
    pub fn weight(&self) -> u64 {
        (self.bytes.len() + size_of::<Message>()) as u64
    }
}

/// The `message-id` of a sequenced message: which epoch of the room or queue, and the number in it.
///
/// A room that everybody leaves is forgotten, and begins a new epoch when somebody comes. So an id is never
/// given twice while the server runs, nor, but for a clock set back, after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// The epoch: from the first use of a room or queue until it is forgotten.
    pub epoch: u64,
    /// The place in that epoch's total order, from 1.
    pub sequence: u64,
}

impl MessageId {
    /// Bytes that hold any id as text.
    pub const TEXT_BYTES_MAX: usize = 16 + 1 + 20;

    /// Writes the id as text into `buffer` and returns the text, which is ASCII.
    pub fn format(self, buffer: &mut [u8; Self::TEXT_BYTES_MAX]) -> &[u8] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut at = 0;
        let digits = (16 - self.epoch.leading_zeros() as usize / 4).max(1);
        for place in (0..digits).rev() {
            buffer[at] = DIGITS[(self.epoch >> (4 * place)) as usize & 15];
            at += 1;
        }
        buffer[at] = b'-';
        at += 1;
        let mut decimal = itoa::Buffer::new();
        let decimal = decimal.format(self.sequence).as_bytes();
        buffer[at..at + decimal.len()].copy_from_slice(decimal);
        &buffer[..at + decimal.len()]
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(self.format(&mut [0; Self::TEXT_BYTES_MAX])).unwrap_or_default())
    }
}

/// A message with its place in a room's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequenced {
    /// Its `message-id`.
    pub id: MessageId,
    /// What was sent.
    pub message: Message,
}

/// Gives each epoch of a room or queue a number of its own.
#[derive(Debug)]
pub struct Epochs {
    next: u64,
    step: u64,
}

impl Epochs {
    /// Numbers that no other shard and no other start of the server gives: `start` is the time of the
    /// start in seconds since 1970.
    pub fn new(start: u32, shard: u16, shards: u16) -> Self {
        Epochs { next: (u64::from(start) << 32) + u64::from(shard), step: u64::from(shards) }
    }

    /// The next number.
    pub fn begin(&mut self) -> u64 {
        let epoch = self.next;
        self.next += self.step;
        epoch
    }
}

/// A text that is no [`MessageId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAMessageId;

impl FromStr for MessageId {
    type Err = NotAMessageId;

    fn from_str(text: &str) -> Result<Self, NotAMessageId> {
        let (epoch, sequence) = text.split_once('-').ok_or(NotAMessageId)?;
        Ok(MessageId {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| NotAMessageId)?,
            sequence: sequence.parse().map_err(|_| NotAMessageId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_come_back_as_they_went_in() {
        let user = Destination::parse_send("/user/ann/queue/mail").unwrap();
        let message = Message::new(&user, b"a:b\n", b"hi\0\xff");
        assert_eq!(message.key(), "/user/ann/queue/mail");
        assert_eq!(message.shown(), "/user/queue/mail");
        assert_eq!(message.lines(), b"a:b\n");
        assert_eq!(message.body(), b"hi\0\xff");
        assert_eq!(message.frame_end(), b"hi\0\xff\0"[..]);
        assert!(!message.is_utf8());
    }

    proptest! {
        #[test]
        fn ids_survive_text(epoch: u64, sequence: u64) {
            let id = MessageId { epoch, sequence };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string(), format!("{epoch:x}-{sequence}"));
        }
    }
}
