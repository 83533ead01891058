//! `bench fairness`: what a large, busy room costs the members of small ones.
//!
//! A thousand clients in rooms of ten are measured beside nothing, beside a room of many members with the shares of a
//! turn that the server has by default (`turn.room_members_max`), and beside the same room without shares, when
//! a fan-out is one turn. Server on one core, one reactor; both simulators on another.
//!
//! Invariant: a round in which a message was lost is no result.

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use serde::Serialize;
use serde_json::Value;
use tcbchat_bench::{median, output, show, write_json};

use crate::process::{Programs, Run, Server, on_core, simulate};

/// Options of `bench fairness`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Members of the large room
    #[arg(long, value_name = "N", default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1_000..=18_000))]
    members: u32,
    /// Messages a second to the large room
    #[arg(long, value_name = "PER_S", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Rounds; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", value_parser = output)]
    json: Option<PathBuf>,
}

/// The small rooms: in all, of ten members each, for four seconds when the large room is busy.
const SMALL: &str = "--connections 1000 --room-size 10 --room-prefix small- --rate 200 --duration 4 --drain 5 \
    --connect-rate 2000 --hold 6 --no-goodbye --threads 1";

/// Sharing switched off.
const WHOLE: [&str; 4] = ["--set", "turn.room_members_max=16777216", "--set", "turn.members_max=16777216"];

/// What is beside the small rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Beside {
    Nothing,
    Shares,
    Whole,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nothing, Beside::Shares, Beside::Whole];

    fn name(self) -> &'static str {
        match self {
            Beside::Nothing => "nothing",
            Beside::Shares => "the large room, in shares",
            Beside::Whole => "the large room, whole in one turn",
        }
    }
}

/// A round beside something.
#[derive(Debug, Serialize)]
struct Round {
    beside: Beside,
    small_p50_ms: f64,
    small_p99_ms: f64,
    small_max_ms: f64,
    /// Of the large room, if there was one.
    large_p99_ms: Option<f64>,
    /// Deliveries in the large room.
    large_deliveries: u64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: &'static str,
    members: u32,
    rate_per_s: u32,
    rounds: &'a [Round],
}

/// Measures, prints, and writes the file that was asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let programs = Programs::find()?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        for beside in Beside::ALL {
            eprintln!("round {round} of {}: small rooms beside {}", args.rounds, beside.name());
            rounds.push(measure(&programs, args, beside)?);
        }
    }
    let mut table = "\n| small rooms beside | p50, ms | p99, ms | most, ms | p99 of the large room, ms |\n\
                     |---|---|---|---|---|\n"
        .to_owned();
    for beside in Beside::ALL {
        let of = |number: fn(&Round) -> Option<f64>| {
            let numbers: Vec<f64> =
                rounds.iter().filter(|round| round.beside == beside).filter_map(number).collect();
            median(&numbers).map_or("".into(), |middle| format!("{middle:.1}"))
        };
        table += &format!(
            "| {} | {} | {} | {} | {} |\n",
            beside.name(),
            of(|round| Some(round.small_p50_ms)),
            of(|round| Some(round.small_p99_ms)),
            of(|round| Some(round.small_max_ms)),
            of(|round| round.large_p99_ms),
        );
    }
    let report = Report {
        schema: "tcbchat.fairness/1",
        members: args.members,
        rate_per_s: args.rate,
        rounds: &rounds,
    };
    args.json.as_deref().map_or(Ok(()), |path| write_json(path, &report)).and(show(&table))
}

fn measure(programs: &Programs, args: &Args, beside: Beside) -> Result<Round, String> {
    let mut command = Command::new(&programs.server);
    command.args(["serve", "--listen", "127.0.0.1:0", "--reactors", "1", "--capacity", "19500"]);
    if beside == Beside::Whole {
        command.args(WHOLE);
    }
    let server = on_core(0, || Server::launch(&mut command))?;
    let large = format!(
        "--connections {} --room-size {} --room-prefix large- --rate {} --duration 12 --drain 10 \
         --connect-rate 20000 --hold 0.2 --no-goodbye --threads 1",
        args.members, args.members, args.rate
    );
    let chat = |arguments: &str| {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        on_core(1, || simulate(programs, &server, "chat", &arguments)).map_err(String::from).and_then(passed)
    };
    let (small, large) = thread::scope(|scope| {
        let large = (beside != Beside::Nothing).then(|| scope.spawn(|| chat(&large)));
        let small = chat(SMALL);
        let large =
            large.map(|large| large.join().map_err(|_| "the large room's thread panicked".to_owned()));
        (small, large)
    });
    let small = small?;
    let large = large.transpose()?.transpose()?;
    let latency = |json: &Value, name: &str| {
        json["chat"]["latency_ms"][name].as_f64().ok_or_else(|| format!("client-sim: no {name}"))
    };
    Ok(Round {
        beside,
        small_p50_ms: latency(&small, "p50")?,
        small_p99_ms: latency(&small, "p99")?,
        small_max_ms: latency(&small, "max")?,
        large_p99_ms: large.as_ref().map(|json| latency(json, "p99")).transpose()?,
        large_deliveries: large
            .and_then(|json| json["chat"]["deliveries_received"].as_u64())
            .unwrap_or_default(),
    })
}

fn passed(run: Run) -> Result<Value, String> {
    if run.has_passed { Ok(run.json) } else { Err(format!("client-sim: {}", run.said)) }
}
