//! The Spring-style application: its front end, unchanged, and the worker in Java that took the controller's place.

use std::collections::BTreeSet;

use rustix::process::Signal;

use super::Example;
use super::support::{Client, Frame, Running, Server};

/// Half of them are asked before the first worker is killed. A queue keeps all of them.
const QUESTIONS: usize = 700;

struct Place {
    example: Example,
    server: Server,
}

impl Place {
    fn new() -> Option<Place> {
        let example = Example::copy("spring");
        example.program("front-end.mjs")?;
        example.program("Worker.java")?;
        for (login, password, roles) in [
            ("alice", "wonderland", &[][..]),
            // A login that a destination cannot have as it is.
            ("bob/100%", "builder", &[]),
            ("worker", "secret", &["service"]),
        ] {
            example.passwd(login, password, roles);
        }
        let server = Place::server(&example, None);
        Some(Place { example, server })
    }

    /// A server with the example's configuration, but for the addresses.
    fn server(example: &Example, at: Option<&Server>) -> Server {
        let stomp = at.map_or_else(|| "127.0.0.1:0".to_owned(), |before| before.stomp_address().to_string());
        let users = format!("auth.users_file={}", example.path("users"));
        let stomp = format!("listen.stomp={stomp}");
        let config = example.path("tcbchat.toml");
        let arguments = ["--config", &config, "--set", &users, "--set", &stomp];
        match at {
            Some(before) => Server::start_at(before.address(), &arguments),
            None => Server::start(&arguments),
        }
    }

    fn worker(&self, login: &str, password: &str) -> Running {
        let mut worker = self.example.program("Worker.java").expect("it was there");
        worker.env("CHAT", format!("stomp://{}", self.server.stomp_address()));
        Running::start(worker.env("LOGIN", login).env("PASSCODE", password).env("HEART_BEAT_MS", "1000"))
    }

    fn front_end(&self, login: &str, password: &str) -> Running {
        let mut front_end = self.example.program("front-end.mjs").expect("it was there");
        front_end.arg("tea").env("CHAT", self.server.ws_url("/ws"));
        Running::start(front_end.env("LOGIN", login).env("PASSCODE", password))
    }

    /// A session of Alice's that is no front end.
    fn client(&self) -> Client {
        let mut client = Client::open(&self.server);
        let connect = Frame::new("CONNECT").header("accept-version", "1.2");
        client.start_session(connect.header("login", "alice").header("passcode", "wonderland"));
        client
    }
}

#[test]
fn the_front_end_hears_what_its_controller_said() {
    let Some(place) = Place::new() else { return };
    let mut alice = place.front_end("alice", "wonderland");
    let mut bob = place.front_end("bob/100%", "builder");
    alice.expect("ready");
    bob.expect("ready");
    // It waits until there is a worker.
    bob.say("höllo: 😀");
    let mut worker = place.worker("worker", "secret");
    worker.expect_log("ready");
    alice.expect("room: bob/100%: höllo: 😀");
    bob.expect("room: bob/100%: höllo: 😀");
    bob.expect("reply: said in tea");

    alice.say(" ");
    alice.expect("error: there is nothing to say");
    // Bob had no part in it: what comes next to him is the room's.
    alice.say("tea?");
    assert_eq!(bob.expect(""), "room: alice: tea?");
    place.server.stop();
}

#[test]
fn clients_write_to_the_application_only() {
    let Some(place) = Place::new() else { return };
    let mut worker = place.worker("worker", "secret");
    worker.expect_log("ready");
    let mut client = place.client();
    client.subscribe("errors", "/user/queue/errors");
    for (destination, command) in
        [("/topic/tea", "SEND"), ("/user/worker/queue/errors", "SEND"), ("/app/chat", "SUBSCRIBE")]
    {
        client.send(&Frame::new(command).header("destination", destination).header("id", "x"));
        let refusal = client.expect("MESSAGE");
        assert_eq!(refusal.text().trim(), "forbidden", "{refusal:?}");
    }
    // The worker does not let itself be led to another destination.
    for room in ["", "../app/chat", "a/b", "a b"] {
        client
            .send(&Frame::new("SEND").header("destination", "/app/chat").header("room", room).body("hello"));
        let refusal = client.expect("MESSAGE");
        assert_eq!((refusal.text(), refusal.get("sender")), ("there is no such room", Some("worker")));
    }
}

#[test]
fn a_worker_that_is_killed_leaves_its_questions_to_the_next() {
    let Some(place) = Place::new() else { return };
    let mut room = place.client();
    room.subscribe("1", "/topic/tea");
    let mut first = place.worker("worker", "secret");
    first.expect_log("ready");
    let mut client = place.client();
    let ask = |client: &mut Client, number: usize| {
        let send = Frame::new("SEND").header("destination", "/app/chat").header("room", "tea");
        client.send(&send.body(number.to_string()));
    };
    (0..QUESTIONS / 2).for_each(|number| ask(&mut client, number));
    // It is in the midst of them.
    let mut heard = vec![room.expect("MESSAGE").text().to_owned()];
    first.kill();
    (QUESTIONS / 2..QUESTIONS).for_each(|number| ask(&mut client, number));
    let mut second = place.worker("worker", "secret");
    second.expect_log("ready");
    let last = format!("alice: {}", QUESTIONS - 1);
    while heard.last() != Some(&last) {
        heard.push(room.expect("MESSAGE").text().to_owned());
    }
    // Each came at least once, and the first of each came in order.
    let mut seen = BTreeSet::new();
    heard.retain(|line| seen.insert(line.clone()));
    let asked: Vec<String> = (0..QUESTIONS).map(|number| format!("alice: {number}")).collect();
    assert!(heard == asked, "{heard:#?}");
}

#[test]
fn a_worker_waits_for_its_server() {
    let Some(mut place) = Place::new() else { return };
    let mut worker = place.worker("worker", "secret");
    worker.expect_log("ready");
    // Silence alone ends nothing.
    place.server.await_metric("heart_beats_received_total", |beats| beats >= 4);
    assert_eq!(place.server.metric("logins_total"), 1, "it is the first session still");
    place.server.signal(Signal::STOP);
    worker.expect_log("trying again");
    place.server.signal(Signal::CONT);
    worker.expect_log("ready");
    place.server.signal(Signal::KILL);
    place.server.wait();
    worker.expect_log("trying again");
    place.server = Place::server(&place.example, Some(&place.server));
    worker.expect_log("ready");
}

#[test]
fn who_may_not_work_is_told_so() {
    let Some(place) = Place::new() else { return };
    let wrong = place.worker("worker", "guess").finish();
    let no_role = place.worker("alice", "wonderland").finish();
    let front_end = place.front_end("alice", "guess").finish();
    for ((status, written), why) in [
        (wrong, "the server refuses: not authenticated; login or passcode is wrong"),
        (no_role, "the server refuses: this session may not subscribe: /app/chat"),
        (front_end, "the server refuses: not authenticated; login or passcode is wrong"),
    ] {
        assert_eq!(status.code(), Some(1), "{written}");
        assert!(written.contains(why), "{written}");
    }
}
