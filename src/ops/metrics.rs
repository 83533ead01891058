//! The scrape: all numbers of the server as OpenMetrics text.
//!
//! The reactors' counters are described where they are declared ([`crate::metrics::CATALOGUE`]) and summed
//! over the reactors here; what belongs to no reactor is described in [`SERVER`]: the TCB table, the
//! bounds, and the process and its machine. Nothing is counted here, so a scrape that is never asked for costs nothing.
//!
//! Invariant: everything that is encoded is described in one of the two catalogues, and with the kind that
//! it has there; a test compares a scrape with both.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::log::Losses;
use super::memory::{KernelTcp, Meter};
use crate::metrics::{Kind, ShardCounters, ShardMetrics};
use crate::services::api::Counts;
use crate::tcb::{State, TcbTable};

/// What every name starts with.
pub const PREFIX: &str = "tcbchat_";

/// How a scrape is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' older text format, 0.0.4.
    Text,
}

impl Format {
    /// The format that an `Accept` header field prefers (RFC 9110 section 12.5.1), given by its members; OpenMetrics if
    /// it has no preference, or for neither.
    pub fn of<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
        // How specific the best range for each was, and its weight.
        let mut open = (0, 0.0);
        let mut text = (0, 0.0);
        for range in accept {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
            let weight: f32 = weight.unwrap_or(0.0);
            let (is_open, is_text, how_specific) = match name.as_str() {
                "application/openmetrics-text" => (true, false, 3),
                "text/plain" => (false, true, 3),
                "application/*" => (true, false, 2),
                "text/*" => (false, true, 2),
                "*/*" => (true, true, 1),
                _ => (false, false, 0),
            };
            for (is_it, best) in [(is_open, &mut open), (is_text, &mut text)] {
                if is_it && how_specific > best.0 {
                    *best = (how_specific, weight);
                }
            }
        }
        if text.1 > open.1 { Format::Text } else { Format::OpenMetrics }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics as the older text format: counters are described under the name that their samples have, and there is no
/// mark at the end.
fn as_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let counters: std::collections::HashSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in page.lines().filter(|line| *line != "# EOF") {
        let described = line.strip_prefix("# ").and_then(|line| line.split_once(' '));
        match described {
            Some((word, rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let suffix = if counters.contains(name) { "_total" } else { "" };
                text.extend(["# ", word, " ", name, suffix, " ", rest]);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Chain lengths of the TCB table's index that get a number of their own; longer ones share one.
const CHAINS_SHOWN: usize = 8;

/// One number, or one number for each value of a label, that belongs to no reactor.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name without [`PREFIX`].
    pub name: &'static str,
    /// What it is, in a sentence or two.
    pub help: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// The label that splits it, if one does.
    pub label: Option<&'static str>,
}

/// Declares the metrics of the server: a constant each, and the catalogue of all.
macro_rules! server_metrics {
    ( $( $(#[doc = $doc:literal])+ $name:ident = $text:literal, $kind:ident $(by $label:literal)?; )+ ) => {
        $(
            const $name: Metric = Metric {
                name: $text,
                help: concat!($($doc),+).trim_ascii(),
                kind: Kind::$kind,
                label: first(&[$($label)?]),
            };
        )+

        /// Everything that belongs to no reactor, in the order of a scrape.
        pub const SERVER: &[Metric] = &[ $( $name, )+ ];
    };
}

const fn first(labels: &[&'static str]) -> Option<&'static str> {
    if labels.is_empty() { None } else { Some(labels[0]) }
}

server_metrics! {
    /// The version that runs; always 1.
    BUILD = "build", Gauge by "version";
    /// Reactor threads.
    REACTORS = "reactors", Gauge;
    /// Connections open on each reactor: how evenly the kernel spreads them.
    REACTOR_CONNECTIONS = "reactor_connections", Gauge by "reactor";
    /// The bounds in force, by key of the configuration.
    LIMIT = "limit", Gauge by "key";
    /// Connections that the TCB table has room for.
    TCB_CAPACITY = "tcb_capacity", Gauge;
    /// Places of the capacity that are taken.
    TCB_IN_USE = "tcb_in_use", Gauge;
    /// Entries of the TCB table by state; TIME_WAIT is modelled, the kernel's own count is beside it in
    /// `kernel_tcp_sockets`.
    TCB_ENTRIES = "tcb_entries", Gauge by "state";
    /// Connections admitted to the TCB table.
    TCB_ADMITTED = "tcb_admitted_total", Counter;
    /// Connections refused because the TCB table was full.
    TCB_REFUSED = "tcb_refused_total", Counter;
    /// Connections whose 4-tuple was still in the table: the end of the earlier connection had not been read
    /// yet, and its block was released for the new one.
    TCB_DUPLICATES = "tcb_duplicates_total", Counter;
    /// What became of records in TIME_WAIT: entered; expired after the delay; reused as
    /// `tcb.time_wait_reuse` says; reopened by a connection of the same 4-tuple; overflowed `tcb.time_wait_max`.
    TCB_TIME_WAIT = "tcb_time_wait_total", Counter by "event";
    /// Bytes reserved by the TCB table; the kernel gives memory for what has been used of them.
    TCB_BYTES = "tcb_reserved_bytes", Gauge by "part";
    /// Buckets of the TCB table's index by the length of the chain behind them: what a lookup costs.
    TCB_BUCKETS = "tcb_buckets", Gauge by "chain_length";
    /// Bytes of the process that are in memory.
    PROCESS_RESIDENT = "process_resident_bytes", Gauge;
    /// Bytes of the process that are in memory, shared pages divided among those that share them. Shown
    /// to callers on this machine only, because it takes the kernel a while to sum up.
    PROCESS_PROPORTIONAL = "process_proportional_bytes", Gauge;
    /// TCP sockets in this network namespace as the kernel counts them.
    KERNEL_SOCKETS = "kernel_tcp_sockets", Gauge by "state";
    /// Bytes of TCP socket buffers on the machine, those of other programs included.
    KERNEL_BUFFERS = "kernel_tcp_buffer_bytes", Gauge;
    /// Lines of the log that did not reach standard error: `log.queue_bytes_max` waited already, or writing failed.
    LOG_LINES_LOST = "log_lines_lost_total", Counter by "reason";
    /// Requests to the HTTP API that were answered.
    API_REQUESTS = "api_requests_total", Counter by "status";
    /// Messages that were published through the HTTP API, and have their place.
    API_PUBLISHED = "api_messages_published_total", Counter;
    /// Requests to the HTTP API that repeated an earlier one with its Idempotency-Key, and had its answer.
    API_REPEATED = "api_requests_repeated_total", Counter;
    /// What the HTTP API refused: requests without the right token; connections, requests, bodies, batches, pages and bans past
    /// their bounds in `[api]`; requests past `api.request_timeout_ms`; keys that were forgotten before their time.
    API_REFUSED = "api_refused_total", Counter by "reason";
}

/// The bounds in force: key of the configuration and value. They may change.
#[derive(Debug, Default)]
pub struct Bounds(Mutex<Vec<(String, u64)>>);

impl Bounds {
    /// Replaces them.
    pub fn set(&self, bounds: Vec<(String, u64)>) {
        *self.0.lock() = bounds;
    }
}

/// What a scrape is made of.
#[derive(Debug)]
pub struct Sources {
    /// The counters of each reactor.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// The TCB table.
    pub tcbs: Arc<TcbTable>,
    /// The bounds in force.
    pub limits: Arc<Bounds>,
    /// What the log has lost.
    pub log: Arc<Losses>,
    /// What the HTTP API counts.
    pub api: Arc<Counts>,
}

/// Makes scrapes.
pub struct Metrics {
    /// For callers on this machine, and for all others.
    registries: [Registry; 2],
}

impl Metrics {
    /// A scrape of these sources.
    pub fn new(sources: Sources) -> Self {
        let server = Arc::new(Server { sources, meter: Meter::default() });
        let registry = |local| {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(Scrape { server: Arc::clone(&server), local }));
            registry
        };
        Self { registries: [registry(false), registry(true)] }
    }

    /// The numbers as they are. `local`: for a caller on this machine.
    pub fn scrape(&self, local: bool, format: Format) -> String {
        let mut page = String::with_capacity(16 * 1024);
        text::encode(&mut page, &self.registries[usize::from(local)]).expect("a String takes every text");
        match format {
            Format::OpenMetrics => page,
            Format::Text => as_text(&page),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What both kinds of scrape share.
#[derive(Debug)]
struct Server {
    sources: Sources,
    meter: Meter,
}

#[derive(Debug)]
struct Scrape {
    server: Arc<Server>,
    local: bool,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let Sources { shards, tcbs, limits, log, api } = &self.server.sources;

        let counters: Vec<ShardCounters> = shards.iter().map(|shard| shard.read()).collect();
        let mut sum = ShardCounters::default();
        counters.iter().for_each(|counters| sum.add(counters));
        let numbers: Vec<_> = sum.iter().collect();
        for family in numbers.chunk_by(|(one, _), (next, _)| one.name == next.name) {
            let (first, value) = family[0];
            let label = first.label.map(|(name, _)| name);
            let metric = Metric { name: first.name, help: first.help, kind: first.kind, label };
            match label {
                None => out.one(&metric, value)?,
                Some(_) => {
                    let parts = family.iter().filter_map(|(part, value)| Some((part.label?.1, *value)));
                    out.by(&metric, parts)?;
                }
            }
        }

        out.by(&BUILD, [(env!("CARGO_PKG_VERSION"), 1)])?;
        out.one(&REACTORS, shards.len() as u64)?;
        let each = counters.iter().enumerate();
        out.by(&REACTOR_CONNECTIONS, each.map(|(id, counters)| (id.to_string(), counters.connections_open)))?;
        out.by(&LIMIT, limits.0.lock().iter().map(|(key, value)| (key, *value)))?;
        encode_tcbs(&mut out, tcbs)?;

        let meter = &self.server.meter;
        out.maybe(&PROCESS_RESIDENT, meter.resident_bytes())?;
        if self.local {
            out.maybe(&PROCESS_PROPORTIONAL, meter.proportional_bytes())?;
        }
        if let Some(kernel) = KernelTcp::read() {
            let states =
                [("all", kernel.sockets), ("orphan", kernel.orphans), ("time_wait", kernel.time_wait)];
            out.by(&KERNEL_SOCKETS, states)?;
            out.one(&KERNEL_BUFFERS, kernel.buffer_bytes)?;
        }
        out.by(&LOG_LINES_LOST, [("queue_full", log.queue_full()), ("write_failed", log.write_failed())])?;
        out.by(&API_REQUESTS, api.requests())?;
        out.one(&API_PUBLISHED, api.published_total())?;
        out.one(&API_REPEATED, api.repeated_total())?;
        out.by(&API_REFUSED, api.refusals())?;
        Ok(())
    }
}

fn encode_tcbs(out: &mut Out<'_>, tcbs: &TcbTable) -> fmt::Result {
    let stats = tcbs.stats();
    out.one(&TCB_CAPACITY, u64::from(stats.capacity))?;
    out.one(&TCB_IN_USE, u64::from(stats.in_use))?;
    let states = [
        (State::HalfOpen, stats.half_open),
        (State::Established, stats.established),
        (State::Closing, stats.closing),
        (State::TimeWait, stats.time_wait),
    ];
    out.by(&TCB_ENTRIES, states.map(|(state, count)| (state_name(state), u64::from(count))))?;
    out.one(&TCB_ADMITTED, stats.admitted_total)?;
    out.one(&TCB_REFUSED, stats.refused_total)?;
    out.one(&TCB_DUPLICATES, stats.duplicate_total)?;
    let totals = stats.time_wait_totals;
    let events = [
        ("entered", totals.entered),
        ("expired", totals.expired),
        ("reused", totals.reused),
        ("reopened", totals.reopened),
        ("overflowed", totals.overflowed),
    ];
    out.by(&TCB_TIME_WAIT, events)?;
    let parts =
        [("tcbs", stats.tcb_bytes), ("index", stats.index_bytes), ("time_wait", stats.time_wait_bytes)];
    out.by(&TCB_BYTES, parts)?;

    let mut chains = [0; CHAINS_SHOWN + 1];
    for (length, buckets) in stats.chains.iter() {
        chains[length.min(CHAINS_SHOWN)] += buckets;
    }
    let chains = chains.iter().enumerate().map(|(length, buckets)| {
        let more = if length == CHAINS_SHOWN { "+" } else { "" };
        (format!("{length}{more}"), *buckets)
    });
    out.by(&TCB_BUCKETS, chains)
}

/// The value of the label `state`.
fn state_name(state: State) -> &'static str {
    match state {
        State::HalfOpen => "half_open",
        State::Established => "established",
        State::Closing => "closing",
        State::TimeWait => "time_wait",
        State::Closed => "closed",
    }
}

/// Puts numbers under the names of their descriptions.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn one(&mut self, metric: &Metric, value: u64) -> fmt::Result {
        let name = name(metric);
        match metric.kind {
            Kind::Counter => {
                let counter = ConstCounter::new(value);
                counter.encode(self.0.encode_descriptor(&name, metric.help, None, counter.metric_type())?)
            }
            Kind::Gauge => {
                let gauge = ConstGauge::new(value);
                gauge.encode(self.0.encode_descriptor(&name, metric.help, None, gauge.metric_type())?)
            }
        }
    }

    fn maybe(&mut self, metric: &Metric, value: Option<u64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.one(metric, value))
    }

    fn by(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = (impl AsRef<str>, u64)>,
    ) -> fmt::Result {
        let name = name(metric);
        let label = metric.label.unwrap_or_default();
        let metric_type = match metric.kind {
            Kind::Counter => ConstCounter::new(0_u64).metric_type(),
            Kind::Gauge => ConstGauge::new(0_u64).metric_type(),
        };
        let mut family = self.0.encode_descriptor(&name, metric.help, None, metric_type)?;
        for (value_of_label, value) in values {
            let labels = [(label, value_of_label.as_ref())];
            encode_labelled(&mut family, metric.kind, &labels, value)?;
        }
        Ok(())
    }
}

fn encode_labelled(
    family: &mut MetricEncoder<'_>,
    kind: Kind,
    labels: &impl EncodeLabelSet,
    value: u64,
) -> fmt::Result {
    let encoder = family.encode_family(labels)?;
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        Kind::Gauge => ConstGauge::new(value).encode(encoder),
    }
}

/// The name in a descriptor: with the prefix, and for a counter without the `_total` that the encoder adds.
fn name(metric: &Metric) -> String {
    let name = match metric.kind {
        Kind::Counter => metric.name.trim_end_matches("_total"),
        Kind::Gauge => metric.name,
    };
    format!("{PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use super::*;
    use crate::metrics::CATALOGUE;
    use crate::tcb::{FourTuple, TableConfig};
    use crate::time::Tick;

    fn sources() -> Sources {
        let shards: Vec<Arc<ShardMetrics>> = (0..2).map(|_| Arc::default()).collect();
        shards[0].publish(&ShardCounters { upgrades_total: 3, connections_open: 2, ..Default::default() });
        shards[1].publish(&ShardCounters { upgrades_total: 4, connections_open: 5, ..Default::default() });
        let tcbs = Arc::new(TcbTable::new(TableConfig::sized(100, 1)));
        let tuple =
            FourTuple::new(SocketAddr::from(([127, 0, 0, 1], 80)), SocketAddr::from(([127, 0, 0, 1], 9)));
        tcbs.admit(tuple, Tick(0)).unwrap();
        let limits = Arc::new(Bounds::default());
        limits.set(vec![("stomp.headers_max".into(), 64)]);
        Sources { shards, tcbs, limits, log: Arc::default(), api: Arc::default() }
    }

    /// The samples of a scrape by name with labels.
    fn samples(page: &str) -> BTreeMap<&str, u64> {
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn reactors_are_summed_and_shown_apart() {
        let page = Metrics::new(sources()).scrape(true, Format::OpenMetrics);
        let samples = samples(&page);
        assert_eq!(samples["tcbchat_upgrades_total"], 7);
        assert_eq!(samples["tcbchat_connections_open"], 7);
        assert_eq!(samples["tcbchat_reactors"], 2);
        assert_eq!(samples["tcbchat_reactor_connections{reactor=\"1\"}"], 5);
        assert_eq!(samples["tcbchat_limit{key=\"stomp.headers_max\"}"], 64);
        assert_eq!(samples["tcbchat_tcb_capacity"], 100);
        assert_eq!(samples["tcbchat_tcb_entries{state=\"half_open\"}"], 1);
        assert_eq!(samples["tcbchat_tcb_time_wait_total{event=\"entered\"}"], 0);
        assert_eq!(samples["tcbchat_tcb_buckets{chain_length=\"0\"}"], 99);
        assert_eq!(samples["tcbchat_tcb_buckets{chain_length=\"1\"}"], 1);
        assert!(samples["tcbchat_process_proportional_bytes"] > 0);
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn the_older_format_describes_each_sample_by_its_own_name() {
        // One scrape in both formats: the kernel's numbers move between two.
        let open = Metrics::new(sources()).scrape(false, Format::OpenMetrics);
        let page = as_text(&open);
        assert!(page.contains("# TYPE tcbchat_upgrades_total counter\ntcbchat_upgrades_total 7\n"), "{page}");
        assert!(page.contains("# TYPE tcbchat_reactors gauge\ntcbchat_reactors 2\n"), "{page}");
        let described: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for sample in samples(&page).keys() {
            assert!(described.contains(&sample.split('{').next().unwrap()), "{sample}");
        }
        assert!(!page.contains("EOF") && page.ends_with('\n'));
        assert_eq!(samples(&page), samples(&open));
    }

    #[test]
    fn the_proportional_size_is_for_callers_on_this_machine() {
        assert!(!Metrics::new(sources()).scrape(false, Format::OpenMetrics).contains("proportional"));
    }

    #[test]
    fn a_scrape_and_the_catalogues_have_the_same_metrics() {
        let page = Metrics::new(sources()).scrape(true, Format::OpenMetrics);
        let samples: Vec<&str> = samples(&page).into_keys().collect();
        let shown: Vec<&str> = samples.iter().map(|name| name.split('{').next().unwrap()).collect();
        let shard =
            CATALOGUE.iter().map(|metric| (metric.name, metric.help, metric.label.map(|(name, _)| name)));
        let all: Vec<_> =
            shard.chain(SERVER.iter().map(|metric| (metric.name, metric.help, metric.label))).collect();
        for (name, help, label) in &all {
            let name = format!("{PREFIX}{name}");
            assert!(shown.contains(&name.as_str()), "{name} is not in the scrape");
            assert!(help.ends_with('.') && !help.contains(['"', '\\', '\n']), "{name}: {help}");
            if let Some(label) = label {
                assert!(samples.iter().any(|sample| sample.starts_with(&format!("{name}{{{label}="))));
            }
        }
        for name in shown {
            assert!(
                all.iter().any(|(known, ..)| name == format!("{PREFIX}{known}")),
                "{name} is not described"
            );
        }
    }
}
