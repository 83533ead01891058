//! The doctor held to its word: for each case the forecast, then the real server in the same place, then the error.
//!
//! A case is a place (limits of a process, control groups, a namespace, a sandbox), a configuration and what is in use.
//! The doctor is asked there first; then the server is started there, and clients come until they are refused. The
//! forecast must be within 5 % of how many were served, and the wall that it named must be the one that was met.
//! Nothing is recorded: every limit is a real one, of processes and groups that end with the case. It takes root.
//!
//! `UPDATE_DOCS=1 cargo test --test doctor_cases` writes the table of `docs/DOCTOR.md` anew.

mod cases;
mod crowd;
mod outcome;
mod place;
mod server;
#[path = "../support/skipped.rs"]
#[allow(dead_code, reason = "this run's list is shown by another target")]
mod skipped;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use cases::cases;

/// Time that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

#[test]
fn the_doctor_is_held_to_its_word() {
    if !rustix::process::geteuid().is_root() {
        return skipped::note("limits of groups and namespaces take root");
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("the hard limit may be had");
    let only = std::env::var("CASE").unwrap_or_default();
    let mut table = String::from(
        "\n| case | options | forecast | wall | served | met | error |\n|---|---|---:|---|---:|---|---:|\n",
    );
    let (mut wrong, mut played) = (Vec::new(), 0);
    for case in cases().into_iter().filter(|case| case.name.contains(&only)) {
        let begin = case.row();
        // A namespace is a thread's.
        let outcome = thread::spawn(move || match netns::enter() {
            Ok(()) => outcome::play(&case),
            Err(error) => Err(error.to_string()),
        });
        let outcome = match outcome.join().expect("no case panics") {
            Ok(outcome) => outcome,
            Err(why) => {
                skipped::note(format_args!("{begin} {why}"));
                continue;
            }
        };
        played += 1;
        let line = format!(
            "{begin} {} | `{}` | {} | {} | {:+.1} % |",
            outcome.forecast,
            outcome.wall,
            outcome.served,
            if outcome.met.contains(' ') { outcome.met.to_owned() } else { format!("`{}`", outcome.met) },
            outcome.error(),
        );
        println!("{line}{}", if outcome.is_lost { " LOST SOMEBODY" } else { "" });
        writeln!(table, "{line}").expect("a String takes every text");
        if !outcome.holds() {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    if only.is_empty() && std::env::var_os("UPDATE_DOCS").is_some() {
        write_table(&table);
    }
}

/// Where the table is documented.
fn documentation() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "docs", "DOCTOR.md"].iter().collect()
}

/// Puts the table between its marks.
fn write_table(table: &str) {
    let text = fs::read_to_string(documentation()).expect("the documentation");
    let (begin, end) = ("<!-- begin: cases -->\n", "<!-- end: cases -->");
    let (head, rest) = text.split_once(begin).expect("a mark");
    let (_, tail) = rest.split_once(end).expect("a mark");
    fs::write(documentation(), format!("{head}{begin}{table}\n{end}{tail}")).expect("it can be written");
}

/// The documented table is of these cases.
#[test]
fn every_case_is_documented() {
    let text = fs::read_to_string(documentation()).unwrap();
    assert!(cases().len() >= 40);
    for case in cases() {
        assert!(text.contains(&case.row()), "{}", case.row());
    }
}
