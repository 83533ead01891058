//! Replays the committed corpus of every fuzz target, so that what a fuzzer once found stays found without one.
//!
//! Does not make up inputs: that is for `cargo fuzz` and the property tests.
//!
//! Invariant: every directory of `fuzz/corpus` has its target here, and inputs.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../fuzz/checks/http.rs"]
mod http;
#[path = "../fuzz/checks/policy.rs"]
mod policy;
#[path = "../fuzz/checks/stomp.rs"]
mod stomp;
#[path = "../fuzz/checks/tokens.rs"]
mod tokens;
#[path = "../fuzz/checks/ws.rs"]
mod ws;

/// A target and the function that the fuzzer calls for it.
type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("http", http::run),
    ("policy", policy::run),
    ("stomp", stomp::run),
    ("tokens", tokens::run),
    ("ws", ws::run),
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let listing = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut entries: Vec<PathBuf> = listing.map(|entry| entry.expect("a directory entry").path()).collect();
    entries.sort();
    entries
}

#[test]
fn every_input_of_the_corpus_passes() {
    for (name, run) in TARGETS {
        let inputs = entries(&corpus().join(name));
        assert!(!inputs.is_empty(), "no inputs for {name}");
        for input in inputs {
            let data = fs::read(&input).expect("an input can be read");
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&data)));
            assert!(outcome.is_ok(), "{} fails", input.display());
        }
    }
}

#[test]
fn every_corpus_has_its_target() {
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let directories: Vec<String> = entries(&corpus())
        .iter()
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(directories, names);
}
