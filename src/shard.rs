//! One shard: the state of one reactor, without its sockets and its clock.
//!
//! The shard composes components, each of which owns its fields: connections and why their input is held ([`crate::conn`]),
//! sessions ([`crate::session`]), rooms and queues that it owns ([`crate::broker`]), members of rooms and what they are owed
//! ([`crate::members`]), mail ([`crate::mesh`]). A component is called with what it needs and returns what must happen; what
//! that is, is carried out here. A reactor gives the shard bytes and time and carries bytes away; the simulation does the same
//! with no socket at all. A *turn* is: receive, take the mail, expire timers, flush, take the closed.
//!
//! What is where: `proxied` (what balancers say), `opening` (who may open a WebSocket), `input` (bytes to frames), `permission`
//! (what rules allow), `commands` (what frames ask for), `identity` (who clients are), `requests` (what owners do, and
//! completions), `inquiries` (what services ask), `queues` (queues' messages), `questions` (what the application answers once), `flush` (bytes that leave), `timers`, `ending` (every way a connection ends),
//! `farewell` (the end of the process), `reload` (other bounds), `memory` (what the bytes are for), `rest` (what is given back
//! when traffic is over), `notes` (who was ended, for the log), `check` (what is true between two calls).
//!
//! Invariant: a connection that is not open is in no room and no queue, waits for no request and is held by nothing. Together
//! with those of the components [`Shard::check`] checks it.

mod check;
mod commands;
mod ending;
mod events;
pub mod farewell;
mod flush;
mod identity;
mod input;
mod inquiries;
mod memberships;
pub mod memory;
mod notes;
mod opening;
mod permission;
mod proxied;
mod questions;
mod queues;
mod recovery;
mod refusals;
pub mod reload;
mod requests;
pub mod rest;
mod timers;

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use crate::broker::queue::Queues;
use crate::broker::topic::Topics;
use crate::broker::{owner_of, owner_of_message};
use crate::conn::behind::Behind;
use crate::conn::handshake::Reach;
use crate::conn::hold::{Holds, Reason};
use crate::conn::inbound::Inputs;
use crate::conn::keepalive::{Mechanism, Ping};
use crate::conn::pending::Pending;
use crate::conn::quota::{Quota, Tally};
use crate::conn::rate::Rates;
pub use crate::conn::table::{Closed, Refusal};
use crate::conn::table::{Connections, Setup};
pub use crate::conn::transport::{Silence, Transport};
use crate::limits;
use crate::members::{Members, Terms};
use crate::mesh::Mesh;
use crate::mesh::port::Port;
use crate::mesh::request::Authenticator;
use crate::message::Epochs;
use crate::message::destination::{Kind, Pattern};
use crate::message::fault::Refusals;
pub use crate::message::origin::ConnKey;
use crate::message::origin::{Consumer, Holder};
use crate::metrics::{ShardCounters, ShardMetrics};
use crate::policy::bans::Bans;
use crate::policy::destinations::Destinations;
use crate::policy::{Authorizer, Rules};
use crate::session::recoveries::Recoveries;
use crate::session::table::Sessions;
use crate::tcb::{FourTuple, TcbTable};
use crate::time::{Micros, Tick};
use crate::wire::framing::Framing;
use crate::wire::http::{ClientHeader, OriginPattern, Request};

use events::Audience;
use farewell::Farewell;
use flush::Flush;
use rest::Rest;

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
    /// Who is believed when it names its clients.
    pub trusted_proxies: Vec<IpNet>,
    /// The header field in which they name them; `None` for both that there are.
    pub client_header: Option<ClientHeader>,
    /// Pages that may open a WebSocket beside the server's own.
    pub origins: Vec<OriginPattern>,
    /// From where clients may come.
    pub reach: Reach,
    /// Framing on `/ws`.
    pub websocket: limits::WebSocket,
    /// Framing on `/echo`.
    pub echo: limits::Echo,
    /// Peers that vanish.
    pub keepalive: limits::KeepAlive,
    /// Who may do what where.
    pub rules: Arc<Rules>,
    /// Sessions of one login; 0 does not bound them.
    pub sessions_per_login_max: u32,
    /// Sessions.
    pub stomp: limits::Stomp,
    /// How frames are refused that a session can go on after.
    pub refusals: Refusals,
    /// How fast clients may publish.
    pub rate: limits::Rate,
    /// Unsent bytes.
    pub outbound: limits::Outbound,
    /// Incomplete input.
    pub buffers: limits::Buffers,
    /// Rooms and queues.
    pub rooms: limits::Rooms,
    /// What rooms keep of their past, in sum.
    pub history: limits::History,
    /// Which rooms keep what.
    pub destinations: Arc<Destinations>,
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
    /// Sessions of all shards by login.
    pub logins: Arc<Tally>,
    /// WebSockets of all shards by address.
    pub addresses: Arc<Tally>,
    /// Shards with sessions that listen to events.
    pub audience: Arc<AtomicU32>,
    /// The ledger of all connections.
    pub tcbs: Arc<TcbTable>,
    /// Where the shard's numbers are shown.
    pub metrics: Arc<ShardMetrics>,
    /// Pages.
    pub site: Arc<dyn Site>,
    /// Who knows who clients are; `None` if they are who they say.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Who may not come. A service may send others.
    pub bans: Arc<Bans>,
    /// Seed of all hashes: the same for all shards, and not guessable by peers.
    pub seed: u64,
    /// Start of the server in seconds since 1970, for message ids.
    pub started_s: u32,
    /// The time.
    pub now: Tick,
}

/// What does not change while the shard lives.
struct Env {
    id: u16,
    shards: u16,
    seed: u64,
    is_echo_enabled: bool,
    limits: Arc<ShardLimits>,
    /// The bounds of a turn's walks.
    terms: Terms,
    /// How clients are pinged, if they are.
    ping: Option<Ping>,
    site: Arc<dyn Site>,
    authenticator: Option<Arc<dyn Authenticator>>,
    metrics: Arc<ShardMetrics>,
    /// The epoch of the ids of answers.
    answers: u64,
    /// The epoch of the ids of markers.
    markers: u64,
}

impl Env {
    /// The shard that owns a place.
    fn owner_of(&self, key: &[u8]) -> u16 {
        if self.shards == 1 { 0 } else { owner_of(self.seed, key, self.shards) }
    }

    /// The shard that gives a message to a destination of this kind its place.
    fn owner_of_message(&self, kind: Kind, key: &[u8]) -> u16 {
        if self.shards == 1 { 0 } else { owner_of_message(self.seed, kind, key, self.shards) }
    }

    /// The hash of a place's key.
    fn hash_of(&self, key: &[u8]) -> u64 {
        FixedState::with_seed(self.seed).hash_one(key)
    }
}

/// See the module.
pub struct Shard {
    env: Env,
    connections: Connections,
    inputs: Inputs,
    holds: Holds,
    rates: Rates,
    logins: Quota,
    addresses: Quota,
    audience: Audience,
    authorizer: Authorizer,
    /// Who may not come.
    bans: Arc<Bans>,
    sessions: Sessions,
    recoveries: Recoveries,
    topics: Topics,
    queues: Queues<Consumer, Holder>,
    dead_letters: queues::DeadLetters,
    inquiries: inquiries::Inquiries,
    members: Members,
    port: Port,
    flush: Flush,
    behind: Behind,
    timers: timers::Timers,
    notes: notes::Notes,
    rest: Rest,
    /// The server is ending.
    farewell: Option<Farewell>,
    counters: ShardCounters,
}

impl Shard {
    /// A shard without connections.
    ///
    /// # Panics
    /// If its number is not below that of the shards.
    pub fn new(setup: ShardSetup) -> Shard {
        let shards = setup.mesh.shards();
        assert!(setup.id < shards);
        let limits = setup.limits;
        let epochs = |kind: u16| Epochs::new(setup.started_s, setup.id * 3 + kind, shards * 3);
        let is_delayed = limits.rooms.flush_delay_us > 0;
        let delayed = if is_delayed { limits.flush_delay_destinations.clone() } else { Vec::new() };
        let mut own = epochs(2);
        let rooms = &limits.rooms;
        let mut topics = Topics::new(setup.seed, epochs(0), rooms.rooms_max, rooms.parked_bytes_max);
        topics.set_destinations(Arc::clone(&limits.destinations), limits.history.bytes_max, setup.now);
        Shard {
            connections: Connections::new(Setup {
                shard: setup.id,
                connections_max: setup.connections_max,
                handshake: limits.handshake.clone(),
                pending: setup.pending,
                tcbs: setup.tcbs,
                now: setup.now,
            }),
            inputs: Inputs::new(&limits.buffers),
            holds: Holds::default(),
            rates: Rates::new(&limits.rate),
            logins: Quota::new(setup.logins, setup.seed),
            addresses: Quota::new(setup.addresses, setup.seed),
            audience: Audience::new(setup.audience),
            authorizer: Authorizer::new(Arc::clone(&limits.rules), setup.seed),
            bans: setup.bans,
            sessions: Sessions::new(setup.seed, &limits.stomp, limits.handshake.credentials_bytes_max),
            recoveries: Recoveries::default(),
            topics,
            queues: Queues::new(limits.rooms.clone(), epochs(1)),
            dead_letters: queues::DeadLetters::default(),
            inquiries: inquiries::Inquiries::default(),
            members: Members::new(setup.seed, delayed),
            port: Port::new(setup.id, limits.mesh.clone(), setup.mesh),
            flush: Flush::new(limits.outbound.reactor_bytes_max),
            behind: Behind::default(),
            timers: timers::Timers::new(setup.now),
            notes: notes::Notes::default(),
            rest: Rest::default(),
            farewell: None,
            counters: ShardCounters::default(),
            env: Env {
                id: setup.id,
                shards,
                seed: setup.seed,
                is_echo_enabled: setup.is_echo_enabled,
                terms: Terms::new(&limits.turn, &limits.rooms, &limits.outbound),
                ping: Ping::configured(&limits.keepalive),
                site: setup.site,
                authenticator: setup.authenticator,
                metrics: setup.metrics,
                answers: own.begin(),
                markers: own.begin(),
                limits,
            },
        }
    }

    // ---- what a reactor tells ----

    /// Takes in a connection that was accepted, on whose listener STOMP frames are where `framing` says.
    ///
    /// # Errors
    /// The socket must be closed at once; the refusal is counted.
    pub fn open(&mut self, tuple: FourTuple, framing: Framing, now: Tick) -> Result<ConnKey, Refusal> {
        self.counters.connections_accepted_total += 1;
        if self.farewell.as_ref().is_some_and(|farewell| !farewell.takes_connections()) {
            self.counters.refused_limit_total += 1;
            return Err(Refusal::ShuttingDown);
        }
        let source = self.source_of(tuple.remote().ip());
        let key = self.connections.open(tuple, framing, source, &mut self.counters, now)?;
        self.sessions.open(key.index);
        Ok(key)
    }

    /// Whether those who come are to be refused because memory is short; those who are here stay.
    pub fn set_memory_short(&mut self, is_short: bool) {
        self.connections.set_memory_short(is_short);
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&mut self) {
        self.counters.accept_errors_total += 1;
    }

    /// The socket can be written again.
    pub fn writable(&mut self, key: ConnKey) {
        if !self.is_current(key) {
            return;
        }
        let connection = &mut self.connections[key.index];
        connection.is_writable = true;
        if !connection.output.is_empty() {
            self.flush.mark(key.index, connection);
        }
    }

    // ---- what a reactor asks ----

    /// Whether the key names a connection that is there: events of one that was closed die here.
    pub fn is_current(&self, key: ConnKey) -> bool {
        self.connections.is_current(key)
    }

    /// Whether the reactor should read from the connection.
    pub fn wants_read(&self, key: ConnKey) -> bool {
        self.is_current(key) && self.connections[key.index].wants_read()
    }

    /// Connections whose reading may go on.
    pub fn take_resumed(&mut self, out: &mut Vec<ConnKey>) {
        self.inputs.take_resumed(out);
    }

    /// Connections whose sockets must be closed now. After this their indices are used again.
    pub fn take_closed(&mut self, out: &mut Vec<Closed>) {
        if self.connections.take_closed(out, self.timers.now()) {
            self.sessions.clear();
        }
    }

    /// When the shard must next be given the time.
    pub fn next_deadline(&self) -> Option<Tick> {
        // Whichever shard put something into TIME_WAIT is awake after it and looks at it again: without that, an
        // idle server would show, and count against its capacity, what is over.
        // The same for what queues have kept for too long, for input that has begun, for lags, and for memory that traffic
        // has left behind.
        let is_swept = self.connections.tcbs().has_time_wait()
            || !self.queues.is_empty()
            || self.inputs.has_incomplete()
            || self.rates.has_any()
            || !self.behind.is_empty()
            || self.has_slack();
        let sweep = is_swept.then(|| self.timers.next_sweep());
        let farewell = self.farewell.as_ref().and_then(|farewell| farewell.next_deadline(self.timers.now()));
        let (connections, sessions) = (self.connections.next_deadline(), self.sessions.next_expiry());
        let kept = self.topics.next_expiry();
        [connections, sessions, kept, self.rates.next(), sweep, farewell].into_iter().flatten().min()
    }

    /// When [`Shard::flush`] must next be called for the sake of messages that are delayed.
    pub fn next_flush(&self) -> Option<Micros> {
        self.members.next_due()
    }

    /// Whether there is more to do without waiting for anything.
    pub fn has_work(&self) -> bool {
        self.flush.has_work()
            || self.members.has_work()
            || self.topics.has_ready()
            || self.recoveries.has_ready()
            || self.dead_letters.has_own()
            || self.inquiries.has_walks()
            || self.holds.has_free()
            || self.inputs.has_resumed()
            || self.connections.has_closed()
            || self.farewell.as_ref().is_some_and(Farewell::has_work)
    }

    /// Connections, in all phases.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Connections in the opening handshake.
    pub fn handshakes(&self) -> u32 {
        self.connections.handshakes()
    }

    /// How often a reason began to hold a connection, for the simulation.
    pub fn holds_total(&self, reason: Reason) -> u64 {
        self.holds.held_total(reason)
    }

    /// Whether somebody is not read because it published too fast, for the simulation.
    pub fn slows_somebody(&self) -> bool {
        self.rates.next().is_some()
    }

    /// The shard's numbers, for its tests.
    pub fn counters(&self) -> &ShardCounters {
        &self.counters
    }
}
