//! One shard: the state of one reactor, without its sockets and its clock.
//!
//! The shard joins connections ([`crate::conn`]) with sessions, rooms and queues ([`crate::chat`]). A reactor
//! gives it bytes and time and carries bytes away; the simulation does the same with no socket at all. A
//! *turn* is: receive, drain the mailbox, expire timers, flush, take the closed.
//!
//! What is where: `input` (bytes to frames), `apply` (what frames ask for), `places` (rooms and queues, their
//! owners, mail), `fan_out` (rooms to members), `output` (queues, flush), `unsent` (bounds on what waits), `timers`,
//! `ending` (every way a connection ends), `farewell` (the end of the process), `reload` (other bounds), `proxied` (what balancers say), `mesh` (mailboxes), `pending` (handshakes
//! by source), `memory` (what the bytes are for), `rest` (what is given back when traffic is over), `check` (what is true
//! between two calls).
//!
//! Invariants: a connection's index is not used again before [`Shard::take_closed`] has given it out; a
//! connection that is not open is in no room and no queue; the sums over all connections (unsent bytes,
//! handshakes) are kept as counts. [`Shard::check`] checks them.

mod apply;
mod check;
mod ending;
mod fan_out;
pub mod farewell;
mod input;
pub mod memory;
pub mod mesh;
mod output;
pub mod pending;
mod places;
mod proxied;
pub mod reload;
pub mod rest;
mod timers;
mod unsent;

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use slab::Slab;

use crate::buf::Pool;
use crate::chat::destination::Pattern;
use crate::chat::fanout::Fanout;
use crate::chat::form::Form;
use crate::chat::intern::Interner;
use crate::chat::message::Message;
use crate::chat::queue::Queues;
use crate::chat::room::{Lives, Rooms};
use crate::chat::session::{self, Session};
use crate::conn::inbound::Inbound;
use crate::conn::keepalive::{Mechanism, Ping};
use crate::conn::{Connection, Phase};
use crate::limits;
use crate::metrics::{ShardCounters, ShardMetrics};
use crate::tcb::{Closer, FourTuple, Refused, TcbTable};
use crate::time::{Micros, Tick, Wheel};
use crate::wire::http::Request;

use mesh::{Consumer, Credit, Mail, Mesh, Origin};
use pending::{Pending, Source, TooMany};

/// Name of a connection in its shard: an index that is used again, and a generation that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Index into the shard's table.
    pub index: u32,
    /// Distinguishes those that had the index before.
    pub generation: u32,
}

impl ConnKey {
    /// Packs the key into a token for the poll.
    pub fn as_token(self) -> usize {
        (u64::from(self.generation) << 32 | u64::from(self.index)) as usize
    }

    /// Unpacks a token.
    pub fn from_token(token: usize) -> ConnKey {
        ConnKey { index: token as u32, generation: (token as u64 >> 32) as u32 }
    }
}

/// How the shard reaches a socket: implemented by the reactor and by the simulation.
pub trait Transport {
    /// Writes once. `WouldBlock`, or less than all, means: not before [`Shard::writable`].
    ///
    /// # Errors
    /// As the socket's.
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// [`send`](Transport::send) of one slice, for what is called once for each member of a room. There should be no call
    /// and few branches between two such system calls: they cost far more there than elsewhere
    /// (`docs/BENCHMARKS.md`, "What it was").
    ///
    /// # Errors
    /// As the socket's; `Interrupted`, too.
    fn send_one(&mut self, index: u32, bytes: &[u8]) -> io::Result<usize> {
        self.send(index, &[IoSlice::new(bytes)])
    }

    /// Ends this side's stream.
    fn shutdown_write(&mut self, index: u32);

    /// Who will have ended the connection first if this side ends its stream now: [`Closer::Remote`] if the
    /// peer's end has arrived, read or not; [`Closer::Reset`] if ending it makes a reset of it.
    fn closer(&self, index: u32) -> Closer;

    /// Whether `error` says that the kernel has given the peer up, and what that was about; `None` if it is
    /// something else.
    fn silence(&self, index: u32, error: &io::Error) -> Option<Silence>;
}

/// What a peer did not answer until the kernel gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Probes of a connection on which nothing was under way.
    Probes,
    /// Bytes that were sent.
    Unacknowledged,
}

/// What is known of a peer's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    /// When bytes last came from it.
    pub heard: Tick,
    /// What would find it dead, and is armed.
    pub armed: Vec<Mechanism>,
}

/// Answers plain HTTP requests, in the thread of the shard.
pub trait Site: Send + Sync {
    /// Appends a whole response, which must say `Connection: close`.
    fn answer(&self, request: &Request<'_>, peer: SocketAddr, out: &mut Vec<u8>);
}

/// The bounds that a shard keeps.
#[derive(Debug, Clone, Default)]
pub struct ShardLimits {
    /// Opening handshake.
    pub handshake: limits::Handshake,
    /// Whose PROXY protocol headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Framing on `/ws`.
    pub websocket: limits::WebSocket,
    /// Framing on `/echo`.
    pub echo: limits::Echo,
    /// Peers that vanish.
    pub keepalive: limits::KeepAlive,
    /// Sessions.
    pub stomp: limits::Stomp,
    /// Unsent bytes.
    pub outbound: limits::Outbound,
    /// Incomplete input.
    pub buffers: limits::Buffers,
    /// Rooms and queues.
    pub rooms: limits::Rooms,
    /// Rooms that `rooms.flush_delay_us` is for.
    pub flush_delay_destinations: Vec<Pattern>,
    /// Mail.
    pub mesh: limits::Mesh,
    /// Work per turn.
    pub turn: limits::Turn,
}

/// What a shard is made of.
pub struct ShardSetup {
    /// Its number, below `mesh.shards()`.
    pub id: u16,
    /// Bounds.
    pub limits: Arc<ShardLimits>,
    /// Connections that this shard may hold, so that its descriptors suffice.
    pub connections_max: u32,
    /// Whether `/echo` is served.
    pub is_echo_enabled: bool,
    /// Mailboxes of all shards.
    pub mesh: Arc<Mesh>,
    /// Handshakes of all shards by source.
    pub pending: Arc<Pending>,
    /// The ledger of all connections.
    pub tcbs: Arc<TcbTable>,
    /// Where the shard's numbers are shown.
    pub metrics: Arc<ShardMetrics>,
    /// Pages.
    pub site: Arc<dyn Site>,
    /// Seed of all hashes: the same for all shards, and not guessable by peers.
    pub seed: u64,
    /// Start of the server in seconds since 1970, for message ids.
    pub started_s: u32,
    /// The time.
    pub now: Tick,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `handshake.pending_max` connections are in the handshake.
    Pending,
    /// `handshake.pending_per_address_max` connections from its address are in the handshake.
    PendingPerAddress,
    /// The table is full, and so is the number of those being told so.
    TableFull,
    /// The server is ending.
    ShuttingDown,
}

/// A connection to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Its index.
    pub index: u32,
    /// By a reset rather than the end of the stream.
    pub reset: bool,
}

#[derive(Debug)]
struct Slot {
    connection: Connection,
    session: Session,
}

// What every connection costs in the shard's own table. The other parts: control block and index entry
// (`tcb`), timer (12 bytes), room membership (8 bytes).
const _: () = assert!(size_of::<Slot>() <= 96);
// So the part of a connection that a delivery touches is in one cache line in every slot.
const _: () = assert!(size_of::<Slot>().is_multiple_of(16));
const _: () = assert!(std::mem::offset_of!(Slot, connection).is_multiple_of(16));

/// See the module.
pub struct Shard {
    id: u16,
    shards: u16,
    limits: Arc<ShardLimits>,
    connections_max: u32,
    is_echo_enabled: bool,
    seed: u64,

    slots: Slab<Slot>,
    next_generation: u32,
    next_serial: u32,
    handshakes: u32,
    /// Sources of the connections in the handshake, by index, which no peer can choose so that they collide.
    sources: HashMap<u32, Source, FixedState>,
    pending: Arc<Pending>,
    refused_peers: HashMap<u32, SocketAddr>,
    unsent: unsent::Unsent,
    transaction_bytes: u64,
    subscriptions: u64,
    /// The server is ending.
    farewell: Option<farewell::Farewell>,

    pool: Pool,
    wheel: Wheel,
    rooms: Rooms,
    queues: Queues<Consumer>,
    forms: Interner<Form>,
    names: Interner<Box<str>>,
    /// How clients are pinged, if they are.
    ping: Option<Ping>,
    swept: Tick,
    rest: rest::Rest,
    /// The time when the shard was last flushed.
    now: Tick,

    mesh: Arc<Mesh>,
    outboxes: Vec<Vec<Mail>>,
    /// What other shards' sessions are told of what they asked for, posted behind all that it is about.
    answers: Vec<(u16, Mail)>,
    mail: Vec<Mail>,
    /// Mail that waits until rooms have been written to.
    unhandled: VecDeque<Mail>,
    /// What this shard has under way to each owner.
    under_way: Vec<Credit>,
    /// What this shard, as an owner, has handed on and not yet told the publishers' shards.
    handled: Vec<Credit>,
    /// Publications held back because a member's shard is behind.
    deferred: VecDeque<(Origin, Message)>,
    /// Whose input waits for credit, for a mailbox, or for the next turn; and those who had something done in this one.
    stalled: Vec<ConnKey>,
    stalled_served: Vec<ConnKey>,
    /// Members into whose queues comings and goings have had messages put in this turn.
    sealed: u32,
    /// One that was put off may come or go in this turn nevertheless.
    is_one_due: bool,
    /// Bytes of messages that members' queues were given in this turn because rooms had more waiting than they may have.
    copied: u64,
    /// A room has more waiting for its members than it may have, and they cannot share it.
    has_full_room: bool,
    /// Mail was left for this turn because a room was full.
    has_backlog: bool,
    /// Mail is taken in whatever rooms have waiting.
    is_catching_up: bool,
    /// Somebody stalls for the next turn, which nothing else may cause.
    is_put_off: bool,

    tcbs: Arc<TcbTable>,
    site: Arc<dyn Site>,
    metrics: Arc<ShardMetrics>,
    counters: ShardCounters,

    /// Connections to flush in this turn.
    dirty: Vec<u32>,
    /// Connections to flush in this turn or in later ones.
    crowd: VecDeque<u32>,
    /// Rooms whose fan-out goes on in the next turn.
    waiting: VecDeque<u32>,
    /// Rooms whose messages wait for more, and until when; the first is due first.
    delayed: VecDeque<(u32, Micros)>,
    resumable: Vec<ConnKey>,
    resumed: Vec<ConnKey>,
    closed: Vec<Closed>,

    // Used again in every turn, so that a turn allocates nothing for its own sake.
    fanout: Fanout,
    commands: Vec<session::Command>,
    spare: Option<Box<Inbound>>,
    lists: Vec<u32>,
    said: Vec<u8>,
    fired: Vec<u32>,
}

impl Shard {
    /// A shard without connections.
    pub fn new(setup: ShardSetup) -> Shard {
        let shards = setup.mesh.shards();
        assert!(setup.id < shards);
        let lives = |kind: u16| Lives::new(setup.started_s, setup.id * 2 + kind, shards * 2);
        let is_delayed = setup.limits.rooms.flush_delay_us > 0;
        let delayed = if is_delayed { setup.limits.flush_delay_destinations.clone() } else { Vec::new() };
        Shard {
            id: setup.id,
            shards,
            connections_max: setup.connections_max,
            is_echo_enabled: setup.is_echo_enabled,
            seed: setup.seed,
            slots: Slab::new(),
            next_generation: 0,
            next_serial: 0,
            handshakes: 0,
            sources: HashMap::default(),
            pending: setup.pending,
            refused_peers: HashMap::new(),
            unsent: unsent::Unsent::default(),
            transaction_bytes: 0,
            subscriptions: 0,
            farewell: None,
            pool: Pool::new(&setup.limits.buffers),
            wheel: Wheel::new(setup.now),
            rooms: Rooms::new(setup.seed, lives(0), delayed),
            queues: Queues::new(setup.limits.rooms.clone(), lives(1)),
            forms: Interner::new(setup.seed),
            names: Interner::new(setup.seed),
            ping: Ping::configured(&setup.limits.keepalive),
            swept: setup.now,
            rest: rest::Rest::default(),
            now: setup.now,
            outboxes: (0..shards).map(|_| Vec::new()).collect(),
            answers: Vec::new(),
            mail: Vec::new(),
            unhandled: VecDeque::new(),
            under_way: vec![Credit::default(); usize::from(shards)],
            handled: vec![Credit::default(); usize::from(shards)],
            deferred: VecDeque::new(),
            stalled: Vec::new(),
            stalled_served: Vec::new(),
            sealed: 0,
            is_one_due: false,
            copied: 0,
            has_full_room: false,
            has_backlog: false,
            is_catching_up: false,
            is_put_off: false,
            mesh: setup.mesh,
            tcbs: setup.tcbs,
            site: setup.site,
            metrics: setup.metrics,
            counters: ShardCounters::default(),
            dirty: Vec::new(),
            crowd: VecDeque::new(),
            waiting: VecDeque::new(),
            delayed: VecDeque::new(),
            resumable: Vec::new(),
            resumed: Vec::new(),
            closed: Vec::new(),
            fanout: Fanout::default(),
            commands: Vec::new(),
            spare: None,
            lists: Vec::new(),
            said: Vec::new(),
            fired: Vec::new(),
            limits: setup.limits,
        }
    }

    /// Takes in a connection that was accepted.
    ///
    /// # Errors
    /// The socket must be closed at once; the refusal is counted.
    pub fn open(&mut self, tuple: FourTuple, now: Tick) -> Result<ConnKey, Refusal> {
        self.counters.connections_accepted_total += 1;
        if self.farewell.as_ref().is_some_and(|farewell| !farewell.takes_connections()) {
            self.counters.refused_limit_total += 1;
            return Err(Refusal::ShuttingDown);
        }
        let max = self.limits.handshake.pending_max;
        if self.handshakes >= max {
            self.counters.refused_pending_total += 1;
            let too_many = TooMany::OfShard { shard: self.id, pending: self.handshakes, max };
            self.pending.report(too_many, now);
            return Err(Refusal::Pending);
        }
        let peer = tuple.remote();
        let source = self.source_of(peer.ip());
        if let Err(too_many) = self.pending.begin(source) {
            self.counters.refused_pending_per_address_total += 1;
            self.pending.report(too_many, now);
            return Err(Refusal::PendingPerAddress);
        }
        let tcb =
            if self.slots.len() >= self.connections_max as usize { None } else { self.admit(tuple, now) };
        if tcb.is_none() && self.refused_peers.len() >= self.limits.handshake.refusals_max as usize {
            self.pending.end(source);
            self.counters.refused_limit_total += 1;
            return Err(Refusal::TableFull);
        }
        self.counters.refused_table_full_total += u64::from(tcb.is_none());
        let phase = if tcb.is_some() { Phase::Http } else { Phase::Refused };
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let connection = Connection::new(generation, tcb, phase, now);
        let slot = Slot { connection, session: Session::default() };
        let index = self.slots.insert(slot) as u32;
        if tcb.is_none() {
            self.refused_peers.insert(index, peer);
        }
        self.handshakes += 1;
        self.sources.insert(index, source);
        self.wheel.arm(index, now.after_ms(u64::from(self.limits.handshake.timeout_ms)));
        Ok(ConnKey { index, generation })
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&mut self) {
        self.counters.accept_errors_total += 1;
    }

    /// A control block for the connection; `None` if the table is full.
    fn admit(&mut self, tuple: FourTuple, now: Tick) -> Option<crate::tcb::TcbKey> {
        let admitted = match self.tcbs.admit(tuple.clone(), now) {
            // The kernel has two sockets with one 4-tuple at no time, so the one in the table is dead: its end
            // is an event that has not been read yet, perhaps by another reactor.
            Err(Refused::Duplicate) => {
                if let Some((stale, _)) = self.tcbs.find(&tuple) {
                    self.tcbs.release(stale, Closer::Reset, now);
                }
                self.tcbs.admit(tuple, now)
            }
            admitted => admitted,
        };
        admitted.ok()
    }

    /// Whether the key names a connection that is there: events of one that was closed die here.
    pub fn is_current(&self, key: ConnKey) -> bool {
        self.slots.get(key.index as usize).is_some_and(|slot| {
            slot.connection.generation == key.generation && slot.connection.phase != Phase::Closed
        })
    }

    /// Whether the reactor should read from the connection.
    pub fn wants_read(&self, key: ConnKey) -> bool {
        self.is_current(key) && self.slots[key.index as usize].connection.wants_read()
    }

    /// The socket can be written again.
    pub fn writable(&mut self, key: ConnKey) {
        if !self.is_current(key) {
            return;
        }
        let connection = &mut self.slots[key.index as usize].connection;
        connection.is_writable = true;
        if !connection.outbound.is_empty() {
            self.mark_dirty(key.index);
        }
    }

    /// Connections whose reading may go on.
    pub fn take_resumed(&mut self, out: &mut Vec<ConnKey>) {
        out.append(&mut self.resumed);
    }

    /// Connections whose sockets must be closed now. After this their indices are used again.
    pub fn take_closed(&mut self, out: &mut Vec<Closed>) {
        for closed in &self.closed {
            self.slots.remove(closed.index as usize);
        }
        out.append(&mut self.closed);
        if self.slots.is_empty() {
            // A crowd has left: its memory goes with it.
            self.slots.shrink_to_fit();
            self.wheel = Wheel::new(self.now);
        }
    }

    /// When the shard must next be given the time.
    pub fn next_deadline(&self) -> Option<Tick> {
        // Whichever shard put something into TIME_WAIT is awake after it and looks at it again: without that, an
        // idle server would show, and count against its capacity, what is over.
        // The same for what queues have kept for too long, and for memory that traffic has left behind.
        let is_swept = self.tcbs.has_time_wait() || !self.queues.is_empty() || self.has_slack();
        let sweep = is_swept.then(|| self.next_sweep());
        let farewell = self.farewell.as_ref().and_then(|farewell| farewell.next_deadline(self.now));
        [self.wheel.next_deadline(), sweep, farewell].into_iter().flatten().min()
    }

    /// When [`Shard::flush`] must next be called for the sake of messages that are delayed.
    pub fn next_flush(&self) -> Option<Micros> {
        self.delayed.front().map(|(_, due)| *due)
    }

    /// Whether there is more to do without waiting for anything.
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty()
            || !self.crowd.is_empty()
            || !self.waiting.is_empty()
            // What came while rooms were written; the wake-up that came with it would do as well.
            || self.rooms.has_dirty()
            // What waits until rooms have been written to, and what was published after the mailbox had been drained.
            || self.has_mail()
            || self.has_backlog
            || self.is_put_off
            || !self.resumable.is_empty()
            || !self.resumed.is_empty()
            || !self.closed.is_empty()
            || self.farewell.as_ref().is_some_and(farewell::Farewell::has_work)
    }

    /// Connections, in all phases.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.closed.len()
    }

    /// Connections in the opening handshake.
    pub fn handshakes(&self) -> u32 {
        self.handshakes
    }

    fn key_of(&self, index: u32) -> ConnKey {
        ConnKey { index, generation: self.slots[index as usize].connection.generation }
    }

    fn phase(&self, index: u32) -> Phase {
        self.slots[index as usize].connection.phase
    }

    fn serial(&mut self) -> u32 {
        self.next_serial = self.next_serial.wrapping_add(1);
        self.next_serial
    }
}
