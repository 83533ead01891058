//! The sessions of one shard, by connection index, and what they share.
//!
//! A connection without a session has an empty one, which owns nothing. The sums over all sessions are kept as counts.
//!
//! Invariant: `subscriptions` and `transactions` are the sums over all sessions; a name is held by the queue
//! subscriptions that have it ([`Sessions::check`]).

use std::ops::{Index, IndexMut};

use crate::auth::Principal;
use crate::footprint::Part;
use crate::limits;
use crate::message::class::Class;
use crate::message::fault::Fault;
use crate::message::interner::Interner;
use crate::message::origin::Holder;
use crate::session::principals::{PrincipalId, Principals};
use crate::session::ticket::{Sources, Ticket};
use crate::session::{Command, Context, Session, Whence};
use crate::share::Shares;
use crate::time::{BYTES_PER_KEY, LazyWheel, Tick};
use crate::wire::framing::Framing;
use crate::wire::stomp::StompFrame;

/// What frames are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Bounds.
    pub limits: &'a limits::Stomp,
    /// Where the session's frames are.
    pub framing: Framing,
    /// Where clients prove who they are, if they have to.
    pub sources: Option<&'a Sources>,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    table: Vec<Session>,
    /// Keys of queues.
    names: Interner<Box<str>>,
    principals: Principals,
    /// When sessions expire that do.
    expiries: LazyWheel,
    next_serial: u32,
    subscriptions: u64,
    /// Bytes that open transactions hold.
    transactions: Shares<u32, Holder>,
    /// Bytes of what clients have said of themselves that are not known yet.
    tickets: Shares<u32, Holder>,
    commands: Vec<Command>,
}

impl Index<u32> for Sessions {
    type Output = Session;

    fn index(&self, index: u32) -> &Session {
        &self.table[index as usize]
    }
}

impl IndexMut<u32> for Sessions {
    fn index_mut(&mut self, index: u32) -> &mut Session {
        &mut self.table[index as usize]
    }
}

impl Sessions {
    /// No sessions. `seed` must not be guessable by peers.
    pub fn new(seed: u64, limits: &limits::Stomp, ticket_bytes_max: u64) -> Sessions {
        Sessions {
            table: Vec::new(),
            names: Interner::new(seed),
            principals: Principals::new(seed),
            expiries: LazyWheel::default(),
            next_serial: 0,
            subscriptions: 0,
            transactions: Shares::new(limits.reactor_transaction_bytes_max),
            tickets: Shares::new(ticket_bytes_max),
            commands: Vec::new(),
        }
    }

    /// Other bounds hold from here on.
    pub fn set_limits(&mut self, limits: &limits::Stomp, ticket_bytes_max: u64) {
        self.transactions.set_max(limits.reactor_transaction_bytes_max);
        self.tickets.set_max(ticket_bytes_max);
    }

    /// A connection has this index: it has an empty session.
    pub fn open(&mut self, index: u32) {
        let index = index as usize;
        if index >= self.table.len() {
            self.table.resize_with(index + 1, Session::default);
        }
        self.table[index] = Session::default();
    }

    /// The last connection has gone.
    pub fn clear(&mut self) {
        self.table = Vec::new();
        self.expiries.clear();
    }

    // ---- who clients are ----

    /// Who the sessions are.
    pub fn principals(&self) -> &Principals {
        &self.principals
    }

    /// Keeps what an upgrade says of its client until its CONNECT comes. `false` if upgrades of all clients say too much for
    /// that, and this one's client most of it.
    pub fn keep_ticket(&mut self, index: u32, ticket: Box<Ticket>, holder: Holder) -> bool {
        let bytes = ticket.weight();
        if !self.tickets.admits(holder, bytes) {
            return false;
        }
        self.tickets.charge(index, holder, bytes);
        self.table[index as usize].keep_ticket(ticket);
        true
    }

    /// It is asked who a client is that says so much of itself. `false` if all together say too much, and it most of it.
    pub fn ask(&mut self, index: u32, bytes: u64, holder: Holder) -> bool {
        // What its upgrade said is part of it.
        self.tickets.release_all(index);
        let is_admitted = self.tickets.admits(holder, bytes);
        if is_admitted {
            self.tickets.charge(index, holder, bytes);
        }
        is_admitted
    }

    /// That is answered.
    pub fn answered(&mut self, index: u32) {
        self.table[index as usize].asked();
        self.tickets.release_all(index);
    }

    /// Bytes of what clients have said of themselves that are not known yet.
    pub fn ticket_bytes(&self) -> u64 {
        self.tickets.total()
    }

    /// It is known who a client is, if it is anybody, and when that ends: it is connected.
    pub fn connected_as(
        &mut self,
        index: u32,
        principal: Option<Principal>,
        expires: Option<Tick>,
        now: Tick,
    ) {
        let principal = principal.map(|principal| self.principals.acquire(principal));
        self.table[index as usize].connected_as(principal);
        self.set_expiry(index, expires, now);
    }

    /// A client has proved again who it is. Returns the number of the principal that it was, if nobody is that any more.
    ///
    /// # Errors
    /// It has proved that it is somebody else. Nothing has changed.
    pub fn renewed_as(
        &mut self,
        index: u32,
        principal: Option<Principal>,
        expires: Option<Tick>,
        now: Tick,
    ) -> Result<Option<u32>, Fault> {
        let session = &mut self.table[index as usize];
        let login = session.principal().map(|principal| self.principals.login(principal));
        if principal.as_ref().map(|principal| &*principal.login) != login {
            return Err(Fault::NotAuthenticated("a new token cannot change the login".into()));
        }
        let principal = principal.map(|principal| self.principals.acquire(principal));
        let before = session.renewed_as(principal);
        self.set_expiry(index, expires, now);
        Ok(before.filter(|before| self.principals.release(*before)).map(PrincipalId::number))
    }

    fn set_expiry(&mut self, index: u32, expires: Option<Tick>, now: Tick) {
        match expires {
            Some(at) => self.expiries.arm(index, at, now),
            None => self.expiries.cancel(index),
        }
    }

    /// A moment to look for expired sessions at, if there will be any.
    pub fn next_expiry(&self) -> Option<Tick> {
        self.expiries.next_deadline()
    }

    /// Adds the sessions that have expired, `budget` at most. Returns whether there are more.
    pub fn take_expired(&mut self, now: Tick, budget: usize, expired: &mut Vec<u32>) -> bool {
        self.expiries.expire(now, budget, expired)
    }

    /// A number for a request: no other request of the same session has it that is under way.
    pub fn serial(&mut self) -> u32 {
        // It may come back after 2^32 requests of the shard; 0 is left out, so that a debt can be of no request.
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        self.next_serial
    }

    /// Keys of queues.
    pub fn names(&self) -> &Interner<Box<str>> {
        &self.names
    }

    /// Keys of queues, to acquire and release.
    pub fn names_mut(&mut self) -> &mut Interner<Box<str>> {
        &mut self.names
    }

    /// Subscriptions of all sessions.
    pub fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// A session has a subscription more.
    pub fn count_subscription(&mut self) {
        self.subscriptions += 1;
    }

    /// A session has a subscription less.
    pub fn uncount_subscription(&mut self) {
        self.subscriptions -= 1;
    }

    /// Bytes that open transactions of all sessions hold.
    pub fn transaction_bytes(&self) -> u64 {
        self.transactions.total()
    }

    /// Takes in one frame of a session. What it asks for is what [`Sessions::take_commands`] gives out.
    ///
    /// # Errors
    /// The fault that ends the session: nothing of the frame is to be carried out.
    pub fn handle(
        &mut self,
        index: u32,
        stomp_frame: &StompFrame<'_>,
        terms: Terms<'_>,
        classes: &mut Interner<Class>,
        holder: impl FnOnce() -> Holder,
        whence: impl Fn() -> Whence,
    ) -> Result<(), Fault> {
        let whence = &whence;
        let Sessions { table, principals, commands, transactions, .. } = self;
        let Terms { limits, framing, sources, wall_ms } = terms;
        let session = &mut table[index as usize];
        let before = session.transaction_bytes();
        let mut context =
            Context { limits, framing, sources, wall_ms, classes, principals, commands, whence };
        let handled = session.handle(stomp_frame, &mut context);
        let after = session.transaction_bytes();
        let mut handled = handled;
        if after > before {
            // Past three quarters of the bound, whoever has most gets no more.
            let holder = holder();
            if !transactions.admits(holder, after - before) {
                handled = Err(Fault::TransactionsExhausted { max: limits.reactor_transaction_bytes_max });
            }
            transactions.charge(index, holder, after - before);
        } else {
            transactions.release(index, before - after);
        }
        if handled.is_err() {
            self.commands.clear();
        }
        handled
    }

    /// A session commits nothing any more: its open transactions go.
    pub fn abort_all(&mut self, index: u32) {
        let Sessions { table, transactions, .. } = self;
        let session = &mut table[index as usize];
        transactions.release(index, session.transaction_bytes());
        session.abort_all();
    }

    /// The commands of the frame that was handled last.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Takes the memory of a list back that [`Sessions::take_commands`] gave out.
    pub fn reuse(&mut self, mut commands: Vec<Command>) {
        commands.clear();
        self.commands = commands;
    }

    /// A session that has no subscriptions any more ends: gives back what it holds besides. Returns the number of its
    /// principal, if no other session is that.
    pub fn end(&mut self, index: u32) -> Option<u32> {
        let Sessions { table, principals, expiries, transactions, tickets, .. } = self;
        let session = &mut table[index as usize];
        transactions.release(index, session.transaction_bytes());
        tickets.release_all(index);
        expiries.cancel(index);
        session.end().filter(|principal| principals.release(*principal)).map(PrincipalId::number)
    }

    /// What the table takes, what is interned, and the deadlines of those that expire.
    pub fn memory(&self) -> (Part, Part, Part) {
        let table = Part::array(self.table.len(), self.table.capacity(), size_of::<Session>());
        let interned = [self.names.memory(|name| name.len()), self.principals.memory()];
        let (expiries, room) = self.expiries.size();
        (table, interned.into_iter().sum(), Part::array(expiries, room, BYTES_PER_KEY))
    }

    /// All sessions, empty ones included.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.table.iter()
    }

    /// Gives back what a calm turn does not need.
    pub fn shrink_to(&mut self, commands: usize) {
        self.commands.shrink_to(commands);
    }

    /// Panics unless the counts are the sums.
    pub fn check(&self) {
        self.names.check();
        let subscriptions =
            self.table.iter().map(|session| session.subscriptions().len() as u64).sum::<u64>();
        assert_eq!(subscriptions, self.subscriptions);
        let bytes = self.table.iter().map(Session::transaction_bytes).sum::<u64>();
        self.transactions.check();
        assert_eq!(bytes, self.transactions.total());
        self.principals.check();
        self.tickets.check();
        let is_charged =
            |(index, session): (u32, &Session)| session.ticket_bytes() <= self.tickets.held_by(index);
        assert!((0..).zip(&self.table).all(is_charged));
    }

    /// Panics unless nothing is left of any session.
    pub fn check_empty(&self) {
        assert!(self.names.is_empty() && self.principals.is_empty() && self.expiries.is_empty());
        assert_eq!((self.subscriptions, self.transactions.total(), self.tickets.total()), (0, 0, 0));
        assert!(self.table.iter().all(|session| session.subscriptions().is_empty() && !session.awaits()));
    }
}
