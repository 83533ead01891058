//! The path of a chat message through the codecs allocates nothing.

use tcbchat::limits;
use tcbchat::wire::stomp::{self, Command, Encoder, Step, Version};
use tcbchat::wire::ws::{self, Event, Kind, Limits, Opcode, Role};

use crate::counting::allocations;

#[test]
fn a_message_is_read_and_written_without_allocating() {
    let send =
        b"SEND\ndestination:/topic/room\nreceipt:r-1\ncontent-type:text/plain\nfrom:a\\cb\n\nhello, all\0";
    let key = [1, 2, 3, 4];
    let mut input = Vec::new();
    ws::encode_header(Some(key), Opcode::Text, true, send.len() as u64, &mut input);
    let header = input.len();
    input.extend_from_slice(send);
    ws::apply_mask(&mut input[header..], key);

    let ws_limits = Limits::from(&limits::WebSocket::default());
    let stomp_limits = limits::Stomp::default();
    let mut decoder = ws::Decoder::new(Role::Server);
    let mut stomp_decoder = stomp::Decoder::default();
    let mut message = Vec::with_capacity(1024);
    let mut out = Vec::with_capacity(1024);

    let counted = allocations(|| {
        let Ok((_, Some(Event::Data { kind: Kind::Text, payload, start: true, end: true }))) =
            decoder.decode(&mut input, &ws_limits)
        else {
            panic!("one message");
        };
        let Ok(Step::Frame { stomp_frame, consumed }) =
            stomp_decoder.decode(payload, Version::V12, &stomp_limits)
        else {
            panic!("one frame");
        };
        assert_eq!(consumed, send.len());
        assert_eq!(stomp_frame.header("destination").as_deref(), Some("/topic/room"));
        assert_eq!(stomp_frame.header("receipt").as_deref(), Some("r-1"));
        assert_eq!(stomp_frame.header("transaction"), None);
        Encoder::new(&mut message, Command::Message, Version::V12)
            .known("destination", "/topic/room")
            .known("subscription", "sub-0")
            .plain("message-id", "12345")
            .raw_lines(b"content-type:text/plain\nfrom:a\\cb\n")
            .body(stomp_frame.body);
        ws::encode_message(Kind::Text, &message, &mut out);
    });
    assert!(out.len() > send.len());
    assert_eq!(counted, 0);
}
