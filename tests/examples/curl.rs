//! The HTTP API from a shell.

use std::process::{ExitStatus, Output};

use serde_json::Value;

use super::support::api::{self, Api};
use super::support::{Client, Frame, Server};
use super::{Example, peer};

struct Place {
    example: Example,
    server: Server,
    api: String,
}

impl Place {
    fn new() -> Option<Place> {
        for tool in ["curl", "jq", "openssl"] {
            peer::program(tool)?;
        }
        let example = Example::copy("curl");
        std::fs::write(example.path("api.toml"), api::configured(example.0.path())).unwrap();
        let server = Server::start(&["--config", &example.path("api.toml")]);
        let api = Api::of(&server).base().to_owned();
        Some(Place { example, server, api })
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (ExitStatus, String, String) {
        let mut shell = self.example.program("chat-api.sh").expect("there is a shell");
        shell.env("CHAT_API", &self.api).env("API_TOKEN_FILE", self.example.path("token"));
        let Output { status, stdout, stderr } =
            shell.args(arguments).envs(environment.iter().copied()).output().unwrap();
        (status, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// What it prints when it succeeds: one value a line.
    fn values(&self, arguments: &[&str]) -> Vec<Value> {
        let (status, stdout, stderr) = self.run(arguments, &[]);
        assert!(status.success(), "{arguments:?}: {stdout}{stderr}");
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn fails(&self, code: i32, part: &str, arguments: &[&str], environment: &[(&str, &str)]) {
        let (status, stdout, stderr) = self.run(arguments, environment);
        assert_eq!((status.code(), &*stdout), (Some(code), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
}

/// The reason of an ERROR.
fn error(client: &mut Client) -> String {
    client.expect("ERROR").get("message").expect("a sentence").to_owned()
}

#[test]
fn a_backend_publishes_once() {
    let Some(place) = Place::new() else { return };
    let mut reader = Client::connect(&place.server);
    reader.subscribe("1", "/topic/tea");
    let text = "\"quoted\" \\ höllo 😀\nand a second line";
    let first = place.values(&["publish", "/topic/tea", text, "key-1"]);
    assert_eq!(first[0]["published"], 1);
    assert_eq!(place.values(&["publish", "/topic/tea", text, "key-1"]), first, "the first one's answer");
    place.values(&["publish", "/topic/tea", "without a key"]);
    place.values(&["publish", "/topic/tea", "without a key"]);
    let heard: Vec<String> = (0..3).map(|_| reader.expect_body()).collect();
    assert_eq!(heard, [text, "without a key", "without a key"]);
    place.fails(1, "idempotency-key-reused", &["publish", "/topic/tea", "another", "key-1"], &[]);
}

#[test]
fn an_operator_looks() {
    let Some(place) = Place::new() else { return };
    let mut ann = Client::login(&place.server, "ann&limit=0");
    ann.subscribe("1", "/topic/tea");
    let others: Vec<Client> = (0..3).map(|_| Client::login(&place.server, "bob")).collect();
    place.values(&["publish", "/queue/jobs", "to do"]);

    let logins = |list: &[Value]| -> Vec<String> {
        let mut logins: Vec<String> =
            list.iter().map(|entry| entry["login"].as_str().unwrap().into()).collect();
        logins.sort();
        logins
    };
    // Pages of two entries, so that there are several.
    let (status, stdout, stderr) = place.run(&["sessions"], &[("PAGE", "2")]);
    assert!(status.success(), "{stderr}");
    let list: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(logins(&list), ["ann&limit=0", "bob", "bob", "bob"]);
    let found = place.values(&["sessions", "ann&limit=0"]);
    assert_eq!(logins(&found), ["ann&limit=0"]);
    let one = place.values(&["session", found[0]["id"].as_str().unwrap()]);
    assert_eq!(one[0]["subscriptions"], 1, "{one:?}");
    let rooms = place.values(&["rooms"]);
    assert_eq!((&rooms[0]["destination"], &rooms[0]["members"]), (&"/topic/tea".into(), &1.into()));
    let queues = place.values(&["queues"]);
    assert_eq!((&queues[0]["destination"], &queues[0]["messages"]), (&"/queue/jobs".into(), &1.into()));
    drop(others);
}

#[test]
fn an_operator_acts() {
    let Some(place) = Place::new() else { return };
    let mut ann = Client::login(&place.server, "ann");
    assert_eq!(place.values(&["disconnect", "ann", "\"spam\""])[0]["disconnected"], 1);
    assert_eq!(error(&mut ann), "an operator has ended this session: \"spam\"");

    let mut ann = Client::login(&place.server, "ann");
    place.values(&["ban", "ann", "3600", "spam again"]);
    assert_eq!(error(&mut ann), "this login or address is banned: spam again");
    let mut ann = Client::open(&place.server);
    ann.send(&Frame::new("CONNECT").header("accept-version", "1.2").header("login", "ann"));
    assert!(error(&mut ann).ends_with("spam again"));
    assert_eq!(place.values(&["bans"])[0]["login"], "ann");

    place.values(&["unban", "ann"]);
    assert_eq!(place.values(&["bans"]), [Value::Null; 0]);
    drop(Client::login(&place.server, "ann"));
    place.fails(1, "not-found", &["unban", "ann"], &[]);
}

#[test]
fn what_goes_wrong_has_an_exit_code() {
    let Some(place) = Place::new() else { return };
    place.fails(2, "usage:", &[], &[]);
    place.fails(2, "usage:", &["publish", "/topic/tea"], &[]);
    place.fails(2, "usage:", &["ban", "ann", "soon", "spam"], &[]);
    place.fails(1, "bad-destination", &["publish", "/nowhere", "hello"], &[]);
    place.fails(1, "not-found", &["session", "nobody"], &[]);
    std::fs::write(place.example.path("wrong"), "guess\n").unwrap();
    for command in [&["sessions"][..], &["publish", "/topic/tea", "hello"]] {
        place.fails(1, "not-authenticated", command, &[("API_TOKEN_FILE", &place.example.path("wrong"))]);
        place.fails(2, "none", command, &[("API_TOKEN_FILE", &place.example.path("none"))]);
        // The chat's own port.
        place.fails(1, "this is no API", command, &[("CHAT_API", &place.server.http_url(""))]);
    }
    let api = place.api.clone();
    place.server.stop();
    let gone = Place { api, ..Place::new().expect("it was there") };
    gone.fails(3, "curl:", &["sessions"], &[]);
    gone.fails(3, "curl:", &["publish", "/topic/tea", "hello"], &[]);
}
