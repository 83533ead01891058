//! The end of patience: a client that does not get on in time is a failure.
//!
//! All clients are given the same time, so the ends come in the order in which they were set, and a queue holds
//! them. A client that got on is passed over when its end comes; nothing is cancelled.
//!
//! Invariant: the queue is in the order of its times.

use super::Worker;
use crate::failure::{Failure, Kind};
use crate::peer::Phase;

/// The end of patience with one client.
#[derive(Debug)]
pub(super) struct Deadline {
    pub(super) at_us: u64,
    slot: usize,
    client: u32,
    awaited: Awaited,
}

/// What a client is given time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// To get ready.
    Ready,
    /// To hear its own message (churn).
    Echo,
    /// To be gone.
    Gone,
}

impl Worker {
    /// Gives a client time for something.
    pub(super) fn expect(&mut self, slot: usize, awaited: Awaited) {
        let at_us = self.desk.now_us + self.setup.patience.as_micros() as u64;
        let client = self.conns[slot].seat.client;
        self.deadlines.push_back(Deadline { at_us, slot, client, awaited });
    }

    pub(super) fn give_up_due(&mut self) {
        while let Some(deadline) = self.deadlines.pop_front_if(|next| next.at_us <= self.desk.now_us) {
            let Some(conn) = self.conns.get(deadline.slot) else { continue };
            let phase = conn.peer.phase();
            let waiting = match deadline.awaited {
                Awaited::Ready => phase.is_set_up(),
                Awaited::Echo => phase == Phase::Ready && conn.seat.awaits_echo,
                Awaited::Gone => matches!(phase, Phase::Parting | Phase::Closing | Phase::Closed),
            };
            if waiting && conn.seat.client == deadline.client && !conn.seat.dead {
                let detail = format!("still {phase:?} after {} s", self.setup.patience.as_secs());
                let kind =
                    if deadline.awaited == Awaited::Echo { Kind::EchoTimeout } else { phase.timeout() };
                self.fail(deadline.slot, Failure::new(kind, detail));
            }
        }
    }
}
