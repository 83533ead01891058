//! The pool against plain vectors.

use proptest::prelude::*;

use super::*;

fn pool(bytes_max: u64, kept_max: u64) -> Pool {
    Pool::new(&limits::Buffers {
        reactor_bytes_max: bytes_max,
        reactor_bytes_kept_max: kept_max,
        ..limits::Buffers::default()
    })
}

#[test]
fn size_classes_round_up_to_powers_of_two() {
    for (bytes, class) in
        [(0, 0), (1, 0), (1024, 0), (1025, 1), (2048, 1), (2049, 2), (65_536, 6), (1 << 31, 21)]
    {
        assert_eq!(class_of(bytes), class, "{bytes} bytes");
        assert!(class_bytes(class) >= bytes);
    }
}

#[test]
fn a_released_buffer_is_lent_again() {
    let mut pool = pool(1 << 20, 1 << 20);
    let mut lease = pool.lease(100).unwrap();
    lease.extend_from_slice(b"secret of one connection");
    let memory = lease.as_ptr();
    pool.release(lease);
    assert_eq!(pool.stats().kept_bytes, 1024);
    let lease = pool.lease(1024).unwrap();
    assert!(lease.is_empty());
    assert_eq!(lease.as_ptr(), memory);
    assert_eq!(
        pool.stats(),
        PoolStats { leased: 1, leased_bytes: 1024, leases_total: 2, ..PoolStats::default() }
    );
    pool.release(lease);
    pool.check();
}

#[test]
fn large_buffers_and_those_past_the_bound_are_not_kept() {
    let mut pool = pool(1 << 20, 3 * 1024);
    let leases = [1, 1, 2, 100].map(|kib| pool.lease(kib * 1024).unwrap());
    leases.into_iter().for_each(|lease| pool.release(lease));
    assert_eq!(pool.stats().kept_bytes, 2 * 1024, "2 KiB more would pass 3 KiB");
    pool.check();
}

#[test]
fn the_bound_refuses_and_changes_nothing() {
    let mut pool = pool(4096, 4096);
    let mut lease = None;
    pool.append(&mut lease, &[7; 2048]).unwrap();
    let refused = pool.append(&mut lease, &[7]).unwrap_err();
    assert_eq!(refused, PoolExhausted { asked_bytes: 4096, leased_bytes: 2048, bytes_max: 4096 });
    assert_eq!(lease.as_deref(), Some(&[7; 2048][..]));
    assert!(pool.lease(usize::MAX).is_err());
    assert_eq!(pool.stats().exhausted_total, 2);
    pool.release(lease.unwrap());
    assert_eq!(pool.stats().leased_bytes, 0);
}

#[test]
fn consumed_room_is_used_again() {
    let mut pool = pool(1 << 20, 0);
    let mut lease = pool.lease(1024).unwrap();
    lease.extend_from_slice(&[1; 1000]);
    lease.consume(990);
    lease.extend_from_slice(&[2; 1014]);
    assert_eq!(lease.len(), 1024);
    assert_eq!((lease[9], lease[10]), (1, 2));
    lease[0] = 9;
    lease.consume(1024);
    assert!(lease.is_empty());
    pool.release(lease);
}

#[test]
#[should_panic(expected = "does not grow")]
fn extending_past_the_capacity_is_a_bug_of_the_caller() {
    pool(1 << 20, 0).lease(1024).unwrap().extend_from_slice(&[0; 1025]);
}

#[test]
#[should_panic(expected = "dropped, not released")]
fn dropping_a_lease_is_a_bug_of_the_caller() {
    drop(pool(1 << 20, 0).lease(1).unwrap());
}

#[test]
fn a_full_pool_can_be_trimmed() {
    let mut pool = pool(8192, 0);
    let mut lease = None;
    pool.append(&mut lease, &[5; 8192]).unwrap();
    lease.as_mut().unwrap().consume(8000);
    pool.trim(&mut lease);
    assert_eq!((pool.stats().leased_bytes, pool.stats().exhausted_total), (1024, 0));
    pool.release(lease.unwrap());
}

#[test]
fn trimming_gives_back_what_is_not_needed() {
    let mut pool = pool(1 << 20, 0);
    let mut lease = None;
    pool.trim(&mut lease);
    pool.append(&mut lease, &[5; 8192]).unwrap();
    lease.as_mut().unwrap().consume(4096);
    pool.trim(&mut lease);
    assert_eq!(pool.stats().leased_bytes, 8192, "half full: moving would not pay");
    lease.as_mut().unwrap().consume(4000);
    pool.trim(&mut lease);
    assert_eq!(pool.stats().leased_bytes, 1024);
    assert_eq!(lease.as_deref(), Some(&[5; 96][..]));
    lease.as_mut().unwrap().consume(96);
    pool.trim(&mut lease);
    assert!(lease.is_none());
    assert_eq!(pool.stats().leased, 0);
}

#[derive(Debug, Clone)]
enum Op {
    Append { slot: usize, bytes: Vec<u8> },
    Consume { slot: usize, share: u8 },
    Trim { slot: usize },
    Release { slot: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![0..40_usize, 0..3_000_usize, 0..70_000_usize]
        .prop_flat_map(|len| any::<u8>().prop_map(move |first| ramp(first, len)));
    prop_oneof![
        4 => (0..4_usize, bytes).prop_map(|(slot, bytes)| Op::Append { slot, bytes }),
        3 => (0..4_usize, any::<u8>()).prop_map(|(slot, share)| Op::Consume { slot, share }),
        1 => (0..4_usize).prop_map(|slot| Op::Trim { slot }),
        1 => (0..4_usize).prop_map(|slot| Op::Release { slot }),
    ]
}

/// Bytes that tell their place, so that a wrong offset shows.
fn ramp(first: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| first.wrapping_add((i % 251) as u8)).collect()
}

proptest! {
    #[test]
    // Plain assertions: a test that returns early would drop leases, which is another failure.
    fn agrees_with_plain_vectors(
        ops in prop::collection::vec(op(), 1..80),
        bytes_max in 100_000..400_000_u64,
        kept_max in 0..100_000_u64,
    ) {
        let mut pool = pool(bytes_max, kept_max);
        let mut leases: [Option<Lease>; 4] = [const { None }; 4];
        let mut model: [Vec<u8>; 4] = Default::default();
        for op in ops {
            match op {
                Op::Append { slot, bytes } => {
                    let leased_bytes = pool.stats().leased_bytes;
                    match pool.append(&mut leases[slot], &bytes) {
                        Ok(()) => model[slot].extend_from_slice(&bytes),
                        Err(refused) => {
                            assert!(refused.leased_bytes + refused.asked_bytes > refused.bytes_max);
                            assert_eq!(pool.stats().leased_bytes, leased_bytes);
                        }
                    }
                }
                Op::Consume { slot, share } => if let Some(lease) = &mut leases[slot] {
                    let n = lease.len() * usize::from(share) / 255;
                    lease.consume(n);
                    model[slot].drain(..n);
                },
                Op::Trim { slot } => pool.trim(&mut leases[slot]),
                Op::Release { slot } => {
                    leases[slot].take().into_iter().for_each(|lease| pool.release(lease));
                    model[slot].clear();
                }
            }
            pool.check();
            for (lease, model) in leases.iter().zip(&model) {
                assert_eq!(lease.as_deref().unwrap_or_default(), &model[..]);
            }
            let held = leases.iter().flatten();
            assert_eq!(pool.stats().leased, held.clone().count() as u64);
            assert_eq!(pool.stats().leased_bytes, held.map(|lease| lease.capacity() as u64).sum::<u64>());
        }
        leases.into_iter().flatten().for_each(|lease| pool.release(lease));
        assert_eq!((pool.stats().leased, pool.stats().leased_bytes), (0, 0));
        pool.check();
    }
}
