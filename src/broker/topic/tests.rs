//! Tests of rooms.

use proptest::prelude::*;

use super::*;
use crate::message::destination::Destination;
use crate::message::origin::ConnKey;

const ORIGIN: Origin =
    Origin { shard: 0, connection: ConnKey::DEAD_LETTERS, serial: None, holder: Holder::Address(1) };

fn topics() -> Topics {
    Topics::new(3, Epochs::new(1, 0, 2), 100, 10_000)
}

fn subscribe(topics: &mut Topics, key: &str, shard: u16) -> MessageId {
    topics.subscribe(key, &Origin { shard, ..ORIGIN }).unwrap()
}

fn publish_at(topics: &mut Topics, message: Message) -> Published<'_> {
    let hash = FixedState::with_seed(3).hash_one(message.key_bytes());
    topics.publish(ORIGIN, message, hash, Tick(0))
}

fn message(key: &str, body: &[u8]) -> Message {
    Message::new(&Destination::parse_send(key).unwrap(), b"", body)
}

fn publish(topics: &mut Topics, key: &str, body: &[u8]) -> Option<MessageId> {
    match publish_at(topics, message(key, body)) {
        Published::Sequenced(id, ..) => Some(id),
        _ => None,
    }
}

#[test]
fn a_room_is_forgotten_with_its_last_member_and_begins_another_epoch() {
    let mut topics = topics();
    assert!(matches!(publish_at(&mut topics, message("/topic/a", b"")), Published::Nobody(_)));
    let first = subscribe(&mut topics, "/topic/a", 1);
    assert_eq!(first.sequence, 0);
    assert_eq!(publish(&mut topics, "/topic/a", b""), Some(MessageId { sequence: 1, ..first }));
    assert_eq!(subscribe(&mut topics, "/topic/a", 0), MessageId { sequence: 1, ..first });
    topics.unsubscribe("/topic/a", 1);
    topics.unsubscribe("/topic/a", 0);
    assert!(topics.is_empty());
    assert_ne!(subscribe(&mut topics, "/topic/a", 0).epoch, first.epoch);
    topics.check();
}

#[test]
fn who_has_most_parked_is_refused_and_others_are_not() {
    let mut topics = topics();
    subscribe(&mut topics, "/topic/a", 0);
    topics.set_full("/topic/a", 0, true);
    let mut park = |publisher: u32| {
        let origin = Origin { holder: Holder::Address(u64::from(publisher)), ..ORIGIN };
        let hash = FixedState::with_seed(3).hash_one(b"/topic/a".as_slice());
        let parked = |topics: &mut Topics| {
            matches!(topics.publish(origin, message("/topic/a", &[0; 100]), hash, Tick(0)), Published::Parked)
        };
        (0..1000).take_while(|_| parked(&mut topics)).count()
    };
    let first = park(1);
    assert!(first > 30, "{first}");
    assert!(park(2) > 0, "somebody else finds room");
    topics.check();
}

#[test]
fn who_made_most_rooms_is_refused_and_others_are_not() {
    let mut topics = topics();
    let made = |topics: &mut Topics, maker: u32| {
        let origin = Origin { holder: Holder::Address(u64::from(maker)), ..ORIGIN };
        (0..1000)
            .take_while(|room| topics.subscribe(&format!("/topic/{maker}-{room}"), &origin).is_some())
            .count()
    };
    let first = made(&mut topics, 1);
    assert!((75..100).contains(&first), "{first}");
    assert!(made(&mut topics, 2) > 0, "somebody else finds room");
    // A room that is there may be joined by whoever made most.
    assert!(topics.subscribe("/topic/2-0", &ORIGIN).is_some());
    topics.check();
}

#[test]
fn what_is_published_to_a_full_room_is_sequenced_in_its_order_when_there_is_room() {
    let mut topics = topics();
    subscribe(&mut topics, "/topic/a", 0);
    topics.set_full("/topic/a", 0, true);
    // Another shard has no members: that it is full says nothing.
    topics.set_full("/topic/a", 7, true);
    for body in [b"1", b"2"] {
        assert!(matches!(publish_at(&mut topics, message("/topic/a", body)), Published::Parked));
    }
    assert!(topics.unpark("/topic/a").is_none());
    topics.set_full("/topic/a", 0, false);
    assert_eq!(topics.take_ready(), ["/topic/a".into()]);
    // Behind what is parked, although there is room.
    assert!(matches!(publish_at(&mut topics, message("/topic/a", b"3")), Published::Parked));
    let mut bodies = Vec::new();
    while let Some((_, Parked::Publication(message))) = topics.unpark("/topic/a") {
        let Published::Sequenced(id, message, shards) =
            topics.publish_parked(ORIGIN.holder, message, Tick(0))
        else {
            panic!()
        };
        assert_eq!(shards.len(), 1);
        bodies.push((id.sequence, message.body().to_vec()));
    }
    assert_eq!(bodies, [(1, b"1".to_vec()), (2, b"2".to_vec()), (3, b"3".to_vec())]);
    assert_eq!(topics.parked_bytes(), 0);
    // What is parked in a room that everybody has left is for nobody, and the room goes.
    topics.set_full("/topic/a", 0, true);
    publish_at(&mut topics, message("/topic/a", b"4"));
    topics.unsubscribe("/topic/a", 0);
    topics.check();
    assert_eq!(topics.take_ready().len(), 1);
    let Some((_, Parked::Publication(message))) = topics.unpark("/topic/a") else { panic!() };
    assert!(matches!(topics.publish_parked(ORIGIN.holder, message, Tick(0)), Published::Nobody(_)));
    assert!(topics.is_empty());
}

#[test]
fn an_unsubscribe_waits_behind_what_is_parked() {
    let mut topics = topics();
    let origin =
        Origin { shard: 0, connection: ConnKey::DEAD_LETTERS, serial: Some(1), holder: Holder::Address(1) };
    topics.subscribe("/topic/a", &origin).unwrap();
    assert!(!topics.park_end("/topic/a", origin) && !topics.park_end("/topic/b", origin));
    topics.set_full("/topic/a", 0, true);
    publish_at(&mut topics, message("/topic/a", b"1"));
    assert!(topics.park_end("/topic/a", origin));
    topics.check();
    topics.set_full("/topic/a", 0, false);
    assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::Publication(_)))));
    assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::End))));
    topics.unsubscribe("/topic/a", 0);
    assert!(topics.is_empty() && topics.parked_bytes() == 0);
}

#[test]
fn a_subscribe_waits_behind_what_its_session_has_parked_and_nobody_else_has() {
    let mut topics = topics();
    let of = |index| Origin { connection: ConnKey { index, generation: 0 }, ..ORIGIN };
    topics.subscribe("/topic/a", &of(1)).unwrap();
    topics.set_full("/topic/a", 0, true);
    let hash = topics.hasher.hash_one("/topic/a".as_bytes());
    assert!(matches!(topics.publish(of(2), message("/topic/a", b"1"), hash, Tick(0)), Published::Parked));
    let park = |topics: &mut Topics, key, by| topics.park_begin(key, Kind::Topic, of(by), None);
    assert!(park(&mut topics, "/topic/a", 2));
    assert!(!park(&mut topics, "/topic/a", 1) && !park(&mut topics, "/topic/b", 2));
    topics.check();
    topics.set_full("/topic/a", 0, false);
    assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::Publication(_)))));
    assert!(!park(&mut topics, "/topic/a", 2), "its publication has its place");
    assert!(matches!(topics.unpark("/topic/a"), Some((_, Parked::Begin(Kind::Topic, None)))));
    assert!(topics.unpark("/topic/a").is_none());
}

proptest! {
    /// The model counts members by room and shard.
    #[test]
    fn residencies_are_counts_of_members(steps in prop::collection::vec((0u8..4, 0u16..4, any::<bool>()), 0..300)) {
        let mut topics = topics();
        let mut model: std::collections::BTreeMap<(u8, u16), u32> = std::collections::BTreeMap::new();
        for (room, shard, comes) in steps {
            let key = format!("/topic/{room}");
            let members = model.entry((room, shard)).or_default();
            if comes {
                *members += 1;
                subscribe(&mut topics, &key, shard);
            } else if *members > 0 {
                *members -= 1;
                topics.unsubscribe(&key, shard);
            }
            topics.check();
            for room in 0..4 {
                let mut seen: Vec<(u16, u32)> = match publish_at(&mut topics, message(&format!("/topic/{room}"), b"")) {
                    Published::Sequenced(_, _, shards) => shards.iter().map(|there| (there.shard, there.members)).collect(),
                    _ => Vec::new(),
                };
                seen.sort_unstable();
                let there: Vec<(u16, u32)> = model
                    .range((room, 0)..(room, 4))
                    .filter(|(_, members)| **members > 0)
                    .map(|((_, shard), members)| (*shard, *members))
                    .collect();
                prop_assert_eq!(seen, there);
            }
        }
    }
}

mod kept {
    use std::sync::Arc;

    use super::*;
    use crate::broker::history::Asked;
    use crate::message::past::{Lack, Missing};
    use crate::policy::destinations::{Destinations, Retention};

    fn keeping(bytes_max: u64, retention: Retention) -> Topics {
        let mut topics = topics();
        let mut destinations = Destinations::default();
        destinations.add("/topic/h/*", Some(retention)).unwrap();
        topics.set_destinations(Arc::new(destinations), bytes_max, Tick(0));
        topics
    }

    const MANY: Retention = Retention { messages_max: 100, bytes_max: 1 << 20, age_max_s: 10 };

    fn publish_by(topics: &mut Topics, maker: u32, key: &str, bytes: usize, now: Tick) -> Option<MessageId> {
        let origin = Origin { holder: Holder::Address(u64::from(maker)), ..ORIGIN };
        let hash = FixedState::with_seed(3).hash_one(key.as_bytes());
        let published = match topics.publish(origin, message(key, &vec![0; bytes]), hash, now) {
            Published::Sequenced(id, message, _) => {
                assert!(message.is_kept());
                Some(id)
            }
            _ => None,
        };
        topics.check();
        published
    }

    #[test]
    fn a_room_that_keeps_something_outlives_its_members_and_goes_with_its_last_message() {
        let mut topics = keeping(1 << 20, MANY);
        let first = publish_by(&mut topics, 1, "/topic/h/a", 10, Tick(0)).unwrap();
        assert_eq!((first.sequence, topics.len()), (1, 1));
        assert_eq!(subscribe(&mut topics, "/topic/h/a", 0), first);
        topics.unsubscribe("/topic/h/a", 0);
        let second = publish_by(&mut topics, 1, "/topic/h/a", 10, Tick(50)).unwrap();
        assert_eq!((second.epoch, second.sequence), (first.epoch, 2));
        assert!(topics.next_expiry().is_some_and(|at| at <= Tick(100)));
        assert!(!topics.expire(Tick(99)) && topics.kept().messages == 2);
        assert!(!topics.expire(Tick(149)) && topics.kept().messages == 1);
        assert!(!topics.expire(Tick(150)) && topics.is_empty());
        assert_eq!((topics.kept().bytes, topics.kept().dropped), (0, 2));
        topics.check();
        // With members it stays, and keeps its epoch.
        let third = subscribe(&mut topics, "/topic/h/a", 0);
        publish_by(&mut topics, 1, "/topic/h/a", 10, Tick(200)).unwrap();
        topics.expire(Tick(1000));
        topics.check();
        assert_eq!(subscribe(&mut topics, "/topic/h/a", 0), MessageId { sequence: 1, ..third });
        assert_eq!(topics.next_expiry(), None);
        // Others keep nothing.
        assert_eq!(publish(&mut topics, "/topic/b", b""), None);
    }

    #[test]
    fn who_keeps_most_gives_way() {
        let mut topics = keeping(20_000, MANY);
        publish_by(&mut topics, 1, "/topic/h/small", 100, Tick(0));
        for _ in 0..200 {
            publish_by(&mut topics, 2, "/topic/h/large", 1_000, Tick(0)).unwrap();
        }
        assert!(topics.kept().bytes <= 15_000, "{:?}", topics.kept());
        assert_eq!(topics.recover("/topic/h/small", &ORIGIN, Past::Last(9), 9).unwrap().next, 1);
        // Many rooms of one maker are one holder.
        for room in 0..60 {
            publish_by(&mut topics, 3, &format!("/topic/h/{room}"), 1_000, Tick(0));
        }
        let large = topics.recover("/topic/h/large", &ORIGIN, Past::Last(100), 100).unwrap();
        assert!(large.position.sequence + 1 - large.next >= 4, "{large:?}");
        topics.check();
    }

    #[test]
    fn a_deadline_of_a_room_that_keeps_nothing_any_more_does_not_stay_due() {
        let mut topics = keeping(4_096, MANY);
        subscribe(&mut topics, "/topic/h/a", 0);
        publish_by(&mut topics, 1, "/topic/h/a", 4_000, Tick(0)).unwrap();
        assert_eq!(topics.kept().messages, 0, "it is more than all may keep");
        assert!(!topics.expire(Tick(500)) && topics.next_expiry().is_none());
        subscribe(&mut topics, "/topic/b", 0);
        topics.unsubscribe("/topic/b", 0);
        publish_by(&mut topics, 1, "/topic/h/a", 10, Tick(500)).unwrap();
        assert!(topics.next_expiry().is_some_and(|at| at <= Tick(600)));
        assert!(!topics.expire(Tick(600)) && topics.kept().messages == 0);
    }

    #[test]
    fn who_came_first_to_a_room_of_many_cannot_have_it_emptied_by_rooms_of_his_own() {
        let mut topics = keeping(100_000, MANY);
        let by = |maker| Origin { holder: Holder::Address(maker), ..ORIGIN };
        topics.subscribe("/topic/h/lobby", &by(1)).unwrap();
        for _ in 0..10 {
            publish_by(&mut topics, 2, "/topic/h/lobby", 100, Tick(0)).unwrap();
        }
        for room in 0..90 {
            publish_by(&mut topics, 1, &format!("/topic/h/{room}"), 1_000, Tick(0));
        }
        assert!(topics.kept().relieved > 0);
        let lobby = topics.recover("/topic/h/lobby", &by(3), Past::Last(100), 100).unwrap();
        assert_eq!((lobby.next, lobby.position.sequence), (1, 10));
        topics.check();
    }

    #[test]
    fn who_made_most_rooms_is_refused_though_nobody_is_in_them() {
        let mut topics = keeping(1 << 20, MANY);
        let made = (0..100)
            .take_while(|room| publish_by(&mut topics, 1, &format!("/topic/h/{room}"), 1, Tick(0)).is_some())
            .count();
        assert!((75..100).contains(&made), "{made}");
        let hash = FixedState::with_seed(3).hash_one(b"/topic/h/more".as_slice());
        let origin = Origin { holder: Holder::Address(1), ..ORIGIN };
        let refused = topics.publish(origin, message("/topic/h/more", b""), hash, Tick(0));
        assert!(matches!(refused, Published::NoRoom));
        assert!(publish_by(&mut topics, 2, "/topic/h/others", 1, Tick(0)).is_some());
    }

    #[test]
    fn a_recovery_joins_with_its_last_page() {
        let mut topics = keeping(1 << 20, MANY);
        for _ in 0..100 {
            publish_by(&mut topics, 1, "/topic/h/a", 10, Tick(0)).unwrap();
        }
        let start = topics.recover("/topic/h/a", &ORIGIN, Past::Last(90), 1000).unwrap();
        assert_eq!((start.next, start.is_done()), (11, false));
        assert!(topics.shards("/topic/h/a").is_empty());
        let mut next = MessageId { sequence: start.next, ..start.position };
        let mut got = 0;
        loop {
            let page = topics
                .page("/topic/h/a", &ORIGIN, Asked { next, bytes_max: 9_000, is_final: false })
                .unwrap();
            got += page.messages.len();
            next = page.next;
            assert_eq!(topics.shards("/topic/h/a").len(), usize::from(page.is_last));
            if page.is_last {
                break;
            }
        }
        assert_eq!((got, next.sequence), (90, 101));
        topics.unsubscribe("/topic/h/a", ORIGIN.shard);
        // The room went meanwhile, and one with its name began.
        topics.expire(Tick(1000));
        assert!(topics.is_empty());
        let page =
            topics.page("/topic/h/a", &ORIGIN, Asked { next, bytes_max: 9_000, is_final: false }).unwrap();
        assert_eq!((page.missing, page.is_last), (Some(Missing { lack: Lack::Epoch, from: 1, to: 0 }), true));
        topics.check();
    }

    #[test]
    fn other_terms_hold_for_rooms_that_are_there() {
        let mut topics = keeping(1 << 20, MANY);
        for key in ["/topic/h/a", "/topic/h/b"] {
            publish_by(&mut topics, 1, key, 10, Tick(0)).unwrap();
        }
        subscribe(&mut topics, "/topic/h/b", 0);
        subscribe(&mut topics, "/topic/c", 0);
        let mut destinations = Destinations::default();
        destinations.add("/topic/c", Some(Retention { age_max_s: 5, ..MANY })).unwrap();
        topics.set_destinations(Arc::new(destinations), 1 << 20, Tick(0));
        topics.check();
        assert_eq!((topics.len(), topics.kept().messages), (2, 0));
        publish_by(&mut topics, 1, "/topic/c", 10, Tick(0)).unwrap();
        assert!(topics.next_expiry().is_some_and(|at| at <= Tick(50)));
        topics.set_destinations(Arc::default(), 1 << 20, Tick(0));
        topics.check();
        assert_eq!((topics.len(), topics.next_expiry()), (2, None));
    }
}
