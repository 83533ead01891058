//! What must hold of the WebSocket decoder for every input. Shared by the fuzz target, the replay of its
//! corpus and the property tests.
//!
//! Invariant: these functions panic exactly when the decoder is wrong.

use tcbchat::wire::ws::{
    CONTROL_BYTES_MAX, Decoder, Event, Kind, Limits, Role, WsError, encode_close, encode_message,
    encode_ping, encode_pong,
};

/// Small enough for small inputs to go past.
pub const LIMITS: Limits = Limits { frame_bytes_max: 300, message_bytes_max: 500, fragments_max: 5 };

/// Something whole that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A message, over all its fragments and pieces.
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// All that came out of a stream of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub items: Vec<Item>,
    /// The begin of a message whose end did not come.
    pub open: Option<(Kind, Vec<u8>)>,
    pub error: Option<WsError>,
}

/// One input of the fuzzer: the lowest bit of the first byte is the role, the others choose the cuts.
pub fn run(data: &[u8]) {
    if let Some((&options, bytes)) = data.split_first() {
        let role = if options & 1 == 0 { Role::Server } else { Role::Client };
        check(role, bytes, &[1 + usize::from(options >> 1), 1 + usize::from(options >> 5)]);
    }
}

/// Everything that must hold when `bytes` come in, cut into chunks of these lengths, over and over.
pub fn check(role: Role, bytes: &[u8], chunks: &[usize]) {
    let whole = read(role, bytes, &[usize::MAX], &LIMITS);
    for item in &whole.items {
        match item {
            Item::Message(kind, payload) => {
                assert!(payload.len() as u64 <= LIMITS.message_bytes_max);
                assert!(*kind == Kind::Binary || std::str::from_utf8(payload).is_ok(), "text is UTF-8");
            }
            Item::Ping(payload) | Item::Pong(payload) => assert!(payload.len() <= CONTROL_BYTES_MAX),
            Item::Close(_) => {}
        }
    }
    assert_eq!(read(role, bytes, &[1], &LIMITS), whole, "byte by byte");
    assert_eq!(read(role, bytes, chunks, &LIMITS), whole, "by {chunks:?}");

    let again =
        read(Role::Client, &encode(&whole.items), &[usize::MAX], &Limits { frame_bytes_max: 500, ..LIMITS });
    assert_eq!((again.items, again.open, again.error), (whole.items, None, None), "encoded and read again");
}

/// Reads `bytes`, cut into chunks of these lengths, over and over. A clean decoder is replaced by a new one.
pub fn read(role: Role, bytes: &[u8], chunks: &[usize], limits: &Limits) -> Outcome {
    let mut outcome = Outcome::default();
    let mut decoder = Decoder::new(role);
    let mut chunks = chunks.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let chunk = chunks.next().map_or(rest.len(), |&bytes| bytes.clamp(1, rest.len()));
        let mut scratch = rest[..chunk].to_vec();
        rest = &rest[chunk..];
        let mut input = &mut scratch[..];
        while !input.is_empty() {
            let available = input.len();
            match decoder.decode(input, limits) {
                Ok((consumed, event)) => {
                    assert!(consumed > 0 && consumed <= available, "{consumed} of {available}");
                    if let Some(event) = event {
                        outcome.note(event);
                    }
                    input = &mut input[consumed..];
                }
                Err(error) => {
                    outcome.error = Some(error);
                    assert_eq!(decoder.decode(input, limits), Err(error), "failed for good");
                    return outcome;
                }
            }
            decoder.check();
            if decoder.is_clean() {
                assert_eq!(outcome.open, None, "clean inside a message");
                decoder = Decoder::new(role);
            }
        }
    }
    outcome
}

impl Outcome {
    fn note(&mut self, event: Event<'_>) {
        assert!(!matches!(self.items.last(), Some(Item::Close(_))), "an event after the close");
        self.items.push(match event {
            Event::Data { kind, payload, start, end } => {
                assert_eq!(start, self.open.is_none());
                assert!(end || !payload.is_empty(), "an empty piece");
                let (open_kind, message) = self.open.get_or_insert((kind, Vec::new()));
                assert_eq!(*open_kind, kind);
                message.extend_from_slice(payload);
                match self.open.take_if(|_| end) {
                    Some((kind, message)) => Item::Message(kind, message),
                    None => return,
                }
            }
            Event::Ping(payload) => Item::Ping(payload.to_vec()),
            Event::Pong(payload) => Item::Pong(payload.to_vec()),
            Event::Close(close) => Item::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        });
    }
}

/// The items as a server sends them.
pub fn encode(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Message(kind, payload) => encode_message(*kind, payload, &mut out),
            Item::Ping(payload) => encode_ping(payload, &mut out),
            Item::Pong(payload) => encode_pong(payload, &mut out),
            Item::Close(Some((code, reason))) => encode_close(*code, reason, &mut out),
            Item::Close(None) => encode_close(1005, "", &mut out),
        }
    }
    out
}
