//! `bench`: measurements of the whole program, each a subcommand. The micro-benches are `cargo bench`.
//!
//! Invariant: whatever is started for a measurement has ended when the program has.

mod floor;
mod footprint;
mod process;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures tcbchat as a whole.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    measurement: Measurement,
}

/// What to measure.
#[derive(Debug, Subcommand)]
enum Measurement {
    /// Bytes per idle, subscribed connection: by part, and as the kernel sees them
    Footprint(footprint::Args),
    /// Serve the least that a server can do, without any checks, to measure others against
    Floor(floor::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().measurement {
        Measurement::Footprint(args) => footprint::run(&args),
        Measurement::Floor(args) => floor::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
