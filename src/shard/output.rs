//! Bytes that leave: outbound queues, and the flush that ends a turn.
//!
//! In the flush rooms are fanned out first (`fan_out`). A member with nothing else to send gets the room's bytes
//! straight from the encoder's buffer in one `send`, unless there is a large body among them; everybody else gets a
//! reference in the outbound queue, and each queue leaves in one write. Few connections are written twice in a turn: a
//! member that has been written to as such and then has its RECEIPT from another shard, say, or several runs while much
//! is unsent.
//!
//! Invariant: a connection with unsent bytes is on the dirty list, or in the crowd, or waits for [`Shard::writable`].

use std::io::{self, ErrorKind};

use bytes::Bytes;

use crate::chat::queue::Settlement;
use crate::conn::{Connection, Phase};
use crate::metrics::ShardCounters;
use crate::shard::unsent::Unsent;
use crate::shard::{Shard, Slot, Transport};
use crate::time::{Micros, Tick};

/// Segments in one write. More wait for the next turn; the kernel's own bound is 1024.
const SEGMENTS_MAX: usize = 64;

/// Writes to one connection what it has unsent, once.
///
/// # Errors
/// As the socket's, but for those that say that it takes nothing now.
pub(super) fn write_queue(
    index: u32,
    connection: &mut Connection,
    transport: &mut impl Transport,
    counters: &mut ShardCounters,
    unsent: &mut Unsent,
    now: Tick,
) -> io::Result<()> {
    let (offered, outcome) = {
        let slices = connection.outbound.slices(SEGMENTS_MAX);
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        (offered, transport.send(index, &slices))
    };
    counters.sends_total += 1;
    match outcome {
        Ok(sent) => {
            counters.bytes_sent_total += sent as u64;
            unsent.subtract(sent as u64);
            connection.sent = now;
            connection.is_writable = sent == offered;
            connection.outbound.advance(sent);
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => connection.is_writable = false,
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

impl Shard {
    /// Ends the turn: posts mail, fans rooms out, writes to every dirty connection once, and shows the
    /// numbers. `at` is the same moment as `now`, for delays that are shorter than ticks.
    pub fn flush(&mut self, transport: &mut impl Transport, now: Tick, at: Micros) {
        self.now = now;
        self.post_mail();
        self.fan_out_rooms(transport, now, at);
        self.cut_off_overdrawn(now);
        // What becomes dirty from here on (a queue's next message, say) is for the next turn.
        let spare = std::mem::take(&mut self.lists);
        let mut dirty = std::mem::replace(&mut self.dirty, spare);
        for index in dirty.drain(..) {
            self.flush_one(index, transport, now);
        }
        self.lists = dirty;
        self.flush_crowd(transport, now);
        self.cut_off_overdrawn(now);
        // Slow consumers that were cut off have left rooms, and queues have had settlements.
        self.post_mail();
        (self.sealed, self.copied) = (0, 0);
        (self.is_one_due, self.has_full_room) = (false, false);
        debug_assert!(self.unsent.is_settled());
        self.publish_metrics();
    }

    /// Writes to connections that a fan-out to the queues has left something for. Of these there may be as many as a
    /// room has members, so they share a turn as a room's members do.
    fn flush_crowd(&mut self, transport: &mut impl Transport, now: Tick) {
        // Unless that makes memory scarce: input waits while everything is written.
        let is_scarce = self.unsent.bytes > self.limits.outbound.reactor_bytes_max / 2;
        let share = if is_scarce { usize::MAX } else { self.limits.turn.room_members_max as usize };
        for _ in 0..share.min(self.crowd.len()) {
            if let Some(index) = self.crowd.pop_front() {
                self.flush_one(index, transport, now);
            }
        }
    }

    pub(super) fn mark_dirty(&mut self, index: u32) {
        let connection = &mut self.slots[index as usize].connection;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(index);
        }
    }

    /// Queues bytes that end at a message's end.
    pub(super) fn push(&mut self, index: u32, bytes: Bytes) {
        let length = bytes.len();
        self.slots[index as usize].connection.outbound.push(bytes);
        self.queued(index, length);
    }

    /// So many bytes more are unsent.
    fn queued(&mut self, index: u32, length: usize) {
        self.unsent.add(length as u64);
        let connection = &mut self.slots[index as usize].connection;
        // Already here, and not only when the turn is flushed: one read may hold thousands of frames, each of which
        // is answered with much more than it takes.
        connection.is_paused |=
            connection.phase.is_open() && connection.outbound.bytes() > self.limits.outbound.high_water_bytes;
        self.mark_dirty(index);
    }

    /// Queues what `write` appends, which must end at a message's end.
    pub(super) fn say(&mut self, index: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let mut said = std::mem::take(&mut self.said);
        debug_assert!(said.is_empty(), "an answer is for one connection");
        write(&mut said);
        self.slots[index as usize].connection.outbound.append(&said);
        self.queued(index, said.len());
        said.clear();
        self.said = said;
    }

    /// [`push`](Shard::push) of what may be large, and should not be copied for that.
    pub(super) fn push_vec(&mut self, index: u32, bytes: Vec<u8>) {
        self.push(index, Bytes::from(bytes));
    }

    /// Writes to one connection what it has unsent, once, and draws the consequences.
    fn flush_one(&mut self, index: u32, transport: &mut impl Transport, now: Tick) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let connection = &mut slot.connection;
        connection.is_dirty = false;
        if connection.phase == Phase::Closed || self.unsent.is_overdrawn(index) {
            return;
        }
        if connection.is_writable && !connection.outbound.is_empty() {
            let Shard { counters, unsent, .. } = self;
            if let Err(error) = write_queue(index, connection, transport, counters, unsent, now) {
                let silence = transport.silence(index, &error);
                return self.fail(self.key_of(index), &error, silence, now);
            }
        }
        let connection = &mut self.slots[index as usize].connection;
        if connection.outbound.is_empty() {
            self.drained(index, transport, now);
        } else if connection.is_writable {
            self.mark_dirty(index);
        }
        self.watch_marks(index, now);
    }

    /// All that was queued has left.
    fn drained(&mut self, index: u32, transport: &mut impl Transport, now: Tick) {
        let Slot { connection, session, .. } = &mut self.slots[index as usize];
        match connection.phase {
            Phase::Stomp => {
                let mut settled = Vec::new();
                session.flushed(&mut settled);
                for unsettled in settled {
                    self.settle(index, unsettled, Settlement::Ack, now);
                }
            }
            Phase::Finishing => {
                connection.ended_first.get_or_insert_with(|| transport.closer(index));
                self.close(index, false, now);
            }
            Phase::Closing | Phase::Lingering if connection.has_ended => self.close(index, false, now),
            // Once: nothing more is queued, and the peer's end, which comes here again, has the arm above.
            Phase::Lingering => {
                connection.ended_first.get_or_insert_with(|| transport.closer(index));
                transport.shutdown_write(index);
            }
            _ => {}
        }
    }

    fn publish_metrics(&mut self) {
        let counters = &mut self.counters;
        counters.turns_total += 1;
        counters.connections_open = (self.slots.len() - self.closed.len()) as u64;
        counters.connections_half_open = u64::from(self.handshakes);
        counters.outbound_bytes = self.unsent.bytes;
        counters.inbound_leased_bytes = self.pool.stats().leased_bytes;
        counters.subscriptions = self.subscriptions;
        counters.transaction_bytes = self.transaction_bytes;
        counters.rooms = self.rooms.len() as u64;
        counters.rooms_waiting = self.waiting.len() as u64;
        counters.queues = self.queues.len() as u64;
        counters.queue_messages = self.queues.messages() as u64;
        counters.queue_bytes = self.queues.bytes();
        counters.mailbox_bytes = self.mesh.bytes(self.id);
        self.metrics.publish(counters);
    }

    /// The shard's numbers, for its tests.
    pub fn counters(&self) -> &crate::metrics::ShardCounters {
        &self.counters
    }
}
