//! Queues: each message goes to one consumer, and comes back if that consumer does not settle it.
//!
//! A queue lives on the shard that owns its key. It keeps messages while no consumer has room, offers them in turn
//! to the sessions that have, and holds what a session has not settled until it is acknowledged, refused, out of time
//! (`rooms.ack_timeout_s`), or the consumer is gone. It keeps nothing on disk, and it knows no connections: a
//! consumer is a value that says to which session it belongs ([`ConsumerKey`]), a holder (`H`) a value that says on
//! whose account something is held (`crate::share`).
//!
//! What is where: `table` ([`Queues`]: what the shard calls), `one` (one queue), `session` (what one session holds of one
//! queue), `dead` (what is to go to a dead-letter queue), `bounds` (who holds how much of all queues), `deadlines` (when something is to be looked at).
//!
//! # What the shard does
//! Every call that may cause something takes [`Effects`]. The caller acts on all of them and clears them:
//! - [`Effects::offers`]: hand each to the connection of its consumer. A consumer that has gone is ignored, because
//!   its [`Queues::leave`] is under way and offers the message to another.
//! - [`Effects::dead_letters`]: a message was refused too often, and its queue keeps it as *leaving*. Publish
//!   [`DeadLetter::message`] to the owner of its key for [`DeadLetter::holder`], as any message, and remember
//!   [`DeadLetter::key`] and [`DeadLetter::id`] under the number of that request. When the owner has confirmed, call
//!   [`Queues::dead_lettered`]; when it has refused, call [`Queues::dead_letter_refused`]. One of both is called exactly
//!   once. A refused one is parked for [`DEAD_LETTER_PAUSE_MS`] and then offered to consumers again, so it is never lost.
//! - [`Effects::dismissed`]: consumers that get nothing any more. The shard counts them; `leave` is still theirs to call.
//! - the numbers are for the counters.
//!
//! Call [`Queues::expire`] once per second, after what has arrived has been read: an acknowledgement that is in the
//! socket's buffer is in time. Call it again soon if it says that more is due.
//!
//! A message that is sent under `ack:auto` is settled like any other, when its own bytes have left. That is the caller's
//! to know; [`Queues::settle`] takes O(log n) of what the session holds.
//!
//! # Whose account
//! A message is charged to its publisher's holder until it is settled, a queue's record to the holder who made it,
//! a consumer's to its own; all whole, with what tables and lists take. Past three quarters of a bound a
//! holder may have as much as is still free ([`crate::share::admits`]). This goes for all queues of the shard
//! (`rooms.queues_bytes_max`), and for the messages and bytes of each queue. A quarter of `rooms.queues_bytes_max` is for
//! consumers, so that queues which are full of messages can be emptied.
//!
//! Invariant: every message that was accepted is in exactly one place: waiting, unsettled with one session, leaving, or
//! parked; and the accounts are the sums of what is there.

mod bounds;
mod dead;
mod deadlines;
mod one;
mod session;
mod table;

#[cfg(test)]
mod tests;

use std::hash::Hash;
use std::sync::Arc;

use crate::message::origin::{ConnKey, Consumer};
use crate::message::{Message, MessageId};

pub use table::Queues;

/// Bytes of one queue's messages that one session may hold unsettled, but for a single larger message: a session
/// that prefetches large messages must not meet its own outbound bound.
pub const UNSETTLED_BYTES_MAX: u64 = 256 * 1024;

/// Milliseconds until a message that its dead-letter queue has refused is offered to consumers again. Short enough for
/// an operator who has emptied the dead-letter queue, long enough that a consumer that refuses everything causes
/// a letter every ten seconds and not a loop.
pub const DEAD_LETTER_PAUSE_MS: u64 = 10_000;

/// Deadlines that one call of [`Queues::expire`] handles, so that many queues which go at once stall nobody.
pub const EXPIRIES_MAX: usize = 1_024;

/// The end of the keys of dead-letter queues. What is refused too often there is dropped.
pub const DEAD_LETTERS: &str = ".dlq";

/// Name of a consumer: one subscription of one session. Names are not used twice for one queue.
pub trait ConsumerKey: Copy + Eq + Hash {
    /// Name of a session.
    type Session: Copy + Ord + Hash;

    /// Whose subscription it is.
    fn session(&self) -> Self::Session;
}

impl ConsumerKey for Consumer {
    type Session = (u16, ConnKey);

    fn session(&self) -> (u16, ConnKey) {
        (self.shard, self.connection)
    }
}

/// Why a queue does not take a message or a consumer: the key of the bound and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Configuration key.
    pub bound: &'static str,
    /// Its value.
    pub max: u64,
}

/// What an operator sees of a queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLook<'a> {
    /// Its key.
    pub key: &'a str,
    /// Messages, in whatever place.
    pub messages: u64,
    /// Bytes that they are charged with.
    pub bytes: u64,
    /// Messages that wait for a consumer.
    pub waiting: usize,
    /// Sessions that consume it.
    pub consumers: usize,
    /// Messages since it was made.
    pub sequence: u64,
}

/// What a consumer gets.
#[derive(Debug, Clone)]
pub struct Offer<C> {
    /// To whom.
    pub consumer: C,
    /// Its `message-id`.
    pub id: MessageId,
    /// Whether it was delivered before.
    pub is_redelivered: bool,
    /// What was sent.
    pub message: Message,
}

/// A message that is to go to a dead-letter queue, and that its own queue keeps until it is there.
#[derive(Debug, Clone)]
pub struct DeadLetter<H> {
    /// The queue that keeps it.
    pub key: Arc<str>,
    /// Which message of that queue.
    pub id: MessageId,
    /// On whose account it is held, there as here.
    pub holder: H,
    /// What to publish: its key is that of the dead-letter queue.
    pub message: Message,
}

/// What calls have caused. See the module for what is to be done with it.
#[derive(Debug)]
pub struct Effects<C, H> {
    /// Messages for consumers, in order.
    pub offers: Vec<Offer<C>>,
    /// Messages for dead-letter queues.
    pub dead_letters: Vec<DeadLetter<H>>,
    /// Consumers that get nothing any more: their session let messages run out of time, and then did nothing.
    pub dismissed: Vec<C>,
    /// Messages that were not settled in time and went back.
    pub ack_timeouts: u64,
    /// Messages that went with a queue that nobody used.
    pub expired: u64,
    /// Messages that were refused too often in a dead-letter queue and are gone.
    pub dropped: u64,
}

impl<C, H> Default for Effects<C, H> {
    fn default() -> Self {
        Effects {
            offers: Vec::new(),
            dead_letters: Vec::new(),
            dismissed: Vec::new(),
            ack_timeouts: 0,
            expired: 0,
            dropped: 0,
        }
    }
}

/// How a consumer settles a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It goes to somebody else.
    Nack,
}
