//! The sessions of one shard, by connection index, and what they share.
//!
//! A connection without a session has an empty one, which owns nothing. The sums over all sessions are kept as counts.
//!
//! Invariant: `subscriptions` and `transactions` are the sums over all sessions; a name is held by the logins and queue
//! subscriptions that have it ([`Sessions::check`]).

use std::ops::{Index, IndexMut};

use crate::footprint::Part;
use crate::limits;
use crate::message::class::Class;
use crate::message::fault::Fault;
use crate::message::interner::Interner;
use crate::message::origin::Holder;
use crate::session::{Command, Context, Session};
use crate::share::Shares;
use crate::wire::stomp::StompFrame;

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    table: Vec<Session>,
    /// Logins and keys of queues.
    names: Interner<Box<str>>,
    next_serial: u32,
    subscriptions: u64,
    /// Bytes that open transactions hold.
    transactions: Shares<u32, Holder>,
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
    pub fn new(seed: u64, limits: &limits::Stomp) -> Sessions {
        Sessions {
            table: Vec::new(),
            names: Interner::new(seed),
            next_serial: 0,
            subscriptions: 0,
            transactions: Shares::new(limits.reactor_transaction_bytes_max),
            commands: Vec::new(),
        }
    }

    /// Other bounds hold from here on.
    pub fn set_limits(&mut self, limits: &limits::Stomp) {
        self.transactions.set_max(limits.reactor_transaction_bytes_max);
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
    }

    /// A number for a request: no other request of the same session has it that is under way.
    pub fn serial(&mut self) -> u32 {
        // It may come back after 2^32 requests of the shard; 0 is left out, so that a debt can be of no request.
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        self.next_serial
    }

    /// Logins and keys of queues.
    pub fn names(&self) -> &Interner<Box<str>> {
        &self.names
    }

    /// Logins and keys of queues, to acquire and release.
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
        limits: &limits::Stomp,
        classes: &mut Interner<Class>,
        holder: impl FnOnce() -> Holder,
    ) -> Result<(), Fault> {
        let Sessions { table, names, commands, transactions, .. } = self;
        let session = &mut table[index as usize];
        let before = session.transaction_bytes();
        let mut context = Context { limits, classes, names, commands };
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

    /// A session that has no subscriptions any more ends: gives back what it holds besides.
    pub fn end(&mut self, index: u32) {
        let Sessions { table, names, transactions, .. } = self;
        let session = &mut table[index as usize];
        transactions.release(index, session.transaction_bytes());
        session.end(names);
    }

    /// What the table takes, and what is interned.
    pub fn memory(&self) -> (Part, Part) {
        let table = Part::array(self.table.len(), self.table.capacity(), size_of::<Session>());
        (table, self.names.memory(|name| name.len()))
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
    }

    /// Panics unless nothing is left of any session.
    pub fn check_empty(&self) {
        assert!(self.names.is_empty());
        assert_eq!((self.subscriptions, self.transactions.total()), (0, 0));
        assert!(self.table.iter().all(|session| session.subscriptions().is_empty() && !session.awaits()));
    }
}
