//! The same bytes again: what one member of a room was sent, the next one mostly is, too.
//!
//! A server that encodes a message once sends equal bytes to every member that uses the same subscription id, as
//! all simulated clients do. Bytes that were read and checked for one member of a room mean the same for
//! another who is at the same place between two messages; so they are compared, not read once more. What each
//! member *received* is still noted for each member.
//!
//! Invariant: a twin holds only bytes that were whole MESSAGEs, each found correct for its room.

use super::Listener;
use super::script::HeartBeats;

/// The last bytes that were nothing but MESSAGEs of one room, and the bodies in them.
#[derive(Debug, Default)]
pub(super) struct Twin {
    room: u32,
    bytes: Vec<u8>,
    bodies: Vec<u8>,
    /// Where each body ends in `bodies`.
    ends: Vec<usize>,
}

impl Twin {
    /// Are these the bytes, for a member of the same room?
    pub(super) fn is(&self, room: u32, bytes: &[u8]) -> bool {
        self.room == room && self.bytes == bytes && !bytes.is_empty()
    }

    /// Tells of the messages once more.
    pub(super) fn tell(&self, listener: &mut impl Listener) {
        let mut start = 0;
        for &end in &self.ends {
            listener.message(&self.bodies[start..end]);
            start = end;
        }
    }

    /// Keeps what was read, if it was nothing but messages.
    pub(super) fn learn(&mut self, room: u32, bytes: &[u8], heard: Heard) {
        let Heard { bodies, ends, is_plain } = heard;
        (self.bodies, self.ends) = (bodies, ends);
        self.bytes.clear();
        if is_plain && !self.ends.is_empty() {
            self.room = room;
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// An ear with the twin's memory, which is given up by that: to be given back to [`Twin::learn`].
    pub(super) fn ear(&mut self) -> Heard {
        let (mut bodies, mut ends) = (std::mem::take(&mut self.bodies), std::mem::take(&mut self.ends));
        self.bytes.clear();
        bodies.clear();
        ends.clear();
        Heard { bodies, ends, is_plain: true }
    }
}

/// What was heard while bytes were read.
#[derive(Debug, Default)]
pub(super) struct Heard {
    bodies: Vec<u8>,
    ends: Vec<usize>,
    is_plain: bool,
}

/// A listener that notes what it passes on.
pub(super) struct Noting<'a, L> {
    pub(super) heard: &'a mut Heard,
    pub(super) listener: &'a mut L,
}

impl<L: Listener> Listener for Noting<'_, L> {
    fn connected(&mut self, heart_beats: HeartBeats) {
        self.heard.is_plain = false;
        self.listener.connected(heart_beats);
    }

    fn ready(&mut self) {
        self.heard.is_plain = false;
        self.listener.ready();
    }

    fn message(&mut self, body: &[u8]) {
        self.heard.bodies.extend_from_slice(body);
        self.heard.ends.push(self.heard.bodies.len());
        self.listener.message(body);
    }

    fn heart_beat(&mut self) {
        self.heard.is_plain = false;
        self.listener.heart_beat();
    }

    fn receipt(&mut self) {
        self.heard.is_plain = false;
        self.listener.receipt();
    }
}
