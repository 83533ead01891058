//! `bench growth`: what a connection and a delivery cost when there are a thousand connections, and when there are a
//! million.
//!
//! All that decides the cost of a delivery is the same at every size but the number of connections: rooms of
//! [`ROOM_SIZE`], one message of a room in flight, as many in flight in all rooms together, the server on one core and the
//! simulator on another. No heart-beats: what a million of them cost is no part of a delivery.
//!
//! With more connections than a descriptor table holds there are more threads, on both sides: more threads of clients, which
//! the server's writes have to wake, and more reactors, over which the members of a room are spread. Both are costs of
//! the descriptor limit, and the first is one of the load. So a size that has more of them is measured against more than
//! the base: as many connections as the base, with as many threads of clients ([`Kind::SameClients`]), and with as many
//! reactors as well ([`Kind::SameThreads`]). What is left against the last is the cost of the connections themselves.
//!
//! The kernel finds each segment's socket in a table whose size was chosen when the machine booted. A size, other than the
//! base, that has more ends of connections than that has buckets is measured with a larger table as well
//! ([`Kind::LargerTable`]), in a network namespace of its own, and so is the base ([`Kind::SameTable`]). Only these two are
//! alike in all but the size: a namespace has no firewall and the kernel's defaults.
//!
//! Invariant: every number is of a chat that lost nothing; a size that the machine does not hold is named with the
//! reason.

mod plot;
mod report;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

use clap::value_parser;
use tcbchat_bench::{output, seconds, write_text};

use crate::files::Files;
use crate::load::{self, Numbers, Serving};
use crate::process::{Cores, NoRun, Programs};
use report::{Kind, Refused, Report};

/// Members of a room.
const ROOM_SIZE: u32 = 100;

/// Options of `bench growth`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sessions, each subscribed to a room of 100
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000],
          value_parser = value_parser!(u32).range(1..=10_000_000))]
    connections: Vec<u32>,
    /// The one of them that the others are measured against
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    base: u32,
    /// Rounds, each of all sizes in turn; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Messages in flight in all rooms together; one of a room
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    in_flight: u32,
    /// Seconds of chat
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    duration: f64,
    /// Seconds of silence before the memory is measured
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    hold: f64,
    #[command(flatten)]
    cores: Cores,
    #[command(flatten)]
    files: Files,
    /// Draw bytes per connection and CPU per delivery against connections
    #[arg(long, value_name = "FILE", value_parser = output)]
    svg: Option<PathBuf>,
}

/// Measures, prints, and writes the files that were asked for. What was measured before a run failed is shown, too.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    args.cores.check()?;
    let sizes = sizes(args)?;
    let programs = Programs::find()?;
    let mut report = Report::new(args.base, ROOM_SIZE, args.in_flight, args.rounds);
    if let Err(reason) = rounds(&programs, args, &sizes, &mut report) {
        report.ended_by = Some(reason);
    }
    let published = if report.rows.is_empty() { Ok(()) } else { publish(args, &report) };
    match (report.ended_by, published) {
        (Some(reason), Err(also)) => Err(format!("{reason}; and {also}")),
        (reason, published) => reason.map_or(published, Err),
    }
}

fn publish(args: &Args, report: &Report) -> Result<(), String> {
    let drawn = args.svg.as_deref().map_or(Ok(()), |path| write_text(path, &plot::draw(report)?));
    drawn.and(args.files.publish(report, &report.markdown()))
}

fn rounds(programs: &Programs, args: &Args, sizes: &[u32], report: &mut Report) -> Result<(), String> {
    for round in 1..=args.rounds {
        for &connections in sizes {
            if !report.is_refused(connections, Kind::Planned) {
                measure(programs, args, report, connections, round)?;
            }
        }
    }
    Ok(())
}

/// The base first, because it says how many threads are more; then the others, ascending.
fn sizes(args: &Args) -> Result<Vec<u32>, String> {
    let mut sizes = args.connections.clone();
    sizes.sort_unstable();
    sizes.dedup();
    if !sizes.contains(&args.base) {
        return Err(format!("--base {} is none of --connections", args.base));
    }
    sizes.retain(|size| *size != args.base);
    sizes.insert(0, args.base);
    Ok(sizes)
}

/// One size, and the base with what is different in it besides the number of connections.
fn measure(
    programs: &Programs,
    args: &Args,
    report: &mut Report,
    connections: u32,
    round: u32,
) -> Result<(), String> {
    eprintln!("round {round} of {}: {connections} connections", args.rounds);
    // Not known before Linux 6.1, and where the kernel's settings are hidden.
    let buckets = netns::connection_buckets().ok();
    let numbers = match chat(programs, args, connections, None) {
        Ok(numbers) => numbers,
        Err(NoRun::Refused(reason)) if connections != args.base => {
            eprintln!("{reason}");
            report.refused.push(Refused { connections, kind: Kind::Planned, reason });
            return Ok(());
        }
        Err(reason) => return Err(reason.into()),
    };
    let (reactors, threads) = (numbers.reactors, numbers.threads);
    report.add(connections, Kind::Planned, buckets, numbers);
    let base = report.row(args.base, Kind::Planned);
    let (base_reactors, base_threads) =
        base.map_or((reactors, threads), |row| (row.reactors(), row.threads()));
    let threads = even_threads(args.base, threads);
    let mut add = |kind, reactors| {
        eprintln!("  {} connections, reactors: {reactors}, threads of clients: {threads}", args.base);
        let numbers = chat(programs, args, args.base, Some((reactors, threads)))?;
        report.add(connections, kind, buckets, numbers);
        Ok::<(), String>(())
    };
    if threads > base_threads {
        add(Kind::SameClients, base_reactors)?;
    }
    if reactors > base_reactors {
        add(Kind::SameThreads, reactors)?;
    }
    match buckets.and_then(|buckets| larger_table(connections, buckets)) {
        Some(larger) if connections != args.base => {
            measure_in_larger_table(programs, args, report, connections, larger)
        }
        _ => Ok(()),
    }
}

/// How many buckets a table needs that has two for each end, both of which are on this machine, up to the kernel's own
/// limit; `None` if one with `buckets` has one for each, or is as large.
fn larger_table(connections: u32, buckets: u32) -> Option<u32> {
    const BUCKETS_MAX: u64 = 1 << 24;
    let ends = u64::from(connections) * 2;
    let larger = (ends * 2).next_power_of_two().min(BUCKETS_MAX) as u32;
    (ends > u64::from(buckets) && larger > buckets).then_some(larger)
}

/// One size, and the base, in namespaces whose table of connections is large enough for it.
fn measure_in_larger_table(
    programs: &Programs,
    args: &Args,
    report: &mut Report,
    connections: u32,
    buckets: u32,
) -> Result<(), String> {
    // The base first: behind a million connections the kernel would still be busy with the end of their namespace.
    let kinds = [(Kind::SameTable, args.base), (Kind::LargerTable, connections)];
    if kinds.iter().any(|(kind, _)| report.is_refused(connections, *kind)) {
        return Ok(());
    }
    for (kind, there) in kinds {
        eprintln!("  {there} connections, buckets of the kernel's table: {buckets}");
        match in_table(buckets, || chat(programs, args, there, None)) {
            Ok(numbers) => report.add(connections, kind, Some(buckets), numbers),
            Err(NoRun::Refused(reason)) => {
                eprintln!("{reason}");
                report.refused.push(Refused { connections, kind, reason });
                break;
            }
            Err(reason) => return Err(reason.into()),
        }
    }
    Ok(())
}

/// Has `run` start what it starts in a network namespace whose table of connections has so many buckets.
fn in_table<T: Send>(buckets: u32, run: impl FnOnce() -> Result<T, NoRun> + Send) -> Result<T, NoRun> {
    // A thread that has entered one does not come back.
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netns::enter_with_connection_buckets(buckets)?;
            run()
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The most threads, up to so many, over which the rooms of a run can be divided evenly: a window needs all members of
/// a room on one.
fn even_threads(connections: u32, most: u32) -> u32 {
    let rooms = connections / ROOM_SIZE;
    let is_even = |threads: &u32| connections.is_multiple_of(ROOM_SIZE) && rooms.is_multiple_of(*threads);
    (1..=most).rev().find(is_even).unwrap_or(1)
}

/// A chat with so many connections; reactors and threads as planned, or as given.
fn chat(
    programs: &Programs,
    args: &Args,
    connections: u32,
    threads: Option<(u16, u32)>,
) -> Result<Numbers, NoRun> {
    let serving =
        Serving { capacity: connections, reactors: threads.map(|(reactors, _)| reactors), settings: &[] };
    let simulator_threads = threads.map(|(_, threads)| threads);
    load::chat(programs, args.cores, serving, &arguments(args, connections, simulator_threads))
}

/// What the simulator is told.
fn arguments(args: &Args, connections: u32, threads: Option<u32>) -> Vec<String> {
    // A million clients on one core get ready slowly, and their last message may be long under way.
    const ALWAYS: &str = "--window 1 --receipts --room-prefix growth- --heart-beat 0,0 --connect-rate 20000 \
        --timeout 120 --drain 20 --no-goodbye";
    let mut arguments: Vec<String> = ALWAYS.split_whitespace().map(str::to_owned).collect();
    arguments.extend([
        format!("--connections={connections}"),
        format!("--room-size={ROOM_SIZE}"),
        format!("--in-flight={}", args.in_flight),
        format!("--duration={}", args.duration),
        format!("--hold={}", args.hold),
    ]);
    arguments.extend(threads.map(|threads| format!("--threads={threads}")));
    arguments
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

    fn args(line: &[&str]) -> Args {
        Line::try_parse_from([&["growth"], line].concat()).unwrap().args
    }

    #[test]
    fn the_base_comes_first_and_must_be_there() {
        assert_eq!(sizes(&args(&[])).unwrap(), [10_000, 1_000, 100_000, 1_000_000]);
        let twice = args(&["--connections", "400,200,400", "--base", "400"]);
        assert_eq!(sizes(&twice).unwrap(), [400, 200]);
        let error = sizes(&args(&["--connections", "200,400"])).unwrap_err();
        assert!(error.contains("--base 10000"), "{error}");
        assert!(Line::try_parse_from(["growth", "--connections", "0"]).is_err());
        assert!(Line::try_parse_from(["growth", "--rounds", "0"]).is_err());
    }

    #[test]
    fn each_thread_has_whole_rooms() {
        assert_eq!(even_threads(10_000, 54), 50);
        assert_eq!(even_threads(10_000, 6), 5);
        assert_eq!(even_threads(200, 54), 2);
        assert_eq!(even_threads(250, 54), 1);
        assert_eq!(even_threads(50, 54), 1);
    }

    #[test]
    fn a_table_has_room_for_both_ends_or_there_is_a_larger_one() {
        assert_eq!(larger_table(131_072, 262_144), None);
        assert_eq!(larger_table(131_073, 262_144), Some(1_048_576));
        assert_eq!(larger_table(1_000_000, 262_144), Some(4_194_304));
        assert_eq!(larger_table(1_000_000, 4_194_304), None);
        assert_eq!(larger_table(10_000_000, 262_144), Some(16_777_216));
        assert_eq!(larger_table(10_000_000, 16_777_216), None, "the kernel makes no larger one");
    }

    #[test]
    fn the_load_does_not_depend_on_the_size() {
        let args = args(&["--in-flight", "30"]);
        let without_size = |connections: u32| {
            let mut arguments = arguments(&args, connections, None);
            arguments.retain(|argument| !argument.starts_with("--connections="));
            arguments
        };
        assert_eq!(without_size(10_000), without_size(1_000_000));
        assert!(without_size(1).contains(&"--in-flight=30".to_owned()));
        assert!(super::arguments(&args, 1, Some(7)).contains(&"--threads=7".to_owned()));
    }
}
