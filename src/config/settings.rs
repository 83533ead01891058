//! The value of every key and where it came from: the sources laid over each other.
//!
//! Flags win over the environment, the environment over the file, the file over the profile, the profile over
//! the defaults. Every source
//! is read to its end and every problem noted, so that one start tells an operator of all mistakes at
//! once. Whether the values fit each other is for `check` to say.
//!
//! Invariant: there is exactly one setting for each key of the catalogue, and its value is one that the
//! key accepts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::destinations::WrittenDestination;
use super::keys::{self, ENVIRONMENT_PREFIX, Key, Value};
use super::rules::WrittenRule;
use super::{Problem, file, profile};

/// The environment variable that names the configuration file; the only one with the prefix that is no key.
pub const FILE_VARIABLE: &str = "TCBCHAT_CONFIG";

/// What a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file, if there is one.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// Values from the command line.
    pub flags: Vec<Flag>,
}

/// One value from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as typed (`--capacity`).
    pub flag: &'static str,
    /// The key that it sets, `section.name`.
    pub key: String,
    /// The value as typed.
    pub value: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was said.
    Default,
    /// The profile of this name.
    Profile(&'static str),
    /// The configuration file.
    File {
        /// Its path as given.
        file: Arc<str>,
        /// Line, from 1; 0 if the problem has none.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File { file, line: 0 } => f.write_str(file),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// The value of one key.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// Its value; `None` if it is unset and has no default.
    pub value: Option<Value>,
    /// Where the value came from.
    pub origin: Origin,
}

/// The values of all keys, the rules, and what is said of destinations.
#[derive(Debug, Clone)]
pub struct Settings {
    all: Vec<Setting>,
    rules: Vec<WrittenRule>,
    destinations: Vec<WrittenDestination>,
    passed_over: Vec<String>,
}

impl Settings {
    /// The defaults.
    pub fn new() -> Self {
        let setting = |key: &'static Key| Setting { key, value: key.default(), origin: Origin::Default };
        let all = keys::catalogue().iter().map(setting).collect();
        Self { all, rules: Vec::new(), destinations: Vec::new(), passed_over: Vec::new() }
    }

    /// Reads all sources. What is wrong with them is added to `problems`, and left out of the settings.
    pub fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut settings = Self::new();
        if let Some(path) = &sources.file {
            file::read(path, &mut settings, problems);
        }
        settings.read_environment(&sources.environment, problems);
        settings.read_flags(&sources.flags, problems);
        // Last, because only then is it known which one.
        profile::lay_under(&mut settings, problems);
        settings
    }

    fn read_environment(&mut self, variables: &[(OsString, OsString)], problems: &mut Vec<Problem>) {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if !name.starts_with(ENVIRONMENT_PREFIX) || name == FILE_VARIABLE {
                continue;
            }
            if is_service_link(&name) {
                self.passed_over.push(name.to_string());
                continue;
            }
            let origin = Origin::Environment(name.to_string());
            let Some(key) = keys::catalogue().iter().find(|key| key.environment_name() == name) else {
                problems.push(Problem::new(
                    origin,
                    format!(
                        "no key has this name; names are {ENVIRONMENT_PREFIX}<SECTION>_<KEY>, and `tcbchat check` \
                         lists all"
                    ),
                ));
                continue;
            };
            let value = value.to_string_lossy();
            self.put_text(key, &value, origin, problems);
        }
    }

    fn read_flags(&mut self, flags: &[Flag], problems: &mut Vec<Problem>) {
        for Flag { flag, key: path, value } in flags {
            let key = path.split_once('.').and_then(|(section, name)| keys::find(section, name));
            match key {
                Some(key) => self.put_text(key, value, Origin::Flag(flag), problems),
                None => problems.push(Problem::new(Origin::Flag(flag), unknown(path))),
            }
        }
    }

    fn put_text(&mut self, key: &'static Key, text: &str, origin: Origin, problems: &mut Vec<Problem>) {
        match key.text(text) {
            Some(value) => self.put(key, value, origin),
            None => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                problems.push(match key.wrong_item(items) {
                    Some((item, reason)) => Problem::item(origin, key, item, reason),
                    None => Problem::refused(origin, key, &format!("{text:?}")),
                });
            }
        }
    }

    /// Sets a key to a value that the key itself made.
    pub(super) fn put(&mut self, key: &'static Key, value: Value, origin: Origin) {
        for setting in &mut self.all {
            if std::ptr::eq(setting.key, key) {
                setting.value = Some(value);
                setting.origin = origin;
                return;
            }
        }
    }

    /// Takes over another's value of the same key.
    pub fn replace(&mut self, other: &Setting) {
        for setting in &mut self.all {
            if std::ptr::eq(setting.key, other.key) {
                *setting = other.clone();
            }
        }
    }

    /// The rules, in their order.
    pub fn rules(&self) -> &[WrittenRule] {
        &self.rules
    }

    /// What is said of destinations, in its order.
    pub fn destinations(&self) -> &[WrittenDestination] {
        &self.destinations
    }

    /// This instead.
    pub fn set_destinations(&mut self, destinations: Vec<WrittenDestination>) {
        self.destinations = destinations;
    }

    /// These rules instead.
    pub fn set_rules(&mut self, rules: Vec<WrittenRule>) {
        self.rules = rules;
    }

    /// Environment variables with the prefix that are no keys, and no mistakes: Kubernetes makes them for a service that
    /// is called `tcbchat`.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// All settings, in the order of the catalogue.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.all.iter()
    }

    /// The setting of a path such as `stomp.body_bytes_max`.
    ///
    /// # Panics
    /// If there is no such key: paths are written in this program, not by its users.
    pub fn get(&self, path: &str) -> &Setting {
        let found = self.all.iter().find(|setting| setting.key.path() == path);
        found.unwrap_or_else(|| panic!("no key {path}"))
    }

    /// The number of a key.
    ///
    /// # Panics
    /// If there is no such key, or it is no number.
    pub fn number(&self, path: &str) -> u64 {
        match self.get(path).value {
            Some(Value::Number(number)) => number,
            ref other => panic!("{path} is {other:?}, not a number"),
        }
    }

    /// The position of a switch.
    ///
    /// # Panics
    /// If there is no such key, or it is no switch.
    pub fn switch(&self, path: &str) -> bool {
        match self.get(path).value {
            Some(Value::Switch(on)) => on,
            ref other => panic!("{path} is {other:?}, not a switch"),
        }
    }

    /// The word of a key, if it is set.
    ///
    /// # Panics
    /// If there is no such key, or it is no word.
    pub fn word(&self, path: &str) -> Option<&'static str> {
        match self.get(path).value {
            Some(Value::Word(word)) => Some(word),
            None => None,
            ref other => panic!("{path} is {other:?}, not a word"),
        }
    }

    /// The words of a key, if it is set.
    ///
    /// # Panics
    /// If there is no such key, or it is no list of words.
    pub fn words(&self, path: &str) -> Option<&[&'static str]> {
        match &self.get(path).value {
            Some(Value::Words(words)) => Some(words),
            None => None,
            other => panic!("{path} is {other:?}, not words"),
        }
    }

    /// The text or URL of a key, if it is set.
    ///
    /// # Panics
    /// If there is no such key, or it is neither.
    pub fn line(&self, path: &str) -> Option<&str> {
        match &self.get(path).value {
            Some(Value::Text(text) | Value::Url(text)) => Some(text),
            None => None,
            other => panic!("{path} is {other:?}, not a text"),
        }
    }

    /// The path of a key, if it is set.
    ///
    /// # Panics
    /// If there is no such key, or it is no path.
    pub fn path(&self, path: &str) -> Option<&Path> {
        match &self.get(path).value {
            Some(Value::Path(file)) => Some(file),
            None => None,
            other => panic!("{path} is {other:?}, not a path"),
        }
    }

    /// The numbers of a section as their struct from [`crate::limits`].
    ///
    /// # Panics
    /// If the struct and the catalogue disagree about the section's numbers, which a test rules out.
    pub fn numbers<T: serde::de::DeserializeOwned>(&self, section: &str) -> T {
        let numbers: BTreeMap<&str, u64> = self
            .iter()
            .filter(|setting| setting.key.section == section)
            .filter_map(|setting| match setting.value {
                Some(Value::Number(number)) => Some((setting.key.name, number)),
                _ => None,
            })
            .collect();
        let entries =
            serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(numbers.into_iter());
        T::deserialize(entries).unwrap_or_else(|error| panic!("[{section}]: {error}"))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether Kubernetes gives a container this variable for a service of our name: `TCBCHAT_SERVICE_HOST`,
/// `TCBCHAT_SERVICE_PORT_HTTP`, `TCBCHAT_PORT_8080_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or_default();
    let is_port = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    rest == "SERVICE_HOST"
        || rest == "SERVICE_PORT"
        || rest.starts_with("SERVICE_PORT_")
        || rest == "PORT"
        || rest.strip_prefix("PORT_").is_some_and(is_port)
}

/// What is said of a path that is no key: the sections, or the keys of its section.
pub(super) fn unknown(path: &str) -> String {
    let section = path.split('.').next().unwrap_or(path);
    let names: Vec<_> =
        keys::catalogue().iter().filter(|key| key.section == section).map(|key| key.name).collect();
    if names.is_empty() {
        let sections: Vec<_> = keys::SECTIONS.iter().map(|(section, _)| *section).collect();
        format!("{path}: there is no section {section:?}; sections are {}", sections.join(", "))
    } else {
        format!("{path}: there is no such key; [{section}] has {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn flag(flag: &'static str, key: &str, value: &str) -> Flag {
        Flag { flag, key: key.into(), value: value.into() }
    }

    #[test]
    fn later_sources_win() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tcbchat.toml");
        std::fs::write(&file, "[tcb]\ncapacity = 1\npartitions = 1\nhash_buckets = 1\n").unwrap();
        let sources = Sources {
            file: Some(file),
            environment: environment(&[("TCBCHAT_TCB_CAPACITY", "2"), ("TCBCHAT_TCB_PARTITIONS", "2")]),
            flags: vec![flag("--capacity", "tcb.capacity", "3")],
        };
        let mut problems = Vec::new();
        let settings = Settings::read(&sources, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(settings.number("tcb.capacity"), 3);
        assert_eq!(settings.number("tcb.partitions"), 2);
        assert_eq!(settings.number("tcb.hash_buckets"), 1);
        assert_eq!(settings.get("tcb.capacity").origin, Origin::Flag("--capacity"));
        assert!(matches!(settings.get("tcb.hash_buckets").origin, Origin::File { line: 4, .. }));
    }

    #[test]
    fn every_mistake_is_told_with_its_origin() {
        let sources = Sources {
            file: None,
            environment: environment(&[
                ("PATH", "/bin"),
                ("TCBCHAT_CONFIG", "x.toml"),
                ("TCBCHAT_STOMP_BODY", "1"),
                ("TCBCHAT_LOG_FORMAT", "xml"),
                ("TCBCHAT_SERVICE_HOST", "10.0.0.1"),
                ("TCBCHAT_SERVICE_PORT_HTTP", "8080"),
                ("TCBCHAT_PORT", "tcp://10.0.0.1:8080"),
                ("TCBCHAT_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ]),
            flags: vec![
                flag("--listen", "listen.address", "127.0.0.1:1,127.0.0.1:1"),
                flag("--set", "stomp.body", "1"),
                flag("--capacity", "tcb.capacity", "many"),
            ],
        };
        let mut problems = Vec::new();
        let settings = Settings::read(&sources, &mut problems);
        assert_eq!(settings.passed_over().len(), 4);
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 5, "{texts:#?}");
        assert!(texts[0].starts_with("environment TCBCHAT_STOMP_BODY: no key has this name"), "{}", texts[0]);
        assert_eq!(
            texts[1],
            "environment TCBCHAT_LOG_FORMAT: log.format = \"xml\": allowed are \"text\" or \"json\""
        );
        assert_eq!(texts[2], "--listen: listen.address: \"127.0.0.1:1\" is there twice");
        assert!(
            texts[3]
                .starts_with("--set: stomp.body: there is no such key; [stomp] has refusals, head_bytes_max")
        );
        assert_eq!(texts[4], "--capacity: tcb.capacity = \"many\": allowed are 0 to 16777214");
    }
}
