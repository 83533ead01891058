//! The report as one page that needs nothing else: style, plots and tables inside.
//!
//! Invariant: the page refers to no other resource, and all text from outside is escaped.

use std::fs;
use std::io;
use std::path::Path;

use super::plot::{self, Series, escape};
use super::{Latency, PerConnection, Report, table};
use crate::progress::Point;

/// A count of the series.
type Count = fn(&Point) -> u64;

/// Points of the series over which a rate is taken.
const RATE_POINTS: usize = 5;

/// Writes the page.
///
/// # Errors
/// The file cannot be written.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    fs::write(path, render(report))
}

const STYLE: &str = include_str!("page.css");

/// Renders the page.
pub fn render(report: &Report) -> String {
    let passed = report.verdict.exit_code == 0;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>client-sim {0}</title><style>{STYLE}</style></head><body><main>\n\
         <header><h1>client-sim {0}</h1><p>{1}</p><p class=\"verdict {2}\">{3}</p></header>\n",
        report.scenario,
        escape(&report.plan.to_string()),
        if passed { "good" } else { "bad" },
        escape(&if passed { "passed".to_owned() } else { report.verdict.reasons.join("; ") }),
    );
    page += &cards(report);
    page += &section("Connections over time", &connections(report));
    page += &rate_section(
        report,
        "Connections made per second",
        "connections/s",
        &[("made", |point| point.ready)],
    );
    page += &rate_section(
        report,
        "Heart-beats per second",
        "heart-beats/s",
        &[("from the clients", |point| point.beats_sent), ("from the server", |point| point.beats_received)],
    );
    page += &rate_section(
        report,
        "Deliveries per second",
        "deliveries/s",
        &[("delivered", |point| point.delivered)],
    );
    if let Some(memory) = &report.memory.held {
        page += &section("Memory per connection", &memory_plot(memory, report.memory.after_chat.as_ref()));
    }
    if let Some(chat) = &report.chat {
        page += &latency_section("Delivery, from the intended send", &chat.latency_ms, "deliveries");
    }
    page += &latency_section("Set-up, from the intended connect", &report.connections.set_up_ms, "clients");
    if report.failures.is_empty() {
        page += &section("Failures by kind", "<p>None.</p>");
    } else {
        let rows: Vec<_> = report.failures.iter().map(|row| (row.class.as_str(), row.count as f64)).collect();
        page += &section("Failures by kind", &plot::bars(&rows));
    }
    page += &section("All numbers", &format!("<pre>{}</pre>", escape(table::render(report).trim())));
    page + "</main></body></html>\n"
}

fn section(title: &str, content: &str) -> String {
    format!("<section><h2>{}</h2>{content}</section>\n", escape(title))
}

fn cards(report: &Report) -> String {
    let mut cards = vec![
        (format!("{}", report.connections.ready), "connections".to_owned()),
        (format!("{}", report.connections.failed), "failures".to_owned()),
    ];
    if let Some(memory) = &report.memory.held {
        let bytes = |value: Option<f64>| value.map_or("-".to_owned(), |bytes| format!("{bytes:.0} B"));
        cards.push((bytes(memory.server_user_bytes), "server memory per connection".to_owned()));
        cards.push((bytes(memory.kernel_slab_bytes_per_end), "kernel memory per end".to_owned()));
    }
    if let Some(chat) = &report.chat {
        let faults = chat.lost + chat.duplicated + chat.out_of_order;
        cards.push((format!("{}", chat.deliveries_received), "deliveries".to_owned()));
        cards.push((format!("{faults}"), "lost, duplicated, out of order".to_owned()));
        cards.push((format!("{:.1} ms", chat.latency_ms.p99), "p99 delivery".to_owned()));
    }
    if let Some(us) = report.idle.as_ref().and_then(|idle| idle.server_us_per_heart_beat) {
        cards.push((format!("{us:.1} µs"), "server CPU per heart-beat".to_owned()));
    }
    if let Some(leaving) = &report.leaving {
        cards.push((format!("{:.1} s", leaving.seconds), "until all had gone".to_owned()));
    }
    if let Some(churn) = &report.churn {
        cards.push((format!("{:.0}/s", churn.cycles_per_s), "cycles".to_owned()));
    }
    let cards: String = cards
        .iter()
        .map(|(value, name)| format!("<div><b>{}</b><span>{}</span></div>", escape(value), escape(name)))
        .collect();
    format!("<div class=\"cards\">{cards}</div>\n")
}

fn connections(report: &Report) -> String {
    let curve = |value: fn(&crate::progress::Point) -> u64| {
        report.series.iter().map(|point| (point.at_s, value(point) as f64)).collect()
    };
    let mut series = vec![Series { name: "ready", points: curve(|point| point.open) }];
    if report.connections.failed > 0 {
        series.push(Series { name: "failed", points: curve(|point| point.failed) });
    }
    plot::lines(&series, "seconds", "connections")
}

/// How fast a count grew, smoothed over a few points; nothing when it did not.
fn rate_section(report: &Report, title: &str, unit: &str, counts: &[(&'static str, Count)]) -> String {
    let rates = |count: Count| -> Vec<(f64, f64)> {
        let grown = report.series.windows(RATE_POINTS).filter_map(|points| {
            let (first, last) = (points.first()?, points.last()?);
            let seconds = last.at_s - first.at_s;
            let rate = count(last).saturating_sub(count(first)) as f64 / seconds;
            (seconds > 0.0).then_some((last.at_s, rate))
        });
        grown.collect()
    };
    let series: Vec<_> = counts.iter().map(|(name, count)| Series { name, points: rates(*count) }).collect();
    if series.iter().all(|one| one.points.iter().all(|point| point.1 == 0.0)) {
        return String::new();
    }
    section(title, &plot::lines(&series, "seconds", unit))
}

/// One bar per end: user memory and kernel memory, side by side and never one number.
fn memory_plot(held: &PerConnection, after_chat: Option<&PerConnection>) -> String {
    fn parts(user: Option<f64>, kernel: Option<f64>) -> Vec<(&'static str, f64)> {
        [("user", user), ("kernel", kernel)]
            .into_iter()
            .filter_map(|(name, bytes)| Some((name, bytes?)))
            .collect()
    }
    let kernel = |memory: &PerConnection| memory.kernel_slab_bytes_per_end;
    let mut rows = vec![("server, held", parts(held.server_user_bytes, kernel(held)))];
    rows.extend(
        after_chat.map(|memory| ("server, after chat", parts(memory.server_user_bytes, kernel(memory)))),
    );
    rows.push(("simulator, held", parts(held.simulator_user_bytes, kernel(held))));
    plot::stacked(&rows, "B")
}

fn latency_section(title: &str, latency: &Latency, unit: &str) -> String {
    if latency.count == 0 {
        return String::new();
    }
    let bars: Vec<_> =
        latency.buckets.iter().map(|bucket| (bucket.from_ms, bucket.to_ms, bucket.count)).collect();
    let names = [("p50", latency.p50), ("p99", latency.p99), ("max", latency.max)]
        .map(|(name, ms)| (format!("{name} {ms:.1} ms"), ms));
    let marks: Vec<_> = names.iter().map(|(name, ms)| (name.as_str(), *ms)).collect();
    section(title, &plot::histogram(&bars, &marks, "milliseconds", unit))
}
