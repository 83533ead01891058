//! Who is alive and who is not: nobody is called dead before what came from them was read and what they take was looked
//! at, and whoever hangs is found nevertheless.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tungstenite::Message;

use crate::support::{Client, Frame, Server};
use crate::websocket::{FIN, TEXT, write_raw, ws_frame};
use crate::{Setup, expect_refusal, members, send};

on_one_and_three_reactors!(
    a_pause_of_the_server_costs_no_session,
    a_ping_behind_a_download_is_no_death,
    one_that_hangs_is_found_whatever_waits_for_it,
    one_that_beats_and_does_not_read_lives,
    pings_keep_their_interval_while_answers_may_take_longer,
    pings_without_an_answer_go_on,
    what_is_begun_goes_on_or_ends_the_session
);

/// What a client's kernel takes for it.
const ROOM_BYTES: usize = 8 * 1024;

/// The pace of a slow reader: some 250 KB/s.
const PIECE_BYTES: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(60);

/// An empty ping (RFC 6455 section 5.5.2). No body here has a byte above 127.
const PING: &[u8] = &[0x89, 0];

/// A session whose kernel takes little for it.
pub fn small_session(server: &Server, heart_beat: &str) -> Client {
    let stream = server.dial_with_little_room(ROOM_BYTES);
    let (mut client, _) = Client::try_open_on(stream, server, "/ws", &["v12.stomp"]).unwrap();
    client.start_session(Frame::new("CONNECT").header("heart-beat", heart_beat));
    client
}

/// Reads until `end` has come; gives all that came.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    while !all.windows(end.len()).any(|window| window == end) {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the server has ended it after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&piece[..count]);
    }
    all
}

fn a_pause_of_the_server_costs_no_session(setup: Setup) {
    let server = setup.server();
    let mut clients: Vec<Client> = (0..30)
        .map(|_| {
            let mut client = Client::open(&server);
            client.start_session(Frame::new("CONNECT").header("heart-beat", "1000,0"));
            client
        })
        .collect();
    server.signal(Signal::STOP);
    // Longer than a silent client lives, which none of them is.
    for _ in 0..9 {
        clients.iter_mut().for_each(|client| client.send_text("\n"));
        thread::sleep(Duration::from_millis(500));
    }
    clients.iter_mut().for_each(|client| client.send_text("\n"));
    server.signal(Signal::CONT);
    for client in &mut clients {
        client.publish_confirmed("/topic/alive", "here");
    }
    assert_eq!(server.metric("dead_peers_total"), 0);
}

fn a_ping_behind_a_download_is_no_death(setup: Setup) {
    const BYTES: usize = 2_000_000;
    let server = setup.server_with("[keepalive]\nws_ping_interval_s = 1\nws_pong_timeout_s = 2\n", &[]);
    let mut slow = small_session(&server, "0,0");
    slow.subscribe("s", "/topic/large");
    let mut stream = slow.into_stream();
    let mut publisher = Client::connect(&server);
    for _ in 0..2 {
        publisher.publish_confirmed("/topic/large", "x".repeat(BYTES / 2));
    }
    drop(publisher);
    let (mut got, mut piece) = (0, vec![0; PIECE_BYTES]);
    while got < BYTES {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "ended after {got} bytes");
        got += count;
        if piece[..count].windows(2).any(|window| window == PING) {
            stream.write_all(&ws_frame(FIN | 10, b"")).unwrap();
        }
        thread::sleep(PAUSE);
    }
    stream.write_all(&ws_frame(FIN | 1, b"SEND\ndestination:/topic/x\nreceipt:alive\n\n\0")).unwrap();
    read_until(&mut stream, b"receipt-id:alive");
    assert_eq!(server.metric("dead_peers_total"), 0);
}

fn one_that_hangs_is_found_whatever_waits_for_it(setup: Setup) {
    const WAITING: u64 = 1_000_000;
    let server = setup.server();
    let mut hung = small_session(&server, "1000,1000");
    hung.subscribe("s", "/topic/large");
    let mut other = members(&server, 1, "/topic/large").remove(0);
    let mut publisher = Client::connect(&server);
    let found = r#"dead_peers_total{mechanism="stomp_heart_beat"}"#;
    let body = "x".repeat(32 * 1024);
    while server.metric("outbound_bytes") < WAITING && server.metric(found) == 0 {
        publisher.publish("/topic/large", &body);
        assert_eq!(other.expect_body(), body);
    }
    server.await_metric(found, |count| count == 1);
    // What waited for it is dropped with the verdict, and not at the end of a closing handshake.
    assert!(server.metric("outbound_bytes") < WAITING);
    assert_eq!(server.metric("slow_consumers_total"), 0);
    publisher.publish("/topic/large", "after");
    assert_eq!(other.expect_body(), "after");
}

/// The server does not read from it either: its beats show at the socket.
fn one_that_beats_and_does_not_read_lives(setup: Setup) {
    let server = setup.server();
    let mut deaf = small_session(&server, "1000,0");
    deaf.subscribe("s", "/topic/large");
    let mut other = members(&server, 1, "/topic/large").remove(0);
    let mut publisher = Client::connect(&server);
    let body = "x".repeat(32 * 1024);
    let mut sent = 0;
    while server.metric("outbound_bytes") < 1_000_000 {
        deaf.send_text("\n");
        publisher.publish("/topic/large", &body);
        assert_eq!(other.expect_body(), body);
        sent += 1;
    }
    // More than twice as long as one lives that is silent, which is how long one that hangs may take to be found.
    for _ in 0..16 {
        deaf.send_text("\n");
        thread::sleep(Duration::from_millis(500));
    }
    for _ in 0..sent {
        deaf.send_text("\n");
        assert_eq!(deaf.expect_body(), body);
    }
    deaf.publish_confirmed("/topic/x", "alive");
    assert_eq!(server.metric("dead_peers_total"), 0);
}

/// Far longer than a test waits for one read.
const SELDOM: &str = "[keepalive]\nws_ping_interval_s = 1\nws_pong_timeout_s = 3600\n";

fn pings_keep_their_interval_while_answers_may_take_longer(setup: Setup) {
    let server = setup.server_with(SELDOM, &[]);
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        // It is answered with the next read.
        assert!(matches!(client.socket().read().unwrap(), Message::Ping(_)));
    }
    client.disconnect();
}

fn pings_without_an_answer_go_on(setup: Setup) {
    let server = setup.server_with(SELDOM, &[]);
    let mut stream = Client::connect(&server).into_stream();
    assert_eq!(read_until(&mut stream, &PING.repeat(3)), PING.repeat(3));
    stream.write_all(&ws_frame(FIN | 1, b"SEND\ndestination:/topic/x\nreceipt:alive\n\n\0")).unwrap();
    read_until(&mut stream, b"receipt-id:alive");
}

/// A header of a frame, the begin of its payload, a frame of STOMP in a whole one, and input that goes on.
fn what_is_begun_goes_on_or_ends_the_session(setup: Setup) {
    let server = setup.server_with("[buffers]\nprogress_timeout_s = 1\n", &[]);
    let mut idle = Client::connect(&server);
    idle.subscribe("s", "/topic/idle");
    let begun = ws_frame(FIN | TEXT, &send("/topic/idle", "never").encode());
    let stomp = ws_frame(FIN | TEXT, b"SEND\ndestination:/topic/idle\n");
    for bytes in [&begun[..1], &begun[..12], &stomp] {
        let mut client = Client::connect(&server);
        write_raw(&mut client, bytes);
        let (why, code) = expect_refusal(&mut client, "input-timeout");
        let said = "an incomplete frame made no progress for buffers.progress_timeout_s = 1";
        assert_eq!((why.as_str(), code), (said, 1008));
    }
    server.await_metric("input_timeouts_total", |count| count == 3);
    // Who has begun nothing has all the time there is.
    idle.publish("/topic/idle", "still here");
    assert_eq!(idle.expect_body(), "still here");
}
