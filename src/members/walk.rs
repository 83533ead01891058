//! Walks: what a room has for its members, to one after the other, a bounded share of them in a turn.
//!
//! A walk covers what is in the log when it begins. It is cut into shares of `turn.room_members_max`, one in a turn, so that a
//! room of 50,000 does not keep one of ten waiting for the quarter of a second that its writes take. As in fair queueing
//! (RFC 8290), rooms that begin are served before those that go on, and these in rotation. A member counts once for each 16 KiB
//! that it is written, so that a share is a time and not only a number.
//!
//! Rooms named by `rooms.flush_delay_destinations` begin their walk `rooms.flush_delay_us` after the first message
//! that it is for, and carry all that came in between.
//!
//! One function here breaks a rule of the core: [`Members::walk`] has connections, encoder, log and list borrowed side by side,
//! because between two writes fifty instructions count.
//!
//! Invariant: while a share is walked, members neither come nor go: what ends a session is told in the [`Outcome`].

use std::io::{self, ErrorKind};

use super::{Members, Moved, Pending, laggards};
use crate::conn::table::Connections;
use crate::conn::transport::Transport;
use crate::limits;
use crate::metrics::ShardCounters;
use crate::time::{Micros, Tick};

/// Bytes written to a member that count as one member more, as a power of two.
const COST_BYTES_SHIFT: u32 = 14;

/// The bounds of one turn's walks.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// `turn.room_members_max`.
    pub room_members_max: u32,
    /// `turn.members_max`.
    pub members_max: u32,
    /// `rooms.flush_delay_us`.
    pub flush_delay_us: u32,
    /// `rooms.pending_bytes_max`.
    pub pending_bytes_max: u64,
    /// `outbound.bytes_max`.
    pub output_bytes_max: u64,
}

impl Terms {
    /// As configured.
    pub fn new(turn: &limits::Turn, rooms: &limits::Rooms, outbound: &limits::Outbound) -> Terms {
        Terms {
            room_members_max: turn.room_members_max,
            members_max: turn.members_max,
            flush_delay_us: rooms.flush_delay_us,
            pending_bytes_max: rooms.pending_bytes_max,
            output_bytes_max: outbound.bytes_max,
        }
    }
}

/// What a walk uses of the shard, side by side.
#[derive(Debug)]
pub struct Context<'a, T> {
    /// Where the members' connections are.
    pub connections: &'a mut Connections,
    /// Gets the connections that are to be written to beside.
    pub dirty: &'a mut Vec<u32>,
    /// Their sockets.
    pub transport: &'a mut T,
    /// The shard's counters.
    pub counters: &'a mut ShardCounters,
    /// Bounds of the turn.
    pub terms: &'a Terms,
    /// When it is.
    pub now: Tick,
}

/// What walks ask of whoever called them.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Sockets that failed.
    pub failed: Vec<(u32, io::Error)>,
    /// Connections that are owed more than they may be, and whose sockets take nothing.
    pub slow: Vec<u32>,
}

impl Members {
    /// Whether there is something to walk in the next turn, whatever comes.
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.waiting.is_empty()
    }

    /// When a delayed room is due.
    pub fn next_due(&self) -> Option<Micros> {
        self.delayed.front().map(|(_, due)| *due)
    }

    /// Gives every room that begins, and then every room that goes on, its share of this turn. `at` is the time, as finely as
    /// delays are counted.
    pub fn walk_rooms(&mut self, context: &mut Context<'_, impl Transport>, at: Micros) -> Outcome {
        let mut outcome = Outcome::default();
        let share = context.terms.room_members_max;
        let mut left = context.terms.members_max;
        let waiting = self.waiting.len();
        let mut rooms = std::mem::take(&mut self.list);
        rooms.append(&mut self.dirty);
        self.delay(&mut rooms, context.counters, context.terms, at);
        for room in rooms.drain(..) {
            let cost = self.walk_share(room, share.min(left), context, &mut outcome);
            left = left.saturating_sub(cost);
        }
        self.list = rooms;
        // However many begin, somebody who waits is served.
        left = left.max(share);
        for _ in 0..waiting {
            if left == 0 {
                break;
            }
            if let Some(room) = self.waiting.pop_front() {
                let cost = self.walk_share(room, share.min(left), context, &mut outcome);
                left = left.saturating_sub(cost);
            }
        }
        outcome
    }

    /// Takes those out of `rooms` whose messages may wait for more, and puts those in that have waited long enough.
    fn delay(&mut self, rooms: &mut Vec<u32>, counters: &mut ShardCounters, terms: &Terms, at: Micros) {
        if terms.flush_delay_us == 0 {
            return;
        }
        let Members { rooms: table, pending, delayed, .. } = self;
        rooms.retain(|room| {
            let record = &table[*room as usize];
            let waits = record.is_delayed
                && record.pending.is_some_and(|place| {
                    let log = &pending[place.place()].log;
                    !log.is_walking() && log.unwalked_bytes() <= terms.pending_bytes_max / 2
                });
            if waits {
                delayed.push_back((*room, at.after(terms.flush_delay_us)));
                counters.fanouts_delayed_total += 1;
            }
            !waits
        });
        while let Some((room, due)) = delayed.front().copied()
            && due <= at
        {
            delayed.pop_front();
            rooms.push(room);
        }
    }

    /// Serves a share of one room; returns what it has cost. A room with more to walk waits for the next turn.
    fn walk_share(
        &mut self,
        room: u32,
        share: u32,
        context: &mut Context<'_, impl Transport>,
        outcome: &mut Outcome,
    ) -> u32 {
        let Some(place) = self.rooms.get(room as usize).and_then(|room| room.pending) else { return 0 };
        let mut cost = 0;
        // A walk that begins with nobody would only shut out what comes until it goes on.
        if share > 0 {
            if !self.pending[place.place()].log.is_walking() {
                self.begin_walk(room, context.connections, context.dirty);
            }
            cost = self.walk(room, share, context, outcome);
        }
        let pending = &mut self.pending[place.place()];
        let is_done = !pending.log.is_walking() || pending.left == 0;
        if is_done && pending.log.end() == pending.log.head() {
            pending.is_listed = false;
        } else {
            self.waiting.push_back(room);
            context.counters.fanouts_put_off_total += 1;
        }
        self.settle_walk(room, context.terms);
        cost
    }

    /// Begins a walk over what is in the log, and takes in those who were parked before its end.
    fn begin_walk(&mut self, room: u32, connections: &mut Connections, dirty: &mut Vec<u32>) {
        let Members { rooms, pending, moved, delivered, .. } = self;
        let record = &mut rooms[room as usize];
        let Some(place) = record.pending else { return };
        let Pending { log, left, in_step, parked, .. } = &mut pending[place.place()];
        if log.is_walked() {
            return;
        }
        log.begin_walk();
        debug_assert_eq!(left, in_step);
        let mut at = 0;
        while let Some(from) = parked.get(at).copied() {
            if from > log.end() {
                at += 1;
                continue;
            }
            // It becomes the first of those parked, which is where those in step end.
            let (first, here) = (*in_step as usize, *in_step as usize + at);
            if at > 0 {
                record.members.swap(first, here);
                parked.swap(0, at);
                // Two subscriptions of one session may be in one room: a position is never that of two of them.
                let (down, up) = (record.members[first].connection, record.members[here].connection);
                let aside = u32::MAX;
                moved.push(Moved { connection: down, room, from: here as u32, to: aside });
                moved.push(Moved { connection: up, room, from: first as u32, to: here as u32 });
                moved.push(Moved { connection: down, room, from: aside, to: first as u32 });
            }
            parked.pop_front();
            *in_step += 1;
            if from < log.end() {
                *delivered += log.end() - from;
                let member = record.members[first];
                let connection = &mut connections[member.connection];
                laggards::owe(&mut connection.output, log, (room, member.class), from..log.end(), 0);
                if connection.is_writable && !std::mem::replace(&mut connection.is_dirty, true) {
                    dirty.push(member.connection);
                }
            }
        }
    }

    /// Walks on over a share of a room's members; returns what it has cost.
    fn walk(
        &mut self,
        room: u32,
        share: u32,
        context: &mut Context<'_, impl Transport>,
        outcome: &mut Outcome,
    ) -> u32 {
        let Context { connections, dirty, transport, counters, terms, now } = context;
        let (connections, dirty, transport) = (&mut **connections, &mut **dirty, &mut **transport);
        let Members { rooms, pending, encoder, classes, .. } = self;
        let record = &rooms[room as usize];
        let Some(place) = record.pending else { return 0 };
        let Pending { log, left, .. } = &mut pending[place.place()];
        if !log.is_walking() {
            return 0;
        }
        let (start, end) = (log.start(), log.end());
        let count = (end - start) as u32;
        let to = *left as usize;
        let from = to.saturating_sub(share as usize);
        let (mut walked, mut cost) = (0usize, 0u32);
        encoder.begin();
        // Members with one class follow one another: all of them in most rooms. From the end of the unwalked part, so that
        // what is walked borders on it.
        let unwalked = &record.members[from..to];
        let mut rest = unwalked;
        while let Some(last) = rest.last() {
            let begin = rest.iter().rposition(|member| member.class != last.class).map_or(0, |at| at + 1);
            let (before, group) = rest.split_at(begin);
            rest = before;
            let run = encoder.run(last.class, log.messages(start, count), classes);
            let each = 1 + (encoder.bytes(run) >> COST_BYTES_SHIFT) as u32;
            let contiguous = encoder.contiguous(run);
            let bytes = contiguous.unwrap_or_default();
            // A run in parts is written from its debt, a slice for each part.
            let is_direct = contiguous.is_some();
            let room_for = ((share - cost) / each).max(1) as usize;
            let is_cut = group.len() > room_for;
            let group = &group[group.len().saturating_sub(room_for)..];
            // Counted is who is not served whole: for the others, nothing is added up between two writes.
            let (mut not_sent, mut not_whole) = (0usize, 0u64);
            for member in group {
                let index = member.connection;
                let connection = &mut connections[index];
                let mut sent = 0;
                if is_direct && connection.may_send_now() {
                    debug_assert!(connection.output.is_empty());
                    match transport.send_one(index, bytes) {
                        Ok(count) => {
                            connection.sent = *now;
                            if count == bytes.len() {
                                continue;
                            }
                            sent = count;
                            connection.is_writable = false;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => connection.is_writable = false,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => {
                            outcome.failed.push((index, error));
                            not_whole += bytes.len() as u64;
                            continue;
                        }
                    }
                } else {
                    not_sent += 1;
                }
                not_whole += (bytes.len() - sent) as u64;
                let (whole, offset) = encoder.locate(run, sent);
                let owed = start + u64::from(whole)..end;
                laggards::owe(&mut connection.output, log, (room, member.class), owed, offset);
                if !connection.is_writable {
                    if connection.output.bytes() > terms.output_bytes_max {
                        outcome.slow.push(index);
                    }
                } else if !connection.is_dirty {
                    connection.is_dirty = true;
                    dirty.push(index);
                }
            }
            counters.sends_total += (group.len() - not_sent) as u64;
            counters.bytes_sent_total += (group.len() * bytes.len()) as u64 - not_whole;
            walked += group.len();
            cost = cost.saturating_add(each.saturating_mul(group.len() as u32));
            if is_cut || cost >= share {
                break;
            }
        }
        *left -= walked as u32;
        self.delivered += walked as u64 * u64::from(count);
        cost
    }

    /// Ends a walk that is through, drops what nobody needs, and notes whether a full room has room again.
    fn settle_walk(&mut self, room: u32, terms: &Terms) {
        self.settle(room);
        let Some(record) = self.rooms.get(room as usize) else { return };
        let Some(place) = record.pending else { return };
        let pending = &mut self.pending[place.place()];
        if pending.is_full && pending.log.unwalked_bytes() <= terms.pending_bytes_max / 2 {
            pending.is_full = false;
            self.ready.push(record.key.as_str().into());
        }
    }
}
