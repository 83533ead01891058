//! The API as a whole, before mailboxes that the test looks after in place of shards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::*;
use crate::mesh::inquiry::{Inquiry, Reply};
use crate::mesh::mail::Mail;
use crate::message::fault::Fault;

const TOKEN: &str = "0123456789abcdef";

#[derive(Debug)]
struct Nobody;

impl Operator for Nobody {
    fn drain(&self) {}
    fn reload(&self) {}
}

/// An API with one mailbox.
struct World {
    api: Api,
    mesh: Arc<Mesh>,
    counts: Arc<Counts>,
}

impl World {
    fn new(limits: limits::Api) -> World {
        let counts = Arc::new(Counts::default());
        let setup = Setup {
            addresses: vec![([127, 0, 0, 1], 0).into()],
            token: Secret(TOKEN.into()),
            stomp: limits::Stomp::default(),
            is_guarded: false,
            seed: 1,
            limits,
            counts: Arc::clone(&counts),
            bans: Register::default(),
        };
        let mut api = Api::open(setup).expect("there is a port");
        let mesh = Arc::new(Mesh::new(vec![Box::new(|| {})]));
        api.start(Arc::clone(&mesh), Arc::new(Nobody)).expect("there is a thread");
        World { api, mesh, counts }
    }

    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.api.addresses()[0]).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is not zero");
        stream
    }

    /// Begins a publication with this key.
    fn publish(&self, key: &str) -> TcpStream {
        let body = r#"{"destination":"/topic/a","body":"b"}"#;
        let mut stream = self.dial();
        let length = body.len();
        write!(
            stream,
            "POST /v1/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nIdempotency-Key: {key}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .expect("it reads");
        stream
    }

    /// The next publication that a shard is asked for.
    fn asked(&self) -> Reply<Result<(), Fault>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut mail = Vec::new();
            self.mesh.take(0, &mut mail);
            match mail.pop() {
                Some(Mail::Inquire(inquiry)) => match *inquiry {
                    Inquiry::Publish { reply, .. } => return reply,
                    other => panic!("{other:?}"),
                },
                Some(other) => panic!("{other:?}"),
                None => assert!(Instant::now() < deadline, "nobody asks"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn await_refused(&self, why: Refusal, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.counts.refusals()[why as usize].1 < count {
            assert!(Instant::now() < deadline, "{:?}", self.counts.refusals());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The status of an answer, and all of it.
fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers and closes");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{text:?}")), text)
}

fn limits() -> limits::Api {
    limits::Api { request_timeout_ms: 200, ..limits::Api::default() }
}

#[test]
fn a_publication_without_an_answer_goes_on_and_its_key_finds_it() {
    let world = World::new(limits());
    let first = world.publish("k");
    let reply = world.asked();
    let (status, text) = answer(first);
    assert!(status == 504 && text.contains("Idempotency-Key"), "{text}");
    world.await_refused(Refusal::Timeout, 1);
    // Somebody asks again before it has its place, and somebody behind that.
    let again = world.publish("k");
    reply.say(Ok(()));
    assert_eq!(answer(again).0, 200);
    assert_eq!(answer(world.publish("k")).0, 200);
    let mut mail = Vec::new();
    world.mesh.take(0, &mut mail);
    assert!(mail.is_empty(), "it was published once: {mail:?}");
    assert_eq!((world.counts.published_total(), world.counts.repeated_total()), (1, 2));
}

#[test]
fn what_a_shard_drops_and_what_the_server_does_not_wait_for_is_answered() {
    let mut world = World::new(limits::Api { request_timeout_ms: 60_000, ..limits() });
    let first = world.publish("a");
    drop(world.asked());
    let (status, text) = answer(first);
    assert!(status == 503 && text.contains("stopping"), "{text}");
    // It had no effect, so its key is free.
    let second = world.publish("a");
    let _reply = world.asked();
    world.api.stop();
    assert_eq!(answer(second).0, 503);
    assert!(TcpStream::connect(world.api.addresses()[0]).is_err());
}

#[test]
fn requests_and_connections_have_their_number() {
    let bounds = limits::Api { requests_max: 1, connections_max: 3, request_timeout_ms: 60_000, ..limits() };
    let world = World::new(bounds);
    let first = world.publish("a");
    let reply = world.asked();
    let (status, text) = answer(world.publish("b"));
    assert!(status == 503 && text.contains("too-many-requests") && text.contains("retry-after: 1"), "{text}");
    world.await_refused(Refusal::Requests, 1);
    reply.say(Err(Fault::RoomFull { max: 7 }));
    let (status, text) = answer(first);
    assert!(
        status == 503 && text.contains("room-full") && text.contains("rooms.parked_bytes_max = 7"),
        "{text}"
    );
    // A request whose client has gone is under way as long as its publication is.
    let third = world.publish("c");
    // Had its client gone earlier, nothing need have begun.
    let reply = world.asked();
    drop(third);
    assert_eq!(answer(world.publish("d")).0, 503);
    reply.say(Ok(()));
    let idle: Vec<TcpStream> = (0..3).map(|_| world.dial()).collect();
    let mut fourth = world.dial();
    assert_eq!(fourth.read(&mut [0; 1]).expect("it is closed unanswered"), 0);
    world.await_refused(Refusal::Connections, 1);
    drop(idle);
}

#[test]
fn a_body_and_a_head_have_their_time() {
    let world = World::new(limits());
    let mut slow = world.dial();
    write!(
        slow,
        "POST /v1/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9\r\n\
         Connection: close\r\n\r\n{{"
    )
    .expect("it reads");
    let (status, text) = answer(slow);
    assert!(status == 408 && text.contains("body-timeout"), "{text}");
    let mut silent = world.dial();
    write!(silent, "GET /").expect("it reads");
    // Whatever it is told, it is not kept.
    silent.read_to_string(&mut String::new()).expect("it is closed");
}
