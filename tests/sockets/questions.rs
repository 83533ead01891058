//! Clients that ask the application by SUBSCRIBE to `/app/<name>`, and have one answer.

use serde_json::json;

use super::auth::{Files, connect, ended, session};
use super::*;
use crate::support::api::{Api, configured};

on_one_and_three_reactors! {
    a_question_has_one_answer,
    an_answer_finds_the_subscription_that_has_asked_and_no_later_one,
    an_answer_to_a_session_that_is_gone_finds_nobody,
    no_client_says_where_an_answer_goes,
    only_programs_answer,
    a_question_counts_as_a_subscription,
    a_question_that_a_full_queue_refuses_leaves_nothing,
    rules_say_who_may_ask,
    a_question_comes_behind_what_was_said_before_it,
    a_question_counts_for_the_rate,
    where_answers_go_is_never_too_long,
    a_question_that_is_redelivered_may_be_answered_twice,
    an_answer_need_not_be_acknowledged,
    the_api_may_answer,
    where_nobody_proves_anything_everybody_is_a_program,
}

/// An id with all that destinations and headers write in another way.
const ODD_ID: &str = "a/b%c:d\ne\\f";

/// Clients with passwords, and programs with tokens.
struct Application {
    server: Server,
    token: String,
    _files: Files,
}

impl Application {
    fn new(setup: Setup, more: &[&str]) -> Application {
        let files = Files::new();
        let server = files.server(setup, "jwt,users,open", more);
        let token = files.token("keys", "worker", &["--role", "service"]);
        Application { server, token, _files: files }
    }

    fn alice(&self) -> Client {
        session(&self.server, connect("alice", "wonder"))
    }

    fn program(&self) -> Client {
        session(&self.server, Frame::new("CONNECT").header("passcode", &self.token))
    }

    /// A program that takes what is for this name.
    fn worker(&self, place: &str) -> Client {
        let mut worker = self.program();
        worker.send(&subscribe("w", place).header("ack", "client-individual"));
        worker
    }

    fn metric_is(&self, name: &str, expected: u64) {
        self.server.await_metric(name, |value| value == expected);
    }
}

fn subscribe(id: &str, place: &str) -> Frame {
    Frame::new("SUBSCRIBE").header("id", id).header("destination", place)
}

fn unsubscribe(id: &str) -> Frame {
    Frame::new("UNSUBSCRIBE").header("id", id)
}

/// The next question, which is acknowledged: where its answer goes.
fn take_question(worker: &mut Client) -> String {
    let question = worker.expect("MESSAGE");
    worker.send(&Frame::new("ACK").header("id", question.get("ack").unwrap()));
    question.get("reply-to").unwrap_or_else(|| panic!("{question:?} is a question")).to_owned()
}

/// The answer that must come next.
fn expect_answer(client: &mut Client, id: &str, place: &str, body: &str) -> Frame {
    let answer = client.expect("MESSAGE");
    let said = (answer.get("subscription"), answer.get("destination"), answer.text());
    assert_eq!(said, (Some(id), Some(place), body), "{answer:?}");
    answer
}

fn a_question_has_one_answer(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut alice = Client::open(&application.server);
    let named = alice.start_session(connect("alice", "wonder"));
    let mut program = application.program();
    let mut message_ids = Vec::new();
    // On all reactors.
    for n in 0..8 {
        let place = format!("/app/profile.{n}");
        // Kept while no program is there.
        alice.send_confirmed(subscribe(ODD_ID, &place).header("kind", "short"));
        program.send(&subscribe(&place, &place).header("ack", "client-individual"));
        let question = program.expect("MESSAGE");
        assert_eq!((question.text(), question.get("destination")), ("", Some(&*place)));
        assert_eq!((question.get("sender"), question.get("kind")), (Some("alice"), Some("short")));
        assert_eq!(question.get("sender-session"), named.get("session"));
        assert_eq!((question.get("sender-address"), question.get("id")), (Some("127.0.0.1"), None));
        let reply_to = question.get("reply-to").unwrap();
        assert!(reply_to.starts_with(&format!("/reply/{}/", named.get("session").unwrap())), "{reply_to}");
        program.send(&Frame::new("ACK").header("id", question.get("ack").unwrap()));
        // The second one is dropped, and that is no mistake of the program.
        program.send_confirmed(send(reply_to, "it is you").header("x", "y"));
        program.send_confirmed(send(reply_to, "it is you again"));
        let answer = expect_answer(&mut alice, ODD_ID, &place, "it is you");
        assert_eq!(
            (answer.get("sender"), answer.get("x"), answer.get("ack")),
            (Some("worker"), Some("y"), None)
        );
        assert!(answer.get("timestamp").is_some());
        message_ids.push(answer.get("message-id").unwrap().to_owned());
        // The id is not free before the subscription ends, which it does.
        alice.send_confirmed(unsubscribe(ODD_ID));
    }
    message_ids.sort();
    message_ids.dedup();
    assert_eq!(message_ids.len(), 8);
    application.metric_is("replies_delivered_total", 8);
    application.metric_is("replies_dropped_total", 8);
    alice.subscribe("s", "/topic/a");
    program.publish("/topic/a", "what comes next");
    assert_eq!(alice.expect_body(), "what comes next");
}

fn an_answer_finds_the_subscription_that_has_asked_and_no_later_one(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut worker = application.worker("/app/a");
    let mut alice = application.alice();
    alice.send_confirmed(subscribe("s", "/app/a"));
    let first = take_question(&mut worker);
    alice.send_confirmed(unsubscribe("s"));
    alice.send_confirmed(subscribe("s", "/app/a"));
    let second = take_question(&mut worker);
    worker.send_confirmed(send(&first, "too late"));
    worker.send_confirmed(send(&second, "in time"));
    expect_answer(&mut alice, "s", "/app/a", "in time");
    // A topic by that id gets no answer, either.
    alice.send_confirmed(unsubscribe("s"));
    alice.send_confirmed(subscribe("s", "/topic/a"));
    worker.send_confirmed(send(&second, "again"));
    worker.publish("/topic/a", "what comes next");
    assert_eq!(alice.expect_body(), "what comes next");
    // Several at once have their own, in whatever order.
    for id in ["x", "y", "z"] {
        alice.send_confirmed(subscribe(id, "/app/a"));
    }
    let asked: Vec<String> = (0..3).map(|_| take_question(&mut worker)).collect();
    for (reply_to, id) in asked.iter().zip(["x", "y", "z"]).rev() {
        worker.send_confirmed(send(reply_to, id));
        expect_answer(&mut alice, id, "/app/a", id);
    }
    application.metric_is("replies_dropped_total", 2);
}

fn an_answer_to_a_session_that_is_gone_finds_nobody(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut worker = application.worker("/app/a");
    let mut asked = Vec::new();
    for _ in 0..6 {
        let mut alice = application.alice();
        alice.send_confirmed(subscribe("s", "/app/a"));
        asked.push(take_question(&mut worker));
        alice.disconnect();
    }
    // Those who come now have the places of those who have gone.
    let mut clients: Vec<Client> = (0..6).map(|_| application.alice()).collect();
    for client in &mut clients {
        client.send_confirmed(subscribe("s", "/app/a"));
    }
    let asked_now: Vec<String> = (0..6).map(|_| take_question(&mut worker)).collect();
    for reply_to in asked.iter().chain(&["/reply/9-0-1/1".into(), "/reply/0-4294967295-0/1".into()]) {
        worker.send_confirmed(send(reply_to, "who is there?"));
    }
    application.metric_is("replies_dropped_total", 8);
    for reply_to in &asked_now {
        worker.send_confirmed(send(reply_to, "yours"));
    }
    clients.iter_mut().for_each(|client| drop(expect_answer(client, "s", "/app/a", "yours")));
}

fn no_client_says_where_an_answer_goes(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut worker = application.worker("/app/a");
    let mut alice = application.alice();
    let forged = |frame: Frame| {
        let names = ["reply-to", "reply-to ", "sender-session", "sender", "timestamp"];
        names.iter().fold(frame, |frame, name| frame.header(name, "/topic/secret"))
    };
    alice.send_confirmed(forged(send("/app/a", "no question")));
    let message = worker.expect("MESSAGE");
    assert_eq!((message.get("reply-to"), message.get("reply-to ")), (None, None));
    worker.send(&Frame::new("ACK").header("id", message.get("ack").unwrap()));
    alice.send_confirmed(forged(subscribe("s", "/app/a")));
    let question = worker.expect("MESSAGE");
    let of = |name: &str| question.headers.iter().filter(|(other, _)| other.trim() == name).count();
    for name in ["reply-to", "sender-session", "sender", "timestamp"] {
        assert_eq!(of(name), 1, "{question:?}");
        assert_ne!(question.get(name), Some("/topic/secret"));
    }
    // Between clients it is theirs.
    alice.subscribe("t", "/topic/a");
    alice.publish("/topic/a", "no header");
    assert_eq!(alice.expect_body(), "no header");
    alice.send(&send("/topic/a", "one").header("reply-to", "/topic/b"));
    assert_eq!(alice.expect("MESSAGE").get("reply-to"), Some("/topic/b"));
}

fn only_programs_answer(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut worker = application.worker("/app/a");
    let mut alice = application.alice();
    alice.send_confirmed(subscribe("s", "/app/a"));
    let reply_to = take_question(&mut worker);
    for mut other in [application.alice(), session(&application.server, Frame::new("CONNECT"))] {
        other.send(&send(&reply_to, "trust me"));
        assert_eq!(ended(&mut other), ("forbidden".into(), 1008));
    }
    let mut hasty = application.alice();
    let begin = Frame::new("BEGIN").header("transaction", "t");
    hasty.send(&begin);
    hasty.send(&send(&reply_to, "trust me").header("transaction", "t"));
    hasty.send(&Frame { command: "COMMIT".into(), ..begin.clone() });
    assert_eq!(ended(&mut hasty), ("forbidden".into(), 1008));
    // A program may, in a transaction, too.
    worker.send(&begin);
    worker.send(&send(&reply_to, "the truth").header("transaction", "t"));
    worker.send_confirmed(Frame { command: "COMMIT".into(), ..begin });
    expect_answer(&mut alice, "s", "/app/a", "the truth");
    for bad in ["/reply/", "/reply/x/1", "/reply/0-1-2", "/reply/0-1-2/a"] {
        let mut program = application.program();
        program.send(&send(bad, "x"));
        expect_refusal(&mut program, "bad-destination");
    }
    let mut program = application.program();
    program.send(&subscribe("s", &reply_to));
    expect_refusal(&mut program, "bad-destination");
}

fn a_question_counts_as_a_subscription(setup: Setup) {
    let more = ["stomp.subscriptions_max=3", "stomp.refusals=message"];
    let application = Application::new(setup, &more);
    let mut worker = application.worker("/app/a");
    let mut alice = application.alice();
    let refused = |client: &mut Client| {
        let told = client.expect("MESSAGE");
        assert_eq!(told.get("destination"), Some("/user/queue/errors"), "{told:?}");
        told.text().trim().to_owned()
    };
    for id in ["x", "y", "z"] {
        alice.send_confirmed(subscribe(id, "/app/a"));
        let reply_to = take_question(&mut worker);
        worker.publish(&reply_to, id);
        expect_answer(&mut alice, id, "/app/a", id);
    }
    for place in ["/app/a", "/topic/a"] {
        alice.send(&subscribe("more", place).header("receipt", "r"));
        assert_eq!(refused(&mut alice), "too-many-subscriptions");
    }
    for place in ["/app/a", "/app/b", "/topic/a"] {
        alice.send(&subscribe("y", place));
        assert_eq!(refused(&mut alice), "subscription-exists");
    }
    alice.send_confirmed(unsubscribe("y"));
    alice.send(&unsubscribe("y"));
    assert_eq!(refused(&mut alice), "no-such-subscription");
    alice.subscribe("y", "/topic/a");
    // Those to one destination have a bound, too, which answers do not lift.
    let application = Application::new(setup, &["stomp.subscriptions_per_destination_max=2"]);
    let mut alice = application.alice();
    alice.send_confirmed(subscribe("x", "/app/a"));
    alice.send_confirmed(subscribe("y", "/app/a"));
    alice.send_confirmed(subscribe("z", "/app/b"));
    alice.send(&subscribe("more", "/app/a"));
    expect_refusal(&mut alice, "too-many-subscriptions");
}

fn a_question_that_a_full_queue_refuses_leaves_nothing(setup: Setup) {
    for refusals in ["error", "message"] {
        let refusals = format!("stomp.refusals={refusals}");
        let application = Application::new(setup, &["rooms.queue_messages_max=2", &refusals]);
        // On all reactors.
        for n in 0..8 {
            let place = format!("/app/full.{n}");
            let mut alice = application.alice();
            for id in ["one", "two"] {
                alice.send_confirmed(subscribe(id, &place));
            }
            alice.send(&subscribe("three", &place).header("receipt", "r"));
            if refusals.ends_with("error") {
                expect_refusal(&mut alice, "queue-full");
                continue;
            }
            let told = alice.expect("MESSAGE");
            assert_eq!((told.text().trim(), told.get("receipt-id")), ("queue-full", Some("r")));
            // Without a receipt it is the same.
            alice.send(&subscribe("three", &place));
            assert_eq!(alice.expect("MESSAGE").text().trim(), "queue-full");
            alice.subscribe("three", "/topic/a");
        }
    }
}

fn rules_say_who_may_ask(setup: Setup) {
    let rules = r#"
        [[rules]]
        who = "role:service"
        may = ["subscribe"]
        where = "/app/**"
        [[rules]]
        who = "login:alice"
        may = "subscribe"
        where = "/app/a"
        [[rules]]
        who = "login:bob"
        may = "send"
        where = "/app/**"
    "#;
    let files = Files::new();
    let server = files.server_of(setup, "jwt,users", rules);
    let token = files.token("keys", "worker", &["--role", "service"]);
    let mut worker = session(&server, Frame::new("CONNECT").header("passcode", &token));
    worker.send_confirmed(subscribe("w", "/app/a").header("ack", "client-individual"));
    let mut alice = session(&server, connect("alice", "wonder"));
    alice.send_confirmed(subscribe("s", "/app/a"));
    // No rule says that it may answer: it has the question.
    let reply_to = take_question(&mut worker);
    worker.send_confirmed(send(&reply_to, "yes"));
    expect_answer(&mut alice, "s", "/app/a", "yes");
    alice.send(&subscribe("t", "/app/b"));
    assert_eq!(ended(&mut alice), ("forbidden".into(), 1008));
    // To send there is something else.
    let mut bob = session(&server, connect("bob", "builder"));
    bob.send_confirmed(send("/app/a", "a message"));
    bob.send(&subscribe("s", "/app/a"));
    assert_eq!(ended(&mut bob), ("forbidden".into(), 1008));
}

fn a_question_comes_behind_what_was_said_before_it(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut program = application.program();
    for n in 0..16 {
        let place = format!("/app/order.{n}");
        program.send(&subscribe(&place, &place).header("ack", "client-individual"));
        let mut alice = application.alice();
        let inbox = format!("/topic/inbox.{n}");
        // In one breath: the first one has begun when the program has the question.
        let frames = [subscribe("inbox", &inbox), subscribe("s", &place)];
        let text: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        alice.send_text(std::str::from_utf8(&text).unwrap());
        let reply_to = take_question(&mut program);
        program.send(&send(&inbox, "beside"));
        assert_eq!(alice.expect_body(), "beside");
        program.send(&send(&reply_to, "answer"));
        expect_answer(&mut alice, "s", &place, "answer");
        alice.disconnect();
    }
}

fn a_question_counts_for_the_rate(setup: Setup) {
    let application = Application::new(setup, &["rate.session_messages_per_s=20", "rate.burst_s=1"]);
    let mut worker = application.worker("/app/a");
    let mut alice = application.alice();
    for n in 0..30 {
        alice.send(&subscribe(&format!("s{n}"), "/app/a"));
    }
    (0..30).for_each(|_| drop(take_question(&mut worker)));
    application.server.await_metric("publishers_slowed_total", |slowed| slowed > 0);
    // A program that takes part publishes nothing by that.
    let slowed = application.server.metric("publishers_slowed_total");
    let mut other = application.program();
    for n in 0..30 {
        other.send_confirmed(subscribe(&format!("w{n}"), "/app/b"));
    }
    assert_eq!(application.server.metric("publishers_slowed_total"), slowed);
}

fn where_answers_go_is_never_too_long(setup: Setup) {
    let application = Application::new(setup, &["stomp.destination_bytes_max=16", "stomp.id_bytes_max=2000"]);
    let mut worker = application.worker("/app/a");
    let mut alice = application.alice();
    let id = "%/".repeat(1_000);
    alice.send_confirmed(subscribe(&id, "/app/a"));
    let reply_to = take_question(&mut worker);
    worker.send_confirmed(send(&reply_to, "x"));
    expect_answer(&mut alice, &id, "/app/a", "x");
    // What a server says that runs for long: nobody waits for it, and it is read all the same.
    worker.send_confirmed(send("/reply/65535-4294967295-4294967295/4294967295", "x"));
    application.metric_is("replies_dropped_total", 1);
    worker.send(&send(&format!("/reply/{}", "0".repeat(100)), "x"));
    expect_refusal(&mut worker, "bad-destination");
}

fn a_question_that_is_redelivered_may_be_answered_twice(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut first = application.worker("/app/a");
    let mut alice = application.alice();
    alice.send_confirmed(subscribe("s", "/app/a"));
    let question = first.expect("MESSAGE");
    let reply_to = question.get("reply-to").unwrap();
    // It dies between its answer and its ACK.
    first.send_confirmed(send(reply_to, "once"));
    drop(first);
    expect_answer(&mut alice, "s", "/app/a", "once");
    let mut next = application.worker("/app/a");
    let again = next.expect("MESSAGE");
    assert_eq!((again.get("redelivered"), again.get("reply-to")), (Some("true"), Some(reply_to)));
    next.send_confirmed(send(reply_to, "twice"));
    application.metric_is("replies_dropped_total", 1);
    alice.subscribe("t", "/topic/a");
    next.publish("/topic/a", "what comes next");
    assert_eq!(alice.expect_body(), "what comes next");
}

fn an_answer_need_not_be_acknowledged(setup: Setup) {
    let application = Application::new(setup, &[]);
    let mut worker = application.worker("/app/a");
    for ack in ["auto", "client", "client-individual"] {
        let mut alice = application.alice();
        alice.send_confirmed(subscribe("s", "/app/a").header("ack", ack));
        let reply_to = take_question(&mut worker);
        worker.publish(&reply_to, "x");
        let answer = expect_answer(&mut alice, "s", "/app/a", "x");
        // Who says that it acknowledges is believed, as of a topic.
        assert_eq!(answer.get("ack").is_some(), ack != "auto");
        if let Some(id) = answer.get("ack") {
            alice.send_confirmed(Frame::new("ACK").header("id", id));
            alice.send_confirmed(Frame::new("NACK").header("id", id));
        }
        alice.disconnect();
    }
}

fn the_api_may_answer(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new();
    let server = files.server_of(setup, "jwt,users", &configured(folder.path()));
    let api = Api::of(&server);
    let token = files.token("keys", "worker", &["--role", "service"]);
    let mut worker = session(&server, Frame::new("CONNECT").header("passcode", &token));
    worker.send_confirmed(subscribe("w", "/app/a").header("ack", "client-individual"));
    // On all reactors.
    for _ in 0..6 {
        let mut alice = session(&server, connect("alice", "wonder"));
        alice.send_confirmed(subscribe("s", "/app/a"));
        let reply_to = take_question(&mut worker);
        let detail = |state: &str| {
            let id = reply_to.split('/').nth(2).unwrap();
            let found = api.get(&format!("/v1/sessions/{id}")).body;
            let expected = json!([{"id": "s", "destination": "/app/a", "ack": "auto", "state": state}]);
            assert_eq!(found["subscriptions_to"], expected);
        };
        detail("asked");
        let answer = api.post("/v1/publish", &json!({"destination": reply_to, "body": "from elsewhere"}));
        assert_eq!(answer.status, 200, "{answer:?}");
        expect_answer(&mut alice, "s", "/app/a", "from elsewhere");
        detail("answered");
    }
    let publish = |headers| {
        let message = json!({"destination": "/app/a", "body": "x", "headers": headers});
        api.post("/v1/publish", &message)
    };
    assert_eq!(publish(json!({"reply-to": "/topic/a"})).name(), "reserved-header");
    assert_eq!(publish(json!({"x": "y"})).status, 200);
}

fn where_nobody_proves_anything_everybody_is_a_program(setup: Setup) {
    let server = setup.server();
    let (mut first, mut other) = (Client::connect(&server), Client::connect(&server));
    first.subscribe_ack("w", "/app/a", "client-individual");
    other.publish("/app/a", "x");
    assert_eq!(first.expect("MESSAGE").get("reply-to"), None);
    // Nobody has asked: there is nothing to answer.
    other.send_confirmed(send("/reply/0-0-0/1", "x"));
    server.await_metric("replies_dropped_total", |dropped| dropped == 1);
}
