use std::net::Ipv4Addr;
use std::time::Instant;

use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Error, Message, WebSocket};

use super::*;

/// How long a test waits for what must come.
const WITHIN: Duration = Duration::from_secs(20);

fn server(threads_max: u32) -> Server {
    let config = Config { threads_max, stack_bytes: 2 << 20 };
    Server::start((Ipv4Addr::LOCALHOST, 0).into(), config).unwrap()
}

/// A client that shares no code with the server but the WebSocket layer.
struct Client(WebSocket<MaybeTlsStream<TcpStream>>);

impl Client {
    fn dial(server: &Server, path: &str) -> Result<Client, Error> {
        let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("v11.stomp, v12.stomp"));
        let (socket, response) = tungstenite::connect(request)?;
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "v12.stomp");
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(WITHIN)).unwrap();
        }
        Ok(Client(socket))
    }

    /// Connected, without heart-beats.
    fn connect(server: &Server) -> Client {
        let mut client = Client::dial(server, "/ws").unwrap();
        client.say("CONNECT\naccept-version:1.1,1.2\nhost:here\n\n\0");
        assert!(client.hear().starts_with("CONNECTED\nversion:1.2\n"));
        client
    }

    fn subscribe(&mut self, id: &str, destination: &str) {
        self.say(&format!("SUBSCRIBE\nid:{id}\ndestination:{destination}\nreceipt:in-{id}\n\n\0"));
        assert_eq!(self.hear(), format!("RECEIPT\nreceipt-id:in-{id}\n\n\0"));
    }

    fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    fn hear(&mut self) -> String {
        self.0.read().unwrap().into_text().unwrap().to_string()
    }

    /// The code of the close frame, which is the next message.
    fn hear_close(&mut self) -> u16 {
        match self.0.read() {
            Ok(Message::Close(Some(frame))) => frame.code.into(),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until it is so.
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_message_reaches_every_subscription_of_its_room() {
    let server = server(10);
    let (mut one, mut two, mut other) =
        (Client::connect(&server), Client::connect(&server), Client::connect(&server));
    one.subscribe("a", "/topic/x");
    two.subscribe("b", "/topic/x");
    two.subscribe("c", "/topic/x");
    other.subscribe("a", "/topic/y");
    one.say("SEND\ndestination:/topic/x\ncolour:red\nreceipt:7\n\nhello\0");
    let message = |id| {
        format!(
            "MESSAGE\nsubscription:{id}\nmessage-id:1\ndestination:/topic/x\ncolour:red\ncontent-length:5\n\nhello\0"
        )
    };
    assert_eq!(one.hear(), message("a"));
    assert_eq!(one.hear(), "RECEIPT\nreceipt-id:7\n\n\0");
    assert_eq!((two.hear(), two.hear()), (message("b"), message("c")));
    two.say("UNSUBSCRIBE\nid:b\nreceipt:out\n\n\0");
    assert_eq!(two.hear(), "RECEIPT\nreceipt-id:out\n\n\0");
    one.say("SEND\ndestination:/topic/x\n\nagain\0");
    assert!(two.hear().starts_with("MESSAGE\nsubscription:c\nmessage-id:2\n"));
    // Nothing of the room x has come here.
    other.say("SEND\ndestination:/topic/y\n\nmine\0");
    assert!(other.hear().ends_with("\n\nmine\0"));
}

#[test]
fn two_senders_are_heard_in_one_order_by_all() {
    const EACH: usize = 200;
    let server = server(10);
    let mut listeners: Vec<Client> = (0..3).map(|_| Client::connect(&server)).collect();
    listeners.iter_mut().for_each(|listener| listener.subscribe("0", "/topic/x"));
    thread::scope(|scope| {
        for sender in ["a", "b"] {
            let mut client = Client::connect(&server);
            scope.spawn(move || {
                for n in 0..EACH {
                    client.say(&format!("SEND\ndestination:/topic/x\n\n{sender}{n}\0"));
                }
                // The receipt says that all before it has been read.
                client.say("DISCONNECT\nreceipt:end\n\n\0");
                assert_eq!(client.hear(), "RECEIPT\nreceipt-id:end\n\n\0");
            });
        }
    });
    let heard = |listener: &mut Client| -> Vec<String> { (0..2 * EACH).map(|_| listener.hear()).collect() };
    let orders: Vec<Vec<String>> = listeners.iter_mut().map(heard).collect();
    assert!(orders.iter().all(|order| *order == orders[0]));
    for sender in ["a", "b"] {
        let of_sender = |message: &&String| message.contains(&format!("\n\n{sender}"));
        let bodies: Vec<&str> =
            orders[0].iter().filter(of_sender).map(|message| message.rsplit('\n').next().unwrap()).collect();
        let sent: Vec<String> = (0..EACH).map(|n| format!("{sender}{n}\0")).collect();
        assert_eq!(bodies, sent);
    }
}

#[test]
fn one_above_the_bound_is_refused_with_the_reason_and_later_admitted() {
    let server = server(2);
    let (first, _second) = (Client::connect(&server), Client::connect(&server));
    match Client::dial(&server, "/ws").map(drop) {
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 503);
            let reason = String::from_utf8(response.into_body().unwrap()).unwrap();
            assert_eq!(reason, "all 2 threads have a connection (--threads-max)");
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    wait_for("the thread of the first is free", || server.shared.threads.load(Ordering::Relaxed) == 1);
    drop(Client::connect(&server));
}

#[test]
fn who_leaves_leaves_nothing() {
    let server = server(10);
    let mut polite = Client::connect(&server);
    polite.subscribe("0", "/topic/x");
    let mut rude = Client::connect(&server);
    rude.subscribe("0", "/topic/x");
    rude.subscribe("1", "/topic/y");
    assert_eq!(server.shared.rooms.count(), 2);
    drop(rude);
    polite.say("DISCONNECT\nreceipt:bye\n\n\0");
    assert_eq!(polite.hear(), "RECEIPT\nreceipt-id:bye\n\n\0");
    polite.0.close(None).unwrap();
    assert!(matches!(polite.0.read(), Ok(Message::Close(_))));
    wait_for("no room has members", || server.shared.rooms.count() == 0);
    wait_for("no thread is left", || server.shared.threads.load(Ordering::Relaxed) == 0);
}

#[test]
fn a_stomp_frame_may_come_in_pieces_and_several_in_one() {
    let server = server(2);
    let mut client = Client::connect(&server);
    let (one, two) =
        ("SUBSCRIBE\nid:0\ndesti", "nation:/topic/x\nreceipt:1\n\n\0\n\nSEND\ndestination:/topic/x\n\nhi\0");
    client.say(one);
    client.say(two);
    assert_eq!(client.hear(), "RECEIPT\nreceipt-id:1\n\n\0");
    assert!(client.hear().ends_with("\n\nhi\0"));
}

#[test]
fn broken_rules_are_answered_with_error_and_close() {
    let server = server(10);
    let cases = [
        ("SEND\n\nbody\0", "no header destination"),
        ("NONSENSE\n\n\0", "command"),
        ("BEGIN\ntransaction:1\n\n\0", "this server does not know BEGIN"),
        ("UNSUBSCRIBE\nid:9\n\n\0", "the session has no subscription with this id"),
    ];
    for (text, sentence) in cases {
        let mut client = Client::connect(&server);
        client.say(text);
        let error = client.hear();
        assert!(error.starts_with("ERROR\nmessage:") && error.contains(sentence), "{error}");
        assert_eq!(client.hear_close(), 1002);
    }
    let mut early = Client::dial(&server, "/ws").unwrap();
    early.say("SEND\ndestination:/topic/x\n\n\0");
    assert!(early.hear().contains("the first frame must be CONNECT"));
    let mut old = Client::dial(&server, "/ws").unwrap();
    old.say("CONNECT\naccept-version:1.1\nhost:here\n\n\0");
    assert!(old.hear().contains("STOMP 1.2 only"));
    assert!(
        matches!(Client::dial(&server, "/elsewhere").map(drop), Err(Error::Http(answer)) if answer.status() == 404)
    );
}

#[test]
fn heart_beats_are_sent_and_missed() {
    let server = server(2);
    let mut client = Client::dial(&server, "/ws").unwrap();
    client.say("CONNECT\naccept-version:1.2\nhost:here\nheart-beat:10,1\n\n\0");
    // Neither below what the server is ready for.
    assert!(client.hear().contains("\nheart-beat:1000,1000\n"));
    // It hears nothing for twice the interval and a second. Until then it beats.
    let mut beats = 0;
    loop {
        match client.0.read() {
            Ok(Message::Text(text)) if text.as_str() == "\n" => beats += 1,
            Ok(other) => panic!("{other}"),
            Err(_) => break,
        }
    }
    assert!(beats >= 1, "{beats} beats");
    wait_for("the silent one's thread is free", || server.shared.threads.load(Ordering::Relaxed) == 0);
}
