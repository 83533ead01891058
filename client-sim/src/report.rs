//! What a run has shown: one structure, written as a table, as JSON and as a page with plots.
//!
//! The fields of [`Report`] are the JSON, documented in the README beside this crate; a field is added, never
//! renamed, within one [`SCHEMA`]. The verdict is made here, from numbers alone.
//!
//! Invariant: user and kernel memory are never summed into one number.

pub mod html;
pub mod json;
pub mod plot;
pub mod table;

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::failure::Row;
use crate::memory::{Cache, Sample};
use crate::plan::Plan;
use crate::progress::Point;
use crate::scrape::Metrics;
use crate::worker::desk::Counts;

/// Name and version of the JSON.
pub const SCHEMA: &str = "tcbchat.client-sim/1";

/// Buckets of a latency histogram for each tenfold of time.
const BUCKETS_PER_DECADE: f64 = 10.0;

/// Everything that a run has shown.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Report {
    pub schema: &'static str,
    pub scenario: &'static str,
    pub version: &'static str,
    pub started_unix_s: u64,
    pub elapsed_s: f64,
    pub target: String,
    pub server_ready_line: Option<String>,
    pub plan: Plan,
    pub connections: Connections,
    pub memory: Memory,
    pub idle: Option<Idle>,
    pub chat: Option<Chat>,
    pub churn: Option<Churn>,
    pub leaving: Option<Leaving>,
    pub failures: Vec<Row>,
    pub series: Vec<Point>,
    pub verdict: Verdict,
}

/// How the connections came and went.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Connections {
    pub asked: u32,
    pub started: u64,
    pub ready: u64,
    pub failed: u64,
    pub set_up_s: f64,
    pub set_up_ms: Latency,
    pub set_up_service_ms: Latency,
    pub closed_by_server_first: u64,
    pub closed_by_client_first: u64,
}

/// A latency in milliseconds.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub buckets: Vec<Bucket>,
}

/// One bar of a latency histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Bucket {
    pub from_ms: f64,
    pub to_ms: f64,
    pub count: u64,
}

impl Latency {
    /// Of a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let quantile = |q| ms(histogram.value_at_quantile(q));
        if histogram.is_empty() {
            return Self::default();
        }
        let mut buckets: Vec<(i32, u64)> = Vec::new();
        for value in histogram.iter_recorded() {
            let place = ((value.value_iterated_to() as f64).log10() * BUCKETS_PER_DECADE).floor() as i32;
            match buckets.last_mut() {
                Some((last, count)) if *last == place => *count += value.count_at_value(),
                _ => buckets.push((place, value.count_at_value())),
            }
        }
        let edge = |place: i32| 10f64.powf(f64::from(place) / BUCKETS_PER_DECADE) / 1000.0;
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: ms(histogram.max()),
            buckets: buckets
                .into_iter()
                .map(|(place, count)| Bucket { from_ms: edge(place), to_ms: edge(place + 1), count })
                .collect(),
        }
    }
}

/// Memory and CPU at the turning points, and per connection.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Memory {
    pub samples: Vec<Sample>,
    pub ends_on_this_machine: u32,
    pub held: Option<PerConnection>,
    pub after_chat: Option<PerConnection>,
    pub settled: Option<PerConnection>,
    pub left: Option<PerConnection>,
}

/// Growth since the start, divided by the connections open.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct PerConnection {
    pub connections: u64,
    pub server_user_bytes: Option<f64>,
    pub server_anonymous_bytes: Option<f64>,
    pub server_file_bytes: Option<f64>,
    pub server_page_table_bytes: Option<f64>,
    pub simulator_user_bytes: Option<f64>,
    pub kernel_slab_bytes: Option<f64>,
    pub kernel_slab_bytes_per_end: Option<f64>,
    pub page_table_bytes: Option<f64>,
    pub kernel_stack_bytes: Option<f64>,
    pub tcp_buffer_bytes: Option<f64>,
    pub kernel_caches: Vec<CacheGrowth>,
}

/// What one slab cache has grown by, per connection.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct CacheGrowth {
    pub name: String,
    pub bytes: f64,
    pub objects: f64,
}

/// Objects per connection below which a cache is left out: it grew for other reasons.
const CACHE_OBJECTS_MIN: f64 = 0.5;

impl Memory {
    /// Of all samples of a run with so many connections at its height.
    pub fn of(samples: Vec<Sample>, connections: u64, server_here: bool) -> Self {
        let ends_on_this_machine = if server_here { 2 } else { 1 };
        let growth = |label: &str| {
            let start = samples.iter().find(|sample| sample.label == "start")?;
            let now = samples.iter().find(|sample| sample.label == label)?;
            (connections > 0).then(|| PerConnection::of(start, now, connections, ends_on_this_machine))
        };
        let [held, after_chat] = ["held", "after-chat"].map(growth);
        let [settled, left] = ["settled", "left"].map(growth);
        Self { samples, ends_on_this_machine, held, after_chat, settled, left }
    }
}

impl PerConnection {
    fn of(start: &Sample, now: &Sample, connections: u64, ends: u32) -> Self {
        let each = |from: Option<u64>, to: Option<u64>| {
            from.zip(to).map(|(from, to)| (to as f64 - from as f64) / connections as f64)
        };
        let slab = each(start.slab_bytes, now.slab_bytes);
        let of = |caches: &[Cache], name: &str| caches.iter().find(|cache| cache.name == name).cloned();
        let mut kernel_caches: Vec<_> = now
            .caches
            .iter()
            .map(|now| {
                let before = of(&start.caches, &now.name);
                let (bytes, objects) = before.map_or((0, 0), |before| (before.bytes, before.objects));
                CacheGrowth {
                    name: now.name.clone(),
                    bytes: (now.bytes as f64 - bytes as f64) / connections as f64,
                    objects: (now.objects as f64 - objects as f64) / connections as f64,
                }
            })
            .filter(|growth| growth.objects >= CACHE_OBJECTS_MIN)
            .collect();
        kernel_caches.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
        Self {
            connections,
            server_user_bytes: each(start.server_pss_bytes, now.server_pss_bytes),
            server_anonymous_bytes: each(start.server_pss_anonymous_bytes, now.server_pss_anonymous_bytes),
            server_file_bytes: each(start.server_pss_file_bytes, now.server_pss_file_bytes),
            server_page_table_bytes: each(start.server_page_table_bytes, now.server_page_table_bytes),
            simulator_user_bytes: each(start.simulator_pss_bytes, now.simulator_pss_bytes),
            kernel_slab_bytes: slab,
            kernel_slab_bytes_per_end: slab.map(|bytes| bytes / f64::from(ends)),
            page_table_bytes: each(start.page_table_bytes, now.page_table_bytes),
            kernel_stack_bytes: each(start.kernel_stack_bytes, now.kernel_stack_bytes),
            tcp_buffer_bytes: each(start.tcp_buffer_bytes, now.tcp_buffer_bytes),
            kernel_caches,
        }
    }
}

/// CPU seconds of one act, by process. What a server's threads that have ended took is in it.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Cpu {
    pub server_s: Option<f64>,
    pub server_user_s: Option<f64>,
    pub server_system_s: Option<f64>,
    pub simulator_s: Option<f64>,
    pub simulator_user_s: Option<f64>,
}

impl Cpu {
    /// Between two samples.
    pub fn between(samples: &[Sample], from: &str, to: &str) -> Option<Self> {
        let find = |label: &str| samples.iter().find(|sample| sample.label == label);
        let (from, to) = (find(from)?, find(to)?);
        let growth = |of: fn(&Sample) -> Option<f64>| of(from).zip(of(to)).map(|(from, to)| to - from);
        let server_s = growth(|sample| sample.server_cpu_s);
        let server_user_s = growth(|sample| sample.server_user_cpu_s);
        Some(Self {
            server_s,
            server_user_s,
            server_system_s: server_s.zip(server_user_s).map(|(all, user)| (all - user).max(0.0)),
            simulator_s: growth(|sample| sample.simulator_cpu_s),
            simulator_user_s: growth(|sample| sample.simulator_user_cpu_s),
        })
    }
}

/// What being connected costs while nothing is said: heart-beats.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Idle {
    pub seconds: f64,
    pub connections: u64,
    pub heart_beats_sent_per_s: f64,
    pub heart_beats_received_per_s: f64,
    pub server_us_per_heart_beat: Option<f64>,
    pub simulator_us_per_heart_beat: Option<f64>,
    pub server_turns_per_s: Option<f64>,
    pub server_timers_per_s: Option<f64>,
    pub server_timers_per_tick: Option<f64>,
    pub cpu: Option<Cpu>,
}

/// Ticks of the server's clock in a second.
const SERVER_TICKS_PER_S: f64 = 10.0;

impl Idle {
    /// Of the time between the samples `ready` and `held`, with what the clients and the server had counted at both.
    pub fn between(
        samples: &[Sample],
        (before, after): (&Counts, &Counts),
        counted: Option<(Metrics, Metrics)>,
    ) -> Option<Self> {
        let at = |label: &str| samples.iter().find(|sample| sample.label == label).map(|sample| sample.at_s);
        let seconds = at("held")? - at("ready")?;
        if seconds <= 0.0 {
            return None;
        }
        let (sent, received) =
            (after.beats_sent - before.beats_sent, after.beats_received - before.beats_received);
        let cpu = Cpu::between(samples, "ready", "held");
        let each = |of: fn(&Cpu) -> Option<f64>| {
            let cpu_s = cpu.as_ref().and_then(of)?;
            (sent + received > 0).then(|| cpu_s * 1e6 / (sent + received) as f64)
        };
        let per_s = |name: &str| {
            let (before, after) = counted.as_ref()?;
            Some(after.find(name)?.saturating_sub(before.find(name)?) as f64 / seconds)
        };
        let timers = per_s("timers_fired_total");
        Some(Self {
            seconds,
            connections: after.open,
            heart_beats_sent_per_s: sent as f64 / seconds,
            heart_beats_received_per_s: received as f64 / seconds,
            server_us_per_heart_beat: each(|cpu| cpu.server_s),
            simulator_us_per_heart_beat: each(|cpu| cpu.simulator_s),
            server_turns_per_s: per_s("turns_total"),
            server_timers_per_s: timers,
            server_timers_per_tick: timers.map(|timers| timers / SERVER_TICKS_PER_S),
            cpu,
        })
    }
}

/// How everybody was let go.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Leaving {
    pub how: &'static str,
    pub connections: u64,
    pub seconds: f64,
    pub per_s: f64,
    pub in_order: u64,
    pub cut_off: u64,
    pub server_ended_s: Option<f64>,
    pub server_said: Option<String>,
}

impl Leaving {
    /// So many connections, gone after this time.
    pub fn of(how: &'static str, connections: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let per_s = if seconds > 0.0 { connections as f64 / seconds } else { 0.0 };
        Self { how, connections, seconds, per_s, ..Self::default() }
    }
}

/// How the messages fared.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Chat {
    pub messages_asked: u64,
    pub messages_sent: u64,
    pub messages_unsent: u64,
    pub rate_asked_per_s: Option<f64>,
    pub window: Option<u32>,
    pub in_flight_max: Option<u32>,
    pub busy_poll: bool,
    pub rate_sent_per_s: f64,
    pub payload_bytes: usize,
    pub rooms: u64,
    pub subscribers: u64,
    pub deliveries_expected: u64,
    pub deliveries_received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    pub corrupted: u64,
    pub foreign: u64,
    pub subscribers_affected: u64,
    pub rooms_in_two_orders: u64,
    pub receipts_asked: u64,
    pub receipts_received: u64,
    pub latency_ms: Latency,
    pub cpu: Option<Cpu>,
    pub deaf: Vec<Row>,
}

/// How the cycles went.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Churn {
    pub cycles_asked: u64,
    pub cycles_done: u64,
    pub cycles_late: u64,
    pub cycles_per_s: f64,
    pub rate_asked_per_s: f64,
    pub messages_sent: u64,
    pub messages_echoed: u64,
    pub echo_ms: Latency,
    pub cpu: Option<Cpu>,
    pub time_wait_before: Option<u64>,
    pub time_wait_after: Option<u64>,
}

/// Passed or not, and why not.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the README documents each field of the JSON")]
pub struct Verdict {
    pub exit_code: u8,
    pub reasons: Vec<String>,
}

impl Verdict {
    /// Adds a reason for failure.
    pub fn fail(&mut self, reason: String) {
        self.reasons.push(reason);
        self.exit_code = self.exit_code.max(1);
    }

    /// The user stopped the run.
    pub fn interrupt(&mut self) {
        self.reasons.push("interrupted".to_owned());
        self.exit_code = 130;
    }
}

impl Report {
    /// Makes the verdict from the numbers.
    pub fn judge(&mut self, max_failures: u64, max_p99_ms: Option<f64>) {
        let failed = self.connections.failed;
        let mut reasons = Vec::new();
        if failed > max_failures {
            reasons.push(format!("{failed} failures, {max_failures} accepted"));
        }
        let mut measured = &self.connections.set_up_ms;
        if let Some(chat) = &self.chat {
            let faults = [
                ("lost", chat.lost),
                ("duplicated", chat.duplicated),
                ("out of order", chat.out_of_order),
                ("damaged", chat.corrupted),
                ("foreign", chat.foreign),
                ("rooms in two orders", chat.rooms_in_two_orders),
                ("messages not sent", chat.messages_unsent),
            ];
            reasons.extend(
                faults.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")),
            );
            measured = &chat.latency_ms;
        }
        if let Some(max) = max_p99_ms.filter(|max| measured.p99 > *max) {
            reasons.push(format!("p99 {:.1} ms, {max} ms accepted", measured.p99));
        }
        reasons.into_iter().for_each(|reason| self.verdict.fail(reason));
    }
}

#[cfg(test)]
mod tests;
