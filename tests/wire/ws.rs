//! WebSocket framing: any cut gives the same result, and tungstenite, written by others, agrees.

use proptest::prelude::*;
use tcbchat::wire::ws::{Kind, Limits, Opcode, Role, WsError, apply_mask, encode_header};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{CloseFrame, Role as PeerRole, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use crate::pipe::Pipe;
use crate::ws_checks::{self, Item, LIMITS, Outcome, check, read, run};

const WIDE: Limits = Limits { frame_bytes_max: 1 << 20, message_bytes_max: 1 << 20, fragments_max: 1 << 20 };

/// What one side sends: a message in fragments, with control frames between them; or a control frame.
#[derive(Debug, Clone)]
enum Sent {
    Message { kind: Kind, fragments: Vec<Vec<u8>>, ping_between: Option<Vec<u8>> },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn payload(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    // The lengths around which headers change their form, and small ones.
    let len = prop_oneof![8 => 0usize..40, 2 => 120usize..130, 1 => 65_530usize..65_540];
    match kind {
        Kind::Binary => (len, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]).boxed(),
        Kind::Text => (len, any::<char>(), "\\PC{0,12}")
            .prop_map(|(len, c, text)| (text + &c.to_string().repeat(len / c.len_utf8())).into_bytes())
            .boxed(),
    }
}

fn cut(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<Vec<u8>> {
    cuts.iter_mut().for_each(|cut| *cut %= bytes.len() + 1);
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

fn sent() -> impl Strategy<Value = Sent> {
    let control = prop::collection::vec(any::<u8>(), 0..=125);
    let kind = prop_oneof![Just(Kind::Text), Just(Kind::Binary)];
    let message = kind.prop_flat_map(|kind| (Just(kind), payload(kind)));
    let cuts = prop_oneof![3 => Just(vec![]), 2 => prop::collection::vec(any::<usize>(), 1..4)];
    prop_oneof![
        4 => (message, cuts, prop::option::of(control.clone())).prop_map(|((kind, bytes), cuts, ping_between)| {
            Sent::Message { kind, fragments: cut(&bytes, cuts), ping_between }
        }),
        1 => control.clone().prop_map(Sent::Ping),
        1 => control.prop_map(Sent::Pong),
    ]
}

fn close() -> impl Strategy<Value = Option<Option<(u16, String)>>> {
    let code = prop_oneof![1000u16..=1003, 1007u16..=1011, 3000u16..=4999];
    prop::option::of(prop::option::of((code, "\\PC{0,30}")))
}

fn chunks() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..8, 1usize..300], 1..5)
}

/// What the other side should see.
fn items(all: &[Sent], close: &Option<Option<(u16, String)>>) -> Vec<Item> {
    let mut items = Vec::new();
    for sent in all {
        match sent {
            Sent::Message { kind, fragments, ping_between } => {
                for ping in ping_between.iter().cycle().take(fragments.len() - 1) {
                    items.push(Item::Ping(ping.clone()));
                }
                items.push(Item::Message(*kind, fragments.concat()));
            }
            Sent::Ping(payload) => items.push(Item::Ping(payload.clone())),
            Sent::Pong(payload) => items.push(Item::Pong(payload.clone())),
        }
    }
    items.extend(close.clone().map(Item::Close));
    items
}

/// The bytes of tungstenite's client.
fn written_by_peer(all: &[Sent], close: Option<Option<(u16, String)>>) -> Vec<u8> {
    let mut peer = WebSocket::from_raw_socket(Pipe::open(), PeerRole::Client, None);
    for sent in all.iter().cloned() {
        match sent {
            Sent::Message { kind, fragments, ping_between } => {
                let last = fragments.len() - 1;
                for (index, fragment) in fragments.into_iter().enumerate() {
                    if index > 0
                        && let Some(ping) = &ping_between
                    {
                        peer.write(Message::Ping(ping.clone().into())).expect("ping");
                    }
                    let data = match kind {
                        _ if index > 0 => Data::Continue,
                        Kind::Text => Data::Text,
                        Kind::Binary => Data::Binary,
                    };
                    let frame = Frame::message(fragment, OpCode::Data(data), index == last);
                    peer.write(Message::Frame(frame)).expect("fragment");
                }
            }
            Sent::Ping(payload) => peer.write(Message::Ping(payload.into())).expect("ping"),
            Sent::Pong(payload) => {
                // tungstenite keeps one pong, and writes it when it flushes.
                peer.write(Message::Pong(payload.into())).expect("pong");
                peer.flush().expect("flush");
            }
        }
    }
    if let Some(close) = close {
        let close = close.map(|(code, reason)| CloseFrame { code: code.into(), reason: reason.into() });
        peer.close(close).expect("close");
    }
    peer.flush().expect("flush");
    std::mem::take(&mut peer.get_mut().output)
}

/// What tungstenite reads, until the stream ends, closes or fails; and whether it failed.
fn read_by_peer(bytes: Vec<u8>, role: PeerRole, config: Option<WebSocketConfig>) -> (Vec<Item>, bool) {
    let mut peer = WebSocket::from_raw_socket(Pipe::closed(bytes), role, config);
    let mut items = Vec::new();
    loop {
        match peer.read() {
            Ok(Message::Text(text)) => items.push(Item::Message(Kind::Text, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => items.push(Item::Message(Kind::Binary, bytes.to_vec())),
            Ok(Message::Ping(payload)) => items.push(Item::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => items.push(Item::Pong(payload.to_vec())),
            Ok(Message::Close(close)) => {
                let close = close.map(|close| (close.code.into(), close.reason.as_str().to_owned()));
                items.push(Item::Close(close));
                return (items, false);
            }
            Ok(Message::Frame(frame)) => panic!("a raw frame was read: {frame}"),
            Err(Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
                return (items, false);
            }
            Err(_) => return (items, true),
        }
    }
}

/// One frame with everything about it as likely right as wrong.
#[derive(Debug, Clone)]
struct Raw {
    fin: bool,
    rsv: u8,
    opcode: u8,
    masked: bool,
    /// Bytes of extended length, if not the fewest.
    long_form: Option<usize>,
    payload: Vec<u8>,
}

fn raw() -> impl Strategy<Value = Raw> {
    let opcode = prop_oneof![4 => Just(0u8), 6 => 1u8..=2, 4 => 8u8..=10, 1 => 0u8..16];
    let byte = prop_oneof![4 => any::<u8>(), 4 => 0x20u8..0x7F, 2 => prop::sample::select(&[0xC3u8, 0xA4, 0xE2, 0x82][..])];
    let payload = prop_oneof![
        4 => prop::collection::vec(byte, 0..12),
        4 => "\\PC{0,20}".prop_map(String::into_bytes),
        2 => (any::<u16>(), "\\PC{0,9}").prop_map(|(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat()),
        2 => (prop::sample::select(&[1000u16, 1002, 1005, 1011, 1012, 3000][..])).prop_map(|code| code.to_be_bytes().to_vec()),
        1 => (120usize..310).prop_map(|len| vec![b'x'; len]),
    ];
    (
        prop::bool::weighted(0.7),
        prop_oneof![20 => Just(0u8), 1 => 1u8..8],
        opcode,
        prop::bool::weighted(0.97),
        prop::option::weighted(0.03, prop::sample::select(&[2usize, 8][..])),
        payload,
    )
        .prop_map(|(fin, rsv, opcode, masked, long_form, payload)| Raw {
            fin,
            rsv,
            opcode,
            masked,
            long_form,
            payload,
        })
}

fn encode_raw(raw: &Raw) -> Vec<u8> {
    let len = raw.payload.len();
    let form = raw.long_form.unwrap_or(if len < 126 { 0 } else { 2 });
    let mask_bit = u8::from(raw.masked) << 7;
    let mut out = vec![u8::from(raw.fin) << 7 | raw.rsv << 4 | raw.opcode];
    match form {
        0 => out.push(mask_bit | len as u8),
        2 => {
            out.push(mask_bit | 126);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    let mut payload = raw.payload.clone();
    if raw.masked {
        let key = [0x5A, 0xA5, 0x0F, len as u8];
        out.extend(key);
        apply_mask(&mut payload, key);
    }
    out.extend(payload);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_the_peer_writes_is_read(all in prop::collection::vec(sent(), 0..8), close in close(), chunks in chunks()) {
        let bytes = written_by_peer(&all, close.clone());
        let outcome = read(Role::Server, &bytes, &chunks, &WIDE);
        prop_assert_eq!(outcome, Outcome { items: items(&all, &close), open: None, error: None });
    }

    #[test]
    fn what_is_written_the_peer_reads(all in prop::collection::vec(sent(), 0..8), close in close()) {
        let items = items(&all, &close);
        let (read, failed) = read_by_peer(ws_checks::encode(&items), PeerRole::Client, None);
        prop_assert_eq!(read, items);
        prop_assert!(!failed);
    }

    #[test]
    fn fragments_that_are_written_the_peer_reads(bytes in payload(Kind::Text), cuts in prop::collection::vec(any::<usize>(), 0..5)) {
        let mut out = Vec::new();
        let fragments = cut(&bytes, cuts);
        for (index, fragment) in fragments.iter().enumerate() {
            let opcode = if index == 0 { Opcode::Text } else { Opcode::Continuation };
            encode_header(None, opcode, index + 1 == fragments.len(), fragment.len() as u64, &mut out);
            out.extend_from_slice(fragment);
        }
        let (read, failed) = read_by_peer(out, PeerRole::Client, None);
        prop_assert_eq!(read, vec![Item::Message(Kind::Text, bytes)]);
        prop_assert!(!failed);
    }

    #[test]
    fn wrong_frames_get_the_same_verdict_as_from_the_peer(all in prop::collection::vec(raw(), 0..7)) {
        let bytes: Vec<u8> = all.iter().flat_map(encode_raw).collect();
        let limits = Limits { fragments_max: u32::MAX, ..LIMITS };
        let ours = read(Role::Server, &bytes, &[usize::MAX], &limits);
        let config = WebSocketConfig::default()
            .max_frame_size(Some(limits.frame_bytes_max as usize))
            .max_message_size(Some(limits.message_bytes_max as usize));
        let (theirs, failed) = read_by_peer(bytes, PeerRole::Server, Some(config));
        match ours.error {
            // Rules that tungstenite lets pass (of a control frame, a length in long form): it may go on.
            Some(WsError::LengthNotMinimal | WsError::LengthOutOfRange | WsError::ControlTooLong) => {
                prop_assert_eq!(&theirs[..ours.items.len()], &ours.items[..]);
            }
            // It makes a close of its own from one with such a code, if its reason is UTF-8.
            Some(WsError::CloseCode) if !failed => {
                prop_assert_eq!(&theirs[..theirs.len() - 1], &ours.items[..]);
                let is_protocol_error = matches!(theirs.last(), Some(Item::Close(Some((1002, _)))));
                prop_assert!(is_protocol_error, "{:?}", theirs);
            }
            error => {
                prop_assert_eq!(theirs, ours.items);
                prop_assert_eq!(failed, error.is_some());
            }
        }
    }

    #[test]
    fn frames_right_and_wrong_give_the_same_in_any_cut(
        all in prop::collection::vec(raw(), 0..7),
        chunks in chunks(),
        lost in prop_oneof![3 => Just(0usize), 1 => 0usize..20],
    ) {
        let mut bytes: Vec<u8> = all.iter().flat_map(encode_raw).collect();
        bytes.truncate(bytes.len().saturating_sub(lost));
        check(Role::Server, &bytes, &chunks);
    }

    #[test]
    fn any_bytes_give_the_same_in_any_cut(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        run(&bytes);
    }
}
