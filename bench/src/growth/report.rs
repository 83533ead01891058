//! What was found, as Markdown and as JSON (schema [`SCHEMA`]).
//!
//! Invariant: a number that was not measured is a dash, or `null`; never a zero.

use serde::Serialize;
use tcbchat_bench::Spread;

use crate::chart::label;
use crate::load::{Numbers, cell, ratio};

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
pub const SCHEMA: &str = "tcbchat.growth/1";

/// Which of the chats of a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// With its own connections, and reactors as the server plans them.
    Planned,
    /// With the connections and the reactors of the base, and its own number of threads of clients.
    SameClients,
    /// With the connections of the base, and its own numbers of reactors and of threads of clients.
    SameThreads,
    /// With its own connections, where the kernel's table of connections is large enough for them.
    LargerTable,
    /// The base as planned, with that table.
    SameTable,
}

/// All rounds of one chat.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The size that it is for.
    pub connections: u32,
    /// With its own connections, or with the base's and what it has in common with it.
    pub kind: Kind,
    /// Buckets of the kernel's table of connections.
    pub buckets: Option<u32>,
    /// By round.
    pub rounds: Vec<Numbers>,
    /// Server CPU per delivery against the base's.
    pub to_base: Option<Spread>,
    /// The same against the base's with as many threads of clients.
    pub to_same_clients: Option<Spread>,
    /// The same against the base's with as many reactors, too.
    pub to_same_threads: Option<Spread>,
    /// The same against the base's with as large a table.
    pub to_same_table: Option<Spread>,
}

impl Row {
    /// Of the server.
    pub fn reactors(&self) -> u16 {
        self.rounds.first().map_or(0, |numbers| numbers.reactors)
    }

    /// Of the simulator.
    pub fn threads(&self) -> u32 {
        self.rounds.first().map_or(0, |numbers| numbers.threads)
    }

    /// The middle of a number of all rounds.
    pub fn median(&self, number: impl Fn(&Numbers) -> Option<f64>) -> Option<f64> {
        let numbers: Vec<f64> = self.rounds.iter().filter_map(number).collect();
        Spread::of(&numbers).map(|spread| spread.median)
    }
}

/// A chat that the machine does not hold, or not any more.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Sessions.
    pub connections: u32,
    /// Which chat of them.
    pub kind: Kind,
    /// What is missing, in the words of who says so.
    pub reason: String,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    /// The size that others are measured against.
    pub base: u32,
    room_size: u32,
    in_flight: u32,
    rounds: u32,
    /// By size and kind.
    pub rows: Vec<Row>,
    /// Chats that were not played, or not again.
    pub refused: Vec<Refused>,
    /// Why it ended before all rounds were played, if it did.
    pub ended_by: Option<String>,
}

impl Report {
    /// A report without rows.
    pub fn new(base: u32, room_size: u32, in_flight: u32, rounds: u32) -> Self {
        let (version, rows, refused) = (env!("CARGO_PKG_VERSION"), Vec::new(), Vec::new());
        let ended_by = None;
        Self { schema: SCHEMA, version, base, room_size, in_flight, rounds, rows, refused, ended_by }
    }

    /// Whether a chat is known not to fit.
    pub fn is_refused(&self, connections: u32, kind: Kind) -> bool {
        self.refused.iter().any(|refused| (refused.connections, refused.kind) == (connections, kind))
    }

    /// The row of a chat.
    pub fn row(&self, connections: u32, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| (row.connections, row.kind) == (connections, kind))
    }

    /// Another round of a chat.
    pub fn add(&mut self, connections: u32, kind: Kind, buckets: Option<u32>, numbers: Numbers) {
        match self.rows.iter_mut().find(|row| (row.connections, row.kind) == (connections, kind)) {
            Some(row) => row.rounds.push(numbers),
            None => {
                self.rows.push(Row {
                    connections,
                    kind,
                    buckets,
                    rounds: vec![numbers],
                    to_base: None,
                    to_same_clients: None,
                    to_same_threads: None,
                    to_same_table: None,
                });
                self.rows.sort_by_key(|row| (row.connections, row.kind));
            }
        }
        self.compare();
    }

    fn compare(&mut self) {
        use Kind::{LargerTable, Planned, SameClients, SameTable, SameThreads};
        let against = |row: &Row, kinds: &[Kind], connections, kind| {
            let is_asked = kinds.contains(&row.kind) && (row.connections, row.kind) != (connections, kind);
            if is_asked { ratio(&row.rounds, &self.row(connections, kind)?.rounds) } else { None }
        };
        let base = self.base;
        let ratios: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let size = row.connections;
                [
                    against(row, &[Planned, SameClients, SameThreads, SameTable], base, Planned),
                    against(row, &[Planned, SameThreads], size, SameClients),
                    against(row, &[Planned], size, SameThreads),
                    against(row, &[LargerTable], size, SameTable),
                ]
            })
            .collect();
        for (row, ratios) in self.rows.iter_mut().zip(ratios) {
            [row.to_base, row.to_same_clients, row.to_same_threads, row.to_same_table] = ratios;
        }
    }

    /// As Markdown: CPU, and memory.
    pub fn markdown(&self) -> String {
        let base = label(&f64::from(self.base));
        let mut text = format!(
            "\n| connections | reactors, threads of clients | buckets of the kernel's table | server CPU per delivery, us | \
             to {base} | with as many threads of clients | and as many reactors | with as large a table | in user space, % | \
             waits per message | server, simulator busy, % |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        let shown = |ratio: &Option<Spread>| ratio.map_or_else(String::new, |ratio| ratio.cell(2));
        for row in &self.rows {
            let connections = label(&f64::from(match row.kind {
                Kind::Planned | Kind::LargerTable => row.connections,
                Kind::SameClients | Kind::SameThreads | Kind::SameTable => self.base,
            }));
            let of = |digits, number: fn(&Numbers) -> Option<f64>| cell(&row.rounds, digits, number);
            text += &format!(
                "| {connections} | {}, {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} |\n",
                row.reactors(),
                row.threads(),
                row.buckets.map_or_else(|| "-".to_owned(), |buckets| label(&f64::from(buckets))),
                of(2, |n| Some(n.cpu_us_per_delivery)),
                shown(&row.to_base),
                shown(&row.to_same_clients),
                shown(&row.to_same_threads),
                shown(&row.to_same_table),
                of(1, |n| Some(n.user_share_percent)),
                of(2, |n| n.waits_per_message),
                of(0, |n| Some(n.server_busy_percent)),
                of(0, |n| Some(n.simulator_busy_percent)),
            );
        }
        text += "\n| connections | reactors | user bytes per connection | kernel bytes per end | server CPU while idle, % \
                 |\n|---|---|---|---|---|\n";
        for row in self.rows.iter().filter(|row| row.kind == Kind::Planned) {
            let of = |digits, number: fn(&Numbers) -> Option<f64>| cell(&row.rounds, digits, number);
            text += &format!(
                "| {} | {} | {} | {} | {} |\n",
                label(&f64::from(row.connections)),
                row.reactors(),
                of(1, |n| n.user_bytes),
                of(0, |n| n.kernel_bytes_per_end),
                of(2, |n| n.idle_cpu_percent),
            );
        }
        for Refused { connections, kind, reason } in &self.refused {
            let connections = label(&f64::from(*connections));
            let what = match kind {
                Kind::LargerTable => format!("{connections} connections with a larger table"),
                // It comes first, and where it cannot be the other is not tried.
                Kind::SameTable => format!("{base} and {connections} connections with a larger table"),
                Kind::Planned | Kind::SameClients | Kind::SameThreads => format!("{connections} connections"),
            };
            text += &format!("\n{what} were not tried: {reason}\n");
        }
        if let Some(reason) = &self.ended_by {
            text += &format!("\nThe run ended before its {} rounds were over: {reason}\n", self.rounds);
        }
        text
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::load::tests::costing;

    /// A base, a size with more threads, a smaller one, and one that does not fit.
    pub fn report() -> Report {
        let mut report = Report::new(10_000, 100, 100, 2);
        for factor in [1.0, 2.0] {
            let with = |reactors, us| Numbers { reactors, ..costing(us * factor) };
            let table = Some(262_144);
            report.add(10_000, Kind::Planned, table, with(2, 8.0));
            report.add(1_000_000, Kind::SameTable, Some(4_194_304), with(2, 7.5));
            report.add(1_000_000, Kind::Planned, table, with(53, 16.0));
            report.add(1_000_000, Kind::SameThreads, table, with(53, 12.8));
            report.add(1_000_000, Kind::SameClients, table, with(2, 10.0));
            report.add(1_000_000, Kind::LargerTable, Some(4_194_304), with(53, 9.0));
            report.add(1_000, Kind::Planned, None, with(2, 4.0));
        }
        let refused = [
            (Kind::Planned, "open files are short"),
            (Kind::LargerTable, "it takes memory"),
            (Kind::SameTable, "it takes root"),
        ];
        for (kind, reason) in refused {
            report.refused.push(Refused { connections: 3_000_000, kind, reason: reason.to_owned() });
        }
        report
    }

    #[test]
    fn a_size_is_measured_against_the_base_and_against_as_many_threads() {
        let report = report();
        let ratios: Vec<_> = report
            .rows
            .iter()
            .map(|row| {
                let ratios = [row.to_base, row.to_same_clients, row.to_same_threads, row.to_same_table];
                (row.connections, row.kind, ratios.map(|ratio| ratio.map(|ratio| ratio.cell(2))))
            })
            .collect();
        let some = |ratio: &str| Some(ratio.to_owned());
        let expected = [
            (1_000, Kind::Planned, [some("0.50"), None, None, None]),
            (10_000, Kind::Planned, [None, None, None, None]),
            (1_000_000, Kind::Planned, [some("2.00"), some("1.60"), some("1.25"), None]),
            (1_000_000, Kind::SameClients, [some("1.25"), None, None, None]),
            (1_000_000, Kind::SameThreads, [some("1.60"), some("1.28"), None, None]),
            (1_000_000, Kind::LargerTable, [None, None, None, some("1.20")]),
            (1_000_000, Kind::SameTable, [some("0.94"), None, None, None]),
        ];
        assert_eq!(ratios, expected);
    }

    #[test]
    fn the_tables_have_a_line_for_each_chat_and_the_reason_for_each_that_was_not() {
        let text = report().markdown();
        let line = "| 1,000,000 | 53, 3 | 262,144 | 24.00 (16.00-32.00) | 2.00 | 1.60 | 1.25 |  |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| 10,000 | 2, 3 | 262,144 | 15.00 (10.00-20.00) | 1.25 |  |  |  |"), "{text}");
        let line = "| 1,000,000 | 53, 3 | 4,194,304 | 13.50 (9.00-18.00) |  |  |  | 1.20 |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("| 1,000 | 2, 3 | - |"), "{text}");
        assert!(text.contains("| 1,000,000 | 53 | 180.5 | - | 0.50 |"), "{text}");
        assert!(text.contains("3,000,000 connections were not tried: open files are short"), "{text}");
        let line = "3,000,000 connections with a larger table were not tried: it takes memory";
        assert!(text.contains(line), "{text}");
        let line = "10,000 and 3,000,000 connections with a larger table were not tried: it takes root";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("ended"), "{text}");
        let ended = Report { ended_by: Some("the server was killed".to_owned()), ..report() };
        assert!(ended.markdown().contains("before its 2 rounds were over: the server was killed"));
    }
}
