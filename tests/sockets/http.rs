//! HTTP until the upgrade: every answer of the table, and the choice of a subprotocol.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use tcbchat::wire::http::HttpError;

use crate::support::{Client, Server};
use crate::{Setup, documented};

on_one_and_three_reactors!(
    every_answer_however_it_is_split,
    a_head_that_does_not_come_in_time,
    pages_are_answered,
    subprotocols,
    pages_of_other_sites_open_nothing,
    the_servers_own_pages_open_their_websocket,
    tokens_that_wait_for_their_connect_are_bounded,
);

/// An opening handshake.
pub const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Rows that need a server of their own, or say more: see [`a_head_that_does_not_come_in_time`],
/// [`pages_of_other_sites_open_nothing`], [`tokens_that_wait_for_their_connect_are_bounded`], `capacity`, `shutdown`, `proxy`,
/// `operators`, and the site's own tests.
const ELSEWHERE: [&str; 11] = [
    "The request head did not arrive within handshake.timeout_ms.",
    "The server is at its capacity of connections.",
    "Your address has its share of the server's connections.",
    "Your address has handshake.connections_per_address_max connections.",
    "Too many tokens wait for a CONNECT: see handshake.credentials_bytes_max.",
    "The server is shutting down.",
    "The server is starting.",
    "The PROXY protocol header is not well-formed.",
    "The request came through a proxy, and auth.mode is not set: everyone could log in under any name. Set auth.mode, to \
     \"open\" if that is meant.",
    OTHER_SITE,
    "The address is banned.",
];

/// What a page of another site is told, before its origin.
pub const OTHER_SITE: &str =
    "The page is of another site than this server, and http.origins does not list it.";

/// Requests that are refused, with the status and the words that the body begins with.
fn refused() -> Vec<(String, u16, &'static str)> {
    let with = |from: &str, to: &str| {
        assert!(HANDSHAKE.contains(from), "{from}");
        HANDSHAKE.replacen(from, to, 1)
    };
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n");
    let malformed = "The request is not well-formed HTTP.";
    let target = "The request target must be a path.";
    let host = "The request must have one Host header field.";
    let length = "The Content-Length header field is not a number.";
    let key = "The request must have one Sec-WebSocket-Key header field: 16 bytes in base64.";
    let body = "Requests must not have a body.";
    let upgrade = "This path speaks WebSocket: send Upgrade: websocket and Connection: Upgrade.";
    let version = "This path speaks WebSocket version 13.";
    let untrusted =
        "The connection begins with a PROXY protocol header, and its sender is not in http.trusted_proxies.";
    let (key_line, version_line) =
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "Sec-WebSocket-Version: 13\r\n");
    vec![
        ("\x16\x03\x01\x02\x00\x01\x00\x01".into(), 400, malformed),
        ("CONNECT\naccept-version:1.2\n\n\0".into(), 400, malformed),
        (with("Host:", "Host :"), 400, malformed),
        (with("Upgrade: websocket", "A: b\r\n folded\r\nUpgrade: websocket"), 400, malformed),
        ("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n".into(), 400, target),
        (get("ws"), 400, target),
        (get("/ws#part"), 400, target),
        (with("Host: test\r\n", ""), 400, host),
        (with("Host: test\r\n", "Host: test\r\nHost: test\r\n"), 400, host),
        (with("Upgrade: websocket", "Content-Length: ten\r\nUpgrade: websocket"), 400, length),
        (
            with("Upgrade: websocket", "Content-Length: 1\r\nContent-Length: 2\r\nUpgrade: websocket"),
            400,
            length,
        ),
        (with(key_line, ""), 400, key),
        (with(key_line, &key_line.repeat(2)), 400, key),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), 400, key),
        (
            with(version_line, &version_line.repeat(2)),
            400,
            "The Sec-WebSocket-Version header field must not be repeated.",
        ),
        ("PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r\n".into(), 400, untrusted),
        ("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".into(), 400, untrusted),
        (
            "GET /metrics HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n".into(),
            403,
            "Metrics are for callers on this machine: see ops.metrics.",
        ),
        (with("Host: test", "Host: chat.example.com"), 403, HttpError::FOREIGN_HOST.reason),
        (get("/nothing"), 404, "There is nothing at this path."),
        (with("/ws", "/echo"), 404, "There is nothing at this path."),
        (with("GET", "POST"), 405, "A WebSocket handshake must use GET."),
        ("DELETE / HTTP/1.1\r\nHost: test\r\n\r\n".into(), 405, "This path can only be read."),
        (with("Upgrade: websocket", "Content-Length: 1\r\nUpgrade: websocket"), 413, body),
        (with("Upgrade: websocket", "Transfer-Encoding: chunked\r\nUpgrade: websocket"), 413, body),
        (with("HTTP/1.1", "HTTP/1.0"), 426, "A WebSocket handshake must use HTTP/1.1."),
        (get("/ws"), 426, upgrade),
        (with("Connection: Upgrade", "Connection: keep-alive"), 426, upgrade),
        (with(version_line, ""), 426, version),
        (with("Version: 13", "Version: 8"), 426, version),
        (
            with("Upgrade: websocket", &format!("A: {}\r\nUpgrade: websocket", "a".repeat(16_384))),
            431,
            "The request head is longer than handshake.head_bytes_max.",
        ),
        (
            with("Upgrade: websocket", &format!("{}Upgrade: websocket", "A: b\r\n".repeat(64))),
            431,
            "The request has more header fields than handshake.headers_max.",
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505, "The server speaks HTTP/1.1."),
    ]
}

/// Sends each byte in a packet of its own, and gives all that comes back.
fn exchange_by_bytes(server: &Server, request: &str) -> String {
    let mut stream = server.dial();
    for byte in request.as_bytes() {
        stream.write_all(&[*byte]).expect("what comes after the refusal is thrown away");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn every_answer_however_it_is_split(setup: Setup) {
    let server = setup.server();
    let mut neighbour = Client::connect(&server);
    neighbour.subscribe("s", "/topic/neighbour");
    let table = documented("| status | when | body | header fields |");
    let mut seen = BTreeSet::from(ELSEWHERE);
    for (request, status, reason) in refused() {
        let row = table.iter().find(|row| row[2] == reason).unwrap_or_else(|| panic!("{reason}"));
        for answer in [server.exchange(&request), exchange_by_bytes(&server, &request)] {
            let shown = &request[..request.len().min(300)];
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{shown}: {answer}"));
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
            assert_eq!(row[0], status.to_string());
            assert_eq!(body.trim_end(), reason, "{shown}");
            assert!(head.contains("\r\nContent-Type: text/plain"), "{head}");
            let options = head.lines().filter_map(|line| line.strip_prefix("Connection: "));
            assert!(options.collect::<Vec<_>>().join(", ").ends_with("close"), "{head}");
            for field in
                row[3].split('`').filter(|field| field.contains(": ") && !field.starts_with("Connection"))
            {
                assert!(head.contains(field), "{field} in {head}");
            }
        }
        seen.insert(reason);
    }
    let documented: BTreeSet<&str> =
        table.iter().map(|row| row[2]).filter(|reason| !reason.is_empty()).collect();
    assert_eq!(seen, documented, "every row has a request");

    neighbour.publish("/topic/neighbour", "undisturbed");
    assert_eq!(neighbour.expect_body(), "undisturbed");
}

fn a_head_that_does_not_come_in_time(setup: Setup) {
    let server = setup.server_with("[handshake]\ntimeout_ms = 200", &[]);
    for begun in ["", "GET /ws HTTP/1.1\r\nHost: te"] {
        let answer = server.exchange(begun);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.ends_with(&format!("{}\n", ELSEWHERE[0])), "{answer}");
    }
}

fn pages_are_answered(setup: Setup) {
    let server = setup.server();
    let answer = server.exchange("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = server.exchange("GET /?x=1 HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("<html"), "{answer}");
    // HAProxy's own check, in all its modes; and who connects, says nothing, and goes.
    for probe in ["OPTIONS / HTTP/1.0\r\n\r\n", "OPTIONS /healthz HTTP/1.1\r\nHost: test\r\n\r\n"] {
        let answer = server.exchange(probe);
        assert!(
            answer.starts_with("HTTP/1.1 204 ") && answer.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"),
            "{answer}"
        );
    }
    for probe in ["HEAD / HTTP/1.0\r\n\r\n", "GET /readyz HTTP/1.0\r\n\r\n", "HEAD /healthz HTTP/1.0\r\n\r\n"]
    {
        assert!(server.exchange(probe).starts_with("HTTP/1.1 200 "), "{probe}");
    }
    drop(server.dial());
    let reset = server.dial();
    socket2::SockRef::from(&reset).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(reset);
    server.await_metric("connections_open", |open| open == 1);
    for counter in ["handshakes_failed_total", "handshake_timeouts_total", "accept_errors_total"] {
        assert_eq!(server.metric(counter), 0, "{counter}");
    }
    let text =
        server.exchange("GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: text/plain; version=0.0.4\r\n\r\n");
    assert!(
        text.contains("\r\nContent-Type: text/plain; version=0.0.4;") && !text.contains("# EOF"),
        "{text}"
    );
    let answer = server.exchange("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

fn subprotocols(setup: Setup) {
    let server = setup.server();
    for (offered, chosen) in [
        (&[][..], None),
        (&["mqtt"], None),
        (&["v10.stomp"], Some("v10.stomp")),
        (&["v10.stomp", "v11.stomp", "mqtt"], Some("v11.stomp")),
        (&["v10.stomp", "v12.stomp", "v11.stomp"], Some("v12.stomp")),
    ] {
        // tungstenite takes an answer without a subprotocol for an error if it offered some: by hand.
        let field = match offered {
            [] => String::new(),
            offered => format!("Sec-WebSocket-Protocol: {}\r\nUpgrade", offered.join(", ")),
        };
        let request = match field.as_str() {
            "" => HANDSHAKE.to_owned(),
            field => HANDSHAKE.replacen("Upgrade", field, 1),
        };
        let mut stream = server.dial();
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        let answered = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        assert_eq!(answered, chosen);
    }
}

/// [`HANDSHAKE`] with these header lines, each with its end.
pub fn handshake_with(lines: &str) -> String {
    HANDSHAKE.replacen("Upgrade", &format!("{lines}Upgrade"), 1)
}

/// The status of the answer to an opening handshake, whose connection is ended.
pub fn status_of(server: &Server, request: &str) -> u16 {
    let mut stream = server.dial();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    String::from_utf8_lossy(&head[9..]).parse().unwrap()
}

fn pages_of_other_sites_open_nothing(setup: Setup) {
    let configuration =
        "[http]\norigins = [\"https://chat.example.com\", \"https://*.example.org\", \"http://localhost:*\"]";
    let server = setup.server_with(configuration, &["--echo"]);
    let mut neighbour = Client::connect(&server);
    neighbour.subscribe("s", "/topic/neighbour");
    let shown = [
        ("Origin: https://evil.com\r\n", "https://evil.com"),
        ("Origin: https://test.evil.com\r\n", "https://test.evil.com"),
        ("Origin: http://evil@test\r\n", "http://evil@test"),
        ("Origin: http://test:8080\r\n", "http://test:8080"),
        ("Origin: https://chat.example.com.evil.com\r\n", "https://chat.example.com.evil.com"),
        ("Origin: https://example.org\r\n", "https://example.org"),
        ("Origin: null\r\n", "null"),
        ("Origin: http://test\r\nOrigin: http://test\r\n", "http://test, http://test"),
        ("Origin: \"<script>\u{e4}\r\n", "\\\"<script>\\xc3\\xa4"),
    ];
    let mut refused = 0;
    for (lines, seen) in shown {
        for request in [handshake_with(lines), handshake_with(lines).replacen("/ws", "/echo", 1)] {
            for answer in [server.exchange(&request), exchange_by_bytes(&server, &request)] {
                assert!(answer.starts_with("HTTP/1.1 403 "), "{lines}: {answer}");
                let expected = format!("\r\n\r\n{OTHER_SITE} Its origin is \"{seen}\".\n");
                assert!(answer.ends_with(&expected), "{lines}: {answer}");
                refused += 1;
            }
        }
    }
    let long = server.exchange(handshake_with(&format!("Origin: https://{}\r\n", "a".repeat(4_000))));
    assert!(long.ends_with("aaa...\".\n") && long.len() < 600, "{long}");
    server.await_metric("refused_origins_total", |count| count == refused + 1);

    for origin in [
        "http://test",
        "https://test",
        "HTTPS://TEST:443",
        "https://test.",
        "https://chat.example.com",
        "https://a.b.example.org",
        "http://localhost:5173",
    ] {
        let request = handshake_with(&format!("Origin: {origin}\r\n"));
        assert_eq!(status_of(&server, &request), 101, "{origin}");
        assert_eq!(status_of(&server, &request.replacen("/ws", "/echo", 1)), 101, "{origin}");
    }
    let open = setup.server_with("[http]\norigins = \"*\"", &[]);
    for (lines, _) in shown {
        assert_eq!(status_of(&open, &handshake_with(lines)), 101, "{lines}");
    }
    // Pages are for everybody who can read them.
    let page = server.exchange("GET / HTTP/1.1\r\nHost: test\r\nOrigin: https://evil.com\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");

    neighbour.publish("/topic/neighbour", "undisturbed");
    assert_eq!(neighbour.expect_body(), "undisturbed");
}

fn the_servers_own_pages_open_their_websocket(setup: Setup) {
    let server = setup.server_with("", &["--open"]);
    let address = server.address();
    for (origin, host) in [
        (format!("http://{address}"), address.to_string()),
        (format!("http://localhost:{}", address.port()), format!("localhost:{}", address.port())),
        (format!("http://[::1]:{}", address.port()), format!("[::1]:{}", address.port())),
        ("https://chat.example.com".into(), "chat.example.com".into()),
    ] {
        let request = handshake_with(&format!("Origin: {origin}\r\n")).replacen(
            "Host: test",
            &format!("Host: {host}"),
            1,
        );
        assert_eq!(status_of(&server, &request), 101, "{origin}");
    }
}

fn tokens_that_wait_for_their_connect_are_bounded(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let secret = "A".repeat(43);
    std::fs::write(&keys, format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","k":"{secret}"}}]}}"#)).unwrap();
    let configuration = format!(
        "[auth]\nmode = \"jwt\"\nkeys_file = {:?}\n[handshake]\ncredentials_bytes_max = 65_536\n",
        keys.display().to_string()
    );
    let server = setup.server_with(&configuration, &[]);
    let request = handshake_with(&format!("Authorization: Bearer {}\r\n", "a".repeat(8_000)));
    // Eight are more than one reactor keeps, and nobody says CONNECT.
    let most = 8 * setup.reactors;
    let mut waiting = Vec::new();
    let refusal = loop {
        assert!(waiting.len() <= most as usize, "{}", waiting.len());
        let mut stream = server.dial();
        stream.write_all(request.as_bytes()).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        match &start[9..] {
            b"101" => waiting.push(stream),
            _ => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest).unwrap();
                break [&String::from_utf8_lossy(&start), rest.as_str()].concat();
            }
        }
    };
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("\r\nRetry-After: "), "{refusal}");
    let sentence = "Too many tokens wait for a CONNECT: see handshake.credentials_bytes_max.\n";
    assert!(refusal.ends_with(sentence), "{refusal}");
    server.await_metric("credentials_refused_total", |count| count == 1);
    drop(waiting);
    // What waited is given back with its connection.
    server.await_metric("connections_open", |open| open == 1);
    assert_eq!(status_of(&server, &request), 101);
}
