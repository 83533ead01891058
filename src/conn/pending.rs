//! Opening handshakes by where they come from, over all shards; and the event that tells when there are too many.
//!
//! A flood of connections that say nothing, from one address, must not take the places of everybody else's
//! handshakes. So each source has a number of its own here, from `accept` to the end of its handshake; after
//! that it has none, and an established connection costs nothing. An IPv6 host has a whole /64 to choose its
//! addresses from, so there that is the source.
//!
//! Windows XP SP2 bounded its half-open connections to ten and wrote event 4226 into the log when it met the
//! bound; the line that is logged here is called the same.
//!
//! Invariant: a source is in the table exactly while it has a handshake that has begun and not ended
//! ([`Pending::check`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::share;
use crate::tcb::FourTuple;
use crate::time::Tick;

/// Milliseconds between two lines of the event, over all shards.
const LOG_INTERVAL_MS: u64 = 1_000;

/// Sources for which the table keeps its memory while it is empty.
const SOURCES_KEPT_MAX: usize = 256;

/// Where connections come from, as far as that counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The upper half of an IPv6 address.
    V6(u64),
    /// Those that are believed when they name their clients, until they do: they are nobody's share.
    Proxy,
}

impl Source {
    /// The source of connections from this address. One that maps an IPv4 address is that address.
    pub fn of(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => Source::V6((address.to_bits() >> 64) as u64),
        }
    }

    /// Whether it has a share of places: a proxy may be behind a loopback address, and then everybody.
    fn is_account(self) -> bool {
        match self {
            Source::V4(address) => FourTuple::account(address.into()).is_some(),
            // The half of ::1.
            Source::V6(half) => half != 0,
            Source::Proxy => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::V4(address) => address.fmt(f),
            Source::Proxy => f.write_str("proxies"),
            Source::V6(half) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*half) << 64)),
        }
    }
}

/// A handshake that is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// `handshake.pending_max` are in the handshake on this shard.
    OfShard {
        /// The shard.
        shard: u16,
        /// How many there are.
        pending: u32,
        /// The bound.
        max: u32,
    },
    /// Few places are left for handshakes on this shard, and this source has more than those.
    AboveShare {
        /// The shard.
        shard: u16,
        /// The source.
        source: Source,
        /// How many there are of it, on all shards.
        pending: u32,
    },
    /// `handshake.pending_per_address_max` of this source are.
    OfSource {
        /// The source.
        source: Source,
        /// How many there are.
        pending: u32,
        /// The bound.
        max: u32,
    },
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("event 4226: the limit on concurrent connection attempts was reached: ")?;
        match self {
            TooMany::OfShard { shard, pending, max } => {
                write!(f, "{pending} pending on reactor {shard} (handshake.pending_max = {max})")
            }
            TooMany::AboveShare { shard, source, pending } => {
                write!(
                    f,
                    "{pending} pending from {source}, and few places left on reactor {shard} (handshake.pending_max)"
                )
            }
            TooMany::OfSource { source, pending, max } => {
                write!(f, "{pending} pending from {source} (handshake.pending_per_address_max = {max})")
            }
        }
    }
}

/// The shard on which a handshake begins.
#[derive(Debug, Clone, Copy)]
pub struct Shard {
    /// Which one.
    pub id: u16,
    /// Handshakes that it has.
    pub pending: u32,
    /// `handshake.pending_max`.
    pub max: u32,
    /// `handshake.fair_from_percent`.
    pub fair_from_percent: u32,
}

/// See the module. One for all shards.
#[derive(Debug)]
pub struct Pending {
    per_source_max: u32,
    /// Hashed with random keys, as peers may choose their addresses.
    sources: Mutex<HashMap<Source, u32, RandomState>>,
    event: Mutex<Event>,
}

/// When the event was last logged, and how many were refused since.
#[derive(Debug, Default)]
struct Event {
    silent_until: Tick,
    unlogged: u64,
}

impl Event {
    /// One more was refused: how many to log, if it is time for a line.
    fn refused(&mut self, now: Tick) -> Option<u64> {
        self.unlogged += 1;
        (now >= self.silent_until).then(|| {
            self.silent_until = now.after_ms(LOG_INTERVAL_MS);
            std::mem::take(&mut self.unlogged)
        })
    }
}

impl Pending {
    /// An empty table with a bound for each source.
    pub fn new(per_source_max: u32) -> Pending {
        Pending { per_source_max, sources: Mutex::default(), event: Mutex::default() }
    }

    /// A handshake begins on a shard.
    ///
    /// # Errors
    /// Its source has too many already; nothing has changed then.
    pub fn begin(&self, source: Source, at: Shard) -> Result<(), TooMany> {
        let mut sources = self.sources.lock();
        let entry = sources.entry(source);
        let pending = match &entry {
            Entry::Occupied(pending) => *pending.get(),
            Entry::Vacant(_) => 0,
        };
        if pending >= self.per_source_max && source != Source::Proxy {
            return Err(TooMany::OfSource { source, pending, max: self.per_source_max });
        }
        let Shard { id: shard, pending: taken, max, fair_from_percent } = at;
        if source.is_account()
            && share::is_above_share(taken.into(), pending.into(), max.into(), fair_from_percent)
        {
            return Err(TooMany::AboveShare { shard, source, pending });
        }
        *entry.or_insert(0) += 1;
        Ok(())
    }

    /// A handshake that began has ended, whatever came of it.
    ///
    /// # Panics
    /// If this source has none.
    pub fn end(&self, source: Source) {
        let mut sources = self.sources.lock();
        let Entry::Occupied(mut pending) = sources.entry(source) else { panic!("a handshake ends once") };
        *pending.get_mut() -= 1;
        if *pending.get() == 0 {
            pending.remove();
            if sources.is_empty() {
                sources.shrink_to(SOURCES_KEPT_MAX);
            }
        }
    }

    /// Logs that a handshake was refused: at most a line a second, with how many there were.
    pub fn report(&self, too_many: TooMany, now: Tick) {
        let refused = self.event.lock().refused(now);
        if let Some(refused) = refused {
            tracing::warn!("{too_many}; {refused} refused since the last such line");
        }
    }

    /// Handshakes under way. O(sources).
    pub fn count(&self) -> u32 {
        self.sources.lock().values().sum()
    }

    /// Verifies the invariant. O(sources); for tests and the simulation.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check(&self) {
        let most = |source: &Source| if *source == Source::Proxy { u32::MAX } else { self.per_source_max };
        assert!(self.sources.lock().iter().all(|(source, pending)| (1..=most(source)).contains(pending)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A shard with so many places that nobody is judged.
    const ROOMY: Shard = Shard { id: 2, pending: 0, max: 1_000, fair_from_percent: 87 };

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_half_an_ipv6_address() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(source("192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn proxies_have_no_share() {
        let pending = Pending::new(1);
        for _ in 0..3 {
            pending.begin(Source::Proxy, ROOMY).unwrap();
        }
        pending.check();
        pending.end(Source::Proxy);
        assert_eq!(pending.count(), 2);
    }

    #[test]
    fn who_has_most_leaves_the_last_places_of_a_shard_to_others() {
        let (pending, large, small) = (Pending::new(1_000), source("192.0.2.1"), source("192.0.2.2"));
        let mut shard = Shard { max: 100, ..ROOMY };
        let mut begin = |source, times| {
            (0..times).find_map(|_| {
                let refused = pending.begin(source, shard).err();
                shard.pending += u32::from(refused.is_none());
                refused
            })
        };
        assert_eq!(begin(large, 87), None);
        assert_eq!(begin(large, 1), Some(TooMany::AboveShare { shard: 2, source: large, pending: 87 }));
        assert_eq!(begin(small, 6), None);
        assert_eq!(begin(small, 1), Some(TooMany::AboveShare { shard: 2, source: small, pending: 6 }));
        assert_eq!(
            (begin(source("127.0.0.1"), 3), begin(source("::1"), 2), begin(Source::Proxy, 1)),
            (None, None, None)
        );
        assert_eq!(
            TooMany::AboveShare { shard: 2, source: large, pending: 87 }.to_string(),
            "event 4226: the limit on concurrent connection attempts was reached: 87 pending from 192.0.2.1, and few places \
             left on reactor 2 (handshake.pending_max)"
        );
    }

    #[test]
    fn the_line_names_the_source_and_the_bound() {
        let pending = Pending::new(1);
        pending.begin(source("192.0.2.1"), ROOMY).unwrap();
        assert_eq!(
            pending.begin(source("192.0.2.1"), ROOMY).unwrap_err().to_string(),
            "event 4226: the limit on concurrent connection attempts was reached: 1 pending from 192.0.2.1 \
             (handshake.pending_per_address_max = 1)"
        );
        assert_eq!(
            TooMany::OfShard { shard: 2, pending: 10, max: 10 }.to_string(),
            "event 4226: the limit on concurrent connection attempts was reached: 10 pending on reactor 2 \
             (handshake.pending_max = 10)"
        );
        assert_eq!(pending.begin(source("192.0.2.2"), ROOMY), Ok(()), "another source has places of its own");
    }

    #[test]
    fn the_event_is_told_once_a_second_with_all_that_it_stands_for() {
        let mut event = Event::default();
        let told: Vec<u64> = (0..30).filter_map(|tick| event.refused(Tick(tick))).collect();
        assert_eq!(told, [1, 10, 10]);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_list(max in 1u32..4, steps in proptest::collection::vec((0u8..4, any::<bool>()), 0..200)) {
            let table = Pending::new(max);
            let mut model: Vec<Source> = Vec::new();
            for (host, begins) in steps {
                let source = Source::V4(Ipv4Addr::new(127, 0, 0, host));
                let there = model.iter().filter(|other| **other == source).count() as u32;
                if begins {
                    let begun = table.begin(source, ROOMY);
                    prop_assert_eq!(begun.is_ok(), there < max);
                    if begun.is_ok() {
                        model.push(source);
                    }
                } else if let Some(at) = model.iter().position(|other| *other == source) {
                    model.remove(at);
                    table.end(source);
                }
                table.check();
                prop_assert_eq!(table.count() as usize, model.len());
            }
        }
    }
}
