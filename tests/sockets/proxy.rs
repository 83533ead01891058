//! Proxies in front of the server: the PROXY protocol, what they write into requests, and Unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::http::{HANDSHAKE, OTHER_SITE, handshake_with, status_of};
use crate::support::{Client, Frame, Server};
use crate::{Setup, expect_refusal};

on_one_and_three_reactors!(
    the_client_that_is_named_is_the_one_who_asks,
    handshakes_count_for_the_client_that_is_named,
    a_unix_socket_is_served_and_goes_with_the_server,
    nobody_comes_through_a_proxy_until_it_is_said_who_may_connect,
    the_host_that_a_trusted_proxy_names_is_the_pages_own,
    the_quota_of_an_address_counts_whom_a_proxy_names,
);

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x9c\x40\0\x50";
/// A health check of the balancer itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A stream of either kind.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Sends a request, in packets of a byte each if asked for, and gives the first line of the answer.
fn status(mut stream: impl Stream, request: &[u8], by_bytes: bool) -> String {
    if by_bytes {
        request.chunks(1).for_each(|byte| stream.write_all(byte).unwrap());
    } else {
        stream.write_all(request).unwrap();
    }
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn the_client_that_is_named_is_the_one_who_asks(setup: Setup) {
    let server = setup.server_with("[http]\ntrusted_proxies = [\"127.0.0.0/8\"]", &["--open"]);
    let metrics = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
    for by_bytes in [false, true] {
        for (header, code, metrics_code) in
            [(V1, "101", "403"), (V2, "101", "403"), (LOCAL, "101", "200"), (b"", "101", "200")]
        {
            let shown = header.escape_ascii();
            let line = status(server.dial(), &[header, HANDSHAKE.as_bytes()].concat(), by_bytes);
            assert!(line.starts_with(&format!("HTTP/1.1 {code} ")), "{shown}: {line}");
            let line = status(server.dial(), &[header, metrics].concat(), by_bytes);
            assert!(line.starts_with(&format!("HTTP/1.1 {metrics_code} ")), "{shown}: {line}");
        }
    }
    for broken in ["PROXY TCP4 192.0.2.7\r\n", "\r\n\r\n\0\r\nQUIT\n\x31"] {
        let answer = server.exchange(broken);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.ends_with("The PROXY protocol header is not well-formed.\n"), "{answer}");
    }
    // One header, not two.
    let answer = server.exchange([V1, V1].concat());
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
}

fn handshakes_count_for_the_client_that_is_named(setup: Setup) {
    let configuration = "[http]\ntrusted_proxies = \"127.0.0.1\"\n[handshake]\npending_per_address_max = 4";
    let server = setup.server_with(configuration, &[]);
    let begin = |client: &str| {
        let mut stream = server.dial();
        write!(stream, "PROXY TCP4 {client} 192.0.2.1 40000 80\r\nGET /ws HT").unwrap();
        stream
    };
    // More than one address may have: each is another client's.
    let crowd: Vec<TcpStream> = (1..=12).map(|n| begin(&format!("192.0.2.{n}"))).collect();
    server.await_metric("connections_half_open", |pending| pending >= 12);
    assert_eq!(server.metric("refused_pending_per_address_total"), 0);
    // And one of them may have no more than others.
    let greedy: Vec<TcpStream> = (0..4).map(|_| begin("192.0.2.1")).collect();
    // Five with the one above. Which of them is the last to be read depends on their reactors; one of them is reset.
    server.await_metric("refused_pending_per_address_total", |refused| refused == 1);
    let is_reset = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    assert_eq!(crowd[..1].iter().chain(&greedy).filter(|stream| is_reset(stream)).count(), 1);
    drop((crowd, greedy));
    server.await_metric("connections_half_open", |pending| pending == 1);
    server.stop();
}

fn a_unix_socket_is_served_and_goes_with_the_server(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tcbchat.sock");
    let listen = format!("unix:{}", path.display());
    let mut server = setup.server_with("", &["--listen", &listen]);
    assert!(server.readiness().contains(&listen), "{}", server.readiness());
    let line = status(UnixStream::connect(&path).unwrap(), b"GET /metrics HTTP/1.0\r\n\r\n", false);
    assert!(line.starts_with("HTTP/1.1 200 "), "its callers are on this machine: {line}");
    let line =
        status(UnixStream::connect(&path).unwrap(), &[V2, b"GET /metrics HTTP/1.0\r\n\r\n"].concat(), true);
    assert!(line.starts_with("HTTP/1.1 403 "), "unless they say otherwise: {line}");
    let health = Server::run(&["health", "--listen", &listen]);
    assert_eq!(health.status.code(), Some(0), "{health:?}");

    // Sessions on it and on TCP meet.
    let mut over_tcp = crate::members(&server, 3, "/topic/unix");
    let mut over_unix: Vec<_> = (0..20)
        .map(|_| {
            let stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            let (mut socket, _) = tungstenite::client("ws://unix/ws", stream).unwrap();
            socket.send("CONNECT\naccept-version:1.2\nhost:unix\n\n\0".into()).unwrap();
            assert!(socket.read().unwrap().into_text().unwrap().starts_with("CONNECTED"));
            socket.send("SUBSCRIBE\nid:s\ndestination:/topic/unix\nreceipt:r\n\n\0".into()).unwrap();
            assert!(socket.read().unwrap().into_text().unwrap().starts_with("RECEIPT"));
            socket
        })
        .collect();
    over_tcp[0].publish("/topic/unix", "hello");
    for client in &mut over_tcp {
        assert_eq!(client.expect_body(), "hello");
    }
    for socket in &mut over_unix {
        assert!(socket.read().unwrap().into_text().unwrap().contains("hello"));
    }
    let last = over_unix.pop().unwrap();
    drop(last);
    server.await_metric("tcb_entries{state=\"established\"}", |count| count == 3 + 19);
    assert_eq!(server.metric("tcb_entries{state=\"closing\"}"), 0);

    server.signal(Signal::TERM);
    for socket in &mut over_unix {
        let goodbye = socket.read().unwrap();
        assert!(goodbye.is_close(), "{goodbye:?}");
        // It is answered by flushing, and the server's end is waited for.
        while socket.read().is_ok() {}
    }
    drop((over_tcp, over_unix));
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists(), "its file is gone");
    assert!(UnixStream::connect(&path).is_err());
}

fn nobody_comes_through_a_proxy_until_it_is_said_who_may_connect(setup: Setup) {
    let configuration = "[http]\ntrusted_proxies = \"127.0.0.1\"";
    let unsaid = setup.server_with(configuration, &["--echo"]);
    let said = setup.server_with(&[configuration, "\n[auth]\nmode = \"open\""].concat(), &["--echo"]);
    let marks = [
        "Forwarded: for=192.0.2.7\r\n",
        "X-Forwarded-For: 192.0.2.7\r\n",
        "x-forwarded-proto: https\r\n",
        "X-Forwarded-Host: test\r\n",
        "X-Real-IP: 192.0.2.7\r\n",
        "Via: 1.1 proxy\r\n",
    ];
    let mut requests: Vec<Vec<u8>> = marks.iter().map(|mark| handshake_with(mark).into_bytes()).collect();
    requests.extend([V1, V2, LOCAL].map(|header| [header, HANDSHAKE.as_bytes()].concat()));
    requests.extend(requests.clone().iter().map(|request| {
        let at = request.windows(3).position(|path| path == b"/ws").unwrap();
        [&request[..at], b"/echo", &request[at + 3..]].concat()
    }));
    for request in &requests {
        let shown = request.escape_ascii();
        let answer = unsaid.exchange(request);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{shown}: {answer}");
        let sentence = "The request came through a proxy, and auth.mode is not set: everyone could log in under any name. \
                        Set auth.mode, to \"open\" if that is meant.\n";
        assert!(answer.ends_with(&format!("\r\n\r\n{sentence}")), "{shown}: {answer}");
        let line = status(said.dial(), request, false);
        assert!(line.starts_with("HTTP/1.1 101 "), "{shown}: {line}");
    }
    unsaid.await_metric("refused_proxied_total", |count| count == requests.len() as u64);
    // Pages and probes of balancers are answered, and so is who comes from this machine.
    for page in ["/", "/healthz", "/readyz"] {
        let request = format!("GET {page} HTTP/1.1\r\nHost: test\r\nVia: 1.1 proxy\r\n\r\n");
        assert!(unsaid.exchange(request).starts_with("HTTP/1.1 200 "), "{page}");
    }
    Client::connect(&unsaid).disconnect();
    let flag = setup.server_with(configuration, &["--open"]);
    assert_eq!(status_of(&flag, &handshake_with(marks[0])), 101);
}

fn the_host_that_a_trusted_proxy_names_is_the_pages_own(setup: Setup) {
    let request =
        handshake_with("X-Forwarded-Host: Public.example.com\r\nOrigin: https://public.example.com\r\n");
    let trusting = setup.server_with("[http]\ntrusted_proxies = \"127.0.0.1\"", &["--open"]);
    assert_eq!(status_of(&trusting, &request), 101);
    let inner = request.replacen("Origin: https://public.example.com", "Origin: https://test", 1);
    assert_eq!(status_of(&trusting, &inner), 403, "the browser did not ask for that");
    let wary = setup.server_with("", &["--open"]);
    let answer = wary.exchange(&request);
    assert!(answer.contains(OTHER_SITE), "{answer}");
    assert_eq!(status_of(&wary, &inner), 101);
}

fn the_quota_of_an_address_counts_whom_a_proxy_names(setup: Setup) {
    let configuration =
        "[handshake]\nconnections_per_address_max = 2\n[http]\ntrusted_proxies = \"127.0.0.1\"";
    let server = setup.server_with(configuration, &["--open"]);
    let named = |client: &str| handshake_with(&format!("X-Forwarded-For: 203.0.113.9, {client}\r\n"));
    let first = session(&server, &[("x-forwarded-for", "192.0.2.7")]);
    let second = session(&server, &[("forwarded", "for=\"192.0.2.7:4711\"")]);
    let answer = server.exchange(named("192.0.2.7"));
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nYour address has handshake.connections_per_address_max connections.\n"),
        "{answer}"
    );
    assert_eq!(status_of(&server, &named("192.0.2.8")), 101);
    // Whom nobody names is not counted: all would be one.
    let unnamed: Vec<Client> = (0..3).map(|_| Client::connect(&server)).collect();
    unnamed.into_iter().chain([first, second]).for_each(Client::disconnect);
    server.await_metric("connections_open", |open| open == 1);
    assert_eq!(status_of(&server, &named("192.0.2.7")), 101);
}

/// A session behind a proxy, whose request has these header lines.
fn session(server: &Server, lines: &[(&'static str, &str)]) -> Client {
    let mut client = Client::open_with_headers(server, lines);
    client.start_session(Frame::new("CONNECT"));
    client
}

/// The bound is one reactor's, and falls on whoever has most of it: sessions of one client have one account.
#[test]
fn a_client_that_a_proxy_names_has_one_account() {
    let bound = "[rooms]\nrooms_max = 16\n[http]\ntrusted_proxies = ";
    let setup = Setup { reactors: 1 };
    let room = |client: &mut Client, name: String| {
        client.send(
            &Frame::new("SUBSCRIBE").header("id", &name).header("destination", &format!("/topic/{name}")),
        );
    };
    let from = |client: &'static str| [("x-forwarded-for", client)];
    let fill = |server: &Server| {
        let mut greedy = session(server, &from("203.0.113.9, 192.0.2.7"));
        (0..12).for_each(|nth| room(&mut greedy, format!("room-{nth}")));
        greedy.publish_confirmed("/topic/none", "");
        greedy
    };
    let trusting = setup.server_with(&[bound, "\"127.0.0.1\""].concat(), &["--open"]);
    let greedy = fill(&trusting);
    // A port, another field and a longer way change nothing.
    for lines in [
        from("192.0.2.7"),
        from("192.0.2.7:4711, 127.0.0.1"),
        from("203.0.113.1, ::ffff:192.0.2.7"),
        [("forwarded", "for=203.0.113.1, for=\"192.0.2.7:4711\";proto=https")],
    ] {
        let mut again = session(&trusting, &lines);
        room(&mut again, "another".into());
        expect_refusal(&mut again, "too-many-rooms");
    }
    for other in ["192.0.2.8", "192.0.2.7, 192.0.2.9", "[2001:db8::7]:1", "192.0.2.7, unknown"] {
        let mut stranger = session(&trusting, &[("x-forwarded-for", other)]);
        stranger.subscribe("s", "/topic/strangers");
        stranger.disconnect();
    }
    drop(greedy);

    // Where nobody is trusted, the field names nobody: on loopback each session has an account of its own.
    let wary = setup.server_with(&[bound, "\"192.0.2.1\""].concat(), &["--open"]);
    let greedy = fill(&wary);
    let mut again = session(&wary, &from("192.0.2.7"));
    again.subscribe("s", "/topic/another");
    again.disconnect();
    drop(greedy);
}
