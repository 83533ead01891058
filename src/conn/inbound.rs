//! The input of connections that is not complete yet.
//!
//! Complete frames are parsed in the reactor's scratch buffer and leave nothing here. An `Inbound` exists
//! only between the first byte of something and its last: an HTTP head, a WebSocket frame or message, a
//! STOMP frame; or while input waits for backpressure to end.
//!
//! Invariant: whoever drops an `Inbound` has released its leases.

use crate::buf::{Lease, Pool, PoolExhausted};
use crate::conn::Connection;
use crate::conn::table::Connections;
use crate::limits;
use crate::message::origin::{ConnKey, Holder};
use crate::share::Shares;
use crate::time::Tick;
use crate::wire::{stomp, ws};

/// Payload whose STOMP frame, or echo message, is not complete yet.
#[derive(Debug)]
pub struct Assembly {
    /// How far `payload` has been scanned.
    pub stomp: stomp::Decoder,
    /// Unmasked payload: the begin of a STOMP frame, or an echo message so far.
    pub payload: Option<Lease>,
    /// The kind of the echo message so far.
    pub kind: ws::Kind,
}

impl Assembly {
    /// Keeps payload.
    ///
    /// # Errors
    /// The pool has no more memory.
    pub fn keep(&mut self, bytes: &[u8], pool: &mut Pool) -> Result<(), PoolExhausted> {
        if bytes.is_empty() { Ok(()) } else { pool.append(&mut self.payload, bytes) }
    }
}

/// Incomplete input.
#[derive(Debug)]
pub struct Inbound {
    /// Inside a WebSocket frame or message.
    pub ws: ws::Decoder,
    /// What the frames carried.
    pub assembly: Assembly,
    /// Bytes as they came: an HTTP head so far, or what was read before the connection was held.
    pub raw: Option<Lease>,
    /// When what is incomplete began, or had last grown by [`PROGRESS_BYTES`].
    pub since: Tick,
    /// Bytes that were kept then.
    pub had: usize,
}

impl Default for Inbound {
    fn default() -> Self {
        Inbound {
            ws: ws::Decoder::new(ws::Role::Server),
            assembly: Assembly { stomp: stomp::Decoder::default(), payload: None, kind: ws::Kind::Binary },
            raw: None,
            since: Tick(0),
            had: 0,
        }
    }
}

impl Inbound {
    /// Nothing is incomplete, and nothing is left of a frame that was refused half-way: any connection may go on
    /// with this at its next byte.
    pub fn is_clean(&self) -> bool {
        let Assembly { stomp, payload, .. } = &self.assembly;
        payload.is_none() && *stomp == stomp::Decoder::default() && self.raw.is_none() && self.ws.is_clean()
    }

    /// Bytes that are kept.
    pub fn kept(&self) -> usize {
        [&self.assembly.payload, &self.raw].into_iter().flatten().map(|lease| lease.len()).sum()
    }

    /// Bytes that are leased for them.
    pub fn leased(&self) -> usize {
        [&self.assembly.payload, &self.raw].into_iter().flatten().map(Lease::capacity).sum()
    }

    /// Bytes that it takes: nothing while it is clean.
    pub fn weight(&self) -> usize {
        if self.is_clean() { 0 } else { size_of::<Inbound>() + self.leased() }
    }

    /// Keeps bytes as they came.
    ///
    /// # Errors
    /// The pool has no more memory.
    pub fn keep_raw(&mut self, bytes: &[u8], pool: &mut Pool) -> Result<(), PoolExhausted> {
        if bytes.is_empty() { Ok(()) } else { pool.append(&mut self.raw, bytes) }
    }

    /// Gives all leases back: it is clean then.
    pub fn clear(&mut self, pool: &mut Pool) {
        for lease in [self.assembly.payload.take(), self.raw.take()].into_iter().flatten() {
            pool.release(lease);
        }
        *self = Inbound::default();
    }
}

/// Bytes by which something incomplete must grow within `buffers.progress_timeout_s`.
pub const PROGRESS_BYTES: usize = 16 * 1024;

/// What the connections of one shard keep of their input: the pool of leases, who holds how much of it, and whose input is
/// wanted again.
///
/// Invariant: whoever holds something has incomplete input, and of connections that are not ending, everybody who has holds.
#[derive(Debug)]
pub struct Inputs {
    /// Leases.
    pub pool: Pool,
    held: Shares<u32, Holder>,
    /// A clean one, for the next connection that needs one.
    spare: Option<Box<Inbound>>,
    resumed: Vec<ConnKey>,
}

impl Inputs {
    /// No input.
    pub fn new(limits: &limits::Buffers) -> Inputs {
        Inputs {
            pool: Pool::new(limits),
            held: Shares::new(limits.reactor_bytes_max),
            spare: None,
            resumed: Vec::new(),
        }
    }

    /// A connection's incomplete input, or a clean one. [`Inputs::put`] takes it back.
    pub fn take(&mut self, connection: &mut Connection) -> Box<Inbound> {
        connection.inbound.take().or_else(|| self.spare.take()).unwrap_or_default()
    }

    /// Whether a connection holds something.
    pub fn holds(&self, index: u32) -> bool {
        self.held.held_by(index) > 0
    }

    /// Keeps incomplete input with its connection, and nothing if it is complete, or if what comes behind it is thrown away.
    /// The holder is asked for where the connection held nothing before.
    pub fn put(
        &mut self,
        index: u32,
        connections: &mut Connections,
        mut inbound: Box<Inbound>,
        holder: impl FnOnce(&Connections) -> Holder,
        now: Tick,
    ) {
        if !connections.phase(index).takes_input() {
            inbound.clear(&mut self.pool);
            self.spare = Some(inbound);
            return self.end(index);
        }
        // A frame's header may be cut as well, and leases nothing.
        let weight = inbound.weight() as u64;
        if weight > 0 || !self.held.is_empty() {
            if !self.holds(index) {
                (inbound.since, inbound.had) = (now, 0);
            } else if inbound.kept() >= inbound.had + PROGRESS_BYTES {
                (inbound.since, inbound.had) = (now, inbound.kept());
            }
            self.held.set(index, weight, || holder(connections));
        }
        if weight == 0 {
            self.spare = Some(inbound);
        } else {
            connections[index].inbound = Some(inbound);
        }
    }

    /// A connection holds nothing any more.
    pub fn end(&mut self, index: u32) {
        if !self.held.is_empty() {
            self.held.release_all(index);
        }
    }

    /// Whose incomplete input is to go first, if more than three quarters of the pool are leased.
    pub fn worst(&self) -> Option<u32> {
        if self.held.is_scarce() { self.held.worst() } else { None }
    }

    /// Whether any connection holds incomplete input.
    pub fn has_incomplete(&self) -> bool {
        !self.held.is_empty()
    }

    /// Connections that hold incomplete input.
    pub fn holding(&self) -> impl Iterator<Item = u32> {
        self.held.keys()
    }

    /// The reactor is to read from this connection again.
    pub fn resume(&mut self, key: ConnKey) {
        self.resumed.push(key);
    }

    /// Whether [`Inputs::take_resumed`] would give any.
    pub fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// Connections to read from again.
    pub fn take_resumed(&mut self, out: &mut Vec<ConnKey>) {
        out.append(&mut self.resumed);
    }

    /// The list of those, for who counts memory.
    pub fn list(&self) -> &Vec<ConnKey> {
        &self.resumed
    }

    /// Gives back what a calm turn does not need.
    pub fn shrink_to(&mut self, kept: usize) {
        self.resumed.shrink_to(kept);
    }

    /// Panics unless the invariant holds.
    pub fn check(&self, connections: &Connections) {
        self.pool.check();
        self.held.check();
        let weight = |connection: &Connection| {
            connection.inbound.as_ref().map_or(0, |inbound| inbound.weight() as u64)
        };
        assert!(self.held.keys().all(|index| connections.get(index).is_some()));
        for (index, connection) in connections.iter() {
            let (held, weight) = (self.held.held_by(index), weight(connection));
            // What one that is ending has begun to say was dropped.
            assert!(held == weight || (held == 0 && !connection.phase.is_open()), "{held} of {weight}");
        }
    }
}
