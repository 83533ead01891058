//! Whether the server keeps the promises of `docs/PROTOCOL.md` over real sockets.
//!
//! Every test is one function that runs twice, against a server with one reactor and against one with three,
//! since a message that crosses reactors takes another path. What a message means is tested on lower levels; here
//! it is that a socket, the kernel and the binary's configuration lead to it.
//!
//! Invariant: no test waits for a fixed time, unless the time is what it is about (a server that is paused); where nothing
//! must happen, something sent later comes next.

#[path = "../support/mod.rs"]
mod support;

/// Makes a test of each function for one reactor, and one for three.
macro_rules! on_one_and_three_reactors {
    ($($name:ident),+ $(,)?) => {
        mod one_reactor { $( #[test] fn $name() { super::$name($crate::Setup { reactors: 1 }); } )+ }
        mod three_reactors { $( #[test] fn $name() { super::$name($crate::Setup { reactors: 3 }); } )+ }
    };
}

mod api;
mod app;
mod auth;
mod capacity;
mod heart_beats;
mod history;
mod http;
mod liveness;
mod operators;
mod proxy;
mod questions;
mod queues;
mod refusals;
mod reload;
mod rooms;
mod shutdown;
mod slow;
mod stomp;
mod streams;
mod users;
mod versions;
mod websocket;
mod workers;

use support::{Client, Frame, Server};

/// What differs between the two runs of a test.
#[derive(Clone, Copy)]
struct Setup {
    reactors: u32,
}

impl Setup {
    /// A server with the default configuration.
    fn server(self) -> Server {
        self.server_with("", &[])
    }

    /// A server with this configuration file, and these flags.
    fn server_with(self, configuration: &str, flags: &[&str]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tcbchat.toml");
        std::fs::write(&file, configuration).unwrap();
        let reactors = self.reactors.to_string();
        let own = ["--config", file.to_str().unwrap(), "--reactors", &reactors];
        Server::start(&[&own, flags].concat())
    }
}

/// `count` sessions that all subscribe to a destination as `s`, on whatever reactors the kernel puts them.
fn members(server: &Server, count: usize, destination: &str) -> Vec<Client> {
    let member = |_| {
        let mut member = Client::connect(server);
        member.subscribe("s", destination);
        member
    };
    (0..count).map(member).collect()
}

/// The ERROR that must come next, which carries this name, and the close that follows it: the `message` header
/// and the close code.
fn expect_refusal(client: &mut Client, name: &str) -> (String, u16) {
    let error = client.expect("ERROR");
    assert_eq!(error.text().trim_end(), name, "{error:?}");
    let (code, reason) = client.expect_close();
    assert_eq!(reason, name);
    (error.get("message").expect("ERROR has a message header").to_owned(), code)
}

/// A SEND.
fn send(destination: &str, body: impl AsRef<[u8]>) -> Frame {
    Frame::new("SEND").header("destination", destination).body(body)
}

/// The cells of a table of `docs/PROTOCOL.md`, without its heading.
fn documented(heading: &str) -> Vec<Vec<&'static str>> {
    let text = include_str!("../../docs/PROTOCOL.md");
    let (_, table) = text.split_once(heading).unwrap_or_else(|| panic!("no table {heading}"));
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}
