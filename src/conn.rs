//! One TCP connection without I/O: where it is in its life, what it has been heard and told, what of its
//! input is incomplete, what of its output is unsent.
//!
//! It knows nothing of chat. The shard joins a [`Connection`] with a session; the reactor joins it with a
//! socket.
//!
//! What a delivery touches lies together in the last 16 bytes of the record, which no cache line cuts in two: a large
//! fan-out waits for memory once per member. `docs/ARCHITECTURE.md`, "Layouts and cache lines", has the whole picture.
//!
//! While a connection is idle it owns no heap memory: incomplete input is an [`inbound::Inbound`] that exists
//! only while there is some, and an empty output is a null pointer.

pub mod behind;
pub mod handshake;
pub mod hold;
pub mod inbound;
pub mod keepalive;
pub mod output;
pub mod pending;
pub mod phase;
pub mod quota;
pub mod rate;
pub mod suspects;
pub mod table;
pub mod transport;

use std::io::{self, ErrorKind};
use std::mem::offset_of;

use crate::buf::Slices;
use crate::tcb::{Closer, TcbKey};
use crate::time::Tick;
use crate::wire::framing::Framing;

use inbound::Inbound;
use output::Output;
pub use phase::Phase;
use transport::Transport;

/// Segments in one write. More wait for the next turn; the kernel's own bound is 1024.
pub const SEGMENTS_MAX: usize = 64;

/// A connection. The order of the fields is their order in memory: first what is for the ends of its life, for bytes that
/// wait and for the check of idle ones, then, from `heard` on, what every delivery and every read touches.
#[derive(Debug)]
#[repr(C)]
pub struct Connection {
    /// Its control block; `None` for one that is only refused.
    pub tcb: Option<TcbKey>,
    /// What is unsent.
    pub output: Output,
    /// What is incomplete; `None` at a boundary.
    pub inbound: Option<Box<Inbound>>,
    /// Tells this connection from those that had its place in the shard before.
    pub generation: u32,
    /// When a ping was last sent; unanswered if that is after `heard`.
    pub pinged: Tick,
    /// When bytes last came from the peer.
    pub heard: Tick,
    /// When bytes were last handed to the socket.
    pub sent: Tick,
    /// Where it is in its life.
    pub phase: Phase,
    /// Where its STOMP frames are.
    pub framing: Framing,
    /// The socket takes bytes, as far as is known.
    pub is_writable: bool,
    /// It is on the list of those to flush.
    pub is_dirty: bool,
    /// All that it is sent unasked comes from one place, so that it gets no more than one piece of it in a turn.
    pub has_one_source: bool,
    /// Why input is not taken.
    pub holds: hold::Set,
    /// The peer's stream has ended.
    pub has_ended: bool,
    /// Whose stream ended first, which decides who has the TIME_WAIT; `None` while both go on.
    pub ended_first: Option<Closer>,
}

/// Where the part that a delivery touches begins; it goes to the end. Whether a place of the shard's slab is taken is in
/// the niche of one of its `bool`s.
pub const HOT_OFFSET: usize = offset_of!(Connection, heard);

// 16 bytes at a multiple of 16 are in one line wherever an allocator puts the array (at multiples of 16, all of them).
const _: () = assert!(HOT_OFFSET.is_multiple_of(16) && size_of::<Connection>() == HOT_OFFSET + 16);
const _: () = assert!(offset_of!(Connection, sent) > HOT_OFFSET);
const _: () = assert!(offset_of!(Connection, phase) > HOT_OFFSET);
const _: () = assert!(offset_of!(Connection, is_writable) > HOT_OFFSET);
const _: () = assert!(offset_of!(Connection, is_dirty) > HOT_OFFSET);
const _: () = assert!(offset_of!(Connection, has_one_source) > HOT_OFFSET);

impl Connection {
    /// A connection that was accepted at `now`.
    pub fn new(generation: u32, tcb: Option<TcbKey>, phase: Phase, framing: Framing, now: Tick) -> Self {
        Connection {
            tcb,
            output: Output::default(),
            inbound: None,
            generation,
            pinged: now,
            heard: now,
            sent: now,
            phase,
            framing,
            is_writable: true,
            is_dirty: false,
            has_one_source: false,
            holds: hold::Set::default(),
            has_ended: false,
            ended_first: None,
        }
    }

    /// Bytes of the boxes that a busy connection has. Leases are the pool's, and segments everybody's who
    /// shares them.
    pub fn boxed_bytes(&self) -> usize {
        self.output.boxed_bytes() + self.inbound.as_ref().map_or(0, |inbound| size_of_val(&**inbound))
    }

    /// Bytes that it holds because its socket does not take them: answers, all that debts owe, and what keeps them.
    pub fn held_bytes(&self) -> u64 {
        self.output.bytes() + self.output.boxed_bytes() as u64
    }

    /// Whether what its only room has for it may go to the socket outside the flush: it takes bytes, and none wait for
    /// their turn. One that has unsent bytes waits for its socket or for the flush, so the queue need not be looked at.
    ///
    /// One branch in place of three, see [`Transport::send_one`].
    pub fn may_send_now(&self) -> bool {
        self.is_writable & !self.is_dirty & self.has_one_source
    }

    /// Passes to the phase that follows. `false` if the event changes nothing in this phase.
    pub fn pass(&mut self, event: phase::Event) -> bool {
        match phase::next(self.phase, event) {
            Some(phase) => {
                self.phase = phase;
                true
            }
            None => false,
        }
    }

    /// Writes unsent answers once: there must be no debts. Returns the bytes that the socket took.
    ///
    /// # Errors
    /// As the socket's, but for those that say that it takes nothing at the moment.
    pub fn write_answers(
        &mut self,
        index: u32,
        transport: &mut impl Transport,
        now: Tick,
    ) -> io::Result<usize> {
        let Some(queue) = self.output.queue() else { return Ok(0) };
        debug_assert!(queue.debts.is_empty());
        let mut slices = Slices::new();
        let offered = queue.answers.slices(SEGMENTS_MAX, &mut slices);
        let outcome = transport.send(index, &slices);
        drop(slices);
        let sent = match outcome {
            Ok(sent) => sent,
            Err(error) => return self.not_sent(error),
        };
        queue.answers.advance(sent);
        self.output.tidy();
        self.sent = now;
        self.is_writable = sent == offered;
        Ok(sent)
    }

    /// A write failed: notes that the socket takes nothing, if that is all.
    ///
    /// # Errors
    /// Any other.
    pub fn not_sent(&mut self, error: io::Error) -> io::Result<usize> {
        match error.kind() {
            ErrorKind::WouldBlock => self.is_writable = false,
            ErrorKind::Interrupted => {}
            _ => return Err(error),
        }
        Ok(0)
    }

    /// Whether input is taken. What a closing connection sends is taken and thrown away: unread bytes would
    /// turn its close into a reset, and the reset can overtake the last answer.
    pub fn wants_read(&self) -> bool {
        let is_held = self.phase.is_open() && !self.holds.is_empty();
        !self.has_ended && self.phase != Phase::Closed && !is_held
    }
}
