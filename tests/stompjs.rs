//! The STOMP clients that browsers use, as they are, under Node: `@stomp/stompjs` 7, and the older
//! `stompjs` 2 and `webstomp-client`.
//!
//! The assertions are in `tests/clients/*.mjs`, where the clients' own interfaces are; here the server is
//! started, once with one reactor and once with three, and the scripts' verdict is taken.

mod support;

use std::time::Duration;

use support::{Server, peer};

/// Each script waits for heart-beats for some seconds, and moves a few megabytes.
const TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn stompjs_7_on_one_reactor() {
    run_script("stompjs.mjs", &["@stomp/stompjs", "ws"], "1");
}

#[test]
fn stompjs_7_on_three_reactors() {
    run_script("stompjs.mjs", &["@stomp/stompjs", "ws"], "3");
}

#[test]
fn older_clients_on_one_reactor() {
    run_script("older_clients.mjs", &["stompjs", "webstomp-client", "ws"], "1");
}

#[test]
fn older_clients_on_three_reactors() {
    run_script("older_clients.mjs", &["stompjs", "webstomp-client", "ws"], "3");
}

fn run_script(script: &str, packages: &[&str], reactors: &str) {
    let Some(mut node) = peer::node(script, packages) else { return };
    let server = Server::start(&["--reactors", reactors]);
    peer::run(node.env("TCBCHAT_WS", server.ws_url("/ws")), TIME_MAX);
    assert!(server.terminate().success(), "the server ends in order when its clients are done");
}
