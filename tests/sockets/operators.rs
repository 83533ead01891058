//! What operators do through the HTTP API: look, disconnect, ban, drain, reload; and the same by `tcbchat ctl`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::with_api;
use crate::support::api::{Api, TOKEN};
use crate::support::{Client, Frame, Server};
use crate::{Setup, expect_refusal, members};

on_one_and_three_reactors!(
    sessions_are_listed_page_by_page_and_counted,
    sessions_are_found_by_what_is_known_of_them,
    a_session_is_shown_in_detail,
    a_session_is_ended_by_its_id,
    sessions_are_ended_by_login_and_by_address,
    rooms_and_queues_are_listed,
    a_login_is_banned_over_a_restart,
    an_address_is_banned_at_the_upgrade,
    a_ban_ends_by_itself,
    a_reload_and_a_drain_are_ordered,
    logins_that_are_proved_are_shown_and_banned,
    ctl_does_the_same,
);

/// All entries of a list, by pages of this length, each of which has the same count.
fn all(api: &Api, path: &str, name: &str, limit: usize) -> Vec<Value> {
    let (mut entries, mut after) = (Vec::new(), String::new());
    let sign = if path.contains('?') { '&' } else { '?' };
    loop {
        let page = api.get(&format!("{path}{sign}limit={limit}&after={after}"));
        assert_eq!(page.status, 200, "{page:?}");
        let here = page.body[name].as_array().unwrap().clone();
        assert!(here.len() <= limit);
        entries.extend(here);
        let count = page.body["count"].as_u64().unwrap();
        match page.body["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => {
                assert_eq!(count, entries.len() as u64);
                return entries;
            }
        }
    }
}

fn count(api: &Api, path: &str) -> u64 {
    let sign = if path.contains('?') { '&' } else { '?' };
    let answer = api.get(&format!("{path}{sign}limit=0"));
    answer.body["count"].as_u64().unwrap_or_else(|| panic!("{path}: {answer:?}"))
}

/// Waits until a list has so many entries.
fn await_count(api: &Api, path: &str, expected: u64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(api, path) != expected {
        assert!(Instant::now() < deadline, "{path} has {}", count(api, path));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ids(entries: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// A session of this login, with its id.
fn login(server: &Server, login: &str) -> (Client, String) {
    let mut client = Client::open(server);
    let connect = Frame::new("CONNECT").header("accept-version", "1.2").header("login", login);
    let connected = client.start_session(connect);
    let id = connected.get("session").unwrap().to_owned();
    (client, id)
}

fn sessions_are_listed_page_by_page_and_counted(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "page_entries_max = 50\n");
    let sessions: Vec<(Client, String)> = (0..40).map(|_| login(&server, "ann")).collect();
    let mut expected: Vec<String> = sessions.iter().map(|(_, id)| id.clone()).collect();
    expected.sort_unstable();
    for limit in [1, 7, 40, 50] {
        assert_eq!(ids(&all(&api, "/v1/sessions", "sessions", limit)), expected, "by {limit}");
    }
    let only = api.get("/v1/sessions?limit=0");
    assert_eq!(only.body, json!({ "sessions": [], "count": 40, "next": null }));
    let too_many = api.get("/v1/sessions?limit=51");
    assert_eq!((too_many.status, too_many.name()), (422, "page-too-long"));
    server.await_metric("api_refused_total{reason=\"page\"}", |count| count == 1);
    for bad in [
        "limit=-1",
        "limit=a",
        "after=x",
        "state=x",
        "address=x",
        "destination=x",
        "more=1",
        "login=a&login=b",
    ] {
        assert_eq!(api.get(&format!("/v1/sessions?{bad}")).status, 422, "{bad}");
    }
    // Those who are there all the time are met once, whoever else comes and goes.
    let page = api.get("/v1/sessions?limit=20");
    let mut sessions = sessions;
    let gone: Vec<String> = sessions.drain(..10).map(|(_, id)| id).collect();
    await_count(&api, "/v1/sessions", 30);
    let _others: Vec<(Client, String)> = (0..15).map(|_| login(&server, "bob")).collect();
    let mut met = ids(page.body["sessions"].as_array().unwrap());
    let mut after = page.body["next"].as_str().map(str::to_owned);
    while let Some(next) = after {
        let page = api.get(&format!("/v1/sessions?limit=20&after={next}"));
        met.extend(ids(page.body["sessions"].as_array().unwrap()));
        after = page.body["next"].as_str().map(str::to_owned);
    }
    let stayed: Vec<&String> = expected.iter().filter(|id| !gone.contains(id)).collect();
    for id in stayed {
        assert_eq!(met.iter().filter(|other| *other == id).count(), 1, "{id}");
    }
    server.stop();
}

fn sessions_are_found_by_what_is_known_of_them(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let (mut ann, ann_id) = login(&server, "ann");
    let (mut bob, _) = login(&server, "b&b=%/é");
    ann.subscribe("1", "/topic/a");
    ann.subscribe("2", "/queue/q");
    bob.subscribe("1", "/topic/a");
    bob.subscribe("2", "/user/queue/mail");
    let _open = Client::open(&server);
    for (query, expected) in [
        ("", 2),
        ("state=any", 3),
        ("state=connecting", 1),
        ("login=ann", 1),
        ("login=Ann", 0),
        ("login=b%26b%3D%25%2F%C3%A9", 1),
        ("destination=/topic/a", 2),
        ("destination=/queue/q", 1),
        ("destination=/topic/b", 0),
        ("destination=/user/b%26b%3D%2525%252F%C3%A9/queue/mail", 1),
        ("login=ann&destination=/topic/a", 1),
        ("login=ann&destination=/user/ann/queue/mail", 0),
        ("address=127.0.0.1", 2),
        ("address=127.0.0.2", 0),
        ("address=::ffff:127.0.0.1", 2),
        ("address=2001:db8::/64", 0),
        ("login=&address=&destination=", 2),
    ] {
        assert_eq!(count(&api, &format!("/v1/sessions?{query}")), expected, "{query}");
    }
    let entry = &all(&api, "/v1/sessions?login=ann", "sessions", 10)[0];
    let expected = json!({
        "id": ann_id, "login": "ann", "address": "127.0.0.1", "state": "connected", "subscriptions": 2,
        "unsent_bytes": 0,
    });
    assert_eq!(*entry, expected);
    let peer = ann.socket().get_ref().local_addr().unwrap();
    assert_eq!(ids(&all(&api, &format!("/v1/sessions?address={peer}"), "sessions", 10)), [ann_id]);
    server.stop();
}

fn a_session_is_shown_in_detail(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let mut client = Client::open(&server);
    let connect = Frame::new("CONNECT").header("accept-version", "1.2").header("heart-beat", "30000,20000");
    let connected = client.start_session(connect.header("login", "ann"));
    let id = connected.get("session").unwrap().to_owned();
    client.subscribe("s1", "/topic/a");
    client.subscribe_ack("s2", "/queue/q", "client");
    let answer = api.get(&format!("/v1/sessions/{id}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let detail = &answer.body;
    assert_eq!(
        (&detail["id"], &detail["login"], &detail["state"]),
        (&id.as_str().into(), &"ann".into(), &"connected".into())
    );
    let (local, peer) = (server.address(), client.socket().get_ref().local_addr().unwrap());
    assert_eq!(detail["connection"]["local"], local.to_string());
    assert_eq!(detail["connection"]["peer"], peer.to_string());
    assert_eq!(
        (&detail["connection"]["phase"], &detail["connection"]["ledger"]),
        (&"stomp".into(), &"established".into())
    );
    assert_eq!(
        (&detail["timers"]["beats_out_ms"], &detail["timers"]["beats_in_ms"]),
        (&20_000.into(), &30_000.into())
    );
    assert!(detail["timers"]["due_in_ms"].as_u64().unwrap() <= 30_000, "{detail}");
    let watched = detail["timers"]["watched_by"].as_array().unwrap();
    assert!(watched.contains(&"stomp_heart_beat".into()), "{detail}");
    assert_eq!(detail["marks"]["answer_bytes"], 0);
    let subscriptions = detail["subscriptions_to"].as_array().unwrap();
    assert!(
        subscriptions
            .contains(&json!({ "id": "s1", "destination": "/topic/a", "ack": "auto", "state": "joined" }))
    );
    assert!(
        subscriptions
            .contains(&json!({ "id": "s2", "destination": "/queue/q", "ack": "client", "state": "joined" }))
    );
    assert!(detail["tcp"]["received_bytes"].as_u64().unwrap() > 100, "{detail}");
    for bad in ["0-0", "9-0-0", "0-999-0", "x", "0-0-4294967296", "99999-0-0"] {
        let answer = api.get(&format!("/v1/sessions/{bad}"));
        assert_eq!((answer.status, answer.name()), (404, "not-found"), "{bad}");
    }
    server.stop();
}

fn a_session_is_ended_by_its_id(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let (mut ann, id) = login(&server, "ann");
    let (mut other, _) = login(&server, "ann");
    let answer = api.post("/v1/disconnect", &json!({ "session": id, "reason": "be kind: \u{e9}" }));
    assert_eq!((answer.status, &answer.body), (200, &json!({ "disconnected": 1 })));
    let (message, code) = expect_refusal(&mut ann, "kicked");
    assert_eq!((message.as_str(), code), ("an operator has ended this session: be kind: \u{e9}", 1008));
    let line = server.await_output("session ended");
    assert!(line.contains("kicked") && line.contains("ann") && line.contains("INFO"), "{line}");
    assert_eq!(server.output().matches("session ended").count(), 1);
    await_count(&api, "/v1/sessions", 1);
    other.publish_confirmed("/topic/a", "still here");
    for body in [json!({ "session": id }), json!({ "session": "60000-1-1" }), json!({ "login": "nobody" })] {
        assert_eq!(api.post("/v1/disconnect", &body).body, json!({ "disconnected": 0 }));
    }
    for bad in [
        json!({}),
        json!({ "login": "a", "session": "0-0-0" }),
        json!({ "session": "x" }),
        json!({ "address": "x" }),
        json!({ "login": "ann", "reason": "x".repeat(256) }),
        json!({ "login": "ann", "reason": "a\nb" }),
        json!({ "login": 1 }),
    ] {
        assert_eq!(api.post("/v1/disconnect", &bad).status, 422, "{bad}");
    }
    server.await_metric("sessions_kicked_total", |count| count == 1);
    server.stop();
}

fn sessions_are_ended_by_login_and_by_address(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let mut ann: Vec<Client> = (0..5).map(|_| login(&server, "ann").0).collect();
    let mut rest = members(&server, 5, "/topic/a");
    assert_eq!(api.post("/v1/disconnect", &json!({ "login": "ann" })).body["disconnected"], 5);
    for client in &mut ann {
        expect_refusal(client, "kicked");
    }
    api.post("/v1/publish", &json!({ "destination": "/topic/a", "body": "still here" }));
    for client in &mut rest {
        assert_eq!(client.expect_body(), "still here");
    }
    assert_eq!(api.post("/v1/disconnect", &json!({ "address": "127.0.0.2" })).body["disconnected"], 0);
    assert_eq!(api.post("/v1/disconnect", &json!({ "address": "127.0.0.1" })).body["disconnected"], 5);
    for client in &mut rest {
        expect_refusal(client, "kicked");
    }
    server.stop();
}

fn rooms_and_queues_are_listed(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let mut client = Client::connect(&server);
    for room in 0..20 {
        client.subscribe(&format!("r{room}"), &format!("/topic/{room}"));
    }
    let mut second = members(&server, 1, "/topic/7").remove(0);
    assert_eq!(api.post("/v1/publish", &json!({ "destination": "/topic/7", "body": "a" })).status, 200);
    second.expect_body();
    client.expect_body();
    for queue in 0..10 {
        for _ in 0..=queue {
            client.publish_confirmed(&format!("/queue/{queue}"), "abc");
        }
    }
    let subscribe = Frame::new("SUBSCRIBE").header("id", "q").header("destination", "/queue/9");
    second.send(&subscribe.header("ack", "client"));
    (0..10).for_each(|_| drop(second.expect_body()));
    for limit in [3, 100] {
        let rooms = all(&api, "/v1/rooms", "rooms", limit);
        let mut names: Vec<&str> = rooms.iter().map(|room| room["destination"].as_str().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 20);
        let seven = rooms.iter().find(|room| room["destination"] == "/topic/7").unwrap();
        assert_eq!(
            (&seven["members"], &seven["sequence"], &seven["is_full"]),
            (&2.into(), &1.into(), &false.into())
        );
        let queues = all(&api, "/v1/queues", "queues", limit);
        assert_eq!(queues.len(), 10);
        for queue in &queues {
            let number: u64 = queue["destination"].as_str().unwrap()[7..].parse().unwrap();
            assert_eq!(queue["messages"], number + 1, "{queue}");
            assert_eq!(queue["consumers"], u64::from(number == 9));
            assert_eq!(queue["waiting"], if number == 9 { 0 } else { number + 1 });
        }
        let some = all(&api, "/v1/rooms?prefix=/topic/1", "rooms", limit);
        assert_eq!(some.len(), 11);
        assert_eq!(all(&api, "/v1/queues?prefix=/queue/1", "queues", limit).len(), 1);
        assert_eq!(all(&api, "/v1/queues?prefix=/topic", "queues", limit).len(), 0);
    }
    assert_eq!((count(&api, "/v1/rooms"), count(&api, "/v1/queues")), (20, 10));
    server.stop();
}

fn banned(server: &Server, name: &str) -> String {
    let mut client = Client::open(server);
    client.send(&Frame::new("CONNECT").header("accept-version", "1.2").header("login", name));
    expect_refusal(&mut client, "banned").0
}

fn a_login_is_banned_over_a_restart(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bans.json");
    let more = format!("bans_file = \"{}\"\nbans_max = 2\n", file.display());
    let (server, api, _own) = with_api(setup, &more);
    let mut sessions: Vec<Client> = (0..4).map(|_| login(&server, "mallory").0).collect();
    let (mut ann, _) = login(&server, "ann");
    let answer = api.post("/v1/bans", &json!({ "login": "mallory", "seconds": 3600, "reason": "spam" }));
    assert_eq!((answer.status, &answer.body["disconnected"]), (200, &4.into()), "{answer:?}");
    let ban = answer.body["ban"].clone();
    assert_eq!(ban["until_s"].as_u64().unwrap() - ban["since_s"].as_u64().unwrap(), 3600);
    for client in &mut sessions {
        let (message, code) = expect_refusal(client, "banned");
        assert_eq!((message.as_str(), code), ("this login or address is banned: spam", 1008));
    }
    assert_eq!(banned(&server, "mallory"), "this login or address is banned: spam");
    ann.publish_confirmed("/topic/a", "still here");
    assert_eq!(
        api.post("/v1/bans", &json!({ "address": "2001:db8::1" })).body["ban"]["address"],
        "2001:db8::/64"
    );
    let answer = api.post("/v1/bans", &json!({ "login": "third" }));
    assert_eq!((answer.status, answer.name()), (503, "too-many-bans"));
    // The same again is no more.
    assert_eq!(api.post("/v1/bans", &json!({ "login": "mallory", "reason": "more spam" })).status, 200);
    assert_eq!(all(&api, "/v1/bans", "bans", 1).len(), 2);
    server.stop();

    let (server, api, _own) = with_api(setup, &more);
    assert_eq!(banned(&server, "mallory"), "this login or address is banned: more spam");
    assert_eq!(all(&api, "/v1/bans", "bans", 10).len(), 2);
    assert_eq!(api.delete("/v1/bans?login=mallory").body, json!({ "removed": true }));
    drop(login(&server, "mallory"));
    let answer = api.delete("/v1/bans?login=mallory");
    assert_eq!((answer.status, answer.name()), (404, "not-found"));
    let answer = api.ask("DELETE", "/v1/bans", &[], r#"{"address":"2001:db8::77"}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    for bad in [
        json!({}),
        json!({ "login": "a", "address": "::1" }),
        json!({ "login": "" }),
        json!({ "address": "10.0.0.0/8" }),
        json!({ "login": "a", "seconds": 0 }),
        json!({ "login": "a", "seconds": -1 }),
        json!({ "login": "a", "seconds": 1e300 }),
    ] {
        assert_eq!(api.post("/v1/bans", &bad).status, 422, "{bad}");
    }
    server.stop();
    std::fs::write(&file, "{").unwrap();
    let token = _own.path().join("token");
    let arguments = [
        "--set".to_owned(),
        "api.listen=127.0.0.1:0".into(),
        "--set".into(),
        format!("api.token_file={}", token.display()),
        "--set".into(),
        format!("api.bans_file={}", file.display()),
    ];
    let refused = Server::refused(&arguments.each_ref().map(String::as_str));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

fn an_address_is_banned_at_the_upgrade(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    let mut clients = members(&server, 3, "/topic/a");
    let answer = api.post("/v1/bans", &json!({ "address": "127.0.0.1", "reason": "noise" }));
    assert_eq!((answer.status, &answer.body["disconnected"]), (200, &3.into()), "{answer:?}");
    for client in &mut clients {
        expect_refusal(client, "banned");
    }
    let request = crate::http::handshake_with("");
    let answer = server.exchange(&request);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("The address is banned.") && answer.contains("noise"), "{answer}");
    server.await_metric("refused_banned_total", |count| count == 1);
    assert_eq!(api.delete("/v1/bans?address=127.0.0.1").status, 200);
    Client::connect(&server).disconnect();
    server.stop();
}

fn a_ban_ends_by_itself(setup: Setup) {
    let (server, api, _folder) = with_api(setup, "");
    assert_eq!(api.post("/v1/bans", &json!({ "login": "ann", "seconds": 2 })).status, 200);
    banned(&server, "ann");
    await_count(&api, "/v1/bans", 0);
    // Each reactor has the new list with its next mail.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut client = Client::open(&server);
        client.send(&Frame::new("CONNECT").header("accept-version", "1.2").header("login", "ann"));
        if client.next().command == "CONNECTED" {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    server.stop();
}

fn a_reload_and_a_drain_are_ordered(setup: Setup) {
    let (mut server, api, folder) = with_api(setup, "");
    let mut clients = members(&server, 3, "/topic/a");
    let file = folder.path().join("tcbchat.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}[stomp]\nbody_bytes_max = 10\n")).unwrap();
    assert_eq!(api.post("/v1/reload", &json!({})).status, 202);
    server.await_output("the configuration was read");
    // The API's messages have the new bounds, too.
    let answer = api.post("/v1/publish", &json!({ "destination": "/topic/a", "body": "x".repeat(11) }));
    assert_eq!(answer.name(), "body-too-large");
    let answer = api.ask("POST", "/v1/drain", &[], "");
    assert_eq!((answer.status, &answer.body), (202, &json!({ "ordered": "drain" })));
    for client in &mut clients {
        assert_eq!(client.expect_close().0, 1001);
    }
    drop(clients);
    assert!(server.wait().success());
}

fn logins_that_are_proved_are_shown_and_banned(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let made = Server::run_saying(&["passwd", users.to_str().unwrap(), "alice", "--role", "staff"], "wonder");
    assert!(made.status.success(), "{made:?}");
    let more = format!("[auth]\nmode = \"users\"\nusers_file = \"{}\"\n", users.display());
    let (server, api, _folder) = with_api(setup, &more);
    let connect = || {
        let frame = Frame::new("CONNECT").header("accept-version", "1.2");
        frame.header("login", "alice").header("passcode", "wonder")
    };
    let mut client = Client::open(&server);
    let id = client.start_session(connect()).get("session").unwrap().to_owned();
    client.subscribe("s", "/topic/a");
    let detail = api.get(&format!("/v1/sessions/{id}")).body;
    assert_eq!((&detail["login"], &detail["roles"]), (&"alice".into(), &json!(["staff"])));
    // The server says when it was published, and not by whom: that would be a login.
    assert_eq!(api.post("/v1/publish", &json!({ "destination": "/topic/a", "body": "b" })).status, 200);
    let frame = client.expect("MESSAGE");
    assert!(frame.get("timestamp").is_some() && frame.get("sender").is_none(), "{frame:?}");
    let answer = api.post("/v1/bans", &json!({ "login": "alice", "reason": "spam" }));
    assert_eq!(answer.body["disconnected"], 1);
    expect_refusal(&mut client, "banned");
    let mut client = Client::open(&server);
    client.send(&connect());
    expect_refusal(&mut client, "banned");
    let mut client = Client::open(&server);
    client.send(
        &Frame::new("CONNECT")
            .header("accept-version", "1.2")
            .header("login", "alice")
            .header("passcode", "x"),
    );
    // Who cannot prove to be alice is not told that she is banned.
    expect_refusal(&mut client, "not-authenticated");
    server.stop();
}

fn ctl_does_the_same(setup: Setup) {
    let (server, api, folder) = with_api(setup, "");
    let file = folder.path().join("token");
    let ctl = |arguments: &[&str]| {
        let own = ["ctl", "--url", api.base(), "--token-file", file.to_str().unwrap()];
        let output = Server::run(&[&own, arguments].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (mut ann, id) = login(&server, "ann");
    ann.subscribe("1", "/topic/a");
    let (code, out, _) = ctl(&["publish", "/topic/a", "from a shell", "--header", "x=y", "--key", "k"]);
    assert_eq!((code, out.as_str()), (0, "published\t1\nrefused\t0\n"));
    let frame = ann.expect("MESSAGE");
    assert_eq!((frame.text(), frame.get("x")), ("from a shell", Some("y")));
    assert_eq!(ctl(&["publish", "/topic/a", "from a shell", "--header", "x=y", "--key", "k"]).0, 0);
    let (code, out, _) = ctl(&["sessions"]);
    assert_eq!(code, 0);
    assert!(
        out.contains(&format!("{id}\tann\t127.0.0.1\tconnected\t1\t0\n")) && out.ends_with("1 of 1\n"),
        "{out}"
    );
    let (code, out, _) = ctl(&["--json", "sessions", "--login", "ann", "--all"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["count"], &json["sessions"][0]["id"]), (0, &1.into(), &id.as_str().into()));
    let (code, out, _) = ctl(&["session", &id]);
    assert!(code == 0 && out.contains("connection.phase\tstomp\n"), "{out}");
    assert!(ctl(&["rooms"]).1.contains("/topic/a\t1\t1\t0\n"));
    let (code, _, said) = ctl(&["session", "0-0-99"]);
    assert_eq!((code, said.as_str()), (1, "tcbchat: 404 not-found: there is no session of this id\n"));
    let (code, out, _) = ctl(&["--json", "publish", "/exchange/x", ""]);
    assert_eq!((code, &serde_json::from_str::<Value>(&out).unwrap()["name"]), (1, &"bad-destination".into()));
    assert_eq!(ctl(&["ban", "--login", "ann", "--seconds", "60", "--reason", "spam"]).0, 0);
    expect_refusal(&mut ann, "banned");
    assert!(ctl(&["bans"]).1.contains("ann\t-\t"));
    assert_eq!(ctl(&["unban", "--login", "ann"]).0, 0);
    let (mut ann, id) = login(&server, "ann");
    let (code, out, _) = ctl(&["disconnect", "--session", &id, "--reason", "go"]);
    assert_eq!((code, out.as_str()), (0, "disconnected\t1\n"));
    expect_refusal(&mut ann, "kicked");
    for usage in [&["disconnect"][..], &["ban", "--login", "a", "--address", "b"], &["no-such-verb"], &[]] {
        assert_eq!(ctl(usage).0, 2, "{usage:?}");
    }
    let without = Server::run(&["ctl", "--url", api.base(), "rooms"]);
    assert_eq!(without.status.code(), Some(2));
    let absent = Server::run(&["ctl", "--url", api.base(), "--token-file", "/no/such/file", "rooms"]);
    assert_eq!(absent.status.code(), Some(2));
    std::fs::write(&file, "another-token-0123456789").unwrap();
    assert_eq!(ctl(&["rooms"]).0, 1);
    std::fs::write(&file, TOKEN).unwrap();
    let nobody =
        Server::run(&["ctl", "--url", "http://127.0.0.1:9", "--token-file", file.to_str().unwrap(), "rooms"]);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
    assert_eq!(ctl(&["reload"]).0, 0);
    server.await_output("the configuration was read");
    assert_eq!(ctl(&["drain"]).0, 0);
    let mut server = server;
    assert!(server.wait().success());
}
