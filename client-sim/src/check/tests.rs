//! A room by hand, and rooms at random against the faults that were put in.

use proptest::prelude::*;

use super::*;

fn id(sender: u32, seq: u32) -> u64 {
    u64::from(sender) << 32 | u64::from(seq)
}

fn room(members: usize) -> RoomLog {
    let mut log = RoomLog::default();
    for _ in 0..members {
        log.join();
    }
    log
}

fn feed(log: &mut RoomLog, member: u32, ids: &[u64]) -> Vec<Verdict> {
    let verdicts = ids.iter().map(|id| log.deliver(member, *id)).collect();
    log.check();
    verdicts
}

fn counts(log: &RoomLog, member: usize) -> (u32, u32, u32) {
    let disorder = log.disorder()[member];
    let member = &log.members()[member];
    (member.distinct(), member.duplicated(), disorder)
}

const A: u64 = 0;
const B: u64 = 1 << 32;
const C: u64 = 2 << 32;

#[test]
fn one_order_for_all_is_clean() {
    let mut log = room(2);
    feed(&mut log, 0, &[A, B]);
    feed(&mut log, 1, &[A, B, C]);
    feed(&mut log, 0, &[C]);
    assert_eq!(counts(&log, 0), (3, 0, 0));
    assert_eq!(counts(&log, 1), (3, 0, 0));
}

#[test]
fn a_loss_is_charged_to_the_one_who_lacks_it_whoever_came_first() {
    let mut log = room(2);
    feed(&mut log, 0, &[A, C]);
    assert_eq!(feed(&mut log, 1, &[A, B, C]), [Verdict::InOrder; 3]);
    assert_eq!(counts(&log, 0), (2, 0, 0));
    assert_eq!(counts(&log, 1), (3, 0, 0));

    let mut log = room(2);
    feed(&mut log, 0, &[A, B, C]);
    feed(&mut log, 1, &[A, C]);
    assert_eq!(counts(&log, 1), (2, 0, 0));

    let mut log = room(2);
    feed(&mut log, 0, &[A]);
    feed(&mut log, 1, &[B]);
    assert_eq!(feed(&mut log, 0, &[B, C]), [Verdict::InOrder; 2]);
    feed(&mut log, 1, &[C]);
    assert_eq!(counts(&log, 0), (3, 0, 0));
    assert_eq!(counts(&log, 1), (2, 0, 0));
}

#[test]
fn a_loss_is_no_disorder_of_those_who_come_after_the_next_message_of_its_sender() {
    let mut log = room(3);
    let (first, second, third) = (id(7, 0), id(7, 1), id(7, 2));
    feed(&mut log, 0, &[second]);
    assert_eq!(feed(&mut log, 1, &[first, second, third]), [Verdict::InOrder; 3]);
    assert_eq!(feed(&mut log, 2, &[first, second, third]), [Verdict::InOrder; 3]);
    feed(&mut log, 0, &[third]);
    assert_eq!([0, 1, 2].map(|member| counts(&log, member)), [(2, 0, 0), (3, 0, 0), (3, 0, 0)]);

    // One who has the next one already is another matter.
    let mut log = room(3);
    feed(&mut log, 0, &[second]);
    assert_eq!(feed(&mut log, 1, &[second, first]), [Verdict::InOrder, Verdict::OutOfOrder]);

    // The other way round: the one who came first had them in the wrong order.
    let mut log = room(3);
    feed(&mut log, 0, &[second]);
    feed(&mut log, 1, &[first, second]);
    feed(&mut log, 2, &[first, second]);
    assert_eq!(feed(&mut log, 0, &[first]), [Verdict::OutOfOrder]);
    assert_eq!([0, 1, 2].map(|member| counts(&log, member)), [(2, 0, 1), (2, 0, 0), (2, 0, 0)]);
}

#[test]
fn a_message_that_only_one_member_got_is_counted_for_it() {
    let mut log = room(2);
    feed(&mut log, 0, &[A]);
    assert_eq!(feed(&mut log, 1, &[B, B]), [Verdict::InOrder, Verdict::Duplicate]);
    assert_eq!(counts(&log, 1), (1, 1, 0));
}

#[test]
fn a_second_delivery_is_a_duplicate() {
    let mut log = room(2);
    assert_eq!(
        feed(&mut log, 0, &[A, A, B, A]),
        [Verdict::InOrder, Verdict::Duplicate, Verdict::InOrder, Verdict::Duplicate]
    );
    assert_eq!(counts(&log, 0), (2, 2, 0));
}

#[test]
fn a_swap_is_disorder_and_nothing_else() {
    let mut log = room(2);
    feed(&mut log, 0, &[A, B, C]);
    assert_eq!(feed(&mut log, 1, &[A, C, B]), [Verdict::InOrder, Verdict::InOrder, Verdict::OutOfOrder]);
    assert_eq!(counts(&log, 1), (3, 0, 1));
}

#[test]
fn the_one_that_differs_is_charged_even_if_it_came_first() {
    let mut log = room(4);
    feed(&mut log, 0, &[A, C, B]);
    for member in 1..4 {
        feed(&mut log, member, &[A, B, C]);
    }
    assert_eq!(log.disorder(), [1, 0, 0, 0]);
}

#[test]
fn a_sender_overtaken_by_itself_is_disorder_even_with_one_member() {
    let mut log = room(1);
    assert_eq!(feed(&mut log, 0, &[id(7, 1), id(7, 0)]), [Verdict::InOrder, Verdict::OutOfOrder]);
    assert_eq!(counts(&log, 0), (2, 0, 1));
}

#[test]
fn a_late_one_that_was_inserted_meanwhile_is_disorder() {
    let mut log = room(2);
    feed(&mut log, 0, &[A, C]);
    feed(&mut log, 1, &[A, B, C]);
    assert_eq!(feed(&mut log, 0, &[B]), [Verdict::OutOfOrder]);
    assert_eq!(counts(&log, 0), (3, 0, 1));
}

#[test]
fn logs_of_one_room_agree_by_digest_however_much_was_trimmed() {
    let (mut fast, mut slow) = (room(1), room(2));
    for seq in 0..2000 {
        fast.deliver(0, id(1, seq));
        slow.deliver(0, id(1, seq));
    }
    assert!(fast.order.len() < 1000, "the order of a room with quick members is dropped");
    assert_eq!(slow.order.len(), 2000, "a member that has nothing keeps it");
    assert_eq!(fast.digest(), slow.digest());
    slow.leave(1);
    for seq in 2000..6000 {
        fast.deliver(0, id(1, seq));
        slow.deliver(0, id(1, seq));
    }
    assert!(slow.order.len() < 2000, "one that left does not");
    assert_eq!(fast.digest(), slow.digest());
    fast.deliver(0, id(2, 0));
    assert_ne!(fast.digest(), slow.digest());
}

/// What may happen to one delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Drop,
    Twice,
    SwapWithNext,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        8 => Just(Fault::None),
        1 => Just(Fault::Drop),
        1 => Just(Fault::Twice),
        1 => Just(Fault::SwapWithNext),
    ]
}

proptest! {
    /// A room of five members; two of them get the messages with faults, the others get them all. Whatever
    /// the interleaving, distinct counts and duplicates are exact and order faults are not missed.
    #[test]
    fn counts_are_exact(
        senders in proptest::collection::vec(0u32..4, 1..40),
        faults in proptest::collection::vec((fault(), fault()), 40),
        schedule in proptest::collection::vec(0usize..3, 0..300),
    ) {
        let mut next_seq = [0u32; 4];
        let sent: Vec<u64> = senders.iter().map(|sender| {
            let seq = &mut next_seq[*sender as usize];
            *seq += 1;
            id(*sender, *seq - 1)
        }).collect();
        let mut streams = [sent.clone(), Vec::new(), Vec::new()];
        let mut expected = [(sent.len(), 0, 0); 3];
        for (index, stream) in streams.iter_mut().enumerate().skip(1) {
            let mut held = None;
            expected[index].0 = 0;
            for (id, (first, second)) in sent.iter().zip(&faults) {
                let fault = if index == 1 { *first } else { *second };
                if fault != Fault::Drop { expected[index].0 += 1; }
                let swapped = held.take();
                match fault {
                    Fault::Drop => {}
                    Fault::Twice => { stream.extend([*id, *id]); expected[index].1 += 1; }
                    Fault::SwapWithNext if swapped.is_none() => { held = Some(*id); continue; }
                    Fault::None | Fault::SwapWithNext => stream.push(*id),
                }
                if let Some(swapped) = swapped {
                    expected[index].2 += usize::from(fault != Fault::Drop);
                    stream.push(swapped);
                }
            }
            stream.extend(held);
        }
        let mut log = room(5);
        let mut at = [0; 3];
        // The clean member goes first at each message, so that the order is the true one.
        for member in schedule.into_iter().chain((0..3).flat_map(|m| std::iter::repeat_n(m, 100))) {
            if let Some(id) = streams[member].get(at[member]) {
                if member != 0 && at[0] < sent.len() {
                    let ahead = sent.iter().position(|known| known == id).unwrap_or(0);
                    while at[0] <= ahead {
                        log.deliver(0, sent[at[0]]);
                        at[0] += 1;
                    }
                }
                log.deliver(member as u32, *id);
                log.check();
                at[member] += 1;
            }
        }
        for member in [3, 4] {
            for id in &sent {
                log.deliver(member, *id);
            }
        }
        for (index, (distinct, duplicated, disordered)) in expected.into_iter().enumerate() {
            let member = &log.members()[index];
            prop_assert_eq!(member.distinct() as usize, distinct);
            prop_assert_eq!(member.duplicated() as usize, duplicated);
            prop_assert_eq!(log.disorder()[index] as usize, disordered);
        }
    }

    /// Losses only, any interleaving, nobody complete: distinct counts stay exact and nobody is charged
    /// with disorder or duplicates.
    #[test]
    fn losses_alone_never_look_like_disorder(
        kept in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..40),
        schedule in proptest::collection::vec(any::<bool>(), 100),
    ) {
        let ids: Vec<u64> = (0..kept.len() as u32).map(|n| id(n, 0)).collect();
        let stream = |second: bool| -> Vec<u64> {
            ids.iter().zip(&kept).filter(|(_, k)| if second { k.1 } else { k.0 }).map(|(id, _)| *id).collect()
        };
        let streams = [stream(false), stream(true)];
        let mut log = room(2);
        let mut at = [0; 2];
        let rest = std::iter::repeat_n(false, 40).chain(std::iter::repeat_n(true, 40));
        for second in schedule.into_iter().chain(rest) {
            let member = usize::from(second);
            if let Some(id) = streams[member].get(at[member]) {
                log.deliver(member as u32, *id);
                log.check();
                at[member] += 1;
            }
        }
        for (member, stream) in streams.iter().enumerate() {
            prop_assert_eq!(counts(&log, member).0 as usize, stream.len());
            prop_assert_eq!(counts(&log, member).1, 0);
            prop_assert_eq!(counts(&log, member).2, 0);
        }
    }
}
