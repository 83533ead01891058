//! A blocking STOMP client over plain TCP.
//!
//! As strict as the one over WebSocket: whatever comes unasked fails the test that it comes in.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{Frame, Server};

/// A connection on which STOMP frames lie one behind the other.
pub struct Stream {
    socket: TcpStream,
    /// Bytes of frames that are not complete, or not asked for yet.
    input: Vec<u8>,
    receipts: u32,
}

impl Stream {
    /// Connects, and says nothing.
    pub fn open(server: &Server) -> Stream {
        Stream::on(server.dial_stomp())
    }

    /// On a connection that is there.
    pub fn on(socket: TcpStream) -> Stream {
        Stream { socket, input: Vec::new(), receipts: 0 }
    }

    /// Opens a session without a login.
    pub fn connect(server: &Server) -> Stream {
        let mut stream = Stream::open(server);
        stream.start_session(Frame::new("CONNECT"));
        stream
    }

    /// Sends CONNECT for STOMP 1.2 with what is in `connect`, and returns CONNECTED.
    pub fn start_session(&mut self, connect: Frame) -> Frame {
        self.send(&connect.header("accept-version", "1.2").header("host", "test"));
        let connected = self.expect("CONNECTED");
        assert_eq!(connected.get("version"), Some("1.2"));
        connected
    }

    /// The socket, for what is no frame.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Sends bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame) {
        self.send_bytes(&frame.encode());
    }

    /// Sends a frame with a `receipt` header and waits for the RECEIPT.
    pub fn send_confirmed(&mut self, frame: Frame) {
        self.receipts += 1;
        let receipt = format!("r-{}", self.receipts);
        self.send(&frame.header("receipt", &receipt));
        assert_eq!(self.expect("RECEIPT").get("receipt-id"), Some(&*receipt));
    }

    /// Subscribes and waits until it is done.
    pub fn subscribe(&mut self, id: &str, destination: &str) {
        self.send_confirmed(Frame::new("SUBSCRIBE").header("id", id).header("destination", destination));
    }

    /// The next frame.
    pub fn next(&mut self) -> Frame {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.input) {
                self.input.drain(..length);
                return frame;
            }
            assert!(self.read() > 0, "the stream ended: {:?}", String::from_utf8_lossy(&self.input));
        }
    }

    /// The next frame, which must be this one.
    pub fn expect(&mut self, command: &str) -> Frame {
        let frame = self.next();
        assert_eq!(frame.command, command, "{frame:?}");
        frame
    }

    /// The ERROR that must come next, and the end of the stream behind it.
    pub fn expect_error(mut self) -> Frame {
        let error = self.expect("ERROR");
        self.expect_end();
        error
    }

    /// The end of the stream, which must come next, and in order.
    pub fn expect_end(mut self) {
        while self.read() > 0 {}
        let rest = self.input.iter().filter(|byte| **byte != b'\n').count();
        assert_eq!(rest, 0, "{:?}", String::from_utf8_lossy(&self.input));
    }

    /// A heart-beat, which must come next.
    pub fn expect_beat(&mut self) {
        while self.input.is_empty() {
            assert!(self.read() > 0, "the stream ended");
        }
        assert_eq!(self.input.remove(0), b'\n');
    }

    fn read(&mut self) -> usize {
        let mut bytes = [0; 65_536];
        let read = self.socket.read(&mut bytes).unwrap();
        self.input.extend_from_slice(&bytes[..read]);
        read
    }
}
