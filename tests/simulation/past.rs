//! What a subscription that asked for the past must be told: the plainest form of `docs/PROTOCOL.md`.
//!
//! The first is the position; then come consecutive messages, but for what a marker names; then the last marker, and behind it
//! the message that follows the one it names.

use std::collections::{BTreeMap, HashMap};

use crate::model::{Model, SubscriptionId};

/// The marker that comes next.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
enum Stage {
    Position,
    Recovered,
    None,
}

/// What one subscription has been told so far.
pub struct Past {
    /// The position behind which it asked for all; `None` if it asked for the last messages.
    since: Option<(String, u64)>,
    stage: Stage,
    epoch: String,
    /// The message that must come next, if it is known.
    next: Option<u64>,
    /// It was told of a gap, or must be told that it did not get all.
    must_be_incomplete: bool,
    /// It did not get all, and was told so.
    pub is_incomplete: bool,
}

fn number(headers: &HashMap<&str, &str>, name: &str) -> u64 {
    headers[name].parse().expect("a number")
}

impl Past {
    /// It has asked for all behind a position, or for the last messages.
    pub fn asked(since: Option<(String, u64)>) -> Past {
        Past {
            since,
            stage: Stage::Position,
            epoch: String::new(),
            next: None,
            must_be_incomplete: false,
            is_incomplete: false,
        }
    }

    /// Whether it has heard of its position.
    pub fn has_begun(&self) -> bool {
        self.stage != Stage::Position
    }

    /// Whether it has all of the past that it gets.
    pub fn is_recovered(&self) -> bool {
        self.stage == Stage::None
    }

    /// A marker has come.
    pub fn marked(&mut self, headers: &HashMap<&str, &str>) {
        let missing = headers
            .get("missing-from")
            .map(|_| (number(headers, "missing-from"), number(headers, "missing-to")));
        assert!(missing.is_none_or(|(from, to)| from <= to));
        match headers["marker"] {
            "position" => {
                assert_eq!(self.stage, Stage::Position, "it comes first, and once");
                self.stage = Stage::Recovered;
                self.epoch = headers["epoch"].into();
                let head = number(headers, "sequence");
                if let Some((epoch, since)) = &self.since {
                    if *epoch == self.epoch {
                        assert!(*since <= head, "a position that was told is not ahead");
                        self.next = Some(since + 1);
                    } else {
                        self.must_be_incomplete = true;
                    }
                }
            }
            "gap" => {
                assert_eq!(self.stage, Stage::Recovered);
                self.must_be_incomplete = true;
                let (from, to) = missing.expect("a range");
                if headers["epoch"] == self.epoch && headers["reason"] != "epoch" {
                    assert!(self.next.is_none_or(|next| next == from), "{:?} is next, not {from}", self.next);
                }
                self.epoch = headers["epoch"].into();
                self.next = Some(to + 1);
            }
            "recovered" => {
                assert_eq!(self.stage, Stage::Recovered);
                self.stage = Stage::None;
                let last = number(headers, "sequence");
                let is_whole = headers["recovered"] == "true";
                assert!(is_whole || headers["recovered"] == "false");
                assert_eq!(is_whole, !headers.contains_key("reason"));
                assert!(!is_whole || !self.must_be_incomplete, "what was left out is not forgotten");
                if headers["epoch"] == self.epoch {
                    let is_there = self.next.is_none_or(|next| next == last + 1);
                    assert!(is_there || !is_whole, "{:?} is next, and the past ends at {last}", self.next);
                } else {
                    assert!(!is_whole, "an epoch that ended is told");
                    self.epoch = headers["epoch"].into();
                }
                self.next = Some(last + 1);
                self.is_incomplete = !is_whole;
            }
            other => panic!("unexpected {other}"),
        }
    }

    /// A message has come.
    pub fn received(&mut self, epoch: &str, sequence: u64) {
        assert_ne!(self.stage, Stage::Position, "the position comes first");
        if epoch != self.epoch {
            // A room may go between two pages, and with an empty past there is no range to name.
            assert!(self.stage == Stage::Recovered && sequence == 1, "another epoch, and nobody said so");
            (self.epoch, self.must_be_incomplete) = (epoch.into(), true);
        } else if let Some(next) = self.next {
            assert_eq!(sequence, next, "what is left out is told before");
        }
        self.next = Some(sequence + 1);
    }
}

/// A client asks for a subscription to a topic, of which it has these. A third of those that it numbers ask for the past: for
/// what is behind the position of another one, or for the last messages. Returns the headers for that, too.
pub fn ask(
    by: &str,
    topic: &str,
    number: u32,
    has: &BTreeMap<(String, String), SubscriptionId>,
    model: &mut Model,
) -> (SubscriptionId, String) {
    if !number.is_multiple_of(3) {
        return (model.subscribe(by, topic), String::new());
    }
    let other = has.iter().find(|((_, other), _)| other == topic);
    let since = other.and_then(|(_, id)| model.position(*id)).filter(|_| number.is_multiple_of(2));
    let headers = match &since {
        Some((epoch, sequence)) => format!("since:{epoch}\\c{sequence}\n"),
        None => format!("history:{}\n", number % 50),
    };
    (model.recover(by, topic, since), headers)
}

/// The same with the id of one that has just ended.
pub fn ask_again(before: SubscriptionId, number: u32, model: &mut Model) -> (SubscriptionId, String) {
    if !number.is_multiple_of(3) || !model.may_recover_again(before) {
        return (model.subscribe_again(before), String::new());
    }
    let since = model.position(before).filter(|_| number.is_multiple_of(2));
    let headers = match &since {
        Some((epoch, sequence)) => format!("since:{epoch}\\c{sequence}\n"),
        None => format!("history:{}\n", number % 50),
    };
    (model.recover_again(before, since), headers)
}
