//! The report as text: aligned, for standard output.
//!
//! Invariant: a number that was not measured is a dash, never a zero.

use super::{Cpu, Latency, PerConnection, Report};

/// Renders the report.
pub fn render(report: &Report) -> String {
    let mut table = Table::default();
    let connections = &report.connections;
    table.title(&format!("client-sim {} against {}", report.scenario, report.target));
    if let Some(line) = &report.server_ready_line {
        table.row("server", line);
    }
    table.row("plan", &report.plan.to_string());
    table.row(
        "connections",
        &format!("{} asked, {} ready, {} failed", connections.asked, connections.ready, connections.failed),
    );
    if report.churn.is_none() && connections.set_up_s > 0.0 {
        let rate = connections.ready as f64 / connections.set_up_s;
        table.row("set-up", &format!("{:.1} s, {rate:.0} connections/s", connections.set_up_s));
    }
    table.latency("set-up ms, from intended", &connections.set_up_ms);
    table.latency("set-up ms, from connect", &connections.set_up_service_ms);
    table.row(
        "closed first by",
        &format!(
            "server {}, client {}",
            connections.closed_by_server_first, connections.closed_by_client_first
        ),
    );
    for (name, memory) in [
        ("held", &report.memory.held),
        ("after the chat", &report.memory.after_chat),
        ("once settled", &report.memory.settled),
    ] {
        if let Some(memory) = memory {
            table.memory(name, memory, report.memory.ends_on_this_machine);
        }
    }
    if let (Some(start), Some(left)) = (
        report.memory.samples.iter().find(|sample| sample.label == "start"),
        report.memory.samples.iter().find(|sample| sample.label == "left"),
    ) {
        let kept = start.server_pss_bytes.zip(left.server_pss_bytes).map(|(start, left)| {
            format!("{:.1} MiB above the start", (left as f64 - start as f64) / f64::from(1 << 20))
        });
        table.row("server after all left", kept.as_deref().unwrap_or("-"));
    }
    table.idle(report);
    table.chat(report);
    table.churn(report);
    table.leaving(report);
    table.cpu(report);
    table.failures(report);
    table.verdict(report);
    table.text
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn title(&mut self, title: &str) {
        self.text += &format!("\n{title}\n");
    }

    fn row(&mut self, name: &str, value: &str) {
        self.text += &format!("  {name:<28} {value}\n");
    }

    fn latency(&mut self, name: &str, latency: &Latency) {
        if latency.count > 0 {
            self.row(
                name,
                &format!(
                    "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
                    latency.p50, latency.p90, latency.p99, latency.p999, latency.max
                ),
            );
        }
    }

    fn memory(&mut self, name: &str, memory: &PerConnection, ends: u32) {
        let bytes = |value: Option<f64>| value.map_or("-".to_owned(), |bytes| format!("{bytes:.0} B"));
        self.title(&format!("memory per connection, {name} ({} connections)", memory.connections));
        self.row("server, user (PSS)", &bytes(memory.server_user_bytes));
        self.row("simulator, user (PSS)", &bytes(memory.simulator_user_bytes));
        let per_end = bytes(memory.kernel_slab_bytes_per_end);
        self.row("kernel slab, per end", &format!("{per_end} ({ends} end(s) on this machine)"));
        self.row("kernel page tables", &bytes(memory.page_table_bytes));
        self.row("kernel stacks", &bytes(memory.kernel_stack_bytes));
        self.row("kernel TCP buffers", &bytes(memory.tcp_buffer_bytes));
        for cache in memory.kernel_caches.iter().take(6) {
            self.row(
                &format!("  {}", cache.name),
                &format!("{:.0} B in {:.2} objects, all ends", cache.bytes, cache.objects),
            );
        }
    }

    fn idle(&mut self, report: &Report) {
        let Some(idle) = &report.idle else { return };
        let number = |value: Option<f64>, unit: &str| {
            value.map_or("-".to_owned(), |value| format!("{value:.1}{unit}"))
        };
        self.title(&format!("idle for {:.1} s, {} connections", idle.seconds, idle.connections));
        self.row(
            "heart-beats",
            &format!(
                "{:.0}/s from the clients, {:.0}/s from the server",
                idle.heart_beats_sent_per_s, idle.heart_beats_received_per_s
            ),
        );
        self.row(
            "CPU of a heart-beat",
            &format!(
                "server {}, simulator {}",
                number(idle.server_us_per_heart_beat, " us"),
                number(idle.simulator_us_per_heart_beat, " us")
            ),
        );
        let cores = |seconds: Option<f64>| number(seconds.map(|s| s / idle.seconds * 100.0), " %");
        if let Some(cpu) = &idle.cpu {
            self.row(
                "of one core",
                &format!("server {}, simulator {}", cores(cpu.server_s), cores(cpu.simulator_s)),
            );
        }
        self.row(
            "server's loops",
            &format!(
                "{} turns/s, {} timers/s, {} timers in a tick of 100 ms",
                number(idle.server_turns_per_s, ""),
                number(idle.server_timers_per_s, ""),
                number(idle.server_timers_per_tick, "")
            ),
        );
    }

    fn leaving(&mut self, report: &Report) {
        let Some(leaving) = &report.leaving else { return };
        let how = match leaving.how {
            "goodbye" => "everybody says goodbye",
            "close" => "everybody closes the socket",
            _ => "the server is stopped",
        };
        self.title(&format!("the end: {how}"));
        self.row("gone", &format!("after {:.1} s, {:.0} connections/s", leaving.seconds, leaving.per_s));
        self.row("ended", &format!("{} in order, {} cut off", leaving.in_order, leaving.cut_off));
        if let Some(seconds) = leaving.server_ended_s {
            self.row("server ended", &format!("after {seconds:.1} s"));
        }
        if let Some(line) = &leaving.server_said {
            self.row("server's last line", line);
        }
    }

    fn chat(&mut self, report: &Report) {
        let Some(chat) = &report.chat else { return };
        self.title(&format!("chat, {} rooms, {} subscribers", chat.rooms, chat.subscribers));
        let load = match (chat.rate_asked_per_s, chat.window.unwrap_or_default(), chat.in_flight_max) {
            (Some(rate), ..) => format!("of {rate:.0}/s"),
            (None, width, None) => format!("with {width} in flight per room"),
            (None, width, Some(all)) => format!("with {width} in flight per room, {all} in all"),
        };
        self.row(
            "messages",
            &format!(
                "{} sent of {}, {:.0}/s {}, {} B each",
                chat.messages_sent, chat.messages_asked, chat.rate_sent_per_s, load, chat.payload_bytes
            ),
        );
        self.row("deliveries", &format!("{} of {}", chat.deliveries_received, chat.deliveries_expected));
        self.row(
            "faults",
            &format!(
                "{} lost, {} duplicated, {} out of order, {} damaged, {} foreign, {} rooms in two orders",
                chat.lost,
                chat.duplicated,
                chat.out_of_order,
                chat.corrupted,
                chat.foreign,
                chat.rooms_in_two_orders
            ),
        );
        self.row("subscribers affected", &chat.subscribers_affected.to_string());
        if chat.receipts_asked > 0 {
            self.row("receipts", &format!("{} of {}", chat.receipts_received, chat.receipts_asked));
        }
        self.latency("delivery ms, from intended", &chat.latency_ms);
        for row in &chat.deaf {
            self.row("deaf subscribers", &format!("{} {} ({})", row.count, row.class, row.example));
        }
    }

    fn churn(&mut self, report: &Report) {
        let Some(churn) = &report.churn else { return };
        self.title("churn");
        self.row(
            "cycles",
            &format!(
                "{} of {}, {:.0}/s of {:.0}/s, {} started over 1 s late",
                churn.cycles_done,
                churn.cycles_asked,
                churn.cycles_per_s,
                churn.rate_asked_per_s,
                churn.cycles_late
            ),
        );
        if churn.messages_sent > 0 {
            self.row("own messages", &format!("{} of {}", churn.messages_echoed, churn.messages_sent));
            self.latency("own message ms", &churn.echo_ms);
        }
        let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
        self.row(
            "sockets in TIME_WAIT",
            &format!("{} before, {} after", count(churn.time_wait_before), count(churn.time_wait_after)),
        );
    }

    fn cpu(&mut self, report: &Report) {
        let acts = [
            ("set-up", "start", "ready", report.connections.ready, "connection"),
            (
                "chat",
                "held",
                "after-chat",
                report.chat.as_ref().map_or(0, |chat| chat.deliveries_received),
                "delivery",
            ),
            ("churn", "start", "left", report.churn.as_ref().map_or(0, |churn| churn.cycles_done), "cycle"),
        ];
        let mut titled = false;
        for (name, from, to, count, unit) in acts {
            let Some(cpu) = Cpu::between(&report.memory.samples, from, to).filter(|_| count > 0) else {
                continue;
            };
            if !titled {
                self.title("CPU");
                titled = true;
            }
            let each = |seconds: Option<f64>| {
                seconds.map_or("-".to_owned(), |s| {
                    format!("{s:.2} s ({:.1} us per {unit})", s * 1e6 / count as f64)
                })
            };
            let share = |part: Option<f64>, all: Option<f64>| {
                part.zip(all.filter(|all| *all > 0.0))
                    .map_or(String::new(), |(part, all)| format!(", {:.0} % user", part / all * 100.0))
            };
            let server = each(cpu.server_s) + &share(cpu.server_user_s, cpu.server_s);
            let simulator = each(cpu.simulator_s) + &share(cpu.simulator_user_s, cpu.simulator_s);
            self.row(name, &format!("server {server}; simulator {simulator}"));
        }
    }

    fn failures(&mut self, report: &Report) {
        if report.failures.is_empty() {
            return;
        }
        self.title("failures");
        for row in &report.failures {
            self.row(&row.class, &format!("{:>9}  {}", row.count, row.example));
        }
    }

    fn verdict(&mut self, report: &Report) {
        let verdict = &report.verdict;
        if verdict.exit_code == 0 {
            self.title("passed");
        } else {
            self.title(&format!("failed (exit code {}): {}", verdict.exit_code, verdict.reasons.join("; ")));
        }
    }
}
