//! The table against a map of names to states, and under several threads.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::tcb::time_wait::Reuse;

/// Connection `n`: every third is IPv6, and several are of one peer.
fn tuple(n: u32) -> FourTuple {
    let local: IpAddr =
        if n.is_multiple_of(3) { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let port = |n: u32| (n & 0xFFFF) as u16;
    FourTuple::new((local, 80 + port(n >> 16)).into(), (local, port(n)).into())
}

fn table(capacity: u32, partitions: u32, hash_buckets: u32) -> TcbTable {
    TcbTable::new(TableConfig { partitions, hash_buckets, ..TableConfig::sized(capacity, 1) })
}

fn windows(capacity: u32, reuse: Reuse, records_max: u32) -> TcbTable {
    let time_wait =
        time_wait::Config { delay_ms: 240_000, records_max, reuse, counts_against_capacity: true };
    TcbTable::new(TableConfig { time_wait, ..TableConfig::sized(capacity, 1) })
}

const NOW: Tick = Tick(100);

#[test]
fn a_connection_lives_and_is_found_by_key_and_by_name() {
    let table = table(10, 4, 7);
    let key = table.admit(tuple(1), NOW).unwrap();
    let view = TcbView { tuple: tuple(1), state: State::HalfOpen, opened: NOW, since: NOW };
    assert_eq!(table.get(key), Some(view.clone()));
    assert_eq!(table.find(&tuple(1)), Some((key, view.clone())));
    assert_eq!(table.find(&tuple(2)), None);

    assert_eq!(table.transition(key, Event::Upgraded, Tick(101)), Ok(State::Established));
    assert_eq!(table.transition(key, Event::LocalClose, Tick(102)), Ok(State::Closing));
    assert_eq!(table.transition(key, Event::RemoteClose, Tick(103)), Ok(State::Closing));
    let closing = TcbView { state: State::Closing, since: Tick(102), ..view };
    assert_eq!(table.get(key), Some(closing));

    assert_eq!(table.release(key, Closer::Local, Tick(104)), Some(State::TimeWait));
    assert_eq!(table.find(&tuple(1)), None);
    assert_eq!(table.state_of(&tuple(1)), State::TimeWait);
    table.check();
    assert_eq!(table.expire_time_wait(Tick(104 + 599)), 0);
    assert_eq!(table.expire_time_wait(Tick(104 + 600)), 1);
    assert_eq!(table.state_of(&tuple(1)), State::Closed);
    table.check();
}

#[test]
fn a_stale_key_finds_nothing() {
    let table = table(10, 1, 1);
    let stale = table.admit(tuple(1), NOW).unwrap();
    assert_eq!(table.release(stale, Closer::Remote, NOW), Some(State::Closed));
    let key = table.admit(tuple(2), NOW).unwrap();
    assert_eq!(key.place, stale.place, "the place is taken again, by another generation");
    assert_eq!(table.get(stale), None);
    assert_eq!(table.transition(stale, Event::Upgraded, NOW), Err(Error::Stale));
    assert_eq!(table.transition(stale, Event::Done { closed_by: Closer::Local }, NOW), Err(Error::Stale));
    assert_eq!(table.release(stale, Closer::Local, NOW), None);
    assert_eq!(table.get(TcbKey { place: NonZeroU32::MAX, generation: 1 }), None);
    assert_eq!(table.stats().in_use, 1);
    table.check();
}

#[test]
fn an_illegal_event_changes_nothing() {
    let table = table(10, 1, 1);
    let key = table.admit(tuple(1), NOW).unwrap();
    let illegal = IllegalTransition { state: State::HalfOpen, event: Event::Expire };
    assert_eq!(table.transition(key, Event::Expire, NOW), Err(Error::Illegal(illegal)));
    assert_eq!(table.get(key).map(|view| view.state), Some(State::HalfOpen));
}

#[test]
fn a_name_is_admitted_once() {
    let table = table(1, 1, 1);
    let key = table.admit(tuple(1), NOW).unwrap();
    assert_eq!(table.admit(tuple(1), NOW), Err(Refused::Duplicate), "though the table is also full");
    assert_eq!(table.admit(tuple(2), NOW), Err(Refused::Full));
    table.release(key, Closer::Reset, NOW).unwrap();
    assert!(table.admit(tuple(1), NOW).is_ok());
    let stats = table.stats();
    assert_eq!((stats.admitted_total, stats.duplicate_total, stats.refused_total), (2, 1, 1));
}

#[test]
fn a_name_in_time_wait_is_admitted_in_its_own_place() {
    let table = windows(1, Reuse::Never, 10);
    let key = table.admit(tuple(1), NOW).unwrap();
    table.release(key, Closer::Local, NOW).unwrap();
    assert_eq!(table.admit(tuple(2), NOW), Err(Refused::Full));
    assert!(table.admit(tuple(1), NOW).is_ok());
    assert_eq!(table.stats().time_wait_totals.reopened, 1);
    table.check();
}

#[test]
fn time_wait_apart_takes_no_places() {
    let table = table(1, 1, 1);
    for n in 0..100 {
        let key = table.admit(tuple(n), NOW).unwrap();
        assert_eq!(table.release(key, Closer::Local, NOW), Some(State::TimeWait));
    }
    assert_eq!((table.stats().in_use, table.stats().time_wait), (0, 100));
    table.check();
}

/// The wall: connections that this side closes, one a second, through a table of 100 places.
#[test]
fn churn_hits_the_wall_under_never_and_under_no_other_policy() {
    let refused = |reuse| {
        let table = windows(100, reuse, 100);
        let refused = (0..1_000).filter(|&n| match table.admit(tuple(n), Tick(n * 10)) {
            Ok(key) => table.release(key, Closer::Local, Tick(n * 10)).is_none(),
            Err(refused) => refused == Refused::Full,
        });
        let refused = refused.count();
        table.check();
        refused
    };
    // 100 places for 240 s each carry 0.42 connections a second.
    let never = refused(Reuse::Never);
    assert!((500..650).contains(&never), "{never}");
    assert_eq!(refused(Reuse::OlderThan60s), 0);
    assert_eq!(refused(Reuse::PeerDiffers), 0);
}

#[test]
fn a_partition_grows_past_its_reserve() {
    let table = table(1_000, 64, 64);
    let first = table.partition_number(table.hash(&tuple(0)));
    let crowd: Vec<FourTuple> = (0..20_000)
        .map(tuple)
        .filter(|tuple| table.partition_number(table.hash(tuple)) == first)
        .take(200)
        .collect();
    assert_eq!(crowd.len(), 200, "of 312 on average; the reserve is 40");
    let keys: Vec<TcbKey> = crowd.iter().map(|tuple| table.admit(tuple.clone(), NOW).unwrap()).collect();
    table.check();
    for (key, tuple) in keys.into_iter().zip(&crowd) {
        assert_eq!(table.get(key).unwrap().tuple, *tuple);
        table.release(key, Closer::Remote, NOW).unwrap();
    }
    assert_eq!(table.stats().in_use, 0);
}

#[test]
fn buckets_are_as_many_as_configured() {
    for (buckets, partitions, expected) in [(512, 8, 512), (513, 8, 513), (3, 8, 8), (0, 1, 1)] {
        let stats = table(1_000, partitions, buckets).stats();
        assert_eq!((stats.buckets, stats.index_bytes), (expected, 4 * expected), "{buckets} in {partitions}");
        assert_eq!(stats.partitions, partitions);
    }
}

#[test]
fn chains_are_as_long_as_a_good_hash_makes_them() {
    let table = table(20_000, 4, 20_000);
    for n in 0..20_000 {
        table.admit(tuple(n), NOW).unwrap();
    }
    let chains = table.stats().chains;
    assert!((chains.load_factor() - 1.0).abs() < 1e-9);
    assert!((1.45..1.55).contains(&chains.mean_probes()), "{}", chains.mean_probes());
    assert!(chains.longest() < 15, "{}", chains.longest());
}

#[test]
fn a_table_of_no_places_refuses() {
    assert_eq!(table(0, 1, 0).admit(tuple(1), NOW), Err(Refused::Full));
}

#[test]
fn sizes_follow_capacity_and_cores() {
    let sized = |capacity, cores| {
        let config = TableConfig::sized(capacity, cores);
        (config.hash_buckets, config.partitions)
    };
    assert_eq!(sized(50_000, 2), (50_000, 8));
    assert_eq!(sized(3, 2), (3, 3));
    assert_eq!(sized(0, 0), (0, 1));
    assert_eq!(sized(CAPACITY_MAX, 4_096), (CAPACITY_MAX, PARTITIONS_MAX));
}

#[test]
#[should_panic(expected = "is above 16777214")]
fn more_than_tcp_num_connections_is_a_bug_of_the_caller() {
    drop(table(CAPACITY_MAX + 1, 1, 1));
}

#[test]
fn the_capacity_is_exact_under_contention() {
    let table = table(1_000, 7, 100);
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (table, admitted) = (&table, &admitted);
            scope.spawn(move || {
                let keys: Vec<_> =
                    (0..500).filter_map(|n| table.admit(tuple(thread * 500 + n), NOW).ok()).collect();
                admitted.fetch_add(keys.len(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(admitted.into_inner(), 1_000);
    assert_eq!(table.stats().refused_total, 1_000);
    table.check();
}

#[test]
fn threads_that_open_and_close_the_same_names_leave_nothing() {
    let table = windows(64, Reuse::PeerDiffers, 16);
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let table = &table;
            scope.spawn(move || {
                let closers = [Closer::Local, Closer::Remote, Closer::Reset];
                let mut open = Vec::new();
                for n in 0..4_000_u32 {
                    let now = Tick(n);
                    match table.admit(tuple(n.wrapping_mul(7 + thread) % 100), now) {
                        Ok(key) => open.push(key),
                        Err(_) => open.drain(..).for_each(|key| {
                            assert!(table.release(key, closers[n as usize % 3], now).is_some());
                        }),
                    }
                }
                open.into_iter().for_each(|key| {
                    assert!(table.release(key, Closer::Local, Tick(4_000)).is_some());
                });
            });
        }
    });
    table.check();
    table.expire_time_wait(Tick(u32::MAX));
    table.check();
    let stats = table.stats();
    assert_eq!((stats.in_use, stats.time_wait, stats.chains.entries()), (0, 0, 0));
}

#[derive(Debug, Clone)]
enum Op {
    Admit(u32),
    /// An event for the `which`-th key ever given out, stale or not.
    Event {
        which: usize,
        event: Event,
    },
    Expire,
}

fn event() -> impl Strategy<Value = Event> {
    let done = |closed_by| Just(Event::Done { closed_by });
    prop_oneof![
        3 => Just(Event::Upgraded),
        1 => Just(Event::LocalClose),
        1 => Just(Event::RemoteClose),
        3 => done(Closer::Local),
        1 => done(Closer::Remote),
        1 => done(Closer::Reset),
        1 => Just(Event::Admit),
        1 => Just(Event::Expire),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..30_u32).prop_map(Op::Admit),
        6 => (any::<prop::sample::Index>(), event())
            .prop_map(|(which, event)| Op::Event { which: which.index(1 << 20), event }),
        1 => Just(Op::Expire),
    ]
}

/// Names to states; TIME_WAIT by itself, with its own test against a list, is the same type as in the table.
struct Model {
    config: TableConfig,
    /// Connection to number of the key and what a view of it says.
    tcbs: BTreeMap<u32, (usize, State, Tick, Tick)>,
    waiting: TimeWait,
}

impl Model {
    fn name(n: u32) -> Name {
        Name { tuple: u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15), peer: n }
    }

    fn in_use(&self) -> u32 {
        let waiting = if self.config.time_wait.counts_against_capacity { self.waiting.len() } else { 0 };
        self.tcbs.len() as u32 + waiting
    }

    fn admit(&mut self, n: u32, number: usize, now: Tick) -> Result<(), Refused> {
        if self.tcbs.contains_key(&n) {
            return Err(Refused::Duplicate);
        }
        self.waiting.reopen(Model::name(n));
        if self.in_use() >= self.config.capacity && self.config.time_wait.counts_against_capacity {
            self.waiting.give_way(Model::name(n), now);
        }
        if self.in_use() >= self.config.capacity {
            return Err(Refused::Full);
        }
        self.tcbs.insert(n, (number, State::HalfOpen, now, now));
        Ok(())
    }

    fn event(&mut self, number: usize, event: Event, now: Tick) -> Result<State, Error> {
        let found = self.tcbs.iter_mut().find(|(_, tcb)| tcb.0 == number);
        let Some((&n, (_, state, _, since))) = found else { return Err(Error::Stale) };
        let next = crate::tcb::state::next(*state, event).map_err(Error::Illegal)?;
        if *state != next {
            (*state, *since) = (next, now);
        }
        match next {
            State::TimeWait => {
                self.tcbs.remove(&n);
                let entry = self.waiting.enter(Model::name(n), now);
                Ok(if entry.kept { State::TimeWait } else { State::Closed })
            }
            State::Closed => {
                self.tcbs.remove(&n);
                Ok(State::Closed)
            }
            _ => Ok(next),
        }
    }
}

fn config() -> impl Strategy<Value = TableConfig> {
    let reuse = prop_oneof![Just(Reuse::Never), Just(Reuse::OlderThan60s), Just(Reuse::PeerDiffers)];
    let delay_ms = prop_oneof![Just(0_u32), Just(60_000), Just(240_000)];
    let time_wait = (delay_ms, 0..8_u32, reuse, any::<bool>()).prop_map(
        |(delay_ms, records_max, reuse, counts_against_capacity)| time_wait::Config {
            delay_ms,
            records_max,
            reuse,
            counts_against_capacity,
        },
    );
    let hash_buckets = prop_oneof![Just(0_u32), Just(1), Just(7), Just(64), Just(1_021)];
    (0..12_u32, hash_buckets, 1..6_u32, time_wait).prop_map(
        |(capacity, hash_buckets, partitions, time_wait)| TableConfig {
            capacity,
            hash_buckets,
            partitions,
            time_wait,
        },
    )
}

proptest! {
    #[test]
    fn agrees_with_a_map(
        config in config(),
        // The clock may stand, go, and jump.
        ops in prop::collection::vec((op(), prop_oneof![4 => 0..20_u32, 1 => 0..1_500_u32]), 1..150),
    ) {
        let table = TcbTable::new(config);
        let waiting = TimeWait::new(config.time_wait, config.capacity);
        let mut model = Model { config, tcbs: BTreeMap::new(), waiting };
        let (mut keys, mut now) = (Vec::<TcbKey>::new(), Tick(0));
        for (op, step) in ops {
            now = Tick(now.0 + step);
            match op {
                Op::Admit(n) => {
                    let admitted = table.admit(tuple(n), now);
                    prop_assert_eq!(admitted.map(|_| ()), model.admit(n, keys.len(), now));
                    keys.extend(admitted);
                }
                Op::Event { which, event } => if !keys.is_empty() {
                    let number = which % keys.len();
                    prop_assert_eq!(table.transition(keys[number], event, now), model.event(number, event, now));
                },
                Op::Expire => prop_assert_eq!(table.expire_time_wait(now), model.waiting.expire(now) as usize),
            }
            table.check();
            let stats = table.stats();
            prop_assert_eq!(stats.in_use, model.in_use());
            prop_assert_eq!(stats.time_wait, model.waiting.len());
            prop_assert_eq!(stats.time_wait_totals, model.waiting.totals());
            prop_assert_eq!(stats.chains.entries(), model.tcbs.len() as u64);
            let count = |state| model.tcbs.values().filter(|tcb| tcb.1 == state).count() as u32;
            prop_assert_eq!(
                [stats.half_open, stats.established, stats.closing],
                [State::HalfOpen, State::Established, State::Closing].map(count)
            );
            for n in 0..30 {
                let expected = model.tcbs.get(&n).map(|&(number, state, opened, since)| {
                    (keys[number], TcbView { tuple: tuple(n), state, opened, since })
                });
                let state = match &expected {
                    Some((_, view)) => view.state,
                    None if model.waiting.contains(Model::name(n)) => State::TimeWait,
                    None => State::Closed,
                };
                prop_assert_eq!(table.state_of(&tuple(n)), state);
                prop_assert_eq!(table.find(&tuple(n)), expected);
            }
            let live: HashSet<usize> = model.tcbs.values().map(|tcb| tcb.0).collect();
            for (number, &key) in keys.iter().enumerate() {
                prop_assert_eq!(table.get(key).is_some(), live.contains(&number), "key {}", number);
            }
        }
    }
}

/// The attacks of one address and of three, on a table that all share.
#[test]
fn few_addresses_leave_places_for_others() {
    let table = TcbTable::new(TableConfig::sized(2_000, 1));
    let mut port = 0;
    let mut come = |address: [u8; 4], times: u32| {
        (0..times)
            .take_while(|_| {
                port += 1;
                let (address, port) = (Ipv4Addr::from(address), 1_024 + port as u16);
                let is_admitted = !table.is_above_share(address.into(), 87);
                if is_admitted {
                    let remote = SocketAddr::from((address, port));
                    table.admit(FourTuple::new(([192, 0, 2, 1], 80).into(), remote), Tick(0)).unwrap();
                }
                is_admitted
            })
            .count()
    };
    // Three that take all they can get, one after the other.
    let taken: Vec<usize> = (1..=3).map(|host| come([198, 51, 100, host], 2_000)).collect();
    assert_eq!(taken[0], 1_740);
    let left = 2_000 - taken.iter().sum::<usize>();
    assert!((50..80).contains(&left), "{taken:?}");
    // Strangers find a place, each of them, up to the last.
    assert!((0..left).all(|host| come([203, 0, 113, host as u8], 1) == 1));
    table.check();
    assert_eq!(table.stats().in_use, 2_000);
    // Behind a proxy on this machine may be anybody.
    assert!(!table.is_above_share([127, 0, 0, 1].into(), 87));
    // Who leaves gives back his places.
    let gone: Vec<TcbKey> = (1..=1_740)
        .filter_map(|port| {
            let remote = SocketAddr::from(([198, 51, 100, 1], 1_024 + port));
            Some(table.find(&FourTuple::new(([192, 0, 2, 1], 80).into(), remote))?.0)
        })
        .collect();
    for key in gone {
        table.release(key, Closer::Remote, Tick(0));
    }
    assert!(!table.is_above_share([198, 51, 100, 1].into(), 87));
    table.check();
}
