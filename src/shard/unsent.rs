//! Unsent bytes against their bounds: those of one connection, and those of the reactor.
//!
//! A connection is judged when it is flushed, and in a fan-out each time that something is queued for it: one turn may
//! have thousands of messages for a room, and the room thousands of members who share nothing, because each has a
//! subscription id of its own. Members cannot leave a room while it is walked. Who is past a bound there is *overdrawn*:
//! its queue is dropped at once, it gets no more and is heard no more, and it is told, and leaves, when the turn is flushed
//! or when something else ends it. One that is ending is judged as well: it may have said its last word and not read.
//!
//! What a verdict does to a session is in `ending`.
//!
//! Invariant: after a flush nobody is overdrawn.

use std::collections::BTreeMap;

use crate::buf::{JOINED_BYTES_MAX, Segment};
use crate::chat::fault::Fault;
use crate::chat::room::Member;
use crate::conn::{Connection, Phase};
use crate::shard::{Shard, ShardLimits};
use crate::time::Tick;

/// What unsent bytes really take is looked at again when this part of the bound has been added.
const LOOK_PART: u64 = 8;

/// Unsent bytes are high above this part of the bound.
const HIGH_PART: u64 = 16;

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
/// once. To know that takes a walk over everything. It is made only if this may be more than the bound: between two
/// walks what comes is added, and what is sent is not taken off. For a while after a walk it is known well enough.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    /// What has come since the walk.
    added: u64,
    /// What was dropped since, and taken off as if nobody else had it.
    dropped: u64,
    /// When the walk was.
    at: Option<Tick>,
}

impl Held {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.added += bytes;
    }
}

/// The bounds, as they are for one turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// `outbound.bytes_max`.
    bytes_max: u64,
    /// What one that is ending may have unsent: what it had before, and of one that was cut off the rest of a message.
    ending_bytes_max: u64,
    /// `outbound.reactor_bytes_max`.
    reactor_bytes_max: u64,
    /// What a connection may have unsent while the reactor is past its bound. If the reactor is, somebody has more than
    /// an equal share of it.
    tolerated: u64,
    /// The least of these: up to it nobody is judged.
    harmless: u64,
    now: Tick,
}

impl Marks {
    fn new(limits: &ShardLimits, connections: usize, now: Tick) -> Marks {
        let outbound = &limits.outbound;
        let tolerated = outbound.low_water_bytes.min(outbound.reactor_bytes_max / connections.max(1) as u64);
        Marks {
            bytes_max: outbound.bytes_max,
            ending_bytes_max: outbound.bytes_max + limits.websocket.message_bytes_max,
            reactor_bytes_max: outbound.reactor_bytes_max,
            tolerated,
            harmless: tolerated.min(outbound.bytes_max),
            now,
        }
    }
}

impl Unsent {
    /// So many bytes more are unsent, of which nobody else has a copy.
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.held.add(bytes);
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

    /// Why a connection is to get no more, for whoever ends it.
    pub(super) fn take_overdrawn(&mut self, index: u32) -> Option<Fault> {
        self.overdrawn.remove(&index)
    }

    /// One that is to get no more, and why.
    pub(super) fn take_any_overdrawn(&mut self) -> Option<(u32, Fault)> {
        self.overdrawn.pop_first()
    }

    /// Whether what unsent bytes really take is known.
    fn is_known(&self, marks: &Marks) -> bool {
        self.held.at == Some(marks.now) && self.held.added <= marks.reactor_bytes_max / LOOK_PART
    }

    /// Whether [`Shard::look_at_held`] must be called before this connection can be judged with `added` bytes more.
    pub(super) fn must_look(&self, connection: &Connection, added: u64, marks: &Marks) -> bool {
        let max = marks.reactor_bytes_max;
        connection.outbound.bytes() + added > marks.tolerated
            && self.bytes + added > max
            && self.held.bytes + self.held.dropped + added > max
            && connection.phase.is_open()
            && !self.is_known(marks)
    }

    /// Queues a room's messages for a member, which has been sent the first `sent` bytes. `made` bytes of them nobody
    /// had before. Without [`must_look`](Self::must_look) it may pass for now; the flush will see it.
    pub(super) fn queue(
        &mut self,
        (index, connection): (u32, &mut Connection),
        (segments, made): (&[Segment], u64),
        sent: usize,
        marks: &Marks,
    ) {
        let outbound = &mut connection.outbound;
        let before = outbound.bytes();
        for segment in segments {
            // A small one may be joined to others, and is no longer shared then; a large one has its entry.
            self.held.add(segment.bytes.len().min(JOINED_BYTES_MAX) as u64);
            outbound.push(segment.clone());
        }
        if sent > 0 {
            // What has left in part stays whole, so that its rest is never cut off.
            outbound.advance(sent);
        }
        self.held.add(made);
        let unsent = outbound.bytes();
        self.bytes += unsent - before;
        if unsent > marks.harmless
            && let Some(fault) = self.judge(connection, marks)
        {
            self.overdraw(index, connection, fault);
        }
    }

    /// Whether so much is unsent that members who cannot be sent to directly should not wait for the flush.
    pub(super) fn is_high(&self, marks: &Marks) -> bool {
        self.bytes > marks.reactor_bytes_max / HIGH_PART
    }

    fn overdraw(&mut self, index: u32, connection: &mut Connection, fault: Fault) {
        self.drop_of(connection);
        // What it has said since is not answered behind a gap.
        connection.is_paused = true;
        self.overdrawn.insert(index, fault);
    }

    /// What a connection is guilty of; of what the reactor holds only if that is known.
    pub(super) fn judge(&self, connection: &Connection, marks: &Marks) -> Option<Fault> {
        let unsent = connection.outbound.bytes();
        let max = if connection.phase.is_open() { marks.bytes_max } else { marks.ending_bytes_max };
        // A socket that takes more is read from: it was only given more in one turn than one write takes, and
        // has its next turn at once.
        if unsent > max && !connection.is_writable {
            return Some(Fault::SlowConsumer { max: marks.bytes_max });
        }
        let max = marks.reactor_bytes_max;
        let is_past = self.bytes > max && self.held.bytes > max && self.is_known(marks);
        (is_past && unsent > marks.tolerated && connection.phase.is_open())
            .then_some(Fault::OutboundExhausted { max })
    }

    /// Drops what a connection has unsent, at a boundary between messages.
    pub(super) fn drop_of(&mut self, connection: &mut Connection) {
        let dropped = connection.outbound.truncate_to_partial();
        self.bytes -= dropped;
        let held = &mut self.held;
        held.bytes = held.bytes.saturating_sub(dropped);
        held.dropped += dropped;
    }

    /// Whether the sessions of all that are overdrawn have been ended.
    pub(super) fn is_settled(&self) -> bool {
        self.overdrawn.is_empty()
    }
}

impl Shard {
    /// The bounds of this turn.
    pub(super) fn marks(&self, now: Tick) -> Marks {
        Marks::new(&self.limits, self.slots.len(), now)
    }

    /// Finds out what unsent bytes really take. If it is too much, those go first that have more than is one
    /// connection's, which is excused otherwise while a socket takes bytes.
    pub(super) fn look_at_held(&mut self, now: Tick) {
        let bytes = self.held_bytes();
        self.unsent.held = Held { bytes, at: Some(now), ..Held::default() };
        let marks = self.marks(now);
        if bytes <= marks.reactor_bytes_max {
            return;
        }
        for (index, slot) in &mut self.slots {
            let connection = &mut slot.connection;
            let max = match connection.phase {
                Phase::Stomp => marks.bytes_max,
                Phase::Echo => self.limits.echo.outbound_bytes_max,
                _ => marks.ending_bytes_max,
            };
            if connection.outbound.bytes() > max {
                let fault = Fault::OutboundExhausted { max: marks.reactor_bytes_max };
                self.unsent.overdraw(index as u32, connection, fault);
            }
        }
    }

    /// Holds a connection's unsent bytes against the bounds.
    pub(super) fn watch_marks(&mut self, index: u32, now: Tick) {
        let unsent = self.slots[index as usize].connection.outbound.bytes();
        if unsent > 0
            && let Some(fault) = self.fault_of(index, now)
        {
            return self.cut_off(index, fault, now);
        }
        let connection = &mut self.slots[index as usize].connection;
        if !connection.phase.is_open() || self.unsent.is_overdrawn(index) {
            return;
        }
        let outbound = &self.limits.outbound;
        if connection.is_paused && unsent <= outbound.low_water_bytes {
            connection.is_paused = false;
            let key = self.key_of(index);
            self.resumable.push(key);
        } else if unsent > outbound.high_water_bytes {
            connection.is_paused = true;
        }
    }

    fn fault_of(&mut self, index: u32, now: Tick) -> Option<Fault> {
        let mut marks = self.marks(now);
        let connection = &self.slots[index as usize].connection;
        if connection.phase == Phase::Echo {
            marks.bytes_max = self.limits.echo.outbound_bytes_max;
        }
        if self.unsent.must_look(connection, 0, &marks) {
            self.look_at_held(now);
        }
        self.unsent.judge(&self.slots[index as usize].connection, &marks)
    }
}
