//! `bench publish-flood`: what one session that publishes without end costs the members of other rooms.
//!
//! A hundred rooms of ten are measured beside nothing, beside a flooder, and beside a flooder on a server with a rate for
//! sessions. The flooder has a room of its own, with members who read all they get, and writes as much as its socket takes. One
//! reactor on one core, all clients on another; flooder and members give way to the simulator that measures.
//!
//! Invariant: nobody in the honest rooms has lost a message, or there is no result; who was cut off is counted.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::value_parser;
use serde::Serialize;
use tcbchat_bench::{Spread, crowd, ratio, seconds};

use crate::files::Files;
use crate::goals::{self, Goal, Strictness};
use crate::guests::{Guests, Heard, log_in, upgraded};
use crate::load::{self, Serving};
use crate::process::{Cores, NoRun, Programs, give_way, on_core, simulate};
use crate::scrape;

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
const SCHEMA: &str = "tcbchat.publish-flood/1";
/// Members of an honest room.
const ROOM_SIZE: u32 = 10;
/// The flooder's room.
const ROOM: &str = "/topic/flood";
/// Bytes of a body of the flooder's.
const BODY_BYTES: usize = 128;
/// SENDs that the flooder hands to its socket in one go.
const BATCH: usize = 256;
/// Messages a second and session of the server with a rate.
const RATED: u32 = 100;
/// See [`RATED`].
const RATED_SETTING: &str = "rate.session_messages_per_s=100";
/// Places in the server's table beside those of the rooms: for scrapes.
const SPARE: u32 = 500;
/// Seconds for which all are there before the honest rooms are published to. The flood begins in them.
const HOLD_S: u32 = 3;
/// Time between two looks at whether all are there.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it may take until all are.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `bench publish-flood`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Honest rooms, of ten members each
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_500))]
    rooms: u32,
    /// Messages a second to all honest rooms
    #[arg(long, value_name = "PER_S", default_value_t = 200, value_parser = value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Members of the flooder's room
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=1_000))]
    members: u32,
    /// Seconds of publishing to the honest rooms
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    duration: f64,
    /// Rounds, each of all sides in turn, each with a new server; the median is shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// A setting of the server that is not the default (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    goals: Strictness,
}

/// What is beside the honest rooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Beside {
    Nothing,
    Flooder,
    /// On a server with a rate.
    RatedFlooder,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nothing, Beside::Flooder, Beside::RatedFlooder];

    fn name(self) -> String {
        match self {
            Beside::Nothing => "nothing".to_owned(),
            Beside::Flooder => "a flooder".to_owned(),
            Beside::RatedFlooder => format!("a flooder, {RATED} messages a second and session allowed"),
        }
    }
}

/// What one round has shown.
#[derive(Debug, Clone, Serialize)]
struct Round {
    beside: Beside,
    /// Of the honest rooms, milliseconds.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Messages of the flooder's that its members have heard, in a second.
    flood_per_s: f64,
    /// How much of its core each side used while the honest rooms were published to.
    server_busy_percent: f64,
    /// See `server_busy_percent`.
    simulator_busy_percent: f64,
    /// Sessions that the server has cut off.
    cut_off: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    members: u32,
    rounds: Vec<Round>,
    goals: Vec<Goal>,
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    let programs = Programs::find()?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        for beside in Beside::ALL {
            eprintln!("round {round} of {}: beside {}", args.rounds, beside.name());
            rounds.push(measure(&programs, args, beside)?);
        }
    }
    let goals = goals(&rounds);
    let version = env!("CARGO_PKG_VERSION");
    let report = Report { schema: SCHEMA, version, members: args.members, rounds, goals };
    args.files.publish(&report, &markdown(&report)).and(args.goals.judge(&report.goals))
}

fn measure(programs: &Programs, args: &Args, beside: Beside) -> Result<Round, NoRun> {
    let honest = args.rooms * ROOM_SIZE;
    let rated = (beside == Beside::RatedFlooder).then_some(RATED_SETTING);
    let settings: Vec<&str> = args.set.iter().map(String::as_str).chain(rated).collect();
    let capacity = honest + args.members + SPARE;
    let mut server =
        load::start(programs, args.cores, Serving { capacity, reactors: Some(1), settings: &settings })?;
    let address = server.address()?;
    let line = format!(
        "--connections {honest} --room-size {ROOM_SIZE} --room-prefix honest- --rate {} --duration {} --drain 5 \
         --connect-rate 2000 --hold {HOLD_S} --no-goodbye --threads 1",
        args.rate, args.duration
    );
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let is_over = AtomicBool::new(false);
    let (run, flood) = on_core(args.cores.client_core, || {
        let both = thread::scope(|scope| {
            let flood = (beside != Beside::Nothing)
                .then(|| scope.spawn(|| flood(address, honest, args.members, &is_over)));
            let run = simulate(programs, &server, "chat", &arguments);
            is_over.store(true, Ordering::Relaxed);
            (run, flood.map(|flood| flood.join().map_err(|_| "the flooder's thread panicked".to_owned())))
        });
        Ok::<_, NoRun>(both)
    })?;
    let flood = flood.transpose()?.transpose()?;
    let run = run?;
    let numbers = load::of_run(&mut server, &run)?;
    let latency = |name: &str| {
        run.json["chat"]["latency_ms"][name].as_f64().ok_or_else(|| format!("client-sim: no {name}"))
    };
    Ok(Round {
        beside,
        p50_ms: latency("p50")?,
        p99_ms: latency("p99")?,
        max_ms: latency("max")?,
        flood_per_s: flood.unwrap_or_default(),
        server_busy_percent: numbers.server_busy_percent,
        simulator_busy_percent: numbers.simulator_busy_percent,
        cut_off: scrape::metric(address, "slow_consumers_total")?,
    })
}

/// Floods from when all are there until it is over. How many messages each member of the flooder's room has heard in a second.
fn flood(server: SocketAddr, honest: u32, members: u32, is_over: &AtomicBool) -> Result<f64, String> {
    give_way();
    let mut guests = Guests::connect(server, members)?;
    guests.join_all(0..members, ROOM)?;
    let mut flooder = Flooder::enter(server)?;
    let deadline = Instant::now() + PATIENCE;
    while scrape::metric(server, "subscriptions")? < u64::from(honest + members) {
        if is_over.load(Ordering::Relaxed) || Instant::now() > deadline {
            return Err("the members of the honest rooms were never all there".to_owned());
        }
        thread::sleep(LOOK_EVERY);
    }
    // Who was cut off is counted by the server.
    guests.may_end();
    let (since, mut heard) = (Instant::now(), 0_u64);
    while !is_over.load(Ordering::Relaxed) {
        let at_most = if flooder.write()? { Duration::ZERO } else { Duration::from_millis(1) };
        guests.turn(at_most, &mut |_, said| {
            heard += u64::from(matches!(said, Heard::Message { .. }));
            Ok(())
        })?;
    }
    Ok(heard as f64 / f64::from(members) / since.elapsed().as_secs_f64())
}

/// A session that publishes.
struct Flooder {
    stream: TcpStream,
    /// Whole frames.
    batch: Vec<u8>,
    /// Where in them the next write begins.
    at: usize,
}

impl Flooder {
    fn enter(server: SocketAddr) -> Result<Flooder, String> {
        let mut stream = upgraded(server)?;
        log_in(&mut stream, "")?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        Ok(Flooder { stream, batch: crowd::send(ROOM, BODY_BYTES, None).repeat(BATCH), at: 0 })
    }

    /// Writes as much as the socket takes of one batch. Returns whether it took some.
    fn write(&mut self) -> Result<bool, String> {
        match self.stream.write(&self.batch[self.at..]) {
            Ok(length) => {
                self.at = (self.at + length) % self.batch.len();
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(format!("the flooder: {error}")),
        }
    }
}

fn of(rounds: &[Round], beside: Beside, number: fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().filter(|round| round.beside == beside).map(number).collect()
}

fn goals(rounds: &[Round]) -> Vec<Goal> {
    let p99 = |beside| of(rounds, beside, |round| round.p99_ms);
    let goal = |beside: Beside| {
        let what = format!("p99 of the honest rooms beside {}, to none", beside.name());
        Goal::new(what, 2.0, ratio(&p99(beside), &p99(Beside::Nothing)))
    };
    let cut_off: Vec<f64> = rounds.iter().map(|round| round.cut_off as f64).collect();
    vec![
        goal(Beside::Flooder),
        goal(Beside::RatedFlooder),
        Goal::new("sessions that were cut off", 0.0, Spread::of(&cut_off)),
    ]
}

fn markdown(report: &Report) -> String {
    let mut text = "\n| honest rooms beside | p50, ms | p99, ms | most, ms | messages of the flood, a second | server busy, % | \
                    simulator busy, % | cut off |\n|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for beside in Beside::ALL {
        let cell = |digits, number: fn(&Round) -> f64| {
            Spread::of(&of(&report.rounds, beside, number))
                .map_or_else(|| "-".to_owned(), |spread| spread.cell(digits))
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            beside.name(),
            cell(2, |round| round.p50_ms),
            cell(2, |round| round.p99_ms),
            cell(1, |round| round.max_ms),
            cell(0, |round| round.flood_per_s),
            cell(0, |round| round.server_busy_percent),
            cell(0, |round| round.simulator_busy_percent),
            cell(0, |round| round.cut_off as f64),
        );
    }
    text + &goals::table(&report.goals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_against_nothing_beside_and_one_who_was_cut_off_is_too_many() {
        let round = |beside: Beside, p99_ms: f64, cut_off: u64| Round {
            beside,
            p50_ms: 0.5,
            p99_ms,
            max_ms: 9.0,
            flood_per_s: 0.0,
            server_busy_percent: 10.0,
            simulator_busy_percent: 20.0,
            cut_off,
        };
        let rounds = [
            round(Beside::Nothing, 1.0, 0),
            round(Beside::Flooder, 2.5, 3),
            round(Beside::RatedFlooder, 1.5, 1),
        ];
        let goals = goals(&rounds);
        let report = Report { schema: SCHEMA, version: "", members: 10, rounds: rounds.to_vec(), goals };
        let text = markdown(&report);
        for line in [
            "| a flooder | 0.50 | 2.50 | 9.0 | 0 | 10 | 20 | 3 |\n",
            "beside a flooder, to none | 2 | 2.50 | **no** |\n",
            "100 messages a second and session allowed, to none | 2 | 1.50 | yes |\n",
            "| sessions that were cut off | 0 | 1.00 (0.00-3.00) | **no** |\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
