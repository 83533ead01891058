//! What must be true of rooms and queues, in the plainest form.
//!
//! Topics: a subscription sees consecutive sequence numbers of one life, so nothing is lost, doubled or out of
//! order; the same id is the same body for everybody; and whatever was published after a subscription was
//! confirmed, and confirmed itself, is seen by it as long as it stays. So is what its own session publishes behind the
//! SUBSCRIBE, and what somebody publishes, and has confirmed, who has seen such a message. With the RECEIPT of an
//! UNSUBSCRIBE, all is there that its session has said before, and all that was confirmed before.
//!
//! Questions are messages of queues, by their labels.
//!
//! Queues: a confirmed message is delivered at least once before the end, and not again after a confirmed
//! acknowledgement.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::past::Past;

/// Number of a subscription in the model.
pub type SubscriptionId = usize;

struct Subscription {
    by: String,
    topic: String,
    asked_at: u64,
    confirmed_at: Option<u64>,
    /// When its session has asked to end it.
    leaving_at: Option<u64>,
    is_over: bool,
    /// So many subscriptions before it had its id and its room: messages of theirs are taken for its own.
    gaps: u32,
    /// Who has seen what its session said behind it, and since when.
    known: BTreeMap<String, u64>,
    last: Option<(String, u64)>,
    bodies: HashSet<String>,
    /// It has asked for the past.
    past: Option<Past>,
    /// When it had all of that.
    recovered_at: Option<u64>,
}

struct Sent {
    by: String,
    place: String,
    at: u64,
    confirmed_at: Option<u64>,
    /// Whoever published it was told that it has no place. Others may have seen it.
    is_refused: bool,
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
    answered: HashSet<String>,
}

impl Model {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A client asks for a subscription to a topic.
    pub fn subscribe(&mut self, by: &str, topic: &str) -> SubscriptionId {
        let asked_at = self.tick();
        self.subscriptions.push(Subscription {
            by: by.into(),
            topic: topic.into(),
            asked_at,
            confirmed_at: None,
            leaving_at: None,
            is_over: false,
            gaps: 0,
            known: BTreeMap::new(),
            last: None,
            bodies: HashSet::new(),
            past: None,
            recovered_at: None,
        });
        self.subscriptions.len() - 1
    }

    /// The same, and asks for the past: for all behind a position, or for the last messages.
    pub fn recover(&mut self, by: &str, topic: &str, since: Option<(String, u64)>) -> SubscriptionId {
        let id = self.subscribe(by, topic);
        self.subscriptions[id].past = Some(Past::asked(since));
        id
    }

    /// Whether a subscription has asked for the past.
    pub fn asks_for_the_past(&self, id: SubscriptionId) -> bool {
        self.subscriptions[id].past.is_some()
    }

    /// Whether a subscription may be followed by one with its id that asks for the past: nothing that comes for the two can be
    /// taken for the other's.
    pub fn may_recover_again(&self, before: SubscriptionId) -> bool {
        !self.asks_for_the_past(before) && self.subscriptions[before].gaps == 0
    }

    /// [`subscribe_again`](Self::subscribe_again), and it asks for the past.
    pub fn recover_again(&mut self, before: SubscriptionId, since: Option<(String, u64)>) -> SubscriptionId {
        let id = self.subscribe_again(before);
        self.subscriptions[id].past = Some(Past::asked(since));
        id
    }

    /// Where a subscription is in its room, if it has had a message.
    pub fn position(&self, id: SubscriptionId) -> Option<(String, u64)> {
        self.subscriptions[id].last.clone()
    }

    /// A marker of the past has come.
    pub fn marked(&mut self, id: SubscriptionId, headers: &HashMap<&str, &str>) {
        let at = self.tick();
        let subscription = &mut self.subscriptions[id];
        match &mut subscription.past {
            Some(past) => {
                past.marked(headers);
                if past.is_recovered() {
                    self.subscriptions[id].recovered_at = Some(at);
                }
            }
            None => assert!(subscription.gaps > 0, "it has not asked for the past"),
        }
    }

    /// A client asks for a subscription with the id and the topic of one that it has just ended.
    pub fn subscribe_again(&mut self, before: SubscriptionId) -> SubscriptionId {
        self.over(before);
        let Subscription { by, topic, gaps, .. } = &self.subscriptions[before];
        let (by, topic, gaps) = (by.clone(), topic.clone(), *gaps);
        let id = self.subscribe(&by, &topic);
        self.subscriptions[id].gaps = gaps + 1;
        id
    }

    /// The client has its receipt.
    pub fn subscribed(&mut self, id: SubscriptionId) {
        self.subscriptions[id].confirmed_at = Some(self.tick());
    }

    /// The client asks to end it, and waits for a receipt.
    pub fn leaving(&mut self, id: SubscriptionId) {
        self.subscriptions[id].leaving_at = Some(self.tick());
    }

    /// The client has the receipt of that.
    pub fn left(&mut self, id: SubscriptionId) {
        self.check_seen(id);
        self.over(id);
    }

    /// Nothing more is owed: its connection is gone, or the client has asked to end it and waits for nothing.
    pub fn over(&mut self, id: SubscriptionId) {
        self.subscriptions[id].is_over = true;
    }

    /// A client publishes. Bodies are distinct.
    pub fn sent(&mut self, by: &str, place: &str, body: &str) {
        let at = self.tick();
        self.sent.insert(
            body.into(),
            Sent { by: by.into(), place: place.into(), at, confirmed_at: None, is_refused: false },
        );
    }

    /// The publisher has its receipt.
    pub fn confirmed(&mut self, body: &str) {
        let at = self.tick();
        if let Some(sent) = self.sent.get_mut(body) {
            sent.confirmed_at = Some(at);
        }
    }

    /// The publisher was told that it was refused.
    pub fn refused(&mut self, body: &str) {
        if let Some(sent) = self.sent.get_mut(body) {
            sent.is_refused = true;
        }
    }

    /// A topic's message has come.
    pub fn received(&mut self, id: SubscriptionId, message_id: &str, body: &str) {
        let at = self.tick();
        let sent = self.sent.get(body).expect("only what was sent is received");
        let subscription = &mut self.subscriptions[id];
        assert_eq!(sent.place, subscription.topic);
        let (life, sequence) = message_id.split_once('-').expect("life-sequence");
        let sequence: u64 = sequence.parse().expect("a number");
        if let Some(past) = &mut subscription.past {
            if !past.has_begun() && subscription.gaps > 0 {
                // It is of the one before it with its id.
                return;
            }
            past.received(life, sequence);
        } else if let Some((last_life, last)) = &subscription.last
            && (life, sequence) != (last_life.as_str(), last + 1)
        {
            assert!(
                subscription.gaps > 0,
                "{message_id} {body} after {last_life}-{last}: a gap, or out of order"
            );
            subscription.gaps -= 1;
        }
        subscription.last = Some((life.into(), sequence));
        assert!(
            subscription.gaps > 0
                || subscription.past.is_some()
                || sent.by != subscription.by
                || sent.at > subscription.asked_at,
            "{body} came to the subscription that its own session asked for later"
        );
        assert!(subscription.bodies.insert(body.into()), "{body} came twice");
        let known = self.bodies.entry(message_id.into()).or_insert_with(|| body.into());
        assert_eq!(known, body, "{message_id} names two messages");
        let reader = subscription.by.clone();
        for other in self.subscriptions.iter_mut().filter(|other| !other.is_over && other.by == sent.by) {
            if other.asked_at < sent.at {
                other.known.entry(reader.clone()).or_insert(at);
            }
        }
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

    /// An answer to the question with this label was confirmed.
    pub fn answered(&mut self, label: &str) {
        self.answered.insert(label.into());
    }

    /// Whether one was.
    pub fn is_answered(&self, label: &str) -> bool {
        self.answered.contains(label)
    }

    /// Panics unless a subscription has seen all that it must have seen.
    fn check_seen(&self, id: SubscriptionId) {
        let subscription = &self.subscriptions[id];
        // It was told what it does not get of what was said before it had all, or has ended before that.
        let begin = match &subscription.past {
            Some(past) if past.is_incomplete || !past.is_recovered() => {
                subscription.recovered_at.unwrap_or(u64::MAX)
            }
            _ => 0,
        };
        let end = subscription.leaving_at.unwrap_or(u64::MAX);
        for (body, sent) in &self.sent {
            let is_meant = sent.place == subscription.topic && (begin..=end).contains(&sent.at);
            if !is_meant || subscription.bodies.contains(body) {
                continue;
            }
            let is_confirmed = sent.confirmed_at.is_some_and(|at| at < end);
            let is_own = !sent.is_refused && sent.by == subscription.by && subscription.asked_at < sent.at;
            let is_after_receipt = is_confirmed && subscription.confirmed_at.is_some_and(|at| at < sent.at);
            let is_reaction =
                is_confirmed && subscription.known.get(&sent.by).is_some_and(|at| *at < sent.at);
            assert!(
                !is_own && !is_after_receipt && !is_reaction,
                "{body} to {} was lost for {}: published at {}, asked at {}, subscribed at {:?}, ended at {end}, last seen \
                {:?}; own {is_own}, reaction {is_reaction}",
                sent.place,
                subscription.by,
                sent.at,
                subscription.asked_at,
                subscription.confirmed_at,
                subscription.last
            );
        }
    }

    /// Everything under way has arrived, and all queues have been emptied.
    pub fn check_complete(&self) {
        for (body, sent) in &self.sent {
            let is_kept = sent.place.starts_with("/queue/") || sent.place.starts_with("/app/");
            if is_kept && sent.confirmed_at.is_some() {
                assert!(self.delivered.contains(body), "{body} was confirmed and never delivered");
            }
        }
        for id in 0..self.subscriptions.len() {
            if !self.subscriptions[id].is_over {
                let Subscription { past, leaving_at, .. } = &self.subscriptions[id];
                let is_recovered = past.as_ref().is_none_or(Past::is_recovered);
                assert!(is_recovered || leaving_at.is_some(), "it waits for the past");
                self.check_seen(id);
            }
        }
    }

    /// Messages that were confirmed: a simulation in which nothing happens proves nothing.
    pub fn confirmed_count(&self) -> usize {
        self.sent.values().filter(|sent| sent.confirmed_at.is_some()).count()
    }
}
