//! What a run of tests has left out, so that it can be told at the end: libtest shows a test that was left out as passed,
//! and captures what it prints.
//!
//! The tests of one run are processes of one parent, cargo, so its number names the run.
//!
//! Invariant: a line that was noted is listed once, by the run that it belongs to.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::path::PathBuf;

fn file() -> PathBuf {
    std::env::temp_dir().join(format!("tcbchat-skipped-{}", parent_id()))
}

/// Notes that the calling test is left out, and says so where it can't be captured.
///
/// # Panics
/// When `CI` is `true`: nothing may be left out there.
pub fn note(reason: impl Display) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!in_ci, "CI may not skip: {reason}");
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    record(&line);
    // Nothing depends on it: the worst is a line that is not shown.
    drop(io::stderr().write_all(format!("SKIPPED {line}").as_bytes()));
}

/// Adds a line to the run's list.
pub fn record(line: &str) {
    let noted = File::options().create(true).append(true).open(file());
    // The same.
    drop(noted.and_then(|mut file| file.write_all(line.as_bytes())));
}

/// What was noted in this run until now, in order; it is forgotten.
pub fn take() -> Vec<String> {
    let lines = fs::read_to_string(file()).unwrap_or_default();
    // It need not be there.
    drop(fs::remove_file(file()));
    let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}
