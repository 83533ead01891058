//! One chat on a new tcbchat, which has one core whatever the number of its reactors, while the simulator has another.
//!
//! With one core for the server, what a delivery costs can be compared between numbers of reactors: two that ran at the
//! same time would also share caches, and wake each other across cores.
//!
//! Invariant: a chat in which anything was lost, doubled or out of order has no numbers.

use std::process::Command;

use serde::Serialize;
use serde_json::Value;
use tcbchat_bench::Spread;

use crate::process::{Cores, NoRun, Programs, Run, Server, on_core, simulate};

/// What a chat has shown. What could not be read is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Numbers {
    /// Of the server.
    pub reactors: u16,
    /// Of the simulator.
    pub threads: u32,
    /// Deliveries of the chat.
    pub deliveries: u64,
    /// Server CPU, microseconds.
    pub cpu_us_per_delivery: f64,
    /// Simulator CPU, microseconds.
    pub simulator_us_per_delivery: f64,
    /// The part of the server's CPU that is outside the kernel, by the kernel's ticks.
    pub user_share_percent: f64,
    /// How much of its core each side used: who waited for whom.
    pub server_busy_percent: f64,
    /// See `server_busy_percent`.
    pub simulator_busy_percent: f64,
    /// How often reactors gave up their core to wait for something, for each message.
    pub waits_per_message: Option<f64>,
    /// Growth of the server's PSS for each idle connection, before the chat.
    pub user_bytes: Option<f64>,
    /// Growth of the kernel's slab for each end of a connection.
    pub kernel_bytes_per_end: Option<f64>,
    /// CPU of the server while nobody says anything, of one core.
    pub idle_cpu_percent: Option<f64>,
}

/// A million clients on one core, beside other work, come slowly: nobody is to be sent away before the chat for that.
const PATIENCE: [&str; 4] =
    ["--set", "handshake.timeout_ms=60000", "--set", "handshake.connect_timeout_ms=60000"];

/// The server of one chat.
#[derive(Debug, Clone, Copy)]
pub struct Serving<'a> {
    /// Connections that it has room for.
    pub capacity: u32,
    /// Reactors; as planned for the capacity when not said.
    pub reactors: Option<u16>,
    /// Settings that are not the defaults, as `key=value`.
    pub settings: &'a [&'a str],
}

/// Starts a server and has the simulator play `arguments` on it, a closed loop.
///
/// # Errors
/// A plan does not fit, or the run has failed in any way.
pub fn chat(
    programs: &Programs,
    cores: Cores,
    serving: Serving<'_>,
    arguments: &[String],
) -> Result<Numbers, NoRun> {
    let mut server = start(programs, cores, serving)?;
    let run = on_core(cores.client_core, || simulate(programs, &server, "chat", arguments))?;
    of_run(&mut server, &run)
}

/// Starts the server of a chat.
///
/// # Errors
/// Its plan does not fit, or it does not start.
pub fn start(programs: &Programs, cores: Cores, serving: Serving<'_>) -> Result<Server, NoRun> {
    let mut command = Command::new(&programs.server);
    command.args(["serve", "--listen", "127.0.0.1:0", "--capacity", &serving.capacity.to_string()]);
    command.args(PATIENCE);
    if let Some(reactors) = serving.reactors {
        command.args(["--reactors", &reactors.to_string()]);
    }
    for setting in serving.settings {
        command.args(["--set", setting]);
    }
    on_core(cores.server_core, || Server::launch(&mut command))
}

/// What a chat on this server has shown.
///
/// # Errors
/// The server has ended, or the run has failed in any way.
pub fn of_run(server: &mut Server, run: &Run) -> Result<Numbers, NoRun> {
    if let Some(status) = server.ended() {
        return Err(NoRun::Broken(format!("the server has ended: {status}")));
    }
    if !run.has_passed {
        return Err(NoRun::Broken(format!("client-sim failed: {}", run.said)));
    }
    let numbers = numbers(&run.json, server.reactors()?);
    numbers.ok_or_else(|| NoRun::Broken("client-sim's result has no CPU of this chat".to_owned()))
}

/// Reads the simulator's JSON, schema `tcbchat.client-sim/1`.
fn numbers(json: &Value, reactors: u16) -> Option<Numbers> {
    let chat = &json["chat"];
    let count = |name: &str| chat[name].as_f64().filter(|count| *count > 0.0);
    let (deliveries, messages) = (count("deliveries_received")?, count("messages_sent")?);
    let chat_s = messages / count("rate_sent_per_s")?;
    let cpu = |name: &str| chat["cpu"][name].as_f64();
    let (server_s, simulator_s) = (cpu("server_s")?, cpu("simulator_s")?);
    let samples = json["memory"]["samples"].as_array()?;
    let switches = |label: &str| {
        let sample = samples.iter().find(|sample| sample["label"] == label)?;
        sample["server_switches_voluntary"].as_f64()
    };
    let waits = switches("held").zip(switches("after-chat")).map(|(from, to)| to - from);
    let held = |name: &str| json["memory"]["held"][name].as_f64();
    let idle = &json["idle"];
    let idle_s = idle["seconds"].as_f64().filter(|seconds| *seconds > 0.0);
    Some(Numbers {
        reactors,
        threads: u32::try_from(json["plan"]["threads"].as_u64()?).ok()?,
        deliveries: deliveries as u64,
        cpu_us_per_delivery: server_s * 1e6 / deliveries,
        simulator_us_per_delivery: simulator_s * 1e6 / deliveries,
        // The ticks of a short run may add up to more than the exact sum.
        user_share_percent: (cpu("server_user_s")? / server_s * 100.0).min(100.0),
        server_busy_percent: server_s / chat_s * 100.0,
        simulator_busy_percent: simulator_s / chat_s * 100.0,
        waits_per_message: waits.map(|waits| waits / messages),
        user_bytes: held("server_user_bytes"),
        kernel_bytes_per_end: held("kernel_slab_bytes_per_end"),
        idle_cpu_percent: idle["cpu"]["server_s"].as_f64().zip(idle_s).map(|(cpu, s)| cpu / s * 100.0),
    })
}

/// A number of all rounds, for a table; a dash if no round has it.
pub fn cell(rounds: &[Numbers], digits: usize, number: impl Fn(&Numbers) -> Option<f64>) -> String {
    let numbers: Vec<f64> = rounds.iter().filter_map(number).collect();
    Spread::of(&numbers).map_or_else(|| "-".to_owned(), |spread| spread.cell(digits))
}

/// Server CPU per delivery of one against that of the other: the ratio of the medians, and the least and the greatest
/// of a round.
pub fn ratio(of: &[Numbers], to: &[Numbers]) -> Option<Spread> {
    let cpu = |rounds: &[Numbers]| -> Vec<f64> { rounds.iter().map(|n| n.cpu_us_per_delivery).collect() };
    tcbchat_bench::ratio(&cpu(of), &cpu(to))
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// Numbers of which one matters.
    pub fn costing(cpu_us_per_delivery: f64) -> Numbers {
        Numbers { cpu_us_per_delivery, ..numbers(&result(), 2).unwrap() }
    }

    fn result() -> Value {
        let sample =
            |label: &str, switches: u64| json!({ "label": label, "server_switches_voluntary": switches });
        json!({
            "plan": { "threads": 3 },
            "chat": {
                "deliveries_received": 100_000, "messages_sent": 1000, "rate_sent_per_s": 500.0,
                "cpu": { "server_s": 1.0, "server_user_s": 0.1, "simulator_s": 0.5 },
            },
            "idle": { "seconds": 2.0, "cpu": { "server_s": 0.01 } },
            "memory": {
                "samples": [sample("start", 0), sample("held", 100), sample("after-chat", 600)],
                "held": { "server_user_bytes": 180.5, "kernel_slab_bytes_per_end": null },
            },
        })
    }

    #[test]
    fn the_result_is_divided_as_the_names_say() {
        let numbers = numbers(&result(), 2).unwrap();
        assert_eq!((numbers.cpu_us_per_delivery, numbers.simulator_us_per_delivery), (10.0, 5.0));
        assert_eq!((numbers.server_busy_percent, numbers.simulator_busy_percent), (50.0, 25.0));
        assert_eq!((numbers.user_share_percent, numbers.waits_per_message), (10.0, Some(0.5)));
        assert_eq!((numbers.user_bytes, numbers.kernel_bytes_per_end), (Some(180.5), None));
        assert_eq!((numbers.idle_cpu_percent, numbers.threads, numbers.reactors), (Some(0.5), 3, 2));
        assert!(super::numbers(&json!({}), 1).is_none());
    }

    #[test]
    fn a_ratio_is_of_medians_and_its_spread_of_rounds() {
        let of = [3.0, 4.4, 3.3].map(costing);
        let to = [2.0, 4.0, 3.0].map(costing);
        let ratio = ratio(&of, &to).unwrap();
        assert_eq!(ratio.cell(2), "1.10 (1.10-1.50)");
        assert!(super::ratio(&of, &[]).is_none());
        assert_eq!(cell(&to, 1, |n| Some(n.cpu_us_per_delivery)), "3.0 (2.0-4.0)");
        assert_eq!(cell(&to, 1, |n| n.kernel_bytes_per_end), "-");
    }
}
