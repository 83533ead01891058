//! Heart-beats: what is agreed, that they come, and what happens when they do not.

use tungstenite::Message;

use crate::support::{Client, Frame};
use crate::{Setup, expect_refusal};

on_one_and_three_reactors!(
    the_server_says_what_it_can,
    beats_come_and_keep_a_session,
    a_silent_client_is_closed
);

fn the_server_says_what_it_can(setup: Setup) {
    let server = setup.server();
    // What is agreed is the longer of what one side can and the other wants (STOMP 1.2, Heart-beating).
    for wished in ["0,0", "1,1", "1000,2500"] {
        let mut client = Client::open(&server);
        let connected = client.start_session(Frame::new("CONNECT").header("heart-beat", wished));
        assert_eq!(connected.get("heart-beat"), Some("1000,1000"), "{wished}");
        client.disconnect();
    }
}

fn beats_come_and_keep_a_session(setup: Setup) {
    let server = setup.server();
    let mut client = Client::open(&server);
    client.start_session(Frame::new("CONNECT").header("heart-beat", "1000,1000"));
    // Longer than a silent client lives; each beat is answered, and nothing else is said.
    for _ in 0..5 {
        assert_eq!(client.next_message(), Message::text("\n"));
        client.send_text("\n");
    }
    client.subscribe("s", "/topic/alive");
    client.publish("/topic/alive", "here");
    assert_eq!(client.expect_body(), "here");
    server.await_metric("heart_beats_sent_total", |count| count >= 5);
    server.await_metric(r#"dead_peers_total{mechanism="stomp_heart_beat"}"#, |count| count == 0);
}

fn a_silent_client_is_closed(setup: Setup) {
    let server = setup.server();
    let mut client = Client::open(&server);
    client.start_session(Frame::new("CONNECT").header("heart-beat", "1000,0"));
    client.send_text("\n");
    let (message, code) = expect_refusal(&mut client, "heart-beat-timeout");
    assert_eq!(code, 1008);
    let silent = message.strip_prefix("no heart-beat: nothing was heard for ").unwrap();
    let silent_ms: u32 = silent.strip_suffix(" ms").unwrap().parse().unwrap();
    assert!((3000..=5000).contains(&silent_ms), "{message}");
    server.await_metric(r#"dead_peers_total{mechanism="stomp_heart_beat"}"#, |count| count == 1);
}
