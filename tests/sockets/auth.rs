//! Who a client is: passwords, tokens, the application; what it may do; and how all that ends.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Client, Frame, Server};
use crate::{Setup, send};

on_one_and_three_reactors!(
    a_password_is_right_or_wrong,
    a_token_is_found_wherever_it_stands,
    nobody_reads_what_is_anothers,
    the_sender_is_said_by_the_server,
    a_session_expires_unless_it_renews,
    a_token_cannot_make_somebody_else_of_a_session,
    rules_decide_who_may_what_where,
    the_application_says_who_it_is,
    other_users_and_rules_at_a_signal,
    who_guesses_is_put_off_and_tokens_go_on,
    who_publishes_too_fast_is_read_later,
    a_login_has_its_number_of_sessions,
);

const SECRET: &str = r#"{"keys":[{"kty":"oct","kid":"k","alg":"HS256","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}]}"#;
const OTHER_SECRET: &str = r#"{"keys":[{"kty":"oct","kid":"k","alg":"HS256","k":"b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI"}]}"#;

/// Files of users and keys, and a configuration.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("keys", SECRET);
        files.write("other-keys", OTHER_SECRET);
        for (login, password, role) in [("alice", "wonder", "staff"), ("bob", "builder", "guest")] {
            files.passwd(login, password, role);
        }
        files
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn passwd(&self, login: &str, password: &str, role: &str) {
        let path = self.path("users");
        let output = Server::run_saying(&["passwd", &path, login, "--role", role], password);
        assert!(output.status.success(), "{output:?}");
    }

    pub(super) fn token(&self, key: &str, login: &str, more: &[&str]) -> String {
        let key = self.path(key);
        let output = Server::run(&[&["token", "--key", &key, "--login", login], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A server with these modes, and these settings beside.
    pub(super) fn server(&self, setup: Setup, modes: &str, more: &[&str]) -> Server {
        self.configured(setup, modes, "", more)
    }

    /// A server with these modes, and this configuration beside.
    pub(super) fn server_of(&self, setup: Setup, modes: &str, configuration: &str) -> Server {
        self.configured(setup, modes, configuration, &[])
    }

    fn configured(&self, setup: Setup, modes: &str, configuration: &str, more: &[&str]) -> Server {
        let (users, keys) = (self.path("users"), self.path("keys"));
        let settings = [
            format!("auth.mode={modes}"),
            format!("auth.users_file={users}"),
            format!("auth.keys_file={keys}"),
            "auth.token_cookie=chat".into(),
            "auth.token_query=access_token".into(),
        ];
        self.write("tcbchat.toml", configuration);
        let (config, reactors) = (self.path("tcbchat.toml"), setup.reactors.to_string());
        let mut arguments = vec!["--config", &config, "--reactors", &reactors];
        for setting in settings.iter().map(String::as_str).chain(more.iter().copied()) {
            arguments.extend(["--set", setting]);
        }
        Server::start(&arguments)
    }
}

pub(super) fn connect(login: &str, passcode: &str) -> Frame {
    Frame::new("CONNECT").header("login", login).header("passcode", passcode)
}

/// A session of this CONNECT.
pub(super) fn session(server: &Server, connect: Frame) -> Client {
    let mut client = Client::open(server);
    client.start_session(connect);
    client
}

/// The ERROR, and the close code, of a CONNECT that is refused.
pub(super) fn refused(server: &Server, connect: Frame) -> (String, u16) {
    let mut client = Client::open(server);
    client.send(&connect.header("accept-version", "1.2").header("host", "test"));
    ended(&mut client)
}

/// The name of the fault that a session ends by, and the close code.
pub(super) fn ended(client: &mut Client) -> (String, u16) {
    let error = client.expect("ERROR");
    (error.text().trim().to_owned(), client.expect_close().0)
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn a_password_is_right_or_wrong(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "users", &[]);
    let mut alice = Client::open(&server);
    assert_eq!(alice.start_session(connect("alice", "wonder")).get("user-name"), Some("alice"));
    alice.send_confirmed(send("/topic/x", "hello"));
    alice.disconnect();
    // Wrong, unknown and unsaid are not told apart.
    let wrong = refused(&server, connect("alice", "WRONG"));
    assert_eq!(wrong, ("not-authenticated".into(), 1008));
    assert_eq!(refused(&server, connect("mallory", "wonder")), wrong);
    assert_eq!(refused(&server, Frame::new("CONNECT").header("login", "alice")), wrong);
    assert_eq!(refused(&server, Frame::new("CONNECT")), wrong);
    // What is said behind CONNECT waits for the answer, and is done if that is yes.
    let mut hasty = Client::open(&server);
    let first = connect("bob", "builder").header("accept-version", "1.2");
    let text: Vec<u8> = [
        first.encode(),
        Frame::new("SUBSCRIBE").header("id", "s").header("destination", "/topic/hasty").encode(),
        send("/topic/hasty", "at once").encode(),
    ]
    .concat();
    hasty.send_text(std::str::from_utf8(&text).unwrap());
    hasty.expect("CONNECTED");
    assert_eq!(hasty.expect_body(), "at once");
    // And is not, if it is no.
    let mut hasty = Client::open(&server);
    let first = connect("bob", "WRONG").header("accept-version", "1.2");
    let text = [first.encode(), send("/topic/hasty", "never").encode()].concat();
    hasty.send_text(std::str::from_utf8(&text).unwrap());
    // No version is agreed yet, so there is nothing to unescape.
    let error = hasty.expect("ERROR");
    assert_eq!(error.get("message"), Some("not authenticated; login or passcode is wrong"));
    assert_eq!((error.text().trim(), hasty.expect_close().0), ("not-authenticated", 1008));
    server.await_metric("logins_total", |value| value == 2);
    server.await_metric("logins_refused_total", |value| value == 5);
    let line = server.await_output("claims=\"mallory\"");
    assert!(line.contains("fault=\"not-authenticated\""), "{line}");
    assert!(!server.output().contains("wonder") && !server.output().contains("WRONG"), "{}", server.output());
}

fn a_token_is_found_wherever_it_stands(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "jwt,users", &[]);
    let token = files.token("keys", "carol", &["--role", "staff"]);
    let bearer = format!("Bearer {token}");
    let greeting = |client: &mut Client| {
        client.subscribe("s", "/topic/greetings");
        client.publish("/topic/greetings", "hi");
        let message = client.expect("MESSAGE");
        message.get("sender").map(str::to_owned)
    };
    let carol = Some("carol".to_owned());
    // In CONNECT, whatever login is said beside it.
    for said in [
        Frame::new("CONNECT").header("passcode", &token),
        connect("alice", &token),
        Frame::new("CONNECT").header("Authorization", &bearer),
    ] {
        assert_eq!(greeting(&mut session(&server, said)), carol);
    }
    // In the upgrade.
    let cookie = format!("a=b; chat={token}");
    let query = format!("/ws?access_token={token}");
    for (path, headers) in
        [("/ws", vec![("authorization", &*bearer)]), ("/ws", vec![("cookie", &*cookie)]), (&*query, vec![])]
    {
        let stream = server.try_dial().unwrap();
        let opened = Client::try_open_saying(stream, &server, path, &["v12.stomp"], &headers);
        let mut client = opened.unwrap().0;
        client.start_session(Frame::new("CONNECT"));
        assert_eq!(greeting(&mut client), carol, "{path}");
    }
    // A password goes before a cookie that is there unasked.
    let stream = server.try_dial().unwrap();
    let opened = Client::try_open_saying(stream, &server, "/ws", &["v12.stomp"], &[("cookie", &cookie)]);
    let mut client = opened.unwrap().0;
    client.start_session(connect("alice", "wonder"));
    assert_eq!(greeting(&mut client).as_deref(), Some("alice"));
    // 8 KiB by default; and no more than the bound.
    let long = files.token("keys", "carol", &["--audience", &"a".repeat(5_500)]);
    assert!(long.len() > 7_000, "{}", long.len());
    session(&server, Frame::new("CONNECT").header("passcode", &long));
    let too_long = format!("{token}{}", "A".repeat(13_000));
    assert_eq!(refused(&server, Frame::new("CONNECT").header("passcode", &too_long)).1, 1009);
    // Of another key, stale, and cut short.
    for (bad, fault) in [
        (files.token("other-keys", "carol", &[]), "not-authenticated"),
        (files.token("keys", "carol", &["--expires-in", "-1h"]), "expired"),
        (token[..token.len() - 3].to_owned(), "not-authenticated"),
    ] {
        let refusal = refused(&server, Frame::new("CONNECT").header("passcode", &bad));
        assert_eq!(refusal, (fault.into(), 1008));
    }
    server.await_metric("credentials_bytes", |value| value == 0);
    assert!(!server.output().contains(&token[20..60]), "a token is in the log");
}

fn nobody_reads_what_is_anothers(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "users", &[]);
    let mut alice = session(&server, connect("alice", "wonder"));
    alice.subscribe("mine", "/user/queue/mail");
    let mut bob = session(&server, connect("bob", "builder"));
    bob.subscribe("mine", "/user/queue/mail");
    bob.publish_confirmed("/user/alice/queue/mail", "for alice");
    assert_eq!(alice.expect_body(), "for alice");
    for trick in [
        "/user/alice/queue/mail",
        "/user/queue/../alice/queue/mail",
        "/user/%61lice/queue/mail",
        "/user//queue/mail",
        "/USER/queue/mail",
    ] {
        let mut spy = session(&server, connect("bob", "builder"));
        spy.subscribe("s", "/topic/sync");
        let subscribe = Frame::new("SUBSCRIBE").header("id", "spy").header("destination", trick);
        spy.send(&subscribe.header("receipt", "r"));
        // It is refused, or is a place of bob's own.
        if spy.next().command == "ERROR" {
            continue;
        }
        // By another session: of its own, a RECEIPT and a MESSAGE have no order.
        bob.publish_confirmed("/user/alice/queue/mail", "secret");
        assert_eq!(alice.expect_body(), "secret");
        bob.publish_confirmed("/topic/sync", "public");
        assert_eq!(spy.expect_body(), "public", "{trick}");
    }
    // By a login that looks like hers.
    for login in ["Alice", "alice ", "\u{430}lice", "alice\u{200b}"] {
        assert_eq!(refused(&server, connect(login, "wonder")).0, "not-authenticated", "{login:?}");
    }
}

fn the_sender_is_said_by_the_server(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "users,open", &[]);
    let mut reader = session(&server, Frame::new("CONNECT"));
    reader.subscribe("s", "/topic/said");
    let forged = |body| {
        send("/topic/said", body)
            .header("sender", "bob")
            .header("timestamp", "1")
            .header("sender ", "bob")
            .header("x", "y")
    };
    let mut alice = session(&server, connect("alice", "wonder"));
    alice.send_confirmed(forged("one"));
    let message = reader.expect("MESSAGE");
    assert_eq!((message.get("sender"), message.get("x")), (Some("alice"), Some("y")));
    assert_eq!(message.get("sender "), None);
    let at_ms: u64 = message.get("timestamp").unwrap().parse().unwrap();
    assert!(at_ms.abs_diff(now_s() * 1000) < 60_000, "{at_ms}");
    // Whoever is nobody has no name, and cannot take one.
    let mut nobody = Client::open(&server);
    assert_eq!(nobody.start_session(Frame::new("CONNECT")).get("user-name"), None);
    nobody.send_confirmed(forged("two"));
    let message = reader.expect("MESSAGE");
    assert_eq!((message.text(), message.get("sender")), ("two", None));
    assert!(message.get("timestamp").is_some());
    assert_eq!(refused(&server, connect("alice", "WRONG")).0, "not-authenticated");
    assert_eq!(refused(&server, connect("unknown", "x")).0, "not-authenticated");
    // Without authentication nobody has proved anything.
    let open = setup.server();
    let mut anybody = Client::open(&open);
    assert_eq!(anybody.start_session(connect("alice", "any")).get("user-name"), None);
    anybody.subscribe("s", "/topic/said");
    anybody.send(&forged("three"));
    let message = anybody.expect("MESSAGE");
    assert_eq!((message.get("sender"), message.get("timestamp")), (None, None));
    anybody.send(&send("/session/token", "x"));
    assert_eq!(ended(&mut anybody).0, "nothing-to-renew");
}

fn a_session_expires_unless_it_renews(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "jwt", &[]);
    let short = files.token("keys", "carol", &["--expires-in", "3s"]);
    let begun = Instant::now();
    let mut staying = session(&server, Frame::new("CONNECT").header("passcode", &short));
    let mut going = session(&server, Frame::new("CONNECT").header("passcode", &short));
    let longer = files.token("keys", "carol", &["--expires-in", "1h", "--role", "staff"]);
    staying.send(&send("/session/token", &longer).header("receipt", "renewed"));
    let receipt = staying.expect("RECEIPT");
    assert_eq!(receipt.get("receipt-id"), Some("renewed"));
    let until: u64 = receipt.get("expires").unwrap().parse().unwrap();
    assert!(until.abs_diff(now_s() + 3600) < 60, "{until}");
    assert_eq!(ended(&mut going), ("expired".into(), 1008));
    // Its seconds are whole ones, so it may be a second less.
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "{:?}", begun.elapsed());
    staying.send_confirmed(send("/topic/x", "here still"));
    server.await_metric("sessions_expired_total", |value| value == 1);
    server.await_metric("logins_renewed_total", |value| value == 1);
    let line = server.await_output("fault=\"expired\"");
    assert!(line.contains("login=\"carol\"") && line.contains("address=\"127.0.0.1\""), "{line}");
}

fn a_token_cannot_make_somebody_else_of_a_session(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "jwt", &[]);
    let tokens =
        [files.token("keys", "dave", &[]), files.token("other-keys", "carol", &[]), "nonsense".into()];
    for token in &tokens {
        let own = files.token("keys", "carol", &[]);
        let mut carol = session(&server, Frame::new("CONNECT").header("passcode", &own));
        carol.send(&send("/session/token", token).header("receipt", "r"));
        assert_eq!(ended(&mut carol), ("not-authenticated".into(), 1008));
    }
}

fn rules_decide_who_may_what_where(setup: Setup) {
    let files = Files::new();
    let config = files.path("tcbchat.toml");
    files.write(
        "tcbchat.toml",
        r#"
        [[rules]]
        who = "role:staff"
        may = ["send", "subscribe"]
        where = ["/topic/staff.**", "/topic/news"]

        [[rules]]
        who = "anyone"
        may = "subscribe"
        where = "/topic/news"

        [[rules]]
        who = "anyone"
        may = ["send", "subscribe"]
        where = ["/topic/home.{login}", "/user/{login}/**"]
        "#,
    );
    let (users, reactors) = (format!("auth.users_file={}", files.path("users")), setup.reactors.to_string());
    let set =
        ["--set", "auth.mode=users,open", "--set", &users, "--reactors", &reactors, "--config", &config];
    let server = Server::start(&set);
    let alice = || session(&server, connect("alice", "wonder"));
    let bob = || session(&server, connect("bob", "builder"));
    let nobody = || session(&server, Frame::new("CONNECT"));
    let subscribe = |place: &str| Frame::new("SUBSCRIBE").header("id", "s").header("destination", place);
    let may = |mut client: Client, frame: Frame| client.send_confirmed(frame);
    let may_not = |mut client: Client, frame: Frame| {
        client.send(&frame.header("receipt", "r"));
        let error = client.next();
        assert_eq!(
            (&*error.command, error.text().trim(), error.get("receipt-id")),
            ("ERROR", "forbidden", Some("r"))
        );
        error.get("message").unwrap().to_owned()
    };
    may(alice(), send("/topic/news", "x"));
    may(alice(), subscribe("/topic/staff.a/b"));
    may(bob(), subscribe("/topic/news"));
    may(nobody(), subscribe("/topic/news"));
    may(bob(), send("/topic/home.bob", "x"));
    may(bob(), subscribe("/user/queue/mail"));
    assert_eq!(may_not(bob(), send("/topic/news", "x")), "this session may not send: /topic/news");
    assert_eq!(may_not(bob(), subscribe("/topic/staff.a")), "this session may not subscribe: /topic/staff.a");
    may_not(bob(), send("/topic/home.alice", "x"));
    may_not(bob(), send("/topic/home.{login}", "x"));
    may_not(bob(), send("/user/alice/queue/mail", "x"));
    may_not(nobody(), send("/topic/home.", "x"));
    may_not(nobody(), send("/queue/q", "x"));
    // A transaction is all or nothing.
    let mut reader = alice();
    reader.subscribe("s", "/topic/staff.t");
    let mut writer = alice();
    writer.send(&Frame::new("BEGIN").header("transaction", "t"));
    writer.send(&send("/topic/staff.t", "half").header("transaction", "t"));
    writer.send(&send("/queue/forbidden", "half").header("transaction", "t"));
    writer.send(&Frame::new("COMMIT").header("transaction", "t"));
    assert_eq!(ended(&mut writer).0, "forbidden");
    alice().publish_confirmed("/topic/staff.t", "whole");
    assert_eq!(reader.expect_body(), "whole");
}

/// An application that knows `ann`, and is asked by HTTP.
fn application() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/login", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // One connection may ask several times.
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut part = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut part) {
                    request.extend_from_slice(&part[..count]);
                    if !request.ends_with(b"}") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let (status, body) = match &text {
                        text if text.contains("\"passcode\":\"slow\"")
                            || text.contains("\"token\":\"slow\"") =>
                        {
                            thread::sleep(Duration::from_secs(3));
                            ("200 OK", r#"{"login":"late"}"#)
                        }
                        text if text.contains("chat-session=good") => {
                            ("200 OK", r#"{"login":"ann","expires_in":3600}"#)
                        }
                        text if text.contains("\"passcode\":\"locked\"") => {
                            ("403 Forbidden", r#"{"reason":"your account is locked"}"#)
                        }
                        _ => ("401 Unauthorized", "{}"),
                    };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    request.clear();
                }
            });
        }
    });
    url
}

fn the_application_says_who_it_is(setup: Setup) {
    let files = Files::new();
    let url = format!("auth.http_url={}", application());
    let server = files.server(setup, "jwt,http", &[&url, "auth.http_timeout_ms=500"]);
    let stream = server.try_dial().unwrap();
    let cookie = [("cookie", "chat-session=good")];
    let mut ann = Client::try_open_saying(stream, &server, "/ws", &["v12.stomp"], &cookie).unwrap().0;
    ann.start_session(Frame::new("CONNECT"));
    ann.subscribe("s", "/topic/x");
    ann.publish("/topic/x", "hello");
    assert_eq!(ann.expect("MESSAGE").get("sender"), Some("ann"));
    let mut locked = Client::open(&server);
    locked.send(&connect("ann", "locked").header("accept-version", "1.2"));
    let error = locked.expect("ERROR");
    assert_eq!(error.get("message"), Some("not authenticated; your account is locked"));
    assert_eq!(refused(&server, connect("ann", "wrong")), ("not-authenticated".into(), 1008));
    // It thinks for too long; who is connected does not notice.
    assert_eq!(refused(&server, connect("ann", "slow")), ("auth-unavailable".into(), 1013));
    ann.publish("/topic/x", "again");
    assert_eq!(ann.expect_body(), "again");
    // A token needs nobody to be asked.
    session(&server, Frame::new("CONNECT").header("passcode", &files.token("keys", "carol", &[])));
    // Nor does a session by a new token that nobody can judge: the old one holds.
    let alone = files.server(setup, "http", &[&url, "auth.http_timeout_ms=500"]);
    let stream = alone.try_dial().unwrap();
    let mut ann = Client::try_open_saying(stream, &alone, "/ws", &["v12.stomp"], &cookie).unwrap().0;
    ann.start_session(Frame::new("CONNECT"));
    ann.send(&send("/session/token", "slow").header("receipt", "renewed"));
    let told = ann.expect("MESSAGE");
    assert_eq!((told.text(), told.get("receipt-id")), ("auth-unavailable\n", Some("renewed")));
    ann.publish_confirmed("/topic/x", "still");
    let down = files.server(setup, "http", &["auth.http_url=http://127.0.0.1:9/"]);
    assert_eq!(refused(&down, connect("ann", "x")), ("auth-unavailable".into(), 1013));
}

fn other_users_and_rules_at_a_signal(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "users", &[]);
    let mut alice = session(&server, connect("alice", "wonder"));
    files.passwd("dora", "explorer", "staff");
    assert_eq!(refused(&server, connect("dora", "explorer")).0, "not-authenticated");
    server.signal(Signal::HUP);
    server.await_output("the configuration was read");
    session(&server, connect("dora", "explorer"));
    // What is wrong with a file is said, and those in force stay.
    files.write("users", "alice:nonsense\n");
    server.signal(Signal::HUP);
    let line = server.await_output("nothing is reloaded");
    assert!(line.contains("users:1:"), "{line}");
    session(&server, connect("dora", "explorer"));
    alice.send_confirmed(send("/topic/x", "here still"));
}

fn who_guesses_is_put_off_and_tokens_go_on(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "jwt,users", &["auth.failures_per_login_max=3"]);
    for _ in 0..3 {
        assert_eq!(refused(&server, connect("alice", "guess")).0, "not-authenticated");
    }
    // Loopback is nobody's address; the login is.
    assert_eq!(refused(&server, connect("alice", "guess")), ("auth-busy".into(), 1013));
    assert_eq!(refused(&server, connect("alice", "wonder")), ("auth-busy".into(), 1013));
    session(&server, connect("bob", "builder"));
    session(&server, connect("alice", &files.token("keys", "alice", &[])));
    server.await_metric("logins_put_off_total", |value| value == 2);
}

fn a_login_has_its_number_of_sessions(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "users", &["auth.sessions_per_login_max=2"]);
    let [first, second] = [(); 2].map(|()| session(&server, connect("alice", "wonder")));
    assert_eq!(refused(&server, connect("alice", "wonder")), ("too-many-sessions".into(), 1008));
    session(&server, connect("bob", "builder"));
    first.disconnect();
    let third = session(&server, connect("alice", "wonder"));
    second.disconnect();
    third.disconnect();
    server.await_metric("logins_over_quota_total", |value| value == 1);
}

fn who_publishes_too_fast_is_read_later(setup: Setup) {
    let server =
        setup.server_with("", &["--set", "rate.session_messages_per_s=20", "--set", "rate.burst_s=1"]);
    let mut reader = Client::connect(&server);
    reader.subscribe("s", "/topic/fast");
    let mut fast = Client::connect(&server);
    let begun = Instant::now();
    let burst: String =
        (0..50).map(|n| String::from_utf8(send("/topic/fast", format!("{n}")).encode()).unwrap()).collect();
    fast.send_text(&burst);
    // Somebody else's goes at once, in between.
    let mut calm = Client::connect(&server);
    calm.publish_confirmed("/topic/calm", "x");
    for n in 0..50 {
        assert_eq!(reader.expect_body(), n.to_string());
    }
    // A second's worth at once, and a second and a half for the rest.
    assert!(begun.elapsed() >= Duration::from_millis(1_300), "{:?}", begun.elapsed());
    fast.disconnect();
    server.await_metric("publishers_slowed_total", |value| value > 0);
}
