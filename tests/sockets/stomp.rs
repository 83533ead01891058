//! STOMP frames: how they are cut into messages, what is passed on, and how each refusal is said.

use std::collections::BTreeSet;

use crate::support::{Client, Frame, Server};
use crate::{Setup, documented, expect_refusal, send};

on_one_and_three_reactors!(
    frames_and_messages_are_cut_as_one_likes,
    headers_are_passed_on,
    bodies_may_hold_anything,
    every_frame_has_its_receipt,
    every_refusal_has_its_name,
    bounds_are_named,
    subscriptions_to_one_destination_are_bounded,
    bodies_that_look_like_frames,
    heart_beats_of_any_length,
    no_connect_in_time,
);

fn frames_and_messages_are_cut_as_one_likes(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    // Several in one message, with heart-beats before, between and after; lines end in either way.
    client.send_text(
        "\n\r\nSUBSCRIBE\r\nid:s\r\ndestination:/topic/cuts\r\n\r\n\0\r\n\
         SEND\ndestination:/topic/cuts\n\n1\0\n\nSEND\r\ndestination:/topic/cuts\r\n\r\n2\0\n",
    );
    assert_eq!(client.expect_body(), "1");
    assert_eq!(client.expect_body(), "2");
    // One over many: a byte in each, text and binary in turn.
    for (at, byte) in send("/topic/cuts", "3").encode().iter().enumerate() {
        match at % 2 {
            0 => client.send_text(std::str::from_utf8(&[*byte]).unwrap()),
            _ => client.send_binary(&[*byte]),
        }
    }
    assert_eq!(client.expect_body(), "3");
    client.disconnect();
}

fn headers_are_passed_on(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.subscribe("s:1\\", "/topic/head: ers");
    let sent = send("/topic/head: ers", "body")
        .header("first", "a:b\\c\nd\re")
        .header("na:me", " blanks ")
        .header("first", "repeated")
        .header("empty", "")
        .header("content-type", "text/plain")
        .header("destination", "/topic/other")
        .header("message-id", "mine")
        .header("subscription", "mine")
        .header("redelivered", "true")
        .header("passcode", "secret");
    client.send(&sent);
    let message = client.expect("MESSAGE");
    assert_eq!(message.get("subscription"), Some("s:1\\"));
    assert_eq!(message.get("destination"), Some("/topic/head: ers"));
    assert_ne!(message.get("message-id"), Some("mine"));
    let own = ["subscription", "message-id", "destination", "content-length"];
    let passed: Vec<(&str, &str)> = message
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !own.contains(name))
        .collect();
    let expected =
        [("first", "a:b\\c\nd\re"), ("na:me", " blanks "), ("empty", ""), ("content-type", "text/plain")];
    assert_eq!(passed, expected);
    assert_eq!(message.headers.len(), expected.len() + own.len(), "{message:?}");
}

fn bodies_may_hold_anything(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.subscribe("s", "/topic/bodies");
    let mut all_bytes: Vec<u8> = (0..=255).collect();
    all_bytes.extend_from_slice(b"\0\0");
    for (body, is_binary) in [
        (&b"plain"[..], false),
        (b"with\0NUL\0", false),
        ("grüße".as_bytes(), false),
        (&all_bytes, true),
        (b"", false),
    ] {
        client.publish("/topic/bodies", body);
        let message = client.expect("MESSAGE");
        assert_eq!(message.body, body);
        assert_eq!(client.was_binary, is_binary, "{message:?}");
    }
}

fn every_frame_has_its_receipt(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    let of = |command: &str, name: &str, value: &str| Frame::new(command).header(name, value);
    client.subscribe_ack("s", "/queue/receipts", "client-individual");
    client.publish("/queue/receipts", "1");
    let first = client.expect("MESSAGE");
    let receipt =
        client.send_with_receipt(of("NACK", "id", first.get("ack").unwrap()).header("odd", "ignored"));
    // The message returns before the receipt or after it.
    let mut answers = [client.next(), client.next()];
    answers.sort_by(|one, other| one.command.cmp(&other.command));
    let [again, confirmed] = answers;
    assert_eq!(again.get("message-id"), first.get("message-id"));
    assert_eq!(confirmed.get("receipt-id"), Some(&*receipt));
    client.send_confirmed(of("ACK", "id", again.get("ack").unwrap()));
    client.send_confirmed(of("BEGIN", "transaction", "t"));
    client.send_confirmed(of("COMMIT", "transaction", "t"));
    client.send_confirmed(of("BEGIN", "transaction", "t"));
    client.send_confirmed(of("ABORT", "transaction", "t"));
    client.send_confirmed(send("/topic/nobody", "1"));
    client.send_confirmed(of("UNSUBSCRIBE", "id", "s"));
    // In their order, also when none is waited for; that of DISCONNECT before the close.
    let mut receipts: Vec<String> =
        (0..20).map(|room| client.send_with_receipt(send(&format!("/topic/{room}"), "x"))).collect();
    receipts.push(client.send_with_receipt(Frame::new("DISCONNECT")));
    for receipt in receipts {
        assert_eq!(client.expect("RECEIPT").get("receipt-id"), Some(&*receipt));
    }
    assert_eq!(client.expect_close(), (1000, String::new()));
}

/// A session in which `before` was said and confirmed, refused for what it says then.
fn refuse(server: &Server, before: &[&str], text: &str, name: &str) -> (String, u16) {
    let mut client = Client::open(server);
    if !text.starts_with('!') {
        client.start_session(Frame::new("CONNECT"));
    }
    for frame in before {
        client.send_text(&format!("{frame}\0"));
    }
    client.send_text(text.trim_start_matches('!'));
    expect_refusal(&mut client, name)
}

fn every_refusal_has_its_name(setup: Setup) {
    let server = setup.server();
    let long = "x".repeat(256);
    let subscribe = "SUBSCRIBE\nid:s\ndestination:/topic/a\n\n";
    let begin = "BEGIN\ntransaction:t\n\n";
    let destination = |text: &str| format!("SEND\ndestination:{text}\n\nx\0");
    // A `!` in front: without CONNECT.
    let cases: Vec<(Vec<&str>, String, &str)> = vec![
        (vec![], "HELLO\n\n\0".into(), "unknown-command"),
        (vec![], "send\n\n\0".into(), "unknown-command"),
        (vec![], "NOSUCHCOMMAND".into(), "unknown-command"),
        (vec![], format!("SEND\n{}", format!("a:{long}\n").repeat(64)), "head-too-long"),
        (vec![], format!("SEND\na:{}", "x".repeat(4096)), "header-too-long"),
        (vec![], format!("CONNECT\na:{}", "x".repeat(12 * 1024)), "connect-header-too-long"),
        (vec![], format!("SEND\n{}", "a:b\n".repeat(65)), "too-many-headers"),
        (vec![], "SEND\ndestination:/topic/a\ncontent-length:1114113\n\n".into(), "body-too-long"),
        (vec![], "SEND\ndestination\0".into(), "nul-in-head"),
        (vec![], "SEND\ndestination\n\n\0".into(), "header-malformed"),
        (vec![], "SEND\n:value\n\n\0".into(), "header-malformed"),
        (vec![], "SEND\na:b\rc\n\n\0".into(), "carriage-return"),
        (vec![], "SEND\na:b\\tc\n\n\0".into(), "undefined-escape"),
        (vec![], "SEND\ndestination:/topic/a\ncontent-length:-1\n\n\0".into(), "content-length"),
        (vec![], "BEGIN\ntransaction:t\n\nbody\0".into(), "body-not-allowed"),
        (vec![], "SEND\ndestination:/topic/a\ncontent-length:1\n\nxx".into(), "nul-missing"),
        // Seven characters and eleven bytes: a length that was counted in characters.
        (vec![], "SEND\ndestination:/topic/a\ncontent-length:7\n\nüüüü...\0".into(), "nul-missing"),
        // What a browser makes of a character that splitLargeFrames has cut.
        (
            vec![],
            "SEND\ndestination:/topic/a\ncontent-length:5\n\n\u{fffd}\u{fffd}.\0".into(),
            "character-cut",
        ),
        (
            vec![],
            "!CONNECT\naccept-version:1.2\n\nSUBSCRIBE\nid:s\ndestination:/topic/a\n\n".into(),
            "body-not-allowed",
        ),
        (vec![], "SUBSCRIBE\nid:s\ndestination: /topic/a\n\n\0".into(), "blanks"),
        (vec![], "SUBSCRIBE\nid:s\ndestination:/topic/a\nack:auto \n\n\0".into(), "blanks"),
        (vec![], format!("!{}", destination("/topic/a")), "not-connected"),
        (vec![], "CONNECT\naccept-version:1.2\n\n\0".into(), "already-connected"),
        (vec![], "MESSAGE\n\n\0".into(), "server-command"),
        (vec![], "SEND\n\nx\0".into(), "missing-header"),
        (vec![], "COMMIT\n\n\0".into(), "missing-header"),
        (vec![], destination("/exchange/a"), "bad-destination"),
        (vec![], destination("/topic/"), "bad-destination"),
        (vec![], destination("/user/a/topic/b"), "bad-destination"),
        (vec![], destination(&format!("/topic/{long}")), "destination-too-long"),
        (vec![], format!("SUBSCRIBE\nid:{long}\ndestination:/topic/a\n\n\0"), "id-too-long"),
        (vec![], "SUBSCRIBE\nid:s\ndestination:/topic/a\nack:maybe\n\n\0".into(), "bad-ack-mode"),
        (vec![], "!CONNECT\naccept-version:1.2\nheart-beat:often\n\n\0".into(), "bad-heart-beat"),
        (vec![], "!CONNECT\naccept-version:1.2\nheart-beat:+5,5\n\n\0".into(), "bad-heart-beat"),
        (vec![subscribe], format!("{subscribe}\0"), "subscription-exists"),
        (vec![], "UNSUBSCRIBE\nid:s\n\n\0".into(), "no-such-subscription"),
        (vec![], "ACK\nid:1-1\n\n\0".into(), "unknown-ack"),
        (vec![begin], format!("{begin}\0"), "transaction-exists"),
        (vec![], "ABORT\ntransaction:t\n\n\0".into(), "no-such-transaction"),
    ];
    let codec = documented("| name | message | close code |");
    let session = documented("| fault | message | close code |");
    let mut seen = BTreeSet::new();
    for (before, text, name) in cases {
        let (message, code) = refuse(&server, &before, &text, name);
        // `*command*` and `*header*` stand for the frame's: those rows are compared around them.
        let is_like = |row: &Vec<&str>| {
            let mut rest = message.as_str();
            let pattern = row[1].replace('\\', "");
            row[0] == name
                && row[2] == code.to_string()
                && pattern.split('*').step_by(2).all(|part| match rest.find(part) {
                    Some(at) => {
                        rest = &rest[at + part.len()..];
                        true
                    }
                    None => false,
                })
        };
        assert!(codec.iter().chain(&session).any(is_like), "{name}: {message:?}, {code}");
        seen.insert(name);
    }
    // Bytes that are no text need a binary message.
    let mut client = Client::connect(&server);
    client.send_binary(b"SEND\na:\xff\n\n\0");
    assert_eq!(expect_refusal(&mut client, "head-not-utf8"), ("head is not UTF-8".into(), 1002));
    seen.insert("head-not-utf8");
    // Clients that cut their text at the NUL: the second message shows that the first has none.
    let mut client = Client::connect(&server);
    client.send_text("SEND\ndestination:/topic/a\n\nfirst");
    client.send_text("SEND\r\ndestination:/topic/a\r\n\r\nsecond");
    let (message, code) = expect_refusal(&mut client, "nul-forgotten");
    assert!(message.contains("NUL at its end") && code == 1002, "{message}");
    seen.insert("nul-forgotten");
    for row in codec {
        assert!(seen.contains(row[0]), "{} has no case", row[0]);
    }
    // A frame that asked for a receipt is told which one it was.
    let mut client = Client::connect(&server);
    client.send_text("SEND\nreceipt:r\n\nx\0");
    assert_eq!(client.expect("ERROR").get("receipt-id"), Some("r"));
}

fn bounds_are_named(setup: Setup) {
    let configuration = "[stomp]\nsubscriptions_max = 1\ntransactions_max = 1\ntransaction_frames_max = 1\n\
        transaction_bytes_max = 1024\nid_bytes_max = 20\ndestination_bytes_max = 40\n\
        [rooms]\nrooms_max = 1";
    let server = setup.server_with(configuration, &[]);
    let begin = "BEGIN\ntransaction:t\n\n";
    let held = "SEND\ndestination:/topic/a\ntransaction:t\n\n";
    let cases: [(&[&str], String, &str, &str, u16); 6] = [
        (
            &["SUBSCRIBE\nid:s\ndestination:/topic/a\n\n"],
            "SUBSCRIBE\nid:t\ndestination:/topic/a\n\n\0".into(),
            "too-many-subscriptions",
            "the session has stomp.subscriptions_max = 1 subscriptions",
            1008,
        ),
        (
            &[begin],
            "BEGIN\ntransaction:u\n\n\0".into(),
            "too-many-transactions",
            "the session has stomp.transactions_max = 1 open transactions",
            1008,
        ),
        (
            &[begin, held],
            format!("{held}\0"),
            "transaction-too-long",
            "open transactions hold more than stomp.transaction_frames_max = 1 frames",
            1008,
        ),
        (
            &[begin],
            format!("{held}{}\0", "x".repeat(1024)),
            "transaction-too-large",
            "open transactions hold more than stomp.transaction_bytes_max = 1024 bytes",
            1009,
        ),
        (
            &[],
            format!("SEND\ndestination:/topic/a\nreceipt:{}\n\n\0", "r".repeat(21)),
            "id-too-long",
            "receipt is longer than stomp.id_bytes_max = 20",
            1009,
        ),
        (
            &[],
            format!("SEND\ndestination:/topic/{}\n\n\0", "a".repeat(40)),
            "destination-too-long",
            "destination is longer than stomp.destination_bytes_max = 40",
            1009,
        ),
    ];
    for (before, text, name, message, code) in cases {
        assert_eq!(refuse(&server, before, &text, name), (message.to_owned(), code));
    }
    // Each reactor owns one at most: with more rooms than reactors, one is refused.
    let mut clients: Vec<Client> = (0..=setup.reactors).map(|_| Client::connect(&server)).collect();
    for (room, client) in clients.iter_mut().enumerate() {
        let subscribe = Frame::new("SUBSCRIBE").header("id", "s");
        client.send(&subscribe.header("destination", &format!("/topic/bound-{room}")).header("receipt", "r"));
    }
    let mut refused = 0;
    for client in &mut clients {
        let answer = client.next();
        if answer.command == "ERROR" {
            assert_eq!(answer.get("message"), Some("the server holds rooms.rooms_max = 1 destinations"));
            assert_eq!(client.expect_close(), (1013, "too-many-rooms".into()));
            refused += 1;
        } else {
            assert_eq!(answer.command, "RECEIPT");
        }
    }
    assert!(refused > 0);
    server.await_metric("rooms_refused_total", |count| count == refused);
}

fn subscriptions_to_one_destination_are_bounded(setup: Setup) {
    let server = setup.server_with("[stomp]\nsubscriptions_per_destination_max = 2", &[]);
    for place in ["/topic/here", "/queue/here", "/user/queue/here"] {
        let mut client = Client::login(&server, "ann");
        for id in ["a", "b"] {
            client.subscribe(id, place);
            client.subscribe(&format!("{id}-other"), &format!("{place}-{id}"));
        }
        // One that has gone makes room for another.
        client.send_confirmed(Frame::new("UNSUBSCRIBE").header("id", "a"));
        client.subscribe("c", place);
        client.send(&Frame::new("SUBSCRIBE").header("id", "d").header("destination", place));
        let (message, code) = expect_refusal(&mut client, "too-many-subscriptions");
        let bound =
            "the session has stomp.subscriptions_per_destination_max = 2 subscriptions to this destination";
        assert_eq!((&*message, code), (bound, 1008));
    }
    server.await_metric("bounds_refused_total", |count| count == 3);
    server.await_metric("subscriptions", |count| count == 0);
}

/// Bodies that look like frames, or are cut where one seems to begin, are bodies.
fn bodies_that_look_like_frames(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.subscribe("s", "/topic/a");
    let inner = "SEND\ndestination:/topic/a\n\nx";
    client.send_text(&format!("SEND\ndestination:/topic/a\n\n{inner}\0"));
    assert_eq!(client.expect_body(), inner);
    let head = format!("SEND\ndestination:/topic/a\ncontent-length:{}\n\n", inner.len());
    client.send_text(&head);
    client.send_text(&format!("{inner}\0"));
    assert_eq!(client.expect_body(), inner);
    for begin in
        ["SEND", "SEND\n", "SEND\ndestination:/topic/a\n", "SEND\n\nx", "MESSAGE\na:b\n\nx", "SEND\n:b\n\n"]
    {
        client.send_text("SEND\ndestination:/topic/a\n\n");
        client.send_text(&format!("{begin}\0"));
        assert_eq!(client.expect_body(), begin);
    }
    client.disconnect();
}

/// A number that is too large for anybody is a number.
fn heart_beats_of_any_length(setup: Setup) {
    let server = setup.server();
    let mut client = Client::open(&server);
    let connect =
        Frame::new("CONNECT").header("accept-version", "1.2").header("heart-beat", "0,99999999999999999999");
    client.send(&connect);
    assert_eq!(client.expect("CONNECTED").get("heart-beat"), Some("1000,1000"));
    client.disconnect();
}

fn no_connect_in_time(setup: Setup) {
    let server = setup.server_with("[handshake]\nconnect_timeout_ms = 200", &[]);
    let mut client = Client::open(&server);
    let (message, code) = expect_refusal(&mut client, "connect-timeout");
    assert_eq!((&*message, code), ("no CONNECT within handshake.connect_timeout_ms = 200", 1008));
    let mut client = Client::open(&server);
    client.send_text("CONNECT\naccept-version:1.2\nhost:a\n\n");
    let (message, code) = expect_refusal(&mut client, "connect-unfinished");
    assert!(message.ends_with("there is no NUL at its end") && code == 1008, "{message}");
}
