//! Who the sessions of one shard are.
//!
//! A login is kept once, however many sessions have it, and a set of roles and claims once, however many logins have it. So a
//! session costs four bytes for who it is, and a login that nobody shares little more than its text, which is in the table
//! itself up to 24 bytes: a block of the heap for each would take as much again.
//!
//! Without authentication a client is who it says, with no roles and no claims. Whether that was proved is for the shard to
//! know: it is so for all its sessions or for none.
//!
//! Invariant: a grant is held by the logins that have it, a login by the sessions that have it ([`Principals::check`]).

use std::num::NonZeroU32;

use compact_str::CompactString;

use crate::auth::Principal;
use crate::footprint::Part;
use crate::message::interner::{Interner, Symbol};

/// Roles and claims.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Grant {
    roles: Box<[Box<str>]>,
    claims: Box<[(Box<str>, Box<str>)]>,
}

impl Grant {
    fn heap_bytes(&self) -> usize {
        let texts = self.roles.iter().map(|role| role.len() + size_of::<Box<str>>());
        let claims =
            self.claims.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<Box<str>>());
        texts.sum::<usize>() + claims.sum::<usize>()
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Entry {
    login: CompactString,
    grant: Symbol,
}

const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    fn heap_bytes(&self) -> usize {
        if self.login.is_heap_allocated() { self.login.capacity() } else { 0 }
    }
}

/// A login with what was granted to it, with a niche so that its absence costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrincipalId(NonZeroU32);

impl PrincipalId {
    fn new(symbol: Symbol) -> PrincipalId {
        // Symbols are indices of a table that can not have 2^32 - 1 entries.
        PrincipalId(NonZeroU32::MIN.saturating_add(symbol.0))
    }

    fn symbol(self) -> Symbol {
        Symbol(self.0.get() - 1)
    }

    /// A number that no other principal of the shard has while this one is held.
    pub fn number(self) -> u32 {
        self.0.get()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Principals {
    logins: Interner<Entry>,
    grants: Interner<Grant>,
}

impl Principals {
    /// Nobody. `seed` must not be guessable by peers.
    pub fn new(seed: u64) -> Principals {
        Principals { logins: Interner::new(seed), grants: Interner::new(seed) }
    }

    /// A session is this principal.
    pub fn acquire(&mut self, principal: Principal) -> PrincipalId {
        let Principal { login, roles, claims } = principal;
        let grant = self.grants.acquire(Grant { roles, claims });
        let before = self.logins.len();
        let symbol = self.logins.acquire(Entry { login: CompactString::new(login), grant });
        if self.logins.len() == before {
            // The login holds it already.
            self.grants.release(grant);
        }
        PrincipalId::new(symbol)
    }

    /// A session is this principal no more. Returns whether none is.
    pub fn release(&mut self, id: PrincipalId) -> bool {
        let (before, grant) = (self.logins.len(), self.logins.value(id.symbol()).grant);
        self.logins.release(id.symbol());
        let is_gone = self.logins.len() < before;
        if is_gone {
            self.grants.release(grant);
        }
        is_gone
    }

    /// The login.
    pub fn login(&self, id: PrincipalId) -> &str {
        &self.logins.value(id.symbol()).login
    }

    /// Roles, sorted.
    pub fn roles(&self, id: PrincipalId) -> &[Box<str>] {
        &self.grants.value(self.logins.value(id.symbol()).grant).roles
    }

    /// Claims that rules name, sorted by name.
    pub fn claims(&self, id: PrincipalId) -> &[(Box<str>, Box<str>)] {
        &self.grants.value(self.logins.value(id.symbol()).grant).claims
    }

    /// Whether nobody is anybody.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    /// What the tables take.
    pub fn memory(&self) -> Part {
        let logins = self.logins.memory(Entry::heap_bytes);
        [logins, self.grants.memory(Grant::heap_bytes)].into_iter().sum()
    }

    /// Panics unless both tables agree.
    pub fn check(&self) {
        self.logins.check();
        self.grants.check();
        assert!(self.grants.len() <= self.logins.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(login: &str, roles: &[&str]) -> Principal {
        let roles = roles.iter().map(|role| (*role).into()).collect();
        Principal { login: login.into(), roles, claims: Box::default() }
    }

    #[test]
    fn a_login_and_a_grant_are_kept_once_and_go_with_their_last_holder() {
        let mut principals = Principals::new(7);
        let [ann, again] = [(); 2].map(|()| principals.acquire(principal("ann", &["staff"])));
        let bob = principals.acquire(principal("bob", &["staff"]));
        let admin = principals.acquire(principal("ann", &["admin", "staff"]));
        assert_eq!(ann, again);
        assert!(ann != bob && ann != admin && bob != admin);
        assert_eq!((principals.login(admin), principals.roles(admin).len()), ("ann", 2));
        assert_eq!((principals.logins.len(), principals.grants.len()), (3, 2));
        principals.check();
        assert!(!principals.release(ann));
        assert!(principals.release(again) && principals.release(admin));
        assert_eq!((principals.logins.len(), principals.grants.len()), (1, 1));
        assert_eq!(&*principals.roles(bob)[0], "staff");
        assert!(principals.release(bob) && principals.is_empty());
        principals.check();
        assert!(principals.grants.is_empty());
    }

    #[test]
    fn a_login_of_24_bytes_takes_no_block_of_the_heap() {
        let used = |login: &str| {
            let mut principals = Principals::new(7);
            principals.acquire(principal(login, &[]));
            principals.memory().used
        };
        let short = used("a");
        assert_eq!(used("a-login-of-exactly-24-by"), short);
        assert!(used("a-login-of-exactly-25-byt") >= short + 25);
    }
}
