//! What the configuration file says of destinations: `[[destination]]` tables, each with the lines that it stands on.
//!
//! As with rules, there are any number of them, their order counts, and they are in the file only. What they mean is
//! [`crate::policy::destinations`]'s to say.
//!
//! Invariant: a table that is kept has a pattern, and values in their ranges.

use std::fmt;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use super::settings::Origin;
use crate::limits::{KIB, MIB};
use crate::policy::destinations::{Destinations, Retention};

/// The name of the tables.
pub const TABLE: &str = "destination";

/// Words of the key `history`.
const OFF: &str = "off";
const MEMORY: &str = "memory";

/// A number of a table.
struct Number {
    name: &'static str,
    default: u64,
    range: RangeInclusive<u64>,
}

const MESSAGES: Number = Number { name: "history_messages", default: 1_000, range: 1..=16_777_216 };
const BYTES: Number = Number { name: "history_bytes", default: MIB, range: KIB..=1 << 40 };
const AGE: Number = Number { name: "history_age_s", default: 86_400, range: 0..=315_360_000 };

/// What a table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pattern: String,
    is_kept: bool,
    retention: Retention,
}

/// A table as the file has it.
#[derive(Debug, Clone)]
pub struct WrittenDestination {
    /// What it says.
    pub terms: Terms,
    /// Where it begins.
    pub origin: Origin,
    /// Where its pattern is.
    pattern_origin: Origin,
}

impl fmt::Display for Terms {
    /// As TOML, without the head of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Retention { messages_max, bytes_max, age_max_s } = self.retention;
        let pattern = self.pattern.replace('\\', "\\\\").replace('"', "\\\"");
        let word = if self.is_kept { MEMORY } else { OFF };
        write!(f, "pattern = \"{pattern}\"\nhistory = \"{word}\"\n")?;
        if self.is_kept {
            let numbers = [(MESSAGES, messages_max.into()), (BYTES, bytes_max), (AGE, age_max_s.into())];
            for (number, value) in numbers {
                writeln!(f, "{} = {value}", number.name)?;
            }
        }
        Ok(())
    }
}

/// Reads what the file has below the name of the tables. `origin` tells where a byte of the file is.
pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    origin: &impl Fn(usize) -> Origin,
    problems: &mut Vec<Problem>,
) -> Vec<WrittenDestination> {
    let items = value.get_ref().as_array();
    if items.is_none() {
        let text = format!("{TABLE}: each is a table of its own, [[{TABLE}]]");
        problems.push(Problem::new(origin(value.span().start), text));
    }
    let mut written = Vec::new();
    for item in items.into_iter().flatten() {
        let begin = origin(item.span().start);
        match item.get_ref().as_table() {
            Some(table) => written.extend(Reader { origin, problems }.table(table, begin)),
            None => problems.push(Problem::new(begin, format!("{TABLE}: each is a table with a pattern"))),
        }
    }
    written
}

struct Reader<'a, F> {
    origin: &'a F,
    problems: &'a mut Vec<Problem>,
}

impl<F: Fn(usize) -> Origin> Reader<'_, F> {
    fn table(&mut self, table: &DeTable<'_>, begin: Origin) -> Option<WrittenDestination> {
        let (mut pattern, mut is_kept) = (None, false);
        let mut retention = [MESSAGES.default, BYTES.default, AGE.default];
        let mut numbers = Vec::new();
        for (name, value) in table {
            let place = (self.origin)(name.span().start);
            let name = name.get_ref().as_ref();
            let number = [MESSAGES, BYTES, AGE].into_iter().position(|number| number.name == name);
            match (name, number, value.get_ref().as_str()) {
                ("pattern", _, Some(text)) => pattern = Some((text.to_owned(), place)),
                ("history", _, Some(OFF)) => is_kept = false,
                ("history", _, Some(MEMORY)) => is_kept = true,
                ("history", ..) => {
                    self.note(place, format!("history: allowed are \"{OFF}\" and \"{MEMORY}\""));
                }
                ("pattern", ..) => self.note(place, "pattern: a text such as \"/topic/*\"".into()),
                (_, Some(at), _) => {
                    if let Some(number) = self.number(&[MESSAGES, BYTES, AGE][at], value.get_ref(), &place) {
                        retention[at] = number;
                        numbers.push((name.to_owned(), place));
                    }
                }
                (_, None, _) => {
                    let text = "there is no such key; a destination has pattern, history, history_messages, \
                                history_bytes and history_age_s";
                    self.note(place, format!("{name}: {text}"));
                }
            }
        }
        if !is_kept {
            for (name, place) in numbers {
                self.note(place, format!("{name}: it says how much is kept, and history is \"{OFF}\""));
            }
        }
        let Some((pattern, pattern_origin)) = pattern else {
            self.note(begin, "pattern: which destinations are meant, such as \"/topic/*\"".into());
            return None;
        };
        let [messages, bytes_max, age] = retention;
        let retention = Retention { messages_max: messages as u32, bytes_max, age_max_s: age as u32 };
        Some(WrittenDestination {
            terms: Terms { pattern, is_kept, retention },
            origin: begin,
            pattern_origin,
        })
    }

    fn number(&mut self, number: &Number, value: &DeValue<'_>, place: &Origin) -> Option<u64> {
        let parsed = value
            .as_integer()
            .and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok());
        let found = parsed.filter(|value| number.range.contains(value));
        if found.is_none() {
            let (from, to) = (number.range.start(), number.range.end());
            self.note(place.clone(), format!("{}: allowed are {from} to {to}", number.name));
        }
        found
    }

    fn note(&mut self, place: Origin, text: String) {
        self.problems.push(Problem::new(place, format!("{TABLE}.{text}")));
    }
}

/// The terms that are written, compiled.
///
/// # Errors
/// Everything that is wrong with their patterns, each with its line.
pub(super) fn compile(written: &[WrittenDestination]) -> Result<Destinations, Vec<Problem>> {
    let (mut destinations, mut problems) = (Destinations::default(), Vec::new());
    for one in written {
        let Terms { pattern, is_kept, retention } = &one.terms;
        if let Err(bad) = destinations.add(pattern, is_kept.then_some(*retention)) {
            let text = format!("{TABLE}.pattern = {pattern:?}: {bad}");
            problems.push(Problem::new(one.pattern_origin.clone(), text));
        }
    }
    if problems.is_empty() { Ok(destinations) } else { Err(problems) }
}

/// The tables as TOML, each with where it was set.
pub(super) fn put(
    written: &[WrittenDestination],
    text: &mut String,
    mut comment: impl FnMut(&mut String, &str),
) {
    for one in written {
        text.push('\n');
        comment(text, &format!("Set by {}.", one.origin));
        *text += &format!("[[{TABLE}]]\n{}", one.terms);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::settings::{Settings, Sources};
    use crate::config::{Config, ConfigError, load, render};

    fn read_all(text: &str) -> Result<(Config, Settings), ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tcbchat.toml");
        std::fs::write(&file, text).unwrap();
        load(&Sources { file: Some(file), ..Sources::default() })
    }

    const TERMS: &str = r#"
[[destination]]
pattern = "/topic/h/secret"

[history]
bytes_max = 1048576

[[destination]]
pattern = "/topic/h/*"
history = "memory"
history_messages = 50
history_age_s = 0

[[rules]]
who = "anyone"
may = "send"
where = "**"
"#;

    #[test]
    fn terms_are_read_in_their_order_and_printed_as_they_were() {
        let (config, settings) = read_all(TERMS).unwrap_or_else(|error| panic!("{error}"));
        let kept = config.destinations.retention("/topic/h/a").unwrap();
        assert_eq!((kept.messages_max, kept.bytes_max, kept.age_max_s), (50, 1 << 20, 0));
        assert!(config.destinations.retention("/topic/h/secret").is_none());
        assert_eq!(config.history.bytes_max, 1 << 20);
        let printed = render::toml(&settings);
        assert!(
            printed.contains("tcbchat.toml:8.\n[[destination]]\npattern = \"/topic/h/*\"\n"),
            "{printed}"
        );
        let (again, _) = read_all(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.destinations, config.destinations);
        let (none, _) = read_all("destination = []\n").unwrap();
        assert!(none.destinations.is_empty());
    }

    #[test]
    fn each_mistake_has_its_line_and_its_remedy() {
        let problems = |text: &str| read_all(text).unwrap_err().to_string();
        let table = |lines: &str| problems(&format!("[[destination]]\n{lines}\n"));
        for (lines, want) in [
            ("history = \"memory\"", "tcbchat.toml:1: destination.pattern: which destinations are meant"),
            ("pattern = 1", "tcbchat.toml:2: destination.pattern: a text such as"),
            (
                "pattern = \"/queue/a\"",
                "tcbchat.toml:2: destination.pattern = \"/queue/a\": only /topic/ and /user/",
            ),
            ("pattern = \"/topic/{login}\"", "a room is the same for everybody"),
            (
                "pattern = \"/topic/a\"\nhistory = \"durable\"",
                "tcbchat.toml:3: destination.history: allowed are",
            ),
            (
                "pattern = \"/topic/a\"\nhistory_messages = 5",
                ":3: destination.history_messages: it says how much",
            ),
            (
                "pattern = \"/topic/a\"\nhistory = \"memory\"\nhistory_messages = 0",
                ":4: destination.history_messages: allowed are 1 to",
            ),
            (
                "pattern = \"/topic/a\"\nhistory = \"memory\"\nhistory_bytes = \"1\"",
                ":4: destination.history_bytes: allowed are 1024 to",
            ),
            ("pattern = \"/topic/a\"\nkeep = true", ":3: destination.keep: there is no such key"),
        ] {
            let found = table(lines);
            assert!(found.contains(want), "{lines}: {found}");
        }
        assert!(problems("destination = 1\n").contains("each is a table of its own, [[destination]]"));
        assert!(problems("destination = [1]\n").contains("each is a table with a pattern"));
    }
}
