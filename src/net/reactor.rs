//! One thread's event loop.
//!
//! A turn is a fixed sequence of phases, each with bounded work, and each a function below: poll, note the
//! events, accept, read, step the shard (mail, timers), flush, close. The loop moves bytes and readiness; what
//! they mean is the shard's to say.
//!
//! It does not start threads, and it does not end the process: see [`server`](crate::net::server).
//!
//! # Why no connection is forgotten
//! A connection with bytes to read is in one of three places: the kernel will report it (its READABLE bit is
//! clear), it is on the `ready` list, or the shard does not want its bytes at the moment and will name it in
//! `take_resumed`. [`socket`] tells why the bits are needed.
//!
//! # Why nobody is late whose bytes have come
//! Timers are fired behind the reads, and for the time at which a look at the sockets began that has shown everything
//! (`look`). After a pause of the process, an interrupted wait or a long turn that time comes only
//! when what has come meanwhile has been read.
//!
//! Invariant: a connection whose READABLE bit is set is on the `ready` list, or the shard does not want to
//! read from it.

use std::io;
use std::mem;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::limits;
use crate::net::acceptor::{Accepted, Acceptor};
use crate::net::flush_timer::FlushTimer;
use crate::net::group_memory::Gate;
use crate::net::handle::{Handle, LIMITS, STOP, WAKE_UP};
use crate::net::look::Seen;
use crate::net::socket::{self, BLOCKED, ENDED, LISTED, READABLE, Sockets};
use crate::shard::{Closed, ConnKey, Shard, Transport, rest};
use crate::tcb::FourTuple;
use crate::time::{Clock, Tick};
use crate::wire::framing::Framing;

/// Events taken from the kernel in one turn. What is left over comes first in the next one: epoll
/// rotates its ready list.
const EVENTS_MAX: usize = 1024;

/// Reads between two looks of the shard at what they brought: more would find the first of it out of the caches.
const READS_MAX: usize = 32;

const FLUSH_TIMER: Token = Token(usize::MAX - 1);

/// Listener `i` has the `i`th token below these. No connection's token comes near: an index in the
/// shard is far below 2^32.
fn listener_token(i: usize) -> Token {
    Token(FLUSH_TIMER.0 - 1 - i)
}

/// Who an event is for.
enum Target {
    WakeUp,
    Listener(usize),
    Connection(ConnKey),
}

impl Target {
    fn of(token: Token, listeners: usize) -> Target {
        match token {
            WAKE_UP | FLUSH_TIMER => Target::WakeUp,
            Token(listener) if FLUSH_TIMER.0 - listener <= listeners => {
                Target::Listener(FLUSH_TIMER.0 - listener - 1)
            }
            _ => Target::Connection(ConnKey::from_token(token.0)),
        }
    }
}

/// What a reactor is told about its work.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bounds of one turn.
    pub turn: limits::Turn,
    /// Milliseconds from the order to stop until connections are reset.
    pub shutdown_timeout_ms: u32,
    /// Connections to have room for without reallocation.
    pub connections: usize,
    /// Whether messages may be delayed, for which the reactor needs a timer finer than the poll's.
    pub has_flush_delay: bool,
    /// Has the allocator return what is free to the kernel: called after traffic, when there is none.
    pub trim_heap: fn(),
    /// Says when nobody is to be admitted for want of memory.
    pub gate: Arc<Gate>,
}

/// What was read from a connection, and where in the scratch buffer it is.
#[derive(Debug)]
struct Received {
    key: ConnKey,
    bytes: Range<usize>,
}

/// How the connections ended that were open when the reactor was told to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// In order.
    pub closed: u64,
    /// By a reset: of the peer, or because the time was up.
    pub reset: u64,
}

/// A reactor that was told to stop.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    /// Until when goodbyes are spread and connections taken, to be refused.
    listens_until: Tick,
    /// The close code.
    code: u16,
    /// When connections that are left are reset.
    at: Tick,
    /// They are being reset.
    is_up: bool,
    /// Connections that were open.
    open: u64,
    /// Resets before.
    resets: u64,
}

/// One event loop with its listeners, its sockets and its shard.
pub struct Reactor {
    poll: Poll,
    events: Events,
    handle: Arc<Handle>,
    clock: Clock,
    flush_timer: Option<FlushTimer>,
    turn: limits::Turn,
    shutdown_timeout_ms: u32,
    trim_heap: fn(),
    gate: Arc<Gate>,

    /// None once the reactor is stopping.
    acceptor: Option<Acceptor>,
    /// Tokens that are listeners', also after these are gone.
    listeners: usize,
    sockets: Sockets,
    shard: Shard,

    /// Where every byte arrives; the shard keeps what it cannot use at once.
    scratch: Box<[u8]>,
    /// What is in `scratch` and the shard has not seen, one behind the other from its begin. Empty between phases.
    received: Vec<Received>,
    /// Connections to read from in this turn. May name closed ones, which their generation tells.
    ready: Vec<ConnKey>,
    /// Connections to read from in the next turn; swapped with `ready`.
    later: Vec<ConnKey>,
    /// Given to the shard to fill, kept for their capacity.
    resumed: Vec<ConnKey>,
    closed: Vec<Closed>,
    /// Timers are due that did not fit into the last turn.
    timers_due: bool,
    /// Up to when everything that came has been seen.
    seen: Seen,
    /// Set by the order to stop.
    stopping: Option<Stopping>,
}

impl Reactor {
    /// Puts a loop together and registers its listeners. To be called in the thread that will run it.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn new(
        poll: Poll,
        handle: Arc<Handle>,
        mut acceptor: Acceptor,
        shard: Shard,
        clock: Clock,
        options: Options,
    ) -> io::Result<Reactor> {
        acceptor.register(poll.registry(), listener_token)?;
        let Options { turn, shutdown_timeout_ms, connections, has_flush_delay, trim_heap, gate } = options;
        let flush_timer =
            has_flush_delay.then(|| FlushTimer::new(poll.registry(), FLUSH_TIMER)).transpose()?;
        Ok(Reactor {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            handle,
            clock,
            flush_timer,
            scratch: vec![0; turn.read_bytes_max as usize].into_boxed_slice(),
            turn,
            shutdown_timeout_ms,
            trim_heap,
            gate,
            listeners: acceptor.len(),
            acceptor: Some(acceptor),
            sockets: Sockets::with_capacity(connections),
            shard,
            received: Vec::with_capacity(READS_MAX),
            ready: Vec::new(),
            later: Vec::new(),
            resumed: Vec::new(),
            closed: Vec::new(),
            timers_due: false,
            seen: Seen::new(clock.now()),
            stopping: None,
        })
    }

    /// Runs until it was told to stop and its connections have ended: in order, or by a reset when their time is
    /// up.
    ///
    /// # Errors
    /// When polling fails, which only a bug can cause.
    pub fn run(&mut self) -> io::Result<Ends> {
        loop {
            self.turn()?;
            let Some(stopping) = self.stopping else { continue };
            let open = self.shard.connections() as u64;
            // Those who came meanwhile are none of them.
            self.handle.show_ended(stopping.open.saturating_sub(open));
            if open == 0 {
                let reset = self.shard.counters().resets_total - stopping.resets;
                return Ok(Ends { closed: stopping.open.saturating_sub(reset), reset });
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        self.poll()?;
        let now = self.clock.now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        self.shard.set_wall_ms(since.map_or(0, |since| since.as_millis() as u64));
        self.obey(now);
        self.note_events(now);
        self.accept(now);
        self.read(now);
        self.shard.continue_farewell(now);
        self.shard.take_mail(now);
        self.timers_due = self.shard.expire(&self.sockets, self.seen.until());
        self.shard.flush(&mut self.sockets, now, self.clock.micros());
        self.resume();
        self.close();
        if self.shard.take_trim() {
            self.trim();
        }
        Ok(())
    }

    /// Traffic is over: gives back what it has left behind.
    fn trim(&mut self) {
        for list in [&mut self.ready, &mut self.later, &mut self.resumed] {
            list.shrink_to(rest::LIST_KEPT);
        }
        self.closed.shrink_to(rest::LIST_KEPT);
        (self.trim_heap)();
    }

    /// Waits for the kernel, for a wake-up or for the next deadline; not at all while there is work. Notes up to when
    /// everything has been seen.
    fn poll(&mut self) -> io::Result<()> {
        let mut began = self.clock.now();
        let mut timeout = self.timeout(began);
        if let Some(timer) = &mut self.flush_timer
            && let Some(due) = self.shard.next_flush()
            && !timer.arm(due, self.clock.micros())?
        {
            timeout = Some(Duration::ZERO);
        }
        let mut is_whole = self.wait(timeout)?;
        if self.events.is_empty() && timeout != Some(Duration::ZERO) {
            // A deadline has come, or the wait was interrupted: before timers are fired everything must have been seen
            // that came until now.
            began = self.clock.now();
            is_whole = self.wait(Some(Duration::ZERO))?;
        }
        self.seen.note(began, is_whole);
        Ok(())
    }

    /// Takes events from the kernel. False if there may be more of them.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => Ok(self.events.iter().count() < EVENTS_MAX),
            // A signal handler ran on this thread, or the process was stopped and goes on.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn timeout(&self, now: Tick) -> Option<Duration> {
        let acceptor = self.acceptor.as_ref();
        if !self.ready.is_empty()
            || self.timers_due
            || self.shard.has_work()
            || acceptor.is_some_and(|acceptor| acceptor.has_work(now))
        {
            return Some(Duration::ZERO);
        }
        let retry_at = acceptor.and_then(Acceptor::retry_at);
        let stopping = self.stopping.filter(|stopping| !stopping.is_up);
        let reset_at =
            stopping.map(|stopping| if acceptor.is_some() { stopping.listens_until } else { stopping.at });
        let next = [self.shard.next_deadline(), retry_at, reset_at].into_iter().flatten().min();
        next.map(|deadline| self.clock.until(deadline))
    }

    /// Does what it was told. To stop: connections that are open are closed; if that is spread over a time, others are
    /// still taken until it is over, and refused; when their time is up, those that are left are reset.
    fn obey(&mut self, now: Tick) {
        let orders = self.handle.take_orders();
        if orders & LIMITS != 0
            && let Some(limits) = self.handle.take_limits()
        {
            self.shard.set_limits(limits);
        }
        match &mut self.stopping {
            None if orders & STOP != 0 => {
                let (code, spread_ms) = self.handle.goodbye();
                let listens_until = now.after_ms(u64::from(spread_ms));
                self.stopping = Some(Stopping {
                    listens_until,
                    code,
                    at: listens_until.after_ms(u64::from(self.shutdown_timeout_ms)),
                    is_up: false,
                    open: self.shard.connections() as u64,
                    resets: self.shard.counters().resets_total,
                });
                if spread_ms == 0 {
                    // Closes the listeners. Connections in their queues are reset by the kernel.
                    self.acceptor = None;
                }
                self.shard.begin_drain(code, spread_ms, now);
            }
            Some(Stopping { listens_until, code, .. })
                if self.acceptor.is_some() && now >= *listens_until =>
            {
                self.acceptor = None;
                // For those who came meanwhile.
                self.shard.begin_drain(*code, 0, now);
            }
            Some(stopping) if !stopping.is_up && now >= stopping.at => {
                stopping.is_up = true;
                self.shard.begin_reset();
            }
            _ => {}
        }
    }

    /// Turns events into readiness bits and list entries; reads and writes nothing.
    fn note_events(&mut self, now: Tick) {
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let key = match Target::of(event.token(), self.listeners) {
                // Its purpose was to end the wait: the mailbox and what is delayed are looked at in every turn.
                Target::WakeUp => continue,
                Target::Listener(i) => {
                    if let Some(acceptor) = &mut self.acceptor {
                        acceptor.readable(i);
                    }
                    continue;
                }
                Target::Connection(key) => key,
            };
            // The event was under way when its connection was closed, and the slot may have a new one.
            if !self.shard.is_current(key) {
                continue;
            }
            if event.is_writable() && self.sockets.readiness(key.index) & BLOCKED != 0 {
                self.sockets.clear(key.index, BLOCKED);
                self.shard.writable(key);
            }
            if event.is_read_closed() || event.is_error() {
                self.sockets.set(key.index, READABLE | ENDED);
                // Nobody reads now, so nobody would see the error; and no event will tell it again.
                if event.is_error() && !self.shard.wants_read(key) {
                    self.fail(key, now);
                    continue;
                }
            } else if event.is_readable() {
                self.sockets.set(key.index, READABLE);
            } else {
                continue;
            }
            self.list(key);
        }
        self.events = events;
    }

    /// Takes connections until the queues are empty or the turn's share is used up. The acceptor remembers
    /// which listeners to come back to.
    fn accept(&mut self, now: Tick) {
        if self.acceptor.as_ref().is_some_and(|acceptor| acceptor.has_work(now)) {
            self.shard.set_memory_short(self.gate.is_shut(Instant::now()));
        }
        for _ in 0..self.turn.accepts_max {
            let Some(acceptor) = &mut self.acceptor else { return };
            match acceptor.accept(now) {
                Accepted::Connection(stream, tuple, framing) => self.open(stream, tuple, framing, now),
                Accepted::Failed => self.shard.accept_failed(),
                Accepted::Nothing => return,
            }
        }
    }

    fn open(&mut self, stream: TcpStream, tuple: FourTuple, framing: Framing, now: Tick) {
        let key = match self.shard.open(tuple, framing, now) {
            Ok(key) => key,
            Err(refusal) => {
                tracing::debug!(?refusal, "connection refused");
                // A reset and not an orderly close: a flood of refused connections must not become one of
                // TIME_WAIT entries.
                socket::reset_on_close(&stream);
                return;
            }
        };
        let stream = self.sockets.insert(key.index, stream);
        // Bytes that came before the registration are reported by it: no read is needed here.
        let registered = self.poll.registry().register(
            &mut SourceFd(&stream.as_raw_fd()),
            Token(key.as_token()),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = registered {
            // ENOSPC: fs.epoll.max_user_watches; or ENOMEM.
            tracing::warn!(%error, "cannot watch a connection");
            self.shard.fail(key, &error, None, now);
        }
    }

    /// Reads from every listed connection, from each at most its share.
    ///
    /// Many have one frame. So up to [`READS_MAX`] are read from before the shard sees what came: its code and the
    /// kernel's do not drive each other out of the processor's caches for each of them.
    fn read(&mut self, now: Tick) {
        let mut ready = mem::take(&mut self.ready);
        for key in ready.drain(..) {
            // The slot may have a new connection, which is listed by itself.
            if !self.shard.is_current(key) {
                continue;
            }
            self.sockets.clear(key.index, LISTED);
            self.read_connection(key, now);
        }
        self.take_in(now);
        self.ready = mem::replace(&mut self.later, ready);
    }

    fn read_connection(&mut self, key: ConnKey, now: Tick) {
        let mut share = self.scratch.len();
        while self.sockets.readiness(key.index) & READABLE != 0 && self.shard.wants_read(key) {
            if share == 0 {
                self.sockets.set(key.index, LISTED);
                self.later.push(key);
                return;
            }
            let start = self.received.last().map_or(0, |last| last.bytes.end);
            let end = self.scratch.len().min(start + share);
            match self.sockets.receive(key.index, &mut self.scratch[start..end]) {
                Ok(0) => {
                    self.take_in(now);
                    self.shard.receive_end(key, now);
                }
                Ok(received) => {
                    share -= received;
                    let end = start + received;
                    self.received.push(Received { key, bytes: start..end });
                    // Whether the shard wants more of this connection, it says when it has seen this.
                    let has_more = self.sockets.readiness(key.index) & READABLE != 0;
                    if has_more || self.received.len() == READS_MAX || end > self.scratch.len() / 2 {
                        self.take_in(now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.take_in(now);
                    let silence = self.sockets.silence(key.index, &error);
                    self.shard.fail(key, &error, silence, now);
                }
            }
        }
    }

    /// Gives the shard what was read. A connection that it has closed meanwhile is heard no more.
    fn take_in(&mut self, now: Tick) {
        for Received { key, bytes } in self.received.drain(..) {
            self.shard.receive(key, &mut self.scratch[bytes], now);
        }
    }

    /// Lists the connections that the shard wants to read from again, if they have something to read.
    fn resume(&mut self) {
        let mut resumed = mem::take(&mut self.resumed);
        self.shard.take_resumed(&mut resumed);
        for key in resumed.drain(..) {
            if self.shard.is_current(key) && self.sockets.readiness(key.index) & READABLE != 0 {
                self.list(key);
            }
        }
        self.resumed = resumed;
    }

    /// Closes the sockets of the connections that ended in this turn. Not before its end: until then their
    /// slots are not used again, so whatever the turn still does with their keys finds them closed, or nothing.
    fn close(&mut self) {
        self.shard.take_closed(&mut self.closed);
        for closed in self.closed.drain(..) {
            self.sockets.close(closed.index, closed.reset);
        }
    }

    fn list(&mut self, key: ConnKey) {
        if self.sockets.set(key.index, LISTED) & LISTED == 0 {
            self.ready.push(key);
        }
    }

    fn fail(&mut self, key: ConnKey, now: Tick) {
        let error = self
            .sockets
            .take_error(key.index)
            .unwrap_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
        let silence = self.sockets.silence(key.index, &error);
        self.shard.fail(key, &error, silence, now);
    }
}
