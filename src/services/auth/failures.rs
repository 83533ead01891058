//! Who has failed to say a right password too often, by address and by login.
//!
//! Each failure counts for a minute, little by little: so many a minute are let through, and as many at once. A login is
//! judged for addresses that have not logged in as it before, because anybody can fail as somebody else. An address on
//! loopback is not judged: behind it may be a proxy, and then everybody.
//!
//! Invariant: each table has at most [`KEPT_MAX`] entries. What there is no room for is not judged.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use crate::auth::{Credentials, Refusal, Verdict};
use crate::limits;

/// Entries of each table.
const KEPT_MAX: usize = 65_536;
/// How long a failure counts.
const MINUTE: Duration = Duration::from_secs(60);
/// How long an address is known for a login.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// A host: of IPv6 the /64 that one host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Host {
    V4(u32),
    V6(u64),
}

impl Host {
    fn of(address: IpAddr) -> Option<Host> {
        match address.to_canonical() {
            address if address.is_loopback() || address.is_unspecified() => None,
            IpAddr::V4(address) => Some(Host::V4(address.to_bits())),
            IpAddr::V6(address) => Some(Host::V6((address.to_bits() >> 64) as u64)),
        }
    }
}

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
    hosts: Table<Host>,
    /// By hash: a login of a stranger takes no memory of its own.
    logins: Table<u64>,
    /// Who has logged in from where, and when.
    known: HashMap<(u64, Option<Host>), Instant, RandomState>,
    hasher: RandomState,
}

impl Failures {
    pub(super) fn new(limits: &limits::Auth) -> Failures {
        Failures {
            hosts: Table::new(limits.failures_per_address_max),
            logins: Table::new(limits.failures_per_login_max),
            known: HashMap::default(),
            hasher: RandomState::default(),
        }
    }

    fn login(&self, credentials: &Credentials) -> u64 {
        self.hasher.hash_one(&credentials.login)
    }

    /// Whether a password of this client is worth a hashing.
    pub(super) fn may_try(&self, credentials: &Credentials, now: Instant) -> bool {
        let (host, login) = (Host::of(credentials.address), self.login(credentials));
        let is_known =
            self.known.get(&(login, host)).is_some_and(|at| now.saturating_duration_since(*at) < KNOWN_FOR);
        host.is_none_or(|host| self.hosts.may_try(&host, now))
            && (is_known || self.logins.may_try(&login, now))
    }

    /// A password was checked.
    pub(super) fn note(&mut self, credentials: &Credentials, verdict: &Verdict, now: Instant) {
        let (host, login) = (Host::of(credentials.address), self.login(credentials));
        match verdict {
            Verdict::Accepted(_) => {
                if self.known.len() >= KEPT_MAX {
                    self.known.retain(|_, at| now.saturating_duration_since(*at) < KNOWN_FOR);
                }
                if self.known.len() < KEPT_MAX {
                    self.known.insert((login, host), now);
                }
            }
            Verdict::Refused(Refusal::Busy | Refusal::Unavailable) => {}
            // An unknown login is not this mode's, and is guessed all the same.
            Verdict::Refused(_) | Verdict::NotMine => {
                if let Some(host) = host {
                    self.hosts.note(host, now);
                }
                self.logins.note(login, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Accepted, Principal};

    fn limits() -> limits::Auth {
        limits::Auth { failures_per_address_max: 4, failures_per_login_max: 2, ..limits::Auth::default() }
    }

    fn by(login: &str, address: &str) -> Credentials {
        Credentials {
            login: Some(login.into()),
            passcode: Some("guess".into()),
            token: None,
            headers: Box::default(),
            address: address.parse().expect("it is an address"),
        }
    }

    fn right(login: &str) -> Verdict {
        Verdict::Accepted(Accepted { principal: Principal::new(login, [], []), expires_s: None })
    }

    const WRONG: Verdict = Verdict::Refused(Refusal::WRONG);

    #[test]
    fn so_many_a_minute_and_as_many_at_once_by_address() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        for guess in 0..4 {
            let credentials = by(&format!("u{guess}"), "2001:db8:1:2::1");
            assert!(failures.may_try(&credentials, now), "{guess}");
            failures.note(&credentials, &if guess == 3 { Verdict::NotMine } else { WRONG.clone() }, now);
        }
        // The same host, by another address of it.
        let guess = by("u9", "2001:db8:1:2:ffff::9");
        assert!(!failures.may_try(&guess, now));
        assert!(failures.may_try(&by("u9", "2001:db8:1:3::1"), now));
        assert!(
            !failures.may_try(&guess, now - Duration::from_secs(5)),
            "a clock that steps back gives nothing"
        );
        assert!(failures.may_try(&guess, now + MINUTE / 4));
        failures.note(&guess, &WRONG, now + MINUTE / 4);
        assert!(!failures.may_try(&guess, now + MINUTE / 4));
    }

    #[test]
    fn nobody_is_locked_out_by_who_fails_as_him() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        let home = by("ann", "192.0.2.1");
        failures.note(&home, &right("ann"), now);
        for host in 2..6 {
            failures.note(&by("ann", &format!("192.0.2.{host}")), &WRONG, now);
        }
        assert!(!failures.may_try(&by("ann", "192.0.2.9"), now));
        assert!(failures.may_try(&home, now));
        assert!(failures.may_try(&by("bob", "192.0.2.9"), now));
        assert!(failures.may_try(&by("ann", "192.0.2.9"), now + MINUTE));
    }

    #[test]
    fn a_proxy_that_names_nobody_is_not_judged_and_a_busy_server_is_nobodys_failure() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        for guess in 0..20 {
            failures.note(&by(&format!("u{guess}"), "127.0.0.1"), &WRONG, now);
            failures.note(&by("ann", "192.0.2.1"), &Verdict::Refused(Refusal::Busy), now);
        }
        assert!(failures.may_try(&by("u99", "127.0.0.1"), now));
        assert!(failures.may_try(&by("ann", "192.0.2.1"), now));
    }

    #[test]
    fn the_tables_are_bounded() {
        let (mut failures, now) = (Failures::new(&limits()), Instant::now());
        for n in 0..KEPT_MAX as u32 + 100 {
            let address = format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
            failures.note(&by(&format!("u{n}"), &address), &WRONG, now);
            failures.note(&by(&format!("u{n}"), &address), &right("u"), now);
        }
        let lengths = [failures.hosts.levels.len(), failures.logins.levels.len(), failures.known.len()];
        assert_eq!(lengths, [KEPT_MAX; 3]);
        failures.note(&by("late", "192.0.2.1"), &WRONG, now + MINUTE);
        assert_eq!(failures.hosts.levels.len(), 1);
    }
}
