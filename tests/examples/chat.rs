//! The chat clients: one room in a terminal, in three languages, over WebSocket and plain TCP.

use rustix::process::Signal;
use serde_json::json;

use super::Example;
use super::support::api::{self, Api};
use super::support::{Client, Frame, Running, Server};

/// A client in one language over one transport.
#[derive(Clone, Copy)]
struct Kind {
    folder: &'static str,
    script: &'static str,
    is_tcp: bool,
}

/// A folder with a client, and the server that it talks to.
struct Place {
    kind: Kind,
    example: Example,
    server: Server,
}

impl Place {
    /// None if what runs the client is not there.
    fn new(kind: Kind) -> Option<Place> {
        let example = Example::copy(kind.folder);
        example.program(kind.script)?;
        example.passwd("alice", "wonderland", &[]);
        example.passwd("bob", "builder", &[]);
        std::fs::write(example.path("api.toml"), api::configured(example.0.path())).unwrap();
        let server = Server::start(&Place::settings(&example, "127.0.0.1:0").each_ref().map(String::as_str));
        Some(Place { kind, example, server })
    }

    fn settings(example: &Example, stomp: &str) -> [String; 10] {
        [
            "--config".into(),
            example.path("api.toml"),
            "--set".into(),
            "auth.mode=jwt,users".into(),
            "--set".into(),
            format!("auth.users_file={}", example.path("users")),
            "--set".into(),
            format!("auth.keys_file={}", example.path("keys")),
            "--set".into(),
            format!("listen.stomp={stomp}"),
        ]
    }

    /// Starts the client in the room `tea`, with these variables.
    fn start(&self, environment: &[(&str, &str)]) -> Running {
        let url = match self.kind.is_tcp {
            true => format!("stomp://{}", self.server.stomp_address()),
            false => self.server.ws_url("/ws"),
        };
        let mut command = self.example.program(self.kind.script).expect("it was there");
        Running::start(command.arg("tea").env("CHAT", url).envs(environment.iter().copied()))
    }

    fn start_alice(&self) -> Running {
        self.start(&[("LOGIN", "alice"), ("PASSCODE", "wonderland")])
    }

    /// Somebody else in the room.
    fn bob(&self) -> Client {
        let mut bob = Client::open(&self.server);
        let connect = Frame::new("CONNECT").header("accept-version", "1.2");
        bob.start_session(connect.header("login", "bob").header("passcode", "builder"));
        bob.subscribe("1", "/topic/tea");
        bob
    }
}

fn a_room_is_shared(kind: Kind) {
    let Some(place) = Place::new(kind) else { return };
    let mut bob = place.bob();
    // Characters that headers escape, and that a locale may not have.
    let token = place.example.token("ann:o\\k é");
    let mut ann = place.start(&[("PASSCODE", &token), ("LC_ALL", "C.UTF-8")]);
    ann.expect_log("in tea");
    ann.say("hello: wörld \\n 😀");
    let message = bob.expect("MESSAGE");
    assert_eq!((message.text(), message.get("sender")), ("hello: wörld \\n 😀", Some("ann:o\\k é")));
    ann.expect("ann:o\\k é: hello: wörld \\n 😀");

    // More than any library reads at once, with characters of four bytes at every cut.
    let long = "😀".repeat(100_000);
    bob.publish("/topic/tea", &long);
    assert!(ann.expect("bob: ").ends_with(&format!("bob: {long}")), "a long message comes as it was sent");
    bob.publish("/topic/tea", "\u{1b}[2J\u{7}over");
    ann.expect("bob: \u{fffd}[2J\u{fffd}over");
    // In a message that is not text, because it is not UTF-8.
    bob.publish("/topic/tea", b"caf\xe9 over");
    ann.expect("bob: caf");

    ann.say("last words");
    let (status, written) = ann.finish();
    assert!(status.success(), "{written}");
    // Three messages are bob's own.
    let bodies: Vec<Vec<u8>> = (0..4).map(|_| bob.expect("MESSAGE").body).collect();
    assert_eq!(bodies[3], b"last words");
    place.server.stop();
}

fn a_wrong_password_ends_it(kind: Kind) {
    let Some(place) = Place::new(kind) else { return };
    let (status, written) = place.start(&[("LOGIN", "alice"), ("PASSCODE", "guess")]).finish();
    assert_eq!(status.code(), Some(1), "{written}");
    assert!(
        written.contains("the server refuses: not authenticated; login or passcode is wrong"),
        "{written}"
    );
}

fn who_is_kicked_stays_away(kind: Kind) {
    let Some(place) = Place::new(kind) else { return };
    let mut alice = place.start_alice();
    alice.expect_log("in tea");
    let answer =
        Api::of(&place.server).post("/v1/disconnect", &json!({"login": "alice", "reason": "spam: \\o/"}));
    assert_eq!(answer.status, 200, "{answer:?}");
    alice.expect_log("spam: \\o/");
    let (status, written) = alice.finish();
    assert_eq!(status.code(), Some(1), "{written}");
}

fn a_server_that_dies_is_waited_for(kind: Kind) {
    let Some(mut place) = Place::new(kind) else { return };
    let mut alice = place.start_alice();
    alice.expect_log("in tea");
    let (address, stomp) = (place.server.address(), place.server.stomp_address());
    place.server.signal(Signal::KILL);
    place.server.wait();
    alice.expect_log("again");
    alice.say("said meanwhile");
    let settings = Place::settings(&place.example, &stomp.to_string());
    place.server = Server::start_at(address, &settings.each_ref().map(String::as_str));
    alice.expect_log("in tea");
    alice.expect("alice: said meanwhile");
    // An orderly end is no other thing to it.
    place.server.stop();
    alice.expect_log("again");
}

fn a_silent_session_lasts_and_a_server_that_hangs_is_left(kind: Kind) {
    let Some(place) = Place::new(kind) else { return };
    let mut alice = place.start(&[("LOGIN", "alice"), ("PASSCODE", "wonderland"), ("HEART_BEAT_MS", "1000")]);
    alice.expect_log("in tea");
    place.server.await_metric("heart_beats_received_total", |beats| beats >= 4);
    assert_eq!(place.server.metric("logins_total"), 1, "it is the first session still");
    place.server.signal(Signal::STOP);
    alice.expect_log("again");
    place.server.signal(Signal::CONT);
    alice.expect_log("in tea");
}

/// Each test for one kind of client.
macro_rules! kinds {
    ($($name:ident: $folder:literal $script:literal $is_tcp:literal;)*) => {$(
        mod $name {
            use super::*;

            const KIND: Kind = Kind { folder: $folder, script: $script, is_tcp: $is_tcp };

            #[test]
            fn a_room_is_shared() {
                super::a_room_is_shared(KIND);
            }

            #[test]
            fn a_wrong_password_ends_it() {
                super::a_wrong_password_ends_it(KIND);
            }

            #[test]
            fn who_is_kicked_stays_away() {
                super::who_is_kicked_stays_away(KIND);
            }

            #[test]
            fn a_server_that_dies_is_waited_for() {
                super::a_server_that_dies_is_waited_for(KIND);
            }

            #[test]
            fn a_silent_session_lasts_and_a_server_that_hangs_is_left() {
                super::a_silent_session_lasts_and_a_server_that_hangs_is_left(KIND);
            }
        }
    )*};
}

kinds! {
    stompjs: "stompjs" "chat.mjs" false;
    python: "python" "chat.py" false;
    python_over_tcp: "python" "chat.py" true;
    java: "java" "Chat.java" false;
}
