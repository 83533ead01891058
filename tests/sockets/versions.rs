//! The versions of STOMP: which one is agreed, and what each means for a session.

use tungstenite::Message;

use crate::support::{Client, Frame};
use crate::{Setup, expect_refusal};

on_one_and_three_reactors!(
    the_newest_in_common_is_agreed,
    nothing_in_common_is_refused,
    a_session_in_each_version,
    each_version_escapes_for_itself,
);

/// Sends CONNECT with this `accept-version`, and gives CONNECTED.
fn connect(client: &mut Client, accepted: Option<&str>) -> Frame {
    let connect = Frame::new("CONNECT");
    client.send(&match accepted {
        Some(accepted) => connect.header("accept-version", accepted),
        None => connect,
    });
    client.expect("CONNECTED")
}

fn the_newest_in_common_is_agreed(setup: Setup) {
    let server = setup.server();
    for (accepted, agreed) in [
        (None, "1.0"),
        (Some("1.0"), "1.0"),
        (Some("1.1,1.0"), "1.1"),
        (Some("1.0,1.1,1.2"), "1.2"),
        (Some("1.2,2.0"), "1.2"),
    ] {
        // No `host`, although 1.1 and 1.2 ask for one.
        let mut client = Client::open(&server);
        let connected = connect(&mut client, accepted);
        assert_eq!(connected.get("version"), Some(agreed), "{accepted:?}");
        assert!(connected.get("session").is_some_and(|session| !session.is_empty()));
        assert!(connected.get("server").is_some_and(|server| server.starts_with("tcbchat/")));
        assert_eq!(connected.get("heart-beat").is_some(), agreed != "1.0");
        client.disconnect();
    }
    let mut client = Client::open(&server);
    client.send(&Frame::new("STOMP").header("accept-version", "1.2").header("host", "test"));
    assert_eq!(client.expect("CONNECTED").get("version"), Some("1.2"));
}

fn nothing_in_common_is_refused(setup: Setup) {
    let server = setup.server();
    for accepted in ["2.0", "1.3,0.9", ""] {
        let mut client = Client::open(&server);
        client.send(&Frame::new("CONNECT").header("accept-version", accepted));
        let (message, code) = expect_refusal(&mut client, "no-common-version");
        assert_eq!((&*message, code), ("supported versions are 1.0, 1.1 and 1.2", 1002));
    }
    let mut client = Client::open(&server);
    client.send(&Frame::new("CONNECT").header("accept-version", "2.0"));
    assert_eq!(client.expect("ERROR").get("version"), Some("1.0,1.1,1.2"));
}

fn a_session_in_each_version(setup: Setup) {
    let server = setup.server();
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = Client::open(&server);
        connect(&mut client, Some(version));
        let queue = format!("/queue/version-{version}");
        client.subscribe_ack("s", &queue, "client");
        client.publish(&queue, "work");
        let message = client.expect("MESSAGE");
        assert_eq!(message.get("subscription"), Some("s"));
        let name = if version == "1.2" { "id" } else { "message-id" };
        let ack = Frame::new("ACK").header(name, message.get("message-id").unwrap());
        client.send_confirmed(ack.header("subscription", "s"));
        client.disconnect();
        server.await_metric("queue_messages", |left| left == 0);
    }
    // Only 1.0 subscribes without an id.
    let subscribe = Frame::new("SUBSCRIBE").header("destination", "/topic/old");
    let mut old = Client::open(&server);
    connect(&mut old, None);
    old.send_confirmed(subscribe.clone());
    old.publish("/topic/old", "heard");
    let message = old.expect("MESSAGE");
    assert_eq!((message.text(), message.get("subscription")), ("heard", None));
    let mut newer = Client::open(&server);
    connect(&mut newer, Some("1.1"));
    newer.send(&subscribe);
    let (message, _) = expect_refusal(&mut newer, "missing-header");
    assert_eq!(message, "SUBSCRIBE needs a header id");
}

fn each_version_escapes_for_itself(setup: Setup) {
    let server = setup.server();
    let mut sender = Client::connect(&server);
    let mut members = ["1.0", "1.1", "1.2"].map(|version| {
        let mut member = Client::open(&server);
        connect(&mut member, Some(version));
        member.subscribe("s", "/topic/escapes");
        member
    });
    sender.send_text("SEND\ndestination:/topic/escapes\nodd:a\\nb\\rc\\cd\\\\e\n\n\0");
    for (member, line) in
        members.iter_mut().zip(["odd:a b c:d\\e", "odd:a\\nb c\\cd\\\\e", "odd:a\\nb\\rc\\cd\\\\e"])
    {
        let Message::Text(text) = member.next_message() else { panic!("a text message") };
        assert!(text.split('\n').any(|other| other == line), "{line:?} in {text:?}");
    }
}
