//! A small STOMP server over blocking tungstenite, one thread per connection, that can be told to misbehave.
//!
//! It exists to prove that the simulator's checks can fail: it loses, repeats and swaps messages, refuses
//! upgrades, and forgets receipts, on demand. It is no example of how to write a server.
//!
//! Invariant: without a fault it is a correct server for what the simulator does.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// What the stub does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The first member of each room does not get every n-th message.
    Lose(u32),
    /// The first member of each room gets every n-th message twice.
    Repeat(u32),
    /// The first member of each room gets every n-th message after the one that follows it.
    Swap(u32),
    /// One byte of every n-th body is changed.
    Damage(u32),
    /// Upgrades are answered 503.
    Full,
    /// Every n-th client gets an ERROR instead of CONNECTED.
    Error(u32),
    /// RECEIPTs of SENDs are not sent.
    ForgetReceipts,
    /// The connection is dropped when every n-th client says SUBSCRIBE.
    HangUp(u32),
}

type Writer = Arc<Mutex<WebSocket<TcpStream>>>;

#[derive(Default)]
struct Room {
    members: Vec<Member>,
    messages: u32,
}

struct Member {
    writer: Writer,
    held: Option<String>,
}

struct Stub {
    fault: Fault,
    clients: AtomicU32,
    rooms: Mutex<HashMap<String, Room>>,
}

/// Starts a stub on a free port; it lives as long as the test's process.
pub fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stub = Arc::new(Stub { fault, clients: AtomicU32::new(0), rooms: Mutex::default() });
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let stub = Arc::clone(&stub);
            thread::spawn(move || stub.serve(stream));
        }
    });
    address
}

impl Stub {
    /// Serves one connection until it ends, however it ends.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true).ok()?;
        if self.fault == Fault::Full {
            return stream
                .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 10\r\n\r\ntable full")
                .ok();
        }
        let writer = stream.try_clone().ok()?;
        #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let choose = |_: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", "v12.stomp".parse().unwrap());
            Ok(response)
        };
        let mut reader = tungstenite::accept_hdr(stream, choose).ok()?;
        let writer = Arc::new(Mutex::new(WebSocket::from_raw_socket(writer, Role::Server, None)));
        loop {
            match reader.read() {
                Ok(Message::Text(text)) => self.take(&text, number, &writer)?,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// Takes one STOMP frame; `None` hangs up.
    fn take(&self, text: &str, number: u32, writer: &Writer) -> Option<()> {
        if text == "\n" {
            return Some(());
        }
        let (head, body) = text.split_once("\n\n")?;
        let body = body.trim_end_matches('\0');
        let header = |name: &str| {
            head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| *key == name).map(|(_, v)| v)
        };
        let every = |n: u32| number % n == n - 1;
        match head.lines().next()? {
            "CONNECT" if matches!(self.fault, Fault::Error(n) if every(n)) => {
                say(writer, "ERROR\nmessage:not today\n\n\0");
                return None;
            }
            "CONNECT" => say(writer, "CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0"),
            "SUBSCRIBE" if matches!(self.fault, Fault::HangUp(n) if every(n)) => return None,
            "SUBSCRIBE" => {
                let mut rooms = self.rooms.lock().unwrap();
                let room = rooms.entry(header("destination")?.to_owned()).or_default();
                room.members.push(Member { writer: Arc::clone(writer), held: None });
            }
            "SEND" => self.publish(header("destination")?, body),
            "DISCONNECT" => {
                for room in self.rooms.lock().unwrap().values_mut() {
                    room.members.retain(|member| !Arc::ptr_eq(&member.writer, writer));
                }
            }
            _ => return None,
        }
        match header("receipt") {
            Some(id) if !(self.fault == Fault::ForgetReceipts && head.starts_with("SEND")) => {
                say(writer, &format!("RECEIPT\nreceipt-id:{id}\n\n\0"));
            }
            _ => {}
        }
        Some(())
    }

    /// Gives a message to all members of a room, in one order but for the fault.
    fn publish(&self, destination: &str, body: &str) {
        let mut rooms = self.rooms.lock().unwrap();
        let Some(room) = rooms.get_mut(destination) else { return };
        room.messages += 1;
        let number = room.messages;
        let every = |n: u32| number % n == 0;
        let body = match self.fault {
            Fault::Damage(n) if every(n) => body.replace('.', ","),
            _ => body.to_owned(),
        };
        let message =
            format!("MESSAGE\ndestination:{destination}\nmessage-id:{number}\nsubscription:0\n\n{body}\0");
        for (index, member) in room.members.iter_mut().enumerate() {
            let copies = match self.fault {
                Fault::Lose(n) if index == 0 && every(n) => 0,
                Fault::Repeat(n) if index == 0 && every(n) => 2,
                Fault::Swap(n) if index == 0 && every(n) => {
                    member.held = Some(message.clone());
                    0
                }
                _ => 1,
            };
            for _ in 0..copies {
                say(&member.writer, &message);
            }
            if let Some(held) = member.held.take_if(|_| copies > 0) {
                say(&member.writer, &held);
            }
        }
    }
}

/// A member that is gone does not get it; nobody minds.
fn say(writer: &Writer, text: &str) {
    writer.lock().unwrap().send(Message::text(text)).ok();
}
