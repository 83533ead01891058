//! What one reactor counts: names, help texts and places, declared once.
//!
//! A reactor counts in the plain integers of [`ShardCounters`], so that counting costs nothing on the data
//! path, and stores them once per turn into the atomics of [`ShardMetrics`], which any thread may read.
//! [`CATALOGUE`] describes every field to those who show them: `ops` for scrapes, and the documentation.
//!
//! This module encodes nothing and sums nothing over reactors by itself: [`ShardCounters::add`] is there for
//! whoever does. A field's name says what is counted and in which unit: `_bytes` are bytes, everything else
//! is a number of the things named; names that end in `_total` only grow, all others go up and down.
//!
//! Invariant: the counters, their atomics and the catalogue have the same fields in the same order; the
//! macro that declares them makes it so.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a number behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One number as scrapes and documentation see it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name of the field, or of the family that it is a part of; scrapes put `tcbchat_` before it.
    pub name: &'static str,
    /// The label that tells the parts of a family apart, and its value; parts are declared one after another.
    pub label: Option<(&'static str, &'static str)>,
    /// What is counted, in a sentence or two, on one line.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// The module that counts it.
    pub place: &'static str,
    /// The bounds whose refusals it counts, as keys of the configuration (`tcb.capacity`).
    pub bounds: &'static [&'static str],
}

const fn family(field: &'static str, family: &[&'static str]) -> &'static str {
    if family.is_empty() { field } else { family[0] }
}

const fn label(labels: &[(&'static str, &'static str)]) -> Option<(&'static str, &'static str)> {
    if labels.is_empty() { None } else { Some(labels[0]) }
}

/// Declares the counters, their atomics and their catalogue, grouped by the module that counts.
macro_rules! metrics {
    ( $( $place:ident { $(
        $(#[doc = $doc:literal])+
        $field:ident: $kind:ident
            $(in $family:literal $label:ident $value:literal)? $(refuses [ $($bound:literal),+ ])?;
    )+ } )+ ) => {
        /// One reactor's numbers as its own thread counts them.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct ShardCounters {
            $( $( $(#[doc = $doc])+ pub $field: u64, )+ )+
        }

        /// One reactor's numbers as other threads read them.
        ///
        /// A line of its own in every cache, because the reactor writes it each turn.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $( $( $field: AtomicU64, )+ )+
        }

        /// All numbers, in the order of their declaration.
        pub const CATALOGUE: &[Metric] = &[
            $( $( Metric {
                name: family(stringify!($field), &[$($family)?]),
                label: label(&[$( (stringify!($label), $value) )?]),
                help: concat!($($doc),+).trim_ascii(),
                kind: Kind::$kind,
                place: stringify!($place),
                bounds: &[ $( $($bound),+ )? ],
            }, )+ )+
        ];

        impl ShardCounters {
            /// Adds another reactor's numbers to these. Gauges add up as well: every gauge here is a
            /// number of things that belong to exactly one reactor.
            pub fn add(&mut self, other: &ShardCounters) {
                $( $( self.$field += other.$field; )+ )+
            }

            /// Every number with its description, in the order of [`CATALOGUE`].
            pub fn iter(&self) -> impl Iterator<Item = (&'static Metric, u64)> + use<> {
                let values = [ $( $( self.$field, )+ )+ ];
                CATALOGUE.iter().zip(values)
            }
        }

        impl ShardMetrics {
            /// Stores the numbers for other threads; called by the reactor once per turn.
            pub fn publish(&self, counters: &ShardCounters) {
                // Relaxed: each number stands for itself, and none guards other memory.
                $( $( self.$field.store(counters.$field, Ordering::Relaxed); )+ )+
            }

            /// The numbers as last published. They may come from two neighbouring turns.
            pub fn read(&self) -> ShardCounters {
                ShardCounters { $( $( $field: self.$field.load(Ordering::Relaxed), )+ )+ }
            }
        }
    };
}

metrics! {
    net {
        /// Connections taken from the listener, whatever became of them.
        connections_accepted_total: Counter;
        /// Failures of `accept` other than an empty queue: out of descriptors or memory. The acceptor backs
        /// off after each.
        accept_errors_total: Counter;
        /// Bytes read from sockets.
        bytes_received_total: Counter;
        /// Bytes that the kernel took from us.
        bytes_sent_total: Counter;
        /// Write system calls; `bytes_sent_total` over this is how well writes coalesce.
        sends_total: Counter;
        /// Turns of the reactor's loop.
        turns_total: Counter;
    }
    shard {
        /// Connections open, in any state but TIME_WAIT.
        connections_open: Gauge;
        /// Connections that have not finished their opening handshake.
        connections_half_open: Gauge;
        /// Connections refused because the TCB table is full, or this reactor's share of the descriptors is
        /// used up: answered 503 with Retry-After.
        refused_table_full_total: Counter refuses ["tcb.capacity"];
        /// Connections refused because few places are left and their address has more than those: answered 503 with
        /// Retry-After.
        refused_above_share_total: Counter refuses ["handshake.fair_from_percent"];
        /// Upgrades refused because their address has as many connections as it may: answered 429.
        refused_address_quota_total: Counter refuses ["handshake.connections_per_address_max"];
        /// Connections refused because the control group is short of memory: answered 503 with Retry-After.
        refused_memory_total: Counter refuses ["memory.group_percent_max"];
        /// Connections closed unanswered because too many are in the opening handshake.
        refused_pending_total: Counter refuses ["handshake.pending_max"];
        /// Connections closed unanswered because too many from their address are in the opening handshake.
        refused_pending_per_address_total: Counter refuses ["handshake.pending_per_address_max"];
        /// Refused connections closed unanswered because too many 503 answers are under way, or because the
        /// server is ending.
        refused_limit_total: Counter refuses ["handshake.refusals_max"];
        /// Connections that the peer ended first, in order.
        closed_by_peer_total: Counter;
        /// Connections that this server ended first, in order: it has the TIME_WAIT.
        closed_by_server_total: Counter;
        /// Connections that ended by a reset or another socket error.
        resets_total: Counter;
        /// Deadlines that came due.
        timers_fired_total: Counter;
        /// Pieces of mail taken from this reactor's mailbox.
        mailbox_messages_total: Counter;
        /// Bytes of mail that wait in this reactor's mailbox.
        mailbox_bytes: Gauge;
        /// Inquiries of services that this reactor has taken.
        inquiries_total: Counter;
        /// Times that a session was not read any further because too much mail was under way to one room owner, or
        /// waited for a reactor.
        publishers_stalled_total: Counter refuses ["mesh.messages_max", "mesh.bytes_max"];
    }
    conn {
        /// HTTP requests with a complete head, upgrades included.
        http_requests_total: Counter;
        /// Opening handshakes that were answered 101.
        upgrades_total: Counter;
        /// Connections of listen.stomp that were let in at their first bytes.
        stomp_streams_opened_total: Counter;
        /// Opening handshakes that were answered with an error (4xx), bounds of the head included.
        handshakes_failed_total: Counter refuses ["handshake.head_bytes_max", "handshake.headers_max"];
        /// Opening handshakes of pages of other sites, which http.origins does not list: answered 403.
        refused_origins_total: Counter refuses ["http.origins"];
        /// Opening handshakes of clients whose address is banned: answered 403.
        refused_banned_total: Counter;
        /// Opening handshakes that came through a proxy, or for a Host that other machines may know, while auth.mode is not set:
        /// answered 403.
        refused_proxied_total: Counter refuses ["auth.mode"];
        /// Connections that did not finish the opening handshake or CONNECT in time.
        handshake_timeouts_total: Counter refuses ["handshake.timeout_ms", "handshake.connect_timeout_ms"];
        /// WebSocket messages received whole.
        ws_messages_received_total: Counter;
        /// Connections closed for input above a bound of WebSocket (close code 1009) or STOMP (an ERROR that
        /// names the bound).
        bounds_refused_total: Counter refuses [
            "websocket.frame_bytes_max", "websocket.message_bytes_max", "websocket.fragments_max",
            "echo.frame_bytes_max", "echo.message_bytes_max", "echo.fragments_max",
            "stomp.head_bytes_max", "stomp.header_bytes_max", "stomp.connect_header_bytes_max", "stomp.headers_max",
            "stomp.body_bytes_max", "stomp.destination_bytes_max", "stomp.id_bytes_max",
            "stomp.subscriptions_max", "stomp.subscriptions_per_destination_max",
            "stomp.transactions_max", "stomp.transaction_frames_max",
            "stomp.transaction_bytes_max", "stomp.reactor_transaction_bytes_max"
        ];
        /// Connections cut off because they do not read (close code 1008, or 1013 for the reactor's bound; a reset if
        /// nothing more could be said).
        slow_consumers_total: Counter refuses [
            "outbound.bytes_max", "outbound.reactor_bytes_max", "echo.outbound_bytes_max"
        ];
        /// Unsent bytes of all connections.
        outbound_bytes: Gauge;
        /// Bytes leased for incomplete input.
        inbound_leased_bytes: Gauge;
        /// Sessions ended because an incomplete frame made no progress.
        input_timeouts_total: Counter refuses ["buffers.progress_timeout_s"];
        /// Connections closed with 1013 because incomplete frames took too much memory, theirs most of it.
        inbound_leases_exhausted_total: Counter refuses ["buffers.reactor_bytes_max"];
        /// Heart-beats sent because nothing else was.
        heart_beats_sent_total: Counter;
        /// Heart-beats received.
        heart_beats_received_total: Counter;
        /// WebSocket pings sent to clients that were silent and promised no heart-beats.
        ws_pings_sent_total: Counter;
        /// Peers that vanished without a word, by what found them.
        dead_peers_tcp_keep_alive_total: Counter in "dead_peers_total" mechanism "tcp_keep_alive";
        /// Peers that vanished without a word, by what found them.
        dead_peers_tcp_user_timeout_total: Counter in "dead_peers_total" mechanism "tcp_user_timeout";
        /// Peers that vanished without a word, by what found them.
        dead_peers_tcp_retransmission_total: Counter in "dead_peers_total" mechanism "tcp_retransmission";
        /// Peers that vanished without a word, by what found them.
        dead_peers_ws_ping_total: Counter in "dead_peers_total" mechanism "ws_ping";
        /// Peers that vanished without a word, by what found them.
        dead_peers_stomp_heart_beat_total: Counter in "dead_peers_total" mechanism "stomp_heart_beat";
    }
    chat {
        /// STOMP frames received whole, heart-beats not counted.
        stomp_frames_received_total: Counter;
        /// RECEIPT frames sent.
        receipts_sent_total: Counter;
        /// RECEIPTs that sessions were due when they ended: an owner had not answered, and the peer, or the time that an
        /// end has, was gone. Those of frames behind one that was refused are not counted.
        receipts_lost_total: Counter;
        /// Times that a session was not read for a while because it, or its login, published faster than it may.
        publishers_slowed_total: Counter refuses [
            "rate.session_messages_per_s", "rate.session_bytes_per_s", "rate.login_messages_per_s",
            "rate.login_bytes_per_s", "rate.burst_s"
        ];
        /// CONNECTs whose client has proved who it is, or need not.
        logins_total: Counter;
        /// CONNECTs and new tokens that were refused: not proved, or about somebody else.
        logins_refused_total: Counter refuses ["auth.token_bytes_max"];
        /// CONNECTs and new tokens that were refused unseen: too many at once, too many that failed, or nobody to ask.
        logins_put_off_total: Counter refuses [
            "auth.queue_max", "auth.queue_bytes_max", "auth.failures_per_address_max", "auth.failures_per_login_max", "auth.http_timeout_ms",
            "auth.http_requests_max"
        ];
        /// CONNECTs refused because their login has as many sessions as it may.
        logins_over_quota_total: Counter refuses ["auth.sessions_per_login_max"];
        /// New tokens that were accepted.
        logins_renewed_total: Counter;
        /// Sessions ended because what proved their login had expired.
        sessions_expired_total: Counter;
        /// Bytes of what clients have said of themselves, kept until it is known who they are.
        credentials_bytes: Gauge;
        /// Upgrades that were answered 503, and CONNECTs that were refused, because clients that are not known yet say too much
        /// of themselves.
        credentials_refused_total: Counter refuses ["handshake.credentials_bytes_max"];
        /// Answers of the application that reached who had asked by SUBSCRIBE to `/app/...`.
        replies_delivered_total: Counter;
        /// Answers of the application whose question had an answer, or was ended by UNSUBSCRIBE or with its session.
        replies_dropped_total: Counter;
        /// Messages to `/system/events`.
        events_told_total: Counter;
        /// Frames that were refused by a MESSAGE, so that their sessions went on (`stomp.refusals`).
        refusals_survived_total: Counter;
        /// Sessions that an operator has ended.
        sessions_kicked_total: Counter;
        /// Sessions that were ended, or CONNECTs that were refused, because their login or address is banned.
        sessions_banned_total: Counter;
        /// Frames that the rules did not allow.
        frames_forbidden_total: Counter;
        /// ERROR frames sent; the connection is closed after each.
        errors_sent_total: Counter;
        /// Messages accepted from SEND frames.
        messages_published_total: Counter;
        /// Messages handed out, once for each subscription, those of sessions that are being cut off included.
        messages_delivered_total: Counter;
        /// Times that the rest of a room's members, or a room, was left for the next turn.
        fanouts_put_off_total: Counter;
        /// Times that a room became full: more waited for its members here than may.
        rooms_full_total: Counter refuses ["rooms.pending_bytes_max"];
        /// Publications that waited for a full room that this reactor owns.
        publications_parked_total: Counter;
        /// Publications to full rooms that were refused because too much waits for such rooms.
        publications_refused_total: Counter refuses ["rooms.parked_bytes_max"];
        /// Bytes of publications that wait for full rooms.
        publications_parked_bytes: Gauge;
        /// SUBSCRIBEs that asked for the past and were answered.
        recoveries_total: Counter;
        /// SUBSCRIBEs that did not get all of the past that they asked for: it was dropped, or is more than one may get.
        recoveries_incomplete_total: Counter refuses ["history.recovered_messages_max"];
        /// SUBSCRIBEs that asked for what is behind a position of an epoch that has ended, as all have when the server restarts.
        recoveries_anew_total: Counter;
        /// Messages of the past that were sent.
        recovered_messages_total: Counter;
        /// MESSAGEs that told subscriptions of the past where they are in it.
        recovery_markers_total: Counter;
        /// Subscriptions that get the past now.
        recovering_subscriptions: Gauge;
        /// Messages that rooms keep.
        history_messages: Gauge;
        /// Bytes of these.
        history_bytes: Gauge;
        /// Messages that rooms have dropped from their past: for its number, bytes or age, or for `history.bytes_max`.
        history_dropped_total: Counter;
        /// Messages of the past that rooms had to drop for `history.bytes_max`.
        history_relieved_total: Counter refuses ["history.bytes_max"];
        /// Times that a room's messages were kept for `rooms.flush_delay_us`.
        fanouts_delayed_total: Counter;
        /// Rooms with messages that some of their members here have not been handed yet.
        rooms_waiting: Gauge;
        /// Bytes held by open transactions.
        transaction_bytes: Gauge;
        /// Subscriptions of all sessions.
        subscriptions: Gauge;
        /// Rooms that this reactor owns or has members in.
        rooms: Gauge;
        /// Queues that this reactor owns.
        queues: Gauge;
        /// Subscriptions, and messages to rooms that would keep them, refused because this reactor has too many rooms or queues, or
        /// because queues take too much.
        rooms_refused_total: Counter refuses ["rooms.rooms_max", "rooms.queues_bytes_max"];
        /// Messages kept by queues, those delivered and not acknowledged included.
        queue_messages: Gauge;
        /// Messages refused by a full queue, dead letters among them.
        queue_messages_refused_total: Counter refuses [
            "rooms.queue_messages_max", "rooms.queue_bytes_max", "rooms.queues_bytes_max"
        ];
        /// Messages forgotten with a queue that nobody had used for `rooms.queue_idle_s`.
        queue_messages_expired_total: Counter refuses ["rooms.queue_idle_s"];
        /// Queue messages that were not settled for `rooms.ack_timeout_s` and went back.
        queue_ack_timeouts_total: Counter refuses ["rooms.ack_timeout_s"];
        /// Consumers that get nothing any more until they subscribe anew: they let messages run out of time, then did nothing.
        queue_consumers_dismissed_total: Counter;
        /// Bytes that queues take with their messages and subscribers, of `rooms.queues_bytes_max`.
        queue_bytes: Gauge;
        /// Queue messages delivered again after NACK, a time-out or a lost connection.
        queue_redelivered_total: Counter;
        /// Queue messages moved to a dead-letter queue after too many deliveries.
        queue_dead_lettered_total: Counter refuses ["rooms.deliveries_max"];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_kind() {
        for metric in CATALOGUE {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{} has no sentence", metric.name);
        }
    }

    #[test]
    fn published_numbers_are_read_back_by_name() {
        let counters = ShardCounters { upgrades_total: 7, rooms: 3, ..ShardCounters::default() };
        let metrics = ShardMetrics::default();
        metrics.publish(&counters);
        assert_eq!(metrics.read(), counters);

        let named: Vec<_> = metrics.read().iter().filter(|(_, value)| *value > 0).collect();
        let named: Vec<_> = named.iter().map(|(metric, value)| (metric.name, *value)).collect();
        assert_eq!(named, [("upgrades_total", 7), ("rooms", 3)]);
    }

    #[test]
    fn reactors_add_up() {
        let mut sum = ShardCounters { turns_total: 2, rooms: 1, ..ShardCounters::default() };
        sum.add(&ShardCounters { turns_total: 5, ..ShardCounters::default() });
        assert_eq!((sum.turns_total, sum.rooms), (7, 1));
    }
}
