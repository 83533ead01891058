//! Who has failed to say a right password too often, by holder (the address) and by login.
//!
//! Each failure counts for a minute, little by little: so many a minute are let through, and as many at once. Who has logged in
//! as a login from an address before is judged there by what failed as this login from this address, and by nothing else:
//! anybody can fail as somebody else, and beside somebody at one address. A client whose address is not known (on loopback,
//! behind a proxy that does not name it) is judged by the login alone.
//!
//! Invariant: each table has at most [`KEPT_MAX`] entries. What there is no room for is not judged.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::auth::Credentials;
use crate::limits;
use crate::message::origin::Holder;

/// Entries of each table.
const KEPT_MAX: usize = 65_536;
/// How long a failure counts.
const MINUTE: Duration = Duration::from_secs(60);
/// How long an address is known for a login.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Addresses that are known for one login, the latest ones: so nobody fills the table alone.
const KNOWN_PER_LOGIN_MAX: usize = 16;

/// How much one has failed, and when that was looked at.
#[derive(Debug, Clone, Copy)]
struct Level {
    failures: f64,
    at: Instant,
}

impl Level {
    /// What is left of it.
    fn now(&self, max: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64() / MINUTE.as_secs_f64();
        (self.failures - passed * max).max(0.0)
    }
}

/// Failures of one kind of who fails.
#[derive(Debug)]
struct Table<K> {
    max: f64,
    levels: HashMap<K, Level, RandomState>,
}

impl<K: Eq + Hash> Table<K> {
    fn new(max: u32) -> Table<K> {
        Table { max: max.into(), levels: HashMap::default() }
    }

    fn may_try(&self, key: &K, now: Instant) -> bool {
        // One more, and it is at most the bound.
        self.levels.get(key).is_none_or(|level| level.now(self.max, now) <= self.max - 1.0)
    }

    fn note(&mut self, key: K, now: Instant) {
        let max = self.max;
        if self.levels.len() >= KEPT_MAX && !self.levels.contains_key(&key) {
            self.levels.retain(|_, level| level.now(max, now) > 0.0);
            if self.levels.len() >= KEPT_MAX {
                return;
            }
        }
        let level = self.levels.entry(key).or_insert(Level { failures: 0.0, at: now });
        *level = Level { failures: level.now(max, now) + 1.0, at: now };
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Failures {
    holders: Table<Holder>,
    /// By hash: a login of a stranger takes no memory of its own.
    logins: Table<u64>,
    /// By login and address, of those who are known there.
    known_there: Table<(u64, Holder)>,
    /// From where each login has logged in, and when, in that order.
    known: HashMap<u64, Vec<(Holder, Instant)>, RandomState>,
    /// Addresses in `known`.
    known_count: usize,
    hasher: RandomState,
}

impl Failures {
    pub(super) fn new(limits: &limits::Auth) -> Failures {
        Failures {
            holders: Table::new(limits.failures_per_address_max),
            logins: Table::new(limits.failures_per_login_max),
            known_there: Table::new(limits.failures_per_login_max),
            known: HashMap::default(),
            known_count: 0,
            hasher: RandomState::default(),
        }
    }

    fn login(&self, credentials: &Credentials) -> u64 {
        self.hasher.hash_one(&credentials.login)
    }

    /// Whether a password of this client is worth a hashing.
    pub(super) fn may_try(&self, holder: Holder, credentials: &Credentials, now: Instant) -> bool {
        let login = self.login(credentials);
        match host(holder) {
            Some(host) if self.is_known(login, host, now) => self.known_there.may_try(&(login, host), now),
            Some(host) => self.holders.may_try(&host, now) && self.logins.may_try(&login, now),
            None => self.logins.may_try(&login, now),
        }
    }

    fn is_known(&self, login: u64, host: Holder, now: Instant) -> bool {
        let known = self.known.get(&login);
        known.is_some_and(|known| known.iter().any(|(other, at)| *other == host && is_fresh(*at, now)))
    }

    /// A password was right.
    pub(super) fn succeeded(&mut self, holder: Holder, credentials: &Credentials, now: Instant) {
        let (Some(host), login) = (host(holder), self.login(credentials)) else { return };
        if self.known_count >= KEPT_MAX {
            self.known.retain(|_, known| {
                known.retain(|(_, at)| is_fresh(*at, now));
                !known.is_empty()
            });
            self.known_count = self.known.values().map(Vec::len).sum();
        }
        let has_room = self.known_count < KEPT_MAX;
        let known = match self.known.get_mut(&login) {
            Some(known) => known,
            None if has_room => self.known.entry(login).or_default(),
            None => return,
        };
        let before = known.len();
        known.retain(|(other, _)| *other != host);
        if known.len() == before && (before >= KNOWN_PER_LOGIN_MAX || !has_room) {
            known.remove(0);
        }
        known.push((host, now));
        self.known_count = self.known_count + known.len() - before;
    }

    /// A password was wrong, or of nobody.
    pub(super) fn failed(&mut self, holder: Holder, credentials: &Credentials, now: Instant) {
        let login = self.login(credentials);
        match host(holder) {
            Some(host) if self.is_known(login, host, now) => self.known_there.note((login, host), now),
            Some(host) => {
                self.holders.note(host, now);
                self.logins.note(login, now);
            }
            None => self.logins.note(login, now),
        }
    }
}

/// Whether somebody who logged in then is known still.
fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < KNOWN_FOR
}

/// Who is judged; nobody, if only the session is known.
fn host(holder: Holder) -> Option<Holder> {
    Some(holder).filter(|holder| !matches!(holder, Holder::Session(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::origin::ConnKey;

    fn limits() -> limits::Auth {
        limits::Auth { failures_per_address_max: 4, failures_per_login_max: 2, ..limits::Auth::default() }
    }

    fn as_login(login: &str) -> Credentials {
        Credentials {
            login: Some(login.into()),
            passcode: Some("guess".into()),
            token: None,
            headers: Box::default(),
            address: "192.0.2.1".parse().ok(),
        }
    }

    fn nobody(index: u32) -> Holder {
        Holder::Session(0, ConnKey { index, generation: 0 })
    }

    #[test]
    fn so_many_a_minute_and_as_many_at_once_by_address() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        let host = Holder::Address(7);
        for guess in 0..4 {
            let credentials = as_login(&format!("u{guess}"));
            assert!(failures.may_try(host, &credentials, now), "{guess}");
            failures.failed(host, &credentials, now);
        }
        let guess = as_login("u9");
        assert!(!failures.may_try(host, &guess, now));
        assert!(failures.may_try(Holder::Address(8), &guess, now));
        let before = now - Duration::from_secs(5);
        assert!(!failures.may_try(host, &guess, before), "a clock that steps back gives nothing");
        assert!(failures.may_try(host, &guess, now + MINUTE / 4));
        failures.failed(host, &guess, now + MINUTE / 4);
        assert!(!failures.may_try(host, &guess, now + MINUTE / 4));
    }

    #[test]
    fn nobody_is_locked_out_by_who_fails_as_him() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        let (ann, home) = (as_login("ann"), Holder::Address(1));
        failures.succeeded(home, &ann, now);
        for host in 2..4 {
            failures.failed(Holder::Address(host), &ann, now);
        }
        assert!(!failures.may_try(Holder::Address(9), &ann, now));
        assert!(failures.may_try(home, &ann, now));
        assert!(failures.may_try(Holder::Address(9), &as_login("bob"), now));
        assert!(failures.may_try(Holder::Address(9), &ann, now + MINUTE));
    }

    #[test]
    fn who_shares_an_address_with_one_who_guesses_is_judged_by_itself_where_it_is_known() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        let (ann, office) = (as_login("ann"), Holder::Address(1));
        failures.succeeded(office, &ann, now);
        for guess in 0..9 {
            failures.failed(office, &as_login(&format!("u{guess}")), now);
        }
        assert!(!failures.may_try(office, &as_login("bob"), now));
        assert!(failures.may_try(office, &ann, now));
        // Her own password is guessed no faster than anybody's.
        failures.failed(office, &ann, now);
        failures.failed(office, &ann, now);
        assert!(!failures.may_try(office, &ann, now));
        assert!(failures.may_try(office, &ann, now + MINUTE));
    }

    #[test]
    fn one_login_is_known_at_a_few_addresses_the_latest() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        let (ann, eve) = (as_login("ann"), as_login("eve"));
        failures.succeeded(Holder::Address(1), &ann, now);
        for host in 0..2 * KEPT_MAX as u64 {
            failures.succeeded(Holder::Address(host), &eve, now);
        }
        assert_eq!(failures.known_count, 1 + KNOWN_PER_LOGIN_MAX);
        assert!(failures.is_known(failures.login(&ann), Holder::Address(1), now));
        let eves = failures.login(&eve);
        assert!(failures.is_known(eves, Holder::Address(2 * KEPT_MAX as u64 - 1), now));
        assert!(!failures.is_known(eves, Holder::Address(0), now));
    }

    #[test]
    fn who_is_not_known_is_judged_by_the_login_alone_and_is_never_known_for_one() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        let ann = as_login("ann");
        failures.succeeded(nobody(1), &ann, now);
        for guess in 0..20 {
            failures.failed(nobody(guess), &as_login(&format!("u{guess}")), now);
        }
        assert!(failures.may_try(nobody(99), &ann, now));
        failures.failed(nobody(2), &ann, now);
        failures.failed(nobody(3), &ann, now);
        assert!(!failures.may_try(nobody(1), &ann, now));
    }

    #[test]
    fn the_tables_are_bounded() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        for n in 0..KEPT_MAX as u32 + 100 {
            let credentials = as_login(&format!("u{n}"));
            failures.failed(Holder::Address(n.into()), &credentials, now);
            failures.succeeded(Holder::Address(n.into()), &credentials, now);
        }
        let lengths = [failures.holders.levels.len(), failures.logins.levels.len(), failures.known_count];
        assert_eq!(lengths, [KEPT_MAX; 3]);
        failures.failed(Holder::Address(u64::MAX), &as_login("late"), now + MINUTE);
        assert_eq!(failures.holders.levels.len(), 1);
    }
}
