//! Unsent bytes against their bounds: those of one connection, and those of the reactor.
//!
//! A connection is judged when it is flushed, and in a fan-out each time that something is queued for it: one turn may
//! have thousands of messages for a room, and the room thousands of members who share nothing, because each has a
//! subscription id of its own. Members cannot leave a room while it is walked. Who is past a bound there is *overdrawn*:
//! its queue is dropped at once, it gets no more and is heard no more, and it is told, and leaves, when the turn is flushed
//! or when something else ends it. One that is ending is judged as well: it may have said its last word and not read.
//!
//! Invariant: after a flush nobody is overdrawn.

use std::collections::BTreeMap;

use crate::buf::{JOINED_BYTES_MAX, Segment};
use crate::chat::fault::Fault;
use crate::chat::reply;
use crate::chat::room::Member;
use crate::conn::{Connection, Phase};
use crate::limits;
use crate::shard::{Shard, Slot};
use crate::time::Tick;
use crate::wire::ws;

/// What unsent bytes really take is looked at again when this part of the bound has been added.
const LOOK_PART: u64 = 8;

/// Unsent bytes of a shard.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// The sum over all queues.
    pub(super) bytes: u64,
    held: Held,
    /// In the order of their indices, so that a run can be repeated.
    overdrawn: BTreeMap<u32, Fault>,
}

/// What unsent bytes really take: a message to a room is counted for each member who has not been sent it, and is there
/// once. To know that takes a walk over everything. It is made only if the sum is more than the bound; between two
/// walks, what comes is added and what goes is not.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    /// What the walk found, and when.
    seen: u64,
    at: Option<Tick>,
}

/// The bounds, as they are for one turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// `outbound.bytes_max`.
    bytes_max: u64,
    /// `outbound.reactor_bytes_max`.
    reactor_bytes_max: u64,
    /// What a connection may have unsent while the reactor is past its bound. If that is exceeded, somebody has more than
    /// an equal share of it.
    tolerated: u64,
    /// Below both.
    harmless: u64,
}

impl Marks {
    fn new(outbound: &limits::Outbound, connections: usize) -> Marks {
        let limits::Outbound { bytes_max, reactor_bytes_max, low_water_bytes, .. } = *outbound;
        let tolerated = low_water_bytes.min(reactor_bytes_max / connections.max(1) as u64);
        Marks { bytes_max, reactor_bytes_max, tolerated, harmless: tolerated.min(bytes_max) }
    }
}

impl Unsent {
    /// So many bytes more are unsent, of which nobody else has a copy.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.held.bytes += bytes;
    }

    /// So many bytes have been sent or dropped. Others may still have them.
    pub(super) fn subtract(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }

    /// Whether a connection is to get no more.
    pub(super) fn is_overdrawn(&self, index: u32) -> bool {
        self.overdrawn.contains_key(&index)
    }

    /// How many of the first of these members are to get no more.
    pub(super) fn overdrawn_first(&self, members: &[Member]) -> usize {
        if self.overdrawn.is_empty() {
            return 0;
        }
        members.iter().take_while(|member| self.is_overdrawn(member.connection)).count()
    }

    /// Why a connection is to get no more, for whoever ends it before the flush does.
    pub(super) fn take_overdrawn(&mut self, index: u32) -> Option<Fault> {
        self.overdrawn.remove(&index)
    }

    /// Whether [`Shard::look_at_held`] must be called before this connection can be judged.
    pub(super) fn must_look(&self, connection: &Connection, marks: &Marks, now: Tick) -> bool {
        let is_known = self.held.at == Some(now)
            && self.held.bytes.saturating_sub(self.held.seen) <= marks.reactor_bytes_max / LOOK_PART;
        !is_known && self.bytes > marks.reactor_bytes_max && connection.outbound.bytes() > marks.tolerated
    }

    /// Queues a room's messages for a member, which has been sent the first `sent` bytes; `copied` bytes are new, the
    /// others shared.
    pub(super) fn queue(
        &mut self,
        (index, connection): (u32, &mut Connection),
        (segments, copied): (&[Segment], u64),
        sent: usize,
        marks: &Marks,
    ) {
        let outbound = &mut connection.outbound;
        let before = outbound.bytes();
        for segment in segments {
            // A small one may be joined to others, and is no longer shared then.
            self.held.bytes += segment.bytes.len().min(JOINED_BYTES_MAX) as u64;
            outbound.push(segment.clone());
        }
        if sent > 0 {
            // What has left in part stays whole, so that its rest is never cut off.
            outbound.advance(sent);
        }
        self.held.bytes += copied;
        let unsent = outbound.bytes();
        self.bytes += unsent - before;
        if unsent > marks.harmless
            && let Some(fault) = self.judge(connection, marks)
        {
            self.overdraw(index, connection, fault);
        }
    }

    fn overdraw(&mut self, index: u32, connection: &mut Connection, fault: Fault) {
        self.drop_of(connection);
        // What it has said since is not answered behind a gap.
        connection.is_paused = true;
        self.overdrawn.insert(index, fault);
    }

    /// What a connection is guilty of. Whether the reactor is past its bound must be known if
    /// [`must_look`](Self::must_look) says so.
    fn judge(&self, connection: &Connection, marks: &Marks) -> Option<Fault> {
        let unsent = connection.outbound.bytes();
        let Marks { bytes_max, reactor_bytes_max, tolerated, .. } = *marks;
        // A socket that takes more is read from: it was only given more in one turn than one write takes, and
        // has its next turn at once.
        if unsent > bytes_max && !connection.is_writable {
            return Some(Fault::SlowConsumer { max: bytes_max });
        }
        let is_past = self.bytes > reactor_bytes_max && self.held.bytes > reactor_bytes_max;
        (is_past && unsent > tolerated).then_some(Fault::OutboundExhausted { max: reactor_bytes_max })
    }

    /// Drops what a connection has unsent, at a boundary between messages.
    fn drop_of(&mut self, connection: &mut Connection) {
        let dropped = connection.outbound.truncate_to_partial();
        self.bytes -= dropped;
        self.held.bytes = self.held.bytes.saturating_sub(dropped);
    }
}

impl Shard {
    /// The bounds of this turn.
    pub(super) fn marks(&self) -> Marks {
        Marks::new(&self.limits.outbound, self.slots.len())
    }

    /// Finds out what unsent bytes really take. If it is too much, those go first that have more than is one
    /// connection's, which is excused otherwise while a socket takes bytes.
    pub(super) fn look_at_held(&mut self, now: Tick) {
        let bytes = self.held_bytes();
        self.unsent.held = Held { bytes, seen: bytes, at: Some(now) };
        let Marks { bytes_max, reactor_bytes_max, .. } = self.marks();
        if bytes <= reactor_bytes_max {
            return;
        }
        for (index, slot) in &mut self.slots {
            let connection = &mut slot.connection;
            if connection.phase != Phase::Echo && connection.outbound.bytes() > bytes_max {
                let fault = Fault::OutboundExhausted { max: reactor_bytes_max };
                self.unsent.overdraw(index as u32, connection, fault);
            }
        }
    }

    /// Holds a connection's unsent bytes against the bounds.
    pub(super) fn watch_marks(&mut self, index: u32, now: Tick) {
        let connection = &self.slots[index as usize].connection;
        let unsent = connection.outbound.bytes();
        if unsent > 0
            && let Some(fault) = self.fault_of(index, now)
        {
            return self.cut_off(index, fault, now);
        }
        let connection = &self.slots[index as usize].connection;
        if !connection.phase.is_open() || self.unsent.is_overdrawn(index) {
            return;
        }
        let outbound = &self.limits.outbound;
        let connection = &mut self.slots[index as usize].connection;
        if connection.is_paused && unsent <= outbound.low_water_bytes {
            connection.is_paused = false;
            let key = self.key_of(index);
            self.resumable.push(key);
        } else if unsent > outbound.high_water_bytes {
            connection.is_paused = true;
        }
    }

    fn fault_of(&mut self, index: u32, now: Tick) -> Option<Fault> {
        let mut marks = self.marks();
        let connection = &self.slots[index as usize].connection;
        if connection.phase == Phase::Echo {
            marks.bytes_max = self.limits.echo.outbound_bytes_max;
        }
        if self.unsent.must_look(connection, &marks, now) {
            self.look_at_held(now);
        }
        self.unsent.judge(&self.slots[index as usize].connection, &marks)
    }

    /// Ends the sessions that a fan-out has found past a bound.
    pub(super) fn cut_off_overdrawn(&mut self, now: Tick) {
        while let Some((index, fault)) = self.unsent.overdrawn.pop_first() {
            self.cut_off(index, fault, now);
        }
    }

    /// Cuts a slow consumer off: what it has not been sent is dropped, at a boundary between messages.
    pub(super) fn cut_off(&mut self, index: u32, fault: Fault, now: Tick) {
        let phase = self.phase(index);
        if phase == Phase::Closed {
            return;
        }
        self.counters.slow_consumers_total += 1;
        // First: what its rooms still owe it is put into the queue, and is dropped with the rest. Behind what was
        // dropped it would be a gap.
        self.leave_all(index, now);
        let Slot { connection, session } = &mut self.slots[index as usize];
        match phase {
            Phase::Stomp => {
                self.unsent.drop_of(connection);
                self.fault(index, fault, None, now);
            }
            Phase::Echo => {
                self.unsent.drop_of(connection);
                self.begin_close(index, fault.close_code(), fault.name(), now);
            }
            // Its RECEIPT and a close frame in order were behind what is dropped.
            Phase::Closing => {
                self.unsent.drop_of(connection);
                connection.enter(Phase::Lingering);
                if let Some(version) = session.version() {
                    self.say(index, |out| reply::error(version, &fault, None, out));
                    self.counters.errors_sent_total += 1;
                }
                self.say(index, |out| ws::encode_close(fault.close_code(), fault.name(), out));
            }
            // It has said its last word, or has been told.
            _ => self.close(index, true, now),
        }
    }
}
