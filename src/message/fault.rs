//! Why a session ends: every reason, with its name, its sentence and its close code, in one table.
//!
//! A fault becomes a STOMP ERROR (the sentence is its `message` header), then a WebSocket close with the
//! code, then a counter. `docs/PROTOCOL.md` prints this table; a test keeps the two the same.
//!
//! Invariant: the sentence of a broken bound names the bound's configuration key and its value.

use std::fmt;

use crate::message::destination::BadDestination;
use crate::wire::stomp::{Command, StompError};

/// A reason to send ERROR and close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The codec refused the bytes.
    Malformed(StompError),
    /// A frame other than CONNECT or STOMP before the session is connected.
    NotConnected(Command),
    /// A second CONNECT.
    AlreadyConnected,
    /// `accept-version` has none of 1.2, 1.1, 1.0.
    NoCommonVersion,
    /// A frame that only servers send.
    ServerCommand(Command),
    /// A header that the frame needs is not there.
    MissingHeader {
        /// The frame.
        command: Command,
        /// The header.
        header: &'static str,
    },
    /// A destination that this server does not know.
    BadDestination(BadDestination),
    /// `stomp.destination_bytes_max`.
    DestinationTooLong {
        /// The bound, in bytes.
        max: u32,
    },
    /// `stomp.id_bytes_max`.
    IdTooLong {
        /// The header.
        header: &'static str,
        /// The bound, in bytes.
        max: u32,
    },
    /// `ack` is not auto, client or client-individual.
    BadAckMode,
    /// `history` is no number, `since` no position, both are there, or the destination is no room.
    BadPast,
    /// SUBSCRIBE with a condition on the messages that it wants.
    SelectorNotSupported,
    /// `heart-beat` is not two numbers.
    BadHeartBeat,
    /// The session has a subscription with this id.
    SubscriptionExists,
    /// The session has no subscription with this id.
    NoSuchSubscription,
    /// `stomp.subscriptions_max`.
    TooManySubscriptions {
        /// The bound.
        max: u32,
    },
    /// `stomp.subscriptions_per_destination_max`.
    TooManySubscriptionsHere {
        /// The bound.
        max: u32,
    },
    /// An ACK or NACK of a message that does not wait for one.
    UnknownAck,
    /// BEGIN of a transaction that is open.
    TransactionExists,
    /// A transaction that is not open.
    NoSuchTransaction,
    /// `stomp.transactions_max`.
    TooManyTransactions {
        /// The bound.
        max: u32,
    },
    /// `stomp.transaction_frames_max`.
    TransactionTooLong {
        /// The bound, in frames.
        max: u32,
    },
    /// `stomp.transaction_bytes_max`.
    TransactionTooLarge {
        /// The bound, in bytes.
        max: u32,
    },
    /// `rooms.rooms_max`.
    TooManyRooms {
        /// The bound.
        max: u32,
    },
    /// `rooms.queue_messages_max`, `rooms.queue_bytes_max` or `rooms.queues_bytes_max`.
    QueueFull {
        /// The key of the bound.
        bound: &'static str,
        /// The bound.
        max: u64,
    },
    /// `rooms.parked_bytes_max`: the room is full, and too much waits for such rooms.
    RoomFull {
        /// The bound, in bytes.
        max: u64,
    },
    /// `outbound.bytes_max`.
    SlowConsumer {
        /// The bound, in bytes.
        max: u64,
    },
    /// `outbound.reactor_bytes_max`.
    OutboundExhausted {
        /// The bound, in bytes.
        max: u64,
    },
    /// `buffers.reactor_bytes_max`.
    BuffersExhausted {
        /// The bound, in bytes.
        max: u64,
    },
    /// `buffers.progress_timeout_s`: an incomplete frame made no progress.
    InputTimeout {
        /// The bound, in seconds.
        max: u32,
    },
    /// `stomp.reactor_transaction_bytes_max`: the open transactions of all sessions hold too much.
    TransactionsExhausted {
        /// The bound, in bytes.
        max: u64,
    },
    /// The client promised heart-beats and was silent for too long.
    HeartBeatTimeout {
        /// How long, in milliseconds.
        silent_ms: u32,
    },
    /// The client did not answer a WebSocket ping within `keepalive.ws_pong_timeout_s`.
    PongTimeout {
        /// How long nothing was heard, in milliseconds.
        silent_ms: u32,
    },
    /// `handshake.connect_timeout_ms`.
    ConnectTimeout {
        /// The bound, in milliseconds.
        max: u32,
    },
    /// The same, and a frame has begun that has not ended.
    ConnectUnfinished {
        /// The bound, in milliseconds.
        max: u32,
    },
    /// A header that would be right without the blanks at its ends: `name = "value"`.
    Blanks(Box<str>),
    /// The client did not prove who it is, and this is why.
    NotAuthenticated(Box<str>),
    /// As many clients prove who they are as may, or this one has failed too often.
    AuthBusy,
    /// What is asked who a client is does not answer.
    AuthUnavailable,
    /// What proved who the client is holds no longer.
    Expired,
    /// `auth.sessions_per_login_max`.
    TooManySessions {
        /// The bound.
        max: u32,
    },
    /// SEND to `/session/token` where nobody has to prove anything.
    NothingToRenew,
    /// An operator has ended the session.
    Kicked {
        /// Why, in the operator's words; may be empty.
        reason: Box<str>,
    },
    /// An operator has banned the login or the address.
    Banned {
        /// Why, in the operator's words; may be empty.
        reason: Box<str>,
    },
    /// The rules do not let this client do this.
    Forbidden {
        /// What it asked for: `send`, `subscribe`.
        action: &'static str,
        /// The destination.
        destination: Box<str>,
    },
}

/// How a frame is refused that is right in itself, and asks for what it does not get: see [`Fault::is_refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refusals {
    /// By an ERROR, which ends the session (STOMP 1.2, ERROR).
    #[default]
    Error,
    /// By a MESSAGE; the session goes on.
    Message,
}

impl Fault {
    /// Whether a connected session can go on after it: the frame was understood, has had no effect, and the next one does not
    /// depend on it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Fault::BadDestination(_)
                | Fault::DestinationTooLong { .. }
                | Fault::SelectorNotSupported
                | Fault::SubscriptionExists
                | Fault::NoSuchSubscription
                | Fault::TooManySubscriptions { .. }
                | Fault::TooManySubscriptionsHere { .. }
                | Fault::UnknownAck
                | Fault::TooManyRooms { .. }
                | Fault::QueueFull { .. }
                | Fault::RoomFull { .. }
                | Fault::AuthBusy
                | Fault::AuthUnavailable
                | Fault::Forbidden { .. }
        )
    }

    /// The name that documentation and logs use.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Malformed(error) => error.short_name(),
            Fault::NotConnected(_) => "not-connected",
            Fault::AlreadyConnected => "already-connected",
            Fault::NoCommonVersion => "no-common-version",
            Fault::ServerCommand(_) => "server-command",
            Fault::MissingHeader { .. } => "missing-header",
            Fault::BadDestination(_) => "bad-destination",
            Fault::DestinationTooLong { .. } => "destination-too-long",
            Fault::IdTooLong { .. } => "id-too-long",
            Fault::BadAckMode => "bad-ack-mode",
            Fault::BadPast => "bad-history",
            Fault::SelectorNotSupported => "selector-not-supported",
            Fault::BadHeartBeat => "bad-heart-beat",
            Fault::SubscriptionExists => "subscription-exists",
            Fault::NoSuchSubscription => "no-such-subscription",
            Fault::TooManySubscriptions { .. } | Fault::TooManySubscriptionsHere { .. } => {
                "too-many-subscriptions"
            }
            Fault::UnknownAck => "unknown-ack",
            Fault::TransactionExists => "transaction-exists",
            Fault::NoSuchTransaction => "no-such-transaction",
            Fault::TooManyTransactions { .. } => "too-many-transactions",
            Fault::TransactionTooLong { .. } => "transaction-too-long",
            Fault::TransactionTooLarge { .. } => "transaction-too-large",
            Fault::TooManyRooms { .. } => "too-many-rooms",
            Fault::QueueFull { .. } => "queue-full",
            Fault::RoomFull { .. } => "room-full",
            Fault::SlowConsumer { .. } => "slow-consumer",
            Fault::OutboundExhausted { .. } => "outbound-exhausted",
            Fault::BuffersExhausted { .. } => "buffers-exhausted",
            Fault::InputTimeout { .. } => "input-timeout",
            Fault::TransactionsExhausted { .. } => "transactions-exhausted",
            Fault::HeartBeatTimeout { .. } => "heart-beat-timeout",
            Fault::PongTimeout { .. } => "pong-timeout",
            Fault::ConnectTimeout { .. } => "connect-timeout",
            Fault::ConnectUnfinished { .. } => "connect-unfinished",
            Fault::Blanks(_) => "blanks",
            Fault::NotAuthenticated(_) => "not-authenticated",
            Fault::AuthBusy => "auth-busy",
            Fault::AuthUnavailable => "auth-unavailable",
            Fault::Expired => "expired",
            Fault::TooManySessions { .. } => "too-many-sessions",
            Fault::NothingToRenew => "nothing-to-renew",
            Fault::Kicked { .. } => "kicked",
            Fault::Banned { .. } => "banned",
            Fault::Forbidden { .. } => "forbidden",
        }
    }

    /// The WebSocket close code (RFC 6455 section 7.4.1) that follows the ERROR.
    pub fn close_code(&self) -> u16 {
        match self {
            Fault::Malformed(error) if error.is_bound() => 1009,
            Fault::DestinationTooLong { .. }
            | Fault::IdTooLong { .. }
            | Fault::TransactionTooLarge { .. } => 1009,
            Fault::TooManySubscriptions { .. }
            | Fault::TooManySubscriptionsHere { .. }
            | Fault::TooManyTransactions { .. }
            | Fault::TransactionTooLong { .. }
            | Fault::SlowConsumer { .. }
            | Fault::InputTimeout { .. }
            | Fault::HeartBeatTimeout { .. }
            | Fault::PongTimeout { .. }
            | Fault::ConnectTimeout { .. }
            | Fault::ConnectUnfinished { .. }
            | Fault::NotAuthenticated(_)
            | Fault::Expired
            | Fault::TooManySessions { .. }
            | Fault::Kicked { .. }
            | Fault::Banned { .. }
            | Fault::Forbidden { .. } => 1008,
            Fault::TooManyRooms { .. }
            | Fault::QueueFull { .. }
            | Fault::RoomFull { .. }
            | Fault::OutboundExhausted { .. }
            | Fault::BuffersExhausted { .. }
            | Fault::TransactionsExhausted { .. }
            | Fault::AuthBusy
            | Fault::AuthUnavailable => 1013,
            _ => 1002,
        }
    }

    /// The same, or if it is about the value of a header that has blanks at its ends, a fault that shows them: from STOMP
    /// 1.1 on they are part of the value, and nobody sees them.
    pub fn blame_blanks<T: AsRef<str>>(self, header: impl FnOnce(&'static str) -> Option<T>) -> Fault {
        let name = match self {
            Fault::BadAckMode => "ack",
            Fault::BadPast => "since",
            Fault::BadDestination(_) => "destination",
            Fault::BadHeartBeat => "heart-beat",
            Fault::NoCommonVersion => "accept-version",
            _ => return self,
        };
        match header(name) {
            Some(value) if value.as_ref().trim() != value.as_ref() => {
                Fault::Blanks(format!("{name} = {:?}", value.as_ref()).into())
            }
            _ => self,
        }
    }

    /// Whether a bound of the session's input was met, rather than a rule of the protocol broken. Bounds of other
    /// things (time, unsent bytes, rooms, queues) have counters of their own.
    pub fn is_input_bound(&self) -> bool {
        matches!(
            self,
            Fault::TooManySubscriptions { .. }
                | Fault::TooManySubscriptionsHere { .. }
                | Fault::TooManyTransactions { .. }
                | Fault::TransactionTooLong { .. }
                | Fault::TransactionsExhausted { .. }
        ) || self.close_code() == 1009
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Malformed(error) => error.fmt(f),
            Fault::NotConnected(command) => write!(f, "{command} before CONNECT"),
            Fault::AlreadyConnected => f.write_str("the session is connected already"),
            Fault::NoCommonVersion => f.write_str("supported versions are 1.0, 1.1 and 1.2"),
            Fault::ServerCommand(command) => write!(f, "{command} is a frame that servers send"),
            Fault::MissingHeader { command, header } => write!(f, "{command} needs a header {header}"),
            Fault::BadDestination(bad) => f.write_str(bad.reason()),
            Fault::DestinationTooLong { max } => {
                write!(f, "destination is longer than stomp.destination_bytes_max = {max}")
            }
            Fault::IdTooLong { header, max } => {
                write!(f, "{header} is longer than stomp.id_bytes_max = {max}")
            }
            Fault::BadAckMode => f.write_str("ack must be auto, client or client-individual"),
            Fault::SelectorNotSupported => {
                f.write_str("selector is not supported: a subscription gets every message of its destination")
            }
            Fault::BadHeartBeat => {
                f.write_str("heart-beat must be two numbers of milliseconds with a comma between")
            }
            Fault::SubscriptionExists => f.write_str("the session has a subscription with this id"),
            Fault::NoSuchSubscription => f.write_str("the session has no subscription with this id"),
            Fault::TooManySubscriptions { max } => {
                write!(f, "the session has stomp.subscriptions_max = {max} subscriptions")
            }
            Fault::TooManySubscriptionsHere { max } => write!(
                f,
                "the session has stomp.subscriptions_per_destination_max = {max} subscriptions to this destination"
            ),
            Fault::BadPast => f.write_str(
                "history must be a number of messages and since EPOCH:SEQUENCE, one of the two, and only for rooms",
            ),
            Fault::UnknownAck => f.write_str("no message with this id waits to be acknowledged"),
            Fault::TransactionExists => f.write_str("the transaction is open already"),
            Fault::NoSuchTransaction => f.write_str("the transaction is not open"),
            Fault::TooManyTransactions { max } => {
                write!(f, "the session has stomp.transactions_max = {max} open transactions")
            }
            Fault::TransactionTooLong { max } => {
                write!(f, "open transactions hold more than stomp.transaction_frames_max = {max} frames")
            }
            Fault::TransactionTooLarge { max } => {
                write!(f, "open transactions hold more than stomp.transaction_bytes_max = {max} bytes")
            }
            Fault::TooManyRooms { max } => write!(f, "the server holds rooms.rooms_max = {max} destinations"),
            Fault::QueueFull { bound, max } => write!(f, "the queue is full: {bound} = {max}"),
            Fault::RoomFull { max } => {
                write!(
                    f,
                    "the room is full, and too much waits for full rooms: rooms.parked_bytes_max = {max}"
                )
            }
            Fault::SlowConsumer { max } => {
                write!(f, "slow consumer: more than outbound.bytes_max = {max} unread")
            }
            Fault::OutboundExhausted { max } => {
                write!(f, "too slow while the server is short of memory: outbound.reactor_bytes_max = {max}")
            }
            Fault::TransactionsExhausted { max } => {
                write!(f, "no memory for an open transaction: stomp.reactor_transaction_bytes_max = {max}")
            }
            Fault::BuffersExhausted { max } => {
                write!(f, "no memory for an incomplete frame: buffers.reactor_bytes_max = {max}")
            }
            Fault::InputTimeout { max } => {
                write!(f, "an incomplete frame made no progress for buffers.progress_timeout_s = {max}")
            }
            Fault::HeartBeatTimeout { silent_ms } => {
                write!(f, "no heart-beat: nothing was heard for {silent_ms} ms")
            }
            Fault::PongTimeout { silent_ms } => {
                write!(f, "no answer to a ping: nothing was heard for {silent_ms} ms")
            }
            Fault::ConnectTimeout { max } => {
                write!(f, "no CONNECT within handshake.connect_timeout_ms = {max}")
            }
            Fault::ConnectUnfinished { max } => write!(
                f,
                "no CONNECT within handshake.connect_timeout_ms = {max}: a frame has begun, and there is no NUL at its end"
            ),
            Fault::Blanks(value) => write!(f, "blanks at the ends of a value are part of it: {value}"),
            Fault::NotAuthenticated(why) => write!(f, "not authenticated: {why}"),
            Fault::AuthBusy => {
                f.write_str("too many logins at once, or too many that failed: try again later")
            }
            Fault::AuthUnavailable => f.write_str("logins cannot be checked now: try again later"),
            Fault::Expired => f.write_str("what proved the login has expired: log in again"),
            Fault::TooManySessions { max } => {
                write!(f, "the login has auth.sessions_per_login_max = {max} sessions")
            }
            Fault::NothingToRenew => f.write_str("nothing to renew: auth.mode is open"),
            Fault::Kicked { reason } => write!(f, "an operator has ended this session: {reason}"),
            Fault::Banned { reason } => write!(f, "this login or address is banned: {reason}"),
            Fault::Forbidden { action, destination } => {
                write!(f, "this session may not {action}: {destination}")
            }
        }
    }
}

impl From<StompError> for Fault {
    fn from(error: StompError) -> Self {
        Fault::Malformed(error)
    }
}

impl From<BadDestination> for Fault {
    fn from(bad: BadDestination) -> Self {
        Fault::BadDestination(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Buffers, Handshake, Outbound, Rooms, Stomp};
    use crate::wire::documented::rows;

    /// One of each, with the default bounds, in the order of the declaration; stand-ins for what varies.
    fn all() -> Vec<Fault> {
        use BadDestination::{BadReplyForm, BadUserForm, EmptyName, NoLogin, UnknownPrefix};
        let (stomp, outbound, rooms) = (Stomp::default(), Outbound::default(), Rooms::default());
        let mut all = vec![
            Fault::NotConnected(Command::Send),
            Fault::AlreadyConnected,
            Fault::NoCommonVersion,
            Fault::ServerCommand(Command::Send),
            Fault::MissingHeader { command: Command::Send, header: "HEADER" },
        ];
        all.extend([UnknownPrefix, EmptyName, BadUserForm, NoLogin, BadReplyForm].map(Fault::BadDestination));
        all.extend([
            Fault::DestinationTooLong { max: stomp.destination_bytes_max },
            Fault::IdTooLong { header: "HEADER", max: stomp.id_bytes_max },
            Fault::BadAckMode,
            Fault::BadPast,
            Fault::SelectorNotSupported,
            Fault::BadHeartBeat,
            Fault::SubscriptionExists,
            Fault::NoSuchSubscription,
            Fault::TooManySubscriptions { max: stomp.subscriptions_max },
            Fault::TooManySubscriptionsHere { max: stomp.subscriptions_per_destination_max },
            Fault::UnknownAck,
            Fault::TransactionExists,
            Fault::NoSuchTransaction,
            Fault::TooManyTransactions { max: stomp.transactions_max },
            Fault::TransactionTooLong { max: stomp.transaction_frames_max },
            Fault::TransactionTooLarge { max: stomp.transaction_bytes_max },
            Fault::TooManyRooms { max: rooms.rooms_max },
            Fault::QueueFull { bound: "rooms.queue_messages_max", max: rooms.queue_messages_max.into() },
            Fault::RoomFull { max: rooms.parked_bytes_max },
            Fault::SlowConsumer { max: outbound.bytes_max },
            Fault::OutboundExhausted { max: outbound.reactor_bytes_max },
            Fault::BuffersExhausted { max: Buffers::default().reactor_bytes_max },
            Fault::InputTimeout { max: Buffers::default().progress_timeout_s },
            Fault::TransactionsExhausted { max: Stomp::default().reactor_transaction_bytes_max },
            Fault::HeartBeatTimeout { silent_ms: 424_242 },
            Fault::PongTimeout { silent_ms: 424_242 },
            Fault::ConnectTimeout { max: Handshake::default().connect_timeout_ms },
            Fault::ConnectUnfinished { max: Handshake::default().connect_timeout_ms },
            Fault::Blanks("HEADER = VALUE".into()),
            Fault::NotAuthenticated("VALUE".into()),
            Fault::AuthBusy,
            Fault::AuthUnavailable,
            Fault::Expired,
            Fault::TooManySessions { max: 424_242 },
            Fault::NothingToRenew,
            Fault::Kicked { reason: "VALUE".into() },
            Fault::Banned { reason: "VALUE".into() },
            Fault::Forbidden { action: "SEND", destination: "VALUE".into() },
        ]);
        all
    }

    #[test]
    fn blanks_are_blamed_where_they_are_the_cause() {
        let blame = |fault: Fault, value: Option<&'static str>| fault.blame_blanks(|_| value).to_string();
        assert_eq!(
            blame(Fault::BadAckMode, Some("auto ")),
            "blanks at the ends of a value are part of it: ack = \"auto \""
        );
        assert_eq!(blame(Fault::BadAckMode, Some("some")), Fault::BadAckMode.to_string());
        assert_eq!(blame(Fault::BadHeartBeat, None), Fault::BadHeartBeat.to_string());
        assert_eq!(blame(Fault::UnknownAck, Some(" 1")), Fault::UnknownAck.to_string());
    }

    #[test]
    fn refusals_are_documented() {
        let documented: Vec<String> = rows("| fault that a session may survive | of |")
            .into_iter()
            .map(|row| row[0].to_owned())
            .collect();
        let mut code: Vec<String> =
            all().iter().filter(|fault| fault.is_refusal()).map(|fault| fault.name().to_owned()).collect();
        code.dedup();
        assert_eq!(documented, code);
    }

    #[test]
    fn faults_are_documented() {
        let documented = rows("| fault | message | close code |");
        let documented = documented.iter().map(|row| {
            // The other bounds of a queue are told behind its first.
            let message = row[1].split("; or ").next().unwrap_or_default().replace('\\', "");
            (row[0].to_owned(), message, row[2].to_owned())
        });
        let code = all().into_iter().map(|fault| {
            let message = fault
                .to_string()
                .replace("SEND", "*command*")
                .replace("HEADER", "*header*")
                .replace("VALUE", "*value*");
            (fault.name().to_owned(), message.replace("424242", "*n*"), fault.close_code().to_string())
        });
        assert_eq!(documented.collect::<Vec<_>>(), code.collect::<Vec<_>>());
    }
}
