//! `bench`: measurements of the whole program, each a subcommand. The micro-benches are `cargo bench`.
//!
//! Invariant: whatever is started for a measurement has ended when the program has.

mod bio;
mod bio_server;
mod callers;
mod chart;
mod compare;
mod fairness;
mod files;
mod floor;
mod footprint;
mod goals;
mod growth;
mod guard;
mod guests;
mod hash_table;
mod installed;
mod issuer;
mod large_room;
mod load;
mod logins;
mod password_flood;
mod peers;
mod process;
mod publish_flood;
mod reactors;
mod scrape;
mod thread_walls;
#[cfg(test)]
mod visit;

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
    /// Lookups in the TCB table against the length of its chains
    HashTable(hash_table::Args),
    /// A thread per connection against the reactor: memory, context switches, CPU, and where each stops
    Bio(bio::Args),
    /// The server of `bio`: a thread per connection
    BioServer(bio_server::Args),
    /// Serve the least that a server can do, without any checks, to measure others against
    Floor(floor::Args),
    /// Serve the same with axum, to measure others against
    Peer(peers::Args),
    /// Compare tcbchat, the floor and the peers: CPU per delivery and cycle, latency, memory
    Compare(compare::Args),
    /// What a large, busy room costs the members of small ones
    Fairness(fairness::Args),
    /// What a connection and a delivery cost from a thousand connections to a million
    Growth(growth::Args),
    /// Two reactors against one: CPU per delivery in rooms with members on both
    Reactors(reactors::Args),
    /// What members of a large room cost who come, go, break off or do not read
    LargeRoom(large_room::Args),
    /// How many clients a second can prove who they are: CPU of the threads that check
    Logins(logins::Args),
    /// What guessed passwords cost those who bring tokens
    PasswordFlood(password_flood::Args),
    /// What one session that publishes without end costs the members of other rooms
    PublishFlood(publish_flood::Args),
    /// Refuse more instructions or memory than are kept in the repository
    Guard(guard::Args),
    /// What `guard` counts: one path, once
    #[command(hide = true)]
    GuardPath(guard::PathArgs),
}

fn main() -> ExitCode {
    let measurement = Cli::parse().measurement;
    // The servers among them end in their own ways.
    let is_server = matches!(
        measurement,
        Measurement::BioServer(_) | Measurement::Floor(_) | Measurement::Peer(_) | Measurement::GuardPath(_)
    );
    if !is_server && let Err(error) = process::end_with_all_that_was_started() {
        eprintln!("bench: {error}");
        return ExitCode::FAILURE;
    }
    let outcome = match measurement {
        Measurement::Footprint(args) => footprint::run(&args),
        Measurement::HashTable(args) => hash_table::run(&args),
        Measurement::Bio(args) => bio::run(&args),
        Measurement::BioServer(args) => bio_server::run(&args),
        Measurement::Floor(args) => floor::run(&args),
        Measurement::Peer(args) => peers::run(&args),
        Measurement::Compare(args) => compare::run(&args),
        Measurement::Fairness(args) => fairness::run(&args),
        Measurement::Growth(args) => growth::run(&args),
        Measurement::Reactors(args) => reactors::run(&args),
        Measurement::LargeRoom(args) => large_room::run(&args),
        Measurement::Logins(args) => logins::run(&args),
        Measurement::PasswordFlood(args) => password_flood::run(&args),
        Measurement::PublishFlood(args) => publish_flood::run(&args),
        Measurement::Guard(args) => guard::run(&args),
        Measurement::GuardPath(args) => guard::walk(&args),
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

    #[test]
    fn a_server_that_is_none_is_refused_with_the_names_of_all() {
        let parse = |name| Cli::try_parse_from(["bench", "compare", "--servers", name]).map(drop);
        assert!(parse("tomcat,rabbitmq,tcbchat").is_ok());
        let error = parse("tomcat,nonsense").unwrap_err().to_string();
        for name in ["nonsense", "tcbchat", "axum-lean", "axum-usual", "rabbitmq", "tomcat"] {
            assert!(error.contains(name), "{error}");
        }
    }
}
