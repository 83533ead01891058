//! How a simulated client's STOMP frames travel: in tungstenite's WebSocket messages, over bytes in memory.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use tungstenite::protocol::{Role, WebSocket};
use tungstenite::{Error, Message};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v12.stomp\r\n";

/// Both directions of a stream, in memory.
#[derive(Default)]
pub struct Memory {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            self.incoming.read(into)
        }
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a client hears.
pub enum Heard {
    /// The upgrade is done.
    Opened,
    /// It is not, and this is the answer.
    Refused(Vec<u8>),
    /// A whole STOMP frame, or a heart-beat.
    Frame(String),
    /// The server has said that it says no more.
    Closed,
}

/// A client's end of a connection.
pub struct Channel {
    is_upgraded: bool,
    head: Vec<u8>,
    ws: WebSocket<Memory>,
}

impl Channel {
    /// One that has asked for its upgrade, with these header lines.
    pub fn asking(lines: &str) -> Channel {
        let outgoing = format!("{UPGRADE}{lines}\r\n").into_bytes();
        let memory = Memory { incoming: VecDeque::new(), outgoing };
        let ws = WebSocket::from_raw_socket(memory, Role::Client, None);
        Channel { is_upgraded: false, head: Vec::new(), ws }
    }

    /// Bytes for the server.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ws.get_mut().outgoing)
    }

    /// Says these frames.
    pub fn say(&mut self, text: &str) {
        // A STOMP frame over two WebSocket messages now and then.
        let cut = if text.len().is_multiple_of(3) { text.len() / 2 } else { text.len() };
        for part in [&text[..cut], &text[cut..]] {
            if part.is_empty() {
                continue;
            }
            match self.ws.send(Message::text(part)) {
                Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Begins the closing handshake.
    pub fn close(&mut self) {
        self.ws.close(None).expect("it is open");
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
        if !self.is_upgraded {
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else { return heard };
            if !self.head.starts_with(b"HTTP/1.1 101 ") {
                return vec![Heard::Refused(self.head.clone())];
            }
            self.is_upgraded = true;
            heard.push(Heard::Opened);
            let rest = self.head.split_off(end + 4);
            self.ws.get_mut().incoming.extend(rest);
            bytes = &[];
        }
        self.ws.get_mut().incoming.extend(bytes);
        loop {
            match self.ws.read() {
                Ok(Message::Text(text)) => heard.push(Heard::Frame(text.as_str().into())),
                Ok(Message::Close(_)) => heard.push(Heard::Closed),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => panic!("unexpected {other:?}"),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => break,
                Err(error) => panic!("the server broke the protocol: {error}"),
            }
        }
        // Answers to close frames.
        match self.ws.flush() {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => panic!("{error}"),
        }
        heard
    }
}
