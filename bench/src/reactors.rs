//! `bench reactors`: two reactors against one.
//!
//! The kernel spreads connections over the listeners of both reactors, so every room has members on both, and each
//! message crosses from one to the other. Whatever the number of reactors, the server has one core and the simulator
//! another: what is compared is CPU per delivery, not how much two cores do.
//!
//! Invariant: every number is of a chat that lost nothing.

use serde::Serialize;
use tcbchat_bench::Spread;

use crate::compare::workload;
use crate::files::Files;
use crate::load::{self, Numbers, Serving, cell, ratio};
use crate::process::{Cores, Programs};

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
const SCHEMA: &str = "tcbchat.reactors/1";

/// Capacity of the server: what the largest workload needs, and what one descriptor table holds everywhere.
const CAPACITY: u32 = 12_000;

/// Reactors of the two servers.
const REACTORS: [u16; 2] = [1, 2];

/// Options of `bench reactors`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds; the median is shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Closed loops of `bench compare` to run
    #[arg(long, value_name = "NAMES", value_delimiter = ',',
          default_values = ["1x1000-w1", "1x1000-w4", "100x100-w1", "100x100-w4"],
          value_parser = ["1x1000-w1", "1x1000-w4", "100x100-w1", "100x100-w4", "1000x10-w1", "1000x10-w4"])]
    workloads: Vec<String>,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
}

/// A workload on both servers.
#[derive(Debug, Default, Serialize)]
struct Row {
    workload: &'static str,
    /// By round.
    one: Vec<Numbers>,
    /// By round.
    two: Vec<Numbers>,
    /// Server CPU per delivery, two against one.
    ratio: Option<Spread>,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    rounds: u32,
    rows: Vec<Row>,
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    let workloads = workload::chosen(&args.workloads, false)?;
    let programs = Programs::find()?;
    let mut rows: Vec<Row> =
        workloads.iter().map(|workload| Row { workload: workload.name, ..Row::default() }).collect();
    for round in 1..=args.rounds {
        for (workload, row) in workloads.iter().zip(&mut rows) {
            for (reactors, numbers) in REACTORS.into_iter().zip([&mut row.one, &mut row.two]) {
                eprintln!("round {round} of {}: {}, reactors: {reactors}", args.rounds, workload.name);
                let serving = Serving { capacity: CAPACITY, reactors: Some(reactors), settings: &[] };
                // The scenario itself is not for the list of its options.
                let mut options = workload.arguments[1..].to_vec();
                options.push("--threads=1".to_owned());
                numbers.push(load::chat(&programs, args.cores, serving, &options)?);
            }
        }
    }
    for row in &mut rows {
        row.ratio = ratio(&row.two, &row.one);
    }
    let report = Report { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), rounds: args.rounds, rows };
    args.files.publish(&report, &markdown(&report.rows))
}

fn markdown(rows: &[Row]) -> String {
    let mut text =
        "\n| workload | one reactor: server CPU per delivery, us | two reactors | two to one | waits per \
                    message: one, two | server, simulator busy with one, % | with two, % |\n\
                    |---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let cpu = |rounds: &[Numbers]| cell(rounds, 2, |n| Some(n.cpu_us_per_delivery));
        let waits = |rounds: &[Numbers]| cell(rounds, 2, |n| n.waits_per_message);
        let busy = |rounds: &[Numbers]| {
            let of = |number: fn(&Numbers) -> Option<f64>| cell(rounds, 0, number);
            format!("{}, {}", of(|n| Some(n.server_busy_percent)), of(|n| Some(n.simulator_busy_percent)))
        };
        text += &format!(
            "| {} | {} | {} | {} | {}, {} | {} | {} |\n",
            row.workload,
            cpu(&row.one),
            cpu(&row.two),
            row.ratio.map_or_else(|| "-".to_owned(), |ratio| ratio.cell(2)),
            waits(&row.one),
            waits(&row.two),
            busy(&row.one),
            busy(&row.two),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests::costing;

    #[test]
    fn two_are_measured_against_one() {
        let mut row = Row {
            workload: "1x1000-w1",
            one: [4.0, 5.0, 8.0].map(costing).to_vec(),
            two: [6.0, 5.0, 8.0].map(costing).to_vec(),
            ratio: None,
        };
        row.ratio = ratio(&row.two, &row.one);
        let text = markdown(&[row]);
        assert!(text.contains("| 5.00 (4.00-8.00) | 6.00 (5.00-8.00) | 1.20 (1.00-1.50) |"), "{text}");
    }
}
