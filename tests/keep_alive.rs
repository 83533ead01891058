//! Peers that vanish without a word, for real: two network namespaces with a cable between them that is cut.
//!
//! A server that looks for nothing holds such a peer for ever; each mechanism finds it, and counts it as its
//! own find. All servers run at once and one cut serves them all, so that the test takes as long as the slowest
//! mechanism.
//!
//! It needs root and `ip` (iproute2); without them it is noted as skipped, and under `CI=true` it fails.

mod support;

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio, id};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use tungstenite::{Message, WebSocket};

use support::{Client, Server};

/// Longest wait for one packet while the cable is whole.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first port; each server has its own in the namespace.
const PORT: u16 = 7000;

/// A network namespace of this test, removed with everything in it when this is dropped.
struct Namespace {
    name: String,
}

impl Namespace {
    fn make(side: &str) -> Result<Namespace, String> {
        let name = format!("tcbchat-{side}-{}", id());
        ip(&["netns", "add", &name])?;
        Ok(Namespace { name })
    }

    /// Runs in a thread that is in the namespace, with the sockets and processes that it makes.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).expect("it was made");
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("as root");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn ip(&self, arguments: &[&str]) {
        let all = [&["-n", &self.name], arguments].concat();
        ip(&all).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            eprintln!("{error}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let run = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = run.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Two namespaces, for servers (10.99.0.1) and clients (10.99.0.2), and the cable.
fn lay_cable() -> Result<(Namespace, Namespace), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    let (servers, clients) = (Namespace::make("s")?, Namespace::make("c")?);
    ip(&[
        "-n",
        &servers.name,
        "link",
        "add",
        "cable",
        "type",
        "veth",
        "peer",
        "cable",
        "netns",
        &clients.name,
    ])?;
    for (side, address) in [(&servers, "10.99.0.1/24"), (&clients, "10.99.0.2/24")] {
        side.ip(&["address", "add", address, "dev", "cable"]);
        side.ip(&["link", "set", "cable", "up"]);
        side.ip(&["link", "set", "lo", "up"]);
    }
    Ok((servers, clients))
}

type Session = WebSocket<TcpStream>;

/// A STOMP session over the cable that subscribes to a topic.
fn session(port: u16, heart_beat: &str) -> Session {
    let address = SocketAddr::from(([10, 99, 0, 1], port));
    let stream = TcpStream::connect(address).expect("the cable is whole");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut session, _) = tungstenite::client(format!("ws://{address}/ws"), stream).unwrap();
    let connect = format!("CONNECT\naccept-version:1.2\nhost:x\nheart-beat:{heart_beat}\n\n\0");
    session.send(Message::text(connect)).unwrap();
    assert!(session.read().unwrap().to_text().unwrap().starts_with("CONNECTED\n"));
    let subscribe = "SUBSCRIBE\nid:1\ndestination:/topic/x\nreceipt:1\n\n\0";
    session.send(Message::text(subscribe)).unwrap();
    assert!(session.read().unwrap().to_text().unwrap().starts_with("RECEIPT\n"));
    session
}

/// One way of finding a vanished peer.
struct Case {
    /// The mechanism that must find it; `None`: nothing does.
    found_by: Option<&'static str>,
    settings: &'static [&'static str],
    /// What the client says in CONNECT.
    heart_beat: &'static str,
    /// Something is sent to the peer after the cut.
    is_sent_to: bool,
}

const OFF: Case = Case { found_by: None, settings: &[], heart_beat: "0,0", is_sent_to: false };

const CASES: &[Case] = &[
    OFF,
    Case {
        found_by: Some("tcp_keep_alive"),
        settings: &["keepalive.tcp_idle_s=1", "keepalive.tcp_interval_s=1", "keepalive.tcp_probes=2"],
        ..OFF
    },
    Case {
        found_by: Some("tcp_user_timeout"),
        settings: &["keepalive.user_timeout_ms=1500"],
        is_sent_to: true,
        ..OFF
    },
    Case { found_by: Some("tcp_retransmission"), is_sent_to: true, ..OFF },
    Case {
        found_by: Some("ws_ping"),
        settings: &["keepalive.ws_ping_interval_s=1", "keepalive.ws_pong_timeout_s=1"],
        ..OFF
    },
    Case { found_by: Some("stomp_heart_beat"), heart_beat: "1000,0", ..OFF },
];

const MECHANISMS: [&str; 5] =
    ["tcp_keep_alive", "tcp_user_timeout", "tcp_retransmission", "ws_ping", "stomp_heart_beat"];

fn start(case: &Case, port: u16) -> Server {
    let listen = format!("10.99.0.1:{port}");
    let mut arguments = vec!["--open", "--reactors", "1", "--capacity", "100", "--listen", &listen];
    // Off unless the case says otherwise: the last one wins.
    arguments.extend(["--set", "keepalive.tcp_idle_s=0"]);
    case.settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    Server::start(&arguments)
}

#[test]
fn vanished_peers_are_found_by_the_mechanism_that_is_on_and_by_no_other() {
    let (servers, clients) = match lay_cable() {
        Ok(cable) => cable,
        Err(reason) => return support::skipped::note(reason),
    };
    // In this namespace alone: the kernel's own patience is a quarter of an hour by default.
    servers.inside(|| std::fs::write("/proc/sys/net/ipv4/tcp_retries2", "3")).expect("as root");

    let ports: Vec<u16> = (PORT..).take(CASES.len()).collect();
    let running: Vec<Server> =
        servers.inside(|| CASES.iter().zip(&ports).map(|(case, port)| start(case, *port)).collect());
    let mut sessions: Vec<Session> = clients
        .inside(|| CASES.iter().zip(&ports).map(|(case, port)| session(*port, case.heart_beat)).collect());
    // A peer that answers pings lives.
    let pinged = CASES.iter().position(|case| case.found_by == Some("ws_ping")).expect("a case");
    for _ in 0..2 {
        assert!(matches!(sessions[pinged].read().unwrap(), Message::Ping(_)));
        sessions[pinged].flush().unwrap();
        sessions.iter_mut().zip(CASES).filter(|(_, case)| case.heart_beat != "0,0").for_each(
            |(session, _)| {
                session.send(Message::text("\n")).unwrap();
            },
        );
    }
    for server in &running {
        assert_eq!(servers.inside(|| server.metric("dead_peers_total")), 0);
    }

    clients.ip(&["link", "set", "cable", "down"]);
    for (server, _) in running.iter().zip(CASES).filter(|(_, case)| case.is_sent_to) {
        servers.inside(|| Client::connect(server).publish_confirmed("/topic/x", "are you there?"));
    }
    for (server, case) in running.iter().zip(CASES) {
        let Some(found_by) = case.found_by else { continue };
        servers.inside(|| {
            server.await_metric(&format!("dead_peers_total{{mechanism=\"{found_by}\"}}"), |found| found == 1);
            // The page itself is the one connection that is left.
            server.await_metric("connections_open", |open| open == 1);
            for other in MECHANISMS {
                let found = server.metric(&format!("dead_peers_total{{mechanism=\"{other}\"}}"));
                assert_eq!(found, u64::from(other == found_by), "{other} where {found_by} is on");
            }
        });
    }
    for (server, _) in running.iter().zip(CASES).filter(|(_, case)| case.found_by.is_none()) {
        servers.inside(|| {
            assert_eq!(server.metric("dead_peers_total"), 0);
            assert_eq!(server.metric("connections_open"), 2, "nothing found it, so it is held");
        });
    }
}
