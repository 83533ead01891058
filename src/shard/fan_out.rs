//! Fan-out: what rooms have pending, to their members, a bounded number of them in a turn.
//!
//! A room is *walked*: all that is pending when the walk begins goes to one member after the other, and what comes
//! meanwhile waits for the next walk. A walk is cut into shares of `turn.room_members_max`, one in a turn, so that a room
//! of 50,000 does not keep one of ten waiting for the quarter of a second that its writes take. As in fair queueing
//! (RFC 8290), rooms that begin are served before those that go on, and these in rotation.
//!
//! What a walk still owes is put into queues at once when the room's members change, so that each member gets what was
//! sequenced while it was in, no more and no less.
//!
//! Two things end the sharing, so that memory stays bounded: a room that has more than `turn.room_bytes_max` waiting for
//! its next walk is walked to the end, and so is the crowd (`output`) when unsent bytes are half of what the reactor may
//! have. The turn takes as long as that does, and nothing is read meanwhile: whoever published so much waits.
//!
//! Before each room, mail that has come meanwhile is taken in. With several reactors a room's messages are read by all of
//! them at about the same time: what the others have read is then part of this write, and not one more in the next turn.
//!
//! Rooms named by `rooms.flush_delay_destinations` begin their walk `rooms.flush_delay_us` after the first message
//! that it is for, and carry all that came in between.
//!
//! Invariant: a room with a backlog is on the list of dirty rooms, or of waiting ones, or of delayed ones.

use std::io::{self, ErrorKind, IoSlice};

use crate::conn::suspects::Progress;
use crate::shard::output::write_queue;
use crate::shard::{Shard, Silence, Transport};
use crate::tcb::Closer;
use crate::time::{Micros, Tick};

/// The transport of a fan-out outside the flush: there is none, everything goes to the queues.
enum NoTransport {}

impl Transport for NoTransport {
    fn send(&mut self, _: u32, _: &[IoSlice<'_>]) -> io::Result<usize> {
        match *self {}
    }
    fn shutdown_write(&mut self, _: u32) {
        match *self {}
    }
    fn closer(&self, _: u32) -> Closer {
        match *self {}
    }
    fn silence(&self, _: u32, _: &io::Error) -> Option<Silence> {
        match *self {}
    }
    fn progress(&self, _: u32) -> Option<Progress> {
        match *self {}
    }
}

/// Why a walk stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// All have been served.
    Served,
    /// What unsent bytes take must be looked at before the next member is.
    MustLook,
}

impl Shard {
    /// Gives every room that has begun, and then every room that waits, its share of this turn.
    pub(super) fn fan_out_rooms(&mut self, transport: &mut impl Transport, now: Tick, at: Micros) {
        let share = self.limits.turn.room_members_max;
        let mut left = self.limits.turn.members_max;
        let waiting = self.waiting.len();
        let mut rooms = std::mem::take(&mut self.lists);
        self.rooms.take_dirty(&mut rooms);
        self.delay(&mut rooms, at);
        // About what a mailbox may hold, however fast others post.
        let mut mail_left = self.limits.mesh.bytes_max;
        for room in rooms.drain(..) {
            self.take_late_mail(&mut mail_left, now);
            left = left.saturating_sub(self.fan_out_share(room, share.min(left), transport, now));
        }
        self.lists = rooms;
        // However many begin, somebody who waits is served.
        left = left.max(share);
        for _ in 0..waiting {
            // A full room is among them wherever it is.
            if left == 0 && !self.has_full_room {
                break;
            }
            self.take_late_mail(&mut mail_left, now);
            if let Some(room) = self.waiting.pop_front() {
                left = left.saturating_sub(self.fan_out_share(room, share.min(left), transport, now));
            }
        }
    }

    /// Takes those out of `rooms` whose messages may wait for more, and puts those in that have waited long enough.
    fn delay(&mut self, rooms: &mut Vec<u32>, at: Micros) {
        let Shard { rooms: table, delayed, counters, limits, .. } = self;
        let (delay_us, bytes_max) = (limits.rooms.flush_delay_us, limits.turn.room_bytes_max);
        if delay_us == 0 {
            return;
        }
        rooms.retain(|room| {
            let waits = table.may_wait(*room) && table.pending_bytes(*room) <= bytes_max;
            if waits {
                delayed.push_back((*room, at.after(delay_us)));
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

    /// Serves up to `share` members of one room; returns how many there were. A room with a backlog left waits for the
    /// next turn.
    fn fan_out_share(&mut self, room: u32, share: u32, transport: &mut impl Transport, now: Tick) -> u32 {
        let mut served = 0;
        if self.rooms.has_backlog(room) {
            let is_behind = self.rooms.pending_bytes(room) > self.limits.turn.room_bytes_max;
            let share = if is_behind { u32::MAX } else { share };
            // A walk that begins with nobody would only shut out what comes until it goes on.
            if share > 0 {
                served = self.fan_out(room, Some(transport), share, now);
            }
        }
        if self.rooms.has_backlog(room) {
            self.waiting.push_back(room);
            self.counters.fanouts_put_off_total += 1;
        } else {
            self.rooms.unlist(room);
        }
        served
    }

    /// Puts all that a room owes its members into their queues; returns how many there were.
    pub(super) fn fan_out_to_queues(&mut self, room: u32, now: Tick) -> u32 {
        let mut members = 0u32;
        // What a walk was begun with, then what came since.
        while self.rooms.has_backlog(room) {
            members = members.saturating_add(self.fan_out(room, None::<&mut NoTransport>, u32::MAX, now));
        }
        members
    }

    /// Walks on over up to `share` members of a room; returns how many there were.
    fn fan_out<T: Transport>(
        &mut self,
        room: u32,
        mut transport: Option<&mut T>,
        share: u32,
        now: Tick,
    ) -> u32 {
        let mut served = 0;
        // Whoever fails leaves the room, and that ends the walk.
        while served < share && self.rooms.has_backlog(room) {
            let (members, stop) = self.walk_on(room, transport.as_deref_mut(), share - served, now);
            served += members;
            match stop {
                Stop::Served => break,
                Stop::MustLook => self.look_at_held(now),
            }
        }
        served
    }

    fn walk_on<T: Transport>(
        &mut self,
        room: u32,
        mut transport: Option<&mut T>,
        share: u32,
        now: Tick,
    ) -> (u32, Stop) {
        let marks = self.marks(now);
        let Shard { rooms, slots, fanout, forms, counters, dirty, crowd, unsent, rest, .. } = self;
        let Some(walk) = rooms.walk(room) else { return (0, Stop::Served) };
        fanout.begin();
        let from = walk.next as usize;
        let to = walk.members.len().min(from.saturating_add(share as usize));
        let (mut next, mut stop) = (from, Stop::Served);
        let mut failed = Vec::new();
        let is_flush = transport.is_some();
        // Members with one form follow one another: all of them in most rooms.
        'members: for group in walk.members[from..to].chunk_by(|one, next| one.form == next.form) {
            let overdrawn = unsent.overdrawn_first(group);
            next += overdrawn;
            let Some(first) = group.get(overdrawn) else { continue };
            let group = &group[overdrawn..];
            let run = fanout.run(first.form, walk.messages, forms);
            let contiguous = fanout.contiguous(run);
            let bytes = contiguous.unwrap_or_default();
            let run_bytes = fanout.bytes(run);
            // A run in parts is written from the queue, a slice for each.
            let is_direct = contiguous.is_some();
            let mut transport = transport.as_deref_mut();
            let mut group_left = group.iter();
            while let Some(member) = group_left.next() {
                let index = member.connection;
                let connection = &mut slots[index as usize].connection;
                let mut sent = 0;
                if let Some(transport) = &mut transport
                    && is_direct
                    && connection.may_send_now()
                {
                    debug_assert!(connection.outbound.is_empty());
                    counters.sends_total += 1;
                    match transport.send_one(index, bytes) {
                        Ok(count) => {
                            counters.bytes_sent_total += count as u64;
                            connection.sent = now;
                            if count == bytes.len() {
                                continue;
                            }
                            sent = count;
                            connection.is_writable = false;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => connection.is_writable = false,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => {
                            failed.push((index, error));
                            continue;
                        }
                    }
                } else if unsent.is_overdrawn(index) {
                    continue;
                } else if unsent.must_look(connection, run_bytes, &marks) {
                    next += group.len() - group_left.len() - 1;
                    stop = Stop::MustLook;
                    break 'members;
                }
                let segments = fanout.segments(run);
                unsent.queue((index, connection), (segments, fanout.take_made()), sent, &marks);
                rest.queued += 1;
                // Its other subscriptions' messages, or an answer, would else wait with it for the flush, and so would a
                // copy for each such member.
                if let Some(transport) = &mut transport
                    && unsent.is_high(&marks)
                    && connection.is_writable
                    && !connection.outbound.is_empty()
                    && let Err(error) = write_queue(index, connection, *transport, counters, unsent, now)
                {
                    failed.push((index, error));
                    continue;
                }
                if !connection.is_dirty {
                    connection.is_dirty = true;
                    if is_flush {
                        dirty.push(index);
                    } else {
                        crowd.push_back(index);
                    }
                }
            }
            next += group.len();
        }
        counters.messages_delivered_total += ((next - from) * walk.messages.len()) as u64;
        rooms.walked(room, next as u32);
        for (index, error) in failed {
            let silence = transport.as_ref().and_then(|transport| transport.silence(index, &error));
            self.fail(self.key_of(index), &error, silence, now);
        }
        ((next - from) as u32, stop)
    }
}
