//! STOMP: any cut gives the same result, and what is written is what is read, in every version.

use proptest::prelude::*;
use tcbchat::limits;
use tcbchat::wire::stomp::{Command, Version};

use crate::stomp_checks::{Item, Outcome, check, encode, read, read_one, run, small_limits, written};

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&Version::ALL[..])
}

/// Text with all that has to be escaped in it.
fn text() -> impl Strategy<Value = String> {
    let char = prop_oneof![
        6 => any::<char>().prop_filter("NUL cannot be written", |&c| c != '\0'),
        4 => prop::sample::select(&[':', '\\', '\n', '\r', ' ', 'n', 'c', 'r', 't'][..]),
    ];
    prop::collection::vec(char, 0..12).prop_map(|chars| chars.into_iter().collect())
}

fn item() -> impl Strategy<Value = Item> {
    let name = prop_oneof![text().prop_filter("a name", |name| !name.is_empty()), "[a-d]{1,2}"];
    let body = prop_oneof![
        Just(vec![]),
        prop::collection::vec(any::<u8>(), 0..60),
        "\\PC{0,20}".prop_map(String::into_bytes)
    ];
    (prop::sample::select(Command::ALL), prop::collection::vec((name, text()), 0..6), body).prop_map(
        |(command, headers, body)| {
            let body = if command.may_have_body() { body } else { Vec::new() };
            Item { command, headers, body }
        },
    )
}

fn chunks() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..4, 1usize..100], 1..5)
}

/// Bytes near to frames: pieces of them in a random order.
fn nearly_frames() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(Command::ALL).prop_map(|command| format!("{command}\n")),
        2 => prop::sample::select(Command::ALL).prop_map(|command| format!("{command}\r\n")),
        4 => "[a-c]{1,2}:[a-z:\\\\ ]{0,5}\r?\n",
        3 => "content-length:[0-9 ]{1,2}\r?\n",
        2 => prop::sample::select(&["destination:/topic/a\n", "x:\\c\\n\\\\\n", "y:\\r\r\n", "a:b\rc\n", "accept-version:1.2\n", "k:\\t\n"][..]).prop_map(str::to_owned),
        4 => "\r?\n",
        5 => "[\0]{1,2}",
        3 => "\\PC{0,60}",
        2 => "\\PC{0,20}\0\n",
    ];
    let wrong = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (prop::collection::vec(piece, 0..12), wrong).prop_map(|(pieces, wrong)| {
        let mut bytes = pieces.concat().into_bytes();
        for (at, byte) in wrong {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_frame_is_read_as_it_was_written(item in item(), version in version()) {
        let mut expected = written(&item, version);
        if !expected.body.is_empty() {
            expected.headers.push(("content-length".to_owned(), expected.body.len().to_string()));
        }
        prop_assert_eq!(read_one(&encode(&item, version), version, &limits::Stomp::default()), expected);
    }

    #[test]
    fn version_1_2_loses_nothing(item in item()) {
        let is_escaped = !matches!(item.command, Command::Connect | Command::Stomp | Command::Connected);
        prop_assert!(!is_escaped || written(&item, Version::V12) == item);
    }

    #[test]
    fn frames_follow_each_other_in_any_cut(
        all in prop::collection::vec((item(), prop::sample::select(&["", "\n", "\r\n\n"][..])), 0..5),
        version in version(),
        chunks in chunks(),
    ) {
        let limits = limits::Stomp::default();
        let bytes: Vec<u8> = all.iter().flat_map(|(item, eols)| [&encode(item, version)[..], eols.as_bytes()].concat()).collect();
        let outcome = read(version, &bytes, &chunks, &limits);
        let items: Vec<Item> = all.iter().map(|(item, _)| read_one(&encode(item, version), version, &limits)).collect();
        let beat_bytes = all.iter().map(|(_, eols)| eols.len()).sum();
        prop_assert_eq!(outcome, Outcome { items, beat_bytes, error: None });
    }

    #[test]
    fn nearly_frames_give_the_same_in_any_cut(bytes in nearly_frames(), version in version(), chunks in chunks(), small: bool) {
        let limits = if small { small_limits() } else { limits::Stomp::default() };
        check(version, &bytes, &chunks, &limits);
    }

    #[test]
    fn any_bytes_give_the_same_in_any_cut(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        run(&bytes);
    }
}
