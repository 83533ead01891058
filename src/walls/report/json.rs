//! The report as JSON, schema `tcbchat.doctor/2`.
//!
//! The schema is documented in `docs/DOCTOR.md`; a test compares the keys. Keys may be added to it; a key that
//! changes its meaning, or goes, makes it `tcbchat.doctor/3`.
//!
//! Invariant: every key is always there; what is unknown or unlimited is `null`.

use serde::Serialize;

use super::Examination;
use crate::walls::catalogue;
use crate::walls::forecast::{Bound, Kind, Wall};
use crate::walls::watch::{BLIND, Server};

/// The name and version of the schema.
pub const SCHEMA: &str = "tcbchat.doctor/2";

#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    version: &'static str,
    kernel: Option<&'a str>,
    connections: u32,
    fits: bool,
    is_on_top: bool,
    maximum: Limit<'a>,
    refusal: Option<RefusalEntry<'a>>,
    possible: Possible<'a>,
    lowest: Limit<'a>,
    running: Option<RunningEntry>,
    plan: Option<Plan>,
    memory: Memory,
    walls: Vec<WallEntry<'a>>,
    listeners: Option<Vec<ListenerEntry>>,
    unreadable: Vec<String>,
    watch: Option<WatchEntry>,
}

#[derive(Serialize)]
struct Limit<'a> {
    connections: u64,
    wall: &'a str,
    row: &'a str,
    name: &'a str,
    passed: bool,
}

#[derive(Serialize)]
struct RefusalEntry<'a> {
    wall: &'a str,
    reason: &'a str,
    now: &'a [String],
}

#[derive(Serialize)]
struct Possible<'a> {
    connections: u64,
    wall: &'a str,
    command: Option<String>,
}

#[derive(Serialize)]
struct RunningEntry {
    pid: u32,
    address: String,
    connections: Option<u64>,
    time_wait: Option<u64>,
    silence: Option<String>,
}

#[derive(Serialize)]
struct Plan {
    reactors: u32,
    private_fd_tables: bool,
    fd_limit: u64,
    capacity: u32,
}

#[derive(Serialize)]
struct Memory {
    user_bytes_each: u64,
    kernel_bytes_each: u64,
    kernel_bytes_source: &'static str,
    user_bytes: u64,
    kernel_bytes: u64,
    bytes_max: u64,
    group_bytes_each: Option<u64>,
    group_bytes_source: &'static str,
}

#[derive(Serialize)]
struct WallEntry<'a> {
    id: &'a str,
    row: &'a str,
    name: &'a str,
    windows: &'a str,
    linux: &'a str,
    keys: &'a [&'a str],
    question: &'a str,
    kind: &'static str,
    unit: &'a str,
    limit: Option<u64>,
    in_use: Option<u64>,
    needed: Option<u64>,
    headroom: Option<i64>,
    stops_at: Option<u64>,
    passed_until: Option<u64>,
    verdict: &'static str,
    effect: &'a str,
    fix: Option<FixEntry<'a>>,
}

#[derive(Serialize)]
struct FixEntry<'a> {
    now: &'a [String],
    stay: Vec<StayEntry<'a>>,
}

#[derive(Serialize)]
struct StayEntry<'a> {
    file: &'a str,
    lines: &'a [String],
}

#[derive(Serialize)]
struct ListenerEntry {
    address: String,
    queued: u64,
    queued_max: Option<u64>,
}

#[derive(Serialize)]
struct WatchEntry {
    seconds: f64,
    hit: Vec<&'static str>,
    counters: Vec<CounterEntry>,
    server: ServerEntry,
    full_tables: Vec<FullTableEntry>,
    blind: &'static str,
}

#[derive(Serialize)]
struct ServerEntry {
    pid: Option<u32>,
    unseen: Option<String>,
    refusals: Vec<RefusedEntry>,
}

#[derive(Serialize)]
struct RefusedEntry {
    counter: &'static str,
    row: &'static str,
    meaning: &'static str,
    delta: u64,
}

#[derive(Serialize)]
struct FullTableEntry {
    open: u64,
    limit: u64,
}

#[derive(Serialize)]
struct CounterEntry {
    counter: &'static str,
    row: &'static str,
    wall: &'static str,
    meaning: &'static str,
    before: u64,
    after: u64,
    delta: u64,
}

/// The report as one JSON object, indented, with a line feed at its end.
pub fn json(examination: &Examination<'_>) -> String {
    let mut text = serde_json::to_string_pretty(&report(examination))
        .expect("strings and numbers, with strings for keys, are always JSON");
    text.push('\n');
    text
}

fn report<'a>(examination: &'a Examination<'_>) -> Report<'a> {
    let (forecast, snapshot) = (examination.forecast, examination.snapshot);
    let limit = |bound: Bound| {
        let wall = forecast.wall(bound.wall);
        Limit {
            connections: bound.connections,
            wall: bound.wall,
            row: wall.map_or("", |wall| wall.row),
            name: wall.map_or("", |wall| wall.name),
            passed: wall.is_some_and(|wall| wall.passed_until > Some(bound.connections)),
        }
    };
    let memory = &forecast.memory;
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        kernel: snapshot.release.as_deref().ok(),
        connections: forecast.connections,
        fits: forecast.fits(),
        is_on_top: forecast.is_on_top,
        maximum: limit(forecast.maximum),
        refusal: forecast.start.as_ref().err().map(|refusal| RefusalEntry {
            wall: refusal.wall,
            reason: &refusal.reason,
            now: refusal.fix.as_ref().map_or(&[], |fix| &fix.now),
        }),
        possible: Possible {
            connections: forecast.possible.connections,
            wall: forecast.possible.wall,
            command: (forecast.possible.connections > forecast.maximum.connections)
                .then(|| super::command_for(forecast.possible.connections)),
        },
        lowest: limit(forecast.lowest),
        running: examination.running.map(|running| RunningEntry {
            pid: running.pid,
            address: running.address.to_string(),
            connections: running.open(),
            time_wait: running.waiting(),
            silence: running.numbers.as_ref().err().map(ToString::to_string),
        }),
        plan: forecast.plan.as_ref().ok().map(|plan| Plan {
            reactors: plan.reactors,
            private_fd_tables: plan.private_fd_tables,
            fd_limit: plan.fd_limit,
            capacity: plan.tcb.capacity,
        }),
        memory: Memory {
            user_bytes_each: memory.user_bytes_each,
            kernel_bytes_each: memory.kernel_bytes_each,
            kernel_bytes_source: if memory.is_kernel_read { "slabinfo" } else { "default" },
            user_bytes: memory.user_bytes,
            kernel_bytes: memory.kernel_bytes,
            bytes_max: memory.bytes_max,
            group_bytes_each: memory.group_bytes_each,
            group_bytes_source: if memory.is_group_measured { "measured" } else { "release" },
        },
        walls: forecast.walls.iter().map(entry).collect(),
        listeners: snapshot.listeners.as_ref().ok().map(|listeners| {
            let entry = |listener: &crate::walls::probe::Listener| ListenerEntry {
                address: listener.address.to_string(),
                queued: listener.queued,
                queued_max: listener.queued_max,
            };
            listeners.iter().map(entry).collect()
        }),
        unreadable: snapshot.unreadable().iter().map(ToString::to_string).collect(),
        watch: examination.watch.map(|watch| WatchEntry {
            seconds: watch.seconds,
            hit: watch.hit(),
            counters: watch
                .deltas
                .iter()
                .map(|delta| CounterEntry {
                    counter: delta.watched.counter,
                    row: delta.watched.row,
                    wall: delta.watched.wall,
                    meaning: delta.watched.meaning,
                    before: delta.before,
                    after: delta.after,
                    delta: delta.rise(),
                })
                .collect(),
            server: server(&watch.server),
            full_tables: watch
                .full_tables
                .iter()
                .map(|full| FullTableEntry { open: full.open, limit: full.limit })
                .collect(),
            blind: BLIND,
        }),
    }
}

fn server(server: &Server) -> ServerEntry {
    match server {
        Server::Told { pid, refused, .. } => ServerEntry {
            pid: Some(*pid),
            unseen: None,
            refusals: refused
                .iter()
                .map(|refused| RefusedEntry {
                    counter: refused.counter,
                    row: refused.row,
                    meaning: refused.meaning,
                    delta: refused.rise,
                })
                .collect(),
        },
        Server::Silent { pid, why, .. } => {
            ServerEntry { pid: Some(*pid), unseen: Some(why.clone()), refusals: Vec::new() }
        }
        Server::Unseen { why } => ServerEntry { pid: None, unseen: Some(why.clone()), refusals: Vec::new() },
    }
}

fn entry(wall: &Wall) -> WallEntry<'_> {
    let row = catalogue::row(wall.row);
    WallEntry {
        id: wall.id,
        row: wall.row,
        name: wall.name,
        windows: row.map_or("", |row| row.windows),
        linux: row.map_or("", |row| row.linux),
        keys: row.map_or(&[], |row| row.keys),
        question: row.map_or("", |row| row.question),
        kind: match wall.kind {
            Kind::Count => "count",
            Kind::Behaviour => "behaviour",
        },
        unit: wall.unit,
        limit: wall.limit,
        in_use: wall.in_use,
        needed: wall.needed,
        headroom: wall
            .headroom()
            .map(|left| i64::try_from(left).unwrap_or(if left < 0 { i64::MIN } else { i64::MAX })),
        stops_at: wall.stops_at,
        passed_until: wall.passed_until,
        verdict: wall.verdict.word(),
        effect: &wall.effect,
        fix: wall.fix.as_ref().map(|fix| FixEntry {
            now: &fix.now,
            stay: fix.stay.iter().map(|stay| StayEntry { file: &stay.file, lines: &stay.lines }).collect(),
        }),
    }
}
