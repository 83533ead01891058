//! The server of a world: its shards, what they share, and where a reactor's work is done by hand.
//!
//! Owns what a process of the real server owns: shards, the table, those in the handshake, wires and mailboxes. A shard
//! turns when the world says so, and [`Server::would_turn`] says when a reactor would.
//!
//! Invariant: there is a wire for each connection until [`Server::take_closed`] has told of its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt;
use rand::rngs::StdRng;
use tcbchat::conn::pending::Pending;
use tcbchat::conn::quota::Tally;
use tcbchat::mesh::Mesh;
use tcbchat::mesh::request::Authenticator;
use tcbchat::message::fault::Refusals;
use tcbchat::metrics::{ShardCounters, ShardMetrics};
use tcbchat::shard::{Closed, ConnKey, Refusal, Shard, ShardLimits, ShardSetup, Site};
use tcbchat::tcb::{FourTuple, TableConfig, TcbTable};
use tcbchat::time::{Micros, Tick};
use tcbchat::wire::framing::Framing;
use tcbchat::wire::http::Request;

use crate::gate::Gate;
use crate::inquirer::Inquirer;
use crate::post::Post;
use crate::wires::{Meanwhile, Wire, Wired, Wires};

/// Capacity of the table.
pub const CAPACITY: u32 = 12;

/// Handshakes of one address at once; there are two addresses.
const PENDING_PER_ADDRESS: u32 = 2;

struct NoSite;

impl Site for NoSite {
    fn answer(&self, _: &Request<'_>, _: SocketAddr, _: &mut Vec<u8>) {}
}

/// The shard that has a connection, and its key there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub shard: usize,
    pub key: ConnKey,
}

/// See the module.
pub struct Server {
    pub shards: Vec<Shard>,
    /// Set where a reactor would wake up: mail has come, or a socket is ready.
    awake: Arc<[AtomicBool]>,
    wires: Vec<Wires>,
    pub post: Post,
    /// Nobody may enter [`bounds::FORBIDDEN`].
    pub has_rules: bool,
    /// Sessions survive refusals.
    pub survives: bool,
    /// Who asks the shards.
    pub inquirer: Inquirer,
    /// Who knows who clients are, if they have to prove it.
    pub gate: Option<Arc<Gate>>,
    tcbs: Arc<TcbTable>,
    pending: Arc<Pending>,
    tallies: [Arc<Tally>; 2],
    /// Goes on with every turn, and does not leap as the world's clock does.
    at: Micros,
}

impl Server {
    /// One of one to three shards, with these bounds.
    pub fn draw(seed: u64, rng: &mut StdRng, limits: ShardLimits) -> Server {
        let count = rng.random_range(1..=3u16);
        let gate = rng.random_bool(0.5).then(|| Arc::new(Gate::new(seed)));
        Server::guarded(seed, count, limits, gate)
    }

    /// One of so many shards, with these bounds, where clients are who they say.
    pub fn with(seed: u64, count: u16, limits: ShardLimits) -> Server {
        Server::guarded(seed, count, limits, None)
    }

    fn guarded(seed: u64, count: u16, limits: ShardLimits, gate: Option<Arc<Gate>>) -> Server {
        let awake: Arc<[AtomicBool]> = (0..count).map(|_| AtomicBool::new(false)).collect();
        let wake = |shard: u16| {
            let awake = Arc::clone(&awake);
            Box::new(move || awake[usize::from(shard)].store(true, Ordering::Relaxed)) as _
        };
        let mesh = Arc::new(Mesh::new((0..count).map(wake).collect()));
        let mut config = TableConfig::sized(CAPACITY, 1);
        config.time_wait.counts_against_capacity = false;
        let tcbs = Arc::new(TcbTable::new(config));
        let has_rules = !limits.rules.is_empty();
        let survives = limits.refusals == Refusals::Message;
        let limits = Arc::new(limits);
        let pending = Arc::new(Pending::new(PENDING_PER_ADDRESS));
        let [logins, addresses] = [(); 2].map(|()| Arc::<Tally>::default());
        let audience = Arc::default();
        let shards = (0..count)
            .map(|id| {
                Shard::new(ShardSetup {
                    id,
                    limits: Arc::clone(&limits),
                    connections_max: 1000,
                    is_echo_enabled: false,
                    mesh: Arc::clone(&mesh),
                    pending: Arc::clone(&pending),
                    logins: Arc::clone(&logins),
                    addresses: Arc::clone(&addresses),
                    audience: Arc::clone(&audience),
                    tcbs: Arc::clone(&tcbs),
                    metrics: Arc::new(ShardMetrics::default()),
                    site: Arc::new(NoSite),
                    authenticator: gate.clone().map(|gate| gate as Arc<dyn Authenticator>),
                    bans: Arc::default(),
                    seed,
                    started_s: 1,
                    now: Tick(0),
                })
            })
            .collect();
        Server {
            shards,
            awake,
            wires: (0..count).map(|_| Wires::default()).collect(),
            inquirer: Inquirer::new(seed, Arc::clone(&mesh), gate.is_some()),
            post: Post::new(seed, mesh),
            has_rules,
            survives,
            gate,
            tcbs,
            pending,
            tallies: [logins, addresses],
            at: Micros(0),
        }
    }

    /// How many shards it has.
    pub fn count(&self) -> usize {
        self.shards.len()
    }

    /// The shard of a connection.
    pub fn shard(&mut self, connection: Connection) -> &mut Shard {
        &mut self.shards[connection.shard]
    }

    /// The wire of a connection.
    pub fn wire(&mut self, connection: Connection) -> &mut Wire {
        let wires = &mut self.wires[connection.shard].0;
        wires.get_mut(&connection.key.index).expect("every connection has a wire")
    }

    /// Takes a connection in some shard. A refusal has no answer: the socket is closed at once.
    pub fn open(
        &mut self,
        remote: SocketAddr,
        framing: Framing,
        now: Tick,
        rng: &mut StdRng,
    ) -> Result<Connection, Refusal> {
        let shard = rng.random_range(0..self.count());
        let before = self.pending.count();
        let room = rng.random_range(500..20_000);
        self.open_in(shard, remote, framing, room, now).inspect_err(|_| {
            assert_eq!(self.pending.count(), before, "what is refused is not pending");
        })
    }

    /// Takes a connection in this shard, whose wire has room for so many bytes.
    pub fn open_in(
        &mut self,
        shard: usize,
        remote: SocketAddr,
        framing: Framing,
        room: usize,
        now: Tick,
    ) -> Result<Connection, Refusal> {
        let local = SocketAddr::from(([127, 0, 0, 1], 8080));
        let key = self.shards[shard].open(FourTuple::new(local, remote), framing, now)?;
        let before = self.wires[shard].0.insert(key.index, Wire::new(room, now));
        assert!(before.is_none(), "an index in use was given out");
        Ok(Connection { shard, key })
    }

    /// The end of a turn of a shard, without what comes before: its mailbox stays as it is.
    pub fn flush(&mut self, at: usize, now: Tick) {
        self.at = self.at.after(100);
        self.shards[at].flush(&mut self.wires[at], now, self.at);
    }

    /// Services complete some of what they were asked.
    pub fn complete_some(&mut self) {
        self.post.complete_some();
        if let Some(gate) = &self.gate {
            self.post.answer_by(gate, false);
        }
    }

    /// Services complete all that they will. Returns whether there was any.
    pub fn complete_all(&mut self) -> bool {
        let has_answers = self.gate.as_ref().is_some_and(|gate| self.post.answer_by(gate, true));
        self.post.complete_all() || has_answers
    }

    /// Reads up to `count` bytes of a connection, or its end. Returns whether there was anything, and it may be read.
    pub fn read(&mut self, connection: Connection, count: usize, now: Tick) -> bool {
        let key = connection.key;
        if !self.shard(connection).wants_read(key) {
            return false;
        }
        let Some(mut bytes) = self.wire(connection).read(count) else { return false };
        if bytes.is_empty() {
            self.shard(connection).receive_end(key, now);
        } else {
            self.shard(connection).receive(key, &mut bytes, now);
        }
        self.wake(connection);
        true
    }

    /// Reads the end of a connection at once, whatever it waits for.
    pub fn read_end(&mut self, connection: Connection, now: Tick) {
        assert_eq!(self.wire(connection).read(1), Some(Vec::new()), "it has an end");
        self.shard(connection).receive_end(connection.key, now);
    }

    /// There is room for what a connection has to write. Returns whether it waited for that.
    pub fn unblock(&mut self, connection: Connection) -> bool {
        let was_blocked = self.wire(connection).unblock();
        if was_blocked {
            self.shard(connection).writable(connection.key);
            self.wake(connection);
        }
        was_blocked
    }

    fn wake(&self, connection: Connection) {
        self.awake[connection.shard].store(true, Ordering::Relaxed);
    }

    /// Whether a reactor would turn by now. That it was woken up is forgotten.
    pub fn would_turn(&mut self, at: usize, now: Tick) -> bool {
        let shard = &self.shards[at];
        self.awake[at].swap(false, Ordering::Relaxed)
            || shard.next_deadline().is_some_and(|deadline| deadline <= now)
            || shard.next_flush().is_some()
            || shard.has_work()
    }

    /// One turn of a shard; others may have one while it writes.
    pub fn turn(&mut self, at: usize, now: Tick, rng: &mut StdRng) {
        self.at = self.at.after(100);
        let mut all: Vec<_> = self.shards.iter_mut().zip(&mut self.wires).enumerate().collect();
        let (_, (shard, wires)) = all.swap_remove(at);
        shard.set_wall_ms(now.as_millis());
        shard.continue_farewell(now);
        self.post.look(at);
        shard.take_mail(now);
        shard.expire(&Wired(wires, now), now);
        let mut meanwhile = Meanwhile { wires, others: all, post: &mut self.post, rng, now, at: self.at };
        shard.flush(&mut meanwhile, now, self.at);
        if self.tcbs.has_time_wait() {
            let look = shard.next_deadline().expect("records must go without traffic");
            assert!(look <= now.after_ms(1000), "they go late");
        }
        shard.take_resumed(&mut Vec::new());
    }

    /// Connections that a shard has closed, with what was on their wires.
    pub fn take_closed(&mut self, at: usize) -> Vec<(Closed, Wire)> {
        let mut closed: Vec<Closed> = Vec::new();
        self.shards[at].take_closed(&mut closed);
        let with_wire = |closed: Closed| {
            let wire = self.wires[at].0.remove(&closed.index).expect("a connection is closed once");
            (closed, wire)
        };
        closed.into_iter().map(with_wire).collect()
    }

    /// What all shards have counted together.
    pub fn sum(&self, count: impl Fn(&ShardCounters) -> u64) -> u64 {
        self.shards.iter().map(|shard| count(shard.counters())).sum()
    }

    /// Compares everything with everything else.
    pub fn check(&self) {
        self.shards.iter().for_each(Shard::check);
        self.tcbs.check();
        assert_eq!(self.pending.count(), self.shards.iter().map(Shard::handshakes).sum::<u32>());
    }

    /// Nobody is connected any more, so nothing may be left.
    pub fn check_empty(&self) {
        self.shards.iter().for_each(Shard::check_empty);
        assert_eq!(self.pending.count(), 0);
        assert!(self.tallies.iter().all(|tally| tally.keys() == 0));
        self.tcbs.check();
        let stats = self.tcbs.stats();
        assert_eq!(stats.half_open + stats.established + stats.closing, 0);
        self.post.check_empty();
        self.inquirer.check_empty();
        if let Some(gate) = &self.gate {
            gate.check_empty();
        }
    }
}
