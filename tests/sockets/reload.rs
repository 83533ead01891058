//! SIGHUP, the service manager, and the probe of containers.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::http::{handshake_with, status_of};
use crate::support::{Client, Frame, Server};
use crate::{Setup, expect_refusal, members};

on_one_and_three_reactors!(
    what_can_change_does_and_the_rest_is_named,
    a_configuration_that_is_wrong_changes_nothing,
    origins_are_reloaded,
);

/// Time that a message of the server may take.
const SOON: Duration = Duration::from_secs(20);

fn too_many_headers(client: &mut Client) {
    let mut frame = Frame::new("SEND").header("destination", "/topic/a");
    for i in 0..10 {
        frame = frame.header(&format!("x{i}"), "y");
    }
    client.send(&frame);
}

fn what_can_change_does_and_the_rest_is_named(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tcbchat.toml");
    std::fs::write(&file, "[stomp]\nheaders_max = 64\n").unwrap();
    let reactors = setup.reactors.to_string();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--reactors", &reactors]);
    let mut clients = members(&server, 8, "/topic/a");
    assert!(!server.output().contains("DEBUG"));

    let changed = "[stomp]\nheaders_max = 8\n[log]\nlevel = \"debug\"\n[rooms]\nrooms_max = 5\n";
    std::fs::write(&file, changed).unwrap();
    server.signal(Signal::HUP);
    server.await_output("the configuration was read");
    let named = server.await_output("rooms.rooms_max");
    assert!(named.contains("needs a restart"), "{named}");
    assert_eq!(server.metric("limit{key=\"stomp.headers_max\"}"), 8);
    assert_eq!(server.metric("limit{key=\"rooms.rooms_max\"}"), 1_000_000, "what is in force is shown");
    // Nobody has noticed, and the bound holds for what comes, on every reactor.
    for client in &mut clients {
        too_many_headers(client);
        let (message, _) = expect_refusal(client, "too-many-headers");
        assert!(message.contains('8'), "{message}");
    }
    server.await_output("DEBUG");
    server.stop();
}

fn origins_are_reloaded(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tcbchat.toml");
    std::fs::write(&file, "").unwrap();
    let reactors = setup.reactors.to_string();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--reactors", &reactors]);
    let request = handshake_with("Origin: https://chat.example.com\r\n");
    assert_eq!(status_of(&server, &request), 403);
    std::fs::write(&file, "[http]\norigins = \"https://*.example.com\"\n").unwrap();
    server.signal(Signal::HUP);
    server.await_output("the configuration was read");
    // Each reactor takes it with its next turn, which a connection to it makes.
    let deadline = Instant::now() + SOON;
    while (0..8).any(|_| status_of(&server, &request) != 101) {
        assert!(Instant::now() < deadline);
    }
    std::fs::write(&file, "[http]\norigins = \"https://*.example.com/\"\n").unwrap();
    server.signal(Signal::HUP);
    let said = server.await_output("not reloaded");
    assert!(said.contains("http.origins"), "{said}");
    assert_eq!(status_of(&server, &request), 101);
    server.stop();
}

fn a_configuration_that_is_wrong_changes_nothing(setup: Setup) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tcbchat.toml");
    std::fs::write(&file, "").unwrap();
    let reactors = setup.reactors.to_string();
    let server = Server::start(&["--config", file.to_str().unwrap(), "--reactors", &reactors]);
    let mut client = members(&server, 1, "/topic/a").remove(0);
    std::fs::write(&file, "[stomp]\nheaders_max = 8\nno_such = 1\n").unwrap();
    server.signal(Signal::HUP);
    let said = server.await_output("not reloaded");
    assert!(said.contains("stomp.no_such"), "{said}");
    too_many_headers(&mut client);
    client.publish("/topic/a", "second");
    assert_eq!(client.expect_body(), "");
    assert_eq!(client.expect_body(), "second");
    server.stop();
}

/// The next message of the server to its manager that is not a sign of life.
fn told(manager: &UnixDatagram, wanted: &str) {
    let mut buffer = [0; 256];
    loop {
        let length = manager.recv(&mut buffer).unwrap();
        let message = std::str::from_utf8(&buffer[..length]).unwrap();
        if message.starts_with(wanted) {
            return;
        }
        assert_eq!(message, "WATCHDOG=1", "{wanted} is next");
    }
}

#[test]
fn the_service_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let server = Server::start_in(&environment, &["--reactors", "3"]);
    told(&manager, "READY=1");
    let mut buffer = [0; 256];
    for _ in 0..3 {
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1", "again and again, while nothing happens");
    }
    server.signal(Signal::HUP);
    told(&manager, "RELOADING=1\nMONOTONIC_USEC=");
    told(&manager, "READY=1");
    server.signal(Signal::TERM);
    told(&manager, "STOPPING=1");
}

#[test]
fn health_asks_the_server() {
    let server = Server::start(&[]);
    let address = server.address().to_string();
    let run = |more: &[&str]| Server::run(&[&["health", "--listen", &address], more].concat());
    let answer = run(&[]);
    assert_eq!((answer.status.code(), answer.stdout.as_slice()), (Some(0), &b"ok\n"[..]));
    let answer = run(&["--ready"]);
    assert_eq!((answer.status.code(), answer.stdout.as_slice()), (Some(0), &b"ready\n"[..]));
    server.stop();
    let answer = run(&["--timeout", "1"]);
    assert_eq!(answer.status.code(), Some(1), "nobody is there");
    assert!(String::from_utf8(answer.stderr).unwrap().contains("refused"));
}
