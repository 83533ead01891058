//! stomp.py's WebSocket connection and its TCP connection, as they are.
//!
//! The assertions are in `tests/clients/stomp_py.py`, where that client's own interface is; here the
//! server is started, once with one reactor and once with three, and the script's verdict is taken.

mod support;

use std::time::Duration;

use support::{Server, peer};

/// The script waits for heart-beats for some seconds.
const TIME_MAX: Duration = Duration::from_secs(120);

#[test]
fn stomp_py_on_one_reactor() {
    run_script("1");
}

#[test]
fn stomp_py_on_three_reactors() {
    run_script("3");
}

fn run_script(reactors: &str) {
    let Some(mut python) = peer::python_program("python") else { return };
    let server = Server::start(&["--reactors", reactors, "--set", "listen.stomp=127.0.0.1:0"]);
    let script = python.arg(peer::clients_dir().join("stomp_py.py"));
    let script = script.env("TCBCHAT_WS", server.ws_url("/ws"));
    let script = script.env("TCBCHAT_STOMP", server.stomp_address().to_string());
    peer::run(script, TIME_MAX);
    assert!(server.terminate().success(), "the server ends in order when its clients are done");
}
