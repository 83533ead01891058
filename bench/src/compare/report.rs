//! What was found, as Markdown and as JSON (schema [`SCHEMA`]).
//!
//! Invariant: a number that was not measured is a dash, or absent; never a zero.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use tcbchat_bench::median;

use super::contender::{FLOOR, FLOOR_AGAIN};

/// Name and version of the JSON. Fields may be added within it; none is renamed or removed.
pub const SCHEMA: &str = "tcbchat.compare/1";

/// One number that a run gives: its name, its unit.
const METRICS: [(&str, &str); 8] = [
    ("server CPU per delivery", "us"),
    ("server CPU per cycle", "us"),
    ("server CPU in user space per delivery or cycle", "us"),
    ("delivery p50", "ms"),
    ("delivery p99", "ms"),
    ("user bytes per idle connection", "B"),
    ("user share of the server's CPU", "%"),
    ("simulator CPU per delivery or cycle", "us"),
];
/// The workload whose idle connections are weighed before it begins: the one with many of them.
const MEMORY: &str = "100x100-w1";
/// Metrics from here on say something about a server by themselves; their ratios do not.
const RATIOS: usize = 6;
/// Metrics by which servers are told apart: the CPU of a chat, and of churn.
const CPU: std::ops::Range<usize> = 0..2;

/// One server, one workload, once.
#[derive(Debug, Serialize)]
pub struct Run {
    workload: &'static str,
    server: String,
    round: u32,
    /// As [`METRICS`].
    #[serde(skip)]
    numbers: [Option<f64>; METRICS.len()],
    /// Deliveries or cycles.
    count: u64,
    /// What the simulator held against the server.
    faults: Vec<String>,
}

impl Run {
    /// Reads the simulator's JSON, schema `tcbchat.client-sim/1`.
    pub fn of(workload: &'static str, server: &str, round: u32, json: &Value) -> Self {
        let (chat, churn) = (&json["chat"], &json["churn"]);
        let cpu = if chat.is_null() { &churn["cpu"] } else { &chat["cpu"] };
        let count = chat["deliveries_received"].as_u64().or(churn["cycles_done"].as_u64()).unwrap_or(0);
        let each = |name: &str| cpu[name].as_f64().filter(|_| count > 0).map(|s| s * 1e6 / count as f64);
        let is_chat = !chat.is_null();
        let paced = chat["rate_asked_per_s"].is_number();
        let latency = |name: &str| chat["latency_ms"][name].as_f64().filter(|_| paced);
        let share = cpu["server_user_s"]
            .as_f64()
            .zip(cpu["server_s"].as_f64().filter(|all| *all > 0.0 && count > 0))
            .map(|(user, all)| (user / all * 100.0).min(100.0));
        let reasons = json["verdict"]["reasons"].as_array().into_iter().flatten();
        Self {
            workload,
            server: server.to_owned(),
            round,
            numbers: [
                each("server_s").filter(|_| is_chat),
                each("server_s").filter(|_| !is_chat),
                each("server_user_s"),
                latency("p50"),
                latency("p99"),
                json["memory"]["held"]["server_user_bytes"].as_f64().filter(|_| workload == MEMORY),
                share,
                each("simulator_s"),
            ],
            count,
            faults: reasons.filter_map(|reason| reason.as_str().map(str::to_owned)).collect(),
        }
    }

    /// One that gave no numbers.
    pub fn failed(workload: &'static str, server: &str, round: u32, reason: String) -> Self {
        let numbers = [None; METRICS.len()];
        Self { workload, server: server.to_owned(), round, numbers, count: 0, faults: vec![reason] }
    }
}

/// What servers gave in the rounds of a workload, by round.
fn numbers(runs: &[Run], workload: &str, server: &str, metric: usize) -> Vec<(u32, f64)> {
    runs.iter()
        .filter(|run| run.workload == workload && run.server == server)
        .filter_map(|run| Some((run.round, run.numbers[metric]?)))
        .collect()
}

/// Of each round, a server's number over the floor's.
fn ratios(floor: &[(u32, f64)], numbers: &[(u32, f64)]) -> Vec<f64> {
    let of_round = |(round, value): &(u32, f64)| {
        let (_, least) = floor.iter().find(|(other, _)| other == round)?;
        (*least > 0.0).then(|| value / least)
    };
    numbers.iter().filter_map(of_round).collect()
}

/// How far from 1 a ratio to the floor may be by chance: as far as the second floor's median is, and the half of the 95 %
/// interval of such a median (McGill, Tukey and Larsen, "Variations of Box Plots": 1.57 interquartile ranges, over the root of
/// the rounds). `None` with less than three rounds.
fn noise(ratios: &[f64]) -> Option<f64> {
    let rounds = ratios.len();
    let middle = median(ratios).filter(|_| rounds >= 3)?;
    let mut sorted = ratios.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quartiles = median(&sorted[..rounds / 2]).zip(median(&sorted[rounds.div_ceil(2)..]));
    let (lower, upper) = quartiles?;
    Some((middle - 1.0).abs() + 1.57 * (upper - lower) / (rounds as f64).sqrt())
}

/// Whether tcbchat's CPU for a workload is farther from the floor's than chance explains. What was not measured is not asked.
pub fn is_told_apart(runs: &[Run], workload: &str) -> bool {
    CPU.filter_map(|metric| {
        let of = |server| {
            ratios(&numbers(runs, workload, FLOOR, metric), &numbers(runs, workload, server, metric))
        };
        Some((median(&of("tcbchat"))? - 1.0).abs() > noise(&of(FLOOR_AGAIN))?)
    })
    .all(|is_apart| is_apart)
}

/// A workload's metric for one server.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub workload: &'static str,
    /// What was measured.
    pub metric: &'static str,
    unit: &'static str,
    /// Who did it.
    pub server: String,
    values: Vec<f64>,
    /// Of the values.
    pub median: f64,
    /// Of the medians, this server's over the floor's.
    pub ratio: Option<f64>,
    /// The least and the greatest ratio of a round.
    pub ratio_spread: Option<(f64, f64)>,
    /// Whether the ratio is as near to 1 as a second floor's may be by chance.
    pub is_noise: bool,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    rounds: u32,
    quick: bool,
    /// The floor first.
    pub servers: Vec<String>,
    /// By workload, metric, server.
    pub rows: Vec<Row>,
    runs: Vec<Run>,
}

impl Report {
    /// Of all runs.
    pub fn new(rounds: u32, quick: bool, servers: &[String], runs: Vec<Run>) -> Self {
        let mut workloads: Vec<&'static str> = Vec::new();
        for run in &runs {
            if !workloads.contains(&run.workload) {
                workloads.push(run.workload);
            }
        }
        let mut rows = Vec::new();
        for workload in workloads {
            for (at, (metric, unit)) in METRICS.into_iter().enumerate() {
                let floor = numbers(&runs, workload, FLOOR, at);
                let noise = noise(&ratios(&floor, &numbers(&runs, workload, FLOOR_AGAIN, at)));
                for server in servers {
                    let numbers = numbers(&runs, workload, server, at);
                    let values: Vec<f64> = numbers.iter().map(|(_, value)| *value).collect();
                    let Some(middle) = median(&values) else { continue };
                    let with_ratio = at < RATIOS && server != FLOOR;
                    let ratios = ratios(&floor, &numbers);
                    let floor_values: Vec<f64> = floor.iter().map(|(_, value)| *value).collect();
                    let ratio =
                        median(&floor_values).filter(|least| *least > 0.0).map(|least| middle / least);
                    let least = ratios.iter().copied().reduce(f64::min);
                    let most = ratios.iter().copied().reduce(f64::max);
                    rows.push(Row {
                        workload,
                        metric,
                        unit,
                        server: server.clone(),
                        values,
                        median: middle,
                        ratio: ratio.filter(|_| with_ratio),
                        is_noise: with_ratio
                            && server != FLOOR_AGAIN
                            && ratio.zip(noise).is_some_and(|(ratio, noise)| (ratio - 1.0).abs() <= noise),
                        ratio_spread: least.zip(most).filter(|_| with_ratio),
                    });
                }
            }
        }
        let version = env!("CARGO_PKG_VERSION");
        Self { schema: SCHEMA, version, rounds, quick, servers: servers.to_vec(), rows, runs }
    }

    /// As Markdown: one table for each metric, the ratios to the floor in brackets with their spread.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (metric, unit) in METRICS {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.metric == metric).collect();
            if rows.is_empty() {
                continue;
            }
            text += &format!("\n| {metric}, {unit} | {} |\n", self.servers.join(" | "));
            text += &format!("|---|{}\n", "---|".repeat(self.servers.len()));
            let mut workloads: Vec<&str> = rows.iter().map(|row| row.workload).collect();
            workloads.dedup();
            for workload in workloads {
                text += &format!("| {workload} |");
                for server in &self.servers {
                    let row = rows.iter().find(|row| row.workload == workload && row.server == *server);
                    let cell = match row {
                        Some(row) => self.cell(row),
                        None if self.has_failed(workload, server) => "failed".to_owned(),
                        None => "-".to_owned(),
                    };
                    text += &format!(" {cell} |");
                }
                text += "\n";
            }
        }
        let faults: Vec<&Run> = self.runs.iter().filter(|run| !run.faults.is_empty()).collect();
        if !faults.is_empty() {
            text += "\nFaults, of which the simulator keeps account:\n\n";
        }
        for run in faults {
            // Writing to a string does not fail.
            writeln!(
                text,
                "- {}, {}, round {}: {}",
                run.workload,
                run.server,
                run.round,
                run.faults.join("; ")
            )
            .ok();
        }
        text
    }

    fn cell(&self, row: &Row) -> String {
        let digits = if row.median >= 100.0 { 0 } else { 2 };
        let mut text = format!("{:.digits$}", row.median);
        if let (Some(ratio), Some((least, most))) = (row.ratio, row.ratio_spread) {
            let noise = if row.is_noise { ", noise" } else { "" };
            text += &format!(" (**{ratio:.2}**, {least:.2}-{most:.2}{noise})");
        }
        if self.has_failed(row.workload, &row.server) {
            text += " with faults";
        }
        text
    }

    fn has_failed(&self, workload: &str, server: &str) -> bool {
        self.runs.iter().any(|run| run.workload == workload && run.server == server && !run.faults.is_empty())
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    fn run(server: &str, round: u32, cpu_s: f64, reasons: &[&str]) -> Run {
        let json = json!({
            "chat": {
                "deliveries_received": 1_000_000, "rate_asked_per_s": null, "latency_ms": { "p99": 5.0 },
                "cpu": { "server_s": cpu_s, "server_user_s": cpu_s / 10.0, "simulator_s": 1.0 },
            },
            "churn": null,
            "memory": { "held": null },
            "verdict": { "reasons": reasons },
        });
        Run::of("1x1000-w1", server, round, &json)
    }

    /// The floor and a server, three rounds of one workload.
    pub fn report() -> Report {
        let runs = vec![
            run(FLOOR, 1, 2.0, &[]),
            run("tcbchat", 1, 3.0, &[]),
            run(FLOOR, 2, 4.0, &[]),
            run("tcbchat", 2, 4.4, &[]),
            run(FLOOR, 3, 3.0, &[]),
            run("tcbchat", 3, 3.3, &["7 lost"]),
        ];
        Report::new(3, false, &[FLOOR.to_owned(), "tcbchat".to_owned()], runs)
    }

    #[test]
    fn a_ratio_is_of_medians_and_its_spread_of_rounds() {
        let report = report();
        let row = report.rows.iter().find(|row| row.server == "tcbchat").unwrap();
        assert_eq!((row.metric, row.values.as_slice()), ("server CPU per delivery", &[3.0, 4.4, 3.3][..]));
        assert!((row.ratio.unwrap() - 1.1).abs() < 1e-9);
        let (least, most) = row.ratio_spread.unwrap();
        assert!((least - 1.1).abs() < 1e-9 && (most - 1.5).abs() < 1e-9);
    }

    #[test]
    fn a_second_floor_says_what_is_noise() {
        let rounds = |again: [f64; 4], own: f64| {
            let mut runs = Vec::new();
            for (round, again) in (1..).zip(again) {
                runs.push(run(FLOOR, round, 2.0, &[]));
                runs.push(run(FLOOR_AGAIN, round, again, &[]));
                runs.push(run("tcbchat", round, own, &[]));
            }
            runs
        };
        let is_told_apart = |again, own| is_told_apart(&rounds(again, own), "1x1000-w1");
        assert!(is_told_apart([2.0, 2.02, 1.98, 2.0], 2.2));
        assert!(!is_told_apart([2.0, 2.4, 1.6, 2.1], 2.2));
        assert!(!is_told_apart([2.0, 2.0, 2.0, 2.0], 2.0), "they are the same");
        let servers = [FLOOR, FLOOR_AGAIN, "tcbchat"].map(str::to_owned);
        let report = Report::new(4, false, &servers, rounds([2.0, 2.4, 1.6, 2.1], 2.2));
        assert!(report.markdown().contains("2.20 (**1.10**, 1.10-1.10, noise)"), "{}", report.markdown());
        assert_eq!(noise(&[1.0, 1.0]), None, "too few to say anything");
    }

    #[test]
    fn faults_are_shown_and_what_was_not_measured_is_not() {
        let text = report().markdown();
        assert!(text.contains("| 1x1000-w1 | 3.00 | 3.30 (**1.10**, 1.10-1.50) with faults |"), "{text}");
        assert!(text.contains("- 1x1000-w1, tcbchat, round 3: 7 lost"), "{text}");
        assert!(!text.contains("p99") && !text.contains("idle"), "{text}");
    }

    #[test]
    fn a_server_that_gave_no_numbers_is_shown_with_the_reason() {
        let runs =
            vec![run(FLOOR, 1, 2.0, &[]), Run::failed("1x1000-w1", "rabbitmq", 1, "too late".to_owned())];
        let report = Report::new(1, false, &[FLOOR.to_owned(), "rabbitmq".to_owned()], runs);
        let text = report.markdown();
        assert!(text.contains("| 1x1000-w1 | 2.00 | failed |"), "{text}");
        assert!(text.contains("- 1x1000-w1, rabbitmq, round 1: too late"), "{text}");
        assert!(report.rows.iter().all(|row| row.server == FLOOR));
    }

    #[test]
    fn the_json_has_rows() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!((&json["schema"], &json["rows"][0]["median"]), (&json!(SCHEMA), &json!(3.0)));
    }
}
