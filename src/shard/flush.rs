//! Bytes that leave: answers are queued here, and the flush ends a turn.
//!
//! In the flush, rooms are walked first (`members`). A member with nothing else to send gets the room's bytes straight from the
//! encoder in one `send`. Then every connection on the list is written to once: answers, and what it is owed.
//!
//! Invariant: a connection with unsent bytes is on the list, or waits for [`Shard::writable`]; `answer_bytes` is the sum of the
//! unsent answers of all connections.

use bytes::Bytes;

use crate::broker::queue::Settlement;
use crate::conn::hold::Reason;
use crate::conn::transport::Transport;
use crate::conn::{Connection, Phase};
use crate::footprint::Part;
use crate::members::{self, Outcome};
use crate::message::fault::Fault;
use crate::message::origin::Holder;
use crate::shard::Shard;
use crate::share::{self, Shares};
use crate::time::{Micros, Tick};

/// Bytes that may be encoded for debts in one turn; whoever comes later is served in the next one.
const DEBT_BYTES_PER_TURN: usize = 16 * 1024 * 1024;

/// Connections that are cut off in one turn because all unsent bytes of the reactor are too many.
const CUTS_PER_TURN: usize = 64;

/// Debts with which a connection is not read any further: more than a session has subscriptions, unless it ends them and does
/// not read what it is owed.
pub(super) const DEBTS_MAX: usize = 1024;

/// What unsent bytes take is looked at anew, while it is too much, when this part of the bound has been added.
const LOOK_PART: u64 = 64;

/// Who has something to send, and how much all have.
#[derive(Debug)]
pub(super) struct Flush {
    dirty: Vec<u32>,
    /// Used in turn with `dirty`, for its memory.
    spare: Vec<u32>,
    said: Vec<u8>,
    answer_bytes: u64,
    /// What of it is held, as sockets do not take it; logs' messages are counted for each who is owed them.
    held: Shares<u32, Holder>,
    /// Unsent bytes when `held` was last brought up to date with what walks have added to debts.
    looked_at: u64,
}

impl Flush {
    /// Nothing to send, and at most `max` bytes unsent.
    pub(super) fn new(max: u64) -> Flush {
        Flush {
            dirty: Vec::new(),
            spare: Vec::new(),
            said: Vec::new(),
            answer_bytes: 0,
            held: Shares::new(max),
            looked_at: 0,
        }
    }

    /// Another bound holds from here on.
    pub(super) fn set_max(&mut self, max: u64) {
        self.held.set_max(max);
    }

    /// A connection is closed, which had so many bytes of answers.
    pub(super) fn end(&mut self, index: u32, answers: u64) {
        self.forget(answers);
        self.let_go(index);
    }

    /// A connection has nothing unsent.
    fn let_go(&mut self, index: u32) {
        if !self.held.is_empty() {
            self.held.release_all(index);
        }
    }

    /// Whether nobody is counted as holding something; what is counted for connections must be there.
    pub(super) fn check(&self, is_there: impl Fn(u32) -> bool) {
        self.held.check();
        assert!(self.held.keys().all(is_there));
    }

    /// A connection has something to send.
    pub(super) fn mark(&mut self, index: u32, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(index);
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Unsent answers were dropped.
    pub(super) fn forget(&mut self, bytes: u64) {
        self.answer_bytes -= bytes;
    }

    pub(super) fn answer_bytes(&self) -> u64 {
        self.answer_bytes
    }

    pub(super) fn shrink_to(&mut self, kept: usize, bytes: usize) {
        self.dirty.shrink_to(kept);
        self.spare.shrink_to(kept);
        self.said.shrink_to(bytes);
    }

    pub(super) fn list_memory(&self) -> Part {
        let lists = [&self.dirty, &self.spare];
        lists.map(|list| Part::array(list.len(), list.capacity(), size_of::<u32>())).into_iter().sum()
    }
}

impl Shard {
    // ---- queueing ----

    /// Queues bytes that end at a message's end.
    pub(super) fn push_vec(&mut self, index: u32, bytes: Vec<u8>) {
        let length = bytes.len();
        self.connections[index].output.push(Bytes::from(bytes));
        self.queued(index, length);
    }

    /// Queues what `write` appends, which must end at a message's end.
    pub(super) fn say(&mut self, index: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let mut said = std::mem::take(&mut self.flush.said);
        debug_assert!(said.is_empty(), "an answer is for one connection");
        write(&mut said);
        self.connections[index].output.append(&said);
        self.queued(index, said.len());
        said.clear();
        self.flush.said = said;
    }

    /// Queues a STOMP frame, or a heart-beat, that `write` appends: valid UTF-8.
    pub(super) fn say_stomp(&mut self, index: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let framing = self.connections[index].framing;
        self.say(index, |out| framing.wrap(true, 0, out, write));
    }

    pub(super) fn queued(&mut self, index: u32, length: usize) {
        self.flush.answer_bytes += length as u64;
        let connection = &mut self.connections[index];
        // Already here, and not only when the turn is flushed: one read may hold thousands of frames, each of which
        // is answered with much more than it takes.
        if connection.phase.is_open()
            && connection.output.answer_bytes() > self.env.limits.outbound.high_water_bytes
        {
            self.holds.hold(connection, Reason::Output);
        }
        self.flush.mark(index, connection);
    }

    /// Drops what a connection is owed; the rest of a message that is sent in part becomes an answer, if it `goes_on`.
    pub(super) fn drop_debts(&mut self, index: u32, goes_on: bool) {
        let rest = self.members.drop_debts(&mut self.connections[index].output, goes_on);
        self.flush.answer_bytes += rest;
    }

    // ---- the flush ----

    /// Ends the turn: posts mail, walks rooms, writes to every connection that has something to send once, and shows the
    /// numbers. `at` is the same moment as `now`, for delays that are shorter than ticks.
    pub fn flush(&mut self, transport: &mut impl Transport, now: Tick, at: Micros) {
        self.timers.set_now(now);
        self.port.post();
        let Shard { members, connections, flush, counters, env, .. } = self;
        let dirty = &mut flush.dirty;
        let mut context =
            members::Context { connections, dirty, transport, counters, terms: &env.terms, now };
        let Outcome { failed, slow } = members.walk_rooms(&mut context, at);
        self.tell_moves();
        for (index, error) in failed {
            let silence = transport.silence(index, &error);
            self.fail(self.connections.key_of(index), &error, silence, now);
        }
        for index in slow {
            // It may have been late for several rooms.
            if !self.connections.phase(index).is_established() {
                continue;
            }
            self.watch_marks(index, now);
        }
        // What is queued from here on (a queue's next message, say) is for the next turn.
        let spare = std::mem::take(&mut self.flush.spare);
        let mut dirty = std::mem::replace(&mut self.flush.dirty, spare);
        let mut left = DEBT_BYTES_PER_TURN;
        for index in dirty.drain(..) {
            self.flush_one(index, transport, &mut left, now);
        }
        self.flush.spare = dirty;
        self.relieve(now);
        self.look_for_audience();
        self.relieve_inputs(now);
        self.tell_ready();
        // Slow consumers that were cut off have left rooms, and queues have had settlements.
        self.port.post();
        self.publish_metrics();
    }

    /// Writes to one connection what it has unsent, once, and draws the consequences.
    fn flush_one(&mut self, index: u32, transport: &mut impl Transport, left: &mut usize, now: Tick) {
        let Shard { connections, members, .. } = self;
        // Its connection may have been closed and taken since it was listed.
        let Some(connection) = connections.get_mut(index) else { return };
        connection.is_dirty = false;
        if connection.phase == Phase::Closed {
            return;
        }
        let mut done = Default::default();
        if connection.is_writable && !connection.output.is_empty() {
            let before = connection.output.answer_bytes();
            let written = if connection.output.has_debts() {
                members.write(index, connection, transport, *left > 0, now)
            } else {
                let sent = connection.write_answers(index, transport, now);
                sent.map(|sent| crate::members::Written { sent, ..Default::default() })
            };
            self.counters.sends_total += 1;
            let written = match written {
                Ok(written) => written,
                Err(error) => {
                    let silence = transport.silence(index, &error);
                    return self.fail(self.connections.key_of(index), &error, silence, now);
                }
            };
            self.counters.bytes_sent_total += written.sent as u64;
            self.rest.encoded_bytes += written.encoded as u64;
            *left = left.saturating_sub(written.encoded);
            self.flush.answer_bytes -= before - self.connections[index].output.answer_bytes();
            done = written.done;
        }
        // Before anything is queued anew: a new queue counts its answers from nothing.
        self.settle_sent(index, now);
        for request in done {
            self.completed(index, request.get(), now);
        }
        let connection = &mut self.connections[index];
        if connection.output.is_empty() {
            self.flush.let_go(index);
            self.drained(index, transport, now);
        } else {
            if connection.is_writable {
                self.flush.mark(index, connection);
            }
            self.hold(index);
        }
        if !self.recoveries.is_empty() {
            self.wake_recoveries(index);
        }
        let connection = &self.connections[index];
        if connection.holds.has(Reason::Answer) && !connection.output.debts().iter().any(|debt| debt.is_left)
        {
            // A SUBSCRIBE may have waited for that.
            self.let_go_on(index);
        }
        self.watch_marks(index, now);
    }

    /// Under `ack:auto` a queue's message is settled when its bytes have left.
    fn settle_sent(&mut self, index: u32, now: Tick) {
        if !self.connections.phase(index).has_session() {
            return;
        }
        let taken = self.connections[index].output.answers_taken();
        let mut settled = Vec::new();
        self.sessions[index].sent(taken, &mut settled);
        for unsettled in settled {
            self.settle(index, unsettled, Settlement::Ack, now);
        }
    }

    /// All that was queued has left.
    fn drained(&mut self, index: u32, transport: &mut impl Transport, now: Tick) {
        let connection = &mut self.connections[index];
        match connection.phase {
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

    // ---- bounds ----

    /// Holds a connection's unsent bytes against its bounds.
    fn watch_marks(&mut self, index: u32, now: Tick) {
        let key = self.connections.key_of(index);
        let limits = &self.env.limits;
        let connection = &mut self.connections[index];
        let max = match connection.phase {
            Phase::Closed => return,
            Phase::Echo => limits.echo.outbound_bytes_max,
            Phase::Stomp | Phase::Concluding => limits.outbound.bytes_max,
            // What it had before, and of one that was cut off the rest of a message.
            _ => limits.outbound.bytes_max + limits.websocket.message_bytes_max,
        };
        if connection.output.bytes() <= max {
            self.behind.forget(index);
        } else if !connection.is_writable {
            // A socket that takes more is read from: it was only given more in one turn than one write takes, and
            // has its next turn at once.
            let is_in_rooms = connection.phase.has_session() && connection.output.answer_bytes() <= max;
            let ticks = limits.outbound.lag_timeout_s.saturating_mul(1000 / Tick::MILLIS);
            if !is_in_rooms || self.behind.has_lasted(index, ticks, now) {
                return self.cut_off(index, Fault::SlowConsumer { max: limits.outbound.bytes_max }, now);
            }
        }
        if !connection.phase.is_open() {
            return;
        }
        let answers = connection.output.answer_bytes();
        let debts = connection.output.debts().len();
        if answers <= limits.outbound.low_water_bytes && debts <= DEBTS_MAX / 2 {
            self.holds.release(key, connection, Reason::Output);
        } else if answers > limits.outbound.high_water_bytes {
            self.holds.hold(connection, Reason::Output);
        }
    }

    /// Once a second: cuts off those who have been behind for too long.
    pub(super) fn expire_lags(&mut self, now: Tick) {
        for index in self.behind.indices() {
            self.watch_marks(index, now);
        }
    }

    /// Bytes that are unsent: answers, and what logs hold for members who have not been sent it.
    pub(super) fn unsent_bytes(&self) -> u64 {
        self.flush.answer_bytes + self.members.held_bytes()
    }

    /// A connection holds what it has unsent.
    fn hold(&mut self, index: u32) {
        let bytes = self.connections[index].held_bytes();
        let Shard { flush, connections, env, .. } = self;
        flush.held.set(index, bytes, || connections.holder_of(index, env.id, &env.limits.trusted_proxies));
    }

    /// While more than three quarters of `outbound.reactor_bytes_max` are unsent, cuts off the worst session of the worst
    /// holder.
    fn relieve(&mut self, now: Tick) {
        let max = self.env.limits.outbound.reactor_bytes_max;
        let is_scarce = |bytes: u64| share::is_scarce(bytes, max);
        let unsent = self.unsent_bytes();
        if !is_scarce(unsent) {
            self.flush.looked_at = 0;
            return;
        }
        if unsent > self.flush.looked_at + max / LOOK_PART {
            self.flush.looked_at = unsent;
            for index in self.flush.held.keys().collect::<Vec<_>>() {
                self.hold(index);
            }
        }
        for _ in 0..CUTS_PER_TURN {
            if !is_scarce(self.unsent_bytes()) {
                return;
            }
            let Some(index) = self.flush.held.worst() else { return };
            if self.connections.phase(index).is_established() {
                self.cut_off(index, Fault::OutboundExhausted { max }, now);
                // What it is told now is not what it is guilty of.
                self.flush.let_go(index);
            } else {
                // It has been told that it ends, and does not read that.
                self.counters.slow_consumers_total += 1;
                self.close(index, true, now);
            }
        }
    }

    fn publish_metrics(&mut self) {
        let counters = &mut self.counters;
        counters.turns_total += 1;
        counters.messages_delivered_total += self.members.take_delivered();
        counters.connections_open = self.connections.len() as u64;
        counters.connections_half_open = u64::from(self.connections.handshakes());
        counters.outbound_bytes = self.flush.answer_bytes + self.members.held_bytes();
        counters.inbound_leased_bytes = self.inputs.pool.stats().leased_bytes;
        counters.subscriptions = self.sessions.subscriptions();
        counters.transaction_bytes = self.sessions.transaction_bytes();
        counters.credentials_bytes = self.sessions.ticket_bytes();
        counters.rooms = self.members.len().max(self.topics.len()) as u64;
        counters.rooms_waiting = self.members.waiting() as u64;
        counters.publications_parked_bytes = self.topics.parked_bytes();
        let kept = self.topics.kept();
        counters.recovering_subscriptions = self.recoveries.len() as u64;
        counters.history_messages = kept.messages;
        counters.history_bytes = kept.bytes;
        counters.history_dropped_total = kept.dropped;
        counters.history_relieved_total = kept.relieved;
        counters.queues = self.queues.len() as u64;
        counters.queue_messages = self.queues.messages() as u64;
        counters.queue_bytes = self.queues.bytes();
        counters.mailbox_bytes = self.port.mailbox_bytes();
        self.env.metrics.publish(counters);
    }
}
