//! The table against a list of connections.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::buf::Pool;
use crate::tcb::TableConfig;

const PENDING_MAX: u32 = 4;
const REFUSALS_MAX: u32 = 2;
const CAPACITY: u32 = 6;

fn table() -> Connections {
    Connections::new(Setup {
        shard: 0,
        connections_max: 5,
        handshake: limits::Handshake {
            pending_max: PENDING_MAX,
            refusals_max: REFUSALS_MAX,
            // All come from one address.
            fair_from_percent: 100,
            ..limits::Handshake::default()
        },
        pending: Arc::new(Pending::new(100)),
        tcbs: Arc::new(TcbTable::new(TableConfig::sized(CAPACITY, 1))),
        now: Tick(0),
    })
}

#[test]
fn an_address_that_has_its_share_is_refused_and_a_proxy_is_not() {
    let mut table = table();
    table.set_limits(limits::Handshake { fair_from_percent: 50, ..limits::Handshake::default() });
    let mut counters = ShardCounters::default();
    let mut port = 1_000;
    let mut open = |table: &mut Connections, address: [u8; 4], is_proxy| {
        port += 1;
        let (local, remote) = (SocketAddr::from(([192, 0, 2, 1], 80)), SocketAddr::from((address, port)));
        let source = if is_proxy { Source::Proxy } else { Source::of(remote.ip()) };
        let key = table
            .open(FourTuple::new(local, remote), Framing::WebSocket, source, &mut counters, Tick(0))
            .unwrap();
        (table.phase(key.index), table.is_above_share(key.index))
    };
    for _ in 0..3 {
        assert_eq!(open(&mut table, [198, 51, 100, 1], false), (Phase::Opening, false));
    }
    assert_eq!(open(&mut table, [198, 51, 100, 1], false), (Phase::Refused, true));
    assert_eq!(open(&mut table, [198, 51, 100, 1], true), (Phase::Opening, false));
    table.check();
    let refused = (counters.refused_above_share_total, counters.refused_table_full_total);
    assert_eq!(refused, (1, 0));
}

#[test]
fn a_proxy_is_no_holder_and_who_it_names_is() {
    let (mut table, mut pool) = (table(), Pool::new(&limits::Buffers::default()));
    let mut counters = ShardCounters::default();
    let trusted = ["198.51.100.0/24".parse().unwrap()];
    let mut open = |table: &mut Connections, port| {
        let (local, remote) = (([192, 0, 2, 1], 80).into(), ([198, 51, 100, 1], port).into());
        table
            .open(FourTuple::new(local, remote), Framing::WebSocket, Source::Proxy, &mut counters, Tick(0))
            .unwrap()
    };
    let keys = [open(&mut table, 1), open(&mut table, 2)];
    let holder = |table: &Connections, nth: usize| table.holder_of(keys[nth].index, 0, &trusted);
    assert_eq!(holder(&table, 0), Holder::Session(0, keys[0]));
    assert_ne!(holder(&table, 0), holder(&table, 1));
    // Whom nobody trusts is a client.
    assert_eq!(table.holder_of(keys[0].index, 0, &[]), table.holder_of(keys[1].index, 0, &[]));
    let client = IpAddr::from([203, 0, 113, 7]);
    for key in keys {
        assert!(table.pass_handshake_to(key.index, client, &mut ShardCounters::default(), Tick(0)));
        table.check();
    }
    assert_eq!(holder(&table, 0), Holder::of(Some(client), 0, keys[0]));
    assert_eq!(holder(&table, 0), holder(&table, 1));
    for key in keys {
        table.close(key.index, true, &mut pool, Tick(0));
    }
    table.check();
}

#[derive(Debug, Clone)]
enum Op {
    Open,
    /// The handshake of the nth is over.
    Greet(usize),
    Close(usize, bool),
    TakeClosed,
    SetMemoryShort(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => Just(Op::Open),
        3 => (0usize..8).prop_map(Op::Greet),
        3 => (0usize..8, any::<bool>()).prop_map(|(nth, reset)| Op::Close(nth, reset)),
        2 => Just(Op::TakeClosed),
        1 => any::<bool>().prop_map(Op::SetMemoryShort),
    ]
}

proptest! {
    /// The model keeps who is there, whether it was refused, and whether it is in the handshake.
    #[test]
    fn indices_come_back_only_when_they_were_given_out(ops in prop::collection::vec(op(), 0..200)) {
        let (mut table, mut pool) = (table(), Pool::new(&limits::Buffers::default()));
        let mut counters = ShardCounters::default();
        let mut model: BTreeMap<u32, (ConnKey, bool, bool)> = BTreeMap::new();
        let mut closed: Vec<Closed> = Vec::new();
        let (mut port, mut is_short) = (1000, false);
        for op in ops {
            let nth = |nth: usize| model.keys().copied().nth(nth);
            match op {
                Op::Open => {
                    port += 1;
                    let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
                    let opened = table.open(FourTuple::new(address(1), address(port)), Framing::WebSocket, Source::of(address(port).ip()), &mut counters, Tick(0));
                    let handshakes = model.values().filter(|(_, _, greets)| *greets).count();
                    let refused = model.values().filter(|(_, is_refused, _)| *is_refused).count();
                    let is_full = is_short || model.len() + closed.len() >= 5;
                    match opened {
                        Err(refusal) if handshakes as u32 >= PENDING_MAX => prop_assert_eq!(refusal, Refusal::Pending),
                        Err(refusal) => {
                            prop_assert_eq!(refusal, Refusal::TableFull);
                            prop_assert!(is_full && refused as u32 >= REFUSALS_MAX);
                        }
                        Ok(key) => {
                            let is_refused = table.phase(key.index) == Phase::Refused;
                            prop_assert_eq!(is_refused, is_full);
                            prop_assert!(closed.iter().all(|closed| closed.index != key.index), "an index in use");
                            prop_assert!(model.insert(key.index, (key, is_refused, true)).is_none());
                        }
                    }
                }
                Op::Greet(at) => {
                    let there = nth(at).filter(|index| model[index].2 && !model[index].1);
                    if let Some(index) = there {
                        table.leave_handshake(index);
                        table[index].phase = Phase::Stomp;
                        model.get_mut(&index).unwrap().2 = false;
                    }
                }
                Op::Close(at, reset) => {
                    if let Some(index) = nth(at) {
                        let (key, ..) = model.remove(&index).unwrap();
                        prop_assert!(table.is_current(key));
                        prop_assert!(table.close(index, reset, &mut pool, Tick(0)).is_some());
                        prop_assert!(table.close(index, reset, &mut pool, Tick(0)).is_none(), "closed twice");
                        prop_assert!(!table.is_current(key));
                        closed.push(Closed { index, reset });
                    }
                }
                Op::TakeClosed => {
                    let mut taken = Vec::new();
                    table.take_closed(&mut taken, Tick(0));
                    prop_assert_eq!(&taken, &closed);
                    closed.clear();
                }
                Op::SetMemoryShort(now) => {
                    is_short = now;
                    table.set_memory_short(now);
                }
            }
            prop_assert_eq!(table.len(), model.len());
            prop_assert!(model.values().all(|(key, ..)| table.is_current(*key)));
            table.check();
        }
        for index in model.into_keys() {
            table.close(index, true, &mut pool, Tick(0));
        }
        table.take_closed(&mut Vec::new(), Tick(0));
        table.check();
        table.check_empty();
    }
}
