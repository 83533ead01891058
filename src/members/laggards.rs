//! Members who could not take all at once: their debts, and how these are paid.
//!
//! A debt is served by encoding what it owes, a window at a time: a socket that takes little is encoded little for, so that a
//! peer that reads a few bytes at a time does not have megabytes encoded for each of them. Connections that are owed the same
//! share what was encoded.
//!
//! Invariant: what leaves for one connection is whole frames one behind the other, in the order of each room; a debt of a
//! subscription that is gone is paid before a younger one of the same subscription id.

use std::io;
use std::num::NonZeroU32;
use std::ops::Range;

use smallvec::SmallVec;

use super::encode::{PLAN_RUNS_MAX, RunIndex};
use super::log::Log;
use super::{Members, Pending};
use crate::buf::Slices;
use crate::conn::output::{Debt, Output, Queue, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};
use crate::conn::transport::Transport;
use crate::conn::{Connection, SEGMENTS_MAX};
use crate::message::interner::Symbol;
use crate::time::Tick;

/// Whether this is the debt of a subscription that is in the room.
pub(super) fn is_of(debt: &Debt, room: u32, class: Symbol) -> bool {
    debt.room == room && debt.class == class && !debt.is_left
}

/// A member is owed these messages, of the first of which `offset` bytes are sent: the debt that it has grows, or one begins.
pub(super) fn owe(output: &mut Output, log: &mut Log, of: (u32, Symbol), messages: Range<u64>, offset: u32) {
    let (room, class) = of;
    let queue = output.queue_mut();
    queue.lag += log.weight(messages.start, messages.end);
    let count = (messages.end - messages.start) as u32;
    match queue.debts.iter_mut().find(|debt| is_of(debt, room, class)) {
        Some(debt) => {
            debug_assert!(debt.end() == messages.start && offset == 0, "a debt grows by what follows it");
            debt.count += count;
        }
        None => {
            log.add_reader(messages.start);
            queue.debts.push(Debt {
                next: messages.start,
                room,
                class,
                count,
                offset,
                request: None,
                is_left: false,
            });
        }
    }
}

/// What one write is made of, in order.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// So many bytes of answers.
    Answers(usize),
    /// A run of a debt without what of it is sent: so many bytes from `skip` on.
    Run { debt: usize, run: RunIndex, skip: usize, bytes: usize },
}

/// What came of a write.
#[derive(Debug, Default)]
pub struct Written {
    /// Bytes that the socket took.
    pub sent: usize,
    /// Bytes that were offered for debts.
    pub encoded: usize,
    /// Requests that are done: what a subscription that is gone was owed is sent.
    pub done: SmallVec<[NonZeroU32; 1]>,
}

impl Members {
    /// Writes to one connection once: the rest of a message that is sent in part, answers, then its debts in rotation, as much
    /// as its window takes; without `may_serve` only what must come before answers, and these.
    ///
    /// # Errors
    /// As the socket's, but for those that say that it takes nothing at the moment.
    pub fn write(
        &mut self,
        index: u32,
        connection: &mut Connection,
        transport: &mut impl Transport,
        may_serve: bool,
        now: Tick,
    ) -> io::Result<Written> {
        let Some(queue) = connection.output.queue() else { return Ok(Written::default()) };
        self.encoder.make_room();
        let (pieces, is_all) = self.plan(queue, may_serve);
        let mut slices = Slices::new();
        // What is planned may be more than fits the slices of one write.
        let (mut offered, mut planned, mut encoded) = (0, 0, 0);
        for piece in &pieces {
            match *piece {
                Piece::Answers(bytes) => {
                    offered += queue.answers.slices(SEGMENTS_MAX, &mut slices);
                    planned += bytes;
                }
                Piece::Run { run, skip, bytes, .. } => {
                    offered += self.encoder.slices(run, skip, SEGMENTS_MAX, &mut slices);
                    planned += bytes;
                    encoded += bytes;
                }
            }
        }
        if slices.is_empty() {
            return Ok(Written::default());
        }
        let outcome = transport.send(index, &slices);
        drop(slices);
        let sent = match outcome {
            Ok(sent) => sent,
            Err(error) => return connection.not_sent(error).map(|_| Written::default()),
        };
        let window = if sent == offered { queue.window.saturating_mul(2) } else { sent as u32 };
        queue.window = window.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        connection.sent = now;
        connection.is_writable = sent == offered;
        let done = if is_all && sent == planned {
            self.take_all(&mut connection.output)
        } else {
            self.take_off(&mut connection.output, &pieces, sent)
        };
        Ok(Written { sent, encoded, done })
    }

    /// What one write is made of, and whether that is all that is unsent.
    fn plan(&mut self, queue: &Queue, may_serve: bool) -> (SmallVec<[Piece; 4]>, bool) {
        let Members { rooms, pending, encoder, classes, .. } = self;
        let mut pieces: SmallVec<[Piece; 4]> = SmallVec::new();
        let mut left = u64::from(queue.window);
        let mut served = 0;
        let mut piece = |debt: usize, from: u64, max: u32, left: &mut u64| {
            let owed = &queue.debts[debt];
            let log = log_of(rooms, pending, owed.room);
            let whole = log.weight(from, from + u64::from(max));
            let count = if whole <= *left { max } else { log.count_within(from, max, *left) };
            served += u64::from(count);
            *left = left.saturating_sub(log.weight(from, from + u64::from(count)));
            let run = encoder.run(owed.class, log.messages(from, count), classes);
            let skip = if from == owed.next { owed.offset as usize } else { 0 };
            Piece::Run { debt, run, skip, bytes: encoder.bytes(run) - skip }
        };
        let cut = queue.cut();
        if let Some(cut) = cut {
            pieces.push(piece(cut, queue.debts[cut].next, 1, &mut left));
        }
        if !queue.answers.is_empty() {
            pieces.push(Piece::Answers(queue.answers.bytes() as usize));
        }
        if !may_serve {
            return (pieces, false);
        }
        let debts = queue.debts.len();
        for n in 0..debts {
            if pieces.len() >= PLAN_RUNS_MAX || left == 0 {
                break;
            }
            let at = (usize::from(queue.turn) + n) % debts;
            let debt = &queue.debts[at];
            // The client tells the two apart by nothing but their order: their classes may differ in the mode of
            // acknowledgement.
            let has_id = |older: &Debt| classes.value(older.class).id == classes.value(debt.class).id;
            if queue.debts[..at].iter().any(|older| older.is_left && has_id(older)) {
                continue;
            }
            let skipped = u32::from(cut == Some(at));
            if debt.count > skipped {
                pieces.push(piece(at, debt.next + u64::from(skipped), debt.count - skipped, &mut left));
            }
        }
        let owed: u64 = queue.debts.iter().map(|debt| u64::from(debt.count)).sum();
        (pieces, served == owed)
    }

    /// Takes off all that was unsent, as it is sent.
    fn take_all(&mut self, output: &mut Output) -> SmallVec<[NonZeroU32; 1]> {
        let mut done = SmallVec::new();
        for debt in output.take_debts() {
            let may_trim = log_of(&self.rooms, &mut self.pending, debt.room).remove_reader(debt.next);
            if debt.is_left {
                self.classes.release(debt.class);
                done.extend(debt.request);
            }
            if may_trim {
                self.settle(debt.room);
            }
        }
        output.clear_answers();
        done
    }

    /// Takes off what was sent, and ends the debts that are paid.
    fn take_off(&mut self, output: &mut Output, pieces: &[Piece], sent: usize) -> SmallVec<[NonZeroU32; 1]> {
        let Members { rooms, pending, encoder, .. } = self;
        let mut left = sent;
        let Some(queue) = output.queue() else { return SmallVec::new() };
        let (mut last, mut may_trim) = (None, false);
        for piece in pieces {
            if left == 0 {
                break;
            }
            match *piece {
                Piece::Answers(bytes) => {
                    let bytes = bytes.min(left);
                    queue.answers.advance(bytes);
                    left -= bytes;
                }
                Piece::Run { debt: at, run, skip, bytes } => {
                    let bytes = bytes.min(left);
                    left -= bytes;
                    let (whole, offset) = encoder.locate(run, skip + bytes);
                    let debt = &mut queue.debts[at];
                    let log = log_of(rooms, pending, debt.room);
                    if whole > 0 {
                        let next = debt.next + u64::from(whole);
                        queue.lag -= log.weight(debt.next, next);
                        may_trim |= log.remove_reader(debt.next);
                        debt.next = next;
                        debt.count -= whole;
                        if debt.count > 0 {
                            log.add_reader(next);
                        }
                    }
                    debt.offset = offset;
                    last = Some(at);
                }
            }
        }
        let Some(last) = last else {
            output.tidy();
            return SmallVec::new();
        };
        queue.turn = u16::try_from(last + 1).unwrap_or(0);
        let done = self.end_paid(queue, may_trim);
        output.tidy();
        done
    }

    /// Ends the debts that owe nothing any more, and drops what nobody needs of the logs, if there may be something.
    fn end_paid(&mut self, queue: &mut Queue, may_trim: bool) -> SmallVec<[NonZeroU32; 1]> {
        let mut done = SmallVec::new();
        if may_trim {
            for debt in &queue.debts {
                // The last of several debts that are paid may be the one that ends the room.
                if self.rooms.contains(debt.room as usize) {
                    self.settle(debt.room);
                }
            }
        }
        let (mut at, mut turn, before) = (0usize, usize::from(queue.turn), usize::from(queue.turn));
        let classes = &mut self.classes;
        queue.debts.retain(|debt| {
            if debt.count == 0 {
                if debt.is_left {
                    classes.release(debt.class);
                    done.extend(debt.request);
                }
                turn -= usize::from(at < before);
            }
            at += 1;
            debt.count > 0
        });
        queue.turn = if turn < queue.debts.len() { turn as u16 } else { 0 };
        done
    }

    /// Drops what a connection is owed. Of one that goes on, the rest of a message that is sent in part becomes an answer, so
    /// that whatever it is told next comes between two frames. Returns the bytes of that.
    pub fn drop_debts(&mut self, output: &mut Output, keeps_cut: bool) -> u64 {
        let Some(queue) = output.queue() else { return 0 };
        let mut kept = 0;
        if let Some(cut) = queue.cut().filter(|_| keeps_cut) {
            let debt = queue.debts[cut];
            self.encoder.make_room();
            let log = log_of(&self.rooms, &mut self.pending, debt.room);
            let run = self.encoder.run(debt.class, log.messages(debt.next, 1), &self.classes);
            let mut slices = Slices::new();
            kept = self.encoder.slices(run, debt.offset as usize, SEGMENTS_MAX, &mut slices) as u64;
            queue.answers.push_cut(slices.iter().flat_map(|slice| slice.iter().copied()).collect());
        }
        for debt in output.take_debts() {
            log_of(&self.rooms, &mut self.pending, debt.room).remove_reader(debt.next);
            if debt.is_left {
                self.classes.release(debt.class);
            }
            self.settle(debt.room);
        }
        kept
    }
}

fn log_of<'a>(
    rooms: &slab::Slab<super::Room>,
    pending: &'a mut slab::Slab<Pending>,
    room: u32,
) -> &'a mut Log {
    let place = rooms[room as usize].pending.expect("a debt has a log");
    &mut pending[place.place()].log
}
