//! The log and the server: what happens to standard error is no matter of the sessions.
//!
//! Sinks that fail are real ones: a full disk (`/dev/full`), a pipe whose reader is gone, a pipe that nobody reads.
//!
//! Invariant: in every case messages pass between sessions all the while, and SIGTERM ends in order.

#[path = "support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read, Write, pipe};
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::Value;
use support::{Client, Frame, Server};

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Connections of the load: each is several lines at `debug`.
const LOAD: usize = 400;

/// Silent connections of one address from which on the server warns.
const PENDING_MAX: usize = 64;

/// Makes a server log: connections that come and go, frames that are refused, a warning, and messages between sessions.
fn load(server: &Server) {
    let mut reader = Client::connect(server);
    reader.subscribe("s", "/topic/log");
    let mut writer = Client::connect(server);
    for round in 0..LOAD {
        drop(server.dial());
        let mut fool = Client::connect(server);
        fool.send(&Frame::new("SEND"));
        fool.expect("ERROR");
        if round % 20 == 0 {
            writer.publish("/topic/log", format!("round {round}"));
            assert_eq!(reader.expect_body(), format!("round {round}"));
        }
    }
    // So many handshakes at a time are a warning here.
    let silent: Vec<_> = (0..=PENDING_MAX).map(|_| server.try_dial()).collect();
    let is_refused = |dialled: &std::io::Result<std::net::TcpStream>| {
        let Ok(mut stream) = dialled.as_ref() else { return true };
        stream.set_nonblocking(true).unwrap();
        !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    while !silent.iter().any(is_refused) {
        std::thread::yield_now();
    }
    drop(silent);
    // Until the server has seen that they are gone it refuses others, too.
    let is_served = || {
        let Ok(mut stream) = server.try_dial() else { return false };
        let asked = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n");
        asked.is_ok() && stream.read_to_end(&mut Vec::new()).is_ok_and(|read| read > 0)
    };
    while !is_served() {
        std::thread::yield_now();
    }
    server.await_metric("refused_pending_per_address_total", |refused| refused > 0);
    writer.publish("/topic/log", "after the warning");
    assert_eq!(reader.expect_body(), "after the warning");
}

/// At every level, under load, and at the end.
fn outlives(what: &str, sink: impl Fn() -> (Stdio, Option<PipeReader>)) {
    for level in LEVELS {
        let (stderr, kept) = sink();
        let bound = format!("handshake.pending_per_address_max={PENDING_MAX}");
        // Small, so that a pipe which nobody reads and the queue behind it are full.
        let queue = "log.queue_bytes_max=4096";
        let mut server = Server::start_logging_to(stderr, &["--log", level, "--set", &bound, "--set", queue]);
        load(&server);
        // The log's thread may not have come to it yet.
        server.await_metric("log_lines_lost_total", |lost| (lost > 0) == (level != "error"));
        let mut client = Client::connect(&server);
        server.signal(rustix::process::Signal::TERM);
        assert_eq!(client.expect_close().0, 1001, "{what}, {level}");
        drop(client);
        assert_eq!(server.wait().code(), Some(0), "{what}, {level}");
        drop(kept);
    }
}

#[test]
fn a_full_disk() {
    outlives("a full disk", || (File::options().write(true).open("/dev/full").unwrap().into(), None));
}

#[test]
fn a_closed_pipe() {
    outlives("a closed pipe", || {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        (writer.into(), None)
    });
}

/// Fills a pipe, so that not even a line of a quiet level fits.
fn unread() -> (Stdio, Option<PipeReader>) {
    let (reader, writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let piece = [b'x'; 4096];
    while rustix::io::write(&writer, &piece).is_ok() {}
    while rustix::io::write(&writer, &piece[..1]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (writer.into(), Some(reader))
}

#[test]
fn an_unread_pipe() {
    for level in LEVELS {
        let (stderr, kept) = unread();
        let queue = "log.queue_bytes_max=4096";
        let mut server = Server::start_logging_to(stderr, &["--log", level, "--set", queue]);
        let mut reader = Client::connect(&server);
        reader.subscribe("s", "/topic/log");
        for round in 0..LOAD {
            let mut fool = Client::connect(&server);
            fool.send(&Frame::new("SEND"));
            fool.expect("ERROR");
            reader.publish("/topic/log", format!("round {round}"));
            assert_eq!(reader.expect_body(), format!("round {round}"));
        }
        let is_loud = matches!(level, "debug" | "trace");
        server.await_metric("log_lines_lost_total", |lost| (lost > 0) == is_loud);
        server.signal(rustix::process::Signal::TERM);
        assert_eq!(reader.expect_close().0, 1001, "{level}");
        drop(reader);
        // Its last lines are waited for, but not for long.
        assert_eq!(server.wait().code(), Some(0), "{level}");
        drop(kept);
    }
}

/// Every line is an object with these fields.
fn expect_json(text: &str) -> Vec<Value> {
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "fields", "target"] {
            assert!(line.get(field).is_some(), "no {field} in {line}");
        }
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    lines
}

#[test]
fn json_from_the_first_line_to_the_last() {
    let more = ["--log-format", "json", "--set", "log.ready_line=text", "--log", "debug"];
    let mut server = Server::start(&more);
    drop(Client::connect(&server));
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait().success());
    server.await_output("every connection has ended");
    let output = server.output();
    let logged: Vec<&str> = output.lines().filter(|line| !line.starts_with("tcbchat ready: ")).collect();
    assert_eq!(logged.len() + 1, output.lines().count(), "the plain line is there, once");
    assert!(expect_json(&logged.join("\n")).len() >= 2);
}

#[test]
fn the_ready_line_is_json_too() {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tcbchat"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let ready = expect_json(&line).remove(0);
    assert_eq!(ready["fields"]["message"], "ready");
    assert!(ready["fields"]["addresses"][0].as_str().unwrap().starts_with("http://127.0.0.1:"), "{ready}");
}

#[test]
fn a_start_that_fails_speaks_json_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for arguments in [
        &["--log-format", "json", "--listen", &address][..],
        &["--log-format", "json", "--set", "stomp.headers_max=1", "--set", "no.such=key"],
    ] {
        let output = Server::refused(arguments);
        let lines = expect_json(&String::from_utf8(output.stderr).unwrap());
        assert_eq!(lines.last().unwrap()["level"], "ERROR");
        assert!(output.stdout.is_empty());
    }
}
