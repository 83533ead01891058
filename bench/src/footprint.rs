//! Bytes per idle, subscribed connection: the parts that we know of, and what the process has grown by.
//!
//! The sum of the parts comes from the real structures, filled by the bytes of real clients in this process;
//! the growth comes from the real server, held by `client-sim`. The difference is shown and not hidden.
//!
//! Invariant: kernel memory is beside ours, never in one sum with it.

mod logins;
mod parts;
mod report;

use std::path::PathBuf;

use clap::value_parser;
use serde_json::Value;
use tcbchat_bench::{output, seconds, show, write_json};

use crate::goals::Strictness;
use crate::process::{self, Hold, Programs, Server};
use report::{Measured, Point, Report};

/// Rooms of the simulator and of the model alike, because keys are held.
pub const ROOM_PREFIX: &str = "footprint-";
/// The points of the growth curve.
const CURVE: [u32; 4] = [1_000, 5_000, 20_000, 50_000];

/// Options of `bench footprint`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sessions, each subscribed to one room
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..))]
    connections: u32,
    /// Measure 1,000, 5,000, 20,000 and 50,000 sessions, each with a new server of one capacity
    #[arg(long, conflicts_with = "connections")]
    curve: bool,
    /// What a login adds: sessions in open mode, with one login for all and with a login each, and no parts
    #[arg(long, conflicts_with = "curve")]
    logins: bool,
    /// Capacity of the server; default: the most sessions of the run
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// Members of a room
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    room_size: u32,
    /// Runs, each with a new server; the median is shown
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Seconds of silence before the memory is measured
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    hold: f64,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE", value_parser = output)]
    json: Option<PathBuf>,
    #[command(flatten)]
    goals: Strictness,
}

/// Measures, prints, and writes the file that was asked for.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &Args) -> Result<(), String> {
    let connections = if args.curve { CURVE.to_vec() } else { vec![args.connections] };
    let most = connections.iter().copied().max().unwrap_or_default();
    let capacity = args.capacity.unwrap_or(most);
    if capacity < most {
        return Err(format!("a capacity of {capacity} does not hold {most} sessions"));
    }
    if args.logins {
        return logins::run(args);
    }
    let programs = Programs::find()?;
    let mut report = Report::new(capacity, args.room_size, args.runs);
    for connections in connections {
        let point = measure(&programs, args, connections, capacity, &mut report.server_ready_line)?;
        report.points.push(point);
    }
    let written = args.json.as_deref().map_or(Ok(()), |path| write_json(path, &report));
    written.and(show(&report.table()))
}

/// All runs with so many sessions, and the parts of a server like theirs.
fn measure(
    programs: &Programs,
    args: &Args,
    connections: u32,
    capacity: u32,
    ready_line: &mut String,
) -> Result<Point, String> {
    let hold = Hold {
        connections,
        room_size: args.room_size,
        room_prefix: ROOM_PREFIX,
        seconds: args.hold,
        tokens: None,
    };
    let mut runs = Vec::new();
    let mut reactors = 1;
    for run in 1..=args.runs {
        eprintln!("{connections} sessions, run {run} of {}", args.runs);
        let (server, grown) = grown(programs, &hold, capacity, &[])?;
        reactors = server.reactors()?;
        runs.push(grown);
        ready_line.clone_from(&server.ready_line);
    }
    let parts = parts::of_server(connections, capacity, reactors, args.room_size, ROOM_PREFIX);
    Ok(Point { connections, reactors, parts, measured: Measured::median(&runs) })
}

/// What a new server takes for sessions that are idle, and the server, which nobody uses any more.
///
/// # Errors
/// A sentence for the user.
pub fn grown(
    programs: &Programs,
    hold: &Hold<'_>,
    capacity: u32,
    settings: &[String],
) -> Result<(Server, Measured), String> {
    let server = Server::start(programs, capacity, settings)?;
    let measured = measured(&process::hold(programs, &server, hold)?)?;
    Ok((server, measured))
}

/// The sum of the parts in use of one of so many idle sessions, without a server.
pub fn parts_in_use(connections: u32, reactors: u16, room_size: u32) -> f64 {
    let parts = parts::of_server(connections, connections, reactors, room_size, ROOM_PREFIX);
    parts.iter().map(|row| row.used_bytes).sum()
}

/// Reads the simulator's JSON, schema `tcbchat.client-sim/1`.
fn measured(json: &Value) -> Result<Measured, String> {
    let held = &json["memory"]["held"];
    let number = |name: &str| held[name].as_f64();
    let caches = held["kernel_caches"].as_array().into_iter().flatten();
    Ok(Measured {
        user_bytes: number("server_user_bytes").ok_or("the server's PSS could not be read")?,
        kernel_slab_bytes: number("kernel_slab_bytes_per_end"),
        kernel_buffer_bytes: number("tcp_buffer_bytes"),
        kernel_caches: caches
            .filter_map(|cache| Some((cache["name"].as_str()?.to_owned(), cache["bytes"].as_f64()?)))
            .collect(),
    })
}
