//! Messages for the application's own programs: `/app/<name>`.

use super::auth::{Files, connect, ended, session};
use super::*;

on_one_and_three_reactors! {
    a_program_gets_what_clients_send_and_answers_them,
    the_next_program_has_what_one_that_died_had_not_done,
    only_programs_with_the_role_get_it,
}

const CHAT: &str = "/app/chat";

fn a_program_gets_what_clients_send_and_answers_them(setup: Setup) {
    let server = setup.server();
    let mut ann = Client::open(&server);
    let named = ann.start_session(Frame::new("CONNECT").header("login", "ann"));
    ann.subscribe("replies", "/user/queue/replies");
    // Kept while no program is there.
    let forged = send(CHAT, "hello").header("sender-session", "9-9-9").header("sender-address", "192.0.2.1");
    ann.send_confirmed(forged.header("kind", "greeting"));
    let mut program = Client::connect(&server);
    program.subscribe_ack("work", CHAT, "client-individual");
    let message = program.expect("MESSAGE");
    assert_eq!((message.text(), message.get("destination")), ("hello", Some(CHAT)));
    assert_eq!(message.get("sender-session"), named.get("session"));
    assert_eq!((message.get("sender-address"), message.get("kind")), (Some("127.0.0.1"), Some("greeting")));
    program.publish("/user/ann/queue/replies", "hello yourself");
    program.send_confirmed(Frame::new("ACK").header("id", message.get("ack").unwrap()));
    assert_eq!(ann.expect_body(), "hello yourself");
    // Elsewhere nobody is told.
    ann.subscribe("room", "/topic/room");
    program.publish("/topic/room", "x");
    assert_eq!(ann.expect("MESSAGE").get("sender-session"), None);
}

fn the_next_program_has_what_one_that_died_had_not_done(setup: Setup) {
    let server = setup.server();
    let mut first = Client::connect(&server);
    first.subscribe_ack("work", CHAT, "client-individual");
    let mut client = Client::connect(&server);
    for n in 0..50 {
        client.publish_confirmed(CHAT, n.to_string());
    }
    for n in 0..10 {
        let message = first.expect("MESSAGE");
        assert_eq!(message.text(), n.to_string());
        first.send_confirmed(Frame::new("ACK").header("id", message.get("ack").unwrap()));
    }
    drop(first);
    let mut next = Client::connect(&server);
    next.subscribe_ack("work", CHAT, "client-individual");
    for n in 10..50 {
        let message = next.expect("MESSAGE");
        assert_eq!(message.text(), n.to_string());
        next.send_confirmed(Frame::new("ACK").header("id", message.get("ack").unwrap()));
    }
}

fn only_programs_with_the_role_get_it(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "jwt,users,open", &[]);
    let subscribe = || Frame::new("SUBSCRIBE").header("id", "s").header("destination", CHAT);
    // Alice is of the staff, and nobody is nobody.
    for client in [connect("alice", "wonder"), Frame::new("CONNECT")] {
        let mut client = session(&server, client);
        client.send(&subscribe());
        assert_eq!(ended(&mut client), ("forbidden".into(), 1008));
    }
    let token = files.token("keys", "worker", &["--role", "service"]);
    let mut program = session(&server, Frame::new("CONNECT").header("passcode", &token));
    program.send_confirmed(subscribe());
    let mut alice = session(&server, connect("alice", "wonder"));
    alice.publish(CHAT, "mine");
    let message = program.expect("MESSAGE");
    assert_eq!((message.text(), message.get("sender")), ("mine", Some("alice")));
}
