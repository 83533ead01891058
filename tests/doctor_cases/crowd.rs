//! The clients that come to a server, and what becomes of them.
//!
//! Owns their side of WebSocket and STOMP, as little of it as it takes to be served. A client is served when it has a
//! RECEIPT. It is refused when it is told something else, and lost when it is told nothing.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::ANSWER_MAX;
use crate::server::ADDRESS;

/// Connections that come at once.
pub const BATCH: usize = 100;
/// Refusals after which nobody else comes.
const REFUSALS_ENOUGH: usize = 150;

/// Clients that came.
pub struct Crowd {
    pub served: Vec<TcpStream>,
    refused: usize,
    lost: usize,
    /// Those who come at once.
    batch: usize,
    source: Option<Ipv4Addr>,
}

impl Crowd {
    /// Nobody yet. `batch` come at once, if not [`BATCH`]: a backlog of 5, or 10 half-open, bears fewer.
    ///
    /// They come from `source`, if not from where everybody does. A connection with the address and port of one that is
    /// in TIME_WAIT takes its place, and the kernel may give the same ports again.
    pub fn new(batch: Option<usize>, source: Option<Ipv4Addr>) -> Crowd {
        Crowd { served: Vec::new(), refused: 0, lost: 0, batch: batch.unwrap_or(BATCH), source }
    }

    /// Clients come, a batch at a time, until so many are served or enough are refused.
    pub fn come(&mut self, count: usize) {
        let most = self.served.len() + count;
        while self.served.len() < most && self.refused + self.lost < REFUSALS_ENOUGH {
            let room = most - self.served.len();
            let upgraded: Vec<TcpStream> = (0..self.batch.min(room)).filter_map(|_| self.dial()).collect();
            let upgraded: Vec<TcpStream> =
                upgraded.into_iter().filter_map(|stream| self.expect(stream, "\r\n\r\n", "101")).collect();
            let mut subscribed = Vec::new();
            for mut stream in upgraded {
                let room = (self.served.len() + subscribed.len()) / BATCH;
                let connect = frame("CONNECT\naccept-version:1.2\nhost:x\nheart-beat:0,0\n\n\0");
                let subscribe =
                    frame(&format!("SUBSCRIBE\nid:0\ndestination:/topic/{room}\nreceipt:r\n\n\0"));
                match stream.write_all(&[connect, subscribe].concat()) {
                    Ok(()) => subscribed.push(stream),
                    Err(_) => self.lost += 1,
                }
            }
            for stream in subscribed {
                let stream = self.expect(stream, "RECEIPT", "");
                self.served.extend(stream);
            }
        }
    }

    fn dial(&mut self) -> Option<TcpStream> {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        let dialled = connect(address, self.source).and_then(|mut stream| {
            // Where some have waited in vain the others need not wait as long.
            let patience = if self.lost == 0 { ANSWER_MAX } else { ANSWER_MAX / 10 };
            stream.set_read_timeout(Some(patience))?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.write_all(
                b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Protocol: v12.stomp\r\n\r\n",
            )?;
            Ok(stream)
        });
        self.lost += usize::from(dialled.is_err());
        dialled.ok()
    }

    /// Reads until `end`; counts who is told something else than `wanted`, or nothing.
    fn expect(&mut self, mut stream: TcpStream, end: &str, wanted: &str) -> Option<TcpStream> {
        let (mut text, mut buffer) = (String::new(), [0; 2048]);
        if self.lost > 0 {
            stream.set_read_timeout(Some(ANSWER_MAX / 10)).expect("an option of a socket");
        }
        while !text.contains(end) {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
                _ => {
                    self.lost += 1;
                    return None;
                }
            }
        }
        if text.contains(wanted) {
            return Some(stream);
        }
        self.refused += 1;
        None
    }

    /// Those who are connected still.
    pub fn alive(&self) -> usize {
        let is_alive = |stream: &&TcpStream| {
            stream.set_nonblocking(true).is_ok()
                && stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        self.served.iter().filter(is_alive).count()
    }

    /// Says goodbye so that the server closes first, and has the TIME_WAIT.
    pub fn leave_in_order(self) {
        for mut stream in self.served {
            SockRef::from(&stream).set_linger(None).expect("an option of a socket");
            let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];
            stream
                .write_all(&[frame("DISCONNECT\n\n\0").as_slice(), &close].concat())
                .expect("it is connected");
            let mut rest = Vec::new();
            // Its end is what is waited for, in whatever way it comes.
            drop(stream.read_to_end(&mut rest));
        }
    }
}

/// A masked text frame; the mask is zero.
fn frame(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match text.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => bytes.extend([0xFE, (length >> 8) as u8, length as u8]),
    }
    bytes.extend([0; 4]);
    bytes.extend(text.as_bytes());
    bytes
}

/// A connection that has this source address.
fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect_timeout(&address, ANSWER_MAX) };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), ANSWER_MAX)?;
    Ok(socket.into())
}
