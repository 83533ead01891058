//! A client's place in a worker: its socket, its session, and where it belongs.
//!
//! What the session tells of ([`Listener`]) is noted here and on the worker's [`Desk`].
//!
//! Invariant: a [`Conn`] stays small (a test holds it to 64 bytes): there may be a million.

use mio::net::TcpStream;

use super::desk::Desk;
use super::setup::Setup;
use crate::peer::script::HeartBeats;
use crate::peer::{Identity, Listener, Peer};

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) seat: Seat,
}

/// Where a client belongs and how it is doing.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) client: u32,
    pub(super) room: u32,
    /// Index in the log of its room.
    pub(super) member: u32,
    /// Messages sent.
    pub(super) seq: u32,
    /// Tenths of a second after the start of the run at which it last received something.
    heard_ds: u32,
    /// Closed in this turn.
    pub(super) dead: bool,
    /// Does not read.
    pub(super) deaf: bool,
    /// Waits for its own message (churn).
    pub(super) awaits_echo: bool,
    /// Its stay has begun (churn).
    pub(super) stays: bool,
    /// Only while it gets ready.
    pub(super) start: Option<Box<Start>>,
}

/// When a client was to connect, and when it did.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) intended_us: u64,
    pub(super) started_us: u64,
}

impl Seat {
    pub(super) fn new(client: u32, room: u32, member: u32, start: Start) -> Self {
        Self {
            client,
            room,
            member,
            seq: 0,
            heard_ds: 0,
            dead: false,
            deaf: false,
            awaits_echo: false,
            stays: false,
            start: Some(Box::new(start)),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { client: self.client, room: self.room }
    }

    pub(super) fn heard(&mut self, now_us: u64) {
        self.heard_ds = (now_us / 100_000) as u32;
    }

    /// Milliseconds since it last received something.
    pub(super) fn silent_ms(&self, now_us: u64) -> u64 {
        (now_us / 1000).saturating_sub(u64::from(self.heard_ds) * 100)
    }
}

/// Notes what a session tells of.
pub(super) struct Reception<'a> {
    pub(super) seat: &'a mut Seat,
    pub(super) desk: &'a mut Desk,
    pub(super) setup: &'a Setup,
}

impl Listener for Reception<'_> {
    fn connected(&mut self, heart_beats: HeartBeats) {
        self.desk.heart_beats = heart_beats;
    }

    fn ready(&mut self) {}

    fn message(&mut self, body: &[u8]) {
        self.desk.deliver(self.seat, body, self.setup);
    }

    fn heart_beat(&mut self) {
        self.desk.counters.add(|counters| &counters.beats_received, 1);
    }

    fn receipt(&mut self) {
        self.desk.counters.add(|counters| &counters.receipts, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Conn>() <= 64, "{} bytes", size_of::<Conn>());
    }
}
