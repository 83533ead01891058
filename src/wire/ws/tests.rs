//! The decoder, rule by rule. What holds for all inputs is in `tests/wire`.

use super::*;

const LIMITS: Limits = Limits { frame_bytes_max: 1000, message_bytes_max: 1500, fragments_max: 4 };

/// What came out, with nothing borrowed and the pieces of a message joined.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message(Kind, Vec<u8>),
    Partial(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(WsError),
}

fn read_all(role: Role, bytes: &[u8], chunk: usize) -> Vec<Seen> {
    let mut decoder = Decoder::new(role);
    let mut seen = Vec::new();
    let mut open: Option<(Kind, Vec<u8>)> = None;
    'input: for piece in bytes.chunks(chunk) {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() {
            let consumed = match decoder.decode(rest, &LIMITS) {
                Ok((consumed, None)) => consumed,
                Ok((consumed, Some(event))) => {
                    match event {
                        Event::Data { kind, payload, start, end } => {
                            assert_eq!(start, open.is_none());
                            let message = open.get_or_insert((kind, Vec::new()));
                            message.1.extend_from_slice(payload);
                            if end {
                                seen.extend(open.take().map(|(kind, bytes)| Seen::Message(kind, bytes)));
                            }
                        }
                        Event::Ping(payload) => seen.push(Seen::Ping(payload.to_vec())),
                        Event::Pong(payload) => seen.push(Seen::Pong(payload.to_vec())),
                        Event::Close(close) => {
                            seen.push(Seen::Close(close.map(|(code, reason)| (code, reason.to_owned()))));
                        }
                    }
                    consumed
                }
                Err(error) => {
                    seen.extend(open.take().map(|(kind, bytes)| Seen::Partial(kind, bytes)));
                    seen.push(Seen::Failed(error));
                    break 'input;
                }
            };
            rest = &mut rest[consumed..];
        }
    }
    seen.extend(open.take().map(|(kind, bytes)| Seen::Partial(kind, bytes)));
    seen
}

/// Reads as a client (unmasked), whole and byte by byte.
fn read(bytes: &[u8]) -> Vec<Seen> {
    let whole = read_all(Role::Client, bytes, bytes.len().max(1));
    assert_eq!(read_all(Role::Client, bytes, 1), whole);
    whole
}

fn frame(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_header(None, opcode, fin, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

#[test]
fn the_masked_hello_of_the_rfc() {
    // Section 5.7.
    let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    for chunk in 1..=bytes.len() {
        assert_eq!(read_all(Role::Server, &bytes, chunk), [Seen::Message(Kind::Text, b"Hello".to_vec())]);
    }
}

#[test]
fn fragments_with_a_ping_between() {
    let bytes = [
        frame(Opcode::Text, false, "gr\u{fc}".as_bytes().split_at(3).0),
        frame(Opcode::Ping, true, b"?"),
        frame(Opcode::Continuation, false, b""),
        frame(Opcode::Continuation, true, "\u{fc}\u{df}e".as_bytes().split_at(1).1),
        frame(Opcode::Binary, true, b""),
        frame(Opcode::Pong, true, b"!"),
    ]
    .concat();
    assert_eq!(
        read(&bytes),
        [
            Seen::Ping(b"?".to_vec()),
            Seen::Message(Kind::Text, "gr\u{fc}\u{df}e".as_bytes().to_vec()),
            Seen::Message(Kind::Binary, vec![]),
            Seen::Pong(b"!".to_vec()),
        ]
    );
}

#[test]
fn a_piece_is_given_as_soon_as_it_comes() {
    let mut bytes = frame(Opcode::Binary, true, &[7; 10]);
    let mut decoder = Decoder::new(Role::Client);
    let (consumed, event) = decoder.decode(&mut bytes[..5], &LIMITS).unwrap();
    assert_eq!(consumed, 5);
    assert_eq!(
        event,
        Some(Event::Data { kind: Kind::Binary, payload: &mut [7; 3], start: true, end: false })
    );
    assert!(!decoder.is_clean());
    let (consumed, event) = decoder.decode(&mut bytes[5..], &LIMITS).unwrap();
    assert_eq!(consumed, 7);
    assert_eq!(
        event,
        Some(Event::Data { kind: Kind::Binary, payload: &mut [7; 7], start: false, end: true })
    );
    assert!(decoder.is_clean());
}

#[test]
fn clean_is_between_messages_only() {
    let mut decoder = Decoder::new(Role::Client);
    assert!(decoder.is_clean());
    for (bytes, clean) in [
        (frame(Opcode::Text, false, b"a"), false),
        (frame(Opcode::Ping, true, b""), false),
        (frame(Opcode::Continuation, true, b"b"), true),
        (vec![0x81], false),
        (vec![0x00], true),
        (frame(Opcode::Close, true, b""), false),
    ] {
        let mut bytes = bytes;
        let (consumed, _) = decoder.decode(&mut bytes, &LIMITS).unwrap();
        assert_eq!(consumed, bytes.len());
        assert_eq!(decoder.is_clean(), clean, "{bytes:x?}");
    }
}

#[test]
fn close_ends_the_stream() {
    let mut bytes = Vec::new();
    encode_close(1000, "bye", &mut bytes);
    bytes.extend_from_slice(&[0xFF; 20]);
    assert_eq!(read(&bytes), [Seen::Close(Some((1000, "bye".to_owned())))]);
    assert_eq!(read(&frame(Opcode::Close, true, b"")), [Seen::Close(None)]);
}

#[test]
fn every_rule_has_its_refusal() {
    let text = || frame(Opcode::Text, false, b"a");
    for (bytes, error) in [
        (vec![0xC1, 0x00], WsError::ReservedBits),
        (vec![0xA1, 0x00], WsError::ReservedBits),
        (vec![0x91, 0x00], WsError::ReservedBits),
        (vec![0x83, 0x00], WsError::ReservedOpcode),
        (vec![0x87, 0x00], WsError::ReservedOpcode),
        (vec![0x8B, 0x00], WsError::ReservedOpcode),
        (vec![0x8F, 0x00], WsError::ReservedOpcode),
        (vec![0x81, 0x80], WsError::Masked),
        (vec![0x09, 0x00], WsError::ControlFragmented),
        (vec![0x89, 126], WsError::ControlTooLong),
        (vec![0x88, 127], WsError::ControlTooLong),
        (vec![0x81, 126, 0, 125], WsError::LengthNotMinimal),
        (vec![0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], WsError::LengthNotMinimal),
        (vec![0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], WsError::LengthOutOfRange),
        (vec![0x80, 0x00], WsError::ContinuationUnexpected),
        ([text(), vec![0x81, 0x00]].concat(), WsError::ContinuationExpected),
        ([text(), vec![0x02, 0x00]].concat(), WsError::ContinuationExpected),
        (frame(Opcode::Close, true, &[3]), WsError::ClosePayload),
        (frame(Opcode::Close, true, &1005u16.to_be_bytes()), WsError::CloseCode),
        (frame(Opcode::Close, true, b"\x03\xE8\xFF"), WsError::CloseReason),
        (frame(Opcode::Text, true, b"\xFF"), WsError::TextNotUtf8),
        (vec![0x81, 126, 0x03, 0xE9], WsError::FrameTooLong),
        (
            [frame(Opcode::Binary, false, &[0; 999]), vec![0, 126, 0x01, 0xF6]].concat(),
            WsError::MessageTooLong,
        ),
        ([text(), [0x00, 0x00].repeat(4)].concat(), WsError::TooManyFragments),
    ] {
        let seen = read(&bytes);
        assert_eq!(seen.last(), Some(&Seen::Failed(error)), "{bytes:x?}");
        assert!([1002, 1007, 1009].contains(&error.close_code()));
        assert!(error.reason().len() <= REASON_BYTES_MAX);
    }
    assert_eq!(
        read_all(Role::Server, &[0x81, 0x00], 2),
        [Seen::Failed(WsError::NotMasked)],
        "a client has to mask"
    );
}

#[test]
fn what_fills_a_bound_passes() {
    let message = [
        frame(Opcode::Binary, false, &[1; 1000]),
        frame(Opcode::Continuation, false, &[2; 400]),
        frame(Opcode::Continuation, false, &[3; 99]),
        frame(Opcode::Continuation, true, &[4]),
    ]
    .concat();
    assert!(matches!(&read(&message)[..], [Seen::Message(Kind::Binary, bytes)] if bytes.len() == 1500));
}

#[test]
fn wrong_text_fails_at_its_first_wrong_byte() {
    for (text, valid) in [
        (&b"ab\xFFcd"[..], &b"ab"[..]),
        (b"ab\xE2\x82", b"ab\xE2"),
        (b"ab\xED\xA0\x80", b"ab\xED"),
        (b"\xC3\x28", b"\xC3"),
    ] {
        assert_eq!(
            read(&frame(Opcode::Text, true, text)),
            [Seen::Partial(Kind::Text, valid.to_vec()), Seen::Failed(WsError::TextNotUtf8)],
            "{text:x?}"
        );
    }
    // Cut inside a character by the end of the message, in an empty fragment of its own.
    let bytes = [frame(Opcode::Text, false, b"\xE2\x82"), frame(Opcode::Continuation, true, b"")].concat();
    assert_eq!(
        read(&bytes),
        [Seen::Partial(Kind::Text, b"\xE2\x82".to_vec()), Seen::Failed(WsError::TextNotUtf8)]
    );
}

#[test]
fn a_failed_decoder_stays_failed() {
    let mut decoder = Decoder::new(Role::Client);
    assert_eq!(decoder.decode(&mut [0xFF, 0xFF], &LIMITS), Err(WsError::ReservedBits));
    assert_eq!(decoder.decode(&mut [0x81, 0x00], &LIMITS), Err(WsError::ReservedBits));
    assert!(!decoder.is_clean());
}

#[test]
fn all_errors_are_listed_once() {
    let mut all = WsError::ALL.to_vec();
    all.dedup();
    let mut reasons: Vec<&str> = all.iter().map(|error| error.reason()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), WsError::ALL.len());
}
