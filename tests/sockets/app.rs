//! Messages for the application's own programs: `/app/<name>`.

use serde_json::Value;

use super::auth::{Files, connect, ended, refused, session};
use super::*;

on_one_and_three_reactors! {
    a_program_gets_what_clients_send_and_answers_them,
    the_next_program_has_what_one_that_died_had_not_done,
    only_programs_with_the_role_get_it,
    programs_hear_what_happens_to_sessions,
}

const CHAT: &str = "/app/chat";
const EVENTS: &str = "/system/events";

/// Takes part in the work, and waits for nothing: what is kept may come before a RECEIPT.
fn work(program: &mut Client) {
    let subscribe = Frame::new("SUBSCRIBE").header("id", "work").header("destination", CHAT);
    program.send(&subscribe.header("ack", "client-individual"));
}

fn a_program_gets_what_clients_send_and_answers_them(setup: Setup) {
    let server = setup.server();
    let mut ann = Client::open(&server);
    let named = ann.start_session(Frame::new("CONNECT").header("login", "ann"));
    ann.subscribe("replies", "/user/queue/replies");
    // Kept while no program is there.
    let forged = send(CHAT, "hello").header("sender-session", "9-9-9").header("sender-address", "192.0.2.1");
    ann.send_confirmed(forged.header("kind", "greeting"));
    let mut program = Client::connect(&server);
    work(&mut program);
    let message = program.expect("MESSAGE");
    assert_eq!((message.text(), message.get("destination")), ("hello", Some(CHAT)));
    assert_eq!(message.get("sender-session"), named.get("session"));
    assert_eq!((message.get("sender-address"), message.get("kind")), (Some("127.0.0.1"), Some("greeting")));
    program.publish("/user/ann/queue/replies", "hello yourself");
    program.send(&Frame::new("ACK").header("id", message.get("ack").unwrap()));
    assert_eq!(ann.expect_body(), "hello yourself");
    // Elsewhere nobody is told.
    ann.subscribe("room", "/topic/room");
    program.publish("/topic/room", "x");
    assert_eq!(ann.expect("MESSAGE").get("sender-session"), None);
}

fn the_next_program_has_what_one_that_died_had_not_done(setup: Setup) {
    let server = setup.server();
    let mut first = Client::connect(&server);
    work(&mut first);
    let mut client = Client::connect(&server);
    for n in 0..50 {
        client.publish_confirmed(CHAT, n.to_string());
    }
    for n in 0..10 {
        let message = first.expect("MESSAGE");
        assert_eq!(message.text(), n.to_string());
        first.send(&Frame::new("ACK").header("id", message.get("ack").unwrap()));
    }
    // It dies when the server has read all that: a reset may take away the rest. What it has not done comes before.
    let read = first.send_with_receipt(send("/topic/a", ""));
    while first.next().get("receipt-id") != Some(&*read) {}
    drop(first);
    let mut next = Client::connect(&server);
    work(&mut next);
    // What the first had no room for may come before the owner has heard of its end. Each kind keeps its order.
    let (mut again, mut new): (Vec<u32>, Vec<u32>) = Default::default();
    for _ in 10..50 {
        let message = next.expect("MESSAGE");
        let kind = if message.get("redelivered").is_some() { &mut again } else { &mut new };
        kind.push(message.text().parse().unwrap());
        next.send(&Frame::new("ACK").header("id", message.get("ack").unwrap()));
    }
    assert!(again.first() == Some(&10) && again.is_sorted() && new.is_sorted(), "{again:?} {new:?}");
    again.extend(new);
    again.sort_unstable();
    assert!(again.into_iter().eq(10..50));
}

fn only_programs_with_the_role_get_it(setup: Setup) {
    let files = Files::new();
    let server = files.server(setup, "jwt,users,open", &[]);
    let subscribe = |place: &str| Frame::new("SUBSCRIBE").header("id", place).header("destination", place);
    // Alice is of the staff, and nobody is nobody.
    for client in [connect("alice", "wonder"), Frame::new("CONNECT")] {
        let mut client = session(&server, client);
        client.send(&subscribe(EVENTS));
        assert_eq!(ended(&mut client), ("forbidden".into(), 1008));
    }
    let token = files.token("keys", "worker", &["--role", "service"]);
    let mut program = session(&server, Frame::new("CONNECT").header("passcode", &token));
    program.send_confirmed(subscribe(CHAT));
    let mut alice = session(&server, connect("alice", "wonder"));
    alice.publish(CHAT, "mine");
    let message = program.expect("MESSAGE");
    assert_eq!((message.text(), message.get("sender")), ("mine", Some("alice")));
    // What the server refuses is heard, too.
    let mut listener = session(&server, Frame::new("CONNECT").header("passcode", &token));
    listener.send(&subscribe(EVENTS));
    assert_eq!(refused(&server, connect("alice", "guess")).0, "not-authenticated");
    let heard = await_event(&mut listener, "refused");
    assert_eq!((&heard["fault"], &heard["login"]), (&"not-authenticated".into(), &Value::Null));
}

/// The next event of this kind.
fn await_event(listener: &mut Client, kind: &str) -> Value {
    loop {
        let message = listener.expect("MESSAGE");
        assert_eq!(
            (message.get("destination"), message.get("content-type")),
            (Some(EVENTS), Some("application/json"))
        );
        let event: Value = serde_json::from_str(message.text()).unwrap();
        assert!(event["at"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{event}");
        if event["event"] == kind {
            return event;
        }
    }
}

fn programs_hear_what_happens_to_sessions(setup: Setup) {
    let server = setup.server();
    Client::login(&server, "early").disconnect();
    assert_eq!(server.metric("events_told_total"), 0, "nobody listens");
    let mut listener = Client::connect(&server);
    listener.send(&Frame::new("SUBSCRIBE").header("id", "e").header("destination", EVENTS));
    assert_eq!(await_event(&mut listener, "subscribed")["destination"], EVENTS);
    let mut ann = Client::open(&server);
    let named = ann.start_session(Frame::new("CONNECT").header("login", "ann"));
    let connected = await_event(&mut listener, "connected");
    assert_eq!(connected["session"], named.get("session").unwrap());
    assert_eq!((&connected["login"], &connected["address"]), (&"ann".into(), &"127.0.0.1".into()));
    for place in ["/topic/a", "/queue/b"] {
        ann.subscribe(place, place);
        assert_eq!(await_event(&mut listener, "subscribed")["destination"], place);
        ann.send_confirmed(Frame::new("UNSUBSCRIBE").header("id", place));
        assert_eq!(await_event(&mut listener, "unsubscribed")["destination"], place);
    }
    ann.disconnect();
    let gone = await_event(&mut listener, "disconnected");
    assert_eq!((&gone["reason"], &gone["session"]), (&"disconnect".into(), &connected["session"]));
    let mut forger = Client::connect(&server);
    await_event(&mut listener, "connected");
    forger.send(&send(EVENTS, "x"));
    expect_refusal(&mut forger, "bad-destination");
    assert_eq!(await_event(&mut listener, "disconnected")["reason"], "bad-destination");
    // When the last one has gone, nothing is told any more.
    drop(listener);
    server.await_metric("connections_open", |open| open <= 1);
    let told = server.metric("events_told_total");
    Client::connect(&server).disconnect();
    assert_eq!(server.metric("events_told_total"), told);
}
