//! The chat page in real headless Chromium: two windows, and a server that dies and comes back.
//!
//! The windows are driven by `tests/clients/browser.mjs`, with the assertions about what they show; the
//! server is owned here. The script asks for its sudden death, its orderly end and its return with the
//! lines `@kill`, `@stop` and `@start` on standard output, and gets a line back when that is done.
//!
//! `SCREENSHOTS=<folder>` keeps pictures of what the windows showed.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use support::{Server, peer};

/// A browser's start, a dozen steps and one reconnection on a loaded machine.
const TIME_MAX: Duration = Duration::from_secs(180);

/// The page's own STOMP module under Node, with a WebSocket and a clock of the test's making.
#[test]
fn the_pages_stomp_client() {
    let Some(mut node) = peer::node("page.mjs", &["@stomp/stompjs"]) else { return };
    peer::run(&mut node, TIME_MAX);
}

#[test]
fn two_windows_chat_and_survive_a_restart_of_the_server() {
    let Some(chromium) = peer::chromium() else { return };
    let Some(mut node) = peer::node("browser.mjs", &["axe-core", "playwright-core", "ws"]) else { return };
    let server = Server::start(&["--reactors", "2"]);
    let mut script = node
        .env("CHROMIUM", chromium)
        .env("TCBCHAT_PAGE", server.http_url("/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node starts");
    let listen = server.address();
    let mut keeper = Keeper { listen, server: Some(server), answers: script.stdin.take().expect("a pipe") };
    let lines = lines_of(&mut script);
    let verdict = keeper.serve(&lines, Instant::now() + TIME_MAX);
    let status = peer::await_end(&mut script, Duration::from_secs(20));
    assert_eq!(verdict, Ok(()));
    assert!(status.is_some_and(|status| status.success()), "the script ended with {status:?}");
}

/// Does to the server what the script asks for.
struct Keeper {
    listen: SocketAddr,
    server: Option<Server>,
    answers: ChildStdin,
}

impl Keeper {
    /// Answers requests until the script ends; everything else that it says is shown.
    fn serve(&mut self, lines: &Receiver<String>, deadline: Instant) -> Result<(), RecvTimeoutError> {
        loop {
            let line = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => return Err(RecvTimeoutError::Timeout),
            };
            match line.as_str() {
                "@kill" => self.server.take().expect("a server to kill").kill(),
                "@stop" => {
                    let status = self.server.take().expect("a server to stop").terminate();
                    assert!(status.success(), "the server ends in order: {status}");
                }
                "@start" => self.server = Some(Server::start_at(self.listen, &["--reactors", "2"])),
                _ => {
                    println!("{line}");
                    continue;
                }
            }
            writeln!(self.answers, "done").expect("the script reads its answers");
        }
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
