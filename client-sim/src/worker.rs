//! One thread of simulated clients: a mio event loop over thousands of sockets.
//!
//! A turn: wait for events or the next time something is due; take the orders of the crew; read and write
//! what is ready; do what is due (beat, connect, send, leave, give up); free what has closed. The tasks live
//! in child modules, what is counted in [`desk`], what a client says in [`crate::peer`]. A worker shares
//! nothing with the others but the counters of live progress.
//!
//! Sockets are registered once, edge-triggered. A socket is read until it has no more, or for a bounded
//! number of times, and then again in the next turn.
//!
//! Invariant: a closed client's slot is freed at the end of the turn, so no event of a turn can reach
//! another client than the one it was meant for (`dead` clients ignore theirs).

mod beat;
mod chat;
mod churn;
mod connect;
pub mod desk;
mod farewell;
mod leave;
pub mod orders;
mod patience;
mod seat;
pub mod setup;
mod throttle;
mod window;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use slab::Slab;

use crate::failure::Failure;
use crate::pacer::alarm::Alarm;
use crate::peer::{Kit, Phase};
use desk::{Counters, Desk, Tallies};
use orders::{Notice, Order};
use patience::Deadline;
use seat::{Conn, Reception};
use setup::Setup;

/// Token of the crew's waker.
pub const WAKER: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 * 1024;
/// Reads of one socket in one turn: a flooded client must not starve the others.
const READS_PER_TURN: usize = 4;
/// Events taken in one turn.
const EVENTS_PER_TURN: usize = 1024;
/// Waits shorter than this are left to the timer descriptor, which knows microseconds.
const FINE_WAIT: Duration = Duration::from_millis(20);

/// One thread of simulated clients.
pub struct Worker {
    index: u32,
    setup: Arc<Setup>,
    poll: Poll,
    alarm: Alarm,
    orders: Receiver<Order>,
    notices: Sender<Notice>,
    conns: Slab<Conn>,
    /// Clients that failed or left in this turn.
    dead: Vec<usize>,
    /// Clients that may have more to read.
    unread: Vec<usize>,
    /// Ends of patience, in the order in which they come.
    deadlines: VecDeque<Deadline>,
    half_open: u32,
    kit: Kit,
    scratch: Vec<u8>,
    desk: Desk,
    rng: SmallRng,
    connecting: Option<connect::Connecting>,
    chatting: Option<chat::Chatting>,
    leaving: Option<leave::Leaving>,
    churning: Option<churn::Churning>,
    beating: beat::Beating,
}

/// What becomes of the loop after the orders were read.
enum Duty {
    Stay,
    Exit,
}

impl Worker {
    /// A worker with no clients yet. To be called on its own thread, after that has got its own descriptor
    /// table: every descriptor that it makes lives there.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(
        index: u32,
        setup: Arc<Setup>,
        poll: Poll,
        counters: Arc<Counters>,
        orders: Receiver<Order>,
        notices: Sender<Notice>,
    ) -> io::Result<Self> {
        let share = setup.plan.share(index);
        Ok(Self {
            index,
            alarm: Alarm::new(poll.registry(), ALARM)?,
            poll,
            orders,
            notices,
            conns: Slab::with_capacity(share.len()),
            dead: Vec::new(),
            unread: Vec::new(),
            deadlines: VecDeque::new(),
            half_open: 0,
            kit: Kit::new(),
            scratch: vec![0; READ_BYTES],
            desk: Desk::new(counters, share, &setup),
            rng: SmallRng::seed_from_u64(setup.seed ^ u64::from(index)),
            connecting: None,
            chatting: None,
            leaving: None,
            churning: None,
            beating: beat::Beating::default(),
            setup,
        })
    }

    /// Turns until told to exit.
    ///
    /// # Errors
    /// Only what makes the event loop itself impossible; a client's errors are counted.
    pub fn run(mut self) -> io::Result<Tallies> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            let timeout = self.prepare_wait()?;
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.desk.now_us = self.setup.now_us();
            if let Duty::Exit = self.take_orders() {
                return Ok(self.desk.into_tallies());
            }
            for slot in std::mem::take(&mut self.unread) {
                self.readable(slot, true);
            }
            for event in &events {
                self.handle(event);
            }
            self.beat_due();
            self.connect_due();
            self.chat_due();
            self.churn_due();
            self.leave_due();
            self.give_up_due();
            self.reap();
            self.report_done();
        }
    }

    /// How long to wait: not at all, until the alarm, or for whole milliseconds.
    fn prepare_wait(&mut self) -> io::Result<Option<Duration>> {
        let is_busy = self.chatting.as_ref().is_some_and(|chatting| chatting.busy_poll);
        if is_busy || !self.unread.is_empty() {
            return Ok(Some(Duration::ZERO));
        }
        let due = [
            self.connect_next_us(),
            self.chat_next_us(),
            self.churn_next_us(),
            self.leave_next_us(),
            self.beating.next_us(self.beat_slots()),
            self.deadlines.front().map(|deadline| deadline.at_us),
        ];
        let Some(next_us) = due.into_iter().flatten().min() else { return Ok(None) };
        let now_us = self.setup.now_us();
        let wait = Duration::from_micros(next_us.saturating_sub(now_us));
        if wait.is_zero() || wait >= FINE_WAIT {
            return Ok(Some(wait));
        }
        self.alarm.set(next_us, now_us)?;
        Ok(None)
    }

    fn take_orders(&mut self) -> Duty {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Connect(order)) => self.start_connecting(&order),
                Ok(Order::Chat(order)) => self.start_chatting(&order),
                Ok(Order::Listen) => self.listen(),
                Ok(Order::Tally) => {
                    let tally = self.desk.tally(&self.setup);
                    self.notify(Notice::Tally(Box::new(tally)));
                }
                Ok(Order::Leave(order)) => self.start_leaving(&order),
                Ok(Order::Churn(order)) => self.start_churning(&order),
                Ok(Order::Farewell) => self.expect_farewell(),
                Ok(Order::Exit) | Err(TryRecvError::Disconnected) => return Duty::Exit,
                Err(TryRecvError::Empty) => return Duty::Stay,
            }
        }
    }

    fn handle(&mut self, event: &Event) {
        let Token(slot) = event.token();
        // The waker and the alarm have done their work by ending the wait.
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.seat.dead) else { return };
        if conn.peer.phase() == Phase::Dialling {
            if !event.is_writable() {
                return;
            }
            if let Some(error) = conn.stream.take_error().unwrap_or_else(Some) {
                return self.fail(slot, Failure::from_io(&error));
            }
            conn.peer.connected(conn.seat.client, &self.setup.script, &mut self.kit);
            self.flush(slot);
        } else if event.is_writable() {
            self.writable(slot);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.readable(slot, event.is_read_closed() || event.is_error());
        }
    }

    /// Reads what there is. `to_the_end` reads on after a short read: the end of the stream, or an error,
    /// is known to be there.
    fn readable(&mut self, slot: usize, to_the_end: bool) {
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.seat.dead && !conn.seat.deaf)
            else {
                return;
            };
            match conn.stream.read(&mut self.scratch) {
                Ok(0) => return self.ended(slot),
                Ok(len) => {
                    if let Err(failure) = self.receive(slot, len) {
                        return self.fail(slot, failure);
                    }
                    if len < self.scratch.len() && !to_the_end {
                        // A short read has emptied the socket: the next byte raises a new edge (epoll(7)).
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(slot, Failure::from_io(&error)),
            }
        }
        self.unread.push(slot);
    }

    fn receive(&mut self, slot: usize, len: usize) -> Result<(), Failure> {
        let Conn { peer, seat, .. } = &mut self.conns[slot];
        let before = peer.phase();
        seat.heard(self.desk.now_us);
        let identity = seat.identity();
        let mut reception = Reception { seat, desk: &mut self.desk, setup: &self.setup };
        peer.receive(identity, &self.scratch[..len], &self.setup.script, &mut self.kit, &mut reception)?;
        let ready = peer.phase() == Phase::Ready;
        if ready && before.is_set_up() {
            self.half_open -= 1;
            if let Some((task, start)) = self.connecting.as_mut().zip(seat.start.as_ref()) {
                task.throttle.ended(start.started_us, self.desk.now_us);
            }
            self.desk.became_ready(seat);
        }
        self.flush(slot);
        if ready {
            self.churn_heard(slot, before.is_set_up());
        }
        Ok(())
    }

    /// Sends what the last call of the peer left in the kit.
    fn flush(&mut self, slot: usize) {
        if self.kit.out.is_empty() {
            return;
        }
        let conn = &mut self.conns[slot];
        let mut sent = 0;
        // What waits already goes first.
        if conn.peer.unsent().is_none() {
            match conn.stream.write(&self.kit.out) {
                Ok(len) => sent = len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.kit.out.clear();
                    return self.fail(slot, Failure::from_io(&error));
                }
            }
        }
        if sent < self.kit.out.len() {
            conn.peer.keep_unsent(&self.kit.out[sent..]);
        }
        self.kit.out.clear();
    }

    fn writable(&mut self, slot: usize) {
        let conn = &mut self.conns[slot];
        while let Some(unsent) = conn.peer.unsent() {
            match conn.stream.write(unsent) {
                Ok(len) => drop(unsent.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(slot, Failure::from_io(&error)),
            }
        }
        conn.peer.settle();
    }

    fn ended(&mut self, slot: usize) {
        match self.conns[slot].peer.receive_end() {
            Ok(()) => {
                self.desk.closed_by_server_first += 1;
                self.desk.counters.add(|counters| &counters.cycles, 1);
                self.bury(slot);
            }
            Err(failure) => self.fail(slot, failure),
        }
    }

    fn fail(&mut self, slot: usize, failure: Failure) {
        let conn = &mut self.conns[slot];
        if conn.seat.dead {
            return;
        }
        if !self.kit.out.is_empty() {
            // The answer to a close, mostly. The client is lost whether the server gets it or not.
            drop(conn.stream.write(&self.kit.out));
            self.kit.out.clear();
        }
        if self.is_cut_off(&failure) {
            return self.bury(slot);
        }
        let conn = &self.conns[slot];
        if self.setup.is_deaf(conn.seat.client) && conn.seat.start.is_none() {
            self.desk.deaf_failures.add(failure);
        } else {
            self.desk.failures.add(failure);
            self.desk.counters.add(|counters| &counters.failed, 1);
        }
        self.bury(slot);
    }

    /// Takes a client out of all counts; its socket is closed at the end of the turn.
    fn bury(&mut self, slot: usize) {
        let Conn { seat, .. } = &mut self.conns[slot];
        seat.dead = true;
        // What it started with is kept until it is ready.
        if seat.start.is_some() {
            self.half_open -= 1;
        } else {
            self.desk.counters.sub(|counters| &counters.open, 1);
        }
        self.desk.left(seat);
        self.dead.push(slot);
        self.left(slot);
    }

    fn reap(&mut self) {
        for slot in self.dead.drain(..) {
            self.conns.remove(slot);
        }
    }

    fn report_done(&mut self) {
        if self.connecting.as_ref().is_some_and(connect::Connecting::all_started) && self.half_open == 0 {
            self.connecting = None;
            self.notify(Notice::Connected);
        }
        if self.chatting.is_some() && self.chat_next_us().is_none() {
            self.chatting = None;
            self.notify(Notice::Sent);
        }
        if self.leaving.is_some() && self.conns.is_empty() {
            self.leaving = None;
            self.notify(Notice::Left);
        }
        if self.churning.as_ref().is_some_and(churn::Churning::all_started) && self.conns.is_empty() {
            self.churning = None;
            self.notify(Notice::Churned);
        }
    }

    fn notify(&self, notice: Notice) {
        // The crew is gone only when the run is being given up: nobody is left to tell.
        drop(self.notices.send(notice));
    }

    /// Sends what a peer wrote; one that could not even write to memory is given up.
    fn flush_if(&mut self, slot: usize, written: Result<(), Failure>) {
        match written {
            Ok(()) => self.flush(slot),
            Err(failure) => self.fail(slot, failure),
        }
    }

    /// Counts a failure of a client that never got a slot.
    fn fail_before_start(&mut self, failure: Failure) {
        self.desk.failures.add(failure);
        self.desk.counters.add(|counters| &counters.failed, 1);
    }
}
