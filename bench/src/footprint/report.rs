//! What was found, as a table and as JSON (schema [`SCHEMA`]).
//!
//! Invariant: a number that was not measured is a dash, or `null`; never a zero.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use tcbchat_bench::median;

use super::parts::Row;

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
pub const SCHEMA: &str = "tcbchat.footprint/1";

/// Bytes per connection of the real server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measured {
    /// Growth of the server's proportional set size.
    pub user_bytes: f64,
    /// Growth of the kernel's slab, per end of a connection on this machine.
    pub kernel_slab_bytes: Option<f64>,
    /// Growth of TCP's buffers; for both ends.
    pub kernel_buffer_bytes: Option<f64>,
    /// The slab's caches that grew by connections, for both ends.
    pub kernel_caches: Vec<(String, f64)>,
}

impl Measured {
    /// The median of each number.
    pub fn median(runs: &[Measured]) -> Measured {
        let of = |number: fn(&Measured) -> Option<f64>| {
            median(&runs.iter().filter_map(number).collect::<Vec<_>>())
        };
        Measured {
            user_bytes: of(|run| Some(run.user_bytes)).unwrap_or(f64::NAN),
            kernel_slab_bytes: of(|run| run.kernel_slab_bytes),
            kernel_buffer_bytes: of(|run| run.kernel_buffer_bytes),
            kernel_caches: median_caches(runs),
        }
    }
}

/// The caches that grew in most of the runs, the largest first. One that did not grow in a run is not in it.
fn median_caches(runs: &[Measured]) -> Vec<(String, f64)> {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, bytes) in runs.iter().flat_map(|run| &run.kernel_caches) {
        by_name.entry(name).or_default().push(*bytes);
    }
    let mut caches: Vec<_> = by_name
        .into_iter()
        .filter(|(_, grown)| grown.len() * 2 > runs.len())
        .filter_map(|(name, grown)| Some((name.to_owned(), median(&grown)?)))
        .collect();
    caches.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    caches
}

/// So many sessions.
#[derive(Debug, Serialize)]
pub struct Point {
    /// Sessions, each subscribed to one room.
    pub connections: u32,
    /// Reactors of the server.
    pub reactors: u16,
    /// What they take by our count.
    pub parts: Vec<Row>,
    /// What they take by the kernel's count.
    pub measured: Measured,
}

impl Point {
    fn used(&self) -> f64 {
        self.parts.iter().map(|row| row.used_bytes).sum()
    }

    fn reserved(&self) -> f64 {
        self.parts.iter().map(|row| row.reserved_bytes).sum()
    }

    /// What the process grew by beyond the parts in use.
    fn unexplained(&self) -> f64 {
        self.measured.user_bytes - self.used()
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    capacity: u32,
    room_size: u32,
    runs: u32,
    /// What the last server said when it was ready.
    pub server_ready_line: String,
    /// One for each number of sessions, ascending.
    pub points: Vec<Point>,
}

impl Report {
    /// A report without points.
    pub fn new(capacity: u32, room_size: u32, runs: u32) -> Report {
        let version = env!("CARGO_PKG_VERSION");
        let (server_ready_line, points) = (String::new(), Vec::new());
        Report { schema: SCHEMA, version, capacity, room_size, runs, server_ready_line, points }
    }

    /// The tables: the parts of the largest point, and the curve if there are several.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let Some(point) = self.points.last() else { return out };
        line(&mut out, format_args!("{}", self.server_ready_line));
        line(
            &mut out,
            format_args!(
                "{} idle sessions in rooms of {}, bytes per connection, median of {}\n",
                point.connections, self.room_size, self.runs
            ),
        );
        parts_table(&mut out, point);
        kernel_table(&mut out, &point.measured);
        if self.points.len() > 1 {
            self.curve_table(&mut out);
        }
        out
    }

    /// Bytes per connection over the number of connections; *each further* is the slope from the point before,
    /// in which what a process pays once does not show.
    fn curve_table(&self, out: &mut String) {
        line(
            out,
            format_args!(
                "\n{:>11} {:>9} {:>9} {:>12} {:>13} {:>9}",
                "connections", "parts", "PSS", "unexplained", "each further", "kernel"
            ),
        );
        let mut before: Option<&Point> = None;
        for point in &self.points {
            let total = |point: &Point| point.measured.user_bytes * f64::from(point.connections);
            let slope = before.map(|before| {
                (total(point) - total(before)) / f64::from(point.connections - before.connections)
            });
            line(
                out,
                format_args!(
                    "{:>11} {:>9.1} {:>9.1} {:>12.1} {:>13} {:>9}",
                    point.connections,
                    point.used(),
                    point.measured.user_bytes,
                    point.unexplained(),
                    or_dash(slope),
                    or_dash(point.measured.kernel_slab_bytes),
                ),
            );
            before = Some(point);
        }
    }
}

fn parts_table(out: &mut String, point: &Point) {
    line(out, format_args!("{:<30} {:>9} {:>9}", "part", "used", "reserved"));
    for row in &point.parts {
        line(out, format_args!("{:<30} {:>9.1} {:>9.1}", row.part, row.used_bytes, row.reserved_bytes));
    }
    line(out, format_args!("{:<30} {:>9.1} {:>9.1}", "sum of the parts", point.used(), point.reserved()));
    line(out, format_args!("{:<30} {:>9.1}", "unexplained", point.unexplained()));
    line(out, format_args!("{:<30} {:>9.1}", "growth of the server's PSS", point.measured.user_bytes));
}

fn kernel_table(out: &mut String, measured: &Measured) {
    line(out, format_args!("\n{:<30} {:>9}", "kernel", ""));
    line(out, format_args!("{:<30} {:>9}", "slab, per end", or_dash(measured.kernel_slab_bytes)));
    for (name, bytes) in &measured.kernel_caches {
        line(out, format_args!("{:<30} {:>9.1}", format!("  {name}, both ends"), bytes));
    }
    line(out, format_args!("{:<30} {:>9}", "TCP buffers, both ends", or_dash(measured.kernel_buffer_bytes)));
}

fn or_dash(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    writeln!(out, "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(connections: u32, user_bytes: f64) -> Point {
        let parts = vec![
            Row { part: "TCB", used_bytes: 40.0, reserved_bytes: 50.0 },
            Row { part: "timer", used_bytes: 12.0, reserved_bytes: 16.0 },
        ];
        Point { connections, reactors: 2, parts, measured: Measured { user_bytes, ..Measured::default() } }
    }

    #[test]
    fn the_slope_is_without_what_is_paid_once() {
        let mut report = Report::new(2_000, 100, 1);
        // 60 bytes each and 100,000 once.
        report.points = vec![point(1_000, 160.0), point(2_000, 110.0)];
        let table = report.table();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.contains(&vec!["sum", "of", "the", "parts", "52.0", "66.0"]), "{table}");
        assert!(rows.contains(&vec!["1000", "52.0", "160.0", "108.0", "-", "-"]), "{table}");
        assert!(rows.contains(&vec!["2000", "52.0", "110.0", "58.0", "60.0", "-"]), "{table}");
    }

    #[test]
    fn medians_ignore_what_was_not_measured() {
        let run =
            |user_bytes, kernel_slab_bytes| Measured { user_bytes, kernel_slab_bytes, ..Measured::default() };
        let median = Measured::median(&[run(3.0, None), run(1.0, Some(5.0)), run(2.0, Some(7.0))]);
        assert_eq!((median.user_bytes, median.kernel_slab_bytes), (2.0, Some(6.0)));
        assert_eq!(median.kernel_buffer_bytes, None);
    }

    #[test]
    fn a_cache_that_grew_once_is_somebody_elses() {
        let run = |caches: &[(&str, f64)]| Measured {
            kernel_caches: caches.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect(),
            ..Measured::default()
        };
        let runs = [
            run(&[("filp", 390.0), ("TCP", 5_000.0)]),
            run(&[("filp", 380.0), ("TCP", 14_000.0), ("kmalloc-192", 168.0)]),
            run(&[("TCP", 5_010.0), ("filp", 385.0)]),
        ];
        let expected = [("TCP".to_owned(), 5_010.0), ("filp".to_owned(), 385.0)];
        assert_eq!(Measured::median(&runs).kernel_caches, expected);
    }
}
