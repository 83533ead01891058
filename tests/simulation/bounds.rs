//! The bounds of a world, drawn from its seed.
//!
//! Owns how small they are: a bound is to be met within a run, and not by every world.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rand::RngExt;
use rand::rngs::StdRng;
use tcbchat::conn::handshake::Reach;
use tcbchat::limits;
use tcbchat::message::destination::Pattern;
use tcbchat::message::fault::Refusals;
use tcbchat::policy::destinations::{Destinations, Retention};
use tcbchat::policy::{Rule, Rules};
use tcbchat::shard::ShardLimits;

/// The room that nobody may enter, where there are rules.
pub const FORBIDDEN: &str = "/topic/forbidden";

fn forbidding() -> Rules {
    let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let all = list(&["subscribe", "send", "history"]);
    let forbidden = Rule {
        who: list(&["anyone"]),
        deny: all.clone(),
        destinations: list(&[FORBIDDEN]),
        ..Rule::default()
    };
    let others = Rule { who: list(&["anyone"]), may: all, destinations: list(&["**"]), ..Rule::default() };
    Rules::compile(vec![forbidden, others]).expect("they are right")
}

/// In most worlds some rooms keep their past.
fn keeping(rng: &mut StdRng) -> Destinations {
    let mut destinations = Destinations::default();
    for room in ["/topic/a", "/topic/b"] {
        let retention = rng.random_bool(0.5).then(|| Retention {
            messages_max: rng.random_range(1..200),
            bytes_max: if rng.random_bool(0.3) { 10_000 } else { 1 << 20 },
            age_max_s: if rng.random_bool(0.3) { rng.random_range(1..10) } else { 0 },
        });
        destinations.add(room, retention).expect("it is a room");
    }
    destinations
}

/// Those of all shards of a world.
pub fn draw(rng: &mut StdRng) -> ShardLimits {
    let is_for_proxies = rng.random_bool(0.5);
    ShardLimits {
        // One of the two addresses is a proxy's then.
        reach: if is_for_proxies { Reach::Anywhere } else { Reach::ThisMachine },
        trusted_proxies: is_for_proxies
            .then(|| IpNet::from(IpAddr::from([192, 0, 2, 3])))
            .into_iter()
            .collect(),
        // All come from two addresses.
        handshake: limits::Handshake {
            connections_per_address_max: if rng.random_bool(0.2) { 5 } else { 0 },
            fair_from_percent: if rng.random_bool(0.5) { 87 } else { 100 },
            ..limits::Handshake::default()
        },
        outbound: limits::Outbound {
            bytes_max: 24 * 1024,
            lag_timeout_s: rng.random_range(0..3),
            high_water_bytes: 8 * 1024,
            low_water_bytes: 2 * 1024,
            // So small that who reads slowly is cut off for what others have unsent, too.
            reactor_bytes_max: if rng.random_bool(0.3) { 24 * 1024 } else { 512 << 20 },
            ..limits::Outbound::default()
        },
        // Half of the worlds have a room that nobody may enter.
        rules: Arc::new(if rng.random_bool(0.5) { forbidding() } else { Rules::default() }),
        refusals: if rng.random_bool(0.5) { Refusals::Message } else { Refusals::Error },
        // Two have one name where they have to prove it, now and then.
        sessions_per_login_max: u32::from(rng.random_bool(0.5)),
        // So low that who publishes much is read later, now and then.
        rate: limits::Rate {
            session_messages_per_s: if rng.random_bool(0.3) { 2 } else { 0 },
            login_bytes_per_s: if rng.random_bool(0.3) { 500 } else { 0 },
            ..limits::Rate::default()
        },
        // So short that those who read slowly are taken for dead now and then.
        keepalive: limits::KeepAlive {
            ws_ping_interval_s: if rng.random_bool(0.5) { 3 } else { 0 },
            ws_pong_timeout_s: 2,
            ..limits::KeepAlive::default()
        },
        // So small that publishers are held up.
        mesh: limits::Mesh { messages_max: 3, bytes_max: 4 * 1024 },
        // So small that rooms wait for their turn.
        turn: limits::Turn { room_members_max: 2, members_max: 3, ..limits::Turn::default() },
        // Clocks jump by an hour: what queues hold is not to be forgotten for that.
        rooms: limits::Rooms {
            // In half of the worlds a message that was refused is soon a dead letter.
            deliveries_max: if rng.random_bool(0.5) { rng.random_range(1..3) } else { 60_000 },
            queue_idle_s: u32::MAX,
            queue_messages_max: if rng.random_bool(0.2) { 8 } else { 1000 },
            // So small that rooms are full.
            parked_bytes_max: if rng.random_bool(0.3) { 256 } else { 64 << 20 },
            pending_bytes_max: if rng.random_bool(0.5) { 1024 } else { 64 * 1024 },
            ack_timeout_s: u32::MAX,
            flush_delay_us: if rng.random_bool(0.5) { 500 } else { 0 },
            ..limits::Rooms::default()
        },
        // So small that what rooms keep is dropped while somebody recovers it.
        history: limits::History {
            bytes_max: if rng.random_bool(0.3) { 4 * 1024 } else { 1 << 20 },
            page_bytes_max: [300, 600, 5000][rng.random_range(0..3)],
            recovered_messages_max: if rng.random_bool(0.2) { 5 } else { 10_000 },
        },
        destinations: Arc::new(keeping(rng)),
        flush_delay_destinations: ["/topic/a", "/user/*"]
            .iter()
            .filter_map(|text| Pattern::parse(text))
            .collect(),
        ..ShardLimits::default()
    }
}
