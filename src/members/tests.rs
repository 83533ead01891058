//! The whole component against a plain model: everybody gets exactly the frames of the messages between its join and its leave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::conn::Phase;
use crate::conn::pending::{Pending as Handshakes, Source};
use crate::conn::suspects::Progress;
use crate::conn::table::Setup;
use crate::conn::transport::{Silence, Transport};
use crate::limits;
use crate::message::class::AckMode;
use crate::message::destination::Destination;
use crate::message::{Message, MessageId, reply};
use crate::metrics::ShardCounters;
use crate::tcb::{Closer, FourTuple, TableConfig, TcbTable};
use crate::time::Tick;
use crate::wire::framing::Framing;
use crate::wire::stomp::Version;

const CONNECTIONS: u32 = 4;
const ROOMS: [&str; 3] = ["/topic/a", "/topic/b", "/topic/c"];
const IDS: [&str; 3] = ["1", "2", "three"];

/// Sockets that take what they have room for.
#[derive(Default)]
struct Sockets {
    room: BTreeMap<u32, usize>,
    streams: BTreeMap<u32, Vec<u8>>,
    broken: BTreeSet<u32>,
    interrupted: BTreeSet<u32>,
}

impl Transport for Sockets {
    fn send(&mut self, index: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.broken.contains(&index) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.interrupted.remove(&index) {
            return Err(ErrorKind::Interrupted.into());
        }
        let room = self.room.entry(index).or_default();
        let stream = self.streams.entry(index).or_default();
        let mut sent = 0;
        for slice in slices {
            let count = slice.len().min(*room);
            stream.extend_from_slice(&slice[..count]);
            *room -= count;
            sent += count;
        }
        if sent == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(sent) }
    }

    fn shutdown_write(&mut self, _: u32) {}

    fn closer(&self, _: u32) -> Closer {
        Closer::Local
    }

    fn silence(&self, _: u32, _: &io::Error) -> Option<Silence> {
        None
    }

    fn progress(&self, _: u32) -> Option<Progress> {
        None
    }
}

/// A subscription as its session knows it.
struct Subscription {
    id: &'static str,
    room: u32,
    key: &'static str,
    position: u32,
    class: Class,
}

/// What one client must see.
#[derive(Default)]
struct Client {
    subscriptions: Vec<Subscription>,
    /// Frames that have not come whole, by the subscription's id.
    owed: BTreeMap<&'static str, VecDeque<Vec<u8>>>,
    /// How many have come.
    came: BTreeMap<&'static str, usize>,
    answers: usize,
    /// Bytes of the stream that were read as frames.
    read: usize,
    /// The frames one of which may come yet, as it was sent in part when all was dropped.
    cut: Vec<Vec<u8>>,
    /// Ends of subscriptions that are waited for, in their order.
    requests: VecDeque<Request>,
}

/// A RECEIPT, which leaves when it is done and all before it have left. So many frames of the id must have come then.
struct Request {
    number: NonZeroU32,
    id: &'static str,
    count: usize,
    is_done: bool,
}

impl Client {
    fn give_receipts(&mut self) {
        while let Some(request) = self.requests.pop_front_if(|request| request.is_done) {
            let came = self.came.get(request.id).copied().unwrap_or_default();
            assert!(came >= request.count, "{came} of {} frames came before the receipt", request.count);
        }
    }
}

struct World {
    members: Members,
    connections: Connections,
    counters: ShardCounters,
    sockets: Sockets,
    clients: BTreeMap<u32, Client>,
    dirty: Vec<u32>,
    terms: Terms,
    sequences: BTreeMap<&'static str, u64>,
    full: BTreeSet<Box<str>>,
    at: Micros,
    next_request: u32,
    next_port: u16,
}

impl World {
    fn new(terms: Terms) -> World {
        let setup = Setup {
            shard: 0,
            connections_max: 100,
            handshake: limits::Handshake::default(),
            pending: Arc::new(Handshakes::new(1000)),
            tcbs: Arc::new(TcbTable::new(TableConfig::sized(100, 1))),
            now: Tick(0),
        };
        let mut world = World {
            members: Members::new(7, Pattern::parse(ROOMS[0]).into_iter().collect()),
            connections: Connections::new(setup),
            counters: ShardCounters::default(),
            sockets: Sockets::default(),
            clients: BTreeMap::new(),
            dirty: Vec::new(),
            terms,
            sequences: BTreeMap::new(),
            full: BTreeSet::new(),
            at: Micros(0),
            next_request: 0,
            next_port: 1000,
        };
        (0..CONNECTIONS).for_each(|_| world.open());
        world
    }

    fn open(&mut self) {
        self.next_port += 1;
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let tuple = FourTuple::new(address(1), address(self.next_port));
        let key = self
            .connections
            .open(
                tuple,
                Framing::WebSocket,
                Source::V4(std::net::Ipv4Addr::LOCALHOST),
                &mut self.counters,
                Tick(0),
            )
            .unwrap();
        self.connections.leave_handshake(key.index);
        self.connections[key.index].phase = Phase::Stomp;
        self.clients.insert(key.index, Client::default());
        self.sockets.streams.remove(&key.index);
        self.sockets.room.insert(key.index, 2000);
    }

    fn mark(&mut self, index: u32) {
        let connection = &mut self.connections[index];
        let has_work = connection.is_writable && !connection.output.is_empty();
        if has_work && !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(index);
        }
    }

    fn count_sources(&mut self, index: u32) {
        self.connections[index].has_one_source = self.clients[&index].subscriptions.len() == 1;
    }

    fn tell_moves(&mut self) {
        for moved in self.members.take_moved() {
            let subscriptions = &mut self.clients.get_mut(&moved.connection).unwrap().subscriptions;
            let found = subscriptions.iter_mut().find(|s| s.room == moved.room && s.position == moved.from);
            found.expect("a member has a subscription").position = moved.to;
        }
    }

    fn join(&mut self, index: u32, key: &'static str, id: &'static str) {
        if self.clients[&index].subscriptions.iter().any(|subscription| subscription.id == id) {
            return;
        }
        let class = Class {
            id: id.into(),
            is_named: true,
            version: Version::V12,
            ack: AckMode::Auto,
            framing: Framing::WebSocket,
        };
        let symbol = self.members.classes_mut().acquire(class.clone());
        let (room, position) = self.members.join(key, Member { connection: index, class: symbol });
        let subscription = Subscription { id, room, key, position, class };
        self.clients.get_mut(&index).unwrap().subscriptions.push(subscription);
        self.count_sources(index);
    }

    fn leave(&mut self, index: u32, nth: usize, is_awaited: bool) {
        let client = self.clients.get_mut(&index).unwrap();
        if client.subscriptions.is_empty() {
            return;
        }
        let gone = client.subscriptions.swap_remove(nth % client.subscriptions.len());
        self.next_request += 1;
        let request = is_awaited.then(|| NonZeroU32::new(self.next_request).unwrap());
        let output = &mut self.connections[index].output;
        let left = self.members.leave(gone.room, gone.position, output, request);
        self.tell_moves();
        self.count_sources(index);
        self.mark(index);
        self.read(index);
        let client = self.clients.get_mut(&index).unwrap();
        let owed = client.owed.get(gone.id).map_or(0, VecDeque::len);
        let Some(number) = request else { return };
        let came = client.came.get(gone.id).copied().unwrap_or_default();
        let (id, count, is_done) = (gone.id, came + owed, !left.is_owed);
        client.requests.push_back(Request { number, id, count, is_done });
        client.give_receipts();
    }

    fn publish(&mut self, key: &'static str, bytes: usize) {
        let Some(room) = self.members.find(key) else { return };
        let sequence = self.sequences.entry(key).or_default();
        *sequence += 1;
        // No two messages have one id, in whatever rooms.
        let epoch = 1 + ROOMS.iter().position(|room| *room == key).unwrap() as u64;
        let id = MessageId { epoch, sequence: *sequence };
        let body: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 26) as u8).collect();
        let message = Message::new(&Destination::parse_send(key).unwrap(), b"", &body);
        for client in self.clients.values_mut() {
            for subscription in client.subscriptions.iter().filter(|subscription| subscription.key == key) {
                let mut frame = Vec::new();
                reply::message(&subscription.class, id, &message, false, &mut frame);
                client.owed.entry(subscription.id).or_default().push_back(frame);
            }
        }
        if self.members.deliver(room, Sequenced { id, message }, self.terms.pending_bytes_max) {
            self.full.insert(key.into());
        }
    }

    fn answer(&mut self, index: u32) {
        let mut beat = Vec::new();
        Framing::WebSocket.wrap(true, 0, &mut beat, reply::heart_beat);
        self.connections[index].output.append(&beat);
        self.clients.get_mut(&index).unwrap().answers += 1;
        self.mark(index);
    }

    fn give_room(&mut self, index: u32, bytes: usize) {
        *self.sockets.room.entry(index).or_default() += bytes;
        self.connections[index].is_writable = true;
        self.mark(index);
    }

    /// What the client is owed is dropped, and it goes on, or is gone.
    fn end(&mut self, index: u32, goes_on: bool) {
        self.read(index);
        let output = &mut self.connections[index].output;
        let before = output.answer_bytes();
        let kept = self.members.drop_debts(output, goes_on);
        assert_eq!(output.answer_bytes(), before + kept);
        while let Some(gone) = self.clients.get_mut(&index).unwrap().subscriptions.pop() {
            self.members.forget(gone.room, gone.position);
            self.tell_moves();
        }
        self.count_sources(index);
        let client = self.clients.get_mut(&index).unwrap();
        let stream = self.sockets.streams.entry(index).or_default();
        let part = &stream[client.read..];
        let fronts = client.owed.values().filter_map(VecDeque::front);
        if !part.is_empty() && goes_on {
            client.cut.extend(fronts.filter(|frame| frame.starts_with(part)).cloned());
        }
        client.owed.clear();
        client.requests.clear();
        if !goes_on {
            self.connections[index].output.clear_answers();
            *client = Client::default();
            client.read = stream.len();
            self.sockets.broken.remove(&index);
        }
    }

    /// A turn's flush, as the shard does it.
    fn flush(&mut self, may_serve: bool) {
        self.at = self.at.after(200);
        let World { members, connections, dirty, sockets, counters, terms, .. } = self;
        let mut context = Context { connections, dirty, transport: sockets, counters, terms, now: Tick(1) };
        let outcome = members.walk_rooms(&mut context, self.at);
        self.tell_moves();
        outcome.failed.into_iter().for_each(|(index, _)| self.end(index, false));
        outcome.slow.into_iter().for_each(|index| self.end(index, true));
        for index in std::mem::take(&mut self.dirty) {
            let connection = &mut self.connections[index];
            connection.is_dirty = false;
            if !connection.is_writable || connection.output.is_empty() {
                continue;
            }
            let written = if connection.output.has_debts() {
                self.members.write(index, connection, &mut self.sockets, may_serve, Tick(1))
            } else {
                let sent = connection.write_answers(index, &mut self.sockets, Tick(1));
                sent.map(|sent| Written { sent, ..Written::default() })
            };
            self.read(index);
            match written {
                Ok(written) => {
                    let client = self.clients.get_mut(&index).unwrap();
                    for number in written.done {
                        let request = client.requests.iter_mut().find(|request| request.number == number);
                        // Of what was dropped, nobody waits for an answer.
                        if let Some(request) = request {
                            assert!(!std::mem::replace(&mut request.is_done, true), "done twice");
                        }
                    }
                    client.give_receipts();
                }
                Err(_) => self.end(index, false),
            }
            self.mark(index);
        }
        for key in self.members.take_ready() {
            assert!(self.full.remove(&key), "{key} was not full");
        }
    }

    /// Reads whole frames, and holds them against what is owed.
    fn read(&mut self, index: u32) {
        let Some(stream) = self.sockets.streams.get(&index) else { return };
        let client = self.clients.get_mut(&index).unwrap();
        while let Some(length) = frame_length(&stream[client.read..]) {
            let frame = &stream[client.read..client.read + length];
            client.read += length;
            if frame.ends_with(b"\x01\n") {
                client.answers = client.answers.checked_sub(1).expect("an answer that was not given");
                continue;
            }
            if let Some(at) = client.cut.iter().position(|cut| cut == frame) {
                client.cut.remove(at);
                continue;
            }
            let id = client.owed.iter().find(|(_, owed)| owed.front().is_some_and(|owed| owed == frame));
            let Some(id) = id.map(|(id, _)| *id) else {
                panic!("{index} is not owed {}", String::from_utf8_lossy(&frame[..length.min(200)]))
            };
            client.owed.get_mut(id).unwrap().pop_front();
            *client.came.entry(id).or_default() += 1;
        }
    }

    fn check(&mut self) {
        (0..CONNECTIONS).for_each(|index| self.read(index));
        self.members.check(&self.connections);
        self.connections.check();
        for (index, client) in &self.clients {
            for subscription in &client.subscriptions {
                let member = self.members.room(subscription.room).members()[subscription.position as usize];
                assert_eq!(member.connection, *index);
                assert_eq!(*self.members.classes().value(member.class), subscription.class);
            }
        }
    }

    /// Every socket takes everything: nothing may be left.
    fn settle(&mut self) {
        self.sockets.broken.clear();
        self.sockets.interrupted.clear();
        (0..CONNECTIONS).for_each(|index| self.give_room(index, 1 << 30));
        let mut turns = 0;
        while self.members.has_work() || self.members.next_due().is_some() || !self.dirty.is_empty() {
            self.flush(true);
            self.check();
            turns += 1;
            assert!(turns < 10_000, "there is no end");
        }
        for (index, client) in &self.clients {
            assert!(client.owed.values().all(VecDeque::is_empty), "{index} was not given {:?}", client.owed);
            assert!(client.requests.is_empty() && client.answers == 0);
            assert_eq!(client.read, self.sockets.streams.get(index).map_or(0, Vec::len), "half a frame");
            assert!(self.connections[*index].output.is_empty());
        }
        assert!(self.full.is_empty(), "nobody was told that {:?} have room", self.full);
    }

    fn empty(&mut self) {
        for index in 0..CONNECTIONS {
            while !self.clients[&index].subscriptions.is_empty() {
                self.leave(index, 0, false);
            }
        }
        self.settle();
        assert!(self.members.is_empty() && self.members.classes().is_empty());
        assert_eq!((self.members.members(), self.members.held_bytes()), (0, 0));
    }
}

/// The length of the frame that the bytes begin with, if it is whole (RFC 6455 section 5.2).
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let length = match *bytes.get(1)? {
        126 => 4 + usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        127 => 10 + u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize,
        short => 2 + usize::from(short),
    };
    (bytes.len() >= length).then_some(length)
}

#[derive(Debug, Clone)]
enum Op {
    Join(u32, usize, usize),
    Leave(u32, usize, bool),
    Publish(usize, usize),
    Flush(bool),
    Room(u32, usize),
    Answer(u32),
    Interrupt(u32),
    Break(u32),
    End(u32, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![8 => 0usize..300, 2 => 300usize..4000, 1 => 16_000usize..40_000];
    let room = prop_oneof![6 => 1usize..400, 3 => 400usize..5000, 1 => 5000usize..200_000];
    let connection = 0..CONNECTIONS;
    prop_oneof![
        6 => (connection.clone(), 0..ROOMS.len(), 0..IDS.len()).prop_map(|(c, room, id)| Op::Join(c, room, id)),
        3 => (connection.clone(), 0usize..3, any::<bool>()).prop_map(|(c, nth, waits)| Op::Leave(c, nth, waits)),
        8 => (0..ROOMS.len(), bytes).prop_map(|(room, bytes)| Op::Publish(room, bytes)),
        8 => prop::bool::weighted(0.9).prop_map(Op::Flush),
        6 => (connection.clone(), room).prop_map(|(c, bytes)| Op::Room(c, bytes)),
        2 => connection.clone().prop_map(Op::Answer),
        1 => connection.clone().prop_map(Op::Interrupt),
        1 => connection.clone().prop_map(Op::Break),
        1 => (connection, any::<bool>()).prop_map(|(c, goes_on)| Op::End(c, goes_on)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn everybody_gets_what_came_between_join_and_leave(
        ops in prop::collection::vec(op(), 0..150),
        share in 1u32..4,
        delay in prop_oneof![Just(0u32), Just(500)],
        output_max in prop_oneof![Just(6_000u64), Just(1 << 40)],
    ) {
        let terms = Terms {
            room_members_max: share,
            members_max: 4,
            flush_delay_us: delay,
            pending_bytes_max: 1024,
            output_bytes_max: output_max,
        };
        let mut world = World::new(terms);
        for op in ops {
            match op {
                Op::Join(index, room, id) => world.join(index, ROOMS[room], IDS[id]),
                Op::Leave(index, nth, is_awaited) => world.leave(index, nth, is_awaited),
                Op::Publish(room, bytes) => world.publish(ROOMS[room], bytes),
                Op::Flush(may_serve) => world.flush(may_serve),
                Op::Room(index, bytes) => world.give_room(index, bytes),
                Op::Answer(index) => world.answer(index),
                Op::Interrupt(index) => drop(world.sockets.interrupted.insert(index)),
                Op::Break(index) => drop(world.sockets.broken.insert(index)),
                Op::End(index, goes_on) => world.end(index, goes_on),
            }
            world.check();
        }
        world.settle();
        world.empty();
    }
}
