//! How fast clients may publish: a bucket of messages and one of bytes, for each session and for each login.
//!
//! A bucket has the rate of some seconds (`rate.burst_s`) and fills at its rate. What a frame takes is taken after it was
//! accepted, so a bucket may owe; who owes is not read until that is paid. Nothing is refused, and who keeps to its rate has no
//! bucket here: one that is full is forgotten. A session's bucket ends with it; that of a login does not.
//!
//! Invariant: a bucket that is kept was not full when it was last looked at; one that has ended does not wait.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

use crate::footprint::Part;
use crate::limits;
use crate::time::{BYTES_PER_KEY, LazyWheel, Tick};

const TICKS_PER_S: u64 = 1000 / Tick::MILLIS as u64;

/// A rate that one kind of bucket fills at; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    /// In a second.
    per_s: u64,
    /// What a bucket has at most.
    burst: u64,
}

impl Rate {
    fn new(per_s: u64, burst_s: u32) -> Rate {
        Rate { per_s, burst: per_s.saturating_mul(burst_s.into()) }
    }
}

/// What is left in a bucket; below zero is owed. In tenths of a second's worth, so that a tick fills it by a whole number.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: i64,
    at: Tick,
}

impl Bucket {
    fn full(rate: Rate, now: Tick) -> Bucket {
        Bucket { left: scaled(rate.burst), at: now }
    }

    fn fill(&mut self, rate: Rate, now: Tick) {
        let filled = u64::from(now.since(self.at)).saturating_mul(rate.per_s);
        self.left = self.left.saturating_add_unsigned(filled).min(scaled(rate.burst));
        // Timers are told of an earlier moment than frames.
        self.at = self.at.max(now);
    }

    fn is_full(&self, rate: Rate) -> bool {
        self.left >= scaled(rate.burst)
    }

    /// Ticks until nothing is owed.
    fn owes(&self, rate: Rate) -> u32 {
        let owed = u64::try_from(-self.left).unwrap_or(0);
        u32::try_from(owed.div_ceil(rate.per_s.max(1))).unwrap_or(u32::MAX)
    }
}

fn scaled(amount: u64) -> i64 {
    i64::try_from(amount.saturating_mul(TICKS_PER_S)).unwrap_or(i64::MAX)
}

/// The buckets of one kind of who publishes.
#[derive(Debug)]
struct Table<K> {
    /// Of messages, of bytes.
    rates: [Rate; 2],
    buckets: HashMap<K, [Bucket; 2], RandomState>,
}

impl<K: Eq + Hash + Copy> Table<K> {
    fn new(rates: [Rate; 2]) -> Table<K> {
        Table { rates, buckets: HashMap::default() }
    }

    fn is_off(&self) -> bool {
        self.rates.iter().all(|rate| rate.per_s == 0)
    }

    /// Takes what a frame takes. Returns the ticks for which its sender is not to be read.
    fn spend(&mut self, key: K, amounts: [u64; 2], now: Tick) -> u32 {
        if self.is_off() {
            return 0;
        }
        let rates = self.rates;
        let buckets = self.buckets.entry(key).or_insert_with(|| rates.map(|rate| Bucket::full(rate, now)));
        let mut wait = 0;
        for ((bucket, rate), amount) in buckets.iter_mut().zip(rates).zip(amounts) {
            if rate.per_s > 0 {
                bucket.fill(rate, now);
                bucket.left = bucket.left.saturating_sub(scaled(amount));
                wait = wait.max(bucket.owes(rate));
            }
        }
        wait
    }

    /// Forgets buckets that are full again.
    fn tidy(&mut self, now: Tick) {
        let rates = self.rates;
        self.buckets.retain(|_, buckets| {
            for (bucket, rate) in buckets.iter_mut().zip(rates) {
                bucket.fill(rate, now);
            }
            buckets.iter().zip(rates).any(|(bucket, rate)| rate.per_s > 0 && !bucket.is_full(rate))
        });
        if self.buckets.is_empty() {
            self.buckets.shrink_to_fit();
        }
    }

    fn memory(&self) -> Part {
        Part::array(self.buckets.len(), self.buckets.capacity(), size_of::<(K, [Bucket; 2])>())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Rates {
    sessions: Table<u32>,
    /// By hash.
    logins: Table<u64>,
    /// When connections may be read again.
    waiting: LazyWheel,
}

impl Rates {
    /// Nobody has published anything.
    pub fn new(limits: &limits::Rate) -> Rates {
        let rates = |messages: u32, bytes: u64| {
            [Rate::new(messages.into(), limits.burst_s), Rate::new(bytes, limits.burst_s)]
        };
        Rates {
            sessions: Table::new(rates(limits.session_messages_per_s, limits.session_bytes_per_s)),
            logins: Table::new(rates(limits.login_messages_per_s, limits.login_bytes_per_s)),
            waiting: LazyWheel::default(),
        }
    }

    /// Other rates hold from here on. What was published before is forgotten, and whoever waits is to be let go on.
    pub fn set_limits(&mut self, limits: &limits::Rate) -> Vec<u32> {
        let mut waiting = Vec::new();
        self.waiting.expire(Tick(u32::MAX), usize::MAX, &mut waiting);
        *self = Rates::new(limits);
        waiting
    }

    /// Whether nobody's rate is bounded.
    pub fn is_off(&self) -> bool {
        self.sessions.is_off() && self.logins.is_off()
    }

    /// A session has published `bytes` in one frame; `login` is the hash of its login, if that is verified. Returns whether
    /// it is to be held: [`Rates::take_paid`] says when that ends.
    pub fn spend(&mut self, index: u32, login: Option<u64>, bytes: u64, now: Tick) -> bool {
        let amounts = [1, bytes];
        let by_login = login.map_or(0, |login| self.logins.spend(login, amounts, now));
        let wait = self.sessions.spend(index, amounts, now).max(by_login);
        if wait > 0 {
            self.waiting.arm(index, Tick(now.0.saturating_add(wait)), now);
        }
        wait > 0
    }

    /// A session has ended: whoever has its index next owes nothing.
    pub fn end(&mut self, index: u32) {
        if !self.sessions.buckets.is_empty() {
            self.sessions.buckets.remove(&index);
        }
        self.waiting.cancel(index);
    }

    /// A moment to look at, if somebody owes something.
    pub fn next(&self) -> Option<Tick> {
        self.waiting.next_deadline()
    }

    /// Adds those who have paid, `budget` at most. Returns whether there are more.
    pub fn take_paid(&mut self, now: Tick, budget: usize, paid: &mut Vec<u32>) -> bool {
        self.waiting.expire(now, budget, paid)
    }

    /// Once a second: forgets who keeps to its rate.
    pub fn tidy(&mut self, now: Tick) {
        self.sessions.tidy(now);
        self.logins.tidy(now);
        if self.waiting.is_empty() {
            self.waiting.clear();
        }
    }

    /// Whether there is anything to forget.
    pub fn has_any(&self) -> bool {
        !self.sessions.buckets.is_empty() || !self.logins.buckets.is_empty()
    }

    /// What the buckets take.
    pub fn memory(&self) -> Part {
        let (waiting, room) = self.waiting.size();
        let waiting = Part::array(waiting, room, BYTES_PER_KEY);
        [self.sessions.memory(), self.logins.memory(), waiting].into_iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paid(rates: &mut Rates, now: Tick) -> Vec<u32> {
        let mut paid = Vec::new();
        rates.take_paid(now, usize::MAX, &mut paid);
        paid
    }

    fn rates(messages: u32, bytes: u64) -> Rates {
        Rates::new(&limits::Rate {
            session_messages_per_s: messages,
            session_bytes_per_s: bytes,
            login_messages_per_s: 2 * messages,
            ..limits::Rate::default()
        })
    }

    #[test]
    fn without_a_rate_nobody_is_held_or_remembered() {
        let mut rates = rates(0, 0);
        assert!(rates.is_off());
        assert!((0..10_000).all(|_| !rates.spend(1, Some(1), 1 << 20, Tick(5))));
        assert!(!rates.has_any());
    }

    #[test]
    fn a_burst_passes_and_what_comes_behind_it_waits() {
        let mut rates = rates(10, 0);
        let burst = 10 * limits::Rate::default().burst_s;
        assert!((0..burst).all(|_| !rates.spend(1, None, 1, Tick(5))));
        assert!(rates.spend(1, None, 1, Tick(5)));
        assert!(!rates.spend(2, None, 1, Tick(5)), "another session is not to blame");
        assert_eq!((rates.next(), paid(&mut rates, Tick(5))), (Some(Tick(6)), Vec::new()));
        assert_eq!(paid(&mut rates, Tick(6)), [1]);
        assert!(rates.spend(1, None, 1, Tick(6)), "it has paid, and has no more than that");
        rates.tidy(Tick(7));
        assert!(rates.has_any());
        rates.tidy(Tick(5 + 10 * limits::Rate::default().burst_s + 10));
        assert!(!rates.has_any());
    }

    #[test]
    fn bytes_count_as_messages_do_and_sessions_of_one_login_together() {
        let mut rates = rates(10, 1_000);
        assert!(rates.spend(1, None, 1_000_000, Tick(0)));
        let burst = 10 * limits::Rate::default().burst_s;
        let mut held = false;
        for session in 2..5 {
            for _ in 0..burst {
                held |= rates.spend(session, Some(9), 1, Tick(0));
            }
        }
        assert!(held);
        (2..5).for_each(|session| rates.end(session));
        assert!(rates.spend(8, Some(9), 1, Tick(0)), "a login that comes back owes what it owed");
        assert!(!rates.spend(9, Some(10), 1, Tick(0)));
    }

    #[test]
    fn whoever_waits_goes_on_under_other_rates_and_not_after_its_end() {
        let mut rates = rates(1, 0);
        assert!((1..4).all(|session| (0..9_000).any(|_| rates.spend(session, None, 1, Tick(0)))));
        rates.end(2);
        let mut waiting = rates.set_limits(&limits::Rate::default());
        waiting.sort_unstable();
        assert_eq!(waiting, [1, 3]);
        assert!(rates.is_off() && !rates.has_any() && rates.next().is_none());
    }

    #[test]
    fn no_time_is_paid_for_twice() {
        let mut rates = rates(10, 0);
        let burst = 10 * limits::Rate::default().burst_s;
        assert!((0..burst).all(|_| !rates.spend(1, None, 1, Tick(100))));
        // A look that is late, and frames that are not.
        (0..50).for_each(|_| rates.tidy(Tick(50)));
        assert!(rates.spend(1, None, 1, Tick(100)));
    }

    proptest! {
        /// However a client is timed, it publishes at most its burst and its rate, and one frame.
        #[test]
        fn nobody_publishes_more_than_its_burst_and_its_rate(waits in prop::collection::vec(0u32..30, 1..200)) {
            let mut rates = rates(10, 0);
            let (mut now, mut sent) = (Tick(0), 0u64);
            let mut is_held = false;
            for wait in waits {
                now = Tick(now.0 + wait);
                is_held &= paid(&mut rates, now).is_empty();
                rates.tidy(Tick(now.0.saturating_sub(wait)));
                if !is_held {
                    sent += 1;
                    is_held = rates.spend(1, None, 1, now);
                }
            }
            let most = u64::from(10 * limits::Rate::default().burst_s) + u64::from(now.0) * 10 / TICKS_PER_S + 1;
            prop_assert!(sent <= most, "{sent} of {most}");
        }
    }
}
