//! Listeners, and taking connections from them.
//!
//! The acceptor listens at the [places](Place) that the server has reserved, takes one connection at a time in rotation,
//! and decides what a failed `accept` means. It does not register or keep connections, and it does not
//! bound a turn: the reactor asks for one connection after the other until its budget is spent.
//!
//! # Edges
//! Listeners are registered edge-triggered: the kernel announces that the queue became non-empty, once.
//! Each listener's `readable` bit keeps the announcement until `accept` itself says that the queue is
//! empty. Stopping earlier, for the turn's budget or after an error, leaves the bit set, so that no
//! connection waits in the queue for an edge that already came.
//!
//! Invariant: a listener whose queue may hold a connection has its `readable` bit set, or its edge is still
//! to be reported by the kernel.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::limits;
use crate::net::address::Address;
use crate::net::reservation::{ListenError, Place, ReservedPlace, UnixPlace};
use crate::tcb::FourTuple;
use crate::time::Tick;
use crate::wire::framing::Framing;

/// Milliseconds without `accept` after the process or the machine ran out of something.
///
/// Long enough that retrying costs nothing, short enough that clients in the backlog do not notice.
pub const BACK_OFF_MS: u64 = 100;

/// Milliseconds between two log lines about failing `accept`s.
const LOG_INTERVAL_MS: u64 = 1_000;

/// What listeners are made with.
#[derive(Debug, Clone, Default)]
pub struct ListenOptions {
    /// Connections that the kernel queues for one listener.
    pub backlog: u32,
    /// What the kernel does to find peers that vanish.
    pub keepalive: limits::KeepAlive,
    /// `outbound.kernel_unsent_bytes_max`; 0 leaves it to the kernel.
    pub unsent_bytes_max: u32,
}

/// Makes a listener on an address that a [`Reservation`](crate::net::reservation::Reservation) holds.
///
/// Options are set on the listener because Linux lets accepted sockets inherit them: some system calls for all
/// connections in place of as many each. They are `TCP_NODELAY`, keep-alive, the user timeout and `TCP_NOTSENT_LOWAT`.
/// A reactor writes once per turn all there is to send, so Nagle's algorithm could only delay the end of it.
///
/// # Errors
/// What `socket`, `setsockopt`, `bind` or `listen` say.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<std::net::TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let keepalive = &options.keepalive;
    if keepalive.tcp_idle_s > 0 {
        let probing = TcpKeepalive::new()
            .with_time(seconds(keepalive.tcp_idle_s))
            .with_interval(seconds(keepalive.tcp_interval_s))
            .with_retries(keepalive.tcp_probes);
        socket.set_tcp_keepalive(&probing)?;
    }
    if keepalive.user_timeout_ms > 0 {
        let timeout = Duration::from_millis(u64::from(keepalive.user_timeout_ms));
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    if options.unsent_bytes_max > 0 {
        socket.set_tcp_notsent_lowat(options.unsent_bytes_max)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// What one call of [`Acceptor::accept`] gave.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, non-blocking, with its addresses and what is spoken on it.
    Connection(TcpStream, FourTuple, Framing),
    /// One connection was lost on the way, or accepting must pause. Counted by the caller; asking again is
    /// fine.
    Failed,
    /// Nothing to accept until the next edge, or until [`Acceptor::retry_at`].
    Nothing,
}

/// One reactor's listeners.
#[derive(Debug)]
pub struct Acceptor {
    listeners: Vec<Listener>,
    /// The listener to ask first, so that a busy one cannot starve the others.
    next: usize,
    back_off: BackOff,
}

#[derive(Debug)]
struct Listener {
    socket: ListenSocket,
    framing: Framing,
    /// An edge came, and `accept` has not yet said that the queue is empty.
    readable: bool,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp {
        socket: TcpListener,
        /// The address every connection of this listener has on our side; None when it listens on a wildcard
        /// address and each connection has to be asked.
        local: Option<SocketAddr>,
    },
    /// Shared with the other reactors.
    Unix(Arc<UnixPlace>),
}

impl Acceptor {
    /// Listens on every address; to be called in the thread that will accept (see
    /// [`fd_table`](crate::net::fd_table)).
    ///
    /// # Errors
    /// What [`listen`] says, with the address.
    pub fn listen(places: &[ReservedPlace], options: &ListenOptions) -> Result<Acceptor, ListenError> {
        let listeners = places.iter().map(|(place, framing)| {
            let socket = match place {
                Place::Tcp(address) => {
                    let socket = listen(*address, options)
                        .map_err(|source| ListenError { address: Address::Tcp(*address), source })?;
                    let local = (!address.ip().is_unspecified()).then_some(*address);
                    ListenSocket::Tcp { socket: TcpListener::from_std(socket), local }
                }
                Place::Unix(unix) => ListenSocket::Unix(Arc::clone(unix)),
            };
            Ok(Listener { socket, framing: *framing, readable: false })
        });
        Ok(Acceptor {
            listeners: listeners.collect::<Result<_, _>>()?,
            next: 0,
            back_off: BackOff::default(),
        })
    }

    /// Registers listener `i` with `token(i)`.
    ///
    /// # Errors
    /// What `epoll_ctl` says.
    pub fn register(&mut self, registry: &Registry, token: impl Fn(usize) -> Token) -> io::Result<()> {
        for (i, listener) in self.listeners.iter_mut().enumerate() {
            match &mut listener.socket {
                ListenSocket::Tcp { socket, .. } => {
                    registry.register(socket, token(i), Interest::READABLE)?
                }
                ListenSocket::Unix(unix) => {
                    let fd = unix.descriptor();
                    registry.register(&mut SourceFd(&fd), token(i), Interest::READABLE)?;
                }
            }
        }
        Ok(())
    }

    /// Number of listeners.
    #[allow(clippy::len_without_is_empty, reason = "an acceptor without listeners has no use")]
    pub fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Notes the edge of listener `i`.
    pub fn readable(&mut self, i: usize) {
        if let Some(listener) = self.listeners.get_mut(i) {
            listener.readable = true;
        }
    }

    /// Whether [`accept`](Self::accept) is worth calling now.
    pub fn has_work(&self, now: Tick) -> bool {
        !self.back_off.holds(now) && self.is_any_readable()
    }

    /// When accepting goes on after a back-off, if there is something to accept then.
    pub fn retry_at(&self) -> Option<Tick> {
        self.back_off.until.filter(|_| self.is_any_readable())
    }

    fn is_any_readable(&self) -> bool {
        self.listeners.iter().any(|listener| listener.readable)
    }

    /// Takes at most one connection.
    pub fn accept(&mut self, now: Tick) -> Accepted {
        if self.back_off.holds(now) {
            return Accepted::Nothing;
        }
        let count = self.listeners.len();
        for i in (self.next..count).chain(0..self.next) {
            let listener = &mut self.listeners[i];
            if !listener.readable {
                continue;
            }
            self.next = (i + 1) % count;
            let error = match listener.accept() {
                Ok((stream, tuple)) => return Accepted::Connection(stream, tuple, listener.framing),
                Err(error) => error,
            };
            match Verdict::of(&error) {
                Verdict::Drained => listener.readable = false,
                Verdict::Lost => return Accepted::Failed,
                Verdict::Exhausted => {
                    self.back_off.begin(now, &error);
                    return Accepted::Failed;
                }
            }
        }
        Accepted::Nothing
    }
}

impl Listener {
    fn accept(&self) -> io::Result<(TcpStream, FourTuple)> {
        match &self.socket {
            ListenSocket::Tcp { socket, local } => {
                let (stream, remote) = socket.accept()?;
                let stream = TcpStream::from(stream);
                let local = match local {
                    Some(address) => *address,
                    None => stream.local_addr()?,
                };
                Ok((stream, FourTuple::new(local, remote)))
            }
            ListenSocket::Unix(unix) => unix.accept(),
        }
    }
}

/// What a failed `accept` means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The queue is empty: wait for the next edge.
    Drained,
    /// That connection is gone, the next may be fine.
    Lost,
    /// Out of something that every further `accept` needs too: pause, and keep the edge.
    Exhausted,
}

impl Verdict {
    fn of(error: &io::Error) -> Verdict {
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN) => Verdict::Drained,
            // accept(2): Linux reports network errors of the new connection as errors of accept itself.
            Some(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                // A Unix socket that refuses connections.
                | Errno::INVAL
                // From asking an accepted connection for its local address after it was reset.
                | Errno::NOTCONN,
            ) => Verdict::Lost,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever else comes must not become a busy loop either.
            _ => Verdict::Exhausted,
        }
    }
}

/// A pause in accepting, and how often it is talked about.
#[derive(Debug, Default)]
struct BackOff {
    until: Option<Tick>,
    /// No log line before.
    silent_until: Tick,
    /// Failures since the last log line.
    unlogged: u64,
}

impl BackOff {
    fn holds(&self, now: Tick) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn begin(&mut self, now: Tick, error: &io::Error) {
        self.until = Some(now.after_ms(BACK_OFF_MS));
        self.unlogged += 1;
        if now >= self.silent_until {
            tracing::warn!(%error, failures = self.unlogged, pause_ms = BACK_OFF_MS, "accept failed; pausing");
            self.silent_until = now.after_ms(LOG_INTERVAL_MS);
            self.unlogged = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use mio::{Events, Poll};
    use socket2::SockRef;

    use super::*;
    use crate::net::address::Endpoint;
    use crate::net::reservation::Reservation;

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn http(address: Address) -> Endpoint {
        Endpoint { address, framing: Framing::WebSocket }
    }

    fn reserve(address: SocketAddr) -> Reservation {
        Reservation::make(&http(Address::Tcp(address)), 128).unwrap()
    }

    fn tcp(reservation: &Reservation) -> SocketAddr {
        let Address::Tcp(address) = reservation.endpoint().address else {
            unreachable!("no Unix socket was asked for")
        };
        address
    }

    fn options() -> ListenOptions {
        ListenOptions { backlog: 128, unsent_bytes_max: 65_536, ..ListenOptions::default() }
    }

    /// An acceptor with its own reservation, on as many ports as asked for.
    fn acceptor(ports: usize) -> (Poll, Acceptor, Vec<SocketAddr>) {
        let reserved: Vec<_> = (0..ports).map(|_| reserve(loopback())).collect();
        let addresses: Vec<SocketAddr> = reserved.iter().map(tcp).collect();
        let places: Vec<ReservedPlace> = reserved.iter().map(Reservation::place).collect();
        let poll = Poll::new().unwrap();
        let mut acceptor = Acceptor::listen(&places, &options()).unwrap();
        acceptor.register(poll.registry(), Token).unwrap();
        (poll, acceptor, addresses)
    }

    fn collect_edges(poll: &mut Poll, acceptor: &mut Acceptor) {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        for event in &events {
            acceptor.readable(event.token().0);
        }
    }

    #[test]
    fn accepted_connections_inherit_nodelay_and_do_not_block() {
        let (mut poll, mut acceptor, addresses) = acceptor(1);
        let client = TcpStream::connect(addresses[0]).unwrap();
        collect_edges(&mut poll, &mut acceptor);
        let Accepted::Connection(stream, tuple, _) = acceptor.accept(Tick(0)) else {
            panic!("no connection")
        };
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), 65_536);
        assert_eq!(stream.peek(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(tuple.local(), addresses[0]);
        assert_eq!(tuple.remote(), client.local_addr().unwrap());
        assert!(acceptor.has_work(Tick(0)), "the queue was not yet seen empty");
        assert!(matches!(acceptor.accept(Tick(0)), Accepted::Nothing));
        assert!(!acceptor.has_work(Tick(0)));
    }

    #[test]
    fn accepted_connections_inherit_what_finds_dead_peers() {
        let accept = |keepalive: limits::KeepAlive| {
            let listener =
                listen(loopback(), &ListenOptions { keepalive, ..options() }).expect("a free port");
            listener.set_nonblocking(false).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, client)
        };
        let limits = limits::KeepAlive { user_timeout_ms: 9_000, ..limits::KeepAlive::default() };
        let (accepted, _client) = accept(limits);
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(120));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(9)));

        let (accepted, _client) = accept(limits::KeepAlive { tcp_idle_s: 0, ..Default::default() });
        assert!(!SockRef::from(&accepted).keepalive().unwrap());
        assert_eq!(SockRef::from(&accepted).tcp_user_timeout().unwrap(), None);
    }

    #[test]
    fn connections_of_a_wildcard_listener_know_their_local_address() {
        let reserved = reserve("0.0.0.0:0".parse().unwrap());
        let wildcard = tcp(&reserved);
        let poll = &mut Poll::new().unwrap();
        let mut acceptor = Acceptor::listen(&[reserved.place()], &options()).unwrap();
        acceptor.register(poll.registry(), Token).unwrap();
        let address = SocketAddr::new("127.0.0.3".parse().unwrap(), wildcard.port());
        let _client = TcpStream::connect(address).unwrap();
        collect_edges(poll, &mut acceptor);
        let Accepted::Connection(_, tuple, _) = acceptor.accept(Tick(0)) else { panic!("no connection") };
        assert_eq!(tuple.local(), address);
    }

    #[test]
    fn a_unix_socket_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tcbchat.sock");
        let reserved = Reservation::make(&http(Address::Unix(path.clone())), 16).unwrap();
        // Two acceptors: both hear of a connection, and one gets it.
        let mut pair: Vec<(Poll, Acceptor)> = (0..2)
            .map(|_| {
                let poll = Poll::new().unwrap();
                let mut acceptor = Acceptor::listen(&[reserved.place()], &options()).unwrap();
                acceptor.register(poll.registry(), Token).unwrap();
                (poll, acceptor)
            })
            .collect();
        let _client = UnixStream::connect(&path).unwrap();
        let mut tuples = Vec::new();
        for (poll, acceptor) in &mut pair {
            collect_edges(poll, acceptor);
            match acceptor.accept(Tick(0)) {
                Accepted::Connection(stream, tuple, _) => {
                    assert_eq!(stream.peek(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                    tuples.push(tuple);
                }
                other => assert!(matches!(other, Accepted::Nothing)),
            }
        }
        assert_eq!(tuples.len(), 1);
    }

    #[test]
    fn connections_of_two_unix_sockets_are_told_apart_and_each_socket_speaks_its_protocol() {
        let folder = tempfile::tempdir().unwrap();
        let poll = &mut Poll::new().unwrap();
        let reserved = [("a", Framing::WebSocket), ("b", Framing::Bare)].map(|(name, framing)| {
            let address = Address::Unix(folder.path().join(name));
            Reservation::make(&Endpoint { address, framing }, 16).unwrap()
        });
        let mut acceptor =
            Acceptor::listen(&reserved.each_ref().map(Reservation::place), &options()).unwrap();
        acceptor.register(poll.registry(), Token).unwrap();
        let _clients = ["a", "b"].map(|name| UnixStream::connect(folder.path().join(name)).unwrap());
        collect_edges(poll, &mut acceptor);
        let [one, other] = [(); 2].map(|()| match acceptor.accept(Tick(0)) {
            Accepted::Connection(_, tuple, framing) => (tuple, framing),
            other => panic!("no connection: {other:?}"),
        });
        assert_eq!((one.1, other.1), (Framing::WebSocket, Framing::Bare));
        assert_ne!(one.0, other.0);
    }

    #[test]
    fn one_edge_is_enough_for_many_connections_on_several_listeners() {
        let (mut poll, mut acceptor, addresses) = acceptor(2);
        let clients: Vec<_> = (0..10).map(|i| TcpStream::connect(addresses[i % 2]).unwrap()).collect();
        collect_edges(&mut poll, &mut acceptor);
        let mut per_listener = [0; 2];
        for turn in 0..5 {
            // Two connections a turn, and no further event in between.
            for _ in 0..2 {
                let Accepted::Connection(_, tuple, _) = acceptor.accept(Tick(turn)) else {
                    panic!("no connection")
                };
                per_listener[usize::from(tuple.local() == addresses[1])] += 1;
            }
            assert_eq!(per_listener[0], per_listener[1], "they take turns");
        }
        assert!(matches!(acceptor.accept(Tick(9)), Accepted::Nothing));
        drop(clients);
    }

    #[test]
    fn errors_are_told_apart() {
        let verdict = |errno: Errno| Verdict::of(&io::Error::from(errno));
        assert_eq!(verdict(Errno::WOULDBLOCK), Verdict::Drained);
        for lost in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::HOSTUNREACH] {
            assert_eq!(verdict(lost), Verdict::Lost);
        }
        for exhausted in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::PERM, Errno::BADF] {
            assert_eq!(verdict(exhausted), Verdict::Exhausted);
        }
    }

    #[test]
    fn a_pause_keeps_the_edge_and_ends() {
        let (mut poll, mut acceptor, addresses) = acceptor(1);
        let _client = TcpStream::connect(addresses[0]).unwrap();
        collect_edges(&mut poll, &mut acceptor);
        acceptor.back_off.begin(Tick(50), &io::Error::from(Errno::MFILE));
        assert!(!acceptor.has_work(Tick(50)), "no busy loop while pausing");
        assert!(matches!(acceptor.accept(Tick(50)), Accepted::Nothing));
        let retry = acceptor.retry_at().expect("the edge is kept");
        assert_eq!(retry, Tick(50).after_ms(BACK_OFF_MS));
        assert!(acceptor.has_work(retry));
        assert!(matches!(acceptor.accept(retry), Accepted::Connection(..)));
    }

    #[test]
    fn failures_are_logged_once_a_second() {
        let mut back_off = BackOff::default();
        let error = io::Error::from(Errno::MFILE);
        let mut lines = 0;
        for tick in 0..30 {
            back_off.begin(Tick(tick), &error);
            lines += usize::from(back_off.unlogged == 0);
        }
        assert_eq!(lines, 3);
    }
}
