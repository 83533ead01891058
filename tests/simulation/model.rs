//! What must be true of rooms and queues, in the plainest form.
//!
//! Topics: a subscription sees consecutive sequence numbers of one life, so nothing is lost, doubled or out of
//! order; the same id is the same body for everybody; and whatever was published after a subscription was
//! confirmed, and confirmed itself, is seen by it as long as it stays.
//!
//! Queues: a confirmed message is delivered at least once before the end, and not again after a confirmed
//! acknowledgement.

use std::collections::{HashMap, HashSet};

/// Number of a subscription in the model.
pub type SubscriptionId = usize;

struct Subscription {
    topic: String,
    confirmed_at: Option<u64>,
    is_over: bool,
    last: Option<(String, u64)>,
    bodies: HashSet<String>,
}

struct Sent {
    place: String,
    at: u64,
    is_confirmed: bool,
}

/// See the module.
#[derive(Default)]
pub struct Model {
    clock: u64,
    subscriptions: Vec<Subscription>,
    sent: HashMap<String, Sent>,
    bodies: HashMap<String, String>,
    delivered: HashSet<String>,
    done: HashSet<String>,
}

impl Model {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A client asks for a subscription to a topic.
    pub fn subscribe(&mut self, topic: &str) -> SubscriptionId {
        self.subscriptions.push(Subscription {
            topic: topic.into(),
            confirmed_at: None,
            is_over: false,
            last: None,
            bodies: HashSet::new(),
        });
        self.subscriptions.len() - 1
    }

    /// The client has its receipt.
    pub fn subscribed(&mut self, id: SubscriptionId) {
        self.subscriptions[id].confirmed_at = Some(self.tick());
    }

    /// The client asks to end it, or its connection is gone.
    pub fn over(&mut self, id: SubscriptionId) {
        self.subscriptions[id].is_over = true;
    }

    /// A client publishes. Bodies are distinct.
    pub fn sent(&mut self, place: &str, body: &str) {
        let at = self.tick();
        self.sent.insert(body.into(), Sent { place: place.into(), at, is_confirmed: false });
    }

    /// The publisher has its receipt.
    pub fn confirmed(&mut self, body: &str) {
        if let Some(sent) = self.sent.get_mut(body) {
            sent.is_confirmed = true;
        }
    }

    /// A topic's message has come.
    pub fn received(&mut self, id: SubscriptionId, message_id: &str, body: &str) {
        let sent = self.sent.get(body).expect("only what was sent is received");
        let subscription = &mut self.subscriptions[id];
        assert_eq!(sent.place, subscription.topic);
        let (life, sequence) = message_id.split_once('-').expect("life-sequence");
        let sequence: u64 = sequence.parse().expect("a number");
        if let Some((last_life, last)) = &subscription.last {
            assert_eq!((life, sequence), (last_life.as_str(), last + 1), "a gap, or out of order");
        }
        subscription.last = Some((life.into(), sequence));
        assert!(subscription.bodies.insert(body.into()), "{body} came twice");
        let known = self.bodies.entry(message_id.into()).or_insert_with(|| body.into());
        assert_eq!(known, body, "{message_id} names two messages");
    }

    /// A queue's message has come.
    pub fn offered(&mut self, body: &str) {
        assert!(self.sent.contains_key(body), "only what was sent is received");
        self.delivered.insert(body.into());
    }

    /// Whether an acknowledgement of this message was confirmed.
    pub fn is_settled(&self, body: &str) -> bool {
        self.done.contains(body)
    }

    /// A queue's message has reached the socket of a client that is gone.
    pub fn handed_over(&mut self, body: &str) {
        self.delivered.insert(body.into());
    }

    /// An acknowledgement was confirmed.
    pub fn settled(&mut self, body: &str) {
        self.done.insert(body.into());
    }

    /// Everything under way has arrived, and all queues have been emptied.
    pub fn check_complete(&self) {
        for (body, sent) in self.sent.iter().filter(|(_, sent)| sent.is_confirmed) {
            if sent.place.starts_with("/queue/") {
                assert!(self.delivered.contains(body), "{body} was confirmed and never delivered");
                continue;
            }
            for subscription in &self.subscriptions {
                let must_see = subscription.topic == sent.place
                    && !subscription.is_over
                    && subscription.confirmed_at.is_some_and(|at| at < sent.at);
                assert!(
                    !must_see || subscription.bodies.contains(body),
                    "{body} to {} was lost: published at {}, subscribed at {:?}, last seen {:?}",
                    sent.place,
                    sent.at,
                    subscription.confirmed_at,
                    subscription.last
                );
            }
        }
    }

    /// Messages that were confirmed: a simulation in which nothing happens proves nothing.
    pub fn confirmed_count(&self) -> usize {
        self.sent.values().filter(|sent| sent.is_confirmed).count()
    }
}
