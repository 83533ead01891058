//! The configuration file: TOML text onto [`Settings`], each value with its line.
//!
//! The document is walked by hand and not by deserialising it, so that a mistake costs one message with
//! its line, key, value and permitted values, and the rest of the file is still read. Text that is not
//! TOML yields all the errors the parser finds.
//!
//! Invariant: a file can set nothing that the catalogue of keys does not have, rules and destinations aside.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use super::keys::{self, Key, Value};
use super::settings::{Origin, Settings, unknown};
use super::{destinations, rules};

/// Reads the file into the settings. What is wrong with it is added to `problems`.
pub(super) fn read(path: &Path, settings: &mut Settings, problems: &mut Vec<Problem>) {
    let name: Arc<str> = path.to_string_lossy().into();
    match std::fs::read_to_string(path) {
        Ok(text) => read_text(&name, &text, settings, problems),
        Err(error) => problems.push(Problem::new(Origin::File { file: name, line: 0 }, error.to_string())),
    }
}

/// Reads the text of a file, which messages call `name`, into the settings.
pub(super) fn read_text(name: &str, text: &str, settings: &mut Settings, problems: &mut Vec<Problem>) {
    Reader { name: name.into(), text, settings, problems }.read();
}

struct Reader<'a> {
    name: Arc<str>,
    text: &'a str,
    settings: &'a mut Settings,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn read(mut self) {
        let first = self.problems.len();
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let origin = self.origin(error.span().map_or(0, |span| span.start));
            self.problems.push(Problem::new(origin, error.message().to_owned()));
        }
        for (section, value) in document.get_ref() {
            let name = section.get_ref().as_ref();
            if name == rules::TABLE {
                let mut found = Vec::new();
                self.settings.set_rules(rules::read(value, &|byte| self.origin(byte), &mut found));
                self.problems.append(&mut found);
                continue;
            }
            if name == destinations::TABLE {
                let mut found = Vec::new();
                let read = destinations::read(value, &|byte| self.origin(byte), &mut found);
                self.settings.set_destinations(read);
                self.problems.append(&mut found);
                continue;
            }
            match value.get_ref() {
                DeValue::Table(table) if keys::SECTIONS.iter().any(|(known, _)| *known == name) => {
                    self.read_section(name, table);
                }
                DeValue::Table(_) => self.note(section, unknown(name)),
                _ => self.note(section, format!("{name}: a key must stand in a section")),
            }
        }
        // The parser sorts tables by name; people read from top to bottom.
        self.problems[first..].sort_by_key(|problem| match problem.origin {
            Origin::File { line, .. } => line,
            _ => 0,
        });
    }

    fn read_section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let Some(key) = keys::find(section, name.get_ref()) else {
                self.note(name, unknown(&format!("{section}.{}", name.get_ref())));
                continue;
            };
            let origin = self.origin(name.span().start);
            match accepted(key, value.get_ref()) {
                Some(value) => self.settings.put(key, value, origin),
                None => {
                    let items = value.get_ref().as_array().into_iter().flatten();
                    let items = items.filter_map(|item| item.get_ref().as_str());
                    let written = self.text.get(value.span()).unwrap_or_default();
                    // A list of one may be written without brackets.
                    let items = items.chain(value.get_ref().as_str());
                    self.problems.push(match key.wrong_item(items) {
                        Some((item, reason)) => Problem::item(origin, key, item, reason),
                        None => Problem::refused(origin, key, written),
                    });
                }
            }
        }
    }

    fn note<T>(&mut self, place: &Spanned<T>, text: String) {
        let origin = self.origin(place.span().start);
        self.problems.push(Problem::new(origin, text));
    }

    fn origin(&self, byte: usize) -> Origin {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::File { file: Arc::clone(&self.name), line }
    }
}

/// The value as the key accepts it.
fn accepted(key: &Key, value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::Integer(integer) => {
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|number| key.number(number))
        }
        DeValue::Boolean(on) => key.switch(*on),
        // A list of one may be written without brackets.
        DeValue::String(text) => key
            .word(text)
            .or_else(|| key.words([text.as_ref()]))
            .or_else(|| key.line(text))
            .or_else(|| key.addresses([text.as_ref()]))
            .or_else(|| key.networks([text.as_ref()]))
            .or_else(|| key.origins([text.as_ref()]))
            .or_else(|| key.patterns([text.as_ref()])),
        DeValue::Array(values) => {
            let texts: Option<Vec<&str>> = values.iter().map(|value| value.get_ref().as_str()).collect();
            let texts = texts?;
            key.words(texts.iter().copied())
                .or_else(|| key.addresses(texts.iter().copied()))
                .or_else(|| key.networks(texts.iter().copied()))
                .or_else(|| key.origins(texts.iter().copied()))
                .or_else(|| key.patterns(texts))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> (Settings, Vec<String>) {
        let mut settings = Settings::new();
        let mut problems = Vec::new();
        read_text("t.toml", text, &mut settings, &mut problems);
        (settings, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_origin_that_can_match_no_page_is_named() {
        let (_, problems) = read_all("http.origins = [\"https://a\", \"https://b/\"]\n");
        let expected = "t.toml:1: http.origins: \"https://b/\" can match no page: an origin ends behind host and port, without \
                        a slash";
        assert_eq!(problems, [expected]);
        let (_, problems) = read_all("[http]\norigins = \"null\"\n");
        assert!(problems[0].starts_with("t.toml:2: http.origins: \"null\" is an origin"), "{problems:?}");
        let (settings, problems) = read_all("[http]\norigins = \"*\"\nclient_header = \"forwarded\"\n");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(settings.get("http.origins").value.clone().unwrap().to_string(), "[\"*\"]");
    }

    #[test]
    fn values_of_every_domain() {
        let (settings, problems) = read_all(
            "listen.address = [\"0.0.0.0:80\", \"[::]:80\"]\n\
             [websocket]\nframe_bytes_max = 0x10_0000\n[echo]\nenabled = true\n[auth]\nmode = \"open\"\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(settings.number("websocket.frame_bytes_max"), 1 << 20);
        assert!(settings.switch("echo.enabled"));
        assert_eq!(settings.words("auth.mode"), Some(&["open"][..]));
        let address = settings.get("listen.address").value.clone().unwrap();
        assert_eq!(address.to_string(), "[\"0.0.0.0:80\", \"[::]:80\"]");

        let (settings, problems) =
            read_all("[auth]\nmode = [\"jwt\", \"users\"]\nusers_file = 'u\\v'\nissuer = \"a, b\"\n");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(settings.words("auth.mode"), Some(&["jwt", "users"][..]));
        assert_eq!(settings.path("auth.users_file"), Some(Path::new("u\\v")));
        assert_eq!(settings.line("auth.issuer"), Some("a, b"));
        assert_eq!((settings.path("auth.keys_file"), settings.line("auth.login_claim")), (None, Some("sub")));

        let (settings, problems) = read_all("[listen]\naddress = \"127.0.0.1:9\"\n");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(settings.get("listen.address").value.clone().unwrap().to_string(), "[\"127.0.0.1:9\"]");
    }

    #[test]
    fn every_mistake_has_its_line_and_the_rest_is_read() {
        let (settings, problems) = read_all(
            "top = 1\n[stomp]\nheaders_max = 1\nhead_bytes_max = \"big\"\nbody = 5\nsubscriptions_max = 9\n\
             [chat]\nx = 1\n[listen]\naddress = [\"localhost:80\"]\nbacklog = -1\n",
        );
        assert_eq!(settings.number("stomp.subscriptions_max"), 9);
        let expected = [
            "t.toml:1: top: a key must stand in a section",
            "t.toml:3: stomp.headers_max = 1: allowed are 8 to 1024",
            "t.toml:4: stomp.head_bytes_max = \"big\": allowed are 256 to 1048576",
            "t.toml:5: stomp.body: there is no such key; [stomp] has refusals, head_bytes_max",
            "t.toml:7: chat: there is no section \"chat\"; sections are profile, listen, http, auth",
            "t.toml:10: listen.address = [\"localhost:80\"]: allowed are one or more IP:PORT or unix:PATH",
            "t.toml:11: listen.backlog = -1: allowed are 1 to 65535",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    #[test]
    fn text_that_is_not_toml() {
        let (_, problems) = read_all("[tcb]\ncapacity = = 3\n");
        assert!(problems.iter().any(|problem| problem.starts_with("t.toml:2: ")), "{problems:#?}");
    }
}
