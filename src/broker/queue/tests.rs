//! Queues against what must be true of them, and a plain model in any order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::message::Epochs;
use crate::message::destination::Destination;
use crate::time::Tick;

const KEY: &str = "/queue/jobs";

/// Ticks of a second.
const SECOND: u32 = 1000 / Tick::MILLIS;

/// A consumer of a test: a session, and which of its subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name(u32, u32);

impl ConsumerKey for Name {
    type Session = u32;

    fn session(&self) -> u32 {
        self.0
    }
}

type Tested = Queues<Name, u32>;
type Caused = Effects<Name, u32>;

fn message_to(key: &str, text: &str) -> Message {
    Message::new(&Destination::parse_send(key).unwrap(), b"", text.as_bytes())
}

fn message(text: &str) -> Message {
    message_to(KEY, text)
}

fn queues(limits: limits::Rooms) -> Tested {
    Queues::new(limits, Epochs::new(1, 0, 1))
}

/// Who got which text, taken out of the effects.
fn offered(caused: &mut Caused) -> Vec<(Name, String, bool)> {
    let text = |offer: &Offer<Name>| String::from_utf8(offer.message.body().to_vec()).unwrap();
    caused.offers.drain(..).map(|offer| (offer.consumer, text(&offer), offer.is_redelivered)).collect()
}

/// Publishes until the queue refuses; how often it did not.
fn fill(queues: &mut Tested, key: &str, holder: u32, caused: &mut Caused) -> (usize, &'static str) {
    let mut count = 0;
    loop {
        match queues.publish(message_to(key, "x"), holder, Tick(0), caused) {
            Ok(()) => count += 1,
            Err(full) => return (count, full.bound),
        }
    }
}

#[test]
fn messages_are_handed_out_in_turn_and_come_back_in_order() {
    let mut queues = queues(limits::Rooms::default());
    let mut caused = Caused::default();
    let now = Tick(0);
    let (one, two) = (Name(1, 0), Name(2, 0));
    queues.join(KEY, one, 1, now, &mut caused).unwrap();
    queues.join(KEY, two, 2, now, &mut caused).unwrap();
    for text in ["a", "b", "c"] {
        queues.publish(message(text), 9, now, &mut caused).unwrap();
    }
    let got = offered(&mut caused);
    assert_eq!(got, [(one, "a".into(), false), (two, "b".into(), false), (one, "c".into(), false)]);
    queues.leave(KEY, one, now, &mut caused);
    assert_eq!(offered(&mut caused), [(two, "a".into(), true), (two, "c".into(), true)]);
    queues.check();
}

#[test]
fn subscriptions_of_one_session_take_turns_and_share_one_prefetch() {
    let limits = limits::Rooms { prefetch_max: 4, ..Default::default() };
    let mut queues = queues(limits);
    let mut caused = Caused::default();
    for number in 0..32 {
        queues.join(KEY, Name(1, number), 1, Tick(0), &mut caused).unwrap();
    }
    for text in ["a", "b", "c", "d", "e", "f"] {
        queues.publish(message(text), 9, Tick(0), &mut caused).unwrap();
    }
    let who: BTreeSet<Name> = caused.offers.iter().map(|offer| offer.consumer).collect();
    assert_eq!((caused.offers.len(), who.len()), (4, 4));
    caused.offers.clear();
    // Others get what is left.
    queues.join(KEY, Name(2, 0), 2, Tick(0), &mut caused).unwrap();
    assert_eq!(offered(&mut caused).len(), 2);
    queues.check();
}

#[test]
fn a_session_holds_at_most_half_of_a_queue() {
    let limits = limits::Rooms { prefetch_max: 32, queue_messages_max: 16, ..Default::default() };
    let mut queues = queues(limits);
    let mut caused = Caused::default();
    queues.join(KEY, Name(1, 0), 1, Tick(0), &mut caused).unwrap();
    for _ in 0..12 {
        queues.publish(message("x"), 9, Tick(0), &mut caused).unwrap();
    }
    assert_eq!(caused.offers.len(), 8);
    queues.check();
}

#[test]
fn a_message_that_nobody_wants_is_a_dead_letter_until_that_is_confirmed() {
    let mut queues = queues(limits::Rooms { deliveries_max: 3, ..Default::default() });
    let mut caused = Caused::default();
    let one = Name(1, 0);
    queues.join(KEY, one, 1, Tick(0), &mut caused).unwrap();
    queues.publish(message("a"), 9, Tick(0), &mut caused).unwrap();
    for delivery in 1..=3 {
        let offer = caused.offers.pop().unwrap();
        queues.settle(KEY, one, offer.id.sequence, Settlement::Nack, Tick(0), &mut caused);
        assert_eq!(caused.dead_letters.len(), usize::from(delivery == 3));
    }
    assert_eq!((queues.messages(), caused.offers.len()), (1, 0), "kept, and not offered");
    let letter = caused.dead_letters.pop().unwrap();
    assert_eq!((&*letter.key, letter.holder), (KEY, 9));
    assert_eq!((letter.message.key(), letter.message.body()), ("/queue/jobs.dlq", &b"a"[..]));
    queues.leave(KEY, one, Tick(0), &mut caused);
    queues.check();
    let of_another_life = MessageId { epoch: letter.id.epoch + 1, ..letter.id };
    assert!(!queues.dead_lettered(KEY, of_another_life, Tick(0), &mut caused));
    assert!(queues.dead_lettered(KEY, letter.id, Tick(0), &mut caused));
    assert!(!queues.dead_lettered(KEY, letter.id, Tick(0), &mut caused));
    assert!(queues.is_empty());
    assert_eq!(queues.bytes(), 0);
    queues.check();
}

#[test]
fn a_dead_letter_that_is_refused_comes_back_after_a_pause() {
    let mut queues = queues(limits::Rooms { deliveries_max: 1, ..Default::default() });
    let mut caused = Caused::default();
    let one = Name(1, 0);
    queues.join(KEY, one, 1, Tick(0), &mut caused).unwrap();
    queues.publish(message("a"), 9, Tick(0), &mut caused).unwrap();
    let id = caused.offers.pop().unwrap().id;
    let pause = (DEAD_LETTER_PAUSE_MS / u64::from(Tick::MILLIS)) as u32;
    for round in 0..20 {
        let now = Tick(round * pause);
        queues.settle(KEY, one, id.sequence, Settlement::Nack, now, &mut caused);
        let letter = caused.dead_letters.pop().unwrap();
        queues.dead_letter_refused(KEY, letter.id, now);
        assert!(!queues.expire(Tick(now.0 + pause - 1), &mut caused));
        assert_eq!((queues.messages(), caused.offers.len()), (1, 0), "parked");
        queues.check();
        queues.expire(Tick(now.0 + pause), &mut caused);
        assert_eq!(caused.offers.pop().unwrap().id, id, "never lost");
    }
    queues.settle(KEY, one, id.sequence, Settlement::Ack, Tick(20 * pause), &mut caused);
    assert_eq!(queues.messages(), 0);
    queues.check();
}

#[test]
fn what_is_refused_too_often_in_a_dead_letter_queue_is_dropped() {
    let mut queues = queues(limits::Rooms { deliveries_max: 1, ..Default::default() });
    let mut caused = Caused::default();
    let key = "/queue/jobs.dlq";
    queues.publish(message_to(key, "a"), 9, Tick(0), &mut caused).unwrap();
    queues.join(key, Name(1, 0), 1, Tick(0), &mut caused).unwrap();
    let id = caused.offers.pop().unwrap().id;
    queues.settle(key, Name(1, 0), id.sequence, Settlement::Nack, Tick(0), &mut caused);
    assert_eq!((queues.messages(), caused.dropped, caused.dead_letters.len()), (0, 1, 0));
}

#[test]
fn each_bound_refuses_by_name() {
    let mut caused = Caused::default();
    let limits = limits::Rooms { queue_messages_max: 1, ..Default::default() };
    let mut few = queues(limits);
    few.publish(message("a"), 9, Tick(0), &mut caused).unwrap();
    let full = few.publish(message("b"), 9, Tick(0), &mut caused).unwrap_err();
    assert_eq!(full, Full { bound: "rooms.queue_messages_max", max: 1 });
    few.check();

    let mut small = queues(limits::Rooms { queue_bytes_max: 10_000, ..Default::default() });
    assert_eq!(fill(&mut small, KEY, 9, &mut caused).1, "rooms.queue_bytes_max");

    let mut one = queues(limits::Rooms { rooms_max: 1, ..Default::default() });
    one.publish(message("a"), 9, Tick(0), &mut caused).unwrap();
    one.publish(message("a"), 9, Tick(0), &mut caused).unwrap();
    let full = Full { bound: "rooms.rooms_max", max: 1 };
    let other = "/queue/other";
    assert_eq!(one.publish(message_to(other, "a"), 9, Tick(0), &mut caused), Err(full));
    assert_eq!(one.join(other, Name(1, 0), 1, Tick(0), &mut caused), Err(full));
    one.check();
}

#[test]
fn one_producer_leaves_room_in_a_queue_for_others() {
    let mut queues = queues(limits::Rooms::default());
    let mut caused = Caused::default();
    assert_eq!(fill(&mut queues, KEY, 1, &mut caused), (750, "rooms.queue_messages_max"));
    assert_eq!(fill(&mut queues, KEY, 2, &mut caused).0, 125);
    assert_eq!(fill(&mut queues, KEY, 3, &mut caused).0, 62);
    assert_eq!(fill(&mut queues, KEY, 1, &mut caused).0, 0);
    queues.check();
}

#[test]
fn one_session_that_fills_all_queues_leaves_room_for_others_and_for_consumers() {
    let mut queues = queues(limits::Rooms { queues_bytes_max: 1 << 20, ..Default::default() });
    let mut caused = Caused::default();
    let mut number = 0;
    // Its messages stay when it has left.
    while queues.publish(message_to(&format!("/queue/{number}"), "x"), 1, Tick(0), &mut caused).is_ok() {
        number += 1;
    }
    assert!(number > 100);
    let full = Full { bound: "rooms.queues_bytes_max", max: 1 << 20 };
    assert_eq!(queues.publish(message("x"), 1, Tick(0), &mut caused), Err(full));
    // What is left may be less than a message with its queue, and enough for a queue.
    let mut join = |n| queues.join(&format!("{KEY}{n}"), Name(1, n), 1, Tick(0), &mut caused);
    let refused = (1..4).find_map(|n| join(n).err());
    assert_eq!(refused, Some(full), "a record counts");
    for _ in 0..20 {
        queues.publish(message("x"), 2, Tick(0), &mut caused).unwrap();
    }
    // It may empty what it has filled, though it has more than its share.
    queues.join("/queue/0", Name(1, 0), 1, Tick(0), &mut caused).unwrap();
    assert_eq!(offered(&mut caused).len(), 1);
    queues.check();
}

#[test]
fn queues_without_messages_are_charged_whole_and_go_with_their_last_consumer() {
    let mut queues = queues(limits::Rooms { queues_bytes_max: 4 << 20, ..Default::default() });
    let mut caused = Caused::default();
    let key = |number: u32| format!("/queue/{number}");
    let join = |queues: &mut Tested, session: u32, number: u32, caused: &mut Caused| {
        queues.join(&key(number), Name(session, number), session, Tick(0), caused)
    };
    let mut number = 0;
    while join(&mut queues, 1, number, &mut caused).is_ok() {
        number += 1;
    }
    assert_eq!(queues.len(), number as usize);
    assert!(queues.bytes() > 500 * u64::from(number), "{} bytes for {number}", queues.bytes());
    for other in 2..12 {
        join(&mut queues, other, number + other, &mut caused).unwrap();
        queues.leave(&key(number + other), Name(other, number + other), Tick(0), &mut caused);
    }
    queues.check();
    for number in 0..number {
        queues.leave(&key(number), Name(1, number), Tick(0), &mut caused);
    }
    assert_eq!((queues.len(), queues.bytes()), (0, 0));
    queues.check();
}

#[test]
fn what_is_not_settled_in_time_goes_to_others_and_the_session_waits() {
    let limits = limits::Rooms { prefetch_max: 2, ack_timeout_s: 60, ..Default::default() };
    let mut queues = queues(limits);
    let mut caused = Caused::default();
    let (slow, other) = (Name(1, 0), Name(2, 0));
    queues.join(KEY, slow, 1, Tick(0), &mut caused).unwrap();
    for text in ["a", "b"] {
        queues.publish(message(text), 9, Tick(0), &mut caused).unwrap();
    }
    let late = caused.offers.pop().unwrap().id.sequence;
    caused.offers.clear();
    queues.expire(Tick(60 * SECOND - 1), &mut caused);
    assert_eq!(caused.ack_timeouts, 0);
    queues.expire(Tick(60 * SECOND), &mut caused);
    assert_eq!((caused.ack_timeouts, caused.offers.len()), (2, 0), "it gets them not again");
    queues.check();
    queues.join(KEY, other, 2, Tick(60 * SECOND), &mut caused).unwrap();
    assert_eq!(offered(&mut caused), [(other, "a".into(), true), (other, "b".into(), true)]);
    queues.publish(message("c"), 9, Tick(61 * SECOND), &mut caused).unwrap();
    assert_eq!(offered(&mut caused), [], "one waits, the other is full");
    // A late acknowledgement settles nothing, but shows that somebody is at work.
    queues.settle(KEY, slow, late, Settlement::Ack, Tick(62 * SECOND), &mut caused);
    assert_eq!(offered(&mut caused), [(slow, "c".into(), false)]);
    assert_eq!(queues.messages(), 3);
    queues.check();
    // It does nothing again, twice.
    queues.leave(KEY, other, Tick(63 * SECOND), &mut caused);
    assert_eq!(offered(&mut caused), [(slow, "a".into(), true)]);
    queues.expire(Tick(123 * SECOND), &mut caused);
    assert_eq!((caused.ack_timeouts, caused.dismissed.len()), (4, 0));
    queues.expire(Tick(183 * SECOND), &mut caused);
    assert_eq!((caused.ack_timeouts, &caused.dismissed[..]), (4, &[slow][..]));
    queues.settle(KEY, slow, late, Settlement::Ack, Tick(184 * SECOND), &mut caused);
    assert_eq!((offered(&mut caused), queues.messages()), (vec![], 3));
    queues.check();
    queues.leave(KEY, slow, Tick(185 * SECOND), &mut caused);
    queues.join(KEY, slow, 1, Tick(185 * SECOND), &mut caused).unwrap();
    assert_eq!(offered(&mut caused).len(), 2, "it subscribes anew");
    queues.check();
}

#[test]
fn a_queue_goes_when_nobody_has_used_it_for_long() {
    let limits = limits::Rooms { queue_idle_s: 100, ..Default::default() };
    let mut queues = queues(limits);
    let mut caused = Caused::default();
    queues.publish(message("a"), 9, Tick(0), &mut caused).unwrap();
    queues.publish(message("b"), 9, Tick(50 * SECOND), &mut caused).unwrap();
    assert!(!queues.expire(Tick(149 * SECOND), &mut caused));
    assert_eq!(queues.messages(), 2, "it was changed since its deadline was armed");
    // A consumer that has come and gone is a use as well.
    queues.join(KEY, Name(1, 0), 1, Tick(149 * SECOND), &mut caused).unwrap();
    queues.expire(Tick(400 * SECOND), &mut caused);
    assert_eq!(queues.messages(), 2);
    queues.leave(KEY, Name(1, 0), Tick(400 * SECOND), &mut caused);
    queues.check();
    queues.expire(Tick(499 * SECOND), &mut caused);
    assert_eq!(caused.expired, 0);
    queues.expire(Tick(500 * SECOND), &mut caused);
    assert_eq!((caused.expired, queues.len(), queues.bytes()), (2, 0, 0));
    queues.check();
}

#[test]
fn the_work_of_one_look_is_bounded() {
    let mut queues = queues(limits::Rooms { queue_idle_s: 1, ..Default::default() });
    let mut caused = Caused::default();
    for number in 0..EXPIRIES_MAX + 10 {
        queues.publish(message_to(&format!("/queue/{number}"), "x"), 1, Tick(0), &mut caused).unwrap();
    }
    assert!(queues.expire(Tick(SECOND), &mut caused));
    assert_eq!(queues.len(), 10);
    assert!(!queues.expire(Tick(SECOND), &mut caused));
    assert!(queues.is_empty());
}

/// What must be true of one queue, in the plainest form.
#[derive(Default)]
struct Model {
    /// Consumers inside.
    consumers: Vec<Name>,
    /// Sessions that let messages run out of time: since when, and for good.
    late: BTreeMap<u32, (Tick, bool)>,
    /// Who has which message, and since when.
    held: BTreeMap<u64, (Name, Tick)>,
    /// Dead letters under way.
    leaving: Vec<MessageId>,
    /// Dead letters that were refused, and until when.
    parked: BTreeMap<u64, Tick>,
    sent: usize,
    gone: usize,
}

const ACK_TIMEOUT_S: u32 = 20;
const IDLE_S: u32 = 200;

impl Model {
    fn has_attentive(&self) -> bool {
        self.consumers.iter().any(|who| self.late.get(&who.0).is_none_or(|late| !late.1))
    }

    /// What time does to what was there before; how many messages came back.
    fn expire(&mut self, now: Tick) -> usize {
        let is_over = |since: Tick| now.since(since) >= ACK_TIMEOUT_S * SECOND;
        let before = self.held.len();
        for session in self.consumers.iter().map(|who| who.0).collect::<BTreeSet<_>>() {
            match self.late.get(&session).copied() {
                Some((since, false)) if is_over(since) => {
                    self.late.insert(session, (now, true));
                    self.held.retain(|_, (who, _)| who.0 != session);
                }
                Some(_) => {}
                None => {
                    let count = self.held.len();
                    self.held.retain(|_, (who, offered)| who.0 != session || !is_over(*offered));
                    if self.held.len() < count {
                        self.late.insert(session, (now, false));
                    }
                }
            }
        }
        self.parked.retain(|_, until| *until > now);
        before - self.held.len()
    }

    /// Takes in what a call has caused.
    fn take(&mut self, caused: &mut Caused, now: Tick, cap: usize) {
        for letter in caused.dead_letters.drain(..) {
            self.leaving.push(letter.id);
        }
        for offer in caused.offers.drain(..) {
            assert!(self.consumers.contains(&offer.consumer));
            let sequence = offer.id.sequence;
            assert!(!self.parked.contains_key(&sequence), "not before the pause is over");
            let before = self.held.insert(sequence, (offer.consumer, now));
            assert_eq!(before, None, "somebody else has it");
        }
        for id in &self.leaving {
            assert!(!self.held.contains_key(&id.sequence));
        }
        for who in &self.consumers {
            assert!(self.held.values().filter(|held| held.0.0 == who.0).count() <= cap);
        }
    }
}

proptest! {
    #[test]
    fn every_message_is_settled_once_and_none_is_lost(
        prefetch_max in 1u32..5,
        steps in prop::collection::vec((0u8..12, 0usize..8, 0u32..4), 1..250)
    ) {
        let limits = limits::Rooms {
            prefetch_max,
            deliveries_max: 3,
            ack_timeout_s: ACK_TIMEOUT_S,
            queue_idle_s: IDLE_S,
            queue_messages_max: 40,
            ..Default::default()
        };
        let mut queues = queues(limits);
        let mut caused = Caused::default();
        let mut model = Model::default();
        let (mut now, mut used, mut next) = (Tick(0), Tick(0), 0);
        for (step, which, who) in steps {
            match step {
                0..=2 => {
                    if queues.publish(message("x"), who, now, &mut caused).is_ok() {
                        model.sent += 1;
                        used = now;
                    } else {
                        prop_assert!(model.sent - model.gone >= 30, "refused below three quarters");
                    }
                }
                3 => {
                    let name = Name(who, next);
                    next += 1;
                    queues.join(KEY, name, who, now, &mut caused).unwrap();
                    model.consumers.push(name);
                    used = now;
                }
                4 if which < model.consumers.len() => {
                    let name = model.consumers.remove(which);
                    model.held.retain(|_, held| held.0 != name);
                    if !model.consumers.iter().any(|other| other.0 == name.0) {
                        model.late.remove(&name.0);
                    }
                    queues.leave(KEY, name, now, &mut caused);
                    used = now;
                }
                5..=7 if !model.held.is_empty() => {
                    let at = which % model.held.len();
                    let (&sequence, &(name, _)) = model.held.iter().nth(at).unwrap();
                    // Nobody settles what somebody else has.
                    queues.settle(KEY, Name(name.0, 1 << 20), sequence, Settlement::Ack, now, &mut Caused::default());
                    prop_assert_eq!(queues.messages(), model.sent - model.gone);
                    model.held.remove(&sequence);
                    let settlement = if step == 5 { Settlement::Ack } else { Settlement::Nack };
                    model.gone += usize::from(step == 5);
                    if model.late.get(&name.0).is_some_and(|late| !late.1) {
                        model.late.remove(&name.0);
                    }
                    queues.settle(KEY, name, sequence, settlement, now, &mut caused);
                    used = now;
                }
                8 if !model.leaving.is_empty() => {
                    let id = model.leaving.remove(which % model.leaving.len());
                    if who % 2 == 0 {
                        prop_assert!(queues.dead_lettered(KEY, id, now, &mut caused));
                        model.gone += 1;
                    } else {
                        queues.dead_letter_refused(KEY, id, now);
                        model.parked.insert(id.sequence, now.after_ms(DEAD_LETTER_PAUSE_MS));
                    }
                }
                9..=11 => {
                    now = Tick(now.0 + 1 + (which as u32) * 3 * SECOND);
                    let returned = model.expire(now);
                    caused = Caused::default();
                    prop_assert!(!queues.expire(now, &mut caused));
                    prop_assert_eq!(caused.ack_timeouts, returned as u64);
                    if caused.expired > 0 {
                        prop_assert!(!model.has_attentive() && now.since(used) >= IDLE_S * SECOND);
                        model.gone += caused.expired as usize;
                        prop_assert_eq!(model.gone, model.sent);
                        model.leaving.clear();
                        model.parked.clear();
                        caused.dead_letters.clear();
                    }
                    if returned > 0 || !caused.dismissed.is_empty() {
                        used = now;
                    }
                }
                _ => {}
            }
            model.take(&mut caused, now, prefetch_max as usize);
            queues.check();
            prop_assert_eq!(queues.messages(), model.sent - model.gone);
        }
        // In the end, one that works gets all that is left, however late.
        for id in model.leaving.drain(..) {
            queues.dead_letter_refused(KEY, id, now);
        }
        for name in model.consumers.drain(..) {
            queues.leave(KEY, name, now, &mut Caused::default());
        }
        let worker = Name(77, next);
        queues.join(KEY, worker, 77, now, &mut caused).unwrap();
        queues.expire(now.after_ms(DEAD_LETTER_PAUSE_MS), &mut caused);
        while let Some(offer) = caused.offers.pop() {
            prop_assert_eq!(offer.consumer, worker);
            queues.settle(KEY, worker, offer.id.sequence, Settlement::Ack, now, &mut caused);
            queues.check();
        }
        prop_assert_eq!(queues.messages(), 0);
        queues.leave(KEY, worker, now, &mut caused);
        prop_assert_eq!((queues.len(), queues.bytes()), (0, 0));
        queues.check();
    }
}
