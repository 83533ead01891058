//! What a person sees while a run goes on, and what the report's curves are drawn from.
//!
//! On a terminal a line that is rewritten, elsewhere a plain line every few seconds, both on standard error;
//! standard output is the result's alone. Each look also asks whether the user wants to stop.
//!
//! Invariant: the series has a bounded number of points, however long the run.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::memory;
use crate::worker::desk::Counts;

/// Points of the series at which every second one is dropped and the distance doubled.
const POINTS_MAX: usize = 600;
/// Distance of the first points.
const POINT_EVERY: Duration = Duration::from_millis(250);
/// Distance of plain lines.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// The user wants to stop.
#[derive(Debug)]
pub struct Interrupted;

/// One point of the curves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Seconds after the start of the run.
    pub at_s: f64,
    /// Clients that are ready.
    pub open: u64,
    /// Clients that became ready so far.
    pub ready: u64,
    /// Clients that have failed so far.
    pub failed: u64,
    /// Messages sent so far.
    pub sent: u64,
    /// Messages received so far.
    pub delivered: u64,
    /// Heart-beats that the clients have sent so far.
    pub beats_sent: u64,
    /// Heart-beats that the clients have received so far.
    pub beats_received: u64,
    /// Resident bytes of the server, when it is known.
    pub server_rss_bytes: Option<u64>,
}

/// Watches a run.
pub struct Watch {
    epoch: Instant,
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: &'static str,
    next_line: Instant,
    next_point: Instant,
    point_every: Duration,
    series: Vec<Point>,
    server_pid: Option<u32>,
    interrupted: Arc<AtomicBool>,
}

impl Watch {
    /// Begins to watch. SIGINT and SIGTERM are taken from here on.
    ///
    /// # Errors
    /// The signals cannot be taken.
    pub fn new(epoch: Instant, server_pid: Option<u32>, quiet: bool) -> std::io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(
                "{spinner} {prefix:<12} {wide_bar} {pos:>9}/{len} {msg} [{elapsed}]",
            );
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            // The template is a constant: were it wrong, the plain style would do.
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        Ok(Self {
            epoch,
            bar,
            quiet,
            phase: "",
            next_line: epoch,
            next_point: epoch,
            point_every: POINT_EVERY,
            series: Vec::new(),
            server_pid,
            interrupted,
        })
    }

    /// A new part of the run begins, with so many things to do.
    pub fn begin(&mut self, phase: &'static str, length: u64) {
        self.phase = phase;
        self.next_line = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_prefix(phase);
            bar.set_length(length);
            bar.set_position(0);
        }
    }

    /// Shows and notes the present numbers.
    ///
    /// # Errors
    /// The user wants to stop.
    pub fn look(&mut self, counts: &Counts) -> Result<(), Interrupted> {
        let now = Instant::now();
        let done = match self.phase {
            "chat" | "drain" => counts.delivered,
            "churn" => counts.cycles,
            _ => counts.open,
        };
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!("open {} failed {}", counts.open, counts.failed));
        } else if !self.quiet && now >= self.next_line {
            self.next_line = now + LINE_EVERY;
            eprintln!("{:>8.1} s  {:<9} {}", self.elapsed_s(), self.phase, line(counts));
        }
        if now >= self.next_point {
            self.next_point = now + self.point_every;
            self.note(counts);
        }
        if self.interrupted.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
    }

    /// Adds a point to the curves now.
    pub fn note(&mut self, counts: &Counts) {
        if self.series.len() == POINTS_MAX {
            let mut nth = 0;
            self.series.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.point_every *= 2;
        }
        self.series.push(Point {
            at_s: self.elapsed_s(),
            open: counts.open,
            ready: counts.ready,
            failed: counts.failed,
            sent: counts.sent,
            delivered: counts.delivered,
            beats_sent: counts.beats_sent,
            beats_received: counts.beats_received,
            server_rss_bytes: self.server_pid.and_then(memory::rss_bytes),
        });
    }

    /// Seconds since the start of the run.
    pub fn elapsed_s(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64()
    }

    /// Ends the display; the curves.
    pub fn finish(self) -> Vec<Point> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.series
    }
}

fn line(counts: &Counts) -> String {
    let mut text = format!("open {}, failed {}", counts.open, counts.failed);
    if counts.sent > 0 {
        text += &format!(", sent {}, delivered {}", counts.sent, counts.delivered);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_stays_bounded_and_spans_the_run() {
        let mut watch = Watch::new(Instant::now(), None, true).unwrap();
        for open in 0..5000 {
            watch.note(&Counts { open, ..Counts::default() });
        }
        let series = watch.finish();
        assert!(series.len() <= POINTS_MAX);
        assert_eq!(series[0].open, 0);
        assert!(series.last().unwrap().open > 4900);
        assert!(series.is_sorted_by_key(|point| point.open));
    }
}
