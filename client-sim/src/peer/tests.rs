//! The client's script against a server made of byte strings: any split of what the server says gives the
//! same outcome.

use proptest::prelude::*;
use tungstenite::handshake::derive_accept_key;

use super::script::Proof;
use super::upgrade::Upgrade;
use super::*;

const ME: Identity = Identity { client: 9, room: 3 };

#[derive(Debug, Default, PartialEq)]
struct Seen {
    heart_beats: HeartBeats,
    ready: u32,
    bodies: Vec<Vec<u8>>,
    receipts: u32,
    heart_beats_heard: u32,
}

impl Listener for Seen {
    fn connected(&mut self, heart_beats: HeartBeats) {
        self.heart_beats = heart_beats;
    }
    fn ready(&mut self) {
        self.ready += 1;
    }
    fn message(&mut self, body: &[u8]) {
        self.bodies.push(body.to_vec());
    }
    fn heart_beat(&mut self) {
        self.heart_beats_heard += 1;
    }
    fn receipt(&mut self) {
        self.receipts += 1;
    }
}

fn script() -> Script {
    let upgrade = Upgrade::new("ws://127.0.0.1:8080/ws").unwrap();
    let heart_beats = HeartBeats { out_ms: 30_000, in_ms: 10_000 };
    Script::new(upgrade, "127.0.0.1", heart_beats, &Proof::Password("me".into(), "it:s me".into()), "sim-1-")
}

#[test]
fn each_client_has_its_token() {
    let upgrade = Upgrade::new("ws://127.0.0.1:8080/ws").unwrap();
    let tokens = Proof::Tokens(vec!["a.b.c".into(), "d.e.f".into()]);
    let script = Script::new(upgrade, "h", HeartBeats::default(), &tokens, "sim-");
    let connect =
        |token: &str| format!("CONNECT\naccept-version:1.2\nhost:h\nheart-beat:0,0\npasscode:{token}\n\n\0");
    assert_eq!(
        [0, 1, 2].map(|client| script.connect(client).into_owned()),
        ["a.b.c", "d.e.f", "a.b.c"].map(connect)
    );
}

fn ws(payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 65_536);
    let mut bytes = vec![0x81];
    if payload.len() < 126 {
        bytes.push(payload.len() as u8);
    } else {
        bytes.push(126);
        bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn frame(command: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    stomp::encode(&mut payload, command, headers, body.as_bytes());
    payload
}

/// The text that a client wrote, with the masks taken off.
fn said(mut out: &[u8]) -> String {
    let mut text = String::new();
    while let [first, second, rest @ ..] = out {
        assert_eq!(second & 0x80, 0x80, "a client masks");
        let (len, rest) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            len => (usize::from(len), rest),
        };
        let (mask, rest) = rest.split_at(4);
        let payload: Vec<u8> = rest[..len].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
        text += &format!("[{:x}]{}", first & 15, String::from_utf8_lossy(&payload));
        out = &rest[len..];
    }
    text
}

fn feed(peer: &mut Peer, kit: &mut Kit, seen: &mut Seen, bytes: &[u8]) -> Result<String, Failure> {
    kit.out.clear();
    peer.receive(ME, bytes, &script(), kit, seen)?;
    Ok(said(&std::mem::take(&mut kit.out)))
}

fn accept() -> Vec<u8> {
    let mut request = Vec::new();
    script().upgrade.write_request(ME.client, &mut request);
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap().to_owned();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: v12.stomp\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
    .into_bytes()
}

fn connected() -> Vec<u8> {
    ws(&frame("CONNECTED", &[("version", "1.2"), ("heart-beat", "5000,60000")], ""))
}

fn ready(kit: &mut Kit, seen: &mut Seen) -> Peer {
    let mut peer = Peer::new();
    peer.connected(ME.client, &script(), kit);
    feed(&mut peer, kit, seen, &accept()).unwrap();
    feed(&mut peer, kit, seen, &connected()).unwrap();
    feed(&mut peer, kit, seen, &ws(&frame("RECEIPT", &[("receipt-id", SUBSCRIBED)], ""))).unwrap();
    assert_eq!(peer.phase(), Phase::Ready);
    peer
}

fn message(body: &str) -> Vec<u8> {
    let headers = [("destination", "/topic/sim-1-3"), ("message-id", "5"), ("subscription", "0")];
    frame("MESSAGE", &headers, body)
}

#[test]
fn the_whole_script() {
    let (mut kit, mut seen, mut peer) = (Kit::new(), Seen::default(), Peer::new());
    peer.connected(ME.client, &script(), &mut kit);
    assert!(kit.out.starts_with(b"GET /ws"));
    let connect = feed(&mut peer, &mut kit, &mut seen, &accept()).unwrap();
    assert!(connect.starts_with("[1]CONNECT\naccept-version:1.2\nhost:127.0.0.1\nheart-beat:30000,10000\n"));
    assert!(connect.contains("\nlogin:me\npasscode:it:s me\n"), "CONNECT is not escaped");
    let subscribe = feed(&mut peer, &mut kit, &mut seen, &connected()).unwrap();
    assert_eq!(subscribe, "[1]SUBSCRIBE\nid:0\ndestination:/topic/sim-1-3\nreceipt:subscribed\n\n\0");
    assert_eq!(seen.heart_beats, HeartBeats { out_ms: 60_000, in_ms: 10_000 });
    feed(&mut peer, &mut kit, &mut seen, &ws(&frame("RECEIPT", &[("receipt-id", SUBSCRIBED)], ""))).unwrap();
    assert_eq!((peer.phase(), seen.ready), (Phase::Ready, 1));

    peer.send("/topic/sim-1-3", b"hi", Some("1"), &mut kit).unwrap();
    assert!(said(&kit.out).ends_with("content-length:2\nreceipt:1\n\nhi\0"));
    feed(&mut peer, &mut kit, &mut seen, &ws(&message("hi"))).unwrap();
    feed(&mut peer, &mut kit, &mut seen, &ws(&frame("RECEIPT", &[("receipt-id", "1")], ""))).unwrap();
    assert_eq!((&seen.bodies[..], seen.receipts), (&[b"hi".to_vec()][..], 1));
    kit.out.clear();
    peer.beat(&mut kit).unwrap();
    assert_eq!(said(&kit.out), "[1]\n");

    kit.out.clear();
    peer.part(&mut kit).unwrap();
    assert_eq!(said(&kit.out), "[1]DISCONNECT\nreceipt:parted\n\n\0");
    let close = feed(&mut peer, &mut kit, &mut seen, &ws(&frame("RECEIPT", &[("receipt-id", PARTED)], "")));
    assert_eq!(close.unwrap(), "[8]\u{3}\u{fffd}");
    assert_eq!(peer.phase(), Phase::Closing);
    assert!(peer.receive_end().is_err(), "the end comes after the close");
    feed(&mut peer, &mut kit, &mut seen, b"\x88\x02\x03\xe8").unwrap();
    assert_eq!((peer.phase(), peer.receive_end()), (Phase::Closed, Ok(())));
}

#[test]
fn an_idle_client_keeps_nothing() {
    let (mut kit, mut seen) = (Kit::new(), Seen::default());
    let peer = ready(&mut kit, &mut seen);
    assert!(peer.busy.is_none());
    assert_eq!(size_of::<Peer>(), 16);
}

#[test]
fn what_a_server_must_not_do_is_named() {
    let kind = |bytes: &[u8]| {
        let (mut kit, mut seen) = (Kit::new(), Seen::default());
        let mut peer = ready(&mut kit, &mut seen);
        feed(&mut peer, &mut kit, &mut seen, bytes).unwrap_err()
    };
    let error = kind(&ws(&frame("ERROR", &[("message", "slow consumer")], "more")));
    assert_eq!((error.kind, error.detail.as_str()), (Kind::StompError, "slow consumer; more"));
    assert_eq!(kind(b"\x88\x06\x03\xe9away").kind, Kind::ClosedByServer(1001));
    assert_eq!(kind(b"\x88\x00").kind, Kind::ClosedByServer(1005));
    assert_eq!(kind(&connected()).detail, "CONNECTED while Ready");
    let elsewhere = [("destination", "/topic/sim-1-4"), ("message-id", "5"), ("subscription", "0")];
    assert_eq!(kind(&ws(&frame("MESSAGE", &elsewhere, ""))).detail, "MESSAGE of another destination");
    let bare = [("destination", "/topic/sim-1-3"), ("subscription", "0")];
    assert_eq!(kind(&ws(&frame("MESSAGE", &bare, ""))).kind, Kind::Protocol);
}

#[test]
fn a_server_may_close_first_once_the_receipt_is_out() {
    let goodbye =
        [ws(&frame("RECEIPT", &[("receipt-id", PARTED)], "")), b"\x88\x02\x03\xe8".to_vec()].concat();
    for cut in 0..goodbye.len() {
        let (mut kit, mut seen) = (Kit::new(), Seen::default());
        let mut peer = ready(&mut kit, &mut seen);
        peer.part(&mut kit).unwrap();
        let mut said = String::new();
        for piece in [&goodbye[..cut], &goodbye[cut..]] {
            said += &feed(&mut peer, &mut kit, &mut seen, piece).unwrap();
        }
        assert_eq!((peer.phase(), peer.receive_end()), (Phase::Closed, Ok(())), "cut at {cut}");
        assert_eq!(said.matches("[8]").count(), 1, "one close frame is sent: {said}");
    }
}

#[test]
fn a_closing_client_still_counts_what_was_under_way() {
    let (mut kit, mut seen) = (Kit::new(), Seen::default());
    let mut peer = ready(&mut kit, &mut seen);
    peer.part(&mut kit).unwrap();
    feed(&mut peer, &mut kit, &mut seen, &ws(&message("one"))).unwrap();
    feed(&mut peer, &mut kit, &mut seen, &ws(&frame("RECEIPT", &[("receipt-id", PARTED)], ""))).unwrap();
    feed(&mut peer, &mut kit, &mut seen, &ws(&message("two"))).unwrap();
    assert_eq!(seen.bodies.len(), 2);
}

/// Everything a server says to a client that becomes ready and gets three messages, in odd packings.
#[test]
fn equal_bytes_are_told_again_and_unequal_ones_are_read() {
    let (mut kit, mut seen) = (Kit::new(), Seen::default());
    let mut peers = [ready(&mut kit, &mut seen), ready(&mut kit, &mut seen), ready(&mut kit, &mut seen)];
    seen.bodies.clear();
    let two = [ws(&message("one")), ws(&message("two"))].concat();
    feed(&mut peers[0], &mut kit, &mut seen, &two).unwrap();
    feed(&mut peers[1], &mut kit, &mut seen, &two).unwrap();
    assert_eq!(seen.bodies, [&b"one"[..], b"two", b"one", b"two"]);
    // One byte of the second message is another: it is read, and what is wrong in it is found.
    let mut damaged = two.clone();
    let at = damaged.windows(7).rposition(|window| window == b"MESSAGE").unwrap();
    damaged[at] = b'N';
    let failure = feed(&mut peers[2], &mut kit, &mut seen, &damaged).unwrap_err();
    assert_eq!(failure.kind, Kind::Protocol);
}

#[test]
fn bytes_of_another_room_are_no_twins() {
    let (mut kit, mut seen) = (Kit::new(), Seen::default());
    let mut peers = [ready(&mut kit, &mut seen), ready(&mut kit, &mut seen)];
    let bytes = ws(&message("here"));
    feed(&mut peers[0], &mut kit, &mut seen, &bytes).unwrap();
    let elsewhere = Identity { client: 10, room: ME.room + 1 };
    let failure = peers[1].receive(elsewhere, &bytes, &script(), &mut kit, &mut seen).unwrap_err();
    assert!(failure.detail.contains("another destination"), "{failure:?}");
}

fn conversation() -> Vec<u8> {
    let mut bytes = accept();
    bytes.extend(b"\x89\x02hi");
    bytes.extend(connected());
    bytes.extend(ws(b"\n"));
    bytes.extend(ws(&frame("RECEIPT", &[("receipt-id", SUBSCRIBED)], "")));
    // One frame over two WebSocket messages, the second of them fragmented; then two frames in one.
    let long = message(&"x".repeat(300));
    let (first, second) = long.split_at(100);
    bytes.extend(ws(first));
    bytes.extend([0x01, 10]);
    bytes.extend(&second[..10]);
    bytes.extend(b"\x8a\x00\x80\x7e");
    bytes.extend(((second.len() - 10) as u16).to_be_bytes());
    bytes.extend(&second[10..]);
    bytes.extend(ws(&[message("a"), b"\n\n".to_vec(), message("b")].concat()));
    bytes
}

proptest! {
    #[test]
    fn any_split_gives_the_same_outcome(cuts in proptest::collection::vec(1usize..200, 1..100)) {
        let (mut kit, mut seen, mut peer) = (Kit::new(), Seen::default(), Peer::new());
        peer.connected(ME.client, &script(), &mut kit);
        kit.out.clear();
        let bytes = conversation();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            peer.receive(ME, piece, &script(), &mut kit, &mut seen).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(seen.ready, 1);
        let lengths: Vec<_> = seen.bodies.iter().map(Vec::len).collect();
        prop_assert_eq!(lengths, [300, 1, 1]);
        prop_assert!(peer.busy.is_none());
        let said = said(&kit.out);
        prop_assert!(said.contains("[a]hi"), "the ping is answered: {}", said);
        prop_assert_eq!(said.matches("SUBSCRIBE").count(), 1);
    }
}
