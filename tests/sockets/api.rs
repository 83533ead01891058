//! The HTTP API: publishing, the token, and the bounds of requests.

use serde_json::{Value, json};

use crate::support::api::{Answer, Api, TOKEN, configured};
use crate::support::{Client, Frame, Server};
use crate::{Setup, members};

on_one_and_three_reactors!(
    without_the_right_token_nothing_is_told,
    what_is_published_arrives,
    a_queue_keeps_what_is_published,
    a_user_destination_is_everybody_of_that_login,
    a_batch_keeps_its_order_and_each_message_has_its_outcome,
    a_key_makes_repeated_requests_one,
    requests_have_bounds,
    a_message_is_judged_as_a_sessions,
    a_new_token_is_read_by_sighup,
);

/// A server with an API, and more configuration.
pub fn with_api(setup: Setup, more: &str) -> (Server, Api, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tcbchat.toml");
    std::fs::write(&file, format!("{}{more}", configured(folder.path()))).unwrap();
    let reactors = setup.reactors.to_string();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--reactors", &reactors]);
    let api = Api::of(&server);
    (server, api, folder)
}

fn message(destination: &str, body: &str) -> Value {
    json!({ "destination": destination, "body": body })
}

#[track_caller]
fn is_problem(answer: &Answer, status: u16, name: &str) {
    assert_eq!((answer.status, answer.name()), (status, name), "{answer:?}");
    assert_eq!(answer.content_type, "application/problem+json");
    assert_eq!(answer.body["status"], status);
}

fn without_the_right_token_nothing_is_told(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let expected = api.with_token("").get("/v1/rooms");
    is_problem(&expected, 401, "not-authenticated");
    let nearly = &TOKEN[..TOKEN.len() - 1];
    for token in ["", "wrong-token-of-another-length", nearly, &format!("{TOKEN}x"), &TOKEN.to_uppercase()] {
        let api = api.with_token(token);
        for path in ["/", "/v1/rooms", "/v1/sessions", "/v1/openapi.json", "/v1/nothing"] {
            assert_eq!(api.get(path), expected, "{token:?} {path}");
        }
        assert_eq!(api.post("/v1/publish", &message("/topic/a", "b")), expected);
        assert_eq!(api.ask("BREW", "/v1/publish", &[], &"x".repeat(1_000)), expected);
    }
    for header in [
        format!("Basic {TOKEN}"),
        TOKEN.to_owned(),
        format!("Bearer  {TOKEN}"),
        format!("Bearer {TOKEN}, {TOKEN}"),
    ] {
        let answer = api.with_token("").ask("GET", "/v1/rooms", &[("Authorization", &header)], "");
        assert_eq!(answer, expected, "{header:?}");
    }
    let answer =
        api.with_token("").ask("GET", "/v1/rooms", &[("authorization", &format!("bearer {TOKEN}"))], "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(server.await_metric("api_refused_total{reason=\"token\"}", |count| count > 30) > 30);
    is_problem(&api.get("/v1/nothing"), 404, "not-found");
    is_problem(&api.get("/v1/publish"), 405, "method-not-allowed");
    server.stop();
}

fn what_is_published_arrives(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let mut clients = members(&server, 6, "/topic/news");
    let said = json!({
        "destination": "/topic/news", "body": "héllo\u{0}", "headers": { "content-type": "text/plain", "a:b": "c\nd" },
    });
    let answer = api.post("/v1/publish", &said);
    assert_eq!((answer.status, &answer.body["published"]), (200, &1.into()), "{answer:?}");
    assert_eq!(answer.content_type, "application/json");
    for client in &mut clients {
        let frame = client.expect("MESSAGE");
        assert_eq!((frame.get("destination"), frame.text()), (Some("/topic/news"), "héllo\u{0}"));
        assert_eq!((frame.get("content-type"), frame.get("a:b")), (Some("text/plain"), Some("c\nd")));
        assert_eq!(frame.get("sender"), None);
    }
    // Nobody is there: it has no place, and that is no fault.
    assert_eq!(api.post("/v1/publish", &message("/topic/empty", "")).status, 200);
    server.await_metric("api_messages_published_total", |count| count == 2);
    server.await_metric("api_requests_total{status=\"2xx\"}", |count| count == 2);
    server.stop();
}

/// Subscribes to a queue that has messages already, which may come before a receipt.
fn consume(client: &mut Client, queue: &str) {
    client.send(&Frame::new("SUBSCRIBE").header("id", "w").header("destination", queue));
}

/// Publishes to a queue until it is full. Returns how many messages it has.
fn fill(api: &Api, queue: &str) -> u32 {
    for number in 0..100 {
        let answer = api.post("/v1/publish", &message(queue, &number.to_string()));
        if answer.status != 200 {
            is_problem(&answer, 503, "queue-full");
            return number;
        }
    }
    panic!("it takes everything");
}

fn a_queue_keeps_what_is_published(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "[rooms]\nqueue_messages_max = 5\n");
    let taken = fill(&api, "/queue/jobs");
    // Past three quarters the API, which is one holder, has no more than is free.
    assert!((3..=5).contains(&taken), "{taken}");
    let mut worker = Client::connect(&server);
    consume(&mut worker, "/queue/jobs");
    for number in 0..taken {
        assert_eq!(worker.expect_body(), number.to_string());
    }
    server.stop();
}

fn a_user_destination_is_everybody_of_that_login(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let mut sessions: Vec<Client> = (0..4).map(|_| Client::login(&server, "ann/x")).collect();
    let mut other = Client::login(&server, "bob");
    for client in sessions.iter_mut().chain([&mut other]) {
        client.subscribe("m", "/user/queue/mail");
    }
    assert_eq!(api.post("/v1/publish", &message("/user/ann%2Fx/queue/mail", "hi")).status, 200);
    for client in &mut sessions {
        let frame = client.expect("MESSAGE");
        assert_eq!((frame.get("destination"), frame.text()), (Some("/user/queue/mail"), "hi"));
    }
    assert_eq!(api.post("/v1/publish", &message("/user/bob/queue/mail", "you")).status, 200);
    assert_eq!(other.expect_body(), "you");
    server.stop();
}

fn a_batch_keeps_its_order_and_each_message_has_its_outcome(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let rooms = ["/topic/a", "/topic/b", "/topic/c"];
    let mut clients: Vec<Client> = rooms.iter().map(|room| members(&server, 1, room).remove(0)).collect();
    let mut messages: Vec<Value> =
        (0..900).map(|number| message(rooms[number % 3], &number.to_string())).collect();
    messages[450] = message("/nowhere/a", "wrong");
    let answer = api.post("/v1/publish/batch", &json!({ "messages": messages }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((&answer.body["published"], &answer.body["refused"]), (&899.into(), &1.into()));
    let results = answer.body["results"].as_array().unwrap();
    assert_eq!(results.len(), 900);
    assert_eq!(results[0], json!({ "status": "published" }));
    assert_eq!(
        (&results[450]["status"], &results[450]["name"]),
        (&"refused".into(), &"bad-destination".into())
    );
    for (at, client) in clients.iter_mut().enumerate() {
        for number in (at..900).step_by(3).filter(|number| *number != 450) {
            assert_eq!(client.expect_body(), number.to_string());
        }
    }
    // A list alone is a batch, too.
    let answer = api.post("/v1/publish/batch", &json!([message("/topic/a", "last")]));
    assert_eq!((answer.status, &answer.body["published"]), (200, &1.into()), "{answer:?}");
    assert_eq!(clients[0].expect_body(), "last");
    assert_eq!(api.post("/v1/publish/batch", &json!([])).body["published"], 0);
    server.stop();
}

fn a_key_makes_repeated_requests_one(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "[rooms]\nqueue_messages_max = 3\n");
    let mut client = members(&server, 1, "/topic/a").remove(0);
    let said = message("/topic/a", "once");
    let first = api.post_once("/v1/publish", "k1", &said);
    for _ in 0..5 {
        assert_eq!(api.post_once("/v1/publish", "k1", &said), first);
    }
    is_problem(
        &api.post_once("/v1/publish", "k1", &message("/topic/a", "other")),
        422,
        "idempotency-key-reused",
    );
    is_problem(&api.post_once("/v1/publish/batch", "k1", &json!([said])), 422, "idempotency-key-reused");
    let batch = json!([message("/topic/a", "b1"), message("/topic/a", "b2")]);
    let first = api.post_once("/v1/publish/batch", "k2", &batch);
    assert_eq!(api.post_once("/v1/publish/batch", "k2", &batch), first);
    // Many at once.
    let said = message("/topic/a", "at once");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(api.post_once("/v1/publish", "k3", &said).status, 200));
        }
    });
    assert_eq!(api.post("/v1/publish", &message("/topic/a", "end")).status, 200);
    let bodies = [(); 5].map(|()| client.expect_body());
    assert_eq!(bodies, ["once", "b1", "b2", "at once", "end"]);
    // What was refused has had no effect: its key is free for another try.
    let taken = fill(&api, "/queue/q");
    let said = message("/queue/q", "fourth");
    is_problem(&api.post_once("/v1/publish", "k4", &said), 503, "queue-full");
    let mut worker = Client::connect(&server);
    consume(&mut worker, "/queue/q");
    (0..taken).for_each(|_| drop(worker.expect_body()));
    // It is settled when its bytes have left, which the queue is told.
    server.await_metric("queue_messages", |count| count == 0);
    assert_eq!(api.post_once("/v1/publish", "k4", &said).status, 200);
    assert_eq!(worker.expect_body(), "fourth");
    for bad in [String::new(), "k".repeat(256)] {
        is_problem(&api.post_once("/v1/publish", &bad, &said), 422, "idempotency-key");
    }
    server.stop();
}

fn requests_have_bounds(setup: Setup) {
    let more = "body_bytes_max = 2048\nbatch_messages_max = 3\nidempotency_keys_max = 2\n";
    let (server, api, _folder) = with_api(setup, more);
    let long = message("/topic/a", &"x".repeat(3000));
    is_problem(&api.post("/v1/publish", &long), 413, "body-too-large");
    let batch: Vec<Value> = (0..4).map(|_| message("/topic/a", "")).collect();
    is_problem(&api.post("/v1/publish/batch", &json!(batch)), 422, "batch-too-long");
    for key in ["a", "b", "c"] {
        assert_eq!(api.post_once("/v1/publish", key, &message("/topic/a", key)).status, 200);
    }
    for reason in ["body", "batch", "keys"] {
        server.await_metric(&format!("api_refused_total{{reason=\"{reason}\"}}"), |count| count == 1);
    }
    server.stop();
}

fn a_message_is_judged_as_a_sessions(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    for (body, status, name) in [
        (message("/exchange/a", ""), 422, "bad-destination"),
        (message("/topic/", ""), 422, "bad-destination"),
        (message(&format!("/topic/{}", "x".repeat(300)), ""), 422, "destination-too-long"),
        (message("/topic/a", &"x".repeat(1_200_000)), 422, "body-too-large"),
        (
            json!({ "destination": "/topic/a", "body": "", "headers": { "sender": "ann" } }),
            422,
            "reserved-header",
        ),
        (
            json!({ "destination": "/topic/a", "body": "", "headers": { "message-id": "1" } }),
            422,
            "reserved-header",
        ),
        (json!({ "destination": "/topic/a", "body": 7 }), 422, "invalid"),
        (json!({ "destination": "/topic/a" }), 422, "invalid"),
        (json!({ "destination": "/topic/a", "body": "", "more": 1 }), 422, "invalid"),
        (json!([]), 422, "invalid"),
    ] {
        is_problem(&api.post("/v1/publish", &body), status, name);
    }
    for text in ["", "{", "no", "{\"destination\":\"/topic/a\",\"body\":\"\\ud800\"}"] {
        is_problem(&api.ask("POST", "/v1/publish", &[], text), 400, "malformed");
    }
    server.stop();
}

fn a_new_token_is_read_by_sighup(setup: Setup) {
    let (server, api, folder) = with_api(setup, "");
    let file = folder.path().join("token");
    std::fs::write(&file, "too short").unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.await_output("the token of the API stays as it is");
    assert_eq!(api.get("/v1/rooms").status, 200);
    std::fs::write(&file, "another-token-0123456789").unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.await_output("the configuration was read");
    is_problem(&api.get("/v1/rooms"), 401, "not-authenticated");
    assert_eq!(api.with_token("another-token-0123456789").get("/v1/rooms").status, 200);
    server.stop();
}

#[test]
fn an_api_without_a_token_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let listen = ["--set", "api.listen=127.0.0.1:0"];
    let refused = |arguments: &[&str]| {
        let output = Server::refused(&[&listen, arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&[]).contains("api.token_file is not"));
    let file = folder.path().join("token");
    let named = format!("api.token_file={}", file.display());
    assert!(refused(&["--set", &named]).contains("No such file"));
    std::fs::write(&file, "short").unwrap();
    assert!(refused(&["--set", &named]).contains("16 to 4096"));
}
