//! BIO against NIO: a server with a thread per connection beside the reactor, under the same simulator.
//!
//! Two parts. The first drives both with the same chat, one after the other, and sets side by side what a
//! connection and a delivery cost each. The second ramps connections on each until it refuses some, and names
//! the limit that was reached. Clients and servers are on this machine.
//!
//! Invariant: one server at a time, and every run is bounded: at most [`CONNECTIONS_MAX`] connections.

mod report;
mod stop;

use std::path::PathBuf;

use clap::value_parser;
use serde_json::Value;
use tcbchat_bench::{output, per_second, seconds, show, write_json};

use crate::process::{Hold, Programs, Run, Server, simulate};
use crate::thread_walls::status_bytes;
use report::{Measured, Report, Side};

/// The most connections that any part tries: a thread each is most of what a machine with default limits has.
const CONNECTIONS_MAX: u32 = 40_000;
/// Rooms of both servers alike.
const ROOM_PREFIX: &str = "bio-";

/// Options of `bench bio`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sessions of the comparison
    #[arg(long, value_name = "N", default_value_t = 5_000,
          value_parser = value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    /// Members of a room
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    room_size: u32,
    /// Messages per second over all rooms
    #[arg(long, value_name = "PER_S", default_value_t = 100.0, value_parser = per_second)]
    rate: f64,
    /// Seconds of chat
    #[arg(long, value_name = "S", default_value_t = 20.0, value_parser = seconds)]
    duration: f64,
    /// Seconds of silence before the memory is measured
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    hold: f64,
    /// Runs, each with new servers; the median is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Connections up to which each is ramped to see where it stops; 0 leaves that part out
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_MAX,
          value_parser = value_parser!(u32).range(0..=i64::from(CONNECTIONS_MAX)))]
    stop_at: u32,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", value_parser = output)]
    json: Option<PathBuf>,
}

/// The servers that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// tcbchat: many connections per thread.
    Nio,
    /// `bio-server`: a thread per connection.
    Bio,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Nio => "tcbchat",
            Kind::Bio => "bio-server",
        }
    }

    fn start(self, programs: &Programs, connections: u32) -> Result<Server, String> {
        let started = match self {
            Kind::Nio => Server::start(programs, connections, &[]),
            Kind::Bio => Server::start_bio(programs, connections),
        };
        started.map_err(String::from)
    }
}

/// Measures, prints, and writes the file that was asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let programs = Programs::find()?;
    let (mut nio, mut bio) = (Vec::new(), Vec::new());
    for run in 1..=args.runs {
        for (kind, runs) in [(Kind::Nio, &mut nio), (Kind::Bio, &mut bio)] {
            eprintln!("{}, {} connections, run {run} of {}", kind.name(), args.connections, args.runs);
            runs.push(measure(&programs, kind, args)?);
        }
    }
    let side = |kind: Kind, runs: &[Measured]| Side { server: kind.name(), measured: Measured::median(runs) };
    let mut report = Report::new(args.connections, args.room_size, args.rate, args.runs);
    report.sides = vec![side(Kind::Nio, &nio), side(Kind::Bio, &bio)];
    if args.stop_at > 0 {
        report.stops = stop::find_all(&programs, args.stop_at)?;
    }
    let written = args.json.as_deref().map_or(Ok(()), |path| write_json(path, &report));
    written.and(show(&report.table()))
}

/// One chat on a new server.
fn measure(programs: &Programs, kind: Kind, args: &Args) -> Result<Measured, String> {
    let server = kind.start(programs, args.connections)?;
    let address_space_before = status_bytes(server.pid(), "VmSize:");
    let hold = Hold {
        connections: args.connections,
        room_size: args.room_size,
        room_prefix: ROOM_PREFIX,
        seconds: args.hold,
        tokens: None,
    };
    let mut arguments = hold.arguments();
    arguments.extend([format!("--rate={}", args.rate), format!("--duration={}", args.duration)]);
    let Run { json, has_passed, said } = simulate(programs, &server, "chat", &arguments)?;
    if !has_passed {
        return Err(format!("{} failed the chat: {said}", kind.name()));
    }
    let mut measured = measured(&json).ok_or("the simulator's result lacks what is compared")?;
    // The peak: nobody is there any more.
    let grown = status_bytes(server.pid(), "VmPeak:").zip(address_space_before).map(|(now, then)| now - then);
    measured.address_space_bytes = grown.map(|grown| grown as f64 / f64::from(args.connections));
    Ok(measured)
}

/// Reads the simulator's JSON, schema `tcbchat.client-sim/1`.
fn measured(json: &Value) -> Option<Measured> {
    let samples = json["memory"]["samples"].as_array()?;
    let sample = |label| samples.iter().find(|sample| sample["label"] == label);
    let (before, after) = (sample("held")?, sample("after-chat")?);
    let deliveries = json["chat"]["deliveries_received"].as_f64().filter(|deliveries| *deliveries > 0.0)?;
    let per_delivery = |name: &str| Some((after[name].as_f64()? - before[name].as_f64()?) / deliveries);
    let held = |name: &str| json["memory"]["held"][name].as_f64();
    let caches = json["memory"]["held"]["kernel_caches"].as_array().into_iter().flatten();
    Some(Measured {
        threads: before["server_threads"].as_f64()?,
        user_bytes: held("server_user_bytes")?,
        address_space_bytes: None,
        kernel_slab_bytes: held("kernel_slab_bytes"),
        kernel_stack_bytes: held("kernel_stack_bytes"),
        page_table_bytes: held("page_table_bytes"),
        cpu_us_per_delivery: per_delivery("server_cpu_s")? * 1e6,
        voluntary_switches_per_delivery: per_delivery("server_switches_voluntary")?,
        involuntary_switches_per_delivery: per_delivery("server_switches_involuntary")?,
        deliveries,
        delivery_p50_ms: json["chat"]["latency_ms"]["p50"].as_f64()?,
        delivery_p99_ms: json["chat"]["latency_ms"]["p99"].as_f64()?,
        kernel_caches: caches
            .filter_map(|cache| Some((cache["name"].as_str()?.to_owned(), cache["bytes"].as_f64()?)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_delivery_costs_what_grew_between_the_samples() {
        let sample = |label: &str, cpu_s: f64, switches: u64| {
            json!({
                "label": label, "server_threads": 7, "server_cpu_s": cpu_s,
                "server_switches_voluntary": switches, "server_switches_involuntary": switches / 10,
            })
        };
        let result = json!({
            "memory": {
                "samples": [sample("start", 0.0, 0), sample("held", 1.0, 100), sample("after-chat", 3.0, 600)],
                "held": { "server_user_bytes": 512.5, "kernel_slab_bytes": null },
            },
            "chat": { "deliveries_received": 1000, "latency_ms": { "p50": 1.0, "p99": 2.0 } },
        });
        let measured = measured(&result).unwrap();
        assert_eq!((measured.threads, measured.user_bytes, measured.kernel_slab_bytes), (7.0, 512.5, None));
        assert_eq!((measured.cpu_us_per_delivery, measured.voluntary_switches_per_delivery), (2_000.0, 0.5));
        assert_eq!(measured.involuntary_switches_per_delivery, 0.05);
        assert!(super::measured(&json!({})).is_none());
    }
}
