//! TIME_WAIT: whoever ends its stream first has it, in the model and in the kernel.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::{Client, Frame, Server};

const CLIENTS: u64 = 20;

/// Time that the last packets of connections may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A ws_frame that closes with 1000, as a client sends it: masked, here with a key of zeros.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];

/// The kernel's connections whose own end has the server's port, by both their addresses, with their states;
/// listeners are left out.
fn kernel_connections(server: &Server) -> Vec<(String, String)> {
    const LISTEN: &str = "0A";
    let port = format!(":{:04X}", server.address().port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel lists its connections");
    let connection = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, peer, state) = (words.next()?, words.next()?, words.next()?);
        (local.ends_with(&port) && state != LISTEN).then(|| (format!("{local} {peer}"), state.to_owned()))
    };
    table.lines().skip(1).filter_map(connection).collect()
}

/// A connection whose name no other connection of this process has, so that none takes another's out of TIME_WAIT.
fn dial(server: &Server) -> TcpStream {
    static DIALLED: AtomicU32 = AtomicU32::new(1);
    let [_, a, b, c] = DIALLED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    server.dial_from(Ipv4Addr::new(127, 16 + a, b, c))
}

/// Compares both counts. Each look at the model is a page, which the server ends first, so it is itself in
/// both counts from then on; looks are counted and left out.
struct Watch<'a> {
    server: &'a Server,
    looks: u64,
    /// Connections of whoever had the server's port before it: TIME_WAIT outlives its process.
    inherited: HashSet<String>,
}

impl<'a> Watch<'a> {
    /// Must come before the first connection to the server.
    fn over(server: &'a Server) -> Self {
        let inherited = kernel_connections(server).into_iter().map(|(addresses, _)| addresses).collect();
        Self { server, looks: 0, inherited }
    }

    /// The kernel's connections on the server's side: those in TIME_WAIT, and all others.
    fn kernel_counts(&self) -> (u64, u64) {
        const TIME_WAIT: &str = "06";
        let (mut time_wait, mut others) = (0, 0);
        for (addresses, state) in kernel_connections(self.server) {
            match state.as_str() {
                _ if self.inherited.contains(&addresses) => {}
                TIME_WAIT => time_wait += 1,
                _ => others += 1,
            }
        }
        (time_wait, others)
    }

    /// Connections in TIME_WAIT, once all have ended and both counts agree.
    fn settled(&mut self) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let model = self.server.metric_on(dial(self.server), "tcb_entries{state=\"time_wait\"}");
            let model = model.saturating_sub(self.looks);
            self.looks += 1;
            let (time_wait, others) = self.kernel_counts();
            let kernel = time_wait.saturating_sub(self.looks);
            if others == 0 && model == kernel {
                return model;
            }
            assert!(Instant::now() < deadline, "model {model}, kernel {kernel} and {others} not yet ended");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it adds to both counts when each client leaves in this way.
    fn added_by(&mut self, leave: impl Fn(Client)) -> u64 {
        let before = self.settled();
        for _ in 0..CLIENTS {
            let (mut client, _) =
                Client::try_open_on(dial(self.server), self.server, "/ws", &["v12.stomp"]).unwrap();
            client.start_session(Frame::new("CONNECT"));
            leave(client);
        }
        self.settled() - before
    }
}

fn counts_agree(reactors: &str) {
    let server = Server::start(&["--reactors", reactors]);
    let mut watch = Watch::over(&server);

    // The server closes first: after DISCONNECT, and after both close frames (RFC 6455 section 7.1.1).
    assert_eq!(watch.added_by(Client::disconnect), CLIENTS);
    let closes = |mut client: Client| {
        client.socket().close(None).unwrap();
        client.expect_close();
    };
    assert_eq!(watch.added_by(closes), CLIENTS);
    // And after an ERROR.
    let errs = |mut client: Client| {
        client.send(&Frame::new("SUBSCRIBE").header("id", "1"));
        client.expect_error();
    };
    assert_eq!(watch.added_by(errs), CLIENTS);

    // The client closes first: without a word, in the same breath as its close frame, and half.
    assert_eq!(watch.added_by(drop), 0);
    let hurries = |client: Client| {
        let mut stream = client.into_stream();
        // Held back until the end, so that both are in one segment: else the server may be quicker.
        SockRef::from(&stream).set_tcp_cork(true).unwrap();
        stream.write_all(&CLOSE).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    };
    assert_eq!(watch.added_by(hurries), 0);
    // The same in two segments, between which either may be quicker: the counts agree all the same.
    let races = |client: Client| {
        let mut stream = client.into_stream();
        stream.write_all(&CLOSE).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    };
    assert!(watch.added_by(races) <= CLIENTS);
    let ends_its_half = |mut client: Client| {
        client.socket().get_ref().shutdown(Shutdown::Write).unwrap();
        assert!(client.socket().read().is_err(), "the server ends its half too");
    };
    assert_eq!(watch.added_by(ends_its_half), 0);

    // Nobody does: a reset leaves nothing.
    let resets = |client: Client| {
        let stream = client.into_stream();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    assert_eq!(watch.added_by(resets), 0);
}

#[test]
fn the_model_and_the_kernel_agree_on_who_has_the_time_wait() {
    counts_agree("1");
}

#[test]
fn and_with_several_reactors() {
    counts_agree("3");
}

#[test]
fn time_wait_counts_against_the_capacity_if_it_is_told_to() {
    let counting = |counts: &str| {
        let server = Server::start(&[
            "--reactors",
            "1",
            "--capacity",
            "10",
            "--set",
            &format!("tcb.time_wait_counts={counts}"),
        ]);
        for _ in 0..6 {
            Client::connect(&server).disconnect();
        }
        let mut held = Vec::new();
        while held.len() < 10
            && let Ok((client, _)) = Client::try_open(&server, "/ws", &[])
        {
            held.push(client);
        }
        held.len()
    };
    assert_eq!(counting("true"), 4);
    assert_eq!(counting("false"), 10);
}
