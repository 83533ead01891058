//! Lets the clients of a worker go: with DISCONNECT and a close handshake, or just so.
//!
//! As fast as the server lets them go, with a bounded number on their way.
//!
//! Invariant: a client that is asked to leave is gone, or counted as a failure, within the patience.

use super::Worker;
use super::patience::Awaited;
use crate::peer::Phase;

/// Goodbyes begun in one turn.
const LEAVES_PER_TURN: u32 = 64;

/// Let all clients go.
#[derive(Debug, Clone, Copy)]
pub struct LeaveOrder {
    /// Clients of this worker that may be on their way out at once.
    pub under_way_max: u32,
    /// DISCONNECT and close handshake; else the sockets are just closed.
    pub goodbye: bool,
}

#[derive(Debug)]
pub(super) struct Leaving {
    /// Slots not visited yet; taken from the end.
    slots: Vec<usize>,
    goodbye: bool,
    under_way: u32,
    under_way_max: u32,
}

impl Worker {
    pub(super) fn start_leaving(&mut self, order: &LeaveOrder) {
        self.connecting = None;
        self.chatting = None;
        self.listen();
        let slots: Vec<usize> = self.conns.iter().map(|(slot, _)| slot).collect();
        let LeaveOrder { under_way_max, goodbye } = *order;
        self.leaving = Some(Leaving { slots, goodbye, under_way: 0, under_way_max });
    }

    /// At once, as long as there is somebody to let go and few are on their way.
    pub(super) fn leave_next_us(&self) -> Option<u64> {
        let task = self.leaving.as_ref()?;
        (!task.slots.is_empty() && task.under_way < task.under_way_max).then_some(self.desk.now_us)
    }

    pub(super) fn leave_due(&mut self) {
        for _ in 0..LEAVES_PER_TURN {
            let Some(task) = self.leaving.as_mut().filter(|task| task.under_way < task.under_way_max) else {
                return;
            };
            let goodbye = task.goodbye;
            let Some(slot) = task.slots.pop() else { return };
            self.let_go(slot, goodbye);
        }
    }

    /// A client is gone: was it on its way out?
    pub(super) fn left(&mut self, slot: usize) {
        let is_leaving =
            matches!(self.conns[slot].peer.phase(), Phase::Parting | Phase::Closing | Phase::Closed);
        if let Some(task) = self.leaving.as_mut().filter(|_| is_leaving) {
            task.under_way = task.under_way.saturating_sub(1);
        }
    }

    /// Lets one client go. One that is not ready has nothing to say goodbye to.
    pub(super) fn let_go(&mut self, slot: usize, goodbye: bool) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.seat.dead) else { return };
        if goodbye && conn.peer.phase() == Phase::Ready {
            let done = conn.peer.part(&mut self.kit);
            if let Some(task) = &mut self.leaving {
                task.under_way += 1;
            }
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
