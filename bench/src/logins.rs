//! `bench logins`: how many clients a second can prove who they are.
//!
//! Checks have threads of their own in the server, one for tokens and one for passwords. What is shown is the CPU of the thread
//! that checks, by the kernel's account of it, for each kind of proof. Beside it is the CPU of the whole server, in which
//! connection, handshake and end are, too. Some clients wait at a time, so the thread is seldom woken for one alone.
//!
//! Invariant: every client had its session, or there is no result.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use clap::value_parser;
use serde::Serialize;
use tcbchat_bench::Spread;

use crate::callers::{Answer, Callers};
use crate::files::Files;
use crate::issuer::{Issuer, Proof};
use crate::load::{self, Serving};
use crate::process::{Cores, NoRun, Programs, on_core};
use crate::scrape;

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
const SCHEMA: &str = "tcbchat.logins/1";
/// Clients that wait for their answer at a time.
const AT_ONCE: usize = 32;
/// Places in the server's table: those who are gone have theirs until the server has noticed.
const CAPACITY: u32 = 4_000;
/// A tenth of the clients come before anything is measured.
const WARM_UP: u32 = 10;
/// How long all may wait for the next answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of `bench logins`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Clients with a token, in each round
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u32).range(10..=1_000_000))]
    tokens: u32,
    /// Clients with a password, in each round
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(10..=100_000))]
    passwords: u32,
    /// Rounds, each with a new server for each kind of proof; the median is shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=99))]
    rounds: u32,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
}

/// What one round has shown of one kind of proof.
#[derive(Debug, Clone, Serialize)]
struct Round {
    proof: Proof,
    clients: u32,
    /// CPU of the thread that checks, microseconds for each client.
    check_us: f64,
    /// CPU of the server.
    server_us: f64,
    /// Clients a second, as they came.
    clients_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    rounds: Vec<Round>,
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    let programs = Programs::find()?;
    let issuer = Issuer::new()?;
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        for proof in Proof::ALL {
            eprintln!("round {round} of {}: {}", args.rounds, proof.name());
            rounds.push(measure(&programs, args, &issuer, proof)?);
        }
    }
    let report = Report { schema: SCHEMA, version: env!("CARGO_PKG_VERSION"), rounds };
    args.files.publish(&report, &markdown(&report.rounds))
}

fn measure(programs: &Programs, args: &Args, issuer: &Issuer, proof: Proof) -> Result<Round, NoRun> {
    let clients = if proof == Proof::Argon2id { args.passwords } else { args.tokens };
    let lines = (0..clients).map(|n| issuer.lines(proof, n)).collect::<Result<Vec<String>, String>>()?;
    let settings = issuer.settings();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let serving = Serving { capacity: CAPACITY, reactors: Some(1), settings: &settings };
    let server = load::start(programs, args.cores, serving)?;
    let (address, pid) = (server.address()?, server.pid());
    on_core(args.cores.client_core, || {
        call(address, &lines[..(clients / WARM_UP) as usize])?;
        let now = || {
            Ok::<_, String>((scrape::threads_cpu_s(pid, proof.threads())?, scrape::threads_cpu_s(pid, "")?))
        };
        let (before, since) = (now()?, Instant::now());
        call(address, &lines)?;
        let (after, seconds) = (now()?, since.elapsed().as_secs_f64());
        let us_each = |from: f64, to: f64| (to - from) * 1e6 / f64::from(clients);
        Ok(Round {
            proof,
            clients,
            check_us: us_each(before.0, after.0),
            server_us: us_each(before.1, after.1),
            clients_per_s: f64::from(clients) / seconds,
        })
    })
}

/// All of these get a session.
fn call(server: SocketAddr, lines: &[String]) -> Result<(), String> {
    let mut callers = Callers::of(server)?;
    let mut to_come = lines.iter();
    let mut heard = Instant::now();
    let mut refused = 0;
    loop {
        while callers.waiting() < AT_ONCE {
            let Some(lines) = to_come.next() else { break };
            callers.call(Ipv4Addr::LOCALHOST, lines)?;
        }
        if callers.waiting() == 0 {
            break;
        }
        callers.turn(PATIENCE, |answer| {
            heard = Instant::now();
            refused += u32::from(answer == Answer::Refused);
        })?;
        if heard.elapsed() > PATIENCE {
            return Err(format!("{} clients have waited {PATIENCE:?}", callers.waiting()));
        }
    }
    if refused > 0 { Err(format!("{refused} of {} clients were refused", lines.len())) } else { Ok(()) }
}

fn markdown(rounds: &[Round]) -> String {
    let mut text = "\n| proof | clients | CPU of the thread that checks, us each | a second of its CPU is for | CPU of the \
                    server, us each | clients a second, as they came |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for proof in Proof::ALL {
        let of = |digits, number: fn(&Round) -> f64| {
            let rounds = rounds.iter().filter(|round| round.proof == proof);
            Spread::of(&rounds.map(number).collect::<Vec<f64>>())
                .map_or_else(|| "-".to_owned(), |spread| spread.cell(digits))
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            proof.name(),
            of(0, |round| round.clients.into()),
            of(1, |round| round.check_us),
            of(0, |round| 1e6 / round.check_us),
            of(1, |round| round.server_us),
            of(0, |round| round.clients_per_s),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proof_has_a_line_and_one_that_was_not_measured_has_none_of_its_numbers() {
        let round = |check_us| Round {
            proof: Proof::EdDsa,
            clients: 10,
            check_us,
            server_us: 300.0,
            clients_per_s: 5e3,
        };
        let text = markdown(&[50.0, 40.0, 80.0].map(round));
        for line in [
            "| EdDSA | 10 | 50.0 (40.0-80.0) | 20000 (12500-25000) | 300.0 | 5000 |\n",
            "| HS256 | - | - | - | - | - |\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
