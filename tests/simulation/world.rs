//! One server, its clients and the clock, under one random generator.
//!
//! Owns the clients and when anything happens: who comes, what they do, which bytes move, which shard turns. It holds what
//! they see against the model, and what the server counts against what was done to it.

use std::hash::{DefaultHasher, Hash};
use std::io;
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tcbchat::conn::handshake::Reach;
use tcbchat::conn::keepalive::Mechanism;
use tcbchat::shard::Refusal;
use tcbchat::tcb::Closer;
use tcbchat::time::Tick;
use tcbchat::wire::framing::Framing;

use crate::bounds;
use crate::client::{Client, Stage};
use crate::model::Model;
use crate::server::{Connection, Server};

mod ending;

/// Clients at most. More than the table holds, so that some are refused.
const CLIENTS: usize = 14;

const TOPICS: [&str; 4] = ["/topic/a", "/topic/b", "/topic/c", "/topic/d"];
const QUEUES: [&str; 2] = ["/queue/x", "/queue/y"];

/// A client and its connection.
struct Seat {
    client: Client,
    connection: Connection,
    has_heart_beat: bool,
    is_sluggish: bool,
    /// Reads nothing for a while, and beats.
    is_deaf: bool,
    /// The server's kernel has more to report than fits into a look, and this connection comes late.
    is_unreported: bool,
    /// Its program hangs: it reads nothing and says nothing, and its kernel goes on.
    is_hung: bool,
}

pub struct World {
    rng: StdRng,
    server: Server,
    /// Of all bytes that clients were sent.
    trace: DefaultHasher,
    /// Refused because too many from one address were in the handshake.
    refused: u64,
    seats: Vec<Seat>,
    model: Model,
    now: Tick,
    /// Clients may come through proxies.
    is_for_proxies: bool,
    /// Time passes evenly and often, so that nothing is excused by an absence of the server.
    is_even: bool,
    named: u32,
    /// Those of them that may open a WebSocket.
    able: u32,
    /// Clients that stopped to beat though they had promised it: killed, hung, or at the end of their stream.
    silenced: u64,
    /// Connections that ended in order, by whose stream ended first.
    ended_by_peer: u64,
    ended_by_server: u64,
    /// Receipts that clients which ended in order did not get.
    missed: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = bounds::draw(&mut rng);
        let is_for_proxies = limits.reach == Reach::Anywhere;
        let server = Server::draw(seed, &mut rng, limits);
        let is_even = rng.random_bool(0.5);
        World {
            rng,
            server,
            trace: DefaultHasher::new(),
            refused: 0,
            seats: Vec::new(),
            model: Model::default(),
            now: Tick(0),
            is_for_proxies,
            is_even,
            named: 0,
            able: 0,
            silenced: 0,
            ended_by_peer: 0,
            ended_by_server: 0,
            missed: 0,
        }
    }

    /// One random action, and some progress.
    pub fn step(&mut self) {
        if self.rng.random_bool(0.13) {
            // Now and then more than may be in the handshake from one address.
            for _ in 0..if self.rng.random_bool(0.1) { 6 } else { 1 } {
                if self.seats.len() < CLIENTS {
                    self.arrive();
                }
            }
        }
        if !self.seats.is_empty() {
            let at = self.rng.random_range(0..self.seats.len());
            self.act(at);
        }
        let live = self.seats.first().map(|seat| (seat.connection.shard, seat.connection.key));
        self.server.post.stray(live);
        self.inquire();
        self.hear();
        self.server.complete_some();
        if self.rng.random_bool(if self.is_even { 0.4 } else { 0.1 }) {
            self.pass_time();
        }
        self.progress();
        if self.rng.random_bool(0.1) {
            self.server.check();
            self.check_liveness();
            let dead = self.server.sum(|counters| counters.dead_peers_stomp_heart_beat_total);
            assert!(dead <= self.silenced, "somebody who beat was taken for dead");
        }
    }

    fn inquire(&mut self) {
        let places = [&TOPICS[..], &QUEUES].concat();
        let live: Vec<Connection> = self.seats.iter().map(|seat| seat.connection).collect();
        self.server.inquirer.ask(&places, &live, &mut self.model);
    }

    fn hear(&mut self) -> bool {
        self.server.inquirer.hear(&mut self.model, &mut self.server.post.coverage)
    }

    /// Who has a session is looked after by what was agreed.
    fn check_liveness(&mut self) {
        for seat in self.seats.iter().filter(|seat| seat.client.stage == Stage::Ready) {
            // It may have been closed, and the client not know it yet.
            let Some(liveness) = self.server.shard(seat.connection).liveness(seat.connection.key) else {
                continue;
            };
            assert!(liveness.heard <= self.now);
            let is_armed = |mechanism| liveness.armed.contains(&mechanism);
            assert!(is_armed(Mechanism::TcpKeepAlive));
            assert!(!is_armed(Mechanism::WsPing) || !is_armed(Mechanism::StompHeartBeat));
        }
    }

    fn arrive(&mut self) {
        let host = 2 + (self.named % 2) as u8;
        if self.rng.random_bool(0.2) {
            return self.arrive_bare(host);
        }
        let (lines, may_open) = match self.rng.random_range(0..40) {
            0 => ("Origin: http://x\r\n", true),
            1 => ("Origin: http://evil.com\r\n", false),
            // From a host that is trusted it is the client's address, and from others a lie.
            2..4 => ("X-Forwarded-For: 203.0.113.7, 198.51.100.7\r\n", self.is_for_proxies),
            _ => ("", true),
        };
        self.arrive_from(host, lines, may_open);
    }

    /// Somebody comes from a host, with these header lines, for which he may open a WebSocket or not.
    fn arrive_from(&mut self, host: u8, lines: &str, may_open: bool) {
        let Some(connection) = self.open(host, Framing::WebSocket) else { return };
        self.able += u32::from(may_open);
        let client = Client::asking(self.name(), self.server.gate.is_some(), lines, may_open);
        self.seat(client, connection);
    }

    /// Somebody comes from a host whose STOMP frames travel as they are.
    fn arrive_bare(&mut self, host: u8) {
        let Some(connection) = self.open(host, Framing::Bare) else { return };
        self.able += 1;
        self.seat(Client::bare(self.name(), self.server.gate.is_some(), true), connection);
    }

    fn name(&self) -> String {
        format!("c{}", self.named)
    }

    fn open(&mut self, host: u8, framing: Framing) -> Option<Connection> {
        self.named += 1;
        let remote = SocketAddr::from(([192, 0, 2, host], 10_000 + self.named as u16));
        match self.server.open(remote, framing, self.now, &mut self.rng) {
            Ok(connection) => Some(connection),
            Err(refusal) => {
                self.refused += u64::from(refusal == Refusal::PendingPerAddress);
                None
            }
        }
    }

    fn seat(&mut self, client: Client, connection: Connection) {
        self.seats.push(Seat {
            client: client.surviving(self.server.survives),
            connection,
            has_heart_beat: false,
            is_sluggish: self.rng.random_bool(0.15),
            is_deaf: false,
            is_unreported: false,
            is_hung: false,
        });
    }

    fn place(&mut self) -> &'static str {
        match self.rng.random_range(0..8) {
            0 => QUEUES[0],
            1 => QUEUES[1],
            other => TOPICS[other % 4],
        }
    }

    fn act(&mut self, at: usize) {
        let (place, other) = (self.place(), self.place());
        let topic = TOPICS[self.rng.random_range(0..TOPICS.len())];
        let padding = match self.rng.random_range(0..100) {
            0..10 => self.rng.random_range(0..3000),
            // So much that the body is shared by members whose subscriptions have other ids. Several of them in a queue
            // would have the one who is to read it empty cut off.
            10 if !QUEUES.contains(&place) && !QUEUES.contains(&other) => 17_000,
            _ => 0,
        };
        let choice = self.rng.random_range(0..100);
        let beats = self.rng.random_bool(0.3);
        let kind = self.rng.random_range(0..30);
        let seat = &mut self.seats[at];
        let (client, model) = (&mut seat.client, &mut self.model);
        if seat.is_hung {
            return;
        }
        let has_ended = self.server.wire(seat.connection).has_ended();
        match (client.stage, choice) {
            (_, 0) if !has_ended => {
                // The process is killed: its bytes so far may or may not arrive, then the end.
                client.vanish(model);
                self.silenced += u64::from(seat.has_heart_beat);
                self.end(at);
            }
            (Stage::Ready, 1) if kind < 20 => {
                // It is in a queue when it breaks, or its owner is about to hear of it.
                self.server.post.coverage.note("breath", "SUBSCRIBE to a queue, a reset");
                client.subscribe(QUEUES[kind % 2], model);
                client.vanish(model);
                self.carry_up(at, usize::MAX);
                let connection = self.seats[at].connection;
                self.turn(connection.shard);
                if let Some(seat) = self.seats.iter().find(|seat| seat.connection == connection) {
                    self.server.wire(seat.connection).is_broken = true;
                    let error = io::ErrorKind::ConnectionReset.into();
                    self.server.shard(connection).fail(connection.key, &error, None, self.now);
                }
            }
            (_, 1) => {
                client.vanish(model);
                self.server.wire(seat.connection).is_broken = true;
                let error = io::ErrorKind::ConnectionReset.into();
                self.server.shard(seat.connection).fail(seat.connection.key, &error, None, self.now);
            }
            (Stage::Connecting, 2..40) => {
                // A second CONNECT ends the session; until then the first one's promise is kept.
                seat.has_heart_beat |= beats;
                client.connect(beats.then_some(2000), kind == 0);
            }
            (Stage::Ready, 2..15) => client.subscribe(place, model),
            (Stage::Ready, 15..20) => {
                self.server.post.coverage.note("breath", "SEND, SUBSCRIBE");
                client.send(topic, padding, model);
                client.subscribe(topic, model);
            }
            (Stage::Ready, 20..24) => drop(client.unsubscribe(place, model)),
            (Stage::Ready, 25..29) => {
                self.server.post.coverage.note("breath", "SEND, UNSUBSCRIBE");
                client.send(topic, padding, model);
                client.unsubscribe(topic, model);
            }
            (Stage::Ready, 29..33) => {
                self.server.post.coverage.note("breath", "SUBSCRIBE, SEND");
                client.subscribe(topic, model);
                client.send(topic, padding, model);
            }
            (Stage::Ready, 33..38) => {
                self.server.post.coverage.note("breath", "SUBSCRIBE, SEND elsewhere");
                client.subscribe(topic, model);
                client.send(other, padding, model);
            }
            (Stage::Ready, 38..42) if client.subscribe_again(topic, model) => {
                self.server.post.coverage.note("breath", "UNSUBSCRIBE, SUBSCRIBE with its id");
            }
            (Stage::Ready, 38..42) => {}
            (Stage::Ready, 42..55) if client.unanswered > 0 => {
                self.server.post.coverage.note("breath", "an answer to a message");
                client.unanswered = 0;
                client.send(topic, padding, model);
            }
            (Stage::Ready, 42..75) if self.server.gate.is_some() && (choice > 64 || client.is_needed()) => {
                let what = client.converse(kind, model);
                self.server.post.coverage.note("question", what);
            }
            (Stage::Ready, 42..75) => client.send(place, padding, model),
            (Stage::Ready, 75..80) => client.transact([place, other], model),
            (Stage::Ready, 80..92) => client.settle(choice > 85),
            (Stage::Ready, 92) => match kind % 3 {
                0 => client.disconnect(model),
                1 => client.close(model),
                _ => {
                    // Whoever has ended its stream beats no more: if it takes nothing, either, it may be taken for dead.
                    client.leave_in_order(model);
                    self.silenced += u64::from(seat.has_heart_beat && !has_ended);
                    self.arrive_at_kernel(at);
                    self.server.wire(self.seats[at].connection).end_in_order();
                }
            },
            (Stage::Ready, 94) if kind < 20 => client.renew(kind == 0),
            (Stage::Ready, 24) if kind < 10 && self.server.gate.is_none() => client.listen(),
            (Stage::Ready, 24) if kind < 22 => client.unsubscribe_queue(),
            (Stage::Ready, 24) => client.unsubscribe_nothing(model),
            (Stage::Ready, 94) if kind < 25 && self.server.has_rules => client.trespass(kind, model),
            (Stage::Ready, 94) => client.blunder(kind, model),
            (Stage::Ready, 93) => seat.is_sluggish = !seat.is_sluggish,
            (Stage::Ready, 95..98) => seat.is_unreported = true,
            (Stage::Ready, 99) => seat.is_deaf = true,
            (Stage::Ready, 98) if seat.has_heart_beat && !has_ended => {
                seat.is_hung = true;
                self.silenced += 1;
            }
            _ => {}
        }
    }

    fn pass_time(&mut self) {
        let ticks = match self.rng.random_range(0..100) {
            _ if self.is_even => self.rng.random_range(1..8),
            // A suspended machine.
            0 => 400_000,
            // A paused process: clients go on, and their beats wait in its kernel.
            1..5 => {
                (0..5).for_each(|_| self.let_pass(10));
                10
            }
            5..10 => 60,
            _ => self.rng.random_range(1..8),
        };
        self.let_pass(ticks);
    }

    /// So many ticks pass, at whose end everybody beats who has promised it. What clients have said is in the kernel, and
    /// the shards have not seen it.
    fn let_pass(&mut self, ticks: u32) {
        self.now = Tick(self.now.0 + ticks);
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            let has_ended = self.server.wire(seat.connection).has_ended();
            if seat.has_heart_beat && !seat.is_hung && !has_ended {
                seat.client.beat();
            }
            self.arrive_at_kernel(at);
        }
    }

    /// What a client has said comes to the server's kernel.
    fn arrive_at_kernel(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        self.server.wire(seat.connection).arrive(&seat.client.take_outgoing(), self.now);
    }

    /// Some bytes move, and some shards turn.
    fn progress(&mut self) {
        for at in 0..self.seats.len() {
            if self.rng.random_bool(0.01) {
                self.seats[at].is_unreported = false;
            }
            if self.rng.random_bool(0.7) && !self.seats[at].is_unreported {
                let count = self.rng.random_range(1..400);
                self.carry_up(at, count);
            }
            let Seat { is_sluggish, is_deaf, .. } = self.seats[at];
            if !is_deaf && self.rng.random_bool(if is_sluggish { 0.02 } else { 0.7 }) {
                let count = self.rng.random_range(1..4000);
                self.carry_down(at, count);
            }
        }
        for shard in 0..self.server.count() {
            if self.rng.random_bool(0.7) {
                self.turn(shard);
            }
        }
    }

    /// Moves up to `count` bytes from a client to its server.
    fn carry_up(&mut self, at: usize, count: usize) -> bool {
        self.arrive_at_kernel(at);
        self.server.read(self.seats[at].connection, count, self.now)
    }

    /// Moves up to `count` bytes from a server to its client.
    fn carry_down(&mut self, at: usize, count: usize) -> bool {
        let seat = &mut self.seats[at];
        let Connection { shard, key } = seat.connection;
        if seat.is_hung || !self.server.shard(seat.connection).is_current(key) {
            return false;
        }
        let wire = self.server.wire(seat.connection);
        let bytes = wire.take(count);
        let is_end = wire.is_at_end() && !wire.has_ended();
        let was_blocked = self.server.unblock(seat.connection);
        if !bytes.is_empty() {
            (&key.index, shard, &bytes).hash(&mut self.trace);
            seat.client.receive(&bytes, &mut self.model);
        }
        if is_end {
            self.end(at);
        }
        !bytes.is_empty() || was_blocked
    }

    /// A client's stream ends; the server reads that at once, or in its own time.
    fn end(&mut self, at: usize) {
        let connection = self.seats[at].connection;
        self.server.wire(connection).end();
        if self.rng.random_bool(0.5) {
            self.server.read_end(connection, self.now);
        }
    }

    fn turn(&mut self, at: usize) {
        (0..self.seats.len()).for_each(|at| self.arrive_at_kernel(at));
        self.server.turn(at, self.now, &mut self.rng);
        // Others may have had a turn meanwhile.
        (0..self.server.count()).for_each(|at| self.close(at));
    }

    /// Takes away those whose connections a shard has closed.
    fn close(&mut self, at: usize) {
        for (closed, wire) in self.server.take_closed(at) {
            let is_its =
                |seat: &Seat| seat.connection.shard == at && seat.connection.key.index == closed.index;
            let place = self.seats.iter().position(is_its);
            let mut seat = self.seats.remove(place.expect("every connection has a client"));
            if !closed.reset {
                match wire.ended_first {
                    Some(Closer::Remote) => self.ended_by_peer += 1,
                    _ => self.ended_by_server += 1,
                }
            }
            if closed.reset || wire.is_broken {
                // A reset can overtake what was written: nothing is owed to this client.
                seat.client.leave(&mut self.model);
            }
            (&closed.index, closed.reset, &wire.to_client).hash(&mut self.trace);
            seat.client.receive(&wire.to_client, &mut self.model);
            if !closed.reset && !wire.is_broken {
                self.missed += seat.client.missed() as u64;
            }
            seat.client.leave(&mut self.model);
            self.server.post.ended(at, seat.connection.key);
            if seat.client.proof == Some(false) && seat.client.faults == ["not-authenticated"] {
                self.server.post.coverage.note("fault", "not-authenticated at CONNECT");
            }
            for fault in seat.client.refusals {
                self.server.post.coverage.note("refusal", &fault);
            }
            // An end that no frame caused has a sentence, and no name.
            for fault in seat.client.faults.iter().filter(|fault| !fault.is_empty()) {
                self.server.post.coverage.note("fault", fault);
            }
        }
    }

    /// Lets everything under way arrive. A shard turns only when a reactor would: what waits for a turn that
    /// nothing causes stays where it is, and is missed.
    fn settle(&mut self) {
        let mut has_moved = true;
        while has_moved {
            has_moved = self.server.complete_all() | self.hear();
            for at in 0..self.seats.len() {
                self.seats[at].is_sluggish = false;
                self.seats[at].is_unreported = false;
                self.seats[at].is_deaf = false;
                has_moved |= self.carry_up(at, usize::MAX);
                has_moved |= self.carry_down(at, usize::MAX);
            }
            for at in 0..self.server.count() {
                if self.server.would_turn(at, self.now) {
                    self.turn(at);
                    has_moved = true;
                }
            }
        }
    }
}
