//! Verdicts that were reached before.
//!
//! Each principal, action and destination has one place, found by a hash, and shares it with others: the last one keeps
//! it. A place has all three, so a verdict is never another's. Destinations that are longer than a place are not kept.
//!
//! Whether rules would still say so is for [`super::Authorizer`] to know.
//!
//! Invariant: `kept` is the number of places with a verdict.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::footprint::Part;
use crate::policy::Action;

/// Places: a power of two.
const PLACES: usize = 1_024;
/// Principals that are looked at together: a cache line of them.
const LINE: usize = 16;
/// Bytes of the longest destination that is kept: two UUIDs and their names. With what else a place has, two cache lines.
pub const KEY_BYTES_MAX: usize = 120;

/// One destination and action of a principal.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Place {
    key: [u8; KEY_BYTES_MAX],
    /// Bytes of the key; 0 where nothing is kept.
    key_bytes: u8,
    action: Action,
    is_allowed: bool,
}

const _: () = assert!(size_of::<Place>() == 128);
const _: () = assert!(PLACES.is_power_of_two() && KEY_BYTES_MAX <= u8::MAX as usize);

const EMPTY: Place =
    Place { key: [0; KEY_BYTES_MAX], key_bytes: 0, action: Action::Subscribe, is_allowed: false };

/// See the module.
#[derive(Debug)]
pub struct Cache {
    hasher: FixedState,
    /// Whose each place is. Beside the places, so that looking through all takes 4 KiB.
    principals: Box<[u32]>,
    /// None before the first verdict.
    places: Box<[Place]>,
    kept: usize,
}

impl Cache {
    /// Nothing is kept. `seed` must not be guessable by peers.
    pub fn new(seed: u64) -> Cache {
        let hasher = FixedState::with_seed(seed);
        Cache { hasher, principals: Box::default(), places: Box::default(), kept: 0 }
    }

    /// The verdict that is kept, or the one that `decide` reaches.
    pub fn verdict(
        &mut self,
        principal: u32,
        action: Action,
        key: &str,
        decide: impl FnOnce() -> bool,
    ) -> bool {
        let key = key.as_bytes();
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return decide();
        }
        if self.places.is_empty() {
            self.principals = vec![0; PLACES].into();
            self.places = vec![EMPTY; PLACES].into();
        }
        let at = self.hasher.hash_one((principal, action, key)) as usize % PLACES;
        let place = &mut self.places[at];
        let kept = &place.key[..usize::from(place.key_bytes)];
        if self.principals[at] == principal && place.action == action && kept == key {
            return place.is_allowed;
        }
        let is_allowed = decide();
        self.kept += usize::from(place.key_bytes == 0);
        self.principals[at] = principal;
        place.key[..key.len()].copy_from_slice(key);
        (place.key_bytes, place.action, place.is_allowed) = (key.len() as u8, action, is_allowed);
        is_allowed
    }

    /// Forgets what is kept of one principal.
    pub fn forget(&mut self, principal: u32) {
        if self.kept == 0 {
            return;
        }
        for (owners, places) in self.principals.chunks(LINE).zip(self.places.chunks_mut(LINE)) {
            // Without a branch for each, so that the compiler compares several at once: nearly all are others'.
            if !owners.iter().fold(false, |found, owner| found | (*owner == principal)) {
                continue;
            }
            let whose = owners.iter().zip(places);
            for (_, place) in whose.filter(|(owner, _)| **owner == principal) {
                self.kept -= usize::from(place.key_bytes > 0);
                place.key_bytes = 0;
            }
        }
    }

    /// Forgets everything, and gives the memory back.
    pub fn clear(&mut self) {
        (self.principals, self.places, self.kept) = (Box::default(), Box::default(), 0);
    }

    /// What it takes.
    pub fn memory(&self) -> Part {
        Part::array(self.kept, self.places.len(), size_of::<Place>() + size_of::<u32>())
    }

    /// Panics unless what is kept is counted.
    pub fn check(&self) {
        assert_eq!(self.principals.len(), self.places.len());
        assert_eq!(self.kept, self.places.iter().filter(|place| place.key_bytes > 0).count());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(cache: &mut Cache, principal: u32, action: Action, key: &str) -> Option<bool> {
        let mut is_asked = false;
        let before = cache.kept;
        let verdict = cache.verdict(principal, action, key, || {
            is_asked = true;
            false
        });
        assert!(is_asked || before == cache.kept);
        (!is_asked).then_some(verdict)
    }

    #[test]
    fn a_verdict_is_kept_for_its_principal_action_and_destination_alone() {
        let mut cache = Cache::new(1);
        assert_eq!(cache.memory(), Part::default(), "nothing was asked");
        assert!(cache.verdict(1, Action::Send, "/topic/a", || true));
        assert_eq!(cache.memory().used, 132);
        assert_eq!(cache.memory().reserved, 132 * 1_024);
        assert_eq!(kept(&mut cache, 1, Action::Send, "/topic/a"), Some(true));
        for (principal, action, key) in [
            (2, Action::Send, "/topic/a"),
            (1, Action::Subscribe, "/topic/a"),
            (1, Action::Send, "/topic/"),
            (1, Action::Send, "/topic/ab"),
        ] {
            assert_eq!(kept(&mut cache, principal, action, key), None);
        }
        cache.check();
    }

    #[test]
    fn what_is_too_long_is_asked_each_time() {
        let mut cache = Cache::new(1);
        let (most, more) = ("x".repeat(KEY_BYTES_MAX), "x".repeat(KEY_BYTES_MAX + 1));
        assert!(cache.verdict(1, Action::Send, &more, || true));
        assert_eq!(kept(&mut cache, 1, Action::Send, &more), None);
        assert_eq!(cache.memory(), Part::default());
        assert!(cache.verdict(1, Action::Send, &most, || true));
        assert_eq!(kept(&mut cache, 1, Action::Send, &most), Some(true));
    }

    #[test]
    fn many_principals_take_no_more_places_than_there_are() {
        let mut cache = Cache::new(1);
        for principal in 0..10_000 {
            cache.verdict(principal, Action::Send, "/topic/a", || true);
        }
        cache.check();
        assert!(cache.kept > PLACES * 9 / 10 && cache.kept <= PLACES, "{}", cache.kept);
        let before = cache.kept;
        cache.forget(9_999);
        assert_eq!(cache.kept, before - 1, "the last one is kept, and forgotten");
        assert_eq!(kept(&mut cache, 9_999, Action::Send, "/topic/a"), None);
    }

    proptest! {
        /// The truth is a number that changes with each release and each reload; a verdict is its parity.
        #[test]
        fn a_verdict_is_that_of_the_rules_and_the_principal_of_its_time(
            steps in prop::collection::vec((0u32..6, prop::sample::select(&Action::ALL[..]), 0usize..200, 0u8..20), 1..400),
            truths in prop::collection::vec(any::<u64>(), 400),
        ) {
            let mut cache = Cache::new(3);
            let mut incarnations = [0usize; 6];
            let mut reload = 0usize;
            for (principal, action, room, what) in steps {
                let key = format!("/topic/{}", "r".repeat(room));
                match what {
                    0 => {
                        cache.clear();
                        reload += 1;
                    }
                    1 | 2 => {
                        cache.forget(principal);
                        incarnations[principal as usize] += 7;
                    }
                    _ => {
                        let version = incarnations[principal as usize] + 31 * reload + room + action as usize;
                        let truth = truths[version % truths.len()] >> principal & 1 == 1;
                        prop_assert_eq!(cache.verdict(principal, action, &key, || truth), truth);
                        prop_assert_eq!(cache.verdict(principal, action, &key, || !truth), truth ^ (key.len() > KEY_BYTES_MAX));
                    }
                }
                cache.check();
            }
        }
    }
}
