//! The wheel against a sorted map of deadlines.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn fire(wheel: &mut Wheel, now: u32) -> Vec<u32> {
    let mut fired = Vec::new();
    assert!(!wheel.expire(Tick(now), usize::MAX, &mut fired));
    wheel.check();
    fired
}

#[test]
fn a_key_fires_once_at_its_deadline() {
    let mut wheel = Wheel::new(Tick(10));
    wheel.arm(3, Tick(12));
    assert_eq!(wheel.deadline(3), Some(Tick(12)));
    assert_eq!(wheel.next_deadline(), Some(Tick(12)));
    assert!(fire(&mut wheel, 11).is_empty());
    assert_eq!(fire(&mut wheel, 12), [3]);
    assert!(fire(&mut wheel, 500).is_empty());
    assert!(wheel.is_empty());
    assert_eq!(wheel.deadline(3), None);
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_deadline_in_the_past_fires_at_the_next_expire() {
    let mut wheel = Wheel::new(Tick(1000));
    wheel.arm(0, Tick(1000));
    wheel.arm(1, Tick(3));
    assert_eq!(wheel.next_deadline(), Some(Tick(1000)));
    assert_eq!(fire(&mut wheel, 1000), [0, 1]);
}

#[test]
fn arming_again_moves_the_deadline_either_way() {
    let mut wheel = Wheel::new(Tick(0));
    wheel.arm(0, Tick(50));
    wheel.arm(0, Tick(70_000));
    wheel.arm(1, Tick(70_000));
    wheel.arm(1, Tick(50));
    assert_eq!(wheel.len(), 2);
    assert_eq!(fire(&mut wheel, 60), [1]);
    assert!(fire(&mut wheel, 69_999).is_empty());
    assert_eq!(fire(&mut wheel, 70_000), [0]);
}

#[test]
fn cancelling_is_for_armed_keys_only() {
    let mut wheel = Wheel::new(Tick(0));
    wheel.arm(5, Tick(9));
    assert!(wheel.cancel(5));
    assert!(!wheel.cancel(5));
    assert!(!wheel.cancel(4));
    assert!(!wheel.cancel(4_000_000));
    assert!(fire(&mut wheel, 1_000).is_empty());
}

#[test]
fn the_ends_of_the_range_work() {
    let mut wheel = Wheel::new(Tick(0));
    wheel.arm(0, Tick(u32::MAX));
    wheel.arm(1, Tick(u32::MAX - 1));
    wheel.check();
    assert!(fire(&mut wheel, u32::MAX - 2).is_empty());
    assert_eq!(fire(&mut wheel, u32::MAX), [1, 0]);
    wheel.arm(2, Tick(u32::MAX));
    assert_eq!(fire(&mut wheel, 0), [2], "the clock may not go back");
}

#[test]
#[should_panic(expected = "above")]
fn a_key_out_of_range_is_a_bug_of_the_caller() {
    Wheel::new(Tick(0)).arm(KEY_MAX + 1, Tick(1));
}

#[test]
fn a_jump_of_years_visits_only_occupied_slots() {
    let mut wheel = Wheel::new(Tick(0));
    for key in 0..100 {
        wheel.arm(key, Tick(key * 40_000_000));
    }
    // Five moves and one firing each is the most that the levels allow; ticks skipped would be billions.
    let mut fired = Vec::new();
    assert!(!wheel.expire(Tick(u32::MAX), 6 * 100, &mut fired));
    assert_eq!(fired, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_crowded_slot_is_spread_over_several_calls() {
    let mut wheel = Wheel::with_capacity(Tick(0), 1000);
    for key in 0..1000 {
        wheel.arm(key, Tick(5_000));
    }
    let (mut calls, mut fired) = (0, Vec::new());
    loop {
        let before = fired.len();
        let more = wheel.expire(Tick(5_000), 100, &mut fired);
        wheel.check();
        calls += 1;
        assert!(fired.len() - before <= 100);
        if !more {
            break;
        }
        assert!(wheel.next_deadline().is_some_and(|next| next <= Tick(5_000)), "more to do, so do not sleep");
    }
    assert_eq!(fired, (0..1000).collect::<Vec<_>>());
    assert!(calls <= 3 * 10 + 1, "two moves and a firing each, a hundred per call: {calls}");
}

#[derive(Debug, Clone)]
enum Op {
    Arm { key: u32, ahead: i64 },
    Cancel { key: u32 },
    Expire { ahead: i64, budget: usize },
}

/// Distances on every level, the past, and years.
fn distance() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => -5..5_i64,
        4 => 0..70_i64,
        3 => 0..5_000_i64,
        2 => 0..300_000_i64,
        1 => 0..20_000_000_i64,
        1 => 0..4_000_000_000_i64,
        1 => -100_000..0_i64,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..40_u32, distance()).prop_map(|(key, ahead)| Op::Arm { key, ahead }),
        1 => (0..40_u32).prop_map(|key| Op::Cancel { key }),
        4 => (distance(), prop_oneof![Just(usize::MAX), 0..20_usize])
            .prop_map(|(ahead, budget)| Op::Expire { ahead, budget }),
    ]
}

fn shift(now: u32, ahead: i64) -> u32 {
    (i64::from(now) + ahead).clamp(0, i64::from(u32::MAX)) as u32
}

proptest! {
    #[test]
    fn agrees_with_a_sorted_map(start in 0..10_000_u32, ops in prop::collection::vec(op(), 1..200)) {
        let mut wheel = Wheel::new(Tick(start));
        let mut model = BTreeMap::<u32, u32>::new();
        let mut now = start;
        for op in ops {
            match op {
                Op::Arm { key, ahead } => {
                    let deadline = shift(now, ahead);
                    wheel.arm(key, Tick(deadline));
                    model.insert(key, deadline);
                }
                Op::Cancel { key } => prop_assert_eq!(wheel.cancel(key), model.remove(&key).is_some()),
                Op::Expire { ahead, budget } => {
                    let asked = shift(now, ahead);
                    now = now.max(asked);
                    let mut fired = Vec::new();
                    let more = wheel.expire(Tick(asked), budget, &mut fired);
                    prop_assert!(fired.len() <= budget);
                    for key in &fired {
                        let deadline = model.remove(key);
                        prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "{key}: {deadline:?}");
                    }
                    if more {
                        prop_assert!(wheel.next_deadline().is_some_and(|next| next.0 <= now));
                    } else {
                        prop_assert!(model.values().all(|&deadline| deadline > now), "left: {model:?}");
                    }
                }
            }
            wheel.check();
            prop_assert_eq!(wheel.len(), model.len());
            for key in 0..40 {
                prop_assert_eq!(wheel.deadline(key), model.get(&key).copied().map(Tick));
            }
            let earliest = model.values().min().copied();
            prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (wheel.next_deadline(), earliest) {
                prop_assert!(next.0 <= earliest.max(now));
            }
        }
    }

    #[test]
    fn keys_come_in_the_order_of_their_deadlines(
        deadlines in prop::collection::vec(1..1_000_000_u32, 1..200),
        step in 1..200_000_u32,
    ) {
        let mut wheel = Wheel::new(Tick(0));
        for (key, &deadline) in deadlines.iter().enumerate() {
            wheel.arm(key as u32, Tick(deadline));
        }
        let (mut now, mut fired) = (0, Vec::new());
        while !wheel.is_empty() {
            now += step;
            while wheel.expire(Tick(now), 3, &mut fired) {}
        }
        let order: Vec<u32> = fired.iter().map(|&key| deadlines[key as usize]).collect();
        prop_assert!(order.is_sorted());
        prop_assert_eq!(fired.iter().collect::<BTreeSet<_>>().len(), deadlines.len());
    }

    /// Sleeping until `next_deadline` and expiring then fires everything on its tick, in few wake-ups.
    #[test]
    fn waking_at_the_next_deadline_is_never_late(deadlines in prop::collection::vec(1..u32::MAX, 1..50)) {
        let mut wheel = Wheel::new(Tick(0));
        for (key, &deadline) in deadlines.iter().enumerate() {
            wheel.arm(key as u32, Tick(deadline));
        }
        let mut wakeups = 0;
        while let Some(now) = wheel.next_deadline() {
            let mut fired = Vec::new();
            prop_assert!(!wheel.expire(now, usize::MAX, &mut fired));
            for key in fired {
                prop_assert_eq!(deadlines[key as usize], now.0);
            }
            wakeups += 1;
        }
        prop_assert!(wakeups <= LEVELS * deadlines.len());
    }
}
