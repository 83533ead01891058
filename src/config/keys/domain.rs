//! One key: what it may be, and its value.
//!
//! A value comes out of a text or a list of a source, and is one of the key's own domain, or none. Which keys there are is for
//! [`super`] to say.
//!
//! Invariant: a [`Value`] that a key gives out is one that the key accepts, and is printed so that it reads back.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

use super::ENVIRONMENT_PREFIX;
use crate::message::destination::Pattern;
use crate::net::address::Address;
use crate::services;
use crate::wire::http::OriginPattern;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Section of the file, without brackets.
    pub section: &'static str,
    /// Name inside the section.
    pub name: &'static str,
    /// What it is for, in one paragraph.
    pub doc: String,
    /// What it may be.
    pub domain: Domain,
}

/// The permitted values of a key, and its default.
#[derive(Debug)]
pub enum Domain {
    /// A whole number.
    Number {
        /// Value when nothing is said.
        default: u64,
        /// Values accepted, both ends included.
        range: RangeInclusive<u64>,
    },
    /// `true` or `false`.
    Switch {
        /// Value when nothing is said.
        default: bool,
    },
    /// One word of a list.
    Word {
        /// Value when nothing is said; `None` leaves the key unset.
        default: Option<&'static str>,
        /// Words accepted.
        allowed: &'static [&'static str],
    },
    /// One or more words of a list, in order.
    Words {
        /// Words accepted.
        allowed: &'static [&'static str],
    },
    /// A text of one line; not empty.
    Text {
        /// Value when nothing is said; `None` leaves the key unset.
        default: Option<&'static str>,
        /// What it is, in words.
        meaning: &'static str,
    },
    /// A URL, in which there may be a secret; unset when nothing is said.
    Url {
        /// One.
        example: &'static str,
    },
    /// The path of a file; unset when nothing is said.
    Path,
    /// A list of patterns of rooms.
    Patterns {
        /// Value when nothing is said.
        default: &'static str,
    },
    /// A list of IP addresses and networks; empty when nothing is said.
    Networks,
    /// A list of patterns of web origins; empty when nothing is said.
    Origins,
    /// A list of socket addresses.
    Addresses {
        /// Value when nothing is said; `None` leaves the key unset.
        default: Option<&'static str>,
    },
}

/// The value of a key, of the key's own domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of a [`Domain::Number`].
    Number(u64),
    /// Of a [`Domain::Switch`].
    Switch(bool),
    /// Of a [`Domain::Word`].
    Word(&'static str),
    /// Of a [`Domain::Words`]; at least one, none twice.
    Words(Vec<&'static str>),
    /// Of a [`Domain::Text`].
    Text(Box<str>),
    /// Of a [`Domain::Url`].
    Url(Box<str>),
    /// Of a [`Domain::Path`].
    Path(PathBuf),
    /// Of a [`Domain::Patterns`]; at least one.
    Patterns(Vec<Pattern>),
    /// Of a [`Domain::Networks`].
    Networks(Vec<IpNet>),
    /// Of a [`Domain::Origins`].
    Origins(Vec<OriginPattern>),
    /// Of a [`Domain::Addresses`]; at least one.
    Addresses(Vec<Address>),
}

impl Key {
    /// `section.name`, as messages and flags write it.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub fn environment_name(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}_{}", self.section, self.name).to_ascii_uppercase()
    }

    /// The value when nothing is said, if there is one.
    pub fn default(&self) -> Option<Value> {
        match &self.domain {
            Domain::Number { default, .. } => Some(Value::Number(*default)),
            Domain::Switch { default } => Some(Value::Switch(*default)),
            Domain::Word { default, .. } => default.map(Value::Word),
            Domain::Words { .. } | Domain::Url { .. } | Domain::Path => None,
            Domain::Text { default, .. } => default.and_then(|text| self.line(text)),
            Domain::Patterns { default } => self.patterns([*default]),
            Domain::Networks => Some(Value::Networks(Vec::new())),
            Domain::Origins => Some(Value::Origins(Vec::new())),
            Domain::Addresses { default } => default.and_then(|default| self.addresses([default])),
        }
    }

    /// The permitted values in words: `8 to 1024`, `"text" or "json"`.
    pub fn allowed(&self) -> String {
        match &self.domain {
            Domain::Number { range, .. } => format!("{} to {}", range.start(), range.end()),
            Domain::Switch { .. } => "true or false".into(),
            Domain::Word { allowed, .. } => quoted(allowed, " or "),
            Domain::Words { allowed } => {
                format!("one or more of {}, in the order in which they are asked", quoted(allowed, ", "))
            }
            Domain::Text { meaning, .. } => (*meaning).into(),
            Domain::Url { example } => format!("a URL, such as \"{example}\""),
            Domain::Path => "the path of a file".into(),
            Domain::Patterns { .. } => {
                "one or more destinations of rooms, a * at the end for all that begin so, such as \"/topic/prices.*\""
                    .into()
            }
            Domain::Networks => "IP addresses and networks, such as \"192.0.2.7\" or \"2001:db8::/32\"".into(),
            Domain::Origins => {
                "SCHEME://HOST with :PORT if it is not the scheme's, * for any port, and *. before a name for all below it, such \
                 as \"https://chat.example.com\", \"https://*.example.com\" or \"http://localhost:*\"; or \"*\" alone for all"
                    .into()
            }
            Domain::Addresses { .. } => {
                "one or more IP:PORT or unix:PATH, such as \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/tcbchat.sock\""
                    .into()
            }
        }
    }

    /// A number of this key; `None` if it is out of range or the key is not a number.
    pub fn number(&self, number: u64) -> Option<Value> {
        match &self.domain {
            Domain::Number { range, .. } if range.contains(&number) => Some(Value::Number(number)),
            _ => None,
        }
    }

    /// A switch position of this key; `None` if the key is no switch.
    pub fn switch(&self, on: bool) -> Option<Value> {
        matches!(self.domain, Domain::Switch { .. }).then_some(Value::Switch(on))
    }

    /// A word of this key; `None` if it is not one of the permitted ones.
    pub fn word(&self, word: &str) -> Option<Value> {
        match &self.domain {
            Domain::Word { allowed, .. } => {
                allowed.iter().find(|allowed| **allowed == word).map(|word| Value::Word(word))
            }
            _ => None,
        }
    }

    /// Words of this key; `None` if there are none, if one is not permitted or there twice, or if the key takes one word.
    pub fn words<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Value> {
        let Domain::Words { allowed } = self.domain else { return None };
        distinct(texts, |text| allowed.iter().find(|word| **word == text).copied()).map(Value::Words)
    }

    /// A text, a URL or a path of this key; `None` if it is empty or has control characters, or if the key takes none of them.
    pub fn line(&self, text: &str) -> Option<Value> {
        let is_line = !text.is_empty() && !text.contains(char::is_control);
        match self.domain {
            Domain::Text { .. } => is_line.then(|| Value::Text(text.into())),
            Domain::Url { .. } => is_line.then(|| Value::Url(text.into())),
            Domain::Path => is_line.then(|| Value::Path(text.into())),
            _ => None,
        }
    }

    /// Addresses of this key; `None` if there are none, if one is malformed or there twice, or if the
    /// key takes no addresses.
    pub fn addresses<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Value> {
        let Domain::Addresses { .. } = self.domain else { return None };
        distinct(texts, |text| text.parse().ok()).map(Value::Addresses)
    }

    /// Patterns of this key; `None` if there are none, if one is malformed or there twice, or if the key takes no
    /// patterns.
    pub fn patterns<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Value> {
        let Domain::Patterns { .. } = self.domain else { return None };
        distinct(texts, Pattern::parse).map(Value::Patterns)
    }

    /// Networks of this key; `None` if one is malformed or there twice, or if the key takes no networks.
    pub fn networks<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Value> {
        let Domain::Networks = self.domain else { return None };
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_none() {
            return Some(Value::Networks(Vec::new()));
        }
        distinct(texts, network).map(Value::Networks)
    }

    /// Origins of this key; `None` if one is malformed or there twice, if `*` is not alone, or if the key takes no origins.
    pub fn origins<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Option<Value> {
        let Domain::Origins = self.domain else { return None };
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_none() {
            return Some(Value::Origins(Vec::new()));
        }
        let origins = distinct(texts, |text| OriginPattern::parse(text).ok())?;
        let is_alone = origins.len() == 1 || !origins.iter().any(OriginPattern::is_all);
        is_alone.then_some(Value::Origins(origins))
    }

    /// The item for which a list is refused, and why, if that needs more words than what is allowed.
    pub fn wrong_item<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Option<(&'a str, &'static str)> {
        let texts: Vec<&str> = texts.into_iter().collect();
        let is_origins = match self.domain {
            Domain::Origins => true,
            Domain::Addresses { .. } | Domain::Networks | Domain::Patterns { .. } | Domain::Words { .. } => {
                false
            }
            _ => return None,
        };
        texts.iter().enumerate().find_map(|(at, text)| {
            let origin = is_origins.then(|| OriginPattern::parse(text));
            let is_same = |other: &&str| {
                other == text
                    || matches!(&origin, Some(origin @ Ok(_)) if OriginPattern::parse(other) == *origin)
            };
            let reason = match &origin {
                _ if texts[..at].iter().any(is_same) => "is there twice",
                Some(Ok(origin)) if origin.is_all() && texts.len() > 1 => "allows all, so it must be alone",
                Some(Err(bad)) => bad.reason(),
                _ => return None,
            };
            Some((*text, reason))
        })
    }

    /// The value that a flag or an environment variable spells: numbers may have underscores, lists are
    /// separated by commas. `None` if this key does not accept it.
    pub fn text(&self, text: &str) -> Option<Value> {
        match &self.domain {
            Domain::Number { .. } => {
                // `u64` would take a plus sign too; the file's numbers may have one as well.
                text.replace('_', "").parse().ok().and_then(|number| self.number(number))
            }
            Domain::Switch { .. } => text.parse().ok().and_then(|on| self.switch(on)),
            Domain::Word { .. } => self.word(text),
            Domain::Words { .. } => self.words(text.split(',').map(str::trim)),
            Domain::Text { .. } | Domain::Url { .. } | Domain::Path => self.line(text),
            Domain::Patterns { .. } => self.patterns(text.split(',').map(str::trim)),
            Domain::Networks => self.networks(text.split(',').map(str::trim).filter(|item| !item.is_empty())),
            Domain::Origins => self.origins(text.split(',').map(str::trim).filter(|item| !item.is_empty())),
            Domain::Addresses { .. } => self.addresses(text.split(',').map(str::trim)),
        }
    }
}

/// The items of a list; `None` if there are none, if one is malformed, or if one is there twice.
fn distinct<'a, T: PartialEq>(
    texts: impl IntoIterator<Item = &'a str>,
    parse: impl Fn(&'a str) -> Option<T>,
) -> Option<Vec<T>> {
    let mut items = Vec::new();
    for text in texts {
        let item = parse(text)?;
        if items.contains(&item) {
            return None;
        }
        items.push(item);
    }
    (!items.is_empty()).then_some(items)
}

/// A network, or an address as the network of itself.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address.to_canonical())))
        .ok()
}

/// Words in quotes.
fn quoted(words: &[&str], between: &str) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(between)
}

/// A text without control characters as TOML's basic string.
fn basic_string(f: &mut std::fmt::Formatter<'_>, text: &str) -> std::fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A list as TOML.
fn list(f: &mut std::fmt::Formatter<'_>, items: &[impl std::fmt::Display]) -> std::fmt::Result {
    let items: Vec<_> = items.iter().map(|item| format!("\"{item}\"")).collect();
    write!(f, "[{}]", items.join(", "))
}

impl Value {
    /// The value without what may be secret in it; the value itself if nothing is.
    pub fn without_secrets(&self) -> Value {
        match self {
            Self::Url(url) => Self::Url(services::auth::without_secrets(url).into()),
            value => value.clone(),
        }
    }
}

impl std::fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Words(words) => list(f, words),
            Self::Text(text) | Self::Url(text) => basic_string(f, text),
            Self::Path(path) => basic_string(f, &path.to_string_lossy()),
            Self::Patterns(patterns) => list(f, patterns),
            Self::Networks(networks) => list(f, networks),
            Self::Origins(origins) => list(f, origins),
            Self::Addresses(addresses) => list(f, addresses),
        }
    }
}
