//! The life of the process: reactors are started, signals are waited for, reactors are ended.
//!
//! The main thread supervises and does nothing else; all work is the reactors'. This module does not read
//! the configuration and prints nothing: it is given plain values, and tells its caller when the server is
//! ready.
//!
//! # The order of the start
//! What several threads use is made first, while there is only one descriptor table: the signal pipe, the
//! sockets that reserve the addresses, every reactor's poll and wake-up. Then the reactor threads start; each
//! takes a descriptor table of its own if the plan says so, and only then makes its listeners. The reasons
//! are in [`fd_table`].
//!
//! # The ends
//! - SIGTERM: first everything goes on for a grace, so that load balancers notice; then as below, and the goodbyes may be
//!   spread over a time.
//! - SIGINT: every reactor stops accepting, closes its connections with 1001, resets those that are
//!   left when their time is up, and ends. The result is `Ok`, however long the kernel takes for it: closing a
//!   million sockets takes it many seconds, and the wait (`patience`) lasts as long as connections go on ending.
//! - A second signal: the process exits at once, with 1, from the signal handler.
//! - A reactor fails or panics: the others are ended the same orderly way, and the result is an error. A server
//!   of which a part is dead would go on accepting connections that nobody serves.
//!
//! SIGHUP ends nothing: the configuration is read anew, by the [`Lifecycle`]. [`Orders`] are a signal's work without the signal.
//!
//! Invariant: [`run`] returns only when every reactor thread has ended, or with [`ServeError::Stuck`].

use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::Poll;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::mesh::Mesh;
use crate::net::acceptor::{Acceptor, ListenOptions};
use crate::net::address::Endpoint;
use crate::net::fd_table;
use crate::net::handle::Handle;
use crate::net::patience::Patience;
use crate::net::reactor::{Ends, Options, Reactor};
use crate::net::reservation::{ListenError, Reservation, ReservedPlace};
use crate::shard::farewell::GOING_AWAY;
use crate::shard::{Shard, ShardLimits};
use crate::time::Clock;

/// What the server is told about its threads and sockets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen, at least at one; a port 0 is replaced by one that the kernel picks.
    pub endpoints: Vec<Endpoint>,
    /// Reactor threads, at least one.
    pub reactors: u16,
    /// Each reactor has a descriptor table of its own.
    pub private_tables: bool,
    /// What listeners are made with.
    pub listen: ListenOptions,
    /// Options of every reactor.
    pub reactor: Options,
    /// What SIGTERM begins.
    pub drain: Drain,
}

/// The end by SIGTERM.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Time in which everything goes on.
    pub grace: Duration,
    /// Milliseconds over which each reactor's goodbyes are spread.
    pub spread_ms: u32,
    /// Close code of the goodbyes.
    pub code: u16,
}

/// What may be ordered of the supervisor, from any thread.
#[derive(Debug, Clone)]
pub struct Orders(Sender<Notice>);

impl Orders {
    /// The same as SIGTERM.
    pub fn drain(&self) {
        tell(&self.0, Notice::Signal(SIGTERM));
    }

    /// The same as SIGHUP.
    pub fn reload(&self) {
        tell(&self.0, Notice::Signal(SIGHUP));
    }
}

/// What the supervisor tells its caller, in the thread that called [`run`].
pub trait Lifecycle {
    /// The mailboxes are there, and no reactor has begun. `orders` may be given from any thread.
    fn begin(&mut self, mesh: &Arc<Mesh>, orders: Orders);

    /// Every reactor listens at these, in which port 0 is replaced.
    fn ready(&mut self, endpoints: &[Endpoint]);

    /// The end has been ordered, and nothing has been ended yet.
    fn stopping(&mut self);

    /// Reads the configuration anew; bounds for the shards if they have others.
    fn reload(&mut self) -> Option<Arc<ShardLimits>>;

    /// How often to hear that the server is alive, if at all.
    fn alive_every(&self) -> Option<Duration>;

    /// Every reactor has turned since the last time.
    fn alive(&mut self);
}

/// Why the server ended, other than by being told to.
#[derive(Debug)]
pub enum ServeError {
    /// An address cannot be had; most often because another server has it.
    Address(ListenError),
    /// The operating system refused something the start needs.
    Start {
        /// What was to be done.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// A reactor ended by itself.
    Reactor {
        /// Its number.
        id: u16,
        /// Why.
        cause: ReactorError,
    },
    /// Reactors did not end in time; their threads are still running.
    Stuck {
        /// How many.
        reactors: usize,
    },
}

/// Why a reactor ended by itself.
#[derive(Debug)]
pub enum ReactorError {
    /// It could not listen.
    Listen(ListenError),
    /// Its descriptor table or its epoll instance failed it.
    Io(io::Error),
    /// It panicked: a bug. The message is what the panic said.
    Panicked(String),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Address(error) if error.source.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {}: address in use, another server is listening there",
                    error.address
                )
            }
            ServeError::Address(error) => error.fmt(f),
            ServeError::Start { what, source } => write!(f, "cannot {what}: {source}"),
            ServeError::Reactor { id, cause } => match cause {
                ReactorError::Listen(error) => write!(f, "reactor {id}: {error}"),
                ReactorError::Io(error) => write!(f, "reactor {id}: {error}"),
                ReactorError::Panicked(message) => write!(f, "reactor {id} panicked: {message}"),
            },
            ServeError::Stuck { reactors } => write!(f, "{reactors} reactors did not end in time"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServeError::Address(error) => Some(&error.source),
            ServeError::Start { source, .. } => Some(source),
            ServeError::Reactor { cause: ReactorError::Listen(error), .. } => Some(&error.source),
            ServeError::Reactor { cause: ReactorError::Io(error), .. } => Some(error),
            ServeError::Reactor { cause: ReactorError::Panicked(_), .. } | ServeError::Stuck { .. } => None,
        }
    }
}

/// Adapts an [`io::Error`] of the start.
fn start(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Start { what, source }
}

/// What the supervising thread is told by the others.
#[derive(Debug)]
enum Notice {
    Signal(i32),
    Listening,
    Ended(u16, Result<Ends, ReactorError>),
}

/// Serves until a signal, and returns when all reactors have ended.
///
/// `shard` makes the state of reactor `id`, in its thread, and is given the mailboxes of all.
///
/// # Errors
/// When the server cannot start, or when a reactor ends by itself.
pub fn run(
    settings: &Settings,
    clock: Clock,
    shard: impl Fn(u16, &Arc<Mesh>) -> Shard + Send + Sync + 'static,
    lifecycle: &mut dyn Lifecycle,
) -> Result<(), ServeError> {
    let (notify, notices) = mpsc::channel();
    // First of all, so that no signal is missed and the handlers' pipe is in every table.
    let _signals = SignalWatch::begin(&notify)?;
    let reservations: Vec<Reservation> = settings
        .endpoints
        .iter()
        .map(|endpoint| Reservation::make(endpoint, settings.listen.backlog))
        .collect::<Result<_, _>>()
        .map_err(ServeError::Address)?;
    let endpoints: Vec<Endpoint> = reservations.iter().map(Reservation::endpoint).collect();
    let places: Vec<ReservedPlace> = reservations.iter().map(Reservation::place).collect();
    let (polls, handles): (Vec<Poll>, Vec<Arc<Handle>>) = (0..settings.reactors)
        .map(|_| Handle::new())
        .collect::<io::Result<_>>()
        .map_err(start("make a poll"))?;
    let wake_ups = handles.iter().map(|handle| {
        let handle = Arc::clone(handle);
        Box::new(move || handle.wake()) as Box<dyn Fn() + Send + Sync>
    });
    let mesh = Arc::new(Mesh::new(wake_ups.collect()));

    lifecycle.begin(&mesh, Orders(notify.clone()));

    let shard = Arc::new(shard);
    let mut supervisor = Supervisor {
        notices,
        handles: handles.clone(),
        threads: Vec::new(),
        shutdown_timeout: Duration::from_millis(u64::from(settings.reactor.shutdown_timeout_ms)),
        reservations,
        drain: settings.drain,
        grace_until: None,
        beat_at: None,
        patience: None,
        ends: Ends::default(),
        result: Ok(()),
    };
    for (id, (poll, handle)) in (0..).zip(polls.into_iter().zip(handles)) {
        let seed = Seed {
            poll,
            handle,
            places: places.clone(),
            listen: settings.listen.clone(),
            private_table: settings.private_tables,
            clock,
            options: settings.reactor.clone(),
        };
        let (shard, mesh, notify) = (Arc::clone(&shard), Arc::clone(&mesh), notify.clone());
        let spawned = thread::Builder::new().name(format!("reactor-{id}")).spawn(move || {
            let outcome = guarded(|| seed.grow(|| shard(id, &mesh), || tell(&notify, Notice::Listening)));
            tell(&notify, Notice::Ended(id, outcome));
        });
        match spawned {
            Ok(thread) => supervisor.threads.push(thread),
            Err(source) => {
                supervisor.fail(ServeError::Start { what: "start a thread", source });
                break;
            }
        }
    }
    supervisor.supervise(&endpoints, lifecycle)
}

/// A supervisor that is gone has returned already, and the process with it: nobody is left to tell.
fn tell(notify: &Sender<Notice>, notice: Notice) {
    drop(notify.send(notice));
}

/// Runs a reactor's whole life and turns a panic into a value.
///
/// Everything the reactor owns is dropped before this returns, on its own thread, so its state being
/// half-changed by the panic is seen by nobody.
fn guarded(life: impl FnOnce() -> Result<Ends, ReactorError>) -> Result<Ends, ReactorError> {
    panic::catch_unwind(AssertUnwindSafe(life)).unwrap_or_else(|payload| {
        let message = match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => payload.downcast_ref::<&str>().unwrap_or(&"no message").to_string(),
        };
        Err(ReactorError::Panicked(message))
    })
}

/// What a reactor thread needs to become a reactor.
struct Seed {
    poll: Poll,
    handle: Arc<Handle>,
    places: Vec<ReservedPlace>,
    listen: ListenOptions,
    private_table: bool,
    clock: Clock,
    options: Options,
}

impl Seed {
    /// Makes the reactor in the calling thread, runs it, and drops it: it never leaves its thread, because its
    /// descriptors mean nothing in another.
    fn grow(self, shard: impl FnOnce() -> Shard, listening: impl FnOnce()) -> Result<Ends, ReactorError> {
        if self.private_table {
            fd_table::unshare().map_err(ReactorError::Io)?;
        }
        let acceptor = Acceptor::listen(&self.places, &self.listen).map_err(ReactorError::Listen)?;
        let mut reactor = Reactor::new(self.poll, self.handle, acceptor, shard(), self.clock, self.options)
            .map_err(ReactorError::Io)?;
        listening();
        reactor.run().map_err(ReactorError::Io)
    }
}

/// SIGTERM and SIGINT: the first one is passed on to the supervisor, the second ends the process. SIGHUP is passed on.
/// Watched until this is dropped.
struct SignalWatch {
    actions: Vec<SigId>,
    forwarding: signal_hook::iterator::Handle,
}

impl SignalWatch {
    fn begin(notify: &Sender<Notice>) -> Result<SignalWatch, ServeError> {
        const ENDS: [i32; 2] = [SIGTERM, SIGINT];
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(start("watch for signals"))?;
        let mut watch = SignalWatch { actions: Vec::new(), forwarding: signals.handle() };
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in ENDS {
            // In this order: the first signal finds the flag unset, and sets it for the second.
            let exit = signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopping));
            watch.actions.push(exit.map_err(start("watch for signals"))?);
            let set = signal_hook::flag::register(signal, Arc::clone(&stopping));
            watch.actions.push(set.map_err(start("watch for signals"))?);
        }
        let notify = notify.clone();
        let forward = move || {
            for signal in &mut signals {
                tell(&notify, Notice::Signal(signal));
            }
        };
        thread::Builder::new().name("signals".into()).spawn(forward).map_err(start("start a thread"))?;
        Ok(watch)
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.forwarding.close();
        for action in self.actions.drain(..) {
            signal_hook::low_level::unregister(action);
        }
    }
}

/// Watches over the reactors until the last has ended.
struct Supervisor {
    notices: Receiver<Notice>,
    handles: Vec<Arc<Handle>>,
    threads: Vec<JoinHandle<()>>,
    shutdown_timeout: Duration,
    /// Held until the last reactor has ended.
    reservations: Vec<Reservation>,
    drain: Drain,
    /// When the grace of SIGTERM is over.
    grace_until: Option<Instant>,
    /// When the reactors' signs of life are looked at.
    beat_at: Option<Instant>,
    /// How long the reactors' end is waited for; set by the order to stop.
    patience: Option<Patience>,
    /// How the connections have ended of the reactors that have.
    ends: Ends,
    /// The first error is the cause of the others.
    result: Result<(), ServeError>,
}

/// What the supervisor has to do next.
enum Next {
    Heed(Notice),
    /// The grace of SIGTERM is over.
    EndGrace,
    /// Signs of life are due.
    Beat,
    /// Patience is at an end.
    GiveUp,
}

impl Supervisor {
    /// Tells the reactors to stop, if they have not been told yet.
    fn stop(&mut self, code: u16, spread_ms: u32) {
        self.grace_until = None;
        if self.patience.is_none() {
            let spread = Duration::from_millis(u64::from(spread_ms));
            self.patience = Some(Patience::new(Instant::now(), spread + self.shutdown_timeout));
            self.handles.iter().for_each(|handle| handle.stop(code, spread_ms));
            if spread_ms == 0 {
                self.reservations.iter().for_each(Reservation::refuse);
            }
        }
    }

    /// Whether the end has been ordered.
    fn is_ending(&self) -> bool {
        self.grace_until.is_some() || self.patience.is_some()
    }

    /// Stops because of an error.
    fn fail(&mut self, error: ServeError) {
        tracing::error!(%error, "stopping");
        if self.result.is_ok() {
            self.result = Err(error);
        }
        self.stop(GOING_AWAY, 0);
    }

    /// Waits until the reactors have ended.
    fn supervise(mut self, endpoints: &[Endpoint], lifecycle: &mut dyn Lifecycle) -> Result<(), ServeError> {
        let mut running = self.threads.len();
        let mut silent = running;
        let every = lifecycle.alive_every();
        while running > 0 {
            match self.next() {
                Next::Heed(Notice::Listening) => {
                    silent -= 1;
                    if silent == 0 && self.patience.is_none() {
                        lifecycle.ready(endpoints);
                        self.beat_at = every.map(|every| Instant::now() + every);
                    }
                }
                Next::Heed(Notice::Signal(SIGHUP)) => {
                    if let Some(limits) = lifecycle.reload() {
                        self.handles.iter().for_each(|handle| handle.set_limits(Arc::clone(&limits)));
                    }
                }
                // It was drained by an order before.
                Next::Heed(Notice::Signal(SIGTERM)) if self.is_ending() => {}
                Next::Heed(Notice::Signal(signal)) => {
                    let grace = if signal == SIGTERM { self.drain.grace } else { Duration::ZERO };
                    tracing::info!(signal, grace_ms = grace.as_millis() as u64, "stopping");
                    lifecycle.stopping();
                    self.grace_until = Some(Instant::now() + grace);
                    if signal != SIGTERM {
                        self.stop(GOING_AWAY, 0);
                    }
                }
                Next::EndGrace => self.stop(self.drain.code, self.drain.spread_ms),
                Next::Beat => {
                    self.beat(lifecycle);
                    self.beat_at = every.map(|every| Instant::now() + every);
                }
                Next::Heed(Notice::Ended(id, outcome)) => {
                    running -= 1;
                    match outcome {
                        Ok(ends) => {
                            self.ends.closed += ends.closed;
                            self.ends.reset += ends.reset;
                        }
                        Err(cause) => self.fail(ServeError::Reactor { id, cause }),
                    }
                    self.stop(GOING_AWAY, 0);
                }
                Next::GiveUp => {
                    self.fail(ServeError::Stuck { reactors: running });
                    return self.result;
                }
            }
        }
        self.reservations.iter().for_each(Reservation::refuse);
        for thread in self.threads {
            // Its panic was caught and reported in its last notice; what remains of it is a return.
            drop(thread.join());
        }
        let Ends { closed, reset } = self.ends;
        tracing::info!(closed, reset, "stopped; every connection has ended");
        self.result
    }

    /// Says that the server is alive if every reactor is, and asks them again.
    fn beat(&self, lifecycle: &mut dyn Lifecycle) {
        // While it ends, patience decides: a reactor that has ended gives no sign.
        let stuck = match &self.patience {
            Some(_) => None,
            None => self.handles.iter().position(|handle| !handle.has_answered()),
        };
        match stuck {
            Some(reactor) => tracing::error!(reactor, "a reactor does not turn"),
            None => lifecycle.alive(),
        }
        self.handles.iter().for_each(|handle| handle.feel());
    }

    /// Waits for the next thing to do.
    fn next(&mut self) -> Next {
        loop {
            let now = Instant::now();
            let mut waits = [None; 3];
            if let Some(patience) = &mut self.patience {
                // A reactor that has ended has got on, too: its last steps are not of a connection.
                let running = self.threads.iter().filter(|thread| !thread.is_finished()).count();
                let ended: u64 = self.handles.iter().map(|handle| handle.ended()).sum();
                let done = ended + (self.threads.len() - running) as u64;
                match patience.look(now, done) {
                    Some(wait) => waits[0] = Some(wait),
                    None => return Next::GiveUp,
                }
            }
            if let Some(until) = self.grace_until {
                waits[1] = Some(until.saturating_duration_since(now));
                if now >= until {
                    return Next::EndGrace;
                }
            }
            if let Some(at) = self.beat_at {
                waits[2] = Some(at.saturating_duration_since(now));
                if now >= at {
                    return Next::Beat;
                }
            }
            // The signal thread holds a sender as long as this runs, so "disconnected" cannot come.
            let notice = match waits.into_iter().flatten().min() {
                Some(wait) => self.notices.recv_timeout(wait).ok(),
                None => self.notices.recv().ok(),
            };
            if let Some(notice) = notice {
                return Next::Heed(notice);
            }
        }
    }
}
