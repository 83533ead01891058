//! Codecs: bytes read to values, values to bytes written.
//!
//! Input is masked with a key of zeros: unmasking costs the same and leaves the input as it was, so that it can be
//! decoded again.

use std::hint::black_box;

use tcbchat::limits;
use tcbchat::wire::http;
use tcbchat::wire::stomp::{self, Command, Encoder, Step, Version};
use tcbchat::wire::ws::{self, Event, Kind, Limits, Opcode, Role};

/// Head of a SEND.
pub const SEND: &[u8] = b"SEND\ndestination:/topic/room-17\nreceipt:r-1\ncontent-type:text/plain\n\n";
/// A body for it.
pub const SEND_BODY: &[u8] = &[b'm'; 128];

/// An opening handshake as a browser sends it.
pub const HANDSHAKE: &[u8] = b"GET /ws HTTP/1.1\r\n\
    Host: chat.example:8080\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://chat.example:8080\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Accept-Language: en-US,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: v12.stomp, v11.stomp, v10.stomp\r\n\r\n";

/// A whole SEND without a length.
#[must_use]
pub fn send() -> Vec<u8> {
    [SEND, SEND_BODY, b"\0"].concat()
}

/// A message as a client sends it.
fn masked(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let opcode = Opcode::from(kind);
    ws::encode_header(Some([0; 4]), opcode, true, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// Parses the handshake and answers it: how many bytes the answer has.
///
/// # Panics
/// If it is refused.
pub fn answer_handshake(limits: &limits::Handshake, out: &mut Vec<u8>) -> usize {
    let mut scratch = http::Scratch::new();
    let parsed = http::parse(black_box(HANDSHAKE), limits, &mut scratch);
    let (request, _) = parsed.expect("a good request").expect("a whole request");
    out.clear();
    http::write_upgrade(&http::upgrade(&request).expect("a handshake"), out);
    black_box(out.len())
}

/// A decoder of the server and a masked message for it.
#[derive(Debug)]
pub struct WsInput {
    bytes: Vec<u8>,
    decoder: ws::Decoder,
    limits: Limits,
}

impl WsInput {
    /// With this payload.
    #[must_use]
    pub fn new(kind: Kind, payload: &[u8]) -> WsInput {
        let limits = Limits::from(&limits::WebSocket::default());
        WsInput { bytes: masked(kind, payload), decoder: ws::Decoder::new(Role::Server), limits }
    }

    /// Unmasks the message and returns its payload.
    ///
    /// # Panics
    /// If it is not one message.
    pub fn decode(&mut self) -> &[u8] {
        match self.decoder.decode(black_box(&mut self.bytes), &self.limits) {
            Ok((_, Some(Event::Data { payload, end: true, .. }))) => payload,
            other => panic!("one message: {other:?}"),
        }
    }
}

/// Reads one whole STOMP frame: how many bytes it has.
///
/// # Panics
/// If it is not one.
pub fn decode_stomp(bytes: &[u8], limits: &limits::Stomp) -> usize {
    match stomp::Decoder::default().decode(black_box(bytes), Version::V12, limits) {
        Ok(Step::Frame { consumed, .. }) => consumed,
        other => panic!("one frame: {other:?}"),
    }
}

/// Writes a MESSAGE.
pub fn encode_message(body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    Encoder::new(out, Command::Message, Version::V12)
        .known("subscription", "sub-0")
        .plain("message-id", "18f2a-12345")
        .known("destination", "/topic/room-17")
        .raw_lines(b"content-type:text/plain\n")
        .body(body);
}

/// All that a published message pays here: read once, its headers kept, and encoded once for all who get it. Returns
/// how many bytes go out.
///
/// # Panics
/// If the input is not one message with one frame.
pub fn read_and_write() -> impl FnMut() -> usize {
    let mut input = WsInput::new(Kind::Text, &send());
    let (mut decoder, limits) = (stomp::Decoder::default(), limits::Stomp::default());
    let (mut lines, mut payload, mut out) = (Vec::new(), Vec::new(), Vec::new());
    move || {
        [&mut lines, &mut out].into_iter().for_each(Vec::clear);
        let Ok(Step::Frame { stomp_frame, .. }) = decoder.decode(input.decode(), Version::V12, &limits)
        else {
            panic!("one frame");
        };
        // As the session asks for them.
        black_box(stomp_frame.values(["destination", "receipt", "transaction", "id", "message-id", "ack"]));
        stomp::user_header_lines(&stomp_frame, false, &mut lines);
        encode_message(stomp_frame.body, &mut payload);
        ws::encode_message(Kind::Text, &payload, &mut out);
        black_box(out.len())
    }
}
