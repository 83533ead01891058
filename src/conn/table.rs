//! The connections of one shard: their places, their admission, their deadlines and their ends.
//!
//! It owns the table, the timing wheel, the handshakes by source and the control blocks in the TCB table. It knows no sessions
//! and no sockets: whoever closes a connection has taken its session out of everything before.
//!
//! Invariant: a connection's index is not used again before [`Connections::take_closed`] has given it out; exactly the
//! connections in the handshake have a source; exactly the refused ones have a peer here and no control block; a closed one
//! has no deadline and no incomplete input.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::IpNet;
use slab::Slab;

use crate::buf::Pool;
use crate::conn::handshake;
use crate::conn::pending::{self, Pending, Source, TooMany};
use crate::conn::phase::Event;
use crate::conn::{Connection, Phase};
use crate::footprint::Part;
use crate::limits;
use crate::message::origin::{ConnKey, Holder};
use crate::metrics::ShardCounters;
use crate::tcb::Event as TcbEvent;
use crate::tcb::{Closer, FourTuple, Refused, TcbKey, TcbTable};
use crate::time::{self, Tick, Wheel};
use crate::wire::framing::Framing;

/// Handshakes for which a shard keeps its memory when there are none.
const HANDSHAKES_KEPT_MAX: usize = 256;

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

/// What the table is made of.
#[derive(Debug)]
pub struct Setup {
    /// The shard's number, for the log.
    pub shard: u16,
    /// Connections that the shard may hold, so that its descriptors suffice.
    pub connections_max: u32,
    /// Bounds of the handshake.
    pub handshake: limits::Handshake,
    /// Handshakes of all shards by source.
    pub pending: Arc<Pending>,
    /// The ledger of all connections.
    pub tcbs: Arc<TcbTable>,
    /// The time.
    pub now: Tick,
}

/// A connection without a control block, which waits for its 503.
#[derive(Debug, Clone, Copy)]
struct RefusedPeer {
    address: SocketAddr,
    is_above_share: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Connections {
    shard: u16,
    connections_max: u32,
    /// Memory is short: nobody is admitted.
    is_memory_short: bool,
    handshake: limits::Handshake,
    slots: Slab<Connection>,
    next_generation: u32,
    handshakes: u32,
    /// Sources of the connections in the handshake, by index, which no peer can choose so that they collide.
    sources: HashMap<u32, Source, FixedState>,
    pending: Arc<Pending>,
    refused_peers: HashMap<u32, RefusedPeer>,
    /// Clients that proxies have named, by index.
    clients: HashMap<u32, IpAddr, FixedState>,
    tcbs: Arc<TcbTable>,
    wheel: Wheel,
    closed: Vec<Closed>,
}

impl Index<u32> for Connections {
    type Output = Connection;

    fn index(&self, index: u32) -> &Connection {
        &self.slots[index as usize]
    }
}

impl IndexMut<u32> for Connections {
    fn index_mut(&mut self, index: u32) -> &mut Connection {
        &mut self.slots[index as usize]
    }
}

impl Connections {
    /// No connections.
    pub fn new(setup: Setup) -> Connections {
        Connections {
            shard: setup.shard,
            connections_max: setup.connections_max,
            is_memory_short: false,
            handshake: setup.handshake,
            slots: Slab::new(),
            next_generation: 0,
            handshakes: 0,
            sources: HashMap::default(),
            pending: setup.pending,
            refused_peers: HashMap::new(),
            clients: HashMap::default(),
            tcbs: setup.tcbs,
            wheel: Wheel::new(setup.now),
            closed: Vec::new(),
        }
    }

    // ---- admission ----

    /// Takes in a connection that was accepted, whose handshake counts for `source`, in the phase `Opening`, or
    /// `Refused` if there is no place for it.
    ///
    /// # Errors
    /// The socket must be closed at once; the refusal is counted.
    pub fn open(
        &mut self,
        tuple: FourTuple,
        framing: Framing,
        source: Source,
        counters: &mut ShardCounters,
        now: Tick,
    ) -> Result<ConnKey, Refusal> {
        let max = self.handshake.pending_max;
        if self.handshakes >= max {
            counters.refused_pending_total += 1;
            let too_many = TooMany::OfShard { shard: self.shard, pending: self.handshakes, max };
            self.pending.report(too_many, now);
            return Err(Refusal::Pending);
        }
        let peer = tuple.remote();
        if let Err(too_many) = self.pending.begin(source, self.as_place_of_handshakes(self.handshakes)) {
            counters.refused_pending_per_address_total += 1;
            self.pending.report(too_many, now);
            return Err(Refusal::PendingPerAddress);
        }
        let is_short = self.is_memory_short;
        let is_full = is_short || self.slots.len() >= self.connections_max as usize;
        let is_above_share = !is_full
            && source != Source::Proxy
            && self.tcbs.is_above_share(peer.ip(), self.handshake.fair_from_percent);
        let tcb = if is_full || is_above_share { None } else { self.admit(tuple, now) };
        if tcb.is_none() && self.refused_peers.len() >= self.handshake.refusals_max as usize {
            self.pending.end(source);
            counters.refused_limit_total += 1;
            return Err(Refusal::TableFull);
        }
        counters.refused_memory_total += u64::from(is_short);
        counters.refused_above_share_total += u64::from(is_above_share);
        counters.refused_table_full_total += u64::from(tcb.is_none() && !is_short && !is_above_share);
        let phase = if tcb.is_some() { Phase::Opening } else { Phase::Refused };
        let generation = self.next_generation;
        // A generation may come back after 2^32 connections: a stale key would have to be as old.
        self.next_generation = generation.wrapping_add(1);
        let index = self.slots.insert(Connection::new(generation, tcb, phase, framing, now)) as u32;
        if tcb.is_none() {
            self.refused_peers.insert(index, RefusedPeer { address: peer, is_above_share });
        }
        self.handshakes += 1;
        self.sources.insert(index, source);
        self.wheel.arm(index, now.after_ms(u64::from(self.handshake.timeout_ms)));
        Ok(ConnKey { index, generation })
    }

    fn as_place_of_handshakes(&self, pending: u32) -> pending::Shard {
        let limits::Handshake { pending_max: max, fair_from_percent, .. } = self.handshake;
        pending::Shard { id: self.shard, pending, max, fair_from_percent }
    }

    /// Whether those who come are to be refused because memory is short; those who are here stay.
    pub fn set_memory_short(&mut self, is_short: bool) {
        self.is_memory_short = is_short;
    }

    /// A control block for the connection; `None` if the table is full.
    fn admit(&mut self, tuple: FourTuple, now: Tick) -> Option<TcbKey> {
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

    // ---- looking ----

    /// The connection with this index, if there is one, closed ones included.
    pub fn get(&self, index: u32) -> Option<&Connection> {
        self.slots.get(index as usize)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index as usize)
    }

    /// All connections with their indices, closed ones included.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        self.slots.iter().map(|(index, connection)| (index as u32, connection))
    }

    /// The name of the connection with this index.
    pub fn key_of(&self, index: u32) -> ConnKey {
        ConnKey { index, generation: self[index].generation }
    }

    /// Whether the key names a connection that is there: events of one that was closed die here.
    pub fn is_current(&self, key: ConnKey) -> bool {
        self.get(key.index).is_some_and(|connection| {
            connection.generation == key.generation && connection.phase != Phase::Closed
        })
    }

    /// Where a connection is in its life.
    pub fn phase(&self, index: u32) -> Phase {
        self[index].phase
    }

    /// Connections, in all phases but `Closed`.
    pub fn len(&self) -> usize {
        self.slots.len() - self.closed.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest index that is in use.
    pub fn last(&self) -> Option<u32> {
        self.slots.iter().next_back().map(|(index, _)| index as u32)
    }

    /// Indices that are in use, or were, end here.
    pub fn indices(&self) -> u32 {
        self.slots.capacity() as u32
    }

    /// Connections in the opening handshake.
    pub fn handshakes(&self) -> u32 {
        self.handshakes
    }

    /// The peer's address; `None` for a connection whose control block was taken over.
    pub fn peer(&self, index: u32) -> Option<SocketAddr> {
        match self[index].tcb {
            Some(tcb) => self.tcbs.get(tcb).map(|view| view.tuple.remote()),
            None => self.refused_peers.get(&index).map(|refused| refused.address),
        }
    }

    /// Whether a connection was refused because its address has more than its share of the places.
    pub fn is_above_share(&self, index: u32) -> bool {
        self.refused_peers.get(&index).is_some_and(|refused| refused.is_above_share)
    }

    /// The client's address: the one that a proxy has named, else the peer's.
    pub fn client_of(&self, index: u32) -> Option<IpAddr> {
        let named = self.clients.get(&index).copied();
        named.or_else(|| self.peer(index).map(|peer| peer.ip()))
    }

    /// The address by which a client is counted: the one that a proxy has named, else the peer's, unless that is a proxy of
    /// `trusted`, behind which may be anybody.
    pub fn account_of(&self, index: u32, trusted: &[IpNet]) -> Option<IpAddr> {
        let peer = || self.peer(index).map(|peer| peer.ip());
        let named = self.clients.get(&index).copied();
        named.or_else(|| peer().filter(|peer| !handshake::is_trusted(*peer, trusted)))
    }

    /// On whose account a connection of this shard holds what clients share: its client's, if that is known.
    pub fn holder_of(&self, index: u32, shard: u16, trusted: &[IpNet]) -> Holder {
        Holder::of(self.account_of(index, trusted), shard, self.key_of(index))
    }

    /// The ledger.
    pub fn tcbs(&self) -> &TcbTable {
        &self.tcbs
    }

    // ---- phases ----

    /// The opening handshake is over, whatever came of it.
    ///
    /// # Panics
    /// If it was over before.
    pub fn leave_handshake(&mut self, index: u32) {
        self.handshakes -= 1;
        let source = self.sources.remove(&index).expect("every handshake has a source");
        self.pending.end(source);
        if self.sources.is_empty() {
            // A crowd has come in: what its handshakes took goes.
            self.sources.shrink_to(HANDSHAKES_KEPT_MAX);
        }
    }

    /// A proxy has named the client of a connection: its handshake counts for that from here on. `false` if that has too
    /// many: nothing has changed then.
    ///
    /// # Panics
    /// If the connection is in no handshake.
    pub fn pass_handshake_to(
        &mut self,
        index: u32,
        client: IpAddr,
        counters: &mut ShardCounters,
        now: Tick,
    ) -> bool {
        let source = Source::of(client);
        let before = self.sources.insert(index, source).expect("every handshake has a source");
        if before != source {
            // It is one of those that there are.
            let place = self.as_place_of_handshakes(self.handshakes - 1);
            if let Err(too_many) = self.pending.begin(source, place) {
                self.sources.insert(index, before);
                counters.refused_pending_per_address_total += 1;
                self.pending.report(too_many, now);
                return false;
            }
            self.pending.end(before);
        }
        self.name_client(index, client);
        true
    }

    /// A proxy has named the client of a connection: what it holds from here on is on that account.
    pub fn name_client(&mut self, index: u32, client: IpAddr) {
        self.clients.insert(index, client);
    }

    /// Other bounds of the handshake hold from here on.
    pub fn set_limits(&mut self, handshake: limits::Handshake) {
        self.handshake = handshake;
    }

    /// Tells the ledger what happened to the connection.
    pub fn tcb_event(&mut self, index: u32, event: TcbEvent, now: Tick) {
        let Some(tcb) = self[index].tcb else { return };
        // The table refuses an event only for a block that another connection with the same 4-tuple has
        // taken over, and then this connection is dead.
        if let Err(error) = self.tcbs.transition(tcb, event, now) {
            tracing::debug!(shard = self.shard, ?event, ?error, "stale control block");
        }
    }

    /// The end: gives back all that the connection holds beside its output's debts, and lists its socket to be closed. Says
    /// who ended it, and how many bytes of answers were dropped; `None` if it was closed before.
    pub fn close(&mut self, index: u32, reset: bool, pool: &mut Pool, now: Tick) -> Option<(Closer, u64)> {
        if self.phase(index).is_handshake() {
            self.leave_handshake(index);
        }
        let connection = &mut self.slots[index as usize];
        if !connection.pass(Event::Close) {
            return None;
        }
        if let Some(mut inbound) = connection.inbound.take() {
            inbound.clear(pool);
        }
        // Nothing known of an end: closing the socket makes this side's the first.
        let closer = if reset { Closer::Reset } else { connection.ended_first.unwrap_or(Closer::Local) };
        let dropped = connection.output.clear_answers();
        match connection.tcb {
            // `None` is a block that another connection with the same 4-tuple has taken over.
            Some(tcb) => drop(self.tcbs.release(tcb, closer, now)),
            None => drop(self.refused_peers.remove(&index)),
        }
        self.clients.remove(&index);
        self.wheel.cancel(index);
        self.closed.push(Closed { index, reset });
        Some((closer, dropped))
    }

    /// Connections whose sockets must be closed now. After this their indices are used again. Returns whether that were the
    /// last ones.
    pub fn take_closed(&mut self, out: &mut Vec<Closed>, now: Tick) -> bool {
        let has_closed = !self.closed.is_empty();
        for closed in &self.closed {
            self.slots.remove(closed.index as usize);
        }
        out.append(&mut self.closed);
        let is_last = has_closed && self.slots.is_empty();
        if is_last {
            // A crowd has left: its memory goes with it.
            self.slots.shrink_to_fit();
            self.clients.shrink_to_fit();
            self.wheel = Wheel::new(now);
        }
        is_last
    }

    /// Whether sockets wait to be closed.
    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    // ---- deadlines ----

    /// Sets a connection's deadline, in place of the one it had.
    pub fn arm(&mut self, index: u32, deadline: Tick) {
        self.wheel.arm(index, deadline);
    }

    /// When a connection's deadline is, if it has one.
    pub fn deadline(&self, index: u32) -> Option<Tick> {
        self.wheel.deadline(index)
    }

    /// The connection has no deadline.
    pub fn disarm(&mut self, index: u32) {
        self.wheel.cancel(index);
    }

    /// Hands out up to `budget` connections whose deadline has come. Returns whether there are more.
    pub fn expire(&mut self, now: Tick, budget: usize, fired: &mut Vec<u32>) -> bool {
        self.wheel.expire(now, budget, fired)
    }

    /// The next deadline, or a moment before it.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.wheel.next_deadline()
    }

    // ---- memory ----

    /// What the table and the deadlines take.
    pub fn memory(&self) -> (Part, Part) {
        let slots = Part::array(self.slots.len(), self.slots.capacity(), size_of::<Connection>());
        let clients = Part::array(self.clients.len(), self.clients.capacity(), size_of::<(u32, IpAddr)>());
        let timers = Part::array(self.wheel.len(), self.wheel.capacity(), time::BYTES_PER_KEY);
        ([slots, clients].into_iter().sum(), timers)
    }

    /// What the list of closed ones takes.
    pub fn list_memory(&self) -> Part {
        Part::array(self.closed.len(), self.closed.capacity(), size_of::<Closed>())
    }

    /// Gives back what a calm turn does not need.
    pub fn shrink_to(&mut self, kept: usize) {
        self.closed.shrink_to(kept);
        if self.sources.is_empty() {
            self.sources.shrink_to_fit();
        }
    }

    /// Panics unless all that is counted is what is there.
    pub fn check(&self) {
        self.wheel.check();
        self.pending.check();
        let (mut handshakes, mut refused) = (0, 0);
        for (index, connection) in &self.slots {
            connection.output.check();
            assert!(
                connection.phase == Phase::Closed
                    || !connection.is_writable
                    || connection.is_dirty
                    || connection.output.is_empty(),
                "who has unsent bytes waits for the socket or for the flush"
            );
            let is_handshake = connection.phase.is_handshake();
            assert_eq!(is_handshake, self.sources.contains_key(&(index as u32)));
            handshakes += u32::from(is_handshake);
            refused += usize::from(connection.phase != Phase::Closed && connection.tcb.is_none());
            assert!(connection.phase != Phase::Closed || connection.inbound.is_none());
        }
        assert_eq!(handshakes, self.handshakes);
        assert_eq!(handshakes as usize, self.sources.len());
        assert_eq!(refused, self.refused_peers.len());
        let is_there = |index: &u32| self.get(*index).is_some_and(|there| there.phase != Phase::Closed);
        assert!(self.clients.keys().all(is_there));
    }

    /// Panics unless nothing is left of any connection.
    pub fn check_empty(&self) {
        assert_eq!(self.slots.len(), 0);
        assert_eq!(self.wheel.len(), 0);
    }
}

#[cfg(test)]
mod tests;
