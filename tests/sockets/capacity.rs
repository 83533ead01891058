//! Capacity, and who may see the numbers.

use std::time::{Duration, Instant};

use tungstenite::Error;

use crate::Setup;
use crate::support::{Client, Server};

on_one_and_three_reactors!(
    a_full_table_refuses_until_a_place_is_free,
    who_may_see_the_metrics,
    open_mode_is_local
);

/// Time for a place to become free.
const PLACE_MAX: Duration = Duration::from_secs(10);

fn a_full_table_refuses_until_a_place_is_free(setup: Setup) {
    let server = setup.server_with("[handshake]\nretry_after_s = 7", &["--capacity", "3"]);
    let mut inside: Vec<Client> = (0..3).map(|_| Client::connect(&server)).collect();
    let refused = Client::try_open(&server, "/ws", &["v12.stomp"]);
    let Err(Error::Http(response)) = refused else { panic!("the table is full") };
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "7");
    let body = String::from_utf8(response.into_body().unwrap_or_default()).unwrap();
    assert_eq!(body, "The server is at its capacity of connections.\n");
    // Machines are answered all the same.
    let answer = server.exchange("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.await_metric("tcb_in_use", |count| count == 3);
    let refused = server.await_metric("refused_table_full_total", |count| count > 0);

    // Those inside notice nothing.
    for client in &mut inside {
        client.subscribe("s", "/topic/inside");
    }
    inside[0].publish("/topic/inside", "all here");
    for client in &mut inside {
        assert_eq!(client.expect_body(), "all here");
    }

    inside.remove(0).disconnect();
    let deadline = Instant::now() + PLACE_MAX;
    let mut accepted = loop {
        match Client::try_open(&server, "/ws", &["v12.stomp"]) {
            Ok((client, _)) => break client,
            Err(Error::Http(response)) => assert_eq!(response.status(), 503),
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "the place does not become free");
    };
    accepted.start_session(crate::Frame::new("CONNECT"));
    accepted.disconnect();

    server.await_metric("tcb_capacity", |count| count == 3);
    server.await_metric("refused_table_full_total", |count| count >= refused);
}

fn who_may_see_the_metrics(setup: Setup) {
    let ask = |server: &Server, fields: &str| {
        let answer = server.exchange(format!("GET /metrics HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        answer[9..12].to_owned()
    };
    let proxied = "X-Forwarded-For: 192.0.2.1\r\n";
    for (access, here, through_a_proxy) in
        [("loopback", "200", "403"), ("all", "200", "200"), ("off", "404", "404")]
    {
        let server = setup.server_with(&format!("[ops]\nmetrics = \"{access}\""), &[]);
        assert_eq!(ask(&server, ""), here, "{access}");
        assert_eq!(ask(&server, proxied), through_a_proxy, "{access}");
        assert_eq!(ask(&server, "Forwarded: for=192.0.2.1\r\n"), through_a_proxy, "{access}");
    }
}

fn open_mode_is_local(setup: Setup) {
    let reactors = setup.reactors.to_string();
    // Nothing is served: the process ends before it listens.
    let output = Server::refused(&["--listen", "0.0.0.0:0", "--reactors", &reactors]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("0.0.0.0") && said.contains("--open"), "{said}");
    assert_eq!(output.stdout, b"");
}
