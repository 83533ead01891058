//! The parts of the memory of a server, from its real structures.
//!
//! Shards and table of a server are filled with the bytes of as many clients, in this process, and asked what
//! they take. The reactors' own arrays are counted by their constant, because there are no reactors here.
//!
//! Invariant: with [`Part::used`] summed over the rows, each byte is counted once.

use serde::Serialize;
use tcbchat::footprint::Part;
use tcbchat::net::socket;
use tcbchat::shard::memory::{CONNECTION_BYTES, Memory, SESSION_BYTES, SLOT_BYTES, SUBSCRIPTION_BYTES};
use tcbchat::tcb::TCB_BYTES;
use tcbchat_bench::crowd::Crowd;

/// The id with which `client-sim` subscribes.
const SUBSCRIPTION_ID: &str = "0";

/// Bytes of one bucket of the TCB index; the server's default is one for each place.
const BUCKET_BYTES: u32 = 4;

/// One part, per connection.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it is for.
    pub part: &'static str,
    /// Bytes in use.
    pub used_bytes: f64,
    /// Bytes asked of the allocator.
    pub reserved_bytes: f64,
}

/// The parts of a server with so many idle sessions, each subscribed to one room.
pub fn of_server(
    connections: u32,
    capacity: u32,
    reactors: u16,
    room_size: u32,
    room_prefix: &str,
) -> Vec<Row> {
    let mut crowd = Crowd::new(reactors, capacity);
    crowd.gather(connections, |n| (SUBSCRIPTION_ID.into(), format!("/topic/{room_prefix}{}", n / room_size)));
    rows(&crowd, connections, capacity)
}

fn rows(crowd: &Crowd, connections: u32, capacity: u32) -> Vec<Row> {
    let tcb = crowd.tcbs().stats();
    let memory: Vec<Memory> = crowd.shards().iter().map(tcbchat::shard::Shard::memory).collect();
    let sum = |part: fn(&Memory) -> Part| memory.iter().map(part).sum::<Part>();
    let (count, capacity) = (connections as usize, capacity as usize);
    let slots = sum(|memory| memory.slots).reserved as usize / SLOT_BYTES;
    [
        ("TCB", Part { used: u64::from(tcb.established) * TCB_BYTES as u64, reserved: tcb.tcb_bytes }),
        // A connection's share of the buckets is one; the others are the capacity's that is not used.
        ("hash index", Part { used: count as u64 * u64::from(BUCKET_BYTES), reserved: tcb.index_bytes }),
        ("connection", Part::array(count, slots, CONNECTION_BYTES)),
        ("session", Part::array(count, slots, SESSION_BYTES)),
        ("subscription", Part::array(count, slots, SUBSCRIPTION_BYTES)),
        ("further subscriptions", sum(|memory| memory.more_subscriptions)),
        ("room membership", sum(|memory| memory.members)),
        ("room, shared by its members", sum(|memory| memory.rooms)),
        ("interned forms and names", sum(|memory| memory.interned)),
        ("timer", sum(|memory| memory.timers)),
        ("socket and readiness", Part::array(count, capacity, socket::BYTES_PER_SOCKET)),
        ("buffers", sum(|memory| memory.buffers)),
        ("lists of a turn", sum(|memory| memory.lists)),
    ]
    .map(|(part, bytes)| Row {
        part,
        used_bytes: bytes.used as f64 / f64::from(connections),
        reserved_bytes: bytes.reserved as f64 / f64::from(connections),
    })
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_sessions_hold_no_buffers_and_everything_else_once() {
        let rows = of_server(400, 400, 2, 100, "x");
        let used = |part: &str| rows.iter().find(|row| row.part == part).unwrap().used_bytes;
        assert_eq!(used("TCB"), TCB_BYTES as f64);
        assert_eq!(used("hash index"), 4.0);
        assert_eq!(used("timer"), 12.0);
        assert_eq!(used("room membership"), 8.0);
        assert_eq!(used("buffers") + used("further subscriptions") + used("lists of a turn"), 0.0);
        let slot = used("connection") + used("session") + used("subscription");
        assert_eq!(slot, SLOT_BYTES as f64);
        assert!(rows.iter().all(|row| row.reserved_bytes >= row.used_bytes), "{rows:?}");
    }
}
