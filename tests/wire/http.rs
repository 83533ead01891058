//! Requests: any cut gives the same answer, and tungstenite's client, written by others, is content.

use proptest::prelude::*;
use tcbchat::limits::Handshake;
use tcbchat::wire::http::{Scratch, parse, upgrade, write_upgrade};
use tungstenite::HandshakeError;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::http::HeaderValue;

use crate::http_checks::{check, run, small_limits};
use crate::pipe::Pipe;

/// Requests that are right, nearly right, and far from it: lines in a random choice, and bytes changed.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(
        &[
            "GET /ws HTTP/1.1\r\n",
            "GET /ws?a=b HTTP/1.1\n",
            "POST /ws HTTP/1.1\r\n",
            "GET /ws HTTP/1.0\r\n",
            "GET http://a/ws HTTP/1.1\r\n",
            "GET * HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "",
        ][..],
    );
    let line = prop_oneof![
        8 => prop::sample::select(&[
            "Host: a\r\n",
            "Upgrade: websocket\r\n",
            "Connection: Upgrade\r\n",
            "Sec-WebSocket-Version: 13\r\n",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ][..]).prop_map(str::to_owned),
        3 => prop::sample::select(&[
            "Sec-WebSocket-Protocol: v11.stomp, v12.stomp\r\n",
            "Content-Length: 0\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Sec-WebSocket-Version: 8\r\n",
            "Origin: https://A.example.com.:443\r\n",
            "Origin: http://[::1]:8080\r\n",
            "Forwarded: for=192.0.2.1;x=\"\\\", for=\"[::1]:80\"\r\n",
            "X-Forwarded-For: 192.0.2.1:80, unknown, ::1\r\n",
            " folded\r\n",
            "X: \u{e4}\n",
        ][..]).prop_map(str::to_owned),
        1 => "X: [a-z]{0,200}\r\n",
    ];
    let wrong = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let shuffled = prop::collection::vec(line, 0..10);
    let right = Just(vec![
        "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            .to_owned(),
    ]);
    (start, prop_oneof![shuffled, right], prop::sample::select(&["\r\n", "\n", "", "\r\nmore"][..]), wrong)
        .prop_map(|(start, lines, end, wrong)| {
            let mut bytes = [start.to_owned(), lines.concat(), end.to_owned()].concat().into_bytes();
            for (at, byte) in wrong {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_request_gets_the_same_answer_in_any_cut(bytes in requests()) {
        check(&bytes, &small_limits());
        check(&bytes, &Handshake::default());
    }

    #[test]
    fn any_bytes_get_the_same_answer_in_any_cut(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        run(&bytes);
    }
}

#[test]
fn the_client_of_tungstenite_is_upgraded() {
    for offer in ["v10.stomp", "v12.stomp, v11.stomp"] {
        let mut request = "ws://chat.example/ws".into_client_request().expect("a URL");
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(offer));
        let started = ClientHandshake::start(Pipe::open(), request, None).expect("a request").handshake();
        let Err(HandshakeError::Interrupted(mut waiting)) = started else {
            panic!("a client that waits for the answer");
        };
        let stream = waiting.get_mut().get_mut();
        let mut scratch = Scratch::new();
        let (request, head_bytes) = parse(&stream.output, &Handshake::default(), &mut scratch)
            .expect("a good request")
            .expect("a whole request");
        assert_eq!(head_bytes, stream.output.len());
        let answer = upgrade(&request).expect("a handshake");
        write_upgrade(&answer, &mut stream.input);
        let (_, response) = waiting.handshake().expect("an answer that the client accepts");
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], offer[..9]);
    }
}
