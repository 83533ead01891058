//! For tests: a visit to a server of ours by a client that has nothing of it in common, tungstenite.
//!
//! Invariant: a server that does not answer fails the test, it does not hang it.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// How long a server may take to say something.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client in the room `/topic/a`.
pub struct Visitor(WebSocket<TcpStream>);

impl Visitor {
    /// Connects and subscribes.
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "v12.stomp".parse().unwrap());
        let (socket, _) = tungstenite::client(request, stream).unwrap();
        let mut visitor = Self(socket);
        visitor.say("CONNECT\naccept-version:1.2\nhost:127.0.0.1\n\n\0");
        let connected = visitor.hear();
        assert!(connected.starts_with("CONNECTED\n") && connected.contains("\nversion:1.2\n"), "{connected}");
        visitor.say("SUBSCRIBE\nid:0\ndestination:/topic/a\nreceipt:in\n\n\0");
        assert_eq!(visitor.hear(), "RECEIPT\nreceipt-id:in\n\n\0");
        visitor
    }

    /// Sends one STOMP frame.
    pub fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    /// Waits for one, without the line ends that may follow it.
    pub fn hear(&mut self) -> String {
        self.0.read().unwrap().into_text().unwrap().trim_end_matches('\n').to_owned()
    }
}

/// What one client says in the room, and two in it hear.
pub fn chat(one: &mut Visitor, two: &mut Visitor) {
    for number in 0..3 {
        one.say(&format!("SEND\ndestination:/topic/a\nreceipt:r{number}\n\nhello {number}\0"));
        let mut heard = [one.hear(), one.hear()];
        heard.sort();
        assert!(heard[0].contains(&format!("\n\nhello {number}\0")), "{heard:?}");
        assert_eq!(heard[1], format!("RECEIPT\nreceipt-id:r{number}\n\n\0"));
        let other = two.hear();
        assert!(
            other.starts_with("MESSAGE\n") && other.contains(&format!("\n\nhello {number}\0")),
            "{other}"
        );
    }
}

/// Two clients in a room, what one says and both hear, and a departure in order.
pub fn pay(address: SocketAddr) {
    let (mut one, mut two) = (Visitor::new(address), Visitor::new(address));
    chat(&mut one, &mut two);
    one.say("DISCONNECT\nreceipt:out\n\n\0");
    assert_eq!(one.hear(), "RECEIPT\nreceipt-id:out\n\n\0");
    one.0.close(None).unwrap();
    assert!(one.0.read().unwrap().is_close());
    two.say("SEND\ndestination:/topic/a\n\nalone\0");
    assert!(two.hear().contains("\n\nalone\0"));
}
