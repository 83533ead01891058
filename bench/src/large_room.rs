//! `bench large-room`: what a large room costs when its members do not just stay and read.
//!
//! Four parts, each with two sides that alternate: members who join ([`joins`]), who come and go all the time and who break off
//! ([`costs`]), and who do not read for a while ([`stalled`]). Who does more than stay and read is one of the [`guests`](crate::guests). Server
//! on one core, all clients on another. What comes out is held against what the project promises.
//!
//! Invariant: every number is of rounds in which nobody who stayed has lost a message.

mod beside;
mod costs;
mod joins;
mod report;
mod rotation;
mod stalled;

use clap::value_parser;
use tcbchat_bench::seconds;

use crate::files::Files;
use crate::floor::raise_descriptor_limit;
use crate::goals::Strictness;
use crate::process::{Cores, Programs};
use report::{Report, Sizes};

/// Places in the server's table beyond those of members and guests: for scrapes, and for a simulator that looks whether there is
/// a server.
const SPARE: u32 = 500;

/// Options of `bench large-room`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Parts to measure
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["joins", "turnover", "stalled", "resets"],
          value_parser = ["joins", "turnover", "stalled", "resets"])]
    parts: Vec<String>,
    /// Rounds, each of all parts and both sides in turn; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Members of the room of `joins` and `resets`
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = value_parser!(u32).range(2..=12_000))]
    members: u32,
    /// Clients that join at once
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = value_parser!(u32).range(1..=4_000))]
    at_once: u32,
    /// Members of the room of `turnover`
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    large_members: u32,
    /// Members of the room of `stalled`
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=19_000))]
    stalled_members: u32,
    /// Seconds of joins, of turnover and of resets
    #[arg(long, value_name = "S", default_value_t = 8.0, value_parser = seconds)]
    duration: f64,
    /// Seconds in which members do not read
    #[arg(long, value_name = "S", default_value_t = 60.0, value_parser = seconds)]
    stall: f64,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    goals: Strictness,
}

/// Measures, prints, and writes the files that were asked for. What was measured before a run failed is shown, too.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    raise_descriptor_limit();
    let programs = Programs::find()?;
    let mut report = Report::new(Sizes {
        members: args.members,
        at_once: args.at_once,
        large_members: args.large_members,
        stalled_members: args.stalled_members,
    });
    let ended = rounds(&programs, args, &mut report);
    if report.is_empty() {
        return ended;
    }
    report.judge();
    ended.and(args.files.publish(&report, &report.markdown())).and(args.goals.judge(&report.goals))
}

fn rounds(programs: &Programs, args: &Args, report: &mut Report) -> Result<(), String> {
    for round in 1..=args.rounds {
        for part in &args.parts {
            let say = |side: &str| eprintln!("round {round} of {}: {part}, {side}", args.rounds);
            match part.as_str() {
                "joins" => {
                    for side in joins::Side::ALL {
                        say(&side.name());
                        report.joins.push(joins::measure(programs, args, side)?);
                    }
                }
                "stalled" => {
                    for side in stalled::Side::ALL {
                        say(side.name());
                        report.stalled.push(stalled::measure(programs, args, side)?);
                    }
                }
                "turnover" => {
                    for side in costs::Side::ALL {
                        say(&format!("{side:?}"));
                        report.turnover.push(costs::turnover(programs, args, side)?);
                    }
                }
                _ => {
                    for side in costs::Side::ALL {
                        say(&format!("{side:?}"));
                        report.resets.push(costs::resets(programs, args, side)?);
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn all_parts_are_measured_unless_some_are_named() {
        let parts = |line: &[&str]| {
            Line::try_parse_from([&["large-room"], line].concat()).map(|line| line.args.parts)
        };
        assert_eq!(parts(&[]).unwrap(), ["joins", "turnover", "stalled", "resets"]);
        assert_eq!(parts(&["--parts", "stalled"]).unwrap(), ["stalled"]);
        assert!(parts(&["--parts", "nonsense"]).unwrap_err().to_string().contains("turnover"));
    }
}
