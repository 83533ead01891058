//! Requests and answers, rule by rule. What holds for all inputs is in `tests/wire`.

use super::*;
use crate::limits::Handshake;

const HOST: &str = "Host: chat.example\r\n";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The answer to a handshake: parsed and upgraded, whole and for each prefix of it.
fn shake(head: &str) -> Result<Option<Upgrade>, HttpError> {
    let limits = Handshake::default();
    let whole = shake_bytes(head.as_bytes(), &limits);
    let by_byte = (0..=head.len())
        .map(|end| shake_bytes(&head.as_bytes()[..end], &limits))
        .find(|answer| !matches!(answer, Ok(None)));
    assert_eq!(by_byte.unwrap_or(Ok(None)), whole, "{head:?}");
    whole
}

fn shake_bytes(head: &[u8], limits: &Handshake) -> Result<Option<Upgrade>, HttpError> {
    let mut scratch = Scratch::new();
    match parse(head, limits, &mut scratch)? {
        None => Ok(None),
        Some((request, head_bytes)) => {
            assert_eq!(head_bytes, head.len());
            upgrade(&request).map(Some)
        }
    }
}

fn get(fields: &[&str]) -> String {
    ["GET /ws HTTP/1.1\r\n", &fields.concat(), "\r\n"].concat()
}

#[test]
fn the_handshake_of_the_rfc() {
    let upgrade = shake(&get(&[HOST, UPGRADE, VERSION, KEY])).unwrap().unwrap();
    assert_eq!(upgrade, Upgrade { accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned(), subprotocol: None });
    let mut out = Vec::new();
    write_upgrade(&upgrade, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn the_newest_subprotocol_is_chosen() {
    for (offer, chosen) in [
        ("", None),
        ("Sec-WebSocket-Protocol: mqtt\r\n", None),
        ("Sec-WebSocket-Protocol: v10.stomp\r\n", Some("v10.stomp")),
        ("Sec-WebSocket-Protocol: v10.stomp, v11.stomp\r\n", Some("v11.stomp")),
        ("Sec-WebSocket-Protocol: v10.stomp\r\nsec-websocket-protocol: x,v12.stomp ,\r\n", Some("v12.stomp")),
    ] {
        let upgrade = shake(&get(&[HOST, UPGRADE, VERSION, KEY, offer])).unwrap().unwrap();
        assert_eq!(upgrade.subprotocol, chosen, "{offer:?}");
        let mut out = Vec::new();
        write_upgrade(&upgrade, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.contains("Sec-WebSocket-Protocol"), chosen.is_some());
    }
}

#[test]
fn every_malformed_handshake_has_its_answer() {
    let all = [HOST, UPGRADE, VERSION, KEY];
    let with = |field: &'static str| get(&[&all[..], &[field]].concat());
    let cases = [
        ("\u{16}\u{3}\u{1}".to_owned(), HttpError::MALFORMED),
        ("GET  /ws HTTP/1.1\r\n\r\n".to_owned(), HttpError::MALFORMED),
        ("GET /ws HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), HttpError::MALFORMED),
        ("GET /ws HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_owned(), HttpError::MALFORMED),
        ("GET /ws HTTP/2.0\r\n\r\n".to_owned(), HttpError::HTTP_VERSION),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), HttpError::HTTP_VERSION),
        ("GET ws HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), HttpError::TARGET),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), HttpError::TARGET),
        ("GET ftp://a/ws HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), HttpError::TARGET),
        (get(&[UPGRADE, VERSION, KEY]), HttpError::HOST),
        (with(HOST), HttpError::HOST),
        (with("Content-Length: 1\r\n"), HttpError::BODY),
        (with("Transfer-Encoding: chunked\r\n"), HttpError::BODY),
        (with("Content-Length: x\r\n"), HttpError::CONTENT_LENGTH),
        (with("Content-Length: 0\r\nContent-Length: 1\r\n"), HttpError::CONTENT_LENGTH),
        (get(&all).replacen("GET", "POST", 1), HttpError::UPGRADE_METHOD),
        (get(&all).replacen("GET", "HEAD", 1), HttpError::UPGRADE_METHOD),
        (get(&all).replacen("HTTP/1.1", "HTTP/1.0", 1), HttpError::UPGRADE_HTTP_1_0),
        (get(&[HOST]), HttpError::UPGRADE_REQUIRED),
        (get(&[HOST, "Upgrade: websocket\r\n", VERSION, KEY]), HttpError::UPGRADE_REQUIRED),
        (get(&[HOST, "Connection: Upgrade\r\n", VERSION, KEY]), HttpError::UPGRADE_REQUIRED),
        (get(&[HOST, "Upgrade: h2c\r\nConnection: Upgrade\r\n", VERSION, KEY]), HttpError::UPGRADE_REQUIRED),
        (get(&[HOST, UPGRADE, KEY]), HttpError::VERSION),
        (get(&[HOST, UPGRADE, KEY, "Sec-WebSocket-Version: 8\r\n"]), HttpError::VERSION),
        (with(VERSION), HttpError::VERSION_REPEATED),
        (get(&[HOST, UPGRADE, VERSION]), HttpError::KEY),
        (with(KEY), HttpError::KEY),
        (get(&[HOST, UPGRADE, VERSION, "Sec-WebSocket-Key: c2hvcnQ=\r\n"]), HttpError::KEY),
        (get(&[HOST, UPGRADE, VERSION, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!==\r\n"]), HttpError::KEY),
    ];
    for (head, error) in cases {
        assert_eq!(shake(&head), Err(error), "{head:?}");
        assert!(HttpError::ALL.contains(&error));
    }
}

#[test]
fn bounds_of_the_head() {
    let limits = Handshake { head_bytes_max: 512, headers_max: 8, ..Handshake::default() };
    let line = |bytes: usize| format!("X: {}\r\n", "x".repeat(bytes - 5));
    let fits = get(&[HOST, &line(512 - 18 - HOST.len() - 2)]);
    assert_eq!(fits.len(), 512);
    assert_eq!(shake_bytes(fits.as_bytes(), &limits), Err(HttpError::UPGRADE_REQUIRED));
    let longer = get(&[HOST, &line(512 - 18 - HOST.len() - 1)]);
    assert_eq!(shake_bytes(longer.as_bytes(), &limits), Err(HttpError::HEAD_BYTES));
    assert_eq!(shake_bytes(&longer.as_bytes()[..511], &limits), Ok(None));
    assert_eq!(shake_bytes(&longer.as_bytes()[..512], &limits), Err(HttpError::HEAD_BYTES));

    let eight = get(&[HOST, &"a: b\r\n".repeat(7)]);
    assert_eq!(shake_bytes(eight.as_bytes(), &limits), Err(HttpError::UPGRADE_REQUIRED));
    let nine = get(&[HOST, &"a: b\r\n".repeat(8)]);
    assert_eq!(shake_bytes(nine.as_bytes(), &limits), Err(HttpError::HEADERS));
}

#[test]
fn targets_and_header_fields() {
    let limits = Handshake::default();
    for (target, path, query) in [
        ("/", "/", None),
        ("/ws", "/ws", None),
        ("/ws?a=b?c", "/ws", Some("a=b?c")),
        ("/a%20b", "/a%20b", None),
        ("http://chat.example:8080/ws?x", "/ws", Some("x")),
        ("HTTP://chat.example", "/", None),
        ("ws://chat.example/ws", "/ws", None),
    ] {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHOST: a\r\nAccept: b,\tc ,,d\r\naccept:e\r\nX: \u{ff}\r\n\r\nrest"
        );
        let mut scratch = Scratch::new();
        let (request, head_bytes) = parse(head.as_bytes(), &limits, &mut scratch).unwrap().unwrap();
        assert_eq!((request.target, request.query), (path, query));
        assert_eq!((request.method, request.http_minor), ("GET", 1));
        assert_eq!(&head[head_bytes..], "rest");
        assert_eq!(request.header("hOST"), Some("a"));
        assert_eq!(request.header_tokens("accept").collect::<Vec<_>>(), ["b", "c", "d", "e"]);
        assert_eq!(request.header("missing"), None);
    }
    let mut scratch = Scratch::new();
    let (request, _) = parse(b"GET / HTTP/1.0\r\nX: \xFF\r\n\r\n", &limits, &mut scratch).unwrap().unwrap();
    assert_eq!(request.http_minor, 0);
    assert_eq!(request.header("x"), None, "not UTF-8");
    assert_eq!(request.refuse_body(), Ok(()));
}

#[test]
fn proxies_leave_marks() {
    for (field, mark) in [
        ("", None),
        ("X-Forward: a\r\nX-Forwarded: b\r\nX-Real: c\r\n", None),
        ("fORWARDED: for=a\r\n", Some("fORWARDED")),
        ("A: b\r\nVIA: \u{ff}\r\n", Some("VIA")),
        ("x-real-ip:\r\nVia: a\r\n", Some("x-real-ip")),
        ("X-FORWARDED-proto: https\r\n", Some("X-FORWARDED-proto")),
    ] {
        let head = get(&[HOST, field]);
        let mut scratch = Scratch::new();
        let (request, _) = parse(head.as_bytes(), &Handshake::default(), &mut scratch).unwrap().unwrap();
        assert_eq!(request.mark_of_proxy(), mark, "{field:?}");
    }
}

#[test]
fn answers_as_they_are_written() {
    let mut out = Vec::new();
    write_error(&HttpError::TABLE_FULL, Some(5), false, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 46\r\n\
         Retry-After: 5\r\nConnection: close\r\n\r\nThe server is at its capacity of connections.\n"
    );
    let mut out = Vec::new();
    write_error(&HttpError::VERSION, None, true, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 39\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n\r\n"
    );
    let mut out = Vec::new();
    write_refusal(&HttpError::NOT_FOUND, "More.", None, false, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("\r\nContent-Length: 37\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\nThere is nothing at this path. More.\n"), "{text}");
    for error in HttpError::ALL {
        let mut out = Vec::new();
        write_error(error, None, false, &mut out);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let head = response.parse(&out).unwrap().unwrap();
        assert_eq!(response.code, Some(error.status));
        assert_ne!(response.reason, Some(""), "{error}");
        assert_eq!(&out[head..], format!("{}\n", error.reason).as_bytes());
    }
}

#[test]
fn all_errors_are_listed_once() {
    let mut reasons: Vec<&str> = HttpError::ALL.iter().map(|error| error.reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), HttpError::ALL.len());
}
