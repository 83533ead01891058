//! A blocking STOMP client over tungstenite, with a STOMP codec of its own.
//!
//! It is as strict as a test can be: whatever comes unasked fails the test that it comes in.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::http::{HeaderValue, Request};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::Server;

/// A STOMP frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub command: String,
    /// In their order, with repetitions.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(200)];
        write!(f, "{} {:?} {:?}", self.command, self.headers, String::from_utf8_lossy(body))
    }
}

impl Frame {
    pub fn new(command: &str) -> Frame {
        Frame { command: command.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Frame {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Frame {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The first header of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// On the wire, STOMP 1.2, with `content-length` if the body has a NUL.
    pub fn encode(&self) -> Vec<u8> {
        let escaped = |text: &str| {
            if matches!(self.command.as_str(), "CONNECT" | "CONNECTED") {
                return text.to_owned();
            }
            text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace(':', "\\c")
        };
        let mut out = format!("{}\n", self.command).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{}:{}\n", escaped(name), escaped(value)).as_bytes());
        }
        if self.body.contains(&0) {
            out.extend_from_slice(format!("content-length:{}\n", self.body.len()).as_bytes());
        }
        out.push(b'\n');
        out.extend_from_slice(&self.body);
        out.push(0);
        out
    }

    /// The first frame in `bytes` and its length; None if it is incomplete. Skips heart-beats in front.
    pub fn decode(bytes: &[u8]) -> Option<(Frame, usize)> {
        let start = bytes.iter().position(|byte| *byte != b'\n')?;
        let head_end = start + bytes[start..].windows(2).position(|pair| pair == b"\n\n")?;
        let head = std::str::from_utf8(&bytes[start..head_end]).expect("the head is UTF-8");
        let mut lines = head.split('\n');
        let mut frame = Frame::new(lines.next().unwrap());
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
            frame.headers.push((unescape(name), unescape(value)));
        }
        let body = head_end + 2;
        let length = match frame.get("content-length") {
            Some(length) => length.parse().expect("content-length"),
            None => bytes[body..].iter().position(|byte| *byte == 0)?,
        };
        let end = body + length;
        let nul = *bytes.get(end)?;
        assert_eq!(nul, 0, "the NUL after the body of {frame:?}");
        frame.body = bytes[body..end].to_vec();
        Some((frame, end + 1))
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('c') => ':',
                Some('\\') => '\\',
                other => panic!("escape \\{other:?} in {text:?}"),
            },
            c => c,
        });
    }
    out
}

/// A WebSocket connection that speaks STOMP.
pub struct Client {
    socket: WebSocket<TcpStream>,
    /// Bytes of frames that are not complete, or not asked for yet.
    input: Vec<u8>,
    receipts: u32,
    /// Messages that were a single LF.
    pub heart_beats: u32,
    /// Whether the last message was binary.
    pub was_binary: bool,
}

impl Client {
    /// Opens a WebSocket on `/ws`, offering `v12.stomp`.
    pub fn open(server: &Server) -> Client {
        Client::open_with(server, "/ws", &["v12.stomp"]).0
    }

    /// Opens a WebSocket on a path with these subprotocols; also returns the answer's head.
    pub fn open_with(server: &Server, path: &str, subprotocols: &[&str]) -> (Client, Response) {
        Client::try_open(server, path, subprotocols).unwrap()
    }

    /// The same, for openings that may be refused.
    pub fn try_open(
        server: &Server,
        path: &str,
        subprotocols: &[&str],
    ) -> Result<(Client, Response), tungstenite::Error> {
        Client::try_open_on(server.try_dial()?, server, path, subprotocols)
    }

    /// The same, on a connection that is there.
    pub fn try_open_on(
        stream: TcpStream,
        server: &Server,
        path: &str,
        subprotocols: &[&str],
    ) -> Result<(Client, Response), tungstenite::Error> {
        Client::try_open_saying(stream, server, path, subprotocols, &[])
    }

    /// The same, with these headers in the request.
    pub fn try_open_saying(
        stream: TcpStream,
        server: &Server,
        path: &str,
        subprotocols: &[&str],
        headers: &[(&'static str, &str)],
    ) -> Result<(Client, Response), tungstenite::Error> {
        let mut request: Request<()> = server.ws_url(path).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        if !subprotocols.is_empty() {
            let offered = HeaderValue::from_str(&subprotocols.join(", ")).unwrap();
            request.headers_mut().insert("sec-websocket-protocol", offered);
        }
        Client::try_open_by(request, stream)
    }

    /// Opens a WebSocket on `/ws` by a request with these header fields.
    pub fn open_with_headers(server: &Server, fields: &[(&'static str, &str)]) -> Client {
        let mut request: Request<()> = server.ws_url("/ws").into_client_request().unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        Client::try_open_by(request, server.dial()).unwrap().0
    }

    fn try_open_by(
        request: Request<()>,
        stream: TcpStream,
    ) -> Result<(Client, Response), tungstenite::Error> {
        let opened = tungstenite::client::client(request, stream);
        let (socket, response) = opened.map_err(|error| match error {
            tungstenite::HandshakeError::Failure(error) => error,
            interrupted => panic!("{interrupted}"),
        })?;
        let client = Client { socket, input: Vec::new(), receipts: 0, heart_beats: 0, was_binary: false };
        Ok((client, response))
    }

    /// Opens a session without a login.
    pub fn connect(server: &Server) -> Client {
        let mut client = Client::open(server);
        client.start_session(Frame::new("CONNECT"));
        client
    }

    /// Opens a session with a login.
    pub fn login(server: &Server, login: &str) -> Client {
        let mut client = Client::open(server);
        client.start_session(Frame::new("CONNECT").header("login", login).header("passcode", "secret"));
        client
    }

    /// Sends CONNECT for STOMP 1.2 with what is in `connect`, and returns CONNECTED.
    pub fn start_session(&mut self, connect: Frame) -> Frame {
        self.send(&connect.header("accept-version", "1.2").header("host", "test"));
        let connected = self.expect("CONNECTED");
        assert_eq!(connected.get("version"), Some("1.2"));
        connected
    }

    /// The socket, for tests of what lies below STOMP.
    pub fn socket(&mut self) -> &mut WebSocket<TcpStream> {
        &mut self.socket
    }

    /// The bare stream, for bytes that no WebSocket library sends.
    ///
    /// # Panics
    /// When bytes have been read ahead.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.input.is_empty());
        self.socket.into_inner()
    }

    /// Sends a frame in a message of its own: text, or binary if it is not UTF-8.
    pub fn send(&mut self, frame: &Frame) {
        match String::from_utf8(frame.encode()) {
            Ok(text) => self.send_text(&text),
            Err(error) => self.send_binary(error.as_bytes()),
        }
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).unwrap();
    }

    /// Sends a frame with a `receipt` header and waits for the RECEIPT.
    pub fn send_confirmed(&mut self, frame: Frame) {
        let receipt = self.send_with_receipt(frame);
        assert_eq!(self.expect("RECEIPT").get("receipt-id"), Some(&*receipt));
    }

    /// Sends a frame with a `receipt` header, and returns the id to expect.
    pub fn send_with_receipt(&mut self, frame: Frame) -> String {
        self.receipts += 1;
        let receipt = format!("r-{}", self.receipts);
        self.send(&frame.header("receipt", &receipt));
        receipt
    }

    /// Subscribes and waits until it is done.
    pub fn subscribe(&mut self, id: &str, destination: &str) {
        self.send_confirmed(Frame::new("SUBSCRIBE").header("id", id).header("destination", destination));
    }

    /// Subscribes with an acknowledgement mode and waits until it is done.
    pub fn subscribe_ack(&mut self, id: &str, destination: &str, ack: &str) {
        let subscribe = Frame::new("SUBSCRIBE").header("id", id).header("destination", destination);
        self.send_confirmed(subscribe.header("ack", ack));
    }

    /// Sends a message, and waits for nothing.
    pub fn publish(&mut self, destination: &str, body: impl AsRef<[u8]>) {
        self.send(&Frame::new("SEND").header("destination", destination).body(body));
    }

    /// Sends a message and waits for its RECEIPT.
    pub fn publish_confirmed(&mut self, destination: &str, body: impl AsRef<[u8]>) {
        self.send_confirmed(Frame::new("SEND").header("destination", destination).body(body));
    }

    /// The next frame.
    pub fn next(&mut self) -> Frame {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.input) {
                self.input.drain(..length);
                return frame;
            }
            match self.next_message() {
                Message::Text(text) => {
                    self.was_binary = false;
                    if text == "\n" {
                        self.heart_beats += 1;
                    } else {
                        self.input.extend_from_slice(text.as_bytes());
                    }
                }
                Message::Binary(bytes) => {
                    self.was_binary = true;
                    self.input.extend_from_slice(&bytes);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next frame, which must be this one.
    pub fn expect(&mut self, command: &str) -> Frame {
        let frame = self.next();
        assert_eq!(frame.command, command, "{frame:?}");
        frame
    }

    /// The body of the next frame, which must be a MESSAGE.
    pub fn expect_body(&mut self) -> String {
        self.expect("MESSAGE").text().to_owned()
    }

    /// The ERROR that must come next, and the close behind it: its `message` header and the close code.
    pub fn expect_error(&mut self) -> (String, u16) {
        let error = self.expect("ERROR");
        let (code, _) = self.expect_close();
        (error.get("message").expect("ERROR has a message header").to_owned(), code)
    }

    /// The close that must come next, and the end of the stream: its code and its reason.
    pub fn expect_close(&mut self) -> (u16, String) {
        assert!(self.input.is_empty(), "{:?}", String::from_utf8_lossy(&self.input));
        let close = match self.next_message() {
            Message::Close(close) => close,
            other => panic!("{other:?}"),
        };
        match self.socket.read() {
            Err(tungstenite::Error::ConnectionClosed) => {}
            other => panic!("{other:?} after the close"),
        }
        match close {
            Some(CloseFrame { code, reason }) => (code.into(), reason.to_string()),
            None => (1005, String::new()),
        }
    }

    /// The next WebSocket message; pings are answered by tungstenite, and pongs are given back.
    pub fn next_message(&mut self) -> Message {
        loop {
            match self.socket.read() {
                Ok(Message::Ping(_)) => {}
                Ok(message) => return message,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Nothing but heart-beats must come for this long.
    pub fn expect_silence(&mut self, time: Duration) {
        assert!(self.input.is_empty(), "{:?}", String::from_utf8_lossy(&self.input));
        let usual = self.socket.get_ref().read_timeout().unwrap();
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.socket.read() {
                Ok(Message::Text(text)) if text == "\n" => self.heart_beats += 1,
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => break,
                other => panic!("{other:?}"),
            }
        }
        self.socket.get_ref().set_read_timeout(usual).unwrap();
    }

    /// DISCONNECT, its RECEIPT, and the WebSocket close.
    pub fn disconnect(mut self) {
        self.send_confirmed(Frame::new("DISCONNECT"));
        // Either side may close first after that.
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        match self.socket.close(Some(normal)) {
            Ok(()) | Err(tungstenite::Error::ConnectionClosed) => {}
            Err(error) => panic!("{error}"),
        }
        loop {
            match self.socket.read() {
                Ok(Message::Close(_)) => {}
                Err(tungstenite::Error::ConnectionClosed) => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
