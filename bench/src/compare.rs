//! `bench compare`: tcbchat beside the floor and beside others, for the same work, in turn.
//!
//! Each server runs alone on one core and the simulator on another. In a round every server does a workload before
//! any does the next one, and there are several rounds: what disturbs the machine disturbs all of them. A ratio is
//! that of two medians; its spread is that of the rounds, each server against the floor of its own round. A second floor
//! says what is noise, and a workload in which tcbchat is not told apart from that is repeated. Servers of others that are
//! installed are slow to fill, and take part in the first round only.
//!
//! Invariant: a number of a run in which messages were lost is shown as such, never as a good one.

mod contender;
mod plot;
mod report;
pub mod workload;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tcbchat_bench::{output, write_text};

use crate::files::Files;
use crate::process::{Cores, Ours, Programs, on_core, wait};
use contender::{Contender, Running};
use report::{Report, Run};
use workload::Workload;

/// Options of `bench compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Rounds that a workload may have until tcbchat is told apart from the floor: until their ratio is farther from 1
    /// than what a second floor says is noise
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds_max: u32,
    /// Servers to run beside the floor, which always runs; default: all that are there
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = contender::NAMES)]
    servers: Vec<String>,
    /// Workloads to run; default: all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Tcbchat and the floor only, shorter runs, fewer workloads: a look, not a result
    #[arg(long, conflicts_with = "servers")]
    quick: bool,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
    /// Write a plot of the ratios as SVG
    #[arg(long, value_name = "FILE", value_parser = output)]
    svg: Option<PathBuf>,
}

/// How long one run of the simulator may take. The slowest server here needs a minute for the longest.
const RUN_ENDS_WITHIN: Duration = Duration::from_secs(180);

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    let workloads = workload::chosen(&args.workloads, args.quick)?;
    let contenders = contender::chosen(&args.servers, args.quick)?;
    let programs = Programs::find()?;
    let mut runs = Vec::new();
    let ended = rounds(&programs, args, &workloads, &contenders, &mut runs);
    let names: Vec<String> = contenders.iter().map(|contender| contender.name.to_owned()).collect();
    if runs.is_empty() {
        return ended;
    }
    let report = Report::new(args.rounds, args.quick, &names, runs);
    let drawn = args.svg.as_deref().map_or(Ok(()), |path| write_text(path, &plot::ratios(&report)));
    ended.and(drawn).and(args.files.publish(&report, &report.markdown()))
}

/// All of them, or those before one of ours failed.
fn rounds(
    programs: &Programs,
    args: &Args,
    workloads: &[Workload],
    contenders: &[Contender],
    runs: &mut Vec<Run>,
) -> Result<(), String> {
    let most = if args.quick { args.rounds } else { args.rounds_max.max(args.rounds) };
    for round in 1..=most {
        let is_more = round > args.rounds;
        for workload in workloads {
            if is_more && report::is_told_apart(runs, workload.name) {
                continue;
            }
            let takes_part = |contender: &&Contender| {
                contender.does(workload, round) && (!is_more || contender.is_of_the_question())
            };
            for contender in contenders.iter().filter(takes_part) {
                let of = if is_more { most } else { args.rounds };
                eprintln!("round {round} of {of}: {}, {}", workload.name, contender.name);
                runs.push(match measure(programs, args, workload, contender) {
                    Ok(json) => Run::of(workload.name, contender.name, round, &json),
                    // Others are not ours to mend, and all that was measured before is worth keeping.
                    Err(reason) if contender.is_installed() => {
                        Run::failed(workload.name, contender.name, round, reason)
                    }
                    Err(reason) => {
                        let reason = format!("{}: {reason}", contender.name);
                        runs.push(Run::failed(workload.name, contender.name, round, reason.clone()));
                        return Err(reason);
                    }
                });
            }
        }
    }
    Ok(())
}

/// One server, one workload, once: the simulator's JSON.
fn measure(
    programs: &Programs,
    args: &Args,
    workload: &Workload,
    contender: &Contender,
) -> Result<Value, String> {
    let mut server = on_core(args.cores.server_core, || contender.start(programs, workload.is_delayed))?;
    let mut simulate = || {
        let done = on_core(args.cores.client_core, || {
            simulate(programs, workload, contender.arguments(workload), &server)
        });
        // Then whatever was said or measured is of its end.
        server.ended().map_or(done, |status| Err(format!("the server has ended: {status}")))
    };
    let first = simulate()?;
    if !contender.warms_up() {
        return Ok(first);
    }
    let mut second = simulate()?;
    // What connections take is seen while the server has not taken it yet.
    second["memory"] = first["memory"].clone();
    if let Some(reasons) = second["verdict"]["reasons"].as_array_mut() {
        let before = first["verdict"]["reasons"].as_array().into_iter().flatten();
        reasons.extend(before.filter_map(Value::as_str).map(|reason| format!("warming up: {reason}").into()));
    }
    Ok(second)
}

/// One run of the simulator against a server.
fn simulate(
    programs: &Programs,
    workload: &Workload,
    arguments: &[&str],
    server: &Running,
) -> Result<Value, String> {
    let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
    let (path, said) = (directory.path().join("run.json"), directory.path().join("said"));
    let output = fs::File::create(&said).map_err(|error| format!("{}: {error}", said.display()))?;
    let mut child = Command::new(&programs.simulator)
        .args(&workload.arguments)
        .args(arguments)
        .args(["--quiet", "--threads", "1", "--url", &server.url()])
        .args(["--server-pid", &server.pid().to_string(), "--json"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("{}: {error}", programs.simulator.display()))?;
    let _ours = Ours::of(&child);
    let Some(status) = wait(&mut child, RUN_ENDS_WITHIN) else {
        drop(child.kill());
        drop(child.wait());
        return Err(format!("client-sim was not done after {} s", RUN_ENDS_WITHIN.as_secs()));
    };
    // 1 is a verdict on the server: its losses are part of the result.
    if !matches!(status.code(), Some(0 | 1)) {
        return Err(format!("client-sim: {status}: {}", fs::read_to_string(&said).unwrap_or_default()));
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("client-sim's JSON: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("client-sim's JSON: {error}"))
}
