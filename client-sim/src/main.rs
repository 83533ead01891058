//! `client-sim`: thousands of STOMP clients over WebSocket on one machine, which check every message.
//!
//! It shares no code with the server: tungstenite is its WebSocket, [`stomp`] its own STOMP, so that each
//! side checks the other. From the outside in:
//!
//! - [`cli`] is what a user types, [`scenario`] plays it, [`report`] says what came of it;
//! - [`plan`] checks before the first connect that ports, descriptors and memory suffice;
//! - [`spawn`] starts and stops the server, [`memory`] and [`scrape`] measure it, [`progress`] shows the run;
//! - [`crew`] runs [`worker`]s, event loops with thousands of sockets each;
//! - [`wall`] plays every limit of the documentation on a stage of its own;
//! - [`peer`] is one client without its socket, [`pacer`] its time-table, [`check`] its conscience.
//!
//! This file turns a command line into an exit code, and does nothing else.

mod check;
mod cli;
mod crew;
mod failure;
mod memory;
mod pacer;
mod payload;
mod peer;
mod plan;
mod progress;
mod report;
mod scenario;
mod scrape;
mod spawn;
mod stomp;
mod target;
mod wall;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Common, Scenario};
use report::Report;
use scenario::Refusal;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (common, outcome) = match &cli.scenario {
        Scenario::Hold(args) => (&args.common, scenario::hold::run(args, false)),
        Scenario::Herd(args) => (&args.common, scenario::hold::run(args, true)),
        Scenario::Chat(args) => (&args.common, scenario::chat::run(args, 0)),
        Scenario::Slow(args) => (&args.chat.common, scenario::chat::run(&args.chat, args.deaf_every)),
        Scenario::Churn(args) => (&args.common, scenario::churn::run(args)),
        Scenario::Wall(args) => return wall::run(args),
    };
    match outcome {
        Ok(report) => publish(&report, common),
        Err(Refusal::Plan(text)) => {
            eprintln!("client-sim: {text}");
            ExitCode::from(2)
        }
        Err(Refusal::Broken(text)) => {
            eprintln!("client-sim: {text}");
            ExitCode::from(3)
        }
    }
}

/// Prints the report and writes the files that were asked for.
fn publish(report: &Report, common: &Common) -> ExitCode {
    print!("{}", report::table::render(report));
    let mut code = report.verdict.exit_code;
    let files = [
        common.json.as_deref().map(|path| (path, report::json::write(report, path))),
        common.html.as_deref().map(|path| (path, report::html::write(report, path))),
    ];
    for (path, written) in files.into_iter().flatten() {
        if let Err(error) = written {
            eprintln!("client-sim: {}: {error}", path.display());
            code = code.max(3);
        }
    }
    ExitCode::from(code)
}
