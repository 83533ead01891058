//! Places of the table and of handshakes, when a few addresses take all that they can get.
//!
//! In a network namespace of the test's own, where a network of documentation is this machine's: loopback addresses have no
//! share. It needs root and `ip` (iproute2); without them it is noted as skipped, and under `CI=true` it fails.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tungstenite::Error;

use crate::support::{self, Client, Frame, Server};

/// The server's host, and with it the network.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Runs in a thread whose network is its own.
fn in_a_network(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let made = netns::enter().map_err(|error| error.to_string()).and_then(|()| {
                // Every address in it is this machine's (ip-route(8), type local).
                let route = ["route", "add", "local", "198.51.100.0/24", "dev", "lo"];
                let run = Command::new("ip").args(route).stdin(Stdio::null()).output();
                let output = run.map_err(|error| format!("ip: {error}"))?;
                if output.status.success() {
                    Ok(())
                } else {
                    Err(String::from_utf8_lossy(&output.stderr).into_owned())
                }
            });
            match made {
                Ok(()) => work(),
                Err(reason) => support::skipped::note(reason),
            }
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn start(settings: &[&str]) -> Server {
    let mut arguments = vec!["--open", "--reactors", "1", "--set", "ops.metrics=all"];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    Server::start_at((SERVER, 0).into(), &arguments)
}

/// A connection from a host of the network.
fn dial_from(server: &Server, host: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let [a, b, c, _] = SERVER.octets();
    socket.bind(&SocketAddr::from(([a, b, c, host], 0)).into()).unwrap();
    // What is refused may be reset before it is known to be connected.
    drop(socket.connect(&server.address().into()));
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A session of a host, or the sentence by which it is refused.
fn session_from(server: &Server, host: u8) -> Result<Client, String> {
    match Client::try_open_on(dial_from(server, host), server, "/ws", &["v12.stomp"]) {
        Ok((mut client, _)) => {
            client.start_session(Frame::new("CONNECT"));
            Ok(client)
        }
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
            Err(String::from_utf8(response.into_body().unwrap_or_default()).unwrap())
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn idle_sessions_of_one_address_leave_places_for_strangers() {
    in_a_network(|| {
        let server = start(&["tcb.capacity=64"]);
        let mut sessions = Vec::new();
        let refusal = loop {
            match session_from(&server, 2) {
                Ok(session) => sessions.push(session),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refusal, "Your address has its share of the server's connections.\n");
        // 87 % of them.
        assert_eq!(sessions.len(), 55);
        let strangers: Vec<Client> =
            (3..12).map(|host| session_from(&server, host).expect("there is a place")).collect();
        assert_eq!(
            session_from(&server, 12).err().unwrap(),
            "The server is at its capacity of connections.\n"
        );
        server.await_metric("refused_above_share_total", |count| count == 1);
        // Who asks for the numbers finds no place either.
        server.await_metric("refused_table_full_total", |count| count >= 1);
        // Who is there stays.
        strangers.into_iter().for_each(Client::disconnect);
        sessions.into_iter().for_each(Client::disconnect);
    });
}

#[test]
fn silent_handshakes_of_three_addresses_leave_places_for_strangers() {
    in_a_network(|| {
        let server = start(&[
            "handshake.pending_max=64",
            "handshake.pending_per_address_max=40",
            "handshake.timeout_ms=60000",
        ]);
        let silent: Vec<TcpStream> =
            (2..5).flat_map(|host| (0..64).map(move |_| host)).map(|host| dial_from(&server, host)).collect();
        for host in 5..25 {
            session_from(&server, host).expect("there is a place").disconnect();
        }
        server.await_metric("refused_pending_per_address_total", |count| count > 64);
        assert_eq!(server.metric("refused_pending_total"), 0);
        drop(silent);
    });
}
