//! One TCP connection without I/O: where it is in its life, what it has been heard and told, what of its
//! input is incomplete, what of its output is unsent.
//!
//! It knows nothing of chat. The shard joins a [`Connection`] with a session; the reactor joins it with a
//! socket.
//!
//! While a connection is idle it owns no heap memory: incomplete input is an [`inbound::Inbound`] that exists
//! only while there is some, and an empty outbound queue is a null pointer.

pub mod handshake;
pub mod inbound;
pub mod keepalive;

use crate::buf::Outbound;
use crate::tcb::{Closer, TcbKey};
use crate::time::Tick;

use inbound::Inbound;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for an HTTP request head.
    Http,
    /// The same, but the table is full: an upgrade will be answered 503.
    Refused,
    /// WebSocket open on `/ws`.
    Stomp,
    /// WebSocket open on `/echo`.
    Echo,
    /// A close frame is queued or sent; waits for the peer's (RFC 6455 section 7.1.2).
    Closing,
    /// Nothing will be added to what is queued; once that is sent, the socket is closed. Both sides have
    /// said that they end, so no input can be lost.
    Finishing,
    /// Nothing will be added to what is queued; once that is sent, this side's stream ends, and input is
    /// thrown away until the peer's does.
    Lingering,
    /// To be closed at the end of the turn.
    Closed,
}

impl Phase {
    /// In the opening handshake.
    pub fn is_handshake(self) -> bool {
        matches!(self, Phase::Http | Phase::Refused)
    }

    /// A WebSocket that takes messages.
    pub fn is_open(self) -> bool {
        matches!(self, Phase::Stomp | Phase::Echo)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// Its control block; `None` for one that is only refused.
    pub tcb: Option<TcbKey>,
    /// What is unsent.
    pub outbound: Outbound,
    /// What is incomplete; `None` at a boundary.
    pub inbound: Option<Box<Inbound>>,
    /// When bytes last came from the peer.
    pub heard: Tick,
    /// When bytes were last handed to the socket.
    pub sent: Tick,
    /// When a ping was last sent; unanswered if that is after `heard`.
    pub pinged: Tick,
    /// Where it is in its life.
    pub phase: Phase,
    /// The socket takes bytes, as far as is known.
    pub is_writable: bool,
    /// It is on the list of those to flush.
    pub is_dirty: bool,
    /// Input is not taken because a room's owner is behind.
    pub is_stalled: bool,
    /// Input is not taken because the peer does not read what it is sent.
    pub is_paused: bool,
    /// The peer's stream has ended.
    pub has_ended: bool,
    /// This side's stream has ended.
    pub is_write_shut: bool,
    /// Whose stream ended first, which decides who has the TIME_WAIT; `None` while both go on.
    pub ended_first: Option<Closer>,
}

impl Connection {
    /// A connection that was accepted at `now`.
    pub fn new(tcb: Option<TcbKey>, phase: Phase, now: Tick) -> Self {
        Connection {
            tcb,
            outbound: Outbound::default(),
            inbound: None,
            heard: now,
            sent: now,
            pinged: now,
            phase,
            is_writable: true,
            is_dirty: false,
            is_stalled: false,
            is_paused: false,
            has_ended: false,
            is_write_shut: false,
            ended_first: None,
        }
    }

    /// Passes to another phase.
    pub fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Whether input is taken. What a closing connection sends is taken and thrown away: unread bytes would
    /// turn its close into a reset, and the reset can overtake the last answer.
    pub fn wants_read(&self) -> bool {
        !self.has_ended
            && self.phase != Phase::Closed
            && !(self.phase.is_open() && (self.is_stalled || self.is_paused))
    }

    /// Whether the input that was read before a stall may be taken up again.
    pub fn may_resume(&self) -> bool {
        !self.is_stalled && !self.is_paused
    }
}
