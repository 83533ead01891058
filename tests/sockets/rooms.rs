//! Rooms: everybody in a room gets every message once, and all in the same order.

use std::thread;

use rustix::process::Signal;

use crate::support::{Client, Frame};
use crate::websocket::{CONTINUATION, FIN, TEXT, write_raw, ws_frame};
use crate::{Setup, members, send};

on_one_and_three_reactors!(
    the_sender_and_each_subscription_get_it,
    one_order_for_all,
    nothing_waits_for_an_answer,
    memberships_and_messages_keep_their_order,
    nothing_comes_after_unsubscribe,
    a_megabyte_in_pieces,
    many_who_talk_at_once_and_more_than_a_turn_reads,
    what_is_delayed_comes_whole_in_order_and_in_fewer_writes,
    one_who_is_in_many_rooms_leaves_room_for_others,
);

/// Members that the kernel spreads over the reactors.
const MEMBERS: usize = 9;

fn the_sender_and_each_subscription_get_it(setup: Setup) {
    let server = setup.server();
    let mut sender = Client::connect(&server);
    sender.subscribe("a", "/topic/both");
    sender.subscribe("b", "/topic/both");
    let mut others = members(&server, MEMBERS, "/topic/both");
    sender.publish("/topic/both", "twice");
    let first = sender.expect("MESSAGE");
    let second = sender.expect("MESSAGE");
    let mut ids = [first.get("subscription").unwrap(), second.get("subscription").unwrap()];
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!((first.text(), second.text()), ("twice", "twice"));
    assert_eq!(first.get("message-id"), second.get("message-id"), "it is one message");
    for other in &mut others {
        let message = other.expect("MESSAGE");
        assert_eq!((message.get("subscription"), message.text()), (Some("s"), "twice"));
        assert_eq!(message.get("destination"), Some("/topic/both"));
        assert_eq!(message.get("message-id"), first.get("message-id"));
    }
    // One message each: the next to come is the next that is sent.
    sender.publish("/topic/both", "last");
    for other in &mut others {
        assert_eq!(other.expect_body(), "last");
    }
}

fn one_order_for_all(setup: Setup) {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 100;
    let server = setup.server();
    let mut members = members(&server, MEMBERS, "/topic/order");
    let orders: Vec<Vec<String>> = thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let mut client = Client::connect(&server);
            scope.spawn(move || {
                for number in 0..EACH {
                    client.publish("/topic/order", format!("{publisher} {number}"));
                }
                client.disconnect();
            });
        }
        let readers: Vec<_> = members
            .iter_mut()
            .map(|member| {
                scope.spawn(|| (0..PUBLISHERS * EACH).map(|_| member.expect_body()).collect::<Vec<_>>())
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    for order in &orders {
        assert_eq!(order, &orders[0], "everybody sees the same order");
    }
    for publisher in 0..PUBLISHERS {
        let prefix = format!("{publisher} ");
        let own = orders[0].iter().filter_map(|body| body.strip_prefix(&prefix));
        let own: Vec<usize> = own.map(|number| number.parse().unwrap()).collect();
        assert_eq!(own, (0..EACH).collect::<Vec<_>>(), "in the order of its publisher");
    }
}

/// Small frames and large ones of many connections arrive in one turn, and the large ones are more than it reads.
fn many_who_talk_at_once_and_more_than_a_turn_reads(setup: Setup) {
    const TALKERS: usize = 40;
    const EACH: usize = 12;
    let server = setup.server_with("[turn]\nread_bytes_max = 4096\n", &[]);
    let mut listener = Client::connect(&server);
    listener.subscribe("s", "/topic/babel");
    let mut talkers: Vec<Client> = (0..TALKERS).map(|_| Client::connect(&server)).collect();
    // Stopped, so that everything is there when it reads.
    server.signal(Signal::STOP);
    for (talker, client) in talkers.iter_mut().enumerate() {
        for number in 0..EACH {
            let padding = if (talker + number) % 5 == 0 { "x".repeat(3000) } else { String::new() };
            client.publish("/topic/babel", format!("{talker} {number} {padding}"));
        }
    }
    server.signal(Signal::CONT);
    let mut next = [0; TALKERS];
    for _ in 0..TALKERS * EACH {
        let body = listener.expect_body();
        let words: Vec<&str> = body.split(' ').collect();
        let (talker, number): (usize, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        assert_eq!(number, next[talker], "in the order of talker {talker}");
        assert_eq!(words[2].len(), if (talker + number) % 5 == 0 { 3000 } else { 0 });
        next[talker] += 1;
    }
    talkers.into_iter().for_each(Client::disconnect);
    listener.disconnect();
}

fn nothing_waits_for_an_answer(setup: Setup) {
    let server = setup.server();
    // Several rooms, so that with several reactors some are owned elsewhere.
    for room in 0..8 {
        let destination = format!("/topic/pipelined-{room}");
        let mut client = Client::open(&server);
        let whole = [
            Frame::new("CONNECT").header("accept-version", "1.2"),
            Frame::new("SUBSCRIBE").header("id", "s").header("destination", &destination),
            send(&destination, "first"),
            Frame::new("SUBSCRIBE").header("id", "t").header("destination", "/topic/other"),
            send(&destination, "second"),
        ];
        client.send_binary(&whole.iter().flat_map(Frame::encode).collect::<Vec<u8>>());
        client.expect("CONNECTED");
        assert_eq!(client.expect_body(), "first");
        assert_eq!(client.expect_body(), "second");
    }
}

/// Membership and messages in the order of the frames, where one reactor owns every room; with several a SEND
/// may be overtaken (docs/PROTOCOL.md), so its receipt is waited for.
fn memberships_and_messages_keep_their_order(setup: Setup) {
    let server = setup.server();
    let subscribe = || Frame::new("SUBSCRIBE").header("id", "s").header("destination", "/topic/order");
    let unsubscribe = || Frame::new("UNSUBSCRIBE").header("id", "s");
    let frames = [
        subscribe(),
        send("/topic/order", "first"),
        unsubscribe(),
        send("/topic/order", "unheard"),
        subscribe(),
        send("/topic/order", "second"),
    ];
    let mut client = Client::connect(&server);
    let mut bodies = Vec::new();
    if setup.reactors == 1 {
        client.send_binary(&frames.iter().flat_map(Frame::encode).collect::<Vec<u8>>());
    } else {
        for frame in frames {
            let receipt = client.send_with_receipt(frame);
            loop {
                let answer = client.next();
                if answer.get("receipt-id") == Some(&*receipt) {
                    break;
                }
                assert_eq!(answer.command, "MESSAGE");
                bodies.push(answer.text().to_owned());
            }
        }
    }
    while bodies.len() < 2 {
        bodies.push(client.expect_body());
    }
    assert_eq!(bodies, ["first", "second"]);
    client.disconnect();
}

fn nothing_comes_after_unsubscribe(setup: Setup) {
    let server = setup.server();
    let mut members = members(&server, MEMBERS, "/topic/left");
    let mut publisher = Client::connect(&server);
    publisher.publish_confirmed("/topic/left", "heard");
    for member in &mut members {
        assert_eq!(member.expect_body(), "heard");
        member.send_confirmed(Frame::new("UNSUBSCRIBE").header("id", "s"));
    }
    publisher.publish_confirmed("/topic/left", "unheard");
    for member in &mut members {
        member.subscribe("s", "/topic/left");
    }
    publisher.publish("/topic/left", "again");
    for member in &mut members {
        assert_eq!(member.expect_body(), "again");
    }
}

fn a_megabyte_in_pieces(setup: Setup) {
    let server = setup.server();
    let mut members = members(&server, 3, "/topic/large");
    let mut publisher = Client::connect(&server);
    for piece in [8 * 1024, 16 * 1024] {
        let body: String = (0..1024 * 1024 / 16).map(|line| format!("{line:015}\n")).collect();
        assert_eq!(body.len(), 1024 * 1024);
        let whole = send("/topic/large", &body).encode();

        // As fragments of one WebSocket message.
        let count = whole.len().div_ceil(piece);
        for (at, part) in whole.chunks(piece).enumerate() {
            let first = if at == 0 { TEXT } else { CONTINUATION };
            let last = if at + 1 == count { FIN } else { 0 };
            write_raw(&mut publisher, ws_frame(first | last, part));
        }
        // As WebSocket messages of their own.
        for part in whole.chunks(piece) {
            publisher.send_binary(part);
        }
        // As one ws_frame in several packets.
        for part in ws_frame(FIN | TEXT, &whole).chunks(piece) {
            write_raw(&mut publisher, part);
        }
        for member in &mut members {
            for _ in 0..3 {
                let message = member.expect("MESSAGE");
                assert_eq!(message.get("content-length"), Some("1048576"));
                assert!(message.body == body.as_bytes());
            }
        }
    }
}

fn what_is_delayed_comes_whole_in_order_and_in_fewer_writes(setup: Setup) {
    const MESSAGES: usize = 200;
    let server = setup
        .server_with("[rooms]\nflush_delay_us = 1000\nflush_delay_destinations = \"/topic/hot.*\"\n", &[]);
    let mut members = members(&server, MEMBERS, "/topic/hot.1");
    let mut publisher = Client::connect(&server);
    // A room that is not named does not wait.
    publisher.subscribe("cool", "/topic/cool");
    publisher.publish("/topic/cool", "now");
    assert_eq!(publisher.expect_body(), "now");
    assert_eq!(server.metric("fanouts_delayed_total"), 0);

    for number in 0..MESSAGES {
        publisher.publish("/topic/hot.1", number.to_string());
    }
    for member in &mut members {
        for number in 0..MESSAGES {
            assert_eq!(member.expect_body(), number.to_string());
        }
    }
    server.await_metric("fanouts_delayed_total", |count| count > 0);
    assert!(server.metric("sends_total") < (MESSAGES * MEMBERS) as u64, "nothing was gathered");
}

/// Rooms of every reactor count for `rooms.rooms_max` where they are held, and not where somebody is in them.
fn one_who_is_in_many_rooms_leaves_room_for_others(setup: Setup) {
    const ROOMS_MAX: usize = 600;
    let limits = format!("[rooms]\nrooms_max = {ROOMS_MAX}\n[stomp]\nsubscriptions_max = 4096\n");
    let server = setup.server_with(&limits, &[]);
    let mut greedy = Client::connect(&server);
    // Three fifths of what all reactors hold. Names spread evenly enough that no reactor has more than three quarters.
    let rooms = ROOMS_MAX * setup.reactors as usize * 3 / 5;
    for room in 1..rooms {
        let subscribe = Frame::new("SUBSCRIBE").header("destination", &format!("/topic/{room}"));
        greedy.send(&subscribe.header("id", &room.to_string()));
    }
    greedy.subscribe("last", "/topic/last");
    // They are wherever the kernel puts them, the reactor of the greedy one included.
    for mut stranger in members(&server, MEMBERS, "/topic/strangers") {
        for room in 0..10 {
            stranger.subscribe(&room.to_string(), &format!("/topic/strangers.{room}"));
        }
    }
}
