//! `bench password-flood`: what guessed passwords cost those who bring tokens.
//!
//! Honest clients with tokens of their own log in at even times, beside nothing and beside guessers on fifty addresses. Time
//! counts from CONNECT to CONNECTED: their connections and WebSockets are open before. The addresses are of loopback, which the
//! server never judges by address, and every guess is for another login, which it never judges by login: so each guess is
//! hashed, until the queue of passwords is full. That is the worst that a guesser can do.
//!
//! Server on one core, all clients on another; guessers give way to who is measured.
//!
//! Invariant: every honest client had its session, or there is no result.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::value_parser;
use serde::Serialize;
use socket2::SockRef;
use tcbchat_bench::{Spread, percentile, ratio, seconds};

use crate::callers::Callers;
use crate::files::Files;
use crate::goals::{self, Goal, Strictness};
use crate::guests::{log_in, upgraded};
use crate::issuer::{Issuer, Proof, guess};
use crate::load::{self, Serving};
use crate::process::{Cores, NoRun, Programs, give_way, on_core};
use crate::scrape;

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
const SCHEMA: &str = "tcbchat.password-flood/1";
/// Guesses a second of all addresses, or of each: the two ways to read the promise.
const RATE: u32 = 20;
/// Addresses of guessers.
const ADDRESSES: u32 = 50;
/// The first of them.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);
/// Places in the server's table: every place of the queue, and who is on the way.
const CAPACITY: u32 = 15_000;
/// A guesser that has waited as long as the server lets it wait has gone.
const GUESSER_WAITS: Duration = Duration::from_secs(12);
/// Time between two looks at whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Options of `bench password-flood`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Honest clients a second
    #[arg(long, value_name = "PER_S", default_value_t = 100, value_parser = value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Seconds in which they come
    #[arg(long, value_name = "S", default_value_t = 15.0, value_parser = seconds)]
    duration: f64,
    /// Seconds of guessing before the first of them
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    warm_up: f64,
    /// Rounds, each of all floods in turn, each with a new server; the median is shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=99))]
    rounds: u32,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    goals: Strictness,
}

/// What is beside those who bring tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Beside {
    Nothing,
    /// [`RATE`] guesses a second.
    Flood,
    /// As many from each address.
    FloodOfEach,
}

impl Beside {
    const ALL: [Beside; 3] = [Beside::Nothing, Beside::Flood, Beside::FloodOfEach];

    fn guesses_per_s(self) -> u32 {
        match self {
            Beside::Nothing => 0,
            Beside::Flood => RATE,
            Beside::FloodOfEach => RATE * ADDRESSES,
        }
    }

    fn name(self) -> String {
        match self.guesses_per_s() {
            0 => "nothing".to_owned(),
            guesses => format!("{guesses} guesses a second from {ADDRESSES} addresses"),
        }
    }
}

/// What one round has shown.
#[derive(Debug, Clone, Serialize)]
struct Round {
    beside: Beside,
    clients: usize,
    /// From CONNECT to CONNECTED, milliseconds.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Guesses of the whole run.
    guesses: u64,
    /// Those of them that were hashed, and were wrong.
    hashed: u64,
    /// Those of them that were refused unseen.
    put_off: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    rounds: Vec<Round>,
    goals: Vec<Goal>,
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    crate::floor::raise_descriptor_limit();
    let programs = Programs::find()?;
    let issuer = Issuer::new()?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        for beside in Beside::ALL {
            eprintln!("round {round} of {}: beside {}", args.rounds, beside.name());
            rounds.push(measure(&programs, args, &issuer, beside)?);
        }
    }
    let goals = goals(&rounds);
    let report = Report { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), rounds, goals };
    args.files.publish(&report, &markdown(&report)).and(args.goals.judge(&report.goals))
}

fn measure(programs: &Programs, args: &Args, issuer: &Issuer, beside: Beside) -> Result<Round, NoRun> {
    let clients = (f64::from(args.rate) * args.duration).ceil() as u32;
    let lines =
        (0..clients).map(|n| issuer.lines(Proof::EdDsa, n)).collect::<Result<Vec<String>, String>>()?;
    let mut settings = issuer.settings();
    // Each refusal is a line at `info`.
    settings.push("log.level=warn".to_owned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let serving = Serving { capacity: CAPACITY, reactors: Some(1), settings: &settings };
    let mut server = load::start(programs, args.cores, serving)?;
    let address = server.address()?;
    let is_over = AtomicBool::new(false);
    let (times, guesses) = on_core(args.cores.client_core, || {
        thread::scope(|scope| {
            let guessers = scope.spawn(|| guessers(address, beside.guesses_per_s(), &is_over));
            thread::sleep(Duration::from_secs_f64(args.warm_up));
            let times = honest(address, args.rate, &lines);
            is_over.store(true, Ordering::Relaxed);
            let guesses = guessers.join().map_err(|_| "the guessers' thread panicked".to_owned())?;
            Ok::<_, String>((times?, guesses?))
        })
    })?;
    let (hashed, put_off) =
        (scrape::metric(address, "logins_refused_total")?, scrape::metric(address, "logins_put_off_total")?);
    if let Some(status) = server.ended() {
        return Err(NoRun::Broken(format!("the server has ended: {status}")));
    }
    let of = |percent| percentile(&times, percent).ok_or("nobody has come".to_owned());
    Ok(Round {
        beside,
        clients: times.len(),
        p50_ms: of(50.0)?,
        p99_ms: of(99.0)?,
        max_ms: of(100.0)?,
        guesses,
        hashed,
        put_off,
    })
}

/// Clients log in one after the other, at even times. Milliseconds of each.
fn honest(server: SocketAddr, per_s: u32, lines: &[String]) -> Result<Vec<f64>, String> {
    let every = Duration::from_secs(1) / per_s;
    let mut due = Instant::now();
    let mut times = Vec::with_capacity(lines.len());
    for (n, lines) in lines.iter().enumerate() {
        let problem = |problem| format!("client {n}: {problem}");
        let mut stream = upgraded(server).map_err(problem)?;
        due += every;
        let early = due.saturating_duration_since(Instant::now());
        thread::sleep(early);
        // One who is kept waiting by those before has waited since then.
        let since = if early.is_zero() { due } else { Instant::now() };
        log_in(&mut stream, lines).map_err(problem)?;
        times.push(since.elapsed().as_secs_f64() * 1e3);
        leave(&stream).map_err(problem)?;
    }
    Ok(times)
}

/// The connection is reset when it is dropped, so that no port waits.
fn leave(stream: &TcpStream) -> Result<(), String> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).map_err(|error| format!("SO_LINGER: {error}"))
}

/// Guesses at even times until it is over, and how many those were.
fn guessers(server: SocketAddr, per_s: u32, is_over: &AtomicBool) -> Result<u64, String> {
    if per_s == 0 {
        return Ok(0);
    }
    give_way();
    let every = Duration::from_secs(1) / per_s;
    let mut callers = Callers::of(server)?;
    let (mut next, mut guesses) = (Instant::now(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        if next <= now {
            let source = Ipv4Addr::from_bits(FIRST.to_bits() + (guesses % u64::from(ADDRESSES)) as u32);
            callers.call(source, &guess(guesses))?;
            guesses += 1;
            next += every;
        }
        callers.turn(next.saturating_duration_since(now).min(LOOK_EVERY), |_| ())?;
        callers.give_up(GUESSER_WAITS);
    }
    Ok(guesses)
}

fn of(rounds: &[Round], beside: Beside, number: fn(&Round) -> f64) -> Vec<f64> {
    rounds.iter().filter(|round| round.beside == beside).map(number).collect()
}

fn goals(rounds: &[Round]) -> Vec<Goal> {
    let p99 = |beside| of(rounds, beside, |round| round.p99_ms);
    let goal = |beside: Beside| {
        let what = format!("p99 of a login with a token beside {}, to none", beside.name());
        Goal::new(what, 3.0, ratio(&p99(beside), &p99(Beside::Nothing)))
    };
    vec![goal(Beside::Flood), goal(Beside::FloodOfEach)]
}

fn markdown(report: &Report) -> String {
    let mut text = "\n| beside | clients with a token | p50, ms | p99, ms | most, ms | guesses | hashed | refused unseen \
                    |\n|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for beside in Beside::ALL {
        let cell = |digits, number: fn(&Round) -> f64| {
            Spread::of(&of(&report.rounds, beside, number))
                .map_or_else(|| "-".to_owned(), |spread| spread.cell(digits))
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            beside.name(),
            cell(0, |round| round.clients as f64),
            cell(2, |round| round.p50_ms),
            cell(2, |round| round.p99_ms),
            cell(1, |round| round.max_ms),
            cell(0, |round| round.guesses as f64),
            cell(0, |round| round.hashed as f64),
            cell(0, |round| round.put_off as f64),
        );
    }
    text + &goals::table(&report.goals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_against_nothing_beside() {
        let round = |beside: Beside, p99_ms: f64| Round {
            beside,
            clients: 100,
            p50_ms: 0.5,
            p99_ms,
            max_ms: 9.0,
            guesses: beside.guesses_per_s().into(),
            hashed: 0,
            put_off: 0,
        };
        let rounds: Vec<Round> =
            Beside::ALL.into_iter().zip([1.0, 2.0, 4.0]).map(|(beside, ms)| round(beside, ms)).collect();
        let goals = goals(&rounds);
        let text = markdown(&Report { schema: SCHEMA, version: "", rounds, goals });
        for line in [
            "| nothing | 100 | 0.50 | 1.00 | 9.0 | 0 | 0 | 0 |\n",
            "beside 20 guesses a second from 50 addresses, to none | 3 | 2.00 | yes |\n",
            "beside 1000 guesses a second from 50 addresses, to none | 3 | 4.00 | **no** |\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
