//! Opens the connections of a worker's share, at a rate at most, and with only so many of them half-open as the machine
//! answers in time ([`super::throttle`]). While heart-beats are behind, none is opened.
//!
//! A connect that is held up keeps its intended time: waiting shows in the latency.
//!
//! Invariant: `half_open` counts the clients between connect and ready, and never exceeds the bound.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Interest;
use mio::Token;
use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use super::Worker;
use super::patience::Awaited;
use super::seat::{Conn, Seat, Start};
use super::throttle::Throttle;
use crate::failure::Failure;
use crate::pacer::Pacer;
use crate::peer::Peer;

/// Connects begun in one turn, so that the others' events do not wait for a burst.
const CONNECTS_PER_TURN: u32 = 64;

/// Receive buffer of a client that will not read: the smaller, the sooner the server feels it.
const DEAF_BUFFER_BYTES: usize = 4096;

/// Connect the clients of the share.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOrder {
    /// When the first of all clients connects.
    pub start_us: u64,
    /// Connects per second of all workers together.
    pub rate: f64,
    /// Half-open connections of this worker.
    pub half_open_max: u32,
}

#[derive(Debug)]
pub(super) struct Connecting {
    pacer: Pacer,
    next_client: u32,
    pub(super) throttle: Throttle,
}

impl Connecting {
    pub(super) fn all_started(&self) -> bool {
        self.pacer.next_us().is_none()
    }
}

impl Worker {
    pub(super) fn start_connecting(&mut self, order: &ConnectOrder) {
        let share = self.setup.plan.share(self.index);
        let part = share.len() as f64 / f64::from(self.setup.plan.connections.max(1));
        self.connecting = Some(Connecting {
            pacer: Pacer::new(order.start_us, order.rate * part, share.len() as u64),
            next_client: share.start,
            throttle: Throttle::new(order.half_open_max),
        });
        self.beating.start(self.desk.now_us);
    }

    pub(super) fn connect_next_us(&self) -> Option<u64> {
        if self.beating.is_behind(self.desk.now_us, self.beat_slots()) {
            // The beats that are due end the wait.
            return None;
        }
        let task = self.connecting.as_ref().filter(|task| task.throttle.admits(self.half_open))?;
        task.pacer.next_us()
    }

    pub(super) fn connect_due(&mut self) {
        if self.beating.is_behind(self.desk.now_us, self.beat_slots()) {
            return;
        }
        for _ in 0..CONNECTS_PER_TURN {
            let half_open = self.half_open;
            let Some(task) = self.connecting.as_mut().filter(|task| task.throttle.admits(half_open)) else {
                return;
            };
            let Some(intended_us) = task.pacer.take_due(self.desk.now_us) else { return };
            let client = task.next_client;
            task.next_client += 1;
            let room = self.setup.room(client);
            let member = self.desk.join(room);
            if self.open(client, room, member, intended_us).is_none() {
                self.desk.left(&Seat::new(client, room, member, Start { intended_us, started_us: 0 }));
            }
        }
    }

    /// Begins one connection; `None` when it failed at once, which is counted.
    pub(super) fn open(&mut self, client: u32, room: u32, member: u32, intended_us: u64) -> Option<usize> {
        self.desk.counters.add(|counters| &counters.started, 1);
        let buffer = self.setup.is_deaf(client).then_some(DEAF_BUFFER_BYTES);
        let mut stream = match dial(self.setup.target.address, self.setup.plan.source(client), buffer) {
            Ok(stream) => stream,
            Err(error) => {
                self.fail_before_start(Failure::from_io(&error));
                return None;
            }
        };
        let entry = self.conns.vacant_entry();
        let slot = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(slot), interest) {
            self.fail_before_start(Failure::from_io(&error));
            return None;
        }
        let start = Start { intended_us, started_us: self.desk.now_us };
        entry.insert(Conn { stream, peer: Peer::new(), seat: Seat::new(client, room, member, start) });
        self.half_open += 1;
        self.expect(slot, Awaited::Ready);
        Some(slot)
    }
}

/// Begins a TCP connection without waiting for it.
fn dial(to: SocketAddr, from: Option<IpAddr>, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket =
        Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(from) = from {
        // The port is chosen by connect(), which knows the destination: the same port serves several
        // destinations, and ports in TIME_WAIT can be used again.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
