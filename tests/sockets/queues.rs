//! Queues: every message is done by one consumer, and none is lost on the way.

use std::collections::BTreeSet;

use crate::support::{Client, Frame, Server};
use crate::{Setup, expect_refusal, send};

on_one_and_three_reactors!(
    one_consumer_each,
    kept_while_there_is_none,
    a_nack_returns_it,
    a_lost_connection_returns_it,
    client_mode_is_cumulative,
    individual_mode_is_not,
    transactions,
    dead_letters,
    a_dead_letter_that_finds_no_room_is_kept,
    a_full_queue_refuses,
    a_producer_leaves_room_for_others,
    a_session_that_acknowledges_nothing_leaves_messages_to_others,
);

fn ack(message: &Frame) -> Frame {
    Frame::new("ACK").header("id", message.get("ack").expect("the mode is not auto"))
}

fn nack(message: &Frame) -> Frame {
    Frame { command: "NACK".into(), ..ack(message) }
}

/// A session that consumes a queue in this mode.
fn consumer(server: &Server, queue: &str, mode: &str) -> Client {
    let mut client = Client::connect(server);
    client.subscribe_ack("s", queue, mode);
    client
}

/// The same for a queue that has messages: they may come before any RECEIPT.
fn heir(server: &Server, queue: &str, mode: &str) -> Client {
    let mut client = Client::connect(server);
    let subscribe = Frame::new("SUBSCRIBE").header("id", "s").header("destination", queue);
    client.send(&subscribe.header("ack", mode));
    client
}

/// The next message, its body and whether it was delivered before.
fn expect_message(client: &mut Client, body: &str, is_redelivered: bool) -> Frame {
    let message = client.expect("MESSAGE");
    assert_eq!(message.text(), body);
    assert_eq!(message.get("redelivered"), is_redelivered.then_some("true"), "{message:?}");
    message
}

fn one_consumer_each(setup: Setup) {
    const EACH: usize = 10;
    let server = setup.server();
    let mut consumers: Vec<Client> = (0..3).map(|_| consumer(&server, "/queue/work", "auto")).collect();
    let mut producer = Client::connect(&server);
    for number in 0..3 * EACH {
        producer.publish("/queue/work", number.to_string());
    }
    // In turn, so each gets its share.
    let mut done = BTreeSet::new();
    for consumer in &mut consumers {
        for _ in 0..EACH {
            let message = consumer.expect("MESSAGE");
            assert_eq!(message.get("ack"), None);
            assert!(done.insert(message.text().parse::<usize>().unwrap()), "{message:?} came twice");
        }
    }
    assert_eq!(done, (0..3 * EACH).collect());
    server.await_metric("queue_messages", |left| left == 0);
}

fn kept_while_there_is_none(setup: Setup) {
    let server = setup.server();
    let mut producer = Client::connect(&server);
    for number in 0..5 {
        producer.send_confirmed(send("/queue/kept", number.to_string()).header("kind", "kept"));
    }
    producer.disconnect();
    assert_eq!(server.await_metric("queue_messages", |kept| kept == 5), 5);
    let mut late = heir(&server, "/queue/kept", "auto");
    for number in 0..5 {
        let message = expect_message(&mut late, &number.to_string(), false);
        assert_eq!(message.get("kind"), Some("kept"));
        assert_eq!(message.get("destination"), Some("/queue/kept"));
    }
}

fn a_nack_returns_it(setup: Setup) {
    let server = setup.server();
    let mut client = consumer(&server, "/queue/nack", "client-individual");
    client.publish("/queue/nack", "hard");
    let message = expect_message(&mut client, "hard", false);
    client.send(&nack(&message));
    let again = expect_message(&mut client, "hard", true);
    assert_eq!(again.get("message-id"), message.get("message-id"), "it is the same message");
    client.send_confirmed(ack(&again));
    server.await_metric("queue_messages", |left| left == 0);
    // It cannot be done twice.
    client.send(&ack(&again));
    let (_, code) = expect_refusal(&mut client, "unknown-ack");
    assert_eq!(code, 1002);
}

fn a_lost_connection_returns_it(setup: Setup) {
    let server = setup.server();
    let mut lost = consumer(&server, "/queue/lost", "client");
    let mut producer = Client::connect(&server);
    for body in ["a", "b", "c"] {
        producer.publish_confirmed("/queue/lost", body);
    }
    let messages = ["a", "b", "c"].map(|body| expect_message(&mut lost, body, false));
    lost.send_confirmed(ack(&messages[0]));
    let mut heir = heir(&server, "/queue/lost", "client");
    drop(lost);
    for body in ["b", "c"] {
        let message = expect_message(&mut heir, body, true);
        heir.send(&ack(&message));
    }
    server.await_metric("queue_messages", |left| left == 0);
}

fn client_mode_is_cumulative(setup: Setup) {
    let server = setup.server();
    let mut client = consumer(&server, "/queue/cumulative", "client");
    for body in ["a", "b", "c"] {
        client.publish("/queue/cumulative", body);
    }
    let messages = ["a", "b", "c"].map(|body| expect_message(&mut client, body, false));
    client.send_confirmed(ack(&messages[1]));
    client.send_confirmed(Frame::new("UNSUBSCRIBE").header("id", "s"));
    expect_message(&mut heir(&server, "/queue/cumulative", "client"), "c", true);
}

fn individual_mode_is_not(setup: Setup) {
    let server = setup.server();
    let mut client = consumer(&server, "/queue/individual", "client-individual");
    for body in ["a", "b", "c"] {
        client.publish("/queue/individual", body);
    }
    let messages = ["a", "b", "c"].map(|body| expect_message(&mut client, body, false));
    client.send_confirmed(ack(&messages[1]));
    client.send_confirmed(Frame::new("UNSUBSCRIBE").header("id", "s"));
    let mut heir = heir(&server, "/queue/individual", "client-individual");
    expect_message(&mut heir, "a", true);
    expect_message(&mut heir, "c", true);
}

fn transactions(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.subscribe("room", "/topic/transactions");
    client.subscribe_ack("s", "/queue/transactions", "client-individual");
    client.publish("/queue/transactions", "work");
    let work = expect_message(&mut client, "work", false);
    let begin = |id: &str| Frame::new("BEGIN").header("transaction", id);
    let end = |command: &str, id: &str| Frame::new(command).header("transaction", id);

    // Two at once; what is in them does not happen yet.
    client.send_confirmed(begin("kept"));
    client.send_confirmed(begin("dropped"));
    client.send_confirmed(send("/topic/transactions", "1").header("transaction", "kept"));
    client.send_confirmed(send("/topic/transactions", "never").header("transaction", "dropped"));
    client.send_confirmed(send("/topic/transactions", "2").header("transaction", "kept"));
    client.send_confirmed(ack(&work).header("transaction", "dropped"));
    client.publish("/topic/transactions", "0");
    assert_eq!(client.expect_body(), "0");
    client.send_confirmed(end("ABORT", "dropped"));
    client.send(&end("COMMIT", "kept"));
    let message = client.expect("MESSAGE");
    assert_eq!((message.text(), message.get("transaction")), ("1", None));
    assert_eq!(client.expect_body(), "2");
    // The aborted ACK did not happen; a committed one does.
    server.await_metric("queue_messages", |count| count == 1);
    client.send_confirmed(begin("done"));
    client.send_confirmed(ack(&work).header("transaction", "done"));
    client.send_confirmed(end("COMMIT", "done"));
    server.await_metric("queue_messages", |left| left == 0);
    // One that is left open ends with its session.
    client.send_confirmed(begin("open"));
    client.send_confirmed(send("/queue/transactions", "never").header("transaction", "open"));
    client.disconnect();
    server.await_metric("queue_messages", |count| count == 0);
}

fn dead_letters(setup: Setup) {
    let server = setup.server_with("[rooms]\ndeliveries_max = 3", &[]);
    let mut client = consumer(&server, "/queue/poison", "client-individual");
    client.send(&send("/queue/poison", "bad").header("kind", "poison"));
    for delivery in 0..3 {
        let message = expect_message(&mut client, "bad", delivery > 0);
        client.send(&nack(&message));
    }
    let dead = heir(&server, "/queue/poison.dlq", "auto").expect("MESSAGE");
    assert_eq!(dead.text(), "bad");
    assert_eq!(dead.get("destination"), Some("/queue/poison.dlq"));
    assert_eq!(dead.get("kind"), Some("poison"));
    assert_eq!(server.await_metric("queue_dead_lettered_total", |count| count > 0), 1);
    // The queue itself goes on.
    client.publish("/queue/poison", "good");
    expect_message(&mut client, "good", false);
}

fn a_full_queue_refuses(setup: Setup) {
    let server = setup.server_with("[rooms]\nqueue_messages_max = 2", &[]);
    let mut producer = Client::connect(&server);
    producer.publish_confirmed("/queue/full", "1");
    producer.publish_confirmed("/queue/full", "2");
    producer.publish("/queue/full", "3");
    let (message, code) = expect_refusal(&mut producer, "queue-full");
    assert_eq!((&*message, code), ("the queue is full: rooms.queue_messages_max = 2", 1013));
    let mut client = heir(&server, "/queue/full", "auto");
    expect_message(&mut client, "1", false);
    expect_message(&mut client, "2", false);
}

fn a_dead_letter_that_finds_no_room_is_kept(setup: Setup) {
    let server = setup.server_with("[rooms]\nqueue_messages_max = 2\ndeliveries_max = 2", &[]);
    let mut client = consumer(&server, "/queue/poison", "client-individual");
    client.publish_confirmed("/queue/poison.dlq", "1");
    client.publish_confirmed("/queue/poison.dlq", "2");
    client.publish("/queue/poison", "bad");
    for delivery in 0..2 {
        let message = expect_message(&mut client, "bad", delivery > 0);
        client.send(&nack(&message));
    }
    server.await_metric("queue_messages_refused_total", |count| count == 1);
    assert_eq!(server.await_metric("queue_messages", |count| count == 3), 3);
    // When its pause is over, somebody else may do better.
    let message = expect_message(&mut client, "bad", true);
    client.send_confirmed(ack(&message));
    server.await_metric("queue_messages", |count| count == 2);
}

fn a_producer_leaves_room_for_others(setup: Setup) {
    let server = setup.server_with("[rooms]\nqueue_messages_max = 8", &[]);
    let mut greedy = Client::connect(&server);
    for number in 0..6 {
        greedy.publish_confirmed("/queue/shared", number.to_string());
    }
    greedy.publish("/queue/shared", "6");
    let (message, _) = expect_refusal(&mut greedy, "queue-full");
    assert_eq!(message, "the queue is full: rooms.queue_messages_max = 8");
    Client::connect(&server).publish_confirmed("/queue/shared", "other");
    assert_eq!(server.await_metric("queue_messages", |count| count == 7), 7);
}

fn a_session_that_acknowledges_nothing_leaves_messages_to_others(setup: Setup) {
    let server = setup.server_with("[rooms]\nprefetch_max = 2\nack_timeout_s = 1", &[]);
    let mut idle = Client::connect(&server);
    for number in 0..8 {
        idle.subscribe_ack(&number.to_string(), "/queue/taken", "client");
    }
    let mut producer = Client::connect(&server);
    for body in ["a", "b", "c"] {
        producer.publish_confirmed("/queue/taken", body);
    }
    // However many subscriptions it has, a session takes two.
    let mut worker = heir(&server, "/queue/taken", "client-individual");
    let third = expect_message(&mut worker, "c", false);
    worker.send(&ack(&third));
    // And it does not keep them.
    for body in ["a", "b"] {
        let message = expect_message(&mut worker, body, true);
        worker.send(&ack(&message));
    }
    server.await_metric("queue_messages", |left| left == 0);
    assert_eq!(server.await_metric("queue_ack_timeouts_total", |count| count == 2), 2);
}
