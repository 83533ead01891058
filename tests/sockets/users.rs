//! User destinations: what is sent to a login comes to all of its sessions, and to nobody else.

use crate::support::Client;
use crate::{Setup, expect_refusal};

on_one_and_three_reactors!(all_sessions_of_a_login_and_nobody_else, logins_with_slashes, a_login_is_needed);

fn all_sessions_of_a_login_and_nobody_else(setup: Setup) {
    let server = setup.server();
    let session = |login: &str| {
        let mut client = Client::login(&server, login);
        client.subscribe("s", "/user/queue/mail");
        client
    };
    let mut alice: Vec<Client> = (0..4).map(|_| session("alice")).collect();
    let mut others: Vec<Client> = ["bob", "alic", "alice2"].into_iter().map(session).collect();
    let mut elsewhere = Client::login(&server, "alice");
    elsewhere.subscribe("s", "/user/queue/news");

    let mut sender = Client::connect(&server);
    sender.publish_confirmed("/user/alice/queue/mail", "for alice");
    for client in &mut alice {
        let message = client.expect("MESSAGE");
        assert_eq!((message.text(), message.get("subscription")), ("for alice", Some("s")));
        assert_eq!(message.get("destination"), Some("/user/queue/mail"));
    }
    for login in ["bob", "alic", "alice2"] {
        sender.publish(&format!("/user/{login}/queue/mail"), login);
    }
    sender.publish("/user/alice/queue/news", "news");
    for (client, login) in others.iter_mut().zip(["bob", "alic", "alice2"]) {
        assert_eq!(client.expect_body(), login, "nothing of alice's came before");
    }
    assert_eq!(elsewhere.expect_body(), "news");
}

fn logins_with_slashes(setup: Setup) {
    let server = setup.server();
    let mut client = Client::login(&server, "a/b%c");
    client.subscribe("s", "/user/queue/mail");
    let mut sender = Client::connect(&server);
    sender.publish("/user/a%2Fb%25c/queue/mail", "found");
    assert_eq!(client.expect_body(), "found");
}

fn a_login_is_needed(setup: Setup) {
    let server = setup.server();
    let mut client = Client::connect(&server);
    let receipt = client.send_with_receipt(
        crate::Frame::new("SUBSCRIBE").header("id", "s").header("destination", "/user/queue/mail"),
    );
    assert_eq!(receipt, "r-1");
    let (message, code) = expect_refusal(&mut client, "bad-destination");
    assert_eq!((&*message, code), ("/user/queue/ needs a session that gave a login", 1002));
}
