//! The rules in force on one shard, and the verdicts that they gave.
//!
//! Principals have numbers here, which their owner gives out. Who a number stands for is asked only if the verdict is not
//! known.
//!
//! Invariant: what is kept was decided by the rules in force, for the principal that has the number.

use std::sync::Arc;

use super::cache::Cache;
use super::{Action, Rules, Who};
use crate::footprint::Part;

/// The number of everybody without a login, who has nothing that rules tell apart.
pub const NOBODY: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub struct Authorizer {
    rules: Arc<Rules>,
    cache: Cache,
}

impl Authorizer {
    /// These rules are in force. `seed` must not be guessable by peers.
    pub fn new(rules: Arc<Rules>, seed: u64) -> Authorizer {
        Authorizer { rules, cache: Cache::new(seed) }
    }

    /// Other rules are in force from here on.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        self.cache.clear();
    }

    /// Those in force.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Whether the principal with this number may do this with a destination, by its canonical text. `who` is that
    /// principal.
    pub fn may<'a>(
        &mut self,
        principal: u32,
        who: impl FnOnce() -> Who<'a>,
        action: Action,
        key: &str,
    ) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        let rules = &self.rules;
        self.cache.verdict(principal, action, key, || rules.may(who(), action, key))
    }

    /// The number stands for nobody any more, and may be given to another.
    pub fn release(&mut self, principal: u32) {
        self.cache.forget(principal);
    }

    /// Forgets verdicts, and gives their memory back.
    pub fn shrink(&mut self) {
        self.cache.clear();
    }

    /// What the verdicts take. Rules are shared by all shards.
    pub fn memory(&self) -> Part {
        self.cache.memory()
    }

    /// Panics unless what is kept is counted.
    pub fn check(&self) {
        self.cache.check();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Rule;

    fn rules(action: &str) -> Arc<Rules> {
        let list = |item: &str| vec![item.to_owned()];
        let rule = Rule {
            who: list("login:ann"),
            may: list(action),
            deny: Vec::new(),
            destinations: list("/topic/a"),
        };
        Arc::new(Rules::compile(vec![rule]).unwrap())
    }

    fn of(login: &str) -> Who<'_> {
        Who { login: Some(login), ..Who::default() }
    }

    #[test]
    fn a_verdict_ends_with_the_rules_and_with_its_principal() {
        let mut authorizer = Authorizer::new(rules("send"), 1);
        assert!(authorizer.may(7, || of("ann"), Action::Send, "/topic/a"));
        assert!(authorizer.may(7, || panic!("it is known"), Action::Send, "/topic/a"));
        assert!(!authorizer.may(NOBODY, Who::default, Action::Send, "/topic/a"));

        // The number is somebody else's.
        authorizer.release(7);
        assert!(!authorizer.may(7, || of("bob"), Action::Send, "/topic/a"));
        assert!(!authorizer.may(NOBODY, || panic!("it is known"), Action::Send, "/topic/a"));

        authorizer.release(7);
        assert!(authorizer.may(7, || of("ann"), Action::Send, "/topic/a"));
        authorizer.set_rules(rules("subscribe"));
        assert!(!authorizer.may(7, || of("ann"), Action::Send, "/topic/a"));
        assert!(authorizer.may(7, || of("ann"), Action::Subscribe, "/topic/a"));
        authorizer.check();
    }

    #[test]
    fn without_rules_nothing_is_asked_and_nothing_kept() {
        let mut authorizer = Authorizer::new(Arc::default(), 1);
        assert!(authorizer.may(7, || panic!("there are no rules"), Action::Manage, "/topic/a"));
        assert_eq!(authorizer.memory(), Part::default());
    }
}
