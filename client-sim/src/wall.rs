//! `wall`: every limit that the documentation names, hit with real sockets and then passed.
//!
//! [`WALLS`] is the table of all. Each wall is played in a process of its own, which this one starts: it may
//! move into a network namespace, lower its limits and fill its descriptor table without a trace in the next.
//!
//! - [`stage`] is the place and its servers; its namespace and what the kernel counts there are the crate [`netns`]'s;
//! - [`user`] comes one by one and sees every error, [`rows`] are the walls themselves;
//! - [`outcome`] is what was seen, [`report`] shows it, [`doctor`] had said so before.
//!
//! Invariant: no limit of the host is changed; what is lowered belongs to a process or a namespace that ends
//! with the stage.

mod doctor;
pub mod outcome;
mod report;
mod rows;
mod stage;
mod user;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use crate::cli::WallArgs;
use crate::plan::Machine;
use crate::spawn;
use outcome::{Outcome, Played, Trouble};
use stage::{Place, Stage};

/// The walls were hit and passed.
const EXIT_PASSED: u8 = 0;
/// One was not hit, or not passed.
const EXIT_NOT_SHOWN: u8 = 1;
/// The command line does not fit.
const EXIT_USAGE: u8 = 2;
/// One could not be played.
const EXIT_BROKEN: u8 = 3;
/// One was skipped because a privilege or a program is missing.
const EXIT_SKIPPED: u8 = 4;
/// The user has interrupted.
const EXIT_INTERRUPTED: u8 = 130;

/// Time that one stage may take; each ends by itself long before.
const STAGE_WITHIN: Duration = Duration::from_secs(240);
/// Time between two looks at a stage's process.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time that a stage's process has to stop its server when it is told to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// One wall.
#[derive(Debug)]
pub struct Wall {
    /// Its name, as in the documentation.
    pub id: &'static str,
    /// What Windows calls it, with the default.
    pub windows: &'static str,
    /// What stands in its place on Linux.
    pub linux: &'static str,
    /// What tcbchat has of its own.
    pub tcbchat: &'static str,
    /// Where it is played.
    place: Place,
    /// Nearly all of its time is waiting: it is played beside the others.
    is_patient: bool,
    play: fn(&Stage) -> Result<Outcome, Trouble>,
}

/// Every wall, in the order of the documentation.
pub static WALLS: &[Wall] = &[
    Wall {
        id: "connections",
        windows: "TcpNumConnections (16,777,214)",
        linux: "RLIMIT_NOFILE, for each descriptor table; fs.nr_open, fs.file-max",
        tcbchat: "tcb.capacity; reactors with a descriptor table each",
        place: Place::Host,
        is_patient: false,
        play: rows::descriptors::connections,
    },
    Wall {
        id: "user-ports",
        windows: "MaxUserPort (5000: 1024-5000, 3,977 outbound connections for each address)",
        linux: "net.ipv4.ip_local_port_range, for each (source, destination, destination port)",
        tcbchat: "client-sim: source addresses x ports, with IP_BIND_ADDRESS_NO_PORT",
        place: Place::Namespace,
        is_patient: false,
        play: rows::ports::user_ports,
    },
    Wall {
        id: "reserved-ports",
        windows: "ReservedPorts",
        linux: "net.ipv4.ip_local_reserved_ports",
        tcbchat: "client-sim: the plan subtracts them",
        place: Place::Namespace,
        is_patient: false,
        play: rows::ports::reserved_ports,
    },
    Wall {
        id: "tcb-table",
        windows: "MaxFreeTcbs (2000 on Server, 1000 on Professional), ACTIVE and TIME_WAIT together",
        linux: "no table: slab objects, about 4 KB for each end",
        tcbchat: "tcb.capacity, tcb.time_wait_counts; --profile",
        place: Place::Host,
        is_patient: false,
        play: rows::table::tcb_table,
    },
    Wall {
        id: "hash-table",
        windows: "MaxHashTableSize (512; 64-65536), NumTcbTablePartitions (CPUs x 4)",
        linux: "tcp_ehash_entries, set at boot by thash_entries",
        tcbchat: "tcb.hash_buckets, tcb.partitions",
        place: Place::Host,
        is_patient: false,
        play: rows::table::hash_table,
    },
    Wall {
        id: "time-wait",
        windows: "TcpTimedWaitDelay (240 s; 30-300)",
        linux: "60 s, fixed; whoever closes first pays",
        tcbchat: "tcb.time_wait_delay_ms",
        place: Place::Namespace,
        is_patient: false,
        play: rows::time_wait::time_wait,
    },
    Wall {
        id: "time-wait-max",
        windows: "MaxFreeTWTcbs (1000; past it, those older than 60 s are free); 2003 SP1: if the peer differs",
        linux: "net.ipv4.tcp_max_tw_buckets, tcp_tw_reuse",
        tcbchat: "tcb.time_wait_max, tcb.time_wait_reuse",
        place: Place::Namespace,
        is_patient: true,
        play: rows::time_wait::time_wait_max,
    },
    Wall {
        id: "keep-alive",
        windows: "KeepAliveTime (7,200,000 ms)",
        linux: "tcp_keepalive_time, _intvl, _probes; TCP_KEEPIDLE and TCP_USER_TIMEOUT for each socket",
        tcbchat: "keepalive.*, STOMP heart-beats",
        place: Place::Namespace,
        is_patient: false,
        play: rows::peers::keep_alive,
    },
    Wall {
        id: "buffers",
        windows: "MaxBufferredReceiveBytes, TCP receive window; the non-paged pool",
        linux: "net.ipv4.tcp_rmem, tcp_wmem, tcp_mem",
        tcbchat: "outbound.bytes_max; 1 KB buffers leased while bytes are incomplete",
        place: Place::Namespace,
        is_patient: false,
        play: rows::peers::buffers,
    },
    Wall {
        id: "backlog",
        windows: "5 on Professional, 200 on Server",
        linux: "the smaller of listen()'s and net.core.somaxconn",
        tcbchat: "listen.backlog",
        place: Place::Namespace,
        is_patient: false,
        play: rows::arrival::backlog,
    },
    Wall {
        id: "half-open",
        windows: "10 half-open connects (XP SP2, Vista), EventID 4226, EnableConnectionRateLimiting",
        linux: "outbound none; inbound tcp_max_syn_backlog, syncookies",
        tcbchat: "handshake.pending_max, handshake.timeout_ms, handshake.pending_per_address_max",
        place: Place::Host,
        is_patient: false,
        play: rows::arrival::half_open,
    },
    Wall {
        id: "nat",
        windows: "a NAT router or firewall in front",
        linux: "nf_conntrack_max; nftables ct count",
        tcbchat: "none: it is not on this machine; doctor reads what can be read",
        place: Place::Namespace,
        is_patient: false,
        play: rows::firewall::nat,
    },
    Wall {
        id: "bio",
        windows: "Tomcat BIO: a thread for each connection (maxThreads 200)",
        linux: "threads-max, pids.max, vm.max_map_count; 8 MiB of stack reserved each",
        tcbchat: "reactors: a few threads for all connections",
        place: Place::Host,
        is_patient: false,
        play: rows::threads::bio,
    },
    Wall {
        id: "app-limits",
        windows: "terminal server licences, 'only 10 connections'",
        linux: "cgroup pids.max, memory.max; RLIMIT_NPROC",
        tcbchat: "needs no thread for a connection; doctor names the lowest wall",
        place: Place::Host,
        is_patient: false,
        play: rows::threads::app_limits,
    },
];

/// A wall, and what came of it.
#[derive(Debug)]
pub struct Performance {
    /// Which.
    pub wall: &'static Wall,
    /// What came of it.
    pub played: Played,
}

/// The names of all walls.
pub fn ids() -> Vec<&'static str> {
    WALLS.iter().map(|wall| wall.id).collect()
}

/// The wall of a name.
pub fn find(id: &str) -> Option<&'static Wall> {
    WALLS.iter().find(|wall| wall.id == id)
}

/// Does what the command line says.
pub fn run(args: &WallArgs) -> ExitCode {
    if let Some(threads) = args.bio_server {
        return rows::threads::bio_server(threads);
    }
    if args.list {
        list();
        return ExitCode::from(EXIT_PASSED);
    }
    let named = args.name.as_deref().and_then(find);
    if let (true, Some(wall)) = (args.stage, named) {
        return perform_here(wall, args.server.as_deref());
    }
    let walls: Vec<&'static Wall> =
        if args.all { WALLS.iter().collect() } else { named.into_iter().collect() };
    let server = match spawn::find_server(args.server.as_deref()) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("client-sim: {error}");
            return ExitCode::from(EXIT_BROKEN);
        }
    };
    let Some(performances) = perform(&walls, &server) else { return ExitCode::from(EXIT_INTERRUPTED) };
    if args.all {
        print!("{}", report::summary(&performances));
    }
    let mut code = exit_code(&performances);
    if let Some(path) = &args.json
        && let Err(error) = std::fs::write(path, to_json(&performances))
    {
        eprintln!("client-sim: {}: {error}", path.display());
        code = EXIT_BROKEN;
    }
    ExitCode::from(code)
}

fn list() {
    for wall in WALLS {
        let place = match wall.place {
            Place::Host => "this machine's loopback",
            Place::Namespace => "a network namespace of its own",
        };
        println!(
            "{:<15} {}\n{:16}{}\n{:16}{}\n{:16}on {place}",
            wall.id, wall.windows, "", wall.linux, "", wall.tcbchat, ""
        );
    }
}

/// What a process is that plays one wall: its only output is the outcome.
fn perform_here(wall: &Wall, server: Option<&Path>) -> ExitCode {
    let play = || {
        let binary = server.ok_or_else(|| "--stage needs --server".to_owned())?.to_owned();
        if wall.place == Place::Namespace {
            netns::enter()?;
        }
        // Raises the limit of descriptors; the stage's own sockets are many.
        Machine::read();
        let start = Instant::now();
        let mut outcome = (wall.play)(&Stage { place: wall.place, binary })?;
        outcome.elapsed_s = start.elapsed().as_secs_f64();
        Ok(outcome)
    };
    match serde_json::to_string(&Played::from(play())) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("client-sim: {error}");
            ExitCode::from(EXIT_BROKEN)
        }
    }
}

/// Plays walls one after the other, the patient ones beside them; each is printed when its turn comes.
/// `None` when the user interrupts.
fn perform(walls: &[&'static Wall], server: &Path) -> Option<Vec<Performance>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            eprintln!("client-sim: {error}; an interrupt will not stop what is under way");
        }
    }
    let start = |wall: &Wall| Actors::start(wall, server);
    let mut beside: Vec<(&Wall, Result<Actors, String>)> = walls
        .iter()
        .filter(|wall| wall.is_patient && walls.len() > 1)
        .map(|wall| (*wall, start(wall)))
        .collect();
    let mut performances = Vec::new();
    for (number, wall) in walls.iter().enumerate() {
        eprintln!("wall {} of {}: {} ...", number + 1, walls.len(), wall.id);
        let actors = match beside.iter().position(|(other, _)| other.id == wall.id) {
            Some(at) => beside.swap_remove(at).1,
            None => start(wall),
        };
        let played = match actors.and_then(|actors| actors.watch(&interrupted)) {
            Ok(Some(played)) => played,
            // The others end with the guards that `beside` holds.
            Ok(None) => return None,
            Err(reason) => Played::Broken { reason },
        };
        print!("{}", report::render(wall, &played));
        performances.push(Performance { wall, played });
    }
    Some(performances)
}

/// The process that plays a wall, with its servers: one group, which ends when this is dropped.
#[derive(Debug)]
struct Actors {
    child: Child,
    group: Option<Pid>,
    deadline: Instant,
    said: Option<JoinHandle<String>>,
    complained: Option<JoinHandle<String>>,
}

impl Actors {
    fn start(wall: &Wall, server: &Path) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
        let mut child = Command::new(own)
            .args(["wall", wall.id, "--stage", "--server"])
            .arg(server)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("the stage could not be started: {error}"))?;
        Ok(Self {
            group: Some(Pid::from_child(&child)),
            deadline: Instant::now() + STAGE_WITHIN,
            said: child.stdout.take().map(read_all),
            complained: child.stderr.take().map(read_all),
            child,
        })
    }

    /// Waits for the end; `None` when the user does not want to.
    fn watch(mut self, interrupted: &AtomicBool) -> Result<Option<Played>, String> {
        loop {
            match self.child.try_wait() {
                // Its servers are gone before it is; there is no group left, and its number is free again.
                Ok(Some(status)) if status.success() => {
                    self.group = None;
                    break;
                }
                Ok(Some(_)) => break,
                Ok(None) if interrupted.load(Ordering::Relaxed) => return Ok(None),
                Ok(None) if Instant::now() >= self.deadline => {
                    return Err(format!("the stage did not end within {} s", STAGE_WITHIN.as_secs()));
                }
                Ok(None) => thread::sleep(LOOK_EVERY),
                Err(error) => return Err(format!("the stage could not be waited for: {error}")),
            }
        }
        // A stage that failed may have left servers, and they hold its pipes.
        self.end_group(Signal::TERM);
        self.group = None;
        let text = |reader: Option<JoinHandle<String>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        let (said, complained) = (text(self.said.take()), text(self.complained.take()));
        serde_json::from_str(&said)
            .map(Some)
            .map_err(|_| format!("the stage ended without an outcome: {}", complained.trim()))
    }

    fn end_group(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An error says that nobody is left in it.
            kill_process_group(group, signal).ok();
        }
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        self.end_group(Signal::TERM);
        let end = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(LOOK_EVERY);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end_group(Signal::KILL);
            drop(self.child.wait());
        }
    }
}

/// Reads a pipe to its end, so that it is never full.
fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        // What was read before an error is still worth showing.
        drop(pipe.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// The worst that happened.
fn exit_code(performances: &[Performance]) -> u8 {
    let code = |performance: &Performance| match &performance.played {
        Played::Done(outcome) if outcome.is_shown() => EXIT_PASSED,
        Played::Done(_) => EXIT_NOT_SHOWN,
        Played::Skipped { .. } => EXIT_SKIPPED,
        Played::Broken { .. } => EXIT_BROKEN,
    };
    let codes: Vec<u8> = performances.iter().map(code).collect();
    let order = [EXIT_BROKEN, EXIT_NOT_SHOWN, EXIT_SKIPPED];
    order.into_iter().find(|code| codes.contains(code)).unwrap_or(match codes.is_empty() {
        true => EXIT_USAGE,
        false => EXIT_PASSED,
    })
}

fn to_json(performances: &[Performance]) -> String {
    let walls: Vec<_> = performances
        .iter()
        .map(|performance| {
            let wall = performance.wall;
            json!({
                "id": wall.id,
                "windows": wall.windows,
                "linux": wall.linux,
                "tcbchat": wall.tcbchat,
                "shown": matches!(&performance.played, Played::Done(outcome) if outcome.is_shown()),
                "played": performance.played,
            })
        })
        .collect();
    let report = json!({"schema": "tcbchat.client-sim.wall/1", "walls": walls});
    format!("{report:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(holds: bool) -> Played {
        let mut outcome = Outcome::default();
        outcome.claim(holds, "");
        Played::Done(outcome)
    }

    #[test]
    fn the_worst_decides_the_exit_code() {
        let code = |played: Vec<Played>| {
            exit_code(
                &played.into_iter().map(|played| Performance { wall: &WALLS[0], played }).collect::<Vec<_>>(),
            )
        };
        let skipped = || Played::Skipped { reason: String::new() };
        let broken = || Played::Broken { reason: String::new() };
        assert_eq!(code(vec![done(true), done(true)]), EXIT_PASSED);
        assert_eq!(code(vec![done(true), skipped()]), EXIT_SKIPPED);
        assert_eq!(code(vec![skipped(), done(false), done(true)]), EXIT_NOT_SHOWN);
        assert_eq!(code(vec![done(false), broken(), skipped()]), EXIT_BROKEN);
    }

    #[test]
    fn names_are_unique_and_found() {
        for wall in WALLS {
            assert!(std::ptr::eq(find(wall.id).unwrap(), wall), "{}", wall.id);
        }
        assert!(find("no-wall").is_none());
    }

    #[test]
    fn the_json_says_what_was_shown() {
        let report = to_json(&[
            Performance { wall: &WALLS[0], played: done(true) },
            Performance { wall: &WALLS[1], played: Played::Skipped { reason: "root".into() } },
        ]);
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["walls"][0]["shown"], true);
        assert_eq!(report["walls"][1]["shown"], false);
        assert_eq!(report["walls"][1]["played"]["reason"], "root");
    }
}
