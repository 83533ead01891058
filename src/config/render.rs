//! The effective configuration as TOML.
//!
//! It is printed from the catalogue of [`super::keys`] and the rules, so `tcbchat check` says what the program does. Nothing
//! is read or validated here.
//!
//! Invariant: the TOML, read again as a file, gives the same settings, but for a URL with a secret: what may be one is not
//! printed.

use std::fmt::Write as _;

use super::settings::{Origin, Settings};
use super::{destinations, keys, rules};
use crate::policy::Field;

/// Column at which comments wrap.
const WIDTH: usize = 100;

/// The effective configuration as a TOML file with comments: the meaning of each key, its permitted
/// values and, where it was said, where.
pub fn toml(settings: &Settings) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in settings.iter() {
        let key = setting.key;
        if key.section != section {
            section = key.section;
            let about =
                keys::SECTIONS.iter().find(|(name, _)| *name == section).map_or("", |(_, about)| about);
            let gap = if text.is_empty() { "" } else { "\n" };
            put(&mut text, format_args!("{gap}# {about}\n[{section}]\n"));
        }
        let origin = match &setting.origin {
            Origin::Default => String::new(),
            said => format!(" Set by {said}."),
        };
        comment(&mut text, &format!("{} Allowed: {}.{origin}", key.doc, key.allowed()));
        match &setting.value {
            Some(value) if value.without_secrets() != *value => {
                let known = value.without_secrets();
                put(&mut text, format_args!("# {} = {known} and what may be secret in it\n", key.name));
            }
            Some(value) => put(&mut text, format_args!("{} = {value}\n", key.name)),
            None => put(&mut text, format_args!("# {} is unset\n", key.name)),
        }
    }
    put_rules(&mut text, settings);
    put_destinations(&mut text, settings);
    text
}

/// The rules, behind all sections: a key that followed would be taken for one of the last rule.
fn put_rules(text: &mut String, settings: &Settings) {
    text.push('\n');
    comment(
        text,
        if settings.rules().is_empty() {
            "Rules: who may do what where. There are none, so everything is allowed."
        } else {
            "Rules: who may do what where. The first that fits decides; what none fits is refused."
        },
    );
    for written in settings.rules() {
        text.push('\n');
        comment(text, &format!("Set by {}.", written.origin));
        put(text, format_args!("[[{}]]\n", rules::TABLE));
        for field in Field::ALL {
            let list = written.rule.list(field);
            if !list.is_empty() {
                put(text, format_args!("{} = {}\n", field.name(), rules::toml_list(list)));
            }
        }
    }
}

/// What is said of destinations, behind the rules.
fn put_destinations(text: &mut String, settings: &Settings) {
    text.push('\n');
    comment(
        text,
        if settings.destinations().is_empty() {
            "Destinations: nothing is said of any, so no room keeps its past."
        } else {
            "Destinations: what rooms keep. The first pattern that fits decides."
        },
    );
    destinations::put(settings.destinations(), text, comment);
}

fn comment(text: &mut String, words: &str) {
    let mut column = WIDTH;
    for word in words.split_whitespace() {
        if column + 1 + word.len() > WIDTH {
            if text.ends_with(|last| last != '\n') {
                text.push('\n');
            }
            text.push('#');
            column = 1;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + word.len();
    }
    text.push('\n');
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{Flag, Sources};

    #[test]
    fn what_is_printed_reads_back_as_the_same_settings() {
        let flag = |key: &str, value: &str| Flag { flag: "--set", key: key.into(), value: value.into() };
        let sources = Sources {
            flags: vec![
                flag("tcb.capacity", "50000"),
                flag("auth.mode", "jwt,users"),
                flag("auth.users_file", "/etc/users"),
                flag("auth.keys_file", "a \"b\" \\ \u{e9}"),
                flag("auth.audience", "a, \"b\""),
                flag("http.origins", "https://*.example.com,http://[::1]:*,file://"),
                flag("http.client_header", "forwarded"),
                flag("listen.address", "0.0.0.0:80,[::]:80"),
            ],
            ..Sources::default()
        };
        let (config, settings) = crate::config::load(&sources).unwrap();
        let text = toml(&settings);
        assert!(text.contains("Set by --set.\ncapacity = 50000\n"), "{text}");

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("effective.toml");
        std::fs::write(&file, text).unwrap();
        let again = crate::config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
        assert_eq!(again.0, config);
    }

    #[test]
    fn secrets_are_not_printed() {
        let url = "https://me:hush@app.example/login?key=hush";
        let flag = |key: &str, value: &str| Flag { flag: "--set", key: key.into(), value: value.into() };
        let flags = vec![flag("auth.mode", "http"), flag("auth.http_url", url)];
        let (_, settings) = crate::config::load(&Sources { flags, ..Sources::default() }).unwrap();
        let text = toml(&settings);
        assert!(!text.contains("hush"), "{text}");
        assert!(text.contains("# http_url = \"https://app.example/login\" and what may"), "{text}");
    }

    #[test]
    fn the_defaults_read_back_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("defaults.toml");
        let text = toml(&Settings::new());
        assert!(text.lines().all(|line| line.len() <= WIDTH + 20), "{text}");
        std::fs::write(&file, text).unwrap();
        crate::config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
    }
}
