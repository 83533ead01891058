//! WebSocket framing under STOMP: fragments, broken frames, the closing handshake.

use std::io::{Read, Write};
use std::net::Shutdown;

use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::Setup;
use crate::support::{Client, Frame};

on_one_and_three_reactors!(
    fragments_with_a_ping_between_them,
    utf8_across_fragments,
    broken_frames,
    oversized,
    what_was_said_before_the_end_has_its_receipts,
    an_end_comes_behind_what_waits_for_a_full_room,
    a_close_is_answered_with_its_code,
    the_server_closes_and_is_answered,
);

pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// A masked ws_frame with this first byte.
pub fn ws_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    out
}

/// Writes past tungstenite.
pub fn write_raw(client: &mut Client, bytes: impl AsRef<[u8]>) {
    client.socket().get_mut().write_all(bytes.as_ref()).unwrap();
}

fn fragments_with_a_ping_between_them(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.subscribe("s", "/topic/fragments");
    write_raw(&mut client, ws_frame(TEXT, b"SEND\ndestination:/topic/fra"));
    write_raw(&mut client, ws_frame(FIN | PING, b"are you there"));
    assert_eq!(client.next_message(), Message::Pong("are you there".into()));
    write_raw(&mut client, ws_frame(CONTINUATION, b""));
    write_raw(&mut client, ws_frame(CONTINUATION, b"gments\n\nin "));
    write_raw(&mut client, ws_frame(FIN | CONTINUATION, b"parts\0"));
    assert_eq!(client.expect_body(), "in parts");
    client.disconnect();
}

fn utf8_across_fragments(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.subscribe("s", "/topic/utf8");
    write_raw(&mut client, ws_frame(TEXT, b"SEND\ndestination:/topic/utf8\n\n"));
    for byte in "grüße 🦀".bytes() {
        write_raw(&mut client, ws_frame(CONTINUATION, &[byte]));
    }
    write_raw(&mut client, ws_frame(FIN | CONTINUATION, b"\0"));
    assert_eq!(client.expect_body(), "grüße 🦀");

    // Refused at the first wrong byte, although the message is not complete.
    write_raw(&mut client, ws_frame(TEXT, b"SEND\ndestination:/topic/utf8\n\n\xc3"));
    write_raw(&mut client, ws_frame(CONTINUATION, b"("));
    assert_eq!(client.expect_close(), (1007, "text message is not UTF-8".into()));
}

fn broken_frames(setup: Setup) {
    let server = setup.server();
    let close = |code: u16| ws_frame(FIN | CLOSE, &code.to_be_bytes());
    let long_ping = [FIN | PING, 0x80 | 126, 0, 126, 0, 0, 0, 0];
    let mut cases = vec![
        (ws_frame(FIN | 0x40 | TEXT, b"x"), 1002, "reserved bits set without an extension"),
        (ws_frame(FIN | 3, b""), 1002, "reserved opcode"),
        (vec![FIN | TEXT, 1, b'x'], 1002, "frame of a client without mask"),
        (ws_frame(PING, b""), 1002, "fragmented control frame"),
        (long_ping.to_vec(), 1002, "control frame longer than 125 bytes"),
        (vec![FIN | TEXT, 0x80 | 126, 0, 125, 0, 0, 0, 0], 1002, "length not in its shortest form"),
        (
            vec![FIN | TEXT, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            1002,
            "length with its top bit set",
        ),
        (ws_frame(FIN | CONTINUATION, b"x"), 1002, "continuation without a message"),
        (
            [ws_frame(TEXT, b"\n"), ws_frame(FIN | TEXT, b"\n")].concat(),
            1002,
            "new message inside a fragmented one",
        ),
        (ws_frame(FIN | CLOSE, b"\x03"), 1002, "close payload of one byte"),
        (ws_frame(FIN | TEXT, b"\xff"), 1007, "text message is not UTF-8"),
        (ws_frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007, "close reason is not UTF-8"),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        cases.push((close(code), 1002, "close code that must not be sent"));
    }
    let mut neighbour = Client::connect(&server);
    neighbour.subscribe("s", "/topic/neighbour");
    for (bytes, code, reason) in cases {
        let mut client = Client::connect(&server);
        client.subscribe("s", "/topic/neighbour");
        // What was complete before the broken frame has been dealt with.
        let sent = Frame::new("SEND").header("destination", "/topic/neighbour").body(reason).encode();
        write_raw(&mut client, [ws_frame(FIN | TEXT, &sent), bytes].concat());
        assert_eq!(neighbour.expect_body(), reason);
        loop {
            match client.next_message() {
                // Its own message may come first, or not at all.
                Message::Text(text) if text.starts_with("MESSAGE") => {}
                Message::Close(Some(close)) => {
                    assert_eq!((u16::from(close.code), close.reason.as_str()), (code, reason));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    // Nobody else left the room, and nobody else was told anything.
    neighbour.publish("/topic/neighbour", "undisturbed");
    assert_eq!(neighbour.expect_body(), "undisturbed");
    neighbour.disconnect();
}

fn oversized(setup: Setup) {
    let configuration = "[stomp]\nbody_bytes_max = 100\n\
        [websocket]\nframe_bytes_max = 20_000\nmessage_bytes_max = 30_000\nfragments_max = 4";
    let server = setup.server_with(configuration, &[]);
    let blanks = "\n".repeat(20_000);
    let header = [FIN | TEXT, 0x80 | 126, 0x4e, 0x21, 0, 0, 0, 0];
    for (bytes, reason) in [
        // The header alone is enough.
        (header.to_vec(), "frame longer than frame_bytes_max"),
        (
            [ws_frame(TEXT, blanks.as_bytes()), ws_frame(CONTINUATION, &blanks.as_bytes()[..10_001])]
                .concat(),
            "message longer than message_bytes_max",
        ),
        (
            [ws_frame(TEXT, b"\n"), ws_frame(CONTINUATION, b"\n").repeat(4)].concat(),
            "more fragments than fragments_max",
        ),
    ] {
        let mut client = Client::connect(&server);
        write_raw(&mut client, bytes);
        assert_eq!(client.expect_close(), (1009, reason.into()));
    }
    server.await_metric("bounds_refused_total", |count| count == 3);
}

/// Whatever the session ends by, and whichever reactors' rooms it has sent to.
fn what_was_said_before_the_end_has_its_receipts(setup: Setup) {
    const SENDS: u32 = 20;
    const ROOMS: u32 = 5;
    let server = setup.server();
    let mut listener = Client::connect(&server);
    for room in 0..ROOMS {
        listener.subscribe(&room.to_string(), &format!("/topic/before.{room}"));
    }
    let too_long = format!("SEND\ndestination:/topic/before\nreceipt:{}\n\n\0", "r".repeat(300));
    let ends = [
        ws_frame(FIN | TEXT, b"NONSENSE\n\n\0"),
        ws_frame(FIN | TEXT, b"UNSUBSCRIBE\nid:unknown\n\n\0"),
        ws_frame(FIN | TEXT, too_long.as_bytes()),
        // Not masked.
        vec![FIN | TEXT, 1, b'\n'],
        ws_frame(FIN | CLOSE, &1000_u16.to_be_bytes()),
        // Its stream ends.
        Vec::new(),
    ];
    for (case, end) in ends.iter().enumerate() {
        let mut client = Client::connect(&server);
        let mut bytes = Vec::new();
        for number in 0..SENDS {
            let room = number % ROOMS;
            let send =
                format!("SEND\ndestination:/topic/before.{room}\nreceipt:{case}-{number}\n\n{number}\0");
            bytes.extend(ws_frame(FIN | TEXT, send.as_bytes()));
        }
        bytes.extend(end);
        write_raw(&mut client, bytes);
        if end.is_empty() {
            client.socket().get_mut().shutdown(Shutdown::Write).unwrap();
        }
        let mut heard = Vec::new();
        for number in 0..SENDS {
            let receipt = client.expect("RECEIPT");
            assert_eq!(receipt.get("receipt-id"), Some(&*format!("{case}-{number}")));
            heard.push(listener.expect_body().parse::<u32>().unwrap());
        }
        // Several rooms have no order between them.
        heard.sort_unstable();
        assert!(heard.into_iter().eq(0..SENDS));
        match [1002, 1002, 1009, 1002, 1000].get(case) {
            Some(code) if case < 3 => assert_eq!(client.expect_error().1, *code, "case {case}"),
            Some(code) => assert_eq!(client.expect_close().0, *code, "case {case}"),
            None => assert_eq!(client.socket().get_mut().read(&mut [0]).unwrap(), 0),
        }
    }
    assert_eq!(server.metric("receipts_lost_total"), 0);
}

/// A session whose publications wait for a full room has their receipts before its end.
fn an_end_comes_behind_what_waits_for_a_full_room(setup: Setup) {
    const SENDS: u32 = 200;
    let server = setup.server_with("[rooms]\npending_bytes_max = 8192\n", &[]);
    let mut members: Vec<Client> = (0..100).map(|_| Client::connect(&server)).collect();
    members.iter_mut().for_each(|member| member.subscribe("s", "/topic/full"));
    let body = "x".repeat(1300);
    let mut publisher = Client::connect(&server);
    let mut bytes = Vec::new();
    for number in 0..SENDS {
        let send = format!("SEND\ndestination:/topic/full\nreceipt:{number}\n\n{body}\0");
        bytes.extend(ws_frame(FIN | TEXT, send.as_bytes()));
    }
    bytes.extend(ws_frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
    write_raw(&mut publisher, bytes);
    for number in 0..SENDS {
        assert_eq!(publisher.expect("RECEIPT").get("receipt-id"), Some(&*number.to_string()));
    }
    assert_eq!(publisher.expect_close().0, 1000);
    for member in &mut members {
        (0..SENDS).for_each(|_| assert_eq!(member.expect_body(), body));
    }
    server.await_metric("publications_parked_total", |count| count > 0);
    assert_eq!(server.metric("receipts_lost_total"), 0);
}

fn a_close_is_answered_with_its_code(setup: Setup) {
    let server = setup.server();
    for code in [1000, 1001, 1011, 3000, 4999] {
        let mut client = Client::connect(&server);
        let reason = "leaving".into();
        client.socket().close(Some(CloseFrame { code: CloseCode::from(code), reason })).unwrap();
        assert_eq!(client.expect_close().0, code);
    }
    let mut client = Client::connect(&server);
    client.socket().close(None).unwrap();
    assert_eq!(client.expect_close().0, 1000);
}

fn the_server_closes_and_is_answered(setup: Setup) {
    // Longer than a read of the client waits: only the client's answer can end the connection in time.
    let server = setup.server_with("[websocket]\nclose_timeout_ms = 600_000", &[]);
    let mut client = Client::connect(&server);
    client.send_confirmed(Frame::new("DISCONNECT"));
    // What is said after that is thrown away.
    write_raw(&mut client, ws_frame(FIN | TEXT, b"SEND\ndestination:/queue/late\n\nlate\0"));
    assert_eq!(client.expect_close(), (1000, String::new()));
    assert_eq!(server.await_metric("connections_open", |open| open <= 1), 1, "only the scrape itself");
    server.await_metric("queue_messages", |count| count == 0);
}
