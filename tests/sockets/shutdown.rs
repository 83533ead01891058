//! The end of the process: in order, and in time.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::Client;
use crate::{Setup, members};

on_one_and_three_reactors!(
    sigterm_says_goodbye,
    sigint_says_goodbye,
    nobody_holds_it_up,
    a_crowd_ends_in_slices,
    sigterm_drains,
    sigint_is_not_a_drain,
    who_comes_while_goodbyes_are_spread_is_told_when_to_come_back,
);

/// Time for the listeners to be gone.
const REFUSAL_MAX: Duration = Duration::from_secs(10);

fn sigterm_says_goodbye(setup: Setup) {
    says_goodbye(setup, Signal::TERM);
}

fn sigint_says_goodbye(setup: Setup) {
    says_goodbye(setup, Signal::INT);
}

fn says_goodbye(setup: Setup, signal: Signal) {
    // Longer than the test waits for the end: the clients' answers must be enough.
    let configuration = "[shutdown]\ntimeout_ms = 600_000\n[websocket]\nclose_timeout_ms = 600_000";
    let mut server = setup.server_with(configuration, &[]);
    let mut clients = members(&server, 6, "/topic/end");
    // One that has not said CONNECT yet.
    clients.push(Client::open(&server));
    server.signal(signal);
    // Nobody has answered, so it is still there; but it takes nobody in.
    let deadline = Instant::now() + REFUSAL_MAX;
    loop {
        match TcpStream::connect(server.address()) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            // A connection that was in the kernel's queue when its listener went is reset.
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
    for client in &mut clients {
        assert_eq!(client.expect_close(), (1001, "the server is shutting down".into()));
    }
    assert_eq!(server.wait().code(), Some(0));
    assert!(server.await_output("reset=").contains("reset=0"));
}

fn nobody_holds_it_up(setup: Setup) {
    let configuration = "[shutdown]\ntimeout_ms = 300\n[websocket]\nclose_timeout_ms = 600_000";
    let mut server = setup.server_with(configuration, &[]);
    let clients = members(&server, 3, "/topic/end");
    let half_open = server.dial();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(server.await_output("reset=").contains("reset=3"), "who has not upgraded is owed no answer");
    drop((clients, half_open));
}

/// More than a turn may end, of whom nobody answers, and no time: all are reset, and that is an orderly end.
fn a_crowd_ends_in_slices(setup: Setup) {
    const CROWD: usize = 200;
    let configuration = "[shutdown]\ntimeout_ms = 0\n[turn]\nfarewells_max = 16";
    let mut server = setup.server_with(configuration, &[]);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| Client::open(&server)).collect();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    let said = server.await_output("reset=");
    assert!(said.contains(&format!("closed=0 reset={CROWD}")), "{said}");
    for client in &mut clients {
        // Who was told before the time was up has a close frame; nobody has anything else.
        match client.socket().read() {
            Ok(message) => assert!(message.is_close(), "{message:?}"),
            Err(error) => {
                assert!(!matches!(&error, tungstenite::Error::Io(io) if io.kind() == ErrorKind::WouldBlock))
            }
        }
    }
}

const READY: &str = "GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n";

/// Everything goes on for a grace, only `/readyz` says that the end is near; then everybody is told, over a time.
fn sigterm_drains(setup: Setup) {
    const SPREAD: Duration = Duration::from_millis(1_500);
    let configuration = "[drain]\nready_grace_ms = 1_500\nspread_ms = 1_500\ngoodbye = \"restart\"\n\
        [shutdown]\ntimeout_ms = 600_000\n[handshake]\nretry_after_s = 9";
    let mut server = setup.server_with(configuration, &[]);
    assert!(server.exchange(READY).starts_with("HTTP/1.1 200 "));
    let mut clients = members(&server, 30, "/topic/end");
    server.signal(Signal::TERM);
    let deadline = Instant::now() + REFUSAL_MAX;
    let answer = loop {
        let answer = server.exchange(READY);
        if answer.starts_with("HTTP/1.1 503 ") {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer}");
    };
    assert!(answer.contains("\r\nRetry-After: 9\r\n") && answer.ends_with("shutting down.\n"), "{answer}");
    // Whoever was sent here by a balancer that has not noticed is served.
    clients.extend(members(&server, 1, "/topic/end"));
    clients[0].publish("/topic/end", "still here");
    for client in &mut clients {
        assert_eq!(client.expect_body(), "still here");
    }
    let mut ends = Vec::new();
    for client in &mut clients {
        assert_eq!(client.expect_close(), (1012, "the server is restarting".into()));
        ends.push(Instant::now());
    }
    // Clients are in the order of their places, so most read their goodbye when it comes.
    let spread = *ends.iter().max().unwrap() - ends[0];
    assert!(spread > SPREAD / 10, "{spread:?}");
    drop(clients);
    assert_eq!(server.wait().code(), Some(0));
    assert!(server.await_output("reset=").contains("reset=0"));
}

fn sigint_is_not_a_drain(setup: Setup) {
    let configuration = "[drain]\nready_grace_ms = 600_000\nspread_ms = 600_000\ngoodbye = \"restart\"";
    let server = setup.server_with(configuration, &[]);
    let mut client = members(&server, 1, "/topic/end").remove(0);
    server.signal(Signal::TERM);
    server.await_output("grace_ms=600000");
    // The line comes just before that.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.exchange(READY).starts_with("HTTP/1.1 503 ") {
        assert!(Instant::now() < deadline, "it stays ready");
    }
    drop(server.dial());
    drop(server);
    let mut server = setup.server_with(configuration, &[]);
    assert!(client.socket().read().is_err(), "that server is gone");
    let mut client = members(&server, 1, "/topic/end").remove(0);
    server.signal(Signal::INT);
    assert_eq!(client.expect_close().0, 1001);
    assert_eq!(server.wait().code(), Some(0));
}

fn who_comes_while_goodbyes_are_spread_is_told_when_to_come_back(setup: Setup) {
    let configuration = "[drain]\nspread_ms = 600_000\n[handshake]\nretry_after_s = 9";
    let server = setup.server_with(configuration, &[]);
    // On every reactor, or one of them is through at once.
    let clients = members(&server, 60, "/topic/end");
    server.signal(Signal::TERM);
    server.await_output("stopping");
    let deadline = Instant::now() + REFUSAL_MAX;
    let answer = loop {
        let answer = server.exchange(crate::http::HANDSHAKE);
        if answer.starts_with("HTTP/1.1 503 ") {
            break answer;
        }
        assert!(Instant::now() < deadline, "{answer}");
    };
    assert!(answer.contains("\r\nRetry-After: 9\r\n") && answer.ends_with("shutting down.\n"), "{answer}");
    assert!(server.exchange("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").starts_with("HTTP/1.1 200 "));
    drop(clients);
}
