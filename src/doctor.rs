//! `tcbchat doctor`: reads, waits if it is to watch, and prints; and the line that `serve` begins with.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use tcbchat::config::Config;
use tcbchat::config::procfs::Tree;
use tcbchat::net::address::Address;
use tcbchat::walls::forecast::{Forecast, Question};
use tcbchat::walls::probe::{Snapshot, counters_live};
use tcbchat::walls::report::{self, Examination, json};
use tcbchat::walls::running::{self, Running};
use tcbchat::walls::watch::{Server, Watch};

use crate::cli::{Doctor, EXIT_NOT, EXIT_USAGE};
use crate::output::{fail, print};

/// Examines the machine, and prints what was found.
pub fn examine(doctor: &Doctor, config: &Config) -> ExitCode {
    let mut snapshot = match &doctor.root {
        Some(root) if !root.join("proc").is_dir() => {
            return fail(&format!("--root {}: there is no proc in it", root.display()), EXIT_USAGE);
        }
        Some(root) => Snapshot::read(&Tree::recorded(root)),
        None => Snapshot::live(),
    };
    if doctor.measure
        && let Err(error) = snapshot.measure()
    {
        return fail(&format!("--measure: {error}"), EXIT_NOT);
    }
    let found = match &doctor.root {
        Some(_) => Ok(None),
        None => {
            let listeners = snapshot.listeners.as_deref().unwrap_or_default();
            let tcp = config.listen.addresses.iter().filter_map(|address| match address {
                Address::Tcp(address) => Some(*address),
                // A Unix socket is in no table of listeners with ports.
                Address::Unix(_) => None,
            });
            running::find(doctor.pid, &tcp.collect::<Vec<_>>(), listeners)
        }
    };
    if let (Some(_), Err(error)) = (doctor.pid, &found) {
        return fail(error, EXIT_NOT);
    }
    let watch = match doctor.watch.map(|seconds| watch(&snapshot, found.as_ref(), seconds)).transpose() {
        Ok(watch) => watch,
        Err(code) => return code,
    };
    let found = found.unwrap_or_default();
    // A server elsewhere is none of this configuration's business, unless it is asked how many more fit.
    let is_meant =
        |server: &&Running| server.is_configured || doctor.pid.is_some() || doctor.connections.is_some();
    let running = found.as_ref().filter(is_meant);
    let question = Question { snapshot: &snapshot, config, running, connections: doctor.connections };
    let forecast = Forecast::new(&question);
    let examination =
        Examination { snapshot: &snapshot, forecast: &forecast, running, watch: watch.as_ref() };
    let text = if doctor.json { json::json(&examination) } else { report::text(&examination) };
    let printed = print(&text);
    let is_hit = watch.is_some_and(|watch| !watch.hit().is_empty());
    if printed == ExitCode::SUCCESS && (!forecast.fits() || is_hit) {
        return ExitCode::from(EXIT_NOT);
    }
    printed
}

/// Reads the counters again after this time: the kernel's, and those of the server.
fn watch(
    snapshot: &Snapshot,
    found: Result<&Option<Running>, &String>,
    seconds: u32,
) -> Result<Watch, ExitCode> {
    let start = Instant::now();
    let before = snapshot.counters.as_ref().map_err(|error| fail(error, EXIT_NOT))?;
    let server = found.ok().and_then(Option::as_ref);
    thread::sleep(Duration::from_secs(seconds.into()));
    // What a full table turns away is over when it has room again, so it is looked at before the server is asked.
    let after = counters_live().map_err(|error| fail(&error, EXIT_NOT))?;
    let elapsed_s = start.elapsed().as_secs_f64();
    let again = server.map(Running::again);
    let seen = match (server, &again, found) {
        (Some(before), Some(after), _) => Server::new(before, after),
        (_, _, Err(why)) => Server::Unseen { why: why.clone() },
        _ => Server::Unseen {
            why: "no server runs in this network namespace, or none that can be seen".into(),
        },
    };
    let mut watch = Watch::new(before, &after, elapsed_s, seen);
    if let Some(server) = again.as_ref().or(server) {
        watch.note_tables(server);
    }
    Ok(watch)
}

/// What there is to say about a capacity that is planned, if a wall is below it.
pub fn warning(forecast: &Forecast) -> Option<String> {
    report::warning(forecast)
}
