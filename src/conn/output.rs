//! What waits to be sent to one connection: answers, and debts.
//!
//! An *answer* is bytes: a RECEIPT, a pong, a queue's message, a close frame. A *debt* is a claim on messages that a room's
//! log keeps: from which message on, how many, how much of the first is sent. It is encoded when the socket takes bytes, so
//! it takes [`DEBT_BYTES`] however far its member has fallen behind.
//!
//! Answers pass debts, at the boundary of a frame. Several debts are served in rotation. Only one frame is ever sent in part.
//! This module keeps the two apart; who serves a debt is `members`.
//!
//! Invariant: an output without unsent bytes is a null pointer; a debt owes at least one message; at most one of the debts and
//! the answers is cut; `lag` is the weight of all that the debts owe.

use std::num::NonZeroU32;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::buf::Segments;
use crate::message::interner::Symbol;

/// Bytes that are encoded for debts in the first write after a socket has taken little.
pub const WINDOW_BYTES_MIN: u32 = 16 * 1024;

/// The same for one that takes all it is given.
pub const WINDOW_BYTES_MAX: u32 = 256 * 1024;

/// Memory of one debt.
pub const DEBT_BYTES: usize = size_of::<Debt>();

// Every connection has one, mostly empty.
const _: () = assert!(size_of::<Output>() == 8);
const _: () = assert!(DEBT_BYTES <= 32);
const _: () = assert!(size_of::<Queue>() <= 192);

/// Messages of one room that one subscription has not been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    /// Position in the room's log of the first message that is not sent whole.
    pub next: u64,
    /// The room, by its index in the shard.
    pub room: u32,
    /// How the messages must look.
    pub class: Symbol,
    /// Messages that are owed, from `next` on: 1 or more.
    pub count: u32,
    /// Bytes of the first of them that are sent.
    pub offset: u32,
    /// The request that is done when the debt is paid: an UNSUBSCRIBE whose RECEIPT is waited for.
    pub request: Option<NonZeroU32>,
    /// The subscription is gone. The debt holds its class, and will not grow.
    pub is_left: bool,
}

impl Debt {
    /// The position behind the last message that is owed.
    pub fn end(&self) -> u64 {
        self.next + u64::from(self.count)
    }
}

/// What is unsent of one connection.
#[derive(Debug, Default)]
pub struct Output(Option<Box<Queue>>);

/// The unsent parts.
#[derive(Debug)]
pub struct Queue {
    /// Bytes.
    pub answers: Segments,
    /// Claims, in the order in which they began.
    pub debts: SmallVec<[Debt; 2]>,
    /// Weight in bytes of all messages that the debts owe.
    pub lag: u64,
    /// Bytes to encode for the next write.
    pub window: u32,
    /// The debt that is served next.
    pub turn: u16,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            answers: Segments::default(),
            debts: SmallVec::new(),
            lag: 0,
            window: WINDOW_BYTES_MIN,
            turn: 0,
        }
    }
}

impl Queue {
    /// The debt of which a message is sent in part.
    pub fn cut(&self) -> Option<usize> {
        self.debts.iter().position(|debt| debt.offset > 0)
    }
}

impl Output {
    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes of unsent answers.
    pub fn answer_bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |queue| queue.answers.bytes())
    }

    /// Unsent answers, and the weight of what debts owe, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |queue| queue.answers.bytes() + queue.lag)
    }

    /// Whether messages are owed.
    pub fn has_debts(&self) -> bool {
        self.0.as_ref().is_some_and(|queue| !queue.debts.is_empty())
    }

    /// The debts.
    pub fn debts(&self) -> &[Debt] {
        self.0.as_ref().map_or(&[], |queue| &queue.debts)
    }

    /// Where in the stream of answers the last one that is queued ends; see [`Segments::end`]. The count begins anew whenever
    /// the output was empty.
    pub fn answers_end(&self) -> u64 {
        self.0.as_ref().map_or(0, |queue| queue.answers.end())
    }

    /// Up to where in the stream of answers all is sent; `None` if nothing is unsent, so everything is.
    pub fn answers_taken(&self) -> Option<u64> {
        self.0.as_ref().map(|queue| queue.answers.taken())
    }

    /// Bytes of the heap that the queue takes beside its answers' contents.
    pub fn boxed_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| {
            let spilled = if queue.debts.spilled() { queue.debts.capacity() * DEBT_BYTES } else { 0 };
            size_of::<Queue>() + queue.answers.heap_bytes() + spilled
        })
    }

    /// The parts; made if there are none. Whoever takes something out calls [`Output::tidy`].
    pub fn queue_mut(&mut self) -> &mut Queue {
        self.0.get_or_insert_default()
    }

    /// The parts, if something is unsent.
    pub fn queue(&mut self) -> Option<&mut Queue> {
        self.0.as_deref_mut()
    }

    /// Queues an answer that ends where a frame ends.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queue_mut().answers.push(bytes);
        }
    }

    /// [`push`](Output::push) of a copy.
    pub fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.queue_mut().answers.append(bytes);
        }
    }

    /// Gives the memory of a queue back in which nothing is left.
    pub fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|queue| queue.answers.is_empty() && queue.debts.is_empty()) {
            self.0 = None;
        }
    }

    /// Drops the answers, but for one that is sent in part. Returns the bytes dropped.
    pub fn drop_answers(&mut self) -> u64 {
        let dropped = self.0.as_mut().map_or(0, |queue| queue.answers.truncate_to_partial());
        self.tidy();
        dropped
    }

    /// Takes out all debts.
    pub fn take_debts(&mut self) -> SmallVec<[Debt; 2]> {
        let Some(queue) = &mut self.0 else { return SmallVec::new() };
        (queue.lag, queue.turn) = (0, 0);
        let debts = std::mem::take(&mut queue.debts);
        self.tidy();
        debts
    }

    /// Drops all answers, for a socket that is closed. Returns the bytes dropped.
    pub fn clear_answers(&mut self) -> u64 {
        let dropped = self.0.as_mut().map_or(0, |queue| std::mem::take(&mut queue.answers).bytes());
        self.tidy();
        dropped
    }

    /// Verifies the invariant, but for `lag`, which only the logs can tell; for tests and the simulation.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check(&self) {
        let Some(queue) = &self.0 else { return };
        queue.answers.check();
        assert!(!(queue.answers.is_empty() && queue.debts.is_empty()), "a queue is kept for nothing");
        assert!(queue.debts.iter().all(|debt| debt.count > 0), "a debt that owes nothing");
        let cut = queue.debts.iter().filter(|debt| debt.offset > 0).count();
        assert!(cut + usize::from(queue.answers.is_cut()) <= 1, "two frames are sent in part");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debt(next: u64, count: u32, offset: u32) -> Debt {
        Debt { next, room: 0, class: Symbol(0), count, offset, request: None, is_left: false }
    }

    #[test]
    fn nothing_is_held_when_nothing_waits() {
        let mut output = Output::default();
        output.push(Bytes::new());
        output.append(b"");
        assert!(output.is_empty());
        output.append(b"abc");
        assert_eq!((output.answer_bytes(), output.answers_end(), output.answers_taken()), (3, 3, Some(0)));
        output.queue_mut().answers.advance(3);
        output.tidy();
        assert!(output.is_empty());
        assert_eq!((output.bytes(), output.boxed_bytes(), output.answers_taken()), (0, 0, None));
    }

    #[test]
    fn dropping_answers_leaves_debts_and_what_is_sent_in_part() {
        let mut output = Output::default();
        output.append(b"abc");
        output.queue_mut().debts.push(debt(7, 2, 0));
        output.queue_mut().answers.advance(1);
        output.push(Bytes::from_static(&[0; 2000]));
        assert_eq!(output.drop_answers(), 2000);
        assert_eq!((output.answer_bytes(), output.debts().len()), (2, 1));
        output.check();
        assert_eq!(output.clear_answers(), 2);
        assert!(output.has_debts());
        assert_eq!(output.debts()[0].end(), 9);
        output.queue_mut().debts.clear();
        output.tidy();
        assert!(output.is_empty());
    }

    #[test]
    #[should_panic(expected = "two frames are sent in part")]
    fn two_cuts_are_a_bug() {
        let mut output = Output::default();
        output.queue_mut().debts.extend([debt(0, 1, 3), debt(0, 1, 4)]);
        output.check();
    }
}
