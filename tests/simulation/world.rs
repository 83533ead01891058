//! Shards, their wires, clients and the clock, under one random generator.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tcbchat::conn::keepalive::Mechanism;
use tcbchat::conn::pending::Pending;
use tcbchat::limits;
use tcbchat::mesh::Mesh;
use tcbchat::message::destination::Pattern;
use tcbchat::metrics::{ShardCounters, ShardMetrics};
use tcbchat::shard::{Closed, ConnKey, Refusal, Shard, ShardLimits, ShardSetup, Site};
use tcbchat::tcb::{Closer, FourTuple, TableConfig, TcbTable};
use tcbchat::time::{Micros, Tick};
use tcbchat::wire::http::Request;

use crate::client::{Client, Stage};
use crate::coverage::Coverage;
use crate::model::Model;
use crate::post::Post;
use crate::wires::{Meanwhile, Wire, Wired, Wires};

/// Clients at most. More than the table holds, so that some are refused.
const CLIENTS: usize = 14;

/// Capacity of the table.
const CAPACITY: u32 = 12;

/// Handshakes of one address at once; there are two addresses.
const PENDING_PER_ADDRESS: u32 = 2;

const TOPICS: [&str; 4] = ["/topic/a", "/topic/b", "/topic/c", "/topic/d"];
const QUEUES: [&str; 2] = ["/queue/x", "/queue/y"];
const DEAD_LETTER_QUEUES: [&str; 2] = ["/queue/x.dlq", "/queue/y.dlq"];

struct NoSite;

impl Site for NoSite {
    fn answer(&self, _: &Request<'_>, _: SocketAddr, _: &mut Vec<u8>) {}
}

/// A client and its place.
struct Seat {
    client: Client,
    shard: usize,
    key: ConnKey,
    /// Bytes that the client has written and the server has not read.
    to_server: Vec<u8>,
    has_heart_beat: bool,
    is_sluggish: bool,
    /// Reads nothing for a while, and beats.
    is_deaf: bool,
    /// The server's kernel has more to report than fits into a look, and this connection comes late.
    is_unreported: bool,
    /// Its program hangs: it reads nothing and says nothing, and its kernel goes on.
    is_hung: bool,
    has_ended: bool,
    /// The client's end has arrived, and the server has not read it.
    is_end_unread: bool,
}

pub struct World {
    rng: StdRng,
    shards: Vec<Shard>,
    /// Set where a reactor would wake up: mail has come, or a socket is ready.
    awake: Arc<[AtomicBool]>,
    wires: Vec<Wires>,
    post: Post,
    /// Of all bytes that clients were sent.
    trace: DefaultHasher,
    tcbs: Arc<TcbTable>,
    pending: Arc<Pending>,
    /// Refused because too many from one address were in the handshake.
    refused: u64,
    seats: Vec<Seat>,
    model: Model,
    now: Tick,
    /// Goes on with every turn, and does not leap as `now` does.
    at: Micros,
    /// Time passes evenly and often, so that nothing is excused by an absence of the server.
    is_even: bool,
    named: u32,
    /// Clients that stopped to beat though they had promised it: killed, or hung.
    silenced: u64,
    /// Connections that ended in order, by whose stream ended first.
    ended_by_peer: u64,
    ended_by_server: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(1..=3u16);
        let awake: Arc<[AtomicBool]> = (0..count).map(|_| AtomicBool::new(false)).collect();
        let wake = |shard: u16| {
            let awake = Arc::clone(&awake);
            Box::new(move || awake[usize::from(shard)].store(true, Ordering::Relaxed)) as _
        };
        let mesh = Arc::new(Mesh::new((0..count).map(wake).collect()));
        let mut config = TableConfig::sized(CAPACITY, 1);
        config.time_wait.counts_against_capacity = false;
        let tcbs = Arc::new(TcbTable::new(config));
        let limits = ShardLimits {
            outbound: limits::Outbound {
                bytes_max: 24 * 1024,
                high_water_bytes: 8 * 1024,
                low_water_bytes: 2 * 1024,
                // So small that who reads slowly is cut off for what others have unsent, too.
                reactor_bytes_max: if rng.random_bool(0.3) { 24 * 1024 } else { 512 << 20 },
                ..limits::Outbound::default()
            },
            // So short that those who read slowly are taken for dead now and then.
            keepalive: limits::KeepAlive {
                ws_ping_interval_s: if rng.random_bool(0.5) { 3 } else { 0 },
                ws_pong_timeout_s: 2,
                ..limits::KeepAlive::default()
            },
            // So small that publishers are held up.
            mesh: limits::Mesh { messages_max: 3, bytes_max: 4 * 1024 },
            // So small that rooms wait for their turn.
            turn: limits::Turn { room_members_max: 2, members_max: 3, ..limits::Turn::default() },
            // Clocks jump by an hour: what queues hold is not to be forgotten for that.
            rooms: limits::Rooms {
                // In half of the worlds a message that was refused is soon a dead letter.
                deliveries_max: if rng.random_bool(0.5) { rng.random_range(1..3) } else { 60_000 },
                queue_idle_s: u32::MAX,
                queue_messages_max: if rng.random_bool(0.2) { 8 } else { 1000 },
                // So small that rooms are full.
                parked_bytes_max: if rng.random_bool(0.3) { 3 * 1024 } else { 64 << 20 },
                pending_bytes_max: if rng.random_bool(0.5) { 1024 } else { 64 * 1024 },
                ack_timeout_s: u32::MAX,
                flush_delay_us: if rng.random_bool(0.5) { 500 } else { 0 },
                ..limits::Rooms::default()
            },
            flush_delay_destinations: ["/topic/a", "/user/*"]
                .iter()
                .filter_map(|text| Pattern::parse(text))
                .collect(),
            ..ShardLimits::default()
        };
        let limits = Arc::new(limits);
        let pending = Arc::new(Pending::new(PENDING_PER_ADDRESS));
        let shards = (0..count)
            .map(|id| {
                Shard::new(ShardSetup {
                    id,
                    limits: Arc::clone(&limits),
                    connections_max: 1000,
                    is_echo_enabled: false,
                    mesh: Arc::clone(&mesh),
                    pending: Arc::clone(&pending),
                    tcbs: Arc::clone(&tcbs),
                    metrics: Arc::new(ShardMetrics::default()),
                    site: Arc::new(NoSite),
                    seed,
                    started_s: 1,
                    now: Tick(0),
                })
            })
            .collect();
        let is_even = rng.random_bool(0.5);
        World {
            rng,
            shards,
            awake,
            wires: (0..count).map(|_| Wires::default()).collect(),
            post: Post::new(seed, mesh),
            trace: DefaultHasher::new(),
            tcbs,
            pending,
            refused: 0,
            seats: Vec::new(),
            model: Model::default(),
            now: Tick(0),
            at: Micros(0),
            is_even,
            named: 0,
            silenced: 0,
            ended_by_peer: 0,
            ended_by_server: 0,
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
        let live = self.seats.first().map(|seat| (seat.shard, seat.key));
        self.post.stray(live);
        self.post.complete_some();
        if self.rng.random_bool(if self.is_even { 0.4 } else { 0.1 }) {
            self.pass_time();
        }
        self.progress();
        if self.rng.random_bool(0.1) {
            self.shards.iter().for_each(Shard::check);
            self.tcbs.check();
            self.check_liveness();
            assert_eq!(self.pending.count(), self.shards.iter().map(Shard::handshakes).sum::<u32>());
            let dead = self.shards.iter().map(|shard| shard.counters().dead_peers_stomp_heart_beat_total);
            assert!(dead.sum::<u64>() <= self.silenced, "somebody who beat was taken for dead");
        }
    }

    /// Who has a session is looked after by what was agreed.
    fn check_liveness(&self) {
        for seat in self.seats.iter().filter(|seat| seat.client.stage == Stage::Ready) {
            let shard = &self.shards[seat.shard];
            // It may have been closed, and the client not know it yet.
            let Some(liveness) = shard.liveness(seat.key) else { continue };
            assert!(liveness.heard <= self.now);
            let is_armed = |mechanism| liveness.armed.contains(&mechanism);
            assert!(is_armed(Mechanism::TcpKeepAlive));
            assert!(!is_armed(Mechanism::WsPing) || !is_armed(Mechanism::StompHeartBeat));
        }
    }

    fn arrive(&mut self) {
        self.named += 1;
        let local = SocketAddr::from(([127, 0, 0, 1], 8080));
        let host = 2 + (self.named % 2) as u8;
        let remote = SocketAddr::from(([192, 0, 2, host], 10_000 + self.named as u16));
        let shard = self.rng.random_range(0..self.shards.len());
        // A refusal without an answer: the socket is closed at once.
        let before = self.pending.count();
        let key = match self.shards[shard].open(FourTuple::new(local, remote), self.now) {
            Ok(key) => key,
            Err(refusal) => {
                assert_eq!(self.pending.count(), before, "what is refused is not pending");
                self.refused += u64::from(refusal == Refusal::PendingPerAddress);
                return;
            }
        };
        let room = self.rng.random_range(500..20_000);
        let wire = Wire {
            to_client: Vec::new(),
            room,
            is_blocked: false,
            is_broken: false,
            is_shut: false,
            ended_first: None,
            arrived: self.now,
            has_unread: false,
            taken: 0,
        };
        assert!(self.wires[shard].0.insert(key.index, wire).is_none(), "an index in use was given out");
        let client = Client::new(format!("c{}", self.named));
        let is_sluggish = self.rng.random_bool(0.15);
        self.seats.push(Seat {
            client,
            shard,
            key,
            to_server: Vec::new(),
            has_heart_beat: false,
            is_sluggish,
            is_deaf: false,
            is_unreported: false,
            is_hung: false,
            has_ended: false,
            is_end_unread: false,
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
            10 if !QUEUES.contains(&place) => 17_000,
            _ => 0,
        };
        let choice = self.rng.random_range(0..100);
        let beats = self.rng.random_bool(0.3);
        let seat = &mut self.seats[at];
        let (client, model) = (&mut seat.client, &mut self.model);
        if seat.is_hung {
            return;
        }
        match (client.stage, choice) {
            (_, 0) if !seat.has_ended => {
                // The process is killed: its bytes so far may or may not arrive, then the end.
                client.leave(model);
                self.silenced += u64::from(seat.has_heart_beat);
                self.end(at);
            }
            (_, 1) => {
                client.leave(model);
                if let Some(wire) = self.wires[seat.shard].0.get_mut(&seat.key.index) {
                    wire.is_broken = true;
                }
                let error = io::ErrorKind::ConnectionReset.into();
                self.shards[seat.shard].fail(seat.key, &error, None, self.now);
            }
            (Stage::Connecting, 2..40) => {
                // A second CONNECT ends the session; until then the first one's promise is kept.
                seat.has_heart_beat |= beats;
                client.connect(beats.then_some(2000));
            }
            (Stage::Ready, 2..20) => client.subscribe(place, model),
            (Stage::Ready, 20..24) => drop(client.unsubscribe(place, model)),
            (Stage::Ready, 24) => client.unsubscribe_queue(),
            (Stage::Ready, 25..29) => {
                self.post.coverage.note("breath", "SEND, UNSUBSCRIBE");
                client.send(topic, padding, model);
                client.unsubscribe(topic, model);
            }
            (Stage::Ready, 29..33) => {
                self.post.coverage.note("breath", "SUBSCRIBE, SEND");
                client.subscribe(topic, model);
                client.send(topic, padding, model);
            }
            (Stage::Ready, 33..38) => {
                self.post.coverage.note("breath", "SUBSCRIBE, SEND elsewhere");
                client.subscribe(topic, model);
                client.send(other, padding, model);
            }
            (Stage::Ready, 38..42) if client.subscribe_again(topic, model) => {
                self.post.coverage.note("breath", "UNSUBSCRIBE, SUBSCRIBE with its id");
            }
            (Stage::Ready, 38..42) => {}
            (Stage::Ready, 42..55) if client.unanswered > 0 => {
                self.post.coverage.note("breath", "an answer to a message");
                client.unanswered = 0;
                client.send(topic, padding, model);
            }
            (Stage::Ready, 42..75) => client.send(place, padding, model),
            (Stage::Ready, 75..80) => client.transact([place, other], model),
            (Stage::Ready, 80..92) => client.settle(choice > 85),
            (Stage::Ready, 92) => client.disconnect(model),
            (Stage::Ready, 94) => client.blunder(padding, model),
            (Stage::Ready, 93) => seat.is_sluggish = !seat.is_sluggish,
            (Stage::Ready, 95..98) => seat.is_unreported = true,
            (Stage::Ready, 99) => seat.is_deaf = true,
            (Stage::Ready, 98) if seat.has_heart_beat && !seat.has_ended => {
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
            if seat.has_heart_beat && !seat.is_hung && !seat.has_ended {
                seat.client.beat();
            }
            self.arrive_at_kernel(at);
        }
    }

    /// What a client has said comes to the server's kernel.
    fn arrive_at_kernel(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let said = seat.client.take_outgoing();
        let Some(wire) = self.wires[seat.shard].0.get_mut(&seat.key.index) else { return };
        if !said.is_empty() && !seat.has_ended {
            wire.arrived = self.now;
        }
        seat.to_server.extend(said);
        wire.has_unread = seat.is_end_unread || (!seat.to_server.is_empty() && !seat.has_ended);
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
        for shard in 0..self.shards.len() {
            if self.rng.random_bool(0.7) {
                self.turn(shard);
            }
        }
    }

    /// Moves up to `count` bytes from a client to its server.
    fn carry_up(&mut self, at: usize, count: usize) -> bool {
        self.arrive_at_kernel(at);
        let seat = &mut self.seats[at];
        if !self.shards[seat.shard].wants_read(seat.key) {
            return false;
        }
        if std::mem::take(&mut seat.is_end_unread) {
            self.shards[seat.shard].receive_end(seat.key, self.now);
            self.awake[seat.shard].store(true, Ordering::Relaxed);
            return true;
        }
        let count = count.min(seat.to_server.len());
        if count > 0 && !seat.has_ended {
            let mut bytes: Vec<u8> = seat.to_server.drain(..count).collect();
            self.shards[seat.shard].receive(seat.key, &mut bytes, self.now);
            self.awake[seat.shard].store(true, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Moves up to `count` bytes from a server to its client.
    fn carry_down(&mut self, at: usize, count: usize) -> bool {
        let seat = &mut self.seats[at];
        let Some(wire) = self.wires[seat.shard].0.get_mut(&seat.key.index) else { return false };
        if seat.is_hung || !self.shards[seat.shard].is_current(seat.key) {
            return false;
        }
        let count = count.min(wire.to_client.len());
        let bytes: Vec<u8> = wire.to_client.drain(..count).collect();
        wire.taken += count as u64;
        let was_blocked = std::mem::take(&mut wire.is_blocked);
        let is_end = wire.is_shut && wire.to_client.is_empty();
        if was_blocked {
            self.shards[seat.shard].writable(seat.key);
            self.awake[seat.shard].store(true, Ordering::Relaxed);
        }
        if !bytes.is_empty() {
            (&seat.key.index, seat.shard, &bytes).hash(&mut self.trace);
            seat.client.receive(&bytes, &mut self.model);
        }
        if is_end && !seat.has_ended {
            self.end(at);
        }
        count > 0 || was_blocked
    }

    /// A client's stream ends; the server reads that at once, or in its own time.
    fn end(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        seat.has_ended = true;
        if let Some(wire) = self.wires[seat.shard].0.get_mut(&seat.key.index) {
            wire.ended_first.get_or_insert(Closer::Remote);
        }
        if self.rng.random_bool(0.5) {
            self.shards[seat.shard].receive_end(seat.key, self.now);
        } else {
            seat.is_end_unread = true;
        }
    }

    fn turn(&mut self, at: usize) {
        self.at = self.at.after(100);
        (0..self.seats.len()).for_each(|at| self.arrive_at_kernel(at));
        let mut all: Vec<_> = self.shards.iter_mut().zip(&mut self.wires).enumerate().collect();
        let (_, (shard, wires)) = all.swap_remove(at);
        shard.continue_farewell(self.now);
        self.post.look(at);
        shard.take_mail(self.now);
        shard.expire(&Wired(wires, self.now), self.now);
        let mut meanwhile = Meanwhile {
            wires,
            others: all,
            post: &mut self.post,
            rng: &mut self.rng,
            now: self.now,
            at: self.at,
        };
        shard.flush(&mut meanwhile, self.now, self.at);
        if self.tcbs.has_time_wait() {
            let look = shard.next_deadline().expect("records must go without traffic");
            assert!(look <= self.now.after_ms(1000), "they go late");
        }
        shard.take_resumed(&mut Vec::new());
        // Others may have had a turn meanwhile.
        (0..self.shards.len()).for_each(|at| self.close(at));
    }

    /// Takes away those whose connections a shard has closed.
    fn close(&mut self, at: usize) {
        let mut closed: Vec<Closed> = Vec::new();
        self.shards[at].take_closed(&mut closed);
        for closed in closed {
            let wire = self.wires[at].0.remove(&closed.index).expect("a connection is closed once");
            let place = self.seats.iter().position(|seat| seat.shard == at && seat.key.index == closed.index);
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
            seat.client.leave(&mut self.model);
            self.post.ended(at, seat.key);
            for fault in seat.client.faults {
                self.post.coverage.note("fault", &fault);
            }
        }
    }

    /// Lets everything under way arrive. A shard turns only when a reactor would: what waits for a turn that
    /// nothing causes stays where it is, and is missed.
    fn settle(&mut self) {
        let mut has_moved = true;
        while has_moved {
            has_moved = self.post.complete_all();
            for at in 0..self.seats.len() {
                self.seats[at].is_sluggish = false;
                self.seats[at].is_unreported = false;
                self.seats[at].is_deaf = false;
                has_moved |= self.carry_up(at, usize::MAX);
                has_moved |= self.carry_down(at, usize::MAX);
            }
            for at in 0..self.shards.len() {
                let is_due = self.shards[at].next_deadline().is_some_and(|deadline| deadline <= self.now);
                let is_delayed = self.shards[at].next_flush().is_some();
                if self.awake[at].swap(false, Ordering::Relaxed)
                    || is_due
                    || is_delayed
                    || self.shards[at].has_work()
                {
                    self.turn(at);
                    has_moved = true;
                }
            }
        }
    }

    /// Reads all queues empty, checks the model, and sends everybody home.
    pub fn finish(mut self) -> (Coverage, u64) {
        self.settle();
        self.find_the_hung();
        // Who has said DISCONNECT, and waits behind a request that is never completed, hangs up: that is what ends it.
        for at in 0..self.seats.len() {
            if self.seats[at].client.stage == Stage::Leaving && !self.seats[at].has_ended {
                self.end(at);
            }
        }
        self.settle();
        for _ in 0..40 {
            for at in 0..self.seats.len() {
                let seat = &mut self.seats[at];
                while !seat.client.unsettled.is_empty() {
                    seat.client.settle(false);
                }
            }
            self.settle();
        }
        self.empty_queues();
        let left = |shard: &Shard| shard.counters().queue_messages;
        assert_eq!(self.shards.iter().map(left).sum::<u64>(), 0, "a message is left in a queue");
        self.model.check_complete();
        self.seats.iter().for_each(|seat| seat.client.check_complete());
        assert!(self.model.confirmed_count() > 0 || self.named < 10, "nothing happened");
        for at in 0..self.seats.len() {
            if self.seats[at].client.stage == Stage::Ready && at % 2 == 0 {
                self.seats[at].client.disconnect(&mut self.model);
            }
        }
        self.settle();
        for shard in &mut self.shards {
            shard.begin_shutdown();
        }
        self.settle();
        // Whoever does not answer is reset when its time is up: the connection's, or the server's.
        if self.seats.len().is_multiple_of(2) {
            self.now = Tick(self.now.0 + 10_000);
        } else {
            self.shards.iter_mut().for_each(Shard::begin_reset);
        }
        self.settle();
        assert!(self.seats.is_empty(), "somebody is left");
        self.shards.iter().for_each(Shard::check_empty);
        let sum =
            |count: fn(&ShardCounters) -> u64| self.shards.iter().map(|s| count(s.counters())).sum::<u64>();
        assert_eq!(self.pending.count(), 0);
        assert_eq!(sum(|counters| counters.refused_pending_per_address_total), self.refused);
        assert_eq!(sum(|counters| counters.closed_by_peer_total), self.ended_by_peer);
        assert_eq!(sum(|counters| counters.closed_by_server_total), self.ended_by_server);
        self.tcbs.check();
        let stats = self.tcbs.stats();
        assert_eq!(stats.half_open + stats.established + stats.closing, 0);
        self.post.check_empty();
        let mut coverage = std::mem::take(&mut self.post.coverage);
        self.shards.iter().for_each(|shard| coverage.note_shard(shard));
        for shard in &self.shards {
            shard.counters().iter().for_each(|(_, value)| value.hash(&mut self.trace));
        }
        (coverage, self.trace.finish())
    }

    /// Those who promised beats and neither beat nor read are found, each within the silence that makes it suspect, as
    /// much time to take what was under way, and the time of a closing handshake; and nobody else is. Twice that: what was
    /// held back for a moment, its settlements for a full mailbox, say, counts as heard when that ends.
    fn find_the_hung(&mut self) {
        const TICKS: u32 = 2 * (51 + 51 + 51);
        for _ in 0..TICKS.div_ceil(5) + 2 {
            self.let_pass(5);
            self.settle();
        }
        if let Some(seat) = self.seats.iter().find(|seat| seat.is_hung) {
            let shard = &self.shards[seat.shard];
            panic!(
                "somebody who hangs is not found: {:?} with {} bytes unread, read from {}, end {}, at {:?}: {:?}",
                seat.client.stage,
                seat.to_server.len(),
                shard.wants_read(seat.key),
                seat.has_ended,
                self.now,
                shard.liveness(seat.key)
            );
        }
    }

    /// A last client takes what is left in the queues.
    fn empty_queues(&mut self) {
        while self.seats.len() >= CAPACITY as usize {
            let mut seat = self.seats.remove(0);
            seat.client.leave(&mut self.model);
            self.seats.push(seat);
            self.end(self.seats.len() - 1);
            self.settle();
        }
        let last = self.named;
        while self.named == last || self.seats.last().is_none_or(|seat| seat.client.stage == Stage::Leaving) {
            self.arrive();
            self.settle();
        }
        let at = self.seats.len() - 1;
        self.seats[at].client.connect(None);
        self.settle();
        assert_eq!(self.seats[at].client.stage, Stage::Ready);
        for place in QUEUES.into_iter().chain(DEAD_LETTER_QUEUES) {
            self.seats[at].client.subscribe(place, &mut self.model);
        }
        let last = (self.seats[at].shard, self.seats[at].key);
        for _ in 0..40 {
            self.settle();
            // A dead letter that was refused is sent again in its own time.
            self.let_pass(30);
            // Others may have gone, as time passes.
            let at = self.seats.iter().position(|seat| (seat.shard, seat.key) == last);
            let at = at.expect("it stays until the queues are empty");
            while !self.seats[at].client.unsettled.is_empty() {
                self.seats[at].client.settle(false);
            }
        }
        self.settle();
    }
}
