//! Sends messages, each with its identity and its intended time: over random rooms at a rate, or in every room
//! as its window allows ([`super::window`]).
//!
//! A random client that is ready sends to its own room, so at a rate rooms are chosen evenly by their members.
//!
//! Invariant: a message is counted in `Setup::sent` before it can be delivered.

use std::sync::atomic::Ordering;

use rand::RngExt;

use super::Worker;
use super::window::Windows;
use crate::pacer::Pacer;
use crate::payload::Stamp;
use crate::peer::Phase;

/// Messages sent in one turn, so that reading does not wait for a burst.
const SENDS_PER_TURN: u32 = 64;

/// Random picks before the search for a sender goes through all clients in order.
const PICKS: u32 = 16;

/// Bytes that a sender's socket may owe before another sender is looked for: beyond it, the server pushes
/// back and the memory would be ours.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// Send messages over random rooms.
#[derive(Debug, Clone, Copy)]
pub struct ChatOrder {
    /// When the first message leaves.
    pub start_us: u64,
    /// When the others do.
    pub pace: Pace,
    /// Ask for a receipt of each.
    pub receipts: bool,
    /// Never sleep, however little there is to do.
    pub busy_poll: bool,
}

/// When messages leave.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Open loop.
    Rate {
        /// Messages per second of all workers together.
        per_s: f64,
        /// Messages of all workers together.
        messages: u64,
    },
    /// Closed loop ([`super::window`]).
    Window {
        /// Messages in flight in each room.
        width: u32,
        /// Messages in flight in all rooms of all workers together.
        in_flight_max: Option<u32>,
        /// When the last one leaves.
        end_us: u64,
    },
}

#[derive(Debug)]
pub(super) struct Chatting {
    turn: Turn,
    receipts: bool,
    pub(super) busy_poll: bool,
    body: Vec<u8>,
}

/// Whose turn it is, and when.
#[derive(Debug)]
enum Turn {
    Paced(Pacer),
    /// Rooms with room in their windows; the slot of each client of the share.
    Windowed {
        start_us: u64,
        end_us: u64,
        slots: Vec<Option<usize>>,
    },
}

/// What a worker may have of `all`: the parts of all workers add up to it.
fn part(all: u32, index: u32, workers: u32) -> u32 {
    all / workers + u32::from(index < all % workers)
}

impl Worker {
    pub(super) fn start_chatting(&mut self, order: &ChatOrder) {
        if self.setup.deaf_every > 0 {
            for (_, conn) in &mut self.conns {
                conn.seat.deaf = self.setup.is_deaf(conn.seat.client);
                if conn.seat.deaf {
                    self.desk.left(&conn.seat);
                }
            }
        }
        let turn = match order.pace {
            Pace::Rate { per_s, messages } => {
                let workers = self.setup.plan.threads;
                Turn::Paced(Pacer::part(order.start_us, per_s, messages, self.index, workers))
            }
            Pace::Window { width, in_flight_max, end_us } => {
                let workers = self.setup.plan.threads;
                let part = in_flight_max.map_or(u32::MAX, |all| part(all, self.index, workers));
                self.desk.open_windows(width, part);
                let share = self.setup.plan.share(self.index);
                let mut slots = vec![None; share.len()];
                for (slot, conn) in &self.conns {
                    slots[(conn.seat.client - share.start) as usize] = Some(slot);
                }
                Turn::Windowed { start_us: order.start_us, end_us, slots }
            }
        };
        self.chatting =
            Some(Chatting { turn, receipts: order.receipts, busy_poll: order.busy_poll, body: Vec::new() });
    }

    /// When there is something to do; `None` when all is said.
    pub(super) fn chat_next_us(&self) -> Option<u64> {
        match &self.chatting.as_ref()?.turn {
            Turn::Paced(pacer) => pacer.next_us(),
            Turn::Windowed { end_us, .. } if self.desk.now_us >= *end_us => None,
            Turn::Windowed { start_us, end_us, .. } => {
                let open = self.desk.windows.as_ref().is_some_and(Windows::any_open);
                Some(if open { *start_us } else { *end_us })
            }
        }
    }

    /// Deaf clients read again.
    pub(super) fn listen(&mut self) {
        let deaf: Vec<usize> =
            self.conns.iter().filter(|(_, conn)| conn.seat.deaf).map(|(slot, _)| slot).collect();
        for slot in deaf {
            self.conns[slot].seat.deaf = false;
            self.unread.push(slot);
        }
    }

    pub(super) fn chat_due(&mut self) {
        for _ in 0..SENDS_PER_TURN {
            let now_us = self.desk.now_us;
            let (sender, intended_us) = match self.chatting.as_mut().map(|task| &mut task.turn) {
                None => return,
                Some(Turn::Paced(pacer)) => {
                    let Some(intended_us) = pacer.take_due(now_us) else { return };
                    (self.pick_sender(), intended_us)
                }
                Some(Turn::Windowed { start_us, end_us, .. }) if now_us < *start_us || now_us >= *end_us => {
                    return;
                }
                Some(Turn::Windowed { .. }) => {
                    let Some(room) = self.desk.windows.as_mut().and_then(Windows::take_open) else { return };
                    (self.pick_sender_of(room), self.setup.now_us())
                }
            };
            match sender {
                Some(slot) => self.say(slot, intended_us),
                None => self.desk.counters.add(|counters| &counters.unsent, 1),
            }
        }
    }

    fn can_send(&self, slot: usize) -> bool {
        self.conns.get(slot).is_some_and(|conn| {
            conn.peer.phase() == Phase::Ready
                && !conn.seat.dead
                && !conn.seat.deaf
                && conn.peer.unsent_bytes() < UNSENT_BYTES_MAX
        })
    }

    fn pick_sender(&mut self) -> Option<usize> {
        let slots = self.conns.capacity();
        if slots == 0 {
            return None;
        }
        for _ in 0..PICKS {
            let slot = self.rng.random_range(0..slots);
            if self.can_send(slot) {
                return Some(slot);
            }
        }
        (0..slots).find(|slot| self.can_send(*slot))
    }

    /// A member of the `room`th room of this worker, whose window it belongs to; marks the message as sent.
    fn pick_sender_of(&mut self, room: u32) -> Option<usize> {
        let Some(Turn::Windowed { slots, .. }) = self.chatting.as_ref().map(|task| &task.turn) else {
            return None;
        };
        let size = self.setup.room_size as usize;
        let first = room as usize * size;
        let members = slots.get(first..slots.len().min(first + size)).filter(|all| !all.is_empty())?;
        let client = |worker: &Self, at: usize| members[at].filter(|slot| worker.can_send(*slot));
        let picks: [usize; PICKS as usize] = std::array::from_fn(|_| self.rng.random_range(0..members.len()));
        let found = picks.into_iter().chain(0..members.len()).find_map(|at| client(self, at))?;
        if let Some(windows) = &mut self.desk.windows {
            windows.sent(room);
        }
        Some(found)
    }

    /// Sends one message from a client to its room.
    pub(super) fn say(&mut self, slot: usize, intended_us: u64) {
        let Some(Chatting { receipts, body, .. }) = &mut self.chatting else { return };
        let conn = &mut self.conns[slot];
        let seat = &mut conn.seat;
        let stamp = Stamp { room: seat.room, sender: seat.client, seq: seat.seq, intended_us };
        seat.seq += 1;
        body.clear();
        stamp.write(self.setup.payload_bytes, body);
        let receipt = receipts.then(|| stamp.seq.to_string());
        let destination = self.setup.script.destination(seat.room);
        self.setup.sent[seat.room as usize].fetch_add(1, Ordering::Relaxed);
        self.desk.counters.add(|counters| &counters.sent, 1);
        let done = conn.peer.send(&destination, body, receipt.as_deref(), &mut self.kit);
        self.flush_if(slot, done);
    }
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn the_parts_are_even_and_add_up() {
        let parts: Vec<u32> = (0..3).map(|index| part(11, index, 3)).collect();
        assert_eq!(parts, [4, 4, 3]);
    }
}
