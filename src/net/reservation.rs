//! An address that belongs to this process, reserved before the reactors split their descriptor tables.
//!
//! # TCP
//! Reactors listen with `SO_REUSEPORT`, which lets any process of the same user bind the same port: a second
//! server started by mistake would silently take a share of the first one's connections. So the address
//! is first bound *without* it, which fails with "address in use" when anybody listens there, and only then is
//! the option set on that same socket, for the listeners to join. The socket itself never listens, so the
//! kernel gives it no connections. It also keeps the port that the kernel picked for port 0.
//!
//! # Unix sockets
//! They have no `SO_REUSEPORT`: the one listener is made here, and watched by all reactors. Each connection wakes them
//! all, and one of them gets it. What is accepted is kept as a `TcpStream`, which stands for any stream socket here:
//! nothing of it is TCP's own. The socket's file is for the owner and the group; one that nobody listens at is left
//! over, and replaced.
//!
//! Invariant: nobody else listened at an address when its [`Reservation`] was made, and no two connections of a Unix
//! socket have the same number.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::net::address::{Address, Endpoint};
use crate::tcb::FourTuple;
use crate::wire::framing::Framing;

/// An address that belongs to this process until it is dropped, for the reactors' listeners to share.
#[derive(Debug)]
pub struct Reservation {
    place: Place,
    framing: Framing,
    _socket: Option<Socket>,
}

/// A reserved address, as reactors are given it, and what is spoken there.
pub type ReservedPlace = (Place, Framing);

/// A reserved address.
#[derive(Debug, Clone)]
pub enum Place {
    /// To listen at, with the port that was picked in place of 0.
    Tcp(SocketAddr),
    /// The listener.
    Unix(Arc<UnixPlace>),
}

/// A Unix socket that listens.
#[derive(Debug)]
pub struct UnixPlace {
    listener: UnixListener,
    path: PathBuf,
}

/// The number of the next connection to a Unix socket of this process, whichever it is: it stands for addresses, and those
/// of two connections differ.
static NEXT_UNIX: AtomicU64 = AtomicU64::new(0);

impl Reservation {
    /// Reserves an endpoint's address.
    ///
    /// # Errors
    /// What `bind` says: address in use, not available, or permission denied.
    pub fn make(endpoint: &Endpoint, backlog: u32) -> Result<Reservation, ListenError> {
        let Endpoint { address, framing } = endpoint;
        let made = match address {
            Address::Tcp(wanted) => bind(*wanted).map(|(place, socket)| (place, Some(socket))),
            Address::Unix(path) => listen_unix(path, backlog)
                .map(|listener| (Place::Unix(Arc::new(UnixPlace { listener, path: path.clone() })), None)),
        };
        match made {
            Ok((place, socket)) => Ok(Reservation { place, framing: *framing, _socket: socket }),
            Err(source) => Err(ListenError { address: address.clone(), source }),
        }
    }

    /// For the reactors.
    pub fn place(&self) -> ReservedPlace {
        (self.place.clone(), self.framing)
    }

    /// With the port that was picked in place of 0.
    pub fn endpoint(&self) -> Endpoint {
        let address = match &self.place {
            Place::Tcp(address) => Address::Tcp(*address),
            Place::Unix(unix) => Address::Unix(unix.path.clone()),
        };
        Endpoint { address, framing: self.framing }
    }

    /// Refuses connections to a Unix socket from here on. A TCP address refuses when its last listener is closed.
    pub fn refuse(&self) {
        let Place::Unix(unix) = &self.place else { return };
        let UnixPlace { listener, path } = &**unix;
        // Both fail if it was done before.
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(%error, path = %path.display(), "the socket's file is gone");
        }
        if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
            tracing::debug!(%error, "shutdown of a listener");
        }
    }
}

impl UnixPlace {
    /// Takes a connection, and gives it a number in place of the addresses that it has not.
    ///
    /// # Errors
    /// What `accept` says.
    pub(super) fn accept(&self) -> io::Result<(TcpStream, FourTuple)> {
        let socket = accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
        let number = NEXT_UNIX.fetch_add(1, Ordering::Relaxed);
        Ok((TcpStream::from(socket), FourTuple::unix(number)))
    }

    /// To watch for connections.
    pub(super) fn descriptor(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

fn bind(wanted: SocketAddr) -> io::Result<(Place, Socket)> {
    let socket = Socket::new(Domain::for_address(wanted), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    // Connections of an earlier run that linger in TIME_WAIT must not stop a restart.
    socket.set_reuse_address(true)?;
    socket.bind(&wanted.into())?;
    socket.set_reuse_port(true)?;
    let address = socket.local_addr()?.as_socket().unwrap_or(wanted);
    Ok((Place::Tcp(address), socket))
}

fn listen_unix(path: &Path, backlog: u32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let address = socket2::SockAddr::unix(path)?;
    if let Err(error) = socket.bind(&address) {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let is_left_over = error.kind() == io::ErrorKind::AddrInUse
            && is_socket
            && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if !is_left_over {
            return Err(error);
        }
        fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A listener that could not be made.
#[derive(Debug)]
pub struct ListenError {
    /// Where it should have listened.
    pub address: Address,
    /// What the kernel said.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.source)
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::acceptor::{ListenOptions, listen};

    fn http(address: Address) -> Endpoint {
        Endpoint { address, framing: Framing::WebSocket }
    }

    fn reserve(address: SocketAddr) -> Result<Reservation, ListenError> {
        Reservation::make(&http(Address::Tcp(address)), 128)
    }

    /// A reserved port of its own.
    fn reserved() -> (Reservation, SocketAddr) {
        let reserved = reserve("127.0.0.1:0".parse().unwrap()).unwrap();
        let Address::Tcp(address) = reserved.endpoint().address else {
            unreachable!("no Unix socket was asked for")
        };
        (reserved, address)
    }

    fn options() -> ListenOptions {
        ListenOptions { backlog: 128, ..ListenOptions::default() }
    }

    #[test]
    fn a_reserved_port_is_shared_only_with_ourselves() {
        let (reserved, address) = reserved();
        let first = listen(address, &options()).unwrap();
        let second = listen(address, &options()).unwrap();
        assert_eq!(reserve(address).unwrap_err().source.kind(), io::ErrorKind::AddrInUse);
        drop((first, second, reserved));
        reserve(address).expect("free again");
    }

    #[test]
    fn a_wildcard_meets_a_specific_address() {
        let (_reserved, address) = reserved();
        let _listener = listen(address, &options()).unwrap();
        let wildcard = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        assert_eq!(reserve(wildcard).unwrap_err().source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn what_a_unix_socket_left_over_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tcbchat.sock");
        let address = http(Address::Unix(path.clone()));
        let reserved = Reservation::make(&address, 16).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let taken = Reservation::make(&address, 16).unwrap_err();
        assert_eq!(taken.source.kind(), io::ErrorKind::AddrInUse, "somebody listens");

        reserved.refuse();
        assert!(!path.exists());
        // A crash leaves the file.
        drop(reserved);
        drop(UnixListener::bind(&path).unwrap());
        Reservation::make(&address, 16).unwrap();
        // What is no socket is left alone.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(Reservation::make(&address, 16).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
