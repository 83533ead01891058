//! Terms of destinations: what `[[destination]]` says of the rooms that a pattern names.
//!
//! The first pattern that matches a room decides, also if it says that nothing is kept. Configuration is read elsewhere.
//!
//! Invariant: no pattern depends on who asks, as a room is the same for everybody.

use std::fmt;

use super::{BadPattern, RulePattern, Who};

/// What a room keeps: the last messages, within each of these bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Messages, 1 or more.
    pub messages_max: u32,
    /// Bytes of messages, with what each takes beside its contents. The last message is kept whatever it takes.
    pub bytes_max: u64,
    /// Seconds since a message was accepted; 0 does not bound it.
    pub age_max_s: u32,
}

/// The terms of the rooms of one pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Terms {
    pattern: RulePattern,
    /// `None` keeps nothing.
    retention: Option<Retention>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destinations(Vec<Terms>);

/// Why a pattern is none of rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOfRooms {
    /// It is no pattern.
    Bad(BadPattern),
    /// It names a value of who asks.
    HasValues,
    /// Queues, `/app/` and `/system/` keep no history.
    NoRoom,
}

impl fmt::Display for NotOfRooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotOfRooms::Bad(bad) => bad.fmt(f),
            NotOfRooms::HasValues => {
                f.write_str("a room is the same for everybody: there are no {login} and {claim.NAME} here, write * for any")
            }
            NotOfRooms::NoRoom => f.write_str("only /topic/ and /user/ are rooms, which may keep history"),
        }
    }
}

impl Destinations {
    /// Adds the terms of a pattern, behind those that are there.
    ///
    /// # Errors
    /// [`NotOfRooms`]: nothing was added.
    pub fn add(&mut self, pattern: &str, retention: Option<Retention>) -> Result<(), NotOfRooms> {
        let compiled = RulePattern::parse(pattern).map_err(NotOfRooms::Bad)?;
        if compiled.has_values() {
            return Err(NotOfRooms::HasValues);
        }
        if !pattern.starts_with("/topic/") && !pattern.starts_with("/user/") {
            return Err(NotOfRooms::NoRoom);
        }
        self.0.push(Terms { pattern: compiled, retention });
        Ok(())
    }

    /// Whether nothing is said of any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any room may keep something.
    pub fn keep_any(&self) -> bool {
        self.0.iter().any(|terms| terms.retention.is_some())
    }

    /// What the room with this key keeps; `None` if it keeps nothing.
    pub fn retention(&self, key: &str) -> Option<&Retention> {
        let nobody = Who::default();
        self.0.iter().find(|terms| terms.pattern.matches(key, &nobody))?.retention.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let kept = |messages_max| Retention { messages_max, bytes_max: 1, age_max_s: 0 };
        let mut destinations = Destinations::default();
        assert!(destinations.is_empty() && !destinations.keep_any());
        destinations.add("/topic/h/secret", None).unwrap();
        assert!(!destinations.keep_any());
        destinations.add("/topic/h/*", Some(kept(1))).unwrap();
        destinations.add("/topic/**", Some(kept(2))).unwrap();
        destinations.add("/user/*/queue/mail", Some(kept(3))).unwrap();
        assert!(destinations.keep_any());
        let messages = |key| destinations.retention(key).map(|kept| kept.messages_max);
        assert_eq!(messages("/topic/h/secret"), None);
        assert_eq!(messages("/topic/h/a"), Some(1));
        assert_eq!(messages("/topic/h/a/b"), Some(2));
        assert_eq!(messages("/user/ann/queue/mail"), Some(3));
        assert_eq!(messages("/user/ann/queue/other"), None);
        for (bad, why) in [
            ("/queue/a", NotOfRooms::NoRoom),
            ("/app/a", NotOfRooms::NoRoom),
            ("/system/events", NotOfRooms::NoRoom),
            ("/user/{login}/queue/a", NotOfRooms::HasValues),
            ("topic", NotOfRooms::Bad(BadPattern::UnknownPrefix)),
        ] {
            assert_eq!(destinations.add(bad, None), Err(why), "{bad}");
        }
    }
}
