//! Where a server stops: connections are ramped until some are refused, and the limit that was reached is named.
//!
//! Each step is a run of the simulator, twice as large as the last. Nothing on the machine is changed: the limits
//! that are run into are those of the server's own process (mappings, descriptors) or its own bound; those that it
//! shares with others (`kernel.pid_max`, the cgroup's `pids.max`) are read, and the ramp ends before them.
//!
//! Invariant: what is said to be the reason was read from the server or the kernel after it had refused, never
//! guessed from the count.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::Kind;
use crate::process::{Hold, Programs, Server, simulate};
use crate::thread_walls::{Wall, Walls};

/// Connections of the first step.
const FIRST: u32 = 2_500;
/// What Tomcat's BIO connector has by default (`maxThreads`).
const TOMCAT_THREADS_MAX: u32 = 200;
/// Threads that the ramp leaves to everything else on the machine.
const RESERVE: u64 = 4_096;
/// How often the limits are read during a step: seldom, because the kernel counts 65,000 mappings for it.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Limits that a process has for itself. If it ran into one that it shares, others would suffer too.
const OWN_LIMITS: [&str; 2] = ["vm.max_map_count", "RLIMIT_NOFILE"];

/// Where one server stopped.
#[derive(Debug, Serialize)]
pub struct Stop {
    /// Which server, with its bound.
    pub server: String,
    /// Sessions that it had at once.
    pub sessions: u64,
    /// Sessions that were tried.
    pub tried: u32,
    /// Why no more; `None` if all that were tried had their place.
    pub reason: Option<String>,
    /// The limits of its process when the last step had taken the most of them, within a second.
    pub walls: Walls,
}

/// tcbchat, a thread per connection as many as there can be, and the same with Tomcat's default.
///
/// # Errors
/// A sentence for the user.
pub fn find_all(programs: &Programs, stop_at: u32) -> Result<Vec<Stop>, String> {
    let bio_at_most = stop_at.min(leaves_the_reserve());
    Ok(vec![
        find(programs, Kind::Nio, stop_at, stop_at)?,
        find(programs, Kind::Bio, bio_at_most, bio_at_most)?,
        find(programs, Kind::Bio, TOMCAT_THREADS_MAX, stop_at.min(2 * TOMCAT_THREADS_MAX))?,
    ])
}

/// Threads that can be had without taking from others what they need.
fn leaves_the_reserve() -> u32 {
    let walls = Walls::read(std::process::id());
    let shared = walls.0.iter().filter(|wall| !OWN_LIMITS.contains(&wall.name.as_str()));
    let least = shared.map(|wall| wall.threads_left().saturating_sub(RESERVE)).min();
    least.and_then(|least| u32::try_from(least).ok()).unwrap_or(u32::MAX)
}

fn find(programs: &Programs, kind: Kind, bound: u32, stop_at: u32) -> Result<Stop, String> {
    let mut server = kind.start(programs, bound)?;
    let name = format!("{}, at most {bound}", kind.name());
    let mut step = FIRST.min(stop_at);
    loop {
        eprintln!("{name}: {step} connections");
        let (ramped, walls) = watched(server.pid(), || ramp(programs, &server, step));
        let (sessions, refusals) = ramped?;
        let is_all = sessions == u64::from(step);
        if is_all && step < stop_at {
            step = step.saturating_mul(2).min(stop_at);
            continue;
        }
        let reason = (!is_all).then(|| reason(&mut server, refusals));
        return Ok(Stop { server: name, sessions, tried: step, reason, walls });
    }
}

/// Does something, and reads the limits of a process meanwhile; the reading that had the least left.
fn watched<T>(pid: u32, act: impl FnOnce() -> T) -> (T, Walls) {
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let left = |walls: &Walls| walls.nearest().map_or(u64::MAX, Wall::threads_left);
            let mut closest = Walls::read(pid);
            while is_done.recv_timeout(WATCH_EVERY) == Err(RecvTimeoutError::Timeout) {
                let walls = Walls::read(pid);
                if left(&walls) < left(&closest) {
                    closest = walls;
                }
            }
            closest
        });
        let result = act();
        drop(done);
        (result, watch.join().unwrap_or_default())
    })
}

/// Holds so many connections; how many were sessions, and the simulator's commonest failure.
fn ramp(programs: &Programs, server: &Server, connections: u32) -> Result<(u64, Option<String>), String> {
    let hold =
        Hold { connections, room_size: 100, room_prefix: super::ROOM_PREFIX, seconds: 1.0, tokens: None };
    let mut arguments = hold.arguments();
    // The simulator's own plan may say that it will not fit: that is what is to be seen.
    arguments.extend([
        "--force".to_owned(),
        format!("--max-failures={connections}"),
        "--timeout=20".to_owned(),
    ]);
    let json = simulate(programs, server, "hold", &arguments)?.json;
    let sessions = json["connections"]["ready"].as_u64().ok_or("the simulator does not say who was ready")?;
    let failure = &json["failures"][0];
    let refusals = failure["count"].as_u64().map(|count| {
        let text = |name: &str| failure[name].as_str().unwrap_or_default();
        format!("{count} x {}: {}", text("class"), text("example"))
    });
    Ok((sessions, refusals))
}

/// What the server, the kernel and the clients have to say, in this order.
fn reason(server: &mut Server, refusals: Option<String>) -> String {
    let ended = server.ended().map(|status| format!("the server ended: {status}"));
    let said =
        server.logged("wall at").or_else(|| server.logged("panicked")).or_else(|| server.logged("fatal"));
    let clients = refusals.map(|refusals| format!("clients: {refusals}"));
    ended.into_iter().chain(said).chain(clients).collect::<Vec<_>>().join("; ")
}
