//! `bench footprint --logins`: what it adds to an idle session that the server knows who it is.
//!
//! Three servers in turn: in open mode, where all sessions log in with one token, and where each has a token of its own. All
//! tokens expire, so each session that has one has a deadline, too. It is the growth of a real server, as without `--logins`.
//!
//! Invariant: a difference is one of servers of the same round.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;
use tcbchat_bench::{Spread, show, write_json};

use super::{Args, ROOM_PREFIX, grown};
use crate::goals::{self, Goal};
use crate::issuer::{Issuer, Proof};
use crate::process::{Hold, Programs};

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
const SCHEMA: &str = "tcbchat.footprint-logins/1";

/// Who the sessions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Logins {
    /// Nobody asks.
    Open,
    /// All one.
    Shared,
    /// Each another.
    Own,
}

impl Logins {
    const ALL: [Logins; 3] = [Logins::Open, Logins::Shared, Logins::Own];

    fn name(self) -> &'static str {
        match self {
            Logins::Open => "open mode",
            Logins::Shared => "one login for all",
            Logins::Own => "a login each",
        }
    }

    /// Bytes that it may add, by the project's promise.
    fn bytes_max(self) -> Option<f64> {
        match self {
            Logins::Open => None,
            Logins::Shared => Some(16.0),
            Logins::Own => Some(96.0),
        }
    }

    /// How many tokens there are.
    fn tokens(self, connections: u32) -> u32 {
        match self {
            Logins::Open => 0,
            Logins::Shared => 1,
            Logins::Own => connections,
        }
    }
}

/// One server.
#[derive(Debug, Serialize)]
struct Run {
    round: u32,
    logins: Logins,
    /// Growth of the server's proportional set size for each session.
    user_bytes: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    connections: u32,
    room_size: u32,
    runs: Vec<Run>,
    goals: Vec<Goal>,
}

/// Measures, prints, and writes the file that was asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let programs = Programs::find()?;
    let issuer = Issuer::new()?;
    let mut runs = Vec::new();
    for round in 1..=args.runs {
        for logins in Logins::ALL {
            eprintln!("{} sessions, {}, run {round} of {}", args.connections, logins.name(), args.runs);
            let user_bytes = measure(&programs, args, &issuer, logins)?;
            runs.push(Run { round, logins, user_bytes });
        }
    }
    let goals = goals(&runs);
    let report = Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        connections: args.connections,
        room_size: args.room_size,
        runs,
        goals,
    };
    let written = args.json.as_deref().map_or(Ok(()), |path| write_json(path, &report));
    written.and(show(&markdown(&report))).and(args.goals.judge(&report.goals))
}

fn measure(programs: &Programs, args: &Args, issuer: &Issuer, logins: Logins) -> Result<f64, String> {
    let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
    let path = directory.path().join("tokens");
    let count = logins.tokens(args.connections);
    write_tokens(issuer, count, &path)?;
    let hold = Hold {
        connections: args.connections,
        room_size: args.room_size,
        room_prefix: ROOM_PREFIX,
        seconds: args.hold,
        tokens: (count > 0).then_some(&*path),
    };
    let settings = if count > 0 { issuer.settings() } else { Vec::new() };
    let capacity = args.capacity.unwrap_or(args.connections);
    let (_, measured) = grown(programs, &hold, capacity, &settings)?;
    Ok(measured.user_bytes)
}

/// So many tokens, a line each.
fn write_tokens(issuer: &Issuer, count: u32, path: &Path) -> Result<(), String> {
    let mut text = String::new();
    for n in 0..count {
        // It is checked faster than others, and what is kept of it is the same.
        text += &issuer.token(Proof::Hs256, &format!("user-{n:07}"))?;
        text.push('\n');
    }
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn bytes(runs: &[Run], logins: Logins) -> Vec<f64> {
    runs.iter().filter(|run| run.logins == logins).map(|run| run.user_bytes).collect()
}

/// What it adds to open mode, of each round.
fn added(runs: &[Run], logins: Logins) -> Option<Spread> {
    let open = bytes(runs, Logins::Open);
    let added: Vec<f64> =
        bytes(runs, logins).iter().zip(&open).map(|(with, without)| with - without).collect();
    Spread::of(&added)
}

fn goals(runs: &[Run]) -> Vec<Goal> {
    let goal = |logins: Logins| {
        let what = format!("bytes that {} adds to an idle session", logins.name());
        logins.bytes_max().map(|at_most| Goal::new(what, at_most, added(runs, logins)))
    };
    Logins::ALL.into_iter().filter_map(goal).collect()
}

fn markdown(report: &Report) -> String {
    let mut text = format!(
        "\n| {} idle sessions in rooms of {} | user bytes each | to open mode |\n|---|---|---|\n",
        report.connections, report.room_size
    );
    for logins in Logins::ALL {
        let cell = |spread: Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| spread.cell(1));
        let added = added(&report.runs, logins).filter(|_| logins != Logins::Open);
        // Writing to a string does not fail.
        writeln!(
            text,
            "| {} | {} | {} |",
            logins.name(),
            cell(Spread::of(&bytes(&report.runs, logins))),
            cell(added)
        )
        .ok();
    }
    text + &goals::table(&report.goals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_login_adds_is_the_difference_of_a_round() {
        let bytes = [(1, [180.0, 190.0, 280.0]), (2, [182.0, 196.0, 276.0]), (3, [181.0, 198.0, 270.0])];
        let runs: Vec<Run> = bytes
            .into_iter()
            .flat_map(|(round, bytes)| {
                Logins::ALL.into_iter().zip(bytes).map(move |(logins, user_bytes)| Run {
                    round,
                    logins,
                    user_bytes,
                })
            })
            .collect();
        let goals = goals(&runs);
        let (connections, room_size) = (200_000, 100);
        let text = markdown(&Report { schema: SCHEMA, version: "", connections, room_size, runs, goals });
        for line in [
            "| open mode | 181.0 (180.0-182.0) | - |\n",
            "| one login for all | 196.0 (190.0-198.0) | 14.0 (10.0-17.0) |\n",
            "adds to an idle session | 96 | 94.00 (89.00-100.00) | yes |\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
