//! Scenes that seeds hardly play: what must happen between two shards in one order, and no other.
//!
//! Invariant: each fails without what it is about.

use std::io;
use std::net::SocketAddr;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tcbchat::broker::owner_of;
use tcbchat::limits;
use tcbchat::shard::ShardLimits;
use tcbchat::time::Tick;
use tcbchat::wire::framing::Framing;

use crate::client::{Client, Stage};
use crate::model::Model;
use crate::server::{Connection, Server};

const SEED: u64 = 7;
const NOW: Tick = Tick(10);
/// The shard that has all sessions.
const HERE: usize = 0;
/// The shard that owns their rooms and queues.
const OWNER: usize = 1;

/// Two shards, and the sessions of one.
struct Scene {
    server: Server,
    model: Model,
    rng: StdRng,
    clients: Vec<(Client, Connection)>,
}

impl Scene {
    fn new(limits: ShardLimits) -> Scene {
        let (mut server, rng) = (Server::with(SEED, 2, limits), StdRng::seed_from_u64(SEED));
        server.post.leave_alone();
        Scene { server, model: Model::default(), rng, clients: Vec::new() }
    }

    /// A destination of this kind that the other shard owns.
    fn elsewhere(kind: &str) -> String {
        let keys = (0..).map(|n| format!("/{kind}/{n}"));
        keys.into_iter()
            .find(|key| usize::from(owner_of(SEED, key.as_bytes(), 2)) == OWNER)
            .expect("half of them")
    }

    /// A client comes and has a session. Returns its place.
    fn join(&mut self) -> usize {
        self.join_from(1)
    }

    /// The same, from this host.
    fn join_from(&mut self, host: u8) -> usize {
        let at = self.clients.len();
        let remote = SocketAddr::from(([192, 0, 2, host], 1_000 + at as u16));
        let connection =
            self.server.open_in(HERE, remote, Framing::WebSocket, usize::MAX, NOW).expect("there is a place");
        self.clients.push((Client::new(format!("c{at}"), false), connection));
        self.until(|scene| scene.clients[at].0.stage == Stage::Connecting);
        self.clients[at].0.connect(None, false);
        self.until(|scene| scene.clients[at].0.stage == Stage::Ready);
        at
    }

    /// What a client has said is read.
    fn say(&mut self, at: usize, say: impl FnOnce(&mut Client, &mut Model)) {
        let (client, connection) = &mut self.clients[at];
        say(client, &mut self.model);
        self.server.wire(*connection).arrive(&client.take_outgoing(), NOW);
        while self.server.read(*connection, usize::MAX, NOW) {}
    }

    /// So many bytes of a large frame are read, its first byte alone.
    fn begin_frame(&mut self, at: usize, bytes: usize) {
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend(100_000_u64.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(b"SEND\ndestination:/topic/x\n\n");
        frame.resize(bytes, b'x');
        let connection = self.clients[at].1;
        for part in [&frame[..1], &frame[1..]] {
            self.server.wire(connection).arrive(part, NOW);
            while self.server.read(connection, usize::MAX, NOW) {}
        }
    }

    /// A client's connection is reset.
    fn reset(&mut self, at: usize) {
        let connection = self.clients[at].1;
        self.server.wire(connection).is_broken = true;
        let error = io::ErrorKind::ConnectionReset.into();
        self.server.shard(connection).fail(connection.key, &error, None, NOW);
    }

    /// Both shards turn, and everything arrives.
    fn turn(&mut self) {
        for at in 0..self.clients.len() {
            self.say(at, |_, _| {});
        }
        for shard in [HERE, OWNER] {
            self.server.turn(shard, NOW, &mut self.rng);
            self.server.take_closed(shard);
        }
        self.clients.retain(|(_, connection)| self.server.shard(*connection).is_current(connection.key));
        for (client, connection) in &mut self.clients {
            client.receive(&self.server.wire(*connection).take(usize::MAX), &mut self.model);
        }
    }

    fn until(&mut self, is_there: impl Fn(&Scene) -> bool) {
        for _ in 0..20 {
            if is_there(self) {
                return;
            }
            self.turn();
        }
        panic!("it does not happen");
    }
}

/// A mailbox that is over its bound holds up what comes behind a publication. A consumer that ends meanwhile is in no queue.
#[test]
fn a_consumer_that_ends_before_its_begin_is_taken_is_in_no_queue() {
    let mesh = limits::Mesh { messages_max: 1_000, bytes_max: 4 * 1024 };
    let mut scene = Scene::new(ShardLimits { mesh, ..ShardLimits::default() });
    let (room, queue) = (Scene::elsewhere("topic"), Scene::elsewhere("queue"));
    let publishers = [scene.join(), scene.join()];
    let consumer = scene.join();
    scene.say(publishers[0], |client, model| client.subscribe(&room, model));
    (0..4).for_each(|_| scene.turn());
    // More than the mailbox here may hold, which nobody takes out. Who has sent so much is not read.
    for publisher in publishers {
        for _ in 0..3 {
            scene.say(publisher, |client, model| client.send(&room, 3_000, model));
        }
        scene.server.flush(HERE, NOW);
        scene.server.turn(OWNER, NOW, &mut scene.rng);
    }
    scene.say(consumer, |client, model| client.subscribe(&queue, model));
    scene.server.flush(HERE, NOW);
    scene.server.turn(OWNER, NOW, &mut scene.rng);
    scene.reset(consumer);
    scene.clients.remove(consumer);
    scene.server.flush(HERE, NOW);
    scene.server.turn(OWNER, NOW, &mut scene.rng);
    (0..20).for_each(|_| scene.turn());
    for publisher in publishers {
        scene.say(publisher, |client, model| client.disconnect(model));
    }
    scene.until(|scene| scene.clients.is_empty());
    scene.server.check();
    scene.server.shards.iter().for_each(tcbchat::shard::Shard::check_empty);
}

/// Another shard refuses a SEND that asked for no receipt. What its session said behind it is not confirmed.
#[test]
fn behind_a_refused_send_nothing_is_confirmed() {
    let rooms = limits::Rooms { queue_messages_max: 4, ..limits::Rooms::default() };
    let mut scene = Scene::new(ShardLimits { rooms, ..ShardLimits::default() });
    let (room, queue) = (Scene::elsewhere("topic"), Scene::elsewhere("queue"));
    let publisher = scene.join();
    scene.say(publisher, |client, _| {
        (0..5).for_each(|_| client.say(format!("SEND\ndestination:{queue}\n\nx\0")));
        // A RECEIPT that the client did not expect fails it.
        client.say(format!("SEND\ndestination:{room}\nreceipt:r\n\nx\0"));
    });
    scene.until(|scene| !scene.clients[publisher].0.faults.is_empty());
    assert_eq!(scene.clients[publisher].0.faults, ["queue-full"]);
}

/// Who holds most incomplete input is told by address, also when it began with a header that was cut.
#[test]
fn incomplete_frames_of_one_address_do_not_end_a_strangers() {
    let buffers = limits::Buffers { reactor_bytes_max: 128 * 1024, ..limits::Buffers::default() };
    let mut scene = Scene::new(ShardLimits { buffers, ..ShardLimits::default() });
    let stranger = scene.join_from(1);
    let greedy: Vec<usize> = (0..6).map(|_| scene.join_from(2)).collect();
    // Larger than each of theirs, and smaller than all of them.
    scene.begin_frame(stranger, 17_000);
    for at in &greedy {
        scene.begin_frame(*at, 9_000);
    }
    scene.server.flush(HERE, NOW);
    let faults = |scene: &Scene, at: usize| scene.clients[at].0.faults.clone();
    scene.until(|scene| greedy.iter().any(|at| !faults(scene, *at).is_empty()));
    assert!(faults(&scene, stranger).is_empty());
    (0..scene.clients.len()).for_each(|at| scene.reset(at));
    scene.until(|scene| scene.clients.is_empty());
}
