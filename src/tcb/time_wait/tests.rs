//! TIME_WAIT against a plain list.

use proptest::prelude::*;

use super::*;

fn name(tuple: u64) -> Name {
    // Spread over the hash, as a hasher would; three peers.
    Name { tuple: tuple.wrapping_mul(0x9E37_79B9_7F4A_7C15), peer: (tuple % 3) as u32 }
}

fn waiting(reuse: Reuse, records_max: u32) -> TimeWait {
    let config = Config { delay_ms: 240_000, records_max, reuse, counts_against_capacity: true };
    TimeWait::new(config, 100)
}

const KEPT: Entry = Entry { kept: true, freed: 0 };

#[test]
fn a_record_waits_for_the_delay() {
    let mut waiting = waiting(Reuse::Never, 10);
    assert_eq!(waiting.enter(name(1), Tick(5)), KEPT);
    assert_eq!(waiting.expire(Tick(5 + 2_399)), 0);
    assert!(waiting.contains(name(1)));
    assert_eq!(waiting.expire(Tick(5 + 2_400)), 1);
    assert!(!waiting.contains(name(1)));
    assert_eq!(waiting.totals(), Totals { entered: 1, expired: 1, ..Totals::default() });
}

#[test]
fn a_delay_of_zero_switches_it_off() {
    let mut waiting = TimeWait::new(Config { delay_ms: 0, ..Config::default() }, 100);
    assert_eq!(waiting.enter(name(1), Tick(5)), Entry { kept: false, freed: 0 });
    assert_eq!(waiting.totals(), Totals::default());
}

#[test]
fn never_lets_the_new_one_skip() {
    let mut waiting = waiting(Reuse::Never, 1);
    assert_eq!(waiting.enter(name(1), Tick(0)), KEPT);
    assert_eq!(waiting.enter(name(2), Tick(2_399)), Entry { kept: false, freed: 0 });
    assert_eq!(waiting.give_way(name(3), Tick(2_399)), 0);
    assert_eq!(waiting.totals().overflowed, 1);
    assert_eq!(waiting.give_way(name(3), Tick(2_400)), 1, "it had waited to the end");
}

#[test]
fn older_than_60_s_begins_at_the_maximum_and_does_not_stop_there() {
    let mut waiting = waiting(Reuse::OlderThan60s, 2);
    assert_eq!(waiting.enter(name(1), Tick(0)), KEPT);
    assert_eq!(waiting.give_way(name(9), Tick(1_000)), 0, "one is below the maximum");
    assert_eq!(waiting.enter(name(2), Tick(1_000)), KEPT);
    assert_eq!(waiting.enter(name(3), Tick(1_000)), Entry { kept: true, freed: 1 });
    assert_eq!(waiting.enter(name(4), Tick(1_600)), KEPT, "60 s are not more than 60 s");
    assert_eq!(waiting.len(), 3);
    assert_eq!(waiting.give_way(name(9), Tick(1_601)), 2, "down to below the maximum");
    assert_eq!(waiting.totals().reused, 3);
    waiting.check();
}

#[test]
fn even_then_the_bound_holds() {
    let mut waiting = waiting(Reuse::OlderThan60s, 2);
    let kept = (0..120).filter(|&n| waiting.enter(name(n), Tick(0)).kept).count();
    assert_eq!(kept, 100);
    assert_eq!(waiting.totals().overflowed, 20);
    waiting.check();
}

#[test]
fn peer_differs_takes_the_oldest_of_another() {
    let mut waiting = waiting(Reuse::PeerDiffers, 3);
    for tuple in [3, 6, 1] {
        assert_eq!(waiting.enter(name(tuple), Tick(0)), KEPT);
    }
    assert_eq!(waiting.give_way(name(9), Tick(1)), 1, "3 and 6 are of the peer of 9");
    assert!(waiting.contains(name(3)) && waiting.contains(name(6)) && !waiting.contains(name(1)));
    assert_eq!(waiting.give_way(name(9), Tick(1)), 0);
    assert_eq!(waiting.give_way(name(1), Tick(1)), 1);
    assert!(!waiting.contains(name(3)));
}

#[test]
fn a_connection_of_the_same_name_takes_the_record() {
    let mut waiting = waiting(Reuse::Never, 10);
    waiting.enter(name(1), Tick(0));
    assert!(waiting.reopen(name(1)));
    assert!(!waiting.reopen(name(1)));
    assert_eq!((waiting.len(), waiting.totals().reopened), (0, 1));
}

#[test]
fn holes_do_not_pile_up() {
    let mut waiting = waiting(Reuse::Never, 10);
    waiting.enter(name(0), Tick(0));
    for n in 1..100_000 {
        assert!(waiting.enter(name(n), Tick(0)).kept);
        assert!(waiting.reopen(name(n)));
        assert!(waiting.records.len() <= HOLES_MIN + 2);
    }
    waiting.check();
    assert!(waiting.contains(name(0)));
}

#[derive(Debug, Clone)]
enum Op {
    Enter(u64),
    Reopen(u64),
    GiveWay(u64),
    Expire,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..20_u64).prop_map(Op::Enter),
        2 => (0..20_u64).prop_map(Op::Reopen),
        2 => (0..20_u64).prop_map(Op::GiveWay),
        1 => Just(Op::Expire),
    ]
}

/// A plain list of (number, tick of entry), oldest first.
#[derive(Debug)]
struct Model {
    config: Config,
    waiting: Vec<(u64, u32)>,
    now: u32,
}

impl Model {
    fn expire(&mut self, now: u32) -> u32 {
        self.now = self.now.max(now);
        let (before, delay) = (self.waiting.len(), self.config.delay_ms.div_ceil(100));
        self.waiting.retain(|&(_, entered)| entered + delay > self.now);
        (before - self.waiting.len()) as u32
    }

    fn make_room(&mut self, n: u64) -> u32 {
        let before = self.waiting.len();
        match self.config.reuse {
            Reuse::Never => {}
            Reuse::OlderThan60s => {
                while self.waiting.len() >= self.config.records_max as usize
                    && self.waiting.first().is_some_and(|&(_, entered)| self.now - entered > 600)
                {
                    self.waiting.remove(0);
                }
            }
            Reuse::PeerDiffers => {
                let other = self.waiting.iter().take(REUSE_SCAN_MAX).position(|&(m, _)| m % 3 != n % 3);
                other.map(|other| self.waiting.remove(other));
            }
        }
        (before - self.waiting.len()) as u32
    }

    fn take(&mut self, n: u64) -> bool {
        let found = self.waiting.iter().position(|&(m, _)| m == n);
        found.map(|found| self.waiting.remove(found)).is_some()
    }

    fn enter(&mut self, n: u64, now: u32, capacity: u32) -> Entry {
        let mut freed = self.expire(now) + u32::from(self.take(n));
        if self.config.delay_ms == 0 {
            return Entry { kept: false, freed };
        }
        if self.waiting.len() >= self.config.records_max as usize {
            freed += self.make_room(n);
        }
        let max = match self.config.reuse {
            Reuse::OlderThan60s => capacity.max(self.config.records_max),
            _ => self.config.records_max,
        };
        let kept = self.waiting.len() < max as usize;
        if kept {
            self.waiting.push((n, self.now));
        }
        Entry { kept, freed }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_plain_list(
        delay_ms in prop_oneof![Just(0_u32), Just(30_000), Just(60_000), Just(240_000)],
        records_max in 0..12_u32,
        reuse in prop_oneof![Just(Reuse::Never), Just(Reuse::OlderThan60s), Just(Reuse::PeerDiffers)],
        capacity in 0..20_u32,
        // The clock may stand, go, jump, and be told late.
        ops in prop::collection::vec(
            (op(), prop_oneof![4 => 0..20_i64, 2 => 0..1_000_i64, 1 => -50..0_i64]), 1..200,
        ),
    ) {
        let config = Config { delay_ms, records_max, reuse, counts_against_capacity: false };
        let mut waiting = TimeWait::new(config, capacity);
        let mut model = Model { config, waiting: Vec::new(), now: 0 };
        let mut now = 0_u32;
        for (op, step) in ops {
            now = (i64::from(now) + step).max(0) as u32;
            match op {
                Op::Enter(n) => prop_assert_eq!(waiting.enter(name(n), Tick(now)), model.enter(n, now, capacity)),
                Op::Reopen(n) => prop_assert_eq!(waiting.reopen(name(n)), model.take(n)),
                Op::GiveWay(n) => {
                    let expected = match model.expire(now) { 0 => model.make_room(n), freed => freed };
                    prop_assert_eq!(waiting.give_way(name(n), Tick(now)), expected);
                }
                Op::Expire => prop_assert_eq!(waiting.expire(Tick(now)), model.expire(now)),
            }
            waiting.check();
            prop_assert_eq!(waiting.len() as usize, model.waiting.len());
            for n in 0..20 {
                let held = model.waiting.iter().any(|&(m, _)| m == n);
                prop_assert_eq!(waiting.contains(name(n)), held, "{}", n);
            }
        }
    }
}
