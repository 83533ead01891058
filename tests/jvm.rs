//! The Java world over plain TCP: ActiveMQ's STOMP client, and connections as Spring's broker relay makes them.
//!
//! The assertions are in `tests/clients/ActiveMqStomp.java` and `tests/clients/BrokerRelay.java`. The first is a client of
//! others, as it is. The second is ours: Debian has no package with Spring's relay.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{Running, Server, peer};
use tempfile::TempDir;

/// The program waits for heart-beats for some seconds.
const TIME_MAX: Duration = Duration::from_secs(120);

/// A folder with the one login of these programs.
fn users() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let output =
        Server::run_saying(&["passwd", file.to_str().unwrap(), "relay", "--role", "service"], "secret");
    assert!(output.status.success(), "{output:?}");
    folder
}

fn settings(users: &TempDir, reactors: &str, stomp: &str) -> Vec<String> {
    let users = users.path().join("users");
    let sets = [
        "auth.mode=users".to_owned(),
        format!("auth.users_file={}", users.display()),
        format!("listen.stomp={stomp}"),
    ];
    let mut arguments = vec!["--reactors".to_owned(), reactors.to_owned()];
    arguments.extend(sets.into_iter().flat_map(|set| ["--set".to_owned(), set]));
    arguments
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn activemqs_client(reactors: &str) {
    let Some(jars) = peer::jars(&["activemq-stomp", "activemq-client", "hawtbuf"]) else { return };
    let Some(mut java) = peer::java() else { return };
    let users = users();
    let server = Server::start(&strings(&settings(&users, reactors, "127.0.0.1:0")));
    java.args(["-cp", &jars]).arg(peer::clients_dir().join("ActiveMqStomp.java"));
    peer::run(java.env("TCBCHAT_STOMP", server.stomp_address().to_string()), TIME_MAX);
    assert!(server.terminate().success(), "the server ends in order when its clients are done");
}

#[test]
fn activemqs_client_on_one_reactor() {
    activemqs_client("1");
}

#[test]
fn activemqs_client_on_three_reactors() {
    activemqs_client("3");
}

fn a_relay(reactors: &str) {
    let Some(mut java) = peer::java() else { return };
    let users = users();
    let server = Server::start(&strings(&settings(&users, reactors, "127.0.0.1:0")));
    let (address, stomp) = (server.address(), server.stomp_address().to_string());
    java.arg(peer::clients_dir().join("BrokerRelay.java")).env("TCBCHAT_STOMP", &stomp);
    let mut relay = Running::start(&mut java);
    relay.expect("round 1 is done");
    server.stop();
    relay.expect("the end of the broker was told");
    let mut server = Server::start_at(address, &strings(&settings(&users, reactors, &stomp)));
    relay.expect("round 2 is done");
    server.signal(Signal::KILL);
    server.wait();
    relay.expect("the broker is gone");
    let server = Server::start_at(address, &strings(&settings(&users, reactors, &stomp)));
    relay.expect("round 3 is done");
    let (status, written) = relay.finish();
    assert!(status.success(), "{written}");
    // Names that Spring makes for sessions do not stay.
    server.await_metric("rooms", |rooms| rooms == 0);
    server.await_metric("queues", |queues| queues == 0);
    server.stop();
}

#[test]
fn a_relay_on_one_reactor() {
    a_relay("1");
}

#[test]
fn a_relay_on_three_reactors() {
    a_relay("3");
}
