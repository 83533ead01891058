//! STOMP over plain TCP: `listen.stomp`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::auth::{Files, connect};
use super::support::Stream;
use super::*;

on_one_and_three_reactors! {
    a_room_has_members_of_both_kinds,
    frames_come_as_the_network_cuts_them,
    receipts_come_before_the_end,
    a_fault_is_told_and_the_stream_ends,
    what_is_no_stomp_is_told_so,
    who_says_nothing_is_not_waited_for,
    heart_beats_go_both_ways,
    refusals_are_errors,
    who_one_is_is_asked_here_too,
    a_proxy_names_its_client,
    the_servers_end_is_told,
    a_unix_socket_can_be_one,
}

const LISTEN: &[&str] = &["--set", "listen.stomp=127.0.0.1:0"];
/// What a proxy says of its client.
const NAMED: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r\n";

fn listening(setup: Setup, configuration: &str) -> Server {
    setup.server_with(configuration, LISTEN)
}

fn a_room_has_members_of_both_kinds(setup: Setup) {
    let server = listening(setup, "");
    let mut page = Client::connect(&server);
    page.subscribe("p", "/topic/room");
    let mut program = Stream::connect(&server);
    program.subscribe("a", "/topic/room");
    let mut older = Stream::open(&server);
    older.send(&Frame::new("CONNECT").header("accept-version", "1.1").header("host", "test"));
    assert_eq!(older.expect("CONNECTED").get("version"), Some("1.1"));
    older.subscribe("a", "/topic/room");
    // As large as the header of a WebSocket message has forms, and larger than a buffer; with bytes that are no text.
    for length in [0, 1, 125, 126, 4_000, 65_535, 65_536, 200_000] {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        program.send(&send("/topic/room", "").body(&body));
        page.send(&send("/topic/room", "").body(&body));
        for _ in 0..2 {
            assert_eq!(page.expect("MESSAGE").body, body);
            for stream in [&mut program, &mut older] {
                let message = stream.expect("MESSAGE");
                assert_eq!((message.body.len(), message.get("subscription")), (length, Some("a")));
                assert!(message.body == body);
            }
        }
    }
    assert_eq!(server.metric("stomp_streams_opened_total"), 2);
    server.stop();
}

fn frames_come_as_the_network_cuts_them(setup: Setup) {
    let server = listening(setup, "");
    let mut stream = Stream::open(&server);
    let mut all = b"\n\r\n".to_vec();
    all.extend(Frame::new("CONNECT").header("accept-version", "1.2").header("host", "test").encode());
    all.extend(Frame::new("SUBSCRIBE").header("id", "a").header("destination", "/topic/room").encode());
    all.extend(send("/topic/room", "a\0b").encode());
    all.extend(b"\n\n");
    all.extend(send("/topic/room", "second").encode());
    for byte in all.chunks(1) {
        stream.send_bytes(byte);
    }
    stream.expect("CONNECTED");
    for body in ["a\0b", "second"] {
        assert_eq!(stream.expect("MESSAGE").text(), body);
    }
    // All of it at once, and more than is read in a turn.
    let mut other = Stream::open(&server);
    let many = send("/topic/room", "x".repeat(1_000)).encode().repeat(200);
    other.send_bytes(&[all, many].concat());
    other.expect("CONNECTED");
    for body in ["a\0b", "second"] {
        assert_eq!(other.expect("MESSAGE").text(), body);
        assert_eq!(stream.expect("MESSAGE").text(), body);
    }
    for _ in 0..200 {
        assert_eq!(other.expect("MESSAGE").body.len(), 1_000);
        assert_eq!(stream.expect("MESSAGE").body.len(), 1_000);
    }
    server.stop();
}

fn receipts_come_before_the_end(setup: Setup) {
    let server = listening(setup, "");
    let mut leaver = Stream::connect(&server);
    leaver.subscribe("a", "/topic/room");
    leaver.send(&send("/queue/work", "job").header("receipt", "sent"));
    leaver.send(&Frame::new("DISCONNECT").header("receipt", "gone"));
    for receipt in ["sent", "gone"] {
        assert_eq!(leaver.expect("RECEIPT").get("receipt-id"), Some(receipt));
    }
    leaver.expect_end();
    // The end of the client's own stream is an end, too.
    let mut half = Stream::connect(&server);
    half.send(&send("/queue/work", "job").header("receipt", "sent"));
    half.socket().shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.expect("RECEIPT").get("receipt-id"), Some("sent"));
    half.expect_end();
    server.await_metric("connections_open", |open| open <= 1);
    server.stop();
}

fn a_fault_is_told_and_the_stream_ends(setup: Setup) {
    let server = listening(setup, "");
    for (frame, name) in [
        (&b"JUMP\n\n\0"[..], "unknown-command"),
        (b"SEND\n\n\0", "no-destination"),
        (b"SUBSCRIBE\nid:a\ndestination:/topic/\n\n\0", "bad-destination"),
    ] {
        let mut stream = Stream::connect(&server);
        stream.send_bytes(frame);
        let error = stream.expect_error();
        assert!(error.text().contains(name) || error.get("message").is_some(), "{error:?}");
        assert!(error.get("message").is_some_and(|message| !message.is_empty()), "{error:?}");
    }
    server.stop();
}

fn what_is_no_stomp_is_told_so(setup: Setup) {
    let server = listening(setup, "");
    for first in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\n\r\nCONNECT\n\n\0", "\x16\x03\x01"]
    {
        let mut stream = Stream::open(&server);
        stream.send_bytes(first.as_bytes());
        if first.starts_with('\x16') {
            stream.send_bytes(b"\x02\0\x01\0\x01\xfc\n\n\0");
        }
        stream.expect_error();
    }
    // And the other way round.
    let answer = server.exchange("CONNECT\naccept-version:1.2\nhost:a\n\n\0");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    server.stop();
}

fn who_says_nothing_is_not_waited_for(setup: Setup) {
    let server = listening(setup, "[handshake]\ntimeout_ms = 300\nconnect_timeout_ms = 300");
    let error = Stream::open(&server).expect_error();
    assert_eq!(error.get("message"), Some("Nothing came within handshake.timeout_ms."));
    let mut begun = Stream::open(&server);
    begun.send_bytes(b"CONN");
    begun.expect_error();
    server.stop();
}

fn heart_beats_go_both_ways(setup: Setup) {
    let server = listening(setup, "[stomp]\nheart_beat_min_ms = 1000");
    let mut stream = Stream::open(&server);
    stream.start_session(Frame::new("CONNECT").header("heart-beat", "0,1000"));
    stream.expect_beat();
    stream.expect_beat();
    let mut silent = Stream::open(&server);
    silent.start_session(Frame::new("CONNECT").header("heart-beat", "1000,0"));
    silent.expect_error();
    server.stop();
}

fn refusals_are_errors(setup: Setup) {
    let configuration = "[handshake]\nconnections_per_address_max = 2\nretry_after_s = 7\n[http]\ntrusted_proxies = \"127.0.0.1\"";
    let server = setup.server_with(configuration, &[LISTEN, &["--open"]].concat());
    let named = || {
        let mut stream = Stream::open(&server);
        stream.send_bytes(NAMED);
        stream
    };
    let _held = [(); 2].map(|()| {
        let mut stream = named();
        stream.start_session(Frame::new("CONNECT"));
        stream
    });
    let error = named().expect_error();
    let sentence = "Your address has handshake.connections_per_address_max connections.";
    assert_eq!((error.get("message"), error.get("retry-after")), (Some(sentence), Some("7")));
    server.stop();
}

fn who_one_is_is_asked_here_too(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "users", &["listen.stomp=127.0.0.1:0"]);
    let mut right = Stream::open(&server);
    right.start_session(connect("alice", "wonder"));
    for wrong in [connect("alice", "guess"), Frame::new("CONNECT")] {
        let mut stream = Stream::open(&server);
        stream.send(&wrong.header("accept-version", "1.2").header("host", "test"));
        let error = stream.expect_error();
        assert_eq!(error.text().trim_end(), "not-authenticated", "{error:?}");
    }
    server.stop();
}

fn a_proxy_names_its_client(setup: Setup) {
    let believed =
        setup.server_with("[http]\ntrusted_proxies = \"127.0.0.1\"", &[LISTEN, &["--open"]].concat());
    let mut stream = Stream::open(&believed);
    stream.send_bytes(NAMED);
    stream.start_session(Frame::new("CONNECT"));
    let stranger = listening(setup, "");
    let mut stream = Stream::open(&stranger);
    stream.send_bytes(NAMED);
    stream.send(&Frame::new("CONNECT").header("accept-version", "1.2").header("host", "test"));
    stream.expect_error();
    // What is not said to be a reachable server is for this machine alone.
    let closed = setup.server_with("[http]\ntrusted_proxies = \"127.0.0.1\"", LISTEN);
    let mut stream = Stream::open(&closed);
    stream.send_bytes(NAMED);
    stream.send(&Frame::new("CONNECT").header("accept-version", "1.2").header("host", "test"));
    stream.expect_error();
}

fn the_servers_end_is_told(setup: Setup) {
    let server = listening(setup, "");
    let mut stream = Stream::connect(&server);
    stream.subscribe("a", "/topic/room");
    let end = std::thread::spawn(move || stream.expect_error());
    server.stop();
    assert!(end.join().unwrap().get("message").is_some_and(|message| !message.is_empty()));
}

fn a_unix_socket_can_be_one(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stomp.sock");
    let server = setup.server_with("", &["--set", &format!("listen.stomp=unix:{}", path.display())]);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(&Frame::new("CONNECT").header("accept-version", "1.2").header("host", "test").encode())
        .unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"CONNECTED");
    drop(stream);
    server.stop();
    assert!(!path.exists());
}

#[test]
fn one_address_has_one_protocol() {
    let both = ["--listen", "127.0.0.1:47631", "--set", "listen.stomp=127.0.0.1:47631"];
    let output = Server::refused(&both);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("listen.stomp: 127.0.0.1:47631 is in listen.address, too"), "{said}");
    let output = Server::refused(&["--set", "listen.stomp=0.0.0.0:47631"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("listen.stomp = 0.0.0.0:47631: reachable from other machines"), "{said}");
}
