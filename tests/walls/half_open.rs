//! Handshakes that do not end: a slow flood from some addresses, and honest clients from another.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{Client, Server};

/// Addresses that flood.
const SOURCES: u8 = 4;
/// Connections from each.
const FROM_EACH: usize = 100;
/// What the server permits each.
const PERMITTED: usize = 25;
/// Clients that come while the flood is there.
const HONEST: usize = 20;

/// The begin of a request head that never ends.
const SLOW: &[u8] = b"GET /ws HTTP/1.1\r\nHost: x\r\n";

/// A connection from 127.0.0.`host` that has sent the begin of a head.
fn slow(server: &Server, host: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into()).unwrap();
    let connected = socket.connect(&server.address().into());
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    match connected.and_then(|()| stream.write_all(SLOW)) {
        Ok(()) => {}
        // It was refused before it could speak, or before it knew that it was connected.
        Err(error) => assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)),
    }
    stream
}

/// All of the flood, source by source, and which of its connections the server has kept.
fn flood(server: &Server) -> Vec<TcpStream> {
    (2..2 + SOURCES)
        .flat_map(|host| (0..FROM_EACH).map(move |_| host))
        .map(|host| slow(server, host))
        .collect()
}

fn start(more: &[&str]) -> Server {
    let always = ["--set", "handshake.timeout_ms=60000"];
    Server::start(&[&always, more].concat())
}

fn per_address(reactors: &str) {
    let bound = format!("handshake.pending_per_address_max={PERMITTED}");
    let server = start(&["--reactors", reactors, "--set", &bound]);
    let began = Instant::now();
    let flooding = flood(&server);
    let refused = u64::from(SOURCES) * (FROM_EACH - PERMITTED) as u64;
    server.await_metric("refused_pending_per_address_total", |total| total == refused);
    // The page that says so is itself in the handshake.
    let held = u64::from(SOURCES) * PERMITTED as u64;
    server.await_metric("connections_half_open", |open| (held..=held + 1).contains(&open));

    // Honest clients are served while the flood is held.
    let honest: Vec<Client> = (0..HONEST).map(|_| Client::connect(&server)).collect();
    assert!(server.metric("connections_half_open") >= held, "the flood is still there");
    honest.into_iter().for_each(Client::disconnect);

    // At most a line a second, and the lines account for no more than was refused.
    let output = server.output();
    let lines: Vec<&str> = output.lines().filter(|line| line.contains("event 4226")).collect();
    let seconds = began.elapsed().as_secs() as usize;
    assert!((1..=seconds + 1).contains(&lines.len()), "{lines:?}");
    let bound = format!(
        "{PERMITTED} pending from 127.0.0.2 (handshake.pending_per_address_max = {PERMITTED}); 1 refused"
    );
    assert!(lines[0].contains(&bound), "{lines:?}");

    // When the flood ends nothing of it is left: its addresses are as good as any.
    drop(flooding);
    server.await_metric("connections_half_open", |open| open <= 1);
    let mut again: Vec<TcpStream> = (0..PERMITTED).map(|_| slow(&server, 2)).collect();
    for stream in &mut again {
        stream.write_all(b"\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    }
    assert_eq!(server.metric("refused_pending_per_address_total"), refused);
}

#[test]
fn a_slow_flood_from_some_addresses_leaves_honest_clients_served() {
    per_address("1");
}

#[test]
fn addresses_are_counted_over_all_reactors() {
    per_address("3");
}

#[test]
fn without_a_bound_for_each_address_the_flood_takes_all_places() {
    let server = start(&["--reactors", "1", "--set", "handshake.pending_max=100"]);
    let flooding = flood(&server);
    // Not even the page with the numbers is served; the log tells, and a client sees its connection reset.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !server.output().contains("100 pending on reactor 0 (handshake.pending_max = 100)") {
        assert!(Instant::now() < deadline, "no line: {}", server.output());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Client::try_open(&server, "/ws", &[]).is_err());
    drop(flooding);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Client::try_open(&server, "/ws", &[]).is_err() {
        assert!(Instant::now() < deadline, "the flood is over and its places are not free");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.await_metric("refused_pending_total", |total| total >= 300);
}
