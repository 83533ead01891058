//! The chat page in real headless Chromium: windows that chat while their server dies and comes back, and people who
//! prove who they are.
//!
//! The windows are driven by scripts in `tests/clients/`, with the assertions about what they show; the servers are owned
//! here. A script asks for a server's sudden death, its orderly end and its return with the lines `@kill`, `@stop` and
//! `@start` on standard output, for a token with `@token LOGIN LIFE`, and gets a line back when that is done.
//!
//! `SCREENSHOTS=<folder>` keeps pictures of what the windows showed.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use support::{Server, peer};

/// A browser's start, some dozen steps and some reconnections on a loaded machine.
const TIME_MAX: Duration = Duration::from_secs(180);

/// What tokens are signed and verified with.
const SECRET: &str = r#"{"keys":[{"kty":"oct","kid":"k","alg":"HS256","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}]}"#;

/// Who may connect, and what he may do then.
const RULES: &str = r#"
[auth]
mode = ["jwt", "users"]

[rate]
session_messages_per_s = 5
burst_s = 1

[[rules]]
who = "role:staff"
may = ["send", "subscribe"]
where = "/topic/**"

[[rules]]
who = "anyone"
deny = ["send", "subscribe"]
where = "/topic/staff"

[[rules]]
who = "anyone"
deny = "send"
where = "/topic/news"

[[rules]]
who = "anyone"
may = ["send", "subscribe"]
where = "/topic/**"
"#;

/// The page's own modules under Node, with a WebSocket and a clock of the test's making.
#[test]
fn the_pages_modules() {
    for script in ["page.mjs", "author.mjs"] {
        let Some(mut node) = peer::node(script, &["@stomp/stompjs"]) else { return };
        peer::run(&mut node, TIME_MAX);
    }
}

#[test]
fn two_windows_chat_and_survive_a_restart_of_the_server() {
    let Some(script) = script("browser.mjs") else { return };
    Keeper::new(&["--reactors", "2"]).drive(script);
}

#[test]
fn people_prove_who_they_are_and_see_who_others_are() {
    let Some(mut script) = script("sign_in.mjs") else { return };
    let files = tempfile::tempdir().expect("a folder for users and keys");
    let path = |name: &str| files.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (config, users, keys) = (path("tcbchat.toml"), path("users"), path("keys"));
    std::fs::write(&config, RULES).expect("it can be written");
    std::fs::write(&keys, SECRET).expect("it can be written");
    for (login, password, role) in [("alice", "wonder land:1", "staff"), ("bob", "builder", "guest")] {
        let output = Server::run_saying(&["passwd", &users, login, "--role", role], password);
        assert!(output.status.success(), "{output:?}");
    }
    let (users, key_file) = (format!("auth.users_file={users}"), format!("auth.keys_file={keys}"));
    let mixed = Server::start(&["--set", "auth.mode=users,open", "--set", &users]);
    script.env("TCBCHAT_MIXED", mixed.http_url("/"));
    let cookie = ["--set", "auth.mode=jwt", "--set", &key_file, "--set", "auth.token_cookie=chat"];
    let cookie = Server::start(&cookie);
    script.env("TCBCHAT_COOKIE", cookie.http_url("/"));
    let arguments = ["--reactors", "2", "--config", &config, "--set", &users, "--set", &key_file];
    // Nobody listens where its application should be.
    let down = ["--set", "auth.mode=http", "--set", "auth.http_url=http://127.0.0.1:9/"];
    let down = Server::start(&down);
    script.env("TCBCHAT_DOWN", down.http_url("/"));
    Keeper { key: Some(keys), ..Keeper::new(&arguments) }.drive(script);
}

/// A script that drives windows, if all that it needs is there.
fn script(name: &str) -> Option<Command> {
    let chromium = peer::chromium()?;
    let mut node = peer::node(name, &["axe-core", "playwright-core", "ws"])?;
    node.env("CHROMIUM", chromium);
    Some(node)
}

/// Does what the script asks for, to the server and for it.
struct Keeper {
    arguments: Vec<String>,
    listen: SocketAddr,
    server: Option<Server>,
    /// The file with what tokens are signed with.
    key: Option<String>,
}

impl Keeper {
    fn new(arguments: &[&str]) -> Keeper {
        let server = Server::start(arguments);
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Keeper { arguments, listen: server.address(), server: Some(server), key: None }
    }

    /// Runs a script at the page to its end.
    fn drive(mut self, mut script: Command) {
        let page = self.server.as_ref().expect("it was started").http_url("/");
        let script = script.env("TCBCHAT_PAGE", page).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().expect("node starts");
        let mut answers = script.stdin.take().expect("a pipe");
        let lines = lines_of(&mut script);
        let verdict = self.serve(&lines, &mut answers, Instant::now() + TIME_MAX);
        let status = peer::await_end(&mut script, Duration::from_secs(20));
        assert_eq!(verdict, Ok(()));
        assert!(status.is_some_and(|status| status.success()), "the script ended with {status:?}");
    }

    /// Answers requests until the script ends; everything else that it says is shown.
    fn serve(
        &mut self,
        lines: &Receiver<String>,
        answers: &mut ChildStdin,
        deadline: Instant,
    ) -> Result<(), RecvTimeoutError> {
        loop {
            let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => return Err(RecvTimeoutError::Timeout),
            };
            match line.strip_prefix('@') {
                Some(request) => {
                    let answer = self.answer(request);
                    writeln!(answers, "{answer}").expect("the script reads its answers");
                }
                None => println!("{line}"),
            }
        }
    }

    fn answer(&mut self, request: &str) -> String {
        let words: Vec<&str> = request.split(' ').collect();
        match words[..] {
            ["kill"] => self.server.take().expect("a server to kill").kill(),
            ["stop"] => {
                let status = self.server.take().expect("a server to stop").terminate();
                assert!(status.success(), "the server ends in order: {status}");
            }
            ["start"] => {
                let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
                self.server = Some(Server::start_at(self.listen, &arguments));
            }
            ["token", login, life] => return self.token(login, life),
            _ => panic!("the script asks for {request:?}"),
        }
        "done".to_owned()
    }

    fn token(&self, login: &str, life: &str) -> String {
        let key = self.key.as_deref().expect("the server takes tokens");
        let output = Server::run(&["token", "--key", key, "--login", login, "--expires-in", life]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned()
    }
}

fn lines_of(script: &mut Child) -> Receiver<String> {
    let (found, lines) = channel();
    let pipe = script.stdout.take().expect("a pipe");
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if found.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
