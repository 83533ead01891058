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

/// See the module.
pub struct Past {
    /// The position behind which it asked for all; `None` if it asked for the last messages.
    since: Option<(String, u64)>,
    stage: Stage,
    epoch: String,
    /// The message that must come next, if it is known.
    next: Option<u64>,
    /// What was left out so far without a word.
    untold: Vec<(u64, u64)>,
    /// What it did not get, and was told so.
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
            untold: Vec::new(),
            is_incomplete: false,
        }
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
                if let Some((epoch, since)) = &self.since
                    && *epoch == self.epoch
                {
                    assert!(*since <= head, "a position that was told is not ahead");
                    self.next = Some(since + 1);
                }
            }
            "gap" => {
                assert_eq!(self.stage, Stage::Recovered);
                self.is_incomplete = true;
                if headers["reason"] == "epoch" {
                    // The room has begun anew between two pages.
                    self.next = None;
                    self.untold.clear();
                } else {
                    let (from, to) = missing.expect("a range");
                    if let Some(next) = self.next {
                        assert!(next <= from, "a gap is behind what came");
                        if next < from {
                            self.untold.push((next, from - 1));
                        }
                    }
                    self.next = Some(to + 1);
                }
            }
            "recovered" => {
                assert_eq!(self.stage, Stage::Recovered);
                self.stage = Stage::None;
                let last = number(headers, "sequence");
                if headers["epoch"] == self.epoch {
                    if let Some(next) = self.next
                        && next <= last
                    {
                        self.untold.push((next, last));
                    }
                } else {
                    assert!(self.is_incomplete, "an epoch that ended was told");
                    self.epoch = headers["epoch"].into();
                }
                self.next = Some(last + 1);
                let is_whole = headers["recovered"] == "true";
                assert_eq!(is_whole, !headers.contains_key("reason"));
                assert!(is_whole || headers["recovered"] == "false");
                assert!(!is_whole || !self.is_incomplete, "a gap is not forgotten");
                self.is_incomplete |= !is_whole;
                for (from, to) in self.untold.drain(..) {
                    let is_told = missing.is_some_and(|missing| missing.0 <= from && to <= missing.1);
                    assert!(is_told, "{from} to {to} was left out, and {missing:?} was told");
                }
            }
            other => panic!("unexpected {other}"),
        }
    }

    /// A message has come.
    pub fn received(&mut self, epoch: &str, sequence: u64) {
        assert_ne!(self.stage, Stage::Position, "the position comes first");
        if epoch != self.epoch {
            // Where a subscription has begun, its room stays.
            assert!(
                self.stage == Stage::Recovered && self.is_incomplete,
                "another epoch, and nobody said so"
            );
            (self.epoch, self.next) = (epoch.into(), None);
        }
        if let Some(next) = self.next {
            assert!(next <= sequence, "{sequence} came before, {next} is next");
            if next < sequence {
                assert_eq!(self.stage, Stage::Recovered, "{next} is next, and {sequence} comes");
                self.untold.push((next, sequence - 1));
            }
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
