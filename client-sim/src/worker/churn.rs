//! Cycles of connect, subscribe, perhaps one message, leave: at a rate, with a bounded population.
//!
//! A cycle starts at its intended time, or as soon after it as the population has a place; either way its
//! set-up is measured from the intended time. Rooms are shared by the clients that come and go, so messages
//! are not checked for order here: a client only waits for its own.
//!
//! Invariant: at most `population` connections are open.

use std::collections::VecDeque;

use super::Worker;
use super::patience::Awaited;
use crate::failure::{Failure, Kind};
use crate::pacer::Pacer;
use crate::payload::Stamp;

/// Cycles begun in one turn.
const STARTS_PER_TURN: u32 = 64;

/// Clients of one worker are numbered from here on, so that the workers' do not meet.
const CLIENTS_PER_WORKER: u32 = 1 << 26;

/// How a client of a churn leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Leave {
    /// DISCONNECT, close handshake; the server ends the connection.
    Goodbye,
    /// The socket is closed without a word.
    Drop,
    /// The socket is reset.
    Reset,
}

/// Connect, subscribe and leave, over and over.
#[derive(Debug, Clone, Copy)]
pub struct ChurnOrder {
    /// When the first cycle starts.
    pub start_us: u64,
    /// Cycles per second of all workers together.
    pub rate: f64,
    /// Cycles of all workers together.
    pub cycles: u64,
    /// Connections open at once in this worker.
    pub population: u32,
    /// Rooms that the clients spread over.
    pub rooms: u32,
    /// Microseconds that a client stays when it is ready.
    pub stay_us: u64,
    /// Each client sends one message to its room and waits for it.
    pub message: bool,
    /// How it leaves.
    pub leave: Leave,
}

#[derive(Debug)]
pub(super) struct Churning {
    order: ChurnOrder,
    pacer: Pacer,
    next_client: u32,
    /// Clients that stay, by the time at which they leave.
    staying: VecDeque<(u64, usize, u32)>,
    body: Vec<u8>,
}

impl Churning {
    pub(super) fn all_started(&self) -> bool {
        self.pacer.next_us().is_none()
    }
}

impl Worker {
    pub(super) fn start_churning(&mut self, order: &ChurnOrder) {
        let workers = self.setup.plan.threads;
        self.churning = Some(Churning {
            order: *order,
            pacer: Pacer::part(order.start_us, order.rate, order.cycles, self.index, workers),
            next_client: self.index * CLIENTS_PER_WORKER,
            staying: VecDeque::new(),
            body: Vec::new(),
        });
        self.beating.start(self.desk.now_us);
    }

    pub(super) fn churn_next_us(&self) -> Option<u64> {
        let task = self.churning.as_ref()?;
        let room = self.conns.len() < task.order.population as usize;
        let start = task.pacer.next_us().filter(|_| room);
        let leave = task.staying.front().map(|(at_us, ..)| *at_us);
        start.into_iter().chain(leave).min()
    }

    pub(super) fn churn_due(&mut self) {
        for _ in 0..STARTS_PER_TURN {
            let open = self.conns.len();
            let Some(task) = &mut self.churning else { return };
            if open >= task.order.population as usize {
                break;
            }
            let Some(intended_us) = task.pacer.take_due(self.desk.now_us) else { break };
            let client = task.next_client;
            task.next_client += 1;
            let room = client % task.order.rooms.max(1);
            if self.desk.now_us > intended_us + 1_000_000 {
                self.desk.cycles_late += 1;
            }
            // What fails at once is counted, and the next cycle starts at its own time.
            let _slot = self.open(client, room, 0, intended_us);
        }
        while let Some(task) = &mut self.churning {
            let leave = task.order.leave;
            let Some((_, slot, client)) = task.staying.pop_front_if(|(at_us, ..)| *at_us <= self.desk.now_us)
            else {
                return;
            };
            if self.conns.get(slot).is_some_and(|conn| conn.seat.client == client && !conn.seat.dead) {
                self.depart(slot, leave);
            }
        }
    }

    /// A client received something while it is ready: does it stay now, or still wait for its message?
    pub(super) fn churn_heard(&mut self, slot: usize, became_ready: bool) {
        let Some(task) = &mut self.churning else { return };
        let conn = &mut self.conns[slot];
        if conn.seat.dead {
            return;
        }
        let seat = &mut conn.seat;
        if task.order.message && became_ready {
            let stamp = Stamp { room: seat.room, sender: seat.client, seq: 0, intended_us: self.desk.now_us };
            task.body.clear();
            stamp.write(self.setup.payload_bytes, &mut task.body);
            seat.seq = 1;
            let destination = self.setup.script.destination(seat.room);
            self.desk.counters.add(|counters| &counters.sent, 1);
            let done = conn.peer.send(&destination, &task.body, None, &mut self.kit);
            self.flush_if(slot, done);
            if !self.conns[slot].seat.dead {
                self.conns[slot].seat.awaits_echo = true;
                self.expect(slot, Awaited::Echo);
            }
            return;
        }
        if became_ready || (seat.seq > 0 && !seat.awaits_echo && !seat.stays) {
            seat.stays = true;
            task.staying.push_back((self.desk.now_us + task.order.stay_us, slot, seat.client));
        }
    }

    fn depart(&mut self, slot: usize, leave: Leave) {
        if leave == Leave::Reset {
            // A failure leaves an ordinary close, which the report shows as "who closed first" all the same.
            let linger =
                socket2::SockRef::from(&self.conns[slot].stream).set_linger(Some(std::time::Duration::ZERO));
            if let Err(error) = linger {
                return self.fail(slot, Failure::new(Kind::Io, error.to_string()));
            }
        }
        if leave != Leave::Goodbye {
            self.desk.counters.add(|counters| &counters.cycles, 1);
        }
        self.let_go(slot, leave == Leave::Goodbye);
    }
}
