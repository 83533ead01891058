//! `hold`: connect, subscribe, hold, measure, leave. `herd`: the same, all at once.
//!
//! Invariant: no message is sent.

use super::{Casting, Refusal, Stage};
use crate::cli::HoldArgs;
use crate::report::Report;

/// Runs `hold`, or `herd` when `at_once`.
///
/// # Errors
/// Why there is no run.
pub fn run(args: &HoldArgs, at_once: bool) -> Result<Report, Refusal> {
    let common = &args.common;
    let mut stage = Stage::open(&Casting {
        name: if at_once { "herd" } else { "hold" },
        common,
        connections: args.held.connections,
        payload_bytes: 0,
        deaf_every: 0,
        checked: true,
        whole_rooms: false,
        in_flight_max: None,
    })?;
    let (rate, half_open_max) = if at_once {
        (f64::INFINITY, args.held.connections)
    } else {
        (common.connect_rate, common.max_half_open)
    };
    stage.play(|stage| {
        stage.connect(rate, half_open_max)?;
        stage.hold(args.hold)?;
        stage.end(common, &args.held, 0.0)
    });
    stage.close(common)
}
