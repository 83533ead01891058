//! Users one by one, with blocking sockets: who gets in, and what the others are told.
//!
//! The scenarios' event loops are made for a hundred thousand clients; a wall needs a few hundred whose every
//! error is seen. A user is in when the server has said CONNECTED.
//!
//! Invariant: every user of a crowd is counted once, as admitted or under one refusal.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tungstenite::client::{IntoClientRequest, client_with_config};
use tungstenite::error::ProtocolError;
use tungstenite::http::HeaderValue;
use tungstenite::http::header::{RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::stomp;

/// Time for what answers at once on a machine that is not overloaded.
pub const SOON: Duration = Duration::from_secs(10);
/// Bytes of a user's WebSocket buffer: thousands are held.
const READ_BUFFER_BYTES: usize = 1024;
/// Stack of a thread that waits for one user.
const STACK_BYTES: usize = 256 * 1024;

/// Someone who is connected.
#[derive(Debug)]
pub struct User {
    socket: WebSocket<TcpStream>,
}

/// Why somebody did not get in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The kernel said no to a call on this side.
    Errno {
        /// The system call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
    /// Nothing came back to the connect: no SYN-ACK.
    NoSynAck,
    /// The kernel had connected it, and then the server did not say anything.
    NoAnswer {
        /// To what.
        to: &'static str,
    },
    /// The server refused in HTTP.
    Http {
        /// The status.
        status: u16,
        /// The header of this name.
        retry_after: Option<String>,
        /// The reason given.
        reason: String,
    },
    /// The server ended the connection without a word.
    Ended {
        /// How it looked.
        how: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno { call, errno } => write!(f, "{} at {call}()", errno_name(*errno)),
            Self::NoSynAck => f.write_str("ETIMEDOUT at connect(): no SYN-ACK"),
            Self::NoAnswer { to } => write!(f, "connected, but no answer to {to}"),
            Self::Http { status, retry_after: Some(wait), reason } => {
                write!(f, "HTTP {status}, Retry-After: {wait}: {reason}")
            }
            Self::Http { status, retry_after: None, reason } => write!(f, "HTTP {status}: {reason}"),
            Self::Ended { how } => write!(f, "closed without an answer ({how})"),
        }
    }
}

/// The name of an errno that a wall is known by.
pub fn errno_name(errno: i32) -> String {
    let name = match Errno::from_raw_os_error(errno) {
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::ADDRINUSE => "EADDRINUSE",
        Errno::MFILE => "EMFILE",
        Errno::NFILE => "ENFILE",
        Errno::AGAIN => "EAGAIN",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::CONNRESET => "ECONNRESET",
        Errno::PIPE => "EPIPE",
        Errno::TIMEDOUT => "ETIMEDOUT",
        Errno::NOBUFS => "ENOBUFS",
        _ => return io::Error::from_raw_os_error(errno).to_string(),
    };
    name.to_owned()
}

/// A loopback source address: 127.1.0.1 and upwards.
pub fn source(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 1, 0, n.saturating_add(1)))
}

/// A socket bound to a source address, whose port the kernel chooses at the connect.
///
/// # Errors
/// What the kernel says.
pub fn socket(from: IpAddr) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(SocketAddr::new(from, 0)), Type::STREAM, Some(Protocol::TCP))?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

fn refused_by(call: &'static str, error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        // connect(2) on a socket with a send timeout; socket2 has no errno for its own one.
        None if error.kind() == io::ErrorKind::TimedOut => Refusal::NoSynAck,
        Some(errno) if errno == Errno::TIMEDOUT.raw_os_error() => Refusal::NoSynAck,
        Some(errno) => Refusal::Errno { call, errno },
        None => Refusal::Ended { how: error.to_string() },
    }
}

impl User {
    /// Connects, shakes hands and logs in; each step may take `patience`.
    ///
    /// # Errors
    /// What kept it out.
    pub fn arrive(to: SocketAddr, from: IpAddr, patience: Duration) -> Result<Self, Refusal> {
        let socket = socket(from).map_err(|error| refused_by("socket", &error))?;
        socket.connect_timeout(&to.into(), patience).map_err(|error| refused_by("connect", &error))?;
        Self::enter(socket.into(), to, patience, "0,0")
    }

    /// Shakes hands and logs in on a connection, offering these heart-beats.
    ///
    /// # Errors
    /// What kept it out.
    pub fn enter(
        stream: TcpStream,
        to: SocketAddr,
        patience: Duration,
        heart_beat: &str,
    ) -> Result<Self, Refusal> {
        for set in [stream.set_read_timeout(Some(patience)), stream.set_nodelay(true)] {
            set.map_err(|error| refused_by("setsockopt", &error))?;
        }
        let ended = |error: &dyn fmt::Display| Refusal::Ended { how: error.to_string() };
        let mut request = format!("ws://{to}/ws").into_client_request().map_err(|error| ended(&error))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v12.stomp"));
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0);
        let mut user = match client_with_config(request, stream, Some(config)) {
            Ok((socket, _)) => Self { socket },
            Err(HandshakeError::Interrupted(_)) => return Err(Refusal::NoAnswer { to: "the upgrade" }),
            Err(HandshakeError::Failure(error)) => return Err(of_handshake(&error)),
        };
        user.say("CONNECT", &[("accept-version", "1.2"), ("host", "wall"), ("heart-beat", heart_beat)], b"")
            .and_then(|()| user.hear("CONNECTED"))
            .map_err(|error| of_session(&error))?;
        Ok(user)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// What tungstenite says.
    pub fn say(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) -> tungstenite::Result<()> {
        let mut frame = Vec::with_capacity(128 + body.len());
        stomp::encode(&mut frame, command, headers, body);
        // A STOMP body may be any bytes; those sent here are text.
        self.socket.send(Message::text(String::from_utf8_lossy(&frame).into_owned()))
    }

    /// Reads until a frame of this command comes.
    ///
    /// # Errors
    /// What tungstenite says; the end of the connection and a timeout are among it.
    pub fn hear(&mut self, command: &str) -> tungstenite::Result<()> {
        loop {
            if self.socket.read()?.into_data().starts_with(command.as_bytes()) {
                return Ok(());
            }
        }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Leaves by the close handshake and waits for the server to end the connection first, as a client
    /// should (RFC 6455, section 7.1.1): TIME_WAIT is the server's.
    pub fn say_goodbye(mut self) {
        // The end may come in any way; that it has come is what counts.
        drop(self.socket.close(None));
        while self.socket.read().is_ok() {}
    }

    /// Resets the connection: nobody has a TIME_WAIT, and the port is free again.
    pub fn reset(self) {
        // Without the option the end is an orderly one, and what comes next tells that its port is missing.
        drop(SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)));
    }

    /// Ends the connection without a word, and first: TIME_WAIT is the client's.
    pub fn walk_out(self) {
        let mut stream = self.stream();
        drop(stream.shutdown(Shutdown::Write));
        while stream.read(&mut [0; 512]).is_ok_and(|read| read > 0) {}
    }
}

fn of_handshake(error: &tungstenite::Error) -> Refusal {
    match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body);
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            Refusal::Http {
                status: response.status().as_u16(),
                retry_after: retry_after.map(str::to_owned),
                reason: body.trim().to_owned(),
            }
        }
        other => of_session(other),
    }
}

fn of_session(error: &tungstenite::Error) -> Refusal {
    match error {
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Refusal::NoAnswer { to: "CONNECT" }
        }
        tungstenite::Error::Io(error) => {
            Refusal::Ended { how: error.raw_os_error().map_or_else(|| error.to_string(), errno_name) }
        }
        tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            Refusal::Ended { how: "end of the stream".into() }
        }
        other => Refusal::Ended { how: other.to_string() },
    }
}

/// Users who came, and what the others were told.
#[derive(Debug, Default)]
pub struct Crowd {
    /// Those who are in.
    pub users: Vec<User>,
    /// Those who are not: what they were told, and how many of them.
    pub refusals: Vec<(Refusal, u64)>,
    /// How long the last of those admitted took.
    pub slowest: Duration,
}

impl Crowd {
    /// Takes note of one arrival.
    pub fn note(&mut self, arrival: Result<User, Refusal>) {
        match arrival {
            Ok(user) => self.users.push(user),
            Err(refusal) => match self.refusals.iter_mut().find(|(known, _)| *known == refusal) {
                Some((_, count)) => *count += 1,
                None => self.refusals.push((refusal, 1)),
            },
        }
    }

    /// One user after the other from the same address.
    pub fn queue(&mut self, to: SocketAddr, from: IpAddr, count: u64) {
        for _ in 0..count {
            let start = Instant::now();
            self.note(User::arrive(to, from, SOON));
            self.slowest = self.slowest.max(start.elapsed());
        }
    }

    /// All at once, each with a patience of its own.
    ///
    /// # Errors
    /// No thread left to wait in.
    pub fn burst(&mut self, to: SocketAddr, from: IpAddr, count: u64, patience: Duration) -> io::Result<()> {
        let waiting: Vec<_> = (0..count)
            .map(|_| {
                thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                    let start = Instant::now();
                    (User::arrive(to, from, patience), start.elapsed())
                })
            })
            .collect::<io::Result<_>>()?;
        for thread in waiting {
            let (arrival, took) = thread.join().map_err(|_| io::Error::other("a client panicked"))?;
            if arrival.is_ok() {
                self.slowest = self.slowest.max(took);
            }
            self.note(arrival);
        }
        Ok(())
    }

    /// How many got in.
    pub fn admitted(&self) -> u64 {
        self.users.len() as u64
    }

    /// How many did not.
    pub fn refused(&self) -> u64 {
        self.refusals.iter().map(|(_, count)| count).sum()
    }

    /// How many were told something of this kind.
    pub fn told(&self, is: impl Fn(&Refusal) -> bool) -> u64 {
        self.refusals.iter().filter(|(refusal, _)| is(refusal)).map(|(_, count)| count).sum()
    }

    /// Fills in a column: numbers, and what the refused ones saw.
    pub fn tell(&self, side: &mut super::outcome::Side) {
        side.admitted += self.admitted();
        side.refused += self.refused();
        side.asked = side.admitted + side.refused;
        for (refusal, count) in &self.refusals {
            side.symptom(format!("{refusal} x {}", super::outcome::commas(*count)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_counts_everyone_once() {
        let mut crowd = Crowd::default();
        let full = Refusal::Http { status: 503, retry_after: Some("5".into()), reason: "full".into() };
        for refusal in [Refusal::NoSynAck, full.clone(), full] {
            crowd.note(Err(refusal));
        }
        assert_eq!((crowd.admitted(), crowd.refused()), (0, 3));
        assert_eq!(crowd.told(|refusal| matches!(refusal, Refusal::Http { status: 503, .. })), 2);
        let mut side = super::super::outcome::Side::new("", "");
        crowd.tell(&mut side);
        assert_eq!((side.asked, side.refused), (3, 3));
        assert_eq!(side.symptoms[1], "HTTP 503, Retry-After: 5: full x 2");
    }

    #[test]
    fn errors_are_told_by_name() {
        let of = |errno: Errno| refused_by("connect", &errno.into()).to_string();
        assert_eq!(of(Errno::ADDRNOTAVAIL), "EADDRNOTAVAIL at connect()");
        assert_eq!(of(Errno::TIMEDOUT), "ETIMEDOUT at connect(): no SYN-ACK");
        let reset = tungstenite::Error::Io(Errno::CONNRESET.into());
        assert_eq!(of_session(&reset).to_string(), "closed without an answer (ECONNRESET)");
    }

    #[test]
    fn nobody_listening_is_a_refusal_of_the_kernel() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        let refusal = User::arrive(address, source(0), SOON).unwrap_err();
        assert_eq!(refusal.to_string(), "ECONNREFUSED at connect()");
    }
}
