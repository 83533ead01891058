//! Requests that are made twice and carried out once.
//!
//! A publication with an `Idempotency-Key` is remembered, with its answer, for `api.idempotency_window_s`. The same request with
//! the same key has that answer; it waits for it, if the first is under way. Another request with the key is refused. What had no
//! effect is forgotten, so that it can be tried again.
//!
//! Invariant: `weight` is the number of messages of all entries, each counted as one at least; entries are in the order of
//! their begin.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::listener::Answered;
use super::problem::Problem;

/// What came of the first request.
pub(super) type Outcome = Result<Answered, Problem>;

/// What is to be done with a request.
#[derive(Debug)]
pub(super) enum Begun {
    /// It is the first: its outcome goes to [`Window::end`] under this number.
    First(u64),
    /// Its outcome comes, or has come, here. `None` in it: not yet.
    Again(watch::Receiver<Option<Outcome>>),
    /// The key was used for another request.
    Other,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Of the path and the body.
    digest: u64,
    messages: u64,
    outcome: watch::Sender<Option<Outcome>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    entries: HashMap<Box<str>, Entry>,
    /// Keys by when they began; some of them are forgotten.
    order: VecDeque<(Instant, u64, Box<str>)>,
    weight: u64,
    weight_max: u64,
    age_max: Duration,
    next: u64,
    hasher: RandomState,
}

impl Window {
    /// Nothing is remembered, and at most `messages_max` messages for `age_max` will be.
    pub(super) fn new(messages_max: u64, age_max: Duration) -> Window {
        Window {
            entries: HashMap::new(),
            order: VecDeque::new(),
            weight: 0,
            weight_max: messages_max,
            age_max,
            next: 0,
            hasher: RandomState::new(),
        }
    }

    /// A request with this key begins. Returns how many keys were forgotten before their time for that.
    pub(super) fn begin(
        &mut self,
        key: &str,
        path: &str,
        body: &[u8],
        messages: u64,
        now: Instant,
    ) -> (Begun, u64) {
        let mut forgotten = 0;
        while let Some((begun, ..)) = self.order.front() {
            let is_old = now.saturating_duration_since(*begun) >= self.age_max;
            let is_known = self.entries.contains_key(key);
            if !is_old && (is_known || self.weight + messages.max(1) <= self.weight_max) {
                break;
            }
            forgotten += u64::from(self.forget_first() && !is_old);
        }
        let digest = self.hasher.hash_one((path, body));
        if let Some(entry) = self.entries.get(key) {
            let is_same = entry.digest == digest;
            let begun = if is_same { Begun::Again(entry.outcome.subscribe()) } else { Begun::Other };
            return (begun, forgotten);
        }
        let number = self.next;
        self.next += 1;
        let messages = messages.max(1);
        self.weight += messages;
        self.order.push_back((now, number, key.into()));
        let entry = Entry { number, digest, messages, outcome: watch::Sender::new(None) };
        self.entries.insert(key.into(), entry);
        (Begun::First(number), forgotten)
    }

    /// Takes out what is first in the order. Returns whether it was remembered still.
    fn forget_first(&mut self) -> bool {
        let Some((_, number, key)) = self.order.pop_front() else { return false };
        let is_it = self.entries.get(&key).is_some_and(|entry| entry.number == number);
        if is_it {
            self.remove(&key);
        }
        is_it
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.weight -= entry.messages;
        }
    }

    /// The request with this key and number has this outcome, and an effect or none. Nothing happens if it is forgotten.
    pub(super) fn end(&mut self, key: &str, number: u64, outcome: Outcome, has_effect: bool) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.number == number) else { return };
        // Those who wait for it have it, also of one that is forgotten.
        entry.outcome.send_replace(Some(outcome));
        if !has_effect {
            self.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered() -> Answered {
        Answered { status: 200, body: "{}".into() }
    }

    fn first(window: &mut Window, key: &str, now: Instant) -> u64 {
        match window.begin(key, "/v1/publish", b"a", 1, now) {
            (Begun::First(number), _) => number,
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn the_first_answer_is_repeated_and_waited_for() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        let number = first(&mut window, "k", now);
        let (Begun::Again(waiting), 0) = window.begin("k", "/v1/publish", b"a", 1, now) else { panic!() };
        assert_eq!(*waiting.borrow(), None);
        window.end("k", number, Ok(answered()), true);
        assert_eq!(*waiting.borrow(), Some(Ok(answered())));
        let (Begun::Again(again), 0) = window.begin("k", "/v1/publish", b"a", 1, now) else { panic!() };
        assert_eq!(*again.borrow(), Some(Ok(answered())));
        for (path, body) in [("/v1/publish", &b"b"[..]), ("/v1/publish/batch", b"a")] {
            assert!(matches!(window.begin("k", path, body, 1, now), (Begun::Other, 0)));
        }
    }

    #[test]
    fn what_is_refused_can_be_tried_again() {
        let (mut window, now) = (Window::new(10, Duration::from_secs(60)), Instant::now());
        let number = first(&mut window, "k", now);
        let (Begun::Again(waiting), _) = window.begin("k", "/v1/publish", b"a", 1, now) else { panic!() };
        window.end("k", number, Err(Problem::stopping()), false);
        assert_eq!(*waiting.borrow(), Some(Err(Problem::stopping())));
        let again = first(&mut window, "k", now);
        // The first one's end comes late, and is not that of the second.
        window.end("k", number, Ok(answered()), true);
        let (Begun::Again(waiting), _) = window.begin("k", "/v1/publish", b"a", 1, now) else { panic!() };
        assert_eq!(*waiting.borrow(), None);
        window.end("k", again, Ok(answered()), true);
        assert_eq!(window.weight, 1);
    }

    #[test]
    fn keys_are_forgotten_by_age_and_by_number() {
        let (mut window, now) = (Window::new(3, Duration::from_secs(60)), Instant::now());
        for key in ["a", "b", "c"] {
            first(&mut window, key, now);
        }
        let (begun, forgotten) = window.begin("d", "/v1/publish", b"a", 2, now);
        assert!(matches!(begun, Begun::First(_)) && forgotten == 2);
        assert_eq!((window.entries.len(), window.weight), (2, 3));
        // One that is known displaces nobody.
        assert!(matches!(window.begin("c", "/v1/publish", b"a", 1, now), (Begun::Again(_), 0)));
        let later = now + Duration::from_secs(60);
        assert!(matches!(window.begin("c", "/v1/publish", b"a", 1, later), (Begun::First(_), 0)));
        assert_eq!((window.entries.len(), window.order.len(), window.weight), (1, 1, 1));
        // More than all: it is remembered alone.
        assert!(matches!(window.begin("e", "/v1/publish", b"a", 9, later), (Begun::First(_), 1)));
        assert_eq!((window.entries.len(), window.weight), (1, 9));
    }
}
