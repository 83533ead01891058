//! What shards tell each other.
//!
//! Invariant: mail is plain data: nothing in it names memory of the sender.

use super::inquiry::Inquiry;
use super::port::Credit;
use super::request::Completion;
use crate::broker::history::Asked;
use crate::broker::queue::{Offer, Settlement};
use crate::message::destination::Kind;
use crate::message::origin::{ConnKey, Consumer, Origin};
use crate::message::past::Past;
use crate::message::{Message, Sequenced};

/// One piece of mail.
#[derive(Debug)]
pub enum Mail {
    /// To the owner: a request that a session may subscribe. Its completion comes in order with the room's messages.
    Subscribe {
        /// The destination's key.
        key: Box<str>,
        /// What it names.
        kind: Kind,
        /// Who asks: the completion is always waited for.
        origin: Origin,
        /// For a queue, the consumer.
        consumer: Consumer,
        /// What is asked of the past, if that is not nothing.
        past: Option<Box<Past>>,
    },
    /// To the owner: a request for the next page of a recovery, with the last of which the session is subscribed.
    Recover {
        /// The room's key.
        key: Box<str>,
        /// What it names.
        kind: Kind,
        /// Who asks: the completion is always waited for.
        origin: Origin,
        /// Which page.
        asked: Asked,
    },
    /// To the owner: a request that a subscription ends, in order with the room's messages.
    Unsubscribe {
        /// The destination's key.
        key: Box<str>,
        /// What it names.
        kind: Kind,
        /// Who asks; nobody waits for the completion when the session has ended.
        origin: Origin,
        /// For a queue, the consumer.
        consumer: Consumer,
    },
    /// To the owner: a request that a message gets its place.
    Publish {
        /// Who published.
        origin: Origin,
        /// What.
        message: Message,
    },
    /// From the owner: a message for the members of a room.
    Deliver(Sequenced),
    /// From an owner or a service: a request is done, or was refused.
    Completed {
        /// Who asked.
        connection: ConnKey,
        /// Its request; `None` for a publication without receipt that was refused.
        serial: Option<u32>,
        /// What came of it.
        completion: Completion,
    },
    /// From the owner: publications have been handed on.
    Handled {
        /// The owner.
        owner: u16,
        /// How much.
        credit: Credit,
    },
    /// To the owner: more waits for the members of a shard than may, or there is room again.
    RoomFull {
        /// The room.
        key: Box<str>,
        /// The shard.
        shard: u16,
        /// Which of the two.
        is_full: bool,
    },
    /// From the owner: a session's publication is parked because its room is full, or is so no more.
    Parked {
        /// Who published.
        connection: ConnKey,
        /// Which of the two.
        is_parked: bool,
    },
    /// To the owner: a consumer has settled a message.
    Settle {
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
    Offer(Offer<Consumer>),
    /// From a service: what it wants to know of this shard, or have done. In a box, as there are few.
    Inquire(Box<Inquiry>),
}

impl Mail {
    /// Bytes that the mail holds, for the bound of the mailbox.
    pub fn weight(&self) -> u64 {
        let rest = match self {
            Mail::Publish { message, .. } => message.weight(),
            Mail::Deliver(sequenced) => sequenced.message.weight(),
            Mail::Offer(offer) => offer.message.weight(),
            Mail::Subscribe { key, .. }
            | Mail::Recover { key, .. }
            | Mail::Unsubscribe { key, .. }
            | Mail::RoomFull { key, .. }
            | Mail::Settle { key, .. }
            | Mail::Completed {
                completion:
                    Completion::Subscribed { key, .. }
                    | Completion::Recovering { key, .. }
                    | Completion::Unsubscribed { key },
                ..
            } => key.len() as u64,
            Mail::Completed { completion: Completion::Page { key, page: Ok(page), .. }, .. } => {
                let messages = page.messages.iter().map(|sequenced| sequenced.message.weight());
                key.len() as u64 + messages.sum::<u64>()
            }
            Mail::Inquire(inquiry) => inquiry.weight(),
            Mail::Completed { .. } | Mail::Handled { .. } | Mail::Parked { .. } => 0,
        };
        rest + size_of::<Mail>() as u64
    }
}
