//! What was found, as Markdown and as JSON (schema [`SCHEMA`]), beside what is promised.
//!
//! Invariant: a number that was not measured is a dash, or `null`; never a zero.

use serde::Serialize;
use tcbchat_bench::Spread;

use super::costs::{self, RESETS_RATE, TURNOVER_RATE};
use super::joins;
use super::stalled;
use crate::goals::{self, Goal};
use crate::load::{Numbers, cell, ratio};

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
pub const SCHEMA: &str = "tcbchat.large-room/1";

const MIB: f64 = 1024.0 * 1024.0;

/// Sizes of the rooms.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sizes {
    /// Of the rooms of joins and resets.
    pub members: u32,
    /// Who join at once.
    pub at_once: u32,
    /// Of the room with turnover.
    pub large_members: u32,
    /// Of the room whose members do not read.
    pub stalled_members: u32,
}

/// Everything that was found, each by round.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    sizes: Sizes,
    /// Joins in a quiet room and in one that is published to.
    pub joins: Vec<joins::Round>,
    /// Deliveries beside joins and leaves, and beside none.
    pub turnover: Vec<costs::Round>,
    /// Members who do not read, and who do.
    pub stalled: Vec<stalled::Round>,
    /// Deliveries beside resets, and beside none.
    pub resets: Vec<costs::Round>,
    /// What is promised, once it was judged.
    pub goals: Vec<Goal>,
}

impl Report {
    /// A report without rounds.
    pub fn new(sizes: Sizes) -> Report {
        Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            sizes,
            joins: Vec::new(),
            turnover: Vec::new(),
            stalled: Vec::new(),
            resets: Vec::new(),
            goals: Vec::new(),
        }
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.turnover.is_empty() && self.stalled.is_empty() && self.resets.is_empty()
    }

    /// Compares what was measured with what is promised.
    pub fn judge(&mut self) {
        let published = |number: fn(&joins::Round) -> f64| {
            let rounds = self.joins.iter().filter(|round| round.side == joins::Side::Published);
            Spread::of(&rounds.map(number).collect::<Vec<f64>>())
        };
        let stalled = self.stalled.iter().filter(|round| round.side == stalled::Side::Stalled);
        let beyond: Vec<f64> = stalled.map(|round| round.beyond_log_bytes as f64 / MIB).collect();
        let goals = [
            ("p99 of a join, ms".to_owned(), 25.0, published(|round| round.join_p99_ms)),
            (
                format!("{} joins at once, ms", self.sizes.at_once),
                1_000.0,
                published(|round| round.at_once_ms),
            ),
            (
                format!("CPU of a delivery beside {} joins and leaves a second, to none", costs::JOINS),
                1.1,
                to_none(&self.turnover),
            ),
            (
                format!("memory beyond the log, {} stalled members, MiB", self.sizes.stalled_members),
                32.0,
                Spread::of(&beyond),
            ),
            ("CPU of a delivery beside a reset per message, to none".to_owned(), 1.1, to_none(&self.resets)),
        ];
        self.goals =
            goals.into_iter().map(|(what, at_most, measured)| Goal::new(what, at_most, measured)).collect();
    }

    /// As Markdown: a table of each part that was measured, and one of the goals.
    pub fn markdown(&self) -> String {
        let Sizes { members, large_members, .. } = self.sizes;
        let tables = [
            (!self.joins.is_empty()).then(|| self.joins_table()),
            (!self.turnover.is_empty()).then(|| {
                let room = format!(
                    "{large_members} members, {TURNOVER_RATE} messages a second; joins and leaves a second"
                );
                costs_table(&room, costs::JOINS, &self.turnover)
            }),
            (!self.stalled.is_empty()).then(|| self.stalled_table()),
            (!self.resets.is_empty()).then(|| {
                let room = format!("{members} members, {RESETS_RATE} messages a second; resets per message");
                costs_table(&room, 1, &self.resets)
            }),
            Some(goals::table(&self.goals)),
        ];
        tables.into_iter().flatten().collect()
    }

    fn joins_table(&self) -> String {
        let mut text = format!(
            "\n| {} members; published to the room | joins a second | p50 of a join, ms | p99, ms | most, ms | {} at \
             once, ms | server busy, % |\n|---|---|---|---|---|---|---|\n",
            self.sizes.members, self.sizes.at_once
        );
        for side in joins::Side::ALL {
            let of = |digits, number: fn(&joins::Round) -> f64| {
                let rounds = self.joins.iter().filter(|round| round.side == side);
                spread(digits, rounds.map(number))
            };
            text += &format!(
                "| {} | {} | {} | {} | {} | {} | {} |\n",
                side.name(),
                joins::JOINS,
                of(2, |round| round.join_p50_ms),
                of(2, |round| round.join_p99_ms),
                of(1, |round| round.join_max_ms),
                of(0, |round| round.at_once_ms),
                of(0, |round| round.server_busy_percent),
            );
        }
        text
    }

    fn stalled_table(&self) -> String {
        let mut text = format!(
            "\n| {} members, {} messages a second | messages, all heard by each | the room's log, MiB | user memory beyond it, \
             MiB | the same while they catch up, MiB | kernel's buffers, MiB | catching up, s |\n|---|---|---|---|---|---|---|\n",
            self.sizes.stalled_members,
            stalled::RATE
        );
        for side in stalled::Side::ALL {
            let of = |digits, number: fn(&stalled::Round) -> Option<f64>| {
                let rounds = self.stalled.iter().filter(|round| round.side == side);
                spread(digits, rounds.filter_map(number))
            };
            text += &format!(
                "| {} | {} | {} | {} | {} | {} | {} |\n",
                side.name(),
                of(0, |round| Some(round.messages.into())),
                of(2, |round| Some(round.log_bytes as f64 / MIB)),
                of(2, |round| Some(round.beyond_log_bytes as f64 / MIB)),
                of(2, |round| Some(round.catching_up_bytes as f64 / MIB)),
                of(0, |round| Some(round.kernel_bytes as f64 / MIB)),
                of(1, |round| round.catch_up_s),
            );
        }
        text
    }
}

/// Numbers of some rounds in a cell.
fn spread(digits: usize, numbers: impl Iterator<Item = f64>) -> String {
    let numbers: Vec<f64> = numbers.collect();
    Spread::of(&numbers).map_or_else(|| "-".to_owned(), |spread| spread.cell(digits))
}

fn numbers(rounds: &[costs::Round], side: costs::Side) -> Vec<Numbers> {
    rounds.iter().filter(|round| round.side == side).map(|round| round.numbers.clone()).collect()
}

/// Server CPU per delivery, of guests that do something against guests that do nothing.
fn to_none(rounds: &[costs::Round]) -> Option<Spread> {
    ratio(&numbers(rounds, costs::Side::Some), &numbers(rounds, costs::Side::None))
}

fn costs_table(room: &str, most: u32, rounds: &[costs::Round]) -> String {
    let mut text = format!(
        "\n| {room} | reactors | deliveries | server CPU per delivery, us | to none | server busy, % | simulator busy, % |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for (side, shown, to_none) in [(costs::Side::None, 0, None), (costs::Side::Some, most, to_none(rounds))] {
        let numbers = numbers(rounds, side);
        text += &format!(
            "| {shown} | {} | {} | {} | {} | {} | {} |\n",
            cell(&numbers, 0, |n| Some(n.reactors.into())),
            cell(&numbers, 0, |n| Some(n.deliveries as f64)),
            cell(&numbers, 2, |n| Some(n.cpu_us_per_delivery)),
            to_none.map_or_else(|| "-".to_owned(), |ratio| ratio.cell(2)),
            cell(&numbers, 0, |n| Some(n.server_busy_percent)),
            cell(&numbers, 0, |n| Some(n.simulator_busy_percent)),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests::costing;

    const SIZES: Sizes =
        Sizes { members: 5_000, at_once: 2_000, large_members: 50_000, stalled_members: 10_000 };

    fn report() -> Report {
        let mut report = Report::new(SIZES);
        for factor in [1.0, 2.0, 3.0] {
            for (side, ms) in joins::Side::ALL.into_iter().zip([1.0, 10.0]) {
                report.joins.push(joins::Round {
                    side,
                    joins: 808,
                    join_p50_ms: 0.5 * ms,
                    join_p99_ms: ms * factor,
                    join_max_ms: 4.0 * ms * factor,
                    at_once_ms: 60.0 * ms * factor,
                    messages: 180,
                    server_busy_percent: 5.0 * ms,
                });
            }
            for (side, us) in costs::Side::ALL.into_iter().zip([8.0, 8.4]) {
                report.turnover.push(costs::Round { side, numbers: costing(us * factor), done: 3 });
            }
            for (side, beyond) in stalled::Side::ALL.into_iter().zip([0, 3 << 19]) {
                report.stalled.push(stalled::Round {
                    side,
                    messages: 301,
                    log_bytes: 1 << 20,
                    beyond_log_bytes: beyond,
                    catching_up_bytes: 2 * beyond,
                    kernel_bytes: 5 << 20,
                    catch_up_s: None,
                });
            }
        }
        report.judge();
        report
    }

    #[test]
    fn what_was_measured_is_held_against_what_is_promised() {
        let text = report().markdown();
        for line in [
            "| p99 of a join, ms | 25 | 20.00 (10.00-30.00) | yes |",
            "| 2000 joins at once, ms | 1000 | 1200.00 (600.00-1800.00) | **no** |",
            "| CPU of a delivery beside 100 joins and leaves a second, to none | 1.1 | 1.05 ",
            "| memory beyond the log, 10000 stalled members, MiB | 32 | 1.50 | yes |",
            "| CPU of a delivery beside a reset per message, to none | 1.1 | - | - |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn each_part_has_a_line_for_each_side_and_one_that_was_not_measured_has_none() {
        let text = report().markdown();
        for line in [
            "| nothing | 101 | 0.50 | 2.00 (1.00-3.00) | 8.0 (4.0-12.0) | 120 (60-180) | 5 |",
            "| 20 messages a second | 101 | 5.00 | 20.00 (10.00-30.00) | 80.0 (40.0-120.0) | 1200 (600-1800) | 50 |",
            "| 0 | 2 | 100000 | 16.00 (8.00-24.00) | - | 50 | 25 |",
            "| 100 | 2 | 100000 | 16.80 (8.40-25.20) | 1.05 ",
            "| stalled | 301 | 1.00 | 1.50 | 3.00 | 5 | - |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("; resets per message"), "{text}");
        let mut nothing = Report::new(SIZES);
        nothing.judge();
        assert!(nothing.is_empty() && !report().is_empty());
        assert_eq!(nothing.markdown().lines().filter(|line| line.ends_with("| - | - |")).count(), 5);
    }
}
