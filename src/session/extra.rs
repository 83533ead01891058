//! What only a busy session has: open transactions, unsettled messages, awaited requests.
//!
//! Invariant: the sums over all transactions are within their bounds.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::limits;
use crate::message::MessageId;
use crate::message::class::AckMode;
use crate::message::fault::Fault;
use crate::message::interner::Symbol;
use crate::session::awaiting::Awaiting;
use crate::session::ticket::Ticket;
use crate::session::{Command, End};

/// A queue's message that this session was given and has not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled {
    /// Its id.
    pub id: MessageId,
    /// The subscription that it came by.
    pub class: Symbol,
}

#[derive(Debug)]
struct Transaction {
    id: Box<str>,
    commands: Vec<Command>,
    bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Extra {
    transactions: Vec<Transaction>,
    /// In order of delivery, which is what `ack:client` counts by.
    pub(super) unsettled: VecDeque<Unsettled>,
    /// The same under `ack:auto`, each with the end of its bytes in the stream of answers.
    pub(super) auto: VecDeque<(u64, Unsettled)>,
    pub(super) awaiting: Awaiting,
    /// The request that asks who the client is, before it is connected, and the login that it says it has.
    pub(super) connecting: Option<(u32, Option<Box<str>>)>,
    /// There while it is asked who the client is. Whoever is to answer has a weak reference, which ends with the session.
    pub(super) asking: Option<Arc<()>>,
    /// What the upgrade said of the client, before its CONNECT.
    pub(super) ticket: Option<Box<Ticket>>,
    /// Publications that wait for full rooms.
    pub(super) parked: u32,
    /// How the session ends, once it waits for nothing.
    pub(super) ends: Vec<End>,
}

impl Extra {
    pub(super) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
            && self.unsettled.is_empty()
            && self.auto.is_empty()
            && self.awaiting.is_empty()
            && self.connecting.is_none()
            && self.asking.is_none()
            && self.ticket.is_none()
            && self.parked == 0
            && self.ends.is_empty()
    }

    /// Whether this request asks who the client is, before it is connected.
    pub(super) fn is_connecting_by(&self, serial: u32) -> bool {
        self.connecting.as_ref().is_some_and(|(asked, _)| *asked == serial)
    }

    /// Bytes that the open transactions hold.
    pub(super) fn transaction_bytes(&self) -> u64 {
        self.transactions.iter().map(|transaction| transaction.bytes).sum()
    }

    /// BEGIN.
    pub(super) fn begin(&mut self, id: &str, limits: &limits::Stomp) -> Result<(), Fault> {
        if self.transactions.iter().any(|transaction| &*transaction.id == id) {
            return Err(Fault::TransactionExists);
        }
        let max = limits.transactions_max;
        if self.transactions.len() >= max as usize {
            return Err(Fault::TooManyTransactions { max });
        }
        self.transactions.push(Transaction { id: id.into(), commands: Vec::new(), bytes: 0 });
        Ok(())
    }

    /// Holds a command until the transaction is committed.
    pub(super) fn hold(&mut self, id: &str, command: Command, limits: &limits::Stomp) -> Result<(), Fault> {
        let frames: usize = self.transactions.iter().map(|transaction| transaction.commands.len()).sum();
        let (bytes, weight) = (self.transaction_bytes(), command.weight());
        let transaction = self
            .transactions
            .iter_mut()
            .find(|transaction| &*transaction.id == id)
            .ok_or(Fault::NoSuchTransaction)?;
        if frames >= limits.transaction_frames_max as usize {
            return Err(Fault::TransactionTooLong { max: limits.transaction_frames_max });
        }
        if bytes + weight > u64::from(limits.transaction_bytes_max) {
            return Err(Fault::TransactionTooLarge { max: limits.transaction_bytes_max });
        }
        transaction.bytes += weight;
        transaction.commands.push(command);
        Ok(())
    }

    /// Ends all transactions.
    pub(super) fn abort_all(&mut self) {
        self.transactions = Vec::new();
    }

    /// Ends a transaction and returns what it held.
    pub(super) fn take_transaction(&mut self, id: &str) -> Result<Vec<Command>, Fault> {
        let at = self.transactions.iter().position(|transaction| &*transaction.id == id);
        Ok(self.transactions.remove(at.ok_or(Fault::NoSuchTransaction)?).commands)
    }

    /// Takes out what an ACK or NACK of `id` covers.
    pub(super) fn settle(&mut self, id: MessageId, mode: impl Fn(Symbol) -> AckMode) -> Vec<Unsettled> {
        let Some(at) = self.unsettled.iter().position(|unsettled| unsettled.id == id) else {
            return Vec::new();
        };
        let class = self.unsettled[at].class;
        match mode(class) {
            AckMode::Auto => Vec::new(),
            AckMode::Individual => self.unsettled.remove(at).into_iter().collect(),
            AckMode::Client => {
                let (mut settled, mut place) = (Vec::new(), 0);
                self.unsettled.retain(|unsettled| {
                    let is_covered = place <= at && unsettled.class == class;
                    place += 1;
                    if is_covered {
                        settled.push(*unsettled);
                    }
                    !is_covered
                });
                settled
            }
        }
    }

    /// The subscription is gone, and with it what it has not settled.
    pub(super) fn forget(&mut self, class: Symbol) {
        self.unsettled.retain(|unsettled| unsettled.class != class);
        self.auto.retain(|(_, unsettled)| unsettled.class != class);
    }
}
