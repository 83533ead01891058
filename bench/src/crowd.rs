//! Many sessions on whole shards, without sockets and without a clock.
//!
//! A crowd does what a reactor does: it hands a shard the bytes that clients would send, as they would send them
//! (upgrade, CONNECT, SUBSCRIBE), and takes away what the shard writes. All that is written is counted and
//! forgotten.
//!
//! Invariant: between two calls nothing is under way: every turn that was begun has been ended, and no shard
//! has work left.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tcbchat::conn::pending::Pending;
use tcbchat::conn::suspects::Progress;
use tcbchat::mesh::Mesh;
use tcbchat::metrics::ShardMetrics;
use tcbchat::shard::{ConnKey, Shard, ShardLimits, ShardSetup, Silence, Site, Transport};
use tcbchat::tcb::{Closer, FourTuple, TableConfig, TcbTable};
use tcbchat::time::{Micros, Tick};
use tcbchat::wire::framing::Framing;
use tcbchat::wire::http::Request;

/// Sessions that come between two turns; below `handshake.pending_max` and as many as a reactor accepts at once.
const ARRIVALS_PER_TURN: usize = 64;

/// The port that each client comes from.
const PORT: u16 = 10_000;

/// The opening handshake of a client, with the key of RFC 6455 section 1.3.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Protocol: v12.stomp\r\n\r\n";

/// One text frame as a client sends it: masked with zeros, so that it may be handed in again after it was
/// unmasked in place (RFC 6455 section 5.3).
pub fn ws_frame(payload: &str) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).expect("frames here are small").to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload.as_bytes());
    bytes
}

/// A CONNECT with heart-beats of 30 s both ways, as `client-sim` offers them.
pub fn connect() -> Vec<u8> {
    ws_frame("CONNECT\naccept-version:1.2\nhost:localhost\nheart-beat:30000,30000\n\n\0")
}

/// A SUBSCRIBE.
pub fn subscribe(id: &str, destination: &str) -> Vec<u8> {
    ws_frame(&format!("SUBSCRIBE\nid:{id}\ndestination:{destination}\n\n\0"))
}

/// An UNSUBSCRIBE.
pub fn unsubscribe(id: &str) -> Vec<u8> {
    ws_frame(&format!("UNSUBSCRIBE\nid:{id}\n\n\0"))
}

/// A SEND with a body of `body` bytes, and a receipt if one is asked for.
pub fn send(destination: &str, body: usize, receipt: Option<&str>) -> Vec<u8> {
    let receipt = receipt.map(|id| format!("receipt:{id}\n")).unwrap_or_default();
    ws_frame(&format!("SEND\ndestination:{destination}\n{receipt}\n{}\0", "x".repeat(body)))
}

/// Takes everything, keeps nothing.
#[derive(Debug, Default)]
struct Swallow {
    writes: u64,
    bytes: u64,
}

impl Transport for Swallow {
    fn send(&mut self, _: u32, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let count = slices.iter().map(|slice| slice.len()).sum();
        self.writes += 1;
        self.bytes += count as u64;
        Ok(count)
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

struct NoSite;

impl Site for NoSite {
    fn answer(&self, _: &Request<'_>, _: SocketAddr, _: &mut Vec<u8>) {}
}

/// A client's connection: its shard and its key there.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    shard: u16,
    key: ConnKey,
}

/// Shards with clients.
pub struct Crowd {
    shards: Vec<Shard>,
    tcbs: Arc<TcbTable>,
    swallow: Swallow,
    clients: Vec<Client>,
    /// Connections ever opened: each has a name of its own.
    opened: u32,
    now: Tick,
}

impl Crowd {
    /// Shards without clients, and a table of control blocks for `capacity` of them.
    #[must_use]
    pub fn new(shards: u16, capacity: u32) -> Crowd {
        Crowd::with_limits(shards, capacity, ShardLimits::default())
    }

    /// The same, with other limits than the defaults.
    #[must_use]
    pub fn with_limits(shards: u16, capacity: u32, limits: ShardLimits) -> Crowd {
        let now = Tick(1);
        let mesh = Arc::new(Mesh::new((0..shards).map(|_| Box::new(|| {}) as _).collect()));
        let pending = Arc::new(Pending::new(u32::MAX));
        let tcbs = Arc::new(TcbTable::new(TableConfig::sized(capacity, u32::from(shards))));
        let limits = Arc::new(limits);
        let shard = |id| {
            Shard::new(ShardSetup {
                id,
                limits: Arc::clone(&limits),
                connections_max: capacity,
                is_echo_enabled: false,
                mesh: Arc::clone(&mesh),
                pending: Arc::clone(&pending),
                logins: Arc::default(),
                addresses: Arc::default(),
                audience: Arc::default(),
                tcbs: Arc::clone(&tcbs),
                metrics: Arc::new(ShardMetrics::default()),
                site: Arc::new(NoSite),
                authenticator: None,
                bans: Arc::default(),
                seed: 1,
                started_s: 1,
                now,
            })
        };
        let shards = (0..shards).map(shard).collect();
        Crowd { shards, tcbs, swallow: Swallow::default(), clients: Vec::new(), opened: 0, now }
    }

    /// `count` clients come, subscribe and stay, on all shards in turn. `subscription` gives the id and the
    /// destination of each.
    ///
    /// # Panics
    /// If a shard refuses one.
    pub fn gather(&mut self, count: u32, subscription: impl Fn(u32) -> (String, String)) {
        for n in 0..count {
            let client = self.connect(n as u16 % self.shards.len() as u16);
            let (id, destination) = subscription(n);
            self.give(client, &mut subscribe(&id, &destination));
            self.clients.push(client);
            if self.clients.len().is_multiple_of(ARRIVALS_PER_TURN) {
                self.settle();
            }
        }
        self.settle();
    }

    /// A client comes and is connected; what it is answered leaves with the next turn.
    ///
    /// # Panics
    /// If the shard refuses it.
    pub fn connect(&mut self, shard: u16) -> Client {
        let server = SocketAddr::from(([192, 0, 2, 1], 8080));
        // An address has its share of the places, so each has its own.
        let address = Ipv4Addr::from_bits(0x0A00_0001 + self.opened);
        self.opened += 1;
        let tuple = FourTuple::new(server, SocketAddr::from((address, PORT)));
        let opened = self.shards[usize::from(shard)].open(tuple, Framing::WebSocket, self.now);
        let client = Client { shard, key: opened.expect("there is room for all clients") };
        self.give(client, &mut UPGRADE.as_bytes().to_vec());
        self.give(client, &mut connect());
        client
    }

    /// The client's bytes arrive.
    pub fn give(&mut self, client: Client, bytes: &mut [u8]) {
        self.shards[usize::from(client.shard)].receive(client.key, bytes, self.now);
    }

    /// The client's stream ends.
    pub fn end(&mut self, client: Client) {
        self.shards[usize::from(client.shard)].receive_end(client.key, self.now);
    }

    /// Turns until no shard has anything left to do.
    pub fn settle(&mut self) {
        // Mail is posted in one turn and taken in another, by each shard in both directions at most.
        for _ in 0..2 * self.shards.len() {
            self.turn();
        }
        self.go_on();
    }

    /// Turns as long as a shard has work left: none, if the last turn did it all.
    pub fn go_on(&mut self) {
        while self.shards.iter().any(Shard::has_work) {
            self.turn();
        }
    }

    /// One turn of each shard.
    pub fn turn(&mut self) {
        for shard in &mut self.shards {
            shard.take_mail(self.now);
            shard.flush(&mut self.swallow, self.now, Micros(0));
            shard.take_resumed(&mut Vec::new());
            shard.take_closed(&mut Vec::new());
        }
    }

    /// A second goes by.
    pub fn wait(&mut self) {
        self.now = self.now.after_ms(1000);
        for shard in &mut self.shards {
            while shard.expire(&Swallow::default(), self.now) {}
        }
        self.settle();
    }

    /// How many shards want the heap trimmed.
    pub fn take_trims(&mut self) -> usize {
        self.shards.iter_mut().filter_map(|shard| shard.take_trim().then_some(())).count()
    }

    /// Those who have come to stay, in the order in which they came.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The shards.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The control blocks of all.
    #[must_use]
    pub fn tcbs(&self) -> &TcbTable {
        &self.tcbs
    }

    /// Writes so far, each of which would have been a system call.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.swallow.writes
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.swallow.bytes
    }
}

#[cfg(test)]
mod tests {
    use tcbchat::broker::owner_of;
    use tcbchat::limits;

    use super::*;

    #[test]
    fn who_subscribes_after_a_message_was_posted_does_not_get_it() {
        let mut crowd = Crowd::new(2, 10);
        let room =
            (0..).map(|n| format!("/topic/{n}")).find(|room| owner_of(1, room.as_bytes(), 2) == 0).unwrap();
        crowd.gather(2, |_| ("s".into(), room.clone()));
        let late = crowd.connect(1);
        crowd.settle();
        crowd.give(crowd.clients()[0], &mut send(&room, 100, None));
        let (now, Crowd { shards, swallow, .. }) = (crowd.now, &mut crowd);
        shards[0].take_mail(now);
        shards[0].flush(swallow, now, Micros(0));
        // The message is in the mailbox of its shard, which has not looked into it.
        crowd.give(late, &mut subscribe("s", &room));
        crowd.settle();
        assert_eq!(crowd.shards()[1].counters().messages_delivered_total, 1);
        crowd.give(crowd.clients()[0], &mut send(&room, 100, None));
        crowd.settle();
        assert_eq!(crowd.shards()[1].counters().messages_delivered_total, 3);
    }

    #[test]
    fn one_who_comes_and_goes_in_a_large_room_has_a_share_of_each_turn() {
        const MEMBERS: u32 = 1000;
        const TIMES: usize = 50;
        let mut crowd = Crowd::new(1, 2 * MEMBERS);
        crowd.gather(MEMBERS, |_| ("s".into(), "/topic/large".into()));
        let restless = crowd.connect(0);
        crowd.settle();
        let round = [
            send("/topic/large", 10, None),
            subscribe("x", "/topic/large"),
            send("/topic/large", 10, None),
            unsubscribe("x"),
        ];
        crowd.give(restless, &mut round.concat().repeat(TIMES));
        let members_max = u64::from(limits::Turn::default().members_max);
        let mut turns = 0;
        while crowd.shards()[0].has_work() {
            let writes = crowd.writes();
            crowd.turn();
            turns += 1;
            let in_turn = crowd.writes() - writes;
            assert!(in_turn <= members_max, "{in_turn} in turn {turns}");
        }
        let delivered = crowd.shards()[0].counters().messages_delivered_total;
        // It has the second message of each round itself.
        assert_eq!(delivered, TIMES as u64 * u64::from(2 * MEMBERS + 1));
        crowd.shards().iter().for_each(Shard::check);
    }

    /// Takes nothing: nobody reads.
    struct Full;

    impl Transport for Full {
        fn send(&mut self, _: u32, _: &[IoSlice<'_>]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
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

    #[test]
    fn a_message_that_many_have_not_been_sent_is_held_once() {
        const MEMBERS: u32 = 100;
        const BODY: u64 = 60_000;
        let limits = ShardLimits {
            outbound: limits::Outbound { reactor_bytes_max: 1 << 20, ..limits::Outbound::default() },
            ..ShardLimits::default()
        };
        let cut_off = |rooms: u32| {
            let mut crowd = Crowd::with_limits(1, MEMBERS, limits.clone());
            crowd.gather(MEMBERS, |n| ("s".into(), format!("/topic/{}", n % rooms)));
            let sender = crowd.clients()[0];
            for _ in 0..2 {
                for room in 0..rooms {
                    crowd.give(sender, &mut send(&format!("/topic/{room}"), BODY as usize, None));
                }
            }
            let shard = &mut crowd.shards[0];
            shard.take_mail(crowd.now);
            for _ in 0..100 {
                shard.flush(&mut Full, crowd.now, Micros(0));
            }
            shard.check();
            (shard.counters().outbound_bytes, shard.counters().slow_consumers_total)
        };
        // Six times the bound by what is owed to all, and a ninth of it by what is there.
        let (unsent, cut) = cut_off(1);
        assert!((2 * BODY..3 * BODY).contains(&unsent), "{unsent}");
        assert_eq!(cut, 0);
        // With a room for each it is all there, so some must go until what is left is within the bound.
        let (unsent, cut) = cut_off(MEMBERS);
        assert!(unsent <= 1 << 20, "{unsent}");
        assert!((80..u64::from(MEMBERS)).contains(&cut), "{cut}");
    }

    #[test]
    fn a_large_room_is_served_in_shares_and_a_small_one_in_between() {
        let share = u64::from(limits::Turn::default().room_members_max);
        let mut crowd = Crowd::new(1, 3000);
        crowd.gather(2510, |n| ("s".into(), if n < 2500 { "/topic/large" } else { "/topic/small" }.into()));
        let (large, small) = (crowd.clients()[0], crowd.clients()[2509]);
        let mut seen = crowd.writes();
        let mut turn = |crowd: &mut Crowd| {
            crowd.turn();
            let writes = crowd.writes() - seen;
            seen = crowd.writes();
            writes
        };
        crowd.give(large, &mut send("/topic/large", 100, None));
        assert_eq!(turn(&mut crowd), share);
        crowd.give(small, &mut send("/topic/small", 100, None));
        crowd.give(large, &mut send("/topic/large", 100, None));
        crowd.give(large, &mut send("/topic/large", 100, None));
        assert_eq!(turn(&mut crowd), share + 10);
        assert_eq!(turn(&mut crowd), share);
        crowd.shards().iter().for_each(Shard::check);
        // Somebody goes; everybody else gets all three.
        crowd.end(large);
        crowd.settle();
        let delivered = crowd.shards()[0].counters().messages_delivered_total;
        assert_eq!(delivered, 3 * 2499 + 10);
        crowd.shards().iter().for_each(Shard::check);
    }

    #[test]
    fn a_message_reaches_every_member_and_nobody_else() {
        for shards in [1, 3] {
            let mut crowd = Crowd::new(shards, 100);
            crowd.gather(30, |n| (format!("s{}", n % 3), format!("/topic/{}", n % 2)));
            crowd.shards().iter().for_each(Shard::check);
            assert_eq!(crowd.tcbs().stats().established, 30);
            let (writes, bytes) = (crowd.writes(), crowd.bytes());
            let sender = crowd.clients()[0];
            crowd.give(sender, &mut send("/topic/0", 1000, None));
            crowd.settle();
            assert_eq!(crowd.writes() - writes, 15);
            assert!((15 * 1000..15 * 1300).contains(&(crowd.bytes() - bytes)));
        }
    }

    #[test]
    fn the_heap_is_trimmed_once_when_traffic_is_over() {
        let mut crowd = Crowd::new(1, 1000);
        crowd.gather(1000, |n| ("s".into(), format!("/topic/{}", n % 10)));
        let (sender, bystander) = (crowd.clients()[0], crowd.clients()[1]);
        let trims = |crowd: &mut Crowd, seconds| {
            let mut trims = 0;
            for _ in 0..seconds {
                crowd.wait();
                trims += crowd.take_trims();
            }
            trims
        };
        trims(&mut crowd, 5);
        // Few messages are enough if they are large, and it does not happen among them.
        for _ in 0..5 {
            for _ in 0..20 {
                crowd.give(sender, &mut send("/topic/0", 4000, None));
            }
            crowd.settle();
            assert_eq!(trims(&mut crowd, 1), 0);
        }
        assert_eq!(trims(&mut crowd, 10), 1);
        // A little is no reason.
        crowd.give(bystander, &mut send("/topic/1", 100, None));
        crowd.settle();
        assert_eq!(trims(&mut crowd, 10), 0);
    }

    #[test]
    fn a_client_that_leaves_leaves_nothing() {
        let mut crowd = Crowd::new(1, 10);
        for _ in 0..20 {
            let client = crowd.connect(0);
            crowd.give(client, &mut subscribe("0", "/topic/a"));
            crowd.settle();
            crowd.end(client);
            crowd.settle();
        }
        crowd.shards()[0].check_empty();
        assert_eq!(crowd.tcbs().stats().in_use, crowd.tcbs().stats().time_wait);
    }
}
