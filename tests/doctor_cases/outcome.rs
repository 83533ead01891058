//! What comes of a case: the doctor's forecast, and what the server then met.
//!
//! Owns the order of a case (what is there before, the doctor, the server, the crowd), and the verdict on it.

use std::net::Ipv4Addr;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::cases::{Before, Case};
use crate::crowd::{BATCH, Crowd};
use crate::place::Groups;
use crate::server::{ADDRESS, Server};

/// Connections that are made at most: what one descriptor table of this process has room for.
const CLIENTS_MAX: usize = 19_000;
/// Percent by which a forecast may be off.
const ERROR_MAX: f64 = 5.0;

/// What came of a case.
pub struct Outcome {
    pub forecast: u64,
    pub wall: String,
    pub served: u64,
    pub met: &'static str,
    pub is_lost: bool,
}

impl Outcome {
    pub fn error(&self) -> f64 {
        (self.forecast as f64 - self.served as f64) / (self.served.max(1) as f64) * 100.0
    }

    pub fn holds(&self) -> bool {
        // Who is not started meets the wall that was named; the reason is its own.
        let is_named = self.wall == self.met || self.met == "does not start";
        self.error().abs() <= ERROR_MAX && is_named && !self.is_lost
    }
}

/// Plays it in the namespace of this thread.
pub fn play(case: &Case) -> Result<Outcome, String> {
    let groups = Groups::make(&case.place)?;
    let mut before = Crowd::new(case.batch(), None);
    let (mut server, mut neighbour, mut asked) = (None, None, None);
    match case.before {
        Before::Nothing => {}
        Before::Neighbour => neighbour = Server::start(case, &groups, "127.0.0.1:8081"),
        Before::Waiting(count) => {
            server = Server::start(case, &groups, ADDRESS);
            let mut leaving = Crowd::new(case.batch(), Some(Ipv4Addr::new(127, 0, 0, 2)));
            leaving.come(count);
            leaving.leave_in_order();
        }
        Before::Open(count, more) | Before::Lowered(count, _, more) => {
            server = Server::start(case, &groups, ADDRESS);
            before.come(count);
            asked = Some(more.to_string());
        }
    }
    if let (Before::Lowered(_, limit, _), Some(server)) = (case.before, &server) {
        let limit = Rlimit { current: Some(limit), maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(Some(server.pid()), Resource::Nofile, limit).expect("root may");
    }
    let mut words = vec!["doctor", "--json", "--listen", ADDRESS];
    if let Some(more) = &asked {
        words.extend(["--connections", more.as_str()]);
    }
    let output =
        case.place.command(&groups, &words, &case.options).output().map_err(|error| error.to_string())?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let forecast = report["maximum"]["connections"].as_u64().expect("a number");
    let wall = report["maximum"]["wall"].as_str().expect("a wall").to_owned();
    let is_refused = !report["refusal"].is_null();

    if server.is_none() {
        server = Server::start(case, &groups, ADDRESS);
    }
    drop(neighbour);
    let Some(mut server) = server else {
        let met = if is_refused { "does not start" } else { "does not start, unforeseen" };
        return Ok(Outcome { forecast, wall, served: 0, met, is_lost: false });
    };
    let mut crowd = Crowd::new(case.batch(), None);
    let count = (forecast as usize + forecast as usize / 5 + 2 * BATCH).min(CLIENTS_MAX);
    crowd.come(count);
    let served = crowd.served.len() as u64;
    let misses_somebody = (crowd.alive() as u64) < served;
    let has_ended = if misses_somebody { server.ends_soon() } else { server.has_ended() };
    let is_lost = misses_somebody && !has_ended;
    let is_full = server.is_out_of_descriptors();
    drop((crowd, before));
    let met = if has_ended {
        "data-limit"
    } else if server.number("tcbchat_refused_memory_total") > 0 {
        "cgroup-memory"
    } else if server.number("tcbchat_refused_table_full_total") > 0 {
        "tcb-capacity"
    } else if is_full {
        "fd-table"
    } else {
        "nothing"
    };
    Ok(Outcome { forecast, wall, served, met, is_lost })
}
