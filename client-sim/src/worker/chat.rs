//! Sends messages over random rooms at a rate, each with its identity and its intended time.
//!
//! A random client that is ready sends to its own room, so rooms are chosen evenly by their members.
//!
//! Invariant: a message is counted in `Setup::sent` before it can be delivered.

use std::sync::atomic::Ordering;

use rand::RngExt;

use super::Worker;
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
    /// Messages per second of all workers together.
    pub rate: f64,
    /// Messages of all workers together.
    pub messages: u64,
    /// Ask for a receipt of each.
    pub receipts: bool,
}

#[derive(Debug)]
pub(super) struct Chatting {
    pub(super) pacer: Pacer,
    receipts: bool,
    body: Vec<u8>,
}

impl Worker {
    pub(super) fn start_chatting(&mut self, order: &ChatOrder) {
        let workers = self.setup.plan.threads;
        let pacer = Pacer::part(order.start_us, order.rate, order.messages, self.index, workers);
        self.chatting = Some(Chatting { pacer, receipts: order.receipts, body: Vec::new() });
        if self.setup.deaf_every > 0 {
            for (_, conn) in &mut self.conns {
                conn.seat.deaf = self.setup.is_deaf(conn.seat.client);
                if conn.seat.deaf {
                    self.desk.left(&conn.seat);
                }
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
            let Some(task) = &mut self.chatting else { return };
            let Some(intended_us) = task.pacer.take_due(self.desk.now_us) else { return };
            match self.pick_sender() {
                Some(slot) => self.say(slot, intended_us),
                None => self.desk.counters.add(|counters| &counters.unsent, 1),
            }
        }
    }

    fn pick_sender(&mut self) -> Option<usize> {
        let slots = self.conns.capacity();
        let can_send = |worker: &mut Self, slot: usize| {
            worker.conns.get_mut(slot).is_some_and(|conn| {
                conn.peer.phase() == Phase::Ready
                    && !conn.seat.dead
                    && !conn.seat.deaf
                    && conn.peer.unsent().is_none_or(|unsent| unsent.len() < UNSENT_BYTES_MAX)
            })
        };
        if slots == 0 {
            return None;
        }
        for _ in 0..PICKS {
            let slot = self.rng.random_range(0..slots);
            if can_send(self, slot) {
                return Some(slot);
            }
        }
        (0..slots).find(|slot| can_send(self, *slot))
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
