//! Slow consumers: one is cut off at its bound, by name, and the others notice nothing.

use crate::support::Client;
use crate::{Setup, members};

on_one_and_three_reactors!(
    one_that_never_reads_is_cut_off_alone,
    one_that_reads_again_gets_everything_that_waited
);

/// Bodies that are published at most: far more than the kernel's buffers hold for one connection.
const BODIES_MAX: usize = 1024;

fn one_that_never_reads_is_cut_off_alone(setup: Setup) {
    let server = setup.server_with("[outbound]\nbytes_max = 1_200_000", &[]);
    let room = "/topic/slow";
    let mut slow = members(&server, 1, room).remove(0);
    let mut others = members(&server, 3, room);
    let mut publisher = Client::connect(&server);
    let filling = "x".repeat(64 * 1024);
    let mut sent = 0;
    while server.metric("slow_consumers_total") == 0 {
        assert!(sent < BODIES_MAX, "nobody was cut off");
        for _ in 0..16 {
            let body = format!("{sent} {filling}");
            publisher.publish(room, &body);
            for other in &mut others {
                assert_eq!(other.expect_body(), body);
            }
            sent += 1;
        }
    }
    // It finds what the kernel had for it, in order, and then why that is all.
    let mut found = 0;
    let mut next = slow.next();
    while next.command == "MESSAGE" {
        assert!(next.text().starts_with(&format!("{found} ")));
        found += 1;
        next = slow.next();
    }
    assert!(found < sent);
    assert_eq!(next.command, "ERROR", "{next:?}");
    assert_eq!(next.text(), "slow-consumer\n");
    let reason = "slow consumer: more than outbound.bytes_max = 1200000 unread";
    assert_eq!(next.get("message"), Some(reason));
    assert_eq!(slow.expect_close(), (1008, "slow-consumer".into()));

    publisher.publish(room, "after");
    for other in &mut others {
        assert_eq!(other.expect_body(), "after");
    }
    server.await_metric("slow_consumers_total", |count| count == 1);
}

/// Bodies are small, so that they are written straight from the encoder's buffer and not through a queue.
fn one_that_reads_again_gets_everything_that_waited(setup: Setup) {
    let server = setup.server_with("[outbound]\nbytes_max = 64_000_000\nhigh_water_bytes = 32_000_000", &[]);
    let room = "/topic/slow";
    let mut slow = members(&server, 1, room).remove(0);
    let mut other = members(&server, 1, room).remove(0);
    let mut publisher = Client::connect(&server);
    let filling = "x".repeat(16 * 1024);
    let mut sent = 0;
    while server.metric("outbound_bytes") < 1_000_000 {
        assert!(sent < 4096);
        for _ in 0..16 {
            let body = format!("{sent} {filling}");
            publisher.publish(room, &body);
            assert_eq!(other.expect_body(), body);
            sent += 1;
        }
    }
    for n in 0..sent {
        assert!(slow.expect_body().starts_with(&format!("{n} ")), "{n} of {sent}");
    }
}
