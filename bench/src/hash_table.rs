//! What a lookup costs in the TCB table, by the length of its chains: Windows' `MaxHashTableSize`, measured.
//!
//! The real table is filled for each pair of sizes and looked up in by two threads at once, in an order that no
//! cache foresees. CPU time is what the chains cost; wall time has in it what the threads take from one another by
//! the locks of the partitions, and what else runs on the machine.
//!
//! Invariant: every lookup finds its connection; one that did not would be cheap, and wrong.

mod plot;
mod report;

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use clap::value_parser;
use rustix::time::{ClockId, clock_gettime};
use tcbchat::tcb::{TableConfig, TcbTable, time_wait};
use tcbchat::time::Tick;
use tcbchat_bench::{median, output, scattered_from, show, tuple, write_json};

use report::{Point, Report};

/// Threads that look up at once.
const THREADS: u32 = 2;
/// How long one repeat should take a thread: many ticks of the clock, and short enough to fit between two
/// interruptions by others now and then.
const REPEAT: Duration = Duration::from_millis(20);
/// Lookups of the run that finds out how many fill a repeat.
const TRIAL: u32 = 256;
/// Lookups of one repeat at most.
const LOOKUPS_MAX: u32 = 1 << 20;

/// Options of `bench hash-table`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Connections in the table
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1_000, 10_000, 50_000, 200_000, 1_000_000],
          value_parser = value_parser!(u32).range(1..=10_000_000))]
    tcbs: Vec<u32>,
    /// Buckets over all partitions
    #[arg(long, value_name = "N,N", value_delimiter = ',',
          default_values_t = [512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536],
          value_parser = value_parser!(u32).range(1..=16_777_216))]
    buckets: Vec<u32>,
    /// Partitions, each with a lock
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 8],
          value_parser = value_parser!(u32).range(1..=1_024))]
    partitions: Vec<u32>,
    /// Measurements of each point; the median counts
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = value_parser!(u32).range(1..=99))]
    repeats: u32,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", value_parser = output)]
    json: Option<PathBuf>,
    /// Draw the result: lookup cost against chain length
    #[arg(long, value_name = "FILE", value_parser = output)]
    svg: Option<PathBuf>,
}

/// Measures, prints, and writes the files that were asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let mut report = Report::new(THREADS, args.repeats);
    for &partitions in &args.partitions {
        for &tcbs in &args.tcbs {
            // And the default: what `TableConfig::sized` gives a table of this capacity.
            let sized = TableConfig::sized(tcbs, 1).hash_buckets;
            let mut buckets = args.buckets.clone();
            buckets.push(sized);
            buckets.sort_unstable();
            buckets.dedup();
            eprintln!("{tcbs} TCBs, {partitions} partitions");
            for buckets in buckets {
                report.points.push(measure(tcbs, buckets, partitions, sized == buckets, args.repeats));
            }
        }
    }
    show(&report.table())?;
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    if let Some(path) = &args.svg {
        let failed = |error: String| format!("{}: {error}", path.display());
        let svg = plot::draw(&report.points).map_err(failed)?;
        std::fs::write(path, svg).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}

/// One point: a full table of this shape, and the medians over the repeats.
fn measure(tcbs: u32, buckets: u32, partitions: u32, is_default: bool, repeats: u32) -> Point {
    let table = filled(tcbs, buckets, partitions);
    let stats = table.stats();
    let trial = repeat(&table, tcbs, TRIAL, 0);
    let lookups = (REPEAT.as_nanos() as f64 / trial.cpu_ns.max(1.0)) as u32;
    let runs: Vec<Cost> =
        (1..=repeats).map(|run| repeat(&table, tcbs, lookups.clamp(TRIAL, LOOKUPS_MAX), run)).collect();
    let middle = |of: fn(&Cost) -> f64| median(&runs.iter().map(of).collect::<Vec<_>>()).unwrap_or(f64::NAN);
    Point {
        tcbs,
        buckets,
        partitions,
        is_default,
        load_factor: stats.load_factor,
        mean_probes: stats.chains.mean_probes(),
        longest_chain: stats.chains.longest() as u64,
        cpu_ns: middle(|cost| cost.cpu_ns),
        wall_ns: middle(|cost| cost.wall_ns),
    }
}

/// A table that is full. Two threads fill it, because each admission looks through a whole chain first.
fn filled(tcbs: u32, buckets: u32, partitions: u32) -> TcbTable {
    let time_wait = time_wait::Config::default();
    let table = TcbTable::new(TableConfig { capacity: tcbs, hash_buckets: buckets, partitions, time_wait });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                for n in (thread..tcbs).step_by(THREADS as usize) {
                    table.admit(tuple(n), Tick(1)).expect("there is room for all of them");
                }
            });
        }
    });
    table
}

/// Nanoseconds of one lookup, mean of a thread; the mean of the threads.
#[derive(Debug, Clone, Copy)]
struct Cost {
    cpu_ns: f64,
    wall_ns: f64,
}

/// All threads look up `lookups` connections each.
fn repeat(table: &TcbTable, tcbs: u32, lookups: u32, run: u32) -> Cost {
    let together = Barrier::new(THREADS as usize);
    let costs: Vec<Cost> = thread::scope(|scope| {
        let begin = |thread| {
            let together = &together;
            scope.spawn(move || {
                // Each thread and each repeat its own part of the order: what the last one looked up is not what
                // the next one does.
                let order = scattered_from(run * THREADS + thread, tcbs);
                together.wait();
                look_up(table, lookups, order)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(begin).collect();
        threads.into_iter().map(|thread| thread.join().expect("a lookup does not panic")).collect()
    });
    let mean = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
    Cost { cpu_ns: mean(|cost| cost.cpu_ns), wall_ns: mean(|cost| cost.wall_ns) }
}

fn look_up(table: &TcbTable, lookups: u32, mut next: impl FnMut() -> u32) -> Cost {
    let (wall, cpu) = (Instant::now(), cpu_time());
    for _ in 0..lookups {
        assert!(black_box(table.find(&tuple(next()))).is_some(), "every connection is in the table");
    }
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(lookups);
    Cost { cpu_ns: each(cpu_time() - cpu), wall_ns: each(wall.elapsed()) }
}

/// CPU that this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_knows_its_chains() {
        let point = measure(600, 4, 2, false, 1);
        assert_eq!(point.load_factor, 150.0);
        assert!(
            point.longest_chain >= 150 && point.mean_probes > 70.0 && point.mean_probes < 90.0,
            "{point:?}"
        );
        assert!(point.cpu_ns > 0.0 && point.wall_ns > 0.0);
    }
}
