//! Slow consumers: one is cut off at its bound, by name, and the others notice nothing; what all of them have unsent
//! stays within what the reactor may have.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::thread;

use tungstenite::Message;

use crate::liveness::small_session;
use crate::support::{Client, Frame, Server};
use crate::websocket::{FIN, TEXT, ws_frame};
use crate::{Setup, members, send};

on_one_and_three_reactors!(
    one_that_never_reads_is_cut_off_alone,
    a_lag_is_one_of_time_as_well,
    one_that_reads_again_gets_everything_that_waited,
    a_large_message_is_there_once_whatever_ids_its_subscribers_have,
    many_small_messages_stay_within_the_reactors_bound,
    who_reads_is_not_cut_off_for_a_burst,
    who_reads_is_not_cut_off_for_what_was_sent_before,
    one_that_says_goodbye_gets_its_receipts_and_nothing_that_waited,
    one_that_never_reads_and_leaves_again_and_again_harms_nobody,
    what_is_left_of_a_subscription_comes_before_its_successor
);

/// Bodies that are published at most: far more than the kernel's buffers hold for one connection.
const BODIES_MAX: usize = 1024;

fn one_that_never_reads_is_cut_off_alone(setup: Setup) {
    let server = setup.server_with("[outbound]\nbytes_max = 1_200_000\nlag_timeout_s = 0", &[]);
    let room = "/topic/slow";
    let mut slow = members(&server, 1, room).remove(0);
    let mut others = members(&server, 3, room);
    let mut publisher = Client::connect(&server);
    let filling = "x".repeat(64 * 1024);
    let mut sent = 0;
    while server.metric("slow_consumers_total") == 0 {
        assert!(sent < BODIES_MAX, "nobody was cut off");
        for _ in 0..16 {
            let body = format!("{sent} {filling}");
            publisher.publish(room, &body);
            for other in &mut others {
                assert_eq!(other.expect_body(), body);
            }
            sent += 1;
        }
    }
    // It finds what the kernel had for it, in order, and then why that is all.
    let mut found = 0;
    let mut next = slow.next();
    while next.command == "MESSAGE" {
        assert!(next.text().starts_with(&format!("{found} ")));
        found += 1;
        next = slow.next();
    }
    assert!(found < sent);
    assert_eq!(next.command, "ERROR", "{next:?}");
    assert_eq!(next.text(), "slow-consumer\n");
    let reason = "slow consumer: more than outbound.bytes_max = 1200000 unread";
    assert_eq!(next.get("message"), Some(reason));
    assert_eq!(slow.expect_close(), (1008, "slow-consumer".into()));

    publisher.publish(room, "after");
    for other in &mut others {
        assert_eq!(other.expect_body(), "after");
    }
    server.await_metric("slow_consumers_total", |count| count == 1);
}

/// Bodies are small, so that they are written straight from the encoder's buffer and not through a queue.
fn one_that_reads_again_gets_everything_that_waited(setup: Setup) {
    let server = setup.server_with("[outbound]\nbytes_max = 64_000_000\nhigh_water_bytes = 32_000_000", &[]);
    let room = "/topic/slow";
    let mut slow = members(&server, 1, room).remove(0);
    let mut other = members(&server, 1, room).remove(0);
    let mut publisher = Client::connect(&server);
    let filling = "x".repeat(8 * 1024);
    let mut sent = 0;
    while server.metric("outbound_bytes") < 1_000_000 {
        assert!(sent < 4096);
        for _ in 0..16 {
            let body = format!("{sent} {filling}");
            publisher.publish(room, &body);
            assert_eq!(other.expect_body(), body);
            sent += 1;
        }
    }
    for n in 0..sent {
        assert!(slow.expect_body().starts_with(&format!("{n} ")), "{n} of {sent}");
    }
}

fn a_lag_is_one_of_time_as_well(setup: Setup) {
    let lag = |seconds| format!("[outbound]\nbytes_max = 1_200_000\nlag_timeout_s = {seconds}");
    let room = "/topic/burst";
    let filling = "x".repeat(64 * 1024);
    let burst = |server: &Server| {
        let mut publisher = Client::connect(server);
        for n in 0..256 {
            publisher.publish_confirmed(room, format!("{n} {filling}"));
        }
    };
    // Who reads after the burst gets all of it, though it was more than ten times as much as may be unread.
    let server = setup.server_with(&lag(3_600), &[]);
    let mut reader = members(&server, 1, room).remove(0);
    burst(&server);
    for n in 0..256 {
        assert!(reader.expect_body().starts_with(&format!("{n} ")), "{n}");
    }
    assert_eq!(server.metric("slow_consumers_total"), 0);
    // Who does not is found, though nothing happens any more.
    let server = setup.server_with(&lag(1), &[]);
    let deaf = members(&server, 1, room);
    burst(&server);
    server.await_metric("slow_consumers_total", |count| count == 1);
    drop(deaf);
}

/// Subscriptions of one session.
const SUBSCRIPTIONS: usize = 256;

/// So that all of them may be to one room, which makes much of little.
const MANY: &str = "[outbound]\nlag_timeout_s = 0\n[stomp]\nsubscriptions_per_destination_max = 256\n";

/// Sessions that have many subscriptions to one room, each with an id of its own, and read nothing from then on.
fn deaf_crowd(server: &Server, sessions: usize, room: &str) -> Vec<Client> {
    let session = |number| {
        let mut client = Client::connect(server);
        for id in 1..SUBSCRIPTIONS {
            let subscribe = Frame::new("SUBSCRIBE").header("destination", room);
            client.send(&subscribe.header("id", &format!("{number}-{id}")));
        }
        // The last one is confirmed, and so all are in.
        client.subscribe("last", room);
        client
    };
    (0..sessions).map(session).collect()
}

/// The most memory that the server has had, in MiB.
fn peak_mib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

fn a_large_message_is_there_once_whatever_ids_its_subscribers_have(setup: Setup) {
    let server = setup.server_with(MANY, &[]);
    let room = "/topic/large";
    let mut crowd = deaf_crowd(&server, 4, room);
    let mut readers = ["a", "b"].map(|id| {
        let mut reader = Client::connect(&server);
        reader.subscribe(id, room);
        reader
    });
    let before = peak_mib(&server);
    let mut publisher = Client::connect(&server);
    let large = "x".repeat(1 << 20);
    for body in ["one", &large, "two", &large[..20_000], "three"] {
        publisher.send_confirmed(send(room, body));
    }
    for body in ["one", &large, "two", &large[..20_000], "three"] {
        for reader in &mut readers {
            // Not `assert_eq`, which would show a megabyte.
            assert!(reader.expect_body() == body);
        }
    }
    // A copy for each subscription would be a gigabyte.
    let grown = peak_mib(&server) - before;
    assert!(grown < 100, "{grown} MiB");
    server.await_metric("slow_consumers_total", |count| count == 4);
    for client in &mut crowd {
        let mut next = client.next();
        while next.command == "MESSAGE" {
            assert!(["one", &large, "two"].contains(&next.text()));
            next = client.next();
        }
        assert_eq!((next.command.as_str(), next.text()), ("ERROR", "slow-consumer\n"));
        assert_eq!(client.expect_close().0, 1008);
    }
}

fn many_small_messages_stay_within_the_reactors_bound(setup: Setup) {
    let bounds = ["--set", "outbound.bytes_max=4_000_000", "--set", "outbound.reactor_bytes_max=4_000_000"];
    let server = setup.server_with(MANY, &bounds);
    let room = "/topic/small";
    let mut crowd = deaf_crowd(&server, 4, room);
    let before = peak_mib(&server);
    let mut publisher = Client::connect(&server);
    let body = "x".repeat(1000);
    for _ in 0..500 {
        publisher.send(&send(room, &body));
    }
    publisher.send_confirmed(send(room, "the end"));
    // The receipt says that the messages have their places. Other reactors may look at their members later. A member that is
    // read from before then is never behind, and is not cut off.
    server.await_metric("slow_consumers_total", |count| count == 4);
    // All would be half a gigabyte.
    let grown = peak_mib(&server) - before;
    assert!(grown < 100, "{grown} MiB");
    for client in &mut crowd {
        let mut next = client.next();
        while next.command == "MESSAGE" {
            next = client.next();
        }
        // Both bounds are the same here, and which one is met first is chance.
        assert_eq!(next.command, "ERROR");
        let code = if next.text() == "outbound-exhausted\n" { 1013 } else { 1008 };
        assert_eq!(client.expect_close(), (code, next.text().trim_end().to_owned()));
    }
}

/// A burst that would be thirteen times what the reactor may have, if it were copied for each member before one is written to;
/// and more than may wait for a room's members.
fn who_reads_is_not_cut_off_for_a_burst(setup: Setup) {
    let bounds = "[outbound]\nbytes_max = 4_000_000\nreactor_bytes_max = 4_000_000\n[rooms]\npending_bytes_max = 65536";
    let server = setup.server_with(bounds, &[]);
    let room = "/topic/burst";
    let mut members: Vec<Client> = (0..200)
        .map(|number| {
            let mut member = Client::connect(&server);
            member.subscribe(&format!("id-{number}"), room);
            // Half of them are not written to as members of their only room.
            if number % 2 == 0 {
                member.subscribe("silent", "/topic/silent");
            }
            member
        })
        .collect();
    let mut publisher = Client::connect(&server);
    let body = |number: usize| format!("{number} {}", "x".repeat(1300));
    let mut visitor = Client::connect(&server);
    send_together(&mut publisher, &(0..200).map(|number| send(room, body(number))).collect::<Vec<_>>());
    // Somebody comes to other rooms meanwhile.
    for number in 0..20 {
        visitor.subscribe(&number.to_string(), &format!("/topic/other-{number}"));
    }
    for member in &mut members {
        for number in 0..200 {
            assert!(member.expect_body() == body(number));
        }
    }
    assert_eq!(server.metric("slow_consumers_total"), 0);
    server.await_metric("rooms_full_total", |count| count > 0);
}

/// What unsent bytes take is known by a look only; what has been sent since the start is none of them.
fn who_reads_is_not_cut_off_for_what_was_sent_before(setup: Setup) {
    let server = setup.server_with("[outbound]\nbytes_max = 2_000_000\nreactor_bytes_max = 2_000_000", &[]);
    let room = "/topic/before";
    let mut members = members(&server, 100, room);
    let mut publisher = Client::connect(&server);
    publisher.subscribe("own", "/topic/own");
    for _ in 0..60 {
        publisher.publish("/topic/own", "x".repeat(100_000));
        publisher.expect_body();
    }
    let large = "x".repeat(70_000);
    publisher.publish(room, &large);
    for member in &mut members {
        assert!(member.expect_body() == large);
    }
    assert_eq!(server.metric("slow_consumers_total"), 0);
}

/// One of the [`deaf_crowd`], for which the kernel has taken all that it takes, and which is heard still.
fn full_and_heard(server: &Server, room: &str) -> Client {
    let client = deaf_crowd(server, 1, room).remove(0);
    let mut publisher = Client::connect(server);
    for _ in 0..4096 {
        publisher.publish_confirmed(room, "x");
        if server.metric("outbound_bytes") > 0 {
            return client;
        }
    }
    panic!("the kernel takes everything");
}

/// Frames that reach the server together.
fn send_together(client: &mut Client, frames: &[Frame]) {
    let socket = client.socket();
    for frame in frames {
        socket.write(Message::binary(frame.encode())).unwrap();
    }
    socket.flush().unwrap();
}

/// What it has not been sent is dropped, but for the rest of a message; its answers are not.
fn one_that_says_goodbye_gets_its_receipts_and_nothing_that_waited(setup: Setup) {
    let server = setup.server_with(MANY, &[]);
    let room = "/topic/goodbye";
    let mut client = full_and_heard(&server, room);
    let large = send(room, "z".repeat(70_000)).header("receipt", "large");
    let goodbye = Frame::new("DISCONNECT").header("receipt", "goodbye");
    send_together(&mut client, &[large, goodbye]);
    server.await_metric("outbound_bytes", |bytes| bytes < 70_000);
    for receipt in ["large", "goodbye"] {
        let mut next = client.next();
        while next.command == "MESSAGE" {
            next = client.next();
        }
        assert_eq!((next.command.as_str(), next.get("receipt-id")), ("RECEIPT", Some(receipt)));
    }
    assert_eq!(client.expect_close().0, 1000);
    assert_eq!(server.metric("slow_consumers_total"), 0);
}

/// What waits for it is dropped when it says that it leaves, and the answer waits no longer than a closing handshake.
#[test]
fn one_that_says_goodbye_and_does_not_read_is_still_bounded() {
    let server = Setup { reactors: 1 }.server_with(MANY, &[]);
    let room = "/topic/goodbye";
    let mut client = deaf_crowd(&server, 1, room).remove(0);
    // 61 MB to the 256 subscriptions: more than the kernel's default buffers, and less than the reactor may have.
    let large = send(room, "z".repeat(60_000));
    send_together(&mut client, &[large.clone(), large.clone(), large.clone(), large]);
    client.socket().close(None).unwrap();
    client.socket().flush().unwrap();
    server.await_metric("subscriptions", |count| count == 0);
    server.await_metric("outbound_bytes", |bytes| bytes == 0);
}

/// Rounds of SUBSCRIBE, SEND and UNSUBSCRIBE by one that reads nothing.
const ROUNDS: usize = 66_000;

/// Each round leaves a piece of a log that is still to be sent, in a room that the session is no longer in.
fn one_that_never_reads_and_leaves_again_and_again_harms_nobody(setup: Setup) {
    let server = setup.server();
    let mut leaver = small_session(&server, "0,0");
    leaver.subscribe("f", "/topic/fill");
    for _ in 0..6 {
        leaver.publish("/topic/fill", "x".repeat(100_000));
    }
    let join = Frame::new("SUBSCRIBE").header("destination", "/topic/a").header("id", "a").encode();
    let leave = Frame::new("UNSUBSCRIBE").header("id", "a").encode();
    let round = [join, send("/topic/a", "").encode(), leave].concat();
    let rounds = ws_frame(FIN | TEXT, &round.repeat(100)).repeat(ROUNDS / 100);
    let mut stream = leaver.socket().get_ref().try_clone().unwrap();
    // The server reads no more than it has room for, so the rest is sent while the answers are read.
    let writer = thread::spawn(move || {
        stream.write_all(&rounds).unwrap();
        stream.write_all(&ws_frame(FIN | TEXT, &send("/topic/fill", "last").encode())).unwrap();
    });
    let mut member = members(&server, 1, "/topic/other").remove(0);
    for _ in 0..1000 {
        member.publish("/topic/other", "meanwhile");
        assert_eq!(member.expect_body(), "meanwhile");
    }
    while leaver.expect_body() != "last" {}
    writer.join().unwrap();
}

/// A session may subscribe to a room that it has just left, with another way to acknowledge: it gets what it had
/// not got of the first subscription before what is the second's.
fn what_is_left_of_a_subscription_comes_before_its_successor(setup: Setup) {
    let server = setup.server();
    let mut slow = small_session(&server, "0,0");
    slow.subscribe("a", "/topic/a");
    let mut publisher = Client::connect(&server);
    let filling = "x".repeat(30_000);
    let mut publish = |numbers: Range<u32>| {
        for number in numbers {
            publisher.publish_confirmed("/topic/a", format!("{number} {filling}"));
        }
    };
    publish(0..40);
    slow.send(&Frame::new("UNSUBSCRIBE").header("id", "a"));
    let again = Frame::new("SUBSCRIBE").header("destination", "/topic/a").header("id", "a");
    slow.send(&again.header("ack", "client"));
    // Two CONNECT, two SUBSCRIBE, an UNSUBSCRIBE and what was published.
    server.await_metric("stomp_frames_received_total", |count| count == 5 + 40);
    publish(40..80);
    let mut got: Vec<u32> = Vec::new();
    while got.last() != Some(&79) {
        let frame = slow.next();
        if frame.command == "MESSAGE" {
            got.push(frame.text().split(' ').next().unwrap().parse().unwrap());
        }
    }
    assert!(got.is_sorted(), "{got:?}");
}
