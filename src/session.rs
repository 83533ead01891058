//! One STOMP session without I/O: frames in, commands out.
//!
//! The session knows the protocol: versions, heart-beats, subscriptions, transactions, acknowledgements,
//! receipts, and the requests that it waits for. It does not know rooms, queues, sockets or other sessions: what a frame asks
//! for leaves as [`Command`]s, in order, for the shard to carry out.
//!
//! While a session is idle it holds its subscriptions in place (one of them without an allocation) and
//! nothing else: transactions, unsettled messages and awaited requests live in `Extra`, which exists only
//! while there is one.
//!
//! Invariant: `extra` is `None` or holds something.

mod awaiting;
mod command;
mod connect;
mod extra;
mod head;
pub mod principals;
pub mod recoveries;
mod subscriptions;
pub mod table;
pub mod ticket;

use std::mem::discriminant;
use std::net::IpAddr;

use compact_str::CompactString;
use smallvec::SmallVec;

use crate::limits;
use crate::message::class::{AckMode, Class};
use crate::message::destination::{self, Destination, Kind};
use crate::message::fault::Fault;
use crate::message::interner::{Interner, Symbol};
use crate::message::past::{Past, Position};
use crate::message::{Message, MessageId};
use crate::time::Tick;
use crate::wire::framing::Framing;
use crate::wire::stomp::{self, StompFrame, Version};

pub use awaiting::{Awaited, Receipt};
pub use command::{Command, End, Question};
pub use connect::RENEWAL;
use extra::Extra;
pub use extra::Unsettled;
use head::Head;
use principals::{PrincipalId, Principals};
pub use subscriptions::{State, Subscription, Subscriptions};
use ticket::Sources;

/// Where a session is: what the application is told of who sends to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whence {
    /// The numbers of its name.
    pub session: [u32; 3],
    /// The client's address; `None` if nobody knows it.
    pub address: Option<IpAddr>,
}

/// What the session needs of its shard.
pub struct Context<'a> {
    /// Bounds.
    pub limits: &'a limits::Stomp,
    /// Where its frames are.
    pub framing: Framing,
    /// Where clients prove who they are, if they have to: then the server says who sent a message, too.
    pub sources: Option<&'a Sources>,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Forms of all sessions of the shard.
    pub classes: &'a mut Interner<Class>,
    /// Who the sessions of the shard are.
    pub principals: &'a mut Principals,
    /// Where commands go, in order.
    pub commands: &'a mut Vec<Command>,
    /// Where the session is: asked for only if that is said.
    pub whence: &'a dyn Fn() -> Whence,
}

/// A STOMP session.
#[derive(Debug, Default)]
pub struct Session {
    subscriptions: Subscriptions,
    extra: Option<Box<Extra>>,
    principal: Option<PrincipalId>,
    beat_out: Interval,
    beat_in: Interval,
    version: Option<Version>,
}

const _: () = assert!(size_of::<Session>() <= 48);

/// A heart-beat interval in ticks; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval(u16);

impl Interval {
    /// An interval from milliseconds, rounded up to a tick; 0 stays none.
    pub fn from_ms(ms: u32) -> Interval {
        Interval(ms.div_ceil(Tick::MILLIS).min(u32::from(u16::MAX)) as u16)
    }

    /// In ticks; `None` if there is none.
    pub fn ticks(self) -> Option<u32> {
        (self.0 > 0).then_some(u32::from(self.0))
    }
}

impl Session {
    /// The negotiated version; `None` before CONNECT.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The version to speak: 1.2 before CONNECT, whose frames escape nothing anyway.
    pub fn version_or_newest(&self) -> Version {
        self.version.unwrap_or(Version::V12)
    }

    /// The negotiated heart-beats: to the client, from the client.
    pub fn heart_beats(&self) -> (Interval, Interval) {
        (self.beat_out, self.beat_in)
    }

    /// The subscriptions.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// The subscriptions, for what their rooms and owners say of them.
    pub fn subscriptions_mut(&mut self) -> &mut Subscriptions {
        &mut self.subscriptions
    }

    /// Bytes of the box that a busy session has; what is in its lists is not counted.
    pub fn boxed_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| size_of_val(&**extra))
    }

    /// Bytes that the session's open transactions hold.
    pub fn transaction_bytes(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.transaction_bytes())
    }

    /// Takes in one frame. After one that asks for DISCONNECT, or fails, the session must get no more.
    ///
    /// # Errors
    /// The fault that ends the session. Commands of this frame may have been added before it: none of
    /// them must be carried out.
    pub fn handle(&mut self, stomp_frame: &StompFrame<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        use stomp::Command as Frame;
        let command = stomp_frame.command;
        match (self.version.is_some(), command) {
            (_, Frame::Connected | Frame::Message | Frame::Receipt | Frame::Error) => {
                return Err(Fault::ServerCommand(command));
            }
            (false, Frame::Connect | Frame::Stomp) => return self.connect(stomp_frame, context),
            (false, _) => return Err(Fault::NotConnected(command)),
            (true, Frame::Connect | Frame::Stomp) => return Err(Fault::AlreadyConnected),
            (true, _) => {}
        }
        let head = Head::of(stomp_frame);
        // Read first: a receipt that is too long must be refused before the frame takes effect.
        let receipt = head.receipt.bounded(context.limits)?;
        match command {
            Frame::Send => self.send(stomp_frame, &head, context)?,
            Frame::Subscribe => self.subscribe(stomp_frame, &head, context)?,
            Frame::Unsubscribe => self.unsubscribe(&head, context)?,
            Frame::Ack => self.settle(&head, false, context)?,
            Frame::Nack => self.settle(&head, true, context)?,
            Frame::Begin => {
                let id = head.required(&head.transaction, context.limits)?;
                self.extra_mut().begin(id, context.limits)?;
            }
            Frame::Commit => self.commit(&head, context)?,
            Frame::Abort => {
                let id = head.required(&head.transaction, context.limits)?;
                let aborted = self.extra_mut().take_transaction(id);
                self.tidy();
                aborted?;
            }
            _ => {}
        }
        if let Some(receipt) = receipt {
            context.commands.push(Command::Receipt(receipt.into()));
        }
        if command == Frame::Disconnect {
            context.commands.push(Command::Disconnect);
        }
        Ok(())
    }

    fn send(
        &mut self,
        stomp_frame: &StompFrame<'_>,
        head: &Head<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let destination = head.destination(context.limits)?;
        if destination == RENEWAL {
            return self.renew(stomp_frame, head, context);
        }
        let destination = Destination::parse_send(destination)?;
        let lines = self.message_lines(stomp_frame, destination.is_of_app(), context);
        let message = Message::new(&destination, &lines, stomp_frame.body);
        match head.transaction.bounded(context.limits)? {
            Some(transaction) => self.in_transaction(transaction, Command::Publish(message), context.limits),
            None => {
                context.commands.push(Command::Publish(message));
                Ok(())
            }
        }
    }

    /// The headers of the message that a frame becomes.
    fn message_lines(
        &self,
        stomp_frame: &StompFrame<'_>,
        is_for_app: bool,
        context: &Context<'_>,
    ) -> Vec<u8> {
        let mut lines = Vec::new();
        // The server's word comes first: of two headers with one name the first holds (STOMP 1.2, Repeated Header Entries).
        if context.sources.is_some() {
            let sender = self.principal.map(|principal| context.principals.login(principal));
            stomp::server_header_lines(sender, context.wall_ms, &mut lines);
        }
        if is_for_app {
            let Whence { session, address } = (context.whence)();
            stomp::whence_lines(session, address, &mut lines);
        }
        stomp::user_header_lines(stomp_frame, is_for_app, &mut lines);
        lines
    }

    fn in_transaction(&mut self, id: &str, command: Command, limits: &limits::Stomp) -> Result<(), Fault> {
        let held = self.extra_mut().hold(id, command, limits);
        self.tidy();
        held
    }

    fn subscribe(
        &mut self,
        stomp_frame: &StompFrame<'_>,
        head: &Head<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let [selector, history, since] = stomp_frame.values(["selector", "history", "since"]);
        // Taken for granted it would show a client what it has asked not to see.
        if selector.is_some() {
            return Err(Fault::SelectorNotSupported);
        }
        let text = head.destination(context.limits)?;
        let login = self.principal.map(|principal| context.principals.login(principal));
        let destination = Destination::parse_subscribe(text, login)?;
        let (id, is_named) = self.subscription_id(head, context.limits)?;
        let ack = AckMode::parse(head.ack.as_deref()).ok_or(Fault::BadAckMode)?;
        let past = past_of(history.as_deref(), since.as_deref(), destination.kind())?;
        if self.subscriptions.find(&id, context.classes).is_some() {
            return Err(Fault::SubscriptionExists);
        }
        let max = context.limits.subscriptions_max;
        if self.subscriptions.len() >= max as usize {
            return Err(Fault::TooManySubscriptions { max });
        }
        let version = self.version_or_newest();
        let class = context.classes.acquire(Class { id, is_named, version, ack, framing: context.framing });
        let (key, kind) = (destination.key().into(), destination.kind());
        let is_guarded = context.sources.is_some();
        context.commands.push(
            if destination.is_of_app() && !self.is_service(is_guarded, context.principals) {
                let lines = self.message_lines(stomp_frame, true, context);
                Command::Ask(Question { class, key, ack, lines })
            } else {
                Command::Subscribe { class, key, kind, ack, past }
            },
        );
        Ok(())
    }

    /// Whether the client is one of the application's own programs. Where nobody proves who they are, all may be.
    pub fn is_service(&self, is_guarded: bool, principals: &Principals) -> bool {
        let has_role =
            |principal| principals.roles(principal).iter().any(|role| **role == *destination::SERVICE);
        !is_guarded || self.principal.is_some_and(has_role)
    }

    fn unsubscribe(&mut self, head: &Head<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let (id, _) = self.subscription_id(head, context.limits)?;
        let found = self.subscriptions.find(&id, context.classes).ok_or(Fault::NoSuchSubscription)?;
        context.commands.push(Command::Unsubscribe(found.class));
        Ok(())
    }

    /// The `id` header; STOMP 1.0 may leave it out, and then means the destination.
    fn subscription_id(&self, head: &Head<'_>, limits: &limits::Stomp) -> Result<(Box<str>, bool), Fault> {
        if head.id.text.is_none() && self.version == Some(Version::V10) {
            return Ok((head.destination(limits)?.into(), false));
        }
        Ok((head.required(&head.id, limits)?.into(), true))
    }

    /// ACK and NACK. 1.2 names the message by `id`, 1.1 and 1.0 by `message-id`: both are the message's id
    /// here.
    fn settle(&mut self, head: &Head<'_>, is_nack: bool, context: &mut Context<'_>) -> Result<(), Fault> {
        let id = if self.version == Some(Version::V12) { &head.id } else { &head.message_id };
        let id = head.required(id, context.limits)?;
        let id: MessageId = id.parse().map_err(|_| Fault::UnknownAck)?;
        match head.transaction.bounded(context.limits)? {
            Some(transaction) => {
                let unsettled = Unsettled { id, class: Symbol(u32::MAX) };
                let command = Command::Settle { unsettled, is_nack };
                self.in_transaction(transaction, command, context.limits)
            }
            None => self.settle_id(id, is_nack, context.commands),
        }
    }

    fn settle_id(&mut self, id: MessageId, is_nack: bool, commands: &mut Vec<Command>) -> Result<(), Fault> {
        let subscriptions = &self.subscriptions;
        let mode = |class| subscriptions.get(class).map_or(AckMode::Auto, |subscription| subscription.ack);
        let settled = match &mut self.extra {
            Some(extra) => extra.settle(id, mode),
            None => Vec::new(),
        };
        self.tidy();
        if settled.is_empty() {
            // A topic keeps nothing to be acknowledged, and neither is an answer kept; clients that acknowledge such messages
            // all the same do no harm.
            let may_ack = |subscription: &Subscription| {
                (subscription.kind != Kind::Queue || subscription.state.is_question())
                    && subscription.ack != AckMode::Auto
            };
            return if self.subscriptions.iter().any(may_ack) { Ok(()) } else { Err(Fault::UnknownAck) };
        }
        commands.extend(settled.into_iter().map(|unsettled| Command::Settle { unsettled, is_nack }));
        Ok(())
    }

    /// COMMIT: what the transaction held happens, in order.
    fn commit(&mut self, head: &Head<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let id = head.required(&head.transaction, context.limits)?;
        let taken = self.extra_mut().take_transaction(id);
        self.tidy();
        for command in taken? {
            match command {
                Command::Settle { unsettled, is_nack } => {
                    self.settle_id(unsettled.id, is_nack, context.commands)?;
                }
                command => context.commands.push(command),
            }
        }
        Ok(())
    }

    fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Gives the memory of what has ended back.
    fn tidy(&mut self) {
        if self.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            self.extra = None;
        }
    }

    /// The shard carries out an `Unsubscribe` of a destination of another shard: what the subscription has not settled is
    /// forgotten, and it leaves when its owner has answered.
    pub fn leaving(&mut self, class: Symbol) {
        self.forget(class);
        self.subscriptions.leave(class);
    }

    /// The shard carries out an `Unsubscribe` of a destination of its own: takes the subscription and what it has not
    /// settled.
    pub fn unsubscribed(&mut self, class: Symbol) -> Option<Subscription> {
        self.forget(class);
        self.subscriptions.remove(class)
    }

    fn forget(&mut self, class: Symbol) {
        if let Some(extra) = &mut self.extra {
            extra.forget(class);
            self.tidy();
        }
    }

    /// Subscriptions to one destination: `room` is its room, and `name` the symbol of its key, if they are known here; `hash` is
    /// that of its key, for those that are joining.
    pub fn subscriptions_to(&self, kind: Kind, room: Option<u32>, name: Option<Symbol>, hash: u64) -> usize {
        let here = self.subscriptions.count_of(kind, room, name);
        let joining = match &self.extra {
            Some(extra) if kind != Kind::Queue => extra.awaiting.joining(hash),
            _ => 0,
        };
        here + joining
    }

    /// A queue's message was handed to the session: it waits to be settled. Under `auto` it is settled when the answers up to
    /// `ends_at` are sent ([`Segments::taken`](crate::buf::Segments::taken)).
    pub fn delivered(&mut self, unsettled: Unsettled, ends_at: u64) {
        let ack =
            self.subscriptions.get(unsettled.class).map_or(AckMode::Auto, |subscription| subscription.ack);
        let extra = self.extra_mut();
        match ack {
            AckMode::Auto => extra.auto.push_back((ends_at, unsettled)),
            _ => extra.unsettled.push_back(unsettled),
        }
    }

    /// Answers up to `taken` have been sent, or all: what was handed over with them is settled under `auto`.
    pub fn sent(&mut self, taken: Option<u64>, settled: &mut Vec<Unsettled>) {
        let Some(extra) = &mut self.extra else { return };
        if extra.auto.is_empty() {
            return;
        }
        let is_sent = |entry: &mut (u64, Unsettled)| taken.is_none_or(|taken| entry.0 <= taken);
        while let Some((_, unsettled)) = extra.auto.pop_front_if(is_sent) {
            settled.push(unsettled);
        }
        self.tidy();
    }

    /// Queues' messages that wait to be settled.
    pub fn unsettled(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.unsettled.len() + extra.auto.len())
    }

    // ---- requests ----

    /// Waits for a request: see [`Awaited`].
    pub fn wait_for(&mut self, awaited: Awaited) {
        self.extra_mut().awaiting.push(awaited);
    }

    /// Whether a request is waited for.
    pub fn awaits(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.awaiting.is_empty())
    }

    /// Requests and receipts that are waited for.
    pub fn awaited(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.awaiting.len())
    }

    /// A publication is parked because its room is full.
    pub fn parked(&mut self) {
        self.extra_mut().parked += 1;
    }

    /// One that was parked has its place. Returns whether none is parked any more.
    pub fn unparked(&mut self) -> bool {
        let Some(extra) = &mut self.extra else { return true };
        extra.parked = extra.parked.saturating_sub(1);
        let is_none = extra.parked == 0;
        self.tidy();
        is_none
    }

    /// Whether another owner than this one has not answered a SUBSCRIBE or UNSUBSCRIBE; with `None`, whether any has not.
    pub fn awaits_other_than(&self, owner: Option<u16>) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.awaiting.has_other_than(owner))
    }

    /// A request is done, or one part of it. Adds the receipts that may be sent, in the order of the frames.
    pub fn completed(&mut self, serial: u32, receipts: &mut SmallVec<[Receipt; 1]>) {
        let Some(extra) = &mut self.extra else { return };
        extra.awaiting.complete(serial, receipts);
        self.tidy();
    }

    /// The owner has answered an UNSUBSCRIBE whose receipt waits for something else.
    pub fn answered(&mut self, serial: u32) {
        if let Some(extra) = &mut self.extra {
            extra.awaiting.answered(serial);
        }
    }

    /// Whether this request is waited for.
    pub fn awaits_request(&self, serial: u32) -> bool {
        let awaits = |extra: &Extra| extra.is_connecting_by(serial) || extra.awaiting.has(serial);
        self.extra.as_deref().is_some_and(awaits)
    }

    /// Whether this request joins the room whose key has this hash.
    pub fn is_joining_by(&self, serial: u32, hash: u64) -> bool {
        self.extra.as_deref().is_some_and(|extra| extra.awaiting.is_joining(serial, hash))
    }

    /// A request was refused, and the session goes on: the receipt that its frame asked for, which will not be sent.
    pub fn take_receipt(&mut self, serial: u32) -> Option<CompactString> {
        self.extra.as_mut()?.awaiting.take_receipt(serial)
    }

    /// A request was refused, and with it the frame that asked: the receipt for the ERROR. Receipts of later frames will
    /// not be sent.
    pub fn refused(&mut self, serial: u32) -> Option<CompactString> {
        let receipt = self.extra.as_mut()?.awaiting.refuse(serial);
        self.tidy();
        receipt
    }

    // ---- the end ----

    /// Ends all transactions. What they held does not happen.
    pub fn abort_all(&mut self) {
        if let Some(extra) = &mut self.extra {
            extra.abort_all();
            self.tidy();
        }
    }

    /// The session is to end in this way, after what was decided before. `false` if that was decided already.
    pub fn end_by(&mut self, end: End) -> bool {
        let ends = &mut self.extra_mut().ends;
        let is_new = ends.iter().all(|before| discriminant(before) != discriminant(&end));
        if is_new {
            ends.push(end);
        }
        is_new
    }

    /// A request of an earlier frame failed: the session is to end by that before all else.
    pub fn end_first_by(&mut self, fault: Fault, receipt: Option<CompactString>) {
        self.extra_mut().ends.insert(0, End::Fault(fault, receipt));
    }

    /// Whether the client is due a receipt.
    pub fn is_due_receipts(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.awaiting.receipts().next().is_some())
    }

    /// Receipts that the client is due. O(requests that are awaited).
    pub fn receipts_due(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.awaiting.receipts().count())
    }

    /// Whether the session is to end because it said DISCONNECT, and for no other reason.
    pub fn is_disconnecting(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.ends == [End::Disconnect])
    }

    /// The ways in which the session is to end, in order. It is not to end any more.
    pub fn take_ends(&mut self) -> Vec<End> {
        let ends = self.extra.as_mut().map(|extra| std::mem::take(&mut extra.ends));
        self.tidy();
        ends.unwrap_or_default()
    }

    /// The connection is gone: gives back what the session holds besides its subscriptions.
    /// Returns who the client was.
    pub fn end(&mut self) -> Option<PrincipalId> {
        self.extra = None;
        self.subscriptions.shrink();
        self.principal.take()
    }
}

/// What a SUBSCRIBE to this kind of place asks of the past.
fn past_of(history: Option<&str>, since: Option<&str>, kind: Kind) -> Result<Option<Past>, Fault> {
    let past = match (history, since) {
        (None, None) => return Ok(None),
        (Some(count), None) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
            count.parse().map(Past::Last).map_err(|_| Fault::BadPast)?
        }
        (None, Some(since)) => {
            let Position(since) = since.parse().map_err(|_| Fault::BadPast)?;
            Past::Since(since)
        }
        _ => return Err(Fault::BadPast),
    };
    if kind == Kind::Queue { Err(Fault::BadPast) } else { Ok(Some(past)) }
}
