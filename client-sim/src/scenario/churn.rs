//! `churn`: connect, subscribe, perhaps a message, leave; over and over with a bounded population.
//!
//! Invariant: every cycle that started is a success or a failure at the end.

use std::time::Instant;

use super::{Casting, Refusal, START_AHEAD_US, Stage};
use crate::cli::ChurnArgs;
use crate::crew::Broken;
use crate::report::{self, Report};
use crate::worker::orders::{ChurnOrder, Order};

/// Runs `churn`.
///
/// # Errors
/// Why there is no run.
pub fn run(args: &ChurnArgs) -> Result<Report, Refusal> {
    let common = &args.common;
    let mut stage = Stage::open(&Casting {
        name: "churn",
        common,
        connections: args.population,
        payload_bytes: crate::payload::BYTES_MIN,
        deaf_every: 0,
        checked: false,
        whole_rooms: false,
        in_flight_max: None,
    })?;
    stage.play(|stage| stage.churn(args));
    stage.close(common)
}

impl Stage {
    fn churn(&mut self, args: &ChurnArgs) -> Result<(), Broken> {
        let cycles = (args.rate * args.duration).clamp(0.0, f64::from(u32::MAX / 64)).round() as u64;
        self.watch.begin("churn", cycles);
        let start = Instant::now();
        self.crew.order(&Order::Churn(ChurnOrder {
            start_us: self.setup.now_us() + START_AHEAD_US,
            rate: args.rate,
            cycles,
            population: args.population.div_ceil(self.setup.plan.threads),
            rooms: args.population.div_ceil(self.setup.room_size),
            stay_us: args.stay * 1000,
            message: args.message,
            leave: args.leave,
        }));
        self.crew.wait_all(&mut self.watch)?;
        let seconds = start.elapsed().as_secs_f64();
        let counts = self.crew.counts();
        self.sample("left");
        let cpu = report::Cpu::between(&self.samples, "start", "left");
        self.churn = Some(report::Churn {
            cpu,
            cycles_asked: cycles,
            cycles_done: counts.cycles,
            cycles_late: 0,
            cycles_per_s: counts.cycles as f64 / seconds,
            rate_asked_per_s: args.rate,
            messages_echoed: counts.delivered,
            messages_sent: counts.sent,
            echo_ms: report::Latency::default(),
            time_wait_before: self.samples.first().and_then(|sample| sample.tcp_time_wait),
            time_wait_after: self.samples.last().and_then(|sample| sample.tcp_time_wait),
        });
        Ok(())
    }
}
