//! `bench compare`: tcbchat beside the floor and beside others, for the same work, in turn.
//!
//! Each server runs alone on one core and the simulator on another. In a round every server does a workload before
//! any does the next one, and there are several rounds: what disturbs the machine disturbs all of them. A ratio is
//! that of two medians; its spread is that of the rounds, each server against the floor of its own round.
//!
//! Invariant: a number of a run in which messages were lost is shown as such, never as a good one.

mod plot;
mod report;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tcbchat_bench::write_json;

use crate::process::{Programs, Server, on_core};
use report::{Report, Run};
use workload::Workload;

/// Options of `bench compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Servers to run beside the floor, which always runs
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["tcbchat", "axum-lean", "axum-usual"],
        value_parser = ["tcbchat", "axum-lean", "axum-usual"])]
    servers: Vec<String>,
    /// Workloads to run; default: all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Tcbchat and the floor only, shorter runs, fewer workloads: a look, not a result
    #[arg(long, conflicts_with = "servers")]
    quick: bool,
    /// Core of the servers
    #[arg(long, value_name = "CORE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..1024))]
    server_core: u32,
    /// Core of the simulator
    #[arg(long, value_name = "CORE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..1024))]
    client_core: u32,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a plot of the ratios as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Name of the server that the others are measured against.
const FLOOR: &str = "floor";

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let workloads = workload::chosen(&args.workloads, args.quick)?;
    let programs = Programs::find()?;
    let mut names = vec![FLOOR.to_owned()];
    if args.quick {
        names.push("tcbchat".to_owned());
    } else {
        names.extend(args.servers.iter().cloned());
    }
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        for workload in &workloads {
            for name in &names {
                eprintln!("round {round} of {}: {}, {name}", args.rounds, workload.name);
                runs.push(measure(&programs, args, workload, name, round)?);
            }
        }
    }
    let report = Report::new(args.rounds, args.quick, &names, runs);
    print!("{}", report.markdown());
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    let files = [(&args.markdown, report.markdown()), (&args.svg, plot::ratios(&report))];
    for (path, text) in files {
        if let Some(path) = path {
            std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

/// One server, one workload, once.
fn measure(
    programs: &Programs,
    args: &Args,
    workload: &Workload,
    name: &str,
    round: u32,
) -> Result<Run, String> {
    let server = on_core(args.server_core, || {
        Server::launch(&mut server_command(programs, name, workload.is_delayed)?)
    })?;
    let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
    let path = directory.path().join("run.json");
    let output = on_core(args.client_core, || {
        Command::new(&programs.simulator)
            .args(&workload.arguments)
            .args(["--quiet", "--threads", "1", "--url", &server.url()])
            .args(["--server-pid", &server.pid().to_string(), "--json"])
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{}: {error}", programs.simulator.display()))
    })?;
    // 1 is a verdict on the server: its losses are part of the result.
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(format!(
            "client-sim against {name}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        ));
    }
    let json = read(&path)?;
    Ok(Run::of(workload.name, name, round, &json))
}

fn read(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("client-sim's JSON: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("client-sim's JSON: {error}"))
}

/// How a server is started: on a free port, with one thread for its sockets.
fn server_command(programs: &Programs, name: &str, is_delayed: bool) -> Result<Command, String> {
    const CAPACITY: &str = "12000";
    if name == "tcbchat" {
        let mut command = Command::new(&programs.server);
        command.args(["serve", "--listen", "127.0.0.1:0", "--capacity", CAPACITY, "--reactors", "1"]);
        if is_delayed {
            command.args(["--set", workload::FLUSH_DELAY]);
        }
        command.stderr(Stdio::null());
        return Ok(command);
    }
    let own = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
    let mut command = Command::new(own);
    if name == FLOOR {
        command.arg("floor");
        if is_delayed {
            command.arg("--write-per-message");
        }
    } else {
        command.args(["peer", name]);
    }
    Ok(command)
}
