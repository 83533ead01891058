//! The mesh: one mailbox per shard, and nothing else is shared between shards on the data path.
//!
//! A mailbox is a single queue for all senders, not one per sender: order between senders matters. When a
//! session has its RECEIPT for a SUBSCRIBE, the join is already in the owner's mailbox (mail is posted before
//! sockets are written), so whatever anybody publishes because of that receipt is behind it in the queue.
//!
//! The length of a mailbox is bounded by credit, not by refusal: a shard counts what it has under way to
//! each owner ([`Credit`]) and stops reading from publishers when that is too much; the owner gives the credit
//! back when it has handed the messages on, and does not hand on into a mailbox that is over its bound.
//!
//! Invariant: whoever posts into an empty mailbox wakes its shard; so a shard that emptied its mailbox and
//! then sleeps misses nothing.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::chat::fault::Fault;
use crate::chat::intern::Symbol;
use crate::chat::message::Message;
use crate::chat::queue::{ConsumerKey, Offer, Settlement};
use crate::chat::room::{Sequenced, Stay};
use crate::shard::ConnKey;

/// A queue's subscriber, for the queue's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Consumer {
    /// Its shard.
    pub shard: u16,
    /// Its connection.
    pub connection: ConnKey,
    /// Its subscription.
    pub form: Symbol,
    /// Which subscription with that form: the same id may be subscribed again.
    pub serial: u32,
}

/// A session of any shard. Queues hold messages on its account.
pub type Holder = (u16, ConnKey);

impl ConsumerKey for Consumer {
    type Session = Holder;

    fn session(&self) -> Holder {
        (self.shard, self.connection)
    }
}

/// Who published, for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its shard.
    pub shard: u16,
    /// Its connection.
    pub connection: ConnKey,
    /// On whose account a queue keeps the message.
    pub holder: Holder,
    /// The serial number to confirm, if the publisher waits for it.
    pub serial: Option<u32>,
}

/// Messages and bytes under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Messages.
    pub messages: u32,
    /// Their weight in bytes.
    pub bytes: u64,
}

impl Credit {
    /// Counts one message.
    pub fn add(&mut self, weight: u64) {
        self.messages += 1;
        self.bytes += weight;
    }

    /// Takes off what was given back.
    pub fn subtract(&mut self, other: Credit) {
        debug_assert!(self.messages >= other.messages && self.bytes >= other.bytes);
        self.messages = self.messages.saturating_sub(other.messages);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// What shards tell each other.
#[derive(Debug)]
pub enum Mail {
    /// To the owner: a shard has members from here on.
    Join {
        /// The room.
        key: Box<str>,
        /// Which shard, and which of its stays.
        stay: Stay,
    },
    /// To the owner: a shard has no members any more.
    Leave {
        /// The room.
        key: Box<str>,
        /// The shard.
        shard: u16,
    },
    /// To the owner: a message for one of its places.
    Publish {
        /// Who published.
        origin: Origin,
        /// What.
        message: Message,
    },
    /// From the owner: a message for the members of a room.
    Deliver {
        /// What.
        sequenced: Sequenced,
        /// The number of the stay that it is for.
        stay: u32,
    },
    /// From the owner: a publication has its place in the order, or in the queue.
    Confirmed {
        /// Who published.
        connection: ConnKey,
        /// The publication.
        serial: u32,
    },
    /// From the owner: a publication, or a subscription to a queue, was refused.
    Rejected {
        /// Who asked.
        connection: ConnKey,
        /// The serial number of the publication, if its RECEIPT is waited for.
        serial: Option<u32>,
        /// Why.
        fault: Fault,
    },
    /// From the owner: publications have been handed on.
    Handled {
        /// The owner.
        owner: u16,
        /// How much.
        credit: Credit,
    },
    /// To the owner: a queue has a consumer more.
    QueueJoin {
        /// The queue.
        key: Box<str>,
        /// The consumer.
        consumer: Consumer,
    },
    /// To the owner: a queue has a consumer less.
    QueueLeave {
        /// The queue.
        key: Box<str>,
        /// The consumer.
        consumer: Consumer,
    },
    /// To the owner: a consumer has settled a message.
    QueueSettle {
        /// The queue.
        key: Box<str>,
        /// The consumer.
        consumer: Consumer,
        /// The message.
        sequence: u64,
        /// How.
        settlement: Settlement,
    },
    /// From the owner: a queue's message for a consumer.
    QueueOffer(Offer<Consumer>),
}

impl Mail {
    /// Bytes that the mail holds, for the bound of the mailbox.
    fn weight(&self) -> u64 {
        let rest = match self {
            Mail::Publish { message, .. } => message.weight(),
            Mail::Deliver { sequenced, .. } => sequenced.message.weight(),
            Mail::QueueOffer(offer) => offer.message.weight(),
            _ => 0,
        };
        rest + size_of::<Mail>() as u64
    }
}

type Wake = Box<dyn Fn() + Send + Sync>;

struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    bytes: AtomicU64,
    /// Somebody holds mail back until this mailbox has been emptied.
    is_awaited: AtomicBool,
    wake: Wake,
}

/// The mailboxes of all shards.
pub struct Mesh {
    mailboxes: Box<[Mailbox]>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("shards", &self.mailboxes.len()).finish()
    }
}

impl Mesh {
    /// One mailbox for each of `wakers`, which wake the shard of that number from any thread.
    pub fn new(wakers: Vec<Wake>) -> Mesh {
        let mailbox = |wake| Mailbox {
            mail: Mutex::new(Vec::new()),
            bytes: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            wake,
        };
        Mesh { mailboxes: wakers.into_iter().map(mailbox).collect() }
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.mailboxes.len() as u16
    }

    /// Moves all of `mail` into the mailbox of shard `to`, in order.
    pub fn post(&self, to: u16, mail: &mut Vec<Mail>) {
        if mail.is_empty() {
            return;
        }
        let mailbox = &self.mailboxes[to as usize];
        let bytes = mail.iter().map(Mail::weight).sum();
        let was_empty = {
            let mut queue = mailbox.mail.lock();
            mailbox.bytes.fetch_add(bytes, Ordering::Relaxed);
            let was_empty = queue.is_empty();
            queue.append(mail);
            was_empty
        };
        if was_empty {
            (mailbox.wake)();
        }
    }

    /// Moves all mail of shard `of` to the end of `into`.
    pub fn take(&self, of: u16, into: &mut Vec<Mail>) {
        let mailbox = &self.mailboxes[of as usize];
        {
            let mut queue = mailbox.mail.lock();
            mailbox.bytes.store(0, Ordering::SeqCst);
            if into.is_empty() {
                // Both buffers stay in use, at the size that the traffic needs.
                std::mem::swap(&mut *queue, into);
            } else {
                into.append(&mut queue);
            }
        }
        if mailbox.is_awaited.swap(false, Ordering::SeqCst) {
            for (shard, mailbox) in self.mailboxes.iter().enumerate() {
                if shard != usize::from(of) {
                    (mailbox.wake)();
                }
            }
        }
    }

    /// Gives back what the mailbox of shard `of` has beyond room for `kept` letters.
    pub fn shrink_to(&self, of: u16, kept: usize) {
        self.mailboxes[of as usize].mail.lock().shrink_to(kept);
    }

    /// Whether the mailbox of shard `of` holds more than `bytes_max`. If so, all shards are woken when it
    /// has been emptied.
    pub fn is_full(&self, of: u16, bytes_max: u64) -> bool {
        let mailbox = &self.mailboxes[of as usize];
        if mailbox.bytes.load(Ordering::Relaxed) <= bytes_max {
            return false;
        }
        mailbox.is_awaited.store(true, Ordering::SeqCst);
        // It may have been emptied between the look and the note. Each side writes one of the two and then reads
        // the other: only in a sequentially consistent order does one of them see what the other wrote.
        mailbox.bytes.load(Ordering::SeqCst) > bytes_max
    }

    /// Bytes in the mailbox of shard `of`.
    pub fn bytes(&self, of: u16) -> u64 {
        self.mailboxes[of as usize].bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn join(key: &str) -> Mail {
        Mail::Join { key: key.into(), stay: Stay { shard: 0, number: 1 } }
    }

    #[test]
    fn the_first_mail_wakes_and_the_order_is_kept() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let mesh = Mesh::new(vec![Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })]);
        mesh.post(0, &mut vec![join("a"), join("b")]);
        mesh.post(0, &mut vec![join("c")]);
        mesh.post(0, &mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        let mut mail = Vec::new();
        mesh.take(0, &mut mail);
        let keys: Vec<_> =
            mail.iter().map(|mail| if let Mail::Join { key, .. } = mail { key } else { "" }).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        mesh.post(0, &mut vec![join("d")]);
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn whoever_waits_for_a_full_mailbox_is_woken() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let quiet: Wake = Box::new(|| {});
        let counting: Wake = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mesh = Mesh::new(vec![quiet, counting]);
        mesh.post(0, &mut vec![join("a")]);
        assert!(!mesh.is_full(0, 1_000_000));
        mesh.take(0, &mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        mesh.post(0, &mut vec![join("a")]);
        assert!(mesh.is_full(0, 1));
        mesh.take(0, &mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(mesh.bytes(0), 0);
    }
}
