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
    a_crowd_ends_in_slices
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
