//! Refusals that a session survives (`stomp.refusals`).

use super::*;

on_one_and_three_reactors! {
    a_second_unsubscribe_is_told_and_the_session_goes_on,
    a_selector_is_refused_and_an_id_is_free_then,
    what_rules_forbid_is_told_to_the_session_that_asked,
    a_full_queue_is_told_wherever_its_owner_is,
    a_subscription_that_an_owner_refuses_leaves_nothing,
    what_is_no_refusal_ends_the_session,
}

const SURVIVING: [&str; 2] = ["--set", "stomp.refusals=message"];
const ERRORS: &str = "/user/queue/errors";

/// The refusal that must come next: its fault, its receipt and its subscription.
fn expect_told(client: &mut Client) -> (String, Option<String>, String) {
    let told = client.expect("MESSAGE");
    assert_eq!(told.get("destination"), Some(ERRORS), "{told:?}");
    assert!(told.get("message-id").is_some_and(|id| id.starts_with("0-")), "{told:?}");
    assert!(told.get("message").is_some_and(|sentence| !sentence.is_empty()), "{told:?}");
    assert_eq!((told.get("sender"), told.get("timestamp")), (None, None));
    let owned = |name| told.get(name).map(str::to_owned);
    (told.text().trim_end().to_owned(), owned("receipt-id"), owned("subscription").expect("it has one"))
}

fn a_second_unsubscribe_is_told_and_the_session_goes_on(setup: Setup) {
    let server = setup.server_with("", &SURVIVING);
    let mut client = Client::connect(&server);
    client.subscribe("s", "/topic/a");
    let unsubscribe = || Frame::new("UNSUBSCRIBE").header("id", "s");
    client.send_confirmed(unsubscribe());
    client.send(&unsubscribe().header("receipt", "again"));
    let told = expect_told(&mut client);
    assert_eq!(told, ("no-such-subscription".into(), Some("again".into()), ERRORS.into()));
    client.send(&unsubscribe());
    assert_eq!(expect_told(&mut client), ("no-such-subscription".into(), None, ERRORS.into()));
    // The receipts of what follows come.
    client.subscribe("s", "/topic/b");
    client.send(&Frame::new("ACK").header("id", "7-7").header("receipt", "ack"));
    assert_eq!(expect_told(&mut client), ("unknown-ack".into(), Some("ack".into()), ERRORS.into()));
    client.publish_confirmed("/topic/a", "it is there still");
}

fn a_selector_is_refused_and_an_id_is_free_then(setup: Setup) {
    let subscribe = || Frame::new("SUBSCRIBE").header("id", "s").header("destination", "/topic/a");
    let server = setup.server();
    let mut client = Client::connect(&server);
    client.send(&subscribe().header("selector", "price > 100"));
    expect_refusal(&mut client, "selector-not-supported");
    let server = setup.server_with("", &SURVIVING);
    let mut client = Client::connect(&server);
    // One that selects nothing is one, too.
    for selector in ["price > 100", ""] {
        client.send(&subscribe().header("selector", selector).header("receipt", "r"));
        assert_eq!(
            expect_told(&mut client),
            ("selector-not-supported".into(), Some("r".into()), ERRORS.into())
        );
    }
    client.subscribe("s", "/topic/a");
}

fn what_rules_forbid_is_told_to_the_session_that_asked(setup: Setup) {
    let rules = r#"
        [stomp]
        refusals = "message"
        [[rules]]
        who = "anyone"
        deny = ["send", "subscribe"]
        where = "/topic/closed.*"
        [[rules]]
        who = "anyone"
        may = ["send", "subscribe"]
        where = "**"
    "#;
    let server = setup.server_with(rules, &[]);
    let (mut client, mut other) = (Client::login(&server, "ann"), Client::login(&server, "ann"));
    other.subscribe("mine", ERRORS);
    // In one breath: the subscription counts as soon as it is asked for.
    let subscribe =
        |id: &str, place: &str| Frame::new("SUBSCRIBE").header("id", id).header("destination", place);
    for frame in [
        subscribe("errors", ERRORS),
        subscribe("s", "/topic/closed.a").header("receipt", "one"),
        send("/topic/closed.b", "x").header("receipt", "two"),
        send("/topic/closed.c", "x"),
        send("/topic/open", "x").header("receipt", "three"),
    ] {
        client.send(&frame);
    }
    for receipt in [Some("one"), Some("two"), None] {
        let told = expect_told(&mut client);
        assert_eq!(told, ("forbidden".into(), receipt.map(str::to_owned), "errors".into()));
    }
    assert_eq!(client.expect("RECEIPT").get("receipt-id"), Some("three"));
    // The refused subscription is none: its id is free.
    client.subscribe("s", "/topic/open");
    Client::connect(&server).publish_confirmed("/user/ann/queue/errors", "said by somebody");
    assert_eq!(other.expect_body(), "said by somebody");
    server.await_metric("frames_forbidden_total", |value| value == 3);
    server.await_metric("refusals_survived_total", |value| value == 3);
    assert_eq!(server.metric("errors_sent_total"), 0);
}

fn a_full_queue_is_told_wherever_its_owner_is(setup: Setup) {
    let server = setup.server_with("", &[&SURVIVING[..], &["--set", "rooms.queue_messages_max=2"]].concat());
    let mut client = Client::connect(&server);
    // On all reactors.
    for queue in 0..8 {
        let place = format!("/queue/q{queue}");
        client.publish_confirmed(&place, "one");
        client.publish_confirmed(&place, "two");
        client.send(&send(&place, "three").header("receipt", "r"));
        assert_eq!(expect_told(&mut client), ("queue-full".into(), Some("r".into()), ERRORS.into()));
        client.publish(&place, "four");
        assert_eq!(expect_told(&mut client), ("queue-full".into(), None, ERRORS.into()));
    }
    client.publish_confirmed("/topic/a", "it is there still");
}

fn a_subscription_that_an_owner_refuses_leaves_nothing(setup: Setup) {
    let bounds = ["--set", "rooms.rooms_max=1", "--set", "stomp.subscriptions_max=2"];
    let server = setup.server_with("", &[&SURVIVING[..], &bounds].concat());
    let mut first = Client::connect(&server);
    let mut refused = 0;
    let subscribe = |place: &str| {
        Frame::new("SUBSCRIBE").header("id", "s").header("destination", place).header("receipt", "r")
    };
    let unsubscribe = || Frame::new("UNSUBSCRIBE").header("id", "s");
    // Somebody has a room on each reactor: there are no more.
    let mut holders = Vec::new();
    for room in 0..40 {
        let mut holder = Client::connect(&server);
        holder.send(&subscribe(&format!("/topic/r{room}")));
        let answer = holder.next();
        refused += u32::from(answer.command == "MESSAGE");
        holders.push(holder);
    }
    assert!(refused >= 40 - setup.reactors, "{refused}");
    // What was refused takes no place, and no id.
    for place in (0..40).map(|room| format!("/queue/x{room}")) {
        first.send(&subscribe(&place));
        match &*first.next().command {
            "RECEIPT" => first.send_confirmed(unsubscribe()),
            _ => {
                first.send(&unsubscribe());
                assert_eq!(expect_told(&mut first).0, "no-such-subscription");
            }
        }
    }
    drop(holders);
    first.publish_confirmed("/topic/a", "it is there still");
}

fn what_is_no_refusal_ends_the_session(setup: Setup) {
    let rules = r#"
        [[rules]]
        who = "anyone"
        may = ["send", "subscribe"]
        where = "/topic/open"
    "#;
    let server = setup.server_with(rules, &SURVIVING);
    // A transaction is all or nothing.
    let mut reader = Client::connect(&server);
    reader.subscribe("s", "/topic/open");
    let mut client = Client::connect(&server);
    client.send(&Frame::new("BEGIN").header("transaction", "t"));
    client.send(&send("/topic/open", "half").header("transaction", "t"));
    client.send(&send("/topic/closed", "half").header("transaction", "t"));
    client.send(&Frame::new("COMMIT").header("transaction", "t"));
    expect_refusal(&mut client, "forbidden");
    let mut client = Client::connect(&server);
    client.send(&Frame::new("SUBSCRIBE").header("destination", "/topic/open"));
    expect_refusal(&mut client, "missing-header");
    let mut client = Client::connect(&server);
    client.publish_confirmed("/topic/open", "whole");
    assert_eq!(reader.expect_body(), "whole");
}
