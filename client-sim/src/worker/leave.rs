//! Lets the clients of a worker go, at a rate: with DISCONNECT and a close handshake, or just so.
//!
//! Invariant: a client that is asked to leave is gone, or counted as a failure, within the patience.

use super::Worker;
use super::patience::Awaited;
use crate::pacer::Pacer;
use crate::peer::Phase;

/// Goodbyes begun in one turn.
const LEAVES_PER_TURN: u32 = 64;

/// Let all clients go.
#[derive(Debug, Clone, Copy)]
pub struct LeaveOrder {
    /// When the first leaves.
    pub start_us: u64,
    /// Goodbyes per second of all workers together.
    pub rate: f64,
    /// DISCONNECT and close handshake; else the sockets are just closed.
    pub goodbye: bool,
}

#[derive(Debug)]
pub(super) struct Leaving {
    pacer: Pacer,
    /// Slots not visited yet; taken from the end.
    slots: Vec<usize>,
    goodbye: bool,
}

impl Worker {
    pub(super) fn start_leaving(&mut self, order: &LeaveOrder) {
        self.connecting = None;
        self.chatting = None;
        self.listen();
        let slots: Vec<usize> = self.conns.iter().map(|(slot, _)| slot).collect();
        let rate = order.rate / f64::from(self.setup.plan.threads);
        let pacer = Pacer::new(order.start_us, rate, slots.len() as u64);
        self.leaving = Some(Leaving { pacer, slots, goodbye: order.goodbye });
    }

    pub(super) fn leave_next_us(&self) -> Option<u64> {
        self.leaving.as_ref().and_then(|task| task.pacer.next_us())
    }

    pub(super) fn leave_due(&mut self) {
        for _ in 0..LEAVES_PER_TURN {
            let Some(task) = &mut self.leaving else { return };
            if task.pacer.take_due(self.desk.now_us).is_none() {
                return;
            }
            let goodbye = task.goodbye;
            if let Some(slot) = task.slots.pop() {
                self.let_go(slot, goodbye);
            }
        }
    }

    /// Lets one client go. One that is not ready has nothing to say goodbye to.
    pub(super) fn let_go(&mut self, slot: usize, goodbye: bool) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.seat.dead) else { return };
        if goodbye && conn.peer.phase() == Phase::Ready {
            let done = conn.peer.part(&mut self.kit);
            self.flush_if(slot, done);
            if !self.conns[slot].seat.dead {
                self.expect(slot, Awaited::Gone);
            }
        } else if !matches!(conn.peer.phase(), Phase::Parting | Phase::Closing | Phase::Closed) {
            self.desk.closed_by_client_first += 1;
            self.bury(slot);
        }
    }
}
