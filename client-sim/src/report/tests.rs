//! A report of a run that never was: the verdict, and that every form of it says the same.

use crate::plan::{Machine, Plan, Wish};
use crate::worker::desk::histogram;

use super::*;

fn latency(us: &[u64]) -> Latency {
    let mut histogram = histogram();
    us.iter().for_each(|us| histogram.saturating_record(*us));
    Latency::of(&histogram)
}

fn sample(label: &'static str, server: u64, slab: u64) -> Sample {
    Sample {
        label,
        at_s: 1.0,
        server_pss_bytes: Some(server),
        server_pss_anonymous_bytes: Some(server),
        server_pss_file_bytes: None,
        server_page_table_bytes: None,
        simulator_pss_bytes: Some(1 << 20),
        slab_bytes: Some(slab),
        page_table_bytes: None,
        kernel_stack_bytes: None,
        tcp_buffer_bytes: Some(0),
        tcp_time_wait: Some(0),
        server_cpu_s: Some(1.0),
        server_threads: Some(3),
        server_switches_voluntary: Some(5),
        server_switches_involuntary: None,
        server_user_cpu_s: None,
        simulator_cpu_s: Some(1.0),
        simulator_user_cpu_s: None,
        caches: vec![Cache { name: "TCP".to_owned(), bytes: slab, objects: slab / 4096 }],
    }
}

fn chat() -> Chat {
    Chat {
        messages_asked: 10,
        messages_sent: 10,
        messages_unsent: 0,
        rate_asked_per_s: Some(1.0),
        window: None,
        in_flight_max: None,
        busy_poll: false,
        rate_sent_per_s: 1.0,
        payload_bytes: 128,
        rooms: 2,
        subscribers: 20,
        deliveries_expected: 100,
        deliveries_received: 100,
        lost: 0,
        duplicated: 0,
        out_of_order: 0,
        corrupted: 0,
        foreign: 0,
        subscribers_affected: 0,
        rooms_in_two_orders: 0,
        receipts_asked: 0,
        receipts_received: 0,
        latency_ms: latency(&[1000, 2000, 40_000]),
        cpu: None,
        deaf: Vec::new(),
    }
}

fn report() -> Report {
    let wish = Wish {
        connections: 20,
        destination: "127.0.0.1".parse().unwrap(),
        server_here: true,
        threads: Some(1),
        source_addresses: None,
        room_size: 10,
    };
    Report {
        schema: SCHEMA,
        scenario: "chat",
        version: "0",
        started_unix_s: 0,
        elapsed_s: 3.0,
        target: "ws://127.0.0.1:1/ws?a=<b>".to_owned(),
        server_ready_line: None,
        plan: Plan::new(&wish, &Machine::read()),
        connections: Connections {
            asked: 20,
            started: 20,
            ready: 20,
            failed: 0,
            set_up_s: 1.0,
            set_up_ms: latency(&[100, 200, 300]),
            set_up_service_ms: latency(&[100]),
            closed_by_server_first: 20,
            closed_by_client_first: 0,
        },
        memory: Memory::of(
            vec![
                sample("start", 1 << 20, 0),
                sample("held", (1 << 20) + 5120, 20 * 8192),
                sample("left", 1 << 20, 0),
            ],
            20,
            true,
        ),
        idle: Some(Idle { seconds: 4.0, heart_beats_sent_per_s: 37.0, ..Idle::default() }),
        chat: Some(chat()),
        churn: None,
        leaving: Some(Leaving::of("server-stop", 20, Duration::from_secs(2))),
        failures: Vec::new(),
        series: vec![],
        verdict: Verdict::default(),
    }
}

#[test]
fn memory_is_growth_per_connection_and_the_kernels_is_shared_by_both_ends() {
    let report = report();
    let held = report.memory.held.unwrap();
    assert_eq!(held.server_user_bytes, Some(256.0));
    assert_eq!(held.kernel_slab_bytes_per_end, Some(4096.0));
    assert_eq!(held.page_table_bytes, None);
    assert_eq!((held.kernel_caches[0].bytes, held.kernel_caches[0].objects), (8192.0, 2.0));
    assert!(report.memory.after_chat.is_none());
}

#[test]
fn a_clean_run_passes() {
    let mut report = report();
    report.judge(0, Some(50.0));
    assert_eq!((report.verdict.exit_code, &report.verdict.reasons[..]), (0, &[][..]));
}

#[test]
fn each_fault_alone_fails_the_run() {
    let faults: [fn(&mut Report); 9] = [
        |report| report.connections.failed = 1,
        |report| report.chat.as_mut().unwrap().lost = 1,
        |report| report.chat.as_mut().unwrap().duplicated = 1,
        |report| report.chat.as_mut().unwrap().out_of_order = 1,
        |report| report.chat.as_mut().unwrap().corrupted = 1,
        |report| report.chat.as_mut().unwrap().foreign = 1,
        |report| report.chat.as_mut().unwrap().rooms_in_two_orders = 1,
        |report| report.chat.as_mut().unwrap().messages_unsent = 1,
        |report| report.chat.as_mut().unwrap().latency_ms.p99 = 51.0,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        let mut report = report();
        fault(&mut report);
        report.judge(0, Some(50.0));
        assert_eq!((report.verdict.exit_code, report.verdict.reasons.len()), (1, 1), "fault {n}");
    }
}

#[test]
fn an_interrupted_run_keeps_its_own_code() {
    let mut verdict = Verdict::default();
    verdict.interrupt();
    verdict.fail("and more".to_owned());
    assert_eq!(verdict.exit_code, 130);
}

#[test]
fn buckets_hold_everything_once() {
    let latency = latency(&[1, 15, 16, 999, 1001, 1_000_000]);
    assert_eq!(latency.buckets.iter().map(|bucket| bucket.count).sum::<u64>(), latency.count);
    assert!(latency.buckets.windows(2).all(|pair| pair[0].to_ms <= pair[1].from_ms + 1e-9));
    assert!(latency.p50 <= latency.p99 && latency.p99 <= latency.max);
}

#[test]
fn the_page_is_self_contained_and_escaped() {
    let page = html::render(&report());
    assert!(page.contains("ws://127.0.0.1:1/ws?a=&lt;b&gt;"));
    for outside in ["<script", "<link", "src=", "url(", "@import", "href"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn the_table_shows_user_and_kernel_memory_apart() {
    let table = table::render(&report());
    assert!(table.contains("256 B") && table.contains("4096 B"), "{table}");
    assert!(table.lines().any(|line| line.contains("page tables") && line.ends_with('-')), "{table}");
}
