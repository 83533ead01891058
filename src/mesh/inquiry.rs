//! Inquiries: what a service wants to know of a shard, or have done by it.
//!
//! | inquiry | of | the answer |
//! |---|---|---|
//! | [`Inquiry::Publish`] | the destination's owner | when the message has its place, or why it has none |
//! | [`Inquiry::Sessions`] | each shard | some of its sessions, and how many there are |
//! | [`Inquiry::Session`] | its shard | all that is known of one session |
//! | [`Inquiry::Rooms`], [`Inquiry::Queues`] | each shard | some that it owns, and how many there are |
//! | [`Inquiry::End`] | each shard, or the session's | how many sessions were ended |
//! | [`Inquiry::Ban`] | each shard | how many sessions were ended by it |
//!
//! An inquiry is plain data and the end of a channel for one answer ([`Reply`]). A shard looks at a bounded number of entries
//! in a turn, so answers may take several turns. Who does not want the answer any more drops its [`Answer`].
//!
//! Invariant: an inquiry is answered once. One that is dropped, as at the end of a shard, is answered by [`Gone`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::conn::transport::TcpInfo;
use crate::message::Message;
use crate::message::destination::Kind;
use crate::message::fault::Fault;
use crate::message::origin::SessionName;
use crate::policy::bans::{Bans, Host};

/// The shard's end of the channel.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

/// The service's end of the channel: a future of the answer, or [`Gone`].
pub type Answer<T> = oneshot::Receiver<T>;

/// The shard has ended, and nobody will answer.
pub type Gone = oneshot::error::RecvError;

impl<T> Reply<T> {
    /// Both ends.
    pub fn channel() -> (Reply<T>, Answer<T>) {
        let (sender, answer) = oneshot::channel();
        (Reply(sender), answer)
    }

    /// Answers.
    pub fn say(self, answer: T) {
        // Nobody waits for it any more: as an HTTP request whose time is up.
        drop(self.0.send(answer));
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_unwanted(&self) -> bool {
        self.0.is_closed()
    }
}

/// See the module.
#[derive(Debug)]
pub enum Inquiry {
    /// To the owner: a message gets its place.
    Publish {
        /// What.
        message: Message,
        /// When it has its place, or the fault that a session would be ended by.
        reply: Reply<Result<(), Fault>>,
    },
    /// Which sessions there are.
    Sessions {
        /// Which of them.
        filter: Filter,
        /// Which part of the list.
        part: Part,
        /// The list.
        reply: Reply<Page<SessionView>>,
    },
    /// What is known of one session.
    Session {
        /// Its name.
        session: SessionName,
        /// All; `None` if it is not there.
        reply: Reply<Option<Box<SessionDetail>>>,
    },
    /// Which rooms the shard owns.
    Rooms {
        /// What their keys begin with.
        prefix: Box<str>,
        /// Which part of the list.
        part: Part,
        /// The list.
        reply: Reply<Page<RoomView>>,
    },
    /// Which queues the shard owns.
    Queues {
        /// What their keys begin with.
        prefix: Box<str>,
        /// Which part of the list.
        part: Part,
        /// The list.
        reply: Reply<Page<QueueView>>,
    },
    /// Sessions end by [`Fault::Kicked`].
    End {
        /// Which.
        filter: Filter,
        /// What they are told.
        reason: Box<str>,
        /// How many.
        reply: Reply<u64>,
    },
    /// Others are banned from here on, and sessions of theirs end by [`Fault::Banned`].
    Ban {
        /// All who are.
        bans: Arc<Bans>,
        /// How many sessions have ended.
        reply: Reply<u64>,
    },
}

impl Inquiry {
    /// Its name, for tests and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Inquiry::Publish { .. } => "Inquire: Publish",
            Inquiry::Sessions { .. } => "Inquire: Sessions",
            Inquiry::Session { .. } => "Inquire: Session",
            Inquiry::Rooms { .. } => "Inquire: Rooms",
            Inquiry::Queues { .. } => "Inquire: Queues",
            Inquiry::End { .. } => "Inquire: End",
            Inquiry::Ban { .. } => "Inquire: Ban",
        }
    }

    /// Bytes that it holds, for the bound of the mailbox.
    pub fn weight(&self) -> u64 {
        let rest = match self {
            Inquiry::Publish { message, .. } => message.weight(),
            _ => 0,
        };
        rest + size_of::<Inquiry>() as u64
    }
}

/// Which sessions are meant: all that have everything that is said.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// This one.
    pub session: Option<SessionName>,
    /// Those of this login.
    pub login: Option<Box<str>>,
    /// Those whose client has this address, of IPv6 this /64.
    pub host: Option<Host>,
    /// The one whose peer, a proxy perhaps, has this end of the connection.
    pub peer: Option<SocketAddr>,
    /// Those that are subscribed to this destination, by its key.
    pub destination: Option<(Box<str>, Kind)>,
    /// Those in this state.
    pub state: Option<SessionState>,
}

/// Which part of a list, in the shard's own order.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The first place.
    pub from: u32,
    /// Entries at most; with 0 they are only counted.
    pub limit: u32,
}

/// Some entries of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// How many the whole list has in this shard.
    pub count: u64,
    /// The place of the first entry behind the page; `None` at the end of the list.
    pub next: Option<u32>,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Page { entries: Vec::new(), count: 0, next: None }
    }
}

impl<T> Page<T> {
    /// One entry more of the list, at this place.
    pub fn add(&mut self, at: u32, part: Part, entry: impl FnOnce() -> T) {
        self.count += 1;
        if at < part.from || part.limit == 0 {
            return;
        }
        if self.entries.len() < part.limit as usize {
            self.entries.push(entry());
        } else {
            self.next.get_or_insert(at);
        }
    }

    /// Whether all entries that fit are there, and one more was seen.
    pub fn is_full(&self) -> bool {
        self.next.is_some()
    }
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// In the opening handshake.
    Handshake,
    /// The WebSocket is open, and CONNECTED was not answered.
    Connecting,
    /// CONNECTED was answered.
    Connected,
    /// It ends.
    Ending,
    /// On `/echo`, where there are no sessions.
    Echo,
}

impl SessionState {
    /// All, with their words.
    pub const WORDS: [(&str, SessionState); 5] = [
        ("handshake", SessionState::Handshake),
        ("connecting", SessionState::Connecting),
        ("connected", SessionState::Connected),
        ("ending", SessionState::Ending),
        ("echo", SessionState::Echo),
    ];
}

/// A session, in a list.
#[derive(Debug, Clone, Serialize)]
pub struct SessionView {
    /// Its name, as in CONNECTED.
    pub id: SessionName,
    /// Its login, if it has one.
    pub login: Option<Box<str>>,
    /// The client's address: the one that a proxy has named, else the peer's.
    pub address: Option<IpAddr>,
    /// How far it is.
    pub state: SessionState,
    /// Its subscriptions.
    pub subscriptions: u32,
    /// Bytes that it is owed and its socket has not taken.
    pub unsent_bytes: u64,
}

/// All that is known of one session. Times are milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct SessionDetail {
    /// What a list has.
    #[serde(flatten)]
    pub view: SessionView,
    /// Its roles, sorted.
    pub roles: Vec<Box<str>>,
    /// Its claims that rules name.
    pub claims: Vec<(Box<str>, Box<str>)>,
    /// The version of STOMP.
    pub version: Option<&'static str>,
    /// The connection.
    pub connection: ConnectionView,
    /// The deadlines.
    pub timers: TimersView,
    /// What waits.
    pub marks: MarksView,
    /// What it is subscribed to.
    pub subscriptions_to: Vec<SubscriptionView>,
    /// What the kernel knows.
    pub tcp: Option<TcpInfo>,
}

/// The connection of a session.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionView {
    /// This side's end.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub peer: Option<SocketAddr>,
    /// The phase.
    pub phase: String,
    /// The state in the ledger.
    pub ledger: Option<String>,
    /// Since it was accepted.
    pub opened_ms_ago: Option<u64>,
    /// Why it is not read from.
    pub held_for: Vec<String>,
    /// The socket takes bytes, as far as is known.
    pub is_writable: bool,
}

/// The timers of a session.
#[derive(Debug, Clone, Serialize)]
pub struct TimersView {
    /// Since bytes last came.
    pub heard_ms_ago: u64,
    /// Since bytes were last sent.
    pub sent_ms_ago: u64,
    /// Until something is due; it may have come to nothing then.
    pub due_in_ms: Option<u64>,
    /// Between heart-beats to the client.
    pub beats_out_ms: Option<u64>,
    /// Between heart-beats from the client.
    pub beats_in_ms: Option<u64>,
    /// What would find the peer dead.
    pub watched_by: Vec<&'static str>,
}

/// What waits for, or at, a session.
#[derive(Debug, Clone, Serialize)]
pub struct MarksView {
    /// Bytes of answers that are unsent.
    pub answer_bytes: u64,
    /// Rooms of which it is behind.
    pub debts: u32,
    /// Queues' messages that it has not settled.
    pub unsettled: u32,
    /// Requests and receipts that are under way.
    pub awaited: u32,
    /// Bytes of its open transactions.
    pub transaction_bytes: u64,
}

/// One subscription.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionView {
    /// Its id.
    pub id: Box<str>,
    /// The key of its destination; `None` while the owner has not answered.
    pub destination: Option<Box<str>>,
    /// How its messages are acknowledged.
    pub ack: &'static str,
    /// `joining`, `joined` or `leaving`; of a question to the application `asked` or `answered`.
    pub state: &'static str,
}

/// A room, as its owner has it.
#[derive(Debug, Clone, Serialize)]
pub struct RoomView {
    /// Its key.
    pub destination: Box<str>,
    /// Subscriptions.
    pub members: u64,
    /// Reactors that have members.
    pub reactors: u32,
    /// Messages since it was made.
    pub sequence: u64,
    /// Messages that it keeps.
    pub kept: u64,
    /// More waits for its members than may, so its publishers wait.
    pub is_full: bool,
}

/// A queue, as its owner has it.
#[derive(Debug, Clone, Serialize)]
pub struct QueueView {
    /// Its key.
    pub destination: Box<str>,
    /// Messages in it, those that consumers have not settled included.
    pub messages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Of the messages those that wait for a consumer.
    pub waiting: u64,
    /// Sessions that consume it.
    pub consumers: u64,
    /// Messages since it was made.
    pub sequence: u64,
}
