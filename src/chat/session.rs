//! One STOMP session without I/O: frames in, commands out.
//!
//! The session knows the protocol: versions, heart-beats, subscriptions, transactions, acknowledgements,
//! receipts. It does not know rooms, queues, sockets or other sessions: what a frame asks for leaves as
//! [`Command`]s, in order, for the shard to carry out.
//!
//! While a session is idle it holds its subscriptions in place (one of them without an allocation) and
//! nothing else: transactions, unsettled messages and awaited receipts live in `Extra`, which exists only
//! while there is one.
//!
//! Invariant: `extra` is `None` or holds something.

mod extra;
mod head;

use compact_str::CompactString;
use smallvec::SmallVec;

use crate::chat::destination::{Destination, Kind};
use crate::chat::fault::Fault;
use crate::chat::form::{AckMode, Form};
use crate::chat::intern::{Interner, Symbol};
use crate::chat::message::{Message, MessageId};
use crate::footprint::Part;
use crate::limits;
use crate::time::Tick;
use crate::wire::stomp::{self, StompFrame, Version};

use extra::Extra;
pub use extra::Unsettled;
use head::{Head, Value};

/// One subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// Its form, which holds its id: unique in the session.
    pub form: Symbol,
    /// The room's index, or the symbol of the queue's key.
    pub place: u32,
    /// Where the room has it among its members.
    pub position: u32,
    /// How its messages are acknowledged.
    pub ack: AckMode,
    /// What it is subscribed to.
    pub kind: Kind,
}

const _: () = assert!(size_of::<Subscription>() == 16);

/// What a frame asks the shard to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Answer CONNECTED; the session is connected.
    Connected,
    /// Add a subscription; the form has been acquired for it.
    Subscribe {
        /// The form.
        form: Symbol,
        /// The place's key.
        key: Box<str>,
        /// What the place is.
        kind: Kind,
        /// The mode.
        ack: AckMode,
    },
    /// Take the subscription with this form out.
    Unsubscribe(Symbol),
    /// Hand a message to its place.
    Publish(Message),
    /// Tell the owner of a queue what became of a message.
    Settle {
        /// The message.
        unsettled: Unsettled,
        /// Refused rather than done.
        is_nack: bool,
    },
    /// Answer RECEIPT when everything before has been done.
    Receipt(CompactString),
    /// End the session when everything before has been done.
    Disconnect,
}

/// What the session needs of its shard.
#[derive(Debug)]
pub struct Context<'a> {
    /// Bounds.
    pub limits: &'a limits::Stomp,
    /// Forms of all sessions of the shard.
    pub forms: &'a mut Interner<Form>,
    /// Logins and queue keys of all sessions of the shard.
    pub names: &'a mut Interner<Box<str>>,
    /// Where commands go, in order.
    pub commands: &'a mut Vec<Command>,
}

/// A STOMP session.
#[derive(Debug, Default)]
pub struct Session {
    subscriptions: SmallVec<[Subscription; 1]>,
    extra: Option<Box<Extra>>,
    login: Option<Login>,
    beat_out: Interval,
    beat_in: Interval,
    version: Option<Version>,
}

const _: () = assert!(size_of::<Session>() <= 48);

/// An interned login, with a niche so that its absence costs nothing.
#[derive(Debug, Clone, Copy)]
struct Login(std::num::NonZeroU32);

impl Login {
    fn new(symbol: Symbol) -> Login {
        // Symbols are indices of a table that can not have 2^32 - 1 entries.
        Login(std::num::NonZeroU32::MIN.saturating_add(symbol.0))
    }

    fn symbol(self) -> Symbol {
        Symbol(self.0.get() - 1)
    }
}

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
    pub fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// What the subscriptions take that are not kept in place: nothing while there is one.
    pub fn more_subscriptions(&self) -> Part {
        let subscriptions = &self.subscriptions;
        if subscriptions.spilled() {
            Part::array(subscriptions.len(), subscriptions.capacity(), size_of::<Subscription>())
        } else {
            Part::default()
        }
    }

    /// Bytes of the box that a busy session has; what is in its lists is not counted.
    pub fn boxed_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| size_of_val(&**extra))
    }

    /// Bytes that the session's open transactions hold.
    pub fn transaction_bytes(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.transaction_bytes())
    }

    /// Takes in one frame.
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
        if self.extra.as_ref().is_some_and(|extra| extra.is_finishing) {
            // STOMP 1.2, DISCONNECT: the client sends no more frames after it. Whatever the session still waits
            // for, what comes now comes after its end.
            return Ok(());
        }
        let head = Head::of(stomp_frame);
        // Read first: a receipt that is too long must be refused before the frame takes effect.
        let receipt = head.receipt.bounded(context.limits)?;
        match command {
            Frame::Send => self.send(stomp_frame, &head, context)?,
            Frame::Subscribe => self.subscribe(&head, context)?,
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

    /// CONNECT and STOMP (STOMP 1.2, Connecting). A missing `host` is accepted: no client sends it unasked.
    fn connect(&mut self, stomp_frame: &StompFrame<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let [accepted, beats, login] = stomp_frame.values(["accept-version", "heart-beat", "login"]);
        let version = Version::negotiate(accepted.as_deref()).ok_or(Fault::NoCommonVersion)?;
        if let Some(beats) = beats {
            let (can_send, wants) = beats.split_once(',').ok_or(Fault::BadHeartBeat)?;
            let number = |text: &str| {
                let text = text.trim_matches([' ', '\t']);
                // A sign is no digit, though a parser of numbers takes it.
                let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                let is_number = is_number && !text.is_empty();
                // One that is too large for this is still a number, and longer than anything agreed to.
                is_number.then(|| text.parse::<u32>().unwrap_or(u32::MAX)).ok_or(Fault::BadHeartBeat)
            };
            let (can_send, wants) = (number(can_send)?, number(wants)?);
            if version > Version::V10 {
                let limits = context.limits;
                let at_least =
                    |theirs: u32| if theirs == 0 { 0 } else { theirs.max(limits.heart_beat_min_ms) };
                // Beating more often than asked is allowed, so a client that asks for one an hour does not
                // keep a dead connection for an hour.
                self.beat_out = Interval::from_ms(at_least(wants).min(limits.heart_beat_max_ms));
                self.beat_in = Interval::from_ms(at_least(can_send));
            }
        }
        let login = Value { header: "login", text: login };
        if let Some(login) = login.bounded(context.limits)?
            && !login.is_empty()
        {
            self.login = Some(Login::new(context.names.acquire(login.into())));
        }
        self.version = Some(version);
        context.commands.push(Command::Connected);
        Ok(())
    }

    fn send(
        &mut self,
        stomp_frame: &StompFrame<'_>,
        head: &Head<'_>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let destination = Destination::parse_send(head.destination(context.limits)?)?;
        let mut lines = Vec::new();
        stomp::user_header_lines(stomp_frame, &mut lines);
        let message = Message::new(&destination, &lines, stomp_frame.body);
        match head.transaction.bounded(context.limits)? {
            Some(transaction) => {
                let weight = message.weight();
                self.in_transaction(transaction, Command::Publish(message), weight, context.limits)
            }
            None => {
                context.commands.push(Command::Publish(message));
                Ok(())
            }
        }
    }

    fn in_transaction(
        &mut self,
        id: &str,
        command: Command,
        weight: u64,
        limits: &limits::Stomp,
    ) -> Result<(), Fault> {
        let held = self.extra_mut().hold(id, command, weight, limits);
        self.tidy();
        held
    }

    fn subscribe(&mut self, head: &Head<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let text = head.destination(context.limits)?;
        let login = self.login.map(|login| &**context.names.value(login.symbol()));
        let destination = Destination::parse_subscribe(text, login)?;
        let (id, is_named) = self.subscription_id(head, context.limits)?;
        let ack = AckMode::parse(head.ack.as_deref()).ok_or(Fault::BadAckMode)?;
        if self.find(&id, context.forms).is_some() {
            return Err(Fault::SubscriptionExists);
        }
        let max = context.limits.subscriptions_max;
        if self.subscriptions.len() >= max as usize {
            return Err(Fault::TooManySubscriptions { max });
        }
        let version = self.version_or_newest();
        let form = context.forms.acquire(Form { id, is_named, version, ack });
        let (key, kind) = (destination.key().into(), destination.kind());
        context.commands.push(Command::Subscribe { form, key, kind, ack });
        Ok(())
    }

    fn unsubscribe(&mut self, head: &Head<'_>, context: &mut Context<'_>) -> Result<(), Fault> {
        let (id, _) = self.subscription_id(head, context.limits)?;
        let found = self.find(&id, context.forms).ok_or(Fault::NoSuchSubscription)?;
        context.commands.push(Command::Unsubscribe(found.form));
        Ok(())
    }

    /// The `id` header; STOMP 1.0 may leave it out, and then means the destination.
    fn subscription_id(&self, head: &Head<'_>, limits: &limits::Stomp) -> Result<(Box<str>, bool), Fault> {
        if head.id.text.is_none() && self.version == Some(Version::V10) {
            return Ok((head.destination(limits)?.into(), false));
        }
        Ok((head.required(&head.id, limits)?.into(), true))
    }

    fn find(&self, id: &str, forms: &Interner<Form>) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| &*forms.value(subscription.form).id == id)
    }

    /// The subscription with this form.
    pub fn subscription(&self, form: Symbol) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.form == form)
    }

    /// ACK and NACK. 1.2 names the message by `id`, 1.1 and 1.0 by `message-id`: both are the message's id
    /// here.
    fn settle(&mut self, head: &Head<'_>, is_nack: bool, context: &mut Context<'_>) -> Result<(), Fault> {
        let id = if self.version == Some(Version::V12) { &head.id } else { &head.message_id };
        let id = head.required(id, context.limits)?;
        let id: MessageId = id.parse().map_err(|_| Fault::UnknownAck)?;
        match head.transaction.bounded(context.limits)? {
            Some(transaction) => {
                let unsettled = Unsettled { id, form: Symbol(u32::MAX) };
                let command = Command::Settle { unsettled, is_nack };
                let weight = size_of::<Command>() as u64;
                self.in_transaction(transaction, command, weight, context.limits)
            }
            None => self.settle_id(id, is_nack, context.commands),
        }
    }

    fn settle_id(&mut self, id: MessageId, is_nack: bool, commands: &mut Vec<Command>) -> Result<(), Fault> {
        let subscriptions = &self.subscriptions;
        let mode = |form| {
            let found = subscriptions.iter().find(|subscription| subscription.form == form);
            found.map_or(AckMode::Auto, |subscription| subscription.ack)
        };
        let settled = match &mut self.extra {
            Some(extra) => extra.settle(id, mode),
            None => Vec::new(),
        };
        self.tidy();
        if settled.is_empty() {
            // A topic keeps nothing to be acknowledged; clients that acknowledge its messages all the same
            // do no harm.
            let may_ack = |subscription: &Subscription| {
                subscription.kind != Kind::Queue && subscription.ack != AckMode::Auto
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

    /// The shard has carried out a `Subscribe`.
    pub fn subscribed(&mut self, subscription: Subscription) {
        self.subscriptions.push(subscription);
    }

    /// The shard carries out an `Unsubscribe`: takes the subscription and what it has not settled.
    pub fn unsubscribed(&mut self, form: Symbol) -> Option<Subscription> {
        let at = self.subscriptions.iter().position(|subscription| subscription.form == form)?;
        if let Some(extra) = &mut self.extra {
            extra.forget(form);
            self.tidy();
        }
        let gone = self.subscriptions.swap_remove(at);
        if self.subscriptions.len() <= 1 {
            self.subscriptions.shrink_to_fit();
        }
        Some(gone)
    }

    /// The room has moved this session's member from the position `from` to `to`.
    pub fn moved(&mut self, room: u32, from: u32, to: u32) {
        let moved = self.subscriptions.iter_mut().find(|subscription| {
            subscription.kind != Kind::Queue && subscription.place == room && subscription.position == from
        });
        match moved {
            Some(subscription) => subscription.position = to,
            None => unreachable!("a room's member has a subscription"),
        }
    }

    /// A queue's message was handed to the session: it waits to be settled.
    pub fn delivered(&mut self, unsettled: Unsettled) {
        self.extra_mut().unsettled.push_back(unsettled);
    }

    /// Everything handed to the session has left for its socket: what waits under `auto` is settled.
    pub fn flushed(&mut self, settled: &mut Vec<Unsettled>) {
        let subscriptions = &self.subscriptions;
        let Some(extra) = &mut self.extra else { return };
        let auto: SmallVec<[Symbol; 4]> = subscriptions
            .iter()
            .filter(|subscription| subscription.kind == Kind::Queue && subscription.ack == AckMode::Auto)
            .map(|subscription| subscription.form)
            .collect();
        if auto.is_empty() || extra.unsettled.is_empty() {
            return;
        }
        extra.unsettled.retain(|unsettled| {
            let is_auto = auto.contains(&unsettled.form);
            if is_auto {
                settled.push(*unsettled);
            }
            !is_auto
        });
        self.tidy();
    }

    /// Holds `receipt` back until `count` confirmations with this serial number have come, and until no
    /// earlier receipt is held back.
    pub fn await_confirmations(&mut self, serial: u32, count: u32, receipt: CompactString) {
        let awaited = &mut self.extra_mut().awaited;
        if awaited.is_empty() {
            // Few sessions have a second one under way.
            awaited.reserve_exact(1);
        }
        awaited.push_back(extra::Awaited { serial, count, receipt });
    }

    /// The publication with this serial number was refused: the receipt that it asked for, for the ERROR.
    pub fn take_awaited(&mut self, serial: u32) -> Option<CompactString> {
        let awaited = &mut self.extra.as_mut()?.awaited;
        let at = awaited.iter().position(|awaited| awaited.serial == serial)?;
        awaited.remove(at).map(|awaited| awaited.receipt)
    }

    /// Ends the session as soon as nothing is awaited. Returns whether that is now.
    pub fn finish(&mut self) -> bool {
        match &mut self.extra {
            Some(extra) if !extra.awaited.is_empty() => {
                extra.is_finishing = true;
                false
            }
            _ => true,
        }
    }

    /// Whether confirmations are awaited.
    pub fn awaits(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.awaited.is_empty())
    }

    /// A shard has confirmed one publication with this serial number. Adds the receipts that may be
    /// sent, in order; returns whether the session asked to end and nothing is awaited any more.
    pub fn confirmed(&mut self, serial: u32, receipts: &mut SmallVec<[CompactString; 1]>) -> bool {
        let Some(extra) = &mut self.extra else { return false };
        if let Some(awaited) = extra.awaited.iter_mut().find(|awaited| awaited.serial == serial) {
            awaited.count = awaited.count.saturating_sub(1);
        }
        while let Some(done) = extra.awaited.pop_front_if(|awaited| awaited.count == 0) {
            receipts.push(done.receipt);
        }
        let is_finished = extra.is_finishing && extra.awaited.is_empty();
        if is_finished {
            extra.is_finishing = false;
        }
        self.tidy();
        is_finished
    }

    /// Takes a subscription out, whichever; for the end of the session, one at a time: while the shard takes
    /// it out of its place, the others must still be there to be moved.
    pub fn pop_subscription(&mut self) -> Option<Subscription> {
        self.subscriptions.pop()
    }

    /// The connection is gone: gives back what the session holds besides its subscriptions.
    pub fn end(&mut self, names: &mut Interner<Box<str>>) {
        if let Some(login) = self.login.take() {
            names.release(login.symbol());
        }
        self.extra = None;
        self.subscriptions.shrink_to_fit();
    }
}
