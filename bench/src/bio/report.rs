//! The comparison as a table and as JSON (schema [`SCHEMA`]).
//!
//! Invariant: kernel memory is beside user memory, never in one sum with it; what was not measured is a dash, or
//! `null`, never a zero.

use std::fmt::Write as _;

use serde::Serialize;
use tcbchat_bench::median;

use super::stop::Stop;

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
pub const SCHEMA: &str = "tcbchat.bio/1";

/// What one server took for one chat.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measured {
    /// Threads, with all connections open.
    pub threads: f64,
    /// Growth of its proportional set size per connection: heap, and the stacks' pages in use.
    pub user_bytes: f64,
    /// Growth of its address space per connection, at its height: stacks are reserved whole.
    pub address_space_bytes: Option<f64>,
    /// Growth of the kernel's slab per connection, both ends of it and the server's threads.
    pub kernel_slab_bytes: Option<f64>,
    /// Growth of the threads' kernel stacks per connection.
    pub kernel_stack_bytes: Option<f64>,
    /// Growth of the page tables per connection.
    pub page_table_bytes: Option<f64>,
    /// CPU of the server.
    pub cpu_us_per_delivery: f64,
    /// Its threads waited for something.
    pub voluntary_switches_per_delivery: f64,
    /// Its threads had work, and lost the CPU.
    pub involuntary_switches_per_delivery: f64,
    /// Messages times those who got them.
    pub deliveries: f64,
    /// From the intended send to the delivery.
    pub delivery_p50_ms: f64,
    /// See `delivery_p50_ms`.
    pub delivery_p99_ms: f64,
    /// The slab's caches that grew by connections, bytes each; of the first run.
    pub kernel_caches: Vec<(String, f64)>,
}

impl Measured {
    /// The median of each number.
    pub fn median(runs: &[Measured]) -> Measured {
        let known = |number: fn(&Measured) -> Option<f64>| {
            median(&runs.iter().filter_map(number).collect::<Vec<_>>())
        };
        macro_rules! medians {
            ($($sure:ident),*; $($maybe:ident),*) => {
                Measured {
                    $($sure: known(|run| Some(run.$sure)).unwrap_or(f64::NAN),)*
                    $($maybe: known(|run| run.$maybe),)*
                    kernel_caches: runs.first().map(|run| run.kernel_caches.clone()).unwrap_or_default(),
                }
            };
        }
        medians!(
            threads, user_bytes, cpu_us_per_delivery, voluntary_switches_per_delivery,
            involuntary_switches_per_delivery, deliveries, delivery_p50_ms, delivery_p99_ms;
            address_space_bytes, kernel_slab_bytes, kernel_stack_bytes, page_table_bytes
        )
    }
}

/// A server and what it took.
#[derive(Debug, Serialize)]
pub struct Side {
    /// Its name.
    pub server: &'static str,
    /// Medians over the runs.
    pub measured: Measured,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    connections: u32,
    room_size: u32,
    rate_per_s: f64,
    runs: u32,
    /// The reactor first.
    pub sides: Vec<Side>,
    /// Where each stopped.
    pub stops: Vec<Stop>,
}

impl Report {
    /// A report without results.
    pub fn new(connections: u32, room_size: u32, rate_per_s: f64, runs: u32) -> Report {
        let (version, sides, stops) = (env!("CARGO_PKG_VERSION"), Vec::new(), Vec::new());
        Report { schema: SCHEMA, version, connections, room_size, rate_per_s, runs, sides, stops }
    }

    /// Both servers side by side, and where they stop.
    pub fn table(&self) -> String {
        let mut text = format!(
            "BIO against NIO: {} connections in rooms of {}, {} messages/s, median of {}\n",
            self.connections, self.room_size, self.rate_per_s, self.runs
        );
        if let [nio, bio] = &self.sides[..] {
            // Writing to a String cannot fail.
            writeln!(text, "  {:<46} {:>12} {:>12} {:>9}", "", nio.server, bio.server, "ratio")
                .unwrap_or_default();
            for (name, decimals, of) in ROWS {
                let (nio, bio) = (of(&nio.measured), of(&bio.measured));
                let ratio = nio.zip(bio).filter(|(nio, _)| *nio > 0.0).map(|(nio, bio)| bio / nio);
                let cell = |number: Option<f64>, decimals| {
                    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
                };
                let cells = (cell(nio, *decimals), cell(bio, *decimals), cell(ratio, 1));
                writeln!(text, "  {name:<46} {:>12} {:>12} {:>9}", cells.0, cells.1, cells.2)
                    .unwrap_or_default();
            }
        }
        for stop in &self.stops {
            let Stop { server, sessions, tried, reason, walls } = stop;
            writeln!(text, "{server}: {sessions} sessions of {tried} tried").unwrap_or_default();
            writeln!(text, "  stopped by  {}", reason.as_deref().unwrap_or("nothing")).unwrap_or_default();
            if let Some(wall) = walls.nearest() {
                writeln!(text, "  nearest     {wall}").unwrap_or_default();
            }
        }
        text
    }
}

type Row = (&'static str, usize, fn(&Measured) -> Option<f64>);

/// Name, decimals and number of each row.
const ROWS: &[Row] = &[
    ("threads of the server", 0, |m| Some(m.threads)),
    ("user bytes per connection (PSS)", 0, |m| Some(m.user_bytes)),
    ("address space per connection, bytes", 0, |m| m.address_space_bytes),
    ("kernel slab per connection, both ends, bytes", 0, |m| m.kernel_slab_bytes),
    ("kernel stacks per connection, bytes", 0, |m| m.kernel_stack_bytes),
    ("page tables per connection, bytes", 0, |m| m.page_table_bytes),
    ("CPU per delivery, us", 2, |m| Some(m.cpu_us_per_delivery)),
    ("voluntary context switches per delivery", 4, |m| Some(m.voluntary_switches_per_delivery)),
    ("involuntary context switches per delivery", 4, |m| Some(m.involuntary_switches_per_delivery)),
    ("delivery p50, ms", 1, |m| Some(m.delivery_p50_ms)),
    ("delivery p99, ms", 1, |m| Some(m.delivery_p99_ms)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(user_bytes: f64) -> Measured {
        Measured { user_bytes, page_table_bytes: Some(user_bytes), ..Measured::default() }
    }

    #[test]
    fn the_median_is_of_each_number() {
        let mut runs = [measured(3.0), measured(1.0), measured(2.0)];
        runs[2].page_table_bytes = None;
        let median = Measured::median(&runs);
        assert_eq!(
            (median.user_bytes, median.page_table_bytes, median.kernel_slab_bytes),
            (2.0, Some(2.0), None)
        );
    }

    #[test]
    fn the_table_has_ratios_and_reasons() {
        let mut report = Report::new(100, 10, 5.0, 1);
        report.sides = vec![
            Side { server: "tcbchat", measured: measured(500.0) },
            Side { server: "bio-server", measured: measured(20_000.0) },
        ];
        report.stops = vec![Stop {
            server: "bio-server, at most 7".to_owned(),
            sessions: 7,
            tried: 9,
            reason: Some("because".to_owned()),
            walls: crate::thread_walls::Walls::default(),
        }];
        let table = report.table();
        let row = table.lines().find(|line| line.contains("PSS")).unwrap();
        assert!(row.contains("500") && row.contains("20000") && row.contains("40.0"), "{row}");
        // Not measured.
        assert!(table.lines().any(|line| line.contains("kernel stacks") && line.contains(" - ")), "{table}");
        assert!(table.contains("7 sessions of 9 tried") && table.contains("because"));
    }
}
