//! `bench guard`: fails when a path takes more instructions, or an idle connection more memory, than is kept in
//! [`KEPT`].
//!
//! Instructions are counted and not timed, because a count is the same on a busy machine. valgrind's callgrind counts
//! them, one process for each path ([`callgrind`]); memory is the growth of a real server, as `bench footprint` has it.
//! The numbers, and what may be added to them, are in one file ([`kept`]).
//!
//! Invariant: what could not be counted is never taken as good: it is said, and in CI it is a failure.

mod callgrind;
mod kept;
mod paths;

use std::path::{Path, PathBuf};
use std::process::Command;

use tcbchat_bench::show;

use crate::footprint;
use crate::process::{Hold, Programs};
use callgrind::Callgrind;
use kept::{Bytes, Kept, MadeWith, Verdict};

/// The file, from the root of the repository.
const KEPT: &str = "bench/guard.toml";
/// The command that runs this.
const COMMAND: &str = "cargo run --release -p tcbchat-bench -- guard";
/// Sessions of the server whose memory is measured.
const CONNECTIONS: u32 = 20_000;
/// Servers, one after the other. What else runs on the machine makes a server grow by more pages, never by fewer: the
/// least counts.
const RUNS: u32 = 3;
/// Reactors of the server whose parts are summed; that of the machine has as many as the machine needs.
const REACTORS: u16 = 2;
/// Members of a room there.
const ROOM_SIZE: u32 = 100;
/// Seconds of silence before it is.
const HOLD_S: f64 = 1.0;

/// Options of `bench guard`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep what is counted, instead of comparing with it
    #[arg(long)]
    update: bool,
    /// Only the paths with this in their name, and no memory
    #[arg(long, value_name = "TEXT", conflicts_with = "update")]
    only: Option<String>,
}

/// Options of `bench guard-path`.
#[derive(Debug, clap::Args)]
pub struct PathArgs {
    /// Name of the path
    name: String,
}

/// Walks one path; callgrind counts.
///
/// # Errors
/// There is no such path.
pub fn walk(args: &PathArgs) -> Result<(), String> {
    let path = paths::ALL.iter().find(|path| path.name == args.name);
    let path = path.ok_or_else(|| format!("there is no path {:?}", args.name))?;
    let mut work = (path.set_up)();
    callgrind::counted(path.rounds, &mut *work);
    Ok(())
}

/// Counts, and compares or keeps.
///
/// # Errors
/// A sentence for the user: what takes too much, or why it could not be counted.
pub fn run(args: &Args) -> Result<(), String> {
    let file = kept_file();
    let mut kept = Kept::read(&file)?;
    let callgrind = match Callgrind::find() {
        Ok(callgrind) => callgrind,
        // Some numbers of this state beside others of an earlier one would be worse than none.
        Err(reason) if args.update => return Err(reason),
        Err(reason) => return skip(&reason),
    };
    let here = MadeWith::here(callgrind.version());
    if !args.update && here.target != kept.made_with.target {
        let (kept, here) = (&kept.made_with.target, &here.target);
        return skip(&format!("the instructions in {KEPT} are of {kept}, and this is {here}"));
    }
    let is_chosen = |path: &&paths::Path| args.only.as_ref().is_none_or(|part| path.name.contains(part));
    let chosen: Vec<&paths::Path> = paths::ALL.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        return Err("no path has that in its name".to_owned());
    }
    let counts = callgrind.count(&chosen)?;
    let each = |(path, count): (&&paths::Path, u64)| {
        (path.name, count as f64 / f64::from(path.rounds) / f64::from(path.operations))
    };
    let counted: Vec<(&str, f64)> = chosen.iter().zip(counts).map(each).collect();
    if args.update {
        kept.keep(here, &counted, bytes()?);
        std::fs::write(&file, kept.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("{KEPT} is written anew");
        return Ok(());
    }
    let bytes = if args.only.is_none() { Some(bytes()?) } else { None };
    let verdicts = kept.compare(&counted, bytes);
    show(&kept::table(&verdicts))?;
    let refused: Vec<String> = verdicts.iter().filter_map(Verdict::refusal).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let difference = kept.made_with.difference(&here).map(|sentence| sentence + "\n").unwrap_or_default();
    Err(format!(
        "more than {KEPT} allows:\n{}\n{difference}If it is worth it, keep the new numbers: {COMMAND} --update",
        refused.join("\n")
    ))
}

/// The file in this repository.
fn kept_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guard.toml")
}

/// Nothing was counted, for this reason.
fn skip(reason: &str) -> Result<(), String> {
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        return Err(format!("CI may not skip: {reason}"));
    }
    println!("skipped: {reason}");
    Ok(())
}

/// What an idle session takes, by our own account and by the kernel's.
fn bytes() -> Result<Bytes, String> {
    let programs = Programs::find()?;
    let prefix = footprint::ROOM_PREFIX;
    let hold = Hold {
        connections: CONNECTIONS,
        room_size: ROOM_SIZE,
        room_prefix: prefix,
        seconds: HOLD_S,
        tokens: None,
    };
    let mut grown = f64::INFINITY;
    for _ in 0..RUNS {
        grown = grown.min(footprint::grown(&programs, &hold, CONNECTIONS, &[])?.1.user_bytes);
    }
    Ok(Bytes { parts: footprint::parts_in_use(CONNECTIONS, REACTORS, ROOM_SIZE), grown })
}

/// What a program says of its version.
fn version(program: &str) -> Option<String> {
    let output =
        Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
