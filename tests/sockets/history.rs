//! Rooms that keep their past: who comes later, or was away, gets it, and is told what it does not get.

use super::auth::{Files, connect};
use super::*;

on_one_and_three_reactors! {
    a_newcomer_gets_the_last_messages_and_then_what_comes,
    who_was_away_goes_on_where_it_was,
    nothing_is_lost_or_doubled_while_others_publish,
    what_cannot_be_had_is_named,
    who_knows_nothing_of_it_notices_two_headers,
    what_is_said_to_a_login_waits_for_it,
    a_recovery_ends_with_its_subscription,
    who_does_not_read_what_was_costs_a_page,
    many_rooms_at_once_cost_a_page_too,
    an_id_that_is_used_again_gets_the_old_ones_rest_first,
    who_never_catches_up_is_told_so_and_gets_what_is_new,
    bad_questions_are_refused,
    rules_know_who_may_ask,
    a_reload_changes_what_is_kept,
    what_is_too_old_or_too_much_goes,
}

const KEPT: &str = "[[destination]]\npattern = \"/topic/h/*\"\nhistory = \"memory\"\nhistory_messages = 5000\nhistory_bytes = 16777216\n";
const ROOM: &str = "/topic/h/room";

fn ask(id: &str, room: &str, header: &str, value: &str) -> Frame {
    Frame::new("SUBSCRIBE").header("id", id).header("destination", room).header(header, value)
}

/// The next MESSAGE, which must be this marker.
fn marker(client: &mut Client, name: &str) -> Frame {
    let message = client.expect("MESSAGE");
    assert_eq!((message.get("marker"), message.text()), (Some(name), ""), "{message:?}");
    message
}

fn sequence(message: &Frame) -> u64 {
    message.get("sequence").unwrap_or_else(|| panic!("{message:?}")).parse().unwrap()
}

/// The marker with which all was recovered that was asked for.
fn recovered(client: &mut Client) -> Frame {
    let message = marker(client, "recovered");
    assert_eq!(message.get("recovered"), Some("true"), "{message:?}");
    message
}

/// A position as SUBSCRIBE has it.
fn since(message: &Frame) -> String {
    format!("{}:{}", message.get("epoch").unwrap(), sequence(message))
}

fn a_newcomer_gets_the_last_messages_and_then_what_comes(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    // Nobody is there, and it is kept all the same.
    for n in 1..=5 {
        ann.send_confirmed(send(ROOM, n.to_string()).header("kind", "line"));
    }
    let mut bob = Client::connect(&server);
    bob.send(&ask("s", ROOM, "history", "3"));
    let position = marker(&mut bob, "position");
    assert_eq!((sequence(&position), position.get("subscription")), (5, Some("s")));
    assert_eq!(position.get("destination"), Some(ROOM));
    for n in 3..=5 {
        let message = bob.expect("MESSAGE");
        assert_eq!(
            (message.text(), sequence(&message), message.get("kind")),
            (&*n.to_string(), n, Some("line"))
        );
        assert_eq!((message.get("marker"), message.get("subscription")), (None, Some("s")));
    }
    assert_eq!(sequence(&recovered(&mut bob)), 5);
    ann.publish_confirmed(ROOM, "6");
    let message = bob.expect("MESSAGE");
    assert_eq!((message.text(), sequence(&message)), ("6", 6));
    // More than there are, and none.
    for (count, first) in [("1000", 1), ("0", 7)] {
        let mut other = Client::connect(&server);
        other.send(&ask("s", ROOM, "history", count));
        marker(&mut other, "position");
        for n in first..=6 {
            assert_eq!(other.expect_body(), n.to_string());
        }
        recovered(&mut other);
    }
    server.await_metric("recoveries_total", |recoveries| recoveries == 3);
    assert_eq!(server.metric("history_messages"), 6);
}

fn who_was_away_goes_on_where_it_was(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    let mut bob = Client::connect(&server);
    bob.subscribe("s", ROOM);
    ann.publish_confirmed(ROOM, "heard");
    let heard = since(&bob.expect("MESSAGE"));
    bob.disconnect();
    for n in 0..300 {
        ann.publish_confirmed(ROOM, format!("{n}"));
    }
    let mut bob = Client::connect(&server);
    bob.send(&ask("s", ROOM, "since", &heard));
    marker(&mut bob, "position");
    for n in 0..300 {
        assert_eq!(bob.expect_body(), n.to_string());
    }
    let all = recovered(&mut bob);
    // Who has everything already gets nothing.
    let mut carol = Client::connect(&server);
    carol.send(&ask("s", ROOM, "since", &since(&all)));
    assert_eq!(since(&marker(&mut carol, "position")), since(&all));
    recovered(&mut carol);
    ann.publish_confirmed(ROOM, "new");
    for client in [&mut bob, &mut carol] {
        assert_eq!(client.expect_body(), "new");
    }
}

fn nothing_is_lost_or_doubled_while_others_publish(setup: Setup) {
    const MESSAGES: u64 = 3_000;
    let server = setup.server_with(KEPT, &[]);
    let mut publisher = Client::connect(&server);
    publisher.publish_confirmed(ROOM, "first");
    let mut listeners: Vec<Client> = (0..12).map(|_| Client::connect(&server)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..MESSAGES - 1 {
                publisher.publish(ROOM, [b'x'; 200]);
                if n % 100 == 99 {
                    // So that those who listen begin in the midst of it.
                    publisher.publish_confirmed("/topic/other", "");
                }
            }
        });
        for (at, listener) in listeners.iter_mut().enumerate() {
            scope.spawn(move || {
                let mut next = 1;
                let mut since_last: Option<String> = None;
                // Each goes and comes back twice.
                for round in 0..3 {
                    let id = format!("{at}-{round}");
                    let question = match &since_last {
                        None => ask(&id, ROOM, "history", "1000000"),
                        Some(position) => ask(&id, ROOM, "since", position),
                    };
                    listener.send(&question);
                    let until = if round == 2 { MESSAGES + 1 } else { MESSAGES * (round + 1) / 3 };
                    while next < until {
                        let message = listener.expect("MESSAGE");
                        // What the subscription before it was owed may come still.
                        if message.get("subscription") != Some(&*id) {
                            continue;
                        }
                        if let Some(marker) = message.get("marker") {
                            assert!(
                                marker == "position" || message.get("recovered") == Some("true"),
                                "{message:?}"
                            );
                            continue;
                        }
                        assert_eq!(sequence(&message), next, "{id}");
                        since_last = Some(since(&message));
                        next += 1;
                    }
                    listener.send(&Frame::new("UNSUBSCRIBE").header("id", &id));
                }
            });
        }
    });
}

fn what_cannot_be_had_is_named(setup: Setup) {
    let configuration = "[[destination]]\npattern = \"/topic/h/*\"\nhistory = \"memory\"\nhistory_messages = 10\n[history]\nrecovered_messages_max = 5\n";
    let server = setup.server_with(configuration, &[]);
    let mut ann = Client::connect(&server);
    let mut witness = Client::connect(&server);
    witness.subscribe("s", ROOM);
    ann.publish_confirmed(ROOM, "1");
    let first = witness.expect("MESSAGE");
    let epoch = first.get("epoch").unwrap().to_owned();
    for n in 2..=20 {
        ann.publish_confirmed(ROOM, n.to_string());
    }
    for (question, value, expected, reason, missing) in [
        ("since", format!("{epoch}:17"), 18..=20, None, None),
        ("since", format!("{epoch}:12"), 16..=20, Some("bound"), Some(("13", "15"))),
        ("since", format!("{epoch}:3"), 16..=20, Some("trimmed"), Some(("4", "15"))),
        ("since", "1:3".to_owned(), 16..=20, Some("epoch"), Some(("1", "15"))),
        ("since", format!("{epoch}:21"), 16..=20, Some("epoch"), Some(("1", "15"))),
        ("history", "10".to_owned(), 16..=20, Some("bound"), Some(("11", "15"))),
    ] {
        let mut bob = Client::connect(&server);
        bob.send(&ask("s", ROOM, question, &value));
        assert_eq!(marker(&mut bob, "position").get("epoch"), Some(&*epoch));
        if let Some((from, to)) = missing {
            // It is said before what comes behind it.
            let gap = marker(&mut bob, "gap");
            assert_eq!((gap.get("epoch"), gap.get("reason")), (Some(&*epoch), reason));
            assert_eq!((gap.get("missing-from"), gap.get("missing-to")), (Some(from), Some(to)));
        }
        for n in expected {
            assert_eq!(bob.expect_body(), n.to_string(), "{question}:{value}");
        }
        let end = marker(&mut bob, "recovered");
        assert_eq!(end.get("recovered"), Some(if reason.is_some() { "false" } else { "true" }));
        assert_eq!(end.get("reason"), reason, "{question}:{value}");
        assert_eq!(end.get("missing-from").zip(end.get("missing-to")), missing, "{question}:{value}");
    }
    // A room that keeps nothing says so.
    let mut bob = Client::connect(&server);
    bob.send(&ask("s", "/topic/other", "history", "10"));
    assert_eq!(sequence(&marker(&mut bob, "position")), 0);
    let end = marker(&mut bob, "recovered");
    assert_eq!((end.get("recovered"), end.get("reason")), (Some("false"), Some("off")));
    assert_eq!(end.get("missing-from"), None);
    ann.publish_confirmed("/topic/other", "new");
    assert_eq!(bob.expect_body(), "new");
    server.await_metric("recoveries_incomplete_total", |recoveries| recoveries == 3);
    assert_eq!(server.metric("recoveries_anew_total"), 2);
}

fn who_knows_nothing_of_it_notices_two_headers(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    ann.publish_confirmed(ROOM, "before");
    let mut bob = Client::connect(&server);
    bob.subscribe_ack("s", ROOM, "client");
    bob.subscribe("t", "/topic/other");
    // What only the server says cannot be said by a client.
    let forged =
        |room| send(room, "x").header("marker", "recovered").header("sequence", "9").header("epoch", "9");
    ann.send_confirmed(forged(ROOM));
    let message = bob.expect("MESSAGE");
    assert_eq!((message.text(), sequence(&message), message.get("marker")), ("x", 2, None));
    bob.send_confirmed(Frame::new("ACK").header("id", message.get("ack").unwrap()));
    ann.send_confirmed(forged("/topic/other"));
    let message = bob.expect("MESSAGE");
    assert_eq!((message.get("epoch"), message.get("sequence"), message.get("marker")), (None, None, None));
}

fn what_is_said_to_a_login_waits_for_it(setup: Setup) {
    let configuration = "[[destination]]\npattern = \"/user/*/queue/mail\"\nhistory = \"memory\"\n";
    let server = setup.server_with(configuration, &[]);
    let mut ann = Client::login(&server, "ann");
    ann.publish_confirmed("/user/bob/queue/mail", "are you there?");
    ann.publish_confirmed("/user/carol/queue/mail", "and you?");
    for _ in 0..2 {
        let mut bob = Client::login(&server, "bob");
        bob.send(&ask("s", "/user/queue/mail", "history", "10"));
        assert_eq!(marker(&mut bob, "position").get("destination"), Some("/user/queue/mail"));
        let message = bob.expect("MESSAGE");
        assert_eq!(
            (message.text(), message.get("destination")),
            ("are you there?", Some("/user/queue/mail"))
        );
        recovered(&mut bob);
    }
}

fn a_recovery_ends_with_its_subscription(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    for _ in 0..1_000 {
        ann.publish(ROOM, [b'x'; 1_000]);
    }
    ann.publish_confirmed(ROOM, "last");
    let mut bob = Client::connect(&server);
    for round in 0..20 {
        bob.send(&ask("s", ROOM, "history", "5000"));
        let end = Frame::new("UNSUBSCRIBE").header("id", "s").header("receipt", &round.to_string());
        bob.send(&end);
        while bob.next().get("receipt-id") != Some(&*round.to_string()) {}
    }
    // Nothing of them is left: the next one is whole.
    bob.send(&ask("s", ROOM, "history", "5000"));
    marker(&mut bob, "position");
    for n in 1..=1_001 {
        assert_eq!(sequence(&bob.expect("MESSAGE")), n);
    }
    recovered(&mut bob);
    // A session that ends in the midst of one leaves nothing behind.
    for _ in 0..5 {
        let mut short = Client::connect(&server);
        short.send(&ask("s", ROOM, "history", "5000"));
        marker(&mut short, "position");
    }
    server.await_metric("recovering_subscriptions", |recovering| recovering == 0);
    server.await_metric("subscriptions", |subscriptions| subscriptions == 1);
}

fn who_does_not_read_what_was_costs_a_page(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    for _ in 0..4_000 {
        ann.publish(ROOM, vec![b'x'; 2_000]);
    }
    ann.publish_confirmed(ROOM, "last");
    let question = ask("s", ROOM, "history", "5000");
    let mut slow: Vec<Client> = (0..30)
        .map(|_| {
            let stream = server.dial_with_little_room(4_096);
            let mut client = Client::try_open_on(stream, &server, "/ws", &[]).unwrap().0;
            client.start_session(Frame::new("CONNECT"));
            client.send(&question);
            marker(&mut client, "position");
            client
        })
        .collect();
    // Somebody else is served meanwhile.
    let mut quick = Client::connect(&server);
    quick.send(&question);
    marker(&mut quick, "position");
    for n in 1..=4_001 {
        assert_eq!(sequence(&quick.expect("MESSAGE")), n);
    }
    recovered(&mut quick);
    assert_eq!(server.metric("recovering_subscriptions"), 30);
    // Of eight megabytes each, what one page has and what the socket does not take.
    let unsent = server.metric("outbound_bytes");
    assert!(unsent < 30 * 200_000, "{unsent}");
    let first = slow.remove(0);
    drop(slow);
    let mut first = first;
    for n in 1..=4_001 {
        assert_eq!(sequence(&first.expect("MESSAGE")), n);
    }
    recovered(&mut first);
}

fn many_rooms_at_once_cost_a_page_too(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    for room in 0..100 {
        for _ in 0..60 {
            ann.publish(&format!("/topic/h/{room}"), vec![b'x'; 2_000]);
        }
    }
    ann.publish_confirmed("/topic/h/0", "");
    let stream = server.dial_with_little_room(4_096);
    let mut bob = Client::try_open_on(stream, &server, "/ws", &[]).unwrap().0;
    bob.start_session(Frame::new("CONNECT"));
    for room in 0..100 {
        bob.send(&ask(&room.to_string(), &format!("/topic/h/{room}"), "history", "60"));
    }
    server.await_metric("recoveries_total", |recoveries| recoveries == 100);
    // A page is on its way, and not one for each room: all of them would be more than a client may leave unread.
    for _ in 0..20 {
        ann.publish_confirmed("/topic/other", "");
    }
    let unsent = server.metric("outbound_bytes");
    assert!(unsent < 300_000, "{unsent}");
    let mut recovered = 0;
    while recovered < 100 {
        let message = bob.expect("MESSAGE");
        recovered += u32::from(message.get("recovered") == Some("true"));
    }
}

fn an_id_that_is_used_again_gets_the_old_ones_rest_first(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    let mut ann = Client::connect(&server);
    let stream = server.dial_with_little_room(4_096);
    let mut bob = Client::try_open_on(stream, &server, "/ws", &[]).unwrap().0;
    bob.start_session(Frame::new("CONNECT"));
    bob.subscribe("s", ROOM);
    for _ in 0..1_000 {
        ann.publish(ROOM, vec![b'x'; 1_000]);
    }
    ann.publish_confirmed(ROOM, "last");
    let first = bob.expect("MESSAGE");
    assert_eq!(sequence(&first), 1);
    bob.send(&Frame::new("UNSUBSCRIBE").header("id", "s"));
    bob.send(&ask("s", ROOM, "since", &format!("{}:990", first.get("epoch").unwrap())));
    // A heart-beat's worth of other frames: the SUBSCRIBE waits, and nothing else is lost by that.
    bob.send(&ask("t", "/topic/other", "history", "0"));
    let mut next = 2;
    loop {
        let message = bob.expect("MESSAGE");
        if message.get("subscription") == Some("t") {
            continue;
        }
        if message.get("marker").is_some() {
            assert_eq!(message.get("marker"), Some("position"));
            break;
        }
        assert_eq!(sequence(&message), next);
        next += 1;
    }
    assert!(next > 2, "it was owed something");
    let mut expected = 991;
    loop {
        let message = bob.expect("MESSAGE");
        match (message.get("subscription"), message.get("marker")) {
            (Some("t"), _) => {}
            (_, Some(marker)) => {
                assert_eq!((marker, message.get("recovered")), ("recovered", Some("true")));
                break;
            }
            (_, None) => {
                assert_eq!(sequence(&message), expected);
                expected += 1;
            }
        }
    }
    assert_eq!(expected, 1_002);
}

fn who_never_catches_up_is_told_so_and_gets_what_is_new(setup: Setup) {
    let configuration = format!("{KEPT}[history]\nrecovered_messages_max = 50\npage_bytes_max = 2000\n");
    let server = setup.server_with(&configuration, &[]);
    let mut ann = Client::connect(&server);
    for _ in 0..100 {
        ann.publish(ROOM, vec![b'x'; 500]);
    }
    ann.publish_confirmed(ROOM, "");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                ann.publish(ROOM, vec![b'x'; 500]);
            }
        });
        let mut bob = Client::connect(&server);
        bob.send(&ask("s", ROOM, "history", "50"));
        marker(&mut bob, "position");
        let (mut next, mut is_recovered) = (None, 0);
        // Whatever it is read at: the past ends, and what comes is without a hole that was not named.
        while is_recovered < 50 {
            let message = bob.expect("MESSAGE");
            let number = |name: &str| message.get(name).map(|number| number.parse::<u64>().unwrap());
            match message.get("marker") {
                Some("gap") => {
                    assert_eq!(number("missing-from"), next);
                    next = number("missing-to").map(|to| to + 1);
                }
                Some(_) => is_recovered = 1,
                None => {
                    assert!(next.is_none() || next == number("sequence"), "{next:?}");
                    next = number("sequence").map(|sequence| sequence + 1);
                    is_recovered += u32::from(is_recovered > 0);
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn bad_questions_are_refused(setup: Setup) {
    let server = setup.server_with(KEPT, &[]);
    for (room, questions) in [
        (ROOM, &[("history", "all")][..]),
        (ROOM, &[("history", "-1")]),
        (ROOM, &[("history", "")]),
        (ROOM, &[("history", "4294967296")]),
        (ROOM, &[("since", "7")]),
        (ROOM, &[("since", "1:2:3")]),
        (ROOM, &[("history", "1"), ("since", "1:1")]),
        ("/queue/jobs", &[("history", "1")]),
    ] {
        let mut bob = Client::connect(&server);
        let mut question = Frame::new("SUBSCRIBE").header("id", "s").header("destination", room);
        for (name, value) in questions {
            question = question.header(name, value);
        }
        bob.send(&question);
        let (_, code) = expect_refusal(&mut bob, "bad-history");
        assert_eq!(code, 1002, "{questions:?}");
    }
}

fn rules_know_who_may_ask(setup: Setup) {
    let files = Files::new();
    let rules = "[[rules]]\nwho = \"login:alice\"\nmay = [\"send\", \"subscribe\", \"history\"]\nwhere = \"/topic/**\"\n\
                 [[rules]]\nwho = \"anyone\"\nmay = [\"send\", \"subscribe\"]\nwhere = \"/topic/**\"\n";
    let users = files.path("users");
    let configuration = format!("[auth]\nmode = \"users\"\nusers_file = \"{users}\"\n{KEPT}{rules}");
    let server = setup.server_with(&configuration, &[]);
    let session = |login, passcode| {
        let mut client = Client::open(&server);
        client.start_session(connect(login, passcode));
        client
    };
    let mut alice = session("alice", "wonder");
    alice.publish_confirmed(ROOM, "secret");
    alice.send(&ask("s", ROOM, "history", "1"));
    marker(&mut alice, "position");
    assert_eq!(alice.expect_body(), "secret");
    let mut bob = session("bob", "builder");
    bob.subscribe("s", ROOM);
    bob.send(&ask("t", ROOM, "history", "1"));
    let (message, _) = expect_refusal(&mut bob, "forbidden");
    assert!(message.contains("may not read the past of: /topic/h/room"), "{message}");
}

fn a_reload_changes_what_is_kept(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tcbchat.toml");
    std::fs::write(&file, "").unwrap();
    let reactors = setup.reactors.to_string();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--reactors", &reactors]);
    let mut ann = Client::connect(&server);
    ann.subscribe("s", ROOM);
    ann.publish(ROOM, "not kept");
    assert_eq!(ann.expect("MESSAGE").get("epoch"), None);
    let reload = |text: &str, kept: bool| {
        std::fs::write(&file, text).unwrap();
        server.signal(rustix::process::Signal::HUP);
        // Each reactor has it when a message to its rooms is kept, or is not.
        let mut rooms = Client::connect(&server);
        for room in 0..20 {
            rooms.subscribe(&room.to_string(), &format!("/topic/h/{room}"));
        }
        loop {
            let mut matching = 0;
            for room in 0..20 {
                rooms.publish(&format!("/topic/h/{room}"), "x");
                matching += u32::from(rooms.expect("MESSAGE").get("epoch").is_some() == kept);
            }
            if matching == 20 {
                break;
            }
        }
    };
    reload(KEPT, true);
    // A room that was there keeps what comes from here on.
    ann.publish(ROOM, "kept");
    assert_eq!(sequence(&ann.expect("MESSAGE")), 2);
    let mut bob = Client::connect(&server);
    bob.send(&ask("s", ROOM, "history", "10"));
    marker(&mut bob, "position");
    assert_eq!(bob.expect_body(), "kept");
    recovered(&mut bob);
    reload("", false);
    let mut carol = Client::connect(&server);
    carol.send(&ask("s", ROOM, "history", "10"));
    marker(&mut carol, "position");
    assert_eq!(marker(&mut carol, "recovered").get("reason"), Some("off"));
    server.await_metric("history_messages", |messages| messages == 0);
}

fn what_is_too_old_or_too_much_goes(setup: Setup) {
    let configuration = "[[destination]]\npattern = \"/topic/h/*\"\nhistory = \"memory\"\nhistory_age_s = 1\n\
                         [[destination]]\npattern = \"/topic/**\"\nhistory = \"memory\"\nhistory_bytes = 1048576\n[history]\nbytes_max = 65536\n";
    let server = setup.server_with(configuration, &[]);
    let mut ann = Client::connect(&server);
    ann.publish_confirmed(ROOM, "soon gone");
    server.await_metric("messages_published_total", |messages| messages == 1);
    // Nobody is there, and nothing else happens: the room goes with its last message.
    server.await_metric("history_messages", |messages| messages == 0);
    server.await_metric("rooms", |rooms| rooms == 0);
    assert_eq!(server.metric("history_dropped_total"), 1);
    ann.publish_confirmed("/topic/small", "small");
    for _ in 0..500 {
        ann.publish("/topic/large", [b'x'; 1_000]);
    }
    ann.publish_confirmed("/topic/large", "last");
    let kept = server.metric("history_bytes");
    assert!(kept <= u64::from(setup.reactors) * 65_536, "{kept}");
    assert!(server.metric("history_relieved_total") > 100);
    // It was the large room that had to go without.
    let mut bob = Client::connect(&server);
    bob.send(&ask("s", "/topic/small", "history", "10"));
    marker(&mut bob, "position");
    assert_eq!(bob.expect_body(), "small");
    recovered(&mut bob);
}
