//! Every bound of the program, in one place.
//!
//! A bound is a number with a unit, a default, a permitted range and a reason. The structs below are at
//! once the sections of the configuration file and the values that the layers above are given, so a limit
//! cannot exist that an operator cannot see and set. Names follow one rule: noun, unit, `max`
//! (`frame_bytes_max`); times end in `_ms`.
//!
//! This module holds no state and reads no machine: capacities that depend on the machine (descriptors,
//! cores, memory) are derived in [`crate::config`], by addition, from the numbers here.
//!
//! Invariant: every `default` lies inside its own `range`; a unit test checks it for every row.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// One bound as documentation and validation see it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Section of the configuration file, without brackets (`stomp`).
    pub section: &'static str,
    /// Key inside the section (`body_bytes_max`).
    pub key: &'static str,
    /// What the bound is for, in a sentence or two.
    pub doc: &'static str,
    /// Value when the configuration says nothing.
    pub default: u64,
    /// Values that the program accepts.
    pub range: RangeInclusive<u64>,
}

/// A configured number outside its [`Spec::range`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfRange {
    /// Section of the configuration file.
    pub section: &'static str,
    /// Key inside the section.
    pub key: &'static str,
    /// The value that was given.
    pub value: u64,
    /// The permitted values.
    pub range: RangeInclusive<u64>,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{} = {}: allowed are {} to {}",
            self.section,
            self.key,
            self.value,
            self.range.start(),
            self.range.end()
        )
    }
}

impl std::error::Error for OutOfRange {}

/// Declares one section: a struct of numbers, its defaults, its table of [`Spec`]s and its range check.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident, $section:literal {
            $( $(#[doc = $doc:literal])+ $field:ident : $ty:ty = $default:expr, $range:expr; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                #[doc = concat!("\n\nDefault `", stringify!($default), "`, allowed `", stringify!($range), "`.")]
                pub $field: $ty,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $name {
            /// The bounds of this section, in the order of the configuration file.
            pub fn specs() -> Vec<Spec> {
                vec![ $( Spec {
                    section: $section,
                    key: stringify!($field),
                    doc: concat!($($doc, "\n"),+).trim(),
                    default: $default,
                    range: $range,
                }, )+ ]
            }

            /// Checks every number against its range.
            ///
            /// # Errors
            /// The first number that is outside.
            pub fn check(&self) -> Result<(), OutOfRange> {
                $(
                    let value = u64::from(self.$field);
                    let range: RangeInclusive<u64> = $range;
                    if !range.contains(&value) {
                        return Err(OutOfRange {
                            section: $section, key: stringify!($field), value, range,
                        });
                    }
                )+
                Ok(())
            }
        }
    };
}

/// 1024 bytes.
pub const KIB: u64 = 1024;
/// 1024 KiB.
pub const MIB: u64 = 1024 * KIB;

section! {
    /// `[auth]`: who may connect (`auth.mode` and the files are no numbers).
    Auth, "auth" {
        /// Bytes of a token, wherever it stands; a longer one is refused.
        token_bytes_max: u32 = 16 * 1024, 256..=1_048_576;
        /// Seconds by which the clock of who issues tokens may be wrong: a token is taken so long before its `nbf`, and its
        /// session ends so long after its `exp`.
        leeway_s: u32 = 0, 0..=300;
        /// Sessions of one verified login, on all reactors; one more is refused. 0 does not bound them.
        sessions_per_login_max: u32 = 0, 0..=16_777_216;
        /// Logins that wait for one kind of check: of tokens, of passwords, of the application. One more is refused with
        /// `auth-busy`.
        queue_max: u32 = 10_000, 1..=1_000_000;
        /// Bytes of what clients say of themselves that waits for one kind of check. One more is refused with `auth-busy`.
        queue_bytes_max: u64 = 64 * MIB, KIB..=1 << 40;
        /// Wrong passwords from one address (of IPv6: from one /64) in a minute, past which its passwords are refused unseen.
        /// Loopback addresses are not judged.
        failures_per_address_max: u32 = 30, 1..=1_000_000;
        /// Wrong passwords for one login in a minute, past which those from addresses that it has not logged in from are
        /// refused unseen.
        failures_per_login_max: u32 = 10, 1..=1_000_000;
        /// Milliseconds in which the application must say who a client is.
        http_timeout_ms: u32 = 3_000, 10..=60_000;
        /// Questions to the application at once. Each is a thread.
        http_requests_max: u32 = 8, 1..=256;
    }
}

section! {
    /// `[handshake]`: from `accept` to the end of the WebSocket opening handshake.
    Handshake, "handshake" {
        /// Bytes of an HTTP request head; more is answered with 431.
        head_bytes_max: u32 = 16 * 1024, 512..=65_536;
        /// Header fields of an HTTP request; more is answered with 431.
        headers_max: u32 = 64, 8..=256;
        /// Milliseconds from `accept` to a complete request head; later is answered with 408.
        timeout_ms: u32 = 10_000, 100..=600_000;
        /// Milliseconds from the end of the opening handshake to the STOMP CONNECT frame.
        connect_timeout_ms: u32 = 10_000, 100..=600_000;
        /// Connections of one reactor that may be in the handshake at once; one more is closed
        /// unanswered and counted.
        pending_max: u32 = 16_384, 1..=16_777_216;
        /// Connections from one address (of IPv6: from one /64), on all reactors, that may be in the handshake
        /// at once; one more is reset unanswered and counted. Half of `pending_max`, so that nobody can fill a
        /// reactor alone. Behind a proxy all connections come from one address.
        pending_per_address_max: u32 = 8_192, 1..=16_777_216;
        /// WebSockets of one address (of IPv6: of one /64), on all reactors; one more is answered 429. 0 does not bound them.
        /// Loopback addresses, and proxies of `http.trusted_proxies` that name nobody, are not bounded.
        connections_per_address_max: u32 = 0, 0..=16_777_216;
        /// Connections of one reactor that are answered 503 at once while the TCB table is full; one more
        /// is closed unanswered and counted.
        refusals_max: u32 = 64, 1..=4096;
        /// Percent of `tcb.capacity` that is open to all. Past it, who would have more places than are free then, and
        /// more than a 256th of all, is answered 503, by address (of IPv6: by /64). Loopback addresses and proxies of
        /// `http.trusted_proxies` are not judged: name a balancer on another machine there. 100 switches that off.
        fair_from_percent: u32 = 87, 0..=100;
        /// Bytes of tokens, passwords and headers that one reactor keeps until it is known who the clients are. Past three
        /// quarters of it, who has more than is still free is answered 503, or at CONNECT `auth-busy`.
        credentials_bytes_max: u64 = 32 * MIB, 64 * KIB..=1 << 40;
        /// Seconds a refused client is told to wait (`Retry-After`).
        retry_after_s: u32 = 5, 1..=3600;
    }
}

section! {
    /// `[websocket]`: RFC 6455 framing on `/ws`.
    WebSocket, "websocket" {
        /// Payload bytes of one WebSocket frame; more is closed with 1009.
        frame_bytes_max: u64 = 2 * MIB, 125..=1 << 30;
        /// Payload bytes of one WebSocket message over all its fragments; more is closed with 1009.
        message_bytes_max: u64 = 2 * MIB, 125..=1 << 30;
        /// Fragments of one WebSocket message; more is closed with 1009.
        fragments_max: u32 = 4096, 1..=16_777_216;
        /// Milliseconds that a close waits for the peer: its close frame, the end of its stream, and the
        /// bytes still unsent to it. Then the socket is reset.
        close_timeout_ms: u32 = 5_000, 100..=600_000;
    }
}

section! {
    /// `[keepalive]`: how peers that vanish without a word are found.
    KeepAlive, "keepalive" {
        /// Seconds of silence after which the kernel probes a connection (TCP keep-alive); 0 switches that off.
        /// 120 is below the patience of most NAT routers and load balancers, so the probes also keep the way
        /// open, and a million idle connections cost the kernel 8,000 small packets a second.
        tcp_idle_s: u32 = 120, 0..=32_767;
        /// Seconds between two probes that are not answered.
        tcp_interval_s: u32 = 30, 1..=32_767;
        /// Unanswered probes after which the connection is given up.
        tcp_probes: u32 = 4, 1..=127;
        /// Milliseconds that sent bytes may stay unacknowledged, or a closed window closed, before the kernel
        /// gives the connection up (TCP_USER_TIMEOUT); 0 leaves that to the kernel, which takes a quarter of an hour.
        /// It counts in place of the number of probes, too. It also ends a peer that lives and does not read.
        user_timeout_ms: u32 = 0, 0..=86_400_000;
        /// Seconds of silence after which a WebSocket ping is sent to a client that promised no heart-beats; 0
        /// switches that off.
        ws_ping_interval_s: u32 = 0, 0..=86_400;
        /// Seconds after the first unanswered ping in which something must be heard; else the connection is closed,
        /// unless it acknowledges what was sent to it before. May be longer than the interval.
        ws_pong_timeout_s: u32 = 10, 1..=86_400;
    }
}

section! {
    /// `[echo]`: the `/echo` endpoint for conformance suites, off unless `--echo` is given.
    Echo, "echo" {
        /// Payload bytes of one WebSocket frame.
        frame_bytes_max: u64 = 16 * MIB, 125..=1 << 30;
        /// Payload bytes of one message over all its fragments.
        message_bytes_max: u64 = 16 * MIB, 125..=1 << 30;
        /// Fragments of one message.
        fragments_max: u32 = 65_536, 1..=16_777_216;
        /// Unsent bytes of one echo connection; past it the connection is closed with 1008.
        outbound_bytes_max: u64 = 64 * MIB, 4096..=1 << 32;
    }
}

section! {
    /// `[stomp]`: STOMP frames and sessions.
    Stomp, "stomp" {
        /// Bytes of the command line and all header lines of one STOMP frame.
        head_bytes_max: u32 = 16 * 1024, 256..=1_048_576;
        /// Bytes of one header line (name, colon and value, as sent).
        header_bytes_max: u32 = 4 * 1024, 64..=1_048_576;
        /// Bytes of one header line of CONNECT or STOMP: a token may be longer than any other header.
        connect_header_bytes_max: u32 = 12 * 1024, 64..=1_048_576;
        /// Header lines of one STOMP frame.
        headers_max: u32 = 64, 8..=1024;
        /// Bytes of the body of one STOMP frame.
        body_bytes_max: u32 = 1024 * 1024 + 64 * 1024, 1..=268_435_456;
        /// Bytes of a destination.
        destination_bytes_max: u32 = 255, 16..=4096;
        /// Bytes of a subscription id, a receipt id, a transaction id or a login, each.
        id_bytes_max: u32 = 255, 16..=4096;
        /// Subscriptions of one session.
        subscriptions_max: u32 = 256, 1..=65_536;
        /// Subscriptions of one session to one destination. In a room each of them gets every message.
        subscriptions_per_destination_max: u32 = 32, 1..=65_536;
        /// Open transactions of one session.
        transactions_max: u32 = 8, 1..=1024;
        /// Frames held by the open transactions of one session.
        transaction_frames_max: u32 = 256, 1..=65_536;
        /// Bytes held by the open transactions of one session.
        transaction_bytes_max: u32 = 1024 * 1024, 1024..=268_435_456;
        /// Bytes held by the open transactions of all sessions of one reactor. Past three quarters of it, a session that adds
        /// to them is ended if its client has more than is still free.
        reactor_transaction_bytes_max: u64 = 128 * MIB, 1024..=1 << 40;
        /// Shortest heart-beat interval, in milliseconds, that the server agrees to, in either direction.
        heart_beat_min_ms: u32 = 1_000, 100..=3_600_000;
        /// Longest heart-beat interval, in milliseconds, at which the server sends.
        heart_beat_max_ms: u32 = 300_000, 1_000..=3_600_000;
    }
}

section! {
    /// `[rate]`: how fast clients may publish. Who is faster is read later, and nothing is refused. Each reactor counts for
    /// itself.
    Rate, "rate" {
        /// SENDs of one session in a second; 0 does not bound them.
        session_messages_per_s: u32 = 0, 0..=10_000_000;
        /// Bytes of the SENDs of one session in a second; 0 does not bound them.
        session_bytes_per_s: u64 = 0, 0..=1 << 40;
        /// SENDs of all sessions of one verified login in a second; 0 does not bound them.
        login_messages_per_s: u32 = 0, 0..=10_000_000;
        /// Bytes of the SENDs of all sessions of one verified login in a second; 0 does not bound them.
        login_bytes_per_s: u64 = 0, 0..=1 << 40;
        /// Seconds of its rate that somebody who was silent may publish at once.
        burst_s: u32 = 2, 1..=3_600;
    }
}

section! {
    /// `[outbound]`: what waits to be sent to one connection.
    Outbound, "outbound" {
        /// Unsent bytes past which a connection is cut off as a slow consumer (STOMP ERROR, close 1008): answers, and messages of
        /// rooms that it has not been sent. See `lag_timeout_s`.
        bytes_max: u64 = 4 * MIB, 64 * KIB..=1 << 32;
        /// Seconds for which that may be so, as far as it is messages of rooms: a reader that keeps up in the long run is not cut
        /// off for a burst of somebody else. 0 cuts it off at once, as answers alone always do.
        lag_timeout_s: u32 = 5, 0..=3_600;
        /// Bytes of unsent answers above which the server stops reading from that connection. Messages of rooms do not count.
        high_water_bytes: u64 = 256 * KIB, KIB..=1 << 32;
        /// Bytes of unsent answers at which it reads on.
        low_water_bytes: u64 = 64 * KIB, 0..=1 << 32;
        /// Unsent bytes of all connections of one reactor together, a message to a room once. Past three quarters of it,
        /// connections of whoever has most are cut off.
        reactor_bytes_max: u64 = 512 * MIB, MIB..=1 << 40;
        /// Bytes that the kernel keeps unsent for one connection at most, beside what is under way to the peer
        /// (TCP_NOTSENT_LOWAT). A peer that does not read costs the kernel no more; 0 leaves that to `net.ipv4.tcp_wmem`.
        kernel_unsent_bytes_max: u32 = 128 * 1024, 0..=1 << 30;
    }
}

section! {
    /// `[buffers]`: leases for incomplete input.
    Buffers, "buffers" {
        /// Bytes that one reactor leases for incomplete frames at most. Past three quarters of it, connections of whoever has
        /// most are closed with 1013.
        reactor_bytes_max: u64 = 512 * MIB, MIB..=1 << 40;
        /// Seconds in which an incomplete frame must be completed, or grow by 16 KiB; else its session is ended.
        progress_timeout_s: u32 = 60, 1..=86_400;
        /// Bytes of returned buffers that one reactor keeps for reuse.
        reactor_bytes_kept_max: u64 = MIB, 0..=1 << 40;
    }
}

section! {
    /// `[rooms]`: topics, user destinations and queues.
    Rooms, "rooms" {
        /// Rooms that one reactor owns at once, and, counted apart, queues. It has members in as many as all reactors own.
        rooms_max: u32 = 1_000_000, 1..=16_777_216;
        /// Bytes of messages of one room that wait to be handed to its members on one reactor. Past it the room is full: what is
        /// published to it waits, and so do its publishers, until half of it is handed out. Other rooms are not concerned.
        pending_bytes_max: u64 = MIB, KIB..=1 << 30;
        /// Bytes of publications that wait for full rooms of one owner. Past three quarters of it, a SEND to a full room is
        /// refused if its session has more parked than is still free.
        parked_bytes_max: u64 = 64 * MIB, KIB..=1 << 40;
        /// Messages that one queue keeps, those delivered and not acknowledged included. Past three quarters of this, and
        /// of the two bounds below, whoever sends may have as much as is still free.
        queue_messages_max: u32 = 1_000, 1..=1_000_000;
        /// Bytes that one queue's messages take, with what the queue needs to keep them.
        queue_bytes_max: u64 = 16 * MIB, KIB..=1 << 40;
        /// Bytes that all queues of one reactor take together, with what they need for themselves; a quarter of them is
        /// for their subscribers.
        queues_bytes_max: u64 = 256 * MIB, KIB..=1 << 40;
        /// Messages of one queue that one session may hold unacknowledged; never more than half of what the queue keeps.
        prefetch_max: u32 = 32, 1..=65_536;
        /// Seconds that a session may hold a queue message unacknowledged. Then the message goes to others, and the session
        /// gets no more of that queue until it settles something; if it settles nothing for as long again, it gets no more
        /// before it subscribes anew.
        ack_timeout_s: u32 = 1_800, 1..=604_800;
        /// Times that one queue message is delivered before it passes to `/queue/<name>.dlq`.
        deliveries_max: u32 = 16, 1..=65_536;
        /// Microseconds that a message to one of the `flush_delay_destinations` may wait for further ones, so that they
        /// leave in one write; 0 switches that off. A write costs what it costs whether it carries one message or
        /// ten, so in a busy room this trades a little latency for much CPU; in a quiet one it only costs latency.
        flush_delay_us: u32 = 0, 0..=1_000;
        /// Seconds that a queue without subscriber keeps its messages after the last change. One without messages goes with
        /// its last subscriber.
        queue_idle_s: u32 = 86_400, 1..=31_536_000;
    }
}

section! {
    /// `[history]`: messages that rooms keep for who comes later. `[[destination]]` says which rooms do.
    History, "history" {
        /// Messages that rooms keep, in bytes, per reactor, with what each room takes beside them. Past three quarters of it the
        /// account is found that has most: a client with the rooms that only it uses, or a room of several. Its largest room drops
        /// its oldest messages.
        bytes_max: u64 = 64 * MIB, 4 * KIB..=1 << 40;
        /// Messages that one SUBSCRIBE gets of the past at most; of more it gets the newest, and is told so.
        recovered_messages_max: u32 = 10_000, 1..=16_777_216;
        /// Bytes of the past that a subscription is sent at a time, but for a single larger message. The next ones come when the
        /// client has read these.
        page_bytes_max: u32 = 64 * 1024, 256..=16_777_216;
    }
}

section! {
    /// `[mesh]`: mailboxes between reactors.
    Mesh, "mesh" {
        /// Messages that one reactor may have under way to one room owner before it stops reading from
        /// the publishers.
        messages_max: u32 = 8_192, 1..=16_777_216;
        /// The same, in bytes.
        bytes_max: u64 = 32 * MIB, 4 * KIB..=1 << 40;
    }
}

section! {
    /// `[turn]`: work of one connection, or of one kind, in one turn of a reactor's loop.
    Turn, "turn" {
        /// Connections accepted in one turn, so that a connect storm cannot starve those that are in.
        accepts_max: u32 = 256, 1..=65_536;
        /// Bytes read from one connection in one turn; also the size of the reactor's scratch buffer.
        read_bytes_max: u32 = 64 * 1024, 4096..=16_777_216;
        /// Timers fired in one turn.
        timers_max: u32 = 4_096, 16..=16_777_216;
        /// Connections that are told goodbye, or reset, while the server ends.
        farewells_max: u32 = 1_024, 16..=16_777_216;
        /// Members of one room that its messages are handed to in one turn; the others follow in the next turns, in
        /// order, so that a large room does not keep small ones waiting. 512 are 2 to 3 ms of writing.
        room_members_max: u32 = 512, 1..=16_777_216;
        /// Members of all rooms in one turn. Rooms with new messages come first; what is left goes to those that wait, in
        /// rotation, and one of these is served whatever is left.
        members_max: u32 = 4_096, 1..=16_777_216;
    }
}

section! {
    /// `[tcb]`: the table of TCP control blocks. `capacity` has no constant default: it is sized from
    /// the machine when 0.
    Tcb, "tcb" {
        /// Connections that the table holds, in all states; 0 sizes it from the machine.
        capacity: u32 = 0, 0..=16_777_214;
        /// Buckets of the hash index; 0 sizes it from the capacity.
        hash_buckets: u32 = 0, 0..=16_777_216;
        /// Partitions, each with a lock of its own; 0 makes it four per core.
        partitions: u32 = 0, 0..=1024;
        /// Milliseconds that a connection closed by this side stays in TIME_WAIT.
        time_wait_delay_ms: u32 = 60_000, 0..=300_000;
        /// TIME_WAIT entries that are kept at most.
        time_wait_max: u32 = 65_536, 0..=16_777_214;
    }
}

section! {
    /// `[memory]`: what the server does before the kernel ends it for want of memory.
    Memory, "memory" {
        /// Percent of the memory limit of the control group, or of one above it, from which on connections that come
        /// are answered 503; pages of files do not count. 0 switches that off. Without a limit there is nothing to keep.
        group_percent_max: u32 = 85, 0..=100;
    }
}

section! {
    /// `[log]`: the lines on their way to standard error.
    Log, "log" {
        /// Bytes of lines that wait to be written, because standard error is slower than the log or is not read; what
        /// is more is dropped and counted. No reactor ever waits for the log.
        queue_bytes_max: u32 = 1024 * 1024, 4096..=1_073_741_824;
    }
}

section! {
    /// `[drain]`: what SIGTERM begins, before the end. SIGINT leaves it out.
    Drain, "drain" {
        /// Milliseconds from SIGTERM to the first goodbye. Everything goes on, but `/readyz` is answered 503, so that
        /// load balancers send nobody else: longer than two of their checks.
        ready_grace_ms: u32 = 0, 0..=600_000;
        /// Milliseconds over which the goodbyes are spread, so that not everybody comes back at once. Meanwhile who
        /// connects is answered 503 with `Retry-After`; 0 says all goodbyes at once, and listens no more.
        spread_ms: u32 = 0, 0..=3_600_000;
    }
}

section! {
    /// `[shutdown]`: the end of the process.
    Shutdown, "shutdown" {
        /// Milliseconds from the last goodbye to the exit; connections still open then are reset.
        timeout_ms: u32 = 5_000, 0..=600_000;
    }
}

section! {
    /// `[api]`: the HTTP API (its address and files are no numbers).
    Api, "api" {
        /// Connections to the API at once; one more is closed unanswered and counted.
        connections_max: u32 = 64, 1..=4096;
        /// Requests that are under way at once; one more is answered 503.
        requests_max: u32 = 32, 1..=4096;
        /// Milliseconds in which the head of a request must come, in which its body must come (else 408), and in which it is
        /// answered. A publication that has no answer by then goes on, and is answered 504.
        request_timeout_ms: u32 = 10_000, 100..=600_000;
        /// Bytes of a request's body; more is answered 413.
        body_bytes_max: u32 = 2 * 1024 * 1024, 1024..=268_435_456;
        /// Messages of one batch; more are answered 422.
        batch_messages_max: u32 = 1_000, 1..=100_000;
        /// Entries of one page of a list; who asks for more is answered 422.
        page_entries_max: u32 = 1_000, 1..=100_000;
        /// Publications that are remembered with their Idempotency-Key, each message of a batch counted. Past it the oldest
        /// are forgotten, and counted.
        idempotency_keys_max: u32 = 10_000, 1..=10_000_000;
        /// Seconds for which they are remembered.
        idempotency_window_s: u32 = 600, 1..=86_400;
        /// Bans at once; one more is answered 503.
        bans_max: u32 = 10_000, 1..=1_000_000;
    }
}

section! {
    /// `[reactors]`: threads.
    Reactors, "reactors" {
        /// Reactor threads; 0 plans them from cores, capacity and the descriptor limit.
        count: u32 = 0, 0..=1024;
        /// Descriptors of one table that are left for everything but client connections.
        fd_reserve: u32 = 256, 32..=65_536;
    }
}

section! {
    /// `[listen]`: the listening sockets (their addresses are in `listen.address`).
    Backlog, "listen" {
        /// Connections that the kernel queues for one listener until they are accepted; the kernel caps
        /// it at `net.core.somaxconn`.
        backlog: u32 = 4_096, 1..=65_535;
    }
}

/// Every bound of every section.
pub fn specs() -> Vec<Spec> {
    [
        Auth::specs(),
        Handshake::specs(),
        WebSocket::specs(),
        KeepAlive::specs(),
        Echo::specs(),
        Stomp::specs(),
        Rate::specs(),
        Outbound::specs(),
        Buffers::specs(),
        Rooms::specs(),
        History::specs(),
        Mesh::specs(),
        Turn::specs(),
        Tcb::specs(),
        Memory::specs(),
        Log::specs(),
        Drain::specs(),
        Shutdown::specs(),
        Api::specs(),
        Reactors::specs(),
        Backlog::specs(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_in_its_range() {
        for spec in specs() {
            assert!(spec.range.contains(&spec.default), "{}.{}", spec.section, spec.key);
            assert!(!spec.doc.is_empty(), "{}.{} has no doc", spec.section, spec.key);
        }
    }

    #[test]
    fn a_number_outside_its_range_is_named() {
        let stomp = Stomp { headers_max: 1, ..Stomp::default() };
        let error = stomp.check().unwrap_err();
        assert_eq!(error.to_string(), "stomp.headers_max = 1: allowed are 8 to 1024");
    }
}
