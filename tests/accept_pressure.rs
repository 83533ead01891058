//! Running out of descriptors for real: the acceptor pauses, keeps the connections that wait, and goes on.
//!
//! One test in a process of its own, because it lowers the process's descriptor limit.

use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::{Events, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tcbchat::net::acceptor::{Accepted, Acceptor, BACK_OFF_MS, ListenOptions};
use tcbchat::net::address::{Address, Endpoint};
use tcbchat::net::reservation::Reservation;
use tcbchat::time::Tick;
use tcbchat::wire::framing::Framing;

const CLIENTS: usize = 3;

#[test]
fn no_connection_is_lost_and_no_turn_is_wasted_without_descriptors() {
    let wanted = Endpoint { address: "127.0.0.1:0".parse().unwrap(), framing: Framing::WebSocket };
    let reservation = Reservation::make(&wanted, 128).unwrap();
    let Address::Tcp(address) = reservation.endpoint().address else {
        unreachable!("no Unix socket was asked for")
    };
    let options = ListenOptions { backlog: 16, ..ListenOptions::default() };
    let mut acceptor = Acceptor::listen(&[reservation.place()], &options).unwrap();
    let mut poll = Poll::new().unwrap();
    acceptor.register(poll.registry(), Token).unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut events = Events::with_capacity(4);
    poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
    assert!(!events.is_empty());
    acceptor.readable(0);

    let before = getrlimit(Resource::Nofile);
    let next = File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::Nofile, Rlimit { current: Some(u64::try_from(next).unwrap()), ..before }).unwrap();

    // A second of turns, every 100 ms: one attempt in each, and none in between.
    let mut failures = 0;
    for tick in (0..10).map(Tick) {
        assert!(acceptor.has_work(tick), "the edge came once, and is not forgotten");
        assert!(matches!(acceptor.accept(tick), Accepted::Failed));
        failures += 1;
        assert!(!acceptor.has_work(tick), "the loop must sleep");
        assert!(matches!(acceptor.accept(tick), Accepted::Nothing));
        assert_eq!(acceptor.retry_at(), Some(tick.after_ms(BACK_OFF_MS)));
    }
    assert_eq!(failures, 10);

    setrlimit(Resource::Nofile, before).unwrap();
    let mut accepted = Vec::new();
    while let Accepted::Connection(stream, tuple, _) = acceptor.accept(Tick(10)) {
        accepted.push((stream, tuple.remote()));
    }
    let remotes: Vec<_> = accepted.iter().map(|(_, remote)| *remote).collect();
    let expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
    assert_eq!(remotes, expected, "all of them, in the order in which they came");
    assert_eq!(acceptor.retry_at(), None);
}
