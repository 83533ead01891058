//! What a run has reached: reasons to hold, mail, the service's ways, faults, and every number that a shard counts.
//!
//! Invariant: what is not excused in [`EXCUSED`] and was never reached fails a long run ([`Coverage::missing`]).

use std::collections::BTreeMap;

use tcbchat::conn::hold::Reason;
use tcbchat::metrics::{Kind, ShardCounters};
use tcbchat::shard::Shard;

/// What must be reached beside the counters and the reasons to hold.
const WANTED: [(&str, &[&str]); 8] = [
    (
        "mail",
        &[
            "Subscribe to a queue",
            "Subscribe to a room",
            "Recover",
            "Unsubscribe from a queue",
            "Unsubscribe from a room, awaited",
            "Unsubscribe from a room",
            "Publish a dead letter",
            "Publish an answer",
            "Publish",
            "Deliver",
            "Completed: a dead letter",
            "Completed: Subscribed to a queue",
            "Completed: Subscribed to a room",
            "Completed: Subscribed to a room, with nothing to recover",
            "Completed: Recovering",
            "Completed: a page",
            "Completed: the last page",
            "Completed: Unsubscribed",
            "Completed: Published",
            "Completed: Identified",
            "Completed: Refused",
            "Handled",
            "RoomFull",
            "RoomFull, no more",
            "Parked",
            "Parked, no more",
            "Settle: Ack",
            "Settle: Nack",
            "Offer",
            "Inquire: Publish",
            "Inquire: Sessions",
            "Inquire: Session",
            "Inquire: Rooms",
            "Inquire: Queues",
            "Inquire: End",
            "Inquire: Ban",
        ],
    ),
    (
        "inquiry",
        &[
            "published",
            "refused: queue-full",
            "sessions",
            "sessions, and more",
            "a session",
            "a session that is gone",
            "rooms",
            "queues",
            "ended",
            "banned",
        ],
    ),
    (
        "service",
        &[
            "never completes",
            "refuses",
            "completes late",
            "completes in another order",
            "completes for a session that has ended",
            "stray of an ended session",
            "stray of a live one",
        ],
    ),
    (
        "gate",
        &[
            "refuses",
            "never answers",
            "lets somebody in who is nobody",
            "says when it ends",
            "says who it is",
        ],
    ),
    (
        "breath",
        &[
            "SEND, UNSUBSCRIBE",
            "SEND, SUBSCRIBE",
            "SUBSCRIBE, SEND",
            "SUBSCRIBE, SEND elsewhere",
            "UNSUBSCRIBE, SUBSCRIBE with its id",
            "SUBSCRIBE to a queue, a reset",
            "an answer to a message",
        ],
    ),
    (
        "question",
        &[
            "a program comes",
            "asked",
            "asked with an id that was in use",
            "ended before its answer",
            "ended behind its answer",
            "answered",
            "answered again",
        ],
    ),
    ("refusal", &["forbidden", "no-such-subscription", "queue-full", "auth-busy", "auth-unavailable"]),
    (
        "fault",
        &[
            "slow-consumer",
            "outbound-exhausted",
            "heart-beat-timeout",
            "pong-timeout",
            "connect-timeout",
            "not-authenticated",
            "not-authenticated at CONNECT",
            "auth-busy",
            "auth-unavailable",
            "expired",
            "forbidden",
            "kicked",
            "banned",
            "nothing-to-renew",
        ],
    ),
];

/// Counters that no shard without sockets reaches, or that bounds of the world keep away.
const EXCUSED: [&str; 16] = [
    // The reactor counts, or tells of, these.
    "accept_errors_total",
    "bytes_received_total",
    "refused_memory_total",
    "dead_peers_total tcp_keep_alive",
    "dead_peers_total tcp_user_timeout",
    "dead_peers_total tcp_retransmission",
    // The bounds are far: component tests and `tests/sockets` hold them.
    "refused_pending_total",
    "refused_limit_total",
    "credentials_refused_total",
    "bounds_refused_total",
    "input_timeouts_total",
    "inbound_leases_exhausted_total",
    "rooms_refused_total",
    // An hour's leap must not cost what queues hold.
    "queue_messages_expired_total",
    "queue_ack_timeouts_total",
    "queue_consumers_dismissed_total",
];

/// See the module.
#[derive(Default)]
pub struct Coverage(BTreeMap<(&'static str, String), u64>);

impl Coverage {
    /// Something was reached once more.
    pub fn note(&mut self, group: &'static str, what: &str) {
        self.note_times(group, what, 1);
    }

    fn note_times(&mut self, group: &'static str, what: &str, times: u64) {
        match self.0.get_mut(&(group, what.to_owned())) {
            Some(count) => *count += times,
            None => drop(self.0.insert((group, what.to_owned()), times)),
        }
    }

    /// What a shard has counted in its life.
    pub fn note_shard(&mut self, shard: &Shard) {
        for reason in Reason::ALL {
            self.note_times("hold", &format!("{reason:?}"), shard.holds_total(reason));
        }
        self.note_counters(shard.counters());
    }

    fn note_counters(&mut self, counters: &ShardCounters) {
        for (metric, value) in counters.iter().filter(|(metric, _)| metric.kind == Kind::Counter) {
            let name = match metric.label {
                Some((_, part)) => format!("{} {part}", metric.name),
                None => metric.name.to_owned(),
            };
            self.note_times("count", &name, value);
        }
    }

    /// Adds another world's.
    pub fn add(&mut self, other: Coverage) {
        for ((group, what), count) in other.0 {
            self.note_times(group, &what, count);
        }
    }

    /// Prints the table.
    pub fn print(&self) {
        for ((group, what), count) in &self.0 {
            println!("{group:8} {what:45} {count}");
        }
    }

    /// What was never reached.
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        for (group, wanted) in WANTED {
            let is_missing = |what: &&&str| !self.0.contains_key(&(group, (**what).to_owned()));
            missing.extend(wanted.iter().filter(is_missing).map(|what| format!("{group}: {what}")));
        }
        for ((group, what), count) in &self.0 {
            if *count == 0 && !EXCUSED.contains(&what.as_str()) {
                missing.push(format!("{group}: {what}"));
            }
        }
        missing
    }
}
