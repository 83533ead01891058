//! What was measured, as a table and as JSON (schema [`SCHEMA`]).

use std::fmt::Write as _;

use serde::Serialize;

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
pub const SCHEMA: &str = "tcbchat.hash-table/1";

/// A full table of one shape.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Connections in it.
    pub tcbs: u32,
    /// Buckets over all partitions.
    pub buckets: u32,
    /// Partitions.
    pub partitions: u32,
    /// The table has as many buckets as it gets by default.
    pub is_default: bool,
    /// Connections per bucket: the mean length of a chain, empty ones included.
    pub load_factor: f64,
    /// Connections that a lookup compares on average.
    pub mean_probes: f64,
    /// Connections in the longest chain.
    pub longest_chain: u64,
    /// CPU nanoseconds of a lookup.
    pub cpu_ns: f64,
    /// Nanoseconds of a lookup by the clock, with all threads at it.
    pub wall_ns: f64,
}

/// All points.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    threads: u32,
    repeats: u32,
    tcb_bytes: usize,
    /// In the order in which they were measured.
    pub points: Vec<Point>,
}

impl Report {
    /// A report without points.
    pub fn new(threads: u32, repeats: u32) -> Report {
        let (version, tcb_bytes) = (env!("CARGO_PKG_VERSION"), tcbchat::tcb::TCB_BYTES);
        Report { schema: SCHEMA, version, threads, repeats, tcb_bytes, points: Vec::new() }
    }

    /// Numbers by partitions, connections and buckets. `*` marks the default number of buckets.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Lookups in the TCB table, {} threads at once, median of {}\n\
             {:>10} {:>9} {:>10} {:>10} {:>9} {:>8} {:>10} {:>10}\n",
            self.threads,
            self.repeats,
            "partitions",
            "TCBs",
            "buckets",
            "TCBs/bkt",
            "probes",
            "longest",
            "CPU ns",
            "wall ns",
        );
        for point in &self.points {
            let mark = if point.is_default { '*' } else { ' ' };
            // Writing to a String cannot fail.
            writeln!(
                text,
                "{:>10} {:>9} {:>9}{mark} {:>10.2} {:>9.2} {:>8} {:>10.0} {:>10.0}",
                point.partitions,
                point.tcbs,
                point.buckets,
                point.load_factor,
                point.mean_probes,
                point.longest_chain,
                point.cpu_ns,
                point.wall_ns
            )
            .unwrap_or_default();
        }
        text += "*: as many buckets as the table gets by default\n";
        text
    }
}
