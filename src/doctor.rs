//! `tcbchat doctor`: reads, waits if it is to watch, and prints; and the line that `serve` begins with.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use tcbchat::config::Config;
use tcbchat::config::plan::Plan;
use tcbchat::config::procfs::Tree;
use tcbchat::walls::forecast::{Forecast, connections_configured};
use tcbchat::walls::probe::{Snapshot, counters_live};
use tcbchat::walls::report::{self, Examination, json};
use tcbchat::walls::watch::Watch;

use crate::cli::{Doctor, EXIT_NOT, EXIT_USAGE};
use crate::output::{fail, print};

/// Examines the machine, and prints what was found.
pub fn examine(doctor: &Doctor, config: &Config) -> ExitCode {
    let snapshot = match &doctor.root {
        Some(root) if !root.join("proc").is_dir() => {
            return fail(&format!("--root {}: there is no proc in it", root.display()), EXIT_USAGE);
        }
        Some(root) => Snapshot::read(&Tree::recorded(root)),
        None => Snapshot::live(),
    };
    let watch = match doctor.watch.map(|seconds| watch(&snapshot, seconds)).transpose() {
        Ok(watch) => watch,
        Err(code) => return code,
    };
    let capacity = connections_configured(&snapshot, config);
    let forecast = Forecast::new(&snapshot, config, doctor.connections.unwrap_or(capacity));
    let examination = Examination {
        snapshot: &snapshot,
        forecast: &forecast,
        is_asked: doctor.connections.is_some(),
        capacity,
        watch: watch.as_ref(),
    };
    let text = if doctor.json { json::json(&examination) } else { report::text(&examination) };
    let printed = print(&text);
    let is_hit = watch.is_some_and(|watch| !watch.hit().is_empty());
    if printed == ExitCode::SUCCESS && (!forecast.fits() || is_hit) {
        return ExitCode::from(EXIT_NOT);
    }
    printed
}

/// Reads the counters again after this time.
fn watch(snapshot: &Snapshot, seconds: u32) -> Result<Watch, ExitCode> {
    let start = Instant::now();
    let before = snapshot.counters.as_ref().map_err(|error| fail(error, EXIT_NOT))?;
    thread::sleep(Duration::from_secs(seconds.into()));
    let after = counters_live().map_err(|error| fail(&error, EXIT_NOT))?;
    Ok(Watch::new(before, &after, start.elapsed().as_secs_f64()))
}

/// What there is to say about a capacity that is planned, if a wall is below it.
pub fn warning(config: &Config, plan: &Plan) -> Option<String> {
    report::warning(&Forecast::new(&Snapshot::live(), config, plan.tcb.capacity))
}
